//! What the engine keeps beside its counts, by which they can be checked.

use crate::{IoKind, document::QueuePlan};

/// Both sides of Little's law for the window, in I/O-ticks: what was in flight, summed over time, and how long each I/O was there.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Audit {
    /// Integral of the number in flight over the window, kept at each change.
    pub in_flight_integral: u128,
    /// The time that each counted I/O took, whether or not it has a latency.
    pub counted: u128,
    /// Residence within the window of every other I/O: those in flight at its edges, and those that failed or were given up.
    pub edges: u128,
}

impl Audit {
    /// The second side: the residence of all I/Os.
    pub fn residence(&self) -> u128 {
        self.counted + self.edges
    }

    /// The relative difference of the two sides; 0 for an idle context.
    pub fn difference(&self) -> f64 {
        let (a, b) = (self.in_flight_integral as f64, self.residence() as f64);
        if a.max(b) == 0.0 { 0.0 } else { (a - b).abs() / a.max(b) }
    }
}

/// Where the I/Os of a context went in its range.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Coverage {
    /// I/Os issued.
    pub ios: u64,
    /// Size of the range in I/Os.
    pub units: u64,
    /// Sequential: the share of I/Os that are not where they should be. Random: the share of regions that none fell in, of those where
    /// chance does not leave that out. `None` where it says nothing.
    pub difference: Option<f64>,
    /// By how many standard deviations random offsets fell less evenly than chance has it.
    pub deviation: Option<f64>,
    /// After so many I/Os random offsets started over.
    pub period: Option<u64>,
}

/// What the clock of a core says beside that of the run's own thread.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ClockOffset {
    /// The core.
    pub core: usize,
    /// How far it is ahead, in ticks.
    pub offset_ticks: f64,
    /// By so much that may be wrong.
    pub uncertain_ticks: f64,
}

/// One of the slowest I/Os of a context, in ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlowRecord {
    /// How long it took.
    pub latency: u64,
    /// When it was issued, from the start of the window.
    pub issued: u64,
    /// What it did.
    pub kind: IoKind,
    /// Its first logical block.
    pub lba: u64,
    /// I/Os of the context in flight when it was over, itself included.
    pub in_flight: u64,
}

/// How a context was laid out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// I/Os in flight that were asked for.
    pub depth: u32,
    /// I/Os after which it was to end.
    pub ios: Option<u64>,
    /// Positions ascend.
    pub sequential: bool,
    /// It takes each position of a range that it shares with nobody once before any again.
    pub full: bool,
    /// First logical block of its range.
    pub first_block: u64,
    /// Logical blocks of it.
    pub blocks: u64,
    /// Most commands of one I/O.
    pub commands_per_io: u32,
    /// Its queues.
    pub queues: Vec<QueuePlan>,
    /// NUMA node that its buffers were bound to.
    pub memory_node: Option<u32>,
}

/// What the queues of a context counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueUse {
    /// Looks for completions.
    pub polls: u64,
    /// Commands that were over.
    pub completions: u64,
    /// Doorbells of both kinds, shadow ones included; 0 for transports that have none.
    pub doorbells: u64,
}

/// What a worker's thread did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct WorkerResult {
    /// Its core.
    pub core: usize,
    /// Share of the time of its loop that it had the processor.
    pub cpu_share: f64,
    /// I/Os a second of the same loop on queues that answer at once, where that was measured.
    pub head_room: Option<f64>,
}
