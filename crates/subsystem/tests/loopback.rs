//! A target on the loopback interface and a small host of our own.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use doorbell_hostile::{End, HostPeer, NQN, Setup, Way};
use doorbell_spec::{
    command::{self, DsmRange, LogRequest, NSID_ALL, SglDescriptor, control, dsm},
    completion::Completion,
    fabrics::{self, CNTLID_DYNAMIC, ConnectData, ConnectRequest, InvalidParameter},
    feature::{Fid, NumberOfQueues, Select},
    identify::{Cns, Controller, Csi, Namespace, NamespaceList},
    log::{DiscoveryEntry, DiscoveryHeader, Lid, Smart, Subtype},
    nqn::DISCOVERY_NQN,
    register::{self, Cap, Cc},
    status::{self, Status, generic, media},
    tcp::{CommonHeader, Fes, IcReq, PduType, TermReq},
};
use doorbell_subsystem::{Backend, NamespaceConfig, SubsystemConfig, Target, TargetConfig};
use zerocopy::{FromBytes, IntoBytes};

const ANY: &str = "127.0.0.1:0";
/// Namespace 1: memory of 512-byte blocks; 2: memory of 4096-byte blocks; 3: nothing.
const RAM_512: u32 = 1;
const RAM_4096: u32 = 2;
const NOTHING: u32 = 3;

fn subsystem() -> SubsystemConfig {
    let namespace = |backend, block_size| NamespaceConfig { backend, block_size };
    SubsystemConfig {
        namespaces: vec![
            namespace(Backend::Ram { size: 16 << 20 }, 512),
            namespace(Backend::Ram { size: 16 << 20 }, 4096),
            namespace(Backend::Null { size: 1 << 30 }, 512),
        ],
        ..SubsystemConfig::new(NQN)
    }
}

fn start(subsystem: SubsystemConfig) -> (Target, SocketAddr) {
    let target = Target::start(TargetConfig::new(subsystem, ANY.parse().unwrap())).unwrap();
    let address = target.addresses()[0];
    (target, address)
}

fn pattern(seed: u32, len: usize) -> Vec<u8> {
    (0..len as u32).map(|at| (at.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 13) as u8).collect()
}

#[test]
fn blocks_come_back_however_they_went() {
    let (_target, address) = start(subsystem());
    for (header_digest, data_digest) in [(false, false), (true, false), (false, true), (true, true)] {
        for (flow_control, hpda) in [(true, 0), (false, 31)] {
            let setup = Setup { header_digest, data_digest, hpda, flow_control, ..Setup::default() };
            let (_admin, cntlid) = HostPeer::admin(address, NQN, setup);
            let mut io = HostPeer::io(address, cntlid, 1, NQN, setup);
            for (nsid, block) in [(RAM_512, 512u32), (RAM_4096, 4096)] {
                for (slba, blocks, way) in [
                    (0u64, 1u32, Way::InCapsule),
                    (5, 2, Way::InCapsule),
                    (3, 1, Way::Requested),
                    (7, 256, Way::Requested),
                ] {
                    let bytes = pattern(nsid + blocks, (blocks * block) as usize);
                    assert_eq!(io.write(nsid, slba, block, &bytes, way), generic::SUCCESS);
                    assert!(io.read(nsid, slba, block, blocks) == bytes, "{nsid} {slba} {blocks} {way:?}");
                    let compare = command::compare(nsid, slba, blocks, 0);
                    assert_eq!(io.send(compare, &bytes, way).unwrap().status(), generic::SUCCESS);
                    let mut other = bytes.clone();
                    other[bytes.len() / 2] ^= 1;
                    assert_eq!(io.send(compare, &other, way).unwrap().status(), media::COMPARE_FAILURE);
                }
            }
            assert_eq!(io.broken, 0, "wrong data digests");
        }
    }
}

