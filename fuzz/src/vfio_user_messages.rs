//! What a host does that shares no memory: it answers each request for its memory as it likes, in any order or never, and unmaps,
//! resets and rings meanwhile. No command is over twice, what is written to it lies where it was asked for, and when it is gone all
//! memory is free again.

use std::{
    cell::RefCell,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
};

use doorbell_spec::{
    command::{self, Command, Dptr, NSID_ALL, SglDescriptor},
    completion::Completion,
    feature::Fid,
    identify::{Cns, Csi},
    register::{self, Cc},
};
use doorbell_subsystem::{Backend, Cooperative, NamespaceConfig, SubsystemConfig, Target, TargetConfig};
use doorbell_vfio_user::{
    Assembler, Message,
    wire::{
        Command as Verb, DmaAccess, DmaMapRequest, DmaUnmapRequest, Header, RegionAccess, Version, dma, flags, region,
    },
};
use zerocopy::{FromBytes, IntoBytes};

/// Where the device sees the host's memory, and bytes of it.
const IOVA: u64 = 0x10_0000;
const LEN: usize = 64 * PAGE;
const PAGE: usize = 4096;
/// Where the queues end and data begins; the page of a PRP list and that of an SGL.
const DATA: usize = 4 * PAGE;
const LIST: usize = 40 * PAGE;
const SGL: usize = 41 * PAGE;
/// Entries of the queues.
const ENTRIES: u32 = 16;
/// Bytes of a record.
const RECORD: usize = 4;
/// Passes of the target after each record.
const PASSES: usize = 4;

/// What a host takes in a message, by the first byte of the input.
const MOST: [u32; 8] = [1 << 20, 4096, 512, 64, 16, 1, 0, 1 << 20];

/// Records: what they do, and with what.
mod record {
    pub const ADMIN: u8 = 0;
    pub const IO: u8 = 1;
    pub const SGL: u8 = 2;
    pub const POKE: u8 = 3;
    pub const ANSWER: u8 = 4;
    pub const DENY: u8 = 5;
    pub const REVERSE: u8 = 6;
    pub const LIE: u8 = 7;
    pub const RING: u8 = 8;
    pub const MAP: u8 = 9;
    pub const CONFIGURE: u8 = 10;
    pub const HOLD: u8 = 11;
    pub const COUNT: u8 = 12;
}

struct Bench {
    target: Cooperative,
    folder: PathBuf,
    /// Free frames when namespace 1 is empty and nothing is under way.
    free: Option<usize>,
}

