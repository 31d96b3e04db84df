//! What drives say of themselves beside a run: their health before and after it, and with `-l` the latencies inside Intel's drives.

use std::{fmt::Write, thread};

use doorbell_host::{AdminData, Controller};
use doorbell_load::Target;
use doorbell_result::telemetry::{Drive, Health, Ocp};
use doorbell_spec::{
    command,
    log::{
        INTEL, INTEL_LATENCY_TRACKING, INTEL_READ_LATENCY, INTEL_WRITE_LATENCY, IntelLatency, Lid, OCP_SMART, OcpSmart,
        Smart, critical_warning,
    },
    register::Vs,
};
use zerocopy::FromBytes;

/// The controllers of a run.
pub struct Watch(Vec<Watched>);

struct Watched {
    controller: Controller,
    drive: Drive,
    /// Whether it keeps latencies for us, or why not; `None` where that was not asked for.
    tracking: Option<Result<(), String>>,
}

impl Watch {
    /// Asks each controller; `track` has Intel's drives keep latencies, and looks for OCP's page where no list says that it is there.
    pub fn begin(targets: &[Target], track: bool) -> Self {
        let mut watched: Vec<Watched> = Vec::new();
        for target in targets {
            if !watched.iter().any(|known| known.controller.is(&target.controller)) {
                let name = target.path(target.controller.name());
                let drive = Drive { controller: name, ..Drive::default() };
                watched.push(Watched { controller: target.controller.clone(), drive, tracking: None });
            }
        }
        side_by_side(&mut watched, |one| {
            let ocp = if track || lists_ocp(&one.controller) { ocp(&one.controller) } else { None };
            match health(&one.controller) {
                Ok(health) => one.drive.before = Some(Health { ocp, ..health }),
                Err(why) => one.drive.unavailable = Some(why),
            }
            one.tracking = track.then(|| switch(&one.controller, true));
        });
        Self(watched)
    }

    /// Asks again, but for controllers that are not to be asked any more, for which `silent` has a reason. Returns what was kept of
    /// the latencies of `reads` and `writes`, as the original shows it.
    pub fn end(
        mut self,
        silent: impl Fn(&Controller) -> Option<&'static str> + Sync,
        (reads, writes): (bool, bool),
    ) -> (Vec<Drive>, String) {
        let kinds = [("Read", INTEL_READ_LATENCY, reads), ("Write", INTEL_WRITE_LATENCY, writes)];
        let mut latencies: Vec<Vec<String>> = vec![Vec::new(); self.0.len()];
        side_by_side(&mut self.0, |one| {
            match silent(&one.controller).map_or_else(|| health(&one.controller), |why| Err(why.into())) {
                // A page that was not there before the run is not asked for: a drive without it may count that as an error.
                Ok(health) => {
                    let had = one.drive.before.as_ref().is_some_and(|before| before.ocp.is_some());
                    let ocp = if had { ocp(&one.controller) } else { None };
                    one.drive.after = Some(Health { ocp, ..health });
                }
                Err(why) => one.drive.unavailable = Some(why),
            }
        });
        for (one, texts) in self.0.iter().zip(&mut latencies) {
            let Some(tracking) = &one.tracking else { continue };
            let silent = silent(&one.controller);
            for (_, lid, _) in kinds {
                let page = match (tracking, silent) {
                    (Err(why), _) => Err(why.clone()),
                    (_, Some(why)) => Err(why.to_owned()),
                    _ => latency(&one.controller, lid),
                };
                texts.push(page.unwrap_or_else(|why| format!("Latency statistics are not available: {why}\n")));
            }
            if tracking.is_ok() && silent.is_none() {
                // A drive that goes on keeping them does no harm.
                let _ = switch(&one.controller, false);
            }
        }
        let mut text = String::new();
        for (at, (word, _, _)) in kinds.iter().enumerate().filter(|(_, (.., possible))| *possible) {
            if self.0.iter().all(|one| one.tracking.is_none()) {
                break;
            }
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{word} Latency Statistics:\n{}", "=".repeat(56));
            for (one, texts) in self.0.iter().zip(&latencies) {
                let _ = write!(text, "\n{}\n{}\n{}", one.drive.controller, "-".repeat(56), texts[at]);
            }
            text.push('\n');
        }
        (self.0.into_iter().map(|one| one.drive).collect(), text)
    }
}

fn side_by_side(watched: &mut [Watched], ask: impl Fn(&mut Watched) + Sync) {
    thread::scope(|scope| {
        for one in watched {
            let ask = &ask;
            scope.spawn(move || ask(one));
        }
    });
}

