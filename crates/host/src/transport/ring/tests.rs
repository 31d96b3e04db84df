//! Rings against the device's end of `doorbell_hostile::ring`.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use doorbell_hostile::ring::{self as device, RingDevice};
use doorbell_platform::{Arena, Backing, Range, Region, poll};
use doorbell_queue::{Done, Down, Drain, IoQueue, Op, Progress, Slot, Wait};
use doorbell_spec::{
    command::{Command, SglKind, control},
    completion::Completion,
    status::{self, Status},
};
use proptest::prelude::*;
use rustix::event::{EventfdFlags, eventfd};

use super::{BusMap, Doorbells, Keeper, Place, RingParts, RingQueue, Shadow};

const QID: u16 = 3;
const PAGE: u64 = 4096;

/// The controller's side: every region is somewhere else on the bus, in pieces of `piece` bytes if that is not 0.
#[derive(Default)]
struct Side {
    piece: u64,
    mapped: Mutex<Vec<(Arc<Region>, BusMap)>>,
    gone: Mutex<Option<String>>,
    ended: AtomicBool,
    kept: Mutex<Vec<Arc<Region>>>,
}

impl Keeper for Arc<Side> {
    fn map(&self, region: &Arc<Region>) -> Result<BusMap, String> {
        let mut mapped = self.mapped.lock().unwrap();
        if let Some((_, map)) = mapped.iter().find(|(known, _)| Arc::ptr_eq(known, region)) {
            return Ok(map.clone());
        }
        let base = (mapped.len() as u64 + 1) << 40;
        let map = match self.piece {
            0 => BusMap::contiguous(base),
            // Backwards, so that no two touch.
            piece => BusMap::pieces(piece, (0..region.len() as u64 / piece).map(|n| base - 2 * n * piece).collect()),
        };
        mapped.push((region.clone(), map.clone()));
        Ok(map)
    }

    fn gone(&self) -> Option<String> {
        self.gone.lock().unwrap().clone()
    }

    fn end(&self, memory: Vec<Arc<Region>>) {
        assert!(self.kept.lock().unwrap().is_empty(), "ended twice");
        *self.kept.lock().unwrap() = memory;
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}

/// What a test's queue is like.
#[derive(Clone, Copy)]
struct Shape {
    entries: u32,
    shadow: bool,
    sgl: bool,
    piece: u64,
}

/// An interpreter takes a second for what is otherwise a thousandth.
const fn fewer(count: u32) -> u32 {
    if cfg!(miri) { count.div_ceil(100) } else { count }
}

const SHAPE: Shape = Shape { entries: 8, shadow: false, sgl: false, piece: 0 };

struct Rig {
    queue: RingQueue,
    device: RingDevice,
    side: Arc<Side>,
    arena: Arc<Arena>,
}

impl Rig {
    fn new(shape: Shape) -> Self {
        let device = RingDevice::new(QID, shape.entries, shape.shadow);
        let side = Arc::new(Side { piece: shape.piece, ..Side::default() });
        let arena = Arc::new(Arena::new(4 << 20).unwrap());
        let mut queue = RingQueue::new(parts(&device, &side, shape)).unwrap();
        queue.attach(&arena).unwrap();
        for slot in 0..queue.needs().slots {
            let data = Range { offset: u64::from(slot % 1024) * PAGE, len: 4096 };
            queue.prepare(slot, &[data]).unwrap();
        }
        Self { queue, device, side, arena }
    }

    /// Submits reads in these slots, commits, and returns what the device got.
    fn send(&mut self, slots: impl IntoIterator<Item = Slot>) -> Vec<Command> {
        let ops: Vec<Op> = slots.into_iter().map(read).collect();
        assert_eq!(self.queue.submit(&ops), ops.len());
        assert_eq!(self.queue.commit(), Ok(Progress::Complete));
        std::iter::from_fn(|| self.device.take()).collect()
    }

    fn succeed(&mut self, command: &Command) {
        self.device.answer(command.cid.get(), Status::SUCCESS, 0);
    }

