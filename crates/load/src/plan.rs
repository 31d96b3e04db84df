//! What is to be run: the options, which namespaces are fit for them, and which worker drives which namespace. Pure functions
//! over plain data; [`crate::run()`] plans a run by them, context by context, and carries it out.

use std::time::Duration;

use doorbell_host::{Zoned, split::Split};
use doorbell_result::{IoKind, Timing};
use doorbell_spec::{command::control, identify::Csi, log::AnaState, protection::Format};

use crate::{
    classes::{Class, Label},
    metadata::{Carried, Protect},
    pacing::Rate,
    survey,
    workload::{Part, Pattern},
};

/// The load, as the command line describes it (reference: the options of `spdk_nvme_perf`).
#[derive(Clone, Debug, PartialEq)]
pub struct RunOptions {
    /// I/Os in flight per (core, namespace) pair, at least 1 (`-q`).
    pub io_depth: u32,
    /// Bytes of an I/O, at least 1, the largest where sizes are mixed (`-o`).
    pub io_size: u32,
    /// Largest piece of a buffer presented as one range, in bytes; `None` leaves buffers whole (`-O`).
    pub io_unit: Option<u32>,
    /// Random or sequential, and the share of reads (`-w`, `-M`).
    pub pattern: Pattern,
    /// What they choose from beyond that.
    pub selection: Selection,
    /// How long to measure (`-t`).
    pub time: Duration,
    /// How long to run before that (`-a`).
    pub warm_up: Duration,
    /// I/Os per (core, namespace) pair (`-d`).
    pub number_ios: Option<Limit>,
    /// Cores of the workers, ascending, at least one (`-c`).
    pub cores: Vec<usize>,
    /// I/O queues per (core, namespace) pair, at least 1 (`-P`).
    pub qpairs: u16,
    /// Further queues that are connected and left idle (`-U`).
    pub unused_qpairs: u16,
    /// Most completions taken from a queue in one pass; `None` is all (`-C`).
    pub max_completions: Option<u32>,
    /// Alignment of buffers in bytes, a power of two (`-A`).
    pub alignment: u32,
    /// Bytes that must be free for a run with devices within reach, huge pages included, even if it needs less (`-s`).
    pub memory: u64,
    /// Buffers on the device's NUMA node, or the worker's where that has none, or no run (`--enforce-numa`).
    pub enforce_numa: bool,
    /// Exponent of the Zipf distribution for random patterns, above 0 (`-F`).
    pub zipf: Option<f64>,
    /// Every worker drives every namespace.
    pub use_every_core: bool,
    /// Force unit access on every command.
    pub fua: bool,
    /// What is to be done about protection information (`-e`).
    pub protect: Protect,
    /// Go on after errors and show every N-th message (`-Q`).
    pub continue_on_error: Option<u64>,
    /// Entries to ask for per I/O queue, `None` for as many as the load can fill; the controller may grant less.
    pub io_queue_size: Option<u32>,
    /// Makes the sequence of I/Os of each context; the same seed repeats it.
    pub seed: u64,
    /// What workers do while nothing completes (`-E`, `--poll-mode`).
    pub poll_mode: PollMode,
    /// How latencies are taken (`--timing`).
    pub timing: Timing,
    /// Keep histograms of them (`-L`).
    pub histogram: bool,
    /// Keep the transport's counters (`--transport-stats`).
    pub transport_stats: bool,
    /// Longest wait for what is in flight when the load has ended.
    pub drain: Duration,
    /// Time after which no further I/O queue is connected.
    pub connect: Duration,
    /// The driver brings lost controllers back, and contexts wait for it; so often are queues asked of one that is back but grants
    /// none (`--reconnect`).
    pub reconnect: Option<u32>,
    /// Issue I/Os when they are planned to arrive, `io_depth` of them in flight at most, instead of when others are over (`--rate`).
    pub rate: Option<Rate>,
    /// Have an I/O aborted that takes longer, and give its queue up when that does not help (`--timeout`).
    pub timeout: Option<Duration>,
    /// Length of the slices of a time series (`--interval`).
    pub interval: Option<Duration>,
    /// How long to measure afterwards what the tool itself can drive; zero for not at all.
    pub head_room: Duration,
}

