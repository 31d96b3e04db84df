//! The document of a run: filled in as the run goes, so that whatever ends it, what is known by then can be written.

use std::{
    ffi::OsString,
    time::{SystemTime, UNIX_EPOCH},
};

use doorbell_host::TransportType;
use doorbell_load::{PollMode, RunOptions, Target, kernel::File};
use doorbell_platform::{Sysfs, clock::ticks, pci::Address};
use doorbell_result::{
    Document, EndReason, RunResult, audit,
    document::{
        ContextPlan, ExitReason, Granted, Path, Plan, Results, SCHEMA_VERSION, Series, SizeShare, SlowIo, Tool,
        WorkerUse,
    },
};

use super::{machine, options::Options};

/// A document of this program, of which nothing is known but how it was called.
pub fn begin(program: &str, arguments: &[OsString]) -> Document {
    let words = program.split(' ').map(str::to_owned);
    Document {
        schema_version: SCHEMA_VERSION,
        tool: Tool {
            name: "doorbell".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            build: if cfg!(debug_assertions) { "debug" } else { "release" }.into(),
        },
        command_line: words.chain(arguments.iter().map(|word| word.to_string_lossy().into_owned())).collect(),
        started_s: now(),
        ..Document::default()
    }
}

/// Adds what is asked for, and the machine that is to do it.
pub fn add_plan(document: &mut Document, options: &Options, run: &RunOptions) {
    document.seed = Some(run.seed);
    document.platform = machine::describe(&run.cores);
    let (pattern, selection) = (run.pattern, &run.selection);
    let word = match (selection.operation, pattern.read_percent) {
        (Some(kind), _) => kind.word(),
        (None, 100) => "read",
        (None, 0) => "write",
        (None, _) => "rw",
    };
    let word = format!("{}{word}", if pattern.random { "rand" } else { "" });
    let weights: u32 = selection.sizes.iter().map(|(_, weight)| weight).sum();
    let share =
        |&(bytes, weight): &(u32, u32)| SizeShare { bytes, percent: f64::from(weight) * 100.0 / f64::from(weights) };
    document.plan = Some(Plan {
        pattern: word,
        read_percent: run.pattern.read_percent,
        zipf: run.zipf,
        full_coverage: selection.full_coverage,
        range: options.range.clone(),
        io_bytes: run.io_size,
        sizes: selection.sizes.iter().map(share).collect(),
        flush_every: selection.flush_every,
        fill: options.fill.clone(),
        depth: run.io_depth,
        queue_pairs: run.qpairs.into(),
        unused_queue_pairs: run.unused_qpairs.into(),
        queue_entries: run.io_queue_size,
        time_s: run.time.as_secs_f64(),
        warm_up_s: run.warm_up.as_secs_f64(),
        cores: run.cores.clone(),
        timing: run.timing.to_string(),
        poll_mode: match run.poll_mode {
            PollMode::Poll => "poll",
            PollMode::Interrupt => "interrupt",
            PollMode::Adaptive => "adaptive",
        }
        .into(),
        fua: run.fua,
        timeout_s: run.timeout.map(|timeout| timeout.as_secs_f64()),
        interval_s: options.interval.map(|interval| interval.as_secs_f64()),
        contexts: Vec::new(),
    });
}

