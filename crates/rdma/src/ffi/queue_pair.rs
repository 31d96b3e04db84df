//! Queue pairs: reliable connected, made on an identifier of the connection manager.

use std::{ffi::c_int, fmt, mem, ptr, ptr::NonNull, sync::Arc};

use super::{
    chain::{Attached, Chain, Flags, Memory, Piece, Remote, SendRequest},
    completion::CompletionQueue,
    connection::{EventChannel, Identifier},
    device::Device,
    memory::Registration,
    shared::{Shared, SharedReceiveQueue},
    types::*,
};
use crate::{Error, PostError};

/// How large a queue pair is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueSize {
    /// Work requests of the send side that are posted and not done.
    pub sends: u32,
    /// Receives; of no meaning with a shared receive queue.
    pub receives: u32,
    /// Pieces of memory of one request of the send side.
    pub send_pieces: u32,
    /// Pieces of a receive.
    pub receive_pieces: u32,
    /// Sends and RDMA WRITEs of at most so many bytes carry them along instead of naming memory. A wish: see
    /// [`QueuePair::inline_limit`].
    pub inline: u32,
}

/// One end of a connection. Work requests are pushed and posted as one chain; whatever they name is held until this is dropped.
pub struct QueuePair {
    handle: NonNull<ibv_qp>,
    post_send: PostSend,
    post_recv: PostRecv,
    number: u32,
    inline: u32,
    closed: bool,
    sends: Chain<ibv_send_wr>,
    receives: Chain<ibv_recv_wr>,
    device: Arc<Device>,
    /// Goes before what the queue pair used, which the drop has destroyed by then.
    identifier: Identifier,
    attached: Attached,
    completions: Arc<CompletionQueue>,
    _shared: Option<Arc<Shared>>,
}

// SAFETY: verbs may be called from any thread; what they are given is the chains', reached through an exclusive reference.
unsafe impl Send for QueuePair {}

impl QueuePair {
    /// A queue pair on an identifier that has a device: whose address is resolved, or that came with a request to connect. Both sides
    /// report to `completions`; receives come from `shared`, if there is one.
    ///
    /// # Errors
    /// With the identifier: no device yet, completion queue or receive queue of another device, or `rdma_create_qp` refused.
    pub fn new(
        identifier: Identifier,
        size: QueueSize,
        completions: &Arc<CompletionQueue>,
        shared: Option<&SharedReceiveQueue>,
    ) -> Result<Self, (Identifier, Error)> {
        match Self::create(&identifier, size, completions, shared) {
            Ok((device, handle, inline)) => {
                // SAFETY: the queue pair is new and its context open.
                let (number, post_send, post_recv) = unsafe {
                    let ops = &(*device.context()).ops;
                    ((*handle.as_ptr()).qp_num, ops.post_send, ops.post_recv)
                };
                let receives = if shared.is_some() { 0 } else { size.receives as usize };
                Ok(Self {
                    handle,
                    post_send,
                    post_recv,
                    number,
                    inline,
                    closed: false,
                    sends: Chain::new(size.sends as usize, size.send_pieces as usize),
                    receives: Chain::new(receives, size.receive_pieces as usize),
                    device,
                    identifier,
                    attached: Attached::default(),
                    completions: completions.clone(),
                    _shared: shared.map(|queue| queue.shared().clone()),
                })
            }
            Err(error) => Err((identifier, error)),
        }
    }

