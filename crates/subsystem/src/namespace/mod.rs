//! Namespaces: blocks in memory ([`ram`]), there in zones ([`zoned`]), nowhere ([`null`]) or in a file ([`file`]), behind one set of
//! calls that `controller::io` makes with ranges it has checked, and blocks with metadata ([`formatted`]), whose commands say more
//! than a range.
//!
//! The unit of atomicity is a *group*: the 4096 bytes of address space that one frame holds (8 blocks of 512 bytes or one of
//! 4096). What each kind does so that no reader ever sees half of a write to a group stands in its module.

mod file;
mod formatted;
mod null;
mod ram;
mod zoned;

use doorbell_platform::{Range, Region};
use doorbell_spec::status::{Status, generic, media};

use crate::{
    config::{Backend, NamespaceConfig},
    frames::{FRAME, Frame, LocalFrames},
    target::Error,
};

pub(crate) use file::FileBlocks;
pub(crate) use formatted::{FormattedBlocks, Request};
use ram::IN_PLACE;
pub(crate) use ram::RamBlocks;
pub(crate) use zoned::ZonedBlocks;

/// Frames that stay at hand for data inside command capsules, whose arrival cannot be put off: enough for a staging buffer full
/// of the smallest such writes, each of which may begin a frame of its own.
pub(crate) const RESERVE: usize = 512;
/// Groups that one call clears before it lets others have their turn.
const CLEAR_AT_ONCE: u64 = 1024;

/// What a reactor lends to the namespaces: its frames, and a buffer between files and frames.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) frames: LocalFrames,
    bounce: Box<[u8]>,
}

impl Pool {
    pub(crate) fn new(frames: LocalFrames) -> Self {
        Self { frames, bounce: vec![0; 256 << 10].into() }
    }
}

/// Whether a call is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// With this status.
    Done(Status),
    /// Not yet, but some of it: call again with the same arguments when others have had their turn.
    Turn,
    /// Nothing for now: call again later with the same arguments.
    Again,
}

/// What a read found: where it lies, and the frames to release when it has been sent.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) ranges: Vec<Range>,
    pub(crate) frames: Vec<Frame>,
}

impl Found {
    pub(crate) fn clear(&mut self, pool: &mut Pool) {
        self.ranges.clear();
        self.frames.drain(..).for_each(|frame| pool.frames.release(frame));
    }
}

/// How blocks become zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clear {
    /// Dataset Management: give the space back if that is possible.
    Hint,
    /// Write Zeroes with deallocate: zero, and give the space back if that is possible.
    Unmap,
    /// Write Zeroes: zero, and keep the space.
    Keep,
}

/// A namespace.
#[derive(Debug)]
pub(crate) struct Namespace {
    pub(crate) nsid: u32,
    pub(crate) block_shift: u32,
    pub(crate) blocks: u64,
    /// UUID and NGUID: made of the subsystem's name and the NSID, so that it is the same after a restart.
    pub(crate) uuid: [u8; 16],
    store: Store,
}

#[derive(Debug)]
enum Store {
    Ram(RamBlocks),
    Formatted(FormattedBlocks),
    Zoned(ZonedBlocks),
    Null,
    File(FileBlocks),
}

impl Namespace {
    /// Opens what the configuration names. `first` is the first of the [`Namespace::frames`] that a RAM namespace begins with.
    pub(crate) fn open(config: &NamespaceConfig, nqn: &str, nsid: u32, first: Frame) -> Result<Self, Error> {
        let block_shift = config.block_size.ilog2();
        let (store, size) = match &config.backend {
            Backend::Ram { size } => (Store::Ram(RamBlocks::new(first, Self::frames(config))), *size),
            Backend::Formatted { size, metadata } => {
                let blocks = FormattedBlocks::open(size >> block_shift, config.block_size, *metadata)?;
                (Store::Formatted(blocks), *size)
            }
            Backend::Zoned { size, zoning } => {
                let ram = RamBlocks::new(first, Self::frames(config));
                (Store::Zoned(ZonedBlocks::new(ram, zoning, size >> block_shift)), size & !(zoning.zone_size - 1))
            }
            Backend::Null { size } => (Store::Null, *size),
            Backend::File { path } => {
                let file = FileBlocks::open(path, config.block_size)?;
                let size = file.size();
                (Store::File(file), size)
            }
        };
        Ok(Self { nsid, block_shift, blocks: size >> block_shift, uuid: uuid(nqn, nsid), store })
    }

