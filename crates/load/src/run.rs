//! A run from the list of namespaces to the result: plan (`planning`), connect, start the workers together, watch, gather.
//!
//! Workers are pinned threads and live from the beginning, so that memory is made where it is used and a target that shares a
//! core with one (see [`Companion`]) is served while queues are connected. Connecting happens on a thread of its own, which a
//! request to stop leaves behind: each of its waits has a deadline in the host driver.

mod planning;

use std::{
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{self, Receiver, RecvTimeoutError, Sender, TryRecvError},
    },
    thread::{self, Scope, ScopedJoinHandle},
    time::{Duration, Instant},
};

use doorbell_host as host;
use doorbell_kernel_io::{File, KernelQueue};
use doorbell_platform::{
    clock::{Anchor, Clock},
    cpu, poll,
};
use doorbell_queue::{IoQueue, Wait};
use doorbell_result::{ContextResult, EndReason, RunResult, WorkerResult};

use planning::Plan;

use crate::{
    clock_check::{self, Question},
    context::{Comeback, Context, Outcome, Pass, Patience},
    head_room::{self, Again},
    observer::{Event, Observer, Reporter, Second},
    outage::{Keeper, Queues},
    plan::{PollMode, RunOptions, Shape},
    port::{AnyQueue, Port, Target},
    recorder::Errors,
    second_look,
    slices::{Series, Slice},
    stop::{StopFlag, Tsc},
    verify::Verifier,
    worker::{Beside, Ending, Progress, Rest, Times, drive},
    zones::{Tally, ZonedQueue},
};

/// How often the run looks at controllers, requests to stop and the clock.
const WATCH: Duration = Duration::from_millis(50);
/// Longest sleep of a worker.
const LONGEST_SLEEP: Duration = Duration::from_millis(100);
/// How long an adaptive worker looks in vain before it sleeps: as long as going to sleep and being woken takes at worst, tens of
/// microseconds where a processor has to be brought back from idling. So it never costs more than twice what knowing beforehand
/// would, and a device that answers sooner is never slept on.
const SPIN: Duration = Duration::from_micros(50);
/// Longest drain once somebody asked to stop or a controller was lost.
const HURRIED_DRAIN: Duration = Duration::from_secs(1);
/// Largest relative difference of the in-flight check that is not a finding.
const AUDIT_TOLERANCE: f64 = 0.001;

/// Work that shares a worker's core: called once a pass, and over and over while the worker waits for its start or for the other
/// workers' end. It is dropped when all are through.
pub struct Companion {
    /// The core of the worker.
    pub core: usize,
    /// One round of it; must not block.
    pub run: Box<dyn FnMut() + Send>,
}

/// Runs the load on `files` and `targets`, in this order, and returns what was measured; what went wrong is among its problems. Blocks until
/// the load has ended and drained: the time asked for and `options.drain` at most, within two seconds of a request to stop.
pub fn run(
    files: Vec<File>,
    targets: Vec<Target>,
    options: &RunOptions,
    companion: Option<Companion>,
    stop: &StopFlag,
    observer: &Observer<'_>,
) -> RunResult {
    let files = files.into_iter().map(|file| Arc::new(file) as Arc<dyn Port>);
    let targets = targets.into_iter().map(|target| Arc::new(target) as Arc<dyn Port>);
    run_on(files.chain(targets).collect(), options, companion, stop, observer)
}

pub(crate) fn run_on(
    ports: Vec<Arc<dyn Port>>,
    options: &RunOptions,
    companion: Option<Companion>,
    stop: &StopFlag,
    observer: &Observer<'_>,
) -> RunResult {
    let start = Anchor::now();
    let mut run = Run {
        options,
        observer,
        reporter: &Reporter::new(observer, options.continue_on_error.unwrap_or(1)),
        ending: &Ending { stop: stop.clone(), ..Ending::default() },
        clock: Clock::since(start),
        series: Series::default(),
        tallies: Vec::new(),
        result: RunResult {
            io_size: options.io_size,
            seed: options.seed,
            timing: options.timing,
            ..RunResult::default()
        },
    };
    match planning::plan(ports, options, observer, run.clock.rate()) {
        Ok(plans) if plans.is_empty() => {}
        Ok(plans) => run.carry_out(plans, companion),
        Err(why) => run.problem(why),
    }
    RunResult { ticks_per_second: start.ticks_per_second(&Anchor::now()), ..run.result }
}

