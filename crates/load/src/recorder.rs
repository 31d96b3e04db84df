//! What happened to the I/Os of one context, counted so that it can be checked: every I/O ends in exactly one column of the
//! account, and the number in flight is integrated apart from the time each I/O spent.
//!
//! The window is known before the first I/O is issued, so warm-up and drain need no reset: an I/O belongs where its two
//! stamps put it. All times are ticks of the worker's own clock.

use std::{collections::BTreeMap, sync::Arc};

use doorbell_result::{Account, Audit};
use doorbell_spec::status::Status;

use crate::slices::{Exchange, Slice};

/// The slowest I/Os that are kept.
const SLOWEST: usize = 16;

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
    errors: Errors,
    /// What is recorded into: all of the window, or a part of it when it is given away by and by.
    slice: Box<Slice>,
    /// Where it goes, and how long one is.
    series: Option<(Arc<Exchange>, u64)>,
    /// When the slice is full.
    slice_end: u64,
    /// The slowest I/Os, in no order, and the latency that one of them has to exceed when there are enough.
    slowest: Vec<Slow>,
    slow: u64,
    account: Account,
    audit: Audit,
    busy_ticks: u64,
    idle_ticks: u64,
    #[cfg(test)]
    pub defect: Option<Defect>,
}

/// A mistake that other tools have made with their numbers, made again so that the audit can be seen to find it.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Defect {
    /// What the drain completes is counted.
    CountsDrain,
    /// What was issued in the warm-up is counted.
    CountsWarmUp,
    /// What failed is counted.
    CountsFailed,
    /// The planned window stands for a shorter one.
    PlansWindow,
    /// The time before this many ticks had passed is left out of each latency, as when a stamp is taken anew.
    StampsLate(u64),
    /// Every so many I/Os one is forgotten.
    Loses(u64),
}

/// Failures by class and status.
#[derive(Debug, Default)]
pub(crate) struct Errors(Vec<(usize, Status, u64)>);

impl Errors {
    fn add(&mut self, class: usize, status: Status) {
        match self.0.iter_mut().find(|(of, known, _)| *of == class && known.is(status)) {
            Some((_, _, count)) => *count += 1,
            None => self.0.push((class, status, 1)),
        }
    }

    /// Those of a class.
    pub fn of(&self, class: usize) -> BTreeMap<String, u64> {
        let mut errors = BTreeMap::new();
        for (_, status, count) in self.0.iter().filter(|(of, _, _)| *of == class) {
            *errors.entry(Status::new(status.sct, status.sc).to_string()).or_default() += count;
        }
        errors
    }
}

/// An I/O that was among the slowest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slow {
    pub latency: u64,
    /// When it was issued, from the start of the window.
    pub issued: u64,
    pub class: usize,
    pub lba: u64,
    /// I/Os in flight when it was over, itself included.
    pub in_flight: u64,
}

/// What a recorder hands over at the end.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    pub window_start: u64,
    pub window_ticks: u64,
    /// What was recorded last, or all of it when nothing was given away.
    pub slice: Box<Slice>,
    pub errors: Errors,
    pub slowest: Vec<Slow>,
    pub account: Account,
    pub audit: Audit,
    pub busy_ticks: u64,
    pub idle_ticks: u64,
}

impl Recorder {
    /// For I/Os of so many classes, with or without a histogram of the latencies.
    pub fn new(classes: usize, histogram: bool) -> Self {
        Self {
            start: 0,
            end: u64::MAX,
            depth: 0,
            integrated: 0,
            polled: 0,
            polls: (0, 0),
            histogram,
            errors: Errors::default(),
            slice: Box::new(Slice::new(classes)),
            series: None,
            slice_end: u64::MAX,
            slowest: Vec::with_capacity(SLOWEST),
            slow: 0,
            account: Account::default(),
            audit: Audit::default(),
            busy_ticks: 0,
            idle_ticks: 0,
            #[cfg(test)]
            defect: None,
        }
    }

    /// Gives what it records away in slices of so many ticks, 1 or more.
    pub fn give_away(&mut self, exchange: Arc<Exchange>, interval: u64) {
        self.series = Some((exchange, interval));
    }

    /// Sets the window, before the first I/O: it is measured from `start` and ends before `end` at the latest.
    pub fn open(&mut self, now: u64, start: u64, end: u64) {
        (self.start, self.end, self.integrated, self.polled) = (start, end.max(start), start, now);
        if let Some((_, interval)) = self.series {
            self.slice_end = self.boundary(1, interval);
        }
    }

