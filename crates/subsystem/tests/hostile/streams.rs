//! Hosts whose streams are no PDUs, or PDUs that lie; and commands that nobody knows.

use std::net::SocketAddr;

use doorbell_hostile::{End, Fate, HOST, HOST_ID, HostPeer, Misdeed, NQN, Role, Setup, Step, Way, Wire};
use doorbell_spec::{
    command::{self, AdminOpcode, Command, NvmOpcode},
    fabrics::{self, CNTLID_DYNAMIC, ConnectData, Fctype},
    feature::Fid,
    status::{fabrics as code, generic},
};
use zerocopy::IntoBytes;

use super::{BLOCK, config, hasty, returns_to, serves_an_honest_host, start};

/// Where in the life of a connection a misdeed is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In place of ICReq.
    First,
    /// In place of Connect.
    Connect,
    /// On an admin queue.
    Admin,
    /// On an I/O queue, between two writes.
    Io,
}

const PLACES: [Place; 4] = [Place::First, Place::Connect, Place::Admin, Place::Io];

/// A connection at a place, the step that would come next, and the admin queue that has to stay.
fn bring_to(place: Place, address: SocketAddr, setup: Setup) -> (Wire, Step, Option<HostPeer>) {
    let step = |mut command: Command, data: &[u8]| {
        command.cid = 0x7abc.into();
        Step::command(command, data.to_vec())
    };
    match place {
        Place::First => (Wire::connect(address).unwrap(), Step::Initialize, None),
        Place::Connect => {
            let data = ConnectData::new(HOST_ID, CNTLID_DYNAMIC, NQN, HOST).unwrap();
            (HostPeer::open(address, setup).wire, step(fabrics::connect(0, 31, 0, 0), data.as_bytes()), None)
        }
        Place::Admin => {
            let behavior = command::set_features(Fid::HOST_BEHAVIOR_SUPPORT, false, 0, 0);
            (HostPeer::admin(address, NQN, setup).0.wire, step(behavior, &[0; 512]), None)
        }
        Place::Io => {
            let (admin, cntlid) = HostPeer::admin(address, NQN, setup);
            let mut io = HostPeer::io(address, cntlid, 1, NQN, setup);
            assert!(io.write(1, 0, BLOCK, &[1; 4096], Way::Requested).is_success());
            (io.wire, step(command::write(1, 0, 8, 0), &[2; 4096]), Some(admin))
        }
    }
}

/// Does each of the misdeeds at each place where it makes sense, and sees that it has its fate.
fn suffer(misdeeds: &[Misdeed]) {
    let (target, address) = start(config());
    let before = target.usage();
    let digests = Setup { header_digest: true, data_digest: true, ..Setup::default() };
    for &misdeed in misdeeds {
        let mut places = 0;
        for (place, setup) in PLACES.into_iter().flat_map(|place| [(place, Setup::default()), (place, digests)]) {
            let (mut wire, step, _admin) = bring_to(place, address, setup);
            if !misdeed.applies(wire.framing, &step) {
                continue;
            }
            places += 1;
            // An end that comes early is found again below.
            let _ = misdeed.perform(&mut wire, Role::Host, &step);
            let what = format!("{misdeed:?} at {place:?}, digests {}", setup.header_digest);
            match misdeed.fate() {
                Fate::Told(status) => {
                    let end = wire.end();
                    assert!(matches!(end, End::Terminated { fes, .. } if fes == status), "{what}: {end}");
                }
                Fate::Closes => assert_eq!(wire.end(), End::Closed { within_pdu: false }, "{what}"),
                Fate::Endures => {
                    let answer = wire.receive().expect(&what);
                    let status = answer.completion().map(|completion| completion.status());
                    match misdeed {
                        Misdeed::DataDigest => assert_eq!(status, Some(generic::TRANSIENT_TRANSPORT_ERROR), "{what}"),
                        _ => assert!(status.is_none_or(|status| status.is_success()), "{what}: {status:?}"),
                    }
                }
                Fate::Waits => panic!("{what} is for a test with short deadlines"),
            }
        }
        assert!(places > 0, "{misdeed:?}");
        serves_an_honest_host(address);
    }
    returns_to(&target, before);
}

