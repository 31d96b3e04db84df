//! How a command says where its data is (Base 4.3): PRP entries, or SGL descriptors where the controller takes them and they are the
//! shorter way. Made once a slot, in memory of the queue's own where a command has no room for it.

use std::sync::Arc;

use doorbell_platform::{Arena, Backing, Range, Region, memory::push_joined};
use doorbell_spec::command::{Dptr, FLAGS_SGL, SglDescriptor};
use zerocopy::IntoBytes;

use super::{BusMap, Keeper, Place};

/// Bytes of a PRP entry and of an SGL descriptor.
const ENTRY: usize = 8;
const DESCRIPTOR: usize = 16;
/// First and most bytes of memory for lists that are mapped at once: each is a mapping of the device's.
const FIRST_CHUNK: usize = 64 << 10;
const MOST_CHUNK: usize = 4 << 20;

/// A data pointer, and the flag that says what it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pointer {
    pub dptr: Dptr,
    pub flags: u8,
}

/// How data may be described.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// Bytes of the controller's memory page.
    pub page: u64,
    /// Whether the controller takes SGLs.
    pub sgl: bool,
}

impl Rules {
    /// Describes `data` of a region that the device finds through `map`; `list` gives memory for a list of that many bytes.
    pub fn describe(
        self,
        data: &[Range],
        map: &BusMap,
        mut list: impl FnMut(usize) -> Result<Place, String>,
    ) -> Result<Pointer, String> {
        let pieces = pieces(data, map)?;
        if let Some(piece) = pieces.iter().find(|piece| (piece.offset | u64::from(piece.len)) & 3 != 0) {
            return Err(format!("{} bytes at {:x}h of the bus are not whole dwords", piece.len, piece.offset));
        }
        let entries = self.prp_entries(&pieces);
        match &entries {
            Ok(entries) if entries.len() <= 2 => {
                let at = |index| entries.get(index).copied().unwrap_or(0);
                return Ok(Pointer { dptr: Dptr::prp(at(0), at(1)), flags: 0 });
            }
            _ => {}
        }
        // One descriptor spares the device a list; a list of descriptors is at least shorter than one of pages.
        if self.sgl && pieces.len() * DESCRIPTOR <= self.page as usize {
            let block = |piece: &Range| SglDescriptor::data_block(piece.offset, piece.len);
            let descriptor = match &pieces[..] {
                [piece] => block(piece),
                _ => {
                    let descriptors: Vec<_> = pieces.iter().map(block).collect();
                    let bytes = descriptors.as_bytes();
                    let place = list(bytes.len())?;
                    place.region.write(place.offset, bytes);
                    SglDescriptor::last_segment(place.bus, bytes.len() as u32)
                }
            };
            return Ok(Pointer { dptr: descriptor.into(), flags: FLAGS_SGL });
        }
        let entries = entries?;
        let place = list(self.list_bytes(entries.len() - 1))?;
        self.write_list(&place, &entries[1..]);
        Ok(Pointer { dptr: Dptr::prp(entries[0], place.bus), flags: 0 })
    }

    /// An entry a page; only the first may begin, and only the last may end, within one.
    fn prp_entries(self, pieces: &[Range]) -> Result<Vec<u64>, String> {
        let mut entries = Vec::new();
        for (index, piece) in pieces.iter().enumerate() {
            if index > 0 && piece.offset % self.page != 0 || index + 1 < pieces.len() && piece.end() % self.page != 0 {
                let what = "the controller takes no SGL that long, and in PRP entries only the first range may begin and only the \
                            last may end within a page";
                return Err(format!("{} bytes at {:x}h of the bus: {what}", piece.len, piece.offset));
            }
            entries.push(piece.offset);
            let second = piece.offset - piece.offset % self.page + self.page;
            entries.extend((second..piece.end()).step_by(self.page as usize));
        }
        Ok(entries)
    }

    /// Bytes of a list of that many entries; in all pages but the last, one entry leads to the next page.
    fn list_bytes(self, entries: usize) -> usize {
        let room = self.page as usize / ENTRY;
        let mut pages = 0;
        let mut left = entries;
        while left > room {
            left -= room - 1;
            pages += 1;
        }
        pages * self.page as usize + left * ENTRY
    }

    fn write_list(self, place: &Place, entries: &[u64]) {
        let room = self.page as usize / ENTRY;
        let (mut left, mut page) = (entries, 0);
        while left.len() > room {
            let (here, rest) = left.split_at(room - 1);
            write_entries(place, page, here.iter().copied().chain([place.bus + page + self.page]));
            (left, page) = (rest, page + self.page);
        }
        write_entries(place, page, left.iter().copied());
    }
}

fn write_entries(place: &Place, at: u64, entries: impl Iterator<Item = u64>) {
    for (index, entry) in entries.enumerate() {
        place.region.write(place.offset + at + (index * ENTRY) as u64, &entry.to_le_bytes());
    }
}

/// The data in bus addresses, as few pieces as can be.
fn pieces(data: &[Range], map: &BusMap) -> Result<Vec<Range>, String> {
    let mut pieces = Vec::new();
    for range in data {
        let mut left = *range;
        while left.len > 0 {
            let outside = || format!("the device does not reach offset {} of the memory", left.offset);
            let (offset, together) = map.locate(left.offset).ok_or_else(outside)?;
            let here = u32::try_from(together).unwrap_or(u32::MAX).min(left.len);
            push_joined(&mut pieces, Range { offset, len: here });
            left = left.part(here, u32::MAX);
        }
    }
    Ok(pieces)
}

/// Memory for lists, a growing number of chunks.
pub(super) struct Lists {
    backing: Backing,
    page: u64,
    chunks: Vec<(Arena, BusMap)>,
}

impl Lists {
    pub fn new(backing: Backing, page: u64) -> Self {
        Self { backing, page, chunks: Vec::new() }
    }

    /// Room for a list, within a page or from the start of one.
    pub fn place(&mut self, bytes: usize, keeper: &dyn Keeper) -> Result<Place, String> {
        // Pages that follow each other in a list must do so on the bus.
        let align = (bytes as u64).next_power_of_two().min(self.page);
        let len = (bytes as u64).next_multiple_of(align) as u32;
        let room = |(arena, map): &(Arena, BusMap)| Some((arena.alloc(len, align).ok()?, arena.share(), map.clone()));
        let (range, region, map) = match self.chunks.last().and_then(room) {
            Some(found) => found,
            None => {
                let size = (FIRST_CHUNK << self.chunks.len().min(16)).min(MOST_CHUNK).max(len as usize);
                let arena = Arena::backed(self.backing, size)
                    .map_err(|why| format!("memory for lists of data addresses ({size} bytes): {why}"))?;
                let map = keeper.map(&arena.share())?;
                self.chunks.push((arena, map));
                self.chunks.last().and_then(room).ok_or("no room in new memory for lists")?
            }
        };
        let (bus, together) = map.locate(range.offset).ok_or("the device does not reach the memory for lists")?;
        if bus % align != 0 || together < u64::from(len) {
            return Err(format!("a list of {len} bytes at {bus:x}h of the bus crosses a page or a gap"));
        }
        Ok(Place { region, offset: range.offset, bus })
    }

    /// What the device may read.
    pub fn memory(&self) -> impl Iterator<Item = Arc<Region>> + '_ {
        self.chunks.iter().map(|(arena, _)| arena.share())
    }
}
