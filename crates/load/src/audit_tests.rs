//! What the audit says of contexts in virtual time: that a good run passes, and that a tool which makes one of the known mistakes is
//! found out, by the check that is there for it.

use doorbell_result::{
    ContextResult, EndReason, RunResult, audit,
    document::{Check, Finding, Verdict},
};
use doorbell_spec::status::generic;

use crate::{
    context::{Context, Pass, Task},
    context_tests::{TIMES, silent, task},
    coverage::Kind,
    observer::Reporter,
    recorder::Defect,
    stop::Clock,
    test_queue::{Script, TestQueue, VirtualClock},
    worker::{Beside, Ending, Progress, Times, drive},
    workload::{Part, Pattern, Workload, generator},
};

const UNITS: u64 = 1 << 20;

/// A run whose I/Os take a tenth of its window, with warm-up, and with what a test changes.
struct Trial {
    task: Task,
    pattern: Pattern,
    /// What the load draws from, where that is not what the context was told.
    drawn: u64,
    defect: Option<Defect>,
    script: Script,
    times: Times,
    /// Ticks after which somebody asks to stop.
    stop_at: Option<u64>,
}

fn trial() -> Trial {
    let task = Task { part: Part { start: 0, end: UNITS }, ..task(64, 4096, 1 << 20, 0) };
    Trial {
        task,
        pattern: Pattern { random: true, read_percent: 70 },
        drawn: UNITS,
        defect: None,
        script: Script { delay: 10_000, poll: 40, ..Script::default() },
        times: Times { warm_up: 30_000, ..TIMES },
        stop_at: None,
    }
}

impl Trial {
    fn run(self) -> RunResult {
        let clock = VirtualClock::default();
        let (queue, _) = TestQueue::new(64, &clock, self.script);
        let reporter = Reporter::new(&silent, 1);
        let whole = Part { start: 0, end: self.drawn };
        let workload = Workload::new(self.pattern, self.drawn, whole, None, generator(9, 0, 0));
        let mut context = Context::new(self.task, workload, vec![queue], clock.clone(), &reporter).unwrap();
        context.recorder_mut().defect = self.defect;
        let ending = Ending::default();
        let (stop, at, stop_at) = (ending.stop.clone(), clock.clone(), self.stop_at);
        let mut each_pass = || {
            if stop_at.is_some_and(|stop_at| at.now() >= stop_at) && stop.requests() == 0 {
                stop.request();
            }
        };
        let beside = Beside { companion: Some(&mut each_pass), rest: None };
        let mut contexts: Vec<Box<dyn Pass + '_>> = vec![Box::new(context)];
        drive(&mut contexts, &clock, self.times, &ending, &Progress::default(), beside);
        let outcome = contexts.remove(0).finish();
        RunResult {
            io_size: 4096,
            ticks_per_second: 1e6,
            asked_ticks: self.times.time,
            end: outcome.end,
            contexts: vec![outcome.result],
            ..RunResult::default()
        }
    }

    fn defects(self) -> Vec<Check> {
        defects(&self.run())
    }
}

fn defects(run: &RunResult) -> Vec<Check> {
    let mut checks: Vec<Check> = failed(run).iter().map(|finding| finding.check).collect();
    checks.dedup();
    checks
}

fn failed(run: &RunResult) -> Vec<Finding> {
    audit::audit(run).into_iter().filter(|finding| finding.verdict == Verdict::Failed).collect()
}

#[test]
fn a_run_whose_ios_take_a_tenth_of_the_window_passes() {
    let run = trial().run();
    let mean = run.contexts[0].latency().sum as f64 / run.contexts[0].latency().count as f64;
    assert!((mean / TIMES.time as f64 - 0.1).abs() < 0.01, "{mean}");
    assert!(run.contexts[0].account.drained > 0 && run.contexts[0].account.warm_up > 0);
    assert_eq!(failed(&run), []);
    let audit = audit::audit(&run);
    let passed = |check| audit.iter().any(|finding| finding.check == check && finding.verdict == Verdict::Passed);
    for check in [Check::LittlesLaw, Check::Account, Check::Window, Check::Drain, Check::Errors, Check::Depth] {
        assert!(passed(check), "{check:?}: {audit:?}");
    }
    let sequential = Trial {
        pattern: Pattern { random: false, read_percent: 100 },
        task: Task { kind: Kind::Sequential, ..trial().task },
        ..trial()
    };
    assert_eq!(sequential.defects(), []);
    let failing = Script { fail_every: Some((7, generic::INTERNAL_ERROR)), ..trial().script };
    assert_eq!(Trial { script: failing, ..trial() }.defects(), [], "failed I/Os are no defect of the numbers");
    assert_eq!(Trial { stop_at: Some(70_000), ..trial() }.defects(), [], "nor is a run that was stopped");
}

#[test]
fn the_drain_counted_is_found() {
    let run = Trial { defect: Some(Defect::CountsDrain), ..trial() }.run();
    let finding = failed(&run).remove(0);
    assert_eq!(finding.check, Check::LittlesLaw);
    // All of the last I/Os ran over the end, by half of their time on average.
    assert!(finding.size.unwrap() > 0.02, "{finding:?}");
}

