//! The contract of an I/O queue: one shape for a TCP connection, a ring pair of a PCIe device, an RDMA queue pair or an io_uring.
//!
//! The load engine drives every kind with one loop: `submit` takes commands, `commit` tells the peer, `reap` returns what is done.
//! A *slot* is one command of a queue, numbered from 0; its memory is prepared once and used for every command in it. Built-in
//! transports are compiled into the loop; others come as `Box<dyn IoQueue>`, a call a batch. [`null::NullQueue`] completes in
//! memory: it proves the contract and measures the loop itself.

pub mod cid;
pub mod null;
pub mod protection;
pub mod rings;
pub mod standing;

use std::{os::fd::RawFd, sync::Arc, time::Duration};

use doorbell_platform::{Arena, Backing, Range};
use doorbell_spec::{
    command::{Command, control},
    status::Status,
};

/// One command of a queue, `0..slots`.
pub type Slot = u16;

/// Most completions one [`IoQueue::reap`] returns: few enough to stay in the nearest cache until they are recorded.
pub const REAP_BATCH: usize = 32;

/// One I/O command for a prepared slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Op {
    /// The idle slot that carries it.
    pub slot: Slot,
    /// Opcode of the NVM command set.
    pub opcode: u8,
    /// Namespace.
    pub nsid: u32,
    /// First logical block.
    pub slba: u64,
    /// Logical blocks, 1-based.
    pub blocks: u32,
    /// Upper half of command dword 12: FUA, limited retry, PRINFO.
    pub control: u16,
    /// Application tag of each block, looked at in full where `control` asks for a check of it (command dword 15).
    pub application: u16,
    /// Reference tag of the first block behind a storage tag of zero (command dwords 14, the lower half, and 3).
    pub reference: u64,
}

// A batch of commands is copied on its way.
const _: () = assert!(size_of::<Op>() <= 32);

impl Op {
    /// The command as it goes on the wire, without identifier and data pointer (the queue's part).
    #[inline]
    pub fn command(&self) -> Command {
        let mut command = doorbell_spec::command::read(self.nsid, self.slba, self.blocks, self.control);
        command.opc = self.opcode;
        command.cdw3 = ((self.reference >> 32) as u32).into();
        command.cdw14 = (self.reference as u32).into();
        command.cdw15 = (self.tag_and_mask() as u32).into();
        command
    }

    /// Command dword 15: the application tag and which of its bits are looked at.
    #[inline]
    fn tag_and_mask(&self) -> u64 {
        let looked_at = (self.control & control::PRCHK_APP) / control::PRCHK_APP;
        u64::from(self.application) | u64::from(looked_at.wrapping_neg()) << 16
    }

    /// The same as quadwords, which a processor can write without having built the command first.
    #[inline]
    pub fn words(&self) -> [u64; 8] {
        let blocks = u64::from(self.blocks.clamp(1, 1 << 16) - 1);
        let first = u64::from(self.opcode) | u64::from(self.nsid) << 32;
        let lengths = blocks | u64::from(self.control) << 16;
        let (lower, upper) = (self.reference << 32 >> 32, self.reference >> 32 << 32);
        let tags = lower | self.tag_and_mask() << 32;
        [first.to_le(), upper.to_le(), 0, 0, 0, self.slba.to_le(), lengths.to_le(), tags.to_le()]
    }
}

/// A command that is over: its status is known and its memory is the caller's again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// The slot, idle from now on.
    pub slot: Slot,
    /// How it ended; [`Status::is_success`] or not.
    pub status: Status,
    /// Command-specific dwords 0 and 1 of the completion.
    pub result: u64,
}

impl Default for Done {
    /// A place to be filled by [`IoQueue::reap`].
    fn default() -> Self {
        Self { slot: 0, status: Status::SUCCESS, result: 0 }
    }
}

/// Whether everything that was committed has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The peer can see all submitted commands.
    Complete,
    /// Some still wait for room on the way: commit again.
    Pending,
}

/// The queue is lost: what happened, for people. Outstanding slots still come out of `reap`, aborted, after [`IoQueue::stop`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Down(pub String);

/// What memory must be for a queue, and what a command may carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Commands that can be outstanding at once.
    pub slots: u16,
    /// Alignment of each data range in bytes, a power of two.
    pub alignment: u32,
    /// Most ranges in one command.
    pub segments: u16,
    /// Most data bytes in one command.
    pub bytes: u32,
    /// What the arena must be made of.
    pub backing: Backing,
}

