//! The document of a run: what `--json` writes and `compare` and `merge` read. docs/result-schema.md explains it, and
//! docs/result-schema.json, by which [`Document::parse`] checks what it reads, is its grammar.
//!
//! Names end in their unit where there is one: `_s` seconds, `_us` microseconds, `_bytes`, `_percent`. Ticks are those of the
//! processor's time-stamp counter.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::telemetry::Drive;
use crate::{Account, Distribution, Percentile, Verification, ZoneManagement, schema};

/// The version of the format that this crate writes and reads. It changes with every change of the schema.
pub const SCHEMA_VERSION: u32 = 2;

/// Everything about one run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// What measured.
    pub tool: Tool,
    /// The program and its arguments, each as it was given.
    pub command_line: Vec<String>,
    /// Repeats the sequence of I/Os; `None` where the command line could not be read.
    pub seed: Option<u64>,
    /// Seconds since 1970 when the program started.
    pub started_s: f64,
    /// The same when the result was complete.
    pub ended_s: f64,
    /// How it ended.
    pub exit: Exit,
    /// What was asked for; `None` where the command line could not be read.
    pub plan: Option<Plan>,
    /// The machine.
    pub platform: Platform,
    /// Each namespace over each path to it.
    pub paths: Vec<Path>,
    /// What each controller that was asked said of its health.
    pub drives: Vec<Drive>,
    /// What was measured; empty for a run that did not start.
    pub results: Results,
    /// The course of it, with `--interval`.
    pub series: Option<Series>,
    /// The slowest I/Os, slowest first.
    pub slowest: Vec<SlowIo>,
    /// What the cores did.
    pub workers: Vec<WorkerUse>,
    /// What the run says about its own numbers.
    pub audit: Vec<Finding>,
    /// The runs that this is the sum of, each as it was; empty for a run. A sum has the rows of namespaces, cores and contexts, the
    /// series and the slowest I/Os only here.
    pub sources: Vec<Source>,
}

/// A run that was merged.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Source {
    /// Where it was read from.
    pub file: String,
    /// Its document.
    pub result: Document,
}

impl Document {
    /// Reads a document.
    ///
    /// # Errors
    /// Where the text is no document of this version: the place in it, and what is wrong there.
    pub fn parse(text: &str) -> Result<Self, String> {
        let value: serde_json::Value = serde_json::from_str(text).map_err(|why| format!("it is no JSON: {why}"))?;
        match value.get("schema_version").and_then(serde_json::Value::as_u64) {
            Some(version) if version == u64::from(SCHEMA_VERSION) => {}
            Some(version) => {
                return Err(format!("it is of schema version {version}, and this doorbell reads {SCHEMA_VERSION}"));
            }
            None => return Err("it has no schema_version, so it is no result of doorbell".into()),
        }
        schema::check(&value)?;
        serde_json::from_value(value).map_err(|why| format!("it does not hold together: {why}"))
    }

    /// The text, with a final line feed.
    pub fn to_text(&self) -> String {
        // Strings, numbers and maps with keys of text always can be written.
        serde_json::to_string(self).expect("a document is plain data") + "\n"
    }
}

/// The program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tool {
    /// `doorbell`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// `release` or `debug`; figures of the latter are worth little.
    pub build: String,
}

/// How a run ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Why it ended.
    pub reason: ExitReason,
    /// Whether the program's status was 0.
    pub good: bool,
    /// Whether less was measured than was asked for.
    pub partial: bool,
    /// What went wrong besides failed I/Os, for people.
    pub errors: Vec<String>,
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitReason {
    /// The time was over.
    Time,
    /// The number of I/Os was reached.
    Count,
    /// A signal asked for it.
    Signal,
    /// The target was lost.
    Lost,
    /// It did not begin.
    #[default]
    NotStarted,
}

