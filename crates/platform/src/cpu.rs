//! Cores: which there are, and keeping a thread on one.

use std::{io, time::Duration};

use rustix::{
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
    time::{ClockId, clock_gettime},
};

/// The cores this process may run on, ascending.
///
/// # Errors
/// What the system answered to the affinity query.
pub fn allowed() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|&core| set.is_set(core)).collect())
}

/// The cores of the machine that are online, ascending, whether or not the calling thread may run on them now.
///
/// # Errors
/// When /sys/devices/system/cpu/online cannot be read or holds no list.
pub fn online() -> io::Result<Vec<usize>> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/online")?;
    let part = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse::<usize>().ok()?..=last.parse().ok()?)
    };
    let ranges: Option<Vec<_>> = text.trim().split(',').map(part).collect();
    ranges.map(|ranges| ranges.into_iter().flatten().collect()).ok_or(io::ErrorKind::InvalidData.into())
}

/// Keeps the calling thread on `core` from now on.
///
/// # Errors
/// `InvalidInput` for a core that is not online or not allowed to this process.
pub fn pin(core: usize) -> io::Result<()> {
    if core >= CpuSet::MAX_CPU {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    pin_to(&[core])
}

/// Lets the calling thread run on any of `cores` (a housekeeping thread born on a pinned one inherits its single core).
///
/// # Errors
/// As [`pin`].
pub fn pin_to(cores: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for &core in cores.iter().filter(|&&core| core < CpuSet::MAX_CPU) {
        set.set(core);
    }
    Ok(sched_setaffinity(None, &set)?)
}

/// How long the calling thread has had a processor so far.
pub fn time_of_thread() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_sees_only_its_core() {
        let cores = allowed().unwrap();
        std::thread::spawn(move || {
            pin(cores[0]).unwrap();
            assert_eq!(allowed().unwrap(), [cores[0]]);
            pin_to(&cores).unwrap();
            assert_eq!(allowed().unwrap(), cores);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_thread_that_sleeps_has_no_processor() {
        let before = time_of_thread();
        std::thread::sleep(Duration::from_millis(50));
        let slept = time_of_thread() - before;
        assert!(slept < Duration::from_millis(25), "{slept:?}");
        while time_of_thread() - before < Duration::from_millis(2) + slept {}
    }

    #[test]
    fn allowed_cores_are_online() {
        let online = online().unwrap();
        assert!(allowed().unwrap().iter().all(|core| online.contains(core)));
    }

    #[test]
    fn a_core_that_is_not_there_is_an_error() {
        assert!(pin(CpuSet::MAX_CPU - 1).is_err());
        assert!(pin(usize::MAX).is_err());
    }
}
