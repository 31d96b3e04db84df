//! `doorbell compare` and `doorbell ab` on real runs, and on files of theirs.

mod common;

use std::{fs, os::unix::fs::PermissionsExt};

use common::{Folder, Output, run, start, turn};
use doorbell_result::{
    Document,
    document::{Series, Slice},
};

/// A real result, in which tests put figures of their own.
fn template(folder: &Folder) -> Document {
    let path = folder.file("template.json");
    let args = format!("perf --embedded=tcp -q 1 -o 512 -w randread -t 1 -c 0x1 --json {path}");
    assert_eq!(run(&args.split(' ').collect::<Vec<_>>()).status, Some(0));
    Document::parse(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Writes it with that rate.
fn with_rate(folder: &Folder, name: &str, template: &Document, iops: f64) -> String {
    let mut result = template.clone();
    result.results.merged.iops = iops;
    let path = folder.file(name);
    fs::write(&path, result.to_text()).unwrap();
    path
}

/// A program that `ab` can run: a shell script.
fn program(folder: &Folder, text: &str) -> String {
    let path = folder.file("program");
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[track_caller]
fn comparison(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap()
}

#[track_caller]
fn ends(output: &Output, status: i32, said: &[&str]) {
    assert_eq!(output.status, Some(status), "{output:#?}");
    for said in said {
        assert!(output.stdout.contains(said) || output.stderr.contains(said), "no \"{said}\": {output:#?}");
    }
}

#[test]
fn interleaved_runs_tell_better_from_worse() {
    let _turn = turn();
    let folder = Folder::new("ab");
    let kept = folder.file("kept");
    let real = "--embedded=tcp -q 4 -o 512 -w randread -c 0x1";
    let output = run(&["ab", "--pairs", "2", "--seconds", "1", "--keep", &kept, "--", real, real]);
    assert!(matches!(output.status, Some(0 | 1)) && output.stderr.contains("Run 4 of 4: A: "), "{output:#?}");
    let json = |path: &str| Document::parse(&fs::read_to_string(path).unwrap()).unwrap();
    let first = json(&format!("{kept}/001-a.json"));
    assert_eq!((first.plan.as_ref().unwrap().time_s, fs::exists(format!("{kept}/002-b.txt")).unwrap()), (1.0, true));

    // A program whose n-th run gives what is known before.
    for (side, rate) in [("fast", 2000.0), ("slow", 1000.0)] {
        for at in 1..=4 {
            with_rate(&folder, &format!("{side}-{at}.json"), &first, rate + f64::from(at));
        }
    }
    let count = folder.file("count");
    let program = program(
        &folder,
        &format!(
            "echo run >> '{count}'\nn=$(wc -l < '{count}')\nside=$3\nfor last; do :; done\n\
             cp \"${{0%program}}$side-$n.json\" \"$last\""
        ),
    );
    let [fast, slow] = ["fast", "slow"].map(|side| format!("'{program}' -x {side}"));
    let ab = |a: &str, b: &str| {
        fs::write(&count, "").unwrap();
        run(&["ab", "--pairs", "2", "--metric", "iops", "--json", &folder.file("ab.json"), "--", a, b])
    };
    ends(
        &ab(&fast, &slow),
        1,
        &["Run 2 of 4: B: 1002", "Run 3 of 4: B: 1003", "Run 4 of 4: A: 2004", "WORSE", "2 pairs"],
    );
    ends(&ab(&slow, &fast), 0, &["better"]);
    let written = comparison(&fs::read_to_string(folder.file("ab.json")).unwrap());
    assert_eq!((&written["base"][1], &written["metrics"][0]["verdict"]), (&"002-a".into(), &"better".into()));

    let [a, aa, b, bb] = ["fast-1", "fast-2", "slow-1", "slow-2"].map(|name| folder.file(&format!("{name}.json")));
    let compare = |args: &[&str]| run(&[&["compare", "--metric", "iops"], args].concat());
    ends(&compare(&["--paired", &a, &aa, "--", &b, &bb]), 1, &["WORSE", "2 pairs of runs"]);
    ends(&compare(&[&b, &bb, "--", &a, &aa]), 0, &["better", "2 and 2 runs"]);
    ends(&compare(&["--threshold", "200%", "--find", "300%", &b, &bb, "--", &a, &aa]), 0, &["the same within 200%"]);
    ends(&compare(&[&a, &b]), 3, &["one run without a time series", "these runs cannot tell"]);

    let output = compare(&["--json", "-", "--paired", &a, &aa, "--", &b, &bb]);
    let (written, metric) = (comparison(&output.stdout), &comparison(&output.stdout)["metrics"][0]);
    assert!(output.status == Some(1) && output.stderr.contains("WORSE") && written["exit_status"] == 1, "{output:#?}");
    assert_eq!((&written["basis"], &written["base"][0]), (&"pairs".into(), &a.as_str().into()));
    assert!(
        (metric["change_percent"].as_f64().unwrap() + 50.0).abs() < 1.0 && metric["verdict"] == "worse",
        "{metric}"
    );
    let output = compare(&["--json", "-", &a, &b]);
    let written = comparison(&output.stdout);
    assert_eq!((output.status, &written["exit_status"]), (Some(3), &3.into()));
    assert!(written["metrics"][0]["why"].as_str().unwrap().contains("without a time series"), "{written}");
    let file = folder.file("none.json");
    ends(&compare(&["--json", &file, &a, "/nowhere"]), 2, &["/nowhere cannot be read"]);
    assert!(!fs::exists(&file).unwrap());
    ends(&compare(&["--json", "/nowhere/x", &a, &b]), 2, &["--json: /nowhere/x cannot be written"]);
    for (args, said) in [
        (&[a.as_str()][..], "give two results"),
        (&[&a, &aa, &b], "with -- between"),
        (&["--paired", &a, &aa, "--", &b], "not 2 and 1"),
        (&[&a, &a, "--", &b, &bb], "are the same run, which tells nothing of how runs differ"),
        (&[&a, "/nowhere"], "/nowhere cannot be read"),
        (&["--find", "1%", "--threshold", "1%", &a, &b], "--find must be above"),
        (&["--confidence", "3", &a, &b], "50% to 99.9999%"),
        (&["--metric", "p42", &a, &b], "p99.9"),
    ] {
        ends(&compare(args), 2, &[said]);
    }
}

#[test]
fn one_run_a_side_is_told_by_its_course() {
    let _turn = turn();
    let folder = Folder::new("course");
    let mut template = template(&folder);
    let mut file = |name: &str, rate: f64| {
        let slice = |at: u32| Slice {
            begin_s: f64::from(at),
            end_s: f64::from(at + 1),
            iops: rate * (1.0 + 0.01 * f64::from(at * 7 % 5)),
            ..Slice::default()
        };
        template.series = Some(Series { interval_s: 1.0, slices: (0..50).map(slice).collect() });
        with_rate(&folder, name, &template, rate)
    };
    let (slow, fast) = (file("slow", 1000.0), file("fast", 2000.0));
    ends(&run(&["compare", "--metric", "iops", &fast, &slow]), 1, &["WORSE", "known by the course of each"]);
    ends(&run(&["compare", "--metric", "iops", &slow, &fast]), 0, &["better"]);
}

#[test]
fn a_failed_run_stops_it_and_a_signal_keeps_whole_pairs() {
    let _turn = turn();
    let folder = Folder::new("ab-ends");
    let ab = |a: &str, b: &str| run(&["ab", "--pairs", "2", "--", a, b]);
    ends(&ab("--frobnicate", "-q 1"), 2, &["frobnicate", "ended with exit status: 1"]);
    ends(&ab("/nowhere/doorbell -q 1", "-q 1"), 2, &["/nowhere/doorbell cannot be started"]);

    // A program that notes each of its runs, and takes its time in the sixth.
    template(&folder);
    let runs = folder.file("runs");
    let program = program(
        &folder,
        &format!(
            "echo run >> '{runs}'\n\
             [ $(wc -l < '{runs}') -lt 6 ] || {{ trap 'exit 1' INT; while :; do sleep 0.05; done; }}\n\
             for last; do :; done\ncp \"${{0%program}}template.json\" \"$last\""
        ),
    );
    let running = start(&["ab", "--pairs", "9", "--metric", "iops", "--", &program, &program]);
    running.until_it_says("Run 5 of 18");
    running.signal("-INT");
    let output = running.finish();
    ends(&output, 0, &["Stopped: 2 whole pairs of 9 are compared", "no difference at this sample", "2 pairs of runs"]);
}
