//! Whether a context works on the range it should: each offset that is issued is counted in one of 64 regions of the namespace, and a
//! sequence that starts over, as that of a poor generator does, is noticed. Two additions and two comparisons an I/O.

use doorbell_result::Coverage as Outcome;

use crate::workload::Part;

/// Most regions that are told apart.
const REGIONS: usize = 64;
/// Random offsets in a row that by chance equal others with a probability below 2^-64.
const BITS: u32 = 64;
/// Expected I/Os of a region from which on it says something that nothing fell there.
const EXPECTED: f64 = 20.0;

/// How offsets are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One behind the other, over and over.
    Sequential,
    /// Each as likely as every other.
    Uniform,
    /// Each exactly once before any comes again, by this context or, where it is not alone, by all who share the range.
    Full {
        /// It shares the range with nobody.
        alone: bool,
    },
    /// Some far more likely.
    Skewed,
}

impl Kind {
    fn is_random(self) -> bool {
        matches!(self, Self::Uniform | Self::Full { .. })
    }
}

/// The offsets of a context so far.
#[derive(Debug)]
pub(crate) struct Coverage {
    kind: Kind,
    part: Part,
    shift: u32,
    regions: Box<[u64; REGIONS]>,
    count: u64,
    /// A run of offsets, taken at each power of two, with which those that follow are compared.
    run: Vec<u64>,
    run_length: usize,
    /// How many of them the last offsets equal.
    matched: usize,
    /// The offset that would be one more.
    awaited: u64,
    /// From this I/O on each one is looked at.
    attention: u64,
    run_start: u64,
    period: Option<u64>,
}

impl Coverage {
    /// For offsets in `part`, which is not empty.
    pub fn new(kind: Kind, part: Part) -> Self {
        let units = part.end - part.start;
        let bits = (units - 1).checked_ilog2().map_or(0, |last| last + 1);
        // Of a few units any sequence of numbers looks alike, and what is skewed repeats itself.
        let run_length = if kind.is_random() && bits > 3 { BITS.div_ceil(bits - 1) as usize } else { 0 };
        Self {
            kind,
            part,
            shift: bits.saturating_sub(REGIONS.ilog2()),
            regions: Box::new([0; REGIONS]),
            count: 0,
            run: Vec::with_capacity(run_length),
            run_length,
            matched: 0,
            awaited: u64::MAX,
            attention: if run_length > 0 { 1 } else { u64::MAX },
            run_start: 0,
            period: None,
        }
    }

    /// An I/O is issued.
    #[inline]
    pub fn observe(&mut self, offset: u64) {
        let offset = offset.wrapping_sub(self.part.start);
        self.regions[(offset >> self.shift).min(REGIONS as u64 - 1) as usize] += 1;
        self.count += 1;
        if offset == self.awaited || self.count >= self.attention {
            self.attend(offset);
        }
    }

    /// Brent's way to find a cycle: the sequence is compared with a run of it that is taken anew at each power of two.
    #[cold]
    fn attend(&mut self, offset: u64) {
        if self.run.len() < self.run_length {
            self.run.push(offset);
        } else if offset == self.run[self.matched] {
            self.matched += 1;
            if self.matched == self.run_length {
                self.period = Some(self.count - self.run_length as u64 - self.run_start);
                (self.attention, self.awaited) = (u64::MAX, u64::MAX);
                return;
            }
        } else {
            self.matched = usize::from(offset == self.run[0]);
        }
        if self.run.len() == self.run_length && self.matched == 0 && self.count >= 2 * self.run_start + 16 {
            self.run.clear();
            self.run_start = self.count;
        }
        let busy = self.run.len() < self.run_length || self.matched > 0;
        self.awaited = if busy { u64::MAX } else { self.run[0] };
        self.attention = if busy { self.count + 1 } else { 2 * self.run_start + 16 };
    }

    /// What it comes to.
    pub fn finish(self) -> Outcome {
        let units = self.part.end - self.part.start;
        let width = 1u64 << self.shift;
        let of_region = |region: usize| {
            let start = region as u64 * width;
            start.min(units)..(start + width).min(units)
        };
        let expected: Vec<f64> = (0..REGIONS)
            .map(|region| {
                let region = of_region(region);
                let (start, end) = (region.start, region.end);
                match self.kind {
                    Kind::Sequential => {
                        let rest = self.count % units;
                        ((self.count / units) * (end - start) + rest.clamp(start, end) - start) as f64
                    }
                    _ => self.count as f64 * (end - start) as f64 / units as f64,
                }
            })
            .collect();
        let pairs = || self.regions.iter().map(|&seen| seen as f64).zip(expected.iter().copied());
        let difference = match self.kind {
            Kind::Sequential => {
                let off: f64 = pairs().map(|(seen, expected)| (seen - expected).abs()).sum();
                Some(off / (self.count as f64).max(1.0))
            }
            Kind::Full { alone: true } => {
                let passes = self.count / units;
                let off: u64 = (0..REGIONS)
                    .map(|region| {
                        let width = of_region(region);
                        let width = width.end - width.start;
                        let most = (passes + 1) * width;
                        let seen = self.regions[region];
                        seen.saturating_sub(most) + (passes * width).saturating_sub(seen)
                    })
                    .sum();
                Some(off as f64 / (self.count as f64).max(1.0))
            }
            Kind::Uniform | Kind::Full { alone: false } => {
                let telling = pairs().filter(|(_, expected)| *expected >= EXPECTED);
                let (all, empty) =
                    telling.fold((0, 0), |(all, empty), (seen, _)| (all + 1, empty + i32::from(seen == 0.0)));
                (all > 0).then(|| f64::from(empty) / f64::from(all))
            }
            Kind::Skewed => None,
        };
        let deviation = self.kind.is_random().then(|| chi_squared(pairs())).flatten();
        Outcome { ios: self.count, units, difference, deviation, period: self.period }
    }
}

