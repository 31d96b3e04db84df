//! What one end's sender makes, the other end's receiver understands, however the stream is cut; and what breaks the protocol is
//! told apart with the right fatal error status.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::{fd::AsFd, unix::net::UnixStream},
};

use doorbell_platform::{Crc32c, Range, Region};
use doorbell_spec::{
    command,
    completion::Completion,
    status::Status,
    tcp::{CommonHeader, Fes, IcReq, PduType},
};
use doorbell_tcp::{DataPdu, Digests, Fault, Link, Lost, Pdu, Receiver, Role, Sender, Sink, Violation};
use proptest::prelude::*;
use zerocopy::IntoBytes;

/// Writes down what arrives; data is placed from `at` on, in pieces of 100 bytes with gaps between them, or taken where it comes at once.
#[derive(Default)]
struct Notes {
    seen: Vec<String>,
    taken: Option<Vec<u8>>,
}

impl Sink for Notes {
    fn pdu(&mut self, pdu: Pdu<'_>, data_len: u32) -> Result<u32, Violation> {
        let text = match pdu {
            Pdu::IcReq(pdu) => format!("ICReq {}", pdu.digest),
            Pdu::IcResp(pdu) => format!("ICResp {}", pdu.digest),
            Pdu::CapsuleCmd(pdu) => format!("command {} {data_len}", pdu.command.cid),
            Pdu::CapsuleResp(pdu) => format!("response {}", pdu.completion.cid),
            Pdu::H2cData(pdu) => format!("H2C {} {} {data_len}", pdu.cccid, pdu.datao),
            Pdu::C2hData(pdu) => format!("C2H {} {} {data_len}", pdu.cccid, pdu.datao),
            Pdu::R2t(pdu) => format!("R2T {} {} {}", pdu.cccid, pdu.r2to, pdu.r2tl),
        };
        self.seen.push(text);
        Ok(data_len)
    }

    fn take(&mut self, token: u32, data: &[u8], intact: impl FnOnce() -> bool) -> bool {
        let Some(taken) = self.taken.as_mut().filter(|_| intact()) else { return false };
        taken.extend_from_slice(data);
        self.seen.push(format!("{token} bytes, taken"));
        true
    }

    fn place(&mut self, _: u32, at: u32, len: u32, ranges: &mut Vec<Range>) {
        ranges.extend(scattered(at, len));
    }

    fn finished(&mut self, token: u32, intact: bool) -> Result<(), Violation> {
        self.seen.push(format!("{token} bytes, {}", if intact { "intact" } else { "spoiled" }));
        Ok(())
    }
}

fn scattered(at: u32, len: u32) -> impl Iterator<Item = Range> {
    (at / 100..=(at + len) / 100).filter_map(move |piece| {
        let (start, end) = ((piece * 100).max(at), ((piece + 1) * 100).min(at + len));
        (start < end).then(|| Range { offset: u64::from(piece * 128 + start % 100), len: end - start })
    })
}

/// The bytes of a stream that `build` queues, caught behind a real socket.
fn stream(role: Role, region: &Region, build: impl FnOnce(&mut Sender)) -> Vec<u8> {
    use std::{io::Read, os::fd::AsFd};
    let mut sender = Sender::new(role);
    build(&mut sender);
    let (near, mut far) = pair();
    far.set_nonblocking(true).unwrap();
    let (mut bytes, mut chunk) = (Vec::new(), [0; 65536]);
    loop {
        let all = sender.send(near.as_fd(), Some(region)).unwrap();
        while let Ok(count) = far.read(&mut chunk) {
            bytes.extend_from_slice(&chunk[..count]);
        }
        if all && bytes.len() as u64 == sender.queued() {
            assert_eq!((sender.sent(), sender.is_empty()), (sender.queued(), true));
            return bytes;
        }
    }
}

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    near.set_nonblocking(true).unwrap();
    (near, listener.accept().unwrap().0)
}

/// Feeds `bytes` to a receiver in pieces of the given sizes, into the ranges it wants first, as a socket would.
fn feed(
    receiver: &mut Receiver,
    bytes: &[u8],
    cuts: &[usize],
    region: &Region,
    notes: &mut Notes,
) -> Result<(), Fault> {
    let (mut left, mut cut) = (bytes, 0);
    while !left.is_empty() {
        let size = cuts.get(cut % cuts.len().max(1)).map_or(left.len(), |&size| size.clamp(1, left.len()));
        cut += 1;
        let (mut piece, rest) = left.split_at(size);
        left = rest;
        for range in receiver.want(notes).to_vec() {
            let (now, later) = piece.split_at(piece.len().min(range.len as usize));
            region.write(range.offset, now);
            piece = later;
        }
        receiver.received(size, piece, Some(region), notes)?;
    }
    Ok(())
}

