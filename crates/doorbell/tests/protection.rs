//! Protected namespaces from end to end: `doorbell perf` writes and reads them on targets over TCP and vfio-user, with protection
//! information made and looked at by it or by the target, and names a block that is wrong.

mod common;

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use common::{Output, run, turn};
use doorbell_host::{AddressFamily, Cancel, Controller, ControllerOptions, TransportId, TransportType};
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
        self.target.take().unwrap().stop();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn format(kind: u8, guard: Guard, size: u16, first: bool) -> Option<Format> {
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
        (512, 8, format(1, Guard::Crc16, 8, false)),
        (4096, 64, format(2, Guard::Crc16, 64, true)),
        (512, 16, format(3, Guard::Crc32c, 16, false)),
        (4096, 16, format(1, Guard::Crc64, 16, false)),
        (512, 64, format(2, Guard::Crc64, 64, false)),
        (512, 8, None),
    ];
    for extended in [true, false] {
        let peer = Peer::start(&format!("pi-{extended}"), extended, &formats);
        for id in peer.ids() {
            for (pattern, control) in [
                ("-w randwrite", "-e PRACT=0,PRCHK=GUARD|REFTAG|APPTAG"),
                ("-w randrw -M 50", "-e PRACT=0,PRCHK=GUARD|REFTAG|APPTAG"),
                // Larger than what was written, and cut at what a command transfers at most.
                ("-w randread", "-e PRACT=1,PRCHK=GUARD|REFTAG|APPTAG"),
                ("-w randrw -M 50", "-e PRACT=1,PRCHK=GUARD|REFTAG"),
                ("-w randread", ""),
            ] {
                for size in [4096, 1 << 20] {
                    let ios = if size == 4096 { 300 } else { 8 };
                    let said = perf(&id, &format!("-q 8 -o {size} -d {ios} {pattern} {control} --overwrite all"));
                    assert_eq!(said.status, Some(0), "{id} {size} {pattern} {control}: {}{}", said.stdout, said.stderr);
                }
            }
        }
    }
}
