//! This machine: cores, clock, memory and the system calls that no safe crate offers.
//!
//! All of the project's `unsafe` lives here (and, later, in the RDMA bindings): what this crate exports is safe to use
//! however it is called, so every other crate forbids `unsafe`.

pub mod clock;
pub mod cpu;
mod fault;
pub mod memory;
pub mod open_files;
pub mod pci;
pub mod poll;
pub mod socket;

pub use memory::{Arena, Backing, Pages, Range, Region};