/// Whether memory is safe to reuse after [`IoQueue::stop`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drain {
    /// Commands are outstanding.
    Busy,
    /// Nothing is outstanding, all memory is back.
    Clean,
    /// That many commands are over whose memory the peer may still touch: it must be leaked.
    Quarantined(u32),
}

/// How to wait for completions without polling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Completions are there already: reap.
    Ready,
    /// Wait until this descriptor is readable (and writable too, when `writable`).
    Fd {
        /// The descriptor; it stays the queue's.
        fd: RawFd,
        /// Unsent commands wait for room.
        writable: bool,
    },
}

/// What a queue counted since memory was attached to it; the labels are those of `--transport-stats`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Calls of `reap`.
    pub polls: u64,
    /// Of these, calls that found nothing.
    pub idle_polls: u64,
    /// Receives that brought bytes (sockets only).
    pub socket_completions: u64,
    /// Work completions, of sends and of receives (RDMA only).
    pub work_completions: u64,
    /// Commands completed.
    pub completions: u64,
    /// Commands submitted.
    pub submitted: u64,
    /// Commands not taken for lack of a slot or of room.
    pub queued: u64,
    /// Writes of the submission queue's doorbell register; chains of sends posted (rings and RDMA only).
    pub sq_doorbells: u64,
    /// Writes of its shadow doorbell.
    pub sq_shadow_doorbells: u64,
    /// Writes of the completion queue's doorbell register (rings only).
    pub cq_doorbells: u64,
    /// Writes of its shadow doorbell.
    pub cq_shadow_doorbells: u64,
    /// Receives posted (RDMA only).
    pub receives: u64,
    /// Chains of them.
    pub receive_doorbells: u64,
}

/// An error of a call that prepares a queue, for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PrepareError(pub String);

/// An I/O queue. It moves to its worker's thread before the first `attach` and stays there; no call blocks, and none allocates
/// or locks after `prepare`.
pub trait IoQueue: Send {
    /// What memory must be like; constant.
    fn needs(&self) -> Needs;

    /// Makes an arena known to the transport, once, before the first `prepare`.
    ///
    /// # Errors
    /// When the transport cannot use the memory.
    fn attach(&mut self, arena: &Arc<Arena>) -> Result<(), PrepareError>;

    /// Says which ranges of the arena the commands in an idle slot use from now on.
    ///
    /// # Errors
    /// When `data` breaks what [`IoQueue::needs`] states, or the slot does not exist or is busy.
    fn prepare(&mut self, slot: Slot, data: &[Range]) -> Result<(), PrepareError>;

    /// Says where in the arena the metadata of a prepared slot's commands is, apart from their data. The next `prepare` of the slot
    /// takes it back. A queue whose transport has no place for it refuses: there metadata goes behind the data of each block.
    ///
    /// # Errors
    /// When the transport has no metadata pointer, or as for [`IoQueue::prepare`].
    fn prepare_metadata(&mut self, slot: Slot, _metadata: Range) -> Result<(), PrepareError> {
        Err(PrepareError(format!(
            "slot {slot}: this transport carries no metadata apart from the data; format the namespace for metadata behind the data \
             of each block (extended blocks), or test it over PCIe or vfio-user"
        )))
    }

    /// Takes the longest prefix of `ops` there is room for and returns its length. The peer sees nothing yet.
    fn submit(&mut self, ops: &[Op]) -> usize;

    /// Takes any command for a prepared slot (admin, flush, passthrough), its identifier and data pointer to be set by the queue.
    /// Returns whether there was room.
    fn submit_raw(&mut self, slot: Slot, command: &Command) -> bool;

    /// Shows the peer what was submitted, as one batch.
    ///
    /// # Errors
    /// When the queue is lost.
    fn commit(&mut self) -> Result<Progress, Down>;

    /// Whether a commit costs next to nothing, so that a batch is best shown as soon as it is made.
    fn commits_cheaply(&self) -> bool {
        false
    }

    /// Fills `done` with what is over and returns how many. All that arrived before a loss comes out before `Down`.
    ///
    /// # Errors
    /// When the queue is lost and nothing that arrived is left.
    fn reap(&mut self, done: &mut [Done]) -> Result<usize, Down>;

