//! I/O commands of the NVM command set (NVM 3): builders for the host, readers for the
//! target.

use super::{Command, NvmOpcode, high, low};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bits of the upper half of command dword 12 (NVM 3.3): the `control` argument of
/// the builders.
pub mod control {
    /// Limited retry.
    pub const LR: u16 = 0x8000;
    /// Force unit access.
    pub const FUA: u16 = 0x4000;
    /// Protection information action.
    pub const PRACT: u16 = 0x2000;
    /// Check the guard field.
    pub const PRCHK_GUARD: u16 = 0x1000;
    /// Check the application tag.
    pub const PRCHK_APP: u16 = 0x0800;
    /// Check the reference tag.
    pub const PRCHK_REF: u16 = 0x0400;
    /// Write Zeroes: deallocate.
    pub const DEAC: u16 = 0x0200;
    /// Check the storage tag.
    pub const STC: u16 = 0x0100;
}

/// Bits of command dword 11 of Dataset Management (NVM 3.3.3).
pub mod dsm {
    /// Integral dataset for read.
    pub const IDR: u32 = 1;
    /// Integral dataset for write.
    pub const IDW: u32 = 2;
    /// Deallocate.
    pub const AD: u32 = 4;
}

/// Read (NVM 3.3.4). `blocks` counts logical blocks, 1 to 65536 (others are brought into that
/// range); `control` is the upper half of dword 12, see [`control`].
#[inline]
pub fn read(nsid: u32, slba: u64, blocks: u32, control: u16) -> Command {
    lba_command(NvmOpcode::READ, nsid, slba, blocks, control)
}

/// Write (NVM 3.3.6). Arguments as for [`read`].
#[inline]
pub fn write(nsid: u32, slba: u64, blocks: u32, control: u16) -> Command {
    lba_command(NvmOpcode::WRITE, nsid, slba, blocks, control)
}

/// Compare (NVM 3.3.1). Arguments as for [`read`].
#[inline]
pub fn compare(nsid: u32, slba: u64, blocks: u32, control: u16) -> Command {
    lba_command(NvmOpcode::COMPARE, nsid, slba, blocks, control)
}

/// Write Zeroes (NVM 3.3.8). Arguments as for [`read`]; no data.
#[inline]
pub fn write_zeroes(nsid: u32, slba: u64, blocks: u32, control: u16) -> Command {
    lba_command(NvmOpcode::WRITE_ZEROES, nsid, slba, blocks, control)
}

/// Verify (NVM 3.3.5). Arguments as for [`read`]; no data.
#[inline]
pub fn verify(nsid: u32, slba: u64, blocks: u32, control: u16) -> Command {
    lba_command(NvmOpcode::VERIFY, nsid, slba, blocks, control)
}

/// Write Uncorrectable (NVM 3.3.7). Arguments as for [`read`]; no data.
#[inline]
pub fn write_uncorrectable(nsid: u32, slba: u64, blocks: u32) -> Command {
    lba_command(NvmOpcode::WRITE_UNCORRECTABLE, nsid, slba, blocks, 0)
}

/// Flush (Base 7.2): `nsid` may be [`NSID_ALL`](super::NSID_ALL) where the controller's VWC
/// says so.
#[inline]
pub fn flush(nsid: u32) -> Command {
    Command::new(NvmOpcode::FLUSH.0, nsid)
}

/// Dataset Management (NVM 3.3.3) with `ranges` entries of [`DsmRange`] as data, 1 to 256
/// (others are brought into that range); `attributes` as in [`dsm`].
pub fn dataset_management(nsid: u32, ranges: u16, attributes: u32) -> Command {
    let mut command = Command::new(NvmOpcode::DATASET_MANAGEMENT.0, nsid);
    command.cdw10 = U32::new(u32::from(ranges.clamp(1, 256) - 1));
    command.cdw11 = U32::new(attributes);
    command
}

/// Accessors of the commands that address logical blocks, and of Dataset Management.
impl Command {
    /// Starting LBA (dwords 10 and 11).
    #[inline]
    pub fn slba(&self) -> u64 {
        u64::from(self.cdw10.get()) | u64::from(self.cdw11.get()) << 32
    }

    /// Sets the starting LBA.
    #[inline]
    pub fn set_slba(&mut self, slba: u64) {
        self.cdw10 = U32::new(slba as u32);
        self.cdw11 = U32::new((slba >> 32) as u32);
    }

    /// Number of logical blocks, 0-based (dword 12, bits 15:0).
    #[inline]
    pub fn nlb(&self) -> u16 {
        low(self.cdw12)
    }

    /// Number of logical blocks, 1 to 65536.
    #[inline]
    pub fn block_count(&self) -> u32 {
        u32::from(self.nlb()) + 1
    }

    /// The upper half of dword 12: the bits of [`control`].
    #[inline]
    pub fn control(&self) -> u16 {
        high(self.cdw12)
    }

    /// Storage and reference tag of the first block (NVM 5.3.2): dword 14, and above it dword 3 and the lower half of dword 2. How many
    /// of these bits count is the format's affair.
    #[inline]
    pub fn block_tags(&self) -> u128 {
        let upper = u128::from(self.cdw2.get() & 0xffff) << 64 | u128::from(self.cdw3.get()) << 32;
        upper | u128::from(self.cdw14.get())
    }

    /// Whether force unit access is asked for.
    #[inline]
    pub fn fua(&self) -> bool {
        self.control() & control::FUA != 0
    }

    /// Dataset Management: how many [`DsmRange`] entries the data has, 1 to 256.
    #[inline]
    pub fn range_count(&self) -> u16 {
        (self.cdw10.get() as u16 & 0xff) + 1
    }

    /// Dataset Management: whether the ranges are to be deallocated.
    #[inline]
    pub fn deallocate(&self) -> bool {
        self.cdw11.get() & dsm::AD != 0
    }
}

/// One range of a Dataset Management command (NVM 3.3.3), 16 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct DsmRange {
    /// Context attributes; hints.
    pub cattr: U32,
    /// Length in logical blocks; 0 is an empty range.
    pub nlb: U32,
    /// Starting LBA.
    pub slba: U64,
}

layout!(DsmRange, 16, cattr @ 0, nlb @ 4, slba @ 8);

impl DsmRange {
    /// A range of `blocks` logical blocks from `slba`.
    pub fn new(slba: u64, blocks: u32) -> Self {
        Self { cattr: U32::new(0), nlb: U32::new(blocks), slba: U64::new(slba) }
    }
}

#[inline]
fn lba_command(opcode: NvmOpcode, nsid: u32, slba: u64, blocks: u32, control: u16) -> Command {
    let mut command = Command::new(opcode.0, nsid);
    command.set_slba(slba);
    let nlb = blocks.clamp(1, 0x1_0000) - 1;
    command.cdw12 = U32::new(nlb | u32::from(control) << 16);
    command
}
