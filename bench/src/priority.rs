//! Pollers that the rest of the machine does not push aside.

use std::fs;

const FILE: &str = "/proc/self/autogroup";
/// Far enough above the default of 0 that other sessions hardly count.
const RAISED: &str = "-10";

/// While it lives, this session is raised above the others: plain niceness counts for little where the kernel groups processes by
/// session (sched_autogroup).
#[derive(Debug)]
pub struct Raised {
    before: Option<String>,
}

impl Raised {
    /// Raises the session; without the right to do so the measurement goes on as it is, and says so.
    pub fn new() -> Self {
        let before = fs::read_to_string(FILE).ok();
        let before = before.and_then(|text| text.trim().rsplit(' ').next().map(str::to_owned));
        match fs::write(FILE, RAISED) {
            Ok(()) => Self { before },
            Err(why) => {
                eprintln!("this session is not raised above the others ({FILE}: {why}): expect more noise");
                Self { before: None }
            }
        }
    }
}

impl Default for Raised {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = fs::write(FILE, before);
        }
    }
}
