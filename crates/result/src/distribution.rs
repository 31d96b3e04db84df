//! A distribution of latencies as it is written and read back: the non-empty buckets of a [`LatencyHistogram`] with what they leave
//! out (sum, least, largest) and the rate of the clock, so that it stands alone and merges with others.

use serde::{Deserialize, Serialize};

use crate::{LatencyHistogram, LatencyStats};

/// Relative difference of two clock rates that are one: anchors a second apart are that inexact, and it is a tenth of a bucket.
const ONE_RATE: f64 = 0.001;
/// Samples beyond a percentile that it takes to be told.
const ENOUGH: u64 = 10;
/// The percentiles that are told, those of `spdk_nvme_perf` and up to nine nines.
pub const CUT_OFFS: [f64; 17] = [
    1.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 98.0, 99.0, 99.5, 99.9, 99.99, 99.999, 99.9999, 99.99999, 99.999999,
    99.9999999,
];

/// A distribution of latencies in ticks of a clock.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    /// Ticks a second.
    pub ticks_per_second: f64,
    /// Samples.
    pub samples: u64,
    /// Their sum in ticks.
    pub sum: u64,
    /// The least in ticks, 0 without samples.
    pub min: u64,
    /// The largest in ticks.
    pub max: u64,
    /// Least value and count of each non-empty bucket, ascending. A bucket that starts below 256 holds one value; one that starts at
    /// 2^n or above, and below 2^(n+1), is 2^(n-7) wide.
    pub buckets: Vec<(u64, u64)>,
}

/// A percentile, and what it rests on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Percentile {
    /// The share of samples in percent that lie at or below it.
    pub percent: f64,
    /// The upper edge of the bucket it falls in, in microseconds.
    pub us: f64,
    /// Samples beyond it.
    pub beyond: u64,
}

/// A percentage of at most 7 decimal places as a share, the float that is nearest: 99.9 / 100 is more than 0.999, for which 999 of 1000
/// would be too few.
pub fn share(percent: f64) -> f64 {
    (percent * 1e7).round() / 1e9
}

impl Distribution {
    /// From what was recorded; the histogram may have been left out.
    pub fn new(stats: &LatencyStats, ticks_per_second: f64) -> Self {
        Self {
            ticks_per_second,
            samples: stats.count,
            sum: u64::try_from(stats.sum).unwrap_or(u64::MAX),
            min: stats.min,
            max: stats.max,
            buckets: stats.histogram.buckets().map(|bucket| (bucket.start, bucket.count)).collect(),
        }
    }

