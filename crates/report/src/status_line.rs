//! The line that `doorbell perf` rewrites each second on a terminal: as the original's (reference 3.1) where that ends, and then how
//! the run goes.

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
    /// How the run goes besides.
    pub course: Course,
}

/// What the line holds behind the part that the original has too.
#[derive(Clone, Copy, Debug, Default)]
pub struct Course {
    /// Seconds that the run takes yet, at most.
    pub left: f64,
    /// Median and 99th percentile of the latest slice in microseconds, where latencies are taken.
    pub latency: Option<(f64, f64)>,
    /// I/Os that failed so far.
    pub failed: u64,
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
        let Course { left, latency, failed } = self.course;
        if let Some((p50, p99)) = latency {
            let _ = write!(text, ", p50 {p50:.1} us, p99 {p99:.1} us");
        }
        let _ = write!(text, ", {failed} failed, {left:.0} s left\x1b[K\r");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout() {
        let mut line = StatusLine {
            warm_up: false,
            ios: 350_778,
            io_size: 4096,
            seconds: 1.0,
            busy: None,
            course: Course::default(),
        };
        assert_eq!(line.text(), "   350778 IOPS,  1370.23 MiB/s, 0 failed, 0 s left\x1b[K\r");
        line.warm_up = true;
        line.busy = Some((2, 97.5));
        line.course = Course { left: 12.4, latency: Some((104.25, 1530.0)), failed: 3 };
        let (own, more) =
            ("[warmup]    350778 IOPS,  1370.23 MiB/s  2 Core(s):  97.50% Busy", "p99 1530.0 us, 3 failed");
        assert_eq!(line.text(), format!("{own}, p50 104.2 us, {more}, 12 s left\x1b[K\r"));
    }

    #[test]
    fn a_late_line_is_not_a_faster_one() {
        let late = StatusLine {
            warm_up: false,
            ios: 300,
            io_size: 1 << 20,
            seconds: 1.5,
            busy: None,
            course: Course::default(),
        };
        assert!(late.text().starts_with("      200 IOPS,   200.00 MiB/s, "));
    }
}
