//! Blocks in memory, in zones that are written in order (ZNS 2.1). Zones change under one lock, and a write is in memory when it is
//! given back: the write pointer never passes a block that a reader would find as it was before. What lies behind the pointer reads
//! as zeroes wherever it comes from, so resetting a zone moves a number and touches no block.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use doorbell_spec::{
    status::{Status, command_specific, generic},
    zns::{Reporting, SendAction, ZoneDescriptor, ZoneState},
};

use super::{Clear, Found, Outcome, Pool, RamBlocks, SUCCESS, null};
use crate::{
    config::Zoning,
    frames::{FRAME, Frame},
};

/// Bytes of a block: one group, so that where an append goes says nothing about how its data lies in frames.
const BLOCK: u64 = FRAME as u64;

/// The namespace.
#[derive(Debug)]
pub(crate) struct ZonedBlocks {
    ram: RamBlocks,
    /// In blocks.
    zone_size: u64,
    zone_capacity: u64,
    max_open: Option<u32>,
    max_active: Option<u32>,
    zones: Mutex<Zones>,
}

#[derive(Debug)]
struct Zones {
    all: Box<[Zone]>,
    open: u32,
    active: u32,
    /// Those that are implicitly opened, the first opened first.
    implicit: VecDeque<usize>,
}

#[derive(Clone, Copy, Debug)]
struct Zone {
    state: ZoneState,
    /// Blocks that have been written since it was empty, which the end of a full zone need not be.
    written: u64,
}

impl ZonedBlocks {
    pub(super) fn new(ram: RamBlocks, zoning: &Zoning, blocks: u64) -> Self {
        let zone_size = zoning.zone_size / BLOCK;
        let count = (blocks / zone_size) as usize;
        let state = |at| match at < count - zoning.read_only as usize {
            true => ZoneState::EMPTY,
            false => ZoneState::READ_ONLY,
        };
        let all = (0..count).map(|at| Zone { state: state(at), written: 0 }).collect();
        Self {
            ram,
            zone_size,
            zone_capacity: zoning.zone_capacity / BLOCK,
            max_open: zoning.max_open,
            max_active: zoning.max_active,
            zones: Mutex::new(Zones { all, open: 0, active: 0, implicit: VecDeque::new() }),
        }
    }

    /// Blocks of a zone, and how many of them can be written.
    pub(crate) fn zone(&self) -> (u64, u64) {
        (self.zone_size, self.zone_capacity)
    }

    /// Most zones that are active, and open, at a time.
    pub(crate) fn limits(&self) -> (Option<u32>, Option<u32>) {
        (self.max_active, self.max_open)
    }

    /// Writes at the write pointer, which `at` must be; to what a Write carries, a Write Zeroes or a Zone Append is in `write`.
    fn advance(
        &self,
        at: u64,
        len: u64,
        append: bool,
        write: impl FnOnce(&RamBlocks, u64) -> Outcome,
    ) -> Result<(u64, Outcome), Status> {
        let (slba, blocks) = (at / BLOCK, len / BLOCK);
        let index = (slba / self.zone_size) as usize;
        let start = index as u64 * self.zone_size;
        if append && slba != start {
            return Err(generic::INVALID_FIELD.with_dnr());
        }
        let mut zones = self.lock();
        let Zone { state, written } = zones.all[index];
        let from = if append { written } else { slba - start };
        match state {
            ZoneState::FULL => return Err(command_specific::ZONE_IS_FULL.with_dnr()),
            ZoneState::READ_ONLY => return Err(command_specific::ZONE_IS_READ_ONLY.with_dnr()),
            ZoneState::OFFLINE => return Err(command_specific::ZONE_IS_OFFLINE.with_dnr()),
            _ if from + blocks > self.zone_capacity => {
                return Err(command_specific::ZONED_BOUNDARY_ERROR.with_dnr());
            }
            _ if from != written => return Err(command_specific::ZONE_INVALID_WRITE.with_dnr()),
            _ => {}
        }
        if !state.is_open() {
            self.make_room(&mut zones, state)?;
            zones.set(index, ZoneState::IMPLICITLY_OPENED);
        }
        let outcome = write(&self.ram, (start + from) * BLOCK);
        zones.all[index].written += blocks;
        if zones.all[index].written == self.zone_capacity {
            zones.set(index, ZoneState::FULL);
        }
        Ok((start + from, outcome))
    }

