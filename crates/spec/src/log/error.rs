//! Error Information (Base 5.1.12.1.2, LID 01h) and Firmware Slot Information (Base
//! 5.1.12.1.4, LID 03h).

use crate::status::Status;
use crate::text::{Ascii, ascii, space_padded};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// An Error Information log entry, 64 bytes; the log is newest first.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct ErrorEntry {
    /// Error count: a number that grows with each error; 0 for an entry not in use.
    pub ecnt: U64,
    /// Submission queue of the command.
    pub sqid: U16,
    /// Identifier of the command.
    pub cid: U16,
    /// Status field of the completion, phase tag in bit 0.
    pub sts: U16,
    /// Parameter error location: byte in bits 7:0, bit in bits 10:8; FFFFh where there is none.
    pub pel: U16,
    /// First LBA in error.
    pub lba: U64,
    /// Namespace of the command.
    pub nsid: U32,
    /// Vendor specific log page with more; 0 for none.
    pub vsia: u8,
    /// Transport type that the entry is about, a [`Trtype`](super::Trtype); 0 for none.
    pub trtype: u8,
    /// I/O command set, where `lpver` is 1.
    pub csi: u8,
    /// Opcode of the command, where `lpver` is 1.
    pub opc: u8,
    /// Command specific information.
    pub csinfo: U64,
    /// Transport type specific information.
    pub ttsi: U16,
    /// Reserved.
    pub reserved42: [u8; 21],
    /// Version of the entry.
    pub lpver: u8,
}

layout!(ErrorEntry, 64, ecnt @ 0, sqid @ 8, cid @ 10, sts @ 12, pel @ 14, lba @ 16, nsid @ 24,
    vsia @ 28, trtype @ 29, csi @ 30, opc @ 31, csinfo @ 32, ttsi @ 40, lpver @ 63);

impl ErrorEntry {
    /// The status of the command.
    pub fn status(&self) -> Status {
        Status::from_field(self.sts.get())
    }
}

/// Firmware Slot Information log page, 512 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct FirmwareSlots {
    /// Active firmware information: slot running in bits 2:0, slot of the next reset in 6:4
    /// (0 for none).
    pub afi: u8,
    /// Reserved.
    pub reserved1: [u8; 7],
    /// Firmware revisions of slots 1 to 7, space padded; zero for an empty slot.
    pub frs: [[u8; 8]; 7],
    /// Reserved.
    pub reserved64: [u8; 448],
}

layout!(FirmwareSlots, 512, afi @ 0, frs @ 8, reserved64 @ 64);

impl FirmwareSlots {
    /// A log page of one slot that runs and stays.
    pub fn single(revision: &str) -> Self {
        let mut frs = [[0; 8]; 7];
        frs[0] = space_padded(revision);
        Self { afi: 1, reserved1: [0; 7], frs, reserved64: [0; 448] }
    }

    /// The slot running, 1 to 7.
    pub fn active(&self) -> u8 {
        self.afi & 7
    }

    /// The revision in a slot, 1 to 7; none for an empty or other slot.
    pub fn revision(&self, slot: u8) -> Option<Ascii<'_>> {
        let field = self.frs.get(usize::from(slot).checked_sub(1)?)?;
        let revision = ascii(field);
        (!revision.as_bytes().is_empty()).then_some(revision)
    }
}
