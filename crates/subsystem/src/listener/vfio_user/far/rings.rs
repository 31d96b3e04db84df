//! Rings that are not in one piece of shared memory. The controller works on a copy of ours, as on any ring: entries are brought into
//! the copy of a submission queue before the controller sees the tail behind them; what it puts in the copy of a completion queue is
//! written to the host, and the interrupt is raised when that is there.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, atomic::Ordering},
};

use doorbell_platform::Region;

use super::super::{
    memory::{Memory, Piece, Trouble},
    rings::{CQE, Doorbell, Nonsense, Place, Ring, SQE},
};
use super::courier::{Courier, Key};

/// Writes of completions of a queue that are under way at most; what comes meanwhile goes together.
const MOST_WRITES: usize = 4;

/// A submission queue.
#[derive(Debug)]
pub(in super::super) struct FarSq {
    pub(super) qid: u16,
    ring: Place,
    entries: u32,
    /// The host's.
    pub(super) doorbell: Doorbell,
    /// The controller's.
    tail: Place,
    /// Entries up to here are in the copy.
    fetched: u32,
    /// Entries that are on their way: from `fetched` on, how many.
    fetch: Option<(Key, u32)>,
}

impl FarSq {
    /// The queue whose entries are copied to `ring`, and the doorbell that the controller looks at.
    pub(super) fn new(qid: u16, ring: Place, entries: u32, doorbell: Doorbell) -> (Self, Doorbell) {
        let tail = Place { offset: ring.offset + Ring::<SQE>::bytes(entries), ..ring.clone() };
        let seen = Doorbell { register: tail.clone(), shadow: None };
        (Self { qid, ring, entries, doorbell, tail, fetched: 0, fetch: None }, seen)
    }

    /// Brings entries; returns whether some have come.
    pub(super) fn pass(&mut self, courier: &mut Courier) -> Result<bool, Stuck> {
        let mut came = false;
        if let Some((key, count)) = self.fetch {
            let Some(bytes) = courier.take(key) else { return Ok(false) };
            self.ring.region.write(self.ring.offset + Ring::<SQE>::bytes(self.fetched), &bytes?);
            self.fetched = (self.fetched + count) % self.entries;
            self.tail.region.store_u32(self.tail.offset, self.fetched, Ordering::Release);
            (self.fetch, came) = (None, true);
        }
        let tail = self.doorbell.load();
        if tail >= self.entries {
            return Err(Stuck::Nonsense(Nonsense(tail)));
        }
        if tail != self.fetched {
            self.doorbell.expect(tail);
            // Up to the end of the ring, or to the tail.
            let count = if tail > self.fetched { tail } else { self.entries } - self.fetched;
            let piece = entries::<SQE>(&self.ring, self.fetched, count);
            self.fetch = Some((courier.read(vec![piece]), count));
        }
        Ok(came)
    }
}

/// A completion queue.
#[derive(Debug)]
pub(in super::super) struct FarCq {
    pub(super) qid: u16,
    ring: Place,
    entries: u32,
    vector: Option<u16>,
    /// Entries up to here have been sent.
    sent: u32,
    writes: VecDeque<Key>,
}

impl FarCq {
    /// The queue whose entries are copied from `ring`, with the vector that tells of them.
    pub(super) fn new(qid: u16, ring: Place, entries: u32, vector: Option<u16>) -> Self {
        Self { qid, ring, entries, vector, sent: 0, writes: VecDeque::new() }
    }

    /// Writes what is new before `tail`; returns the vector to raise where something has come there.
    pub(super) fn pass(&mut self, tail: u32, courier: &mut Courier) -> Result<Option<u16>, Stuck> {
        let mut arrived = false;
        while let Some(done) = self.writes.front().and_then(|&key| courier.take(key)) {
            done?;
            self.writes.pop_front();
            arrived = true;
        }
        while self.sent != tail && self.writes.len() < MOST_WRITES {
            let count = if tail > self.sent { tail } else { self.entries } - self.sent;
            let piece = entries::<CQE>(&self.ring, self.sent, count);
            let mut bytes = vec![0; piece.len as usize];
            self.ring.region.read(self.ring.offset + Ring::<CQE>::bytes(self.sent), &mut bytes);
            self.writes.push_back(courier.write(vec![piece], bytes));
            self.sent = (self.sent + count) % self.entries;
        }
        Ok(self.vector.filter(|_| arrived))
    }

    /// Whether all before `tail` has been sent.
    pub(super) fn is_even(&self, tail: u32) -> bool {
        self.sent == tail
    }

    /// Lets go of what is under way.
    pub(super) fn cancel(&self, courier: &mut Courier) {
        self.writes.iter().for_each(|&key| courier.cancel(key));
    }
}

impl FarSq {
    /// Lets go of what is under way.
    pub(super) fn cancel(&self, courier: &mut Courier) {
        if let Some((key, _)) = self.fetch {
            courier.cancel(key);
        }
    }
}

/// Why a ring stands still.
pub(super) enum Stuck {
    /// Its doorbell has a value that cannot be, until it has another.
    Nonsense(Nonsense),
    /// Its memory cannot be reached.
    Unreachable,
}

impl From<Trouble> for Stuck {
    fn from(_: Trouble) -> Self {
        Self::Unreachable
    }
}

/// Where `count` entries lie in the host's memory.
fn entries<const WORDS: usize>(ring: &Place, first: u32, count: u32) -> Piece {
    Piece { at: ring.address + Ring::<WORDS>::bytes(first), len: Ring::<WORDS>::bytes(count) as u32 }
}

impl Memory<'_> {
    /// Memory of ours for the copy of a ring, with room for a doorbell behind it, where all of the ring may be read and written.
    pub(in super::super) fn copy_of_ring(self, address: u64, len: u64) -> io::Result<Option<Place>> {
        use doorbell_vfio_user::Access::{Read, Write};
        let whole = [Piece { at: address, len: len as u32 }];
        if address.checked_add(len).is_none() || [Read, Write].iter().any(|&way| self.covers(&whole, way).is_err()) {
            return Ok(None);
        }
        let region = Region::new((len + 8).next_multiple_of(4096) as usize)?;
        Ok(Some(Place { region: Arc::new(region), offset: 0, address }))
    }
}
