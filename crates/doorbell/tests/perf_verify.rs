//! `doorbell perf --verify` against a target that damages data as a script says: each kind is found and named, over sockets and shared
//! memory, and nothing is reported where nothing was damaged.

mod common;

use std::{fs, path::PathBuf};

use common::{Output, Target, run, turn};
use serde_json::Value;

/// A target with 4 MiB in memory, and where the result goes.
struct Served {
    folder: PathBuf,
    target: Target,
    rings: bool,
}

impl Served {
    fn new(name: &str, rings: bool, fault: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("verify-{name}-{rings}-{}", std::process::id()));
        fs::create_dir_all(folder.join("vfu")).unwrap();
        let listen = format!("vfio-user:{}/vfu", folder.display());
        let mut args = vec!["--ram", "4M,block=4096"];
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
