//! What a hostile host, or a broken one, does: the target goes on, and the next host finds all as it was.

use std::{
    io::IoSlice,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::{Arc, atomic::Ordering},
};

use doorbell_platform::Region;
use doorbell_spec::{
    command::{self, Command, Dptr},
    register::{self, Csts},
    status::generic,
};
use doorbell_vfio_user::{
    Client, Error,
    wire::{self, DmaMapRequest, Header, dma, flags, irq, region},
};
use rustix::{
    fs::{MemfdFlags, ftruncate, memfd_create},
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg},
};
use zerocopy::{FromBytes, IntoBytes};

use super::{
    Bench, NOTHING, RAM_512, RAM_4096,
    host::{Host, IOVA, MEMORY, PAGE, PATIENCE, Queue, ready},
    wait_until,
};

/// A repeatable number.
fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *seed ^ *seed >> 33
}

fn works(host: &mut Host, queue: &mut Queue) {
    assert_eq!(host.status(queue, command::flush(RAM_512)), generic::SUCCESS);
}

#[test]
fn a_doorbell_with_a_value_that_cannot_be_stops_its_queue_and_no_other() {
    let bench = Bench::new();
    let mut host = Host::enabled(bench.directory());
    let event = host.submit_admin(command::async_event_request());
    let (mut bad, mut good) = (host.create(1, 8), host.create(2, 8));
    for garbage in [8, 9, 0xffff, 0x1_0000, u32::MAX] {
        host.store(register::sq_tail_doorbell(1, 4), garbage);
        works(&mut host, &mut good);
        assert!(host.peek(&mut bad).is_none(), "{garbage:#x}");
    }
    let told = host.next_admin();
    assert_eq!((told.cid.get(), told.result64()), (event, 0x01_01_00), "an error: invalid doorbell write value");
    works(&mut host, &mut bad);
    // Of the completion queue it is looked at only when that seems to be full.
    host.store(register::cq_head_doorbell(1, 4), 0xffff);
    for _ in 0..7 {
        host.put(&mut bad, command::flush(RAM_512));
    }
    host.ring(&bad);
    works(&mut host, &mut good);
    assert!(host.peek(&mut bad).is_none());
    host.free(&bad);
    for _ in 0..7 {
        host.next(&mut bad);
    }
    // The admin queue's own.
    host.store(register::sq_tail_doorbell(0, 4), 999);
    works(&mut host, &mut good);
    let admin = host.done(command::abort(1, 1));
    assert_eq!(admin, 1);
    // Queues that are not there, and the last bytes of the page.
    for at in (register::sq_tail_doorbell(3, 4)..host.bar.size).step_by(4) {
        host.store(at, 0xdead_beef);
    }
    works(&mut host, &mut good);
}

#[test]
fn memory_that_is_unmapped_is_not_touched_any_more() {
    let bench = Bench::new();
    let mut host = Host::enabled(bench.directory());
    let mut io = host.create(1, 16);
    // Data: an error of each command.
    let other = Arc::new(Region::shared(1 << 20, false).unwrap());
    let at = IOVA + 2 * MEMORY as u64;
    host.client.dma_map(&other, at).unwrap();
    let read = Command { dptr: Dptr::prp(at, 0), ..command::read(RAM_512, 0, 8, 0) };
    assert_eq!(host.status(&mut io, read), generic::SUCCESS);
    host.client.dma_unmap(&other, at).unwrap();
    assert_eq!(host.status(&mut io, read), generic::DATA_TRANSFER_ERROR.with_dnr());
    // A list of which the second half is elsewhere, and an SGL across two mappings, which are found piece by piece.
    host.client.dma_map(&other, IOVA + MEMORY as u64).unwrap();
    let mut read = command::read(RAM_512, 0, 16, 0);
    read.set_sgl(doorbell_spec::command::SglDescriptor::data_block(IOVA + MEMORY as u64 - 100, 8192));
    other.fill(0, 8192, 7);
    assert_eq!(host.status(&mut io, read), generic::SUCCESS);
    assert!(other.equals(0, &[0; 8092]) && other.equals(8092, &[7]));
    // Queues: the controller is done with until it is reset.
    let lonely = Queue { sq: 0, cq: 4096, ..host.queue(2, 16) };
    let last = 15;
    host.done(command::create_io_cq(2, last, IOVA + MEMORY as u64 + lonely.cq, None));
    host.done(command::create_io_sq(2, last, IOVA + MEMORY as u64 + lonely.sq, 2, 0));
    host.client.dma_unmap(&other, IOVA + MEMORY as u64).unwrap();
    let csts = host.csts();
    assert!(csts.cfs(), "{csts:?}");
    assert_eq!(bench.target.usage().io_queues, 0);
    host.put(&mut io, command::flush(RAM_512));
    host.ring(&io);
    host.write32(register::CC, 0);
    assert!(host.peek(&mut io).is_none());
    assert_eq!(host.csts(), Csts::new());
    host.enable();
    let mut io = host.create(1, 16);
    works(&mut host, &mut io);
    // All of it at once.
    let memory = host.memory.clone();
    host.client.dma_unmap(&memory, IOVA).unwrap();
    assert!(host.csts().cfs());
}

