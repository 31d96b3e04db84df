//! The PCI function that a host has: a controller of the subsystem behind registers, and the queues in the host's memory.
//!
//! A pass looks at each submission queue once, takes at most [`BATCH`] entries and answers at once what can be answered; the rest is
//! parked and tried again each pass. Nothing is taken that there is no room for in the completion queue.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, atomic::Ordering},
};

use doorbell_platform::Region;
use doorbell_spec::{
    command::Command,
    completion::Completion,
    register::{self, Aqa, Cc},
    status::{Status, generic},
};
use zerocopy::{FromZeros, little_endian::U16};

use super::{
    config_space::{self, ConfigSpace, Table},
    far::{Far, Stage},
    interrupts::Interrupts,
    job::{Job, Lost, Stop},
    memory::Memory,
    rings::{CQE, Cq, Doorbell, Nonsense, Place, SQE, Shadow, Sq},
};
use crate::{
    controller::{Admin, DSTRD, IoQueue},
    listener::Context,
    namespace::Outcome,
    subsystem::Subsystem,
};

/// Most entries taken from a queue before the next has its turn.
const BATCH: u32 = 64;
/// Entries taken before the first of them is carried out, so that what the others will touch is on its way to the cache.
const AHEAD: u32 = 4;
/// Parked commands that are tried in a pass.
const TRIES: usize = 32;
/// Parked commands from which on no I/O command is taken.
const MOST_PARKED: usize = 1024;
/// Dword 0 of the event that tells of a doorbell with a value that cannot be: an error, "Invalid Doorbell Write Value", the page that
/// it would be logged in (Base 5.1.2.1).
const INVALID_DOORBELL: u64 = 0x01_01_00;

