//! Data that the kernel sends from our memory itself (MSG_ZEROCOPY), and when that memory is ours again.
//!
//! Each call of that kind on a socket has a number, and the socket's error queue names the calls whose data has been acknowledged,
//! or was copied after all. Until then nobody may change the memory: a retransmission would send what is in it then.

use std::{collections::VecDeque, fmt, io, os::fd::BorrowedFd};

use doorbell_platform::socket;

/// What became of the calls of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ZeroCopyCounts {
    /// Calls that were to send without a copy.
    pub calls: u64,
    /// Of these, those whose data the kernel copied all the same.
    pub copied: u64,
    /// Calls that the kernel refused for a limit of its own (net.core.optmem_max, RLIMIT_MEMLOCK), and that were made by copying.
    pub refused: u64,
}

/// The calls of one socket.
#[derive(Debug)]
pub struct ZeroCopy {
    /// Fewest bytes of data of a PDU that are sent so.
    pub(crate) threshold: u32,
    /// Calls whose memory is not back, oldest first: where in the stream each began, and whether it is over while an older one is not.
    calls: VecDeque<(u64, bool)>,
    /// The number of the next call.
    next: u32,
    counts: ZeroCopyCounts,
}

impl fmt::Display for ZeroCopyCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { calls, copied, refused } = self;
        write!(f, "of {calls} zero-copy sends the system copied {copied} all the same")?;
        match refused {
            0 => Ok(()),
            _ => write!(
                f,
                ", and it refused {refused} more for a limit of its own (net.core.optmem_max, RLIMIT_MEMLOCK)"
            ),
        }
    }
}

impl ZeroCopy {
    pub(crate) fn new(threshold: u32) -> Self {
        Self { threshold, calls: VecDeque::new(), next: 0, counts: ZeroCopyCounts::default() }
    }

    /// A call has taken data that begins there in the stream.
    pub(crate) fn called(&mut self, start: u64) {
        self.calls.push_back((start, false));
        self.next = self.next.wrapping_add(1);
        self.counts.calls += 1;
    }

    /// A call was refused.
    pub(crate) fn refused(&mut self) {
        self.counts.refused += 1;
    }

    /// Where in the stream the memory begins that is not back.
    #[inline]
    pub(crate) fn oldest(&self) -> Option<u64> {
        self.calls.front().map(|&(start, _)| start)
    }

    /// Whether all memory is back.
    pub fn is_over(&self) -> bool {
        self.calls.is_empty()
    }

    /// What was counted.
    pub fn counts(&self) -> ZeroCopyCounts {
        self.counts
    }

    /// Takes in what the socket has to say about calls that are over, without waiting.
    ///
    /// # Errors
    /// What the system answered.
    pub fn collect(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        while !self.calls.is_empty() {
            let Some(over) = socket::zero_copy_over(socket)? else { break };
            self.over(over);
        }
        Ok(())
    }

    fn over(&mut self, over: socket::ZeroCopyOver) {
        let first = self.next.wrapping_sub(self.calls.len() as u32);
        let count = over.last.wrapping_sub(over.first) as usize + 1;
        for (_, done) in self.calls.iter_mut().skip(over.first.wrapping_sub(first) as usize).take(count) {
            *done = true;
            self.counts.copied += u64::from(over.copied);
        }
        while let Some((_, true)) = self.calls.front() {
            self.calls.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_back_in_the_order_of_the_stream() {
        let mut calls = ZeroCopy { next: u32::MAX, ..ZeroCopy::new(0) };
        for start in [10, 20, 30, 40] {
            calls.called(start);
        }
        let over = |first, last, copied| socket::ZeroCopyOver { first, last, copied };
        // Numbers are FFFFFFFFh, 0, 1, 2.
        calls.over(over(0, 1, false));
        assert_eq!(calls.oldest(), Some(10), "an older one is not over");
        calls.over(over(u32::MAX, u32::MAX, true));
        assert_eq!((calls.oldest(), calls.is_over()), (Some(40), false));
        // What is not outstanding is nothing to us.
        calls.over(over(0, 1, true));
        calls.over(over(7, 9, true));
        calls.over(over(2, 2, true));
        assert_eq!((calls.oldest(), calls.is_over()), (None, true));
        assert_eq!(calls.counts(), ZeroCopyCounts { calls: 4, copied: 2, refused: 0 });
    }
}
