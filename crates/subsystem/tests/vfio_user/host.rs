//! A scripted host over vfio-user: the client of the protocol, and rings written by hand, so that a test can also write what no driver
//! would. Its memory is one region at [`IOVA`]; what it puts there it takes from its start, page by page.

use std::{
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use doorbell_platform::Region;
use doorbell_spec::{
    command::{self, Command, Dptr},
    completion::Completion,
    feature::{Fid, NumberOfQueues},
    register::{self, Cap, Cc, Csts},
    status::{Status, generic},
};
use doorbell_vfio_user::{Client, DeviceRegion, Error, wire::region};
use zerocopy::{FromBytes, IntoBytes};

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// Where the device sees the host's memory.
pub const IOVA: u64 = 0x7_0000_0000;
/// Bytes of it.
pub const MEMORY: usize = 16 << 20;
/// Bytes of a page.
pub const PAGE: u64 = 4096;

/// A pair of rings, in the memory of a host.
#[derive(Debug)]
pub struct Queue {
    pub qid: u16,
    pub entries: u32,
    pub sq: u64,
    pub cq: u64,
    pub tail: u32,
    pub head: u32,
    pub phase: bool,
    pub next_cid: u16,
}

/// A host.
pub struct Host {
    pub client: Client,
    pub memory: Arc<Region>,
    pub bar: DeviceRegion,
    pub admin: Queue,
    free: u64,
    dstrd: u8,
}

impl Host {
    /// Connects and shares its memory.
    pub fn connect(directory: &Path) -> Self {
        Self::try_connect(directory).unwrap()
    }

    pub fn try_connect(directory: &Path) -> Result<Self, Error> {
        Client::connect(directory, PATIENCE, Box::new(|| false)).and_then(Self::begin)
    }

    /// Begins on a connection.
    pub fn over(client: Client) -> Self {
        Self::begin(client).unwrap()
    }

    /// Connects with memory that it does not share, which is reached by messages alone, and enables the controller.
    pub fn unshared(directory: &Path) -> Self {
        let client = Client::connect(directory, PATIENCE, Box::new(|| false)).unwrap();
        let mut host = Self::with_memory(client, Region::new(MEMORY).unwrap()).unwrap();
        host.enable();
        host
    }

    fn begin(client: Client) -> Result<Self, Error> {
        Self::with_memory(client, Region::shared(MEMORY, false).unwrap())
    }

    fn with_memory(mut client: Client, memory: Region) -> Result<Self, Error> {
        let bar = client.region(region::BAR0)?;
        let memory = Arc::new(memory);
        client.dma_map(&memory, IOVA)?;
        let mut cap = [0; 8];
        client.read(region::BAR0, register::CAP.into(), &mut cap)?;
        let dstrd = Cap::from_bits(u64::from_le_bytes(cap)).dstrd();
        let mut host = Self { client, memory, bar, admin: Queue::nowhere(), free: 0, dstrd };
        host.admin = host.queue(0, 32);
        Ok(host)
    }

    /// Connects and enables the controller.
    pub fn enabled(directory: &Path) -> Self {
        let mut host = Self::connect(directory);
        host.enable();
        host
    }

    /// Pages of memory, as an offset in it; they are zero.
    pub fn pages(&mut self, count: u64) -> u64 {
        let at = self.free;
        self.free += count * PAGE;
        assert!(self.free <= MEMORY as u64, "a test takes more memory than there is");
        at
    }

    /// Memory for a queue.
    pub fn queue(&mut self, qid: u16, entries: u32) -> Queue {
        let (sq, cq) = (self.pages(u64::from(entries).div_ceil(64)), self.pages(u64::from(entries).div_ceil(256)));
        Queue { qid, entries, sq, cq, ..Queue::nowhere() }
    }

    pub fn read32(&mut self, offset: u32) -> u32 {
        let mut bytes = [0; 4];
        self.client.read(region::BAR0, offset.into(), &mut bytes).unwrap();
        u32::from_le_bytes(bytes)
    }

    pub fn write32(&mut self, offset: u32, value: u32) {
        self.client.write(region::BAR0, offset.into(), &value.to_le_bytes()).unwrap();
    }

    pub fn write64(&mut self, offset: u32, value: u64) {
        self.client.write(region::BAR0, offset.into(), &value.to_le_bytes()).unwrap();
    }

    pub fn csts(&mut self) -> Csts {
        Csts::from_bits(self.read32(register::CSTS))
    }

    /// Enables the controller with the admin queues of this host, from their start.
    pub fn enable(&mut self) {
        let entries = self.admin.entries - 1;
        self.admin = Queue { sq: self.admin.sq, cq: self.admin.cq, entries: self.admin.entries, ..Queue::nowhere() };
        self.memory.fill(self.admin.cq, PAGE as usize, 0);
        self.write32(register::AQA, entries << 16 | entries);
        self.write64(register::ASQ, IOVA + self.admin.sq);
        self.write64(register::ACQ, IOVA + self.admin.cq);
        self.write32(register::CC, ready().into_bits());
        let csts = self.csts();
        assert!(csts.rdy() && !csts.cfs(), "{csts:?}");
    }

    /// Creates a queue pair.
    pub fn create(&mut self, qid: u16, entries: u32) -> Queue {
        let queue = self.queue(qid, entries);
        self.create_as(&queue, None);
        queue
    }

    pub fn create_as(&mut self, queue: &Queue, vector: Option<u16>) {
        let last = (queue.entries - 1) as u16;
        self.done(command::create_io_cq(queue.qid, last, IOVA + queue.cq, vector));
        self.done(command::create_io_sq(queue.qid, last, IOVA + queue.sq, queue.qid, 0));
    }

    /// Carries out an Admin command that must succeed.
    pub fn done(&mut self, command: Command) -> u64 {
        let completion = self.ask(command);
        assert_eq!(completion.status(), generic::SUCCESS, "{command:?}");
        completion.result64()
    }

    /// Carries out an Admin command.
    pub fn ask(&mut self, command: Command) -> Completion {
        let mut admin = std::mem::replace(&mut self.admin, Queue::nowhere());
        let completion = self.run(&mut admin, command);
        self.admin = admin;
        completion
    }

    /// Submits an Admin command; returns its identifier.
    pub fn submit_admin(&mut self, command: Command) -> u16 {
        let mut admin = std::mem::replace(&mut self.admin, Queue::nowhere());
        let cid = self.put(&mut admin, command);
        self.ring(&admin);
        self.admin = admin;
        cid
    }

    /// Waits for the next completion of an Admin command.
    pub fn next_admin(&mut self) -> Completion {
        let mut admin = std::mem::replace(&mut self.admin, Queue::nowhere());
        let completion = self.next(&mut admin);
        self.admin = admin;
        completion
    }

    /// The same with a page of data; returns it.
    pub fn ask_page(&mut self, mut command: Command) -> Vec<u8> {
        let page = self.pages(1);
        command.dptr = Dptr::prp(IOVA + page, 0);
        self.done(command);
        self.get(page, PAGE as usize)
    }

    /// Asks for so many I/O queues.
    pub fn want_queues(&mut self, count: u32) {
        let wanted = NumberOfQueues { submission: count, completion: count };
        self.done(command::set_features(Fid::NUMBER_OF_QUEUES, false, 0, wanted.to_dword()));
    }

    /// Carries out one command.
    pub fn run(&mut self, queue: &mut Queue, command: Command) -> Completion {
        let cid = self.put(queue, command);
        self.ring(queue);
        let completion = self.next(queue);
        assert_eq!(completion.cid.get(), cid);
        completion
    }

    pub fn status(&mut self, queue: &mut Queue, command: Command) -> Status {
        self.run(queue, command).status()
    }

    /// Writes a command into the ring and says nothing; returns its identifier.
    pub fn put(&mut self, queue: &mut Queue, mut command: Command) -> u16 {
        let cid = queue.next_cid;
        queue.next_cid = (cid + 1) % 0xffff;
        command.cid = cid.into();
        self.memory.write(queue.sq + u64::from(queue.tail) * 64, command.as_bytes());
        queue.tail = (queue.tail + 1) % queue.entries;
        cid
    }

    /// Rings the submission doorbell.
    pub fn ring(&self, queue: &Queue) {
        self.store(register::sq_tail_doorbell(queue.qid, self.dstrd), queue.tail);
    }

    /// Rings the completion doorbell.
    pub fn free(&self, queue: &Queue) {
        self.store(register::cq_head_doorbell(queue.qid, self.dstrd), queue.head);
    }

    /// Writes to mapped registers.
    pub fn store(&self, offset: u64, value: u32) {
        let (doorbells, at) = self.bar.mapped(offset, 4).expect("doorbells are memory");
        doorbells.store_u32(at, value, Ordering::Release);
    }

    /// Waits for the next completion and takes it.
    pub fn next(&mut self, queue: &mut Queue) -> Completion {
        let completion = self.see(queue);
        self.free(queue);
        completion
    }

    /// The same without telling the device.
    pub fn see(&mut self, queue: &mut Queue) -> Completion {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(completion) = self.peek(queue) {
                return completion;
            }
            assert!(Instant::now() < end, "no completion in queue {}: {:?}", queue.qid, self.csts());
            self.client.serve().unwrap();
            std::thread::yield_now();
        }
    }

    /// The next completion, if it is there.
    pub fn peek(&self, queue: &mut Queue) -> Option<Completion> {
        let at = queue.cq + u64::from(queue.head) * 16;
        let status = self.memory.load_u64(at + 8, Ordering::Acquire);
        if (status >> 48 & 1 != 0) != queue.phase {
            return None;
        }
        let mut completion = [0; 16];
        self.memory.read(at, &mut completion);
        queue.head += 1;
        if queue.head == queue.entries {
            (queue.head, queue.phase) = (0, !queue.phase);
        }
        Some(Completion::read_from_bytes(&completion).unwrap())
    }

    pub fn get(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read(at, &mut bytes);
        bytes
    }
}

impl Queue {
    pub fn nowhere() -> Self {
        Self { qid: 0, entries: 0, sq: 0, cq: 0, tail: 0, head: 0, phase: true, next_cid: 7 }
    }
}

/// CC of a controller that runs.
pub fn ready() -> Cc {
    Cc::new().with_en(true).with_iosqes(6).with_iocqes(4)
}
