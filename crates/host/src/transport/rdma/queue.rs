//! The queue over a connection: commands leave as sends, one chain a batch; answers come to receives that were posted before, and a
//! command is over when its answer is here and its send is done, whichever comes last.

use std::{
    cell::Cell,
    sync::Arc,
    time::{Duration, Instant},
};

use doorbell_platform::{Arena, Backing, Range, Region, Table};
use doorbell_queue::{
    Counters, Done, Down, Drain, IoQueue, Needs, Op, PrepareError, Progress, Slot, Wait, cid::Cids, standing::Standing,
};
use doorbell_rdma::{Completion, Opcode, Status as WorkStatus};
use doorbell_spec::{
    command::{Command, Direction, FLAGS_PSDT, FLAGS_SGL, data_direction},
    fabrics,
    status::Status,
};

use super::{
    capsule::{COMMAND, Reach, Rules, Template, write_list},
    link::{Link, RECEIVE},
};

/// Bytes of an answer: a completion queue entry.
pub(super) const ANSWER: u32 = 16;
/// Idle polls between two looks whether the connection is still there; a power of two.
const LOOK_INTERVAL: u64 = 1024;
/// How often, and how far apart, a controller over iWARP is nudged that has answered nothing yet. Soft iWARP's accepting end, up to Linux
/// 6.12 at least, leaves a message alone that comes before it has turned to the connection, until more comes.
pub(super) const NUDGES: u8 = 8;
const NUDGE_INTERVAL: Duration = Duration::from_millis(200);
/// Completions taken at once: two a command.
const POLL_BATCH: usize = 64;

/// Where the capsules and answers of a queue lie in its memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    /// Bytes from one capsule to the next, a multiple of 64.
    stride: u32,
    /// Places for answers.
    answers: u32,
    /// Where the first one is.
    answers_at: u64,
    /// Bytes in all.
    pub bytes: usize,
}

impl Layout {
    /// For `slots` commands at once, and so many answers.
    pub fn new(slots: u16, answers: u32, rules: &Rules) -> Self {
        let stride = rules.capsule_bytes().next_multiple_of(COMMAND);
        let answers_at = u64::from(stride) * u64::from(slots);
        let bytes = (answers_at + u64::from(answers) * u64::from(ANSWER)).max(1) as usize;
        Self { stride, answers, answers_at, bytes }
    }

    /// For so many answers alone.
    pub fn answers(count: u32) -> Self {
        Self { stride: COMMAND, answers: count, answers_at: 0, bytes: (count * ANSWER).max(1) as usize }
    }

    /// The place of an answer.
    pub fn answer(&self, index: u32) -> Range {
        Range { offset: self.answers_at + u64::from(index) * u64::from(ANSWER), len: ANSWER }
    }

    /// The table of answers in that memory.
    pub fn table(&self, region: &Arc<Region>) -> Option<Table<2>> {
        Table::new(region.clone(), self.answers_at, self.answers)
    }
}

/// What a queue is made of beside its link.
pub(super) struct Parts {
    pub qid: u16,
    /// Commands outstanding at once: no more than capsules.
    pub slots: u16,
    pub rules: Rules,
    pub layout: Layout,
    /// Where capsules are, and answers if they are the queue's own.
    pub memory: Arc<Region>,
    pub answers: Table<2>,
    /// Whether it shares answers with other queues.
    pub shares: bool,
    /// How often to nudge a controller that has answered nothing.
    pub nudges: u8,
}

/// A queue whose connection stands; the Fabrics Connect command is its first.
pub struct Queue<L: Link> {
    link: L,
    qid: u16,
    rules: Rules,
    stride: u32,
    capsules: Table<8>,
    answers: Table<2>,
    cids: Cids,
    slots: Vec<Work>,
    arena: Option<(Arc<Region>, Reach)>,
    /// Completions that were taken, of which those from `taken.start` on wait to be looked at.
    completions: Box<[Completion]>,
    taken: std::ops::Range<usize>,
    /// Work requests in the chains.
    unposted_sends: u32,
    unposted_receives: u32,
    /// Work requests that are posted and not done, but for receives that are shared.
    posted: Cell<u32>,
    /// Whether receives are shared with other queues.
    shares: bool,
    standing: Standing,
    /// What completes is looked at.
    trusted: bool,
    /// Nudges that are left, and when the next is due.
    pub(super) nudges: (u8, Instant),
    counters: Counters,
    /// Kept for describing data.
    pieces: Vec<Range>,
}

