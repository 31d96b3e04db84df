//! Distributions of latencies, in nanoseconds. A draw is a function of random bits alone, so a seed repeats a sequence.

use super::engine::mix;

/// Where latencies come from.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Latency {
    Fixed(u64),
    /// Between two values, the second excluded.
    Uniform(u64, u64),
    /// The second value with this probability, the first otherwise.
    Bimodal(u64, u64, f64),
    /// By the median and the standard deviation of the natural logarithm.
    LogNormal(u64, f64),
    Histogram(Histogram),
}

/// Ranges of latencies, each with the number of values up to its end.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Histogram(Vec<(u64, u64, u64)>);

impl Latency {
    /// The latency that these bits stand for.
    pub(super) fn draw(&self, bits: u64) -> u64 {
        match self {
            Self::Fixed(latency) => *latency,
            Self::Uniform(low, high) => low + scale(bits, high - low),
            Self::Bimodal(usual, other, share) => *if unit(bits) < *share { other } else { usual },
            Self::LogNormal(median, sigma) => {
                // Box and Muller's method; the logarithm needs a number above 0.
                let (first, second) = (1.0 - unit(bits), unit(mix(bits)));
                let normal = (-2.0 * first.ln()).sqrt() * (std::f64::consts::TAU * second).cos();
                (*median as f64 * (sigma * normal).exp()) as u64
            }
            Self::Histogram(histogram) => histogram.draw(bits),
        }
    }
}

impl Histogram {
    /// Of ranges, each with its number of values.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(super) fn new(ranges: impl Iterator<Item = (u64, u64, u64)>) -> Result<Self, String> {
        let (mut all, mut total) = (Vec::new(), 0u64);
        for (low, high, count) in ranges {
            if high < low {
                return Err(format!("a range from {low} to {high} ns ends before it begins"));
            }
            total = total.checked_add(count).ok_or("too many values")?;
            all.push((low, high, total));
        }
        if total == 0 { Err("it has no values".into()) } else { Ok(Self(all)) }
    }

    fn draw(&self, bits: u64) -> u64 {
        let (_, _, total) = self.0[self.0.len() - 1];
        let place = scale(bits, total);
        let (low, high, _) = self.0[self.0.partition_point(|&(_, _, until)| until <= place)];
        low + scale(mix(bits), high - low)
    }
}

/// Bits as a number from 0 to below 1.
pub(super) fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// Bits brought to `0..range`.
fn scale(bits: u64, range: u64) -> u64 {
    ((u128::from(bits) * u128::from(range)) >> 64) as u64
}
