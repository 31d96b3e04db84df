//! The result of a run, as plain data: what the load engine measured and every report shows, and the [`Document`] that is written
//! and read back.
//!
//! Latencies are kept in clock ticks, with the rate of the clock beside them, so that nothing is rounded before it is shown.

pub mod audit;
pub mod compare;
mod distribution;
pub mod document;
mod histogram;
mod io_kind;
mod merge;
mod open_loop;
mod proof;
mod results;
pub mod schema;
pub mod telemetry;
mod verification;

pub use distribution::{CUT_OFFS, Distribution, Percentile, share};
pub use document::{Document, Latency, Measurement};
pub use histogram::{Bucket, LatencyHistogram};
pub use io_kind::IoKind;
pub use open_loop::{Arrival, OpenLoop};
pub use proof::{Audit, ClockOffset, Coverage, Layout, QueueUse, SlowRecord, WorkerResult};

pub use verification::{Mismatch, MismatchKind, Verification};

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Everything one run measured.
#[derive(Clone, Debug, Default)]
pub struct RunResult {
    /// Bytes of the largest I/O (`-o`).
    pub io_size: u32,
    /// The seed that repeats the run's sequence of I/Os.
    pub seed: u64,
    /// Clock ticks a second.
    pub ticks_per_second: f64,
    /// How latencies were taken.
    pub timing: Timing,
    /// One a (core, namespace) pair, workers ascending, in the order of association.
    pub contexts: Vec<ContextResult>,
    /// What the workers did besides.
    pub workers: Vec<WorkerResult>,
    /// What their clocks say beside each other, as far as that could be told.
    pub clocks: Vec<ClockOffset>,
    /// Length of the window that was asked for, in ticks.
    pub asked_ticks: u64,
    /// The time series, when asked for.
    pub series: Vec<document::Slice>,
    /// Why the run ended.
    pub end: EndReason,
    /// What went wrong besides failed I/Os, for people: lost queues, stuck drains, audit findings.
    pub problems: Vec<String>,
}

/// How latencies are taken (`--timing`): which readings of the clock a run makes. Latencies lie between two *stamps*, one when
/// the tool issues an I/O, before its command is built, and one when it takes the completion in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Timing {
    /// A reading for each stamp.
    #[default]
    Exact,
    /// A reading for the completions of a batch, and one for the I/Os that are issued after it.
    Batch,
    /// As [`Timing::Exact`] for one in so many I/Os, 1 or more; the others have no latency.
    Sampled(u32),
    /// No I/O has a latency.
    Off,
}

impl std::fmt::Display for Timing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact => f.write_str("exact"),
            Self::Batch => f.write_str("batch"),
            Self::Sampled(every) => write!(f, "sampled:{every}"),
            Self::Off => f.write_str("off"),
        }
    }
}

/// What the stamps of a context are worth, in ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Precision {
    /// What a reading of the clock took on its core, at the start.
    pub clock_cost: f64,
    /// By so much a latency may be wrong at most: a stamp is never later than what it stands for, but by the time that a reading
    /// takes, and in batches by the time that passed until the reading was last used, it may be earlier. 0 with [`Timing::Off`].
    pub largest_error: f64,
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EndReason {
    /// The time was over.
    #[default]
    Time,
    /// The number of I/Os was reached.
    Count,
    /// A signal asked for it.
    Signal,
    /// The target was lost.
    Lost,
}

