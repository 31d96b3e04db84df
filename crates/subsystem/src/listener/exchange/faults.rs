//! What a fault script does to a queue: commands that fail without being carried out, answers that come late, twice or not at all,
//! and the end of the connection or of its controller.

use std::{io, time::Instant};

use doorbell_spec::{
    command::{Command, Direction},
    status::Status,
};

use super::{super::Context, Exchange, Need};
use crate::{
    controller::Session,
    fault::{Fate, Reset},
    namespace::Found,
};

/// An answer that is kept back: its status, what it says beside that, and the data of a Read.
pub(super) type Answer = (Status, u64, Option<Found>);

impl Exchange {
    pub(in super::super) fn has_faults(&self) -> bool {
        self.faults.is_some()
    }

    /// When there is something to do next.
    pub(in super::super) fn due(&self) -> Option<Instant> {
        self.faults.as_ref().and_then(|faults| faults.due())
    }

    pub(in super::super) fn flush_log(&mut self) {
        if let Some(faults) = &mut self.faults {
            faults.flush();
        }
    }

    /// Takes note of a command and what its check said; says instead that it fails, where the script wants that.
    #[cold]
    pub(super) fn spoil(
        &mut self,
        command: &Command,
        checked: Result<(u32, Need), Status>,
    ) -> Result<(u32, Need), Status> {
        let (Some(faults), Session::Io(queue)) = (&mut self.faults, &mut self.session) else { return checked };
        if command.is_fabrics() {
            return checked;
        }
        let moves = command.direction() != Direction::None && self.sender.digests().data;
        let digested = checked.as_ref().map_or(0, |&(len, _)| if moves { len } else { 0 });
        match faults.arrived(queue.qid(), command, digested) {
            Some(status) => Err(status),
            None => {
                faults.harm(queue, command.cid.get());
                checked
            }
        }
    }

    /// Keeps an answer back, or sends it where the script is not about it.
    #[cold]
    pub(super) fn hold(&mut self, cid: u16, status: Status, result: u64) {
        let (Some(faults), Session::Io(queue)) = (&mut self.faults, &self.session) else {
            return self.respond(cid, status, result);
        };
        if let Fate::Send(_) = faults.done(queue.qid(), cid, status, (status, result, None)) {
            self.respond(cid, status, result);
        }
    }

    /// Keeps back what has been found for a Read.
    #[cold]
    pub(super) fn hold_found(&mut self, cid: u16, status: Status, context: &mut Context) {
        let found = std::mem::take(&mut context.found);
        let (Some(faults), Session::Io(queue)) = (&mut self.faults, &self.session) else { return };
        match faults.done(queue.qid(), cid, status, (status, 0, Some(found))) {
            Fate::Held => {}
            Fate::Send(answer) => self.release(cid, answer, context),
            Fate::Lost((_, _, found)) => found.into_iter().for_each(|mut found| found.clear(&mut context.pool)),
        }
    }

    /// Sends what is due; returns whether there was something.
    ///
    /// # Errors
    /// When the script ends the connection.
    pub(in super::super) fn act_out(&mut self, context: &Context) -> io::Result<bool> {
        let mut any = false;
        let Some(faults) = &mut self.faults else { return Ok(false) };
        match faults.reset() {
            None => {}
            Some(Reset::Connection) => {
                return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the fault script ends the connection"));
            }
            Some(Reset::Controller) => {
                if let Session::Io(queue) = &self.session {
                    queue.fail_controller(&context.shared);
                }
                return Ok(true);
            }
        }
        while let Some((_, cid, answer, times)) = self.faults.as_mut().and_then(|faults| faults.next()) {
            let (status, result) = (answer.0, answer.1);
            self.release(cid, answer, context);
            for _ in 1..times {
                // It counts as one command.
                self.outstanding += 1;
                self.respond(cid, status, result);
            }
            any = true;
        }
        Ok(any)
    }

    /// Gives up what is kept back.
    pub(super) fn end_faults(&mut self, context: &mut Context) {
        let kept = self.faults.iter_mut().flat_map(|faults| faults.clear());
        kept.filter_map(|(_, _, found)| found).for_each(|mut found| found.clear(&mut context.pool));
    }

    fn release(&mut self, cid: u16, (status, result, found): Answer, context: &Context) {
        match found {
            Some(mut found) => self.deliver(cid, status, &mut found, &context.pool.frames.store),
            None => self.respond(cid, status, result),
        }
    }
}