impl Default for RunOptions {
    /// Random reads of 4 KiB, 16 in flight, on the first core for a second.
    fn default() -> Self {
        Self {
            io_depth: 16,
            io_size: 4096,
            io_unit: None,
            pattern: Pattern { random: true, read_percent: 100 },
            selection: Selection::default(),
            time: Duration::from_secs(1),
            warm_up: Duration::ZERO,
            number_ios: None,
            cores: vec![0],
            qpairs: 1,
            unused_qpairs: 0,
            max_completions: None,
            alignment: 512,
            memory: 0,
            enforce_numa: false,
            zipf: None,
            use_every_core: false,
            fua: false,
            protect: Protect::default(),
            continue_on_error: None,
            io_queue_size: None,
            seed: 1,
            poll_mode: PollMode::Poll,
            timing: Timing::Exact,
            histogram: true,
            transport_stats: false,
            drain: Duration::from_secs(10),
            connect: Duration::from_secs(60),
            reconnect: None,
            timeout: None,
            rate: None,
            interval: None,
            head_room: Duration::ZERO,
        }
    }
}

/// How a load chooses its I/Os besides [`Pattern`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selection {
    /// A random pattern takes each position exactly once before any comes again (`--coverage full`).
    pub full_coverage: bool,
    /// The part of each namespace that is used (`--range`); all of it without.
    pub range: Option<LbaRange>,
    /// Sizes of I/Os in bytes, ascending, with their weights (`-o` with a mix); `io_size` alone when empty.
    pub sizes: Vec<(u32, u32)>,
    /// What I/Os do instead of reading and writing.
    pub operation: Option<IoKind>,
    /// A flush after so many writes, 1 or more (`--flush-every`).
    pub flush_every: Option<u32>,
    /// What buffers hold at the start (`--fill`).
    pub fill: Fill,
    /// Stamp what is written and check what is read, in this run of all (`--verify`).
    pub verify: Option<u64>,
}

impl Selection {
    /// Whether what is on a namespace becomes something else, where so many percent of reads and writes are reads.
    pub fn changes(&self, read_percent: u8) -> bool {
        match self.operation {
            None => read_percent < 100,
            Some(kind) => matches!(kind, IoKind::Trim | IoKind::WriteZeroes | IoKind::Append),
        }
    }
}

/// A part of a namespace, as `--range` gives it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LbaRange {
    /// Where it begins.
    pub from: Bound,
    /// Where what is behind it begins.
    pub to: Bound,
}

/// A place in a namespace.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// Percent of its size, rounded down to a multiple of the largest I/O.
    Percent(f64),
    /// Bytes, a multiple of the block size.
    Bytes(u64),
    /// Logical blocks.
    Blocks(u64),
}

/// What the buffers of I/Os hold before the first one. A read puts what it finds into its buffer, and a write that gets this buffer next
/// writes that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Fill {
    /// In each buffer a byte from 1 to 8, as in the original.
    #[default]
    Numbered,
    /// Zeroes.
    Zero,
    /// Random bytes, others in each buffer.
    Random,
    /// These bytes over and over; a power of two of them, at most 512, so that all blocks are alike.
    Pattern(Vec<u8>),
    /// Random bytes and zeroes, of which so many percent are left when they are compressed, 0 to 100.
    Compress(u8),
}

impl RunOptions {
    /// Sizes of I/Os in bytes, ascending, with their weights.
    pub(crate) fn sizes(&self) -> Vec<(u32, u32)> {
        match self.selection.sizes.is_empty() {
            true => vec![(self.io_size, 1)],
            false => self.selection.sizes.clone(),
        }
    }

    /// The classes of I/Os, in the order of [`crate::classes`].
    pub(crate) fn labels(&self) -> Vec<Label> {
        let kinds = [self.selection.operation.unwrap_or(IoKind::Read), IoKind::Write];
        let sizes = self.sizes().into_iter();
        let mut labels: Vec<Label> = sizes.flat_map(|(bytes, _)| kinds.map(|kind| Label { kind, bytes })).collect();
        labels.extend(self.selection.flush_every.map(|_| Label { kind: IoKind::Flush, bytes: 0 }));
        labels
    }
}