/// What one worker measured on one namespace.
#[derive(Clone, Debug, Default)]
pub struct ContextResult {
    /// The namespace's name as tables show it; paths that differ in their port alone have the same one.
    pub name: String,
    /// The same and the port, for everything else that is said of it.
    pub path: String,
    /// The worker's core.
    pub core: usize,
    /// How it was laid out.
    pub layout: Layout,
    /// Start of the measured window by the worker's clock.
    pub window_start: u64,
    /// Length of the measured window in ticks: after warm-up, before the drain.
    pub window_ticks: u64,
    /// Reads.
    pub reads: Operation,
    /// Writes.
    pub writes: Operation,
    /// What is neither.
    pub others: BTreeMap<IoKind, Operation>,
    /// All of them by their bytes, where there are several sizes (`-o`).
    pub sizes: BTreeMap<u32, Operation>,
    /// What latencies are worth.
    pub precision: Precision,
    /// Where every I/O that was submitted went.
    pub account: Account,
    /// The two sides of the in-flight check.
    pub audit: Audit,
    /// Where its I/Os went.
    pub coverage: Coverage,
    /// Commands that came back with an error status from a queue that was not stopped.
    pub failed_commands: u64,
    /// Its slowest I/Os, slowest first.
    pub slowest: Vec<SlowRecord>,
    /// What its queues counted.
    pub queue_use: QueueUse,
    /// Ticks spent in polls that found completions, and in polls that did not.
    pub busy_ticks: u64,
    /// Ticks of polls that found nothing.
    pub idle_ticks: u64,
    /// The transport's counters, when asked for.
    pub transport: Option<TransportCounters>,
    /// Times without a controller that ended, or would have ended, with its return.
    pub outages: Vec<Outage>,
    /// What became of I/Os that took too long.
    pub timeouts: Timeouts,
    /// What was done to zones beside I/Os, where these are written.
    pub zones: Option<ZoneManagement>,
    /// What was planned, in an open loop.
    pub open_loop: Option<OpenLoop>,
    /// What `--verify` found.
    pub verification: Option<Verification>,
}

/// Commands that keep zones fit to be written. They are no I/Os: those that wait for one have that in their latency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ZoneManagement {
    /// Zones that were reset, being full or after a write that failed.
    pub resets: u64,
    /// Zones that were finished, as what was left of them was less than an I/O.
    pub finishes: u64,
    /// Commands of these that failed; a zone that cannot be reset is not written any more.
    pub failed: u64,
    /// What all of them took, one by one.
    pub time: std::time::Duration,
    /// What the longest took.
    pub longest: std::time::Duration,
}

impl ContextResult {
    /// Successful I/Os of the window.
    pub fn completed(&self) -> u64 {
        self.operations().map(|(_, operation)| operation.completed).sum()
    }

    /// Bytes of these.
    pub fn bytes(&self) -> u64 {
        self.operations().map(|(_, operation)| operation.bytes).sum()
    }

    /// Each operation and what became of it.
    pub fn operations(&self) -> impl Iterator<Item = (IoKind, &Operation)> {
        let usual = [(IoKind::Read, &self.reads), (IoKind::Write, &self.writes)];
        usual.into_iter().chain(self.others.iter().map(|(kind, operation)| (*kind, operation)))
    }

    /// What became of an operation.
    pub fn operation_mut(&mut self, kind: IoKind) -> &mut Operation {
        match kind {
            IoKind::Read => &mut self.reads,
            IoKind::Write => &mut self.writes,
            other => self.others.entry(other).or_default(),
        }
    }

    /// Latencies of all I/Os together.
    pub fn latency(&self) -> LatencyStats {
        let mut all = self.reads.latency.clone();
        self.operations().skip(1).for_each(|(_, operation)| all.merge(&operation.latency));
        all
    }

    /// Failed I/Os of the whole run by status.
    pub fn errors(&self) -> BTreeMap<&str, u64> {
        let mut all = BTreeMap::new();
        for (status, count) in self.operations().flat_map(|(_, operation)| &operation.errors) {
            *all.entry(status.as_str()).or_default() += count;
        }
        all
    }

    /// Mean number of I/Os in flight over the window; 0 without a window.
    pub fn mean_in_flight(&self) -> f64 {
        self.audit.in_flight_integral as f64 / (self.window_ticks as f64).max(1.0)
    }

    /// I/Os that were in flight when a controller was lost that came back.
    pub fn lost_in_outages(&self) -> u64 {
        self.outages.iter().filter(|outage| outage.back).map(|outage| outage.lost).sum()
    }

    /// Failed I/Os of the whole run.
    pub fn failed(&self) -> u64 {
        self.operations().flat_map(|(_, operation)| operation.errors.values()).sum()
    }
}

