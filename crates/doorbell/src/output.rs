//! Standard output that may go away: a reader like `head` that has seen enough is no reason to panic, or to stop measuring.

use std::io::{self, Write};

/// Writes text to standard output at once.
pub fn show(text: &str) {
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}
