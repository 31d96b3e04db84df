//! `doorbell perf --reconnect` and `--timeout` over loopback TCP: targets that die, return, fall silent or lose their sockets.

mod common;

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use common::{BEFORE_THE_DRAIN_ENDS, NQN, Output, Running, Target, start, total, turn};

/// Starts a run that only a signal or a loss ends, and waits until it has measured a while.
fn perf(port: u16, args: &[&str]) -> Running {
    let id = format!("trtype:tcp adrfam:IPv4 traddr:127.0.0.1 trsvcid:{port} subnqn:{NQN}");
    let load = ["perf", "-r", &id, "-q", "8", "-o", "4096", "-w", "randread", "-t", "50"];
    let running = start(&[&load, args].concat());
    running.until_it_says("Launching workers");
    thread::sleep(Duration::from_millis(300));
    running
}

/// Lets it measure a while more, every context of it, then ends it.
fn end(running: Running) -> Output {
    thread::sleep(Duration::from_millis(1000));
    running.signal("-INT");
    running.finish()
}

#[track_caller]
fn assert_came_back(output: &Output) {
    assert_eq!(output.status, Some(0), "{output:#?}");
    assert!(total(&output.stdout).is_some_and(|total| total[0] > 0.0), "{output:#?}");
    assert!(output.stderr.contains("s without I/O on TCP"), "{output:#?}");
    assert!(!output.stderr.contains("to the end of the run") && !output.stderr.contains("Problem"), "{output:#?}");
}

#[test]
fn a_target_killed_and_started_again_is_driven_on() {
    let _turn = turn();
    for more in ["-P 3 -U 1 -c 0x3 --use-every-core", "-E -HI"] {
        let mut target = Target::start(&["--ram", "16M", "--ram", "16M"]);
        let args: Vec<&str> = ["--reconnect", "20"].into_iter().chain(more.split(' ')).collect();
        let running = perf(target.port, &args);
        target.child.kill().unwrap();
        running.until_it_says("bringing it back");
        let _again = Target::start_at(target.port, &["--ram", "16M", "--ram", "16M"]);
        running.until_it_says("I/O goes on");
        let output = end(running);
        assert_came_back(&output);
        assert!(output.stderr.contains("Outages: "), "of several contexts: {output:#?}");
    }
}

#[test]
fn a_target_that_stays_away_ends_the_run_with_what_was_tried() {
    let _turn = turn();
    let mut target = Target::start(&["--ram", "16M"]);
    let running = perf(target.port, &["--reconnect", "3"]);
    target.child.kill().unwrap();
    let output = running.finish();
    assert_eq!((output.status, total(&output.stdout).is_some()), (Some(1), true), "{output:#?}");
    for said in ["3 attempts over", "refused", "without I/O to the end of the run", "errors occurred"] {
        assert!(output.stderr.contains(said), "\"{said}\": {output:#?}");
    }
    assert!(output.took < Duration::from_secs(20), "{output:#?}");
}

#[test]
fn a_target_that_returns_with_another_namespace_is_not_driven_on() {
    let _turn = turn();
    let mut target = Target::start(&["--ram", "16M"]);
    let running = perf(target.port, &["--reconnect", "20"]);
    target.child.kill().unwrap();
    running.until_it_says("bringing it back");
    let _smaller = Target::start_at(target.port, &["--ram", "8M"]);
    let output = running.finish();
    assert_eq!(output.status, Some(1), "{output:#?}");
    assert!(output.stderr.contains("its size has changed from 32768 blocks to 16384"), "{output:#?}");
}

#[test]
fn a_silent_target_is_lost_by_its_keep_alive_and_back_when_it_speaks() {
    let _turn = turn();
    let target = Target::start(&["--ram", "16M"]);
    let running = perf(target.port, &["--reconnect", "20", "-k", "1000"]);
    target.signal("-STOP");
    running.until_it_says("Keep Alive, no answer within");
    target.signal("-CONT");
    running.until_it_says("I/O goes on");
    assert_came_back(&end(running));
}

