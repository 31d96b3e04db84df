//! A worker's thread, from pinning to what it leaves. It waits for its jobs, makes contexts of plans and connected queues, starts
//! with the others, and is through when its load is over; the loop in between is in [`crate::worker`].

use std::{
    sync::{
        Arc,
        mpsc::{self, Receiver, Sender, TryRecvError},
    },
    thread::{self, Scope, ScopedJoinHandle},
    time::{Duration, Instant},
};

use doorbell_host as host;
use doorbell_kernel_io::KernelQueue;
use doorbell_platform::{clock::Clock, cpu, poll};
use doorbell_queue::{IoQueue, Wait};
use doorbell_result::WorkerResult;

use super::planning::Plan;
use crate::{
    clock_check::{self, Question},
    context::{Comeback, Context, Outcome, Pass, Patience},
    head_room::{self, Again},
    observer::Reporter,
    outage::Queues,
    plan::{PollMode, RunOptions},
    port::AnyQueue,
    stop::Tsc,
    verify::Verifier,
    worker::{Beside, Ending, Progress, Rest, Times, drive},
    zones::ZonedQueue,
};

/// Longest sleep of a worker.
const LONGEST_SLEEP: Duration = Duration::from_millis(100);
/// How long an adaptive worker looks in vain before it sleeps: as long as going to sleep and being woken takes at worst, tens of
/// microseconds where a processor has to be brought back from idling. So it never costs more than twice what knowing beforehand
/// would, and a device that answers sooner is never slept on.
const SPIN: Duration = Duration::from_micros(50);
/// Longest drain once somebody asked to stop or a controller was lost.
const HURRIED_DRAIN: Duration = Duration::from_secs(1);

/// What a worker is sent.
pub(super) enum Job {
    /// Say what time it is.
    Answer(Arc<Question>),
    /// Make these contexts ready.
    Prepare(Vec<(Plan, Queues)>),
    /// Start.
    Go,
}

/// A worker's thread as the run sees it.
pub(super) struct Worker<'scope> {
    pub core: usize,
    pub jobs: Sender<Job>,
    pub thread: ScopedJoinHandle<'scope, Through>,
}

/// What a worker leaves.
#[derive(Default)]
pub(super) struct Through {
    /// Of each context with its place among all.
    pub outcomes: Vec<(usize, Outcome)>,
    pub result: WorkerResult,
}

/// Everything workers share.
#[derive(Clone, Copy)]
pub(super) struct Common<'a> {
    options: &'a RunOptions,
    reporter: &'a Reporter<'a>,
    ending: &'a Ending,
    pub times: Times,
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

impl<'a> Common<'a> {
    /// Of a run with these options, in ticks of its clock.
    pub fn new(options: &'a RunOptions, reporter: &'a Reporter<'a>, ending: &'a Ending, clock: &Clock) -> Self {
        let span = |span| clock.ticks_in(span);
        Self {
            options,
            reporter,
            ending,
            times: Times {
                warm_up: span(options.warm_up),
                time: span(options.time),
                drain: span(options.drain),
                hurried_drain: span(options.drain.min(HURRIED_DRAIN)),
            },
            timeout: options.timeout.map(span),
            spin: match options.poll_mode {
                PollMode::Poll => None,
                PollMode::Interrupt => Some(0),
                PollMode::Adaptive => Some(span(SPIN)),
            },
            interval: options.interval.map(|interval| span(interval).max(1)),
            head_room: span(options.head_room),
            rate: clock.rate(),
        }
    }
}

/// Starts the thread. What hinders contexts is sent to `report`, once, when all are ready; it is closed when the worker is through.
pub(super) fn start<'scope, 'env>(
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
    let chances = common.options.reconnect.unwrap_or(0);
    let comeback = plan.news.map(|news| Comeback { port, news, attempts, chances, left: chances, of_kind });
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
