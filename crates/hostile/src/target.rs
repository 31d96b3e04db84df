//! A small controller behind a listener: a RAM namespace and a discovery service, honest where the hook lets it be.

use std::{
    collections::VecDeque,
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use doorbell_spec::{
    command::{AdminOpcode, Command, Direction, IdentifyRequest, LogRequest, NvmOpcode, SglKind},
    completion::Completion,
    fabrics::{self, ConnectData, ConnectRequest, ConnectResponse, Fctype, PropertyRequest},
    feature::Fid,
    identify::{self, Cns, NamespaceList},
    log::{Adrfam, DiscoveryEntry, DiscoveryHeader, Lid, Subtype, Trtype},
    nqn::DISCOVERY_NQN,
    register::{self, Cap, Cc, Csts, Vs},
    status::{Status, generic},
    tcp::{IcReq, IcResp, MAXH2CDATA_MIN},
};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::{End, Framing, Misdeed, NQN, Part, Pdu, Role, Step, Wire};

/// Bytes of a block.
pub const BLOCK: u32 = 512;
/// Blocks that the one namespace has at first.
pub const BLOCKS: u64 = 2048;

/// How often a connection looks whether there is an event to report or the peer has been dropped.
const LOOK: Duration = Duration::from_millis(10);
/// The one transfer tag that requests for data carry: one is outstanding at a time.
const TTAG: u16 = 0x51;

/// What a controller is about to answer, for the hook.
#[derive(Clone, Copy, Debug)]
pub enum Moment<'a> {
    /// A connection has come; nothing has been read from it.
    Accepted,
    /// A host initializes the connection.
    Initialize(&'a IcReq),
    /// A command has come, with the data in its capsule. Data to be asked for is not here yet.
    Command(&'a Command, &'a [u8]),
}

/// What the hook says to a [`Moment`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// What the model says.
    Model,
    /// This status, with a result.
    Answer(Status, u64),
    /// This data, as much of it as the command takes, and success.
    Data(Vec<u8>),
    /// Nothing: the hook has said all there is to say, or nobody ever will. The connection goes on.
    Done,
    /// Nothing, and nothing more is ever read from the connection, which stays open.
    Stall,
    /// The connection is closed.
    Close,
}

