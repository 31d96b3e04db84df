//! What the command line said, option by option, before the options are looked at together. Filled by
//! [`super::parse`] in the order of the command line; a value that is wrong by itself ends here.
//! [`super::resolve`] and [`super::later`] take it from there.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use doorbell_load::{Arrival, PollMode, Protect, Selection, Timing, kernel::Engine};
use tracing::Level;

use super::numbers::{capacity, capacity32, number_of_ios, plain, wide};
use super::table::{Entry, Id};
use super::{Environment, Link, NumberOfIos, Sink, UsageError, checks, selection};

/// Most `-r`, and most `-b`.
const TRANSPORTS: usize = 256;
const PCI_ADDRESSES: usize = 128;
/// Most attempts of `--reconnect`: more than an hour of them.
const RECONNECTS: u32 = 1000;
/// Shortest slice of `--interval` in milliseconds: the run looks for finished ones twice in that time.
const SHORTEST_INTERVAL: u64 = 10;

/// The options as given, each in its own grammar.
pub struct Draft {
    pub io_depth: Option<u32>,
    pub io_size: Option<u32>,
    pub pattern: Option<String>,
    pub time_s: Option<u32>,
    pub read_percent: Option<u32>,
    pub transport_ids: Vec<String>,
    pub core_mask: String,
    pub warmup_s: u32,
    pub number_ios: Option<NumberOfIos>,
    pub io_unit: Option<u32>,
    pub qpairs: u32,
    pub unused_qpairs: u32,
    pub io_queue_size: u32,
    pub max_completions: u32,
    pub alignment: u32,
    pub zipf: Option<f64>,
    pub use_every_core: bool,
    pub fua: bool,
    pub protect: Protect,
    pub continue_on_error: Option<u32>,
    pub environment: Environment,
    pub single_segment: bool,
    pub enforce_numa: bool,
    pub interrupt: bool,
    pub poll_mode: Option<PollMode>,
    pub timing: Timing,
    pub iova_mode: Option<String>,
    pub header_digest: bool,
    pub data_digest: bool,
    pub sock_impl: String,
    /// Kinds of sockets with zero-copy send switched on.
    pub zero_copy: Vec<String>,
    pub zero_copy_threshold: u32,
    pub zero_copy_threshold_for: Option<String>,
    /// The first option that asks for TLS.
    pub tls: Option<&'static Entry>,
    pub disable_sq_flow_control: bool,
    pub transport_tos: u8,
    pub rdma_srq_size: u32,
    pub keep_alive_ms: u32,
    /// How often `-L` was given.
    pub latency: u32,
    pub ssd_latency: bool,
    pub cpu_usage: bool,
    pub transport_stats: bool,
    pub log_level: Level,
    pub seed: Option<u64>,
    pub embedded: Option<Link>,
    pub reconnect: Option<u32>,
    pub timeout_ms: Option<u32>,
    /// I/Os a second, and whether by each worker.
    pub rate: Option<(f64, bool)>,
    pub arrival: Option<Arrival>,
    pub json: Option<Sink>,
    pub csv: Option<Sink>,
    pub hlog: Option<Sink>,
    pub interval: Option<Duration>,
    pub ndjson: Option<Sink>,
    pub strict: bool,
    pub overwrite: Vec<String>,
    pub selection: Selection,
    /// `-R` was given.
    pub uring: bool,
    pub engine: Option<Engine>,
    pub iopoll: bool,
    pub sqpoll: bool,
    pub unregistered: bool,
    pub buffered: bool,
    pub range: Option<String>,
    pub fill: Option<String>,
    pub files: Vec<PathBuf>,
    /// Every option in the order of the command line.
    pub given: Vec<&'static Entry>,
    /// What to tell the user though the run goes on.
    pub notes: Vec<String>,
}

