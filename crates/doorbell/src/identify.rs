//! `doorbell identify`: what controllers and their namespaces say of themselves.

mod pages;

use std::fmt::Write;

use clap::Args;
use doorbell_host::{Controller, Namespace, probe};
use doorbell_spec::identify::{self, cmic};
use serde_json::{Value, json};

use crate::{connection::Connection, output};

/// Options of `doorbell identify`.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    connection: Connection,
}

/// Identifies every controller that the transport ID names, one or all that its discovery service lists.
///
/// # Errors
/// When a controller cannot be brought up; those that can are shown all the same.
pub fn run(arguments: &Arguments) -> Result<(), String> {
    let (options, cancel) = arguments.connection.prepare()?;
    let (mut shown, mut failures) = (Vec::new(), Vec::new());
    for probed in probe(std::slice::from_ref(&arguments.connection.id), &options, &cancel) {
        match probed.outcome {
            Ok(controller) => {
                if let Some(ns) = probed.id.ns
                    && !controller.namespaces().iter().any(|one| one.nsid == ns)
                {
                    failures.push(format!("{}: namespace {ns} is not active there", controller.name()));
                }
                shown.push(describe(&controller, probed.id.ns));
                controller.detach();
            }
            Err(why) => failures.push(why.to_string()),
        }
    }
    if arguments.connection.json {
        output::show(&format!("{:#}\n", Value::Array(shown)));
    } else {
        let texts: Vec<String> = shown.iter().map(as_text).collect();
        output::show(&texts.join("\n"));
    }
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n")) }
}

/// Everything shown of a controller, in the order it is shown.
fn describe(controller: &Controller, ns: Option<u32>) -> Value {
    let data = controller.identify();
    let cap = controller.cap();
    let namespaces = controller.namespaces();
    let namespaces = namespaces.iter().filter(|one| ns.is_none_or(|ns| ns == one.nsid)).map(namespace);
    json!({
        "controller": controller.name(),
        "transport": controller.id().to_string(),
        "subsystem": data.subnqn().unwrap_or_default(),
        "vendor": format!("{:04x}h", data.vid.get()),
        "serial": data.sn().to_string(),
        "model": data.mn().to_string(),
        "firmware": data.fr().to_string(),
        "controller_id": controller.cntlid(),
        "version": controller.vs().to_string(),
        "queue_entries": u32::from(cap.mqes()) + 1,
        "io_queues_granted": controller.io_queues(),
        "largest_transfer": controller.max_transfer(),
        "in_capsule_data": controller.in_capsule_bytes(),
        "keep_alive_ms": controller.keep_alive().map(|time| time.as_millis() as u64),
        "volatile_write_cache": data.vwc & 1 != 0,
        "namespace_limit": data.nn.get(),
        "several_ports": data.cmic & cmic::MULTI_PORT != 0,
        "several_controllers": data.cmic & cmic::MULTI_CONTROLLER != 0,
        "asymmetric_access": asymmetric_access(&data),
        "log_pages": pages::all(controller),
        "namespaces": namespaces.collect::<Vec<_>>(),
    })
}

fn namespace(namespace: &Namespace) -> Value {
    let hex = |bytes: &[u8]| match bytes.iter().all(|&byte| byte == 0) {
        true => Value::Null,
        false => bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into(),
    };
    json!({
        "nsid": namespace.nsid,
        "blocks": namespace.blocks,
        "block_size": namespace.block_size,
        "bytes": namespace.size(),
        "metadata": namespace.metadata_size,
        "protection_type": namespace.protection,
        "optimal_boundary": namespace.stripe_blocks,
        "shared": namespace.shared,
        "ana_group": (namespace.ana_group != 0).then_some(namespace.ana_group),
        "ana_state": namespace.ana_state.map(|state| state.name()),
        "command_set": namespace.csi.name(),
        "zones": namespace.zoned.map(|zoned| json!({
            "count": namespace.blocks / zoned.zone_blocks,
            "blocks_each": zoned.zone_blocks,
            "capacity_blocks": zoned.capacity,
            "most_open": zoned.max_open,
            "most_active": zoned.max_active,
            "largest_append": zoned.max_append,
            "reads_go_across": zoned.reads_across,
        })),
        "eui64": hex(&namespace.eui64),
        "nguid": hex(&namespace.nguid),
        "uuid": hex(&namespace.uuid),
    })
}

/// What a controller with asymmetric namespace access says about it (Base 8.1.1); null for the others.
fn asymmetric_access(data: &identify::Controller) -> Value {
    match data.cmic & cmic::ANA {
        0 => Value::Null,
        _ => json!({ "groups": data.nanagrpid.get(), "longest_change_s": data.anatt }),
    }
}

/// A description as indented lines.
fn as_text(value: &Value) -> String {
    let mut text = String::new();
    lines(&mut text, value, 0);
    text
}

fn lines(text: &mut String, value: &Value, depth: usize) {
    let Value::Object(fields) = value else { return };
    for (key, value) in fields {
        let key = format!("{:1$}{2}:", "", depth * 2, key.replace('_', " "));
        // Writing to a String cannot fail.
        let _ = match value {
            Value::Null => continue,
            Value::String(value) => writeln!(text, "{key:<26}{value}"),
            Value::Array(items) => {
                let _ = writeln!(text, "{key}");
                for (at, item) in items.iter().enumerate() {
                    let _ = if at > 0 { writeln!(text) } else { Ok(()) };
                    lines(text, item, depth + 1);
                }
                continue;
            }
            Value::Object(_) => {
                let _ = writeln!(text, "{key}");
                lines(text, value, depth + 1);
                continue;
            }
            plain => writeln!(text, "{key:<26}{plain}"),
        };
    }
}