/// What a worker is sent.
enum Job {
    /// Say what time it is.
    Answer(Arc<Question>),
    /// Make these contexts ready.
    Prepare(Vec<(Plan, Queues)>),
    /// Start.
    Go,
}

/// A worker's thread as the run sees it.
struct Worker<'scope> {
    core: usize,
    jobs: Sender<Job>,
    thread: ScopedJoinHandle<'scope, Through>,
}

/// What a worker leaves.
#[derive(Default)]
struct Through {
    /// Of each context with its place among all.
    outcomes: Vec<(usize, Outcome)>,
    result: WorkerResult,
}

/// Everything workers share.
#[derive(Clone, Copy)]
struct Common<'a> {
    options: &'a RunOptions,
    reporter: &'a Reporter<'a>,
    ending: &'a Ending,
    times: Times,
    /// Ticks that an I/O may take.
    timeout: Option<u64>,
    /// Ticks without a completion after which workers sleep; never without.
    spin: Option<u64>,
    /// Ticks of a slice.
    interval: Option<u64>,
    /// Ticks of the measurement of the tool itself.
    head_room: u64,
    /// Ticks of a second.
    rate: f64,
}

/// A run under way.
struct Run<'a> {
    options: &'a RunOptions,
    observer: &'a Observer<'a>,
    reporter: &'a Reporter<'a>,
    ending: &'a Ending,
    clock: Clock,
    series: Series,
    /// What each context does to zones beside I/Os, by its queues.
    tallies: Vec<Vec<Arc<Tally>>>,
    result: RunResult,
}

