//! What a context does about the content of its I/Os: stamps before a write, and the look at what a read brought, for protection
//! information and for `--verify`.

use doorbell_queue::IoQueue;
use doorbell_result::IoKind;

use super::Context;
use crate::{lane::Fate, stop::Clock, workload::Draw};

impl<Q: IoQueue, C: Clock> Context<'_, Q, C> {
    /// Looks at what an I/O brought, if it ended well; returns whether there was something to look at.
    pub(super) fn look_at_protection(&mut self, index: u32) -> bool {
        let Some(protector) = &mut self.protector else { return false };
        let tag = &self.tags[index as usize];
        if tag.fate == Fate::Abandoned || !tag.status.is_success() {
            return false;
        }
        let class = self.task.geometry.class(tag);
        let slba = tag.slba.wrapping_sub(class.blocks.into());
        if protector.over(class, self.arena.region(), tag.buffer, slba) > 0 {
            let (task, what) = (&self.task, protector.last());
            self.reporter.failed_io(|| format!("{} from core {}: {what}", task.path, task.core));
        }
        true
    }

    /// Makes the data of the I/O that is issued next tell what it is, and reads the clock behind that.
    pub(super) fn stamp(&mut self, index: u32, draw: Draw) {
        let Some(verifier) = &self.verifier else { return };
        let (geometry, class) = (&self.task.geometry, usize::from(2 * draw.size + u8::from(!draw.read)));
        let of = &geometry.classes[class];
        if of.label.kind == IoKind::Write {
            let lba = geometry.first_block + draw.offset * of.stride;
            verifier.stamp(self.arena.region(), self.tags[index as usize].buffer, lba, of.blocks);
        }
        self.now = self.clock.now();
    }

    /// Holds what an I/O that is over has read against what was written.
    pub(super) fn compare(&mut self, index: u32) {
        let Some(verifier) = &mut self.verifier else { return };
        for wrong in verifier.end(index, &self.tags[index as usize], self.arena.region()) {
            self.reporter.error(&format!("{} from core {}: {wrong}", self.task.path, self.task.core));
        }
    }
}
