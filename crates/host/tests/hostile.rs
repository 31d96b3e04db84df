//! The host driver against controllers that break the protocol on a real socket, at every phase of a controller's life. Whatever they
//! do ends in time with an error that says which controller, which step and what came back; a queue that is lost gives every command
//! back, and memory of commands that were not at fault is as it was.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use doorbell_host::{AdminData, AnyQueue, Cancel, Controller, ControllerOptions, Error, HostIdentity};
use doorbell_hostile::{
    BLOCK, Connection, End, Fate, Framing, Misdeed, Moment, Part, Reply, Step, TargetPeer, identify_controller,
    identify_namespace,
};
use doorbell_platform::{Arena, Range};
use doorbell_queue::{Done, Down, Drain, IoQueue, Op, Slot};
use doorbell_spec::{
    command::{self, AdminOpcode, Command, IdentifyRequest, NvmOpcode},
    fabrics::{self, Fctype, PropertyRequest},
    feature::Fid,
    identify::{Cns, NamespaceList},
    register::{self, Cc},
    status::{Status, generic},
    tcp::{Fes, IcResp, PDA_MAX},
};
use zerocopy::IntoBytes;

/// How long the driver waits for an honest peer: more than a busy machine ever needs.
const PATIENT: Duration = Duration::from_secs(20);
/// And for one that stalls on purpose.
const BRIEF: Duration = Duration::from_secs(1);

fn options(wait: Duration, digests: bool) -> ControllerOptions {
    ControllerOptions {
        host: HostIdentity { nqn: "nqn.2016-06.org.example:host".into(), id: [7; 16] },
        header_digest: digests,
        data_digest: digests,
        keep_alive: None,
        admin_timeout: wait,
        connect_timeout: wait,
        shutdown_timeout: wait,
        ..ControllerOptions::default()
    }
}

fn connect(peer: &TargetPeer, options: &ControllerOptions) -> Result<Controller, Error> {
    Controller::connect(&peer.id().parse().unwrap(), options, &Cancel::new())
}

/// A step of a controller's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Initialize,
    Connect,
    Version,
    Capabilities,
    Enable,
    Ready,
    Identify,
    Events,
    Queues,
    List,
    Namespace,
    IoInitialize,
    IoConnect,
    Read,
    Write,
    Shutdown,
}

impl Phase {
    const BRING_UP: [Self; 11] = [
        Self::Initialize,
        Self::Connect,
        Self::Version,
        Self::Capabilities,
        Self::Enable,
        Self::Ready,
        Self::Identify,
        Self::Events,
        Self::Queues,
        Self::List,
        Self::Namespace,
    ];

