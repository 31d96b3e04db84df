//! The system calls of VFIO: linux/vfio.h, under its names. A test compares every number and offset with the header where a C
//! compiler is there.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

macro_rules! numbers {
    ($($name:ident = $value:expr;)*) => {
        $(
            #[allow(non_upper_case_globals)]
            pub(super) const $name: u32 = $value;
        )*
        #[cfg(test)]
        const NUMBERS: &[(&str, u32)] = &[$((stringify!($name), $name)),*];
    };
}

/// `_IO(VFIO_TYPE, VFIO_BASE + number)`.
const fn io(number: u32) -> u32 {
    (b';' as u32) << 8 | (100 + number)
}

numbers! {
    VFIO_API_VERSION = 0;
    VFIO_TYPE1v2_IOMMU = 3;
    VFIO_NOIOMMU_IOMMU = 8;
    VFIO_GET_API_VERSION = io(0);
    VFIO_SET_IOMMU = io(2);
    VFIO_GROUP_GET_STATUS = io(3);
    VFIO_GROUP_SET_CONTAINER = io(4);
    VFIO_GROUP_GET_DEVICE_FD = io(6);
    VFIO_DEVICE_GET_INFO = io(7);
    VFIO_DEVICE_GET_REGION_INFO = io(8);
    VFIO_DEVICE_GET_IRQ_INFO = io(9);
    VFIO_DEVICE_SET_IRQS = io(10);
    VFIO_DEVICE_RESET = io(11);
    VFIO_IOMMU_GET_INFO = io(12);
    VFIO_IOMMU_MAP_DMA = io(13);
    VFIO_IOMMU_UNMAP_DMA = io(14);
    VFIO_GROUP_FLAGS_VIABLE = 1;
    VFIO_DEVICE_FLAGS_RESET = 1;
    VFIO_DEVICE_FLAGS_PCI = 2;
    VFIO_REGION_INFO_FLAG_MMAP = 4;
    VFIO_REGION_INFO_CAP_SPARSE_MMAP = 1;
    VFIO_IRQ_INFO_EVENTFD = 1;
    VFIO_IRQ_SET_DATA_NONE = 1;
    VFIO_IRQ_SET_DATA_EVENTFD = 4;
    VFIO_IRQ_SET_ACTION_TRIGGER = 32;
    VFIO_PCI_BAR0_REGION_INDEX = 0;
    VFIO_PCI_BAR5_REGION_INDEX = 5;
    VFIO_PCI_CONFIG_REGION_INDEX = 7;
    VFIO_PCI_MSI_IRQ_INDEX = 1;
    VFIO_PCI_MSIX_IRQ_INDEX = 2;
    VFIO_PCI_ERR_IRQ_INDEX = 3;
    VFIO_PCI_REQ_IRQ_INDEX = 4;
    VFIO_IOMMU_INFO_PGSIZES = 1;
    VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE = 1;
    VFIO_DMA_MAP_FLAG_READ = 1;
    VFIO_DMA_MAP_FLAG_WRITE = 2;
}

