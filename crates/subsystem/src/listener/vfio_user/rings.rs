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

use doorbell_platform::{Region, Table};
use doorbell_spec::{command::Command, completion::Completion, status::Status};
use zerocopy::IntoBytes;

use crate::controller::IoQueue;

/// Quadwords of a submission queue entry.
pub(super) const SQE: usize = size_of::<Command>() / 8;
/// Quadwords of a completion queue entry.
pub(super) const CQE: usize = size_of::<Completion>() / 8;

/// A place in memory that is shared with the host.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) region: Arc<Region>,
    pub(super) offset: u64,
    /// What the host calls it, where it is the host's own.
    pub(super) address: u64,
}

/// The entries of a queue, in memory of the host's.
#[derive(Debug)]
pub(super) struct Ring<const WORDS: usize> {
    /// What the host calls the first of them.
    pub(super) address: u64,
    table: Table<WORDS>,
}

impl<const WORDS: usize> Ring<WORDS> {
    /// So many entries; none where they leave the place.
    pub(super) fn new(Place { region, offset, address }: Place, entries: u32) -> Option<Self> {
        Some(Self { address, table: Table::new(region, offset, entries)? })
    }

    /// Bytes that so many entries take.
    pub(super) const fn bytes(entries: u32) -> u64 {
        entries as u64 * (WORDS * 8) as u64
    }

    /// How many entries there are.
    pub(super) fn len(&self) -> u32 {
        self.table.len()
    }

    /// Whether it shares bytes with the `len` from `address` on.
    pub(super) fn touches(&self, address: u64, len: u64) -> bool {
        self.address < address.saturating_add(len) && address < self.address + Self::bytes(self.table.len())
    }
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
    pub(super) ring: Ring<SQE>,
    pub(super) doorbell: Doorbell,
    head: u32,
    seen: u32,
    /// What its commands are carried out by; none for the admin queue.
    pub(super) queue: Option<IoQueue>,
}

impl Sq {
    pub(super) fn new(cqid: u16, ring: Ring<SQE>, doorbell: Doorbell, queue: Option<IoQueue>) -> Self {
        Self { cqid, ring, doorbell, head: 0, seen: 0, queue }
    }

    /// Looks how many entries wait, once.
    #[inline]
    pub(super) fn pending(&mut self) -> Result<u32, Nonsense> {
        let tail = self.doorbell.load();
        if tail != self.seen {
            if tail >= self.ring.table.len() {
                return Err(Nonsense(tail));
            }
            self.seen = tail;
            self.doorbell.expect(tail);
        }
        Ok(if tail >= self.head { tail - self.head } else { tail + self.ring.table.len() - self.head })
    }

    /// Has the next entries brought to the cache, of which so many must be pending: each lies where the host's core wrote it, and they
    /// are better waited for together.
    #[inline]
    pub(super) fn foresee(&self, count: u32) {
        let here = count.min(self.ring.table.len() - self.head);
        self.ring.table.prefetch(self.head, here);
        self.ring.table.prefetch(0, count - here);
    }

    /// Takes the next entry; one must be pending.
    #[inline]
    pub(super) fn take(&mut self, command: &mut Command) {
        self.ring.table.read(self.head, command.as_mut_bytes());
        self.head = if self.head + 1 == self.ring.table.len() { 0 } else { self.head + 1 };
    }

    /// The position behind the last entry taken, for completions to tell.
    #[inline]
    pub(super) fn head(&self) -> u16 {
        self.head as u16
    }

    /// Whether its memory was taken away.
    #[inline]
    pub(super) fn is_lost(&self) -> bool {
        self.ring.table.region().is_lost() || self.doorbell.is_lost()
    }
}

/// A completion queue entry as quadwords, with a phase tag of 0.
pub(super) type Entry = [u64; 2];

/// The entry of a command of a queue whose head is `head`.
#[inline]
pub(super) fn entry(sqid: u16, head: u16, cid: u16, status: Status, result: u64) -> Entry {
    let (sqid, cid, status) = (u64::from(sqid), u64::from(cid), u64::from(status.to_field(false)));
    [result, u64::from(head) | sqid << 16 | cid << 32 | status << 48]
}

/// A completion queue.
#[derive(Debug)]
pub(super) struct Cq {
    pub(super) ring: Ring<CQE>,
    pub(super) doorbell: Doorbell,
    /// The interrupt vector, where interrupts are enabled.
    pub(super) vector: Option<u16>,
    /// Submission queues that complete to it.
    pub(super) users: u32,
    tail: u32,
    head: u32,
    phase: bool,
    /// Completions that found it full.
    waiting: VecDeque<Entry>,
    /// There is something new since the last interrupt.
    news: bool,
}

impl Cq {
    pub(super) fn new(ring: Ring<CQE>, doorbell: Doorbell, vector: Option<u16>) -> Self {
        let waiting = VecDeque::new();
        Self { ring, doorbell, vector, users: 0, tail: 0, head: 0, phase: true, waiting, news: false }
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
    pub(super) fn post(&mut self, entry: Entry) {
        if self.waiting.is_empty() && self.free() > 0 {
            self.put(entry);
        } else {
            self.waiting.push_back(entry);
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
            if let Some(entry) = self.waiting.pop_front() {
                self.put(entry);
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
        self.ring.table.region().is_lost() || self.doorbell.is_lost()
    }

    #[inline]
    fn free(&self) -> u32 {
        let used =
            if self.tail >= self.head { self.tail - self.head } else { self.tail + self.ring.table.len() - self.head };
        self.ring.table.len() - 1 - used
    }

    fn look(&mut self) -> Result<(), Nonsense> {
        let head = self.doorbell.load();
        if head >= self.ring.table.len() {
            return Err(Nonsense(head));
        }
        self.head = head;
        self.doorbell.expect(head);
        Ok(())
    }

    #[inline]
    fn put(&mut self, [low, high]: Entry) {
        let phase = u64::from(self.phase) << 48;
        self.ring.table.store(self.tail, 0, low.to_le(), Ordering::Relaxed);
        self.ring.table.store(self.tail, 1, (high | phase).to_le(), Ordering::Release);
        self.news = true;
        self.tail += 1;
        if self.tail == self.ring.table.len() {
            self.tail = 0;
            self.phase = !self.phase;
        }
    }
}
