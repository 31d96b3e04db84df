//! What each block may hold. One word a block while that is certain; where writes or reads are under way, or it is not known which of
//! several writes was the last, an entry beside it with all that is possible.
//!
//! Moments are numbers: each I/O that begins or ends makes the next one. A write that succeeded supersedes what was over before it began,
//! and nothing else, so order is never guessed. One that failed may have been carried out or not. One that was given up with its queue
//! may still come, so it supersedes nothing and is never superseded.

use super::stamp::Content;

/// Nobody knows: it was neither read nor written so far.
pub(super) const UNKNOWN: u64 = 0;
/// With the checksum of what was there before the run.
pub(super) const FOREIGN: u64 = 1 << 63;
/// It has been read since it was written.
const SEEN: u64 = 1 << 62;
/// The rest of a block's word is the place of its entry.
const OPEN: u64 = 1 << 61;
/// The moment that does not come.
const NEVER: u64 = u64::MAX;

/// How a write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Written,
    Failed,
    GivenUp,
}

/// Something that a block may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    /// [`UNKNOWN`], [`FOREIGN`] with a checksum, or the sequence number of a write.
    pub value: u64,
    pub seen: bool,
    /// When its write was over.
    done: u64,
    /// When another was certain to be in its place.
    gone: u64,
}

#[derive(Debug, Default)]
struct Open {
    readers: u32,
    writers: u32,
    /// When a write last began or ended.
    changed: u64,
    candidates: Vec<Candidate>,
}

/// The blocks of a context.
#[derive(Debug)]
pub(super) struct Ledger {
    first: u64,
    words: Vec<u64>,
    open: Vec<Open>,
    /// Places of entries that no block has.
    free: Vec<u64>,
    moment: u64,
}

impl Ledger {
    /// For so many blocks from `first` on.
    pub fn new(first: u64, blocks: u64) -> Self {
        Self { first, words: vec![UNKNOWN; blocks as usize], open: Vec::new(), free: Vec::new(), moment: 0 }
    }

    /// Bytes that it takes when nothing is under way.
    pub fn bytes(blocks: u64) -> u64 {
        blocks.saturating_mul(size_of::<u64>() as u64)
    }

    /// The next moment.
    pub fn step(&mut self) -> u64 {
        self.moment += 1;
        self.moment
    }

    pub fn begin_read(&mut self, lba: u64) {
        self.entry(lba).readers += 1;
    }

    pub fn begin_write(&mut self, lba: u64, sequence: u64) {
        let moment = self.moment;
        let open = self.entry(lba);
        open.writers += 1;
        open.changed = moment;
        open.candidates.push(Candidate { value: sequence, seen: false, done: NEVER, gone: NEVER });
    }

    /// A write that began at `began` is over.
    pub fn end_write(&mut self, lba: u64, sequence: u64, began: u64, end: End) {
        let moment = self.moment;
        let open = self.entry(lba);
        for candidate in &mut open.candidates {
            if candidate.value == sequence {
                candidate.done = if end == End::GivenUp { NEVER } else { moment };
            } else if end == End::Written && candidate.done < began && candidate.gone == NEVER {
                candidate.gone = moment;
            }
        }
        open.writers -= 1;
        open.changed = moment;
        self.close(lba);
    }

    /// A read that began at `began` is over, and found this; nothing when it failed. Returns what it should have found, where that is
    /// something else.
    pub fn end_read(
        &mut self,
        lba: u64,
        began: u64,
        found: Option<Content>,
        is: impl Fn(u64, Content) -> bool,
    ) -> Option<Candidate> {
        let moment = self.moment;
        let open = self.entry(lba);
        open.readers -= 1;
        let mut wrong = None;
        if let Some(content) = found {
            let possible = |candidate: &&mut Candidate| candidate.gone > began;
            // The last comes first: of what is possible it is what is most likely meant.
            match open.candidates.iter_mut().rev().filter(possible).find(|candidate| is(candidate.value, content)) {
                Some(candidate) => {
                    candidate.seen = true;
                    if let (UNKNOWN, Content::Foreign { sum, .. }) = (candidate.value, content) {
                        candidate.value = FOREIGN | u64::from(sum);
                    }
                    let value = candidate.value;
                    if open.writers == 0 && open.changed < began {
                        // No write came between: the block holds this, and what was not given up is not coming any more.
                        for candidate in &mut open.candidates {
                            match candidate.value == value {
                                true => candidate.done = candidate.done.min(moment),
                                false if candidate.done != NEVER => candidate.gone = candidate.gone.min(moment),
                                false => {}
                            }
                        }
                    }
                }
                None => wrong = open.candidates.iter().rev().find(|candidate| candidate.gone > began).copied(),
            }
        }
        self.close(lba);
        wrong
    }

    fn entry(&mut self, lba: u64) -> &mut Open {
        let word = &mut self.words[(lba - self.first) as usize];
        if *word & OPEN == 0 {
            let place = self.free.pop().unwrap_or_else(|| {
                self.open.push(Open::default());
                self.open.len() as u64 - 1
            });
            let certain = Candidate { value: *word & !SEEN, seen: *word & SEEN != 0, done: 0, gone: NEVER };
            self.open[place as usize].candidates.push(certain);
            *word = OPEN | place;
        }
        &mut self.open[(*word & !OPEN) as usize]
    }

