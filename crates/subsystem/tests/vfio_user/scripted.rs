//! A host that speaks the protocol by itself and shares nothing: not even its doorbells are memory. What the device asks of it is
//! answered honestly, or left for the test to answer.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
};

use doorbell_spec::{
    command::{self, Command, Dptr},
    completion::Completion,
    register::{self, Csts},
    status::Status,
};
use doorbell_vfio_user::{
    Assembler, Message,
    wire::{
        Command as Verb, DmaAccess, DmaMapRequest, DmaUnmapRequest, Header, RegionAccess, Version, dma, flags, region,
    },
};
use zerocopy::{FromBytes, IntoBytes};

use super::host::{IOVA, PAGE, PATIENCE, Queue, ready};

/// Bytes of its memory, which the device sees at [`IOVA`].
pub const LEN: usize = 1 << 20;
/// Where its queues lie: admin submission, admin completion, the same of queue 1; then pages for data.
const QUEUES: [u64; 4] = [0, PAGE, 2 * PAGE, 3 * PAGE];
/// Where data begins.
pub const DATA: u64 = 4 * PAGE;

/// A host.
pub struct Scripted {
    stream: UnixStream,
    assembler: Assembler,
    next_id: u16,
    pub memory: Vec<u8>,
    /// Requests of the device that touch data are left to the test.
    pub holds_data: bool,
    /// Requests of the device that touch queues are left to the test.
    pub holds_queues: bool,
    pub held: Vec<Message>,
    /// Bytes of each request that was answered.
    pub counts: Vec<u64>,
    pub admin: Queue,
    pub io: Queue,
}

