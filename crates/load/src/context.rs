//! One worker's load on one namespace: `-q` I/Os kept in flight over `-P` queues, each recorded from the moment it is issued.
//! A pass reaps, records, issues and submits; nothing in it allocates, locks or divides.

mod content;
mod outage;
mod outcome;
mod overdue;
mod pace;

use std::{sync::Arc, time::Duration};

use doorbell_platform::{Arena, Backing};
use doorbell_queue::{Counters, Done, Down, IoQueue, REAP_BATCH, Slot, Wait};
use doorbell_result::{EndReason, IoKind, Timeouts, Timing, document::QueuePlan};
use doorbell_spec::status::{self, Status};

use crate::{
    coverage::{Coverage, Kind},
    fill::Filling,
    lane::{Fate, Geometry, Lane, Tag},
    metadata::Protector,
    observer::Reporter,
    pacing::Pacing,
    port::AnyQueue,
    recorder::Recorder,
    second_look,
    slices::Exchange,
    stop::Clock,
    timing::{Batch, Exact, Full, Mode, Off, Sampled, Sampler, cost_of_reading, in_mode},
    verify::Verifier,
    workload::{Part, Workload},
};

pub(crate) use outage::Comeback;
pub(crate) use outcome::Outcome;
pub(crate) use overdue::Patience;

/// What a context is to do.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    /// The namespace's name in tables.
    pub name: String,
    /// Its name everywhere else.
    pub path: String,
    pub core: usize,
    /// I/Os in flight.
    pub depth: u32,
    /// Alignment of buffers in bytes, a power of two.
    pub alignment: u32,
    /// The NUMA node that buffers must be on.
    pub node: Option<u32>,
    pub geometry: Geometry,
    /// I/Os after which it ends.
    pub limit: Option<u64>,
    /// Most completions taken from a queue in a pass.
    pub max_completions: Option<u32>,
    /// An answer "invalid namespace or format" does not end the context.
    pub continue_on_error: bool,
    /// How latencies are taken.
    pub timing: Timing,
    /// Keep a histogram of them.
    pub histogram: bool,
    /// How its offsets are chosen, and from which part of the range, in units of so many blocks.
    pub kind: Kind,
    pub part: Part,
    pub unit: u32,
    /// The queues say where its writes went.
    pub placed: bool,
    /// What buffers hold at the start.
    pub fill: Filling,
}

/// A context as its worker sees it, whatever its queues are.
pub(crate) trait Pass {
    /// Sets the window, `warm_up` ticks from now and `time` ticks long, and issues the first I/Os.
    fn begin(&mut self, warm_up: u64, time: u64);
    /// One round over the queues.
    fn pass(&mut self) -> State;
    /// Takes in what the run has to tell.
    fn attend(&mut self);
    /// Issues no more I/Os and ends the window now.
    fn end(&mut self, why: EndReason);
    /// Stops the queues and gives up what is in flight.
    fn give_up(&mut self, why: &str);
    /// Says that the worker has this context alone and sleeps after each pass. Call before `begin`.
    fn sleeps_after_each_pass(&mut self);
    /// Sleeps as its one queue can; false where there are more, or it cannot.
    fn sleep(&mut self, longest: Duration) -> bool;
    /// The worker has slept since the last pass.
    fn has_slept(&mut self);
    /// Appends what to sleep on; false when there is something to do already.
    fn arm(&mut self, waits: &mut Vec<Wait>) -> bool;
    /// What was measured. Call when nothing is in flight.
    fn finish(self: Box<Self>) -> Outcome;
}

/// Where a context stands after a pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    /// Commands that were over in this pass.
    pub found: usize,
    /// It still issues I/Os.
    pub running: bool,
    /// I/Os issued and not over.
    pub in_flight: u64,
    /// I/Os that were over so far.
    pub over: u64,
    /// Ticks so far of passes that found something.
    pub busy_ticks: u64,
    /// Ticks so far of the others.
    pub idle_ticks: u64,
}

