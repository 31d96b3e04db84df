//! The memory of data: 4 KiB frames of one region, counted so that a frame can be sent from and replaced at the same time.
//!
//! A RAM namespace is a map of block groups to frames (see `namespace::ram`); data on its way between a socket and a namespace
//! lies in frames too. A frame's count says how many hold it: the map cell it is published in, each response that is being sent
//! from it, or the one command that fills it. Who drops the last count puts the frame on a free list. Each reactor has a list of
//! its own, filled from and spilled to a common one in batches, so the path takes no lock.
//!
//! A published frame never changes: a write fills a fresh frame and swaps it into the cell. A reader loads the cell, increments
//! the frame's count if that is not zero, and looks at the cell again: if it still names the frame, the count was taken while
//! the cell's own held, so the frame is what the cell says and stays as it is until the reader lets go. Else the frame may have
//! been freed and reused in between; the count is given back and the reader starts over. The increment acquires what the last
//! `take` of the frame released, and that take came after the swap that had unpublished it, so the second look cannot see an
//! older value of the cell than the frame's present life.
//!
//! Swapping frames scatters a namespace over the memory, which makes large reads slow. So a small write whose frame nobody but its
//! cell holds is copied into that frame instead: [`LOCKED`] in the count keeps everybody away for the length of one copy.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use crossbeam_queue::ArrayQueue;
use doorbell_platform::{Crc32c, Range, Region};

/// Bytes of a frame.
pub(crate) const FRAME: u32 = 4096;
/// The first frames stay zero for ever and are not counted: what deallocated blocks read as.
pub(crate) const ZERO_FRAMES: u32 = 256;
/// The frame that deallocated cells name.
pub(crate) const ZERO: Frame = 0;

/// Set in the count of a frame that is being written in its place. Who wants to hold it meanwhile looks again.
const LOCKED: u32 = 1 << 31;

/// Frames moved between a reactor's list and the common one at a time.
const BATCH: usize = 256;
/// Frames a reactor's list may hold before it spills.
pub(crate) const MOST_LOCAL: usize = 4 * BATCH;

/// A frame by its number.
pub(crate) type Frame = u32;

/// All frames.
#[derive(Debug)]
pub(crate) struct FrameStore {
    region: Arc<Region>,
    states: Box<[State]>,
    free: ArrayQueue<Frame>,
}

/// What is known of a frame.
#[derive(Debug)]
struct State {
    /// How many hold it.
    count: AtomicU32,
    /// The checksum of its content where somebody has asked for it, else 0.
    sum: AtomicU32,
}

impl FrameStore {
    /// Frames for namespaces, whose first is [`ZERO_FRAMES`] and which are held once each, and spare ones, which are free.
    pub(crate) fn new(published: usize, spare: usize) -> io::Result<Self> {
        let total = (ZERO_FRAMES as usize).checked_add(published).and_then(|sum| sum.checked_add(spare));
        let total = total.filter(|&total| total < u32::MAX as usize).ok_or(io::ErrorKind::OutOfMemory)?;
        let region = Arc::new(Region::new(total.checked_mul(FRAME as usize).ok_or(io::ErrorKind::OutOfMemory)?)?);
        region.populate()?;
        let first_spare = ZERO_FRAMES as usize + published;
        let state = |frame| State { count: AtomicU32::new(u32::from(frame < first_spare)), sum: AtomicU32::new(0) };
        let states = (0..total).map(state).collect();
        let free = ArrayQueue::new(total);
        for frame in first_spare..total {
            let _ = free.push(frame as Frame);
        }
        Ok(Self { region, states, free })
    }

    pub(crate) fn region(&self) -> &Region {
        &self.region
    }

    /// The checksum of data that lies in whole frames which the caller holds; none where it does not. What is found out about a
    /// frame is kept as long as its content is: nobody changes it while it is held, and who changes it later acquires the count
    /// that the caller releases.
    pub(crate) fn checksum(&self, ranges: &[Range]) -> Option<u32> {
        let whole = |range: &Range| range.end().is_multiple_of(FRAME.into()) && range.len.is_multiple_of(FRAME);
        let frames =
            |range: &Range| (range.offset / u64::from(FRAME)) as Frame..(range.end() / u64::from(FRAME)) as Frame;
        let sums = || ranges.iter().flat_map(frames).map(|frame| self.checksum_of(frame));
        ranges.iter().all(whole).then(|| Crc32c::of_pages(sums()))
    }