/// The load as it was asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// `randread`, `rw` and the like.
    pub pattern: String,
    /// Share of reads.
    pub read_percent: u8,
    /// Exponent of the Zipf distribution of offsets.
    pub zipf: Option<f64>,
    /// Each random offset exactly once before any comes again.
    pub full_coverage: bool,
    /// The part of each namespace that is used, as it was given; all of it without.
    pub range: Option<String>,
    /// Bytes of an I/O, the largest where there are several sizes.
    pub io_bytes: u32,
    /// Sizes and their shares in percent, where there are several.
    pub sizes: Vec<SizeShare>,
    /// A flush comes after so many writes.
    pub flush_every: Option<u32>,
    /// What is written, as it was given.
    pub fill: Option<String>,
    /// I/Os in flight for each pair of core and namespace.
    pub depth: u32,
    /// Queue pairs for each such pair.
    pub queue_pairs: u32,
    /// Queue pairs that are only connected.
    pub unused_queue_pairs: u32,
    /// Entries asked for per queue; `None` for as many as the load fills.
    pub queue_entries: Option<u32>,
    /// Length of the window.
    pub time_s: f64,
    /// Time before it.
    pub warm_up_s: f64,
    /// Cores with a worker.
    pub cores: Vec<usize>,
    /// How latencies are taken: `exact`, `batch`, `sampled:N`, `off`.
    pub timing: String,
    /// What a worker does while nothing completes: `poll`, `interrupt`, `adaptive`.
    pub poll_mode: String,
    /// Force Unit Access on every command.
    pub fua: bool,
    /// Time after which an I/O is aborted.
    pub timeout_s: Option<f64>,
    /// Length of a slice of the time series.
    pub interval_s: Option<f64>,
    /// What each worker does on each namespace, once that is known.
    pub contexts: Vec<ContextPlan>,
}

/// One size of a mix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SizeShare {
    /// Bytes of an I/O.
    pub bytes: u32,
    /// Share of all I/Os.
    pub percent: f64,
}

/// What a worker does on a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContextPlan {
    /// The worker's core.
    pub core: usize,
    /// The path of the namespace, as in [`Path::path`].
    pub path: String,
    /// I/Os after which it ends.
    pub ios: Option<u64>,
    /// First logical block of the range it works on.
    pub first_block: u64,
    /// Logical blocks of that range.
    pub blocks: u64,
    /// Most commands that one I/O is split into.
    pub commands_per_io: u32,
    /// Its queues.
    pub queues: Vec<QueuePlan>,
    /// NUMA node that its buffers were bound to; `None` where the kernel chose, which is near the core.
    pub memory_node: Option<u32>,
}

/// One queue of a context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueuePlan {
    /// I/Os that it carries at most: its share of the depth.
    pub depth: u32,
    /// Commands that it holds at most; what is more waits in the tool, and the wait is in the latency.
    pub commands: u32,
}

/// The machine that measured. What it does not say is absent or empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Platform {
    /// Its name.
    pub host: String,
    /// Name of the kernel, release and build.
    pub kernel: String,
    /// Model of the processor.
    pub cpu_model: String,
    /// Revision of its microcode.
    pub microcode: Option<String>,
    /// Cores that are online.
    pub online_cores: usize,
    /// Whether frequencies above the nominal one are allowed.
    pub turbo: Option<bool>,
    /// The cores with a worker.
    pub cores: Vec<Core>,
    /// What the kernel does against each weakness of the processor.
    pub mitigations: BTreeMap<String, String>,
    /// The kernel's clock source; latencies are taken from the time-stamp counter in any case.
    pub clock_source: Option<String>,
    /// The rate of that counter by the kernel's clock, in ticks a second.
    pub ticks_per_second: Option<f64>,
    /// What a reading of it takes.
    pub clock_cost_ns: Option<f64>,
    /// By so much a latency may be wrong at most.
    pub largest_error_us: Option<f64>,
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
    /// Huge pages of the default size: how many, and how many of them are free.
    pub huge_pages: Option<(u64, u64)>,
}

/// A core.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Core {
    /// Its number.
    pub core: usize,
    /// Its NUMA node.
    pub node: Option<u32>,
    /// Logical processors that share it, itself included, as the kernel lists them.
    pub siblings: Option<String>,
    /// Its frequency governor.
    pub governor: Option<String>,
    /// The idle states that it may use, as the kernel names them.
    pub idle_states: Vec<String>,
}

