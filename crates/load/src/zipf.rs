//! Zipf-distributed positions in the closed form of Gray et al. ("Quickly generating billion-record synthetic databases",
//! SIGMOD 1994): low positions are the hot ones.

/// Terms of the harmonic sum that are added one by one.
const EXACT_TERMS: u64 = 10_000_000;
/// Step of the trapezoid rule behind them, up to [`STEP_GROWS`] steps; then it grows with the position, so that the largest size
/// a namespace can claim takes some ten thousand steps.
const STEP: u64 = 1_000_000;
const STEP_GROWS: u64 = 1024;

/// The distribution over `0..units` with exponent theta.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Zipf {
    units: u64,
    zeta: f64,
    /// Below this, `u` * zeta is position 1.
    second: f64,
    tail: Tail,
}

/// How positions from 2 on follow from `u`.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Tail {
    /// (eta (u - 1) + 1)^alpha.
    Power { eta: f64, alpha: f64 },
    /// The limit for theta = 1: e^(rate (u - 1)).
    Exponential { rate: f64 },
}

impl Zipf {
    /// For `units` positions, at least 1, and `theta` above 0. The harmonic sum takes up to 10 million terms: a fraction of a
    /// second, once a namespace.
    pub fn new(units: u64, theta: f64) -> Self {
        let zeta = harmonic(units, theta);
        let second = 1.0 + 0.5f64.powf(theta);
        let rest = 1.0 - second / zeta;
        let tail = match 1.0 - theta {
            power if power.abs() < 1e-9 => Tail::Exponential { rate: (units as f64 / 2.0).ln() / rest },
            power => Tail::Power { eta: (1.0 - (2.0 / units as f64).powf(power)) / rest, alpha: 1.0 / power },
        };
        Self { units, zeta, second, tail }
    }

    /// The position that 64 random bits stand for.
    #[inline]
    pub fn draw(&self, bits: u64) -> u64 {
        let u = (bits >> 11) as f64 / (1u64 << 53) as f64;
        match u * self.zeta {
            z if z < 1.0 => 0,
            z if z < self.second => 1,
            _ => {
                let share = match self.tail {
                    Tail::Power { eta, alpha } => (eta * (u - 1.0) + 1.0).powf(alpha),
                    Tail::Exponential { rate } => (rate * (u - 1.0)).exp(),
                };
                ((self.units as f64 * share) as u64).min(self.units - 1)
            }
        }
    }
}

/// The sum of i^-theta for i in 1..=n, sampled beyond [`EXACT_TERMS`].
fn harmonic(n: u64, theta: f64) -> f64 {
    let term = |i: u64| (i as f64).powf(-theta);
    let exact: f64 = (1..=n.min(EXACT_TERMS)).map(term).sum();
    let mut sampled = 0.0;
    let mut at = EXACT_TERMS;
    while at < n {
        let next = (at + STEP.max(at / STEP_GROWS)).min(n);
        sampled += (next - at) as f64 * (term(at) + term(next)) / 2.0;
        at = next;
    }
    exact + sampled
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_xoshiro::rand_core::Rng;

    fn shares(units: u64, theta: f64) -> Vec<f64> {
        const DRAWS: u32 = 400_000;
        let zipf = Zipf::new(units, theta);
        let mut random = crate::workload::generator(5, 0, 0);
        let mut counts = vec![0u32; units as usize];
        (0..DRAWS).for_each(|_| counts[zipf.draw(random.next_u64()) as usize] += 1);
        counts.into_iter().map(|count| f64::from(count) / f64::from(DRAWS)).collect()
    }

    #[test]
    fn frequencies_fall_with_rank_as_the_law_says() {
        for theta in [0.5, 0.99, 1.0, 1.2] {
            let shares = shares(1000, theta);
            let zeta = harmonic(1000, theta);
            // Positions 0 and 1 are exact; ranges beyond follow the approximation.
            for rank in [1, 2] {
                let law = f64::from(rank).powf(-theta) / zeta;
                let got = shares[rank as usize - 1];
                assert!((got / law - 1.0).abs() < 0.05, "theta {theta}, rank {rank}: {got} instead of {law}");
            }
            for (from, to) in [(2, 10), (10, 100), (100, 1000)] {
                let law: f64 = (from + 1..=to).map(|i| (i as f64).powf(-theta)).sum::<f64>() / zeta;
                let got: f64 = shares[from..to].iter().sum();
                assert!((got / law - 1.0).abs() < 0.2, "theta {theta}, ranks {from}..{to}: {got} instead of {law}");
            }
        }
    }

    #[test]
    fn the_ends_of_the_draw_stay_in_the_range() {
        for units in [1, 2, 3, 1 << 40] {
            for theta in [0.1, 1.0, 3.0] {
                let zipf = Zipf::new(units, theta);
                for bits in [0, 1, u64::MAX / 2, u64::MAX] {
                    assert!(zipf.draw(bits) < units, "{units} units, theta {theta}, draw {bits}");
                }
                assert_eq!(zipf.draw(0), 0);
            }
        }
    }

    #[test]
    fn the_sampled_sum_is_close_to_the_integral() {
        // For theta = 0.5 the sum of a to b is close to 2 (sqrt b - sqrt a).
        let a = EXACT_TERMS;
        // The last is what a namespace of 2^63 bytes has in blocks of 512: a claim that costs nothing must not cost minutes.
        for b in [50 * EXACT_TERMS, 1 << 54] {
            let got = harmonic(b, 0.5) - harmonic(a, 0.5);
            let law = 2.0 * ((b as f64).sqrt() - (a as f64).sqrt());
            assert!((got / law - 1.0).abs() < 1e-4, "{got} instead of {law}");
        }
    }
}
