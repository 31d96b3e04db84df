//! Hosts that get the transfer of data wrong, break it off, or leave it lying.

use std::time::{Duration, Instant};

use doorbell_hostile::{End, HostPeer, NQN, PATIENCE, Part, Setup, Way};
use doorbell_spec::{
    command::{self, DsmRange, SglDescriptor, dsm},
    fabrics::{self, CNTLID_DYNAMIC},
    status::{Status, generic},
    tcp::{Fes, R2t},
};
use zerocopy::IntoBytes;

use super::{BLOCK, config, hasty, pattern, returns_to, serves_an_honest_host, start};

/// Bytes of the write whose data goes wrong.
const LEN: u32 = 64 << 10;

/// An honest answer to an R2T with one thing wrong: the part and its length.
type Wrong = fn(&mut Part, &mut u32);

#[test]
fn data_out_of_order_ends_the_connection_and_writes_nothing() {
    let (target, address) = start(config());
    let old = pattern(1, 1 << 20);
    let (_admin, cntlid) = HostPeer::admin(address, NQN, Setup::default());
    let mut io = HostPeer::io(address, cntlid, 1, NQN, Setup::default());
    assert_eq!(io.write(1, 0, BLOCK, &old, Way::Requested), Status::SUCCESS);
    let before = target.usage();
    let table: [(&str, Wrong, Fes, u32); 9] = [
        ("another transfer tag", |part, _| part.ttag += 1, Fes::INVALID_PDU_HEADER_FIELD, 10),
        ("a transfer tag far away", |part, _| part.ttag = u16::MAX, Fes::INVALID_PDU_HEADER_FIELD, 10),
        ("another command", |part, _| part.cccid += 1, Fes::INVALID_PDU_HEADER_FIELD, 8),
        ("a hole before it", |part, _| part.datao = 512, Fes::DATA_TRANSFER_OUT_OF_RANGE, 12),
        ("an offset beyond the command", |part, _| part.datao = u32::MAX - 3, Fes::DATA_TRANSFER_OUT_OF_RANGE, 12),
        ("more than was asked for", |_, len| *len += 4, Fes::DATA_TRANSFER_OUT_OF_RANGE, 12),
        ("nothing", |_, len| *len = 0, Fes::DATA_TRANSFER_OUT_OF_RANGE, 12),
        ("the last flag too early", |_, len| *len -= 512, Fes::INVALID_PDU_HEADER_FIELD, 1),
        ("the last flag missing", |part, _| part.last = false, Fes::INVALID_PDU_HEADER_FIELD, 1),
    ];
    for (what, wrong, status, information) in table {
        let mut io = HostPeer::io(address, cntlid, 2, NQN, Setup::default());
        let request = ask(&mut io, LEN);
        let (mut part, mut len) = (honest(&request), LEN);
        wrong(&mut part, &mut len);
        let _ = io.wire.send(&io.wire.framing.h2c_data(part, &vec![9; len as usize]));
        assert_eq!(io.ended(), End::Terminated { fes: status, fei: information }, "{what}");
        drop(io);
        returns_to(&target, before);
    }
    assert!(io.read(1, 0, BLOCK, 2048) == old);
    serves_an_honest_host(address);
}

#[test]
fn data_beyond_maxh2cdata_ends_the_connection() {
    let (_target, address) = start(config());
    let (_admin, cntlid) = HostPeer::admin(address, NQN, Setup::default());
    let mut io = HostPeer::io(address, cntlid, 1, NQN, Setup::default());
    let request = ask(&mut io, 1 << 20);
    assert!(io.maxh2cdata < 1 << 20);
    let bytes = vec![9; io.maxh2cdata as usize + 4];
    let _ = io.wire.send(&io.wire.framing.h2c_data(Part { last: false, ..honest(&request) }, &bytes));
    assert_eq!(io.ended(), End::Terminated { fes: Fes::DATA_TRANSFER_LIMIT_EXCEEDED, fei: 0 });
    serves_an_honest_host(address);
}

