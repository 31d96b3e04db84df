//! Ctrl-C and SIGTERM: the first asks the run to end with what it has, the second leaves at once.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};

/// Exit status of a process that a second signal ended.
const SECOND_SIGNAL: i32 = 130;

/// Calls `end` at the first signal; at the second one the process exits with status 130.
///
/// # Errors
/// When the handlers cannot be installed.
pub fn on_signal(end: impl Fn() + Send + 'static) -> io::Result<Arc<AtomicBool>> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let seen = Arc::new(AtomicBool::new(false));
    let flag = seen.clone();
    thread::Builder::new().name("signals".into()).spawn(move || {
        for _ in signals.forever() {
            if flag.swap(true, Ordering::Relaxed) {
                signal_hook::low_level::exit(SECOND_SIGNAL);
            }
            end();
        }
    })?;
    Ok(seen)
}
