//! The options looked at together: the refusals of reference 1.4 in their order, then our own, then the
//! final [`Options`]. Called once by [`super::parse`].

use std::time::Duration;

use doorbell_load::{
    Fill, IoKind, PollMode, Rate, Timing,
    kernel::{self, Engine},
};

use super::draft::Draft;
use super::{Environment, LatencyOutput, NumberOfIos, Options, Pattern, Sink, UsageError, later, selection};
use crate::core_mask;

/// Checks and completes a command line. The first fault in the order of the code is the one reported.
pub fn resolve(draft: Draft) -> Result<Options, UsageError> {
    let usage = |message: &str| UsageError::with_usage(message.into());
    let embedded = draft.embedded.is_some();
    let or_embedded = |given: Option<u32>, default: u32, message: &str| {
        let value = given.or(embedded.then_some(default));
        value.filter(|&v| v != 0).ok_or_else(|| usage(message))
    };

    if draft.qpairs == 0 {
        return Err(usage("-P (--num-qpairs) must be 1 or more, not 0"));
    }
    let io_depth =
        or_embedded(draft.io_depth, 128, "-q (--io-depth) is missing or 0: how many I/Os are to be in flight?")?;
    let io_size = or_embedded(draft.io_size, 4096, "-o (--io-size) is missing or 0: how many bytes has an I/O?")?;
    if let Some(unit) = draft.io_unit.filter(|unit| *unit == 0 || unit % 4 != 0) {
        let message = format!("-O (--io-unit-size): {unit} is not a multiple of 4 above 0");
        return Err(message.into());
    }
    let default = embedded.then_some("randread");
    let Some(word) = draft.pattern.as_deref().or(default) else {
        return Err(usage(
            "-w (--io-pattern) is missing: read, write, randread, randwrite, rw, randrw or another of --help-full",
        ));
    };
    let time_s = or_embedded(draft.time_s, 5, "-t (--time) is missing or 0: how many seconds are to be measured?")?;
    if draft.continue_on_error == Some(0) {
        return Err(usage("-Q (--continue-on-error) must be 1 or more, not 0"));
    }
    if let Some(entry) = draft.tls.filter(|_| draft.sock_impl != "ssl") {
        let message = format!("{} needs TLS sockets; add -S ssl (now -S {})", entry.label(), draft.sock_impl);
        return Err(message.into());
    }
    let mut notes = Vec::new();
    let pattern = pattern(word, draft.read_percent, &mut notes)?;
    if draft.zero_copy_threshold > 0 && draft.zero_copy_threshold_for.is_none() {
        return Err("--zerocopy-threshold needs --zerocopy-threshold-sock-impl".to_string().into());
    }
    if draft.number_ios.is_some() && draft.warmup_s > 0 {
        let message = "-d (--number-ios) and -a (--warmup-time) exclude each other";
        return Err(message.to_string().into());
    }
    if let Some(NumberOfIos::Count(count)) = draft.number_ios
        && count < io_depth.into()
    {
        let message = format!("-d (--number-ios): {count} is less than -q (--io-depth) {io_depth}");
        return Err(message.into());
    }
    if embedded && !draft.transport_ids.is_empty() {
        let message = "--embedded tests its own target; leave -r (--transport) out, or --embedded";
        return Err(message.to_string().into());
    }
    let poll_mode = match (draft.interrupt, draft.poll_mode) {
        (true, Some(mode @ (PollMode::Poll | PollMode::Adaptive))) => {
            let word = if mode == PollMode::Poll { "poll" } else { "adaptive" };
            return Err(format!("-E (--enable-interrupt) is --poll-mode interrupt and excludes {word}").into());
        }
        (true, _) => PollMode::Interrupt,
        (false, mode) => mode.unwrap_or_default(),
    };
    if draft.timing == Timing::Off && draft.latency > 0 {
        let message = "--timing off takes no latencies, which -L (--enable-sw-latency-tracking) is to show";
        return Err(message.to_string().into());
    }
    let rate = rate(&draft, poll_mode)?;
    let selection = selection::resolve(&draft, pattern, word, &mut notes)?;
    if draft.timing == Timing::Off && draft.hlog.is_some() {
        return Err("--timing off takes no latencies, which --hlog is to hold".to_string().into());
    }
    let sinks = [("json", &draft.json), ("csv", &draft.csv), ("hlog", &draft.hlog), ("ndjson", &draft.ndjson)];
    let taken: Vec<_> = sinks.iter().filter(|(_, sink)| **sink == Some(Sink::Stdout)).map(|(name, _)| *name).collect();
    if let [one, other, ..] = taken[..] {
        return Err(format!("--{one} and --{other} cannot both have standard output; name a file for one").into());
    }
    let kept = draft.json.is_some() || draft.ndjson.is_some() || draft.hlog.is_some();
    if draft.interval.is_some() && !kept {
        notes.push("--interval has no effect: it keeps a time series for --json, --ndjson or --hlog".into());
    }
    let interval = draft.interval.filter(|_| kept).or(draft.ndjson.as_ref().map(|_| Duration::from_secs(1)));
    environment(&draft)?;
    let kernel = kernel(&draft, word, pattern, poll_mode)?;
    let cores = core_mask::cores(&draft.core_mask)?;
    notes.extend(later::check(&draft)?);
    let over_rdma = later::tests_rdma(&draft);
    let within_reach = later::tests_within_reach(&draft);
    let environment = if within_reach { draft.environment } else { Environment::default() };

    if draft.zipf.is_some() && !pattern.random {
        notes.push(format!("-F (--zipf) has no effect: -w {word} is sequential"));
    }
    let changes = selection.changes(pattern.read_percent);
    if !draft.overwrite.is_empty() && !changes {
        notes.push("--overwrite has no effect: nothing is written".into());
    }
    notes.splice(0..0, draft.notes);
    let thresholds_for_these = draft.zero_copy_threshold_for.as_ref() == Some(&draft.sock_impl);
    let zero_copy_threshold = if thresholds_for_these { draft.zero_copy_threshold } else { 0 };
    Ok(Options {
        io_depth,
        io_size,
        io_unit: draft.io_unit,
        pattern,
        fill: draft.fill.filter(|_| selection.fill != Fill::Numbered),
        selection,
        range: draft.range,
        time_s,
        warmup_s: draft.warmup_s,
        number_ios: draft.number_ios,
        cores,
        transport_ids: draft.transport_ids,
        files: draft.files,
        kernel,
        embedded: draft.embedded,
        environment,
        enforce_numa: draft.enforce_numa,
        qpairs: draft.qpairs,
        unused_qpairs: draft.unused_qpairs,
        io_queue_size: draft.io_queue_size,
        max_completions: draft.max_completions,
        alignment: draft.alignment,
        zipf: draft.zipf.filter(|_| pattern.random),
        use_every_core: draft.use_every_core,
        fua: draft.fua,
        protect: draft.protect,
        continue_on_error: draft.continue_on_error,
        header_digest: draft.header_digest,
        data_digest: draft.data_digest,
        zero_copy: draft.zero_copy.contains(&draft.sock_impl).then_some(zero_copy_threshold),
        disable_sq_flow_control: draft.disable_sq_flow_control,
        transport_tos: if over_rdma { draft.transport_tos } else { 0 },
        rdma_srq_size: if over_rdma { draft.rdma_srq_size } else { 0 },
        keep_alive_ms: draft.keep_alive_ms,
        poll_mode,
        timing: draft.timing,
        latency: match draft.latency {
            0 => LatencyOutput::None,
            1 => LatencyOutput::Summary,
            _ => LatencyOutput::Histogram,
        },
        ssd_latency: draft.ssd_latency,
        cpu_usage: draft.cpu_usage,
        transport_stats: draft.transport_stats,
        log_level: draft.log_level,
        seed: draft.seed,
        reconnect: draft.reconnect,
        timeout_ms: draft.timeout_ms,
        rate,
        json: draft.json,
        csv: draft.csv,
        hlog: draft.hlog,
        interval,
        ndjson: draft.ndjson,
        strict: draft.strict,
        overwrite: if changes { draft.overwrite } else { Vec::new() },
        notes,
    })
}

