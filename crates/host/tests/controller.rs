//! The host driver against a controller in memory: what bring-up sends, and what it makes of refusals, silence, losses and lies.
//! The scripted answers stand for hostile or broken peers; no real peer we know gives them.

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use common::{
    NQN, connect, faulty, feature, gets, hasty, identifies, is_admin, is_fabrics, memory, options, place, reads_log,
    seen, until,
};
use doorbell_host::{AdminData, Cancel, Cause, Controller, InitState, Probed, TransportId, discover, probe, transport};
use doorbell_queue::IoQueue;
use doorbell_spec::{
    command::{self, AdminOpcode, Command, IdentifyRequest, LogRequest, NSID_ALL},
    fabrics::{ConnectData, ConnectRequest, Fctype, InvalidParameter, PropertyRequest},
    feature::{AsyncEvent, Fid},
    identify::{Cns, Csi, NamespaceList},
    log::{
        Adrfam, AnaGroupDescriptor, AnaHeader, AnaState, ChangedNamespaces, DiscoveryEntry, DiscoveryHeader, Lid,
        Subtype, Trtype,
    },
    register::{self, Cc},
    status::{Status, fabrics as code, generic},
};
use memory::{MemoryTransport, Reply, Site};
use zerocopy::{FromZeros, IntoBytes};

#[test]
fn a_controller_comes_up_serves_and_is_shut_down() {
    let site = Site::new();
    let controller = connect(&site).unwrap();
    assert!(controller.name().starts_with("CUSTOM (site"));
    assert_eq!((controller.io_queues(), controller.io_queue_entries()), (4, 64), "CAP.MQES + 1 entries");
    assert_eq!((controller.max_transfer(), controller.in_capsule_bytes()), (8192, 4096), "MDTS and IOCCSZ");
    assert_eq!(controller.keep_alive(), Some(Duration::from_secs(10)));
    let namespaces = controller.namespaces();
    assert_eq!(namespaces.len(), 1);
    assert_eq!((namespaces[0].nsid, namespaces[0].blocks, namespaces[0].block_size), (1, 2048, 512));
    let queues: Vec<_> = (0..4).map(|_| controller.connect_io_queue(1000).unwrap()).collect();
    assert_eq!(queues[3].needs().slots, 63);
    let why = controller.connect_io_queue(1000).err().unwrap().to_string();
    assert!(why.contains("4 I/O queues"), "{why}");
    controller.detach();
    let commands = site.seen.lock().unwrap().clone();
    let sets = commands.iter().filter(|(_, command)| is_fabrics(command, Fctype::PROPERTY_SET));
    let sets: Vec<Cc> = sets.map(|(_, command)| Cc::from_bits(PropertyRequest::parse(command).value as u32)).collect();
    assert_eq!((sets[0].en(), sets[0].iosqes(), sets[0].iocqes()), (true, 6, 4));
    assert_eq!(sets.last().unwrap().shn(), Cc::SHN_NORMAL);
    let qids: Vec<u16> =
        commands.iter().filter(|(_, command)| is_fabrics(command, Fctype::CONNECT)).map(|(qid, _)| *qid).collect();
    assert_eq!(qids, [0, 1, 2, 3, 4]);
}

type Which = Box<dyn Fn(&Command) -> bool + Send + Sync>;

/// Every step that cannot be done without, and the command it stands on.
fn steps() -> Vec<(InitState, &'static str, Which)> {
    let connects = |command: &Command| is_fabrics(command, Fctype::CONNECT);
    let sets = |command: &Command| is_fabrics(command, Fctype::PROPERTY_SET);
    vec![
        (InitState::ConnectAdminq, "Fabrics Connect (queue 0)", Box::new(connects) as Which),
        (InitState::ReadVs, "Property Get (offset 08h)", Box::new(gets(register::VS))),
        (InitState::ReadCap, "Property Get (offset 00h)", Box::new(gets(register::CAP))),
        (InitState::CheckEn, "Property Get (offset 14h)", Box::new(gets(register::CC))),
        (InitState::Enable, "Property Set (offset 14h)", Box::new(sets)),
        (InitState::EnableWaitForReady1, "Property Get (offset 1ch)", Box::new(gets(register::CSTS))),
        (InitState::Identify, "Identify (CNS 01h", Box::new(identifies(Cns::CONTROLLER))),
        (
            InitState::SetKeepAliveTimeout,
            "Get Features (FID 0fh)",
            Box::new(feature(AdminOpcode::GET_FEATURES, Fid::KEEP_ALIVE_TIMER)),
        ),
        (InitState::IdentifyActiveNs, "Identify (CNS 02h", Box::new(identifies(Cns::ACTIVE_NAMESPACES))),
        (InitState::IdentifyNs, "Identify (CNS 00h, NSID 1)", Box::new(identifies(Cns::NAMESPACE))),
    ]
}

