//! What a controller does with the PDUs of one NVMe/TCP connection: commands in, data and responses out. It owns no socket; the
//! reactor's [`Context`] lends it memory, [`super::tcp`] joins it to a socket.
//!
//! Reads that find their data are answered some at a time, without a slot, before what came with them is left. Every other command
//! takes a slot, which keeps its frames until it is done; a small Write whose data came with it at once needs no frames. What cannot go
//! on (no frames, too much waiting to be sent, a namespace that wants another turn) is parked and tried again each pass. What a fault script does to answers is in [`faults`].

mod faults;

use std::{collections::VecDeque, net::SocketAddr, sync::atomic::Ordering, time::Instant};

use doorbell_platform::{Range, Region};
use doorbell_spec::{
    command::{Command, Direction, NvmOpcode, SglKind},
    completion::Completion,
    status::{Status, generic},
    tcp::{DataHeader, Fes, IcReq, IcResp, PDA_MAX, PFV, flags},
};
use doorbell_tcp::{DataPdu, Digests, Pdu, Role, Sender, Sink, Violation};

use super::Context;
use crate::{
    controller::{Accepted, IoQueue, Need, Progress, Session, Transport, connect},
    fault::Faults,
    frames::{Frame, FrameStore, frames_for, place, push_ranges},
    namespace::{Found, Outcome, Pool, RESERVE},
};

/// Most bytes of data of one H2CData PDU (MAXH2CDATA).
pub(super) const MOST_H2C_DATA: u32 = 512 << 10;
/// Most bytes of data in a command capsule of an admin queue (TCP 3.3.2.2).
const ADMIN_IN_CAPSULE: u32 = 8192;
/// Bytes waiting to be sent from which on no more data is looked up.
const BACKLOG: u64 = 4 << 20;
/// Bytes waiting to be sent from which on nothing more is received.
const MOST_BACKLOG: u64 = 2 * BACKLOG;
/// Bytes of data a connection has asked its host for at a time; a command that is alone may ask for more.
const MOST_REQUESTED: u32 = 4 << 20;
/// Reads that are looked up together.
const READS: usize = 16;
/// Parked commands that are tried in a pass.
const TRIES: usize = 32;

/// The controller's end of a connection.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) sender: Sender,
    pub(super) session: Session,
    phase: Phase,
    /// The address that the host connected to.
    local: SocketAddr,
    slots: Vec<Slot>,
    idle: Vec<u16>,
    parked: VecDeque<u16>,
    /// Reads that have come one behind the other with what was received last, and the bytes that they take.
    reads: Vec<(Command, u32)>,
    /// Frames that are being sent, and the position in the stream behind which they are no longer needed.
    held: VecDeque<(u64, Frame)>,
    /// Bytes asked for with R2T that have not come.
    requested: u32,
    entries: u32,
    head: u32,
    flow_control: bool,
    outstanding: u32,
    /// A command has come forward without being done.
    turned: bool,
    /// What goes wrong on this queue, if so.
    faults: Option<Box<Faults<faults::Answer>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// ICReq must come.
    Fresh,
    /// It has; the receiver does not know of the digests yet.
    Agreed(Digests),
    /// Commands may come.
    Running,
    /// Disconnect has been answered.
    Leaving,
}

/// A command that is not done at once.
#[derive(Debug)]
struct Slot {
    command: Command,
    stage: Stage,
    /// The frames of its data, `skew` bytes into the first.
    frames: Vec<Frame>,
    skew: u32,
    /// Bytes of data, and how many have come.
    len: u32,
    got: u32,
    /// Bytes of the data PDU that is being received.
    coming: u32,
    /// When its data was asked for, or a part of it last came.
    since: Instant,
    /// What to answer when the data is here, whatever it is.
    verdict: Option<Status>,
    progress: Progress,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Idle,
    /// Waits for frames to receive its data in.
    Wanting,
    /// Its data comes in its capsule.
    InCapsule,
    /// Its data has been asked for.
    Requested,
    /// It can be carried out.
    Ready,
}

