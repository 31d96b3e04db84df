//! Linux AIO without a library: its five system calls, and completions taken from the ring that the kernel maps into this process.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use libc::{c_long, c_ulong, iocb};

use crate::memory::{Range, Region};

/// What the header of the mapped ring says when its layout is this one.
const MAGIC: u32 = 0xa10a_10a1;
const RESFD: u32 = 1;
/// Completions that one call returns.
const BATCH: usize = 32;

/// What an I/O does with its file; the numbers are those of `IOCB_CMD_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Action {
    /// Reads into memory.
    Read = 0,
    /// Writes from memory.
    Write = 1,
    /// Brings what was written to the medium, with what is needed to find it.
    Sync = 3,
}

/// struct aio_ring of the kernel.
#[repr(C)]
struct Ring {
    id: u32,
    entries: u32,
    head: AtomicU32,
    tail: AtomicU32,
    magic: u32,
    compatible: u32,
    incompatible: u32,
    header: u32,
}

/// struct io_event of the kernel.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Event {
    data: u64,
    object: u64,
    result: i64,
    result2: i64,
}

/// An AIO context for one file.
pub struct Aio {
    context: c_ulong,
    /// `None` where it has another layout, and completions are asked for by a call.
    ring: Option<NonNull<Ring>>,
    file: OwnedFd,
    /// Readable when something is over.
    event: Option<OwnedFd>,
    region: Arc<Region>,
    blocks: Box<[iocb]>,
    /// Those that the kernel has not taken yet.
    pushed: Vec<NonNull<iocb>>,
    in_flight: u32,
    /// What calls returned: those from `told` on have not been told of.
    returned: Vec<Event>,
    told: usize,
}

// SAFETY: the pointers lead to memory that this context owns or the kernel mapped for it, wherever its thread is.
unsafe impl Send for Aio {}

impl Aio {
    /// Makes a context for `depth` I/Os at once on memory of `region`; with `sleeps` a descriptor says when one is over.
    ///
    /// # Errors
    /// The system's answer: EAGAIN where all processes together have taken fs.aio-max-nr.
    pub fn new(file: OwnedFd, depth: u32, region: Arc<Region>, sleeps: bool) -> io::Result<Self> {
        let event = match sleeps {
            false => None,
            true => {
                // SAFETY: the call takes no pointer.
                let event = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
                // SAFETY: a descriptor that the call has just made is nobody else's.
                Some(
                    (event >= 0)
                        .then(|| unsafe { OwnedFd::from_raw_fd(event) })
                        .ok_or_else(io::Error::last_os_error)?,
                )
            }
        };
        let mut context: c_ulong = 0;
        // SAFETY: the kernel writes the one word that it is given.
        answer(unsafe { libc::syscall(libc::SYS_io_setup, c_long::from(depth), &raw mut context) })?;
        let ring = NonNull::new(std::ptr::with_exposed_provenance_mut::<Ring>(context as usize)).filter(|ring| {
            // SAFETY: the number of a context is the address of its ring, which is mapped until the context is destroyed.
            let ring = unsafe { ring.as_ref() };
            (ring.magic, ring.incompatible, ring.header) == (MAGIC, 0, size_of::<Ring>() as u32) && ring.entries > 0
        });
        // SAFETY: the structure is plain numbers, for which zero is a value.
        let empty: iocb = unsafe { std::mem::zeroed() };
        let block = |number: u64| {
            let mut block = empty;
            (block.aio_data, block.aio_fildes) = (number, file.as_raw_fd() as u32);
            if let Some(event) = &event {
                (block.aio_flags, block.aio_resfd) = (RESFD, event.as_raw_fd() as u32);
            }
            block
        };
        let blocks = (0..u64::from(depth)).map(block).collect();
        Ok(Self {
            context,
            ring,
            file,
            event,
            region,
            blocks,
            pushed: Vec::with_capacity(depth as usize),
            in_flight: 0,
            returned: Vec::with_capacity(BATCH),
            told: 0,
        })
    }

    /// Takes an I/O, whose completion will have this number; with `durable` a write is over when it is on the medium. The kernel
    /// sees it with the next [`Aio::submit`].
    ///
    /// # Panics
    /// When there is no such number, or the memory is not within the region.
    #[inline]
    pub fn push(&mut self, number: usize, action: Action, memory: Range, at: u64, durable: bool) {
        assert!(memory.end() <= self.region.len() as u64, "memory within the region");
        let block = &mut self.blocks[number];
        block.aio_lio_opcode = action as u16;
        block.aio_rw_flags = if durable { libc::RWF_DSYNC } else { 0 };
        let moves = action != Action::Sync;
        // A sync names no data.
        block.aio_buf = if moves { self.region.address() + memory.offset } else { 0 };
        block.aio_nbytes = if moves { memory.len.into() } else { 0 };
        block.aio_offset = if moves { at as i64 } else { 0 };
        self.pushed.push(NonNull::from(block));
    }

