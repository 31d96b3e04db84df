//! What the modes of `--timing` cost and are worth, in virtual time: what passes there is known.

use doorbell_queue::null::NullQueue;
use doorbell_result::{ContextResult, Timing};
use doorbell_spec::status::generic;

use crate::{
    context::{Context, Pass, Task},
    context_tests::{TIMES, silent, task, workload},
    observer::{Event, Observer, Reporter},
    stop::Tsc,
    test_queue::{Script, TestQueue, VirtualClock},
    worker::{Beside, Ending, Progress, Times, drive},
};

const MODES: [Timing; 4] = [Timing::Exact, Timing::Batch, Timing::Sampled(10), Timing::Off];

/// A run over queues of so many slots on that clock.
fn run(
    clock: &VirtualClock,
    task: Task,
    slots: &[u16],
    script: impl Fn() -> Script,
    observer: &Observer<'_>,
) -> ContextResult {
    let queues = slots.iter().map(|&slots| TestQueue::new(slots, clock, script()).0).collect();
    let reporter = Reporter::new(observer, 1);
    let context = Context::new(task, workload(true, 70, 9), queues, clock.clone(), &reporter).unwrap();
    let mut contexts: Vec<Box<dyn Pass + '_>> = vec![Box::new(context)];
    let beside = Beside { companion: None, rest: None };
    drive(&mut contexts, clock, TIMES, &Ending::default(), &Progress::default(), beside);
    contexts.remove(0).finish().result
}

#[test]
fn a_known_latency_is_found_and_the_account_adds_up_in_every_mode() {
    for timing in MODES {
        for (depth, slots) in [(1, &[8][..]), (64, &[64]), (64, &[16, 16, 16]), (300, &[64])] {
            let queued = f64::from(depth) / slots.iter().sum::<u16>().min(depth as u16) as f64;
            let task = Task { timing, ..task(depth, 4096, 1 << 20, 0) };
            let script = || Script { delay: 3000, poll: 40, ..Script::default() };
            let result = run(&VirtualClock::default(), task, slots, script, &silent);
            assert_eq!(result.account.missing(), 0);
            assert!(result.audit.difference() < 0.001, "{timing}: {:?}", result.audit);
            let mean_depth = result.audit.in_flight_integral as f64 / result.window_ticks as f64;
            assert!((mean_depth / f64::from(depth) - 1.0).abs() < 0.03, "{timing}: {mean_depth} of {depth}");
            let latency = result.latency();
            let expected = match timing {
                Timing::Exact | Timing::Batch => result.completed() as f64,
                Timing::Sampled(every) => result.completed() as f64 / f64::from(every),
                Timing::Off => 0.0,
            };
            assert!((latency.count as f64 - expected).abs() <= expected * 0.05 + 10.0, "{timing}: {}", latency.count);
            assert_eq!(latency.histogram.count(), latency.count);
            if timing != Timing::Off {
                // Found by the poll that comes next, sent after those of all batches; and a reading takes a tick.
                let (error, polls) = (result.precision.largest_error, 2 + slots.len() as u64);
                let late = 40 * polls + 4 * u64::from(depth);
                let most = ((3000 + late) as f64 * queued.ceil()) + error;
                assert!(latency.min as f64 >= 3000.0 - error, "{timing}: {} and {error}", latency.min);
                assert!(latency.max as f64 <= most, "{timing}, depth {depth}: {} of {most}", latency.max);
            }
        }
    }
}

#[test]
fn a_mode_reads_the_clock_as_often_as_it_says() {
    const IOS: u64 = 32_000;
    // A full batch in every poll, and no time but that of readings.
    for (timing, readings) in [
        (Timing::Exact, IOS),
        (Timing::Batch, 2 * IOS / 32),
        (Timing::Sampled(100), IOS / 32 + 2 * IOS / 100),
        (Timing::Off, IOS / 32),
    ] {
        let clock = VirtualClock::default();
        let task = Task { timing, limit: Some(IOS), ..task(32, 4096, 1 << 20, 0) };
        let result = run(&clock, task, &[32], Script::default, &silent);
        assert_eq!(result.account.measured, IOS, "{timing}");
        let made = crate::stop::Clock::now(&clock);
        // What a reading costs is found out first, by a few hundred of them.
        assert!((readings..readings + 400).contains(&made), "{timing}: {made} readings, {readings} expected");
        assert_eq!(result.precision.clock_cost, 1.0);
    }
}