    /// What the driver calls it.
    fn step(self) -> &'static str {
        match self {
            Self::Initialize | Self::Connect => "CONNECT_ADMINQ",
            Self::Version => "READ_VS",
            Self::Capabilities => "READ_CAP",
            Self::Enable => "ENABLE",
            Self::Ready => "ENABLE_WAIT_FOR_READY_1",
            Self::Identify => "IDENTIFY",
            Self::Events => "CONFIGURE_AER",
            Self::Queues => "SET_NUM_QUEUES",
            Self::List => "IDENTIFY_ACTIVE_NS",
            Self::Namespace => "IDENTIFY_NS",
            Self::IoInitialize | Self::IoConnect | Self::Read | Self::Write | Self::Shutdown => "",
        }
    }

    /// The honest answer if this is what the peer is to answer now.
    fn at(self, connection: &Connection, moment: Moment<'_>) -> Option<Step> {
        let command = match moment {
            Moment::Accepted => return None,
            Moment::Initialize(_) => {
                let mine = match self {
                    Self::Initialize => connection.number == 0,
                    Self::IoInitialize => connection.number > 0,
                    _ => false,
                };
                return mine.then_some(Step::Initialize);
            }
            Moment::Command(command, _) => command,
        };
        let admin = |opcode: AdminOpcode| connection.qid == 0 && !command.is_fabrics() && command.opc == opcode.0;
        let io = |opcode: NvmOpcode| connection.qid > 0 && !command.is_fabrics() && command.opc == opcode.0;
        let is = |fctype: Fctype| command.is_fabrics() && fabrics::fctype(command) == fctype;
        let property = PropertyRequest::parse(command);
        let get = |offset: u32| is(Fctype::PROPERTY_GET) && property.offset == offset;
        let sets_cc = is(Fctype::PROPERTY_SET) && property.offset == register::CC;
        let cc = Cc::from_bits(property.value as u32);
        let identify = |cns: Cns| admin(AdminOpcode::IDENTIFY) && IdentifyRequest::parse(command).cns == cns;
        let set = |fid: Fid| admin(AdminOpcode::SET_FEATURES) && command.fid() == fid;
        let now = match self {
            Self::Initialize | Self::IoInitialize => false,
            Self::Connect => is(Fctype::CONNECT) && connection.number == 0,
            Self::Version => get(register::VS),
            Self::Capabilities => get(register::CAP),
            Self::Enable => sets_cc && cc.en() && cc.shn() == 0,
            Self::Ready => get(register::CSTS),
            Self::Identify => identify(Cns::CONTROLLER),
            Self::Events => set(Fid::ASYNC_EVENT_CONFIGURATION),
            Self::Queues => set(Fid::NUMBER_OF_QUEUES),
            Self::List => identify(Cns::ACTIVE_NAMESPACES),
            Self::Namespace => identify(Cns::NAMESPACE),
            Self::IoConnect => is(Fctype::CONNECT) && connection.number > 0,
            Self::Read => io(NvmOpcode::READ),
            Self::Write => io(NvmOpcode::WRITE),
            Self::Shutdown => sets_cc && cc.shn() != 0,
        };
        let data = match self {
            Self::Identify => identify_controller(false).as_bytes().to_vec(),
            Self::List => NamespaceList::collect(0, [1]).as_bytes().to_vec(),
            Self::Namespace => identify_namespace(2048).as_bytes().to_vec(),
            Self::Read => vec![0x5a; command.block_count() as usize * BLOCK as usize],
            _ => Vec::new(),
        };
        now.then(|| Step::command(*command, data))
    }
}

/// A peer that commits a misdeed once, at a phase, and then answers as it should have, where the connection survives that.
fn misbehaving(phase: Phase, misdeed: Misdeed) -> (TargetPeer, Arc<AtomicBool>, Arc<Mutex<Option<End>>>) {
    let (done, end) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(None)));
    let (did, seen) = (done.clone(), end.clone());
    let peer = TargetPeer::start(move |connection, moment| {
        let Some(step) = phase.at(connection, moment).filter(|step| misdeed.applies(connection.wire.framing, step))
        else {
            return Reply::Model;
        };
        if did.swap(true, Ordering::Relaxed) {
            return Reply::Model;
        }
        let reply = connection.misdeed(misdeed, &step);
        match misdeed.fate() {
            Fate::Told(_) | Fate::Closes => *seen.lock().unwrap() = Some(connection.wire.end()),
            Fate::Endures => {
                if let Step::Command { command, data } = &step
                    && !data.is_empty()
                {
                    let _ = connection.answer(command.cid.get(), Status::SUCCESS, 0);
                }
            }
            Fate::Waits => {}
        }
        reply
    });
    (peer, done, end)
}

/// How long the driver is given: little where the peer stalls.
fn patience(misdeed: Misdeed) -> Duration {
    if misdeed.fate() == Fate::Waits { BRIEF } else { PATIENT }
}

