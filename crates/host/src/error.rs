//! What can go wrong with a controller: which one, at which step, what was sent and what came back.

use std::time::Duration;

use doorbell_spec::status::Status;

use crate::{
    init_state::InitState,
    transport::{rdma, tcp::ConnectError},
};

/// An error of one controller.
#[derive(Debug, thiserror::Error)]
#[error("{controller}: {cause}")]
pub struct Error {
    /// The controller's name.
    pub controller: String,
    /// What happened.
    pub cause: Cause,
}

/// What happened to a controller.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// No connection over RDMA.
    #[error(transparent)]
    Rdma(#[from] rdma::ConnectError),
    /// A transport that cannot be used here.
    #[error("{0}")]
    Transport(String),
    /// A step of bring-up failed.
    #[error("step {step}: {why}")]
    Step {
        /// The step.
        step: InitState,
        /// Why.
        why: Box<Cause>,
    },
    /// A command was answered with an error.
    #[error("sent {command}, answered {}{hint}", if *.fabrics { status.fabrics().to_string() } else { status.to_string() })]
    Status {
        /// The command.
        command: String,
        /// The answer.
        status: Status,
        /// What it may mean, or nothing.
        hint: String,
        /// Whether it was a Fabrics command, whose status codes have names of their own.
        fabrics: bool,
    },
    /// A command was not answered.
    #[error("sent {command}, no answer within {}", seconds(*.after))]
    Timeout {
        /// The command.
        command: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// Each command was answered in time, but all of them together took too long.
    #[error("{what} as a whole was not through within {}, at {command}", seconds(*.span))]
    TooLong {
        /// The last command, or the next.
        command: String,
        /// What it was part of.
        what: &'static str,
        /// How long that may take.
        span: Duration,
    },
    /// The admin queue is lost.
    #[error("{0}")]
    Down(String),
    /// The controller said something that cannot be.
    #[error("{0}")]
    Nonsense(String),
    /// The caller gave up.
    #[error("cancelled")]
    Cancelled,
}

fn seconds(span: Duration) -> String {
    format!("{} s", span.as_millis() as f64 / 1000.0)
}

impl Cause {
    /// This cause, as that of a step.
    pub(crate) fn at(self, step: InitState) -> Self {
        Self::Step { step, why: Box::new(self) }
    }

    /// With the controller's name.
    pub(crate) fn of(self, controller: &str) -> Error {
        Error { controller: controller.into(), cause: self }
    }

    /// The status a command was answered with.
    pub(crate) fn status(&self) -> Option<Status> {
        match self {
            Self::Status { status, .. } => Some(*status),
            Self::Step { why, .. } => why.status(),
            _ => None,
        }
    }
}
