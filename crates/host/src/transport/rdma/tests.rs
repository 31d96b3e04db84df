//! The queue over a scripted link. No device here and no honest peer does most of this: completions in an order of ours, answers to
//! commands that were never sent, messages of the wrong length, work requests that fail. What a real device does is the lab's.

use std::{
    collections::VecDeque,
    io,
    os::fd::RawFd,
    sync::{Arc, Mutex, MutexGuard},
};

use doorbell_platform::{Arena, Range, Region};
use doorbell_queue::{Done, Down, Drain, IoQueue, Op, Slot, Wait};
use doorbell_rdma::{Completion, Opcode, PostError, Status as WorkStatus};
use doorbell_spec::{
    command::{Command, SglDescriptor, SglKind},
    completion,
    fabrics::{self, cattr},
    status::{self, Status},
};
use zerocopy::{FromBytes, IntoBytes};

use super::{
    capsule::{Reach, Rules},
    link::{Link, RECEIVE},
    queue::{Layout, Parts, Queue},
};
use crate::transport::Capsule;

const QID: u16 = 3;
const SLOTS: u16 = 8;
const REACH: Reach = Reach { address: 0x7000_0000, key: 0xaabb_ccdd };
/// What the kernel's target announces: 4096 bytes, one descriptor.
const KERNEL: Capsule = Capsule { data_bytes: 4096, data_offset: 0, descriptors: 1 };

/// A send that was posted.
#[derive(Clone, Copy, Debug)]
struct Sent {
    slot: Slot,
    capsule: Range,
    data: Option<Range>,
}

/// What the link was told and what it is to say.
#[derive(Default)]
struct Script {
    pushed: Vec<Sent>,
    sent: Vec<Sent>,
    pushed_receives: Vec<u32>,
    receives: VecDeque<u32>,
    /// `s` for a chain of sends, `r` for one of receives, each with its length.
    chains: Vec<(char, usize)>,
    completions: VecDeque<Completion>,
    /// Comes when the queue has been armed.
    late: Option<Completion>,
    news: Option<String>,
    refuse_sends: bool,
    ended: bool,
    ends_at_once: bool,
    nudged: u32,
}

#[derive(Clone)]
struct Scripted(Arc<Mutex<Script>>);

impl Scripted {
    fn script(&self) -> MutexGuard<'_, Script> {
        self.0.lock().unwrap()
    }
}

impl Link for Scripted {
    fn device(&self) -> &str {
        "scripted0"
    }
    fn reach(&mut self, _: &Arc<Region>) -> Result<Reach, String> {
        Ok(REACH)
    }
    fn push_send(&mut self, slot: Slot, capsule: Range, data: Option<Range>) {
        self.script().pushed.push(Sent { slot, capsule, data });
    }
    fn push_receive(&mut self, answer: u32) {
        self.script().pushed_receives.push(answer);
    }
    fn post_receives(&mut self) -> Result<usize, PostError> {
        let mut script = self.script();
        let posted = std::mem::take(&mut script.pushed_receives);
        script.chains.push(('r', posted.len()));
        script.receives.extend(&posted);
        Ok(posted.len())
    }
    fn post_sends(&mut self) -> Result<usize, PostError> {
        let mut script = self.script();
        let posted = std::mem::take(&mut script.pushed);
        if script.refuse_sends {
            let source = io::Error::from_raw_os_error(12);
            return Err(PostError { call: "ibv_post_send", taken: 0, source });
        }
        script.chains.push(('s', posted.len()));
        script.sent.extend(&posted);
        Ok(posted.len())
    }
    fn poll(&self, into: &mut [Completion]) -> Result<usize, String> {
        let mut script = self.script();
        let count = into.len().min(script.completions.len());
        into.iter_mut().zip(script.completions.drain(..count)).for_each(|(place, completion)| *place = completion);
        Ok(count)
    }
    fn news(&mut self) -> Option<String> {
        self.script().news.take()
    }
    fn arm(&mut self) -> Result<RawFd, String> {
        let mut script = self.script();
        let late = script.late.take();
        script.completions.extend(late);
        Ok(77)
    }
    fn nudge(&mut self) -> Result<(), PostError> {
        self.script().nudged += 1;
        Ok(())
    }
    fn end(&mut self) -> bool {
        let mut script = self.script();
        assert!(!std::mem::replace(&mut script.ended, true), "ended twice");
        script.ends_at_once
    }
}

