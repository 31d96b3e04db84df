//! What a controller does with the capsules of one queue over RDMA: commands in, data moved, answers out. It owns no queue pair: what is
//! to be posted goes to a [`Wire`], which `connection` joins to one.
//!
//! A command takes a slot until its answer has been sent. The data of a Write is read from the host's memory into frames, or copied
//! out of its capsule; that of a Read is written to the host's memory from where it lies. What cannot go on (no frames, no room
//! in the send queue, no RDMA READ left, a namespace that wants another turn) is parked and tried again each pass. A capsule's buffer
//! goes back as soon as the command, and its data, are out of it: always before the answer, so that a host that keeps to its queue
//! finds a buffer for each command. What a fault script does to answers is in [`faults`].

mod faults;

use std::{collections::VecDeque, sync::atomic::Ordering};

use doorbell_platform::{Range, Region};
use doorbell_spec::{
    command::{Command, Direction},
    completion::Completion,
    fabrics::{ConnectRequest, connect_invalid},
    status::{Status, generic},
};
use zerocopy::{FromZeros, IntoBytes};

use super::{
    admission::Terms,
    cut::Cut,
    pointer::{self, Pointer, Remote},
};
use crate::{
    controller::{Accepted, Admin, IoQueue, Need, Progress, Session, connect},
    fault::Faults,
    frames::{Frame, frames_for, place, push_ranges},
    listener::Context,
    namespace::{Outcome, RESERVE},
};

/// Bytes of a command in its capsule.
pub(super) const COMMAND: u32 = size_of::<Command>() as u32;
/// Bytes of data that a connection reads from its host, and writes to it, at a time; a command that is alone may have more.
const MOST_MOVING: u32 = 4 << 20;
/// Parked commands that are tried in a pass.
const TRIES: usize = 32;

/// Where work requests are collected. `slot` comes back with their completion.
pub(super) trait Wire {
    /// RDMA READ of the host's memory.
    fn read(&mut self, slot: u16, from: Remote, to: &[Range]);
    /// RDMA WRITE to the host's memory. Its completion comes back only if it is `signaled`.
    fn write(&mut self, slot: u16, signaled: bool, to: Remote, from: &[Range]);
    /// SEND of an answer, which invalidates a key of the host's if there is one.
    fn send(&mut self, slot: u16, answer: &Completion, invalidate: Option<u32>);
    /// The buffer of a capsule can take another.
    fn give_back(&mut self, capsule: u32);
    /// Copies from a capsule.
    fn look(&self, capsule: u32, at: u32, bytes: &mut [u8]);
    /// Copies from a capsule to a range of a region.
    fn unload(&self, capsule: u32, at: u32, region: &Region, to: Range);
}

/// What a completion is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Done {
    Read,
    Write,
    Send,
}

/// The controller's end of a queue.
#[derive(Debug)]
pub(super) struct Exchange {
    terms: Terms,
    session: Session,
    leaving: bool,
    slots: Vec<Slot>,
    idle: Vec<u16>,
    parked: VecDeque<u16>,
    /// Capsules that wait for a slot, and their bytes.
    waiting: VecDeque<(u32, u32)>,
    /// Answers to event requests, and repeated ones, that have no slot yet.
    late: VecDeque<(u16, Status)>,
    /// Keep answers back, by their slot.
    faults: Option<Box<Faults<u16>>>,
    entries: u32,
    head: u32,
    flow_control: bool,
    outstanding: u32,
    /// Room in the send queue, and RDMA READs that may be added to those under way.
    room: u32,
    reads: u32,
    /// Bytes being read from the host, and written to it.
    reading: u32,
    writing: u32,
    /// A command has come forward without being done.
    turned: bool,
    pieces: Vec<Range>,
}

/// A command.
#[derive(Debug)]
struct Slot {
    command: Command,
    stage: Stage,
    remotes: Vec<Remote>,
    invalidate: Option<u32>,
    /// The capsule that has its data, and where.
    capsule: Option<(u32, u32)>,
    /// The frames of its data, `skew` bytes into the first.
    frames: Vec<Frame>,
    skew: u32,
    len: u32,
    /// Where its data is, and how far it has been asked for or sent.
    ranges: Vec<Range>,
    cut: Cut,
    /// RDMA READs under way.
    reads: u32,
    /// Room in the send queue that comes back with the next completion.
    owed: u32,
    progress: Progress,
    answer: Completion,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Idle,
    /// Waits for frames to have its data in.
    Wanting,
    /// Its data is being read.
    Fetching,
    /// It can be carried out.
    Ready,
    /// Its data and its answer are to be sent.
    Answering,
    /// They have been posted.
    Sent,
    /// A fault script keeps them back, or has lost them.
    Held,
    Lost,
}