#[test]
fn a_refused_step_is_named_with_what_was_sent_and_answered() {
    for (step, sent, which) in steps() {
        let site = faulty(which, || Reply::Status(generic::INTERNAL_ERROR.with_dnr()));
        let error = connect(&site).unwrap_err();
        let text = error.to_string();
        assert!(matches!(&error.cause, Cause::Step { step: at, .. } if *at == step), "{step}: {text}");
        for part in
            [&format!("step {step}: sent {sent}"), "answered Internal Error (sct 0h, sc 06h, dnr)", "CUSTOM (site"]
        {
            assert!(text.contains(part), "\"{part}\" is not in \"{text}\"");
        }
    }
}

#[test]
fn a_step_that_is_never_answered_ends_with_its_deadline() {
    for (step, sent, which) in steps() {
        let site = faulty(which, || Reply::Never);
        let text = Controller::connect(&place(&site), &hasty(), &Cancel::new()).unwrap_err().to_string();
        for part in [&format!("step {step}: sent {sent}"), "no answer within 0.04 s"] {
            assert!(text.contains(part), "\"{part}\" is not in \"{text}\"");
        }
    }
}

#[test]
fn a_queue_lost_at_a_step_ends_it() {
    for (step, _, which) in steps() {
        let text = connect(&faulty(which, || Reply::Down)).unwrap_err().to_string();
        assert!(text.contains(&format!("step {step}:")) && text.contains("the memory is gone"), "{text}");
    }
}

#[test]
fn giving_up_ends_a_step_that_would_wait_long() {
    let site = faulty(identifies(Cns::CONTROLLER), || Reply::Never);
    let (id, cancel) = (place(&site), Cancel::new());
    let outcome = thread::scope(|scope| {
        let bring_up = scope.spawn(|| Controller::connect(&id, &options(), &cancel));
        until("it identifies the controller", || seen(&site, identifies(Cns::CONTROLLER)) > 0);
        cancel.cancel();
        bring_up.join().unwrap()
    });
    let text = outcome.unwrap_err().to_string();
    assert!(text.contains("step IDENTIFY: cancelled"), "{text}");
}

#[test]
fn a_refused_connect_says_what_to_check() {
    let at = |ipo, in_data| InvalidParameter { ipo, in_data }.dw0();
    for (status, dw0, said) in [
        (code::CONNECT_INVALID_HOST, 0, "the host nqn.2016-06.org.example:host is not allowed"),
        (code::CONNECT_CONTROLLER_BUSY, 0, "in use"),
        (
            code::CONNECT_INVALID_PARAMETERS,
            at(ConnectData::SUBNQN_OFFSET, true),
            "no subsystem nqn.2016-06.org.example:memory",
        ),
        (
            code::CONNECT_INVALID_PARAMETERS,
            at(ConnectData::HOSTNQN_OFFSET, true),
            "host NQN nqn.2016-06.org.example:host",
        ),
        (code::CONNECT_INVALID_PARAMETERS, at(ConnectRequest::SQSIZE_OFFSET, false), "the queue is too large"),
        (code::CONNECT_INVALID_PARAMETERS, at(17, true), "byte 17 of the Connect data"),
    ] {
        let site = Site::with_hook(move |_, command| match is_fabrics(command, Fctype::CONNECT) {
            true => Reply::Answer(status, dw0.into()),
            false => Reply::Model,
        });
        let text = connect(&site).unwrap_err().to_string();
        let sent = "step CONNECT_ADMINQ: sent Fabrics Connect (queue 0), answered";
        for part in [sent, status.fabrics_name(), said] {
            assert!(text.contains(part), "\"{part}\" is not in \"{text}\"");
        }
    }
}