impl Default for Draft {
    fn default() -> Self {
        Self {
            io_depth: None,
            io_size: None,
            pattern: None,
            time_s: None,
            read_percent: None,
            transport_ids: Vec::new(),
            core_mask: "0x1".into(),
            warmup_s: 0,
            number_ios: None,
            io_unit: None,
            qpairs: 1,
            unused_qpairs: 0,
            io_queue_size: 65535,
            max_completions: 0,
            alignment: 512,
            zipf: None,
            use_every_core: false,
            fua: false,
            protect: Protect::default(),
            continue_on_error: None,
            environment: Environment::default(),
            single_segment: false,
            enforce_numa: false,
            interrupt: false,
            poll_mode: None,
            timing: Timing::Exact,
            iova_mode: None,
            header_digest: false,
            data_digest: false,
            sock_impl: "posix".into(),
            zero_copy: Vec::new(),
            zero_copy_threshold: 0,
            zero_copy_threshold_for: None,
            tls: None,
            disable_sq_flow_control: false,
            transport_tos: 0,
            rdma_srq_size: 0,
            keep_alive_ms: 10_000,
            latency: 0,
            ssd_latency: false,
            cpu_usage: false,
            transport_stats: false,
            log_level: Level::ERROR,
            seed: None,
            embedded: None,
            reconnect: None,
            timeout_ms: None,
            rate: None,
            arrival: None,
            json: None,
            csv: None,
            hlog: None,
            interval: None,
            ndjson: None,
            strict: false,
            overwrite: Vec::new(),
            selection: Selection::default(),
            uring: false,
            engine: None,
            iopoll: false,
            sqpoll: false,
            unregistered: false,
            buffered: false,
            range: None,
            fill: None,
            files: Vec::new(),
            given: Vec::new(),
            notes: Vec::new(),
        }
    }
}