struct Rig {
    queue: Queue<Scripted>,
    wire: Scripted,
    memory: Arc<Region>,
    layout: Layout,
}

impl Rig {
    fn new(capsule: Capsule) -> Self {
        Self::with(QID, capsule, false)
    }

    fn with(qid: u16, capsule: Capsule, shares: bool) -> Self {
        Self::cut(qid, capsule, shares, SLOTS)
    }

    /// A queue that was laid out for more commands than the controller takes.
    fn cut(qid: u16, capsule: Capsule, shares: bool, slots: u16) -> Self {
        let rules = Rules::new(capsule);
        let answers = u32::from(SLOTS) + 1;
        let layout = Layout::new(SLOTS, answers, &rules);
        let memory = Arc::new(Region::new(layout.bytes).unwrap());
        let script = Script { receives: (0..answers).collect(), ..Script::default() };
        let wire = Scripted(Arc::new(Mutex::new(script)));
        let table = layout.table(&memory).unwrap();
        let parts = Parts { qid, slots, rules, layout, memory: memory.clone(), answers: table, shares, nudges: 0 };
        let mut queue = Queue::new(wire.clone(), parts).unwrap();
        queue.attach(&Arc::new(Arena::new(1 << 20).unwrap())).unwrap();
        for slot in 0..slots {
            queue.prepare(slot, &[data(slot, 4096)]).unwrap();
        }
        Self { queue, wire, memory, layout }
    }

    fn submit(&mut self, opcode: u8, slots: impl IntoIterator<Item = Slot>) -> Vec<Command> {
        let ops: Vec<Op> = slots.into_iter().map(|slot| op(slot, opcode)).collect();
        assert_eq!(self.queue.submit(&ops), ops.len());
        self.queue.commit().unwrap();
        let sent = self.wire.script().sent.clone();
        let sent = &sent[sent.len() - ops.len()..];
        assert!(sent.iter().map(|sent| sent.slot).eq(ops.iter().map(|op| op.slot)), "in their order");
        sent.iter().map(|sent| self.command(sent)).collect()
    }

    fn command(&self, sent: &Sent) -> Command {
        let mut bytes = [0; 64];
        self.memory.read(sent.capsule.offset, &mut bytes);
        Command::read_from_bytes(&bytes).unwrap()
    }

    /// The device is through with the send of a slot.
    fn sent(&self, slot: Slot) {
        self.complete(Completion::of(slot.into(), WorkStatus::SUCCESS, Opcode::SEND, 0, None));
    }

    fn complete(&self, completion: Completion) {
        self.wire.script().completions.push_back(completion);
    }

    /// The controller's answer comes to the next receive, of which there must be one.
    fn answer(&self, cid: u16, status: Status) {
        let id = self.bring(cid, status);
        self.complete(Completion::of(id, WorkStatus::SUCCESS, Opcode::RECV, 16, None));
    }

    /// Writes an answer to the next receive, and returns its number.
    fn bring(&self, cid: u16, status: Status) -> u64 {
        let index = self.wire.script().receives.pop_front().expect("no receive is posted");
        let answer = completion::Completion::new(cid, 0, status, 0x1_0000_0002);
        self.memory.write(self.layout.answer(index).offset, answer.as_bytes());
        RECEIVE | u64::from(index)
    }

    fn reap(&mut self) -> Result<Vec<Done>, Down> {
        let mut done = [Done::default(); 32];
        self.queue.reap(&mut done).map(|count| done[..count].to_vec())
    }

    fn slots(&mut self) -> Vec<Slot> {
        self.reap().unwrap().iter().map(|done| done.slot).collect()
    }
}

fn data(slot: Slot, len: u32) -> Range {
    Range { offset: u64::from(slot) * 65536, len }
}

