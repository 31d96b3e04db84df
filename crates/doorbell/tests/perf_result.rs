//! What `doorbell perf` leaves besides its tables: documents that follow the schema whatever became of the run, and its time series
//! while it goes on.

mod common;

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use common::{Folder, Output, Target, run, start, total, turn};
use doorbell_result::{
    Document, Measurement,
    document::{Check, ExitReason, Slice, Verdict},
    schema,
};

#[track_caller]
fn document(text: &str) -> Document {
    Document::parse(text).unwrap_or_else(|why| panic!("{why}: {text}"))
}

#[track_caller]
fn read(path: impl AsRef<Path>) -> Document {
    document(&fs::read_to_string(path).unwrap())
}

fn words(text: &str) -> Vec<&str> {
    text.split(' ').collect()
}

fn lines(path: &str) -> Vec<Slice> {
    let text = fs::read_to_string(path).unwrap();
    let line = |line: &str| {
        let value = serde_json::from_str(line).unwrap();
        schema::check_part("slice", &value).unwrap_or_else(|why| panic!("{why}: {line}"));
        serde_json::from_value(value).unwrap()
    };
    text.lines().map(line).collect()
}

#[test]
fn the_document_stands_alone_on_standard_output_and_says_what_the_table_says() {
    let _turn = turn();
    let args = "perf --embedded=tcp -t 1 -q 8 -w randrw -M 60 -c 0x3 -P 2 --seed 77 -L --json -";
    let output = run(&words(args));
    assert_eq!(output.status, Some(0), "{output:#?}");
    let result = document(&output.stdout);
    assert_eq!(result.command_line.join(" "), format!("doorbell {args}"));
    assert_eq!(
        (result.seed, result.exit.reason, result.exit.good, result.exit.partial),
        (Some(77), ExitReason::Time, true, false)
    );
    assert!(result.ended_s - result.started_s >= 1.0 && result.exit.errors.is_empty());

    let plan = result.plan.unwrap();
    assert_eq!((plan.pattern.as_str(), plan.read_percent, plan.depth, plan.queue_pairs), ("randrw", 60, 8, 2));
    assert_eq!(plan.contexts.len(), 2);
    for context in &plan.contexts {
        assert_eq!(context.queues.iter().map(|queue| queue.depth).collect::<Vec<_>>(), [4, 4]);
        assert_eq!((context.commands_per_io, context.first_block, context.blocks), (1, 0, 524_288));
    }
    let path = &result.paths[0];
    assert_eq!((path.transport.as_str(), path.nsid, path.block_bytes, path.blocks), ("TCP", 1, 512, 524_288));
    assert!(!path.model.is_empty() && !path.serial.is_empty() && path.io_queues.granted > 0);
    assert_eq!(plan.contexts[0].path, path.path);
    assert_eq!(result.platform.cores.iter().map(|core| core.core).collect::<Vec<_>>(), [0, 1]);
    assert!(result.platform.ticks_per_second > Some(1e6) && result.platform.clock_cost_ns > Some(0.0));

    // The tables went to the other stream, and have the same numbers.
    let total = total(&output.stderr).unwrap_or_else(|| panic!("{output:#?}"));
    let merged = &result.results.merged;
    let latency = merged.latency.as_ref().unwrap();
    for (of_table, of_document) in
        total.into_iter().zip([merged.iops, merged.mib_per_s, latency.mean_us, latency.min_us, latency.max_us])
    {
        assert!((of_table - of_document).abs() <= 0.006, "{of_table} {of_document}");
    }
    assert!(output.stderr.contains("Merged latency data for all I/Os") && output.stderr.contains("data for write ("));
    let reads = result.results.operations["read"].ios as f64 / merged.ios as f64;
    assert!((reads - 0.6).abs() < 0.05, "{reads}");
    assert_eq!(Measurement::merged(result.results.cores.values()).latency, merged.latency);

    assert_eq!(result.workers.iter().map(|worker| worker.core).collect::<Vec<_>>(), [0, 1]);
    assert!(result.workers.iter().all(|worker| worker.cpu_percent > 0.0 && worker.ticks_per_io > Some(0.0)));
    assert!(result.slowest.windows(2).all(|pair| pair[0].latency_us >= pair[1].latency_us));
    assert!((result.slowest[0].latency_us - latency.max_us).abs() < 1e-3 && result.slowest.len() == 16);
    for check in [Check::LittlesLaw, Check::Account, Check::Coverage, Check::Randomness, Check::Depth, Check::HeadRoom]
    {
        let finding = result.audit.iter().find(|finding| finding.check == check).unwrap();
        assert_eq!(finding.verdict, Verdict::Passed, "{finding:?}");
    }
    assert!(output.stderr.contains("Audit: head-room: passed: this tool can drive "), "{output:#?}");
}