impl Draft {
    /// Takes one option. `-h` and `-v` have no place here and change nothing.
    pub fn set(&mut self, entry: &'static Entry, value: Option<OsString>) -> Result<(), UsageError> {
        let label = &entry.label();
        let text = match value.unwrap_or_default().into_string() {
            Ok(text) => text,
            Err(raw) => return Err(format!("{label}: {raw:?} is not valid UTF-8").into()),
        };
        let wrong = |why: String| format!("{label}: \"{text}\" is not valid: {why}");
        self.given.push(entry);
        match entry.id {
            Id::IoDepth => self.io_depth = Some(capacity32(label, &text)?),
            Id::IoSize => {
                let (largest, sizes) = selection::sizes(label, &text)?;
                (self.io_size, self.selection.sizes) = (Some(largest), sizes);
            }
            Id::IoPattern => self.pattern = Some(text),
            Id::Time => self.time_s = Some(plain(label, &text)?),
            Id::RwMixRead => self.read_percent = Some(plain(label, &text)?),
            Id::Transport => {
                if self.transport_ids.len() == TRANSPORTS {
                    let message = format!("{label}: at most {TRANSPORTS} transport IDs can be given");
                    return Err(UsageError::with_usage(message));
                }
                self.transport_ids.push(text);
            }
            Id::CoreMask => self.core_mask = text,
            Id::Help | Id::HelpFull => (),
            Id::WarmupTime => self.warmup_s = plain(label, &text)?,
            Id::NumberIos => self.number_ios = number_of_ios(label, &text)?,
            Id::IoUnitSize => self.io_unit = Some(capacity32(label, &text)?),
            Id::NumQpairs => self.qpairs = plain(label, &text)?,
            Id::NumUnusedQpairs => self.unused_qpairs = plain(label, &text)?,
            Id::IoQueueSize => self.io_queue_size = capacity32(label, &text)?,
            Id::MaxCompletions => self.max_completions = plain(label, &text)?,
            Id::BufferAlignment => {
                self.alignment = capacity32(label, &text)?;
                if !self.alignment.is_power_of_two() || self.alignment < 64 {
                    let why = "a power of two of 64 or more is needed".into();
                    return Err(UsageError::with_usage(wrong(why)));
                }
            }
            Id::Zipf => self.zipf = theta(&text).map_err(wrong)?,
            Id::UseEveryCore => self.use_every_core = true,
            Id::Fua => self.fua = true,
            Id::ContinueOnError => self.continue_on_error = Some(plain(label, &text)?),
            Id::Metadata => {
                let (protect, unknown) = checks::metadata(&text).map_err(|why| UsageError::with_usage(wrong(why)))?;
                self.protect = protect;
                for key in unknown {
                    self.notes.push(format!("{label}: unknown key \"{key}\" is ignored"));
                }
            }
            Id::AllowedPciAddr => {
                let address = text.parse().map_err(|why| UsageError::with_usage(format!("{label}: {why}")))?;
                self.environment.allowed.push(address);
                if self.environment.allowed.len() > PCI_ADDRESSES {
                    let message = format!("{label}: at most {PCI_ADDRESSES} addresses can be given");
                    return Err(UsageError::with_usage(message));
                }
            }
            Id::HugememSize => self.environment.memory_mb = megabytes(label, &text)?,
            Id::MemSingleSeg => self.single_segment = true,
            Id::ShmemGroup => drop(plain(label, &text)?),
            Id::DisableSqCmb => self.environment.no_sq_cmb = true,
            Id::NoShstNotification => self.environment.no_shutdown_notification = true,
            Id::EnforceNuma => self.enforce_numa = true,
            Id::EnableUring => self.uring = true,
            Id::EnableInterrupt => self.interrupt = true,
            Id::IovaMode => self.iova_mode = Some(text),
            Id::NoHuge => self.environment.no_huge = true,
            Id::VfioVfToken => self.environment.vf_token = Some(checks::uuid(&text).map_err(wrong)?),
            Id::Hdgst => self.header_digest = true,
            Id::Ddgst => self.data_digest = true,
            Id::SockImpl => {
                checks::sock_impl(&text).map_err(wrong)?;
                self.sock_impl = text;
            }
            Id::EnableZcopy | Id::DisableZcopy => match checks::sock_impl(&text) {
                Err(why) => self.notes.push(wrong(why)),
                Ok(()) => {
                    self.zero_copy.retain(|name| *name != text);
                    if entry.id == Id::EnableZcopy {
                        self.zero_copy.push(text);
                    }
                }
            },
            Id::ZerocopyThreshold => self.zero_copy_threshold = capacity32(label, &text)?,
            Id::ZerocopyThresholdSockImpl => {
                checks::sock_impl(&text).map_err(wrong)?;
                self.zero_copy_threshold_for = Some(text);
            }
            Id::DisableKtls | Id::EnableKtls => self.tls = self.tls.or(Some(entry)),
            Id::TlsVersion => {
                if !matches!(plain(label, &text)?, 0 | 11 | 12 | 13) {
                    return Err(wrong("versions are 0, 11, 12 and 13".into()).into());
                }
                self.tls = self.tls.or(Some(entry));
            }
            Id::PskPath => {
                checks::key_file(Path::new(&text)).map_err(wrong)?;
                self.tls = self.tls.or(Some(entry));
            }
            Id::PskIdentity => (),
            Id::DhchapKey | Id::DhchapCtrlrKey => {
                checks::key_file(Path::new(&text)).map_err(wrong)?;
            }
            Id::DisableSqFlowControl => self.disable_sq_flow_control = true,
            Id::TransportTos => {
                let value = plain(label, &text)?;
                self.transport_tos =
                    value.try_into().map_err(|_| UsageError::from(wrong("the largest value is 255".into())))?;
            }
            Id::RdmaSrqSize => self.rdma_srq_size = plain(label, &text)?,
            Id::KeepAlive => self.keep_alive_ms = plain(label, &text)?,
            Id::SwLatency => self.latency += 1,
            Id::SsdLatency => self.ssd_latency = true,
            Id::CpuUsage => self.cpu_usage = true,
            Id::TransportStats => self.transport_stats = true,
            Id::LogLevel => self.log_level = level(&text).map_err(wrong)?,
            Id::EnableVmd | Id::EnvContext | Id::LogFlag | Id::TpointGroupMask => {
                return Err(refused(entry).into());
            }
            Id::Seed => self.seed = Some(wide(label, &text)?),
            Id::Embedded => {
                self.embedded = Some(match text.as_str() {
                    "" => Link::default(),
                    "tcp" => Link::Tcp,
                    "vfio-user" => Link::VfioUser,
                    _ => return Err(wrong("links are tcp and vfio-user".into()).into()),
                });
            }
            Id::Timing => self.timing = timing(&text).map_err(wrong)?,
            Id::PollMode => {
                self.poll_mode = Some(match text.as_str() {
                    "poll" => PollMode::Poll,
                    "interrupt" => PollMode::Interrupt,
                    "adaptive" => PollMode::Adaptive,
                    _ => return Err(wrong("modes are poll, interrupt and adaptive".into()).into()),
                });
            }
            Id::Json => self.json = Some(sink(&text).map_err(wrong)?),
            Id::Csv => self.csv = Some(sink(&text).map_err(wrong)?),
            Id::Hlog => self.hlog = Some(sink(&text).map_err(wrong)?),
            Id::Interval => self.interval = Some(interval(&text).map_err(wrong)?),
            Id::Ndjson => self.ndjson = Some(sink(&text).map_err(wrong)?),
            Id::Strict => self.strict = true,
            Id::Engine => {
                let engines = [Engine::Libaio, Engine::Uring, Engine::UringCmd];
                let found = engines.into_iter().find(|engine| engine.word() == text);
                self.engine = Some(found.ok_or_else(|| wrong("engines are libaio, io_uring and io_uring_cmd".into()))?);
            }
            Id::IoPoll => self.iopoll = true,
            Id::SqPoll => self.sqpoll = true,
            Id::Unregistered => self.unregistered = true,
            Id::Buffered => self.buffered = true,
            Id::Overwrite => self.overwrite.push(text),
            Id::Reconnect => match plain(label, &text)? {
                attempts @ 1..=RECONNECTS => self.reconnect = Some(attempts),
                _ => return Err(wrong(format!("1 to {RECONNECTS} attempts can be asked for")).into()),
            },
            Id::Rate => self.rate = Some(rate(&text).map_err(wrong)?),
            Id::Arrival => self.arrival = Some(arrival(&text).map_err(wrong)?),
            Id::Range => {
                self.selection.range = Some(selection::range(label, &text).map_err(wrong)?);
                self.range = Some(text);
            }
            Id::Fill => {
                self.selection.fill = selection::fill(&text).map_err(wrong)?;
                self.fill = Some(text);
            }
            Id::FlushEvery => match plain(label, &text)? {
                0 => return Err(wrong("a flush comes after 1 write at least".into()).into()),
                writes => self.selection.flush_every = Some(writes),
            },
            Id::Verify => self.selection.verify = Some(0),
            Id::Coverage => match text.as_str() {
                "random" => self.selection.full_coverage = false,
                "full" => self.selection.full_coverage = true,
                _ => return Err(wrong("random and full are known".into()).into()),
            },
            Id::Timeout => match plain(label, &text)? {
                0 => {
                    return Err(
                        wrong("an I/O takes at least a millisecond here; leave it out for no limit".into()).into()
                    );
                }
                milliseconds => self.timeout_ms = Some(milliseconds),
            },
        }
        Ok(())
    }
}

