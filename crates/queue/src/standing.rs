//! How a queue ends whose peer reaches memory: it is lost for a reason or stopped by its owner, and what was outstanding then comes
//! back aborted, though the peer may still touch its memory.

use doorbell_spec::status;

use crate::{Done, Down, Drain, Slot, cid::Cids};

/// Where a queue stands: open, until it is lost or stopped.
#[derive(Debug, Default)]
pub struct Standing {
    down: Option<Down>,
    stopped: bool,
    /// Slots that the stop aborted and reap has not returned yet, and how many there were.
    aborted: Vec<Slot>,
    at_risk: u32,
}

impl Standing {
    /// Whether it takes commands.
    #[inline]
    pub fn is_open(&self) -> bool {
        self.down.is_none()
    }

    /// Why it takes none.
    #[inline]
    pub fn down(&self) -> Option<&Down> {
        self.down.as_ref()
    }

    /// Whether its owner has stopped it.
    #[inline]
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// It is lost; the first reason stays.
    #[cold]
    pub fn lose(&mut self, why: String) {
        self.down.get_or_insert(Down(why));
    }

    /// Its owner stops it: all that is outstanding is aborted. False when he did so before.
    pub fn stop(&mut self, cids: &Cids) -> bool {
        if std::mem::replace(&mut self.stopped, true) {
            return false;
        }
        self.lose("the queue was stopped".into());
        self.aborted = cids.busy().collect();
        self.at_risk = self.aborted.len() as u32;
        true
    }

    /// Whether [`Standing::abort`] has more to give.
    pub fn has_aborted(&self) -> bool {
        !self.aborted.is_empty()
    }

    /// Gives back aborted commands, as far as they fit `done`.
    pub fn abort(&mut self, cids: &mut Cids, done: &mut [Done]) -> usize {
        let count = done.len().min(self.aborted.len());
        for (entry, slot) in done.iter_mut().zip(self.aborted.drain(..count)) {
            cids.retire(slot);
            *entry = Done { slot, status: status::generic::ABORTED_SQ_DELETION, result: 0 };
        }
        count
    }

    /// What became of the memory; `is_back` finds out whether the peer has let go of that of aborted commands.
    pub fn drained(&self, cids: &Cids, is_back: impl FnOnce() -> bool) -> Drain {
        if cids.outstanding() > 0 {
            Drain::Busy
        } else if self.at_risk == 0 || is_back() {
            Drain::Clean
        } else {
            Drain::Quarantined(self.at_risk)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_outstanding_at_the_stop_comes_back_once_and_stays_at_risk() {
        let (mut standing, mut cids) = (Standing::default(), Cids::new(8));
        for slot in [1, 4, 6] {
            cids.issue(slot);
        }
        assert!(standing.is_open() && standing.drained(&cids, || true) == Drain::Busy);
        standing.lose("the first reason".into());
        assert!(standing.stop(&cids) && !standing.stop(&cids) && standing.is_stopped());
        assert_eq!(standing.down(), Some(&Down("the first reason".into())));
        let mut done = [Done::default(); 2];
        let mut back = Vec::new();
        while standing.has_aborted() {
            let count = standing.abort(&mut cids, &mut done);
            back.extend(done[..count].iter().map(|done| (done.slot, done.status)));
        }
        assert_eq!(back, [1, 4, 6].map(|slot| (slot, status::generic::ABORTED_SQ_DELETION)));
        assert_eq!(standing.drained(&cids, || false), Drain::Quarantined(3));
        assert_eq!(standing.drained(&cids, || true), Drain::Clean);
        let idle = Cids::new(8);
        let mut standing = Standing::default();
        standing.stop(&idle);
        assert_eq!(standing.drained(&idle, || panic!("nothing is at risk")), Drain::Clean);
    }
}
