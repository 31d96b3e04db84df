//! A queue over one NVMe/TCP connection: commands leave as capsules in one gathered call a batch, data arrives straight in the
//! commands' buffers.

mod unplugged;

use std::{cell::RefCell, collections::VecDeque, os::fd::AsFd, sync::Arc};

use doorbell_platform::{Arena, Backing, Range, Region, memory::push_joined, socket};
use doorbell_queue::{Counters, Done, Down, Drain, IoQueue, Needs, Op, PrepareError, Progress, Slot, Wait, cid::Cids};
use doorbell_spec::{
    command::{Command, Direction, FLAGS_SGL, SglDescriptor},
    completion::Completion,
    fabrics, status,
    tcp::{DataHeader, Fes, R2t, flags},
};
use doorbell_tcp::{DataPdu, Digests, Link, Lost, Pdu, Sender, Sink, Violation, ZeroCopy};

pub use unplugged::Unplugged;

/// Most ranges a command's data may be in: what one gathered call takes with a header beside them.
const MOST_RANGES: u16 = 512;
/// Most data of a Fabrics or admin command that travels in its capsule (TCP 3.3.2.2).
pub(super) const FABRICS_CAPSULE_BYTES: u32 = 8192;
/// Bytes of headers that may wait to be sent a slot, and in all at least.
const MOST_HEADERS: u64 = 4096;
const HEADERS_AT_LEAST: u64 = 64 << 10;
/// Room for what comes behind the data being received: dozens of small completions a call.
const STAGING_BYTES: usize = 256 << 10;

thread_local! {
    /// The same for all queues of a thread, as nothing stays in it between two receives: one of each queue's own would not fit the
    /// cache when there are many.
    static STAGING: RefCell<Box<[u8]>> = RefCell::new(vec![0; STAGING_BYTES].into());
}

/// What the two ends agreed on for a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Agreement {
    /// Identifier of the queue.
    pub qid: u16,
    /// Commands outstanding at once.
    pub slots: u16,
    /// Most data a command capsule may carry.
    pub in_capsule_bytes: u32,
    /// Most data of one H2CData PDU.
    pub max_h2c_data: u32,
    /// Whether a read must bring all its data to count as a success (I/O queues).
    pub whole_reads: bool,
}

/// An NVMe/TCP queue whose connection is initialized; the Fabrics Connect command is its first.
#[derive(Debug)]
pub struct TcpQueue {
    link: Link,
    commands: Commands,
    arena: Option<Arc<Arena>>,
    down: Option<Down>,
    counters: Counters,
    /// What the kernel still sends from after the end, for so many commands.
    at_risk: RefCell<Option<(ZeroCopy, u32)>>,
}

impl TcpQueue {
    pub(super) fn new(link: Link, agreement: Agreement) -> Self {
        Self {
            link,
            commands: Commands::new(agreement),
            arena: None,
            down: None,
            counters: Counters::default(),
            at_risk: RefCell::default(),
        }
    }

    /// The digests that the controller agreed to.
    pub(crate) fn digests(&self) -> Digests {
        self.link.digests()
    }

    fn region(arena: &Option<Arc<Arena>>) -> Option<&Region> {
        arena.as_deref().map(Arena::region)
    }

    fn lost(&mut self, lost: &Lost) {
        self.down = Some(Down(lost.to_string()));
    }

    fn take(&mut self, slot: Slot, command: Command) -> bool {
        let room = !self.commands.stopped && self.down.is_none() && self.commands.cids.is_idle(slot);
        if room {
            self.commands.issue(slot, command, &mut self.link.sender);
            self.counters.submitted += 1;
        } else {
            self.counters.queued += 1;
        }
        room
    }

    fn receive(&mut self) -> Result<usize, Lost> {
        let region = Self::region(&self.arena);
        STAGING.with_borrow_mut(|staging| self.link.receive(region, staging, &mut self.commands))
    }

    /// One receive, and the answers it calls for; and a look at the memory that the kernel sends from.
    fn poll(&mut self) {
        if self.link.sender.released() < self.link.sender.sent() {
            match self.link.collect() {
                Ok(()) => self.commands.settle(self.link.sender.released()),
                Err(lost) => return self.lost(&lost),
            }
        }
        match self.receive() {
            Ok(0) => return,
            Ok(_) => self.counters.socket_completions += 1,
            Err(lost) => self.lost(&lost),
        }
        if self.commands.answer_requests(&mut self.link.sender) && self.down.is_none() {
            self.flush();
            self.check_backlog();
        }
        self.commands.settle(self.link.sender.released());
    }

