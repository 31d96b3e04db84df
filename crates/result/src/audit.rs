//! What a run finds out about its own numbers: from what the engine kept beside its counts, a finding for each way in which results of
//! storage tools have been wrong without a word.

use crate::{
    ContextResult, EndReason, RunResult,
    document::{
        Check::{self, Account, Clocks, Coverage, Depth, Drain, Errors, HeadRoom, LittlesLaw, Randomness, Window},
        Finding,
        Verdict::{self, Failed, NotChecked, Passed},
    },
};

/// Largest relative difference of the two sides of Little's law: both are kept from the same stamps.
const LITTLES_LAW: f64 = 0.001;
/// The same for the window and the passes that were made in it.
const WINDOW: f64 = 0.01;
/// Share of sequential I/Os, or of regions, that may be elsewhere.
const COVERAGE: f64 = 0.001;
/// Standard deviations that chance does not reach in a thousand million runs.
const RANDOMNESS: f64 = 6.0;
/// Seconds by which two clocks may differ beyond what could be told.
const CLOCKS: f64 = 2e-6;
/// Share of the depth that must have been in flight.
const DEPTH: f64 = 0.95;
/// How many times as much as the device gave the tool must be able to drive.
const HEAD_ROOM: f64 = 1.25;

/// All findings, those of each context first.
pub fn audit(run: &RunResult) -> Vec<Finding> {
    let mut findings: Vec<Finding> = run.contexts.iter().flat_map(|context| of_context(context, run)).collect();
    if !run.contexts.is_empty() {
        findings.extend(windows(run));
        findings.extend(parts(run));
        findings.extend(clocks(run));
        findings.push(head_room(run));
    }
    findings
}

/// A finding that is a defect when `good` is false.
fn finding(check: Check, place: Option<String>, size: f64, limit: Option<f64>, good: bool, text: String) -> Finding {
    let verdict = if good { Passed } else { Failed };
    Finding { check, verdict, place, size: Some(size), limit, text }
}

fn unknown(check: Check, place: Option<String>, text: &str) -> Finding {
    Finding { check, verdict: NotChecked, place, size: None, limit: None, text: text.into() }
}

fn of_context(context: &ContextResult, run: &RunResult) -> Vec<Finding> {
    let place = Some(format!("{} from core {}", context.path, context.core));
    let account = &context.account;
    let mut findings = vec![
        littles_law(context, place.clone()),
        {
            let missing = account.missing();
            let counted = context.completed();
            let text = format!(
                "{} I/Os submitted: {} measured, {} of the warm-up, {} drained, {} failed, {} abandoned; {missing} are missing",
                account.submitted,
                account.measured,
                account.warm_up,
                account.drained,
                account.failed,
                account.abandoned
            );
            finding(
                Account,
                place.clone(),
                missing as f64,
                Some(0.0),
                missing == 0 && counted == account.measured,
                text,
            )
        },
        window(context, run, place.clone()),
        drain(context, place.clone()),
        errors(context, place.clone()),
        coverage(context, place.clone()),
        randomness(context, place.clone()),
        depth(context, run, place),
    ];
    findings.sort_by_key(|finding| finding.check);
    findings
}

fn littles_law(context: &ContextResult, place: Option<String>) -> Finding {
    let (audit, difference) = (&context.audit, context.audit.difference());
    if audit.in_flight_integral == 0 && audit.residence() == 0 {
        return unknown(LittlesLaw, place, "nothing was in flight");
    }
    let window = (context.window_ticks as f64).max(1.0);
    let text = format!(
        "{:.3} I/Os were in flight by their number over time, {:.3} by how long each was there; a difference of {:.4} %",
        audit.in_flight_integral as f64 / window,
        audit.residence() as f64 / window,
        difference * 100.0
    );
    finding(LittlesLaw, place, difference, Some(LITTLES_LAW), difference <= LITTLES_LAW, text)
}

