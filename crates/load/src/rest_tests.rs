//! Workers that sleep: when, and that what completes wakes them. In virtual time where the moment counts, on real descriptors where
//! the wake-up does.

use std::{
    cell::{Cell, RefCell},
    os::fd::{AsRawFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use doorbell_platform::{Arena, Range, poll};
use doorbell_queue::{
    Counters, Done, Down, Drain, IoQueue, Needs, Op, PrepareError, Progress, Slot, Wait, null::NullQueue,
};
use doorbell_result::EndReason;
use doorbell_spec::command::Command;
use rustix::event::{EventfdFlags, eventfd};

use crate::{
    context::{Context, Pass, Task},
    context_tests::{TIMES, silent, task, workload},
    observer::Reporter,
    stop::Tsc,
    test_queue::{Script, TestQueue, VirtualClock},
    worker::{Beside, Ending, Progress as Watched, Rest, Times, drive},
};

/// The moments of going to sleep in a run whose I/Os take `delay` ticks, a poll 40, and where each sleep lasts `nap`.
fn sleeps(spin: u64, delay: u64, nap: u64) -> (Vec<u64>, u64) {
    let clock = VirtualClock::default();
    let script = Script { delay, poll: 40, sleeps: true, ..Script::default() };
    let (queue, _) = TestQueue::new(4, &clock, script);
    let reporter = Reporter::new(&silent, 1);
    let task = Task { limit: Some(100), ..task(4, 4096, 1 << 20, 0) };
    let context = Context::new(task, workload(true, 70, 9), vec![queue], clock.clone(), &reporter).unwrap();
    let mut contexts: Vec<Box<dyn Pass + '_>> = vec![Box::new(context)];
    let moments = RefCell::new(Vec::new());
    let sleep = |waits: &[Wait], _| {
        assert_eq!(waits.len(), 1);
        moments.borrow_mut().push(crate::stop::Clock::now(&clock));
        clock.skip(nap);
    };
    let beside = Beside { companion: None, rest: Some(Rest { spin, longest: Duration::MAX, sleep: &sleep }) };
    let times = Times { time: u64::MAX / 4, ..TIMES };
    drive(&mut contexts, &clock, times, &Ending::default(), &Watched::default(), beside);
    let result = contexts.remove(0).finish().result;
    assert_eq!((result.account.measured, result.account.missing()), (100, 0));
    (moments.into_inner(), result.window_ticks)
}

#[test]
fn an_adaptive_worker_looks_for_a_while_and_then_sleeps() {
    // 25 rounds of 4 I/Os, each of which takes longer than it looks.
    let (adaptive, _) = sleeps(1000, 10_000, 9_500);
    assert_eq!(adaptive.len(), 25, "once a round: {adaptive:?}");
    // The first look is at once, so the first sleep comes when it has looked in vain for so long, and not much later.
    let first = sleeps(0, 10_000, 9_500).0[0];
    assert!((first + 900..first + 1200).contains(&adaptive[0]), "{} after {first}", adaptive[0]);

    assert_eq!(sleeps(1000, 500, 9_500).0.len(), 0, "what completes sooner is not slept on");
    let (interrupt, _) = sleeps(0, 500, 600);
    assert_eq!(interrupt.len(), 25, "with -E it is");
}

#[test]
fn who_is_woken_for_nothing_sleeps_again_at_once() {
    // Ten sleeps of a thousand ticks for each round: spinning between them would double its length.
    let (moments, window) = sleeps(1000, 10_000, 1_000);
    assert!((200..=275).contains(&moments.len()), "{}", moments.len());
    assert!(window < 25 * 11_500, "{window}");
}

#[test]
fn a_queue_whose_wait_commits_is_left_to_it_by_who_always_sleeps() {
    // 25 rounds of 4 I/Os that take 10 000 ticks.
    for (spin, slept, others) in [(0, 25, 0), (1000, 25, 25), (20_000, 0, 25)] {
        let clock = VirtualClock::default();
        let script = Script { delay: 10_000, poll: 40, wait: Some(10_000), ..Script::default() };
        let (queue, script) = TestQueue::new(4, &clock, script);
        let reporter = Reporter::new(&silent, 1);
        let task = Task { limit: Some(100), ..task(4, 4096, 1 << 20, 0) };
        let context = Context::new(task, workload(true, 70, 9), vec![queue], clock.clone(), &reporter).unwrap();
        let mut contexts: Vec<Box<dyn Pass + '_>> = vec![Box::new(context)];
        let sleep = |_: &[Wait], _| panic!("the queue has a wait of its own");
        let beside = Beside { companion: None, rest: Some(Rest { spin, longest: Duration::MAX, sleep: &sleep }) };
        let times = Times { time: u64::MAX / 4, ..TIMES };
        drive(&mut contexts, &clock, times, &Ending::default(), &Watched::default(), beside);
        let result = contexts.remove(0).finish().result;
        assert_eq!((result.account.measured, result.account.missing()), (100, 0));
        assert_eq!(script.lock().unwrap().commits, [slept, others], "looking for {spin} ticks before");
        assert!(
            result.idle_ticks >= 25 * 9_000,
            "a sleep is idle time: {} of {}",
            result.idle_ticks,
            result.window_ticks
        );
    }
}

/// A null queue whose commands are carried out by a thread, which tells by an event descriptor like a device's interrupt.
struct EventQueue {
    null: NullQueue,
    device: mpsc::Sender<usize>,
    /// Commands submitted and not committed.
    submitted: usize,
    /// Commands that are over and not reaped.
    over: Arc<AtomicUsize>,
    event: Arc<OwnedFd>,
}

impl EventQueue {
    fn new(slots: u16) -> Self {
        let (device, commands) = mpsc::channel();
        let over = Arc::new(AtomicUsize::new(0));
        let event = Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).unwrap());
        let (done, interrupt) = (over.clone(), event.clone());
        thread::spawn(move || {
            let mut round = 0;
            for count in commands {
                for _ in 0..count {
                    // At once, in the middle of the worker's way to sleep, and when it sleeps.
                    round += 1;
                    let begin = Instant::now();
                    while begin.elapsed() < Duration::from_micros([0, 2, 7, 20, 60, 150][round % 6]) {
                        std::hint::spin_loop();
                    }
                    done.fetch_add(1, Ordering::Release);
                    rustix::io::write(&*interrupt, &1u64.to_ne_bytes()).unwrap();
                }
            }
        });
        Self { null: NullQueue::new(slots), device, submitted: 0, over, event }
    }
}