type Hook = dyn Fn(&mut Connection, Moment<'_>) -> Reply + Send + Sync;

/// A controller that listens on a free port of the loopback interface, with a thread a connection, until it is dropped.
pub struct TargetPeer {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    address: SocketAddr,
    hook: Box<Hook>,
    stop: AtomicBool,
    disk: Mutex<Vec<u8>>,
    blocks: AtomicU64,
    seen: Mutex<Vec<(u16, Command)>>,
    events: Mutex<VecDeque<u32>>,
    accepted: AtomicUsize,
    open: AtomicUsize,
}

impl TargetPeer {
    /// Starts one that asks `hook` before it answers anything; the hook may use the connection as it likes.
    pub fn start(hook: impl Fn(&mut Connection, Moment<'_>) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a listener that does not block");
        let address = listener.local_addr().expect("its address");
        let shared = Arc::new(Shared {
            address,
            hook: Box::new(hook),
            stop: AtomicBool::new(false),
            disk: Mutex::new(vec![0; (BLOCKS * u64::from(BLOCK)) as usize]),
            blocks: AtomicU64::new(BLOCKS),
            seen: Mutex::default(),
            events: Mutex::default(),
            accepted: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
        });
        let theirs = shared.clone();
        let acceptor = std::thread::spawn(move || accept(&listener, &theirs));
        Self { address, shared, acceptor: Some(acceptor) }
    }

    /// An honest one.
    pub fn honest() -> Self {
        Self::start(|_, _| Reply::Model)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The transport ID of its subsystem, as `perf -r` takes it.
    pub fn id(&self) -> String {
        format!("trtype:tcp adrfam:IPv4 traddr:127.0.0.1 trsvcid:{} subnqn:{NQN}", self.address.port())
    }

    /// Every command that has come, with its queue, in order.
    pub fn seen(&self) -> Vec<(u16, Command)> {
        lock(&self.shared.seen).clone()
    }

    /// Connections that have been accepted.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// Connections that are open.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::Relaxed)
    }

    /// Gives the namespace so many blocks, at most [`BLOCKS`]; with 0 it is gone. Nobody is told: see [`TargetPeer::report`].
    pub fn resize(&self, blocks: u64) {
        self.shared.blocks.store(blocks.min(BLOCKS), Ordering::Relaxed);
    }

    /// Reports an asynchronous event (dword 0 of the completion) when a host next waits for one.
    pub fn report(&self, event: u32) {
        lock(&self.shared.events).push_back(event);
    }
}

impl std::fmt::Debug for TargetPeer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TargetPeer").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Drop for TargetPeer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

/// Accepts until the peer is dropped, and then sees all connections end.
fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    while !shared.stop.load(Ordering::Relaxed) {
        let Ok((socket, _)) = listener.accept() else {
            std::thread::sleep(Duration::from_millis(2));
            continue;
        };
        let (shared, number) = (shared.clone(), shared.accepted.fetch_add(1, Ordering::Relaxed));
        shared.open.fetch_add(1, Ordering::Relaxed);
        threads.retain(|thread| !thread.is_finished());
        threads.push(std::thread::spawn(move || {
            if let Ok(mut connection) = Connection::new(socket, number, shared.clone()) {
                // How it ended is the business of the other end's test.
                let _ = connection.serve();
            }
            shared.open.fetch_sub(1, Ordering::Relaxed);
        }));
    }
    for thread in threads {
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The controller's end of a connection, for the hook.
pub struct Connection {
    /// The connection itself.
    pub wire: Wire,
    /// The how manieth this is, from 0 on.
    pub number: usize,
    /// Which queue it is; 0 before Connect, too.
    pub qid: u16,
    /// Whether Connect was for the discovery subsystem.
    pub discovery: bool,
    /// Commands that have come on it before the present one.
    pub commands: usize,
    shared: Arc<Shared>,
    cc: Cc,
    /// Asynchronous Event Requests that wait.
    waiting: VecDeque<u16>,
}

impl Connection {
    fn new(socket: TcpStream, number: usize, shared: Arc<Shared>) -> Result<Self, End> {
        let wire = Wire::new(socket)?;
        let (waiting, cc) = (VecDeque::new(), Cc::new());
        Ok(Self { wire, number, qid: 0, discovery: false, commands: 0, shared, cc, waiting })
    }

    /// Commits a misdeed in place of an honest step; what to return from the hook.
    pub fn misdeed(&mut self, misdeed: Misdeed, step: &Step) -> Reply {
        // The host may be quicker to close than we are to misbehave; its test looks at what it made of it.
        let _ = misdeed.perform(&mut self.wire, Role::Controller, step);
        match misdeed {
            Misdeed::Stall | Misdeed::HalfThenSilence => Reply::Stall,
            _ => Reply::Done,
        }
    }

    /// Answers a command.
    ///
    /// # Errors
    /// How the connection ended.
    pub fn answer(&mut self, cid: u16, status: Status, result: u64) -> Result<(), End> {
        self.wire.send(&self.wire.framing.response(&Completion::new(cid, 0, status, result)))
    }

    /// Sends the data of a command in one C2HData, and a successful response.
    ///
    /// # Errors
    /// How the connection ended.
    pub fn answer_data(&mut self, cid: u16, data: &[u8]) -> Result<(), End> {
        if !data.is_empty() {
            let part = Part { cccid: cid, last: true, ..Part::default() };
            self.wire.send(&self.wire.framing.c2h_data(part, data))?;
        }
        self.answer(cid, Status::SUCCESS, 0)
    }

    /// Asks for all `len` bytes of a command's data and waits for them.
    ///
    /// # Errors
    /// How the connection ended, or what else the host sent.
    pub fn request(&mut self, cid: u16, len: u32) -> Result<Vec<u8>, End> {
        self.wire.send(&self.wire.framing.r2t(cid, TTAG, 0, len))?;
        let mut data = Vec::new();
        while data.len() < len as usize {
            let pdu = self.next()?;
            match pdu.h2c_data() {
                Some(header) if header.ttag.get() == TTAG && header.datao.get() as usize == data.len() => {
                    data.extend_from_slice(&pdu.data);
                }
                Some(header) => return Err(End::Nonsense(format!("the wrong data: {header:?}"))),
                // Commands that were on their way: as if they had come behind the data.
                None => self.take(&pdu)?,
            }
        }
        Ok(data)
    }

    /// Serves the connection to its end.
    fn serve(&mut self) -> Result<(), End> {
        self.ask(Moment::Accepted)?;
        let hello = self.next()?;
        let Some(icreq) = hello.icreq() else {
            return Err(End::Nonsense(format!("{} instead of ICReq", hello.kind())));
        };
        if self.ask(Moment::Initialize(&icreq))? == Reply::Model {
            self.wire.send(IcResp::new(0, icreq.digest, 16 * MAXH2CDATA_MIN).as_bytes())?;
            self.wire.framing = Framing::new(icreq.digest, icreq.hpda);
        }
        loop {
            let pdu = self.next()?;
            self.take(&pdu)?;
        }
    }

    /// The next PDU; events are reported while none comes, for hosts may be silent as long as they like.
    fn next(&mut self) -> Result<Pdu, End> {
        loop {
            match self.wire.receive_within(LOOK) {
                Err(End::Silent) if !self.shared.stop.load(Ordering::Relaxed) => self.report()?,
                other => return other,
            }
        }
    }

    /// Reports an event that waits to a host that waits for one.
    fn report(&mut self) -> Result<(), End> {
        let Some(&cid) = self.waiting.front() else { return Ok(()) };
        let Some(event) = lock(&self.shared.events).pop_front() else { return Ok(()) };
        self.waiting.pop_front();
        self.answer(cid, Status::SUCCESS, event.into())
    }

    /// Asks the hook; what comes back is [`Reply::Model`] or a reply to carry out.
    fn ask(&mut self, moment: Moment<'_>) -> Result<Reply, End> {
        let shared = self.shared.clone();
        match (shared.hook)(self, moment) {
            Reply::Close => Err(End::Closed { within_pdu: false }),
            Reply::Stall => {
                while !shared.stop.load(Ordering::Relaxed) {
                    std::thread::sleep(LOOK);
                }
                Err(End::Silent)
            }
            reply => Ok(reply),
        }
    }

    fn take(&mut self, pdu: &Pdu) -> Result<(), End> {
        let Some(command) = pdu.command() else {
            return Err(End::Nonsense(format!("{} instead of a command", pdu.kind())));
        };
        lock(&self.shared.seen).push((self.qid, command));
        let reply = self.ask(Moment::Command(&command, &pdu.data))?;
        self.commands += 1;
        let cid = command.cid.get();
        match reply {
            Reply::Model => self.model(&command, &pdu.data),
            Reply::Answer(status, result) => self.answer(cid, status, result),
            Reply::Data(mut data) => {
                data.truncate(length(&command));
                self.answer_data(cid, &data)
            }
            _ => Ok(()),
        }
    }

    fn model(&mut self, command: &Command, in_capsule: &[u8]) -> Result<(), End> {
        let cid = command.cid.get();
        let len = length(command);
        let asked = len > 0 && in_capsule.is_empty() && command.direction() == Direction::HostToController;
        let requested = if asked { self.request(cid, len as u32)? } else { Vec::new() };
        let data = if asked { &requested } else { in_capsule };
        if command.is_fabrics() {
            let (status, result) = self.fabrics(command, data);
            return self.answer(cid, status, result);
        }
        if self.qid > 0 {
            return self.transfer(command, data);
        }
        let found = match AdminOpcode(command.opc) {
            AdminOpcode::ASYNC_EVENT_REQUEST => {
                self.waiting.push_back(cid);
                return Ok(());
            }
            AdminOpcode::IDENTIFY => self.identify(&IdentifyRequest::parse(command)),
            AdminOpcode::GET_LOG_PAGE => Some(self.log_page(&LogRequest::parse(command))),
            AdminOpcode::SET_FEATURES if command.fid() == Fid::NUMBER_OF_QUEUES => {
                return self.answer(cid, Status::SUCCESS, 0x0003_0003);
            }
            AdminOpcode::GET_FEATURES if command.fid() == Fid::KEEP_ALIVE_TIMER => {
                return self.answer(cid, Status::SUCCESS, 10_000);
            }
            AdminOpcode::SET_FEATURES | AdminOpcode::KEEP_ALIVE => Some(Vec::new()),
            // Not aborted: every other command is over when the next is looked at.
            AdminOpcode::ABORT => return self.answer(cid, Status::SUCCESS, 1),
            _ => return self.answer(cid, generic::INVALID_OPCODE.with_dnr(), 0),
        };
        match found {
            Some(mut bytes) => {
                bytes.truncate(len);
                self.answer_data(cid, &bytes)
            }
            None => self.answer(cid, generic::INVALID_FIELD.with_dnr(), 0),
        }
    }

    fn fabrics(&mut self, command: &Command, data: &[u8]) -> (Status, u64) {
        let property = PropertyRequest::parse(command);
        let value = match (fabrics::fctype(command), property.offset) {
            (Fctype::CONNECT, _) => {
                let Ok(data) = ConnectData::read_from_bytes(data) else {
                    return (generic::DATA_SGL_LENGTH_INVALID.with_dnr(), 0);
                };
                self.qid = ConnectRequest::parse(command).qid;
                self.discovery = data.subnqn() == Ok(DISCOVERY_NQN);
                ConnectResponse { cntlid: 1, authreq: 0 }.dw0().into()
            }
            (Fctype::PROPERTY_GET, register::CAP) => {
                Cap::new().with_mqes(127).with_to(2).with_css(Cap::CSS_NVM).into_bits()
            }
            (Fctype::PROPERTY_GET, register::VS) => Vs::version(1, 4, 0).into_bits().into(),
            (Fctype::PROPERTY_GET, register::CC) => self.cc.into_bits().into(),
            (Fctype::PROPERTY_GET, register::CSTS) => {
                let shut = if self.cc.shn() == 0 { Csts::SHST_NORMAL } else { Csts::SHST_COMPLETE };
                Csts::new().with_rdy(self.cc.en()).with_shst(shut).into_bits().into()
            }
            (Fctype::PROPERTY_SET, register::CC) => {
                self.cc = Cc::from_bits(property.value as u32);
                0
            }
            _ => return (generic::INVALID_FIELD.with_dnr(), 0),
        };
        (Status::SUCCESS, value)
    }

    fn blocks(&self) -> u64 {
        self.shared.blocks.load(Ordering::Relaxed)
    }

    fn identify(&self, request: &IdentifyRequest) -> Option<Vec<u8>> {
        let blocks = self.blocks();
        match request.cns {
            Cns::CONTROLLER => Some(identify_controller(self.discovery).as_bytes().to_vec()),
            Cns::ACTIVE_NAMESPACES => {
                Some(NamespaceList::collect(request.nsid, (blocks > 0).then_some(1)).as_bytes().to_vec())
            }
            Cns::NAMESPACE if request.nsid == 1 && blocks > 0 => Some(identify_namespace(blocks).as_bytes().to_vec()),
            // What an inactive namespace is (Base 5.1.13).
            Cns::NAMESPACE if request.nsid == 1 => Some(vec![0; identify::SIZE]),
            Cns::NAMESPACE_DESCRIPTORS => Some(vec![0; identify::SIZE]),
            _ => None,
        }
    }

    /// The discovery log has one entry, this controller's own; all other pages are zero.
    fn log_page(&self, request: &LogRequest) -> Vec<u8> {
        let mut page = Vec::new();
        if request.lid == Lid::DISCOVERY {
            let mut entry = DiscoveryEntry::new_zeroed();
            (entry.trtype, entry.adrfam, entry.subtype) = (Trtype::TCP.0, Adrfam::IPV4.0, Subtype::NVM.0);
            (entry.portid, entry.cntlid, entry.asqsz) = (1.into(), fabrics::CNTLID_DYNAMIC.into(), 32.into());
            entry.set_traddr("127.0.0.1");
            entry.set_trsvcid(&self.shared.address.port().to_string());
            entry.set_subnqn(NQN).expect("a name that fits");
            page = [DiscoveryHeader::new(1, 1).as_bytes(), entry.as_bytes()].concat();
        }
        let at = usize::try_from(request.offset).unwrap_or(usize::MAX).min(page.len());
        page.drain(..at);
        page.resize(request.bytes.min(1 << 20) as usize, 0);
        page
    }

    fn transfer(&mut self, command: &Command, data: &[u8]) -> Result<(), End> {
        let cid = command.cid.get();
        let blocks = self.blocks();
        let inside = command.slba().checked_add(command.block_count().into()).is_some_and(|end| end <= blocks);
        let opcode = NvmOpcode(command.opc);
        if command.nsid.get() != 1 || blocks == 0 {
            return self.answer(cid, generic::INVALID_NAMESPACE.with_dnr(), 0);
        }
        if opcode == NvmOpcode::FLUSH {
            return self.answer(cid, Status::SUCCESS, 0);
        }
        if ![NvmOpcode::READ, NvmOpcode::WRITE].contains(&opcode) {
            return self.answer(cid, generic::INVALID_OPCODE.with_dnr(), 0);
        }
        if !inside {
            return self.answer(cid, generic::LBA_OUT_OF_RANGE.with_dnr(), 0);
        }
        let (at, len) = ((command.slba() * u64::from(BLOCK)) as usize, (command.block_count() * BLOCK) as usize);
        if opcode == NvmOpcode::READ {
            let bytes = lock(&self.shared.disk)[at..at + len].to_vec();
            return self.answer_data(cid, &bytes);
        }
        if data.len() != len {
            return self.answer(cid, generic::DATA_SGL_LENGTH_INVALID.with_dnr(), 0);
        }
        lock(&self.shared.disk)[at..at + len].copy_from_slice(data);
        self.answer(cid, Status::SUCCESS, 0)
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("number", &self.number).field("qid", &self.qid).finish_non_exhaustive()
    }
}

/// Bytes of data that a command carries or takes.
fn length(command: &Command) -> usize {
    match command.sgl().kind() {
        SglKind::Transport { length } | SglKind::InCapsule { length, .. } => length as usize,
        _ => 0,
    }
}

/// What the model says of its controller: 128 KiB a command, 8 KiB in a capsule, events of changed namespaces.
pub fn identify_controller(discovery: bool) -> identify::Controller {
    let mut data = identify::Controller::new_zeroed();
    data.set_sn("HOSTILE1");
    data.set_mn("Hostile controller");
    (data.cntlid, data.mdts, data.nn, data.kas) = (1.into(), 5, u32::from(!discovery).into(), 1.into());
    (data.aerl, data.ioccsz, data.iorcsz) = (1, ((64 + 8192) / 16).into(), 1.into());
    (data.ver, data.oaes, data.sgls) = (Vs::version(1, 4, 0).into_bits().into(), (1 << 8).into(), 0x0020_0001.into());
    (data.sqes, data.cqes, data.maxcmd) = (0x66, 0x44, 128.into());
    data.cntrltype = if discovery { identify::Cntrltype::DISCOVERY } else { identify::Cntrltype::IO }.0;
    let nqn = if discovery { DISCOVERY_NQN } else { NQN };
    data.subnqn[..nqn.len()].copy_from_slice(nqn.as_bytes());
    data
}

/// What the model says of its namespace when that has so many blocks.
pub fn identify_namespace(blocks: u64) -> identify::Namespace {
    let mut data = identify::Namespace::new_zeroed();
    (data.nsze, data.ncap, data.nuse) = (blocks.into(), blocks.into(), blocks.into());
    data.lbaf[0].lbads = 9;
    data
}
