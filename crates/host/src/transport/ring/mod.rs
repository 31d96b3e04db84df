//! Submission and completion rings in memory that a device reaches: what PCIe and vfio-user have in common. The admin thread lays
//! rings out ([`RingParts`]), makes a [`RingQueue`] of them, creates the queue at the controller and gives it to a worker.

mod data;
pub(crate) mod device;
mod queue;
#[cfg(test)]
mod tests;

use std::{os::fd::OwnedFd, sync::Arc};

use doorbell_platform::{Backing, Region};

pub use queue::RingQueue;

/// A place in memory that the device reaches.
#[derive(Clone, Debug)]
pub struct Place {
    /// The memory.
    pub region: Arc<Region>,
    /// First byte, from the start of the region.
    pub offset: u64,
    /// Its address for the device.
    pub bus: u64,
}

/// The two doorbell registers of a queue.
#[derive(Clone, Debug)]
pub struct Doorbells {
    /// The mapped registers.
    pub region: Arc<Region>,
    /// Where the submission queue's tail doorbell is in the region.
    pub sq_tail: u64,
    /// Where the completion queue's head doorbell is.
    pub cq_head: u64,
}

/// The shadow doorbells of a queue and their event indexes (Base 5.2.5), as offsets in one region.
#[derive(Clone, Debug)]
pub struct Shadow {
    /// The memory of both buffers.
    pub region: Arc<Region>,
    /// Tail of the submission queue.
    pub sq_tail: u64,
    /// Head of the completion queue.
    pub cq_head: u64,
    /// Event index of the tail.
    pub sq_event: u64,
    /// Event index of the head.
    pub cq_event: u64,
}

/// Where the device finds a region: pieces of equal size that each lie together on the bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BusMap {
    /// Bytes of a piece, a power of two.
    piece: u64,
    addresses: Vec<u64>,
}

impl BusMap {
    /// All of it together, from `address` on.
    pub fn contiguous(address: u64) -> Self {
        Self { piece: 1 << 63, addresses: vec![address] }
    }

    /// Pieces of `piece` bytes (a power of two), wherever they are: huge pages by their physical addresses.
    pub fn pieces(piece: u64, addresses: Vec<u64>) -> Self {
        Self { piece: piece.next_power_of_two(), addresses }
    }

    /// The bus address of a byte of the region, and how many lie together from there on; `None` outside.
    pub fn locate(&self, offset: u64) -> Option<(u64, u64)> {
        let within = offset & (self.piece - 1);
        let address = self.addresses.get(usize::try_from(offset / self.piece).ok()?)?;
        Some((address.checked_add(within)?, self.piece - within))
    }
}

/// The controller's side of a ring queue, behind which its admin thread stands. No call of it blocks for long.
pub trait Keeper: Send {
    /// Makes memory reachable for the device, until the queue has ended; again the same answer for what is mapped already.
    ///
    /// # Errors
    /// What was tried and what came back, for people.
    fn map(&self, region: &Arc<Region>) -> Result<BusMap, String>;

    /// Why the device is not there any more, if so: asked when nothing has come for a while. Who finds out otherwise also signals
    /// the interrupt's descriptor, so that a worker that sleeps asks.
    fn gone(&self) -> Option<String>;

    /// Called once, when the queue was stopped or dropped: the queue is to be deleted at the controller. The device may read and
    /// write this memory until that is done (or the controller is disabled, or gone), so it must be kept until then.
    fn end(&self, memory: Vec<Arc<Region>>);

    /// Whether the device has let go of the queue that was ended.
    fn has_ended(&self) -> bool;
}

/// What a ring queue is made of.
pub struct RingParts {
    /// Identifier of both queues; 0 for the admin queue.
    pub qid: u16,
    /// Entries of each ring, 2 to 65536; one less can be outstanding.
    pub entries: u32,
    /// The submission queue: 64 bytes an entry.
    pub sq: Place,
    /// The completion queue: 16 bytes an entry.
    pub cq: Place,
    /// The registers.
    pub doorbells: Doorbells,
    /// The shadow doorbells, where the controller has them.
    pub shadow: Option<Shadow>,
    /// The controller's memory page in bytes (CC.MPS).
    pub page_size: u32,
    /// Most data bytes of a command.
    pub most_bytes: u32,
    /// Whether the controller takes SGLs in the commands of this queue.
    pub sgl: bool,
    /// What PRP and SGL lists, and the memory of commands, must be made of.
    pub backing: Backing,
    /// The eventfd of the completion queue's interrupt, if it has one.
    pub interrupt: Option<Arc<OwnedFd>>,
    /// The controller's side.
    pub keeper: Box<dyn Keeper>,
}
