//! `doorbell perf` and `doorbell target` on two cores beside the socket floor, in interleaved pairs:
//!
//!     cargo build --release && cargo run --release -p doorbell-bench --bin tcp [ROUNDS]
//!
//! prints a row a shape: the medians of both and of the ratio pair by pair. Needs two cores with nothing else to do.

use std::{
    error::Error,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use doorbell_bench::floor::{Kind, Shape, measure};
use doorbell_platform::cpu;

const NQN: &str = "nqn.2026-11.io.doorbell:bench";
const SECONDS: u64 = 2;

fn main() -> Result<(), Box<dyn Error>> {
    let rounds: usize = std::env::args().nth(1).map_or(Ok(5), |text| text.parse())?;
    let cores = cpu::allowed()?;
    let [host_core, target_core] = [*cores.last().ok_or("no core")?, cores[0]];
    if host_core == target_core {
        return Err("two cores are needed, one for each end".into());
    }
    let doorbell = std::env::current_exe()?.with_file_name("doorbell");
    if !doorbell.exists() {
        return Err(format!("{} is missing: cargo build --release", doorbell.display()).into());
    }
    let target = Target::start(&doorbell, target_core)?;
    println!(
        "{:<26} {:>12} {:>12} {:>8}   ({rounds} pairs of {SECONDS} s each, medians)",
        "", "floor IOPS", "IOPS", "ratio"
    );
    for (name, kind, depth, size, options) in [
        ("4 KiB reads, depth 1", Kind::Read, 1, 4096, "-w randread"),
        ("4 KiB reads, depth 32", Kind::Read, 32, 4096, "-w randread"),
        ("4 KiB reads, depth 128", Kind::Read, 128, 4096, "-w randread"),
        ("4 KiB writes, depth 1", Kind::InCapsuleWrite, 1, 4096, "-w randwrite"),
        ("4 KiB writes, depth 32", Kind::InCapsuleWrite, 32, 4096, "-w randwrite"),
        ("4 KiB writes, depth 128", Kind::InCapsuleWrite, 128, 4096, "-w randwrite"),
        ("128 KiB reads, depth 32", Kind::Read, 32, 131_072, "-w randread"),
        ("128 KiB writes, depth 32", Kind::RequestedWrite, 32, 131_072, "-w randwrite"),
    ] {
        let (mut floors, mut ours, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            target.signal("-STOP")?;
            let time = Duration::from_secs(SECONDS);
            let floor = measure(Shape { kind, depth, size, time, cores: [host_core, target_core] })?;
            target.signal("-CONT")?;
            let reached = target.perf(&doorbell, host_core, depth, size, options)?;
            floors.push(floor);
            ours.push(reached);
            ratios.push(reached / floor);
        }
        println!("{name:<26} {:>12.0} {:>12.0} {:>8.2}", median(&mut floors), median(&mut ours), median(&mut ratios));
    }
    Ok(())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A polling target, killed when dropped.
struct Target {
    child: Child,
    id: String,
}

impl Target {
    fn start(doorbell: &PathBuf, core: usize) -> Result<Self, Box<dyn Error>> {
        let cores = format!("[{core}]");
        let mut child = Command::new(doorbell)
            .args(["target", "--ram", "512M", "--poll", "--listen", "127.0.0.1:0", "--nqn", NQN, "-c", &cores])
            .stdout(Stdio::piped())
            .spawn()?;
        let output = BufReader::new(child.stdout.take().ok_or("the target has no output")?);
        let mut target = Self { child, id: String::new() };
        for line in output.lines() {
            if let Some(address) = line?.strip_prefix("Listening on tcp:") {
                let port = address.rsplit(':').next().unwrap_or_default();
                target.id = format!("trtype:tcp traddr:127.0.0.1 trsvcid:{port} subnqn:{NQN}");
                return Ok(target);
            }
        }
        Err("the target ended before it listened".into())
    }

    fn signal(&self, signal: &str) -> Result<(), Box<dyn Error>> {
        match Command::new("kill").args([signal, &self.child.id().to_string()]).status()?.success() {
            true => Ok(()),
            false => Err("the target is gone".into()),
        }
    }

    /// One run; the IOPS of its Total line.
    fn perf(&self, doorbell: &Path, core: usize, depth: u32, size: u32, options: &str) -> Result<f64, Box<dyn Error>> {
        let (depth, size, time, cores) =
            (depth.to_string(), size.to_string(), SECONDS.to_string(), format!("[{core}]"));
        let output = Command::new(doorbell)
            .args(["perf", "-r", &self.id, "-q", &depth, "-o", &size, "-t", &time, "-c", &cores])
            .args(options.split(' '))
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let total = text.lines().find(|line| line.starts_with("Total"));
        let iops = total.and_then(|line| line.split_whitespace().nth(2)).and_then(|number| number.parse().ok());
        iops.ok_or_else(|| format!("perf printed no Total: {}", String::from_utf8_lossy(&output.stderr)).into())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