    /// A controller that asks for data byte by byte, and does not take it, must not fill our memory with headers: an honest one
    /// asks for pieces of 4096 bytes or more, and for 16 at a time.
    fn check_backlog(&mut self) {
        let sender = &self.link.sender;
        let (headers, all) = (sender.header_bytes() as u64, sender.queued() - sender.sent());
        let most = u64::from(self.commands.agreement.slots) * MOST_HEADERS + HEADERS_AT_LEAST + all / 8;
        if headers > most {
            let why =
                format!("it asks for data in tiny pieces and does not take them: {headers} bytes of headers wait");
            self.down.get_or_insert(Down(why));
        }
    }

    fn flush(&mut self) -> bool {
        match self.link.flush(Self::region(&self.arena)) {
            Ok(all) => {
                self.commands.settle(self.link.sender.released());
                all
            }
            Err(lost) => {
                // What the peer said before it went, a termination request first of all, tells more than the failed send.
                while self.down.is_none() {
                    match self.receive() {
                        Ok(0) => break,
                        Ok(_) => {}
                        Err(said) => self.lost(&said),
                    }
                }
                if self.down.is_none() {
                    self.lost(&lost);
                }
                true
            }
        }
    }
}

impl IoQueue for TcpQueue {
    fn needs(&self) -> Needs {
        Needs {
            slots: self.commands.agreement.slots,
            alignment: 1,
            segments: MOST_RANGES,
            bytes: u32::MAX,
            backing: Backing::Any,
        }
    }

    fn attach(&mut self, arena: &Arc<Arena>) -> Result<(), PrepareError> {
        if self.commands.cids.outstanding() > 0 {
            return Err(PrepareError("the memory of a queue cannot change while commands are outstanding".into()));
        }
        for slot in &mut self.commands.slots {
            slot.ranges.clear();
        }
        self.arena = Some(arena.clone());
        // What was counted so far belongs to Connect.
        self.counters = Counters::default();
        Ok(())
    }

    fn prepare(&mut self, slot: Slot, data: &[Range]) -> Result<(), PrepareError> {
        let size = Self::region(&self.arena).map_or(0, |region| region.len() as u64);
        let fail = |why: String| Err(PrepareError(format!("slot {slot}: {why}")));
        if !self.commands.cids.is_idle(slot) {
            return fail("it is busy or does not exist".into());
        }
        if data.len() > MOST_RANGES.into() {
            return fail(format!("{} ranges, {MOST_RANGES} at most", data.len()));
        }
        if let Some(range) = data.iter().find(|range| range.offset.saturating_add(range.len.into()) > size) {
            return fail(format!("{} bytes at {} are not in the arena of {size}", range.len, range.offset));
        }
        let Some(len) = data.iter().try_fold(0u32, |sum, range| sum.checked_add(range.len)) else {
            return fail("more than 4 GiB of data".into());
        };
        self.commands.slots[usize::from(slot)].use_memory(data, len);
        Ok(())
    }

    #[inline]
    fn submit(&mut self, ops: &[Op]) -> usize {
        ops.iter().take_while(|op| self.take(op.slot, op.command())).count()
    }

    fn submit_raw(&mut self, slot: Slot, command: &Command) -> bool {
        self.take(slot, *command)
    }

    fn commit(&mut self) -> Result<Progress, Down> {
        if let Some(down) = &self.down {
            return Err(down.clone());
        }
        Ok(if self.link.sender.is_empty() || self.flush() { Progress::Complete } else { Progress::Pending })
    }

    fn reap(&mut self, done: &mut [Done]) -> Result<usize, Down> {
        if self.commands.done.is_empty() && self.down.is_none() {
            if !self.link.sender.is_empty() {
                self.flush();
            }
            self.poll();
        }
        let count = done.len().min(self.commands.done.len());
        for (entry, over) in done.iter_mut().zip(self.commands.done.drain(..count)) {
            *entry = over;
        }
        self.counters.polls += 1;
        self.counters.idle_polls += u64::from(count == 0);
        self.counters.completions += count as u64;
        match &self.down {
            Some(down) if count == 0 && !self.commands.stopped => Err(down.clone()),
            _ => Ok(count),
        }
    }

