//! Reads, writes, flushes, trims and writes of zeroes by io_uring.

use std::{
    io,
    os::fd::{OwnedFd, RawFd},
    sync::Arc,
    time::Duration,
};

use doorbell_platform::{
    Range, Region,
    uring::{self, Clearing, Settings},
};
use doorbell_queue::{Op, Slot};
use doorbell_spec::{
    command::{DsmRange, NvmOpcode},
    status::Status,
};
use zerocopy::IntoBytes;

use crate::{
    advice,
    file::{File, Options},
    libaio::{action, durable},
    queue::{Backend, status_of},
};

/// The way of io_uring.
#[derive(Debug)]
pub struct Uring {
    ring: uring::Uring,
    block_size: u64,
    region: Arc<Region>,
    trim: Clearing,
}

impl Uring {
    /// What an operation clears, and its first block and how many. The blocks of a trim are in the data of its command.
    #[inline]
    fn cleared(&self, op: &Op, memory: Range) -> Option<(Clearing, u64, u32)> {
        match NvmOpcode(op.opcode) {
            NvmOpcode::DATASET_MANAGEMENT => {
                let mut range = DsmRange::default();
                self.region.read(memory.offset, range.as_mut_bytes());
                Some((self.trim, range.slba.get(), range.nlb.get()))
            }
            NvmOpcode::WRITE_ZEROES => Some((Clearing::Zeroes, op.slba, op.blocks)),
            _ => None,
        }
    }
}

/// A ring for a file, or why there is none.
pub(crate) fn ring<R>(
    file: &File,
    slots: u16,
    region: Arc<Region>,
    make: fn(OwnedFd, Arc<Region>, Settings) -> io::Result<R>,
) -> Result<R, String> {
    let Options { iopoll, sqpoll, registered, .. } = *file.options();
    let settings = Settings { depth: slots.into(), iopoll, sqpoll, registered };
    let bytes = region.len();
    let ring = file.descriptor().and_then(|descriptor| make(descriptor, region, settings));
    ring.map_err(|error| advice::uring(file.name(), slots, registered, bytes, &error))
}

impl Backend for Uring {
    fn open(file: &File, slots: u16, region: Arc<Region>) -> Result<Self, String> {
        let ring = ring(file, slots, region.clone(), uring::Uring::new)?;
        let trim = if file.is_device() { Clearing::Discard } else { Clearing::Hole };
        Ok(Self { ring, block_size: file.block_size().into(), region, trim })
    }

    #[inline]
    fn push(&mut self, op: &Op, memory: Range) -> Result<bool, Status> {
        if let Some((clearing, first, blocks)) = self.cleared(op, memory) {
            let [at, len] = [first, blocks.into()].map(|blocks| blocks.wrapping_mul(self.block_size));
            return Ok(self.ring.clear(op.slot.into(), clearing, at, len));
        }
        let action = action(op)?;
        let at = op.slba.wrapping_mul(self.block_size);
        Ok(self.ring.push(op.slot.into(), action, memory, at, durable(op, action)))
    }

    #[inline]
    fn submit(&mut self, _: impl FnMut(Slot, Status)) -> io::Result<bool> {
        self.ring.submit()
    }

    #[inline]
    fn reap(&mut self, most: usize, mut over: impl FnMut(Slot, i64, u64)) -> io::Result<usize> {
        self.ring.reap(most, |slot, answer| over(slot as Slot, answer, 0))
    }

    #[inline]
    fn status(answer: i64, moves: u32) -> Status {
        status_of(answer, moves)
    }

    fn ready(&self) -> u32 {
        self.ring.ready()
    }

    fn sleep_submits(&self) -> bool {
        self.ring.can_sleep()
    }

    fn sleep(&mut self, longest: Duration) -> io::Result<bool> {
        self.ring.sleep(longest)
    }

    fn arm(&mut self) -> io::Result<Option<RawFd>> {
        self.ring.arm()
    }

    fn cancel(&mut self, slot: Option<Slot>) -> bool {
        self.ring.cancel(slot.map(u64::from))
    }
}