#[test]
fn a_controller_that_wants_authentication_is_told_apart() {
    let site = Site::with_hook(|_, command| match is_fabrics(command, Fctype::CONNECT) {
        true => Reply::Value(0x0002_0001),
        false => Reply::Model,
    });
    let text = connect(&site).unwrap_err().to_string();
    assert!(text.contains("authentication"), "{text}");
}

#[test]
fn what_a_controller_can_do_without_does_not_stop_bring_up() {
    let refusals: Vec<(&str, Which)> = vec![
        ("events", Box::new(feature(AdminOpcode::SET_FEATURES, Fid::ASYNC_EVENT_CONFIGURATION)) as Which),
        ("keep alive", Box::new(feature(AdminOpcode::GET_FEATURES, Fid::KEEP_ALIVE_TIMER))),
        ("identifiers", Box::new(identifies(Cns::NAMESPACE_DESCRIPTORS))),
        ("queues", Box::new(feature(AdminOpcode::SET_FEATURES, Fid::NUMBER_OF_QUEUES))),
        ("namespace", Box::new(identifies(Cns::NAMESPACE))),
    ];
    for (what, which) in refusals {
        let controller = connect(&faulty(which, || Reply::Status(generic::INVALID_FIELD))).unwrap();
        let (namespaces, queues) = (controller.namespaces().len(), controller.io_queues());
        assert_eq!(namespaces, usize::from(what != "namespace"), "{what}: invalid field is an inactive namespace");
        assert_eq!(queues, if what == "queues" { 0 } else { 4 }, "{what}");
        if queues == 0 {
            assert!(controller.connect_io_queue(32).err().unwrap().to_string().contains("0 I/O queues"));
        }
        controller.detach();
    }
}

#[test]
fn lies_neither_panic_nor_hang_nor_become_namespaces() {
    let lies: Vec<(&str, Arc<Site>)> = vec![
        ("controller data of ones", faulty(identifies(Cns::CONTROLLER), || Reply::Data(vec![0xff; 4096]))),
        ("controller data of zeroes", faulty(identifies(Cns::CONTROLLER), || Reply::Data(vec![0; 4096]))),
        ("namespace data of ones", faulty(identifies(Cns::NAMESPACE), || Reply::Data(vec![0xff; 4096]))),
        (
            "a list that goes nowhere",
            faulty(identifies(Cns::ACTIVE_NAMESPACES), || Reply::Data(1u32.to_le_bytes().repeat(1024))),
        ),
        ("a list of ones", faulty(identifies(Cns::ACTIVE_NAMESPACES), || Reply::Data(vec![0xff; 4096]))),
        ("descriptors of ones", faulty(identifies(Cns::NAMESPACE_DESCRIPTORS), || Reply::Data(vec![0xff; 4096]))),
        ("no capabilities", faulty(gets(register::CAP), || Reply::Value(0))),
        ("every capability", faulty(gets(register::CAP), || Reply::Value(u64::MAX))),
        ("no version", faulty(gets(register::VS), || Reply::Value(0))),
        (
            "all queues there are",
            faulty(feature(AdminOpcode::SET_FEATURES, Fid::NUMBER_OF_QUEUES), || Reply::Value(u64::MAX)),
        ),
        (
            "the shortest keep alive",
            faulty(feature(AdminOpcode::GET_FEATURES, Fid::KEEP_ALIVE_TIMER), || Reply::Value(1)),
        ),
    ];
    for (what, site) in lies {
        let Ok(controller) = connect(&site) else { continue };
        for namespace in controller.namespaces() {
            assert_eq!((namespace.nsid, namespace.blocks), (1, 2048), "{what}");
        }
        assert!(controller.max_transfer() >= 512 && controller.io_queues() <= 1024, "{what}");
        if controller.io_queues() > 0 {
            assert!(controller.connect_io_queue(u32::MAX).unwrap().needs().slots >= 1, "{what}");
        }
        controller.detach();
    }
}

