//! Bringing a lost controller back: bring-up again and again after growing delays, on the controller's own thread. Handles stay
//! valid all the time; what they ask for meanwhile is refused.

use std::{
    os::fd::AsRawFd,
    sync::mpsc::{Receiver, TryRecvError},
    time::{Duration, Instant},
};

use doorbell_platform::poll;

use super::{Present, Request, Shared, bring_up::Up, direct::Direct, events, service::Start};
use crate::{error::Cause, transport::port::Port};

/// How often a delay looks whether it is still wanted.
const CANCEL_INTERVAL: Duration = Duration::from_millis(50);

impl Start {
    /// The admin queue of the next incarnation, which is then published, and its device if that is within reach.
    ///
    /// # Errors
    /// When nobody wants the controller back, or the attempts are used up.
    pub(super) fn bring_back(
        &self,
        shared: &Shared,
        requests: &Receiver<Request>,
        lost: Cause,
    ) -> Result<(Port, Option<Direct>), Cause> {
        let Some(plan) = self.options.reconnect.filter(|_| !self.leave.is_cancelled()) else { return Err(lost) };
        shared.note(format!("lost: {lost}; bringing it back, with {} at most", attempts(plan.attempts)));
        let (began, bring_up) = (Instant::now(), self.bring_up(&self.leave));
        let (mut delay, mut attempt, mut last) = (plan.first_delay, 0, None);
        // A refusal that would be final for another host counts as an attempt too: a target that starts refuses for a while.
        while attempt < plan.attempts && self.pause(delay, requests) {
            attempt += 1;
            shared.present().attempts += 1;
            match bring_up.run() {
                Ok(Up { mut port, direct, ready: learned }) => {
                    port.use_cancel(&self.cancel);
                    let mut present = shared.present();
                    let next = Present::new(&self.name, learned, present.incarnation + 1);
                    // Nobody has reported what happened to namespaces while it was away.
                    let changes = events::changes(&present.namespaces, &next.namespaces);
                    let took = began.elapsed().as_secs_f64();
                    shared.note(format!("it is back after {took:.3} s, at attempt {attempt}"));
                    changes.into_iter().for_each(|change| shared.note(change));
                    *present = Present { attempts: present.attempts, ..next };
                    return Ok((port, direct));
                }
                Err(why) => {
                    tracing::info!("{}: attempt {attempt} to bring it back: {why}", self.name);
                    last = Some(why);
                }
            }
            delay = (delay * 2).min(plan.longest_delay);
        }
        let took = began.elapsed().as_secs_f64();
        let last = last.map_or_else(String::new, |why| format!(", the last: {why}"));
        let end = if self.leave.is_cancelled() { "; given up:" } else { ";" };
        let tried = attempts(attempt);
        Err(Cause::Down(format!("{lost}{end} {tried} over {took:.1} s did not bring it back{last}")))
    }

    /// Waits, refusing requests; false when nobody wants the controller back.
    fn pause(&self, span: Duration, requests: &Receiver<Request>) -> bool {
        let until = Instant::now() + span;
        let refused = || Cause::Down("it is lost and being brought back".into());
        loop {
            match requests.try_recv() {
                Ok(Request::Connect { answer, .. }) => drop(answer.send(Err(refused()))),
                Ok(Request::Look { answer }) => drop(answer.send(Err(refused()))),
                Ok(Request::Admin { answer, .. }) => drop(answer.send(Err(refused()))),
                Ok(Request::Abort { .. } | Request::Reset { .. }) => {}
                // Its answer is that the thread ends.
                Ok(Request::Detach { .. }) | Err(TryRecvError::Disconnected) => return false,
                Err(TryRecvError::Empty) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if self.leave.is_cancelled() || left.is_zero() {
                        return !self.leave.is_cancelled();
                    }
                    poll::wait(&[(self.wake.as_raw_fd(), false)], left.min(CANCEL_INTERVAL));
                    let _ = rustix::io::read(&self.wake, &mut [0; 8]);
                }
            }
        }
    }
}

fn attempts(count: u32) -> String {
    format!("{count} attempt{}", if count == 1 { "" } else { "s" })
}
