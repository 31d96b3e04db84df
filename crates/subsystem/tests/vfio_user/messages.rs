//! Hosts that share no memory: queues, lists and data are reached by messages, which a host may answer as it likes.

use std::sync::Arc;

use doorbell_platform::Region;
use doorbell_spec::{
    command::{self, Command, Dptr, LogRequest, SglDescriptor},
    feature::{Fid, NumberOfQueues},
    identify::{Cns, Csi},
    log::{Lid, Smart},
    register::{self, Csts},
    status::generic,
};
use doorbell_vfio_user::wire::{Command as Verb, DmaAccess, flags, irq};
use rustix::{
    event::{EventfdFlags, eventfd},
    fd::AsFd,
};
use zerocopy::{FromBytes, IntoBytes};

use super::{
    Bench, FILE, NOTHING, RAM_512, RAM_4096, commands, hasty,
    host::{Host, IOVA, MEMORY, PAGE, Queue},
    pattern,
    scripted::{DATA, LEN, Scripted, at},
    wait_until,
};

const UNREACHABLE: doorbell_spec::status::Status = generic::DATA_TRANSFER_ERROR.with_dnr();

#[test]
fn blocks_come_back_by_messages_however_they_are_described() {
    let bench = Bench::new();
    commands::blocks_come_back(&mut Host::unshared(bench.directory()));
}

#[test]
fn blocks_become_zero_by_messages() {
    let bench = Bench::new();
    commands::blocks_become_zero(&mut Host::unshared(bench.directory()));
}

#[test]
fn data_that_cannot_be_had_by_messages_is_an_error_of_the_command() {
    let bench = Bench::new();
    commands::data_cannot_be_had(&mut Host::unshared(bench.directory()));
}

#[test]
fn rings_go_round_by_messages() {
    let bench = Bench::new();
    commands::rings_go_round(&mut Host::unshared(bench.directory()));
}

#[test]
fn a_host_without_descriptors_is_served_in_messages_as_large_as_it_takes() {
    let bench = Bench::new();
    for most in [1 << 20, 512, 48] {
        let mut host = Scripted::with_queue(bench.directory(), most);
        let identify = command::identify(Cns::CONTROLLER, 0, Csi::NVM, 0);
        assert!(host.admin(Command { dptr: at(0), ..identify }).is_success());
        assert_ne!(host.memory[DATA as usize..][..PAGE as usize], [0; PAGE as usize], "{most}");
        let data = pattern(most as u32, 5 * PAGE as usize);
        // Five pages by a list, which lies behind them.
        let (there, list) = (DATA as usize, DATA + 8 * PAGE);
        host.memory[there..there + data.len()].copy_from_slice(&data);
        let entries: Vec<u64> = (1..5).map(|page| IOVA + DATA + page * PAGE).collect();
        host.memory[list as usize..][..32].copy_from_slice(entries.as_bytes());
        let dptr = Dptr::prp(IOVA + DATA, IOVA + list);
        for nsid in [RAM_512, FILE] {
            assert!(host.run(Command { dptr, ..command::write(nsid, 3, 40, 0) }).is_success());
            host.memory[there..there + data.len()].fill(0);
            assert!(host.run(Command { dptr, ..command::read(nsid, 3, 40, 0) }).is_success());
            assert!(host.memory[there..there + data.len()] == data, "{most}");
        }
        assert!(host.run(Command { dptr, ..command::read(NOTHING, 3, 40, 0) }).is_success());
        let largest = *host.counts.iter().max().unwrap();
        assert_eq!(largest, most.min(5 * PAGE), "the pages lie side by side");
        drop(host);
        bench.settle();
    }
}

#[test]
fn a_host_that_takes_no_bytes_in_a_message_has_no_queues() {
    let bench = Bench::new();
    let mut host = Scripted::connect(bench.directory(), 0);
    assert!(host.enable().rdy());
    host.submit(0, command::keep_alive());
    wait_until("the controller has failed", || host.csts().cfs());
}

