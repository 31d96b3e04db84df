//! Connect with every field wrong: the right status and offset, or the right end, and the target serves on.

use doorbell_hostile::{End, HOST, HOST_ID, HostPeer, NQN, Setup, Way};
use doorbell_spec::{
    command::{self, Command, SglDescriptor},
    completion::Completion,
    fabrics::{
        self, CNTLID_DYNAMIC, CNTLID_STATIC_ANY, ConnectData, ConnectRequest, ConnectResponse, InvalidParameter,
    },
    nqn::DISCOVERY_NQN,
    status::{Status, fabrics as code, generic},
    tcp::Fes,
};
use doorbell_subsystem::SubsystemConfig;
use zerocopy::IntoBytes;

use super::{config, returns_to, serves_an_honest_host, start};

const OTHER: &str = "nqn.2014-08.org.example:other";

/// Where Connect Invalid Parameters points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Command(u16),
    Data(u16),
}

fn points(response: &Completion) -> Option<At> {
    let there = InvalidParameter::parse(response);
    let is_it = response.status() == code::CONNECT_INVALID_PARAMETERS.with_dnr();
    is_it.then_some(if there.in_data { At::Data(there.ipo) } else { At::Command(there.ipo) })
}

fn data(cntlid: u16, subnqn: &str, hostnqn: &str) -> ConnectData {
    ConnectData::new(HOST_ID, cntlid, subnqn, hostnqn).unwrap()
}

/// A name's field without the NUL that ends it, too long for a name, and what is no UTF-8.
fn bad_names() -> [[u8; 256]; 4] {
    let mut long = [0; 256];
    long[..224].fill(b'x');
    let mut no_text = [0; 256];
    no_text[..4].copy_from_slice(b"nqn\xff");
    [[b'x'; 256], long, no_text, [0; 256]]
}

#[test]
fn every_wrong_field_of_an_admin_connect_is_pointed_at() {
    let (target, address) = start(config());
    let before = target.usage();
    let good = data(CNTLID_DYNAMIC, NQN, HOST);
    let admin = fabrics::connect(0, 31, 0, 0);
    let mut table: Vec<(&str, Command, ConnectData, At)> = vec![
        ("SQSIZE 0", fabrics::connect(0, 0, 0, 0), good, At::Command(ConnectRequest::SQSIZE_OFFSET)),
        ("SQSIZE 4096", fabrics::connect(0, 4096, 0, 0), good, At::Command(ConnectRequest::SQSIZE_OFFSET)),
        ("SQSIZE FFFFh", fabrics::connect(0, u16::MAX, 0, 0), good, At::Command(ConnectRequest::SQSIZE_OFFSET)),
        ("HOSTID 0", admin, ConnectData { hostid: [0; 16], ..good }, At::Data(ConnectData::HOSTID_OFFSET)),
        ("unknown SUBNQN", admin, data(CNTLID_DYNAMIC, OTHER, HOST), At::Data(ConnectData::SUBNQN_OFFSET)),
    ];
    for bit in 3..8 {
        // Bit 3 is a host that can delete queues, which is no fault.
        if bit > 3 {
            let command = fabrics::connect(0, 31, 1 << bit, 0);
            table.push(("CATTR", command, good, At::Command(ConnectRequest::CATTR_OFFSET)));
        }
    }
    for cntlid in [0, 1, 0xff00, CNTLID_STATIC_ANY] {
        table.push(("CNTLID", admin, data(cntlid, NQN, HOST), At::Data(ConnectData::CNTLID_OFFSET)));
    }
    for name in bad_names() {
        let (subnqn, hostnqn) = (ConnectData { subnqn: name, ..good }, ConnectData { hostnqn: name, ..good });
        table.push(("SUBNQN", admin, subnqn, At::Data(ConnectData::SUBNQN_OFFSET)));
        table.push(("HOSTNQN", admin, hostnqn, At::Data(ConnectData::HOSTNQN_OFFSET)));
    }
    for (what, command, data, at) in table {
        for way in [Way::InCapsule, Way::Requested] {
            let mut host = HostPeer::open(address, Setup::default());
            let response = host.send(command, data.as_bytes(), way).unwrap();
            assert_eq!(points(&response), Some(at), "{what} {way:?}: {}", response.status().fabrics());
            // The same connection is still good for a right one, with any keep alive timeout.
            let right = fabrics::connect(0, 4095, 0, u32::MAX);
            assert_eq!(host.send(right, good.as_bytes(), way).unwrap().status(), Status::SUCCESS, "{what}");
        }
    }
    returns_to(&target, before);
    serves_an_honest_host(address);
}

