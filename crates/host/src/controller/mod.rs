//! A controller: a thread that brought it up and keeps its admin queue, and the handle by which everyone else asks it for queues,
//! commands and its state.

mod bring_up;
mod events;
mod options;
mod service;

use std::{
    fmt,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        mpsc::{self, Sender},
    },
    thread,
    time::Duration,
};

use doorbell_spec::{
    command::{self, Command, LogRequest},
    identify::{self, Cns, Csi},
    log::Lid,
    register::{Cap, Vs},
};
use rustix::event::{EventfdFlags, eventfd};

pub use options::ControllerOptions;

use crate::{
    cancel::Cancel,
    error::{Cause, Error},
    namespace::Namespace,
    transport::{
        AnyQueue,
        port::{AdminData, BUFFER},
    },
    transport_id::{TransportId, TransportType},
};

/// What an answer may take beyond the time a request is granted on the controller's thread.
const SLACK: Duration = Duration::from_secs(5);

/// A controller that is ready. Clones are handles to the same one; it is shut down by [`Controller::detach`] or with the last handle.
#[derive(Clone)]
pub struct Controller {
    shared: Arc<Shared>,
    link: Arc<Link>,
}

/// What a controller said of itself while it was brought up, and what has happened since.
struct Shared {
    id: TransportId,
    name: String,
    cap: Cap,
    vs: Vs,
    cntlid: u16,
    data: Box<identify::Controller>,
    io_queues: u16,
    io_entries: u32,
    max_transfer: u32,
    in_capsule_bytes: u32,
    keep_alive: Option<Duration>,
    admin_timeout: Duration,
    shutdown_limit: Duration,
    namespaces: Mutex<Vec<Namespace>>,
    events: Mutex<Vec<String>>,
    failure: OnceLock<String>,
}

/// The way to the controller's thread; when the last handle goes, so does the thread.
struct Link {
    requests: Mutex<Option<Sender<Request>>>,
    wake: Arc<OwnedFd>,
}

enum Request {
    Connect { entries: u32, answer: Sender<Result<AnyQueue, Cause>> },
    Admin { command: Box<Command>, data: AdminData, answer: Sender<AdminAnswer> },
    Detach { answer: Sender<()> },
}

type AdminAnswer = Result<(u64, Vec<u8>), Cause>;

impl Drop for Link {
    fn drop(&mut self) {
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
        other => format!("{} ({})", other.word(), id.traddr),
    }
}

impl Controller {
    /// Brings a controller up, on a thread that then keeps it.
    ///
    /// # Errors
    /// The step that failed, what was sent and what came back.
    pub fn connect(id: &TransportId, options: &ControllerOptions, cancel: &Cancel) -> Result<Self, Error> {
        let name = name_of(id);
        let fail = |why: String| Cause::Transport(why).of(&name);
        let wake = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC);
        let wake = Arc::new(wake.map_err(|why| fail(format!("making an event descriptor: {why}")))?);
        let (ready, result) = mpsc::channel();
        let (requests, inbox) = mpsc::channel();
        let service = service::Start {
            id: id.clone(),
            name: name.clone(),
            options: options.clone(),
            cancel: cancel.clone(),
            wake: wake.clone(),
        };
        thread::Builder::new()
            .name("controller".into())
            .spawn(move || service.run(&ready, &inbox))
            .map_err(|why| fail(format!("starting its thread: {why}")))?;
        // Bring-up on that thread has a deadline, so this wait has one too.
        match result.recv() {
            Ok(Ok(shared)) => Ok(Self { shared, link: Arc::new(Link { requests: Mutex::new(Some(requests)), wake }) }),
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
    pub fn identify(&self) -> &identify::Controller {
        &self.shared.data
    }

    /// Its capabilities register.
    pub fn cap(&self) -> Cap {
        self.shared.cap
    }

    /// Its version register.
    pub fn vs(&self) -> Vs {
        self.shared.vs
    }

    /// Its identifier in the subsystem.
    pub fn cntlid(&self) -> u16 {
        self.shared.cntlid
    }

    /// The active namespaces, ascending; as they were last identified.
    pub fn namespaces(&self) -> Vec<Namespace> {
        self.shared.namespaces.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// I/O queues it granted.
    pub fn io_queues(&self) -> u16 {
        self.shared.io_queues
    }

    /// Entries of an I/O queue: what was asked for, within what it supports.
    pub fn io_queue_entries(&self) -> u32 {
        self.shared.io_entries
    }

    /// Most bytes one command transfers.
    pub fn max_transfer(&self) -> u32 {
        self.shared.max_transfer
    }

    /// Most data bytes in an I/O command capsule.
    pub fn in_capsule_bytes(&self) -> u32 {
        self.shared.in_capsule_bytes
    }

    /// The keep alive time it granted, if any.
    pub fn keep_alive(&self) -> Option<Duration> {
        self.shared.keep_alive
    }

    /// Why it is lost, once it is.
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
        self.ask(|answer| Request::Connect { entries, answer })
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

    /// `bytes` bytes of a log page from its start, of the controller (`nsid` 0 or FFFFFFFFh) or a namespace.
    ///
    /// # Errors
    /// As [`Controller::admin`].
    pub fn log_page(&self, lid: Lid, nsid: u32, bytes: u32) -> Result<Vec<u8>, Error> {
        let request = LogRequest { nsid, bytes: bytes.into(), ..LogRequest::new(lid) };
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
        if self.send(Request::Detach { answer }).is_ok() {
            let _ = done.recv_timeout(self.shared.shutdown_limit + SLACK);
        }
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
