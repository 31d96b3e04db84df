//! What the next I/O of a context is: its position, and whether it reads. Drawn from a generator of the context's own, so
//! that a seed repeats a context's sequence whatever the timing of the run.

use rand_xoshiro::{
    SplitMix64, Xoshiro256PlusPlus,
    rand_core::{Rng, SeedableRng},
};

use crate::{permutation::Cover, zipf::Zipf};

/// The access pattern, `-w` with `-M`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// Positions are drawn at random instead of ascending.
    pub random: bool,
    /// Share of reads in percent, 0 to 100.
    pub read_percent: u8,
}

/// The next I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    /// Position in I/O units of its size from the start of the range; in blocks, where sizes are mixed in a sequence.
    pub offset: u64,
    /// Whether it reads, or does what the load does instead.
    pub read: bool,
    /// Its size among those of the mix; one behind the last for a flush.
    pub size: u8,
}

/// The part of a namespace that a sequential context walks, in I/O units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// First unit.
    pub start: u64,
    /// First unit behind it.
    pub end: u64,
}

impl Part {
    /// Part `index` of `count` equal ones of `units` units. When there are fewer units than parts, parts share units.
    pub fn of(units: u64, index: u64, count: u64) -> Self {
        let edge = |i: u64| (u128::from(units) * u128::from(i) / u128::from(count.max(1))) as u64;
        let start = edge(index).min(units.saturating_sub(1));
        Self { start, end: edge(index + 1).max(start + 1) }
    }
}

/// A context's sequence of I/Os.
#[derive(Clone, Debug)]
pub struct Workload {
    random: Xoshiro256PlusPlus,
    position: Position,
    read_percent: u64,
    /// What only some loads have.
    mix: Option<Box<Mix>>,
}

/// Several sizes, and flushes between writes.
#[derive(Clone, Debug)]
struct Mix {
    /// Of each size: random bits below this choose it, or one before it; its blocks, and positions there are for it.
    sizes: Vec<(u64, u64, u64)>,
    /// Where the next I/O of a sequence begins, and the part it stays in, in blocks.
    sequence: Option<(u64, Part)>,
    /// Writes after which one flushes, 0 for never, and writes since.
    flush_every: u32,
    writes: u32,
}

#[derive(Clone, Debug)]
enum Position {
    Sequential { next: u64, part: Part },
    Uniform { units: u64 },
    Full(Cover),
    Zipf(Zipf),
}

impl Workload {
    /// A sequence over a namespace of `units` I/O units, at least 1. `zipf` is used by random patterns only, `part` by
    /// sequential ones.
    pub fn new(pattern: Pattern, units: u64, part: Part, zipf: Option<Zipf>, random: Xoshiro256PlusPlus) -> Self {
        let position = match (pattern.random, zipf) {
            (false, _) => Position::Sequential { next: part.start, part },
            (true, None) => Position::Uniform { units },
            (true, Some(zipf)) => Position::Zipf(zipf),
        };
        Self { random, position, read_percent: pattern.read_percent.into(), mix: None }
    }

    /// The same over all positions, each once a pass.
    pub fn covering(self, cover: Cover) -> Self {
        Self { position: Position::Full(cover), ..self }
    }

    /// The same in several sizes, blocks and weight of each, on `part` of the blocks, those of this context in a sequence; one size
    /// leaves positions as they are.
    pub fn mixing(self, sizes: &[(u64, u32)], part: Part) -> Self {
        if sizes.len() < 2 {
            return self;
        }
        let all: u64 = sizes.iter().map(|(_, weight)| u64::from(*weight)).sum();
        let mut sum = 0;
        let size = |&(blocks, weight): &(u64, u32)| {
            sum += u64::from(weight);
            let below = if sum == all { u64::MAX } else { ((u128::from(sum) << 64) / u128::from(all)) as u64 };
            (below, blocks, (part.end - part.start) / blocks)
        };
        let sequence = matches!(self.position, Position::Sequential { .. }).then_some((part.start, part));
        let mix = Mix { sizes: sizes.iter().map(size).collect(), sequence, flush_every: 0, writes: 0 };
        Self { mix: Some(Box::new(mix)), ..self }
    }

    /// The same with a flush after so many writes.
    pub fn flushing(mut self, every: Option<u32>) -> Self {
        if let Some(every) = every {
            let none = Mix { sizes: Vec::new(), sequence: None, flush_every: 0, writes: 0 };
            self.mix.get_or_insert_with(|| Box::new(none)).flush_every = every;
        }
        self
    }

