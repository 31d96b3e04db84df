//! The life of a controller's thread: bring-up, then requests, keep alive and events until it is detached or lost.

use std::{
    os::fd::{AsRawFd, OwnedFd},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        mpsc::{Receiver, Sender, TryRecvError},
    },
    time::{Duration, Instant},
};

use doorbell_queue::{Done, IoQueue};
use doorbell_spec::{
    command,
    feature::AsyncEvent,
    identify,
    log::{ChangedNamespaces, Lid},
    register::{self, Cc, Csts},
};
use zerocopy::FromBytes;

use super::{
    ControllerOptions, Request, Shared,
    bring_up::{BringUp, EVENT_SLOTS, KEEP_ALIVE_SLOT, Ready},
};
use crate::{cancel::Cancel, error::Cause, namespace::Namespace, transport::port::Port, transport_id::TransportId};

/// Longest sleep between two looks at everything.
const PULSE: Duration = Duration::from_secs(1);
/// Least time an orderly shutdown gets.
const SHUTDOWN_AT_LEAST: Duration = Duration::from_secs(10);
/// An orderly shutdown when the user has given up.
const SHUTDOWN_CANCELLED: Duration = Duration::from_millis(500);
/// Most events kept for somebody to ask for; a controller that reports more is not listened to.
const MOST_EVENTS: usize = 1024;

/// Everything the thread starts with.
pub(super) struct Start {
    pub id: TransportId,
    pub name: String,
    pub options: ControllerOptions,
    pub cancel: Cancel,
    pub wake: Arc<OwnedFd>,
}

/// How long an orderly shutdown may take: RTD3E, or 10 s if that is more (Base 3.6).
pub(super) fn shutdown_limit(data: &identify::Controller) -> Duration {
    Duration::from_micros(data.rtd3e.get().into()).clamp(SHUTDOWN_AT_LEAST, Duration::from_secs(60))
}

impl Start {
    /// Runs the controller's whole life.
    pub fn run(self, ready: &Sender<Result<Arc<Shared>, Cause>>, requests: &Receiver<Request>) {
        // A thread born on a pinned one inherits its core; this one must not stand in a worker's way.
        if let Ok(cores) = doorbell_platform::cpu::online() {
            let _ = doorbell_platform::cpu::pin_to(&cores);
        }
        let bring_up = BringUp { id: &self.id, name: &self.name, options: &self.options, cancel: &self.cancel };
        let (port, learned) = match bring_up.run() {
            Ok(up) => up,
            Err(cause) => return drop(ready.send(Err(cause))),
        };
        for warning in &learned.warnings {
            tracing::warn!("{}: {warning}", self.name);
        }
        let shared = Arc::new(self.share(learned));
        if ready.send(Ok(shared.clone())).is_err() {
            return;
        }
        let interval = shared.keep_alive.map(|granted| granted / 2);
        let service = Service {
            bring_up,
            port,
            shared: &shared,
            wake: &self.wake,
            next_qid: 1,
            keep_alive_due: interval.map(|_| Instant::now()),
            keep_alive_sent: None,
        };
        service.serve(requests);
    }

    fn share(&self, ready: Ready) -> Shared {
        Shared {
            id: self.id.clone(),
            name: self.name.clone(),
            cap: ready.cap,
            vs: ready.vs,
            cntlid: ready.cntlid,
            data: ready.data,
            io_queues: ready.io_queues,
            io_entries: ready.io_entries,
            max_transfer: ready.max_transfer,
            in_capsule_bytes: ready.in_capsule_bytes,
            keep_alive: ready.keep_alive,
            admin_timeout: self.options.admin_timeout,
            namespaces: Mutex::new(ready.namespaces),
            events: Mutex::default(),
            failure: OnceLock::new(),
        }
    }
}

struct Service<'a> {
    bring_up: BringUp<'a>,
    port: Port,
    shared: &'a Shared,
    wake: &'a OwnedFd,
    next_qid: u16,
    keep_alive_due: Option<Instant>,
    keep_alive_sent: Option<Instant>,
}

/// Why the service ends.
enum End {
    /// Somebody asked for it and may wait to hear that it is done.
    Detached(Option<Sender<()>>),
    Lost(Cause),
}

impl From<Cause> for End {
    fn from(cause: Cause) -> Self {
        Self::Lost(cause)
    }
}

