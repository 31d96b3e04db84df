//! `doorbell perf` against `doorbell target` over loopback TCP, as users run them.

mod common;

use std::time::{Duration, Instant};

use common::{BEFORE_THE_DRAIN_ENDS, Folder, NQN, Target, rows, run, start, total, turn};

fn perf(id: &str, args: &[&str]) -> common::Output {
    run(&[&["perf", "-r", id, "-t", "1"], args].concat())
}

#[track_caller]
fn assert_good(output: &common::Output) -> [f64; 5] {
    assert_eq!(output.status, Some(0), "{output:#?}");
    let total = total(&output.stdout).unwrap_or_else(|| panic!("no table: {output:#?}"));
    assert!(total[0] > 0.0 && total[3] <= total[2] && total[2] <= total[4], "{total:?}");
    total
}

#[test]
fn every_shape_of_load_prints_its_table() {
    let _turn = turn();
    let target = Target::start(&["--ram", "64M"]);
    for args in [
        "-q 32 -o 4096 -w randread -LL",
        "-q 8 -o 4k -w randrw -M 70",
        "-q 8 -o 4096 -w write -HI",
        "-q 8 -o 4096 -w randread -HI",
        "-q 16 -o 4096 -w randread -P 4 -U 2",
        "-q 4 -o 1m -w rw -M 50",
        "-q 4096 -o 4096 -w randread",
        "-q 4 -o 16k -O 4096 -w randwrite",
        "-q 4 -o 512 -w read -c 0x3 --use-every-core",
        "-q 4 -o 4096 -w randread -F 1.1 --fua -C 1 -E --seed 7",
        "-q 8 -o 4096 -w randread -d 2000 --transport-stats -m",
        "-q 1 -o 4096 -w randread --poll-mode adaptive -c 0x3",
        "-q 64 -o 4096 -w randrw -M 50 --timing batch -LL --enforce-numa",
        "-q 64 -o 4096 -w randread --timing sampled:50 -LL",
        // An I/O takes a good part of the window: the in-flight check of the run fails it if anything is counted wrong.
        "-q 1024 -o 1m -w randread -t 2",
    ] {
        let output = perf(&target.id(), &args.split(' ').collect::<Vec<_>>());
        eprintln!("{args}");
        assert_good(&output);
        assert_eq!(output.stderr.matches("a latency is wrong by").count(), 1, "{output:#?}");
        assert!(output.stdout.contains(&format!("TCP (addr:127.0.0.1 subnqn:{NQN}) NSID 1")), "{output:#?}");
    }
}

#[test]
fn without_timing_there_are_rates_and_no_latencies() {
    let _turn = turn();
    let target = Target::start(&["--ram", "16M"]);
    let output = perf(&target.id(), &["-q", "8", "-o", "4096", "-w", "randread", "--timing", "off"]);
    assert_eq!(output.status, Some(0), "{output:#?}");
    let row = output.stdout.lines().find(|line| line.starts_with("Total")).unwrap_or_else(|| panic!("{output:#?}"));
    let columns: Vec<&str> = row.split(':').nth(1).unwrap().split_whitespace().collect();
    assert!(columns[0].parse::<f64>().is_ok_and(|rate| rate > 0.0) && columns[2..] == ["-"; 3], "{row}");
    assert!(output.stderr.contains("no latency was taken"), "{output:#?}");
}

#[test]
fn discovery_and_two_targets_give_a_row_each() {
    let _turn = turn();
    let (first, second) = (Target::start(&["--ram", "16M", "--ram", "16M"]), Target::start(&["--null", "1G"]));
    let both = run(&[
        "perf",
        "-r",
        &first.discovery(),
        "-r",
        &second.id(),
        "-q",
        "4",
        "-o",
        "4096",
        "-w",
        "randread",
        "-t",
        "1",
    ]);
    assert_good(&both);
    assert_eq!(rows(&both.stdout).len(), 3, "{}", both.stdout);
    let one = run(&["perf", "-r", &format!("{} ns:2", first.id()), "-q", "4", "-o", "4096", "-w", "read", "-t", "1"]);
    assert_good(&one);
    assert_eq!(rows(&one.stdout).len(), 1);
    assert!(rows(&one.stdout)[0].0.ends_with("NSID 2"));
}

