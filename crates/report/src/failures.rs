//! What a run lost, below the final table: failed and abandoned I/Os, which are in no rate and no latency, I/Os that timed out,
//! times without a controller, and the problems of the run. Nothing is printed for a run without them.

use std::fmt::Write;

use doorbell_result::{RunResult, Timeouts};

/// A paragraph, or nothing.
pub fn failures(result: &RunResult) -> String {
    let mut text = String::new();
    for context in &result.contexts {
        let place = format!("{} from core {}", context.path, context.core);
        for (status, count) in context.errors() {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "Failed I/Os: {count} on {place}: {status}");
        }
        if context.account.abandoned > 0 {
            let count = context.account.abandoned;
            let _ = writeln!(text, "Abandoned I/Os: {count} on {place}: no completion came");
        }
        let Timeouts { timed_out, aborts, aborted } = context.timeouts;
        if timed_out > 0 {
            let _ = writeln!(
                text,
                "Timed out I/Os: {timed_out} on {place}: {aborts} Aborts sent, {aborted} I/Os came back aborted"
            );
        }
    }
    text.push_str(&outages(result));
    if !text.is_empty() {
        text.push_str("The rates and latencies above are those of successful I/Os alone.\n");
    }
    for problem in &result.problems {
        let _ = writeln!(text, "Problem: {problem}");
    }
    text
}

/// A line an outage and, when there are several, their sums.
fn outages(result: &RunResult) -> String {
    let mut text = String::new();
    let seconds = |ticks: u64| ticks as f64 / result.ticks_per_second;
    let (mut count, mut silent, mut lost) = (0, 0.0, 0);
    for context in &result.contexts {
        for outage in &context.outages {
            (count, silent, lost) = (count + 1, silent + seconds(outage.silent), lost + outage.lost);
            let end = if outage.back { "" } else { " to the end of the run" };
            let _ = writeln!(
                text,
                "Outage: {:.3} s without I/O{end} on {} from core {}, {:.3} s after its start (I/Os lost: {}, attempts to \
                 reconnect: {}): {}",
                seconds(outage.silent),
                context.path,
                context.core,
                seconds(outage.began),
                outage.lost,
                outage.attempts,
                outage.why
            );
        }
    }
    if count > 1 {
        let _ = writeln!(text, "Outages: {count}, in all {silent:.3} s without I/O and {lost} I/Os lost");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use doorbell_result::{ContextResult, Outage};

    #[test]
    fn failures_are_named_with_their_place() {
        let mut context = ContextResult { path: "disk NSID 1".into(), core: 3, ..Default::default() };
        let mut result = RunResult { contexts: vec![context.clone()], ..Default::default() };
        assert_eq!(failures(&result), "");
        context.reads.errors.insert("Unrecovered Read Error".into(), 12);
        context.account.abandoned = 4;
        result.contexts = vec![context];
        result.problems = vec!["a queue was lost".into()];
        assert_eq!(
            failures(&result),
            "Failed I/Os: 12 on disk NSID 1 from core 3: Unrecovered Read Error\n\
             Abandoned I/Os: 4 on disk NSID 1 from core 3: no completion came\n\
             The rates and latencies above are those of successful I/Os alone.\n\
             Problem: a queue was lost\n"
        );
    }

    #[test]
    fn outages_are_told_each_and_in_all() {
        let outage = Outage { began: 2500, silent: 1200, lost: 8, attempts: 3, back: true, why: "reset".into() };
        let mut context = ContextResult { path: "disk".into(), outages: vec![outage.clone()], ..Default::default() };
        let first = "Outage: 1.200 s without I/O on disk from core 0, 2.500 s after its start (I/Os lost: 8, attempts to \
                     reconnect: 3): reset\n";
        let of = |context: &ContextResult| {
            let result = RunResult { contexts: vec![context.clone()], ticks_per_second: 1000.0, ..Default::default() };
            let text = failures(&result);
            text.replace("The rates and latencies above are those of successful I/Os alone.\n", "")
        };
        assert_eq!(of(&context), first);
        context.outages.push(Outage { silent: 300, lost: 1, back: false, ..outage });
        let text = of(&context);
        assert!(text.contains("Outage: 0.300 s without I/O to the end of the run on disk"), "{text}");
        assert!(text.ends_with("Outages: 2, in all 1.500 s without I/O and 9 I/Os lost\n"), "{text}");
    }

    #[test]
    fn timeouts_are_told() {
        let timeouts = Timeouts { timed_out: 3, aborts: 5, aborted: 2 };
        let context = ContextResult { path: "disk".into(), timeouts, ..Default::default() };
        let text = failures(&RunResult { contexts: vec![context], ..Default::default() });
        assert!(
            text.starts_with("Timed out I/Os: 3 on disk from core 0: 5 Aborts sent, 2 I/Os came back aborted\n"),
            "{text}"
        );
    }
}
