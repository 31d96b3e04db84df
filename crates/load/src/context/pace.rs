//! The open loop of a context: what has arrived is issued in each pass, by the plan in [`crate::pacing`].

use doorbell_queue::IoQueue;
use doorbell_result::Timing;

use super::Context;
use crate::{
    pacing::Pacing,
    stop::Clock,
    timing::{Batch, Exact, Full, Mode, Off, Sampled, in_mode},
};

impl<Q: IoQueue, C: Clock> Context<'_, Q, C> {
    /// Issues what has arrived, as far as there are I/Os for it.
    pub(super) fn pace(&mut self) {
        let Some(mut pacing) = self.pacing.take() else { return };
        // Where queues are lost, arrivals wait for new ones.
        if !self.lanes.is_empty() && self.lanes.iter().all(|lane| !lane.stopped) {
            in_mode!(self.pace_in(&mut pacing));
        }
        self.pacing = Some(pacing);
    }

    #[inline]
    fn pace_in<M: Mode>(&mut self, pacing: &mut Pacing) {
        self.now = self.clock.now();
        let mut any = false;
        while self.running()
            && let Some((index, lane)) = pacing.next(self.now)
        {
            let before = self.recorder.submitted();
            self.issue::<M>(index, lane as usize);
            if self.recorder.submitted() > before {
                pacing.issued(index, self.tags[index as usize].stamp);
                any = true;
            }
            if M::EACH {
                self.now = self.clock.now();
            }
        }
        if M::SHARED && any {
            self.longest_use = self.longest_use.max(self.clock.now() - self.now);
        }
    }
}