/// Looks again and again until it holds; a test that waits longer than this is broken.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENT;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Whether the peer heard of its misdeed what the specification wants it to hear. One that has sent more than was read may see a
/// reset instead, as TCP has it.
fn was_told(misdeed: Misdeed, end: &Mutex<Option<End>>) {
    until("the end of the connection", || end.lock().unwrap().is_some());
    let end = end.lock().unwrap().clone().unwrap();
    match misdeed.fate() {
        Fate::Told(fes) => {
            let told = matches!(end, End::Terminated { fes: got, .. } if got == fes);
            assert!(told || (misdeed == Misdeed::Garbage && matches!(end, End::Failed(_))), "{misdeed:?}: {end}");
        }
        _ => assert!(end.is_over(), "{misdeed:?}: {end}"),
    }
}

/// Runs the cases on a number of threads, as many of them wait; panics if one did.
fn all<T: Sync + Copy>(cases: &[T], run: impl Fn(T) + Sync) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..24 {
            scope.spawn(|| {
                while let Some(&case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    run(case);
                }
            });
        }
    });
}

fn cases(phases: &[Phase]) -> Vec<(Phase, Misdeed, bool)> {
    let misdeeds = phases.iter().flat_map(|&phase| Misdeed::ALL.map(|misdeed| (phase, misdeed)));
    misdeeds.flat_map(|(phase, misdeed)| [false, true].map(|digests| (phase, misdeed, digests))).collect()
}

#[test]
fn every_misdeed_at_every_step_of_bring_up_ends_it_with_the_step_and_the_reason() {
    all(&cases(&Phase::BRING_UP), |(phase, misdeed, digests)| {
        let case = format!("{misdeed:?} at {phase:?}, digests: {digests}");
        let (peer, done, end) = misbehaving(phase, misdeed);
        let outcome = connect(&peer, &options(patience(misdeed), digests));
        if !done.load(Ordering::Relaxed) {
            // It does not apply here.
            return outcome.unwrap().detach();
        }
        let why = match outcome {
            Ok(controller) => {
                assert_eq!(misdeed, Misdeed::ByteAtATime, "{case}: it came up");
                return controller.detach();
            }
            Err(why) => why.to_string(),
        };
        assert!(why.starts_with("TCP (addr:127.0.0.1 subnqn:"), "{case}: {why}");
        // A flood answers the step itself first; a byte at a time, capabilities come that can be of no use.
        if !matches!(misdeed, Misdeed::Flood | Misdeed::ByteAtATime) {
            assert!(why.contains(&format!("step {}: ", phase.step())), "{case}: {why}");
        }
        let reasons: &[&str] = match misdeed.fate() {
            Fate::Told(_) => &["the peer broke the protocol"],
            Fate::Closes => &["the peer closed the connection", "the peer ended the connection"],
            Fate::Waits if misdeed == Misdeed::Flood => &["the peer broke the protocol", "no answer within 1 s"],
            Fate::Waits => &["no answer within 1 s", "no ICResp: no answer by the deadline"],
            Fate::Endures => &["Transient Transport Error", "ENABLE_WAIT_FOR_READY_1"],
        };
        assert!(reasons.iter().any(|reason| why.contains(reason)), "{case}: {why}");
        if matches!(misdeed.fate(), Fate::Told(_) | Fate::Closes) {
            was_told(misdeed, &end);
        }
    });
}

#[test]
fn every_misdeed_on_a_new_io_queue_leaves_the_controller_well() {
    all(&cases(&[Phase::IoInitialize, Phase::IoConnect]), |(phase, misdeed, digests)| {
        let case = format!("{misdeed:?} at {phase:?}, digests: {digests}");
        let (peer, done, end) = misbehaving(phase, misdeed);
        let controller = connect(&peer, &options(patience(misdeed), digests)).unwrap();
        let queue = controller.connect_io_queue(32).map(drop).map_err(|why| why.to_string());
        if done.load(Ordering::Relaxed) && !matches!(misdeed, Misdeed::ByteAtATime | Misdeed::Flood) {
            let why = queue.unwrap_err();
            let step = if phase == Phase::IoConnect { "queue" } else { "initializing the NVMe/TCP connection" };
            assert!(why.starts_with("TCP (addr:127.0.0.1 subnqn:") && why.contains(step), "{case}: {why}");
        }
        if done.load(Ordering::Relaxed) && matches!(misdeed.fate(), Fate::Told(_)) {
            was_told(misdeed, &end);
        }
        assert!(controller.admin(command::keep_alive(), AdminData::None).is_ok(), "{case}");
        assert!(controller.connect_io_queue(32).is_ok(), "{case}: the next one is honest");
        controller.detach();
    });
}

