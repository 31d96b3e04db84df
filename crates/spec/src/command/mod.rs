//! The submission queue entry (Base 4.1.1): the 64-byte command, its data pointer, its
//! opcodes, and plain functions that build and read the commands of the Admin and the NVM
//! command sets. Hosts build with it, targets parse with it.

mod admin;
mod nvm;
mod opcode;
mod sgl;

pub use admin::{
    AbortRequest, IdentifyRequest, LogRequest, QueueRequest, abort, async_event_request, create_io_cq, create_io_sq,
    delete_io_cq, delete_io_sq, doorbell_buffer_config, get_features, get_log_page, identify, keep_alive, set_features,
};
pub use nvm::{
    DsmRange, compare, control, dataset_management, dsm, flush, read, verify, write, write_uncorrectable, write_zeroes,
};
pub use opcode::{AdminOpcode, Direction, NvmOpcode, data_direction};
pub use sgl::{Dptr, SglDescriptor, SglKind};

use crate::{fabrics, zns::SendAction};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// `flags` bits 7:6 = 01b: the data pointer is an SGL descriptor, metadata is contiguous.
/// The value every Fabrics command carries.
pub const FLAGS_SGL: u8 = 0x40;
/// `flags` bits 7:6 = 10b: the data pointer is an SGL descriptor, metadata is an SGL too.
pub const FLAGS_SGL_METADATA: u8 = 0x80;
/// The mask of the PSDT field in `flags`.
pub const FLAGS_PSDT: u8 = 0xc0;
/// `flags` bits 1:0 = 01b: the first command of a fused pair.
pub const FLAGS_FUSED_FIRST: u8 = 0x01;
/// `flags` bits 1:0 = 10b: the second command of a fused pair.
pub const FLAGS_FUSED_SECOND: u8 = 0x02;
/// The mask of the FUSE field in `flags`.
pub const FLAGS_FUSE: u8 = 0x03;

/// The namespace identifier that addresses every namespace (Base 3.2.1.2).
pub const NSID_ALL: u32 = 0xffff_ffff;

/// A submission queue entry (Base 4.1.1, "Common Command Format"), 64 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct Command {
    /// Opcode: an [`AdminOpcode`] or an [`NvmOpcode`], as the queue says.
    pub opc: u8,
    /// FUSE in bits 1:0, PSDT in bits 7:6.
    pub flags: u8,
    /// Command identifier, unique among the commands outstanding in its queue; never FFFFh.
    pub cid: U16,
    /// Namespace identifier. In a Fabrics command, byte 0 is the Fabrics command type.
    pub nsid: U32,
    /// Command dword 2.
    pub cdw2: U32,
    /// Command dword 3.
    pub cdw3: U32,
    /// Metadata pointer.
    pub mptr: U64,
    /// Data pointer: two PRP entries or one SGL descriptor.
    pub dptr: Dptr,
    /// Command dword 10.
    pub cdw10: U32,
    /// Command dword 11.
    pub cdw11: U32,
    /// Command dword 12.
    pub cdw12: U32,
    /// Command dword 13.
    pub cdw13: U32,
    /// Command dword 14.
    pub cdw14: U32,
    /// Command dword 15.
    pub cdw15: U32,
}

layout!(Command, 64, opc @ 0, flags @ 1, cid @ 2, nsid @ 4, cdw2 @ 8, cdw3 @ 12, mptr @ 16,
    dptr @ 24, cdw10 @ 40, cdw11 @ 44, cdw12 @ 48, cdw13 @ 52, cdw14 @ 56, cdw15 @ 60);

impl Command {
    /// A command with an opcode and a namespace, everything else zero.
    #[inline]
    pub fn new(opc: u8, nsid: u32) -> Self {
        Self { opc, nsid: U32::new(nsid), ..Self::default() }
    }

    /// Points the command at its data by an SGL descriptor and sets PSDT to say so.
    #[inline]
    pub fn set_sgl(&mut self, sgl: SglDescriptor) {
        self.flags = (self.flags & !FLAGS_PSDT) | FLAGS_SGL;
        self.dptr = sgl.into();
    }

    /// The data pointer read as an SGL descriptor.
    #[inline]
    pub fn sgl(&self) -> SglDescriptor {
        self.dptr.into()
    }

    /// Whether PSDT says that the data pointer is an SGL descriptor.
    #[inline]
    pub fn uses_sgl(&self) -> bool {
        matches!(self.flags & FLAGS_PSDT, FLAGS_SGL | FLAGS_SGL_METADATA)
    }

    /// The FUSE field: 0 for a command on its own.
    #[inline]
    pub fn fuse(&self) -> u8 {
        self.flags & FLAGS_FUSE
    }

    /// Whether this is a Fabrics command (opcode 7Fh).
    #[inline]
    pub fn is_fabrics(&self) -> bool {
        self.opc == fabrics::OPCODE
    }

    /// The direction of the data: from the Fabrics command type in a Fabrics command (Base
    /// 6), else from the opcode; but a Zone Management Send has data only where it sets a
    /// zone descriptor extension (ZNS 3.4.3).
    #[inline]
    pub fn direction(&self) -> Direction {
        if self.opc == NvmOpcode::ZONE_MANAGEMENT_SEND.0 && self.send_action() != SendAction::SET_DESCRIPTOR_EXTENSION {
            return Direction::None;
        }
        if self.is_fabrics() { data_direction(fabrics::fctype(self).0) } else { data_direction(self.opc) }
    }
}

/// The low 16 bits of a dword.
#[inline]
fn low(dword: U32) -> u16 {
    dword.get() as u16
}

/// The high 16 bits of a dword.
#[inline]
fn high(dword: U32) -> u16 {
    (dword.get() >> 16) as u16
}

/// A dword from its halves.
#[inline]
fn halves(low: u16, high: u16) -> U32 {
    U32::new(u32::from(low) | u32::from(high) << 16)
}

#[cfg(test)]
mod tests;
