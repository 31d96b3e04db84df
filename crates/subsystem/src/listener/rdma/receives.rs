//! Receives that the connections of a reactor share on a device, instead of one a queue entry each.
//!
//! A connection takes buffers as capsules come and hands them back at the end of a pass, or when it ends. Over InfiniBand and RoCE a host
//! that finds none is told to try again, for ever; over iWARP it would lose its connection, so there no more queue entries are granted
//! in all than there are receives.

use std::sync::Arc;

use doorbell_platform::Region;
use doorbell_rdma::{Access, Device, Memory, Piece, PostError, Registration, SharedReceiveQueue};

use super::link::{Trouble, Work, buffer};

/// The pools of a reactor, one a device in use.
#[derive(Debug, Default)]
pub(crate) struct Pools(Vec<Pool>);

#[derive(Debug)]
struct Pool {
    queue: SharedReceiveQueue,
    memory: Memory,
    region: Arc<Region>,
    /// Connections, and the entries of their queues.
    connections: u32,
    entries: u32,
}

/// A connection's part in a pool. It must be handed back.
#[derive(Debug)]
pub(super) struct Share {
    device: Arc<Device>,
    region: Arc<Region>,
    entries: u32,
    /// Buffers that have a capsule of this connection, and those that can take another.
    taken: Vec<u32>,
    given: Vec<u32>,
}

impl Pools {
    /// A part for a queue of `entries` entries, in the pool of a device, which is made with `count` receives for the first.
    ///
    /// # Errors
    /// The device has no shared receive queues, or none of that size, or so much memory must not be pinned; too many entries for it.
    pub(super) fn join(&mut self, device: &Arc<Device>, entries: u32, count: u32) -> Result<Share, Trouble> {
        let at = match self.0.iter().position(|pool| Arc::ptr_eq(pool.queue.device(), device)) {
            Some(at) => at,
            None => {
                self.0.push(Pool::new(device, count)?);
                self.0.len() - 1
            }
        };
        let pool = &mut self.0[at];
        if device.attributes().is_iwarp && pool.entries + entries > pool.queue.depth() {
            return Err(Trouble::TooFew { wanted: pool.entries + entries, there: pool.queue.depth() });
        }
        (pool.connections, pool.entries) = (pool.connections + 1, pool.entries + entries);
        let region = pool.region.clone();
        Ok(Share { device: device.clone(), region, entries, taken: Vec::new(), given: Vec::new() })
    }

    /// The queue that a part is of.
    pub(super) fn queue(&self, share: &Share) -> Option<&SharedReceiveQueue> {
        self.0.iter().find(|pool| Arc::ptr_eq(pool.queue.device(), &share.device)).map(|pool| &pool.queue)
    }

    /// Posts the buffers that a connection gives back.
    ///
    /// # Errors
    /// The device is gone.
    pub(super) fn post(&mut self, share: &mut Share) -> Result<(), PostError> {
        if share.given.is_empty() {
            return Ok(());
        }
        match self.0.iter_mut().find(|pool| Arc::ptr_eq(pool.queue.device(), &share.device)) {
            Some(pool) => pool.post(share.given.drain(..)),
            None => Ok(()),
        }
    }

    /// Takes a part back, with whatever buffers its connection had. The last takes the pool with it.
    pub(super) fn leave(&mut self, mut share: Share) {
        let Some(at) = self.0.iter().position(|pool| Arc::ptr_eq(pool.queue.device(), &share.device)) else { return };
        let pool = &mut self.0[at];
        (pool.connections, pool.entries) = (pool.connections - 1, pool.entries - share.entries);
        if pool.connections == 0 {
            self.0.swap_remove(at);
        } else if let Err(error) = pool.post(share.given.drain(..).chain(share.taken.drain(..))) {
            tracing::error!("{}: {error}", share.device.name());
        }
    }
}

impl Pool {
    fn new(device: &Arc<Device>, count: u32) -> Result<Self, Trouble> {
        let there = device.attributes().max_srq_wr;
        if count > there {
            return Err(Trouble::TooMany { wanted: count, there });
        }
        let mut queue = SharedReceiveQueue::new(device, count, 1)?;
        let region = Arc::new(Region::new(buffer(count).offset as usize)?);
        let memory = queue.attach(&Registration::new(device, region.clone(), Access::Local)?)?;
        let mut pool = Self { queue, memory, region, connections: 0, entries: 0 };
        pool.post(0..count)?;
        Ok(pool)
    }

    fn post(&mut self, buffers: impl Iterator<Item = u32>) -> Result<(), PostError> {
        for index in buffers {
            self.queue.push_receive(Work::Capsule(index).id(), &[Piece { memory: self.memory, range: buffer(index) }]);
        }
        self.queue.post_receives().map(drop)
    }
}

impl Share {
    /// The buffers.
    pub(super) fn region(&self) -> &Region {
        &self.region
    }

    /// A capsule has come.
    #[inline]
    pub(super) fn take(&mut self, capsule: u32) {
        self.taken.push(capsule);
    }

    /// Its buffer can take another.
    #[inline]
    pub(super) fn give_back(&mut self, capsule: u32) {
        if let Some(at) = self.taken.iter().rposition(|&taken| taken == capsule) {
            self.taken.swap_remove(at);
            self.given.push(capsule);
        }
    }
}
