//! Servers that are not ours. What they say lies in the socket before the client asks, which numbers its commands from 0.

use std::{
    io::{Read, pipe},
    os::fd::OwnedFd,
};

use proptest::prelude::*;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

use super::*;
use crate::wire::{CapHeader, RegionInfo, SparseArea, SparseMmap, Version, irq, region};

const PATIENCE: Duration = Duration::from_secs(20);

/// A server that says what it likes.
struct Peer {
    socket: Socket,
    next: u16,
}

impl Peer {
    fn say(&mut self, id: u16, command: Command, flags: u32, body: &[u8], fds: Vec<OwnedFd>) {
        let header = Header { msg_id: id.into(), cmd: command.0.into(), flags: flags.into(), ..Header::default() };
        self.socket.push(wire::message(header, &[body]), fds);
        self.socket.flush().unwrap();
    }

    /// Answers the next command there will be.
    fn reply(&mut self, command: Command, body: &[u8], fds: Vec<OwnedFd>) {
        self.say(self.next, command, flags::REPLY, body, fds);
        self.next += 1;
    }

    /// Asks for an access to memory.
    fn access(&mut self, command: Command, addr: u64, count: u64, data: &[u8]) {
        let access = DmaAccess { addr: addr.into(), count: count.into() };
        self.say(900, command, 0, &[access.as_bytes(), data].concat(), vec![]);
    }

    fn hear(&mut self) -> Message {
        self.socket.receive().unwrap().unwrap()
    }
}

fn start(version: &[u8], patience: Duration) -> (Result<Client, Error>, Peer) {
    let (near, far) = UnixStream::pair().unwrap();
    let mut peer = Peer { socket: Socket::new(far).unwrap(), next: 0 };
    peer.reply(Command::VERSION, version, vec![]);
    let client = Client::over(near, patience, Box::new(|| false));
    assert_eq!(peer.hear().command(), Command::VERSION);
    (client, peer)
}

fn connected() -> (Client, Peer) {
    let (client, peer) = start(&Limits::announce(1), PATIENCE);
    (client.unwrap(), peer)
}

fn register(count: u32) -> RegionAccess {
    RegionAccess { count: count.into(), ..RegionAccess::default() }
}

#[test]
fn a_server_of_another_version_or_without_our_pages_is_left() {
    let (client, _) = start(Version { major: 3.into(), minor: 0.into() }.as_bytes(), PATIENCE);
    assert!(client.unwrap_err().to_string().contains("version 3.0"));
    let huge = [Version::default().as_bytes(), b"{\"capabilities\":{\"pgsizes\":2097152}}\0"].concat();
    let (client, _) = start(&huge, PATIENCE);
    assert!(client.unwrap_err().to_string().contains("maps no pages of 4096 bytes"));
    let (client, _) = start(&[], PATIENCE);
    assert!(matches!(client, Err(Error::Lost(Lost::Violation(_)))));
}

#[test]
fn a_reply_that_nobody_asked_for_ends_the_connection_for_good() {
    for (id, command, body) in [
        (7, Command::REGION_READ, [register(4).as_bytes(), b"four"].concat()),
        (1, Command::REGION_WRITE, [register(4).as_bytes(), b"four"].concat()),
        (1, Command::REGION_READ, [register(4).as_bytes(), b"three"].concat()),
        (1, Command::REGION_READ, vec![]),
    ] {
        let (mut client, mut peer) = connected();
        peer.say(id, command, flags::REPLY, &body, vec![]);
        let error = client.read(0, 0, &mut [0; 4]).unwrap_err();
        assert!(matches!(&error, Error::Lost(Lost::Violation(_))) && error.is_final(), "{error}");
        assert_eq!(client.serve().unwrap_err(), error);
        assert_eq!(client.reset().unwrap_err(), error);
    }
    let (mut client, mut peer) = connected();
    peer.say(1, Command::DEVICE_RESET, flags::REPLY, &[], vec![]);
    assert!(client.serve().unwrap_err().is_final());
}

#[test]
fn an_answer_that_does_not_come_is_missed_and_one_that_comes_late_is_nobodys() {
    let (client, mut peer) = start(&Limits::announce(1), Duration::from_millis(60));
    let mut client = client.unwrap();
    let error = client.reset().unwrap_err();
    assert_eq!(error.to_string(), "the device's process did not answer DEVICE_RESET within 0.06 s");
    assert!(!error.is_final());
    peer.next = 1;
    peer.reply(Command::DEVICE_RESET, &[], vec![]);
    peer.reply(Command::REGION_READ, &[register(4).as_bytes(), b"four"].concat(), vec![]);
    let mut bytes = [0; 4];
    client.read(0, 0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"four");
    peer.say(1, Command::DEVICE_RESET, flags::REPLY, &[], vec![]);
    assert!(client.serve().unwrap_err().is_final(), "it is nobody's but once");
}

