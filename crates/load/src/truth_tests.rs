//! Known truth in virtual time: a device whose every latency is known, on a clock that moves only when nothing else can. What the tool
//! reports must be what happened, bucket for bucket.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use doorbell_platform::{Arena, Backing, Range};
use doorbell_queue::{Counters, Done, Down, Drain, IoQueue, Needs, Op, PrepareError, Progress, Slot, Wait};
use doorbell_result::{Arrival, ContextResult, LatencyHistogram, Timing};
use doorbell_spec::{
    command::Command,
    status::{Status, generic, media},
};
use rand_xoshiro::rand_core::Rng;

use crate::{
    context::{Context, Pass, Task},
    context_tests::{silent, task, workload},
    observer::Reporter,
    pacing::{Pacing, Schedule},
    stop::Clock,
    worker::{Beside, Ending, Progress as Told, Times, drive},
    workload::generator,
};

/// Ticks of a second.
const SECOND: u64 = 1_000_000_000;
const MS: u64 = SECOND / 1000;
const US: u64 = MS / 1000;
const TIMES: Times = Times { warm_up: 0, time: 3600 * SECOND, drain: 3600 * SECOND, hurried_drain: SECOND };

/// Time that stands until somebody moves it.
#[derive(Clone, Debug, Default)]
struct Standing(Arc<AtomicU64>);

impl Clock for Standing {
    fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What happened to a command: when it was sent, when it came back, and how.
type Fact = (u64, u64, Status);

/// How long the n-th command, sent at that time, takes, and how it ends.
type Behaviour = Box<dyn FnMut(u64, u64) -> (u64, Status) + Send>;

/// A queue to a device that behaves as it is told to.
struct Device {
    clock: Standing,
    slots: u16,
    behaviour: Behaviour,
    /// When the plan goes on, if there is one.
    plan: Option<Schedule>,
    count: u64,
    submitted: VecDeque<(Slot, u64, u64, Status)>,
    busy: BinaryHeap<Reverse<(u64, u64, Slot)>>,
    under_way: Vec<(u64, Status)>,
    facts: Arc<Mutex<Vec<Fact>>>,
}

impl Device {
    fn new(slots: u16, clock: &Standing, plan: Option<Schedule>, behaviour: Behaviour) -> Self {
        let under_way = vec![(0, Status::SUCCESS); slots.into()];
        let (clock, facts) = (clock.clone(), Arc::default());
        let (submitted, busy) = (VecDeque::new(), BinaryHeap::new());
        Self { clock, slots, behaviour, plan, count: 0, submitted, busy, under_way, facts }
    }

    /// Moves time to what happens next: a completion or an arrival.
    fn wait(&mut self) {
        let now = self.clock.now();
        if let Some(plan) = &mut self.plan {
            while plan.next() <= now {
                plan.advance();
            }
        }
        let completion = self.busy.peek().map(|&Reverse((due, ..))| due);
        let next = completion.into_iter().chain(self.plan.as_ref().map(Schedule::next)).min();
        if let Some(next) = next.filter(|&next| next > now && self.submitted.is_empty()) {
            self.clock.0.store(next, Ordering::Relaxed);
        }
    }
}

impl IoQueue for Device {
    fn needs(&self) -> Needs {
        Needs { slots: self.slots, alignment: 1, segments: 16, bytes: u32::MAX, backing: Backing::Any }
    }

    fn attach(&mut self, _: &Arc<Arena>) -> Result<(), PrepareError> {
        Ok(())
    }

    fn prepare(&mut self, _: Slot, _: &[Range]) -> Result<(), PrepareError> {
        Ok(())
    }

    fn submit(&mut self, ops: &[Op]) -> usize {
        let now = self.clock.now();
        for op in ops {
            let (latency, status) = (self.behaviour)(self.count, now);
            self.count += 1;
            self.submitted.push_back((op.slot, now, latency, status));
        }
        ops.len()
    }

