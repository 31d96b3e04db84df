//! I/Os that take too long (`--timeout`): their commands are aborted, and when that does not bring them back, their queue is
//! given up. Ages are looked at a few times in that time, by the clock that a pass has read anyway.

use std::sync::Arc;

use doorbell_queue::{Down, IoQueue};

use super::Context;
use crate::{lane::Fate, port::Port, stop::Clock};

/// Looks in the time that an I/O may take.
const LOOKS: u64 = 4;

/// How long I/Os may take, and who sends the Aborts.
pub(crate) struct Patience {
    pub ticks: u64,
    pub port: Arc<dyn Port>,
}

impl<Q: IoQueue, C: Clock> Context<'_, Q, C> {
    /// Has the commands aborted of I/Os that are overdue, and gives queues up whose overdue I/Os did not come back.
    #[cold]
    pub(super) fn look_at_ages(&mut self) {
        let Some(patience) = &self.patience else { return };
        let (limit, look) = (patience.ticks, (patience.ticks / LOOKS).max(1));
        self.next_look = self.now.saturating_add(look);
        // The Abort went out at the first look after `limit`.
        let last = limit.saturating_mul(2).saturating_add(look);
        let mut stuck = None;
        for (index, tag) in self.tags.iter_mut().enumerate().filter(|(_, tag)| tag.is_live()) {
            let age = self.now.saturating_sub(tag.stamp);
            if age >= limit && tag.fate == Fate::Usual {
                tag.fate = Fate::Overdue;
                self.timeouts.timed_out += 1;
                for lane in &mut self.lanes {
                    let abort = |sqid, cid| patience.port.abort(self.incarnation, sqid, cid);
                    self.timeouts.aborts += lane.abort(index as u32, abort);
                }
            } else if age >= last {
                stuck = stuck.or(Some(index as u32));
            }
        }
        // One queue a look: the others have their turn when they are stuck too.
        let open = || (0..self.lanes.len()).filter(|&index| !self.lanes[index].stopped);
        let Some(tag) = stuck else { return };
        if let Some(lane) = open().find(|&index| self.lanes[index].holds(tag)).or_else(|| open().next()) {
            let why = match self.lanes[lane].commands(tag).next() {
                Some(_) => "an Abort did not bring it back in that time",
                None => "its turn, for which it waits behind other commands, did not come in that time again",
            };
            self.lose(lane, &Down(format!("an I/O took longer than --timeout, and {why}")));
        }
    }
}
