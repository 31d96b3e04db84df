//! What a vfio-user client sends to a device, and what a device's process sends to a client. Each command is answered at most once, in
//! order, whatever else happens.

use std::{
    cell::OnceCell,
    fs::File,
    io::{IoSlice, Read},
    mem::MaybeUninit,
    net::Shutdown,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::Arc,
    time::Duration,
};

use doorbell_platform::{Range, Region};
use doorbell_vfio_user::{
    Access, Assembler, Client, Connection, Description, Errno, Error, Event, IrqData, Message, RegionDescription,
    wire::{self, Command, Header, Version, flags, irq, region},
};
use rustix::{
    event::{EventfdFlags, eventfd},
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg},
};
use zerocopy::IntoBytes;

/// The mode bit for a peer that begins with a version.
const VERSION: u8 = 1;
/// The mode bit for records, from which messages of the right size are made, instead of a stream.
const RECORDS: u8 = 2;

/// Flags of a record: what the header says, and another number than the next one.
const REPLY: u8 = 1;
const NO_REPLY: u8 = 2;
const ERROR: u8 = 4;
const ODD: u8 = 8;

/// Descriptors of a record: a number, and of what.
const MEMORY: u8 = 0x01;
const EVENTFD: u8 = 0x11;

const PATIENCE: Duration = Duration::from_millis(20);
const MEMORY_LEN: usize = 0x1_0000;

/// What a part of the input is sent as.
struct Piece {
    bytes: Vec<u8>,
    fds: u8,
}

/// The input as a peer sends it.
fn pieces(mode: u8, rest: &[u8]) -> Vec<Piece> {
    let (mut pieces, mut commands, mut replies) = (Vec::new(), 0, 0);
    if mode & RECORDS == 0 {
        pieces.push(Piece { bytes: rest.to_vec(), fds: 0 });
        return pieces;
    }
    let mut rest = rest;
    while let Some((&[command, bits, fds, len], after)) = rest.split_first_chunk() {
        let (body, after) = after.split_at(usize::from(len).min(after.len()));
        let next: &mut u16 = if bits & REPLY != 0 { &mut replies } else { &mut commands };
        let id = if bits & ODD != 0 { *next + 100 } else { *next };
        *next += 1;
        pieces.push(Piece { bytes: message(id, command, bits, body), fds });
        rest = after;
    }
    pieces
}

fn message(id: u16, command: u8, bits: u8, body: &[u8]) -> Vec<u8> {
    let said = [(REPLY, flags::REPLY), (NO_REPLY, flags::NO_REPLY), (ERROR, flags::ERROR)];
    let flags: u32 = said.into_iter().filter(|(bit, _)| bits & bit != 0).map(|(_, flag)| flag).sum();
    let header = Header {
        msg_id: id.into(),
        cmd: u16::from(command).into(),
        msg_size: ((size_of::<Header>() + body.len()) as u32).into(),
        flags: flags.into(),
        error_no: 22.into(),
    };
    [header.as_bytes(), body].concat()
}

/// Descriptors that go along, and the device whose client is tried.
struct Things {
    memory: Region,
    eventfd: OwnedFd,
    null: File,
    device: Arc<Description>,
}

thread_local! {
    static THINGS: OnceCell<Things> = const { OnceCell::new() };
}

fn with_things<T>(work: impl FnOnce(&Things) -> T) -> T {
    THINGS.with(|things| work(things.get_or_init(Things::new)))
}

impl Things {
    fn new() -> Self {
        let mut device = Description { regions: vec![RegionDescription::default(); 9], irqs: vec![0, 0, 4, 0, 0] };
        device.regions[0] = RegionDescription {
            size: 8192,
            readable: true,
            writable: true,
            memory: Some(Arc::new(Region::shared(8192, false).expect("memory"))),
            areas: vec![Range { offset: 4096, len: 4096 }],
        };
        device.regions[7] = RegionDescription { size: 256, readable: true, ..RegionDescription::default() };
        Self {
            memory: Region::shared(MEMORY_LEN, false).expect("memory"),
            eventfd: eventfd(0, EventfdFlags::NONBLOCK).expect("an eventfd"),
            null: File::open("/dev/null").expect("the null device"),
            device: Arc::new(device),
        }
    }