/// A breach of the protocol, which ends the connection.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Violation {
    #[error("a command capsule of {0} bytes")]
    Short(u32),
    #[error("more than {0} commands outstanding")]
    TooMany(u32),
    #[error("a command after Disconnect")]
    Late,
}

impl Exchange {
    /// The end of a queue of which these terms have been agreed.
    pub(super) fn new(terms: Terms) -> Self {
        let slots: Vec<_> = (0..terms.slots()).map(|_| Slot::new()).collect();
        Self {
            terms,
            session: Session::None,
            leaving: false,
            idle: (0..slots.len() as u16).rev().collect(),
            slots,
            parked: VecDeque::new(),
            waiting: VecDeque::new(),
            late: VecDeque::new(),
            faults: None,
            // Connect comes alone.
            entries: 2,
            head: 0,
            flow_control: true,
            outstanding: 0,
            room: terms.sends,
            reads: terms.reads,
            reading: 0,
            writing: 0,
            turned: false,
            pieces: Vec::new(),
        }
    }

    /// Whether Connect has succeeded.
    pub(super) fn is_connected(&self) -> bool {
        !matches!(self.session, Session::None)
    }

    /// Whether the host has disconnected this queue, and been told so.
    pub(super) fn has_left(&self) -> bool {
        self.leaving && self.idle.len() == self.slots.len()
    }

    /// Whether the controller that this queue belongs to has been reset or is gone.
    #[inline]
    pub(super) fn is_over(&self) -> bool {
        matches!(&self.session, Session::Io(queue) if queue.is_over())
    }

    /// The controller, on an admin queue.
    pub(super) fn admin(&self) -> Option<&Admin> {
        match &self.session {
            Session::Admin(admin) => Some(admin),
            _ => None,
        }
    }

    /// Adds what was counted to the totals.
    pub(super) fn add_up(&mut self) {
        if let Session::Io(queue) = &mut self.session {
            queue.add_up();
        }
    }

    /// Whether something has been posted that is not done.
    pub(super) fn is_sending(&self) -> bool {
        self.room < self.terms.sends
    }

    /// Whether something is parked that another pass may bring forward though nothing completes.
    pub(super) fn wants_pass(&self) -> bool {
        !self.parked.is_empty() || self.due().is_some()
    }

    /// A command capsule of `bytes` bytes has come.
    ///
    /// # Errors
    /// What of it breaks the protocol.
    #[inline]
    pub(super) fn arrived(
        &mut self,
        capsule: u32,
        bytes: u32,
        wire: &mut impl Wire,
        context: &mut Context,
    ) -> Result<(), Violation> {
        if bytes < COMMAND {
            return Err(Violation::Short(bytes));
        }
        if self.leaving {
            return Err(Violation::Late);
        }
        if self.outstanding >= self.entries {
            return Err(Violation::TooMany(self.entries));
        }
        self.outstanding += 1;
        self.head = if self.head + 1 >= self.entries { 0 } else { self.head + 1 };
        match self.idle.pop() {
            Some(index) => self.begin(index, capsule, bytes, wire, context),
            None => self.waiting.push_back((capsule, bytes)),
        }
        Ok(())
    }

    /// A work request of a slot has completed.
    #[inline]
    pub(super) fn done(&mut self, what: Done, index: u16, wire: &mut impl Wire, context: &mut Context) {
        let slot = &mut self.slots[usize::from(index)];
        match what {
            Done::Read => {
                slot.reads -= 1;
                (self.reads, self.room) = (self.reads + 1, self.room + 1);
                if slot.reads == 0 && slot.cut.is_at_end(&slot.remotes, &slot.ranges) {
                    self.reading -= slot.len;
                    slot.stage = Stage::Ready;
                    self.run_or_park(index, wire, context);
                }
            }
            Done::Write => self.room += std::mem::take(&mut slot.owed),
            Done::Send => {
                self.room += std::mem::take(&mut slot.owed);
                self.writing -= sum(&slot.ranges);
                slot.release(context);
                self.idle.push(index);
            }
        }
    }

