//! Whether the clocks of two cores agree: before the start the run asks each worker what time it is, over memory they share, and takes
//! the answer that came back soonest. Series and windows are laid over each other by these clocks; latencies never mix two of them.

use std::{
    hint::spin_loop,
    sync::atomic::{AtomicU64, Ordering},
    thread::yield_now,
    time::{Duration, Instant},
};

use doorbell_platform::clock::ticks;
use doorbell_result::ClockOffset;

/// Answers that are compared.
const ROUNDS: u64 = 64;
/// Longest time that a worker is asked, and that it answers: a turn or two of another that polls the same core.
pub(crate) const SPAN: Duration = Duration::from_millis(20);
/// Looks in vain before the core is given to whoever wants it: the other side, where something else has the other core.
const LOOKS: u32 = 2000;

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
    pub fn answer(&self, span: Duration) {
        let mut done = 0;
        while done < ROUNDS {
            let Some(round) =
                wait(Instant::now() + span, || Some(self.asked.load(Ordering::Acquire)).filter(|&round| round != done))
            else {
                return;
            };
            if round == u64::MAX {
                return;
            }
            self.time.store(ticks(), Ordering::Relaxed);
            self.answered.store(round, Ordering::Release);
            done = round;
        }
    }

    /// Asks; `None` when no answer came in time.
    pub fn ask(&self, core: usize, span: Duration) -> Option<ClockOffset> {
        let until = Instant::now() + span;
        let mut best: Option<ClockOffset> = None;
        for round in 1..=ROUNDS {
            let before = ticks();
            self.asked.store(round, Ordering::Release);
            if wait(until, || (self.answered.load(Ordering::Acquire) == round).then_some(())).is_none() {
                break;
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

/// Looks until there is something to see, or the time is over.
fn wait<T>(until: Instant, look: impl Fn() -> Option<T>) -> Option<T> {
    loop {
        for _ in 0..LOOKS {
            if let Some(seen) = look() {
                return Some(seen);
            }
            spin_loop();
        }
        if Instant::now() >= until {
            return None;
        }
        yield_now();
    }
}

#[cfg(test)]
mod tests {
    use doorbell_platform::{
        clock::{Anchor, Clock},
        cpu,
    };

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[test]
    fn a_clock_agrees_with_itself_within_what_can_be_told() {
        let question = Question::default();
        let offset = std::thread::scope(|scope| {
            scope.spawn(|| question.answer(PATIENCE));
            question.ask(3, PATIENCE).unwrap()
        });
        assert_eq!(offset.core, 3);
        assert!(offset.offset_ticks.abs() <= offset.uncertain_ticks, "{offset:?}");
    }

    #[test]
    fn who_shares_a_core_with_the_other_makes_room_for_it() {
        let (question, core) = (Question::default(), cpu::allowed().unwrap()[0]);
        let offset = std::thread::scope(|scope| {
            scope.spawn(|| {
                cpu::pin(core).unwrap();
                question.answer(PATIENCE);
            });
            let asks = scope.spawn(|| {
                cpu::pin(core).unwrap();
                question.ask(core, PATIENCE).unwrap()
            });
            asks.join().unwrap()
        });
        // The best of all answers: a change of threads back and forth, not the turn of one of them.
        let rate = Clock::since(Anchor::now()).rate();
        assert!(offset.uncertain_ticks < rate / 1000.0, "{offset:?} at {rate} ticks a second");
    }

    #[test]
    fn who_gets_no_answer_goes_on() {
        let moment = Duration::from_millis(1);
        assert_eq!(Question::default().ask(0, moment), None);
        Question::default().answer(moment);
        let question = Question::default();
        question.asked.store(u64::MAX, Ordering::Relaxed);
        question.answer(PATIENCE);
    }
}