#[test]
fn the_last_handle_shuts_the_controller_down() {
    let site = Site::new();
    let controller = connect(&site).unwrap();
    let other = controller.clone();
    drop(controller);
    assert!(other.connect_io_queue(32).is_ok());
    drop(other);
    let shuts = |command: &Command| {
        let value = Cc::from_bits(PropertyRequest::parse(command).value as u32);
        is_fabrics(command, Fctype::PROPERTY_SET) && value.shn() == Cc::SHN_NORMAL
    };
    until("the shutdown", || seen(&site, shuts) == 1);
}

#[test]
fn a_namespace_list_without_end_is_a_lie() {
    let site = Site::with_hook(|_, command| match identifies(Cns::ACTIVE_NAMESPACES)(command) {
        true => Reply::Data(NamespaceList::collect(command.nsid.get(), command.nsid.get()..).as_bytes().to_vec()),
        false => Reply::Model,
    });
    let text = connect(&site).unwrap_err().to_string();
    assert!(text.contains("step IDENTIFY_ACTIVE_NS") && text.contains("active namespaces"), "{text}");
}

#[test]
fn a_controller_that_never_gets_ready_is_given_up() {
    let text = connect(&faulty(gets(register::CSTS), || Reply::Value(0))).unwrap_err().to_string();
    assert!(text.contains("step ENABLE_WAIT_FOR_READY_1: it did not get there within 1s"), "{text}");
    let text = connect(&faulty(gets(register::CSTS), || Reply::Value(2))).unwrap_err().to_string();
    assert!(text.contains("CSTS.CFS"), "{text}");
}

#[test]
fn keep_alive_goes_out_at_half_the_time_granted_and_its_loss_is_noticed() {
    let granted = |command: &Command| feature(AdminOpcode::GET_FEATURES, Fid::KEEP_ALIVE_TIMER)(command);
    let silent = Arc::new(AtomicBool::new(false));
    let (quiet, kato) = (silent.clone(), 60);
    let site = Site::with_hook(move |_, command| match granted(command) {
        true => Reply::Value(kato),
        false if is_admin(command, AdminOpcode::KEEP_ALIVE) && quiet.load(Ordering::Relaxed) => Reply::Never,
        false => Reply::Model,
    });
    let controller = connect(&site).unwrap();
    until("three keep alives", || seen(&site, |command| is_admin(command, AdminOpcode::KEEP_ALIVE)) >= 3);
    assert_eq!(controller.failure(), None);
    silent.store(true, Ordering::Relaxed);
    until("the loss", || controller.failure().is_some());
    assert!(controller.failure().unwrap().contains("Keep Alive"), "{:?}", controller.failure());
}

#[test]
fn a_lost_controller_says_so_to_everyone() {
    let site = Site::new();
    let controller = connect(&site).unwrap();
    site.die();
    until("the loss", || controller.failure().is_some());
    let text = controller.connect_io_queue(32).err().unwrap().to_string();
    assert!(text.contains("the memory is gone"), "{text}");
    let text = controller.admin(command::keep_alive(), AdminData::None).unwrap_err().to_string();
    assert!(text.contains("the memory is gone"), "{text}");
    controller.detach();
}

#[test]
fn changed_namespaces_are_identified_again() {
    let grown = Arc::new(AtomicBool::new(false));
    let after = grown.clone();
    let site = Site::with_hook(move |_, command| {
        let (identify, grown) = (IdentifyRequest::parse(command), after.load(Ordering::Relaxed));
        match command {
            _ if reads_log(Lid::CHANGED_NAMESPACES)(command) => {
                Reply::Data(ChangedNamespaces::collect([1, 2]).as_bytes().to_vec())
            }
            _ if grown && identifies(Cns::NAMESPACE)(command) => {
                let mut data = memory::identify_namespace();
                data.nsze = (u64::from(identify.nsid) * 4096).into();
                Reply::Data(data.as_bytes().to_vec())
            }
            _ => Reply::Model,
        }
    });
    let controller = connect(&site).unwrap();
    grown.store(true, Ordering::Relaxed);
    // More events than requests are outstanding: each request is sent again after its event.
    for _ in 0..5 {
        site.report(AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED.to_dword());
    }
    until("the new sizes", || controller.namespaces().len() == 2);
    let sizes: Vec<_> = controller.namespaces().iter().map(|namespace| (namespace.nsid, namespace.blocks)).collect();
    assert_eq!(sizes, [(1, 4096), (2, 8192)]);
    until("five times", || seen(&site, reads_log(Lid::CHANGED_NAMESPACES)) == 5);
    assert!(controller.events()[0].contains("Attached Namespace Attribute Changed"));
    controller.detach();
}

