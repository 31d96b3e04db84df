//! The pair of rings as a queue: commands are written straight into the submission ring, completions taken from the completion ring
//! by their phase tags. The memory model is in [`doorbell_queue::rings`].

use std::{
    os::fd::{AsRawFd, OwnedFd},
    sync::Arc,
};

use doorbell_platform::{Arena, Backing, Range, Region, Table};
use doorbell_queue::{
    Counters, Done, Down, Drain, IoQueue, Needs, Op, PrepareError, Progress, Slot, Wait,
    cid::Cids,
    rings::{At, Half, Word, arrived, ring},
    standing::Standing,
};
use doorbell_spec::{
    command::{Command, Direction, FLAGS_PSDT, data_direction},
    status::Status,
};
use rustix::{
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime},
};

use super::{
    BusMap, Doorbells, Keeper, Place, RingParts, Shadow,
    data::{Describer, Lists, Pointer, Rules},
};

/// Idle polls between two looks whether the device is still there; a power of two. About ten microseconds.
const LOOK_INTERVAL: u64 = 1024;
/// How often a worker that wants to sleep looks at a queue without an interrupt.
const NAP_NANOSECONDS: i64 = 50_000;
/// Most SGL descriptors of a command: what fits the smallest memory page.
const MOST_DESCRIPTORS: u16 = 256;

/// A submission and a completion queue of one device. At least one entry of each ring is always free, as no more commands are
/// outstanding than that: neither ring can overrun, whatever the head pointers say.
pub struct RingQueue {
    qid: u16,
    entries: u32,
    /// Where the next command goes, and the tail that the device knows.
    tail: u32,
    shown: u32,
    /// Where the next completion comes, and its phase tag.
    head: u32,
    phase: bool,
    standing: Standing,
    sq: Table<8>,
    cq: Table<2>,
    doorbells: Doorbells,
    shadow: Option<Shadow>,
    cids: Cids,
    slots: Vec<Template>,
    /// Memory for lists that a slot was given, and its bytes.
    places: Vec<Option<(Place, usize)>>,
    counters: Counters,
    rules: Rules,
    most_bytes: u32,
    backing: Backing,
    arena: Option<(Arc<Region>, BusMap)>,
    describer: Describer,
    lists: Lists,
    sleep: Sleep,
    keeper: Box<dyn Keeper>,
}

/// What a slot's commands have in common: where their data is, as it stands in a command.
#[derive(Clone, Copy, Debug, Default)]
struct Template {
    dptr: [u64; 2],
    /// Where their metadata is on the bus, if it is apart.
    mptr: u64,
    /// The flags, where they are in the first quadword.
    flags: u64,
    has_data: bool,
}

impl From<Pointer> for Template {
    fn from(Pointer { dptr, flags }: Pointer) -> Self {
        Self { dptr: zerocopy::transmute!(dptr), mptr: 0, flags: u64::from(flags) << 8, has_data: true }
    }
}

/// What wakes a worker.
enum Sleep {
    /// The interrupt.
    Interrupt(Arc<OwnedFd>),
    /// A timer, made when it is first needed, where there is no interrupt.
    Nap(Option<OwnedFd>),
}

impl RingQueue {
    /// Makes a queue and clears its rings and shadow doorbells: before it is created at the controller.
    ///
    /// # Errors
    /// When a place is too small or not aligned, or a doorbell is not mapped.
    pub fn new(parts: RingParts) -> Result<Self, String> {
        let RingParts { qid, entries, sq, cq, doorbells, shadow, page_size, most_bytes, .. } = parts;
        if !(2..=65536).contains(&entries) || !page_size.is_power_of_two() || page_size < 4096 {
            return Err(format!("queue {qid}: no rings of {entries} entries with memory pages of {page_size} bytes"));
        }
        let room = doorbells.region.len() as u64;
        let is_mapped = |at: u64| at.is_multiple_of(4) && at.checked_add(4).is_some_and(|end| end <= room);
        if !is_mapped(doorbells.sq_tail) || !is_mapped(doorbells.cq_head) {
            let Doorbells { sq_tail, cq_head, .. } = doorbells;
            return Err(format!(
                "queue {qid}: its doorbells at {sq_tail:x}h and {cq_head:x}h are not among the {room:x}h bytes that are mapped"
            ));
        }
        let sq = table(qid, "submission", &sq, entries)?;
        let cq = table(qid, "completion", &cq, entries)?;
        // A tag of zero is what is not due first. A device looks at none of this before the queue is created.
        (0..entries).for_each(|entry| cq.write(entry, [0; 2]));
        if let Some(shadow) = &shadow {
            for offset in [shadow.sq_tail, shadow.cq_head, shadow.sq_event, shadow.cq_event] {
                At { region: &shadow.region, offset }.store(0u32, std::sync::atomic::Ordering::Release);
            }
        }
        let sleep = match parts.interrupt {
            Some(fd) => {
                // `arm` empties it, which must not block.
                fcntl_getfl(&fd)
                    .and_then(|flags| fcntl_setfl(&fd, flags | OFlags::NONBLOCK))
                    .map_err(|why| format!("queue {qid}: the interrupt's descriptor: {why}"))?;
                Sleep::Interrupt(fd)
            }
            None => Sleep::Nap(None),
        };
        let slots = (entries - 1) as u16;
        let rules = Rules { page: page_size.into(), sgl: parts.sgl };
        Ok(Self {
            qid,
            entries,
            tail: 0,
            shown: 0,
            head: 0,
            phase: true,
            standing: Standing::default(),
            sq,
            cq,
            doorbells,
            shadow,
            cids: Cids::new(slots),
            slots: vec![Template::default(); slots.into()],
            places: vec![None; slots.into()],
            counters: Counters::default(),
            rules,
            describer: Describer::new(rules),
            most_bytes,
            backing: parts.backing,
            arena: None,
            lists: Lists::new(parts.backing, rules.page),
            sleep,
            keeper: parts.keeper,
        })
    }

