//! The open loop (`--rate`): when I/Os arrive is planned in advance, and a context issues what is due. An arrival that finds all `-q`
//! I/Os in flight waits; its response time counts from the plan, so that a device that stalls is not spared the I/Os that would have
//! come meanwhile. Nothing here sleeps: a pass asks what is due, and the next pass is a moment later.

use std::collections::VecDeque;

use doorbell_result::{Arrival, OpenLoop};
use rand_xoshiro::{Xoshiro256PlusPlus, rand_core::Rng};

/// How often I/Os are to arrive (`--rate`, `--arrival`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Arrivals a second, above 0.
    pub per_second: f64,
    /// How they lie in time.
    pub arrival: Arrival,
    /// The rate is that of each worker instead of all together.
    pub each_worker: bool,
}

/// A context's plan: the time of each arrival follows from the seed and the number of the arrival alone.
#[derive(Debug)]
pub(crate) struct Schedule {
    arrival: Arrival,
    /// Mean distance of arrivals in ticks.
    interval: f64,
    /// Of the next arrival, in ticks from the beginning.
    offset: f64,
    /// Arrivals that come together with it.
    left: u32,
    random: Xoshiro256PlusPlus,
}

impl Schedule {
    /// Arrivals `interval` ticks apart in the mean, the first after `phase` (0 to 1) of that.
    pub fn new(arrival: Arrival, interval: f64, phase: f64, random: Xoshiro256PlusPlus) -> Self {
        let mut schedule = Self { arrival, interval, offset: interval * phase, left: 0, random };
        match arrival {
            Arrival::Fixed => {}
            // As long as between two others: nothing is known of what was before.
            Arrival::Poisson => schedule.offset = schedule.gap(),
            Arrival::Burst(count) => schedule.left = count.saturating_sub(1),
        }
        schedule
    }

    /// The next arrival, in ticks from the beginning.
    #[inline]
    pub fn next(&self) -> u64 {
        self.offset as u64
    }

    /// Goes on to the one behind it.
    #[inline]
    pub fn advance(&mut self) {
        match self.left.checked_sub(1) {
            Some(left) => self.left = left,
            None => {
                self.offset += self.gap();
                self.left = if let Arrival::Burst(count) = self.arrival { count.saturating_sub(1) } else { 0 };
            }
        }
    }