    fn checksum_of(&self, frame: Frame) -> u32 {
        let known = self.states[frame as usize].sum.load(Ordering::Relaxed);
        if known != 0 {
            return known;
        }
        // All of it at once, as it is likely to be cold.
        self.region.prefetch(place(frame));
        let mut crc = Crc32c::new();
        self.region.checksum(place(frame), &mut crc);
        self.states[frame as usize].sum.store(crc.finish(), Ordering::Relaxed);
        crc.finish()
    }

    fn changes(&self, frame: Frame) {
        self.states[frame as usize].sum.store(0, Ordering::Relaxed);
    }

    /// A share of the memory, for who makes it known to a device.
    pub(crate) fn share(&self) -> Arc<Region> {
        self.region.clone()
    }

    /// Frames that somebody holds.
    pub(crate) fn held(&self) -> usize {
        self.states[ZERO_FRAMES as usize..].iter().filter(|state| state.count.load(Ordering::Relaxed) != 0).count()
    }

    /// Frames on the common list.
    #[cfg(test)]
    pub(crate) fn free(&self) -> usize {
        self.free.len()
    }
}

/// The place of a whole frame in the region.
#[inline]
pub(crate) fn place(frame: Frame) -> Range {
    Range { offset: u64::from(frame) * u64::from(FRAME), len: FRAME }
}

/// Appends the ranges of `len` bytes from `at` on of data that lies in `frames`, beginning `skew` bytes into the first.
#[inline]
pub(crate) fn push_ranges(frames: &[Frame], skew: u32, at: u32, len: u32, ranges: &mut Vec<Range>) {
    let (mut position, end) = (skew + at, skew + at + len);
    while position < end {
        let within = position % FRAME;
        let part = place(frames[(position / FRAME) as usize]).part(within, end - position);
        doorbell_platform::memory::push_joined(ranges, part);
        position += part.len;
    }
}

/// How many frames `len` bytes take that begin `skew` bytes into the first.
#[inline]
pub(crate) fn frames_for(skew: u32, len: u32) -> usize {
    (skew + len).div_ceil(FRAME) as usize
}

/// A reactor's own list of free frames.
#[derive(Debug)]
pub(crate) struct LocalFrames {
    pub(crate) store: Arc<FrameStore>,
    free: Vec<Frame>,
}

impl LocalFrames {
    pub(crate) fn new(store: Arc<FrameStore>) -> Self {
        Self { store, free: Vec::with_capacity(MOST_LOCAL + 1) }
    }

    /// Sees to it that at least `count` frames are at hand.
    #[inline]
    pub(crate) fn fill(&mut self, count: usize) -> bool {
        if self.free.len() >= count {
            return true;
        }
        let want = count.max(BATCH) - self.free.len();
        self.free.extend(std::iter::from_fn(|| self.store.free.pop()).take(want));
        self.free.len() >= count
    }

    /// Appends `count` fresh frames, each held once, to `frames` if `keep` others remain at hand; else takes none.
    #[inline]
    pub(crate) fn take(&mut self, count: usize, keep: usize, frames: &mut Vec<Frame>) -> bool {
        if !self.fill(count + keep) {
            return false;
        }
        for frame in self.free.drain(self.free.len() - count..) {
            self.store.changes(frame);
            self.store.states[frame as usize].count.store(1, Ordering::Release);
            frames.push(frame);
        }
        true
    }

    /// Has what is known of a frame brought to the cache.
    #[inline]
    pub(crate) fn foresee(&self, frame: Frame) {
        doorbell_platform::memory::prefetch(&self.store.states[frame as usize]);
    }

    /// Holds the frame that `cell` names.
    #[inline]
    pub(crate) fn hold(&mut self, cell: &AtomicU32) -> Frame {
        loop {
            let frame = cell.load(Ordering::Acquire);
            if frame < ZERO_FRAMES || self.hold_while(frame, cell) {
                return frame;
            }
        }
    }

    /// Holds a frame that `cell` has named, if it still does.
    #[inline]
    fn hold_while(&mut self, frame: Frame, cell: &AtomicU32) -> bool {
        let more = |count: u32| (count != 0 && count & LOCKED == 0).then_some(count + 1);
        if self.store.states[frame as usize].count.fetch_update(Ordering::Acquire, Ordering::Relaxed, more).is_err() {
            return false;
        }
        if cell.load(Ordering::Acquire) == frame {
            return true;
        }
        self.release(frame);
        false
    }

    /// Copies `len` bytes at `within` of the frame `from` to the same place in the frame that `cell` names; returns false, and
    /// does nothing, where anybody but the cell holds that.
    #[inline]
    pub(crate) fn replace(&mut self, cell: &AtomicU32, from: Frame, within: u32, len: u32) -> bool {
        let at = |frame| place(frame).offset + u64::from(within);
        let copy = |region: &Region, frame| region.copy_past_cache(at(frame), region, at(from), len as usize);
        self.rewrite(cell, copy).is_some()
    }

