//! Entries of one size in a region, such as a ring's: where they are is checked once, so that an access costs one comparison.

use std::{
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::Region;

/// Entries of `WORDS` quadwords in a region, each quadword reached by one access of the machine.
#[derive(Debug)]
pub struct Table<const WORDS: usize> {
    start: NonNull<[AtomicU64; WORDS]>,
    entries: u32,
    /// Keeps the memory mapped.
    region: Arc<Region>,
}

// SAFETY: as for a region, of which this is a part: all access is by atomic words, and no reference leaves this module.
unsafe impl<const WORDS: usize> Send for Table<WORDS> {}
// SAFETY: as above.
unsafe impl<const WORDS: usize> Sync for Table<WORDS> {}

impl<const WORDS: usize> Table<WORDS> {
    /// The entries that begin at `offset`; `None` when they leave the region or do not begin at a quadword.
    pub fn new(region: Arc<Region>, offset: u64, entries: u32) -> Option<Self> {
        let len = u64::from(entries).checked_mul(size_of::<[AtomicU64; WORDS]>() as u64)?;
        let fits = offset.checked_add(len)? <= region.len() as u64 && offset.is_multiple_of(8);
        let start = fits.then(|| region.pointer(offset, len as usize))?;
        Some(Self { start: NonNull::new(start)?.cast(), entries, region })
    }

    /// The memory that it is in.
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// How many entries there are.
    #[inline]
    pub fn len(&self) -> u32 {
        self.entries
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Reads a quadword of an entry.
    ///
    /// # Panics
    /// When there is no such entry or word.
    #[inline]
    pub fn load(&self, entry: u32, word: usize, order: Ordering) -> u64 {
        self.entry(entry)[word].load(order)
    }

    /// Writes a quadword of an entry.
    ///
    /// # Panics
    /// When there is no such entry or word.
    #[inline]
    pub fn store(&self, entry: u32, word: usize, value: u64, order: Ordering) {
        self.entry(entry)[word].store(value, order);
    }

    /// Copies an entry, each quadword of it read once.
    ///
    /// # Panics
    /// When there is no such entry or `bytes` is shorter.
    #[inline]
    pub fn read(&self, entry: u32, bytes: &mut [u8]) {
        for (word, to) in self.entry(entry).iter().zip(bytes[..WORDS * 8].chunks_exact_mut(8)) {
            to.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
    }

    /// Has entries from `first` on, of which there are so many, brought to the cache.
    ///
    /// # Panics
    /// When there are fewer.
    #[inline]
    pub fn prefetch(&self, first: u32, count: u32) {
        assert!(u64::from(first) + u64::from(count) <= self.entries.into(), "{count} entries from {first}");
        for entry in first..first + count {
            crate::memory::prefetch(self.entry(entry));
        }
    }

    /// Writes an entry with as few stores as the processor can, in any order.
    ///
    /// # Panics
    /// When there is no such entry.
    #[inline]
    pub fn write(&self, entry: u32, words: [u64; WORDS]) {
        let to = std::ptr::from_ref(self.entry(entry)).cast_mut();
        // SAFETY: the entry is in the mapping and begins at a quadword. The reference above is gone, and others that could be are
        // to atomics, on another thread, for the time of one access: a race garbles what it reads, as with any peer's memory.
        unsafe { to.cast::<[u64; WORDS]>().write(words) };
    }

    #[inline]
    fn entry(&self, entry: u32) -> &[AtomicU64; WORDS] {
        assert!(entry < self.entries, "entry {entry} of {}", self.entries);
        // SAFETY: `new` checked that so many entries lie in the mapping, which `region` keeps, and are aligned. Nothing refers to
        // them but as atomics.
        unsafe { self.start.add(entry as usize).as_ref() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_where_they_were_said_to_be_and_no_further() {
        let region = Arc::new(Region::new(4096).unwrap());
        let table = Table::<2>::new(region.clone(), 4096 - 32, 2).unwrap();
        table.write(0, [1, 2]);
        table.store(1, 1, 9, Ordering::Release);
        assert_eq!(region.load_u64(4096 - 24, Ordering::Relaxed), 2);
        assert_eq!(region.load_u64(4096 - 8, Ordering::Relaxed), 9);
        let mut bytes = [0; 16];
        table.read(0, &mut bytes);
        assert_eq!(bytes, *[1u64.to_ne_bytes(), 2u64.to_ne_bytes()].as_flattened());
        table.prefetch(0, 2);
        assert_eq!((table.load(0, 0, Ordering::Acquire), table.len()), (1, 2));
        assert!(std::panic::catch_unwind(|| table.load(2, 0, Ordering::Relaxed)).is_err());
        for (offset, entries) in [(4096 - 24, 2), (4, 1), (u64::MAX - 7, 1), (0, 257), (4097, 0)] {
            assert!(Table::<2>::new(region.clone(), offset, entries).is_none(), "{entries} at {offset}");
        }
    }
}