    /// Gives the kernel what was pushed. Returns how many it still has not taken, for lack of room.
    ///
    /// # Errors
    /// The number of the first of them and why the kernel does not take it; it is forgotten.
    #[inline]
    pub fn submit(&mut self) -> Result<usize, (u64, io::Error)> {
        let (count, list) = (self.pushed.len() as c_long, self.pushed.as_ptr());
        // SAFETY: the list has so many pointers, each to a control block in `blocks`, which live as long as the context; the memory that
        // they name is within the region, which is held until nothing is in flight.
        match answer(unsafe { libc::syscall(libc::SYS_io_submit, self.context, count, list) }) {
            Ok(taken) => {
                self.in_flight += taken as u32;
                self.pushed.drain(..taken as usize);
                Ok(self.pushed.len())
            }
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) => Ok(self.pushed.len()),
            Err(error) => {
                // SAFETY: it points to one of the control blocks, and nothing was pushed if there is none.
                let number = unsafe { self.pushed.remove(0).as_ref() }.aio_data;
                Err((number, error))
            }
        }
    }

    /// Whether there is something to submit.
    #[inline]
    pub fn has_pushed(&self) -> bool {
        !self.pushed.is_empty()
    }

    /// Tells of at most `most` I/Os that are over: number, and bytes or a negative error number. Without a system call, but where the
    /// kernel's ring cannot be read.
    #[inline]
    pub fn reap(&mut self, most: usize, mut over: impl FnMut(u64, i64)) -> usize {
        if self.told == self.returned.len() && self.ring.is_none() {
            self.ask(0, Duration::ZERO);
        }
        let mut count = 0;
        while count < most
            && let Some(event) = self.returned.get(self.told)
        {
            over(event.data, event.result);
            self.told += 1;
            count += 1;
        }
        if let Some(ring) = self.ring {
            // SAFETY: as in `new`; the kernel changes only `head` and `tail`, which are atomic.
            let header = unsafe { ring.as_ref() };
            let (mut head, tail) = (header.head.load(Ordering::Relaxed), header.tail.load(Ordering::Acquire));
            let before = head;
            while head != tail && count < most && head < header.entries {
                // SAFETY: behind the header lie `entries` events, and the kernel has written those before `tail`.
                let event = unsafe { ring.add(1).cast::<Event>().add(head as usize).read() };
                over(event.data, event.result);
                head = if head + 1 == header.entries { 0 } else { head + 1 };
                count += 1;
            }
            if head != before {
                header.head.store(head, Ordering::Release);
            }
        }
        self.in_flight -= count as u32;
        count
    }

    /// Has the kernel return what is over, when that is so many or a span has passed. Only when all that it returned has been told of.
    fn ask(&mut self, least: usize, longest: Duration) {
        let span = libc::timespec {
            tv_sec: longest.as_secs().min(i32::MAX as u64) as libc::time_t,
            tv_nsec: longest.subsec_nanos().into(),
        };
        self.returned.clear();
        self.told = 0;
        let events = self.returned.as_mut_ptr();
        // SAFETY: the kernel writes at most as many events as the vector has room for.
        let count = answer(unsafe {
            libc::syscall(
                libc::SYS_io_getevents,
                self.context,
                least as c_long,
                BATCH as c_long,
                events,
                &raw const span,
            )
        });
        // SAFETY: so many were written.
        unsafe { self.returned.set_len(count.unwrap_or(0) as usize) };
    }

    /// Sleeps until something is over, a signal came, or so long; returns whether it could, which it cannot without its descriptor.
    pub fn sleep(&mut self, longest: Duration) -> bool {
        if self.event.is_none() {
            return false;
        }
        if self.ready() == 0 {
            self.ask(1, longest);
        }
        true
    }

    /// How many are over and not told of, as far as the ring says.
    pub fn ready(&self) -> u32 {
        let returned = (self.returned.len() - self.told) as u32;
        let Some(ring) = self.ring else { return returned };
        // SAFETY: as in `reap`.
        let header = unsafe { ring.as_ref() };
        let (head, tail) = (header.head.load(Ordering::Relaxed), header.tail.load(Ordering::Acquire));
        returned + if tail >= head { tail - head } else { header.entries - head + tail }
    }

    /// Prepares to sleep until the descriptor is readable; `None` when something is over already, or there is none.
    pub fn arm(&mut self) -> Option<RawFd> {
        let event = self.event.as_ref()?;
        // What is counted from here on makes it readable again.
        let _ = rustix::io::read(event, &mut [0_u8; 8]);
        (self.ready() == 0).then(|| event.as_raw_fd())
    }
}

