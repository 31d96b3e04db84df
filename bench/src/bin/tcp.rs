//! `doorbell perf` and `doorbell target` on two cores, in interleaved pairs with the socket floor and with themselves:
//!
//!     cargo build --release && cargo run --release -p doorbell-bench --bin tcp [PAIRS [TEXT]]
//!
//! prints a row a shape: the medians of both sides and of the ratio pair by pair; with TEXT only the rows that contain it. The first
//! table holds Doorbell against the same bytes over plain sockets, the second a variant of the load against the plain load. Needs
//! two cores with nothing else to do.

use std::{error::Error, time::Duration};

use doorbell_bench::{
    floor::{Kind, Shape, measure},
    median,
    priority::Raised,
    program::{Target, doorbell},
};
use doorbell_platform::cpu;

/// How long one side of a pair takes.
const TIME: Duration = Duration::from_secs(1);

/// Shapes measured beside the floor: I/O, depth over all connections, connections, bytes.
const FLOOR: [(&str, Kind, u32, u32, u32); 14] = [
    ("4 KiB reads, depth 1", Kind::Read, 1, 1, 4096),
    ("4 KiB reads, depth 32", Kind::Read, 32, 1, 4096),
    ("4 KiB reads, depth 128", Kind::Read, 128, 1, 4096),
    ("4 KiB writes, depth 1", Kind::InCapsuleWrite, 1, 1, 4096),
    ("4 KiB writes, depth 32", Kind::InCapsuleWrite, 32, 1, 4096),
    ("4 KiB writes, depth 128", Kind::InCapsuleWrite, 128, 1, 4096),
    ("16 KiB writes by R2T, depth 32", Kind::RequestedWrite, 32, 1, 16_384),
    ("128 KiB reads, depth 32", Kind::Read, 32, 1, 131_072),
    ("128 KiB writes by R2T, depth 32", Kind::RequestedWrite, 32, 1, 131_072),
    ("4 KiB reads, depth 128 over 4", Kind::Read, 128, 4, 4096),
    ("4 KiB reads, depth 128 over 64", Kind::Read, 128, 64, 4096),
    ("4 KiB writes, depth 128 over 64", Kind::InCapsuleWrite, 128, 64, 4096),
    ("4 KiB reads, depth 4096 over 64", Kind::Read, 4096, 64, 4096),
    ("4 KiB writes, depth 4096 over 64", Kind::InCapsuleWrite, 4096, 64, 4096),
];

/// Variants of a load beside the load itself.
const VARIANTS: [(&str, &str, &str); 9] = [
    ("4 KiB reads, depth 128: both digests", "-q 128 -o 4096 -w randread", "-H -I"),
    ("4 KiB writes, depth 128: both digests", "-q 128 -o 4096 -w randwrite", "-H -I"),
    ("128 KiB reads, depth 32: both digests", "-q 32 -o 131072 -w randread", "-H -I"),
    ("128 KiB writes, depth 32: both digests", "-q 32 -o 131072 -w randwrite", "-H -I"),
    ("4 KiB reads, depth 512: -P 4", "-q 512 -o 4096 -w randread", "-P 4"),
    ("4 KiB writes, depth 512: -P 4", "-q 512 -o 4096 -w randwrite", "-P 4"),
    ("4 KiB reads, depth 128: -P 4", "-q 128 -o 4096 -w randread", "-P 4"),
    ("4 KiB reads, depth 4096: -P 64", "-q 4096 -o 4096 -w randread", "-P 64"),
    ("4 KiB writes, depth 4096: -P 64", "-q 4096 -o 4096 -w randwrite", "-P 64"),
];

fn main() -> Result<(), Box<dyn Error>> {
    let pairs: usize = std::env::args().nth(1).map_or(Ok(5), |text| text.parse())?;
    let only = std::env::args().nth(2).unwrap_or_default();
    let cores = cpu::allowed()?;
    let [host_core, target_core] = [*cores.last().ok_or("no core")?, cores[0]];
    if host_core == target_core {
        return Err("two cores are needed, one for each end".into());
    }
    let _raised = Raised::new();
    let target = Target::start(doorbell()?, target_core)?;
    let mut start_ups: Vec<(f64, String)> = Vec::new();
    let mut perf = |options: &str| -> Result<f64, Box<dyn Error>> {
        let reached = target.perf(host_core, TIME, options)?;
        start_ups.push((reached.start_up.as_secs_f64() * 1e3, options.to_string()));
        Ok(reached.iops)
    };

    heading(pairs, "beside the socket floor", "floor IOPS");
    for (name, kind, depth, connections, size) in FLOOR.into_iter().filter(|(name, ..)| name.contains(&only)) {
        let pattern = if kind == Kind::Read { "randread" } else { "randwrite" };
        let options = format!("-q {depth} -P {connections} -o {size} -w {pattern}");
        let mut sides = [Vec::new(), Vec::new()];
        for _ in 0..pairs {
            target.pause(true)?;
            let cores = [host_core, target_core];
            sides[0].push(measure(Shape { kind, depth, connections, size, time: TIME, cores })?);
            target.pause(false)?;
            sides[1].push(perf(&options)?);
        }
        row(name, sides);
    }
    heading(pairs, "a variant beside the plain load", "plain IOPS");
    for (name, plain, variant) in VARIANTS.into_iter().filter(|(name, ..)| name.contains(&only)) {
        let mut sides = [Vec::new(), Vec::new()];
        for _ in 0..pairs {
            sides[0].push(perf(plain)?);
            sides[1].push(perf(&format!("{plain} {variant}"))?);
        }
        row(name, sides);
    }
    start_ups.sort_unstable_by(|left, right| left.0.total_cmp(&right.0));
    if let [.., (longest, slowest)] = &start_ups[..] {
        let median = start_ups[start_ups.len() / 2].0;
        println!("\nstart-up to the first I/O: median {median:.1} ms, at most {longest:.1} ms ({slowest})");
    }
    let peak = target.perf(host_core, Duration::from_secs(1), "-q 128 -o 4096 -w randread -L")?.resident;
    println!("memory of perf, 4 KiB at depth 128: {:.1} MiB", peak as f64 / 1024.0);
    Ok(())
}

fn heading(pairs: usize, what: &str, first: &str) {
    println!(
        "\n{what}; {pairs} pairs of {} s each side, medians\n{:<40} {first:>12} {:>12} {:>8}",
        TIME.as_secs(),
        "",
        "IOPS",
        "ratio"
    );
}

/// Prints both sides' medians, and that of the ratio pair by pair.
fn row(name: &str, [mut first, mut second]: [Vec<f64>; 2]) {
    let mut ratios: Vec<f64> = first.iter().zip(&second).map(|(first, second)| second / first).collect();
    println!("{name:<40} {:>12.0} {:>12.0} {:>8.2}", median(&mut first), median(&mut second), median(&mut ratios));
}
