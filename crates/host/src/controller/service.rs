//! The life of a controller's thread: bring-up, then requests, keep alive and events until it is detached or lost.

use std::{
    collections::VecDeque,
    os::fd::{AsRawFd, OwnedFd},
    sync::{
        Arc, Mutex, OnceLock,
        mpsc::{Receiver, Sender, TryRecvError},
    },
    thread,
    time::{Duration, Instant},
};

use doorbell_queue::{Done, IoQueue};
use doorbell_spec::{command, identify};

use super::{
    ControllerOptions, Present, Request, Shared,
    bring_up::{ABORT_SLOT, BringUp, KEEP_ALIVE_SLOT, Ready, Up},
    direct::{Direct, Reach, all_in_use},
    events::Events,
    registers::{self, Properties},
};
use crate::{
    cancel::Cancel,
    error::Cause,
    transport::{
        AnyQueue, PollGroup,
        port::{Kind, Port},
    },
    transport_id::TransportId,
};

/// Longest sleep between two looks at everything.
const PULSE: Duration = Duration::from_secs(1);
/// Most time an orderly shutdown gets, whatever the controller asks for.
const SHUTDOWN_AT_MOST: Duration = Duration::from_secs(60);
/// Entries of a queue that is there to look.
const LOOK_ENTRIES: u32 = 8;
/// How long a controller may take to forget a queue whose connection was closed, and how often it is asked.
const FORGOTTEN: Duration = Duration::from_secs(10);
const FORGETTING: Duration = Duration::from_millis(20);
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
    /// How its device is had, when it is within reach.
    pub reach: Option<Reach>,
}

/// How long an orderly shutdown may take: RTD3E (Base 3.6), within bounds of ours.
pub(super) fn shutdown_limit(data: &identify::Controller, at_least: Duration) -> Duration {
    Duration::from_micros(data.rtd3e.get().into()).min(SHUTDOWN_AT_MOST).max(at_least)
}