    fn stop(&mut self) {
        if !self.commands.stopped {
            let released = self.link.sender.released();
            if released < self.link.sender.sent() {
                // What the kernel has would still be sent, from memory that is somebody else's by then.
                let _ = socket::reset(self.link.socket().as_fd());
                let count = self.commands.sent_from(released);
                let zero_copy = self.link.sender.take_zero_copy();
                self.at_risk = RefCell::new(zero_copy.map(|zero_copy| (zero_copy, count)));
            } else {
                // Nothing of the kernel's refers to our memory.
                let _ = self.link.socket().shutdown(std::net::Shutdown::Both);
            }
            self.down.get_or_insert_with(|| Down("the queue was stopped".into()));
            self.commands.abort_all();
        }
    }

    fn drained(&self) -> Drain {
        if self.commands.cids.outstanding() > 0 || !self.commands.done.is_empty() {
            return Drain::Busy;
        }
        let mut at_risk = self.at_risk.borrow_mut();
        let Some((zero_copy, count)) = &mut *at_risk else { return Drain::Clean };
        // A socket that tells nothing any more leaves it open.
        let _ = zero_copy.collect(self.link.socket().as_fd());
        if zero_copy.is_over() { Drain::Clean } else { Drain::Quarantined(*count) }
    }

    fn arm(&mut self) -> Result<Wait, Down> {
        if !self.commands.done.is_empty() {
            return Ok(Wait::Ready);
        }
        match &self.down {
            Some(down) => Err(down.clone()),
            None => Ok(Wait::Fd { fd: self.link.fd(), writable: !self.link.sender.is_empty() }),
        }
    }

    fn counters(&self) -> Counters {
        self.counters
    }

    fn named(&self, slot: Slot) -> Option<(u16, u16)> {
        self.commands.cids.of(slot).map(|cid| (self.commands.agreement.qid, cid))
    }
}

impl Drop for TcpQueue {
    fn drop(&mut self) {
        let left = self.at_risk.get_mut().as_ref().map(|(zero_copy, _)| zero_copy.counts());
        let counts = left.unwrap_or_else(|| self.link.sender.zero_copy_counts());
        if counts.copied + counts.refused > 0 {
            tracing::warn!("I/O queue {}: {counts}", self.commands.agreement.qid);
        }
    }
}

/// A slot's memory and how far its command has come.
#[derive(Debug, Default)]
struct SlotState {
    ranges: Vec<Range>,
    len: u32,
    direction: Option<Direction>,
    in_capsule: bool,
    /// Bytes that came so far; the data of the PDU being received starts here.
    received: u32,
    /// Bytes of the C2HData PDU being received.
    receiving: u32,
    /// Bytes the controller has asked for so far.
    requested: u32,
    /// Position in the outgoing stream behind the last byte of this command.
    sent_at: u64,
    /// A data digest was wrong.
    spoiled: bool,
    /// The command is over when all of it has been sent.
    answered: bool,
}

impl SlotState {
    /// The commands of the slot have their data, `len` bytes, in these ranges from now on.
    fn use_memory(&mut self, data: &[Range], len: u32) {
        self.ranges.clear();
        data.iter().for_each(|&range| push_joined(&mut self.ranges, range));
        self.len = len;
    }

    /// Appends the ranges of `len` data bytes from `at` on.
    fn locate(&self, at: u32, len: u32, ranges: &mut Vec<Range>) {
        let (mut skip, mut left) = (at, len);
        for range in &self.ranges {
            let part = range.part(skip, left);
            skip -= skip.min(range.len);
            if part.len > 0 {
                ranges.push(part);
                left -= part.len;
            }
            if left == 0 {
                break;
            }
        }
    }
}

/// A controller's request for `len` bytes of a command's data.
#[derive(Clone, Copy, Debug)]
struct DataRequest {
    slot: Slot,
    cid: u16,
    ttag: u16,
    offset: u32,
    len: u32,
}

/// The commands of a queue: what the link's PDUs are about.
#[derive(Debug)]
struct Commands {
    agreement: Agreement,
    cids: Cids,
    slots: Vec<SlotState>,
    done: VecDeque<Done>,
    /// Position in the outgoing stream before which all memory is its owner's again.
    released: u64,
    /// Slots that are answered while a part of them or of one before them is not sent yet, and their answers.
    unsent: Vec<(Slot, Completion)>,
    requests: VecDeque<DataRequest>,
    stopped: bool,
}

