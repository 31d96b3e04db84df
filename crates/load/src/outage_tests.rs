//! Contexts whose queues are lost and replaced, and I/Os that take too long, in virtual time.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU32, Ordering},
    mpsc::{self, Sender},
};

use doorbell_host::{self as host, PollGroup};
use doorbell_queue::IoQueue;
use doorbell_result::{Arrival, EndReason, Timeouts};
use doorbell_spec::status::generic;

use crate::{
    context::{Comeback, Context, Outcome, Pass, Patience, Task},
    context_tests::{TIMES, silent, task, workload},
    observer::Reporter,
    outage::{News, Queues},
    pacing::{Pacing, Schedule},
    plan::{Shape, tests::shape},
    port::{AnyQueue, Port},
    stop::Clock,
    test_queue::{Script, TestQueue, VirtualClock},
    worker::{Beside, Ending, Progress, Times, drive},
    workload::generator,
};

type Queue = Box<dyn IoQueue>;

/// What a context tells of its queues; aborts take effect when there is a script that they concern.
#[derive(Default)]
struct TestPort {
    lost: Mutex<Vec<(u64, String)>>,
    attempts: AtomicU32,
    obeys: bool,
    script: Mutex<Option<Arc<Mutex<Script>>>>,
    aborts: Mutex<Vec<(u64, u16)>>,
}

impl Port for TestPort {
    fn shape(&self) -> Shape {
        shape()
    }
    fn transport(&self) -> Option<String> {
        Some("TEST".into())
    }
    fn connect(&self, _: u32, _: &PollGroup) -> Result<AnyQueue, String> {
        unreachable!("the test connects")
    }
    fn failure(&self) -> Option<String> {
        None
    }
    fn events(&self) -> Vec<String> {
        Vec::new()
    }
    fn incarnation(&self) -> Option<u64> {
        None
    }
    fn attempts(&self) -> u32 {
        self.attempts.load(Ordering::Relaxed)
    }
    fn queue_lost(&self, incarnation: u64, why: String) {
        self.lost.lock().unwrap().push((incarnation, why));
    }
    fn abort(&self, incarnation: u64, sqid: u16, cid: u16) {
        self.aborts.lock().unwrap().push((incarnation, sqid));
        if let Some(script) = self.script.lock().unwrap().as_ref().filter(|_| self.obeys) {
            script.lock().unwrap().aborted.push(cid);
        }
    }
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

/// A run of one context that may come back.
struct Stage {
    clock: VirtualClock,
    port: Arc<TestPort>,
    /// The scripts of all queues there have been.
    scripts: Vec<Arc<Mutex<Script>>>,
}

impl Stage {
    fn queue(&mut self, script: Script) -> Queue {
        let (queue, script) = TestQueue::new(32, &self.clock, script);
        *self.port.script.lock().unwrap() = Some(script.clone());
        self.scripts.push(script);
        Box::new(queue)
    }

    /// The news of two good queues of an incarnation.
    fn back(&mut self, incarnation: u64) -> News {
        let active = (0..2).map(|_| AnyQueue::Driver(host::AnyQueue::Custom(self.queue(quick())))).collect();
        self.port.attempts.fetch_add(3, Ordering::Relaxed);
        News::Back { queues: Queues { active, idle: Vec::new() }, incarnation }
    }

