//! The command line of `doorbell perf`: that of `spdk_nvme_perf` (reference section 1) and our own
//! options. [`parse`] is called by the subcommand with the arguments after its name, and gives a complete
//! [`Options`], a help text, or a [`UsageError`].

mod checks;
mod draft;
mod getopt;
mod help;
mod later;
mod numbers;
mod resolve;
mod selection;
mod table;

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use doorbell_load::{PollMode, Protect, Rate, Selection, Timing, kernel};
use doorbell_platform::pci::Address;
use tracing::Level;

use getopt::{Getopt, Item};
use table::Id;

/// A complete, checked command line.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// `-q`: I/Os in flight for each pair of core and namespace; 1 or more.
    pub io_depth: u32,
    /// `-o`: bytes of the largest I/O; 1 or more.
    pub io_size: u32,
    /// `-O`: bytes of a piece of an I/O's buffer, a multiple of 4; `None`: one piece.
    pub io_unit: Option<u32>,
    /// `-w` and `-M`.
    pub pattern: Pattern,
    /// `-o` with a mix, `-w` with other operations, `--range`, `--coverage`, `--fill`, `--flush-every`.
    pub selection: Selection,
    /// `--range` as it was given.
    pub range: Option<String>,
    /// `--fill` as it was given.
    pub fill: Option<String>,
    /// `-t`: seconds to measure; 1 or more.
    pub time_s: u32,
    /// `-a`: seconds to run before measuring.
    pub warmup_s: u32,
    /// `-d`: when a pair of core and namespace stops by itself; `None`: never.
    pub number_ios: Option<NumberOfIos>,
    /// `-c`: cores with a worker, ascending, each once, at least one. The machine may not have them.
    pub cores: Vec<usize>,
    /// `-r`: the texts as given, at most 256; none stand for all local PCIe devices where nothing else is to be tested.
    pub transport_ids: Vec<String>,
    /// Files, block devices and NVMe devices of the kernel to be tested.
    pub files: Vec<PathBuf>,
    /// How they are opened.
    pub kernel: kernel::Options,
    /// `--embedded`: test a RAM target in this process, over this link.
    pub embedded: Option<Link>,
    /// What is for devices within reach; as without options where none is tested.
    pub environment: Environment,
    /// `--enforce-numa`: buffers on the device's NUMA node, or the worker's where the device has none.
    pub enforce_numa: bool,
    /// `-P`: queue pairs for each pair of core and namespace; 1 or more.
    pub qpairs: u32,
    /// `-U`: idle queue pairs for each pair of core and namespace.
    pub unused_qpairs: u32,
    /// `--io-queue-size`: entries to ask for, not yet limited by driver or controller.
    pub io_queue_size: u32,
    /// `-C`: most completions from a queue pair in one poll; 0: no limit.
    pub max_completions: u32,
    /// `-A`: alignment of I/O buffers in bytes, a power of two of 64 or more.
    pub alignment: u32,
    /// `-F`: theta of the zipf distribution, above 0 and not 1; `None`: uniform, or a sequential pattern.
    pub zipf: Option<f64>,
    /// `--use-every-core`: every core tests every namespace.
    pub use_every_core: bool,
    /// `--fua`.
    pub fua: bool,
    /// `-e`: what is to be done about protection information.
    pub protect: Protect,
    /// `-Q`: go on after I/O errors and print every N-th message, N of 1 or more.
    pub continue_on_error: Option<u32>,
    /// `-H`.
    pub header_digest: bool,
    /// `-I`.
    pub data_digest: bool,
    /// Fewest bytes of data that are sent without a copy, to other machines; `None` copies all.
    pub zero_copy: Option<u32>,
    /// `--disable-sq-flow-control`.
    pub disable_sq_flow_control: bool,
    /// `--transport-tos`: type of service over RDMA; 0: none.
    pub transport_tos: u8,
    /// `--rdma-srq-size`: entries of a receive queue that queue pairs share; 0: none.
    pub rdma_srq_size: u32,
    /// `-k`: keep alive timeout to ask for, in milliseconds; 0: none.
    pub keep_alive_ms: u32,
    /// `-E`, `--poll-mode`: what a worker does while nothing completes.
    pub poll_mode: PollMode,
    /// `--timing`: how latencies are taken.
    pub timing: Timing,
    /// `-L`, `-LL`.
    pub latency: LatencyOutput,
    /// `-l`: latencies inside Intel's drives.
    pub ssd_latency: bool,
    /// `-m`: busy share of the cores in the line of each second.
    pub cpu_usage: bool,
    /// `--transport-stats`.
    pub transport_stats: bool,
    /// `--log-level`; notice and info are both [`Level::INFO`].
    pub log_level: Level,
    /// `--seed`; `None`: draw one, and print it.
    pub seed: Option<u64>,
    /// `--reconnect`: attempts to bring a lost controller back, 1 to 1000; `None`: a loss ends the run.
    pub reconnect: Option<u32>,
    /// `--timeout`: milliseconds after which an I/O is aborted, 1 or more; `None`: never.
    pub timeout_ms: Option<u32>,
    /// `--rate`, `--arrival`: when I/Os arrive; `None`: when others are over.
    pub rate: Option<Rate>,
    /// `--json`: where the whole result goes.
    pub json: Option<Sink>,
    /// `--csv`: where its sums go.
    pub csv: Option<Sink>,
    /// `--hlog`: where an HdrHistogram log goes.
    pub hlog: Option<Sink>,
    /// `--interval`: length of the slices of a time series, 10 ms or more.
    pub interval: Option<Duration>,
    /// `--ndjson`: where they go one by one.
    pub ndjson: Option<Sink>,
    /// `--strict`: a failed audit is a failed run.
    pub strict: bool,
    /// `--overwrite`: what is written to whatever is there.
    pub overwrite: Vec<String>,
    /// Lines for standard error: what was given and has no effect.
    pub notes: Vec<String>,
}