/// Adds the namespaces that are tested.
pub fn add_paths(document: &mut Document, files: &[File], targets: &[Target], options: &Options, queues_asked: u16) {
    let describe = |target: &Target| {
        let Target { controller, namespace } = target;
        let (data, id, version) = (controller.identify(), controller.id(), controller.vs());
        let local = Some(&id.traddr).filter(|_| id.trtype == TransportType::Pcie);
        let address = local.and_then(|address| address.parse::<Address>().ok());
        Path {
            name: namespace.name.clone(),
            path: target.path(&namespace.name),
            transport_id: id.to_string(),
            transport: id.trtype.word().into(),
            model: data.mn().to_string(),
            serial: data.sn().to_string(),
            firmware: data.fr().to_string(),
            nvme_version: version.to_string(),
            nsid: namespace.nsid,
            identifier: namespace.identifier(),
            blocks: namespace.blocks,
            block_bytes: namespace.block_size,
            metadata_bytes: namespace.metadata_size,
            protection: namespace.protection,
            max_transfer_bytes: namespace.max_transfer,
            boundary_blocks: namespace.stripe_blocks,
            io_queues: Granted { asked: queues_asked.into(), granted: controller.io_queues().into() },
            queue_entries: Granted { asked: options.io_queue_size, granted: controller.io_queue_entries() },
            keep_alive_s: controller.keep_alive().map(|time| time.as_secs_f64()),
            header_digest: controller.digests().header,
            data_digest: controller.digests().data,
            node: address.and_then(|address| Sysfs::default().function(address).ok()?.numa_node),
            identify_us: controller.identify_took().as_secs_f64() * 1e6,
            iommu: address.and_then(|address| machine::iommu(&Sysfs::default(), address)),
            link: address.and_then(|address| machine::pcie_link(&Sysfs::default(), address)),
        }
    };
    document.paths = files.iter().map(of_file).chain(targets.iter().map(describe)).collect();
}

/// What a path of the kernel's is: what only a controller could say stays empty.
fn of_file(file: &File) -> Path {
    Path {
        name: file.name().into(),
        path: file.name().into(),
        transport_id: file.name().into(),
        transport: file.engine().word().to_ascii_uppercase(),
        nsid: file.nsid(),
        blocks: file.blocks(),
        block_bytes: file.block_size(),
        metadata_bytes: file.metadata_size(),
        max_transfer_bytes: file.max_transfer(),
        queue_entries: Granted { asked: file.queue_entries(), granted: file.queue_entries() },
        ..Path::default()
    }
}

/// Why nothing was measured.
pub const NOTHING: &str = "no I/O was issued and completed within the window";

/// Whether anything was measured.
pub fn has_measured(result: &RunResult) -> bool {
    result.contexts.iter().any(|context| context.completed() > 0)
}

/// Adds what was measured.
pub fn add_result(document: &mut Document, result: &RunResult) {
    document.exit.reason = match (result.end, result.contexts.is_empty()) {
        (EndReason::Signal, _) => ExitReason::Signal,
        (EndReason::Lost, _) => ExitReason::Lost,
        (_, true) => ExitReason::NotStarted,
        (EndReason::Time, _) => ExitReason::Time,
        (EndReason::Count, _) => ExitReason::Count,
    };
    document.exit.errors.extend(result.problems.iter().cloned());
    if !has_measured(result) {
        document.exit.errors.push(NOTHING.into());
    }
    document.results = Results::of(result);
    let measured = result.contexts.iter().filter(|context| context.window_ticks > 0);
    let first = measured.map(|context| context.window_start).min();
    let ago = |start: u64| ticks().saturating_sub(start) as f64 / result.ticks_per_second;
    document.results.window_began_s = first.map(|start| now() - ago(start));
    document.slowest = SlowIo::all(result);
    document.workers = WorkerUse::all(result);
    document.audit = audit::audit(result);
    if let Some(plan) = &mut document.plan {
        plan.contexts = ContextPlan::all(result);
        let slices = result.series.clone();
        document.series = plan.interval_s.map(|interval_s| Series { interval_s, slices });
    }
    let precisions = || result.contexts.iter().map(|context| context.precision);
    let seconds = |ticks: f64| ticks / result.ticks_per_second;
    document.platform.ticks_per_second = Some(result.ticks_per_second);
    document.platform.clock_cost_ns = precisions().map(|one| seconds(one.clock_cost) * 1e9).reduce(f64::max);
    document.platform.largest_error_us = precisions().map(|one| seconds(one.largest_error) * 1e6).reduce(f64::max);
}

/// Closes it.
pub fn end(document: &mut Document, outcome: &Result<bool, String>) {
    document.exit.good = *outcome == Ok(true);
    document.exit.partial = !matches!(document.exit.reason, ExitReason::Time | ExitReason::Count);
    document.exit.errors.extend(outcome.as_ref().err().cloned());
    document.ended_s = now();
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
