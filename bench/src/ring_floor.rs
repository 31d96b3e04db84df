//! The floor beneath rings in shared memory: two pinned threads exchange 64-byte entries, 16-byte completions and one doorbell word a
//! batch each way, and do nothing else. No command is looked at, no data moved, nothing recorded.

use std::{
    io,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use doorbell_platform::cpu;

/// Entries of each ring.
const ENTRIES: usize = 256;
/// Passes of the asking end between two looks at the clock.
const LOOK: u32 = 4096;

#[derive(Default)]
#[repr(align(64))]
struct Entry([AtomicU64; 8]);

#[derive(Default)]
#[repr(align(16))]
struct Completion([AtomicU64; 2]);

/// A word that shares its cache line with nothing.
#[derive(Default)]
#[repr(align(128))]
struct Doorbell(AtomicU32);

struct Rings {
    submissions: [Entry; ENTRIES],
    completions: [Completion; ENTRIES],
    tail: Doorbell,
    head: Doorbell,
    stop: AtomicBool,
}

/// Measures the exchange at `depth` (at most 255) for `time`, asking on the first core and answering on the second; returns I/Os a second.
///
/// # Errors
/// When a thread cannot be pinned.
pub fn measure(depth: u32, time: Duration, cores: [usize; 2]) -> io::Result<f64> {
    let rings = Box::new(Rings {
        submissions: std::array::from_fn(|_| Entry::default()),
        completions: std::array::from_fn(|_| Completion::default()),
        tail: Doorbell::default(),
        head: Doorbell::default(),
        stop: AtomicBool::new(false),
    });
    thread::scope(|scope| {
        let answering = scope.spawn(|| cpu::pin(cores[1]).map(|()| answer(&rings)));
        let asking = scope.spawn(|| cpu::pin(cores[0]).map(|()| ask(&rings, depth.clamp(1, ENTRIES as u32 - 1), time)));
        let asked = asking.join().expect("the asking end does not panic");
        rings.stop.store(true, Ordering::Relaxed);
        answering.join().expect("the answering end does not panic")?;
        asked
    })
}

fn answer(rings: &Rings) {
    let (mut head, mut at, mut phase) = (0usize, 0usize, 1u64);
    while !rings.stop.load(Ordering::Relaxed) {
        let tail = rings.tail.0.load(Ordering::Acquire) as usize;
        while head != tail {
            let identifier = rings.submissions[head % ENTRIES].0[0].load(Ordering::Relaxed);
            head = (head + 1) % ENTRIES;
            let entry = &rings.completions[at % ENTRIES].0;
            entry[0].store(head as u64, Ordering::Relaxed);
            entry[1].store(identifier << 1 | phase, Ordering::Release);
            at = (at + 1) % ENTRIES;
            phase ^= u64::from(at == 0);
        }
    }
}

fn ask(rings: &Rings, depth: u32, time: Duration) -> f64 {
    let (mut tail, mut head, mut phase, mut done, mut passes) = (0usize, 0usize, 1u64, 0u64, 0u32);
    let submit = |tail: usize, identifier: u64, block: u64| {
        let entry = &rings.submissions[tail % ENTRIES].0;
        for (word, value) in entry.iter().zip([identifier, 1, 0, 0, 0, block, 7, 0]) {
            word.store(value, Ordering::Relaxed);
        }
        (tail + 1) % ENTRIES
    };
    for identifier in 0..depth {
        tail = submit(tail, identifier.into(), 0);
    }
    rings.tail.0.store(tail as u32, Ordering::Release);
    let start = Instant::now();
    loop {
        let before = done;
        loop {
            let entry = rings.completions[head % ENTRIES].0[1].load(Ordering::Acquire);
            if entry & 1 != phase {
                break;
            }
            head = (head + 1) % ENTRIES;
            phase ^= u64::from(head == 0);
            tail = submit(tail, entry >> 1, before);
            done += 1;
        }
        if done > before {
            rings.tail.0.store(tail as u32, Ordering::Release);
            rings.head.0.store(head as u32, Ordering::Release);
        }
        passes = passes.wrapping_add(1);
        if passes.is_multiple_of(LOOK) && start.elapsed() >= time {
            return done as f64 / start.elapsed().as_secs_f64();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_depth_goes_round() {
        let cores = cpu::allowed().unwrap();
        for depth in [1, 8, 255] {
            // On a busy machine the answering end may not have its turn within so short a time.
            let measured = || measure(depth, Duration::from_millis(20), [cores[0], *cores.last().unwrap()]).unwrap();
            assert!((0..100).any(|_| measured() > 0.0), "depth {depth}");
        }
    }
}