#[test]
fn many_commands_are_outstanding_at_once() {
    let (_target, address) = start(subsystem());
    let setup = Setup { sqsize: 127, flow_control: false, ..Setup::default() };
    let (_admin, cntlid) = HostPeer::admin(address, NQN, Setup::default());
    let mut io = HostPeer::io(address, cntlid, 1, NQN, setup);
    let data = pattern(1, 1 << 20);
    // 64 writes of 1 MiB: more than the target asks for at a time.
    let mut cids = Vec::new();
    for at in 0..64u64 {
        cids.push(io.begin(command::write(RAM_4096, at % 8 * 256, 256, 0), &data, Way::Requested).unwrap());
    }
    for cid in cids.drain(..) {
        assert_eq!(io.response(cid).unwrap().status(), generic::SUCCESS);
    }
    // 127 reads of 1 MiB: more than the target looks up at a time.
    for at in 0..127u64 {
        let mut read = command::read(RAM_4096, at % 8 * 256, 256, 0);
        read.set_sgl(SglDescriptor::transport(1 << 20));
        cids.push(io.submit(read, &[]));
    }
    for cid in cids {
        assert_eq!(io.response(cid).unwrap().status(), generic::SUCCESS);
        assert!(io.take_data(cid) == data);
    }
}

#[test]
fn the_submission_queue_head_goes_round() {
    let (_target, address) = start(subsystem());
    let (mut admin, _) = HostPeer::admin(address, NQN, Setup { sqsize: 4, ..Setup::default() });
    // Connect, Property Set and Property Get went before.
    let heads: Vec<u16> = (0..6).map(|_| admin.none(command::keep_alive()).sqhd.get()).collect();
    assert_eq!(heads, [4, 0, 1, 2, 3, 4]);
    let mut without = HostPeer::open(address, Setup { flow_control: false, ..Setup::default() });
    assert_eq!(without.connect(0, NQN, CNTLID_DYNAMIC).sqhd.get(), 0xffff);
}

#[test]
fn blocks_are_cleared_and_flushed() {
    let (_target, address) = start(subsystem());
    let (_admin, cntlid) = HostPeer::admin(address, NQN, Setup::default());
    let mut io = HostPeer::io(address, cntlid, 1, NQN, Setup::default());
    let bytes = pattern(3, 64 << 10);
    assert_eq!(io.write(RAM_512, 0, 512, &bytes, Way::Requested), generic::SUCCESS);
    io.none(command::write_zeroes(RAM_512, 3, 20, 0));
    io.none(command::verify(RAM_512, 0, 32768, 0));
    io.none(command::write_zeroes(RAM_512, 64, 8, control::DEAC | control::FUA));
    let ranges = [DsmRange::new(30, 2), DsmRange::new(0, 0), DsmRange::new(100, 17)];
    let deallocate = command::dataset_management(RAM_512, 3, dsm::AD);
    let sent = io.send(deallocate, ranges.as_bytes(), Way::InCapsule).unwrap();
    assert_eq!(sent.status(), generic::SUCCESS);
    let mut expected = bytes;
    for (first, blocks) in [(3, 20), (64, 8), (30, 2), (100, 17)] {
        expected[first * 512..(first + blocks) * 512].fill(0);
    }
    assert!(io.read(RAM_512, 0, 512, 128) == expected);
    // As Linux does it: room for 256 ranges, of which one counts.
    let mut list = [DsmRange::new(1 << 40, 1); 256];
    list[0] = DsmRange::new(120, 4);
    let one = command::dataset_management(RAM_512, 1, dsm::AD);
    assert_eq!(io.send(one, list.as_bytes(), Way::InCapsule).unwrap().status(), generic::SUCCESS);
    expected[120 * 512..124 * 512].fill(0);
    assert!(io.read(RAM_512, 0, 512, 128) == expected);
    io.none(command::flush(RAM_512));
    io.none(command::flush(NSID_ALL));
    // Everything at once, in many turns.
    let all = [DsmRange::new(0, 32768)];
    let deallocate = command::dataset_management(RAM_512, 1, dsm::AD);
    assert_eq!(io.send(deallocate, all.as_bytes(), Way::Requested).unwrap().status(), generic::SUCCESS);
    assert!(io.read(RAM_512, 0, 512, 128).iter().all(|&byte| byte == 0));
}

#[test]
fn a_null_namespace_sends_zeroes() {
    let (_target, address) = start(subsystem());
    let (_admin, cntlid) = HostPeer::admin(address, NQN, Setup::default());
    let mut io = HostPeer::io(address, cntlid, 1, NQN, Setup::default());
    assert_eq!(io.write(NOTHING, 9, 512, &[5; 8192], Way::Requested), generic::SUCCESS);
    assert!(io.read(NOTHING, 9, 512, 2048).iter().all(|&byte| byte == 0));
}