    /// Ends the window now if it has not ended yet.
    pub fn close(&mut self, now: u64) {
        #[cfg(test)]
        if self.defect == Some(Defect::PlansWindow) {
            return;
        }
        if now < self.end {
            self.advance(now);
            self.end = now;
            self.start = self.start.min(now);
            self.slice_end = self.slice_end.min(now);
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
        self.account.submitted
    }

    /// I/Os given up so far.
    pub fn given_up(&self) -> u64 {
        self.account.abandoned
    }

    /// Gives the slice away when its time is over.
    #[inline]
    pub fn slice(&mut self, now: u64) {
        if now >= self.slice_end {
            self.end_slice(now);
        }
    }

    #[cold]
    fn end_slice(&mut self, now: u64) {
        let Some((exchange, interval)) = self.series.clone() else { return };
        let within = now.min(self.end) - self.start;
        self.slice.end = within;
        self.slice.last = now >= self.end;
        self.slice.index = match self.slice.last {
            true => self.last_index(interval),
            // It may have taken several intervals.
            false => within / interval - 1,
        };
        self.slice_end = if self.slice.last { u64::MAX } else { self.boundary(within / interval + 1, interval) };
        if exchange.change(&mut self.slice) {
            self.slice.begin = within;
        }
    }

    /// The end of so many intervals; what would be left of the window behind it goes with them when it is next to nothing.
    fn boundary(&self, intervals: u64, interval: u64) -> u64 {
        let at = self.start.saturating_add(intervals.saturating_mul(interval));
        if self.end.saturating_sub(at) <= interval / 100 { self.end } else { at }
    }

    /// The place of a slice that ends with the window.
    fn last_index(&self, interval: u64) -> u64 {
        let most = (self.end - self.start).saturating_sub(interval / 100 + 1) / interval;
        most.max(self.slice.begin / interval)
    }

    /// A poll ended at `now`: the time since the previous one was busy if it found completions.
    #[inline]
    pub fn polled(&mut self, now: u64, found: bool) {
        let span = now - self.polled;
        let within = now.min(self.end).saturating_sub(self.polled.max(self.start));
        self.polled = now;
        if found {
            self.polls.0 += span;
            self.busy_ticks += within;
        } else {
            self.polls.1 += span;
            self.idle_ticks += within;
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
        self.account.submitted += 1;
    }

    /// Integrates the depth up to the time of a batch of completions, before [`Recorder::succeeded`] and its like take them
    /// out.
    #[inline]
    pub fn advance(&mut self, now: u64) {
        let to = now.min(self.end);
        if to > self.integrated {
            self.audit.in_flight_integral += u128::from(to - self.integrated) * u128::from(self.depth);
            self.integrated = to;
        }
    }

    /// An I/O of a class on the blocks from `lba` on, issued at `stamp`, ended well; its latency counts if it is `timed`.
    #[inline(always)]
    pub fn succeeded(&mut self, stamp: u64, now: u64, class: usize, lba: u64, timed: bool) {
        self.depth -= 1;
        #[cfg(test)]
        let (stamp, now) = match self.pretend(stamp, now) {
            Some(stamps) => stamps,
            None => return,
        };
        if stamp < self.start {
            self.account.warm_up += 1;
            self.edge(stamp, now);
        } else if now > self.end {
            self.account.drained += 1;
            self.edge(stamp, now);
        } else {
            self.account.measured += 1;
            let tally = &mut self.slice.tallies[class];
            tally.completed += 1;
            let (latency, ticks) = (&mut tally.latency, now - stamp);
            self.audit.counted += u128::from(ticks);
            if !timed {
                // It counts for the rates alone.
                return;
            }
            if self.histogram {
                latency.record(ticks);
            } else {
                latency.min = if latency.count == 0 { ticks } else { latency.min.min(ticks) };
                latency.max = latency.max.max(ticks);
                latency.sum += u128::from(ticks);
                latency.count += 1;
            }
            if ticks > self.slow {
                let in_flight = self.depth + 1;
                self.note_slow(Slow { latency: ticks, issued: stamp - self.start, class, lba, in_flight });
            }
        }
    }

    #[cold]
    fn note_slow(&mut self, io: Slow) {
        if self.slowest.len() < SLOWEST {
            self.slowest.push(io);
        } else if let Some(least) = self.slowest.iter_mut().min_by_key(|other| other.latency) {
            *least = io;
        }
        if self.slowest.len() == SLOWEST {
            self.slow = self.slowest.iter().map(|io| io.latency).min().unwrap_or(0);
        }
    }

    /// An I/O issued at `stamp` ended with an error status.
    #[cold]
    pub fn failed(&mut self, stamp: u64, now: u64, class: usize, status: Status) {
        #[cfg(test)]
        if self.defect == Some(Defect::CountsFailed) {
            return self.succeeded(stamp, now, class, 0, true);
        }
        self.left(stamp, now);
        self.account.failed += 1;
        self.slice.failed += u64::from(now <= self.end);
        self.errors.add(class, status);
    }

    /// An I/O issued at `stamp` is given up.
    #[cold]
    pub fn abandoned(&mut self, stamp: u64, now: u64) {
        self.left(stamp, now);
        self.account.abandoned += 1;
    }

    /// The sums. `end` stands for the window's end when nothing has closed it.
    pub fn finish(mut self, now: u64) -> Measured {
        self.close(now);
        self.advance(self.end);
        let window_ticks = self.end - self.start;
        self.slice.end = window_ticks;
        if let Some((_, interval)) = &self.series {
            (self.slice.index, self.slice.last) = (self.last_index(*interval), true);
        }
        self.slowest.sort_by_key(|io| std::cmp::Reverse(io.latency));
        Measured {
            window_start: self.start,
            window_ticks,
            slice: self.slice,
            errors: self.errors,
            slowest: self.slowest,
            account: self.account,
            audit: self.audit,
            busy_ticks: self.busy_ticks,
            idle_ticks: self.idle_ticks,
        }
    }

    #[inline]
    fn left(&mut self, stamp: u64, now: u64) {
        self.depth -= 1;
        self.edge(stamp, now);
    }

    /// An I/O is not counted, but was there.
    #[inline]
    fn edge(&mut self, stamp: u64, now: u64) {
        let within = now.min(self.end).saturating_sub(stamp.max(self.start));
        self.audit.edges += u128::from(within);
    }

    /// The stamps of an I/O that ended well as a tool with a defect takes them; `None` when it takes none.
    #[cfg(test)]
    fn pretend(&mut self, stamp: u64, now: u64) -> Option<(u64, u64)> {
        match self.defect {
            Some(Defect::CountsDrain) if now > self.end => self.count_all_the_same(stamp, now),
            Some(Defect::CountsWarmUp) if stamp < self.start && now <= self.end => self.count_all_the_same(stamp, now),
            Some(Defect::StampsLate(ticks)) => Some(((stamp + ticks).min(now), now)),
            Some(Defect::Loses(every)) if self.account.submitted.is_multiple_of(every) => None,
            _ => Some((stamp, now)),
        }
    }

    #[cfg(test)]
    fn count_all_the_same(&mut self, stamp: u64, now: u64) -> Option<(u64, u64)> {
        self.slice.tallies[0].completed += 1;
        self.account.measured += 1;
        self.audit.counted += u128::from(now - stamp);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use doorbell_spec::status::generic;

    #[test]
    fn an_io_belongs_where_its_stamps_put_it() {
        let mut recorder = Recorder::new(2, true);
        recorder.open(0, 100, 200);
        for stamp in [50, 90, 120, 130, 150, 160, 170] {
            recorder.issued(stamp);
        }
        recorder.advance(180);
        recorder.succeeded(50, 180, 0, 0, true);
        recorder.succeeded(120, 180, 0, 7, true);
        recorder.succeeded(130, 180, 1, 9, true);
        recorder.failed(150, 180, 0, generic::INVALID_FIELD.with_dnr());
        recorder.advance(230);
        recorder.succeeded(160, 230, 0, 0, true);
        recorder.succeeded(90, 230, 0, 0, true);
        recorder.abandoned(170, 230);
        let sums = recorder.finish(240);
        let account = sums.account;
        assert_eq!(
            account,
            Account { submitted: 7, measured: 2, warm_up: 2, drained: 1, failed: 1, abandoned: 1 },
            "what is warmed up, drained, failed or given up is in no rate"
        );
        assert_eq!(account.missing(), 0);
        assert_eq!((sums.window_ticks, sums.slice.tallies[0].completed, sums.slice.tallies[1].completed), (100, 1, 1));
        for (operation, ticks) in [(&sums.slice.tallies[0], 60), (&sums.slice.tallies[1], 50)] {
            let latency = &operation.latency;
            assert_eq!((latency.count, latency.min, latency.max, latency.sum), (1, ticks, ticks, ticks.into()));
        }
        let [read_errors, write_errors] = [0, 1].map(|class| sums.errors.of(class));
        assert_eq!(read_errors.into_iter().collect::<Vec<_>>(), [(generic::INVALID_FIELD.to_string(), 1)]);
        assert!(write_errors.is_empty());
        let slow = |latency, issued, class, lba, in_flight| Slow { latency, issued, class, lba, in_flight };
        assert_eq!(sums.slowest, [slow(60, 20, 0, 7, 6), slow(50, 30, 1, 9, 5)]);
        // 60 + 50 are counted; 80 + 100 (warm-up), 30 (failed), 40 + 30 (cut at 200) are not.
        assert_eq!(sums.audit, Audit { in_flight_integral: 390, counted: 110, edges: 280 });
    }

    #[test]
    fn a_window_closed_early_ends_there() {
        let mut recorder = Recorder::new(2, false);
        recorder.open(0, 100, 1000);
        recorder.issued(110);
        recorder.close(150);
        recorder.close(170);
        recorder.succeeded(110, 160, 0, 0, true);
        let sums = recorder.finish(2000);
        assert_eq!((sums.window_ticks, sums.account.drained, sums.slice.tallies[0].latency.count), (50, 1, 0));
        assert_eq!(sums.audit, Audit { in_flight_integral: 40, counted: 0, edges: 40 });

        let mut recorder = Recorder::new(2, false);
        recorder.open(0, 100, 1000);
        recorder.issued(10);
        recorder.close(50);
        recorder.succeeded(10, 60, 0, 0, true);
        let sums = recorder.finish(2000);
        assert_eq!(
            (sums.window_ticks, sums.account.measured),
            (0, 0),
            "stopped while warming up: nothing was measured"
        );
    }

    /// Index, begin, end and I/Os of what was given away, and of what is left.
    fn slices(end: u64, late: bool, close: Option<u64>) -> Vec<(u64, u64, u64, u64)> {
        let exchange = Exchange::new(2);
        let mut recorder = Recorder::new(2, true);
        recorder.give_away(exchange.clone(), 100);
        recorder.open(0, 1000, end);
        let mut all = Vec::new();
        let mut take = |slice: &Slice| all.push((slice.index, slice.begin, slice.end, slice.tallies[0].completed));
        for now in (0..end + 200).step_by(10) {
            close.filter(|&at| now == at).iter().for_each(|&at| recorder.close(at));
            recorder.issued(now);
            recorder.succeeded(now, now + 5, 0, 0, true);
            if !late || now % 250 == 0 {
                recorder.slice(now + 5);
            }
            exchange.collect(&mut take);
        }
        let rest = recorder.finish(end + 200).slice;
        assert!(rest.last);
        if rest.tallies[0].completed > 0 || rest.end > rest.begin {
            take(&rest);
        }
        all
    }

    #[test]
    fn slices_are_the_window_and_nothing_else() {
        assert_eq!(slices(1300, false, None), [(0, 0, 105, 11), (1, 105, 205, 10), (2, 205, 300, 9)]);
        assert_eq!(slices(1250, false, None), [(0, 0, 105, 11), (1, 105, 205, 10), (2, 205, 250, 4)]);
        assert_eq!(slices(1301, false, None).len(), 3, "a moment is no slice of its own");
        assert_eq!(slices(5000, false, Some(1120)), [(0, 0, 105, 11), (1, 105, 120, 1)]);
        let late = slices(1600, true, None);
        assert_eq!(late, [(1, 0, 255, 26), (4, 255, 505, 25), (5, 505, 600, 9)], "late ones hold more than their time");
    }

    #[test]
    fn a_slice_goes_on_when_nobody_takes_it() {
        let exchange = Exchange::new(2);
        let mut recorder = Recorder::new(2, true);
        recorder.give_away(exchange.clone(), 100);
        recorder.open(0, 0, 1000);
        for now in (0..1000).step_by(10) {
            recorder.issued(now);
            recorder.succeeded(now, now + 5, 0, 0, true);
            recorder.slice(now + 5);
        }
        let mut given = Vec::new();
        exchange.collect(&mut |slice: &Slice| given.push(slice.tallies[0].completed));
        let rest = recorder.finish(1000).slice;
        assert_eq!((given.len(), given.iter().sum::<u64>() + rest.tallies[0].completed), (3, 100));
        assert_eq!((rest.index, rest.end), (9, 1000));
    }

    #[test]
    fn the_slowest_are_kept() {
        let mut recorder = Recorder::new(2, true);
        recorder.open(0, 0, 1_000_000);
        let latencies: Vec<u64> = (0..1000).map(|index| 1 + index * 7919 % 1000).collect();
        for &ticks in &latencies {
            recorder.issued(1000);
            recorder.succeeded(1000, 1000 + ticks, 1, ticks, true);
        }
        let slowest = recorder.finish(2000).slowest;
        let expected: Vec<u64> = (985..=1000).rev().collect();
        assert_eq!(slowest.iter().map(|io| io.latency).collect::<Vec<_>>(), expected);
        assert!(
            slowest.iter().all(|io| io.lba == io.latency && io.issued == 1000 && io.class == 1 && io.in_flight == 1)
        );
    }

    #[test]
    fn busy_and_idle_time_lie_in_the_window() {
        let mut recorder = Recorder::new(2, false);
        recorder.open(0, 100, 200);
        for (now, found) in [(90, true), (120, true), (150, false), (190, true), (300, true), (400, false)] {
            recorder.polled(now, found);
        }
        let sums = recorder.finish(400);
        assert_eq!((sums.busy_ticks, sums.idle_ticks), (20 + 40 + 10, 30));
    }
}
