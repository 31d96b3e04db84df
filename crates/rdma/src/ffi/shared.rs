//! Receives that the queue pairs of a device share.

use std::{
    fmt, ptr,
    ptr::NonNull,
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    chain::{Attached, Chain, Memory, Piece},
    device::Device,
    memory::Registration,
    types::*,
};
use crate::{Error, PostError};

/// The queue at the device, which queue pairs hold.
pub(super) struct Shared {
    pub handle: NonNull<ibv_srq>,
    pub device: Arc<Device>,
    /// Memory of receives that are posted.
    held: Mutex<Vec<Arc<Registration>>>,
}

// SAFETY: verbs may be called from any thread, at once.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: queue pairs hold their shared receive queue, so none is left.
        unsafe { (self.device.library().ibv_destroy_srq)(self.handle.as_ptr()) };
    }
}

/// A shared receive queue: posts receives that any of its queue pairs takes when a message comes.
pub struct SharedReceiveQueue {
    shared: Arc<Shared>,
    post: PostSrqRecv,
    depth: u32,
    most_pieces: usize,
    attached: Attached,
    chain: Chain<ibv_recv_wr>,
}

impl SharedReceiveQueue {
    /// A queue of `depth` receives of at most `pieces` pieces each.
    ///
    /// # Errors
    /// `ibv_create_srq` refused: the device has none, or not that large ([`super::Attributes::max_srq_wr`]).
    pub fn new(device: &Arc<Device>, depth: u32, pieces: u32) -> Result<Self, Error> {
        let attr = ibv_srq_attr { max_wr: depth, max_sge: pieces, srq_limit: 0 };
        let mut wanted = ibv_srq_init_attr { srq_context: ptr::null_mut(), attr };
        // SAFETY: the domain is open, and held until the queue is destroyed.
        let handle = unsafe { (device.library().ibv_create_srq)(device.domain(), &raw mut wanted) };
        let handle = NonNull::new(handle).ok_or_else(|| Error::last("ibv_create_srq"))?;
        let shared = Arc::new(Shared { handle, device: device.clone(), held: Mutex::default() });
        // SAFETY: an open context has these functions.
        let post = unsafe { (*device.context()).ops.post_srq_recv };
        let most_pieces = pieces as usize;
        let chain = Chain::new(depth as usize, most_pieces);
        Ok(Self { shared, post, depth, most_pieces, attached: Attached::default(), chain })
    }

    /// The device.
    pub fn device(&self) -> &Arc<Device> {
        &self.shared.device
    }

    /// Receives that it has room for.
    pub fn depth(&self) -> u32 {
        self.depth
    }

    /// Makes registered memory known to the queue, which holds it from now on, as do its queue pairs.
    ///
    /// # Errors
    /// Memory of another device.
    pub fn attach(&mut self, registration: &Arc<Registration>) -> Result<Memory, Error> {
        let memory = self.attached.attach(&self.shared.device, registration)?;
        self.shared.held.lock().unwrap_or_else(PoisonError::into_inner).push(registration.clone());
        Ok(memory)
    }

    /// Adds a receive to the chain.
    ///
    /// # Panics
    /// When the chain has as many receives as the queue has room for, or a piece is not of memory attached here.
    #[inline]
    pub fn push_receive(&mut self, id: u64, pieces: &[Piece]) {
        self.chain.push_receive(&self.attached, id, pieces);
    }

    /// Posts the chain with one call; returns how many receives it had.
    ///
    /// # Errors
    /// The provider refused one; it and those behind it are forgotten.
    #[inline]
    pub fn post_receives(&mut self) -> Result<usize, PostError> {
        let (post, queue) = (self.post, self.shared.handle.as_ptr());
        // SAFETY: the queue is open; the chain and what it names live through the call, and what it names until the queue is gone.
        self.chain.post(|first, refused| unsafe { post(queue, first, refused) })
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Clone for SharedReceiveQueue {
    /// Another handle to the same queue, with an empty chain of its own: each of those who post has one, and none waits for another.
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            post: self.post,
            depth: self.depth,
            most_pieces: self.most_pieces,
            attached: self.attached.clone(),
            chain: Chain::new(self.depth as usize, self.most_pieces),
        }
    }
}

impl fmt::Debug for SharedReceiveQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedReceiveQueue").field("depth", &self.depth).finish_non_exhaustive()
    }
}