    /// Writes a command, without its identifier and data pointer in `words`, where the next one goes.
    #[inline]
    fn put(&mut self, slot: Slot, mut words: [u64; 8], moves_data: bool) -> bool {
        let Some(data) =
            self.slots.get(usize::from(slot)).filter(|_| self.standing.is_open() && self.cids.is_idle(slot))
        else {
            return false;
        };
        if moves_data && !data.has_data {
            self.standing.lose(format!("slot {slot} of queue {} has no memory for the data of its command", self.qid));
            return false;
        }
        words[0] |= (data.flags | u64::from(self.cids.issue(slot)) << 16).to_le();
        words[2] = data.mptr;
        [words[3], words[4]] = data.dptr;
        self.sq.write(self.tail, words);
        self.tail = next(self.tail, self.entries);
        true
    }

    /// Takes what has arrived, as far as it fits `done`.
    #[inline]
    fn collect(&mut self, done: &mut [Done]) -> usize {
        let before = self.head;
        let (mut head, mut phase) = (before, self.phase);
        let mut count = 0;
        for place in done {
            let Some([result, upper]) = self.due(head, phase) else { break };
            let (sqhd, sqid) = (upper as u16, (upper >> 16) as u16);
            let (cid, status) = ((upper >> 32) as u16, (upper >> 48) as u16);
            let honest = sqid == self.qid && u32::from(sqhd) < self.entries;
            let Some(slot) = self.cids.find(cid).filter(|_| honest) else {
                self.standing.lose(self.complaint(cid, sqid, sqhd));
                break;
            };
            self.cids.retire(slot);
            // Hardly any is something else, and to take it apart costs more than all the rest.
            let status = if status >> 1 == 0 { Status::SUCCESS } else { Status::from_field(status) };
            *place = Done { slot, status, result };
            head = next(head, self.entries);
            phase ^= head == 0;
            count += 1;
        }
        if count > 0 {
            (self.head, self.phase) = (head, phase);
            let shadow = self.shadow.as_ref();
            let shadow = shadow.map(|shadow| (&*shadow.region, shadow.cq_head, shadow.cq_event));
            let wrote = show(&self.doorbells.region, self.doorbells.cq_head, shadow, before, head);
            self.counters.cq_doorbells += u64::from(wrote);
            self.counters.cq_shadow_doorbells += u64::from(shadow.is_some());
        }
        count
    }

    /// The completion at a place of the ring, if it has arrived.
    #[inline]
    fn due(&self, entry: u32, phase: bool) -> Option<[u64; 2]> {
        let half = |half| Half { ring: &self.cq, entry, half };
        arrived([&half(0), &half(1)], phase)
    }

    fn is_ready(&self) -> bool {
        self.due(self.head, self.phase).is_some()
    }

    #[cold]
    fn complaint(&self, cid: u16, sqid: u16, sqhd: u16) -> String {
        let Self { qid, entries, .. } = self;
        let what = if self.cids.find(cid).is_none() {
            "which is not outstanding: it was completed before, or never sent".into()
        } else if sqid != *qid {
            format!("for submission queue {sqid}")
        } else {
            format!("with a head of {sqhd} in a submission queue of {entries} entries")
        };
        format!("the controller completed command {cid:04x}h in queue {qid}, {what}; the controller needs a reset")
    }

