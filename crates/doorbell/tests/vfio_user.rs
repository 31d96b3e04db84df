//! A target over vfio-user beside its other listener, and a device that stands still: what is written one way is read the other, and
//! who gives up a run does not wait for what answers nothing.

mod common;

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use common::{BEFORE_THE_DRAIN_ENDS, Output, Target as Process, both, run, start, total, turn};
use doorbell_host::{AnyQueue, Cancel, Controller, ControllerOptions, TransportId};
use doorbell_platform::{Arena, Range};
use doorbell_queue::{Done, IoQueue, Op};
use doorbell_spec::command::NvmOpcode;
use doorbell_subsystem::Backend;

const NQN: &str = "nqn.2016-06.io.doorbell:both";
const BLOCK: u32 = 512;
const MOST: u32 = 1 << 20;

/// A queue with memory for one command, wherever in its first pages that begins.
struct Way {
    _controller: Controller,
    queue: AnyQueue,
    arena: Arc<Arena>,
    memory: Range,
}

impl Way {
    fn open(id: &TransportId) -> Self {
        let controller = Controller::connect(id, &ControllerOptions::default(), &Cancel::new()).unwrap();
        let mut queue = controller.connect_io_queue(16).unwrap();
        let arena = Arc::new(Arena::backed(queue.needs().backing, 2 * MOST as usize).unwrap());
        let memory = arena.alloc(MOST + 8192, 4096).unwrap();
        queue.attach(&arena).unwrap();
        Self { _controller: controller, queue, arena, memory }
    }

    /// Carries out one command with these pieces of its memory as the data.
    fn run(&mut self, opcode: NvmOpcode, slba: u64, pieces: &[Range]) {
        let len: u32 = pieces.iter().map(|piece| piece.len).sum();
        self.queue.prepare(0, pieces).unwrap();
        let op = Op { slot: 0, opcode: opcode.0, nsid: 1, slba, blocks: len / BLOCK, ..Op::default() };
        assert_eq!(self.queue.submit(&[op]), 1);
        let (mut done, deadline) = ([Done::default()], Instant::now() + Duration::from_secs(20));
        loop {
            self.queue.commit().unwrap();
            if self.queue.reap(&mut done).unwrap() == 1 {
                break assert!(done[0].status.is_success(), "{opcode:?} of {len} bytes at {slba}: {}", done[0].status);
            }
            assert!(Instant::now() < deadline, "{opcode:?} of {len} bytes at {slba} is not answered");
            thread::yield_now();
        }
    }

    fn write(&mut self, slba: u64, pieces: &[Range], bytes: &[u8]) {
        let mut rest = bytes;
        for piece in pieces {
            let (part, behind) = rest.split_at(piece.len as usize);
            self.arena.region().write(piece.offset, part);
            rest = behind;
        }
        self.run(NvmOpcode::WRITE, slba, pieces);
    }

    fn read(&mut self, slba: u64, pieces: &[Range]) -> Vec<u8> {
        self.arena.region().fill(self.memory.offset, self.memory.len as usize, 0xee);
        self.run(NvmOpcode::READ, slba, pieces);
        let mut bytes = Vec::new();
        for piece in pieces {
            let from = bytes.len();
            bytes.resize(from + piece.len as usize, 0);
            self.arena.region().read(piece.offset, &mut bytes[from..]);
        }
        let len: u32 = pieces.iter().map(|piece| piece.len).sum();
        let end = pieces.last().unwrap();
        let mut behind = vec![
            0;
            (self.memory.offset + u64::from(self.memory.len)) as usize
                - (end.offset + u64::from(end.len)) as usize
        ];
        self.arena.region().read(end.offset + u64::from(end.len), &mut behind);
        assert!(behind.iter().all(|&byte| byte == 0xee), "a read of {len} bytes wrote behind them");
        bytes
    }
}

/// Bytes that are others in each block of each write.
fn pattern(seed: u32, len: u32) -> Vec<u8> {
    (0..len)
        .map(|at| (seed.wrapping_mul(0x9e37_79b1) ^ (at / 4).wrapping_mul(0x85eb_ca6b)).to_le_bytes()[at as usize % 4])
        .collect()
}