impl Run<'_> {
    fn carry_out(&mut self, mut plans: Vec<Plan>, mut companion: Option<Companion>) {
        let span = |span| self.clock.ticks_in(span);
        let common = Common {
            options: self.options,
            reporter: self.reporter,
            ending: self.ending,
            times: Times {
                warm_up: span(self.options.warm_up),
                time: span(self.options.time),
                drain: span(self.options.drain),
                hurried_drain: span(self.options.drain.min(HURRIED_DRAIN)),
            },
            timeout: self.options.timeout.map(span),
            interval: self.options.interval.map(|interval| span(interval).max(1)),
            head_room: span(self.options.head_room),
            rate: self.clock.rate(),
            spin: match self.options.poll_mode {
                PollMode::Poll => None,
                PollMode::Interrupt => Some(0),
                PollMode::Adaptive => Some(span(SPIN)),
            },
        };
        self.result.asked_ticks = common.times.time;
        self.series =
            Series::new(self.options.labels(), plans.iter().filter_map(|plan| plan.exchange.clone()).collect());
        let tallies = |plan: &Plan| plan.shares.iter().map(|share| share.tally.clone()).collect();
        self.tallies = plans.iter().map(tallies).collect();
        let progress: Vec<Progress> = self.options.cores.iter().map(|_| Progress::default()).collect();
        let ports: Vec<_> = plans.iter().map(|plan| plan.port.clone()).collect();
        let keep = |plan: &mut Plan| {
            let (news, heard) = mpsc::channel();
            plan.news = Some(heard);
            Keeper::new(plan.port.clone(), plan.task.geometry.most_pieces(), plan.incarnation, news)
        };
        let kept = plans.iter_mut().filter(|_| self.options.reconnect.is_some());
        let mut keepers: Vec<_> = kept.map(keep).collect();
        let connecting = connect(&plans, self.options, &self.ending.stop);
        thread::scope(|scope| {
            let (report, reports) = mpsc::channel();
            let mut workers = Vec::new();
            for (&core, progress) in self.options.cores.iter().zip(&progress) {
                let companion = companion.take_if(|companion| companion.core == core).map(|companion| companion.run);
                match start(scope, common, core, progress, companion, report.clone()) {
                    Ok(worker) => workers.push(worker),
                    Err(error) => return self.problem(format!("no thread for a worker on core {core}: {error}")),
                }
            }
            drop(report);
            if self.prepare(plans, &connecting, &workers, &reports) {
                self.compare_clocks(&workers);
                (self.observer)(Event::Launching);
                for worker in &workers {
                    // A worker that is gone is found when it is joined.
                    let _ = worker.jobs.send(Job::Go);
                }
                self.watch(&ports, &mut keepers, &progress, &reports);
            }
            self.gather(workers, &ports);
        });
    }

    /// Hands connected queues to the workers and waits until all are ready. Returns whether to start them.
    fn prepare(
        &mut self,
        plans: Vec<Plan>,
        connecting: &Receiver<Result<Queues, String>>,
        workers: &[Worker<'_>],
        reports: &Receiver<Vec<String>>,
    ) -> bool {
        let mut jobs: Vec<Vec<(Plan, Queues)>> = workers.iter().map(|_| Vec::new()).collect();
        for plan in plans {
            match self.next(connecting, workers) {
                Some(Ok(queues)) => jobs[plan.worker].push((plan, queues)),
                Some(Err(why)) => self.problem(format!("{} from core {}: {why}", plan.task.path, plan.task.core)),
                None => return false,
            }
        }
        if jobs.iter().all(Vec::is_empty) {
            self.result.end = EndReason::Lost;
            return false;
        }
        for (worker, jobs) in workers.iter().zip(jobs) {
            let _ = worker.jobs.send(Job::Prepare(jobs));
        }
        for _ in workers {
            match self.next(reports, workers) {
                Some(problems) => problems.into_iter().for_each(|problem| self.problem(problem)),
                None => return false,
            }
        }
        true
    }

    fn compare_clocks(&mut self, workers: &[Worker<'_>]) {
        for worker in workers {
            let question = Arc::new(Question::default());
            if worker.jobs.send(Job::Answer(question.clone())).is_ok() {
                self.result.clocks.extend(question.ask(worker.core, clock_check::SPAN));
            }
        }
    }

    /// The next message before the start; `None` when a request to stop came, or a sender or a worker is gone.
    fn next<T>(&mut self, messages: &Receiver<T>, workers: &[Worker<'_>]) -> Option<T> {
        loop {
            if self.ending.stop.requests() > 0 {
                self.result.end = EndReason::Signal;
                return None;
            }
            let message = messages.recv_timeout(WATCH);
            let gone = workers.iter().any(|worker| worker.thread.is_finished());
            match message {
                Ok(message) => return Some(message),
                Err(RecvTimeoutError::Timeout) if !gone => {}
                Err(_) => {
                    self.result.end = EndReason::Lost;
                    return None;
                }
            }
        }
    }

    /// Watches until all workers are through: the channel that they hold closes with the last.
    fn watch(
        &mut self,
        ports: &[Arc<dyn Port>],
        keepers: &mut [Keeper],
        progress: &[Progress],
        reports: &Receiver<Vec<String>>,
    ) {
        let (mut warming, begin) = (!self.options.warm_up.is_zero(), Instant::now());
        let mut lost = Vec::new();
        let mut last = (begin, [0; 3]);
        let observer = self.observer;
        let tell = || ports.iter().flat_map(|port| port.events()).for_each(|event| observer(Event::Notice(&event)));
        let watch = self.options.interval.map_or(WATCH, |interval| WATCH.min(interval / 2));
        while reports.recv_timeout(watch) == Err(RecvTimeoutError::Timeout) {
            tell();
            self.tell_slices();
            self.look_for_losses(ports, &mut lost);
            let look = |keeper: &mut Keeper| keeper.look(self.options, &self.ending.stop);
            if keepers.iter_mut().map(look).filter(|&news| news).count() > 0 {
                self.ending.news.fetch_add(1, Ordering::Release);
            }
            if warming && begin.elapsed() >= self.options.warm_up {
                warming = false;
                (self.observer)(Event::WarmedUp);
            }
            let seconds = last.0.elapsed().as_secs_f64();
            if seconds >= 1.0 {
                let sum = |of: fn(&Progress) -> u64| progress.iter().map(of).sum::<u64>();
                let sums = [
                    sum(|progress| progress.over.load(Ordering::Relaxed)),
                    sum(|progress| progress.busy_ticks.load(Ordering::Relaxed)),
                    sum(|progress| progress.idle_ticks.load(Ordering::Relaxed)),
                ];
                let [ios, busy, idle] = [0, 1, 2].map(|index| sums[index].saturating_sub(last.1[index]));
                let busy_percent = busy as f64 / (busy + idle).max(1) as f64 * 100.0;
                let left = (self.options.warm_up + self.options.time).saturating_sub(begin.elapsed()).as_secs_f64();
                let second = Second { warm_up: warming, ios, seconds, cores: progress.len(), busy_percent, left };
                (self.observer)(Event::Second(second));
                last = (Instant::now(), sums);
            }
        }
        // Why it ended may be among the last ones.
        tell();
        self.look_for_losses(ports, &mut lost);
    }

    /// Tells of the slices that are complete.
    fn tell_slices(&mut self) {
        let told = self.series.slices.len();
        self.series.collect(&self.clock.start());
        self.series.slices[told..].iter().for_each(|slice| (self.observer)(Event::Slice(slice)));
    }

    /// Ends the run when a controller is lost for good, and tells of each that is; `told` are those known before.
    fn look_for_losses(&mut self, ports: &[Arc<dyn Port>], told: &mut Vec<String>) {
        for why in ports.iter().filter_map(|port| port.failure()) {
            // The namespaces of one controller say the same.
            if !told.contains(&why) {
                self.ending.lost.store(true, Ordering::Relaxed);
                self.problem(why.clone());
                told.push(why);
            }
        }
    }

    /// Joins the workers and completes the result.
    fn gather(&mut self, workers: Vec<Worker<'_>>, ports: &[Arc<dyn Port>]) {
        let (mut ends, mut suspects) = (Vec::new(), Vec::new());
        for worker in workers {
            drop(worker.jobs);
            match worker.thread.join() {
                Ok(Through { outcomes, result }) => {
                    for (index, outcome) in outcomes {
                        ends.push(outcome.end);
                        self.result.problems.extend(outcome.problems);
                        suspects.push((index, outcome.suspects, worker.core));
                        self.add(index, outcome.result, outcome.last);
                    }
                    self.result.workers.push(WorkerResult { core: worker.core, ..result });
                }
                Err(_) => self.problem(format!("the worker on core {} broke down", worker.core)),
            }
        }
        // Now that their queues are gone.
        for (index, reads, core) in suspects {
            let port = &ports[index];
            let shape = Shape { protect: self.options.protect, ..port.shape() };
            let found = second_look::take(shape, &reads, core, |slba, blocks| port.stored(slba, blocks));
            found.into_iter().for_each(|what| self.problem(what));
        }
        self.tell_slices();
        self.result.series = std::mem::take(&mut self.series.slices);
        if !ends.is_empty() {
            let all_counted = ends.iter().all(|&end| end == EndReason::Count);
            self.result.end = [EndReason::Signal, EndReason::Lost]
                .into_iter()
                .find(|reason| ends.contains(reason))
                .unwrap_or(if all_counted { EndReason::Count } else { EndReason::Time });
        }
    }

    fn add(&mut self, index: usize, mut context: ContextResult, last: Option<(Box<Slice>, Errors)>) {
        if let Some((last, errors)) = last {
            // What it left before comes first.
            self.series.collect(&self.clock.start());
            self.series.complete(index, &last, &errors, &mut context);
        }
        if let Some(tallies) = self.tallies.get(index).filter(|tallies| !tallies.is_empty()) {
            let zones = context.zones.get_or_insert_default();
            tallies.iter().for_each(|tally| tally.add_to(zones));
        }
        let (missing, difference) = (context.account.missing(), context.audit.difference());
        if missing != 0 || difference > AUDIT_TOLERANCE {
            self.problem(format!(
                "{} from core {}: the result does not add up: {missing} I/Os are missing, the numbers in flight differ by \
                 {:.3} %; do not trust it, and report this",
                context.path,
                context.core,
                difference * 100.0
            ));
        }
        self.result.contexts.push(context);
    }

    fn problem(&mut self, text: String) {
        self.reporter.error(&text);
        self.result.problems.push(text);
    }
}

/// Connects the queues of all plans, in order, on a thread that stops early when it is asked to or nobody listens any more.
fn connect(plans: &[Plan], options: &RunOptions, stop: &StopFlag) -> Receiver<Result<Queues, String>> {
    let (sender, receiver) = mpsc::channel();
    let ports: Vec<_> = plans.iter().map(|plan| (plan.port.clone(), plan.task.geometry.most_pieces())).collect();
    let (options, stop, deadline) = (options.clone(), stop.clone(), Instant::now() + options.connect);
    let connect = move || {
        for (port, pieces) in ports {
            let queues = Queues::connect(&*port, &options, pieces, deadline, &stop);
            if stop.requests() > 0 || sender.send(queues).is_err() {
                return;
            }
        }
    };
    // Without the thread the sender is dropped, and the run ends as with a lost one.
    let _ = thread::Builder::new().name("connect".into()).spawn(connect);
    receiver
}

fn start<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    common: Common<'env>,
    core: usize,
    progress: &'env Progress,
    companion: Option<Box<dyn FnMut() + Send>>,
    report: Sender<Vec<String>>,
) -> std::io::Result<Worker<'scope>> {
    let (jobs, inbox) = mpsc::channel();
    let work = move || work(common, core, progress, companion, &inbox, report);
    let thread = thread::Builder::new().name(format!("worker-{core}")).spawn_scoped(scope, work)?;
    Ok(Worker { core, jobs, thread })
}

