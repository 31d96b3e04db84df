//! An exchange joined to nothing: the host's memory is a buffer, and work requests are done when the test says so.

use super::{super::admission::tests::OFFER, *};
use crate::{
    Script,
    config::{Backend, NamespaceConfig, SubsystemConfig, TargetConfig},
    fault::Reset,
    listener::rdma::IN_CAPSULE,
    target::{Cooperative, Target},
};
use doorbell_spec::{
    command::{self, Dptr, SglDescriptor},
    fabrics::{self, CNTLID_DYNAMIC, ConnectData, ConnectResponse},
    identify::{Cns, Csi},
    register::{self, Cc},
    status::{self, media},
};

const NQN: &str = "nqn.2014-08.org.example:storage";
const KEY: u32 = 0x77;
const ENTRIES: u16 = 8;

/// What was posted.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Posted {
    Read { slot: u16, from: Remote, to: Vec<Range> },
    Write { slot: u16, signaled: bool },
    Send { slot: u16, answer: Completion, invalidate: Option<u32> },
}

/// The other side: a host's memory from address 0 on, its capsules, and what is under way.
struct Host {
    memory: Vec<u8>,
    capsules: Vec<Vec<u8>>,
    free: Vec<u32>,
    posted: VecDeque<Posted>,
    /// Work requests in the send queue, and most of them ever.
    room: usize,
    most: usize,
    store: std::sync::Arc<crate::frames::FrameStore>,
}

impl Wire for Host {
    fn read(&mut self, slot: u16, from: Remote, to: &[Range]) {
        assert_eq!(from.key, KEY);
        self.push(Posted::Read { slot, from, to: to.to_vec() });
    }

    fn write(&mut self, slot: u16, signaled: bool, to: Remote, from: &[Range]) {
        assert_eq!(to.key, KEY);
        let mut at = to.address as usize;
        for range in from {
            let bytes = &mut self.memory[at..at + range.len as usize];
            self.store.region().read(range.offset, bytes);
            at += range.len as usize;
        }
        assert_eq!(at, to.address as usize + to.len as usize);
        self.push(Posted::Write { slot, signaled });
    }

    fn send(&mut self, slot: u16, answer: &Completion, invalidate: Option<u32>) {
        self.push(Posted::Send { slot, answer: *answer, invalidate });
    }

    fn give_back(&mut self, capsule: u32) {
        assert!(!self.free.contains(&capsule), "given back twice");
        self.free.push(capsule);
    }

    fn look(&self, capsule: u32, at: u32, bytes: &mut [u8]) {
        assert!(!self.free.contains(&capsule), "looked at after it was given back");
        bytes.copy_from_slice(&self.capsules[capsule as usize][at as usize..][..bytes.len()]);
    }

    fn unload(&self, capsule: u32, at: u32, region: &Region, to: Range) {
        let mut bytes = vec![0; to.len as usize];
        self.look(capsule, at, &mut bytes);
        region.write(to.offset, &bytes);
    }
}

impl Host {
    fn push(&mut self, posted: Posted) {
        self.posted.push_back(posted);
        self.most = self.most.max(self.posted.len());
        assert!(self.posted.len() <= self.room, "the send queue runs over");
    }
}

/// A target, a host and a queue between them.
struct Bench {
    target: Cooperative,
    host: Host,
    exchange: Exchange,
}

impl Bench {
    fn new(terms: Terms) -> Self {
        Self::with(terms, 64 << 20)
    }

    fn with(terms: Terms, transfer_memory: usize) -> Self {
        Self::of(terms, |config| config.transfer_memory = transfer_memory)
    }

    fn of(terms: Terms, change: impl Fn(&mut TargetConfig)) -> Self {
        let mut config = SubsystemConfig::new(NQN);
        let ram = Backend::Ram { size: 8 << 20 };
        config.namespaces = vec![NamespaceConfig { backend: ram, block_size: 512 }];
        let listen = "127.0.0.1:0".parse().unwrap();
        let mut config = TargetConfig::new(config, listen);
        change(&mut config);
        let (_, mut target) = Target::cooperative(config).unwrap();
        let host = Host {
            memory: vec![0; 4 << 20],
            capsules: vec![Vec::new(); terms.entries as usize],
            free: (0..terms.entries).collect(),
            posted: VecDeque::new(),
            room: terms.sends as usize,
            most: 0,
            store: target.context().pool.frames.store.clone(),
        };
        Self { target, host, exchange: Exchange::new(terms) }
    }