#[test]
fn data_nobody_has_asked_for_ends_the_connection() {
    let (_target, address) = start(config());
    let (_admin, cntlid) = HostPeer::admin(address, NQN, Setup::default());
    let unasked = End::Terminated { fes: Fes::INVALID_PDU_HEADER_FIELD, fei: 10 };
    // Before any R2T, with the tag that the first one will have.
    let mut io = HostPeer::io(address, cntlid, 1, NQN, Setup::default());
    let part = Part { last: true, ..Part::default() };
    io.wire.send(&io.wire.framing.h2c_data(part, &[9; 512])).unwrap();
    assert_eq!(io.ended(), unasked);
    // Twice: the second time the command is over.
    let mut io = HostPeer::io(address, cntlid, 2, NQN, Setup::default());
    let request = ask(&mut io, LEN);
    let once = io.wire.framing.h2c_data(honest(&request), &pattern(3, LEN as usize));
    io.wire.send(&[&once[..], &once[..]].concat()).unwrap();
    assert_eq!(io.ended(), unasked);
    // Before Connect.
    let mut early = HostPeer::open(address, Setup::default());
    early.wire.send(&early.wire.framing.h2c_data(part, &[9; 512])).unwrap();
    assert_eq!(early.ended(), unasked);
    let mut honest = HostPeer::io(address, cntlid, 3, NQN, Setup::default());
    assert!(honest.read(1, 0, BLOCK, LEN / BLOCK) == pattern(3, LEN as usize), "the first time counts");
}

#[test]
fn more_data_in_a_capsule_than_fits_ends_the_connection() {
    let (_target, address) = start(config());
    let (mut admin, cntlid) = HostPeer::admin(address, NQN, Setup::default());
    let mut io = HostPeer::io(address, cntlid, 1, NQN, Setup::default());
    let limit = End::Terminated { fes: Fes::DATA_TRANSFER_LIMIT_EXCEEDED, fei: 0 };
    let mut write = command::write(1, 0, 17, 0);
    write.set_sgl(SglDescriptor::in_capsule(0, 8704));
    io.submit(write, &[9; 8704]);
    assert_eq!(io.ended(), limit);
    let mut connect = fabrics::connect(0, 31, 0, 0);
    connect.set_sgl(SglDescriptor::in_capsule(0, 8704));
    admin.submit(connect, &[9; 8704]);
    assert_eq!(admin.ended(), limit);
    serves_an_honest_host(address);
}

#[test]
fn more_commands_than_the_queue_has_entries_end_the_connection() {
    let (_target, address) = start(config());
    let (_admin, cntlid) = HostPeer::admin(address, NQN, Setup::default());
    let mut io = HostPeer::io(address, cntlid, 1, NQN, Setup { sqsize: 7, ..Setup::default() });
    let mut write = command::write(1, 0, 128, 0);
    write.set_sgl(SglDescriptor::transport(LEN));
    (0..9).for_each(|_| {
        io.submit(write, &[]);
    });
    assert_eq!(io.ended(), End::Terminated { fes: Fes::PDU_SEQUENCE_ERROR, fei: 0 });
    serves_an_honest_host(address);
}

/// A write that is cut off anywhere leaves the blocks as they were, and one that is cut off behind its end leaves each frame (AWUN) as
/// it was or as it was to be. Either way everything that it took comes back.
#[test]
fn a_host_gone_in_the_middle_of_a_write_tears_no_block_and_leaves_nothing_behind() {
    let (target, address) = start(config());
    let (_admin, cntlid) = HostPeer::admin(address, NQN, Setup::default());
    let mut reader = HostPeer::io(address, cntlid, 1, NQN, Setup::default());
    for (way, len, step) in [(Way::InCapsule, 8192_usize, 509), (Way::Requested, LEN as usize, 4093)] {
        let (old, new) = (vec![0x11; len], vec![0x22; len]);
        assert_eq!(reader.write(1, 0, BLOCK, &old, Way::Requested), Status::SUCCESS);
        let before = target.usage();
        let whole = len + 128;
        for (round, cut) in (1..whole).step_by(step).chain([len + 23, whole]).enumerate() {
            let mut victim = HostPeer::io(address, cntlid, 2, NQN, Setup::default());
            let pdu = match way {
                Way::InCapsule => {
                    let mut write = command::write(1, 0, len as u32 / BLOCK, 0);
                    write.set_sgl(SglDescriptor::in_capsule(0, len as u32));
                    victim.wire.framing.command(&write, &new)
                }
                Way::Requested => victim.wire.framing.h2c_data(honest(&ask(&mut victim, len as u32)), &new),
            };
            let cut = cut.min(pdu.len());
            victim.wire.send(&pdu[..cut]).unwrap();
            if round % 2 == 0 {
                drop(victim)
            } else {
                victim.wire.reset()
            }
            returns_to(&target, before);
            let now = reader.read(1, 0, BLOCK, len as u32 / BLOCK);
            if cut < pdu.len() {
                assert!(now == old, "{way:?} cut at {cut} of {}", pdu.len());
            } else {
                let whole = |frame: &[u8]| frame.iter().all(|byte| *byte == frame[0]);
                assert!(now.chunks(4096).all(whole), "{way:?}: a torn block");
                assert_eq!(reader.write(1, 0, BLOCK, &old, Way::Requested), Status::SUCCESS);
            }
        }
    }
}

