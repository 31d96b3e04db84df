//! What a process may pin. A device that reaches memory pins it, and the kernel charges that against RLIMIT_MEMLOCK: reckoned here
//! before the run, as the kernel's own answer is a bare "cannot allocate memory" in the middle of it.

use std::fs;

use rustix::process::{Resource, getrlimit};

/// Bytes that this process may pin in all; none without a limit.
pub fn limit() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    getrlimit(Resource::Memlock).current.filter(|_| !may_exceed(&status))
}

/// Whether this process may pin `bytes` more.
///
/// # Errors
/// A sentence: how much is missing, and the ways to raise the limit.
pub fn reckon(bytes: u64) -> Result<(), String> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    allow(bytes, locked(&status), limit())
}

fn allow(bytes: u64, locked: u64, limit: Option<u64>) -> Result<(), String> {
    let need = locked.saturating_add(bytes);
    let Some(limit) = limit.filter(|&limit| need > limit) else { return Ok(()) };
    let whole = need.div_ceil(1 << 20);
    Err(format!(
        "the device needs {} pinned and this process may pin {} (RLIMIT_MEMLOCK{}): {} are missing. Raise the limit to {whole} MiB or \
         more: `ulimit -l {}` in a shell whose hard limit allows it, `prlimit --memlock={}:{} --pid $$` as root for a shell that runs, \
         a line `USER - memlock {}` in /etc/security/limits.conf for every log-in, LimitMEMLOCK={whole}M for a systemd service; root \
         (CAP_IPC_LOCK) has no limit",
        mebibytes(bytes),
        mebibytes(limit.saturating_sub(locked)),
        if locked == 0 {
            String::new()
        } else {
            format!(": {}, of which {} are taken", mebibytes(limit), mebibytes(locked))
        },
        mebibytes(need - limit),
        whole << 10,
        whole << 20,
        whole << 20,
        whole << 10,
    ))
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// The value of a line of /proc/self/status.
fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// Whether the process has CAP_IPC_LOCK, which the limit does not bind.
fn may_exceed(status: &str) -> bool {
    const CAP_IPC_LOCK: u32 = 14;
    let effective = field(status, "CapEff").and_then(|mask| u64::from_str_radix(mask, 16).ok());
    effective.is_some_and(|mask| mask >> CAP_IPC_LOCK & 1 == 1)
}

/// Bytes that count against the limit already.
fn locked(status: &str) -> u64 {
    let kibibytes = field(status, "VmLck").and_then(|value| value.strip_suffix(" kB")?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) << 10
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tdoorbell\nVmLck:\t    2048 kB\nVmPin:\t       0 kB\nCapEff:\t0000000000000000\n";

    #[test]
    fn what_is_missing_is_told_with_the_ways_to_raise_it() {
        let limit = Some(8 << 20);
        assert_eq!(allow(8 << 20, 0, limit), Ok(()));
        assert_eq!(allow(u64::MAX, 0, None), Ok(()));
        let error = allow(20 << 20, 0, limit).unwrap_err();
        for part in [
            "needs 20.0 MiB",
            "may pin 8.0 MiB (RLIMIT_MEMLOCK)",
            "12.0 MiB are missing",
            "ulimit -l 20480",
            "memlock=20971520:",
        ] {
            assert!(error.contains(part), "{part}: {error}");
        }
        let error = allow(7 << 20, locked(STATUS), limit).unwrap_err();
        assert!(error.contains("may pin 6.0 MiB (RLIMIT_MEMLOCK: 8.0 MiB, of which 2.0 MiB are taken)"), "{error}");
        assert!(error.contains("1.0 MiB are missing") && error.contains("LimitMEMLOCK=9M"), "{error}");
    }

    #[test]
    fn who_may_lock_any_memory_has_no_limit() {
        assert!(!may_exceed(STATUS) && !may_exceed(""));
        assert!(may_exceed("CapEff:\t0000000000004000"));
        assert!(may_exceed("CapEff:\t000001ffffffffff"));
        assert!(!may_exceed("CapEff:\t0000000000002000"));
        assert!(fs::read_to_string("/proc/self/status").is_ok_and(|status| field(&status, "VmLck").is_some()));
    }
}