#[test]
fn every_misdeed_at_shutdown_ends_by_its_deadline() {
    all(&cases(&[Phase::Shutdown]), |(phase, misdeed, digests)| {
        let (peer, _, _) = misbehaving(phase, misdeed);
        let options = ControllerOptions { shutdown_timeout: BRIEF, ..options(PATIENT, digests) };
        let controller = connect(&peer, &options).unwrap();
        let start = Instant::now();
        controller.detach();
        assert!(start.elapsed() < PATIENT, "{misdeed:?} took {:?}", start.elapsed());
        // A peer that stalls reads no more, so it does not see the end of the connection.
        until(&format!("the end of the connection after {misdeed:?}"), || peer.open() == 0 || stalls(misdeed));
    });
}

fn stalls(misdeed: Misdeed) -> bool {
    misdeed.fate() == Fate::Waits
}

#[test]
fn a_peer_that_accepts_and_says_nothing_is_given_up() {
    let peer = TargetPeer::start(|_, moment| if let Moment::Accepted = moment { Reply::Stall } else { Reply::Model });
    let why = connect(&peer, &options(Duration::from_millis(200), false)).unwrap_err().to_string();
    assert!(why.contains("(ICReq sent): no ICResp: no answer by the deadline"), "{why}");
}

/// Bytes of a slot's buffer: more than fits a capsule, so that a write takes an R2T.
const LEN: u32 = 16 << 10;
const SLOTS: Slot = 8;

/// An I/O queue with a few slots whose buffers lie apart in memory filled with ones, so that a byte out of place is seen.
struct Io {
    controller: Controller,
    queue: AnyQueue,
    arena: Arc<Arena>,
    buffers: Vec<Range>,
}

impl Io {
    fn new(peer: &TargetPeer, options: &ControllerOptions) -> Self {
        let controller = connect(peer, options).unwrap();
        let mut queue = controller.connect_io_queue(32).unwrap();
        let arena = Arc::new(Arena::new(SLOTS as usize * 2 * LEN as usize).unwrap());
        arena.region().fill(0, arena.region().len(), 0xff);
        queue.attach(&arena).unwrap();
        let buffers: Vec<Range> = (0..SLOTS)
            .map(|slot| Range { offset: u64::from(slot) * 2 * u64::from(LEN) + u64::from(LEN / 2), len: LEN })
            .collect();
        for (slot, &range) in (0..SLOTS).zip(&buffers) {
            queue.prepare(slot, &[range]).unwrap();
        }
        Self { controller, queue, arena, buffers }
    }

    fn submit(&mut self, slot: Slot, opcode: NvmOpcode) {
        let op = Op { slot, opcode: opcode.0, nsid: 1, slba: 0, blocks: LEN / BLOCK, ..Op::default() };
        assert_eq!(self.queue.submit(&[op]), 1);
        let _ = self.queue.commit();
    }

    /// What comes until so many commands are over or the queue is lost.
    fn reap(&mut self, count: usize) -> (Vec<Done>, Option<Down>) {
        let (mut over, deadline) = (Vec::new(), Instant::now() + PATIENT);
        while over.len() < count {
            assert!(Instant::now() < deadline, "{} of {count} commands are over", over.len());
            let mut done = [Done { slot: 0, status: Status::SUCCESS, result: 0 }; 32];
            // A queue that is lost or stopped says so when it has given back what it has.
            let _ = self.queue.commit();
            match self.queue.reap(&mut done) {
                Ok(0) => thread::sleep(Duration::from_millis(1)),
                Ok(found) => over.extend_from_slice(&done[..found]),
                Err(down) => return (over, Some(down)),
            }
        }
        (over, None)
    }