    /// Sends a piece with its descriptors; whether the socket took all of it.
    fn send(&self, socket: &UnixStream, piece: &Piece) -> bool {
        let fd = match piece.fds >> 4 {
            0 => self.memory.file().expect("a file"),
            1 => self.eventfd.as_fd(),
            _ => self.null.as_fd(),
        };
        let fds = [fd; 20];
        let count = usize::from(piece.fds & 15);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(20))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if count > 0 {
            assert!(control.push(SendAncillaryMessage::ScmRights(&fds[..count])));
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        sendmsg(socket, &[IoSlice::new(&piece.bytes)], &mut control, flags) == Ok(piece.bytes.len())
    }
}

/// The messages of a stream, as far as it holds any, and whether it ends with one.
fn messages(stream: &[u8]) -> (Vec<Message>, bool) {
    let mut assembler = Assembler::new(32 + (1 << 20), 0);
    let (mut rest, mut found) = (stream, Vec::new());
    while !rest.is_empty() {
        let room = assembler.want();
        let count = room.len().min(rest.len());
        room[..count].copy_from_slice(&rest[..count]);
        rest = &rest[count..];
        match assembler.received(count, []) {
            Ok(message) => found.extend(message),
            Err(_) => return (found, false),
        }
    }
    (found, !assembler.is_within_message())
}

fn drain(socket: &UnixStream, said: &mut Vec<u8>) {
    let mut bytes = [0; 16384];
    while let Ok(count @ 1..) = (&mut &*socket).read(&mut bytes) {
        said.extend(&bytes[..count]);
    }
}

/// Holds the replies in `said` against the commands in `heard`; the number of those that were carried out.
fn compare(heard: &[u8], said: &[u8], all: bool) -> usize {
    let is_asked = |message: &Message| !message.is_reply() && message.header.flags.get() & flags::NO_REPLY == 0;
    let name = |message: &Message| (message.header.msg_id.get(), message.header.cmd.get());
    let asked: Vec<_> = messages(heard).0.iter().filter(|message| is_asked(message)).map(name).collect();
    let (said, whole) = messages(said);
    let replies: Vec<&Message> = said.iter().filter(|message| message.is_reply()).collect();
    let answered: Vec<_> = replies.iter().copied().map(name).collect();
    assert!(asked.starts_with(&answered), "commands {asked:?} have replies {answered:?}");
    assert!(!all || (whole && answered.len() == asked.len()), "commands {asked:?} have only replies {answered:?}");
    replies.iter().filter(|message| message.header.flags.get() & flags::ERROR == 0).count()
}

/// What comes to a device.
pub fn to_server(data: &[u8]) {
    serve(data);
}

/// What comes to a client.
pub fn to_client(data: &[u8]) {
    ask(data);
}

/// Gives an input to a device; the number of commands carried out.
pub fn serve(data: &[u8]) -> usize {
    let Some((&mode, rest)) = data.split_first() else { return 0 };
    with_things(|things| {
        let (near, far) = UnixStream::pair().expect("sockets");
        near.set_nonblocking(true).expect("a socket");
        let mut connection = Connection::new(far, things.device.clone()).expect("a socket");
        let mut pieces = pieces(mode, rest);
        if mode & VERSION != 0 {
            let bytes = message(0, Command::VERSION.0 as u8, 0, Version::default().as_bytes());
            pieces.insert(0, Piece { bytes, fds: 0 });
        }
        let (mut heard, mut said, mut is_over) = (Vec::new(), Vec::new(), false);
        for piece in pieces.iter().take_while(|piece| !piece.bytes.is_empty()) {
            assert!(things.send(&near, piece), "a device that leaves what it is sent");
            heard.extend(&piece.bytes);
            // A call takes a message at least.
            for _ in 0..=piece.bytes.len() / size_of::<Header>() {
                match connection.receive() {
                    Ok(Some(event)) => play(&mut connection, event),
                    Ok(None) => {}
                    Err(_) => is_over = true,
                }
                drain(&near, &mut said);
            }
            if is_over {
                break;
            }
        }
        is_over |= connection.flush().is_err();
        drain(&near, &mut said);
        compare(&heard, &said, !is_over)
    })
}

