//! A double of an NVMe device: registers, rings and admin commands over memory of this process, on a thread of its own. It is strict:
//! what a host may not do is taken down in `misdeeds`, and each test ends by looking there. What it answers can be scripted.

use std::{
    collections::{BTreeMap, VecDeque},
    os::fd::{OwnedFd, RawFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use doorbell_platform::Region;
use doorbell_spec::{
    command::{AdminOpcode, Command, IdentifyRequest, QueueRequest},
    completion::Completion,
    feature::Fid,
    identify::{self, Cns, NamespaceList, ctratt},
    register::{self, Aqa, Cap, Cc, Cmbloc, Cmbmsc, Cmbsz, Csts, Vs},
    status::{Status, command_specific as specific, generic},
};
use rustix::event::{EventfdFlags, eventfd};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::{
    error::Cause,
    transport::ring::{BusMap, device::Device},
};

/// I/O queues it grants.
pub const QUEUES: u16 = 4;
/// Where its memory buffer is on the bus, and how long that is.
pub const BUFFER_BUS: u64 = 0xc000_0000;
const BUFFER: usize = 1 << 16;
const TICK: Duration = Duration::from_micros(100);

/// Something that the host does.
#[derive(Clone, Copy, Debug)]
pub enum Act<'a> {
    Read(u32),
    Write(u32, u64),
    Command(u16, &'a Command),
    Reset,
}

/// What the double is told to do about it.
pub enum Reply {
    /// What a good device does.
    Model,
    /// A register's value.
    Value(u64),
    /// A command is answered with this status.
    Status(Status),
    /// A command is answered with this data.
    Data(Vec<u8>),
    /// A command is answered with an identifier that nobody gave.
    Stranger,
    /// Nothing is done, no answer comes.
    Never,
    /// The device is removed.
    Gone,
}

type Script = Box<dyn FnMut(Act<'_>) -> Reply + Send>;

/// How the double is made.
#[derive(Clone, Copy, Debug)]
pub struct Features {
    pub ids: (u16, u16),
    pub vs: Vs,
    pub interrupts: bool,
    pub buffer: bool,
    pub shadow: bool,
    pub kas: u16,
}

impl Default for Features {
    fn default() -> Self {
        Self { ids: (0x1b36, 0x10), vs: Vs::version(1, 4, 0), interrupts: true, buffer: false, shadow: false, kas: 0 }
    }
}

pub struct Double {
    features: Features,
    doorbells: Arc<Region>,
    buffer: Arc<Region>,
    state: Mutex<State>,
    script: Mutex<Script>,
    gone: AtomicBool,
    silent: AtomicBool,
}

#[derive(Default)]
struct State {
    cc: Cc,
    shst: u8,
    aqa: Aqa,
    asq: u64,
    acq: u64,
    cmbmsc: Cmbmsc,
    mapped: Vec<Arc<Region>>,
    sqs: BTreeMap<u16, Sq>,
    cqs: BTreeMap<u16, Cq>,
    events: VecDeque<u16>,
    waiting: VecDeque<u16>,
    shadow: Option<u64>,
    interrupts: BTreeMap<u16, Arc<OwnedFd>>,
    seen: Vec<(u16, Command)>,
    misdeeds: Vec<String>,
    resets: u32,
}

struct Sq {
    base: u64,
    entries: u16,
    head: u16,
    cqid: u16,
}

struct Cq {
    base: u64,
    entries: u16,
    tail: u16,
    phase: bool,
    vector: Option<u16>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Double {
    /// A device that answers as a good one does, but for what the script says.
    pub fn new(features: Features, script: impl FnMut(Act<'_>) -> Reply + Send + 'static) -> Arc<Self> {
        let double = Arc::new(Self {
            features,
            doorbells: Arc::new(Region::new(8192).unwrap()),
            buffer: Arc::new(Region::new(BUFFER).unwrap()),
            state: Mutex::default(),
            script: Mutex::new(Box::new(script)),
            gone: AtomicBool::new(false),
            silent: AtomicBool::new(false),
        });
        let weak = Arc::downgrade(&double);
        thread::spawn(move || run(&weak));
        double
    }

    /// The commands it was sent, by their queues.
    pub fn seen(&self) -> Vec<(u16, Command)> {
        lock(&self.state).seen.clone()
    }

    /// What the host should not have done.
    pub fn misdeeds(&self) -> Vec<String> {
        lock(&self.state).misdeeds.clone()
    }

    /// Identifiers of the I/O queues that it has.
    pub fn queues(&self) -> Vec<u16> {
        lock(&self.state).sqs.keys().copied().filter(|&qid| qid > 0).collect()
    }

    /// The address of a submission queue on the bus.
    pub fn commands_at(&self, qid: u16) -> Option<u64> {
        lock(&self.state).sqs.get(&qid).map(|sq| sq.base)
    }

    /// Pieces of memory that it reaches.
    pub fn mapped(&self) -> usize {
        lock(&self.state).mapped.len()
    }

    pub fn cc(&self) -> Cc {
        lock(&self.state).cc
    }

    pub fn resets(&self) -> u32 {
        lock(&self.state).resets
    }

    /// Takes it out.
    pub fn remove(&self) {
        self.gone.store(true, Ordering::Release);
    }

    fn ask(&self, act: Act<'_>) -> Reply {
        let reply = lock(&self.script)(act);
        if matches!(reply, Reply::Gone) {
            self.remove();
        }
        reply
    }

    fn identify(&self) -> identify::Controller {
        let mut data = identify::Controller::new_zeroed();
        data.set_sn("DOUBLE1");
        data.set_mn("Double");
        (data.cntlid, data.mdts, data.nn, data.aerl) = (7.into(), 5, 1.into(), 1);
        (data.kas, data.oacs) = (self.features.kas.into(), (u16::from(self.features.shadow) << 8).into());
        data.ctratt = ctratt::ELBAS.into();
        data.rtd3e = 2_000_000.into();
        data.vs[3] = 5;
        data
    }
}

fn run(double: &Weak<Double>) {
    while let Some(double) = double.upgrade() {
        if !double.gone.load(Ordering::Acquire) {
            double.pass();
        }
        drop(double);
        thread::sleep(TICK);
    }
}

/// Two bytes where the specification has a doorbell.
fn doorbell(region: &Region, offset: u64) -> u16 {
    region.load_u32(offset, Ordering::Acquire) as u16
}

impl State {
    fn misdeed(&mut self, what: String) {
        self.misdeeds.push(what);
    }

    fn enabled(&self) -> bool {
        self.cc.en() && self.shst == 0
    }

    /// The region that holds `len` bytes at a bus address, and where.
    fn find(&mut self, bus: u64, len: u64, buffer: &Arc<Region>) -> Option<(Arc<Region>, u64)> {
        let inside = |at: u64, region: &Arc<Region>| bus >= at && bus + len <= at + region.len() as u64;
        if self.cmbmsc.cmse() && inside(self.cmbmsc.cba() << 12, buffer) {
            return Some((buffer.clone(), bus - (self.cmbmsc.cba() << 12)));
        }
        let found = self.mapped.iter().find(|region| inside(region.address(), region)).cloned();
        if found.is_none() {
            self.misdeed(format!("{len} bytes at {bus:x}h are not mapped"));
        }
        found.map(|region| (region.clone(), bus - region.address()))
    }

    fn put(&mut self, command: &Command, bytes: &[u8], buffer: &Arc<Region>) {
        // Page by page; the host's admin commands have at most 64 KiB.
        let list = command.dptr.prp2();
        for (index, page) in bytes.chunks(4096).enumerate() {
            let bus = match index {
                0 => command.dptr.prp1(),
                1 if bytes.len() <= 8192 => list,
                _ => {
                    let Some((region, at)) = self.find(list, 8 * bytes.len() as u64 / 4096, buffer) else { return };
                    region.load_u64(at + 8 * (index as u64 - 1), Ordering::Acquire)
                }
            };
            if let Some((region, at)) = self.find(bus, page.len() as u64, buffer) {
                region.write(at, page);
            }
        }
    }

    fn complete(&mut self, qid: u16, cid: u16, status: Status, result: u64, buffer: &Arc<Region>) {
        let Some(sq) = self.sqs.get(&qid) else { return };
        let (cqid, head) = (sq.cqid, sq.head);
        let Some(cq) = self.cqs.get_mut(&cqid) else { return };
        let mut entry = Completion::new(cid, head, status, result);
        (entry.sqid, entry.status) = (qid.into(), status.to_field(cq.phase).into());
        let (at, vector) = (cq.base + 16 * u64::from(cq.tail), cq.vector);
        cq.tail = (cq.tail + 1) % cq.entries;
        cq.phase ^= cq.tail == 0;
        let halves: [u64; 2] = zerocopy::transmute!(entry);
        if let Some((region, at)) = self.find(at, 16, buffer) {
            region.store_u64(at, halves[0], Ordering::Relaxed);
            region.store_u64(at + 8, halves[1], Ordering::Release);
        }
        if let Some(fd) = vector.and_then(|vector| self.interrupts.get(&vector)) {
            let _ = rustix::io::write(fd, &1u64.to_ne_bytes());
        }
    }

    fn forget(&mut self) {
        self.sqs.clear();
        self.cqs.clear();
        self.waiting.clear();
        self.shadow = None;
    }
}

impl Double {
    /// Looks at every submission queue once.
    fn pass(&self) {
        let mut state = lock(&self.state);
        if !state.enabled() {
            return;
        }
        let qids: Vec<_> = state.sqs.keys().copied().collect();
        for qid in qids {
            loop {
                let at = register::sq_tail_doorbell(qid, 0);
                let tail = match state.shadow.filter(|_| qid > 0) {
                    None => doorbell(&self.doorbells, at),
                    Some(bus) => {
                        let bus = bus + at - u64::from(register::DOORBELLS);
                        let Some((region, at)) = state.find(bus, 4, &self.buffer) else { return };
                        doorbell(&region, at)
                    }
                };
                let Some(sq) = state.sqs.get_mut(&qid).filter(|sq| sq.head != tail) else { break };
                if tail >= sq.entries {
                    let what = format!("doorbell of queue {qid} is {tail} of {}", sq.entries);
                    return state.misdeed(what);
                }
                let at = sq.base + 64 * u64::from(sq.head);
                sq.head = (sq.head + 1) % sq.entries;
                let Some((region, at)) = state.find(at, 64, &self.buffer) else { return };
                let mut bytes = [0; 64];
                region.read(at, &mut bytes);
                let command = Command::read_from_bytes(&bytes).unwrap();
                state.seen.push((qid, command));
                self.execute(&mut state, qid, &command);
            }
        }
        while !state.events.is_empty() && !state.waiting.is_empty() {
            let (event, cid) = (state.events.pop_front().unwrap(), state.waiting.pop_front().unwrap());
            state.complete(0, cid, Status::SUCCESS, event.into(), &self.buffer);
        }
    }

    fn execute(&self, state: &mut State, qid: u16, command: &Command) {
        let cid = command.cid.get();
        let (cid, status, result) = match self.ask(Act::Command(qid, command)) {
            Reply::Never | Reply::Gone => return,
            Reply::Stranger => (cid ^ 0x4000, Status::SUCCESS, 0),
            Reply::Status(status) => (cid, status, 0),
            Reply::Value(value) => (cid, Status::SUCCESS, value),
            Reply::Data(bytes) => {
                state.put(command, &bytes, &self.buffer);
                (cid, Status::SUCCESS, 0)
            }
            Reply::Model if qid > 0 => (cid, Status::SUCCESS, 0),
            Reply::Model => match self.admin(state, command) {
                Some((status, result)) => (cid, status, result),
                None => return,
            },
        };
        state.complete(qid, cid, status, result, &self.buffer);
    }

    /// What an admin command is answered with; nothing for one that waits.
    fn admin(&self, state: &mut State, command: &Command) -> Option<(Status, u64)> {
        let ok = Some((Status::SUCCESS, 0));
        let request = QueueRequest::parse(command);
        let no = |status: Status| Some((status, 0));
        match AdminOpcode(command.opc) {
            AdminOpcode::ASYNC_EVENT_REQUEST => {
                state.waiting.push_back(command.cid.get());
                None
            }
            AdminOpcode::IDENTIFY => {
                let IdentifyRequest { cns, nsid, .. } = IdentifyRequest::parse(command);
                let bytes = match cns {
                    Cns::CONTROLLER => self.identify().as_bytes().to_vec(),
                    Cns::ACTIVE_NAMESPACES => NamespaceList::collect(nsid, [1]).as_bytes().to_vec(),
                    Cns::NAMESPACE_DESCRIPTORS => vec![0; identify::SIZE],
                    Cns::NAMESPACE if nsid == 1 => {
                        let mut data = identify::Namespace::new_zeroed();
                        (data.nsze, data.ncap, data.nuse) = (2048.into(), 2048.into(), 2048.into());
                        data.lbaf[0].lbads = 9;
                        data.as_bytes().to_vec()
                    }
                    _ => return no(generic::INVALID_FIELD),
                };
                state.put(command, &bytes, &self.buffer);
                ok
            }
            AdminOpcode::SET_FEATURES if command.fid() == Fid::NUMBER_OF_QUEUES => {
                let both = u64::from(QUEUES - 1);
                Some((Status::SUCCESS, both << 16 | both))
            }
            AdminOpcode::SET_FEATURES | AdminOpcode::KEEP_ALIVE => ok,
            AdminOpcode::GET_FEATURES => Some((Status::SUCCESS, 5000)),
            AdminOpcode::DOORBELL_BUFFER_CONFIG => {
                state.shadow = Some(command.dptr.prp1());
                ok
            }
            AdminOpcode::CREATE_IO_CQ => {
                let entries = request.qsize + 1;
                let vector = request.ien.then_some(request.cqid_or_vector);
                if request.qid == 0 || request.qid > QUEUES || state.cqs.contains_key(&request.qid) {
                    return no(specific::INVALID_QUEUE_IDENTIFIER);
                }
                if !request.pc
                    || !request.prp1.is_multiple_of(4096)
                    || vector.is_some_and(|v| !state.interrupts.contains_key(&v))
                {
                    state.misdeed(format!("Create I/O Completion Queue {request:x?}"));
                }
                state.find(request.prp1, 16 * u64::from(entries), &self.buffer);
                state.cqs.insert(request.qid, Cq { base: request.prp1, entries, tail: 0, phase: true, vector });
                ok
            }
            AdminOpcode::CREATE_IO_SQ => {
                if request.qid == 0 || state.sqs.contains_key(&request.qid) {
                    return no(specific::INVALID_QUEUE_IDENTIFIER);
                }
                if !request.pc || !request.prp1.is_multiple_of(4096) || !state.cqs.contains_key(&request.cqid_or_vector)
                {
                    state.misdeed(format!("Create I/O Submission Queue {request:x?}"));
                }
                let (entries, cqid) = (request.qsize + 1, request.cqid_or_vector);
                state.find(request.prp1, 64 * u64::from(entries), &self.buffer);
                // A new queue begins at 0, whatever is in the register.
                self.doorbells.store_u32(register::sq_tail_doorbell(request.qid, 0), 0, Ordering::Release);
                state.sqs.insert(request.qid, Sq { base: request.prp1, entries, head: 0, cqid });
                ok
            }
            AdminOpcode::DELETE_IO_SQ => match state.sqs.remove(&request.qid) {
                Some(_) => ok,
                None => no(specific::INVALID_QUEUE_IDENTIFIER),
            },
            AdminOpcode::DELETE_IO_CQ => {
                if state.sqs.values().any(|sq| sq.cqid == request.qid) {
                    state.misdeed(format!("completion queue {} goes before its submission queue", request.qid));
                }
                match state.cqs.remove(&request.qid) {
                    Some(_) => ok,
                    None => no(specific::INVALID_QUEUE_IDENTIFIER),
                }
            }
            other => {
                state.misdeed(format!("{} is not expected", other.name()));
                no(generic::INVALID_OPCODE)
            }
        }
    }

    fn enable(&self, state: &mut State, cc: Cc) {
        let right = cc.iosqes() == 6 && cc.iocqes() == 4 && cc.mps() == 0 && cc.css() == 0 && cc.ams() == 0;
        if !right
            || state.aqa.asqs() < 1
            || state.aqa.acqs() < 1
            || !state.asq.is_multiple_of(4096)
            || !state.acq.is_multiple_of(4096)
        {
            state.misdeed(format!("enabled with {cc:?}, {:?}, ASQ {:x}h, ACQ {:x}h", state.aqa, state.asq, state.acq));
        }
        let (asqs, acqs) = (state.aqa.asqs() + 1, state.aqa.acqs() + 1);
        state.find(state.asq, 64 * u64::from(asqs), &self.buffer);
        state.find(state.acq, 16 * u64::from(acqs), &self.buffer);
        // A reset clears the doorbells.
        self.doorbells.fill(4096, 4096, 0);
        state.forget();
        state.sqs.insert(0, Sq { base: state.asq, entries: asqs, head: 0, cqid: 0 });
        state.cqs.insert(0, Cq { base: state.acq, entries: acqs, tail: 0, phase: true, vector: Some(0) });
    }
}

impl Device for Double {
    fn ids(&self) -> (u16, u16) {
        self.features.ids
    }

    fn read(&self, offset: u32, eight: bool) -> Result<u64, Cause> {
        let ones = if eight { u64::MAX } else { u32::MAX.into() };
        let reply = self.ask(Act::Read(offset));
        if self.gone.load(Ordering::Acquire) {
            return Ok(ones);
        }
        if let Reply::Value(value) = reply {
            return Ok(value);
        }
        let state = lock(&self.state);
        let visible = self.features.buffer && (state.cmbmsc.cre() || self.features.vs < Vs::version(1, 4, 0));
        Ok(match offset {
            register::CAP => {
                let cmbs = self.features.buffer && self.features.vs >= Vs::version(1, 4, 0);
                Cap::new().with_mqes(255).with_to(1).with_css(Cap::CSS_NVM).with_cmbs(cmbs).into_bits()
            }
            register::VS => self.features.vs.into_bits().into(),
            register::CC => state.cc.into_bits().into(),
            register::CSTS => Csts::new().with_rdy(state.cc.en()).with_shst(state.shst).into_bits().into(),
            register::CMBSZ if visible => Cmbsz::new().with_sqs(true).with_sz(BUFFER as u32 >> 12).into_bits().into(),
            register::CMBLOC if visible => Cmbloc::new().with_bir(2).into_bits().into(),
            _ => 0,
        })
    }

    fn write(&self, offset: u32, _: bool, value: u64) -> Result<(), Cause> {
        if !matches!(self.ask(Act::Write(offset, value)), Reply::Model) || self.gone.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut state = lock(&self.state);
        let enabled = state.cc.en();
        match offset {
            register::AQA | register::ASQ | register::ACQ if enabled => {
                state.misdeed(format!("register {offset:x}h is written while it is enabled"));
            }
            register::AQA => state.aqa = Aqa::from_bits(value as u32),
            register::ASQ => state.asq = value,
            register::ACQ => state.acq = value,
            register::CMBMSC => state.cmbmsc = Cmbmsc::from_bits(value),
            register::CC => {
                let cc = Cc::from_bits(value as u32);
                match (enabled, cc.en()) {
                    (false, true) => self.enable(&mut state, cc),
                    (true, false) => {
                        state.forget();
                        state.shst = Csts::SHST_NORMAL;
                    }
                    _ => {}
                }
                if cc.shn() != 0 {
                    state.shst = Csts::SHST_COMPLETE;
                }
                state.cc = cc;
            }
            _ => state.misdeed(format!("register {offset:x}h is written")),
        }
        Ok(())
    }

    fn doorbells(&self) -> (Arc<Region>, u64) {
        (self.doorbells.clone(), register::DOORBELLS.into())
    }

    fn map(&self, region: &Arc<Region>) -> Result<BusMap, String> {
        let mut state = lock(&self.state);
        if region.file().is_none() {
            state.misdeed("memory that is not shared is mapped".into());
        }
        if !state.mapped.iter().any(|known| Arc::ptr_eq(known, region)) {
            state.mapped.push(region.clone());
        }
        Ok(BusMap::contiguous(region.address()))
    }

    fn unmap(&self, region: &Arc<Region>) {
        let mut state = lock(&self.state);
        let (from, to) = (region.address(), region.address() + region.len() as u64);
        let bases = state.sqs.values().map(|sq| sq.base).chain(state.cqs.values().map(|cq| cq.base));
        if state.enabled()
            && bases.into_iter().any(|base| (from..to).contains(&base))
            && !self.silent.load(Ordering::Acquire)
        {
            state.misdeed("memory of a queue is taken away".into());
        }
        state.mapped.retain(|known| !Arc::ptr_eq(known, region));
    }

    fn interrupt(&self, vector: u16) -> Result<Option<Arc<OwnedFd>>, String> {
        if !self.features.interrupts || vector > QUEUES {
            return Ok(None);
        }
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|why| why.to_string())?;
        let fd = Arc::new(fd);
        lock(&self.state).interrupts.insert(vector, fd.clone());
        Ok(Some(fd))
    }

    fn reset(&self) -> Result<(), String> {
        if matches!(self.ask(Act::Reset), Reply::Never) {
            return Err("it takes no reset".into());
        }
        let mut state = lock(&self.state);
        state.forget();
        (state.cc, state.resets) = (Cc::new(), state.resets + 1);
        Ok(())
    }

    fn silence(&self) {
        self.silent.store(true, Ordering::Release);
    }

    fn gone(&self) -> Option<String> {
        self.gone.load(Ordering::Acquire).then(|| "the double was removed".into())
    }

    fn farewell(&self) -> Option<RawFd> {
        None
    }

    fn doorbells_are_dear(&self) -> bool {
        true
    }

    fn needs_huge_pages(&self) -> bool {
        false
    }

    fn memory(&self, bar: u8) -> Result<Option<(Arc<Region>, u64)>, String> {
        Ok((bar == 2).then(|| (self.buffer.clone(), BUFFER_BUS)))
    }
}