#[test]
fn an_overflowed_list_of_changes_means_all_that_are_active() {
    let two = Arc::new(AtomicBool::new(false));
    let after = two.clone();
    let site = Site::with_hook(move |_, command| match after.load(Ordering::Relaxed) {
        true if reads_log(Lid::CHANGED_NAMESPACES)(command) => {
            Reply::Data(ChangedNamespaces::collect([NSID_ALL]).as_bytes().to_vec())
        }
        true if identifies(Cns::ACTIVE_NAMESPACES)(command) => {
            Reply::Data(NamespaceList::collect(command.nsid.get(), [2, 5]).as_bytes().to_vec())
        }
        true if identifies(Cns::NAMESPACE)(command) && command.nsid.get() == 1 => {
            Reply::Status(generic::INVALID_NAMESPACE)
        }
        true if identifies(Cns::NAMESPACE)(command) => Reply::Data(memory::identify_namespace().as_bytes().to_vec()),
        _ => Reply::Model,
    });
    let controller = connect(&site).unwrap();
    two.store(true, Ordering::Relaxed);
    site.report(AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED.to_dword());
    let nsids = || controller.namespaces().iter().map(|namespace| namespace.nsid).collect::<Vec<_>>();
    until("the new namespaces", || nsids() == [2, 5]);
    controller.detach();
}

#[test]
fn ana_states_are_read_and_followed() {
    let state = Arc::new(AtomicU32::new(AnaState::OPTIMIZED.0.into()));
    let now = state.clone();
    let site = Site::with_hook(move |_, command| match command {
        _ if identifies(Cns::CONTROLLER)(command) => {
            let mut data = memory::identify_controller(false);
            (data.cmic, data.nanagrpid, data.anagrpmax) = (8, 1.into(), 1.into());
            data.oaes = (1 << 11).into();
            Reply::Data(data.as_bytes().to_vec())
        }
        _ if identifies(Cns::NAMESPACE)(command) => {
            let mut data = memory::identify_namespace();
            data.anagrpid = 1.into();
            Reply::Data(data.as_bytes().to_vec())
        }
        _ if reads_log(Lid::ANA)(command) => {
            let header = AnaHeader { ngrps: 1.into(), ..AnaHeader::default() };
            let group = AnaGroupDescriptor {
                agid: 1.into(),
                nnsids: 1.into(),
                anas: now.load(Ordering::Relaxed) as u8,
                ..AnaGroupDescriptor::default()
            };
            Reply::Data([header.as_bytes(), group.as_bytes(), &1u32.to_le_bytes()].concat())
        }
        _ => Reply::Model,
    });
    let controller = connect(&site).unwrap();
    assert_eq!(controller.namespaces()[0].ana_state, Some(AnaState::OPTIMIZED));
    state.store(AnaState::INACCESSIBLE.0.into(), Ordering::Relaxed);
    site.report(AsyncEvent::ANA_CHANGE.to_dword());
    until("the change", || controller.namespaces()[0].ana_state == Some(AnaState::INACCESSIBLE));
    controller.detach();
}

#[test]
fn admin_commands_carry_data_and_errors() {
    let controller = connect(&Site::new()).unwrap();
    let page = controller.identify_page(Cns::CONTROLLER, 0, Csi::NVM).unwrap();
    assert_eq!(page, controller.identify().as_bytes());
    assert_eq!(controller.log_page(Lid::SMART, NSID_ALL, 512).unwrap().len(), 512);
    let error = controller.identify_page(Cns::UUID_LIST, 0, Csi::NVM).unwrap_err();
    assert!(matches!(error.cause, Cause::Status { status, .. } if status.is(generic::INVALID_FIELD)), "{error}");
    for data in [AdminData::In(65537), AdminData::Out(vec![0; 65537])] {
        let text = controller.admin(command::identify(Cns::CONTROLLER, 0, Csi::NVM, 0), data).unwrap_err().to_string();
        assert!(text.contains("65537"), "{text}");
    }
    assert_eq!(controller.failure(), None, "a refused command harms nothing");
    let other = controller.clone();
    controller.detach();
    assert!(other.connect_io_queue(32).is_err(), "detached for every handle");
}