    /// Whether it holds together, when it comes from somewhere else.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        let rate = self.ticks_per_second;
        let held: u128 = self.buckets.iter().map(|bucket| u128::from(bucket.1)).sum();
        if !(rate.is_finite() && rate > 0.0) {
            Err(format!("a distribution is of a clock with {rate} ticks a second"))
        } else if held != u128::from(self.samples) && held != 0 {
            Err(format!("a distribution of {} samples has {held} in its buckets", self.samples))
        } else if !self.buckets.is_sorted_by(|one, other| one.0 < other.0) {
            Err("the buckets of a distribution do not ascend".into())
        } else {
            Ok(())
        }
    }

    /// Whether the clocks of two are one, so that they merge by adding counts.
    pub fn has_clock_of(&self, other: &Self) -> bool {
        (self.ticks_per_second / other.ticks_per_second - 1.0).abs() <= ONE_RATE
    }

    /// Adds the samples of another one. Where both clocks have one rate (within a thousandth) counts are added bucket by bucket, as if
    /// all samples had been recorded together; else the other's buckets are moved to where their middles lie at this rate.
    pub fn merge(&mut self, other: &Self) {
        if other.samples == 0 {
            return;
        }
        if self.samples == 0 {
            return self.clone_from(other);
        }
        let ratio = self.ticks_per_second / other.ticks_per_second;
        let moved;
        let other = match self.has_clock_of(other) {
            true => other,
            false => {
                moved = other.at(ratio);
                &moved
            }
        };
        self.samples = self.samples.saturating_add(other.samples);
        self.sum = self.sum.saturating_add(other.sum);
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        let mine = std::mem::take(&mut self.buckets);
        let (mut mine, mut others) = (mine.into_iter().peekable(), other.buckets.iter().copied().peekable());
        while let Some(start) = [mine.peek(), others.peek()].into_iter().flatten().map(|bucket| bucket.0).min() {
            let count = |bucket: Option<(u64, u64)>| bucket.map_or(0, |bucket| bucket.1);
            let (one, two) = (mine.next_if(|bucket| bucket.0 == start), others.next_if(|bucket| bucket.0 == start));
            self.buckets.push((start, count(one).saturating_add(count(two))));
        }
    }

    /// The same latencies on a clock that is `ratio` times as fast.
    fn at(&self, ratio: f64) -> Self {
        let ticks = |ticks: u64| (ticks as f64 * ratio).round() as u64;
        let mut histogram = LatencyHistogram::default();
        for &(start, count) in &self.buckets {
            histogram.record_many(ticks(start + (end(start) - start) / 2), count);
        }
        Self {
            ticks_per_second: self.ticks_per_second * ratio,
            samples: self.samples,
            sum: ticks(self.sum),
            min: ticks(self.min),
            max: ticks(self.max),
            buckets: histogram.buckets().map(|bucket| (bucket.start, bucket.count)).collect(),
        }
    }

    /// Ticks in microseconds.
    pub fn us(&self, ticks: f64) -> f64 {
        ticks * 1e6 / self.ticks_per_second
    }

    /// The mean in microseconds; `None` without samples.
    pub fn mean_us(&self) -> Option<f64> {
        (self.samples > 0).then(|| self.us(self.sum as f64 / self.samples as f64))
    }

    /// The middle of each bucket in ticks and its count, ascending: what stands for the samples where one value must.
    pub fn middles(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        self.buckets.iter().map(|&(start, count)| ((start as f64 + (end(start) - 1) as f64) / 2.0, count))
    }

    /// The standard deviation in microseconds, each sample standing in the middle of its bucket, so that it is wrong by half a
    /// percent at most; `None` without buckets.
    pub fn stdev_us(&self) -> Option<f64> {
        let count: f64 = self.middles().map(|(_, count)| count as f64).sum();
        let mean = self.middles().map(|(value, count)| value * count as f64).sum::<f64>() / count;
        let squares: f64 = self.middles().map(|(value, count)| (value - mean).powi(2) * count as f64).sum();
        (count > 0.0).then(|| self.us((squares / count).sqrt()))
    }

    /// A percentile (0 to 100), however few samples there are; `None` without buckets.
    pub fn percentile(&self, percent: f64) -> Option<Percentile> {
        let total: u64 = self.buckets.iter().map(|bucket| bucket.1).sum();
        let share = share(percent);
        let mut seen = 0;
        self.buckets.iter().find_map(|&(start, count)| {
            seen += count;
            (seen as f64 / total as f64 >= share).then(|| Percentile {
                percent,
                us: self.us(end(start) as f64),
                beyond: total - seen,
            })
        })
    }

    /// A percentile by where it falls within its bucket, in microseconds, and by what share of itself that may be wrong: samples of a
    /// bucket count as evenly spread, and the more of all there are in it, the less is known of where. `None` where the samples do not
    /// carry it.
    pub fn percentile_within(&self, percent: f64) -> Option<(f64, f64)> {
        let total: u64 = self.buckets.iter().map(|bucket| bucket.1).sum();
        let rank = total as f64 * percent / 100.0;
        let mut before = 0.0;
        let carried = rank.min(total as f64 - rank) >= ENOUGH as f64 * 0.999_999;
        self.buckets.iter().filter(|_| carried).find_map(|&(start, count)| {
            let (count, width) = (count as f64, (end(start) - start) as f64);
            let value = start as f64 + width * (rank - before) / count;
            before += count;
            (before >= rank).then(|| (self.us(value), width / 2.0 / value * count / total as f64))
        })
    }

    /// Those of [`CUT_OFFS`] that the samples carry: a share that stands for less than ten samples is left out.
    pub fn percentiles(&self) -> Vec<Percentile> {
        let total: u64 = self.buckets.iter().map(|bucket| bucket.1).sum();
        let carried = |percent: f64| total as f64 * percent.min(100.0 - percent) / 100.0 >= ENOUGH as f64 * 0.999_999;
        CUT_OFFS
            .into_iter()
            .filter(|&percent| carried(percent))
            .filter_map(|percent| self.percentile(percent))
            .collect()
    }
}