/// Maps memory by a message of our own that asks for no answer.
fn map(stream: &UnixStream, fd: Option<BorrowedFd<'_>>, address: u64, size: u64, access: u32) {
    let request = DmaMapRequest {
        argsz: (size_of::<DmaMapRequest>() as u32).into(),
        flags: access.into(),
        offset: 0.into(),
        addr: address.into(),
        size: size.into(),
    };
    let header = Header {
        cmd: wire::Command::DMA_MAP.0.into(),
        msg_id: 9999.into(),
        flags: flags::NO_REPLY.into(),
        msg_size: ((size_of::<Header>() + size_of::<DmaMapRequest>()) as u32).into(),
        ..Header::default()
    };
    let bytes = [header.as_bytes(), request.as_bytes()].concat();
    let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(&fds)));
    let sent = sendmsg(stream, &[IoSlice::new(&bytes)], &mut control, SendFlags::empty()).unwrap();
    assert_eq!(sent, bytes.len());
}

/// A connected host whose stream the test keeps a hand on.
fn with_stream(bench: &Bench) -> (Client, UnixStream) {
    let mut stream = None;
    wait_until("a seat", || {
        let found = UnixStream::connect(bench.directory().join("cntrl")).unwrap();
        let client = Client::over(found.try_clone().unwrap(), PATIENCE, Box::new(|| false));
        stream = client.ok().map(|client| (client, found));
        stream.is_some()
    });
    stream.unwrap()
}

fn shrinking(len: u64) -> (OwnedFd, Region) {
    let file = memfd_create("shrinks", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&file, len).unwrap();
    let region = Region::map(file.as_fd(), 0, len as usize, true, 0).unwrap();
    (file, region)
}

#[test]
fn memory_that_shrinks_ends_the_host_and_nothing_else() {
    let bench = Bench::new();
    const DATA: u64 = 0x9_0000_0000;
    // Data of a write, data of a read, an identify's, and the rings themselves.
    for case in 0..4 {
        let (client, stream) = with_stream(&bench);
        let (file, theirs) = shrinking(1 << 20);
        theirs.fill(0, 1 << 20, 0xee);
        let mut host = Host::over(client);
        map(&stream, Some(file.as_fd()), DATA, 1 << 20, dma::READ | dma::WRITE);
        host.enable();
        let mut io = host.queue(1, 16);
        let ring = if case == 3 { DATA } else { IOVA + io.sq };
        host.done(command::create_io_cq(1, 15, IOVA + io.cq, None));
        host.done(command::create_io_sq(1, 15, ring, 1, 0));
        let dptr = Dptr::prp(DATA + 4096, 0);
        let write = Command { dptr, ..command::write(RAM_4096, 5, 1, 0) };
        if case == 0 {
            assert_eq!(host.status(&mut io, write), generic::SUCCESS);
        }
        ftruncate(&file, 0).unwrap();
        match case {
            0 => _ = host.put(&mut io, Command { cdw10: 6.into(), ..write }),
            1 => _ = host.put(&mut io, Command { dptr, ..command::read(RAM_4096, 5, 1, 0) }),
            2 => {
                let identify = command::identify(
                    doorbell_spec::identify::Cns::CONTROLLER,
                    0,
                    doorbell_spec::identify::Csi::NVM,
                    0,
                );
                host.submit_admin(Command { dptr, ..identify });
            }
            _ => io.tail = 3,
        }
        host.ring(&io);
        let mut cc = [0; 4];
        wait_until("the host is let go of", || {
            host.client.read(region::BAR0, register::CC.into(), &mut cc).is_err_and(|error| error.is_final())
        });
        assert!(host.peek(&mut io).is_none(), "case {case}");
        bench.settle();
    }
    let mut host = Host::enabled(bench.directory());
    let mut io = host.create(1, 16);
    let page = host.pages(1);
    let read = |slba| Command { dptr: Dptr::prp(IOVA + page, 0), ..command::read(RAM_4096, slba, 1, 0) };
    assert_eq!(host.status(&mut io, read(5)), generic::SUCCESS);
    assert!(host.get(page, 4096) == [0xee; 4096], "what was written before is there");
    assert_eq!(host.status(&mut io, read(6)), generic::SUCCESS);
    assert!(host.get(page, 4096) == [0; 4096], "what was lost on its way is not");
}

