//! Protection information of blocks that lie in memory: made before they are written, looked at after they were read. What it holds
//! is `doorbell_spec::protection`'s.

use doorbell_platform::{Guard, Range, Region};
use doorbell_spec::protection::{self, Expected, Format, Information, MOST_BYTES, Mismatch};

/// How many bytes before their turn blocks are asked of the cache: the checksum of a short one leaves the processor no room to look
/// past it on its own.
const AHEAD: u32 = 2048;

/// How protected blocks lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// What their protection information is.
    pub format: Format,
    /// Data bytes of a block.
    pub block_size: u32,
    /// Metadata bytes of a block.
    pub metadata_size: u16,
    /// Metadata stands behind the data of each block, else apart from all data.
    pub extended: bool,
}

/// Blocks in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// Where the data of the first begins.
    pub data: u64,
    /// Where its metadata begins, if that is apart.
    pub metadata: u64,
    /// How many they are.
    pub count: u32,
}

/// The checksum that a kind of guard is.
pub fn checksum(guard: protection::Guard) -> Guard {
    match guard {
        protection::Guard::Crc16 => Guard::Crc16,
        protection::Guard::Crc32c => Guard::Crc32c,
        protection::Guard::Crc64 => Guard::Crc64,
    }
}

impl Layout {
    /// Bytes from the data of one block to that of the next.
    pub fn stride(&self) -> u32 {
        self.block_size + if self.extended { u32::from(self.metadata_size) } else { 0 }
    }

    /// Makes the protection information of blocks, the first of which has these tags.
    ///
    /// # Panics
    /// When they are not in the region.
    #[inline]
    pub fn generate(&self, region: &Region, blocks: Blocks, application: u16, mut tags: u128) {
        for (data, metadata) in self.places(blocks) {
            let guard = self.guard(region, blocks, data, metadata);
            let bytes = self.format.encode(Information { guard, application, tags });
            let at = metadata + u64::from(self.format.offset);
            // Of known lengths, which costs less than a call.
            match self.format.guard.size() {
                8 => region.write(at, &bytes[..8]),
                _ => region.write(at, &bytes),
            }
            tags = self.format.next(tags);
        }
    }

    /// Holds blocks against what is expected, of the first with these tags; tells the number of each that is wrong, and how.
    ///
    /// # Panics
    /// When they are not in the region.
    #[inline]
    pub fn verify(
        &self,
        region: &Region,
        blocks: Blocks,
        mut expected: Expected,
        mut wrong: impl FnMut(u32, Mismatch),
    ) {
        for (number, (data, metadata)) in (0..).zip(self.places(blocks)) {
            let (at, mut bytes) = (metadata + u64::from(self.format.offset), [0; MOST_BYTES]);
            match self.format.guard.size() {
                8 => region.read(at, &mut bytes[..8]),
                _ => region.read(at, &mut bytes),
            }
            let found = self.format.decode(&bytes);
            if let Err(mismatch) = self.format.check(&found, &expected, || self.guard(region, blocks, data, metadata)) {
                wrong(number, mismatch);
            }
            expected.tags = self.format.next(expected.tags);
        }
    }

    /// Where data and metadata of each block begin.
    #[inline]
    fn places(&self, blocks: Blocks) -> impl Iterator<Item = (u64, u64)> {
        let (stride, metadata) = match self.extended {
            true => (self.stride(), (blocks.data + u64::from(self.block_size), self.stride())),
            false => (self.block_size, (blocks.metadata, self.metadata_size.into())),
        };
        (0..u64::from(blocks.count))
            .map(move |at| (blocks.data + at * u64::from(stride), metadata.0 + at * u64::from(metadata.1)))
    }

    /// Has what follows the block at `data` brought to the cache, as far as it is of these blocks.
    #[inline]
    fn ask_ahead(&self, region: &Region, blocks: Blocks, data: u64) {
        let stride = u64::from(self.stride());
        let at = data + stride.max(AHEAD.into());
        let end = blocks.data + u64::from(blocks.count) * stride;
        if at < end {
            region.prefetch(Range { offset: at, len: stride.min(AHEAD.into()).min(end - at) as u32 });
        }
    }

    #[inline]
    fn guard(&self, region: &Region, blocks: Blocks, data: u64, metadata: u64) -> u64 {
        self.ask_ahead(region, blocks, data);
        let (data, covered) = (Range { offset: data, len: self.block_size }, self.format.covered.into());
        // One piece costs less than two.
        let (data, covered) = match self.extended {
            true => (Range { len: data.len + covered, ..data }, Range::default()),
            false => (data, Range { offset: metadata, len: covered }),
        };
        region.guard(checksum(self.format.guard), data, covered)
    }
}

