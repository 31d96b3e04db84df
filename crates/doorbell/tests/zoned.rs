//! A zoned namespace of our target over both kinds of link, with our host: recognised, written in order, appended to, reported, reset.

mod common;

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use doorbell_host::{AnyQueue, Cancel, Controller, ControllerOptions, TransportId, Zoned};
use doorbell_platform::{Arena, Range};
use doorbell_queue::{Done, IoQueue};
use doorbell_spec::{
    command::{self, Command},
    identify::Csi,
    status::{command_specific, generic},
    zns::{self, ReportHeader, Reporting, SendAction, ZoneDescriptor, ZoneState},
};
use doorbell_subsystem::{Backend, Zoning};
use zerocopy::FromBytes;

const NQN: &str = "nqn.2016-06.io.doorbell:zoned";
const BLOCK: u32 = 4096;
/// Blocks of a zone, and how many of them can be written.
const ZONE: u64 = 256;
const CAPACITY: u64 = 192;

/// A queue with memory for one command.
struct Way {
    controller: Controller,
    queue: AnyQueue,
    arena: Arc<Arena>,
    memory: Range,
}

impl Way {
    fn open(id: &TransportId) -> Self {
        let controller = Controller::connect(id, &ControllerOptions::default(), &Cancel::new()).unwrap();
        let mut queue = controller.connect_io_queue(16).unwrap();
        let arena = Arc::new(Arena::backed(queue.needs().backing, 4 << 20).unwrap());
        let memory = arena.alloc(1 << 20, 4096).unwrap();
        queue.attach(&arena).unwrap();
        Self { controller, queue, arena, memory }
    }

    /// Carries out a command that moves so many bytes.
    fn run(&mut self, command: &Command, bytes: u32) -> Done {
        let memory = self.memory.part(0, bytes);
        self.queue.prepare(0, if bytes > 0 { std::slice::from_ref(&memory) } else { &[] }).unwrap();
        assert!(self.queue.submit_raw(0, command));
        let (mut done, deadline) = ([Done::default()], Instant::now() + Duration::from_secs(20));
        while {
            self.queue.commit().unwrap();
            self.queue.reap(&mut done).unwrap()
        } == 0
        {
            assert!(Instant::now() < deadline, "{command:?} is not answered");
            thread::yield_now();
        }
        done[0]
    }

    fn write(&mut self, command: &Command, fill: u8) -> Done {
        let bytes = command.block_count() * BLOCK;
        self.arena.region().fill(self.memory.offset, bytes as usize, fill);
        self.run(command, bytes)
    }

    /// The first byte of each block.
    fn read(&mut self, slba: u64, blocks: u32) -> Vec<u8> {
        let done = self.run(&command::read(1, slba, blocks, 0), blocks * BLOCK);
        assert!(done.status.is_success(), "{}", done.status);
        let mut byte = [0];
        (0..blocks)
            .map(|at| {
                self.arena.region().read(self.memory.offset + u64::from(at * BLOCK), &mut byte);
                byte[0]
            })
            .collect()
    }

    fn report(&mut self, slba: u64, bytes: u32, partial: bool) -> (u64, Vec<ZoneDescriptor>) {
        self.arena.region().fill(self.memory.offset, bytes as usize, 0xee);
        let done = self.run(&zns::report(1, slba, bytes, Reporting::EVERY, partial), bytes);
        assert!(done.status.is_success(), "{}", done.status);
        let mut page = vec![0; bytes as usize];
        self.arena.region().read(self.memory.offset, &mut page);
        let (header, rest) = ReportHeader::ref_from_prefix(&page).unwrap();
        let zones = rest.chunks_exact(64).map(|each| ZoneDescriptor::read_from_bytes(each).unwrap());
        (header.nzones.get(), zones.take_while(|zone| zone.zt != 0).collect())
    }
}

