//! io_uring for one file: a ring of plain entries ([`Uring`]), and one of large entries for commands that a driver takes as they are
//! ([`CommandRing`]). Each belongs to the thread that made it.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    sync::Arc,
    time::Duration,
};

use io_uring::{
    Builder, EnterFlags, IoUring, cqueue, opcode, squeue,
    types::{CancelBuilder, Fd, Fixed, FsyncFlags, SubmitArgs, Timespec},
};

use rustix::event::{EventfdFlags, eventfd};

use crate::{
    aio::Action,
    memory::{Range, Region},
};

/// The user data of cancellations, whose completions tell nothing.
const CANCEL: u64 = u64::MAX;
/// Most bytes of a registered buffer, so that no buffer is larger than the kernel takes.
const BUFFER: u64 = 1 << 30;
/// Milliseconds after which the kernel's thread sleeps when nothing is submitted.
const SQPOLL_IDLE: u32 = 1000;
/// `NVME_URING_CMD_IO` of linux/nvme_ioctl.h.
const NVME_URING_CMD_IO: u32 = 0xc048_4e80;
/// `BLOCK_URING_CMD_DISCARD` of linux/blkdev.h.
const BLOCK_URING_CMD_DISCARD: u32 = 0x1200;

/// What becomes of bytes that are cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clearing {
    /// A block device hears that nobody needs them (Linux 6.12).
    Discard,
    /// A file gives up their place, and they read as zeroes.
    Hole,
    /// They are zeroes, and keep their place.
    Zeroes,
}

/// How a ring works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// I/Os at once.
    pub depth: u32,
    /// The device is polled for completions, which no interrupt announces.
    pub iopoll: bool,
    /// A thread of the kernel's looks for submissions.
    pub sqpoll: bool,
    /// The file and the memory are registered, so that the kernel looks them up once.
    pub registered: bool,
}

struct Ring<S: squeue::EntryMarker, C: cqueue::EntryMarker> {
    ring: IoUring<S, C>,
    settings: Settings,
    file: OwnedFd,
    region: Arc<Region>,
    in_flight: u32,
    /// Readable when something is over, from the first [`Ring::arm`] on.
    event: Option<OwnedFd>,
}

impl<S: squeue::EntryMarker + From<squeue::Entry>, C: cqueue::EntryMarker> Ring<S, C> {
    fn new(file: OwnedFd, region: Arc<Region>, settings: Settings) -> io::Result<Self> {
        let ring = build::<S, C>(settings)?;
        if settings.registered {
            let submitter = ring.submitter();
            submitter.register_files(&[file.as_raw_fd()])?;
            let len = region.len() as u64;
            let buffers: Vec<_> = (0..len)
                .step_by(BUFFER as usize)
                .map(|start| libc::iovec {
                    iov_base: std::ptr::with_exposed_provenance_mut((region.address() + start) as usize),
                    iov_len: BUFFER.min(len - start) as usize,
                })
                .collect();
            // SAFETY: the buffers are pieces of the region, which is held as long as the ring.
            unsafe { submitter.register_buffers(&buffers) }?;
        }
        Ok(Self { ring, settings, file, region, in_flight: 0, event: None })
    }

    /// The address of memory, and its registered buffer where it lies in one.
    #[inline]
    fn locate(&self, memory: Range) -> (u64, Option<u16>) {
        assert!(memory.end() <= self.region.len() as u64, "memory within the region");
        let first = memory.offset / BUFFER;
        let within = self.settings.registered && memory.len > 0 && (memory.end() - 1) / BUFFER == first;
        (self.region.address() + memory.offset, within.then_some(first as u16))
    }

    #[inline]
    fn push(&mut self, entry: &S) -> bool {
        // SAFETY: entries are made in this file, of memory that was found within the region by `locate`; the region is held until nothing is
        // in flight, and the file as long as the ring.
        let room = unsafe { self.ring.submission().push(entry) }.is_ok();
        self.in_flight += u32::from(room);
        room
    }

