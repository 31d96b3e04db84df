//! A machine for tests: folders like /sys, /proc and /dev, and a thread that does to them what the kernel would.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use doorbell_platform::{Sysfs, pci::Function};

use super::System;

/// The machine; gone when it is dropped.
pub struct Tree {
    root: PathBuf,
    over: Arc<AtomicBool>,
    kernel: Option<thread::JoinHandle<()>>,
}

impl Tree {
    /// A machine with an IOMMU, the modules and no devices.
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("doorbell-setup-{}-{number}", std::process::id()));
        let tree = Self { root, over: Arc::default(), kernel: None };
        for folder in
            ["sys/class/iommu/dmar0", "sys/module/vfio_pci", "sys/module/vfio_iommu_type1", "sys/bus/pci/drivers"]
        {
            fs::create_dir_all(tree.path(folder)).unwrap();
        }
        for driver in ["nvme", "vfio-pci", "ahci"] {
            tree.write(&format!("sys/bus/pci/drivers/{driver}/unbind"), "");
        }
        for (file, text) in
            [("sys/bus/pci/drivers_probe", ""), ("proc/self/mountinfo", ""), ("proc/swaps", ""), ("dev/vfio/vfio", "")]
        {
            tree.write(file, text);
        }
        tree
    }

    /// The same with one drive that the kernel's driver has, alone in IOMMU group 7, with one namespace.
    pub fn with_drive(address: &str, controller: &str, serial: &str) -> Self {
        let tree = Self::new();
        tree.add_drive(address, controller, serial, 7);
        tree
    }

    /// Adds such a drive.
    pub fn add_drive(&self, address: &str, controller: &str, serial: &str, group: u32) {
        self.add_function(address, "0x010802", "nvme", group);
        let folder = format!("sys/bus/pci/devices/{address}/nvme/{controller}");
        self.write(&format!("{folder}/serial"), &format!("{serial}\n"));
        self.write(&format!("{folder}/model"), "A Drive\n");
        self.write(&format!("{folder}/{controller}n1/nsid"), "1\n");
        self.write(&format!("sys/class/block/{controller}n1/dev"), "259:0\n");
        self.write(&format!("dev/{controller}n1"), "");
    }

    /// Adds a function that a driver has.
    pub fn add_function(&self, address: &str, class: &str, driver: &str, group: u32) {
        let folder = format!("sys/bus/pci/devices/{address}");
        for (file, text) in [
            ("vendor", "0x1b36"),
            ("device", "0x0010"),
            ("subsystem_vendor", "0x1af4"),
            ("subsystem_device", "0x1100"),
            ("class", class),
            ("driver_override", "(null)"),
            ("numa_node", "-1"),
        ] {
            self.write(&format!("{folder}/{file}"), &format!("{text}\n"));
        }
        let groups = format!("sys/kernel/iommu_groups/{group}");
        self.write(&format!("{groups}/type"), "DMA\n");
        self.write(&format!("dev/vfio/{group}"), "");
        fs::create_dir_all(self.path(format!("{groups}/devices"))).unwrap();
        symlink(self.path(&folder), self.path(format!("{groups}/devices/{address}"))).unwrap();
        symlink(self.path(&groups), self.path(format!("{folder}/iommu_group"))).unwrap();
        symlink(self.path(format!("sys/bus/pci/drivers/{driver}")), self.path(format!("{folder}/driver"))).unwrap();
    }

    /// Starts to obey what is written to the files of drivers.
    pub fn with_kernel(mut self) -> Self {
        let (sys, over) = (self.path("sys"), Arc::clone(&self.over));
        self.kernel = Some(thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                kernel(&sys);
                thread::sleep(Duration::from_millis(1));
            }
        }));
        self
    }

    pub fn system(&self) -> System {
        System {
            sysfs: Sysfs::at(self.path("sys")),
            proc: self.path("proc"),
            dev: self.path("dev"),
            modprobe: |_, module| Err(format!("modprobe {module}: not in a test")),
        }
    }

    pub fn function_at(&self, address: &str) -> Function {
        self.system().sysfs.function(address.parse().unwrap()).unwrap()
    }

    pub fn path(&self, below: impl AsRef<Path>) -> PathBuf {
        self.root.join(below)
    }

    pub fn write(&self, file: &str, text: &str) {
        let path = self.path(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn read(&self, file: &str) -> String {
        fs::read_to_string(self.path(file)).unwrap()
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(kernel) = self.kernel.take() {
            let _ = kernel.join();
        }
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// One look at what was asked of the kernel. A function leaves the driver to whose `unbind` it was written, and what was written to
/// `drivers_probe` goes to the driver that its override names, else to nvme.
fn kernel(sys: &Path) {
    // A line is whole once it ends.
    let asked = |file: &Path| fs::read_to_string(file).ok().filter(|text| text.ends_with('\n'));
    for driver in ["nvme", "vfio-pci"] {
        let file = sys.join("bus/pci/drivers").join(driver).join("unbind");
        if let Some(address) = asked(&file) {
            fs::remove_file(sys.join("bus/pci/devices").join(address.trim()).join("driver")).unwrap();
            fs::write(file, "").unwrap();
        }
    }
    let file = sys.join("bus/pci/drivers_probe");
    let Some(address) = asked(&file) else { return };
    let folder = sys.join("bus/pci/devices").join(address.trim());
    let wanted = fs::read_to_string(folder.join("driver_override")).unwrap();
    let driver = if wanted.trim().is_empty() { "nvme" } else { wanted.trim() };
    // Not yet: what was unbound a moment ago may still wait for it.
    if symlink(sys.join("bus/pci/drivers").join(driver), folder.join("driver")).is_ok() {
        fs::write(file, "").unwrap();
    }
}
