use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64},
    },
    time::{Duration, Instant},
};

use doorbell_spec::{
    command::{self, AdminOpcode, Command, LogRequest, NSID_ALL, NvmOpcode},
    fabrics::{self, CNTLID_DYNAMIC, ConnectData},
    feature::{Fid, HOST_IDENTIFIER_EXHID, Select, capability},
    identify::{self, Cns, Csi, Nidt},
    log::{
        AnaState, CommandEffects, DiscoveryEntry, FirmwareSlots, Lid, SupportedLogPages, Trtype, ana_groups, effect,
    },
    nqn::DISCOVERY_NQN,
    register::{self, Cc, Csts},
    status::{self, Status, command_specific, generic},
    zns,
};
use zerocopy::{FromBytes, IntoBytes};

use super::*;
use crate::{
    config::{Backend, Deadlines, NamespaceConfig, SubsystemConfig, Zoning},
    namespace::Namespace,
    subsystem::{Desk, Shared, Subsystem},
};

const NQN: &str = "nqn.2014-08.org.example:storage";
const LOCAL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 4420);
const HOST_ID: [u8; 16] = [9; 16];

/// A controller of a subsystem with two namespaces that hold nothing.
struct Bench {
    admin: Admin,
    now: Instant,
    aborted: Vec<(u16, Status)>,
}

impl Bench {
    fn new(nqn: &str) -> Self {
        Self::over(Transport::Tcp(LOCAL), nqn)
    }

    fn over(transport: Transport, nqn: &str) -> Self {
        Self::with(transport, nqn, Vec::new())
    }

    /// With more namespaces.
    fn with(transport: Transport, nqn: &str, more: Vec<NamespaceConfig>) -> Self {
        let mut config = SubsystemConfig::new(NQN);
        let null = |block_size| NamespaceConfig { backend: Backend::Null { size: 1 << 20 }, block_size };
        config.namespaces = [vec![null(512), null(4096)], more].concat();
        let open = |(each, nsid)| Namespace::open(each, NQN, nsid, 0).unwrap();
        let namespaces = config.namespaces.iter().zip(1..).map(open).collect();
        let shared = Arc::new(Shared {
            subsystems: vec![Arc::new(Subsystem::new(config, namespaces))],
            discovery: Arc::new(Subsystem::discovery()),
            addresses: vec![
                (Trtype::TCP, LOCAL),
                (Trtype::RDMA, LOCAL),
                (Trtype::RDMA, (Ipv4Addr::UNSPECIFIED, 1).into()),
            ],
            deadlines: Deadlines::default(),
            fault: None,
            zero_copy: None,
            changes: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            desks: vec![Desk::new().unwrap()],
            started: Instant::now(),
        });
        let (now, data) =
            (Instant::now(), ConnectData::new(HOST_ID, CNTLID_DYNAMIC, nqn, "nqn.2014-08.org.example:host"));
        let command = fabrics::connect(0, 31, 0, 0);
        let accepted = connect(&shared, &command, data.unwrap().as_bytes(), transport, now).unwrap();
        let Session::Admin(admin) = accepted.session else { panic!("not an admin queue") };
        Self { admin: *admin, now, aborted: Vec::new() }
    }

    fn enabled(nqn: &str) -> Self {
        let mut bench = Self::new(nqn);
        bench.set_cc(ready());
        bench
    }

    fn run(&mut self, command: Command, data: &[u8], len: u32) -> Option<Answer> {
        self.admin.execute(&command, data, Some(len), self.now, &mut self.aborted)
    }

    fn answer(&mut self, command: Command) -> Answer {
        self.run(command, &[], 0).unwrap()
    }

    fn identify(&mut self, cns: Cns, nsid: u32) -> Answer {
        self.run(command::identify(cns, nsid, Csi::NVM, 0), &[], 4096).unwrap()
    }

    fn log(&mut self, lid: Lid, bytes: u64, offset: u64) -> Answer {
        let request = LogRequest { lid, bytes, offset, ..LogRequest::default() };
        self.run(command::get_log_page(&request), &[], bytes as u32).unwrap()
    }

