//! Memory for I/O: a [`Region`] is a mapping that the kernel, a device or another thread may touch while we look elsewhere;
//! an [`Arena`] deals [`Range`]s of one out to the commands of a worker.
//!
//! No reference into a region ever leaves this module: bytes are copied in and out, or the kernel is pointed at them
//! (see [`crate::socket`]). A range is used by one command at a time; who breaks that rule garbles bytes, not the process.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering},
    },
};

use rustix::{
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create},
    mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap},
};

use crate::{Crc32c, Guard, fault::Watch};

/// Bytes of a cache line.
const LINE: usize = 64;
/// Bytes of a huge page.
const HUGE: usize = 2 << 20;

/// A piece of a region or arena, in bytes from its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// First byte.
    pub offset: u64,
    /// Length in bytes.
    pub len: u32,
}

impl Range {
    /// The part of this range that starts `skip` bytes in and is at most `len` long.
    pub fn part(self, skip: u32, len: u32) -> Self {
        let skip = skip.min(self.len);
        Self { offset: self.offset + u64::from(skip), len: len.min(self.len - skip) }
    }

    /// First byte behind the range.
    pub fn end(self) -> u64 {
        self.offset + u64::from(self.len)
    }
}

/// Appends `range` to `list`, joining it with the last entry where the two touch.
pub fn push_joined(list: &mut Vec<Range>, range: Range) {
    match list.last_mut() {
        Some(last) if last.end() == range.offset && last.len.checked_add(range.len).is_some() => last.len += range.len,
        _ => list.push(range),
    }
}

/// What kind of memory a queue can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Any of this process.
    Any,
    /// Memory that another process or a device can map ([`Region::shared`]).
    Shared(Pages),
}

/// The pages of shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// Ordinary ones.
    Ordinary,
    /// Huge ones where the pool has enough, ordinary ones otherwise.
    HugeIfFree,
    /// Huge ones or none: a device without IOMMU sees physical addresses, which must not change.
    Huge,
}

/// Page-aligned memory: of this process ([`Region::new`]), shared with another ([`Region::shared`], [`Region::map`]), or the
/// registers of a device ([`Region::map`] of its file).
#[derive(Debug)]
pub struct Region {
    start: NonNull<u8>,
    len: usize,
    file: Option<OwnedFd>,
    watch: Option<Watch>,
}