/// The memory that a ring is worked on in.
#[derive(Debug)]
pub(super) enum RingPlace {
    /// The host's own.
    Shared(Place),
    /// A copy that goes to and fro by messages.
    Copy(Place),
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
    #[expect(clippy::vec_box, reason = "jobs move from here to the parked ones and back; only their boxes should")]
    idle: Vec<Box<Job>>,
    /// What is done by messages.
    pub(super) far: Far,
    /// Shadow doorbells and event indexes of the I/O queues.
    pub(super) shadow: Option<Shadow>,
    /// A doorbell has had a value that cannot be.
    reported: bool,
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
            idle: Vec::new(),
            far: Far::default(),
            shadow: None,
            reported: false,
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
        let mut job = self.idle.pop().unwrap_or_default();
        let mut window: [Command; AHEAD as usize] = FromZeros::new_zeroed();
        let (mut taken, mut done, mut most) = (0, 0, count);
        while done < most {
            while taken < most.min(done + AHEAD) {
                let command = sq.take();
                if let Some(queue) = sq.queue.as_ref().filter(|_| most > 1) {
                    queue.approach(&command);
                }
                window[(taken % AHEAD) as usize] = command;
                taken += 1;
            }
            if sq.is_lost() {
                return Err(Lost);
            }
            let head = sq.head();
            let Some(queue) = &mut sq.queue else { break };
            if done + 1 < taken {
                queue.foresee(&context.pool, &window[((done + 1) % AHEAD) as usize]);
            }
            let command = window[(done % AHEAD) as usize];
            done += 1;
            let outcome = match job.begin(command, queue, memory, context) {
                Ok(outcome) => outcome,
                Err(Stop::Lost) => return Err(Lost),
                Err(Stop::Far) => {
                    job.far = Some(Stage::New);
                    Outcome::Again
                }
            };
            if let Outcome::Done(status) = outcome {
                cq.post(completion(qid, head, command.cid, status, 0));
                continue;
            }
            self.parked.push_back((qid, job));
            job = self.idle.pop().unwrap_or_default();
            // One long command is enough: a queue full of them must not keep others waiting.
            if outcome == Outcome::Turn {
                most = taken;
            }
        }
        self.idle.push(job);
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
        for _ in 0..count {
            let Some(sq) = &mut self.sqs[0] else { break };
            let command = sq.take();
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
                        job.far = Some(Stage::New);
                        Outcome::Again
                    }
                }
            };
            any |= outcome != Outcome::Again;
            if let Outcome::Done(status) = outcome {
                self.post(qid, job.command.cid, status, 0);
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
        let completion = completion(sqid, sq.head(), cid, status, result);
        if let Some(cq) = &mut self.cqs[usize::from(sq.cqid)] {
            cq.post(completion);
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
        which: impl Fn(u16, &Job) -> bool,
    ) -> usize {
        let mut ended = Vec::new();
        let far = &mut self.far;
        self.parked.retain_mut(|(qid, job)| {
            let ends = which(*qid, job);
            if ends {
                far.leave(job);
                job.release(&mut context.pool);
                ended.push((*qid, job.command.cid));
            }
            !ends
        });
        for &(qid, cid) in &ended {
            self.post(qid, cid, status, 0);
        }
        ended.len()
    }

    /// Carries out a write to CC.
    pub(super) fn configure(&mut self, cc: Cc, memory: Memory<'_>, context: &mut Context) {
        let starts = cc.en() && !self.admin.is_enabled();
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
        let sq = self.ring_place(self.asq, u64::from(submission) * SQE, memory);
        let cq = self.ring_place(self.acq, u64::from(completion) * CQE, memory);
        let (Some(sq), Some(cq), true) = (sq, cq, submission > 1 && completion > 1) else {
            let (asq, acq) = (self.asq, self.acq);
            tracing::warn!(
                "{}: no admin queues of {submission} entries at {asq:#x} and {completion} at {acq:#x}: each has 2 or more, in \
                 memory that is mapped for reading and writing",
                self.name
            );
            return false;
        };
        self.open_cq(0, cq, completion, Some(0));
        self.open_sq(0, 0, sq, submission, None);
        true
    }

    /// The memory of a ring; none where it is not all mapped for reading and writing.
    pub(super) fn ring_place(&self, address: u64, len: u64, memory: Memory<'_>) -> Option<RingPlace> {
        let shared = memory.place(address, len).map(RingPlace::Shared);
        shared.or_else(|| match memory.copy_of_ring(address, len) {
            Ok(copy) => copy.map(RingPlace::Copy),
            Err(error) => {
                tracing::error!("{}: no memory for the {len} bytes of a ring: {error}", self.name);
                None
            }
        })
    }

    /// Begins a completion queue.
    pub(super) fn open_cq(&mut self, qid: u16, place: RingPlace, entries: u32, vector: Option<u16>) {
        let doorbell = self.doorbell(qid, true);
        let (place, vector) = match place {
            RingPlace::Shared(place) => (place, vector),
            RingPlace::Copy(place) => {
                self.far.add_cq(qid, place.clone(), entries, vector);
                (place, None)
            }
        };
        self.cqs[usize::from(qid)] = Some(Cq::new(place, entries, doorbell, vector));
        self.completing.push(qid);
    }

    /// Begins a submission queue.
    pub(super) fn open_sq(&mut self, qid: u16, cqid: u16, place: RingPlace, entries: u32, queue: Option<IoQueue>) {
        let doorbell = self.doorbell(qid, false);
        let (place, doorbell) = match place {
            RingPlace::Shared(place) => (place, doorbell),
            RingPlace::Copy(place) => (place.clone(), self.far.add_sq(qid, place, entries, doorbell)),
        };
        self.sqs[usize::from(qid)] = Some(Sq::new(cqid, place, entries, doorbell, queue));
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
        for (_, mut job) in self.parked.drain(..) {
            job.far = None;
            job.release(&mut context.pool);
        }
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
    }

    /// The host takes `len` bytes from `address` on back. Where queues lie in them the controller can do nothing more.
    pub(super) fn unmapped(&mut self, address: u64, len: u64, context: &mut Context) {
        let touches =
            |place: &Place, bytes: u64| place.address < address.saturating_add(len) && address < place.address + bytes;
        let page = u64::from(super::transfer::PAGE);
        let queues = self.sqs.iter().flatten().any(|sq| touches(&sq.place, u64::from(sq.entries) * SQE))
            || self.cqs.iter().flatten().any(|cq| touches(&cq.place, u64::from(cq.entries) * CQE));
        let shadow = self.shadow.as_ref();
        if queues || shadow.is_some_and(|shadow| touches(&shadow.value, page) || touches(&shadow.event, page)) {
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

/// Gives a submission queue back.
pub(super) fn close(sq: Sq, context: &Context) {
    if let Some(mut queue) = sq.queue {
        queue.close();
        context.shared.desks[context.desk].queues.fetch_sub(1, Ordering::Relaxed);
    }
}

#[inline]
fn completion(sqid: u16, head: u16, cid: U16, status: Status, result: u64) -> Completion {
    let mut completion = Completion::new(cid.get(), head, status, result);
    completion.sqid = sqid.into();
    completion
}
