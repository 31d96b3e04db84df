//! The host driver against controllers in memory that answer everything, but slowly, without end or beyond measure: what they can
//! make it wait, ask, keep or believe is bounded.

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use common::{
    connect, faulty, feature, gets, identifies, is_admin, is_fabrics, memory, options, place, reads_log, seen, until,
};
use doorbell_host::{Cancel, Controller, ControllerOptions, TransportId, discover, probe};
use doorbell_queue::IoQueue;
use doorbell_spec::{
    command::{AdminOpcode, LogRequest},
    fabrics::Fctype,
    feature::{AsyncEvent, Fid},
    identify::{self, Cns, Csi, NamespaceList, cmic},
    log::{AnaGroupDescriptor, AnaHeader, AnaState, ChangedNamespaces, DiscoveryHeader, Lid},
    register::{self, Cap},
    status::generic,
};
use memory::{Reply, Site};
use zerocopy::IntoBytes;

/// Far less than an unbounded driver would take, far more than a bounded one on a busy machine.
const SOON: Duration = Duration::from_secs(20);

fn briefly(bring_up: Duration) -> ControllerOptions {
    ControllerOptions { bring_up_timeout: bring_up, ..options() }
}

#[test]
fn bring_up_ends_however_many_namespaces_are_claimed_and_however_slowly_each_is_told() {
    let site = Site::with_hook(|_, command| match command {
        _ if identifies(Cns::ACTIVE_NAMESPACES)(command) => {
            Reply::Data(NamespaceList::collect(command.nsid.get(), 1..=60_000).as_bytes().to_vec())
        }
        _ if identifies(Cns::NAMESPACE)(command) => {
            thread::sleep(Duration::from_millis(5));
            Reply::Data(memory::identify_namespace().as_bytes().to_vec())
        }
        _ => Reply::Model,
    });
    let start = Instant::now();
    let error = Controller::connect(&place(&site), &briefly(Duration::from_millis(300)), &Cancel::new()).unwrap_err();
    let text = error.to_string();
    for part in ["step IDENTIFY_", "bring-up as a whole was not through within 0.3 s, at Identify (CNS"] {
        assert!(text.contains(part), "\"{part}\" is not in \"{text}\"");
    }
    assert!(start.elapsed() < SOON);
}

#[test]
fn a_discovery_log_that_never_ends_is_given_up() {
    let site = Site::with_hook(|_, command| match reads_log(Lid::DISCOVERY)(command) {
        true if LogRequest::parse(command).offset == 0 => {
            Reply::Data(DiscoveryHeader::new(1, 8000).as_bytes().to_vec())
        }
        true => {
            thread::sleep(Duration::from_millis(5));
            Reply::Data(vec![0; 1024])
        }
        false => Reply::Model,
    });
    let (start, options) = (Instant::now(), briefly(Duration::from_secs(1)));
    let text = discover(&place(&site), &options, &Cancel::new()).unwrap_err().to_string();
    assert!(text.contains("reading the discovery log as a whole was not through within 1 s"), "{text}");
    assert!(start.elapsed() < SOON);
}

#[test]
fn a_shutdown_that_is_never_complete_ends_in_time() {
    let site = faulty(gets(register::CSTS), || Reply::Value(1));
    let options = ControllerOptions { shutdown_timeout: Duration::from_millis(50), ..options() };
    let controller = Controller::connect(&place(&site), &options, &Cancel::new()).unwrap();
    let start = Instant::now();
    controller.detach();
    assert!(start.elapsed() < Duration::from_secs(5), "not the 10 s of other options");
    assert!(seen(&site, gets(register::CSTS)) > 2, "it was asked while there was time");
}

#[test]
fn a_controller_that_reports_events_without_end_is_heard_at_leisure() {
    let event = u64::from(AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED.to_dword());
    let site = Site::with_hook(move |_, command| match is_admin(command, AdminOpcode::ASYNC_EVENT_REQUEST) {
        true => Reply::Value(event),
        false => Reply::Model,
    });
    let start = Instant::now();
    let controller = connect(&site).unwrap();
    let requests = || seen(&site, |command| is_admin(command, AdminOpcode::ASYNC_EVENT_REQUEST));
    until("requests", || requests() >= 6);
    // Two were outstanding at first, one more was sent at once, the others a pause apart.
    assert!(start.elapsed() >= Duration::from_millis(3 * 50));
    assert!(controller.connect_io_queue(32).is_ok(), "its thread has time for others");
    controller.detach();
}