    /// Frames that a namespace takes from the store for good.
    pub(crate) fn frames(config: &NamespaceConfig) -> usize {
        match config.backend {
            Backend::Ram { size } | Backend::Zoned { size, .. } => size.div_ceil(u64::from(FRAME)) as usize,
            _ => 0,
        }
    }

    /// Its blocks where they have metadata: commands that transfer blocks go there, and not to the calls below.
    #[inline]
    pub(crate) fn formatted(&self) -> Option<&FormattedBlocks> {
        match &self.store {
            Store::Formatted(blocks) => Some(blocks),
            _ => None,
        }
    }

    /// Blocks of a group.
    pub(crate) fn group_blocks(&self) -> u16 {
        match self.store {
            Store::Formatted(_) => 1,
            _ => (FRAME >> self.block_shift) as u16,
        }
    }

    /// Whether a volatile cache lies between a completed write and where it stays.
    pub(crate) fn is_cached(&self) -> bool {
        matches!(self.store, Store::File(_))
    }

    /// Whether its blocks are in memory.
    #[inline]
    pub(crate) fn is_in_memory(&self) -> bool {
        matches!(self.store, Store::Ram(_))
    }

    /// Whether the frames of a write of `len` bytes become its own, without a look at what is in them.
    #[inline]
    pub(crate) fn keeps_frames(&self, len: u64) -> bool {
        self.is_in_memory() && len > IN_PLACE.into()
    }

    /// Its zones, if it has any.
    pub(crate) fn zones(&self) -> Option<&ZonedBlocks> {
        if let Store::Zoned(zoned) = &self.store { Some(zoned) } else { None }
    }

    /// Blocks that can be written.
    pub(crate) fn capacity(&self) -> u64 {
        self.zones().map(ZonedBlocks::zone).map_or(self.blocks, |(size, capacity)| self.blocks / size * capacity)
    }

    /// Whether what is written can be read again.
    #[inline]
    pub(crate) fn keeps_blocks(&self) -> bool {
        !matches!(self.store, Store::Null)
    }

    /// Byte `at` will be read or written soon.
    #[inline]
    pub(crate) fn approach(&self, at: u64) {
        if let Store::Ram(ram) = &self.store {
            ram.approach(at);
        }
    }

    /// The same, and where to look has been brought to the cache.
    #[inline]
    pub(crate) fn foresee(&self, pool: &Pool, at: u64) {
        if let Store::Ram(ram) = &self.store {
            ram.foresee(pool, at);
        }
    }

    /// Has `len` bytes at byte `at` written in their place, where that is one group in memory which nobody holds; else does nothing.
    #[inline]
    pub(crate) fn overwrite<T>(
        &self,
        pool: &mut Pool,
        at: u64,
        len: u32,
        write: impl FnOnce(&Region, Range) -> T,
    ) -> Option<T> {
        match &self.store {
            Store::Ram(ram) => ram.overwrite(pool, at, len, write),
            _ => None,
        }
    }

    /// Finds `len` bytes at byte `at`.
    #[inline]
    pub(crate) fn read(&self, pool: &mut Pool, at: u64, len: u32, found: &mut Found) -> Outcome {
        match &self.store {
            Store::Ram(ram) => {
                ram.read(pool, at, len, found);
                SUCCESS
            }
            Store::Formatted(_) => NOT_HERE,
            Store::Null => {
                null::read(len, found);
                SUCCESS
            }
            Store::File(file) => file.read(pool, at, len, found),
            Store::Zoned(zoned) => zoned.read(pool, at, len, found),
        }
    }