    fn set_cc(&mut self, cc: Cc) -> Csts {
        self.answer(fabrics::property_set(register::CC, false, cc.into_bits().into()));
        let csts = self.answer(fabrics::property_get(register::CSTS, false));
        Csts::from_bits(csts.result as u32)
    }
}

fn ready() -> Cc {
    Cc::new().with_en(true).with_iosqes(6).with_iocqes(4)
}

#[test]
fn the_controller_runs_only_as_it_can() {
    for (cc, rdy) in [
        (ready(), true),
        (ready().with_css(Cc::CSS_ALL), true),
        (ready().with_css(Cc::CSS_ADMIN_ONLY), false),
        (ready().with_mps(1), false),
        (ready().with_ams(1), false),
        (ready().with_iosqes(7), false),
        (ready().with_iocqes(0), false),
    ] {
        let mut bench = Bench::new(NQN);
        let csts = bench.set_cc(cc);
        assert_eq!((csts.rdy(), csts.cfs()), (rdy, !rdy), "{cc:?}");
        assert!(!bench.set_cc(cc.with_en(false)).rdy());
        assert!(bench.set_cc(ready()).rdy(), "it recovers");
        let csts = bench.set_cc(ready().with_shn(Cc::SHN_ABRUPT));
        assert_eq!(csts.shst(), Csts::SHST_COMPLETE);
    }
}

#[test]
fn properties_have_their_sizes() {
    let mut bench = Bench::new(NQN);
    for (offset, eight, there) in [
        (register::CAP, true, true),
        (register::CAP, false, false),
        (register::VS, false, true),
        (register::CC, false, true),
        (register::CSTS, true, false),
        (register::CRTO, false, true),
        (register::NSSR, false, false),
    ] {
        let status = bench.answer(fabrics::property_get(offset, eight)).status;
        assert_eq!(status.is_success(), there, "{offset:x}: {status}");
    }
    let status = bench.answer(fabrics::property_set(register::CSTS, false, 0)).status;
    assert!(status.is(generic::INVALID_FIELD));
}

#[test]
fn commands_wait_for_the_controller_to_be_ready_and_must_exist() {
    let mut bench = Bench::new(NQN);
    assert!(bench.identify(Cns::CONTROLLER, 0).status.is(generic::COMMAND_SEQUENCE_ERROR));
    bench.set_cc(ready());
    for (command, expected) in [
        (command::keep_alive(), generic::SUCCESS),
        (Command::new(AdminOpcode::CREATE_IO_SQ.0, 0), generic::INVALID_OPCODE),
        (Command::new(AdminOpcode::FORMAT_NVM.0, 1), generic::INVALID_OPCODE),
        (Command::new(0xc0, 0), generic::INVALID_OPCODE),
        (Command::new(fabrics::OPCODE, 0x05), generic::INVALID_OPCODE),
        (fabrics::connect(0, 31, 0, 0), generic::COMMAND_SEQUENCE_ERROR),
    ] {
        assert!(bench.answer(command).status.is(expected), "{command:?}");
    }
}