#[test]
fn ctrl_c_ends_an_outage() {
    let _turn = turn();
    // Nothing listens; what listens says nothing.
    for silent in [false, true] {
        let mut target = Target::start(&["--ram", "16M"]);
        let running = perf(target.port, &["--reconnect", "1000"]);
        target.child.kill().unwrap();
        target.child.wait().unwrap();
        let _listener = silent.then(|| TcpListener::bind(("127.0.0.1", target.port)).unwrap());
        running.until_it_says("bringing it back");
        thread::sleep(Duration::from_millis(300));
        let asked = Instant::now();
        running.signal("-INT");
        let output = running.finish();
        assert!(asked.elapsed() < BEFORE_THE_DRAIN_ENDS, "{output:#?}");
        assert_eq!((output.status, total(&output.stdout).is_some()), (Some(1), true), "{output:#?}");
        assert!(output.stderr.contains("without I/O to the end of the run"), "{output:#?}");
    }
}

/// Stands between host and target, and does to their connections what a broken network would. No real peer is this precise: the
/// connection of the admin queue stays whole while those of I/O queues are cut or swallow what the target says.
struct Relay {
    port: u16,
    /// Connections in the order they were made, the admin queue's first.
    connections: Arc<Mutex<Vec<[TcpStream; 2]>>>,
    mute: Arc<AtomicBool>,
}

impl Relay {
    fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (connections, mute): (Arc<Mutex<Vec<_>>>, _) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let relay =
            Self { port: listener.local_addr().unwrap().port(), connections: connections.clone(), mute: mute.clone() };
        thread::spawn(move || {
            for host in listener.incoming().map_while(Result::ok) {
                let Ok(target) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                let both = || [host.try_clone().unwrap(), target.try_clone().unwrap()];
                let mut connections = connections.lock().unwrap();
                let swallows = if connections.is_empty() { Arc::default() } else { mute.clone() };
                connections.push(both());
                let ([from_host, to_target], [to_host, from_target]) = (both(), both());
                thread::spawn(move || copy(from_host, to_target, &AtomicBool::new(false)));
                thread::spawn(move || copy(from_target, to_host, &swallows));
            }
        });
        relay
    }

    /// Cuts every connection but the first.
    fn cut_io(&self) {
        for ends in &self.connections.lock().unwrap()[1..] {
            ends.iter().for_each(|end| drop(end.shutdown(Shutdown::Both)));
        }
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream, swallows: &AtomicBool) {
    let mut bytes = vec![0; 256 << 10];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        if !swallows.load(Ordering::Relaxed) && to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

#[test]
fn io_connections_that_are_cut_reset_the_controller() {
    let _turn = turn();
    let target = Target::start(&["--ram", "16M"]);
    let relay = Relay::to(target.port);
    let running = perf(relay.port, &["--reconnect", "20", "-P", "2"]);
    relay.cut_io();
    running.until_it_says("I/O goes on");
    assert_came_back(&end(running));
    let connections = relay.connections.lock().unwrap().len();
    assert_eq!(connections, 6, "all three again: the admin queue's too");

    let relay = Relay::to(target.port);
    let running = perf(relay.port, &[]);
    relay.cut_io();
    let output = running.finish();
    assert_eq!(output.status, Some(1), "without the option it ends: {output:#?}");
    assert!(output.stderr.contains("is lost") && !output.stderr.contains("without I/O"), "{output:#?}");
}

#[test]
fn ios_that_are_never_answered_end_the_run_or_reset_the_controller() {
    let _turn = turn();
    let target = Target::start(&["--ram", "16M"]);
    let relay = Relay::to(target.port);
    let running = perf(relay.port, &["--timeout", "300"]);
    relay.mute.store(true, Ordering::Relaxed);
    let output = running.finish();
    assert_eq!(output.status, Some(1), "{output:#?}");
    assert!(output.stderr.contains("longer than --timeout"), "{output:#?}");
    assert!(
        output.stderr.contains("Timed out I/Os: 8 on TCP") && output.stderr.contains(": 8 Aborts sent"),
        "{output:#?}"
    );

    let relay = Relay::to(target.port);
    let running = perf(relay.port, &["--timeout", "300", "--reconnect", "20"]);
    relay.mute.store(true, Ordering::Relaxed);
    running.until_it_says("longer than --timeout");
    relay.mute.store(false, Ordering::Relaxed);
    running.until_it_says("I/O goes on");
    let output = end(running);
    assert_came_back(&output);
    assert!(output.stderr.contains("Timed out I/Os: 8 on TCP"), "{output:#?}");
}
