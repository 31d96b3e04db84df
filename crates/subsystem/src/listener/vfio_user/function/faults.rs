//! What a fault script does to a function: completions that come late, twice or not at all, and the end of the controller or of the
//! connection.

use std::time::Instant;

use zerocopy::little_endian::U16;

use super::{super::job::Lost, Context, Function, Said};
use crate::fault::{Fate, Reset};

impl Function {
    /// When there is something to do next.
    pub(in super::super) fn due(&self) -> Option<Instant> {
        self.faults.as_ref().and_then(|faults| faults.due())
    }

    /// Whether the script has ended the connection.
    pub(in super::super) fn has_hung_up(&self) -> bool {
        self.hung_up
    }

    /// Answers an I/O command, when the script lets it.
    pub(super) fn complete(&mut self, qid: u16, cid: U16, said: Said) {
        let fate = self.faults.as_mut().map(|faults| faults.done(qid, cid.get(), said.0, said));
        if let None | Some(Fate::Send(_)) = fate {
            self.post(qid, cid, said.0, said.1);
        }
    }

    /// Posts what is due; returns whether there was something.
    #[cold]
    pub(super) fn act_out(&mut self, context: &mut Context) -> Result<bool, Lost> {
        let mut any = false;
        match self.faults.as_mut().and_then(|faults| faults.reset()) {
            None => {}
            Some(Reset::Connection) => {
                self.hung_up = true;
                return Err(Lost);
            }
            Some(Reset::Controller) => {
                self.close_queues(context);
                self.admin.fail();
                return Ok(true);
            }
        }
        while let Some((qid, cid, (status, result), times)) = self.faults.as_mut().and_then(|faults| faults.next()) {
            (0..times).for_each(|_| self.post(qid, cid.into(), status, result));
            any = true;
        }
        if let Some(faults) = self.faults.as_mut().filter(|_| any) {
            faults.left();
        }
        Ok(any)
    }
}
