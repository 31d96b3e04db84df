//! Completion queues, and channels that announce completions.

use std::{
    ffi::{c_int, c_void},
    fmt, io,
    os::fd::{AsFd, BorrowedFd},
    ptr::{self, NonNull},
    sync::Arc,
};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::{device::Device, types::*};
use crate::{Error, Opcode, Status};

/// A work completion, as the device wrote it.
#[repr(transparent)]
#[derive(Clone, Copy, Default)]
pub struct Completion(ibv_wc);

impl Completion {
    /// One that a device could have written, for tests that play one.
    pub fn of(id: u64, status: Status, opcode: Opcode, bytes: u32, invalidated: Option<u32>) -> Self {
        Self(ibv_wc {
            wr_id: id,
            status: status.0,
            opcode: opcode.0,
            byte_len: bytes,
            invalidated_rkey: invalidated.unwrap_or_default(),
            wc_flags: if invalidated.is_some() { IBV_WC_WITH_INV } else { 0 },
            ..ibv_wc::default()
        })
    }

    /// The number that the work request was posted with.
    #[inline]
    pub fn id(&self) -> u64 {
        self.0.wr_id
    }

    /// How it ended. Unless it is a success only the number and the queue are of meaning.
    #[inline]
    pub fn status(&self) -> Status {
        Status(self.0.status)
    }

    /// What it completes.
    #[inline]
    pub fn opcode(&self) -> Opcode {
        Opcode(self.0.opcode)
    }

    /// Bytes that a receive brought, or an RDMA READ.
    #[inline]
    pub fn bytes(&self) -> u32 {
        self.0.byte_len
    }

    /// The queue pair ([`super::QueuePair::number`]): with a shared receive queue, who received.
    #[inline]
    pub fn queue(&self) -> u32 {
        self.0.qp_num
    }

    /// The key of ours that the peer invalidated with the message received.
    #[inline]
    pub fn invalidated(&self) -> Option<u32> {
        (self.0.wc_flags & IBV_WC_WITH_INV != 0).then_some(self.0.invalidated_rkey)
    }

    /// The vendor's word on an error.
    pub fn vendor_error(&self) -> u32 {
        self.0.vendor_err
    }
}

impl fmt::Debug for Completion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = f.debug_struct("Completion");
        fields.field("id", &self.id()).field("status", &self.status()).field("queue", &self.queue());
        fields.field("opcode", &self.opcode()).field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

/// Where the work requests of queue pairs are reported done.
pub struct CompletionQueue {
    handle: NonNull<ibv_cq>,
    poll: PollCq,
    notify: ReqNotifyCq,
    capacity: u32,
    device: Arc<Device>,
    channel: Option<Arc<Channel>>,
}

// SAFETY: verbs may be called from any thread, at once.
unsafe impl Send for CompletionQueue {}
// SAFETY: as above.
unsafe impl Sync for CompletionQueue {}

impl CompletionQueue {
    /// A queue of at least `entries`, which can never grow: it must have room for all that its queue pairs post, as one that runs over
    /// is lost with all of them. With a channel, completions are announced there once [`Self::arm`] asked for it.
    ///
    /// # Errors
    /// `ibv_create_cq` refused, for more than [`super::Attributes::max_cqe`] entries above all; a channel of another device.
    pub fn new(device: &Arc<Device>, entries: u32, channel: Option<&Arc<Channel>>) -> Result<Arc<Self>, Error> {
        if channel.is_some_and(|channel| !Arc::ptr_eq(&channel.device, device)) {
            return Err(Error::OtherDevice("the completion channel"));
        }
        let entries = c_int::try_from(entries).unwrap_or(c_int::MAX);
        let announce = channel.map_or(ptr::null_mut(), |channel| channel.handle.as_ptr());
        // SAFETY: context and channel are open, and held until the queue is destroyed.
        let handle =
            unsafe { (device.library().ibv_create_cq)(device.context(), entries, ptr::null_mut(), announce, 0) };
        let handle = NonNull::new(handle).ok_or_else(|| Error::last("ibv_create_cq"))?;
        // SAFETY: an open context has these functions.
        let (poll, notify, capacity) = unsafe {
            let ops = &(*device.context()).ops;
            (ops.poll_cq, ops.req_notify_cq, (*handle.as_ptr()).cqe.max(0) as u32)
        };
        Ok(Arc::new(Self { handle, poll, notify, capacity, device: device.clone(), channel: channel.cloned() }))
    }