/// A slot and how far its command has come.
#[derive(Clone, Copy, Debug)]
struct Work {
    template: Template,
    sent: bool,
    answer: Option<(Status, u64)>,
}

impl<L: Link> Queue<L> {
    /// A queue over a link on which receives are posted already, one an answer.
    ///
    /// # Errors
    /// When the memory is too small.
    pub(super) fn new(link: L, parts: Parts) -> Result<Self, String> {
        let Parts { qid, slots, rules, layout, memory, answers, shares, nudges } = parts;
        let receives = if shares { 0 } else { answers.len() };
        let lines = u32::from(slots) * (layout.stride / COMMAND);
        let capsules = Table::new(memory, 0, lines).ok_or("the memory of a queue is too small for its capsules")?;
        let idle = Work { template: Template::empty(), sent: false, answer: None };
        Ok(Self {
            link,
            qid,
            rules,
            stride: layout.stride,
            capsules,
            answers,
            cids: Cids::new(slots),
            slots: vec![idle; slots.into()],
            arena: None,
            completions: vec![Completion::default(); POLL_BATCH].into(),
            taken: 0..0,
            unposted_sends: 0,
            unposted_receives: 0,
            posted: Cell::new(receives),
            shares,
            standing: Standing::default(),
            trusted: true,
            nudges: (nudges, Instant::now() + NUDGE_INTERVAL),
            counters: Counters::default(),
            pieces: Vec::new(),
        })
    }

    /// Builds a command, whose identifier and data pointer are missing in `words`, and puts it in the chain.
    #[inline]
    fn put(&mut self, slot: Slot, mut words: [u64; 8], direction: Direction, may_carry: bool) -> bool {
        let Some(work) =
            self.slots.get_mut(usize::from(slot)).filter(|_| self.standing.is_open() && self.cids.is_idle(slot))
        else {
            return false;
        };
        let template = if direction == Direction::None { Template::empty() } else { work.template };
        if direction != Direction::None && !template.has_data {
            let why = format!("slot {slot} of queue {} has no memory for the data of its command", self.qid);
            self.standing.lose(why);
            return false;
        }
        (work.sent, work.answer) = (false, None);
        let inside = template.inside.filter(|_| may_carry && direction == Direction::HostToController);
        let (len, data) = match inside {
            Some((data, pointer)) => {
                [words[3], words[4]] = pointer;
                (self.rules.data_at(), Some(data))
            }
            None => {
                [words[3], words[4]] = template.pointer;
                (template.bytes, None)
            }
        };
        words[0] |= (u64::from(FLAGS_SGL) << 8 | u64::from(self.cids.issue(slot)) << 16).to_le();
        self.capsules.write(u32::from(slot) * (self.stride / COMMAND), words);
        let capsule = Range { offset: u64::from(slot) * u64::from(self.stride), len };
        self.link.push_send(slot, capsule, data);
        self.unposted_sends += 1;
        true
    }

    /// Posts what the chains hold: receives first, so that no answer comes too early.
    #[inline]
    fn post(&mut self) {
        self.post_receives();
        if self.unposted_sends > 0 && self.standing.is_open() {
            match self.link.post_sends() {
                Ok(count) => {
                    self.posted.set(self.posted.get() + count as u32);
                    self.counters.sq_doorbells += 1;
                    self.unposted_sends = 0;
                }
                Err(error) => {
                    self.posted.set(self.posted.get() + error.taken as u32);
                    self.standing.lose(error.to_string());
                }
            }
        }
    }

    #[inline]
    fn post_receives(&mut self) {
        if self.unposted_receives > 0 && self.standing.is_open() {
            match self.link.post_receives() {
                Ok(count) => {
                    self.note_receives(count);
                    self.counters.receives += count as u64;
                    self.counters.receive_doorbells += 1;
                    self.unposted_receives = 0;
                }
                Err(error) => {
                    self.note_receives(error.taken);
                    self.standing.lose(error.to_string());
                }
            }
        }
    }

