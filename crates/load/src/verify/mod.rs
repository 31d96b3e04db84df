//! Whether blocks hold what was written (`--verify`): each block of a write is stamped ([`stamp`]), what each may hold is kept
//! ([`ledger`]), and what a read brings is compared, across lost and new queues. A context has its part of the range for itself.

mod ledger;
mod stamp;

use doorbell_platform::Region;
use doorbell_result::{IoKind, Mismatch, MismatchKind, Verification};

use ledger::{Candidate, End, FOREIGN, Ledger, UNKNOWN};
use stamp::{Content, Stamps};

use crate::lane::{Fate, Tag};

/// Mismatches that are kept.
const KEPT: usize = 16;

/// An I/O under way.
#[derive(Clone, Copy, Debug, Default)]
struct Io {
    /// When it began; 0 for none.
    began: u64,
    /// Of a write; a read has none.
    sequence: u64,
    lba: u64,
    blocks: u32,
}

/// A block that was read, and is not what it should be.
#[derive(Clone, Copy, Debug)]
struct Wrong {
    lba: u64,
    expected: Candidate,
    found: Content,
}

/// The verification of a context.
#[derive(Debug)]
pub(crate) struct Verifier {
    block_size: u32,
    stamps: Stamps,
    ledger: Ledger,
    /// Of the last write.
    sequence: u64,
    ios: Box<[Io]>,
    /// Of the I/O that is looked at: what is wrong, and the writes that were found as they should be.
    wrong: Vec<Wrong>,
    found: Vec<u64>,
    outcome: Verification,
}

impl Verifier {
    /// For `depth` I/Os on so many blocks from `first` on, in a run of this number.
    pub fn new(run: u64, block_size: u32, first: u64, blocks: u64, depth: u32) -> Self {
        Self {
            block_size,
            stamps: Stamps::new(run, block_size),
            ledger: Ledger::new(first, blocks),
            sequence: 0,
            ios: vec![Io::default(); depth as usize].into(),
            wrong: Vec::new(),
            found: Vec::new(),
            outcome: Verification { bytes: Self::bytes(blocks), ..Verification::default() },
        }
    }

    /// Bytes of memory that the verification of so many blocks takes.
    pub fn bytes(blocks: u64) -> u64 {
        Ledger::bytes(blocks)
    }

    /// Stamps the blocks of the next write, which are in the buffer of an I/O.
    pub fn stamp(&self, region: &Region, buffer: u64, lba: u64, blocks: u32) {
        for block in 0..u64::from(blocks) {
            self.stamps.put(region, buffer + block * u64::from(self.block_size), lba + block, self.sequence + 1);
        }
    }

    /// An I/O begins.
    pub fn begin(&mut self, index: u32, kind: IoKind, lba: u64, blocks: u32) {
        let began = self.ledger.step();
        let sequence = match kind {
            IoKind::Read => 0,
            IoKind::Write => self.sequence + 1,
            _ => return,
        };
        self.ios[index as usize] = Io { began, sequence, lba, blocks };
        match sequence {
            0 => (lba..lba + u64::from(blocks)).for_each(|lba| self.ledger.begin_read(lba)),
            _ => (lba..lba + u64::from(blocks)).for_each(|lba| self.ledger.begin_write(lba, sequence)),
        }
        self.sequence = self.sequence.max(sequence);
    }

    /// An I/O is over, and its data is in the buffer of its tag. Says what is wrong for the first time, if something is.
    pub fn end(&mut self, index: u32, tag: &Tag, region: &Region) -> Vec<String> {
        let Io { began, sequence, lba, blocks } = std::mem::take(&mut self.ios[index as usize]);
        if began == 0 {
            return Vec::new();
        }
        self.ledger.step();
        self.found.clear();
        let good = tag.fate != Fate::Abandoned && tag.status.is_success();
        for block in 0..u64::from(blocks) {
            if sequence > 0 {
                let end = match tag.fate {
                    Fate::Abandoned => End::GivenUp,
                    _ if good => End::Written,
                    _ => End::Failed,
                };
                self.ledger.end_write(lba + block, sequence, began, end);
            } else {
                let at = tag.buffer + block * u64::from(self.block_size);
                let content = good.then(|| self.stamps.look(region, at));
                self.end_read(lba + block, began, content);
            }
        }
        if self.wrong.is_empty() { Vec::new() } else { self.name_wrong() }
    }

