//! The border to libibverbs and librdmacm, and all `unsafe` of this crate. Handles are owned here, so that what the libraries demand of
//! their callers (who outlives whom, which array is how long) is seen to in one place.

mod chain;
mod completion;
mod connection;
mod device;
#[cfg(test)]
mod layout_tests;
mod library;
mod memory;
mod queue_pair;
mod shared;
mod socket_address;
#[allow(non_camel_case_types, missing_docs)]
mod types;

pub use chain::{Flags, Memory, Piece, Remote};
pub use completion::{Channel, Completion, CompletionQueue};
pub use connection::{EventChannel, Identifier};
pub use device::{Attributes, Device};
pub use library::Library;
pub use memory::{Access, Registration};
pub use queue_pair::{QueuePair, QueueSize};
pub use shared::SharedReceiveQueue;
