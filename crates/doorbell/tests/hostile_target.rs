//! `doorbell perf` and `identify` against controllers that change or misbehave under them: what a user sees of it.

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use common::{rows, run, start, total, turn};
use doorbell_hostile::{
    BLOCK, BLOCKS, Framing, Misdeed, Moment, Reply, Step, TargetPeer, identify_controller, identify_namespace,
};
use doorbell_spec::{
    command::{AdminOpcode, Command, IdentifyRequest, LogRequest, NvmOpcode},
    feature::AsyncEvent,
    identify::{Cns, cmic, nmic},
    log::{AnaGroupDescriptor, AnaHeader, AnaState, ChangedNamespaces, Lid},
    status::Status,
    tcp::{IcResp, MAXH2CDATA_MIN, digest},
};
use zerocopy::IntoBytes;

const LOAD: [&str; 6] = ["-q", "4", "-o", "4096", "-w", "randread"];

/// Waits until a peer has seen so many I/Os.
fn until_ios(peer: &TargetPeer, count: usize) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while peer.seen().iter().filter(|(qid, _)| *qid > 0).count() < count {
        assert!(Instant::now() < deadline, "no I/O comes");
        thread::sleep(Duration::from_millis(10));
    }
}

fn is_admin(qid: u16, command: &Command, opcode: AdminOpcode) -> bool {
    qid == 0 && !command.is_fabrics() && command.opc == opcode.0
}

/// An honest controller, which says that namespace 1 has changed whenever it is asked.
fn changing() -> TargetPeer {
    TargetPeer::start(|connection, moment| match moment {
        Moment::Command(command, _)
            if is_admin(connection.qid, command, AdminOpcode::GET_LOG_PAGE)
                && LogRequest::parse(command).lid == Lid::CHANGED_NAMESPACES =>
        {
            Reply::Data(ChangedNamespaces::collect([1]).as_bytes().to_vec())
        }
        _ => Reply::Model,
    })
}

#[test]
fn the_result_has_the_digests_that_were_granted_not_those_that_were_asked_for() {
    let _turn = turn();
    let peer = TargetPeer::start(|connection, moment| match moment {
        Moment::Initialize(icreq) => {
            let granted = icreq.digest & digest::HDGST;
            connection.wire.send(IcResp::new(0, granted, MAXH2CDATA_MIN).as_bytes()).expect("the host is there");
            connection.wire.framing = Framing::new(granted, icreq.hpda);
            Reply::Done
        }
        _ => Reply::Model,
    });
    for (asked, header) in [("-HI", true), ("-I", false), ("-H", true)] {
        let output = run(&[&["perf", "-r", &peer.id(), "-t", "1", "--json", "-", asked], &LOAD[..]].concat());
        assert_eq!(output.status, Some(0), "{output:#?}");
        let path = serde_json::from_str::<serde_json::Value>(&output.stdout).unwrap()["paths"][0].clone();
        assert_eq!((&path["header_digest"], &path["data_digest"]), (&header.into(), &false.into()), "{asked}");
    }
}

#[test]
fn a_namespace_that_shrinks_during_a_run_fails_what_lies_beyond_and_is_told() {
    let _turn = turn();
    let peer = changing();
    let perf = start(&[&["perf", "-r", &peer.id(), "-t", "2", "-Q", "1000"], &LOAD[..]].concat());
    until_ios(&peer, 100);
    peer.resize(BLOCKS / 2);
    peer.report(AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED.to_dword());
    let output = perf.finish();
    assert_eq!(output.status, Some(1), "{output:#?}");
    assert!(total(&output.stdout).is_some_and(|total| total[0] > 0.0), "{output:#?}");
    for said in ["LBA Out of Range", "NSID 1: 1024 blocks of 512 bytes (before: 2048)"] {
        assert!(output.stderr.contains(said), "{said}: {output:#?}");
    }
    assert!(output.took < Duration::from_secs(20), "{output:#?}");
}

#[test]
fn a_namespace_that_vanishes_ends_the_run_with_what_there_is_or_is_told_where_errors_are_endured() {
    let _turn = turn();
    for endures in [false, true] {
        let peer = changing();
        let extra: &[&str] = if endures { &["-t", "2", "-Q", "100000"] } else { &["-t", "60"] };
        let perf = start(&[&["perf", "-r", &peer.id()], extra, &LOAD[..]].concat());
        until_ios(&peer, 100);
        peer.resize(0);
        peer.report(AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED.to_dword());
        let output = perf.finish();
        assert_eq!(output.status, Some(1), "{output:#?}");
        assert!(total(&output.stdout).is_some_and(|total| total[0] > 0.0), "{output:#?}");
        assert!(output.stderr.contains("Invalid Namespace"), "{output:#?}");
        assert!(!endures || output.stderr.contains("namespace 1 is gone"), "{output:#?}");
        assert!(output.took < Duration::from_secs(20), "{output:#?}");
    }
}