#[test]
fn identify_knows_its_structures() {
    let mut bench = Bench::enabled(NQN);
    for (cns, nsid, expected) in [
        (Cns::CONTROLLER, 0, generic::SUCCESS),
        (Cns::NAMESPACE, 1, generic::SUCCESS),
        (Cns::NAMESPACE, 0, generic::INVALID_NAMESPACE),
        (Cns::NAMESPACE, 3, generic::INVALID_NAMESPACE),
        (Cns::NAMESPACE, NSID_ALL, generic::INVALID_NAMESPACE),
        (Cns::ACTIVE_NAMESPACES, 0, generic::SUCCESS),
        (Cns::ACTIVE_NAMESPACES, NSID_ALL, generic::INVALID_NAMESPACE),
        (Cns::NAMESPACE_DESCRIPTORS, 2, generic::SUCCESS),
        (Cns::CSI_NAMESPACE, 1, generic::SUCCESS),
        (Cns::CSI_CONTROLLER, 0, generic::SUCCESS),
        (Cns::CSI_INDEPENDENT_NAMESPACE, 2, generic::SUCCESS),
        (Cns::CSI_INDEPENDENT_NAMESPACE, 9, generic::INVALID_NAMESPACE),
        (Cns::CONTROLLERS, 0, generic::SUCCESS),
        (Cns::IO_COMMAND_SETS, 0, generic::SUCCESS),
        (Cns::NVM_SET_LIST, 0, generic::INVALID_FIELD),
        (Cns(0xff), 0, generic::INVALID_FIELD),
    ] {
        let answer = bench.identify(cns, nsid);
        assert!(answer.status.is(expected), "{cns} {nsid:x}: {}", answer.status);
        assert_eq!(answer.data.len(), if expected.is_success() { identify::SIZE } else { 0 });
    }
    let other = command::identify(Cns::CSI_CONTROLLER, 0, Csi::ZONED, 0);
    assert!(bench.run(other, &[], 4096).unwrap().status.is(generic::INVALID_FIELD));
    let short = command::identify(Cns::CONTROLLER, 0, Csi::NVM, 0);
    assert!(bench.run(short, &[], 512).unwrap().status.is(generic::DATA_SGL_LENGTH_INVALID));
}

#[test]
fn identifiers_agree_and_differ() {
    let mut bench = Bench::enabled(NQN);
    let mut uuids = Vec::new();
    for nsid in [1, 2] {
        let data = bench.identify(Cns::NAMESPACE, nsid).data;
        let namespace = identify::Namespace::read_from_bytes(&data).unwrap();
        let list = bench.identify(Cns::NAMESPACE_DESCRIPTORS, nsid).data;
        let descriptors: Vec<_> = identify::descriptors(&list).collect();
        let of = |nidt| descriptors.iter().find(|each| each.nidt == nidt).unwrap();
        assert_eq!(of(Nidt::NGUID).nid, namespace.nguid);
        assert_eq!(of(Nidt::CSI).csi(), Some(Csi::NVM));
        assert_eq!(of(Nidt::UUID).nid[6] >> 4, 8, "a custom UUID");
        uuids.push(of(Nidt::UUID).nid.to_vec());
    }
    assert_ne!(uuids[0], uuids[1]);
}

#[test]
fn logs_are_read_in_parts() {
    let mut bench = Bench::enabled(NQN);
    let whole = bench.log(Lid::COMMANDS_SUPPORTED_AND_EFFECTS, 4096, 0).data;
    let effects = CommandEffects::read_from_bytes(&whole).unwrap();
    assert_eq!(effects.io(NvmOpcode::WRITE), effect::CSUPP | effect::LBCC);
    assert_eq!((effects.io(NvmOpcode::READ), effects.io(NvmOpcode::COPY)), (effect::CSUPP, 0));
    assert_eq!(effects.admin(AdminOpcode::IDENTIFY), effect::CSUPP);
    assert_eq!(bench.log(Lid::COMMANDS_SUPPORTED_AND_EFFECTS, 8, 1024).data, whole[1024..1032]);
    assert_eq!(bench.log(Lid::COMMANDS_SUPPORTED_AND_EFFECTS, 8, 4092).data, [&whole[4092..], &[0; 4]].concat());

    let ana = bench.log(Lid::ANA, 1024, 0).data;
    let (header, groups) = ana_groups(&ana).unwrap();
    assert_eq!(header.ngrps.get(), 1);
    let group = groups.into_iter().next().unwrap();
    assert_eq!(group.descriptor.state(), AnaState::OPTIMIZED);
    assert_eq!(group.nsids.iter().map(|id| id.get()).collect::<Vec<_>>(), [1, 2]);

    let slots = FirmwareSlots::read_from_bytes(&bench.log(Lid::FIRMWARE_SLOT, 512, 0).data).unwrap();
    assert_eq!(slots.revision(slots.active()).unwrap().to_string(), env!("CARGO_PKG_VERSION"));
    let list = SupportedLogPages::read_from_bytes(&bench.log(Lid::SUPPORTED_LOG_PAGES, 1024, 0).data).unwrap();
    for lid in Lid::ALL {
        let answer = bench.log(*lid, 64, 0);
        assert_eq!(answer.status.is_success(), list.supports(*lid), "{lid}");
        assert!(answer.status.is_success() || answer.status.is(command_specific::INVALID_LOG_PAGE));
    }
}