/// Why an option that belongs to DPDK or SPDK alone is refused, and what to use instead.
fn refused(entry: &Entry) -> String {
    let why = match entry.id {
        Id::EnableVmd => {
            "VMD is driven by SPDK's own bus driver; turn VMD off in the firmware, so that the drives \
             appear as PCIe devices"
        }
        Id::EnvContext => {
            "it passes arguments to DPDK, which doorbell does not use; -c chooses cores, and memory needs \
             no setting"
        }
        Id::LogFlag => "it names a component of SPDK; use --log-level debug",
        _ => "it switches SPDK's trace points on; use --log-level debug, --transport-stats or perf record",
    };
    format!("{} is not part of doorbell: {why}", entry.label())
}

fn theta(text: &str) -> Result<Option<f64>, String> {
    match text.trim_start().parse::<f64>() {
        Ok(1.0) => Err("theta 1 has no finite exponent in this generator; take 0.99 or 1.01".into()),
        Ok(theta) if theta.is_finite() && theta >= 0.0 => Ok((theta > 0.0).then_some(theta)),
        Ok(_) => Err("theta must be finite and not negative".into()),
        Err(_) => Err("a number like 0.9 is expected".into()),
    }
}

fn timing(text: &str) -> Result<Timing, String> {
    let every = text.strip_prefix("sampled:").map(str::parse);
    match (text, every) {
        ("exact", _) => Ok(Timing::Exact),
        ("batch", _) => Ok(Timing::Batch),
        ("off", _) => Ok(Timing::Off),
        (_, Some(Ok(every @ 1..))) => Ok(Timing::Sampled(every)),
        _ => Err("exact, batch, sampled:N (N of 1 or more) and off are known".into()),
    }
}