    fn submit_raw(&mut self, _: Slot, _: &Command) -> bool {
        false
    }

    fn commit(&mut self) -> Result<Progress, Down> {
        for (slot, sent, latency, status) in self.submitted.drain(..) {
            self.under_way[usize::from(slot)] = (sent, status);
            self.busy.push(Reverse((sent + latency, self.count, slot)));
        }
        Ok(Progress::Complete)
    }

    fn reap(&mut self, done: &mut [Done]) -> Result<usize, Down> {
        let due = |device: &Self| {
            let now = device.clock.now();
            device.busy.peek().is_some_and(|&Reverse((due, ..))| due <= now)
        };
        if !due(self) {
            self.wait();
        }
        let mut count = 0;
        while count < done.len() && due(self) {
            let Some(Reverse((due, _, slot))) = self.busy.pop() else { break };
            let (sent, status) = self.under_way[usize::from(slot)];
            self.facts.lock().unwrap().push((sent, due, status));
            done[count] = Done { slot, status, result: 0 };
            count += 1;
        }
        Ok(count)
    }

    fn stop(&mut self) {}

    fn drained(&self) -> Drain {
        if self.busy.is_empty() { Drain::Clean } else { Drain::Busy }
    }

    fn arm(&mut self) -> Result<Wait, Down> {
        Ok(Wait::Ready)
    }