#[test]
fn log_requests_that_are_wrong() {
    let mut bench = Bench::enabled(NQN);
    let good = LogRequest { lid: Lid::SMART, bytes: 512, ..LogRequest::default() };
    for (request, expected) in [
        (good, generic::SUCCESS),
        (LogRequest { nsid: 2, ..good }, generic::SUCCESS),
        (LogRequest { nsid: 3, ..good }, generic::INVALID_NAMESPACE),
        (LogRequest { offset: 516, ..good }, generic::INVALID_FIELD),
        (LogRequest { offset: 2, ..good }, generic::INVALID_FIELD),
        (LogRequest { ot: true, ..good }, generic::INVALID_FIELD),
        (LogRequest { bytes: 2 << 20, ..good }, generic::INVALID_FIELD),
        (LogRequest { rae: true, ..good }, generic::SUCCESS),
    ] {
        let answer = bench.run(command::get_log_page(&request), &[], 512).unwrap();
        assert!(answer.status.is(expected), "{request:?}: {}", answer.status);
    }
}

#[test]
fn features_are_kept_until_a_reset() {
    let mut bench = Bench::enabled(NQN);
    let set = |fid, value| command::set_features(fid, false, 0, value);
    let get = |fid, select| command::get_features(fid, select, 0, 0);
    for (fid, value, default) in [
        (Fid::ARBITRATION, 5, 0),
        (Fid::TEMPERATURE_THRESHOLD, 300, 343),
        (Fid::ERROR_RECOVERY, 7, 0),
        (Fid::WRITE_ATOMICITY_NORMAL, 1, 0),
        (Fid::ASYNC_EVENT_CONFIGURATION, 0x1ff, 0),
    ] {
        assert_eq!(bench.answer(set(fid, value)).status, generic::SUCCESS, "{fid}");
        assert_eq!(bench.answer(get(fid, Select::CURRENT)).result, u64::from(value), "{fid}");
        assert_eq!(bench.answer(get(fid, Select::DEFAULT)).result, default, "{fid}");
        let capabilities = bench.answer(get(fid, Select::SUPPORTED_CAPABILITIES)).result as u32;
        assert_ne!(capabilities & capability::CHANGEABLE, 0, "{fid}");
    }
    bench.set_cc(ready().with_en(false));
    bench.set_cc(ready());
    assert_eq!(bench.answer(get(Fid::ARBITRATION, Select::CURRENT)).result, 0);
}