    /// Sees to it that one more zone, in this state now, can be opened.
    fn make_room(&self, zones: &mut Zones, state: ZoneState) -> Result<(), Status> {
        let is_full = |most: Option<u32>, count| most.is_some_and(|most| count >= most);
        if !state.is_active() && is_full(self.max_active, zones.active) {
            return Err(command_specific::TOO_MANY_ACTIVE_ZONES);
        }
        if is_full(self.max_open, zones.open) {
            let first = *zones.implicit.front().ok_or(command_specific::TOO_MANY_OPEN_ZONES)?;
            zones.set(first, ZoneState::CLOSED);
        }
        Ok(())
    }

    pub(super) fn write(&self, pool: &mut Pool, at: u64, len: u32, frames: &mut Vec<Frame>) -> Outcome {
        let write = |ram: &RamBlocks, at| {
            ram.write(pool, at, len, frames);
            SUCCESS
        };
        self.advance(at, len.into(), false, write).map_or_else(Outcome::Done, |(_, outcome)| outcome)
    }

    /// Writes at the write pointer of the zone that begins at `at`; returns the block that it was.
    ///
    /// # Errors
    /// The status to answer with.
    pub(crate) fn append(&self, pool: &mut Pool, at: u64, len: u32, frames: &mut Vec<Frame>) -> Result<u64, Status> {
        let write = |ram: &RamBlocks, at| {
            ram.write(pool, at, len, frames);
            SUCCESS
        };
        self.advance(at, len.into(), true, write).map(|(block, _)| block)
    }

    pub(super) fn clear(&self, pool: &mut Pool, at: u64, len: u64, how: Clear, progress: &mut u64) -> Outcome {
        if how == Clear::Hint {
            return self.ram.clear(pool, at, len, progress);
        }
        // In one go, as nothing may come between: a zone's worth at most.
        let write = |ram: &RamBlocks, at| loop {
            let outcome = ram.clear(pool, at, len, progress);
            if outcome != Outcome::Turn {
                return outcome;
            }
        };
        self.advance(at, len, false, write).map_or_else(Outcome::Done, |(_, outcome)| outcome)
    }

    pub(super) fn read(&self, pool: &mut Pool, at: u64, len: u32, found: &mut Found) -> Outcome {
        match self.written(at, len) {
            Err(status) => Outcome::Done(status),
            Ok(written) => {
                self.ram.read(pool, at, written, found);
                null::read(len - written, found);
                SUCCESS
            }
        }
    }

    /// Whether the blocks hold what is in `frames`.
    ///
    /// # Errors
    /// The status to answer with instead.
    pub(super) fn equals(&self, pool: &mut Pool, at: u64, len: u32, frames: &[Frame]) -> Result<bool, Status> {
        let written = self.written(at, len)?;
        let (first, rest) = frames.split_at((u64::from(written) / BLOCK) as usize);
        Ok(self.ram.equals(pool, at, written, first) && null::equals(pool, at, len - written, rest))
    }

    /// How many of these bytes have been written.
    fn written(&self, at: u64, len: u32) -> Result<u32, Status> {
        let (slba, blocks) = (at / BLOCK, u64::from(len) / BLOCK);
        let within = slba % self.zone_size;
        if within + blocks > self.zone_size {
            return Err(command_specific::ZONED_BOUNDARY_ERROR.with_dnr());
        }
        let Zone { state, written } = self.lock().all[(slba / self.zone_size) as usize];
        if state == ZoneState::OFFLINE {
            return Err(command_specific::ZONE_IS_OFFLINE.with_dnr());
        }
        Ok((written.saturating_sub(within).min(blocks) * BLOCK) as u32)
    }