    /// An enabled controller, and then one of its I/O queues.
    fn connected(terms: Terms) -> (Self, Self) {
        Self::connected_of(terms, |_| {})
    }

    /// The same, of a target that follows a script.
    fn scripted(script: &str) -> (Self, Self) {
        let script = Script::parse(script).unwrap();
        Self::connected_of(terms(), |config| config.fault = Some(script.clone()))
    }

    fn connected_of(terms: Terms, change: impl Fn(&mut TargetConfig)) -> (Self, Self) {
        let mut admin = Self::of(Terms { qid: 0, entries: 32, ..terms }, change);
        let cntlid = admin.connect(0, CNTLID_DYNAMIC);
        admin.enable();
        let mut io = Self { exchange: Exchange::new(terms), ..Self::new(terms) };
        // Of the same target.
        std::mem::swap(&mut io.target, &mut admin.target);
        io.host.store = io.target.context().pool.frames.store.clone();
        io.connect(terms.qid, cntlid);
        (io, admin)
    }

    fn enable(&mut self) {
        let enable = Cc::new().with_en(true).with_iosqes(6).with_iocqes(4).into_bits();
        assert_eq!(self.ask(fabrics::property_set(register::CC, false, enable.into())).status(), Status::SUCCESS);
    }

    fn connect(&mut self, qid: u16, cntlid: u16) -> u16 {
        let answer = self.try_connect(qid, self.exchange.terms.entries as u16 - 1, cntlid);
        assert_eq!(answer.status(), Status::SUCCESS);
        ConnectResponse::parse(&answer).cntlid
    }

    fn try_connect(&mut self, qid: u16, sqsize: u16, cntlid: u16) -> Completion {
        let data = ConnectData::new([9; 16], cntlid, NQN, "nqn.2014-08.org.example:host").unwrap();
        self.host.memory[..1024].copy_from_slice(data.as_bytes());
        let mut command = fabrics::connect(qid, sqsize, 0, 0);
        command.set_sgl(SglDescriptor::keyed(0, 1024, KEY, false));
        self.ask(command)
    }

    /// Sends a capsule.
    fn send(&mut self, command: Command, data: &[u8]) -> Result<(), Violation> {
        self.send_bytes([command.as_bytes(), data].concat())
    }

    fn send_bytes(&mut self, bytes: Vec<u8>) -> Result<(), Violation> {
        let capsule = self.host.free.remove(0);
        let len = bytes.len() as u32;
        self.host.capsules[capsule as usize] = bytes;
        self.exchange.arrived(capsule, len, &mut self.host, self.target.context())
    }

    /// Completes the oldest work request; returns it.
    fn complete(&mut self) -> Option<Posted> {
        let posted = self.host.posted.pop_front()?;
        let (what, slot) = match &posted {
            Posted::Read { slot, from, to } => {
                let mut at = from.address as usize;
                for range in to {
                    self.host.store.region().write(range.offset, &self.host.memory[at..at + range.len as usize]);
                    at += range.len as usize;
                }
                (Done::Read, *slot)
            }
            Posted::Write { slot, signaled: true } => (Done::Write, *slot),
            Posted::Write { .. } => return Some(posted),
            Posted::Send { slot, .. } => (Done::Send, *slot),
        };
        self.exchange.done(what, slot, &mut self.host, self.target.context());
        Some(posted)
    }

    /// What a script wants now.
    fn act_out(&mut self) -> Option<Reset> {
        self.exchange.act_out(&mut self.host, self.target.context()).0
    }

    /// Sleeps until a script wants something.
    fn wait(&mut self) -> Option<Reset> {
        let due = self.exchange.due().unwrap();
        std::thread::sleep(due.saturating_duration_since(std::time::Instant::now()));
        self.act_out()
    }

    fn resume(&mut self) -> bool {
        self.exchange.resume(&mut self.host, self.target.context())
    }

    /// Completes everything; returns the answers and the keys they invalidate.
    fn settle(&mut self) -> Vec<(Completion, Option<u32>)> {
        let mut answers = Vec::new();
        loop {
            let busy = self.resume();
            match self.complete() {
                Some(Posted::Send { answer, invalidate, .. }) => answers.push((answer, invalidate)),
                Some(_) => {}
                None if busy => {}
                None => return answers,
            }
        }
    }

