//! Command identifiers: the low bits name the slot, the high bits count its uses, so that a stale or repeated completion is told
//! from the one that is due. FFFFh is never used (Base specification, Common Command Format: it names no command in error logs).

use crate::Slot;

/// The identifiers of a queue's slots and which of them are outstanding.
#[derive(Debug)]
pub struct Cids {
    bits: u32,
    /// The identifier of a slot's present or next use.
    current: Vec<u16>,
    busy: Vec<bool>,
    outstanding: u16,
}

impl Cids {
    /// For `slots` slots, at most 65535.
    pub fn new(slots: u16) -> Self {
        let bits = u32::from(slots.max(1)).next_power_of_two().trailing_zeros();
        Self { bits, current: (0..slots).collect(), busy: vec![false; slots.into()], outstanding: 0 }
    }

    /// Whether the slot exists and carries no command.
    pub fn is_idle(&self, slot: Slot) -> bool {
        self.busy.get(usize::from(slot)).is_some_and(|busy| !busy)
    }

    /// Slots that carry a command.
    pub fn outstanding(&self) -> u16 {
        self.outstanding
    }

    /// Marks an idle slot busy and returns the identifier of its command.
    #[inline]
    pub fn issue(&mut self, slot: Slot) -> u16 {
        debug_assert!(self.is_idle(slot));
        self.busy[usize::from(slot)] = true;
        self.outstanding += 1;
        self.current[usize::from(slot)]
    }

    /// The slot whose outstanding command has this identifier.
    #[inline]
    pub fn find(&self, cid: u16) -> Option<Slot> {
        let slot = (u32::from(cid) & ((1u32 << self.bits) - 1)) as u16;
        let known = self.current.get(usize::from(slot)) == Some(&cid) && self.busy[usize::from(slot)];
        known.then_some(slot)
    }

    /// The identifier of the command that a slot carries.
    pub fn of(&self, slot: Slot) -> Option<u16> {
        let index = usize::from(slot);
        (self.busy.get(index) == Some(&true)).then(|| self.current[index])
    }

    /// Makes a busy slot idle and its identifier stale.
    #[inline]
    pub fn retire(&mut self, slot: Slot) {
        debug_assert!(!self.is_idle(slot));
        self.busy[usize::from(slot)] = false;
        self.outstanding -= 1;
        let next = u32::from(self.current[usize::from(slot)]) + (1 << self.bits);
        let next = if next >= 0xffff { u32::from(slot) } else { next };
        self.current[usize::from(slot)] = next as u16;
    }

    /// The busy slots, ascending.
    pub fn busy(&self) -> impl Iterator<Item = Slot> + '_ {
        self.busy.iter().enumerate().filter(|(_, busy)| **busy).map(|(slot, _)| slot as Slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_identifier_is_not_found() {
        let mut cids = Cids::new(100);
        let first = cids.issue(7);
        assert_eq!((cids.find(first), cids.of(7)), (Some(7), Some(first)));
        cids.retire(7);
        assert_eq!((cids.of(7), cids.of(100)), (None, None), "idle, and not there");
        assert_eq!(cids.find(first), None, "answered already");
        let second = cids.issue(7);
        assert_ne!(first, second);
        assert_eq!((cids.find(first), cids.find(second)), (None, Some(7)), "repeated");
        assert_eq!(cids.find(8), None, "never sent");
    }

    #[test]
    fn no_identifier_is_all_ones_or_shared() {
        for slots in [1, 2, 127, 4095, u16::MAX] {
            let mut cids = Cids::new(slots);
            let last = slots - 1;
            for _ in 0..70_000 / u32::from(slots) + 3 {
                let cid = cids.issue(last);
                assert_ne!(cid, 0xffff);
                assert_eq!(cids.find(cid), Some(last));
                cids.retire(last);
            }
            let all: std::collections::HashSet<_> = (0..slots).map(|slot| cids.issue(slot)).collect();
            assert_eq!(all.len(), usize::from(slots));
        }
    }
}