#[test]
fn ids_of_one_subsystem_share_a_controller() {
    let (site, elsewhere) = (Site::new(), Site::new());
    let first = place(&site);
    let again = TransportId { ns: Some(1), ..first.clone() };
    let named = TransportId { hostnqn: Some(options().host.nqn), ..first.clone() };
    let stranger = TransportId { hostnqn: Some("nqn.2016-06.org.example:other".into()), ..first.clone() };
    let ids = [first.clone(), again.clone(), place(&elsewhere), named, stranger];
    let probed = probe(&ids, &options(), &Cancel::new());
    let order: Vec<_> = probed.iter().map(|Probed { id, .. }| id.clone()).collect();
    assert_eq!(order, ids);
    assert_eq!(seen(&site, |command| is_fabrics(command, Fctype::CONNECT)), 2, "one for each host");
    assert_eq!(seen(&elsewhere, |command| is_fabrics(command, Fctype::CONNECT)), 1);
    for Probed { outcome, .. } in probed {
        outcome.unwrap().detach();
    }
}

#[test]
fn what_cannot_be_driven_is_refused_with_the_reason() {
    for (text, said) in [
        ("trtype:fc traddr:nn-0x1:pn-0x2 subnqn:nqn.x", "FC is not supported"),
        ("trtype:vfiouser traddr:/nowhere/x", "step CONNECT_ADMINQ: cannot connect to /nowhere/x: No such file"),
        ("trtype:pcie traddr:ffff:ff:1f.7", "PCIE (ffff:ff:1f.7): step CONNECT_ADMINQ: "),
        ("trtype:carrier-pigeon traddr:roof subnqn:nqn.x", "registered as CARRIER-PIGEON"),
    ] {
        let outcome = probe(&[text.parse().unwrap()], &options(), &Cancel::new()).remove(0).outcome;
        let why = outcome.unwrap_err().to_string();
        assert!(why.contains(said), "{text}: {why}");
    }
    // Where RDMA is missing, what to install is said; where it is there, the first step that cannot be done.
    let id: TransportId = "trtype:rdma traddr:10.0.0.1 hostaddr:here subnqn:nqn.x".parse().unwrap();
    let why = probe(&[id], &options(), &Cancel::new()).remove(0).outcome.unwrap_err().to_string();
    let step = "connecting to 10.0.0.1:4420 over RDMA: choosing the source address: hostaddr:here is no IP address";
    assert!(why.contains(step) || why.contains("apt-get install librdmacm1"), "{why}");
    place(&Site::new());
    assert!(transport::register(Arc::new(MemoryTransport::default())).unwrap_err().contains("MEMORY"), "taken");
}

/// A discovery log of `entries`, cut as a Get Log Page asks; the generation counter moves while it is read `moves` times.
fn discovery(entries: Vec<DiscoveryEntry>, claimed: u64, moves: u32) -> Arc<Site> {
    let headers = AtomicU32::new(0);
    Site::with_hook(move |_, command| {
        if !reads_log(Lid::DISCOVERY)(command) {
            return Reply::Model;
        }
        let request = LogRequest::parse(command);
        let mut page = Vec::new();
        if request.offset == 0 {
            let read = headers.fetch_add(1, Ordering::Relaxed);
            let generation = if read < 2 * moves { read } else { 2 * moves };
            page.extend_from_slice(DiscoveryHeader::new(generation.into(), claimed).as_bytes());
        } else {
            page.resize(1024, 0);
        }
        page.extend(entries.iter().flat_map(|entry| entry.as_bytes().to_vec()));
        let from = (request.offset as usize).min(page.len());
        let to = (from + request.bytes as usize).min(page.len());
        Reply::Data(page[from..to].to_vec())
    })
}