#[test]
fn a_host_whose_keep_alive_expires_leaves_nothing_behind() {
    let (target, address) = start(config());
    let (mut other, theirs) = HostPeer::admin(address, NQN, Setup { kato: 20_000, ..Setup::default() });
    let mut other_io = HostPeer::io(address, theirs, 1, NQN, Setup::default());
    let before = target.usage();
    let (mut admin, cntlid) = HostPeer::admin(address, NQN, Setup { kato: 500, ..Setup::default() });
    admin.submit(command::async_event_request(), &[]);
    let mut io = HostPeer::io(address, cntlid, 1, NQN, Setup::default());
    let request = ask(&mut io, LEN);
    io.wire.send(&io.wire.framing.h2c_data(honest(&request), &[9; LEN as usize])[..1000]).unwrap();
    assert!(matches!(io.ended(), End::Closed { .. } | End::Failed(_)));
    assert_eq!(admin.ended(), End::Closed { within_pdu: false });
    drop((admin, io));
    returns_to(&target, before);
    other.none(command::keep_alive());
    assert_eq!(other_io.read(1, 0, BLOCK, 8), [0; 4096], "what was not sent whole was not written");
}

/// Other things it does on the queue do not make up for the data that it owes.
#[test]
fn a_host_that_never_sends_the_data_asked_for_is_closed_however_busy_it_is() {
    let (target, address) = start(hasty());
    let before = target.usage();
    let (admin, cntlid) = HostPeer::admin(address, NQN, Setup::default());
    let mut io = HostPeer::io(address, cntlid, 1, NQN, Setup::default());
    ask(&mut io, LEN);
    let start = Instant::now();
    let end = loop {
        let mut read = command::read(1, 0, 1, 0);
        read.set_sgl(SglDescriptor::transport(BLOCK));
        let answer = io.try_submit(read, &[]).and_then(|cid| io.response(cid));
        if let Err(end) = answer {
            break end;
        }
        assert!(start.elapsed() < PATIENCE, "it is still served");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(matches!(end, End::Closed { .. } | End::Failed(_)), "{end}");
    drop((admin, io));
    returns_to(&target, before);
    serves_an_honest_host(address);
}

/// All memory for transfers is in the hands of hosts that asked to write and send nothing; who waits is served when they are given up.
#[test]
fn hosts_that_hoard_memory_lose_it_with_the_deadline() {
    let mut config = hasty();
    config.transfer_memory = 0;
    config.subsystems[0].max_transfer = 4 << 20;
    let (target, address) = start(config);
    let before = target.usage();
    let (admin, cntlid) = HostPeer::admin(address, NQN, Setup::default());
    let mut write = command::write(1, 0, 8192, 0);
    write.set_sgl(SglDescriptor::transport(4 << 20));
    let hoarders: Vec<_> = (2..12)
        .map(|qid| {
            let mut io = HostPeer::io(address, cntlid, qid, NQN, Setup::default());
            io.submit(write, &[]);
            io
        })
        .collect();
    let mut io = HostPeer::io(address, cntlid, 1, NQN, Setup::default());
    let bytes = pattern(5, 4 << 20);
    assert_eq!(io.write(1, 0, BLOCK, &bytes, Way::Requested), Status::SUCCESS);
    drop((hoarders, io, admin));
    returns_to(&target, before);
}

/// Smaller data than the memory kept for data in capsules is reckoned for, and commands that take long: what finds no room fails alone.
#[test]
fn more_data_in_capsules_than_there_is_memory_for_fails_and_may_be_tried_again() {
    let mut config = config();
    config.transfer_memory = 0;
    let (target, address) = start(config);
    let (_admin, cntlid) = HostPeer::admin(address, NQN, Setup::default());
    let mut io = HostPeer::io(address, cntlid, 1, NQN, Setup { sqsize: 4095, ..Setup::default() });
    // All but what is kept for capsules waits for data that does not come.
    let _hoarders: Vec<_> = (2..14)
        .map(|qid| {
            let mut hoarder = HostPeer::io(address, cntlid, qid, NQN, Setup::default());
            let mut write = command::write(1, 0, 2048, 0);
            write.set_sgl(SglDescriptor::transport(1 << 20));
            hoarder.submit(write, &[]);
            // A command behind it tells when the target has looked at it.
            hoarder.submit(command::flush(1), &[]);
            hoarder.until(|host| !host.responses.is_empty()).unwrap();
            hoarder
        })
        .collect();
    let before = target.usage();
    let all = DsmRange::new(0, 32000);
    let mut deallocate = command::dataset_management(1, 1, dsm::AD);
    deallocate.set_sgl(SglDescriptor::in_capsule(0, 16));
    let capsules: Vec<u8> = (0..4000_u16)
        .flat_map(|cid| {
            deallocate.cid = (0x8000 + cid).into();
            io.wire.framing.command(&deallocate, all.as_bytes())
        })
        .collect();
    io.wire.send(&capsules).unwrap();
    io.until(|host| host.responses.len() == 4000).unwrap();
    let refused = io.responses.iter().filter(|response| response.status() == generic::COMMAND_INTERRUPTED).count();
    let done = io.responses.iter().filter(|response| response.status().is_success()).count();
    println!("{done} done, {refused} to be tried again");
    assert!(done > 0 && refused > 0 && done + refused == 4000, "{done} and {refused}");
    io.responses.clear();
    assert_eq!(io.write(1, 0, BLOCK, &[3; 4096], Way::InCapsule), Status::SUCCESS);
    assert_eq!(io.read(1, 0, BLOCK, 8), [3; 4096]);
    // All of the namespace but its last blocks has been given back, and one group is there again.
    assert!(target.usage().memory < before.memory);
}

#[test]
fn the_system_watches_over_hosts_that_want_no_keep_alive_timer() {
    let (_target, address) = start(config());
    let (admin, _) = HostPeer::admin(address, NQN, Setup::default());
    let ours = admin.wire.socket().local_addr().unwrap().port();
    let ends = [format!(":{:04X}", address.port()), format!(":{ours:04X}")];
    // Which timer runs for the target's end: 01 while something is not acknowledged, 02 the one that probes a silent connection.
    let timer = || {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let line = lines.find(|line| line[1].ends_with(&ends[0]) && line[2].ends_with(&ends[1])).unwrap();
        line[5].to_string()
    };
    let deadline = Instant::now() + PATIENCE;
    while !timer().starts_with("02:") {
        assert!(Instant::now() < deadline, "{}", timer());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn two_hosts_with_one_name_have_a_controller_each() {
    let (target, address) = start(config());
    let before = target.usage();
    let other = Setup { hostid: [8; 16], ..Setup::default() };
    let hosts = [Setup::default(), Setup::default(), other].map(|setup| {
        let (admin, cntlid) = HostPeer::admin(address, NQN, setup);
        (admin, cntlid, HostPeer::io(address, cntlid, 1, NQN, setup))
    });
    let usage = target.usage();
    assert_eq!((usage.controllers, usage.io_queues, usage.connections), (3, 3, 6));
    let [mut first, mut second, mut third] = hosts;
    assert!(first.1 != second.1 && second.1 != third.1 && first.1 != third.1);
    for (at, (_, _, io)) in [&mut first, &mut second, &mut third].into_iter().enumerate() {
        assert_eq!(io.write(1, 8 * at as u64, BLOCK, &pattern(at as u32, 4096), Way::InCapsule), Status::SUCCESS);
    }
    // One of them goes, with its queues and no others'.
    drop(first.0);
    assert_eq!(first.2.ended(), End::Closed { within_pdu: false });
    drop(first.2);
    for (admin, _, io) in [&mut second, &mut third] {
        admin.none(command::keep_alive());
        for at in 0..3 {
            assert!(io.read(1, 8 * at, BLOCK, 8) == pattern(at as u32, 4096));
        }
    }
    assert_eq!(target.usage().controllers, 2);
    assert_ne!(HostPeer::open(address, Setup::default()).connect(1, NQN, CNTLID_DYNAMIC).status(), Status::SUCCESS);
    drop((second, third));
    returns_to(&target, super::Usage { memory: target.usage().memory, ..before });
}

/// A Write of `len` bytes at block 0 that has been asked for its data.
fn ask(io: &mut HostPeer, len: u32) -> R2t {
    let mut write = command::write(1, 0, len / BLOCK, 0);
    write.set_sgl(SglDescriptor::transport(len));
    io.submit(write, &[]);
    io.until(|host| !host.requests.is_empty()).unwrap();
    io.requests.pop_front().unwrap()
}

/// The answer to an R2T in one PDU.
fn honest(request: &R2t) -> Part {
    Part { cccid: request.cccid.get(), ttag: request.ttag.get(), datao: 0, last: true, success: false }
}
