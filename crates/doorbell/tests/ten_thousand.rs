//! Ten thousand connections with a target at once. A test of its own, as it takes as many descriptors as a process may have.
#![allow(missing_docs, reason = "tests")]

mod common;

use std::{
    fs,
    net::SocketAddr,
    time::{Duration, Instant},
};

use common::{NQN, Target};
use doorbell_hostile::{HostPeer, PATIENCE, Setup, Way};
use doorbell_platform::open_files;
use doorbell_spec::{command, status::Status};

const WANTED: u64 = 10_000;
/// Descriptors that this process and the target need for other things.
const OTHERS: u64 = 64;
/// Resident memory of the target for a connection with a controller, in KiB.
const MOST_EACH: u64 = 32;

/// A number from a line of the target's /proc status.
fn status(pid: u32, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_start_matches(':').split_whitespace().next().unwrap().parse().unwrap()
}

fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

#[test]
fn ten_thousand_connections_are_open_and_an_honest_host_is_served() {
    let limit = open_files::raise_limit().unwrap_or(u64::MAX);
    let count = WANTED.min(limit.saturating_sub(OTHERS));
    if count < WANTED {
        println!("only {count} connections instead of {WANTED}: the hard limit of open files is {limit}");
    }
    let target = Target::start(&["--ram", "16M"]);
    let (pid, address) = (target.child.id(), SocketAddr::new([127, 0, 0, 1].into(), target.port));
    let (mut admin, cntlid) = HostPeer::admin(address, NQN, Setup::default());
    let mut io = HostPeer::io(address, cntlid, 1, NQN, Setup::default());
    let mut is_served = |round: u64| {
        let bytes = [round as u8 + 1; 4096];
        for way in [Way::InCapsule, Way::Requested] {
            assert_eq!(io.write(1, round * 8, 512, &bytes, way), Status::SUCCESS);
            assert_eq!(io.read(1, round * 8, 512, 8), bytes);
        }
        admin.none(command::keep_alive());
    };
    is_served(0);
    let (open, resident) = (descriptors(pid), status(pid, "VmRSS"));
    let mut hosts = Vec::new();
    for round in 1..=10 {
        hosts.extend((0..count / 10).map(|_| HostPeer::admin(address, NQN, Setup::default()).0));
        is_served(round);
    }
    let each = status(pid, "VmRSS").saturating_sub(resident) / hosts.len() as u64;
    println!("{} connections, {each} KiB each", hosts.len());
    assert!(each <= MOST_EACH, "{each} KiB a connection");
    assert!(descriptors(pid) - open >= hosts.len());
    // All of them are alive, and go at once.
    for host in hosts.iter_mut().step_by(97) {
        host.none(command::keep_alive());
    }
    drop(hosts);
    let deadline = Instant::now() + PATIENCE;
    while descriptors(pid) > open {
        assert!(Instant::now() < deadline, "{} descriptors instead of {open}", descriptors(pid));
        std::thread::sleep(Duration::from_millis(10));
    }
    is_served(11);
}