    fn create(
        identifier: &Identifier,
        size: QueueSize,
        completions: &Arc<CompletionQueue>,
        shared: Option<&SharedReceiveQueue>,
    ) -> Result<(Arc<Device>, NonNull<ibv_qp>, u32), Error> {
        let device = identifier.device()?;
        if !Arc::ptr_eq(completions.device(), &device) {
            return Err(Error::OtherDevice("the completion queue"));
        }
        if shared.is_some_and(|queue| !Arc::ptr_eq(queue.device(), &device)) {
            return Err(Error::OtherDevice("the shared receive queue"));
        }
        let wanted = |inline| ibv_qp_init_attr {
            qp_context: ptr::null_mut(),
            send_cq: completions.handle(),
            recv_cq: completions.handle(),
            srq: shared.map_or(ptr::null_mut(), |queue| queue.shared().handle.as_ptr()),
            cap: ibv_qp_cap {
                max_send_wr: size.sends,
                max_recv_wr: if shared.is_some() { 0 } else { size.receives },
                max_send_sge: size.send_pieces,
                max_recv_sge: size.receive_pieces,
                max_inline_data: inline,
            },
            qp_type: IBV_QPT_RC,
            sq_sig_all: 0,
        };
        let mut attributes = wanted(size.inline);
        let handle = identifier.with(|library, id| {
            // SAFETY: the identifier is valid and locked; domain and queues are open, of its device, and held by the queue pair.
            unsafe {
                let mut code = (library.rdma_create_qp)(id, device.domain(), &raw mut attributes);
                if code != 0 && size.inline > 0 {
                    // A device without so much room for inline data says no to the whole.
                    attributes = wanted(0);
                    code = (library.rdma_create_qp)(id, device.domain(), &raw mut attributes);
                }
                if code == 0 { Ok((*id).qp) } else { Err(Error::last("rdma_create_qp")) }
            }
        })?;
        let handle = NonNull::new(handle).ok_or(Error::NoDevice)?;
        Ok((device, handle, attributes.cap.max_inline_data.min(size.inline)))
    }

    /// The number by which completions name it.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Bytes that a request may carry along: what was asked for, or 0 where the device has not so much room.
    pub fn inline_limit(&self) -> u32 {
        self.inline
    }

    /// Its device.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Where its completions come.
    pub fn completions(&self) -> &Arc<CompletionQueue> {
        &self.completions
    }

    /// The connection: to connect, accept, disconnect.
    pub fn identifier(&self) -> &Identifier {
        &self.identifier
    }

    /// Has the events of the connection come by another channel from now on.
    ///
    /// # Errors
    /// `rdma_migrate_id` refused.
    pub fn migrate(&mut self, channel: &EventChannel) -> Result<(), Error> {
        self.identifier.migrate(channel)
    }

    /// Makes registered memory known to the queue pair, which holds it from now on.
    ///
    /// # Errors
    /// Memory of another device.
    pub fn attach(&mut self, registration: &Arc<Registration>) -> Result<Memory, Error> {
        self.attached.attach(&self.device, registration)
    }

    /// Adds a message to the chain.
    ///
    /// # Panics
    /// This and the other `push` functions: when the chain has as many requests as the queue was made for, one has more pieces than
    /// that, or a piece is not of memory attached here.
    #[inline]
    pub fn push_send(&mut self, id: u64, pieces: &[Piece], flags: Flags) {
        let request = SendRequest { id, opcode: IBV_WR_SEND, flags, invalidate: 0, remote: NOWHERE };
        self.push(pieces, self.inline, request);
    }

    /// Adds a message that invalidates a key of the peer's, who asked for that.
    #[inline]
    pub fn push_send_invalidate(&mut self, id: u64, pieces: &[Piece], key: u32, flags: Flags) {
        // Soft iWARP takes the key from where that of an RDMA request is, where others do not look, and refuses to carry data along.
        let inline = if self.device.attributes().is_iwarp { 0 } else { self.inline };
        let request = SendRequest {
            id,
            opcode: IBV_WR_SEND_WITH_INV,
            flags,
            invalidate: key,
            remote: Remote { address: 0, key },
        };
        self.push(pieces, inline, request);
    }

    /// Adds an RDMA READ: brings the peer's memory into ours.
    #[inline]
    pub fn push_read(&mut self, id: u64, pieces: &[Piece], remote: Remote, flags: Flags) {
        let request = SendRequest { id, opcode: IBV_WR_RDMA_READ, flags, invalidate: 0, remote };
        self.push(pieces, 0, request);
    }

    /// Adds an RDMA WRITE: brings our memory into the peer's.
    #[inline]
    pub fn push_write(&mut self, id: u64, pieces: &[Piece], remote: Remote, flags: Flags) {
        let request = SendRequest { id, opcode: IBV_WR_RDMA_WRITE, flags, invalidate: 0, remote };
        self.push(pieces, self.inline, request);
    }

    #[inline]
    fn push(&mut self, pieces: &[Piece], inline: u32, request: SendRequest) {
        self.sends.push_send(&self.attached, pieces, inline, request);
    }

    /// Posts the chain with one call; returns how many requests it had.
    ///
    /// # Errors
    /// The provider refused one; it and those behind it are forgotten.
    #[inline]
    pub fn post_sends(&mut self) -> Result<usize, PostError> {
        let (post, queue) = (self.post_send, self.handle.as_ptr());
        // SAFETY: the queue is open; the chain and what it names live through the call, and what it names until the queue is gone.
        self.sends.post(|first, refused| unsafe { post(queue, first, refused) })
    }

