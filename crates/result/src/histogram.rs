//! The latency histogram: 128 linear buckets a power of two over all 64 bits (grouping power 7), the buckets that
//! `spdk_nvme_perf` uses, so percentiles are the same and two histograms merge exactly by adding counts.

use histogram::Histogram;

const GROUPING_POWER: u8 = 7;
const MAX_VALUE_POWER: u8 = 64;

/// A histogram of ticks; the relative error of a value is at most 1/128.
#[derive(Clone, Debug)]
pub struct LatencyHistogram(Histogram);

/// A non-empty bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Smallest value that falls in it.
    pub start: u64,
    /// Smallest value above it (saturating at the top).
    pub end: u64,
    /// Values counted.
    pub count: u64,
}

impl Default for LatencyHistogram {
    fn default() -> Self {
        Self(Histogram::new(GROUPING_POWER, MAX_VALUE_POWER).expect("7 and 64 are valid powers"))
    }
}

impl LatencyHistogram {
    /// Counts one value.
    #[inline]
    pub fn record(&mut self, ticks: u64) {
        self.0.increment(ticks).expect("every 64-bit value has a bucket");
    }

    /// Counts one value so many times.
    pub fn record_many(&mut self, ticks: u64, count: u64) {
        self.0.add(ticks, count).expect("every 64-bit value has a bucket");
    }

    /// Adds another histogram's counts.
    pub fn merge(&mut self, other: &Self) {
        self.0.as_mut_slice().iter_mut().zip(other.0.as_slice()).for_each(|(count, more)| *count += more);
    }

    /// Forgets all counts.
    pub fn clear(&mut self) {
        self.0.reset();
    }

    /// The non-empty buckets, ascending.
    pub fn buckets(&self) -> impl Iterator<Item = Bucket> + '_ {
        self.0.into_iter().filter(|bucket| bucket.count() > 0).map(|bucket| Bucket {
            start: bucket.start(),
            end: bucket.end().saturating_add(1),
            count: bucket.count(),
        })
    }

    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.0.as_slice().iter().sum()
    }

    /// The upper edge of the first bucket at which the share of values seen reaches `share` (0 to 1); `None` when empty.
    pub fn value_at(&self, share: f64) -> Option<u64> {
        let total = self.count();
        let mut seen = 0;
        self.buckets()
            .find(|bucket| {
                seen += bucket.count;
                seen as f64 / total as f64 >= share
            })
            .map(|bucket| bucket.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bucket rule of the original: range and index from the leading zeroes.
    fn edges(value: u64) -> (u64, u64) {
        let range = 57u32.saturating_sub(value.leading_zeros());
        let shift = range.saturating_sub(1);
        let start = value >> shift << shift;
        (start, start.saturating_add(1 << shift))
    }

    #[test]
    fn buckets_are_those_of_the_original() {
        for power in 0..64 {
            for value in [1u64 << power, (1 << power) + (1 << power >> 3), ((1u128 << (power + 1)) - 1) as u64] {
                let mut histogram = LatencyHistogram::default();
                histogram.record(value);
                let bucket = histogram.buckets().next().unwrap();
                assert_eq!((bucket.start, bucket.end), edges(value), "{value}");
            }
        }
    }

    #[test]
    fn merging_equals_counting_together() {
        let (mut left, mut right, mut both) = <(LatencyHistogram, LatencyHistogram, LatencyHistogram)>::default();
        for value in (0..5_000u64).map(|i| i * i) {
            if value % 3 == 0 { &mut left } else { &mut right }.record(value);
            both.record(value);
        }
        left.merge(&right);
        assert!(left.buckets().eq(both.buckets()));
        for share in [0.0, 0.01, 0.5, 0.99, 1.0] {
            assert_eq!(left.value_at(share), both.value_at(share));
        }
        assert_eq!(LatencyHistogram::default().value_at(0.5), None);
    }
}
