//! Hosts that share less than they map: what lies in memory that came without a descriptor is read and written by messages, as the
//! host answers them. Nothing here waits, and nothing of it is on the way of a host that shares its memory: a look-up that finds
//! memory that is not here ends with [`super::memory::Trouble::Far`], and only then the command comes here.
//!
//! `courier` carries out copies by messages; `lists` finds data through them; `io` and `admin` are commands on their way; `rings` are
//! queues.

mod admin;
mod courier;
mod io;
mod lists;
mod rings;

use std::time::{Duration, Instant};

use doorbell_spec::status::generic;
use doorbell_vfio_user::{Connection as Link, Errno};

use super::{
    End,
    function::Function,
    job::{Job, Lost},
    memory::{Memory, Trouble},
    rings::{Doorbell, Place},
};
use crate::{controller::IoQueue, listener::Context, namespace::Outcome};
pub(super) use admin::AdminJob;
use admin::Next;
use courier::Courier;
pub(super) use io::Stage;
use rings::{FarCq, FarSq, Stuck};

/// I/O commands that are under way at a time: each may hold as much as a command may transfer, and its lists.
const MOST_SEATED: usize = 32;
/// Admin commands from which on no other is taken.
const MOST_ADMIN: usize = 32;

/// What a function does by messages.
#[derive(Debug, Default)]
pub(super) struct Far {
    courier: Courier,
    sqs: Vec<FarSq>,
    cqs: Vec<FarCq>,
    admin: Vec<AdminJob>,
    /// I/O commands that are under way.
    seated: usize,
    /// There may be something to do.
    awake: bool,
}

impl Far {
    /// Whether [`Function::pass_far`] may have something to do.
    #[inline]
    pub(super) fn is_awake(&self) -> bool {
        self.awake
    }

    /// Whether so many Admin commands are under way that no other should be taken.
    pub(super) fn is_full(&self) -> bool {
        self.admin.len() >= MOST_ADMIN
    }

    /// Whether the host has left a message without an answer for so long.
    pub(super) fn is_overdue(&self, now: Instant, patience: Duration) -> bool {
        self.courier.is_overdue(now, patience)
    }

    /// A message has its answer.
    pub(super) fn moved(&mut self, id: u16, result: Result<Vec<u8>, Errno>) {
        self.courier.moved(id, result);
    }

    /// Takes on an Admin command.
    pub(super) fn take_admin(&mut self, job: AdminJob) {
        self.admin.push(job);
        self.awake = true;
    }

    /// Takes on a submission queue; returns the doorbell that the controller looks at.
    pub(super) fn add_sq(&mut self, qid: u16, ring: Place, entries: u32, doorbell: Doorbell) -> Doorbell {
        let (sq, seen) = FarSq::new(qid, ring, entries, doorbell);
        self.sqs.push(sq);
        self.awake = true;
        seen
    }

    /// Takes on a completion queue.
    pub(super) fn add_cq(&mut self, qid: u16, ring: Place, entries: u32, vector: Option<u16>) {
        self.cqs.push(FarCq::new(qid, ring, entries, vector));
        self.awake = true;
    }

    /// The host's doorbell of a submission queue that is served here.
    pub(super) fn doorbell(&mut self, qid: u16) -> Option<&mut Doorbell> {
        self.sqs.iter_mut().find(|sq| sq.qid == qid).map(|sq| &mut sq.doorbell)
    }

    /// Lets go of a submission queue.
    pub(super) fn remove_sq(&mut self, qid: u16) {
        let courier = &mut self.courier;
        self.sqs.extract_if(.., |sq| sq.qid == qid).for_each(|sq| sq.cancel(courier));
    }

    /// Lets go of a completion queue.
    pub(super) fn remove_cq(&mut self, qid: u16) {
        let courier = &mut self.courier;
        self.cqs.extract_if(.., |cq| cq.qid == qid).for_each(|cq| cq.cancel(courier));
    }

    /// Lets go of all there is. Messages that have been sent still have their answers.
    pub(super) fn clear(&mut self) {
        self.courier.clear();
        self.sqs.clear();
        self.cqs.clear();
        self.admin.clear();
        self.seated = 0;
    }