#[test]
fn memory_that_is_read_only_is_not_written() {
    let bench = Bench::new();
    const DATA: u64 = 0x9_0000_0000;
    let (client, stream) = with_stream(&bench);
    let mut host = Host::over(client);
    let (file, theirs) = shrinking(1 << 20);
    map(&stream, Some(file.as_fd()), DATA, 1 << 20, dma::READ);
    // Of what is reached by messages the device does not even ask.
    map(&stream, None, 2 * DATA, 1 << 20, dma::READ);
    map(&stream, None, 3 * DATA, 1 << 20, dma::WRITE);
    host.enable();
    let mut io = host.create(1, 16);
    theirs.fill(0, 4096, 7);
    let error = generic::DATA_TRANSFER_ERROR.with_dnr();
    for at in [DATA, 2 * DATA] {
        let dptr = Dptr::prp(at, 0);
        for nsid in [RAM_512, NOTHING] {
            let read = Command { dptr, ..command::read(nsid, 8, 8, 0) };
            assert_eq!(host.status(&mut io, read), error, "{nsid} {at:#x}");
        }
        let write = Command { dptr, ..command::write(NOTHING, 0, 8, 0) };
        assert_eq!(host.status(&mut io, write), generic::SUCCESS, "{at:#x}");
        assert_eq!(host.ask(command::create_io_cq(2, 15, at, None)).status(), error, "a ring at {at:#x}");
    }
    let write = |at| Command { dptr: Dptr::prp(at, 0), ..command::write(RAM_512, 0, 8, 0) };
    assert_eq!(host.status(&mut io, write(DATA)), generic::SUCCESS);
    assert_eq!(host.status(&mut io, write(3 * DATA)), error);
    assert!(theirs.equals(0, &[7; 4096]));
}

#[test]
fn a_host_that_is_gone_leaves_no_half_of_a_write() {
    let bench = Bench::new();
    let data: Vec<Vec<u8>> = (0..8u8).map(|at| vec![0x10 + at; 4096]).collect();
    for round in 0..8 {
        let mut host = loop {
            if let Ok(host) = Host::try_connect(bench.directory()) {
                break host;
            }
        };
        host.enable();
        let mut io = host.create(1, 256);
        let pages = host.pages(8);
        for (at, page) in data.iter().enumerate() {
            host.memory.write(pages + at as u64 * 4096, page);
        }
        for at in 0..255u64 {
            let dptr = Dptr::prp(IOVA + pages + (at + round) % 8 * 4096, 0);
            host.put(&mut io, Command { dptr, ..command::write(RAM_4096, at % 32, 1, 0) });
        }
        host.ring(&io);
        if round % 2 == 0 {
            host.see(&mut io);
        }
        // Gone with all of it under way.
        drop(host);
    }
    bench.settle();
    let mut host = Host::enabled(bench.directory());
    let mut io = host.create(1, 16);
    let page = host.pages(1);
    for slba in 0..32 {
        let read = Command { dptr: Dptr::prp(IOVA + page, 0), ..command::read(RAM_4096, slba, 1, 0) };
        assert_eq!(host.status(&mut io, read), generic::SUCCESS);
        let found = host.get(page, 4096);
        assert!(found.iter().all(|&byte| byte == found[0]), "block {slba} is torn");
    }
}