/// A namespace over one path.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Path {
    /// The namespace as tables show it.
    pub name: String,
    /// The same and what tells paths of one name apart.
    pub path: String,
    /// The transport ID by which the controller was reached.
    pub transport_id: String,
    /// `TCP`, `PCIE`, ….
    pub transport: String,
    /// Model Number.
    pub model: String,
    /// Serial Number.
    pub serial: String,
    /// Firmware Revision.
    pub firmware: String,
    /// Version of the specification it complies with.
    pub nvme_version: String,
    /// Namespace identifier.
    pub nsid: u32,
    /// UUID, NGUID or EUI64.
    pub identifier: Option<String>,
    /// Size in logical blocks.
    pub blocks: u64,
    /// Data bytes of a block.
    pub block_bytes: u32,
    /// Metadata bytes of a block.
    pub metadata_bytes: u16,
    /// Type of protection information, 0 for none.
    pub protection: u8,
    /// Most bytes of a command.
    pub max_transfer_bytes: u32,
    /// Blocks between the boundaries that a command does not cross, 0 for none.
    pub boundary_blocks: u32,
    /// I/O queues asked for, and granted.
    pub io_queues: Granted,
    /// Entries of an I/O queue asked for, and granted at most.
    pub queue_entries: Granted,
    /// Keep Alive Timeout granted, in seconds.
    pub keep_alive_s: Option<f64>,
    /// Header digests were agreed on.
    pub header_digest: bool,
    /// Data digests were agreed on.
    pub data_digest: bool,
    /// NUMA node of a local device.
    pub node: Option<u32>,
    /// What an Identify command took when the controller was brought up: a round trip over the path, and the controller's time for it.
    pub identify_us: f64,
    /// How the IOMMU translates for a local device, as the kernel names it (`DMA-FQ`, `identity`, …); `None` without one.
    pub iommu: Option<String>,
    /// The link of a PCIe device.
    pub link: Option<PcieLink>,
}

/// What a PCIe link runs at, and could, as the kernel tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PcieLink {
    /// Its speed, like `16.0 GT/s PCIe`.
    pub speed: String,
    /// Its lanes.
    pub lanes: u32,
    /// The speed that the device can do.
    pub most_speed: String,
    /// The lanes that it has.
    pub most_lanes: u32,
}

/// What was wished and what was had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Granted {
    /// Asked for.
    pub asked: u32,
    /// Granted.
    pub granted: u32,
}

/// What was measured, in several sums of the same I/Os.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// All of it.
    pub merged: Measurement,
    /// By operation: `read`, `write` and the like; those that the load has.
    pub operations: BTreeMap<String, Measurement>,
    /// By bytes of an I/O, where there are several sizes.
    pub sizes: BTreeMap<u32, Measurement>,
    /// By namespace path, as in [`Path::path`].
    pub namespaces: BTreeMap<String, Measurement>,
    /// By core; the key is its number.
    pub cores: BTreeMap<usize, Measurement>,
    /// The smallest parts: a worker on a namespace.
    pub contexts: Vec<ContextMeasurement>,
    /// What was planned and what came of it, in an open loop.
    pub open_loop: Option<OpenLoopRecord>,
    /// When the first window began, in seconds since 1970; `None` where none did.
    pub window_began_s: Option<f64>,
    /// What `--verify` found, all contexts together.
    pub verification: Option<Verification>,
}

/// An open loop, all contexts together; counts are of arrivals planned within the window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OpenLoopRecord {
    /// Arrivals a second that were asked for.
    pub rate: f64,
    /// `fixed`, `poisson` or `burst:N`.
    pub arrival: String,
    /// Arrivals planned.
    pub planned: u64,
    /// Those that waited because all I/Os were in flight.
    pub late: u64,
    /// Those never issued.
    pub dropped: u64,
    /// Longest time from a planned arrival to the submission.
    pub longest_lag_us: f64,
    /// Response times, from the planned arrival to the completion; the other latencies count from the submission.
    pub response: Option<Latency>,
}

