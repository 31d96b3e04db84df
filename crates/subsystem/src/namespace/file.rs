//! Blocks in a file or on a block device, read and written on the reactor through the page cache.
//!
//! The kernel does not promise that a read never sees half of a concurrent write, so each group belongs to a stripe with a
//! version. A writer makes the versions of the stripes it touches odd, writes, and makes them even and new; it waits for nobody:
//! where another writer is at work it undoes what it did and the command is called again a pass later. A reader notes the
//! versions, reads, and looks again: where one was odd or has changed, it reads again. So a group is read whole, before or after
//! a write, whatever the reactors do; what a power failure leaves is the file system's affair, and no unit but a block is claimed
//! for it. A completed write is in the page cache; Flush and FUA are fdatasync.

use std::{
    fs::{File, OpenOptions},
    io::{self, Seek, SeekFrom},
    os::unix::fs::FileExt,
    path::Path,
    sync::atomic::{AtomicU64, Ordering, fence},
};

use doorbell_platform::Range;
use doorbell_spec::status::{Status, generic, media};
use rustix::{
    fs::{FallocateFlags, fallocate},
    io::Errno,
};

use super::{CLEAR_AT_ONCE, Clear, Found, Outcome, Pool, RESERVE, SUCCESS};
use crate::{
    frames::{FRAME, Frame, frames_for, push_ranges},
    target::Error,
};

/// Stripes; a power of two, and more than one call covers.
const STRIPES: u64 = 4096;
const GROUP: u64 = FRAME as u64;

/// An open file.
#[derive(Debug)]
pub(crate) struct FileBlocks {
    file: File,
    size: u64,
    versions: Box<[AtomicU64]>,
}

/// Why a read or a write of a few groups did not happen.
enum Failure {
    /// Another reactor writes there.
    Busy,
    Io(io::Error),
}