impl Bench {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!(
            "doorbell-fuzz-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        ));
        let namespace = |backend| NamespaceConfig { backend, block_size: 512 };
        let subsystem = SubsystemConfig {
            namespaces: vec![namespace(Backend::Ram { size: 64 << 10 }), namespace(Backend::Null { size: 1 << 40 })],
            max_transfer: 16 << 10,
            ..SubsystemConfig::new("nqn.2014-08.org.example:messages")
        };
        let mut config = TargetConfig::of(subsystem);
        config.vfio_user.push(folder.clone());
        Self { target: Target::cooperative(config).expect("a target").1, folder, free: None }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

thread_local! {
    static BENCH: RefCell<Bench> = RefCell::new(Bench::new());
}

/// A queue, as the host sees it.
#[derive(Default)]
struct Queue {
    tail: u32,
    head: u32,
    wraps: bool,
    next: u16,
    open: Vec<u16>,
}

struct Host<'a> {
    target: &'a mut Cooperative,
    stream: UnixStream,
    assembler: Assembler,
    next_id: u16,
    memory: Vec<u8>,
    queues: [Queue; 2],
    held: Vec<Message>,
    holds: bool,
    /// It does what makes completions mean nothing.
    is_wild: bool,
    is_over: bool,
    successes: usize,
}

/// The body.
pub fn run(data: &[u8]) {
    converse(data);
}

/// Plays a host; the number of its commands that succeed.
pub fn converse(data: &[u8]) -> usize {
    let Some((&mode, rest)) = data.split_first() else { return 0 };
    BENCH.with_borrow_mut(|bench| {
        let most = MOST[usize::from(mode % 8)];
        let stream = UnixStream::connect(bench.folder.join("cntrl")).expect("a device");
        let mut host = Host::new(&mut bench.target, stream, most);
        host.enable();
        // Every input begins with the same state.
        host.submit(1, command::write_zeroes(1, 0, 128, 0));
        host.run(40);
        if most > 0 && host.successes == 3 {
            let free = host.target.free_frames();
            assert_eq!(*bench.free.get_or_insert(free), free, "frames were lost");
        } else {
            assert!(most < 64, "an honest beginning");
        }
        for record in rest.as_chunks::<RECORD>().0.iter().take(256) {
            host.play(*record);
            host.run(PASSES);
            if host.is_over {
                break;
            }
        }
        host.holds = false;
        host.reverse();
        host.run(100);
        let successes = host.successes;
        drop(host.stream);
        // Let go of before the next comes.
        for _ in 0..200 {
            bench.target.pass();
        }
        successes
    })
}

impl<'a> Host<'a> {
    fn new(target: &'a mut Cooperative, stream: UnixStream, most: u32) -> Self {
        stream.set_nonblocking(true).expect("a socket");
        let mut host = Self {
            target,
            stream,
            assembler: Assembler::new(2 << 20, 1),
            next_id: 0,
            memory: vec![0; LEN],
            queues: Default::default(),
            held: Vec::new(),
            holds: false,
            is_wild: false,
            is_over: false,
            successes: 0,
        };
        let json = format!("{{\"capabilities\":{{\"max_data_xfer_size\":{most}}}}}\0");
        host.ask(Verb::VERSION, &[Version::default().as_bytes(), json.as_bytes()].concat());
        host.map(0, DATA);
        host.map(DATA, LEN - DATA);
        let entries: Vec<u64> = (1..32).map(|page| IOVA + (DATA + page * PAGE) as u64).collect();
        host.memory[LIST..LIST + 31 * 8].copy_from_slice(entries.as_bytes());
        let blocks: Vec<SglDescriptor> =
            (0..8).map(|at| SglDescriptor::data_block(IOVA + (DATA + at * 2 * PAGE) as u64, 512)).collect();
        host.memory[SGL..SGL + 8 * 16].copy_from_slice(blocks.as_bytes());
        host
    }

    /// Enables the controller and makes queue 1.
    fn enable(&mut self) {
        let last = ENTRIES - 1;
        self.queues = Default::default();
        self.memory[..DATA].fill(0);
        self.store(register::AQA.into(), &(last << 16 | last).to_le_bytes());
        self.store(register::ASQ.into(), &IOVA.to_le_bytes());
        self.store(register::ACQ.into(), &(IOVA + PAGE as u64).to_le_bytes());
        self.store(
            register::CC.into(),
            &Cc::new().with_en(true).with_iosqes(6).with_iocqes(4).into_bits().to_le_bytes(),
        );
        self.submit(0, command::create_io_cq(1, last as u16, IOVA + 3 * PAGE as u64, None));
        self.submit(0, command::create_io_sq(1, last as u16, IOVA + 2 * PAGE as u64, 1, 0));
        self.run(40);
    }