#[test]
fn a_connect_of_another_format_is_incompatible() {
    let (_target, address) = start(config());
    let mut host = HostPeer::open(address, Setup::default());
    for recfmt in [1_u32, 0xffff] {
        let mut connect = fabrics::connect(0, 31, 0, 0);
        connect.cdw10 = recfmt.into();
        let response = host.send(connect, data(CNTLID_DYNAMIC, NQN, HOST).as_bytes(), Way::InCapsule).unwrap();
        assert_eq!(response.status(), code::CONNECT_INCOMPATIBLE_FORMAT.with_dnr());
    }
    serves_an_honest_host(address);
}

#[test]
fn a_host_that_is_not_on_the_list_is_an_invalid_host() {
    let mut config = config();
    config.subsystems[0].allowed_hosts = vec![HOST.into()];
    let (_target, address) = start(config);
    let mut host = HostPeer::open(address, Setup { hostnqn: OTHER, ..Setup::default() });
    assert_eq!(host.connect(0, NQN, CNTLID_DYNAMIC).status(), code::CONNECT_INVALID_HOST.with_dnr());
    serves_an_honest_host(address);
}

#[test]
fn connect_data_of_another_length_is_refused_or_ends_the_connection() {
    let (_target, address) = start(config());
    let good = data(CNTLID_DYNAMIC, NQN, HOST);
    let connect = fabrics::connect(0, 31, 0, 0);
    for len in [0, 4, 1020, 1028, 8192] {
        for way in [Way::InCapsule, Way::Requested] {
            let mut host = HostPeer::open(address, Setup::default());
            let mut bytes = good.as_bytes().to_vec();
            bytes.resize(len, 0);
            let status = host.send(connect, &bytes, way).unwrap().status();
            assert_eq!(status, generic::DATA_SGL_LENGTH_INVALID.with_dnr(), "{len} bytes {way:?}");
        }
    }
    // A descriptor that says something else than the capsule has.
    let mut host = HostPeer::open(address, Setup::default());
    let mut lying = connect;
    lying.set_sgl(SglDescriptor::in_capsule(0, 2048));
    let cid = host.submit(lying, good.as_bytes());
    assert_eq!(host.response(cid).unwrap().status(), generic::DATA_SGL_LENGTH_INVALID.with_dnr());
    lying.set_sgl(SglDescriptor::in_capsule(8, 1024));
    let cid = host.submit(lying, good.as_bytes());
    assert_eq!(host.response(cid).unwrap().status(), generic::SGL_OFFSET_INVALID.with_dnr());
    lying.set_sgl(SglDescriptor::data_block(0x1000, 1024));
    let cid = host.submit(lying, &[]);
    assert_eq!(host.response(cid).unwrap().status(), generic::SGL_TYPE_INVALID.with_dnr());
    // More commands than the one Connect that may come before it has been answered.
    lying.set_sgl(SglDescriptor::transport(1024));
    (0..3).for_each(|_| {
        let _ = host.try_submit(lying, &[]);
    });
    assert_eq!(host.ended(), End::Terminated { fes: Fes::PDU_SEQUENCE_ERROR, fei: 0 });
    serves_an_honest_host(address);
}