/// The first value above the bucket that starts at `start` (saturating at the top).
fn end(start: u64) -> u64 {
    start.saturating_add(1 << start.checked_ilog2().unwrap_or(0).saturating_sub(7))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(values: &[u64], rate: f64) -> Distribution {
        let mut stats = LatencyStats::default();
        values.iter().for_each(|&value| stats.record(value));
        Distribution::new(&stats, rate)
    }

    proptest! {
        #[test]
        fn merging_is_recording_together(
            one in prop::collection::vec(1u64..1 << 40, 0..200),
            two in prop::collection::vec(1u64..1 << 40, 0..200),
        ) {
            let mut merged = of(&one, 2e9);
            merged.merge(&of(&two, 2e9));
            let both = of(&[one, two].concat(), 2e9);
            prop_assert_eq!(&merged, &both);
            prop_assert_eq!(merged.percentiles(), both.percentiles());
            prop_assert_eq!(merged.stdev_us(), both.stdev_us());
        }

        #[test]
        fn an_end_is_the_histogram_s(value in any::<u64>()) {
            let mut histogram = LatencyHistogram::default();
            histogram.record(value);
            let bucket = histogram.buckets().next().unwrap();
            prop_assert_eq!(end(bucket.start), bucket.end);
        }
    }

    #[test]
    fn clocks_of_two_rates_merge_within_a_bucket() {
        let values: Vec<u64> = (1000..2000).map(|value| value * 10).collect();
        let mut merged = of(&values, 2e9);
        let other: Vec<u64> = values.iter().map(|value| value * 3 / 2).collect();
        merged.merge(&of(&other, 3e9));
        assert_eq!(merged.samples, 2000);
        for percent in [1.0, 50.0, 99.0] {
            let (one, two) = (of(&values, 2e9).percentile(percent).unwrap(), merged.percentile(percent).unwrap());
            assert!((one.us / two.us - 1.0).abs() < 2.0 / 128.0, "{one:?} {two:?}");
        }
        let (mean, alone) = (merged.mean_us().unwrap(), of(&values, 2e9).mean_us().unwrap());
        assert!((mean / alone - 1.0).abs() < 1e-6);
    }

    #[test]
    fn a_percentile_is_where_so_many_samples_lie_and_no_further() {
        for (percent, below, beyond) in [(99.9, 9990, 10), (99.99, 99_990, 10), (99.999, 999_990, 10), (90.0, 90, 10)] {
            let samples = [vec![10_000; below], vec![1_000_000; beyond]].concat();
            let found = of(&samples, 1e9).percentile(percent).unwrap();
            assert!(found.us < 11.0 && found.beyond == 10, "{found:?}");
        }
    }

    #[test]
    fn percentiles_go_as_far_as_the_samples_carry() {
        let highest =
            |count: u64| of(&(1..=count).collect::<Vec<_>>(), 1e6).percentiles().last().map(|last| last.percent);
        assert_eq!([9, 20, 100, 1000, 100_000].map(highest), [None, Some(50.0), Some(90.0), Some(99.0), Some(99.99)]);
        let p99 = of(&(1..=1000).collect::<Vec<_>>(), 1e6).percentiles().pop().unwrap();
        assert!((p99.us / 990.0 - 1.0).abs() < 1.0 / 64.0 && p99.beyond <= 10, "{p99:?}");
        assert_eq!(of(&[], 1e6).percentiles(), []);
        assert_eq!((of(&[], 1e6).mean_us(), of(&[], 1e6).stdev_us()), (None, None));
    }

    #[test]
    fn a_percentile_within_its_bucket_is_nearer_to_the_samples() {
        let spread = of(&(100_000..200_000).collect::<Vec<_>>(), 1e6);
        for percent in [1.0, 50.0, 90.0, 99.0] {
            let (us, wrong) = spread.percentile_within(percent).unwrap();
            assert!((us / (100_000.0 + 1000.0 * percent) - 1.0).abs() < 1e-4 && wrong < 1e-4, "{percent} {us} {wrong}");
        }
        // All in one: it may be anywhere there.
        let (us, wrong) = of(&[100_000; 100], 1e6).percentile_within(50.0).unwrap();
        assert!((us / 100_000.0 - 1.0).abs() <= wrong && wrong < 1.0 / 256.0, "{us} {wrong}");
        assert_eq!(of(&[1; 999], 1e6).percentile_within(99.0), None);
    }

    #[test]
    fn the_deviation_is_that_of_the_samples() {
        let values: Vec<u64> = (0..10_000).collect();
        let stdev = of(&values, 1e6).stdev_us().unwrap();
        assert!((stdev / (10_000.0 / 12f64.sqrt()) - 1.0).abs() < 0.005, "{stdev}");
    }
}
