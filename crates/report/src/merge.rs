//! The sum of runs that went on side by side: what each gave, and all of them.

use std::fmt::Write;

use doorbell_result::{Document, Latency, Measurement, document::Check};

use crate::{audit, percentiles};

const RULE: &str = "========================================================\n";

/// A row for each worker on a namespace, below its source, and one for all; percentiles; what is to be known of the clocks and audits.
pub fn table(sum: &Document) -> String {
    let contexts = || sum.sources.iter().flat_map(|source| &source.result.results.contexts);
    let label = |name: &str, core: usize| format!("  {name} from core {core:>2}");
    let rows = contexts().map(|one| label(&one.name, one.core));
    let files = sum.sources.iter().map(heading);
    let width = rows.chain(files).map(|text| text.chars().count()).max().unwrap_or(0);
    let mut text = format!("{RULE}{:>1$}\n{2:<3$}:", "Latency(us)", width + 49, "Source", width);
    // Writing to a String cannot fail.
    for column in ["IOPS", "MiB/s", "Average", "min", "max"] {
        let _ = write!(text, " {column:>10}");
    }
    text.push('\n');
    let mut row = |name: &str, one: &Measurement| {
        let _ = write!(text, "{name:<width$}: {:>10.2} {:>10.2}", one.iops, one.mib_per_s);
        let of =
            |figure: fn(&Latency) -> f64| one.latency.as_ref().map_or("-".into(), |one| format!("{:.2}", figure(one)));
        let _ =
            writeln!(text, " {:>10} {:>10} {:>10}", of(|one| one.mean_us), of(|one| one.min_us), of(|one| one.max_us));
    };
    for source in &sum.sources {
        row(&heading(source), &source.result.results.merged);
        source.result.results.contexts.iter().for_each(|one| row(&label(&one.name, one.core), &one.merged));
    }
    row("Total", &sum.results.merged);
    text.push('\n');
    text.push_str(&percentiles::merged(&sum.results));
    if let Some(open) = &sum.results.open_loop {
        let _ = writeln!(
            text,
            "Open loop, {} arrivals at {} a second: {} planned, {} waited, {} never issued; issued at most {:.1} us late",
            open.arrival,
            crate::arrivals(open.rate),
            open.planned,
            open.late,
            open.dropped,
            open.longest_lag_us
        );
        for (name, latency) in [("Response", &open.response), ("Service", &sum.results.merged.latency)] {
            let Some(latency) = latency else { continue };
            let _ = write!(text, "{name}:");
            let shown = latency.percentiles.iter().filter(|one| [50.0, 90.0, 99.0, 99.9, 99.99].contains(&one.percent));
            shown.for_each(|one| {
                let _ = write!(text, " p{} {:.2} us,", one.percent, one.us);
            });
            let _ = writeln!(text, " mean {:.2} us, max {:.2} us", latency.mean_us, latency.max_us);
        }
        text.push('\n');
    }
    text
}

fn heading(source: &doorbell_result::document::Source) -> String {
    let host = &source.result.platform.host;
    if host.is_empty() { source.file.clone() } else { format!("{} ({host})", source.file) }
}

/// What whoever uses the sum is to know of it: failed I/Os, errors, audits that failed, whether the runs lay side by side, clocks of
/// different rates.
pub fn notes(sum: &Document) -> String {
    let mut text = String::new();
    for (status, count) in &sum.results.merged.errors {
        let _ = writeln!(text, "Failed I/Os: {count}: {status}");
    }
    for error in &sum.exit.errors {
        let _ = writeln!(text, "{error}");
    }
    let told: Vec<_> =
        sum.audit.iter().filter(|one| one.check == Check::Window && one.place.is_none()).cloned().collect();
    let failed = |one: &&doorbell_result::document::Finding| one.verdict == doorbell_result::document::Verdict::Failed;
    let of_runs: Vec<_> = sum.audit.iter().filter(|one| one.place.is_some()).filter(failed).cloned().collect();
    text.push_str(&audit::lines(&of_runs));
    text.push_str(&audit::lines(&told));
    let distributions = || {
        let latencies = sum.sources.iter().filter_map(|source| source.result.results.merged.latency.as_ref());
        latencies.map(|latency| &latency.distribution)
    };
    if let Some(first) = distributions().next()
        && let moved @ 1.. = distributions().filter(|one| !first.has_clock_of(one)).count()
    {
        let _ = writeln!(
            text,
            "Clocks: those of {moved} runs have another rate than the first; their buckets were moved to where their middles lie, so a \
             percentile is known to 1/64 instead of 1/128"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use doorbell_result::{
        Distribution, LatencyStats,
        document::{ContextMeasurement, OpenLoopRecord, Plan},
    };

    use super::*;

    #[test]
    fn every_row_is_below_its_source_and_doubts_are_told() {
        let run = |host: &str, rate: f64, ticks: u64, open| {
            let mut stats = LatencyStats::default();
            (0..20).for_each(|_| stats.record(ticks));
            let latency = Latency::of(Distribution::new(&stats, rate));
            let merged = Measurement { ios: 20, seconds: 1.0, iops: 20.0, latency, ..Measurement::default() };
            let mut run = Document { plan: Some(Plan::default()), ..Document::default() };
            run.platform.host = host.into();
            run.results.open_loop = open;
            run.results.window_began_s = Some(rate / 1e9);
            run.results.contexts =
                vec![ContextMeasurement { name: "disk".into(), core: 3, merged: merged.clone(), ..Default::default() }];
            run.results.merged = merged;
            run
        };
        let open = || Some(OpenLoopRecord { rate: 5.0, arrival: "fixed".into(), ..OpenLoopRecord::default() });
        let sum = |runs: [Document; 2]| {
            Document::merge(runs.into_iter().zip(["a", "b"]).map(|(run, file)| (file.into(), run))).unwrap()
        };
        let mut sum_of_two = sum([run("h", 1e9, 1000, open()), run("h", 2e9, 4000, open())]);
        sum_of_two.results.merged.errors.insert("Aborted".into(), 4);
        let text = table(&sum_of_two);
        let firsts: Vec<String> =
            text.lines().map(|line| line.split(':').next().unwrap().trim_end().to_owned()).collect();
        assert_eq!(firsts[3..8], ["a (h)", "  disk from core  3", "b (h)", "  disk from core  3", "Total"]);
        assert!(
            text.lines().nth(7).unwrap().ends_with("      40.00       0.00       1.50       1.00       2.00"),
            "{text}"
        );
        assert!(text.contains("(40 samples)") && text.contains("Open loop, fixed arrivals at 10 a second"), "{text}");
        let notes = notes(&sum_of_two);
        for said in ["Failed I/Os: 4: Aborted", "window: FAILED", "those of 1 runs have another rate"] {
            assert!(notes.contains(said), "{notes}");
        }
        let alike = sum([run("h", 1e9, 1000, None), run("h", 1e9, 4000, None)]);
        assert!(super::notes(&alike).lines().count() == 1 && super::notes(&alike).contains("window: passed"));
    }
}
