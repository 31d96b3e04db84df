//! Lost controllers that are brought back, and those that are not, over a controller in memory.

#[path = "../examples/memory/mod.rs"]
mod memory;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use doorbell_host::{
    AdminData, Cancel, Controller, ControllerOptions, HostIdentity, Reconnect, TransportId, transport,
};
use doorbell_queue::IoQueue;
use doorbell_spec::{
    command::{self, AbortRequest, AdminOpcode, Command},
    fabrics::{self, Fctype},
    feature::Fid,
    status::fabrics as code,
};
use memory::{MemoryTransport, Reply, Site};

fn place(site: &Arc<Site>) -> TransportId {
    static TRANSPORT: OnceLock<Arc<MemoryTransport>> = OnceLock::new();
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let transport = TRANSPORT.get_or_init(|| {
        let transport = Arc::new(MemoryTransport::default());
        transport::register(transport.clone()).unwrap();
        transport
    });
    let address = format!("site{}", NEXT.fetch_add(1, Ordering::Relaxed));
    transport.add(&address, site.clone());
    format!("trtype:memory traddr:{address} subnqn:nqn.2016-06.org.example:memory").parse().unwrap()
}

/// `attempts` attempts, `delay` before each.
fn options(attempts: u32, delay: Duration) -> ControllerOptions {
    ControllerOptions {
        host: HostIdentity { nqn: "nqn.2016-06.org.example:host".into(), id: [7; 16] },
        reconnect: Some(Reconnect { attempts, first_delay: delay, longest_delay: delay }),
        ..ControllerOptions::default()
    }
}

const SHORT: Duration = Duration::from_millis(2);

fn connect(site: &Arc<Site>, options: &ControllerOptions) -> Controller {
    Controller::connect(&place(site), options, &Cancel::new()).unwrap()
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

fn is_connect(command: &Command) -> bool {
    command.is_fabrics() && fabrics::fctype(command) == Fctype::CONNECT
}

fn is_admin(command: &Command, opcode: AdminOpcode) -> bool {
    !command.is_fabrics() && command.opc == opcode.0
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
        _ if is_admin(command, AdminOpcode::GET_FEATURES) && command.fid() == Fid::KEEP_ALIVE_TIMER => Reply::Value(60),
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
    assert_eq!(site.seen.lock().unwrap().iter().filter(|(_, command)| is_connect(command)).count(), 4);
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