    fn reap(&mut self) -> Result<Vec<Done>, Down> {
        let mut done = [Done::default(); 32];
        self.queue.reap(&mut done).map(|count| done[..count].to_vec())
    }

    fn slots(&mut self) -> Vec<Slot> {
        self.reap().unwrap().iter().map(|done| done.slot).collect()
    }
}

fn parts(device: &RingDevice, side: &Arc<Side>, shape: Shape) -> RingParts {
    let region = device.memory();
    let place = |offset| Place { region: region.clone(), offset, bus: offset };
    let shadow = Shadow {
        region: region.clone(),
        sq_tail: device::SHADOW_SQ_TAIL,
        cq_head: device::SHADOW_CQ_HEAD,
        sq_event: device::SQ_EVENT,
        cq_event: device::CQ_EVENT,
    };
    RingParts {
        qid: QID,
        entries: shape.entries,
        sq: place(device::SQ),
        cq: place(device.cq()),
        doorbells: Doorbells { region: region.clone(), sq_tail: device::SQ_TAIL, cq_head: device::CQ_HEAD },
        shadow: shape.shadow.then_some(shadow),
        page_size: PAGE as u32,
        most_bytes: 1 << 20,
        sgl: shape.sgl,
        backing: Backing::Any,
        interrupt: None,
        keeper: Box::new(side.clone()),
    }
}

fn read(slot: Slot) -> Op {
    Op { slot, opcode: 2, nsid: 1, slba: u64::from(slot), blocks: 8, ..Op::default() }
}

#[test]
fn commands_arrive_as_they_were_meant_and_completions_come_back() {
    let mut rig = Rig::new(SHAPE);
    assert_eq!(rig.queue.submit(&[read(4), read(1)]), 2);
    assert_eq!(rig.device.take(), None, "not committed yet");
    let commands = rig.send([]);
    let fields = |command: &Command| (command.opc, command.nsid.get(), command.cdw10.get(), command.cdw12.get());
    assert_eq!(commands.iter().map(fields).collect::<Vec<_>>(), [(2, 1, 4, 7), (2, 1, 1, 7)]);
    assert_eq!(rig.queue.named(4), Some((QID, commands[0].cid.get())));
    assert_eq!(rig.reap(), Ok(vec![]));
    rig.device.answer(commands[0].cid.get(), status::generic::INVALID_FIELD, 0x1_0000_0002);
    rig.succeed(&commands[1]);
    let failed = Done { slot: 4, status: status::generic::INVALID_FIELD, result: 0x1_0000_0002 };
    assert_eq!(rig.reap(), Ok(vec![failed, Done { slot: 1, ..Done::default() }]));
    let counted = rig.queue.counters();
    assert_eq!((counted.submitted, counted.completions, counted.polls, counted.idle_polls), (2, 2, 2, 1));
    assert_eq!((counted.sq_doorbells, counted.cq_doorbells), (1, 1), "one a batch each way");
    assert_eq!((rig.queue.named(4), rig.queue.named(99)), (None, None));
}

#[test]
fn a_full_ring_keeps_one_entry_free_and_says_so() {
    let mut rig = Rig::new(SHAPE);
    assert_eq!(rig.queue.needs().slots, 7);
    let ops: Vec<Op> = (0..9).map(read).collect();
    assert_eq!(rig.queue.submit(&ops), 7, "the eighth slot is none");
    assert_eq!(rig.queue.submit(&[read(0)]), 0, "busy");
    let commands = rig.send([]);
    assert_eq!(commands.len(), 7);
    commands.iter().for_each(|command| rig.succeed(command));
    assert_eq!(rig.slots(), [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(rig.queue.counters().queued, 2);
}

#[test]
fn rings_wrap_and_phases_change_for_any_size_and_batch() {
    for (entries, shadow) in [(2, false), (3, true), (8, false), (8, true), (256, true), (4096, false)] {
        if cfg!(miri) && entries > 8 {
            continue;
        }
        let mut rig = Rig::new(Shape { entries, shadow, ..SHAPE });
        let slots = rig.queue.needs().slots;
        let mut sent_before = 0;
        for batch in (1..=slots.min(7)).cycle() {
            if sent_before > 5 * entries {
                break;
            }
            // Out of order, and not the same slots each time.
            let first = sent_before as u16 % slots;
            sent_before += u32::from(batch);
            let sent: Vec<Slot> = (0..batch).map(|n| (first + n) % slots).collect();
            let commands = rig.send(sent.iter().copied());
            assert_eq!(commands.len(), sent.len(), "{entries} entries");
            commands.iter().rev().for_each(|command| rig.succeed(command));
            let back: Vec<Slot> = sent.into_iter().rev().collect();
            assert_eq!(rig.slots(), back, "{entries} entries");
            assert_eq!(rig.reap(), Ok(vec![]), "an old completion is not taken for a new one");
        }
    }
}

#[test]
fn no_more_is_reaped_than_there_is_room_for() {
    let mut rig = Rig::new(SHAPE);
    let commands = rig.send(0..7);
    commands.iter().for_each(|command| rig.succeed(command));
    let mut done = [Done::default(); 3];
    let counts: Vec<_> = (0..4).map(|_| rig.queue.reap(&mut done).unwrap()).collect();
    assert_eq!(counts, [3, 3, 1, 0]);
}

#[test]
fn a_completion_that_is_due_to_no_command_ends_the_queue() {
    type Misdeed = fn(&mut Rig, &Command);
    let misdeeds: [(&str, Misdeed); 6] = [
        ("not outstanding", |rig, command| {
            rig.succeed(command);
            rig.succeed(command);
        }),
        ("not outstanding", |rig, command| {
            rig.succeed(command);
            assert_eq!(rig.slots(), [2]);
            let again = rig.send([2]);
            assert_ne!(again[0].cid, command.cid);
            rig.succeed(command);
        }),
        ("not outstanding", |rig, _| rig.device.answer(0xffff, Status::SUCCESS, 0)),
        ("not outstanding", |rig, _| rig.device.answer(5, Status::SUCCESS, 0)),
        ("submission queue 4", |rig, command| {
            let mut entry = Completion::new(command.cid.get(), 1, Status::SUCCESS, 0);
            entry.sqid = 4.into();
            rig.device.post(entry);
        }),
        ("a head of 8 in a submission queue of 8", |rig, command| {
            let mut entry = Completion::new(command.cid.get(), 8, Status::SUCCESS, 0);
            entry.sqid = QID.into();
            rig.device.post(entry);
        }),
    ];
    for (expected, misdeed) in misdeeds {
        let mut rig = Rig::new(SHAPE);
        let command = rig.send([2])[0];
        misdeed(&mut rig, &command);
        // What arrived before comes out first.
        let down = loop {
            match rig.reap() {
                Ok(done) => assert!(!done.is_empty()),
                Err(down) => break down,
            }
        };
        assert!(down.0.contains(expected), "{down}: {expected}");
        assert_eq!((rig.queue.commit(), rig.queue.arm()), (Err(down.clone()), Err(down)));
        assert_eq!(rig.queue.submit(&[read(6)]), 0);
    }
}

#[test]
fn identifiers_go_round_without_losing_track() {
    // 2048 slots leave 5 bits of generation; 7 leave 13.
    for (entries, uses) in [(2049, 70), (8, 8300)] {
        if cfg!(miri) && entries > 8 {
            continue;
        }
        let mut rig = Rig::new(Shape { entries, ..SHAPE });
        let last = rig.queue.needs().slots - 1;
        let mut seen = HashMap::new();
        for _ in 0..fewer(uses) {
            let command = rig.send([last])[0];
            assert_ne!(command.cid.get(), 0xffff);
            *seen.entry(command.cid.get()).or_insert(0) += 1;
            rig.succeed(&command);
            assert_eq!(rig.slots(), [last]);
        }
        assert!(cfg!(miri) || seen.values().any(|&count| count > 1), "they came round");
    }
}

#[test]
fn the_register_is_written_only_when_the_device_waits_for_it() {
    let mut rig = Rig::new(Shape { shadow: true, ..SHAPE });
    assert!(rig.device.rest());
    let first = rig.send([0]);
    assert_eq!(rig.device.register(), 1, "it rested");
    let second = rig.send([1, 2]);
    assert_eq!(rig.device.register(), 1, "it was looking");
    assert_eq!(rig.queue.submit(&[read(3)]), 1);
    assert_eq!(rig.queue.commit(), Ok(Progress::Complete));
    assert!(!rig.device.rest(), "something has come before it rested");
    let third = rig.send([]);
    assert!(rig.device.rest());
    for command in first.iter().chain(&second).chain(&third) {
        rig.succeed(command);
    }
    assert_eq!(rig.slots(), [0, 1, 2, 3]);
    // Past the end of the ring, where the new tail is the smaller number.
    let fourth = rig.send([0, 1, 2, 3, 4, 5]);
    assert_eq!((rig.device.register(), fourth.len()), (2, 6));
    let counted = rig.queue.counters();
    assert_eq!((counted.sq_doorbells, counted.sq_shadow_doorbells), (2, 4));
}

#[test]
fn what_was_outstanding_at_the_end_is_quarantined_until_the_queue_is_deleted() {
    let mut rig = Rig::new(SHAPE);
    rig.send([1, 5]);
    rig.queue.stop();
    rig.queue.stop();
    assert_eq!((rig.queue.drained(), rig.queue.submit(&[read(0)])), (Drain::Busy, 0));
    assert_eq!(rig.queue.arm(), Ok(Wait::Ready));
    let aborted = |slot| Done { slot, status: status::generic::ABORTED_SQ_DELETION, result: 0 };
    assert_eq!(rig.reap(), Ok(vec![aborted(1), aborted(5)]));
    assert_eq!((rig.reap(), rig.queue.drained()), (Ok(vec![]), Drain::Quarantined(2)));
    rig.side.ended.store(true, Ordering::Release);
    assert_eq!(rig.queue.drained(), Drain::Clean);
    drop(rig.queue);
}

#[test]
fn an_idle_queue_that_ends_is_clean_and_its_memory_is_kept() {
    let rig = Rig::new(SHAPE);
    let (side, memory, arena) = (rig.side.clone(), rig.device.memory(), rig.arena.share());
    assert_eq!(rig.queue.drained(), Drain::Clean);
    drop(rig.queue);
    let kept = side.kept.lock().unwrap();
    for region in [memory, arena] {
        assert!(kept.iter().any(|known| Arc::ptr_eq(known, &region)));
    }
}

#[test]
fn a_device_that_went_away_is_noticed_by_a_queue_that_polls_or_sleeps() {
    let mut rig = Rig::new(SHAPE);
    rig.send([0]);
    assert_eq!(rig.reap(), Ok(vec![]));
    *rig.side.gone.lock().unwrap() = Some("pulled".into());
    let down = (0..100_000).find_map(|_| rig.reap().err());
    assert_eq!(down, Some(Down("pulled".into())));
    let mut rig = Rig::new(SHAPE);
    *rig.side.gone.lock().unwrap() = Some("pulled".into());
    assert_eq!(rig.queue.arm(), Err(Down("pulled".into())));
}

#[test]
#[cfg_attr(miri, ignore = "it needs the kernel's descriptors")]
fn a_sleeper_is_woken_by_the_interrupt_and_misses_none() {
    let device = RingDevice::new(QID, 8, false);
    let side = Arc::new(Side::default());
    let interrupt = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).unwrap());
    let parts = RingParts { interrupt: Some(interrupt.clone()), ..parts(&device, &side, SHAPE) };
    let queue = RingQueue::new(parts).unwrap();
    let mut rig = Rig { queue, device, side, arena: Arc::new(Arena::new(4096).unwrap()) };
    rig.queue.attach(&rig.arena.clone()).unwrap();
    rig.queue.prepare(0, &[Range { offset: 0, len: 4096 }]).unwrap();
    let raise = || rustix::io::write(&*interrupt, &1u64.to_ne_bytes()).unwrap();
    let command = rig.send([0])[0];
    raise();
    let Ok(Wait::Fd { fd, writable: false }) = rig.queue.arm() else { panic!("nothing has come") };
    assert!(!poll::wait(&[(fd, false)], Duration::ZERO), "an old interrupt does not wake");
    rig.succeed(&command);
    raise();
    assert!(poll::wait(&[(fd, false)], Duration::from_secs(20)));
    assert_eq!(rig.queue.arm(), Ok(Wait::Ready));
    assert_eq!(rig.slots(), [0]);
}

#[test]
#[cfg_attr(miri, ignore = "it needs the kernel's descriptors")]
fn without_an_interrupt_a_sleeper_looks_now_and_then() {
    let mut rig = Rig::new(SHAPE);
    for _ in 0..2 {
        let command = rig.send([0])[0];
        let Ok(Wait::Fd { fd, writable: false }) = rig.queue.arm() else { panic!("nothing has come") };
        assert!(poll::wait(&[(fd, false)], Duration::from_secs(20)));
        rig.succeed(&command);
        assert_eq!(rig.queue.arm(), Ok(Wait::Ready));
        assert_eq!(rig.slots(), [0]);
    }
}

#[test]
fn a_slot_without_memory_never_moves_data() {
    let mut rig = Rig::new(SHAPE);
    rig.queue.prepare(1, &[]).unwrap();
    let flush = doorbell_spec::command::flush(1);
    assert!(rig.queue.submit_raw(1, &flush));
    let got = rig.send([])[0];
    assert_eq!(got.dptr.prp1(), 0);
    rig.succeed(&got);
    assert_eq!(rig.slots(), [1]);
    assert_eq!(rig.queue.submit(&[read(1)]), 0);
    assert!(rig.reap().unwrap_err().0.contains("slot 1"));
}

#[test]
fn what_cannot_be_prepared_is_said() {
    let mut rig = Rig::new(SHAPE);
    let range = |offset, len| Range { offset, len };
    let cases: [(&[Range], &str); 5] = [
        (&[range(2, 512)], "whole dwords"),
        (&[range(0, 6)], "whole dwords"),
        (&[range(0, (1 << 20) + 4)], "1048576 at most"),
        (&[range(4 << 20, 4)], "not in the arena"),
        (&[range(0, 512), range(8192, 512)], "within a page"),
    ];
    for (data, expected) in cases {
        let why = rig.queue.prepare(0, data).unwrap_err().0;
        assert!(why.contains(expected), "{why}: {expected}");
    }
    rig.send([1]);
    assert!(rig.queue.prepare(1, &[]).unwrap_err().0.contains("busy"));
    assert!(rig.queue.attach(&rig.arena).unwrap_err().0.contains("outstanding"));
    assert!(rig.queue.prepare(7, &[]).unwrap_err().0.contains("does not exist"));
    let side = rig.side.clone();
    for (change, expected) in [(1, "1 entries"), (70_000, "70000 entries"), (60_000, "no submission queue of 60000")] {
        let parts = RingParts { entries: change, ..parts(&rig.device, &side, SHAPE) };
        let why = RingQueue::new(parts).err().unwrap();
        assert!(why.contains(expected), "{why}: {expected}");
    }
}

/// What a device finds on the bus.
struct Bus(Vec<(Arc<Region>, BusMap)>);

impl Bus {
    fn new(side: &Side) -> Self {
        Self(side.mapped.lock().unwrap().clone())
    }

