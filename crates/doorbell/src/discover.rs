//! `doorbell discover`: the entries of a discovery log, by subsystem.

use std::{collections::HashMap, fmt::Write};

use clap::Args;
use doorbell_host::{DiscoveryLog, discover};
use doorbell_spec::log::DiscoveryEntry;
use serde_json::json;

use crate::{connection::Connection, output};

/// Options of `doorbell discover`.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    connection: Connection,
}

/// Reads a discovery log and shows it.
///
/// # Errors
/// When the discovery service cannot be read.
pub fn run(arguments: &Arguments) -> Result<(), String> {
    let (options, cancel) = arguments.connection.prepare()?;
    let log = discover(&arguments.connection.id, &options, &cancel).map_err(|why| why.to_string())?;
    output::show(&if arguments.connection.json { as_json(&log) } else { as_text(&log) });
    Ok(())
}

fn nqn(entry: &DiscoveryEntry) -> String {
    entry.subnqn().unwrap_or("(not a name)").to_string()
}

/// The entries by subsystem, in the order in which each is first named: several entries of one are paths to it.
fn subsystems(log: &DiscoveryLog) -> Vec<(String, Vec<&DiscoveryEntry>)> {
    let mut subsystems: Vec<(String, Vec<&DiscoveryEntry>)> = Vec::new();
    let mut places = HashMap::new();
    for entry in &log.entries {
        let name = (entry.subtype, nqn(entry));
        let place = *places.entry(name.clone()).or_insert_with(|| {
            subsystems.push((name.1, Vec::new()));
            subsystems.len() - 1
        });
        subsystems[place].1.push(entry);
    }
    subsystems
}

fn as_text(log: &DiscoveryLog) -> String {
    let subsystems = subsystems(log);
    let mut text = format!(
        "Discovery log, generation {}: {} entries, {} subsystems\n",
        log.genctr,
        log.entries.len(),
        subsystems.len()
    );
    for (nqn, paths) in &subsystems {
        let count = if paths.len() > 1 { format!(", {} paths", paths.len()) } else { String::new() };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "\n{nqn}\n  {}{count}", paths[0].subtype().name());
        for entry in paths {
            let (cntlid, portid) = (entry.cntlid.get(), entry.portid.get());
            let controller = if cntlid == 0xffff { "dynamic".into() } else { cntlid.to_string() };
            let _ = writeln!(
                text,
                "  {} {} {} port {}, controller {controller}, port id {portid}",
                entry.trtype().name(),
                entry.adrfam().name(),
                entry.traddr(),
                entry.trsvcid(),
            );
        }
    }
    text
}

fn as_json(log: &DiscoveryLog) -> String {
    let entry = |entry: &DiscoveryEntry| {
        json!({
            "subtype": entry.subtype().name(), "trtype": entry.trtype().name(), "adrfam": entry.adrfam().name(),
            "traddr": entry.traddr().to_string(), "trsvcid": entry.trsvcid().to_string(), "subnqn": nqn(entry),
            "cntlid": entry.cntlid.get(), "portid": entry.portid.get(), "treq": entry.treq, "asqsz": entry.asqsz.get(),
        })
    };
    let entries: Vec<_> = log.entries.iter().map(entry).collect();
    let subsystems: Vec<_> =
        subsystems(log).iter().map(|(nqn, paths)| json!({ "subnqn": nqn, "paths": paths.len() })).collect();
    format!("{:#}\n", json!({ "genctr": log.genctr, "entries": entries, "subsystems": subsystems }))
}

#[cfg(test)]
mod tests {
    use doorbell_spec::log::{Adrfam, Subtype, Trtype};
    use zerocopy::FromZeros;

    use super::*;

    fn entry(subtype: Subtype, nqn: &str, port: &str) -> DiscoveryEntry {
        let mut entry = DiscoveryEntry::new_zeroed();
        (entry.subtype, entry.trtype, entry.adrfam) = (subtype.0, Trtype::TCP.0, Adrfam::IPV4.0);
        entry.cntlid = 0xffff.into();
        entry.set_traddr("10.0.0.1");
        entry.set_trsvcid(port);
        entry.set_subnqn(nqn).unwrap();
        entry
    }

    #[test]
    fn paths_to_one_subsystem_stand_together() {
        let (a, b) = ("nqn.2016-06.org.example:a", "nqn.2016-06.org.example:b");
        let entries = [(a, "1"), (b, "2"), (a, "3")].map(|(nqn, port)| entry(Subtype::NVM, nqn, port)).to_vec();
        let log = DiscoveryLog { genctr: 7, entries };
        let text = as_text(&log);
        assert!(text.starts_with("Discovery log, generation 7: 3 entries, 2 subsystems\n"), "{text}");
        let group = text.split(a).nth(1).unwrap().split(b).next().unwrap();
        assert!(group.contains(", 2 paths\n") && group.contains("port 1,") && group.contains("port 3,"), "{text}");
        assert!(!text.split(b).nth(1).unwrap().contains("paths"), "{text}");
        let json: serde_json::Value = serde_json::from_str(&as_json(&log)).unwrap();
        assert_eq!(json["subsystems"], json!([{ "subnqn": a, "paths": 2 }, { "subnqn": b, "paths": 1 }]));
        assert_eq!(json["entries"][2]["trsvcid"], "3");
    }
}
