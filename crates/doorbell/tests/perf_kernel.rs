//! `doorbell perf` on files and devices of the kernel, as users run them: real files, loop devices where this is root, and a target
//! over TCP beside them.

mod common;

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    process::Command,
    thread,
    time::Duration,
};

use common::{
    BEFORE_THE_DRAIN_ENDS, Output, Target,
    disk::{Folder, Loop},
    rows, run, start, total, turn,
};

fn perf(args: &str) -> Output {
    eprintln!("perf {args}");
    let folder = Folder::new();
    let json = folder.0.join("result.json");
    let words = ["perf", "--json", json.to_str().unwrap()].into_iter().chain(args.split(' '));
    let output = run(&words.collect::<Vec<_>>());
    assert!(json.exists(), "{output:#?}");
    output
}

#[track_caller]
fn assert_good(output: &Output, names: &[&str]) {
    assert_eq!(output.status, Some(0), "{output:#?}");
    let [iops, _, average, min, max] = total(&output.stdout).unwrap_or_else(|| panic!("no table: {output:#?}"));
    assert!(iops > 0.0 && min <= average && average <= max, "{output:#?}");
    let found: Vec<_> = rows(&output.stdout).into_iter().map(|(name, _)| name).collect();
    assert_eq!(found, names, "{output:#?}");
}

#[test]
fn every_engine_tests_a_file_and_a_loop_device() {
    let _turn = turn();
    let folder = Folder::new();
    let file = folder.file("f", 16 << 20);
    for shape in [
        "-q 32 -o 4096 -w randrw -M 70",
        "-q 32 -o 4096 -w randrw -M 70 -R",
        "-q 1 -o 4096 -w randwrite -R --unregistered --fua -L",
        "-q 8 -o 64k -w read -R --sqpoll",
        "-q 64 -o 512 -w randread -E",
        "-q 64 -o 4096 -w randread -R -E",
        "-q 16 -o 4096 -w randread -R --poll-mode adaptive -P 3 -U 1",
        "-q 16 -o 16k -O 4096 -w rw -M 50 -P 2 --engine libaio --transport-stats",
        "-q 4 -o 1m -w randwrite -R -A 4096 --timeout 10000",
        "-q 8 -o 4096 -w randrw -M 50 --buffered -d 500",
        "-q 8 -o 4096 -w randread -R --buffered -c 0x3 --use-every-core",
    ] {
        let output = perf(&format!("-t 1 {shape} {file}"));
        let names = vec![file.as_str(); if shape.contains("every-core") { 2 } else { 1 }];
        assert_good(&output, &names);
        assert!(!output.stdout.contains("Attached"), "{output:#?}");
    }
    let Some(device) = Loop::over(&file) else { return };
    for shape in ["-q 32 -o 4096 -w randrw -M 70 -R", "-q 32 -o 4096 -w randrw -M 70", "-q 4 -o 512 -w write -E -R"] {
        assert_good(&perf(&format!("-t 1 {shape} {}", device.0)), &[&device.0]);
    }
}

#[test]
fn trim_and_write_zeroes_clear_files_and_block_devices() {
    let _turn = turn();
    let folder = Folder::new();
    let file = folder.file("f", 1 << 20);
    let places = || fs::metadata(&file).unwrap().blocks();
    let cleared = |path: &str, shape: &str| {
        fs::write(&file, vec![1; 1 << 20]).unwrap();
        File::open(&file).unwrap().sync_all().unwrap();
        // Half of it, from the beginning.
        let output = perf(&format!("-R -t 10 -d 8 -o 64k {shape} {path}"));
        assert_good(&output, &[path]);
        let bytes = fs::read(&file).unwrap();
        let (first, second) = bytes.split_at(512 << 10);
        assert!(first.iter().all(|&byte| byte == 0) && second.iter().all(|&byte| byte == 1), "{output:#?}");
    };
    let all = places();
    for shape in ["-q 1 -w write_zeroes", "-q 4 -w write_zeroes -E --unregistered", "-q 4 -w write_zeroes --sqpoll"] {
        cleared(&file, shape);
        assert!(places() >= all, "{shape}");
    }
    for shape in ["-q 1 -w trim", "-q 4 -w trim -E", "-q 4 -w trim --unregistered --buffered"] {
        cleared(&file, shape);
        assert!(places() <= all / 2 + 8, "{shape}: {} of {all} places", places());
    }
    for (args, why) in [
        ("-w trim", "libaio carries no Deallocate; use io_uring (-R)"),
        ("-w write_zeroes", "libaio carries no Write Zeroes; use io_uring (-R)"),
        ("-w verify -R", "io_uring carries no Verify; name the NVMe device"),
    ] {
        let output = perf(&format!("-t 1 -q 1 -o 4096 {args} {file}"));
        assert!(output.status == Some(1) && output.stdout.contains(why), "{output:#?}");
    }
    let Some(device) = Loop::over(&file) else { return };
    cleared(&device.0, "-q 4 -w write_zeroes");
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let digits = release.split(|one: char| !one.is_ascii_digit());
    let numbers: Vec<u32> = digits.map_while(|number| number.parse().ok()).collect();
    if numbers >= vec![6, 12] {
        cleared(&device.0, "-q 4 -w trim");
        assert!(places() <= all / 2 + 8);
    } else {
        let output = perf(&format!("-t 1 -q 1 -o 4096 -R -w trim {}", device.0));
        assert!(output.stdout.contains("Deallocate on a block device needs Linux 6.12"), "{output:#?}");
    }
}

