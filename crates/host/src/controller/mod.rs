//! A controller: a thread that brought it up and keeps its admin queue, and the handle by which everyone else asks it for queues,
//! commands and its state.

mod bring_up;
mod direct;
mod events;
mod options;
mod reconnect;
mod registers;
mod service;
mod zoned;

use std::{
    fmt,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        mpsc::{self, Sender},
    },
    thread,
    time::Duration,
};

use doorbell_spec::{
    command::{self, Command, LogRequest},
    identify::{self, Cns, Csi},
    log::{AnaState, Lid},
    register::{Cap, Vs},
};
use doorbell_tcp::Digests;
use rustix::event::{EventfdFlags, eventfd};

pub use options::{ControllerOptions, Reconnect};

use bring_up::Ready;
use direct::Reach;

use crate::{
    cancel::Cancel,
    error::{Cause, Error},
    namespace::Namespace,
    reader::Reader,
    transport::{
        self, AnyQueue, PollGroup,
        port::{AdminData, BUFFER, Port},
        ring::device::Open,
    },
    transport_id::{TransportId, TransportType},
};

/// What an answer may take beyond the time a request is granted on the controller's thread.
const SLACK: Duration = Duration::from_secs(5);
/// Most events kept for somebody to ask for; a controller that reports more is not listened to.
const MOST_EVENTS: usize = 1024;

/// A controller that is ready. Clones are handles to the same one; it is shut down by [`Controller::detach`] or with the last handle.
#[derive(Clone)]
pub struct Controller {
    shared: Arc<Shared>,
    link: Arc<Link>,
}

/// What a controller's thread and its handles share.
struct Shared {
    id: TransportId,
    name: String,
    admin_timeout: Duration,
    /// Least time an orderly shutdown gets.
    shutdown_timeout: Duration,
    present: Mutex<Present>,
    events: Mutex<Vec<String>>,
    failure: OnceLock<String>,
}

/// What is known of a controller since it was last brought up.
struct Present {
    learned: Arc<Ready>,
    /// As they were last identified.
    namespaces: Vec<Namespace>,
    /// How often it was brought back.
    incarnation: u64,
    /// It is not lost.
    up: bool,
    /// Attempts to bring it back so far.
    attempts: u32,
}

impl Shared {
    fn present(&self) -> MutexGuard<'_, Present> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps an event for whoever asks.
    fn note(&self, event: String) {
        tracing::info!("{}: {event}", self.name);
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        if events.len() < MOST_EVENTS {
            events.push(event);
        }
    }
}

/// The way to the controller's thread; when the last handle goes, so does the thread.
struct Link {
    requests: Mutex<Option<Sender<Request>>>,
    wake: Arc<OwnedFd>,
    /// Ends attempts to bring the controller back.
    leave: Cancel,
}

enum Request {
    Connect {
        entries: u32,
        group: PollGroup,
        answer: Sender<Result<AnyQueue, Cause>>,
    },
    /// A queue to look at what is on namespaces.
    Look {
        answer: Sender<Result<Port, Cause>>,
    },
    Admin {
        command: Box<Command>,
        data: AdminData,
        answer: Sender<AdminAnswer>,
    },
    /// Abort a command of a queue, if it is one of this incarnation.
    Abort {
        incarnation: u64,
        sqid: u16,
        cid: u16,
    },
    /// A queue of this incarnation is lost.
    Reset {
        incarnation: u64,
        why: String,
    },
    Detach {
        answer: Sender<()>,
    },
}

type AdminAnswer = Result<(u64, Vec<u8>), Cause>;

impl Drop for Link {
    fn drop(&mut self) {
        self.leave.cancel();
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).take();
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

impl fmt::Debug for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Controller").field("name", &self.shared.name).finish_non_exhaustive()
    }
}

/// A controller's name as tables show it.
pub(crate) fn name_of(id: &TransportId) -> String {
    match &id.trtype {
        TransportType::Tcp | TransportType::Rdma | TransportType::Fc => {
            format!("{} (addr:{} subnqn:{})", id.trtype.word(), id.traddr, id.subnqn)
        }
        TransportType::Custom(_) => format!("CUSTOM ({})", id.traddr),
        TransportType::Pcie => transport::pcie::name(&id.traddr),
        other => format!("{} ({})", other.word(), id.traddr),
    }
}

impl Controller {
    /// Brings a controller up, on a thread that then keeps it.
    ///
    /// # Errors
    /// The step that failed, what was sent and what came back.
    pub fn connect(id: &TransportId, options: &ControllerOptions, cancel: &Cancel) -> Result<Self, Error> {
        Self::connect_through(id, transport::opener(&id.trtype), options, cancel)
    }