    #[inline]
    fn note_receives(&self, count: usize) {
        if !self.shares {
            self.posted.set(self.posted.get() + count as u32);
        }
    }

    /// Takes completions until none is left, or `done` is full.
    #[inline]
    fn collect(&mut self, done: &mut [Done]) -> usize {
        // Out of the way, so that they are looked at where they lie.
        let mut completions = std::mem::take(&mut self.completions);
        let (mut count, mut more) = (0, true);
        while count < done.len() && self.trusted {
            let Some(index) = self.taken.next() else {
                // Fewer than there was room for were all.
                more = more && self.take(&mut completions) == POLL_BATCH;
                if self.taken.is_empty() {
                    break;
                }
                continue;
            };
            match self.complete(&completions[index]) {
                Ok(None) => {}
                Ok(Some(over)) => {
                    done[count] = over;
                    count += 1;
                }
                Err(why) => self.distrust(why),
            }
        }
        self.completions = completions;
        count
    }

    /// Asks the completion queue; returns how many there were.
    #[inline]
    fn take(&mut self, completions: &mut [Completion]) -> usize {
        match self.link.poll(completions) {
            Ok(count) => {
                self.taken = 0..count;
                self.note_done(&completions[..count]);
                self.counters.work_completions += count as u64;
                count
            }
            Err(why) => {
                self.distrust(why);
                0
            }
        }
    }

    #[inline]
    fn note_done(&self, completions: &[Completion]) {
        let count = match self.shares {
            true => completions.iter().filter(|completion| completion.id() & RECEIVE == 0).count(),
            false => completions.len(),
        };
        self.posted.set(self.posted.get().saturating_sub(count as u32));
    }

    /// What a work completion ends, if anything.
    #[inline]
    fn complete(&mut self, completion: &Completion) -> Result<Option<Done>, String> {
        if completion.status() != WorkStatus::SUCCESS {
            return Err(self.refused(completion));
        }
        let slot = match completion.id() & RECEIVE {
            0 => self.sent(completion.id())?,
            _ => self.answered(completion)?,
        };
        let Work { sent: true, answer: Some((status, result)), .. } = self.slots[usize::from(slot)] else {
            return Ok(None);
        };
        self.cids.retire(slot);
        self.counters.completions += 1;
        Ok(Some(Done { slot, status, result }))
    }

    #[inline]
    fn sent(&mut self, id: u64) -> Result<Slot, String> {
        let slot = id as Slot;
        let known = u64::from(slot) == id && !self.cids.is_idle(slot);
        match self.slots.get_mut(usize::from(slot)).filter(|work| known && !work.sent) {
            Some(work) => {
                work.sent = true;
                Ok(slot)
            }
            None => Err(format!("the device completed work request {id:x}h, which is not posted")),
        }
    }

    /// Reads an answer and gives its place back.
    #[inline]
    fn answered(&mut self, completion: &Completion) -> Result<Slot, String> {
        let index = (completion.id() & !RECEIVE) as u32;
        if index >= self.answers.len() {
            return Err(format!("the device completed receive {index}, which is not posted"));
        }
        if completion.opcode() != Opcode::RECV || completion.bytes() != ANSWER || completion.invalidated().is_some() {
            return Err(nonsense(completion));
        }
        let order = std::sync::atomic::Ordering::Relaxed;
        let [result, upper] = [0, 1].map(|word| u64::from_le(self.answers.load(index, word, order)));
        self.link.push_receive(index);
        self.unposted_receives += 1;
        let (cid, status) = ((upper >> 32) as u16, (upper >> 48) as u16);
        let slot = self.cids.find(cid);
        match slot.map(|slot| (slot, &mut self.slots[usize::from(slot)])).filter(|(_, work)| work.answer.is_none()) {
            Some((slot, work)) => {
                let status = if status >> 1 == 0 { Status::SUCCESS } else { Status::from_field(status) };
                work.answer = Some((status, result));
                Ok(slot)
            }
            None => Err(format!(
                "the controller answered command {cid:04x}h in queue {}, which is not outstanding: it was answered before, or never \
                 sent",
                self.qid
            )),
        }
    }

