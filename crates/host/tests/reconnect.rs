//! Lost controllers that are brought back, and those that are not, over a controller in memory.

mod common;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use common::{feature, gets, identifies, is_admin, is_fabrics, memory, place, reads_log, seen, until};
use doorbell_host::{AdminData, Cancel, Controller, ControllerOptions, Reconnect};
use doorbell_queue::IoQueue;
use doorbell_spec::{
    command::{self, AbortRequest, AdminOpcode, Command},
    fabrics::Fctype,
    feature::{AsyncEvent, Fid},
    identify::{Cns, NamespaceList, cmic},
    log::{AnaGroupDescriptor, AnaHeader, AnaState, ChangedNamespaces, Lid},
    register::{self, Cap},
    status::{fabrics as code, generic},
};
use memory::{Reply, Site};
use zerocopy::IntoBytes;

/// `attempts` attempts, `delay` before each.
fn options(attempts: u32, delay: Duration) -> ControllerOptions {
    ControllerOptions {
        reconnect: Some(Reconnect { attempts, first_delay: delay, longest_delay: delay }),
        ..common::options()
    }
}

const SHORT: Duration = Duration::from_millis(2);

fn connect(site: &Arc<Site>, options: &ControllerOptions) -> Controller {
    Controller::connect(&place(site), options, &Cancel::new()).unwrap()
}

fn is_connect(command: &Command) -> bool {
    is_fabrics(command, Fctype::CONNECT)
}

#[test]
fn a_lost_controller_is_brought_back_and_its_handle_stays_valid() {
    let site = Site::new();
    let controller = connect(&site, &options(10_000, SHORT));
    let queues: Vec<_> = (0..4).map(|_| controller.connect_io_queue(32).unwrap()).collect();
    assert_eq!((controller.incarnation(), controller.attempts()), (Some(0), 0));
    site.die();
    until("the loss", || controller.incarnation().is_none());
    let why = controller.connect_io_queue(32).err().unwrap().to_string();
    assert!(why.contains("being brought back"), "{why}");
    until("attempts", || controller.attempts() >= 3);
    site.revive();
    until("the return", || controller.incarnation() == Some(1));
    drop(queues);
    assert_eq!((controller.failure(), controller.namespaces().len()), (None, 1));
    assert!((0..4).all(|_| controller.connect_io_queue(32).unwrap().needs().slots == 31), "all queues are free again");
    let events = controller.events();
    assert!(events[0].contains("lost: the queue is lost: the memory is gone; bringing it back"), "{events:?}");
    assert!(events[1].contains("it is back after"), "{events:?}");
    controller.detach();
}

#[test]
fn a_missed_keep_alive_is_a_loss_too() {
    let silent = Arc::new(AtomicBool::new(true));
    let quiet = silent.clone();
    let site = Site::with_hook(move |_, command| match command {
        _ if feature(AdminOpcode::GET_FEATURES, Fid::KEEP_ALIVE_TIMER)(command) => Reply::Value(60),
        _ if is_admin(command, AdminOpcode::KEEP_ALIVE) && quiet.load(Ordering::Relaxed) => Reply::Never,
        _ => Reply::Model,
    });
    let controller = connect(&site, &options(10_000, SHORT));
    until("an attempt", || controller.attempts() > 0);
    silent.store(false, Ordering::Relaxed);
    until("the return", || controller.incarnation().is_some_and(|incarnation| incarnation > 0));
    let events = controller.events();
    assert!(events[0].contains("Keep Alive, no answer"), "{events:?}");
    controller.detach();
}

#[test]
fn the_attempts_end_with_what_was_tried_and_why_it_failed() {
    let site = Site::new();
    let controller = connect(&site, &options(3, SHORT));
    site.die();
    until("the end", || controller.failure().is_some());
    let why = controller.failure().unwrap();
    assert!(why.contains("; 3 attempts over 0.") && why.contains("the last: step CONNECT_ADMINQ"), "{why}");
    assert_eq!((controller.attempts(), controller.incarnation()), (3, None));
    assert!(controller.connect_io_queue(32).err().unwrap().to_string().contains("3 attempts"));
}