#[test]
fn an_interrupt_comes_after_the_completion_it_tells_of() {
    let bench = Bench::new();
    let mut host = Host::unshared(bench.directory());
    let mut io = host.queue(1, 16);
    host.create_as(&io, Some(1));
    let heard = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
    host.client.set_irqs(irq::MSIX, 1, &[heard.as_fd()]).unwrap();
    for _ in 0..40 {
        let mut bytes = [0; 8];
        assert!(rustix::io::read(&heard, &mut bytes).is_err(), "nothing has happened");
        host.put(&mut io, command::flush(RAM_512));
        host.ring(&io);
        wait_until("an interrupt", || {
            host.client.serve().unwrap();
            rustix::io::read(&heard, &mut bytes).is_ok()
        });
        assert!(host.peek(&mut io).is_some());
        host.free(&io);
    }
}

#[test]
fn memory_that_is_shared_and_memory_that_is_not_go_together() {
    let bench = Bench::new();
    let mut host = Host::enabled(bench.directory());
    let mut io = host.create(1, 16);
    // Right behind the shared memory, so that data and lists can go across.
    let other = Arc::new(Region::new(1 << 20).unwrap());
    host.client.dma_map(&other, IOVA + MEMORY as u64).unwrap();
    let data = pattern(5, 8192);
    let end = MEMORY as u64;
    host.memory.write(end - 4096, &data[..4096]);
    other.write(0, &data[4096..]);
    let mut write = command::write(RAM_512, 5, 16, 0);
    write.set_sgl(SglDescriptor::data_block(IOVA + end - 4096, 8192));
    assert_eq!(host.status(&mut io, write), generic::SUCCESS);
    host.memory.write(end - 5000, &[0; 5000]);
    other.write(0, &[0; 4096]);
    let mut read = command::read(RAM_512, 5, 16, 0);
    read.set_sgl(SglDescriptor::data_block(IOVA + end - 5000, 8192));
    assert_eq!(host.status(&mut io, read), generic::SUCCESS);
    assert!(host.get(end - 5000, 5000) == data[..5000] && other.equals(0, &data[5000..]));
    // Each was counted once.
    host.done(command::delete_io_sq(1));
    let log = LogRequest { lid: Lid::SMART, nsid: u32::MAX, bytes: 512, ..LogRequest::default() };
    let mut page = host.ask_page(command::get_log_page(&log));
    page.truncate(512);
    let health = Smart::read_from_bytes(&page[..]).unwrap();
    assert_eq!((health.hrc.get(), health.hwc.get()), (1, 1));
}

#[test]
fn a_ring_may_lie_across_two_mappings() {
    let bench = Bench::new();
    let mut host = Host::enabled(bench.directory());
    for shared in [true, false] {
        let region = |len| if shared { Region::shared(len, false).unwrap() } else { Region::new(len).unwrap() };
        let halves = [Arc::new(region(8192)), Arc::new(region(8192))];
        let start = 0x9_0000_0000;
        host.client.dma_map(&halves[0], start).unwrap();
        host.client.dma_map(&halves[1], start + 8192).unwrap();
        // 64 entries before the border, and 64 behind it; the completions lie as they usually do.
        let mut io = Queue { entries: 128, ..host.queue(1, 128) };
        host.done(command::create_io_cq(1, 127, IOVA + io.cq, None));
        host.done(command::create_io_sq(1, 127, start + 4096, 1, 0));
        for at in 0..300u64 {
            let mut flush = command::flush(RAM_512);
            flush.cid = (at as u16).into();
            let place = u64::from(io.tail) * 64 + 4096;
            halves[(place / 8192) as usize].write(place % 8192, flush.as_bytes());
            io.tail = (io.tail + 1) % 128;
            host.ring(&io);
            let completion = host.next(&mut io);
            assert_eq!((u64::from(completion.cid.get()), completion.status()), (at, generic::SUCCESS));
        }
        host.done(command::delete_io_sq(1));
        host.done(command::delete_io_cq(1));
        // The completions across the border.
        host.done(command::create_io_cq(1, 511, start + 4096, None));
        io = Queue { cq: 4096, entries: 512, ..host.queue(1, 512) };
        host.done(command::create_io_sq(1, 511, IOVA + io.sq, 1, 0));
        for round in 0..1100u64 {
            host.put(&mut io, command::flush(RAM_512));
            host.ring(&io);
            let place = 4096 + round % 512 * 16;
            let half = &halves[(place / 8192) as usize];
            let phase = round / 512 % 2 == 0;
            wait_until("a completion", || {
                host.client.serve().unwrap();
                let last = half.load_u64(place % 8192 + 8, std::sync::atomic::Ordering::Acquire);
                (last >> 48 & 1 != 0) == phase
            });
            io.head = (io.head + 1) % 512;
            host.free(&io);
        }
        host.done(command::delete_io_sq(1));
        host.done(command::delete_io_cq(1));
        halves.iter().zip([start, start + 8192]).for_each(|(half, at)| host.client.dma_unmap(half, at).unwrap());
    }
}

