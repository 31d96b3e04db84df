//! What a run lost, below the final table: failed and abandoned I/Os, which are in no rate and no latency,
//! and the problems of the run. Nothing is printed for a run without them.

use std::fmt::Write;

use doorbell_result::RunResult;

/// A paragraph, or nothing.
pub fn failures(result: &RunResult) -> String {
    let mut text = String::new();
    for context in &result.contexts {
        let place = format!("{} from core {}", context.name, context.core);
        for (status, count) in &context.errors {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "Failed I/Os: {count} on {place}: {status}");
        }
        if context.account.abandoned > 0 {
            let count = context.account.abandoned;
            let _ = writeln!(text, "Abandoned I/Os: {count} on {place}: no completion came");
        }
    }
    if !text.is_empty() {
        text.push_str("The rates and latencies above are those of successful I/Os alone.\n");
    }
    for problem in &result.problems {
        let _ = writeln!(text, "Problem: {problem}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use doorbell_result::ContextResult;

    #[test]
    fn failures_are_named_with_their_place() {
        let mut context = ContextResult { name: "disk NSID 1".into(), core: 3, ..Default::default() };
        let mut result = RunResult { contexts: vec![context.clone()], ..Default::default() };
        assert_eq!(failures(&result), "");
        context.errors.insert("Unrecovered Read Error".into(), 12);
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
}
