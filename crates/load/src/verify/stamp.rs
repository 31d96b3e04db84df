//! The stamp in each block that is written, and what a block that was read turns out to be.
//!
//! A block begins with a magic number, the CRC-32C of what follows it, the number of the run, the LBA and the sequence number of the
//! write, and ends with a word made of run and sequence, so that a block of which only one end was written is known for that.

use std::collections::HashMap;

use doorbell_platform::{Crc32c, Range, Region};

const MAGIC: u64 = u64::from_le_bytes(*b"doorbell");
/// Where the bytes begin that the checksum is of.
const SUMMED: usize = 12;
const HEAD: usize = 36;
const TAIL: usize = 8;

/// What the stamps of a run are made of, and what checks them.
#[derive(Debug)]
pub(super) struct Stamps {
    run: u64,
    block_size: u32,
    /// Of each bit, counted from the end of a block, what its change does to a checksum; made when the first one is wrong.
    syndromes: HashMap<u32, u32>,
}

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// What this run wrote, whole.
    Ours { lba: u64, sequence: u64 },
    /// The same with one bit changed.
    Flipped { bit: u32 },
    /// It begins with what one write of this run wrote, and ends with what another wrote, or something else.
    Torn { sequence: u64 },
    /// It begins and ends as this run writes, and is something else between.
    Broken { sequence: u64 },
    /// What was there before, or nobody knows; `tail` is its last word.
    Foreign { sum: u32, tail: u64 },
}

impl Stamps {
    pub fn new(run: u64, block_size: u32) -> Self {
        Self { run, block_size, syndromes: HashMap::new() }
    }

    /// The last word of a block; those of two writes are many bits apart, so that none looks like another with one bit changed.
    pub fn tail(&self, sequence: u64) -> u64 {
        let mixed = (self.run ^ sequence).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb)
    }

    /// Puts a stamp into the block at `at`.
    pub fn put(&self, region: &Region, at: u64, lba: u64, sequence: u64) {
        let mut head = [0; HEAD];
        head[..8].copy_from_slice(&MAGIC.to_le_bytes());
        for (to, word) in [self.run, lba, sequence].into_iter().enumerate() {
            head[SUMMED + 8 * to..][..8].copy_from_slice(&word.to_le_bytes());
        }
        region.write(at, &head);
        region.write(at + u64::from(self.block_size) - TAIL as u64, &self.tail(sequence).to_le_bytes());
        region.write(at + 8, &self.sum(region, at, SUMMED).to_le_bytes());
    }

    /// What the block at `at` holds.
    pub fn look(&mut self, region: &Region, at: u64) -> Content {
        let (mut head, mut tail) = ([0; HEAD], [0; TAIL]);
        region.read(at, &mut head);
        region.read(at + u64::from(self.block_size) - TAIL as u64, &mut tail);
        let word = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("8 bytes"));
        let (magic, run, lba, sequence) = (word(0), word(SUMMED), word(SUMMED + 8), word(SUMMED + 16));
        let tail = u64::from_le_bytes(tail);
        let ours = magic == MAGIC && run == self.run;
        if !ours && (magic ^ MAGIC).count_ones() + (run ^ self.run).count_ones() > 1 {
            return Content::Foreign { sum: self.sum(region, at, 0), tail };
        }
        let stored = u32::from_le_bytes(head[8..SUMMED].try_into().expect("4 bytes"));
        let wrong = self.sum(region, at, SUMMED) ^ stored;
        match wrong {
            0 if ours => Content::Ours { lba, sequence },
            0 => Content::Flipped { bit: (magic ^ MAGIC).trailing_zeros() },
            _ if wrong.is_power_of_two() => Content::Flipped { bit: 64 + wrong.trailing_zeros() },
            _ => match self.flipped(wrong) {
                Some(bit) => Content::Flipped { bit },
                None if tail != self.tail(sequence) => Content::Torn { sequence },
                None => Content::Broken { sequence },
            },
        }
    }

    /// The bit of a block whose change alone makes a checksum differ by this, if one does.
    pub fn flipped(&mut self, difference: u32) -> Option<u32> {
        if self.syndromes.is_empty() {
            let mut zeroes = vec![0; self.block_size as usize];
            let none = Crc32c::of(&zeroes);
            for bit in 0..self.block_size * 8 {
                let (byte, mask) = ((bit / 8) as usize, 1 << (bit % 8));
                zeroes[byte] = mask;
                self.syndromes.insert(Crc32c::of(&zeroes) ^ none, bit);
                zeroes[byte] = 0;
            }
        }
        self.syndromes.get(&difference).copied()
    }

    fn sum(&self, region: &Region, at: u64, from: usize) -> u32 {
        let mut crc = Crc32c::new();
        region.checksum(Range { offset: at + from as u64, len: self.block_size - from as u32 }, &mut crc);
        crc.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u32 = 512;

    #[test]
    fn every_flipped_bit_is_found_and_named() {
        let (region, mut stamps) = (Region::new(4096).unwrap(), Stamps::new(77, SIZE));
        region.fill(0, 4096, 0xa5);
        stamps.put(&region, 0, 9, 5);
        assert_eq!(stamps.look(&region, 0), Content::Ours { lba: 9, sequence: 5 });
        for bit in 0..SIZE * 8 {
            let (at, mut byte) = (u64::from(bit / 8), [0]);
            region.read(at, &mut byte);
            region.write(at, &[byte[0] ^ 1 << (bit % 8)]);
            assert_eq!(stamps.look(&region, 0), Content::Flipped { bit });
            region.write(at, &byte);
        }
    }

    #[test]
    fn blocks_of_two_writes_are_torn_wherever_they_were_cut() {
        let (region, mut stamps) = (Region::new(4096).unwrap(), Stamps::new(0x1234_5678_9abc_def0, SIZE));
        let block = u64::from(SIZE);
        stamps.put(&region, 0, 9, 5);
        stamps.put(&region, block, 9, 6);
        for cut in [40, 100, 256, 500] {
            region.copy_from(2 * block, &region, 0, cut);
            region.copy_from(2 * block + cut as u64, &region, block + cut as u64, SIZE as usize - cut);
            assert_eq!(stamps.look(&region, 2 * block), Content::Torn { sequence: 5 }, "{cut}");
        }
        region.fill(2 * block + 100, 9, 0xff);
        region.copy_from(2 * block, &region, 0, SIZE as usize);
        region.fill(2 * block + 100, 9, 0xff);
        assert_eq!(stamps.look(&region, 2 * block), Content::Broken { sequence: 5 });
        let mut other = Stamps::new(78, SIZE);
        let tail = stamps.tail(5);
        assert!(
            matches!(other.look(&region, 0), Content::Foreign { tail: found, .. } if found == tail),
            "of another run"
        );
        assert!(matches!(stamps.look(&region, 3 * block), Content::Foreign { tail: 0, .. }));
    }
}
