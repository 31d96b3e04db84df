//! The PCI function that a host has: a controller of the subsystem behind registers, and the queues in the host's memory.
//!
//! A pass looks at each submission queue once, takes at most [`BATCH`] entries and answers at once what can be answered; the rest is
//! parked and tried again each pass. Nothing is taken that there is no room for in the completion queue. What a fault script does to
//! completions is in [`faults`].

mod faults;

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, atomic::Ordering},
};

use doorbell_platform::Region;
use doorbell_spec::{
    command::Command,
    register::{self, Aqa, Cc},
    status::{Status, generic},
};
use zerocopy::{FromZeros, little_endian::U16};

use super::{
    config_space::{self, ConfigSpace, Table},
    far::Far,
    interrupts::Interrupts,
    job::{self, Job, Lost, Stop},
    memory::Memory,
    rings::{CQE, Cq, Doorbell, Nonsense, Place, Ring, SQE, Shadow, Sq, entry},
};
use crate::{
    controller::{Admin, DSTRD, IoQueue},
    fault::{Fate, Faults},
    listener::Context,
    namespace::Outcome,
    subsystem::Subsystem,
};

/// Most entries taken from a queue before the next has its turn.
const BATCH: u32 = 64;
/// Entries that are carried out side by side, so that what the later ones will touch is on its way to the cache.
const TOGETHER: usize = 16;
/// Parked commands that are tried in a pass.
const TRIES: usize = 32;
/// Parked commands from which on no I/O command is taken.
const MOST_PARKED: usize = 1024;
/// Dword 0 of the event that tells of a doorbell with a value that cannot be: an error, "Invalid Doorbell Write Value", the page that
/// it would be logged in (Base 5.1.2.1).
const INVALID_DOORBELL: u64 = 0x01_01_00;

/// The entries of a queue, in the host's memory or in a copy of ours that goes to and fro by messages.
#[derive(Debug)]
pub(super) struct Entries<const WORDS: usize> {
    ring: Ring<WORDS>,
    copy: Option<Place>,
}

/// A function.
#[derive(Debug)]
pub(super) struct Function {
    /// What it is called in messages.
    name: Arc<str>,
    pub(super) admin: Admin,
    pub(super) config_space: ConfigSpace,
    pub(super) table: Table,
    pub(super) interrupts: Interrupts,
    /// BAR 0: only the doorbells in it are memory, the registers before them are asked for.
    bar: Arc<Region>,
    pub(super) aqa: Aqa,
    pub(super) asq: u64,
    pub(super) acq: u64,
    /// By queue identifier.
    pub(super) sqs: Vec<Option<Sq>>,
    pub(super) cqs: Vec<Option<Cq>>,
    /// The identifiers of those there are.
    pub(super) submitting: Vec<u16>,
    pub(super) completing: Vec<u16>,
    parked: VecDeque<(u16, Box<Job>)>,
    /// Those that are carried out, and spare ones.
    jobs: [Box<Job>; TOGETHER],
    #[expect(clippy::vec_box, reason = "jobs move from here to the parked ones and back; only their boxes should")]
    idle: Vec<Box<Job>>,
    /// What is done by messages.
    pub(super) far: Far,
    /// Shadow doorbells and event indexes of the I/O queues.
    pub(super) shadow: Option<Shadow>,
    /// A doorbell has had a value that cannot be.
    reported: bool,
    /// What goes wrong with I/O commands, if so, and whether that has ended the connection.
    faults: Option<Box<Faults<Said>>>,
    hung_up: bool,
}