impl Commands {
    fn new(agreement: Agreement) -> Self {
        Self {
            agreement,
            cids: Cids::new(agreement.slots),
            slots: (0..agreement.slots).map(|_| SlotState::default()).collect(),
            done: VecDeque::with_capacity(agreement.slots.into()),
            released: 0,
            unsent: Vec::new(),
            requests: VecDeque::new(),
            stopped: false,
        }
    }

    #[inline]
    fn issue(&mut self, slot: Slot, mut command: Command, sender: &mut Sender) {
        let state = &mut self.slots[usize::from(slot)];
        // Fabrics commands say their direction in FCTYPE, and their data always fits a capsule (TCP 3.3.2.2).
        let (direction, most) = match command.opc {
            fabrics::OPCODE => (command.direction(), FABRICS_CAPSULE_BYTES),
            _ => (command.direction(), self.agreement.in_capsule_bytes),
        };
        let len = if direction == Direction::None { 0 } else { state.len };
        let in_capsule = direction == Direction::HostToController && len <= most && len > 0;
        command.cid = self.cids.issue(slot).into();
        command.flags |= FLAGS_SGL;
        let descriptor = if in_capsule { SglDescriptor::in_capsule(0, len) } else { SglDescriptor::transport(len) };
        command.dptr = descriptor.into();
        let data = if in_capsule { &state.ranges[..] } else { &[] };
        sender.command(&command, data);
        (state.direction, state.in_capsule) = (Some(direction), in_capsule);
        (state.received, state.requested, state.spoiled, state.answered) = (0, 0, false, false);
        state.sent_at = sender.queued();
    }

    /// Queues the data that R2Ts asked for; returns whether there was any.
    fn answer_requests(&mut self, sender: &mut Sender) -> bool {
        let any = !self.requests.is_empty();
        let mut ranges = Vec::new();
        for request in self.requests.drain(..) {
            let state = &mut self.slots[usize::from(request.slot)];
            let (mut offset, end) = (request.offset, request.offset + request.len);
            while offset < end {
                let len = (end - offset).min(self.agreement.max_h2c_data);
                ranges.clear();
                state.locate(offset, len, &mut ranges);
                let last = offset + len == end;
                let pdu = DataPdu { cccid: request.cid, ttag: request.ttag, datao: offset, last, success: false };
                sender.data(pdu, &ranges);
                offset += len;
            }
            state.sent_at = sender.queued();
        }
        any
    }

    /// A command is answered; it is over once all of it has been sent too.
    #[inline]
    fn answered(&mut self, slot: Slot, answer: &Completion) {
        let state = &mut self.slots[usize::from(slot)];
        if self.unsent.is_empty() && state.sent_at <= self.released {
            self.end(slot, answer);
        } else {
            state.answered = true;
            self.unsent.push((slot, *answer));
        }
    }

    /// Ends the answered commands that lie before `released` in the outgoing stream.
    fn settle(&mut self, released: u64) {
        self.released = released;
        let mut waiting = std::mem::take(&mut self.unsent);
        waiting.retain(|(slot, answer)| {
            let over = self.slots[usize::from(*slot)].sent_at <= released;
            if over {
                self.end(*slot, answer);
            }
            !over
        });
        self.unsent = waiting;
    }

    #[inline]
    fn end(&mut self, slot: Slot, answer: &Completion) {
        let state = &self.slots[usize::from(slot)];
        let mut status = answer.status();
        let short = self.agreement.whole_reads
            && state.direction == Some(Direction::ControllerToHost)
            && state.received < state.len;
        if status.is_success() && state.spoiled {
            status = status::generic::TRANSIENT_TRANSPORT_ERROR;
        } else if status.is_success() && short {
            status = status::generic::DATA_TRANSFER_ERROR;
        }
        self.cids.retire(slot);
        self.done.push_back(Done { slot, status, result: answer.result64() });
    }

    /// Commands whose data may still be sent from its place, if all before `released` is not.
    fn sent_from(&self, released: u64) -> u32 {
        let sends = |slot: &Slot| {
            let state = &self.slots[usize::from(*slot)];
            state.direction == Some(Direction::HostToController) && state.sent_at > released
        };
        self.cids.busy().filter(sends).count() as u32
    }

