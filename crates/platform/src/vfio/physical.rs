//! Memory for devices without an IOMMU, by physical address: huge pages only, as no other memory is sure to stay where it is.

use std::{fs::File, io, os::unix::fs::FileExt};

use rustix::fs::fstatfs;

use super::Addresses;
use crate::Region;

/// What it means to let a device at physical memory.
pub(super) const WARNING: &str = "there is no IOMMU between this device and memory: a wrong address, by a fault of this program, of \
     the drive or of its firmware, overwrites whatever is there, the kernel included, and nobody notices; huge pages must not be \
     moved or given back while it runs (no memory hot-plug, no compaction of huge pages). Use it for tests on a machine without \
     data that matters";

/// The physical addresses of a region of huge pages.
pub(super) fn addresses(region: &Region) -> Result<Addresses, String> {
    let what = format!("{} bytes of memory have no physical address for devices", region.len());
    let page = huge_page(region).ok_or_else(|| {
        format!("{what}: without an IOMMU only huge pages can be used; `doorbell setup status` says how to set some aside, and --no-huge is not possible")
    })?;
    // A page that is not there yet has no address.
    region.populate().map_err(|error| format!("{what}: {error}: are enough huge pages free?"))?;
    let map =
        File::open("/proc/self/pagemap").map_err(|error| format!("{what}: cannot open /proc/self/pagemap: {error}"))?;
    let starts = (0..region.len() as u64).step_by(page as usize).map(|offset| entry(&map, region.address() + offset));
    let frames = starts.map(|entry| frame(entry?).ok_or(io::ErrorKind::PermissionDenied.into()));
    let pages: io::Result<Vec<u64>> = frames.collect();
    let pages = pages.map_err(|error| {
        format!("{what}: /proc/self/pagemap: {error}; only root (CAP_SYS_ADMIN) sees physical addresses")
    })?;
    Ok(Addresses::paged(page, pages))
}

/// The size of the pages of a region on huge pages.
fn huge_page(region: &Region) -> Option<u64> {
    const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;
    let system = fstatfs(region.file()?).ok()?;
    (system.f_type as u64 == HUGETLBFS_MAGIC).then_some(system.f_bsize as u64)
}

/// What the kernel says of the page at an address.
fn entry(map: &File, address: u64) -> io::Result<u64> {
    let mut entry = [0; 8];
    map.read_exact_at(&mut entry, address / 4096 * 8)?;
    Ok(u64::from_ne_bytes(entry))
}

/// The physical address in an entry; none where the page is not there or the kernel hides it.
fn frame(entry: u64) -> Option<u64> {
    const PRESENT: u64 = 1 << 63;
    let number = entry & ((1 << 55) - 1);
    (entry & PRESENT != 0 && number != 0).then_some(number * 4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_memory_is_refused() {
        for region in [Region::new(8192).unwrap(), Region::shared(8192, false).unwrap()] {
            let error = addresses(&region).unwrap_err();
            assert!(error.contains("only huge pages") && error.contains("8192 bytes"), "{error}");
        }
    }

    #[test]
    fn a_hidden_or_missing_page_has_no_address() {
        assert_eq!(frame(0x8600_0000_0001_2345), Some(0x1234_5000));
        assert_eq!(frame(0x0600_0000_0001_2345), None);
        assert_eq!(frame(0x8600_0000_0000_0000), None);
        let region = Region::shared(4096, false).unwrap();
        region.populate().unwrap();
        let seen = entry(&File::open("/proc/self/pagemap").unwrap(), region.address()).unwrap();
        assert_ne!(seen >> 63, 0, "a page that was written is there");
    }
}
