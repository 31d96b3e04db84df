//! `doorbell discover`: the entries of a discovery log.

use std::fmt::Write;

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

fn as_text(log: &DiscoveryLog) -> String {
    let mut text = format!("Discovery log, generation {}, {} entries\n", log.genctr, log.entries.len());
    for (at, entry) in log.entries.iter().enumerate() {
        let (cntlid, portid) = (entry.cntlid.get(), entry.portid.get());
        let controller = if cntlid == 0xffff { "dynamic".into() } else { cntlid.to_string() };
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "\nEntry {at}: {}\n  transport  {} {}\n  address    {} port {}\n  subsystem  {}\n  controller {controller}, port id {portid}\n",
            entry.subtype().name(),
            entry.trtype().name(),
            entry.adrfam().name(),
            entry.traddr(),
            entry.trsvcid(),
            nqn(entry),
        );
    }
    text
}

fn as_json(log: &DiscoveryLog) -> String {
    let entries: Vec<_> = log
        .entries
        .iter()
        .map(|entry| {
            json!({
                "subtype": entry.subtype().name(), "trtype": entry.trtype().name(), "adrfam": entry.adrfam().name(),
                "traddr": entry.traddr().to_string(), "trsvcid": entry.trsvcid().to_string(), "subnqn": nqn(entry),
                "cntlid": entry.cntlid.get(), "portid": entry.portid.get(), "treq": entry.treq, "asqsz": entry.asqsz.get(),
            })
        })
        .collect();
    format!("{:#}\n", json!({ "genctr": log.genctr, "entries": entries }))
}