    /// Whether all memory but that of one slot is as it was at first.
    fn is_untouched_but(&self, slot: Slot) -> bool {
        let mut bytes = vec![0; self.arena.region().len()];
        self.arena.region().read(0, &mut bytes);
        let mine = self.buffers[usize::from(slot)];
        bytes.drain(mine.offset as usize..mine.end() as usize);
        bytes.iter().all(|&byte| byte == 0xff)
    }

    /// Stops the queue, which must give back every command that is out.
    fn stop(&mut self, out: usize) {
        self.queue.stop();
        let (over, _) = self.reap(out);
        assert!(over.iter().all(|done| done.status.is(generic::ABORTED_SQ_DELETION)), "{over:?}");
        assert_eq!((over.len(), self.queue.drained()), (out, Drain::Clean));
    }
}

/// A peer that leaves reads and writes to `act`, which gets the first that comes and is told how the connection ends.
fn scripted(
    act: impl Fn(&mut Connection, &Command) -> Result<(), End> + Send + Sync + 'static,
) -> (TargetPeer, Arc<Mutex<Option<End>>>) {
    let (end, begun) = (Arc::new(Mutex::new(None)), AtomicBool::new(false));
    let seen = end.clone();
    let peer = TargetPeer::start(move |connection, moment| match moment {
        Moment::Command(command, _) if connection.qid > 0 && !command.is_fabrics() => {
            if !begun.swap(true, Ordering::Relaxed) {
                let outcome = act(connection, command).err().unwrap_or_else(|| connection.wire.end());
                *seen.lock().unwrap() = Some(outcome);
            }
            Reply::Done
        }
        _ => Reply::Model,
    });
    (peer, end)
}

type Act = fn(&mut Connection, &Command) -> Result<(), End>;

/// Has a peer break the protocol in answer to a command on slot 0 while another on slot 1 is out.
fn breaks(what: &str, opcode: NvmOpcode, fes: Fes, act: Act, said: &str) {
    let (peer, end) = scripted(act);
    let mut io = Io::new(&peer, &options(PATIENT, false));
    io.submit(0, opcode);
    io.submit(1, NvmOpcode::READ);
    let (over, down) = io.reap(2);
    let down = down.unwrap_or_else(|| panic!("{what}: {over:?}")).to_string();
    assert!(down.contains("the peer broke the protocol") && down.contains(said), "{what}: {down}");
    until("the end of the connection", || end.lock().unwrap().is_some());
    let end = end.lock().unwrap().clone().unwrap();
    assert!(matches!(end, End::Terminated { fes: got, .. } if got == fes), "{what}: {end}");
    io.stop(2 - over.len());
    assert!(io.is_untouched_but(0), "{what}: memory of others");
    assert!(io.controller.admin(command::keep_alive(), AdminData::None).is_ok(), "{what}: the controller is well");
    io.controller.detach();
}

#[test]
fn completions_for_unknown_finished_and_future_commands_end_the_queue_alone() {
    // 32 entries are 31 slots, whose identifiers take 5 bits; the others count the uses of the slot.
    let cases: [(&str, Act); 5] = [
        ("a slot that does not exist", |at, command| at.answer(command.cid.get() | 0x1f, Status::SUCCESS, 0)),
        ("a command that was never sent", |at, _| at.answer(0x05, Status::SUCCESS, 0)),
        ("a future command", |at, command| at.answer(command.cid.get() + 0x20, Status::SUCCESS, 0)),
        ("no command at all", |at, _| at.answer(0xffff, Status::SUCCESS, 0)),
        ("a finished command", |at, command| {
            at.answer_data(command.cid.get(), &[0x5a; LEN as usize])?;
            at.answer(command.cid.get(), Status::SUCCESS, 0)
        }),
    ];
    for (what, act) in cases {
        breaks(what, NvmOpcode::READ, Fes::INVALID_PDU_HEADER_FIELD, act, "not outstanding");
    }
}