    /// Gives the kernel what was pushed; returns whether it has taken all.
    #[inline]
    fn submit(&mut self) -> io::Result<bool> {
        let sqpoll = self.settings.sqpoll;
        let ring = &mut self.ring;
        let entries = ring.submission();
        let (waiting, taskrun) = (entries.len(), entries.taskrun());
        drop(entries);
        if waiting == 0 {
            return Ok(true);
        }
        let done = match taskrun && !sqpoll {
            // The call that submits takes what is over along.
            // SAFETY: without an argument the call reads the ring alone.
            true => unsafe { ring.submitter().enter::<()>(waiting as u32, 0, EnterFlags::GETEVENTS.bits(), None) },
            false => ring.submitter().submit(),
        };
        match done {
            Ok(taken) => Ok(taken == waiting),
            Err(error) if is_passing(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Tells of at most `most` I/Os that are over.
    #[inline]
    fn reap(&mut self, most: usize, mut over: impl FnMut(&C) -> u64) -> io::Result<usize> {
        if self.in_flight == 0 {
            return Ok(0);
        }
        if self.ring.completion().is_empty() && !self.look()? {
            return Ok(0);
        }
        let (mut count, mut all) = (0, 0);
        let mut completions = self.ring.completion();
        while count < most
            && let Some(entry) = completions.next()
        {
            all += 1;
            count += usize::from(over(&entry) != CANCEL);
        }
        drop(completions);
        self.in_flight -= all;
        Ok(count)
    }

    /// Has the kernel finish what it keeps for this thread, where there is such; returns whether it was asked.
    #[inline]
    fn look(&self) -> io::Result<bool> {
        let ring = &self.ring;
        // SAFETY: this thread has no other view of the submission queue.
        let entries = unsafe { ring.submission_shared() };
        let polls = self.settings.iopoll && !self.settings.sqpoll;
        if !polls && !entries.taskrun() && !entries.cq_overflow() {
            return Ok(false);
        }
        drop(entries);
        // SAFETY: without an argument the call reads the ring alone.
        match unsafe { ring.submitter().enter::<()>(0, 0, EnterFlags::GETEVENTS.bits(), None) } {
            Err(error) if !is_passing(&error) => Err(error),
            _ => Ok(true),
        }
    }

    fn ready(&self) -> u32 {
        let _ = self.look();
        // SAFETY: this thread has no other view of the completion queue.
        unsafe { self.ring.completion_shared() }.len() as u32
    }

    fn arm(&mut self) -> io::Result<Option<RawFd>> {
        if self.settings.iopoll {
            return Ok(None);
        }
        let event = match self.event.take() {
            Some(event) => {
                // What is over from here on makes it readable again.
                let _ = rustix::io::read(&event, &mut [0_u8; 8]);
                event
            }
            // The descriptor of a ring with DEFER_TASKRUN does not wake who polls it.
            None => {
                let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
                self.ring.submitter().register_eventfd(event.as_raw_fd())?;
                event
            }
        };
        let fd = self.event.insert(event).as_raw_fd();
        // Work that the kernel keeps has been told of already, and is done first.
        let ready = !self.ring.completion().is_empty() || self.look()? || !self.submit()?;
        Ok((!ready).then_some(fd))
    }

    /// Whether the kernel sleeps in the call that submits (Linux 5.11), and anything says when something is over.
    fn can_sleep(&self) -> bool {
        !self.settings.iopoll && self.ring.params().is_feature_ext_arg()
    }

    /// Submits and sleeps in one call, until something is over, a signal came, or so long; returns whether it could.
    fn sleep(&mut self, longest: Duration) -> io::Result<bool> {
        if !self.can_sleep() {
            return Ok(false);
        }
        if !self.ring.completion().is_empty() {
            return self.submit().map(|_| true);
        }
        let span = Timespec::from(longest);
        match self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&span)) {
            Err(error) if !is_passing(&error) && error.raw_os_error() != Some(libc::ETIME) => Err(error),
            _ => Ok(true),
        }
    }

    fn cancel(&mut self, user_data: Option<u64>) -> bool {
        let which = user_data.map_or_else(CancelBuilder::any, CancelBuilder::user_data);
        let entry = opcode::AsyncCancel2::new(which).build().user_data(CANCEL);
        self.push(&entry.into())
    }
}

impl<S: squeue::EntryMarker, C: cqueue::EntryMarker> std::fmt::Debug for Ring<S, C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring")
            .field("settings", &self.settings)
            .field("in_flight", &self.in_flight)
            .finish_non_exhaustive()
    }
}