/// A worker's life: pinned, prepared, started with the others, through.
fn work(
    common: Common<'_>,
    core: usize,
    progress: &Progress,
    mut companion: Option<Box<dyn FnMut() + Send>>,
    inbox: &Receiver<Job>,
    report: Sender<Vec<String>>,
) -> Through {
    let pinned = cpu::pin(core);
    let Some(Job::Prepare(jobs)) = next_job(inbox, &mut companion) else { return Through::default() };
    let (mut problems, mut contexts, mut indices, mut again) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    match pinned {
        Err(error) => {
            problems.push(format!("no worker on core {core}: {error}; -c must name cores this process may run on"))
        }
        Ok(()) => {
            for (plan, queues) in jobs {
                let index = plan.index;
                match context(common, plan, queues, &mut again) {
                    Ok(context) => {
                        contexts.push(context);
                        indices.push(index);
                    }
                    Err(why) => problems.push(why),
                }
            }
        }
    }
    let _ = report.send(problems);
    loop {
        match next_job(inbox, &mut companion) {
            Some(Job::Answer(question)) => question.answer(clock_check::SPAN),
            Some(Job::Go) => break,
            _ => return Through::default(),
        }
    }
    // Who shares the core must not sleep with it.
    let spin = common.spin.filter(|_| companion.is_none());
    // I/Os that never come back wake nobody.
    let longest = common.options.timeout.map_or(LONGEST_SLEEP, |timeout| LONGEST_SLEEP.min(timeout / 4));
    // A slice is given away when a worker is awake.
    let longest = common.options.interval.map_or(longest, |interval| longest.min(interval / 4));
    let beside = Beside {
        companion: companion.as_deref_mut().map(|run| run as _),
        rest: spin.map(|spin| Rest { spin, longest, sleep: &sleep }),
    };
    let (begin, had) = (Instant::now(), cpu::time_of_thread());
    drive(&mut contexts, &Tsc, common.times, common.ending, progress, beside);
    let cpu_share = (cpu::time_of_thread() - had).as_secs_f64() / begin.elapsed().as_secs_f64().max(1e-9);
    let outcomes: Vec<_> = contexts.into_iter().map(|context| context.finish()).collect();
    let wanted = common.head_room > 0 && common.ending.stop.requests() == 0;
    let measured = wanted && outcomes.iter().any(|outcome| outcome.result.completed() > 0 || outcome.last.is_some());
    let head_room = measured
        .then(|| head_room::measure(again, &Tsc, common.options.head_room, common.head_room))
        .flatten()
        .filter(|&rate| rate > 0.0);
    // This worker is through; its companion goes on until all are.
    drop(report);
    if companion.is_some() {
        next_job(inbox, &mut companion);
    }
    let result = WorkerResult { core, cpu_share, head_room };
    Through { outcomes: indices.into_iter().zip(outcomes).collect(), result }
}

