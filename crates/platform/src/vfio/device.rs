//! An open PCI function.

use std::{
    collections::HashMap,
    fs::File,
    io,
    ops::Range,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::FileExt,
    },
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::event::{EventfdFlags, eventfd};

use super::{
    Addresses,
    abi::{self, Argument, DeviceInfo, IrqInfo, RegionInfo},
    group::{self, Membership},
    physical,
};
use crate::{Region, Sysfs, holder::DeviceLock, pci::Address};

/// The command register of configuration space and its bits (PCI Local Bus 3.0, 6.2.2).
const COMMAND: u16 = 4;
const MEMORY_SPACE: u16 = 1 << 1;
const BUS_MASTER: u16 = 1 << 2;

/// A PCI function that belongs to this process until it is dropped. From then on it reaches no memory.
#[derive(Debug)]
pub struct Device {
    address: Address,
    file: File,
    resettable: bool,
    config: RegionInfo,
    vectors: Mutex<Vectors>,
    removal: Option<Notice>,
    fault: Option<Notice>,
    mapped: Mutex<HashMap<u64, Vec<Arc<Region>>>>,
    // Given back behind the file.
    membership: Membership,
    _lock: DeviceLock,
}

/// The interrupts that are signalled by message.
#[derive(Debug)]
struct Vectors {
    /// MSI-X or, where it has none, MSI.
    index: u32,
    /// How many there are.
    most: u32,
    /// Those that are on, with the descriptors of those that were asked for.
    events: Vec<Option<Arc<OwnedFd>>>,
}

/// An interrupt that the system raises itself.
#[derive(Debug)]
struct Notice {
    event: OwnedFd,
    came: AtomicBool,
}

impl Notice {
    fn came(&self) -> bool {
        if rustix::io::read(&self.event, &mut [0; 8]).is_ok() {
            self.came.store(true, Ordering::Relaxed);
        }
        self.came.load(Ordering::Relaxed)
    }
}

/// A base address register as memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BarInfo {
    /// Its length in bytes; 0 for one that the function has not.
    pub len: u64,
    /// The parts that can be mapped: all of it, or what the kernel leaves beside the table of interrupts.
    pub mappable: Vec<Range<u64>>,
    /// Where it is in the device's file.
    offset: u64,
}

impl Device {
    /// Takes a function that vfio-pci has. `token` is the UUID that virtual functions and their physical one share where VFIO has both;
    /// a function that takes none is opened without it.
    ///
    /// # Errors
    /// A sentence: who has it, or what is in the way and what to do about it.
    pub fn open(sysfs: &Sysfs, address: Address, token: Option<&str>) -> Result<Self, String> {
        let function = sysfs.function(address)?;
        let group = group::usable(&function)?;
        let lock = DeviceLock::take(address)?;
        let (membership, file) = Membership::open(&function, group, sysfs, token)?;
        let failed = |what: &str, error: io::Error| format!("{address} does not say what it has ({what}): {error}");
        let mut info = DeviceInfo::default();
        info.call(file.as_fd()).map_err(|error| failed("VFIO_DEVICE_GET_INFO", error))?;
        if info.flags & abi::VFIO_DEVICE_FLAGS_PCI == 0 {
            return Err(format!("{address} is no PCI device to VFIO (flags {:#x})", info.flags));
        }
        let mut config = RegionInfo { index: abi::VFIO_PCI_CONFIG_REGION_INDEX, ..RegionInfo::default() };
        config.call(file.as_fd()).map_err(|error| failed("VFIO_DEVICE_GET_REGION_INFO", error))?;
        let vectors = Vectors::of(file.as_fd(), info.num_irqs);
        let notice = |index| notice(file.as_fd(), info.num_irqs, index);
        Ok(Self {
            address,
            resettable: info.flags & abi::VFIO_DEVICE_FLAGS_RESET != 0,
            config,
            vectors: Mutex::new(vectors),
            removal: notice(abi::VFIO_PCI_REQ_IRQ_INDEX),
            fault: notice(abi::VFIO_PCI_ERR_IRQ_INDEX),
            mapped: Mutex::default(),
            file: file.into(),
            membership,
            _lock: lock,
        })
    }

