//! Whole runs over queues in memory, with real threads and real time.

use std::{
    io::{Read, Write},
    os::{fd::AsRawFd, unix::net::UnixStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use doorbell_host::{self as host, PollGroup};
use doorbell_platform::{Arena, Range, cpu};
use doorbell_queue::{
    Counters, Done, Down, Drain, IoQueue, Needs, Op, PrepareError, Progress, Slot, Wait, null::NullQueue,
};
use doorbell_result::{EndReason, RunResult};
use doorbell_spec::command::Command;

use crate::{
    observer::Event,
    plan::{
        Limit, PollMode, RunOptions, Shape,
        tests::{options, shape},
    },
    port::{AnyQueue, Port},
    run::{Companion, run_on},
    stop::StopFlag,
};

type Connect = dyn Fn(u32) -> Result<Box<dyn IoQueue>, String> + Send + Sync;

struct TestPort {
    shape: Shape,
    connect: Box<Connect>,
    failure: Option<String>,
}

impl Port for TestPort {
    fn shape(&self) -> Shape {
        self.shape.clone()
    }
    fn transport(&self) -> Option<String> {
        Some("TEST".into())
    }
    fn connect(&self, entries: u32, _: &PollGroup) -> Result<AnyQueue, String> {
        (self.connect)(entries).map(|queue| AnyQueue::Driver(host::AnyQueue::Custom(queue)))
    }
    fn failure(&self) -> Option<String> {
        self.failure.clone()
    }
    fn events(&self) -> Vec<String> {
        Vec::new()
    }
    fn incarnation(&self) -> Option<u64> {
        Some(0)
    }
    fn attempts(&self) -> u32 {
        0
    }
    fn queue_lost(&self, _: u64, _: String) {}
    fn abort(&self, _: u64, _: u16, _: u16) {}
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

fn port(
    name: &str,
    connect: impl Fn(u32) -> Result<Box<dyn IoQueue>, String> + Send + Sync + 'static,
) -> Arc<dyn Port> {
    Arc::new(TestPort {
        shape: Shape { name: name.into(), path: name.into(), ..shape() },
        connect: Box::new(connect),
        failure: None,
    })
}

fn null(entries: u32) -> Result<Box<dyn IoQueue>, String> {
    Ok(Box::new(NullQueue::new(entries as u16 - 1)))
}

fn cores(most: usize) -> Vec<usize> {
    let mut cores = cpu::allowed().unwrap();
    cores.truncate(most);
    cores
}

/// A run of a fixed count of I/Os on one core, unless told otherwise.
fn base() -> RunOptions {
    RunOptions { cores: cores(1), number_ios: Some(Limit::Count(2000)), time: Duration::from_secs(3600), ..options() }
}

fn run(ports: Vec<Arc<dyn Port>>, options: &RunOptions) -> (RunResult, Vec<String>) {
    run_with(ports, options, None, &StopFlag::default())
}

/// The result and the events, as text.
fn run_with(
    ports: Vec<Arc<dyn Port>>,
    options: &RunOptions,
    companion: Option<Companion>,
    stop: &StopFlag,
) -> (RunResult, Vec<String>) {
    let events = Mutex::new(Vec::new());
    let observer = |event: Event<'_>| events.lock().unwrap().push(format!("{event:?}"));
    let result = run_on(ports, options, companion, stop, &observer);
    (result, events.into_inner().unwrap())
}

#[test]
fn every_pair_is_connected_run_and_accounted_for() {
    let cores = cores(2);
    let made = Arc::new(AtomicUsize::new(0));
    let counting = || {
        let made = made.clone();
        move |entries| {
            made.fetch_add(1, Ordering::Relaxed);
            null(entries)
        }
    };
    let options = RunOptions {
        cores: cores.clone(),
        qpairs: 2,
        unused_qpairs: 1,
        use_every_core: true,
        transport_stats: true,
        ..base()
    };
    let (result, events) = run(vec![port("a", counting()), port("b", counting())], &options);
    assert_eq!((result.end, &result.problems), (EndReason::Count, &vec![]));
    assert_eq!(made.load(Ordering::Relaxed), cores.len() * 2 * 3);
    let pairs: Vec<_> = result.contexts.iter().map(|context| (context.core, context.name.as_str())).collect();
    let expected: Vec<_> = cores.iter().flat_map(|&core| [(core, "a"), (core, "b")]).collect();
    assert_eq!(pairs, expected);
    for context in &result.contexts {
        assert_eq!((context.account.missing(), context.account.measured), (0, 2000));
        assert!(context.audit.difference() < 0.001 && context.window_ticks > 0);
        let counters = context.transport.as_ref().unwrap();
        assert_eq!(counters.transport, "TEST");
        assert!(counters.counters.contains(&("nvme_completions", 2000)), "{counters:?}");
    }
    assert!(result.ticks_per_second > 1e6);
    let associated = events.iter().filter(|event| event.starts_with("Associated")).count();
    assert_eq!((associated, events.last().unwrap().as_str()), (pairs.len(), "Launching"));
}

#[test]
fn time_warm_up_and_the_line_a_second() {
    let options = RunOptions {
        number_ios: None,
        warm_up: Duration::from_millis(200),
        time: Duration::from_millis(1600),
        io_depth: 4,
        ..base()
    };
    let (result, events) = run(vec![port("a", null)], &options);
    assert_eq!((result.end, &result.problems), (EndReason::Time, &vec![]));
    let context = &result.contexts[0];
    assert_eq!(context.account.missing(), 0);
    assert!(context.account.warm_up > 0 && context.account.measured > 0);
    let seconds = context.window_ticks as f64 / result.ticks_per_second;
    assert!((seconds / 1.6 - 1.0).abs() < 0.02, "{seconds} s measured instead of 1.6");
    let ticks = (context.busy_ticks + context.idle_ticks) as f64;
    assert!((ticks / context.window_ticks as f64 - 1.0).abs() < 0.02);
    let lines: Vec<_> = events.iter().filter(|event| event.starts_with("Second")).collect();
    assert!(!lines.is_empty() && lines[0].contains("warm_up: false") && !lines[0].contains("ios: 0,"), "{lines:?}");
    assert!(events.iter().position(|event| event == "WarmedUp") > events.iter().position(|event| event == "Launching"));
}

#[test]
fn a_namespace_that_cannot_be_connected_leaves_the_others() {
    let refused = |_| Err("connection refused".to_owned());
    let (result, events) = run(vec![port("a", refused), port("b", null)], &base());
    let names: Vec<_> = result.contexts.iter().map(|context| context.name.as_str()).collect();
    assert_eq!(names, ["b"]);
    assert!(result.problems[0].contains("connection refused") && events.iter().any(|event| event.contains("refused")));

    let (result, events) = run(vec![port("a", refused)], &base());
    assert!(result.contexts.is_empty() && result.problems.len() == 1 && result.end == EndReason::Lost);
    assert!(!events.contains(&"Launching".to_owned()));
}

#[test]
fn connecting_ends_however_many_queues_are_left() {
    let slow = |entries| {
        thread::sleep(Duration::from_millis(20));
        null(entries)
    };
    let ports = (0..200).map(|_| port("a", slow)).collect();
    let (result, _) = run(ports, &RunOptions { connect: Duration::from_millis(50), ..base() });
    assert!((1..=3).contains(&result.contexts.len()), "{}", result.contexts.len());
    assert!(result.problems.iter().all(|problem| problem.contains("is not connected")), "{:?}", result.problems);
    assert_eq!(result.problems.len() + result.contexts.len(), 200);
}

#[test]
fn nothing_to_test_is_a_problem() {
    let small = TestPort { shape: Shape { blocks: 1, ..shape() }, connect: Box::new(null), failure: None };
    let (result, events) = run(vec![Arc::new(small)], &base());
    assert_eq!(result.problems, ["there is no namespace to test"]);
    assert!(events[0].starts_with("Skipped"), "{events:?}");
    assert_eq!(run(vec![], &base()).0.problems, ["there is no namespace to test"]);
}

#[test]
fn what_the_machine_cannot_give_is_said_before_it_is_taken() {
    let options = RunOptions { io_size: 1 << 30, io_depth: 1 << 20, ..base() };
    let roomy = TestPort { shape: Shape { blocks: 1 << 40, ..shape() }, connect: Box::new(null), failure: None };
    let (result, _) = run(vec![Arc::new(roomy)], &options);
    assert!(result.problems[0].contains("lower -q or -o"), "{:?}", result.problems);

    let (result, _) = run(vec![port("a", null)], &RunOptions { cores: vec![1 << 20], ..base() });
    assert!(result.problems[0].contains("no worker on core 1048576"), "{:?}", result.problems);
    assert!(result.contexts.is_empty());
}

#[test]
fn a_stop_while_connecting_does_not_wait_for_the_target() {
    let stop = StopFlag::default();
    let (release, blocked) = mpsc::channel::<()>();
    let (blocked, asked) = (Mutex::new(blocked), stop.clone());
    let stalls = move |_: u32| {
        asked.request();
        let _ = blocked.lock().unwrap().recv();
        Err("stalled".to_owned())
    };
    let (result, _) = run_with(vec![port("a", stalls)], &base(), None, &stop);
    assert_eq!((result.end, result.contexts.len()), (EndReason::Signal, 0));
    drop(release);
}

#[test]
fn a_lost_controller_ends_the_run() {
    let failing =
        TestPort { shape: shape(), connect: Box::new(null), failure: Some("keep alive was not answered".into()) };
    let (result, _) = run(vec![Arc::new(failing)], &RunOptions { number_ios: None, ..base() });
    assert_eq!(
        (result.end, result.problems.as_slice()),
        (EndReason::Lost, &["keep alive was not answered".to_owned()][..])
    );
    assert_eq!(result.contexts[0].account.missing(), 0);
}

#[test]
fn each_controller_that_is_lost_for_good_is_told_once() {
    let failing = |why: &str| -> Arc<dyn Port> {
        Arc::new(TestPort { shape: shape(), connect: Box::new(null), failure: Some(why.into()) })
    };
    // The first has two namespaces.
    let ports =
        vec![failing("a: keep alive was not answered"), failing("a: keep alive was not answered"), failing("b: reset")];
    let (result, _) = run(ports, &RunOptions { number_ios: None, ..base() });
    assert_eq!((result.end, result.contexts.len()), (EndReason::Lost, 3));
    assert_eq!(result.problems, ["a: keep alive was not answered", "b: reset"]);
}

#[test]
fn a_stop_while_running_keeps_the_results() {
    let stop = StopFlag::default();
    let signal = stop.clone();
    let observer = move |event: Event<'_>| {
        if matches!(event, Event::Launching) {
            signal.request();
        }
    };
    let result = run_on(vec![port("a", null)], &RunOptions { number_ios: None, ..base() }, None, &stop, &observer);
    assert_eq!((result.end, result.contexts[0].account.missing(), &result.problems), (EndReason::Signal, 0, &vec![]));
}

#[test]
fn a_companion_is_served_from_the_beginning() {
    let rounds = Arc::new(AtomicUsize::new(0));
    let seen = rounds.clone();
    // The queue comes only when the companion, the target on the same core, has been called.
    let connect = move |entries| {
        while seen.load(Ordering::Relaxed) == 0 {
            std::thread::yield_now();
        }
        null(entries)
    };
    let before = rounds.clone();
    let round = move || {
        rounds.fetch_add(1, Ordering::Relaxed);
    };
    let companion = Companion { core: cores(1)[0], run: Box::new(round) };
    let (result, _) = run_with(vec![port("a", connect)], &base(), Some(companion), &StopFlag::default());
    assert_eq!(result.contexts[0].account.measured, 2000);
    assert!(before.load(Ordering::Relaxed) > 2000 / 16, "once a pass at least");
}

/// A null queue whose completions come through a socket, so that there is something to sleep on.
struct SocketQueue {
    null: NullQueue,
    near: UnixStream,
    far: UnixStream,
    armed: Arc<AtomicUsize>,
}

impl IoQueue for SocketQueue {
    fn needs(&self) -> Needs {
        self.null.needs()
    }
    fn attach(&mut self, arena: &Arc<Arena>) -> Result<(), PrepareError> {
        self.null.attach(arena)
    }
    fn prepare(&mut self, slot: Slot, data: &[Range]) -> Result<(), PrepareError> {
        self.null.prepare(slot, data)
    }
    fn submit(&mut self, ops: &[Op]) -> usize {
        self.null.submit(ops)
    }
    fn submit_raw(&mut self, slot: Slot, command: &Command) -> bool {
        self.null.submit_raw(slot, command)
    }
    fn commit(&mut self) -> Result<Progress, Down> {
        let mut far = self.far.try_clone().unwrap();
        // The answer takes a moment, so that the worker finds nothing and sleeps.
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(1));
            far.write_all(b"x").unwrap();
        });
        self.null.commit()
    }
    fn reap(&mut self, done: &mut [Done]) -> Result<usize, Down> {
        let answers = self.near.read(&mut [0; 64]).unwrap_or(0);
        if answers > 0 { self.null.reap(done) } else { Ok(0) }
    }
    fn stop(&mut self) {
        self.null.stop();
    }
    fn drained(&self) -> Drain {
        self.null.drained()
    }
    fn arm(&mut self) -> Result<Wait, Down> {
        self.armed.fetch_add(1, Ordering::Relaxed);
        Ok(Wait::Fd { fd: self.near.as_raw_fd(), writable: false })
    }
    fn counters(&self) -> Counters {
        self.null.counters()
    }
}