/// A sum over some of a run's I/Os.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// I/Os that were submitted and completed in the window without error. Rates and latencies are theirs.
    pub ios: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The longest window of its parts.
    pub seconds: f64,
    /// I/Os a second: the sum over its parts, each by its own window.
    pub iops: f64,
    /// Bandwidth, likewise.
    pub mib_per_s: f64,
    /// Failed I/Os of the whole run by status.
    pub errors: BTreeMap<String, u64>,
    /// Latencies; `None` where none was taken.
    pub latency: Option<Latency>,
}

impl Measurement {
    /// The sum of what ran at the same time: rates add up, distributions merge.
    pub fn merged<'a>(parts: impl IntoIterator<Item = &'a Self>) -> Self {
        let (mut sum, mut all) = (Self::default(), Distribution::default());
        for part in parts {
            sum.ios = sum.ios.saturating_add(part.ios);
            sum.bytes = sum.bytes.saturating_add(part.bytes);
            sum.seconds = sum.seconds.max(part.seconds);
            sum.iops += part.iops;
            sum.mib_per_s += part.mib_per_s;
            for (status, count) in &part.errors {
                let all = sum.errors.entry(status.clone()).or_default();
                *all = all.saturating_add(*count);
            }
            if let Some(latency) = &part.latency {
                all.merge(&latency.distribution);
            }
        }
        sum.latency = Latency::of(all);
        sum
    }

    /// Failed I/Os.
    pub fn failed(&self) -> u64 {
        self.errors.values().sum()
    }
}

/// Latencies: what a distribution comes to, and itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Mean.
    pub mean_us: f64,
    /// Standard deviation; `None` where no histogram was kept.
    pub stdev_us: Option<f64>,
    /// The least.
    pub min_us: f64,
    /// The largest.
    pub max_us: f64,
    /// Those that the samples carry.
    pub percentiles: Vec<Percentile>,
    /// All of it.
    pub distribution: Distribution,
}

impl Latency {
    /// The figures of a distribution; `None` for an empty one.
    pub fn of(distribution: Distribution) -> Option<Self> {
        Some(Self {
            mean_us: distribution.mean_us()?,
            stdev_us: distribution.stdev_us(),
            min_us: distribution.us(distribution.min as f64),
            max_us: distribution.us(distribution.max as f64),
            percentiles: distribution.percentiles(),
            distribution,
        })
    }
}

/// What a worker measured on a namespace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ContextMeasurement {
    /// The worker's core.
    pub core: usize,
    /// The namespace as tables show it.
    pub name: String,
    /// Its path, as in [`Path::path`].
    pub path: String,
    /// Reads and writes.
    pub merged: Measurement,
    /// By operation.
    pub operations: BTreeMap<String, Measurement>,
    /// Where every I/O went.
    pub account: Account,
    /// Mean number in flight over the window.
    pub mean_in_flight: f64,
    /// Times without a controller.
    pub outages: Vec<OutageRecord>,
    /// I/Os that took longer than `--timeout`, Aborts sent for them, and I/Os that came back aborted.
    pub timed_out: (u64, u64, u64),
    /// What was done to zones beside I/Os, where these are written.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub zone_management: Option<ZoneRecord>,
    /// The transport's counters.
    pub counters: BTreeMap<String, u64>,
}

/// Commands that kept zones fit to be written; they are no I/Os.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ZoneRecord {
    /// Zones that were reset.
    pub resets: u64,
    /// Zones that were finished.
    pub finishes: u64,
    /// Commands that failed.
    pub failed: u64,
    /// What all of them took, one by one.
    pub total_s: f64,
    /// What the longest took.
    pub longest_s: f64,
}

impl ZoneRecord {
    pub(crate) fn of(zones: ZoneManagement) -> Self {
        let ZoneManagement { resets, finishes, failed, time, longest } = zones;
        Self { resets, finishes, failed, total_s: time.as_secs_f64(), longest_s: longest.as_secs_f64() }
    }
}

/// A time in which a context had no queues.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OutageRecord {
    /// When the loss was noticed, from the context's first I/O.
    pub began_s: f64,
    /// Time without I/O.
    pub silent_s: f64,
    /// I/Os that were in flight.
    pub lost: u64,
    /// Attempts to bring the controller back.
    pub attempts: u32,
    /// Whether it came back.
    pub back: bool,
    /// What was lost, for people.
    pub why: String,
}