#[test]
fn a_wrong_data_digest_fails_its_io_and_the_run_goes_on() {
    let _turn = turn();
    let spoiled = AtomicBool::new(false);
    let peer = TargetPeer::start(move |connection, moment| match moment {
        Moment::Command(command, _)
            if connection.qid > 0
                && command.opc == NvmOpcode::READ.0
                && connection.commands > 50
                && !spoiled.swap(true, Ordering::Relaxed) =>
        {
            let data = vec![0; (command.block_count() * BLOCK) as usize];
            let reply = connection.misdeed(Misdeed::DataDigest, &Step::command(*command, data));
            let _ = connection.answer(command.cid.get(), Status::SUCCESS, 0);
            reply
        }
        _ => Reply::Model,
    });
    let output = run(&[&["perf", "-r", &peer.id(), "-t", "1", "-HI"], &LOAD[..]].concat());
    assert_eq!(output.status, Some(1), "{output:#?}");
    assert!(total(&output.stdout).is_some_and(|total| total[0] > 0.0), "{output:#?}");
    assert_eq!(output.stderr.matches("failed: Transient Transport Error").count(), 1, "{output:#?}");
    let ios = peer.seen().iter().filter(|(qid, command)| *qid > 0 && command.opc == NvmOpcode::READ.0).count();
    assert!(ios > 60, "{ios} I/Os: it went on behind the fifty-first");
}

/// Longest time, in seconds, that a path takes to change its state.
const ANATT: u8 = 2;

/// A path to the one namespace that all such paths share, in an ANA group whose state the test sets. In a state that refuses I/O, an
/// I/O costs its connection.
fn path(state: &Arc<AtomicU8>) -> TargetPeer {
    let state = state.clone();
    TargetPeer::start(move |connection, moment| {
        let Moment::Command(command, _) = moment else { return Reply::Model };
        let identify = IdentifyRequest::parse(command).cns;
        let identifies = is_admin(connection.qid, command, AdminOpcode::IDENTIFY);
        let logs = is_admin(connection.qid, command, AdminOpcode::GET_LOG_PAGE);
        match command {
            _ if identifies && identify == Cns::CONTROLLER => {
                let mut data = identify_controller(connection.discovery);
                data.cmic = cmic::ANA | cmic::MULTI_CONTROLLER | cmic::MULTI_PORT;
                (data.nanagrpid, data.anagrpmax, data.anatt) = (1.into(), 1.into(), ANATT);
                data.oaes = (1 << 11).into();
                Reply::Data(data.as_bytes().to_vec())
            }
            _ if identifies && identify == Cns::NAMESPACE => {
                let mut data = identify_namespace(BLOCKS);
                (data.nguid, data.anagrpid, data.nmic) = ([0xab; 16], 1.into(), nmic::SHARED);
                Reply::Data(data.as_bytes().to_vec())
            }
            _ if logs && LogRequest::parse(command).lid == Lid::ANA => {
                let header = AnaHeader { ngrps: 1.into(), ..AnaHeader::default() };
                let anas = state.load(Ordering::Relaxed);
                let group = AnaGroupDescriptor { agid: 1.into(), nnsids: 1.into(), anas, ..Default::default() };
                Reply::Data([header.as_bytes(), group.as_bytes(), &1u32.to_le_bytes()].concat())
            }
            _ if connection.qid > 0 && AnaState(state.load(Ordering::Relaxed)).refuses_io() => Reply::Close,
            _ => Reply::Model,
        }
    })
}

#[test]
fn a_path_that_comes_back_in_a_state_without_io_is_not_driven_on() {
    let _turn = turn();
    let state = Arc::new(AtomicU8::new(AnaState::OPTIMIZED.0));
    let peer = path(&state);
    let perf = start(&[&["perf", "-r", &peer.id(), "-t", "50", "--reconnect", "5"], &LOAD[..]].concat());
    until_ios(&peer, 100);
    state.store(AnaState::INACCESSIBLE.0, Ordering::Relaxed);
    let output = perf.finish();
    assert_eq!((output.status, total(&output.stdout).is_some()), (Some(1), true), "{output:#?}");
    for said in [
        "it is back after",
        "NSID 1: ANA Inaccessible\n",
        "cannot go on: I/O is refused over this path, whose state is ANA Inaccessible: use another path to it",
    ] {
        assert!(output.stderr.contains(said), "{said}: {output:#?}");
    }
    assert!(output.took < Duration::from_secs(20), "{output:#?}");
}