#[test]
fn any_command_is_answered_and_none_does_harm() {
    let bench = Bench::new();
    let mut host = Host::enabled(bench.directory());
    let mut seed = 1;
    let mut io = host.create(1, 64);
    let pages = host.pages(4);
    for at in 0..20_000u64 {
        let mut bytes = [0u8; 64];
        bytes.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&random(&mut seed).to_le_bytes()));
        let mut command = Command::read_from_bytes(&bytes).unwrap();
        // One in two has an opcode and a namespace that there are, and data pointers at or near memory.
        if at % 2 == 0 {
            command.opc = [0, 1, 2, 5, 8, 9, 4, 6, 0x0c, 0x7c][(random(&mut seed) % 10) as usize];
            command.nsid = (random(&mut seed) as u32 % 6).into();
            command.flags = [0, 0, 0x40, 0x80][(random(&mut seed) % 4) as usize];
            command.cdw10 = (random(&mut seed) as u32 % 9000).into();
            command.cdw11 = 0.into();
            command.cdw12 = (random(&mut seed) as u32 % 300).into();
            let near = |seed: &mut u64| IOVA + pages + random(seed) % (5 * PAGE) / 4 * 4;
            command.dptr = Dptr::prp(near(&mut seed), near(&mut seed));
        }
        let admin = at % 4 < 2;
        if admin && (command.opc == 0x0c || command.opc == 0) {
            // Event requests stay, and the queue of this test does not go.
            command.opc = 6;
        }
        let completion = if admin { host.ask(command) } else { host.run(&mut io, command) };
        let _ = completion;
    }
    assert!(!host.csts().cfs());
    works(&mut host, &mut io);
    drop(host);
    bench.settle();
    Host::enabled(bench.directory());
}

#[test]
fn any_register_can_be_written_and_none_does_harm() {
    let bench = Bench::new();
    let mut host = Host::connect(bench.directory());
    let mut seed = 7;
    for at in 0..5_000 {
        let value = random(&mut seed);
        let (index, size) = [(region::BAR0, 0x80), (region::BAR0, 0x1100), (region::CONFIG, 256), (4, 4096)][at % 4];
        let len = [1, 2, 4, 8, 16][(random(&mut seed) % 5) as usize];
        let offset = random(&mut seed) % (size - 16);
        let bytes = [value.to_le_bytes(), value.to_le_bytes()].concat();
        host.client.write(index, offset, &bytes[..len]).unwrap();
        host.client.read(index, offset, &mut [0; 16][..len]).unwrap();
        if at % 100 == 0 {
            host.write32(register::CC, 0);
            host.write32(register::CC, ready().into_bits());
        }
    }
    for index in [1, 2, 3, 5, 6, 8, 9, u32::MAX] {
        let error = host.client.read(index, 0, &mut [0; 4]).unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "region {index}: {error}");
    }
    assert!(host.client.set_irqs(irq::MSIX, 129, &[host.memory.file().unwrap()]).is_err());
    host.client.reset().unwrap();
    host.enable();
    let mut io = host.create(1, 16);
    works(&mut host, &mut io);
}

#[test]
fn a_ring_that_is_overrun_is_a_ring_of_whatever_it_holds() {
    let bench = Bench::new();
    let mut host = Host::enabled(bench.directory());
    let mut io = host.create(1, 64);
    // Entries that nobody wrote are commands too: flushes of no namespace.
    for _ in 0..50 {
        io.tail = (io.tail + 63) % 64;
        host.ring(&io);
        for _ in 0..63 {
            assert_eq!(host.next(&mut io).status(), generic::INVALID_NAMESPACE.with_dnr());
        }
    }
    // The host changes them all the time.
    let stop = std::sync::atomic::AtomicBool::new(false);
    let (memory, sq) = (host.memory.clone(), io.sq);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut seed = 3;
            while !stop.load(Ordering::Relaxed) {
                let at = random(&mut seed) % 512;
                memory.store_u64(sq + at * 8, random(&mut seed), Ordering::Relaxed);
            }
        });
        for _ in 0..200 {
            io.tail = (io.tail + 63) % 64;
            host.ring(&io);
            (0..63).for_each(|_| _ = host.next(&mut io));
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(!host.csts().cfs());
}