    #[inline]
    fn gap(&mut self) -> f64 {
        match self.arrival {
            Arrival::Fixed => self.interval,
            Arrival::Poisson => {
                // From above 0 to 1, whose logarithm is finite.
                let unit = ((self.random.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64;
                -unit.ln() * self.interval
            }
            Arrival::Burst(count) => self.interval * f64::from(count.max(1)),
        }
    }
}

/// The open loop of a context.
#[derive(Debug)]
pub(crate) struct Pacing {
    schedule: Schedule,
    /// When the plan begins, and when the window.
    begin: u64,
    start: u64,
    /// I/Os that are not in flight, with the queue that each goes to.
    free: VecDeque<(u32, u32)>,
    /// When each I/O in flight was planned to arrive.
    planned: Vec<u64>,
    /// Arrivals up to here found no free I/O.
    behind: u64,
    issued: u64,
    counts: OpenLoop,
}

impl Pacing {
    /// For `depth` I/Os; the plan has `rate` arrivals a second.
    pub fn new(schedule: Schedule, rate: f64, depth: u32) -> Self {
        let counts = OpenLoop { rate, arrival: schedule.arrival, ..OpenLoop::default() };
        Self {
            schedule,
            begin: 0,
            start: 0,
            free: VecDeque::with_capacity(depth as usize),
            planned: vec![0; depth as usize],
            behind: 0,
            issued: 0,
            counts,
        }
    }

    /// The plan begins now, the window at `start`.
    pub fn begin(&mut self, now: u64, start: u64) {
        (self.begin, self.start) = (now, start);
    }

    /// Nothing is in flight.
    pub fn refill(&mut self, queues: usize) {
        self.free.clear();
        self.free.extend((0..self.planned.len() as u32).map(|index| (index, index % queues.max(1) as u32)));
    }

    /// That I/O is over, and goes to that queue next.
    #[inline]
    pub fn over(&mut self, tag: u32, queue: u32) {
        self.free.push_back((tag, queue));
    }

    /// The I/O for an arrival that is due, and its queue.
    #[inline]
    pub fn next(&mut self, now: u64) -> Option<(u32, u32)> {
        let planned = self.begin + self.schedule.next();
        if planned > now {
            return None;
        }
        let Some(next) = self.free.pop_front() else {
            self.behind = now;
            return None;
        };
        self.planned[next.0 as usize] = planned;
        self.schedule.advance();
        self.counts.planned += u64::from(planned >= self.start);
        Some(next)
    }

    /// It was issued at `stamp`.
    #[inline]
    pub fn issued(&mut self, tag: u32, stamp: u64) {
        let planned = self.planned[tag as usize];
        if planned >= self.start {
            self.issued += 1;
            self.counts.late += u64::from(planned <= self.behind);
            self.counts.longest_lag = self.counts.longest_lag.max(stamp.saturating_sub(planned));
        }
    }

    /// It ended well at `now`; its response time counts if it is `timed`.
    #[inline]
    pub fn succeeded(&mut self, tag: u32, now: u64, timed: bool) {
        let planned = self.planned[tag as usize];
        if timed && planned >= self.start {
            self.counts.response.record(now.saturating_sub(planned));
        }
    }

    /// What came of it; the window ended at `end`, or no more I/Os were wanted from then on.
    pub fn finish(mut self, end: u64) -> OpenLoop {
        // What comes at the end itself is not of the window, however the two were rounded.
        while self.begin + self.schedule.next() + 1 < end {
            self.counts.planned += u64::from(self.begin + self.schedule.next() >= self.start);
            self.schedule.advance();
        }
        self.counts.dropped = self.counts.planned - self.issued;
        self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::generator;

    fn times(arrival: Arrival, phase: f64, seed: u64, count: usize) -> Vec<u64> {
        let mut schedule = Schedule::new(arrival, 1000.5, phase, generator(seed, 0, 0));
        let next = |schedule: &mut Schedule| {
            let next = schedule.next();
            schedule.advance();
            next
        };
        (0..count).map(|_| next(&mut schedule)).collect()
    }

    #[test]
    fn fixed_arrivals_keep_their_rate_however_odd_it_is() {
        let times = times(Arrival::Fixed, 0.5, 1, 1_000_001);
        assert_eq!((times[0], times[1], times[2]), (500, 1500, 2501));
        assert_eq!(times[1_000_000], 1_000_500_500);
    }

    #[test]
    fn bursts_come_together_and_keep_the_mean() {
        let times = times(Arrival::Burst(4), 0.0, 1, 4001);
        assert_eq!(times[..9], [0, 0, 0, 0, 4002, 4002, 4002, 4002, 8004]);
        assert_eq!(times[4000], 4_002_000);
    }

    #[test]
    fn poisson_arrivals_have_exponential_distances_and_repeat_with_the_seed() {
        const COUNT: usize = 200_000;
        let first = times(Arrival::Poisson, 0.0, 7, COUNT);
        assert_eq!(first, times(Arrival::Poisson, 0.0, 7, COUNT));
        assert_ne!(first, times(Arrival::Poisson, 0.0, 8, COUNT));
        let near = |value: f64, wanted: f64| assert!((value / wanted - 1.0).abs() < 0.02, "{value} for {wanted}");
        near(first[COUNT - 1] as f64 / COUNT as f64, 1000.5);
        let gaps: Vec<f64> = first.windows(2).map(|pair| (pair[1] - pair[0]) as f64).collect();
        let beyond = |gap: f64| gaps.iter().filter(|&&one| one > gap).count() as f64 / gaps.len() as f64;
        near(beyond(1000.5), (-1f64).exp());
        near(beyond(3001.5), (-3f64).exp());
    }

    #[test]
    fn what_waits_is_late_and_what_is_never_issued_is_dropped() {
        let mut pacing = Pacing::new(Schedule::new(Arrival::Fixed, 10.0, 0.0, generator(1, 0, 0)), 1.0, 2);
        pacing.begin(1000, 1020);
        pacing.refill(2);
        let step = |pacing: &mut Pacing, now| {
            let mut count = 0;
            while let Some((tag, _)) = pacing.next(now) {
                pacing.issued(tag, now);
                count += 1;
            }
            count
        };
        // Two of the warm-up; the window's first two wait for them.
        assert_eq!((step(&mut pacing, 1010), step(&mut pacing, 1031)), (2, 0));
        [0, 1].iter().for_each(|&tag| pacing.succeeded(tag, 1035, true));
        pacing.over(1, 1);
        pacing.over(0, 1);
        assert_eq!(pacing.next(1035), Some((1, 1)), "who was over first is the next, on the queue that it is told");
        pacing.issued(1, 1035);
        assert_eq!(step(&mut pacing, 1035), 1);
        [0, 1].iter().for_each(|&tag| pacing.succeeded(tag, 1045, true));
        pacing.over(0, 0);
        // Planned at 1040 and found one free.
        assert_eq!(step(&mut pacing, 1046), 1);
        pacing.succeeded(0, 1200, false);
        let counts = pacing.finish(1100);
        // 1020 to 1090.
        assert_eq!((counts.planned, counts.late, counts.dropped, counts.longest_lag), (8, 2, 5, 15));
        assert_eq!((counts.response.count, counts.response.sum), (2, 25 + 15));
    }
}