    /// Requests of the send side in the chain.
    pub fn sends_pushed(&self) -> usize {
        self.sends.len()
    }

    /// Adds a receive to the chain of receives.
    #[inline]
    pub fn push_receive(&mut self, id: u64, pieces: &[Piece]) {
        self.receives.push_receive(&self.attached, id, pieces);
    }

    /// Posts the chain of receives with one call; returns how many it had.
    ///
    /// # Errors
    /// The provider refused one; it and those behind it are forgotten.
    #[inline]
    pub fn post_receives(&mut self) -> Result<usize, PostError> {
        let (post, queue) = (self.post_recv, self.handle.as_ptr());
        // SAFETY: as for sends.
        self.receives.post(|first, refused| unsafe { post(queue, first, refused) })
    }

    /// How long a peer waits that finds no receive here, by the table of the specification (IBA 9.7.5.2.8), once it is connected.
    ///
    /// # Errors
    /// `ibv_modify_qp` refused: iWARP knows no such wait.
    pub fn set_rnr_timer(&self, code: u8) -> Result<(), Error> {
        self.modify(IBV_QP_STATE | IBV_QP_MIN_RNR_TIMER, |attributes| {
            (attributes.qp_state, attributes.min_rnr_timer) = (IBV_QPS_RTS, code);
        })
    }

    /// Puts it in the error state: everything posted comes back, flushed, and so does whatever is posted after. A request posted last
    /// is a marker behind which nothing is left. Not so over iWARP: soft iWARP need not look at what a process posts after that, and
    /// nobody can know what was posted before, as the peer can end the connection at any time. There, [`Self::close`] is the end.
    ///
    /// # Errors
    /// `ibv_modify_qp` refused: the device is gone.
    pub fn fail(&self) -> Result<(), Error> {
        self.modify(IBV_QP_STATE, |attributes| attributes.qp_state = IBV_QPS_ERR)
    }

    /// Destroys it at the device, before its drop: what is posted may have no completion, and neither that nor the peer touches memory
    /// any more. Whatever is asked of it after that is refused.
    pub fn close(&mut self) {
        if !std::mem::replace(&mut self.closed, true) {
            (self.post_send, self.post_recv) = (refuse_send, refuse_receive);
            // SAFETY: the identifier is valid and locked, and the queue pair on it is this one, whose handle is not used again.
            self.identifier.with(|library, id| unsafe { (library.rdma_destroy_qp)(id) });
        }
    }

    fn modify(&self, mask: c_int, set: impl FnOnce(&mut ibv_qp_attr)) -> Result<(), Error> {
        if self.closed {
            return Err(Error::code("ibv_modify_qp", libc::EINVAL));
        }
        // SAFETY: all zeros are a valid structure, of which the mask names what is read.
        let mut attributes: ibv_qp_attr = unsafe { mem::zeroed() };
        set(&mut attributes);
        // SAFETY: the queue is open: it is not closed.
        match unsafe { (self.device.library().ibv_modify_qp)(self.handle.as_ptr(), &raw mut attributes, mask) } {
            0 => Ok(()),
            code => Err(Error::code("ibv_modify_qp", code)),
        }
    }
}

/// Of a request that names none of the peer's memory.
const NOWHERE: Remote = Remote { address: 0, key: 0 };

impl fmt::Debug for QueuePair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueuePair")
            .field("number", &self.number)
            .field("device", &self.device.name())
            .finish_non_exhaustive()
    }
}

impl Drop for QueuePair {
    fn drop(&mut self) {
        self.close();
    }
}

/// Takes the place of the provider's function in a queue pair that is closed: takes nothing.
unsafe extern "C" fn refuse_send(_: *mut ibv_qp, first: *mut ibv_send_wr, refused: *mut *mut ibv_send_wr) -> c_int {
    // SAFETY: the caller's place for the request that was refused.
    unsafe { *refused = first };
    libc::ENOTCONN
}

/// As above.
unsafe extern "C" fn refuse_receive(_: *mut ibv_qp, first: *mut ibv_recv_wr, refused: *mut *mut ibv_recv_wr) -> c_int {
    // SAFETY: as above.
    unsafe { *refused = first };
    libc::ENOTCONN
}