    /// Where the function is.
    pub fn address(&self) -> Address {
        self.address
    }

    /// What whoever uses this device must be told, if anything: that no IOMMU stands between it and memory.
    pub fn warning(&self) -> Option<&'static str> {
        self.membership.container().without_iommu().then_some(physical::WARNING)
    }

    /// Lets the function answer at its BARs and reach memory.
    ///
    /// # Errors
    /// A sentence.
    pub fn enable(&self) -> Result<(), String> {
        self.command(|command| command | MEMORY_SPACE | BUS_MASTER)
    }

    /// Ends its reach to memory: from here on it transfers nothing, whatever it was told, until [`Device::enable`].
    ///
    /// # Errors
    /// A sentence.
    pub fn disable(&self) -> Result<(), String> {
        self.command(|command| command & !BUS_MASTER)
    }

    fn command(&self, change: impl FnOnce(u16) -> u16) -> Result<(), String> {
        let mut command = [0; 2];
        self.read_config(COMMAND, &mut command)?;
        self.write_config(COMMAND, &change(u16::from_le_bytes(command)).to_le_bytes())
    }

    /// Reads configuration space.
    ///
    /// # Errors
    /// A sentence; also behind its end.
    pub fn read_config(&self, offset: u16, bytes: &mut [u8]) -> Result<(), String> {
        let at = self.config_place(offset, bytes.len())?;
        self.file
            .read_exact_at(bytes, at)
            .map_err(|error| format!("{}: reading configuration space at {offset:#x}: {error}", self.address))
    }

    /// Writes configuration space; the kernel decides which bits of it change.
    ///
    /// # Errors
    /// A sentence; also behind its end.
    pub fn write_config(&self, offset: u16, bytes: &[u8]) -> Result<(), String> {
        let at = self.config_place(offset, bytes.len())?;
        self.file
            .write_all_at(bytes, at)
            .map_err(|error| format!("{}: writing configuration space at {offset:#x}: {error}", self.address))
    }

    fn config_place(&self, offset: u16, len: usize) -> Result<u64, String> {
        // Behind it in the file lies what is none of configuration space.
        let fits = u64::from(offset) + len as u64 <= self.config.size;
        fits.then(|| self.config.offset + u64::from(offset)).ok_or_else(|| {
            format!(
                "{}: {len} bytes at {offset:#x} leave configuration space ({} bytes)",
                self.address, self.config.size
            )
        })
    }

    /// What BAR `number` (0 to 5) is.
    ///
    /// # Errors
    /// A sentence.
    pub fn bar(&self, number: u8) -> Result<BarInfo, String> {
        let failed = |error: io::Error| format!("{} does not say what its BAR {number} is: {error}", self.address);
        let index = abi::VFIO_PCI_BAR0_REGION_INDEX + u32::from(number);
        if index > abi::VFIO_PCI_BAR5_REGION_INDEX {
            return Err(failed(io::ErrorKind::InvalidInput.into()));
        }
        let mut info = RegionInfo { index, ..RegionInfo::default() };
        let answer = info.call_whole(self.file.as_fd()).map_err(failed)?;
        let mut mappable = Vec::new();
        if info.flags & abi::VFIO_REGION_INFO_FLAG_MMAP != 0 && info.size > 0 {
            // With VFIO_REGION_INFO_CAP_MSIX_MAPPABLE, and without a table of interrupts, no areas are told: all can be mapped.
            match abi::capability(&answer, info.cap_offset, abi::VFIO_REGION_INFO_CAP_SPARSE_MMAP) {
                None => mappable.push(0..info.size),
                Some(areas) => {
                    let ranges = abi::pairs(areas).into_iter().map(|(start, len)| start..start.saturating_add(len));
                    mappable.extend(ranges.filter(|range| range.start < range.end && range.end <= info.size));
                }
            }
        }
        Ok(BarInfo { len: info.size, mappable, offset: info.offset })
    }

    /// Maps `range` (whole pages) of BAR `number`. When the device has gone or does not answer, it reads as all ones. Nobody else
    /// gets the device while the region lives.
    ///
    /// # Errors
    /// A sentence.
    pub fn map_bar(&self, number: u8, range: Range<u64>) -> Result<Region, String> {
        let bar = self.bar(number)?;
        let what = format!("bytes {:#x} to {:#x} of BAR {number} of {}", range.start, range.end, self.address);
        if !bar.mappable.iter().any(|area| area.start <= range.start && range.end <= area.end) {
            return Err(format!("{what} cannot be mapped: of its {:#x} bytes these can: {:x?}", bar.len, bar.mappable));
        }
        let len = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(0);
        Region::map(self.file.as_fd(), bar.offset + range.start, len, true, 0xff)
            .map_err(|error| format!("{what} cannot be mapped: {error}"))
    }

    /// Resets the function; what was enabled must be enabled again. False for one that cannot be reset by itself.
    ///
    /// # Errors
    /// A sentence.
    pub fn reset(&self) -> Result<bool, String> {
        if self.resettable {
            abi::reset(self.file.as_fd())
                .map_err(|error| format!("{} cannot be reset (VFIO_DEVICE_RESET): {error}", self.address))?;
        }
        Ok(self.resettable)
    }

    /// Switches on up to `wanted` interrupts (MSI-X, or MSI where it has no other) and returns how many there are now. Those that
    /// were on before are off.
    ///
    /// # Errors
    /// A sentence.
    pub fn enable_interrupts(&self, wanted: u16) -> Result<u16, String> {
        let mut vectors = lock(&self.vectors);
        let failed = |count: usize, error: io::Error| {
            format!("{} cannot raise {count} interrupts (VFIO_DEVICE_SET_IRQS): {error}", self.address)
        };
        if !vectors.events.is_empty() {
            vectors.events.clear();
            abi::silence(self.file.as_fd(), vectors.index).map_err(|error| failed(0, error))?;
        }
        let mut count = u32::from(wanted).min(vectors.most) as usize;
        while count > 0 {
            // Enabled with nobody to signal, who comes later (`interrupt`).
            match abi::signal(self.file.as_fd(), vectors.index, 0, &vec![None; count]) {
                Ok(0) => break,
                // The machine has fewer left than the device.
                Ok(fewer) => count = (fewer as usize).min(count - 1),
                Err(error) => return Err(failed(count, error)),
            }
        }
        vectors.events = vec![None; count];
        Ok(count as u16)
    }

    /// The descriptor (an eventfd that does not block) that interrupt `vector` makes readable; none for one that is not on.
    ///
    /// # Errors
    /// A sentence.
    pub fn interrupt(&self, vector: u16) -> Result<Option<Arc<OwnedFd>>, String> {
        let mut vectors = lock(&self.vectors);
        let index = vectors.index;
        let Some(slot) = vectors.events.get_mut(usize::from(vector)) else { return Ok(None) };
        if slot.is_none() {
            let failed =
                |error: io::Error| format!("interrupt {vector} of {} has nobody to signal: {error}", self.address);
            let event = event().map_err(failed)?;
            abi::signal(self.file.as_fd(), index, vector.into(), &[Some(event.as_fd())]).map_err(failed)?;
            *slot = Some(Arc::new(event));
        }
        Ok(slot.clone())
    }

    /// Why the device cannot be used any longer, once the system has said so: somebody wants to remove or unbind it, which waits until
    /// the device is dropped, or the bus has reported an error that it does not recover from. A system call or two.
    pub fn trouble(&self) -> Option<&'static str> {
        let came = |notice: &Option<Notice>| notice.as_ref().is_some_and(Notice::came);
        if came(&self.removal) {
            return Some("the system asks for it back: it is being removed or unbound");
        }
        came(&self.fault).then_some("the PCI bus reported an error that the device does not recover from")
    }

    /// What becomes readable when the system wants the device back, for who sleeps; then ask [`Device::trouble`].
    pub fn removal_event(&self) -> Option<BorrowedFd<'_>> {
        self.removal.as_ref().map(|notice| notice.event.as_fd())
    }

    /// Lets the device reach a region, which is kept until as many [`Device::unmap`] or the drop of the device. Regions that are
    /// mapped are looked up without a system call.
    ///
    /// # Errors
    /// A sentence.
    pub fn map(&self, region: &Arc<Region>) -> Result<Addresses, String> {
        let addresses =
            self.membership.container().map(region).map_err(|reason| format!("{}: {reason}", self.address))?;
        lock(&self.mapped).entry(region.address()).or_default().push(region.clone());
        Ok(addresses)
    }

    /// Takes back one [`Device::map`]; with the last of all devices none reaches the region any more.
    pub fn unmap(&self, region: &Region) {
        let mut mapped = lock(&self.mapped);
        let Some(uses) = mapped.get_mut(&region.address()) else { return };
        uses.pop();
        if uses.is_empty() {
            mapped.remove(&region.address());
        }
        self.membership.container().unmap(region);
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // A BAR that is still mapped keeps the device open: it must reach no memory from here on.
        let _ = self.disable();
        for region in lock(&self.mapped).drain().flat_map(|(_, uses)| uses) {
            self.membership.container().unmap(&region);
        }
    }
}

