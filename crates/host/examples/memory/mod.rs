//! A transport inside the process: queues that hand each command to a small controller model and put the answer back at once.
//! It shows all that a transport has to do. The [`Site`]'s hook may answer any command in the model's place.

#![allow(dead_code, reason = "the example and the tests use different parts of it")]

use std::{
    collections::{HashMap, VecDeque},
    os::fd::{AsRawFd, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use doorbell_host::{
    TransportId,
    transport::{QueueRequest, Transport},
};
use doorbell_platform::{Arena, Backing, Range, Region};
use doorbell_queue::{Counters, Done, Down, Drain, IoQueue, Needs, Op, PrepareError, Progress, Slot, Wait};
use doorbell_spec::{
    command::{AdminOpcode, Command, IdentifyRequest, LogRequest, NvmOpcode},
    fabrics::{self, ConnectRequest, ConnectResponse, Fctype, PropertyRequest},
    feature::Fid,
    identify::{self, Cns, NamespaceList},
    log::Lid,
    nqn::DISCOVERY_NQN,
    register::{self, Cap, Cc, Csts, Vs},
    status::{Status, generic},
};
use rustix::event::{EventfdFlags, eventfd};
use zerocopy::{FromZeros, IntoBytes};

/// Bytes of a block.
pub const BLOCK: u32 = 512;
/// Blocks of the one namespace.
pub const BLOCKS: u64 = 2048;

/// The transport: sites by their `traddr`.
#[derive(Default)]
pub struct MemoryTransport {
    sites: Mutex<HashMap<String, Arc<Site>>>,
}

impl MemoryTransport {
    /// Puts a site at an address.
    pub fn add(&self, traddr: &str, site: Arc<Site>) {
        lock(&self.sites).insert(traddr.into(), site);
    }
}

impl Transport for MemoryTransport {
    fn trtype(&self) -> &str {
        "MEMORY"
    }

    fn open_queue(&self, id: &TransportId, request: &QueueRequest) -> Result<Box<dyn IoQueue>, String> {
        let site = lock(&self.sites).get(&id.traddr).cloned();
        let site = site.ok_or_else(|| format!("there is no memory called {}", id.traddr))?;
        let wake = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).map_err(|why| why.to_string())?;
        let wake = Arc::new(wake);
        lock(&site.wakes).push(wake.clone());
        Ok(Box::new(MemoryQueue::new(site, wake, request)))
    }
}

/// What the hook says to a command.
pub enum Reply {
    /// What the model says.
    Model,
    /// This status.
    Status(Status),
    /// This status, with a result.
    Answer(Status, u64),
    /// Success, with this result.
    Value(u64),
    /// Success, with this data.
    Data(Vec<u8>),
    /// Nothing, ever.
    Never,
    /// The queue is lost.
    Down,
}

type Hook = dyn Fn(u16, &Command) -> Reply + Send + Sync;

/// A subsystem with one RAM namespace, and its discovery service.
pub struct Site {
    disk: Region,
    hook: Box<Hook>,
    /// Every command that arrived, with its queue.
    pub seen: Mutex<Vec<(u16, Command)>>,
    events: Mutex<VecDeque<u32>>,
    wakes: Mutex<Vec<Arc<OwnedFd>>>,
    dead: AtomicBool,
}

impl Site {
    /// A well-behaved one.
    pub fn new() -> Arc<Self> {
        Self::with_hook(|_, _| Reply::Model)
    }

    /// One that asks `hook` (queue identifier, command) first.
    pub fn with_hook(hook: impl Fn(u16, &Command) -> Reply + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            disk: Region::new((BLOCKS * u64::from(BLOCK)) as usize).expect("a mebibyte"),
            hook: Box::new(hook),
            seen: Mutex::default(),
            events: Mutex::default(),
            wakes: Mutex::default(),
            dead: AtomicBool::new(false),
        })
    }

    /// Reports an asynchronous event (dword 0 of the completion).
    pub fn report(&self, event: u32) {
        lock(&self.events).push_back(event);
        self.wake();
    }

    /// Loses every queue.
    pub fn die(&self) {
        self.dead.store(true, Ordering::Relaxed);
        self.wake();
    }

    /// Lets new queues live again; those that have not noticed yet that they are lost go on.
    pub fn revive(&self) {
        self.dead.store(false, Ordering::Relaxed);
    }

    fn wake(&self) {
        for wake in lock(&self.wakes).iter() {
            let _ = rustix::io::write(wake, &1u64.to_ne_bytes());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct MemoryQueue {
    site: Arc<Site>,
    wake: Arc<OwnedFd>,
    qid: u16,
    discovery: bool,
    slots: u16,
    arena: Option<Arc<Arena>>,
    ranges: Vec<Vec<Range>>,
    busy: Vec<bool>,
    submitted: VecDeque<(Slot, Command)>,
    done: VecDeque<Done>,
    /// Slots whose Asynchronous Event Requests wait for an event.
    waiting: VecDeque<Slot>,
    cc: Cc,
    stopped: bool,
    down: bool,
    counters: Counters,
}

impl MemoryQueue {
    fn new(site: Arc<Site>, wake: Arc<OwnedFd>, request: &QueueRequest) -> Self {
        let slots = request.entries.saturating_sub(1).clamp(1, u16::MAX.into()) as u16;
        Self {
            site,
            wake,
            qid: request.qid,
            discovery: false,
            slots,
            arena: None,
            ranges: vec![Vec::new(); slots.into()],
            busy: vec![false; slots.into()],
            submitted: VecDeque::new(),
            done: VecDeque::new(),
            waiting: VecDeque::new(),
            cc: Cc::new(),
            stopped: false,
            down: false,
            counters: Counters::default(),
        }
    }

    fn finish(&mut self, slot: Slot, status: Status, result: u64) {
        self.done.push_back(Done { slot, status, result });
    }

    fn put(&self, slot: Slot, bytes: &[u8]) {
        let (Some(arena), Some(range)) = (&self.arena, self.ranges[usize::from(slot)].first()) else { return };
        let len = bytes.len().min(range.len as usize);
        arena.region().write(range.offset, &bytes[..len]);
    }

    fn get(&self, slot: Slot) -> Vec<u8> {
        let (Some(arena), Some(range)) = (&self.arena, self.ranges[usize::from(slot)].first()) else {
            return Vec::new();
        };
        let mut bytes = vec![0; range.len as usize];
        arena.region().read(range.offset, &mut bytes);
        bytes
    }

    fn execute(&mut self, slot: Slot, command: &Command) {
        lock(&self.site.seen).push((self.qid, *command));
        match (self.site.hook)(self.qid, command) {
            Reply::Model => self.model(slot, command),
            Reply::Status(status) => self.finish(slot, status, 0),
            Reply::Answer(status, result) => self.finish(slot, status, result),
            Reply::Value(value) => self.finish(slot, Status::SUCCESS, value),
            Reply::Data(bytes) => {
                self.put(slot, &bytes);
                self.finish(slot, Status::SUCCESS, 0);
            }
            Reply::Never => {}
            Reply::Down => self.down = true,
        }
    }

    fn model(&mut self, slot: Slot, command: &Command) {
        if command.is_fabrics() {
            let (status, result) = self.fabrics(slot, command);
            return self.finish(slot, status, result);
        }
        if self.qid > 0 {
            let status = self.transfer(slot, command);
            return self.finish(slot, status, 0);
        }
        let answer = match AdminOpcode(command.opc) {
            AdminOpcode::ASYNC_EVENT_REQUEST => return self.waiting.push_back(slot),
            AdminOpcode::IDENTIFY => self.identify(&IdentifyRequest::parse(command)),
            AdminOpcode::GET_LOG_PAGE => log_page(&LogRequest::parse(command)),
            AdminOpcode::SET_FEATURES if command.fid() == Fid::NUMBER_OF_QUEUES => {
                return self.finish(slot, Status::SUCCESS, 0x0003_0003);
            }
            AdminOpcode::GET_FEATURES if command.fid() == Fid::KEEP_ALIVE_TIMER => {
                return self.finish(slot, Status::SUCCESS, 10_000);
            }
            AdminOpcode::SET_FEATURES | AdminOpcode::KEEP_ALIVE => Some(Vec::new()),
            _ => return self.finish(slot, generic::INVALID_OPCODE, 0),
        };
        match answer {
            Some(bytes) => {
                self.put(slot, &bytes);
                self.finish(slot, Status::SUCCESS, 0);
            }
            None => self.finish(slot, generic::INVALID_FIELD, 0),
        }
    }

    fn fabrics(&mut self, slot: Slot, command: &Command) -> (Status, u64) {
        let property = PropertyRequest::parse(command);
        match fabrics::fctype(command) {
            Fctype::CONNECT => {
                let field = fabrics::ConnectData::SUBNQN_OFFSET.into();
                self.discovery =
                    self.get(slot).get(field..).is_some_and(|nqn| nqn.starts_with(DISCOVERY_NQN.as_bytes()));
                assert_eq!(ConnectRequest::parse(command).qid, self.qid);
                (Status::SUCCESS, ConnectResponse { cntlid: 1, authreq: 0 }.dw0().into())
            }
            Fctype::PROPERTY_GET => {
                let value = match property.offset {
                    register::CAP => Cap::new().with_mqes(63).with_to(2).with_css(Cap::CSS_NVM).into_bits(),
                    register::VS => Vs::version(1, 4, 0).into_bits().into(),
                    register::CC => self.cc.into_bits().into(),
                    register::CSTS => {
                        let shut = if self.cc.shn() == 0 { Csts::SHST_NORMAL } else { Csts::SHST_COMPLETE };
                        Csts::new().with_rdy(self.cc.en()).with_shst(shut).into_bits().into()
                    }
                    _ => return (generic::INVALID_FIELD, 0),
                };
                (Status::SUCCESS, value)
            }
            Fctype::PROPERTY_SET if property.offset == register::CC => {
                self.cc = Cc::from_bits(property.value as u32);
                (Status::SUCCESS, 0)
            }
            _ => (generic::INVALID_FIELD, 0),
        }
    }

    fn identify(&self, request: &IdentifyRequest) -> Option<Vec<u8>> {
        match request.cns {
            Cns::CONTROLLER => Some(identify_controller(self.discovery).as_bytes().to_vec()),
            Cns::ACTIVE_NAMESPACES => Some(NamespaceList::collect(request.nsid, [1]).as_bytes().to_vec()),
            Cns::NAMESPACE if request.nsid == 1 => Some(identify_namespace().as_bytes().to_vec()),
            Cns::NAMESPACE_DESCRIPTORS => Some(vec![0; identify::SIZE]),
            _ => None,
        }
    }

    fn transfer(&self, slot: Slot, command: &Command) -> Status {
        let Some(arena) = &self.arena else { return generic::INTERNAL_ERROR };
        let inside = command.slba().checked_add(command.block_count().into()).is_some_and(|end| end <= BLOCKS);
        if !inside {
            return generic::LBA_OUT_OF_RANGE;
        }
        let mut at = command.slba() * u64::from(BLOCK);
        for range in &self.ranges[usize::from(slot)] {
            let len = range.len as usize;
            match NvmOpcode(command.opc) {
                NvmOpcode::READ => arena.region().copy_from(range.offset, &self.site.disk, at, len),
                NvmOpcode::WRITE => self.site.disk.copy_from(at, arena.region(), range.offset, len),
                _ => return generic::INVALID_OPCODE,
            }
            at += u64::from(range.len);
        }
        Status::SUCCESS
    }

    fn look(&mut self) -> Result<(), Down> {
        if self.down || self.site.dead.load(Ordering::Relaxed) {
            return Err(Down("the memory is gone".into()));
        }
        Ok(())
    }
}

/// What the model says of its controller.
pub fn identify_controller(discovery: bool) -> identify::Controller {
    let mut data = identify::Controller::new_zeroed();
    data.set_sn("MEMORY1");
    data.set_mn("Memory controller");
    (data.cntlid, data.mdts, data.nn, data.kas) = (1.into(), 1, u32::from(!discovery).into(), 1.into());
    (data.aerl, data.ioccsz, data.oaes) = (1, ((64 + 4096) / 16).into(), (1 << 8).into());
    data.cntrltype = if discovery { identify::Cntrltype::DISCOVERY } else { identify::Cntrltype::IO }.0;
    data
}

/// What the model says of its namespace.
pub fn identify_namespace() -> identify::Namespace {
    let mut data = identify::Namespace::new_zeroed();
    (data.nsze, data.ncap, data.nuse) = (BLOCKS.into(), BLOCKS.into(), BLOCKS.into());
    data.lbaf[0].lbads = 9;
    data
}

fn log_page(request: &LogRequest) -> Option<Vec<u8>> {
    matches!(request.lid, Lid::CHANGED_NAMESPACES | Lid::SMART).then(|| vec![0; request.bytes.min(4096) as usize])
}

impl IoQueue for MemoryQueue {
    fn needs(&self) -> Needs {
        Needs { slots: self.slots, alignment: 1, segments: 64, bytes: 1 << 20, backing: Backing::Any }
    }

    fn attach(&mut self, arena: &Arc<Arena>) -> Result<(), PrepareError> {
        self.arena = Some(arena.clone());
        Ok(())
    }

    fn prepare(&mut self, slot: Slot, data: &[Range]) -> Result<(), PrepareError> {
        if self.busy.get(usize::from(slot)) != Some(&false) {
            return Err(PrepareError(format!("slot {slot} is busy or does not exist")));
        }
        self.ranges[usize::from(slot)] = data.to_vec();
        Ok(())
    }

    fn submit(&mut self, ops: &[Op]) -> usize {
        ops.iter().take_while(|op| self.submit_raw(op.slot, &op.command())).count()
    }

    fn submit_raw(&mut self, slot: Slot, command: &Command) -> bool {
        let room = !self.stopped && self.busy.get(usize::from(slot)) == Some(&false);
        if room {
            self.busy[usize::from(slot)] = true;
            self.submitted.push_back((slot, *command));
            self.counters.submitted += 1;
        }
        room
    }

    fn commit(&mut self) -> Result<Progress, Down> {
        self.look()?;
        while let Some((slot, command)) = self.submitted.pop_front() {
            self.execute(slot, &command);
        }
        Ok(Progress::Complete)
    }

    fn reap(&mut self, done: &mut [Done]) -> Result<usize, Down> {
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
        while !self.waiting.is_empty() && !self.stopped {
            let Some(event) = lock(&self.site.events).pop_front() else { break };
            let slot = self.waiting.pop_front().expect("one waits");
            self.finish(slot, Status::SUCCESS, event.into());
        }
        let count = done.len().min(self.done.len());
        for (entry, over) in done.iter_mut().zip(self.done.drain(..count)) {
            self.busy[usize::from(over.slot)] = false;
            *entry = over;
        }
        self.counters.polls += 1;
        self.counters.completions += count as u64;
        if count == 0 && !self.stopped {
            self.look()?;
        }
        Ok(count)
    }

    fn stop(&mut self) {
        if std::mem::replace(&mut self.stopped, true) {
            return;
        }
        self.submitted.clear();
        self.done.clear();
        for slot in (0..self.slots).filter(|&slot| self.busy[usize::from(slot)]) {
            self.done.push_back(Done { slot, status: generic::ABORTED_SQ_DELETION, result: 0 });
        }
    }

    fn drained(&self) -> Drain {
        if self.busy.contains(&true) { Drain::Busy } else { Drain::Clean }
    }

    fn arm(&mut self) -> Result<Wait, Down> {
        self.look()?;
        Ok(if self.done.is_empty() { Wait::Fd { fd: self.wake.as_raw_fd(), writable: false } } else { Wait::Ready })
    }

    fn counters(&self) -> Counters {
        self.counters
    }
}