impl<S: squeue::EntryMarker, C: cqueue::EntryMarker> Drop for Ring<S, C> {
    fn drop(&mut self) {
        // The kernel ends what is in flight by itself when the ring goes, but may take as long as the device does.
        if self.in_flight > 0 {
            std::mem::forget(self.region.clone());
        }
    }
}

/// The ring that costs least of those that this kernel knows.
fn build<S: squeue::EntryMarker, C: cqueue::EntryMarker>(settings: Settings) -> io::Result<IoUring<S, C>> {
    let common = || {
        let mut builder: Builder<S, C> = IoUring::builder();
        // Cancellations have places of their own.
        let entries = settings.depth.saturating_add(1).saturating_mul(2);
        builder.setup_cqsize(entries.next_power_of_two());
        if settings.iopoll {
            builder.setup_iopoll();
        }
        if settings.sqpoll {
            builder.setup_sqpoll(SQPOLL_IDLE);
        }
        builder
    };
    let depth = settings.depth.saturating_add(1);
    let (mut best, mut good) = (common(), common());
    // Linux 6.1: completions are finished when this thread asks, in one go. Linux 5.19: when it next enters the kernel. Without either
    // it is interrupted for them.
    best.setup_single_issuer().setup_submit_all();
    good.setup_submit_all();
    if !settings.sqpoll {
        best.setup_defer_taskrun().setup_taskrun_flag();
        good.setup_coop_taskrun().setup_taskrun_flag();
    }
    let unknown = |error: &io::Error| error.raw_os_error() == Some(libc::EINVAL);
    [best, good]
        .iter()
        .find_map(|builder| match builder.build(depth) {
            Err(error) if unknown(&error) => None,
            outcome => Some(outcome),
        })
        .unwrap_or_else(|| common().build(depth))
}

/// Whether a call may be made again.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY))
}

/// An entry about a ring's file, which entries name in two ways.
macro_rules! on_file {
    ($ring:expr, $file:ident => $entry:expr) => {
        if $ring.settings.registered {
            let $file = Fixed(0);
            $entry
        } else {
            let $file = Fd($ring.file.as_raw_fd());
            $entry
        }
    };
}

macro_rules! common {
    ($name:ident) => {
        impl $name {
            /// Gives the kernel what was pushed; returns whether it has taken all.
            ///
            /// # Errors
            /// The system's answer when the ring is of no use any more.
            #[inline]
            pub fn submit(&mut self) -> io::Result<bool> {
                self.0.submit()
            }

            /// How many are over and not told of.
            pub fn ready(&self) -> u32 {
                self.0.ready()
            }

            /// Whether [`Self::sleep`] can: not before Linux 5.11, and not where a device is polled.
            pub fn can_sleep(&self) -> bool {
                self.0.can_sleep()
            }

            /// Submits and sleeps in one call, until something is over, a signal came, or so long; returns whether it could.
            ///
            /// # Errors
            /// As [`Self::submit`].
            pub fn sleep(&mut self, longest: Duration) -> io::Result<bool> {
                self.0.sleep(longest)
            }

            /// Prepares to sleep until the descriptor is readable; `None` when there may be something already, or a device is polled.
            ///
            /// # Errors
            /// As [`Self::submit`].
            pub fn arm(&mut self) -> io::Result<Option<RawFd>> {
                self.0.arm()
            }

            /// Asks the kernel to end the I/O of this number, or all; returns whether there was room to ask.
            pub fn cancel(&mut self, number: Option<u64>) -> bool {
                self.0.cancel(number)
            }
        }
    };
}