/// A device that believes what it is told.
fn play(connection: &mut Connection, event: Event) {
    match event {
        Event::Read { ticket, region, offset, count } => {
            let size = [8192, 0, 0, 0, 0, 0, 0, 256, 0][region as usize];
            assert!(offset + u64::from(count) <= size, "{count} bytes at {offset} of region {region}");
            connection.answer(ticket, &vec![7; count as usize]);
        }
        Event::Write { ticket, region, offset, data } => {
            assert!(region == 0 && offset + data.len() as u64 <= 8192, "{} bytes at {offset}", data.len());
            connection.done(ticket);
        }
        Event::SetIrqs { ticket, irqs } => {
            assert!(irqs.index == irq::MSIX && irqs.start + irqs.count <= 4, "{irqs:?}");
            if let IrqData::Eventfds(fds) = irqs.data {
                for fd in &fds {
                    let _ = rustix::io::write(fd, &1u64.to_ne_bytes());
                }
            }
            connection.done(ticket);
        }
        Event::Unmapped { ticket, .. } => connection.done(ticket),
        Event::Reset { ticket } => {
            reach(connection);
            connection.done(ticket);
        }
        Event::Moved { result, .. } => {
            assert!(result.is_err() || result.is_ok_and(|data| [0, 16].contains(&data.len())))
        }
        Event::Refused(why) => assert!(!why.is_empty()),
    }
}

/// Touches memory all over the map, and where there is none.
fn reach(connection: &mut Connection) {
    let (map, mut bytes) = (connection.map(), [0; 5000]);
    for page in 0..20 {
        let addr = page * 0x1000 + 0x800;
        let Some(piece) = map.find(addr, bytes.len() as u64, Access::Write) else { continue };
        if let Some(memory) = piece.memory {
            assert!(piece.len > 0 && piece.offset + piece.len <= memory.len() as u64, "{piece:?}");
        }
        let _ = map.read(addr, &mut bytes);
        let _ = map.write(addr, &bytes);
    }
    for started in [connection.dma_read(0x1000, 16), connection.dma_write(0x1000, &[0; 16])] {
        assert!(matches!(started, Ok(_) | Err(Errno::AGAIN | Errno::INVAL)), "{started:?}");
    }
}

/// Gives an input to a client that asks all there is to ask; the number of its commands that succeed.
pub fn ask(data: &[u8]) -> usize {
    let Some((&mode, rest)) = data.split_first() else { return 0 };
    with_things(|things| {
        let (near, far) = UnixStream::pair().expect("sockets");
        far.set_nonblocking(true).expect("a socket");
        let mut pieces = pieces(mode, rest);
        if mode & VERSION != 0 {
            let bytes = message(0, Command::VERSION.0 as u8, REPLY, Version::default().as_bytes());
            pieces.insert(0, Piece { bytes, fds: 0 });
        }
        let mut heard = Vec::new();
        for piece in pieces.iter().take_while(|piece| !piece.bytes.is_empty() && things.send(&far, piece)) {
            heard.extend(&piece.bytes);
        }
        far.shutdown(Shutdown::Write).expect("a socket");
        let mut successes = 0;
        if let Ok(mut client) = Client::over(near, PATIENCE, Box::new(|| false)) {
            let mut said = Vec::new();
            for result in commands(&mut client, things.eventfd.as_fd()) {
                drain(&far, &mut said);
                match result {
                    Ok(()) => successes += 1,
                    Err(error) if error.is_final() => assert_eq!(client.reset(), Err(error), "it is over for good"),
                    Err(_) => {}
                }
            }
            drop(client);
            drain(&far, &mut said);
            compare(&heard, &said, false);
        }
        successes
    })
}