#[test]
fn features_that_cannot_be() {
    let mut bench = Bench::enabled(NQN);
    let set = |fid, nsid, value| command::set_features(fid, false, nsid, value);
    for (command, expected) in [
        (set(Fid::POWER_MANAGEMENT, 0, 0), generic::SUCCESS),
        (set(Fid::POWER_MANAGEMENT, 0, 1), generic::INVALID_FIELD),
        (set(Fid::ERROR_RECOVERY, 1, 0x1_0000), generic::INVALID_FIELD),
        (set(Fid::ERROR_RECOVERY, 3, 1), generic::INVALID_NAMESPACE),
        (set(Fid::ARBITRATION, 1, 1), command_specific::FEATURE_NOT_NAMESPACE_SPECIFIC),
        (command::set_features(Fid::ARBITRATION, true, 0, 1), command_specific::FEATURE_NOT_SAVEABLE),
        (set(Fid::NUMBER_OF_QUEUES, 0, 0xffff_0001), generic::INVALID_FIELD),
        (set(Fid::VOLATILE_WRITE_CACHE, 0, 1), generic::INVALID_FIELD),
        (set(Fid::HOST_IDENTIFIER, 0, 1), generic::COMMAND_SEQUENCE_ERROR),
        (set(Fid::HOST_BEHAVIOR_SUPPORT, 0, 0), generic::DATA_SGL_LENGTH_INVALID),
        (set(Fid(0xc0), 0, 0), generic::INVALID_FIELD),
        (command::get_features(Fid(0xc0), Select::CURRENT, 0, 0), generic::INVALID_FIELD),
        (command::get_features(Fid::ARBITRATION, Select(4), 0, 0), generic::INVALID_FIELD),
        (command::get_features(Fid::HOST_IDENTIFIER, Select::CURRENT, 0, 0), generic::INVALID_FIELD),
    ] {
        let status = bench.answer(command).status;
        assert!(status.is(expected), "{} {:08x}: {status}", command.fid(), command.cdw11.get());
    }
    let behavior = command::set_features(Fid::HOST_BEHAVIOR_SUPPORT, false, 0, 0);
    assert_eq!(bench.run(behavior, &[1; 512], 0).unwrap().status, generic::SUCCESS);
    let behavior = command::get_features(Fid::HOST_BEHAVIOR_SUPPORT, Select::CURRENT, 0, 0);
    assert_eq!(bench.run(behavior, &[], 512).unwrap().data, [1; 512]);
    let identifier = command::get_features(Fid::HOST_IDENTIFIER, Select::CURRENT, 0, HOST_IDENTIFIER_EXHID);
    assert_eq!(bench.run(identifier, &[], 16).unwrap().data, HOST_ID);
}

#[test]
fn event_requests_wait_are_limited_and_can_be_aborted() {
    let mut bench = Bench::enabled(NQN);
    let event = |cid: u16| Command { cid: cid.into(), ..command::async_event_request() };
    for cid in 1..=4 {
        assert_eq!(bench.run(event(cid), &[], 0), None);
    }
    assert!(bench.answer(event(5)).status.is(command_specific::AER_LIMIT_EXCEEDED));
    assert_eq!(bench.answer(command::abort(0, 2)).result, 0);
    assert_eq!(bench.aborted, [(2, generic::ABORT_REQUESTED)]);
    assert_eq!(bench.answer(command::abort(0, 2)).result, 1, "it is gone");
    assert_eq!(bench.answer(command::abort(3, 1)).result, 1, "another queue's");
    bench.aborted.clear();
    bench.set_cc(ready().with_shn(Cc::SHN_NORMAL));
    assert_eq!(bench.aborted, [1, 3, 4].map(|cid| (cid, generic::ABORTED_SQ_DELETION)));
}

#[test]
fn the_keep_alive_timer_runs_from_the_last_sign() {
    let mut bench = Bench::enabled(NQN);
    assert_eq!(bench.admin.expires(), None);
    let set = command::set_features(Fid::KEEP_ALIVE_TIMER, false, 0, 1234);
    assert_eq!(bench.answer(set).result, 1300);
    let start = bench.now;
    assert_eq!(bench.admin.expires(), Some(start + Duration::from_millis(1300)));
    bench.now += Duration::from_secs(1);
    bench.identify(Cns::CONTROLLER, 0);
    assert_eq!(bench.admin.expires(), Some(start + Duration::from_millis(1300)), "only Keep Alive counts");
    bench.answer(command::keep_alive());
    assert_eq!(bench.admin.expires(), Some(start + Duration::from_millis(2300)));
}