/// The load on one namespace over queues of one kind.
pub(crate) struct Context<'a, Q, C> {
    task: Task,
    workload: Workload,
    recorder: Recorder,
    tags: Vec<Tag>,
    lanes: Vec<Lane<Q>>,
    arena: Arc<Arena>,
    clock: C,
    /// Where a queue puts what is over: kept, as clearing it costs more than an idle poll.
    done: Box<[Done]>,
    /// The last reading of the clock.
    now: u64,
    sampler: Sampler,
    coverage: Coverage,
    /// Commands that came back with an error status.
    failed_commands: u64,
    /// Slices are given away.
    series: bool,
    /// Each batch is shown to the device as soon as it is made.
    eager: bool,
    /// Ticks that a reading takes.
    clock_cost: f64,
    /// Longest time from a reading to its last use as a stamp.
    longest_use: u64,
    ended: Option<EndReason>,
    problems: Vec<String>,
    reporter: &'a Reporter<'a>,
    /// The name of the queues' transport, and of their device where they have one, when their counters are wanted.
    transport: Option<(String, Option<String>)>,
    /// Queues that are only there (`-U`).
    idle: Vec<AnyQueue>,
    /// When the first I/O was issued.
    begun: u64,
    /// When the last batch of completions came.
    last_over: u64,
    /// The incarnation of the controller that the queues belong to.
    incarnation: u64,
    comeback: Option<Comeback<Q>>,
    /// The outage that is not over.
    outage: Option<outage::Open>,
    outages: Vec<doorbell_result::Outage>,
    /// What the first queues carry.
    queues: Vec<QueuePlan>,
    /// What the queues of earlier incarnations counted.
    counted: Vec<Counters>,
    /// Makes protection information and looks at it, where that is this process's to do.
    protector: Option<Box<Protector>>,
    suspects: Vec<(u64, u32)>,
    patience: Option<Patience>,
    /// When to look at the ages of I/Os.
    next_look: u64,
    timeouts: Timeouts,
    /// When I/Os arrive; none in a closed loop, where each that is over makes room for the next.
    pacing: Option<Box<Pacing>>,
    /// Whether what is read is what was written.
    verifier: Option<Box<Verifier>>,
    /// None of the three, and I/Os are where they were sent.
    plain: bool,
}

impl<'a, Q: IoQueue, C: Clock> Context<'a, Q, C> {
    /// Makes the buffers and prepares the queues, at least one. Called on the worker's own core, so that memory is near it.
    ///
    /// # Errors
    /// What could not be had, for people.
    pub fn new(
        task: Task,
        workload: Workload,
        mut queues: Vec<Q>,
        clock: C,
        reporter: &'a Reporter<'a>,
    ) -> Result<Self, String> {
        let io_size = task.geometry.buffer();
        let align = queues.iter().map(|queue| queue.needs().alignment).fold(task.alignment, u32::max);
        let fail = |what: &str, error: &dyn std::fmt::Display| {
            format!("{} on core {}: {what} for {} I/Os of {io_size} bytes: {error}", task.path, task.core, task.depth)
        };
        let carried = task.geometry.carried;
        let (apart_at, whole) = (task.geometry.metadata().0, task.geometry.whole());
        let bytes = u64::from(whole).next_multiple_of(align.into()) * u64::from(task.depth);
        // All queues lead to one controller and want the same.
        let backing = queues.first().map_or(Backing::Any, |queue| queue.needs().backing);
        let arena = Arena::backed(backing, bytes as usize).map_err(|error| fail("no memory", &error))?;
        if let Some(node) = task.node {
            // Populated before it is touched: a node that has no page left answers a touch with a signal.
            let bound = arena.region().bind_to_node(node).and_then(|()| arena.region().populate());
            bound.map_err(|error| fail(&format!("no memory on NUMA node {node} (--enforce-numa)"), &error))?;
        }
        let tags = (0..task.depth).map(|index| {
            let buffer = arena.alloc(whole, align.into())?;
            task.fill.apply(arena.region(), buffer.part(0, io_size), index);
            Ok(Tag { buffer: buffer.offset, ..Tag::default() })
        });
        let mut tags: Vec<Tag> =
            tags.collect::<Result<_, std::io::Error>>().map_err(|error| fail("no memory", &error))?;
        let shares = share_out(&mut tags, queues.len());
        let arena = Arc::new(arena);
        let lanes = queues.drain(..).zip(&shares);
        let lanes: Vec<_> = lanes
            .map(|(queue, own)| Lane::new(queue, &task.geometry, &tags, own, &arena))
            .collect::<Result<_, _>>()
            .map_err(|error| fail("cannot prepare an I/O queue", &error))?;
        Ok(Self {
            eager: lanes.iter().all(|lane: &Lane<Q>| lane.queue.commits_cheaply()),
            recorder: Recorder::new(task.geometry.classes.len(), task.histogram),
            coverage: Coverage::new(task.kind, task.part),
            failed_commands: 0,
            series: false,
            queues: lanes.iter().zip(&shares).map(|(lane, own)| lane.plan(own.len())).collect(),
            sampler: Sampler::new(if let Timing::Sampled(every) = task.timing { every } else { 1 }, task.core as u64),
            task,
            workload,
            tags,
            lanes,
            arena,
            clock,
            done: vec![Done::default(); REAP_BATCH].into(),
            now: 0,
            clock_cost: 0.0,
            longest_use: 0,
            ended: None,
            problems: Vec::new(),
            reporter,
            transport: None,
            idle: Vec::new(),
            begun: 0,
            last_over: 0,
            incarnation: 0,
            comeback: None,
            outage: None,
            outages: Vec::new(),
            counted: Vec::new(),
            protector: Protector::new(&carried, apart_at).map(Box::new),
            suspects: Vec::new(),
            patience: None,
            next_look: u64::MAX,
            timeouts: Timeouts::default(),
            pacing: None,
            verifier: None,
            plain: false,
        })
    }