fn op(slot: Slot, opcode: u8) -> Op {
    Op { slot, opcode, nsid: 1, slba: slot.into(), blocks: 8, ..Op::default() }
}

const READ: u8 = 2;
const WRITE: u8 = 1;
const FLUSH: u8 = 0;

fn kind(command: &Command) -> SglKind {
    SglDescriptor::from(command.dptr).kind()
}

fn keyed(slot: Slot, length: u32) -> SglKind {
    SglKind::Keyed { address: REACH.address + data(slot, 0).offset, length, key: REACH.key, invalidate: false }
}

#[test]
fn a_command_is_over_when_its_answer_and_its_send_are_there_in_either_order() {
    let mut rig = Rig::new(KERNEL);
    let commands = rig.submit(READ, [0, 1]);
    let [first, second] = [commands[0].cid.get(), commands[1].cid.get()];
    rig.answer(second, Status::SUCCESS);
    assert_eq!(rig.slots(), [] as [Slot; 0], "answered, but the capsule is the device's still");
    rig.sent(0);
    assert_eq!(rig.slots(), [] as [Slot; 0], "sent, but not answered");
    assert_eq!(rig.queue.submit(&[op(1, READ)]), 0, "its slot is busy");
    rig.sent(1);
    rig.answer(first, status::generic::INVALID_FIELD);
    let done = rig.reap().unwrap();
    assert_eq!(done.iter().map(|done| done.slot).collect::<Vec<_>>(), [1, 0]);
    assert_eq!((done[0].status, done[0].result), (Status::SUCCESS, 0x1_0000_0002));
    assert!(done[1].status.is(status::generic::INVALID_FIELD));
    let again = rig.submit(READ, [1]);
    assert_ne!(again[0].cid.get(), second, "a new identifier");
    assert_eq!(rig.queue.named(1), Some((QID, again[0].cid.get())));
}

#[test]
fn a_batch_is_one_chain_of_receives_and_one_of_sends_behind_it() {
    let mut rig = Rig::new(KERNEL);
    for round in 0..3 {
        let commands = rig.submit(READ, 0..SLOTS);
        commands.iter().for_each(|command| rig.answer(command.cid.get(), Status::SUCCESS));
        (0..SLOTS).for_each(|slot| rig.sent(slot));
        assert_eq!(rig.slots().len(), usize::from(SLOTS));
        let chains = std::mem::take(&mut rig.wire.script().chains);
        let expected = [('r', SLOTS.into()), ('s', usize::from(SLOTS))];
        assert_eq!(chains, if round == 0 { expected[1..].to_vec() } else { expected.to_vec() });
    }
    assert_eq!(rig.slots(), [] as [Slot; 0]);
    assert_eq!(
        rig.wire.script().chains,
        [('r', SLOTS.into())],
        "who shares receives gets them back when nothing is sent, too"
    );
    let counted = rig.queue.counters();
    assert_eq!((counted.polls, counted.idle_polls, counted.completions, counted.submitted), (4, 1, 24, 24));
    assert_eq!((counted.work_completions, counted.sq_doorbells), (48, 3));
    assert_eq!((counted.receives, counted.receive_doorbells), (24, 3));
    assert_eq!(rig.queue.device(), Some("scripted0"));
}

#[test]
fn a_queue_that_was_cut_has_no_more_commands_outstanding_than_the_controller_takes() {
    let mut rig = Rig::cut(QID, KERNEL, false, 3);
    assert_eq!(rig.queue.needs().slots, 3);
    assert!(rig.queue.prepare(3, &[data(3, 4096)]).is_err());
    let ops: Vec<Op> = (0..4).map(|slot| op(slot, 2)).collect();
    assert_eq!(rig.queue.submit(&ops), 3);
    rig.queue.commit().unwrap();
    let sent = rig.wire.script().sent.clone();
    let cids: Vec<u16> = sent.iter().map(|sent| rig.command(sent).cid.get()).collect();
    assert_eq!(cids.len(), 3);
    for (slot, cid) in (0..).zip(cids) {
        rig.sent(slot);
        rig.answer(cid, Status::SUCCESS);
    }
    assert_eq!(rig.slots(), [0, 1, 2]);
    assert_eq!(rig.submit(2, 0..3).len(), 3, "and again");
}