    /// Lets go of an I/O command that ends before it is done.
    pub(super) fn leave(&mut self, job: &mut Job) {
        if let Some(stage) = job.far.take() {
            stage.cancel(&mut self.courier);
            self.seated -= usize::from(!matches!(stage, Stage::New));
        }
    }

    /// Takes an I/O command further that has come here.
    pub(super) fn proceed(
        &mut self,
        job: &mut Job,
        queue: &mut IoQueue,
        memory: Memory<'_>,
        context: &mut Context,
    ) -> Result<Outcome, Lost> {
        let Some(mut stage) = job.far.take() else { return Ok(Outcome::Again) };
        if matches!(stage, Stage::New) {
            if self.seated >= MOST_SEATED {
                job.far = Some(stage);
                return Ok(Outcome::Again);
            }
            self.seated += 1;
        }
        self.awake = true;
        let outcome = match job.step(&mut stage, queue, memory, &mut self.courier, context) {
            Ok(outcome) => outcome,
            Err(Trouble::Status(status)) => Outcome::Done(status),
            Err(Trouble::Far) => Outcome::Done(generic::DATA_TRANSFER_ERROR.with_dnr()),
            Err(Trouble::Lost) => return Err(Lost),
        };
        match outcome {
            Outcome::Done(_) => {
                self.seated -= 1;
                job.release(&mut context.pool);
            }
            Outcome::Turn | Outcome::Again => job.far = Some(stage),
        }
        Ok(outcome)
    }
}

impl Function {
    /// Does what is to do by messages; returns whether something came forward.
    pub(super) fn pass_far(&mut self, link: &mut Link, context: &mut Context) -> Result<bool, End> {
        let mut any = self.pass_far_admin(Memory(link.map()), context)?;
        any |= self.pass_far_rings(context);
        any |= self.far.courier.run(link, context.now)?;
        let Far { courier, sqs, cqs, admin, awake, .. } = &mut self.far;
        *awake = !(courier.is_idle() && sqs.is_empty() && cqs.is_empty() && admin.is_empty());
        link.flush()?;
        Ok(any)
    }

    fn pass_far_admin(&mut self, memory: Memory<'_>, context: &mut Context) -> Result<bool, Lost> {
        let mut any = false;
        for mut job in std::mem::take(&mut self.far.admin) {
            let done = match job.step(memory, &mut self.far.courier) {
                Ok(Next::Wait) => {
                    self.far.admin.push(job);
                    continue;
                }
                Ok(Next::Execute(data)) => self.execute(&job.command, &data, memory, context),
                Ok(Next::Done(status, result)) => Ok(Some((status, result))),
                Err(trouble) => Err(trouble),
            };
            self.answer(job.command.cid, done, context)?;
            any = true;
        }
        Ok(any)
    }

    /// Brings the copies of rings and the rings together.
    fn pass_far_rings(&mut self, context: &mut Context) -> bool {
        let (mut any, mut nonsense, mut unreachable) = (false, None, None);
        let Far { courier, sqs, cqs, .. } = &mut self.far;
        for sq in sqs {
            match sq.pass(courier) {
                Ok(came) => any |= came,
                Err(Stuck::Nonsense(value)) => nonsense = Some((sq.qid, value)),
                Err(Stuck::Unreachable) => unreachable = Some(("submission", sq.qid)),
            }
        }
        // Who hears that a queue is deleted has all that was in it: the Admin queue, which is the first, has its turn after the others.
        let mut is_even = true;
        for far in cqs.iter_mut().rev() {
            let Some(cq) = &self.cqs[usize::from(far.qid)] else { continue };
            if far.qid == 0 && !is_even {
                continue;
            }
            match far.pass(cq.tail(), courier) {
                Ok(Some(vector)) => {
                    self.interrupts.raise(vector);
                    any = true;
                }
                Ok(None) => {}
                Err(Stuck::Nonsense(value)) => nonsense = Some((far.qid, value)),
                Err(Stuck::Unreachable) => unreachable = Some(("completion", far.qid)),
            }
            is_even &= far.is_even(cq.tail());
        }
        if let Some((qid, value)) = nonsense {
            self.report(qid, value);
        }
        if let Some((kind, qid)) = unreachable {
            tracing::warn!(
                "{}: the host does not give the memory of {kind} queue {qid}; the controller fails until it is reset",
                self.name()
            );
            self.close_queues(context);
            self.admin.fail();
        }
        any
    }
}
