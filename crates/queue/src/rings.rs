//! What orders what between the two ends of a pair of rings in shared memory (Base 3.3.1, PCIe Transport 3.1.2): entry before
//! doorbell, rest of a completion before its phase tag, shadow doorbell before the look at its event index. Both ends are here, over
//! a small view of a word, so that the code that runs is the code that a model checker goes through.
//!
//! The orders are those of the language's memory model, which holds between processors and what is coherent with them. On x86-64 that
//! reaches a device, too: a processor's stores become visible in their order, to registers as well, as long as none of them is
//! write-combining or non-temporal; `Region` has neither on this path and maps registers uncached. A machine with weaker order needs
//! the bus's barrier in front of a register in addition.

use std::sync::atomic::{Ordering, fence};

use doorbell_platform::{Region, Table};

/// A word that both ends reach, in the processor's byte order.
pub trait Word<V> {
    /// One load.
    fn load(&self, order: Ordering) -> V;
    /// One store.
    fn store(&self, value: V, order: Ordering);
    /// A sequentially consistent fence.
    fn full_fence();
}

/// A little-endian word of a region.
#[derive(Clone, Copy, Debug)]
pub struct At<'a> {
    /// Where it is.
    pub region: &'a Region,
    /// Its first byte, a multiple of its size.
    pub offset: u64,
}

impl Word<u32> for At<'_> {
    #[inline]
    fn load(&self, order: Ordering) -> u32 {
        u32::from_le(self.region.load_u32(self.offset, order))
    }
    #[inline]
    fn store(&self, value: u32, order: Ordering) {
        self.region.store_u32(self.offset, value.to_le(), order);
    }
    #[inline]
    fn full_fence() {
        fence(Ordering::SeqCst);
    }
}

/// A little-endian half of a completion entry in a ring.
#[derive(Clone, Copy, Debug)]
pub struct Half<'a> {
    /// The ring.
    pub ring: &'a Table<2>,
    /// Index of the entry.
    pub entry: u32,
    /// 0 or 1.
    pub half: usize,
}

impl Word<u64> for Half<'_> {
    #[inline]
    fn load(&self, order: Ordering) -> u64 {
        u64::from_le(self.ring.load(self.entry, self.half, order))
    }
    #[inline]
    fn store(&self, value: u64, order: Ordering) {
        self.ring.store(self.entry, self.half, value.to_le(), order);
    }
    #[inline]
    fn full_fence() {
        fence(Ordering::SeqCst);
    }
}

/// Host: moves a doorbell from `old` to `new`; with a shadow doorbell (`{shadow, event index}`, Base 5.2.5) the register is written
/// only when the device waits for it. Returns whether it was.
#[inline]
pub fn ring<W: Word<u32>>(register: &W, shadow: Option<[&W; 2]>, old: u32, new: u32) -> bool {
    if let Some([shadow, event]) = shadow {
        // Release: a device that sees the new tail sees the entries before it.
        shadow.store(new, Ordering::Release);
        // Either the device's last look before it rests sees the store above, or the load below sees where it rests. Without a full
        // fence both may miss, as a load may overtake an earlier store to another place on every machine.
        W::full_fence();
        if !is_awaited(event.load(Ordering::Acquire) as u16, old as u16, new as u16) {
            return false;
        }
    }
    // Release: as above; a read of a completion entry is not put off until the device may overwrite it either.
    register.store(new, Ordering::Release);
    true
}

/// Whether a doorbell that moves from `old` to `new` passes the value at which the device asked for the register.
#[inline]
pub fn is_awaited(event: u16, old: u16, new: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

/// Device: tells the host that the shadow doorbell is not watched beyond `seen`, and returns the doorbell as it is then: when that is
/// still `seen`, the next move comes through the register.
#[inline]
pub fn rest<W: Word<u32>>(shadow: &W, event: &W, seen: u32) -> u32 {
    event.store(seen, Ordering::Release);
    // The other half of the fence in [`ring`].
    W::full_fence();
    shadow.load(Ordering::Acquire)
}

/// Host: the halves of a completion entry when its phase tag is the one that is due.
#[inline]
pub fn arrived<W: Word<u64>>(halves: [&W; 2], phase: bool) -> Option<[u64; 2]> {
    // The upper half has tag, status and identifier: one load takes them together. Acquire: the lower half, and data that the device
    // wrote before the entry, are read after the tag was seen.
    let upper = halves[1].load(Ordering::Acquire);
    ((upper >> 48 & 1 != 0) == phase).then(|| [halves[0].load(Ordering::Relaxed), upper])
}

/// Device: writes a completion entry, whose upper half holds the phase tag.
#[inline]
pub fn answer<W: Word<u64>>(halves: [&W; 2], entry: [u64; 2]) {
    halves[0].store(entry[0], Ordering::Relaxed);
    // Release: who sees the tag sees the rest, and the data of the command.
    halves[1].store(entry[1], Ordering::Release);
}