#[test]
fn small_writes_travel_in_their_capsules() {
    for data_offset in [0, 32] {
        let mut rig = Rig::new(Capsule { data_offset, ..KERNEL });
        rig.queue.prepare(1, &[data(1, 4096 + 512)]).unwrap();
        // Two ranges that touch are one piece of data.
        rig.queue.prepare(2, &[data(2, 512), Range { offset: data(2, 0).offset + 512, len: 1024 }]).unwrap();
        let commands = rig.submit(WRITE, 0..3);
        let sent = rig.wire.script().sent.clone();
        assert_eq!(kind(&commands[0]), SglKind::InCapsule { offset: 0, length: 4096 });
        assert_eq!((sent[0].capsule.len, sent[0].data), (64 + data_offset, Some(data(0, 4096))));
        assert_eq!((kind(&commands[1]), sent[1].capsule.len, sent[1].data), (keyed(1, 4608), 64, None), "too much");
        assert_eq!(
            (kind(&commands[2]), sent[2].data),
            (SglKind::InCapsule { offset: 0, length: 1536 }, Some(data(2, 1536)))
        );
        let commands = rig.submit(READ, [3]);
        assert_eq!((kind(&commands[0]), rig.wire.script().sent[3].data), (keyed(3, 4096), None), "the other way");
        assert_eq!(commands[0].flags & 0xc0, 0x40, "an SGL");
    }
}

#[test]
fn no_data_is_a_descriptor_of_no_bytes() {
    let mut rig = Rig::new(KERNEL);
    let none = SglKind::Keyed { address: 0, length: 0, key: 0, invalidate: false };
    assert_eq!(kind(&rig.submit(FLUSH, [0])[0]), none, "a flush uses no memory, though its slot has some");
    rig.queue.prepare(1, &[]).unwrap();
    assert_eq!(rig.queue.submit(&[op(1, READ)]), 0);
    assert!(rig.queue.commit().unwrap_err().0.contains("slot 1 of queue 3 has no memory"));
}

#[test]
fn the_data_of_connect_is_fetched_by_the_controller() {
    let mut rig = Rig::new(KERNEL);
    let connect = fabrics::connect(QID, SLOTS, cattr::DISABLE_SQ_FLOW_CONTROL, 0);
    assert!(rig.queue.submit_raw(0, &connect));
    rig.queue.commit().unwrap();
    let sent = rig.wire.script().sent[0];
    assert_eq!((kind(&rig.command(&sent)), sent.data), (keyed(0, 4096), None), "though it would fit a capsule");
}

#[test]
fn several_ranges_are_a_list_where_the_controller_takes_one_and_are_joined_where_not() {
    let apart = |slot: Slot, count: u32, gap: u32| -> Vec<Range> {
        let at = |index: u32| data(slot, 0).offset + u64::from(index * (512 + gap));
        (0..count).map(|index| Range { offset: at(index), len: 512 }).collect()
    };
    let mut rig = Rig::new(Capsule { descriptors: 4, data_offset: 16, ..KERNEL });
    rig.queue.prepare(0, &apart(0, 4, 0)).unwrap();
    rig.queue.prepare(1, &apart(1, 5, 0)).unwrap();
    rig.queue.prepare(2, &apart(2, 3, 64)).unwrap();
    let commands = rig.submit(READ, 0..3);
    let list = |slot: usize, length: u32| {
        let sent = rig.wire.script().sent[slot];
        assert_eq!(kind(&commands[slot]), SglKind::CapsuleSegment { offset: 0, length });
        assert_eq!(sent.capsule.len, 64 + 16 + length, "the list lies where data would");
        let mut bytes = vec![0; length as usize];
        rig.memory.read(sent.capsule.offset + 80, &mut bytes);
        bytes.chunks(16).map(|bytes| SglDescriptor::read_from_bytes(bytes).unwrap().kind()).collect::<Vec<_>>()
    };
    let piece = |range: &Range| {
        let address = REACH.address + range.offset;
        SglKind::Keyed { address, length: range.len, key: REACH.key, invalidate: false }
    };
    assert_eq!(list(0, 64), apart(0, 4, 0).iter().map(piece).collect::<Vec<_>>(), "as they were given");
    assert_eq!(list(2, 48), apart(2, 3, 64).iter().map(piece).collect::<Vec<_>>());
    assert_eq!(kind(&commands[1]), keyed(1, 5 * 512), "more than it takes, but they touch");
    let why = rig.queue.prepare(3, &apart(3, 5, 64)).unwrap_err().0;
    assert!(why.contains("lies in 5 places, a command has 4 descriptors here"), "{why}");

    let mut kernel = Rig::new(KERNEL);
    kernel.queue.prepare(0, &apart(0, 100, 0)).unwrap();
    assert_eq!(kind(&kernel.submit(READ, [0])[0]), keyed(0, 51_200));
    assert!(kernel.queue.prepare(1, &apart(1, 2, 64)).is_err());
    assert_eq!(kernel.queue.needs().segments, 1);
}

