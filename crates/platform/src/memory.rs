//! Memory for I/O: a [`Region`] is a mapping that the kernel, a device or another thread may touch while we look elsewhere;
//! an [`Arena`] deals [`Range`]s of one out to the commands of a worker.
//!
//! No reference into a region ever leaves this module: bytes are copied in and out, or the kernel is pointed at them
//! (see [`crate::socket`]). A range is used by one command at a time; who breaks that rule garbles bytes, not the process.

use std::{
    io,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// Bytes of a cache line.
const LINE: usize = 64;

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

/// Zeroed, page-aligned memory of this process.
#[derive(Debug)]
pub struct Region {
    start: NonNull<u8>,
    len: usize,
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
        const HUGE: usize = 2 << 20;
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
        if align == HUGE {
            // SAFETY: the range is the mapping just made. A kernel without huge pages says no, which costs only speed.
            let _ = unsafe { madvise(start.as_ptr().cast(), len, Advice::LinuxHugepage) };
        }
        Ok(Self { start, len })
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

    /// Copies `len` bytes from `from` to `to` past the caches, where the processor can and `to` begins a cache line: half the
    /// cost of an ordinary copy where the memory at `to` is cold, as nothing is read before it is overwritten.
    ///
    /// # Panics
    /// When a range leaves the region, or the two overlap.
    #[inline]
    pub fn copy_past_cache(&self, to: u64, from: u64, len: usize) {
        let (target, origin) = (self.pointer(to, len), self.pointer(from, len));
        assert!(to.abs_diff(from) >= len as u64, "overlapping ranges");
        let lines = if target.addr().is_multiple_of(LINE) { len / LINE } else { 0 };
        // SAFETY: `pointer` checked both ranges, of which the lines are the first part; they do not overlap, and `target` begins
        // a cache line if there are any lines.
        unsafe { stream(target, origin, lines) };
        let done = (lines * LINE) as u64;
        self.copy_from(to + done, self, from + done, len - lines * LINE);
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

    /// Feeds a range to a running CRC-32C.
    ///
    /// # Panics
    /// When the range leaves the region.
    #[inline]
    pub fn checksum(&self, range: Range, digest: &mut crc_fast::Digest) {
        let from = self.pointer(range.offset, range.len as usize);
        // SAFETY: `pointer` checked the range; the slice lives for this call only, while the range belongs to the command
        // whose digest is made.
        digest.update(unsafe { std::slice::from_raw_parts(from, range.len as usize) });
    }

    /// The address of a range, for the kernel.
    #[inline]
    pub(crate) fn pointer(&self, offset: u64, len: usize) -> *mut u8 {
        let fits = usize::try_from(offset).ok().filter(|&at| at <= self.len && len <= self.len - at);
        let at = fits.unwrap_or_else(|| panic!("{len} bytes at {offset} leave a region of {}", self.len));
        // SAFETY: `at` is at most the mapping's length.
        unsafe { self.start.as_ptr().add(at) }
    }
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

/// Copies cache lines with stores that go past the caches.
///
/// # Safety
/// Both pointers are good for that many lines, which do not overlap; `to` begins a cache line.
#[inline]
unsafe fn stream(to: *mut u8, from: *const u8, lines: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_sfence, _mm_stream_si128};
        let (to, from) = (to.cast::<__m128i>(), from.cast::<__m128i>());
        for line in 0..lines {
            for at in line * 4..line * 4 + 4 {
                // SAFETY: the caller promised both ranges and the alignment; these instructions are in every x86-64.
                unsafe { _mm_stream_si128(to.add(at), _mm_loadu_si128(from.add(at))) };
            }
        }
        // SAFETY: a fence; it orders these stores before whatever publishes the memory.
        unsafe { _mm_sfence() };
    }
    #[cfg(not(target_arch = "x86_64"))]
    // SAFETY: the caller promised both ranges and that they do not overlap.
    unsafe {
        std::ptr::copy_nonoverlapping(from, to, lines * LINE);
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing refers to it any more.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// A region dealt out piece by piece while a run is prepared; pieces come back all at once, when it is dropped.
#[derive(Debug)]
pub struct Arena {
    region: Region,
    next: AtomicU64,
}

impl Arena {
    /// Maps memory for `bytes` bytes of pieces.
    ///
    /// # Errors
    /// As [`Region::new`].
    pub fn new(bytes: usize) -> io::Result<Self> {
        Ok(Self { region: Region::new(bytes.max(1))?, next: AtomicU64::new(0) })
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
