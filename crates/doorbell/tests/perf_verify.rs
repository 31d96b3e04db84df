//! `doorbell perf --verify` against a target that damages data as a script says: each kind is found and named, over sockets and shared
//! memory, and nothing is reported where nothing was damaged.

mod common;

use std::{
    fs,
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use common::{
    Output, Target,
    disk::{Folder, Loop},
    run, turn,
};
use serde_json::Value;

/// A target with 4 MiB in memory, and where the result goes.
struct Served {
    folder: PathBuf,
    target: Target,
    rings: bool,
}

impl Served {
    fn new(name: &str, rings: bool, fault: &str) -> Self {
        Self::with(name, "4M,block=4096", rings, fault)
    }

    fn with(name: &str, ram: &str, rings: bool, fault: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("verify-{name}-{rings}-{}", std::process::id()));
        fs::create_dir_all(folder.join("vfu")).unwrap();
        let listen = format!("vfio-user:{}/vfu", folder.display());
        let mut args = vec!["--ram", ram];
        if rings {
            args.extend(["--listen", &listen]);
        }
        if !fault.is_empty() {
            args.extend(["--fault", fault]);
        }
        Self { target: Target::start(&args), folder, rings }
    }

    fn perf(&self, args: &str) -> (Output, Value) {
        let id = match self.rings {
            true => format!("trtype:VFIOUSER traddr:{}/vfu", self.folder.display()),
            false => self.target.id(),
        };
        let json = self.folder.join("result.json");
        let args = format!("perf -q 16 -t 30 --verify --json {} {args} -r", json.display());
        let words: Vec<&str> = args.split(' ').chain([id.as_str()]).collect();
        let output = run(&words);
        let result: Value = serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
        (output, result["results"]["verification"].clone())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn nothing_is_reported_where_nothing_was_damaged() {
    let _turn = turn();
    for rings in [false, true] {
        let served = Served::new("clean", rings, "");
        for args in [
            "-o 16k -w randrw -M 50 -d 20000",
            "-o 4k:2,64k:1,256k:1 -w randrw -M 60 -d 5000 -P 2 -c 0x3",
            "-o 8k -w rw -M 50 -d 5000 --timing batch",
            // What earlier runs have written stays as it is.
            "-o 16k -w randread -d 2000 --coverage full",
        ] {
            let (output, found) = served.perf(args);
            assert_eq!(output.status, Some(0), "{args}: {output:#?}");
            assert!(found["checked"].as_u64() > Some(1000) && found["mismatches"] == serde_json::json!({}), "{found}");
            assert!(output.stderr.contains("none wrong"), "{output:#?}");
        }
    }
}

#[test]
fn each_kind_of_damage_is_found_and_named() {
    let _turn = turn();
    for rings in [false, true] {
        for (fault, kind, name) in [
            ("dropped-write", "dropped_write", "dropped write at LBA"),
            ("torn-write", "torn_write", "torn write at LBA"),
            ("wrong-lba", "wrong_lba", "write to a wrong LBA at LBA"),
            ("stale-read", "stale_read", "stale read at LBA"),
            ("flipped-bit", "flipped_bit", "flipped bit at LBA"),
        ] {
            let served = Served::new(fault, rings, &format!("corrupt {fault} every 200"));
            let (output, found) = served.perf("-o 16k -w randrw -M 80 -d 20000");
            assert_eq!(output.status, Some(1), "{fault}: {output:#?}");
            assert!(found["mismatches"][kind].as_u64() > Some(0), "{fault}: {found}");
            let first = found["first"].as_array().unwrap();
            assert!(!first.is_empty() && first.len() <= 16, "{found}");
            // A stale read may look like a dropped write until the block is read again, and a misplaced write is one at its own LBA;
            // only the first are told.
            let told = output.stderr.contains(name) || ["stale-read", "wrong-lba"].contains(&fault);
            assert!(told && output.stderr.contains("blocks that were read were not"), "{fault}: {output:#?}");
        }
    }
}

#[test]
fn a_lost_connection_and_failed_writes_are_no_damage() {
    let _turn = turn();
    let served = Served::new(
        "lost",
        false,
        "reset connection every 700ms; error 2/80 on write every 50; latency uniform 0us 300us",
    );
    let (output, found) = served.perf("-o 16k -w randrw -M 50 --reconnect 20 -Q 1000 -d 12000");
    assert!(found["checked"].as_u64() > Some(1000) && found["mismatches"] == serde_json::json!({}), "{output:#?}");
}

#[test]
fn blocks_with_metadata_are_checked_and_zoned_namespaces_are_skipped_with_the_reason() {
    let _turn = turn();
    for (ram, rings) in [
        ("4M,block=4096,metadata=16", false),
        ("4M,block=4096,metadata=8,pi=1", false),
        ("4M,block=4096,metadata=16", true),
    ] {
        let name = ram.replace([',', '='], "-");
        let (output, found) = Served::with(&name, ram, rings, "").perf("-o 16k -w randrw -M 50 -d 5000");
        assert_eq!(output.status, Some(0), "{ram}: {output:#?}");
        assert!(
            found["checked"].as_u64() > Some(1000) && found["mismatches"] == serde_json::json!({}),
            "{ram}: {found}"
        );
        let damaged = Served::with(&name, ram, rings, "corrupt dropped-write every 200");
        let (output, found) = damaged.perf("-o 16k -w randrw -M 80 -d 20000");
        assert_eq!(output.status, Some(1), "{ram}: {output:#?}");
        assert!(found["mismatches"]["dropped_write"].as_u64() > Some(0), "{ram}: {found}");
    }
    let (output, _) = Served::with("zoned", "8M,block=4096,zoned,zone=1M", false, "").perf("-o 16k -w randread");
    assert_eq!(output.status, Some(1), "{output:#?}");
    assert!(output.stdout.contains("--verify is not built for zoned namespaces"), "{output:#?}");
}

/// Verifies this file or device, and returns what was found of it.
fn perf(folder: &Folder, args: &str) -> (Output, Value) {
    let json = folder.0.join("result.json");
    let args = format!("perf -q 16 -t 30 --verify --json {} {args}", json.display());
    let output = run(&args.split(' ').collect::<Vec<_>>());
    let result: Value = serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
    (output, result["results"]["verification"].clone())
}

#[test]
fn files_and_loop_devices_are_verified_by_each_engine() {
    let _turn = turn();
    let folder = Folder::new();
    let file = folder.file("file", 4 << 20);
    let device = Loop::over(&folder.file("behind", 4 << 20));
    for subject in [Some(&file), device.as_ref().map(|device| &device.0)].into_iter().flatten() {
        for args in ["--engine libaio", "-R", "-R --buffered -P 2"] {
            let (output, found) = perf(&folder, &format!("-o 4k:2,64k:1 -w randrw -M 50 -d 3000 {args} {subject}"));
            assert_eq!(output.status, Some(0), "{args}: {output:#?}");
            assert!(found["checked"].as_u64() > Some(1000) && found["mismatches"] == serde_json::json!({}), "{found}");
        }
    }
    let output = run(&["perf", "-q", "1", "-o", "4k", "-w", "randread", "-t", "1", "--verify", &file, &file]);
    assert!(output.status == Some(1) && output.stderr.contains("are the same file or device"), "{output:#?}");
}

#[test]
fn what_somebody_else_writes_into_a_file_is_found_and_named() {
    let _turn = turn();
    let folder = Folder::new();
    let file = folder.file("file", 4 << 20);
    for engine in ["--engine libaio", "-R"] {
        let over = AtomicBool::new(false);
        let (output, found) = thread::scope(|scope| {
            scope.spawn(|| {
                let meddled = fs::File::options().write(true).open(&file).unwrap();
                for block in (0..1024).cycle().step_by(7).take_while(|_| !over.load(Ordering::Relaxed)) {
                    meddled.write_all_at(&[0xee; 512], 4096 * block).unwrap();
                    thread::sleep(Duration::from_micros(500));
                }
            });
            let got = perf(&folder, &format!("-o 4k -w randrw -M 70 -d 20000 {engine} --overwrite {file} {file}"));
            over.store(true, Ordering::Relaxed);
            got
        });
        assert_eq!(output.status, Some(1), "{output:#?}");
        assert!(found["mismatches"]["garbled"].as_u64() > Some(0), "{found}");
        let first = &found["first"][0];
        assert!(first["path"] == file.as_str() && first["read_s"].as_f64() >= Some(0.0), "{first}");
        assert!(output.stderr.contains("at LBA") && output.stderr.contains("read at"), "{output:#?}");
    }
}
