//! A comparison as a table, and what it rests on in sentences.

use std::fmt::Write;

use doorbell_result::compare::{Basis, Comparison, MOST_RUNS, Outcome, Question, Told, Verdict};

/// The table, and below it what the verdicts rest on.
pub fn table(comparison: &Comparison, question: &Question) -> String {
    let mut text =
        format!("{:<12} {:>12} {:>12} {:>10}   {:<21} {}\n", "Metric", "Base", "New", "Change", "Interval", "Verdict");
    for outcome in &comparison.outcomes {
        let name = format!("{} {}", outcome.metric.name(), outcome.metric.unit());
        let [base, new] = match outcome.figures {
            Some((base, new)) => [base, new].map(|figure| format!("{figure:.2}")),
            None => ["-", "-"].map(str::to_owned),
        };
        // Writing to a String cannot fail.
        let _ = write!(text, "{:<12} {base:>12} {new:>12} ", name.trim_end_matches(" IOPS"));
        match &outcome.told {
            Ok(told) => {
                let (low, high) = told.interval;
                let interval = format!("{} … {}", percent(low), percent(high));
                let verdict = verdict(told, outcome.runs, comparison.basis, question);
                let _ = writeln!(text, "{:>10}   {interval:<21} {verdict}", percent(told.change));
            }
            Err(why) => {
                let _ = writeln!(text, "{:>10}   {:<21} not told: {why}", "-", "-");
            }
        }
    }
    text.push('\n');
    text.push_str(&basis(comparison, question));
    text
}

fn percent(share: f64) -> String {
    // Of a single degree of freedom, or of none, an interval may be as wide as any number.
    if share < 10.0 { format!("{:+.2}%", 100.0 * share) } else { ">+1000%".into() }
}

fn verdict(told: &Told, runs: Option<u32>, basis: Basis, question: &Question) -> String {
    let find = question.find * 100.0;
    let unit = if matches!(basis, Basis::Pairs(_)) { "pairs" } else { "runs a side" };
    let enough = match (runs, basis) {
        (_, Basis::Courses) => "several runs a side would tell more".into(),
        (Some(runs), _) => format!("{runs} {unit} find {find}%"),
        (None, _) => format!("more than {MOST_RUNS} {unit} to find {find}%"),
    };
    match told.verdict {
        Verdict::Better => "better".into(),
        Verdict::Worse => "WORSE".into(),
        Verdict::Same => format!("the same within {}%", question.threshold * 100.0),
        Verdict::NoDifference => format!("no difference at this sample; {enough}"),
    }
}

fn basis(comparison: &Comparison, question: &Question) -> String {
    let mut text = match comparison.basis {
        Basis::Pairs(pairs) => format!("{pairs} pairs of runs, compared pair by pair. "),
        Basis::Sides(base, new) if base.min(new) == 1 => {
            format!("{base} and {new} runs; the single one is taken to vary as the others do. ")
        }
        Basis::Sides(base, new) => format!("{base} and {new} runs, each independent of the others. "),
        Basis::Courses => "One run a side, known by the course of each: what differs from one run to the next is not in it, and usually \
                           is more. "
            .into(),
    };
    let told = comparison.outcomes.iter().filter(|one: &&Outcome| one.told.is_ok()).count();
    let _ = writeln!(
        text,
        "When nothing has changed{}, all {told} verdicts together are right with {}% (Holm){}.",
        match question.threshold {
            0.0 => String::new(),
            threshold => format!(" by more than {}%", threshold * 100.0),
        },
        (question.confidence * 100_000.0).round() / 1000.0,
        if comparison.response { "; latencies are response times" } else { "" },
    );
    text
}

/// What makes the comparison doubtful, a line each.
pub fn warnings(comparison: &Comparison) -> String {
    let mut text = String::new();
    for line in &comparison.differences {
        let _ = writeln!(text, "Differs: {line}");
    }
    for line in &comparison.doubts {
        let _ = writeln!(text, "WARNING: {line}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use doorbell_result::compare::Metric;

    #[test]
    fn each_metric_has_its_row_and_the_rest_is_said_below() {
        let told = |verdict, change: f64| Ok(Told { verdict, change, interval: (change - 0.01, change + 0.01) });
        let outcome = |metric, told, runs| Outcome { metric, figures: Some((1000.0, 1100.0)), told, runs };
        let comparison = Comparison {
            basis: Basis::Pairs(4),
            response: true,
            outcomes: vec![
                outcome(Metric::Iops, told(Verdict::Better, 0.1), Some(3)),
                outcome(Metric::P50, told(Verdict::Worse, 0.1), Some(3)),
                outcome(Metric::P99, told(Verdict::NoDifference, 1e9), Some(12)),
                outcome(Metric::P999, told(Verdict::Same, 0.0), None),
                outcome(Metric::Mean, told(Verdict::NoDifference, 0.0), None),
                Outcome { metric: Metric::Cpu, figures: None, told: Err("a has none".into()), runs: None },
            ],
            differences: vec!["kernel: 1 | 2".into()],
            doubts: vec!["a: a failed audit".into()],
        };
        let question = Question { threshold: 0.015, ..Question::default() };
        let text = table(&comparison, &question);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], "iops              1000.00      1100.00    +10.00%   +9.00% … +11.00%      better");
        assert!(lines[2].starts_with("p50 us ") && lines[2].ends_with(" WORSE"), "{text}");
        assert!(lines[3].contains(">+1000%") && lines[3].ends_with("at this sample; 12 pairs find 2%"), "{text}");
        assert!(
            lines[4].ends_with("the same within 1.5%") && lines[5].ends_with("; more than 1000 pairs to find 2%"),
            "{text}"
        );
        assert!(lines[6].ends_with("not told: a has none"), "{text}");
        assert_eq!(
            lines[8],
            "4 pairs of runs, compared pair by pair. When nothing has changed by more than 1.5%, all 5 verdicts together are right \
             with 95% (Holm); latencies are response times."
        );
        assert_eq!(warnings(&comparison), "Differs: kernel: 1 | 2\nWARNING: a: a failed audit\n");
    }
}