#[test]
fn shadow_doorbells_that_are_not_shared_are_refused_and_missed_by_nobody() {
    let bench = Bench::new();
    let mut host = Scripted::enabled(bench.directory(), 4096);
    let count = NumberOfQueues { submission: 31, completion: 31 }.to_dword();
    assert!(host.admin(command::set_features(Fid::NUMBER_OF_QUEUES, false, 0, count)).is_success());
    assert_eq!(host.admin(command::doorbell_buffer_config(IOVA + DATA, IOVA + DATA + PAGE)), UNREACHABLE);
    host.create();
    assert!(host.run(command::flush(RAM_512)).is_success());
}

#[test]
fn answers_may_come_in_any_order() {
    let bench = Bench::new();
    let mut host = Scripted::with_queue(bench.directory(), 1 << 20);
    let data = pattern(3, 8 * PAGE as usize);
    host.memory[DATA as usize..][..data.len()].copy_from_slice(&data);
    host.holds_data = true;
    for page in (0..8).step_by(2) {
        host.submit(1, Command { dptr: at(page), ..command::write(RAM_4096, page, 2, 0) });
    }
    host.hold(4);
    while let Some(request) = host.held.pop() {
        host.answer(&request);
    }
    let mut cids: Vec<u16> = (0..4).map(|_| host.next(1)).map(|done| done.cid.get()).collect();
    cids.sort_unstable();
    assert_eq!(cids, [7, 8, 9, 10]);
    host.holds_data = false;
    host.memory[DATA as usize..].fill(0);
    for page in (0..8).step_by(2) {
        assert!(host.run(Command { dptr: at(page), ..command::read(RAM_4096, page, 2, 0) }).is_success());
    }
    assert!(host.memory[DATA as usize..][..data.len()] == data);
}

#[test]
fn an_error_for_an_answer_fails_the_command_and_nothing_else() {
    let bench = Bench::new();
    let mut host = Scripted::with_queue(bench.directory(), 1 << 20);
    let identify = command::identify(Cns::CONTROLLER, 0, Csi::NVM, 0);
    let list = Dptr::prp(IOVA + DATA, IOVA + DATA + PAGE);
    for (qid, command) in [
        (1, Command { dptr: at(0), ..command::write(RAM_4096, 0, 1, 0) }),
        (1, Command { dptr: at(0), ..command::read(RAM_4096, 0, 1, 0) }),
        (1, Command { dptr: list, ..command::read(RAM_4096, 0, 3, 0) }),
        (0, Command { dptr: at(0), ..identify }),
    ] {
        host.holds_data = true;
        host.submit(qid, command);
        host.hold(1);
        let request = host.held.pop().unwrap();
        host.deny(&request);
        assert_eq!(host.next(qid).status(), UNREACHABLE, "{command:?}");
        host.holds_data = false;
        assert!(host.run(command::flush(RAM_4096)).is_success());
    }
    // A queue that cannot be read is another matter.
    host.holds_queues = true;
    host.submit(1, command::flush(RAM_4096));
    host.hold(1);
    let request = host.held.pop().unwrap();
    host.deny(&request);
    wait_until("the controller has failed", || host.csts().cfs());
    host.store(register::CC.into(), &[0; 4]);
    assert_eq!(host.csts(), Csts::new());
    host.holds_queues = false;
    assert!(host.enable().rdy());
    host.create();
    assert!(host.run(command::flush(RAM_4096)).is_success());
}