#[test]
fn two_files_and_a_target_are_rows_of_one_table() {
    let _turn = turn();
    let folder = Folder::new();
    let [one, other] = ["one", "other"].map(|name| folder.file(name, 4 << 20));
    let target = Target::start(&["--ram", "16M"]);
    let id = target.id();
    for engine in ["--engine libaio", "-R"] {
        let shape = format!("perf -t 1 -q 16 -o 4096 -w randrw -M 70 {engine} {one} -r");
        let args: Vec<&str> = shape.split(' ').chain([id.as_str(), &other]).collect();
        let output = run(&args);
        assert_eq!(output.status, Some(0), "{output:#?}");
        let found = rows(&output.stdout);
        let over_tcp = format!("TCP (addr:127.0.0.1 subnqn:{}) NSID 1", common::NQN);
        let names: Vec<_> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, [one.as_str(), &other, &over_tcp], "{output:#?}");
        let sum: f64 = found.iter().map(|(_, iops)| iops).sum();
        assert!((sum - total(&output.stdout).unwrap()[0]).abs() < 1.0, "{output:#?}");
    }
}

#[test]
fn what_cannot_be_tested_is_refused_with_what_to_do() {
    let folder = Folder::new();
    let path = |name: &str| folder.0.join(name).to_str().unwrap().to_owned();
    let (file, small, empty) = (folder.file("f", 1 << 20), folder.file("small", 2048), folder.file("empty", 0));
    let shape = "-t 1 -q 4 -w randread -o";
    for (args, whys) in [
        (
            format!("{shape} 4096 {}", path("missing")),
            &["missing: it cannot be looked at", "head -c 1G /dev/urandom > FILE"][..],
        ),
        (format!("{shape} 4096 {}", folder.0.display()), &["it is a directory"]),
        (format!("{shape} 4096 /dev/null"), &["/dev/null: it is neither a regular file nor a block device"]),
        (format!("{shape} 4096 {empty}"), &["it is empty"]),
        (format!("{shape} 4096 {small}"), &["I/Os of 4096 bytes (-o) do not fit its 2048 bytes"]),
        (format!("{shape} 1000 {file}"), &["the I/O size 1000 (-o) is not a multiple of its block size"]),
        (format!("{shape} 4096 --engine io_uring_cmd {file}"), &["io_uring_cmd is for NVMe devices"]),
        (format!("{shape} 4096 --iopoll {file}"), &["--iopoll is io_uring's", "add -R"]),
        (format!("{shape} 4096 --sqpoll {file}"), &["--sqpoll is io_uring's"]),
    ] {
        let output = perf(&args);
        assert_eq!(output.status, Some(1), "{output:#?}");
        let said = [output.stdout.as_str(), &output.stderr].concat();
        assert!(whys.iter().all(|why| said.contains(why)), "{whys:?}: {output:#?}");
    }
    let in_memory = PathBuf::from("/dev/shm").join(format!("doorbell-{}", std::process::id()));
    if fs::write(&in_memory, [1; 8192]).is_ok() {
        let name = in_memory.display();
        let refused = perf(&format!("{shape} 4096 {name}"));
        let buffered = perf(&format!("{shape} 4096 --buffered {name}"));
        fs::remove_file(&in_memory).unwrap();
        assert_eq!(refused.status, Some(1), "{refused:#?}");
        assert!(refused.stderr.contains("--buffered"), "{refused:#?}");
        assert_eq!(buffered.status, Some(0), "{buffered:#?}");
    }
}