#[test]
fn workers_sleep_when_asked_to() {
    let armed = Arc::new(AtomicUsize::new(0));
    let counted = armed.clone();
    let connect = move |_| {
        let (near, far) = UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        Ok(Box::new(SocketQueue { null: NullQueue::new(16), near, far, armed: armed.clone() }) as _)
    };
    let options = RunOptions { poll_mode: PollMode::Interrupt, number_ios: Some(Limit::Count(320)), ..base() };
    let (result, _) = run(vec![port("a", connect)], &options);
    assert_eq!((result.contexts[0].account.measured, result.end), (320, EndReason::Count));
    let sleeps = counted.load(Ordering::Relaxed);
    // 20 rounds of 16: a few sleeps each, where a spinning worker would have polled thousands of times.
    assert!((1..200).contains(&sleeps), "{sleeps}");
}

/// A controller that can be lost: whoever reports a queue of the present incarnation begins the next one.
struct Phoenix {
    incarnation: Arc<AtomicU64>,
    /// Queues connected.
    connected: AtomicUsize,
    /// Whether new queues are to be had after the first loss.
    generous: bool,
    /// What is the matter with the namespace after that.
    changed: Option<&'static str>,
    /// Rounds of a target that shares a worker's core, without which no new queue comes.
    rounds: Option<Arc<AtomicUsize>>,
}

