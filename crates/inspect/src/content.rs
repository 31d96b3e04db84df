//! The ends of a device, where everything that leaves a signature leaves it.

/// Bytes looked at from each end.
pub const EDGE: u64 = 1 << 20;

/// The first and the last bytes of a device; they overlap where it is small.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    /// Bytes from the first.
    pub head: Vec<u8>,
    /// Bytes up to the last.
    pub tail: Vec<u8>,
    /// Bytes in all.
    pub size: u64,
}

impl Ends {
    /// The bytes from an offset, where they were read.
    pub(crate) fn at(&self, offset: u64, len: usize) -> Option<&[u8]> {
        let part = |bytes: &[u8], from: u64| -> Option<std::ops::Range<usize>> {
            let from = usize::try_from(offset.checked_sub(from)?).ok()?;
            let to = from.checked_add(len)?;
            (to <= bytes.len()).then_some(from..to)
        };
        let tail = self.size.saturating_sub(self.tail.len() as u64);
        part(&self.head, 0).map(|part| &self.head[part]).or_else(|| part(&self.tail, tail).map(|part| &self.tail[part]))
    }

    /// Whether these bytes stand at an offset.
    pub(crate) fn has(&self, offset: u64, magic: &[u8]) -> bool {
        self.at(offset, magic.len()) == Some(magic)
    }

    /// The number of that many bytes at an offset, least significant first.
    pub(crate) fn number(&self, offset: u64, bytes: usize) -> Option<u64> {
        let little = |bytes: &[u8]| bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte));
        self.at(offset, bytes).map(little)
    }
}

/// Reads the ends of something of `size` bytes through `read`, which is given an offset and a number of bytes.
///
/// # Errors
/// That of a read.
pub fn read_ends<E>(size: u64, mut read: impl FnMut(u64, usize) -> Result<Vec<u8>, E>) -> Result<Ends, E> {
    let edge = size.min(EDGE);
    Ok(Ends { head: read(0, edge as usize)?, tail: read(size - edge, edge as usize)?, size })
}
