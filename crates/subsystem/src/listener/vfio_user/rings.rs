//! The rings of a controller in memory (PCIe Transport 3.1.2, Base 3.3.1): submission queues that entries are taken from,
//! completion queues that they are put in.
//!
//! *What orders what.* The host writes entries and then the tail, so the tail is loaded with acquire before entries are read; each
//! entry is copied out once, and only the copy is looked at. A completion is written with its upper half last, with release: that
//! half has the phase tag, by which the host knows that all of it, and the data before it, is there.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
};

use doorbell_platform::{Range, Region};
use doorbell_spec::{command::Command, completion::Completion};
use zerocopy::{FromZeros, IntoBytes, transmute};

use crate::controller::IoQueue;

/// Bytes of a submission queue entry.
pub(super) const SQE: u64 = size_of::<Command>() as u64;
/// Bytes of a completion queue entry.
pub(super) const CQE: u64 = size_of::<Completion>() as u64;

/// A place in memory that is shared with the host.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) region: Arc<Region>,
    pub(super) offset: u64,
    /// What the host calls it, where it is the host's own.
    pub(super) address: u64,
}

/// Where a host says how far it has come: the doorbell, or the shadow that it writes instead while `event` says that this is enough
/// (Base 5.2.5).
#[derive(Debug)]
pub(super) struct Doorbell {
    pub(super) register: Place,
    pub(super) shadow: Option<Shadow>,
}

/// The shadow of a doorbell and its event index.
#[derive(Clone, Debug)]
pub(super) struct Shadow {
    pub(super) value: Place,
    pub(super) event: Place,
}

impl Doorbell {
    /// What the host has said.
    #[inline]
    pub(super) fn load(&self) -> u32 {
        let Place { region, offset, .. } = self.shadow.as_ref().map_or(&self.register, |shadow| &shadow.value);
        region.load_u32(*offset, Ordering::Acquire)
    }

    /// Asks the host to ring the doorbell itself when it passes `value`.
    #[inline]
    pub(super) fn expect(&self, value: u32) {
        if let Some(Shadow { event, .. }) = &self.shadow {
            event.region.store_u32(event.offset, value, Ordering::Release);
        }
    }

    /// Whether the memory it lies in is the host's and has gone.
    fn is_lost(&self) -> bool {
        self.shadow.as_ref().is_some_and(|shadow| shadow.value.region.is_lost() || shadow.event.region.is_lost())
    }
}

/// A doorbell's value that is no position in its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Nonsense(pub(super) u32);

/// A submission queue.
#[derive(Debug)]
pub(super) struct Sq {
    pub(super) cqid: u16,
    pub(super) place: Place,
    pub(super) entries: u32,
    pub(super) doorbell: Doorbell,
    head: u32,
    seen: u32,
    /// What its commands are carried out by; none for the admin queue.
    pub(super) queue: Option<IoQueue>,
}

impl Sq {
    pub(super) fn new(cqid: u16, place: Place, entries: u32, doorbell: Doorbell, queue: Option<IoQueue>) -> Self {
        Self { cqid, place, entries, doorbell, head: 0, seen: 0, queue }
    }

    /// Looks how many entries wait, once.
    #[inline]
    pub(super) fn pending(&mut self) -> Result<u32, Nonsense> {
        let tail = self.doorbell.load();
        if tail != self.seen {
            if tail >= self.entries {
                return Err(Nonsense(tail));
            }
            self.seen = tail;
            self.doorbell.expect(tail);
        }
        Ok(if tail >= self.head { tail - self.head } else { tail + self.entries - self.head })
    }

    /// Has the next entries brought to the cache, of which so many must be pending: each lies where the host's core wrote it, and they
    /// are better waited for together.
    #[inline]
    pub(super) fn foresee(&self, count: u32) {
        let here = count.min(self.entries - self.head);
        for (first, count) in [(self.head, here), (0, count - here)] {
            let range = Range { offset: self.place.offset + u64::from(first) * SQE, len: count * SQE as u32 };
            self.place.region.prefetch(range);
        }
    }