#[test]
fn an_answer_that_cannot_be_ends_the_connection() {
    let bench = Bench::new();
    for case in 0..6 {
        let mut host = Scripted::with_queue(bench.directory(), 1 << 20);
        host.holds_data = true;
        host.submit(1, Command { dptr: at(0), ..command::write(RAM_4096, 0, 1, 0) });
        host.hold(1);
        let request = host.held.pop().unwrap();
        let id = request.header.msg_id.get();
        let access: DmaAccess = request.read().unwrap();
        let body = |len: usize| [access.as_bytes(), &vec![7; len]].concat();
        match case {
            0 => host.say(id, Verb::DMA_READ, flags::REPLY, &body(4095)),
            1 => host.say(id, Verb::DMA_READ, flags::REPLY, &body(4097)),
            2 => host.say(id.wrapping_add(1), Verb::DMA_READ, flags::REPLY, &body(4096)),
            3 => host.say(id, Verb::DMA_WRITE, flags::REPLY, access.as_bytes()),
            4 => {
                let other = DmaAccess { addr: (IOVA + DATA + 64).into(), ..access };
                host.say(id, Verb::DMA_READ, flags::REPLY, &[other.as_bytes(), &[7; 4096]].concat());
            }
            // A flood of the right answer.
            _ => (0..100).for_each(|_| host.say(id, Verb::DMA_READ, flags::REPLY, &body(4096))),
        }
        wait_until("the host is let go of", || {
            if let Some(message) = host.hear() {
                assert!(!message.is_reply());
                return false;
            }
            true
        });
        drop(host);
        bench.settle();
        // Nothing was written, unless the answer was the right one at first.
        let mut host = Scripted::with_queue(bench.directory(), 1 << 20);
        assert!(host.run(Command { dptr: at(0), ..command::read(RAM_4096, 0, 1, 0) }).is_success());
        if case < 5 {
            assert!(host.memory[DATA as usize..][..4096] == [0; 4096], "case {case}");
        }
        drop(host);
        bench.settle();
    }
}

#[test]
fn a_host_that_never_answers_is_let_go_of_and_keeps_nobody_waiting() {
    let bench = Bench::with(|config| {
        config.deadlines = hasty();
        let second = config.vfio_user[0].with_file_name("second");
        config.vfio_user.push(second);
    });
    let mut silent = Scripted::with_queue(bench.directory(), 1 << 20);
    silent.holds_data = true;
    silent.submit(1, Command { dptr: at(0), ..command::write(RAM_4096, 0, 1, 0) });
    silent.hold(1);
    // The same reactor serves another host meanwhile.
    let mut other = Scripted::with_queue(&bench.target.directories()[1], 1 << 20);
    for page in 0..20 {
        assert!(other.run(Command { dptr: at(page), ..command::write(RAM_4096, page, 1, 0) }).is_success());
    }
    assert!(silent.hear().is_none(), "it is closed");
    assert!(other.run(command::flush(RAM_4096)).is_success());
    drop((silent, other));
    bench.settle();
}

