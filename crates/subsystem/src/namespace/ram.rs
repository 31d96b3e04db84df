//! Blocks in memory: a map of groups to frames.
//!
//! A read holds the frame that a cell of the map names, and is sent from it. A write has filled frames of its own before it comes
//! here. Where it is small and nobody is reading, they are copied over what they replace, and whoever wants such a frame meanwhile
//! waits for the copy, the only wait there is; else it swaps them in one by one, and a group that it covers in part is completed from
//! the frame it replaces, by compare-and-exchange until nothing came between. So a group changes at once and a reader sees it whole,
//! before or after; a host that is gone in the middle of sending a write has changed nothing. Where the data of such a small write is
//! in memory already, it is copied from there to its place. (A host that takes that memory away during the copy is served no more,
//! and the group holds what was copied.)

use std::sync::atomic::{AtomicU32, Ordering};

use doorbell_platform::{Range, Region, memory::prefetch};

use super::{CLEAR_AT_ONCE, Found, Outcome, Pool, RESERVE, SUCCESS};
use crate::frames::{FRAME, Frame, ZERO, ZERO_FRAMES, place};

/// Longest write that is copied to where its blocks are. A longer one takes over whole frames, which saves the copy, and brings
/// neighbours that stay together.
pub(super) const IN_PLACE: u32 = 8192;

/// The map.
#[derive(Debug)]
pub(crate) struct RamBlocks {
    cells: Box<[AtomicU32]>,
}

/// The part of a group that a command covers: group, first byte within it, bytes.
type Part = (usize, u32, u32);

impl RamBlocks {
    /// `groups` groups in the frames from `first` on, which are zero.
    pub(super) fn new(first: Frame, groups: usize) -> Self {
        Self { cells: (0..groups).map(|at| AtomicU32::new(first + at as Frame)).collect() }
    }

    /// Has the cell of byte `at` brought to the cache.
    #[inline]
    pub(super) fn approach(&self, at: u64) {
        prefetch(&self.cells[(at / u64::from(FRAME)) as usize]);
    }

    /// Has what is known of the frame of byte `at` brought to the cache.
    #[inline]
    pub(super) fn foresee(&self, pool: &Pool, at: u64) {
        pool.frames.foresee(self.cells[(at / u64::from(FRAME)) as usize].load(Ordering::Relaxed));
    }

    #[inline]
    pub(super) fn overwrite<T>(
        &self,
        pool: &mut Pool,
        at: u64,
        len: u32,
        write: impl FnOnce(&Region, Range) -> T,
    ) -> Option<T> {
        let (group, within, part) = parts(at, len.into()).next().filter(|&(_, _, part)| part == len)?;
        pool.frames.rewrite(&self.cells[group], |region, frame| write(region, place(frame).part(within, part)))
    }

    #[inline]
    pub(super) fn read(&self, pool: &mut Pool, at: u64, len: u32, found: &mut Found) {
        for (group, within, part) in parts(at, u64::from(len)) {
            let frame = pool.frames.hold(&self.cells[group]);
            doorbell_platform::memory::push_joined(&mut found.ranges, place(frame).part(within, part));
            if frame >= ZERO_FRAMES {
                found.frames.push(frame);
            }
        }
    }

    #[inline]
    pub(super) fn write(&self, pool: &mut Pool, at: u64, len: u32, frames: &mut Vec<Frame>) {
        for ((group, within, part), frame) in parts(at, u64::from(len)).zip(frames.drain(..)) {
            if len <= IN_PLACE && pool.frames.replace(&self.cells[group], frame, within, part) {
                pool.frames.release(frame);
            } else if part == FRAME {
                let old = self.cells[group].swap(frame, Ordering::AcqRel);
                pool.frames.release(old);
            } else {
                self.merge(pool, (group, within, part), frame);
            }
        }
    }

    pub(super) fn equals(&self, pool: &mut Pool, at: u64, len: u32, frames: &[Frame]) -> bool {
        let mut bytes = [0; FRAME as usize];
        parts(at, u64::from(len)).zip(frames).all(|((group, within, part), &ours)| {
            let frame = pool.frames.hold(&self.cells[group]);
            let bytes = &mut bytes[..part as usize];
            pool.frames.store.region().read(place(frame).offset + u64::from(within), bytes);
            pool.frames.release(frame);
            pool.frames.store.region().equals(place(ours).offset + u64::from(within), bytes)
        })
    }

    pub(super) fn clear(&self, pool: &mut Pool, at: u64, len: u64, progress: &mut u64) -> Outcome {
        let end = (*progress + CLEAR_AT_ONCE * u64::from(FRAME)).min(len);
        for (group, within, part) in parts(at + *progress, end - *progress) {
            if part == FRAME {
                let old = self.cells[group].swap(ZERO, Ordering::AcqRel);
                pool.frames.release(old);
            } else if self.cells[group].load(Ordering::Acquire) != ZERO {
                let mut fresh = Vec::new();
                if !pool.frames.take(1, RESERVE, &mut fresh) {
                    return Outcome::Again;
                }
                let region = pool.frames.store.region();
                region.fill(place(fresh[0]).offset + u64::from(within), part as usize, 0);
                self.merge(pool, (group, within, part), fresh[0]);
            }
            *progress += u64::from(part);
        }
        if *progress == len { SUCCESS } else { Outcome::Turn }
    }

    /// Puts `frame`, which holds the new content of a part of a group, in the place of the group's frame.
    fn merge(&self, pool: &mut Pool, (group, within, part): Part, frame: Frame) {
        let cell = &self.cells[group];
        let to = place(frame).offset;
        loop {
            let old = pool.frames.hold(cell);
            let (from, region) = (place(old).offset, pool.frames.store.region());
            region.copy_from(to, region, from, within as usize);
            let behind = u64::from(within + part);
            region.copy_from(to + behind, region, from + behind, (u64::from(FRAME) - behind) as usize);
            let swapped = cell.compare_exchange(old, frame, Ordering::AcqRel, Ordering::Relaxed);
            // Ours; and the cell's, when it named the frame up to now. A held frame cannot have been away in between.
            pool.frames.release(old);
            if swapped.is_ok() {
                pool.frames.release(old);
                return;
            }
        }
    }
}

/// The parts of groups that `len` bytes from byte `at` on cover.
#[inline]
fn parts(at: u64, len: u64) -> impl Iterator<Item = Part> {
    const SIZE: u64 = FRAME as u64;
    let end = at + len;
    let mut at = at;
    std::iter::from_fn(move || {
        (at < end).then(|| {
            let within = at % SIZE;
            let part = (SIZE - within).min(end - at);
            let group = (at / SIZE) as usize;
            at += part;
            (group, within as u32, part as u32)
        })
    })
}
