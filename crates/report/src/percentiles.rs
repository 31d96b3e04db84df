//! The percentiles of everything together, below the blocks of each core and namespace that `-L` shows.

use std::fmt::Write;

use doorbell_result::document::Results;

/// A block for all I/Os and, in a mixed load, one for reads and one for writes; nothing where there are no latencies.
pub fn merged(results: &Results) -> String {
    let mut text = String::new();
    let operations = results.operations.iter().filter(|_| results.operations.len() > 1);
    let all = std::iter::once(("all I/Os", &results.merged));
    for (name, sum) in all.chain(operations.map(|(name, sum)| (name.as_str(), sum))) {
        let Some(latency) = &sum.latency else { continue };
        let samples = latency.distribution.samples;
        // Writing to a String cannot fail.
        let _ = writeln!(text, "Merged latency data for {name} ({samples} samples):");
        let _ = writeln!(text, "{:=<81}", "");
        for one in &latency.percentiles {
            let _ = writeln!(text, "{:10.7}% : {:9.3}us  ({} beyond)", one.percent, one.us, one.beyond);
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use doorbell_result::{ContextResult, Operation, RunResult};

    #[test]
    fn cores_are_merged_and_operations_kept_apart() {
        let of = |latencies: std::ops::Range<u64>| {
            let mut operation = Operation { completed: latencies.end - latencies.start, ..Operation::default() };
            latencies.for_each(|ticks| operation.latency.record(ticks));
            operation
        };
        let context =
            |core, reads, writes| ContextResult { core, reads: of(reads), writes: of(writes), ..Default::default() };
        let mut run = RunResult { ticks_per_second: 1e6, ..RunResult::default() };
        run.contexts = vec![context(0, 10..20, 0..0), context(1, 30..40, 0..0)];
        let text = merged(&Results::of(&run));
        let expected = format!("Merged latency data for all I/Os (20 samples):\n{:=<81}\n", "");
        assert_eq!(text, expected + "50.0000000% :    20.000us  (10 beyond)\n\n");
        run.contexts.push(context(1, 0..0, 50..90));
        let text = merged(&Results::of(&run));
        let headings: Vec<_> = text.lines().filter(|line| line.starts_with("Merged")).collect();
        assert_eq!(
            headings,
            ["all I/Os (60", "read (20", "write (40"].map(|name| format!("Merged latency data for {name} samples):"))
        );
        assert_eq!(merged(&Results::default()), "");
    }
}