    fn play(&mut self, [what, a, b, c]: [u8; RECORD]) {
        let page = |at: u8| IOVA + (DATA + usize::from(at % 32) * PAGE) as u64;
        match what % record::COUNT {
            record::ADMIN => {
                let identify = command::identify(Cns(b % 4), 1, Csi::NVM, 0);
                let command = match a % 8 {
                    0 | 1 => Command { dptr: Dptr::prp(page(c), page(c.wrapping_add(1))), ..identify },
                    2 => Command {
                        dptr: Dptr::prp(page(c), 0),
                        ..command::set_features(Fid::HOST_BEHAVIOR_SUPPORT, false, 0, 0)
                    },
                    3 => command::create_io_cq(1, 15, IOVA + 3 * PAGE as u64, None),
                    4 => command::create_io_sq(1, 15, IOVA + 2 * PAGE as u64, 1, 0),
                    5 => command::delete_io_sq(1),
                    6 => command::delete_io_cq(1),
                    _ => command::abort(1, c.into()),
                };
                // Of a queue that is made again the ends are not told apart from those of the old one.
                self.is_wild |= (3..7).contains(&(a % 8));
                self.submit(0, command);
            }
            record::IO => {
                let blocks = u32::from(c % 32) + 1;
                let nsid = 1 + u32::from(b & 1);
                let slba = u64::from(b >> 1) % 96;
                let command = match a % 5 {
                    0 => command::read(nsid, slba, blocks, 0),
                    1 => command::write(nsid, slba, blocks, 0),
                    2 => command::compare(nsid, slba, blocks, 0),
                    3 => command::dataset_management(nsid, u16::from(c % 8) + 1, command::dsm::AD),
                    _ => command::flush(NSID_ALL),
                };
                let second = if blocks > 16 { IOVA + LIST as u64 } else { page(b.wrapping_add(1)) };
                self.submit(1, Command { dptr: Dptr::prp(page(b), second), ..command });
            }
            record::SGL => {
                let count = u32::from(b % 8) + 1;
                let mut command =
                    if a & 1 == 0 { command::read(1, 0, count, 0) } else { command::write(1, 0, count, 0) };
                command.set_sgl(match a & 2 {
                    0 => SglDescriptor::last_segment(IOVA + SGL as u64, count * 16),
                    _ => SglDescriptor::segment(IOVA + SGL as u64, u32::from(c) * 16),
                });
                self.submit(1, command);
            }
            record::POKE => {
                let at = (usize::from(a) << 8 | usize::from(b)) * 4 % LEN;
                self.is_wild |= at < DATA;
                self.memory[at..at + 4].fill(c);
            }
            record::ANSWER | record::DENY | record::LIE if self.held.is_empty() => {}
            record::ANSWER => {
                let message = self.held.remove(usize::from(a) % self.held.len());
                self.answer(&message);
            }
            record::DENY => {
                let message = self.held.remove(usize::from(a) % self.held.len());
                self.say(message.header.msg_id.get(), message.command(), flags::REPLY | flags::ERROR, &[]);
            }
            record::LIE => {
                let message = self.held.remove(usize::from(a) % self.held.len());
                let (id, verb) = (message.header.msg_id.get(), message.command());
                let access: DmaAccess = message.read().expect("a whole request");
                let body = |access: DmaAccess, len| [access.as_bytes(), &vec![c; len]].concat();
                let count = access.count.get() as usize;
                // It may be taken for true, and then an entry of a queue is whatever it says.
                self.is_wild = true;
                match b % 5 {
                    0 => self.say(id.wrapping_add(u16::from(c)), verb, flags::REPLY, &body(access, count)),
                    1 => self.say(id, verb, flags::REPLY, &body(access, usize::from(c))),
                    2 => self.say(id, Verb(c.into()), flags::REPLY, &body(access, count)),
                    3 => self.say(id, verb, flags::REPLY, &[c; 3]),
                    _ => {
                        let other = DmaAccess { addr: u64::from(c).into(), ..access };
                        self.say(id, verb, flags::REPLY, &body(other, count));
                    }
                }
            }
            record::REVERSE => self.reverse(),
            record::RING => {
                let qid = u16::from(a % 3);
                let offset =
                    if b & 1 == 0 { register::sq_tail_doorbell(qid, 4) } else { register::cq_head_doorbell(qid, 4) };
                self.is_wild = true;
                self.store(offset, &u32::from(c).to_le_bytes());
            }
            record::MAP => match a % 3 {
                0 => self.unmap(DATA, LEN - DATA),
                1 => self.map(DATA, LEN - DATA),
                _ => self.unmap(0, DATA),
            },
            record::CONFIGURE if a & 1 == 0 => self.store(register::CC.into(), &[0; 4]),
            record::CONFIGURE => {
                // As hosts do, so that the device is done with the queues' memory; what it waits to write there comes all the same.
                self.store(register::CC.into(), &[0; 4]);
                self.run(PASSES);
                self.is_wild |= !self.held.is_empty();
                self.enable();
            }
            _ => self.holds = !self.holds,
        }
    }

