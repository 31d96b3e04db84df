//! The log pages that a controller offers, each as it says of itself. None of it is believed further than to be shown, and all of them
//! together end in time.

use std::{
    mem::size_of,
    time::{Duration, Instant},
};

use doorbell_host::{AdminData, Controller};
use doorbell_spec::{
    command::{self, LogRequest, NSID_ALL},
    identify::{cmic, lpa, oacs},
    log::{
        ChangedNamespaces, CommandEffects, DiscoveryHeader, EnduranceGroup, ErrorEntry, FirmwareSlots, INTEL,
        INTEL_READ_LATENCY, INTEL_WRITE_LATENCY, IntelLatency, Lid, OCP_SMART, OcpSmart, PersistentEventHeader,
        SanitizeStatus, SelfTests, Smart, SupportedLogPages, TelemetryHeader, ana_groups, critical_warning,
    },
    register::Vs,
};
use serde_json::{Map, Value, json};
use zerocopy::FromBytes;

/// What all pages together may take; the rest is not read then.
const SPAN: Duration = Duration::from_secs(30);
/// Most entries of a list that are shown.
const MOST: usize = 16;
/// Log specific parameter of the Persistent Event log: make a picture of the log and read that, and let it go.
const ESTABLISH: u8 = 1;
const RELEASE: u8 = 2;
/// Attached Namespace Attribute Notices in OAES.
const NAMESPACE_NOTICES: u32 = 1 << 8;

/// Every page, in the order of identifiers.
pub fn all(controller: &Controller) -> Value {
    let end = Instant::now() + SPAN;
    let (offered, listed) = offered(controller);
    let describe = |lid: Lid| {
        let known = match Instant::now() < end {
            false => Some(Err(format!("not read: the pages before it took {} s", SPAN.as_secs()))),
            true => page(controller, lid),
        };
        let mut fields = Map::new();
        fields.insert("page".into(), name(controller, lid).into());
        match known {
            Some(Ok(Value::Object(read))) => fields.extend(read),
            Some(Ok(other)) => drop(fields.insert("content".into(), other)),
            // What may not be there at all is not missed.
            Some(Err(_)) if !listed && lid == OCP_SMART => return None,
            Some(Err(why)) => drop(fields.insert("unavailable".into(), why.into())),
            None => drop(fields.insert("content".into(), "not shown: what it holds is not known here".into())),
        }
        Some(Value::Object(fields))
    };
    offered.into_iter().filter_map(describe).collect()
}

/// The identifiers of the pages, from the controller's list where it has one, else from what it says it can do.
fn offered(controller: &Controller) -> (Vec<Lid>, bool) {
    let data = controller.identify();
    let may_list = data.lpa & lpa::SUPPORTED_LOG_PAGES != 0 || controller.vs() >= Vs::version(2, 0, 0);
    let list = may_list.then(|| read::<SupportedLogPages>(controller, Lid::SUPPORTED_LOG_PAGES).ok()).flatten();
    if let Some(list) = list {
        return ((0..=u8::MAX).map(Lid).filter(|&lid| list.supports(lid)).collect(), true);
    }
    let pages = [
        (Lid::ERROR_INFORMATION, true),
        (Lid::SMART, true),
        (Lid::FIRMWARE_SLOT, true),
        (Lid::CHANGED_NAMESPACES, data.oaes.get() & NAMESPACE_NOTICES != 0),
        (Lid::COMMANDS_SUPPORTED_AND_EFFECTS, data.lpa & lpa::EFFECTS != 0),
        (Lid::DEVICE_SELF_TEST, data.oacs.get() & oacs::SELF_TEST != 0),
        (Lid::TELEMETRY_HOST, data.lpa & lpa::TELEMETRY != 0),
        (Lid::TELEMETRY_CONTROLLER, data.lpa & lpa::TELEMETRY != 0),
        (Lid::ENDURANCE_GROUP, data.endgidmax.get() > 0),
        (Lid::ANA, data.cmic & cmic::ANA != 0),
        (Lid::PERSISTENT_EVENT, data.lpa & lpa::PERSISTENT_EVENT != 0),
        (Lid::SANITIZE_STATUS, data.sanicap.get() & 7 != 0),
        (OCP_SMART, true),
    ];
    (pages.into_iter().filter(|(_, offered)| *offered).map(|(lid, _)| lid).collect(), false)
}

