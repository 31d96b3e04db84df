//! The request to stop, shared by signal handlers, the run and its workers; and the clock a worker reads.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Counts requests to stop a run: the first ends the load and drains, the second ends the drain at once.
#[derive(Clone, Debug, Default)]
pub struct StopFlag(Arc<AtomicUsize>);

impl StopFlag {
    /// Asks to stop, or once more to stop at once.
    pub fn request(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How often it was asked.
    #[inline]
    pub fn requests(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// Where a worker's time stamps come from; tests have one of their own.
pub(crate) trait Clock: Clone + 'static {
    /// Now, in ticks; it never goes back.
    fn now(&self) -> u64;
}

/// The processor's time-stamp counter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tsc;

impl Clock for Tsc {
    #[inline(always)]
    fn now(&self) -> u64 {
        doorbell_platform::clock::ticks()
    }
}
