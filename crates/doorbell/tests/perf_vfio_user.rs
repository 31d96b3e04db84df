//! `doorbell perf` against `doorbell target` over vfio-user, as a user runs them: depths and sizes, several queues and workers, and
//! either side killed at any time.

mod common;

use std::{
    fs,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use common::{DOORBELL, Output, Process, Running, run, start, total, turn};

/// `doorbell target` in a directory, which goes with it; killed when dropped.
struct Device {
    child: Process,
    directory: PathBuf,
}

impl Device {
    /// In the directory of one before it, or in a new one for this test.
    fn start(name: &str, args: &[&str]) -> Self {
        let directory = std::env::temp_dir().join(format!("doorbell-{name}-{}", std::process::id()));
        let listen = format!("vfio-user:{}", directory.display());
        let mut command = Command::new(DOORBELL);
        let mut child = Process::of(command.args(["target", "--listen", &listen]).args(args).stdout(Stdio::piped()));
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, ready) = mpsc::channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok).filter(|line| line.starts_with("Listening on vfio-user:"))
            {
                let _ = sender.send(line);
            }
        });
        ready.recv_timeout(Duration::from_secs(60)).expect("the target says where it listens");
        Self { child, directory }
    }

    fn id(&self) -> String {
        format!("trtype:VFIOUSER traddr:{}", self.directory.display())
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Starts a run that only a signal or a loss ends, and waits until it has measured a while.
fn long_run(device: &Device, args: &[&str]) -> Running {
    let load = ["perf", "-r", &device.id(), "-q", "8", "-o", "4096", "-w", "randread", "-t", "50"];
    let running = start(&[&load, args].concat());
    running.until_it_says("Launching workers");
    thread::sleep(Duration::from_millis(300));
    running
}

#[track_caller]
fn assert_measured(output: &Output) {
    assert_eq!(output.status, Some(0), "{output:#?}");
    assert!(total(&output.stdout).is_some_and(|total| total[0] > 0.0), "{output:#?}");
    assert!(!output.stderr.contains("Problem"), "{output:#?}");
}

#[test]
fn depths_sizes_queues_and_workers_are_driven() {
    let _turn = turn();
    let device = Device::start("depths", &["--ram", "64M"]);
    for load in [
        "-q 1 -o 512 -w randread",
        "-q 8 -o 4096 -w randwrite -N",
        "-q 32 -o 65536 -w randrw -M 30 -c 0x3 --use-every-core",
        "-q 128 -o 1048576 -w read",
        "-q 4096 -o 4096 -w randrw -M 50 -P 4 -c 0x3 --use-every-core",
    ] {
        let id = device.id();
        let args: Vec<&str> = ["perf", "-r", &id, "-t", "1", "-L"].into_iter().chain(load.split(' ')).collect();
        let output = run(&args);
        assert_measured(&output);
        let name = format!("VFIOUSER ({}) NSID 1", device.directory.display());
        assert!(output.stdout.contains(&name), "{load}: {output:#?}");
    }
}

#[test]
fn a_worker_that_sleeps_is_woken_by_interrupts() {
    let _turn = turn();
    let device = Device::start("interrupts", &["--ram", "16M"]);
    let output = run(&["perf", "-r", &device.id(), "-q", "4", "-o", "4096", "-w", "randread", "-t", "1", "-E"]);
    assert_measured(&output);
}

#[test]
fn a_device_that_is_killed_ends_the_run_with_the_reason() {
    let _turn = turn();
    for args in ["-P 2 -c 0x3 --use-every-core", "-E"] {
        let mut device = Device::start("killed", &["--null", "1T"]);
        let running = long_run(&device, &args.split(' ').collect::<Vec<_>>());
        device.kill();
        let output = running.finish();
        assert_eq!((output.status, total(&output.stdout).is_some()), (Some(1), true), "{output:#?}");
        for said in ["is lost: the device's process closed the connection", "Abandoned I/Os"] {
            assert!(output.stderr.contains(said), "\"{said}\": {output:#?}");
        }
    }
}

#[test]
fn a_device_that_is_killed_before_it_is_driven_is_an_error_that_says_so() {
    let mut device = Device::start("dead", &["--null", "1G"]);
    device.kill();
    let output = run(&["perf", "-r", &device.id(), "-q", "1", "-o", "4096", "-w", "read", "-t", "1"]);
    assert_eq!(output.status, Some(1), "{output:#?}");
    assert!(output.stderr.contains("the device's process has ended; start it again"), "{output:#?}");
}

#[test]
fn a_host_that_is_killed_leaves_a_device_that_serves_the_next() {
    let _turn = turn();
    let device = Device::start("orphan", &["--ram", "16M"]);
    let mut running = long_run(&device, &["-P", "2"]);
    // Meanwhile it serves nobody else.
    let second = run(&["identify", "-r", &device.id()]);
    assert_eq!(second.status, Some(1), "{second:#?}");
    assert!(second.stderr.contains("is the device used by another process?"), "{second:#?}");
    running.child.kill().unwrap();
    running.finish();
    assert_measured(&run(&["perf", "-r", &device.id(), "-q", "8", "-o", "4096", "-w", "randread", "-t", "1"]));
}

#[test]
fn ctrl_c_ends_a_run_in_order() {
    let _turn = turn();
    let device = Device::start("ctrl-c", &["--null", "1T"]);
    let running = long_run(&device, &[]);
    running.signal("-INT");
    assert_measured(&running.finish());
    let again = run(&["identify", "-r", &device.id()]);
    assert_eq!(again.status, Some(0), "it was let go of: {again:#?}");
}

#[test]
fn a_device_killed_and_started_again_is_driven_on() {
    let _turn = turn();
    for more in ["-P 2 -U 1 -c 0x3 --use-every-core", "-E"] {
        let mut device = Device::start("again", &["--ram", "16M"]);
        let args: Vec<&str> = ["--reconnect", "20"].into_iter().chain(more.split(' ')).collect();
        let running = long_run(&device, &args);
        device.kill();
        running.until_it_says("bringing it back");
        let _again = Device::start("again", &["--ram", "16M"]);
        running.until_it_says("I/O goes on");
        thread::sleep(Duration::from_millis(500));
        running.signal("-INT");
        let output = running.finish();
        assert_measured(&output);
        assert!(output.stderr.contains("s without I/O on VFIOUSER"), "{output:#?}");
    }
}