impl Exchange {
    pub(super) fn new(local: SocketAddr) -> Self {
        Self {
            sender: Sender::new(Role::Controller),
            session: Session::None,
            phase: Phase::Fresh,
            local,
            slots: Vec::new(),
            idle: Vec::new(),
            parked: VecDeque::new(),
            reads: Vec::with_capacity(READS),
            held: VecDeque::new(),
            requested: 0,
            // Connect comes alone.
            entries: 2,
            head: 0,
            flow_control: true,
            outstanding: 0,
            turned: false,
            faults: None,
        }
    }

    /// The digests for the receiver to use, once.
    pub(super) fn agreement(&mut self) -> Option<Digests> {
        let Phase::Agreed(digests) = self.phase else {
            return None;
        };
        self.phase = Phase::Running;
        Some(digests)
    }

    /// Whether Connect has succeeded.
    pub(super) fn is_connected(&self) -> bool {
        !matches!(self.session, Session::None)
    }

    /// Whether the host has disconnected this queue.
    pub(super) fn is_leaving(&self) -> bool {
        self.phase == Phase::Leaving
    }

    /// Whether the controller that this queue belongs to has been reset or is gone.
    #[inline]
    pub(super) fn is_over(&self) -> bool {
        matches!(&self.session, Session::Io(queue) if queue.is_over())
    }

    /// Since when the data of a command has been waited for that was asked for, or of which the last part has come, longest ago.
    pub(super) fn awaited(&self) -> Option<Instant> {
        if self.requested == 0 {
            return None;
        }
        let waiting = self.slots.iter().filter(|slot| slot.stage == Stage::Requested && slot.coming == 0);
        waiting.map(|slot| slot.since).min()
    }

    /// Whether something is parked that another pass may bring forward without anything happening on the socket.
    pub(super) fn wants_pass(&self) -> bool {
        (!self.parked.is_empty() && self.backlog() < BACKLOG) || self.due().is_some()
    }

    /// Whether more may be received.
    #[inline]
    pub(super) fn takes_more(&self) -> bool {
        self.backlog() < MOST_BACKLOG
    }

    /// Releases the frames that have been sent.
    #[inline]
    pub(super) fn sent(&mut self, pool: &mut Pool) {
        let released = self.sender.released();
        while let Some(&(position, frame)) = self.held.front()
            && position <= released
        {
            pool.frames.release(frame);
            self.held.pop_front();
        }
        if let Some(faults) = &mut self.faults {
            faults.left();
        }
    }

    /// Tries parked commands again; returns whether one has come forward.
    pub(super) fn resume(&mut self, context: &mut Context) -> bool {
        let mut any = false;
        self.turned = false;
        for _ in 0..self.parked.len().min(TRIES) {
            let Some(index) = self.parked.pop_front() else { break };
            if self.run(index, context) {
                any = true;
            } else {
                self.parked.push_back(index);
            }
        }
        any || self.turned
    }

    /// Ends the session and gives up every command; what is queued can still be sent.
    pub(super) fn end(&mut self, context: &mut Context) {
        let desk = &context.shared.desks[context.desk];
        match std::mem::replace(&mut self.session, Session::None) {
            Session::None => {}
            Session::Admin(admin) => admin.end(),
            Session::Io(mut queue) => {
                queue.close();
                desk.queues.fetch_sub(1, Ordering::Relaxed);
            }
        }
        for slot in &mut self.slots {
            slot.frames.drain(..).for_each(|frame| context.pool.frames.release(frame));
        }
        self.parked.clear();
        self.reads.clear();
        self.end_faults(context);
    }

    /// Releases what is left, but for frames that the system still sends from, which nobody may use again; returns how many.
    pub(super) fn close(&mut self, context: &mut Context) -> usize {
        self.end(context);
        self.sent(&mut context.pool);
        if self.sender.released() < self.sender.sent() {
            return std::mem::take(&mut self.held).len();
        }
        self.held.drain(..).for_each(|(_, frame)| context.pool.frames.release(frame));
        0
    }

