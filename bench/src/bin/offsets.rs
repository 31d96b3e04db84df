//! What the choice of an offset costs: each way of a random pattern beside the bounded random draw, in nanoseconds.
//!
//!     cargo run --release -p doorbell-bench --bin offsets
//!
//! The ways take turns, and the median of many rounds is told; the last column must stay below 3 for full coverage.

use std::{hint::black_box, time::Instant};

use doorbell_load::{
    Pattern,
    permutation::Cover,
    workload::{Part, Workload, generator},
    zipf::Zipf,
};

const DRAWS: u32 = 1 << 18;
const ROUNDS: usize = 51;

fn main() {
    println!("{:>20}  {:<14} {:>9} {:>10}", "positions", "", "ns/draw", "x random");
    for units in [1000, (1 << 20) + 1, 100_000_007, (1 << 32) - 5, (1 << 40) + 9] {
        let (pattern, whole) = (Pattern { random: true, read_percent: 100 }, Part::of(units, 0, 1));
        let workload = |zipf| Workload::new(pattern, units, whole, zipf, generator(1, 0, 0));
        let mut ways = [
            ("random", workload(None)),
            ("full", workload(None).covering(Cover::new(units, whole, generator(1, 0, 0)))),
            ("zipf 0.9", workload(Some(Zipf::new(units, 0.9)))),
        ];
        let mut costs = [const { Vec::new() }; 3];
        for _ in 0..ROUNDS {
            for ((_, way), costs) in ways.iter_mut().zip(&mut costs) {
                costs.push(draws(way));
            }
        }
        let medians = costs.map(|mut costs| {
            costs.sort_unstable_by(f64::total_cmp);
            costs[ROUNDS / 2]
        });
        for ((name, _), median) in ways.iter().zip(medians) {
            println!("{units:>20}  {name:<14} {median:>9.2} {:>10.2}", median / medians[0]);
        }
    }
}

#[inline(never)]
fn draws(workload: &mut Workload) -> f64 {
    let begin = Instant::now();
    for _ in 0..DRAWS {
        black_box(workload.draw());
    }
    begin.elapsed().as_secs_f64() * 1e9 / f64::from(DRAWS)
}