#[test]
fn a_number_whose_answer_is_still_to_come_is_not_given_out_again() {
    let (client, mut peer) = start(&Limits::announce(1), Duration::from_millis(20));
    let mut client = client.unwrap();
    client.reset().unwrap_err();
    assert_eq!(peer.hear().header.msg_id.get(), 1);
    client.next_id = 1;
    // Late, and for the first: it must not pass for the answer to the second.
    peer.say(1, Command::DEVICE_RESET, flags::REPLY, &[], vec![]);
    let error = client.reset().unwrap_err();
    assert!(matches!(error, Error::Late { .. }), "{error}");
    assert_eq!(peer.hear().header.msg_id.get(), 2);
}

#[test]
fn a_server_that_answers_nothing_is_given_up() {
    let (client, _peer) = start(&Limits::announce(1), Duration::from_millis(1));
    let mut client = client.unwrap();
    for _ in 0..MOST_ABANDONED {
        assert!(!client.reset().unwrap_err().is_final());
    }
    assert!(client.reset().unwrap_err().is_final());
}

#[test]
fn a_wait_can_be_cancelled_but_a_prompt_answer_is_taken() {
    let (near, far) = UnixStream::pair().unwrap();
    let mut peer = Peer { socket: Socket::new(far).unwrap(), next: 0 };
    peer.reply(Command::VERSION, &Limits::announce(1), vec![]);
    peer.reply(Command::DEVICE_RESET, &[], vec![]);
    let mut client = Client::over(near, PATIENCE, Box::new(|| true)).unwrap();
    client.reset().unwrap();
    let start = Instant::now();
    assert_eq!(client.reset().unwrap_err(), Error::Cancelled(Command::DEVICE_RESET));
    assert!(start.elapsed() < PATIENCE / 2);
}

#[test]
fn memory_is_given_where_it_is_mapped_and_nowhere_else() {
    let (mut client, mut peer) = connected();
    let region = Arc::new(Region::shared(4096, false).unwrap());
    region.write(16, b"here");
    peer.reply(Command::DMA_MAP, &[], vec![]);
    client.dma_map(&region, 0x1000).unwrap();
    assert_eq!(peer.hear().fds.len(), 1);
    peer.access(Command::DMA_READ, 0x1010, 4, b"");
    peer.access(Command::DMA_WRITE, 0x1020, 5, b"there");
    client.serve().unwrap();
    assert_eq!(peer.hear().after::<DmaAccess>(), b"here");
    assert_eq!(socket::error_of(&peer.hear().header), None);
    assert!(region.equals(0x20, b"there"));
    for (command, addr, count, data, errno) in [
        (Command::DMA_READ, 0x1ffd, 4, b"" as &[u8], Errno::FAULT),
        (Command::DMA_READ, u64::MAX, 4, b"", Errno::FAULT),
        (Command::DMA_READ, 0x1000, u64::MAX, b"", Errno::INVAL),
        (Command::DMA_READ, 0x1000, (1 << 20) + 1, b"", Errno::INVAL),
        (Command::DMA_READ, 0x1000, 4, b"data", Errno::INVAL),
        (Command::DMA_WRITE, 0x1ffd, 4, b"data", Errno::FAULT),
        (Command::DMA_WRITE, 0x1000, 5, b"data", Errno::INVAL),
        (Command::REGION_WRITE, 0x1000, 4, b"data", Errno::NOTSUP),
    ] {
        peer.access(command, addr, count, data);
        client.serve().unwrap();
        assert_eq!(socket::error_of(&peer.hear().header), Some(errno), "{command} of {count} at {addr:#x}");
    }
    peer.say(1, Command::DMA_READ, flags::NO_REPLY, &[], vec![]);
    client.serve().unwrap();
    assert!(peer.socket.receive().unwrap().is_none());
}

#[test]
fn a_server_that_asks_without_end_and_reads_nothing_fills_no_memory() {
    let (mut client, mut peer) = connected();
    let region = Arc::new(Region::shared(1 << 20, false).unwrap());
    peer.reply(Command::DMA_MAP, &[], vec![]);
    client.dma_map(&region, 0).unwrap();
    // Answers of which it takes none: ever more of them are not kept for it.
    for _ in 0..100 {
        peer.access(Command::DMA_READ, 0, 1 << 20, b"");
        client.serve().unwrap();
    }
    assert!(client.socket.is_full() && client.socket.waits_for() < 10);
}