#[test]
fn a_zoned_namespace_is_the_same_over_sockets_and_rings() {
    let directory = std::env::temp_dir().join(format!("doorbell-zoned-{}", std::process::id()));
    let zoning = Zoning {
        zone_size: ZONE * u64::from(BLOCK),
        zone_capacity: CAPACITY * u64::from(BLOCK),
        max_open: Some(2),
        max_active: Some(3),
        read_only: 1,
    };
    let backend = Backend::Zoned { size: 8 << 20, zoning };
    let (target, ids) = common::both::start(NQN, backend, BLOCK, &directory);
    let mut ways = ids.each_ref().map(Way::open);
    for at in 0..2 {
        let namespace = &ways[at].controller.namespaces()[0];
        let wanted = Zoned {
            zone_blocks: ZONE,
            capacity: 8 * CAPACITY,
            max_open: Some(2),
            max_active: Some(3),
            max_append: 1 << 20,
            reads_across: false,
        };
        assert_eq!((namespace.csi, namespace.zoned), (Csi::ZONED, Some(wanted)));

        let way = &mut ways[at];
        assert!(way.write(&command::write(1, ZONE, 2, 0), 7).status.is_success());
        let done = way.write(&zns::append(1, ZONE, 3, 0), 8);
        assert_eq!((done.status.is_success(), done.result), (true, ZONE + 2));
        assert!(way.write(&command::write(1, ZONE, 1, 0), 9).status.is(command_specific::ZONE_INVALID_WRITE));
        assert!(way.write(&zns::append(1, 7 * ZONE, 1, 0), 9).status.is(command_specific::ZONE_IS_READ_ONLY));
        // What one link wrote the other reads.
        assert_eq!(ways[1 - at].read(ZONE, 6), [7, 7, 8, 8, 8, 0]);

        let way = &mut ways[at];
        let send =
            |way: &mut Way, zone: u64, action| way.run(&zns::management_send(1, zone * ZONE, action, false), 0).status;
        assert!(send(way, 2, SendAction::FINISH).is_success());
        let (count, zones) = way.report(0, 4096, false);
        assert_eq!((count, zones.len()), (8, 8));
        let states: Vec<_> = zones[..3].iter().map(ZoneDescriptor::state).collect();
        assert_eq!(states, [ZoneState::EMPTY, ZoneState::IMPLICITLY_OPENED, ZoneState::FULL]);
        assert_eq!((zones[1].wp.get(), zones[1].zcap.get()), (ZONE + 5, CAPACITY));
        assert_eq!(zones[7].state(), ZoneState::READ_ONLY);
        // Room for the header and one and a half descriptors.
        assert_eq!(way.report(ZONE, 160, false), (7, vec![zones[1]]));
        assert_eq!(way.report(ZONE, 160, true), (1, vec![zones[1]]));
        let extension = zns::management_send(1, 2 * ZONE, SendAction::SET_DESCRIPTOR_EXTENSION, false);
        assert!(way.run(&extension, 64).status.is(generic::INVALID_FIELD), "zones have none");
        assert!(send(way, 8, SendAction::RESET).is(generic::LBA_OUT_OF_RANGE));
        let inside = way.run(&zns::management_send(1, 1, SendAction::RESET, false), 0).status;
        assert!(inside.is(generic::INVALID_FIELD), "not where a zone begins");
        assert!(
            way.run(&command::read(1, ZONE - 1, 2, 0), 2 * BLOCK).status.is(command_specific::ZONED_BOUNDARY_ERROR)
        );
        for zone in [3, 4] {
            assert!(send(way, zone, SendAction::OPEN).is_success());
        }
        assert!(way.write(&zns::append(1, 5 * ZONE, 1, 0), 9).status.is(command_specific::TOO_MANY_ACTIVE_ZONES));
        assert!(send(way, 1, SendAction::OPEN).is(command_specific::TOO_MANY_OPEN_ZONES));
        let all = way.run(&zns::management_send(1, 0, SendAction::RESET, true), 0).status;
        assert!(all.is_success());
        assert_eq!(ways[1 - at].read(ZONE, 6), [0; 6]);
    }
    drop(ways);
    target.stop().unwrap();
}

#[test]
fn a_zone_command_that_hangs_ends_the_run_and_no_abort_is_spoken_of() {
    // Zone Management Send, which comes when the first zones are full.
    let target = common::Target::start(&["--ram", "8M,zoned,zone=1M", "--fault", "drop on 79"]);
    let id = target.id();
    let load = ["perf", "-r", &id, "-q", "4", "-o", "64k", "-w", "write", "-t", "60", "--timeout", "300"];
    let output = common::run(&load);
    assert_eq!(output.status, Some(1), "{output:#?}");
    assert!(output.stderr.contains("0 Aborts sent") && !output.stderr.contains("an Abort did"), "{output:#?}");
    assert!(output.stderr.contains("behind other commands"), "{output:#?}");
}

