//! Logs that list what a controller has: Supported Log Pages (Base 5.1.12.1.1, LID 00h),
//! Changed Attached Namespace List (Base 5.1.12.1.5, LID 04h), Commands Supported and Effects
//! (Base 5.1.12.1.6, LID 05h).

use super::Lid;
use crate::command::{AdminOpcode, NSID_ALL, NvmOpcode};
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Supported Log Pages log page, 1024 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct SupportedLogPages {
    /// By log page identifier: bit 0 (LSUPP) supported, bit 1 (IOS) index offsets.
    pub lids: [U32; 256],
}

layout!(SupportedLogPages, 1024);

impl SupportedLogPages {
    /// A log page that lists these identifiers.
    pub fn new(supported: &[Lid]) -> Self {
        let mut page = Self::new_zeroed();
        for lid in supported {
            page.lids[usize::from(lid.0)] = U32::new(1);
        }
        page
    }

    /// Whether a log page is supported.
    pub fn supports(&self, lid: Lid) -> bool {
        self.lids[usize::from(lid.0)].get() & 1 != 0
    }
}

/// Changed Attached Namespace List log page, 4096 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct ChangedNamespaces {
    /// Identifiers, ascending, 0 after the last; FFFFFFFFh first when there are more than fit.
    pub ids: [U32; 1024],
}

layout!(ChangedNamespaces, 4096);

impl ChangedNamespaces {
    /// A log page of changed namespaces; of more than 1024, one that says so.
    pub fn collect(ids: impl IntoIterator<Item = u32>) -> Self {
        let mut page = Self::new_zeroed();
        let mut ids = ids.into_iter();
        for (slot, id) in page.ids.iter_mut().zip(&mut ids) {
            *slot = U32::new(id);
        }
        if ids.next().is_some() {
            page = Self::new_zeroed();
            page.ids[0] = U32::new(NSID_ALL);
        }
        page
    }

    /// Whether more namespaces changed than the log page holds: any may have.
    pub fn overflowed(&self) -> bool {
        self.ids[0].get() == NSID_ALL
    }

    /// The namespaces that changed; none when the log page overflowed.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.ids.iter().map(|id| id.get()).take_while(|&id| id != 0 && id != NSID_ALL)
    }
}

/// Commands Supported and Effects log page, 4096 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct CommandEffects {
    /// Bits of [`effect`] by Admin opcode.
    pub acs: [U32; 256],
    /// Bits of [`effect`] by I/O opcode.
    pub iocs: [U32; 256],
    /// Reserved.
    pub reserved2048: [u8; 2048],
}

layout!(CommandEffects, 4096, acs @ 0, iocs @ 1024, reserved2048 @ 2048);

impl CommandEffects {
    /// The effects of an Admin command.
    pub fn admin(&self, opcode: AdminOpcode) -> u32 {
        self.acs[usize::from(opcode.0)].get()
    }

    /// The effects of an I/O command.
    pub fn io(&self, opcode: NvmOpcode) -> u32 {
        self.iocs[usize::from(opcode.0)].get()
    }

    /// Sets the effects of an Admin command.
    pub fn set_admin(&mut self, opcode: AdminOpcode, effects: u32) {
        self.acs[usize::from(opcode.0)] = U32::new(effects);
    }

    /// Sets the effects of an I/O command.
    pub fn set_io(&mut self, opcode: NvmOpcode, effects: u32) {
        self.iocs[usize::from(opcode.0)] = U32::new(effects);
    }
}

/// Bits of a command's effects.
pub mod effect {
    /// The command is supported.
    pub const CSUPP: u32 = 1;
    /// Logical block content may change.
    pub const LBCC: u32 = 1 << 1;
    /// Namespace capabilities may change.
    pub const NCC: u32 = 1 << 2;
    /// The inventory of namespaces may change.
    pub const NIC: u32 = 1 << 3;
    /// Controller capabilities may change.
    pub const CCC: u32 = 1 << 4;
    /// Bits 18:16 = 001b: no other command to the same namespace may be outstanding.
    pub const CSE_NAMESPACE: u32 = 1 << 16;
    /// Bits 18:16 = 010b: no other command to any namespace may be outstanding.
    pub const CSE_ALL: u32 = 2 << 16;
    /// The mask of the command submission and execution field.
    pub const CSE: u32 = 7 << 16;
}
