//! What `--verify` found, in a line.

use doorbell_result::document::Results;

/// How many blocks were looked at, and what was wrong with them; nothing without `--verify`.
pub fn lines(results: &Results) -> String {
    let Some(found) = &results.verification else { return String::new() };
    let kinds: Vec<String> = found.mismatches.iter().map(|(kind, count)| format!("{kind}: {count}")).collect();
    let wrong = if kinds.is_empty() { "none wrong".into() } else { kinds.join(", ") };
    format!(
        "Verified: {} blocks read, {} of them as they were before the run; {wrong}. What each may hold took {} KiB.\n",
        found.checked,
        found.foreign,
        found.bytes.div_ceil(1024)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use doorbell_result::{MismatchKind, Verification};

    #[test]
    fn what_was_wrong_is_counted() {
        let mut results = Results::default();
        assert_eq!(lines(&results), "");
        let mismatches = [(MismatchKind::TornWrite, 2), (MismatchKind::FlippedBit, 1)].into();
        results.verification = Some(Verification { checked: 9, mismatches, ..Verification::default() });
        assert!(lines(&results).starts_with(
            "Verified: 9 blocks read, 0 of them as they were before the run; torn write: 2, flipped bit: 1."
        ));
    }
}
