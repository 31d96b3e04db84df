//! Gathered sends and scattered receives between a socket, small header buffers and a [`Region`]: one system call a batch,
//! and payload that never passes through a buffer of ours.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd, BorrowedFd},
};

use crate::memory::{Range, Region};

/// Most pieces one system call takes (the kernel's UIO_MAXIOV).
pub const MOST_PIECES: usize = 1024;

/// A piece of an outgoing stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    /// Bytes of the caller's header buffer.
    Header {
        /// First byte.
        at: u32,
        /// Length in bytes.
        len: u32,
    },
    /// Bytes of the region.
    Payload(Range),
}

impl Segment {
    /// Length in bytes.
    pub fn len(&self) -> u32 {
        match self {
            Self::Header { len, .. } => *len,
            Self::Payload(range) => range.len,
        }
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What becomes of the memory that is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sending {
    /// It is copied.
    Copied,
    /// It is copied, and more is sent at once.
    CopiedBeforeMore,
    /// The kernel sends from it until [`zero_copy_over`] says that it is over, if [`allow_zero_copy`] was called.
    ZeroCopy,
}

/// Allows [`Sending::ZeroCopy`] on a socket.
///
/// # Errors
/// What the system answered.
pub fn allow_zero_copy(socket: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the kernel reads an int.
    let answer = unsafe {
        let on = std::ptr::from_ref(&on).cast();
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ZEROCOPY, on, size_of::<libc::c_int>() as u32)
    };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether a call with [`Sending::ZeroCopy`] failed because the kernel has no room for another note of what it sends from
/// (net.core.optmem_max), or keeps as much memory in place for us as it may (RLIMIT_MEMLOCK).
pub fn is_out_of_notes(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOBUFS)
}

/// Calls with [`Sending::ZeroCopy`] whose memory is the caller's again. They are numbered from 0 on a socket, modulo 2^32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZeroCopyOver {
    /// The first.
    pub first: u32,
    /// The last.
    pub last: u32,
    /// The kernel has copied the data all the same.
    pub copied: bool,
}

/// Takes the next message about calls that are over from the socket's error queue, without waiting; none when none is there.
///
/// # Errors
/// What the system answered.
pub fn zero_copy_over(socket: BorrowedFd<'_>) -> io::Result<Option<ZeroCopyOver>> {
    /// Of linux/errqueue.h: `ee_origin` of such a message, and `ee_code` where the data was copied.
    const ORIGIN: u8 = 5;
    const COPIED: u8 = 1;
    /// Room for the message, and the address that may come with it, aligned for its header.
    type Control = [u64; 16];
    loop {
        let mut control: Control = [0; 16];
        // SAFETY: an all-zero msghdr is the empty message.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of::<Control>() as _;
        // SAFETY: the kernel writes at most `msg_controllen` bytes to `control`, which outlives the call, and data nowhere.
        if unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT) } < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::WouldBlock { Ok(None) } else { Err(error) };
        }
        // SAFETY: the message describes `control` as the kernel filled it; the header, if there is one, lies in it whole.
        let header = unsafe { libc::CMSG_FIRSTHDR(&message).as_ref() };
        let Some(header) = header else { continue };
        let kind = (header.cmsg_level, header.cmsg_type);
        let is_error = [(libc::SOL_IP, libc::IP_RECVERR), (libc::SOL_IPV6, libc::IPV6_RECVERR)].contains(&kind);
        // SAFETY: only the length of one is asked for.
        let whole = unsafe { libc::CMSG_LEN(size_of::<libc::sock_extended_err>() as u32) } as usize;
        if !is_error || header.cmsg_len < whole {
            continue;
        }
        // SAFETY: the header says that as many bytes follow it in `control`; any bytes are such a struct.
        let error = unsafe { libc::CMSG_DATA(header).cast::<libc::sock_extended_err>().read_unaligned() };
        if error.ee_errno == 0 && error.ee_origin == ORIGIN {
            let copied = error.ee_code & COPIED != 0;
            return Ok(Some(ZeroCopyOver { first: error.ee_info, last: error.ee_data, copied }));
        }
    }
}