    fn reverse(&mut self) {
        while let Some(message) = self.held.pop() {
            self.answer(&message);
        }
    }

    fn map(&mut self, at: usize, size: usize) {
        let request = DmaMapRequest {
            argsz: 32.into(),
            flags: (dma::READ | dma::WRITE).into(),
            offset: 0.into(),
            addr: (IOVA + at as u64).into(),
            size: (size as u64).into(),
        };
        self.ask(Verb::DMA_MAP, request.as_bytes());
    }

    fn unmap(&mut self, at: usize, size: usize) {
        let addr = (IOVA + at as u64).into();
        let request = DmaUnmapRequest { argsz: 24.into(), flags: 0.into(), addr, size: (size as u64).into() };
        self.ask(Verb::DMA_UNMAP, request.as_bytes());
    }

    fn store(&mut self, offset: u64, bytes: &[u8]) {
        let access =
            RegionAccess { offset: offset.into(), region: region::BAR0.into(), count: (bytes.len() as u32).into() };
        self.ask(Verb::REGION_WRITE, &[access.as_bytes(), bytes].concat());
    }

    /// Puts a command in a ring, where there is room, and rings.
    fn submit(&mut self, qid: u16, mut command: Command) {
        let queue = &mut self.queues[usize::from(qid)];
        if queue.open.len() as u32 >= ENTRIES - 1 {
            return;
        }
        command.cid = queue.next.into();
        queue.open.push(queue.next);
        queue.next = (queue.next + 1) % 1000;
        let at = usize::from(qid) * 2 * PAGE + queue.tail as usize * 64;
        self.memory[at..at + 64].copy_from_slice(command.as_bytes());
        queue.tail = (queue.tail + 1) % ENTRIES;
        let tail = queue.tail;
        self.store(register::sq_tail_doorbell(qid, 4), &tail.to_le_bytes());
    }

    fn ask(&mut self, verb: Verb, body: &[u8]) {
        self.next_id = self.next_id.wrapping_add(1);
        self.say(self.next_id, verb, 0, body);
    }

    fn say(&mut self, id: u16, verb: Verb, flags: u32, body: &[u8]) {
        let header = Header {
            msg_id: id.into(),
            cmd: verb.0.into(),
            msg_size: ((size_of::<Header>() + body.len()) as u32).into(),
            flags: flags.into(),
            error_no: 14.into(),
        };
        // A device that has hung up does not hear.
        self.is_over |= self.stream.write_all(&[header.as_bytes(), body].concat()).is_err();
    }

    /// Lets the device work, and takes what it says.
    fn run(&mut self, passes: usize) {
        for _ in 0..passes {
            self.target.pass();
            while let Some(message) = self.hear() {
                if message.is_reply() {
                    continue;
                }
                match self.holds {
                    true => self.held.push(message),
                    false => self.answer(&message),
                }
            }
            self.reap();
        }
    }

    fn hear(&mut self) -> Option<Message> {
        loop {
            let count = match self.stream.read(self.assembler.want()) {
                Ok(count @ 1..) => count,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return None,
                _ => {
                    self.is_over = true;
                    return None;
                }
            };
            if let Some(message) = self.assembler.received(count, []).expect("a device that keeps to the protocol") {
                return Some(message);
            }
        }
    }

    fn answer(&mut self, message: &Message) {
        let access: DmaAccess = message.read().expect("a whole request");
        let (at, len) = (access.addr.get().wrapping_sub(IOVA) as usize, access.count.get() as usize);
        let data = message.after::<DmaAccess>();
        assert!(at < LEN && len > 0 && len <= LEN - at, "{len} bytes at {at:#x} of {LEN:#x} that are mapped");
        let mut body = access.as_bytes().to_vec();
        if message.command() == Verb::DMA_READ {
            body.extend(&self.memory[at..at + len]);
        } else {
            assert_eq!((message.command(), data.len()), (Verb::DMA_WRITE, len));
            self.memory[at..at + len].copy_from_slice(data);
        }
        self.say(message.header.msg_id.get(), message.command(), flags::REPLY, &body);
    }

