//! Writing zones (ZNS 2.1): a queue that stands before the real one and gives each write its place. The engine's positions do not count
//! for writes; they go to the write pointers of the zones that the queue has for itself, one I/O at a time to a zone, or any number where
//! it appends. A zone that is full makes way for the next, which is reset first where it is full too: by a command of the queue's own,
//! that the engine does not see. What these take is in [`Tally`].

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use doorbell_platform::{Arena, Range};
use doorbell_queue::{Counters, Done, Down, Drain, IoQueue, Needs, Op, PrepareError, Progress, Slot, Wait};
use doorbell_result::ZoneManagement;
use doorbell_spec::{
    command::{Command, NvmOpcode},
    status::Status,
    zns::{self, SendAction},
};

/// A zone as its queue keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Zone {
    /// First block.
    pub start: u64,
    /// Blocks that can be written.
    pub capacity: u64,
    /// Blocks that have been, or are about to be.
    pub written: u64,
    pub stage: Stage,
    /// Writes that are not over.
    pub in_flight: u32,
}

/// What a zone is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Writes.
    Ready,
    /// To be reset first.
    Used,
    /// A write failed, so nobody knows where its pointer is: to be reset when the other writes are over.
    Failed,
    /// Waits for a command of ours, and until then is active or not.
    Managed { active: bool },
}

/// The zones of one queue.
#[derive(Clone, Debug, Default)]
pub(crate) struct Share {
    pub nsid: u32,
    /// In the order of their use.
    pub zones: Vec<Zone>,
    /// How many are written at a time.
    pub most: usize,
    pub tally: Arc<Tally>,
}

/// What was done beside I/Os.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    resets: AtomicU64,
    finishes: AtomicU64,
    failed: AtomicU64,
    /// Nanoseconds of all, and of the longest.
    time: AtomicU64,
    longest: AtomicU64,
}

impl Tally {
    /// Adds what it has to the sum of several.
    pub fn add_to(&self, sum: &mut ZoneManagement) {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        sum.resets += of(&self.resets);
        sum.finishes += of(&self.finishes);
        sum.failed += of(&self.failed);
        sum.time += Duration::from_nanos(of(&self.time));
        sum.longest = sum.longest.max(Duration::from_nanos(of(&self.longest)));
    }

    fn add(&self, action: SendAction, status: Status, took: Duration) {
        let count = match (status.is_success(), action) {
            (false, _) => &self.failed,
            (true, SendAction::RESET) => &self.resets,
            (true, _) => &self.finishes,
        };
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        count.fetch_add(1, Ordering::Relaxed);
        self.time.fetch_add(took, Ordering::Relaxed);
        self.longest.fetch_max(took, Ordering::Relaxed);
    }
}

/// Where the write in a slot went: zone and block.
type Place = (usize, u64);

/// A queue of a zoned namespace.
pub(crate) struct ZonedQueue<Q> {
    inner: Q,
    share: Share,
    /// Zones that are written now, and where to look first.
    open: Vec<usize>,
    next: usize,
    /// The others, the next first.
    rest: VecDeque<usize>,
    /// What is to be done to zones, and what is being done since when.
    chores: VecDeque<(usize, SendAction)>,
    chore: Option<(usize, SendAction, Instant)>,
    /// The slot of these commands, which the engine does not see.
    slot: Slot,
    places: Box<[Option<Place>]>,
    stopped: bool,
    down: Option<Down>,
}

impl<Q: IoQueue> ZonedQueue<Q> {
    /// Puts a queue behind one for its share of zones, at least one.
    ///
    /// # Errors
    /// When it has no slot to spare.
    pub fn new(inner: Q, share: Share) -> Result<Self, String> {
        let slots = inner.needs().slots;
        if slots < 2 {
            return Err("an I/O queue of a zoned namespace needs 3 entries: raise --io-queue-size".into());
        }
        let rest = (0..share.zones.len()).collect();
        let mut queue = Self {
            inner,
            open: Vec::with_capacity(share.most),
            next: 0,
            rest,
            chores: VecDeque::with_capacity(share.zones.len()),
            chore: None,
            slot: slots - 1,
            places: vec![None; slots.into()].into(),
            stopped: false,
            down: None,
            share,
        };
        while queue.open.len() < queue.share.most && queue.open_next() {}
        Ok(queue)
    }

