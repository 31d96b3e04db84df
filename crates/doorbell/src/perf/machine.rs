//! What a result says of the machine, as the kernel tells it.

use std::{collections::BTreeMap, fs, path::Path};

use doorbell_platform::{
    Sysfs, cpu, numa,
    sysfs::{line, names},
};
use doorbell_result::document::{Core, Platform};

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
    }
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
        assert_eq!(describe_core(&sysfs, 4), Core { core: 4, ..Core::default() });
        write("vulnerabilities/meltdown", "Mitigation: PTI\n");
        assert_eq!(mitigations(&sysfs)["meltdown"], "Mitigation: PTI");
        assert_eq!(field("a b\t: c d \nMemTotal:  7 kB\n", "MemTotal"), Some("7 kB"));
        let real = describe(&[0]);
        assert!(real.online_cores > 0 && real.memory_bytes > Some(0) && real.kernel.starts_with("Linux "), "{real:?}");
    }
}
