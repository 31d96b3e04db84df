//! How a transfer is cut into work requests: each names one piece of the host's memory and at most so many pieces of ours.

use doorbell_platform::Range;

use super::pointer::Remote;

/// How far a transfer has been cut.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cut {
    remote: usize,
    /// Bytes of that piece that are behind us.
    remote_done: u32,
    range: usize,
    range_done: u32,
}

impl Cut {
    /// Whether everything has been cut.
    pub(super) fn is_at_end(&self, remotes: &[Remote], ranges: &[Range]) -> bool {
        self.remote == remotes.len() || self.range == ranges.len()
    }

    /// Cuts the next piece: `out` takes at most `most` ranges of ours, which go with the piece of the host's that is returned.
    pub(super) fn next(
        &mut self,
        remotes: &[Remote],
        ranges: &[Range],
        most: usize,
        out: &mut Vec<Range>,
    ) -> Option<Remote> {
        out.clear();
        if self.is_at_end(remotes, ranges) {
            return None;
        }
        let Remote { address, key, len } = remotes[self.remote];
        let (address, room) = (address + u64::from(self.remote_done), len - self.remote_done);
        let mut taken = 0;
        while out.len() < most
            && taken < room
            && let Some(range) = ranges.get(self.range)
        {
            let part = range.part(self.range_done, room - taken);
            out.push(part);
            taken += part.len;
            self.range_done += part.len;
            if self.range_done == range.len {
                (self.range, self.range_done) = (self.range + 1, 0);
            }
        }
        self.remote_done += taken;
        if self.remote_done == len {
            (self.remote, self.remote_done) = (self.remote + 1, 0);
        }
        Some(Remote { address, key, len: taken })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(remotes: &[u32], ranges: &[u32], most: usize) -> Vec<(u64, u32, Vec<Range>)> {
        let remotes: Vec<_> =
            remotes.iter().zip(1..).map(|(&len, at)| Remote { address: u64::from(at) << 32, key: at, len }).collect();
        let ranges: Vec<_> = ranges.iter().zip(0..).map(|(&len, at)| Range { offset: at << 32, len }).collect();
        let (mut cut, mut out, mut pieces) = (Cut::default(), Vec::new(), Vec::new());
        while let Some(remote) = cut.next(&remotes, &ranges, most, &mut out) {
            assert_eq!(out.iter().map(|range| range.len).sum::<u32>(), remote.len);
            assert!(out.len() <= most && remote.len > 0);
            pieces.push((remote.address, remote.len, out.clone()));
        }
        assert!(cut.is_at_end(&remotes, &ranges));
        pieces
    }

    #[test]
    fn a_piece_ends_with_the_hosts_memory_or_with_the_entries() {
        let (first, second) = (1 << 32, 2 << 32);
        let range = |at: u64, offset: u64, len| Range { offset: (at << 32) + offset, len };
        assert_eq!(
            cut(&[6000, 2000], &[4096, 4096], 4),
            [(first, 6000, vec![range(0, 0, 4096), range(1, 0, 1904)]), (second, 2000, vec![range(1, 1904, 2000)]),]
        );
        assert_eq!(
            cut(&[12288], &[4096, 4096, 4096], 2),
            [(first, 8192, vec![range(0, 0, 4096), range(1, 0, 4096)]), (first + 8192, 4096, vec![range(2, 0, 4096)]),]
        );
        assert_eq!(cut(&[512], &[512], 1), [(first, 512, vec![range(0, 0, 512)])]);
        assert_eq!(cut(&[], &[512], 1), []);
    }
}
