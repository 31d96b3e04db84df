//! Blocks with metadata, in memory of their own: each block with its metadata behind it, read and changed as a whole under the lock of
//! its stripe. Protection information is kept inverted, so that memory nobody has written reads as all ones there, which says that the
//! block is not to be checked.

use std::sync::{Mutex, PoisonError};

use doorbell_platform::Region;
use doorbell_queue::protection::checksum;
use doorbell_spec::{
    command::{Command, control},
    protection::{Expected, Field, Format, Information, MOST_BYTES, Mismatch, Type},
    status::{Status, command_specific, media},
};

use super::{CLEAR_AT_ONCE, Clear, Found, Outcome, Pool, RESERVE, SUCCESS};
use crate::{
    config::Metadata,
    frames::{FRAME, Frame, frames_for, place, push_ranges},
    target::Error,
};

/// Locks; a power of two.
const STRIPES: u64 = 1024;

/// The blocks.
#[derive(Debug)]
pub(crate) struct FormattedBlocks {
    region: Region,
    block_size: u32,
    metadata: Metadata,
    stripes: Box<[Mutex<()>]>,
}

/// What a command does to blocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    slba: u64,
    blocks: u32,
    control: u16,
    expected: Expected,
}

impl Request {
    pub(crate) fn new(command: &Command) -> Self {
        let application = command.cdw15.get();
        let expected = Expected {
            checks: command.control(),
            application: (application as u16, (application >> 16) as u16),
            tags: command.block_tags(),
        };
        Self { slba: command.slba(), blocks: command.block_count(), control: command.control(), expected }
    }
}

/// How the data and the metadata of a command's blocks lie in what it transfers: {data, data, …} or {data, metadata, data, …}, or the
/// former and behind it {metadata, metadata, …}.
#[derive(Clone, Copy, Debug)]
struct Layout {
    blocks: u32,
    block_size: u32,
    metadata_size: u32,
    extended: bool,
}

impl Layout {
    fn data(&self, block: u32) -> u32 {
        block * (self.block_size + if self.extended { self.metadata_size } else { 0 })
    }

    fn metadata(&self, block: u32) -> u32 {
        match self.extended {
            true => self.data(block) + self.block_size,
            false => self.blocks * self.block_size + block * self.metadata_size,
        }
    }
}

impl FormattedBlocks {
    pub(super) fn open(blocks: u64, block_size: u32, metadata: Metadata) -> Result<Self, Error> {
        let bytes = blocks.saturating_mul(u64::from(block_size) + u64::from(metadata.size));
        let fail = |source| Error::Memory { bytes, source };
        let region = Region::new(usize::try_from(bytes).unwrap_or(usize::MAX)).map_err(fail)?;
        region.populate().map_err(fail)?;
        Ok(Self { region, block_size, metadata, stripes: (0..STRIPES).map(|_| Mutex::default()).collect() })
    }

    /// How they are formatted.
    pub(crate) fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Bytes of data that a command transfers by its data pointer, and bytes of metadata that it transfers apart.
    ///
    /// # Errors
    /// The status to answer with, where what it says of the protection information cannot be.
    pub(crate) fn admit(&self, command: &Command) -> Result<(u32, u32), Status> {
        if let Some(format) = &self.metadata.protection {
            let asked = command.control() & control::PRCHK_REF != 0;
            let slba = u128::from(command.slba()) & format.reference_mask();
            let right = match format.kind {
                Type::One => command.block_tags() & format.reference_mask() == slba,
                Type::Two => true,
                Type::Three => false,
            };
            if asked && !right {
                return Err(command_specific::INVALID_PROTECTION_INFORMATION.with_dnr());
            }
        }
        let layout = self.layout(&Request::new(command));
        let apart = if layout.extended { 0 } else { layout.blocks * layout.metadata_size };
        Ok((layout.data(layout.blocks), apart))
    }

    fn layout(&self, request: &Request) -> Layout {
        let size = self.metadata.size;
        let format = self.metadata.protection.filter(|_| request.control & control::PRACT != 0);
        // Metadata that is nothing but the protection information stays here then.
        let stays = format.is_some_and(|format| format.guard.size() == size);
        let metadata_size = if stays { 0 } else { size.into() };
        Layout {
            blocks: request.blocks,
            block_size: self.block_size,
            metadata_size,
            extended: self.metadata.extended || metadata_size == 0,
        }
    }