fn digests() -> impl Strategy<Value = Digests> {
    (any::<bool>(), any::<bool>()).prop_map(|(header, data)| Digests { header, data })
}

proptest! {
    #[test]
    fn every_cut_of_a_stream_means_the_same(
        digests in digests(), pda in 0u8..32, len in 1u32..3000, cuts in proptest::collection::vec(1usize..400, 1..20),
        takes in any::<bool>()
    ) {
        let (from, to) = (Region::new(8192).unwrap(), Region::new(8192).unwrap());
        (0..len).for_each(|at| from.write(u64::from(at), &[(at * 7) as u8]));
        let data = [Range { offset: 0, len: len / 2 }, Range { offset: (len / 2).into(), len: len - len / 2 }];
        let data = &data[usize::from(len < 2)..];
        let bytes = stream(Role::Controller, &from, |sender| {
            sender.use_agreement(digests, pda);
            sender.data(DataPdu { cccid: 5, ttag: 0, datao: 64, last: true, success: false }, data);
            sender.response(&Completion::new(5, 1, Status::SUCCESS, 0));
            sender.r2t(6, 1, 0, 512);
        });
        let mut receiver = Receiver::new(Role::Host, 4096);
        receiver.use_digests(digests);
        let mut notes = Notes { taken: takes.then(Vec::new), ..Notes::default() };
        feed(&mut receiver, &bytes, &cuts, &to, &mut notes).unwrap();
        prop_assert!(!receiver.is_within_pdu());
        let taken = notes.taken.filter(|taken| !taken.is_empty());
        let how = if taken.is_some() { "taken" } else { "intact" };
        prop_assert_eq!(notes.seen, [
            format!("C2H 5 64 {len}"), format!("{len} bytes, {how}"), "response 5".to_string(), "R2T 6 0 512".to_string(),
        ]);
        if let Some(taken) = taken {
            prop_assert!(taken.iter().copied().eq((0..len).map(|at| (at * 7) as u8)));
            return Ok(());
        }
        let mut at = 0;
        for range in scattered(0, len) {
            let expected: Vec<u8> = (at..at + range.len).map(|at| (at * 7) as u8).collect();
            prop_assert!(to.equals(range.offset, &expected));
            at += range.len;
        }
    }

    #[test]
    fn no_stream_makes_a_receiver_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..600), digests in digests(),
        kind in 0u8..10, hlen in prop::sample::select(vec![24u8, 72, 128]), plen in 0u32..300, host in any::<bool>()
    ) {
        let role = if host { Role::Host } else { Role::Controller };
        let region = Region::new(8192).unwrap();
        let mut shaped = bytes.clone();
        if let Some(start) = shaped.first_chunk_mut::<8>() {
            *start = [kind, start[1] & 3, hlen, start[3], plen as u8, (plen >> 8) as u8, 0, 0];
        }
        for bytes in [bytes, shaped] {
            let mut receiver = Receiver::new(role, 4096);
            receiver.use_digests(digests);
            let _ = feed(&mut receiver, &bytes, &[13, 200], &region, &mut Notes::default());
        }
    }
}

#[test]
fn a_host_sends_commands_and_data_that_a_controller_reads() {
    let (from, to) = (Region::new(8192).unwrap(), Region::new(8192).unwrap());
    for digests in [Digests::default(), Digests { header: true, data: true }] {
        let bytes = stream(Role::Host, &from, |sender| {
            sender.initialize(&IcReq::new(0, digests.bits(), 0));
            sender.use_agreement(digests, 4);
            let mut command = command::write(1, 0, 8, 0);
            command.cid = 9.into();
            sender.command(&command, &[]);
            sender.command(&command, &[Range { offset: 0, len: 512 }]);
            sender.command_with_bytes(&command, &[3; 20]);
            sender.data(
                DataPdu { cccid: 9, ttag: 2, datao: 0, last: true, success: false },
                &[Range { offset: 0, len: 90 }],
            );
        });
        let mut receiver = Receiver::new(Role::Controller, 4096);
        let mut notes = Notes::default();
        feed(&mut receiver, &bytes[..128], &[], &to, &mut notes).unwrap();
        receiver.use_digests(digests);
        feed(&mut receiver, &bytes[128..], &[], &to, &mut notes).unwrap();
        let expected = [
            "command 9 0",
            "command 9 512",
            "512 bytes, intact",
            "command 9 20",
            "20 bytes, intact",
            "H2C 9 0 90",
            "90 bytes, intact",
        ];
        assert_eq!(notes.seen[1..], expected);
    }
}