#[test]
fn a_refusal_counts_as_an_attempt_however_final_it_sounds() {
    let refusals = Arc::new(AtomicU32::new(0));
    let left = refusals.clone();
    let site = Site::with_hook(move |_, command| {
        let refuse = is_connect(command)
            && left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
        if refuse { Reply::Status(code::CONNECT_INVALID_PARAMETERS.with_dnr()) } else { Reply::Model }
    });
    let controller = connect(&site, &options(4, SHORT));
    refusals.store(3, Ordering::Relaxed);
    controller.queue_lost(0, "the test says so".into());
    until("the return", || controller.incarnation() == Some(1));
    assert_eq!(controller.attempts(), 4);
    controller.detach();
}

#[test]
fn the_delays_before_attempts_double_up_to_the_longest() {
    let times = Arc::new(Mutex::new(Vec::new()));
    let notes = times.clone();
    let site = Site::with_hook(move |_, command| {
        let mut times = notes.lock().unwrap();
        match is_connect(command) {
            true => times.push(Instant::now()),
            false => return Reply::Model,
        }
        if times.len() == 1 { Reply::Model } else { Reply::Status(code::CONNECT_INVALID_PARAMETERS.with_dnr()) }
    });
    let delay = Duration::from_millis(20);
    let plan = Reconnect { attempts: 5, first_delay: delay, longest_delay: delay * 4 };
    let controller = connect(&site, &ControllerOptions { reconnect: Some(plan), ..common::options() });
    let lost = Instant::now();
    controller.queue_lost(0, "the test says so".into());
    until("the end", || controller.failure().is_some());
    let mut before = lost;
    let times = times.lock().unwrap();
    assert_eq!(times.len(), 6);
    for (&time, times_longer) in times[1..].iter().zip([1, 2, 4, 4, 4]) {
        assert!(time - before >= delay * times_longer, "{:?} instead of {times_longer} times {delay:?}", time - before);
        before = time;
    }
}

#[test]
fn a_lost_queue_resets_its_controller_once() {
    let site = Site::new();
    let controller = connect(&site, &options(4, SHORT));
    for incarnation in 0..3 {
        // Every queue of a controller says so when they are all lost; the last ones late.
        (0..5).for_each(|_| controller.queue_lost(incarnation, "a queue is lost".into()));
        until("the return", || controller.incarnation() == Some(incarnation + 1));
        controller.queue_lost(incarnation, "late".into());
        // Whatever was asked before is dealt with before this.
        controller.admin(command::keep_alive(), AdminData::None).unwrap();
        assert_eq!(controller.incarnation(), Some(incarnation + 1));
    }
    assert_eq!(seen(&site, is_connect), 4);
    controller.detach();
}

#[test]
fn without_the_option_a_reported_loss_is_final() {
    let options = ControllerOptions { reconnect: None, ..options(1, SHORT) };
    let controller = connect(&Site::new(), &options);
    controller.queue_lost(0, "a queue is lost".into());
    until("the loss", || controller.failure().is_some());
    assert_eq!((controller.failure(), controller.attempts()), (Some("a queue is lost"), 0));
}

#[test]
fn giving_up_ends_delays_and_attempts_at_once() {
    let long = Duration::from_secs(3600);
    // In a delay; in an attempt that is never answered.
    for delay in [long, SHORT] {
        for detach in [true, false] {
            let mute = Arc::new(AtomicBool::new(false));
            let silent = mute.clone();
            let site = Site::with_hook(move |_, command| match is_connect(command) && silent.load(Ordering::Relaxed) {
                true => Reply::Never,
                false => Reply::Model,
            });
            let (cancel, options) =
                (Cancel::new(), ControllerOptions { connect_timeout: long, ..options(1000, delay) });
            let controller = Controller::connect(&place(&site), &options, &cancel).unwrap();
            mute.store(true, Ordering::Relaxed);
            controller.queue_lost(0, "a queue is lost".into());
            until("the loss", || controller.incarnation().is_none() && (delay == long || controller.attempts() == 1));
            let other = controller.clone();
            if detach {
                let asked = Instant::now();
                controller.detach();
                assert!(asked.elapsed() < Duration::from_secs(8), "not the time of an orderly shutdown");
            } else {
                cancel.cancel();
            }
            until("the end", || other.failure().is_some());
        }
    }
}