impl FileBlocks {
    pub(super) fn open(path: &Path, block_size: u32) -> Result<Self, Error> {
        let fail = |what, source| Error::File { path: path.into(), what, source };
        let mut file = OpenOptions::new().read(true).write(true).open(path).map_err(|error| fail("open", error))?;
        let size = file.seek(SeekFrom::End(0)).map_err(|error| fail("find the size of", error))?;
        if size < u64::from(block_size) {
            let error = io::Error::new(io::ErrorKind::InvalidInput, format!("{size} bytes do not hold a block"));
            return Err(fail("use", error));
        }
        Ok(Self { file, size, versions: (0..STRIPES).map(|_| AtomicU64::new(0)).collect() })
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn read(&self, pool: &mut Pool, at: u64, len: u32, found: &mut Found) -> Outcome {
        let skew = (at % GROUP) as u32;
        if !pool.frames.take(frames_for(skew, len), RESERVE, &mut found.frames) {
            return Outcome::Again;
        }
        push_ranges(&found.frames, skew, 0, len, &mut found.ranges);
        let mut from = at;
        let mut result = Ok(());
        for to in pieces(&found.ranges, pool.bounce.len(), at) {
            let bytes = &mut pool.bounce[..to.len as usize];
            result = self.read_whole(from, bytes);
            if result.is_err() {
                break;
            }
            pool.frames.store.region().write(to.offset, bytes);
            from += u64::from(to.len);
        }
        if result.is_err() {
            found.clear(pool);
        }
        self.outcome(result, "read", from, media::UNRECOVERED_READ_ERROR)
    }

    pub(super) fn write(&self, pool: &mut Pool, at: u64, len: u32, frames: &[Frame], progress: &mut u64) -> Outcome {
        let mut ranges = Vec::new();
        let done = *progress as u32;
        push_ranges(frames, (at % GROUP) as u32, done, len - done, &mut ranges);
        for from in pieces(&ranges, pool.bounce.len(), at + *progress) {
            let bytes = &mut pool.bounce[..from.len as usize];
            pool.frames.store.region().read(from.offset, bytes);
            let to = at + *progress;
            let result = self.exclusively(to, bytes.len() as u64, || self.file.write_all_at(bytes, to));
            if result.is_err() {
                return self.outcome(result, "write", to, media::WRITE_FAULT);
            }
            *progress += u64::from(from.len);
        }
        SUCCESS
    }

    pub(super) fn compare(&self, pool: &mut Pool, at: u64, len: u32, frames: &[Frame]) -> Outcome {
        let mut ranges = Vec::new();
        push_ranges(frames, (at % GROUP) as u32, 0, len, &mut ranges);
        let mut from = at;
        for ours in pieces(&ranges, pool.bounce.len(), at) {
            let bytes = &mut pool.bounce[..ours.len as usize];
            let result = self.read_whole(from, bytes);
            if result.is_err() {
                return self.outcome(result, "read", from, media::UNRECOVERED_READ_ERROR);
            }
            if !pool.frames.store.region().equals(ours.offset, bytes) {
                return Outcome::Done(media::COMPARE_FAILURE);
            }
            from += u64::from(ours.len);
        }
        SUCCESS
    }

    pub(super) fn verify(&self, pool: &mut Pool, at: u64, len: u64, progress: &mut u64) -> Outcome {
        let from = at + *progress;
        let part = (pool.bounce.len() as u64 - from % GROUP).min(len - *progress);
        let result = self.read_whole(from, &mut pool.bounce[..part as usize]);
        if result.is_err() {
            return self.outcome(result, "read", from, media::UNRECOVERED_READ_ERROR);
        }
        *progress += part;
        if *progress == len { SUCCESS } else { Outcome::Turn }
    }

    pub(super) fn clear(&self, pool: &mut Pool, at: u64, len: u64, how: Clear, progress: &mut u64) -> Outcome {
        let from = at + *progress;
        let part = (CLEAR_AT_ONCE * GROUP - from % GROUP).min(len - *progress);
        let zeroes = &mut pool.bounce;
        let result = self.exclusively(from, part, || {
            if how != Clear::Keep && self.allocate(FallocateFlags::PUNCH_HOLE, from, part)? || how == Clear::Hint {
                return Ok(());
            }
            if self.allocate(FallocateFlags::ZERO_RANGE, from, part)? {
                return Ok(());
            }
            zeroes.fill(0);
            let mut done = 0;
            while done < part {
                let step = (part - done).min(zeroes.len() as u64);
                self.file.write_all_at(&zeroes[..step as usize], from + done)?;
                done += step;
            }
            Ok(())
        });
        if result.is_ok() {
            *progress += part;
            if *progress < len {
                return Outcome::Turn;
            }
        }
        self.outcome(result, "clear", from, media::WRITE_FAULT)
    }

    pub(super) fn flush(&self) -> Status {
        match self.file.sync_data() {
            Ok(()) => generic::SUCCESS,
            Err(error) => {
                tracing::error!("a namespace's file cannot be synchronised: {error}");
                media::WRITE_FAULT
            }
        }
    }

    /// Whether the file system could do it.
    fn allocate(&self, flags: FallocateFlags, at: u64, len: u64) -> io::Result<bool> {
        loop {
            return match fallocate(&self.file, flags | FallocateFlags::KEEP_SIZE, at, len) {
                Ok(()) => Ok(true),
                Err(Errno::INTR) => continue,
                Err(Errno::OPNOTSUPP | Errno::NODEV | Errno::NOSYS | Errno::INVAL) => Ok(false),
                Err(error) => Err(error.into()),
            };
        }
    }

    /// Reads bytes of whole groups, or of parts of them, as no writer leaves them half done.
    fn read_whole(&self, at: u64, bytes: &mut [u8]) -> Result<(), Failure> {
        const TRIES: usize = 3;
        let end = at + bytes.len() as u64;
        for _ in 0..TRIES {
            let before = self.versions(at, end);
            self.file.read_exact_at(bytes, at).map_err(Failure::Io)?;
            // The versions are looked at again after the bytes were read.
            fence(Ordering::SeqCst);
            if before.is_some() && before == self.versions(at, end) {
                return Ok(());
            }
        }
        Err(Failure::Busy)
    }

    /// A sum of the stripes' versions that any write in between makes another, or none while a writer is at work. Versions
    /// only grow, so no two changes cancel out.
    fn versions(&self, at: u64, end: u64) -> Option<u64> {
        (at / GROUP..end.div_ceil(GROUP)).try_fold(0, |sum, group| {
            let version = self.versions[(group % STRIPES) as usize].load(Ordering::Acquire);
            version.is_multiple_of(2).then_some(sum + version)
        })
    }

    /// Does something to `len` bytes at `at` while no other reactor writes there.
    fn exclusively(&self, at: u64, len: u64, act: impl FnOnce() -> io::Result<()>) -> Result<(), Failure> {
        let groups = at / GROUP..(at + len).div_ceil(GROUP);
        let version = |group: u64| &self.versions[(group % STRIPES) as usize];
        for group in groups.clone() {
            let old = version(group).load(Ordering::Relaxed);
            let free = old.is_multiple_of(2);
            let exchange = || version(group).compare_exchange(old, old + 1, Ordering::AcqRel, Ordering::Relaxed);
            if !free || exchange().is_err() {
                for taken in groups.start..group {
                    version(taken).fetch_add(1, Ordering::Release);
                }
                return Err(Failure::Busy);
            }
        }
        // The versions are odd before a byte changes.
        fence(Ordering::SeqCst);
        let result = act();
        for group in groups {
            version(group).fetch_add(1, Ordering::Release);
        }
        result.map_err(Failure::Io)
    }

    fn outcome(&self, result: Result<(), Failure>, what: &str, at: u64, failed: Status) -> Outcome {
        match result {
            Ok(()) => SUCCESS,
            Err(Failure::Busy) => Outcome::Again,
            Err(Failure::Io(error)) => {
                tracing::error!("a namespace's file does not {what} at byte {at}: {error}");
                Outcome::Done(failed)
            }
        }
    }
}

/// Cuts ranges into pieces of at most `most` bytes that end where a group ends; `at` is the byte that the first one is for.
/// Ranges join frames, so each begins and ends at a group's boundary, the first's begin and the last's end excepted.
fn pieces(ranges: &[Range], most: usize, at: u64) -> impl Iterator<Item = Range> {
    let skew = (at % GROUP) as u32;
    ranges.iter().enumerate().flat_map(move |(index, range)| {
        let skew = if index == 0 { skew } else { 0 };
        let mut done = 0;
        std::iter::from_fn(move || {
            let step = if done == 0 { most as u32 - skew } else { most as u32 };
            let piece = range.part(done, step);
            done += piece.len;
            (piece.len > 0).then_some(piece)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_reads_or_writes_where_a_writer_is_at_work() {
        let path = std::env::temp_dir().join(format!("doorbell-stripes-{}", std::process::id()));
        File::create(&path).unwrap().set_len(64 << 10).unwrap();
        let blocks = FileBlocks::open(&path, 512).unwrap();
        std::fs::remove_file(&path).unwrap();
        let mut bytes = [0; 8192];
        let before = blocks.versions(0, 16384);
        let result = blocks.exclusively(4096 + 512, 4096, || {
            for at in [0, 4096, 8192 + 3584] {
                assert!(matches!(blocks.read_whole(at, &mut bytes), Err(Failure::Busy)), "{at}");
                assert!(matches!(blocks.exclusively(at, 8192, || Ok(())), Err(Failure::Busy)), "{at}");
            }
            for at in [0, 12288] {
                assert!(blocks.read_whole(at, &mut bytes[..4096]).is_ok(), "{at}");
                assert!(blocks.exclusively(at, 4096, || Ok(())).is_ok(), "{at}");
            }
            Err(io::ErrorKind::StorageFull.into())
        });
        // One that fails makes way too, and readers that began before see that something happened.
        assert!(matches!(result, Err(Failure::Io(_))));
        assert!(blocks.read_whole(4096, &mut bytes).is_ok() && blocks.versions(0, 16384) > before);
    }
}