#[test]
fn a_failed_append_is_told_with_its_zone() {
    // A zone of 256 blocks takes 16, so that the 50th is for the fourth.
    let target = common::Target::start(&["--ram", "8M,zoned,zone=1M", "--fault", "error 0/6 on 7d every 50"]);
    let id = target.id();
    let output =
        common::run(&["perf", "-r", &id, "-q", "1", "-o", "64k", "-w", "append", "-d", "60", "-t", "60", "-Q", "9"]);
    assert_eq!(output.status, Some(1), "{output:#?}");
    assert!(output.stderr.contains("Zone Append of 16 blocks at LBA 768 failed"), "{output:#?}");
}

#[test]
fn identify_shows_the_zones() {
    let target = common::Target::start(&["--ram", "64M,zoned,zone=4M,capacity=3M,open=8,active=12"]);
    let output = common::run(&["identify", "-r", &target.id()]);
    assert_eq!(output.status, Some(0), "{}", output.stderr);
    for line in [
        "command set: Zoned Namespace Command Set",
        "count: 16",
        "blocks each: 1024",
        "capacity blocks: 12288",
        "most open: 8",
        "most active: 12",
        "largest append: 1048576",
    ] {
        let (key, value) = line.split_once(": ").unwrap();
        let found = output.stdout.lines().map(str::trim).filter_map(|line| line.split_once(':'));
        assert!(
            found.map(|(key, value)| (key, value.trim())).any(|pair| pair == (key, value)),
            "{line} in {}",
            output.stdout
        );
    }
}

/// The zones of a target as another host reports them.
fn zones(target: &common::Target) -> Vec<ZoneDescriptor> {
    Way::open(&target.id().parse().unwrap()).report(0, 65536, true).1
}

/// Runs perf on it, which must go well, and returns what it says of itself and its result.
fn perf(target: &common::Target, more: &[&str]) -> (String, serde_json::Value) {
    let path = std::env::temp_dir().join(format!("doorbell-zoned-{}-{}.json", std::process::id(), target.port));
    let id = target.id();
    let args = [&["perf", "-r", &id, "--json", path.to_str().unwrap()], more].concat();
    let output = common::run(&args);
    assert_eq!(output.status, Some(0), "{more:?}: {}{}", output.stdout, output.stderr);
    let document = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    std::fs::remove_file(&path).unwrap();
    (output.stdout + &output.stderr, document)
}

#[test]
fn writes_follow_the_pointers_and_full_zones_are_reset() {
    let _turn = common::turn();
    let target = common::Target::start(&["--ram", "8M,zoned,zone=1M,capacity=768K,open=4,active=5,read-only=1"]);
    // A zone takes 48 I/Os; 8 in flight are more than zones that may be open.
    let (said, result) = perf(&target, &["-q", "8", "-o", "16k", "-w", "write", "-d", "160", "-t", "60", "-c", "0x1"]);
    assert!(said.contains("4 of 8 I/Os (-q) are kept in flight"), "{said}");
    let context = &result["results"]["contexts"][0];
    assert_eq!(context["operations"]["write"]["ios"], 160);
    assert_eq!((&context["zone_management"]["resets"], &context["zone_management"]["failed"]), (&0.into(), &0.into()));
    let written: u64 = zones(&target)
        .iter()
        .filter(|zone| zone.state() != ZoneState::READ_ONLY)
        .map(|zone| if zone.state() == ZoneState::FULL { 192 } else { zone.wp.get() - zone.zslba.get() })
        .sum();
    assert_eq!(written, 160 * 4, "blocks that are written");
    // It goes on where the pointers are, and then from the beginning.
    let (said, result) = perf(&target, &["-q", "4", "-o", "16k", "-w", "write", "-d", "700", "-t", "60", "-c", "0x1"]);
    let context = &result["results"]["contexts"][0];
    assert_eq!(context["operations"]["write"]["ios"], 700);
    let resets = context["zone_management"]["resets"].as_u64().unwrap();
    // 860 I/Os of 48 a zone fill 17 zones, the first 7 of which were empty; up to four are being written.
    assert!((10..=15).contains(&resets), "{resets} resets: {said}");
    assert!(said.contains("Zones of ") && said.contains(&format!("{resets} reset")), "{said}");
    assert_eq!(zones(&target)[7].state(), ZoneState::READ_ONLY);
}

