//! PCI functions as the kernel shows them in sysfs: which there are, what drives them, what hangs on them.
//!
//! Everything here is reading; what may be done with a function is [`crate::vfio`]'s.

mod address;
mod function;

use std::{fs, io, path::Path};

pub use address::Address;
pub use function::{Bar, Block, Controller, Function, Group};

use crate::sysfs::{Sysfs, names};

/// The class code of NVMe I/O controllers: mass storage, non-volatile memory, NVM Express.
pub const NVME: u32 = 0x01_08_02;

impl Sysfs {
    /// All functions of a class (24 bits, such as [`NVME`]), by address. None where the machine has no PCI bus.
    ///
    /// # Errors
    /// What could not be read and why. A function that goes while it is read is left out.
    pub fn functions(&self, class: u32) -> Result<Vec<Function>, String> {
        let folder = self.path("bus/pci/devices");
        let mut functions = Vec::new();
        for address in addresses(&folder)? {
            match Function::read(self, address) {
                Ok(function) if function.class == class => functions.push(function),
                Ok(_) => {}
                // Gone since the folder was listed.
                Err(_) if !folder.join(address.to_string()).exists() => {}
                Err(reason) => return Err(reason),
            }
        }
        Ok(functions)
    }

    /// The function at an address.
    ///
    /// # Errors
    /// A sentence: there is none, or what of it could not be read.
    pub fn function(&self, address: Address) -> Result<Function, String> {
        let folder = self.path("bus/pci/devices").join(address.to_string());
        if !folder.exists() {
            return Err(format!(
                "there is no PCI function {address} ({} does not exist); `doorbell setup status` lists the NVMe devices",
                folder.display()
            ));
        }
        Function::read(self, address)
    }

    /// The functions of an IOMMU group, by address.
    ///
    /// # Errors
    /// As [`Sysfs::functions`].
    pub fn group(&self, number: u32) -> Result<Vec<Function>, String> {
        let folder = self.path(format!("kernel/iommu_groups/{number}/devices"));
        addresses(&folder)?.into_iter().map(|address| Function::read(self, address)).collect()
    }

    /// The IOMMUs in use, such as `dmar0`; none when it is off or there is none.
    pub fn iommus(&self) -> Vec<String> {
        names(&self.path("class/iommu"))
    }
}

/// The PCI addresses among the names in a folder, ascending; none without the folder.
fn addresses(folder: &Path) -> Result<Vec<Address>, String> {
    match fs::read_dir(folder) {
        Ok(_) => Ok(names(folder).iter().filter_map(|name| name.parse().ok()).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(format!("cannot list {}: {error}", folder.display())),
    }
}
