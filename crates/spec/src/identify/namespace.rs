//! Identify Namespace of the NVM command set (NVM 4.1.5.1, CNS 00h): size, formats,
//! protection, and the limits and hints that hosts look at.

use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Identify Namespace data structure, 4096 bytes. All zero for an inactive namespace.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct Namespace {
    /// Namespace size, in logical blocks.
    pub nsze: U64,
    /// Namespace capacity, in logical blocks.
    pub ncap: U64,
    /// Namespace utilization, in logical blocks.
    pub nuse: U64,
    /// Bits of [`nsfeat`].
    pub nsfeat: u8,
    /// Number of LBA formats, 0-based.
    pub nlbaf: u8,
    /// Formatted LBA size: format index in bits 3:0 and 6:5, and [`flbas::EXTENDED`].
    pub flbas: u8,
    /// Metadata capabilities: bits of [`mc`].
    pub mc: u8,
    /// End-to-end data protection capabilities.
    pub dpc: u8,
    /// End-to-end data protection type settings: type in bits 2:0, and [`dps::FIRST`].
    pub dps: u8,
    /// Bits of [`nmic`].
    pub nmic: u8,
    /// Reservation capabilities.
    pub rescap: u8,
    /// Format progress indicator.
    pub fpi: u8,
    /// Deallocate logical block features: read behaviour in bits 2:0 (1 zeroes, 2 ones), bit 3
    /// Write Zeroes deallocates, bit 4 guard of deallocated blocks.
    pub dlfeat: u8,
    /// Namespace atomic write unit normal, in logical blocks, 0-based.
    pub nawun: U16,
    /// Namespace atomic write unit power fail, in logical blocks, 0-based.
    pub nawupf: U16,
    /// Namespace atomic compare and write unit, in logical blocks, 0-based.
    pub nacwu: U16,
    /// Namespace atomic boundary size normal, in logical blocks, 0-based.
    pub nabsn: U16,
    /// Namespace atomic boundary offset, in logical blocks.
    pub nabo: U16,
    /// Namespace atomic boundary size power fail, in logical blocks, 0-based.
    pub nabspf: U16,
    /// Namespace optimal I/O boundary, in logical blocks; 0 is not reported.
    pub noiob: U16,
    /// NVM capacity, in bytes.
    pub nvmcap: U128,
    /// Preferred write granularity, in logical blocks, 0-based.
    pub npwg: U16,
    /// Preferred write alignment, in logical blocks, 0-based.
    pub npwa: U16,
    /// Preferred deallocate granularity, in logical blocks, 0-based.
    pub npdg: U16,
    /// Preferred deallocate alignment, in logical blocks, 0-based.
    pub npda: U16,
    /// Optimal write size, in logical blocks, 0-based.
    pub nows: U16,
    /// Maximum single source range length of Copy, in logical blocks.
    pub mssrl: U16,
    /// Maximum copy length, in logical blocks.
    pub mcl: U32,
    /// Maximum source range count of Copy, 0-based.
    pub msrc: u8,
    /// Key per I/O status.
    pub kpios: u8,
    /// Number of unique attribute LBA formats.
    pub nulbaf: u8,
    /// Reserved.
    pub reserved83: u8,
    /// Key per I/O data access alignment and granularity.
    pub kpiodaag: U32,
    /// Reserved.
    pub reserved88: [u8; 4],
    /// ANA group identifier.
    pub anagrpid: U32,
    /// Reserved.
    pub reserved96: [u8; 3],
    /// Namespace attributes: bit 0 write protected.
    pub nsattr: u8,
    /// NVM set identifier.
    pub nvmsetid: U16,
    /// Endurance group identifier.
    pub endgid: U16,
    /// Namespace globally unique identifier, big endian.
    pub nguid: [u8; 16],
    /// IEEE extended unique identifier, big endian.
    pub eui64: [u8; 8],
    /// LBA formats 0 to 63.
    pub lbaf: [LbaFormat; 64],
    /// Vendor specific.
    pub vs: [u8; 3712],
}

layout!(Namespace, 4096, nsze @ 0, ncap @ 8, nuse @ 16, nsfeat @ 24, nlbaf @ 25, flbas @ 26,
    mc @ 27, dpc @ 28, dps @ 29, nmic @ 30, rescap @ 31, fpi @ 32, dlfeat @ 33, nawun @ 34,
    nawupf @ 36, nacwu @ 38, nabsn @ 40, nabo @ 42, nabspf @ 44, noiob @ 46, nvmcap @ 48,
    npwg @ 64, npwa @ 66, npdg @ 68, npda @ 70, nows @ 72, mssrl @ 74, mcl @ 76, msrc @ 80,
    kpios @ 81, nulbaf @ 82, kpiodaag @ 84, anagrpid @ 92, nsattr @ 99, nvmsetid @ 100,
    endgid @ 102, nguid @ 104, eui64 @ 120, lbaf @ 128, vs @ 384);

