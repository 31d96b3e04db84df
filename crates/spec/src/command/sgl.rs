//! The data pointer (Base 4.3): PRP entries or one SGL descriptor, and the kinds of SGL
//! descriptor that PCIe and Fabrics transports use.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, transmute};

/// The 16 bytes of a command's data pointer; PSDT says whether they are PRP entries or an SGL
/// descriptor.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct Dptr(pub [u8; 16]);

layout!(Dptr, 16);

impl Dptr {
    /// Two PRP entries (Base 4.3.1).
    #[inline]
    pub fn prp(prp1: u64, prp2: u64) -> Self {
        transmute!([U64::new(prp1), U64::new(prp2)])
    }

    /// PRP entry 1, as a bus address.
    #[inline]
    pub fn prp1(self) -> u64 {
        self.entries()[0].get()
    }

    /// PRP entry 2: the second page, or the address of a PRP list.
    #[inline]
    pub fn prp2(self) -> u64 {
        self.entries()[1].get()
    }

    fn entries(self) -> [U64; 2] {
        transmute!(self)
    }
}

impl From<SglDescriptor> for Dptr {
    #[inline]
    fn from(sgl: SglDescriptor) -> Self {
        transmute!(sgl)
    }
}

impl From<Dptr> for SglDescriptor {
    #[inline]
    fn from(dptr: Dptr) -> Self {
        transmute!(dptr)
    }
}

/// An SGL descriptor (Base 4.3.2), 16 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct SglDescriptor {
    /// Bus address, or an offset when the subtype says so.
    pub address: U64,
    /// Length in bytes; keyed descriptors use its low 24 bits and begin the key in the rest.
    pub length: U32,
    /// Reserved, except the high bytes of the key of keyed descriptors.
    pub reserved: [u8; 3],
    /// SGL identifier: type in bits 7:4, subtype in bits 3:0.
    pub id: u8,
}

layout!(SglDescriptor, 16, address @ 0, length @ 8, reserved @ 12, id @ 15);

/// What an SGL descriptor says. Addresses are bus addresses, lengths are bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SglKind {
    /// Type 0h, subtype 0h: data at an address.
    DataBlock {
        /// Where the data is.
        address: u64,
        /// Bytes.
        length: u32,
    },
    /// Type 0h, subtype 1h: data inside the command capsule (Base 6.2, "in-capsule data").
    InCapsule {
        /// Offset from the start of the capsule's data area (ICDOFF applies), in bytes.
        offset: u64,
        /// Bytes.
        length: u32,
    },
    /// Type 1h: bytes of the source that are discarded.
    BitBucket {
        /// Bytes.
        length: u32,
    },
    /// Type 2h: more descriptors at an address, and another segment after them.
    Segment {
        /// Where the descriptors are.
        address: u64,
        /// Bytes, 16 a descriptor.
        length: u32,
    },
    /// Type 3h: the last segment of descriptors.
    LastSegment {
        /// Where the descriptors are.
        address: u64,
        /// Bytes, 16 a descriptor.
        length: u32,
    },
    /// Type 3h, subtype 1h: the last segment of descriptors, inside the command capsule.
    CapsuleSegment {
        /// Offset from the start of the capsule's data area (ICDOFF applies), in bytes.
        offset: u64,
        /// Bytes, 16 a descriptor.
        length: u32,
    },
    /// Type 4h: remote memory by key, as RDMA uses it.
    Keyed {
        /// Remote address.
        address: u64,
        /// Bytes; 24 bits.
        length: u32,
        /// Remote key.
        key: u32,
        /// Subtype Fh: the controller invalidates the key when it completes the command.
        invalidate: bool,
    },
    /// Type 5h, subtype Ah: the transport carries the data by its own messages (NVMe/TCP).
    Transport {
        /// Bytes.
        length: u32,
    },
    /// A type and subtype that no transport here defines.
    Other {
        /// The SGL identifier byte.
        id: u8,
    },
}

impl SglDescriptor {
    const DATA_BLOCK: u8 = 0x00;
    const IN_CAPSULE: u8 = 0x01;
    const BIT_BUCKET: u8 = 0x10;
    const SEGMENT: u8 = 0x20;
    const LAST_SEGMENT: u8 = 0x30;
    const CAPSULE_SEGMENT: u8 = 0x31;
    const KEYED: u8 = 0x40;
    const KEYED_INVALIDATE: u8 = 0x4f;
    const TRANSPORT: u8 = 0x5a;

    /// Data at a bus address.
    #[inline]
    pub fn data_block(address: u64, length: u32) -> Self {
        Self::with(Self::DATA_BLOCK, address, length)
    }

    /// Data in the command capsule, `offset` bytes into its data area.
    #[inline]
    pub fn in_capsule(offset: u64, length: u32) -> Self {
        Self::with(Self::IN_CAPSULE, offset, length)
    }

    /// `length` bytes to discard.
    #[inline]
    pub fn bit_bucket(length: u32) -> Self {
        Self::with(Self::BIT_BUCKET, 0, length)
    }

    /// A segment of descriptors that ends in another segment descriptor.
    #[inline]
    pub fn segment(address: u64, length: u32) -> Self {
        Self::with(Self::SEGMENT, address, length)
    }

    /// The last segment of descriptors.
    #[inline]
    pub fn last_segment(address: u64, length: u32) -> Self {
        Self::with(Self::LAST_SEGMENT, address, length)
    }

    /// The last segment of descriptors, in the command capsule, `offset` bytes into its data area.
    #[inline]
    pub fn capsule_segment(offset: u64, length: u32) -> Self {
        Self::with(Self::CAPSULE_SEGMENT, offset, length)
    }

    /// Remote memory by key. `length` is cut to the 24 bits the descriptor has.
    #[inline]
    pub fn keyed(address: u64, length: u32, key: u32, invalidate: bool) -> Self {
        let [k0, k1, k2, k3] = key.to_le_bytes();
        let id = if invalidate { Self::KEYED_INVALIDATE } else { Self::KEYED };
        Self {
            address: U64::new(address),
            length: U32::new((length & 0x00ff_ffff) | u32::from(k0) << 24),
            reserved: [k1, k2, k3],
            id,
        }
    }

    /// Data that the transport carries in messages of its own.
    #[inline]
    pub fn transport(length: u32) -> Self {
        Self::with(Self::TRANSPORT, 0, length)
    }

    /// The descriptor's type, subtype and fields.
    #[inline]
    pub fn kind(&self) -> SglKind {
        let address = self.address.get();
        let length = self.length.get();
        match self.id {
            Self::DATA_BLOCK => SglKind::DataBlock { address, length },
            Self::IN_CAPSULE => SglKind::InCapsule { offset: address, length },
            Self::BIT_BUCKET => SglKind::BitBucket { length },
            Self::SEGMENT => SglKind::Segment { address, length },
            Self::LAST_SEGMENT => SglKind::LastSegment { address, length },
            Self::CAPSULE_SEGMENT => SglKind::CapsuleSegment { offset: address, length },
            Self::KEYED | Self::KEYED_INVALIDATE => {
                let [k1, k2, k3] = self.reserved;
                SglKind::Keyed {
                    address,
                    length: length & 0x00ff_ffff,
                    key: u32::from_le_bytes([(length >> 24) as u8, k1, k2, k3]),
                    invalidate: self.id == Self::KEYED_INVALIDATE,
                }
            }
            Self::TRANSPORT => SglKind::Transport { length },
            id => SglKind::Other { id },
        }
    }

    fn with(id: u8, address: u64, length: u32) -> Self {
        Self { address: U64::new(address), length: U32::new(length), reserved: [0; 3], id }
    }
}