#[test]
fn commands_that_are_wrong_are_told_why() {
    let (_target, address) = start(subsystem());
    let (_admin, cntlid) = HostPeer::admin(address, NQN, Setup::default());
    let mut io = HostPeer::io(address, cntlid, 1, NQN, Setup::default());
    let fused = {
        let mut read = command::read(RAM_512, 0, 8, 0);
        read.flags |= command::FLAGS_FUSED_FIRST;
        read
    };
    let table: [(_, u32, Status); 9] = [
        (command::read(0, 0, 8, 0), 4096, generic::INVALID_NAMESPACE),
        (command::read(9, 0, 8, 0), 4096, generic::INVALID_NAMESPACE),
        (command::read(NSID_ALL, 0, 8, 0), 4096, generic::INVALID_NAMESPACE),
        (command::read(RAM_512, 32768, 8, 0), 4096, generic::LBA_OUT_OF_RANGE),
        (command::read(RAM_512, 32761, 8, 0), 4096, generic::LBA_OUT_OF_RANGE),
        (command::read(RAM_512, u64::MAX, 8, 0), 4096, generic::LBA_OUT_OF_RANGE),
        (command::read(RAM_512, 0, 4096, 0), 2 << 20, generic::INVALID_FIELD),
        (command::read(RAM_512, 0, 8, 0), 512, generic::DATA_SGL_LENGTH_INVALID),
        (fused, 4096, generic::INVALID_FIELD),
    ];
    for (command, len, expected) in table {
        let got = io.fetch(command, len).unwrap_err();
        assert!(got.is(expected) && got.dnr, "{got} instead of {expected}");
    }
    // The same with data, in the capsule or to be asked for: it is refused without being asked for.
    for way in [Way::InCapsule, Way::Requested] {
        let past_the_end = io.write(RAM_512, 32768, 512, &[1; 512], way);
        assert!(past_the_end.is(generic::LBA_OUT_OF_RANGE), "{past_the_end}");
        let short = io.send(command::write(RAM_512, 0, 2, 0), &[1; 512], way).unwrap().status();
        assert!(short.is(generic::DATA_SGL_LENGTH_INVALID), "{short}");
        let bad_range = [DsmRange::new(0, 8), DsmRange::new(32768, 1)];
        let deallocate = command::dataset_management(RAM_512, 2, dsm::AD);
        let got = io.send(deallocate, bad_range.as_bytes(), way).unwrap().status();
        assert!(got.is(generic::LBA_OUT_OF_RANGE), "{got}");
    }
    let mut sgl = command::read(RAM_512, 0, 1, 0);
    sgl.set_sgl(SglDescriptor::data_block(0x1000, 512));
    let cid = io.submit(sgl, &[]);
    assert!(io.response(cid).unwrap().status().is(generic::SGL_TYPE_INVALID));
    for opcode in [0x03, 0x0b, 0x15, 0x80] {
        let got = io.status(command::Command::new(opcode, RAM_512));
        assert!(got.is(generic::INVALID_OPCODE), "{opcode:02x}: {got}");
    }
    assert!(io.read(RAM_512, 0, 512, 8).iter().all(|&byte| byte == 0), "nothing was written");
}

#[test]
fn data_outlives_the_association() {
    let (_target, address) = start(subsystem());
    let bytes = pattern(9, 128 << 10);
    for round in 0..3 {
        let (_admin, cntlid) = HostPeer::admin(address, NQN, Setup::default());
        let mut io = HostPeer::io(address, cntlid, 1, NQN, Setup::default());
        if round == 0 {
            assert_eq!(io.write(RAM_4096, 1, 4096, &bytes, Way::Requested), generic::SUCCESS);
        }
        assert!(io.read(RAM_4096, 1, 4096, 32) == bytes);
    }
}

