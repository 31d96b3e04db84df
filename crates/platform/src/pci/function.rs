//! A PCI function: what it is, what drives it, and the block devices that its driver made of it.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use super::Address;
use crate::sysfs::{Sysfs, line, names, parsed, target_name};

/// A base address register: memory or ports of a function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bar {
    /// Where it is on the bus; 0 is nowhere.
    pub start: u64,
    /// Its size in bytes; 0 for one that the function has not.
    pub len: u64,
    /// Whether it is memory, not ports.
    pub memory: bool,
}

/// What the IOMMU can tell apart: the functions of a group are one to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// The number of the group.
    pub number: u32,
    /// Whether there is no IOMMU behind it: VFIO was told to do without.
    pub without_iommu: bool,
}

/// A PCI function as it was when it was read.
#[derive(Clone, Debug)]
pub struct Function {
    /// Where it is.
    pub address: Address,
    /// Its folder in sysfs, for the files that change it (`driver/unbind`, `driver_override`).
    pub folder: PathBuf,
    /// Who made it.
    pub vendor: u16,
    /// What it is, among the vendor's.
    pub device: u16,
    /// Who made the card.
    pub subsystem_vendor: u16,
    /// What the card is, among its vendor's.
    pub subsystem_device: u16,
    /// Class, subclass and programming interface: 24 bits.
    pub class: u32,
    /// The driver that has it.
    pub driver: Option<String>,
    /// The only driver that may have it.
    pub driver_override: Option<String>,
    /// Its IOMMU group; none without an IOMMU, unless VFIO was told to do without.
    pub group: Option<Group>,
    /// The NUMA node it is at; none where the machine does not say.
    pub numa_node: Option<u32>,
    /// Whether a driver has switched it on.
    pub enabled: bool,
    /// The physical function that it is a virtual one of.
    pub physical: Option<Address>,
    /// Its virtual functions.
    pub virtuals: Vec<Address>,
    /// Its base address registers; the second of a 64-bit pair has length 0.
    pub bars: [Bar; 6],
    class_block: PathBuf,
}

/// A controller that the kernel's driver made of a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Controller {
    /// Such as `nvme0`.
    pub name: String,
    /// The serial number, without padding; empty where the driver has not read it.
    pub serial: String,
    /// The model, without padding; empty where the driver has not read it.
    pub model: String,
    /// Its namespaces.
    pub blocks: Vec<Block>,
}

/// A namespace as a block device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Such as `nvme0n1`.
    pub name: String,
    /// Its partitions, such as `nvme0n1p1`.
    pub partitions: Vec<String>,
    /// The block devices built on it or on a partition (device mapper, MD RAID), such as `dm-0`.
    pub holders: Vec<String>,
}

impl Function {
    pub(super) fn read(sysfs: &Sysfs, address: Address) -> Result<Self, String> {
        let folder = sysfs.path("bus/pci/devices").join(address.to_string());
        let number = |name| hexadecimal(&folder.join(name));
        let link = |name: &str| target_name(&folder.join(name));
        let group = link("iommu_group").and_then(|number| number.parse().ok()).map(|number| Group {
            number,
            without_iommu: line(&folder.join("iommu_group/name")).is_some_and(|name| name == "vfio-noiommu"),
        });
        let virtuals = names(&folder).into_iter().filter(|name| name.starts_with("virtfn"));
        Ok(Self {
            address,
            vendor: number("vendor")? as u16,
            device: number("device")? as u16,
            subsystem_vendor: number("subsystem_vendor")? as u16,
            subsystem_device: number("subsystem_device")? as u16,
            class: number("class")?,
            driver: link("driver"),
            driver_override: line(&folder.join("driver_override")).filter(|name| name != "(null)"),
            group,
            // -1 where firmware does not say.
            numa_node: parsed(&folder.join("numa_node")),
            enabled: parsed::<u32>(&folder.join("enable")).is_some_and(|count| count > 0),
            physical: link("physfn").and_then(|name| name.parse().ok()),
            virtuals: virtuals.filter_map(|name| link(&name)?.parse().ok()).collect(),
            bars: bars(&fs::read_to_string(folder.join("resource")).unwrap_or_default()),
            class_block: sysfs.path("class/block"),
            folder,
        })
    }

    /// Reads configuration space from `offset`. Without privilege the kernel shows the first 64 bytes only.
    ///
    /// # Errors
    /// The system's answer; `UnexpectedEof` behind what it shows.
    pub fn config(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        File::open(self.folder.join("config"))?.read_exact_at(bytes, offset)
    }

