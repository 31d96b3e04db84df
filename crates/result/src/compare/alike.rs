//! Whether runs are alike enough to be compared, and what is to be said against each.

use crate::{
    Document,
    document::{Path, Plan, Verdict},
};

/// What differs between the runs of the two sides that should not, or that explains a change: a line each, base first.
pub(super) fn differences(base: &[&Document], new: &[&Document]) -> Vec<String> {
    let mut lines = Vec::new();
    let mut look = |what: &str, of: &dyn Fn(&Document) -> String| {
        let side = |runs: &[&Document]| {
            let mut values: Vec<String> = runs.iter().flat_map(|sum| sum.runs()).map(of).collect();
            values.sort_unstable();
            values.dedup();
            values
        };
        let (one, other) = (side(base), side(new));
        if one != other || one.len() > 1 {
            lines.push(format!("{what}: {} | {}", one.join(", "), other.join(", ")));
        }
    };
    let plan = |of: fn(&Plan) -> String| move |run: &Document| run.plan.as_ref().map_or("?".into(), of);
    let paths = |of: fn(&Path) -> String| {
        move |run: &Document| {
            let mut values: Vec<String> = run.paths.iter().map(of).collect();
            values.dedup();
            values.join("; ")
        }
    };
    look("options", &|run| options(&run.command_line));
    look("pattern", &plan(|plan| format!("{} {} % reads{}", plan.pattern, plan.read_percent, zipf(plan))));
    look("bytes of an I/O", &plan(|plan| plan.io_bytes.to_string()));
    look("depth", &plan(|plan| plan.depth.to_string()));
    look("queue pairs", &plan(|plan| plan.queue_pairs.to_string()));
    look("cores", &plan(|plan| format!("{:?}", plan.cores)));
    look("seconds", &plan(|plan| format!("{} after {}", plan.time_s, plan.warm_up_s)));
    look("timing", &plan(|plan| plan.timing.clone()));
    look("poll mode", &plan(|plan| plan.poll_mode.clone()));
    look("loop", &|run| {
        let open = run.results.open_loop.as_ref();
        open.map_or("closed".into(), |open| format!("open, {} {} a second", open.arrival, open.rate))
    });
    look("transport", &paths(|path| path.transport.clone()));
    look("device", &paths(|path| format!("{} {}", path.model, path.firmware)));
    look("namespace", &paths(|path| format!("{} blocks of {}", path.blocks, path.block_bytes)));
    look("tool", &|run| format!("{} {} {}", run.tool.name, run.tool.version, run.tool.build));
    look("host", &|run| run.platform.host.clone());
    look("kernel", &|run| run.platform.kernel.clone());
    look("processor", &|run| format!("{}, {} cores", run.platform.cpu_model, run.platform.online_cores));
    look("governor", &|run| {
        let governors = run.platform.cores.iter().filter_map(|core| core.governor.as_deref());
        governors.collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(" ")
    });
    look("mitigations", &|run| format!("{:?}", run.platform.mitigations));
    look("clock source", &|run| run.platform.clock_source.clone().unwrap_or_default());
    lines
}

/// The command line without the program and without the place of what it writes, which differs by nature.
fn options(words: &[String]) -> String {
    let mut words = words.iter().skip_while(|word| !word.starts_with('-'));
    let mut kept = Vec::new();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--json" | "--csv" | "--hlog" | "--ndjson" => drop(words.next()),
            _ => kept.push(word.as_str()),
        }
    }
    kept.join(" ")
}

fn zipf(plan: &Plan) -> String {
    plan.zipf.map_or(String::new(), |exponent| format!(", Zipf {exponent}"))
}

/// What is to be said against a run.
pub(super) fn doubts(file: &str, sum: &Document) -> Vec<String> {
    let mut lines = Vec::new();
    for run in sum.runs() {
        let failed = run.results.merged.failed();
        if failed > 0 {
            lines.push(format!("{file}: {failed} I/Os failed, which are in no figure"));
        }
        if run.exit.partial || !run.exit.good {
            let why = run.exit.errors.join("; ");
            lines.push(format!("{file}: the run did not end well ({:?}) {why}", run.exit.reason).trim_end().to_owned());
        }
        if run.tool.build == "debug" {
            lines.push(format!("{file}: measured by a debug build, whose figures are worth little"));
        }
    }
    for finding in sum.audit.iter().filter(|finding| finding.verdict == Verdict::Failed) {
        lines.push(format!("{file}: a failed audit: {}", finding.text));
    }
    lines
}
