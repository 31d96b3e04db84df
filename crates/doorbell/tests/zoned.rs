//! A zoned namespace of our target over both kinds of link, with our host: recognised, written in order, appended to, reported, reset.

mod common;

use std::{
    net::Ipv4Addr,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use doorbell_host::{
    AddressFamily, AnyQueue, Cancel, Controller, ControllerOptions, TransportId, TransportType, Zoned,
};
use doorbell_platform::{Arena, Range};
use doorbell_queue::{Done, IoQueue};
use doorbell_spec::{
    command::{self, Command},
    identify::Csi,
    status::{command_specific, generic},
    zns::{self, ReportHeader, Reporting, SendAction, ZoneDescriptor, ZoneState},
};
use doorbell_subsystem::{Backend, NamespaceConfig, SubsystemConfig, Target, TargetConfig, Zoning};
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
    let subsystem = SubsystemConfig {
        namespaces: vec![NamespaceConfig { backend, block_size: BLOCK }],
        ..SubsystemConfig::new(NQN)
    };
    let mut config = TargetConfig::of(subsystem);
    config.listen.push((Ipv4Addr::LOCALHOST, 0).into());
    config.vfio_user.push(directory.clone());
    let target = Target::start(config).unwrap();
    let over_rings = TransportId {
        trtype: TransportType::VfioUser,
        traddr: directory.display().to_string(),
        ..TransportId::default()
    };
    let over_tcp = TransportId {
        trtype: TransportType::Tcp,
        adrfam: AddressFamily::Ipv4,
        traddr: "127.0.0.1".into(),
        trsvcid: target.addresses()[0].port().to_string(),
        subnqn: NQN.into(),
        ..TransportId::default()
    };
    let mut ways = [Way::open(&over_tcp), Way::open(&over_rings)];
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
    target.stop();
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
        "writable blocks in all: 12288",
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