/// Resets a TCP connection: what is queued is not sent any more, and what the kernel sends from memory of the caller's is soon over.
///
/// # Errors
/// What the system answered.
pub fn reset(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: an all-zero address is one of no family, which dissolves the connection.
    let nowhere: libc::sockaddr = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel reads an address of the length said.
    match unsafe { libc::connect(socket.as_raw_fd(), &nowhere, size_of::<libc::sockaddr>() as u32) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sends up to [`MOST_PIECES`] segments in one call, without waiting and without raising SIGPIPE; returns the bytes taken.
///
/// # Errors
/// What the system answered; `WouldBlock` when the socket takes nothing now.
///
/// # Panics
/// When a segment leaves its buffer or region.
pub fn send(
    socket: BorrowedFd<'_>,
    segments: impl Iterator<Item = Segment>,
    headers: &[u8],
    region: Option<&Region>,
    sending: Sending,
) -> io::Result<usize> {
    let how = match sending {
        Sending::Copied => 0,
        Sending::CopiedBeforeMore => libc::MSG_MORE,
        Sending::ZeroCopy => libc::MSG_ZEROCOPY,
    };
    let mut vectors = [const { MaybeUninit::<libc::iovec>::uninit() }; MOST_PIECES];
    let mut count = 0;
    for segment in segments.take(MOST_PIECES) {
        let (base, len) = match segment {
            Segment::Header { at, len } => {
                let bytes = &headers[at as usize..at as usize + len as usize];
                (bytes.as_ptr().cast_mut(), bytes.len())
            }
            Segment::Payload(Range { offset, len }) => {
                (region.expect("payload needs memory").pointer(offset, len as usize), len as usize)
            }
        };
        vectors[count].write(libc::iovec { iov_base: base.cast(), iov_len: len });
        count += 1;
    }
    // SAFETY: an all-zero msghdr is the empty message.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = vectors.as_mut_ptr().cast();
    message.msg_iovlen = count as _;
    // SAFETY: the first `count` vectors are written and each points at bytes checked to lie in `headers` or in the region,
    // both alive for the call; sending only reads them. What the kernel reads later it keeps from being freed.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &message, how | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(sent as usize) }
}

/// Receives into `ranges` of the region first and into `staging` after them, in one call, without waiting; returns the bytes
/// that came. At most [`MOST_PIECES`] - 1 ranges are used; when there are more, staging is left out.
///
/// # Errors
/// What the system answered; `WouldBlock` when nothing is there, `UnexpectedEof` when the peer has closed.
///
/// # Panics
/// When a range leaves the region.
pub fn receive(
    socket: BorrowedFd<'_>,
    ranges: &[Range],
    region: Option<&Region>,
    staging: &mut [u8],
) -> io::Result<usize> {
    let got = if ranges.is_empty() {
        // SAFETY: the kernel writes at most `staging.len()` bytes to a buffer of that length.
        unsafe { libc::recv(socket.as_raw_fd(), staging.as_mut_ptr().cast(), staging.len(), libc::MSG_DONTWAIT) }
    } else {
        let mut vectors = [const { MaybeUninit::<libc::iovec>::uninit() }; MOST_PIECES];
        let mut count = 0;
        for range in &ranges[..ranges.len().min(MOST_PIECES - 1)] {
            let base = region.expect("payload needs memory").pointer(range.offset, range.len as usize);
            vectors[count].write(libc::iovec { iov_base: base.cast(), iov_len: range.len as usize });
            count += 1;
        }
        if count == ranges.len() && !staging.is_empty() {
            vectors[count].write(libc::iovec { iov_base: staging.as_mut_ptr().cast(), iov_len: staging.len() });
            count += 1;
        }
        // SAFETY: an all-zero msghdr is the empty message.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = vectors.as_mut_ptr().cast();
        message.msg_iovlen = count as _;
        // SAFETY: the first `count` vectors are written; each points into the region (checked) or at `staging`, which is
        // borrowed mutably, so the kernel may write there. No reference into the region exists.
        unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, libc::MSG_DONTWAIT) }
    };
    match got {
        0 if !staging.is_empty() || !ranges.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
        got if got < 0 => Err(io::Error::last_os_error()),
        got => Ok(got as usize),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read,
        io::Write,
        os::{fd::AsFd, unix::net::UnixStream},
    };

    use super::*;

    #[test]
    fn headers_and_payload_arrive_in_order() {
        let (left, mut right) = UnixStream::pair().unwrap();
        let region = Region::new(4096).unwrap();
        region.write(100, b"payload");
        let segments = [
            Segment::Header { at: 2, len: 4 },
            Segment::Payload(Range { offset: 100, len: 7 }),
            Segment::Header { at: 0, len: 2 },
        ];
        assert_eq!(send(left.as_fd(), segments.into_iter(), b"!!head", Some(&region), Sending::Copied).unwrap(), 13);
        let mut got = [0; 13];
        right.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"headpayload!!");
    }

    #[test]
    fn what_comes_fills_the_ranges_and_then_staging() {
        let (left, mut right) = UnixStream::pair().unwrap();
        let region = Region::new(4096).unwrap();
        let ranges = [Range { offset: 10, len: 3 }, Range { offset: 1000, len: 2 }];
        let mut staging = [0; 16];
        assert_eq!(
            receive(left.as_fd(), &ranges, Some(&region), &mut staging).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        right.write_all(b"abcdefgh").unwrap();
        assert_eq!(receive(left.as_fd(), &ranges, Some(&region), &mut staging).unwrap(), 8);
        assert!(region.equals(10, b"abc") && region.equals(1000, b"de"));
        assert_eq!(&staging[..3], b"fgh");
        drop(right);
        assert_eq!(receive(left.as_fd(), &[], None, &mut staging).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_peer_that_is_gone_is_an_error_not_a_signal() {
        let (left, right) = UnixStream::pair().unwrap();
        drop(right);
        let segment = [Segment::Header { at: 0, len: 1 }].into_iter();
        let error = send(left.as_fd(), segment, b"x", None, Sending::Copied).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