#[test]
fn what_is_left_of_a_zone_is_finished_and_limits_are_shared() {
    let _turn = common::turn();
    // 44 blocks: five I/Os of 8, and half of one.
    let target = common::Target::start(&["--ram", "4M,zoned,zone=256K,capacity=176K,open=4,active=4"]);
    let options = ["-q", "4", "-o", "32k", "-w", "write", "-d", "200", "-t", "60", "-c", "0x3", "--use-every-core"];
    let (_, result) = perf(&target, &options);
    for context in result["results"]["contexts"].as_array().unwrap() {
        assert_eq!(context["operations"]["write"]["ios"], 200);
        let counts = &context["zone_management"];
        let (resets, finishes) = (counts["resets"].as_u64().unwrap(), counts["finishes"].as_u64().unwrap());
        assert!((36..=40).contains(&finishes) && (28..=34).contains(&resets), "{counts}");
        assert_eq!(counts["failed"], 0);
        assert!(counts["total_s"].as_f64() >= counts["longest_s"].as_f64());
    }
    let states: Vec<_> = zones(&target).iter().map(ZoneDescriptor::state).collect();
    assert!(states.iter().filter(|state| state.is_active()).count() <= 4, "{states:?}");
}

#[test]
fn appends_are_in_flight_together_and_mixes_read_what_is_there() {
    let _turn = common::turn();
    let target = common::Target::start(&["--ram", "8M,zoned,zone=1M,open=2,active=2"]);
    let (said, result) =
        perf(&target, &["-q", "32", "-o", "4k", "-w", "append", "-d", "3000", "-t", "60", "-c", "0x1"]);
    let context = &result["results"]["contexts"][0];
    assert_eq!(context["operations"]["append"]["ios"], 3000, "{said}");
    assert!(!said.contains("are kept in flight"), "{said}");
    assert!(context["zone_management"]["resets"].as_u64() >= Some(3), "{context}");
    let (_, result) =
        perf(&target, &["-q", "2", "-o", "4k", "-w", "rw", "-M", "50", "-d", "1000", "-t", "60", "-c", "0x1"]);
    let operations = &result["results"]["contexts"][0]["operations"];
    let count = |operation: &str| operations[operation]["ios"].as_u64().unwrap();
    assert_eq!(count("read") + count("write"), 1000);
    perf(&target, &["-q", "32", "-o", "16k", "-w", "randread", "-d", "1000", "-t", "60", "-c", "0x1"]);
}

#[test]
fn what_zones_do_not_allow_is_refused_with_the_reason() {
    let target = common::Target::start(&["--ram", "8M,zoned,zone=1M,capacity=768K,open=2", "--ram", "8M"]);
    let (zoned, plain) = (format!("{} ns:1", target.id()), format!("{} ns:2", target.id()));
    for (id, options, said) in [
        (&zoned, "-o 4k -w randwrite", "written in order"),
        (&zoned, "-o 4k -w randrw -M 50", "written in order"),
        (&zoned, "-o 4k -w write --range 0%-50%", "write pointers"),
        (&zoned, "-o 4k -w write --reconnect 3", "--reconnect"),
        (&zoned, "-o 2m -w append", "one command"),
        (&zoned, "-o 12k -w read", "across zones"),
        (&zoned, "-o 4k -w write -P 3", "use fewer"),
        (&zoned, "-o 1m -w write", "hold no I/O of 256 blocks"),
        (&plain, "-o 4k -w append", "it is none"),
    ] {
        let options: Vec<&str> = options.split(' ').collect();
        let output =
            common::run(&[&["perf", "-r", id, "-q", "4", "-d", "10", "-t", "20", "-c", "0x1"], &options[..]].concat());
        assert_ne!(output.status, Some(0), "{options:?}: {}", output.stdout);
        let all = output.stdout + &output.stderr;
        assert!(all.contains(said), "{options:?}: {all}");
    }
}
