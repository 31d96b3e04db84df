//! Clients that are not ours.

use std::{
    fs::File,
    io::{Read, pipe},
    os::fd::OwnedFd,
};

use doorbell_platform::Range;
use proptest::prelude::*;
use rustix::{
    event::{EventfdFlags, eventfd},
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create},
};
use zerocopy::FromBytes;

use super::*;
use crate::{
    Access, MOST_DMA_MAPS, PAGE,
    wire::{
        DmaMapRequest, DmaUnmapRequest, IrqInfo, IrqSet as IrqRequest, RegionAccess, RegionInfo, RegionIoFds,
        SparseArea, SparseMmap, Version, dma, irq, region,
    },
};

/// A client that says what it likes.
struct Peer {
    socket: Socket,
    next: u16,
}

impl Peer {
    fn say(&mut self, command: Command, flags: u32, body: &[u8], fds: Vec<OwnedFd>) {
        let header =
            Header { msg_id: self.next.into(), cmd: command.0.into(), flags: flags.into(), ..Header::default() };
        self.next += 1;
        self.socket.push(wire::message(header, &[body]), fds);
        self.socket.flush().unwrap();
    }

    fn hear(&mut self) -> Option<Message> {
        self.socket.receive().unwrap()
    }
}

fn raw() -> (Peer, Connection) {
    let (near, far) = UnixStream::pair().unwrap();
    let mut device = Description { regions: vec![RegionDescription::default(); 9], irqs: vec![0, 0, 4, 0, 0] };
    device.regions[0] = RegionDescription {
        size: 8192,
        readable: true,
        writable: true,
        memory: Some(Arc::new(doorbell_platform::Region::shared(8192, false).unwrap())),
        areas: vec![Range { offset: 4096, len: 4096 }],
    };
    device.regions[7] = RegionDescription { size: 256, readable: true, ..RegionDescription::default() };
    let connection = Connection::new(far, Arc::new(device)).unwrap();
    (Peer { socket: Socket::new(near).unwrap(), next: 0 }, connection)
}

fn negotiated() -> (Peer, Connection) {
    let (mut peer, mut connection) = raw();
    peer.say(Command::VERSION, 0, Version::default().as_bytes(), vec![]);
    assert!(connection.receive().unwrap().is_none());
    assert!(peer.hear().unwrap().is_reply());
    (peer, connection)
}

/// What the client is told of a command that is refused.
fn refused(peer: &mut Peer, connection: &mut Connection) -> Errno {
    match connection.receive().unwrap() {
        Some(Event::Refused(_)) => {}
        other => panic!("{other:?} where a refusal belongs"),
    }
    connection.flush().unwrap();
    let reply = peer.hear().unwrap();
    assert_eq!(reply.header.msg_id.get() + 1, peer.next);
    crate::socket::error_of(&reply.header).unwrap()
}

fn memory(len: u64) -> OwnedFd {
    let file = memfd_create("client", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&file, len).unwrap();
    file
}

fn map_request(offset: u64, addr: u64, size: u64, flags: u32) -> DmaMapRequest {
    DmaMapRequest { argsz: 32.into(), flags: flags.into(), offset: offset.into(), addr: addr.into(), size: size.into() }
}

const BOTH: u32 = dma::READ | dma::WRITE;

#[test]
fn the_version_comes_first_and_once() {
    let (mut peer, mut connection) = raw();
    peer.say(Command::DEVICE_RESET, 0, &[], vec![]);
    let error = connection.receive().unwrap_err();
    assert!(error.to_string().contains("DEVICE_RESET before VERSION"), "{error}");

    let (mut peer, mut connection) = raw();
    let other = Version { major: 1.into(), minor: 0.into() };
    peer.say(Command::VERSION, 0, other.as_bytes(), vec![]);
    assert_eq!(refused(&mut peer, &mut connection), Errno::INVAL);
    assert_eq!(connection.dma_read(0, 1), Err(Errno::NOTCONN));
    peer.say(Command::VERSION, 0, Version::default().as_bytes(), vec![]);
    assert!(connection.receive().unwrap().is_none());
    let (minor, limits) = Limits::read(&peer.hear().unwrap()).unwrap();
    assert_eq!((minor, limits), (0, Limits::OURS));
    peer.say(Command::VERSION, 0, Version::default().as_bytes(), vec![]);
    assert_eq!(refused(&mut peer, &mut connection), Errno::INVAL);
}