impl Vectors {
    fn of(device: BorrowedFd<'_>, kinds: u32) -> Self {
        let (x, plain) = (abi::VFIO_PCI_MSIX_IRQ_INDEX, abi::VFIO_PCI_MSI_IRQ_INDEX);
        let index = if interrupts(device, kinds, x) > 0 { x } else { plain };
        Self { index, most: interrupts(device, kinds, index), events: Vec::new() }
    }
}

/// How many interrupts of a kind there are that can signal a descriptor.
fn interrupts(device: BorrowedFd<'_>, kinds: u32, index: u32) -> u32 {
    let mut info = IrqInfo { index, ..IrqInfo::default() };
    let usable = index < kinds && info.call(device).is_ok() && info.flags & abi::VFIO_IRQ_INFO_EVENTFD != 0;
    if usable { info.count } else { 0 }
}

/// Asks for a notice of the system's; none where it gives none.
fn notice(device: BorrowedFd<'_>, kinds: u32, index: u32) -> Option<Notice> {
    let event = (interrupts(device, kinds, index) > 0).then(event)?.ok()?;
    abi::signal(device, index, 0, &[Some(event.as_fd())]).ok()?;
    Some(Notice { event, came: AtomicBool::new(false) })
}

fn event() -> io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere leaves the lists as they were.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sysfs::tree::Tree;

    #[test]
    fn a_device_that_is_not_there_or_not_of_vfio_is_refused() {
        let tree = Tree::new();
        let address = "0000:7e:1d.5".parse().unwrap();
        let error = Device::open(&tree.sysfs(), address, None).unwrap_err();
        assert!(error.contains("no PCI function 0000:7e:1d.5"), "{error}");
        let folder = tree.function("0000:7e:1d.5", "0x010802");
        tree.link(&folder.join("driver"), "bus/pci/drivers/nvme");
        let error = Device::open(&tree.sysfs(), address, None).unwrap_err();
        assert!(error.contains("doorbell setup bind 0000:7e:1d.5"), "{error}");
    }

    #[test]
    fn a_notice_is_remembered() {
        let notice = Notice { event: event().unwrap(), came: AtomicBool::new(false) };
        assert!(!notice.came());
        rustix::io::write(&notice.event, &1_u64.to_ne_bytes()).unwrap();
        assert!(notice.came() && notice.came());
    }
}
