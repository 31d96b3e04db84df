//! What `--verify` found.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

/// Blocks that were read and compared.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Verification {
    /// Blocks that were read.
    pub checked: u64,
    /// Of these, blocks that the run had not written: they must stay as they were seen first.
    pub foreign: u64,
    /// Blocks that were not what they should have been.
    pub mismatches: BTreeMap<MismatchKind, u64>,
    /// The first of these.
    pub first: Vec<Mismatch>,
    /// Bytes of memory for what each block may hold.
    pub bytes: u64,
}

impl Verification {
    /// Blocks that were not what they should have been.
    pub fn wrong(&self) -> u64 {
        self.mismatches.values().sum()
    }

    /// All together; none of none.
    pub fn sum<'a>(all: impl IntoIterator<Item = &'a Self>) -> Option<Self> {
        all.into_iter().cloned().reduce(|mut sum, one| {
            sum.add(&one);
            sum
        })
    }

    fn add(&mut self, other: &Self) {
        self.checked += other.checked;
        self.foreign += other.foreign;
        self.bytes += other.bytes;
        self.first.extend(other.first.iter().cloned());
        for (kind, count) in &other.mismatches {
            *self.mismatches.entry(*kind).or_default() += count;
        }
    }
}

/// A block that was not what it should have been.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mismatch {
    /// What happened to it, as far as that can be told.
    pub kind: MismatchKind,
    /// The namespace, file or device that it is in.
    pub path: String,
    /// Its logical block address.
    pub lba: u64,
    /// When it was read: seconds from the first I/O there from this core, as are the times in the texts.
    pub read_s: f64,
    /// The write whose data it should have held, if it was one of this run.
    pub sequence: Option<u64>,
    /// What it should have held.
    pub expected: String,
    /// What it held.
    pub found: String,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} at LBA {}, read at {:.1} s: expected {}, found {}",
            self.kind, self.lba, self.read_s, self.expected, self.found
        )
    }
}

/// What happened to a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MismatchKind {
    /// It holds what was there before a write that succeeded, and nobody has seen that write.
    DroppedWrite,
    /// It holds a part of a write.
    TornWrite,
    /// It holds what was written to another block.
    WrongLba,
    /// A read found what was there before a write that another read has seen.
    StaleRead,
    /// One bit is another.
    FlippedBit,
    /// It holds what nobody wrote there.
    Garbled,
}

impl fmt::Display for MismatchKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DroppedWrite => "dropped write",
            Self::TornWrite => "torn write",
            Self::WrongLba => "write to a wrong LBA",
            Self::StaleRead => "stale read",
            Self::FlippedBit => "flipped bit",
            Self::Garbled => "garbled block",
        })
    }
}