#[test]
fn a_time_series_comes_while_the_run_goes_on_and_adds_up_to_it() {
    let _turn = turn();
    let folder = Folder::new("series");
    let target = Target::start(&["--ram", "64M"]);
    let (id, json, ndjson, hlog, csv) =
        (target.id(), folder.file("r.json"), folder.file("r.ndjson"), folder.file("r.hlog"), folder.file("r.csv"));
    let args = ["perf", "-r", &id, "-q", "16", "-o", "4096", "-w", "randread", "-t", "2", "-c", "0x3", "-E"];
    let files = ["--json", &json, "--ndjson", &ndjson, "--hlog", &hlog, "--csv", &csv, "--interval", "100ms"];
    let perf = start(&[&args[..], &files].concat());
    perf.until_it_says("Launching");
    let begun = Instant::now();
    while fs::read_to_string(&ndjson).unwrap_or_default().lines().count() < 3 {
        assert!(begun.elapsed() < Duration::from_secs(20), "no slices");
        thread::sleep(Duration::from_millis(5));
    }
    assert!(!folder.names().contains(&"r.json".into()), "the document is not complete, so it is not there");
    let output = perf.finish();
    assert_eq!(output.status, Some(0), "{output:#?}");
    assert_eq!(folder.names(), ["r.csv", "r.hlog", "r.json", "r.ndjson"]);

    let result = read(&json);
    let series = result.series.unwrap();
    assert_eq!(series.interval_s, 0.1);
    let (slices, merged) = (lines(&ndjson), &result.results.merged);
    assert_eq!(slices, series.slices);
    assert!(
        (5..=20).contains(&slices.len()) && slices.windows(2).all(|pair| pair[0].slice < pair[1].slice),
        "{}",
        slices.len()
    );
    assert_eq!(slices.last().unwrap().slice, 19);
    assert_eq!(slices.iter().map(|slice| slice.ios).sum::<u64>(), merged.ios);
    let (mut sum, whole) = (doorbell_result::Distribution::default(), &merged.latency.as_ref().unwrap().distribution);
    slices.iter().filter_map(|slice| slice.distribution.as_ref()).for_each(|part| sum.merge(part));
    assert_eq!((sum.samples, &sum.buckets, sum.max), (whole.samples, &whole.buckets, whole.max), "bucket for bucket");

    let hlog = fs::read_to_string(&hlog).unwrap();
    assert_eq!(hlog.lines().filter(|line| !line.starts_with('#')).count(), slices.len());
    assert!(hlog.starts_with("#[Histogram log format version 1.3]\n"));
    assert_eq!(fs::read_to_string(&csv).unwrap().lines().count(), 1 + 1 + 1 + 1 + 2 + 2 * 2);
}