#[test]
fn two_listeners_of_a_target_are_two_paths_to_its_namespace() {
    let _turn = turn();
    let target = Target::start(&["--ram", "16M", "--listen", "127.0.0.1:0"]);
    let output = perf(&target.discovery(), &["-q", "4", "-o", "4096", "-w", "randread"]);
    assert_good(&output);
    assert_eq!(rows(&output.stdout).len(), 2, "{output:#?}");
    assert_eq!(output.stderr.matches("These are 2 paths to one namespace").count(), 1, "{output:#?}");
    assert_eq!(output.stderr.matches(": ANA Optimized\n").count(), 2, "{output:#?}");
    let discovered = run(&["discover", "-r", &target.discovery()]);
    assert!(discovered.stdout.contains(", 2 paths\n"), "{discovered:#?}");
}

#[test]
fn readers_that_go_away_do_not_end_a_run() {
    let _turn = turn();
    let target = Target::start(&["--ram", "16M"]);
    // Of both streams, closed from the beginning, as after `2>&1 | head -0`; the namespace that is missing is told on the second.
    for (id, status) in [(target.id(), 0), (format!("{} ns:7", target.id()), 1)] {
        let mut command = std::process::Command::new(common::DOORBELL);
        command.args(["perf", "-r", &id, "-q", "8", "-o", "4096", "-w", "randread", "-d", "100", "-t", "50", "-LL"]);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let mut child = command.spawn().unwrap();
        drop((child.stdout.take(), child.stderr.take()));
        assert_eq!(child.wait().unwrap().code(), Some(status));
    }
}

#[test]
fn the_seed_is_printed() {
    let _turn = turn();
    let target = Target::start(&["--null", "1G"]);
    let output = perf(&target.id(), &["-q", "1", "-o", "4096", "-w", "randread", "-d", "10", "--seed", "42"]);
    assert_good(&output);
    let said = format!("{}{}", output.stdout, output.stderr);
    assert!(said.contains("42"), "the seed is printed: {said}");
}

#[test]
fn a_killed_target_ends_the_run_with_what_there_is() {
    let _turn = turn();
    let mut target = Target::start(&["--ram", "16M"]);
    let id = target.id();
    let perf = start(&["perf", "-r", &id, "-q", "8", "-o", "4096", "-w", "randread", "-t", "30"]);
    std::thread::sleep(Duration::from_millis(1500));
    target.child.kill().unwrap();
    let output = perf.finish();
    assert_eq!(output.status, Some(1), "{output:#?}");
    assert!(total(&output.stdout).is_some_and(|total| total[0] > 0.0), "{output:#?}");
    assert!(output.stderr.contains("errors occurred"), "{output:#?}");
    assert!(output.took < Duration::from_secs(12), "{output:#?}");
}

#[test]
fn ctrl_c_ends_a_run_with_its_table() {
    let _turn = turn();
    let target = Target::start(&["--ram", "16M"]);
    for (args, wait) in [(["-a", "0"], 1200), (["-a", "20"], 700)] {
        let perf = start(&[
            "perf",
            "-r",
            &target.id(),
            "-q",
            "8",
            "-o",
            "4096",
            "-w",
            "randread",
            "-t",
            "30",
            args[0],
            args[1],
        ]);
        std::thread::sleep(Duration::from_millis(wait));
        perf.signal("-INT");
        let output = perf.finish();
        assert!(output.took < Duration::from_millis(wait + 2000), "{output:#?}");
        assert!(args[1] != "0" || total(&output.stdout).is_some(), "{output:#?}");
    }
}

