//! Wire formats of NVMe, NVMe over Fabrics, NVMe/TCP and NVMe/RDMA.
//!
//! Structures are laid out byte for byte as the specifications number them, have an
//! alignment of one and are read from and written to bytes with `zerocopy`. Fields bear the
//! specification's names. Codes that a device may extend are open newtypes: any value is
//! representable, the known ones are constants with a `name()`. No function of this crate
//! panics, whatever bytes it is given. No I/O, no clock, no allocation.
//!
//! Sections cited are those of the NVM Express Base Specification 2.1 ("Base"), the NVM
//! Command Set Specification 1.1 ("NVM"), the Zoned Namespace Command Set
//! Specification 1.1 ("ZNS") and the TCP Transport Specification 1.1 ("TCP").

#![no_std]

#[cfg(test)]
extern crate std;

#[macro_use]
mod macros;

pub mod command;
pub mod completion;
pub mod fabrics;
pub mod feature;
pub mod identify;
pub mod log;
pub mod nqn;
pub mod protection;
pub mod rdma;
pub mod register;
pub mod status;
pub mod tcp;
mod text;
pub mod zns;

pub use text::{Ascii, ascii};
