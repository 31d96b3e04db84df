//! The sums of a result as comma-separated values (RFC 4180): a heading, and a row for all of it, each operation, size, namespace, core, and
//! worker on a namespace. A percentile that the samples do not carry is an empty field.

use doorbell_result::{CUT_OFFS, Measurement, document::Results};

const HEADING: &str =
    "scope,namespace,core,operation,ios,bytes,seconds,iops,mib_per_s,failed,samples,mean_us,stdev_us,min_us,max_us";

/// The table.
pub fn text(results: &Results) -> String {
    let mut text = HEADING.to_owned();
    CUT_OFFS.iter().for_each(|percent| text.push_str(&format!(",p{percent}_us")));
    text.push_str("\r\n");
    let mut row = |scope: &str, namespace: &str, core: &str, operation: &str, sum: &Measurement| {
        let quoted = format!("\"{}\"", namespace.replace('"', "\"\""));
        let namespace = if namespace.is_empty() { "" } else { &quoted };
        text.push_str(&format!("{scope},{namespace},{core},{operation},{}\r\n", figures(sum)));
    };
    row("all", "", "", "", &results.merged);
    results.operations.iter().for_each(|(operation, sum)| row("operation", "", "", operation, sum));
    results.sizes.iter().for_each(|(bytes, sum)| row("size", "", "", &bytes.to_string(), sum));
    results.namespaces.iter().for_each(|(path, sum)| row("namespace", path, "", "", sum));
    results.cores.iter().for_each(|(core, sum)| row("core", "", &core.to_string(), "", sum));
    for context in &results.contexts {
        let mut row = |operation: &str, sum| row("context", &context.path, &context.core.to_string(), operation, sum);
        row("", &context.merged);
        context.operations.iter().for_each(|(operation, sum)| row(operation, sum));
    }
    text
}

fn figures(sum: &Measurement) -> String {
    let Measurement { ios, bytes, seconds, iops, mib_per_s, .. } = sum;
    let mut fields = format!("{ios},{bytes},{seconds:.6},{iops:.2},{mib_per_s:.2},{}", sum.failed());
    let number = |number: Option<f64>| number.map_or(String::new(), |number| format!("{number:.3}"));
    let latency = sum.latency.as_ref();
    fields.push_str(&format!(",{}", latency.map_or(0, |latency| latency.distribution.samples)));
    for value in [
        latency.map(|latency| latency.mean_us),
        latency.and_then(|latency| latency.stdev_us),
        latency.map(|latency| latency.min_us),
        latency.map(|latency| latency.max_us),
    ] {
        fields.push_str(&format!(",{}", number(value)));
    }
    for percent in CUT_OFFS {
        let carried = latency.and_then(|latency| latency.percentiles.iter().find(|one| one.percent == percent));
        fields.push_str(&format!(",{}", number(carried.map(|one| one.us))));
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;
    use doorbell_result::{ContextResult, Operation, RunResult};

    #[test]
    fn a_row_has_a_field_for_each_heading() {
        let mut reads = Operation { completed: 30, bytes: 30 * 512, ..Operation::default() };
        (0..30).for_each(|value| reads.latency.record(value));
        let context = ContextResult {
            path: "disk \"1\", port 2".into(),
            core: 7,
            window_ticks: 2000,
            reads,
            ..Default::default()
        };
        let run = RunResult { io_size: 512, ticks_per_second: 1000.0, contexts: vec![context], ..RunResult::default() };
        let text = text(&Results::of(&run));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 1 + 6, "{text}");
        assert!(lines[0].ends_with(",max_us,p1_us,p10_us,p25_us,p50_us,p75_us,p90_us,p95_us,p98_us,p99_us,p99.5_us,p99.9_us,p99.99_us,p99.999_us,p99.9999_us,p99.99999_us,p99.999999_us,p99.9999999_us"));
        assert!(
            lines[6]
                .starts_with("context,\"disk \"\"1\"\", port 2\",7,read,30,15360,2.000000,15.00,0.01,0,30,14500.000,"),
            "{text}"
        );
        for line in &lines {
            let unquoted = line.replace("\"disk \"\"1\"\", port 2\"", "");
            assert_eq!(unquoted.matches(',').count(), HEADING.matches(',').count() + CUT_OFFS.len(), "{line}");
        }
        assert_eq!(self::text(&Results::default()).lines().count(), 2);
    }
}
