//! What the latencies of a run are worth: a line beside the table.

use doorbell_result::{RunResult, Timing};

/// The line, or nothing for a run without a context.
pub fn line(result: &RunResult) -> String {
    let nanoseconds = |ticks: f64| ticks * 1e9 / result.ticks_per_second;
    let precisions = || result.contexts.iter().map(|context| context.precision);
    let Some(cost) = precisions().map(|precision| precision.clock_cost).reduce(f64::max) else {
        return String::new();
    };
    let error = nanoseconds(precisions().map(|precision| precision.largest_error).fold(0.0, f64::max));
    let worth = match result.timing {
        Timing::Off => "no latency was taken".into(),
        _ if error < 1000.0 => format!("a latency is wrong by {error:.0} ns at most"),
        _ => format!("a latency is wrong by {:.2} us at most", error / 1000.0),
    };
    format!(
        "Timing: {}; a reading of the clock takes {cost:.0} ticks ({:.1} ns), {worth}\n",
        result.timing,
        nanoseconds(cost)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use doorbell_result::{ContextResult, Precision};

    #[test]
    fn the_worst_context_is_told() {
        let context = |clock_cost, largest_error| ContextResult {
            precision: Precision { clock_cost, largest_error },
            ..ContextResult::default()
        };
        let mut result = RunResult { ticks_per_second: 2e9, timing: Timing::Batch, ..RunResult::default() };
        assert_eq!(line(&result), "");
        result.contexts = vec![context(20.0, 900.0), context(24.0, 300.0)];
        let start = "a reading of the clock takes 24 ticks (12.0 ns)";
        assert_eq!(line(&result), format!("Timing: batch; {start}, a latency is wrong by 450 ns at most\n"));
        result.contexts.push(context(24.0, 5000.0));
        assert!(line(&result).ends_with("wrong by 2.50 us at most\n"), "{}", line(&result));
        result.timing = Timing::Sampled(100);
        assert!(line(&result).starts_with("Timing: sampled:100; "), "{}", line(&result));
        result.timing = Timing::Off;
        assert_eq!(line(&result), format!("Timing: off; {start}, no latency was taken\n"));
    }
}