#[cfg(test)]
mod tests {
    use doorbell_spec::{
        command::control::{PRCHK_APP, PRCHK_GUARD, PRCHK_REF},
        protection::{Field, Guard},
    };

    use super::*;

    const COUNT: u32 = 9;

    fn layouts() -> impl Iterator<Item = Layout> {
        let guards = [(Guard::Crc16, 0), (Guard::Crc32c, 48), (Guard::Crc64, 12)];
        let sizes = [(512, 8), (512, 16), (4096, 16), (4096, 64)];
        let kinds = guards.into_iter().flat_map(|guard| (1..4).map(move |kind| (guard, kind)));
        let formats = kinds.flat_map(move |kind| sizes.into_iter().map(move |sizes| (kind, sizes)));
        let formats = formats.flat_map(|each| [(each, false), (each, true)]);
        formats.flat_map(|((((guard, bits), kind), (block_size, metadata_size)), first)| {
            let format = Format::new(kind, guard, bits, metadata_size, first).ok();
            let layout = move |extended| format.map(|format| Layout { format, block_size, metadata_size, extended });
            [true, false].into_iter().filter_map(layout)
        })
    }

    fn blocks(layout: &Layout) -> Blocks {
        Blocks { data: 128, metadata: 128 + u64::from(COUNT * layout.stride()), count: COUNT }
    }

    fn wrong(layout: &Layout, region: &Region, tags: u128) -> Vec<(u32, Field)> {
        let expected = Expected { checks: PRCHK_GUARD | PRCHK_APP | PRCHK_REF, application: (0x77, 0xffff), tags };
        let mut wrong = Vec::new();
        layout.verify(region, blocks(layout), expected, |block, mismatch| wrong.push((block, mismatch.field)));
        wrong
    }

    #[test]
    fn what_is_generated_is_found_right_and_any_changed_byte_of_it_wrong() {
        let region = Region::new(64 << 10).unwrap();
        let mut count = 0;
        for layout in layouts() {
            (0..64 << 10)
                .step_by(8)
                .for_each(|at| region.write(at, &at.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()));
            let blocks = blocks(&layout);
            // The reference tag goes past its largest value.
            let tags = layout.format.reference_mask() - 3;
            layout.generate(&region, blocks, 0x77, tags);
            assert_eq!(wrong(&layout, &region, tags), [], "{layout:?}");
            let (data, metadata) = layout.places(blocks).nth(5).unwrap();
            let information = metadata + u64::from(layout.format.offset);
            for (at, field) in [
                (data, Field::Guard),
                (data + u64::from(layout.block_size) - 1, Field::Guard),
                // Where the information is last, what is before it is covered too.
                (metadata, Field::Guard),
                (information, Field::Guard),
                (information + u64::from(layout.format.guard.bits()) / 8, Field::Application),
                (information + u64::from(layout.format.guard.size()) - 1, Field::Reference),
            ] {
                let mut byte = [0];
                region.read(at, &mut byte);
                region.write(at, &[byte[0] ^ 0x10]);
                let looked_at = field != Field::Reference || layout.format.lba_mask() > 0;
                let expected = if looked_at { vec![(5, field)] } else { vec![] };
                assert_eq!(wrong(&layout, &region, tags), expected, "{at} of {layout:?}");
                region.write(at, &byte);
            }
            let far = if layout.format.lba_mask() > 0 { COUNT as usize } else { 0 };
            assert_eq!(wrong(&layout, &region, tags + 1).len(), far, "blocks of elsewhere");
            count += 1;
        }
        assert_eq!(count, 120);
    }

    #[test]
    fn nothing_but_the_information_changes() {
        let region = Region::new(64 << 10).unwrap();
        for layout in layouts() {
            region.fill(0, 64 << 10, 0xa5);
            let blocks = blocks(&layout);
            layout.generate(&region, blocks, 0x77, 1);
            let size = usize::from(layout.format.guard.size());
            for (_, metadata) in layout.places(blocks) {
                region.fill(metadata + u64::from(layout.format.offset), size, 0xa5);
            }
            assert!(region.equals(0, &[0xa5; 64 << 10]), "{layout:?}");
        }
    }
}