    /// The device.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    pub(super) fn handle(&self) -> *mut ibv_cq {
        self.handle.as_ptr()
    }

    /// Completions that it has room for.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// The channel it was made with.
    pub fn channel(&self) -> Option<&Arc<Channel>> {
        self.channel.as_ref()
    }

    /// Takes completions into the caller's array, oldest first; returns how many.
    ///
    /// # Errors
    /// The provider's: the queue is lost.
    #[inline]
    pub fn poll(&self, into: &mut [Completion]) -> Result<usize, Error> {
        let most = c_int::try_from(into.len()).unwrap_or(c_int::MAX);
        // SAFETY: the queue is open and the array has `most` places, of the very layout that is written.
        let count = unsafe { (self.poll)(self.handle.as_ptr(), most, into.as_mut_ptr().cast()) };
        usize::try_from(count).map_err(|_| Error::code("ibv_poll_cq", count))
    }

    /// Has the channel announce the next completion, once. Poll again after this: what came before is not announced.
    ///
    /// # Errors
    /// The provider's.
    pub fn arm(&self) -> Result<(), Error> {
        // SAFETY: the queue is open.
        match unsafe { (self.notify)(self.handle.as_ptr(), 0) } {
            0 => Ok(()),
            code => Err(Error::code("ibv_req_notify_cq", code)),
        }
    }
}

impl fmt::Debug for CompletionQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompletionQueue").field("capacity", &self.capacity).finish_non_exhaustive()
    }
}

impl Drop for CompletionQueue {
    fn drop(&mut self) {
        // SAFETY: queue pairs hold their completion queue, so none is left. Announcements are acknowledged as they are taken.
        unsafe { (self.device.library().ibv_destroy_cq)(self.handle.as_ptr()) };
    }
}

/// A descriptor that becomes readable when a completion queue that was armed has something.
pub struct Channel {
    handle: NonNull<ibv_comp_channel>,
    device: Arc<Device>,
}

// SAFETY: verbs may be called from any thread, at once.
unsafe impl Send for Channel {}
// SAFETY: as above.
unsafe impl Sync for Channel {}

impl Channel {
    /// A channel of a device.
    ///
    /// # Errors
    /// `ibv_create_comp_channel` refused: no descriptors are left, say.
    pub fn new(device: &Arc<Device>) -> Result<Arc<Self>, Error> {
        // SAFETY: the context is open, and held until the channel is destroyed.
        let handle = unsafe { (device.library().ibv_create_comp_channel)(device.context()) };
        let handle = NonNull::new(handle).ok_or_else(|| Error::last("ibv_create_comp_channel"))?;
        let channel = Self { handle, device: device.clone() };
        set_non_blocking(channel.as_fd())?;
        Ok(Arc::new(channel))
    }

    /// Takes all announcements, so that the descriptor is readable again with the next; returns how many there were.
    pub fn drain(&self) -> usize {
        let library = self.device.library();
        let (mut queue, mut context): (*mut ibv_cq, *mut c_void) = (ptr::null_mut(), ptr::null_mut());
        let mut count = 0;
        // SAFETY: the channel is open. A queue whose announcement was taken is not destroyed before that is acknowledged.
        unsafe {
            while (library.ibv_get_cq_event)(self.handle.as_ptr(), &raw mut queue, &raw mut context) == 0 {
                (library.ibv_ack_cq_events)(queue, 1);
                count += 1;
            }
        }
        count
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the channel has its descriptor open for as long as it lives.
        unsafe { BorrowedFd::borrow_raw((*self.handle.as_ptr()).fd) }
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Channel").field(&self.as_fd()).finish()
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // SAFETY: completion queues hold their channel, so none is left.
        unsafe { (self.device.library().ibv_destroy_comp_channel)(self.handle.as_ptr()) };
    }
}

/// Lets reads of a descriptor come back at once when there is nothing.
pub(super) fn set_non_blocking(fd: BorrowedFd<'_>) -> Result<(), Error> {
    fcntl_getfl(fd).and_then(|flags| fcntl_setfl(fd, flags | OFlags::NONBLOCK)).map_err(|error| Error::Call {
        call: "fcntl",
        source: io::Error::from(error),
        hint: None,
    })
}
