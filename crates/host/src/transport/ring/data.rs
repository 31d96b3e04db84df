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

/// Describes the data of commands. What it needs meanwhile is kept, as slots may be prepared anew for each command.
pub(super) struct Describer {
    rules: Rules,
    /// The data in bus addresses, as few pieces as can be.
    pieces: Vec<Range>,
    /// The same as PRP entries.
    entries: Vec<u64>,
}

impl Describer {
    pub fn new(rules: Rules) -> Self {
        Self { rules, pieces: Vec::new(), entries: Vec::new() }
    }

    /// Describes `data` of a region that the device finds through `map`; `list` gives memory for a list of that many bytes.
    pub fn describe(
        &mut self,
        data: &[Range],
        map: &BusMap,
        list: impl FnOnce(usize) -> Result<Place, String>,
    ) -> Result<Pointer, String> {
        let Rules { page, sgl } = self.rules;
        self.locate(data, map)?;
        let entries = self.fill_entries();
        if let (Ok(()), [first, rest @ ..]) = (&entries, &self.entries[..])
            && rest.len() <= 1
        {
            return Ok(Pointer { dptr: Dptr::prp(*first, rest.first().copied().unwrap_or(0)), flags: 0 });
        }
        // One descriptor spares the device a list; a list of descriptors is at least shorter than one of pages.
        if sgl && (self.pieces.len() * DESCRIPTOR) as u64 <= page {
            return self.sgl(list).map(|sgl| Pointer { dptr: sgl.into(), flags: FLAGS_SGL });
        }
        entries?;
        let place = list(list_bytes(self.entries.len() - 1, page))?;
        write_list(&place, &self.entries[1..], page);
        Ok(Pointer { dptr: Dptr::prp(self.entries[0], place.bus), flags: 0 })
    }

    fn locate(&mut self, data: &[Range], map: &BusMap) -> Result<(), String> {
        self.pieces.clear();
        for range in data {
            let mut left = *range;
            while left.len > 0 {
                let outside = || format!("the device does not reach offset {} of the memory", left.offset);
                let (offset, together) = map.locate(left.offset).ok_or_else(outside)?;
                let len = u32::try_from(together).unwrap_or(u32::MAX).min(left.len);
                push_joined(&mut self.pieces, Range { offset, len });
                left = left.part(len, u32::MAX);
            }
        }
        match self.pieces.iter().find(|piece| (piece.offset | u64::from(piece.len)) & 3 != 0) {
            Some(piece) => Err(format!("{} bytes at {:x}h of the bus are not whole dwords", piece.len, piece.offset)),
            None => Ok(()),
        }
    }

    /// An entry a page; only the first piece may begin, and only the last may end, within one.
    fn fill_entries(&mut self) -> Result<(), String> {
        let page = self.rules.page;
        self.entries.clear();
        for (index, piece) in self.pieces.iter().enumerate() {
            let last = index + 1 == self.pieces.len();
            if index > 0 && piece.offset % page != 0 || !last && piece.end() % page != 0 {
                let what = "the controller takes no SGL that long, and in PRP entries only the first range may begin and only the \
                            last may end within a page";
                return Err(format!("{} bytes at {:x}h of the bus: {what}", piece.len, piece.offset));
            }
            self.entries.push(piece.offset);
            let second = piece.offset - piece.offset % page + page;
            self.entries.extend((second..piece.end()).step_by(page as usize));
        }
        Ok(())
    }

    fn sgl(&self, list: impl FnOnce(usize) -> Result<Place, String>) -> Result<SglDescriptor, String> {
        let block = |piece: &Range| SglDescriptor::data_block(piece.offset, piece.len);
        if let [piece] = &self.pieces[..] {
            return Ok(block(piece));
        }
        let bytes = self.pieces.len() * DESCRIPTOR;
        let place = list(bytes)?;
        for (index, piece) in self.pieces.iter().enumerate() {
            place.region.write(place.offset + (index * DESCRIPTOR) as u64, block(piece).as_bytes());
        }
        Ok(SglDescriptor::last_segment(place.bus, bytes as u32))
    }
}

/// Bytes of a list of that many PRP entries; in all pages but the last, one entry leads to the next page.
fn list_bytes(entries: usize, page: u64) -> usize {
    let room = page as usize / ENTRY;
    let (mut left, mut before) = (entries, 0);
    while left > room {
        (left, before) = (left - (room - 1), before + page as usize);
    }
    before + left * ENTRY
}

fn write_list(place: &Place, entries: &[u64], page: u64) {
    let room = page as usize / ENTRY;
    let (mut left, mut at) = (entries, 0);
    while left.len() > room {
        let (here, rest) = left.split_at(room - 1);
        write_entries(place, at, here.iter().copied().chain([place.bus + at + page]));
        (left, at) = (rest, at + page);
    }
    write_entries(place, at, left.iter().copied());
}

fn write_entries(place: &Place, at: u64, entries: impl Iterator<Item = u64>) {
    for (index, entry) in entries.enumerate() {
        place.region.write(place.offset + at + (index * ENTRY) as u64, &entry.to_le_bytes());
    }
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

    /// Room for a list, which lies together on the bus, within a page or from the start of one.
    pub fn place(&mut self, bytes: usize, keeper: &dyn Keeper) -> Result<Place, String> {
        // A power of two at a multiple of itself crosses nothing that is larger.
        let len = bytes.next_power_of_two() as u32;
        let align = u64::from(len);
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
        if bus % align.min(self.page) != 0 || together < u64::from(len) {
            return Err(format!("a list of {len} bytes at {bus:x}h of the bus crosses a page or a gap"));
        }
        Ok(Place { region, offset: range.offset, bus })
    }

    /// What the device may read.
    pub fn memory(&self) -> impl Iterator<Item = Arc<Region>> + '_ {
        self.chunks.iter().map(|(arena, _)| arena.share())
    }
}
