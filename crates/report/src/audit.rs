//! What a run found out about its own numbers, for people: each defect, and of what is as it should be a line a check, with the place
//! where it comes closest to a defect.

use std::fmt::Write;

use doorbell_result::document::{Check, Finding, Verdict};

/// A line for each defect and each check.
pub fn lines(findings: &[Finding]) -> String {
    let mut checks: Vec<Check> = findings.iter().map(|finding| finding.check).collect();
    checks.sort_unstable();
    checks.dedup();
    let mut text = String::new();
    for check in checks {
        let of = |verdict| findings.iter().filter(move |one| one.check == check && one.verdict == verdict);
        of(Verdict::Failed).for_each(|finding| line(&mut text, finding, ""));
        let (passed, others) = (of(Verdict::Passed), of(Verdict::NotChecked));
        let count = passed.clone().count();
        let worst = passed.max_by(|one, other| closeness(one).total_cmp(&closeness(other)));
        let of_several = if count > 1 { format!(" (the worst of {count})") } else { String::new() };
        match worst {
            Some(finding) => line(&mut text, finding, &of_several),
            None if of(Verdict::Failed).next().is_none() => {
                others.take(1).for_each(|finding| line(&mut text, finding, ""))
            }
            None => {}
        }
    }
    text
}

/// How near to a defect something is: the larger the nearer.
fn closeness(finding: &Finding) -> f64 {
    let size = finding.size.unwrap_or(0.0);
    // Of these there should be much.
    if matches!(finding.check, Check::Depth | Check::HeadRoom) { -size } else { size.abs() }
}

fn line(text: &mut String, finding: &Finding, behind: &str) {
    let verdict = match finding.verdict {
        Verdict::Passed => "passed",
        Verdict::Failed => "FAILED",
        Verdict::NotChecked => "not checked",
    };
    let place = finding.place.as_ref().map_or(String::new(), |place| format!("{place}: "));
    // Writing to a String cannot fail.
    let _ = writeln!(text, "Audit: {}: {verdict}: {place}{}{behind}", name(finding.check), finding.text);
}

fn name(check: Check) -> &'static str {
    match check {
        Check::LittlesLaw => "Little's law",
        Check::Account => "account",
        Check::Window => "window",
        Check::Drain => "drain",
        Check::Errors => "errors",
        Check::Coverage => "coverage",
        Check::Randomness => "randomness",
        Check::Clocks => "clocks",
        Check::Depth => "depth",
        Check::HeadRoom => "head-room",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defects_are_told_each_and_the_rest_once_a_check() {
        let finding = |check, verdict, place: &str, size| Finding {
            check,
            verdict,
            place: (!place.is_empty()).then(|| place.into()),
            size: Some(size),
            limit: None,
            text: format!("{size}"),
        };
        let text = lines(&[
            finding(Check::Depth, Verdict::Passed, "a", 0.99),
            finding(Check::LittlesLaw, Verdict::Passed, "a", 0.1),
            finding(Check::Depth, Verdict::Passed, "b", 0.96),
            finding(Check::LittlesLaw, Verdict::Failed, "b", 0.3),
            finding(Check::LittlesLaw, Verdict::Failed, "c", 0.2),
            finding(Check::Randomness, Verdict::NotChecked, "a", 0.0),
            finding(Check::HeadRoom, Verdict::Passed, "", 7.0),
        ]);
        assert_eq!(
            text,
            "Audit: Little's law: FAILED: b: 0.3\n\
             Audit: Little's law: FAILED: c: 0.2\n\
             Audit: Little's law: passed: a: 0.1\n\
             Audit: randomness: not checked: a: 0\n\
             Audit: depth: passed: b: 0.96 (the worst of 2)\n\
             Audit: head-room: passed: 7\n"
        );
    }
}