    fn end_read(&mut self, lba: u64, began: u64, content: Option<Content>) {
        let is = |value: u64, content: Content| match content {
            Content::Ours { lba: stamped, sequence } => stamped == lba && value == sequence,
            Content::Foreign { sum, .. } => value == UNKNOWN || value == FOREIGN | u64::from(sum),
            _ => false,
        };
        let wrong = self.ledger.end_read(lba, began, content, is);
        let Some(content) = content else { return };
        self.outcome.checked += 1;
        match (wrong, content) {
            (Some(expected), found) => self.wrong.push(Wrong { lba, expected, found }),
            (None, Content::Ours { sequence, .. }) => {
                self.found.push(sequence);
                self.confirm(lba, sequence);
            }
            (None, _) => self.outcome.foreign += 1,
        }
    }

    /// A block holds what seemed to have been dropped: the read was stale.
    fn confirm(&mut self, lba: u64, sequence: u64) {
        let dropped = |one: &&mut Mismatch| {
            one.kind == MismatchKind::DroppedWrite && one.lba == lba && one.sequence == Some(sequence)
        };
        if let Some(one) = self.outcome.first.iter_mut().find(dropped) {
            one.kind = MismatchKind::StaleRead;
            *self.outcome.mismatches.entry(MismatchKind::StaleRead).or_default() += 1;
            *self.outcome.mismatches.entry(MismatchKind::DroppedWrite).or_default() -= 1;
        }
    }

    #[cold]
    fn name_wrong(&mut self) -> Vec<String> {
        let mut told = Vec::new();
        for Wrong { lba, expected, found } in std::mem::take(&mut self.wrong) {
            let kind = self.kind(lba, expected, found);
            *self.outcome.mismatches.entry(kind).or_default() += 1;
            if self.outcome.first.len() < KEPT {
                let ours = expected.value != UNKNOWN && expected.value & FOREIGN == 0;
                let one = Mismatch {
                    kind,
                    lba,
                    sequence: ours.then_some(expected.value),
                    expected: match expected.value {
                        UNKNOWN => "what nobody wrote in this run".into(),
                        value if value & FOREIGN != 0 => {
                            format!("what was there before, of checksum {:08x}", value as u32)
                        }
                        value => format!("write {value}"),
                    },
                    found: told_content(found),
                };
                told.push(one.to_string());
                self.outcome.first.push(one);
            }
        }
        told
    }

    fn kind(&mut self, lba: u64, expected: Candidate, found: Content) -> MismatchKind {
        let older = if expected.seen { MismatchKind::StaleRead } else { MismatchKind::DroppedWrite };
        match found {
            Content::Ours { lba: stamped, .. } if stamped != lba => MismatchKind::WrongLba,
            Content::Ours { .. } if self.found.contains(&expected.value) => MismatchKind::TornWrite,
            Content::Ours { .. } => older,
            Content::Flipped { .. } => MismatchKind::FlippedBit,
            Content::Torn { .. } => MismatchKind::TornWrite,
            Content::Broken { .. } => MismatchKind::Garbled,
            Content::Foreign { sum, .. } if expected.value & FOREIGN != 0 => {
                let flipped = self.stamps.flipped(sum ^ expected.value as u32).is_some();
                if flipped { MismatchKind::FlippedBit } else { MismatchKind::Garbled }
            }
            Content::Foreign { tail, .. } if tail == self.stamps.tail(expected.value) => MismatchKind::TornWrite,
            Content::Foreign { .. } if self.found.contains(&expected.value) => MismatchKind::TornWrite,
            Content::Foreign { .. } => older,
        }
    }

    /// What it comes to.
    pub fn finish(mut self) -> Verification {
        self.outcome.mismatches.retain(|_, count| *count > 0);
        self.outcome
    }
}

fn told_content(found: Content) -> String {
    match found {
        Content::Ours { lba, sequence } => format!("write {sequence} to LBA {lba}"),
        Content::Flipped { bit } => format!("the same but bit {} of byte {}", bit % 8, bit / 8),
        Content::Torn { sequence } => format!("the beginning of write {sequence} with another end"),
        Content::Broken { sequence } => format!("write {sequence} with other bytes within"),
        Content::Foreign { sum, .. } => format!("what this run did not write, of checksum {sum:08x}"),
    }
}
