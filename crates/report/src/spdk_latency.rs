//! Latency percentiles (`-L`) and histograms (`-LL`) of each core and namespace, in the layout of
//! `spdk_nvme_perf` (reference 3.3, 3.4).

use std::fmt::Write;

use doorbell_result::{RunResult, share};

use crate::microseconds;

const CUT_OFFS: [f64; 15] =
    [1.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 98.0, 99.0, 99.5, 99.9, 99.99, 99.999, 99.9999, 99.99999];

/// A block for each context, one that is idle with a heading alone; nothing if no I/O completed at all.
pub fn summaries(result: &RunResult) -> String {
    let mut text = String::new();
    if result.contexts.iter().all(|c| c.completed() == 0) {
        return text;
    }
    for context in &result.contexts {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "Summary latency data for {:<43.43} from core {}:", context.name, context.core);
        let _ = writeln!(text, "{:=<81}", "");
        let histogram = context.latency().histogram;
        let total = histogram.count() as f64;
        let mut cut_offs = CUT_OFFS.into_iter().peekable();
        let mut seen = 0;
        for bucket in histogram.buckets() {
            seen += bucket.count;
            let value = microseconds(bucket.end as f64, result.ticks_per_second);
            while let Some(percent) = cut_offs.next_if(|&percent| seen as f64 / total >= share(percent)) {
                let _ = writeln!(text, "{percent:9.5}% : {value:9.3}us");
            }
        }
        text.push('\n');
    }
    text
}

/// A block for each context with its non-empty buckets; nothing if no I/O completed at all.
pub fn histograms(result: &RunResult) -> String {
    let mut text = String::new();
    if result.contexts.iter().all(|c| c.completed() == 0) {
        return text;
    }
    for context in &result.contexts {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "Latency histogram for {:<43.43} from core {}:", context.name, context.core);
        let _ = writeln!(text, "{:=<78}", "");
        text.push_str("       Range in us     Cumulative    IO count\n");
        let histogram = context.latency().histogram;
        let total = histogram.count() as f64;
        let mut seen = 0;
        for bucket in histogram.buckets() {
            seen += bucket.count;
            let us = |ticks: u64| microseconds(ticks as f64, result.ticks_per_second);
            let (start, end, count) = (us(bucket.start), us(bucket.end), bucket.count);
            let share = seen as f64 * 100.0 / total;
            let _ = writeln!(text, "{start:9.3} - {end:9.3}: {share:9.4}%  ({count:9})");
        }
        text.push('\n');
    }
    text
}