#[test]
fn no_output_goes_where_it_destroys_something_and_none_is_lost_without_a_word() {
    let folder = Folder::new();
    let file = folder.file("f", 1 << 20);
    let [one, other] = ["x.json", "link.json"].map(|name| folder.0.join(name));
    fs::write(&one, "before").unwrap();
    std::os::unix::fs::symlink(&one, &other).unwrap();
    let load = ["perf", "-q", "1", "-o", "4096", "-w", "randread", "-d", "100", "-t", "5"];
    let (one, other) = (one.to_str().unwrap(), other.to_str().unwrap());
    // Not by `run`, which holds what is at --json against its grammar.
    let fails = |more: &[&str], said: &str| {
        let output = Command::new(common::DOORBELL).args(load).args(more).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && stderr.contains(said), "{output:?}");
    };
    for (outputs, said) in [
        (vec!["--json", &file], "is what is to be tested, which is not overwritten"),
        (vec!["--ndjson", &file], "is what is to be tested, which is not overwritten"),
        (vec!["--json", one, "--csv", other], "is where --json goes"),
    ] {
        fails(&[&outputs[..], &[&file]].concat(), said);
        assert_eq!(
            (fs::metadata(&file).unwrap().len(), fs::read_to_string(one).unwrap().as_str()),
            (1 << 20, "before")
        );
    }
    if let Some(device) = Loop::over(&file) {
        fails(&["--csv", &device.0, &file], "is a block device, which is not");
        assert!(fs::read(&file).unwrap().iter().all(|&byte| byte == 1));
    }
    for option in ["--csv", "--hlog", "--ndjson"] {
        fails(&[option, "/dev/full", "--json", one, "--interval", "10ms", &file], "/dev/full cannot be written");
        let document: serde_json::Value = serde_json::from_str(&fs::read_to_string(one).unwrap()).unwrap();
        assert_eq!(document["exit"]["good"], false, "{document:#}");
        assert!(document["exit"]["errors"][0].as_str().unwrap().contains("/dev/full"), "{document:#}");
    }
    let table = Command::new(common::DOORBELL)
        .args(load)
        .arg(&file)
        .stdout(File::options().write(true).open("/dev/full").unwrap())
        .output()
        .unwrap();
    assert_eq!(table.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&table.stderr).contains("standard output cannot be written: No space"),
        "{table:?}"
    );
}

#[test]
fn what_was_asked_for_and_cannot_be_done_fails_the_run() {
    let folder = Folder::new();
    let (file, hollow) = (folder.file("f", 1 << 20), folder.0.join("hollow"));
    File::create(&hollow).unwrap().set_len(1 << 20).unwrap();
    let load = "-q 4 -o 4096 -d 100 -t 5";
    let output = perf(&format!("{load} -w randread {}", hollow.display()));
    assert!(output.status == Some(0) && output.stdout.contains("parts of it were never written"), "{output:#?}");
    let output = perf(&format!("{load} -w randread {file}"));
    assert!(output.status == Some(0) && !output.stdout.contains("never written"), "{output:#?}");

    let output = perf(&format!("{load} -w write_zeroes -R --fua {file}"));
    assert!(output.status == Some(1) && output.stderr.contains("nothing that --fua reaches"), "{output:#?}");
    // One of two is left out: the other is tested, and the run is not the one that was asked for.
    let odd = folder.file("odd", 512);
    let output = perf(&format!("{load} -w randread {odd} {file}"));
    assert!(output.status == Some(1) && total(&output.stdout).is_some(), "{output:#?}");
    assert!(output.stderr.contains("do not fit its 512 bytes"), "{output:#?}");
    let polled = fs::metadata(&file).map(|found| found.dev()).ok().and_then(|device| {
        let numbers = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
        ["queue", "../queue"]
            .iter()
            .find_map(|queue| fs::read_to_string(format!("/sys/dev/block/{numbers}/{queue}/io_poll")).ok())
    });
    if polled.is_some_and(|polled| polled.trim() == "0") {
        let output = perf(&format!("{load} -w randread -R --iopoll {file}"));
        assert!(output.status == Some(1) && output.stderr.contains("no queues to be polled"), "{output:#?}");
    }
    if let Some(device) = Loop::read_only(&file) {
        let output = perf(&format!("{load} -w randwrite --overwrite {0} {0}", device.0));
        assert!(output.status == Some(1) && output.stderr.contains("it can only be read"), "{output:#?}");
    }
}