fn name(controller: &Controller, lid: Lid) -> String {
    let intel = controller.identify().vid.get() == INTEL;
    match lid {
        OCP_SMART => format!("SMART / Health Information Extended, OCP ({:02X}h)", lid.0),
        INTEL_READ_LATENCY if intel => format!("Read latencies, Intel ({:02X}h)", lid.0),
        INTEL_WRITE_LATENCY if intel => format!("Write latencies, Intel ({:02X}h)", lid.0),
        Lid(0xc0..) => format!("Vendor specific ({:02X}h)", lid.0),
        _ => lid.to_string(),
    }
}

/// What a page holds; none for pages that are not known here, which may do something by being read.
fn page(controller: &Controller, lid: Lid) -> Option<Result<Value, String>> {
    let intel = controller.identify().vid.get() == INTEL;
    Some(match lid {
        Lid::SUPPORTED_LOG_PAGES => read::<SupportedLogPages>(controller, lid).map(|page| {
            let count = (0..=u8::MAX).filter(|&lid| page.supports(Lid(lid))).count();
            json!({ "pages": count })
        }),
        Lid::ERROR_INFORMATION => errors(controller),
        Lid::SMART => read::<Smart>(controller, lid).map(|page| smart(&page)),
        Lid::FIRMWARE_SLOT => read::<FirmwareSlots>(controller, lid).map(|page| {
            let slots = (1..=7).filter_map(|slot| Some(format!("{slot}: {}", page.revision(slot)?)));
            json!({ "active_slot": page.active(), "slots": slots.collect::<Vec<_>>().join(", ") })
        }),
        Lid::CHANGED_NAMESPACES => read::<ChangedNamespaces>(controller, lid).map(|page| match page.overflowed() {
            true => json!({ "namespaces": "more than 1024" }),
            false => json!({ "namespaces": list(page.iter().map(|id| id.to_string())) }),
        }),
        Lid::COMMANDS_SUPPORTED_AND_EFFECTS => read::<CommandEffects>(controller, lid).map(|page| {
            let codes = |effects: &[zerocopy::little_endian::U32]| {
                let supported = effects.iter().enumerate().filter(|(_, effect)| effect.get() & 1 != 0);
                supported.map(|(opcode, _)| format!("{opcode:02x}h")).collect::<Vec<_>>().join(" ")
            };
            json!({ "admin_commands": codes(&page.acs), "io_commands": codes(&page.iocs) })
        }),
        Lid::DEVICE_SELF_TEST => read::<SelfTests>(controller, lid).map(|page| {
            let results = page.results.iter().filter(|result| result.status & 0xf != 0xf && result.status >> 4 != 0);
            let result = |status: u8| if status & 0xf == 0 { "passed".into() } else { format!("result {:x}h", status & 0xf) };
            let results = results.map(|one| format!("{} after {} h", result(one.status), one.poh.get()));
            json!({ "under_way": page.current & 0xf != 0, "done_percent": page.completion & 0x7f, "results": list(results) })
        }),
        Lid::TELEMETRY_HOST | Lid::TELEMETRY_CONTROLLER => read::<TelemetryHeader>(controller, lid).map(|page| {
            let last = page.last_blocks.map(|block| u32::from(block.get()));
            let last = last.into_iter().chain([page.last_block4.get()]).max().unwrap_or(0);
            json!({
                "bytes": (u64::from(last) + 1) * 512,
                "controller_data": page.controller_data & 1 != 0,
                "generation": page.generation,
            })
        }),
        Lid::ENDURANCE_GROUP => {
            let request = LogRequest { lsi: 1, ..request::<EnduranceGroup>(lid) };
            structure::<EnduranceGroup>(controller, &request).map(|page| endurance(&page))
        }
        Lid::ANA => bytes(controller, &LogRequest { rae: true, ..LogRequest::new(lid) }).map(|page| {
            let groups = ana_groups(&page).map(|(_, groups)| groups);
            let groups = groups.into_iter().flatten().map(|group| {
                let descriptor = group.descriptor;
                format!("{}: {}, {} namespaces", descriptor.agid.get(), descriptor.state().name(), descriptor.nnsids.get())
            });
            json!({ "groups": list(groups) })
        }),
        Lid::PERSISTENT_EVENT => persistent_events(controller),
        Lid::DISCOVERY => read::<DiscoveryHeader>(controller, lid)
            .map(|page| json!({ "generation": page.genctr.get(), "entries": page.numrec.get() })),
        Lid::SANITIZE_STATUS => read::<SanitizeStatus>(controller, lid).map(|page| {
            let state = match page.status.get() & 7 {
                0 => "never sanitized",
                1 => "done",
                2 => "under way",
                3 => "failed",
                4 => "done, blocks deallocated",
                _ => "unknown",
            };
            json!({ "state": state, "progress_percent": u32::from(page.progress.get()) * 100 / 65_536 })
        }),
        OCP_SMART => bytes(controller, &LogRequest { nsid: NSID_ALL, ..request::<OcpSmart>(lid) })
            .and_then(|page| OcpSmart::parse(&page).ok_or_else(|| "not that of the Open Compute Project".into()))
            .map(|page| ocp(&page)),
        INTEL_READ_LATENCY | INTEL_WRITE_LATENCY if intel => read::<IntelLatency>(controller, lid).map(|page| {
            let buckets = page.buckets().map(|(from, to, unit, count)| format!("{from}{unit} - {to}{unit}: {count}"));
            json!({ "buckets": list(buckets) })
        }),
        _ => return None,
    })
}

