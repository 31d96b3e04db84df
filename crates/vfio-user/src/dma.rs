//! The memory that a device may reach: ranges of its address space, each with the memory that is there. Kept by the server, who looks
//! up each address that a command names, and by the client, who answers for memory that the server cannot map.

use std::{cell::Cell, sync::Arc};

use doorbell_platform::Region;

use crate::{
    PAGE,
    wire::dma::{READ, WRITE},
};

/// What a device does with memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It reads.
    Read,
    /// It writes.
    Write,
}

/// A part of the device's address space with memory behind it.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    /// The memory; none where the server cannot map it and must ask the client for its bytes.
    pub memory: Option<&'a Arc<Region>>,
    /// Of the piece, in the memory.
    pub offset: u64,
    /// Bytes from there on that belong to the range asked for.
    pub len: u64,
}

/// Addresses that no mapping covers, or none that allows the access or can be reached from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{len} bytes at {addr:#x} are not mapped for this")]
pub struct Outside {
    /// The first one.
    pub addr: u64,
    /// How many bytes were asked for.
    pub len: u64,
}

#[derive(Debug)]
struct Mapping {
    addr: u64,
    size: u64,
    flags: u32,
    memory: Option<Arc<Region>>,
}

impl Mapping {
    fn covers(&self, addr: u64) -> bool {
        addr.wrapping_sub(self.addr) < self.size
    }
}

/// What is mapped.
#[derive(Debug, Default)]
pub struct DmaMap {
    /// By address, none overlapping another.
    mappings: Vec<Mapping>,
    /// The one that was found last: most look-ups find it again.
    last: Cell<usize>,
}

/// Why a range cannot be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unmappable {
    #[error("it is not whole pages")]
    Unaligned,
    #[error("it ends behind the last address")]
    Wraps,
    #[error("some of it is mapped already")]
    Overlaps,
    #[error("neither reading nor writing is allowed, or another flag is set")]
    Flags,
}

impl DmaMap {
    /// Number of ranges.
    pub fn len(&self) -> usize {
        self.mappings.len()
    }

    /// Whether nothing is mapped.
    pub fn is_empty(&self) -> bool {
        self.mappings.is_empty()
    }

