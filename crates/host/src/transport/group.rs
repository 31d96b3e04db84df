//! Queues that one thread polls together, and what they have in common.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::rdma::SharedAnswers;

/// Queues that one thread polls together; clones are the same group. Queues over RDMA devices share the receives of a device there,
/// where that is asked for ([`crate::ControllerOptions::rdma_srq_size`]); others have nothing in common.
#[derive(Clone, Debug, Default)]
pub struct PollGroup(Arc<Mutex<Vec<SharedAnswers>>>);

impl PollGroup {
    /// What is shared, by device.
    pub(super) fn shared(&self) -> MutexGuard<'_, Vec<SharedAnswers>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