#[test]
fn garbage_ends_the_connection_with_the_reason() {
    suffer(&[Misdeed::Garbage, Misdeed::UnknownType, Misdeed::OtherDirection, Misdeed::UndefinedFlags]);
}

#[test]
fn lengths_that_lie_end_the_connection() {
    suffer(&[
        Misdeed::HlenShort,
        Misdeed::HlenLong,
        Misdeed::PlenShort,
        Misdeed::PlenHuge,
        Misdeed::PdoInHeader,
        Misdeed::PdoBeyond,
    ]);
}

#[test]
fn a_wrong_header_digest_ends_the_connection_and_a_wrong_data_digest_the_command() {
    suffer(&[Misdeed::HeaderDigest, Misdeed::DataDigest, Misdeed::DigestFlags]);
}

#[test]
fn data_with_a_wrong_digest_is_not_written() {
    let (_target, address) = start(config());
    let setup = Setup { data_digest: true, ..Setup::default() };
    let (_admin, cntlid) = HostPeer::admin(address, NQN, setup);
    let mut io = HostPeer::io(address, cntlid, 1, NQN, setup);
    assert!(io.write(1, 0, BLOCK, &[1; 4096], Way::InCapsule).is_success());
    let mut write = command::write(1, 0, 8, 0);
    write.cid = 0x7abc.into();
    Misdeed::DataDigest.perform(&mut io.wire, Role::Host, &Step::command(write, vec![2; 4096])).unwrap();
    assert_eq!(io.response(0x7abc).unwrap().status(), generic::TRANSIENT_TRANSPORT_ERROR);
    assert_eq!(io.read(1, 0, BLOCK, 8), [1; 4096]);
}

#[test]
fn initializing_twice_or_wrongly_ends_the_connection() {
    suffer(&[Misdeed::InitializeAgain, Misdeed::InitializeVersion, Misdeed::InitializeAlignment]);
}

#[test]
fn a_host_that_breaks_off_or_terminates_is_gone_at_once() {
    suffer(&[Misdeed::HalfThenClose, Misdeed::Terminate]);
}

#[test]
fn a_byte_at_a_time_is_slow_but_right() {
    suffer(&[Misdeed::ByteAtATime]);
}

#[test]
fn what_is_answered_does_not_wait_for_the_rest_of_a_pdu_that_does_not_come() {
    let (_target, address) = start(config());
    let (_admin, cntlid) = HostPeer::admin(address, NQN, Setup::default());
    let mut io = HostPeer::io(address, cntlid, 1, NQN, Setup::default());
    let write = |cid: u16| {
        let mut write = command::write(1, 0, 8, 0);
        (write.cid, write.flags) = (cid.into(), write.flags | command::FLAGS_SGL);
        write.dptr = command::SglDescriptor::in_capsule(0, 4096).into();
        write
    };
    let framing = io.wire.framing;
    let (first, second) = (framing.command(&write(1), &[1; 4096]), framing.command(&write(2), &[2; 4096]));
    let (half, rest) = second.split_at(2000);
    io.wire.send(&[&first, half].concat()).unwrap();
    assert!(io.response(1).unwrap().status().is_success());
    io.wire.send(rest).unwrap();
    assert!(io.response(2).unwrap().status().is_success());
    assert_eq!(io.read(1, 0, BLOCK, 8), [2; 4096]);
}

#[test]
fn half_a_pdu_and_silence_are_waited_for_no_longer_than_the_deadline() {
    let (target, address) = start(hasty());
    let before = target.usage();
    let mut waiting = Vec::new();
    for place in PLACES {
        let early = [Place::First, Place::Connect].contains(&place);
        for misdeed in [Misdeed::HalfThenSilence, Misdeed::Stall] {
            // Once connected, a host may be silent.
            if misdeed == Misdeed::HalfThenSilence || early {
                let (mut wire, step, admin) = bring_to(place, address, Setup::default());
                misdeed.perform(&mut wire, Role::Host, &step).unwrap();
                waiting.push((wire, format!("{misdeed:?} at {place:?}"), admin));
            }
        }
    }
    let (mut idle, cntlid) = HostPeer::admin(address, NQN, Setup::default());
    let mut io = HostPeer::io(address, cntlid, 1, NQN, Setup::default());
    for (wire, what, _admin) in &mut waiting {
        assert_eq!(wire.end(), End::Closed { within_pdu: false }, "{what}");
    }
    idle.none(command::keep_alive());
    io.read(1, 0, BLOCK, 1);
    drop((waiting, idle, io));
    returns_to(&target, before);
}

