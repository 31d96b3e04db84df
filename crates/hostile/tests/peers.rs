//! The two honest ends understand each other, so that a test that fails with one of them has found something else.
#![allow(missing_docs, reason = "tests")]

use std::{thread, time::Duration};

use doorbell_hostile::{BLOCK, BLOCKS, End, Fate, HostPeer, Misdeed, Moment, NQN, Reply, Setup, Step, TargetPeer, Way};
use doorbell_spec::{
    command::{self, LogRequest},
    identify::{Cns, Csi, Namespace},
    log::{DiscoveryEntry, Lid},
    nqn::DISCOVERY_NQN,
    status::{Status, generic},
};
use zerocopy::FromBytes;

#[test]
fn an_honest_host_and_an_honest_controller_agree() {
    let peer = TargetPeer::honest();
    for bits in 0..4 {
        let setup = Setup { header_digest: bits & 1 != 0, data_digest: bits & 2 != 0, hpda: 3, ..Setup::default() };
        let (mut admin, cntlid) = HostPeer::admin(peer.address(), NQN, setup);
        let data = admin.fetch(command::identify(Cns::NAMESPACE, 1, Csi::NVM, 0), 4096).unwrap();
        assert_eq!(Namespace::read_from_bytes(&data).unwrap().size_bytes(), Some(BLOCKS * u64::from(BLOCK)));
        let mut io = HostPeer::io(peer.address(), cntlid, 1, NQN, setup);
        for (way, len) in [(Way::InCapsule, 4096), (Way::Requested, 128 << 10)] {
            let bytes: Vec<u8> = (0..len).map(|at| (at % 251) as u8 + bits).collect();
            assert_eq!(io.write(1, 3, BLOCK, &bytes, way), Status::SUCCESS);
            assert!(io.read(1, 3, BLOCK, len / BLOCK) == bytes);
        }
        assert_eq!(io.broken, 0);
        let waiting = admin.submit(command::async_event_request(), &[]);
        // A host that waits has been found before there is an event.
        thread::sleep(Duration::from_millis(30));
        peer.report(0x0004_0002);
        assert_eq!(admin.response(waiting).unwrap().result64(), 0x0004_0002);
    }
    assert_eq!(peer.accepted(), 8);
    let (mut discovery, _) = HostPeer::admin(peer.address(), DISCOVERY_NQN, Setup::default());
    let page = LogRequest { lid: Lid::DISCOVERY, bytes: 2048, ..LogRequest::default() };
    let log = discovery.fetch(command::get_log_page(&page), 2048).unwrap();
    assert_eq!(DiscoveryEntry::read_from_bytes(&log[1024..]).unwrap().subnqn(), Ok(NQN));
}

#[test]
fn a_namespace_shrinks_and_goes() {
    let peer = TargetPeer::honest();
    let (_admin, cntlid) = HostPeer::admin(peer.address(), NQN, Setup::default());
    let mut io = HostPeer::io(peer.address(), cntlid, 1, NQN, Setup::default());
    let read = command::read(1, 8, 1, 0);
    assert!(io.fetch(read, BLOCK).is_ok());
    peer.resize(8);
    assert!(io.fetch(read, BLOCK).unwrap_err().is(generic::LBA_OUT_OF_RANGE));
    peer.resize(0);
    assert!(io.fetch(read, BLOCK).unwrap_err().is(generic::INVALID_NAMESPACE));
}

#[test]
fn misdeeds_arrive_as_what_they_are() {
    for misdeed in Misdeed::ALL {
        let setup = Setup { header_digest: true, data_digest: true, ..Setup::default() };
        let peer = TargetPeer::start(move |connection, moment| match moment {
            Moment::Command(command, _) if connection.qid > 0 && !command.is_fabrics() => {
                connection.misdeed(misdeed, &Step::command(*command, vec![5; 512]))
            }
            _ => Reply::Model,
        });
        let (_admin, cntlid) = HostPeer::admin(peer.address(), NQN, setup);
        let mut io = HostPeer::io(peer.address(), cntlid, 1, NQN, setup);
        if !misdeed.applies(io.wire.framing, &Step::command(command::read(1, 0, 1, 0), vec![5; 512])) {
            continue;
        }
        io.wire.patience = Duration::from_millis(300);
        let mut read = command::read(1, 0, 1, 0);
        read.set_sgl(command::SglDescriptor::transport(512));
        let cid = io.submit(read, &[]);
        let end = io.until(|host| host.broken > 0).err().unwrap_or(End::Silent);
        assert_eq!(io.broken > 0, [Misdeed::DataDigest, Misdeed::HeaderDigest].contains(&misdeed), "{misdeed:?}");
        match misdeed {
            Misdeed::Terminate => assert!(matches!(end, End::Terminated { .. }), "{misdeed:?}: {end}"),
            Misdeed::HalfThenClose => assert_eq!(end, End::Closed { within_pdu: true }),
            _ if misdeed.fate() == Fate::Endures => assert_eq!(io.take_data(cid), [5; 512], "{misdeed:?}"),
            _ => {}
        }
    }
}