impl Function {
    /// A controller of `subsystem` for the host at `name`.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn new(name: &Arc<str>, subsystem: &Arc<Subsystem>, context: &Context) -> io::Result<Self> {
        let queues = subsystem.config.max_io_queues;
        let vectors = config_space::MOST_VECTORS.min(queues.saturating_add(1));
        let bar = Arc::new(Region::shared(config_space::registers_len(queues) as usize, false)?);
        let admin = Admin::in_memory(context.shared.clone(), subsystem, name, vectors, context.now)
            .ok_or_else(|| io::Error::other("the subsystem has no controller left"))?;
        let places = usize::from(queues) + 1;
        Ok(Self {
            name: name.clone(),
            admin,
            config_space: ConfigSpace::new(queues, vectors),
            table: Table::new(vectors),
            interrupts: Interrupts::new(vectors),
            bar,
            aqa: Aqa::new(),
            asq: 0,
            acq: 0,
            sqs: (0..places).map(|_| None).collect(),
            cqs: (0..places).map(|_| None).collect(),
            submitting: Vec::new(),
            completing: Vec::new(),
            parked: VecDeque::new(),
            jobs: Default::default(),
            idle: Vec::new(),
            far: Far::default(),
            shadow: None,
            reported: false,
            faults: context.shared.fault.as_ref().map(Faults::new),
            hung_up: false,
        })
    }

    /// What it is called in messages.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// BAR 0.
    pub(super) fn bar(&self) -> &Arc<Region> {
        &self.bar
    }

    /// Whether there may be something in a ring that nobody told us of.
    pub(super) fn is_running(&self) -> bool {
        self.admin.is_ready()
    }

    /// Carries out what lies in the rings; returns whether there was something.
    #[inline]
    pub(super) fn pass(&mut self, memory: Memory<'_>, context: &mut Context) -> Result<bool, Lost> {
        if !self.admin.is_ready() {
            return Ok(false);
        }
        let mut busy = !self.parked.is_empty() && self.resume(memory, context)?;
        let mut at = 0;
        while let Some(&qid) = self.submitting.get(at) {
            busy |= if qid == 0 { self.serve_admin(memory, context)? } else { self.serve(qid, memory, context)? };
            at += 1;
        }
        if self.faults.is_some() {
            busy |= self.act_out(context)?;
        }
        Ok(self.settle() || busy)
    }

    /// Takes entries of an I/O queue.
    #[inline]
    fn serve(&mut self, qid: u16, memory: Memory<'_>, context: &mut Context) -> Result<bool, Lost> {
        let Some(Some(sq)) = self.sqs.get_mut(usize::from(qid)) else { return Ok(false) };
        let Some(Some(cq)) = self.cqs.get_mut(usize::from(sq.cqid)) else { return Ok(false) };
        let count = match sq.pending() {
            Ok(0) => return Ok(false),
            Ok(_) if self.parked.len() >= MOST_PARKED => return Ok(false),
            Ok(pending) => cq.room(pending.min(BATCH)),
            Err(nonsense) => Err(nonsense),
        };
        let count = match count {
            Ok(count) => count,
            Err(nonsense) => {
                self.report(qid, nonsense);
                return Ok(false);
            }
        };
        if count > 1 {
            sq.foresee(count);
        }
        let mut left = count;
        while left > 0 {
            let mut open = 0;
            while left > 0 && open < TOGETHER {
                let job = &mut self.jobs[open];
                sq.take(&mut job.command);
                if sq.is_lost() {
                    return Err(Lost);
                }
                left -= 1;
                let Some(queue) = &mut sq.queue else { return Ok(false) };
                let failure = self.faults.as_mut().and_then(|faults| faults.arrived(qid, &job.command, 0));
                if let Some(faults) = &self.faults {
                    faults.harm(queue, job.command.cid.get());
                }
                let outcome = match failure {
                    None => job.begin(queue, memory),
                    Some(status) => Ok(Outcome::Done(status)),
                };
                match outcome {
                    Ok(Outcome::Done(status)) => {
                        answer(cq, &mut self.faults, qid, sq.head(), job.command.cid.get(), (status, 0))
                    }
                    Ok(_) => open += 1,
                    Err(Stop::Lost) => return Err(Lost),
                    Err(Stop::Far) => {
                        job.go_far(&mut context.pool);
                        let next = self.idle.pop().unwrap_or_default();
                        self.parked.push_back((qid, std::mem::replace(job, next)));
                    }
                }
            }
            let jobs = &mut self.jobs[..open];
            let (head, Some(queue)) = (sq.head(), &mut sq.queue) else { return Ok(false) };
            job::foresee(jobs, queue, &mut context.pool);
            for at in 0..open {
                job::fetch_ahead(&jobs[at..], &context.pool);
                match jobs[at].proceed(queue, memory, context) {
                    Ok(Outcome::Done(status)) => {
                        let said = (status, jobs[at].progress.result);
                        answer(cq, &mut self.faults, qid, head, jobs[at].command.cid.get(), said);
                    }
                    Err(Stop::Lost) => return Err(Lost),
                    outcome => {
                        if outcome == Err(Stop::Far) {
                            jobs[at].turn_far(queue, &mut context.pool);
                        }
                        let next = self.idle.pop().unwrap_or_default();
                        self.parked.push_back((qid, std::mem::replace(&mut jobs[at], next)));
                        // One long command is enough: a queue full of them must not keep others waiting.
                        if outcome == Ok(Outcome::Turn) {
                            left = 0;
                        }
                    }
                }
            }
            job::let_go(jobs, &mut context.pool);
        }
        if cq.is_lost() { Err(Lost) } else { Ok(count > 0) }
    }

    fn serve_admin(&mut self, memory: Memory<'_>, context: &mut Context) -> Result<bool, Lost> {
        if self.far.is_full() {
            return Ok(false);
        }
        let (Some(sq), Some(cq)) = (&mut self.sqs[0], &mut self.cqs[0]) else { return Ok(false) };
        let count = match sq.pending().and_then(|pending| cq.room(pending.min(BATCH))) {
            Ok(count) => count,
            Err(nonsense) => {
                self.report(0, nonsense);
                return Ok(false);
            }
        };
        let mut command = Command::new_zeroed();
        for _ in 0..count {
            let Some(sq) = &mut self.sqs[0] else { break };
            sq.take(&mut command);
            if sq.is_lost() {
                return Err(Lost);
            }
            self.admin_command(&command, memory, context)?;
        }
        Ok(count > 0)
    }

    /// Tries parked commands again; returns whether one has come forward.
    fn resume(&mut self, memory: Memory<'_>, context: &mut Context) -> Result<bool, Lost> {
        let mut any = false;
        for _ in 0..self.parked.len().min(TRIES) {
            let Some((qid, mut job)) = self.parked.pop_front() else { break };
            let Some(queue) = self.sqs[usize::from(qid)].as_mut().and_then(|sq| sq.queue.as_mut()) else { continue };
            let outcome = if job.far.is_some() {
                self.far.proceed(&mut job, queue, memory, context)?
            } else {
                match job.proceed(queue, memory, context) {
                    Ok(outcome) => outcome,
                    Err(Stop::Lost) => return Err(Lost),
                    Err(Stop::Far) => {
                        job.turn_far(queue, &mut context.pool);
                        Outcome::Again
                    }
                }
            };
            any |= outcome != Outcome::Again;
            if let Outcome::Done(status) = outcome {
                self.complete(qid, job.command.cid, (status, job.progress.result));
                self.idle.push(job);
                continue;
            }
            self.parked.push_back((qid, job));
            if outcome == Outcome::Turn {
                break;
            }
        }
        Ok(any)
    }

    /// Puts completions where there is room again, and raises interrupts; returns whether something waited and does no more.
    #[inline]
    fn settle(&mut self) -> bool {
        let (mut any, mut nonsense) = (false, None);
        for &cqid in &self.completing {
            let Some(cq) = &mut self.cqs[usize::from(cqid)] else { continue };
            match cq.resume() {
                Ok(came) => any |= came,
                Err(value) => nonsense = Some((cqid, value)),
            }
            if let Some(vector) = cq.interrupt() {
                self.interrupts.raise(vector);
            }
        }
        if let Some((cqid, value)) = nonsense {
            self.report(cqid, value);
        }
        any
    }

    /// Answers a command of a queue.
    pub(super) fn post(&mut self, sqid: u16, cid: U16, status: Status, result: u64) {
        let Some(sq) = &self.sqs[usize::from(sqid)] else { return };
        let entry = entry(sqid, sq.head(), cid.get(), status, result);
        if let Some(cq) = &mut self.cqs[usize::from(sq.cqid)] {
            cq.post(entry);
        }
    }

    /// Answers the commands that others have ended.
    pub(super) fn post_aborted(&mut self, context: &mut Context) {
        for (cid, status) in std::mem::take(&mut context.aborted) {
            self.post(0, cid.into(), status, 0);
        }
    }

    /// A doorbell has a value that cannot be: nothing happens with its queue until it has another. The host is told once.
    #[cold]
    pub(super) fn report(&mut self, qid: u16, Nonsense(value): Nonsense) {
        if std::mem::replace(&mut self.reported, true) {
            return;
        }
        tracing::warn!("{}: a doorbell of queue {qid} has the value {value:#x}, which is no place in it", self.name);
        if let Some(cid) = self.admin.take_event_request() {
            self.post(0, cid.into(), generic::SUCCESS, INVALID_DOORBELL);
        }
    }

    /// Ends the parked commands that `which` picks, with this status; returns how many there were.
    pub(super) fn abort_parked(
        &mut self,
        status: Status,
        context: &mut Context,
        which: impl Fn(u16, u16) -> bool,
    ) -> usize {
        let mut ended = Vec::new();
        let far = &mut self.far;
        self.parked.retain_mut(|(qid, job)| {
            let ends = which(*qid, job.command.cid.get());
            if ends {
                far.leave(job);
                job.release(&mut context.pool);
                ended.push((*qid, job.command.cid));
            }
            !ends
        });
        if let Some(faults) = &mut self.faults {
            ended.extend(faults.abort(which).into_iter().map(|(qid, cid)| (qid, cid.into())));
        }
        for &(qid, cid) in &ended {
            self.post(qid, cid, status, 0);
        }
        ended.len()
    }

    /// Carries out a write to CC.
    pub(super) fn configure(&mut self, cc: Cc, memory: Memory<'_>, context: &mut Context) {
        let starts = cc.en() && !self.admin.is_enabled();
        if let Some(faults) = self.faults.as_mut().filter(|_| starts) {
            faults.skip_resets();
        }
        let has_queue = starts && self.open_admin_queues(memory);
        let mut aborted = std::mem::take(&mut context.aborted);
        self.admin.configure(cc, has_queue, &mut aborted);
        context.aborted = aborted;
        if !self.admin.is_enabled() || (starts && !self.admin.is_ready()) {
            self.close_queues(context);
        }
        self.post_aborted(context);
        self.settle();
    }

    /// The admin queues that AQA, ASQ and ACQ name; false where they name none that can be.
    fn open_admin_queues(&mut self, memory: Memory<'_>) -> bool {
        let (submission, completion) = (u32::from(self.aqa.asqs()) + 1, u32::from(self.aqa.acqs()) + 1);
        let (sq, cq) = (self.entries(self.asq, submission, memory), self.entries(self.acq, completion, memory));
        let (Some(sq), Some(cq), true) = (sq, cq, submission > 1 && completion > 1) else {
            let (asq, acq) = (self.asq, self.acq);
            tracing::warn!(
                "{}: no admin queues of {submission} entries at {asq:#x} and {completion} at {acq:#x}: each has 2 or more, in \
                 memory that is mapped for reading and writing",
                self.name
            );
            return false;
        };
        self.open_cq(0, cq, Some(0));
        self.open_sq(0, 0, sq, None);
        true
    }

    /// The entries of a queue; none where not all of them are mapped for reading and writing.
    pub(super) fn entries<const WORDS: usize>(
        &self,
        address: u64,
        count: u32,
        memory: Memory<'_>,
    ) -> Option<Entries<WORDS>> {
        if let Some(ring) = memory.ring(address, count) {
            return Some(Entries { ring, copy: None });
        }
        let len = Ring::<WORDS>::bytes(count);
        let copy = memory.copy_of_ring(address, len).unwrap_or_else(|error| {
            tracing::error!("{}: no memory for the {len} bytes of a ring: {error}", self.name);
            None
        })?;
        Some(Entries { ring: Ring::new(copy.clone(), count)?, copy: Some(copy) })
    }

    /// Begins a completion queue.
    pub(super) fn open_cq(&mut self, qid: u16, Entries { ring, copy }: Entries<CQE>, mut vector: Option<u16>) {
        let doorbell = self.doorbell(qid, true);
        if let Some(copy) = copy {
            self.far.add_cq(qid, copy, ring.len(), vector.take());
        }
        self.cqs[usize::from(qid)] = Some(Cq::new(ring, doorbell, vector));
        self.completing.push(qid);
    }

    /// Begins a submission queue.
    pub(super) fn open_sq(
        &mut self,
        qid: u16,
        cqid: u16,
        Entries { ring, copy }: Entries<SQE>,
        queue: Option<IoQueue>,
    ) {
        let mut doorbell = self.doorbell(qid, false);
        if let Some(copy) = copy {
            doorbell = self.far.add_sq(qid, copy, ring.len(), doorbell);
        }
        self.sqs[usize::from(qid)] = Some(Sq::new(cqid, ring, doorbell, queue));
        self.submitting.push(qid);
    }

    /// A doorbell of a queue that begins, at 0.
    pub(super) fn doorbell(&self, qid: u16, completion: bool) -> Doorbell {
        let offset = match completion {
            true => register::cq_head_doorbell(qid, DSTRD),
            false => register::sq_tail_doorbell(qid, DSTRD),
        };
        self.bar.store_u32(offset, 0, Ordering::Relaxed);
        let register = Place { region: self.bar.clone(), offset, address: 0 };
        Doorbell { register, shadow: self.shadow_of(qid, completion) }
    }

    /// Lets go of all queues and of what was under way in them.
    pub(super) fn close_queues(&mut self, context: &mut Context) {
        let parked = self.parked.drain(..).map(|(_, job)| job);
        parked.for_each(|mut job| job.release(&mut context.pool));
        // What they hold where the host's memory was lost.
        self.jobs.iter_mut().for_each(|job| job.release(&mut context.pool));
        for qid in std::mem::take(&mut self.submitting) {
            if let Some(sq) = self.sqs[usize::from(qid)].take() {
                close(sq, context);
            }
        }
        for qid in std::mem::take(&mut self.completing) {
            self.cqs[usize::from(qid)] = None;
        }
        self.far.clear();
        self.shadow = None;
        self.reported = false;
        if let Some(faults) = &mut self.faults {
            drop(faults.clear());
        }
    }

    /// The host takes `len` bytes from `address` on back. Where queues lie in them the controller can do nothing more.
    pub(super) fn unmapped(&mut self, address: u64, len: u64, context: &mut Context) {
        let queues = self.sqs.iter().flatten().any(|sq| sq.ring.touches(address, len))
            || self.cqs.iter().flatten().any(|cq| cq.ring.touches(address, len));
        let page = u64::from(super::transfer::PAGE);
        let within = |place: &Place| place.address < address.saturating_add(len) && address < place.address + page;
        let shadow = self.shadow.as_ref();
        if queues || shadow.is_some_and(|shadow| within(&shadow.value) || within(&shadow.event)) {
            tracing::warn!(
                "{}: the memory of queues in use is unmapped; the controller fails until it is reset",
                self.name
            );
            self.close_queues(context);
            self.admin.fail();
        }
    }

    /// As it was when it began, but for the interrupts that the host wants to hear of.
    pub(super) fn reset(&mut self, memory: Memory<'_>, context: &mut Context) {
        self.configure(Cc::new(), memory, context);
        context.aborted.clear();
        (self.aqa, self.asq, self.acq, self.interrupts.mask) = (Aqa::new(), 0, 0, 0);
        let vectors = self.interrupts.count();
        self.config_space = ConfigSpace::new((self.sqs.len() - 1) as u16, vectors);
        self.table = Table::new(vectors);
    }

    /// Looks at the keep alive timer, and adds what was counted to the totals.
    pub(super) fn check(&mut self, context: &mut Context) {
        self.sqs.iter_mut().flatten().filter_map(|sq| sq.queue.as_mut()).for_each(|queue| queue.add_up());
        if let Some(faults) = &mut self.faults {
            faults.flush();
        }
        if self.admin.is_ready() && self.admin.expires().is_some_and(|end| context.now >= end) {
            tracing::warn!("{}: the keep alive timer has expired; the controller fails until it is reset", self.name);
            self.close_queues(context);
            self.admin.fail();
        }
    }

    /// Releases everything.
    pub(super) fn close(&mut self, context: &mut Context) {
        self.close_queues(context);
        self.interrupts.clear();
        self.admin.end();
    }
}

/// What a completion says: its status, and the result of a command that has one.
pub(super) type Said = (Status, u64);

/// Answers an I/O command, when the script lets it.
#[inline]
fn answer(cq: &mut Cq, faults: &mut Option<Box<Faults<Said>>>, sqid: u16, head: u16, cid: u16, said: Said) {
    let fate = faults.as_mut().map(|faults| faults.done(sqid, cid, said.0, said));
    if let None | Some(Fate::Send(_)) = fate {
        cq.post(entry(sqid, head, cid, said.0, said.1));
    }
}

/// Gives a submission queue back.
pub(super) fn close(sq: Sq, context: &Context) {
    if let Some(mut queue) = sq.queue {
        queue.close();
        context.shared.desks[context.desk].queues.fetch_sub(1, Ordering::Relaxed);
    }
}
