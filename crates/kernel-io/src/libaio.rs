//! Reads, writes and flushes by Linux AIO.

use std::{io, os::fd::RawFd, sync::Arc, time::Duration};

use doorbell_platform::{
    Range, Region,
    aio::{Action, Aio},
};
use doorbell_queue::{Op, Slot};
use doorbell_spec::{
    command::{NvmOpcode, control},
    status::{Status, generic},
};

use crate::{
    advice,
    file::File,
    queue::{Backend, status_of, status_of_error},
};

/// The way of Linux AIO.
#[derive(Debug)]
pub struct Libaio {
    aio: Aio,
    block_size: u64,
}

/// What an I/O does with a file, as far as one can.
#[inline]
pub(crate) fn action(op: &Op) -> Result<Action, Status> {
    match NvmOpcode(op.opcode) {
        NvmOpcode::READ => Ok(Action::Read),
        NvmOpcode::WRITE => Ok(Action::Write),
        NvmOpcode::FLUSH => Ok(Action::Sync),
        _ => Err(generic::INVALID_OPCODE),
    }
}

/// Whether a write is to be on the medium before it is over.
#[inline]
pub(crate) fn durable(op: &Op, action: Action) -> bool {
    action == Action::Write && op.control & control::FUA != 0
}

impl Backend for Libaio {
    fn open(file: &File, slots: u16, region: Arc<Region>) -> Result<Self, String> {
        let refused = |error: io::Error| advice::aio(file.name(), slots, &error);
        let aio = Aio::new(file.descriptor().map_err(refused)?, slots.into(), region, file.options().sleeps);
        Ok(Self { aio: aio.map_err(refused)?, block_size: file.block_size().into() })
    }

    #[inline]
    fn push(&mut self, op: &Op, memory: Range) -> Result<bool, Status> {
        let action = action(op)?;
        self.aio.push(op.slot.into(), action, memory, op.slba.wrapping_mul(self.block_size), durable(op, action));
        Ok(true)
    }

    #[inline]
    fn submit(&mut self, mut refused: impl FnMut(Slot, Status)) -> io::Result<bool> {
        while self.aio.has_pushed() {
            match self.aio.submit() {
                Ok(left) => return Ok(left == 0),
                Err((slot, error)) => {
                    refused(slot as Slot, status_of_error(-i64::from(error.raw_os_error().unwrap_or(0))));
                }
            }
        }
        Ok(true)
    }

    #[inline]
    fn reap(&mut self, most: usize, mut over: impl FnMut(Slot, i64, u64)) -> io::Result<usize> {
        Ok(self.aio.reap(most, |slot, answer| over(slot as Slot, answer, 0)))
    }

    #[inline]
    fn status(answer: i64, moves: u32) -> Status {
        status_of(answer, moves)
    }

    fn ready(&self) -> u32 {
        self.aio.ready()
    }

    fn sleep_submits(&self) -> bool {
        false
    }

    fn sleep(&mut self, longest: Duration) -> io::Result<bool> {
        Ok(self.aio.sleep(longest))
    }

    fn arm(&mut self) -> io::Result<Option<RawFd>> {
        Ok(self.aio.arm())
    }

    fn cancel(&mut self, _: Option<Slot>) -> bool {
        // io_cancel exists, and no driver of disks or files has ever heard of it.
        false
    }
}