    /// Ends the queue: no submits after this, and each outstanding slot is reaped once with status
    /// "command aborted due to SQ deletion".
    fn stop(&mut self);

    /// Whether memory is back after `stop`.
    fn drained(&self) -> Drain;

    /// Prepares to sleep until something is to be reaped.
    ///
    /// # Errors
    /// When the queue is lost.
    fn arm(&mut self) -> Result<Wait, Down>;

    /// Sleeps until something may be to be reaped, or at most for a span, in a wait of the queue's own, which costs less than a
    /// descriptor; `false`, at once, where there is none and [`IoQueue::arm`] is the way. For a worker that waits for this queue alone.
    ///
    /// # Errors
    /// When the queue is lost.
    fn sleep(&mut self, _longest: Duration) -> Result<bool, Down> {
        Ok(false)
    }

    /// Whether [`IoQueue::sleep`] commits, too, so that one call does for both.
    fn sleep_commits(&self) -> bool {
        false
    }

    /// What was counted.
    fn counters(&self) -> Counters;

    /// How an Abort names the command in a slot: SQID and CID. `None` when the slot is idle, or commands cannot be aborted here.
    fn named(&self, _slot: Slot) -> Option<(u16, u16)> {
        None
    }

    /// Asks for the end of the command in a slot by means of the queue's own, at once, and says whether that was possible; `None` where
    /// an Abort of the controller's is the way.
    fn cancel(&mut self, _slot: Slot) -> Option<bool> {
        None
    }

    /// The name of the device that carries the queue, where its counters are told by device (RDMA).
    fn device(&self) -> Option<&str> {
        None
    }
}

impl<Q: IoQueue + ?Sized> IoQueue for Box<Q> {
    fn needs(&self) -> Needs {
        (**self).needs()
    }
    fn attach(&mut self, arena: &Arc<Arena>) -> Result<(), PrepareError> {
        (**self).attach(arena)
    }
    fn prepare(&mut self, slot: Slot, data: &[Range]) -> Result<(), PrepareError> {
        (**self).prepare(slot, data)
    }
    fn prepare_metadata(&mut self, slot: Slot, metadata: Range) -> Result<(), PrepareError> {
        (**self).prepare_metadata(slot, metadata)
    }
    fn submit(&mut self, ops: &[Op]) -> usize {
        (**self).submit(ops)
    }
    fn submit_raw(&mut self, slot: Slot, command: &Command) -> bool {
        (**self).submit_raw(slot, command)
    }
    fn commit(&mut self) -> Result<Progress, Down> {
        (**self).commit()
    }
    fn commits_cheaply(&self) -> bool {
        (**self).commits_cheaply()
    }
    fn reap(&mut self, done: &mut [Done]) -> Result<usize, Down> {
        (**self).reap(done)
    }
    fn stop(&mut self) {
        (**self).stop();
    }
    fn drained(&self) -> Drain {
        (**self).drained()
    }
    fn arm(&mut self) -> Result<Wait, Down> {
        (**self).arm()
    }
    fn sleep_commits(&self) -> bool {
        (**self).sleep_commits()
    }
    fn sleep(&mut self, longest: Duration) -> Result<bool, Down> {
        (**self).sleep(longest)
    }
    fn counters(&self) -> Counters {
        (**self).counters()
    }
    fn named(&self, slot: Slot) -> Option<(u16, u16)> {
        (**self).named(slot)
    }
    fn cancel(&mut self, slot: Slot) -> Option<bool> {
        (**self).cancel(slot)
    }
    fn device(&self) -> Option<&str> {
        (**self).device()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_command_are_its_bytes() {
        for blocks in [0, 1, 8, 65_536, u32::MAX] {
            for (control, reference) in [(0xc0de, 0x1234_89ab_cdef_f00d), (control::PRCHK_APP, 0xffff_ffff), (0, 0)] {
                let op = Op {
                    slot: 3,
                    opcode: 0xfe,
                    nsid: 0x8765_4321,
                    slba: u64::MAX - 5,
                    blocks,
                    control,
                    application: 0xabcd,
                    reference,
                };
                let command: [u64; 8] = zerocopy::transmute!(op.command());
                assert_eq!(op.words(), command);
            }
        }
    }
}
