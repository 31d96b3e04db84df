//! Known truth over real sockets: a target that is slow as a script says, and writes down what it really sent, against what the load
//! engine reports.
//!
//! Target and load share a thread, and each round of it is written down too. So the time that is neither the target's nor known does
//! not exist: a command is in the target's hands by the end of the first turn of the target after it was sent, and a completion in the
//! tool's by the beginning of the second turn after it was posted. What a busy machine does to the figures is thereby known for
//! each I/O, and the bounds hold on any machine; on a quiet one they are microseconds apart.

mod common;

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use common::turn;
use doorbell_host::{Cancel, Controller, ControllerOptions, TransportId};
use doorbell_load::{Arrival, Companion, Limit, Pattern, Rate, RunOptions, StopFlag, Target, run};
use doorbell_platform::cpu;
use doorbell_result::{LatencyHistogram, RunResult};
use doorbell_subsystem::{Backend, Cooperative, NamespaceConfig, Script, SubsystemConfig, TargetConfig};
use rustix::time::{ClockId, clock_gettime};

const NQN: &str = "nqn.2016-06.io.doorbell:truth";
const PERCENTS: [f64; 6] = [50.0, 75.0, 90.0, 95.0, 98.0, 99.0];

const DISTRIBUTIONS: [&str; 10] = [
    "latency fixed 2ms",
    "latency uniform 1ms 3ms",
    "latency bimodal 1ms 10ms 5%",
    "latency lognormal 2ms 0.5",
    "latency lognormal 1ms 1",
    "latency histogram FILE",
    "latency fixed 1ms; latency fixed 20ms rate 2%",
    "latency uniform 1ms 2ms; latency fixed 5ms every 10",
    "latency fixed 500us; limit 20k",
    "latency fixed 1ms; stall 20ms every 50ms",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Tcp,
    VfioUser,
}

const LINKS: [Link; 2] = [Link::Tcp, Link::VfioUser];

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("doorbell-truth-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn monotonic() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// A line of the target's log.
#[derive(Debug)]
struct Sent {
    arrived: u64,
    posted: u64,
    status: String,
    fate: String,
}

/// What the target wrote down: where its time begins, and its lines.
fn read_log(path: &PathBuf) -> (u64, Vec<Sent>) {
    let text = fs::read_to_string(path).unwrap();
    let begin = text.lines().find_map(|line| line.strip_prefix("# time begins at ")?.split(' ').next()?.parse().ok());
    let lines = text.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        assert_eq!(fields.len(), 11, "{line}");
        let time = |at: usize| fields[at].parse::<u64>().unwrap();
        Sent { arrived: time(0), posted: time(2), status: fields[9].into(), fate: fields[10].into() }
    });
    (begin.expect("time has begun"), lines.collect())
}

/// A run, and the truth about it: what the target wrote down, and when its turns began and ended.
struct Truth {
    result: RunResult,
    begin: u64,
    sent: Vec<Sent>,
    turns: Vec<(u64, u64)>,
}

impl Truth {
    /// Lets the load run against a target with this script.
    fn of(link: Link, script: &str, change: impl Fn(&mut RunOptions)) -> Self {
        let folder = Folder::new();
        let log = folder.0.join("log");
        let histogram = folder.0.join("histogram");
        fs::write(&histogram, "800us 1200us 60\n3ms 5ms 30\n8ms 10\n").unwrap();
        let script = script.replace("FILE", histogram.to_str().unwrap());
        let subsystem = SubsystemConfig {
            namespaces: vec![NamespaceConfig { backend: Backend::Null { size: 1 << 30 }, block_size: 512 }],
            ..SubsystemConfig::new(NQN)
        };
        let mut config = TargetConfig::of(subsystem);
        config.fault = Some(Script::parse(&script).unwrap());
        config.fault_log = Some(log.clone());
        match link {
            Link::Tcp => config.listen.push((Ipv4Addr::LOCALHOST, 0).into()),
            Link::VfioUser => config.vfio_user.push(folder.0.join("device")),
        }
        let (addresses, target) = doorbell_subsystem::Target::cooperative(config).unwrap();
        let id: TransportId = match link {
            Link::Tcp => over_tcp(addresses[0]),
            Link::VfioUser => format!("trtype:VFIOUSER traddr:{}", folder.0.join("device").display()),
        }
        .parse()
        .unwrap();
        let target = Arc::new(Mutex::new(target));
        let rounds = Arc::new(AtomicU64::new(0));
        let substitute = Substitute::new(&target, &rounds);
        let options = ControllerOptions { io_queue_size: 4096, ..ControllerOptions::default() };
        let controller = Controller::connect(&id, &options, &Cancel::new()).unwrap();
        let turns = Arc::new(Mutex::new(Vec::with_capacity(1 << 20)));
        let core = cpu::allowed().unwrap()[0];
        let (served, written) = (target.clone(), turns.clone());
        let companion = Companion {
            core,
            run: Box::new(move || {
                rounds.fetch_add(1, Ordering::Relaxed);
                let begin = monotonic();
                served.lock().unwrap().pass();
                written.lock().unwrap().push((begin, monotonic()));
            }),
        };
        let mut options = RunOptions {
            io_depth: 64,
            time: Duration::from_secs(3600),
            number_ios: Some(Limit::Count(2000)),
            cores: vec![core],
            continue_on_error: Some(1_000_000),
            io_queue_size: Some(4096),
            drain: Duration::from_secs(20),
            connect: Duration::from_secs(20),
            ..RunOptions::default()
        };
        change(&mut options);
        let namespace = controller.namespaces().remove(0);
        let load = vec![Target { controller: controller.clone(), namespace }];
        let result = run(Vec::new(), load, &options, Some(companion), &StopFlag::default(), &|_| {});
        controller.detach();
        drop(substitute);
        // The log is whole when the last has let go of it.
        drop(Arc::try_unwrap(target).expect("nobody else has it"));
        assert_eq!(result.contexts.len(), 1, "{:?}", result.problems);
        let (begin, sent) = read_log(&log);
        let turns = std::mem::take(&mut *turns.lock().unwrap());
        let account = result.contexts[0].account;
        assert_eq!(account.missing(), 0, "{account:?}");
        Self { result, begin, sent, turns }
    }

