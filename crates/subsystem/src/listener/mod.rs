//! Listeners: how commands come to the subsystem. There is one kind so far, NVMe/TCP.

mod exchange;
mod tcp;
mod unplugged;

pub(crate) use exchange::Context;
pub(crate) use tcp::{Connection, Served, Staging};
pub use unplugged::Unplugged;