/// Has an Intel drive keep latencies, or no longer.
fn switch(controller: &Controller, on: bool) -> Result<(), String> {
    let vendor = controller.identify().vid.get();
    if vendor != INTEL {
        return Err(format!("they are something of Intel's drives, and the vendor here is {vendor:04x}h"));
    }
    let command = command::set_features(INTEL_LATENCY_TRACKING, false, 0, on.into());
    controller.admin(command, AdminData::None).map(drop).map_err(|why| format!("switching them on: {why}"))
}

/// The buckets in use, a line each.
fn latency(controller: &Controller, lid: Lid) -> Result<String, String> {
    let page = controller.log_page(lid, 0, size_of::<IntelLatency>() as u32).map_err(|why| why.to_string())?;
    let page = IntelLatency::read_from_bytes(&page).map_err(|_| "the log page is too short")?;
    let line = |(from, to, unit, count)| format!("Bucket {from}{unit} - {to}{unit}: {count}\n");
    Ok(page.buckets().map(line).collect())
}

/// Whether the controller lists OCP's page among those it has. Reading a page that a drive has not got is an error that some count.
fn lists_ocp(controller: &Controller) -> bool {
    use doorbell_spec::{identify::lpa, log::SupportedLogPages};
    let has_list =
        controller.identify().lpa & lpa::SUPPORTED_LOG_PAGES != 0 || controller.vs() >= Vs::new().with_mjr(2);
    let page = || controller.log_page(Lid::SUPPORTED_LOG_PAGES, 0, size_of::<SupportedLogPages>() as u32).ok();
    let page = has_list.then(page).flatten().and_then(|page| SupportedLogPages::read_from_bytes(&page).ok());
    page.is_some_and(|page| page.supports(OCP_SMART))
}

fn ocp(controller: &Controller) -> Option<Ocp> {
    let page = OcpSmart::parse(&controller.log_page(OCP_SMART, command::NSID_ALL, 512).ok()?)?;
    let bytes = |count: zerocopy::little_endian::U128| u64::try_from(count.get()).unwrap_or(u64::MAX);
    Some(Ocp {
        physical_written_bytes: bytes(page.physical_written),
        physical_read_bytes: bytes(page.physical_read),
        bad_user_blocks: OcpSmart::count(&page.bad_user_blocks),
        bad_system_blocks: OcpSmart::count(&page.bad_system_blocks),
        uncorrectable_reads: page.uncorrectable_reads.get(),
        soft_ecc_errors: page.soft_ecc_errors.get(),
        end_to_end_detected: page.end_to_end_detected.get(),
        end_to_end_corrected: page.end_to_end_corrected.get(),
        throttle_events: page.throttle_events,
        throttle_status: page.throttle_status,
        pcie_correctable_errors: page.pcie_correctable_errors.get(),
        link_retrainings: page.link_retrainings.get(),
        free_blocks_percent: page.free_blocks,
        unaligned_ios: page.unaligned_ios.get(),
    })
}

fn health(controller: &Controller) -> Result<Health, String> {
    let page = controller.log_page(Lid::SMART, command::NSID_ALL, 512).map_err(|why| why.to_string())?;
    let page = Smart::read_from_bytes(&page).map_err(|_| "the SMART log page is too short")?;
    Ok(health_of(&page))
}

fn health_of(page: &Smart) -> Health {
    let count = |count: zerocopy::little_endian::U128| u64::try_from(count.get()).unwrap_or(u64::MAX);
    Health {
        critical_warnings: critical_warning::names(page.cw).map(str::to_owned).collect(),
        temperature_c: page.celsius(),
        sensors_c: page.ts.iter().filter(|one| one.get() > 0).map(|one| i32::from(one.get()) - 273).collect(),
        spare_percent: page.avsp,
        spare_threshold_percent: page.avspt,
        used_percent: page.pused,
        data_units_read: count(page.dur),
        data_units_written: count(page.duw),
        host_reads: count(page.hrc),
        host_writes: count(page.hwc),
        media_errors: count(page.mdie),
        error_log_entries: count(page.neile),
        warning_temperature_min: page.wctt.get(),
        critical_temperature_min: page.cctt.get(),
        light_throttles: page.tmttc1.get(),
        light_throttled_s: page.ttmt1.get(),
        heavy_throttles: page.tmttc2.get(),
        heavy_throttled_s: page.ttmt2.get(),
        ocp: None,
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes;

    use super::*;

    #[test]
    fn any_smart_page_is_a_health() {
        let page = Smart::read_from_bytes(&[0xff; 512]).unwrap();
        let health = health_of(&page);
        assert_eq!((health.host_reads, health.temperature_c), (u64::MAX, Some(65_535 - 273)));
        assert_eq!((health.sensors_c.len(), health.critical_warnings.len()), (8, 6));
        let mut page = Smart::read_from_bytes(&[0; 512]).unwrap();
        page.as_mut_bytes()[0] = 2;
        assert_eq!(health_of(&page).critical_warnings, ["temperature"]);
        assert_eq!(health_of(&page).sensors_c, [0; 0]);
    }
}
