//! What devices may reach: one space of addresses for all of this process's devices, by the IOMMU, or physical memory without one.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{
    Addresses,
    abi::{self, Argument, DmaMap, DmaUnmap, IommuInfo},
    physical,
};
use crate::{Region, memlock};

const PATH: &str = "/dev/vfio/vfio";
/// Bytes of the pages that regions consist of at least.
const PAGE: u64 = 4096;
/// Larger regions begin at a multiple of this, so that the IOMMU can map them with few entries; nothing is put below it.
const HUGE: u64 = 2 << 20;

/// A container of VFIO with the memory that its devices reach. Devices keep it open.
#[derive(Debug)]
pub(super) struct Container {
    // Closed first: from then on no device reaches the regions.
    file: File,
    without_iommu: bool,
    regions: Mutex<HashMap<u64, Mapped>>,
}

/// A region that devices reach.
#[derive(Debug)]
struct Mapped {
    region: Arc<Region>,
    addresses: Addresses,
    users: usize,
}

impl Container {
    /// Opens an empty container; a group makes it usable ([`Container::begin`]).
    pub fn open(without_iommu: bool) -> Result<Self, String> {
        let file = OpenOptions::new().read(true).write(true).open(PATH).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                format!("cannot open {PATH}: {error}: VFIO is not loaded; as root: modprobe vfio-pci")
            }
            _ => format!(
                "cannot open {PATH}: {error}; as root: chmod 0666 {PATH} (it gives access to no device by itself)"
            ),
        })?;
        match abi::api_version(file.as_fd()) {
            Ok(version) if version == abi::VFIO_API_VERSION as i32 => {}
            other => return Err(format!("{PATH} answered {other:?} to VFIO_GET_API_VERSION, where 0 is known here")),
        }
        Ok(Self { file, without_iommu, regions: Mutex::default() })
    }

    pub fn without_iommu(&self) -> bool {
        self.without_iommu
    }

    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Makes it a container of its kind, with its first group in it.
    pub fn begin(&self) -> Result<(), String> {
        let (kind, name) = if self.without_iommu {
            (abi::VFIO_NOIOMMU_IOMMU, "VFIO_NOIOMMU_IOMMU")
        } else {
            (abi::VFIO_TYPE1v2_IOMMU, "VFIO_TYPE1v2_IOMMU")
        };
        abi::set_iommu(self.file.as_fd(), kind).map_err(|error| refusal(name, &error))
    }

    /// Lets devices reach a region.
    pub fn map(&self, region: &Arc<Region>) -> Result<Addresses, String> {
        let mut regions = self.regions();
        if let Some(mapped) = regions.get_mut(&region.address()) {
            mapped.users += 1;
            return Ok(mapped.addresses.clone());
        }
        let addresses = if self.without_iommu { physical::addresses(region)? } else { self.map_dma(region, &regions)? };
        regions.insert(region.address(), Mapped { region: region.clone(), addresses: addresses.clone(), users: 1 });
        Ok(addresses)
    }

    fn map_dma(&self, region: &Region, regions: &HashMap<u64, Mapped>) -> Result<Addresses, String> {
        let (address, len) = (region.address(), region.len() as u64);
        let what = format!("{len} bytes of memory for devices");
        let (ranges, page) = self.usable()?;
        if page > PAGE {
            return Err(format!(
                "cannot map {what}: this IOMMU has pages of at least {page} bytes, memory here has {PAGE}"
            ));
        }
        let taken: Vec<_> =
            regions.values().map(|mapped| (mapped.addresses.at(0), mapped.region.len() as u64)).collect();
        let iova = place(&ranges, &taken, address, len).ok_or_else(|| {
            format!("cannot map {what}: the addresses that the IOMMU takes ({ranges:x?}) are used up")
        })?;
        let flags = abi::VFIO_DMA_MAP_FLAG_READ | abi::VFIO_DMA_MAP_FLAG_WRITE;
        let map = DmaMap { flags, vaddr: address, iova, size: len, ..DmaMap::default() };
        // SAFETY: the memory is the region's; the caller puts the region in the table, from where it is taken only when it is
        // unmapped, and which the container's file is closed before.
        unsafe { abi::map_dma(self.file.as_fd(), map) }.map_err(|error| {
            let why = match error.raw_os_error() {
                Some(libc::ENOMEM) => {
                    memlock::reckon(len).err().unwrap_or_else(|| "the memory cannot be pinned".to_owned())
                }
                Some(libc::ENOSPC) => {
                    "the IOMMU's driver takes no more mappings (dma_entry_limit of vfio_iommu_type1)".to_owned()
                }
                _ => format!("at {iova:#x}, where {ranges:x?} are usable"),
            };
            format!("cannot map {what} (VFIO_IOMMU_MAP_DMA): {error}: {why}")
        })?;
        Ok(Addresses::linear(iova, len))
    }

    /// Ends one use of a region; with the last, no device reaches it any more.
    pub fn unmap(&self, region: &Region) {
        let mut regions = self.regions();
        let Some(mapped) = regions.get_mut(&region.address()).filter(|mapped| mapped.users > 0) else { return };
        mapped.users -= 1;
        if mapped.users > 0 {
            return;
        }
        if !self.without_iommu {
            let size = mapped.region.len() as u64;
            let mut unmap = DmaUnmap { iova: mapped.addresses.at(0), size, ..DmaUnmap::default() };
            if unmap.call(self.file.as_fd()).is_err() || unmap.size != size {
                // Devices may still reach it: it stays there until the container is closed.
                return;
            }
        }
        regions.remove(&region.address());
    }

    /// The addresses that devices can be given, both ends included, and the size of the smallest page. Asked each time, as another
    /// group may have narrowed them.
    fn usable(&self) -> Result<(Vec<(u64, u64)>, u64), String> {
        let mut info = IommuInfo::default();
        let answer = info
            .call_whole(self.file.as_fd())
            .map_err(|error| format!("the IOMMU does not say what it can map (VFIO_IOMMU_GET_INFO): {error}"))?;
        let page = if info.flags & abi::VFIO_IOMMU_INFO_PGSIZES != 0 {
            1 << info.iova_pgsizes.trailing_zeros().min(63)
        } else {
            PAGE
        };
        let ranges =
            abi::capability(&answer, info.cap_offset, abi::VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE).map(abi::pairs);
        // Kernels before 5.4 do not say, and refuse what does not fit.
        Ok((ranges.unwrap_or_else(|| vec![(0, u64::MAX)]), page))
    }

    fn regions(&self) -> MutexGuard<'_, HashMap<u64, Mapped>> {
        // A panic elsewhere leaves the table as it was.
        self.regions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where to put `len` bytes: at `wanted` if that is usable, else at the first free place. `ranges` are usable (both ends included),