    fn counters(&self) -> Counters {
        Counters::default()
    }
}

/// A run of so many I/Os; what the tool says, and what happened.
fn run(
    task: Task,
    times: Times,
    plan: Option<&dyn Fn() -> Schedule>,
    behaviour: Behaviour,
) -> (ContextResult, Vec<Fact>) {
    let clock = Standing::default();
    let queue = Device::new(task.depth as u16, &clock, plan.map(|plan| plan()), behaviour);
    let (facts, depth) = (queue.facts.clone(), task.depth);
    let reporter = Reporter::new(&silent, 1);
    let pacing = plan.map(|plan| Pacing::new(plan(), 1.0, depth));
    let context = Context::new(task, workload(true, 70, 9), vec![queue], clock.clone(), &reporter).unwrap();
    let mut contexts: Vec<Box<dyn Pass + '_>> = vec![Box::new(context.with_pacing(pacing))];
    let beside = Beside { companion: None, rest: None };
    drive(&mut contexts, &clock, times, &Ending::default(), &Told::default(), beside);
    let outcome = contexts.remove(0).finish();
    assert!(outcome.problems.is_empty(), "{:?}", outcome.problems);
    let facts = std::mem::take(&mut *facts.lock().unwrap());
    assert_eq!((outcome.result.account.missing(), outcome.result.audit.difference()), (0, 0.0));
    (outcome.result, facts)
}

fn histogram(latencies: impl Iterator<Item = u64>) -> LatencyHistogram {
    let mut histogram = LatencyHistogram::default();
    latencies.for_each(|latency| histogram.record(latency));
    histogram
}

#[track_caller]
fn assert_same(said: &LatencyHistogram, happened: &LatencyHistogram, what: &str) {
    assert!(said.buckets().eq(happened.buckets()), "{what}: the histograms differ");
    for percent in [1.0, 10.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.9999] {
        assert_eq!(said.value_at(percent / 100.0), happened.value_at(percent / 100.0), "{what} at {percent} %");
    }
}

/// A name, and the latency for a seed and a number.
type Distribution = (&'static str, fn(u64, u64) -> u64);

/// Ten ways in which devices take their time: with bits for each command, and its number.
fn distributions() -> [Distribution; 10] {
    fn unit(bits: u64) -> f64 {
        ((bits >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }
    /// The sum of twelve uniform numbers is as good as normal for this.
    fn normal(bits: u64) -> f64 {
        let mut random = generator(bits, 0, 0);
        (0..12).map(|_| unit(random.next_u64())).sum::<f64>() - 6.0
    }
    [
        ("fixed", |_, _| 100 * US),
        ("uniform", |bits, _| 50 * US + bits % (100 * US)),
        ("bimodal", |bits, _| if bits % 100 < 5 { 10 * MS } else { 80 * US }),
        ("lognormal", |bits, _| (100e3 * (0.5 * normal(bits)).exp()) as u64),
        ("a wide lognormal", |bits, _| (100e3 * (1.5 * normal(bits)).exp()) as u64),
        ("exponential", |bits, _| (-unit(bits).ln() * 100e3) as u64 + 1),
        ("pareto", |bits, _| (20e3 / unit(bits).powf(0.5)) as u64),
        ("three steps", |bits, _| [70 * US, 90 * US, 3 * MS][(bits % 10 / 4) as usize]),
        ("a rare outlier", |_, number| if number % 10_007 == 5 { 700 * MS } else { 90 * US }),
        ("a slow drift", |bits, number| 50 * US + number / 10 + bits % 5000),
    ]
}

#[test]
fn a_closed_loop_reports_every_distribution_to_the_bucket() {
    for (name, latency) in distributions() {
        for timing in [Timing::Exact, Timing::Batch] {
            let mut random = generator(7, 0, 0);
            let behaviour = move |number, _| (latency(random.next_u64(), number), Status::SUCCESS);
            let task = Task { timing, limit: Some(50_000), ..task(32, 4096, 1 << 20, 0) };
            let (result, facts) = run(task, TIMES, None, Box::new(behaviour));
            assert_eq!((result.completed(), facts.len()), (50_000, 50_000), "{name}");
            let (said, truth) = (result.latency(), || facts.iter().map(|(sent, back, _)| back - sent));
            assert_same(&said.histogram, &histogram(truth()), name);
            assert_eq!((said.min, said.max), (truth().min().unwrap(), truth().max().unwrap()), "{name}");
            assert_eq!(said.sum, truth().map(u128::from).sum::<u128>(), "{name}");
        }
    }
}

#[test]
fn a_million_samples_carry_the_last_percentile_to_the_bucket() {
    const IOS: u64 = 1_000_000;
    // One in five thousand takes a hundred times as long: p99.99 is among those, p99.9 is not.
    let mut random = generator(11, 0, 0);
    let behaviour = move |_, _| {
        let bits = random.next_u64();
        let us = 80 + bits % 40;
        (if bits >> 32 < (1 << 32) / 5000 { 100 * us * US } else { us * US }, Status::SUCCESS)
    };
    let task = Task { limit: Some(IOS), ..task(32, 4096, 1 << 20, 0) };
    let (result, facts) = run(task, TIMES, None, Box::new(behaviour));
    let truth = histogram(facts.iter().map(|(sent, back, _)| back - sent));
    assert_same(&result.latency().histogram, &truth, "a million");
    let mut sorted: Vec<u64> = facts.iter().map(|(sent, back, _)| back - sent).collect();
    sorted.sort_unstable();
    let document = doorbell_result::Distribution::new(&result.latency(), SECOND as f64);
    for (percent, slow) in [(99.9, false), (99.99, true)] {
        let told = document.percentiles().into_iter().find(|one| one.percent == percent).unwrap();
        let sample = sorted[(IOS as f64 * percent / 100.0).ceil() as usize - 1] as f64 / 1000.0;
        // The upper edge of the bucket that the sample is in.
        assert!(told.us > sample && told.us <= sample * (1.0 + 1.0 / 127.0), "p{percent}: {} and {sample}", told.us);
        assert_eq!(told.us > 1000.0, slow, "p{percent}: {}", told.us);
    }
}

#[test]
fn an_open_loop_reports_service_and_response_of_every_distribution_to_the_bucket() {
    for (name, latency) in distributions() {
        for arrival in [Arrival::Fixed, Arrival::Poisson, Arrival::Burst(16)] {
            // In the mean about what the device can do with eight at a time, so that arrivals wait and catch up again.
            let plan = move || Schedule::new(arrival, 20e3, 0.0, generator(3, 0, 0));
            let mut random = generator(7, 0, 0);
            let behaviour = move |number, _| (latency(random.next_u64(), number), Status::SUCCESS);
            let task = Task { limit: Some(30_000), ..task(8, 4096, 1 << 20, 0) };
            let (result, mut facts) = run(task, TIMES, Some(&plan), Box::new(behaviour));
            let what = format!("{name}, {arrival}");
            assert_same(
                &result.latency().histogram,
                &histogram(facts.iter().map(|(sent, back, _)| back - sent)),
                &what,
            );
            // The n-th to be sent is the n-th that was planned.
            facts.sort_unstable_by_key(|&(sent, ..)| sent);
            let mut schedule = plan();
            let mut planned = Vec::new();
            for &(sent, ..) in &facts {
                planned.push(schedule.next());
                assert!(schedule.next() <= sent, "{what}: nothing is sent before its time");
                schedule.advance();
            }
            let open = result.open_loop.unwrap();
            assert_eq!((open.planned, open.dropped, open.response.count), (30_000, 0, 30_000), "{what}");
            let lag = planned.iter().zip(&facts).map(|(planned, (sent, ..))| sent - planned);
            assert_eq!(open.longest_lag, lag.clone().max().unwrap(), "{what}");
            assert_eq!(
                open.late,
                lag.filter(|&lag| lag > 0).count() as u64,
                "{what}: who waits is late, and nobody else"
            );
            // What is sent together may come back in any order, but all in all the times are the same.
            let response: u128 = facts.iter().zip(&planned).map(|((_, back, _), plan)| u128::from(back - plan)).sum();
            assert_eq!(open.response.sum, response, "{what}");
        }
    }
}

/// Nothing completes for `STALL` from the beginning of the second second on.
const STALL: u64 = 200 * MS;

fn stalling(now: u64) -> (u64, Status) {
    let due = now + 100 * US;
    let latency = if (SECOND..SECOND + STALL).contains(&due) { SECOND + STALL - now } else { 100 * US };
    (latency, Status::SUCCESS)
}

#[test]
fn a_stall_shows_in_full_in_the_response_time_and_hides_from_a_closed_loop() {
    const RATE: u64 = 10_000;
    let interval = SECOND / RATE;
    let times = Times { time: 10 * SECOND, ..TIMES };
    let plan = move || Schedule::new(Arrival::Fixed, interval as f64, 0.5, generator(1, 0, 0));
    for depth in [16, 4096] {
        let (result, _) = run(task(depth, 4096, 1 << 20, 0), times, Some(&plan), Box::new(|_, now| stalling(now)));
        let open = result.open_loop.as_ref().unwrap();
        assert_eq!((open.planned, open.dropped, open.response.count), (10 * RATE, 0, 10 * RATE), "depth {depth}");
        // Each of the 2000 that arrive during the stall waits for its end, whether the device has it or it waits for a place.
        let arrivals = (0..10 * RATE).map(|number| number * interval + interval / 2);
        let truth: Vec<u64> = arrivals.map(|planned| stalling(planned).0).collect();
        let expected = |share: f64| {
            let mut sorted = truth.clone();
            sorted.sort_unstable();
            sorted[((sorted.len() as f64 * share) as usize).min(sorted.len() - 1)]
        };
        assert!(truth.iter().filter(|&&response| response > 100 * US).count() >= 2000);
        if depth == 4096 {
            assert_same(&open.response.histogram, &histogram(truth.iter().copied()), "all are sent at once");
            assert_eq!((open.late, open.longest_lag), (0, 0));
        } else {
            // Those that waited are sent by sixteens when the stall is over, each round 100 us after the other.
            assert!((1900..2600).contains(&open.late), "{}", open.late);
            for share in [0.5, 0.97] {
                assert_eq!(open.response.histogram.value_at(share), histogram([100 * US].into_iter()).value_at(0.5));
            }
            for share in [0.99, 0.995, 0.999, 0.9999] {
                let (said, wanted) = (open.response.histogram.value_at(share).unwrap(), expected(share));
                let catching_up = 2000 / 16 * 100 * US;
                assert!(
                    said >= wanted && said <= wanted + wanted / 128 + 2 * catching_up,
                    "{share}: {said} for {wanted}"
                );
            }
        }
        assert!((199 * MS..=201 * MS).contains(&open.response.max), "{}", open.response.max);
        // In service time only those that were in flight have seen it.
        let seen = |histogram: &LatencyHistogram| -> u64 {
            histogram.buckets().filter(|bucket| bucket.start > MS).map(|bucket| bucket.count).sum()
        };
        let all = seen(&histogram(truth.iter().copied()));
        assert_eq!(seen(&result.latency().histogram), if depth == 16 { 16 } else { all }, "depth {depth}");
    }
    let times = Times { time: 3 * SECOND, ..TIMES };
    let closed = run(task(4, 4096, 1 << 20, 0), times, None, Box::new(|_, now| stalling(now))).0;
    let percentile = closed.latency().histogram.value_at(0.9999).unwrap();
    assert!(percentile < MS, "a closed loop sees four slow I/Os of a hundred thousand: {percentile}");
}

#[test]
fn a_device_that_is_too_slow_for_the_plan_is_said_to_be() {
    // Four at a time, 1 ms each: 4000 a second of the 10000 that are planned.
    let plan = || Schedule::new(Arrival::Fixed, (SECOND / 10_000) as f64, 0.0, generator(1, 0, 0));
    let times = Times { warm_up: SECOND, time: 2 * SECOND, ..TIMES };
    let behaviour = |_, _| (MS, Status::SUCCESS);
    let (result, _) = run(task(4, 4096, 1 << 20, 0), times, Some(&plan), Box::new(behaviour));
    let open = result.open_loop.as_ref().unwrap();
    assert_eq!(open.planned, 20_000);
    // What was planned in the warm-up and waits is issued first; then comes what the window planned, 2 s late in the end.
    assert!((18_000 - 8000..=20_000).contains(&open.dropped), "{}", open.dropped);
    assert_eq!(open.late, open.planned - open.dropped, "every one that was issued");
    assert_eq!(open.response.count, open.planned - open.dropped);
    assert!(open.response.max > SECOND && result.latency().max == MS, "{}", open.response.max);
}

#[test]
fn each_failure_is_reported_with_its_status_and_its_number() {
    for plan in
        [None, Some(&(|| Schedule::new(Arrival::Poisson, 10e3, 0.0, generator(1, 0, 0))) as &dyn Fn() -> Schedule)]
    {
        let behaviour = |number: u64, _| {
            let status = match number {
                _ if number % 100 == 7 => media::UNRECOVERED_READ_ERROR,
                _ if number % 1000 == 9 => generic::INTERNAL_ERROR,
                _ => Status::SUCCESS,
            };
            (100 * US, status)
        };
        let task = Task { limit: Some(10_000), ..task(16, 4096, 1 << 20, 0) };
        let (result, facts) = run(task, TIMES, plan, Box::new(behaviour));
        let errors = result.errors();
        let count = |status: Status| errors.get(status.to_string().as_str()).copied();
        assert_eq!((count(media::UNRECOVERED_READ_ERROR), count(generic::INTERNAL_ERROR)), (Some(100), Some(10)));
        assert_eq!((errors.len(), result.account.failed, result.completed(), facts.len()), (2, 110, 9_890, 10_000));
        assert_eq!(result.latency().count, 9_890, "failures have no latency");
        if let Some(open) = result.open_loop {
            assert_eq!((open.planned, open.dropped, open.response.count), (10_000, 0, 9_890));
        }
    }
}