#[test]
fn what_batches_cost_in_truth_is_stated() {
    // Two batches. The first command of the second one fails, and to tell of it takes so long, which those behind it in the batch wait.
    const TELLING: u64 = 10_000;
    let run = |timing| {
        let clock = VirtualClock::default();
        let slow = clock.clone();
        let observer = move |event: Event<'_>| {
            if matches!(event, Event::Error(_)) {
                slow.skip(TELLING);
            }
        };
        let task = Task { timing, limit: Some(64), ..task(32, 4096, 1 << 20, 0) };
        let script = || Script { fail_every: Some((33, generic::INTERNAL_ERROR)), delay: 900, ..Script::default() };
        let result = run(&clock, task, &[32], script, &observer);
        assert!(result.audit.difference() < 0.001, "{timing}: {:?}", result.audit);
        let latency = result.latency();
        let buckets = latency.histogram.buckets().filter(|bucket| bucket.end > TELLING);
        let waited: u64 = buckets.map(|bucket| bucket.count).sum();
        (latency, waited, result.precision.largest_error)
    };
    let (truth, waited, error) = run(Timing::Exact);
    assert_eq!((truth.count, waited, error), (63, 31, 1.0), "a reading");
    let (batch, waited, stated) = run(Timing::Batch);
    assert_eq!((batch.count, waited), (63, 0));
    // The other readings of both batches are what the truth has in excess here.
    let missed = truth.max - batch.max;
    assert!(missed.abs_diff(stated as u64) <= 64, "{missed} missed, {stated} stated");
    let (sampled, waited, error) = run(Timing::Sampled(4));
    assert!((1..sampled.count).contains(&waited) && error == 1.0, "{waited} of {}", sampled.count);
    assert!(truth.max - sampled.max <= 64, "{} for {}", sampled.max, truth.max);
}

#[test]
fn samples_do_not_keep_step_with_the_queues() {
    // Fewer I/Os than queues visit them in turn, so every fourth goes over the slow one: samples at a fixed distance would see it
    // always or never.
    let clock = VirtualClock::default();
    let queue = |delay| TestQueue::new(8, &clock, Script { delay, poll: 10, ..Script::default() }).0;
    let queues = vec![queue(8000), queue(100), queue(100), queue(100)];
    let reporter = Reporter::new(&silent, 1);
    let task = Task { timing: Timing::Sampled(8), limit: Some(4000), ..task(3, 4096, 1 << 20, 0) };
    let context = Context::new(task, workload(true, 70, 9), queues, clock.clone(), &reporter).unwrap();
    let mut contexts: Vec<Box<dyn Pass + '_>> = vec![Box::new(context)];
    let beside = Beside { companion: None, rest: None };
    let times = Times { time: u64::MAX / 4, ..TIMES };
    drive(&mut contexts, &clock, times, &Ending::default(), &Progress::default(), beside);
    let latency = contexts.remove(0).finish().result.latency();
    let slow: u64 = latency.histogram.buckets().filter(|bucket| bucket.end > 7000).map(|bucket| bucket.count).sum();
    let share = slow as f64 / latency.count as f64;
    assert!((480..=520).contains(&latency.count) && (0.18..0.32).contains(&share), "{share} of {}", latency.count);
}

#[test]
fn the_cost_of_a_reading_is_measured_where_the_worker_runs() {
    for timing in MODES {
        let reporter = Reporter::new(&silent, 1);
        let task = Task { timing, limit: Some(20_000), ..task(64, 4096, 1 << 20, 0) };
        let context = Context::new(task, workload(true, 70, 9), vec![NullQueue::new(64)], Tsc, &reporter).unwrap();
        let mut contexts: Vec<Box<dyn Pass + '_>> = vec![Box::new(context)];
        let times = Times { warm_up: 0, time: u64::MAX / 2, drain: u64::MAX / 2, hurried_drain: 0 };
        let beside = Beside { companion: None, rest: None };
        drive(&mut contexts, &Tsc, times, &Ending::default(), &Progress::default(), beside);
        let result = contexts.remove(0).finish().result;
        let precision = result.precision;
        assert!(precision.clock_cost > 0.1 && precision.clock_cost < 100_000.0, "{precision:?}");
        assert!(precision.largest_error >= precision.clock_cost || timing == Timing::Off, "{precision:?}");
        assert_eq!((result.account.measured, result.account.missing()), (20_000, 0));
        assert!(result.audit.difference() < 0.001, "{timing}: {:?}", result.audit);
    }
}