    /// Whether the device is still there.
    #[cold]
    fn look(&mut self) {
        let lost = self.doorbells.region.is_lost() || self.sq.region().is_lost() || self.cq.region().is_lost();
        let lost = lost.then(|| "the device's registers or memory have gone".to_string());
        if let Some(why) = self.keeper.gone().or(lost) {
            self.standing.lose(why);
        }
    }
}

#[inline]
fn next(index: u32, entries: u32) -> u32 {
    if index + 1 == entries { 0 } else { index + 1 }
}

/// The entries of a ring, on whole cache lines.
fn table<const WORDS: usize>(qid: u16, what: &str, place: &Place, entries: u32) -> Result<Table<WORDS>, String> {
    let (offset, size) = (place.offset, place.region.len());
    let table = Table::new(place.region.clone(), offset, entries).filter(|_| offset % 64 == 0);
    table.ok_or_else(|| {
        format!("queue {qid}: no {what} queue of {entries} entries at {offset} of {size} bytes of memory")
    })
}

/// Moves a doorbell; returns whether its register was written.
#[inline]
fn show(registers: &Region, offset: u64, shadow: Option<(&Region, u64, u64)>, old: u32, new: u32) -> bool {
    let register = At { region: registers, offset };
    match shadow {
        None => ring(&register, None, old, new),
        Some((region, shadow, event)) => {
            let (shadow, event) = (At { region, offset: shadow }, At { region, offset: event });
            ring(&register, Some([&shadow, &event]), old, new)
        }
    }
}

impl IoQueue for RingQueue {
    fn needs(&self) -> Needs {
        let pages = u64::from(self.most_bytes).div_ceil(self.rules.page).clamp(1, u16::MAX.into()) as u16;
        Needs {
            slots: (self.entries - 1) as u16,
            alignment: 4,
            segments: if self.rules.sgl { pages.max(MOST_DESCRIPTORS) } else { pages },
            bytes: self.most_bytes,
            backing: self.backing,
        }
    }

    fn attach(&mut self, arena: &Arc<Arena>) -> Result<(), PrepareError> {
        if self.cids.outstanding() > 0 {
            return Err(PrepareError("the memory of a queue cannot change while commands are outstanding".into()));
        }
        let region = arena.share();
        let map = self.keeper.map(&region).map_err(PrepareError)?;
        self.slots.fill(Template::default());
        self.arena = Some((region, map));
        // What was counted so far is not the load's.
        self.counters = Counters::default();
        Ok(())
    }

    fn prepare(&mut self, slot: Slot, data: &[Range]) -> Result<(), PrepareError> {
        let fail = |why: String| PrepareError(format!("slot {slot} of queue {}: {why}", self.qid));
        if !self.cids.is_idle(slot) {
            return Err(fail("it is busy or does not exist".into()));
        }
        let size = self.arena.as_ref().map_or(0, |(region, _)| region.len() as u64);
        let bytes: u64 = data.iter().map(|range| u64::from(range.len)).sum();
        if let Some(range) = data.iter().find(|range| range.offset.saturating_add(range.len.into()) > size) {
            return Err(fail(format!("{} bytes at {} are not in the arena of {size}", range.len, range.offset)));
        }
        if bytes > self.most_bytes.into() {
            return Err(fail(format!("{bytes} bytes of data, {} at most", self.most_bytes)));
        }
        let index = usize::from(slot);
        self.slots[index] = Template::default();
        if let (Some((_, map)), true) = (&self.arena, bytes > 0) {
            let (lists, keeper, kept) = (&mut self.lists, &*self.keeper, &mut self.places[index]);
            let list = |bytes| match kept {
                Some((place, room)) if *room >= bytes => Ok(place.clone()),
                _ => lists.place(bytes, keeper).inspect(|place| *kept = Some((place.clone(), bytes))),
            };
            self.slots[index] = self.describer.describe(data, map, list).map_err(fail)?.into();
        }
        Ok(())
    }

    fn prepare_metadata(&mut self, slot: Slot, metadata: Range) -> Result<(), PrepareError> {
        let fail = |why: String| PrepareError(format!("slot {slot} of queue {}: {why}", self.qid));
        let Some(data) = self.slots.get_mut(usize::from(slot)).filter(|data| data.has_data && self.cids.is_idle(slot))
        else {
            return Err(fail("it is busy, has no data or does not exist".into()));
        };
        let Range { offset, len } = metadata;
        let inside = |(region, _): &&(Arc<Region>, BusMap)| offset.saturating_add(len.into()) <= region.len() as u64;
        let place = self.arena.as_ref().filter(inside).and_then(|(_, map)| map.locate(offset));
        match place {
            Some((bus, together)) if together >= u64::from(len) && bus % 4 == 0 => {
                data.mptr = bus.to_le();
                Ok(())
            }
            Some(_) => Err(fail(format!(
                "{len} bytes of metadata at {offset} of the memory do not lie together on the bus from a dword on"
            ))),
            None => Err(fail(format!("{len} bytes of metadata at {offset} are not in memory that the device reaches"))),
        }
    }