impl Phoenix {
    fn new(generous: bool, changed: Option<&'static str>, rounds: Option<Arc<AtomicUsize>>) -> Arc<Self> {
        Arc::new(Self { incarnation: Arc::default(), connected: AtomicUsize::new(0), generous, changed, rounds })
    }
}

impl Port for Phoenix {
    fn shape(&self) -> Shape {
        shape()
    }
    fn transport(&self) -> Option<String> {
        Some("TEST".into())
    }
    fn connect(&self, entries: u32, _: &PollGroup) -> Result<AnyQueue, String> {
        let incarnation = self.incarnation.load(Ordering::Relaxed);
        if incarnation > 0 && !self.generous {
            return Err("no queue is free".into());
        }
        if let Some(rounds) = self.rounds.as_ref().filter(|_| incarnation > 0) {
            let before = rounds.load(Ordering::Relaxed);
            while rounds.load(Ordering::Relaxed) == before {
                std::thread::yield_now();
            }
        }
        let first = self.connected.fetch_add(1, Ordering::Relaxed) == 0;
        let left = if first { 1000 } else { u64::MAX };
        let queue = Box::new(Mortal { null: NullQueue::new(entries as u16 - 1), left });
        Ok(AnyQueue::Driver(host::AnyQueue::Custom(queue)))
    }
    fn failure(&self) -> Option<String> {
        None
    }
    fn events(&self) -> Vec<String> {
        Vec::new()
    }
    fn incarnation(&self) -> Option<u64> {
        Some(self.incarnation.load(Ordering::Relaxed))
    }
    fn attempts(&self) -> u32 {
        self.incarnation.load(Ordering::Relaxed) as u32
    }
    fn queue_lost(&self, incarnation: u64, _: String) {
        let _ = self.incarnation.compare_exchange(incarnation, incarnation + 1, Ordering::Relaxed, Ordering::Relaxed);
    }
    fn abort(&self, _: u64, _: u16, _: u16) {}
    fn check(&self) -> Result<(), String> {
        self.changed.map_or(Ok(()), |why| Err(why.into()))
    }
}

