//! The line that `doorbell perf` rewrites each second on a terminal (reference 3.1).

use std::fmt::Write;

/// What to write over the status line at the end of the warm-up.
pub const ERASE: &str = "\x1b[2K";

/// All cores since the previous line.
#[derive(Clone, Copy, Debug)]
pub struct StatusLine {
    /// The warm-up is still going on.
    pub warm_up: bool,
    /// I/Os completed.
    pub ios: u64,
    /// Bytes of an I/O.
    pub io_size: u32,
    /// Seconds since the previous line, above 0.
    pub seconds: f64,
    /// With `-m`: how many cores, and the share of their time that found completions, 0 to 100.
    pub busy: Option<(usize, f64)>,
}

impl StatusLine {
    /// The line with a carriage return, no line feed.
    pub fn text(&self) -> String {
        let iops = self.ios as f64 / self.seconds;
        let mib_per_second = iops * f64::from(self.io_size) / 1_048_576.0;
        let warm_up = if self.warm_up { "[warmup] " } else { "" };
        let mut text = format!("{warm_up}{iops:9.0} IOPS, {mib_per_second:8.2} MiB/s");
        if let Some((cores, percent)) = self.busy {
            // Writing to a String cannot fail.
            let _ = write!(text, "{cores:3} Core(s): {percent:6.2}% Busy");
        }
        text.push('\r');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout() {
        let mut line = StatusLine { warm_up: false, ios: 350_778, io_size: 4096, seconds: 1.0, busy: None };
        assert_eq!(line.text(), "   350778 IOPS,  1370.23 MiB/s\r");
        line.warm_up = true;
        line.busy = Some((2, 97.5));
        assert_eq!(line.text(), "[warmup]    350778 IOPS,  1370.23 MiB/s  2 Core(s):  97.50% Busy\r");
    }

    #[test]
    fn a_late_line_is_not_a_faster_one() {
        let late = StatusLine { warm_up: false, ios: 300, io_size: 1 << 20, seconds: 1.5, busy: None };
        assert_eq!(late.text(), "      200 IOPS,   200.00 MiB/s\r");
    }
}