/// A list as one line, the first entries of it.
fn list(entries: impl Iterator<Item = String>) -> String {
    let mut entries: Vec<String> = entries.take(MOST + 1).collect();
    if entries.len() > MOST {
        entries[MOST] = "…".into();
    }
    if entries.is_empty() { "none".into() } else { entries.join("; ") }
}

fn request<T>(lid: Lid) -> LogRequest {
    LogRequest { bytes: size_of::<T>() as u64, rae: true, nsid: NSID_ALL, ..LogRequest::new(lid) }
}

fn bytes(controller: &Controller, request: &LogRequest) -> Result<Vec<u8>, String> {
    let command = command::get_log_page(request);
    let answer = controller.admin(command, AdminData::In(request.bytes as u32));
    answer.map(|(_, bytes)| bytes).map_err(|why| why.cause.to_string())
}

fn structure<T: FromBytes>(controller: &Controller, request: &LogRequest) -> Result<T, String> {
    T::read_from_bytes(&bytes(controller, request)?).map_err(|_| "the log page is too short".into())
}

fn read<T: FromBytes>(controller: &Controller, lid: Lid) -> Result<T, String> {
    structure(controller, &request::<T>(lid))
}

fn number(count: zerocopy::little_endian::U128) -> u64 {
    u64::try_from(count.get()).unwrap_or(u64::MAX)
}

fn warnings(bits: u8) -> String {
    list(critical_warning::names(bits).map(str::to_owned))
}

/// The newest entries that are in use.
fn errors(controller: &Controller) -> Result<Value, String> {
    let entries = (usize::from(controller.identify().elpe) + 1).min(MOST);
    let bytes = bytes(
        controller,
        &LogRequest { bytes: (entries * 64) as u64, ..request::<ErrorEntry>(Lid::ERROR_INFORMATION) },
    )?;
    let entries = bytes.chunks_exact(64).filter_map(|entry| ErrorEntry::read_from_bytes(entry).ok());
    let used = entries.filter(|entry| entry.ecnt.get() != 0);
    let line = |entry: ErrorEntry| {
        let (count, queue, status) = (entry.ecnt.get(), entry.sqid.get(), entry.status());
        format!("error {count}: queue {queue}, NSID {}, LBA {}: {status}", entry.nsid.get(), entry.lba.get())
    };
    Ok(json!({ "newest": list(used.map(line)) }))
}

fn smart(page: &Smart) -> Value {
    json!({
        "critical_warnings": warnings(page.cw),
        "temperature_celsius": page.celsius(),
        "available_spare_percent": page.avsp,
        "spare_threshold_percent": page.avspt,
        "used_percent": page.pused,
        "data_units_read": number(page.dur),
        "data_units_written": number(page.duw),
        "host_reads": number(page.hrc),
        "host_writes": number(page.hwc),
        "busy_minutes": number(page.cbt),
        "power_cycles": number(page.pwrc),
        "power_on_hours": number(page.poh),
        "unsafe_shutdowns": number(page.upl),
        "media_errors": number(page.mdie),
        "error_log_entries": number(page.neile),
        "warning_temperature_minutes": page.wctt.get(),
        "critical_temperature_minutes": page.cctt.get(),
        "light_throttled_seconds": page.ttmt1.get(),
        "heavy_throttled_seconds": page.ttmt2.get(),
    })
}