    /// How long each I/O took as far as only the target is concerned, and at most with the way in both directions.
    fn bounds(&self) -> (Vec<u64>, Vec<u64>) {
        let bounds = |sent: &Sent| {
            let (arrived, posted) = (self.begin + sent.arrived, self.begin + sent.posted);
            let since = |time: u64| self.turns.partition_point(|&(begin, _)| begin <= time) - 1;
            let (came, went) = (since(arrived), since(posted));
            // Sent after the end of the turn before, or of the one before that when the socket gave only a part of it.
            let before = self.turns[came.saturating_sub(2)].1;
            let after = self.turns[(went + 2).min(self.turns.len() - 1)].0.max(posted);
            (posted - arrived, after - before)
        };
        let (mut least, mut most): (Vec<_>, Vec<_>) =
            self.sent.iter().filter(|sent| sent.posted > 0 && sent.status == "0/00").map(bounds).unzip();
        least.sort_unstable();
        most.sort_unstable();
        (least, most)
    }

    fn ticks(&self, nanoseconds: u64) -> f64 {
        nanoseconds as f64 * self.result.ticks_per_second / 1e9
    }

    /// Every percentile lies within 1 % of what the target sent, but for what is known to have come on top; else what is not.
    #[track_caller]
    fn excess(&self, what: &str) -> Option<String> {
        let histogram: LatencyHistogram = self.result.contexts[0].latency().histogram;
        let (least, most) = self.bounds();
        assert_eq!(histogram.count(), least.len() as u64, "{what}: each I/O once");
        for percent in PERCENTS {
            let at = |sorted: &[u64]| {
                let place = (sorted.len() as f64 * percent / 100.0).ceil() as usize - 1;
                self.ticks(sorted[place])
            };
            let said = histogram.value_at(percent / 100.0).unwrap() as f64;
            let (least, most) = (at(&least), at(&most));
            eprintln!(
                "{what}: {percent} %: {said:.0} ticks, {:+.3} % of the target's, of {:.3} % known",
                (said / least - 1.0) * 100.0,
                (most / least - 1.0) * 100.0
            );
            // The end of a bucket is at most a 128th above what is in it.
            assert!(
                said >= least * 0.9999,
                "{what}: {percent} %: {said} ticks are less than the {least} of the target"
            );
            if said > most * 1.01 {
                return Some(format!("{percent} %: {said} ticks; the target took {least}, and {most} with both ways"));
            }
        }
        None
    }
}

/// Serves a target while the load does not: it waits for the target itself when it makes its queues.
struct Substitute {
    over: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Substitute {
    fn new(target: &Arc<Mutex<Cooperative>>, rounds: &Arc<AtomicU64>) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (target, rounds, ends) = (target.clone(), rounds.clone(), over.clone());
        let serve = move || {
            let mut seen = 0;
            while !ends.load(Ordering::Relaxed) {
                let now = rounds.load(Ordering::Relaxed);
                // As many passes as lie between two looks at the sockets.
                let serve = |target: &mut Cooperative| (0..5000).any(|_| target.pass());
                if std::mem::replace(&mut seen, now) != now || !serve(&mut target.lock().unwrap()) {
                    thread::sleep(Duration::from_micros(200));
                }
            }
        };
        Self { over, thread: Some(thread::spawn(serve)) }
    }
}

