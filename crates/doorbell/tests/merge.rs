//! `doorbell merge` on results of real runs against one target.

mod common;

use std::{collections::BTreeMap, fs};

use common::{Output, Target, run, start, turn};
use doorbell_result::{
    Document, Measurement,
    document::{Check, Verdict},
};

#[test]
fn two_processes_side_by_side_become_one_result() {
    let _turn = turn();
    let target = Target::start(&["--ram", "64M"]);
    let folder = common::Folder::new("merge");
    let files = [folder.file("one.json"), folder.file("two.json")];
    let perf = |file: &str, core: &str, more: &[&str]| {
        let id = target.id();
        let args =
            ["perf", "-r", &id, "-t", "1", "-q", "4", "-o", "4096", "-w", "randread", "-c", core, "--json", file];
        start(&[&args[..], more].concat())
    };
    let running = [perf(&files[0], "0x1", &[]), perf(&files[1], "0x2", &[])];
    running.into_iter().for_each(|one| assert_eq!(one.finish().status, Some(0)));

    let merge = |files: &[&str]| -> Output { run(&[&["merge"], files].concat()) };
    let output = merge(&[&files[0], &files[1], "--json", "-"]);
    assert_eq!(output.status, Some(0), "{output:#?}");
    let sum = Document::parse(&output.stdout).unwrap();
    let parts = files.each_ref().map(|file| Document::parse(&fs::read_to_string(file).unwrap()).unwrap());
    let latency = |one: &Measurement| one.latency.clone().unwrap();
    let mut buckets = BTreeMap::new();
    for part in &parts {
        for (start, count) in latency(&part.results.merged).distribution.buckets {
            *buckets.entry(start).or_insert(0) += count;
        }
    }
    let merged = &sum.results.merged;
    assert_eq!(latency(merged).distribution.buckets, buckets.into_iter().collect::<Vec<_>>());
    assert_eq!(merged.ios, parts.iter().map(|part| part.results.merged.ios).sum::<u64>());
    assert!((merged.iops - parts.iter().map(|part| part.results.merged.iops).sum::<f64>()).abs() < 1e-6);
    assert_eq!(sum.sources.iter().map(|source| source.result.clone()).collect::<Vec<_>>(), parts);
    let overlap = |sum: &Document| sum.audit.iter().rfind(|one| one.check == Check::Window).unwrap().clone();
    assert!(overlap(&sum).place.is_none() && overlap(&sum).size > Some(0.0), "{:?}", overlap(&sum));
    assert_eq!(output.stderr.lines().filter(|line| line.contains(" from core ")).count(), 2, "{}", output.stderr);

    // One that came later: its rate adds up to nothing that was reached, and the reader is told.
    let later = folder.file("later.json");
    assert_eq!(perf(&later, "0x1", &[]).finish().status, Some(0));
    let file = folder.file("sum.json");
    let output = merge(&[&files[0], &later, "--json", &file]);
    assert_eq!(output.status, Some(0), "{output:#?}");
    assert!(output.stdout.contains("Total") && output.stderr.contains("window: FAILED: all 2 runs"), "{output:#?}");
    let sum = Document::parse(&fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!((overlap(&sum).verdict, overlap(&sum).size), (Verdict::Failed, Some(0.0)));

    // What is refused leaves the file as it was.
    let writes = folder.file("writes.json");
    assert_eq!(perf(&writes, "0x1", &["-o", "512"]).finish().status, Some(0));
    let text = fs::read_to_string(&file).unwrap();
    let old = folder.file("old.json");
    fs::write(&old, text.replacen("\"schema_version\":2", "\"schema_version\":1", 1)).unwrap();
    for (other, said) in [
        (writes.as_str(), "have different I/Os: bytes of one: 4096 and 512"),
        (old.as_str(), "old.json is no result to work with: it is of schema version 1, and this doorbell reads 2"),
        (files[0].as_str(), "are the same run, which counts once"),
        (file.as_str(), "are the same run, which counts once"),
        ("/nowhere.json", "/nowhere.json cannot be read: No such file"),
    ] {
        let output = merge(&[&files[0], other, "--json", &file]);
        assert_eq!((output.status, output.stdout.as_str()), (Some(1), ""), "{output:#?}");
        assert!(output.stderr.contains(said), "{output:#?}");
        assert_eq!(fs::read_to_string(&file).unwrap(), text);
    }
}
