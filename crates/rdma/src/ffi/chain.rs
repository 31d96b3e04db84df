//! Work requests that are posted together: arrays made once, filled from the front, linked as they are filled.

use std::{ffi::c_int, ops::BitOr, ptr, sync::Arc};

use doorbell_platform::Range;

use super::{
    device::Device,
    memory::{Extent, Registration},
    types::*,
};
use crate::{Error, PostError};

/// Registered memory, as the queue that it was attached to knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory(usize);

/// A range of registered memory.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    /// Which memory.
    pub memory: Memory,
    /// Where in it.
    pub range: Range,
}

/// A place in the peer's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remote {
    /// As the peer named it.
    pub address: u64,
    /// The peer's key.
    pub key: u32,
}

/// How a send-side work request is carried out; `|` joins them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u32);

impl Flags {
    /// Nothing special: success is not reported, failure always is.
    pub const NONE: Self = Self(0);
    /// Report success too.
    pub const SIGNALED: Self = Self(IBV_SEND_SIGNALED);
    /// Wake a peer that waits for solicited completions.
    pub const SOLICITED: Self = Self(IBV_SEND_SOLICITED);
    /// Start only when RDMA READs before it are done.
    pub const FENCE: Self = Self(IBV_SEND_FENCE);
}

impl BitOr for Flags {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// What a queue can name, held for as long as the queue.
#[derive(Clone, Default)]
pub(super) struct Attached {
    extents: Vec<Extent>,
    held: Vec<Arc<Registration>>,
}

impl Attached {
    pub fn attach(&mut self, device: &Arc<Device>, registration: &Arc<Registration>) -> Result<Memory, Error> {
        if !Arc::ptr_eq(registration.device(), device) {
            return Err(Error::OtherDevice("the registered memory"));
        }
        self.extents.push(registration.extent());
        self.held.push(registration.clone());
        Ok(Memory(self.extents.len() - 1))
    }
}

/// A work request of either kind.
pub(super) trait Request: Sized {
    const CALL: &'static str;
    fn set_next(&mut self, next: *mut Self);
}

impl Request for ibv_send_wr {
    const CALL: &'static str = "ibv_post_send";
    fn set_next(&mut self, next: *mut Self) {
        self.next = next;
    }
}

impl Request for ibv_recv_wr {
    const CALL: &'static str = "ibv_post_recv";
    fn set_next(&mut self, next: *mut Self) {
        self.next = next;
    }
}

/// Work requests that are not posted yet, each with its pieces. Neither array ever grows past the capacity it was made with.
pub(super) struct Chain<R> {
    requests: Vec<R>,
    pieces: Vec<ibv_sge>,
    capacity: usize,
    most_pieces: usize,
}

// SAFETY: the pointers in the requests lead into the chain itself, which is only reached through an exclusive reference.
unsafe impl<R> Send for Chain<R> {}

impl<R: Request> Chain<R> {
    /// Room for `capacity` requests with at most `most_pieces` each.
    pub fn new(capacity: usize, most_pieces: usize) -> Self {
        let pieces = Vec::with_capacity(capacity.saturating_mul(most_pieces));
        Self { requests: Vec::with_capacity(capacity), pieces, capacity, most_pieces }
    }

    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// Adds a request, which `make` builds of the address and count of its pieces and of their length in all.
    ///
    /// # Panics
    /// When the chain is full, or a piece too many, of memory that is not attached or outside of it.
    #[inline]
    fn push(&mut self, attached: &Attached, pieces: &[Piece], make: impl FnOnce(*mut ibv_sge, c_int, u64) -> R) {
        assert!(self.requests.len() < self.capacity, "more work requests than the queue was made for");
        assert!(pieces.len() <= self.most_pieces, "more pieces than the queue was made for");
        let first = self.pieces.len();
        let mut bytes = 0;
        for piece in pieces {
            bytes += u64::from(piece.range.len);
            self.pieces.push(attached.extents[piece.memory.0].piece(piece.range));
        }
        // Both counts are checked above, so neither push moves its array.
        let list = self.pieces.as_mut_ptr().wrapping_add(first);
        self.requests.push(make(list, pieces.len() as c_int, bytes));
    }