impl Drop for Substitute {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(thread::JoinHandle::join);
    }
}

/// A run without anything on top that is not known. A machine that takes the processor away between two looks of a thread at the
/// clock makes some of that, but not each time; what the tool adds itself it always adds.
#[track_caller]
fn undisturbed(what: &str, run: impl Fn() -> Truth) -> Truth {
    for _ in 0..8 {
        let truth = run();
        match truth.excess(what) {
            None => return truth,
            Some(excess) => eprintln!("{what}: {excess}"),
        }
    }
    panic!("{what}: eight runs in a row report more than the target took");
}

fn over_tcp(address: SocketAddr) -> String {
    format!("trtype:tcp adrfam:IPv4 traddr:127.0.0.1 trsvcid:{} subnqn:{NQN}", address.port())
}

#[test]
fn a_closed_loop_reports_ten_distributions_over_both_links() {
    let _turn = turn();
    for link in LINKS {
        for script in DISTRIBUTIONS {
            let what = format!("{link:?}, {script}");
            let truth = undisturbed(&what, || Truth::of(link, &format!("seed 3; {script}"), |_| {}));
            assert_eq!(truth.sent.len(), 2000, "{what}");
        }
    }
}

#[test]
fn an_open_loop_reports_ten_distributions_over_both_links() {
    let _turn = turn();
    for link in LINKS {
        for (script, arrival) in
            DISTRIBUTIONS.iter().zip([Arrival::Fixed, Arrival::Poisson, Arrival::Burst(8)].iter().cycle())
        {
            let what = format!("{link:?}, {script}, {arrival}");
            let run = || {
                Truth::of(link, &format!("seed 3; {script}"), |options| {
                    options.io_depth = 1000;
                    options.rate = Some(Rate { per_second: 10e3, arrival: *arrival, each_worker: false });
                })
            };
            let truth = undisturbed(&what, run);
            let open = truth.result.contexts[0].open_loop.as_ref().unwrap();
            assert_eq!((open.planned, open.response.count, open.dropped), (2000, 2000, 0), "{what}");
            // From the plan to the completion is from the plan to the submission and from there to the completion.
            let service = truth.result.contexts[0].latency();
            assert!(open.response.sum >= service.sum && open.response.max <= service.max + open.longest_lag, "{what}");
        }
    }
}

#[test]
fn a_stall_of_200_ms_at_10k_a_second_shows_as_it_must_in_the_response_times() {
    const RATE: u64 = 10_000;
    const COUNT: u64 = 20_000;
    const STALL: (u64, u64) = (500_000_000, 700_000_000);
    let _turn = turn();
    for link in LINKS {
        let run = || {
            Truth::of(link, "latency fixed 500us; stall 200ms at 500ms", |options| {
                options.io_depth = 4000;
                options.number_ios = Some(Limit::Count(COUNT));
                options.rate = Some(Rate { per_second: RATE as f64, arrival: Arrival::Fixed, each_worker: false });
            })
        };
        let truth = undisturbed(&format!("{link:?}"), run);
        let open = truth.result.contexts[0].open_loop.as_ref().unwrap();
        assert_eq!((open.planned, open.response.count, open.dropped), (COUNT, COUNT, 0));
        // What the plan and the script make of each arrival; the target's time begins with the first command it has.
        let responses = (0..COUNT).map(|number| {
            let due = number * 1_000_000_000 / RATE + 500_000;
            let sent = if (STALL.0..STALL.1).contains(&due) { STALL.1 } else { due };
            sent - number * 1_000_000_000 / RATE
        });
        let mut wanted: Vec<u64> = responses.collect();
        wanted.sort_unstable();
        // Turns that took longer than usual, all those that carried many I/Os at once included, push back what they hit.
        let lost: u64 = truth.turns.windows(2).map(|pair| pair[1].0 - pair[0].0).filter(|&span| span > 200_000).sum();
        for percent in [50.0, 80.0, 92.0, 95.0, 98.0, 99.0, 99.9] {
            let place = (wanted.len() as f64 * percent / 100.0).ceil() as usize - 1;
            let (least, most) = (truth.ticks(wanted[place]), truth.ticks(wanted[place] + lost));
            let said = open.response.histogram.value_at(percent / 100.0).unwrap() as f64;
            // An arrival of the target's clock lies a little after that of the plan.
            let shift = truth.ticks(lost + 200_000);
            assert!(said >= least - shift, "{link:?}: {percent} %: {said} ticks of at least {least}");
            assert!(
                said <= most * 1.01 + truth.ticks(200_000),
                "{link:?}: {percent} %: {said} ticks of at most {most}"
            );
        }
        // Two thousand of twenty arrive in the stall: a tenth of all, evenly up to 200 ms. Only what the machine loses is on top.
        let slow = open.response.histogram.buckets().filter(|bucket| bucket.start as f64 > truth.ticks(20_000_000));
        let slow: u64 = slow.map(|bucket| bucket.count).sum();
        assert!(slow >= 1750, "{link:?}: {slow}");
    }
}