#[test]
fn descriptors_that_belong_to_nothing_are_closed() {
    let (mut peer, mut connection) = negotiated();
    let (mut read, write) = pipe().unwrap();
    peer.say(Command::DEVICE_RESET, 0, &[], vec![write.into()]);
    assert_eq!(refused(&mut peer, &mut connection), Errno::INVAL);
    let end = read.read(&mut [0]).unwrap();
    assert_eq!(end, 0, "nobody holds the other end");

    let (mut read, write) = pipe().unwrap();
    peer.say(Command::DMA_MAP, 0, map_request(0, 0, 4096, BOTH).as_bytes(), vec![memory(4096), write.into()]);
    assert_eq!(refused(&mut peer, &mut connection), Errno::INVAL);
    assert_eq!(read.read(&mut [0]).unwrap(), 0);
}

#[test]
fn memory_that_cannot_be_what_is_said_is_not_mapped() {
    let (mut peer, mut connection) = negotiated();
    let request = map_request(0, 0x10_0000, 8192, BOTH);
    peer.say(Command::DMA_MAP, 0, request.as_bytes(), vec![memory(8192)]);
    assert!(connection.receive().unwrap().is_none());
    assert!(peer.hear().unwrap().body.is_empty());

    let null: OwnedFd = File::open("/dev/null").unwrap().into();
    let file: OwnedFd = File::open(std::env::current_exe().unwrap()).unwrap().into();
    let (pipe, _end) = pipe().unwrap();
    let sealed = memory(4096);
    fcntl_add_seals(&sealed, SealFlags::WRITE).unwrap();
    let fresh = 0x20_0000;
    let cases = [
        (Some(memory(4096)), map_request(0, fresh, 8192, BOTH), Errno::INVAL),
        (Some(memory(8192)), map_request(4096, fresh, 8192, BOTH), Errno::INVAL),
        (Some(memory(8192)), map_request(u64::MAX - 4095, fresh, 8192, BOTH), Errno::INVAL),
        (Some(memory(8192)), map_request(512, fresh, 4096, BOTH), Errno::INVAL),
        (Some(memory(8192)), map_request(0, fresh, 4097, BOTH), Errno::INVAL),
        (Some(memory(8192)), map_request(0, fresh, 0, BOTH), Errno::INVAL),
        (Some(memory(8192)), map_request(0, fresh, 4096, 0), Errno::INVAL),
        (Some(memory(8192)), map_request(0, fresh, 4096, 8), Errno::INVAL),
        (Some(memory(8192)), map_request(0, 0u64.wrapping_sub(4096), 8192, BOTH), Errno::INVAL),
        (Some(memory(8192)), map_request(0, 0x10_1000, 4096, BOTH), Errno::EXIST),
        (Some(null), map_request(0, fresh, 4096, BOTH), Errno::INVAL),
        (Some(file), map_request(0, fresh, 4096, dma::READ), Errno::INVAL),
        (Some(pipe.into()), map_request(0, fresh, 4096, dma::READ), Errno::INVAL),
        (Some(sealed), map_request(0, fresh, 4096, BOTH), Errno::PERM),
        (None, DmaMapRequest { argsz: 31.into(), ..map_request(0, fresh, 4096, BOTH) }, Errno::INVAL),
    ];
    for (fd, request, errno) in cases {
        peer.say(Command::DMA_MAP, 0, request.as_bytes(), fd.into_iter().collect());
        assert_eq!(refused(&mut peer, &mut connection), errno, "{request:?}");
    }
    // Where there are huge pages, they need not be free for this: nothing is mapped.
    if let Ok(huge) = memfd_create("client", MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB) {
        ftruncate(&huge, 2 << 20).unwrap();
        peer.say(Command::DMA_MAP, 0, map_request(0, fresh, 4096, BOTH).as_bytes(), vec![huge]);
        assert_eq!(refused(&mut peer, &mut connection), Errno::INVAL, "half a page");
    }
    peer.say(Command::DMA_MAP, 0, &request.as_bytes()[..31], vec![]);
    assert_eq!(refused(&mut peer, &mut connection), Errno::INVAL);
    assert_eq!(connection.map().len(), 1);
}

