//! What `doorbell perf` does besides reading and writing all of a namespace in I/Os of one size: ranges, mixes of sizes, fills and other
//! operations, on a file whose bytes can be looked at.

mod common;

use std::{fs, path::PathBuf};

use common::{Output, Target, run, turn};
use serde_json::Value;

const SIZE: usize = 16 << 20;

/// A file, a target that serves it over TCP and vfio-user, and where results go.
struct Served {
    folder: PathBuf,
    target: Target,
    rings: bool,
}

impl Served {
    fn new(name: &str, rings: bool, more: &[&str]) -> Self {
        let folder = std::env::temp_dir().join(format!("operations-{name}-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("disk"), vec![0x55; SIZE]).unwrap();
        let disk = format!("{},block=4096", folder.join("disk").display());
        let listen = format!("vfio-user:{}/vfu", folder.display());
        let mut args = vec!["--file", &disk];
        if rings {
            fs::create_dir(folder.join("vfu")).unwrap();
            args.extend(["--listen", &listen]);
        }
        args.extend(more);
        let target = Target::start(&args);
        Self { folder, target, rings }
    }

    /// Runs perf with these arguments, and returns what it wrote and its result.
    fn perf(&self, args: &str) -> (Output, Value) {
        let id = match self.rings {
            true => format!("trtype:VFIOUSER traddr:{}/vfu", self.folder.display()),
            false => self.target.id(),
        };
        let json = self.folder.join("result.json");
        let args = format!("perf -q 8 -t 20 --strict --json {} {args} -r", json.display());
        let words: Vec<&str> = args.split(' ').chain([id.as_str()]).collect();
        let output = run(&words);
        let result = fs::read_to_string(&json).unwrap();
        (output, serde_json::from_str(&result).unwrap())
    }

    /// The same where everything has to go well.
    #[track_caller]
    fn good(&self, args: &str) -> (Output, Value) {
        let (output, result) = self.perf(args);
        assert_eq!(output.status, Some(0), "{args}: {output:#?}");
        (output, result)
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(self.folder.join("disk")).unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn a_range_is_written_whole_and_nothing_beside_it() {
    let _turn = turn();
    for rings in [false, true] {
        let served = Served::new("range", rings, &[]);
        // 10 % is rounded down to a multiple of 64 KiB.
        let (from, to) = (SIZE / 10 / 65536 * 65536, SIZE / 2);
        served.good("-o 64k -w randwrite --coverage full -d 100% --range 10%-50% --fill pattern:c0ffee00");
        let bytes = served.bytes();
        assert!(bytes[..from].iter().chain(&bytes[to..]).all(|&byte| byte == 0x55));
        assert!(bytes[from..to].chunks(4).all(|four| four == [0xc0, 0xff, 0xee, 0]));
        let (_, result) = served.good("-o 4k -w write -d 16 --range 1020lba-1036lba --fill zero");
        let bytes = served.bytes();
        assert!(bytes[1020 << 12..1036 << 12].iter().all(|&byte| byte == 0));
        assert!(bytes[1019 << 12] == 0xc0 && bytes[1036 << 12] == 0xc0);
        let plan = &result["plan"];
        assert_eq!((plan["range"].as_str(), plan["fill"].as_str()), (Some("1020lba-1036lba"), Some("zero")));
        assert_eq!((&plan["contexts"][0]["first_block"], &plan["contexts"][0]["blocks"]), (&1020.into(), &16.into()));
        for (range, why) in [
            ("16m-17m", "--range ends at block 4352, and it has 4096"),
            ("1-8192", "byte 1 (--range) is not where a block of 4096 begins"),
            ("0lba-1lba", "in which I/Os of 8192 bytes (-o) do not fit"),
        ] {
            let (output, _) = served.perf(&format!("-o 8k -w read --range {range}"));
            assert!(output.status == Some(1) && output.stdout.contains(why), "{output:#?}");
        }
    }
}

#[test]
fn sizes_of_a_mix_are_told_apart_and_add_up() {
    let _turn = turn();
    for (rings, more) in [(false, ""), (true, " -q 64"), (false, " -P 2 -q 100 --io-queue-size 16")] {
        let served = Served::new("mix", rings, &[]);
        for pattern in ["randrw -M 50", "write"] {
            let (output, result) =
                served.good(&format!("-o 4k:70,64k:20,1m:10 -d 2000 --interval 100ms -w {pattern}{more}"));
            let (results, all) = (&result["results"], &result["results"]["merged"]);
            let sizes = results["sizes"].as_object().unwrap();
            let of = |name: &str, key: &str| sizes[name][key].as_u64().unwrap();
            for (size, percent) in [("4096", 70), ("65536", 20), ("1048576", 10)] {
                let ios = of(size, "ios");
                assert!(ios.abs_diff(20 * percent) < 100, "{size}: {ios}");
                assert_eq!(of(size, "bytes"), ios * size.parse::<u64>().unwrap());
                assert!(output.stdout.lines().any(|line| line.starts_with(size)), "{output:#?}");
            }
            let sum = |key| sizes.keys().map(|name| of(name, key)).sum::<u64>();
            assert_eq!((all["ios"].as_u64(), all["bytes"].as_u64()), (Some(sum("ios")), Some(sum("bytes"))));
            assert_eq!(all["ios"], 2000);
            // The table counts bytes and not I/Os.
            let total = common::total(&output.stdout).unwrap();
            assert!((total[1] / all["mib_per_s"].as_f64().unwrap() - 1.0).abs() < 0.01, "{total:?}");
        }
    }
}

#[test]
fn every_operation_does_what_it_says() {
    let _turn = turn();
    for rings in [false, true] {
        let served = Served::new("operations", rings, &[]);
        let all = |byte: u8| assert!(served.bytes().iter().all(|&one| one == byte), "not all bytes are {byte:x}");
        let count = |result: &Value, word: &str| result["results"]["operations"][word]["ios"].as_u64();
        // Larger than a command may be, where it transfers data.
        let (_, result) = served.good("-o 2m -w write_zeroes -d 100%");
        assert_eq!(count(&result, "write_zeroes"), Some(8));
        all(0);
        served.good("-o 64k -w write -d 100% --fill pattern:a5");
        all(0xa5);
        let (_, result) = served.good("-o 128k -w randverify --coverage full -d 100%");
        assert_eq!(
            (count(&result, "verify"), result["results"]["merged"]["bytes"].as_u64()),
            (Some(128), Some(SIZE as u64))
        );
        served.good("-o 16k -w randcompare -d 100% --coverage full --fill pattern:a5a5");
        let (output, _) = served.perf("-o 16k -w compare -d 16 --fill zero");
        assert_eq!(output.status, Some(1), "{output:#?}");
        assert!(output.stderr.contains("Compare of 4 blocks at LBA"), "{output:#?}");
        let (_, result) = served.good("-o 32k -w randtrim -d 100% --coverage full -P 2");
        assert_eq!(count(&result, "trim"), Some(512));
        all(0);
        let (output, result) = served.good("-o 4k -w randrw -M 50 -d 4000 --flush-every 10 -L");
        let [reads, writes, flushes] = ["read", "write", "flush"].map(|word| count(&result, word).unwrap());
        assert_eq!((reads + writes + flushes, writes / 10), (4000, flushes));
        assert!(output.stdout.contains("flush        :"), "{output:#?}");
        assert_eq!(result["results"]["operations"]["flush"]["bytes"], 0);
    }
}

#[test]
fn what_cannot_be_is_refused_with_the_reason() {
    let refused = |args: &str, why: &str| {
        let words: Vec<&str> = "perf -q 8 -t 1 -r trtype:TCP".split(' ').chain(args.split(' ')).collect();
        let output = run(&words);
        assert!(output.status == Some(1) && output.stderr.contains(why), "{output:#?}");
    };
    refused("-o 4k -w append", "zoned namespaces, which are not built yet");
    refused("-o 4k -w compare", "needs to know what is there");
    refused("-o 4k -w randread --flush-every 3", "--flush-every counts writes");
    refused("-o 4k:1,8k:1 -w randread --coverage full", "needs positions of one size");
    refused("-o 4k:1,8k:1 -w randread -F 0.9", "needs positions of one size");
    refused("-o 4k:1,8k:1 -w randread -d 10%", "counts I/Os of one size");
}
