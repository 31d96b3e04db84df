//! `doorbell target --fault` as a user runs it, and what `doorbell perf` says of it.

mod common;

use std::{fs, path::PathBuf, thread, time::Duration};

use common::{Output, Target, run, start, turn};

/// The log of a target, which goes with it.
struct Log(PathBuf);

impl Log {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("doorbell-{name}-{}", std::process::id())))
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }

    /// Ends the target, and reads what it wrote: the fields of each line.
    fn after(&self, mut target: Target) -> Vec<Vec<String>> {
        target.signal("-INT");
        assert!(target.child.wait().unwrap().success());
        let text = fs::read_to_string(&self.0).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(|line| line.split(' ').map(str::to_owned).collect()).collect()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn perf(target: &Target, args: &[&str]) -> Output {
    let load = ["perf", "-r", &target.id(), "-q", "8", "-o", "4096", "-w", "randread", "-t", "30"];
    run(&[&load, args].concat())
}

#[test]
fn what_the_target_sent_and_what_the_tool_says_agree() {
    let _turn = turn();
    let log = Log::new("agree");
    let script = "latency fixed 3ms; error 2/81 every 50";
    let target = Target::start(&["--null", "1G", "--fault", script, "--fault-log", log.path()]);
    let output = perf(&target, &["-d", "1000", "-L", "-Q", "100000"]);
    let lines = log.after(target);
    assert_eq!(output.status, Some(1), "{output:#?}");
    let failed = output.stderr.lines().find(|line| line.starts_with("Failed I/Os: ")).unwrap_or_default();
    assert!(failed.starts_with("Failed I/Os: 20 on ") && failed.contains("Unrecovered Read Error"), "{output:#?}");
    assert_eq!((lines.len(), lines.iter().filter(|line| line[9] == "2/81").count()), (1000, 20));
    let smallest = common::total(&output.stdout).unwrap()[3];
    let took = |line: &Vec<String>| line[2].parse::<f64>().unwrap() - line[0].parse::<f64>().unwrap();
    let truth = lines.iter().filter(|line| line[9] == "0/00").map(took).fold(f64::INFINITY, f64::min) / 1000.0;
    assert!(truth >= 3000.0 && smallest >= truth - 0.1, "the fastest took {smallest} us, the target {truth} us");
}

#[test]
fn an_open_loop_shows_both_latencies_in_text_and_in_json() {
    let _turn = turn();
    let target = Target::start(&["--ram", "16M"]);
    let json = Log::new("open-loop");
    let output = perf(&target, &["-t", "1", "--rate", "2k", "--arrival", "poisson", "--json", json.path()]);
    assert_eq!(output.status, Some(0), "{output:#?}");
    let said = output.stdout.lines().find(|line| line.starts_with("Open loop, poisson arrivals at 2000 a second: "));
    let planned: u64 = said.unwrap().split("second: ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    // Four standard deviations of a Poisson count.
    assert!((1820..2180).contains(&planned), "{output:#?}");
    for latency in ["Response, from the planned arrival", "Service, from submission"] {
        assert!(output.stdout.lines().any(|line| line.starts_with(latency)), "{output:#?}");
    }
    let document: serde_json::Value = serde_json::from_str(&fs::read_to_string(&json.0).unwrap()).unwrap();
    let open = &document["results"]["open_loop"];
    assert_eq!((open["planned"].as_u64(), open["arrival"].as_str()), (Some(planned), Some("poisson")));
    let count = |latency: &serde_json::Value| latency["distribution"]["samples"].as_u64().unwrap();
    assert_eq!(count(&open["response"]), planned - open["dropped"].as_u64().unwrap());
    // What was planned in the window and over only after it has a response time alone.
    assert!(count(&document["results"]["merged"]["latency"]) <= count(&open["response"]));
}

#[test]
fn a_connection_that_is_reset_is_brought_back_and_the_script_goes_on() {
    let _turn = turn();
    let log = Log::new("reset");
    let script = "latency uniform 20ms 60ms; reset connection every 700ms";
    let target = Target::start(&["--null", "1G", "--fault", script, "--fault-log", log.path()]);
    let id = target.id();
    let load = ["perf", "-r", &id, "-q", "8", "-o", "4096", "-w", "randread", "-t", "50", "--reconnect", "20"];
    let running = start(&load);
    running.until_it_says("I/O goes on");
    thread::sleep(Duration::from_millis(200));
    running.signal("-INT");
    let output = running.finish();
    assert_eq!(output.status, Some(0), "{output:#?}");
    assert!(output.stderr.contains("s without I/O on TCP"), "{output:#?}");
    let lines = log.after(target);
    assert!(lines.iter().any(|line| line[10] == "ended"), "what was in flight has no completion");
}

#[test]
fn slow_digests_are_slow_where_there_are_digests() {
    let _turn = turn();
    // 4 ms for an I/O of 4 KiB, one after the other; the limit of the ten milliseconds only says that there is something to measure.
    let mut rates = [0.0; 2];
    for (rate, digests) in rates.iter_mut().zip([&["-d", "100"][..], &["-d", "100", "-I"]]) {
        let target = Target::start(&["--null", "1G", "--fault", "digest 1ms"]);
        let output = perf(&target, digests);
        assert_eq!(output.status, Some(0), "{output:#?}");
        *rate = common::total(&output.stdout).unwrap()[0];
    }
    assert!(rates[1] <= 251.0 && rates[1] < rates[0], "{rates:?}");
}

#[test]
fn a_target_that_has_lost_its_log_ends_with_an_error() {
    let mut target = Target::start(&["--null", "1G", "--fault", "drop", "--fault-log", "/dev/full"]);
    target.signal("-INT");
    assert_eq!(target.child.wait().unwrap().code(), Some(1));
}

#[test]
fn a_script_that_means_nothing_stops_the_target_before_it_listens() {
    for (fault, said) in [("latency fast", "\"latency fast\""), ("drop on tuesdays", "\"tuesdays\"")] {
        let output = run(&["target", "--null", "1G", "--listen", "127.0.0.1:0", "--fault", fault]);
        assert!(output.status != Some(0) && output.stderr.contains(said), "{output:#?}");
    }
    let lone = run(&["target", "--null", "1G", "--fault-log", "/tmp/x"]);
    assert!(lone.status != Some(0) && lone.stderr.contains("--fault <"), "{lone:#?}");
    let nowhere =
        run(&["target", "--null", "1G", "--listen", "127.0.0.1:0", "--fault", "drop", "--fault-log", "/nowhere/x"]);
    assert!(nowhere.status != Some(0) && nowhere.stderr.contains("/nowhere/x"), "{nowhere:#?}");
}