fn endurance(page: &EnduranceGroup) -> Value {
    json!({
        "group": 1,
        "critical_warnings": warnings(page.cw),
        "available_spare_percent": page.avsp,
        "used_percent": page.pused,
        "read_gb": number(page.dur),
        "written_gb": number(page.duw),
        "media_written_gb": number(page.muw),
        "media_errors": number(page.mdie),
        "capacity_bytes": number(page.capacity),
    })
}

/// The header, from a picture of the log that is made for that, and let go.
fn persistent_events(controller: &Controller) -> Result<Value, String> {
    let lid = Lid::PERSISTENT_EVENT;
    let header = structure::<PersistentEventHeader>(
        controller,
        &LogRequest { lsp: ESTABLISH, ..request::<PersistentEventHeader>(lid) },
    )?;
    let _ = bytes(controller, &LogRequest { lsp: RELEASE, ..request::<PersistentEventHeader>(lid) });
    Ok(json!({
        "events": header.events.get(),
        "bytes": header.bytes.get(),
        "revision": header.revision,
        "power_on_hours": number(header.poh),
        "power_cycles": header.power_cycles.get(),
    }))
}

fn ocp(page: &OcpSmart) -> Value {
    let [errata, point0, point1, minor0, minor1, major] = page.specification;
    let minor = u16::from_le_bytes([minor0, minor1]);
    let point = u16::from_le_bytes([point0, point1]);
    json!({
        "page_version": page.version.get(),
        "specification": format!("{major}.{minor}.{point}.{errata}"),
        "physical_written_bytes": number(page.physical_written),
        "physical_read_bytes": number(page.physical_read),
        "bad_user_blocks": OcpSmart::count(&page.bad_user_blocks),
        "bad_system_blocks": OcpSmart::count(&page.bad_system_blocks),
        "xor_recoveries": page.xor_recoveries.get(),
        "uncorrectable_reads": page.uncorrectable_reads.get(),
        "soft_ecc_errors": page.soft_ecc_errors.get(),
        "end_to_end_detected": page.end_to_end_detected.get(),
        "end_to_end_corrected": page.end_to_end_corrected.get(),
        "system_data_used_percent": page.system_data_used,
        "refreshes": OcpSmart::count(&page.refreshes),
        "most_erasures": page.most_erasures.get(),
        "fewest_erasures": page.fewest_erasures.get(),
        "throttle_events": page.throttle_events,
        "throttle_status": page.throttle_status,
        "pcie_correctable_errors": page.pcie_correctable_errors.get(),
        "incomplete_shutdowns": page.incomplete_shutdowns.get(),
        "free_blocks_percent": page.free_blocks,
        "capacitor_health_percent": page.capacitor_health.get(),
        "unaligned_ios": page.unaligned_ios.get(),
        "power_loss_protections": number(page.power_loss_protections),
        "endurance_estimate_bytes": number(page.endurance_estimate),
        "link_retrainings": page.link_retrainings.get(),
        "power_state_changes": page.power_state_changes.get(),
        "lowest_firmware": page.lowest_firmware().to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_end() {
        assert_eq!(list(std::iter::empty()), "none");
        assert_eq!(list(["a".into(), "b".into()].into_iter()), "a; b");
        let many = list((0..).map(|number: u32| number.to_string()));
        assert!(many.starts_with("0; 1; ") && many.ends_with("; 15; …"), "{many}");
    }

    #[test]
    fn any_bytes_are_shown() {
        let _ = smart(&Smart::read_from_bytes(&[0xff; 512]).unwrap());
        let _ = endurance(&EnduranceGroup::read_from_bytes(&[0xff; 512]).unwrap());
        let shown = ocp(&OcpSmart::read_from_bytes(&[0x1b; 512]).unwrap());
        assert_eq!(shown["specification"], "27.6939.6939.27");
        assert!(!shown["lowest_firmware"].as_str().unwrap().contains('\u{1b}'));
    }
}
