//! What rings cost:
//!
//!     cargo run --release -p doorbell-bench --bin ring                the host's end on one core, in time-stamp ticks an I/O
//!     cargo run --release -p doorbell-bench --bin ring floor [SECONDS]    the bare ring on two cores, and copies of random blocks
//!     valgrind --tool=callgrind --collect-atstart=no --toggle-collect='*host_and_model*' target/release/ring ticks 1 128
//!
//! The host's end is driven against a device that completes at once, on the same core; what the device alone costs is measured beside
//! it and subtracted. In turn with that the same is done with a reading of the clock for each I/O, and its latency added up, and what
//! a reading takes is measured. `ticks ROUNDS DEPTH` runs that many rounds of 64 K I/Os at one depth; for instruction counts, those of
//! `*model_alone*` are to be subtracted in the same way.

use std::{
    error::Error,
    hint::black_box,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use doorbell_bench::{
    copy_floor::{self, Way},
    median,
    priority::Raised,
    ring_floor,
};
use doorbell_host::transport::ring::{BusMap, Doorbells, Keeper, Place, RingParts, RingQueue};
use doorbell_hostile::ring::{self as device, RingDevice};
use doorbell_platform::{Arena, Backing, Range, Region, clock::ticks, cpu};
use doorbell_queue::{Done, IoQueue, Op, REAP_BATCH};
use doorbell_spec::status::Status;

const ENTRIES: u32 = 256;
const IOS: u64 = 64 << 10;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let _raised = Raised::new();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => [1, 8, 32, 128].into_iter().try_for_each(|depth| cost(64, depth)),
        ["ticks", rounds, depth] => cost(rounds.parse()?, depth.parse()?),
        ["floor"] => floors(1.0),
        ["floor", seconds] => floors(seconds.parse()?),
        _ => Err("ring [ticks ROUNDS DEPTH | floor [SECONDS]]".into()),
    }
}

fn floors(seconds: f64) -> Result<(), Box<dyn Error>> {
    let cores = cpu::allowed()?;
    let (time, ends) = (Duration::try_from_secs_f64(seconds)?, [*cores.last().ok_or("no core")?, cores[0]]);
    for depth in [1, 8, 32, 128] {
        println!("bare ring, depth {depth}: {:.2} M IOPS", ring_floor::measure(depth, time, ends)? / 1e6);
    }
    for (way, size) in [(Way::Read, 4096), (Way::Write, 4096), (Way::Read, 131_072), (Way::Write, 131_072)] {
        let rate = copy_floor::measure(way, size, 1 << 30, time, cores[0])?;
        let (what, mib) = (if way == Way::Read { "from" } else { "to" }, rate * size as f64 / f64::from(1 << 20));
        println!("copies of {size} bytes {what} anywhere in 1 GiB: {:.3} M a second, {mib:.0} MiB/s", rate / 1e6);
    }
    Ok(())
}

/// Ticks an I/O that the host's end may take, and how many readings of the clock more with exact timing.
const BAR: f64 = 120.0;
const READINGS: f64 = 2.0;

/// Measures the host's end at a depth, with and without exact timing, and the model alone, in turn.
fn cost(rounds: usize, depth: u16) -> Result<(), Box<dyn Error>> {
    cpu::pin(*cpu::allowed()?.last().ok_or("no core")?)?;
    let (mut queue, mut model) = queue(depth)?;
    let mut alone = RingDevice::new(1, ENTRIES, false);
    let mut latencies = Latencies { begun: vec![ticks(); depth.into()], ..Latencies::default() };
    let (mut plain, mut exact, mut models) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let start = ticks();
        host_and_model::<false>(&mut queue, &mut model, &mut latencies)?;
        plain.push((ticks() - start) as f64 / IOS as f64);
        let start = ticks();
        host_and_model::<true>(&mut queue, &mut model, &mut latencies)?;
        exact.push((ticks() - start) as f64 / IOS as f64);
        let start = ticks();
        model_alone(&mut alone, depth);
        models.push((ticks() - start) as f64 / IOS as f64);
    }
    let (plain, exact, models) = (median(&mut plain), median(&mut exact), median(&mut models));
    let (reading, most) = (reading(), BAR + READINGS * reading());
    println!(
        "depth {depth}: {:.1} ticks an I/O of {BAR}; {:.1} with exact timing of {most:.0}, a reading being {reading:.1}; \
         mean latency {:.0} ticks ({plain:.1} and {exact:.1} with the model, {models:.1} the model alone)",
        plain - models,
        exact - models,
        latencies.sum as f64 / latencies.count as f64,
    );
    Ok(())
}