    fn abort_all(&mut self) {
        self.stopped = true;
        self.unsent.clear();
        let busy: Vec<Slot> = self.cids.busy().collect();
        for slot in busy {
            self.cids.retire(slot);
            self.done.push_back(Done { slot, status: status::generic::ABORTED_SQ_DELETION, result: 0 });
        }
    }

    fn find(&self, cid: u16, what: &str) -> Result<Slot, Violation> {
        let slot = self.cids.find(cid).filter(|&slot| !self.slots[usize::from(slot)].answered);
        slot.ok_or_else(|| Violation::field(8, format!("{what} for command {cid:04x}h, which is not outstanding")))
    }

    fn data(&mut self, header: &DataHeader, len: u32) -> Result<u32, Violation> {
        let cid = header.cccid.get();
        let slot = self.find(cid, "C2HData")?;
        let state = &mut self.slots[usize::from(slot)];
        if state.direction != Some(Direction::ControllerToHost) {
            return Err(Violation::field(8, format!("C2HData for command {cid:04x}h, which reads nothing")));
        }
        let (offset, end) = (header.datao.get(), header.datao.get().checked_add(len));
        if offset != state.received || end.is_none_or(|end| end > state.len) || len == 0 {
            let what = format!(
                "C2HData of {len} bytes at {offset} for command {cid:04x}h, which has {} of {}",
                state.received, state.len
            );
            return Err(Violation::new(Fes::DATA_TRANSFER_OUT_OF_RANGE, 12, what));
        }
        state.receiving = len;
        let bits = header.common.flags & (flags::LAST | flags::SUCCESS);
        if bits == flags::SUCCESS {
            return Err(Violation::field(1, "C2HData with SUCCESS but not the last of its command"));
        }
        Ok(u32::from(slot) | u32::from(bits & flags::SUCCESS) << 16)
    }

    fn request(&mut self, r2t: &R2t) -> Result<(), Violation> {
        let (cid, offset, len) = (r2t.cccid.get(), r2t.r2to.get(), r2t.r2tl.get());
        let slot = self.find(cid, "R2T")?;
        let state = &mut self.slots[usize::from(slot)];
        let wanted = state.direction == Some(Direction::HostToController) && !state.in_capsule;
        let end = offset.checked_add(len).filter(|&end| end <= state.len);
        match end {
            Some(end) if wanted && offset == state.requested && len > 0 => state.requested = end,
            _ => {
                let what = format!(
                    "R2T for {len} bytes at {offset} of command {cid:04x}h, which has {} to send and was asked for {}",
                    if wanted { state.len } else { 0 },
                    state.requested
                );
                return Err(Violation::new(Fes::DATA_TRANSFER_OUT_OF_RANGE, 12, what));
            }
        }
        self.requests.push_back(DataRequest { slot, cid, ttag: r2t.ttag.get(), offset, len });
        // Answered early or not, the command is not over before this data has left.
        state.sent_at = u64::MAX;
        Ok(())
    }
}

impl Sink for Commands {
    #[inline]
    fn pdu(&mut self, pdu: Pdu<'_>, data_len: u32) -> Result<u32, Violation> {
        match pdu {
            Pdu::C2hData(header) => self.data(header, data_len),
            Pdu::CapsuleResp(capsule) => {
                let slot = self.find(capsule.completion.cid.get(), "a response")?;
                self.answered(slot, &capsule.completion);
                Ok(0)
            }
            Pdu::R2t(r2t) => self.request(r2t).map(|()| 0),
            _ => Err(Violation::new(Fes::PDU_SEQUENCE_ERROR, 0, "a second ICResp")),
        }
    }

    #[inline]
    fn place(&mut self, token: u32, at: u32, len: u32, ranges: &mut Vec<Range>) {
        let state = &self.slots[token as usize & 0xffff];
        state.locate(state.received + at, len, ranges);
    }

    #[inline]
    fn finished(&mut self, token: u32, intact: bool) -> Result<(), Violation> {
        let slot = token as Slot;
        let state = &mut self.slots[usize::from(slot)];
        state.received += state.receiving;
        state.spoiled |= !intact;
        if token >> 16 != 0 {
            self.answered(slot, &Completion::default());
        }
        Ok(())
    }
}