impl Start {
    /// Runs the controller's whole life.
    pub fn run(self, ready: &Sender<Result<Arc<Shared>, Cause>>, requests: &Receiver<Request>) {
        // A thread born on a pinned one inherits its core; this one must not stand in a worker's way.
        if let Ok(cores) = doorbell_platform::cpu::online() {
            let _ = doorbell_platform::cpu::pin_to(&cores);
        }
        let bring_up = self.bring_up(&self.cancel);
        let Up { mut port, mut direct, ready: learned } = match bring_up.run() {
            Ok(up) => up,
            Err(cause) => return drop(ready.send(Err(cause))),
        };
        let shared = Arc::new(Shared {
            id: self.id.clone(),
            name: self.name.clone(),
            admin_timeout: self.options.admin_timeout,
            shutdown_timeout: self.options.shutdown_timeout,
            present: Mutex::new(Present::new(&self.name, learned, 0)),
            events: Mutex::default(),
            failure: OnceLock::new(),
        });
        if ready.send(Ok(shared.clone())).is_err() {
            return;
        }
        loop {
            let mut service = Service::new(&bring_up, port, direct, &shared, &self.wake);
            match service.serve(requests) {
                End::Detached(answer) => {
                    service.shut_down();
                    service.port.into_queue().stop();
                    // The device goes before it is said that all is done.
                    drop((service.direct, self.reach));
                    let _ = answer.map(|answer| answer.send(()));
                    return;
                }
                End::Lost(cause) => {
                    shared.present().up = false;
                    service.leave(&cause);
                    // The device may be waited for by who wants to take it out, and cannot be opened again while it is held.
                    service.direct = None;
                    service.port.into_queue().stop();
                    match self.bring_back(&shared, requests, cause) {
                        Ok(back) => (port, direct) = back,
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
        BringUp { id: &self.id, name: &self.name, options: &self.options, cancel, reach: self.reach.as_ref() }
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
pub(super) struct Service<'a> {
    pub(super) bring_up: &'a BringUp<'a>,
    pub(super) port: Port,
    /// What there is beside the admin queue when the device is within reach.
    direct: Option<Direct>,
    pub(super) shared: &'a Shared,
    pub(super) learned: Arc<Ready>,
    pub(super) events: Events,
    incarnation: u64,
    wake: &'a OwnedFd,
    next_qid: u16,
    /// When a queue was connected to look at what is on namespaces.
    looked: Option<Instant>,
    /// Places of I/O queues that have fewer than were asked for, once that was told.
    cut: Option<u32>,
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
    fn new(
        bring_up: &'a BringUp<'a>,
        port: Port,
        direct: Option<Direct>,
        shared: &'a Shared,
        wake: &'a OwnedFd,
    ) -> Self {
        let present = shared.present();
        Self {
            bring_up,
            port,
            direct,
            shared,
            learned: present.learned.clone(),
            incarnation: present.incarnation,
            events: Events::new(),
            wake,
            next_qid: 1,
            looked: None,
            cut: None,
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
        self.attend()?;
        match requests.try_recv() {
            Ok(Request::Connect { entries, group, answer }) => {
                let result = self.connect(entries, &group);
                self.answer_with_queue(&answer, result)?;
            }
            Ok(Request::Look { answer }) => {
                let result = self.connect_to_look();
                self.answer_with_queue(&answer, result)?;
            }
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
        // The work after an event collects more, which the deadlines below must not miss.
        while !self.port.others.is_empty() {
            for done in std::mem::take(&mut self.port.others) {
                self.over(done)?;
            }
        }
        self.keep_alive()?;
        self.abort()?;
        let events_due = self.follow_events()?;
        // What came back while another command was sent or waited for is not lying in the queue any more.
        if !idle || !self.port.others.is_empty() {
            return Ok(());
        }
        let due = self.keep_alive_due.map_or(PULSE, |due| due.saturating_duration_since(Instant::now()).min(PULSE));
        let due = due.min(events_due);
        let farewell = self.direct.as_ref().and_then(Direct::farewell);
        let others: Vec<_> = [self.wake.as_raw_fd()].into_iter().chain(farewell).collect();
        self.port.sleep(due, &others)?;
        let mut count = [0; 8];
        let _ = rustix::io::read(self.wake, &mut count);
        Ok(())
    }

    /// Looks after the device and its queues, where it is within reach.
    fn attend(&mut self) -> Result<(), Cause> {
        let Some(direct) = &mut self.direct else { return Ok(()) };
        direct.gone()?;
        self.port.look()?;
        let notes = direct.bury(&mut self.port, self.shared.admin_timeout)?;
        notes.into_iter().for_each(|note| self.shared.note(note));
        Ok(())
    }

    fn connect(&mut self, entries: u32, group: &PollGroup) -> Result<AnyQueue, Cause> {
        let entries = entries.clamp(2, self.learned.io_entries);
        if let Some(direct) = &mut self.direct {
            return direct.create(&mut self.port, &self.learned, entries, self.shared.admin_timeout);
        }
        if self.next_qid > self.learned.io_queues {
            return Err(Cause::Transport(all_in_use(self.learned.io_queues)));
        }
        let Ready { capsule, cntlid, io_queues, .. } = *self.learned;
        let port = loop {
            match self.bring_up.connect_queue(self.next_qid, entries, capsule, cntlid, group) {
                Ok((port, _)) => break port,
                // The identifier may still be that of the queue that was there to look, which a controller forgets when it can.
                Err(Cause::Status { .. })
                    if self.next_qid == io_queues && self.looked.is_some_and(|looked| looked.elapsed() < FORGOTTEN) =>
                {
                    thread::sleep(FORGETTING);
                }
                Err(cause) => return Err(cause),
            }
        };
        self.next_qid += 1;
        let queue = port.into_queue();
        let (slots, wanted) = (u32::from(queue.needs().slots), entries - 1);
        if slots < wanted && self.cut != Some(slots) {
            self.cut = Some(slots);
            self.shared.note(format!(
                "its I/O queues have {slots} places for commands, not the {wanted} asked for: its end of the connection, or the \
                 device at this one, takes no more"
            ));
        }
        Ok(queue)
    }

    /// A queue to look at what is on namespaces. Over Fabrics it has the last identifier, which is the last that others need.
    fn connect_to_look(&mut self) -> Result<Port, Cause> {
        let Ready { capsule, cntlid, io_queues, io_entries, .. } = *self.learned;
        let entries = LOOK_ENTRIES.min(io_entries);
        if let Some(direct) = &mut self.direct {
            let queue = direct.create(&mut self.port, &self.learned, entries, self.shared.admin_timeout)?;
            return Port::new(queue, Kind::Io, !self.bring_up.options.interrupts, self.bring_up.cancel);
        }
        if self.next_qid > io_queues {
            return Err(Cause::Transport(all_in_use(io_queues)));
        }
        self.looked = Some(Instant::now());
        self.bring_up.connect_queue(io_queues, entries, capsule, cntlid, &PollGroup::default()).map(|(port, _)| port)
    }

    /// Hands a queue over. A device that does not answer a command that creates one may still do it, and is lost.
    fn answer_with_queue<T>(&self, answer: &Sender<Result<T, Cause>>, result: Result<T, Cause>) -> Result<(), Cause> {
        let lost = match (&result, &self.direct) {
            (Ok(_) | Err(Cause::Status { .. } | Cause::Transport(_)), _) | (_, None) => None,
            (Err(cause), Some(_)) => Some(cause.to_string()),
        };
        let _ = answer.send(result);
        lost.map_or(Ok(()), |why| Err(Cause::Down(why)))
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
        self.event(done)
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

    /// The controller is lost: a device within reach is made to leave our memory alone.
    fn leave(&mut self, cause: &Cause) {
        let Some(direct) = &mut self.direct else { return };
        let given_up = self.bring_up.cancel.is_cancelled();
        let limit = if given_up { SHUTDOWN_CANCELLED } else { self.bring_up.options.bring_up_timeout };
        if let Err(why) = direct.quiesce(&cause.to_string(), limit) {
            self.shared.note(format!("lost: {why}; memory that it may still write to is not used again"));
        }
    }

    /// An orderly shutdown; a controller that cannot any more is left as it is.
    fn shut_down(&mut self) {
        let given_up = self.bring_up.cancel.is_cancelled();
        let limit = match given_up {
            true => SHUTDOWN_CANCELLED,
            false => shutdown_limit(&self.learned.data, self.shared.shutdown_timeout),
        };
        self.port.grant("the shutdown", limit);
        if given_up {
            // The flag has done its work; a shutdown that nobody has given up yet still ends with it.
            self.port.use_cancel(&Cancel::new());
        }
        let outcome = match &mut self.direct {
            Some(direct) => {
                // Those that were dropped a moment ago; whatever becomes of them, the shutdown is through the registers.
                let buried = direct.bury(&mut self.port, limit);
                direct.shut_down(limit).and(buried.map(drop))
            }
            None => registers::shut_down(&mut Properties { port: &mut self.port, timeout: limit }),
        };
        if let Err(cause) = outcome {
            tracing::info!("{}: shutting down: {cause}", self.shared.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;

    use super::*;

    #[test]
    fn a_shutdown_may_take_what_the_controller_asks_for_within_bounds() {
        let mut data = identify::Controller::new_zeroed();
        for (rtd3e, at_least, limit) in [(0, 10, 10), (30_000_000, 10, 30), (u32::MAX, 10, 60), (u32::MAX, 90, 90)] {
            data.rtd3e = rtd3e.into();
            let limit = Duration::from_secs(limit);
            assert_eq!(shutdown_limit(&data, Duration::from_secs(at_least)), limit, "RTD3E {rtd3e}");
        }
    }
}