common!(Uring);
common!(CommandRing);

/// A ring for reads, writes and syncs of one file.
#[derive(Debug)]
pub struct Uring(Ring<squeue::Entry, cqueue::Entry>);

impl Uring {
    /// Makes a ring for a file and memory, on the thread that is going to use it.
    ///
    /// # Errors
    /// The system's answer: EPERM where io_uring is switched off, ENOMEM where more would be pinned than may be.
    pub fn new(file: OwnedFd, region: Arc<Region>, settings: Settings) -> io::Result<Self> {
        Ring::new(file, region, settings).map(Self)
    }

    /// Takes an I/O, whose completion will have this number (below `u64::MAX`); with `durable` a write is over when it is on the medium.
    /// Returns whether there was room.
    ///
    /// # Panics
    /// When the memory is not within the region.
    #[inline]
    pub fn push(&mut self, number: u64, action: Action, memory: Range, at: u64, durable: bool) -> bool {
        let (address, buffer) = self.0.locate(memory);
        let pointer = std::ptr::with_exposed_provenance_mut::<u8>(address as usize);
        let flags = if durable { libc::RWF_DSYNC } else { 0 };
        let len = memory.len;
        let entry = on_file!(self.0, file => match (action, buffer) {
            (Action::Read, Some(buffer)) => opcode::ReadFixed::new(file, pointer, len, buffer).offset(at).build(),
            (Action::Read, None) => opcode::Read::new(file, pointer, len).offset(at).build(),
            (Action::Write, Some(buffer)) => {
                opcode::WriteFixed::new(file, pointer, len, buffer).offset(at).rw_flags(flags).build()
            }
            (Action::Write, None) => opcode::Write::new(file, pointer, len).offset(at).rw_flags(flags).build(),
            (Action::Sync, _) => opcode::Fsync::new(file).flags(FsyncFlags::DATASYNC).build(),
        });
        self.0.push(&entry.user_data(number))
    }

    /// Takes an I/O that clears `len` bytes at `at`, and whose completion, which is 0 or a negative error number, will have this number
    /// (below `u64::MAX`). Returns whether there was room.
    pub fn clear(&mut self, number: u64, clearing: Clearing, at: u64, len: u64) -> bool {
        let cut = |how| how | libc::FALLOC_FL_KEEP_SIZE;
        let entry = on_file!(self.0, file => match clearing {
            Clearing::Discard => {
                // The first half of the command is the entry's `addr3`.
                let length = u128::from(len).to_le_bytes();
                opcode::UringCmd16::new(file, BLOCK_URING_CMD_DISCARD).addr(Some(at)).cmd(length).build()
            }
            Clearing::Hole => {
                opcode::Fallocate::new(file, len).offset(at).mode(cut(libc::FALLOC_FL_PUNCH_HOLE)).build()
            }
            Clearing::Zeroes => {
                opcode::Fallocate::new(file, len).offset(at).mode(cut(libc::FALLOC_FL_ZERO_RANGE)).build()
            }
        });
        self.0.push(&entry.user_data(number))
    }

    /// Tells of at most `most` I/Os that are over: number, and bytes or a negative error number. A system call is made only where the
    /// kernel waits for one.
    ///
    /// # Errors
    /// As [`Self::submit`].
    #[inline]
    pub fn reap(&mut self, most: usize, mut over: impl FnMut(u64, i64)) -> io::Result<usize> {
        self.0.reap(most, |entry| {
            let number = entry.user_data();
            if number != CANCEL {
                over(number, entry.result().into());
            }
            number
        })
    }
}

/// struct nvme_uring_cmd of linux/nvme_ioctl.h, without its last dwords, which are zero.
#[derive(Clone, Copy, Debug, Default)]
pub struct NvmeCommand {
    /// Dwords 0 to 15 of the command; identifier, pointers and the metadata's are the driver's.
    pub dwords: [u32; 16],
    /// Its data, of which a command without data has none.
    pub data: Range,
}