// SAFETY: a region is plain memory reached only through the copying methods below and the kernel; no method hands out a
// reference, so moving or sharing it between threads can invalidate nothing.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Maps `len` bytes (rounded up to whole pages), on transparent huge pages where the system has them.
    ///
    /// # Errors
    /// The system's answer, `OutOfMemory` first of all; `InvalidInput` for a length of zero.
    pub fn new(len: usize) -> io::Result<Self> {
        if len == 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let align = if len >= HUGE { HUGE } else { 4096 };
        let len = len.checked_next_multiple_of(align).ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice replaces nothing.
        let start = unsafe {
            mmap_anonymous(std::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
        }?;
        let start = NonNull::new(start.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        // An interpreter has no huge pages, and no such call.
        if align == HUGE && !cfg!(miri) {
            // SAFETY: the range is the mapping just made. A kernel without huge pages says no, which costs only speed.
            let _ = unsafe { madvise(start.as_ptr().cast(), len, Advice::LinuxHugepage) };
        }
        Ok(Self { start, len, file: None, watch: None })
    }

    /// Maps `len` bytes (rounded up to whole pages) of a file in memory, which can be given to another process and which nobody can
    /// shorten; from the pool of huge pages with `huge`.
    ///
    /// # Errors
    /// The system's answer, `OutOfMemory` first of all: with `huge` also when the pool has not that many free pages;
    /// `InvalidInput` for a length of zero.
    pub fn shared(len: usize, huge: bool) -> io::Result<Self> {
        if len == 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let len = len.checked_next_multiple_of(if huge { HUGE } else { 4096 }).ok_or(io::ErrorKind::OutOfMemory)?;
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let flags = if huge { flags | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB } else { flags };
        let file = memfd_create("doorbell", flags)?;
        ftruncate(&file, len as u64)?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let start = map(file.as_fd(), 0, len, true)?;
        if !huge && len >= HUGE {
            // SAFETY: the range is the mapping just made. A system that gives files no huge pages says no, which costs only speed.
            let _ = unsafe { madvise(start.as_ptr().cast(), len, Advice::LinuxHugepage) };
        }
        Ok(Self { start, len, file: Some(file), watch: None })
    }

    /// Maps `len` bytes from `offset` (both whole pages) of a file that is somebody else's: another process's memory, a device's
    /// registers. Should they go away, they read as `fill` from then on and [`Region::is_lost`] says so.
    ///
    /// # Errors
    /// The system's answer; `InvalidInput` for a length of zero.
    pub fn map(file: BorrowedFd<'_>, offset: u64, len: usize, writable: bool, fill: u8) -> io::Result<Self> {
        if len == 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let start = map(file, offset, len, writable)?;
        // Made first, so that the mapping goes if there is no watch.
        let mut region = Self { start, len, file: None, watch: None };
        region.watch = Some(Watch::over(start.as_ptr(), len, fill)?);
        // What the signal handler puts there is found by this address.
        start.as_ptr().expose_provenance();
        Ok(region)
    }

    /// The file of a region made by [`Region::shared`], whose byte 0 is the region's.
    pub fn file(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(AsFd::as_fd)
    }

    /// Whether memory of somebody else's was touched after it had gone.
    #[inline]
    pub fn is_lost(&self) -> bool {
        self.watch.as_ref().is_some_and(Watch::is_lost)
    }

    /// The address in this process, a whole page: for those who tell a device where memory is.
    pub fn address(&self) -> u64 {
        self.start.as_ptr().expose_provenance() as u64
    }

    /// Puts real memory behind every page now, so that no I/O pays for a page fault.
    ///
    /// # Errors
    /// `OutOfMemory` when the machine has not that much.
    pub fn populate(&self) -> io::Result<()> {
        // SAFETY: the range is this mapping; populating writes nothing that a reader could see change.
        match unsafe { madvise(self.start.as_ptr().cast(), self.len, Advice::LinuxPopulateWrite) } {
            Err(rustix::io::Errno::INVAL) => {
                for page in (0..self.len).step_by(4096) {
                    self.write(page as u64, &[0]);
                }
                Ok(())
            }
            other => Ok(other?),
        }
    }

    /// Has the memory on a NUMA node and nowhere else, for pages that are not there yet and, of this process alone, those that are.
    ///
    /// # Errors
    /// `InvalidInput` for a node that the machine has not or without memory; `Unsupported` where the kernel knows no nodes; a
    /// message says which.
    pub fn bind_to_node(&self, node: u32) -> io::Result<()> {
        /// Of linux/mempolicy.h: move what is there; fail where something cannot move.
        const MPOL_MF_STRICT_AND_MOVE: libc::c_uint = 1 | 2;
        let mut mask = [0_u64; 64];
        let word = mask.get_mut((node / u64::BITS) as usize).ok_or(io::ErrorKind::InvalidInput)?;
        *word = 1 << (node % u64::BITS);
        // The kernel reads one bit less than it is told.
        let bits = size_of_val(&mask) * 8 + 1;
        let (start, mode) = (self.start.as_ptr(), libc::MPOL_BIND);
        // SAFETY: the range is this mapping and the mask outlives the call, which changes where pages are but not what is in them.
        let answer = unsafe {
            libc::syscall(libc::SYS_mbind, start, self.len, mode, mask.as_ptr(), bits, MPOL_MF_STRICT_AND_MOVE)
        };
        if answer == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        Err(io::Error::new(error.kind(), format!("memory cannot be bound to NUMA node {node}: {error}")))
    }

    /// Length in bytes, whole pages.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never true: an empty region cannot be made.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies `bytes` to `offset`.
    ///
    /// # Panics
    /// When the range leaves the region.
    #[inline]
    pub fn write(&self, offset: u64, bytes: &[u8]) {
        let to = self.pointer(offset, bytes.len());
        // SAFETY: `pointer` checked that the destination lies in the mapping; a borrowed slice cannot lie in it too, as no
        // reference into a region exists.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    }

    /// Copies `len` bytes of `source` at `from` to `to` in this region past the caches, where the processor can and `to` begins a
    /// cache line: half the cost of an ordinary copy where the memory at `to` is cold, as nothing is read before it is overwritten.
    ///
    /// # Panics
    /// When a range leaves its region, or two ranges of one region overlap.
    #[inline]
    pub fn copy_past_cache(&self, to: u64, source: &Self, from: u64, len: usize) {
        let (target, origin) = (self.pointer(to, len), source.pointer(from, len));
        assert!(target.addr().abs_diff(origin.addr()) >= len, "overlapping ranges");
        // SAFETY: `pointer` checked both ranges, and they do not overlap.
        unsafe { stream(target, origin, len) };
    }

    /// Copies `bytes` to `to` in the same way.
    ///
    /// # Panics
    /// When the range leaves the region.
    #[inline]
    pub fn write_past_cache(&self, to: u64, bytes: &[u8]) {
        let target = self.pointer(to, bytes.len());
        // SAFETY: `pointer` checked the range; as in `write` the slice does not lie in it.
        unsafe { stream(target, bytes.as_ptr(), bytes.len()) };
    }

    /// Asks the processor to have a range in its cache soon.
    ///
    /// # Panics
    /// When the range leaves the region.
    #[inline]
    pub fn prefetch(&self, range: Range) {
        let from = self.pointer(range.offset, range.len as usize);
        for at in (0..range.len as usize).step_by(LINE) {
            prefetch_line(from.wrapping_add(at));
        }
    }

    /// Copies from `offset` into `bytes`.
    ///
    /// # Panics
    /// When the range leaves the region.
    #[inline]
    pub fn read(&self, offset: u64, bytes: &mut [u8]) {
        let from = self.pointer(offset, bytes.len());
        // SAFETY: as in `write`.
        unsafe { std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len()) };
    }

    /// Copies `len` bytes of `source` at `from` to `to` in this region. Ranges of one region must not overlap.
    ///
    /// # Panics
    /// When a range leaves its region, or two ranges of one region overlap.
    pub fn copy_from(&self, to: u64, source: &Self, from: u64, len: usize) {
        let (target, origin) = (self.pointer(to, len), source.pointer(from, len));
        assert!(target.addr().abs_diff(origin.addr()) >= len, "overlapping ranges");
        // SAFETY: both ranges were checked to lie in their mappings and not to overlap.
        unsafe { std::ptr::copy_nonoverlapping(origin, target, len) };
    }

    /// Sets `len` bytes from `offset` to `byte`.
    ///
    /// # Panics
    /// When the range leaves the region.
    pub fn fill(&self, offset: u64, len: usize, byte: u8) {
        let to = self.pointer(offset, len);
        // SAFETY: `pointer` checked the range.
        unsafe { std::ptr::write_bytes(to, byte, len) };
    }

    /// Whether `len` bytes at `offset` equal `bytes`.
    ///
    /// # Panics
    /// When the range leaves the region.
    pub fn equals(&self, offset: u64, bytes: &[u8]) -> bool {
        let from = self.pointer(offset, bytes.len());
        // SAFETY: `pointer` checked the range; the slice lives for this comparison only, while the range belongs to the
        // command that compares it.
        let ours = unsafe { std::slice::from_raw_parts(from, bytes.len()) };
        ours == bytes
    }

    /// Takes the bytes of a range into a running checksum.
    ///
    /// # Panics
    /// When the range leaves the region.
    #[inline]
    pub fn checksum(&self, range: Range, crc: &mut Crc32c) {
        let from = self.pointer(range.offset, range.len as usize);
        // SAFETY: `pointer` checked the range; the slice lives for this call only, while the range belongs to the command
        // whose digest is made.
        crc.update(unsafe { std::slice::from_raw_parts(from, range.len as usize) });
    }

    /// The checksum of the bytes of a range, and of those of another behind them.
    ///
    /// # Panics
    /// When one leaves the region.
    #[inline]
    pub fn guard(&self, guard: Guard, bytes: Range, more: Range) -> u64 {
        let slice = |range: Range| {
            let from = self.pointer(range.offset, range.len as usize);
            // SAFETY: as in `checksum`, of the block whose guard is made.
            unsafe { std::slice::from_raw_parts(from, range.len as usize) }
        };
        guard.of(slice(bytes), slice(more))
    }

    /// Copies `bytes` to `offset` and takes them into a running checksum, in one pass.
    ///
    /// # Panics
    /// When the range leaves the region.
    #[inline]
    pub fn write_and_checksum(&self, offset: u64, bytes: &[u8], crc: &mut Crc32c) {
        let to = self.pointer(offset, bytes.len());
        // SAFETY: as in `write`.
        unsafe { crc.update_and_copy(bytes, to) };
    }

    /// Copies a cache line (64 bytes) to `offset`, a multiple of 64, with as few stores as the processor can.
    ///
    /// # Panics
    /// When the range leaves the region or `offset` is none of a line.
    #[inline]
    pub fn write_line(&self, offset: u64, bytes: &[u8; LINE]) {
        let to = self.pointer(offset, LINE);
        assert!(to.addr().is_multiple_of(LINE), "a line at {offset}");
        // SAFETY: `pointer` checked the range, and no reference into a region exists.
        unsafe { to.cast::<[u8; LINE]>().write(*bytes) };
    }

    /// The address of a range, for the kernel.
    #[inline]
    pub(crate) fn pointer(&self, offset: u64, len: usize) -> *mut u8 {
        let size = self.len as u64;
        if offset > size || len as u64 > size - offset {
            outside(offset, len, size);
        }
        // SAFETY: `offset` is at most the mapping's length, which is a `usize`.
        unsafe { self.start.as_ptr().add(offset as usize) }
    }
}

#[cold]
#[inline(never)]
fn outside(offset: u64, len: usize, size: u64) -> ! {
    panic!("{len} bytes at {offset} leave a region of {size}");
}

/// Accesses of a given width, each of which is one access of the machine: for what another thread, process or device reads and
/// writes at the same time, registers included. Offsets are multiples of the width.
macro_rules! accesses {
    ($($atomic:ident, $value:ty, $load:ident, $store:ident;)*) => {
        impl Region {
            $(
                #[doc = concat!("Reads the `", stringify!($value), "` at `offset`.")]
                ///
                /// # Panics
                /// When it leaves the region or `offset` is not a multiple of its size.
                #[inline]
                pub fn $load(&self, offset: u64, order: Ordering) -> $value {
                    let at = self.pointer(offset, size_of::<$value>()).cast::<$value>();
                    assert!(at.is_aligned(), "offset {offset} of a region");
                    // SAFETY: `at` is aligned and in the mapping, which outlives this call.
                    unsafe { $atomic::from_ptr(at) }.load(order)
                }

                #[doc = concat!("Writes the `", stringify!($value), "` at `offset`.")]
                ///
                /// # Panics
                /// When it leaves the region or `offset` is not a multiple of its size.
                #[inline]
                pub fn $store(&self, offset: u64, value: $value, order: Ordering) {
                    let at = self.pointer(offset, size_of::<$value>()).cast::<$value>();
                    assert!(at.is_aligned(), "offset {offset} of a region");
                    // SAFETY: as for reading.
                    unsafe { $atomic::from_ptr(at) }.store(value, order);
                }
            )*
        }
    };
}

accesses! {
    AtomicU16, u16, load_u16, store_u16;
    AtomicU32, u32, load_u32, store_u32;
    AtomicU64, u64, load_u64, store_u64;
}

fn map(file: BorrowedFd<'_>, offset: u64, len: usize, writable: bool) -> io::Result<NonNull<u8>> {
    let protection = if writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
    // SAFETY: a fresh mapping at an address of the kernel's choice replaces nothing.
    let start = unsafe { mmap(std::ptr::null_mut(), len, protection, MapFlags::SHARED, file, offset) }?;
    NonNull::new(start.cast::<u8>()).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

/// Asks the processor to have a value in its cache soon.
#[inline]
pub fn prefetch<T>(value: &T) {
    prefetch_line(std::ptr::from_ref(value).cast());
}

#[inline]
fn prefetch_line(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint: it neither faults nor changes anything, whatever the address.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Copies bytes, whole cache lines from the first on with stores that go past the caches where `to` begins one.
///
/// # Safety
/// Both pointers are good for that many bytes, which do not overlap.
#[inline]
unsafe fn stream(to: *mut u8, from: *const u8, len: usize) {
    let done = if cfg!(target_arch = "x86_64") && to.addr().is_multiple_of(LINE) { len - len % LINE } else { 0 };
    #[cfg(target_arch = "x86_64")]
    if done > 0 {
        use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_sfence, _mm_stream_si128};
        let (to, from) = (to.cast::<__m128i>(), from.cast::<__m128i>());
        for at in 0..done / size_of::<__m128i>() {
            // SAFETY: the caller promised both ranges, `to` is aligned; these instructions are in every x86-64.
            unsafe { _mm_stream_si128(to.add(at), _mm_loadu_si128(from.add(at))) };
        }
        // SAFETY: a fence; it orders these stores before whatever publishes the memory.
        unsafe { _mm_sfence() };
    }
    // SAFETY: the caller promised both ranges and that they do not overlap.
    unsafe { std::ptr::copy_nonoverlapping(from.add(done), to.add(done), len - done) };
}

impl Drop for Region {
    fn drop(&mut self) {
        // Before the mapping goes: its place may be another's at once.
        self.watch = None;
        // SAFETY: the mapping is ours and nothing refers to it any more.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// A region dealt out piece by piece while a run is prepared; pieces come back all at once, when it is dropped.
#[derive(Debug)]
pub struct Arena {
    region: Arc<Region>,
    next: AtomicU64,
}

impl Arena {
    /// Maps memory for `bytes` bytes of pieces.
    ///
    /// # Errors
    /// As [`Region::new`].
    pub fn new(bytes: usize) -> io::Result<Self> {
        Region::new(bytes.max(1)).map(Self::on)
    }

    /// Maps memory of a kind for `bytes` bytes of pieces.
    ///
    /// # Errors
    /// As [`Region::new`] and [`Region::shared`].
    pub fn backed(backing: Backing, bytes: usize) -> io::Result<Self> {
        let bytes = bytes.max(1);
        match backing {
            Backing::Any => Region::new(bytes),
            Backing::Shared(Pages::Ordinary) => Region::shared(bytes, false),
            Backing::Shared(Pages::HugeIfFree) => Region::shared(bytes, true).or_else(|_| Region::shared(bytes, false)),
            Backing::Shared(Pages::Huge) => Region::shared(bytes, true),
        }
        .map(Self::on)
    }

    /// Deals out this memory.
    pub fn on(region: Region) -> Self {
        Self { region: Arc::new(region), next: AtomicU64::new(0) }
    }

    /// A piece of `len` bytes whose offset, and so whose address up to a page, is a multiple of `align` (a power of two).
    ///
    /// # Errors
    /// `OutOfMemory` when the arena has no room left.
    pub fn alloc(&self, len: u32, align: u64) -> io::Result<Range> {
        let size = self.region.len() as u64;
        let grow = |next: u64| {
            let end = next.checked_next_multiple_of(align.max(1))?.checked_add(u64::from(len))?;
            (end <= size).then_some(end)
        };
        self.next
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, grow)
            .map(|before| Range { offset: before.next_multiple_of(align.max(1)), len })
            .map_err(|_| io::ErrorKind::OutOfMemory.into())
    }

    /// The memory itself.
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// The memory itself, for who must keep it: a device knows where it is.
    pub fn share(&self) -> Arc<Region> {
        self.region.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_as_they_were_written() {
        let region = Region::new(10_000).unwrap();
        assert_eq!(region.len(), 12_288);
        region.write(5_000, b"doorbell");
        let mut back = [0; 8];
        region.read(5_000, &mut back);
        assert_eq!(&back, b"doorbell");
        assert!(region.equals(5_000, b"doorbell") && !region.equals(5_001, b"doorbell"));
        region.copy_from(0, &region, 5_000, 8);
        assert!(region.equals(0, b"doorbell"));
        region.fill(5_000, 8, 0);
        assert!(region.equals(5_000, &[0; 8]));
    }

    #[test]
    fn no_range_outside_is_reached() {
        let region = Region::new(4096).unwrap();
        for (offset, len) in [(4096, 1), (4095, 2), (u64::MAX, 1), (0, 4097)] {
            let outside = std::panic::catch_unwind(|| region.fill(offset, len, 1));
            assert!(outside.is_err(), "{len} bytes at {offset}");
        }
        region.fill(4096, 0, 1);
    }

    #[test]
    fn two_mappings_of_a_file_show_the_same_bytes() {
        let ours = Region::shared(8192, false).unwrap();
        let theirs = Region::map(ours.file().unwrap(), 4096, 4096, true, 0).unwrap();
        ours.store_u32(4096 + 8, 7, Ordering::Release);
        assert_eq!((theirs.load_u32(8, Ordering::Acquire), theirs.load_u64(8, Ordering::Relaxed)), (7, 7));
        theirs.write_line(64, &[9; 64]);
        assert!(ours.equals(4096 + 64, &[9; 64]) && !theirs.is_lost());
        let odd = std::panic::catch_unwind(|| ours.load_u32(2, Ordering::Relaxed));
        assert!(odd.is_err(), "an access across its width");
        let shorter = ftruncate(ours.file().unwrap(), 4096);
        assert!(shorter.is_err(), "nobody can shorten what we share");
    }

    #[test]
    fn memory_that_its_owner_takes_away_is_lost_but_harmless() {
        let file = memfd_create("theirs", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, 8192).unwrap();
        let region = Region::map(file.as_fd(), 0, 8192, true, 0xff).unwrap();
        region.write(5000, b"here");
        assert!(region.equals(5000, b"here") && !region.is_lost());
        ftruncate(&file, 0).unwrap();
        assert_eq!(region.load_u32(5000, Ordering::Relaxed), u32::MAX);
        assert!(region.is_lost());
        region.write(5000, b"gone");
        assert!(region.equals(5000, b"gone"), "what is there instead can be written, too");
    }

    #[test]
    fn memory_is_bound_to_a_node_that_exists() {
        let region = Region::shared(8192, false).unwrap();
        let error = region.bind_to_node(1023).unwrap_err();
        assert!(error.to_string().contains("NUMA node 1023"), "{error}");
        // A kernel without nodes has none to bind to either.
        if std::path::Path::new("/sys/devices/system/node/node0").exists() {
            region.bind_to_node(0).unwrap();
            region.populate().unwrap();
        }
    }

    #[test]
    fn pieces_are_aligned_disjoint_and_end_with_the_arena() {
        let arena = Arena::new(8192).unwrap();
        let first = arena.alloc(100, 64).unwrap();
        let second = arena.alloc(4096, 4096).unwrap();
        assert_eq!((first.offset, second.offset), (0, 4096));
        assert_eq!(arena.alloc(1, 1).unwrap_err().kind(), io::ErrorKind::OutOfMemory);
    }

    #[test]
    fn touching_ranges_are_joined() {
        let mut list = Vec::new();
        for (offset, len) in [(0, 10), (10, 5), (20, 5)] {
            push_joined(&mut list, Range { offset, len });
        }
        assert_eq!(list, [Range { offset: 0, len: 15 }, Range { offset: 20, len: 5 }]);
        assert_eq!(list[0].part(4, 100), Range { offset: 4, len: 11 });
    }
}