    /// Links the requests, hands them over with one call and forgets them.
    #[inline]
    pub fn post(&mut self, call: impl FnOnce(*mut R, *mut *mut R) -> c_int) -> Result<usize, PostError> {
        let count = self.requests.len();
        if count == 0 {
            return Ok(0);
        }
        let first = self.requests.as_mut_ptr();
        for at in 1..count {
            // SAFETY: both places are requests of the array.
            unsafe { (*first.add(at - 1)).set_next(first.add(at)) };
        }
        let mut refused = ptr::null_mut();
        let code = call(first, &raw mut refused);
        self.requests.clear();
        self.pieces.clear();
        if code == 0 {
            return Ok(count);
        }
        let taken = (refused.addr().wrapping_sub(first.addr()) / size_of::<R>()).min(count);
        // Some providers answer with a negative number.
        Err(PostError { call: R::CALL, taken, source: std::io::Error::from_raw_os_error(code.abs()) })
    }
}

impl Chain<ibv_send_wr> {
    /// Adds a request of the send side; one with no more than `inline` bytes carries them along.
    #[inline]
    pub fn push_send(&mut self, attached: &Attached, pieces: &[Piece], inline: u32, request: SendRequest) {
        self.push(attached, pieces, |sg_list, num_sge, bytes| {
            let may_carry = request.opcode != IBV_WR_RDMA_READ && bytes <= u64::from(inline);
            ibv_send_wr {
                wr_id: request.id,
                next: ptr::null_mut(),
                sg_list,
                num_sge,
                opcode: request.opcode,
                send_flags: request.flags.0 | if may_carry { IBV_SEND_INLINE } else { 0 },
                invalidate_rkey: request.invalidate,
                remote_addr: request.remote.address,
                rkey: request.remote.key,
                _unions: [0; 19],
            }
        });
    }
}

/// What a request of the send side has besides its pieces.
pub(super) struct SendRequest {
    pub id: u64,
    pub opcode: u32,
    pub flags: Flags,
    pub invalidate: u32,
    pub remote: Remote,
}

impl Chain<ibv_recv_wr> {
    /// Adds a receive.
    #[inline]
    pub fn push_receive(&mut self, attached: &Attached, id: u64, pieces: &[Piece]) {
        self.push(attached, pieces, |sg_list, num_sge, _| ibv_recv_wr {
            wr_id: id,
            next: ptr::null_mut(),
            sg_list,
            num_sge,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attached() -> Attached {
        Attached { extents: vec![Extent::of(0x1000, 4096, 5), Extent::of(0x10_0000, 64, 6)], held: Vec::new() }
    }

    fn piece(memory: usize, offset: u64, len: u32) -> Piece {
        Piece { memory: Memory(memory), range: Range { offset, len } }
    }

    /// What a provider sees of a request: number, opcode, flags, and of each piece address, length and key.
    type Seen = (u64, u32, u32, Vec<(u64, u32, u32)>);

    /// The requests of a chain, as a provider follows it.
    fn walk_sends(mut request: *mut ibv_send_wr) -> Vec<Seen> {
        let mut seen = Vec::new();
        while !request.is_null() {
            // SAFETY: a chain that is being posted.
            unsafe {
                let one = &*request;
                let pieces = (0..one.num_sge as usize).map(|at| &*one.sg_list.add(at));
                let pieces = pieces.map(|sge| (sge.addr, sge.length, sge.lkey)).collect();
                seen.push((one.wr_id, one.opcode, one.send_flags, pieces));
                request = one.next;
            }
        }
        seen
    }

    fn send(id: u64, opcode: u32, flags: Flags) -> SendRequest {
        SendRequest { id, opcode, flags, invalidate: 0, remote: Remote { address: 9, key: 8 } }
    }

    #[test]
    fn a_chain_is_posted_in_order_with_its_pieces_and_is_empty_then() {
        let mut chain = Chain::new(3, 2);
        for _ in 0..2 {
            chain.push_send(&attached(), &[piece(0, 64, 64)], 64, send(1, IBV_WR_SEND, Flags::SIGNALED));
            chain.push_send(
                &attached(),
                &[piece(1, 0, 64), piece(0, 0, 8)],
                64,
                send(2, IBV_WR_RDMA_WRITE, Flags::NONE),
            );
            chain.push_send(&attached(), &[piece(0, 128, 16)], 64, send(3, IBV_WR_RDMA_READ, Flags::FENCE));
            let mut seen = Vec::new();
            let posted = chain.post(|first, _| {
                seen = walk_sends(first);
                0
            });
            assert_eq!(posted.unwrap(), 3);
            let signaled_inline = IBV_SEND_SIGNALED | IBV_SEND_INLINE;
            assert_eq!(seen[0], (1, IBV_WR_SEND, signaled_inline, vec![(0x1040, 64, 5)]));
            assert_eq!(seen[1], (2, IBV_WR_RDMA_WRITE, 0, vec![(0x10_0000, 64, 6), (0x1000, 8, 5)]));
            assert_eq!(seen[2], (3, IBV_WR_RDMA_READ, IBV_SEND_FENCE, vec![(0x1080, 16, 5)]));
            assert_eq!(chain.len(), 0);
        }
        assert_eq!(chain.post(|_, _| unreachable!("nothing to post")).unwrap(), 0);
    }

    #[test]
    fn a_refused_request_says_how_many_were_taken() {
        let mut chain = Chain::new(4, 1);
        for id in 0..4 {
            chain.push_receive(&attached(), id, &[piece(1, 16 * id, 16)]);
        }
        let error = chain.post(|first, refused| {
            // SAFETY: the chain has four requests.
            unsafe { *refused = first.add(3) };
            -libc::ENOMEM
        });
        let error = error.unwrap_err();
        assert_eq!((error.call, error.taken, error.source.raw_os_error()), ("ibv_post_recv", 3, Some(libc::ENOMEM)));
        assert_eq!(chain.len(), 0);
    }

    #[test]
    #[should_panic(expected = "more work requests")]
    fn a_chain_takes_no_more_than_it_was_made_for() {
        let mut chain = Chain::new(1, 1);
        for id in 0..64 {
            chain.push_receive(&attached(), id, &[]);
        }
    }

    #[test]
    #[should_panic(expected = "more pieces")]
    fn a_request_takes_no_more_pieces_than_it_was_made_for() {
        Chain::new(1, 1).push_receive(&attached(), 1, &[piece(0, 0, 1); 2]);
    }
}