#[test]
fn unknown_admin_and_fabrics_commands_are_refused_whatever_their_opcode() {
    let (_target, address) = start(config());
    let (mut admin, _) = HostPeer::admin(address, NQN, Setup::default());
    let known = [
        AdminOpcode::GET_LOG_PAGE,
        AdminOpcode::IDENTIFY,
        AdminOpcode::ABORT,
        AdminOpcode::SET_FEATURES,
        AdminOpcode::GET_FEATURES,
        AdminOpcode::ASYNC_EVENT_REQUEST,
        AdminOpcode::KEEP_ALIVE,
        AdminOpcode::FABRICS,
    ];
    for opcode in (0..=u8::MAX).filter(|&opcode| !known.contains(&AdminOpcode(opcode))) {
        let command = Command::new(opcode, 1);
        assert_eq!(admin.status(command), generic::INVALID_OPCODE.with_dnr(), "{opcode:02x}");
        // With data either way it is refused the same, no data is asked for, and the stream stays whole.
        for way in [Way::InCapsule, Way::Requested] {
            let status = admin.send(command, &[5; 512], way).unwrap().status();
            assert_eq!(status, generic::INVALID_OPCODE.with_dnr(), "{opcode:02x} {way:?}");
        }
        assert_eq!(admin.fetch(command, 4096), Err(generic::INVALID_OPCODE.with_dnr()), "{opcode:02x}");
    }
    for fctype in 0..=u8::MAX {
        let expected = match Fctype(fctype) {
            Fctype::PROPERTY_SET | Fctype::PROPERTY_GET => continue,
            Fctype::CONNECT => generic::COMMAND_SEQUENCE_ERROR,
            Fctype::DISCONNECT => code::INVALID_QUEUE_TYPE,
            _ => generic::INVALID_OPCODE,
        };
        let status = admin.status(Command::new(fabrics::OPCODE, fctype.into()));
        assert_eq!(status, expected.with_dnr(), "{fctype:02x}");
    }
    admin.none(command::keep_alive());
    serves_an_honest_host(address);
}

#[test]
fn unknown_io_commands_are_refused_whatever_their_opcode() {
    let (_target, address) = start(config());
    let (_admin, cntlid) = HostPeer::admin(address, NQN, Setup::default());
    let mut io = HostPeer::io(address, cntlid, 1, NQN, Setup::default());
    let known = [
        NvmOpcode::FLUSH,
        NvmOpcode::WRITE,
        NvmOpcode::READ,
        NvmOpcode::COMPARE,
        NvmOpcode::WRITE_ZEROES,
        NvmOpcode::VERIFY,
        NvmOpcode::DATASET_MANAGEMENT,
        NvmOpcode::FABRICS,
    ];
    for opcode in (0..=u8::MAX).filter(|&opcode| !known.contains(&NvmOpcode(opcode))) {
        let command = Command::new(opcode, 1);
        assert_eq!(io.status(command), generic::INVALID_OPCODE.with_dnr(), "{opcode:02x}");
        for way in [Way::InCapsule, Way::Requested] {
            let status = io.send(command, &[5; 512], way).unwrap().status();
            assert_eq!(status, generic::INVALID_OPCODE.with_dnr(), "{opcode:02x} {way:?}");
        }
        assert!(io.fetch(command, 4096).is_err(), "{opcode:02x}");
    }
    for fctype in (0..=u8::MAX).filter(|&fctype| Fctype(fctype) != Fctype::DISCONNECT) {
        let status = io.status(Command::new(fabrics::OPCODE, fctype.into()));
        assert!(!status.is_success() && status.dnr, "{fctype:02x}: {status}");
    }
    assert_eq!(io.read(1, 0, BLOCK, 8), [0; 4096], "nothing was written");
}