#[test]
fn descriptors_that_come_unasked_are_closed() {
    let (mut client, mut peer) = connected();
    let (mut read, write) = pipe().unwrap();
    let other = write.try_clone().unwrap();
    peer.say(900, Command::DMA_READ, 0, &[], vec![write.into()]);
    peer.reply(Command::DEVICE_RESET, &[], vec![other.into()]);
    client.reset().unwrap();
    assert_eq!(read.read(&mut [0]).unwrap(), 0, "nobody holds the other end");
}

#[test]
fn what_a_server_refuses_is_named() {
    let (mut client, mut peer) = connected();
    let region = Arc::new(Region::shared(4096, false).unwrap());
    for (id, command) in [(1, Command::DMA_MAP), (2, Command::REGION_WRITE)] {
        peer.socket.push(socket::error_reply(id, command, Errno::NOMEM), Vec::new());
    }
    peer.socket.flush().unwrap();
    let error = client.dma_map(&region, 0x1000).unwrap_err().to_string();
    assert!(error.contains("refused to map 0x1000 bytes at 0x1000: Cannot allocate memory"), "{error}");
    let error = client.write(0, 0x14, &[0; 4]).unwrap_err().to_string();
    assert!(error.contains("refused to write 4 bytes at 0x14 of region 0"), "{error}");
    assert!(client.map.is_empty(), "what is refused is not mapped");
    peer.next = 3;
    peer.reply(Command::DMA_MAP, &[], vec![]);
    client.dma_map(&region, 0x1000).unwrap();
}

#[test]
fn a_server_without_descriptors_or_room_is_asked_for_no_more_than_it_has() {
    let small = b"{\"capabilities\":{\"max_msg_fds\":0,\"max_data_xfer_size\":8,\"max_dma_maps\":1}}\0";
    let (client, mut peer) = start(&[Version::default().as_bytes(), small].concat(), PATIENCE);
    let mut client = client.unwrap();
    let region = Arc::new(Region::shared(4096, false).unwrap());
    peer.reply(Command::DMA_MAP, &[], vec![]);
    client.dma_map(&region, 0).unwrap();
    assert!(peer.hear().fds.is_empty());
    assert!(client.dma_map(&region, 0x1000).unwrap_err().to_string().contains("1 pieces of memory at most"));
    assert!(client.read(0, 0, &mut [0; 9]).unwrap_err().to_string().contains("8 can be reached"));
    assert!(client.set_irqs(irq::MSIX, 0, &[region.file().unwrap()]).unwrap_err().to_string().contains("interrupt"));
    assert!(peer.socket.receive().unwrap().is_none());
}

fn file(len: u64) -> OwnedFd {
    let file = memfd_create("device", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&file, len).unwrap();
    file
}

fn info(size: u64, flags: u32, cap_offset: u32) -> RegionInfo {
    RegionInfo {
        argsz: 64.into(),
        flags: flags.into(),
        cap_offset: cap_offset.into(),
        size: size.into(),
        ..RegionInfo::default()
    }
}

fn sparse(next: u32, count: u32, areas: &[(u64, u64)]) -> Vec<u8> {
    let header = CapHeader { id: region::CAP_SPARSE_MMAP.into(), version: 1.into(), next: next.into() };
    let mut cap = SparseMmap { header, nr_areas: count.into(), reserved: 0.into() }.as_bytes().to_vec();
    for &(offset, size) in areas {
        cap.extend(SparseArea { offset: offset.into(), size: size.into() }.as_bytes());
    }
    cap
}

/// What comes of a description of a region.
fn describe(info: RegionInfo, caps: &[u8], fds: Vec<OwnedFd>) -> Result<DeviceRegion, Error> {
    let (mut client, mut peer) = connected();
    peer.reply(Command::DEVICE_GET_REGION_INFO, &[info.as_bytes(), caps].concat(), fds);
    client.region(0)
}

const MAPPED: u32 = region::READ | region::WRITE | region::MMAP | region::CAPS;

