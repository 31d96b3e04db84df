//! What a fault script does to a queue: commands that fail without being carried out, answers that come late, twice or not at all,
//! and the end of the connection or of its controller. A command keeps its slot, with the data of a Read, until its answer goes.

use std::time::Instant;

use doorbell_spec::status::Status;

use super::{Context, Exchange, Need, Stage, Wire, sum};
use crate::{
    controller::Session,
    fault::{Fate, Reset},
};

impl Exchange {
    /// When there is something to do next.
    pub(in super::super) fn due(&self) -> Option<Instant> {
        self.faults.as_ref().and_then(|faults| faults.due())
    }

    /// What was given out to be sent has been posted.
    pub(in super::super) fn posted(&mut self) {
        if let Some(faults) = &mut self.faults {
            faults.left();
        }
    }

    pub(in super::super) fn flush_log(&mut self) {
        if let Some(faults) = &mut self.faults {
            faults.flush();
        }
    }

    /// Takes note of a command and what its check said; says instead that it fails, where the script wants that.
    #[cold]
    pub(super) fn spoil(&mut self, index: u16, checked: Result<Need, Status>) -> Result<Need, Status> {
        let slot = &mut self.slots[usize::from(index)];
        let (Some(faults), Session::Io(queue)) = (&mut self.faults, &mut self.session) else { return checked };
        if slot.command.is_fabrics() {
            return checked;
        }
        match faults.arrived(queue.qid(), &slot.command, 0) {
            Some(status) => {
                slot.capsule = None;
                Err(status)
            }
            None => {
                faults.harm(queue, slot.command.cid.get());
                checked
            }
        }
    }

    /// Keeps an answer back where the script is about it. Its data is not on its way meanwhile.
    #[cold]
    pub(super) fn hold(&mut self, index: u16, status: Status) {
        let slot = &mut self.slots[usize::from(index)];
        let (Some(faults), Session::Io(queue)) = (&mut self.faults, &self.session) else { return };
        slot.stage = match faults.done(queue.qid(), slot.command.cid.get(), status, index) {
            Fate::Send(_) => return,
            Fate::Held => Stage::Held,
            Fate::Lost(_) => Stage::Lost,
        };
        self.writing -= sum(&slot.ranges);
    }

    /// Gives up what is never answered. To the queue the command stays outstanding.
    #[cold]
    pub(super) fn forget(&mut self, index: u16, context: &mut Context) -> bool {
        self.slots[usize::from(index)].release(context);
        self.idle.push(index);
        true
    }

    /// Sends what is due; returns what else the script wants now, and whether something was sent.
    pub(in super::super) fn act_out(&mut self, wire: &mut impl Wire, context: &mut Context) -> (Option<Reset>, bool) {
        let Some(faults) = &mut self.faults else { return (None, false) };
        let reset = faults.reset();
        if let (Some(Reset::Controller), Session::Io(queue)) = (reset, &self.session) {
            queue.fail_controller(&context.shared);
        }
        if reset.is_some() {
            return (reset, true);
        }
        let mut any = false;
        while let Some((_, cid, index, times)) = self.faults.as_mut().and_then(|faults| faults.next()) {
            let slot = &mut self.slots[usize::from(index)];
            if self.flow_control {
                slot.answer.sqhd = (self.head as u16).into();
            }
            slot.stage = Stage::Answering;
            self.writing += sum(&slot.ranges);
            let status = slot.answer.status();
            self.run_or_park(index, wire, context);
            for _ in 1..times {
                // It counts as one command.
                self.outstanding += 1;
                self.late.push_back((cid, status));
            }
            any = true;
        }
        (None, any)
    }
}