    /// Sends a command without data in its capsule, and has its answer.
    fn ask(&mut self, command: Command) -> Completion {
        self.send(command, &[]).unwrap();
        let answers = self.settle();
        assert_eq!(answers.len(), 1, "{answers:?}");
        answers[0].0
    }

    fn is_at_rest(&self) -> bool {
        let Exchange { slots, idle, parked, waiting, room, reads, terms, .. } = &self.exchange;
        idle.len() == slots.len()
            && parked.is_empty()
            && waiting.is_empty()
            && (*room, *reads) == (terms.sends, terms.reads)
            && (self.exchange.reading, self.exchange.writing) == (0, 0)
            && self.host.free.len() == terms.entries as usize
    }
}

fn terms() -> Terms {
    let request = doorbell_spec::rdma::Request::new(1, ENTRIES.into(), 0);
    OFFER.terms(request.as_bytes(), 16, |_| true).unwrap()
}

fn keyed(mut command: Command, cid: u16, at: u64, len: u32) -> Command {
    command.cid = cid.into();
    command.set_sgl(SglDescriptor::keyed(at, len, KEY, false));
    command
}

fn in_capsule(mut command: Command, cid: u16, len: u32) -> Command {
    command.cid = cid.into();
    command.set_sgl(SglDescriptor::in_capsule(0, len));
    command
}

#[test]
fn what_is_written_by_key_or_in_a_capsule_is_read_back() {
    let (mut io, _admin) = Bench::connected(terms());
    let bytes: Vec<u8> = (0..1 << 20).map(|at: u32| (at ^ at >> 9) as u8).collect();
    io.host.memory[..1 << 20].copy_from_slice(&bytes);
    let answer = io.ask(keyed(command::write(1, 3, 2048, 0), 5, 0, 1 << 20));
    assert_eq!((answer.status(), answer.cid.get()), (Status::SUCCESS, 5));
    let patch = vec![0xaa; 4096];
    io.send(in_capsule(command::write(1, 100, 8, 0), 6, 4096), &patch).unwrap();
    assert_eq!(io.settle()[0].0.status(), Status::SUCCESS);
    let answer = io.ask(keyed(command::read(1, 3, 2048, 0), 7, 2 << 20, 1 << 20));
    assert_eq!((answer.status(), answer.cid.get()), (Status::SUCCESS, 7));
    let read = &io.host.memory[2 << 20..3 << 20];
    let (from, to) = (97 * 512, 105 * 512);
    assert!(read[..from] == bytes[..from] && read[from..to] == patch && read[to..] == bytes[to..]);
    assert!(io.is_at_rest());
}

#[test]
fn a_list_of_descriptors_is_served_in_its_order() {
    let (mut io, _admin) = Bench::connected(terms());
    io.host.memory[..512].fill(1);
    io.host.memory[8192..8192 + 1024].fill(2);
    let list = [SglDescriptor::keyed(8192, 1024, KEY, false), SglDescriptor::keyed(0, 512, KEY, false)];
    let mut command = command::write(1, 0, 3, 0);
    command.set_sgl(SglDescriptor::capsule_segment(0, 32));
    io.send(command, list.as_bytes()).unwrap();
    assert_eq!(io.settle()[0].0.status(), Status::SUCCESS);
    assert_eq!(io.ask(keyed(command::read(1, 0, 3, 0), 1, 1 << 20, 1536)).status(), Status::SUCCESS);
    let read = &io.host.memory[1 << 20..][..1536];
    assert!(read[..1024].iter().all(|&byte| byte == 2) && read[1024..].iter().all(|&byte| byte == 1));
}

#[test]
fn a_key_is_invalidated_only_where_the_descriptor_asks_for_it() {
    let (mut io, _admin) = Bench::connected(terms());
    for invalidate in [false, true] {
        let mut command = command::read(1, 0, 1, 0);
        command.set_sgl(SglDescriptor::keyed(0, 512, KEY, invalidate));
        io.send(command, &[]).unwrap();
        assert_eq!(io.settle()[0].1, invalidate.then_some(KEY));
    }
    io.send(in_capsule(command::write(1, 0, 1, 0), 1, 512), &[0; 512]).unwrap();
    assert_eq!(io.settle()[0].1, None);
}

