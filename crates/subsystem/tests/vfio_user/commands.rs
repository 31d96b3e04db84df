//! What commands do, however their data is described.

use doorbell_spec::{
    command::AdminOpcode,
    command::{self, Command, Dptr, DsmRange, LogRequest, NvmOpcode, SglDescriptor, control, dsm},
    feature::{Fid, Select},
    identify::{Cns, Controller, Csi},
    log::{CommandEffects, Lid},
    status::{Status, command_specific, generic, media},
};
use zerocopy::{FromBytes, IntoBytes};

use super::{
    Bench, FILE, NOTHING, RAM_512, RAM_4096,
    host::{Host, IOVA, PAGE, Queue},
    pattern,
};

/// Describes `len` bytes that lie scattered over fresh pages of a host's memory, beginning `skew` bytes into the first: the data
/// pointer and the places of the pieces.
fn scatter(host: &mut Host, skew: u64, len: u64) -> (Dptr, Vec<(u64, usize)>) {
    let (mut left, mut within, mut pieces) = (len, skew, Vec::new());
    while left > 0 {
        // Every other page, so that no two touch.
        let page = host.pages(2);
        let part = left.min(PAGE - within);
        pieces.push((page + within, part as usize));
        (left, within) = (left - part, 0);
    }
    let entries: Vec<u64> = pieces.iter().map(|&(at, _)| IOVA + at).collect();
    let second = match entries.len() {
        1 => 0,
        2 => entries[1],
        count => {
            // A list that begins near the end of its page and goes on in another.
            let (first, rest) = (host.pages(1), host.pages(1));
            let room = 3.min(count - 1);
            let at = first + PAGE - 8 * room as u64;
            let (here, there) = match count - 1 > room {
                true => entries[1..].split_at(room - 1),
                false => (&entries[1..], &[][..]),
            };
            host.memory.write(at, here.as_bytes());
            if !there.is_empty() {
                host.memory.write(first + PAGE - 8, (IOVA + rest).as_bytes());
                host.memory.write(rest, there.as_bytes());
            }
            IOVA + at
        }
    };
    (Dptr::prp(entries[0], second), pieces)
}

fn spread(host: &Host, pieces: &[(u64, usize)], bytes: &[u8]) {
    let mut rest = bytes;
    for &(at, len) in pieces {
        host.memory.write(at, &rest[..len]);
        rest = &rest[len..];
    }
}

fn collect(host: &Host, pieces: &[(u64, usize)]) -> Vec<u8> {
    pieces.iter().flat_map(|&(at, len)| host.get(at, len)).collect()
}

/// An SGL of segments for pieces, two descriptors in each but the last.
fn segments(host: &mut Host, pieces: &[(u64, usize)]) -> SglDescriptor {
    let (here, there) = if pieces.len() > 2 { pieces.split_at(2) } else { (pieces, &[][..]) };
    let mut list: Vec<_> = here.iter().map(|&(at, len)| SglDescriptor::data_block(IOVA + at, len as u32)).collect();
    if !there.is_empty() {
        list.push(segments(host, there));
    }
    let at = host.pages(1);
    host.memory.write(at, list.as_bytes());
    let len = (list.len() * 16) as u32;
    match there.is_empty() {
        true => SglDescriptor::last_segment(IOVA + at, len),
        false => SglDescriptor::segment(IOVA + at, len),
    }
}

#[test]
fn blocks_come_back_however_they_are_described() {
    let bench = Bench::new();
    blocks_come_back(&mut Host::enabled(bench.directory()));
}