#[test]
fn a_controller_that_knows_only_the_oldest_critical_warnings_reports_events() {
    // As the Linux target does, which refuses the whole configuration for a bit that it does not know.
    let known = 0x1f | 1 << 8;
    let site = Site::with_hook(move |_, command| {
        let configures = feature(AdminOpcode::SET_FEATURES, Fid::ASYNC_EVENT_CONFIGURATION)(command);
        match configures && command.cdw11.get() & !known != 0 {
            true => Reply::Status(generic::INVALID_FIELD),
            false => Reply::Model,
        }
    });
    let controller = connect(&site).unwrap();
    site.report(AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED.to_dword());
    until("the event", || seen(&site, reads_log(Lid::CHANGED_NAMESPACES)) > 0);
    controller.detach();
}

#[test]
fn a_thousand_changed_namespaces_do_not_keep_others_waiting() {
    let site = Site::with_hook(|_, command| match command {
        _ if reads_log(Lid::CHANGED_NAMESPACES)(command) => {
            Reply::Data(ChangedNamespaces::collect(1..=1000).as_bytes().to_vec())
        }
        _ if identifies(Cns::NAMESPACE)(command) => {
            thread::sleep(Duration::from_millis(10));
            Reply::Data(memory::identify_namespace().as_bytes().to_vec())
        }
        _ => Reply::Model,
    });
    let controller = connect(&site).unwrap();
    site.report(AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED.to_dword());
    until("the first of them", || seen(&site, identifies(Cns::NAMESPACE)) > 2);
    assert!(controller.connect_io_queue(32).is_ok());
    assert!(seen(&site, identifies(Cns::NAMESPACE)) < 900, "before all are through");
    controller.detach();
    assert!(seen(&site, identifies(Cns::NAMESPACE)) < 1000, "nor does the end wait for them");
}

#[test]
fn an_answer_without_its_data_shows_nothing_of_an_earlier_one() {
    let controller = connect(&faulty(identifies(Cns::UUID_LIST), || Reply::Value(0))).unwrap();
    assert!(controller.identify_page(Cns::CONTROLLER, 0, Csi::NVM).unwrap().iter().any(|&byte| byte != 0));
    assert_eq!(controller.identify_page(Cns::UUID_LIST, 0, Csi::NVM).unwrap(), [0; identify::SIZE]);
    controller.detach();
}

#[test]
fn keep_alive_is_not_slowed_down_by_a_generous_grant() {
    let generous = feature(AdminOpcode::GET_FEATURES, Fid::KEEP_ALIVE_TIMER);
    let controller = connect(&faulty(generous, || Reply::Value(u32::MAX.into()))).unwrap();
    assert_eq!(controller.keep_alive(), Some(Duration::from_secs(10)), "what was asked for, not 49 days");
    controller.detach();
}

/// A controller with other Identify data than the model's.
fn lying(lie: fn(&mut identify::Controller)) -> Arc<Site> {
    Site::with_hook(move |_, command| match identifies(Cns::CONTROLLER)(command) {
        true => {
            let mut data = memory::identify_controller(false);
            lie(&mut data);
            Reply::Data(data.as_bytes().to_vec())
        }
        false => Reply::Model,
    })
}

