//! A run from the list of namespaces to the result: plan (`planning`), connect, start the workers (`worker_thread`) together,
//! watch, gather.
//!
//! Workers are pinned threads and live from the beginning, so that memory is made where it is used and a target that shares a
//! core with one (see [`Companion`]) is served while queues are connected. Connecting happens on a thread of its own, which a
//! request to stop leaves behind: each of its waits has a deadline in the host driver.

mod planning;
mod worker_thread;

use std::{
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use doorbell_kernel_io::File;
use doorbell_platform::clock::{Anchor, Clock};
use doorbell_result::{ContextResult, EndReason, RunResult, WorkerResult};

use planning::Plan;
use worker_thread::{Common, Job, Through, Worker};

use crate::{
    clock_check::{self, Question},
    observer::{Event, Observer, Reporter, Second},
    outage::{Keeper, Queues},
    plan::{RunOptions, Shape},
    port::{Port, Target},
    recorder::Errors,
    second_look,
    slices::{Series, Slice},
    stop::StopFlag,
    worker::{Ending, Progress},
    zones::Tally,
};

/// How often the run looks at controllers, requests to stop and the clock.
const WATCH: Duration = Duration::from_millis(50);
/// How long what lies in the page cache may take to reach the medium when the load is over.
const SETTLE: Duration = Duration::from_secs(120);
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
    match planning::plan(ports, options, observer, run.clock.rate(), &mut run.result.problems) {
        Ok(plans) if plans.is_empty() => {}
        Ok(plans) => run.carry_out(plans, companion),
        Err(why) => run.problem(why),
    }
    RunResult { ticks_per_second: start.ticks_per_second(&Anchor::now()), ..run.result }
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
        let common = Common::new(self.options, self.reporter, self.ending, &self.clock);
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
                match worker_thread::start(scope, common, core, progress, companion, report.clone()) {
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
        for (at, port) in ports.iter().enumerate() {
            let again = ports[..at].iter().any(|known| Arc::ptr_eq(known, port));
            if port.is_cached() && !again {
                self.settle(port.clone());
            }
        }
        // Now that their queues are gone.
        for (index, reads, core) in suspects {
            let port = &ports[index];
            let shape = Shape { protect: self.options.protect, ..port.shape() };
            let found = second_look::take(shape, &reads, core, |slba, blocks| match self.ending.stop.requests() {
                2.. => Err("a second request to stop came".into()),
                _ => port.stored(slba, blocks),
            });
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

    /// Brings what a run wrote to a path's medium, unless somebody asks to stop or it takes too long: the thread is left behind then.
    fn settle(&mut self, port: Arc<dyn Port>) {
        let (path, begin) = (port.shape().path, Instant::now());
        let (sender, settled) = mpsc::channel();
        // Without the thread the sender is dropped, and nothing is known either.
        let _ = thread::Builder::new().name("settle".into()).spawn(move || sender.send(port.settle()));
        loop {
            let asked = self.ending.stop.requests() > 0;
            match settled.recv_timeout(WATCH) {
                Ok(Ok(())) => return,
                Ok(Err(why)) => return self.problem(why),
                Err(RecvTimeoutError::Timeout) if !asked && begin.elapsed() < SETTLE => {}
                Err(_) => {
                    return self.problem(format!(
                        "{path}: whether all that was written to the page cache reaches the medium is not known: {} s were not enough, \
                         or the run was interrupted",
                        SETTLE.as_secs()
                    ));
                }
            }
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