    /// Why a work request was not carried out.
    #[cold]
    fn refused(&mut self, completion: &Completion) -> String {
        let status = completion.status();
        let what = match completion.id() & RECEIVE {
            0 => format!("sending a command in queue {}", self.qid),
            _ => format!("receiving an answer in queue {}", self.qid),
        };
        match status {
            // The connection manager knows more.
            WorkStatus::WR_FLUSH_ERR => {
                self.link.news().unwrap_or_else(|| "the connection has ended: the peer or the network closed it".into())
            }
            WorkStatus::LOC_LEN_ERR => {
                format!(
                    "{what}: a message is longer than the {ANSWER} bytes of an answer: the controller broke the protocol"
                )
            }
            _ => format!("{what}: {status}, vendor error {:x}h", completion.vendor_error()),
        }
    }

    /// Whether the connection is still there.
    #[cold]
    fn look(&mut self) {
        if let Some(why) = self.link.news() {
            self.standing.lose(why);
        }
        let (left, due) = self.nudges;
        if left > 0 && self.unposted_sends == 0 && self.standing.is_open() {
            if self.counters.completions > 0 {
                self.nudges.0 = 0;
            } else if Instant::now() >= due {
                self.nudges = (left - 1, Instant::now() + NUDGE_INTERVAL);
                if let Err(error) = self.link.nudge() {
                    self.standing.lose(error.to_string());
                }
            }
        }
    }

    /// Takes no more commands, and what has arrived is not looked at either.
    #[cold]
    fn distrust(&mut self, why: String) {
        self.trusted = false;
        self.standing.lose(why);
    }

    /// Whether a connection that was ended has given all work requests back: the device reads and writes nothing for it any more.
    fn is_flushed(&self) -> bool {
        let mut completions = [Completion::default(); POLL_BATCH];
        while self.posted.get() > 0 {
            match self.link.poll(&mut completions) {
                Ok(count @ 1..) => self.note_done(&completions[..count]),
                _ => return false,
            }
        }
        true
    }
}

/// What is wrong with a message that came as an answer.
#[cold]
fn nonsense(completion: &Completion) -> String {
    let what = match completion.invalidated() {
        Some(key) => format!("it invalidated key {key:x}h, which no command asked for"),
        None if completion.opcode() != Opcode::RECV => format!("it sent a {}", completion.opcode()),
        None => format!("it sent an answer of {} bytes instead of {ANSWER}", completion.bytes()),
    };
    format!("the controller broke the protocol: {what}")
}

impl<L: Link> IoQueue for Queue<L> {
    fn needs(&self) -> Needs {
        Needs {
            slots: self.slots.len() as u16,
            alignment: 4,
            segments: self.rules.descriptors(),
            bytes: self.rules.most_bytes(),
            backing: Backing::Any,
        }
    }

    fn attach(&mut self, arena: &Arc<Arena>) -> Result<(), PrepareError> {
        if self.cids.outstanding() > 0 {
            return Err(PrepareError("the memory of a queue cannot change while commands are outstanding".into()));
        }
        let region = arena.share();
        let reach = self.link.reach(&region).map_err(PrepareError)?;
        self.slots.iter_mut().for_each(|work| work.template = Template::empty());
        self.arena = Some((region, reach));
        // What was counted so far belongs to Connect.
        self.counters = Counters::default();
        Ok(())
    }

    fn prepare(&mut self, slot: Slot, data: &[Range]) -> Result<(), PrepareError> {
        let fail = |why: String| PrepareError(format!("slot {slot} of queue {}: {why}", self.qid));
        if !self.cids.is_idle(slot) {
            return Err(fail("it is busy or does not exist".into()));
        }
        let size = self.arena.as_ref().map_or(0, |(region, _)| region.len() as u64);
        if let Some(range) = data.iter().find(|range| range.offset.saturating_add(range.len.into()) > size) {
            return Err(fail(format!("{} bytes at {} are not in the arena of {size}", range.len, range.offset)));
        }
        let bytes: u64 = data.iter().map(|range| u64::from(range.len)).sum();
        if bytes > self.rules.most_bytes().into() {
            return Err(fail(format!("{bytes} bytes of data, {} at most", self.rules.most_bytes())));
        }
        let Some((_, reach)) = self.arena else { return Ok(()) };
        let template = self.rules.describe(data, reach, &mut self.pieces).map_err(fail)?;
        if template.bytes > COMMAND {
            let at = u64::from(slot) * u64::from(self.stride) + u64::from(self.rules.data_at());
            write_list(self.capsules.region(), at, &self.pieces, reach);
        }
        self.slots[usize::from(slot)].template = template;
        Ok(())
    }