/// By how many standard deviations the counts are less even than chance makes them (Wilson and Hilferty's approximation); `None`
/// where there are too few.
fn chi_squared(pairs: impl Iterator<Item = (f64, f64)>) -> Option<f64> {
    let telling = pairs.filter(|(_, expected)| *expected >= EXPECTED);
    let (sum, count) = telling
        .fold((0.0, 0.0), |(sum, count), (seen, expected)| (sum + (seen - expected).powi(2) / expected, count + 1.0));
    let freedom: f64 = count - 1.0;
    let spread = 2.0 / (9.0 * freedom);
    (freedom >= 1.0).then(|| ((sum / freedom).cbrt() - (1.0 - spread)) / spread.sqrt())
}

#[cfg(test)]
mod tests {
    use rand_xoshiro::rand_core::Rng;

    use super::*;
    use crate::{
        permutation::Cover,
        workload::{Pattern, Workload, generator},
    };

    fn part(start: u64, end: u64) -> Part {
        Part { start, end }
    }

    /// What offsets come to that are made from the number of the I/O.
    fn of(kind: Kind, part: Part, count: u64, offset: impl Fn(u64) -> u64) -> Outcome {
        let mut coverage = Coverage::new(kind, part);
        (0..count).for_each(|index| coverage.observe(offset(index)));
        coverage.finish()
    }

    fn of_draws(kind: Kind, units: u64, count: u64, mut draw: impl FnMut() -> u64) -> Outcome {
        let mut coverage = Coverage::new(kind, part(0, units));
        (0..count).for_each(|_| coverage.observe(draw()));
        coverage.finish()
    }

    #[test]
    fn what_the_workload_draws_is_found_in_order() {
        for units in [1, 2, 63, 64, 65, 1000, 1 << 20, (1 << 40) + 12_345] {
            for seed in 0..20 {
                let whole = Part::of(units, 0, 1);
                for (random, kind) in [(true, Kind::Uniform), (false, Kind::Sequential)] {
                    let pattern = Pattern { random, read_percent: 50 };
                    let mut workload = Workload::new(pattern, units, whole, None, generator(seed, 0, 0));
                    let mut coverage = Coverage::new(kind, whole);
                    (0..20_000).for_each(|_| coverage.observe(workload.draw().offset));
                    let outcome = coverage.finish();
                    assert_eq!(
                        (outcome.difference, outcome.period),
                        (Some(0.0), None),
                        "{units} {kind:?}: {outcome:?}"
                    );
                    assert!(outcome.deviation.is_none_or(|deviation| deviation < 4.5), "{units}: {outcome:?}");
                    assert_eq!(outcome.deviation.is_some(), random && units > 1);
                }
            }
        }
    }

    #[test]
    fn a_sequence_that_starts_over_is_found_with_its_period() {
        for period in [100, 1000, 32_768, 100_000] {
            let mut workload = Workload::new(
                Pattern { random: true, read_percent: 100 },
                1 << 30,
                part(0, 1),
                None,
                generator(7, 0, 0),
            );
            let cycle: Vec<u64> = (0..period).map(|_| workload.draw().offset).collect();
            let outcome = of(Kind::Uniform, part(0, 1 << 30), 4 * period, |index| cycle[(index % period) as usize]);
            assert_eq!(outcome.period, Some(period));
        }
    }

    #[test]
    fn what_is_left_out_is_missed() {
        let mix = |index: u64| (index.wrapping_mul(0x9e37_79b9_7f4a_7c15)) >> 20;
        let units = 1 << 44;
        let good = of(Kind::Uniform, part(0, units), 100_000, mix);
        assert_eq!(good.difference, Some(0.0));
        let half = of(Kind::Uniform, part(0, units), 100_000, |index| mix(index) % (units / 2));
        assert_eq!(half.difference, Some(0.5));
        assert!(half.deviation > Some(100.0));
        let skipping = of(Kind::Sequential, part(1000, 2000), 500, |index| 1000 + 2 * index);
        assert!(skipping.difference > Some(0.4), "{skipping:?}");
        let of_others = of(Kind::Sequential, part(1000, 2000), 500, |index| index);
        assert!(of_others.difference > Some(0.5), "{of_others:?}");
        assert_eq!(of(Kind::Skewed, part(0, 1000), 10_000, |_| 3).difference, None);
    }

    #[test]
    fn a_full_coverage_that_repeats_before_its_pass_is_over_is_found() {
        let full = Kind::Full { alone: true };
        for units in [2, 63, 1000, 100_003] {
            for ios in [units / 2 + 1, units, 2 * units, 3 * units + 1] {
                let mut cover = Cover::new(units, part(0, units), generator(3, 0, 0));
                let outcome = of_draws(full, units, ios, || cover.draw());
                assert_eq!((outcome.difference, outcome.period), (Some(0.0), None), "{ios} of {units}: {outcome:?}");
            }
        }
        // Random draws leave a third of a pass out, and take as much twice: a region is never just full.
        let mut random = generator(3, 0, 0);
        let drawn = of_draws(full, 1000, 2000, || random.next_u64() % 1000);
        assert!(drawn.difference > Some(0.01), "{drawn:?}");
    }
}
