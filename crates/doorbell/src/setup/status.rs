//! What there is and what is in the way: the machine's part, then each device's.

use std::path::{Path, PathBuf};

use doorbell_platform::{
    holder::Holder,
    huge_pages::Pool,
    memlock,
    pci::{Controller, Function, NVME},
    sysfs::line,
};
use rustix::{
    fs::{Access, access},
    process::getuid,
};

use super::{KERNEL, System, VFIO, usage::uses};

/// The modules that VFIO consists of here: its driver of PCI devices and its way to the IOMMU.
pub const MODULES: [&str; 2] = [VFIO, "vfio_iommu_type1"];
/// What may be pinned without a word: enough for a common load, `-q 128 -o 128K` twice.
const PINNED: u64 = 64 << 20;

/// Something that stands in the way, and the command that removes it.
#[derive(Debug, PartialEq, Eq)]
pub struct Blocker {
    /// What it is.
    pub why: String,
    /// What to type, or to do where no command does it.
    pub remedy: String,
}

impl Blocker {
    /// Both as given.
    pub fn new(why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { why: why.into(), remedy: remedy.into() }
    }
}

/// This machine and its NVMe devices.
pub struct Machine {
    /// The IOMMUs at work.
    pub iommus: Vec<String>,
    /// The modules of VFIO, and whether each is loaded.
    pub modules: Vec<(&'static str, bool)>,
    /// Huge pages, by size and node.
    pub pools: Vec<Pool>,
    /// Bytes this process may pin; none without a limit.
    pub pinned: Option<u64>,
    /// What is in the way of every device.
    pub blockers: Vec<Blocker>,
    /// What is in nobody's way, and would help.
    pub advice: Vec<Blocker>,
    /// Every NVMe device, by address.
    pub devices: Vec<Device>,
}

/// An NVMe device.
pub struct Device {
    /// The PCI function.
    pub function: Function,
    /// What the kernel's driver made of it.
    pub controllers: Vec<Controller>,
    /// The other functions of its IOMMU group.
    pub companions: Vec<Function>,
    /// What uses it through the kernel.
    pub uses: Vec<Blocker>,
    /// What else is in the way.
    pub blockers: Vec<Blocker>,
}

impl Machine {
    /// Looks at everything.
    ///
    /// # Errors
    /// What could not be read.
    pub fn look(system: &System) -> Result<Self, String> {
        let pools = Pool::all(&system.sysfs);
        let pinned = memlock::limit();
        let functions = system.sysfs.functions(NVME)?;
        let devices = functions.into_iter().map(|function| Device::look(system, function)).collect::<Result<_, _>>()?;
        Ok(Self {
            iommus: system.sysfs.iommus(),
            modules: MODULES.map(|module| (module, loaded(system, module))).into(),
            blockers: iommu(system).into_iter().chain(modules(system)).collect(),
            advice: huge_pages(&pools).into_iter().chain(pinning(pinned)).collect(),
            pools,
            pinned,
            devices,
        })
    }
}

impl Device {
    /// Looks at one.
    ///
    /// # Errors
    /// What could not be read.
    pub fn look(system: &System, function: Function) -> Result<Self, String> {
        let controllers = function.controllers();
        let address = function.address;
        let group = function.group.map(|group| system.sysfs.group(group.number)).transpose()?;
        let companions: Vec<_> = group.into_iter().flatten().filter(|one| one.address != address).collect();
        let mut blockers = Vec::new();
        let bind = format!("doorbell setup bind {address}");
        match function.driver.as_deref() {
            Some(VFIO) => {}
            Some(driver) => blockers.push(Blocker::new(format!("the driver {driver} has it"), bind)),
            None => blockers.push(Blocker::new("no driver has it", bind)),
        }
        if function.group.is_none() && !system.sysfs.iommus().is_empty() {
            let remedy = format!("none but to move it to a slot that the IOMMU sees ({})", function.folder.display());
            blockers.push(Blocker::new("it is in no IOMMU group", remedy));
        }
        blockers.extend(companions.iter().filter_map(|one| in_group(&function, one)));
        if function.driver.as_deref() == Some(VFIO) {
            blockers.extend(group_file(system, &function).and_then(|file| unusable(system, &file)));
        }
        Ok(Self { uses: uses(system, &controllers), function, controllers, companions, blockers })
    }

