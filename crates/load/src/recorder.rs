//! What happened to the I/Os of one context, counted so that it can be checked: every I/O ends in exactly one column of the
//! account, and the number in flight is integrated apart from the time each I/O spent.
//!
//! The window is known before the first I/O is issued, so warm-up and drain need no reset: an I/O belongs where its two
//! stamps put it. All times are ticks of the worker's own clock.

use std::collections::BTreeMap;

use doorbell_result::{Account, Audit, LatencyStats};
use doorbell_spec::status::Status;

/// The counts of a context.
#[derive(Debug)]
pub(crate) struct Recorder {
    start: u64,
    end: u64,
    /// I/Os issued and not over.
    depth: u64,
    /// Up to here the depth is integrated.
    integrated: u64,
    polled: u64,
    /// Busy and idle ticks of the whole run.
    polls: (u64, u64),
    histogram: bool,
    errors: Vec<(Status, u64)>,
    measured: Measured,
}

/// What a recorder hands over at the end.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    pub window_ticks: u64,
    pub reads: u64,
    pub writes: u64,
    pub latency: LatencyStats,
    pub errors: BTreeMap<String, u64>,
    pub account: Account,
    pub audit: Audit,
    pub busy_ticks: u64,
    pub idle_ticks: u64,
}

impl Recorder {
    /// With or without a histogram of the latencies.
    pub fn new(histogram: bool) -> Self {
        Self {
            start: 0,
            end: u64::MAX,
            depth: 0,
            integrated: 0,
            polled: 0,
            polls: (0, 0),
            histogram,
            errors: Vec::new(),
            measured: Measured::default(),
        }
    }

    /// Sets the window, before the first I/O: it is measured from `start` and ends before `end` at the latest.
    pub fn open(&mut self, now: u64, start: u64, end: u64) {
        (self.start, self.end, self.integrated, self.polled) = (start, end.max(start), start, now);
    }

    /// Ends the window now if it has not ended yet.
    pub fn close(&mut self, now: u64) {
        if now < self.end {
            self.advance(now);
            self.end = now;
            self.start = self.start.min(now);
        }
    }

    /// End of the window as far as it is known.
    #[inline]
    pub fn end(&self) -> u64 {
        self.end
    }

    /// I/Os issued and not over.
    #[inline]
    pub fn depth(&self) -> u64 {
        self.depth
    }

    /// I/Os issued so far.
    #[inline]
    pub fn submitted(&self) -> u64 {
        self.measured.account.submitted
    }

    /// I/Os given up so far.
    pub fn given_up(&self) -> u64 {
        self.measured.account.abandoned
    }

    /// A poll ended at `now`: the time since the previous one was busy if it found completions.
    #[inline]
    pub fn polled(&mut self, now: u64, found: bool) {
        let span = now - self.polled;
        let within = now.min(self.end).saturating_sub(self.polled.max(self.start));
        self.polled = now;
        if found {
            self.polls.0 += span;
            self.measured.busy_ticks += within;
        } else {
            self.polls.1 += span;
            self.measured.idle_ticks += within;
        }
    }

    /// Busy and idle ticks so far, those outside the window included.
    #[inline]
    pub fn polls(&self) -> (u64, u64) {
        self.polls
    }

    /// An I/O was issued.
    #[inline]
    pub fn issued(&mut self, now: u64) {
        self.advance(now);
        self.depth += 1;
        self.measured.account.submitted += 1;
    }

    /// Integrates the depth up to the time of a batch of completions, before [`Recorder::succeeded`] and its like take them
    /// out.
    #[inline]
    pub fn advance(&mut self, now: u64) {
        let to = now.min(self.end);
        if to > self.integrated {
            self.measured.audit.in_flight_integral += u128::from(to - self.integrated) * u128::from(self.depth);
            self.integrated = to;
        }
    }

    /// An I/O issued at `stamp` ended well; its latency counts if it is `timed`.
    #[inline(always)]
    pub fn succeeded(&mut self, stamp: u64, now: u64, read: bool, timed: bool) {
        self.left(stamp, now);
        let account = &mut self.measured.account;
        if stamp < self.start {
            account.warm_up += 1;
        } else if now > self.end {
            account.drained += 1;
        } else {
            account.measured += 1;
            match read {
                true => self.measured.reads += 1,
                false => self.measured.writes += 1,
            }
            let (latency, ticks) = (&mut self.measured.latency, now - stamp);
            if !timed {
                // It counts for the rates alone.
            } else if self.histogram {
                latency.record(ticks);
            } else {
                latency.min = if latency.count == 0 { ticks } else { latency.min.min(ticks) };
                latency.max = latency.max.max(ticks);
                latency.sum += u128::from(ticks);
                latency.count += 1;
            }
        }
    }