impl NvmeCommand {
    fn bytes(&self, address: u64) -> [u8; 80] {
        let mut bytes = [0; 80];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        let dword = |number: usize| self.dwords[number].to_ne_bytes();
        // Opcode and flags; the identifier behind them is the driver's.
        put(0, &(self.dwords[0] as u16).to_ne_bytes());
        put(4, &dword(1));
        put(8, &dword(2));
        put(12, &dword(3));
        put(24, &address.to_ne_bytes());
        put(36, &self.data.len.to_ne_bytes());
        (10..16).for_each(|number| put(number * 4, &dword(number)));
        bytes
    }
}

/// A ring for the commands of an NVMe namespace, which the kernel's driver passes through.
#[derive(Debug)]
pub struct CommandRing(Ring<squeue::Entry128, cqueue::Entry32>);

impl CommandRing {
    /// As [`Uring::new`], for a generic character device (`/dev/ng*`).
    ///
    /// # Errors
    /// As [`Uring::new`].
    pub fn new(file: OwnedFd, region: Arc<Region>, settings: Settings) -> io::Result<Self> {
        Ring::new(file, region, settings).map(Self)
    }

    /// Takes a command, whose completion will have this number (below `u64::MAX`). Returns whether there was room.
    ///
    /// # Panics
    /// When the data is not within the region.
    #[inline]
    pub fn push(&mut self, number: u64, command: &NvmeCommand) -> bool {
        let (address, buffer) = self.0.locate(command.data);
        let bytes = command.bytes(if command.data.len > 0 { address } else { 0 });
        let entry = on_file!(self.0, file => {
            opcode::UringCmd80::new(file, NVME_URING_CMD_IO).cmd(bytes).buf_index(buffer).build()
        });
        self.0.push(&entry.user_data(number))
    }