#[test]
fn memory_may_be_unmapped_while_it_is_asked_for() {
    let bench = Bench::new();
    let mut host = Scripted::enabled(bench.directory(), 512);
    host.unmap(IOVA, LEN as u64);
    wait_until("the controller has failed", || host.csts().cfs());
    host.store(register::CC.into(), &[0; 4]);
    // In two pieces: queues, and data.
    host.map(IOVA, DATA);
    host.map(IOVA + DATA, LEN as u64 - DATA);
    assert!(host.enable().rdy());
    host.create();
    for command in [command::write(RAM_4096, 0, 8, 0), command::read(RAM_4096, 0, 8, 0)] {
        host.holds_data = true;
        let entries: Vec<u64> = (1..8).map(|page| IOVA + DATA + page * PAGE).collect();
        let list = 3 * PAGE as usize + 2048;
        host.memory[list..list + 56].copy_from_slice(entries.as_bytes());
        let dptr = Dptr::prp(IOVA + DATA, IOVA + list as u64);
        // 64 messages, the first of which are sent.
        host.submit(1, Command { dptr, ..command });
        host.hold(10);
        host.unmap(IOVA + DATA, LEN as u64 - DATA);
        // It is answered at once; what was asked for before is refused by a host that has it no more.
        while let Some(request) = host.held.pop() {
            host.deny(&request);
        }
        host.submit(1, command::flush(RAM_4096));
        let mut done = Vec::new();
        while done.len() < 2 {
            if let Some(completion) = host.peek(1) {
                done.push(completion.status());
                continue;
            }
            let message = host.hear().expect("the device has closed the connection");
            host.take(message);
            while let Some(request) = host.held.pop() {
                host.deny(&request);
            }
        }
        assert!(done.contains(&UNREACHABLE) && done.contains(&generic::SUCCESS), "{done:?}");
        host.map(IOVA + DATA, LEN as u64 - DATA);
        host.holds_data = false;
        assert!(host.run(Command { dptr, ..command }).is_success());
    }
}

#[test]
fn commands_that_wait_for_the_host_end_when_they_are_aborted_or_their_queue_goes() {
    let bench = Bench::new();
    let mut host = Scripted::with_queue(bench.directory(), 1 << 20);
    host.holds_data = true;
    let write = Command { dptr: at(0), ..command::write(RAM_4096, 0, 1, 0) };
    let cid = host.submit(1, write);
    host.hold(1);
    assert!(host.admin(command::abort(1, cid)).is_success());
    assert_eq!(host.next(1).status(), generic::ABORT_REQUESTED);
    // All of ten are asked for, and the first is still without an answer; then the queue goes.
    let cids: Vec<u16> = (0..10).map(|_| host.submit(1, write)).collect();
    host.hold(11);
    assert!(host.admin(command::delete_io_sq(1)).is_success());
    let mut gone: Vec<u16> = Vec::new();
    while let Some(completion) = host.peek(1) {
        assert_eq!(completion.status(), generic::ABORTED_SQ_DELETION);
        gone.push(completion.cid.get());
    }
    assert_eq!(gone, cids, "who hears that a queue is gone has heard of all that was in it");
    // The answers come late, and to nobody.
    while let Some(request) = host.held.pop() {
        host.answer(&request);
    }
    host.holds_data = false;
    host.io = Queue { tail: 0, ..std::mem::replace(&mut host.io, Queue::nowhere()) };
    let sq = IOVA + host.io.sq;
    assert!(host.admin(command::create_io_sq(1, 15, sq, 1, 0)).is_success());
    assert!(host.run(write).is_success());
    // And a reset while something is under way.
    host.holds_data = true;
    host.submit(1, write);
    host.hold(1);
    host.store(register::CC.into(), &[0; 4]);
    assert_eq!(host.csts(), Csts::new());
    let request = host.held.pop().unwrap();
    host.answer(&request);
    host.holds_data = false;
    assert!(host.enable().rdy());
    host.create();
    assert!(host.run(write).is_success());
}

#[test]
fn a_host_that_waits_with_its_answers_holds_little_of_the_device() {
    let bench = Bench::new();
    let mut host = Scripted::with_queue(bench.directory(), 64);
    host.holds_data = true;
    for page in 0..15 {
        host.submit(1, Command { dptr: at(page * 2), ..command::read(RAM_4096, page, 2, 0) });
    }
    // No more than 64 requests come, whatever there is to do.
    host.hold(64);
    for _ in 0..50 {
        assert_eq!(host.csts(), Csts::new().with_rdy(true));
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert_eq!(host.held.len(), 64);
    host.holds_data = false;
    for request in std::mem::take(&mut host.held) {
        host.answer(&request);
    }
    (0..15).for_each(|_| assert!(host.next(1).status().is_success()));
}
