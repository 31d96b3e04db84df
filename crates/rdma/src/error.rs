//! Why something did not work, and what to do about it.

use std::io;

/// A library that RDMA needs is not there, or not whole.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "RDMA needs {library}, which cannot be loaded ({reason}). Debian, Ubuntu: apt-get install librdmacm1 libibverbs1 \
     ibverbs-providers; Fedora, RHEL: dnf install librdmacm libibverbs"
)]
pub struct LoadError {
    /// The file's name.
    pub library: String,
    /// What the loader said.
    pub reason: String,
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The libraries are missing.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A call was refused.
    #[error("{call}: {source}{}", hint.map(|hint| format!("; {hint}")).unwrap_or_default())]
    Call {
        /// The verb or the connection manager's function.
        call: &'static str,
        /// The system's answer.
        source: io::Error,
        /// What to do, where there is something.
        hint: Option<&'static str>,
    },
    /// Work requests were refused.
    #[error(transparent)]
    Post(#[from] PostError),
    /// An identifier has no device yet: its address is not resolved, or it listens on a wildcard.
    #[error("no RDMA device belongs to this connection yet: its address is not resolved")]
    NoDevice,
    /// Things of two devices, or of two verbs contexts, do not go together.
    #[error("{0} belongs to another RDMA device")]
    OtherDevice(&'static str),
}

impl Error {
    /// The error of a call that left its reason in `errno`.
    pub(crate) fn last(call: &'static str) -> Self {
        Self::of(call, io::Error::last_os_error())
    }

    /// The error of a call that answered with the number.
    pub(crate) fn code(call: &'static str, code: i32) -> Self {
        Self::of(call, io::Error::from_raw_os_error(code.abs()))
    }

    fn of(call: &'static str, source: io::Error) -> Self {
        let hint = match (call, source.raw_os_error()) {
            ("rdma_create_event_channel" | "rdma_create_id", Some(libc::ENODEV | libc::ENOENT)) => Some(
                "this machine has no RDMA device: `rdma link` lists them; its driver and the module rdma_ucm must be loaded",
            ),
            ("rdma_create_event_channel" | "rdma_create_id", Some(libc::EACCES | libc::EPERM)) => {
                Some("/dev/infiniband/rdma_cm must be open to this user")
            }
            (
                "ibv_reg_mr" | "ibv_create_cq" | "ibv_create_srq" | "rdma_create_qp",
                Some(libc::ENOMEM | libc::EAGAIN),
            ) => Some("the limit of locked memory (ulimit -l) or the device's own limits are reached"),
            _ => None,
        };
        Self::Call { call, source, hint }
    }

    /// The system's number of a refused call.
    pub fn raw_os_error(&self) -> Option<i32> {
        match self {
            Self::Call { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

/// Not all of a chain was taken; what was not is forgotten.
#[derive(Debug, thiserror::Error)]
#[error("{call} took {taken} work requests and refused the next: {source}")]
pub struct PostError {
    /// The verb.
    pub call: &'static str,
    /// How many were posted, from the front.
    pub taken: usize,
    /// The provider's answer to the first that was not.
    pub source: io::Error,
}