fn entry(subtype: Subtype, trtype: Trtype, port: u16) -> DiscoveryEntry {
    let mut entry = DiscoveryEntry::new_zeroed();
    (entry.subtype, entry.trtype, entry.adrfam) = (subtype.0, trtype.0, Adrfam::IPV4.0);
    entry.set_traddr("127.0.0.1");
    entry.set_trsvcid(&port.to_string());
    entry.set_subnqn(NQN).unwrap();
    entry
}

#[test]
fn a_discovery_log_is_read_until_it_stands_still() {
    let entries = vec![entry(Subtype::NVM, Trtype::TCP, 1), entry(Subtype::REFERRAL, Trtype::TCP, 2)];
    let site = discovery(entries.clone(), 2, 2);
    let log = discover(&place(&site), &options(), &Cancel::new()).unwrap();
    assert_eq!((log.genctr, log.entries.len()), (4, 2));
    assert_eq!(log.entries[1].as_bytes(), entries[1].as_bytes());
    let shut = |command: &Command| {
        is_fabrics(command, Fctype::PROPERTY_SET)
            && Cc::from_bits(PropertyRequest::parse(command).value as u32).shn() == 1
    };
    assert_eq!(seen(&site, shut), 1, "the discovery controller is let go in order");

    let text =
        discover(&place(&discovery(entries.clone(), 2, 100)), &options(), &Cancel::new()).unwrap_err().to_string();
    assert!(text.contains("changed"), "{text}");
    let text = discover(&place(&discovery(entries, u64::MAX, 0)), &options(), &Cancel::new()).unwrap_err().to_string();
    assert!(text.contains("claims 18446744073709551615 entries"), "{text}");
}

#[test]
fn a_discovery_id_stands_for_the_subsystems_that_can_be_driven() {
    // A port that was free a moment ago: nothing listens there.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let entries = vec![
        entry(Subtype::CURRENT_DISCOVERY, Trtype::TCP, port),
        entry(Subtype::NVM, Trtype::FC, port),
        entry(Subtype::NVM, Trtype::TCP, port),
        entry(Subtype(77), Trtype(88), port),
    ];
    let ask = |site: &Arc<Site>| {
        let id = TransportId { subnqn: TransportId::default().subnqn, priority: None, ..place(site) };
        probe(&[id], &options(), &Cancel::new())
    };
    let probed = ask(&discovery(entries, 4, 0));
    assert_eq!(probed.len(), 1, "not the one over Fibre Channel");
    assert_eq!((probed[0].id.trsvcid.as_str(), probed[0].id.subnqn.as_str()), (port.to_string().as_str(), NQN));
    let text = probed[0].outcome.as_ref().unwrap_err().to_string();
    assert!(text.contains(&format!("TCP (addr:127.0.0.1 subnqn:{NQN}): step CONNECT_ADMINQ")), "{text}");
    assert!(text.contains("nothing listens there"), "{text}");

    let probed = ask(&discovery(Vec::new(), 0, 0));
    let text = probed[0].outcome.as_ref().unwrap_err().to_string();
    assert!(text.contains("lists no subsystem"), "{text}");
}

#[test]
fn a_given_up_shutdown_does_not_take_its_time() {
    let (cancel, site) = (
        Cancel::new(),
        faulty(|command| is_fabrics(command, Fctype::PROPERTY_SET) && command.cdw12 != 0x0046_0001, || Reply::Never),
    );
    let controller = Controller::connect(&place(&site), &options(), &cancel).unwrap();
    cancel.cancel();
    let start = Instant::now();
    controller.detach();
    assert!(start.elapsed() < Duration::from_secs(8), "not the 10 s that an orderly shutdown is granted");
}

#[test]
fn statuses_are_compared_whatever_their_retry_bits() {
    let site = faulty(identifies(Cns::NAMESPACE), || {
        Reply::Status(Status { more: true, ..generic::INVALID_NAMESPACE.with_dnr() })
    });
    let controller = connect(&site).unwrap();
    assert!(controller.namespaces().is_empty());
    controller.detach();
}
