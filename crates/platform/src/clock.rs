//! Raw time-stamp ticks, cheap enough for one read an I/O, and anchors that turn them into seconds.
//!
//! A run takes an [`Anchor`] at both ends of its window: the rate of the counter is what the system's monotonic clock says
//! passed between the two, so nothing is calibrated before the run and a wrong nominal frequency cannot bend a result.

use std::time::{Duration, Instant};

/// The processor's time-stamp counter: a monotonic count whose rate an [`Anchor`] pair tells.
#[inline(always)]
pub fn ticks() -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: RDTSC exists on every x86-64 processor and touches no memory.
        unsafe { core::arch::x86_64::_rdtsc() }
    }
    #[cfg(target_arch = "aarch64")]
    {
        let count: u64;
        // SAFETY: CNTVCT_EL0 is readable from user space on Linux and reading it has no side effect.
        unsafe { core::arch::asm!("mrs {}, cntvct_el0", out(reg) count, options(nomem, nostack)) };
        count
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        use std::sync::OnceLock;
        static START: OnceLock<Instant> = OnceLock::new();
        START.get_or_init(Instant::now).elapsed().as_nanos() as u64
    }
}

/// One moment on both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Anchor {
    /// The counter at that moment.
    pub ticks: u64,
    /// The system's monotonic clock at that moment.
    pub instant: Instant,
}

impl Anchor {
    /// Now, on both clocks. Of several readings the one whose two clocks stood closest together is kept.
    pub fn now() -> Self {
        (0..5)
            .map(|_| {
                let before = ticks();
                let instant = Instant::now();
                let after = ticks();
                (after.wrapping_sub(before), Self { ticks: before + after.wrapping_sub(before) / 2, instant })
            })
            .min_by_key(|(gap, _)| *gap)
            .expect("five readings")
            .1
    }

    /// Ticks a second between `self` and a later anchor; for anchors less than a millisecond apart it is inexact.
    pub fn ticks_per_second(&self, later: &Self) -> f64 {
        let seconds = later.instant.duration_since(self.instant).as_secs_f64();
        (later.ticks.wrapping_sub(self.ticks)) as f64 / seconds.max(1e-9)
    }
}

/// A counter whose rate is known well enough to plan with (about one part in ten thousand); results use anchors instead.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Anchor,
    rate: f64,
}

impl Clock {
    /// Measures the counter's rate since `start`, waiting until that lies at least 5 ms back.
    pub fn since(start: Anchor) -> Self {
        let least = Duration::from_millis(5);
        if let Some(rest) = least.checked_sub(start.instant.elapsed()) {
            std::thread::sleep(rest);
        }
        Self { start, rate: start.ticks_per_second(&Anchor::now()) }
    }

    /// Ticks a second.
    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// The ticks that `span` lasts.
    pub fn ticks_in(&self, span: Duration) -> u64 {
        (span.as_secs_f64() * self.rate) as u64
    }

    /// The anchor the rate was measured from.
    pub fn start(&self) -> Anchor {
        self.start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_and_the_monotonic_clock_agree() {
        let first = Anchor::now();
        let clock = Clock::since(first);
        std::thread::sleep(Duration::from_millis(30));
        let later = Anchor::now();
        let seconds = later.ticks.wrapping_sub(first.ticks) as f64 / clock.rate();
        let truth = later.instant.duration_since(first.instant).as_secs_f64();
        assert!((seconds / truth - 1.0).abs() < 0.02, "{seconds} s by ticks, {truth} s by the clock");
    }

    #[test]
    fn ticks_never_go_back_on_one_core() {
        let mut last = ticks();
        for _ in 0..10_000 {
            let now = ticks();
            assert!(now >= last);
            last = now;
        }
    }
}
