//! The vfio-user protocol (QEMU's docs/interop/vfio-user): a device that another process plays, reached over a UNIX socket and shared
//! memory. The host is the *client*, the target the *server*.
//!
//! Messages carry what is rare: registers, the list of memory, interrupts. Doorbells, queues and data are memory of which both ends
//! hold a mapping. [`Assembler`] is pure and turns bytes and descriptors into messages; the socket around it is thin. [`Client`] asks
//! and waits, within a deadline; [`Connection`] never waits and is polled.

mod assembler;
mod client;
mod dma;
mod server;
mod socket;
mod version;
pub mod wire;

pub use assembler::{Assembler, Message, Violation};
pub use client::{Area, Client, DeviceInfo, DeviceRegion, Error};
pub use dma::{Access, DmaMap, Outside, Piece};
pub use rustix::io::Errno;
pub use server::{
    Action, BindError, Connection, Description, Event, IrqData, IrqSet, Listener, RegionDescription, Ticket,
};
pub use socket::Lost;
pub use version::Limits;

/// The socket in a device's directory.
pub const SOCKET_NAME: &str = "cntrl";
/// Bytes of a page: the unit of DMA mappings and of what is mapped of a region.
pub const PAGE: u64 = 4096;
/// Most descriptors that we take with one message.
pub const MOST_FDS: usize = 16;
/// Most bytes of data that we take in one message.
pub const MOST_DATA: u32 = 1 << 20;
/// Most ranges of memory that a server lets a client map. Each counts among the mappings that a process may have.
pub const MOST_DMA_MAPS: usize = 1024;