    /// Makes one word of an entry again that nothing is under way for and that holds one possibility.
    fn close(&mut self, lba: u64) {
        let word = &mut self.words[(lba - self.first) as usize];
        let place = *word & !OPEN;
        let open = &mut self.open[place as usize];
        if open.readers > 0 || open.writers > 0 {
            return;
        }
        open.candidates.retain(|candidate| candidate.gone == NEVER);
        if let [Candidate { value, seen, done, .. }] = open.candidates[..]
            && done != NEVER
        {
            *word = value | if seen { SEEN } else { 0 };
            open.candidates.clear();
            open.changed = 0;
            self.free.push(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is(value: u64, content: Content) -> bool {
        match content {
            Content::Ours { sequence, .. } => value == sequence,
            Content::Foreign { sum, .. } => value == UNKNOWN || value == FOREIGN | u64::from(sum),
            _ => false,
        }
    }

    const LBA: u64 = 7;

    impl Ledger {
        fn is_certain(&self) -> bool {
            self.words.iter().all(|word| word & OPEN == 0)
        }

        fn write(&mut self, sequence: u64) -> u64 {
            let began = self.step();
            self.begin_write(LBA, sequence);
            began
        }

        fn over(&mut self, sequence: u64, began: u64, end: End) {
            self.step();
            self.end_write(LBA, sequence, began, end);
        }

        fn read(&mut self) -> u64 {
            let began = self.step();
            self.begin_read(LBA);
            began
        }

        /// Whether a read that found this is as it should be.
        fn finds(&mut self, began: u64, sequence: u64) -> bool {
            self.step();
            self.end_read(LBA, began, Some(Content::Ours { lba: LBA, sequence }), is).is_none()
        }

        fn finds_now(&mut self, sequence: u64) -> bool {
            let began = self.read();
            self.finds(began, sequence)
        }
    }

    fn written() -> Ledger {
        let mut ledger = Ledger::new(LBA, 1);
        let began = ledger.write(1);
        ledger.over(1, began, End::Written);
        ledger
    }

    #[test]
    fn a_read_beside_a_write_may_find_either_and_one_behind_it_only_the_new() {
        for new in [1, 2] {
            let mut ledger = written();
            let (write, read) = (ledger.write(2), ledger.read());
            assert!(ledger.finds(read, new));
            ledger.over(2, write, End::Written);
            assert!(!ledger.finds_now(1) && ledger.finds_now(2));
            assert!(ledger.is_certain());
        }
        // It began before the write, and is over after it.
        let mut ledger = written();
        let read = ledger.read();
        let write = ledger.write(2);
        ledger.over(2, write, End::Written);
        assert!(!ledger.finds_now(1), "this one began behind it");
        assert!(ledger.finds(read, 1));
        assert!(ledger.is_certain());
    }

    #[test]
    fn which_of_two_writes_was_last_is_known_when_it_is_read() {
        for last in [2, 3] {
            let mut ledger = written();
            let (one, other) = (ledger.write(2), ledger.write(3));
            ledger.over(3, other, End::Written);
            ledger.over(2, one, End::Written);
            assert!(!ledger.finds_now(1));
            assert!(ledger.finds_now(last) && ledger.finds_now(last));
            assert!(!ledger.finds_now(5 - last), "it was the other one");
            assert!(ledger.is_certain());
        }
    }

    #[test]
    fn a_failed_write_may_have_been_carried_out_and_one_given_up_may_still_be() {
        for end in [End::Failed, End::GivenUp] {
            for found in [1, 2] {
                let mut ledger = written();
                let began = ledger.write(2);
                ledger.over(2, began, end);
                assert!(ledger.finds_now(found));
                assert_eq!(ledger.finds_now(3 - found), found == 1 && end == End::GivenUp);
                let began = ledger.write(3);
                ledger.over(3, began, End::Written);
                assert!(!ledger.finds_now(1) && ledger.finds_now(3) && !ledger.finds_now(2), "all are over by now");
            }
        }
        // One that nobody has seen come may come behind the next.
        let mut ledger = written();
        let began = ledger.write(2);
        ledger.over(2, began, End::GivenUp);
        let began = ledger.write(3);
        ledger.over(3, began, End::Written);
        assert!(!ledger.finds_now(1) && ledger.finds_now(3) && ledger.finds_now(2) && !ledger.finds_now(3));
    }

    #[test]
    fn what_was_there_is_learnt_and_must_stay() {
        let mut ledger = Ledger::new(LBA, 1);
        let mut finds = |sum| {
            ledger.step();
            ledger.begin_read(LBA);
            let began = ledger.moment;
            ledger.step();
            ledger.end_read(LBA, began, Some(Content::Foreign { sum, tail: 0 }), is).is_none()
        };
        assert!(finds(5) && finds(5) && !finds(6) && finds(5));
    }
}