impl Scripted {
    /// Connects, takes at most so many bytes in a message, and maps its memory.
    pub fn connect(directory: &Path, most: u64) -> Self {
        let stream = UnixStream::connect(directory.join("cntrl")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let queue = |qid: u16| {
            let [sq, cq] = [QUEUES[usize::from(qid) * 2], QUEUES[usize::from(qid) * 2 + 1]];
            Queue { qid, entries: 16, sq, cq, ..Queue::nowhere() }
        };
        let mut host = Self {
            stream,
            assembler: Assembler::new(2 << 20, 16),
            next_id: 0,
            memory: vec![0; LEN],
            holds_data: false,
            holds_queues: false,
            held: Vec::new(),
            counts: Vec::new(),
            admin: queue(0),
            io: queue(1),
        };
        let json = format!("{{\"capabilities\":{{\"max_data_xfer_size\":{most}}}}}\0");
        host.ask(Verb::VERSION, &[Version { major: 0.into(), minor: 1.into() }.as_bytes(), json.as_bytes()].concat());
        host.map(IOVA, LEN as u64);
        host
    }

    /// Connects and enables the controller.
    pub fn enabled(directory: &Path, most: u64) -> Self {
        let mut host = Self::connect(directory, most);
        let csts = host.enable();
        assert!(csts.rdy() && !csts.cfs(), "{csts:?}");
        host
    }

    /// The same with I/O queue 1.
    pub fn with_queue(directory: &Path, most: u64) -> Self {
        let mut host = Self::enabled(directory, most);
        host.create();
        host
    }

    pub fn enable(&mut self) -> Csts {
        let last = self.admin.entries - 1;
        (self.admin.tail, self.admin.head, self.admin.phase) = (0, 0, true);
        (self.io.tail, self.io.head, self.io.phase) = (0, 0, true);
        self.memory[..DATA as usize].fill(0);
        self.store(register::AQA.into(), &(last << 16 | last).to_le_bytes());
        self.store(register::ASQ.into(), &(IOVA + self.admin.sq).to_le_bytes());
        self.store(register::ACQ.into(), &(IOVA + self.admin.cq).to_le_bytes());
        self.store(register::CC.into(), &ready().into_bits().to_le_bytes());
        self.csts()
    }

    pub fn create(&mut self) {
        let (last, [sq, cq]) = ((self.io.entries - 1) as u16, [self.io.sq, self.io.cq]);
        assert!(self.admin(command::create_io_cq(1, last, IOVA + cq, None)).is_success());
        assert!(self.admin(command::create_io_sq(1, last, IOVA + sq, 1, 0)).is_success());
    }

    pub fn csts(&mut self) -> Csts {
        let access =
            RegionAccess { offset: u64::from(register::CSTS).into(), region: region::BAR0.into(), count: 4.into() };
        let reply = self.ask(Verb::REGION_READ, access.as_bytes());
        Csts::from_bits(u32::from_le_bytes(*reply.after::<RegionAccess>().first_chunk().unwrap()))
    }

    /// Writes a register.
    pub fn store(&mut self, offset: u64, bytes: &[u8]) {
        let access =
            RegionAccess { offset: offset.into(), region: region::BAR0.into(), count: (bytes.len() as u32).into() };
        self.ask(Verb::REGION_WRITE, &[access.as_bytes(), bytes].concat());
    }

    pub fn map(&mut self, addr: u64, size: u64) {
        let request = DmaMapRequest {
            argsz: 32.into(),
            flags: (dma::READ | dma::WRITE).into(),
            offset: 0.into(),
            addr: addr.into(),
            size: size.into(),
        };
        self.ask(Verb::DMA_MAP, request.as_bytes());
    }

    pub fn unmap(&mut self, addr: u64, size: u64) {
        let request = DmaUnmapRequest { argsz: 24.into(), flags: 0.into(), addr: addr.into(), size: size.into() };
        self.ask(Verb::DMA_UNMAP, request.as_bytes());
    }

    /// Carries out an Admin command.
    pub fn admin(&mut self, command: Command) -> Status {
        self.submit(0, command);
        self.next(0).status()
    }

    /// Carries out an I/O command.
    pub fn run(&mut self, command: Command) -> Status {
        self.submit(1, command);
        self.next(1).status()
    }

    /// Submits a command to queue 0 or 1; returns its identifier.
    pub fn submit(&mut self, qid: u16, mut command: Command) -> u16 {
        let queue = if qid == 0 { &mut self.admin } else { &mut self.io };
        let cid = queue.next_cid;
        command.cid = cid.into();
        let at = (queue.sq + u64::from(queue.tail) * 64) as usize;
        self.memory[at..at + 64].copy_from_slice(command.as_bytes());
        (queue.tail, queue.next_cid) = ((queue.tail + 1) % queue.entries, cid + 1);
        let tail = queue.tail;
        self.store(register::sq_tail_doorbell(qid, 4), &tail.to_le_bytes());
        cid
    }

    /// Waits for the next completion of queue 0 or 1.
    pub fn next(&mut self, qid: u16) -> Completion {
        loop {
            if let Some(completion) = self.peek(qid) {
                return completion;
            }
            let message = self.hear().expect("the device has closed the connection");
            self.take(message);
        }
    }

    pub fn peek(&mut self, qid: u16) -> Option<Completion> {
        let queue = if qid == 0 { &mut self.admin } else { &mut self.io };
        let at = (queue.cq + u64::from(queue.head) * 16) as usize;
        let completion = Completion::read_from_bytes(&self.memory[at..at + 16]).unwrap();
        if (self.memory[at + 14] & 1 != 0) != queue.phase {
            return None;
        }
        queue.head += 1;
        if queue.head == queue.entries {
            (queue.head, queue.phase) = (0, !queue.phase);
        }
        let head = queue.head;
        self.store(register::cq_head_doorbell(qid, 4), &head.to_le_bytes());
        Some(completion)
    }

    /// Serves the device until so many of its requests are held.
    pub fn hold(&mut self, count: usize) {
        while self.held.len() < count {
            let message = self.hear().expect("the device has closed the connection");
            self.take(message);
        }
    }

    /// Sends a command of the client's and waits for its answer, which must be good.
    pub fn ask(&mut self, verb: Verb, body: &[u8]) -> Message {
        let id = self.next_id;
        self.next_id += 1;
        self.say(id, verb, 0, body);
        loop {
            let message = self.hear().expect("the device has closed the connection");
            if !message.is_reply() {
                self.take(message);
                continue;
            }
            let said = (message.header.msg_id.get(), message.command(), message.header.flags.get());
            assert_eq!(said, (id, verb, flags::REPLY));
            return message;
        }
    }

    /// Sends a message.
    pub fn say(&mut self, id: u16, verb: Verb, flags: u32, body: &[u8]) {
        let header = Header {
            msg_id: id.into(),
            cmd: verb.0.into(),
            msg_size: ((size_of::<Header>() + body.len()) as u32).into(),
            flags: flags.into(),
            error_no: if flags & doorbell_vfio_user::wire::flags::ERROR != 0 { 14 } else { 0 }.into(),
        };
        // Who has gone may have said why.
        let _ = self.stream.write_all(&[header.as_bytes(), body].concat());
    }

    /// The next message; none when the device has closed the connection.
    pub fn hear(&mut self) -> Option<Message> {
        loop {
            let room = self.assembler.want();
            let count = match self.stream.read(room) {
                Ok(0) => return None,
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("the device says nothing: {error}"),
            };
            if let Some(message) = self.assembler.received(count, []).unwrap() {
                return Some(message);
            }
        }
    }

    /// Deals with a request of the device's.
    pub fn take(&mut self, message: Message) {
        let access: DmaAccess = message.read().unwrap();
        let is_data = access.addr.get() >= IOVA + DATA;
        if (is_data && self.holds_data) || (!is_data && self.holds_queues) {
            self.held.push(message);
        } else {
            self.answer(&message);
        }
    }

    /// Answers a request of the device's honestly.
    pub fn answer(&mut self, message: &Message) {
        let access: DmaAccess = message.read().unwrap();
        let (at, len) = ((access.addr.get() - IOVA) as usize, access.count.get() as usize);
        self.counts.push(len as u64);
        let mut body = access.as_bytes().to_vec();
        match message.command() {
            Verb::DMA_READ => body.extend(&self.memory[at..at + len]),
            Verb::DMA_WRITE => self.memory[at..at + len].copy_from_slice(message.after::<DmaAccess>()),
            other => panic!("{other} from a device"),
        }
        self.say(message.header.msg_id.get(), message.command(), flags::REPLY, &body);
    }

    /// Answers a request of the device's by an error.
    pub fn deny(&mut self, message: &Message) {
        self.say(message.header.msg_id.get(), message.command(), flags::REPLY | flags::ERROR, &[]);
    }
}

/// A data pointer to pages of data, of which there are two at most, beginning with this one.
pub fn at(page: u64) -> Dptr {
    Dptr::prp(IOVA + DATA + page * PAGE, IOVA + DATA + (page + 1) * PAGE)
}
