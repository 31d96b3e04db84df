//! The program under test: a polling target, and runs of `perf` against it.

use std::{
    error::Error,
    fs,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const NQN: &str = "nqn.2026-11.io.doorbell:bench";

/// Where `doorbell` is: beside the benchmarks.
///
/// # Errors
/// When it is not built.
pub fn doorbell() -> Result<PathBuf, Box<dyn Error>> {
    let doorbell = std::env::current_exe()?.with_file_name("doorbell");
    match doorbell.exists() {
        true => Ok(doorbell),
        false => Err(format!("{} is missing: cargo build --release", doorbell.display()).into()),
    }
}

/// What a run of `perf` gave.
#[derive(Clone, Copy, Debug)]
pub struct Reached {
    /// Of its Total line.
    pub iops: f64,
    /// Largest resident memory in KiB.
    pub resident: u64,
    /// From its start until it said that its workers start.
    pub start_up: Duration,
}

/// A polling target, killed when dropped.
#[derive(Debug)]
pub struct Target {
    child: Child,
    id: String,
    doorbell: PathBuf,
    /// Where it listens over vfio-user.
    directory: Option<PathBuf>,
}

impl Target {
    /// Starts one of 512 MiB of memory, reached over TCP, on a core.
    ///
    /// # Errors
    /// When it does not come to listen.
    pub fn start(doorbell: PathBuf, core: usize) -> Result<Self, Box<dyn Error>> {
        let (mut target, listening) = Self::spawn(doorbell, core, ["--ram", "512M"], "127.0.0.1:0")?;
        let port = listening.rsplit(':').next().unwrap_or_default();
        target.id = format!("trtype:tcp traddr:127.0.0.1 trsvcid:{port} subnqn:{NQN}");
        Ok(target)
    }

    /// Starts one of a namespace (`--null 1T`, `--ram 1G`), reached over vfio-user, on a core.
    ///
    /// # Errors
    /// When it does not come to listen.
    pub fn over_vfio_user(doorbell: PathBuf, core: usize, namespace: [&str; 2]) -> Result<Self, Box<dyn Error>> {
        let directory = std::env::temp_dir().join(format!("doorbell-bench.{}", std::process::id()));
        let path = directory.display();
        let (mut target, _) = Self::spawn(doorbell, core, namespace, &format!("vfio-user:{path}"))?;
        target.id = format!("trtype:VFIOUSER traddr:{path}");
        target.directory = Some(directory);
        Ok(target)
    }

    /// Starts a target; returns with it what it says it listens on.
    fn spawn(
        doorbell: PathBuf,
        core: usize,
        namespace: [&str; 2],
        listen: &str,
    ) -> Result<(Self, String), Box<dyn Error>> {
        let cores = format!("[{core}]");
        let mut child = Command::new(&doorbell)
            .arg("target")
            .args(namespace)
            .args(["--poll", "--listen", listen, "--nqn", NQN, "-c", &cores])
            .stdout(Stdio::piped())
            .spawn()?;
        let output = BufReader::new(child.stdout.take().ok_or("the target has no output")?);
        let target = Self { child, id: String::new(), doorbell, directory: None };
        for line in output.lines() {
            if let Some(listening) = line?.strip_prefix("Listening on ") {
                return Ok((target, listening.to_owned()));
            }
        }
        Err("the target ended before it listened".into())
    }

    /// Stops it from polling, or lets it go on.
    ///
    /// # Errors
    /// When it is gone.
    pub fn pause(&self, pause: bool) -> Result<(), Box<dyn Error>> {
        let signal = if pause { "-STOP" } else { "-CONT" };
        match Command::new("kill").args([signal, &self.child.id().to_string()]).status()?.success() {
            true => Ok(()),
            false => Err("the target is gone".into()),
        }
    }

    /// One run of `perf` on a core.
    ///
    /// # Errors
    /// When it prints no Total line.
    pub fn perf(&self, core: usize, time: Duration, options: &str) -> Result<Reached, Box<dyn Error>> {
        let (time, cores, start) = (time.as_secs().to_string(), format!("[{core}]"), Instant::now());
        let mut child = Command::new(&self.doorbell)
            .args(["perf", "-r", &self.id, "-t", &time, "-c", &cores])
            .args(options.split(' '))
            .stdout(Stdio::piped())
            .spawn()?;
        let status = format!("/proc/{}/status", child.id());
        let mut reached = Reached { iops: 0.0, resident: 0, start_up: Duration::ZERO };
        for line in BufReader::new(child.stdout.take().ok_or("perf has no output")?).lines() {
            let line = line?;
            if line.starts_with("Initialization complete") {
                reached.start_up = start.elapsed();
            } else if line.starts_with("Total") {
                reached.iops = line.split_whitespace().nth(2).and_then(|number| number.parse().ok()).unwrap_or(0.0);
            }
            // It ends soon after its last line, so its memory is looked at line by line.
            let peak = fs::read_to_string(&status).unwrap_or_default();
            let peak = peak.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let peak = peak.and_then(|text| text.trim().strip_suffix(" kB")?.parse().ok());
            reached.resident = reached.resident.max(peak.unwrap_or(0));
        }
        match child.wait()?.success() && reached.iops > 0.0 {
            true => Ok(reached),
            false => Err(format!("perf {options} failed").into()),
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(directory) = &self.directory {
            let _ = fs::remove_dir_all(directory);
        }
    }
}
