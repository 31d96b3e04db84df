//! An NVM subsystem in memory or on a file, served over NVMe/TCP and, as a PCI function, over vfio-user: the target.
//!
//! [`Target::start`] runs it on threads of its own, [`Target::cooperative`] inside somebody else's loop. Below the listener nothing
//! knows about sockets: `controller` says what a command means, `namespace` moves blocks, `frames` owns the memory of both, `reactor`
//! is the loop that joins them to connections, and `fault` does on request what a target should not.

mod config;
mod controller;
mod fault;
mod frames;
mod listener;
mod namespace;
mod reactor;
mod subsystem;
mod target;

pub use config::{Backend, Deadlines, NamespaceConfig, SubsystemConfig, TargetConfig, Zoning};
pub use fault::Script;
pub use listener::Unplugged;
pub use target::{Cooperative, Error, Target, Usage};
