//! Raising an eventfd that is somebody else's. A write to one whose counter is full waits until it is read, unless the descriptor says
//! otherwise, and its owner can change both at any moment. The kernel itself never waits: it raises what an asynchronous request names
//! when that is over, so a request is made here that reads nothing.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, BorrowedFd},
    ptr,
};

/// Requests that may be over and not taken back yet.
const ROOM: usize = 64;

// Of linux/aio_abi.h.
const IOCB_CMD_PREAD: u16 = 0;
const IOCB_FLAG_RESFD: u32 = 1;

/// `struct iocb`; what is not named here stays zero, so that the order of its halves on other machines makes no difference.
#[repr(C)]
#[derive(Default)]
struct Request {
    data: u64,
    key_and_flags: [u32; 2],
    opcode: u16,
    priority: i16,
    file: u32,
    buffer: u64,
    bytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    raises: u32,
}

/// `struct io_event`.
type Over = [u64; 4];

const _: () = assert!(size_of::<Request>() == 64);

/// Who raises eventfds without ever waiting.
#[derive(Debug)]
pub struct Raiser {
    context: libc::c_ulong,
    /// What is read from.
    nothing: File,
}

impl Raiser {
    /// Takes what the system needs for it.
    ///
    /// # Errors
    /// What the system answered, and what to do.
    pub fn new() -> io::Result<Self> {
        let nothing = File::open("/dev/null")?;
        let mut context: libc::c_ulong = 0;
        // SAFETY: the call writes an identifier to `context`, which is zero as it has to be.
        match unsafe { libc::syscall(libc::SYS_io_setup, ROOM, &raw mut context) } {
            0 => Ok(Self { context, nothing }),
            _ => {
                let error = io::Error::last_os_error();
                let why = format!(
                    "no room for asynchronous requests (io_setup: {error}); fs.aio-max-nr says how much there is"
                );
                Err(io::Error::new(error.kind(), why))
            }
        }
    }

    /// Adds one to an eventfd; where that would be too much, it stays full.
    ///
    /// # Errors
    /// What the system answered: `InvalidInput` for what is no eventfd.
    pub fn raise(&self, eventfd: BorrowedFd<'_>) -> io::Result<()> {
        let mut request = Request {
            opcode: IOCB_CMD_PREAD,
            file: self.nothing.as_raw_fd() as u32,
            flags: IOCB_FLAG_RESFD,
            raises: eventfd.as_raw_fd() as u32,
            ..Request::default()
        };
        loop {
            let mut list = [&raw mut request];
            // SAFETY: the list and the one request in it outlive the call, after which the kernel reads neither; reading no bytes
            // writes nowhere.
            let taken = unsafe { libc::syscall(libc::SYS_io_submit, self.context, 1, list.as_mut_ptr()) };
            if taken == 1 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::WouldBlock || self.take_back() == 0 {
                return Err(error);
            }
        }
    }

    /// Takes back the requests that are over; returns how many there were.
    #[cold]
    fn take_back(&self) -> usize {
        let mut over: [Over; ROOM] = [[0; 4]; ROOM];
        // SAFETY: there is room for so many; to wait for none of them is not to wait.
        let count = unsafe {
            let none: *mut libc::timespec = ptr::null_mut();
            libc::syscall(libc::SYS_io_getevents, self.context, 0, ROOM, over.as_mut_ptr(), none)
        };
        usize::try_from(count).unwrap_or(0)
    }
}

impl Drop for Raiser {
    fn drop(&mut self) {
        // SAFETY: the identifier is ours, and no request is under way.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.context) };
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    #[test]
    fn an_eventfd_is_raised_as_often_as_asked_and_never_waited_for() {
        let raiser = Raiser::new().unwrap();
        let waits = eventfd(0, EventfdFlags::empty()).unwrap();
        let read = || {
            let mut bytes = [0; 8];
            rustix::io::read(&waits, &mut bytes).unwrap();
            u64::from_ne_bytes(bytes)
        };
        (0..10_000).for_each(|_| raiser.raise(waits.as_fd()).unwrap());
        assert_eq!(read(), 10_000);
        rustix::io::write(&waits, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        (0..3).for_each(|_| raiser.raise(waits.as_fd()).unwrap());
        assert_eq!(read(), u64::MAX);
        let file = File::open("/dev/null").unwrap();
        assert_eq!(raiser.raise(file.as_fd()).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
