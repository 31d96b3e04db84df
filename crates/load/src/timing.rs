//! Which readings of the clock stamp an I/O (`--timing`). A context's loop is compiled for each [`Mode`], and chooses one a batch.

use std::{hint::black_box, marker::PhantomData};

use crate::stop::Clock;

/// A way to stamp.
pub(crate) trait Mode {
    /// Every I/O has a reading of its own: the one that ends it begins the next.
    const EACH: bool = false;
    /// The stamps of a batch share a reading.
    const SHARED: bool = false;
    /// The stamps of some I/Os have readings of their own.
    const SAMPLED: bool = false;
    /// Nothing but the load is wanted: no `--verify`, no protection information, no places of appends, no arrivals.
    const PLAIN: bool = true;
}

/// [`Timing::Exact`](doorbell_result::Timing::Exact).
pub(crate) struct Exact;
/// [`Timing::Batch`](doorbell_result::Timing::Batch).
pub(crate) struct Batch;
/// [`Timing::Sampled`](doorbell_result::Timing::Sampled).
pub(crate) struct Sampled;
/// [`Timing::Off`](doorbell_result::Timing::Off): I/Os are put in or out of the window by the one reading a pass makes anyway.
pub(crate) struct Off;

impl Mode for Exact {
    const EACH: bool = true;
}
impl Mode for Batch {
    const SHARED: bool = true;
}
impl Mode for Sampled {
    const SAMPLED: bool = true;
}
impl Mode for Off {}

/// The same with whatever else a load may want.
pub(crate) struct Full<M>(PhantomData<M>);

impl<M: Mode> Mode for Full<M> {
    const EACH: bool = M::EACH;
    const SHARED: bool = M::SHARED;
    const SAMPLED: bool = M::SAMPLED;
    const PLAIN: bool = false;
}

/// Calls a function of a [`Mode`] in the one that a context's load is in.
macro_rules! in_mode {
    ($context:ident.$function:ident($($argument:expr),*)) => {
        match ($context.task.timing, $context.plain) {
            (Timing::Exact, true) => $context.$function::<Exact>($($argument),*),
            (Timing::Batch, true) => $context.$function::<Batch>($($argument),*),
            (Timing::Sampled(_), true) => $context.$function::<Sampled>($($argument),*),
            (Timing::Off, true) => $context.$function::<Off>($($argument),*),
            (Timing::Exact, false) => $context.$function::<Full<Exact>>($($argument),*),
            (Timing::Batch, false) => $context.$function::<Full<Batch>>($($argument),*),
            (Timing::Sampled(_), false) => $context.$function::<Full<Sampled>>($($argument),*),
            (Timing::Off, false) => $context.$function::<Full<Off>>($($argument),*),
        }
    };
}
pub(crate) use in_mode;

/// Picks one of each N I/Os in a row, at a place that is drawn: at a fixed one the samples would keep step with what repeats in the
/// load, the queues in turn first of all.
#[derive(Debug)]
pub(crate) struct Sampler {
    every: u32,
    /// I/Os before the next sample.
    before: u32,
    /// I/Os behind it that are of the same N.
    behind: u32,
    state: u64,
}

impl Sampler {
    /// One of each `every` I/Os, 1 or more.
    pub fn new(every: u32, seed: u64) -> Self {
        let mut sampler = Self { every: every.max(1), before: 0, behind: 0, state: seed };
        sampler.place();
        sampler
    }

    /// Whether the next I/O is a sample.
    #[inline]
    pub fn picks(&mut self) -> bool {
        match self.before.checked_sub(1) {
            Some(before) => {
                self.before = before;
                false
            }
            None => {
                self.before = self.behind;
                self.place();
                true
            }
        }
    }

    fn place(&mut self) {
        // splitmix64, whose upper half is as random as this needs.
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let at = (((mixed >> 32) * u64::from(self.every)) >> 32) as u32;
        self.before += at;
        self.behind = self.every - 1 - at;
    }
}

/// What a reading of the clock takes on this core, in ticks; itself it takes a few microseconds. The best of several rounds: what
/// disturbs one only adds to it.
pub(crate) fn cost_of_reading(clock: &impl Clock) -> f64 {
    const READINGS: u64 = 32;
    let round = || {
        let begin = clock.now();
        let end = (0..READINGS).fold(begin, |_, _| black_box(clock.now()));
        (end - begin) as f64 / READINGS as f64
    };
    (0..8).map(|_| round()).fold(f64::INFINITY, f64::min)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_each_n_is_picked_and_not_always_the_same() {
        for every in [1, 2, 7, 64, 1000] {
            let mut sampler = Sampler::new(every, 7);
            let places: Vec<_> = (0..200)
                .map(|_| {
                    let picked: Vec<u32> = (0..every).filter(|_| sampler.picks()).collect();
                    assert_eq!(picked.len(), 1, "{picked:?} of {every}");
                    picked[0]
                })
                .collect();
            let mean = places.iter().sum::<u32>() as f64 / 200.0;
            let expected = f64::from(every - 1) / 2.0;
            assert!((mean - expected).abs() <= expected * 0.2, "{mean} of {every}");
        }
    }
}