    /// Tells of at most `most` commands that are over: number, the NVMe status (0 for success) or a negative error number, and dwords 0
    /// and 1 of the completion.
    ///
    /// # Errors
    /// As [`Self::submit`].
    #[inline]
    pub fn reap(&mut self, most: usize, mut over: impl FnMut(u64, i64, u64)) -> io::Result<usize> {
        self.0.reap(most, |entry| {
            let number = entry.user_data();
            if number != CANCEL {
                over(number, entry.result().into(), entry.big_cqe()[0]);
            }
            number
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, time::Instant};

    use super::*;

    fn file() -> File {
        let path = std::env::temp_dir().join(format!(
            "doorbell-uring-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        ));
        let file = File::options().create_new(true).read(true).write(true).open(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        file.set_len(64 << 10).unwrap();
        file
    }

    fn wait(ring: &mut Uring, count: usize) -> Vec<(u64, i64)> {
        let mut over = Vec::new();
        while over.len() < count {
            ring.reap(32, |number, result| over.push((number, result))).unwrap();
        }
        over.sort_unstable();
        over
    }

    #[test]
    fn every_kind_of_ring_writes_reads_and_sleeps() {
        for settings in [
            Settings { depth: 4, registered: true, ..Settings::default() },
            Settings { depth: 4, ..Settings::default() },
            Settings { depth: 4, registered: true, sqpoll: true, ..Settings::default() },
        ] {
            let region = Arc::new(Region::new(16 << 10).unwrap());
            let range = |offset| Range { offset, len: 4096 };
            let mut ring = Uring::new(file().into(), region.clone(), settings).unwrap();
            region.fill(0, 4096, 9);
            assert!(
                ring.push(0, Action::Write, range(0), 8192, true) && ring.push(1, Action::Sync, range(0), 0, false)
            );
            while !ring.submit().unwrap() {}
            assert_eq!(wait(&mut ring, 2), [(0, 4096), (1, 0)]);
            let pushed = ring.push(2, Action::Read, range(4096), 8192, false)
                && ring.push(3, Action::Read, range(8192), (64 << 10) - 1000, false);
            assert!(pushed);
            while !ring.submit().unwrap() {}
            assert_eq!(wait(&mut ring, 2), [(2, 4096), (3, 1000)]);
            assert!(region.equals(4096, &[9; 4096]));
            ring.push(0, Action::Read, range(0), 0, false);
            while !ring.submit().unwrap() {}
            assert_eq!(wait(&mut ring, 1), [(0, 4096)]);
            assert_eq!(ring.reap(32, |_, _| panic!("nothing is left")).unwrap(), 0);
        }
    }

    /// Sleeps until something is over, by the ring's own wait or by its descriptor.
    fn sleep_until_over(ring: &mut Uring, own: bool) -> (u64, i64) {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut over = None;
        while ring.reap(32, |number, result| over = Some((number, result))).unwrap() == 0 {
            match own {
                true => assert!(ring.sleep(Duration::from_secs(60)).unwrap()),
                false => {
                    if let Some(fd) = ring.arm().unwrap() {
                        assert!(crate::poll::wait(&[(fd, false)], Duration::from_secs(60)), "nothing woke the sleeper");
                    }
                }
            }
            assert!(Instant::now() < deadline, "only the end of the time woke the sleeper");
        }
        over.unwrap()
    }

    #[test]
    fn who_sleeps_is_woken_by_what_is_over_later() {
        for (sqpoll, own) in [(false, true), (false, false), (true, true), (true, false)] {
            let (reader, writer) = rustix::pipe::pipe().unwrap();
            let region = Arc::new(Region::new(4096).unwrap());
            let settings = Settings { depth: 2, sqpoll, registered: true, ..Settings::default() };
            let mut ring = Uring::new(reader, region.clone(), settings).unwrap();
            let (begin, filled) = std::sync::mpsc::channel();
            let filler = std::thread::spawn(move || {
                for byte in filled {
                    // By now the other side sleeps, or soon does.
                    std::thread::sleep(Duration::from_millis(5));
                    rustix::io::write(&writer, &[byte]).unwrap();
                }
            });
            for byte in 1..=3 {
                assert!(ring.push(byte.into(), Action::Read, Range { offset: 0, len: 16 }, u64::MAX, false));
                // The ring's own wait submits as well.
                assert!(own || ring.submit().unwrap());
                begin.send(byte).unwrap();
                assert_eq!(sleep_until_over(&mut ring, own), (byte.into(), 1));
                assert!(region.equals(0, &[byte]));
            }
            assert!(ring.sleep(Duration::from_millis(2)).unwrap(), "a sleep with nothing in flight ends by itself");
            drop(begin);
            filler.join().unwrap();
        }
    }

    #[test]
    fn what_never_ends_is_cancelled() {
        let (reader, _writer) = rustix::pipe::pipe().unwrap();
        let region = Arc::new(Region::new(4096).unwrap());
        let mut ring = Uring::new(reader, region, Settings { depth: 2, ..Settings::default() }).unwrap();
        assert!(ring.push(1, Action::Read, Range { offset: 0, len: 512 }, u64::MAX, false));
        ring.submit().unwrap();
        assert_eq!((ring.reap(32, |_, _| panic!("it does not end")).unwrap(), ring.ready()), (0, 0));
        assert!(ring.cancel(Some(1)));
        ring.submit().unwrap();
        assert_eq!(wait(&mut ring, 1), [(1, -i64::from(libc::ECANCELED))]);
    }

    #[test]
    fn a_command_lies_where_the_driver_looks() {
        let mut dwords: [u32; 16] = std::array::from_fn(|number| number as u32);
        dwords[0] = 0x1234_5602;
        let command = NvmeCommand { dwords, data: Range { offset: 0, len: 0x1000 } };
        let bytes = command.bytes(0x1122_3344_5566_7788);
        assert_eq!(bytes[..8], [2, 0x56, 0, 0, 1, 0, 0, 0]);
        assert_eq!(bytes[24..40], [0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0, 0, 0, 0, 0, 0x10, 0, 0]);
        assert_eq!((bytes[40], bytes[60], &bytes[64..]), (10, 15, &[0; 16][..]));
    }
}