    /// Whether a driver in user space can have it as it is, given a machine that lets it.
    pub fn ready(&self) -> bool {
        self.uses.is_empty() && self.blockers.is_empty()
    }
}

/// The file through which a group is driven.
pub fn group_file(system: &System, function: &Function) -> Option<PathBuf> {
    let group = function.group?;
    let prefix = if group.without_iommu { "noiommu-" } else { "" };
    Some(system.dev.join(format!("vfio/{prefix}{}", group.number)))
}

fn loaded(system: &System, module: &str) -> bool {
    system.sysfs.path("module").join(module.replace('-', "_")).exists()
}

/// The modules that are not loaded.
pub fn missing(system: &System) -> impl Iterator<Item = &'static str> {
    MODULES.into_iter().filter(|module| !loaded(system, module))
}

fn modules(system: &System) -> impl Iterator<Item = Blocker> {
    missing(system)
        .map(|module| Blocker::new(format!("the module {module} is not loaded"), format!("modprobe {module}")))
}

/// Why no device can be given away on this machine, if so. Firmware describes Intel's IOMMU in the ACPI table DMAR and AMD's in IVRS.
pub fn iommu(system: &System) -> Option<Blocker> {
    let unsafe_mode = system.sysfs.path("module/vfio/parameters/enable_unsafe_noiommu_mode");
    if !system.sysfs.iommus().is_empty() || line(&unsafe_mode).is_some_and(|mode| mode == "Y") {
        return None;
    }
    let table = |name: &str| system.sysfs.path("firmware/acpi/tables").join(name).exists();
    let (why, mut remedy) = if table("DMAR") {
        let edit = "sed -i 's/^GRUB_CMDLINE_LINUX=\"/&intel_iommu=on /' /etc/default/grub && update-grub && reboot";
        ("the kernel leaves this machine's IOMMU (Intel VT-d) off", edit.to_owned())
    } else if table("IVRS") {
        let edit = "sed -i 's/\\(amd_\\)\\?iommu=off//g' /etc/default/grub && update-grub && reboot";
        ("the kernel leaves this machine's IOMMU (AMD-Vi) off", edit.to_owned())
    } else {
        let advice =
            "switch it on in the firmware's setup (VT-d, AMD-Vi or SMMU); a virtual machine is given one by its host";
        ("this machine shows no IOMMU", advice.to_owned())
    };
    if unsafe_mode.exists() {
        remedy += &format!("\nor, with nothing between a device and all memory: echo Y >{}", unsafe_mode.display());
    }
    Some(Blocker::new(why, remedy))
}

/// What a function's companion does to it: VFIO gives a group away whole.
fn in_group(function: &Function, companion: &Function) -> Option<Blocker> {
    /// PCI bridges, which only pass on.
    const BRIDGE: u32 = 0x06_04;
    let driver = companion.driver.as_deref().filter(|driver| !driver.starts_with("vfio") && *driver != "pci-stub")?;
    if companion.class >> 8 == BRIDGE {
        return None;
    }
    let why = format!(
        "its IOMMU group {} holds {} too, which the driver {driver} has",
        function.group.map_or(0, |group| group.number),
        companion.address
    );
    let remedy = match driver {
        KERNEL => format!("doorbell setup bind {}", companion.address),
        _ => format!("echo {} >{}", companion.address, companion.folder.join("driver/unbind").display()),
    };
    Some(Blocker::new(why, remedy))
}