    /// Takes completions.
    fn reap(&mut self) {
        for qid in 0..2u16 {
            loop {
                let queue = &mut self.queues[usize::from(qid)];
                let at = (usize::from(qid) * 2 + 1) * PAGE + queue.head as usize * 16;
                if (self.memory[at + 14] & 1 != 0) == queue.wraps {
                    break;
                }
                let completion = Completion::read_from_bytes(&self.memory[at..at + 16]).expect("a completion");
                let place = queue.open.iter().position(|&cid| cid == completion.cid.get());
                assert!(place.is_some() || self.is_wild, "nobody waits for {completion:?} of queue {qid}");
                if let Some(place) = place {
                    queue.open.swap_remove(place);
                }
                self.successes += usize::from(completion.status().is_success());
                queue.head = (queue.head + 1) % ENTRIES;
                queue.wraps ^= queue.head == 0;
                let head = queue.head;
                self.store(register::cq_head_doorbell(qid, 4), &head.to_le_bytes());
                if self.is_over {
                    return;
                }
            }
        }
    }
}

/// Seeds: a name, and the bytes.
pub fn seeds() -> Vec<crate::seeds::Seed> {
    use record::{ADMIN, ANSWER, CONFIGURE, DENY, HOLD, IO, LIE, MAP, POKE, REVERSE, RING, SGL};
    let write = [IO, 1, 0, 7];
    let read = [IO, 0, 0, 7];
    let long = [[IO, 1, 0, 31], [IO, 0, 0, 31], [IO, 2, 0, 31]].concat();
    let conversation = [
        [ADMIN, 0, 1, 3],
        [ADMIN, 2, 0, 3],
        write,
        read,
        [IO, 2, 0, 7],
        [IO, 0, 1, 7],
        [SGL, 1, 3, 0],
        [SGL, 0, 3, 0],
        [IO, 4, 0, 0],
    ]
    .concat();
    let held = [
        [HOLD, 0, 0, 0],
        write,
        read,
        [ADMIN, 0, 1, 3],
        [REVERSE, 0, 0, 0],
        [ANSWER, 1, 0, 0],
        [DENY, 0, 0, 0],
        [REVERSE, 0, 0, 0],
        [MAP, 0, 0, 0],
        [DENY, 0, 0, 0],
        [HOLD, 0, 0, 0],
        [MAP, 1, 0, 0],
        read,
    ]
    .concat();
    let ended = [
        write,
        [HOLD, 0, 0, 0],
        read,
        [ADMIN, 7, 0, 2],
        [CONFIGURE, 0, 0, 0],
        [REVERSE, 0, 0, 0],
        [HOLD, 0, 0, 0],
        [CONFIGURE, 1, 0, 0],
        write,
        [ADMIN, 5, 0, 0],
    ]
    .concat();
    let lies: Vec<u8> = (0..5).flat_map(|how| [[HOLD, 0, 0, 0], write, [LIE, 0, how, 9]].concat()).collect();
    let wild = [[RING, 1, 0, 9], [RING, 1, 1, 200], [POKE, 0, 9, 7], [POKE, 41, 0, 0x20], [MAP, 2, 0, 0]].concat();
    let mut seeds = Vec::new();
    for (name, most) in [("whole", 0), ("small", 3)] {
        let conversation = [&conversation[..], &long].concat();
        for (what, records) in
            [("conversation", &conversation), ("held", &held), ("ended", &ended), ("lies", &lies), ("wild", &wild)]
        {
            seeds.push(("vfio_user_messages", format!("{what}-{name}"), [&[most], &records[..]].concat()));
        }
    }
    seeds
}