/// The time that passes took within the window is kept apart from the window.
fn window(context: &ContextResult, run: &RunResult, place: Option<String>) -> Finding {
    let (window, watched) = (context.window_ticks as f64, (context.busy_ticks + context.idle_ticks) as f64);
    let seconds = |ticks: f64| ticks / run.ticks_per_second;
    if context.window_ticks == 0 {
        return unknown(Window, place, "the run ended before its window began");
    }
    let difference = (window - watched).abs() / window;
    let whole = run.end != EndReason::Time || context.window_ticks == run.asked_ticks;
    let text = format!(
        "{:.6} s were measured, of which {:.6} s were watched, and {:.6} s asked for",
        seconds(window),
        seconds(watched),
        seconds(run.asked_ticks as f64)
    );
    let good = difference <= WINDOW && whole;
    finding(Window, place, difference, Some(WINDOW), good, text)
}

fn drain(context: &ContextResult, place: Option<String>) -> Finding {
    let drained = context.account.drained;
    let text = format!("{drained} I/Os came back after the window and are in no rate");
    // What is in flight when the window ends is all that can come back later.
    let times = drained as f64 / f64::from(context.layout.depth.max(1));
    finding(Drain, place, times, Some(1.0), times <= 1.0, text)
}

fn errors(context: &ContextResult, place: Option<String>) -> Finding {
    let (failed, commands) = (context.account.failed, context.failed_commands);
    let share = failed as f64 / (context.account.submitted as f64).max(1.0);
    let text = format!("{commands} commands came back with an error status, and {failed} I/Os are counted as failed");
    // An I/O fails with one of its commands, or with several.
    let of_one = u64::from(context.layout.commands_per_io.max(1));
    let good = failed + context.account.abandoned >= commands.div_ceil(of_one) && failed <= commands;
    finding(Errors, place, share, None, good, text)
}

fn coverage(context: &ContextResult, place: Option<String>) -> Finding {
    let coverage = &context.coverage;
    let Some(difference) = coverage.difference else {
        let text = format!("{} I/Os, skewed or too few, say nothing of a range of {}", coverage.ios, coverage.units);
        return unknown(Coverage, place, &text);
    };
    let passes = coverage.ios as f64 / coverage.units.max(1) as f64;
    let what = match (context.layout.sequential, context.layout.full) {
        (true, _) => format!("{:.4} % of them not one behind the other", difference * 100.0),
        (_, true) => {
            format!("{:.4} % of them too many or missing where each position comes once a pass", difference * 100.0)
        }
        (false, false) => format!("{:.1} % of its regions left out", difference * 100.0),
    };
    let text = format!("{} I/Os on a range of {} ({passes:.3} times over), {what}", coverage.ios, coverage.units);
    finding(Coverage, place, difference, Some(COVERAGE), difference <= COVERAGE, text)
}

fn randomness(context: &ContextResult, place: Option<String>) -> Finding {
    let coverage = &context.coverage;
    if let Some(period) = coverage.period {
        let text =
            format!("the offsets start over after {period} I/Os: a device sees far less of its range than it seems");
        return finding(Randomness, place, period as f64, None, false, text);
    }
    match coverage.deviation {
        None if context.layout.sequential => unknown(Randomness, place, "the pattern is sequential"),
        None => unknown(Randomness, place, "the offsets are skewed, or too few"),
        Some(deviation) => {
            let text = format!(
                "offsets fell {deviation:+.2} standard deviations less evenly than chance has it, and did not repeat"
            );
            finding(Randomness, place, deviation, Some(RANDOMNESS), deviation <= RANDOMNESS, text)
        }
    }
}

fn depth(context: &ContextResult, run: &RunResult, place: Option<String>) -> Finding {
    let (asked, reached) = (f64::from(context.layout.depth), context.mean_in_flight());
    let held: u64 = context.layout.queues.iter().map(|queue| u64::from(queue.commands)).sum();
    let text = format!(
        "{reached:.2} of {} I/Os were in flight on average, over {} queues that hold {held} commands",
        context.layout.depth,
        context.layout.queues.len()
    );
    let share = reached / asked.max(1.0);
    // A limited number of I/Os runs out, what is lost is missing, and in an open loop the depth is a limit.
    let closed = context.open_loop.is_none();
    let whole = closed && run.end == EndReason::Time && context.outages.is_empty() && context.account.abandoned == 0;
    match whole && context.window_ticks > 0 {
        true => finding(Depth, place, share, Some(DEPTH), share >= DEPTH, text),
        false => Finding { verdict: NotChecked, ..finding(Depth, place, share, Some(DEPTH), true, text) },
    }
}

