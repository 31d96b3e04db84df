//! How the state of the machine is shown: text for people, JSON for scripts.

use std::fmt::Write;

use doorbell_platform::pci::Function;
use serde_json::{Value, json};

use super::status::{Blocker, Device, Machine};

/// The state as lines, with what is in the way below each device and the command that removes it.
pub fn as_text(machine: &Machine) -> String {
    let mut text = String::new();
    if machine.devices.is_empty() {
        text += NO_DEVICE;
        return text;
    }
    let or_none = |text: String| if text.is_empty() { "none".to_owned() } else { text };
    field(&mut text, "", "IOMMU", &or_none(machine.iommus.join(", ")));
    let modules = machine
        .modules
        .iter()
        .map(|(name, loaded)| if *loaded { (*name).into() } else { format!("{name} (not loaded)") });
    field(&mut text, "", "VFIO modules", &modules.collect::<Vec<_>>().join(", "));
    let pools = machine.pools.iter().filter(|pool| pool.node.is_none());
    let pools = pools.map(|pool| format!("{} of {} free ({} KiB each)", pool.free, pool.total, pool.page >> 10));
    field(&mut text, "", "huge pages", &or_none(pools.collect::<Vec<_>>().join(", ")));
    let pinned = machine.pinned.map_or("as much as there is".into(), |bytes| format!("at most {} KiB", bytes >> 10));
    field(&mut text, "", "may pin", &pinned);
    blockers(&mut text, "", "in the way", &machine.blockers);
    blockers(&mut text, "", "would help", &machine.advice);
    for one in &machine.devices {
        text.push('\n');
        device(&mut text, one);
        if one.ready() && machine.blockers.is_empty() {
            field(
                &mut text,
                "  ",
                "ready",
                &format!("doorbell perf -r 'trtype:PCIE traddr:{}' …", one.function.address),
            );
        }
    }
    text
}

const NO_DEVICE: &str = "\
This machine has no NVMe device (no PCI function of class 010802h). One behind RAID or VMD is shown once that is switched off in the
firmware's setup; a virtual machine or a container has those that its host gives it.

Without a device:
  doorbell perf --embedded -q 32 -o 4096 -w randread -t 5        a target inside the process
  doorbell target --ram 1G --listen vfio-user:/tmp/doorbell &    a device that another process plays
  doorbell perf -r 'trtype:VFIOUSER traddr:/tmp/doorbell' -q 32 -o 4096 -w randread -t 5
";

/// One device, without whether it is ready.
fn device(text: &mut String, device: &Device) {
    let function = &device.function;
    let named = device.controllers.iter().map(|one| format!("{}, serial {}", one.model, one.serial));
    let ids = format!("({:04x}:{:04x})", function.vendor, function.device);
    let title = named.chain([ids]).collect::<Vec<_>>().join(" ");
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{:<16}{title}", function.address.to_string());
    let kernel = device.controllers.iter().map(|one| format!(" ({})", one.name)).collect::<String>();
    field(text, "  ", "driver", &format!("{}{kernel}", driver(function)));
    let with = device.companions.iter().map(|one| format!(", with {} ({})", one.address, driver(one)));
    let group = match function.group {
        Some(group) if group.without_iommu => format!("{}, without an IOMMU", group.number),
        Some(group) => group.number.to_string(),
        None => "none".into(),
    };
    field(text, "  ", "IOMMU group", &(group + &with.collect::<String>()));
    field(text, "  ", "NUMA node", &function.numa_node.map_or("not told".into(), |node| node.to_string()));
    let blocks: Vec<_> = device.controllers.iter().flat_map(|one| &one.blocks).collect();
    if !blocks.is_empty() {
        let names = blocks.iter().map(|block| match block.partitions.as_slice() {
            [] => block.name.clone(),
            parts => format!("{} ({})", block.name, parts.join(", ")),
        });
        field(text, "  ", "namespaces", &names.collect::<Vec<_>>().join(", "));
    }
    blockers(text, "  ", "in use", &device.uses);
    blockers(text, "  ", "in the way", &device.blockers);
}

fn driver(function: &Function) -> &str {
    function.driver.as_deref().unwrap_or("none")
}

fn field(text: &mut String, margin: &str, name: &str, value: &str) {
    let _ = writeln!(text, "{margin}{name:<14}{value}");
}

/// Each with its remedy on the lines below it.
fn blockers(text: &mut String, margin: &str, name: &str, blockers: &[Blocker]) {
    for (at, one) in blockers.iter().enumerate() {
        field(text, margin, if at == 0 { name } else { "" }, &one.why);
        for line in one.remedy.lines() {
            field(text, margin, "", &format!("  {line}"));
        }
    }
}

