//! A queue whose commands are done as soon as they are committed, in order and without touching data. It costs nothing but the
//! contract itself, so what a loop reaches on it is the loop's own speed.

use std::{collections::VecDeque, sync::Arc};

use doorbell_platform::{Arena, Backing, Range};
use doorbell_spec::{
    command::Command,
    status::{self, Status},
};

use crate::{Counters, Done, Down, Drain, IoQueue, Needs, Op, PrepareError, Progress, Slot, Wait, cid::Cids};

/// The null queue.
#[derive(Debug)]
pub struct NullQueue {
    cids: Cids,
    slots: u16,
    submitted: VecDeque<Slot>,
    committed: VecDeque<Slot>,
    stopped: bool,
    counters: Counters,
}

impl NullQueue {
    /// A queue of `slots` slots.
    pub fn new(slots: u16) -> Self {
        Self {
            cids: Cids::new(slots),
            slots,
            submitted: VecDeque::with_capacity(slots.into()),
            committed: VecDeque::with_capacity(slots.into()),
            stopped: false,
            counters: Counters::default(),
        }
    }

    fn take(&mut self, slot: Slot) -> bool {
        let room = !self.stopped && self.cids.is_idle(slot);
        if room {
            self.cids.issue(slot);
            self.submitted.push_back(slot);
            self.counters.submitted += 1;
        } else {
            self.counters.queued += 1;
        }
        room
    }
}

impl IoQueue for NullQueue {
    fn needs(&self) -> Needs {
        Needs { slots: self.slots, alignment: 1, segments: u16::MAX, bytes: u32::MAX, backing: Backing::Any }
    }

    fn attach(&mut self, _: &Arc<Arena>) -> Result<(), PrepareError> {
        Ok(())
    }

    fn prepare(&mut self, slot: Slot, _: &[Range]) -> Result<(), PrepareError> {
        match self.cids.is_idle(slot) {
            true => Ok(()),
            false => Err(PrepareError(format!("slot {slot} of {} is busy or does not exist", self.slots))),
        }
    }

    fn submit(&mut self, ops: &[Op]) -> usize {
        ops.iter().take_while(|op| self.take(op.slot)).count()
    }

    fn submit_raw(&mut self, slot: Slot, _: &Command) -> bool {
        self.take(slot)
    }

    fn commit(&mut self) -> Result<Progress, Down> {
        self.committed.append(&mut self.submitted);
        Ok(Progress::Complete)
    }

    fn reap(&mut self, done: &mut [Done]) -> Result<usize, Down> {
        let status = if self.stopped { status::generic::ABORTED_SQ_DELETION } else { Status::SUCCESS };
        let count = done.len().min(self.committed.len());
        for (entry, slot) in done.iter_mut().zip(self.committed.drain(..count)) {
            self.cids.retire(slot);
            *entry = Done { slot, status, result: 0 };
        }
        self.counters.polls += 1;
        self.counters.idle_polls += u64::from(count == 0);
        self.counters.completions += count as u64;
        Ok(count)
    }

    fn stop(&mut self) {
        self.stopped = true;
        self.committed.append(&mut self.submitted);
    }

    fn drained(&self) -> Drain {
        if self.cids.outstanding() == 0 { Drain::Clean } else { Drain::Busy }
    }

    fn arm(&mut self) -> Result<Wait, Down> {
        Ok(Wait::Ready)
    }

    fn counters(&self) -> Counters {
        self.counters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(slot: Slot) -> Op {
        Op { slot, opcode: 2, nsid: 1, slba: 0, blocks: 1, ..Op::default() }
    }

    const NOTHING: Done = Done { slot: 0, status: Status::SUCCESS, result: 0 };

    #[test]
    fn nothing_is_done_before_commit_and_each_slot_once_after() {
        let mut queue = NullQueue::new(4);
        let mut done = [NOTHING; 32];
        assert_eq!(queue.submit(&[op(0), op(1), op(1), op(2)]), 2, "a busy slot ends the prefix");
        assert_eq!(queue.reap(&mut done), Ok(0));
        assert_eq!(queue.commit(), Ok(Progress::Complete));
        assert_eq!(queue.drained(), Drain::Busy);
        assert_eq!(queue.reap(&mut done), Ok(2));
        assert_eq!((done[0].slot, done[1].slot), (0, 1));
        assert_eq!((queue.reap(&mut done), queue.drained()), (Ok(0), Drain::Clean));
        let counted = queue.counters();
        assert_eq!((counted.submitted, counted.completions, counted.queued, counted.idle_polls), (2, 2, 1, 2));
    }

    #[test]
    fn stop_aborts_what_is_outstanding_once() {
        let mut queue = NullQueue::new(4);
        let mut done = [NOTHING; 32];
        queue.submit(&[op(3)]);
        queue.stop();
        assert_eq!(queue.reap(&mut done), Ok(1));
        assert_eq!(done[0].status, status::generic::ABORTED_SQ_DELETION);
        assert_eq!((queue.reap(&mut done), queue.submit(&[op(0)])), (Ok(0), 0));
    }
}