#[test]
fn memory_without_a_descriptor_is_known_and_of_bounded_number() {
    let (mut peer, mut connection) = negotiated();
    for at in 0..MOST_DMA_MAPS as u64 {
        peer.say(Command::DMA_MAP, 0, map_request(0, at * PAGE, PAGE, dma::READ).as_bytes(), vec![]);
        assert!(connection.receive().unwrap().is_none());
        assert!(peer.hear().is_some());
    }
    let piece = connection.map().find(5 * PAGE, 1, Access::Read).unwrap();
    assert!(piece.memory.is_none());
    assert!(connection.map().read(5 * PAGE, &mut [0]).is_err() && connection.map().len() == MOST_DMA_MAPS);
    peer.say(Command::DMA_MAP, 0, map_request(0, 1 << 40, PAGE, BOTH).as_bytes(), vec![]);
    assert_eq!(refused(&mut peer, &mut connection), Errno::NOSPC);
}

#[test]
fn memory_that_its_owner_shortens_reads_as_zeroes() {
    let (mut peer, mut connection) = negotiated();
    let file = memory(8192);
    rustix::io::pwrite(&file, b"here", 4096).unwrap();
    let kept = file.try_clone().unwrap();
    peer.say(Command::DMA_MAP, 0, map_request(4096, 0, 4096, dma::READ).as_bytes(), vec![file]);
    assert!(connection.receive().unwrap().is_none());
    let mut bytes = [0; 4];
    connection.map().read(0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"here");
    assert!(connection.map().write(0, &bytes).is_err(), "the device may only read");
    ftruncate(&kept, 0).unwrap();
    connection.map().read(0, &mut bytes).unwrap();
    assert_eq!(bytes, [0; 4]);
    assert!(connection.map().find(0, 4, Access::Read).unwrap().memory.unwrap().is_lost());
}

#[test]
fn memory_is_taken_away_as_it_was_given() {
    let (mut peer, mut connection) = negotiated();
    let unmap = |addr: u64, size: u64, flags: u32| DmaUnmapRequest {
        argsz: 24.into(),
        flags: flags.into(),
        addr: addr.into(),
        size: size.into(),
    };
    for addr in [0, 0x10000] {
        peer.say(Command::DMA_MAP, 0, map_request(0, addr, 8192, BOTH).as_bytes(), vec![memory(8192)]);
        assert!(connection.receive().unwrap().is_none());
        assert!(peer.hear().is_some());
    }
    for (request, errno) in [
        (unmap(0, 4096, 0), Errno::NOENT),
        (unmap(4096, 4096, 0), Errno::NOENT),
        (unmap(0, 8192, dma::GET_DIRTY_BITMAP), Errno::INVAL),
        (unmap(0, 8192, dma::UNMAP_ALL), Errno::INVAL),
        (unmap(0, 8192, 8), Errno::INVAL),
    ] {
        peer.say(Command::DMA_UNMAP, 0, request.as_bytes(), vec![]);
        assert_eq!(refused(&mut peer, &mut connection), errno, "{request:?}");
    }
    let held = connection.map().find(0, 1, Access::Read).unwrap().memory.unwrap().clone();
    peer.say(Command::DMA_UNMAP, 0, unmap(0, 8192, 0).as_bytes(), vec![]);
    let Some(Event::Unmapped { ticket, range: Some((0, 8192)) }) = connection.receive().unwrap() else { panic!() };
    assert!(connection.map().find(0, 1, Access::Read).is_none() && held.equals(0, &[0]));
    assert!(peer.hear().is_none(), "the answer waits for those who use the memory");
    connection.done(ticket);
    connection.flush().unwrap();
    assert_eq!(peer.hear().unwrap().read(), Some(unmap(0, 8192, 0)));
    peer.say(Command::DMA_UNMAP, 0, unmap(0, 0, dma::UNMAP_ALL).as_bytes(), vec![]);
    assert!(matches!(connection.receive().unwrap(), Some(Event::Unmapped { range: None, .. })));
    assert!(connection.map().is_empty());
}

