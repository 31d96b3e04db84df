//! `doorbell perf --embedded`, as users run it: over vfio-user with queues in shared memory, and over TCP.

mod common;

use std::{fs, path::PathBuf, process::Command, thread, time::Duration};

use common::{DOORBELL, Output, Running, start_as, total, turn};

/// Where the processes of a test keep what they must leave nothing of.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("embedded-{name}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn start(&self, args: &[&str]) -> Running {
        start_as(Command::new(DOORBELL).arg("perf").args(args).env("TMPDIR", &self.0))
    }

    fn run(&self, args: &str) -> Output {
        eprintln!("{args}");
        self.start(&args.split(' ').collect::<Vec<_>>()).finish()
    }

    fn entries(&self) -> usize {
        fs::read_dir(&self.0).unwrap().count()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[track_caller]
fn assert_good(output: &Output) {
    assert_eq!(output.status, Some(0), "{output:#?}");
    let total = total(&output.stdout).unwrap_or_else(|| panic!("no table: {output:#?}"));
    assert!(total[0] > 0.0 && total[3] <= total[2] && total[2] <= total[4], "{total:?}");
}

#[test]
fn the_embedded_target_needs_nothing_else() {
    let _turn = turn();
    let folder = Folder::new("alone");
    for (args, link) in [
        ("--embedded -t 1 -q 128 -o 4096 -w randread -L", "VFIOUSER ("),
        // No core is left for the target.
        ("--embedded -t 1 -q 8 -o 4096 -w randrw -M 50 -c 0x3 -L", "VFIOUSER ("),
        ("--embedded=vfio-user -t 1 -q 32 -o 128k -w write --no-huge -s 64 -L", "VFIOUSER ("),
        ("--embedded=tcp -t 1 -q 8 -o 4096 -w randread -L", "TCP ("),
    ] {
        let output = folder.run(args);
        assert_good(&output);
        assert!(output.stdout.contains(&format!("Attached to NVMeoF Controller at {link}")), "{output:#?}");
        assert!(output.stdout.contains("Summary latency data for"), "{output:#?}");
        assert_eq!(folder.entries(), 0, "{args}: its folder is gone");
    }
}

#[test]
fn full_coverage_issues_as_many_as_there_are_positions_and_the_audit_agrees() {
    let _turn = turn();
    let folder = Folder::new("coverage");
    let output = folder.run("--embedded -t 30 -q 16 -o 1m -w randread --coverage full -d 100% --strict");
    assert_good(&output);
    let passed = "(1.000 times over), 0.0000 % of them too many or missing";
    assert!(output.stderr.contains(passed), "{output:#?}");
    // More cores than I/Os in a pass.
    let output = folder.run("--embedded -t 1 -q 1 -o 256m -w randread --coverage full -c 0x3");
    assert_eq!(output.status, Some(1), "{output:#?}");
    assert!(output.stderr.contains("each of 2 cores a part of its 1 I/Os"), "{output:#?}");
}

#[test]
fn every_way_to_wait_and_to_stamp_works_over_rings() {
    let _turn = turn();
    let folder = Folder::new("modes");
    for args in [
        "--embedded -t 1 -q 4 -E -P 2",
        "--embedded -t 1 -q 1 --poll-mode adaptive --timing batch -LL",
        "--embedded -t 1 -q 64 --timing sampled:20 -L --transport-stats -N -D",
    ] {
        let output = folder.run(args);
        assert_good(&output);
        assert_eq!(output.stderr.matches("a latency is wrong by").count(), 1, "{output:#?}");
        assert!(!output.stderr.contains("no effect"), "{output:#?}");
    }
}

#[test]
fn a_signal_leaves_nothing_behind_and_a_second_one_neither() {
    let _turn = turn();
    let folder = Folder::new("signals");
    for signals in 1..=2 {
        let perf = folder.start(&["--embedded", "-q", "8", "-t", "40"]);
        perf.until_it_says("Launching");
        thread::sleep(Duration::from_millis(300));
        assert_eq!(folder.entries(), 1, "its socket is there");
        (0..signals).for_each(|_| perf.signal("-INT"));
        let output = perf.finish();
        // The second may come when the run is over by the first.
        assert!(matches!(output.status, Some(0 | 1 | 130)), "{output:#?}");
        assert!(output.took < Duration::from_secs(20), "{output:#?}");
        assert_eq!(folder.entries(), 0, "after {signals}");
    }
}

#[test]
fn more_memory_than_there_is_is_refused_before_the_run() {
    let folder = Folder::new("memory");
    let output = folder.run("--embedded -t 1 -q 8 -s 100000000");
    assert_eq!(output.status, Some(1), "{output:#?}");
    assert!(output.stderr.contains("100000000 MiB of memory are asked for (-s)"), "{output:#?}");
    assert!(!output.stdout.contains("Launching"), "{output:#?}");
    assert_eq!(folder.entries(), 0);
}