    /// Opens the next zone, if there is one.
    fn open_next(&mut self) -> bool {
        let Some(zone) = self.rest.pop_front() else { return false };
        self.open.push(zone);
        if self.share.zones[zone].stage == Stage::Used {
            self.manage(zone, SendAction::RESET);
        }
        true
    }

    fn manage(&mut self, zone: usize, action: SendAction) {
        let stage = &mut self.share.zones[zone].stage;
        *stage = Stage::Managed { active: ![Stage::Used, Stage::Managed { active: false }].contains(stage) };
        self.chores.push_back((zone, action));
    }

    /// A zone for a write of so many blocks.
    fn place(&mut self, blocks: u64, append: bool) -> Option<usize> {
        let mut tries = self.open.len();
        while tries > 0 {
            if self.next >= self.open.len() {
                self.next = 0;
            }
            let at = self.open[self.next];
            let zone = self.share.zones[at];
            if zone.stage == Stage::Ready && (append || zone.in_flight == 0) {
                if zone.written + blocks <= zone.capacity {
                    self.next += 1;
                    return Some(at);
                }
                if zone.in_flight == 0 {
                    // What takes its place is looked at as well: it is there, or waits for its reset.
                    self.leave(at);
                    let now = self.open.last().map(|&zone| self.share.zones[zone].stage);
                    if now == Some(Stage::Ready) {
                        self.next = self.open.len() - 1;
                        continue;
                    }
                }
            }
            self.next += 1;
            tries -= 1;
        }
        None
    }

    /// A zone has no room for the next write: what is left of it is given up, as it would stay active else.
    fn leave(&mut self, at: usize) {
        let zone = self.share.zones[at];
        if zone.written < zone.capacity { self.manage(at, SendAction::FINISH) } else { self.replace(at) }
    }

    /// Another zone takes the place of one that is used up.
    fn replace(&mut self, at: usize) {
        self.open.retain(|&zone| zone != at);
        self.share.zones[at].stage = Stage::Used;
        self.rest.push_back(at);
        self.open_next();
    }

    /// Does the next chore, if none is being done.
    fn pump(&mut self) {
        if self.chore.is_none()
            && !self.stopped
            && let Some(&(at, action)) = self.chores.front()
        {
            let command = zns::management_send(self.share.nsid, self.share.zones[at].start, action, false);
            if self.inner.submit_raw(self.slot, &command) {
                self.chores.pop_front();
                self.chore = Some((at, action, Instant::now()));
                // Of a queue that is lost, the next call tells.
                let _ = self.inner.commit();
            }
        }
    }

    /// A chore is done.
    #[cold]
    fn managed(&mut self, status: Status) {
        let Some((at, action, since)) = self.chore.take().filter(|_| !self.stopped) else { return };
        self.share.tally.add(action, status, since.elapsed());
        match action {
            SendAction::RESET if status.is_success() => {
                let zone = &mut self.share.zones[at];
                (zone.written, zone.stage) = (0, Stage::Ready);
            }
            _ if status.is_success() => self.replace(at),
            SendAction::RESET => {
                // It is left alone from now on, and what is active still counts against the limits: none takes its place then.
                let active = self.share.zones[at].stage == Stage::Managed { active: true };
                self.open.retain(|&zone| zone != at);
                if !active {
                    self.open_next();
                }
                if self.open.is_empty() {
                    let start = self.share.zones[at].start;
                    self.down = Some(Down(format!(
                        "none of its zones can be written any more: the last was that at block {start}, whose reset failed: {status}"
                    )));
                }
            }
            // What cannot be finished can be reset, or not.
            _ => self.manage(at, SendAction::RESET),
        }
    }