#[test]
fn no_register_outside_a_region_is_reached() {
    let (mut peer, mut connection) = negotiated();
    let access = |region: u32, offset: u64, count: u32| RegionAccess {
        offset: offset.into(),
        region: region.into(),
        count: count.into(),
    };
    for (region, offset, count, errno) in [
        (0, 8192, 1, Errno::INVAL),
        (0, 8190, 4, Errno::INVAL),
        (0, u64::MAX, 4, Errno::INVAL),
        (0, 0, 0, Errno::INVAL),
        (0, 0, u32::MAX, Errno::INVAL),
        (1, 0, 1, Errno::INVAL),
        (9, 0, 1, Errno::INVAL),
        (u32::MAX, 0, 1, Errno::INVAL),
    ] {
        peer.say(Command::REGION_READ, 0, access(region, offset, count).as_bytes(), vec![]);
        assert_eq!(refused(&mut peer, &mut connection), errno, "{count} at {offset} of {region}");
        let body = [access(region, offset, count).as_bytes(), &[0; 8][..count.min(8) as usize]].concat();
        peer.say(Command::REGION_WRITE, 0, &body, vec![]);
        assert_eq!(refused(&mut peer, &mut connection), errno, "{count} at {offset} of {region}");
    }
    for (command, len, extra) in
        [(Command::REGION_WRITE, 4, 3), (Command::REGION_WRITE, 4, 5), (Command::REGION_READ, 4, 4)]
    {
        let body = [access(0, 0, len).as_bytes(), &vec![0; extra]].concat();
        peer.say(command, 0, &body, vec![]);
        assert_eq!(refused(&mut peer, &mut connection), Errno::INVAL, "{command} of {len} with {extra}");
    }
    peer.say(Command::REGION_WRITE, 0, &[access(7, 0, 1).as_bytes(), &[1]].concat(), vec![]);
    assert_eq!(refused(&mut peer, &mut connection), Errno::PERM);
    peer.say(Command::REGION_READ, 0, &[0; 15], vec![]);
    assert_eq!(refused(&mut peer, &mut connection), Errno::INVAL);
    peer.say(Command::REGION_READ, 0, access(0, 8184, 8).as_bytes(), vec![]);
    let Some(Event::Read { ticket, region: 0, offset: 8184, count: 8 }) = connection.receive().unwrap() else {
        panic!()
    };
    connection.answer(ticket, b"register");
    connection.flush().unwrap();
    let reply = peer.hear().unwrap();
    assert_eq!((reply.read(), reply.after::<RegionAccess>()), (Some(access(0, 8184, 8)), &b"register"[..]));
}