#[test]
fn data_that_comes_at_once_is_taken_only_if_it_is_intact() {
    let (from, to) = (Region::new(8192).unwrap(), Region::new(8192).unwrap());
    from.fill(0, 300, 7);
    let digests = Digests { header: false, data: true };
    let mut bytes = stream(Role::Controller, &from, |sender| {
        sender.use_agreement(digests, 0);
        let pdu = |cccid| DataPdu { cccid, ttag: 0, datao: 0, last: true, success: false };
        (1..4).for_each(|cccid| sender.data(pdu(cccid), &[Range { offset: 0, len: 300 }]));
    });
    let second = bytes.len() / 2;
    bytes[second] ^= 1;
    let mut receiver = Receiver::new(Role::Host, 4096);
    receiver.use_digests(digests);
    let mut notes = Notes { taken: Some(Vec::new()), ..Notes::default() };
    feed(&mut receiver, &bytes, &[], &to, &mut notes).unwrap();
    assert_eq!(
        notes.seen,
        ["C2H 1 0 300", "300 bytes, taken", "C2H 2 0 300", "300 bytes, spoiled", "C2H 3 0 300", "300 bytes, taken"]
    );
    assert_eq!(notes.taken.unwrap(), [7; 600]);
}

#[test]
fn digests_that_are_known_go_out_like_those_that_are_made() {
    const LEN: u32 = 200 << 10;
    let region = Region::new(1 << 20).unwrap();
    (0..region.len() as u64).step_by(64).for_each(|at| region.write(at, &at.to_le_bytes()));
    let data = |at: u64| [Range { offset: at * 4096, len: LEN }];
    let sum = |at: u64| {
        let mut crc = Crc32c::new();
        region.checksum(data(at)[0], &mut crc);
        crc.finish()
    };
    let run = |known: u64| {
        let (left, mut right) = UnixStream::pair().unwrap();
        right.set_nonblocking(true).unwrap();
        let (mut sender, mut got) = (Sender::new(Role::Controller), Vec::new());
        sender.use_agreement(Digests { header: true, data: true }, 0);
        for at in 0..6 {
            let pdu = DataPdu { cccid: at as u16, ttag: 0, datao: 0, last: true, success: false };
            sender.data_with_checksum(pdu, &data(at), (known >> at & 1 == 1).then(|| sum(at)));
            sender.response(&Completion::new(at as u16, 1, Status::SUCCESS, 0));
            if at % 2 == 1 {
                // A part of what is queued, as much as the socket takes.
                sender.send(left.as_fd(), Some(&region)).unwrap();
            }
        }
        while !sender.send(left.as_fd(), Some(&region)).unwrap() {
            let _ = right.read_to_end(&mut got);
        }
        let _ = right.read_to_end(&mut got);
        got
    };
    let made = run(0);
    assert_eq!(made.len(), 6 * (LEN as usize + 24 + 4 + 4 + 24 + 4));
    for known in 1..1 << 6 {
        assert!(run(known) == made, "known are {known:06b}");
    }
}

#[test]
fn a_wrong_digest_is_found() {
    let region = Region::new(8192).unwrap();
    let digests = Digests { header: true, data: true };
    let bytes = stream(Role::Controller, &region, |sender| {
        sender.use_agreement(digests, 0);
        let pdu = DataPdu { cccid: 5, ttag: 0, datao: 0, last: true, success: false };
        sender.data(pdu, &[Range { offset: 0, len: 100 }]);
    });
    let run = |flip: usize| {
        let mut bytes = bytes.clone();
        bytes[flip] ^= 1;
        let mut receiver = Receiver::new(Role::Host, 4096);
        receiver.use_digests(digests);
        let mut notes = Notes::default();
        feed(&mut receiver, &bytes, &[], &region, &mut notes).map(|()| notes.seen)
    };
    assert_eq!(run(50).unwrap()[1], "100 bytes, spoiled");
    let Fault::Violation(violation) = run(12).unwrap_err() else { panic!("not the peer's word") };
    assert_eq!((violation.fes, violation.header.len()), (Fes::HEADER_DIGEST_ERROR, 28));
}