fn rate(draft: &Draft, poll_mode: PollMode) -> Result<Option<Rate>, String> {
    let Some((per_second, each_worker)) = draft.rate else {
        let needs = "--arrival says how the I/Os of --rate lie in time; give that too";
        return draft.arrival.map_or(Ok(None), |_| Err(needs.into()));
    };
    if poll_mode != PollMode::Poll {
        return Err("--rate keeps its plan by never sleeping, which -E and --poll-mode ask for".into());
    }
    if draft.timing == Timing::Off {
        return Err("--rate is for response times, and --timing off takes none".into());
    }
    Ok(Some(Rate { per_second, arrival: draft.arrival.unwrap_or_default(), each_worker }))
}

/// How the kernel's files and devices are opened.
fn kernel(draft: &Draft, word: &str, pattern: Pattern, poll_mode: PollMode) -> Result<kernel::Options, String> {
    let engine = match (draft.uring, draft.engine) {
        (true, Some(Engine::Libaio)) => {
            return Err("-R (--enable-uring) is --engine io_uring and excludes libaio".into());
        }
        (true, None) => Some(Engine::Uring),
        (_, engine) => engine,
    };
    let sleeps = poll_mode != PollMode::Poll;
    if draft.iopoll && sleeps {
        return Err("--iopoll looks for completions all the time, and -E and --poll-mode ask for sleep".into());
    }
    if draft.iopoll && draft.buffered {
        return Err("--iopoll polls the device, which --buffered keeps away from".into());
    }
    if draft.files.is_empty() {
        return Ok(kernel::Options::default());
    }
    Ok(kernel::Options {
        engine,
        iopoll: draft.iopoll,
        sqpoll: draft.sqpoll,
        buffered: draft.buffered,
        registered: !draft.unregistered,
        sleeps,
        reads: pattern.read_percent > 0,
        writes: pattern.read_percent < 100
            || matches!(selection::operation(word)?, Some(IoKind::Trim | IoKind::WriteZeroes)),
        durable: draft.fua,
    })
}