/// Sends data for a command in a PDU of its own.
fn c2h(at: &mut Connection, command: &Command, datao: u32, len: usize, success: bool) -> Result<(), End> {
    let part = Part { cccid: command.cid.get(), datao, last: success, success, ttag: 0 };
    at.wire.send(&at.wire.framing.c2h_data(part, &vec![0x5a; len]))
}

#[test]
fn c2h_data_beyond_the_buffer_out_of_order_or_for_a_write_ends_the_queue_alone() {
    const HALF: usize = LEN as usize / 2;
    let (range, field) = (Fes::DATA_TRANSFER_OUT_OF_RANGE, Fes::INVALID_PDU_HEADER_FIELD);
    let cases: [(&str, NvmOpcode, Fes, Act, &str); 9] = [
        ("too long", NvmOpcode::READ, range, |at, c| c2h(at, c, 0, 2 * HALF + 1, false), "has 0 of 16384"),
        ("far behind", NvmOpcode::READ, range, |at, c| c2h(at, c, u32::MAX, HALF, false), "bytes at 4294967295"),
        ("not the start", NvmOpcode::READ, range, |at, c| c2h(at, c, 512, HALF, false), "bytes at 512"),
        (
            "twice the same",
            NvmOpcode::READ,
            range,
            |at, c| c2h(at, c, 0, HALF, false).and_then(|()| c2h(at, c, 0, HALF, false)),
            "has 8192 of 16384",
        ),
        (
            "more than all",
            NvmOpcode::READ,
            range,
            |at, c| c2h(at, c, 0, 2 * HALF, false).and_then(|()| c2h(at, c, 2 * HALF as u32, 512, false)),
            "has 16384 of 16384",
        ),
        ("nothing", NvmOpcode::READ, range, |at, c| c2h(at, c, 0, 0, false), "C2HData of 0 bytes"),
        ("for a write", NvmOpcode::WRITE, field, |at, c| c2h(at, c, 0, HALF, false), "which reads nothing"),
        (
            "after the response",
            NvmOpcode::READ,
            field,
            |at, c| at.answer_data(c.cid.get(), &[1; 2 * HALF]).and_then(|()| c2h(at, c, 0, HALF, false)),
            "not outstanding",
        ),
        (
            "for a command that is none",
            NvmOpcode::READ,
            field,
            |at, c| c2h(at, &Command { cid: 0x7777.into(), ..*c }, 0, HALF, true),
            "not outstanding",
        ),
    ];
    for (what, opcode, fes, act, said) in cases {
        breaks(what, opcode, fes, act, said);
    }
}

#[test]
fn a_read_that_succeeds_without_all_its_data_is_none() {
    let (peer, _) = scripted(|at, command| match command.cid.get() & 0x1f {
        0 => c2h(at, command, 0, 512, true),
        _ => Ok(()),
    });
    let mut io = Io::new(&peer, &options(PATIENT, false));
    io.submit(0, NvmOpcode::READ);
    let (over, _) = io.reap(1);
    assert!(over[0].status.is(generic::DATA_TRANSFER_ERROR), "{over:?}");
    assert!(io.is_untouched_but(0));
    io.stop(0);
    io.controller.detach();
}

fn r2t(at: &mut Connection, cid: u16, offset: u32, len: u32) -> Result<(), End> {
    at.wire.send(&at.wire.framing.r2t(cid, 1, offset, len))
}

