//! Identify structures by I/O command set (Base 5.1.13.2.6 on, NVM 4.1.5): limits and formats
//! of the NVM command set (CNS 05h, 06h), what all command sets share of a namespace (CNS
//! 08h), and which combinations a controller offers (CNS 1Ch).

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Identify Controller of the NVM command set (NVM 4.1.5.4, CNS 06h, CSI 00h), 4096 bytes.
/// A limit of 0 is not reported. Size limits of commands are powers of two in units of
/// `4096 << CAP.MPSMIN` bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct NvmController {
    /// Verify size limit.
    pub vsl: u8,
    /// Write Zeroes size limit.
    pub wzsl: u8,
    /// Write Uncorrectable size limit.
    pub wusl: u8,
    /// Dataset Management ranges limit, in ranges.
    pub dmrl: u8,
    /// Dataset Management range size limit, in logical blocks.
    pub dmrsl: U32,
    /// Dataset Management size limit, in logical blocks of all ranges.
    pub dmsl: U64,
    /// Key per I/O capabilities.
    pub kpiocap: u8,
    /// Write Zeroes with deallocate size limit.
    pub wzdsl: u8,
    /// Admin optional command support.
    pub aocs: U16,
    /// Version of the NVM command set.
    pub ver: U32,
    /// LBA migration queue format.
    pub lbamqf: u8,
    /// Reserved.
    pub reserved25: [u8; 4071],
}

layout!(NvmController, 4096, vsl @ 0, wzsl @ 1, wusl @ 2, dmrl @ 3, dmrsl @ 4, dmsl @ 8,
    kpiocap @ 16, wzdsl @ 17, aocs @ 18, ver @ 20, lbamqf @ 24);

/// Identify Namespace of the NVM command set (NVM 4.1.5.3, CNS 05h, CSI 00h), 4096 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct NvmNamespace {
    /// Logical block storage tag mask.
    pub lbstm: U64,
    /// Protection information capabilities.
    pub pic: u8,
    /// Protection information format attribute.
    pub pifa: u8,
    /// Reserved.
    pub reserved10: [u8; 2],
    /// Extended LBA formats 0 to 63: see [`NvmNamespace::storage_tag_size`] and
    /// [`NvmNamespace::protection_format`].
    pub elbaf: [U32; 64],
    /// Preferred deallocate granularity, in logical blocks; 0 is not reported.
    pub npdgl: U32,
    /// Preferred read granularity, in logical blocks; 0 is not reported.
    pub nprg: U32,
    /// Preferred read alignment, in logical blocks; 0 is not reported.
    pub npra: U32,
    /// Optimal read size, in logical blocks; 0 is not reported.
    pub nors: U32,
    /// Preferred deallocate alignment, in logical blocks; 0 is not reported.
    pub npdal: U32,
    /// LBA format placement shard size.
    pub lbapss: U32,
    /// Tracked LBA allocation granularity.
    pub tlbaag: U32,
    /// Reserved.
    pub reserved296: [u8; 3800],
}

layout!(NvmNamespace, 4096, lbstm @ 0, pic @ 8, pifa @ 9, elbaf @ 12, npdgl @ 268, nprg @ 272,
    npra @ 276, nors @ 280, npdal @ 284, lbapss @ 288, tlbaag @ 292, reserved296 @ 296);

impl NvmNamespace {
    /// Bits of storage tag in an LBA format, 0 to 127; none beyond format 63.
    pub fn storage_tag_size(&self, format: usize) -> Option<u8> {
        Some(self.elbaf.get(format)?.get() as u8 & 0x7f)
    }

    /// Protection information format of an LBA format: 0 16-bit guard, 1 32-bit guard, 2
    /// 64-bit guard, 3 the qualified format. None beyond format 63.
    pub fn protection_format(&self, format: usize) -> Option<u8> {
        Some((self.elbaf.get(format)?.get() >> 7) as u8 & 3)
    }
}

/// I/O Command Set Independent Identify Namespace (Base 5.1.13.2.8, CNS 08h), 4096 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct IndependentNamespace {
    /// Common namespace features: bit 3 identifiers never reused, bit 4 rotational media, bit
    /// 5 volatile write cache not present.
    pub nsfeat: u8,
    /// Bits of [`nmic`](super::nmic).
    pub nmic: u8,
    /// Reservation capabilities.
    pub rescap: u8,
    /// Format progress indicator.
    pub fpi: u8,
    /// ANA group identifier.
    pub anagrpid: U32,
    /// Namespace attributes: bit 0 write protected.
    pub nsattr: u8,
    /// Reserved.
    pub reserved9: u8,
    /// NVM set identifier.
    pub nvmsetid: U16,
    /// Endurance group identifier.
    pub endgid: U16,
    /// Namespace status: bit 0 ready.
    pub nstat: u8,
    /// Key per I/O status.
    pub kpios: u8,
    /// Maximum key tag.
    pub maxkt: U16,
    /// Reserved.
    pub reserved18: [u8; 2],
    /// Reachability group identifier.
    pub rgrpid: U32,
    /// Reserved.
    pub reserved24: [u8; 4072],
}

layout!(IndependentNamespace, 4096, nsfeat @ 0, nmic @ 1, rescap @ 2, fpi @ 3, anagrpid @ 4,
    nsattr @ 8, nvmsetid @ 10, endgid @ 12, nstat @ 14, kpios @ 15, maxkt @ 16, rgrpid @ 20);

impl IndependentNamespace {
    /// Bit of [`nstat`](Self::nstat): the namespace is ready.
    pub const NSTAT_NRDY: u8 = 0x01;
}

/// Identify I/O Command Set (Base 5.1.13.2.18, CNS 1Ch), 4096 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct IoCommandSets {
    /// Combinations that can be enabled together: bit n is the command set of CSI n.
    pub vectors: [U64; 512],
}

layout!(IoCommandSets, 4096);