#[test]
fn a_discovery_controller_does_little_else() {
    let mut bench = Bench::enabled(DISCOVERY_NQN);
    assert_eq!(bench.identify(Cns::CONTROLLER, 0).status, generic::SUCCESS);
    assert!(bench.identify(Cns::NAMESPACE, 1).status.is(generic::INVALID_FIELD));
    assert!(bench.log(Lid::SMART, 512, 0).status.is(command_specific::INVALID_LOG_PAGE));
    assert_eq!(bench.log(Lid::DISCOVERY, 2048, 0).status, generic::SUCCESS);
    let queues = command::set_features(Fid::NUMBER_OF_QUEUES, false, 0, 0);
    assert!(bench.answer(queues).status.is(generic::INVALID_FIELD));
    let events = command::set_features(Fid::ASYNC_EVENT_CONFIGURATION, false, 0, 1 << 31);
    assert_eq!(bench.answer(events).status, generic::SUCCESS);
}

#[test]
fn a_subsystem_with_all_the_controllers_it_can_have_is_busy() {
    let bench = Bench::new(NQN);
    let subsystem = &bench.admin.shared.subsystems[0];
    let all: Vec<_> = std::iter::from_fn(|| subsystem.associate(HOST_ID, "nqn.2014-08.org.example:crowd")).collect();
    let data = ConnectData::new(HOST_ID, CNTLID_DYNAMIC, NQN, "nqn.2014-08.org.example:host").unwrap();
    let again = || {
        let command = fabrics::connect(0, 31, 0, 0);
        connect(&bench.admin.shared, &command, data.as_bytes(), Transport::Tcp(LOCAL), bench.now).map(|_| ())
    };
    assert_eq!(again(), Err((status::fabrics::CONNECT_CONTROLLER_BUSY, 0)), "free to retry");
    all[all.len() / 2].end(&bench.admin.shared);
    assert_eq!(again(), Ok(()));
    assert!(again().is_err(), "and busy again");
}

#[test]
fn over_rdma_a_controller_tells_what_its_queues_take_there() {
    let limits = Limits { entries: 256, in_capsule_data: 4096, descriptors: 16 };
    let mut bench = Bench::over(Transport::Rdma { local: LOCAL, limits }, NQN);
    bench.set_cc(ready());
    let answer = bench.identify(Cns::CONTROLLER, 0);
    let data = identify::Controller::ref_from_bytes(&answer.data).unwrap();
    assert_eq!((data.ioccsz.get(), data.icdoff.get(), data.msdbd), ((64 + 4096) / 16, 0, 16));
    assert_eq!((data.iorcsz.get(), data.maxcmd.get()), (1, 256));
    let kinds = identify::sgls::SUPPORTED | identify::sgls::KEYED | identify::sgls::OFFSET;
    assert_eq!(data.sgls.get(), kinds);
    let cap = bench.answer(fabrics::property_get(register::CAP, true)).result;
    assert_eq!(register::Cap::from_bits(cap).mqes(), 255);
}