    /// Stores `len` bytes at byte `at`; they lie in `frames`, `at` modulo 4096 bytes into the first, and each frame is held by
    /// this command alone. Frames that the namespace keeps are taken out of the list. `progress` starts at 0.
    #[inline]
    pub(crate) fn write(
        &self,
        pool: &mut Pool,
        at: u64,
        len: u32,
        frames: &mut Vec<Frame>,
        progress: &mut u64,
    ) -> Outcome {
        match &self.store {
            Store::Ram(ram) => {
                ram.write(pool, at, len, frames);
                SUCCESS
            }
            Store::Formatted(_) => NOT_HERE,
            Store::Null => SUCCESS,
            Store::File(file) => file.write(pool, at, len, frames, progress),
            Store::Zoned(zoned) => zoned.write(pool, at, len, frames),
        }
    }

    /// Compares `len` bytes at byte `at` with those in `frames`, which are laid out as for [`Namespace::write`].
    pub(crate) fn compare(&self, pool: &mut Pool, at: u64, len: u32, frames: &[Frame]) -> Outcome {
        let equal = match &self.store {
            Store::Ram(ram) => ram.equals(pool, at, len, frames),
            Store::Formatted(_) => return NOT_HERE,
            Store::Null => null::equals(pool, at, len, frames),
            Store::File(file) => return file.compare(pool, at, len, frames),
            Store::Zoned(zoned) => match zoned.equals(pool, at, len, frames) {
                Ok(equal) => equal,
                Err(status) => return Outcome::Done(status),
            },
        };
        Outcome::Done(if equal { generic::SUCCESS } else { media::COMPARE_FAILURE })
    }

    /// Tries whether `len` bytes from byte `at` on can be read. `progress` starts at 0.
    pub(crate) fn verify(&self, pool: &mut Pool, at: u64, len: u64, progress: &mut u64) -> Outcome {
        match &self.store {
            Store::Formatted(_) => NOT_HERE,
            Store::Ram(_) | Store::Null => SUCCESS,
            Store::File(file) => file.verify(pool, at, len, progress),
            Store::Zoned(zoned) => zoned.verify(at, len as u32),
        }
    }

    /// Makes `len` bytes from byte `at` on zero. `progress` starts at 0.
    pub(crate) fn clear(&self, pool: &mut Pool, at: u64, len: u64, how: Clear, progress: &mut u64) -> Outcome {
        match &self.store {
            Store::Ram(ram) => ram.clear(pool, at, len, progress),
            Store::Formatted(blocks) => blocks.clear(at >> self.block_shift, len >> self.block_shift, progress),
            Store::Null => SUCCESS,
            Store::File(file) => file.clear(pool, at, len, how, progress),
            Store::Zoned(zoned) => zoned.clear(pool, at, len, how, progress),
        }
    }

    /// Puts everything written so far where it stays.
    pub(crate) fn flush(&self) -> Status {
        match &self.store {
            Store::Ram(_) | Store::Formatted(_) | Store::Zoned(_) | Store::Null => generic::SUCCESS,
            Store::File(file) => file.flush(),
        }
    }
}

const SUCCESS: Outcome = Outcome::Done(generic::SUCCESS);
/// Of blocks with metadata more must be said.
const NOT_HERE: Outcome = Outcome::Done(generic::INTERNAL_ERROR);

/// A UUID of version 8 (custom) made of two 64-bit FNV-1a sums.
fn uuid(nqn: &str, nsid: u32) -> [u8; 16] {
    let sum = |start: u64| {
        let bytes = nqn.bytes().chain(nsid.to_le_bytes());
        bytes.fold(start, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
    };
    let first = sum(0xcbf2_9ce4_8422_2325);
    let mut uuid = (u128::from(first) << 64 | u128::from(sum(!first))).to_be_bytes();
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}

#[cfg(test)]
mod tests;
