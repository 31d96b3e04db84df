//! Admin commands: those that make and unmake queues in the host's memory (Base 5.2) here, all others by the controller model, with
//! their data copied between the host's memory and ours.

use std::sync::atomic::Ordering;

use doorbell_spec::{
    command::{AbortRequest, AdminOpcode, Command, FLAGS_PSDT, QueueRequest},
    register,
    status::{Status, command_specific, generic},
};
use zerocopy::little_endian::U16;

use super::{
    far::AdminJob,
    function::{Entries, Function, close},
    job::Lost,
    memory::{Memory, Trouble},
    rings::{Place, Shadow},
    transfer::{self, PAGE},
};
use crate::{controller::DSTRD, listener::Context};

/// What comes of a command: its status and result; none for an event request, which stays, and for what waits for the host.
pub(super) type Done = Option<(Status, u64)>;

impl Function {
    /// Carries out an Admin command and answers it.
    pub(super) fn admin_command(
        &mut self,
        command: &Command,
        memory: Memory<'_>,
        context: &mut Context,
    ) -> Result<(), Lost> {
        let done = self.carry_out(command, memory, context);
        self.answer(command.cid, done, context)
    }

    /// Answers an Admin command with what came of it.
    pub(super) fn answer(&mut self, cid: U16, done: Result<Done, Trouble>, context: &mut Context) -> Result<(), Lost> {
        let done = match done {
            Ok(done) => done,
            Err(Trouble::Status(status)) => Some((status, 0)),
            Err(Trouble::Far) => Some((generic::DATA_TRANSFER_ERROR.with_dnr(), 0)),
            Err(Trouble::Lost) => return Err(Lost),
        };
        self.post_aborted(context);
        if let Some((status, result)) = done {
            self.post(0, cid, status, result);
        }
        Ok(())
    }

    fn carry_out(&mut self, command: &Command, memory: Memory<'_>, context: &mut Context) -> Result<Done, Trouble> {
        self.admin.check(command).map_err(Trouble::Status)?;
        // Data of Admin commands is named by PRP entries (PCIe Transport 3.3).
        if command.fuse() != 0 || command.flags & FLAGS_PSDT != 0 {
            return Err(Trouble::Status(generic::INVALID_FIELD.with_dnr()));
        }
        let request = QueueRequest::parse(command);
        let status = match AdminOpcode(command.opc) {
            AdminOpcode::CREATE_IO_CQ => self.create_cq(&request, memory),
            AdminOpcode::CREATE_IO_SQ => self.create_sq(&request, memory, context),
            AdminOpcode::DELETE_IO_CQ => self.delete_cq(request.qid),
            AdminOpcode::DELETE_IO_SQ => self.delete_sq(request.qid, context),
            AdminOpcode::DOORBELL_BUFFER_CONFIG => self.use_shadows(command, memory),
            AdminOpcode::ABORT if AbortRequest::parse(command).sqid != 0 => {
                let AbortRequest { sqid, cid } = AbortRequest::parse(command);
                let picked = |of, id| (of, id) == (sqid, cid);
                let ended = self.abort_parked(generic::ABORT_REQUESTED, context, picked);
                return Ok(Some((generic::SUCCESS, u64::from(ended == 0))));
            }
            _ => return self.ask(command, memory, context),
        };
        Ok(Some((status.err().unwrap_or(generic::SUCCESS), 0)))
    }

    /// Carries out a command of the controller model.
    fn ask(&mut self, command: &Command, memory: Memory<'_>, context: &mut Context) -> Result<Done, Trouble> {
        let mut pieces = Vec::new();
        let input = self.admin.input(command);
        let mut bytes = std::mem::take(&mut context.bytes);
        bytes.resize(input as usize, 0);
        let gathered =
            transfer::prp(memory, prps(command), input, &mut pieces).and_then(|()| memory.gather(&pieces, &mut bytes));
        let done = match gathered {
            Ok(()) => self.execute(command, &bytes, memory, context),
            Err(Trouble::Far) => {
                self.far.take_admin(AdminJob::asking(*command, input));
                Ok(None)
            }
            Err(trouble) => Err(trouble),
        };
        context.bytes = bytes;
        done
    }

