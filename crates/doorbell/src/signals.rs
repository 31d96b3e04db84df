//! Ctrl-C, SIGTERM and a terminal that goes away: the first asks the run to end with what it has, the second leaves at once.

use std::{fs, io, sync::Arc, thread};

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ},
    flag,
    iterator::Signals,
};

use crate::scratch;

/// Exit status of a process that a second signal ended.
const SECOND_SIGNAL: i32 = 130;

/// Calls `end` at the first signal; at the second one the process exits with status 130.
///
/// # Errors
/// When the handlers cannot be installed.
pub fn on_signal(end: impl FnOnce() + Send + 'static) -> io::Result<()> {
    // A file that may not become larger is an I/O that fails, not the end of the process.
    flag::register(SIGXFSZ, Arc::default())?;
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    if !is_ignored(SIGHUP) {
        signals.add_signal(SIGHUP)?;
    }
    thread::Builder::new().name("signals".into()).spawn(move || {
        let mut end = Some(end);
        for _ in signals.forever() {
            match end.take() {
                Some(end) => end(),
                None => {
                    scratch::clear();
                    signal_hook::low_level::exit(SECOND_SIGNAL)
                }
            }
        }
    })?;
    Ok(())
}

/// Whether who started this process (nohup) has it ignore a signal.
fn is_ignored(signal: i32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}
