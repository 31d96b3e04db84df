//! How a context outlives its queues (`--reconnect`): it gives up what is in flight, waits without queues, and issues its whole
//! depth again when the run has new ones for it.

use std::sync::{Arc, mpsc::Receiver};

use doorbell_queue::{Drain, IoQueue};
use doorbell_result::{EndReason, Outage};

use super::{Context, Pass, share_out};
use crate::{
    lane::Lane,
    outage::{News, Queues},
    port::{AnyQueue, Port},
    stop::Clock,
};

/// The way back of a context.
pub(crate) struct Comeback<Q> {
    pub port: Arc<dyn Port>,
    pub news: Receiver<News>,
    /// Attempts to bring the controller back that led to it, or before it.
    pub attempts: u32,
    /// Times that new queues may be of no use, one after the other.
    pub chances: u32,
    /// How many are left.
    pub left: u32,
    /// A queue as the kind that the context's loop is compiled for.
    pub of_kind: fn(AnyQueue) -> Option<Q>,
}

/// An outage that is not over.
pub(super) struct Open {
    record: Outage,
    /// When the last completion came.
    since: u64,
    /// I/Os given up before it.
    given_up: u64,
}

impl<Q: IoQueue, C: Clock> Context<'_, Q, C> {
    /// A queue is lost: stops all of them and reports it, when the context can wait for others. Returns whether it can.
    #[cold]
    pub(super) fn interrupt(&mut self, why: &str) -> bool {
        let Some(comeback) = self.comeback.as_ref().filter(|_| self.ended.is_none()) else { return false };
        comeback.port.queue_lost(self.incarnation, why.into());
        let (now, since, given_up) = (self.clock.now(), self.last_over, self.recorder.given_up());
        self.outage.get_or_insert_with(|| Open {
            record: Outage { began: now - self.begun, why: why.into(), ..Outage::default() },
            since,
            given_up,
        });
        for index in 0..self.lanes.len() {
            if !self.lanes[index].stopped {
                self.stop(index);
            }
        }
        true
    }

    /// After a pass in an outage: lets go of stopped queues, or sees the first completion of the new ones.
    #[cold]
    pub(super) fn go_through_outage(&mut self, found: usize) {
        if self.lanes.iter().any(|lane| lane.stopped) {
            self.leave();
        } else if found > 0 {
            self.end_outage(true);
        }
    }

    fn leave(&mut self) {
        self.abandon();
        // The buffers cannot be given to other queues before: a device that is reset lets go of them a moment later.
        if self.lanes.iter().any(|lane| lane.queue.drained() != Drain::Clean) {
            return;
        }
        self.counted.extend(self.lanes.drain(..).map(|lane| lane.queue.counters()));
        self.idle.clear();
    }

    /// Closes the record of the outage, if there is one: an I/O completed, or none will.
    pub(super) fn end_outage(&mut self, back: bool) {
        let Some(Open { mut record, since, given_up }) = self.outage.take() else { return };
        let until = if back { self.last_over } else { self.clock.now() };
        (record.silent, record.back, record.lost) = (until - since, back, self.recorder.given_up() - given_up);
        if let Some(comeback) = &mut self.comeback {
            let attempts = comeback.port.attempts();
            record.attempts = attempts - comeback.attempts;
            (comeback.attempts, comeback.left) = (attempts, comeback.chances);
        }
        let place = format!("{} from core {}", self.task.path, self.task.core);
        match back {
            true => self.reporter.notice(&format!("{place}: I/O goes on")),
            // Why it stays out has been told.
            false if self.ended == Some(EndReason::Lost) => {}
            false => self.problems.push(format!("{place}: its controller was lost and not back when the run ended")),
        }
        self.outages.push(record);
    }

    /// Takes in what the run has to tell.
    #[cold]
    pub(super) fn hear(&mut self) {
        while let Some(news) = self.comeback.as_ref().and_then(|comeback| comeback.news.try_recv().ok()) {
            let why = match &news {
                News::Lost(why) | News::Over(why) => why,
                News::Back { .. } => "its controller was reset",
            };
            // The queues may look alive still; those of a controller that is lost are worth nothing.
            if !self.lanes.is_empty() && self.interrupt(why) {
                self.leave();
            }
            match news {
                News::Lost(_) => {}
                News::Back { .. } if self.ended.is_some() => {}
                // The reset that the controller is back from did not make it let go, so nothing will.
                News::Back { .. } if !self.lanes.is_empty() => {
                    self.stay_out("its controller is back, but may still write to the buffers");
                }
                News::Back { queues, incarnation } => match self.rejoin(queues) {
                    Ok(()) => {
                        self.incarnation = incarnation;
                        self.fill();
                    }
                    Err(why) => self.try_again(incarnation, &format!("cannot prepare a new I/O queue: {why}")),
                },
                News::Over(why) => self.stay_out(&why),
            }
        }
    }

    /// The queues of an incarnation are of no use, as when it is lost already: waits for the next.
    fn try_again(&mut self, incarnation: u64, why: &str) {
        match &mut self.comeback {
            Some(comeback) if comeback.left > 0 => {
                comeback.left -= 1;
                self.incarnation = incarnation;
                self.interrupt(why);
                self.leave();
            }
            _ => self.stay_out(why),
        }
    }

    fn rejoin(&mut self, queues: Queues) -> Result<(), String> {
        let of_kind = self.comeback.as_ref().map(|comeback| comeback.of_kind);
        let shares = share_out(&mut self.tags, queues.active.len());
        for (queue, own) in queues.active.into_iter().zip(&shares) {
            let queue = of_kind.and_then(|of_kind| of_kind(queue)).ok_or("it is of another transport")?;
            let lane = Lane::new(queue, &self.task.geometry, &self.tags, own, &self.arena);
            self.lanes.push(lane.map_err(|error| error.to_string())?);
        }
        self.idle = queues.idle;
        Ok(())
    }

    fn stay_out(&mut self, why: &str) {
        if self.ended.is_none() {
            let text = format!("{} from core {}: {why}", self.task.path, self.task.core);
            self.reporter.error(&text);
            self.problems.push(text);
            self.end(EndReason::Lost);
        }
    }
}
