//! `doorbell perf` and `doorbell target` over vfio-user on two cores, in interleaved pairs with what the machine can do:
//!
//!     cargo build --release && cargo run --release -p doorbell-bench --bin vfio_user [PAIRS [TEXT]]
//!
//! prints a row a shape: the medians of both sides, that of the ratio pair by pair, and whether it reaches its bar; with TEXT only the
//! rows that contain it. A null device stands beside the bare ring, a device in memory beside one core that copies the same random
//! blocks. Ends with a failure when a row is below its bar. Needs two cores with nothing else to do.

use std::{error::Error, time::Duration};

use doorbell_bench::{
    copy_floor::{self, Way},
    median,
    priority::Raised,
    program::{Target, doorbell},
    ring_floor,
};
use doorbell_platform::cpu;

/// How long one side of a pair takes.
const TIME: Duration = Duration::from_secs(1);
/// Bytes of the device in memory; it is written before it is measured.
const FOOTPRINT: usize = 1 << 30;

/// Depths of the null device and their bars.
const NULL: [(&str, u32, f64); 3] = [
    ("null, 4 KiB reads, depth 1", 1, 0.65),
    ("null, 4 KiB reads, depth 8", 8, 0.30),
    ("null, 4 KiB reads, depth 128", 128, 0.16),
];

/// Shapes of the device in memory: way, depth, bytes.
const RAM: [(&str, Way, u32, usize); 4] = [
    ("memory, 4 KiB reads, depth 128", Way::Read, 128, 4096),
    ("memory, 4 KiB writes, depth 128", Way::Write, 128, 4096),
    ("memory, 128 KiB reads, depth 32", Way::Read, 32, 131_072),
    ("memory, 128 KiB writes, depth 32", Way::Write, 32, 131_072),
];
const RAM_BAR: f64 = 0.85;

fn main() -> Result<(), Box<dyn Error>> {
    let pairs: usize = std::env::args().nth(1).map_or(Ok(5), |text| text.parse())?;
    let only = std::env::args().nth(2).unwrap_or_default();
    let cores = cpu::allowed()?;
    let [host_core, target_core] = [cores[0], *cores.last().ok_or("no core")?];
    if host_core == target_core {
        return Err("two cores are needed, one for each end".into());
    }
    let _raised = Raised::new();
    let mut met = true;

    let rows: Vec<_> = NULL.into_iter().filter(|(name, ..)| name.contains(&only)).collect();
    if !rows.is_empty() {
        let target = Target::over_vfio_user(doorbell()?, target_core, ["--null", "1T"])?;
        heading(pairs, "beside the bare ring");
        for (name, depth, bar) in rows {
            let options = format!("-q {depth} -o 4096 -w randread");
            met &= row(name, bar, pairs, &target, host_core, &options, || {
                Ok(ring_floor::measure(depth, TIME, [host_core, target_core])?)
            })?;
        }
    }
    let rows: Vec<_> = RAM.into_iter().filter(|(name, ..)| name.contains(&only)).collect();
    if !rows.is_empty() {
        let target = Target::over_vfio_user(doorbell()?, target_core, ["--ram", &FOOTPRINT.to_string()])?;
        fill(&target, host_core)?;
        heading(pairs, "beside one core that copies the same blocks");
        for (name, way, depth, size) in rows {
            let pattern = if way == Way::Read { "randread" } else { "randwrite" };
            let options = format!("-q {depth} -o {size} -w {pattern}");
            met &= row(name, RAM_BAR, pairs, &target, host_core, &options, || {
                Ok(copy_floor::measure(way, size, FOOTPRINT, TIME, target_core)?)
            })?;
        }
    }
    if met { Ok(()) } else { Err("not every bar was reached".into()) }
}

/// Writes the whole device once, in order.
fn fill(target: &Target, core: usize) -> Result<(), Box<dyn Error>> {
    let size = 131_072;
    let written = target.perf(core, 2 * TIME, &format!("-q 32 -o {size} -w write"))?.iops * 2.0 * TIME.as_secs_f64();
    match written * f64::from(size) >= FOOTPRINT as f64 {
        true => Ok(()),
        false => Err("the device could not be written as a whole in the time for it".into()),
    }
}

fn heading(pairs: usize, what: &str) {
    let time = TIME.as_secs();
    println!("\n{what}; {pairs} pairs of {time} s each side, medians");
    println!("{:<36} {:>12} {:>12} {:>8} {:>6}", "", "bare", "IOPS", "ratio", "bar");
}

/// Measures a row and prints both sides' medians, that of the ratio pair by pair, and the bar; returns whether it is reached.
fn row(
    name: &str,
    bar: f64,
    pairs: usize,
    target: &Target,
    core: usize,
    options: &str,
    bare: impl Fn() -> Result<f64, Box<dyn Error>>,
) -> Result<bool, Box<dyn Error>> {
    let (mut bares, mut reached) = (Vec::new(), Vec::new());
    for _ in 0..pairs {
        target.pause(true)?;
        bares.push(bare()?);
        target.pause(false)?;
        reached.push(target.perf(core, TIME, options)?.iops);
    }
    let mut ratios: Vec<f64> = bares.iter().zip(&reached).map(|(bare, reached)| reached / bare).collect();
    let (bare, reached, ratio) = (median(&mut bares), median(&mut reached), median(&mut ratios));
    let verdict = if ratio >= bar { "met" } else { "not met" };
    println!("{name:<36} {bare:>12.0} {reached:>12.0} {ratio:>8.3} {bar:>6.2} {verdict}");
    Ok(ratio >= bar)
}