#[test]
fn no_more_is_read_at_a_time_than_the_host_serves() {
    let (mut io, _admin) = Bench::connected(Terms { reads: 2, read_ranges: 1, ..terms() });
    // Data that lies scattered, as frames of other commands were taken in between.
    for cid in 0..4 {
        io.send(keyed(command::write(1, 8 * u64::from(cid), 8, 0), cid, 0, 4096), &[]).unwrap();
    }
    assert_eq!(io.host.posted.len(), 2);
    assert!(io.exchange.wants_pass());
    io.complete();
    assert!(io.resume());
    let reads = io.host.posted.iter().filter(|posted| matches!(posted, Posted::Read { .. })).count();
    assert_eq!(reads, 2);
    assert_eq!(io.settle().len(), 4);
    assert!(io.is_at_rest());
}

#[test]
fn a_command_larger_than_the_send_queue_goes_in_parts() {
    let (mut io, _admin) = Bench::connected(Terms { sends: 3, write_ranges: 1, read_ranges: 1, ..terms() });
    // Frames that are released in another order than they were taken scatter what is written next.
    for (cid, blocks) in [(0, 64), (1, 8), (2, 200)] {
        let len = blocks * 512;
        io.host.memory[..len as usize].fill(cid as u8 + 1);
        assert_eq!(io.ask(keyed(command::write(1, 1, blocks, 0), cid, 0, len)).status(), Status::SUCCESS);
    }
    assert_eq!(io.ask(keyed(command::read(1, 1, 200, 0), 3, 1 << 20, 200 * 512)).status(), Status::SUCCESS);
    assert!(io.host.memory[1 << 20..][..200 * 512].iter().all(|&byte| byte == 3));
    assert!(io.is_at_rest() && io.host.most <= 3);
}

#[test]
fn commands_wait_for_memory_and_none_is_lost() {
    let mut admin = Bench::with(Terms { qid: 0, entries: 32, ..terms() }, 0);
    admin.connect(0, CNTLID_DYNAMIC);
    // All but what a reactor keeps at hand is somebody else's.
    let context = admin.target.context();
    let mut held = Vec::new();
    while context.pool.frames.take(1, RESERVE, &mut held) {}
    admin.enable();
    let identify = keyed(command::identify(Cns::CONTROLLER, 0, Csi::NVM, 0), 2, 0, 4096);
    admin.send(identify, &[]).unwrap();
    assert!(admin.settle().is_empty() && admin.exchange.wants_pass());
    let context = admin.target.context();
    held.drain(..).for_each(|frame| context.pool.frames.release(frame));
    let answers = admin.settle();
    assert_eq!((answers.len(), answers[0].0.cid.get()), (1, 2));
    assert!(admin.is_at_rest());
}

#[test]
fn a_capsule_that_is_short_or_one_too_many_ends_the_connection() {
    let (mut io, _admin) = Bench::connected(terms());
    assert_eq!(io.send_bytes(vec![0; 63]), Err(Violation::Short(63)));
    let (mut io, _admin) = Bench::connected(terms());
    for cid in 0..ENTRIES {
        io.send(keyed(command::write(1, 0, 1, 0), cid, 0, 512), &[]).unwrap();
    }
    assert_eq!(io.send(keyed(command::write(1, 0, 1, 0), 99, 0, 512), &[]), Err(Violation::TooMany(ENTRIES.into())));
}

#[test]
fn commands_that_cannot_be_are_answered_and_hold_nothing() {
    let (mut io, _admin) = Bench::connected(terms());
    for (command, data, status) in [
        (keyed(command::read(1, 0, 1, 0), 0, 0, 1024), 0, status::generic::DATA_SGL_LENGTH_INVALID),
        (keyed(command::write(1, 0, 1, 0), 0, 0, 0), 0, status::generic::DATA_SGL_LENGTH_INVALID),
        (keyed(command::read(1, 1 << 40, 1, 0), 0, 0, 512), 0, status::generic::LBA_OUT_OF_RANGE),
        (keyed(command::read(9, 0, 1, 0), 0, 0, 512), 0, status::generic::INVALID_NAMESPACE),
        (in_capsule(command::read(1, 0, 1, 0), 0, 512), 512, status::generic::INVALID_FIELD),
        (in_capsule(command::write(1, 0, 2, 0), 0, 1024), 512, status::generic::DATA_SGL_LENGTH_INVALID),
        (in_capsule(command::write(1, 0, 1, 0), 0, IN_CAPSULE + 1), 512, status::generic::DATA_SGL_LENGTH_INVALID),
    ] {
        io.send(command, &vec![0; data]).unwrap();
        let answers = io.settle();
        assert_eq!(answers.len(), 1);
        assert!(answers[0].0.status().is(status), "{:?} instead of {status:?}", answers[0].0.status());
    }
    let mut local = command::read(1, 0, 1, 0);
    (local.flags, local.dptr) = (0, Dptr::prp(0x1000, 0));
    assert!(io.ask(local).status().is(generic::INVALID_FIELD));
    local.set_sgl(SglDescriptor::data_block(0x1000, 512));
    assert!(io.ask(local).status().is(generic::SGL_TYPE_INVALID));
    assert!(io.is_at_rest());
}