    /// Bytes that wait to be sent.
    #[inline]
    pub(super) fn backlog(&self) -> u64 {
        self.sender.queued() - self.sender.sent()
    }

    fn initialize(&mut self, request: &IcReq) -> Result<(), Violation> {
        if self.phase != Phase::Fresh {
            return Err(Violation::new(Fes::PDU_SEQUENCE_ERROR, 0, "a second ICReq"));
        }
        if request.pfv.get() != PFV {
            let what = format!("PDU format version {} is not known", request.pfv.get());
            return Err(Violation::new(Fes::UNSUPPORTED_PARAMETER, 8, what));
        }
        if request.hpda > PDA_MAX {
            return Err(Violation::field(10, format!("HPDA {} is more than {PDA_MAX}", request.hpda)));
        }
        let digests = Digests::from_bits(request.digest);
        self.sender.initialize(&IcResp::new(0, digests.bits(), MOST_H2C_DATA));
        self.sender.use_agreement(digests, request.hpda);
        self.phase = Phase::Agreed(digests);
        Ok(())
    }

    /// A command, with `data_len` bytes of data behind it; returns the slot that takes them.
    #[inline]
    fn command(&mut self, command: &Command, data_len: u32, context: &mut Context) -> Result<u32, Violation> {
        if self.phase != Phase::Running {
            return Err(Violation::new(Fes::PDU_SEQUENCE_ERROR, 0, "a command before ICResp or after Disconnect"));
        }
        // Reads that have come can be answered now, so they do not count.
        if self.outstanding >= self.entries {
            self.read(context);
        }
        if self.outstanding >= self.entries {
            let what = format!("more than {} commands outstanding", self.entries);
            return Err(Violation::new(Fes::PDU_SEQUENCE_ERROR, 0, what));
        }
        self.outstanding += 1;
        self.head = if self.head + 1 >= self.entries { 0 } else { self.head + 1 };
        let checked = carried(command, data_len).and_then(|len| Ok((len, self.session.check(command, len)?)));
        let checked = if self.faults.is_some() { self.spoil(command, checked) } else { checked };
        if let (Ok((len, Need::Nothing)), 0, NvmOpcode::READ, Session::Io(queue)) =
            (checked, data_len, NvmOpcode(command.opc), &self.session)
        {
            queue.approach(command);
            self.reads.push((*command, len));
            if self.reads.len() == READS {
                self.read(context);
            }
            return Ok(0);
        }
        self.read(context);
        match checked {
            Ok((len, Need::Nothing)) if data_len == 0 => {
                let index = self.slot(command, Stage::Ready, 0, len, None);
                self.run_or_park(index, context);
                Ok(0)
            }
            Ok((len, Need::Data { skew })) if data_len == 0 && len > 0 => {
                let index = self.slot(command, Stage::Wanting, skew, len, None);
                self.run_or_park(index, context);
                Ok(0)
            }
            Err(status) if data_len == 0 => {
                self.answer(command.cid.get(), status, 0);
                Ok(0)
            }
            checked => {
                let (skew, verdict) = match checked {
                    Ok((_, Need::Data { skew })) => (skew, None),
                    Ok((_, Need::Nothing)) => (0, Some(generic::INVALID_FIELD.with_dnr())),
                    Err(status) => (0, Some(status)),
                };
                self.take_in_capsule(command, skew, data_len, verdict)
            }
        }
    }