impl Service<'_> {
    fn serve(mut self, requests: &Receiver<Request>) {
        let end = loop {
            if let Err(end) = self.pass(requests) {
                break end;
            }
        };
        match end {
            End::Detached(answer) => {
                self.shut_down();
                let _ = answer.map(|answer| answer.send(()));
            }
            End::Lost(cause) => {
                let _ = self.shared.failure.set(cause.to_string());
                tracing::warn!("{}: {cause}", self.shared.name);
            }
        }
        self.port.into_queue().stop();
    }

    /// One request, one look at everything, and a sleep when there was no request: many requests in a row do not hold up
    /// Keep Alive.
    fn pass(&mut self, requests: &Receiver<Request>) -> Result<(), End> {
        let mut idle = false;
        match requests.try_recv() {
            Ok(Request::Connect { entries, answer }) => drop(answer.send(self.connect(entries))),
            Ok(Request::Admin { command, data, answer }) => {
                let result = self.port.succeed(&command, &data, self.shared.admin_timeout);
                let lost = match &result {
                    Err(Cause::Status { .. }) | Ok(_) => None,
                    Err(cause) => Some(cause.to_string()),
                };
                let _ = answer.send(result);
                // A command that was not answered still owns the buffer: the queue cannot be used again.
                if let Some(why) = lost {
                    return Err(Cause::Down(why).into());
                }
            }
            Ok(Request::Detach { answer }) => return Err(End::Detached(Some(answer))),
            Err(TryRecvError::Disconnected) => return Err(End::Detached(None)),
            Err(TryRecvError::Empty) => idle = true,
        }
        self.port.poll()?;
        for done in std::mem::take(&mut self.port.others) {
            self.over(done)?;
        }
        self.keep_alive()?;
        if !idle {
            return Ok(());
        }
        let due = self.keep_alive_due.map_or(PULSE, |due| due.saturating_duration_since(Instant::now()).min(PULSE));
        self.port.sleep(due, Some(self.wake.as_raw_fd()))?;
        let mut count = [0; 8];
        let _ = rustix::io::read(self.wake, &mut count);
        Ok(())
    }

    fn connect(&mut self, entries: u32) -> Result<crate::transport::AnyQueue, Cause> {
        if self.next_qid > self.shared.io_queues {
            return Err(Cause::Transport(format!(
                "all of its {} I/O queues are in use: use fewer cores, namespaces or queue pairs (-P, -U)",
                self.shared.io_queues
            )));
        }
        let entries = entries.clamp(2, self.shared.io_entries);
        let (port, _) =
            self.bring_up.connect_queue(self.next_qid, entries, self.shared.in_capsule_bytes, self.shared.cntlid)?;
        self.next_qid += 1;
        Ok(port.into_queue())
    }

    /// A command nobody waited for is over.
    fn over(&mut self, done: Done) -> Result<(), Cause> {
        if done.slot == KEEP_ALIVE_SLOT {
            self.keep_alive_sent = None;
            return match done.status.is_success() {
                true => Ok(()),
                false => Err(Cause::Down(format!("Keep Alive was answered {}", done.status))),
            };
        }
        // Whoever gave up wants to leave: an event's commands would only stand in the way of the shutdown.
        let given_up = self.bring_up.cancel.is_cancelled();
        if !EVENT_SLOTS.contains(&done.slot) || !done.status.is_success() || given_up {
            return Ok(());
        }
        let event = AsyncEvent::from_dword(done.result as u32);
        self.note(format!("event: {}", event.name()));
        let read = match event {
            AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED => self.namespaces_changed(),
            AsyncEvent::ANA_CHANGE => self.ana_changed(),
            AsyncEvent { lid: Lid(0), .. } => Ok(()),
            // Reading the page is what lets the controller report the next event of the kind.
            AsyncEvent { lid, .. } => self.bring_up.log_page(&mut self.port, lid, 512, 0).map(|_| ()),
        };
        match read {
            Err(cause) if cause.status().is_some() => self.note(format!("after that event: {cause}")),
            other => other?,
        }
        self.port.send(done.slot, &command::async_event_request())
    }

    fn note(&self, event: String) {
        tracing::info!("{}: {event}", self.shared.name);
        let mut events = self.shared.events.lock().unwrap_or_else(PoisonError::into_inner);
        if events.len() < MOST_EVENTS {
            events.push(event);
        }
    }

    /// Identifies the namespaces that the changed namespace list names again.
    fn namespaces_changed(&mut self) -> Result<(), Cause> {
        let bytes = self.bring_up.log_page(&mut self.port, Lid::CHANGED_NAMESPACES, 4096, 0)?;
        let list =
            ChangedNamespaces::read_from_bytes(&bytes).map_err(|_| Cause::Nonsense("a short log page".into()))?;
        let mut known = self.namespaces();
        let mut changed: Vec<u32> = list.iter().collect();
        if list.overflowed() {
            changed = self.bring_up.active(&mut self.port, &self.shared.data, self.shared.vs)?;
            changed.extend(known.iter().map(|namespace| namespace.nsid));
            changed.sort_unstable();
            changed.dedup();
        }
        for nsid in changed {
            let found = self.bring_up.namespace(&mut self.port, nsid, self.shared.vs, self.shared.max_transfer)?;
            known.retain(|namespace| namespace.nsid != nsid);
            match found {
                Some(Ok(namespace)) => {
                    self.note(format!(
                        "{}: {} blocks of {} bytes",
                        namespace.name, namespace.blocks, namespace.block_size
                    ));
                    known.push(namespace);
                }
                Some(Err(why)) => self.note(why),
                None => self.note(format!("namespace {nsid} is gone")),
            }
        }
        known.sort_by_key(|namespace| namespace.nsid);
        self.bring_up.ana_states(&mut self.port, &self.shared.data, &mut known)?;
        *self.shared.namespaces.lock().unwrap_or_else(PoisonError::into_inner) = known;
        Ok(())
    }

    /// Reads the ANA log page again.
    fn ana_changed(&mut self) -> Result<(), Cause> {
        let mut known = self.namespaces();
        self.bring_up.ana_states(&mut self.port, &self.shared.data, &mut known)?;
        for (old, new) in self.namespaces().iter().zip(&known) {
            if let Some(state) = new.ana_state
                && old.ana_state != new.ana_state
            {
                self.note(format!("{}: {}", new.name, state.name()));
            }
        }
        *self.shared.namespaces.lock().unwrap_or_else(PoisonError::into_inner) = known;
        Ok(())
    }

    fn namespaces(&self) -> Vec<Namespace> {
        self.shared.namespaces.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends Keep Alive when due, and gives up when the last was not answered for the whole time granted.
    fn keep_alive(&mut self) -> Result<(), Cause> {
        let (Some(granted), Some(due)) = (self.shared.keep_alive, self.keep_alive_due) else { return Ok(()) };
        let now = Instant::now();
        if let Some(sent) = self.keep_alive_sent {
            if now.duration_since(sent) >= granted {
                return Err(Cause::Timeout { command: "Keep Alive".into(), after: granted });
            }
        } else if now >= due {
            self.port.send(KEEP_ALIVE_SLOT, &command::keep_alive())?;
            self.keep_alive_sent = Some(now);
        }
        if now >= due {
            self.keep_alive_due = Some(now + granted / 2);
        }
        Ok(())
    }

    /// CC.SHN, then CSTS.SHST until it is complete (Base 3.6.2); a controller that cannot any more is left as it is.
    fn shut_down(&mut self) {
        let given_up = self.bring_up.cancel.is_cancelled();
        let limit = if given_up { SHUTDOWN_CANCELLED } else { shutdown_limit(&self.shared.data) };
        let deadline = Instant::now() + limit;
        if given_up {
            // The flag has done its work; a shutdown that nobody has given up yet still ends with it.
            self.port.use_cancel(&Cancel::new());
        }
        let outcome = (|| {
            let cc = Cc::from_bits(self.port.property(register::CC, false, limit)? as u32);
            self.port.set_property(register::CC, cc.with_shn(Cc::SHN_NORMAL).into_bits(), limit)?;
            while Instant::now() < deadline {
                let csts = Csts::from_bits(self.port.property(register::CSTS, false, limit)? as u32);
                if csts.shst() == Csts::SHST_COMPLETE {
                    return Ok(());
                }
                self.port.sleep(Duration::from_millis(1), None)?;
            }
            Err(Cause::Timeout { command: "a shutdown (CC.SHN)".into(), after: limit })
        })();
        if let Err(cause) = outcome {
            tracing::info!("{}: shutting down: {cause}", self.shared.name);
        }
    }
}