/// The course of the window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// Length of a slice as asked for.
    pub interval_s: f64,
    /// The slices in their order.
    pub slices: Vec<Slice>,
}

/// What completed in a part of the window on all cores, submitted in the window and without error. `--ndjson` writes one a line.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Slice {
    /// Its place, from 0; a number that is missing is in the one that follows.
    pub slice: u64,
    /// From the start of the window, about.
    pub begin_s: f64,
    /// To here.
    pub end_s: f64,
    /// I/Os.
    pub ios: u64,
    /// Reads among them.
    pub reads: u64,
    /// I/Os that failed in that time, which are not among them.
    pub failed: u64,
    /// I/Os a second: the sum over the cores, each by its own time.
    pub iops: f64,
    /// Bandwidth.
    pub mib_per_s: f64,
    /// Mean latency.
    pub mean_us: Option<f64>,
    /// Median.
    pub p50_us: Option<f64>,
    /// 99th percentile.
    pub p99_us: Option<f64>,
    /// The largest.
    pub max_us: Option<f64>,
    /// Latencies; `None` where none was taken.
    pub distribution: Option<Distribution>,
}

impl Slice {
    /// The line of `--ndjson`, with its line feed.
    pub fn to_line(&self) -> String {
        // As for a document.
        serde_json::to_string(self).expect("a slice is plain data") + "\n"
    }
}

/// A slow I/O.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SlowIo {
    /// How long it took.
    pub latency_us: f64,
    /// When it was issued, from the start of its context's window.
    pub issued_s: f64,
    /// `read` or `write`.
    pub operation: String,
    /// Its first logical block.
    pub lba: u64,
    /// The path of the namespace, as in [`Path::path`].
    pub path: String,
    /// The core.
    pub core: usize,
    /// I/Os of its context in flight when it was over, itself included.
    pub in_flight: u64,
}

/// What a worker's core did in the window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkerUse {
    /// The core.
    pub core: usize,
    /// Share of its time that the worker had the processor, by the kernel; less than 100 where it slept or was pushed aside.
    pub cpu_percent: f64,
    /// Share of the window spent in passes that found completions.
    pub busy_percent: f64,
    /// Ticks of such passes an I/O; `None` without I/Os.
    pub ticks_per_io: Option<f64>,
    /// Looks at a queue for each command that was over.
    pub polls_per_completion: Option<f64>,
    /// Doorbells, or calls into the kernel that stand for them, an I/O; `None` where the transport does not count them.
    pub doorbells_per_io: Option<f64>,
}

/// One thing that the run found out about its own numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// What was looked at.
    pub check: Check,
    /// How it came out.
    pub verdict: Verdict,
    /// Which context or core it is about, for people; `None` for the whole run.
    pub place: Option<String>,
    /// The size of it, in the unit of the check; `None` where it could not be had.
    pub size: Option<f64>,
    /// The size from which it counts as a defect, where there is one.
    pub limit: Option<f64>,
    /// What it says, for people.
    pub text: String,
}

/// What an audit looks at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// The integral of the number in flight against the residence of all I/Os within the window: relative difference.
    #[default]
    LittlesLaw,
    /// Submitted less measured, warm-up, drained, failed and abandoned: I/Os.
    Account,
    /// The measured window against the one asked for: relative difference.
    Window,
    /// I/Os that came back after the window, which no rate may hold: how many times the depth they are.
    Drain,
    /// Failed I/Os, which no rate holds: their share of all.
    Errors,
    /// The range that was worked on: relative difference between the parts of it that were touched and those that should have been.
    Coverage,
    /// How evenly random offsets fell: standard deviations from what chance gives.
    Randomness,
    /// Disagreement between the clocks of two cores beyond what could be told: seconds.
    Clocks,
    /// Mean number in flight against the depth asked for: its share.
    Depth,
    /// What the tool can drive on this machine, in the I/Os a second that were measured: how many times as many.
    HeadRoom,
}

/// How a check came out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    #[default]
    Passed,
    /// A defect: the numbers do not say what they seem to.
    Failed,
    /// It could not be told, or says nothing here.
    NotChecked,
}
