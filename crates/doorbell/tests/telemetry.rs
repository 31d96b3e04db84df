//! What drives say of themselves: before and after a run, the latencies that Intel's drives keep, and every log page. Our target plays
//! the drive.
#![allow(missing_docs, reason = "tests")]

mod common;

use common::{Output, Target, run};
use doorbell_result::Document;

fn perf(target: &Target, more: &[&str]) -> Output {
    let id = target.id();
    run(&[&["perf", "-r", &id, "-q", "1", "-o", "4096", "-t", "30", "-d", "8"], more].concat())
}

/// The sum of all buckets below a heading, each of which must be this one.
fn counted(stdout: &str, heading: &str, bucket: &str) -> u64 {
    let (_, after) = stdout.split_once(heading).unwrap_or_else(|| panic!("no {heading}: {stdout}"));
    let lines = after.lines().skip(1).take_while(|line| !line.ends_with("Statistics:"));
    let counts = lines.filter_map(|line| line.strip_prefix("Bucket ")).map(|line| {
        let (range, count) = line.split_once(": ").unwrap();
        assert_eq!(range, bucket);
        count.parse::<u64>().unwrap()
    });
    counts.sum()
}

#[test]
fn latencies_that_the_drive_keeps_are_shown_and_are_off_otherwise() {
    // In buckets so wide that a busy machine stays within them.
    let script = "latency fixed 330ms on write; latency fixed 100us on read; intel-latency";
    let target = Target::start(&["--ram", "16M", "--fault", script]);
    let output = perf(&target, &["-l", "-w", "write"]);
    assert_eq!(output.status, Some(0), "{output:#?}");
    assert_eq!(counted(&output.stdout, "Write Latency Statistics:", "320ms - 352ms"), 8);
    assert!(!output.stdout.contains("Read Latency Statistics:"), "no read was possible");
    assert!(output.stdout.find("Device Information") < output.stdout.find("Write Latency Statistics:"));
    let none = perf(&target, &["-w", "write"]);
    assert!(none.status == Some(0) && !none.stdout.contains("Latency Statistics"), "{none:#?}");
    let identify = run(&["identify", "-r", &target.id()]);
    assert!(identify.stdout.contains("320ms - 352ms: 8"), "switched off after the run: {}", identify.stdout);
    let both = perf(&target, &["-l", "-w", "rw", "-M", "50"]);
    assert!(both.stdout.contains("Read Latency Statistics:"), "{both:#?}");
    assert!(counted(&both.stdout, "Write Latency Statistics:", "320ms - 352ms") < 8, "counted anew");
}

#[test]
fn a_drive_without_them_says_so_and_the_run_goes_on() {
    let target = Target::start(&["--ram", "16M"]);
    let output = perf(&target, &["-l", "-w", "read"]);
    assert_eq!(output.status, Some(0), "{output:#?}");
    let why =
        "Latency statistics are not available: they are something of Intel's drives, and the vendor here is 0000h";
    assert!(output.stdout.contains(why), "{}", output.stdout);
}

#[test]
fn the_result_has_what_the_drive_said_before_and_after() {
    let target = Target::start(&["--ram", "16M"]);
    let output = perf(&target, &["-w", "read", "--json", "-"]);
    let document = Document::parse(&output.stdout).unwrap();
    let [drive] = &document.drives[..] else { panic!("one controller: {:?}", document.drives) };
    assert!(drive.controller.ends_with(&format!(", port {}", target.port)), "{}", drive.controller);
    let (before, after) = (drive.before.as_ref().unwrap(), drive.after.as_ref().unwrap());
    assert_eq!(before.host_reads, 0);
    assert_eq!((before.temperature_c, after.spare_percent, after.ocp), (Some(25), 100, None));
    assert!(!output.stderr.contains("Drive:"), "nothing of note happened: {}", output.stderr);
}

#[test]
fn every_log_page_is_shown() {
    let target = Target::start(&["--ram", "16M"]);
    let output = run(&["identify", "--json", "-r", &target.id()]);
    let shown: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    let pages = shown[0]["log_pages"].as_array().unwrap();
    let find = |name: &str| pages.iter().find(|page| page["page"].as_str().unwrap().starts_with(name)).unwrap();
    assert_eq!(find("SMART")["temperature_celsius"], 25);
    assert_eq!(find("Supported Log Pages")["pages"], pages.len());
    assert!(find("Commands Supported")["io_commands"].as_str().unwrap().starts_with("00h 01h 02h"));
    assert!(find("Firmware")["slots"].as_str().unwrap().starts_with("1: "));
    assert_eq!(find("Error Information")["newest"], "none");
    assert!(find("Asymmetric")["groups"].as_str().unwrap().contains("ANA Optimized"));
    assert!(pages.iter().all(|page| page.get("unavailable").is_none()), "{pages:#?}");
    let text = run(&["identify", "-r", &target.id()]).stdout;
    assert!(text.contains("SMART / Health Information (02h)") && text.contains("data units read:"), "{text}");
}