impl IoQueue for EventQueue {
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
        let taken = self.null.submit(ops);
        self.submitted += taken;
        taken
    }
    fn submit_raw(&mut self, slot: Slot, command: &Command) -> bool {
        self.null.submit_raw(slot, command)
    }
    fn commit(&mut self) -> Result<Progress, Down> {
        self.device.send(std::mem::take(&mut self.submitted)).unwrap();
        self.null.commit()
    }
    fn reap(&mut self, done: &mut [Done]) -> Result<usize, Down> {
        let most = self.over.load(Ordering::Acquire).min(done.len());
        let count = if most > 0 { self.null.reap(&mut done[..most])? } else { 0 };
        self.over.fetch_sub(count, Ordering::Relaxed);
        Ok(count)
    }
    fn stop(&mut self) {
        self.null.stop();
    }
    fn drained(&self) -> Drain {
        self.null.drained()
    }
    fn arm(&mut self) -> Result<Wait, Down> {
        // First the descriptor, then the completions: what comes in between is seen by one of the two.
        match rustix::io::read(&*self.event, &mut [0; 8]) {
            Ok(_) | Err(rustix::io::Errno::AGAIN) => {}
            Err(why) => return Err(Down(why.to_string())),
        }
        match self.over.load(Ordering::Acquire) {
            0 => Ok(Wait::Fd { fd: self.event.as_raw_fd(), writable: false }),
            _ => Ok(Wait::Ready),
        }
    }
    fn counters(&self) -> Counters {
        self.null.counters()
    }
}

#[test]
fn an_event_descriptor_wakes_a_worker_whatever_the_moment() {
    for (spin, depth, queues) in [(0, 1, 1), (0, 8, 2), (30_000, 1, 1), (30_000, 8, 2)] {
        let reporter = Reporter::new(&silent, 1);
        let task = Task { limit: Some(600), ..task(depth, 4096, 1 << 20, 0) };
        let queues: Vec<_> = (0..queues).map(|_| EventQueue::new(depth as u16)).collect();
        let context = Context::new(task, workload(true, 70, 9), queues, Tsc, &reporter).unwrap();
        let mut contexts: Vec<Box<dyn Pass + '_>> = vec![Box::new(context)];
        let slept = Cell::new(0);
        let sleep = |waits: &[Wait], longest| {
            let fd = |wait: &Wait| match *wait {
                Wait::Fd { fd, writable } => (fd, writable),
                Wait::Ready => panic!("nothing to sleep on"),
            };
            let fds: Vec<_> = waits.iter().map(fd).collect();
            slept.set(slept.get() + 1);
            assert!(poll::wait(&fds, longest), "a wake-up was lost");
        };
        let rest = Rest { spin, longest: Duration::from_secs(20), sleep: &sleep };
        let beside = Beside { companion: None, rest: Some(rest) };
        let times = Times { warm_up: 0, time: u64::MAX / 4, drain: u64::MAX / 4, hurried_drain: 0 };
        drive(&mut contexts, &Tsc, times, &Ending::default(), &Watched::default(), beside);
        let outcome = contexts.remove(0).finish();
        assert_eq!((outcome.result.account.measured, outcome.end), (600, EndReason::Count));
        assert!(slept.get() > 0, "it never slept");
    }
}