#[test]
fn r2t_that_was_not_asked_for_goes_beyond_or_overlaps_ends_the_queue_alone() {
    let (range, field) = (Fes::DATA_TRANSFER_OUT_OF_RANGE, Fes::INVALID_PDU_HEADER_FIELD);
    let cases: [(&str, NvmOpcode, Fes, Act, &str); 8] = [
        ("for a read", NvmOpcode::READ, range, |at, c| r2t(at, c.cid.get(), 0, 512), "has 0 to send"),
        ("for too much", NvmOpcode::WRITE, range, |at, c| r2t(at, c.cid.get(), 0, LEN + 1), "has 16384 to send"),
        ("far behind", NvmOpcode::WRITE, range, |at, c| r2t(at, c.cid.get(), u32::MAX, 512), "bytes at 4294967295"),
        ("for nothing", NvmOpcode::WRITE, range, |at, c| r2t(at, c.cid.get(), 0, 0), "R2T for 0 bytes"),
        ("not the start", NvmOpcode::WRITE, range, |at, c| r2t(at, c.cid.get(), 512, 512), "was asked for 0"),
        (
            "overlapping",
            NvmOpcode::WRITE,
            range,
            |at, c| r2t(at, c.cid.get(), 0, 8192).and_then(|()| r2t(at, c.cid.get(), 4096, 8192)),
            "was asked for 8192",
        ),
        (
            "after all of it",
            NvmOpcode::WRITE,
            range,
            |at, c| at.request(c.cid.get(), LEN).and_then(|_| r2t(at, c.cid.get(), 0, LEN)),
            "was asked for 16384",
        ),
        ("for a command that is none", NvmOpcode::WRITE, field, |at, _| r2t(at, 0x7777, 0, 512), "not outstanding"),
    ];
    for (what, opcode, fes, act, said) in cases {
        breaks(what, opcode, fes, act, said);
    }
}

#[test]
fn a_write_that_is_asked_for_byte_by_byte_and_not_taken_does_not_fill_memory() {
    const LONG: u32 = 64 << 10;
    let (peer, _) = scripted(|at, command| {
        let mut r2ts = Vec::new();
        for slot in 0..SLOTS {
            // The first slot has carried Connect before.
            let cid = if slot == 0 { command.cid.get() } else { slot };
            let mut r2t = Framing::default().r2t(cid, 1, 0, 1);
            for byte in 0..LONG {
                r2t[12..16].copy_from_slice(&byte.to_le_bytes());
                r2ts.extend_from_slice(&r2t);
            }
        }
        at.wire.offer(&r2ts, PATIENT).map(drop)
    });
    let mut io = Io::new(&peer, &options(PATIENT, false));
    let arena = Arc::new(Arena::new(LONG as usize).unwrap());
    io.queue.attach(&arena).unwrap();
    for slot in 0..SLOTS {
        io.queue.prepare(slot, &[Range { offset: 0, len: LONG }]).unwrap();
        io.submit(slot, NvmOpcode::WRITE);
    }
    let (over, down) = io.reap(1);
    assert!(over.is_empty());
    let down = down.unwrap().to_string();
    assert!(down.contains("asks for data in tiny pieces and does not take them"), "{down}");
    io.stop(SLOTS.into());
    io.controller.detach();
}

#[test]
fn a_wrong_header_digest_ends_the_connection_and_a_wrong_data_digest_its_command_alone() {
    for (misdeed, lost) in [(Misdeed::HeaderDigest, true), (Misdeed::DataDigest, false)] {
        let (peer, done, _) = misbehaving(Phase::Read, misdeed);
        let mut io = Io::new(&peer, &options(PATIENT, true));
        (0..4).for_each(|slot| io.submit(slot, NvmOpcode::READ));
        let (mut over, down) = io.reap(4);
        assert!(done.load(Ordering::Relaxed));
        match lost {
            true => {
                assert!(down.unwrap().to_string().contains("C2HData with a wrong header digest"));
                io.stop(4 - over.len());
            }
            false => {
                assert!(down.is_none());
                over.sort_by_key(|done| done.slot);
                let failed: Vec<_> = over.iter().map(|done| done.status).collect();
                assert!(failed[0].is(generic::TRANSIENT_TRANSPORT_ERROR), "{failed:?}");
                assert!(failed[1..].iter().all(|status| status.is_success()), "{failed:?}");
                io.submit(0, NvmOpcode::READ);
                assert!(io.reap(1).0[0].status.is_success(), "the queue goes on");
                io.stop(0);
            }
        }
        io.controller.detach();
    }
}

