//! `doorbell perf`: from the command line to the tables.

mod embedded;
mod machine;
pub mod options;
mod outputs;
mod overwrite;
mod paths;
pub mod record;
mod show;
mod targets;
mod telemetry;

use std::{
    ffi::OsString,
    hash::{BuildHasher, RandomState},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use doorbell_host::{Cancel, Controller, ControllerOptions, Namespace, Probed, Reconnect, TransportType, probe};
use doorbell_load::{Event, Limit, Pattern, PollMode, RunOptions, Selection, StopFlag, Target, run};
use doorbell_platform::open_files;
use doorbell_result::{Document, document::ExitReason};
use tracing::Level;

use crate::{
    output::{log, show as out, tell},
    signals,
};
use embedded::Embedded;
use options::{NumberOfIos, Options, Parsed};
use outputs::Outputs;
use telemetry::Watch;

pub use options::Sink;
pub use outputs::Output;

/// I/O queues asked for when the load needs fewer; the controller grants what it has.
const IO_QUEUES: u32 = 1024;
/// The default of `--io-queue-size`, which stands for no wish of the user's.
const MOST_ENTRIES: u32 = 65_535;
/// Longest wait for what is in flight when the load has ended.
const DRAIN: Duration = Duration::from_secs(8);
/// Slices from which the line on a terminal has its percentiles.
const SECOND: Duration = Duration::from_secs(1);
/// How long the tool's own speed is measured after the run.
const HEAD_ROOM: Duration = Duration::from_millis(100);
/// Time after which no further I/O queue is connected.
const CONNECT: Duration = Duration::from_secs(120);
/// How often a path is looked at that changes its ANA state.
const CHANGE_INTERVAL: Duration = Duration::from_millis(20);

/// Runs the subcommand and says with which status to exit.
pub fn main(program: &str, arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let mut document = record::begin(program, &arguments);
    let (outputs, outcome) = match options::parse(arguments.iter().cloned()) {
        Ok(Parsed::Help(text)) => {
            out(&text);
            return ExitCode::SUCCESS;
        }
        Ok(Parsed::Run(options)) => {
            let (outputs, opened) = Outputs::open(&options);
            let outcome = opened.and_then(|()| perform(&options, &mut document, &outputs));
            (outputs, outcome)
        }
        Err(why) => (Outputs::after_a_fault(options::json_of(arguments)), Err(why.to_string())),
    };
    record::end(&mut document, &outcome);
    let unwritten = outputs.complete(&mut document);
    if let Err(why) = &outcome {
        tell(format_args!("{program}: {why}"));
    } else if outcome == Ok(false) {
        tell(format_args!("{program}: errors occurred"));
    }
    for why in &unwritten {
        tell(format_args!("{program}: {why}"));
    }
    if outcome == Ok(true) && unwritten.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs the load; returns whether everything went well. What is known of it by and by is added to the document.
fn perform(options: &Options, document: &mut Document, outputs: &Outputs) -> Result<bool, String> {
    // Who asks for zero-copy wants to know what became of it.
    log(if options.zero_copy.is_some() { options.log_level.max(Level::WARN) } else { options.log_level });
    for note in &options.notes {
        tell(note);
    }
    // 53 bits, which every reader of JSON keeps.
    let seed = options.seed.unwrap_or_else(|| RandomState::new().hash_one(std::process::id()) >> 11);
    let run_options = run_options(options, seed);
    record::add_plan(document, options, &run_options);
    let mut ids = targets::ids(options)?;
    let files = targets::files(options)?;
    tell(format_args!("Seed: {seed}"));
    // A descriptor a queue: the usual soft limit is for programs that use select().
    open_files::raise_limit();
    let (cancel, stop) = (Cancel::new(), StopFlag::default());
    let (also_cancel, also_stop) = (cancel.clone(), stop.clone());
    signals::on_signal(move || {
        also_cancel.cancel();
        also_stop.request();
    })
    .map_err(|why| format!("handling signals: {why}"))?;

    let mut embedded = None;
    if let Some(link) = options.embedded {
        let started = Embedded::start(link, &options.cores)?;
        ids.push(started.transport_id());
        embedded = Some(started);
    }
    out("Initializing NVMe Controllers\n");
    let controller_options = controller_options(options);
    let attached = match ids.is_empty() {
        true => Ok(Vec::new()),
        false => attach(probe(&ids, &controller_options, &cancel), &cancel, &mut document.exit.errors),
    };
    if stop.requests() > 0 {
        document.exit.reason = ExitReason::Signal;
    }
    let targets = match attached {
        Err(why) if !files.is_empty() => {
            tell(&why);
            document.exit.errors.push(why);
            Vec::new()
        }
        attached => attached?,
    };
    let all_there = document.exit.errors.is_empty();
    if options.selection.verify.is_some() {
        paths::refuse_twice(&targets, &options.files)?;
    }
    record::add_paths(document, &files, &targets, options, controller_options.num_io_queues);
    for line in paths::describe(&targets).lines() {
        tell(line);
    }
    let controllers: Vec<(String, Controller)> =
        targets.iter().map(|target| (target.path(&target.namespace.name), target.controller.clone())).collect();
    if let Err(why) = overwrite::ask(&targets, &options.files, options, &run_options)
        && stop.requests() == 0
    {
        leave(controllers.into_iter().map(|(_, controller)| controller));
        return Err(why);
    }

    let watch = Watch::begin(&targets, options.ssd_latency);
    let companion = embedded.as_ref().and_then(|embedded| embedded.companion(options.cores[0]));
    let live = show::Live::new(options, outputs);
    let observer = |event: Event<'_>| live.event(&event);
    let result = run(files, targets, &run_options, companion, &stop, &observer);
    record::add_result(document, &result);
    let stuck = |path: &str| {
        let mut its = result.contexts.iter().filter(|context| context.path == path);
        its.any(|context| context.account.abandoned > context.lost_in_outages())
    };
    // One controller may have several namespaces here.
    let stuck: Vec<Controller> =
        controllers.iter().filter(|(path, _)| stuck(path)).map(|(_, controller)| controller.clone()).collect();
    let is_stuck = |asked: &Controller| stuck.iter().any(|controller| controller.is(asked));
    let silent = |asked: &Controller| match () {
        () if stop.requests() > 0 => Some("the run was interrupted"),
        () if is_stuck(asked) => Some("it left I/Os unanswered, and was not asked"),
        () => None,
    };
    let possible = (options.pattern.read_percent > 0, options.pattern.read_percent < 100);
    let (drives, latencies) = watch.end(silent, possible);
    document.drives = drives;
    let good = show::result(&result, document, options) && all_there;
    out(&latencies);
    let (silent, others): (Vec<_>, Vec<_>) =
        controllers.into_iter().map(|(_, controller)| controller).partition(is_stuck);
    leave(others.into_iter());
    if !silent.is_empty() {
        // What does not answer I/Os will not answer a shutdown either: it gets a moment, not its full time.
        cancel.cancel();
        leave(silent.into_iter());
    }
    Ok(good)
}

/// Shuts all down, side by side.
fn leave(controllers: impl Iterator<Item = Controller>) {
    thread::scope(|scope| {
        for controller in controllers {
            scope.spawn(move || controller.detach());
        }
    });
}

fn controller_options(options: &Options) -> ControllerOptions {
    let environment = &options.environment;
    let queues = (options.cores.len() as u32).saturating_mul(options.qpairs.saturating_add(options.unused_qpairs));
    ControllerOptions {
        num_io_queues: queues.clamp(IO_QUEUES, u16::MAX.into()) as u16,
        io_queue_size: options.io_queue_size,
        keep_alive: (options.keep_alive_ms > 0).then(|| Duration::from_millis(options.keep_alive_ms.into())),
        header_digest: options.header_digest,
        data_digest: options.data_digest,
        rdma_srq_size: options.rdma_srq_size,
        transport_tos: options.transport_tos,
        zero_copy: options.zero_copy,
        disable_sq_flow_control: options.disable_sq_flow_control,
        interrupts: options.poll_mode != PollMode::Poll,
        sq_cmb: !environment.no_sq_cmb,
        huge_pages: !environment.no_huge,
        no_shutdown_notification: environment.no_shutdown_notification,
        vf_token: environment.vf_token,
        reconnect: options.reconnect.map(Reconnect::new),
        ..ControllerOptions::default()
    }
}

/// Says which controllers came up, and picks the namespaces to test; what is missing of those asked for is added to `missing`. Paths
/// that change their ANA state are given the time that this may take.
fn attach(probed: Vec<Probed>, cancel: &Cancel, missing: &mut Vec<String>) -> Result<Vec<Target>, String> {
    let start = Instant::now();
    let (mut targets, mut any) = (Vec::new(), false);
    let mut miss = |why: String| {
        tell(&why);
        missing.push(why);
    };
    for Probed { id, outcome } in probed {
        let controller = match outcome {
            Ok(controller) => controller,
            Err(why) => {
                miss(why.to_string());
                continue;
            }
        };
        any = true;
        let kind = if controller.id().trtype == TransportType::Pcie { "NVMe" } else { "NVMeoF" };
        out(&format!("Attached to {kind} Controller at {}\n", controller.name()));
        while controller.changing(id.ns).is_some_and(|most| start.elapsed() < most)
            && !cancel.is_cancelled()
            && controller.failure().is_none()
        {
            thread::sleep(CHANGE_INTERVAL);
        }
        let namespaces = controller.namespaces();
        let wanted: Vec<Namespace> = match id.ns {
            None => namespaces,
            Some(ns) => namespaces.into_iter().filter(|namespace| namespace.nsid == ns).collect(),
        };
        if let (Some(ns), true) = (id.ns, wanted.is_empty()) {
            let active: Vec<String> = controller.namespaces().iter().map(|one| one.nsid.to_string()).collect();
            let name = controller.name();
            miss(format!("{name}: namespace {ns} is not active there; active are: {}", active.join(", ")));
        }
        targets.extend(wanted.into_iter().map(|namespace| Target { controller: controller.clone(), namespace }));
    }
    match (any, targets.is_empty()) {
        (false, _) => Err("No valid NVMe controllers found".into()),
        (true, true) => Err("No active namespaces found".into()),
        (true, false) => Ok(targets),
    }
}

fn run_options(options: &Options, seed: u64) -> RunOptions {
    RunOptions {
        io_depth: options.io_depth,
        io_size: options.io_size,
        io_unit: options.io_unit,
        pattern: Pattern { random: options.pattern.random, read_percent: options.pattern.read_percent },
        selection: Selection {
            // Another than that of any run before, whatever the seed.
            verify: options.selection.verify.map(|_| RandomState::new().hash_one(std::process::id())),
            ..options.selection.clone()
        },
        time: Duration::from_secs(options.time_s.into()),
        warm_up: Duration::from_secs(options.warmup_s.into()),
        number_ios: options.number_ios.map(|limit| match limit {
            NumberOfIos::Count(count) => Limit::Count(count),
            NumberOfIos::Percent(percent) => Limit::Percent(percent),
        }),
        cores: options.cores.clone(),
        qpairs: options.qpairs.min(u16::MAX.into()) as u16,
        unused_qpairs: options.unused_qpairs.min(u16::MAX.into()) as u16,
        max_completions: (options.max_completions > 0).then_some(options.max_completions),
        alignment: options.alignment,
        memory: u64::from(options.environment.memory_mb) << 20,
        enforce_numa: options.enforce_numa,
        zipf: options.zipf,
        use_every_core: options.use_every_core,
        fua: options.fua,
        protect: options.protect,
        continue_on_error: options.continue_on_error.map(u64::from),
        io_queue_size: (options.io_queue_size != MOST_ENTRIES).then_some(options.io_queue_size),
        seed,
        poll_mode: options.poll_mode,
        timing: options.timing,
        histogram: options.latency != options::LatencyOutput::None
            || options.rate.is_some()
            || show::is_watched()
            || [&options.json, &options.csv, &options.hlog, &options.ndjson].iter().any(|sink| sink.is_some()),
        transport_stats: options.transport_stats,
        drain: DRAIN,
        connect: CONNECT,
        reconnect: options.reconnect,
        rate: options.rate,
        timeout: options.timeout_ms.map(|milliseconds| Duration::from_millis(milliseconds.into())),
        interval: options.interval.or(show::is_watched().then_some(SECOND)),
        head_room: HEAD_ROOM,
    }
}