#[test]
fn every_size_a_controller_states_is_brought_within_reason() {
    type Lie = fn(&mut identify::Controller);
    let sizes = |lie: Lie| {
        let controller = connect(&lying(lie)).unwrap();
        let slots = controller.connect_io_queue(u32::MAX).unwrap().needs().slots;
        let sizes = (controller.max_transfer(), controller.in_capsule_bytes(), slots);
        controller.detach();
        sizes
    };
    let (honest, most) = ((8192, 4096, 63), 1 << 20);
    assert_eq!(sizes(|_| {}), honest);
    let unlimited: [Lie; 4] =
        [|data| data.mdts = 0, |data| data.mdts = 40, |data| data.mdts = 60, |data| data.mdts = u8::MAX];
    for lie in unlimited {
        assert_eq!(sizes(lie), (most, honest.1, honest.2), "what the transport can");
    }
    assert_eq!(sizes(|data| data.ioccsz = 0.into()), (honest.0, 0, honest.2));
    assert_eq!(sizes(|data| data.ioccsz = 3.into()), (honest.0, 0, honest.2), "smaller than a command");
    assert_eq!(sizes(|data| data.ioccsz = u32::MAX.into()), (honest.0, 64 << 10, honest.2));
    assert_eq!(sizes(|data| data.icdoff = 1.into()), (honest.0, 0, honest.2), "no data where nobody looks for it");
    assert_eq!(sizes(|data| data.maxcmd = 8.into()), (honest.0, honest.1, 7));
    assert_eq!(sizes(|data| data.maxcmd = 1.into()), (honest.0, honest.1, 1));
    assert_eq!(sizes(|data| data.maxcmd = u16::MAX.into()), honest);
    assert_eq!(sizes(|data| (data.iorcsz, data.sqes, data.cqes) = (u32::MAX.into(), 0, 0xff)), honest);
    assert_eq!(sizes(|data| data.rtd3e = u32::MAX.into()), honest);
}

#[test]
fn identify_data_of_random_bytes_neither_panics_nor_hangs_nor_becomes_a_namespace_that_cannot_be() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut page = move |dense: bool| -> Vec<u8> {
        let mut byte = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            // Dense pages are wild, sparse ones keep most fields as they are.
            if dense || state & 0x3f00 == 0 { state as u8 } else { 0 }
        };
        (0..identify::SIZE).map(|_| byte()).collect()
    };
    let mut usable = 0;
    for case in 0..200 {
        let noise = [page(case % 2 == 0), page(case % 4 < 2), page(true)];
        let site = Site::with_hook(move |_, command| {
            let (honest, noise) = match command {
                _ if identifies(Cns::CONTROLLER)(command) => {
                    (memory::identify_controller(false).as_bytes().to_vec(), &noise[0])
                }
                _ if identifies(Cns::NAMESPACE)(command) => {
                    (memory::identify_namespace().as_bytes().to_vec(), &noise[1])
                }
                _ if identifies(Cns::NAMESPACE_DESCRIPTORS)(command) || reads_log(Lid::ANA)(command) => {
                    (vec![0; identify::SIZE], &noise[2])
                }
                _ => return Reply::Model,
            };
            Reply::Data(honest.iter().zip(noise).map(|(one, other)| one ^ other).collect())
        });
        let controller = connect(&site).unwrap();
        for namespace in controller.namespaces() {
            usable += 1;
            assert!(namespace.blocks.checked_mul(namespace.stored_block_size().into()).is_some(), "{namespace:?}");
            assert!(namespace.block_size >= 512 && namespace.block_size.is_power_of_two(), "{namespace:?}");
            assert!(namespace.stored_block_size() <= controller.max_transfer(), "{namespace:?}");
        }
        assert!(controller.connect_io_queue(u32::MAX).unwrap().needs().slots >= 1);
        controller.detach();
    }
    assert!(usable > 0, "some of the noise is harmless");
}

#[test]
fn the_shortest_and_the_longest_time_to_get_ready_are_lived_with() {
    for to in [0, u8::MAX] {
        let site = Site::with_hook(move |_, command| match gets(register::CAP)(command) {
            true => Reply::Value(Cap::new().with_mqes(0).with_to(to).with_css(Cap::CSS_NVM).into_bits()),
            false => Reply::Model,
        });
        let controller = connect(&site).unwrap();
        assert_eq!(controller.connect_io_queue(64).unwrap().needs().slots, 1, "CAP.MQES 0 cannot be, so it is 1");
        controller.detach();
    }
    let site = Site::with_hook(|_, command| match command {
        _ if gets(register::CAP)(command) => Reply::Value(Cap::new().with_mqes(63).with_to(u8::MAX).into_bits()),
        _ if gets(register::CSTS)(command) => Reply::Value(0),
        _ => Reply::Model,
    });
    let error = Controller::connect(&place(&site), &briefly(Duration::from_millis(200)), &Cancel::new()).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("ENABLE_WAIT_FOR_READY_1: bring-up as a whole was not through"), "{text}");
}