impl Options {
    /// Bytes of an I/O on average.
    pub fn mean_io_size(&self) -> u32 {
        let sizes = &self.selection.sizes;
        let all: u64 = sizes.iter().map(|(_, weight)| u64::from(*weight)).sum();
        let bytes: u64 = sizes.iter().map(|(bytes, weight)| u64::from(*bytes) * u64::from(*weight)).sum();
        bytes.checked_div(all).map_or(self.io_size, |mean| mean as u32)
    }
}

/// Where something is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sink {
    /// `-`: standard output, which then holds nothing else.
    Stdout,
    /// A file.
    File(PathBuf),
}

impl Sink {
    /// What a path names, which may be `-`.
    pub fn at(path: &Path) -> Self {
        if path == Path::new("-") { Self::Stdout } else { Self::File(path.into()) }
    }
}

/// The options for devices that read and write this process's memory: local ones, and processes that play one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// `-b`: the local PCIe devices that may be used, at most 128; none stand for all.
    pub allowed: Vec<Address>,
    /// `-s`: megabytes of memory that must be free; 0: what the run needs.
    pub memory_mb: u32,
    /// `--no-huge`: no huge pages.
    pub no_huge: bool,
    /// `-D`: no submission queues in the memory of a controller.
    pub no_sq_cmb: bool,
    /// `-N`: leave a controller without a shutdown notification.
    pub no_shutdown_notification: bool,
    /// `--vfio-vf-token`.
    pub vf_token: Option<[u8; 16]>,
}

/// How the embedded target is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Link {
    /// NVMe/TCP over the loopback interface.
    Tcp,
    /// vfio-user: queues in shared memory.
    #[default]
    VfioUser,
}

/// Which blocks, and in which direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// Random offsets, else sequential.
    pub random: bool,
    /// Share of reads, 0 to 100.
    pub read_percent: u8,
}

/// The limit of `-d`, for each pair of core and namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NumberOfIos {
    /// This many I/Os, at least the depth.
    Count(u64),
    /// This share of the I/Os that cover the namespace, 1 or more, may exceed 100.
    Percent(u32),
}

/// How much is printed about latency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LatencyOutput {
    /// Average, minimum and maximum.
    None,
    /// Percentiles too.
    Summary,
    /// Percentiles and the histogram.
    Histogram,
}

/// What a command line asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Parsed {
    /// A run.
    Run(Box<Options>),
    /// This text on standard output, and exit status 0.
    Help(String),
}

/// A command line that cannot be run; exit status 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageError {
    message: String,
    usage: bool,
}

impl UsageError {
    /// An error after which the full usage text is printed, as for a malformed `-r`.
    pub fn with_usage(message: String) -> Self {
        let usage = true;
        Self { message, usage }
    }
}

impl From<String> for UsageError {
    /// An error without the usage text.
    fn from(message: String) -> Self {
        let usage = false;
        Self { message, usage }
    }
}

impl fmt::Display for UsageError {
    /// The message, and the usage text where it belongs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if self.usage {
            write!(f, "\n\n{}", help::full().trim_end())?;
        }
        Ok(())
    }
}

impl std::error::Error for UsageError {}

/// Parses the arguments after `doorbell perf`. The first fault is reported: those of single options in the
/// order of the command line, then those of reference 1.4 in its order.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Parsed, UsageError> {
    let mut draft = draft::Draft::default();
    for item in Getopt::new(table::TABLE, args.into_iter()) {
        match item.map_err(UsageError::with_usage)? {
            Item::Option(entry, _) if entry.id == Id::Help => return Ok(Parsed::Help(help::short())),
            Item::Option(entry, _) if entry.id == Id::HelpFull => return Ok(Parsed::Help(help::full())),
            Item::Option(entry, value) => draft.set(entry, value)?,
            Item::Positional(file) => draft.files.push(file.into()),
        }
    }
    Ok(Parsed::Run(Box::new(resolve::resolve(draft)?)))
}

/// Where a command line wants the whole result, as far as that can be read: it is written even when the rest cannot.
pub fn json_of(args: impl IntoIterator<Item = OsString>) -> Option<Sink> {
    let mut draft = draft::Draft::default();
    for item in Getopt::new(table::TABLE, args.into_iter()).flatten() {
        if let Item::Option(entry, value) = item
            && entry.id == Id::Json
        {
            draft.set(entry, value).ok()?;
        }
    }
    draft.json
}

#[cfg(test)]
mod tests;