    /// Answers the Reads that have come, before anything that came behind them is. Each looks up in two places where its data is, which
    /// come to the cache for all of them at the same time.
    #[inline]
    pub(super) fn read(&mut self, context: &mut Context) {
        if self.reads.is_empty() {
            return;
        }
        let mut reads = std::mem::take(&mut self.reads);
        if let Session::Io(queue) = &self.session {
            reads.iter().for_each(|(command, _)| queue.foresee(&context.pool, command));
        }
        for (command, len) in reads.drain(..) {
            let room = self.backlog() < BACKLOG;
            let outcome = match &mut self.session {
                Session::Io(queue) if room => queue.read(&mut context.pool, &command, &mut context.found),
                _ => Outcome::Again,
            };
            match outcome {
                Outcome::Done(status) => self.send_found(command.cid.get(), status, context),
                Outcome::Turn | Outcome::Again => self.park(&command, len),
            }
        }
        self.reads = reads;
    }

    fn take_in_capsule(
        &mut self,
        command: &Command,
        skew: u32,
        data_len: u32,
        verdict: Option<Status>,
    ) -> Result<u32, Violation> {
        let most = match &self.session {
            Session::Io(queue) => queue.in_capsule_data(),
            _ => ADMIN_IN_CAPSULE,
        };
        if data_len == 0 {
            self.answer(command.cid.get(), generic::DATA_SGL_LENGTH_INVALID.with_dnr(), 0);
            return Ok(0);
        }
        if data_len > most {
            let what = format!("{data_len} bytes in a command capsule that takes {most}");
            return Err(Violation::new(Fes::DATA_TRANSFER_LIMIT_EXCEEDED, 0, what));
        }
        let index = self.slot(command, Stage::InCapsule, skew, data_len, verdict);
        let slot = &mut self.slots[usize::from(index)];
        slot.coming = data_len;
        Ok(index.into())
    }

    /// Carries out a Write whose data came at once in its capsule, if it can go from there to its place in memory; else does nothing.
    #[inline]
    fn write_from(&mut self, index: u16, data: &[u8], intact: impl FnOnce() -> bool, context: &mut Context) -> bool {
        let slot = &mut self.slots[usize::from(index)];
        let Session::Io(queue) = &mut self.session else { return false };
        if slot.stage != Stage::InCapsule || slot.verdict.is_some() || !queue.touches_memory(&slot.command) || !intact()
        {
            return false;
        }
        let copy = |region: &Region, range: Range| region.write_past_cache(range.offset, data);
        if queue.overwrite(&mut context.pool, &slot.command, copy).is_none() {
            return false;
        }
        slot.stage = Stage::Idle;
        self.idle.push(index);
        let cid = slot.command.cid.get();
        self.answer(cid, generic::SUCCESS, 0);
        true
    }

    /// Appends the places of data that comes for a command.
    #[inline]
    fn place(&mut self, index: u16, at: u32, len: u32, ranges: &mut Vec<Range>, pool: &mut Pool) {
        let slot = &mut self.slots[usize::from(index)];
        if slot.frames.is_empty() {
            let frames = frames_for(slot.skew, slot.len);
            if slot.verdict.is_none() && !pool.frames.take(frames, 0, &mut slot.frames) {
                // Only this command fails, and may be tried again.
                slot.verdict = Some(generic::COMMAND_INTERRUPTED);
            }
            if slot.verdict.is_some() {
                // The data passes by.
                return;
            }
        }
        push_ranges(&slot.frames, slot.skew, slot.got + at, len, ranges);
    }

    /// Whether nobody looks at the data of a command before it is read.
    #[inline]
    fn is_left_alone(&self, index: u16) -> bool {
        let command = &self.slots[usize::from(index)].command;
        matches!(&self.session, Session::Io(queue) if queue.hands_over(command))
    }

    /// Data that was asked for; returns the slot that takes it.
    fn data(&mut self, header: &DataHeader, len: u32) -> Result<u32, Violation> {
        let index = header.ttag.get();
        let Some(slot) = self.slots.get_mut(usize::from(index)).filter(|slot| slot.stage == Stage::Requested) else {
            return Err(Violation::field(10, format!("data for transfer tag {index:04x}h, which is not in use")));
        };
        if header.cccid != slot.command.cid {
            return Err(Violation::field(8, format!("data for command {} with another's transfer tag", header.cccid)));
        }
        let at = header.datao.get();
        if at != slot.got || len > slot.len - slot.got || len == 0 {
            let what = format!("{len} bytes of data at {at} where {} at {} were due", slot.len - slot.got, slot.got);
            return Err(Violation::new(Fes::DATA_TRANSFER_OUT_OF_RANGE, 12, what));
        }
        if (header.common.flags & flags::LAST != 0) != (len == slot.len - slot.got) {
            return Err(Violation::field(1, "the flag of the last data PDU is not on the last one"));
        }
        slot.coming = len;
        Ok(index.into())
    }