/// What a worker does when it finds nothing completed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PollMode {
    /// Looks again.
    #[default]
    Poll,
    /// Sleeps until something completes.
    Interrupt,
    /// Looks again for a while, and then sleeps.
    Adaptive,
}

/// How many I/Os a context issues, `-d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// So many, at least 1.
    Count(u64),
    /// That many percent of the namespace's size in I/O units, rounded down, but at least one I/O.
    Percent(u32),
}

impl Limit {
    /// The number of I/Os for a namespace of `units` I/O units.
    pub fn ios(self, units: u64) -> u64 {
        match self {
            Self::Count(count) => count,
            Self::Percent(percent) => {
                let ios = u128::from(units) * u128::from(percent) / 100;
                u64::try_from(ios).unwrap_or(u64::MAX).max(1)
            }
        }
    }
}

/// Who reads and writes the buffers of a namespace's I/Os.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// This process, through the kernel.
    Own,
    /// Another process too.
    Shared,
    /// A device, for which the kernel pins them.
    Pinned,
    /// An RDMA device, for which the kernel pins memory of this process's own.
    Registered,
    /// io_uring, which pins memory of this process's own as fixed buffers.
    Fixed,
}

/// What matters of a namespace for a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// As tables show it.
    pub name: String,
    /// The same and what tells paths of one name apart.
    pub path: String,
    /// Who reads and writes buffers.
    pub access: Access,
    /// The NUMA node of the device, where it has one.
    pub node: Option<u32>,
    /// Its identifier.
    pub nsid: u32,
    /// Its I/O command set.
    pub csi: Csi,
    /// Its zones, if it has any.
    pub zoned: Option<Zoned>,
    /// Logical blocks.
    pub blocks: u64,
    /// Data bytes of a block.
    pub block_size: u32,
    /// Metadata bytes of a block.
    pub metadata_size: u16,
    /// Whether they stand behind the data of each block.
    pub extended: bool,
    /// How blocks are protected, if they are.
    pub protection: Option<Format>,
    /// What is to be done about that.
    pub protect: Protect,
    /// Most data bytes of a command.
    pub max_transfer: u32,
    /// Blocks between the boundaries a command should not cross; 0 for none.
    pub stripe_blocks: u32,
    /// Entries of an I/O queue as far as they are known before one is connected.
    pub queue_entries: u32,
    /// Asymmetric access state of the path to it, where the controller reports one.
    pub ana_state: Option<AnaState>,
}

impl Shape {
    /// Size in I/O units of `io_size` bytes, rounded down.
    pub fn units(&self, io_size: u32) -> u64 {
        let bytes = u128::from(self.blocks) * u128::from(self.block_size);
        u64::try_from(bytes / u128::from(io_size.max(1))).unwrap_or(u64::MAX)
    }

    /// The blocks that are used.
    ///
    /// # Errors
    /// Why `--range` does not fit the namespace.
    pub fn range(&self, options: &RunOptions) -> Result<Part, String> {
        let Some(range) = options.selection.range else { return Ok(Part { start: 0, end: self.blocks }) };
        let largest = u64::from(options.io_size / self.block_size).max(1);
        let place = |bound| match bound {
            Bound::Percent(percent) if percent >= 100.0 => Ok(self.blocks),
            Bound::Percent(percent) => Ok((self.blocks as f64 * percent / 100.0) as u64 / largest * largest),
            Bound::Blocks(blocks) => Ok(blocks),
            Bound::Bytes(bytes) if bytes % u64::from(self.block_size) == 0 => Ok(bytes / u64::from(self.block_size)),
            Bound::Bytes(bytes) => {
                Err(format!("byte {bytes} (--range) is not where a block of {} begins", self.block_size))
            }
        };
        let part = Part { start: place(range.from)?, end: place(range.to)? };
        if part.end > self.blocks {
            return Err(format!("--range ends at block {}, and it has {}", part.end, self.blocks));
        }
        if part.end.saturating_sub(part.start) < largest {
            let (start, end) = (part.start, part.end);
            return Err(format!(
                "--range is blocks {start} to {end}, in which I/Os of {} bytes (-o) do not fit",
                options.io_size
            ));
        }
        Ok(part)
    }

