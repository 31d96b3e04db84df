//! The life of a controller's thread: bring-up, then requests, keep alive and events until it is detached or lost.

use std::{
    collections::VecDeque,
    os::fd::{AsRawFd, OwnedFd},
    sync::{
        Arc, Mutex, OnceLock,
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
    ControllerOptions, Present, Request, Shared,
    bring_up::{ABORT_SLOT, BringUp, EVENT_SLOTS, KEEP_ALIVE_SLOT, Ready},
};
use crate::{cancel::Cancel, error::Cause, namespace::Namespace, transport::port::Port, transport_id::TransportId};

/// Longest sleep between two looks at everything.
const PULSE: Duration = Duration::from_secs(1);
/// Least time an orderly shutdown gets.
const SHUTDOWN_AT_LEAST: Duration = Duration::from_secs(10);
/// An orderly shutdown when the user has given up.
const SHUTDOWN_CANCELLED: Duration = Duration::from_millis(500);

/// Everything the thread starts with.
pub(super) struct Start {
    pub id: TransportId,
    pub name: String,
    pub options: ControllerOptions,
    pub cancel: Cancel,
    /// Ends attempts to bring the controller back; set with `cancel` too.
    pub leave: Cancel,
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
        let bring_up = self.bring_up(&self.cancel);
        let (mut port, learned) = match bring_up.run() {
            Ok(up) => up,
            Err(cause) => return drop(ready.send(Err(cause))),
        };
        let shared = Arc::new(Shared {
            id: self.id.clone(),
            name: self.name.clone(),
            admin_timeout: self.options.admin_timeout,
            present: Mutex::new(Present::new(&self.name, learned, 0)),
            events: Mutex::default(),
            failure: OnceLock::new(),
        });
        if ready.send(Ok(shared.clone())).is_err() {
            return;
        }
        loop {
            let mut service = Service::new(&bring_up, port, &shared, &self.wake);
            match service.serve(requests) {
                End::Detached(answer) => {
                    service.shut_down();
                    service.port.into_queue().stop();
                    let _ = answer.map(|answer| answer.send(()));
                    return;
                }
                End::Lost(cause) => {
                    shared.present().up = false;
                    service.port.into_queue().stop();
                    match self.bring_back(&shared, requests, cause) {
                        Ok(back) => port = back,
                        Err(cause) => {
                            let _ = shared.failure.set(cause.to_string());
                            return tracing::warn!("{}: {cause}", self.name);
                        }
                    }
                }
            }
        }
    }

    /// Bring-up that ends with this flag.
    pub fn bring_up<'a>(&'a self, cancel: &'a Cancel) -> BringUp<'a> {
        BringUp { id: &self.id, name: &self.name, options: &self.options, cancel }
    }
}

impl Present {
    /// What was learned in an incarnation, which is up from now on.
    pub fn new(name: &str, mut learned: Ready, incarnation: u64) -> Self {
        for warning in &learned.warnings {
            tracing::warn!("{name}: {warning}");
        }
        let namespaces = std::mem::take(&mut learned.namespaces);
        Self { learned: Arc::new(learned), namespaces, incarnation, up: true, attempts: 0 }
    }
}

/// One incarnation of the controller.
struct Service<'a> {
    bring_up: &'a BringUp<'a>,
    port: Port,
    shared: &'a Shared,
    learned: Arc<Ready>,
    incarnation: u64,
    wake: &'a OwnedFd,
    next_qid: u16,
    keep_alive_due: Option<Instant>,
    keep_alive_sent: Option<Instant>,
    /// Commands to abort, by queue and command identifier.
    aborts: VecDeque<(u16, u16)>,
    abort_sent: Option<Instant>,
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

impl<'a> Service<'a> {
    fn new(bring_up: &'a BringUp<'a>, port: Port, shared: &'a Shared, wake: &'a OwnedFd) -> Self {
        let present = shared.present();
        Self {
            bring_up,
            port,
            shared,
            learned: present.learned.clone(),
            incarnation: present.incarnation,
            wake,
            next_qid: 1,
            keep_alive_due: present.learned.keep_alive.map(|_| Instant::now()),
            keep_alive_sent: None,
            aborts: VecDeque::new(),
            abort_sent: None,
        }
    }