    /// Takes capsules in that wait, and tries parked commands again; returns whether something has come forward.
    pub(super) fn resume(&mut self, wire: &mut impl Wire, context: &mut Context) -> bool {
        let mut any = false;
        self.turned = false;
        for _ in 0..self.parked.len().min(TRIES) {
            let Some(index) = self.parked.pop_front() else { break };
            if self.run(index, wire, context) {
                any = true;
            } else {
                self.parked.push_back(index);
            }
        }
        while !self.late.is_empty()
            && let Some(index) = self.idle.pop()
            && let Some((cid, status)) = self.late.pop_front()
        {
            self.slots[usize::from(index)].renew(cid);
            self.answer(index, status, 0);
            self.run_or_park(index, wire, context);
        }
        while !self.waiting.is_empty()
            && let Some(index) = self.idle.pop()
            && let Some((capsule, bytes)) = self.waiting.pop_front()
        {
            self.begin(index, capsule, bytes, wire, context);
            any = true;
        }
        any || self.turned
    }

    /// Ends the session. What is under way may still use memory.
    pub(super) fn end(&mut self, context: &mut Context) {
        match std::mem::replace(&mut self.session, Session::None) {
            Session::None => {}
            Session::Admin(admin) => admin.end(),
            Session::Io(mut queue) => {
                queue.close();
                context.shared.desks[context.desk].queues.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.parked.clear();
        if let Some(faults) = &mut self.faults {
            drop(faults.clear());
        }
    }

    /// Releases the memory of all commands: the queue pair is gone, so that nothing can touch it any more.
    pub(super) fn release(&mut self, context: &mut Context) {
        self.slots.iter_mut().for_each(|slot| slot.release(context));
    }

    #[inline]
    fn begin(&mut self, index: u16, capsule: u32, bytes: u32, wire: &mut impl Wire, context: &mut Context) {
        let slot = &mut self.slots[usize::from(index)];
        slot.renew(0);
        // Copied once: the host cannot change it under our hands, but a buffer that is given back can take another.
        wire.look(capsule, 0, slot.command.as_mut_bytes());
        let read = |at: u32, bytes: &mut [u8]| wire.look(capsule, COMMAND + at, bytes);
        let pointer = pointer::parse(&slot.command, bytes - COMMAND, read, &mut slot.remotes);
        let checked = pointer.and_then(|pointer| {
            let len = pointer.len();
            slot.len = len;
            if let Pointer::Remote { invalidate, .. } = pointer {
                slot.invalidate = invalidate;
            }
            match (pointer, self.session.check(&slot.command, len)?) {
                (Pointer::InCapsule { at, .. }, Need::Data { skew }) => {
                    slot.capsule = Some((capsule, COMMAND + at));
                    Ok(Need::Data { skew })
                }
                (Pointer::InCapsule { .. }, Need::Nothing) => Err(generic::INVALID_FIELD.with_dnr()),
                (_, Need::Data { .. }) if len == 0 => Err(generic::DATA_SGL_LENGTH_INVALID.with_dnr()),
                (_, need) => Ok(need),
            }
        });
        let checked = if self.faults.is_some() { self.spoil(index, checked) } else { checked };
        let slot = &mut self.slots[usize::from(index)];
        if slot.capsule.is_none() {
            wire.give_back(capsule);
        }
        match checked {
            Ok(Need::Nothing) => slot.stage = Stage::Ready,
            Ok(Need::Data { skew }) => (slot.stage, slot.skew) = (Stage::Wanting, skew),
            Err(status) => self.answer(index, status, 0),
        }
        self.run_or_park(index, wire, context);
    }

    #[inline]
    fn run_or_park(&mut self, index: u16, wire: &mut impl Wire, context: &mut Context) {
        // One long command a pass is enough: a queue full of them must not keep other connections waiting.
        if self.turned || !self.run(index, wire, context) {
            self.parked.push_back(index);
        }
    }

    /// Brings a command forward; false if it has to be tried again.
    #[inline]
    fn run(&mut self, index: u16, wire: &mut impl Wire, context: &mut Context) -> bool {
        loop {
            let came = match self.slots[usize::from(index)].stage {
                Stage::Wanting => self.take_frames(index, wire, context),
                Stage::Fetching => return self.fetch(index, wire),
                Stage::Ready => self.carry_out(index, context),
                Stage::Answering => return self.send(index, wire),
                Stage::Lost => self.forget(index, context),
                Stage::Idle | Stage::Sent | Stage::Held => return true,
            };
            if !came {
                return false;
            }
        }
    }

    /// Finds frames for the data that a command sends, and takes it out of its capsule if it is there.
    fn take_frames(&mut self, index: u16, wire: &mut impl Wire, context: &mut Context) -> bool {
        let slot = &mut self.slots[usize::from(index)];
        let fits = self.reading == 0 || self.reading + slot.len <= MOST_MOVING || slot.capsule.is_some();
        let count = frames_for(slot.skew, slot.len);
        if !fits || !context.pool.frames.take(count, RESERVE, &mut slot.frames) {
            return false;
        }
        push_ranges(&slot.frames, slot.skew, 0, slot.len, &mut slot.ranges);
        slot.stage = Stage::Fetching;
        if let Some((capsule, mut at)) = slot.capsule.take() {
            for &range in &slot.ranges {
                wire.unload(capsule, at, context.pool.frames.store.region(), range);
                at += range.len;
            }
            wire.give_back(capsule);
            slot.stage = Stage::Ready;
        } else {
            self.reading += slot.len;
        }
        true
    }

    /// Asks for as much of a command's data as may be asked for now; returns whether that was all.
    #[inline]
    fn fetch(&mut self, index: u16, wire: &mut impl Wire) -> bool {
        let Slot { remotes, ranges, cut, reads, .. } = &mut self.slots[usize::from(index)];
        while self.reads > 0 && self.room > 0 {
            let Some(remote) = cut.next(remotes, ranges, self.terms.read_ranges, &mut self.pieces) else {
                return true;
            };
            wire.read(index, remote, &self.pieces);
            (self.reads, self.room) = (self.reads - 1, self.room - 1);
            *reads += 1;
        }
        cut.is_at_end(remotes, ranges)
    }

    /// Carries out a command whose data is there; returns whether it is done.
    #[inline]
    fn carry_out(&mut self, index: u16, context: &mut Context) -> bool {
        match &self.session {
            Session::Io(_) => {
                let outcome = self.carry_out_io(index, context);
                self.turned |= outcome == Outcome::Turn;
                matches!(outcome, Outcome::Done(_))
            }
            Session::Admin(_) => self.carry_out_admin(index, context),
            Session::None => {
                self.connect(index, context);
                true
            }
        }
    }

    #[inline]
    fn carry_out_io(&mut self, index: u16, context: &mut Context) -> Outcome {
        let slot = &mut self.slots[usize::from(index)];
        let Session::Io(queue) = &mut self.session else { return Outcome::Again };
        let Context { pool, found, .. } = context;
        if IoQueue::reads(&slot.command) {
            if self.writing > 0 && self.writing + slot.len > MOST_MOVING {
                return Outcome::Again;
            }
            let outcome = queue.read(pool, &slot.command, found);
            if let Outcome::Done(status) = outcome {
                if status.is_success() {
                    std::mem::swap(&mut slot.ranges, &mut found.ranges);
                    slot.frames.append(&mut found.frames);
                    self.writing += sum(&slot.ranges);
                } else {
                    found.clear(pool);
                }
                self.answer(index, status, 0);
            }
            return outcome;
        }
        let outcome = queue.execute(pool, &slot.command, &mut slot.frames, &mut slot.progress);
        if let Outcome::Done(status) = outcome {
            slot.let_go(context);
            self.leaving |= slot.command.is_fabrics() && status.is_success();
            let result = slot.progress.result;
            self.answer(index, status, result);
        }
        outcome
    }

    /// Admin commands: data is copied between frames and plain memory.
    fn carry_out_admin(&mut self, index: u16, context: &mut Context) -> bool {
        let slot = &mut self.slots[usize::from(index)];
        let Session::Admin(admin) = &mut self.session else { return false };
        // Frames for the answer first: a command must not be carried out twice.
        let out = if slot.command.direction() == Direction::ControllerToHost { slot.len } else { 0 };
        if out > 0 && !context.pool.frames.take(frames_for(0, out), RESERVE, &mut slot.frames) {
            return false;
        }
        gather(&slot.ranges, context);
        let answer = admin.execute(&slot.command, &context.bytes, Some(out), context.now, &mut context.aborted);
        self.late.extend(context.aborted.drain(..));
        slot.ranges.clear();
        let Some(answer) = answer else {
            // The request stays outstanding with its event, without a slot.
            slot.release(context);
            self.idle.push(index);
            return true;
        };
        let region = context.pool.frames.store.region();
        for (frame, chunk) in slot.frames.iter().zip(answer.data.chunks(place(0).len as usize)) {
            region.write(place(*frame).offset, chunk);
        }
        push_ranges(&slot.frames, 0, 0, answer.data.len() as u32, &mut slot.ranges);
        self.writing += sum(&slot.ranges);
        self.answer(index, answer.status, answer.result);
        true
    }

    fn connect(&mut self, index: u16, context: &mut Context) {
        let slot = &mut self.slots[usize::from(index)];
        gather(&slot.ranges, context);
        slot.let_go(context);
        let request = ConnectRequest::parse(&slot.command);
        // The queue is the one of which the connection was made (RDMA 3.2).
        let accepted = if request.qid != self.terms.qid {
            Err(connect_invalid(ConnectRequest::QID_OFFSET, false))
        } else if u32::from(request.sqsize) >= self.terms.entries {
            Err(connect_invalid(ConnectRequest::SQSIZE_OFFSET, false))
        } else {
            connect(&context.shared, &slot.command, &context.bytes, self.terms.transport, context.now)
        };
        match accepted {
            Ok(Accepted { session, entries, flow_control, dw0 }) => {
                if matches!(session, Session::Io(_)) {
                    context.shared.desks[context.desk].queues.fetch_add(1, Ordering::Relaxed);
                    self.faults = context.shared.fault.as_ref().map(Faults::new);
                }
                (self.session, self.entries, self.flow_control) = (session, entries, flow_control);
                self.head %= entries;
                self.answer(index, generic::SUCCESS, dw0.into());
                if !flow_control {
                    // FFFFh says that the controller too does without flow control (Base 6.3).
                    self.slots[usize::from(index)].answer.sqhd = u16::MAX.into();
                }
            }
            Err((status, dw0)) => {
                tracing::info!("a Connect fails: {} ({dw0:#x})", status.fabrics());
                self.answer(index, status, dw0.into());
            }
        }
    }

    /// Settles what a command is answered.
    #[inline]
    fn answer(&mut self, index: u16, status: Status, result: u64) {
        let head = if self.flow_control { self.head as u16 } else { 0 };
        let slot = &mut self.slots[usize::from(index)];
        slot.answer = Completion::new(slot.command.cid.get(), head, status, result);
        (slot.stage, slot.cut) = (Stage::Answering, Cut::default());
        if self.faults.is_some() {
            self.hold(index, status);
        }
    }

    /// Posts as much of a command's data and answer as there is room for; returns whether that was all.
    #[inline]
    fn send(&mut self, index: u16, wire: &mut impl Wire) -> bool {
        let Slot { remotes, ranges, cut, owed, answer, invalidate, stage, .. } = &mut self.slots[usize::from(index)];
        while self.room > 0 {
            // What takes the last room must tell when it is done, or nothing would make room again.
            let signaled = self.room == 1;
            (self.room, *owed) = (self.room - 1, *owed + 1);
            match cut.next(remotes, ranges, self.terms.write_ranges, &mut self.pieces) {
                Some(remote) => wire.write(index, signaled, remote, &self.pieces),
                None => {
                    wire.send(index, answer, *invalidate);
                    *stage = Stage::Sent;
                    self.outstanding -= 1;
                    return true;
                }
            }
        }
        false
    }
}

impl Slot {
    fn new() -> Self {
        Self {
            command: Command::new_zeroed(),
            stage: Stage::Idle,
            remotes: Vec::new(),
            invalidate: None,
            capsule: None,
            frames: Vec::new(),
            skew: 0,
            len: 0,
            ranges: Vec::new(),
            cut: Cut::default(),
            reads: 0,
            owed: 0,
            progress: Progress::default(),
            answer: Completion::new_zeroed(),
        }
    }

    /// Makes it the slot of another command.
    #[inline]
    fn renew(&mut self, cid: u16) {
        self.command.cid = cid.into();
        self.remotes.clear();
        (self.invalidate, self.len) = (None, 0);
        (self.cut, self.progress) = (Cut::default(), Progress::default());
    }

    /// Releases the memory of its data.
    #[inline]
    fn let_go(&mut self, context: &mut Context) {
        self.ranges.clear();
        self.frames.drain(..).for_each(|frame| context.pool.frames.release(frame));
    }

    /// The command is over.
    #[inline]
    fn release(&mut self, context: &mut Context) {
        self.let_go(context);
        self.stage = Stage::Idle;
    }
}

#[inline]
fn sum(ranges: &[Range]) -> u32 {
    ranges.iter().map(|range| range.len).sum()
}

/// Copies data that lies in frames to plain memory.
fn gather(ranges: &[Range], context: &mut Context) {
    context.bytes.resize(sum(ranges) as usize, 0);
    let mut at = 0;
    for range in ranges {
        let end = at + range.len as usize;
        context.pool.frames.store.region().read(range.offset, &mut context.bytes[at..end]);
        at = end;
    }
}

#[cfg(test)]
mod tests;
