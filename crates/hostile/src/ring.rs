//! The device's end of a pair of rings, in memory of this process: honest by [`RingDevice::answer`], anything else by
//! [`RingDevice::post`]. It shares no code with the host's end but the wire formats and the memory.

use std::sync::{
    Arc,
    atomic::{Ordering, fence},
};

use doorbell_platform::Region;
use doorbell_spec::{command::Command, completion::Completion, status::Status};
use zerocopy::{IntoBytes, transmute};

/// Where a [`RingDevice`] has the tail doorbell of its submission queue, from the start of its memory.
pub const SQ_TAIL: u64 = 64;
/// Where it has the head doorbell of its completion queue.
pub const CQ_HEAD: u64 = 128;
/// Where it has the shadow of the tail doorbell.
pub const SHADOW_SQ_TAIL: u64 = 192;
/// Where it has the shadow of the head doorbell.
pub const SHADOW_CQ_HEAD: u64 = 256;
/// Where it has the event index of the tail.
pub const SQ_EVENT: u64 = 320;
/// Where it has the event index of the head.
pub const CQ_EVENT: u64 = 384;
/// Where its submission queue begins; the completion queue is behind that.
pub const SQ: u64 = 4096;

/// A device that has one pair of queues.
#[derive(Debug)]
pub struct RingDevice {
    memory: Arc<Region>,
    qid: u16,
    entries: u32,
    shadow: bool,
    /// The tail it knows, where it fetches and where it posts.
    shown: u32,
    head: u32,
    tail: u32,
    phase: bool,
}

impl RingDevice {
    /// A device with a queue of that many entries; with `shadow` it looks at the shadow doorbells, unless it [rests](Self::rest).
    pub fn new(qid: u16, entries: u32, shadow: bool) -> Self {
        let memory = Region::new(SQ as usize + entries as usize * 80 + 64).expect("memory for rings");
        Self { memory: Arc::new(memory), qid, entries, shadow, shown: 0, head: 0, tail: 0, phase: true }
    }

    /// All memory that it shares with the host.
    pub fn memory(&self) -> Arc<Region> {
        self.memory.clone()
    }

    /// Where the completion queue begins.
    pub fn cq(&self) -> u64 {
        SQ + u64::from(self.entries) * 64
    }

    /// The next command that the host has shown.
    #[inline]
    pub fn take(&mut self) -> Option<Command> {
        if self.head == self.shown {
            let doorbell = if self.shadow { SHADOW_SQ_TAIL } else { SQ_TAIL };
            self.shown = self.memory.load_u32(doorbell, Ordering::Acquire);
            assert!(self.shown < self.entries, "a tail of {}", self.shown);
        }
        (self.head != self.shown).then(|| {
            let mut bytes = [0u8; 64];
            self.memory.read(SQ + u64::from(self.head) * 64, &mut bytes);
            self.head = (self.head + 1) % self.entries;
            transmute!(bytes)
        })
    }

    /// Completes a command as it should be.
    #[inline]
    pub fn answer(&mut self, cid: u16, status: Status, result: u64) {
        let mut entry = Completion::new(cid, self.head as u16, status, result);
        entry.sqid = self.qid.into();
        self.post(entry);
    }

    /// Posts any completion, with the phase tag that is due.
    ///
    /// # Panics
    /// When the host has left no room for it.
    #[inline]
    pub fn post(&mut self, mut entry: Completion) {
        let doorbell = if self.shadow { SHADOW_CQ_HEAD } else { CQ_HEAD };
        let next = (self.tail + 1) % self.entries;
        assert_ne!(next, self.memory.load_u32(doorbell, Ordering::Acquire), "the completion queue is full");
        entry.status.set(entry.status.get() & !1 | u16::from(self.phase));
        let at = self.cq() + u64::from(self.tail) * 16;
        let bytes = entry.as_bytes();
        let half = |from: usize| u64::from_ne_bytes(std::array::from_fn(|index| bytes[from + index]));
        self.memory.store_u64(at, half(0), Ordering::Relaxed);
        self.memory.store_u64(at + 8, half(8), Ordering::Release);
        self.tail = next;
        self.phase ^= next == 0;
    }

    /// Stops looking at the shadow doorbells: returns whether nothing has come meanwhile, so that the register tells of the next.
    pub fn rest(&self) -> bool {
        self.memory.store_u32(SQ_EVENT, self.shown, Ordering::Release);
        fence(Ordering::SeqCst);
        self.memory.load_u32(SHADOW_SQ_TAIL, Ordering::Acquire) == self.shown
    }

    /// The tail that was written to the register last.
    pub fn register(&self) -> u32 {
        self.memory.load_u32(SQ_TAIL, Ordering::Acquire)
    }
}