    /// A write is over: says where it was.
    fn settle(&mut self, done: &mut Done) {
        let Some((at, slba)) = self.places[usize::from(done.slot)].take() else { return };
        let zone = &mut self.share.zones[at];
        zone.in_flight -= 1;
        if !done.status.is_success() {
            zone.stage = Stage::Failed;
            done.result = if slba == PLACED_BY_DEVICE { zone.start } else { slba };
        } else if slba != PLACED_BY_DEVICE {
            done.result = slba;
        }
        if zone.stage == Stage::Failed && zone.in_flight == 0 {
            self.manage(at, SendAction::RESET);
        }
    }
}

/// The block of a Zone Append before the device has said it.
const PLACED_BY_DEVICE: u64 = u64::MAX;

impl<Q: IoQueue> IoQueue for ZonedQueue<Q> {
    fn needs(&self) -> Needs {
        Needs { slots: self.slot, ..self.inner.needs() }
    }

    fn attach(&mut self, arena: &Arc<Arena>) -> Result<(), PrepareError> {
        self.inner.attach(arena)?;
        self.inner.prepare(self.slot, &[])
    }

    fn prepare(&mut self, slot: Slot, data: &[Range]) -> Result<(), PrepareError> {
        self.inner.prepare(slot, data)
    }

    fn submit(&mut self, ops: &[Op]) -> usize {
        if self.down.is_some() {
            return 0;
        }
        for (count, op) in ops.iter().enumerate() {
            let opcode = NvmOpcode(op.opcode);
            if !matches!(opcode, NvmOpcode::WRITE | NvmOpcode::WRITE_ZEROES | NvmOpcode::ZONE_APPEND) {
                if self.inner.submit(std::slice::from_ref(op)) == 0 {
                    return count;
                }
                continue;
            }
            let append = opcode == NvmOpcode::ZONE_APPEND;
            let place = self.place(op.blocks.into(), append);
            self.pump();
            let Some(at) = place else { return count };
            let zone = &mut self.share.zones[at];
            let slba = if append { zone.start } else { zone.start + zone.written };
            if self.inner.submit(&[Op { slba, ..*op }]) == 0 {
                return count;
            }
            zone.written += u64::from(op.blocks);
            zone.in_flight += 1;
            self.places[usize::from(op.slot)] = Some((at, if append { PLACED_BY_DEVICE } else { slba }));
        }
        ops.len()
    }

    fn submit_raw(&mut self, slot: Slot, command: &Command) -> bool {
        self.inner.submit_raw(slot, command)
    }

    fn commit(&mut self) -> Result<Progress, Down> {
        self.inner.commit()
    }

    fn commits_cheaply(&self) -> bool {
        self.inner.commits_cheaply()
    }

    fn reap(&mut self, done: &mut [Done]) -> Result<usize, Down> {
        let count = self.inner.reap(done)?;
        let mut kept = 0;
        for at in 0..count {
            let mut one = done[at];
            if one.slot == self.slot {
                self.managed(one.status);
                continue;
            }
            self.settle(&mut one);
            done[kept] = one;
            kept += 1;
        }
        self.pump();
        match &self.down {
            Some(down) if count == 0 && !self.stopped => Err(down.clone()),
            _ => Ok(kept),
        }
    }

    fn stop(&mut self) {
        self.stopped = true;
        self.inner.stop();
    }

    fn drained(&self) -> Drain {
        self.inner.drained()
    }

    fn arm(&mut self) -> Result<Wait, Down> {
        if self.down.is_some() { Ok(Wait::Ready) } else { self.inner.arm() }
    }

    fn counters(&self) -> Counters {
        self.inner.counters()
    }

    fn named(&self, slot: Slot) -> Option<(u16, u16)> {
        self.inner.named(slot)
    }

    fn device(&self) -> Option<&str> {
        self.inner.device()
    }
}