    /// The classes of I/Os here, `most` saying how many bytes a command may be about where it moves none.
    pub(crate) fn classes(&self, options: &RunOptions, most: Option<u32>) -> Box<[Class]> {
        let control = Carried::of(self).control | if options.fua { control::FUA } else { 0 };
        let sizes = options.sizes();
        let (mixed, heaviest) = (sizes.len() > 1, sizes.iter().map(|(_, weight)| *weight).max());
        let heaviest = sizes.iter().find(|(_, weight)| Some(*weight) == heaviest).map(|(size, _)| *size);
        let of = |label: &Label| {
            let moves = matches!(label.kind, IoKind::Read | IoKind::Write | IoKind::Compare | IoKind::Append);
            let size = label.bytes.max(self.block_size);
            let split = match most.filter(|_| !moves) {
                Some(most) => Split::new(self.block_size, most, 0, size),
                None => self.split(size),
            };
            let mut class = Class::new(label.kind, size / self.block_size, self.block_size, split, control);
            if label.kind == IoKind::Flush || mixed && !options.pattern.random {
                class.stride = u64::from(label.kind != IoKind::Flush);
            }
            // Only offsets of one size can be told from chance.
            class.watched = Some(label.bytes) == heaviest;
            class
        };
        options.labels().iter().map(of).collect()
    }

    /// Whether the namespace can be tested: lines of advice if so.
    ///
    /// # Errors
    /// Why it has to be left out.
    pub fn admit(&self, options: &RunOptions) -> Result<Vec<String>, String> {
        let (name, io_size) = (&self.path, options.io_size);
        let skip = |why: String| Err(format!("{name}: {why}; the namespace is skipped"));
        if let Some(why) = self.ana_state.and_then(refusal) {
            return skip(why);
        }
        if self.block_size == 0 || self.blocks == 0 {
            return skip("it has no blocks".into());
        }
        let sizes = options.sizes();
        if let Some((size, _)) = sizes.iter().find(|(size, _)| self.block_size > *size) {
            return skip(format!("I/Os of {size} bytes (-o) are smaller than its blocks of {}", self.block_size));
        }
        if let Some((size, _)) = sizes.iter().find(|(size, _)| self.units(*size) == 0) {
            let bytes = u128::from(self.blocks) * u128::from(self.block_size);
            return skip(format!(
                "I/Os of {size} bytes (-o) do not fit its {bytes} bytes in blocks of {}",
                self.block_size
            ));
        }
        if let Some(zoned) = &self.zoned {
            if let Err(why) = survey::admit(self, zoned, options) {
                return skip(why);
            }
        } else if options.selection.operation == Some(IoKind::Append) {
            return skip("-w append is for zoned namespaces, and it is none".into());
        } else if self.csi != Csi::NVM {
            return skip(format!(
                "it is of the {}, and only those of the {} are tested",
                self.csi.name(),
                Csi::NVM.name()
            ));
        }
        if options.selection.verify.is_some() && self.zoned.is_some() {
            return skip("--verify is not built for zoned namespaces; leave it out, or name others".into());
        }
        let carried = Carried::of(self);
        if carried.apart > 0 && !matches!(self.access, Access::Shared | Access::Pinned) {
            return skip(format!(
                "its blocks have {} bytes of metadata apart from their data, which goes over PCIe and vfio-user only; format it for \
                 metadata behind the data (extended blocks)",
                carried.apart
            ));
        }
        let block = self.block_size;
        // As the original has it, a size may also count the metadata that is moved.
        let whole = |size: u32| {
            size.is_multiple_of(block) || size.is_multiple_of(carried.block) && size / block == size / carried.block
        };
        if let Some((size, _)) = sizes.iter().find(|(size, _)| !whole(*size)) {
            return skip(format!("the I/O size {size} (-o) is not a multiple of its block size {block}"));
        }
        // Places in a buffer are 32 bits, and metadata that is apart begins at a multiple of 8.
        let carried_bytes = u64::from(io_size / block) * u64::from(carried.block + carried.apart);
        if carried_bytes + 8 > u64::from(u32::MAX) {
            return skip(format!(
                "an I/O of {io_size} bytes (-o) is {carried_bytes} with its metadata, and 4 GiB are too many"
            ));
        }
        if let Err(why) = self.range(options) {
            return skip(why);
        }
        let pieces = self.split(io_size).most_pieces() as u64;
        let commands = u64::from(options.io_depth).div_ceil(options.qpairs.max(1).into()) * pieces;
        let slots = u64::from(self.queue_entries.saturating_sub(1));
        let mut advice = Vec::new();
        if self.protect != Protect::default() && self.protection.is_none() {
            advice.push(format!("{name}: its blocks are not protected, and -e (--metadata) means nothing there."));
        }
        if commands > slots {
            advice.push(format!(
                "{name}: {} I/Os in flight (-q) of up to {pieces} commands need {commands} places in an I/O queue that has {slots}.",
                options.io_depth
            ));
            advice.push(
                "The others wait in the tool, and their latency includes the wait. Lower -q or -o, or raise -P or --io-queue-size."
                    .into(),
            );
        }
        Ok(advice)
    }