#[test]
fn aborts_go_out_one_at_a_time_and_only_for_present_queues() {
    let (asked, stay) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
    let (count, mute) = (asked.clone(), stay.clone());
    let site = Site::with_hook(move |_, command| match is_admin(command, AdminOpcode::ABORT) {
        true => {
            count.fetch_add(1, Ordering::Relaxed);
            if mute.load(Ordering::Relaxed) { Reply::Never } else { Reply::Value(1) }
        }
        false => Reply::Model,
    });
    let options = ControllerOptions { admin_timeout: Duration::from_millis(100), ..options(1000, SHORT) };
    let controller = connect(&site, &options);
    controller.abort(7, 1, 99);
    (1..=3).for_each(|cid| controller.abort(0, 1, cid));
    until("three aborts", || asked.load(Ordering::Relaxed) == 3);
    let seen = site.seen.lock().unwrap().clone();
    let aborts = seen.iter().filter(|(_, command)| is_admin(command, AdminOpcode::ABORT));
    let named: Vec<_> = aborts.map(|(_, command)| AbortRequest::parse(command)).map(|at| (at.sqid, at.cid)).collect();
    assert_eq!(named, [(1, 1), (1, 2), (1, 3)]);

    stay.store(true, Ordering::Relaxed);
    (4..=5).for_each(|cid| controller.abort(0, 1, cid));
    until("the loss", || controller.incarnation() == Some(1));
    assert_eq!(asked.load(Ordering::Relaxed), 4, "the second waits for the first");
    assert!(controller.events()[0].contains("Abort, no answer within 0.1 s"));
    controller.detach();
}

#[test]
fn each_attempt_has_the_time_of_a_bring_up_for_itself() {
    let connects = AtomicU32::new(0);
    let site = Site::with_hook(move |_, command| {
        // The first two attempts meet a controller that may take two minutes to become ready, and does not.
        let slow = (2..=3).contains(&connects.fetch_add(is_connect(command).into(), Ordering::Relaxed));
        match command {
            _ if gets(register::CAP)(command) => Reply::Value(Cap::new().with_mqes(63).with_to(u8::MAX).into_bits()),
            _ if gets(register::CSTS)(command) && slow => Reply::Value(0),
            _ => Reply::Model,
        }
    });
    let brief = Duration::from_millis(500);
    let controller = connect(&site, &ControllerOptions { bring_up_timeout: brief, ..options(4, SHORT) });
    let start = Instant::now();
    controller.queue_lost(0, "the test says so".into());
    until("the return", || controller.incarnation() == Some(1));
    assert!((controller.attempts(), start.elapsed() >= brief * 2) == (3, true), "{} attempts", controller.attempts());
    controller.detach();
}