#[test]
fn the_warm_up_counted_is_found() {
    assert_eq!(Trial { defect: Some(Defect::CountsWarmUp), ..trial() }.defects(), [Check::LittlesLaw]);
}

#[test]
fn failed_ios_counted_as_done_are_found() {
    let script = Script { fail_every: Some((50, generic::INTERNAL_ERROR)), ..trial().script };
    assert_eq!(Trial { defect: Some(Defect::CountsFailed), script, ..trial() }.defects(), [Check::Errors]);
}

#[test]
fn a_stopped_run_divided_by_its_planned_time_is_found() {
    let stopped = Trial { defect: Some(Defect::PlansWindow), stop_at: Some(70_000), ..trial() };
    assert!(stopped.defects().contains(&Check::Window));
}

#[test]
fn a_wait_that_vanishes_from_latencies_is_found() {
    assert_eq!(Trial { defect: Some(Defect::StampsLate(2000)), ..trial() }.defects()[0], Check::LittlesLaw);
}

#[test]
fn ios_that_are_lost_are_found() {
    assert!(Trial { defect: Some(Defect::Loses(10)), ..trial() }.defects().contains(&Check::Account));
}

#[test]
fn a_depth_that_shrinks_is_found() {
    // As where a command that the device has no room for takes its place out of the load.
    let mute = Script { mute_after: Some(300), ..trial().script };
    let run = Trial { script: mute, ..trial() }.run();
    // Those that never come back are in flight; a tool that forgets them has a smaller depth.
    let mut forgetful = run.clone();
    forgetful.end = EndReason::Time;
    let context: &mut ContextResult = &mut forgetful.contexts[0];
    let forgotten = context.audit.in_flight_integral / 5;
    context.account.submitted -= context.account.abandoned;
    context.account.abandoned = 0;
    context.audit.in_flight_integral -= forgotten;
    context.audit.edges -= forgotten;
    assert_eq!(defects(&forgetful), [Check::Depth]);
}

#[test]
fn offsets_that_leave_half_of_the_range_out_or_start_over_are_found() {
    let many = || Trial { script: Script { delay: 2000, poll: 10, ..Script::default() }, ..trial() };
    assert_eq!(many().defects(), []);
    let half = Trial { drawn: UNITS / 2, ..many() };
    assert_eq!(half.defects(), [Check::Coverage, Check::Randomness]);
    // A sequence of 5000 offsets over and over: it looks random to every region.
    let mut run = many().run();
    run.contexts[0].coverage.period = Some(5000);
    assert_eq!(defects(&run), [Check::Randomness]);
    let backwards = Trial { task: Task { kind: Kind::Sequential, ..trial().task }, ..many() };
    assert_eq!(backwards.defects(), [Check::Coverage], "random where it should be sequential");
}

#[test]
fn cores_that_share_blocks_or_start_apart_are_found() {
    let sequential = || {
        let task = Task { kind: Kind::Sequential, ..trial().task };
        Trial { pattern: Pattern { random: false, read_percent: 100 }, task, ..trial() }.run()
    };
    let mut run = sequential();
    let mut second = sequential().contexts.remove(0);
    second.layout.first_block += second.layout.blocks;
    second.core = 1;
    run.contexts.push(second);
    assert_eq!(failed(&run), []);
    run.contexts[1].layout.first_block -= 1;
    assert_eq!(defects(&run), [Check::Coverage]);
    run.contexts[1].layout.first_block += 1;
    run.contexts[1].window_start += 60_000;
    assert_eq!(defects(&run), [Check::Window], "the first core has measured more than half alone");
}

#[test]
fn a_tool_that_is_the_bottleneck_and_clocks_that_disagree_are_found() {
    let mut run = trial().run();
    let given = run.contexts[0].completed() as f64 * 1e6 / run.contexts[0].window_ticks as f64;
    let worker = |head_room| doorbell_result::WorkerResult { core: 0, cpu_share: 1.0, head_room };
    let clock = |offset| doorbell_result::ClockOffset { core: 0, offset_ticks: offset, uncertain_ticks: 5.0 };
    run.workers = vec![worker(Some(40.0 * given))];
    run.clocks = vec![clock(-6.0)];
    assert_eq!(failed(&run), []);
    run.clocks = vec![clock(-8.0)];
    assert_eq!(defects(&run), [Check::Clocks]);
    (run.workers, run.clocks) = (vec![worker(Some(1.1 * given))], vec![clock(0.0)]);
    assert_eq!(defects(&run), [Check::HeadRoom]);
    run.workers = vec![worker(None)];
    assert_eq!(failed(&run), [], "what was not measured is no defect");
}

#[test]
fn the_layout_says_what_queues_carry() {
    let result = trial().run().contexts.remove(0);
    assert_eq!((result.layout.depth, result.layout.queues.len()), (64, 1));
    assert_eq!((result.layout.queues[0].depth, result.layout.queues[0].commands), (64, 64));
    assert_eq!((result.layout.first_block, result.layout.blocks), (0, UNITS * 8));
}
