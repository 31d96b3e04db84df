//! The transport counters of `--transport-stats`, in the layout of `spdk_nvme_perf` (reference 3.6). Printed
//! before the final table.

use std::fmt::Write;

use doorbell_result::{ContextResult, RunResult};

/// A block for each context that has counters.
pub fn blocks(result: &RunResult) -> String {
    result.contexts.iter().map(block).collect()
}

fn block(context: &ContextResult) -> String {
    let mut text = String::new();
    let Some(counters) = &context.transport else {
        return text;
    };
    // Writing to a String cannot fail.
    let _ = writeln!(text, "\n{:=<20}", "");
    let _ = writeln!(text, "lcore {}, ns {} statistics:", context.core, context.name);
    let _ = writeln!(text, "{} transport:", counters.transport);
    if let Some(device) = &counters.device {
        let _ = writeln!(text, "\t{}{device}", heading(&counters.transport, "dev name"));
    }
    for (label, value) in &counters.counters {
        let _ = writeln!(text, "\t{}{value}", heading(&counters.transport, label));
    }
    if counters.device.is_some() {
        let _ = writeln!(text, "\t{:-<33}", "");
    }
    text
}

/// A label up to where its number starts. The doorbell labels are longer than their column: two of them are
/// followed by one blank, two by two.
fn heading(transport: &str, label: &str) -> String {
    let width = match transport {
        "PCIE" => 21,
        "RDMA" => 23,
        _ => 20,
    };
    let blanks = if label.starts_with("sq_") { 2 } else { 1 };
    let label = format!("{label}:");
    let width = width.max(label.len() + if label.len() >= width { blanks } else { 0 });
    format!("{label:<width$}")
}
