//! What was done to zones beside I/Os: a line for each worker that writes them.

use std::fmt::Write;

use doorbell_result::{RunResult, ZoneManagement};

/// The lines, or nothing for a run that writes no zones.
pub fn lines(result: &RunResult) -> String {
    let mut text = String::new();
    for context in &result.contexts {
        let Some(ZoneManagement { resets, finishes, failed, time, longest }) = context.zones else { continue };
        let (path, core) = (&context.path, context.core);
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "Zones of {path} from core {core}: {resets} reset, {finishes} finished, {failed} commands failed; {:.3} ms in all, {:.3} ms \
             the longest",
            time.as_secs_f64() * 1e3,
            longest.as_secs_f64() * 1e3
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use doorbell_result::ContextResult;

    #[test]
    fn only_who_writes_zones_tells_of_them() {
        let zones = ZoneManagement {
            resets: 3,
            finishes: 2,
            failed: 1,
            time: Duration::from_micros(1500),
            longest: Duration::from_millis(1),
        };
        let contexts = vec![
            ContextResult { path: "other".into(), ..ContextResult::default() },
            ContextResult { path: "disk".into(), core: 4, zones: Some(zones), ..ContextResult::default() },
        ];
        let result = RunResult { contexts, ..RunResult::default() };
        let wanted = "Zones of disk from core 4: 3 reset, 2 finished, 1 commands failed; 1.500 ms in all, 1.000 ms the longest\n";
        assert_eq!(lines(&result), wanted);
    }
}
