//! Contexts and the worker's loop over queues in memory, in virtual time.

use std::sync::{Arc, Mutex};

use doorbell_host::split::Split;
use doorbell_result::{EndReason, IoKind, Timing};
use doorbell_spec::status::generic;

use doorbell_platform::{Arena, Range};
use doorbell_queue::{Counters, Done, Down, Drain, IoQueue, Needs, Op, PrepareError, Slot, Wait, null::NullQueue};
use doorbell_spec::{
    command::{Command, control},
    protection::{Format, Guard},
};

use crate::{
    classes::Class,
    context::{Context, Outcome, Pass, Task},
    coverage::Kind,
    fill::Filling,
    lane::Geometry,
    metadata::{Carried, Protect},
    observer::{Event, Reporter},
    plan::{Shape, tests::shape},
    stop::{StopFlag, Tsc},
    test_queue::{Script, TestQueue, VirtualClock},
    worker::{Beside, Ending, Progress, Times, drive},
    workload::{Part, Pattern, Workload, generator},
};

pub(crate) const TIMES: Times = Times { warm_up: 0, time: 100_000, drain: 200_000, hurried_drain: 5_000 };
const UNITS: u64 = 1000;

pub(crate) fn silent(_: Event<'_>) {}

pub(crate) fn task(depth: u32, io_size: u32, max_transfer: u32, stripe: u32) -> Task {
    let split = Split::new(512, max_transfer, stripe, io_size);
    let class = |kind| Class::new(kind, io_size / 512, 512, split, 0);
    let classes = [IoKind::Read, IoKind::Write].map(class).into();
    let carried = Carried::of(&shape());
    let geometry = Geometry { nsid: 1, block_size: 512, carried, first_block: 0, io_unit: u32::MAX, classes };
    Task {
        name: "test".into(),
        path: "test, port 1".into(),
        core: 0,
        depth,
        alignment: 512,
        node: None,
        geometry,
        limit: None,
        max_completions: None,
        continue_on_error: true,
        timing: Timing::Exact,
        histogram: true,
        kind: Kind::Uniform,
        part: Part::of(UNITS, 0, 1),
        placed: false,
        unit: io_size / 512,
        fill: Filling::default(),
    }
}

pub(crate) fn workload(random: bool, read_percent: u8, seed: u64) -> Workload {
    let part = Part::of(UNITS, 0, 1);
    Workload::new(Pattern { random, read_percent }, UNITS, part, None, generator(seed, 0, 0))
}

/// A run of one context over test queues of the same script; `during` is called once a pass.
fn run(
    task: Task,
    slots: &[u16],
    script: impl Fn() -> Script,
    times: Times,
    during: &mut (dyn FnMut(&VirtualClock, &StopFlag) + Send),
) -> (Outcome, Vec<Arc<Mutex<Script>>>) {
    let clock = VirtualClock::default();
    let (queues, scripts): (Vec<_>, Vec<_>) = slots.iter().map(|&n| TestQueue::new(n, &clock, script())).unzip();
    let reporter = Reporter::new(&silent, 1);
    let context = Context::new(task, workload(true, 70, 9), queues, clock.clone(), &reporter).unwrap();
    let ending = Ending::default();
    let (stop, at) = (ending.stop.clone(), clock.clone());
    let mut each_pass = || during(&at, &stop);
    let beside = Beside { companion: Some(&mut each_pass), rest: None };
    let mut contexts: Vec<Box<dyn Pass + '_>> = vec![Box::new(context)];
    drive(&mut contexts, &clock, times, &ending, &Progress::default(), beside);
    (contexts.remove(0).finish(), scripts)
}

fn quiet(_: &VirtualClock, _: &StopFlag) {}

fn slow() -> Script {
    Script { delay: 12_000, poll: 40, ..Script::default() }
}

fn taken(scripts: &[Arc<Mutex<Script>>]) -> usize {
    scripts.iter().map(|script| script.lock().unwrap().taken.len()).sum()
}

#[test]
fn littles_law_holds_when_an_io_takes_a_tenth_of_the_window() {
    for (depth, slots) in [(64, 64), (1, 8), (300, 64)] {
        for warm_up in [0, 30_000] {
            let times = Times { warm_up, ..TIMES };
            let (outcome, scripts) = run(task(depth, 4096, 1 << 20, 0), &[slots], slow, times, &mut quiet);
            let result = outcome.result;
            assert_eq!(result.account.missing(), 0);
            assert!(result.audit.difference() < 0.001, "{:?}", result.audit);
            assert!(result.audit.residence() > 0 && result.window_ticks == TIMES.time);
            assert!(
                result.account.drained >= u64::from(depth),
                "what is in flight at the end is drained: {:?}",
                result.account
            );
            assert_eq!(result.account.warm_up > 0, warm_up > 0);
            assert_eq!(result.account.submitted as usize, taken(&scripts), "every I/O was sent once");
            assert_eq!((outcome.end, outcome.problems.len()), (EndReason::Time, 0));
            assert_eq!(result.latency().count, result.completed());
            // The tool's mean number in flight is the depth asked for.
            let mean = result.audit.in_flight_integral as f64 / result.window_ticks as f64;
            assert!((mean / f64::from(depth) - 1.0).abs() < 0.03, "{mean} in flight instead of {depth}");
        }
    }
}

#[test]
fn a_count_is_met_exactly_and_all_of_it_is_measured() {
    for (limit, depth) in [(1000, 64), (64, 64), (10, 64)] {
        let task = Task { limit: Some(limit), ..task(depth, 4096, 1 << 20, 0) };
        let script = || Script { delay: 500, poll: 20, ..Script::default() };
        let (outcome, scripts) = run(task, &[32, 32], script, TIMES, &mut quiet);
        let result = outcome.result;
        assert_eq!((result.account.submitted, result.account.measured), (limit, limit));
        assert_eq!((result.account.missing(), outcome.end), (0, EndReason::Count));
        assert_eq!(taken(&scripts) as u64, limit);
        assert!(result.window_ticks < TIMES.time && result.audit.difference() < 0.001);
    }
}

#[test]
fn time_ends_a_count_that_is_too_high() {
    let task = Task { limit: Some(1_000_000), ..task(8, 4096, 1 << 20, 0) };
    let (outcome, _) = run(task, &[8], slow, TIMES, &mut quiet);
    let account = outcome.result.account;
    assert_eq!((outcome.end, account.missing(), account.drained), (EndReason::Time, 0, 8));
}

#[test]
fn a_lost_queue_ends_the_context_with_the_reason_and_a_whole_account() {
    for depth in [16, 200] {
        let script = || Script { lost_after: Some(20), ..slow() };
        let (outcome, _) = run(task(depth, 4096, 1 << 20, 0), &[32, 32], script, TIMES, &mut quiet);
        let result = outcome.result;
        assert_eq!((outcome.end, result.account.missing()), (EndReason::Lost, 0));
        assert!(result.account.abandoned > 0 && result.window_ticks < TIMES.time, "{:?}", result.account);
        assert!(outcome.problems[0].contains("the test lost it"), "{:?}", outcome.problems);
        assert!(result.audit.difference() < 0.001, "{:?}", result.audit);
    }
}

#[test]
fn a_stop_ends_the_window_and_drains() {
    let mut once = |clock: &VirtualClock, stop: &StopFlag| {
        if crate::stop::Clock::now(clock) > 40_000 && stop.requests() == 0 {
            stop.request();
        }
    };
    let script = || Script { delay: 3000, poll: 40, ..Script::default() };
    let (outcome, _) = run(task(32, 4096, 1 << 20, 0), &[32], script, TIMES, &mut once);
    let result = outcome.result;
    assert_eq!((outcome.end, result.account.missing(), result.account.abandoned), (EndReason::Signal, 0, 0));
    assert!((39_000..42_000).contains(&result.window_ticks) && result.account.drained == 32, "{:?}", result.account);
    assert!(result.audit.difference() < 0.001);
}

#[test]
fn a_drain_has_a_deadline_and_a_second_stop_ends_it() {
    let script = || Script { delay: 1000, poll: 40, mute_after: Some(50), ..Script::default() };
    let (outcome, _) = run(task(8, 4096, 1 << 20, 0), &[8], script, TIMES, &mut quiet);
    let account = outcome.result.account;
    assert_eq!((account.missing(), account.abandoned), (0, 8), "{account:?}");
    assert!(outcome.problems[0].contains("8 I/Os are given up"), "{:?}", outcome.problems);

    let mut last = 0;
    let mut impatient = |clock: &VirtualClock, stop: &StopFlag| {
        last = crate::stop::Clock::now(clock);
        if last > 20_000 {
            stop.request();
        }
    };
    let (outcome, _) = run(task(8, 4096, 1 << 20, 0), &[8], script, TIMES, &mut impatient);
    assert_eq!((outcome.end, outcome.result.account.abandoned), (EndReason::Signal, 8));
    assert!(last < 21_000, "the second request ends the drain at once, not at {last}");
}

#[test]
fn failed_ios_are_in_no_rate() {
    let script =
        || Script { fail_every: Some((10, generic::INTERNAL_ERROR)), delay: 500, poll: 40, ..Script::default() };
    let (outcome, scripts) = run(task(16, 4096, 1 << 20, 0), &[16], script, TIMES, &mut quiet);
    let result = outcome.result;
    assert_eq!(result.account.missing(), 0);
    assert_eq!(result.failed(), (taken(&scripts) / 10) as u64);
    assert_eq!(result.errors().keys().collect::<Vec<_>>(), [&generic::INTERNAL_ERROR.to_string().as_str()]);
    assert_eq!(result.completed(), result.account.measured);
    assert!(result.audit.difference() < 0.001);
}

#[test]
fn a_namespace_out_of_reach_ends_the_context_unless_told_otherwise() {
    for status in [generic::INVALID_NAMESPACE, doorbell_spec::status::path::INTERNAL_PATH_ERROR] {
        let script = move || Script { fail_every: Some((50, status)), delay: 500, poll: 40, ..Script::default() };
        let strict = Task { continue_on_error: false, ..task(16, 4096, 1 << 20, 0) };
        let (outcome, _) = run(strict, &[16], script, TIMES, &mut quiet);
        assert_eq!((outcome.end, outcome.result.account.missing()), (EndReason::Lost, 0));
        let (outcome, _) = run(task(16, 4096, 1 << 20, 0), &[16], script, TIMES, &mut quiet);
        assert_eq!(outcome.end, EndReason::Time);
    }
}

#[test]
fn an_io_above_the_limits_is_one_tag_of_several_commands() {
    // I/Os of 64 KiB and 50 KiB in commands of 16 KiB at most, on queues with fewer slots than 8 such I/Os need, or one needs.
    for (slots, blocks, stripe) in [(20, 128, 0), (32, 128, 0), (3, 128, 0), (20, 100, 64), (80, 100, 64), (5, 100, 64)]
    {
        let script = || Script { delay: 100, poll: 40, ..Script::default() };
        let task = Task { limit: Some(200), ..task(8, blocks * 512, 16384, stripe) };
        let (outcome, scripts) = run(task, &[slots], script, TIMES, &mut quiet);
        assert_eq!((outcome.result.account.measured, outcome.result.account.missing()), (200, 0));
        let script = scripts[0].lock().unwrap();
        assert!(script.taken.iter().all(|op| op.blocks <= 32));
        assert_eq!(script.taken.iter().map(|op| u64::from(op.blocks)).sum::<u64>(), 200 * u64::from(blocks));
        if stripe > 0 {
            let crosses = |op: &&Op| op.slba / 64 != (op.slba + u64::from(op.blocks) - 1) / 64;
            assert_eq!(script.taken.iter().find(crosses), None);
        } else {
            assert_eq!(script.taken.len(), 200 * 4);
        }
        // Whatever slot carries a piece, its memory is as long as the piece.
        assert!(script.prepared.iter().all(|(_, ranges)| ranges.iter().map(|range| range.len).sum::<u32>() <= 16384));
    }
}

#[test]
fn memory_is_prepared_once_when_pieces_are_alike() {
    let script = || Script { delay: 500, poll: 40, ..Script::default() };
    let (_, scripts) = run(task(8, 65536, 16384, 0), &[16, 40], script, TIMES, &mut quiet);
    let mut ranges = Vec::new();
    for script in &scripts {
        let script = script.lock().unwrap();
        assert_eq!(script.prepared.len(), 16, "4 tags of 4 pieces, on either queue");
        ranges.extend(script.prepared.iter().map(|(_, ranges)| (ranges[0].offset, ranges[0].len)));
    }
    ranges.sort_unstable();
    assert!(ranges.windows(2).all(|pair| pair[0].0 + 16384 == pair[1].0), "pieces tile the buffers: {ranges:?}");
}

#[test]
fn the_io_unit_cuts_the_buffer() {
    let mut task = task(2, 10 * 512, 1 << 20, 0);
    task.geometry.io_unit = 2048;
    let (_, scripts) = run(task, &[2], slow, TIMES, &mut quiet);
    let lens: Vec<u32> = scripts[0].lock().unwrap().prepared[0].1.iter().map(|range| range.len).collect();
    assert_eq!(lens, [2048, 2048, 1024]);

    let mut too_fine = self::task(2, 65536, 1 << 20, 0);
    too_fine.geometry.io_unit = 512;
    let (queue, _) = TestQueue::new(2, &VirtualClock::default(), slow());
    let reporter = Reporter::new(&silent, 1);
    let error =
        Context::new(too_fine, workload(true, 100, 1), vec![queue], VirtualClock::default(), &reporter).err().unwrap();
    assert!(error.contains("128 ranges"), "{error}");
}

#[test]
fn buffers_are_on_the_node_asked_for_or_nowhere() {
    let make = |node| {
        let clock = VirtualClock::default();
        let (queue, _) = TestQueue::new(2, &clock, slow());
        let task = Task { node: Some(node), ..task(2, 4096, 1 << 20, 0) };
        let reporter = Reporter::new(&silent, 1);
        Context::new(task, workload(true, 100, 1), vec![queue], clock, &reporter).map(drop)
    };
    let error = make(1023).unwrap_err();
    assert!(error.contains("no memory on NUMA node 1023 (--enforce-numa) for 2 I/Os"), "{error}");
    // A kernel without nodes has none to bind to either.
    if std::path::Path::new("/sys/devices/system/node/node0").exists() {
        assert_eq!(make(0), Ok(()));
    }
}

#[test]
fn each_queue_keeps_its_share_of_the_ios_and_they_wait_in_order() {
    let script = || Script { delay: 500, poll: 40, ..Script::default() };
    let task = Task { limit: Some(3000), ..task(90, 4096, 1 << 20, 0) };
    let (_, scripts) = run(task, &[10, 10, 10], script, TIMES, &mut quiet);
    let mut expected = workload(true, 70, 9);
    let drawn: Vec<_> = (0..3000).map(|_| expected.draw()).map(|draw| (draw.offset, draw.read)).collect();
    let mut taken = 0;
    for (index, script) in scripts.iter().enumerate() {
        let got: Vec<_> = script.lock().unwrap().taken.iter().map(|op| (op.slba / 8, op.opcode == 2)).collect();
        let first: Vec<_> = drawn[..90].iter().copied().skip(index).step_by(3).collect();
        assert_eq!(got[..30], first, "queue {index}: its share of the first");
        let mut left = drawn.iter();
        assert!(got.iter().all(|io| left.any(|drawn| drawn == io)), "queue {index}: first issued, first sent");
        taken += got.len();
    }
    assert_eq!(taken, 3000);
}

#[test]
fn ios_that_are_fewer_than_the_queues_rotate_over_them() {
    let script = || Script { delay: 500, poll: 40, ..Script::default() };
    let task = Task { limit: Some(30), ..task(1, 4096, 1 << 20, 0) };
    let (_, scripts) = run(task, &[4, 4, 4], script, TIMES, &mut quiet);
    assert!(scripts.iter().all(|script| script.lock().unwrap().taken.len() == 10));
}

#[test]
fn a_seed_repeats_the_ios_whatever_the_timing() {
    let sequence = |delay| {
        let script = || Script { delay, poll: 7, ..Script::default() };
        let task = Task { limit: Some(500), ..task(16, 4096, 1 << 20, 0) };
        let (_, scripts) = run(task, &[16], script, TIMES, &mut quiet);
        let taken = &scripts[0].lock().unwrap().taken;
        taken.iter().map(|op| (op.slba, op.opcode)).collect::<Vec<_>>()
    };
    assert_eq!(sequence(10), sequence(999));
}

#[test]
fn no_more_than_the_limit_is_taken_from_a_queue_in_a_pass() {
    for limit in [1, 5, 33, 100] {
        let clock = VirtualClock::default();
        let script = Script { delay: 500, poll: 0, ..Script::default() };
        let (queue, _) = TestQueue::new(64, &clock, script);
        let reporter = Reporter::new(&silent, 1);
        let task = Task { max_completions: Some(limit), ..task(64, 4096, 1 << 20, 0) };
        let mut context = Context::new(task, workload(true, 70, 9), vec![queue], clock.clone(), &reporter).unwrap();
        context.begin(0, 1_000_000);
        clock.skip(1000);
        assert_eq!(context.pass().found, limit.min(64) as usize);
    }
}

#[test]
fn the_null_queue_accounts_for_every_io_in_real_time() {
    let reporter = Reporter::new(&silent, 1);
    for (slots, queues) in [(64, 1), (16, 3)] {
        let queues = (0..queues).map(|_| NullQueue::new(slots)).collect();
        let task = Task { limit: Some(20_000), ..task(64, 4096, 1 << 20, 0) };
        let context = Context::new(task, workload(true, 70, 9), queues, Tsc, &reporter).unwrap();
        let mut contexts: Vec<Box<dyn Pass + '_>> = vec![Box::new(context)];
        let times = Times { warm_up: 0, time: u64::MAX / 2, drain: u64::MAX / 2, hurried_drain: 0 };
        let beside = Beside { companion: None, rest: None };
        drive(&mut contexts, &Tsc, times, &Ending::default(), &Progress::default(), beside);
        let result = contexts.remove(0).finish().result;
        assert_eq!((result.account.measured, result.account.missing()), (20_000, 0));
        assert!(result.audit.difference() < 0.001);
    }
}

#[test]
fn wrong_protection_information_is_named_counted_and_a_problem() {
    let format = Format::new(1, Guard::Crc16, 0, 8, false).unwrap();
    let checks = control::PRCHK_GUARD | control::PRCHK_REF;
    for (extended, checks, wrong) in [(true, checks, true), (false, checks, true), (true, 0, false)] {
        let protect = Protect { by_controller: false, checks };
        let shape = Shape { metadata_size: 8, extended, protection: Some(format), protect, ..shape() };
        let carried = Carried::of(&shape);
        let mut task = Task { limit: Some(100), ..task(1, 4096, 1 << 20, 0) };
        task.geometry.carried = carried;
        task.geometry.block_size = carried.block;
        let clock = VirtualClock::default();
        let reporter = Reporter::new(&silent, 1);
        // The queue brings nothing: what was written before is what a read finds, and that was somewhere else.
        let mut queue = TestQueue::new(8, &clock, Script { delay: 500, poll: 20, ..Script::default() }).0;
        queue.block = carried.block;
        let queue = Apart(queue);
        let context = Context::new(task, workload(true, 50, 1), vec![queue], clock.clone(), &reporter).unwrap();
        let mut contexts: Vec<Box<dyn Pass + '_>> = vec![Box::new(context)];
        drive(
            &mut contexts,
            &clock,
            TIMES,
            &Ending::default(),
            &Progress::default(),
            Beside { companion: None, rest: None },
        );
        let outcome = contexts.remove(0).finish();
        assert_eq!((outcome.result.account.measured, outcome.result.account.missing()), (100, 0));
        let problems = outcome.problems.join("\n");
        assert_eq!(problems.contains("blocks that were read is wrong"), wrong, "{extended} {checks}: {problems}");
        assert_eq!(problems.contains("the reference tag of the block at LBA"), wrong, "{problems}");
        assert!(outcome.problems.len() <= 9);
    }
}

/// A test queue that takes metadata apart from the data.
struct Apart(TestQueue);

impl IoQueue for Apart {
    fn needs(&self) -> Needs {
        self.0.needs()
    }
    fn attach(&mut self, arena: &Arc<Arena>) -> Result<(), PrepareError> {
        self.0.attach(arena)
    }
    fn prepare(&mut self, slot: Slot, data: &[Range]) -> Result<(), PrepareError> {
        self.0.prepare(slot, data)
    }
    fn prepare_metadata(&mut self, _: Slot, metadata: Range) -> Result<(), PrepareError> {
        assert_eq!((metadata.len, metadata.offset % 8), (64, 0));
        Ok(())
    }
    fn submit(&mut self, ops: &[Op]) -> usize {
        assert!(ops.iter().all(|op| op.reference == op.slba));
        self.0.submit(ops)
    }
    fn submit_raw(&mut self, slot: Slot, command: &Command) -> bool {
        self.0.submit_raw(slot, command)
    }
    fn commit(&mut self) -> Result<doorbell_queue::Progress, Down> {
        self.0.commit()
    }
    fn reap(&mut self, done: &mut [Done]) -> Result<usize, Down> {
        self.0.reap(done)
    }
    fn stop(&mut self) {
        self.0.stop();
    }
    fn drained(&self) -> Drain {
        self.0.drained()
    }
    fn arm(&mut self) -> Result<Wait, Down> {
        self.0.arm()
    }
    fn counters(&self) -> Counters {
        self.0.counters()
    }
}