#[test]
fn what_is_set_for_interrupts_is_checked_whole() {
    let (mut peer, mut connection) = negotiated();
    let set = |flags: u32, index: u32, start: u32, count: u32| IrqRequest {
        argsz: 20.into(),
        flags: flags.into(),
        index: index.into(),
        start: start.into(),
        count: count.into(),
    };
    let bell = || -> Vec<OwnedFd> { vec![eventfd(0, EventfdFlags::empty()).unwrap()] };
    let (eventfds, trigger) = (irq::DATA_EVENTFD | irq::ACTION_TRIGGER, irq::DATA_NONE | irq::ACTION_TRIGGER);
    let cases: [(IrqRequest, &[u8], Vec<OwnedFd>); 13] = [
        (set(eventfds, irq::MSIX, 4, 1), &[], bell()),
        (set(eventfds, irq::MSIX, u32::MAX, 1), &[], bell()),
        (set(eventfds, irq::MSI, 0, 1), &[], bell()),
        (set(eventfds, 5, 0, 1), &[], bell()),
        (set(eventfds, irq::MSIX, 0, 2), &[], bell()),
        (set(eventfds, irq::MSIX, 0, 1), &[], vec![]),
        (set(eventfds, irq::MSIX, 0, 0), &[], vec![]),
        (set(irq::DATA_EVENTFD | irq::ACTION_MASK, irq::MSIX, 0, 1), &[], bell()),
        (set(trigger, irq::MSIX, 0, 1), &[], bell()),
        (set(trigger | irq::DATA_BOOL, irq::MSIX, 0, 1), &[1], vec![]),
        (set(trigger | irq::ACTION_MASK, irq::MSIX, 0, 1), &[], vec![]),
        (set(irq::DATA_BOOL | irq::ACTION_TRIGGER, irq::MSIX, 0, 2), &[1], vec![]),
        (IrqRequest { argsz: 19.into(), ..set(trigger, irq::MSIX, 0, 1) }, &[], vec![]),
    ];
    for (request, data, fds) in cases {
        peer.say(Command::DEVICE_SET_IRQS, 0, &[request.as_bytes(), data].concat(), fds);
        assert_eq!(refused(&mut peer, &mut connection), Errno::INVAL, "{request:?}");
    }
    let mut next = |request: IrqRequest, data: &[u8], fds: Vec<OwnedFd>| {
        peer.say(Command::DEVICE_SET_IRQS, 0, &[request.as_bytes(), data].concat(), fds);
        let Some(Event::SetIrqs { ticket, irqs }) = connection.receive().unwrap() else { panic!("{request:?}") };
        connection.done(ticket);
        irqs
    };
    let irqs = next(set(eventfds, irq::MSIX, 3, 1), &[], bell());
    let IrqData::Eventfds(fds) = &irqs.data else { panic!() };
    assert_eq!(fds.len(), 1);
    let irqs = next(set(irq::DATA_BOOL | irq::ACTION_MASK, irq::MSIX, 1, 3), &[1, 0, 1], vec![]);
    assert!(matches!(irqs.data, IrqData::Bool(meant) if meant == [true, false, true]) && irqs.action == Action::Mask);
    let irqs = next(set(trigger, irq::MSIX, 0, 0), &[], vec![]);
    assert!(matches!(irqs.data, IrqData::None) && irqs.count == 0);
}