/// A controller that says which namespaces are active with which size, and the ANA state of them all.
fn various(what: impl Fn() -> (Vec<(u32, u64)>, AnaState) + Send + Sync + 'static) -> Arc<Site> {
    Site::with_hook(move |_, command| {
        let (namespaces, state) = what();
        let ids = namespaces.iter().map(|&(nsid, _)| nsid);
        let size = namespaces.iter().find(|&&(nsid, _)| nsid == command.nsid.get()).map(|&(_, blocks)| blocks);
        match (command, size) {
            _ if identifies(Cns::CONTROLLER)(command) => {
                let mut data = memory::identify_controller(false);
                (data.cmic, data.nn, data.nanagrpid) = (cmic::ANA, 9.into(), 1.into());
                Reply::Data(data.as_bytes().to_vec())
            }
            _ if identifies(Cns::ACTIVE_NAMESPACES)(command) => {
                Reply::Data(NamespaceList::collect(command.nsid.get(), ids).as_bytes().to_vec())
            }
            (_, Some(blocks)) if identifies(Cns::NAMESPACE)(command) => {
                let mut data = memory::identify_namespace();
                (data.nsze, data.anagrpid) = (blocks.into(), 1.into());
                Reply::Data(data.as_bytes().to_vec())
            }
            (_, None) if identifies(Cns::NAMESPACE)(command) => Reply::Status(generic::INVALID_NAMESPACE),
            _ if reads_log(Lid::ANA)(command) => {
                let header = AnaHeader { ngrps: 1.into(), ..AnaHeader::default() };
                let group = AnaGroupDescriptor { agid: 1.into(), anas: state.0, ..AnaGroupDescriptor::default() };
                Reply::Data([header.as_bytes(), group.as_bytes()].concat())
            }
            _ => Reply::Model,
        }
    })
}

#[test]
fn what_became_of_namespaces_and_paths_during_an_outage_is_told() {
    let changed = Arc::new(AtomicBool::new(false));
    let later = changed.clone();
    let site = various(move || match later.load(Ordering::Relaxed) {
        false => (vec![(1, 2048), (2, 100), (3, 100)], AnaState::OPTIMIZED),
        true => (vec![(1, 8), (3, 100), (5, 50)], AnaState::INACCESSIBLE),
    });
    let controller = connect(&site, &options(4, SHORT));
    let told = |incarnation| {
        controller.queue_lost(incarnation, "the test says so".into());
        until("the return", || controller.incarnation() == Some(incarnation + 1));
        let events = controller.events();
        assert!(events[0].starts_with("lost: ") && events[1].starts_with("it is back "), "{events:?}");
        let name = format!("{} ", controller.name());
        events[2..].iter().map(|event| event.replace(&name, "")).collect::<Vec<_>>()
    };
    assert_eq!(told(0), [""; 0], "nothing has changed");
    changed.store(true, Ordering::Relaxed);
    let changes = told(1);
    assert_eq!(
        changes,
        [
            "namespace 2 is gone",
            "NSID 1: 8 blocks of 512 bytes (before: 2048)",
            "NSID 1: ANA Inaccessible",
            "NSID 3: ANA Inaccessible",
            "NSID 5: 50 blocks of 512 bytes",
            "NSID 5: ANA Inaccessible",
        ]
    );
    assert_eq!(controller.namespaces().iter().map(|namespace| namespace.nsid).collect::<Vec<_>>(), [1, 3, 5]);
    controller.detach();
}

#[test]
fn what_events_left_to_do_ends_with_the_loss_and_the_next_incarnation_reports_its_own() {
    let site = Site::with_hook(|_, command| match command {
        _ if reads_log(Lid::CHANGED_NAMESPACES)(command) => {
            Reply::Data(ChangedNamespaces::collect(1..=1000).as_bytes().to_vec())
        }
        // The first is the one of bring-up.
        _ if identifies(Cns::NAMESPACE)(command) && command.nsid.get() > 1 => {
            thread::sleep(Duration::from_millis(2));
            Reply::Status(generic::INVALID_NAMESPACE)
        }
        _ => Reply::Model,
    });
    let controller = connect(&site, &options(4, SHORT));
    let changed = || seen(&site, |command| identifies(Cns::NAMESPACE)(command) && command.nsid.get() > 1);
    site.report(AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED.to_dword());
    until("some of the namespaces", || changed() > 2);
    controller.queue_lost(0, "the test says so".into());
    until("the return", || controller.incarnation() == Some(1));
    let before = changed();
    // Each would give way to one of them.
    (0..10).for_each(|_| drop(controller.admin(command::keep_alive(), AdminData::None).unwrap()));
    assert_eq!((changed(), before < 900), (before, true));
    site.report(AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED.to_dword());
    until("namespaces of the next event", || changed() > before);
    controller.detach();
}