/// A null queue that is lost after so many commits.
struct Mortal {
    null: NullQueue,
    left: u64,
}

impl IoQueue for Mortal {
    fn needs(&self) -> Needs {
        self.null.needs()
    }
    fn attach(&mut self, arena: &Arc<Arena>) -> Result<(), PrepareError> {
        self.null.attach(arena)
    }
    fn prepare(&mut self, slot: Slot, data: &[Range]) -> Result<(), PrepareError> {
        self.null.prepare(slot, data)
    }
    fn submit(&mut self, ops: &[Op]) -> usize {
        self.null.submit(ops)
    }
    fn submit_raw(&mut self, slot: Slot, command: &Command) -> bool {
        self.null.submit_raw(slot, command)
    }
    fn commit(&mut self) -> Result<Progress, Down> {
        self.left = self.left.saturating_sub(1);
        if self.left == 0 { Err(Down("mortal".into())) } else { self.null.commit() }
    }
    fn reap(&mut self, done: &mut [Done]) -> Result<usize, Down> {
        self.null.reap(done)
    }
    fn stop(&mut self) {
        self.null.stop();
    }
    fn drained(&self) -> Drain {
        self.null.drained()
    }
    fn arm(&mut self) -> Result<Wait, Down> {
        self.null.arm()
    }
    fn counters(&self) -> Counters {
        self.null.counters()
    }
}