    /// Has the frame that `cell` names written, while everybody is kept away from it; does nothing where anybody but the cell holds it.
    #[inline]
    pub(crate) fn rewrite<T>(&mut self, cell: &AtomicU32, write: impl FnOnce(&Region, Frame) -> T) -> Option<T> {
        let frame = cell.load(Ordering::Acquire);
        if frame < ZERO_FRAMES {
            return None;
        }
        let count = &self.store.states[frame as usize].count;
        if count.compare_exchange(1, 1 | LOCKED, Ordering::Acquire, Ordering::Relaxed).is_err() {
            return None;
        }
        // As in `hold_while`: the frame may have been reused between the look at the cell and at the count.
        let ours = cell.load(Ordering::Acquire) == frame;
        let written = ours.then(|| {
            self.store.changes(frame);
            write(&self.store.region, frame)
        });
        // Another write may have put a frame of its own in the cell meanwhile and given this one back.
        if count.fetch_sub(LOCKED, Ordering::AcqRel) == LOCKED {
            self.give_back(frame);
        }
        written
    }

    /// Gives back one count of a frame.
    #[inline]
    pub(crate) fn release(&mut self, frame: Frame) {
        if frame >= ZERO_FRAMES && self.store.states[frame as usize].count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.give_back(frame);
        }
    }

    #[inline]
    fn give_back(&mut self, frame: Frame) {
        self.free.push(frame);
        if self.free.len() > MOST_LOCAL {
            self.spill(2 * BATCH);
        }
    }

    /// Free frames, here and on the common list.
    pub(crate) fn idle(&self) -> usize {
        self.free.len() + self.store.free.len()
    }

    /// Hands all but `keep` frames to the common list.
    pub(crate) fn spill(&mut self, keep: usize) {
        for frame in self.free.drain(keep.min(self.free.len())..) {
            let _ = self.store.free.push(frame);
        }
    }
}