impl Drop for Aio {
    fn drop(&mut self) {
        if self.in_flight > self.ready() {
            // Destroying the context would wait for a device that may never answer, and may still write.
            std::mem::forget(self.region.clone());
            return;
        }
        let context = self.context;
        let destroy = move || {
            // SAFETY: the context is ours, nothing is in flight, and its ring is not used again.
            let _ = unsafe { libc::syscall(libc::SYS_io_destroy, context) };
        };
        // It takes tens of milliseconds, as the kernel waits until no processor uses the context; hundreds of queues wait side by side.
        // What no thread destroys goes with the process.
        let _ = thread::Builder::new().name("io_destroy".into()).spawn(destroy);
    }
}

impl std::fmt::Debug for Aio {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Aio").field("file", &self.file).field("in_flight", &self.in_flight).finish_non_exhaustive()
    }
}

fn answer(value: c_long) -> io::Result<c_long> {
    if value < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn file() -> File {
        let path =
            std::env::temp_dir().join(format!("doorbell-aio-{}-{:?}", std::process::id(), std::thread::current().id()));
        let file = File::options().create_new(true).read(true).write(true).open(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        file.set_len(64 << 10).unwrap();
        file
    }

    fn wait(aio: &mut Aio, count: usize) -> Vec<(u64, i64)> {
        let mut over = Vec::new();
        while over.len() < count {
            aio.reap(32, |number, result| over.push((number, result)));
        }
        over.sort_unstable();
        over
    }

    #[test]
    fn what_is_written_is_read_again_and_the_end_of_the_file_is_short() {
        let region = Arc::new(Region::new(16 << 10).unwrap());
        let mut aio = Aio::new(file().into(), 4, region.clone(), true).unwrap();
        let range = |offset| Range { offset, len: 4096 };
        region.fill(0, 4096, 7);
        aio.push(0, Action::Write, range(0), 8192, true);
        aio.push(1, Action::Sync, range(0), 0, false);
        assert_eq!((aio.has_pushed(), aio.submit().unwrap()), (true, 0));
        assert_eq!(wait(&mut aio, 2), [(0, 4096), (1, 0)]);
        aio.push(2, Action::Read, range(4096), 8192, false);
        aio.push(3, Action::Read, range(8192), (64 << 10) - 1000, false);
        aio.submit().unwrap();
        assert_eq!(wait(&mut aio, 2), [(2, 4096), (3, 1000)]);
        assert!(region.equals(4096, &[7; 4096]));
        let armed = aio.arm().unwrap();
        assert!(!crate::poll::wait(&[(armed, false)], Duration::from_millis(2)));
        aio.push(0, Action::Read, range(0), 0, false);
        aio.submit().unwrap();
        assert!(crate::poll::wait(&[(armed, false)], Duration::from_secs(60)));
        assert_eq!(wait(&mut aio, 1), [(0, 4096)]);
        // By a wait of its own, which returns what is over beside the ring.
        (0..4).for_each(|number| aio.push(number, Action::Read, range(0), 0, false));
        aio.submit().unwrap();
        assert!(aio.sleep(Duration::from_secs(60)));
        assert!(aio.ready() > 0);
        let mut first = Vec::new();
        assert_eq!(aio.reap(1, |number, result| first.push((number, result))), 1);
        first.extend(wait(&mut aio, 3));
        first.sort_unstable();
        assert_eq!(first, [(0, 4096), (1, 4096), (2, 4096), (3, 4096)]);
        assert!(aio.sleep(Duration::from_millis(2)), "with nothing in flight it ends by itself");
        assert_eq!(aio.ready(), 0);
    }

    #[test]
    fn more_rounds_than_the_ring_has_places() {
        let region = Arc::new(Region::new(4096).unwrap());
        let mut aio = Aio::new(file().into(), 2, region, false).unwrap();
        for _ in 0..2000 {
            aio.push(1, Action::Read, Range { offset: 0, len: 512 }, 0, false);
            assert_eq!(aio.submit().unwrap(), 0);
            assert_eq!(wait(&mut aio, 1), [(1, 512)]);
        }
    }

    #[test]
    fn what_the_kernel_does_not_take_is_named() {
        let region = Arc::new(Region::new(4096).unwrap());
        let (reader, _writer) = rustix::pipe::pipe().unwrap();
        let mut aio = Aio::new(reader, 2, region, false).unwrap();
        aio.push(1, Action::Sync, Range::default(), 0, false);
        let (number, error) = aio.submit().unwrap_err();
        assert_eq!((number, error.raw_os_error()), (1, Some(libc::EINVAL)));
        assert!(!aio.has_pushed());
    }
}
