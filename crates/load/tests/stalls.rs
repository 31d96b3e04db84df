//! Whole runs over real sockets against a controller that stops answering: they end by their deadlines.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use doorbell_host::{Cancel, Controller, ControllerOptions, HostIdentity};
use doorbell_hostile::{Moment, Reply, TargetPeer};
use doorbell_load::{Event, Limit, PollMode, RunOptions, StopFlag, Target, run};
use doorbell_platform::cpu;
use doorbell_result::RunResult;

fn options() -> RunOptions {
    RunOptions {
        io_depth: 4,
        time: Duration::from_millis(300),
        cores: vec![cpu::allowed().unwrap()[0]],
        io_queue_size: Some(128),
        poll_mode: PollMode::Interrupt,
        histogram: false,
        drain: Duration::from_millis(300),
        connect: Duration::from_secs(20),
        ..RunOptions::default()
    }
}

fn run_on(peer: &TargetPeer, options: &RunOptions) -> (RunResult, Vec<String>) {
    let wait = Duration::from_secs(2);
    let host = HostIdentity { nqn: "nqn.2016-06.org.example:host".into(), id: [7; 16] };
    let brief =
        ControllerOptions { host, connect_timeout: wait, shutdown_timeout: wait, ..ControllerOptions::default() };
    let controller = Controller::connect(&peer.id().parse().unwrap(), &brief, &Cancel::new()).unwrap();
    let namespace = controller.namespaces().remove(0);
    let events = Mutex::new(Vec::new());
    let observer = |event: Event<'_>| events.lock().unwrap().push(format!("{event:?}"));
    let target = Target { controller: controller.clone(), namespace };
    let result = run(Vec::new(), vec![target], options, None, &StopFlag::default(), &observer);
    controller.detach();
    (result, events.into_inner().unwrap())
}

/// A controller that stalls the I/O queue once it has carried so many commands, Connect being the first.
fn stalls_at(commands: usize) -> TargetPeer {
    TargetPeer::start(move |connection, moment| match moment {
        Moment::Command(command, _) if connection.commands >= commands => {
            let is_io = connection.number > 0 && (connection.qid > 0 || command.is_fabrics());
            if is_io { Reply::Stall } else { Reply::Model }
        }
        _ => Reply::Model,
    })
}

#[test]
fn ios_that_are_never_answered_are_given_up_when_the_drain_is_over() {
    for options in [options(), RunOptions { number_ios: Some(Limit::Count(1000)), ..options() }] {
        let start = Instant::now();
        let (result, _) = run_on(&stalls_at(50), &options);
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
        let account = &result.contexts[0].account;
        assert_eq!((account.measured, account.abandoned, account.missing()), (49, 4, 0), "{account:?}");
        assert!(result.problems.iter().any(|problem| problem.contains("4 I/Os are given up")), "{:?}", result.problems);
    }
}

#[test]
fn an_io_queue_that_never_connects_ends_the_run_before_it_begins() {
    let start = Instant::now();
    let (result, events) = run_on(&stalls_at(0), &options());
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    let said = "sent Fabrics Connect (queue 1), no answer within 2 s";
    assert!(result.problems[0].contains(said), "{:?}", result.problems);
    assert!(!events.contains(&"Launching".to_owned()), "{events:?}");
}