#[test]
fn a_path_that_changes_its_state_is_waited_for_before_a_run_and_when_it_comes_back() {
    let _turn = turn();
    let state = Arc::new(AtomicU8::new(AnaState::CHANGE.0));
    let peer = path(&state);
    let alone = run(&[&["perf", "-r", &peer.id(), "-t", "1"], &LOAD[..]].concat());
    let skipped = "whose state is ANA Change: wait until it has changed";
    assert!(alone.status == Some(1) && alone.stdout.contains(skipped), "{alone:#?}");
    assert!(alone.took >= Duration::from_secs(ANATT.into()), "{alone:#?}");

    let perf = start(&[&["perf", "-r", &peer.id(), "-t", "3", "--reconnect", "5"], &LOAD[..]].concat());
    let becomes = |next: AnaState| {
        state.store(next.0, Ordering::Relaxed);
        peer.report(AsyncEvent::ANA_CHANGE.to_dword());
    };
    perf.until_it_says("Attached to");
    becomes(AnaState::OPTIMIZED);
    until_ios(&peer, 100);
    // Without a word: the next I/O costs the connection, and the path comes back while it changes.
    state.store(AnaState::CHANGE.0, Ordering::Relaxed);
    perf.until_it_says("it is back after");
    let before = peer.seen().len();
    becomes(AnaState::OPTIMIZED);
    until_ios(&peer, before + 100);
    let output = perf.finish();
    assert_eq!(output.status, Some(0), "{output:#?}");
    assert!(total(&output.stdout).is_some_and(|total| total[0] > 0.0), "{output:#?}");
}

#[test]
fn several_paths_to_a_namespace_and_their_states_are_told_before_and_during_a_run() {
    let _turn = turn();
    let states = [AnaState::OPTIMIZED, AnaState::NON_OPTIMIZED, AnaState::INACCESSIBLE];
    let states = states.map(|state| Arc::new(AtomicU8::new(state.0)));
    let paths = states.each_ref().map(path);
    let ids = paths.each_ref().map(TargetPeer::id);
    let perf = start(&[&["perf", "-r", &ids[0], "-r", &ids[1], "-r", &ids[2], "-t", "2"], &LOAD[..]].concat());
    until_ios(&paths[0], 100);
    states[0].store(AnaState::NON_OPTIMIZED.0, Ordering::Relaxed);
    paths[0].report(AsyncEvent::ANA_CHANGE.to_dword());
    let output = perf.finish();
    assert_eq!(output.status, Some(0), "the other paths were good: {output:#?}");
    assert_eq!(rows(&output.stdout).len(), 2, "{output:#?}");
    let told = format!("These are 3 paths to one namespace (NGUID {})", "ab".repeat(16));
    assert_eq!(output.stderr.matches(&told).count(), 1, "{output:#?}");
    for (path, state) in paths.iter().zip(["ANA Optimized", "ANA Non-Optimized", "ANA Inaccessible"]) {
        let line = format!("NSID 1, port {}, controller 1: {state}\n", path.address().port());
        assert!(output.stderr.contains(&line), "{line}: {output:#?}");
    }
    let skipped = "I/O is refused over this path, whose state is ANA Inaccessible";
    assert!(output.stdout.contains(skipped), "{output:#?}");
    assert!(output.stderr.contains("NSID 1: ANA Non-Optimized\n"), "the change during the run: {output:#?}");
    assert_eq!(paths[2].seen().iter().filter(|(qid, _)| *qid > 0).count(), 0, "nothing was sent over that path");

    let alone = run(&[&["perf", "-r", &ids[2], "-t", "1"], &LOAD[..]].concat());
    assert!(alone.status != Some(0) && alone.stdout.contains(skipped), "{alone:#?}");

    let identified = run(&["identify", "-r", &ids[1]]);
    assert_eq!(identified.status, Some(0), "{identified:#?}");
    let lines: Vec<String> =
        identified.stdout.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for line in [
        "several ports: true",
        "several controllers: true",
        "groups: 1",
        &format!("longest change s: {ANATT}"),
        "shared: true",
        "ana group: 1",
        "ana state: ANA Non-Optimized",
    ] {
        assert!(lines.iter().any(|found| found == line), "{line}: {identified:#?}");
    }
}