/// Structures as the kernel lays them out, with the request that takes them.
macro_rules! structures {
    ($($(#[$doc:meta])* $name:ident = $c:literal, $request:ident { $($field:ident: $type:ty,)* })*) => {
        $(
            $(#[$doc])*
            #[repr(C)]
            #[derive(Clone, Copy, Debug, Default)]
            pub(super) struct $name {
                pub argsz: u32,
                $(pub $field: $type,)*
            }

            // SAFETY: integers in C's order, the first of which is the size.
            unsafe impl Argument for $name {
                const REQUEST: u32 = $request;
                fn argsz(&mut self) -> &mut u32 {
                    &mut self.argsz
                }
            }
        )*

        #[cfg(test)]
        const OFFSETS: &[(&str, &str, usize)] = &[$(
            $(($c, stringify!($field), std::mem::offset_of!($name, $field)),)*
        )*];
    };
}

structures! {
    /// Whether a group can be used.
    GroupStatus = "vfio_group_status", VFIO_GROUP_GET_STATUS {
        flags: u32,
    }
    /// What a device has.
    DeviceInfo = "vfio_device_info", VFIO_DEVICE_GET_INFO {
        flags: u32,
        num_regions: u32,
        num_irqs: u32,
        cap_offset: u32,
    }
    /// A BAR or configuration space: where in the device's file, and what may be mapped.
    RegionInfo = "vfio_region_info", VFIO_DEVICE_GET_REGION_INFO {
        flags: u32,
        index: u32,
        cap_offset: u32,
        size: u64,
        offset: u64,
    }
    /// Interrupts of a kind.
    IrqInfo = "vfio_irq_info", VFIO_DEVICE_GET_IRQ_INFO {
        flags: u32,
        index: u32,
        count: u32,
    }
    /// What an IOMMU can map.
    IommuInfo = "vfio_iommu_type1_info", VFIO_IOMMU_GET_INFO {
        flags: u32,
        iova_pgsizes: u64,
        cap_offset: u32,
    }
    /// Addresses that shall mean nothing to devices any more.
    DmaUnmap = "vfio_iommu_type1_dma_unmap", VFIO_IOMMU_UNMAP_DMA {
        flags: u32,
        iova: u64,
        size: u64,
    }
}

/// Memory that devices shall reach.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct DmaMap {
    pub argsz: u32,
    pub flags: u32,
    pub vaddr: u64,
    pub iova: u64,
    pub size: u64,
}

/// What a request takes.
///
/// # Safety
/// Of C's layout, integers only, the first of which is `argsz`; the request reads and writes no more than that many bytes of it,
/// and no memory that other fields name.
pub(super) unsafe trait Argument: Copy + Default {
    const REQUEST: u32;
    fn argsz(&mut self) -> &mut u32;

    /// Makes the request.
    fn call(&mut self, file: BorrowedFd<'_>) -> io::Result<()> {
        *self.argsz() = size_of::<Self>() as u32;
        // SAFETY: the request takes a pointer to this type, and the trait's implementer promised that it stays within.
        unsafe { request(file, Self::REQUEST, (&raw mut *self) as usize) }.map(drop)
    }

    /// Makes the request, and again if there is more behind the structure; returns all of it.
    fn call_whole(&mut self, file: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
        /// More is an error: no device has so many areas.
        const MOST: usize = 1 << 20;
        let asked = *self;
        self.call(file)?;
        let size = *self.argsz() as usize;
        if size <= size_of::<Self>() {
            return Ok(Vec::new());
        }
        if size > MOST {
            return Err(io::Error::other(format!("an answer of {size} bytes")));
        }
        let mut words = vec![0_u64; size.div_ceil(8)];
        // SAFETY: the buffer is at least as long as this structure and as aligned as any of its integers; the request writes at most
        // `argsz` bytes, which is no more than the buffer's length.
        unsafe {
            let start = words.as_mut_ptr().cast::<Self>();
            start.write(asked);
            *(*start).argsz() = size as u32;
            request(file, Self::REQUEST, words.as_mut_ptr() as usize)?;
            *self = *start;
        }
        Ok(words.into_iter().flat_map(u64::to_ne_bytes).collect())
    }
}

/// Makes a request; a negative answer is an error.
///
/// # Safety
/// `argument` is what the request takes: a number, or the address of its structure.
unsafe fn request(file: BorrowedFd<'_>, number: u32, argument: usize) -> io::Result<i32> {
    // SAFETY: the descriptor is open, and the caller promised the argument.
    let answer = unsafe { libc::ioctl(file.as_raw_fd(), number as _, argument) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

/// The version of the interface of a container.
pub(super) fn api_version(container: BorrowedFd<'_>) -> io::Result<i32> {
    // SAFETY: the request takes no argument.
    unsafe { request(container, VFIO_GET_API_VERSION, 0) }
}

/// Makes a container one of a kind.
pub(super) fn set_iommu(container: BorrowedFd<'_>, kind: u32) -> io::Result<()> {
    // SAFETY: the request takes a number.
    unsafe { request(container, VFIO_SET_IOMMU, kind as usize) }.map(drop)
}

/// Puts a group into a container.
pub(super) fn set_container(group: BorrowedFd<'_>, container: BorrowedFd<'_>) -> io::Result<()> {
    let container = container.as_raw_fd();
    // SAFETY: the request takes the address of a descriptor's number, which it reads.
    unsafe { request(group, VFIO_GROUP_SET_CONTAINER, (&raw const container) as usize) }.map(drop)
}

/// Opens the device of that name in a group.
pub(super) fn device(group: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    // SAFETY: the request takes the address of a string that ends with 0.
    let number = unsafe { request(group, VFIO_GROUP_GET_DEVICE_FD, name.as_ptr() as usize) }?;
    // SAFETY: the answer is a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Resets a device.
pub(super) fn reset(device: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the request takes no argument.
    unsafe { request(device, VFIO_DEVICE_RESET, 0) }.map(drop)
}

/// Has interrupts `first`… of a kind signal these descriptors, `None` nothing. Returns 0, or how many there could be where these are
/// too many.
pub(super) fn signal(
    device: BorrowedFd<'_>,
    index: u32,
    first: u32,
    events: &[Option<BorrowedFd<'_>>],
) -> io::Result<i32> {
    let numbers = events.iter().map(|event| event.as_ref().map_or(-1, AsRawFd::as_raw_fd) as u32);
    let flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
    let head = [20 + 4 * events.len() as u32, flags, index, first, events.len() as u32];
    let words: Vec<u32> = head.into_iter().chain(numbers).collect();
    // SAFETY: the request takes the address of `struct vfio_irq_set` and its data, and reads as many bytes as its first field says.
    unsafe { request(device, VFIO_DEVICE_SET_IRQS, words.as_ptr() as usize) }
}

/// Switches the interrupts of a kind off.
pub(super) fn silence(device: BorrowedFd<'_>, index: u32) -> io::Result<()> {
    let words = [20, VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER, index, 0, 0];
    // SAFETY: as in `signal`.
    unsafe { request(device, VFIO_DEVICE_SET_IRQS, words.as_ptr() as usize) }.map(drop)
}

/// Lets the devices of a container reach memory.
///
/// # Safety
/// The memory at `vaddr` is a [`crate::Region`]'s, which lives until it is unmapped or the container is closed: devices read and
/// write it at any time.
pub(super) unsafe fn map_dma(container: BorrowedFd<'_>, map: DmaMap) -> io::Result<()> {
    let map = DmaMap { argsz: size_of::<DmaMap>() as u32, ..map };
    // SAFETY: the request takes the address of this structure, which it reads; the caller promised the memory.
    unsafe { request(container, VFIO_IOMMU_MAP_DMA, (&raw const map) as usize) }.map(drop)
}

/// The capability `id` in an answer that holds a chain of them from byte `first`: its bytes, header (8 bytes) included, as far as the
/// answer goes.
pub(super) fn capability(answer: &[u8], first: u32, id: u32) -> Option<&[u8]> {
    let mut at = first as usize;
    // The chain only goes on towards the end, so that it ends.
    while at != 0 {
        let bytes = answer.get(at..)?;
        let next = word(bytes, 4)? as usize;
        if word(bytes, 0)? & 0xffff == id {
            return Some(bytes);
        }
        at = if next > at { next } else { 0 };
    }
    None
}

/// The 32-bit word at a byte.
pub(super) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Pairs of 64-bit words of a capability: `count` at byte 8, the pairs from byte 16.
pub(super) fn pairs(capability: &[u8]) -> Vec<(u64, u64)> {
    let count = word(capability, 8).unwrap_or(0) as usize;
    let longs = capability.get(16..).unwrap_or_default().chunks_exact(8);
    let longs: Vec<u64> = longs.filter_map(|long| Some(u64::from_ne_bytes(long.try_into().ok()?))).collect();
    longs.chunks_exact(2).take(count).map(|pair| (pair[0], pair[1])).collect()
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Command};

    use super::*;
    use crate::sysfs::tree::Tree;

    #[test]
    fn numbers_and_layouts_are_those_of_the_header() {
        let dma = [
            ("vfio_iommu_type1_dma_map", "argsz", std::mem::offset_of!(DmaMap, argsz)),
            ("vfio_iommu_type1_dma_map", "vaddr", std::mem::offset_of!(DmaMap, vaddr)),
            ("vfio_iommu_type1_dma_map", "iova", std::mem::offset_of!(DmaMap, iova)),
            ("vfio_iommu_type1_dma_map", "size", std::mem::offset_of!(DmaMap, size)),
            ("vfio_irq_set", "data", 20),
            ("vfio_iommu_type1_info_cap_iova_range", "nr_iovas", 8),
            ("vfio_iommu_type1_info_cap_iova_range", "iova_ranges", 16),
            ("vfio_region_info_cap_sparse_mmap", "nr_areas", 8),
            ("vfio_region_info_cap_sparse_mmap", "areas", 16),
        ];
        let numbers = NUMBERS.iter().map(|(name, value)| format!("_Static_assert({name} == {value}, \"{name}\");\n"));
        let offsets = OFFSETS.iter().chain(&dma).map(|(structure, field, offset)| {
            format!("_Static_assert(offsetof(struct {structure}, {field}) == {offset}, \"{structure}.{field}\");\n")
        });
        let head = "#include <stddef.h>\n#include <linux/vfio.h>\n";
        let program: String = [head.to_owned()].into_iter().chain(numbers).chain(offsets).collect();
        let tree = Tree::new();
        let source = tree.sysfs().path("abi.c");
        fs::write(&source, program).unwrap();
        let has_header = std::path::Path::new("/usr/include/linux/vfio.h").exists();
        match Command::new("cc").arg("-fsyntax-only").arg(&source).output() {
            Ok(output) if has_header => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
            _ => eprintln!("skipped: no C compiler or no linux/vfio.h here"),
        }
        assert_eq!(VFIO_IOMMU_MAP_DMA, 0x3b71, "with or without a compiler");
    }

    #[test]
    fn a_chain_of_capabilities_ends_however_it_is_made() {
        let mut answer = vec![0_u8; 96];
        let mut put = |at: usize, words: &[u32]| {
            for (index, word) in words.iter().enumerate() {
                answer[at + 4 * index..][..4].copy_from_slice(&word.to_ne_bytes());
            }
        };
        put(24, &[1 << 16 | 3, 32]);
        put(32, &[1 << 16 | 1, 24, 2, 0, 0x1000, 0, 0x2000, 0, 0x4000, 1, 0x1000, 0, 0xdead]);
        let found = capability(&answer, 24, 1).unwrap();
        let expected = [(0x1000, 0x2000), (0x1_0000_4000, 0x1000)];
        assert_eq!(pairs(found), expected);
        assert_eq!(pairs(&found[..40]), expected[..1], "what is cut short is left out");
        assert!(capability(&answer, 24, 7).is_none(), "a loop");
        assert!(capability(&answer, 0, 1).is_none() && capability(&answer, 95, 1).is_none());
        assert!(capability(&answer, u32::MAX, 1).is_none());
    }

    #[test]
    fn what_is_no_vfio_file_is_an_error() {
        let file = fs::File::open("/dev/null").unwrap();
        let file = std::os::fd::AsFd::as_fd(&file);
        let mut info = RegionInfo { index: 3, ..RegionInfo::default() };
        assert!(info.call_whole(file).is_err() && signal(file, 2, 0, &[None]).is_err() && device(file, c"x").is_err());
        assert!(set_iommu(file, VFIO_TYPE1v2_IOMMU).is_err() && reset(file).is_err() && api_version(file).is_err());
    }
}
