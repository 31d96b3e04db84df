//! The final table of a run, in the layout of `spdk_nvme_perf` (reference 3.2). Differences are in the
//! numbers only: a context's rates are over its own window, and failed I/Os are in none of them. Where no latency was taken
//! (`--timing`), a dash stands for it.

use std::fmt::Write;

use doorbell_result::{ContextResult, RunResult};

use crate::microseconds;

const RULE: &str = "========================================================\n";

/// The table with its rule, total and final empty line; without a completion, the three heading lines only.
pub fn table(result: &RunResult) -> String {
    let width = result.contexts.iter().map(|c| c.name.chars().count());
    let width = width.max().unwrap_or(0);
    let left = width + " from core NN".len();
    let mut text = String::from(RULE);
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{:>1$}", "Latency(us)", width + 60);
    let _ = write!(text, "{:<left$}:", "Device Information");
    for heading in ["IOPS", "MiB/s", "Average", "min", "max"] {
        let _ = write!(text, " {heading:>10}");
    }
    text.push('\n');
    let mut total = Numbers::default();
    for context in result.contexts.iter().filter(|c| c.completed() > 0) {
        let row = Numbers::of(context, result);
        let _ = write!(text, "{:<width$} from core {:>2}:", context.name, context.core);
        row.write(&mut text);
        total.add(&row);
    }
    if total.completed > 0 {
        let _ = write!(text, "{RULE}{:<left$}:", "Total");
        total.write(&mut text);
        text.push('\n');
    }
    text
}

/// The numbers of a row.
#[derive(Default)]
struct Numbers {
    completed: u64,
    iops: f64,
    mib_per_second: f64,
    latency: Option<Latency>,
}

/// Latencies of a row in microseconds.
#[derive(Clone, Copy)]
struct Latency {
    /// The I/Os that the average stands for, those without a latency of their own included.
    ios: f64,
    sum: f64,
    min: f64,
    max: f64,
}

impl Numbers {
    fn of(context: &ContextResult, result: &RunResult) -> Self {
        let us = |ticks: f64| microseconds(ticks, result.ticks_per_second);
        let seconds = context.window_ticks as f64 / result.ticks_per_second;
        let iops = context.completed() as f64 / seconds;
        let latency = context.latency();
        Self {
            completed: context.completed(),
            iops,
            mib_per_second: context.bytes() as f64 / seconds / 1_048_576.0,
            latency: (latency.count > 0).then(|| {
                let ios = context.completed() as f64;
                Latency {
                    ios,
                    sum: us(latency.sum as f64) * (ios / latency.count as f64),
                    min: us(latency.min as f64),
                    max: us(latency.max as f64),
                }
            }),
        }
    }

    fn add(&mut self, row: &Self) {
        self.latency = match (self.latency, row.latency) {
            (Some(one), Some(other)) => Some(Latency {
                ios: one.ios + other.ios,
                sum: one.sum + other.sum,
                min: one.min.min(other.min),
                max: one.max.max(other.max),
            }),
            (one, other) => one.or(other),
        };
        self.completed += row.completed;
        self.iops += row.iops;
        self.mib_per_second += row.mib_per_second;
    }

    fn write(&self, text: &mut String) {
        for number in [self.iops, self.mib_per_second] {
            let _ = write!(text, " {number:>10.2}");
        }
        for number in self.latency.map_or([None; 3], |Latency { ios, sum, min, max }| [sum / ios, min, max].map(Some)) {
            let _ = match number {
                Some(number) => write!(text, " {number:>10.2}"),
                None => write!(text, " {:>10}", "-"),
            };
        }
        text.push('\n');
    }
}
