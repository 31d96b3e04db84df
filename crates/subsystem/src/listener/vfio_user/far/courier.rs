//! Copies by messages. An [`Errand`] is a copy between pieces of the host's memory and bytes of ours; it is carried out as the host
//! answers, while others are under way. What lies in memory that is shared is copied directly on the way.

use std::{
    collections::BTreeMap,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use doorbell_platform::Region;
use doorbell_vfio_user::{Access, Connection as Link, Errno};

use super::super::{
    job::Lost,
    memory::{Piece, Trouble},
};

/// The name of an errand; later ones have larger ones.
pub(in super::super) type Key = u64;

/// A copy that is under way.
#[derive(Debug)]
struct Errand {
    access: Access,
    pieces: Vec<Piece>,
    bytes: Vec<u8>,
    /// The piece that is next, bytes of it that are done with, and of all.
    piece: usize,
    within: u32,
    at: usize,
    /// Messages without an answer yet.
    open: usize,
    failed: bool,
}

impl Errand {
    fn is_over(&self) -> bool {
        self.open == 0 && (self.failed || self.at == self.bytes.len())
    }

    /// Goes on behind a part of the present piece.
    fn advance(&mut self, len: usize) {
        self.at += len;
        self.within += len as u32;
        if self.within == self.pieces[self.piece].len {
            (self.piece, self.within) = (self.piece + 1, 0);
        }
    }
}

/// A message without an answer.
#[derive(Debug)]
struct Flight {
    id: u16,
    errand: Key,
    /// Of its bytes, in the errand's.
    at: usize,
    since: Instant,
}

/// Who carries out errands.
#[derive(Debug, Default)]
pub(in super::super) struct Courier {
    errands: BTreeMap<Key, Errand>,
    next: Key,
    flights: Vec<Flight>,
}

impl Courier {
    /// Whether there is nothing to do and nothing to wait for.
    pub(super) fn is_idle(&self) -> bool {
        self.errands.is_empty() && self.flights.is_empty()
    }

    /// Whether the host has left a message without an answer for so long.
    pub(super) fn is_overdue(&self, now: Instant, patience: Duration) -> bool {
        self.flights.iter().any(|flight| now >= flight.since + patience)
    }

    /// Begins to read pieces.
    pub(super) fn read(&mut self, pieces: Vec<Piece>) -> Key {
        let len = pieces.iter().map(|piece| piece.len as usize).sum();
        self.begin(Access::Read, pieces, vec![0; len])
    }

    /// Begins to write bytes to pieces, which are as long together.
    pub(super) fn write(&mut self, pieces: Vec<Piece>, bytes: Vec<u8>) -> Key {
        self.begin(Access::Write, pieces, bytes)
    }

    fn begin(&mut self, access: Access, pieces: Vec<Piece>, bytes: Vec<u8>) -> Key {
        let key = self.next;
        self.next += 1;
        let errand = Errand { access, pieces, bytes, piece: 0, within: 0, at: 0, open: 0, failed: false };
        self.errands.insert(key, errand);
        key
    }

    /// What came of an errand, which is forgotten with that: the bytes. None while it is under way.
    ///
    /// # Errors
    /// The status of a command that cannot have its data.
    pub(super) fn take(&mut self, key: Key) -> Option<Result<Vec<u8>, Trouble>> {
        self.errands.get(&key).filter(|errand| errand.is_over())?;
        let errand = self.errands.remove(&key)?;
        Some(if errand.failed { Err(Trouble::UNREACHABLE) } else { Ok(errand.bytes) })
    }

    /// Forgets an errand; what has been sent of it still has its answer.
    pub(super) fn cancel(&mut self, key: Key) {
        self.errands.remove(&key);
    }

    /// Forgets all errands.
    pub(super) fn clear(&mut self) {
        self.errands.clear();
    }

    /// A message has its answer.
    pub(super) fn moved(&mut self, id: u16, result: Result<Vec<u8>, Errno>) {
        let Some(place) = self.flights.iter().position(|flight| flight.id == id) else { return };
        let Flight { errand, at, .. } = self.flights.swap_remove(place);
        let Some(errand) = self.errands.get_mut(&errand) else { return };
        errand.open -= 1;
        match result {
            // Nothing comes back from a write; what comes from a read is as long as was asked for.
            Ok(data) => errand.bytes[at..at + data.len()].copy_from_slice(&data),
            Err(_) => errand.failed = true,
        }
    }

    /// Sends what there is room for, in the order in which it was begun; returns whether anything came forward.
    pub(super) fn run(&mut self, link: &mut Link, now: Instant) -> Result<bool, Lost> {
        let mut any = false;
        let most = link.most_moved();
        for (&key, errand) in &mut self.errands {
            while !errand.failed && errand.at < errand.bytes.len() {
                let Piece { at, len } = errand.pieces[errand.piece];
                let (addr, len) = (at.wrapping_add(errand.within.into()), len - errand.within);
                let Some(found) = link.map().find(addr, len.into(), errand.access) else {
                    errand.failed = true;
                    break;
                };
                any = true;
                if let Some(memory) = found.memory {
                    let bytes = &mut errand.bytes[errand.at..][..found.len as usize];
                    copy(memory, found.offset, errand.access, bytes);
                    if memory.is_lost() {
                        return Err(Lost);
                    }
                    errand.advance(found.len as usize);
                    continue;
                }
                let count = (found.len as u32).min(most);
                let sent = match errand.access {
                    Access::Read => link.dma_read(addr, count),
                    Access::Write => link.dma_write(addr, &errand.bytes[errand.at..][..count as usize]),
                };
                match sent {
                    Ok(id) => {
                        self.flights.push(Flight { id, errand: key, at: errand.at, since: now });
                        errand.open += 1;
                        errand.advance(count as usize);
                    }
                    Err(Errno::AGAIN) => return Ok(any),
                    // The host takes no bytes at all.
                    Err(_) => errand.failed = true,
                }
            }
        }
        Ok(any)
    }
}

/// Copies between shared memory and bytes. Whole quadwords are written one after another, as who polls a ring expects it.
fn copy(memory: &Region, offset: u64, access: Access, bytes: &mut [u8]) {
    match bytes.as_chunks::<8>() {
        _ if access == Access::Read => memory.read(offset, bytes),
        (words, []) if offset.is_multiple_of(8) => {
            for (&word, at) in words.iter().zip((offset..).step_by(8)) {
                memory.store_u64(at, u64::from_ne_bytes(word), Ordering::Release);
            }
        }
        _ => memory.write(offset, bytes),
    }
}