/// What became of the I/Os of a kind, or of a size, of a context.
#[derive(Clone, Debug, Default)]
pub struct Operation {
    /// Those that were submitted and completed in the window, without error.
    pub completed: u64,
    /// The bytes of these: those that they moved, or that they were about.
    pub bytes: u64,
    /// Their latencies; those of the sampled ones with [`Timing::Sampled`], none with [`Timing::Off`].
    pub latency: LatencyStats,
    /// Those that failed, of the whole run, by status.
    pub errors: BTreeMap<String, u64>,
}

impl Operation {
    /// Adds what another one is.
    pub fn merge(&mut self, other: &Self) {
        self.completed += other.completed;
        self.bytes += other.bytes;
        self.latency.merge(&other.latency);
        for (status, count) in &other.errors {
            *self.errors.entry(status.clone()).or_default() += count;
        }
    }
}

/// A time in which a context had no queues because its controller was lost, and waited for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outage {
    /// When the loss was noticed, in ticks from the context's first I/O.
    pub began: u64,
    /// Ticks without I/O: from the last completion before the loss to the first one after it, or to the end of the run.
    pub silent: u64,
    /// I/Os that were in flight; they are among the abandoned.
    pub lost: u64,
    /// Attempts to bring the controller back.
    pub attempts: u32,
    /// Whether an I/O completed after it.
    pub back: bool,
    /// What was lost, for people.
    pub why: String,
}

/// I/Os that took longer than `--timeout`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// So many I/Os.
    pub timed_out: u64,
    /// Abort commands asked for; an I/O has one for each of its commands.
    pub aborts: u64,
    /// I/Os that came back aborted; they are among the failed.
    pub aborted: u64,
}

/// Where the I/Os of a context went: `submitted` equals the sum of the others when none was lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// All that were submitted, from the first of the warm-up on.
    pub submitted: u64,
    /// Completed in the window, having been submitted in it.
    pub measured: u64,
    /// Submitted before the window.
    pub warm_up: u64,
    /// Completed after the window.
    pub drained: u64,
    /// Ended with an error status.
    pub failed: u64,
    /// Given up: their queue was lost or the drain's deadline passed.
    pub abandoned: u64,
}

impl Account {
    /// I/Os that are in no column: 0 unless the tool lost or invented some.
    pub fn missing(&self) -> i64 {
        self.submitted as i64 - (self.measured + self.warm_up + self.drained + self.failed + self.abandoned) as i64
    }
}

/// Latencies of a context in ticks.
#[derive(Clone, Debug, Default)]
pub struct LatencyStats {
    /// How many.
    pub count: u64,
    /// Their sum.
    pub sum: u128,
    /// The smallest; 0 when there is none.
    pub min: u64,
    /// The largest.
    pub max: u64,
    /// Their distribution.
    pub histogram: LatencyHistogram,
}

impl LatencyStats {
    /// Takes one latency in.
    #[inline]
    pub fn record(&mut self, ticks: u64) {
        self.min = if self.count == 0 { ticks } else { self.min.min(ticks) };
        self.max = self.max.max(ticks);
        self.sum += u128::from(ticks);
        self.count += 1;
        self.histogram.record(ticks);
    }

    /// Adds what another one took in.
    pub fn merge(&mut self, other: &Self) {
        self.min = match (self.count, other.count) {
            (_, 0) => self.min,
            (0, _) => other.min,
            _ => self.min.min(other.min),
        };
        self.max = self.max.max(other.max);
        self.sum += other.sum;
        self.count += other.count;
        self.histogram.merge(&other.histogram);
    }
}

/// Transport statistics of a context, named as `--transport-stats` prints them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TransportCounters {
    /// `TCP`, `PCIE`, `RDMA` or the name of a custom transport.
    pub transport: String,
    /// The device that they are of, where they are told by device.
    pub device: Option<String>,
    /// Label and value in the order they are printed.
    pub counters: Vec<(&'static str, u64)>,
}