#[test]
fn every_wrong_field_of_an_io_connect_is_pointed_at() {
    let mut config = config();
    config.subsystems[0] = SubsystemConfig { max_io_queues: 2, max_queue_entries: 64, ..config.subsystems[0].clone() };
    let (target, address) = start(config);
    let (_admin, cntlid) = HostPeer::admin(address, NQN, Setup::default());
    let (_others, another) = HostPeer::admin(address, NQN, Setup { hostnqn: OTHER, ..Setup::default() });
    let _first = HostPeer::io(address, cntlid, 1, NQN, Setup::default());
    let before = target.usage();
    let good = data(cntlid, NQN, HOST);
    let second = fabrics::connect(2, 31, 0, 0);
    let table: [(&str, Command, ConnectData, At); 12] = [
        ("QID twice", fabrics::connect(1, 31, 0, 0), good, At::Command(ConnectRequest::QID_OFFSET)),
        ("QID beyond those granted", fabrics::connect(3, 31, 0, 0), good, At::Command(ConnectRequest::QID_OFFSET)),
        ("QID FFFFh", fabrics::connect(u16::MAX, 31, 0, 0), good, At::Command(ConnectRequest::QID_OFFSET)),
        ("SQSIZE 0", fabrics::connect(2, 0, 0, 0), good, At::Command(ConnectRequest::SQSIZE_OFFSET)),
        ("SQSIZE 64", fabrics::connect(2, 64, 0, 0), good, At::Command(ConnectRequest::SQSIZE_OFFSET)),
        ("CATTR", fabrics::connect(2, 31, 0x80, 0), good, At::Command(ConnectRequest::CATTR_OFFSET)),
        ("no such CNTLID", second, data(999, NQN, HOST), At::Data(ConnectData::CNTLID_OFFSET)),
        ("dynamic CNTLID", second, data(CNTLID_DYNAMIC, NQN, HOST), At::Data(ConnectData::CNTLID_OFFSET)),
        ("another host's CNTLID", second, data(another, NQN, HOST), At::Data(ConnectData::HOSTNQN_OFFSET)),
        ("another HOSTNQN", second, data(cntlid, NQN, OTHER), At::Data(ConnectData::HOSTNQN_OFFSET)),
        ("another HOSTID", second, ConnectData { hostid: [8; 16], ..good }, At::Data(ConnectData::HOSTID_OFFSET)),
        ("discovery", second, data(cntlid, DISCOVERY_NQN, HOST), At::Command(ConnectRequest::QID_OFFSET)),
    ];
    for (what, command, data, at) in table {
        let mut host = HostPeer::open(address, Setup::default());
        let response = host.send(command, data.as_bytes(), Way::InCapsule).unwrap();
        assert_eq!(points(&response), Some(at), "{what}: {}", response.status().fabrics());
        assert_eq!(host.send(second, good.as_bytes(), Way::InCapsule).unwrap().status(), Status::SUCCESS, "{what}");
        drop(host);
        returns_to(&target, before);
    }
    serves_an_honest_host(address);
}

#[test]
fn connects_out_of_order_are_refused() {
    let (_target, address) = start(config());
    // An I/O queue before there is a controller, and before the controller is enabled.
    let mut early = HostPeer::open(address, Setup::default());
    assert_eq!(points(&early.connect(1, NQN, 1)), Some(At::Data(ConnectData::CNTLID_OFFSET)));
    let mut admin = HostPeer::open(address, Setup::default());
    let cntlid = ConnectResponse::parse(&admin.connect(0, NQN, CNTLID_DYNAMIC)).cntlid;
    assert_eq!(early.connect(1, NQN, cntlid).status(), generic::COMMAND_SEQUENCE_ERROR.with_dnr());
    admin.enable();
    assert_eq!(early.connect(1, NQN, cntlid).status(), Status::SUCCESS);
    // A second Connect on either queue, and any other command before the first.
    for (host, qid) in [(&mut early, 2), (&mut admin, 0)] {
        let cntlid = if qid == 0 { CNTLID_DYNAMIC } else { cntlid };
        assert_eq!(host.connect(qid, NQN, cntlid).status(), generic::COMMAND_SEQUENCE_ERROR.with_dnr());
    }
    let mut fresh = HostPeer::open(address, Setup::default());
    for command in [command::keep_alive(), command::flush(1), fabrics::property_get(0, true), fabrics::disconnect()] {
        assert_eq!(fresh.status(command), generic::COMMAND_SEQUENCE_ERROR.with_dnr(), "{command:?}");
    }
    admin.none(command::keep_alive());
    early.none(command::flush(1));
    serves_an_honest_host(address);
}