#[test]
fn a_zoned_namespace_is_of_the_zoned_command_set() {
    let zoning =
        Zoning { zone_size: 1 << 20, zone_capacity: 3 << 18, max_open: Some(8), max_active: Some(12), read_only: 0 };
    let zoned = NamespaceConfig { backend: Backend::Zoned { size: 5 << 19, zoning }, block_size: 4096 };
    let mut bench = Bench::with(Transport::Tcp(LOCAL), NQN, vec![zoned]);
    bench.set_cc(ready().with_css(Cc::CSS_ALL));
    let mut about = |cns, nsid, csi| bench.run(command::identify(cns, nsid, csi, 0), &[], 4096).unwrap();
    let csis: Vec<_> = (1..=3)
        .map(|nsid| {
            let answer = about(Cns::NAMESPACE_DESCRIPTORS, nsid, Csi::NVM);
            identify::descriptors(&answer.data).find_map(|descriptor| descriptor.csi()).unwrap()
        })
        .collect();
    assert_eq!(csis, [Csi::NVM, Csi::NVM, Csi::ZONED]);
    let listed =
        |data: &[u8]| -> Vec<u32> { identify::NamespaceList::ref_from_bytes(data).unwrap().after(0).collect() };
    assert_eq!(listed(&about(Cns::CSI_ACTIVE_NAMESPACES, 0, Csi::NVM).data), [1, 2]);
    assert_eq!(listed(&about(Cns::CSI_ACTIVE_NAMESPACES, 0, Csi::ZONED).data), [3]);
    assert_eq!(listed(&about(Cns::ACTIVE_NAMESPACES, 0, Csi::NVM).data), [1, 2, 3]);
    let answer = about(Cns::CSI_NAMESPACE, 3, Csi::ZONED);
    let data = zns::ZonedNamespace::ref_from_bytes(&answer.data).unwrap();
    assert_eq!((data.lbafe[0].zsze.get(), data.max_open(), data.max_active()), (256, Some(8), Some(12)));
    assert_eq!((data.zoc.get(), data.ozcs.get()), (0, 0));
    let answer = about(Cns::NAMESPACE, 3, Csi::NVM);
    let data = identify::Namespace::ref_from_bytes(&answer.data).unwrap();
    assert_eq!((data.nsze.get(), data.ncap.get()), (512, 384), "two whole zones");
    let wrong = about(Cns::CSI_NAMESPACE, 1, Csi::ZONED).status;
    assert_eq!(wrong, command_specific::INVALID_IO_COMMAND_SET.with_dnr());
    assert_eq!(about(Cns::CSI_NAMESPACE, 4, Csi::ZONED).status, generic::INVALID_NAMESPACE.with_dnr());
    assert!(about(Cns::CSI_CONTROLLER, 0, Csi::ZONED).status.is_success());
    let sets = about(Cns::IO_COMMAND_SETS, 0, Csi::NVM).data;
    assert_eq!(identify::IoCommandSets::ref_from_bytes(&sets).unwrap().vectors[0].get(), 0b101);
    let mut effects = |csi| {
        let request = LogRequest { csi, ..LogRequest::new(Lid::COMMANDS_SUPPORTED_AND_EFFECTS) };
        let page = bench.run(command::get_log_page(&request), &[], 4096).unwrap().data;
        CommandEffects::read_from_bytes(&page).unwrap().io(NvmOpcode::ZONE_APPEND)
    };
    assert_eq!((effects(Csi::NVM), effects(Csi::ZONED)), (0, effect::CSUPP | effect::LBCC));
}

#[test]
fn without_zones_there_is_no_zoned_command_set() {
    let mut bench = Bench::enabled(NQN);
    for cns in [Cns::CSI_NAMESPACE, Cns::CSI_CONTROLLER, Cns::CSI_ACTIVE_NAMESPACES] {
        let answer = bench.run(command::identify(cns, 1, Csi::ZONED, 0), &[], 4096).unwrap();
        assert_eq!(answer.status, generic::INVALID_FIELD.with_dnr(), "{cns}");
    }
}

#[test]
fn discovery_names_the_transport_of_each_address() {
    let limits = Limits { entries: 256, in_capsule_data: 4096, descriptors: 16 };
    for (transport, seen) in [
        (Transport::Tcp(LOCAL), vec![(Trtype::TCP, "4420"), (Trtype::RDMA, "4420")]),
        (
            Transport::Rdma { local: LOCAL, limits },
            vec![(Trtype::TCP, "4420"), (Trtype::RDMA, "4420"), (Trtype::RDMA, "1")],
        ),
    ] {
        let mut bench = Bench::over(transport, DISCOVERY_NQN);
        bench.set_cc(ready());
        let page = bench.log(Lid::DISCOVERY, 1024 * (1 + seen.len() as u64), 0).data;
        assert_eq!(page[8], seen.len() as u8);
        for (entry, (trtype, port)) in page[1024..].chunks(1024).zip(seen) {
            let entry = DiscoveryEntry::ref_from_bytes(entry).unwrap();
            assert_eq!((entry.trtype(), entry.trsvcid().to_string().as_str()), (trtype, port));
            let tsas: &[u8] = if trtype == Trtype::RDMA { &[1, 1, 1] } else { &[0, 0, 0] };
            assert_eq!(&entry.tsas[..3], tsas);
        }
    }
}