impl Drop for LocalFrames {
    fn drop(&mut self) {
        self.spill(0);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[test]
    fn frames_come_back_to_where_they_were_taken() {
        let store = Arc::new(FrameStore::new(2, 10).unwrap());
        let mut local = LocalFrames::new(store.clone());
        let mut frames = Vec::new();
        assert!(!local.take(8, 3, &mut frames) && frames.is_empty());
        assert!(local.take(7, 3, &mut frames));
        assert!(frames.iter().all(|&frame| frame >= ZERO_FRAMES + 2));
        for frame in frames.drain(..) {
            local.release(frame);
        }
        drop(local);
        assert_eq!(store.free(), 10);
    }

    #[test]
    fn a_frame_that_is_not_published_any_more_is_not_held() {
        let store = Arc::new(FrameStore::new(1, 1).unwrap());
        let mut local = LocalFrames::new(store.clone());
        let count = |frame: Frame| store.states[frame as usize].count.load(Ordering::Relaxed);
        let cell = AtomicU32::new(ZERO_FRAMES);
        let mut fresh = Vec::new();
        // A reader has looked at the cell; then a writer replaces the frame, and it is free.
        let seen = cell.load(Ordering::Relaxed);
        assert!(local.take(1, 0, &mut fresh));
        let old = cell.swap(fresh.pop().unwrap(), Ordering::AcqRel);
        local.release(old);
        assert!(!local.hold_while(seen, &cell) && count(seen) == 0);
        // Or it already belongs to somebody who fills it.
        assert!(local.take(1, 0, &mut fresh) && fresh == [seen]);
        assert!(!local.hold_while(seen, &cell) && count(seen) == 1);
        let now = local.hold(&cell);
        assert!(now != seen && count(now) == 2);
    }

    #[test]
    fn the_checksum_of_a_frame_is_that_of_what_it_holds_now() {
        let store = Arc::new(FrameStore::new(2, 2).unwrap());
        let mut local = LocalFrames::new(store.clone());
        let cell = AtomicU32::new(ZERO_FRAMES);
        let both = [Range { offset: place(ZERO_FRAMES).offset, len: 2 * FRAME }];
        let check = |what: &str| {
            let mut bytes = vec![0; 2 * FRAME as usize];
            store.region.read(both[0].offset, &mut bytes);
            assert_eq!(store.checksum(&both), Some(Crc32c::of(&bytes)), "{what}");
            assert_eq!(store.checksum(&both), Some(Crc32c::of(&bytes)), "{what}, once more");
        };
        check("at first");
        let mut fresh = Vec::new();
        assert!(local.take(1, 0, &mut fresh));
        store.region.fill(place(fresh[0]).offset, FRAME as usize, 7);
        assert!(local.replace(&cell, fresh[0], 512, 1024));
        check("changed in its place");
        // A frame that was free may hold anything.
        let sevens = store.checksum(&[place(fresh[0])]);
        local.release(fresh.pop().unwrap());
        assert!(local.take(1, 0, &mut fresh));
        store.region.fill(place(fresh[0]).offset, FRAME as usize, 8);
        assert_ne!(store.checksum(&[place(fresh[0])]), sevens);
        assert_eq!(store.checksum(&[place(fresh[0]).part(0, 512)]), None, "a part of one");
    }

    #[test]
    fn ranges_follow_the_skew() {
        let mut ranges = Vec::new();
        push_ranges(&[300, 301, 310], 512, 0, 8192, &mut ranges);
        let at = |frame: u64| frame * 4096;
        assert_eq!(ranges, [Range { offset: at(300) + 512, len: 4096 + 3584 }, Range { offset: at(310), len: 512 }]);
        ranges.clear();
        push_ranges(&[300, 301, 310], 512, 7680, 512, &mut ranges);
        assert_eq!(ranges, [Range { offset: at(310), len: 512 }]);
        assert_eq!((frames_for(512, 8192), frames_for(0, 4096), frames_for(3584, 512)), (3, 1, 1));
    }

    #[test]
    fn a_frame_is_written_in_its_place_only_while_its_cell_alone_holds_it() {
        let store = Arc::new(FrameStore::new(1, 2).unwrap());
        let mut local = LocalFrames::new(store.clone());
        let cell = AtomicU32::new(ZERO_FRAMES);
        let mut fresh = Vec::new();
        assert!(local.take(1, 0, &mut fresh));
        let byte = |at: u64| {
            let mut byte = [0];
            store.region().read(place(ZERO_FRAMES).offset + at, &mut byte);
            byte[0]
        };
        store.region().fill(place(fresh[0]).offset, FRAME as usize, 7);
        assert!(local.replace(&cell, fresh[0], 512, 1000));
        assert_eq!([511, 512, 1511, 1512].map(byte), [0, 7, 7, 0]);
        let reader = local.hold(&cell);
        assert!(!local.replace(&cell, fresh[0], 0, FRAME), "somebody reads it");
        assert_eq!(byte(0), 0);
        local.release(reader);
        assert!(local.replace(&cell, fresh[0], 0, FRAME) && byte(0) == 7);
        cell.store(ZERO, Ordering::Relaxed);
        assert!(!local.replace(&cell, fresh[0], 0, FRAME), "what deallocated blocks read as is everybody's");
    }

    /// Writers replace the frame of one cell or what is in it as fast as they can while readers look at what they hold: no frame
    /// changes while it is held, and in the end none is lost.
    #[test]
    fn a_held_frame_does_not_change() {
        let store = Arc::new(FrameStore::new(1, 64).unwrap());
        let cell = AtomicU32::new(ZERO_FRAMES);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for stamp in 1..3u8 {
                let (store, cell) = (&store, &cell);
                scope.spawn(move || {
                    let mut local = LocalFrames::new(store.clone());
                    let mut fresh = Vec::new();
                    for round in 0..20_000 {
                        while !local.take(1, 0, &mut fresh) {
                            std::thread::yield_now();
                        }
                        let frame = fresh.pop().unwrap();
                        store.region().fill(place(frame).offset, FRAME as usize, stamp);
                        let unneeded = match round % 2 == 0 && local.replace(cell, frame, 0, FRAME) {
                            true => frame,
                            false => cell.swap(frame, Ordering::AcqRel),
                        };
                        local.release(unneeded);
                        local.spill(4);
                    }
                });
            }
            let readers: Vec<_> = (0..2)
                .map(|_| {
                    let (store, cell, done) = (&store, &cell, &done);
                    scope.spawn(move || {
                        let mut local = LocalFrames::new(store.clone());
                        let mut bytes = [0; FRAME as usize];
                        let mut looks = 0;
                        while looks < 1000 || !done.load(Ordering::Relaxed) {
                            let frame = local.hold(cell);
                            store.region().read(place(frame).offset, &mut bytes);
                            assert!(bytes.iter().all(|&byte| byte == bytes[0]), "a torn frame");
                            local.release(frame);
                            local.spill(0);
                            looks += 1;
                        }
                    })
                })
                .collect();
            std::thread::sleep(std::time::Duration::from_millis(50));
            done.store(true, Ordering::Relaxed);
            for reader in readers {
                reader.join().unwrap();
            }
        });
        assert_eq!(store.free(), 64);
    }
}