#[test]
fn all_contexts_of_a_lost_controller_get_new_queues() {
    let (rounds, cores) = (Arc::new(AtomicUsize::new(0)), cores(2));
    let phoenix = Phoenix::new(true, None, Some(rounds.clone()));
    let round = move || {
        rounds.fetch_add(1, Ordering::Relaxed);
    };
    let companion = Companion { core: cores[0], run: Box::new(round) };
    let options = RunOptions {
        cores: cores.clone(),
        qpairs: 2,
        unused_qpairs: 1,
        use_every_core: true,
        number_ios: None,
        time: Duration::from_secs(1),
        reconnect: Some(3),
        ..base()
    };
    let ports: Vec<Arc<dyn Port>> = vec![phoenix.clone(), phoenix.clone()];
    let (result, _) = run_with(ports, &options, Some(companion), &StopFlag::default());
    assert_eq!((result.end, &result.problems), (EndReason::Time, &vec![]));
    assert_eq!(result.contexts.len(), 2 * cores.len());
    for context in &result.contexts {
        let [outage] = &context.outages[..] else { panic!("{:?}", context.outages) };
        assert!(outage.back && outage.lost > 0 && outage.lost == context.account.abandoned, "{outage:?}");
        assert_eq!((context.account.missing(), outage.attempts), (0, 1));
        assert!(context.audit.difference() < 0.001, "{:?}", context.audit);
    }
    assert_eq!(phoenix.connected.load(Ordering::Relaxed), 2 * 2 * cores.len() * 3, "unused ones too, twice");
}

#[test]
fn a_controller_that_is_back_but_of_no_use_ends_the_context() {
    let options = RunOptions { number_ios: None, reconnect: Some(3), ..base() };
    for (phoenix, incarnations, said) in [
        (Phoenix::new(false, None, None), 4, "cannot go on: no queue is free"),
        (Phoenix::new(true, Some("the namespace is gone"), None), 1, "cannot go on: the namespace is gone"),
    ] {
        let (result, _) = run(vec![phoenix.clone()], &options);
        assert_eq!(result.end, EndReason::Lost);
        assert!(result.problems[0].contains(said), "{:?}", result.problems);
        assert_eq!(phoenix.incarnation.load(Ordering::Relaxed), incarnations, "resets");
        assert_eq!(result.contexts[0].account.missing(), 0);
    }
}