    /// How I/Os are cut into commands. The shape must have been admitted.
    pub fn split(&self, io_size: u32) -> Split {
        let block = Carried::of(self).block;
        Split::new(block, self.max_transfer, self.stripe_blocks, io_size / self.block_size * block)
    }
}

/// A worker drives a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Association {
    /// Index of the worker, in the order of cores.
    pub worker: usize,
    /// Index of the namespace, in the order of registration.
    pub namespace: usize,
    /// Which of the contexts that share the namespace this is.
    pub share: u64,
    /// How many they are.
    pub sharers: u64,
}

/// Who drives what: with `every_core`, everybody everything; else as many pairs as there are workers or namespaces, whichever
/// is more, both lists taken cyclically. Workers ascending, each one's namespaces in the order of registration.
pub fn associate(workers: usize, namespaces: usize, every_core: bool) -> Vec<Association> {
    if workers == 0 || namespaces == 0 {
        return Vec::new();
    }
    let mut pairs: Vec<(usize, usize)> = match every_core {
        true => (0..workers).flat_map(|worker| (0..namespaces).map(move |namespace| (worker, namespace))).collect(),
        false => (0..workers.max(namespaces)).map(|step| (step % workers, step % namespaces)).collect(),
    };
    pairs.sort_unstable();
    let mut shares = vec![0; namespaces];
    let mut list: Vec<Association> = pairs
        .into_iter()
        .map(|(worker, namespace)| {
            shares[namespace] += 1;
            Association { worker, namespace, share: shares[namespace] - 1, sharers: 0 }
        })
        .collect();
    list.iter_mut().for_each(|pair| pair.sharers = shares[pair.namespace]);
    list
}

