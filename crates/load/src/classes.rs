//! The classes of a context's I/Os: an operation and a size each. A size has two of them, for what reads and what writes; flushes that
//! are mixed in come last.

use doorbell_host::split::Split;
use doorbell_result::{ContextResult, IoKind};
use doorbell_spec::command::{NvmOpcode, dsm};

use crate::{recorder::Errors, slices::Tally};

/// Bytes of the list of one range that a Dataset Management command brings.
pub(crate) const RANGE: u32 = 16;

/// What results tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Label {
    pub kind: IoKind,
    /// Bytes that an I/O moves, or is about.
    pub bytes: u32,
}

/// I/Os of one operation and size on one namespace.
#[derive(Clone, Debug)]
pub(crate) struct Class {
    pub label: Label,
    /// Opcode of its commands.
    pub opcode: u8,
    /// Upper half of command dword 12.
    pub control: u16,
    /// Blocks of an I/O; what has none counts as one.
    pub blocks: u32,
    /// Blocks from one position that is drawn to the next.
    pub stride: u64,
    /// Its commands carry LBA, length and, if the opcode says so, data of that length; others are made for their operation.
    pub plain: bool,
    /// Where its I/Os fell is audited.
    pub watched: bool,
    pub split: Split,
}

impl Class {
    /// I/Os of so many blocks of `block_size` bytes.
    pub fn new(kind: IoKind, blocks: u32, block_size: u32, split: Split, control: u16) -> Self {
        let (opcode, plain) = match kind {
            IoKind::Read => (NvmOpcode::READ, true),
            IoKind::Write => (NvmOpcode::WRITE, true),
            IoKind::Trim => (NvmOpcode::DATASET_MANAGEMENT, false),
            IoKind::WriteZeroes => (NvmOpcode::WRITE_ZEROES, true),
            IoKind::Verify => (NvmOpcode::VERIFY, true),
            IoKind::Compare => (NvmOpcode::COMPARE, true),
            IoKind::Flush => (NvmOpcode::FLUSH, false),
            IoKind::Append => (NvmOpcode::ZONE_APPEND, true),
        };
        let bytes = if kind == IoKind::Flush { 0 } else { blocks * block_size };
        let control = if plain { control } else { 0 };
        let (label, opcode) = (Label { kind, bytes }, opcode.0);
        Self { label, opcode, control, blocks, stride: blocks.into(), plain, watched: true, split }
    }

    /// Bytes of data that all commands of an I/O carry.
    pub fn data_bytes(&self, block_size: u32) -> u32 {
        match self.label.kind {
            IoKind::Read | IoKind::Write | IoKind::Compare | IoKind::Append => self.blocks * block_size,
            IoKind::Trim => self.split.most_pieces() as u32 * RANGE,
            IoKind::WriteZeroes | IoKind::Verify | IoKind::Flush => 0,
        }
    }

    /// What stands in the place of the LBA of a command that is not plain.
    pub fn words(&self) -> u64 {
        if self.label.kind == IoKind::Trim { u64::from(dsm::AD) << 32 } else { 0 }
    }
}

/// Adds what was counted by class to a context's result.
pub(crate) fn add_up(result: &mut ContextResult, labels: &[Label], tallies: &[Tally], errors: &Errors) {
    let several = labels.iter().any(|label| label.bytes != labels[0].bytes && label.kind != IoKind::Flush);
    for (class, (label, tally)) in labels.iter().zip(tallies).enumerate() {
        let one = doorbell_result::Operation {
            completed: tally.completed,
            bytes: tally.completed * u64::from(label.bytes),
            latency: tally.latency.clone(),
            errors: errors.of(class),
        };
        if one.completed > 0 || !one.errors.is_empty() {
            result.operation_mut(label.kind).merge(&one);
            if several && label.kind != IoKind::Flush {
                result.sizes.entry(label.bytes).or_default().merge(&one);
            }
        }
    }
}
