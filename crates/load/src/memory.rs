//! Whether the machine has the memory that a run needs, asked before any is taken: a run must not end in the hands of the system's
//! memory killer, nor because the kernel does not pin what a device is to reach.

use doorbell_platform::{Sysfs, huge_pages::Pool, memlock};

use crate::{
    plan::{Access, RunOptions},
    verify::Verifier,
};

/// The buffers of a context.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Buffers {
    pub access: Access,
    pub count: u32,
    /// Bytes of each: data, metadata, and what alignment leaves free.
    pub bytes: u64,
}

impl Buffers {
    fn all(self) -> u64 {
        self.bytes.saturating_mul(self.count.into())
    }

    fn sum<'a>(of: impl Iterator<Item = &'a Self>) -> u64 {
        of.fold(0, |sum, one| sum.saturating_add(one.all()))
    }
}

/// Whether there is enough for the buffers of these contexts.
///
/// # Errors
/// What is missing, and what to change.
pub(crate) fn check(options: &RunOptions, contexts: &[Buffers]) -> Result<(), String> {
    let pools = Pool::all(&Sysfs::default());
    let huge = pools.iter().filter(|pool| pool.node.is_none()).map(|pool| pool.page.saturating_mul(pool.free)).sum();
    compare(options, contexts, available(), huge)?;
    let pinned =
        contexts.iter().filter(|one| matches!(one.access, Access::Pinned | Access::Registered | Access::Fixed));
    match Buffers::sum(pinned) {
        0 => Ok(()),
        bytes => memlock::reckon(bytes).map_err(|why| {
            let files = contexts.iter().any(|one| one.access == Access::Fixed);
            why + if files { "; --unregistered has files and devices of the kernel pin nothing for long" } else { "" }
        }),
    }
}

/// Whether there is enough for what each block of so many may hold (`--verify`), beside the buffers of these contexts.
///
/// # Errors
/// What is missing, and what to change.
pub(crate) fn check_ledger(contexts: &[Buffers], blocks: u64) -> Result<(), String> {
    let buffers = Buffers::sum(contexts.iter());
    compare_ledger(blocks, available().map(|available| available.saturating_sub(buffers)))
}

fn compare_ledger(blocks: u64, available: Option<u64>) -> Result<(), String> {
    let needed = Verifier::bytes(blocks);
    match available {
        Some(available) if needed > available => Err(format!(
            "--verify keeps {} MiB for what each of {blocks} blocks may hold, and the machine has {} MiB free beside the \
             buffers; give it less with --range",
            needed.div_ceil(1 << 20),
            available >> 20
        )),
        _ => Ok(()),
    }
}

/// `available` is what the system can give, where it says so, and `huge` what is set aside in free huge pages, both in bytes.
fn compare(options: &RunOptions, contexts: &[Buffers], available: Option<u64>, huge: u64) -> Result<(), String> {
    let Some(available) = available else { return Ok(()) };
    // Huge pages are for what others reach, and neither kind is for all.
    let within_reach = contexts.iter().any(|one| matches!(one.access, Access::Shared | Access::Pinned));
    let available = if within_reach { available.saturating_add(huge) } else { available };
    let (count, needed) = (contexts.len(), Buffers::sum(contexts.iter()));
    if needed > available {
        let largest = contexts.iter().map(|one| one.bytes).max().unwrap_or(0);
        return Err(format!(
            "{count} x {} buffers (-q) of {largest} bytes (-o, with metadata) are {} MiB, more than the {} MiB the machine has free; \
             lower -q or -o",
            options.io_depth,
            needed >> 20,
            available >> 20
        ));
    }
    if within_reach && options.memory > available {
        return Err(format!(
            "{} MiB of memory are asked for (-s), and the machine has {} MiB free, huge pages included; the buffers of this run need \
             {} MiB",
            options.memory >> 20,
            available >> 20,
            needed.div_ceil(1 << 20)
        ));
    }
    Ok(())
}

/// Bytes the system can give without swapping, where it says so.
fn available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::options;

    const MIB: u64 = 1 << 20;

    #[test]
    fn what_is_missing_is_said() {
        // 2 contexts of 256 MiB.
        let options = RunOptions { io_size: 1 << 20, io_depth: 256, memory: 600 * MIB, ..options() };
        let of = |access| Buffers { access, count: 256, bytes: MIB };
        let [own, shared] = [[Access::Own, Access::Registered], [Access::Own, Access::Shared]].map(|all| all.map(of));
        assert_eq!(compare(&options, &own, Some(512 * MIB), 0), Ok(()), "-s is for what others reach");
        assert_eq!(compare(&options, &shared, Some(300 * MIB), 300 * MIB), Ok(()));
        assert_eq!(compare(&options, &shared, None, 0), Ok(()));
        let few = compare(&options, &own, Some(500 * MIB), 300 * MIB).unwrap_err();
        assert!(
            few.starts_with("2 x 256 buffers (-q) of 1048576 bytes (-o, with metadata) are 512 MiB, more than the 500"),
            "{few}"
        );
        let larger = [own[0], Buffers { bytes: MIB + (64 << 10), ..own[1] }];
        assert!(compare(&options, &larger, Some(512 * MIB), 0).is_err(), "metadata counts");
        let asked = compare(&options, &shared, Some(500 * MIB), 50 * MIB).unwrap_err();
        let ledger = compare_ledger(1 << 28, Some(MIB << 10)).unwrap_err();
        assert!(ledger.starts_with("--verify keeps 2048 MiB for what each of 268435456 blocks"), "{ledger}");
        assert_eq!(compare_ledger(1 << 28, Some(MIB << 11)), Ok(()));
        assert!(asked.starts_with("600 MiB of memory are asked for (-s), and the machine has 550 MiB"), "{asked}");
    }
}