#[test]
fn every_misdeed_in_answer_to_an_io_gives_every_command_back_and_keeps_to_its_memory() {
    all(&cases(&[Phase::Read, Phase::Write]), |(phase, misdeed, digests)| {
        let case = format!("{misdeed:?} at {phase:?}, digests: {digests}");
        let (peer, _, end) = misbehaving(phase, misdeed);
        let mut io = Io::new(&peer, &options(PATIENT, digests));
        let opcode = if phase == Phase::Read { NvmOpcode::READ } else { NvmOpcode::WRITE };
        io.submit(0, opcode);
        let data = if phase == Phase::Read { vec![0] } else { Vec::new() };
        let framing = Framing { header_digest: digests, data_digest: digests, pda: 0 };
        let applies = misdeed.applies(framing, &Step::command(command::read(1, 0, 1, 0), data));
        if !applies || misdeed.fate() == Fate::Endures {
            let (over, down) = io.reap(1);
            assert!(down.is_none(), "{case}: {down:?}");
            let spoiled = applies && misdeed == Misdeed::DataDigest;
            assert_eq!(over[0].status.is_success(), !spoiled, "{case}: {over:?}");
            io.stop(0);
        } else if stalls(misdeed) && misdeed != Misdeed::Flood {
            // Nothing comes; how long to wait is up to who submitted it, and stopping the queue ends it at once.
            io.stop(1);
        } else {
            let (over, down) = io.reap(2);
            assert!(down.is_some() && over.len() <= 1, "{case}: {over:?}");
            io.stop(1 - over.len());
            if matches!(misdeed.fate(), Fate::Told(_)) {
                was_told(misdeed, &end);
            }
        }
        assert!(io.is_untouched_but(0), "{case}: memory of others");
        io.controller.detach();
    });
}

#[test]
fn icresp_full_of_lies_is_refused_or_lived_with() {
    let icresp = |cpda: u8, digest: u8, maxh2cdata: u32| IcResp::new(cpda, digest, maxh2cdata);
    let lies: [(IcResp, Option<&str>); 9] = [
        (icresp(0, 0, 0), Some("ICResp with MAXH2CDATA 0")),
        (icresp(0, 0, 4095), Some("ICResp with MAXH2CDATA 4095")),
        (icresp(PDA_MAX + 1, 0, 4096), Some("ICResp with CPDA 32")),
        (icresp(u8::MAX, 0, 4096), Some("ICResp with CPDA 255")),
        (icresp(0, 3, 4096), Some("digests that were not offered")),
        (icresp(0, 0xff, 4096), Some("digests that were not offered")),
        (icresp(PDA_MAX, 0, 4096), None),
        (icresp(0, 0, u32::MAX), None),
        (icresp(0, 0, 4097), None),
    ];
    for (lie, said) in lies {
        let peer = TargetPeer::start(move |connection, moment| match moment {
            Moment::Initialize(_) => {
                let _ = connection.wire.send(lie.as_bytes());
                Reply::Done
            }
            _ => Reply::Model,
        });
        match (connect(&peer, &options(PATIENT, false)), said) {
            (Err(why), Some(said)) => assert!(why.to_string().contains(said), "{why}"),
            (Ok(controller), None) => {
                controller.detach();
                let mut io = Io::new(&peer, &options(PATIENT, false));
                io.submit(0, NvmOpcode::WRITE);
                assert!(io.reap(1).0[0].status.is_success(), "{lie:?}");
                io.controller.detach();
            }
            (outcome, said) => panic!("{lie:?}: {outcome:?} instead of {said:?}"),
        }
    }
}