#[test]
fn what_a_keyed_descriptor_cannot_say_is_cut() {
    let one = Rig::new(KERNEL).queue.needs();
    let most = (1 << 24) - 4096;
    assert_eq!((one.bytes, one.segments), (most, 1), "24 bits, in whole pages");
    let four = Rules::new(Capsule { descriptors: 4, ..KERNEL });
    let mut pieces = Vec::new();
    let large = Range { offset: 4096, len: 3 * most + 512 };
    four.describe(&[large], REACH, &mut pieces).unwrap();
    assert_eq!(pieces.iter().map(|piece| piece.len).collect::<Vec<_>>(), [most, most, most, 512]);
    assert!(pieces.windows(2).all(|two| two[0].end() == two[1].offset));
    let none = Rules::new(Capsule { data_bytes: 0, ..Capsule { descriptors: u16::MAX, ..KERNEL } });
    assert_eq!(none.descriptors(), 1, "no room for a list in the capsule");
    assert_eq!(Rules::new(Capsule { descriptors: u16::MAX, ..KERNEL }).descriptors(), 16);
}

/// What a peer or a device says that cannot be, and why the queue is lost then.
type Lie = (fn(&Rig, u16) -> Completion, &'static str);

const LIES: &[Lie] = &[
    (|rig, cid| success(rig.bring(cid ^ 0x4000, Status::SUCCESS), 16), "answered before, or never sent"),
    (|rig, cid| success(rig.bring(cid, Status::SUCCESS), 15), "an answer of 15 bytes instead of 16"),
    (|rig, cid| success(rig.bring(cid, Status::SUCCESS), 0), "an answer of 0 bytes"),
    (|rig, cid| failure(rig.bring(cid, Status::SUCCESS), WorkStatus::LOC_LEN_ERR), "longer than the 16 bytes"),
    (
        |rig, cid| Completion::of(rig.bring(cid, Status::SUCCESS), WorkStatus::SUCCESS, Opcode::RECV, 16, Some(0xbeef)),
        "it invalidated key beefh, which no command asked for",
    ),
    (
        |rig, cid| {
            let id = rig.bring(cid, Status::SUCCESS);
            Completion::of(id, WorkStatus::SUCCESS, Opcode::RECV_RDMA_WITH_IMM, 16, None)
        },
        "RDMA WRITE with immediate",
    ),
    (|_, _| success(RECEIVE | 9, 16), "completed receive 9, which is not posted"),
    (|_, _| Completion::of(7, WorkStatus::SUCCESS, Opcode::SEND, 0, None), "work request 7h, which is not posted"),
    (|_, _| Completion::of(1 << 31, WorkStatus::SUCCESS, Opcode::SEND, 0, None), "work request 80000000h"),
    (|_, _| failure(1, WorkStatus::RETRY_EXC_ERR), "sending a command in queue 3: transport retries exceeded"),
    (|_, _| failure(1, WorkStatus::REM_ACCESS_ERR), "remote access error"),
    (|_, _| failure(RECEIVE, WorkStatus::WR_FLUSH_ERR), "the connection has ended: the peer or the network closed it"),
    (
        |rig, _| {
            rig.wire.script().news = Some("the device scripted0 was removed".into());
            failure(RECEIVE, WorkStatus::WR_FLUSH_ERR)
        },
        "the device scripted0 was removed",
    ),
    (|_, _| failure(u64::MAX, WorkStatus(99)), "unknown (99)"),
];

fn success(id: u64, bytes: u32) -> Completion {
    Completion::of(id, WorkStatus::SUCCESS, Opcode::RECV, bytes, None)
}

fn failure(id: u64, status: WorkStatus) -> Completion {
    Completion::of(id, status, Opcode::SEND, 0, None)
}

#[test]
fn what_cannot_be_ends_the_queue_after_all_that_came_before_it() {
    for (lie, said) in LIES {
        let mut rig = Rig::new(KERNEL);
        let commands = rig.submit(READ, 0..3);
        rig.sent(2);
        rig.answer(commands[2].cid.get(), Status::SUCCESS);
        let lie = lie(&rig, commands[0].cid.get());
        rig.complete(lie);
        rig.answer(commands[1].cid.get(), Status::SUCCESS);
        rig.sent(1);
        assert_eq!(rig.slots(), [2], "{said}: what came before it");
        for _ in 0..2 {
            let why = rig.reap().unwrap_err().0;
            assert!(why.contains(said), "{why}, not {said}");
        }
        assert_eq!(rig.queue.submit(&[op(5, READ)]), 0);
        assert!(rig.queue.commit().is_err() && rig.queue.arm().is_err());
        rig.queue.stop();
        assert_eq!(rig.slots(), [0, 1], "each once");
        assert_eq!(rig.slots(), [] as [Slot; 0]);
    }
}

#[test]
fn a_command_is_answered_once_and_sent_once() {
    for twice in ["answer", "send"] {
        let mut rig = Rig::new(KERNEL);
        let command = rig.submit(READ, [0])[0];
        for _ in 0..2 {
            match twice {
                "answer" => rig.answer(command.cid.get(), Status::SUCCESS),
                _ => rig.sent(0),
            }
        }
        let why = rig.reap().unwrap_err().0;
        assert!(why.contains(if twice == "answer" { "answered before" } else { "is not posted" }), "{why}");
    }
}

#[test]
fn memory_is_back_when_every_work_request_came_back() {
    for shares in [false, true] {
        let mut rig = Rig::with(QID, KERNEL, shares);
        let commands = rig.submit(READ, 0..4);
        rig.sent(3);
        rig.answer(commands[3].cid.get(), Status::SUCCESS);
        assert_eq!(rig.slots(), [3]);
        assert_eq!(rig.queue.drained(), Drain::Busy);
        rig.queue.stop();
        rig.queue.stop();
        assert!(rig.wire.script().ended);
        assert_eq!(rig.queue.drained(), Drain::Busy, "three are not reaped");
        let aborted = rig.reap().unwrap();
        assert!(aborted.iter().all(|done| done.status.is(status::generic::ABORTED_SQ_DELETION)));
        assert_eq!((aborted.len(), rig.queue.drained()), (3, Drain::Quarantined(3)));
        // Receives that are shared stay with the others; its own come back, eight of nine, as one was not posted again.
        let receives = if shares { 0 } else { 8 };
        (0..3).for_each(|slot| rig.complete(failure(slot, WorkStatus::WR_FLUSH_ERR)));
        (1..receives).for_each(|index| rig.complete(failure(RECEIVE | index, WorkStatus::WR_FLUSH_ERR)));
        if receives > 0 {
            assert_eq!(rig.queue.drained(), Drain::Quarantined(3), "one is missing");
            rig.complete(failure(RECEIVE, WorkStatus::WR_FLUSH_ERR));
        }
        assert_eq!(rig.queue.drained(), Drain::Clean, "shared: {shares}");
    }
}

#[test]
fn a_queue_that_is_stopped_with_nothing_outstanding_is_clean() {
    let mut rig = Rig::new(KERNEL);
    rig.queue.stop();
    assert_eq!((rig.slots(), rig.queue.drained()), (Vec::new(), Drain::Clean));
}

#[test]
fn memory_is_back_at_once_where_the_device_lets_go_of_it_with_the_connection() {
    let mut rig = Rig::new(KERNEL);
    rig.submit(READ, 0..4);
    rig.wire.script().ends_at_once = true;
    rig.queue.stop();
    assert_eq!((rig.reap().unwrap().len(), rig.queue.drained()), (4, Drain::Clean));
}

#[test]
fn a_controller_over_iwarp_that_answers_nothing_is_nudged() {
    for (nudges, heard, nudged) in [(0, false, 0), (3, false, 3), (3, true, 0)] {
        let mut rig = Rig::new(KERNEL);
        let command = rig.submit(READ, [0])[0];
        if heard {
            rig.sent(0);
            rig.answer(command.cid.get(), Status::SUCCESS);
            assert_eq!(rig.slots(), [0]);
        }
        rig.queue.nudges.0 = nudges;
        for _ in 0..5 {
            rig.queue.nudges.1 = std::time::Instant::now();
            assert!(rig.queue.arm().is_ok());
        }
        assert_eq!(rig.wire.script().nudged, nudged, "{nudges} {heard}");
    }
}

#[test]
fn who_wants_to_sleep_misses_nothing() {
    let mut rig = Rig::new(KERNEL);
    let command = rig.submit(READ, [0])[0];
    rig.sent(0);
    assert_eq!(rig.slots(), [] as [Slot; 0]);
    assert_eq!(rig.queue.arm(), Ok(Wait::Fd { fd: 77, writable: false }));
    // Between the last look and the arming.
    let id = rig.bring(command.cid.get(), Status::SUCCESS);
    rig.wire.script().late = Some(success(id, 16));
    assert_eq!(rig.queue.arm(), Ok(Wait::Ready));
    assert_eq!(rig.queue.arm(), Ok(Wait::Ready), "until it is reaped");
    assert_eq!(rig.slots(), [0]);
    rig.wire.script().news = Some("the peer ended the connection".into());
    assert_eq!(rig.queue.arm(), Err(Down("the peer ended the connection".into())));
}

#[test]
fn an_idle_queue_looks_whether_the_connection_is_there() {
    let mut rig = Rig::new(KERNEL);
    rig.wire.script().news = Some("the peer ended the connection".into());
    let looks = (0..2000).take_while(|_| rig.reap().is_ok()).count();
    assert_eq!(looks, 1023, "once every so many polls");
}

#[test]
fn a_chain_that_is_refused_ends_the_queue_after_what_has_arrived() {
    let mut rig = Rig::new(KERNEL);
    let command = rig.submit(READ, [0])[0];
    rig.wire.script().refuse_sends = true;
    assert_eq!(rig.queue.submit(&[op(1, READ)]), 1);
    let why = rig.queue.commit().unwrap_err().0;
    assert!(why.starts_with("ibv_post_send took 0 work requests and refused the next"), "{why}");
    rig.sent(0);
    rig.answer(command.cid.get(), Status::SUCCESS);
    assert_eq!(rig.slots(), [0], "arrived before the loss was told");
    assert!(rig.reap().is_err());
}

#[test]
fn an_arena_cannot_change_under_a_command_and_ranges_lie_in_it() {
    let mut rig = Rig::new(KERNEL);
    for (slot, range, said) in [
        (0, Range { offset: 1 << 20, len: 1 }, "not in the arena"),
        (0, Range { offset: u64::MAX, len: 4096 }, "not in the arena"),
        (SLOTS, data(0, 4096), "busy or does not exist"),
    ] {
        let why = rig.queue.prepare(slot, &[range]).unwrap_err().0;
        assert!(why.contains(said), "{why}");
    }
    rig.submit(READ, [0]);
    assert!(rig.queue.prepare(0, &[data(0, 512)]).unwrap_err().0.contains("busy"));
    assert!(rig.queue.attach(&Arc::new(Arena::new(4096).unwrap())).unwrap_err().0.contains("outstanding"));
}
