//! What a run shows: lines while it goes on, tables at its end.

use std::{
    io::{IsTerminal, stdout},
    sync::{Mutex, PoisonError},
};

use doorbell_load::{Event, Second};
use doorbell_report::{
    audit, failures, open_loop, parts, percentiles, spdk_latency, spdk_table,
    status_line::{Course, ERASE, StatusLine},
    telemetry, timing, transport_stats, verification, zones,
};
use doorbell_result::{Document, RunResult, audit::holds};

use super::{
    options::{LatencyOutput, Options},
    outputs::Outputs,
    record,
};
use crate::output::{show as out, tell};

/// Shows a run while it goes on.
pub struct Live<'a> {
    options: &'a Options,
    outputs: &'a Outputs,
    /// What the slices so far say.
    course: Mutex<Course>,
}

/// Whether somebody watches the run go on.
pub fn is_watched() -> bool {
    stdout().is_terminal()
}

impl<'a> Live<'a> {
    /// Nothing has happened yet.
    pub fn new(options: &'a Options, outputs: &'a Outputs) -> Self {
        Self { options, outputs, course: Mutex::default() }
    }

    /// Shows an event of the run.
    pub fn event(&self, event: &Event<'_>) {
        match event {
            Event::Skipped(why) => out(&format!("WARNING: {why}\n")),
            Event::Advice(line) => out(&format!("{line}\n")),
            Event::Notice(line) | Event::Error(line) => tell(line),
            Event::Associated { name, core, percent_ios } => {
                out(&format!("Associating {name} with lcore {core}\n"));
                if let Some(ios) = percent_ios {
                    out(&format!("{name} with lcore {core} runs {ios} I/Os\n"));
                }
            }
            Event::Launching => out("Initialization complete. Launching workers.\n"),
            Event::Second(second) if is_watched() => out(&self.status(second).text()),
            Event::WarmedUp if is_watched() => out(ERASE),
            Event::Slice(slice) => {
                self.outputs.slice(slice);
                let mut course = self.course.lock().unwrap_or_else(PoisonError::into_inner);
                course.latency = slice.p50_us.zip(slice.p99_us);
                course.failed += slice.failed;
            }
            Event::Second(_) | Event::WarmedUp => {}
        }
    }

    fn status(&self, second: &Second) -> StatusLine {
        let course = *self.course.lock().unwrap_or_else(PoisonError::into_inner);
        StatusLine {
            warm_up: second.warm_up,
            ios: second.ios,
            io_size: self.options.mean_io_size(),
            seconds: second.seconds,
            busy: self.options.cpu_usage.then_some((second.cores, second.busy_percent)),
            course: Course { left: second.left, ..course },
        }
    }
}

/// Shows the result; returns whether it is that of a run in which everything went well.
pub fn result(result: &RunResult, document: &Document, options: &Options) -> bool {
    if options.transport_stats {
        out(&transport_stats::blocks(result));
    }
    out(&spdk_table::table(result));
    out(&parts::tables(&document.results));
    if options.latency != LatencyOutput::None {
        out(&spdk_latency::summaries(result));
    }
    if options.latency != LatencyOutput::None {
        out(&percentiles::merged(&document.results));
    }
    if options.latency == LatencyOutput::Histogram {
        out(&spdk_latency::histograms(result));
    }
    out(&open_loop::summary(result));
    out(&zones::lines(result));
    verification::lines(&document.results).lines().for_each(tell);
    timing::line(result).lines().for_each(tell);
    failures::failures(result).lines().for_each(tell);
    telemetry::lines(&document.drives).lines().for_each(tell);
    audit::lines(&document.audit).lines().for_each(tell);
    let measured = record::has_measured(result);
    if !measured {
        tell(format!("Nothing was measured: {}", record::NOTHING));
    }
    let failed = result.contexts.iter().any(|context| context.failed() > 0);
    let trusted = !options.strict || holds(&document.audit);
    if !trusted {
        tell("The audit failed, and --strict was asked for");
    }
    measured && !failed && trusted && result.problems.is_empty()
}
