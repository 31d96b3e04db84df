//! PRP lists and SGL segments in memory that is reached by messages: a walk over them goes as far as what has come, asks for what is
//! missing, and begins again when that is here. What has come once is not asked for again, so a walk that ends has seen one copy of
//! each list.

use std::cell::Cell;

use super::super::{
    memory::{Memory, Piece, Trouble},
    transfer::Source,
};
use super::courier::{Courier, Key};

/// Most parts of lists of a command: what the longest one that is allowed has, in the parts in which it is read.
const MOST_PARTS: usize = 320;

/// The lists of a command, as far as they are here.
#[derive(Debug, Default)]
pub(in super::super) struct Lists {
    here: Vec<(u64, Vec<u8>)>,
    /// What is on its way, and where it lies.
    asked: Option<(Key, u64)>,
}

/// What a walk reads from.
#[derive(Clone, Copy)]
pub(super) struct Walker<'a> {
    memory: Memory<'a>,
    here: &'a [(u64, Vec<u8>)],
    missing: &'a Cell<Option<Piece>>,
}

impl Source for Walker<'_> {
    fn read(self, at: u64, bytes: &mut [u8]) -> Result<(), Trouble> {
        let known = self.here.iter().find(|(from, part)| *from == at && part.len() == bytes.len());
        if let Some((_, part)) = known {
            bytes.copy_from_slice(part);
            return Ok(());
        }
        let outcome = self.memory.read(at, bytes);
        if outcome == Err(Trouble::Far) {
            self.missing.set(Some(Piece { at, len: bytes.len() as u32 }));
        }
        outcome
    }
}

impl Lists {
    /// Walks, if what was missing has come; returns whether the walk has ended.
    ///
    /// # Errors
    /// Why the command cannot have its data.
    pub(super) fn walk(
        &mut self,
        memory: Memory<'_>,
        courier: &mut Courier,
        walk: impl FnOnce(Walker<'_>) -> Result<(), Trouble>,
    ) -> Result<bool, Trouble> {
        if let Some((key, at)) = self.asked {
            let Some(came) = courier.take(key) else { return Ok(false) };
            self.asked = None;
            self.here.push((at, came?));
        }
        let missing = Cell::new(None);
        let outcome = walk(Walker { memory, here: &self.here, missing: &missing });
        match (outcome, missing.get()) {
            (Err(Trouble::Far), Some(piece)) if self.here.len() < MOST_PARTS => {
                self.asked = Some((courier.read(vec![piece]), piece.at));
                Ok(false)
            }
            (Err(Trouble::Far), _) => Err(Trouble::UNREACHABLE),
            (other, _) => other.map(|()| true),
        }
    }

    /// Asks for nothing any more.
    pub(super) fn cancel(&self, courier: &mut Courier) {
        if let Some((key, _)) = self.asked {
            courier.cancel(key);
        }
    }
}
