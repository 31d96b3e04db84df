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
) -> io::Result<usize> {
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
    // both alive for the call; sending only reads them.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
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
        assert_eq!(send(left.as_fd(), segments.into_iter(), b"!!head", Some(&region)).unwrap(), 13);
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
        let error = send(left.as_fd(), [Segment::Header { at: 0, len: 1 }].into_iter(), b"x", None).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