/// What a reading of the clock takes, in ticks: the best of several rounds.
fn reading() -> f64 {
    const READINGS: u64 = 32;
    let round = || {
        let begin = ticks();
        (0..READINGS).fold(begin, |_, _| black_box(ticks())).wrapping_sub(begin) as f64 / READINGS as f64
    };
    (0..8).map(|_| round()).fold(f64::INFINITY, f64::min)
}

/// Latencies as the load keeps them.
#[derive(Default)]
struct Latencies {
    /// When the command in a slot was issued.
    begun: Vec<u64>,
    min: u64,
    max: u64,
    sum: u128,
    count: u64,
}

impl Latencies {
    /// The command in a slot is over now, and another takes its place.
    #[inline]
    fn turn(&mut self, slot: u16, now: u64) {
        let latency = now - std::mem::replace(&mut self.begun[usize::from(slot)], now);
        self.min = if self.count == 0 { latency } else { self.min.min(latency) };
        self.max = self.max.max(latency);
        self.sum += u128::from(latency);
        self.count += 1;
    }
}

#[inline(never)]
fn host_and_model<const EXACT: bool>(
    queue: &mut RingQueue,
    model: &mut RingDevice,
    latencies: &mut Latencies,
) -> Result<(), Box<dyn Error>> {
    let mut done = [Done::default(); REAP_BATCH];
    let mut ops = [op(0); REAP_BATCH];
    let mut left = IOS;
    while left > 0 {
        complete(model);
        let count = queue.reap(&mut done)?;
        for (op, done) in ops.iter_mut().zip(&done[..count]) {
            if EXACT {
                latencies.turn(done.slot, ticks());
            }
            op.slot = done.slot;
            op.slba = left;
        }
        queue.submit(&ops[..count]);
        queue.commit()?;
        left = left.saturating_sub(count as u64);
    }
    Ok(())
}

/// What the device does in [`host_and_model`], with commands that are always the same.
#[inline(never)]
fn model_alone(model: &mut RingDevice, depth: u16) {
    let batch = u32::from(depth).min(REAP_BATCH as u32);
    let memory = model.memory();
    let mut place = memory.load_u32(device::SQ_TAIL, Ordering::Relaxed);
    for _ in 0..IOS / u64::from(batch) {
        place = (place + batch) % ENTRIES;
        memory.store_u32(device::SQ_TAIL, place, Ordering::Release);
        complete(model);
        memory.store_u32(device::CQ_HEAD, place, Ordering::Release);
    }
}

#[inline(never)]
fn complete(model: &mut RingDevice) {
    while let Some(command) = model.take() {
        model.answer(command.cid.get(), Status::SUCCESS, 0);
    }
}

fn op(slot: u16) -> Op {
    Op { slot, opcode: 2, nsid: 1, slba: u64::from(slot), blocks: 8, ..Op::default() }
}

/// A queue with `depth` commands on their way to the model.
fn queue(depth: u16) -> Result<(RingQueue, RingDevice), Box<dyn Error>> {
    let model = RingDevice::new(1, ENTRIES, false);
    let region = model.memory();
    let place = |offset| Place { region: region.clone(), offset, bus: offset };
    let mut queue = RingQueue::new(RingParts {
        qid: 1,
        entries: ENTRIES,
        sq: place(device::SQ),
        cq: place(model.cq()),
        doorbells: Doorbells { region: region.clone(), sq_tail: device::SQ_TAIL, cq_head: device::CQ_HEAD },
        shadow: None,
        page_size: 4096,
        most_bytes: 1 << 20,
        sgl: false,
        backing: Backing::Any,
        interrupt: None,
        keeper: Box::new(Present),
    })?;
    let arena = Arc::new(Arena::new(usize::from(depth) * 4096)?);
    queue.attach(&arena)?;
    for slot in 0..depth {
        queue.prepare(slot, &[Range { offset: u64::from(slot) * 4096, len: 4096 }])?;
    }
    let ops: Vec<Op> = (0..depth).map(op).collect();
    if queue.submit(&ops) != ops.len() {
        return Err(format!("{depth} commands do not fit {ENTRIES} entries").into());
    }
    queue.commit()?;
    Ok((queue, model))
}

/// The side of a device that is always there.
struct Present;

impl Keeper for Present {
    fn map(&self, region: &Arc<Region>) -> Result<BusMap, String> {
        Ok(BusMap::contiguous(region.address()))
    }
    fn gone(&self) -> Option<String> {
        None
    }
    fn end(&self, _: Vec<Arc<Region>>) {}
    fn has_ended(&self) -> bool {
        true
    }
}