impl Namespace {
    /// Index of the LBA format in use, 0 to 63. FLBAS bits 6:5 count only when there are more
    /// than 16 formats.
    pub fn format_index(&self) -> usize {
        let low = usize::from(self.flbas & 0x0f);
        let formats = usize::from(self.nlbaf) + 1 + usize::from(self.nulbaf);
        if formats > 16 { usize::from(self.flbas & 0x60) >> 1 | low } else { low }
    }

    /// The LBA format in use.
    pub fn format(&self) -> LbaFormat {
        self.lbaf[self.format_index()]
    }

    /// Bytes of a logical block without metadata, 512 or more; none when the format in use is
    /// not one (an LBADS below 9, or above 31).
    pub fn lba_size(&self) -> Option<u32> {
        self.format().lba_size()
    }

    /// Bytes of metadata a logical block.
    pub fn metadata_size(&self) -> u16 {
        self.format().ms.get()
    }

    /// Whether metadata travels at the end of each logical block, as one extended block.
    pub fn is_extended(&self) -> bool {
        self.metadata_size() != 0 && self.flbas & flbas::EXTENDED != 0
    }

    /// Bytes of a logical block as the data buffer holds it: with metadata where extended.
    pub fn block_size(&self) -> Option<u32> {
        let metadata = if self.is_extended() { u32::from(self.metadata_size()) } else { 0 };
        self.lba_size()?.checked_add(metadata)
    }

    /// Bytes of data the namespace holds without metadata; none when its format is not one or
    /// they exceed 64 bits.
    pub fn size_bytes(&self) -> Option<u64> {
        self.nsze.get().checked_mul(u64::from(self.lba_size()?))
    }

    /// End-to-end protection type: 0 none, 1 to 3.
    pub fn protection_type(&self) -> u8 {
        self.dps & 7
    }
}

/// An LBA format, 4 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct LbaFormat {
    /// Metadata size, in bytes.
    pub ms: U16,
    /// LBA data size, as a power of two bytes; 0 is a format not available now.
    pub lbads: u8,
    /// Relative performance in bits 1:0: 0 best, 3 degraded.
    pub rp: u8,
}

layout!(LbaFormat, 4, ms @ 0, lbads @ 2, rp @ 3);

impl LbaFormat {
    /// Bytes of a logical block without metadata; none for an LBADS below 9 or above 31.
    pub fn lba_size(self) -> Option<u32> {
        (9..32).contains(&self.lbads).then(|| 1 << self.lbads)
    }
}

/// Bits of NSFEAT, namespace features.
pub mod nsfeat {
    /// Thin provisioning.
    pub const THINP: u8 = 0x01;
    /// The namespace's own atomic write units apply: NAWUN, NAWUPF, NACWU.
    pub const NSABP: u8 = 0x02;
    /// Deallocated or unwritten block errors.
    pub const DAE: u8 = 0x04;
    /// NGUID and EUI64 are never reused.
    pub const UIDREUSE: u8 = 0x08;
    /// The optimal performance fields are valid: NPWG, NPWA, NPDG, NPDA, NOWS.
    pub const OPTPERF: u8 = 0x10;
}

/// Bits of FLBAS, formatted LBA size.
pub mod flbas {
    /// Metadata is at the end of each block, not in a buffer of its own.
    pub const EXTENDED: u8 = 0x10;
}

/// Bits of MC, metadata capabilities.
pub mod mc {
    /// Metadata at the end of each block.
    pub const EXTENDED: u8 = 0x01;
    /// Metadata in a buffer of its own.
    pub const SEPARATE: u8 = 0x02;
}

/// Bits of DPC, end-to-end data protection capabilities. Bits 2:0 are the types 1 to 3.
pub mod dpc {
    /// Protection information may stand in the first bytes of the metadata.
    pub const FIRST: u8 = 0x08;
    /// It may stand in the last.
    pub const LAST: u8 = 0x10;
}

/// Bits of DPS, end-to-end data protection type settings.
pub mod dps {
    /// Protection information stands in the first bytes of the metadata, else in the last.
    pub const FIRST: u8 = 0x08;
}

/// Bits of NMIC, namespace multi-path I/O and sharing capabilities.
pub mod nmic {
    /// Several controllers may have the namespace attached at a time.
    pub const SHARED: u8 = 0x01;
}
