//! Whether the clocks of two cores agree: before the start the run asks each worker what time it is, over memory they share, and takes
//! the answer that came back soonest. Series and windows are laid over each other by these clocks; latencies never mix two of them.

use std::{
    hint::spin_loop,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use doorbell_platform::clock::ticks;
use doorbell_result::ClockOffset;

/// Answers that are compared.
const ROUNDS: u64 = 64;
/// Longest time that a worker is asked, and that it answers.
const SPAN: Duration = Duration::from_millis(5);

/// What both sides share.
#[derive(Debug, Default)]
pub(crate) struct Question {
    /// Number of the round.
    asked: AtomicU64,
    answered: AtomicU64,
    time: AtomicU64,
}

impl Question {
    /// Answers until it is not asked any more, or the time for that is over.
    pub fn answer(&self) {
        let until = Instant::now() + SPAN * 2;
        let mut done = 0;
        while done < ROUNDS && Instant::now() < until {
            let round = self.asked.load(Ordering::Acquire);
            if round == u64::MAX {
                return;
            }
            if round != done {
                self.time.store(ticks(), Ordering::Relaxed);
                self.answered.store(round, Ordering::Release);
                done = round;
            }
            spin_loop();
        }
    }

    /// Asks; `None` when no answer came in time, as where both sides share a core.
    pub fn ask(&self, core: usize) -> Option<ClockOffset> {
        let until = Instant::now() + SPAN;
        let mut best: Option<ClockOffset> = None;
        'rounds: for round in 1..=ROUNDS {
            let before = ticks();
            self.asked.store(round, Ordering::Release);
            while self.answered.load(Ordering::Acquire) != round {
                if Instant::now() >= until {
                    break 'rounds;
                }
                spin_loop();
            }
            let after = ticks();
            let there = self.time.load(Ordering::Relaxed);
            let uncertain = after.wrapping_sub(before) as f64 / 2.0;
            let offset = there.wrapping_sub(before) as i64 as f64 - uncertain;
            if best.is_none_or(|best| uncertain < best.uncertain_ticks) {
                best = Some(ClockOffset { core, offset_ticks: offset, uncertain_ticks: uncertain });
            }
        }
        self.asked.store(u64::MAX, Ordering::Release);
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_agrees_with_itself_within_what_can_be_told() {
        let question = Question::default();
        // Who shares a core with the other may get no answer in time.
        let offset = std::thread::scope(|scope| {
            scope.spawn(|| question.answer());
            question.ask(3)
        });
        if let Some(offset) = offset {
            assert_eq!(offset.core, 3);
            assert!(offset.offset_ticks.abs() <= offset.uncertain_ticks, "{offset:?}");
        }
    }

    #[test]
    fn who_gets_no_answer_goes_on() {
        assert_eq!(Question::default().ask(0), None);
        let question = Question::default();
        question.asked.store(u64::MAX, Ordering::Relaxed);
        question.answer();
    }
}