pub fn blocks_come_back(host: &mut Host) {
    let mut io = host.create(1, 16);
    for (nsid, block) in [(RAM_512, 512u64), (RAM_4096, 4096), (FILE, 512)] {
        for (slba, bytes, skew) in
            [(0u64, 4096u64, 0u64), (5, 4096, 512), (3, 8192, 4), (9, 32768, 2048), (1, 131_072, 0)]
        {
            let blocks = (bytes / block) as u32;
            let data = pattern(nsid + blocks, bytes as usize);
            let (dptr, pieces) = scatter(host, skew, bytes);
            spread(host, &pieces, &data);
            let write = Command { dptr, ..command::write(nsid, slba, blocks, 0) };
            assert_eq!(host.status(&mut io, write), generic::SUCCESS, "{nsid} {slba} {bytes}");
            let compare = Command { dptr, ..command::compare(nsid, slba, blocks, 0) };
            assert_eq!(host.status(&mut io, compare), generic::SUCCESS);
            host.memory.write(pieces[0].0, &[!data[0]]);
            assert_eq!(host.status(&mut io, compare), media::COMPARE_FAILURE);

            let (dptr, pieces) = scatter(host, skew, bytes);
            let read = Command { dptr, ..command::read(nsid, slba, blocks, 0) };
            assert_eq!(host.status(&mut io, read), generic::SUCCESS);
            assert!(collect(host, &pieces) == data, "{nsid} {slba} {bytes} by PRP entries");

            spread(host, &pieces, &vec![0; data.len()]);
            let mut read = command::read(nsid, slba, blocks, 0);
            read.set_sgl(segments(host, &pieces));
            assert_eq!(host.status(&mut io, read), generic::SUCCESS);
            assert!(collect(host, &pieces) == data, "{nsid} {slba} {bytes} by segments");

            let at = host.pages(bytes / PAGE + 1) + 1;
            read.set_sgl(SglDescriptor::data_block(IOVA + at, bytes as u32));
            assert_eq!(host.status(&mut io, read), generic::SUCCESS);
            assert!(host.get(at, data.len()) == data, "{nsid} {slba} {bytes} in one block at any byte");
        }
    }
}

#[test]
fn blocks_become_zero_and_nothing_reads_as_nothing() {
    let bench = Bench::new();
    blocks_become_zero(&mut Host::enabled(bench.directory()));
}

pub fn blocks_become_zero(host: &mut Host) {
    let mut io = host.create(1, 16);
    let page = host.pages(1);
    for nsid in [RAM_512, FILE] {
        let full = |host: &mut Host, io: &mut Queue| {
            host.memory.fill(page, PAGE as usize, 7);
            let write = Command { dptr: Dptr::prp(IOVA + page, 0), ..command::write(nsid, 16, 8, 0) };
            assert_eq!(host.status(io, write), generic::SUCCESS);
        };
        let content = |host: &mut Host, io: &mut Queue| {
            let read = Command { dptr: Dptr::prp(IOVA + page, 0), ..command::read(nsid, 16, 8, 0) };
            assert_eq!(host.status(io, read), generic::SUCCESS);
            host.get(page, PAGE as usize)
        };
        full(host, &mut io);
        let zeroes = command::write_zeroes(nsid, 17, 6, control::DEAC);
        assert_eq!(host.status(&mut io, zeroes), generic::SUCCESS);
        assert!(content(host, &mut io) == [&[7; 512][..], &[0; 3072], &[7; 512]].concat());
        full(host, &mut io);
        let ranges = [DsmRange { slba: 16.into(), nlb: 4.into(), ..DsmRange::default() }];
        let list = host.pages(1);
        host.memory.write(list, ranges.as_bytes());
        let trim = Command { dptr: Dptr::prp(IOVA + list, 0), ..command::dataset_management(nsid, 1, dsm::AD) };
        assert_eq!(host.status(&mut io, trim), generic::SUCCESS);
        assert!(content(host, &mut io)[..2048] == [0; 2048]);
        assert_eq!(host.status(&mut io, command::flush(nsid)), generic::SUCCESS);
    }
    // What keeps nothing leaves the memory of a read as it was, and still wants it to be there.
    host.memory.fill(page, PAGE as usize, 7);
    let read = |prp| Command { dptr: Dptr::prp(prp, 0), ..command::read(NOTHING, 0, 8, 0) };
    assert_eq!(host.status(&mut io, read(IOVA + page)), generic::SUCCESS);
    assert!(host.get(page, PAGE as usize) == [7; PAGE as usize]);
    assert_eq!(host.status(&mut io, read(0)), generic::DATA_TRANSFER_ERROR.with_dnr());
}

