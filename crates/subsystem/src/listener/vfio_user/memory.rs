//! Copies between the host's memory and ours. Every address is looked up in what the host has mapped; what is not there is an error
//! of the command that named it, what has gone since it was mapped ends the connection.

use std::sync::Arc;

use doorbell_platform::{Range, Region};
use doorbell_spec::status::{Status, generic};
use doorbell_vfio_user::{Access, DmaMap};

use super::rings::{Place, Ring};

/// A piece of the host's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Its address, as the host told it.
    pub(super) at: u64,
    /// Bytes.
    pub(super) len: u32,
}

/// Why a command cannot have its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// It names what it cannot have; the status to answer with.
    Status(Status),
    /// The host has taken away memory that it had mapped for us.
    Lost,
    /// What it names is mapped and not shared: it is reached by messages ([`super::far`]).
    Far,
}

impl Trouble {
    /// Nothing that may be reached so is mapped there, or the host does not give it.
    pub(super) const UNREACHABLE: Self = Self::Status(generic::DATA_TRANSFER_ERROR.with_dnr());
}

/// The host's memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory<'a>(pub(super) &'a DmaMap);

impl Memory<'_> {
    /// Copies `bytes.len()` bytes from `at`.
    pub(super) fn read(self, at: u64, bytes: &mut [u8]) -> Result<(), Trouble> {
        let piece = Piece { at, len: bytes.len() as u32 };
        self.each(piece, Access::Read, |memory, offset, done, len| memory.read(offset, &mut bytes[done..done + len]))
    }

    /// Copies bytes to pieces, which are as long together.
    pub(super) fn write(self, pieces: &[Piece], bytes: &[u8]) -> Result<(), Trouble> {
        let mut rest = bytes;
        for &piece in pieces {
            let (bytes, behind) = rest.split_at(piece.len as usize);
            self.each(piece, Access::Write, |memory, offset, done, len| {
                memory.write(offset, &bytes[done..done + len]);
            })?;
            rest = behind;
        }
        Ok(())
    }

    /// Copies bytes from pieces, which are as long together.
    pub(super) fn gather(self, pieces: &[Piece], bytes: &mut [u8]) -> Result<(), Trouble> {
        let mut rest = bytes;
        for &piece in pieces {
            let (bytes, behind) = rest.split_at_mut(piece.len as usize);
            self.read(piece.at, bytes)?;
            rest = behind;
        }
        Ok(())
    }

    /// Copies ranges of our memory to pieces, which are as long together.
    #[inline]
    pub(super) fn fill(self, pieces: &[Piece], ours: &Region, ranges: &[Range]) -> Result<(), Trouble> {
        self.pair(pieces, ranges, Access::Write, |memory, offset, at, len| memory.copy_from(offset, ours, at, len))
    }

    /// Copies pieces to ranges of our memory, which are as long together.
    #[inline]
    pub(super) fn fetch(self, pieces: &[Piece], ours: &Region, ranges: &[Range]) -> Result<(), Trouble> {
        self.pair(pieces, ranges, Access::Read, |memory, offset, at, len| {
            ours.copy_past_cache(at, memory, offset, len);
        })
    }

    /// Whether all of the pieces may be read or written.
    #[inline]
    pub(super) fn check(self, pieces: &[Piece], access: Access) -> Result<(), Trouble> {
        pieces.iter().try_for_each(|&piece| self.each(piece, access, |_, _, _, _| ()))
    }

    /// Whether all of the pieces are mapped so that they may be read or written, shared or not.
    pub(super) fn covers(self, pieces: &[Piece], access: Access) -> Result<(), Trouble> {
        pieces.iter().try_for_each(|piece| {
            let (mut at, mut left) = (piece.at, u64::from(piece.len));
            while left > 0 {
                let found = self.0.find(at, left, access).ok_or(Trouble::UNREACHABLE)?;
                (at, left) = (at.wrapping_add(found.len), left - found.len);
            }
            Ok(())
        })
    }

    /// Memory for the entries of a queue; none where it is not in one piece that is shared.
    pub(super) fn ring<const WORDS: usize>(self, address: u64, entries: u32) -> Option<Ring<WORDS>> {
        Ring::new(self.place(address, Ring::<WORDS>::bytes(entries))?, entries)
    }

    /// Memory that is looked at without asking again: `len` bytes that are one piece of what is mapped, for reading and writing.
    pub(super) fn place(self, address: u64, len: u64) -> Option<Place> {
        self.0.find(address, len, Access::Read)?;
        let piece = self.0.find(address, len, Access::Write).filter(|piece| piece.len == len)?;
        let region: Arc<Region> = piece.memory?.clone();
        Some(Place { region, offset: piece.offset, address })
    }

    /// Takes pieces and ranges side by side: offset in the host's memory, offset in ours, bytes.
    #[inline]
    fn pair(
        self,
        pieces: &[Piece],
        ranges: &[Range],
        access: Access,
        mut copy: impl FnMut(&Region, u64, u64, usize),
    ) -> Result<(), Trouble> {
        let mut ranges = ranges.iter().copied();
        let mut ours = Range::default();
        for &piece in pieces {
            self.each(piece, access, |memory, offset, _, len| {
                let mut done = 0;
                while done < len {
                    if ours.len == 0 {
                        // Both sides are as long as the command's data.
                        let Some(next) = ranges.next() else { return };
                        ours = next;
                    }
                    let part = (len - done).min(ours.len as usize);
                    copy(memory, offset + done as u64, ours.offset, part);
                    ours = ours.part(part as u32, u32::MAX);
                    done += part;
                }
            })?;
        }
        Ok(())
    }

    /// Finds what a piece consists of: memory, offset in it, bytes of the piece before, bytes.
    #[inline]
    fn each(
        self,
        piece: Piece,
        access: Access,
        mut act: impl FnMut(&Region, u64, usize, usize),
    ) -> Result<(), Trouble> {
        let (mut at, mut done) = (piece.at, 0);
        while done < piece.len as usize {
            let found = self.0.find(at, u64::from(piece.len) - done as u64, access).ok_or(Trouble::UNREACHABLE)?;
            let memory = found.memory.ok_or(Trouble::Far)?;
            act(memory, found.offset, done, found.len as usize);
            if memory.is_lost() {
                return Err(Trouble::Lost);
            }
            done += found.len as usize;
            // The last byte there is may be the last of a piece.
            at = at.wrapping_add(found.len);
        }
        Ok(())
    }
}