/// Rates of several contexts may be added when they were measured at the same time.
fn windows(run: &RunResult) -> Option<Finding> {
    let measured = || run.contexts.iter().filter(|context| context.window_ticks > 0);
    let (first, last) = (measured().map(|c| c.window_start).min()?, measured().map(|c| c.window_start).max()?);
    let longest = measured().map(|context| context.window_ticks).max()?;
    let share = (last - first) as f64 / longest as f64;
    let text = format!(
        "the windows of {} contexts began within {:.6} s",
        measured().count(),
        (last - first) as f64 / run.ticks_per_second
    );
    // Threads that share a core start one after the other.
    let limit = WINDOW.max(0.05 * run.ticks_per_second / longest as f64);
    (run.contexts.len() > 1).then(|| finding(Window, None, share, Some(limit), share <= limit, text))
}

/// Sequential contexts of one namespace must not work on the same blocks: those that come second find them cached.
fn parts(run: &RunResult) -> Option<Finding> {
    let sequential: Vec<_> = run.contexts.iter().filter(|context| context.layout.sequential).collect();
    let shared = |one: &ContextResult, other: &ContextResult| {
        let end = |context: &ContextResult| context.layout.first_block + context.layout.blocks;
        let common = end(one).min(end(other)).saturating_sub(one.layout.first_block.max(other.layout.first_block));
        if one.path == other.path { common } else { 0 }
    };
    let pairs = sequential
        .iter()
        .enumerate()
        .flat_map(|(at, one)| sequential[at + 1..].iter().map(move |other| shared(one, other)));
    let blocks: u64 = pairs.sum();
    let text = format!("{} sequential contexts share {blocks} blocks", sequential.len());
    (sequential.len() > 1).then(|| finding(Coverage, None, blocks as f64, Some(0.0), blocks == 0, text))
}

fn clocks(run: &RunResult) -> Vec<Finding> {
    let seconds = |ticks: f64| ticks / run.ticks_per_second;
    let compared = run.workers.iter().map(|worker| {
        let place = Some(format!("core {}", worker.core));
        match run.clocks.iter().find(|clock| clock.core == worker.core) {
            None => unknown(
                Clocks,
                place,
                "its clock gave no answer in time: something else has that core, or the one that asked",
            ),
            Some(clock) => {
                let beyond = seconds((clock.offset_ticks.abs() - clock.uncertain_ticks).max(0.0));
                let text = format!(
                    "its clock is {:+.0} ns from the run's, to within {:.0} ns",
                    seconds(clock.offset_ticks) * 1e9,
                    seconds(clock.uncertain_ticks) * 1e9
                );
                finding(Clocks, place, beyond, Some(CLOCKS), beyond <= CLOCKS, text)
            }
        }
    });
    compared.collect()
}

fn head_room(run: &RunResult) -> Finding {
    let rates: Option<Vec<f64>> = run.workers.iter().map(|worker| worker.head_room).collect();
    let rate = |context: &ContextResult| {
        context.completed() as f64 * run.ticks_per_second / (context.window_ticks as f64).max(1.0)
    };
    let given: f64 = run.contexts.iter().map(rate).sum();
    let Some(rates) = rates.filter(|rates| !rates.is_empty() && given > 0.0) else {
        return unknown(HeadRoom, None, "what the tool can drive here was not measured");
    };
    let (can, times) = (rates.iter().sum::<f64>(), rates.iter().sum::<f64>() / given);
    let good = times >= HEAD_ROOM;
    let whose = if good { "the result is the device's" } else { "the result is the tool's as much as the device's" };
    let text = format!("this tool can drive {} IOPS here, the device gave {}: {whose}", short(can), short(given));
    finding(HeadRoom, None, times, Some(HEAD_ROOM), good, text)
}

/// A number of I/Os in three digits.
fn short(number: f64) -> String {
    match number {
        1e6.. => format!("{:.2}M", number / 1e6),
        1e3.. => format!("{:.1}k", number / 1e3),
        _ => format!("{number:.0}"),
    }
}

/// Whether no finding is a defect.
pub fn holds(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.verdict != Verdict::Failed)
}
