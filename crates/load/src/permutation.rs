//! An order of all positions of a range that looks random and repeats none (`--coverage full`): a keyed permutation, so that no map of
//! what is done is kept, and a position costs the same whatever the size of the range.
//!
//! The range is laid out as a rectangle that is nearly a square, and a position is its row and column. A Feistel network over both
//! (Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002) adds to each in turn what a keyed function makes of the
//! other. The rectangle is at most a row larger than the range: what falls there goes
//! through the network again until it is inside.

use rand_xoshiro::{Xoshiro256PlusPlus, rand_core::Rng};

use crate::workload::Part;

/// Heights of the rectangle that are tried.
const CANDIDATES: u64 = 16;

/// The order of one pass.
#[derive(Clone, Debug)]
struct Order {
    units: u64,
    rows: u64,
    columns: u64,
    /// Of each addition: with three of them all that comes out depends on all that went in.
    keys: [u64; 3],
}

impl Order {
    /// Of `units` positions, 1 or more, with the keys that come next.
    fn new(units: u64, random: &mut Xoshiro256PlusPlus) -> Self {
        let root = units.isqrt();
        // The nearly square rectangle with the least that is not of the range.
        let most = root.saturating_sub(CANDIDATES).max(1)..=root;
        let rows = most.rev().min_by_key(|rows| units.div_ceil(*rows) * rows - units).unwrap_or(1);
        let mut order = Self { units, rows, columns: units.div_ceil(rows), keys: [0; 3] };
        order.rekey(random);
        order
    }

    fn rekey(&mut self, random: &mut Xoshiro256PlusPlus) {
        self.keys = std::array::from_fn(|_| random.next_u64());
    }

    /// The place in the rectangle of the index of a position.
    fn place(&self, index: u64) -> (u64, u64) {
        (index / self.columns, index % self.columns)
    }

    /// The position that stands at a place of the order.
    #[inline]
    fn position(&self, (mut row, mut column): (u64, u64)) -> u64 {
        loop {
            row = add(row, mix(column, self.keys[0]), self.rows);
            column = add(column, mix(row, self.keys[1]), self.columns);
            row = add(row, mix(column, self.keys[2]), self.rows);
            let position = row * self.columns + column;
            if position < self.units {
                return position;
            }
        }
    }
}

/// Adds 32 random bits, brought to `0..range`, modulo `range`, which is below 2^32.
#[inline]
fn add(value: u64, bits: u64, range: u64) -> u64 {
    let sum = value + ((bits * range) >> 32);
    if sum >= range { sum - range } else { sum }
}

/// 32 bits that look like chance, others for each key: both halves of a product, folded.
#[inline]
fn mix(value: u64, key: u64) -> u64 {
    let product = (value ^ key).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (product ^ (product >> 32)) & 0xffff_ffff
}

/// Positions of a range, each once a pass. Those who share a range each have a part of every pass, which together are all of it; each
/// begins its next pass, with another order, when it is through with its part.
#[derive(Clone, Debug)]
pub struct Cover {
    order: Order,
    random: Xoshiro256PlusPlus,
    /// Where the first position of a pass stands, and how many there are.
    first: (u64, u64),
    ios: u64,
    /// The same of what is left.
    next: (u64, u64),
    left: u64,
}

impl Cover {
    /// Of `units` positions the share that the part of their indices is. `random` makes the keys of each pass and must be the same
    /// for all that share the range.
    pub fn new(units: u64, part: Part, mut random: Xoshiro256PlusPlus) -> Self {
        let order = Order::new(units.max(1), &mut random);
        let (first, ios) = (order.place(part.start), part.end - part.start);
        Self { order, random, first, ios, next: first, left: ios }
    }

    /// The next position.
    #[inline]
    pub fn draw(&mut self) -> u64 {
        if self.left == 0 {
            self.begin();
        }
        self.left -= 1;
        let place = self.next;
        self.next = if place.1 + 1 == self.order.columns { (place.0 + 1, 0) } else { (place.0, place.1 + 1) };
        self.order.position(place)
    }