#[test]
fn descriptions_say_what_is_there_and_how_much_room_they_need() {
    let (mut peer, mut connection) = negotiated();
    let mut ask = |command, body: &[u8]| {
        peer.say(command, 0, body, vec![]);
        assert!(connection.receive().unwrap().is_none());
        peer.hear().unwrap()
    };
    let request = RegionInfo { argsz: 32.into(), ..RegionInfo::default() };
    let reply = ask(Command::DEVICE_GET_REGION_INFO, request.as_bytes());
    let info: RegionInfo = reply.read().unwrap();
    assert_eq!((info.argsz.get(), info.cap_offset.get(), reply.body.len(), reply.fds.len()), (64, 0, 32, 0));
    assert_eq!(info.flags.get(), region::READ | region::WRITE | region::MMAP);
    let reply = ask(Command::DEVICE_GET_REGION_INFO, RegionInfo { argsz: 64.into(), ..request }.as_bytes());
    let info: RegionInfo = reply.read().unwrap();
    assert_eq!((info.cap_offset.get(), reply.body.len(), reply.fds.len()), (32, 64, 1));
    let (sparse, rest) = SparseMmap::read_from_prefix(&reply.body[32..]).unwrap();
    let area = SparseArea::read_from_bytes(rest).unwrap();
    assert_eq!((sparse.nr_areas.get(), area.offset.get(), area.size.get()), (1, 4096, 4096));
    let reply =
        ask(Command::DEVICE_GET_REGION_IO_FDS, RegionIoFds { argsz: 64.into(), ..Default::default() }.as_bytes());
    assert_eq!(reply.read::<RegionIoFds>().unwrap().count.get(), 0);

    for (command, body) in [
        (Command::DEVICE_GET_INFO, vec![0; 16]),
        (Command::DEVICE_GET_REGION_INFO, RegionInfo { index: 9.into(), ..request }.as_bytes().to_vec()),
        (Command::DEVICE_GET_REGION_IO_FDS, vec![16, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]),
        (
            Command::DEVICE_GET_IRQ_INFO,
            IrqInfo { argsz: 16.into(), index: 5.into(), ..Default::default() }.as_bytes().to_vec(),
        ),
    ] {
        peer.say(command, 0, &body, vec![]);
        assert_eq!(refused(&mut peer, &mut connection), Errno::INVAL, "{command}");
    }
    for command in [Command::DIRTY_PAGES, Command::DMA_READ, Command(15), Command(0), Command(u16::MAX)] {
        peer.say(command, 0, &[0; 32], vec![]);
        assert_eq!(refused(&mut peer, &mut connection), Errno::NOTSUP, "{command}");
    }
}

#[test]
fn who_wants_no_reply_gets_none() {
    let (mut peer, mut connection) = negotiated();
    peer.say(Command::DEVICE_RESET, flags::NO_REPLY, &[], vec![]);
    let Some(Event::Reset { ticket }) = connection.receive().unwrap() else { panic!() };
    connection.done(ticket);
    peer.say(Command::DIRTY_PAGES, flags::NO_REPLY, &[], vec![]);
    assert!(matches!(connection.receive().unwrap(), Some(Event::Refused(_))));
    peer.say(Command::DEVICE_GET_INFO, flags::NO_REPLY, &[16; 16], vec![]);
    assert!(connection.receive().unwrap().is_none());
    assert!(connection.flush().unwrap() && peer.hear().is_none());
}

#[test]
fn answers_to_accesses_are_held_against_what_was_asked() {
    let answer = |id: u16, command: Command, flags: u32, body: &[u8]| {
        let (mut peer, mut connection) = negotiated();
        assert_eq!(connection.dma_read(0x1000, 4), Ok(0));
        connection.flush().unwrap();
        let asked = peer.hear().unwrap();
        let access = asked.read::<DmaAccess>().unwrap();
        assert_eq!((access.addr.get(), access.count.get(), asked.is_reply()), (0x1000, 4, false));
        peer.next = id;
        peer.say(command, flags::REPLY | flags, &[access.as_bytes(), body].concat(), vec![]);
        connection.receive()
    };
    let good = answer(0, Command::DMA_READ, 0, b"four").unwrap();
    assert!(matches!(good, Some(Event::Moved { id: 0, result: Ok(data) }) if data == b"four"));
    let failed = answer(0, Command::DMA_READ, flags::ERROR, b"").unwrap();
    assert!(matches!(failed, Some(Event::Moved { id: 0, result: Err(Errno::IO) })), "{failed:?}");
    for (id, command, body) in [
        (1, Command::DMA_READ, b"four" as &[u8]),
        (0, Command::DMA_WRITE, b"four"),
        (0, Command::DMA_READ, b"three"),
        (0, Command::DMA_READ, b""),
    ] {
        let error = answer(id, command, 0, body).unwrap_err();
        assert!(matches!(&error, Lost::Violation(_)), "{error}");
    }
}

