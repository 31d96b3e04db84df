//! Standard output and standard error, either of which may go away: a reader like `head` that has seen enough, or a `tee` that Ctrl-C
//! ended first, is no reason to panic, or to stop measuring.

use std::{
    fmt::Display,
    io::{self, Write},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tracing::Level;

/// Standard output belongs to a result that is to stand there alone.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// From now on what would be shown on standard output goes to standard error.
pub fn leave_stdout() {
    TAKEN.store(true, Ordering::Relaxed);
}

/// Why standard output has lost something of what was shown.
static LOST: Mutex<Option<String>> = Mutex::new(None);

/// Writes text to standard output at once, or to standard error where standard output is taken.
pub fn show(text: &str) {
    if TAKEN.load(Ordering::Relaxed) {
        let _ = io::stderr().write_all(text.as_bytes());
        return;
    }
    let mut stdout = io::stdout().lock();
    // A reader that has seen enough is no loss.
    if let Err(why) = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())
        && why.kind() != io::ErrorKind::BrokenPipe
    {
        let lost = || format!("standard output cannot be written: {why}");
        LOST.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(lost);
    }
}

/// Why standard output lacks something that was shown, where it does.
pub fn lost() -> Option<String> {
    LOST.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Writes a line to standard error.
pub fn tell(line: impl Display) {
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Has what the crates below report shown on standard error, down to this level.
pub fn log(level: Level) {
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(io::stderr)
        .without_time()
        // It would tell standard error that standard error has gone away, and panic.
        .log_internal_errors(false)
        .init();
}