/// A target with both listeners and one namespace, driven by both hosts.
fn both_ways(name: &str, backend: Backend) {
    let directory = std::env::temp_dir().join(format!("doorbell-{name}-{}", std::process::id()));
    let (target, [over_tcp, over_rings]) = both::start(NQN, backend, BLOCK, &directory);
    let (mut rings, mut tcp) = (Way::open(&over_rings), Way::open(&over_tcp));
    let mut slba = 0;
    for (seed, len) in
        [512, 1024, 4096, 4608, 8192, 12_288, 65_536, 131_072 + 512, MOST - 4096, MOST].into_iter().enumerate()
    {
        for skew in [0, 4, 516, 4092] {
            let seed = seed as u32 * 8 + skew;
            let there = [rings.memory.part(skew, len)];
            // A list has one page less where the first one is begun late.
            if len == MOST && skew > 0 {
                continue;
            }
            let here = [tcp.memory.part(0, len)];
            let written = pattern(seed, len);
            rings.write(slba, &there, &written);
            assert!(tcp.read(slba, &here) == written, "{len} bytes from {skew} on, read over TCP");
            let written = pattern(!seed, len);
            tcp.write(slba, &here, &written);
            assert!(rings.read(slba, &there) == written, "{len} bytes from {skew} on, written over TCP");
            slba += u64::from(len / BLOCK);
        }
    }
    drop((rings, tcp));
    target.stop().unwrap();
    assert!(!directory.join("cntrl").exists(), "its socket is gone with it");
    let _ = std::fs::remove_dir(directory);
}

#[test]
fn what_is_written_over_rings_is_read_over_tcp_and_the_other_way_round() {
    both_ways("both-ram", Backend::Ram { size: 32 << 20 });
}

/// A run over rings that nothing but a signal ends soon.
fn long_run(args: &[&str]) -> (Process, common::Running, std::path::PathBuf) {
    let directory = std::env::temp_dir().join(format!("doorbell-still-{}", std::process::id()));
    let target = Process::start(&["--ram", "16M", "--listen", &format!("vfio-user:{}", directory.display())]);
    let rings = format!("trtype:VFIOUSER traddr:{}", directory.display());
    let load = ["perf", "-r", &rings, "-q", "8", "-o", "4096", "-w", "randrw", "-M", "70", "-t", "50"];
    let running = start(&[&load, args].concat());
    running.until_it_says("Launching workers");
    thread::sleep(Duration::from_millis(300));
    (target, running, directory)
}

#[test]
fn who_gives_up_does_not_wait_for_a_device_that_stands_still() {
    let _turn = turn();
    for args in [&[][..], &["-E"], &["-P", "2", "-c", "0x3", "--use-every-core"]] {
        let (target, running, directory) = long_run(args);
        target.signal("-STOP");
        thread::sleep(Duration::from_millis(100));
        running.signal("-INT");
        let given_up = Instant::now();
        let output: Output = running.finish();
        assert!(given_up.elapsed() < BEFORE_THE_DRAIN_ENDS, "{:?}: {output:#?}", given_up.elapsed());
        assert_eq!((output.status, total(&output.stdout).is_some()), (Some(1), true), "{output:#?}");
        // Given up at the end of the drain, or before it with the controller, where that was just being asked for its status.
        assert!(output.stderr.contains("Abandoned I/Os: "), "{output:#?}");
        target.signal("-CONT");
        drop(target);
        let _ = std::fs::remove_dir_all(directory);
    }
}

#[test]
fn a_device_within_reach_is_not_asked_for_a_discovery_log() {
    for id in ["trtype:VFIOUSER traddr:/nowhere", "trtype:PCIE traddr:0000:00:1f.7"] {
        let output = run(&["discover", "-r", id]);
        assert_eq!(output.status, Some(1), "{output:#?}");
        assert!(output.stderr.contains("has no discovery log; `doorbell identify` shows"), "{output:#?}");
    }
}
