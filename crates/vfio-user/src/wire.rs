//! Messages as they travel: a header and, depending on the command, a fixed structure with data behind it. Names are those of the
//! protocol and of linux/vfio.h; both ends are on one machine, whose byte order is taken to be little-endian.

use std::fmt;

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    little_endian::{U16, U32, U64},
};

/// The version of the protocol that this crate speaks.
pub const VERSION_MAJOR: u16 = 0;
/// Its minor part.
pub const VERSION_MINOR: u16 = 1;

/// A message's command (cmd).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Command(pub u16);

macro_rules! commands {
    ($($(#[$doc:meta])* $name:ident = $value:literal;)*) => {
        impl Command {
            $($(#[$doc])* pub const $name: Self = Self($value);)*
        }

        impl fmt::Display for Command {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match *self {
                    $(Self::$name => f.write_str(stringify!($name)),)*
                    Self(other) => write!(f, "command {other}"),
                }
            }
        }
    };
}

commands! {
    /// Agrees on a version and on limits; the first message, from the client.
    VERSION = 1;
    /// Client: memory that the device may reach from now on.
    DMA_MAP = 2;
    /// Client: memory that it may not reach any more.
    DMA_UNMAP = 3;
    /// Client: what the device is.
    DEVICE_GET_INFO = 4;
    /// Client: what a region is, and what of it can be mapped.
    DEVICE_GET_REGION_INFO = 5;
    /// Client: eventfds in place of writes to a region.
    DEVICE_GET_REGION_IO_FDS = 6;
    /// Client: how many interrupts of a kind there are.
    DEVICE_GET_IRQ_INFO = 7;
    /// Client: what becomes of interrupts.
    DEVICE_SET_IRQS = 8;
    /// Client: reads a region.
    REGION_READ = 9;
    /// Client: writes a region.
    REGION_WRITE = 10;
    /// Server: reads the client's memory.
    DMA_READ = 11;
    /// Server: writes the client's memory.
    DMA_WRITE = 12;
    /// Client: resets the device.
    DEVICE_RESET = 13;
    /// Client: which pages the device has written, for migration.
    DIRTY_PAGES = 14;
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Bits of [`Header::flags`].
pub mod flags {
    /// The type: 0 a command, 1 a reply.
    pub const TYPE: u32 = 0xf;
    /// The type of a reply.
    pub const REPLY: u32 = 1;
    /// No reply is wanted.
    pub const NO_REPLY: u32 = 1 << 4;
    /// The command failed; `error_no` says why.
    pub const ERROR: u32 = 1 << 5;
}

macro_rules! structures {
    ($($(#[$doc:meta])* $name:ident: $size:literal { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
            #[repr(C)]
            pub struct $name {
                $($(#[$field_doc])* pub $field: $type,)*
            }

            const _: () = assert!(size_of::<$name>() == $size);
        )*
    };
}

structures! {
    /// Before every message.
    Header: 16 {
        /// Chosen by the sender of a command, repeated in the reply.
        msg_id: U16,
        /// [`Command`].
        cmd: U16,
        /// Bytes of the message with this header.
        msg_size: U32,
        /// [`flags`].
        flags: U32,
        /// An errno, where [`flags::ERROR`] is set.
        error_no: U32,
    }

    /// [`Command::VERSION`], both ways; JSON follows, ended by a zero.
    Version: 4 {
        /// Both ends must have the same.
        major: U16,
        /// The smaller one of both holds.
        minor: U16,
    }

    /// [`Command::DMA_MAP`]; a descriptor comes along where the memory can be mapped.
    DmaMapRequest: 32 {
        /// Bytes of this structure.
        argsz: U32,
        /// [`dma::READ`], [`dma::WRITE`].
        flags: U32,
        /// Of the first byte, in the file.
        offset: U64,
        /// Where the device sees it.
        addr: U64,
        /// In bytes.
        size: U64,
    }

    /// [`Command::DMA_UNMAP`] and its reply.
    DmaUnmapRequest: 24 {
        /// Bytes of this structure, and of a bitmap where one is wanted.
        argsz: U32,
        /// [`dma::GET_DIRTY_BITMAP`], [`dma::UNMAP_ALL`].
        flags: U32,
        /// Where the device sees it.
        addr: U64,
        /// In bytes.
        size: U64,
    }

    /// [`Command::DEVICE_GET_INFO`] and its reply.
    DeviceInfo: 16 {
        /// Bytes of this structure.
        argsz: U32,
        /// [`device`].
        flags: U32,
        /// Number of regions.
        num_regions: U32,
        /// Number of kinds of interrupts.
        num_irqs: U32,
    }

    /// [`Command::DEVICE_GET_REGION_INFO`] and its reply, where capabilities follow.
    RegionInfo: 32 {
        /// Request: most bytes of the reply. Reply: bytes of all there is to say.
        argsz: U32,
        /// [`region`].
        flags: U32,
        /// Which region.
        index: U32,
        /// Of the first capability, from the start of this structure; 0 for none.
        cap_offset: U32,
        /// In bytes; 0 where there is no such region.
        size: U64,
        /// Of the region's first byte, in the file that comes along.
        offset: U64,
    }

    /// Before each capability of a region.
    CapHeader: 8 {
        /// [`region::CAP_SPARSE_MMAP`].
        id: U16,
        /// Of the capability.
        version: U16,
        /// Offset of the next one from the start of [`RegionInfo`]; 0 for none.
        next: U32,
    }

    /// Which parts of a region can be mapped; [`SparseArea`]s follow.
    SparseMmap: 16 {
        /// With [`region::CAP_SPARSE_MMAP`].
        header: CapHeader,
        /// Number of areas.
        nr_areas: U32,
        /// Reserved.
        reserved: U32,
    }

    /// A part of a region that can be mapped.
    SparseArea: 16 {
        /// From the region's start.
        offset: U64,
        /// In bytes.
        size: U64,
    }

    /// [`Command::DEVICE_GET_REGION_IO_FDS`] and its reply.
    RegionIoFds: 16 {
        /// Most bytes of the reply, or bytes of all there is to say.
        argsz: U32,
        /// None are defined.
        flags: U32,
        /// Which region.
        index: U32,
        /// Number of descriptors.
        count: U32,
    }

    /// [`Command::DEVICE_GET_IRQ_INFO`] and its reply.
    IrqInfo: 16 {
        /// Bytes of this structure.
        argsz: U32,
        /// [`irq`].
        flags: U32,
        /// Which kind.
        index: U32,
        /// Number of interrupts.
        count: U32,
    }

    /// [`Command::DEVICE_SET_IRQS`]; booleans may follow, descriptors may come along.
    IrqSet: 20 {
        /// Bytes of this structure and what follows.
        argsz: U32,
        /// One `DATA_*` and one `ACTION_*` of [`irq`].
        flags: U32,
        /// Which kind.
        index: U32,
        /// The first one.
        start: U32,
        /// How many.
        count: U32,
    }

    /// [`Command::REGION_READ`], [`Command::REGION_WRITE`] and their replies; data follows a write and the reply to a read.
    RegionAccess: 16 {
        /// From the region's start.
        offset: U64,
        /// Which region.
        region: U32,
        /// Bytes of data.
        count: U32,
    }

    /// [`Command::DMA_READ`], [`Command::DMA_WRITE`] and their replies; data follows a write and the reply to a read.
    DmaAccess: 16 {
        /// Where the device sees it.
        addr: U64,
        /// Bytes of data.
        count: U64,
    }
}

/// Flags of DMA mappings.
pub mod dma {
    /// The device may read.
    pub const READ: u32 = 1;
    /// The device may write.
    pub const WRITE: u32 = 2;
    /// Unmapping: say which pages were written.
    pub const GET_DIRTY_BITMAP: u32 = 1;
    /// Unmapping: all there is.
    pub const UNMAP_ALL: u32 = 2;
}

/// Flags of devices (VFIO_DEVICE_FLAGS_*).
pub mod device {
    /// It can be reset.
    pub const RESET: u32 = 1;
    /// It is a PCI function.
    pub const PCI: u32 = 2;
}

/// Flags of regions (VFIO_REGION_INFO_*), and the regions of a PCI function (VFIO_PCI_*_REGION_INDEX).
pub mod region {
    /// It can be read.
    pub const READ: u32 = 1;
    /// It can be written.
    pub const WRITE: u32 = 2;
    /// Parts of it can be mapped.
    pub const MMAP: u32 = 4;
    /// Capabilities follow.
    pub const CAPS: u32 = 8;
    /// The capability [`super::SparseMmap`].
    pub const CAP_SPARSE_MMAP: u16 = 1;

    /// The registers of BAR 0; the other BARs follow.
    pub const BAR0: u32 = 0;
    /// The expansion ROM.
    pub const ROM: u32 = 6;
    /// Configuration space.
    pub const CONFIG: u32 = 7;
    /// Legacy VGA.
    pub const VGA: u32 = 8;
    /// How many there are.
    pub const COUNT: u32 = 9;
}

/// Flags of interrupts (VFIO_IRQ_INFO_*, VFIO_IRQ_SET_*), and the kinds of a PCI function (VFIO_PCI_*_IRQ_INDEX).
pub mod irq {
    /// Told by eventfd.
    pub const EVENTFD: u32 = 1;
    /// Can be masked.
    pub const MASKABLE: u32 = 2;
    /// Masked when told.
    pub const AUTOMASKED: u32 = 4;
    /// All of them are set at once.
    pub const NORESIZE: u32 = 8;

    /// No data.
    pub const DATA_NONE: u32 = 1;
    /// A byte for each says whether it is meant.
    pub const DATA_BOOL: u32 = 2;
    /// An eventfd for each.
    pub const DATA_EVENTFD: u32 = 4;
    /// Mask.
    pub const ACTION_MASK: u32 = 8;
    /// Unmask.
    pub const ACTION_UNMASK: u32 = 16;
    /// Trigger, or say what a trigger does.
    pub const ACTION_TRIGGER: u32 = 32;

    /// The pin.
    pub const INTX: u32 = 0;
    /// Message signalled.
    pub const MSI: u32 = 1;
    /// Message signalled, by a table.
    pub const MSIX: u32 = 2;
    /// Errors.
    pub const ERR: u32 = 3;
    /// The device is asked for.
    pub const REQ: u32 = 4;
    /// How many there are.
    pub const COUNT: u32 = 5;
}

/// The message of a command or a reply.
pub(crate) fn message(header: Header, body: &[&[u8]]) -> Vec<u8> {
    let size = size_of::<Header>() + body.iter().map(|part| part.len()).sum::<usize>();
    let header = Header { msg_size: (size as u32).into(), ..header };
    let mut bytes = Vec::with_capacity(size);
    bytes.extend(header.as_bytes());
    body.iter().for_each(|part| bytes.extend(*part));
    bytes
}