    /// What is at `addr`, as far as one mapping covers the `len` bytes from there; the rest is found by asking again behind it. None
    /// where nothing is mapped that allows this.
    #[inline]
    pub fn find(&self, addr: u64, len: u64, access: Access) -> Option<Piece<'_>> {
        let mapping = match self.mappings.get(self.last.get()) {
            Some(mapping) if mapping.covers(addr) => mapping,
            _ => self.search(addr)?,
        };
        let needed = match access {
            Access::Read => READ,
            Access::Write => WRITE,
        };
        let offset = addr - mapping.addr;
        let piece = Piece { memory: mapping.memory.as_ref(), offset, len: len.min(mapping.size - offset) };
        (mapping.flags & needed != 0).then_some(piece)
    }

    fn search(&self, addr: u64) -> Option<&Mapping> {
        let at = self.mappings.partition_point(|mapping| mapping.addr <= addr).checked_sub(1)?;
        let mapping = self.mappings[at].covers(addr).then_some(&self.mappings[at])?;
        self.last.set(at);
        Some(mapping)
    }

    /// Copies what is at `addr` into `bytes`, as the device reads it.
    ///
    /// # Errors
    /// Where some of it is not mapped for reading or not here; what `bytes` holds then is not said.
    pub fn read(&self, addr: u64, bytes: &mut [u8]) -> Result<(), Outside> {
        self.each(addr, bytes.len(), Access::Read, |memory, offset, at, len| {
            memory.read(offset, &mut bytes[at..at + len])
        })
    }

    /// Copies `bytes` to `addr`, as the device writes it.
    ///
    /// # Errors
    /// Where some of it is not mapped for writing or not here; what lies before may have been written.
    pub fn write(&self, addr: u64, bytes: &[u8]) -> Result<(), Outside> {
        self.each(addr, bytes.len(), Access::Write, |memory, offset, at, len| {
            memory.write(offset, &bytes[at..at + len])
        })
    }

    fn each(
        &self,
        addr: u64,
        len: usize,
        access: Access,
        mut copy: impl FnMut(&Region, u64, usize, usize),
    ) -> Result<(), Outside> {
        let outside = Outside { addr, len: len as u64 };
        let mut done = 0;
        while done < len {
            let from = addr.checked_add(done as u64).ok_or(outside)?;
            let Piece { memory, offset, len: part } = self.find(from, (len - done) as u64, access).ok_or(outside)?;
            copy(memory.ok_or(outside)?, offset, done, part as usize);
            done += part as usize;
        }
        Ok(())
    }

    /// Whether a range could be mapped.
    pub(crate) fn check(&self, addr: u64, size: u64, flags: u32) -> Result<(), Unmappable> {
        if size == 0 || !(addr | size).is_multiple_of(PAGE) {
            return Err(Unmappable::Unaligned);
        }
        if flags == 0 || flags & !(READ | WRITE) != 0 {
            return Err(Unmappable::Flags);
        }
        let end = addr.checked_add(size).ok_or(Unmappable::Wraps)?;
        let before_end = self.mappings.partition_point(|mapping| mapping.addr < end);
        match before_end.checked_sub(1).map(|at| &self.mappings[at]) {
            Some(before) if before.addr + before.size > addr => Err(Unmappable::Overlaps),
            _ => Ok(()),
        }
    }

    /// Maps a range that [`DmaMap::check`] was asked about. Byte 0 of `memory`, which is at least as long, is at `addr`.
    pub(crate) fn insert(&mut self, addr: u64, size: u64, flags: u32, memory: Option<Arc<Region>>) {
        let at = self.mappings.partition_point(|mapping| mapping.addr < addr);
        self.mappings.insert(at, Mapping { addr, size, flags, memory });
    }

    /// Forgets the range that begins at `addr`; its size, or none where none begins there or `size` is another.
    pub(crate) fn remove(&mut self, addr: u64, size: Option<u64>) -> Option<u64> {
        let at = self.mappings.binary_search_by_key(&addr, |mapping| mapping.addr).ok()?;
        let fits = size.is_none_or(|size| self.mappings[at].size == size);
        fits.then(|| self.mappings.remove(at).size)
    }

    /// Forgets all ranges.
    pub(crate) fn clear(&mut self) {
        self.mappings.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn memory(pages: usize, fill: u8) -> Option<Arc<Region>> {
        let region = Region::new(pages * PAGE as usize).unwrap();
        region.fill(0, region.len(), fill);
        Some(Arc::new(region))
    }

    fn some() -> DmaMap {
        let mut map = DmaMap::default();
        map.insert(0x3000, 0x1000, READ | WRITE, memory(1, 3));
        map.insert(0x1000, 0x2000, READ | WRITE, memory(2, 1));
        map.insert(0x8000, 0x1000, READ, memory(1, 8));
        map.insert(0xa000, 0x1000, READ | WRITE, None);
        map
    }

    #[test]
    fn a_range_is_found_piece_by_piece() {
        let map = some();
        for _ in 0..2 {
            let piece = map.find(0x2800, 0x1000, Access::Write).unwrap();
            assert_eq!((piece.offset, piece.len), (0x1800, 0x800));
            let piece = map.find(0x3000, 0x800, Access::Write).unwrap();
            assert_eq!((piece.offset, piece.len), (0, 0x800));
        }
        for addr in [0, 0xfff, 0x4000, 0x9000, u64::MAX] {
            assert!(map.find(addr, 1, Access::Read).is_none(), "{addr:#x}");
        }
        assert!(map.find(0x8000, 1, Access::Read).is_some() && map.find(0x8000, 1, Access::Write).is_none());
        assert!(map.find(0xa000, 1, Access::Read).unwrap().memory.is_none());
    }

    #[test]
    fn bytes_are_copied_across_mappings_and_never_outside() {
        let map = some();
        let mut bytes = [0; 0x1000];
        map.read(0x2800, &mut bytes).unwrap();
        assert!(bytes[..0x800] == [1; 0x800] && bytes[0x800..] == [3; 0x800]);
        map.write(0x2fff, &[5, 6]).unwrap();
        map.read(0x2fff, &mut bytes[..2]).unwrap();
        assert_eq!(bytes[..2], [5, 6]);
        for addr in [0x3800, 0x8800, 0xa000, u64::MAX - 3] {
            assert_eq!(map.read(addr, &mut bytes), Err(Outside { addr, len: 0x1000 }));
        }
        assert!(map.write(0x8000, &[0]).is_err(), "read-only");
    }

    #[test]
    fn what_cannot_be_mapped_is_refused() {
        let map = some();
        let refused = [
            (0x1000, 0x1000, Unmappable::Overlaps),
            (0, 0x2000, Unmappable::Overlaps),
            (0, 0x100_0000, Unmappable::Overlaps),
            (0x2000, 0x1000, Unmappable::Overlaps),
            (0x5000, 0, Unmappable::Unaligned),
            (0x5000, 0x800, Unmappable::Unaligned),
            (0x5800, 0x1000, Unmappable::Unaligned),
            (0xffff_ffff_ffff_f000, 0x1000, Unmappable::Wraps),
            (0xffff_ffff_ffff_f000, 0x2000, Unmappable::Wraps),
        ];
        for (addr, size, why) in refused {
            assert_eq!(map.check(addr, size, READ), Err(why), "{size:#x} at {addr:#x}");
        }
        assert_eq!(map.check(0x5000, 0x1000, 4 | READ), Err(Unmappable::Flags));
        assert_eq!(map.check(0x5000, 0x1000, 0), Err(Unmappable::Flags));
        for (addr, size) in [(0, 0x1000), (0x4000, 0x4000), (0x9000, 0x1000), (0xb000, 0x1000)] {
            assert_eq!(map.check(addr, size, READ), Ok(()), "{size:#x} at {addr:#x}");
        }
    }

    #[test]
    fn only_whole_mappings_go() {
        let mut map = some();
        assert_eq!(map.remove(0x1000, Some(0x1000)), None);
        assert_eq!(map.remove(0x2000, None), None);
        assert!(map.find(0xa000, 1, Access::Read).is_some());
        assert_eq!(map.remove(0x1000, Some(0x2000)), Some(0x2000));
        assert!(map.find(0x1000, 1, Access::Read).is_none() && map.find(0x3000, 1, Access::Read).is_some());
        map.clear();
        assert!(map.is_empty() && map.find(0x3000, 1, Access::Read).is_none());
    }

    proptest! {
        /// Held against a list of pages.
        #[test]
        fn every_address_is_where_it_was_mapped(
            steps in prop::collection::vec((any::<bool>(), 0u64..24, 1u64..6), 1..40),
        ) {
            let (mut map, mut pages) = (DmaMap::default(), [None; 32]);
            for (insert, page, count) in steps {
                let (addr, size) = (page * PAGE, count * PAGE);
                if insert {
                    let free = pages[page as usize..(page + count) as usize].iter().all(Option::is_none);
                    prop_assert_eq!(map.check(addr, size, READ).is_ok(), free);
                    if free {
                        map.insert(addr, size, READ, None);
                        (page..page + count).for_each(|at| pages[at as usize] = Some(page));
                    }
                } else if let Some(size) = map.remove(addr, None) {
                    (page..page + size / PAGE).for_each(|at| pages[at as usize] = None);
                } else {
                    prop_assert!(pages[page as usize] != Some(page));
                }
                for (at, first) in (0u64..).zip(pages) {
                    let found = map.find(at * PAGE + 7, 1, Access::Read).map(|piece| piece.offset);
                    prop_assert_eq!(found, first.map(|first| (at - first) * PAGE + 7));
                }
            }
        }
    }
}
