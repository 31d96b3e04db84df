//! A model checker goes through every way in which the two ends of a pair of rings can meet, with the code that runs
//! (`doorbell_queue::rings`) on words of its own; fences are sequentially consistent.

use std::sync::atomic::Ordering;

use doorbell_queue::rings::{Word, answer, arrived, rest, ring};
use loom::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, fence},
    },
    thread,
};

/// A word that the model watches; `FENCED` is whether its full fence is one.
struct Watched<A, const FENCED: bool>(A);

macro_rules! word {
    ($atomic:ident, $value:ty) => {
        impl<const FENCED: bool> Word<$value> for Watched<$atomic, FENCED> {
            fn load(&self, order: Ordering) -> $value {
                self.0.load(order)
            }
            fn store(&self, value: $value, order: Ordering) {
                self.0.store(value, order);
            }
            fn full_fence() {
                if FENCED {
                    fence(Ordering::SeqCst);
                }
            }
        }
    };
}

word!(AtomicU32, u32);
word!(AtomicU64, u64);

/// One doorbell with its shadow.
#[derive(Default)]
struct Bell<const FENCED: bool> {
    register: Watched<AtomicU32, FENCED>,
    shadow: Watched<AtomicU32, FENCED>,
    event: Watched<AtomicU32, FENCED>,
}

impl<A: Default, const FENCED: bool> Default for Watched<A, FENCED> {
    fn default() -> Self {
        Self(A::default())
    }
}

/// The host shows a number of commands one by one, while the device looks until it finds nothing new and rests: either it saw all, or
/// the register wakes it to look again.
fn nothing_is_overslept<const FENCED: bool>() {
    const COMMANDS: u32 = 2;
    loom::model(|| {
        let bell = Arc::new(Bell::<FENCED>::default());
        let device = {
            let bell = bell.clone();
            thread::spawn(move || {
                let mut seen = 0;
                loop {
                    let more = rest(&bell.shadow, &bell.event, seen);
                    // Asleep, unless it is woken at once.
                    if more == seen && Word::<u32>::load(&bell.register, Ordering::Acquire) <= seen {
                        return seen;
                    }
                    seen = more;
                }
            })
        };
        for tail in 1..=COMMANDS {
            ring(&bell.register, Some([&bell.shadow, &bell.event]), tail - 1, tail);
        }
        let seen = device.join().unwrap();
        let told = Word::<u32>::load(&bell.register, Ordering::Acquire);
        assert!(seen == COMMANDS || told > seen, "the device sleeps at {seen}, the register says {told}");
    });
}

#[test]
fn a_device_that_rests_is_told_of_what_it_missed() {
    nothing_is_overslept::<true>();
}

#[test]
#[should_panic(expected = "the device sleeps")]
fn without_the_full_fences_it_would_sleep_on() {
    nothing_is_overslept::<false>();
}

/// Rings of one entry, which each command uses again.
#[derive(Default)]
struct Rings {
    /// Plain memory: what nothing else orders is seen late, or not at all.
    entry: AtomicU64,
    data: AtomicU64,
    tail: Watched<AtomicU32, true>,
    completion: [Watched<AtomicU64, true>; 2],
}

const PHASE: u64 = 1 << 48;

#[test]
fn entries_and_data_are_whole_when_they_are_seen() {
    const COMMANDS: u32 = 2;
    loom::model(|| {
        let rings = Arc::new(Rings::default());
        let device = {
            let rings = rings.clone();
            thread::spawn(move || {
                for number in 0..COMMANDS {
                    while Word::<u32>::load(&rings.tail, Ordering::Acquire) == number {
                        thread::yield_now();
                    }
                    let command = rings.entry.load(Ordering::Relaxed);
                    rings.data.store(command * 10, Ordering::Relaxed);
                    let phase = if number == 0 { PHASE } else { 0 };
                    let [low, high] = &rings.completion;
                    answer([low, high], [command, command | phase]);
                }
            })
        };
        for number in 0..COMMANDS {
            let command = u64::from(number) + 7;
            rings.entry.store(command, Ordering::Relaxed);
            ring(&rings.tail, None, number, number + 1);
            let [low, high] = &rings.completion;
            let [result, upper] = loop {
                match arrived([low, high], number == 0) {
                    Some(entry) => break entry,
                    None => thread::yield_now(),
                }
            };
            assert_eq!((result, upper & !PHASE), (command, command));
            assert_eq!(rings.data.load(Ordering::Relaxed), command * 10);
        }
        device.join().unwrap();
    });
}