#[test]
fn malformed_headers_are_named() {
    let header = |kind, flags, hlen, pdo, plen: u32| {
        let mut common = CommonHeader::new(PduType(kind), flags, pdo, plen);
        common.hlen = hlen;
        let mut bytes = common.as_bytes().to_vec();
        bytes.resize(128, 0);
        bytes
    };
    for (bytes, offset) in [
        (header(0x0b, 0, 24, 0, 24), 0),
        (header(0x04, 0, 72, 0, 72), 0),
        (header(0x07, 0x40, 24, 24, 28), 1),
        (header(0x05, 1, 24, 0, 24), 1),
        (header(0x05, 0, 25, 0, 25), 2),
        (header(0x07, 0, 24, 8, 28), 3),
        (header(0x05, 0, 24, 0, 23), 4),
        (header(0x05, 0, 24, 0, 28), 4),
        (header(0x07, 0, 24, 24, u32::MAX), 4),
        (header(0x07, 0, 24, 64, 64), 4),
        (header(0x07, 0, 24, 24, 28), 16),
    ] {
        let region = Region::new(4096).unwrap();
        let mut receiver = Receiver::new(Role::Host, 1024);
        let fault = feed(&mut receiver, &bytes, &[], &region, &mut Notes::default()).unwrap_err();
        let Fault::Violation(violation) = fault else { panic!("not the peer's word") };
        assert_eq!((violation.fes, violation.fei), (Fes::INVALID_PDU_HEADER_FIELD, offset), "{}", violation.what);
        assert!(!violation.header.is_empty());
    }
}

#[test]
fn links_answer_a_breach_with_a_termination_request() {
    let (near, mut far) = pair();
    let mut host = Link::new(near, Role::Host, 4096).unwrap();
    far.write_all(IcReq::new(0, 0, 0).as_bytes()).unwrap();
    let mut staging = [0; 4096];
    let lost = loop {
        match host.receive(None, &mut staging, &mut Notes::default()) {
            Ok(_) => std::thread::yield_now(),
            Err(lost) => break lost,
        }
    };
    assert!(matches!(lost, Lost::Fault(Fault::Violation(_))), "{lost}");
    let mut controller = Link::new(far, Role::Controller, 4096).unwrap();
    let lost = loop {
        match controller.receive(None, &mut staging, &mut Notes::default()) {
            Ok(_) => std::thread::yield_now(),
            Err(lost) => break lost.to_string(),
        }
    };
    assert!(lost.contains("Invalid PDU Header Field"), "{lost}");
    drop(host);
    assert!(matches!(
        controller.receive(None, &mut staging, &mut Notes::default()),
        Err(Lost::Closed { within_pdu: false })
    ));
}

#[test]
fn data_that_takes_several_calls_has_the_right_digest() {
    const LEN: u32 = 700 << 10;
    let (from, to) = (Region::new(LEN as usize).unwrap(), Region::new(LEN as usize * 2).unwrap());
    (0..LEN).step_by(512).for_each(|at| from.fill(at.into(), 512, (at / 512 % 251) as u8));
    let digests = Digests { header: false, data: true };
    let bytes = stream(Role::Controller, &from, |sender| {
        sender.use_agreement(digests, 0);
        for cccid in 0..3 {
            let data = [Range { offset: 0, len: 5000 }, Range { offset: 5000, len: LEN - 5000 }];
            sender.data(DataPdu { cccid, ttag: 0, datao: 0, last: true, success: false }, &data);
            sender.response(&Completion::new(cccid, 1, Status::SUCCESS, 0));
        }
    });
    let mut receiver = Receiver::new(Role::Host, LEN);
    receiver.use_digests(digests);
    let mut notes = Notes::default();
    feed(&mut receiver, &bytes, &[50_000], &to, &mut notes).unwrap();
    let whole = |cid| [format!("C2H {cid} 0 {LEN}"), format!("{LEN} bytes, intact"), format!("response {cid}")];
    assert_eq!(notes.seen, (0..3).flat_map(whole).collect::<Vec<_>>());
}
