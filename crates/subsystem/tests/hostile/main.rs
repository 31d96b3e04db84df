//! A target that hostile hosts cannot hang, crash or corrupt, and that goes on serving honest ones meanwhile.
#![allow(missing_docs, reason = "tests")]

mod connects;
mod streams;
mod transfers;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use doorbell_hostile::{HostPeer, NQN, PATIENCE, Setup, Way};
use doorbell_spec::status::Status;
use doorbell_subsystem::{Backend, Deadlines, NamespaceConfig, SubsystemConfig, Target, TargetConfig, Usage};

/// Bytes of a block of namespace 1.
const BLOCK: u32 = 512;

fn config() -> TargetConfig {
    let ram = NamespaceConfig { backend: Backend::Ram { size: 16 << 20 }, block_size: BLOCK };
    let subsystem = SubsystemConfig { namespaces: vec![ram], ..SubsystemConfig::new(NQN) };
    TargetConfig::new(subsystem, "127.0.0.1:0".parse().unwrap())
}

/// A target whose deadlines are short enough to be waited for, and long enough for an honest host on a busy machine.
fn hasty() -> TargetConfig {
    let second = Duration::from_secs(1);
    TargetConfig { deadlines: Deadlines { connect: 2 * second, stall: second, linger: second / 4 }, ..config() }
}

fn start(config: TargetConfig) -> (Target, SocketAddr) {
    let target = Target::start(config).unwrap();
    let address = target.addresses()[0];
    (target, address)
}

/// Bytes that tell where they belong.
fn pattern(seed: u32, len: usize) -> Vec<u8> {
    (0..len as u32).map(|at| (at.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 13) as u8).collect()
}

/// An honest host comes, writes and reads at the end of the namespace, and goes.
fn serves_an_honest_host(address: SocketAddr) {
    let (_admin, cntlid) = HostPeer::admin(address, NQN, Setup::default());
    let mut io = HostPeer::io(address, cntlid, 1, NQN, Setup::default());
    for (way, len) in [(Way::InCapsule, 4096), (Way::Requested, 64 << 10)] {
        let bytes = pattern(cntlid.into(), len);
        assert_eq!(io.write(1, 32000, BLOCK, &bytes, way), Status::SUCCESS);
        assert!(io.read(1, 32000, BLOCK, len as u32 / BLOCK) == bytes);
    }
}

/// Waits until the target has nothing but what it had before.
fn returns_to(target: &Target, before: Usage) {
    let deadline = Instant::now() + PATIENCE;
    while target.usage() != before {
        assert!(Instant::now() < deadline, "{:?} instead of {before:?}", target.usage());
        std::thread::sleep(Duration::from_millis(5));
    }
}