/// Why no I/O may be sent over a path in this state, if so.
pub(crate) fn refusal(state: AnaState) -> Option<String> {
    let advice = match state {
        AnaState::CHANGE => "wait until it has changed",
        _ => "use another path to it",
    };
    let refused = || format!("I/O is refused over this path, whose state is {}: {advice}", state.name());
    state.refuses_io().then(refused)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub fn options() -> RunOptions {
        RunOptions { io_queue_size: Some(128), ..RunOptions::default() }
    }

    pub fn shape() -> Shape {
        Shape {
            name: "ns".into(),
            path: "ns".into(),
            access: Access::Own,
            node: None,
            nsid: 1,
            blocks: 1 << 20,
            block_size: 512,
            csi: Csi::NVM,
            zoned: None,
            metadata_size: 0,
            extended: false,
            protection: None,
            protect: Protect::default(),
            max_transfer: 131_072,
            stripe_blocks: 0,
            queue_entries: 128,
            ana_state: None,
        }
    }

    /// The namespaces (a, b, …) of each worker.
    fn table(workers: usize, namespaces: usize, every_core: bool) -> String {
        let mut rows = vec![String::new(); workers];
        for pair in associate(workers, namespaces, every_core) {
            rows[pair.worker].push((b'a' + pair.namespace as u8) as char);
        }
        rows.join(" ")
    }

    #[test]
    fn the_association_table() {
        for (workers, namespaces, rows) in [
            (1, 1, "a"),
            (1, 2, "ab"),
            (1, 3, "abc"),
            (1, 4, "abcd"),
            (1, 5, "abcde"),
            (2, 1, "a a"),
            (2, 2, "a b"),
            (2, 3, "ac b"),
            (2, 4, "ac bd"),
            (2, 5, "ace bd"),
            (3, 1, "a a a"),
            (3, 2, "a b a"),
            (3, 3, "a b c"),
            (3, 4, "ad b c"),
            (3, 5, "ad be c"),
            (4, 1, "a a a a"),
            (4, 2, "a b a b"),
            (4, 3, "a b c a"),
            (4, 4, "a b c d"),
            (4, 5, "ae b c d"),
        ] {
            assert_eq!(table(workers, namespaces, false), rows, "{workers} workers, {namespaces} namespaces");
            let all: String = ('a'..).take(namespaces).collect();
            assert_eq!(table(workers, namespaces, true), vec![all; workers].join(" "));
        }
        assert!(associate(0, 3, false).is_empty() && associate(3, 0, true).is_empty());
    }

    #[test]
    fn sharers_are_numbered() {
        let shares: Vec<_> =
            associate(4, 3, false).iter().map(|pair| (pair.namespace, pair.share, pair.sharers)).collect();
        assert_eq!(shares, [(0, 0, 2), (1, 0, 1), (2, 0, 1), (0, 1, 2)]);
    }

    #[test]
    fn a_namespace_is_admitted_advised_or_skipped() {
        let options = options();
        assert_eq!(shape().admit(&options), Ok(vec![]));
        for (change, why) in [
            (Shape { blocks: 7, ..shape() }, "do not fit its 3584 bytes"),
            (Shape { block_size: 8192, ..shape() }, "smaller than its blocks of 8192"),
            (Shape { block_size: 3000, ..shape() }, "not a multiple of its block size 3000"),
            (Shape { block_size: 0, ..shape() }, "no blocks"),
            (Shape { metadata_size: 8, ..shape() }, "8 bytes of metadata apart from their data"),
            (Shape { csi: Csi::ZONED, ..shape() }, "it is of the Zoned Namespace Command Set"),
            (Shape { ana_state: Some(AnaState::INACCESSIBLE), ..shape() }, "ANA Inaccessible: use another path"),
            (Shape { ana_state: Some(AnaState::PERSISTENT_LOSS), ..shape() }, "ANA Persistent Loss: use another path"),
            (Shape { ana_state: Some(AnaState::CHANGE), ..shape() }, "ANA Change: wait"),
        ] {
            let skipped = change.admit(&options).unwrap_err();
            assert!(skipped.contains(why) && skipped.starts_with("ns: "), "{skipped}");
        }
        for state in [AnaState::OPTIMIZED, AnaState::NON_OPTIMIZED] {
            assert_eq!(Shape { ana_state: Some(state), ..shape() }.admit(&options), Ok(vec![]));
        }
        let odd = RunOptions { io_size: 36964, ..options.clone() };
        assert!(shape().admit(&odd).unwrap_err().contains("multiple"));
        let verifying =
            RunOptions { selection: Selection { verify: Some(1), ..Selection::default() }, ..options.clone() };
        assert_eq!(shape().admit(&verifying), Ok(vec![]));
        let beside = Shape { metadata_size: 8, ..shape() };
        assert!(!beside.admit(&verifying).unwrap_err().contains("--verify"), "metadata is no obstacle");
        let deep = RunOptions { io_depth: 128, ..options.clone() };
        let advice = shape().admit(&deep).unwrap();
        assert!(advice.len() == 2 && advice[0].contains("128 places in an I/O queue that has 127"), "{advice:?}");
        assert_eq!(shape().admit(&RunOptions { qpairs: 2, ..deep }), Ok(vec![]));
        let large = RunOptions { io_size: 1 << 20, ..options };
        assert!(shape().admit(&large).unwrap()[0].contains("up to 8 commands"));
    }

    #[test]
    fn percent_limits_round_down_and_are_never_nothing() {
        assert_eq!(Limit::Count(7).ios(1), 7);
        assert_eq!(Limit::Percent(50).ios(1001), 500);
        assert_eq!(Limit::Percent(250).ios(1000), 2500);
        assert_eq!(Limit::Percent(1).ios(50), 1);
        assert_eq!(Limit::Percent(200).ios(u64::MAX), u64::MAX);
        assert_eq!(shape().units(4096), (1 << 20) / 8);
    }
}