    /// The next I/O.
    #[inline(always)]
    pub fn draw(&mut self) -> Draw {
        if self.mix.is_some() { self.draw_mixed() } else { self.draw_plain() }
    }

    #[inline(never)]
    fn draw_mixed(&mut self) -> Draw {
        let Some(mut mix) = self.mix.take() else { return self.draw_plain() };
        let draw = if mix.flush_every > 0 && mix.writes == mix.flush_every {
            mix.writes = 0;
            Draw { offset: 0, read: true, size: mix.sizes.len().max(1) as u8 }
        } else {
            let draw = self.draw_sized(&mut mix);
            mix.writes += u32::from(!draw.read);
            draw
        };
        self.mix = Some(mix);
        draw
    }

    fn draw_sized(&mut self, mix: &mut Mix) -> Draw {
        if mix.sizes.is_empty() {
            return self.draw_plain();
        }
        let bits = self.random.next_u64();
        let size = mix.sizes.iter().position(|(below, _, _)| bits < *below).unwrap_or(mix.sizes.len() - 1);
        let (_, blocks, units) = mix.sizes[size];
        let offset = match &mut mix.sequence {
            Some((next, part)) => {
                let offset = if *next + blocks > part.end { part.start } else { *next };
                *next = offset + blocks;
                offset
            }
            None => scale(self.random.next_u64(), units),
        };
        Draw { offset, read: self.draw_direction(), size: size as u8 }
    }

    #[inline(always)]
    fn draw_plain(&mut self) -> Draw {
        let offset = match &mut self.position {
            Position::Sequential { next, part } => {
                let offset = *next;
                *next = if offset + 1 == part.end { part.start } else { offset + 1 };
                offset
            }
            Position::Uniform { units } => scale(self.random.next_u64(), *units),
            Position::Full(cover) => cover.draw(),
            Position::Zipf(zipf) => zipf.draw(self.random.next_u64()),
        };
        Draw { offset, read: self.draw_direction(), size: 0 }
    }

    #[inline(always)]
    fn draw_direction(&mut self) -> bool {
        match self.read_percent {
            0 => false,
            100.. => true,
            percent => scale(self.random.next_u64(), 100) < percent,
        }
    }
}

/// The generator of a context: xoshiro256++ whose seed is made by three rounds of SplitMix64 over the run's seed, the worker's
/// core and the index of the context among the worker's own, each added to the previous round's output (wrapping).
pub fn generator(seed: u64, core: usize, context: usize) -> Xoshiro256PlusPlus {
    let round = |state: u64, word: u64| SplitMix64::seed_from_u64(state.wrapping_add(word)).next_u64();
    Xoshiro256PlusPlus::seed_from_u64(round(round(round(0, seed), core as u64), context as u64))
}

/// The byte a task's buffer is filled with: (index mod 8) + 1.
pub fn fill_byte(task: u32) -> u8 {
    (task % 8) as u8 + 1
}