    pub(crate) fn read(&self, pool: &mut Pool, request: Request, found: &mut Found) -> Outcome {
        let layout = self.layout(&request);
        let len = layout.blocks * (layout.block_size + layout.metadata_size);
        if !pool.frames.take(frames_for(0, len), RESERVE, &mut found.frames) {
            return Outcome::Again;
        }
        let mut expected = request.expected;
        for block in 0..request.blocks {
            let bytes = self.load(&mut pool.bounce, request.slba + u64::from(block));
            if let Err(status) = self.check(bytes, &expected) {
                found.clear(pool);
                return Outcome::Done(status);
            }
            let (data, metadata) = bytes.split_at(layout.block_size as usize);
            let region = pool.frames.store.region();
            each_part(&found.frames, layout.data(block), data.len(), |at, part| region.write(at, &data[part]));
            let metadata = &metadata[..layout.metadata_size as usize];
            let at = layout.metadata(block);
            each_part(&found.frames, at, metadata.len(), |at, part| region.write(at, &metadata[part]));
            self.step(&mut expected);
        }
        push_ranges(&found.frames, 0, 0, len, &mut found.ranges);
        SUCCESS
    }

    pub(crate) fn write(&self, pool: &mut Pool, request: Request, frames: &[Frame]) -> Outcome {
        let layout = self.layout(&request);
        let acts = request.control & control::PRACT != 0;
        let mut expected = request.expected;
        if self.metadata.protection.is_some() && !acts {
            // Nothing changes unless all blocks are right.
            for block in 0..request.blocks {
                let bytes = self.gather(pool, frames, &layout, block);
                if let Err(status) = self.check(bytes, &expected) {
                    return Outcome::Done(status);
                }
                self.step(&mut expected);
            }
        }
        let (application, _) = request.expected.application;
        let mut tags = request.expected.tags;
        for block in 0..request.blocks {
            let bytes = self.gather(pool, frames, &layout, block);
            if let Some(format) = self.metadata.protection.filter(|_| acts) {
                self.insert(bytes, &format, application, tags);
                tags = format.next(tags);
            }
            self.store(request.slba + u64::from(block), bytes);
        }
        SUCCESS
    }

    /// Compares data, and all metadata that is transferred but the protection information, which is checked as asked for.
    pub(crate) fn compare(&self, pool: &mut Pool, request: Request, frames: &[Frame]) -> Outcome {
        let layout = self.layout(&request);
        let (data, size) = (self.block_size as usize, layout.metadata_size as usize);
        let mut expected = request.expected;
        let mut theirs = vec![0; data + size];
        for block in 0..request.blocks {
            theirs.copy_from_slice(&self.gather(pool, frames, &layout, block)[..data + size]);
            let bytes = self.load(&mut pool.bounce, request.slba + u64::from(block));
            if let Err(status) = self.check(bytes, &expected) {
                return Outcome::Done(status);
            }
            if let (Some(format), 1..) = (&self.metadata.protection, size) {
                let information = self.information(format);
                theirs[information.clone()].copy_from_slice(&bytes[information]);
            }
            if theirs != bytes[..data + size] {
                return Outcome::Done(media::COMPARE_FAILURE);
            }
            self.step(&mut expected);
        }
        SUCCESS
    }

    /// Looks at blocks as a read does.
    pub(crate) fn verify(&self, pool: &mut Pool, request: Request, progress: &mut u64) -> Outcome {
        let Some(format) = &self.metadata.protection else { return SUCCESS };
        let end = (*progress + CLEAR_AT_ONCE).min(request.blocks.into());
        for block in *progress..end {
            let bytes = self.load(&mut pool.bounce, request.slba + block);
            let tags = format.later(request.expected.tags, block);
            if let Err(status) = self.check(bytes, &Expected { tags, ..request.expected }) {
                return Outcome::Done(status);
            }
        }
        *progress = end;
        if end == u64::from(request.blocks) { SUCCESS } else { Outcome::Turn }
    }

    /// Makes blocks zero; their protection information is that of zeroes with PRACT, else all ones.
    pub(crate) fn write_zeroes(&self, pool: &mut Pool, request: Request, how: Clear, progress: &mut u64) -> Outcome {
        let format = self.metadata.protection.filter(|_| request.control & control::PRACT != 0 && how == Clear::Keep);
        let Some(format) = format else { return self.clear(request.slba, request.blocks.into(), progress) };
        let (application, _) = request.expected.application;
        let end = (*progress + CLEAR_AT_ONCE).min(request.blocks.into());
        for block in *progress..end {
            let tags = format.later(request.expected.tags, block);
            let bytes = &mut pool.bounce[..self.stride()];
            bytes.fill(0);
            self.insert(bytes, &format, application, tags);
            self.store(request.slba + block, bytes);
        }
        *progress = end;
        if end == u64::from(request.blocks) { SUCCESS } else { Outcome::Turn }
    }