    fn taken(&self) -> Vec<usize> {
        self.scripts.iter().map(|script| script.lock().unwrap().taken.len()).collect()
    }
}

fn quick() -> Script {
    Script { delay: 500, poll: 40, ..Script::default() }
}

/// How a run goes, as most do by default.
struct Setting {
    times: Times,
    patience: Option<u64>,
    comes_back: bool,
    port: TestPort,
    /// I/Os arrive.
    pacing: Option<Pacing>,
}

impl Default for Setting {
    fn default() -> Self {
        Self { times: TIMES, patience: None, comes_back: true, port: TestPort::default(), pacing: None }
    }
}

/// Runs a context over a queue of each script; `during` is called once a pass with the time, and may tell it news.
fn run(
    task: Task,
    scripts: Vec<Script>,
    Setting { times, patience, comes_back, port, pacing }: Setting,
    mut during: impl FnMut(&mut Stage, u64, &Sender<News>) -> bool + Send,
) -> (Outcome, Stage) {
    let (news, heard) = mpsc::channel();
    let port = Arc::new(port);
    let mut stage = Stage { clock: VirtualClock::default(), port: port.clone(), scripts: Vec::new() };
    let queues = scripts.into_iter().map(|script| stage.queue(script)).collect();
    let reporter = Reporter::new(&silent, 1);
    let (clock, ending) = (stage.clock.clone(), Ending::default());
    let of_kind = |queue| match queue {
        AnyQueue::Driver(host::AnyQueue::Custom(queue)) => Some(queue),
        _ => None,
    };
    let context = Context::<Queue, _>::new(task, workload(true, 70, 9), queues, clock.clone(), &reporter).unwrap();
    let comeback = Comeback { port: port.clone(), news: heard, attempts: 0, chances: 1, left: 1, of_kind };
    let patience = patience.map(|ticks| Patience { ticks, port });
    let context = context.with_comeback(0, comes_back.then_some(comeback)).with_patience(patience).with_pacing(pacing);
    let mut each_pass = || {
        let now = clock.now();
        if during(&mut stage, now, &news) {
            ending.news.fetch_add(1, Ordering::Release);
        }
        if now > 10 * times.time {
            ending.stop.request();
        }
    };
    let mut contexts: Vec<Box<dyn Pass + '_>> = vec![Box::new(context)];
    let beside = Beside { companion: Some(&mut each_pass), rest: None };
    drive(&mut contexts, &clock, times, &ending, &Progress::default(), beside);
    (contexts.remove(0).finish(), stage)
}

/// News that is told once, at the first pass after `at`.
fn once(
    at: u64,
    what: impl Fn(&mut Stage) -> News + Send,
) -> impl FnMut(&mut Stage, u64, &Sender<News>) -> bool + Send {
    let mut told = false;
    move |stage, now, news| {
        let due = now >= at && !told;
        if due {
            told = true;
            news.send(what(stage)).unwrap();
        }
        due
    }
}

fn lost_after(commands: u64) -> Vec<Script> {
    vec![Script { lost_after: Some(commands), ..quick() }, quick()]
}

#[test]
fn a_context_outlives_its_queues_and_goes_on_at_its_whole_depth() {
    for (depth, warm_up) in [(16, 0), (200, 0), (16, 30_000)] {
        let times = Times { warm_up, ..TIMES };
        let task = task(depth, 4096, 1 << 20, 0);
        let back = once(60_000, |stage| stage.back(1));
        let (outcome, stage) = run(task, lost_after(100), Setting { times, ..Setting::default() }, back);
        let (result, account) = (&outcome.result, outcome.result.account);
        assert_eq!((outcome.end, &outcome.problems, account.missing()), (EndReason::Time, &vec![], 0));
        assert_eq!(result.window_ticks, times.time, "the window goes on in the outage");
        assert!(result.audit.difference() < 0.001, "{:?}", result.audit);
        let [outage] = &result.outages[..] else { panic!("{:?}", result.outages) };
        assert_eq!((outage.lost, outage.back, outage.attempts), (account.abandoned, true, 3));
        assert_eq!(outage.lost, u64::from(depth), "all that was in flight");
        assert!(outage.why.contains("the test lost it") && outage.began < 20_000, "{outage:?}");
        // From the last completion before 60 000 at the latest to the first of commands that take 500.
        let silent = 60_000 - outage.began..62_000 + 700 - outage.began;
        assert!(silent.contains(&outage.silent), "{outage:?}");
        let taken = stage.taken();
        assert!(taken[2] + taken[3] > 64 * depth as usize / 16, "{taken:?}");
        let lost = stage.port.lost.lock().unwrap();
        assert!(lost.len() == 1 && lost[0].0 == 0, "{lost:?}");
    }
}

#[test]
fn buffers_go_to_new_queues_only_when_the_device_has_let_go_of_them() {
    for lets_go in [true, false] {
        let mut told = false;
        let during = move |stage: &mut Stage, now: u64, news: &Sender<News>| {
            stage.scripts[0].lock().unwrap().held = !lets_go || now < 40_000;
            let due = now >= 60_000 && !told;
            if due {
                told = true;
                news.send(stage.back(1)).unwrap();
            }
            due
        };
        let task = task(16, 4096, 1 << 20, 0);
        let (outcome, stage) = run(task, lost_after(100), Setting::default(), during);
        let (account, taken) = (outcome.result.account, stage.taken());
        assert_eq!((account.missing(), account.abandoned), (0, 16));
        assert_eq!((outcome.end == EndReason::Time, taken[2] + taken[3] > 0), (lets_go, lets_go), "{taken:?}");
        let said = outcome.problems.iter().filter(|problem| problem.contains("may still write to")).count();
        assert_eq!(said, if lets_go { 0 } else { 2 }, "why, and what is not used again: {:?}", outcome.problems);
    }
}

#[test]
fn a_context_outlives_several_losses_and_each_is_told() {
    let mut told = 0;
    let during = move |stage: &mut Stage, now: u64, news: &Sender<News>| {
        let lost = stage.port.lost.lock().unwrap().len();
        let due = lost > told && now > 20_500 * (told as u64 + 1);
        if due {
            told = lost;
            let script = Script { lost_after: Some(100), ..quick() };
            let active = vec![AnyQueue::Driver(host::AnyQueue::Custom(stage.queue(script)))];
            news.send(News::Back { queues: Queues { active, idle: Vec::new() }, incarnation: lost as u64 }).unwrap();
        }
        due
    };
    let task = task(8, 4096, 1 << 20, 0);
    let (outcome, stage) = run(task, lost_after(100), Setting::default(), during);
    let result = outcome.result;
    assert_eq!((result.outages.len(), result.account.missing(), result.account.abandoned), (5, 0, 40));
    assert!(result.audit.difference() < 0.001, "{:?}", result.audit);
    let incarnations: Vec<u64> = stage.port.lost.lock().unwrap().iter().map(|(incarnation, _)| *incarnation).collect();
    assert_eq!(incarnations, [0, 1, 2, 3, 4]);
    assert!(result.outages.iter().map(|outage| outage.back).eq([true, true, true, true, false]));
}

#[test]
fn new_queues_that_are_of_no_use_are_waited_out_as_often_as_allowed() {
    for (useless, good) in [(1, true), (2, false)] {
        let mut told = 0;
        let during = move |stage: &mut Stage, _: u64, news: &Sender<News>| {
            let lost = stage.port.lost.lock().unwrap().len();
            let due = lost > told;
            if due {
                told = lost;
                let mut queue =
                    |useless| AnyQueue::Driver(host::AnyQueue::Custom(stage.queue(Script { useless, ..quick() })));
                // The first is there already when the second turns out to be lost.
                let active = vec![queue(false), queue(lost <= useless)];
                news.send(News::Back { queues: Queues { active, idle: Vec::new() }, incarnation: lost as u64 })
                    .unwrap();
            }
            due
        };
        let (outcome, stage) = run(task(16, 4096, 1 << 20, 0), lost_after(100), Setting::default(), during);
        let (result, lost) = (outcome.result, stage.port.lost.lock().unwrap().len());
        assert_eq!((result.account.missing(), result.account.abandoned, lost), (0, 16, 2), "{useless}");
        assert_eq!((outcome.end == EndReason::Time, result.outages[0].back), (good, good));
        let said = outcome.problems.iter().filter(|problem| problem.contains("cannot prepare a new I/O queue")).count();
        assert_eq!((said, outcome.problems.len()), if good { (0, 0) } else { (1, 1) }, "{:?}", outcome.problems);
    }
}

#[test]
fn a_count_is_met_in_spite_of_an_outage() {
    let task = Task { limit: Some(1000), ..task(16, 4096, 1 << 20, 0) };
    let back = once(20_000, |stage| stage.back(1));
    let (outcome, stage) = run(task, lost_after(100), Setting::default(), back);
    let account = outcome.result.account;
    assert_eq!((outcome.end, account.submitted, account.missing()), (EndReason::Count, 1000, 0));
    assert_eq!((account.measured, account.abandoned), (984, 16));
    // Some of those that were lost had not been sent.
    assert!((984..=1000).contains(&stage.taken().iter().sum::<usize>()));
}

#[test]
fn arrivals_go_on_after_an_outage() {
    let schedule = Schedule::new(Arrival::Fixed, 100.0, 0.0, generator(1, 0, 0));
    let pacing = Some(Pacing::new(schedule, 1.0, 16));
    let back = once(20_000, |stage| stage.back(1));
    let (outcome, stage) =
        run(task(16, 4096, 1 << 20, 0), lost_after(100), Setting { pacing, ..Setting::default() }, back);
    let result = outcome.result;
    assert_eq!((result.outages.len(), result.outages[0].back, outcome.problems), (1, true, Vec::<String>::new()));
    let open_loop = result.open_loop.unwrap();
    assert!(open_loop.dropped <= 16, "what came meanwhile waited and was issued: {open_loop:?}");
    assert!(stage.taken()[2..].iter().all(|&commands| commands > 100), "{:?}", stage.taken());
}

#[test]
fn queues_that_look_alive_are_stopped_with_their_controller() {
    let lost = once(10_000, |_| News::Lost("its controller is lost".into()));
    let mut back = once(40_000, |stage| stage.back(1));
    let mut lost = lost;
    let mut before = None;
    let during = |stage: &mut Stage, now: u64, news: &Sender<News>| {
        if now > 39_000 && before.is_none() {
            before = Some(stage.taken()[0]);
        }
        lost(stage, now, news) | back(stage, now, news)
    };
    let task = task(16, 4096, 1 << 20, 0);
    let (outcome, stage) = run(task, vec![quick()], Setting::default(), during);
    assert_eq!((outcome.end, outcome.result.account.abandoned, outcome.problems.len()), (EndReason::Time, 16, 0));
    assert_eq!(before, Some(stage.taken()[0]), "nothing more for the queue of a lost controller");
    assert_eq!(outcome.result.outages[0].why, "its controller is lost");
    assert!(stage.taken()[1] > 100);
}

#[test]
fn a_run_that_ends_in_an_outage_ends_at_once_and_says_so() {
    let never = |_: &mut Stage, _: u64, _: &Sender<News>| false;
    let task16 = || task(16, 4096, 1 << 20, 0);
    let (outcome, stage) = run(task16(), lost_after(100), Setting::default(), never);
    assert_eq!((outcome.end, outcome.result.account.missing()), (EndReason::Time, 0));
    assert!(outcome.problems[0].contains("not back when the run ended"), "{:?}", outcome.problems);
    let outage = &outcome.result.outages[0];
    assert!(!outage.back && outage.silent > 80_000, "{outage:?}");
    assert!(stage.clock.now() < TIMES.time + 1000, "there is nothing to drain");

    let over = once(30_000, |_| News::Over("the namespace is gone".into()));
    let (outcome, stage) = run(task16(), lost_after(100), Setting::default(), over);
    assert_eq!(outcome.end, EndReason::Lost);
    let [problem] = &outcome.problems[..] else { panic!("{:?}", outcome.problems) };
    assert!(problem.contains("the namespace is gone"), "{problem}");
    assert!(stage.clock.now() < 31_000);

    // Without a way back the loss is the end.
    let (outcome, _) = run(task16(), lost_after(100), Setting { comes_back: false, ..Setting::default() }, never);
    assert_eq!((outcome.end, outcome.result.outages.len()), (EndReason::Lost, 0));
    assert!(outcome.problems[0].contains("the test lost it"), "{:?}", outcome.problems);
}

#[test]
fn overdue_ios_are_aborted_and_counted() {
    let never = |_: &mut Stage, _: u64, _: &Sender<News>| false;
    let obeying = || TestPort { obeys: true, ..TestPort::default() };
    let mute = || vec![Script { mute_after: Some(50), ..quick() }];
    // I/Os of one command, and of four.
    for (size, pieces) in [(4096, 1), (65536, 4)] {
        let task = task(4, size, 16384, 0);
        let (outcome, stage) = run(
            task,
            mute(),
            Setting { patience: Some(2000), comes_back: false, port: obeying(), ..Setting::default() },
            never,
        );
        let Timeouts { timed_out, aborts, aborted } = outcome.result.timeouts;
        assert_eq!((outcome.end, outcome.result.account.missing(), outcome.problems.len()), (EndReason::Time, 0, 0));
        assert_eq!(outcome.result.errors().get(generic::ABORT_REQUESTED.to_string().as_str()), Some(&aborted));
        // Four at a time, each 2000 to 2500 ticks and a pass or two after it was issued.
        assert!((140..=200).contains(&timed_out) && aborted == timed_out, "{timed_out} {aborted}");
        assert!(aborts <= pieces * timed_out && aborts > (pieces - 1) * timed_out, "{aborts}");
        assert!(stage.port.aborts.lock().unwrap().iter().all(|&named| named == (0, 1)));
    }
}

#[test]
fn ios_in_time_are_left_alone() {
    let never = |_: &mut Stage, _: u64, _: &Sender<News>| false;
    let task = task(16, 4096, 1 << 20, 0);
    let (outcome, _) =
        run(task, vec![quick()], Setting { patience: Some(1000), comes_back: false, ..Setting::default() }, never);
    assert_eq!((outcome.result.timeouts, outcome.problems.len()), (Timeouts::default(), 0));
}

#[test]
fn what_an_abort_does_not_bring_back_is_lost_with_its_queue() {
    let mute = || vec![Script { mute_after: Some(50), ..quick() }];
    let never = |_: &mut Stage, _: u64, _: &Sender<News>| false;
    let task4 = || task(4, 4096, 1 << 20, 0);
    let (outcome, stage) =
        run(task4(), mute(), Setting { patience: Some(2000), comes_back: false, ..Setting::default() }, never);
    assert_eq!((outcome.end, outcome.result.account.abandoned), (EndReason::Lost, 4));
    assert!(outcome.problems[0].contains("longer than --timeout"), "{:?}", outcome.problems);
    assert_eq!(outcome.result.timeouts, Timeouts { timed_out: 4, aborts: 4, aborted: 0 });
    assert!((10_000..20_000).contains(&stage.clock.now()), "{}", stage.clock.now());

    let back = once(40_000, |stage| stage.back(1));
    let (outcome, _) = run(task4(), mute(), Setting { patience: Some(2000), ..Setting::default() }, back);
    assert_eq!((outcome.end, outcome.problems.len(), outcome.result.outages.len()), (EndReason::Time, 0, 1));
    assert_eq!(outcome.result.timeouts, Timeouts { timed_out: 4, aborts: 4, aborted: 0 });
}