    /// The same once its data is here.
    pub(super) fn execute(
        &mut self,
        command: &Command,
        data: &[u8],
        memory: Memory<'_>,
        context: &mut Context,
    ) -> Result<Done, Trouble> {
        let answer = self.admin.execute(command, data, None, context.now, &mut context.aborted);
        let Some(answer) = answer else { return Ok(None) };
        let done = Some((answer.status, answer.result));
        if answer.data.is_empty() {
            return Ok(done);
        }
        let mut pieces = Vec::new();
        let written = transfer::prp(memory, prps(command), answer.data.len() as u32, &mut pieces)
            .and_then(|()| memory.write(&pieces, &answer.data));
        if written == Err(Trouble::Far) {
            self.far.take_admin(AdminJob::answering(*command, answer));
            return Ok(None);
        }
        written.map(|()| done)
    }

    /// The entries of a queue that is to be made.
    fn ring<const WORDS: usize>(&self, request: &QueueRequest, memory: Memory<'_>) -> Result<Entries<WORDS>, Status> {
        let entries = u32::from(request.qsize) + 1;
        if entries < 2 || entries > self.admin.max_queue_entries() {
            return Err(command_specific::INVALID_QUEUE_SIZE.with_dnr());
        }
        // CAP.CQR: queues are in one piece.
        if !request.pc {
            return Err(generic::INVALID_FIELD.with_dnr());
        }
        if !request.prp1.is_multiple_of(PAGE.into()) {
            return Err(generic::PRP_OFFSET_INVALID.with_dnr());
        }
        self.entries(request.prp1, entries, memory).ok_or(generic::DATA_TRANSFER_ERROR.with_dnr())
    }

    /// Create I/O Completion Queue (Base 5.2.1).
    fn create_cq(&mut self, request: &QueueRequest, memory: Memory<'_>) -> Result<(), Status> {
        let qid = request.qid;
        if qid == 0 || qid > self.admin.granted_queues() || self.cqs[usize::from(qid)].is_some() {
            return Err(command_specific::INVALID_QUEUE_IDENTIFIER.with_dnr());
        }
        let ring = self.ring(request, memory)?;
        let vector = request.ien.then_some(request.cqid_or_vector);
        if vector.is_some_and(|vector| vector >= self.interrupts.count()) {
            return Err(command_specific::INVALID_INTERRUPT_VECTOR.with_dnr());
        }
        self.open_cq(qid, ring, vector);
        Ok(())
    }

    /// Create I/O Submission Queue (Base 5.2.2).
    fn create_sq(&mut self, request: &QueueRequest, memory: Memory<'_>, context: &Context) -> Result<(), Status> {
        let (qid, cqid, most) = (request.qid, request.cqid_or_vector, self.admin.granted_queues());
        if qid == 0 || qid > most || cqid == 0 || cqid > most || self.sqs[usize::from(qid)].is_some() {
            return Err(command_specific::INVALID_QUEUE_IDENTIFIER.with_dnr());
        }
        if self.cqs[usize::from(cqid)].is_none() {
            return Err(command_specific::COMPLETION_QUEUE_INVALID.with_dnr());
        }
        let ring = self.ring(request, memory)?;
        let queue = self.admin.open_queue(qid);
        let queue = queue.map_err(|_| command_specific::INVALID_QUEUE_IDENTIFIER.with_dnr())?;
        context.shared.desks[context.desk].queues.fetch_add(1, Ordering::Relaxed);
        self.open_sq(qid, cqid, ring, Some(queue));
        if let Some(cq) = &mut self.cqs[usize::from(cqid)] {
            cq.users += 1;
        }
        Ok(())
    }

