//! What a result says of the machine, as the kernel tells it.

use std::{collections::BTreeMap, fs, path::Path};

use doorbell_platform::{
    Sysfs, cpu, numa,
    pci::Address,
    sysfs::{line, names},
};
use doorbell_result::document::{Core, PcieLink, Platform};

/// The machine, with these cores at work.
pub fn describe(cores: &[usize]) -> Platform {
    let (sysfs, proc) = (Sysfs::default(), Path::new("/proc"));
    let cpuinfo = fs::read_to_string(proc.join("cpuinfo")).unwrap_or_default();
    let meminfo = fs::read_to_string(proc.join("meminfo")).unwrap_or_default();
    let kernel = |name: &str| line(&proc.join("sys/kernel").join(name)).unwrap_or_default();
    let number = |key: &str| field(&meminfo, key)?.split_whitespace().next()?.parse::<u64>().ok();
    Platform {
        host: kernel("hostname"),
        kernel: format!("{} {} {}", kernel("ostype"), kernel("osrelease"), kernel("version")),
        cpu_model: field(&cpuinfo, "model name").unwrap_or_default().into(),
        microcode: field(&cpuinfo, "microcode").map(str::to_owned),
        online_cores: cpu::online().map_or(0, |cores| cores.len()),
        turbo: turbo(&sysfs),
        cores: cores.iter().map(|&core| describe_core(&sysfs, core)).collect(),
        mitigations: mitigations(&sysfs),
        clock_source: line(&sysfs.path("devices/system/clocksource/clocksource0/current_clocksource")),
        memory_bytes: number("MemTotal").map(|kilobytes| kilobytes << 10),
        huge_pages: number("HugePages_Total").zip(number("HugePages_Free")),
        ..Platform::default()
    }
}

fn describe_core(sysfs: &Sysfs, core: usize) -> Core {
    let file = |name: &str| line(&sysfs.path(format!("devices/system/cpu/cpu{core}")).join(name));
    Core {
        core,
        node: numa::node_of_core(sysfs, core),
        siblings: file("topology/thread_siblings_list"),
        governor: file("cpufreq/scaling_governor"),
        idle_states: idle_states(sysfs, core),
    }
}

fn idle_states(sysfs: &Sysfs, core: usize) -> Vec<String> {
    let folder = sysfs.path(format!("devices/system/cpu/cpu{core}/cpuidle"));
    let state = |name: String| {
        let file = |file: &str| line(&folder.join(&name).join(file));
        // "0" or nothing where it may be used.
        file("name").filter(|_| file("disable").is_none_or(|disable| disable == "0"))
    };
    names(&folder).into_iter().filter_map(state).collect()
}

/// How the IOMMU translates for a function.
pub fn iommu(sysfs: &Sysfs, function: Address) -> Option<String> {
    line(&sysfs.path(format!("bus/pci/devices/{function}/iommu_group/type")))
}

/// What the link of a function runs at.
pub fn pcie_link(sysfs: &Sysfs, function: Address) -> Option<PcieLink> {
    let file = |name: &str| line(&sysfs.path(format!("bus/pci/devices/{function}")).join(name));
    let lanes = |name: &str| file(name)?.parse().ok();
    Some(PcieLink {
        speed: file("current_link_speed")?,
        lanes: lanes("current_link_width")?,
        most_speed: file("max_link_speed")?,
        most_lanes: lanes("max_link_width")?,
    })
}

fn turbo(sysfs: &Sysfs) -> Option<bool> {
    let says = |file: &str, word: &str| Some(line(&sysfs.path("devices/system/cpu").join(file))? == word);
    says("intel_pstate/no_turbo", "0").or_else(|| says("cpufreq/boost", "1"))
}

fn mitigations(sysfs: &Sysfs) -> BTreeMap<String, String> {
    let folder = sysfs.path("devices/system/cpu/vulnerabilities");
    names(&folder).into_iter().filter_map(|name| Some((name.clone(), line(&folder.join(name))?))).collect()
}

/// What stands behind `key` and a colon in the first line that begins so.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| Some(line.strip_prefix(key)?.trim_start().strip_prefix(':')?.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_described_as_far_as_it_tells() {
        let folder = crate::scratch::Folder::new().unwrap();
        let sysfs = Sysfs::at(folder.path());
        let write = |file: &str, text: &str| {
            let file = sysfs.path("devices/system/cpu").join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        assert_eq!(turbo(&sysfs), None);
        write("cpufreq/boost", "1\n");
        assert_eq!(turbo(&sysfs), Some(true));
        write("intel_pstate/no_turbo", "1\n");
        assert_eq!(turbo(&sysfs), Some(false));
        write("cpu3/topology/thread_siblings_list", "3,7\n");
        write("cpu3/cpufreq/scaling_governor", "powersave\n");
        let core = describe_core(&sysfs, 3);
        assert_eq!((core.siblings.as_deref(), core.governor.as_deref()), (Some("3,7"), Some("powersave")));
        for (state, name, disable) in [(0, "POLL", "0"), (1, "C1", "0"), (2, "C6", "1")] {
            write(&format!("cpu3/cpuidle/state{state}/name"), &format!("{name}\n"));
            write(&format!("cpu3/cpuidle/state{state}/disable"), &format!("{disable}\n"));
        }
        assert_eq!(idle_states(&sysfs, 3), ["POLL", "C1"]);
        let function: Address = "0000:01:00.0".parse().unwrap();
        assert_eq!((iommu(&sysfs, function), pcie_link(&sysfs, function)), (None, None));
        for (file, text) in [
            ("iommu_group/type", "DMA-FQ"),
            ("current_link_speed", "8.0 GT/s PCIe"),
            ("current_link_width", "2"),
            ("max_link_speed", "16.0 GT/s PCIe"),
            ("max_link_width", "4"),
        ] {
            write(&format!("../../../bus/pci/devices/0000:01:00.0/{file}"), &format!("{text}\n"));
        }
        let link =
            PcieLink { speed: "8.0 GT/s PCIe".into(), lanes: 2, most_speed: "16.0 GT/s PCIe".into(), most_lanes: 4 };
        assert_eq!((iommu(&sysfs, function).as_deref(), pcie_link(&sysfs, function)), (Some("DMA-FQ"), Some(link)));
        assert_eq!(describe_core(&sysfs, 4), Core { core: 4, ..Core::default() });
        write("vulnerabilities/meltdown", "Mitigation: PTI\n");
        assert_eq!(mitigations(&sysfs)["meltdown"], "Mitigation: PTI");
        assert_eq!(field("a b\t: c d \nMemTotal:  7 kB\n", "MemTotal"), Some("7 kB"));
        let real = describe(&[0]);
        assert!(real.online_cores > 0 && real.memory_bytes > Some(0) && real.kernel.starts_with("Linux "), "{real:?}");
    }
}