/// Why this process cannot drive what is bound to VFIO, if so.
fn unusable(system: &System, group: &Path) -> Option<Blocker> {
    let container = system.dev.join("vfio/vfio");
    let of_files = [container.as_path(), group].into_iter().find_map(|file| {
        if !file.exists() {
            let remedy = format!("udevadm trigger; a container is given it by --device {}", file.display());
            return Some(Blocker::new(format!("{} is missing", file.display()), remedy));
        }
        let refused = access(file, Access::READ_OK | Access::WRITE_OK).err()?;
        let remedy = format!("chown {} {}   # as root", getuid().as_raw(), file.display());
        Some(Blocker::new(format!("{}: {refused}", file.display()), remedy))
    });
    let held = || Holder::all(&[group.to_owned()]).into_iter().next();
    of_files.or_else(|| {
        held().map(|holder| {
            Blocker::new(format!("{holder} drives it"), format!("kill {}   # or wait for it", holder.process))
        })
    })
}

fn huge_pages(pools: &[Pool]) -> Option<Blocker> {
    let free = pools.iter().any(|pool| pool.free > 0);
    let why = "no huge pages are free: ordinary ones are taken, which the IOMMU maps one by one";
    (!free).then(|| Blocker::new(why, "doorbell setup bind --hugepages 256"))
}