    /// Takes the next entry; one must be pending.
    #[inline]
    pub(super) fn take(&mut self) -> Command {
        let mut command = Command::new_zeroed();
        self.place.region.read(self.place.offset + u64::from(self.head) * SQE, command.as_mut_bytes());
        self.head = if self.head + 1 == self.entries { 0 } else { self.head + 1 };
        command
    }

    /// The position behind the last entry taken, for completions to tell.
    #[inline]
    pub(super) fn head(&self) -> u16 {
        self.head as u16
    }

    /// Whether its memory was taken away.
    #[inline]
    pub(super) fn is_lost(&self) -> bool {
        self.place.region.is_lost() || self.doorbell.is_lost()
    }
}

/// A completion queue.
#[derive(Debug)]
pub(super) struct Cq {
    pub(super) place: Place,
    pub(super) entries: u32,
    pub(super) doorbell: Doorbell,
    /// The interrupt vector, where interrupts are enabled.
    pub(super) vector: Option<u16>,
    /// Submission queues that complete to it.
    pub(super) users: u32,
    tail: u32,
    head: u32,
    phase: bool,
    /// Completions that found it full.
    waiting: VecDeque<Completion>,
    /// There is something new since the last interrupt.
    news: bool,
}

impl Cq {
    pub(super) fn new(place: Place, entries: u32, doorbell: Doorbell, vector: Option<u16>) -> Self {
        let waiting = VecDeque::new();
        Self { place, entries, doorbell, vector, users: 0, tail: 0, head: 0, phase: true, waiting, news: false }
    }

    /// How many completions of at most `wanted` it takes. The host's doorbell is looked at only where it seems to be full.
    #[inline]
    pub(super) fn room(&mut self, wanted: u32) -> Result<u32, Nonsense> {
        if !self.waiting.is_empty() {
            return Ok(0);
        }
        let mut free = self.free();
        if free < wanted {
            self.look()?;
            free = self.free();
        }
        Ok(free.min(wanted))
    }

    /// Where the next completion goes.
    pub(super) fn tail(&self) -> u32 {
        self.tail
    }

    /// Puts a completion in, or keeps it until there is room.
    #[inline]
    pub(super) fn post(&mut self, completion: Completion) {
        if self.waiting.is_empty() && self.free() > 0 {
            self.put(completion);
        } else {
            self.waiting.push_back(completion);
        }
    }

    /// Puts in what waits, as far as there is room; returns whether there was.
    pub(super) fn resume(&mut self) -> Result<bool, Nonsense> {
        if self.waiting.is_empty() {
            return Ok(false);
        }
        self.look()?;
        let count = self.waiting.len().min(self.free() as usize);
        for _ in 0..count {
            if let Some(completion) = self.waiting.pop_front() {
                self.put(completion);
            }
        }
        Ok(count > 0)
    }

    /// The vector to raise, once for all that is new.
    #[inline]
    pub(super) fn interrupt(&mut self) -> Option<u16> {
        if std::mem::take(&mut self.news) { self.vector } else { None }
    }

    /// Whether its memory was taken away.
    #[inline]
    pub(super) fn is_lost(&self) -> bool {
        self.place.region.is_lost() || self.doorbell.is_lost()
    }

    #[inline]
    fn free(&self) -> u32 {
        let used = if self.tail >= self.head { self.tail - self.head } else { self.tail + self.entries - self.head };
        self.entries - 1 - used
    }

    fn look(&mut self) -> Result<(), Nonsense> {
        let head = self.doorbell.load();
        if head >= self.entries {
            return Err(Nonsense(head));
        }
        self.head = head;
        self.doorbell.expect(head);
        Ok(())
    }

    #[inline]
    fn put(&mut self, completion: Completion) {
        let [low, high]: [u64; 2] = transmute!(completion);
        // The status is the upper half of the last dword, little-endian, and the phase tag its lowest bit.
        let phase = u64::from(self.phase) << 48;
        let at = self.place.offset + u64::from(self.tail) * CQE;
        self.place.region.store_u64(at, low, Ordering::Relaxed);
        self.place.region.store_u64(at + 8, u64::from_le(high) | phase, Ordering::Release);
        self.news = true;
        self.tail += 1;
        if self.tail == self.entries {
            self.tail = 0;
            self.phase = !self.phase;
        }
    }
}