#[test]
fn data_that_cannot_be_had_is_an_error_of_the_command() {
    let bench = Bench::new();
    data_cannot_be_had(&mut Host::enabled(bench.directory()));
}

pub fn data_cannot_be_had(host: &mut Host) {
    let mut io = host.create(1, 16);
    let data = host.pages(4);
    let list = host.pages(2);
    let (page, list_at) = (IOVA + data, IOVA + list);
    let end = IOVA + super::host::MEMORY as u64;
    let write_list = |host: &Host, entries: &[u64]| host.memory.write(list, entries.as_bytes());
    let dnr = Status::with_dnr;

    // Of 8 blocks of 512 bytes, then of 32.
    for (prp1, prp2, blocks, entries, status) in [
        (page + 1, 0, 8, vec![], generic::PRP_OFFSET_INVALID),
        (page + 2, 0, 8, vec![], generic::PRP_OFFSET_INVALID),
        (page + 512, page + 4096 + 512, 8, vec![], generic::PRP_OFFSET_INVALID),
        (0, 0, 8, vec![], generic::DATA_TRANSFER_ERROR),
        (end, 0, 8, vec![], generic::DATA_TRANSFER_ERROR),
        (u64::MAX - 0xfff, 0, 8, vec![], generic::DATA_TRANSFER_ERROR),
        (end - 512, end, 8, vec![], generic::DATA_TRANSFER_ERROR),
        (page, list_at + 4, 32, vec![], generic::PRP_OFFSET_INVALID),
        (page, 0, 32, vec![], generic::DATA_TRANSFER_ERROR),
        (page, u64::MAX - 7, 32, vec![], generic::DATA_TRANSFER_ERROR),
        (page, list_at, 32, vec![page, page + 8, page], generic::PRP_OFFSET_INVALID),
        (page, list_at, 32, vec![page, end, page], generic::DATA_TRANSFER_ERROR),
        // The last entry of a page names the next, which begins a page.
        (page, list_at + 4096 - 8, 32, vec![], generic::DATA_TRANSFER_ERROR),
    ] {
        write_list(host, &entries);
        for opcode in [NvmOpcode::READ, NvmOpcode::WRITE, NvmOpcode::COMPARE] {
            let command =
                Command { opc: opcode.0, dptr: Dptr::prp(prp1, prp2), ..command::read(RAM_512, 0, blocks, 0) };
            assert_eq!(host.status(&mut io, command), dnr(status), "{opcode} {prp1:#x} {prp2:#x} {entries:#x?}");
        }
    }
    host.memory.write(list + 4096 - 8, (page + 8).as_bytes());
    let command = Command { dptr: Dptr::prp(page, list_at + 4096 - 8), ..command::read(RAM_512, 0, 32, 0) };
    assert_eq!(host.status(&mut io, command), dnr(generic::PRP_OFFSET_INVALID));

    let block = SglDescriptor::data_block;
    for (sgl, descriptors, status) in [
        (block(page, 4095), vec![], generic::DATA_SGL_LENGTH_INVALID),
        (block(page, 4097), vec![], generic::DATA_SGL_LENGTH_INVALID),
        (block(0, 4096), vec![], generic::DATA_TRANSFER_ERROR),
        (block(end - 4095, 4096), vec![], generic::DATA_TRANSFER_ERROR),
        (block(u64::MAX, 4096), vec![], generic::DATA_TRANSFER_ERROR),
        (SglDescriptor::transport(4096), vec![], generic::SGL_TYPE_INVALID),
        (SglDescriptor::in_capsule(0, 4096), vec![], generic::SGL_TYPE_INVALID),
        (SglDescriptor::bit_bucket(4096), vec![], generic::SGL_TYPE_INVALID),
        (SglDescriptor::keyed(page, 4096, 1, false), vec![], generic::SGL_TYPE_INVALID),
        (SglDescriptor { id: 0x9f, ..block(page, 4096) }, vec![], generic::SGL_TYPE_INVALID),
        (SglDescriptor::last_segment(list_at, 0), vec![], generic::INVALID_SGL_SEGMENT),
        (SglDescriptor::last_segment(list_at, 15), vec![], generic::INVALID_SGL_SEGMENT),
        (SglDescriptor::last_segment(0, 16), vec![], generic::DATA_TRANSFER_ERROR),
        (SglDescriptor::last_segment(u64::MAX - 15, 4096), vec![], generic::DATA_TRANSFER_ERROR),
        (SglDescriptor::last_segment(list_at, 0xffff_fff0), vec![], generic::INVALID_SGL_COUNT),
        (SglDescriptor::last_segment(list_at, 16), vec![block(page, 100)], generic::DATA_SGL_LENGTH_INVALID),
        (
            SglDescriptor::last_segment(list_at, 32),
            vec![block(page, 4096), block(page, 1)],
            generic::DATA_SGL_LENGTH_INVALID,
        ),
        (
            SglDescriptor::last_segment(list_at, 16),
            vec![SglDescriptor::last_segment(list_at, 16)],
            generic::INVALID_SGL_SEGMENT,
        ),
        (SglDescriptor::segment(list_at, 16), vec![block(page, 4096)], generic::INVALID_SGL_SEGMENT),
        (
            SglDescriptor::segment(list_at, 32),
            vec![SglDescriptor::last_segment(list_at, 16), block(page, 4096)],
            generic::INVALID_SGL_SEGMENT,
        ),
        // A segment that names itself.
        (SglDescriptor::segment(list_at, 16), vec![SglDescriptor::segment(list_at, 16)], generic::INVALID_SGL_COUNT),
        (SglDescriptor::last_segment(list_at, 16), vec![SglDescriptor::transport(4096)], generic::SGL_TYPE_INVALID),
    ] {
        host.memory.write(list, descriptors.as_bytes());
        for opcode in [NvmOpcode::READ, NvmOpcode::WRITE] {
            let mut command = Command { opc: opcode.0, ..command::read(RAM_512, 0, 8, 0) };
            command.set_sgl(sgl);
            assert_eq!(host.status(&mut io, command), dnr(status), "{opcode} {sgl:?} {descriptors:?}");
        }
    }
    let reserved = Command { flags: 0xc0, dptr: Dptr::prp(page, 0), ..command::read(RAM_512, 0, 8, 0) };
    assert_eq!(host.status(&mut io, reserved), dnr(generic::INVALID_FIELD));
    let fused = Command { flags: 1, dptr: Dptr::prp(page, 0), ..command::read(RAM_512, 0, 8, 0) };
    assert_eq!(host.status(&mut io, fused), dnr(generic::INVALID_FIELD));
    let fabrics = Command { opc: 0x7f, ..Command::default() };
    assert_eq!(host.status(&mut io, fabrics), dnr(generic::INVALID_OPCODE));
    assert_eq!(host.ask(fabrics).status(), dnr(generic::INVALID_OPCODE));
    // Nothing was written by all that.
    let read = Command { dptr: Dptr::prp(page, 0), ..command::read(RAM_512, 0, 8, 0) };
    assert_eq!(host.status(&mut io, read), generic::SUCCESS);
    assert!(host.get(data, 4096) == [0; 4096]);
}