#[test]
fn compare_reads_the_hosts_memory() {
    let (mut io, _admin) = Bench::connected(terms());
    let compare = |at| keyed(command::compare(1, 0, 1, 0), 1, at, 512);
    assert_eq!(io.ask(compare(4096)).status(), Status::SUCCESS);
    io.host.memory[8192] = 1;
    assert!(io.ask(compare(8192)).status().is(media::COMPARE_FAILURE));
    assert!(io.is_at_rest());
}

#[test]
fn connect_must_name_the_queue_that_was_agreed() {
    let mut admin = Bench::new(Terms { qid: 0, entries: 32, ..terms() });
    for (qid, sqsize, offset) in [(1, 31, ConnectRequest::QID_OFFSET), (0, 32, ConnectRequest::SQSIZE_OFFSET)] {
        let answer = admin.try_connect(qid, sqsize, CNTLID_DYNAMIC);
        assert!(answer.status().is(status::fabrics::CONNECT_INVALID_PARAMETERS));
        assert_eq!(fabrics::InvalidParameter::parse(&answer).ipo, offset);
        assert!(!admin.exchange.is_connected());
    }
    admin.connect(0, CNTLID_DYNAMIC);
    assert!(admin.exchange.is_connected() && admin.exchange.admin().is_some() && admin.is_at_rest());
}

#[test]
fn a_queue_is_left_when_disconnect_has_been_answered() {
    let (mut io, _admin) = Bench::connected(terms());
    io.send(fabrics::disconnect(), &[]).unwrap();
    assert!(!io.exchange.has_left());
    assert_eq!(io.settle()[0].0.status(), Status::SUCCESS);
    assert!(io.exchange.has_left());
    assert_eq!(io.send(command::flush(1), &[]), Err(Violation::Late));
}

#[test]
fn what_a_queue_holds_is_free_again_when_it_is_gone() {
    let (mut io, _admin) = Bench::connected(terms());
    let free = io.target.free_frames();
    for cid in 0..4 {
        io.send(keyed(command::write(1, 0, 8, 0), cid, 0, 4096), &[]).unwrap();
        io.send(keyed(command::read(1, 0, 8, 0), 4 + cid, 0, 4096), &[]).unwrap();
    }
    assert!(io.target.free_frames() < free);
    io.exchange.end(io.target.context());
    io.exchange.release(io.target.context());
    assert_eq!(io.target.free_frames(), free);
}

#[test]
fn event_requests_keep_no_slot_and_are_answered_when_the_controller_is_reset() {
    let (io, mut admin) = Bench::connected(terms());
    let Bench { target, .. } = io;
    admin.target = target;
    admin.host.store = admin.target.context().pool.frames.store.clone();
    for cid in 1..=4 {
        admin.send(keyed(command::async_event_request(), cid, 0, 0), &[]).unwrap();
    }
    assert_eq!(admin.settle(), []);
    assert!(admin.is_at_rest());
    admin.send(Command { cid: 9.into(), ..fabrics::property_set(register::CC, false, 0) }, &[]).unwrap();
    let mut answers: Vec<u16> = admin.settle().iter().map(|(answer, _)| answer.cid.get()).collect();
    answers.sort_unstable();
    assert_eq!(answers, [1, 2, 3, 4, 9]);
}