fn pinning(limit: Option<u64>) -> Option<Blocker> {
    let limit = limit.filter(|&limit| limit < PINNED)?;
    let why = format!(
        "this user may pin {} MiB (RLIMIT_MEMLOCK), and the memory of a load is pinned; a run that needs more is refused",
        limit >> 20
    );
    Some(Blocker::new(why, "prlimit --memlock=unlimited --pid $$   # as root, for the shell $$"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{super::tree::Tree, *};

    const ONE: &str = "0000:01:00.0";

    fn device(tree: &Tree, address: &str) -> Device {
        let machine = Machine::look(&tree.system()).unwrap();
        machine.devices.into_iter().find(|device| device.function.address.to_string() == address).unwrap()
    }

    fn give_to(tree: &Tree, address: &str, driver: &str) {
        let link = tree.path(format!("sys/bus/pci/devices/{address}/driver"));
        fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(tree.path("sys/bus/pci/drivers").join(driver), link).unwrap();
    }

    /// The first thing in the way of a device, and its remedy.
    fn first(device: &Device) -> (&str, &str) {
        device.blockers.first().map_or(("", ""), |one| (&one.why, &one.remedy))
    }

    #[test]
    fn a_device_of_the_kernel_is_to_be_bound() {
        let tree = Tree::with_drive(ONE, "nvme0", "S1");
        let kernels = device(&tree, ONE);
        assert_eq!(first(&kernels), ("the driver nvme has it", "doorbell setup bind 0000:01:00.0"));
        assert!(kernels.uses.is_empty() && !kernels.ready());
        give_to(&tree, ONE, "vfio-pci");
        assert!(device(&tree, ONE).ready());
        fs::remove_file(tree.path(format!("sys/bus/pci/devices/{ONE}/driver"))).unwrap();
        assert_eq!(first(&device(&tree, ONE)), ("no driver has it", "doorbell setup bind 0000:01:00.0"));
    }

    #[test]
    fn a_group_is_free_when_all_of_it_is() {
        let tree = Tree::with_drive(ONE, "nvme0", "S1");
        give_to(&tree, ONE, "vfio-pci");
        tree.add_function("0000:00:1c.0", "0x060400", "pcieport", 7);
        assert!(device(&tree, ONE).ready(), "a bridge only passes on");
        tree.add_drive("0000:01:00.1", "nvme1", "S2", 7);
        tree.add_function("0000:01:00.2", "0x010601", "ahci", 7);
        let shared = device(&tree, ONE);
        assert_eq!(shared.companions.len(), 3);
        assert!(
            first(&shared).0.contains("group 7 holds 0000:01:00.1 too, which the driver nvme has"),
            "{shared:?}",
            shared = shared.blockers
        );
        assert_eq!(first(&shared).1, "doorbell setup bind 0000:01:00.1");
        let of_ahci = &shared.blockers[1].remedy;
        assert!(of_ahci.starts_with("echo 0000:01:00.2 >") && of_ahci.ends_with("driver/unbind"), "{of_ahci}");
        give_to(&tree, "0000:01:00.1", "vfio-pci");
        give_to(&tree, "0000:01:00.2", "pci-stub");
        assert!(device(&tree, ONE).ready());
    }

    #[test]
    fn the_file_of_the_group_must_be_there_and_free() {
        let tree = Tree::with_drive(ONE, "nvme0", "S1");
        give_to(&tree, ONE, "vfio-pci");
        let open = fs::File::open(tree.path("dev/vfio/7")).unwrap();
        let held = device(&tree, ONE);
        let own = std::process::id();
        assert!(first(&held).0.starts_with(&format!("process {own} (")), "{:?}", first(&held));
        assert!(first(&held).1.starts_with(&format!("kill {own}")));
        drop(open);
        for file in ["dev/vfio/7", "dev/vfio/vfio"] {
            fs::remove_file(tree.path(file)).unwrap();
            let missing = device(&tree, ONE);
            assert!(
                first(&missing).0.ends_with(" is missing") && first(&missing).0.contains(file),
                "{:?}",
                first(&missing)
            );
        }
    }

    #[test]
    fn an_iommu_that_is_off_is_switched_on_where_it_is_off() {
        let tree = Tree::with_drive(ONE, "nvme0", "S1");
        assert_eq!(iommu(&tree.system()), None);
        fs::remove_dir_all(tree.path("sys/class/iommu")).unwrap();
        let remedy = || iommu(&tree.system()).unwrap().remedy;
        assert!(remedy().contains("firmware's setup"), "{}", remedy());
        tree.write("sys/firmware/acpi/tables/IVRS", "");
        assert!(remedy().contains("update-grub") && remedy().contains("iommu=off"), "{}", remedy());
        tree.write("sys/firmware/acpi/tables/DMAR", "");
        assert!(remedy().contains("intel_iommu=on") && !remedy().contains("echo Y"), "{}", remedy());
        tree.write("sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "N\n");
        assert!(remedy().contains("echo Y >") && remedy().ends_with("enable_unsafe_noiommu_mode"), "{}", remedy());
        tree.write("sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "Y\n");
        assert_eq!(iommu(&tree.system()), None);
    }

    #[test]
    fn a_device_outside_every_group_cannot_be_given_away() {
        let tree = Tree::with_drive(ONE, "nvme0", "S1");
        fs::remove_file(tree.path(format!("sys/bus/pci/devices/{ONE}/iommu_group"))).unwrap();
        assert!(device(&tree, ONE).blockers.iter().any(|one| one.why == "it is in no IOMMU group"));
    }

    #[test]
    fn modules_and_limits_are_told() {
        let tree = Tree::with_drive(ONE, "nvme0", "S1");
        let remedies = |tree: &Tree| -> Vec<String> {
            Machine::look(&tree.system()).unwrap().blockers.into_iter().map(|one| one.remedy).collect()
        };
        assert!(remedies(&tree).is_empty());
        for module in ["vfio_pci", "vfio_iommu_type1"] {
            fs::remove_dir(tree.path("sys/module").join(module)).unwrap();
        }
        assert_eq!(remedies(&tree), ["modprobe vfio-pci", "modprobe vfio_iommu_type1"]);
        assert_eq!((pinning(None), pinning(Some(PINNED))), (None, None));
        let low = pinning(Some(8 << 20)).unwrap();
        assert!(low.why.contains("may pin 8 MiB") && low.remedy.contains("prlimit --memlock"), "{low:?}");
        assert!(huge_pages(&[]).is_some_and(|advice| advice.remedy.contains("--hugepages")));
    }
}