#[test]
fn the_controller_says_that_it_is_one_in_memory() {
    let bench = Bench::new();
    let mut host = Host::enabled(bench.directory());
    let data = host.ask_page(command::identify(Cns::CONTROLLER, 0, Csi::NVM, 0));
    let data = Controller::read_from_bytes(&data[..]).unwrap();
    assert_eq!((data.ioccsz.get(), data.iorcsz.get(), data.msdbd, data.ofcs.get()), (0, 0, 0, 0));
    assert_eq!((data.sgls.get() & 3, data.oacs.get() >> 8 & 1, data.mdts, data.cntrltype), (1, 1, 8, 1));
    assert_eq!(data.vid.get(), data.ssvid.get());
    let log = LogRequest { bytes: 4096, ..LogRequest::new(Lid::COMMANDS_SUPPORTED_AND_EFFECTS) };
    let effects = host.ask_page(command::get_log_page(&log));
    let effects = CommandEffects::read_from_bytes(&effects[..]).unwrap();
    for opcode in [AdminOpcode::CREATE_IO_SQ, AdminOpcode::DOORBELL_BUFFER_CONFIG, AdminOpcode::IDENTIFY] {
        assert_ne!(effects.admin(opcode), 0, "{opcode}");
    }
    // Interrupts can be set up, for vectors that there are.
    host.done(command::set_features(Fid::INTERRUPT_COALESCING, false, 0, 0x0203));
    assert_eq!(host.done(command::get_features(Fid::INTERRUPT_COALESCING, Select::CURRENT, 0, 0)), 0x0203);
    host.done(command::set_features(Fid::INTERRUPT_VECTOR_CONFIGURATION, false, 0, 0x1_0005));
    let vector = |vector| command::get_features(Fid::INTERRUPT_VECTOR_CONFIGURATION, Select::CURRENT, 0, vector);
    assert_eq!([5, 6].map(|at| host.done(vector(at))), [0x1_0005, 6]);
    assert_eq!(host.ask(vector(200)).status(), generic::INVALID_FIELD.with_dnr());
    // Identify by an SGL, which Admin commands have not, and to where nothing is.
    let mut identify = command::identify(Cns::CONTROLLER, 0, Csi::NVM, 0);
    assert_eq!(host.ask(identify).status(), generic::DATA_TRANSFER_ERROR.with_dnr());
    identify.set_sgl(SglDescriptor::data_block(IOVA, 4096));
    assert_eq!(host.ask(identify).status(), generic::INVALID_FIELD.with_dnr());
    let sequence = command::set_features(Fid::HOST_IDENTIFIER, false, 0, 1);
    assert_eq!(host.ask(sequence).status(), generic::INVALID_FIELD.with_dnr());
}