    fn data_arrived(&mut self, index: u16, intact: bool, context: &mut Context) {
        let Some(slot) = self.slots.get_mut(usize::from(index)) else { return };
        slot.got += std::mem::take(&mut slot.coming);
        slot.since = context.now;
        if !intact {
            // Not fatal (TCP 3.4.1.4): the command fails, and may be tried again.
            slot.verdict.get_or_insert(generic::TRANSIENT_TRANSPORT_ERROR);
        }
        if slot.got == slot.len {
            if slot.stage == Stage::Requested {
                self.requested -= slot.len;
            }
            slot.stage = Stage::Ready;
            self.run_or_park(index, context);
        }
    }

    /// A slot for a command.
    fn slot(&mut self, command: &Command, stage: Stage, skew: u32, len: u32, verdict: Option<Status>) -> u16 {
        let index = self.idle.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                command: *command,
                stage: Stage::Idle,
                frames: Vec::new(),
                skew: 0,
                len: 0,
                got: 0,
                coming: 0,
                since: Instant::now(),
                verdict: None,
                progress: Progress::default(),
            });
            (self.slots.len() - 1) as u16
        });
        let slot = &mut self.slots[usize::from(index)];
        (slot.command, slot.stage, slot.verdict) = (*command, stage, verdict);
        (slot.skew, slot.len, slot.got, slot.coming) = (skew, len, 0, 0);
        slot.progress = Progress::default();
        index
    }

    fn park(&mut self, command: &Command, len: u32) {
        let index = self.slot(command, Stage::Ready, 0, len, None);
        self.parked.push_back(index);
    }

    fn run_or_park(&mut self, index: u16, context: &mut Context) {
        // One long command a pass is enough: a queue full of them must not keep other connections waiting.
        if self.turned || !self.run(index, context) {
            self.parked.push_back(index);
        }
    }

    /// Brings a command forward; false if it has to be tried again.
    fn run(&mut self, index: u16, context: &mut Context) -> bool {
        let slot = &mut self.slots[usize::from(index)];
        let cid = slot.command.cid.get();
        if slot.stage == Stage::Wanting {
            let fits = self.requested == 0 || self.requested + slot.len <= MOST_REQUESTED;
            let frames = frames_for(slot.skew, slot.len);
            if !fits || !context.pool.frames.take(frames, RESERVE, &mut slot.frames) {
                return false;
            }
            (slot.stage, slot.since) = (Stage::Requested, context.now);
            self.requested += slot.len;
            self.sender.r2t(cid, index, 0, slot.len);
            return true;
        }
        if let Some(status) = slot.verdict {
            self.answer(cid, status, 0);
        } else if matches!(self.session, Session::Io(_)) {
            let outcome = self.run_io(index, context);
            self.turned |= outcome == Outcome::Turn;
            if !matches!(outcome, Outcome::Done(_)) {
                return false;
            }
        } else if !self.run_admin(index, context) {
            return false;
        }
        let slot = &mut self.slots[usize::from(index)];
        slot.stage = Stage::Idle;
        slot.frames.drain(..).for_each(|frame| context.pool.frames.release(frame));
        self.idle.push(index);
        true
    }

    fn run_io(&mut self, index: u16, context: &mut Context) -> Outcome {
        let full = self.backlog() >= BACKLOG;
        let slot = &mut self.slots[usize::from(index)];
        let (command, cid) = (slot.command, slot.command.cid.get());
        let Session::Io(queue) = &mut self.session else {
            return Outcome::Again;
        };
        if IoQueue::reads(&command) {
            if full {
                return Outcome::Again;
            }
            let outcome = queue.read(&mut context.pool, &command, &mut context.found);
            if let Outcome::Done(status) = outcome {
                self.send_found(cid, status, context);
            }
            return outcome;
        }
        let outcome = queue.execute(&mut context.pool, &command, &mut slot.frames, &mut slot.progress);
        if let Outcome::Done(status) = outcome {
            let result = slot.progress.result;
            self.answer(cid, status, result);
            if command.is_fabrics() && status.is_success() {
                self.phase = Phase::Leaving;
            }
        }
        outcome
    }

    /// Connect and the admin queue: data is copied between frames and plain memory.
    fn run_admin(&mut self, index: u16, context: &mut Context) -> bool {
        let slot = &mut self.slots[usize::from(index)];
        let (command, cid) = (slot.command, slot.command.cid.get());
        let mut ranges: Vec<Range> = Vec::new();
        push_ranges(&slot.frames, 0, 0, slot.got, &mut ranges);
        context.bytes.resize(slot.got as usize, 0);
        let mut at = 0;
        for range in ranges {
            let end = at + range.len as usize;
            context.pool.frames.store.region().read(range.offset, &mut context.bytes[at..end]);
            at = end;
        }
        let Session::Admin(admin) = &mut self.session else {
            self.connect(&command, context);
            return true;
        };
        // Frames for the answer first: a command must not be carried out twice.
        let out = if command.direction() == Direction::ControllerToHost { slot.len } else { 0 };
        let mut frames = Vec::new();
        if out > 0 && !context.pool.frames.take(frames_for(0, out), RESERVE, &mut frames) {
            return false;
        }
        let answer = admin.execute(&command, &context.bytes, Some(out), context.now, &mut context.aborted);
        for (cid, status) in std::mem::take(&mut context.aborted) {
            self.answer(cid, status, 0);
        }
        match answer {
            // The request stays outstanding with its event.
            None => {}
            Some(answer) if answer.data.is_empty() => self.answer(cid, answer.status, answer.result),
            Some(answer) => {
                let region = context.pool.frames.store.region();
                for (frame, chunk) in frames.iter().zip(answer.data.chunks(place(0).len as usize)) {
                    region.write(place(*frame).offset, chunk);
                }
                push_ranges(&frames, 0, 0, answer.data.len() as u32, &mut context.found.ranges);
                context.found.frames.append(&mut frames);
                self.send_found(cid, answer.status, context);
            }
        }
        frames.drain(..).for_each(|frame| context.pool.frames.release(frame));
        true
    }

    fn connect(&mut self, command: &Command, context: &mut Context) {
        match connect(&context.shared, command, &context.bytes, Transport::Tcp(self.local), context.now) {
            Ok(Accepted { session, entries, flow_control, dw0 }) => {
                if matches!(session, Session::Io(_)) {
                    context.shared.desks[context.desk].queues.fetch_add(1, Ordering::Relaxed);
                    self.faults = context.shared.fault.as_ref().map(Faults::new);
                }
                (self.session, self.entries, self.flow_control) = (session, entries, flow_control);
                self.head %= entries;
                self.outstanding -= 1;
                // FFFFh says that the controller too does without flow control (Base 6.3).
                let head = if flow_control { self.head as u16 } else { u16::MAX };
                self.sender.response(&Completion::new(command.cid.get(), head, generic::SUCCESS, dw0.into()));
            }
            Err((status, dw0)) => {
                tracing::info!("a Connect fails: {} ({dw0:#x})", status.fabrics());
                self.answer(command.cid.get(), status, dw0.into());
            }
        }
    }

    /// Answers a command with the data in `context.found`, or with a status that says why there is none.
    #[inline]
    fn send_found(&mut self, cid: u16, status: Status, context: &mut Context) {
        if !status.is_success() {
            context.found.clear(&mut context.pool);
            return self.answer(cid, status, 0);
        }
        if self.faults.is_some() {
            return self.hold_found(cid, status, context);
        }
        self.deliver(cid, status, &mut context.found, &context.pool.frames.store);
    }

    #[inline]
    fn deliver(&mut self, cid: u16, status: Status, found: &mut Found, store: &FrameStore) {
        // The response may be left out only where nothing is lost by it: no head to tell (TCP 3.3.2.1).
        let success = !self.flow_control;
        let pdu = DataPdu { cccid: cid, ttag: 0, datao: 0, last: true, success };
        let checksum = if self.sender.digests_data() { store.checksum(&found.ranges) } else { None };
        self.sender.data_with_checksum(pdu, &found.ranges, checksum);
        let position = self.sender.queued();
        self.held.extend(found.frames.drain(..).map(|frame| (position, frame)));
        found.ranges.clear();
        if success {
            self.outstanding -= 1;
        } else {
            self.respond(cid, status, 0);
        }
    }

    #[inline]
    fn answer(&mut self, cid: u16, status: Status, result: u64) {
        match self.faults {
            None => self.respond(cid, status, result),
            Some(_) => self.hold(cid, status, result),
        }
    }

    #[inline]
    fn respond(&mut self, cid: u16, status: Status, result: u64) {
        self.outstanding -= 1;
        let head = if self.flow_control { self.head as u16 } else { 0 };
        self.sender.response(&Completion::new(cid, head, status, result));
    }
}