    /// Makes blocks as if nobody had written them.
    pub(super) fn clear(&self, slba: u64, blocks: u64, progress: &mut u64) -> Outcome {
        let end = (*progress + CLEAR_AT_ONCE).min(blocks);
        for block in *progress..end {
            let _alone = self.alone(slba + block);
            self.region.fill(self.at(slba + block), self.stride(), 0);
        }
        *progress = end;
        if end == blocks { SUCCESS } else { Outcome::Turn }
    }

    fn stride(&self) -> usize {
        self.block_size as usize + usize::from(self.metadata.size)
    }

    fn at(&self, block: u64) -> u64 {
        block * self.stride() as u64
    }

    fn alone(&self, block: u64) -> impl Drop + '_ {
        // Nothing that happens under this lock can be left half done by a panic.
        self.stripes[(block % STRIPES) as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the protection information is in a block with its metadata.
    fn information(&self, format: &Format) -> std::ops::Range<usize> {
        let start = self.block_size as usize + usize::from(format.offset);
        start..start + usize::from(format.guard.size())
    }

    /// A block with its metadata.
    fn load<'a>(&self, bounce: &'a mut [u8], block: u64) -> &'a mut [u8] {
        let bytes = &mut bounce[..self.stride()];
        {
            let _alone = self.alone(block);
            self.region.read(self.at(block), bytes);
        }
        self.invert(bytes);
        bytes
    }

    fn store(&self, block: u64, bytes: &mut [u8]) {
        self.invert(bytes);
        let _alone = self.alone(block);
        self.region.write(self.at(block), bytes);
    }

    fn invert(&self, bytes: &mut [u8]) {
        if let Some(format) = &self.metadata.protection {
            bytes[self.information(format)].iter_mut().for_each(|byte| *byte = !*byte);
        }
    }

    /// A block of what a command brought, its metadata zero where none came.
    fn gather<'a>(&self, pool: &'a mut Pool, frames: &[Frame], layout: &Layout, block: u32) -> &'a mut [u8] {
        let Pool { frames: local, bounce, .. } = pool;
        let (bytes, region) = (&mut bounce[..self.stride()], local.store.region());
        let (data, metadata) = bytes.split_at_mut(layout.block_size as usize);
        each_part(frames, layout.data(block), data.len(), |at, part| region.read(at, &mut data[part]));
        let (came, rest) = metadata.split_at_mut(layout.metadata_size as usize);
        each_part(frames, layout.metadata(block), came.len(), |at, part| region.read(at, &mut came[part]));
        rest.fill(0);
        bytes
    }

    fn guard(&self, bytes: &[u8], format: &Format) -> u64 {
        checksum(format.guard).of(&bytes[..self.block_size as usize + usize::from(format.covered)], &[])
    }

    fn insert(&self, bytes: &mut [u8], format: &Format, application: u16, tags: u128) {
        let guard = self.guard(bytes, format);
        let made = format.encode(Information { guard, application, tags });
        let place = self.information(format);
        let len = place.len();
        bytes[place].copy_from_slice(&made[..len]);
    }

    fn check(&self, bytes: &[u8], expected: &Expected) -> Result<(), Status> {
        let Some(format) = &self.metadata.protection else { return Ok(()) };
        let mut raw = [0; MOST_BYTES];
        let place = self.information(format);
        raw[..place.len()].copy_from_slice(&bytes[place]);
        let found = format.decode(&raw);
        format.check(&found, expected, || self.guard(bytes, format)).map_err(|Mismatch { field, .. }| match field {
            Field::Guard => media::GUARD_CHECK_ERROR,
            Field::Application => media::APPLICATION_TAG_CHECK_ERROR,
            Field::Reference => media::REFERENCE_TAG_CHECK_ERROR,
            Field::Storage => media::STORAGE_TAG_CHECK_ERROR,
        })
    }

    fn step(&self, expected: &mut Expected) {
        if let Some(format) = &self.metadata.protection {
            expected.tags = format.next(expected.tags);
        }
    }
}

/// The parts of `len` bytes from byte `at` of what lies in frames: where each is, and which of the bytes.
fn each_part(frames: &[Frame], at: u32, len: usize, mut act: impl FnMut(u64, std::ops::Range<usize>)) {
    let mut done = 0;
    while done < len {
        let position = at + done as u32;
        let part = place(frames[(position / FRAME) as usize]).part(position % FRAME, (len - done) as u32);
        act(part.offset, done..done + part.len as usize);
        done += part.len as usize;
    }
}

#[cfg(test)]
mod tests;