#[test]
fn queues_are_made_and_unmade_by_the_rules() {
    let bench = Bench::new();
    let mut host = Host::enabled(bench.directory());
    host.want_queues(3);
    let page = IOVA + host.pages(1);
    let (cq, sq) = (command::create_io_cq, command::create_io_sq);
    let discontiguous = |mut command: Command| {
        command.cdw11 = (command.cdw11.get() & !1).into();
        command
    };
    let specific = command_specific::INVALID_QUEUE_IDENTIFIER;
    let check = |host: &mut Host, command: Command, status: Status| {
        let wanted = if status.is_success() { status } else { status.with_dnr() };
        assert_eq!(host.ask(command).status(), wanted, "{command:?}");
    };
    for (command, status) in [
        (cq(0, 15, page, None), specific),
        (cq(4, 15, page, None), specific),
        (cq(u16::MAX, 15, page, None), specific),
        (cq(1, 0, page, None), command_specific::INVALID_QUEUE_SIZE),
        (cq(1, 4096, page, None), command_specific::INVALID_QUEUE_SIZE),
        (discontiguous(cq(1, 15, page, None)), generic::INVALID_FIELD),
        (cq(1, 15, page + 64, None), generic::PRP_OFFSET_INVALID),
        (cq(1, 15, 0, None), generic::DATA_TRANSFER_ERROR),
        (cq(1, 4095, IOVA + super::host::MEMORY as u64 - PAGE, None), generic::DATA_TRANSFER_ERROR),
        (cq(1, 15, page, Some(129)), command_specific::INVALID_INTERRUPT_VECTOR),
        (sq(1, 15, page, 1, 0), command_specific::COMPLETION_QUEUE_INVALID),
        (cq(1, 15, page, Some(128)), generic::SUCCESS),
        (cq(1, 15, page, None), specific),
        (sq(0, 15, page, 1, 0), specific),
        (sq(4, 15, page, 1, 0), specific),
        (sq(1, 15, page, 0, 0), specific),
        (sq(1, 15, page, 4, 0), specific),
        (sq(1, 15, page, 2, 0), command_specific::COMPLETION_QUEUE_INVALID),
        (sq(1, 0, page, 1, 0), command_specific::INVALID_QUEUE_SIZE),
        (discontiguous(sq(1, 15, page, 1, 0)), generic::INVALID_FIELD),
        (sq(1, 15, page + 64, 1, 0), generic::PRP_OFFSET_INVALID),
        (sq(1, 15, page, 1, 0), generic::SUCCESS),
        (sq(1, 15, page, 1, 0), specific),
        (sq(2, 15, page, 1, 0), generic::SUCCESS),
        (command::delete_io_cq(1), command_specific::INVALID_QUEUE_DELETION),
        (command::delete_io_cq(0), specific),
        (command::delete_io_cq(2), specific),
        (command::delete_io_cq(u16::MAX), specific),
        (command::delete_io_sq(0), specific),
        (command::delete_io_sq(3), specific),
        (command::delete_io_sq(u16::MAX), specific),
        (command::set_features(Fid::NUMBER_OF_QUEUES, false, 0, 0x1_0001), generic::COMMAND_SEQUENCE_ERROR),
        (command::delete_io_sq(1), generic::SUCCESS),
        (command::delete_io_cq(1), command_specific::INVALID_QUEUE_DELETION),
        (command::delete_io_sq(2), generic::SUCCESS),
        (command::delete_io_cq(1), generic::SUCCESS),
        (command::set_features(Fid::NUMBER_OF_QUEUES, false, 0, 0x1_0001), generic::SUCCESS),
        (cq(3, 15, page, None), specific),
    ] {
        check(&mut host, command, status);
    }
    // A queue that was made anew begins anew.
    for _ in 0..2 {
        let mut io = host.create(1, 4);
        for _ in 0..5 {
            assert_eq!(host.status(&mut io, command::flush(RAM_512)), generic::SUCCESS);
        }
        host.done(command::delete_io_sq(1));
        host.done(command::delete_io_cq(1));
    }
    assert_eq!(bench.target.usage().io_queues, 0);
}

