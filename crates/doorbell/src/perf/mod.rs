//! `doorbell perf`: from the command line to the tables.

mod embedded;
pub mod options;
mod paths;
mod show;
mod targets;

use std::{
    ffi::OsString,
    hash::{BuildHasher, RandomState},
    process::ExitCode,
    thread,
    time::Duration,
};

use doorbell_host::{Cancel, Controller, ControllerOptions, Namespace, Probed, Reconnect, TransportType, probe};
use doorbell_load::{Limit, Pattern, PollMode, RunOptions, StopFlag, Target, run};
use doorbell_platform::open_files;

use crate::{
    output::{log, show as out, tell},
    signals,
};
use embedded::Embedded;
use options::{NumberOfIos, Options, Parsed};

/// I/O queues asked for when the load needs fewer; the controller grants what it has.
const IO_QUEUES: u32 = 1024;
/// The default of `--io-queue-size`, which stands for no wish of the user's.
const MOST_ENTRIES: u32 = 65_535;
/// Longest wait for what is in flight when the load has ended.
const DRAIN: Duration = Duration::from_secs(8);
/// Time after which no further I/O queue is connected.
const CONNECT: Duration = Duration::from_secs(120);

/// Runs the subcommand and says with which status to exit.
pub fn main(program: &str, arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let outcome = match options::parse(arguments) {
        Ok(Parsed::Help(text)) => {
            out(&text);
            return ExitCode::SUCCESS;
        }
        Ok(Parsed::Run(options)) => perform(&options),
        Err(why) => Err(why.to_string()),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            tell(format_args!("{program}: errors occurred"));
            ExitCode::FAILURE
        }
        Err(why) => {
            tell(format_args!("{program}: {why}"));
            ExitCode::FAILURE
        }
    }
}

/// Runs the load; returns whether everything went well.
fn perform(options: &Options) -> Result<bool, String> {
    log(options.log_level);
    for note in &options.notes {
        tell(note);
    }
    let mut ids = targets::ids(options)?;
    let seed = options.seed.unwrap_or_else(|| RandomState::new().hash_one(std::process::id()));
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
    let (targets, mut good) = attach(probe(&ids, &controller_options(options), &cancel))?;
    for line in paths::describe(&targets).lines() {
        tell(line);
    }
    let controllers: Vec<Controller> = targets.iter().map(|target| target.controller.clone()).collect();

    let companion = embedded.as_ref().and_then(|embedded| embedded.companion(options.cores[0]));
    let run_options = run_options(options, seed);
    let result = run(targets, &run_options, companion, &stop, &|event| show::event(&event, options));
    good &= show::result(&result, options);
    if result.contexts.iter().any(|context| context.account.abandoned > context.lost_in_outages()) {
        // What does not answer I/Os will not answer a shutdown either: it gets a moment, not its full time.
        cancel.cancel();
    }
    thread::scope(|scope| {
        for controller in controllers {
            scope.spawn(move || controller.detach());
        }
    });
    Ok(good)
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

/// Says which controllers came up, and picks the namespaces to test; the flag is false when something asked for is missing.
fn attach(probed: Vec<Probed>) -> Result<(Vec<Target>, bool), String> {
    let (mut targets, mut good, mut any) = (Vec::new(), true, false);
    for Probed { id, outcome } in probed {
        let controller = match outcome {
            Ok(controller) => controller,
            Err(why) => {
                tell(why);
                good = false;
                continue;
            }
        };
        any = true;
        let kind = if controller.id().trtype == TransportType::Pcie { "NVMe" } else { "NVMeoF" };
        out(&format!("Attached to {kind} Controller at {}\n", controller.name()));
        let namespaces = controller.namespaces();
        let wanted: Vec<Namespace> = match id.ns {
            None => namespaces,
            Some(ns) => namespaces.into_iter().filter(|namespace| namespace.nsid == ns).collect(),
        };
        if let (Some(ns), true) = (id.ns, wanted.is_empty()) {
            let active: Vec<String> = controller.namespaces().iter().map(|one| one.nsid.to_string()).collect();
            let name = controller.name();
            tell(format_args!("{name}: namespace {ns} is not active there; active are: {}", active.join(", ")));
            good = false;
        }
        targets.extend(wanted.into_iter().map(|namespace| Target { controller: controller.clone(), namespace }));
    }
    match (any, targets.is_empty()) {
        (false, _) => Err("No valid NVMe controllers found".into()),
        (true, true) => Err("No active namespaces found".into()),
        (true, false) => Ok((targets, good)),
    }
}

fn run_options(options: &Options, seed: u64) -> RunOptions {
    RunOptions {
        io_depth: options.io_depth,
        io_size: options.io_size,
        io_unit: options.io_unit,
        pattern: Pattern { random: options.pattern.random, read_percent: options.pattern.read_percent },
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
        continue_on_error: options.continue_on_error.map(u64::from),
        io_queue_size: (options.io_queue_size != MOST_ENTRIES).then_some(options.io_queue_size),
        seed,
        poll_mode: options.poll_mode,
        timing: options.timing,
        histogram: options.latency != options::LatencyOutput::None,
        transport_stats: options.transport_stats,
        drain: DRAIN,
        connect: CONNECT,
        reconnect: options.reconnect,
        timeout: options.timeout_ms.map(|milliseconds| Duration::from_millis(milliseconds.into())),
    }
}
