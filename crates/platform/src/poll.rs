//! Sleeping until one of several descriptors has something, or a time has passed.

use std::{os::fd::RawFd, time::Duration};

/// Sleeps until one of `fds` is readable (or writable, where the flag beside it says so) or at fault, or `span` has passed; a signal
/// may end the sleep early. Returns whether one is ready. A descriptor that is not open counts as ready: who uses it next learns why.
pub fn wait(fds: &[(RawFd, bool)], span: Duration) -> bool {
    let mut polled: Vec<libc::pollfd> = fds
        .iter()
        .map(|&(fd, writable)| libc::pollfd {
            fd,
            events: if writable { libc::POLLIN | libc::POLLOUT } else { libc::POLLIN },
            revents: 0,
        })
        .collect();
    // Rounded up, so that a wait for less than a millisecond does not spin.
    let milliseconds = span.as_nanos().div_ceil(1_000_000).min(i32::MAX as u128) as i32;
    // SAFETY: the vector holds as many entries as the call is told, and the kernel only writes their `revents`.
    let ready = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, milliseconds) };
    ready > 0
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::fd::AsRawFd, os::unix::net::UnixStream};

    use super::*;

    #[test]
    fn a_wait_ends_with_the_first_descriptor_or_the_time() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let (other, _kept) = UnixStream::pair().unwrap();
        let both = [(other.as_raw_fd(), false), (near.as_raw_fd(), false)];
        assert!(!wait(&both, Duration::from_millis(5)));
        assert!(wait(&[(near.as_raw_fd(), true)], Duration::from_secs(60)), "writable at once");
        far.write_all(b"x").unwrap();
        assert!(wait(&both, Duration::from_secs(60)));
    }
}