    /// An I/O issued at `stamp` ended with an error status.
    #[cold]
    pub fn failed(&mut self, stamp: u64, now: u64, status: Status) {
        self.left(stamp, now);
        self.measured.account.failed += 1;
        match self.errors.iter_mut().find(|(known, _)| known.is(status)) {
            Some((_, count)) => *count += 1,
            None => self.errors.push((status, 1)),
        }
    }

    /// An I/O issued at `stamp` is given up.
    #[cold]
    pub fn abandoned(&mut self, stamp: u64, now: u64) {
        self.left(stamp, now);
        self.measured.account.abandoned += 1;
    }

    /// The sums. `end` stands for the window's end when nothing has closed it.
    pub fn finish(mut self, now: u64) -> Measured {
        self.close(now);
        self.advance(self.end);
        self.measured.window_ticks = self.end - self.start;
        for (status, count) in &self.errors {
            *self.measured.errors.entry(Status::new(status.sct, status.sc).to_string()).or_default() += count;
        }
        self.measured
    }

    #[inline]
    fn left(&mut self, stamp: u64, now: u64) {
        self.depth -= 1;
        let within = now.min(self.end).saturating_sub(stamp.max(self.start));
        self.measured.audit.residence += u128::from(within);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use doorbell_spec::status::generic;

    #[test]
    fn an_io_belongs_where_its_stamps_put_it() {
        let mut recorder = Recorder::new(true);
        recorder.open(0, 100, 200);
        for stamp in [50, 90, 120, 130, 150, 160, 170] {
            recorder.issued(stamp);
        }
        recorder.advance(180);
        recorder.succeeded(50, 180, true, true);
        recorder.succeeded(120, 180, true, true);
        recorder.succeeded(130, 180, false, true);
        recorder.failed(150, 180, generic::INVALID_FIELD.with_dnr());
        recorder.advance(230);
        recorder.succeeded(160, 230, true, true);
        recorder.succeeded(90, 230, true, true);
        recorder.abandoned(170, 230);
        let sums = recorder.finish(240);
        let account = sums.account;
        assert_eq!(
            account,
            Account { submitted: 7, measured: 2, warm_up: 2, drained: 1, failed: 1, abandoned: 1 },
            "what is warmed up, drained, failed or given up is in no rate"
        );
        assert_eq!(account.missing(), 0);
        assert_eq!((sums.window_ticks, sums.reads, sums.writes, sums.latency.count), (100, 1, 1, 2));
        assert_eq!((sums.latency.min, sums.latency.max, sums.latency.sum), (50, 60, 110));
        assert_eq!(sums.errors.into_iter().collect::<Vec<_>>(), [(generic::INVALID_FIELD.to_string(), 1)]);
        // 80 + 100 (warm-up) + 60 + 50 + 30 (by 180) + 40 + 30 (cut at 200).
        assert_eq!(sums.audit, Audit { in_flight_integral: 390, residence: 390 });
    }

    #[test]
    fn a_window_closed_early_ends_there() {
        let mut recorder = Recorder::new(false);
        recorder.open(0, 100, 1000);
        recorder.issued(110);
        recorder.close(150);
        recorder.close(170);
        recorder.succeeded(110, 160, true, true);
        let sums = recorder.finish(2000);
        assert_eq!((sums.window_ticks, sums.account.drained, sums.latency.count), (50, 1, 0));
        assert_eq!(sums.audit, Audit { in_flight_integral: 40, residence: 40 });

        let mut recorder = Recorder::new(false);
        recorder.open(0, 100, 1000);
        recorder.issued(10);
        recorder.close(50);
        recorder.succeeded(10, 60, true, true);
        let sums = recorder.finish(2000);
        assert_eq!(
            (sums.window_ticks, sums.account.measured),
            (0, 0),
            "stopped while warming up: nothing was measured"
        );
    }

    #[test]
    fn busy_and_idle_time_lie_in_the_window() {
        let mut recorder = Recorder::new(false);
        recorder.open(0, 100, 200);
        for (now, found) in [(90, true), (120, true), (150, false), (190, true), (300, true), (400, false)] {
            recorder.polled(now, found);
        }
        let sums = recorder.finish(400);
        assert_eq!((sums.busy_ticks, sums.idle_ticks), (20 + 40 + 10, 30));
    }
}
