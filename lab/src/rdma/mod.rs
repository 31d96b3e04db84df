//! What goes over the RDMA link by itself: a test of the link, and targets that do wrong.

mod peer;
mod ping_pong;

use std::{
    error::Error,
    os::fd::{AsFd, AsRawFd},
    time::{Duration, Instant},
};

use doorbell_platform::poll;
use doorbell_rdma::{Event, EventChannel, EventKind, Parameters, reject_reason};

pub use peer::misbehave;
pub use ping_pong::{ask, serve};

pub type Outcome<T> = Result<T, Box<dyn Error>>;

/// How long nothing may happen.
const LIMIT: Duration = Duration::from_secs(20);

/// The next event, none when nothing happens in time.
fn next(channel: &EventChannel, limit: Duration) -> Outcome<Option<Event>> {
    let deadline = Instant::now() + limit;
    loop {
        let event = channel.next_event()?;
        let left = deadline.saturating_duration_since(Instant::now());
        if event.is_some() || left.is_zero() {
            return Ok(event);
        }
        poll::wait(&[(channel.as_fd().as_raw_fd(), false)], left);
    }
}

/// The next event, which must be of this kind.
fn expect(channel: &EventChannel, kind: EventKind) -> Outcome<Event> {
    let event = next(channel, LIMIT)?.ok_or_else(|| format!("no {kind:?} within {LIMIT:?}"))?;
    match event.kind {
        seen if seen == kind => Ok(event),
        EventKind::Rejected => Err(format!("rejected: {}", reject_reason(event.status)).into()),
        seen => Err(format!("{seen:?} with status {} instead of {kind:?}", event.status).into()),
    }
}

fn parameters(private_data: &[u8]) -> Parameters<'_> {
    Parameters { private_data, responder_resources: 1, initiator_depth: 1, retry_count: 4, rnr_retry_count: 7 }
}
