//! The RDMA link: verbs and the connection manager of rdma-core, shared by host and target.
//!
//! [`Library`] loads libibverbs and librdmacm when RDMA is first asked for; a machine without them runs everything else. All
//! `unsafe` is in `ffi`; what it exports is safe however it is called:
//!
//! - A device reaches only memory of a [`Registration`], which holds its [`Region`](doorbell_platform::Region) until the device has
//!   let go of it. No reference into a region exists, so a peer that writes where it may can garble bytes, no more.
//! - A work request names memory as a [`Piece`], checked against the registration when it is pushed; a [`QueuePair`] holds what it
//!   can name, its completion queue and its shared receive queue until it is destroyed.
//! - Completions are what the device says: an identifier that was never posted or came back twice is for the owner to refuse.
//!
//! Nothing here blocks: connections are driven by events ([`EventChannel::next_event`]), completions polled or announced by a
//! descriptor ([`Channel`]). Nothing allocates once a queue is made: work requests are collected in arrays made with it and posted
//! as one chain, completions land in the caller's array.
//!
//! Everything may be moved to another thread. What belongs to a connection (identifier, queue pair, events) shares a lock per event
//! channel, which no data path takes.

#[allow(unsafe_code)]
mod ffi;

mod error;
mod event;
mod status;

pub use error::{Error, LoadError, PostError};
pub use event::{Event, EventKind, Parameters, Token, reject_reason};
pub use ffi::{
    Access, Attributes, Channel, Completion, CompletionQueue, Device, EventChannel, Flags, Identifier, Library, Memory,
    Piece, QueuePair, QueueSize, Registration, Remote, SharedReceiveQueue,
};
pub use status::{Opcode, Status};
