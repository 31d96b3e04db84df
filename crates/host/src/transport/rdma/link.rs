//! What a queue needs of its connection, so that tests can play one that no device here would be.

use std::{os::fd::RawFd, sync::Arc};

use doorbell_platform::{Range, Region};
use doorbell_queue::Slot;
use doorbell_rdma::{Completion, PostError};

use super::capsule::Reach;

/// The number of a work request: receives are told from sends by this bit, the rest is a slot or the place of an answer.
pub(super) const RECEIVE: u64 = 1 << 32;

/// A queue pair that is connected, its completion queue and its connection. What is called for each batch neither allocates
/// nor locks nor blocks.
pub trait Link: Send {
    /// The device's name.
    fn device(&self) -> &str;

    /// Makes memory for data known to the device and says how the controller names it. What was known before need not be any more.
    ///
    /// # Errors
    /// For people.
    fn reach(&mut self, region: &Arc<Region>) -> Result<Reach, String>;

    /// Puts the send of a capsule, which lies at `capsule` of the queue's memory, in the chain of sends; `data` of the memory made
    /// known last comes behind it. The number of its completion is the slot.
    fn push_send(&mut self, slot: Slot, capsule: Range, data: Option<Range>);

    /// Puts the receive of an answer at place `answer` in the chain of receives. The number of its completion is that place with
    /// [`RECEIVE`].
    fn push_receive(&mut self, answer: u32);

    /// Posts the chain of receives.
    ///
    /// # Errors
    /// The connection is lost.
    fn post_receives(&mut self) -> Result<usize, PostError>;

    /// Posts the chain of sends.
    ///
    /// # Errors
    /// As above.
    fn post_sends(&mut self) -> Result<usize, PostError>;

    /// Takes completions, oldest first, no more than there is room for.
    ///
    /// # Errors
    /// For people; the connection is lost.
    fn poll(&self, into: &mut [Completion]) -> Result<usize, String>;

    /// Why the connection is over, if the connection manager said so.
    fn news(&mut self) -> Option<String>;

    /// Has the next completion make a descriptor readable; what has come before does not.
    ///
    /// # Errors
    /// As above.
    fn arm(&mut self) -> Result<RawFd, String>;

    /// Sends what no receive takes, and nothing completes: an empty RDMA WRITE.
    ///
    /// # Errors
    /// The connection is lost.
    fn nudge(&mut self) -> Result<(), PostError>;

    /// Ends the connection. True: the device reads and writes nothing for it any more; false: it does not once everything that is posted
    /// has come back.
    fn end(&mut self) -> bool;
}
