//! `-Z` and `--zerocopy-threshold` where data does leave the machine, as far as the kernel can tell: host and target in network
//! namespaces of their own, joined by a pair of virtual interfaces. Needs root, unshare, nsenter and ip, so `./test` asks for it.

mod common;

use std::{
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use common::{DOORBELL, Output, Running, start_as, total, turn};

const TARGET: &str = "10.9.0.2";

/// Two network namespaces, gone when dropped.
struct Network {
    host: Child,
    target: Child,
}

impl Network {
    fn new() -> Self {
        let holder = || Command::new("unshare").args(["-n", "sleep", "300"]).spawn().unwrap();
        let network = Self { host: holder(), target: holder() };
        // Until both are in namespaces of their own.
        let ours = std::fs::read_link("/proc/self/ns/net").unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        for holder in [&network.host, &network.target] {
            while std::fs::read_link(format!("/proc/{}/ns/net", holder.id())).unwrap() == ours {
                assert!(Instant::now() < deadline, "unshare does not come to it");
                thread::sleep(Duration::from_millis(5));
            }
        }
        let other = network.target.id().to_string();
        network.ip(&network.host, &format!("link add v0 type veth peer name v1 netns {other}"));
        for (holder, link, address) in [(&network.host, "v0", "10.9.0.1"), (&network.target, "v1", TARGET)] {
            network.ip(holder, &format!("addr add {address}/24 dev {link}"));
            network.ip(holder, &format!("link set {link} up"));
            network.ip(holder, "link set lo up");
        }
        network
    }

    fn ip(&self, holder: &Child, words: &str) {
        let done = Self::within(holder, "ip").args(words.split(' ')).status().unwrap();
        assert!(done.success(), "ip {words}");
    }

    fn within(holder: &Child, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-n", "-t", &holder.id().to_string(), program]);
        command
    }

    fn target(&self, more: &str) -> Running {
        let listen = format!("{TARGET}:4420");
        let mut command = Self::within(&self.target, DOORBELL);
        command.args(["target", "--ram", "32M", "--listen", &listen]).args(more.split_whitespace());
        let running = start_as(&mut command);
        running.until_it_says("Listening on");
        running
    }

    fn perf(&self, words: &str) -> Running {
        let id = format!("trtype:TCP traddr:{TARGET} trsvcid:4420 subnqn:nqn.2026-11.io.doorbell:target");
        start_as(Self::within(&self.host, DOORBELL).args(["perf", "-r", &id]).args(words.split(' ')))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for holder in [&mut self.host, &mut self.target] {
            let _ = holder.kill();
            let _ = holder.wait();
        }
    }
}

/// Zero-copy sends that were counted; a pair of virtual interfaces has all of them copied.
fn copied(text: &str) -> Vec<u64> {
    let lines = text.lines().filter_map(|line| line.split_once(" zero-copy sends the system copied "));
    let number = |text: &str| text.split_whitespace().last().unwrap().parse().unwrap();
    lines
        .map(|(calls, copied)| (number(calls), copied.split_whitespace().next().unwrap().parse().unwrap()))
        .map(|(calls, copied): (u64, u64)| {
            assert_eq!(calls, copied, "{text}");
            calls
        })
        .collect()
}

fn good(output: &Output) -> f64 {
    assert_eq!(output.status, Some(0), "{output:#?}");
    assert!(!output.stderr.contains("Problem"), "{output:#?}");
    total(&output.stdout).unwrap()[0]
}

#[test]
#[ignore = "needs namespaces of its own: root, unshare, nsenter and ip"]
fn data_is_sent_without_a_copy_from_the_threshold_on_and_arrives_intact() {
    let _turn = turn();
    let network = Network::new();
    let target = network.target("--zerocopy-threshold 16K");
    let threshold = "--zerocopy-threshold 16k --zerocopy-threshold-sock-impl posix";
    let run = |words: &str| {
        // Digests show that what was sent is what had been there; a block takes an R2T where it is large.
        let output = network.perf(&format!("-q 8 -w rw -M 50 -t 1 -H -I -E {words}")).finish();
        assert!(good(&output) > 0.0);
        copied(&output.stderr).into_iter().sum::<u64>()
    };
    assert!(run(&format!("-o 65536 -Z posix {threshold}")) > 0);
    assert_eq!(run(&format!("-o 8192 -Z posix {threshold}")), 0, "below the threshold");
    assert_eq!(run("-o 65536"), 0, "not asked for");
    assert_eq!(run(&format!("-o 65536 -Z posix -z posix {threshold}")), 0, "taken back");
    assert!(run("-o 4096 -Z posix -P 2") > 0, "without a threshold");
    target.signal("-INT");
    let output = target.finish();
    assert_eq!(output.status, Some(0), "{output:#?}");
    // One line for each run with large reads; a look at what is there before a run that writes takes 2 MiB.
    const LOOK: u64 = (2 << 20) / (64 << 10);
    assert_eq!(copied(&output.stderr).iter().filter(|&&calls| calls > LOOK).count(), 3, "{output:#?}");
}

#[test]
#[ignore = "needs namespaces of its own: root, unshare, nsenter and ip"]
fn who_stops_taking_data_leaves_no_memory_behind() {
    let _turn = turn();
    let network = Network::new();
    let target = network.target("--zerocopy-threshold 4K");
    // A host that reads no more, with the target's frames on their way, and is gone then.
    for _ in 0..3 {
        let reads = network.perf("-q 64 -o 131072 -w read -t 50");
        reads.until_it_says("Launching workers");
        thread::sleep(Duration::from_millis(200));
        reads.signal("-STOP");
        thread::sleep(Duration::from_millis(200));
        reads.signal("-KILL");
        reads.finish();
    }
    assert!(good(&network.perf("-q 64 -o 131072 -w rw -M 50 -t 1 -E").finish()) > 0.0);
    // A target that takes no more, with the host's buffers on their way, until the host gives the queue up.
    let writes = network.perf("-q 64 -o 131072 -w write -t 2 -Z posix --timeout 300");
    writes.until_it_says("Launching workers");
    thread::sleep(Duration::from_millis(200));
    target.signal("-STOP");
    let output = writes.finish();
    target.signal("-CONT");
    assert_eq!(output.status, Some(1), "{output:#?}");
    assert!(copied(&output.stderr).iter().sum::<u64>() > 0 && !output.stderr.contains("may still"), "{output:#?}");
    assert!(good(&network.perf("-q 8 -o 4096 -w rw -M 50 -t 1 -E").finish()) > 0.0);
    target.signal("-INT");
    let output = target.finish();
    assert_eq!(output.status, Some(0), "{output:#?}");
    assert!(!output.stderr.contains("not used again"), "{output:#?}");
}

#[test]
#[ignore = "needs namespaces of its own: root, unshare, nsenter and ip"]
fn what_a_limit_of_the_system_refuses_is_copied() {
    let _turn = turn();
    let network = Network::new();
    // Too little for the note that the kernel makes of one call. Before Linux 6.7 a namespace has no such limit of its own.
    let limit = "echo 64 > /proc/sys/net/core/optmem_max";
    if !Network::within(&network.host, "sh").args(["-c", limit]).status().unwrap().success() {
        return eprintln!("skipped: namespaces have no net.core.optmem_max of their own here");
    }
    let target = network.target("");
    let output = network.perf("-q 8 -o 65536 -w rw -M 50 -t 1 -H -I -E -Z posix").finish();
    target.signal("-INT");
    target.finish();
    assert!(good(&output) > 0.0);
    let said = "of 0 zero-copy sends the system copied 0 all the same, and it refused ";
    let refused = output.stderr.split_once(said).and_then(|(_, rest)| rest.split(' ').next()?.parse::<u64>().ok());
    assert!(refused.is_some_and(|count| count > 0), "{output:#?}");
}
