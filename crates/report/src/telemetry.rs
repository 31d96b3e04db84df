//! What happened to drives in a run that its numbers may suffer from: a line each, and none for a drive that stayed well.

use std::fmt::Write;

use doorbell_result::telemetry::{Drive, Health, Ocp};

/// The lines.
pub fn lines(drives: &[Drive]) -> String {
    let mut text = String::new();
    for Drive { controller, before, after, .. } in drives {
        let (Some(before), Some(after)) = (before, after) else { continue };
        let changes = changes(before, after);
        if !changes.is_empty() {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "Drive: {controller}: {}", changes.join("; "));
        }
    }
    text
}

fn changes(before: &Health, after: &Health) -> Vec<String> {
    let mut changes = Vec::new();
    let mut more = |before: u64, after: u64, what: &str| {
        if after > before {
            changes.push(format!("{} {what}", after - before));
        }
    };
    let seconds = |health: &Health| u64::from(health.light_throttled_s) + u64::from(health.heavy_throttled_s);
    let times = |health: &Health| u64::from(health.light_throttles) + u64::from(health.heavy_throttles);
    more(seconds(before), seconds(after), "s slowed down to stay cool");
    more(times(before), times(after), "times slowed down to stay cool");
    more(
        before.warning_temperature_min.into(),
        after.warning_temperature_min.into(),
        "min above its warning temperature",
    );
    more(
        before.critical_temperature_min.into(),
        after.critical_temperature_min.into(),
        "min above its critical temperature",
    );
    more(before.media_errors, after.media_errors, "media and data integrity errors");
    more(before.error_log_entries, after.error_log_entries, "new entries in its error log");
    let (old, new): (Ocp, Ocp) = (before.ocp.unwrap_or_default(), after.ocp.unwrap_or_default());
    if before.ocp.is_some() {
        more(old.throttle_events.into(), new.throttle_events.into(), "throttling events (OCP)");
        more(old.uncorrectable_reads, new.uncorrectable_reads, "reads that it could not correct (OCP)");
        more(old.end_to_end_detected.into(), new.end_to_end_detected.into(), "end-to-end errors inside (OCP)");
        more(old.bad_user_blocks, new.bad_user_blocks, "new bad blocks (OCP)");
        more(old.pcie_correctable_errors, new.pcie_correctable_errors, "PCIe errors corrected (OCP)");
        more(old.link_retrainings, new.link_retrainings, "trainings of its PCIe link (OCP)");
    }
    if new.throttle_status > 0 {
        changes.push(format!("it slows down to stay cool now, level {} (OCP)", new.throttle_status));
    }
    if !after.critical_warnings.is_empty() {
        changes.push(format!("critical warnings: {}", after.critical_warnings.join(", ")));
    }
    if let (false, Some(from), Some(to)) = (changes.is_empty(), before.temperature_c, after.temperature_c) {
        changes.push(format!("{from} °C before, {to} °C after"));
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drive(before: Health, after: Health) -> String {
        let (before, after) = (Some(before), Some(after));
        lines(&[Drive { controller: "X".into(), before, after, unavailable: None }])
    }

    #[test]
    fn only_what_a_run_may_suffer_from_is_told() {
        let well = Health { temperature_c: Some(40), host_reads: 5, ..Health::default() };
        assert_eq!(drive(well.clone(), Health { temperature_c: Some(60), host_reads: 9, ..well.clone() }), "");
        let hot = Health {
            temperature_c: Some(81),
            light_throttled_s: 12,
            light_throttles: 2,
            media_errors: 1,
            critical_warnings: vec!["temperature".into()],
            ..well.clone()
        };
        assert_eq!(
            drive(well.clone(), hot),
            "Drive: X: 12 s slowed down to stay cool; 2 times slowed down to stay cool; 1 media and data integrity errors; \
             critical warnings: temperature; 40 °C before, 81 °C after\n"
        );
        let old = Some(Ocp { throttle_events: 3, ..Ocp::default() });
        let new = Some(Ocp { throttle_events: 5, ..Ocp::default() });
        let (one, two) = (Health { ocp: old, ..well.clone() }, Health { ocp: new, ..well.clone() });
        assert!(drive(one, two.clone()).contains("2 throttling events (OCP)"));
        assert_eq!(drive(well.clone(), two), "", "a page that was not there before tells of no change");
        assert_eq!(lines(&[Drive { before: Some(well), ..Drive::default() }]), "");
    }
}