/// The same as one JSON object.
pub fn as_json(machine: &Machine) -> String {
    let modules = machine.modules.iter().map(|(name, loaded)| ((*name).to_owned(), Value::from(*loaded)));
    let pools = machine
        .pools
        .iter()
        .map(|pool| json!({ "node": pool.node, "page_bytes": pool.page, "total": pool.total, "free": pool.free }));
    let value = json!({
        "iommus": machine.iommus,
        "modules": Value::Object(modules.collect()),
        "huge_pages": pools.collect::<Vec<_>>(),
        "may_pin_bytes": machine.pinned,
        "blockers": blockers_json(&machine.blockers),
        "advice": blockers_json(&machine.advice),
        "devices": machine.devices.iter().map(|one| device_json(one, machine)).collect::<Vec<_>>(),
    });
    format!("{value:#}\n")
}

fn device_json(device: &Device, machine: &Machine) -> Value {
    let function = &device.function;
    let companions = device.companions.iter();
    let controllers = device.controllers.iter().map(|one| {
        let blocks = one.blocks.iter();
        let blocks =
            blocks.map(|block| json!({ "name": block.name, "partitions": block.partitions, "holders": block.holders }));
        json!({ "name": one.name, "serial": one.serial, "model": one.model, "blocks": blocks.collect::<Vec<_>>() })
    });
    json!({
        "address": function.address.to_string(),
        "vendor": format!("{:04x}", function.vendor),
        "device": format!("{:04x}", function.device),
        "driver": function.driver,
        "iommu_group": function.group.map(|group| group.number),
        "numa_node": function.numa_node,
        "controllers": controllers.collect::<Vec<_>>(),
        "group_shared_with": companions.map(|one| json!({ "address": one.address.to_string(), "driver": one.driver })).collect::<Vec<_>>(),
        "uses": blockers_json(&device.uses),
        "blockers": blockers_json(&device.blockers),
        "ready": device.ready() && machine.blockers.is_empty(),
    })
}

fn blockers_json(blockers: &[Blocker]) -> Value {
    blockers.iter().map(|one| json!({ "why": one.why, "remedy": one.remedy })).collect()
}

#[cfg(test)]
mod tests {
    use super::{super::tree::Tree, *};

    #[test]
    fn without_a_device_it_says_what_to_do_without() {
        let text = as_text(&Machine::look(&Tree::new().system()).unwrap());
        for part in ["no NVMe device", "perf --embedded", "--listen vfio-user:", "trtype:VFIOUSER"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let json: Value = serde_json::from_str(&as_json(&Machine::look(&Tree::new().system()).unwrap())).unwrap();
        assert_eq!(json["devices"], json!([]));
    }

    #[test]
    fn each_device_stands_with_what_is_in_its_way() {
        let tree = Tree::with_drive("0000:01:00.0", "nvme0", "S1");
        tree.add_drive("0000:01:00.1", "nvme1", "S2", 7);
        tree.add_function("0000:02:00.0", "0x010802", "vfio-pci", 8);
        tree.write("sys/bus/pci/devices/0000:02:00.0/numa_node", "1\n");
        tree.write("proc/swaps", "Filename Type\n/dev/nvme0n1 partition\n");
        let machine = Machine::look(&tree.system()).unwrap();
        let text = as_text(&machine);
        let expected = "
0000:01:00.0    A Drive, serial S1 (1b36:0010)
  driver        nvme (nvme0)
  IOMMU group   7, with 0000:01:00.1 (nvme)
  NUMA node     not told
  namespaces    nvme0n1
  in use        nvme0n1 is swapped to
                  swapoff /dev/nvme0n1
  in the way    the driver nvme has it
                  doorbell setup bind 0000:01:00.0
                its IOMMU group 7 holds 0000:01:00.1 too, which the driver nvme has
                  doorbell setup bind 0000:01:00.1
";
        assert!(text.contains(expected), "{text}");
        let last = text.split("\n\n").last().unwrap();
        assert!(last.starts_with("0000:02:00.0    (1b36:0010)\n  driver        vfio-pci\n"), "{text}");
        assert!(
            last.contains("NUMA node     1\n") && last.contains("ready         doorbell perf -r 'trtype:PCIE"),
            "{text}"
        );

        let json: Value = serde_json::from_str(&as_json(&machine)).unwrap();
        assert_eq!(json["iommus"], json!(["dmar0"]));
        let ready: Vec<_> = json["devices"].as_array().unwrap().iter().map(|one| one["ready"].clone()).collect();
        assert_eq!(ready, [false, false, true]);
        let first = &json["devices"][0];
        assert_eq!(first["controllers"][0]["serial"], "S1");
        assert_eq!(first["uses"][0]["remedy"], "swapoff /dev/nvme0n1");
        assert_eq!(first["group_shared_with"], json!([{ "address": "0000:01:00.1", "driver": "nvme" }]));
    }
}