    /// Makes the result hold the queues' counters under this name of their transport, when there is one.
    pub fn with_counters(self, transport: Option<String>) -> Self {
        let device = self.lanes.first().and_then(|lane| lane.queue.device()).map(str::to_string);
        Self { transport: transport.map(|name| (name, device)), ..self }
    }

    /// Keeps these queues as long as the others.
    pub fn with_idle(self, idle: Vec<AnyQueue>) -> Self {
        Self { idle, ..self }
    }

    /// Waits for a lost controller instead of ending, and knows to which incarnation of it its queues belong.
    pub fn with_comeback(self, incarnation: u64, comeback: Option<Comeback<Q>>) -> Self {
        Self { incarnation, comeback, ..self }
    }

    /// Gives what it records away in slices of so many ticks.
    pub fn with_series(mut self, series: Option<(Arc<Exchange>, u64)>) -> Self {
        self.series = series.is_some();
        if let Some((exchange, interval)) = series {
            self.recorder.give_away(exchange, interval);
        }
        self
    }

    /// Has I/Os aborted that take too long.
    pub fn with_patience(self, patience: Option<Patience>) -> Self {
        Self { next_look: if patience.is_some() { 0 } else { u64::MAX }, patience, ..self }
    }

    /// Issues I/Os when they arrive.
    pub fn with_pacing(self, pacing: Option<Pacing>) -> Self {
        Self { pacing: pacing.map(Box::new), ..self }
    }

    /// Stamps what is written, and looks at what is read.
    pub fn with_verifier(self, verifier: Option<Verifier>) -> Self {
        Self { verifier: verifier.map(Box::new), ..self }
    }

    #[cfg(test)]
    pub fn recorder_mut(&mut self) -> &mut Recorder {
        &mut self.recorder
    }

    fn running(&self) -> bool {
        self.ended.is_none()
    }

    #[inline(always)]
    fn issue<M: Mode>(&mut self, index: u32, lane: usize) {
        let draw = self.workload.draw();
        if !M::PLAIN {
            self.stamp(index, draw);
        }
        let sampled = M::SAMPLED && self.sampler.picks();
        if sampled {
            self.now = self.clock.now();
        }
        let stamp = self.now;
        if stamp >= self.recorder.end() {
            return self.end(EndReason::Time);
        }
        self.recorder.issued(stamp);
        let geometry = &self.task.geometry;
        let class = 2 * draw.size + u8::from(!draw.read);
        let of = &geometry.classes[usize::from(class)];
        if of.watched {
            self.coverage.observe(draw.offset);
        }
        let tag = Tag {
            stamp,
            slba: geometry.first_block + draw.offset * of.stride,
            left: of.blocks,
            class,
            sampled,
            ..Tag::default()
        };
        if !M::PLAIN {
            if let Some(protector) = &self.protector {
                protector.issue(of, self.arena.region(), self.tags[index as usize].buffer, tag.slba);
            }
            if let Some(verifier) = &mut self.verifier {
                verifier.begin(index, of.label.kind, tag.slba, tag.left, stamp);
            }
        }
        self.lanes[lane].push(index, tag, geometry, &mut self.tags);
        if self.task.limit.is_some_and(|limit| self.recorder.submitted() >= limit) {
            self.ended = Some(EndReason::Count);
        }
    }