    #[cold]
    fn begin(&mut self) {
        self.order.rekey(&mut self.random);
        (self.next, self.left) = (self.first, self.ios);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::generator;

    fn shares(units: u64, count: u64) -> Vec<Cover> {
        (0..count).map(|index| Cover::new(units, Part::of(units, index, count), generator(5, 0, 0))).collect()
    }

    #[test]
    fn every_position_comes_exactly_once_a_pass_whoever_shares_it() {
        let sizes = (1..400).chain([511, 513, 1009, 4095, 4097, 65_537, 99_991, (1 << 18) - 1]);
        for units in sizes {
            for count in [1, 2, 3, 7].into_iter().filter(|&count| count <= units) {
                let mut shares = shares(units, count);
                for pass in 1..=2 {
                    let mut seen = vec![0; units as usize];
                    for (index, share) in shares.iter_mut().enumerate() {
                        let part = Part::of(units, index as u64, count);
                        (part.start..part.end).for_each(|_| seen[share.draw() as usize] += 1);
                    }
                    assert!(seen.iter().all(|&n| n == 1), "pass {pass} of {units} by {count}");
                }
            }
        }
    }

    #[test]
    fn large_ranges_stay_in_bounds_and_do_not_repeat() {
        for units in [(1 << 32) + 1, (1 << 40) - 87, (1 << 54) + 3, u64::MAX >> 9] {
            let mut cover = Cover::new(units, Part::of(units, 0, 1), generator(1, 0, 0));
            let mut drawn: Vec<u64> = (0..100_000).map(|_| cover.draw()).collect();
            drawn.sort_unstable();
            assert!(drawn.windows(2).all(|pair| pair[0] < pair[1]), "{units}");
            assert!(drawn[0] < units / 1000 && drawn[99_999] > units / 1000 * 999 && drawn[99_999] < units, "{units}");
        }
    }

    /// By how many standard deviations counts of draws are uneven.
    fn unevenness(counts: &[u32]) -> f64 {
        let mean = f64::from(counts.iter().sum::<u32>()) / counts.len() as f64;
        let sum: f64 = counts.iter().map(|&count| (f64::from(count) - mean).powi(2) / mean).sum();
        let freedom = (counts.len() - 1) as f64;
        (sum - freedom) / (2.0 * freedom).sqrt()
    }

    #[test]
    fn the_order_looks_random() {
        const CELLS: u64 = 64;
        for units in [1 << 20, 1_000_003, (1 << 30) + 7] {
            for seed in 0..8 {
                let mut cover = Cover::new(units, Part::of(units, 0, 1), generator(seed, 0, 0));
                let drawn: Vec<u64> = (0..50_000).map(|_| cover.draw()).collect();
                let cell = |position: u64| (position * CELLS / units) as usize;
                let mut counts = [vec![0; CELLS as usize], vec![0; CELLS as usize], vec![0; (CELLS * CELLS) as usize]];
                for (index, &position) in drawn.iter().enumerate().skip(2) {
                    counts[0][cell(position)] += 1;
                    // How far it is from the one before, and the pair of it and the one before that.
                    counts[1][cell((position + units - drawn[index - 1]) % units)] += 1;
                    counts[2][cell(position) * CELLS as usize + cell(drawn[index - 2])] += 1;
                }
                for (what, counts) in counts.iter().enumerate() {
                    assert!(unevenness(counts) < 6.0, "{units}, seed {seed}, {what}: {}", unevenness(counts));
                }
            }
        }
    }

    #[test]
    fn passes_and_seeds_have_orders_of_their_own() {
        let mut cover = Cover::new(1000, Part::of(1000, 0, 1), generator(1, 0, 0));
        let mut other = Cover::new(1000, Part::of(1000, 0, 1), generator(2, 0, 0));
        let pass = |cover: &mut Cover| -> Vec<u64> { (0..1000).map(|_| cover.draw()).collect() };
        let passes = [pass(&mut cover), pass(&mut cover), pass(&mut other), (0..1000).collect()];
        for (at, one) in passes.iter().enumerate() {
            for later in &passes[at + 1..] {
                let same = one.iter().zip(later).filter(|(one, other)| one == other).count();
                assert!(same < 10, "{same} of 1000 at the same place");
            }
        }
    }
}