/// The next job; the companion runs meanwhile.
fn next_job(inbox: &Receiver<Job>, companion: &mut Option<Box<dyn FnMut() + Send>>) -> Option<Job> {
    let Some(companion) = companion else { return inbox.recv().ok() };
    loop {
        match inbox.try_recv() {
            Ok(job) => return Some(job),
            Err(TryRecvError::Empty) => companion(),
            Err(TryRecvError::Disconnected) => return None,
        }
    }
}

/// A context whose loop is compiled for its kind of queue.
fn context<'a>(
    common: Common<'a>,
    plan: Plan,
    mut queues: Queues,
    again: &mut Vec<Again>,
) -> Result<Box<dyn Pass + 'a>, String> {
    if !plan.shares.is_empty() {
        let behind = |(queue, share)| match queue {
            AnyQueue::Driver(queue) => {
                ZonedQueue::new(queue, share).map(|queue| AnyQueue::Driver(host::AnyQueue::Custom(Box::new(queue))))
            }
            AnyQueue::Kernel(_) => Err("zones are written over the driver's own queues".into()),
        };
        let all = queues.active.into_iter().zip(plan.shares.iter().cloned());
        queues.active = all.map(behind).collect::<Result<_, _>>()?;
    }
    /// One arm for each kind, so that the loop is compiled for it.
    macro_rules! each {
        ($($kind:path, $queue:path;)*) => {
            match queues.active.first() {
                $(Some($kind($queue(_))) => context_of(common, plan, queues, again, |queue| match queue {
                    $kind($queue(queue)) => Some(*queue),
                    _ => None,
                }),)*
                _ => context_of(common, plan, queues, again, |queue| match queue {
                    AnyQueue::Driver(host::AnyQueue::Custom(queue)) => Some(queue),
                    _ => None,
                }),
            }
        };
    }
    each! {
        AnyQueue::Driver, host::AnyQueue::Tcp;
        AnyQueue::Driver, host::AnyQueue::Rdma;
        AnyQueue::Driver, host::AnyQueue::Ring;
        AnyQueue::Kernel, KernelQueue::Libaio;
        AnyQueue::Kernel, KernelQueue::Uring;
        AnyQueue::Kernel, KernelQueue::Passthrough;
    }
}