    #[inline]
    fn flush(&mut self) {
        for index in 0..self.lanes.len() {
            let lane = &mut self.lanes[index];
            if !lane.stopped
                && let Err(down) = lane.flush(&self.task.geometry, &mut self.tags)
            {
                self.lose(index, &down);
            }
        }
    }

    #[inline]
    fn reap(&mut self, index: usize) -> usize {
        let mut done = std::mem::take(&mut self.done);
        let mut found = 0;
        loop {
            let most = self.task.max_completions.map_or(REAP_BATCH, |most| REAP_BATCH.min(most as usize - found));
            match self.lanes[index].queue.reap(&mut done[..most]) {
                Ok(0) => break,
                Ok(count) => {
                    found += count;
                    in_mode!(self.settle(index, &done[..count]));
                    if self.eager && count == most {
                        // Put back while that may lose a queue, as below.
                        self.done = done;
                        self.flush();
                        done = std::mem::take(&mut self.done);
                    }
                    if count < most || self.task.max_completions.is_some_and(|most| found >= most as usize) {
                        break;
                    }
                }
                Err(down) => {
                    // Put back first: what is left of the others is reaped in there.
                    self.done = done;
                    self.lose(index, &down);
                    return found;
                }
            }
        }
        self.done = done;
        found
    }

    /// Records a batch and issues an I/O for each that is over: the reading of the clock that ends one begins the next.
    #[inline]
    fn settle<M: Mode>(&mut self, lane: usize, done: &[Done]) {
        self.look();
        // As `share_out` says. Where each queue keeps its I/Os, a batch of answers becomes a batch of commands.
        let next = if self.tags.len() >= self.lanes.len() { lane } else { (lane + 1) % self.lanes.len() };
        let stopped = self.lanes[lane].stopped;
        let mut fresh = true;
        for done in done {
            let index = self.lanes[lane].retire(done);
            let tag = &mut self.tags[index as usize];
            tag.outstanding -= 1;
            if !M::PLAIN && self.task.placed {
                tag.placed(done.result, &self.task.geometry);
            }
            let failed = !done.status.is_success();
            if failed {
                self.failed_commands += u64::from(note_failure(tag, stopped, done.status));
            }
            if !tag.is_live() {
                let sampled = M::SAMPLED && tag.sampled;
                if !fresh && (M::EACH || sampled) {
                    self.look();
                }
                let looked = !M::PLAIN && self.look_at_protection(index);
                self.record::<M>(index, M::EACH || M::SHARED || sampled);
                if !M::PLAIN {
                    self.compare(index);
                }
                if M::EACH && (failed || looked) {
                    // To tell of it took a while.
                    self.look();
                }
                // What comes out of a stopped queue is not issued again: the others are stopped too, or the context has ended.
                if let Some(pacing) = self.pacing.as_mut().filter(|_| !M::PLAIN && !stopped) {
                    pacing.over(index, next as u32);
                } else if !stopped && self.running() {
                    self.issue::<M>(index, next);
                }
            }
            fresh = false;
        }
        self.last_over = self.now;
        if M::SHARED && done.len() > 1 {
            self.longest_use = self.longest_use.max(self.clock.now() - self.now);
        }
    }

    /// Reads the clock for a batch of completions, or one of them.
    #[inline]
    fn look(&mut self) {
        self.now = self.clock.now();
        self.recorder.advance(self.now);
    }

    /// Records an I/O whose last piece is over.
    #[inline(always)]
    fn record<M: Mode>(&mut self, index: u32, timed: bool) {
        let tag = &self.tags[index as usize];
        if tag.fate == Fate::Abandoned {
            self.recorder.abandoned(tag.stamp, self.now);
        } else if tag.status.is_success() {
            let lba = tag.slba.wrapping_sub(self.task.geometry.class(tag).blocks.into());
            self.recorder.succeeded(tag.stamp, self.now, tag.class.into(), lba, timed);
            if !M::PLAIN
                && let Some(pacing) = &mut self.pacing
            {
                pacing.succeeded(index, self.now, timed);
            }
        } else {
            self.record_failure(index);
        }
        if self.ended == Some(EndReason::Count) && self.recorder.depth() == 0 {
            self.recorder.close(self.now);
        }
    }

