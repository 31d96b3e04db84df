//! This machine: cores, clock, memory and the system calls that no safe crate offers.
//!
//! All of the project's `unsafe` lives here and in `doorbell-rdma`'s bindings: what this crate exports is safe to use
//! however it is called, so every other crate forbids `unsafe`.

pub mod clock;
pub mod cpu;
mod crc32c;
mod fault;
mod guard;
pub mod holder;
pub mod huge_pages;
pub mod memlock;
pub mod memory;
pub mod numa;
pub mod open_files;
pub mod pci;
pub mod poll;
mod raiser;
pub mod socket;
pub mod sysfs;
mod table;
pub mod vfio;

pub use crc32c::Crc32c;
pub use guard::Guard;
pub use memory::{Arena, Backing, Pages, Range, Region};
pub use raiser::Raiser;
pub use sysfs::Sysfs;
pub use table::Table;
