//! `doorbell perf` and `doorbell target` on two cores, in interleaved pairs with the socket floor and with themselves:
//!
//!     cargo build --release && cargo run --release -p doorbell-bench --bin tcp [PAIRS [TEXT]]
//!
//! prints a row a shape: the medians of both sides and of the ratio pair by pair; with TEXT only the rows that contain it. The first
//! table holds Doorbell against the same bytes over plain sockets, the second a variant of the load against the plain load, and the
//! same variant of the floor against the plain floor: what checksums or more connections cost with nothing of ours. Needs two cores
//! with nothing else to do.
//!
//! A neighbour's load makes a machine slower by half for some seconds, one side of a pair more than the other. So the first side is
//! measured before and after the second, more pairs are measured than are asked for, and those count in which both came nearest the
//! best of their row. The column "quiet" says how near at least; a row that was slow from end to end does not show it there, but in its
//! IOPS beside another run's.

use std::{cell::RefCell, error::Error, fmt, time::Duration};

use doorbell_bench::{
    floor::{Kind, Shape, measure},
    median,
    priority::Raised,
    program::{Target, doorbell},
};
use doorbell_platform::cpu;

/// How long one side of a pair takes.
const TIME: Duration = Duration::from_secs(1);
/// Share of the best of its row that the first side of a pair must reach for no further pair to be measured in its place.
const QUIET: f64 = 0.9;
/// Pairs that are measured at most for one that is asked for.
const MOST_TRIES: usize = 2;

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

/// Variants of a load beside the load itself: I/O, depth, bytes, connections, digests.
const VARIANTS: [(&str, Kind, u32, u32, u32, bool); 10] = [
    ("4 KiB reads, depth 128: both digests", Kind::Read, 128, 4096, 1, true),
    ("4 KiB writes, depth 128: both digests", Kind::InCapsuleWrite, 128, 4096, 1, true),
    ("128 KiB reads, depth 32: both digests", Kind::Read, 32, 131_072, 1, true),
    ("128 KiB writes, depth 32: both digests", Kind::RequestedWrite, 32, 131_072, 1, true),
    ("4 KiB reads, depth 512: -P 4", Kind::Read, 512, 4096, 4, false),
    ("4 KiB writes, depth 512: -P 4", Kind::InCapsuleWrite, 512, 4096, 4, false),
    ("4 KiB reads, depth 128: -P 4", Kind::Read, 128, 4096, 4, false),
    ("4 KiB writes, depth 128: -P 4", Kind::InCapsuleWrite, 128, 4096, 4, false),
    ("4 KiB reads, depth 4096: -P 64", Kind::Read, 4096, 4096, 64, false),
    ("4 KiB writes, depth 4096: -P 64", Kind::InCapsuleWrite, 4096, 4096, 64, false),
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
    let start_ups: RefCell<Vec<(f64, String)>> = RefCell::default();
    let perf = |options: &str| -> Result<f64, Box<dyn Error>> {
        let reached = target.perf(host_core, TIME, options)?;
        start_ups.borrow_mut().push((reached.start_up.as_secs_f64() * 1e3, options.to_string()));
        Ok(reached.iops)
    };

    let cores = [host_core, target_core];
    let floor = |(kind, depth, size, connections, checksums)| -> Result<f64, Box<dyn Error>> {
        target.pause(true)?;
        let reached = measure(Shape { kind, depth, connections, size, checksums, time: TIME, cores })?;
        target.pause(false)?;
        Ok(reached)
    };
    let load = |kind, depth, size| {
        let pattern = if kind == Kind::Read { "randread" } else { "randwrite" };
        format!("-q {depth} -o {size} -w {pattern}")
    };

    heading(pairs, "beside the socket floor", "floor IOPS");
    for (name, kind, depth, connections, size) in FLOOR.into_iter().filter(|(name, ..)| name.contains(&only)) {
        let options = format!("{} -P {connections}", load(kind, depth, size));
        let measured = Pairs::measure(pairs, || floor((kind, depth, size, connections, false)), || perf(&options))?;
        println!("{name:<40} {measured}");
    }
    heading(pairs, "a variant beside the plain load; last, what the floor keeps of itself", "plain IOPS");
    for (name, kind, depth, size, connections, digests) in
        VARIANTS.into_iter().filter(|(name, ..)| name.contains(&only))
    {
        let plain = load(kind, depth, size);
        let variant = format!("{plain} -P {connections}{}", if digests { " -H -I" } else { "" });
        let measured = Pairs::measure(pairs, || perf(&plain), || perf(&variant))?;
        let bare = || floor((kind, depth, size, 1, false));
        let floors = Pairs::measure(pairs, bare, || floor((kind, depth, size, connections, digests)))?;
        println!("{name:<40} {measured} {:>8.2}", floors.ratio());
    }
    let mut start_ups = start_ups.take();
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
        "\n{what}; {pairs} pairs of {} s each side, medians\n{:<40} {first:>12} {:>12} {:>8} {:>6}",
        TIME.as_secs(),
        "",
        "IOPS",
        "ratio",
        "quiet"
    );
}

/// The pairs that count of one row.
struct Pairs {
    sides: [Vec<f64>; 2],
    /// The least that the first side reached in them, as a share of the best that it reached at all.
    quiet: f64,
}

impl Pairs {
    /// Measures until `count` pairs are quiet or it is time to take the quietest.
    fn measure(
        count: usize,
        mut first: impl FnMut() -> Result<f64, Box<dyn Error>>,
        mut second: impl FnMut() -> Result<f64, Box<dyn Error>>,
    ) -> Result<Self, Box<dyn Error>> {
        let mut before = first()?;
        let (mut all, mut best) = (Vec::new(), before);
        loop {
            let (reached, after) = (second()?, first()?);
            best = best.max(after);
            all.push((before.min(after), f64::midpoint(before, after), reached));
            before = after;
            let quiet = all.iter().filter(|(least, ..)| *least >= QUIET * best).count();
            if quiet >= count || all.len() == MOST_TRIES * count {
                break;
            }
        }
        all.sort_unstable_by(|left, right| right.0.total_cmp(&left.0));
        all.truncate(count);
        let quiet = all.last().map_or(f64::NAN, |(least, ..)| least / best);
        let (first, second) = all.into_iter().map(|(_, first, second)| (first, second)).unzip();
        Ok(Self { sides: [first, second], quiet })
    }

    /// The median of the ratio pair by pair.
    fn ratio(&self) -> f64 {
        let [first, second] = &self.sides;
        median(&mut first.iter().zip(second).map(|(first, second)| second / first).collect::<Vec<_>>())
    }
}

impl fmt::Display for Pairs {
    /// Both sides' medians and that of the ratio, and how quiet it was.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, second] = self.sides.each_ref().map(|side| median(&mut side.clone()));
        write!(f, "{first:>12.0} {second:>12.0} {:>8.2} {:>6.2}", self.ratio(), self.quiet)
    }
}