/// Bytes of data that a command carries or takes, by its SGL; `data_len` bytes are in its capsule.
#[inline]
fn carried(command: &Command, data_len: u32) -> Result<u32, Status> {
    match command.sgl().kind() {
        SglKind::Transport { length } if data_len == 0 => Ok(length),
        SglKind::InCapsule { offset: 0, length } if length == data_len => Ok(length),
        SglKind::InCapsule { offset: 1.., .. } => Err(generic::SGL_OFFSET_INVALID.with_dnr()),
        SglKind::Transport { .. } | SglKind::InCapsule { .. } => Err(generic::DATA_SGL_LENGTH_INVALID.with_dnr()),
        // A command without data leaves its data pointer clear.
        SglKind::DataBlock { address: 0, length: 0 } if data_len == 0 => Ok(0),
        _ => Err(generic::SGL_TYPE_INVALID.with_dnr()),
    }
}

/// An exchange with what its reactor lends: what the receiver speaks to.
pub(super) struct Port<'a> {
    pub(super) exchange: &'a mut Exchange,
    pub(super) context: &'a mut Context,
}

impl Sink for Port<'_> {
    #[inline]
    fn pdu(&mut self, pdu: Pdu<'_>, data_len: u32) -> Result<u32, Violation> {
        match pdu {
            Pdu::CapsuleCmd(capsule) => self.exchange.command(&capsule.command, data_len, self.context),
            Pdu::H2cData(header) => {
                self.exchange.read(self.context);
                self.exchange.data(header, data_len)
            }
            Pdu::IcReq(request) => self.exchange.initialize(request).map(|()| 0),
            _ => Err(Violation::field(0, "a PDU that hosts do not send")),
        }
    }

    #[inline]
    fn place(&mut self, token: u32, at: u32, len: u32, ranges: &mut Vec<Range>) {
        self.exchange.place(token as u16, at, len, ranges, &mut self.context.pool);
    }

    #[inline]
    fn is_left_alone(&self, token: u32) -> bool {
        self.exchange.is_left_alone(token as u16)
    }

    #[inline]
    fn take(&mut self, token: u32, data: &[u8], intact: impl FnOnce() -> bool) -> bool {
        self.exchange.write_from(token as u16, data, intact, self.context)
    }

    #[inline]
    fn finished(&mut self, token: u32, intact: bool) -> Result<(), Violation> {
        self.exchange.data_arrived(token as u16, intact, self.context);
        Ok(())
    }
}