    #[inline]
    fn submit(&mut self, ops: &[Op]) -> usize {
        let put = |op: &&Op| self.put(op.slot, op.words(), data_direction(op.opcode), true);
        let count = ops.iter().take_while(put).count();
        self.counters.submitted += count as u64;
        self.counters.queued += u64::from(count < ops.len());
        count
    }

    fn submit_raw(&mut self, slot: Slot, command: &Command) -> bool {
        // Fabrics commands say their direction in FCTYPE, and bring no data in their capsules.
        let is_fabrics = command.opc == fabrics::OPCODE;
        let direction = command.direction();
        let command = Command { flags: command.flags & !FLAGS_PSDT, cid: 0.into(), ..*command };
        let has_data = self.slots.get(usize::from(slot)).is_some_and(|work| work.template.has_data);
        // Of an admin command the opcode does not say it all.
        let direction = if self.qid == 0 && !has_data { Direction::None } else { direction };
        let taken = self.put(slot, zerocopy::transmute!(command), direction, !is_fabrics);
        self.counters.submitted += u64::from(taken);
        self.counters.queued += u64::from(!taken);
        taken
    }

    #[inline]
    fn commit(&mut self) -> Result<Progress, Down> {
        self.post();
        self.standing.down().map_or(Ok(Progress::Complete), |down| Err(down.clone()))
    }

    #[inline]
    fn reap(&mut self, done: &mut [Done]) -> Result<usize, Down> {
        let count = match self.standing.is_stopped() {
            true => self.standing.abort(&mut self.cids, done),
            false => self.collect(done),
        };
        self.counters.polls += 1;
        if count == 0 {
            self.counters.idle_polls += 1;
            // Those who share the receives may wait for them.
            self.post_receives();
            if self.standing.is_open() && self.counters.idle_polls.is_multiple_of(LOOK_INTERVAL) {
                self.look();
            }
            if let (Some(down), false) = (self.standing.down(), self.standing.is_stopped()) {
                return Err(down.clone());
            }
        }
        Ok(count)
    }

    fn stop(&mut self) {
        if self.standing.stop(&self.cids) && self.link.end() {
            self.posted.set(0);
        }
    }

    fn drained(&self) -> Drain {
        self.standing.drained(&self.cids, || self.is_flushed())
    }

    fn arm(&mut self) -> Result<Wait, Down> {
        if self.standing.is_open() {
            self.look();
            self.post_receives();
        }
        if self.standing.has_aborted() || self.trusted && !self.taken.is_empty() {
            return Ok(Wait::Ready);
        }
        let fd = match (self.standing.down(), self.standing.is_open().then(|| self.link.arm())) {
            (None, Some(Ok(fd))) => fd,
            (None, Some(Err(why))) => {
                self.standing.lose(why.clone());
                return Err(Down(why));
            }
            (down, _) => return down.cloned().map_or(Ok(Wait::Ready), Err),
        };
        // What came before it was armed wakes nobody.
        let mut completions = std::mem::take(&mut self.completions);
        let count = self.take(&mut completions);
        self.completions = completions;
        Ok(if count > 0 { Wait::Ready } else { Wait::Fd { fd, writable: false } })
    }

    fn counters(&self) -> Counters {
        self.counters
    }

    fn named(&self, slot: Slot) -> Option<(u16, u16)> {
        self.cids.of(slot).map(|cid| (self.qid, cid))
    }

    fn device(&self) -> Option<&str> {
        Some(self.link.device())
    }
}

impl<L: Link> Drop for Queue<L> {
    fn drop(&mut self) {
        self.stop();
    }
}