    /// The index of a region and the offset in it.
    fn find(&self, bus: u64) -> (usize, u64) {
        for (index, (region, map)) in self.0.iter().enumerate() {
            let piece = map.piece.min(region.len() as u64);
            if let Some(number) = map.addresses.iter().position(|&address| bus.wrapping_sub(address) < piece) {
                return (index, number as u64 * piece + bus - map.addresses[number]);
            }
        }
        panic!("nothing is at {bus:x}h")
    }

    fn quad(&self, bus: u64) -> u64 {
        let (index, offset) = self.find(bus);
        let mut bytes = [0; 8];
        self.0[index].0.read(offset, &mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// The bytes of a PRP transfer, as offsets of the pieces in the arena (the first region): Base 4.3.1 read literally.
    fn walk_prp(&self, command: &Command, bytes: u64) -> Vec<(u64, u64)> {
        assert!(!command.uses_sgl());
        let first = command.dptr.prp1();
        assert_eq!(first & 3, 0);
        let mut pieces = vec![(first, (PAGE - first % PAGE).min(bytes))];
        let mut left = bytes - pieces[0].1;
        let mut next = command.dptr.prp2();
        if left > PAGE {
            assert_eq!(next & 7, 0, "a list of quadwords");
            while left > 0 {
                let entry = self.quad(next);
                assert_eq!(entry % PAGE, 0);
                if next % PAGE == PAGE - 8 && left > PAGE {
                    // The last entry of a page that is not the last of the list leads on.
                    next = entry;
                    continue;
                }
                pieces.push((entry, PAGE.min(left)));
                left -= PAGE.min(left);
                next += 8;
            }
        } else if left > 0 {
            assert_eq!(next % PAGE, 0);
            pieces.push((next, left));
        }
        self.in_arena(pieces)
    }

    fn walk_sgl(&self, command: &Command, bytes: u64) -> Vec<(u64, u64)> {
        let mut pieces = Vec::new();
        match command.sgl().kind() {
            SglKind::DataBlock { address, length } => pieces.push((address, length.into())),
            SglKind::LastSegment { address, length } => {
                assert!(length > 16 && u64::from(length) <= PAGE - address % PAGE);
                for at in (address..address + u64::from(length)).step_by(16) {
                    let upper = self.quad(at + 8);
                    assert_eq!(upper >> 32, 0, "a data block");
                    pieces.push((self.quad(at), upper));
                }
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(pieces.iter().map(|piece| piece.1).sum::<u64>(), bytes);
        self.in_arena(pieces)
    }

    fn in_arena(&self, pieces: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
        let mut joined: Vec<(u64, u64)> = Vec::new();
        for (bus, mut len) in pieces {
            let mut at = bus;
            while len > 0 {
                let here = (PAGE - at % PAGE).min(len);
                let (index, offset) = self.find(at);
                assert_eq!(index, 0, "data is in the arena");
                match joined.last_mut() {
                    Some((start, total)) if *start + *total == offset => *total += here,
                    _ => joined.push((offset, here)),
                }
                (at, len) = (at + here, len - here);
            }
        }
        joined
    }
}

fn sizes() -> impl Strategy<Value = u32> {
    prop_oneof![(1u32..=2048).prop_map(|n| n * 512), Just(1 << 20), (1u32..=1 << 18).prop_map(|n| n * 4)]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(fewer(200)) })]

    #[test]
    fn a_device_finds_all_data_of_any_size_at_any_dword(
        size in sizes(), dword in 0u64..1 << 18, sgl: bool, pieces: bool
    ) {
        let mut rig = Rig::new(Shape { sgl, piece: if pieces { 8192 } else { 0 }, ..SHAPE });
        let offset = (dword * 4).min((4 << 20) - u64::from(size));
        rig.queue.prepare(0, &[Range { offset, len: size }]).unwrap();
        let command = rig.send([0])[0];
        let bus = Bus::new(&rig.side);
        let found = match command.uses_sgl() {
            true => bus.walk_sgl(&command, size.into()),
            false => bus.walk_prp(&command, size.into()),
        };
        prop_assert_eq!(found, vec![(offset, u64::from(size))]);
        let two_pages = offset % PAGE + u64::from(size) <= 2 * PAGE;
        prop_assert_eq!(command.uses_sgl(), sgl && !two_pages);
    }

    #[test]
    fn ranges_anywhere_are_one_scattered_transfer(starts in prop::collection::vec(0u64..500, 1..20), dword in 0u64..100) {
        let mut rig = Rig::new(Shape { sgl: true, ..SHAPE });
        let ranges: Vec<Range> =
            starts.iter().map(|start| Range { offset: start * 8192 + dword * 4, len: 512 + *start as u32 * 4 }).collect();
        rig.queue.prepare(0, &ranges).unwrap();
        let command = rig.send([0])[0];
        let bus = Bus::new(&rig.side);
        let bytes = ranges.iter().map(|range| u64::from(range.len)).sum();
        let found = match command.uses_sgl() {
            true => bus.walk_sgl(&command, bytes),
            false => bus.walk_prp(&command, bytes),
        };
        let expected: Vec<_> = ranges.iter().map(|range| (range.offset, u64::from(range.len))).collect();
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn long_lists_of_pages_lead_from_page_to_page() {
    let device = RingDevice::new(QID, 8, false);
    let side = Arc::new(Side { piece: 16384, ..Side::default() });
    let parts = RingParts { most_bytes: 8 << 20, ..parts(&device, &side, SHAPE) };
    let arena = Arc::new(Arena::new(8 << 20).unwrap());
    let mut rig = Rig { queue: RingQueue::new(parts).unwrap(), device, side, arena };
    rig.queue.attach(&rig.arena.clone()).unwrap();
    for pages in [2, 3, 512, 513, 514, 1023, 1024, 1025, 1026, 2000] {
        if cfg!(miri) && pages > 3 {
            continue;
        }
        let data = Range { offset: PAGE - 512, len: pages * 4096 };
        rig.queue.prepare(0, &[data]).unwrap();
        let command = rig.send([0])[0];
        let bus = Bus::new(&rig.side);
        assert_eq!(bus.walk_prp(&command, data.len.into()), [(data.offset, u64::from(data.len))], "{pages} pages");
        rig.succeed(&command);
        assert_eq!(rig.slots(), [0]);
    }
}

#[test]
fn a_slot_that_is_prepared_again_uses_its_list_again() {
    let mut rig = Rig::new(SHAPE);
    let mut lists = std::collections::HashSet::new();
    for step in 0..fewer(10_000).into() {
        rig.queue.prepare(0, &[Range { offset: step % 8 * 512, len: 65_536 }]).unwrap();
        let command = rig.send([0])[0];
        lists.insert(command.dptr.prp2());
        rig.succeed(&command);
        assert_eq!(rig.slots(), [0]);
    }
    assert!(lists.len() <= 2, "{lists:?}");
}

#[test]
fn metadata_apart_has_a_pointer_of_its_own() {
    let mut rig = Rig::new(Shape { piece: 64 << 10, ..SHAPE });
    let data = [Range { offset: 0, len: 4096 }];
    rig.queue.prepare_metadata(1, Range { offset: 8192 + 8, len: 64 }).unwrap();
    let op = Op { application: 7, reference: 0x12_3456_789a, control: control::PRCHK_APP, ..read(1) };
    assert_eq!((rig.queue.submit(&[op]), rig.queue.commit()), (1, Ok(Progress::Complete)));
    let command = rig.device.take().unwrap();
    let bus = rig.side.map(&rig.arena.share()).unwrap();
    assert_eq!(Some(command.mptr.get()), bus.locate(8192 + 8).map(|(bus, _)| bus));
    let words = (command.cdw2.get(), command.cdw3.get(), command.cdw14.get(), command.cdw15.get());
    assert_eq!(words, (0, 0x12, 0x3456_789a, 0xffff_0007));
    assert!(rig.queue.prepare_metadata(1, data[0]).unwrap_err().0.contains("busy"));
    rig.succeed(&command);
    assert_eq!(rig.slots(), [1]);
    let refused = |rig: &mut Rig, offset, len| rig.queue.prepare_metadata(1, Range { offset, len }).unwrap_err().0;
    assert!(refused(&mut rig, 2, 64).contains("dword"));
    assert!(refused(&mut rig, (64 << 10) - 8, 16).contains("together"));
    assert!(refused(&mut rig, u64::MAX - 4, 64).contains("reaches"));
    // Data that is described anew has no metadata until that is said again.
    rig.queue.prepare(1, &data).unwrap();
    assert_eq!(rig.send([1])[0].mptr.get(), 0);
}
