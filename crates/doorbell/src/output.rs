//! Standard output and standard error, either of which may go away: a reader like `head` that has seen enough, or a `tee` that Ctrl-C
//! ended first, is no reason to panic, or to stop measuring.

use std::{
    fmt::Display,
    io::{self, Write},
};

/// Writes text to standard output at once.
pub fn show(text: &str) {
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// Writes a line to standard error.
pub fn tell(line: impl Display) {
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}
