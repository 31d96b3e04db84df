//! Blocks nowhere: reads are zeroes, writes are forgotten. It shows what the link alone costs.

use super::{Found, Pool};
use crate::frames::{FRAME, Frame, ZERO, ZERO_FRAMES, place, push_ranges};
use doorbell_platform::Range;

/// Finds `len` zeroes.
#[inline]
pub(super) fn read(len: u32, found: &mut Found) {
    const MOST: u32 = ZERO_FRAMES * FRAME;
    let mut left = len;
    while left > 0 {
        let part = left.min(MOST);
        found.ranges.push(Range { offset: place(ZERO).offset, len: part });
        left -= part;
    }
}

/// Whether the data in `frames` is all zero.
pub(super) fn equals(pool: &Pool, at: u64, len: u32, frames: &[Frame]) -> bool {
    let mut ranges = Vec::new();
    push_ranges(frames, (at % u64::from(FRAME)) as u32, 0, len, &mut ranges);
    let zeroes = [0; FRAME as usize];
    let region = pool.frames.store.region();
    ranges.iter().all(|range| {
        (0..range.len).step_by(FRAME as usize).all(|at| {
            let part = range.part(at, FRAME);
            region.equals(part.offset, &zeroes[..part.len as usize])
        })
    })
}