#[test]
fn ctrl_c_ends_every_phase_of_a_run_on_a_stalled_target() {
    let _turn = turn();
    // Stalled while it measures; while it drains, the time being over.
    let folder = Folder::new("stalled");
    for (time, wait) in [("30", 700), ("3", 3500)] {
        let target = Target::start(&["--ram", "16M"]);
        let (id, slices) = (target.id(), folder.file(time));
        let load = ["perf", "-r", &id, "-q", "8", "-o", "4096", "-w", "randread", "-t", time];
        let perf = start(&[&load[..], &["--interval", "50ms", "--ndjson", &slices]].concat());
        perf.until("slice with I/Os", || {
            let text = std::fs::read_to_string(&slices).unwrap_or_default();
            text.lines().any(|slice| slice.contains("\"ios\":") && !slice.contains("\"ios\":0,"))
        });
        target.signal("-STOP");
        std::thread::sleep(Duration::from_millis(wait));
        let asked = Instant::now();
        perf.signal("-INT");
        let output = perf.finish();
        assert!(asked.elapsed() < BEFORE_THE_DRAIN_ENDS, "{output:#?}");
        assert_eq!((output.status, total(&output.stdout).is_some()), (Some(1), true), "{output:#?}");
    }
}

#[test]
fn ctrl_c_ends_the_wait_for_a_silent_peer() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let id = format!("trtype:tcp traddr:127.0.0.1 trsvcid:{} subnqn:{NQN}", listener.local_addr().unwrap().port());
    let perf = start(&["perf", "-r", &id, "-q", "1", "-o", "4096", "-w", "read", "-t", "5"]);
    std::thread::sleep(Duration::from_millis(400));
    perf.signal("-INT");
    let output = perf.finish();
    assert!(output.status != Some(0) && output.took < Duration::from_millis(2400), "{output:#?}");
}

#[test]
fn bad_targets_are_clear_errors() {
    let target = Target::start(&["--ram", "16M", "--hosts", "nqn.2014-08.org.example:friend"]);
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let load = ["-q", "1", "-o", "4096", "-w", "read", "-t", "1"];
    for (id, said) in [
        (target.id(), "host"),
        (target.id().replace(NQN, "nqn.2016-06.io.doorbell:other"), "nqn.2016-06.io.doorbell:other"),
        (format!("trtype:tcp traddr:127.0.0.1 trsvcid:{closed} subnqn:{NQN}"), "refused"),
        ("trtype:tcp traddr:no.such.name.invalid trsvcid:4420".to_string(), "no.such.name.invalid"),
        ("trtype:fc traddr:nn-0x1".to_string(), "FC"),
        ("trtype:tcp traddr:127.0.0.1 trsvcid:port".to_string(), "port"),
        ("nonsense".to_string(), "nonsense"),
    ] {
        let output = run(&[&["perf", "-r", &id], &load[..]].concat());
        assert!(output.status.is_some_and(|status| status != 0), "{id}: {output:#?}");
        assert!(output.stderr.contains(said), "{id}: {output:#?}");
        assert!(output.took < Duration::from_secs(20), "{id}: {output:#?}");
    }
}

#[test]
fn nothing_tested_is_a_failure() {
    let target = Target::start(&["--ram", "16M"]);
    let output = perf(&target.id(), &["-q", "1", "-o", "1000", "-w", "read"]);
    assert!(output.status != Some(0) && total(&output.stdout).is_none(), "{output:#?}");
    assert!(output.stdout.contains("1000"), "{output:#?}");
}

#[test]
fn called_by_the_original_s_name_it_is_the_original() {
    let folder = std::env::temp_dir().join(format!("doorbell-name-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let link = folder.join("spdk_nvme_perf");
    std::os::unix::fs::symlink(common::DOORBELL, &link).unwrap();
    let run = |args: &[&str]| std::process::Command::new(&link).args(args).output().unwrap();
    let help = run(&["--help"]);
    assert!(help.status.success() && String::from_utf8_lossy(&help.stdout).contains("--io-depth"));
    let wrong = run(&["-q", "0"]);
    assert!(!wrong.status.success() && String::from_utf8_lossy(&wrong.stderr).starts_with("spdk_nvme_perf:"));
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn discover_and_identify_tell_what_there_is() {
    let target = Target::start(&["--ram", "16M"]);
    let discovered = run(&["discover", "-r", &target.discovery(), "--json"]);
    assert_eq!(discovered.status, Some(0), "{discovered:#?}");
    assert!(discovered.stdout.contains(NQN));
    let identified = run(&["identify", "-r", &target.discovery()]);
    assert!(identified.stdout.contains("32768"), "blocks of 512 bytes: {identified:#?}");
}