    #[cold]
    fn record_failure(&mut self, index: u32) {
        let tag = self.tags[index as usize];
        self.recorder.failed(tag.stamp, self.now, tag.class.into(), tag.status);
        self.timeouts.aborted +=
            u64::from(tag.fate == Fate::Overdue && tag.status.is(status::generic::ABORT_REQUESTED));
        let task = &self.task;
        let class = task.geometry.class(&tag);
        let (what, blocks) = (class.label.kind, class.blocks);
        let slba = tag.slba.saturating_sub(blocks.into());
        if matches!(what, IoKind::Read | IoKind::Verify | IoKind::Compare) && second_look::is_cause(tag.status) {
            second_look::note(&mut self.suspects, (slba, blocks));
        }
        self.reporter.failed_io(|| {
            let place = match what {
                IoKind::Flush => String::new(),
                _ => format!(" of {blocks} blocks at LBA {slba}"),
            };
            format!("{} from core {}: {what}{place} failed: {}", task.path, task.core, tag.status)
        });
        if !self.task.continue_on_error && is_out_of_reach(tag.status) {
            self.end(EndReason::Lost);
        }
    }

    #[cold]
    fn lose(&mut self, index: usize, down: &Down) {
        if self.lanes[index].stopped {
            return;
        }
        let what = format!("I/O queue {} of {} is lost: {down}", index + 1, self.lanes.len());
        let text = format!("{} from core {}: {what}", self.task.path, self.task.core);
        self.reporter.error(&text);
        if self.interrupt(&what) {
            return;
        }
        self.problems.push(text);
        self.end(EndReason::Lost);
        self.stop(index);
    }

    #[cold]
    fn stop(&mut self, index: usize) {
        self.look();
        for tag in self.lanes[index].stop(&mut self.tags) {
            if !self.tags[tag as usize].is_live() {
                self.record::<Full<Off>>(tag, false);
                self.compare(tag);
            }
        }
    }

    /// Stops all queues and closes the account of what was in flight.
    #[cold]
    fn abandon(&mut self) {
        for index in 0..self.lanes.len() {
            if !self.lanes[index].stopped {
                self.stop(index);
            }
        }
        while self.recorder.depth() > 0 && (0..self.lanes.len()).map(|index| self.reap(index)).sum::<usize>() > 0 {}
        // A queue that breaks its promise to return every slot must not keep the account open.
        for index in 0..self.task.depth {
            let tag = &mut self.tags[index as usize];
            if tag.is_live() {
                (tag.outstanding, tag.left, tag.fate) = (0, 0, Fate::Abandoned);
                self.record::<Full<Off>>(index, false);
                self.compare(index);
            }
        }
    }

    /// Issues the whole depth, when nothing is in flight.
    fn fill(&mut self) {
        if let Some(pacing) = &mut self.pacing {
            return pacing.refill(self.lanes.len());
        }
        in_mode!(self.fill_in());
        self.flush();
    }

    fn fill_in<M: Mode>(&mut self) {
        for first in (0..self.task.depth).step_by(REAP_BATCH) {
            self.now = self.clock.now();
            for index in first..self.task.depth.min(first + REAP_BATCH as u32) {
                if M::EACH {
                    self.now = self.clock.now();
                }
                if self.running() {
                    self.issue::<M>(index, index as usize % self.lanes.len());
                }
            }
            if M::SHARED {
                self.longest_use = self.longest_use.max(self.clock.now() - self.now);
            }
        }
    }
}