#[test]
fn accesses_under_way_are_bounded() {
    let (_peer, mut connection) = negotiated();
    assert_eq!(connection.dma_read(0, 0), Err(Errno::INVAL));
    assert_eq!(connection.dma_read(0, (1 << 20) + 1), Err(Errno::INVAL));
    let started = (0..1000).take_while(|_| connection.dma_write(0, &[0; 1000]).is_ok()).count();
    assert_eq!(started, MOST_MOVES);
    let (_peer, mut connection) = negotiated();
    let started = (0..1000).take_while(|_| connection.dma_read(0, 1 << 20).is_ok()).count();
    assert_eq!(started, 2);
    assert_eq!(connection.dma_write(0, &[0]), Err(Errno::AGAIN));
}

#[test]
fn a_client_that_reads_nothing_is_not_listened_to_for_ever() {
    let (mut peer, mut connection) = negotiated();
    let request = RegionInfo { argsz: 64.into(), ..RegionInfo::default() };
    let mut taken = 0;
    while connection.socket.waits_for() <= 128 {
        peer.say(Command::DEVICE_GET_REGION_INFO, 0, request.as_bytes(), vec![]);
        assert!(connection.receive().unwrap().is_none());
        taken += 1;
        assert!(taken < 10_000, "descriptors pile up");
    }
    let before = connection.socket.waits_for();
    for _ in 0..200 {
        peer.say(Command::DEVICE_GET_REGION_INFO, 0, request.as_bytes(), vec![]);
        assert!(connection.receive().unwrap().is_none());
    }
    assert_eq!(connection.socket.waits_for(), before);
    // When it reads again, everything is answered.
    let mut heard = 0;
    while heard < taken + 200 {
        match peer.hear() {
            Some(reply) => heard += usize::from(reply.fds.len() == 1),
            None => assert!(connection.receive().unwrap().is_none()),
        }
    }
}

#[test]
fn a_device_is_not_given_more_than_it_answers() {
    let (mut peer, mut connection) = negotiated();
    let mut tickets = Vec::new();
    for _ in 0..MOST_OPEN {
        peer.say(Command::DEVICE_RESET, 0, &[], vec![]);
        let Some(Event::Reset { ticket }) = connection.receive().unwrap() else { panic!() };
        tickets.push(ticket);
    }
    peer.say(Command::DEVICE_RESET, 0, &[], vec![]);
    assert_eq!(refused(&mut peer, &mut connection), Errno::BUSY);
    connection.refuse(tickets.pop().unwrap(), Errno::IO);
    connection.flush().unwrap();
    assert_eq!(crate::socket::error_of(&peer.hear().unwrap().header), Some(Errno::IO));
    peer.say(Command::DEVICE_RESET, 0, &[], vec![]);
    assert!(matches!(connection.receive().unwrap(), Some(Event::Reset { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever is in it, a command comes to the target or is answered, once, and the connection goes on.
    #[test]
    fn every_command_has_its_answer(
        commands in prop::collection::vec((0u16..18, prop::collection::vec(0u8..40, 0..80), any::<bool>()), 1..12),
    ) {
        let (mut peer, mut connection) = negotiated();
        for (command, mut body, mend) in commands {
            if mend && body.len() >= 4 {
                body[..4].copy_from_slice(&64u32.to_le_bytes());
            }
            peer.say(Command(command), 0, &body, vec![]);
            match connection.receive().unwrap() {
                Some(Event::Read { ticket, offset, count, .. }) => {
                    prop_assert!(offset + u64::from(count) <= 8192);
                    connection.answer(ticket, &vec![0; count as usize]);
                }
                Some(
                    Event::Write { ticket, .. }
                    | Event::SetIrqs { ticket, .. }
                    | Event::Unmapped { ticket, .. }
                    | Event::Reset { ticket },
                ) => connection.done(ticket),
                Some(Event::Refused(_)) | None => {}
                Some(other) => prop_assert!(false, "{:?}", other),
            }
            connection.flush().unwrap();
            let reply = peer.hear().unwrap();
            prop_assert!(reply.is_reply() && reply.command() == Command(command));
            prop_assert_eq!(reply.header.msg_id.get() + 1, peer.next);
            prop_assert!(peer.hear().is_none());
        }
    }
}