fn commands(client: &mut Client, eventfd: BorrowedFd<'_>) -> [Result<(), Error>; 11] {
    let memory = Arc::new(Region::new(8192).expect("memory"));
    [
        client.info().map(drop),
        client.region(region::BAR0).map(|bar| {
            assert!(bar.areas.iter().all(|area| area.offset + area.memory.len() as u64 <= bar.size), "{bar:?}");
            bar.areas.iter().for_each(|area| area.memory.fill(0, area.memory.len(), 1));
        }),
        client.irqs(irq::MSIX).map(drop),
        client.set_irqs(irq::MSIX, 0, &[eventfd]),
        client.dma_map(&memory, 0x1000),
        client.write(0, 0x14, &[1, 0, 0, 0]),
        client.read(0, 0x1c, &mut [0; 4]),
        client.dma_unmap(&memory, 0x1000),
        client.disable_irqs(irq::MSIX),
        client.reset(),
        client.serve(),
    ]
}

/// Seeds for both bodies: the body, a name, its bytes.
pub fn seeds() -> Vec<crate::seeds::Seed> {
    let record = |command: Command, bits: u8, fds: u8, body: &[u8]| {
        [&[command.0 as u8, bits, fds, body.len() as u8], body].concat()
    };
    let map = |addr: u64| wire::DmaMapRequest {
        argsz: 32.into(),
        flags: 3.into(),
        offset: 0x1000.into(),
        addr: addr.into(),
        size: 0x2000.into(),
    };
    let info = wire::DeviceInfo { argsz: 16.into(), flags: 3.into(), num_regions: 9.into(), num_irqs: 5.into() };
    let bar = wire::RegionInfo {
        argsz: 64.into(),
        flags: 15.into(),
        cap_offset: 32.into(),
        size: 0x2000.into(),
        ..Default::default()
    };
    let header = wire::CapHeader { id: 1.into(), version: 1.into(), next: 0.into() };
    let sparse = wire::SparseMmap { header, nr_areas: 1.into(), reserved: 0.into() };
    let area = wire::SparseArea { offset: 0x1000.into(), size: 0x1000.into() };
    let irqs = wire::IrqInfo { argsz: 16.into(), flags: 9.into(), index: irq::MSIX.into(), count: 4.into() };
    let set =
        wire::IrqSet { argsz: 20.into(), flags: 36.into(), index: irq::MSIX.into(), start: 1.into(), count: 1.into() };
    let access = wire::RegionAccess { offset: 0x1c.into(), region: 0.into(), count: 4.into() };
    let unmap = wire::DmaUnmapRequest { argsz: 24.into(), flags: 0.into(), addr: 0x1000.into(), size: 0x2000.into() };
    let moved = wire::DmaAccess { addr: 0x1000.into(), count: 16.into() };
    let with = |head: &[u8], data: &[u8]| [head, data].concat();
    let region_reply = [bar.as_bytes(), sparse.as_bytes(), area.as_bytes()].concat();

    let told = [
        record(Command::DEVICE_GET_INFO, 0, 0, info.as_bytes()),
        record(Command::DEVICE_GET_REGION_INFO, 0, 0, bar.as_bytes()),
        record(Command::DEVICE_GET_IRQ_INFO, 0, 0, irqs.as_bytes()),
        record(Command::DEVICE_SET_IRQS, 0, EVENTFD, set.as_bytes()),
        record(Command::DMA_MAP, 0, MEMORY, map(0x1000).as_bytes()),
        record(Command::DMA_MAP, 0, MEMORY, map(0x3000).as_bytes()),
        record(Command::REGION_WRITE, 0, 0, &with(access.as_bytes(), &[1, 2, 3, 4])),
        record(Command::REGION_READ, 0, 0, access.as_bytes()),
        record(Command::DEVICE_RESET, 0, 0, &[]),
        record(Command::DMA_READ, REPLY, 0, &with(moved.as_bytes(), &[5; 16])),
        record(Command::DMA_WRITE, REPLY, 0, moved.as_bytes()),
        record(Command::DMA_UNMAP, 0, 0, unmap.as_bytes()),
    ]
    .concat();
    let hostile = [
        record(Command::DMA_MAP, 0, 0, map(0x1000).as_bytes()),
        record(Command::DMA_MAP, 0, MEMORY, map(0x2000).as_bytes()),
        record(Command::DEVICE_RESET, NO_REPLY, EVENTFD, &[]),
        record(Command::DEVICE_RESET, 0, 0, &[]),
        record(Command::DMA_READ, REPLY | ERROR, 0, moved.as_bytes()),
        record(Command::DIRTY_PAGES, 0, 0, &[0; 16]),
        record(Command::VERSION, 0, 0, b"\0\0\x01\0{}"),
        record(Command::DMA_WRITE, REPLY | ODD, 0, &[]),
    ]
    .concat();
    let answers = [
        record(Command::DEVICE_GET_INFO, REPLY, 0, info.as_bytes()),
        record(Command::DEVICE_GET_REGION_INFO, REPLY, MEMORY, &region_reply),
        record(Command::DEVICE_GET_IRQ_INFO, REPLY, 0, irqs.as_bytes()),
        record(Command::DEVICE_SET_IRQS, REPLY, 0, &[]),
        record(Command::DMA_MAP, REPLY, 0, &[]),
        record(Command::DMA_READ, 0, 0, moved.as_bytes()),
        record(Command::REGION_WRITE, REPLY, 0, access.as_bytes()),
        record(Command::DMA_WRITE, 0, 0, &with(moved.as_bytes(), &[9; 16])),
        record(Command::REGION_READ, REPLY, 0, &with(access.as_bytes(), &[1, 2, 3, 4])),
        record(Command::DMA_UNMAP, REPLY, 0, unmap.as_bytes()),
        record(Command::DEVICE_SET_IRQS, REPLY, 0, &[]),
        record(Command::DEVICE_RESET, REPLY, 0, &[]),
    ];
    // The version's reply was the first.
    let first = record(Command::VERSION, REPLY, 0, Version::default().as_bytes());
    let conversation = [first.clone(), answers.concat()].concat();
    let refusals =
        [first, (4..14).flat_map(|command| record(Command(command), REPLY | ERROR, 0, &[])).collect()].concat();
    let lies = [&conversation[..8], &record(Command::DEVICE_GET_INFO, REPLY | ODD, 0, info.as_bytes())].concat();
    let stream =
        |records: &[u8]| pieces(RECORDS, records).into_iter().flat_map(|piece| piece.bytes).collect::<Vec<u8>>();
    let seed = |body, name: &str, mode: u8, bytes: &[u8]| (body, name.to_string(), with(&[mode], bytes));
    vec![
        seed("vfio_user_server", "conversation", VERSION | RECORDS, &told),
        seed("vfio_user_server", "stream", VERSION, &stream(&told)),
        seed("vfio_user_server", "hostile", VERSION | RECORDS, &hostile),
        seed("vfio_user_server", "early", RECORDS, &told),
        seed("vfio_user_client", "conversation", RECORDS, &conversation),
        seed("vfio_user_client", "stream", 0, &stream(&conversation)),
        seed("vfio_user_client", "refusals", RECORDS, &refusals),
        seed("vfio_user_client", "lies", RECORDS, &lies),
    ]
}
