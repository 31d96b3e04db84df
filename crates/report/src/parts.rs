//! The operations and the sizes of a load that has several, below the table that has their sums. A load of reads and writes of one size
//! keeps to the original's output.

use std::fmt::Write;

use doorbell_result::{Measurement, document::Results};

/// A table for the operations, where there are others than reads and writes beside them, and one for the sizes, where there are several.
pub fn tables(results: &Results) -> String {
    let operations = &results.operations;
    let unusual = operations.len() > 1 && operations.keys().any(|word| !matches!(word.as_str(), "read" | "write"));
    let mut text = String::new();
    if unusual {
        table(&mut text, "Operation", operations.iter().map(|(word, sum)| (word.clone(), sum)));
    }
    if !results.sizes.is_empty() {
        table(&mut text, "I/O size", results.sizes.iter().map(|(bytes, sum)| (bytes.to_string(), sum)));
    }
    text
}

fn table<'a>(text: &mut String, heading: &str, rows: impl Iterator<Item = (String, &'a Measurement)>) {
    // Writing to a String cannot fail.
    let _ = write!(text, "{heading:<13}:");
    for heading in ["IOPS", "MiB/s", "Average", "p50", "p99", "max"] {
        let _ = write!(text, " {heading:>10}");
    }
    text.push('\n');
    for (name, sum) in rows {
        let _ = write!(text, "{name:<13}: {:>10.2} {:>10.2}", sum.iops, sum.mib_per_s);
        let latency = sum.latency.as_ref();
        let percentile =
            |percent| latency.and_then(|latency| latency.distribution.percentile(percent)).map(|one| one.us);
        let mean = latency.map(|latency| latency.mean_us);
        for number in [mean, percentile(50.0), percentile(99.0), latency.map(|latency| latency.max_us)] {
            let _ = match number {
                Some(number) => write!(text, " {number:>10.2}"),
                None => write!(text, " {:>10}", "-"),
            };
        }
        text.push('\n');
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(iops: f64) -> Measurement {
        Measurement { iops, mib_per_s: iops / 256.0, ..Measurement::default() }
    }

    #[test]
    fn only_what_the_original_does_not_have_is_shown() {
        let operations = ["read", "write"].map(|word| (word.to_string(), sum(512.0))).into();
        let mut results = Results { operations, ..Results::default() };
        assert_eq!(tables(&results), "");
        results.operations.insert("flush".into(), sum(2.0));
        results.sizes = [(4096, sum(256.0)), (65_536, sum(3.5))].into();
        let text = tables(&results);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0].split_whitespace().collect::<Vec<_>>().join(" "),
            "Operation : IOPS MiB/s Average p50 p99 max"
        );
        assert_eq!(lines[1], "flush        :       2.00       0.01          -          -          -          -");
        assert!(lines[5].starts_with("I/O size     :"), "{text}");
        assert_eq!(lines[6], "4096         :     256.00       1.00          -          -          -          -");
        assert!(lines.iter().all(|line| line.is_empty() || line.len() == lines[0].len()), "{text}");
    }
}