    /// Delete I/O Completion Queue (Base 5.2.3).
    fn delete_cq(&mut self, qid: u16) -> Result<(), Status> {
        let cq = self.cqs.get_mut(usize::from(qid)).filter(|cq| qid != 0 && cq.is_some());
        let cq = cq.ok_or(command_specific::INVALID_QUEUE_IDENTIFIER.with_dnr())?;
        if cq.as_ref().is_some_and(|cq| cq.users > 0) {
            return Err(command_specific::INVALID_QUEUE_DELETION.with_dnr());
        }
        *cq = None;
        self.far.remove_cq(qid);
        self.completing.retain(|&other| other != qid);
        Ok(())
    }

    /// Delete I/O Submission Queue (Base 5.2.4): what is under way in it is aborted first.
    fn delete_sq(&mut self, qid: u16, context: &mut Context) -> Result<(), Status> {
        if qid == 0 || self.sqs.get(usize::from(qid)).is_none_or(Option::is_none) {
            return Err(command_specific::INVALID_QUEUE_IDENTIFIER.with_dnr());
        }
        self.abort_parked(generic::ABORTED_SQ_DELETION, context, |of, _| of == qid);
        if let Some(sq) = self.sqs[usize::from(qid)].take() {
            if let Some(cq) = &mut self.cqs[usize::from(sq.cqid)] {
                cq.users -= 1;
            }
            close(sq, context);
        }
        self.submitting.retain(|&other| other != qid);
        self.far.remove_sq(qid);
        Ok(())
    }

    /// Doorbell Buffer Config (Base 5.2.5): from now on the host writes the I/O queues' doorbells to a page of its own. That is no
    /// gain where the doorbells are memory too, but what a host may have learnt to do.
    fn use_shadows(&mut self, command: &Command, memory: Memory<'_>) -> Result<(), Status> {
        let pages = [command.dptr.prp1(), command.dptr.prp2()];
        if pages.iter().any(|page| !page.is_multiple_of(PAGE.into())) {
            return Err(generic::PRP_OFFSET_INVALID.with_dnr());
        }
        let end = register::sq_tail_doorbell(self.admin.granted_queues() + 1, DSTRD) - u64::from(register::DOORBELLS);
        if end > PAGE.into() {
            // The doorbells of that many queues have no room in the page.
            return Err(generic::INVALID_FIELD.with_dnr());
        }
        let [value, event] = pages.map(|page| memory.place(page, PAGE.into()));
        let (Some(value), Some(event)) = (value, event) else {
            tracing::warn!(
                "{}: shadow doorbells are looked at all the time, so they lie in memory that is shared; the host does without",
                self.name()
            );
            return Err(generic::DATA_TRANSFER_ERROR.with_dnr());
        };
        self.shadow = Some(Shadow { value, event });
        for at in 1..self.sqs.len() {
            let (sq_shadow, cq_shadow) = (self.shadow_of(at as u16, false), self.shadow_of(at as u16, true));
            let far = self.far.doorbell(at as u16);
            if let Some(doorbell) = far.or(self.sqs[at].as_mut().map(|sq| &mut sq.doorbell)) {
                doorbell.shadow = sq_shadow;
            }
            if let Some(cq) = &mut self.cqs[at] {
                cq.doorbell.shadow = cq_shadow;
            }
        }
        Ok(())
    }

    /// The shadow of a doorbell, which is as far into the page as the doorbell is behind the first one.
    pub(super) fn shadow_of(&self, qid: u16, completion: bool) -> Option<Shadow> {
        let shadow = self.shadow.as_ref().filter(|_| qid != 0)?;
        let doorbell = match completion {
            true => register::cq_head_doorbell(qid, DSTRD),
            false => register::sq_tail_doorbell(qid, DSTRD),
        };
        let within = doorbell - u64::from(register::DOORBELLS);
        let at = |place: &Place| Place { offset: place.offset + within, ..place.clone() };
        (within < PAGE.into()).then(|| Shadow { value: at(&shadow.value), event: at(&shadow.event) })
    }
}

fn prps(command: &Command) -> [u64; 2] {
    [command.dptr.prp1(), command.dptr.prp2()]
}