    /// Zone Management Send to the zone that begins at a block, or to all that the action is for.
    ///
    /// # Errors
    /// The status to answer with.
    pub(crate) fn manage(&self, slba: u64, action: SendAction, all: bool) -> Result<(), Status> {
        let mut zones = self.lock();
        if !all {
            return self.act(&mut zones, (slba / self.zone_size) as usize, action);
        }
        let applies = |state: ZoneState| match action {
            SendAction::CLOSE => state.is_open(),
            SendAction::FINISH => state.is_active(),
            SendAction::OPEN => state == ZoneState::CLOSED,
            SendAction::RESET => state.is_active() || state == ZoneState::FULL,
            SendAction::OFFLINE => state == ZoneState::READ_ONLY,
            _ => false,
        };
        let meant: Vec<usize> = (0..zones.all.len()).filter(|&at| applies(zones.all[at].state)).collect();
        // All or none.
        let explicit = zones.open as usize - zones.implicit.len();
        if action == SendAction::OPEN && self.max_open.is_some_and(|most| explicit + meant.len() > most as usize) {
            return Err(command_specific::TOO_MANY_OPEN_ZONES);
        }
        meant.into_iter().try_for_each(|at| self.act(&mut zones, at, action))
    }

    fn act(&self, zones: &mut Zones, at: usize, action: SendAction) -> Result<(), Status> {
        let state = zones.all[at].state;
        let next = match (action, state) {
            (SendAction::OPEN, ZoneState::EXPLICITLY_OPENED)
            | (SendAction::CLOSE, ZoneState::CLOSED)
            | (SendAction::FINISH, ZoneState::FULL)
            | (SendAction::RESET, ZoneState::EMPTY)
            | (SendAction::OFFLINE, ZoneState::OFFLINE) => return Ok(()),
            (SendAction::OPEN, ZoneState::IMPLICITLY_OPENED) => ZoneState::EXPLICITLY_OPENED,
            (SendAction::OPEN, ZoneState::EMPTY | ZoneState::CLOSED) => {
                self.make_room(zones, state)?;
                ZoneState::EXPLICITLY_OPENED
            }
            (SendAction::CLOSE, _) if state.is_open() => ZoneState::CLOSED,
            (SendAction::FINISH, _) if state.is_active() || state == ZoneState::EMPTY => ZoneState::FULL,
            (SendAction::RESET, _) if state.is_active() || state == ZoneState::FULL => {
                zones.all[at].written = 0;
                ZoneState::EMPTY
            }
            (SendAction::OFFLINE, ZoneState::READ_ONLY) => ZoneState::OFFLINE,
            _ => return Err(command_specific::INVALID_ZONE_STATE_TRANSITION.with_dnr()),
        };
        zones.set(at, next);
        Ok(())
    }

    /// The zones of a kind from the one with a block on: how many there are, and the descriptors of the first `most`.
    pub(crate) fn report(&self, slba: u64, which: Reporting, most: usize) -> (u64, Vec<ZoneDescriptor>) {
        let first = (slba / self.zone_size) as usize;
        let zones = self.lock();
        let listed = || (first..).zip(&zones.all[first..]).filter(|(_, zone)| which.lists(zone.state));
        let describe = |(at, zone): (usize, &Zone)| {
            let zslba = at as u64 * self.zone_size;
            let has_pointer = zone.state.is_active() || zone.state == ZoneState::EMPTY;
            ZoneDescriptor {
                zt: ZoneDescriptor::SEQUENTIAL_WRITE_REQUIRED,
                zs: zone.state.0 << 4,
                zcap: self.zone_capacity.into(),
                zslba: zslba.into(),
                wp: if has_pointer { zslba + zone.written } else { u64::MAX }.into(),
                ..ZoneDescriptor::default()
            }
        };
        (listed().count() as u64, listed().take(most).map(describe).collect())
    }

    /// Zones change in one step under this lock, whatever happens there.
    fn lock(&self) -> MutexGuard<'_, Zones> {
        self.zones.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Zones {
    fn set(&mut self, at: usize, next: ZoneState) {
        let last = std::mem::replace(&mut self.all[at].state, next);
        self.open = self.open + u32::from(next.is_open()) - u32::from(last.is_open());
        self.active = self.active + u32::from(next.is_active()) - u32::from(last.is_active());
        if last == ZoneState::IMPLICITLY_OPENED {
            self.implicit.retain(|&each| each != at);
        }
        if next == ZoneState::IMPLICITLY_OPENED {
            self.implicit.push_back(at);
        }
    }
}

#[cfg(test)]
mod tests;