#[test]
fn a_file_that_loses_its_end_gives_short_reads_and_the_others_go_on() {
    let _turn = turn();
    let folder = Folder::new();
    let [short, whole] = ["short", "whole"].map(|name| folder.file(name, 4 << 20));
    for engine in ["libaio", "io_uring"] {
        File::options().write(true).open(&short).unwrap().set_len(4 << 20).unwrap();
        let args = format!("perf -t 2 -q 4 -o 4096 -w randread -Q 100000 --engine {engine} {short} {whole}");
        let running = start(&args.split(' ').collect::<Vec<_>>());
        running.until_it_says("Launching workers");
        thread::sleep(Duration::from_millis(300));
        File::options().write(true).open(&short).unwrap().set_len(1000).unwrap();
        let output = running.finish();
        assert_eq!(output.status, Some(1), "{output:#?}");
        let failed = format!("on {short} from core 0: Fewer Bytes Than Asked For (short read or write)");
        assert!(output.stderr.contains(&failed), "{output:#?}");
        assert_eq!(output.stderr.matches("Failed I/Os:").count(), 1, "{output:#?}");
        assert_eq!(rows(&output.stdout).len(), 2, "{output:#?}");
    }
}

#[test]
fn a_device_that_fails_ends_alone() {
    let _turn = turn();
    let folder = Folder::new();
    let [backing, whole] = ["backing", "whole"].map(|name| folder.file(name, 4 << 20));
    let Some(device) = Loop::over(&backing) else { return };
    // What lies beyond the end of its file a loop device answers with EIO.
    File::options().write(true).open(&backing).unwrap().set_len(0).unwrap();
    for engine in ["libaio", "io_uring"] {
        let output = perf(&format!("-t 1 -q 4 -o 4096 -w randread --engine {engine} {} {whole}", device.0));
        assert_eq!(output.status, Some(1), "{output:#?}");
        assert!(output.stderr.contains("Input/Output Error (EIO)"), "{output:#?}");
        let failed = output.stderr.lines().find_map(|line| line.strip_prefix("Failed I/Os: ")).unwrap_or_default();
        let count: u32 = failed.split(' ').next().unwrap_or_default().parse().unwrap_or(0);
        assert!((1..=4).contains(&count), "no more than were in flight: {output:#?}");
        let found: Vec<_> = rows(&output.stdout).into_iter().map(|(name, _)| name).collect();
        assert_eq!(found, [whole.as_str()], "{output:#?}");
    }
}

#[test]
fn ctrl_c_ends_a_run_that_sleeps() {
    let _turn = turn();
    let folder = Folder::new();
    let file = folder.file("f", 4 << 20);
    for engine in ["libaio", "io_uring"] {
        let args = format!("perf -t 60 -q 4 -o 4096 -w randread -E --engine {engine} {file}");
        let running = start(&args.split(' ').collect::<Vec<_>>());
        running.until_it_says("Launching workers");
        running.signal("-INT");
        let output = running.finish();
        assert!(output.took < BEFORE_THE_DRAIN_ENDS && total(&output.stdout).is_some(), "{output:#?}");
    }
}

#[test]
fn a_run_that_writes_asks_first_what_is_on_a_device_and_who_uses_it() {
    let _turn = turn();
    let folder = Folder::new();
    let file = folder.file("disk", 32 << 20);
    let Some(device) = Loop::over(&file) else { return };
    let write = |more: &str| perf(&format!("-q 4 -o 4096 -w randwrite -d 50 -t 30 {}{more}", device.0));
    let system = |program: &str, words: &[&str]| {
        let status = Command::new(program).args(words).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").status();
        assert!(status.unwrap().success(), "{program} {words:?}");
    };
    let refused = |why: &str| {
        let before = fs::read(&device.0).unwrap();
        let output = write("");
        assert_eq!(output.status, Some(1), "{output:#?}");
        for said in [why, &format!("--overwrite '{}'", device.0)] {
            assert!(output.stderr.contains(said), "{said}: {output:#?}");
        }
        assert!(before == fs::read(&device.0).unwrap(), "something was written");
    };

    assert_good(&write(""), &[&device.0]);

    let mut disk = OpenOptions::new().write(true).open(&device.0).unwrap();
    let mut sector = [0; 512];
    // One partition of type 83h from sector 2048 on.
    sector[446..462].copy_from_slice(&[0, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 0x40, 0, 0]);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    disk.write_all(&sector).unwrap();
    disk.sync_all().unwrap();
    drop(disk);
    refused("partition table");
    assert_good(&write(&format!(" --overwrite {}", device.0)), &[&device.0]);

    system("mkfs.ext4", &["-qF", &device.0]);
    refused("ext4");
    let place = folder.0.join("mounted");
    fs::create_dir(&place).unwrap();
    let place = place.to_str().unwrap();
    system("mount", &[&device.0, place]);
    let output = write("");
    system("umount", &[place]);
    assert_eq!(output.status, Some(1), "{output:#?}");
    assert!(output.stderr.contains(&format!("mounted on {place}")), "{output:#?}");
    assert_good(&write(&format!(" --overwrite {}", device.0)), &[&device.0]);
}
