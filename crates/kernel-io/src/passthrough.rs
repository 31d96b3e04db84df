//! NVMe commands that the kernel's driver passes through, by io_uring.

use std::{io, os::fd::RawFd, sync::Arc, time::Duration};

use doorbell_platform::{
    Range, Region,
    uring::{CommandRing, NvmeCommand},
};
use doorbell_queue::{Op, Slot};
use doorbell_spec::{
    command::{Direction, data_direction},
    status::Status,
};

use crate::{
    file::File,
    queue::{Backend, status_of_error},
    uring::ring,
};

/// The way of NVMe's generic character devices.
#[derive(Debug)]
pub struct Passthrough {
    ring: CommandRing,
}

impl Backend for Passthrough {
    fn open(file: &File, slots: u16, region: Arc<Region>) -> Result<Self, String> {
        Ok(Self { ring: ring(file, slots, region, CommandRing::new)? })
    }

    #[inline]
    fn push(&mut self, op: &Op, memory: Range) -> Result<bool, Status> {
        let mut dwords = [0; 16];
        for (pair, word) in dwords.chunks_exact_mut(2).zip(op.words()) {
            let word = u64::from_le(word);
            (pair[0], pair[1]) = (word as u32, (word >> 32) as u32);
        }
        let data = if data_direction(op.opcode) == Direction::None { Range::default() } else { memory };
        Ok(self.ring.push(op.slot.into(), &NvmeCommand { dwords, data }))
    }

    #[inline]
    fn submit(&mut self, _: impl FnMut(Slot, Status)) -> io::Result<bool> {
        self.ring.submit()
    }

    #[inline]
    fn reap(&mut self, most: usize, mut over: impl FnMut(Slot, i64, u64)) -> io::Result<usize> {
        self.ring.reap(most, |slot, answer, result| over(slot as Slot, answer, result))
    }

    #[inline]
    fn status(answer: i64, _: u32) -> Status {
        match answer {
            0 => Status::SUCCESS,
            // The field of a completion without its phase tag.
            1.. => Status::from_field((answer as u16) << 1),
            _ => status_of_error(answer),
        }
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