    /// The same, through a way to open its device when it is within reach.
    fn connect_through(
        id: &TransportId,
        open: Option<Arc<Open>>,
        options: &ControllerOptions,
        cancel: &Cancel,
    ) -> Result<Self, Error> {
        let name = name_of(id);
        let fail = |why: String| Cause::Transport(why).of(&name);
        let wake = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC);
        let wake = Arc::new(wake.map_err(|why| fail(format!("making an event descriptor: {why}")))?);
        let (ready, result) = mpsc::channel();
        let (requests, inbox) = mpsc::channel();
        let leave = cancel.child();
        let service = service::Start {
            id: id.clone(),
            name: name.clone(),
            options: options.clone(),
            cancel: cancel.clone(),
            leave: leave.clone(),
            wake: wake.clone(),
            reach: open.map(|open| Reach::new(open, wake.clone())),
        };
        thread::Builder::new()
            .name("controller".into())
            .spawn(move || service.run(&ready, &inbox))
            .map_err(|why| fail(format!("starting its thread: {why}")))?;
        // Bring-up on that thread has a deadline, so this wait has one too.
        match result.recv() {
            Ok(Ok(shared)) => {
                Ok(Self { shared, link: Arc::new(Link { requests: Mutex::new(Some(requests)), wake, leave }) })
            }
            Ok(Err(cause)) => Err(cause.of(&name)),
            Err(_) => Err(fail("its thread ended without a word".into())),
        }
    }

    /// Where it is.
    pub fn id(&self) -> &TransportId {
        &self.shared.id
    }

    /// Whether this is a handle to the same controller.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.link, &other.link)
    }

    /// Its name, like `TCP (addr:10.0.0.1 subnqn:nqn…)`.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Its Identify Controller data.
    pub fn identify(&self) -> Arc<identify::Controller> {
        self.learned().data.clone()
    }

    /// Its capabilities register.
    pub fn cap(&self) -> Cap {
        self.learned().cap
    }

    /// Its version register.
    pub fn vs(&self) -> Vs {
        self.learned().vs
    }

    /// Its identifier in the subsystem.
    pub fn cntlid(&self) -> u16 {
        self.learned().cntlid
    }

    /// The active namespaces, ascending; as they were last identified.
    pub fn namespaces(&self) -> Vec<Namespace> {
        self.shared.present().namespaces.clone()
    }

    /// While the path to a namespace, or to any with `None`, changes its ANA state: how long that takes at most (ANATT). Whoever is
    /// to use it waits for so long; what becomes of it is an event.
    pub fn changing(&self, nsid: Option<u32>) -> Option<Duration> {
        let changing = |namespace: &Namespace| {
            nsid.is_none_or(|nsid| nsid == namespace.nsid) && namespace.ana_state == Some(AnaState::CHANGE)
        };
        let any = self.shared.present().namespaces.iter().any(changing);
        any.then(|| Duration::from_secs(self.identify().anatt.into()))
    }

    /// I/O queues it granted.
    pub fn io_queues(&self) -> u16 {
        self.learned().io_queues
    }

    /// Entries of an I/O queue: what was asked for, within what it supports.
    pub fn io_queue_entries(&self) -> u32 {
        self.learned().io_entries
    }

    /// Most bytes one command transfers.
    pub fn max_transfer(&self) -> u32 {
        self.learned().max_transfer
    }

    /// Most data bytes in an I/O command capsule.
    pub fn in_capsule_bytes(&self) -> u32 {
        self.learned().capsule.data_bytes
    }

    /// What an Identify command took when it was brought up: a round trip over its path, and its own time for it.
    pub fn identify_took(&self) -> Duration {
        self.learned().identify_took
    }

    /// The digests that it agreed to over TCP, for the connection of its admin queue.
    pub fn digests(&self) -> Digests {
        self.learned().digests
    }

    /// The keep alive time it granted, if any.
    pub fn keep_alive(&self) -> Option<Duration> {
        self.learned().keep_alive
    }

    /// How often it was brought back so far; `None` while it is lost. Queues belong to the incarnation they were connected in.
    pub fn incarnation(&self) -> Option<u64> {
        let present = self.shared.present();
        present.up.then_some(present.incarnation)
    }

    /// Attempts so far to bring it back, successful or not.
    pub fn attempts(&self) -> u32 {
        self.shared.present().attempts
    }

    /// Why it is lost for good, once it is.
    pub fn failure(&self) -> Option<&str> {
        self.shared.failure.get().map(String::as_str)
    }

    /// The events since the last call, for people.
    pub fn events(&self) -> Vec<String> {
        std::mem::take(&mut *self.shared.events.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Connects one more I/O queue of `entries` entries (within [`Controller::io_queue_entries`]); it is the caller's from then on.
    ///
    /// # Errors
    /// When the controller refuses, does not answer in time, or is lost.
    pub fn connect_io_queue(&self, entries: u32) -> Result<AnyQueue, Error> {
        self.connect_io_queue_in(&PollGroup::default(), entries)
    }

    /// The same for a queue that is polled together with the others of `group`.
    ///
    /// # Errors
    /// As [`Controller::connect_io_queue`].
    pub fn connect_io_queue_in(&self, group: &PollGroup, entries: u32) -> Result<AnyQueue, Error> {
        self.ask(|answer| Request::Connect { entries, group: group.clone(), answer })
    }

    /// An I/O queue to read a few blocks by, connected now.
    ///
    /// # Errors
    /// As [`Controller::connect_io_queue`].
    pub fn reader(&self) -> Result<Reader, Error> {
        let port = self.ask(|answer| Request::Look { answer })?;
        Ok(Reader { port, controller: self.shared.name.clone(), timeout: self.shared.admin_timeout })
    }

    /// Says that a queue of an incarnation is lost: the controller is reset as a whole, once. Does not wait.
    pub fn queue_lost(&self, incarnation: u64, why: String) {
        // A controller that is gone needs no reset.
        let _ = self.send(Request::Reset { incarnation, why });
    }

    /// Has a command of a queue of an incarnation aborted (Base 5.1.1). Does not wait: when it could be aborted, the command comes
    /// out of its queue with a status that says so.
    pub fn abort(&self, incarnation: u64, sqid: u16, cid: u16) {
        // A controller that is gone has aborted everything.
        let _ = self.send(Request::Abort { incarnation, sqid, cid });
    }

    /// Sends an admin command and waits for its success; returns dwords 0 and 1 of the completion and the data that came. At most
    /// 64 KiB either way.
    ///
    /// # Errors
    /// The status when it is none of success; no answer in time; a lost controller.
    pub fn admin(&self, command: Command, data: AdminData) -> Result<(u64, Vec<u8>), Error> {
        let bytes = match &data {
            AdminData::None => 0,
            AdminData::In(bytes) => *bytes as usize,
            AdminData::Out(bytes) => bytes.len(),
        };
        if bytes > BUFFER as usize {
            let why = format!("an admin command moves at most {BUFFER} bytes, not {bytes}");
            return Err(Cause::Transport(why).of(self.name()));
        }
        self.ask(|answer| Request::Admin { command: Box::new(command), data, answer })
    }

    /// `bytes` bytes of a log page from its start, of the controller (`nsid` 0 or FFFFFFFFh) or a namespace. Events that it is about
    /// are not told anew for having been read.
    ///
    /// # Errors
    /// As [`Controller::admin`].
    pub fn log_page(&self, lid: Lid, nsid: u32, bytes: u32) -> Result<Vec<u8>, Error> {
        let request = LogRequest { nsid, bytes: bytes.into(), rae: true, ..LogRequest::new(lid) };
        self.admin(command::get_log_page(&request), AdminData::In(bytes)).map(|(_, bytes)| bytes)
    }

    /// An Identify data structure of 4096 bytes.
    ///
    /// # Errors
    /// As [`Controller::admin`].
    pub fn identify_page(&self, cns: Cns, nsid: u32, csi: Csi) -> Result<Vec<u8>, Error> {
        let command = command::identify(cns, nsid, csi, 0);
        self.admin(command, AdminData::In(identify::SIZE as u32)).map(|(_, bytes)| bytes)
    }

    /// Shuts the controller down in order and waits until that is done; its I/O queues should be gone by then. Bounded by the shut
    /// down time that the controller states, 60 s at most, or [`ControllerOptions::shutdown_timeout`] if that is more.
    pub fn detach(self) {
        let (answer, done) = mpsc::channel();
        self.link.leave.cancel();
        if self.send(Request::Detach { answer }).is_ok() {
            let limit = service::shutdown_limit(&self.learned().data, self.shared.shutdown_timeout);
            let _ = done.recv_timeout(limit + SLACK);
        }
    }

    fn learned(&self) -> Arc<Ready> {
        self.shared.present().learned.clone()
    }

    fn send(&self, request: Request) -> Result<(), Cause> {
        let gone = || Cause::Down(self.failure().unwrap_or("it was detached").to_string());
        let requests = self.link.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.as_ref().ok_or_else(gone)?.send(request).map_err(|_| gone())?;
        let _ = rustix::io::write(&self.link.wake, &1u64.to_ne_bytes());
        Ok(())
    }

    fn ask<T>(&self, request: impl FnOnce(Sender<Result<T, Cause>>) -> Request) -> Result<T, Error> {
        let (answer, result) = mpsc::channel();
        let limit = self.shared.admin_timeout * 2 + SLACK;
        self.send(request(answer))
            .and_then(|()| match result.recv_timeout(limit) {
                Ok(result) => result,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    Err(Cause::Down(format!("its thread did not answer within {limit:?}")))
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    Err(Cause::Down(self.failure().unwrap_or("it is being detached").to_string()))
                }
            })
            .map_err(|cause| cause.of(&self.shared.name))
    }
}