    /// The controllers that the kernel's NVMe driver made of it: one, or none while another driver has it.
    pub fn controllers(&self) -> Vec<Controller> {
        let folder = self.folder.join("nvme");
        let controller = |name: String| {
            let folder = folder.join(&name);
            let blocks = names(&folder).iter().filter_map(|entry| namespace(&name, entry)).collect::<Vec<_>>();
            let text = |name| line(&folder.join(name)).unwrap_or_default();
            let (serial, model) = (text("serial"), text("model"));
            Controller { name, serial, model, blocks: blocks.into_iter().map(|name| self.block(name)).collect() }
        };
        names(&folder).into_iter().map(controller).collect()
    }

    fn block(&self, name: String) -> Block {
        let folder = self.class_block.join(&name);
        let partition = |entry: &String| entry.strip_prefix(&name).is_some_and(|rest| rest.starts_with('p'));
        let partitions: Vec<String> = names(&folder).into_iter().filter(partition).collect();
        let whole = names(&folder.join("holders"));
        let of_parts = partitions.iter().flat_map(|part| names(&folder.join(part).join("holders")));
        let holders = whole.into_iter().chain(of_parts).collect();
        Block { name, partitions, holders }
    }
}

/// The block device of an entry in a controller's folder. With several paths to a namespace the entry is a path, `nvme0c1n2`
/// (subsystem 0, controller 1, namespace 2), and the block device `nvme0n2`.
fn namespace(controller: &str, entry: &str) -> Option<String> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (head, number) = entry.strip_prefix("nvme")?.split_once('n')?;
    let (instance, path) = head.split_once('c').map_or((head, None), |(instance, path)| (instance, Some(path)));
    let own = path.unwrap_or(instance) == controller.strip_prefix("nvme")?;
    (own && digits(instance) && digits(number)).then(|| format!("nvme{instance}n{number}"))
}

/// The first six lines of `resource`: first address, last address, flags.
fn bars(text: &str) -> [Bar; 6] {
    /// IORESOURCE_MEM of the kernel.
    const MEMORY: u64 = 0x200;
    let mut bars = [Bar::default(); 6];
    for (bar, line) in bars.iter_mut().zip(text.lines()) {
        let fields: Vec<u64> = line.split_whitespace().filter_map(number).collect();
        if let &[start, end, flags] = fields.as_slice()
            && flags != 0
            && end >= start
        {
            *bar = Bar { start, len: (end - start).saturating_add(1), memory: flags & MEMORY != 0 };
        }
    }
    bars
}