/// Brings 64 random bits to `0..range` by the upper half of a product: no division, and a bias below `range` / 2^64.
#[inline]
fn scale(bits: u64, range: u64) -> u64 {
    ((u128::from(bits) * u128::from(range)) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(pattern: Pattern, units: u64, part: Part, seed: u64, count: usize) -> Vec<Draw> {
        let mut workload = Workload::new(pattern, units, part, None, generator(seed, 3, 1));
        (0..count).map(|_| workload.draw()).collect()
    }

    #[test]
    fn uniform_offsets_cover_the_range_and_never_leave_it() {
        let random = Pattern { random: true, read_percent: 100 };
        for units in [1, 2, 3, 1000] {
            let mut seen = vec![0u32; units as usize];
            for draw in draws(random, units, Part::of(units, 0, 1), 7, 40_000) {
                seen[draw.offset as usize] += 1;
            }
            let mean = 40_000 / units as u32;
            assert!(seen.iter().all(|&n| n > mean / 3 && n < mean * 3), "{units}: {seen:?}");
        }
        // Above 2^31 and 2^32 units too: the whole range is drawn from, its ends included.
        let units = 1 << 45;
        let offsets: Vec<_> = draws(random, units, Part::of(units, 0, 1), 7, 40_000).iter().map(|d| d.offset).collect();
        assert!(offsets.iter().all(|&offset| offset < units));
        assert!(*offsets.iter().min().unwrap() < units / 1000 && *offsets.iter().max().unwrap() > units / 1000 * 999);
    }

    #[test]
    fn the_mix_is_the_one_asked_for() {
        for percent in [0, 1, 30, 70, 99, 100] {
            let pattern = Pattern { random: true, read_percent: percent };
            let reads = draws(pattern, 100, Part::of(100, 0, 1), 1, 100_000).iter().filter(|draw| draw.read).count();
            let expected = usize::from(percent) * 1000;
            assert!(reads.abs_diff(expected) < 1000, "{percent} %: {reads}");
            assert!(percent % 100 != 0 || reads == expected);
        }
    }

    #[test]
    fn sequential_parts_touch_every_unit_once() {
        for (units, count) in [(10, 3), (1000, 7), (4, 4), (5, 1)] {
            let mut seen = vec![0; units as usize];
            for index in 0..count {
                let part = Part::of(units, index, count);
                let pattern = Pattern { random: false, read_percent: 100 };
                let len = (part.end - part.start) as usize;
                let twice = draws(pattern, units, part, 0, 2 * len);
                assert_eq!(twice[..len], twice[len..], "it starts again at its own beginning");
                twice[..len].iter().for_each(|draw| seen[draw.offset as usize] += 1);
            }
            assert!(seen.iter().all(|&n| n == 1), "{units} in {count}: {seen:?}");
        }
        for index in 0..5 {
            let part = Part::of(3, index, 5);
            assert!(part.start < part.end && part.end <= 3, "more workers than units: {part:?}");
        }
    }

    #[test]
    fn sizes_come_as_often_as_they_weigh_and_stay_in_the_range() {
        let (sizes, part) = ([(1, 70), (16, 20), (256, 10)], Part { start: 100, end: 1300 });
        for random in [true, false] {
            let pattern = Pattern { random, read_percent: 50 };
            let mut workload = Workload::new(pattern, 1, part, None, generator(1, 0, 0)).mixing(&sizes, part);
            let (mut counts, mut next) = ([0; 3], part.start);
            for _ in 0..100_000 {
                let draw = workload.draw();
                let blocks = sizes[usize::from(draw.size)].0;
                counts[usize::from(draw.size)] += 1;
                if random {
                    // From the start of the range, in units of its size.
                    assert!((draw.offset + 1) * blocks <= part.end - part.start, "{draw:?}");
                } else {
                    let begins_again = next + blocks > part.end;
                    assert_eq!(draw.offset, if begins_again { part.start } else { next });
                    next = draw.offset + blocks;
                }
            }
            for (count, (_, weight)) in counts.iter().zip(sizes) {
                assert!((f64::from(*count) / 1000.0 - f64::from(weight)).abs() < 1.0, "{counts:?}");
            }
        }
    }

    #[test]
    fn a_flush_follows_so_many_writes() {
        let pattern = Pattern { random: true, read_percent: 50 };
        let part = Part::of(100, 0, 1);
        for sizes in [&[][..], &[(1, 1), (2, 1)]] {
            let workload = Workload::new(pattern, 100, part, None, generator(1, 0, 0)).mixing(sizes, part);
            let mut workload = workload.flushing(Some(3));
            let (mut writes, mut flushes) = (0, 0);
            for _ in 0..10_000 {
                let draw = workload.draw();
                if usize::from(draw.size) == sizes.len().max(1) {
                    assert_eq!(writes, 3);
                    (writes, flushes) = (0, flushes + 1);
                } else {
                    writes += u32::from(!draw.read);
                    assert!(writes <= 3);
                }
            }
            assert!(flushes > 1300 && flushes < 1550, "{flushes}");
        }
    }

    #[test]
    fn a_seed_repeats_and_contexts_differ() {
        let first = |seed, core, context| generator(seed, core, context).next_u64();
        assert_eq!(first(1, 2, 3), first(1, 2, 3));
        let mut all = std::collections::HashSet::new();
        for (seed, core, context) in (0..4).flat_map(|s| (0..4).flat_map(move |c| (0..4).map(move |x| (s, c, x)))) {
            assert!(all.insert(first(seed, core, context)), "{seed} {core} {context}");
        }
    }

    #[test]
    fn buffers_hold_the_bytes_of_the_original() {
        assert_eq!((0..10).map(fill_byte).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7, 8, 1, 2]);
    }
}