fn rate(text: &str) -> Result<(f64, bool), String> {
    let (number, each_worker) = text.strip_suffix("/worker").map_or((text, false), |number| (number, true));
    let scales = [(['k', 'K'], 1e3), (['m', 'M'], 1e6)];
    let scaled = scales.iter().find_map(|(letters, scale)| Some((number.strip_suffix(*letters)?, *scale)));
    let (digits, scale) = scaled.unwrap_or((number, 1.0));
    match digits.parse::<f64>().map(|count| count * scale) {
        Ok(rate) if (0.001..=1e9).contains(&rate) => Ok((rate, each_worker)),
        _ => Err(
            "I/Os a second like 500, 100k or 1.5M are expected, and /worker behind them where each is to issue so many"
                .into(),
        ),
    }
}

fn arrival(text: &str) -> Result<Arrival, String> {
    let burst = text.strip_prefix("burst:").map(str::parse);
    match (text, burst) {
        ("fixed", _) => Ok(Arrival::Fixed),
        ("poisson", _) => Ok(Arrival::Poisson),
        (_, Some(Ok(count @ 1..))) => Ok(Arrival::Burst(count)),
        _ => Err("fixed, poisson and burst:N (N of 1 or more) are known".into()),
    }
}

fn sink(text: &str) -> Result<Sink, String> {
    match text {
        "" => Err("the name of a file is expected, or - for standard output".into()),
        "-" => Ok(Sink::Stdout),
        file => Ok(Sink::File(file.into())),
    }
}

fn interval(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_lowercase());
    let unit = match &text[digits.len()..] {
        "ms" => Some(1),
        "s" => Some(1000),
        "m" => Some(60_000),
        _ => None,
    };
    let number = digits.parse::<u64>().ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()));
    match number.zip(unit).and_then(|(number, unit)| number.checked_mul(unit)) {
        Some(milliseconds @ SHORTEST_INTERVAL..) => Ok(Duration::from_millis(milliseconds)),
        Some(_) => Err(format!("a slice takes {SHORTEST_INTERVAL}ms at least")),
        None => Err("a number with ms, s or m is expected, as 100ms".into()),
    }
}

fn megabytes(label: &str, text: &str) -> Result<u32, String> {
    if text.ends_with(['k', 'K', 'm', 'M', 'g', 'G']) {
        capacity(label, text)?;
        return Err(format!("{label}: \"{text}\" would be that many megabytes; give the number of megabytes alone"));
    }
    plain(label, text)
}

fn level(text: &str) -> Result<Level, String> {
    Ok(match text {
        "error" => Level::ERROR,
        "warning" => Level::WARN,
        "notice" | "info" => Level::INFO,
        "debug" => Level::DEBUG,
        _ => return Err("levels are error, warning, notice, info, debug".into()),
    })
}
