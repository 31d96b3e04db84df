//! A run that writes asks first: namespaces whose files hold what real tools made.
#![allow(missing_docs, reason = "tests")]

mod common;

use std::{
    fs::{self, File},
    path::PathBuf,
    process::Command,
};

use common::{NQN, Output, Target, run, start_as, total};

const SIZE: u64 = 32 << 20;

struct Image(PathBuf);

impl Image {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("doorbell-overwrite-{}-{name}", std::process::id()));
        File::create(&path).unwrap().set_len(SIZE).unwrap();
        Self(path)
    }

    fn with_ext4(name: &str) -> Self {
        let image = Self::new(name);
        let mut mkfs = Command::new("mkfs.ext4");
        let made = mkfs.arg("-qF").arg(&image.0).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        assert!(made.status().unwrap().success());
        image
    }

    fn text(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn write(id: &str, more: &[&str]) -> Output {
    run(&[&["perf", "-r", id, "-q", "4", "-o", "4096", "-w", "randwrite", "-t", "30", "-d", "50"], more].concat())
}

#[test]
fn a_namespace_with_a_file_system_is_written_to_only_when_it_is_named() {
    let (used, empty) = (Image::with_ext4("used"), Image::new("empty"));
    let before = fs::read(&used.0).unwrap();
    let target = Target::start(&["--file", used.text(), "--file", empty.text()]);
    let name = format!("TCP (addr:127.0.0.1 subnqn:{NQN}) NSID 1");

    let refused = write(&target.id(), &[]);
    assert_eq!(refused.status, Some(1));
    let insist = format!("--overwrite '{name}, port {}'", target.port);
    for said in [&format!("{name}, port {}: it holds an ext4 file system", target.port), &insist] {
        assert!(refused.stderr.contains(said), "{}", refused.stderr);
    }
    assert!(!refused.stderr.contains("NSID 2"), "nothing is said of what is empty: {}", refused.stderr);
    for word in ["trim", "randwrite_zeroes"] {
        let refused = run(&["perf", "-r", &target.id(), "-q", "4", "-o", "4096", "-w", word, "-t", "1"]);
        assert!(refused.status == Some(1) && refused.stderr.contains(&insist), "{}", refused.stderr);
    }
    assert!(before == fs::read(&used.0).unwrap(), "not a byte was written");
    let nothing = vec![0; SIZE as usize];
    assert!(fs::read(&empty.0).unwrap() == nothing);

    let reads = run(&[
        "perf",
        "-r",
        &target.id(),
        "-q",
        "4",
        "-o",
        "4096",
        "-w",
        "randread",
        "-t",
        "30",
        "-d",
        "50",
        "--overwrite",
        "x",
    ]);
    assert_eq!(reads.status, Some(0), "{}", reads.stderr);
    assert!(reads.stderr.contains("--overwrite has no effect: nothing is written"));

    let wrong = write(&target.id(), &["--overwrite", "/dev/sda"]);
    assert!(
        wrong.stderr.contains("--overwrite \"/dev/sda\": nothing that is tested has this name"),
        "{}",
        wrong.stderr
    );
    let written = write(&format!("{} ns:2", target.id()), &[]);
    assert_eq!(written.status, Some(0), "the empty one needs no flag: {}", written.stderr);
    let again = write(&format!("{} ns:2", target.id()), &[]);
    assert_eq!(again.status, Some(0), "nor does it with what such a run has written: {}", again.stderr);
    let insisted = write(&target.id(), &["--overwrite", &name]);
    assert_eq!(insisted.status, Some(0), "{}", insisted.stderr);
    assert!(total(&insisted.stdout).unwrap()[0] > 0.0);
    assert!(before != fs::read(&used.0).unwrap());
}

#[test]
fn all_queues_that_are_granted_are_there_for_the_run_after_the_look() {
    let target = Target::start(&["--ram", "16M", "--max-queues", "1"]);
    for _ in 0..3 {
        let output = write(&target.id(), &[]);
        assert_eq!(output.status, Some(0), "{}", output.stderr);
    }
}

#[test]
fn a_process_that_plays_a_device_is_looked_at_too() {
    let used = Image::with_ext4("vfio-user");
    let folder = std::env::temp_dir().join(format!("doorbell-overwrite-{}-socket", std::process::id()));
    fs::create_dir(&folder).unwrap();
    let listen = format!("vfio-user:{}", folder.display());
    let mut command = Command::new(common::DOORBELL);
    let running = start_as(command.args(["target", "--listen", &listen, "--file", used.text(), "--max-queues", "1"]));
    running.until_it_says("Listening on vfio-user:");
    let id = format!("trtype:VFIOUSER traddr:{}", folder.display());
    let refused = write(&id, &[]);
    assert!(refused.status == Some(1) && refused.stderr.contains("it holds an ext4 file system"), "{}", refused.stderr);
    let name = format!("VFIOUSER ({}) NSID 1", folder.display());
    let written = write(&id, &["--overwrite", &name]);
    assert_eq!(written.status, Some(0), "{}", written.stderr);
    let mut running = running;
    running.child.kill().unwrap();
    let _ = running.finish();
    fs::remove_dir_all(&folder).unwrap();
}