/// `taken` are starts and lengths.
fn place(ranges: &[(u64, u64)], taken: &[(u64, u64)], wanted: u64, len: u64) -> Option<u64> {
    let free = |start: u64, end: u64| taken.iter().all(|&(other, len)| end < other || start > other + (len - 1));
    let inside = |start: u64, end: u64| ranges.iter().any(|&(first, last)| first <= start && end <= last);
    let last = wanted.checked_add(len - 1)?;
    if inside(wanted, last) && free(wanted, last) {
        return Some(wanted);
    }
    let align = if len >= HUGE { HUGE } else { PAGE };
    // A place begins where a range does, or behind something.
    let starts = ranges.iter().map(|range| range.0.max(HUGE));
    let behind = taken.iter().filter_map(|&(start, len)| start.checked_add(len));
    let aligned = starts.chain(behind).filter_map(|start| start.checked_next_multiple_of(align));
    let fits = |start: &u64| {
        let end = start.checked_add(len - 1);
        end.is_some_and(|end| inside(*start, end) && free(*start, end))
    };
    aligned.filter(fits).min()
}

/// Why a container cannot be of a kind.
fn refusal(kind: &str, error: &io::Error) -> String {
    let advice = match error.raw_os_error() {
        Some(libc::ENODEV) => "no driver for it is loaded; as root: modprobe vfio_iommu_type1",
        Some(libc::EPERM) if kind == "VFIO_NOIOMMU_IOMMU" => {
            "without an IOMMU only root (CAP_SYS_RAWIO) may use a device"
        }
        Some(libc::EPERM) => {
            "the platform cannot remap interrupts; where the device is trusted, as root: modprobe vfio_iommu_type1 \
             allow_unsafe_interrupts=1"
        }
        _ => "is the IOMMU switched on (intel_iommu=on or amd_iommu=on on the kernel's command line)?",
    };
    format!("{PATH} does not become {kind} (VFIO_SET_IOMMU): {error}: {advice}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_keeps_its_address_where_the_iommu_takes_it() {
        let ranges = [(0, 0xfedf_ffff), (0xfef0_0000, (1 << 48) - 1)];
        let at = 0x7f00_0000_0000;
        assert_eq!(place(&ranges, &[], at, 8192), Some(at));
        assert_eq!(place(&ranges, &[(at - PAGE, PAGE), (at + 8192, PAGE)], at, 8192), Some(at));
    }

    #[test]
    fn other_memory_goes_to_the_first_free_place() {
        // 39 bits, as the IOMMU of many a desktop, with the hole for interrupts.
        let ranges = [(0, 0xfedf_ffff), (0xfef0_0000, (1 << 39) - 1)];
        let high = 0x7f00_0000_0000;
        assert_eq!(place(&ranges, &[], high, PAGE), Some(HUGE));
        assert_eq!(place(&ranges, &[(HUGE, PAGE)], high, PAGE), Some(HUGE + PAGE));
        assert_eq!(place(&ranges, &[(HUGE, PAGE)], high, HUGE), Some(2 * HUGE));
        // What does not fit below the hole goes behind it.
        assert_eq!(place(&ranges, &[], high, 1 << 32), Some(0xff00_0000));
        // The hole is never touched, even if that was wanted.
        assert_eq!(place(&ranges, &[], 0xfee0_0000, PAGE), Some(HUGE));
        assert_eq!(place(&ranges, &[(HUGE, 0xfec0_0000)], 0xfee0_0000, PAGE), Some(0xfef0_0000));
    }

    #[test]
    fn a_full_space_has_no_place() {
        assert_eq!(place(&[(0, (4 << 20) - 1)], &[(HUGE, PAGE)], u64::MAX, HUGE), None);
        assert_eq!(place(&[], &[], HUGE, PAGE), None);
        assert_eq!(place(&[(0, u64::MAX)], &[], u64::MAX - 4095, PAGE), Some(u64::MAX - 4095));
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        let refusal = |kind, number| refusal(kind, &io::Error::from_raw_os_error(number));
        assert!(refusal("VFIO_TYPE1v2_IOMMU", libc::ENODEV).contains("modprobe vfio_iommu_type1"));
        assert!(refusal("VFIO_TYPE1v2_IOMMU", libc::EPERM).contains("allow_unsafe_interrupts=1"));
        assert!(refusal("VFIO_NOIOMMU_IOMMU", libc::EPERM).contains("CAP_SYS_RAWIO"));
        assert!(refusal("VFIO_TYPE1v2_IOMMU", libc::EINVAL).contains("intel_iommu=on"));
    }
}
