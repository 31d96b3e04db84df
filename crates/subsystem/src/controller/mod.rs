//! The controller model: what commands mean, without sockets.
//!
//! [`connect`] turns a Connect into an [`Admin`] queue, which is the controller itself (registers, features, events: it lives and
//! dies with the admin connection, on that connection's reactor), or into an [`IoQueue`], which shares nothing with it but the
//! association. The listener feeds both.

mod admin;
mod connect;
mod features;
mod harm;
mod identify;
mod io;
mod log;
mod property;

pub(crate) use admin::{Admin, Answer, Limits, Transport};
pub(crate) use connect::{Accepted, Session, connect};
pub(crate) use harm::History;
pub(crate) use identify::VENDOR;
pub(crate) use io::{IoQueue, Need, Plan, Progress};
pub(crate) use log::ADMIN_ENTRIES;
pub(crate) use property::DSTRD;

#[cfg(test)]
mod tests;