#[test]
fn an_ana_log_beyond_measure_is_cut_and_read_in_one_piece_where_that_is_possible() {
    let site = Site::with_hook(|_, command| match command {
        _ if identifies(Cns::CONTROLLER)(command) => {
            let mut data = memory::identify_controller(false);
            (data.cmic, data.mdts) = (cmic::ANA, 0);
            (data.nn, data.nanagrpid, data.anagrpmax) = (u32::MAX.into(), u32::MAX.into(), u32::MAX.into());
            Reply::Data(data.as_bytes().to_vec())
        }
        _ if reads_log(Lid::ANA)(command) => {
            let header = AnaHeader { ngrps: u16::MAX.into(), ..AnaHeader::default() };
            let group = |agid: u32, nnsids: u32, anas| AnaGroupDescriptor {
                agid: agid.into(),
                nnsids: nnsids.into(),
                anas,
                ..AnaGroupDescriptor::default()
            };
            let (mine, endless) = (group(0, 0, AnaState::NON_OPTIMIZED.0), group(9, u32::MAX, 0xff));
            Reply::Data([header.as_bytes(), mine.as_bytes(), endless.as_bytes()].concat())
        }
        _ => Reply::Model,
    });
    let controller = connect(&site).unwrap();
    assert_eq!(seen(&site, reads_log(Lid::ANA)), 1);
    assert_eq!(controller.namespaces()[0].ana_state, Some(AnaState::NON_OPTIMIZED));
    controller.detach();
}

#[test]
fn a_namespace_that_shrinks_and_one_that_vanishes_are_told() {
    let vanished = Arc::new(AtomicBool::new(false));
    let gone = vanished.clone();
    let shrunk = AtomicUsize::new(0);
    let site = Site::with_hook(move |_, command| match command {
        _ if reads_log(Lid::CHANGED_NAMESPACES)(command) => {
            Reply::Data(ChangedNamespaces::collect([1]).as_bytes().to_vec())
        }
        _ if identifies(Cns::NAMESPACE)(command) && gone.load(Ordering::Relaxed) => {
            Reply::Status(generic::INVALID_NAMESPACE)
        }
        _ if identifies(Cns::NAMESPACE)(command) && shrunk.fetch_add(1, Ordering::Relaxed) > 0 => {
            let mut data = memory::identify_namespace();
            data.nsze = 8.into();
            Reply::Data(data.as_bytes().to_vec())
        }
        _ => Reply::Model,
    });
    let controller = connect(&site).unwrap();
    let mut told = Vec::new();
    let mut said = |what: &str| {
        told.extend(controller.events());
        told.iter().any(|event| event.contains(what))
    };
    site.report(AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED.to_dword());
    until("less of it", || said("NSID 1: 8 blocks of 512 bytes (before: 2048)"));
    assert_eq!(controller.namespaces()[0].blocks, 8);
    vanished.store(true, Ordering::Relaxed);
    site.report(AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED.to_dword());
    until("its end", || said("namespace 1 is gone"));
    assert!(controller.namespaces().is_empty());
    assert_eq!(controller.failure(), None, "the controller is as well as before");
    controller.detach();
}

#[test]
fn many_controllers_are_brought_up_a_number_at_a_time() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (count, peak) = (now.clone(), most.clone());
    let site = Site::with_hook(move |_, command| {
        if gets(register::VS)(command) {
            peak.fetch_max(count.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            thread::sleep(Duration::from_millis(2));
            count.fetch_sub(1, Ordering::Relaxed);
        }
        Reply::Model
    });
    let ids: Vec<TransportId> = (0..200).map(|_| place(&site)).collect();
    let probed = probe(&ids, &options(), &Cancel::new());
    assert_eq!(probed.iter().map(|one| &one.id).collect::<Vec<_>>(), ids.iter().collect::<Vec<_>>());
    assert!(probed.iter().all(|one| one.outcome.is_ok()));
    assert!(most.load(Ordering::Relaxed) <= 64, "{most:?} at a time");
    drop(probed);

    let probed = probe(&ids[..2], &briefly(Duration::ZERO), &Cancel::new());
    let text = probed[0].outcome.as_ref().unwrap_err().to_string();
    assert!(text.contains("it was not tried: others before it took"), "{text}");
    let connects = seen(&site, |command| is_fabrics(command, Fctype::CONNECT));
    assert_eq!(connects, 200, "those that were not tried heard nothing");
}
