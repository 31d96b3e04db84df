//! The life of a controller within reach, on a double of a device: no real one does on demand what its script says.

mod double;

use std::{
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use doorbell_platform::{Arena, poll};
use doorbell_queue::{Done, Drain, IoQueue, Op, Wait};
use doorbell_spec::{
    command::{self, AdminOpcode, Command, IdentifyRequest, QueueRequest},
    feature::Fid,
    identify::Cns,
    register::{self, Cap, Cc, Csts, Vs},
    status::{command_specific as specific, generic},
};

use double::{Act, BUFFER_BUS, Double, Features, QUEUES, Reply};

use crate::{
    Cancel, Cause, Controller, ControllerOptions, Error, HostIdentity, InitState, Reconnect, TransportId,
    transport::{
        AnyQueue,
        ring::device::{Device, Open},
    },
};

const DEADLINE: Duration = Duration::from_secs(20);

fn options() -> ControllerOptions {
    let host = HostIdentity { nqn: "nqn.2016-06.org.example:host".into(), id: [7; 16] };
    ControllerOptions { host, huge_pages: false, ..ControllerOptions::default() }
}

fn hasty() -> ControllerOptions {
    ControllerOptions { admin_timeout: Duration::from_millis(40), ..options() }
}

/// A way to open this double again and again.
fn opens(double: &Arc<Double>) -> Arc<Open> {
    let double = double.clone();
    Arc::new(move |_: &TransportId, _: &ControllerOptions, _: Instant, _: &Cancel| {
        let device: Arc<dyn Device> = double.clone();
        Ok(device)
    })
}

fn connect(double: &Arc<Double>, options: &ControllerOptions) -> Result<Controller, Error> {
    let id = "trtype:VFIOUSER traddr:/double".parse().unwrap();
    Controller::connect_through(&id, Some(opens(double)), options, &Cancel::new())
}

fn good(features: Features) -> Arc<Double> {
    Double::new(features, |_| Reply::Model)
}

/// A double that does `reply` when `when` fits.
fn faulty(when: impl Fn(Act<'_>) -> bool + Send + 'static, reply: fn() -> Reply) -> Arc<Double> {
    Double::new(Features::default(), move |act| if when(act) { reply() } else { Reply::Model })
}

fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !reached() {
        assert!(Instant::now() < end, "{what} within {DEADLINE:?}");
        thread::sleep(Duration::from_millis(1));
    }
}

fn is_admin(act: Act<'_>, opcode: AdminOpcode) -> bool {
    matches!(act, Act::Command(0, command) if command.opc == opcode.0)
}

fn identifies(act: Act<'_>, cns: Cns) -> bool {
    is_admin(act, AdminOpcode::IDENTIFY)
        && matches!(act, Act::Command(_, command) if IdentifyRequest::parse(command).cns == cns)
}

fn enables(act: Act<'_>) -> bool {
    matches!(act, Act::Write(register::CC, value) if Cc::from_bits(value as u32).en())
}

/// The opcodes of the admin commands that it was sent.
fn admin_commands(double: &Double) -> Vec<AdminOpcode> {
    double.seen().iter().filter(|(qid, _)| *qid == 0).map(|(_, command)| AdminOpcode(command.opc)).collect()
}

/// A queue with memory for one block a slot.
fn prepared(controller: &Controller) -> (AnyQueue, Arc<Arena>) {
    let mut queue = controller.connect_io_queue(16).unwrap();
    let arena = Arc::new(Arena::backed(queue.needs().backing, 16 * 4096).unwrap());
    queue.attach(&arena).unwrap();
    for slot in 0..queue.needs().slots {
        let range = arena.alloc(512, 512).unwrap();
        queue.prepare(slot, &[range]).unwrap();
    }
    (queue, arena)
}

fn read(slot: u16) -> Op {
    Op { slot, opcode: 2, nsid: 1, slba: u64::from(slot), blocks: 1, ..Op::default() }
}

/// Reaps until `count` commands are over.
fn reap(queue: &mut AnyQueue, count: usize) -> Vec<Done> {
    let (mut all, mut done) = (Vec::new(), [Done::default(); 32]);
    until("the commands are over", || {
        let found = queue.reap(&mut done).unwrap();
        all.extend_from_slice(&done[..found]);
        all.len() >= count
    });
    all
}

#[test]
fn a_device_comes_up_serves_and_is_shut_down() {
    let double = good(Features::default());
    let controller = connect(&double, &options()).unwrap();
    assert_eq!(controller.name(), "VFIOUSER (/double)");
    assert_eq!((controller.io_queues(), controller.io_queue_entries(), controller.cntlid()), (QUEUES, 256, 7));
    assert_eq!((controller.max_transfer(), controller.keep_alive()), (128 << 10, None), "MDTS, and KAS is 0");
    assert_eq!(controller.namespaces().len(), 1);
    let (mut queue, _arena) = prepared(&controller);
    // Three rounds of a ring of sixteen.
    for _ in 0..4 {
        let ops: Vec<_> = (0..12).map(read).collect();
        assert_eq!(queue.submit(&ops), 12);
        queue.commit().unwrap();
        let mut slots: Vec<_> = reap(&mut queue, 12).iter().map(|done| (done.slot, done.status.is_success())).collect();
        slots.sort_unstable();
        assert_eq!(slots, (0..12).map(|slot| (slot, true)).collect::<Vec<_>>());
    }
    drop(queue);
    controller.detach();
    assert_eq!((double.queues(), double.cc().shn(), double.mapped()), (vec![], Cc::SHN_NORMAL, 0));
    assert_eq!(double.misdeeds(), Vec::<String>::new());
}

#[test]
fn registers_are_written_in_order_and_queues_go_before_the_shutdown() {
    let writes = Arc::new(std::sync::Mutex::new(Vec::new()));
    let log = writes.clone();
    let double = Double::new(Features::default(), move |act| {
        match act {
            Act::Write(offset, _) => log.lock().unwrap().push(format!("{offset:x}h")),
            Act::Command(0, command) if QueueRequest::parse(command).qid == 1 && command.opc < 6 => {
                log.lock().unwrap().push(AdminOpcode(command.opc).name().into());
            }
            _ => {}
        }
        Reply::Model
    });
    let controller = connect(&double, &options()).unwrap();
    drop(controller.connect_io_queue(8).unwrap());
    controller.detach();
    let wanted = [
        "24h",
        "28h",
        "30h",
        "14h",
        "Create I/O Completion Queue",
        "Create I/O Submission Queue",
        "Delete I/O Submission Queue",
        "Delete I/O Completion Queue",
        "14h",
    ];
    let writes: Vec<_> = writes.lock().unwrap().iter().filter(|what| *what != "Get Log Page").cloned().collect();
    assert_eq!(writes, wanted);
    assert_eq!(double.misdeeds(), Vec::<String>::new());
}

#[test]
fn a_controller_that_was_left_enabled_is_disabled_first() {
    let double = good(Features::default());
    let controller = connect(&double, &options()).unwrap();
    // Nobody shuts it down: the next to come finds it as it is.
    let again = Double::new(Features::default(), |_| Reply::Model);
    again.write(register::AQA, false, 0x001f_001f).unwrap();
    let arena =
        Arena::backed(doorbell_platform::Backing::Shared(doorbell_platform::Pages::Ordinary), 8192).unwrap().share();
    again.map(&arena).unwrap();
    again.write(register::ASQ, true, arena.address()).unwrap();
    again.write(register::ACQ, true, arena.address() + 4096).unwrap();
    again.write(register::CC, false, Cc::new().with_en(true).with_iosqes(6).with_iocqes(4).into_bits().into()).unwrap();
    let second = connect(&again, &options()).unwrap();
    second.detach();
    controller.detach();
    assert_eq!(again.misdeeds(), Vec::<String>::new());
}

/// Capabilities of a controller whose doorbells are further apart than there is room.
fn far_doorbells() -> u64 {
    Cap::new().with_mqes(255).with_to(1).with_css(Cap::CSS_NVM).with_dstrd(15).into_bits()
}

#[test]
fn each_step_that_fails_is_named_with_the_reason() {
    type Row = (InitState, Arc<Double>, &'static str);
    let csts = |bits: u32| move |act: Act<'_>| matches!(act, Act::Read(register::CSTS)) && bits > 0;
    // Told only after the enabling, as the same register is read before.
    let after_enable = |reply: fn() -> Reply| {
        let mut enabled = false;
        Double::new(Features::default(), move |act| {
            enabled |= enables(act);
            if enabled && matches!(act, Act::Read(register::CSTS)) { reply() } else { Reply::Model }
        })
    };
    let rows: Vec<Row> = vec![
        (
            InitState::ReadVs,
            faulty(|act| matches!(act, Act::Read(register::VS)), || Reply::Value(u32::MAX.into())),
            "reads as ones",
        ),
        (
            InitState::ReadCap,
            faulty(|act| matches!(act, Act::Read(register::CAP)), || Reply::Value(u64::MAX)),
            "reads as ones",
        ),
        (
            InitState::Enable,
            faulty(|act| matches!(act, Act::Read(register::CAP)), || Reply::Value(far_doorbells())),
            "queue 0: its doorbells at 1000h and 21000h are not among the 2000h bytes",
        ),
        (InitState::CheckEn, faulty(|act| matches!(act, Act::Read(register::CC)), || Reply::Gone), "reads as ones"),
        (InitState::DisableWaitForReady0, faulty(csts(1), || Reply::Value(1)), "within 500ms (CAP.TO), CSTS 1h"),
        (InitState::DisableWaitForReady0, faulty(csts(1), || Reply::Value(u32::MAX.into())), "the device was removed"),
        (InitState::EnableWaitForReady1, faulty(enables, || Reply::Never), "within 500ms (CAP.TO), CSTS 0h"),
        (InitState::EnableWaitForReady1, after_enable(|| Reply::Value(3)), "CSTS.CFS"),
        (InitState::EnableWaitForReady1, after_enable(|| Reply::Gone), "the double was removed"),
        (
            InitState::Identify,
            faulty(|act| identifies(act, Cns::CONTROLLER), || Reply::Status(generic::INTERNAL_ERROR)),
            "Internal Error",
        ),
        (InitState::Identify, faulty(|act| identifies(act, Cns::CONTROLLER), || Reply::Stranger), "not outstanding"),
        (
            InitState::Identify,
            faulty(|act| identifies(act, Cns::CONTROLLER), || Reply::Never),
            "no answer within 0.04 s",
        ),
        (
            InitState::IdentifyActiveNs,
            faulty(|act| identifies(act, Cns::ACTIVE_NAMESPACES), || Reply::Never),
            "no answer",
        ),
        (InitState::IdentifyNs, faulty(|act| identifies(act, Cns::NAMESPACE), || Reply::Gone), "no answer"),
    ];
    for (step, double, said) in rows {
        let error = connect(&double, &hasty()).unwrap_err();
        let text = error.to_string();
        assert!(matches!(&error.cause, Cause::Step { step: at, .. } if *at == step), "{step}: {text}");
        assert!(text.contains(said) && text.contains("VFIOUSER (/double)"), "\"{said}\" is not in \"{text}\"");
        assert_eq!(double.misdeeds(), Vec::<String>::new(), "{step}");
        assert_eq!(double.mapped(), 0, "{step}: what was mapped is not any more");
    }
}

#[test]
fn lies_about_the_controller_neither_panic_nor_become_namespaces() {
    for data in [vec![0xff; 4096], vec![0; 4096]] {
        let double = Double::new(Features::default(), move |act| match identifies(act, Cns::CONTROLLER) {
            true => Reply::Data(data.clone()),
            false => Reply::Model,
        });
        if let Ok(controller) = connect(&double, &hasty()) {
            assert!(controller.max_transfer() >= 4096 && controller.io_queues() <= QUEUES);
            controller.detach();
        }
    }
    let double = faulty(|act| identifies(act, Cns::NAMESPACE), || Reply::Data(vec![0xff; 4096]));
    let controller = connect(&double, &options()).unwrap();
    assert_eq!(controller.namespaces(), []);
    controller.detach();
}

#[test]
fn a_refused_queue_leaves_the_controller_as_it_was() {
    for (opcode, status) in [
        (AdminOpcode::CREATE_IO_CQ, specific::INVALID_QUEUE_SIZE),
        (AdminOpcode::CREATE_IO_SQ, specific::INVALID_QUEUE_IDENTIFIER),
    ] {
        let count = AtomicU32::new(0);
        let double = Double::new(Features::default(), move |act| {
            match is_admin(act, opcode) && count.fetch_add(1, Ordering::Relaxed) == 0 {
                true => Reply::Status(status),
                false => Reply::Model,
            }
        });
        let controller = connect(&double, &options()).unwrap();
        let before = double.mapped();
        let text = controller.connect_io_queue(8).err().unwrap().to_string();
        assert!(text.contains(opcode.name()) && text.contains(status.name()), "{text}");
        until("its memory is back", || double.mapped() == before);
        let queue = controller.connect_io_queue(8).unwrap();
        assert_eq!(double.queues(), [1], "the number is free again");
        drop(queue);
        controller.detach();
        assert_eq!(double.misdeeds(), Vec::<String>::new(), "{}", opcode.name());
    }
}

#[test]
fn a_queue_that_is_dropped_is_deleted_and_its_number_used_again() {
    let double = good(Features::default());
    let controller = connect(&double, &options()).unwrap();
    let before = double.mapped();
    for _ in 0..2 {
        let queues: Vec<_> = (0..QUEUES).map(|_| prepared(&controller)).collect();
        assert_eq!(double.queues(), [1, 2, 3, 4]);
        let text = controller.connect_io_queue(8).err().unwrap().to_string();
        assert!(text.contains("4 I/O queues are in use"), "{text}");
        drop(queues);
        until("all are deleted", || double.queues().is_empty() && double.mapped() == before);
    }
    controller.detach();
    assert_eq!(double.misdeeds(), Vec::<String>::new());
}

#[test]
fn a_queue_that_cannot_be_deleted_keeps_its_number_and_its_memory() {
    let double = faulty(|act| is_admin(act, AdminOpcode::DELETE_IO_SQ), || Reply::Status(generic::INTERNAL_ERROR));
    let controller = connect(&double, &options()).unwrap();
    drop(controller.connect_io_queue(8).unwrap());
    until("it is said", || controller.events().iter().any(|event| event.contains("I/O queue 1 cannot be deleted")));
    let queue = controller.connect_io_queue(8).unwrap();
    assert_eq!(double.queues(), [1, 2]);
    drop(queue);
    controller.detach();
    assert_eq!(double.misdeeds(), Vec::<String>::new());
}

/// Commands of I/O queues are never answered.
fn deaf() -> Arc<Double> {
    faulty(|act| matches!(act, Act::Command(1.., _)), || Reply::Never)
}

#[test]
fn what_is_outstanding_when_a_queue_is_stopped_is_aborted_and_safe_once_the_queue_is_deleted() {
    let double = deaf();
    let controller = connect(&double, &options()).unwrap();
    let (mut queue, _arena) = prepared(&controller);
    queue.submit(&[read(0), read(1)]);
    queue.commit().unwrap();
    queue.stop();
    let done = reap(&mut queue, 2);
    assert!(done.iter().all(|done| done.status == generic::ABORTED_SQ_DELETION));
    until("the device has let go", || queue.drained() == Drain::Clean);
    assert_eq!(double.queues(), Vec::<u16>::new());
    drop(queue);
    controller.detach();
    assert_eq!(double.misdeeds(), Vec::<String>::new());
}

#[test]
fn a_reset_fails_what_is_outstanding_and_queues_are_made_anew() {
    let double = deaf();
    let reconnect = Some(Reconnect { first_delay: Duration::from_millis(1), ..Reconnect::new(3) });
    let controller = connect(&double, &ControllerOptions { reconnect, ..options() }).unwrap();
    let (mut queue, arena) = prepared(&controller);
    queue.submit(&[read(0), read(5)]);
    queue.commit().unwrap();
    controller.queue_lost(0, "a test wants it".into());
    let mut done = [Done::default(); 32];
    until("the queue learns it", || queue.reap(&mut done).is_err());
    let why = queue.reap(&mut done).unwrap_err().0;
    assert!(why.contains("a test wants it"), "{why}");
    queue.stop();
    assert_eq!(reap(&mut queue, 2).len(), 2);
    until("the device has let go", || queue.drained() == Drain::Clean);
    until("it is back", || controller.incarnation() == Some(1));
    let mut second = controller.connect_io_queue(16).unwrap();
    second.attach(&arena).unwrap();
    // The end of a queue of before is of no consequence.
    drop(queue);
    assert_eq!(double.queues(), [1]);
    drop(second);
    controller.detach();
    assert_eq!((double.misdeeds(), double.resets()), (Vec::<String>::new(), 0));
}

#[test]
fn a_device_that_is_not_disabled_is_reset_as_a_whole_and_if_that_fails_its_memory_is_not_used_again() {
    for stubborn in [false, true] {
        let mut up = false;
        let double = Double::new(Features::default(), move |act| match act {
            Act::Command(1.., _) => {
                up = true;
                Reply::Never
            }
            Act::Write(register::CC, _) if up => Reply::Never,
            Act::Reset if stubborn => Reply::Never,
            Act::Reset => {
                up = false;
                Reply::Model
            }
            _ => Reply::Model,
        });
        let controller = connect(&double, &options()).unwrap();
        let (mut queue, _arena) = prepared(&controller);
        queue.submit(&[read(0)]);
        queue.commit().unwrap();
        until("it has the command", || double.seen().iter().any(|(qid, _)| *qid == 1));
        controller.queue_lost(0, "a test wants it".into());
        until("it is lost for good", || controller.failure().is_some());
        queue.stop();
        reap(&mut queue, 1);
        let (drained, mapped) = (queue.drained(), double.mapped());
        assert_eq!(drained, if stubborn { Drain::Quarantined(1) } else { Drain::Clean });
        assert_eq!((mapped > 0, double.resets()), (stubborn, u32::from(!stubborn)));
        assert_eq!(double.misdeeds(), Vec::<String>::new());
    }
}

#[test]
fn a_device_that_is_removed_ends_its_controller_and_wakes_who_sleeps() {
    let double = deaf();
    let controller = connect(&double, &ControllerOptions { interrupts: true, ..options() }).unwrap();
    let (mut queue, _arena) = prepared(&controller);
    queue.submit(&[read(0)]);
    queue.commit().unwrap();
    let Wait::Fd { fd, .. } = queue.arm().unwrap() else { panic!("nothing is there") };
    double.remove();
    assert!(poll::wait(&[(fd, false)], DEADLINE), "the sleeper is woken");
    until("the queue is down", || queue.arm().is_err());
    until("the reason is known", || controller.failure().is_some());
    assert!(controller.failure().unwrap().contains("the double was removed"));
    queue.stop();
    assert_eq!(reap(&mut queue, 1).len(), 1);
    assert_eq!((queue.drained(), double.mapped()), (Drain::Clean, 0));
    let text = controller.connect_io_queue(8).err().unwrap().to_string();
    assert!(text.contains("removed"), "{text}");
}

const FATAL: Csts = Csts::new().with_rdy(true).with_cfs(true);

#[test]
fn a_fatal_status_ends_the_controller() {
    let fatal = Arc::new(AtomicBool::new(false));
    let told = fatal.clone();
    let double = Double::new(Features::default(), move |act| match act {
        Act::Read(register::CSTS) if told.load(Ordering::Relaxed) => Reply::Value(FATAL.into_bits().into()),
        _ => Reply::Model,
    });
    let controller = connect(&double, &options()).unwrap();
    fatal.store(true, Ordering::Relaxed);
    until("the reason is known", || controller.failure().is_some());
    assert!(controller.failure().unwrap().contains("fatal status"));
}

/// A double that goes fatal, until it is disabled, instead of answering a command that `when` fits.
fn fatal_at(mut when: impl FnMut(Act<'_>) -> bool + Send + 'static) -> Arc<Double> {
    let mut fatal = false;
    Double::new(Features::default(), move |act| match act {
        act if when(act) => {
            fatal = true;
            Reply::Never
        }
        Act::Command(..) if fatal => Reply::Never,
        Act::Read(register::CSTS) if fatal => Reply::Value(FATAL.into_bits().into()),
        Act::Write(register::CC, _) => {
            fatal = false;
            Reply::Model
        }
        _ => Reply::Model,
    })
}

#[test]
fn a_fatal_status_ends_the_wait_for_a_command() {
    // Longer than the test may take.
    let options = ControllerOptions { admin_timeout: DEADLINE * 2, bring_up_timeout: DEADLINE * 2, ..options() };
    let begin = Instant::now();
    let said = "no answer: it reports a fatal status (CSTS 3h)";
    let double = fatal_at(|act| identifies(act, Cns::NAMESPACE));
    let text = connect(&double, &options).unwrap_err().to_string();
    assert!(text.contains("step IDENTIFY_NS: sent Identify (CNS 00h, NSID 1), ") && text.contains(said), "{text}");
    assert_eq!((double.misdeeds(), double.mapped()), (Vec::<String>::new(), 0));

    let double = fatal_at(|act| is_admin(act, AdminOpcode::CREATE_IO_SQ));
    let controller = connect(&double, &options).unwrap();
    let text = controller.connect_io_queue(8).err().unwrap().to_string();
    assert!(text.contains("sent Create I/O Submission Queue, ") && text.contains(said), "{text}");
    until("the reason is known", || controller.failure().is_some());
    assert!(begin.elapsed() < DEADLINE, "{:?}", begin.elapsed());
}

#[test]
fn an_attempt_to_bring_a_controller_back_that_meets_a_fatal_status_gives_way_to_the_next() {
    let mut bring_ups = 0;
    let double = fatal_at(move |act| {
        bring_ups += u32::from(identifies(act, Cns::CONTROLLER));
        bring_ups == 2 && identifies(act, Cns::NAMESPACE)
    });
    let reconnect = Some(Reconnect { first_delay: Duration::from_millis(1), ..Reconnect::new(3) });
    let timeouts = ControllerOptions { admin_timeout: DEADLINE * 2, bring_up_timeout: DEADLINE * 2, ..options() };
    let controller = connect(&double, &ControllerOptions { reconnect, ..timeouts }).unwrap();
    controller.queue_lost(0, "a test wants it".into());
    until("it is back", || controller.incarnation() == Some(1));
    assert_eq!(controller.attempts(), 2);
    controller.detach();
    assert_eq!(double.misdeeds(), Vec::<String>::new());
}

#[test]
fn a_controller_that_does_not_answer_a_new_queue_is_lost() {
    let double = faulty(|act| is_admin(act, AdminOpcode::CREATE_IO_SQ), || Reply::Never);
    let controller =
        connect(&double, &ControllerOptions { admin_timeout: Duration::from_millis(200), ..options() }).unwrap();
    let text = controller.connect_io_queue(8).err().unwrap().to_string();
    assert!(text.contains("Create I/O Submission Queue, no answer within 0.2 s"), "{text}");
    until("the reason is known", || controller.failure().is_some());
    until("its memory is back", || double.mapped() == 0);
    assert_eq!(double.misdeeds(), Vec::<String>::new());
}

#[test]
fn completions_come_by_interrupt_where_that_is_asked_for_and_there_are_vectors() {
    let double = good(Features::default());
    let controller = connect(&double, &ControllerOptions { interrupts: true, ..options() }).unwrap();
    let (mut queue, _arena) = prepared(&controller);
    queue.submit(&[read(3)]);
    queue.commit().unwrap();
    let mut done = [Done::default(); 32];
    until("it is over", || match queue.arm().unwrap() {
        Wait::Ready => queue.reap(&mut done).unwrap() == 1,
        Wait::Fd { fd, .. } => {
            assert!(poll::wait(&[(fd.as_raw_fd(), false)], DEADLINE));
            false
        }
    });
    drop(queue);
    controller.detach();
    let creates = double.seen().into_iter().find(|(_, command)| command.opc == AdminOpcode::CREATE_IO_CQ.0).unwrap().1;
    let request = QueueRequest::parse(&creates);
    assert_eq!((request.ien, request.cqid_or_vector), (true, 1));
    // And one without vectors is polled, its admin queue too, but refuses interrupts.
    let double = good(Features { interrupts: false, ..Features::default() });
    let controller = connect(&double, &ControllerOptions { interrupts: true, ..options() }).unwrap();
    let text = controller.connect_io_queue(8).err().unwrap().to_string();
    assert!(text.contains("(-E): the device has no vector 1"), "{text}");
    controller.detach();
}

#[test]
fn submission_queues_are_in_the_memory_buffer_where_there_is_room_and_nobody_minds() {
    for (vs, sq_cmb) in [(Vs::version(1, 4, 0), true), (Vs::version(1, 3, 0), true), (Vs::version(1, 4, 0), false)] {
        let double = good(Features { buffer: true, vs, ..Features::default() });
        // A controller before 1.4 knows where its buffer is.
        if vs < Vs::version(1, 4, 0) {
            double.write(register::CMBMSC, true, BUFFER_BUS | 2).unwrap();
        }
        let controller = connect(&double, &ControllerOptions { sq_cmb, ..options() }).unwrap();
        let (mut queue, _arena) = prepared(&controller);
        let at = double.commands_at(1).unwrap();
        assert_eq!((BUFFER_BUS..BUFFER_BUS + 65536).contains(&at), sq_cmb, "{vs}: {at:x}h");
        queue.submit(&[read(0), read(1)]);
        queue.commit().unwrap();
        assert_eq!(reap(&mut queue, 2).len(), 2);
        // 256 entries are 16 KiB: three more find room, a fourth is elsewhere.
        let more: Vec<_> = (0..3).map(|_| controller.connect_io_queue(256).unwrap()).collect();
        let inside = [2, 3, 4].map(|qid| (BUFFER_BUS..BUFFER_BUS + 65536).contains(&double.commands_at(qid).unwrap()));
        assert_eq!(inside, [sq_cmb; 3]);
        drop((queue, more));
        controller.detach();
        assert_eq!(double.misdeeds(), Vec::<String>::new());
    }
}

#[test]
fn shadow_doorbells_are_used_where_the_controller_has_them() {
    let double = good(Features { shadow: true, ..Features::default() });
    let controller = connect(&double, &options()).unwrap();
    assert!(admin_commands(&double).contains(&AdminOpcode::DOORBELL_BUFFER_CONFIG));
    let (mut queue, _arena) = prepared(&controller);
    for _ in 0..3 {
        queue.submit(&[read(0), read(1)]);
        queue.commit().unwrap();
        assert_eq!(reap(&mut queue, 2).len(), 2);
    }
    assert_eq!(queue.counters().sq_shadow_doorbells, 3);
    drop(queue);
    controller.detach();
    assert_eq!((double.misdeeds(), double.mapped()), (Vec::<String>::new(), 0));
}

#[test]
fn shadow_doorbells_that_are_refused_are_done_without() {
    let double = Double::new(Features { shadow: true, ..Features::default() }, |act| {
        match is_admin(act, AdminOpcode::DOORBELL_BUFFER_CONFIG) {
            true => Reply::Status(generic::INVALID_FIELD),
            false => Reply::Model,
        }
    });
    let controller = connect(&double, &options()).unwrap();
    let (mut queue, _arena) = prepared(&controller);
    queue.submit(&[read(0)]);
    queue.commit().unwrap();
    assert_eq!((reap(&mut queue, 1).len(), queue.counters().sq_shadow_doorbells), (1, 0));
    drop(queue);
    controller.detach();
}

#[test]
fn quirks_of_a_device_are_minded() {
    let double = good(Features { ids: (0x8086, 0x0a55), ..Features::default() });
    let controller = connect(&double, &options()).unwrap();
    assert_eq!(controller.namespaces()[0].stripe_blocks, 256, "byte 3 of the vendor's part: 2^5 pages");
    controller.detach();
    let double = good(Features { ids: (0x1344, 1), ..Features::default() });
    let controller = connect(&double, &ControllerOptions { interrupts: true, ..options() }).unwrap();
    assert_eq!(controller.io_queues(), QUEUES - 1, "one vector serves no I/O queue");
    controller.detach();
}

#[test]
fn keep_alive_is_kept_where_the_controller_knows_it_and_has_it_on() {
    let double = good(Features { kas: 1, ..Features::default() });
    let controller = connect(&double, &options()).unwrap();
    assert_eq!(controller.keep_alive(), Some(Duration::from_secs(5)));
    until("it is sent", || admin_commands(&double).contains(&AdminOpcode::KEEP_ALIVE));
    controller.detach();
}

#[test]
fn the_host_says_who_it_is() {
    let double = good(Features::default());
    connect(&double, &options()).unwrap().detach();
    let fids: Vec<_> = double
        .seen()
        .iter()
        .filter(|(_, command)| command.opc == AdminOpcode::SET_FEATURES.0)
        .map(|(_, command)| command.fid())
        .collect();
    assert!(fids.contains(&Fid::HOST_IDENTIFIER), "{fids:?}");
}

#[test]
fn formats_with_long_protection_information_are_asked_for_before_namespaces_are_identified() {
    let double = good(Features::default());
    connect(&double, &options()).unwrap().detach();
    let seen = double.seen();
    let first = |is: &dyn Fn(&Command) -> bool| seen.iter().position(|(qid, command)| *qid == 0 && is(command));
    let asks =
        first(&|command| command.opc == AdminOpcode::SET_FEATURES.0 && command.fid() == Fid::HOST_BEHAVIOR_SUPPORT);
    let identifies = first(&|command| command.opc == AdminOpcode::IDENTIFY.0 && command.nsid.get() == 1);
    assert!(asks.is_some() && identifies.is_some() && asks < identifies, "{asks:?} {identifies:?}");
}

#[test]
fn without_the_shutdown_notification_a_controller_is_just_disabled() {
    let waited = Arc::new(AtomicUsize::new(0));
    let (counted, mut enabled, mut disabled) = (waited.clone(), false, false);
    let double = Double::new(Features::default(), move |act| {
        match act {
            Act::Write(register::CC, value) => {
                let en = Cc::from_bits(value as u32).en();
                disabled = enabled && !en;
                enabled = en;
            }
            // It may reach our memory until it says that it is not ready.
            Act::Read(register::CSTS) if disabled => _ = counted.fetch_add(1, Ordering::Relaxed),
            _ => {}
        }
        Reply::Model
    });
    connect(&double, &ControllerOptions { no_shutdown_notification: true, ..options() }).unwrap().detach();
    assert_eq!((double.cc().en(), double.cc().shn()), (false, 0));
    assert!(waited.load(Ordering::Relaxed) > 0, "its status is looked at before its memory is let go of");
}

#[test]
fn a_shutdown_that_is_never_complete_ends_in_its_time() {
    let mut shut = false;
    let double = Double::new(Features::default(), move |act| match act {
        Act::Write(register::CC, value) if Cc::from_bits(value as u32).shn() != 0 => {
            shut = true;
            Reply::Never
        }
        Act::Read(register::CSTS) if shut => {
            Reply::Value(Csts::new().with_rdy(true).with_shst(Csts::SHST_OCCURRING).into_bits().into())
        }
        _ => Reply::Model,
    });
    // RTD3E of the double is 2 s.
    let options = ControllerOptions { shutdown_timeout: Duration::ZERO, ..options() };
    let controller = connect(&double, &options).unwrap();
    let begin = Instant::now();
    controller.detach();
    assert!(begin.elapsed() >= Duration::from_secs(2), "it is waited for as long as RTD3E says");
}

#[test]
fn an_abort_names_the_command_by_its_queue_and_identifier() {
    let double = Double::new(Features::default(), |act| match act {
        Act::Command(1.., _) => Reply::Never,
        act if is_admin(act, AdminOpcode::ABORT) => Reply::Value(1),
        _ => Reply::Model,
    });
    let controller = connect(&double, &options()).unwrap();
    let (mut queue, _arena) = prepared(&controller);
    queue.submit(&[read(4)]);
    queue.commit().unwrap();
    let (sqid, cid) = queue.named(4).unwrap();
    controller.abort(0, sqid, cid);
    let aborts = |(_, seen): &(u16, Command)| *seen == Command { cid: seen.cid, ..command::abort(sqid, cid) };
    until("it is sent", || double.seen().iter().any(aborts));
    drop(queue);
    controller.detach();
    assert_eq!(double.misdeeds(), Vec::<String>::new());
}
