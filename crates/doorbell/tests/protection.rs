//! Protected namespaces from end to end: `doorbell perf` writes and reads them on targets over TCP and vfio-user, with protection
//! information made and looked at by it or by the target, and names a block that is wrong.

mod common;

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use common::{Output, run, turn};
use doorbell_host::{Cancel, Controller, ControllerOptions, TransportId};
use doorbell_platform::{Arena, Range};
use doorbell_queue::{Done, IoQueue, Op};
use doorbell_spec::{
    command::NvmOpcode,
    protection::{Format, Guard},
};
use doorbell_subsystem::{Backend, Metadata, NamespaceConfig, SubsystemConfig, Target, TargetConfig};

const NQN: &str = "nqn.2016-06.io.doorbell:protected";

/// A target in this process, with a directory for hosts over vfio-user.
struct Peer {
    target: Option<Target>,
    directory: std::path::PathBuf,
    port: Option<u16>,
}

impl Peer {
    fn start(name: &str, extended: bool, formats: &[(u32, u16, Option<Format>)]) -> Self {
        let namespace = |&(block_size, size, protection): &(u32, u16, Option<Format>)| {
            let metadata = Metadata { size, extended, protection };
            NamespaceConfig { backend: Backend::Formatted { size: 4 << 20, metadata }, block_size }
        };
        let namespaces = formats.iter().map(namespace).collect();
        let mut config = TargetConfig::of(SubsystemConfig { namespaces, ..SubsystemConfig::new(NQN) });
        if extended {
            config.listen.push("127.0.0.1:0".parse().unwrap());
        }
        let directory = std::env::temp_dir().join(format!("doorbell-{name}-{}", std::process::id()));
        config.vfio_user.push(directory.clone());
        let target = Target::start(config).unwrap();
        let port = target.addresses().first().map(|address| address.port());
        Self { target: Some(target), directory, port }
    }

    fn ids(&self) -> Vec<String> {
        let tcp = self.port.map(|port| format!("trtype:TCP adrfam:IPv4 traddr:127.0.0.1 trsvcid:{port} subnqn:{NQN}"));
        let near = format!("trtype:VFIOUSER traddr:{}", self.directory.display());
        tcp.into_iter().chain([near]).collect()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.target.take().unwrap().stop().unwrap();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn protection(kind: u8, guard: Guard, size: u16, first: bool) -> Option<Format> {
    let storage_bits = if guard == Guard::Crc32c { 16 } else { 0 };
    Some(Format::new(kind, guard, storage_bits, size, first).unwrap())
}

fn perf(id: &str, words: &str) -> Output {
    let mut args: Vec<&str> = words.split_whitespace().collect();
    args.splice(0..0, ["perf", "-r", id, "-t", "20", "--seed", "7"]);
    run(&args)
}

#[test]
fn every_type_guard_and_place_is_written_and_read_back() {
    let _turn = turn();
    let formats = [
        (512, 8, protection(1, Guard::Crc16, 8, false)),
        (4096, 64, protection(2, Guard::Crc16, 64, true)),
        (512, 16, protection(3, Guard::Crc32c, 16, false)),
        (4096, 16, protection(1, Guard::Crc64, 16, false)),
        (512, 64, protection(2, Guard::Crc64, 64, false)),
        (512, 8, None),
    ];
    for extended in [true, false] {
        let peer = Peer::start(&format!("pi-{extended}"), extended, &formats);
        for id in peer.ids() {
            let all = "PRCHK=GUARD|REFTAG|APPTAG";
            for (size, ios, pattern, control) in [
                (4096, 200, "-w randwrite", format!("-e PRACT=0,{all}")),
                // Larger than what a command transfers.
                (1 << 20, 8, "-w randrw -M 50", format!("-e PRACT=0,{all}")),
                (4096, 200, "-w randrw -M 50", format!("-e PRACT=1,{all}")),
                (4096, 200, "-w randread", String::new()),
            ] {
                let said = perf(&id, &format!("-q 8 -o {size} -d {ios} {pattern} {control}"));
                assert_eq!(said.status, Some(0), "{id} {size} {pattern} {control}: {}{}", said.stdout, said.stderr);
            }
        }
    }
}

#[test]
fn a_wrong_block_is_named_and_fails_the_run() {
    let _turn = turn();
    let peer = Peer::start("pi-wrong", true, &[(512, 8, protection(1, Guard::Crc16, 8, false))]);
    let ids = peer.ids();
    let options = "-q 4 -o 4096 -d 1024 -e PRCHK=GUARD|REFTAG";
    assert_eq!(perf(&ids[0], &format!("-w write {options}")).status, Some(0));
    assert_eq!(perf(&ids[0], &format!("-w read {options}")).status, Some(0));
    // A host that asks for no check writes what is wrong.
    let id: TransportId = ids[0].parse().unwrap();
    let controller = Controller::connect(&id, &ControllerOptions::default(), &Cancel::new()).unwrap();
    let mut queue = controller.connect_io_queue(4).unwrap();
    let arena = Arc::new(Arena::new(4096).unwrap());
    arena.region().fill(0, 520, 0x5a);
    queue.attach(&arena).unwrap();
    queue.prepare(0, &[Range { offset: 0, len: 520 }]).unwrap();
    let op = Op { opcode: NvmOpcode::WRITE.0, nsid: 1, slba: 77, blocks: 1, ..Op::default() };
    assert_eq!(queue.submit(&[op]), 1);
    let (mut done, deadline) = ([Done::default()], Instant::now() + Duration::from_secs(20));
    loop {
        queue.commit().unwrap();
        if queue.reap(&mut done).unwrap() == 1 {
            break assert!(done[0].status.is_success(), "{}", done[0].status);
        }
        assert!(Instant::now() < deadline, "the write is not answered");
        thread::yield_now();
    }
    for id in ids {
        for action in ["PRACT=0", "PRACT=1"] {
            let said = perf(&id, &format!("-w read -q 4 -o 4096 -d 1024 -Q 1 -e {action},PRCHK=GUARD --json -"));
            assert_eq!(said.stderr.matches("at LBA 72 failed").count(), 1, "{}", said.stderr);
            assert!(said.stderr.contains("End-to-end Guard Check Error (sct 2h, sc 82h)"), "{}", said.stderr);
            // It is named by a second look.
            assert!(said.stderr.contains("core 0: the guard of the block at LBA 77 is 5a5ah, not "), "{}", said.stderr);
            assert!(said.stdout.contains("the guard of the block at LBA 77 is 5a5ah, not "), "{}", said.stdout);
        }
        // Without the check of the guard nothing is wrong with it but its reference tag.
        let said = perf(&id, "-w read -q 4 -o 4096 -d 1024 -e PRCHK=REFTAG");
        assert!(said.status == Some(1) && said.stderr.contains("Reference Tag Check Error"), "{}", said.stderr);
        assert!(
            said.stderr.contains("the reference tag of the block at LBA 77 is 5a5a5a5ah, not 4dh"),
            "{}",
            said.stderr
        );
        assert_eq!(perf(&id, "-w read -q 4 -o 4096 -d 1024").status, Some(0));
    }
}