impl<Q: IoQueue, C: Clock> Pass for Context<'_, Q, C> {
    fn begin(&mut self, warm_up: u64, time: u64) {
        self.plain = self.verifier.is_none() && self.protector.is_none() && self.pacing.is_none() && !self.task.placed;
        self.clock_cost = cost_of_reading(&self.clock);
        self.now = self.clock.now();
        let start = self.now.saturating_add(warm_up);
        self.recorder.open(self.now, start, start.saturating_add(time));
        (self.begun, self.last_over) = (self.now, self.now);
        if let Some(pacing) = &mut self.pacing {
            pacing.begin(self.now, start);
        }
        self.fill();
    }

    fn pass(&mut self) -> State {
        let found = (0..self.lanes.len()).map(|index| self.reap(index)).sum();
        if found == 0 {
            self.now = self.clock.now();
        }
        self.recorder.polled(self.now, found > 0);
        self.recorder.slice(self.now);
        if self.running() && self.now >= self.recorder.end() {
            self.end(EndReason::Time);
        }
        if self.pacing.is_some() {
            self.pace();
        }
        self.flush();
        if self.now >= self.next_look {
            self.look_at_ages();
        }
        if self.outage.is_some() {
            self.go_through_outage(found);
        }
        let (busy_ticks, idle_ticks) = self.recorder.polls();
        State {
            found,
            running: self.running(),
            in_flight: self.recorder.depth(),
            over: self.recorder.submitted() - self.recorder.depth(),
            busy_ticks,
            idle_ticks,
        }
    }

    fn attend(&mut self) {
        self.hear();
    }

    fn end(&mut self, why: EndReason) {
        let counting = self.ended == Some(EndReason::Count) && self.recorder.depth() > 0;
        if self.running() || counting {
            self.ended = Some(why);
            self.now = self.clock.now();
            self.recorder.close(self.now);
        }
    }

    fn give_up(&mut self, why: &str) {
        let count = self.recorder.depth();
        if count == 0 {
            return;
        }
        let text = format!("{} from core {}: {count} I/Os are given up: {why}", self.task.path, self.task.core);
        self.reporter.error(&text);
        self.problems.push(text);
        self.end(EndReason::Lost);
        self.abandon();
    }

    fn sleeps_after_each_pass(&mut self) {
        if let [lane] = &mut self.lanes[..] {
            lane.commits_asleep = lane.queue.sleep_commits();
        }
    }

    fn has_slept(&mut self) {
        self.now = self.clock.now();
        self.recorder.polled(self.now, false);
    }

    fn sleep(&mut self, longest: Duration) -> bool {
        let [lane] = &mut self.lanes[..] else { return false };
        if lane.stopped {
            return false;
        }
        lane.queue.sleep(longest).unwrap_or_else(|down| {
            self.lose(0, &down);
            true
        })
    }

    fn arm(&mut self, waits: &mut Vec<Wait>) -> bool {
        for index in 0..self.lanes.len() {
            if self.lanes[index].stopped {
                continue;
            }
            match self.lanes[index].queue.arm() {
                Ok(Wait::Ready) => return false,
                Ok(wait) => waits.push(wait),
                Err(down) => {
                    self.lose(index, &down);
                    return false;
                }
            }
        }
        true
    }

    fn finish(self: Box<Self>) -> Outcome {
        self.into_outcome()
    }
}

/// Whether a status says that the namespace cannot be had over this path any more: it is gone, or an error of type
/// "path related" (Base 4.2.3.4), which only another path could cure. The kernel says of all this that I/O failed.
fn is_out_of_reach(status: Status) -> bool {
    use status::{generic, system};
    status.sct == status::SCT_PATH
        || [generic::INVALID_NAMESPACE, system::IO_ERROR, system::NO_DEVICE, system::NO_SUCH_DEVICE_OR_ADDRESS]
            .iter()
            .any(|&lost| status.is(lost))
}

/// The I/Os that each of so many queues carries: each I/O stays with one queue, but for those that are fewer than the queues.
fn share_out(tags: &mut [Tag], queues: usize) -> Vec<Vec<u32>> {
    let (depth, rotate) = (tags.len() as u32, tags.len() < queues);
    let own =
        |queue: usize| if rotate { (0..depth).collect() } else { (queue as u32..depth).step_by(queues).collect() };
    let shares: Vec<Vec<u32>> = (0..queues).map(own).collect();
    for (tag, number) in shares.iter().flat_map(|own| own.iter().zip(0u32..)) {
        tags[*tag as usize].number = number as Slot;
    }
    shares
}

/// Notes why a command failed, and returns whether it did: one that a stopped queue gives back was only given up.
#[cold]
fn note_failure(tag: &mut Tag, stopped: bool, status: Status) -> bool {
    if stopped && status.is(status::generic::ABORTED_SQ_DELETION) {
        tag.fate = Fate::Abandoned;
        return false;
    }
    if tag.status.is_success() {
        tag.status = status;
    }
    true
}