#[test]
fn injected_errors_are_reported_with_status_and_number_and_no_io_is_lost_or_counted_twice() {
    let _turn = turn();
    for link in LINKS {
        let script = "latency uniform 200us 400us; error 2/81 on read every 10; error 0/6/dnr on write rate 3%; error 1/80 every 97";
        let run = || {
            Truth::of(link, script, |options| {
                options.pattern = Pattern { random: true, read_percent: 60 };
                options.number_ios = Some(Limit::Count(5000));
            })
        };
        let truth = undisturbed(&format!("{link:?}"), run);
        let context = &truth.result.contexts[0];
        let (errors, account) = (context.errors(), context.account);
        for (name, code) in
            [("2/81", "Unrecovered Read Error"), ("0/06", "Internal Error"), ("1/80", "Conflicting Attributes")]
        {
            let injected = truth.sent.iter().filter(|sent| sent.status == name).count() as u64;
            let reported: u64 = errors.iter().filter(|(text, _)| text.contains(code)).map(|(_, count)| count).sum();
            assert!(injected > 10 && injected == reported, "{link:?}: {name}: {injected} injected; {errors:?}");
        }
        let failed = truth.sent.iter().filter(|sent| sent.status != "0/00").count() as u64;
        assert_eq!((account.submitted, account.failed, account.measured), (5000, failed, 5000 - failed), "{link:?}");
        assert_eq!(
            (truth.sent.len(), context.failed(), context.completed()),
            (5000, failed, 5000 - failed),
            "{link:?}"
        );
    }
}

#[test]
fn a_dropped_completion_is_a_timeout_and_is_aborted_or_given_up() {
    let _turn = turn();
    for link in LINKS {
        let truth = Truth::of(link, "latency fixed 200us; drop every 400", |options| {
            options.number_ios = Some(Limit::Count(1000));
            options.timeout = Some(Duration::from_millis(400));
        });
        let context = &truth.result.contexts[0];
        let dropped = truth.sent.iter().filter(|sent| sent.fate == "dropped").count() as u64;
        assert!(dropped > 0, "{link:?}");
        let (timeouts, account) = (context.timeouts, context.account);
        match link {
            // The Abort finds the command.
            Link::VfioUser => {
                assert_eq!(
                    (dropped, timeouts.aborted, account.failed, account.abandoned),
                    (2, 2, 2, 0),
                    "{timeouts:?}"
                );
                assert_eq!(account.measured, 998);
            }
            // It does not, and the queue is given up with what is in it.
            Link::Tcp => {
                assert!(timeouts.timed_out >= dropped && account.abandoned >= 1, "{timeouts:?}, {account:?}");
                let problems = truth.result.problems.join("\n");
                assert!(problems.contains("took longer than --timeout"), "{problems}");
            }
        }
    }
}

#[test]
fn a_completion_that_comes_twice_fails_its_queue_with_a_word() {
    let _turn = turn();
    for link in LINKS {
        let truth = Truth::of(link, "latency fixed 200us; duplicate every 500", |_| {});
        let context = &truth.result.contexts[0];
        assert_eq!(truth.sent.iter().filter(|sent| sent.fate == "duplicated").count(), 1, "{link:?}");
        let problems = truth.result.problems.join("\n");
        assert!(problems.contains("I/O queue 1 of 1 is lost"), "{link:?}: {problems}");
        assert!(context.account.abandoned > 0 && context.completed() < 2000, "{link:?}: {:?}", context.account);
    }
}

#[test]
fn a_reset_ends_the_run_with_the_reason() {
    let _turn = turn();
    for link in LINKS {
        for what in ["connection", "controller"] {
            let script = format!("latency fixed 200us; reset {what} at 20ms");
            let truth = Truth::of(link, &script, |options| options.number_ios = Some(Limit::Count(1_000_000)));
            let account = truth.result.contexts[0].account;
            assert!(!truth.result.problems.is_empty() && account.abandoned > 0, "{link:?}, {what}: {account:?}");
            let last = truth.sent.iter().map(|sent| sent.posted).max().unwrap();
            assert!(account.measured > 0 && last >= 10_000_000, "{link:?}, {what}: {last}");
        }
    }
}