#[test]
fn rings_go_round_and_a_full_completion_queue_holds_commands_back() {
    let bench = Bench::new();
    rings_go_round(&mut Host::enabled(bench.directory()));
}

pub fn rings_go_round(host: &mut Host) {
    // Two submission queues that share a small completion queue.
    let (mut first, mut second) = (host.queue(1, 8), host.queue(2, 64));
    host.create_as(&first, None);
    host.done(command::create_io_sq(2, 63, IOVA + second.sq, 1, 0));
    let mut seen = Vec::new();
    for round in 0..5u16 {
        for _ in 0..7 {
            host.put(&mut first, command::flush(RAM_512));
        }
        for _ in 0..60 {
            host.put(&mut second, command::flush(RAM_4096));
        }
        (0..).zip([&first, &second]).for_each(|(_, queue): (u8, _)| host.ring(queue));
        for _ in 0..67 {
            let completion = host.see(&mut first);
            assert!(completion.status().is_success());
            seen.push((completion.sqid.get(), completion.cid.get()));
            // Told only now and then, and not before it is full.
            if first.head % 7 == u32::from(round) {
                host.free(&first);
            }
            // Seven are there before the next can come.
            if seen.len() % 7 == 0 {
                host.free(&first);
            }
        }
        host.free(&first);
        assert!(host.peek(&mut first).is_none(), "more completions than commands");
    }
    let mut wanted: Vec<_> = (7..7 + 35).map(|cid| (1, cid)).chain((7..7 + 300).map(|cid| (2, cid))).collect();
    seen.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(seen, wanted);
}
