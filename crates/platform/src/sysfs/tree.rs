//! A small sysfs in a temporary folder, for tests.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use super::Sysfs;

/// The tree; gone when it is dropped.
pub(crate) struct Tree(PathBuf);

impl Tree {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("doorbell-sysfs-{}-{number}", std::process::id()));
        // Of a process long gone that had our number.
        let _ = fs::remove_dir_all(&root);
        fs::create_dir(&root).unwrap();
        Self(root)
    }

    pub fn sysfs(&self) -> Sysfs {
        Sysfs::at(&self.0)
    }

    /// Adds a function without driver or group, as QEMU's NVMe drive shows itself; returns its folder.
    pub fn function(&self, address: &str, class: &str) -> PathBuf {
        let folder = self.sysfs().path("bus/pci/devices").join(address);
        for (file, text) in [
            ("vendor", "0x1b36"),
            ("device", "0x0010"),
            ("subsystem_vendor", "0x1af4"),
            ("subsystem_device", "0x1100"),
            ("class", class),
            ("driver_override", "(null)"),
            ("numa_node", "-1"),
            ("enable", "0"),
            ("resource", "0x00000000febd0000 0x00000000febd3fff 0x0000000000140204\n0x0 0x0 0x0"),
        ] {
            self.write(&folder.join(file), &format!("{text}\n"));
        }
        folder
    }

    /// Puts a function into an IOMMU group.
    pub fn group(&self, address: &str, number: u32) {
        let group = format!("kernel/iommu_groups/{number}");
        let device = format!("bus/pci/devices/{address}");
        fs::create_dir_all(self.sysfs().path(&group).join("devices")).unwrap();
        self.link(&self.sysfs().path(&device).join("iommu_group"), &group);
        self.link(&self.sysfs().path(&group).join("devices").join(address), &device);
    }

    pub fn write(&self, file: &Path, text: &str) {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }

    /// Makes a link to a place in the tree.
    pub fn link(&self, link: &Path, to: &str) {
        symlink(self.sysfs().path(to), link).unwrap();
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