#[test]
fn a_file_namespace_outlives_the_target() {
    let path = std::env::temp_dir().join(format!("doorbell-target-{}", std::process::id()));
    std::fs::File::create(&path).unwrap().set_len(8 << 20).unwrap();
    let config = || SubsystemConfig {
        namespaces: vec![NamespaceConfig { backend: Backend::File { path: path.clone() }, block_size: 512 }],
        ..SubsystemConfig::new(NQN)
    };
    let bytes = pattern(4, 300 * 512);
    for round in 0..2 {
        let (target, address) = start(config());
        let (mut admin, cntlid) = HostPeer::admin(address, NQN, Setup::default());
        let identify = admin.fetch(command::identify(Cns::CONTROLLER, 0, Csi::NVM, 0), 4096).unwrap();
        assert_eq!(Controller::read_from_bytes(&identify).unwrap().vwc, 0x07);
        let mut io = HostPeer::io(address, cntlid, 1, NQN, Setup::default());
        if round == 0 {
            let write = command::write(1, 3, 300, control::FUA);
            assert_eq!(io.send(write, &bytes, Way::Requested).unwrap().status(), generic::SUCCESS);
            io.none(command::flush(1));
        }
        assert!(io.read(1, 3, 512, 300) == bytes);
        target.stop().unwrap();
        assert!(matches!(io.ended(), End::Closed { .. } | End::Failed(_)));
    }
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn the_controller_says_what_it_is() {
    let (_target, address) = start(subsystem());
    let (mut admin, cntlid) = HostPeer::admin(address, NQN, Setup::default());
    let data = admin.fetch(command::identify(Cns::CONTROLLER, 0, Csi::NVM, 0), 4096).unwrap();
    let controller = Controller::read_from_bytes(&data).unwrap();
    assert_eq!(controller.subnqn(), Ok(NQN));
    assert_eq!((controller.cntlid.get(), controller.nn.get()), (cntlid, 3));
    assert_eq!((controller.max_transfer(0), controller.in_capsule_data_size()), (Some(1 << 20), 8192));
    let list = admin.fetch(command::identify(Cns::ACTIVE_NAMESPACES, 1, Csi::NVM, 0), 4096).unwrap();
    assert_eq!(NamespaceList::read_from_bytes(&list).unwrap().after(1).collect::<Vec<_>>(), [2, 3]);
    for (nsid, block, atomic) in [(RAM_512, 512, 7), (RAM_4096, 4096, 0)] {
        let data = admin.fetch(command::identify(Cns::NAMESPACE, nsid, Csi::NVM, 0), 4096).unwrap();
        let namespace = Namespace::read_from_bytes(&data).unwrap();
        assert_eq!((namespace.lba_size(), namespace.size_bytes()), (Some(block), Some(16 << 20)));
        assert_eq!((namespace.nawun.get(), namespace.nabsn.get()), (atomic, atomic));
    }
    let cap = Cap::from_bits(admin.none(fabrics::property_get(register::CAP, true)).result64());
    assert_eq!(cap.mqes(), 4095);
    let wanted = NumberOfQueues { submission: 1000, completion: 7 }.to_dword();
    let granted = admin.none(command::set_features(Fid::NUMBER_OF_QUEUES, false, 0, wanted)).result64();
    assert_eq!(NumberOfQueues::from_dword(granted as u32), NumberOfQueues { submission: 7, completion: 7 });
    let current = admin.none(command::get_features(Fid::NUMBER_OF_QUEUES, Select::CURRENT, 0, 0)).result64();
    assert_eq!(current, granted);
}

#[test]
fn the_smart_log_counts_what_hosts_do() {
    let (_target, address) = start(subsystem());
    let (mut admin, cntlid) = HostPeer::admin(address, NQN, Setup::default());
    let mut io = HostPeer::io(address, cntlid, 1, NQN, Setup::default());
    for at in 0..4 {
        assert_eq!(io.write(RAM_512, at * 8, 512, &[1; 4096], Way::InCapsule), generic::SUCCESS);
    }
    io.read(RAM_512, 0, 512, 2048);
    let request = LogRequest { lid: Lid::SMART, nsid: NSID_ALL, bytes: 512, ..LogRequest::default() };
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let data = admin.fetch(command::get_log_page(&request), 512).unwrap();
        let log = Smart::read_from_bytes(&data).unwrap();
        if log.hrc.get() == 1 {
            assert_eq!((log.hwc.get(), log.dur.get(), log.duw.get()), (4, 3, 1));
            break;
        }
        assert!(Instant::now() < deadline, "the counts never come");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn discovery_lists_what_a_host_may_use_where_it_can_reach_it() {
    let mut config = TargetConfig::new(subsystem(), "127.0.0.1:0".parse().unwrap());
    config.subsystems.push(SubsystemConfig {
        allowed_hosts: vec!["nqn.2014-08.org.example:other".into()],
        ..SubsystemConfig::new("nqn.2014-08.org.example:private")
    });
    config.listen.push("0.0.0.0:0".parse().unwrap());
    let target = Target::start(config).unwrap();
    for &address in target.addresses() {
        let reached = SocketAddr::new([127, 0, 0, 1].into(), address.port());
        let (mut admin, _) = HostPeer::admin(reached, DISCOVERY_NQN, Setup { kato: 1000, ..Setup::default() });
        let data = admin.fetch(command::identify(Cns::CONTROLLER, 0, Csi::NVM, 0), 4096).unwrap();
        assert_eq!(Controller::read_from_bytes(&data).unwrap().cntrltype, 2);
        let page = |bytes, offset| LogRequest { lid: Lid::DISCOVERY, bytes, offset, ..LogRequest::default() };
        let header = admin.fetch(command::get_log_page(&page(1024, 0)), 1024).unwrap();
        assert_eq!(DiscoveryHeader::read_from_bytes(&header).unwrap().numrec.get(), 2);
        let entries = admin.fetch(command::get_log_page(&page(2048, 1024)), 2048).unwrap();
        for (entry, listening) in entries.chunks(1024).zip(target.addresses()) {
            let entry = DiscoveryEntry::read_from_bytes(entry).unwrap();
            assert_eq!((entry.subnqn(), entry.subtype()), (Ok(NQN), Subtype::NVM));
            assert_eq!(entry.traddr().to_string(), "127.0.0.1");
            assert_eq!(entry.trsvcid().to_string(), listening.port().to_string());
        }
        // It has no I/O queues.
        let mut io = HostPeer::open(reached, Setup::default());
        assert_invalid(&io.connect(1, DISCOVERY_NQN, 1), ConnectRequest::QID_OFFSET, false);
    }
}

fn assert_invalid(response: &Completion, offset: u16, in_data: bool) {
    let status = response.status();
    assert!(status.is(status::fabrics::CONNECT_INVALID_PARAMETERS), "{}", status.fabrics());
    assert_eq!(InvalidParameter::parse(response), InvalidParameter { ipo: offset, in_data });
}

#[test]
fn a_silent_host_loses_all_its_queues() {
    let (_target, address) = start(subsystem());
    let (mut admin, cntlid) = HostPeer::admin(address, NQN, Setup { kato: 250, ..Setup::default() });
    assert_eq!(admin.none(command::get_features(Fid::KEEP_ALIVE_TIMER, Select::CURRENT, 0, 0)).result64(), 300);
    let mut io = HostPeer::io(address, cntlid, 1, NQN, Setup::default());
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(1) {
        admin.none(command::keep_alive());
        io.read(RAM_512, 0, 512, 1);
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(matches!(io.ended(), End::Closed { within_pdu: false }));
    assert!(matches!(admin.ended(), End::Closed { within_pdu: false }));
    let mut late = HostPeer::open(address, Setup::default());
    assert_invalid(&late.connect(1, NQN, cntlid), ConnectData::CNTLID_OFFSET, true);
}

#[test]
fn queues_go_with_the_admin_queue_and_with_a_reset() {
    let (_target, address) = start(subsystem());
    let (mut admin, cntlid) = HostPeer::admin(address, NQN, Setup::default());
    let mut io = HostPeer::io(address, cntlid, 1, NQN, Setup::default());
    let waiting = admin.submit(command::async_event_request(), &[]);
    admin.none(fabrics::property_set(register::CC, false, 0));
    assert!(admin.response(waiting).unwrap().status().is(generic::ABORTED_SQ_DELETION));
    assert!(matches!(io.ended(), End::Closed { within_pdu: false }));
    admin.enable();
    let mut io = HostPeer::io(address, cntlid, 1, NQN, Setup::default());
    io.none(command::flush(RAM_512));
    drop(admin);
    assert!(matches!(io.ended(), End::Closed { within_pdu: false }));
}

#[test]
fn a_queue_is_disconnected_alone() {
    let (_target, address) = start(subsystem());
    let (mut admin, cntlid) = HostPeer::admin(address, NQN, Setup::default());
    for _ in 0..3 {
        let mut io = HostPeer::io(address, cntlid, 1, NQN, Setup::default());
        io.none(fabrics::disconnect());
        assert!(matches!(io.ended(), End::Closed { within_pdu: false }));
    }
    assert!(admin.status(fabrics::disconnect()).is(status::fabrics::INVALID_QUEUE_TYPE));
    let shutdown = Cc::new().with_en(true).with_iosqes(6).with_iocqes(4).with_shn(Cc::SHN_NORMAL);
    admin.none(fabrics::property_set(register::CC, false, shutdown.into_bits().into()));
    let csts = admin.none(fabrics::property_get(register::CSTS, false)).result64();
    assert_eq!(register::Csts::from_bits(csts as u32).shst(), register::Csts::SHST_COMPLETE);
}

/// Sends bytes and returns the fatal error status and information of the termination request that comes back.
fn terminated(address: SocketAddr, bytes: &[u8]) -> (Fes, u32) {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).unwrap();
    let at = if answer.first() == Some(&PduType::ICRESP.0) { 128 } else { 0 };
    let (term, rest) = TermReq::read_from_prefix(&answer[at..]).unwrap();
    assert_eq!(term.common.pdu_type, PduType::C2H_TERM_REQ);
    assert_eq!(rest.len() + 24, term.common.plen.get() as usize, "the header in error is sent back");
    (term.fes(), term.fei.get())
}

#[test]
fn breaches_of_the_protocol_end_the_connection_with_the_reason() {
    let (_target, address) = start(subsystem());
    let hello = IcReq::new(0, 0, 0);
    let bytes = hello.as_bytes();
    let mut version = hello;
    version.pfv = 1.into();
    let mut alignment = hello;
    alignment.hpda = 32;
    let command = |plen: u32| {
        let mut pdu = CommonHeader::new(PduType::CAPSULE_CMD, 0, 0, plen).as_bytes().to_vec();
        pdu.resize(72, 0);
        pdu
    };
    let table = [
        (vec![0x44; 8], (Fes::INVALID_PDU_HEADER_FIELD, 0)),
        (version.as_bytes().to_vec(), (Fes::UNSUPPORTED_PARAMETER, 8)),
        (alignment.as_bytes().to_vec(), (Fes::INVALID_PDU_HEADER_FIELD, 10)),
        (command(72), (Fes::PDU_SEQUENCE_ERROR, 0)),
        ([bytes, bytes].concat(), (Fes::PDU_SEQUENCE_ERROR, 0)),
    ];
    for (sent, expected) in table {
        assert_eq!(terminated(address, &sent), expected);
    }
}

#[test]
fn several_reactors_share_the_load() {
    let cores = doorbell_platform::cpu::allowed().unwrap();
    let cores = [cores[0], *cores.last().unwrap()];
    let config = TargetConfig { cores: Some(cores.to_vec()), ..TargetConfig::new(subsystem(), ANY.parse().unwrap()) };
    let target = Target::start(config).unwrap();
    let address = target.addresses()[0];
    std::thread::scope(|scope| {
        for host in 0..4u64 {
            scope.spawn(move || {
                let (mut admin, cntlid) = HostPeer::admin(address, NQN, Setup::default());
                let mut queues: Vec<_> =
                    (1..4).map(|qid| HostPeer::io(address, cntlid, qid, NQN, Setup::default())).collect();
                for round in 0..30u64 {
                    let slba = host * 64 + round % 8;
                    let bytes = pattern(round as u32, 8 * 4096);
                    let queue = &mut queues[round as usize % 3];
                    assert_eq!(queue.write(RAM_4096, slba, 4096, &bytes, Way::Requested), generic::SUCCESS);
                    assert!(queues[(round as usize + 1) % 3].read(RAM_4096, slba, 4096, 8) == bytes);
                }
                admin.none(command::keep_alive());
            });
        }
    });
    let start = Instant::now();
    target.stop().unwrap();
    assert!(start.elapsed() < Duration::from_secs(5));
}

/// Hosts that ask for the largest transfers and give nothing take all there is, but the reserve for what comes unasked; who waits is
/// served when one of them goes.
#[test]
fn memory_is_bounded_and_comes_back() {
    let config = SubsystemConfig { max_transfer: 4 << 20, ..subsystem() };
    let config = TargetConfig { transfer_memory: 0, ..TargetConfig::new(config, ANY.parse().unwrap()) };
    let target = Target::start(config).unwrap();
    let address = target.addresses()[0];
    let (_admin, cntlid) = HostPeer::admin(address, NQN, Setup::default());
    let mut io = HostPeer::io(address, cntlid, 1, NQN, Setup::default());
    let mut hoarders = Vec::new();
    let mut served = 0;
    for qid in 2..12 {
        let mut hoarder = HostPeer::io(address, cntlid, qid, NQN, Setup::default());
        let mut write = command::write(RAM_4096, 0, 1024, 0);
        write.set_sgl(SglDescriptor::transport(4 << 20));
        hoarder.submit(write, &[]);
        // A command behind it tells when the target has looked at it.
        hoarder.submit(command::flush(RAM_4096), &[]);
        hoarder.until(|host| !host.responses.is_empty()).unwrap();
        served += hoarder.requests.len();
        hoarders.push(hoarder);
    }
    assert!((1..10).contains(&served), "{served} of 10 hosts got 4 MiB");
    let bytes = pattern(2, 8192);
    assert_eq!(io.write(RAM_512, 1, 512, &bytes, Way::InCapsule), generic::SUCCESS);
    assert!(io.read(RAM_512, 1, 512, 16) == bytes);
    while let Some(mut last) = hoarders.pop() {
        // The one that is left has been given its turn, if not before.
        if hoarders.is_empty() {
            last.until(|host| !host.requests.is_empty()).unwrap();
        }
        hoarders.reverse();
    }
}

#[test]
fn a_cooperative_target_runs_in_a_loop_of_ours() {
    let config = TargetConfig::new(subsystem(), ANY.parse().unwrap());
    let (addresses, mut target) = Target::cooperative(config).unwrap();
    let host = std::thread::spawn(move || {
        let (_admin, cntlid) = HostPeer::admin(addresses[0], NQN, Setup::default());
        let mut io = HostPeer::io(addresses[0], cntlid, 1, NQN, Setup::default());
        let bytes = pattern(5, 64 << 10);
        assert_eq!(io.write(RAM_512, 1, 512, &bytes, Way::Requested), generic::SUCCESS);
        assert!(io.read(RAM_512, 1, 512, 128) == bytes);
    });
    let mut worked = false;
    while !host.is_finished() {
        worked |= target.pass();
        std::thread::yield_now();
    }
    host.join().unwrap();
    assert!(worked);
}

#[test]
fn configurations_that_cannot_be_are_refused() {
    let base = || TargetConfig::new(subsystem(), ANY.parse().unwrap());
    let change = |change: fn(&mut SubsystemConfig)| {
        let mut config = base();
        change(&mut config.subsystems[0]);
        config
    };
    let table = [
        (change(|subsystem| subsystem.nqn = "storage".into()), "NVMe Qualified Name"),
        (change(|subsystem| subsystem.nqn = DISCOVERY_NQN.into()), "discovery"),
        (change(|subsystem| subsystem.allowed_hosts = vec!["me".into()]), "me"),
        (change(|subsystem| subsystem.serial = "x".repeat(21)), "serial"),
        (change(|subsystem| subsystem.max_transfer = 12345), "12345"),
        (change(|subsystem| subsystem.max_queue_entries = 5000), "5000"),
        (change(|subsystem| subsystem.in_capsule_data = 100), "100"),
        (change(|subsystem| subsystem.namespaces[0].block_size = 1024), "1024"),
        (change(|subsystem| subsystem.namespaces[0].backend = Backend::Ram { size: 100 }), "namespace 1"),
        (change(|subsystem| subsystem.namespaces[0].backend = Backend::Ram { size: u64::MAX }), "memory"),
        (TargetConfig { listen: Vec::new(), ..base() }, "address"),
        (TargetConfig { cores: Some(vec![4000]), ..base() }, "core 4000"),
        (TargetConfig { subsystems: vec![subsystem(), subsystem()], ..base() }, "two subsystems"),
        (TargetConfig { listen: vec!["192.0.2.1:1".parse().unwrap()], ..base() }, "192.0.2.1:1"),
    ];
    for (config, says) in table {
        let error = Target::start(config).unwrap_err().to_string();
        assert!(error.contains(says), "{error:?} does not say {says:?}");
    }
}