#[test]
fn a_run_that_is_stopped_or_loses_its_target_leaves_what_it_has() {
    let _turn = turn();
    let folder = Folder::new("ends");
    for (how, reason) in [("signal", ExitReason::Signal), ("loss", ExitReason::Lost)] {
        let json = folder.file(how);
        let mut target = Target::start(&["--ram", "64M"]);
        let perf =
            start(&["perf", "-r", &target.id(), "-q", "8", "-o", "4096", "-w", "read", "-t", "60", "--json", &json]);
        perf.until_it_says("Launching");
        thread::sleep(Duration::from_millis(300));
        match reason {
            ExitReason::Signal => perf.signal("-INT"),
            _ => target.child.kill().unwrap(),
        }
        let output = perf.finish();
        let result = read(&json);
        assert_eq!((result.exit.reason, result.exit.partial), (reason, true), "{output:#?}");
        assert_eq!(result.exit.good, output.status == Some(0));
        let merged = &result.results.merged;
        assert!(merged.ios > 0 && merged.seconds > 0.1 && merged.seconds < 40.0, "{merged:?}");
        assert_eq!(result.exit.errors.is_empty(), reason == ExitReason::Signal, "{output:#?}");
        let account = &result.results.contexts[0].account;
        assert_eq!(account.missing(), 0, "{account:?}");
        let law = result.audit.iter().find(|finding| finding.check == Check::LittlesLaw).unwrap();
        assert_eq!(law.verdict, Verdict::Passed, "{law:?}");
    }
}

/// Runs and reads the document of a run that cannot start.
#[track_caller]
fn not_started(args: &[&str], why: &str) -> (Document, Output) {
    let output = run(args);
    assert_eq!(output.status, Some(1), "{output:#?}");
    let result = document(&output.stdout);
    assert_eq!((result.exit.reason, result.exit.good, result.exit.partial), (ExitReason::NotStarted, false, true));
    assert!(result.exit.errors.iter().any(|error| error.contains(why)), "{why}: {:?}", result.exit.errors);
    assert_eq!(result.results.merged.ios, 0);
    (result, output)
}

#[test]
fn a_run_that_cannot_start_says_why_in_its_document() {
    let load = ["-q", "8", "-o", "4096", "-w", "read", "-t", "1", "--json", "-"];
    let nobody = ["perf", "-r", "trtype:TCP traddr:127.0.0.1 trsvcid:1 subnqn:nqn.2016-06.io.doorbell:test"];
    let (result, _) = not_started(&[&nobody[..], &load].concat(), "refused");
    assert_eq!(result.plan.as_ref().map(|plan| plan.depth), Some(8));
    let (result, _) = not_started(&["perf", "--embedded", "-q", "x", "--json", "-"], "could not convert \"x\"");
    assert_eq!((result.plan, result.command_line.len()), (None, 7));
    not_started(&["perf", "--embedded", "-t", "1", "-s", "100000000", "--json", "-"], "MiB of memory are asked for");
    not_started(&["perf", "--embedded", "-o", "1000", "-t", "1", "--json", "-"], "no namespace to test");
}

#[test]
fn what_cannot_be_written_is_known_before_the_run() {
    let output = run(&["perf", "--embedded", "-t", "30", "--csv", "/nowhere/x.csv", "--json", "-"]);
    assert!(output.took < Duration::from_secs(20));
    let result = document(&output.stdout);
    assert!(result.exit.errors[0].contains("--csv: /nowhere/x.csv cannot be written: No such file"), "{output:#?}");
    assert_eq!((output.status, result.exit.reason), (Some(1), ExitReason::NotStarted));
}

#[test]
fn a_failed_audit_is_a_failed_run_when_that_is_asked_for() {
    let _turn = turn();
    let folder = Folder::new("strict");
    // Of one I/O's worth of blocks both cores read the same: the second finds what the first has warmed.
    let target = Target::start(&["--ram", "1M"]);
    let (id, json) = (target.id(), folder.file("r.json"));
    let args = ["perf", "-r", &id, "-q", "2", "-o", "1m", "-w", "read", "-t", "1", "-c", "0x3", "--json", &json];
    for (strict, status) in [(&[][..], Some(0)), (&["--strict"], Some(1))] {
        let output = run(&[&args[..], strict].concat());
        let result = read(&json);
        assert_eq!((output.status, result.exit.good), (status, status == Some(0)), "{output:#?}");
        let failed: Vec<_> = result.audit.iter().filter(|finding| finding.verdict == Verdict::Failed).collect();
        assert!(failed.iter().any(|finding| finding.check == Check::Coverage), "{failed:?}");
        assert!(
            output.stderr.contains("Audit: coverage: FAILED: 2 sequential contexts share 2048 blocks"),
            "{output:#?}"
        );
    }
}