#[test]
fn a_script_keeps_answers_back_with_the_data_of_reads_and_sends_them_when_they_are_due() {
    let (mut io, _admin) = Bench::scripted("latency fixed 20ms on read; latency fixed 40ms on write");
    io.host.memory[..512].fill(7);
    io.send(in_capsule(command::write(1, 0, 1, 0), 1, 512), &[5; 512]).unwrap();
    io.send(keyed(command::read(1, 0, 1, 0), 2, 0, 512), &[]).unwrap();
    assert_eq!((io.settle(), io.act_out()), (vec![], None));
    assert!(io.exchange.wants_pass() && io.host.memory[..512] == [7; 512]);
    io.wait();
    let answers = io.settle();
    assert_eq!((answers.len(), answers[0].0.cid.get(), answers[0].0.sqhd.get()), (1, 2, 3));
    assert!(io.host.memory[..512] == [5; 512]);
    io.wait();
    assert_eq!(io.settle()[0].0.cid.get(), 1);
    assert!(io.is_at_rest());
}

#[test]
fn a_script_fails_loses_and_repeats_completions() {
    let (mut io, _admin) = Bench::scripted(
        "error 2/81 on read lba 8-15; drop on read lba 16-23; duplicate on read lba 24-31; drop on write",
    );
    let free = io.target.free_frames();
    let mut ask = |cid: u16, lba: u64| {
        io.send(keyed(command::read(1, lba, 8, 0), cid, 0, 4096), &[]).unwrap();
        io.settle();
        io.act_out();
        io.settle().iter().map(|(answer, _)| (answer.cid.get(), answer.status())).collect::<Vec<_>>()
    };
    assert_eq!(ask(1, 0), [(1, Status::SUCCESS)]);
    let failed = ask(2, 8);
    assert!(failed.len() == 1 && failed[0].1.is(media::UNRECOVERED_READ_ERROR), "{failed:?}");
    assert_eq!(ask(3, 16), []);
    assert_eq!(ask(4, 24), [(4, Status::SUCCESS); 2]);
    // What is lost is carried out, and holds neither slot nor frames, but its place in the host's queue.
    io.send(in_capsule(command::write(1, 0, 1, 0), 5, 512), &[9; 512]).unwrap();
    assert_eq!(io.settle(), []);
    assert!(io.is_at_rest() && io.exchange.outstanding == 2);
    let mut written = [0; 1];
    io.exchange.faults = None;
    io.ask(keyed(command::read(1, 0, 1, 0), 6, 0, 512));
    written.copy_from_slice(&io.host.memory[..1]);
    assert_eq!(written, [9]);
    assert!(io.target.free_frames() <= free);
}

#[test]
fn a_write_that_a_script_fails_changes_nothing_and_gives_its_capsule_back() {
    let (mut io, _admin) = Bench::scripted("error 0/6 on write");
    io.send(in_capsule(command::write(1, 0, 1, 0), 1, 512), &[9; 512]).unwrap();
    io.act_out();
    assert!(io.settle()[0].0.status().is(generic::INTERNAL_ERROR) && io.is_at_rest());
    io.host.memory[..512].fill(1);
    io.send(keyed(command::read(1, 0, 1, 0), 2, 0, 512), &[]).unwrap();
    io.act_out();
    assert_eq!(io.settle()[0].0.status(), Status::SUCCESS);
    assert!(io.host.memory[..512] == [0; 512]);
}

#[test]
fn a_script_ends_connections_and_controllers() {
    for (script, reset) in
        [("reset connection at 10ms", Reset::Connection), ("reset controller at 10ms", Reset::Controller)]
    {
        let (mut io, _admin) = Bench::scripted(script);
        io.send(keyed(command::read(1, 0, 1, 0), 1, 0, 512), &[]).unwrap();
        assert_eq!(io.wait(), None, "the answer first");
        io.settle();
        assert_eq!(io.wait(), Some(reset));
        assert_eq!(io.exchange.is_over(), reset == Reset::Controller);
    }
}

#[test]
fn what_a_script_keeps_back_is_free_when_the_queue_is_gone() {
    let (mut io, _admin) = Bench::scripted("latency fixed 10s");
    let free = io.target.free_frames();
    for cid in 0..4 {
        io.send(keyed(command::read(1, 0, 8, 0), cid, 0, 4096), &[]).unwrap();
        io.send(in_capsule(command::write(1, 0, 8, 0), 4 + cid, 4096), &[1; 4096]).unwrap();
    }
    assert_eq!(io.settle(), []);
    io.exchange.end(io.target.context());
    io.exchange.release(io.target.context());
    assert_eq!((io.target.free_frames(), io.exchange.due()), (free, None));
}