    fn serve(&mut self, requests: &Receiver<Request>) -> End {
        loop {
            if let Err(end) = self.pass(requests) {
                return end;
            }
        }
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
            Ok(Request::Abort { incarnation, sqid, cid }) if incarnation == self.incarnation => {
                self.aborts.push_back((sqid, cid));
            }
            Ok(Request::Reset { incarnation, why }) if incarnation == self.incarnation => {
                return Err(Cause::Down(why).into());
            }
            // Of queues that are gone.
            Ok(Request::Abort { .. } | Request::Reset { .. }) => {}
            Ok(Request::Detach { answer }) => return Err(End::Detached(Some(answer))),
            Err(TryRecvError::Disconnected) => return Err(End::Detached(None)),
            Err(TryRecvError::Empty) => idle = true,
        }
        self.port.poll()?;
        for done in std::mem::take(&mut self.port.others) {
            self.over(done)?;
        }
        self.keep_alive()?;
        self.abort()?;
        // What came back while another command was waited for is not lying in the queue any more.
        if !idle || !self.port.others.is_empty() {
            return Ok(());
        }
        let due = self.keep_alive_due.map_or(PULSE, |due| due.saturating_duration_since(Instant::now()).min(PULSE));
        self.port.sleep(due, Some(self.wake.as_raw_fd()))?;
        let mut count = [0; 8];
        let _ = rustix::io::read(self.wake, &mut count);
        Ok(())
    }

    fn connect(&mut self, entries: u32) -> Result<crate::transport::AnyQueue, Cause> {
        if self.next_qid > self.learned.io_queues {
            return Err(Cause::Transport(format!(
                "all of its {} I/O queues are in use: use fewer cores, namespaces or queue pairs (-P, -U)",
                self.learned.io_queues
            )));
        }
        let entries = entries.clamp(2, self.learned.io_entries);
        let (port, _) =
            self.bring_up.connect_queue(self.next_qid, entries, self.learned.in_capsule_bytes, self.learned.cntlid)?;
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
        if done.slot == ABORT_SLOT {
            self.abort_sent = None;
            // Bit 0 of dword 0: not aborted (Base 5.1.1); the command was over, or will not be, which its queue finds out.
            tracing::debug!("{}: Abort was answered {}, {:x}h", self.shared.name, done.status, done.result as u32);
            return Ok(());
        }
        // Whoever gave up wants to leave: an event's commands would only stand in the way of the shutdown.
        let given_up = self.bring_up.cancel.is_cancelled();
        if !EVENT_SLOTS.contains(&done.slot) || !done.status.is_success() || given_up {
            return Ok(());
        }
        let event = AsyncEvent::from_dword(done.result as u32);
        self.shared.note(format!("event: {}", event.name()));
        let read = match event {
            AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED => self.namespaces_changed(),
            AsyncEvent::ANA_CHANGE => self.ana_changed(),
            AsyncEvent { lid: Lid(0), .. } => Ok(()),
            // Reading the page is what lets the controller report the next event of the kind.
            AsyncEvent { lid, .. } => self.bring_up.log_page(&mut self.port, lid, 512, 0).map(|_| ()),
        };
        match read {
            Err(cause) if cause.status().is_some() => self.shared.note(format!("after that event: {cause}")),
            other => other?,
        }
        self.port.send(done.slot, &command::async_event_request())
    }

    /// Identifies the namespaces that the changed namespace list names again.
    fn namespaces_changed(&mut self) -> Result<(), Cause> {
        let bytes = self.bring_up.log_page(&mut self.port, Lid::CHANGED_NAMESPACES, 4096, 0)?;
        let list =
            ChangedNamespaces::read_from_bytes(&bytes).map_err(|_| Cause::Nonsense("a short log page".into()))?;
        let mut known = self.namespaces();
        let mut changed: Vec<u32> = list.iter().collect();
        if list.overflowed() {
            changed = self.bring_up.active(&mut self.port, &self.learned.data, self.learned.vs)?;
            changed.extend(known.iter().map(|namespace| namespace.nsid));
            changed.sort_unstable();
            changed.dedup();
        }
        for nsid in changed {
            let found = self.bring_up.namespace(&mut self.port, nsid, self.learned.vs, self.learned.max_transfer)?;
            known.retain(|namespace| namespace.nsid != nsid);
            match found {
                Some(Ok(namespace)) => {
                    self.shared.note(format!(
                        "{}: {} blocks of {} bytes",
                        namespace.name, namespace.blocks, namespace.block_size
                    ));
                    known.push(namespace);
                }
                Some(Err(why)) => self.shared.note(why),
                None => self.shared.note(format!("namespace {nsid} is gone")),
            }
        }
        known.sort_by_key(|namespace| namespace.nsid);
        self.bring_up.ana_states(&mut self.port, &self.learned.data, &mut known)?;
        self.shared.present().namespaces = known;
        Ok(())
    }

    /// Reads the ANA log page again.
    fn ana_changed(&mut self) -> Result<(), Cause> {
        let mut known = self.namespaces();
        self.bring_up.ana_states(&mut self.port, &self.learned.data, &mut known)?;
        for (old, new) in self.namespaces().iter().zip(&known) {
            if let Some(state) = new.ana_state
                && old.ana_state != new.ana_state
            {
                self.shared.note(format!("{}: {}", new.name, state.name()));
            }
        }
        self.shared.present().namespaces = known;
        Ok(())
    }

    fn namespaces(&self) -> Vec<Namespace> {
        self.shared.present().namespaces.clone()
    }

    /// Sends Keep Alive when due, and gives up when the last was not answered for the whole time granted.
    fn keep_alive(&mut self) -> Result<(), Cause> {
        let (Some(granted), Some(due)) = (self.learned.keep_alive, self.keep_alive_due) else { return Ok(()) };
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

    /// Sends the next Abort when the last is answered.
    fn abort(&mut self) -> Result<(), Cause> {
        let now = Instant::now();
        if let Some(sent) = self.abort_sent {
            let limit = self.shared.admin_timeout;
            let late = now.duration_since(sent) >= limit;
            return if late { Err(Cause::Timeout { command: "Abort".into(), after: limit }) } else { Ok(()) };
        }
        let Some((sqid, cid)) = self.aborts.pop_front() else { return Ok(()) };
        self.abort_sent = Some(now);
        self.port.send(ABORT_SLOT, &command::abort(sqid, cid))
    }

    /// CC.SHN, then CSTS.SHST until it is complete (Base 3.6.2); a controller that cannot any more is left as it is.
    fn shut_down(&mut self) {
        let given_up = self.bring_up.cancel.is_cancelled();
        let limit = if given_up { SHUTDOWN_CANCELLED } else { shutdown_limit(&self.learned.data) };
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
