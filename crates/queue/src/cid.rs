//! Command identifiers: the low bits name the slot, the high bits count its uses, so that a stale or repeated completion is told
//! from the one that is due. FFFFh is never used (Base specification, Common Command Format: it names no command in error logs).

use crate::Slot;

/// Marks the identifier of a slot that carries a command.
const BUSY: u32 = 1 << 16;

/// The identifiers of a queue's slots and which of them are outstanding.
#[derive(Debug)]
pub struct Cids {
    /// The bits of an identifier that name the slot.
    mask: u16,
    outstanding: u16,
    /// The identifier of a slot's present or next use, and [`BUSY`].
    slots: Vec<u32>,
}

impl Cids {
    /// For `slots` slots, at most 65535.
    pub fn new(slots: u16) -> Self {
        let mask = (u32::from(slots.max(1)).next_power_of_two() - 1) as u16;
        Self { mask, outstanding: 0, slots: (0..u32::from(slots)).collect() }
    }

    /// Whether the slot exists and carries no command.
    #[inline]
    pub fn is_idle(&self, slot: Slot) -> bool {
        self.slots.get(usize::from(slot)).is_some_and(|&state| state < BUSY)
    }

    /// Slots that carry a command.
    pub fn outstanding(&self) -> u16 {
        self.outstanding
    }

    /// Marks an idle slot busy and returns the identifier of its command.
    #[inline]
    pub fn issue(&mut self, slot: Slot) -> u16 {
        let state = &mut self.slots[usize::from(slot)];
        debug_assert!(*state < BUSY);
        *state |= BUSY;
        self.outstanding += 1;
        *state as u16
    }

    /// The slot whose outstanding command has this identifier.
    #[inline]
    pub fn find(&self, cid: u16) -> Option<Slot> {
        let slot = cid & self.mask;
        (self.slots.get(usize::from(slot)) == Some(&(u32::from(cid) | BUSY))).then_some(slot)
    }

    /// The identifier of the command that a slot carries.
    pub fn of(&self, slot: Slot) -> Option<u16> {
        self.slots.get(usize::from(slot)).filter(|&&state| state >= BUSY).map(|&state| state as u16)
    }

    /// Makes a busy slot idle and its identifier stale.
    #[inline]
    pub fn retire(&mut self, slot: Slot) {
        let state = &mut self.slots[usize::from(slot)];
        debug_assert!(*state >= BUSY);
        self.outstanding -= 1;
        let next = (*state & !BUSY) + u32::from(self.mask) + 1;
        *state = if next >= 0xffff { slot.into() } else { next };
    }

    /// The busy slots, ascending.
    pub fn busy(&self) -> impl Iterator<Item = Slot> + '_ {
        self.slots.iter().enumerate().filter(|(_, state)| **state >= BUSY).map(|(slot, _)| slot as Slot)
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