#[test]
fn parts_of_a_region_are_mapped_as_they_are_described() {
    let backing = file(0x4000);
    rustix::io::pwrite(&backing, b"bell", 0x3008).unwrap();
    let based = RegionInfo { offset: 0x1000.into(), ..info(0x3000, MAPPED, 40) };
    // Behind a capability that we do not know.
    let other = CapHeader { id: 9.into(), version: 1.into(), next: 40.into() };
    let caps = [other.as_bytes(), &sparse(0, 2, &[(0x2000, 0x1000), (0, 0x1000)])].concat();
    let found = describe(RegionInfo { cap_offset: 32.into(), ..based }, &caps, vec![backing]).unwrap();
    let (memory, at) = found.mapped(0x2008, 4).unwrap();
    assert!(memory.equals(at, b"bell") && found.areas.len() == 2);

    let whole = describe(info(0x2000, MAPPED & !region::CAPS, 0), &[], vec![file(0x2000)]).unwrap();
    assert_eq!((whole.areas[0].offset, whole.areas[0].memory.len()), (0, 0x2000));
    let unmapped = describe(info(0x2000, MAPPED, 32), &sparse(0, 1, &[(0, 0x1000)]), vec![]).unwrap();
    assert!(unmapped.areas.is_empty(), "nothing to map without a descriptor");
    let unwritable =
        describe(info(0x2000, MAPPED & !region::WRITE, 32), &sparse(0, 1, &[(0, 0x1000)]), vec![file(0x2000)]);
    assert!(unwritable.unwrap().areas.is_empty(), "a store to it would be the end");
}

#[test]
fn a_description_that_cannot_be_ends_the_connection() {
    let cases: [(RegionInfo, Vec<u8>); 11] = [
        (info(0x2000, MAPPED, 33), sparse(0, 1, &[(0, 0x1000)])),
        (info(0x2000, MAPPED, u32::MAX), sparse(0, 1, &[(0, 0x1000)])),
        (info(0x2000, MAPPED, 32), sparse(32, 1, &[(0, 0x1000)])),
        (info(0x2000, MAPPED, 32), sparse(4000, 1, &[(0, 0x1000)])),
        (info(0x2000, MAPPED, 32), sparse(0, 2, &[(0, 0x1000)])),
        (info(0x2000, MAPPED, 32), sparse(0, u32::MAX, &[(0, 0x1000)])),
        (info(0x2000, MAPPED, 32), sparse(0, 1, &[(0x1000, 0x2000)])),
        (info(0x2000, MAPPED, 32), sparse(0, 1, &[(u64::MAX - 0xfff, 0x1000)])),
        (info(0x2000, MAPPED, 32), sparse(0, 1, &[(0, 0)])),
        (info(0x2000, MAPPED, 32), sparse(0, 1, &[(0x10, 0x1000)])),
        (info(0x2000, MAPPED, 32), sparse(0, 1, &[(0, 0x1001)])),
    ];
    for (info, caps) in cases {
        let error = describe(info, &caps, vec![file(0x2000)]).unwrap_err();
        assert!(matches!(&error, Error::Lost(Lost::Violation(_))), "{info:?}: {error}");
    }
}

#[test]
fn a_region_that_cannot_be_mapped_says_why() {
    let cap = sparse(0, 1, &[(0, 0x1000)]);
    let error = describe(info(0x2000, MAPPED, 32), &cap, vec![file(0xfff)]).unwrap_err().to_string();
    assert!(error.contains("its file has 0xfff bytes"), "{error}");
    let odd = RegionInfo { offset: 8.into(), ..info(0x2000, MAPPED, 32) };
    let error = describe(odd, &cap, vec![file(0x2000)]).unwrap_err().to_string();
    assert!(error.contains("does not begin a page"), "{error}");
    let long = RegionInfo { argsz: 5000.into(), ..info(0x2000, MAPPED, 0) };
    let error = describe(long, &[], vec![file(0x2000)]).unwrap_err().to_string();
    assert!(error.contains("takes 5000 bytes to describe"), "{error}");
    let wide = info(1 << 40, MAPPED & !region::CAPS, 0);
    let error = describe(wide, &[], vec![file(1 << 40)]).unwrap_err().to_string();
    assert!(error.contains("0x10000000000 bytes of region 0 to be mapped"), "{error}");
}

#[test]
fn doorbells_that_are_taken_away_read_as_all_ones() {
    let backing = file(0x1000);
    let kept = backing.try_clone().unwrap();
    let found = describe(info(0x1000, MAPPED & !region::CAPS, 0), &[], vec![backing]).unwrap();
    ftruncate(&kept, 0).unwrap();
    let (memory, at) = found.mapped(8, 4).unwrap();
    assert_eq!(memory.load_u32(at, std::sync::atomic::Ordering::Relaxed), u32::MAX);
    assert!(memory.is_lost());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_description_is_read_or_refused(
        caps in prop::collection::vec(0u8..48, 0..120),
        flags in 0u32..16,
        cap_offset in 0u32..80,
    ) {
        if let Ok(found) = describe(info(0x4000, flags, cap_offset), &caps, vec![file(0x4000)]) {
            for area in &found.areas {
                prop_assert!(area.offset + area.memory.len() as u64 <= 0x4000);
            }
        }
    }
}
