//! NVMe/RDMA: connecting a queue pair, agreeing on its size, and the queue over it.

mod capsule;
mod connection;
mod link;
mod queue;
#[cfg(test)]
mod tests;
mod verbs;

use doorbell_rdma::Library;

pub use connection::{ConnectError, connect};
pub use queue::Queue;
pub use verbs::{SharedAnswers, Verbs};

/// An NVMe/RDMA queue over a device of this machine.
pub type RdmaQueue = Queue<Verbs>;

/// Why there is no RDMA here; `None` when there is.
pub(crate) fn unusable() -> Option<String> {
    Library::load().err().map(|why| format!("transport RDMA cannot be used: {why}"))
}
