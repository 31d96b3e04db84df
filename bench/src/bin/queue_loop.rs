//! What the contract of an I/O queue costs by itself: submit, commit and reap on the null queue, in time-stamp ticks an I/O.
//!
//!     cargo run --release -p doorbell-bench --bin queue_loop
//!     valgrind --tool=callgrind --collect-atstart=no --toggle-collect='*null_loop*' target/release/queue_loop 1
//!
//! With an argument, that many rounds of 64 K I/Os are run instead of the default, for instruction counts.

use std::error::Error;

use doorbell_platform::clock::ticks;
use doorbell_queue::{Done, IoQueue, Op, REAP_BATCH, null::NullQueue};

const DEPTH: u16 = 128;
const IOS: u64 = 64 << 10;

fn main() -> Result<(), Box<dyn Error>> {
    let rounds: usize = std::env::args().nth(1).map_or(Ok(64), |text| text.parse())?;
    let mut queue = NullQueue::new(DEPTH);
    let first: Vec<Op> = (0..DEPTH).map(op).collect();
    if queue.submit(&first) != first.len() {
        return Err("the queue is too small".into());
    }
    let mut costs = Vec::new();
    for _ in 0..rounds {
        let start = ticks();
        null_loop(&mut queue)?;
        costs.push((ticks() - start) as f64 / IOS as f64);
    }
    costs.sort_unstable_by(f64::total_cmp);
    println!("{:.1} ticks an I/O at depth {DEPTH} (median of {rounds}; least {:.1})", costs[costs.len() / 2], costs[0]);
    Ok(())
}

fn op(slot: u16) -> Op {
    Op { slot, opcode: 2, nsid: 1, slba: u64::from(slot), blocks: 8, ..Op::default() }
}

#[inline(never)]
fn null_loop(queue: &mut NullQueue) -> Result<(), Box<dyn Error>> {
    let mut done = [Done::default(); REAP_BATCH];
    let mut ops = [op(0); REAP_BATCH];
    let mut left = IOS;
    while left > 0 {
        queue.commit()?;
        let count = queue.reap(&mut done)?;
        for (op, done) in ops.iter_mut().zip(&done[..count]) {
            op.slot = done.slot;
        }
        queue.submit(&ops[..count]);
        left = left.saturating_sub(count as u64);
    }
    Ok(())
}