    #[inline]
    fn submit(&mut self, ops: &[Op]) -> usize {
        let count = ops
            .iter()
            .take_while(|op| self.put(op.slot, op.words(), data_direction(op.opcode) != Direction::None))
            .count();
        self.counters.submitted += count as u64;
        self.counters.queued += u64::from(count < ops.len());
        count
    }

    fn submit_raw(&mut self, slot: Slot, command: &Command) -> bool {
        let command = Command { flags: command.flags & !FLAGS_PSDT, ..*command };
        // Of an admin command the opcode does not say it all, and those that create queues bring an address of their own.
        if let (0, Some(data)) = (self.qid, self.slots.get_mut(usize::from(slot)).filter(|data| !data.has_data)) {
            data.dptr = zerocopy::transmute!(command.dptr);
        }
        let moves_data = self.qid > 0 && command.direction() != Direction::None;
        let taken = self.put(slot, zerocopy::transmute!(command), moves_data);
        self.counters.submitted += u64::from(taken);
        self.counters.queued += u64::from(!taken);
        taken
    }

    #[inline]
    fn commit(&mut self) -> Result<Progress, Down> {
        if let Some(down) = self.standing.down() {
            return Err(down.clone());
        }
        if self.tail != self.shown {
            let shadow = self.shadow.as_ref();
            let shadow = shadow.map(|shadow| (&*shadow.region, shadow.sq_tail, shadow.sq_event));
            let wrote = show(&self.doorbells.region, self.doorbells.sq_tail, shadow, self.shown, self.tail);
            self.counters.sq_doorbells += u64::from(wrote);
            self.counters.sq_shadow_doorbells += u64::from(shadow.is_some());
            self.shown = self.tail;
        }
        Ok(Progress::Complete)
    }

    fn commits_cheaply(&self) -> bool {
        true
    }

    #[inline]
    fn reap(&mut self, done: &mut [Done]) -> Result<usize, Down> {
        let count = match (self.standing.is_open(), self.standing.is_stopped()) {
            (true, _) => self.collect(done),
            (false, true) => self.standing.abort(&mut self.cids, done),
            (false, false) => 0,
        };
        self.counters.polls += 1;
        self.counters.completions += count as u64;
        if count == 0 {
            self.counters.idle_polls += 1;
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
        if !self.standing.stop(&self.cids) {
            return;
        }
        let rings = [self.sq.region().clone(), self.cq.region().clone()];
        let arena = self.arena.iter().map(|(region, _)| region.clone());
        self.keeper.end(rings.into_iter().chain(arena).chain(self.lists.memory()).collect());
    }

    fn drained(&self) -> Drain {
        self.standing.drained(&self.cids, || self.keeper.has_ended())
    }

    fn arm(&mut self) -> Result<Wait, Down> {
        if self.standing.is_open() {
            self.look();
        }
        if self.standing.has_aborted() || self.standing.is_open() && self.is_ready() {
            return Ok(Wait::Ready);
        }
        if let Some(down) = self.standing.down() {
            return Err(down.clone());
        }
        let fd = match &mut self.sleep {
            Sleep::Interrupt(fd) => {
                // Emptied before the last look: an interrupt of a completion that this look misses comes after it.
                let _ = rustix::io::read(&*fd, &mut [0; 8]);
                fd.as_raw_fd()
            }
            Sleep::Nap(timer) => {
                nap(timer).map_err(|why| Down(format!("a timer for a queue without interrupt: {why}")))?
            }
        };
        let ready = self.is_ready();
        Ok(if ready { Wait::Ready } else { Wait::Fd { fd, writable: false } })
    }

    fn counters(&self) -> Counters {
        self.counters
    }

    fn named(&self, slot: Slot) -> Option<(u16, u16)> {
        self.cids.of(slot).map(|cid| (self.qid, cid))
    }
}

/// Sets a timer, which is made first if there is none.
fn nap(timer: &mut Option<OwnedFd>) -> rustix::io::Result<std::os::fd::RawFd> {
    let timer = match timer {
        Some(timer) => timer,
        None => {
            timer.insert(timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?)
        }
    };
    let none = Timespec { tv_sec: 0, tv_nsec: 0 };
    let once = Itimerspec { it_interval: none, it_value: Timespec { tv_sec: 0, tv_nsec: NAP_NANOSECONDS } };
    timerfd_settime(&*timer, TimerfdTimerFlags::empty(), &once)?;
    Ok(timer.as_raw_fd())
}

impl Drop for RingQueue {
    fn drop(&mut self) {
        self.stop();
    }
}