fn pattern(word: &str, mix: Option<u32>, notes: &mut Vec<String>) -> Result<Pattern, String> {
    let (random, direction) = match word.strip_prefix("rand") {
        Some(direction) => (true, direction),
        None => (false, word),
    };
    let fixed = match direction {
        "read" => 100,
        "write" => 0,
        "rw" => {
            let mix = mix.ok_or_else(|| format!("-w {word} needs -M (--rwmixread)"))?;
            return match u8::try_from(mix) {
                Ok(read_percent @ 0..=100) => Ok(Pattern { random, read_percent }),
                _ => Err(format!("-M (--rwmixread): {mix} is not a percentage from 0 to 100")),
            };
        }
        _ => match selection::operation(word)? {
            Some(_) => 100,
            None => return Err(format!("-w (--io-pattern): \"{word}\" is not one of {}", selection::WORDS)),
        },
    };
    if mix.is_some() {
        notes.push(format!("-M (--rwmixread) has no effect: -w {word} is not a mix"));
    }
    Ok(Pattern { random, read_percent: fixed })
}

/// What the original finds wrong when its environment starts.
fn environment(draft: &Draft) -> Result<(), String> {
    let mode = draft.iova_mode.as_deref().unwrap_or("va");
    if !matches!(mode, "va" | "pa") {
        return Err(format!("--iova-mode: \"{mode}\" is not va or pa"));
    }
    if !draft.environment.no_huge {
        return Ok(());
    }
    if mode == "pa" {
        return Err("--no-huge excludes --iova-mode pa: ordinary memory moves".into());
    }
    if draft.environment.memory_mb == 0 {
        return Err("--no-huge needs -s (--hugemem-size)".into());
    }
    if draft.single_segment {
        return Err("--no-huge excludes -g (--mem-single-seg)".into());
    }
    Ok(())
}