fn context_of<'a, Q: IoQueue + 'a>(
    common: Common<'a>,
    plan: Plan,
    queues: Queues,
    again: &mut Vec<Again>,
    of_kind: fn(AnyQueue) -> Option<Q>,
) -> Result<Box<dyn Pass + 'a>, String> {
    let Plan { port, incarnation, pacing, .. } = plan;
    let active: Vec<Q> = queues.active.into_iter().filter_map(of_kind).collect();
    again.push(Again::new(&plan.task, &plan.workload, active.iter().map(|queue| queue.needs().slots).collect()));
    let depth = plan.task.depth;
    let (stride, rate) = (plan.task.geometry.block_size, common.rate);
    let verifier = plan.verify.map(|(run, block_size, part)| {
        Verifier::new(run, [block_size, stride], part.start, part.end - part.start, depth, rate)
    });
    let context = Context::new(plan.task, plan.workload, active, Tsc, common.reporter)?.with_verifier(verifier);
    let (transport, attempts) = (common.options.transport_stats.then(|| port.transport()).flatten(), port.attempts());
    let patience = common.timeout.map(|ticks| Patience { ticks, port: port.clone() });
    let comeback = plan.news.map(|news| Comeback { port, news, attempts, of_kind });
    let context = context
        .with_series(plan.exchange.zip(common.interval))
        .with_counters(transport)
        .with_idle(queues.idle)
        .with_pacing(pacing);
    Ok(Box::new(context.with_patience(patience).with_comeback(incarnation, comeback)))
}

fn sleep(waits: &[Wait], longest: Duration) {
    let fds: Vec<_> = waits
        .iter()
        .filter_map(|wait| match *wait {
            Wait::Fd { fd, writable } => Some((fd, writable)),
            Wait::Ready => None,
        })
        .collect();
    poll::wait(&fds, longest);
}
