//! How hosts come and go, and what becomes of what they had.

use std::{
    io::Read,
    os::{fd::AsFd, unix::net::UnixStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use doorbell_spec::{
    command::{self, Command, Dptr, DsmRange, dsm},
    feature::Fid,
    register::{self, Cc, Csts},
    status::{Status, command_specific, generic},
};
use doorbell_subsystem::{Backend, Cooperative, Deadlines, NamespaceConfig, SubsystemConfig, Target, TargetConfig};
use doorbell_vfio_user::{
    Error,
    wire::{irq, region},
};
use rustix::event::{EventfdFlags, eventfd};
use zerocopy::IntoBytes;

use super::{
    Bench, NQN, RAM_512, RAM_4096, hasty,
    host::{Host, IOVA, PAGE, ready},
    pattern, wait_until,
};

#[test]
fn one_host_at_a_time_and_the_next_is_welcome() {
    let bench = Bench::new();
    let mut first = Host::enabled(bench.directory());
    let mut io = first.create(1, 16);
    let error = Host::try_connect(bench.directory()).err().expect("a second host is turned away");
    assert!(matches!(error, Error::Connect { .. }) && error.to_string().contains("used by another"), "{error}");
    // The first has not noticed.
    assert_eq!(first.status(&mut io, command::flush(RAM_512)), generic::SUCCESS);
    let usage = bench.target.usage();
    assert_eq!((usage.connections, usage.controllers, usage.io_queues), (1, 1, 1));
    for _ in 0..3 {
        drop(first);
        bench.settle();
        first = Host::enabled(bench.directory());
        first.create(1, 16);
    }
}

#[test]
fn hosts_that_are_turned_away_come_a_number_at_a_time() {
    let folder = std::env::temp_dir().join(format!("doorbell-crowd-{}", std::process::id()));
    let mut config = TargetConfig::of(SubsystemConfig::new(NQN));
    config.vfio_user.push(folder.clone());
    let (_, mut target) = Target::cooperative(config).unwrap();
    let come = || {
        let stream = UnixStream::connect(folder.join("cntrl")).unwrap();
        stream.set_nonblocking(true).unwrap();
        stream
    };
    let is_open = |stream: &UnixStream| (&*stream).read(&mut [0]).is_err();
    let first = come();
    (0..100).for_each(|_| _ = target.pass());
    let mut crowd: Vec<_> = (0..100).map(|_| come()).collect();
    while !crowd.is_empty() {
        let before = crowd.len();
        target.pass();
        crowd.retain(is_open);
        // However many there are, who is served has his turn between them.
        assert!(before - crowd.len() <= 64, "{} at once", before - crowd.len());
    }
    assert!(is_open(&first));
    drop(target);
    std::fs::remove_dir(folder).unwrap();
}

#[test]
fn two_directories_are_two_functions_of_one_subsystem() {
    let bench = Bench::with(|config| {
        let other = config.vfio_user[0].with_file_name("other");
        config.vfio_user.push(other);
    });
    let mut hosts: Vec<_> = bench.target.directories().iter().map(|directory| Host::enabled(directory)).collect();
    let [writer, reader] = &mut hosts[..] else { panic!("not two hosts") };
    let (mut out, mut back) = (writer.create(1, 16), reader.create(1, 16));
    let (from, to) = (writer.pages(1), reader.pages(1));
    let data = pattern(1, PAGE as usize);
    writer.memory.write(from, &data);
    let write = Command { dptr: Dptr::prp(IOVA + from, 0), ..command::write(RAM_4096, 3, 1, 0) };
    assert_eq!(writer.status(&mut out, write), generic::SUCCESS);
    let read = Command { dptr: Dptr::prp(IOVA + to, 0), ..command::read(RAM_4096, 3, 1, 0) };
    assert_eq!(reader.status(&mut back, read), generic::SUCCESS);
    assert!(reader.get(to, data.len()) == data);
    assert_eq!(bench.target.usage().controllers, 2);
}

#[test]
fn a_directory_that_another_target_serves_is_refused() {
    let bench = Bench::new();
    let config = || {
        let mut config = TargetConfig::of(SubsystemConfig::new(NQN));
        config.vfio_user.push(bench.directory().into());
        config
    };
    let error = Target::start(config()).unwrap_err().to_string();
    assert!(error.contains("cntrl is in use"), "{error}");
    let mut named = config();
    named.subsystems[0].allowed_hosts = vec!["nqn.2014-08.org.example:host".into()];
    let error = Target::start(named).unwrap_err().to_string();
    assert!(error.contains("permissions of"), "{error}");
    // Of the first target nothing was taken but a look, which it may take for a host for a moment.
    wait_until("the seat is free", || Host::try_connect(bench.directory()).is_ok());
}

#[test]
fn a_reset_controller_begins_anew() {
    let bench = Bench::new();
    let mut host = Host::enabled(bench.directory());
    for round in 0..4 {
        let mut io = host.create(1, 16);
        for _ in 0..20 {
            assert_eq!(host.status(&mut io, command::flush(RAM_512)), generic::SUCCESS);
        }
        host.done(command::set_features(Fid::INTERRUPT_COALESCING, false, 0, 7));
        let aqa = host.read32(register::AQA);
        if round % 2 == 0 {
            host.write32(register::CC, 0);
            assert_eq!(host.read32(register::AQA), aqa, "a controller reset leaves it");
        } else {
            host.client.reset().unwrap();
            assert_eq!((host.read32(register::AQA), host.read32(register::CC)), (0, 0));
        }
        assert_eq!((host.csts(), bench.target.usage().io_queues), (Csts::new(), 0));
        // Nothing listens to the rings of before.
        host.put(&mut io, command::flush(RAM_512));
        host.ring(&io);
        host.enable();
        assert!(host.peek(&mut io).is_none());
        let select = doorbell_spec::feature::Select::CURRENT;
        assert_eq!(host.done(command::get_features(Fid::INTERRUPT_COALESCING, select, 0, 0)), 0);
    }
    host.write32(register::CC, ready().with_shn(Cc::SHN_NORMAL).into_bits());
    assert_eq!(host.csts().shst(), Csts::SHST_COMPLETE);
}

#[test]
fn what_the_controller_cannot_run_with_is_fatal_until_it_is_reset() {
    let bench = Bench::new();
    let mut host = Host::connect(bench.directory());
    let (sq, cq) = (IOVA + host.admin.sq, IOVA + host.admin.cq);
    let good = (31 << 16 | 31, sq, cq, ready());
    for (aqa, asq, acq, cc) in [
        (0, sq, cq, ready()),
        (31 << 16, sq, cq, ready()),
        (31, sq, cq, ready()),
        (good.0, 0, cq, ready()),
        (good.0, sq, u64::MAX, ready()),
        (good.0, IOVA + super::host::MEMORY as u64 - PAGE / 2, cq, ready().with_mps(1)),
        (4095 << 16 | 4095, IOVA + super::host::MEMORY as u64 - PAGE, cq, ready()),
        (good.0, sq, cq, ready().with_mps(1)),
        (good.0, sq, cq, ready().with_ams(1)),
        (good.0, sq, cq, ready().with_css(5)),
        (good.0, sq, cq, ready().with_iosqes(5)),
        (good.0, sq, cq, ready().with_iocqes(5)),
    ] {
        host.write32(register::AQA, aqa);
        host.write64(register::ASQ, asq);
        host.write64(register::ACQ, acq);
        host.write32(register::CC, cc.into_bits());
        let csts = host.csts();
        assert!(csts.cfs() && !csts.rdy(), "{aqa:#x} {asq:#x} {acq:#x} {cc:?}: {csts:?}");
        host.write32(register::CC, 0);
        assert_eq!(host.csts(), Csts::new());
    }
    host.enable();
    host.create(1, 16);
}

#[test]
fn registers_are_read_in_pieces_and_written_in_dwords() {
    let bench = Bench::new();
    let mut host = Host::connect(bench.directory());
    let mut whole = [0; 0x1000];
    host.client.read(region::BAR0, 0, &mut whole).unwrap();
    for (at, wanted) in whole[..0x70].iter().enumerate() {
        let mut byte = [0];
        host.client.read(region::BAR0, at as u64, &mut byte).unwrap();
        assert_eq!(byte[0], *wanted, "byte {at:#x}");
    }
    assert_eq!(&whole[8..12], &0x0002_0100u32.to_le_bytes());
    assert!(whole[0x70..].iter().all(|&byte| byte == 0));
    // What is read only, and what is no dword, stays.
    for at in [register::CAP, register::VS, register::CSTS, register::CRTO, 0x200] {
        let before = host.read32(at);
        host.write32(at, 0x1234_5678);
        assert_eq!(host.read32(at), before, "{at:#x}");
    }
    host.client.write(region::BAR0, u64::from(register::ASQ) + 2, &[0xff; 4]).unwrap();
    host.client.write(region::BAR0, u64::from(register::ASQ), &[0xff; 2]).unwrap();
    assert_eq!(host.read32(register::ASQ), 0);
    host.write64(register::ASQ, 0x1_2345_6fff);
    assert_eq!((host.read32(register::ASQ), host.read32(register::ASQ + 4)), (0x2345_6000, 1));
    host.write32(register::INTMS, 5);
    host.write32(register::INTMC, 4);
    assert_eq!((host.read32(register::INTMS), host.read32(register::INTMC)), (1, 1));
    // The configuration space, and the MSI-X table.
    let mut class = [0; 4];
    host.client.read(region::CONFIG, 8, &mut class).unwrap();
    assert_eq!(class[1..], [2, 8, 1]);
    host.client.write(4, 16, &[1, 2, 3, 4]).unwrap();
    let mut entry = [0; 4];
    host.client.read(4, 16, &mut entry).unwrap();
    assert_eq!(entry, [1, 2, 3, 4]);
    let outside = host.client.read(region::BAR0, host.bar.size - 3, &mut entry).unwrap_err();
    assert!(matches!(outside, Error::Refused { .. }), "{outside}");
}

#[test]
fn doorbells_can_be_rung_by_message() {
    let bench = Bench::new();
    let mut host = Host::enabled(bench.directory());
    let mut io = host.create(1, 4);
    for _ in 0..9 {
        let cid = host.put(&mut io, command::flush(RAM_512));
        host.write32(register::sq_tail_doorbell(1, 4) as u32, io.tail);
        assert_eq!(host.see(&mut io).cid.get(), cid);
        host.write32(register::cq_head_doorbell(1, 4) as u32, io.head);
    }
    assert_eq!(host.read32(register::sq_tail_doorbell(1, 4) as u32), 0, "a doorbell tells nothing");
}

#[test]
fn an_interrupt_tells_of_a_batch_unless_it_is_masked() {
    let bench = Bench::new();
    let mut host = Host::enabled(bench.directory());
    let heard: Vec<_> = (0..4).map(|_| eventfd(0, EventfdFlags::NONBLOCK).unwrap()).collect();
    let fds: Vec<_> = heard.iter().map(AsFd::as_fd).collect();
    host.client.set_irqs(irq::MSIX, 0, &fds).unwrap();
    let count = |at: usize| {
        let mut bytes = [0; 8];
        rustix::io::read(&heard[at], &mut bytes).map_or(0, |_| u64::from_ne_bytes(bytes))
    };
    let mut io = host.queue(1, 64);
    host.create_as(&io, Some(3));
    wait_until("the admin queue's interrupt", || count(0) > 0);
    let batch = |host: &mut Host, io: &mut _| {
        for _ in 0..40 {
            host.put(io, command::flush(RAM_512));
        }
        host.ring(io);
        for _ in 0..40 {
            host.next(io);
        }
    };
    batch(&mut host, &mut io);
    let mut told = 0;
    wait_until("an interrupt", || {
        told += count(3);
        told > 0
    });
    assert!(told <= 2, "{told} interrupts for one batch");
    assert_eq!((count(1), count(2)), (0, 0));
    host.write32(register::INTMS, 1 << 3);
    batch(&mut host, &mut io);
    // Answered after the batch, in the same loop.
    host.csts();
    assert_eq!(count(3), 0);
    host.write32(register::INTMC, 1 << 3);
    host.client.disable_irqs(irq::MSIX).unwrap();
    batch(&mut host, &mut io);
    host.csts();
    assert_eq!(count(3), 0);
    let null = std::fs::File::open("/dev/null").unwrap();
    let error = host.client.set_irqs(irq::MSIX, 0, &[null.as_fd()]).unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
}

#[test]
fn event_requests_stay_until_they_are_aborted() {
    let bench = Bench::new();
    let mut host = Host::enabled(bench.directory());
    let cids: Vec<u16> = (0..4).map(|_| host.submit_admin(command::async_event_request())).collect();
    let limit = command_specific::AER_LIMIT_EXCEEDED.with_dnr();
    assert_eq!(host.ask(command::async_event_request()).status(), limit);
    let aborted = host.submit_admin(command::abort(0, cids[2]));
    let (first, second) = (host.next_admin(), host.next_admin());
    assert_eq!((first.cid.get(), first.status()), (cids[2], generic::ABORT_REQUESTED));
    assert_eq!((second.cid.get(), second.result64()), (aborted, 0));
    assert_eq!(host.done(command::abort(0, cids[2])), 1, "it is there no more");
    assert_eq!(host.done(command::abort(1, 7)), 1, "there is no such queue");
}

#[test]
fn shadow_doorbells_are_enough() {
    let bench = Bench::new();
    let mut host = Host::enabled(bench.directory());
    let (value, event) = (host.pages(1), host.pages(1));
    let config = |prp1, prp2| Command { opc: 0x7c, dptr: Dptr::prp(prp1, prp2), ..Command::default() };
    let status = |host: &mut Host, command| host.ask(command).status();
    let good = config(IOVA + value, IOVA + event);
    assert_eq!(status(&mut host, good), generic::INVALID_FIELD.with_dnr(), "128 queues have no room in a page");
    host.want_queues(31);
    assert_eq!(status(&mut host, config(IOVA + value + 64, IOVA)), generic::PRP_OFFSET_INVALID.with_dnr());
    assert_eq!(status(&mut host, config(IOVA + value, 0)), generic::DATA_TRANSFER_ERROR.with_dnr());
    let mut before = host.create(1, 4);
    host.done(good);
    let mut after = host.create(31, 4);
    for queue in [&mut before, &mut after] {
        let at = u64::from(queue.qid) * 128;
        for _ in 0..9 {
            let cid = host.put(queue, command::flush(RAM_512));
            host.memory.store_u32(value + at, queue.tail, Ordering::Release);
            assert_eq!(host.see(queue).cid.get(), cid);
            host.memory.store_u32(value + at + 64, queue.head, Ordering::Release);
            assert_eq!(host.memory.load_u32(event + at, Ordering::Acquire), queue.tail, "the event index follows");
        }
    }
    host.write32(register::CC, 0);
    host.enable();
    let mut io = host.create(1, 4);
    assert_eq!(host.status(&mut io, command::flush(RAM_512)), generic::SUCCESS, "a reset ends shadows");
}

#[test]
fn a_host_that_says_nothing_makes_way() {
    let bench = Bench::with(|config| config.deadlines = hasty());
    let silent = UnixStream::connect(bench.directory().join("cntrl")).unwrap();
    wait_until("the seat is free", || Host::try_connect(bench.directory()).is_ok());
    drop(silent);
}

#[test]
fn a_keep_alive_timer_that_expires_is_fatal() {
    let bench = Bench::with(|config| config.deadlines = Deadlines::default());
    let mut host = Host::enabled(bench.directory());
    host.create(1, 16);
    host.done(command::set_features(Fid::KEEP_ALIVE_TIMER, false, 0, 100));
    wait_until("the timer expires", || host.csts().cfs());
    assert_eq!(bench.target.usage().io_queues, 0);
    host.write32(register::CC, 0);
    host.enable();
}

/// A target that serves when it is told to.
struct Told {
    target: Arc<Mutex<Cooperative>>,
    serves: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    folder: std::path::PathBuf,
}

impl Told {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("doorbell-told-{}", std::process::id()));
        let namespace = NamespaceConfig { backend: Backend::Ram { size: 64 << 20 }, block_size: 512 };
        let mut config = TargetConfig::of(SubsystemConfig { namespaces: vec![namespace], ..SubsystemConfig::new(NQN) });
        config.vfio_user.push(folder.clone());
        let target = Arc::new(Mutex::new(Target::cooperative(config).unwrap().1));
        let (serves, over) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
        let thread = std::thread::spawn({
            let (target, serves, over) = (target.clone(), serves.clone(), over.clone());
            move || {
                while !over.load(Ordering::Acquire) {
                    let mut target = target.lock().unwrap();
                    if serves.load(Ordering::Acquire) {
                        target.pass();
                    }
                    drop(target);
                    std::thread::yield_now();
                }
            }
        });
        Self { target, serves, over, thread: Some(thread), folder }
    }

    /// Stops serving; what follows is served by this.
    fn stop(&self) -> std::sync::MutexGuard<'_, Cooperative> {
        let target = self.target.lock().unwrap();
        self.serves.store(false, Ordering::Release);
        target
    }

    fn go_on(&self) {
        self.serves.store(true, Ordering::Release);
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        let _ = self.thread.take().map(JoinHandle::join);
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn commands_under_way_end_when_they_are_aborted_or_their_queue_goes() {
    let told = Told::new();
    let mut host = Host::enabled(&told.folder);
    // All of it many times over: more than is deallocated at a time.
    let list = host.pages(1);
    let range = DsmRange { slba: 0.into(), nlb: (64 << 11).into(), ..DsmRange::default() };
    (0..256).for_each(|at| host.memory.write(list + at * 16, range.as_bytes()));
    let trim = Command { dptr: Dptr::prp(IOVA + list, 0), ..command::dataset_management(1, 256, dsm::AD) };
    let mut io = host.create(1, 16);
    assert_eq!(host.status(&mut io, trim), generic::SUCCESS);
    host.done(command::delete_io_sq(1));
    host.done(command::delete_io_cq(1));
    let frames = || told.target.lock().unwrap().free_frames();
    let free = frames();
    let begin = |host: &mut Host| {
        let mut io = host.create(1, 16);
        let cid = host.put(&mut io, trim);
        let mut target = told.stop();
        host.ring(&io);
        target.pass();
        assert!(host.peek(&mut io).is_none() && target.free_frames() < free, "it is under way");
        (io, cid)
    };
    let ends = |host: &mut Host, io: &mut _, cid: u16, status: Status| {
        let completion = host.see(io);
        assert_eq!((completion.cid.get(), completion.status()), (cid, status));
    };

    let (mut io, cid) = begin(&mut host);
    let abort = host.submit_admin(command::abort(1, cid));
    told.target.lock().unwrap().pass();
    ends(&mut host, &mut io, cid, generic::ABORT_REQUESTED);
    let completion = host.next_admin();
    assert_eq!((completion.cid.get(), completion.result64()), (abort, 0));
    told.go_on();
    host.done(command::delete_io_sq(1));
    host.done(command::delete_io_cq(1));

    let (mut io, cid) = begin(&mut host);
    let deletion = host.submit_admin(command::delete_io_sq(1));
    told.target.lock().unwrap().pass();
    ends(&mut host, &mut io, cid, generic::ABORTED_SQ_DELETION);
    assert_eq!(host.next_admin().cid.get(), deletion);
    told.go_on();
    host.done(command::delete_io_cq(1));

    // A reset answers nothing, and nor does the end of the host.
    let (mut io, _) = begin(&mut host);
    std::thread::scope(|scope| {
        // By then the host has asked for it.
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(20));
            told.go_on();
        });
        host.write32(register::CC, 0);
    });
    assert!(host.peek(&mut io).is_none());
    assert_eq!(frames(), free);
    host.enable();
    begin(&mut host);
    drop(host);
    told.go_on();
    wait_until("the frames are free", || frames() == free);
}
