//! What listeners and reactors say to each other.

use std::{sync::Arc, time::Instant};

use doorbell_spec::status::Status;

use super::rdma::Pools;
use crate::{
    namespace::{Found, Pool},
    subsystem::Shared,
};

/// What a reactor lends to the connection it serves.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) shared: Arc<Shared>,
    pub(crate) pool: Pool,
    /// Which reactor this is.
    pub(crate) desk: usize,
    /// The time of this pass.
    pub(crate) now: Instant,
    pub(super) found: Found,
    pub(super) bytes: Vec<u8>,
    pub(super) aborted: Vec<(u16, Status)>,
    /// Receives that RDMA connections share.
    pub(super) receives: Pools,
}

impl Context {
    pub(crate) fn new(shared: Arc<Shared>, pool: Pool, desk: usize) -> Self {
        let (found, bytes, aborted) = (Found::default(), Vec::new(), Vec::new());
        let receives = Pools::default();
        Self { shared, pool, desk, now: Instant::now(), found, bytes, aborted, receives }
    }
}

/// What came of serving a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Served {
    /// There was something to do.
    Busy,
    /// There was nothing to do.
    Idle,
    /// It is over.
    Gone,
}
