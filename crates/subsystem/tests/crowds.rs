//! Hosts by the thousand, and hosts that take and never give: what they can make the target hold is bounded. These tests look at the
//! memory and the descriptors of the whole process, so they are apart from the others and take turns.
#![allow(missing_docs, reason = "tests")]

use std::{
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use doorbell_hostile::{HOST, HOST_ID, HostPeer, Misdeed, NQN, PATIENCE, Role, Setup, Step, Way, Wire};
use doorbell_spec::{
    command::{self, SglDescriptor},
    fabrics::{self, CNTLID_DYNAMIC, ConnectData},
    status::Status,
    tcp::IcReq,
};
use doorbell_subsystem::{Backend, Deadlines, NamespaceConfig, SubsystemConfig, Target, TargetConfig, Usage};
use zerocopy::IntoBytes;

const BLOCK: u32 = 512;

fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A target of two reactors and one RAM namespace whose deadline for a stall is so long.
fn start(stall: Duration) -> (Target, SocketAddr) {
    let ram = NamespaceConfig { backend: Backend::Ram { size: 16 << 20 }, block_size: BLOCK };
    let subsystem = SubsystemConfig { namespaces: vec![ram], ..SubsystemConfig::new(NQN) };
    let deadlines = Deadlines { stall, ..Deadlines::default() };
    let cores = doorbell_platform::cpu::allowed().unwrap();
    let cores = Some(vec![cores[0], *cores.last().unwrap()]);
    let config = TargetConfig { deadlines, cores, ..TargetConfig::new(subsystem, "127.0.0.1:0".parse().unwrap()) };
    let target = Target::start(config).unwrap();
    let address = target.addresses()[0];
    (target, address)
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn returns_to(target: &Target, before: Usage) {
    until("the target keeps what hosts have left behind", || target.usage() == before);
}

/// Resident memory of this process in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// An honest host that has been there before the others.
struct Bystander {
    _admin: HostPeer,
    io: HostPeer,
    round: u8,
}

impl Bystander {
    fn new(address: SocketAddr) -> Self {
        let (admin, cntlid) = HostPeer::admin(address, NQN, Setup::default());
        Self { _admin: admin, io: HostPeer::io(address, cntlid, 1, NQN, Setup::default()), round: 0 }
    }

    fn is_served(&mut self) {
        self.round = self.round.wrapping_add(1);
        for way in [Way::InCapsule, Way::Requested] {
            assert_eq!(self.io.write(1, 32000, BLOCK, &[self.round; 4096], way), Status::SUCCESS);
            assert_eq!(self.io.read(1, 32000, BLOCK, 8), [self.round; 4096]);
        }
    }
}

#[test]
fn a_thousand_connections_opened_and_dropped_leave_nothing_behind() {
    let _turn = turn();
    let (target, address) = start(Deadlines::default().stall);
    let mut bystander = Bystander::new(address);
    bystander.is_served();
    let (before, open) = (target.usage(), descriptors());
    let connect = fabrics::connect(0, 31, 0, 0);
    let data = ConnectData::new(HOST_ID, CNTLID_DYNAMIC, NQN, HOST).unwrap();
    for round in 0..1000 {
        let wire = match round % 8 {
            0 => Wire::connect(address).unwrap(),
            1 => {
                let mut wire = Wire::connect(address).unwrap();
                wire.send(&IcReq::new(0, 3, 0).as_bytes()[..100]).unwrap();
                wire
            }
            2 => HostPeer::open(address, Setup::default()).wire,
            3 => {
                let mut host = HostPeer::open(address, Setup::default());
                host.begin(connect, data.as_bytes(), Way::InCapsule).unwrap();
                host.wire
            }
            4 => {
                let mut host = HostPeer::open(address, Setup::default());
                host.begin(connect, data.as_bytes(), Way::Requested).unwrap();
                host.wire
            }
            5 => HostPeer::admin(address, NQN, Setup::default()).0.wire,
            6 => {
                let (mut admin, _) = HostPeer::admin(address, NQN, Setup::default());
                admin.submit(command::async_event_request(), &[]);
                admin.wire
            }
            _ => {
                let (_admin, cntlid) = HostPeer::admin(address, NQN, Setup::default());
                let mut io = HostPeer::io(address, cntlid, 1, NQN, Setup::default());
                io.begin(command::write(1, 0, 128, 0), &[1; 64 << 10], Way::Requested).unwrap();
                io.wire
            }
        };
        if round % 3 == 0 {
            wire.reset()
        } else {
            drop(wire)
        }
        if round % 100 == 0 {
            bystander.is_served();
        }
    }
    returns_to(&target, before);
    assert_eq!(descriptors(), open);
    bystander.is_served();
}

#[test]
fn an_idle_connection_takes_little_memory() {
    const COUNT: u64 = 1000;
    let _turn = turn();
    let (_target, address) = start(Deadlines::default().stall);
    // What the first connections make once for all is not theirs.
    let _first: Vec<_> = (0..50).map(|_| HostPeer::admin(address, NQN, Setup::default())).collect();
    let before = resident();
    let _hosts: Vec<_> = (0..COUNT).map(|_| HostPeer::admin(address, NQN, Setup::default())).collect();
    let each = (resident() - before) / COUNT;
    println!("{each} KiB a connection with an enabled controller, both ends");
    assert!(each <= 24, "{each} KiB a connection");
}

#[test]
fn hosts_that_never_read_take_bounded_memory_and_are_closed() {
    const ENTRIES: u16 = 4096;
    /// Answers that wait (8 MiB each), and what the allocator keeps of a vector that has grown.
    const MOST_EACH: u64 = 24 << 10;
    let _turn = turn();
    let (target, address) = start(Duration::from_secs(2));
    let mut bystander = Bystander::new(address);
    bystander.is_served();
    let (usage, before) = (target.usage(), resident());
    let mut hosts = Vec::new();
    let commands =
        [(command::flush(1), 0), (command::read(1, 0, 1, 0), BLOCK), (command::read(1, 0, 2048, 0), 1 << 20)];
    for (mut command, len, greedy) in
        commands.into_iter().flat_map(|(each, len)| [(each, len, false), (each, len, true)])
    {
        let (admin, cntlid) = HostPeer::admin(address, NQN, Setup::default());
        let mut io = HostPeer::io(address, cntlid, 1, NQN, Setup { sqsize: ENTRIES - 1, ..Setup::default() });
        command.set_sgl(SglDescriptor::transport(len));
        let step = Step::command(command, Vec::new());
        // As many commands as the target takes before it ends the connection, or as the queue has entries.
        if greedy {
            let _ = Misdeed::Flood.perform(&mut io.wire, Role::Host, &step);
        } else {
            io.wire.send(&step.honest(io.wire.framing, Role::Host).repeat(ENTRIES.into())).unwrap();
        }
        bystander.is_served();
        hosts.push((admin, io));
    }
    let (grown, most) = (resident().saturating_sub(before), hosts.len() as u64 * MOST_EACH);
    println!("{grown} KiB for {} hosts that never read", hosts.len());
    assert!(grown < most, "{grown} KiB instead of {most}");
    // They are given up, but for two whose answers may all have found room in the socket.
    until("hosts that never read are not given up", || target.usage().io_queues <= usage.io_queues + 2);
    bystander.is_served();
    drop(hosts);
    returns_to(&target, usage);
}

/// Commands that take many steps come one after the other, not in the way of others.
#[test]
fn a_greedy_host_does_not_keep_others_from_being_served() {
    let _turn = turn();
    let (_target, address) = start(Deadlines::default().stall);
    let mut bystander = Bystander::new(address);
    let (_admin, cntlid) = HostPeer::admin(address, NQN, Setup::default());
    let mut greedy = HostPeer::io(address, cntlid, 1, NQN, Setup { sqsize: 4095, ..Setup::default() });
    let mut clear = command::write_zeroes(1, 0, 32000, 0);
    clear.set_sgl(SglDescriptor::transport(0));
    let cids: Vec<u16> = (0..4000).map(|_| greedy.submit(clear, &[])).collect();
    bystander.is_served();
    greedy.until(|host| host.responses.len() == cids.len()).unwrap();
    assert!(greedy.responses.iter().all(|response| response.status().is_success()));
}
