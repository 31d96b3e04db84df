//! Ctrl-C and SIGTERM: the first asks the run to end with what it has, the second leaves at once.

use std::{io, thread};

use signal_hook::{
    consts::{SIGINT, SIGTERM},
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
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
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