/// A hexadecimal number with 0x.
fn number(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

fn hexadecimal(file: &Path) -> Result<u32, String> {
    let text = fs::read_to_string(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    let value = number(text.trim()).and_then(|value| u32::try_from(value).ok());
    value.ok_or_else(|| format!("{} holds {:?}, not a number like 0x8086", file.display(), text.trim()))
}

#[cfg(test)]
mod tests {
    use super::{super::NVME, *};
    use crate::sysfs::tree::Tree;

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    #[test]
    fn nvme_functions_are_found_among_others() {
        let tree = Tree::new();
        tree.function("0000:02:00.0", "0x010802");
        tree.function("0000:00:1f.3", "0x020000");
        tree.function("0000:01:00.0", "0x010802");
        let found = tree.sysfs().functions(NVME).unwrap();
        let found: Vec<String> = found.iter().map(|function| function.address.to_string()).collect();
        assert_eq!(found, ["0000:01:00.0", "0000:02:00.0"]);
        assert!(Tree::new().sysfs().functions(NVME).unwrap().is_empty(), "a machine without PCI");
        let error = tree.sysfs().function(address("0000:03:00.0")).unwrap_err();
        assert!(error.contains("no PCI function 0000:03:00.0") && error.contains("setup status"), "{error}");
    }

    #[test]
    fn a_function_says_what_it_is_and_what_drives_it() {
        let tree = Tree::new();
        let folder = tree.function("0000:01:00.0", "0x010802");
        let bare = tree.sysfs().function(address("0000:01:00.0")).unwrap();
        assert_eq!((bare.driver, bare.driver_override, bare.group, bare.numa_node), (None, None, None, None));
        assert_eq!((bare.physical, bare.virtuals.len(), bare.enabled), (None, 0, false));

        tree.link(&folder.join("driver"), "bus/pci/drivers/vfio-pci");
        tree.write(&folder.join("driver_override"), "vfio-pci\n");
        tree.write(&folder.join("numa_node"), "1\n");
        tree.write(&folder.join("enable"), "1\n");
        tree.group("0000:01:00.0", 12);
        tree.function("0000:01:00.4", "0x010802");
        tree.link(&folder.join("virtfn0"), "bus/pci/devices/0000:01:00.4");
        tree.link(&tree.sysfs().path("bus/pci/devices/0000:01:00.4/physfn"), "bus/pci/devices/0000:01:00.0");
        let function = tree.sysfs().function(address("0000:01:00.0")).unwrap();
        assert_eq!((function.vendor, function.device, function.class), (0x1b36, 0x10, NVME));
        assert_eq!((function.subsystem_vendor, function.subsystem_device), (0x1af4, 0x1100));
        assert_eq!(function.driver.as_deref(), Some("vfio-pci"));
        assert_eq!(function.driver_override.as_deref(), Some("vfio-pci"));
        assert_eq!(function.group, Some(Group { number: 12, without_iommu: false }));
        assert_eq!((function.numa_node, function.enabled), (Some(1), true));
        assert_eq!(function.virtuals, [address("0000:01:00.4")]);
        let vf = tree.sysfs().function(address("0000:01:00.4")).unwrap();
        assert_eq!(vf.physical, Some(function.address));
        assert_eq!(function.bars[0], Bar { start: 0xfebd_0000, len: 0x4000, memory: true });
        assert!(function.bars[1..].iter().all(|bar| bar.len == 0));
        let members = tree.sysfs().group(12).unwrap();
        assert_eq!(members.len(), 1);
        tree.write(&tree.sysfs().path("kernel/iommu_groups/12/name"), "vfio-noiommu\n");
        let function = tree.sysfs().function(address("0000:01:00.0")).unwrap();
        assert!(function.group.unwrap().without_iommu);
    }

    #[test]
    fn configuration_space_is_read_as_far_as_it_is_shown() {
        let tree = Tree::new();
        let folder = tree.function("0000:01:00.0", "0x010802");
        fs::write(folder.join("config"), (0..64).collect::<Vec<u8>>()).unwrap();
        let function = tree.sysfs().function(address("0000:01:00.0")).unwrap();
        let mut bytes = [0; 2];
        function.config(4, &mut bytes).unwrap();
        assert_eq!(bytes, [4, 5]);
        assert_eq!(function.config(63, &mut bytes).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn block_devices_are_found_with_partitions_and_what_is_built_on_them() {
        let tree = Tree::new();
        let folder = tree.function("0000:01:00.0", "0x010802");
        tree.write(&folder.join("nvme/nvme1/serial"), "S1234              \n");
        tree.write(&folder.join("nvme/nvme1/model"), "A Drive            \n");
        for entry in ["nvme1n1", "nvme0c1n2", "nvme0c2n3", "ng1n1", "hwmon4", "power"] {
            fs::create_dir_all(folder.join("nvme/nvme1").join(entry)).unwrap();
        }
        for path in ["nvme1n1/nvme1n1p1/holders/dm-0", "nvme1n1/holders/md0", "nvme1n1/queue", "nvme0n2"] {
            fs::create_dir_all(tree.sysfs().path("class/block").join(path)).unwrap();
        }
        let controllers = tree.sysfs().function(address("0000:01:00.0")).unwrap().controllers();
        let block = |name: &str, partitions: &[&str], holders: &[&str]| Block {
            name: name.to_owned(),
            partitions: partitions.iter().map(|&name| name.to_owned()).collect(),
            holders: holders.iter().map(|&name| name.to_owned()).collect(),
        };
        let blocks = vec![block("nvme0n2", &[], &[]), block("nvme1n1", &["nvme1n1p1"], &["md0", "dm-0"])];
        let (serial, model) = ("S1234".to_owned(), "A Drive".to_owned());
        assert_eq!(controllers, [Controller { name: "nvme1".to_owned(), serial, model, blocks }]);
    }

    #[test]
    fn the_functions_of_this_machine_can_be_read() {
        let sysfs = Sysfs::default();
        for entry in names(&sysfs.path("bus/pci/devices")) {
            let function = sysfs.function(entry.parse().unwrap()).unwrap();
            assert_eq!(function.address.to_string(), entry);
            assert_ne!(function.vendor, 0xffff, "what no device answers");
        }
    }
}
