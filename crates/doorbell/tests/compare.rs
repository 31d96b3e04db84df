//! `doorbell compare` and `doorbell ab` on real runs, and on files of theirs.

mod common;

use std::{fs, os::unix::fs::PermissionsExt};

use common::{Folder, Output, run, start, turn};
use doorbell_result::Document;

/// A side that a machine cannot mistake for the other: its rate is planned.
fn rate(rate: &str) -> String {
    format!("--embedded=tcp -q 64 -o 512 -w randread -c 0x1 --rate {rate}")
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
    let (slow, fast) = (rate("1000"), rate("2000"));
    let ab = |a: &str, b: &str, more: &[&str]| {
        let args = [&["ab", "--pairs", "2", "--seconds", "1", "--metric", "iops"], more, &["--", a, b]].concat();
        run(&args)
    };
    let worse = ab(&fast, &slow, &["--keep", &kept]);
    ends(
        &worse,
        1,
        &["Run 2 of 4: B: ", "Run 3 of 4: B: ", "WORSE", "2 pairs of runs", "Differs: loop: open, fixed 2000"],
    );
    ends(&ab(&slow, &fast, &[]), 0, &["better"]);

    // What was kept is compared again, by pairs and by sides; and singly, without a time series.
    let file = |name: &str| format!("{kept}/{name}.json");
    let [a, aa, b, bb] = ["001-a", "002-a", "001-b", "002-b"].map(file);
    let json = |path: &str| Document::parse(&fs::read_to_string(path).unwrap()).unwrap();
    assert!((json(&a).results.merged.iops - 2000.0).abs() < 100.0 && fs::exists(format!("{kept}/001-a.txt")).unwrap());
    let compare = |args: &[&str]| run(&[&["compare", "--metric", "iops"], args].concat());
    ends(&compare(&["--paired", &a, &aa, "--", &b, &bb]), 1, &["WORSE", "2 pairs of runs"]);
    ends(&compare(&[&b, &bb, "--", &a, &aa]), 0, &["better", "2 and 2 runs"]);
    ends(&compare(&["--threshold", "200%", "--find", "300%", &b, &bb, "--", &a, &aa]), 0, &["the same within 200%"]);
    ends(&compare(&[&a, &b]), 3, &["one run without a time series", "these runs cannot tell"]);
    for (args, said) in [
        (&[a.as_str()][..], "give two results"),
        (&[&a, &aa, &b], "with -- between"),
        (&["--paired", &a, &aa, "--", &b], "not 2 and 1"),
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
    let file = |name: &str, rate: &str| {
        let path = folder.file(name);
        let args = format!("perf --embedded=tcp -q 64 -o 512 -w randread -c 0x1 -t 2 --rate {rate} --interval 20ms");
        let args: Vec<&str> = args.split(' ').chain(["--json", &path]).collect();
        assert_eq!(run(&args).status, Some(0));
        path
    };
    let (slow, fast) = (file("slow", "1000"), file("fast", "2000"));
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
    let template = folder.file("template.json");
    let args = format!("perf --embedded=tcp -q 1 -o 512 -w randread -t 1 -c 0x1 --json {template}");
    assert_eq!(run(&args.split(' ').collect::<Vec<_>>()).status, Some(0));
    let (program, runs) = (folder.file("program"), folder.file("runs"));
    let text = format!(
        "#!/bin/sh\necho run >> '{runs}'\n[ $(wc -l < '{runs}') -lt 6 ] || {{ echo waits; trap 'exit 1' INT; while :; do sleep 0.05; done; }}\n\
         for last; do :; done\ncp '{template}' \"$last\"\n"
    );
    fs::write(&program, text).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let running = start(&["ab", "--pairs", "9", "--metric", "iops", "--", &program, &program]);
    running.until_it_says("Run 5 of 18");
    running.signal("-INT");
    let output = running.finish();
    ends(&output, 0, &["Stopped: 2 whole pairs of 9 are compared", "no difference at this sample", "2 pairs of runs"]);
}
