//! Transports: how a queue to a controller comes about. NVMe/TCP, NVMe/RDMA, PCIe and vfio-user are built in; others register under a `trtype`
//! of their own and are driven through the same [`IoQueue`] contract, a call a batch.

mod group;
mod network;
pub(crate) mod pcie;
pub(crate) mod port;
pub mod rdma;
pub mod ring;
pub mod tcp;
pub(crate) mod vfio_user;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use doorbell_platform::{Arena, Range};
use doorbell_queue::{Counters, Done, Down, Drain, IoQueue, Needs, Op, PrepareError, Progress, Slot, Wait};
use doorbell_spec::command::Command;
use rdma::RdmaQueue;
use ring::{RingQueue, device::Open};
use tcp::TcpQueue;

pub use group::PollGroup;
pub use network::AddressError;

use crate::{
    cancel::Cancel,
    error::Cause,
    transport_id::{TransportId, TransportType},
};

/// Most transports that can be registered.
const MOST_TRANSPORTS: usize = 16;

/// What a queue is asked to be.
#[derive(Clone, Debug)]
pub struct QueueRequest {
    /// Queue identifier, 0 for the admin queue.
    pub qid: u16,
    /// Controller that it is one of; FFFFh for the admin queue of a new one.
    pub cntlid: u16,
    /// Entries of the submission queue; one less can be outstanding.
    pub entries: u32,
    /// Whether to offer a digest over headers.
    pub header_digest: bool,
    /// Whether to offer a digest over data.
    pub data_digest: bool,
    /// What a command capsule may hold.
    pub capsule: Capsule,
    /// The queues that are polled together with this one.
    pub group: PollGroup,
    /// Receives that the group's queues to a device share, where they are to share some (RDMA).
    pub shared_receives: Option<u32>,
    /// Type of service of what is sent (RDMA); 0 for none.
    pub type_of_service: u8,
    /// Fewest bytes of data that are sent without a copy to another machine (I/O queues over TCP); `None` copies all.
    pub zero_copy: Option<u32>,
    /// When to give up.
    pub deadline: Instant,
    /// Whether to give up earlier.
    pub cancel: Cancel,
}

/// What a command capsule may hold beside its command, and how much of data a command may describe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capsule {
    /// Most data bytes.
    pub data_bytes: u32,
    /// Bytes between the command and the data (ICDOFF).
    pub data_offset: u32,
    /// Most data block descriptors of a command (MSDBD), of which several stand in its capsule.
    pub descriptors: u16,
}

/// A kind of connection to controllers. Fabrics Connect and the register properties are sent as commands on the queues it opens.
pub trait Transport: Send + Sync {
    /// Its `trtype`, in upper case.
    fn trtype(&self) -> &str;

    /// Opens one queue that can carry commands, by the request's deadline.
    ///
    /// # Errors
    /// What was tried and what came back, for people.
    fn open_queue(&self, id: &TransportId, request: &QueueRequest) -> Result<Box<dyn IoQueue>, String>;
}

static REGISTERED: Mutex<Vec<Arc<dyn Transport>>> = Mutex::new(Vec::new());

/// Makes a transport known under its `trtype`.
///
/// # Errors
/// When the name belongs to the specification or is taken, or when there are 16 already.
pub fn register(transport: Arc<dyn Transport>) -> Result<(), String> {
    let name = transport.trtype().to_ascii_uppercase();
    if !matches!(TransportType::from_word(&name), TransportType::Custom(_)) {
        return Err(format!("{name} is a transport of the specification; take another name"));
    }
    let mut registered = REGISTERED.lock().unwrap_or_else(PoisonError::into_inner);
    if registered.len() == MOST_TRANSPORTS || registered.iter().any(|known| known.trtype().eq_ignore_ascii_case(&name))
    {
        return Err(format!("{name} is registered already, or {MOST_TRANSPORTS} transports are"));
    }
    registered.push(transport);
    Ok(())
}

/// Opens a queue over the transport that `id` names.
pub(crate) fn open_queue(id: &TransportId, request: &QueueRequest) -> Result<AnyQueue, Cause> {
    if let Some(why) = unusable(&id.trtype) {
        return Err(Cause::Transport(why));
    }
    match registered(id.trtype.word()) {
        Some(transport) => Ok(AnyQueue::Custom(transport.open_queue(id, request).map_err(Cause::Transport)?)),
        None if id.trtype == TransportType::Rdma => Ok(AnyQueue::Rdma(Box::new(rdma::connect(id, request)?))),
        None => Ok(AnyQueue::Tcp(Box::new(tcp::connect(id, request)?))),
    }
}

/// How devices of a transport are opened, where controllers are within reach.
pub(crate) fn opener(trtype: &TransportType) -> Option<Arc<Open>> {
    match trtype {
        TransportType::Pcie => Some(Arc::new(pcie::open)),
        TransportType::VfioUser => Some(Arc::new(vfio_user::open)),
        _ => None,
    }
}

fn registered(name: &str) -> Option<Arc<dyn Transport>> {
    let registered = REGISTERED.lock().unwrap_or_else(PoisonError::into_inner);
    registered.iter().find(|known| known.trtype().eq_ignore_ascii_case(name)).cloned()
}

/// Why a transport cannot be used; `None` when it can.
pub(crate) fn unusable(trtype: &TransportType) -> Option<String> {
    match trtype {
        TransportType::Tcp | TransportType::Pcie | TransportType::VfioUser => None,
        TransportType::Rdma => rdma::unusable(),
        TransportType::Fc => Some(
            "transport FC is not supported: user space has no access to Fibre Channel adapters; use the kernel's host and test its \
             block device"
                .into(),
        ),
        TransportType::Custom(name) if registered(name).is_some() => None,
        TransportType::Custom(name) => Some(format!("no transport is registered as {name}; built in are TCP, RDMA, PCIE and VFIOUSER")),
    }
}

/// A queue of any transport. Match on it to have the load's loop compiled for a built-in one.
pub enum AnyQueue {
    /// NVMe/TCP.
    Tcp(Box<TcpQueue>),
    /// NVMe/RDMA.
    Rdma(Box<RdmaQueue>),
    /// A ring pair of a PCIe device or a vfio-user peer.
    Ring(Box<RingQueue>),
    /// A registered transport's.
    Custom(Box<dyn IoQueue>),
}

macro_rules! each {
    ($any:expr, $queue:ident => $call:expr) => {
        match $any {
            AnyQueue::Tcp($queue) => $call,
            AnyQueue::Rdma($queue) => $call,
            AnyQueue::Ring($queue) => $call,
            AnyQueue::Custom($queue) => $call,
        }
    };
}

impl IoQueue for AnyQueue {
    fn needs(&self) -> Needs {
        each!(self, queue => queue.needs())
    }
    fn attach(&mut self, arena: &Arc<Arena>) -> Result<(), PrepareError> {
        each!(self, queue => queue.attach(arena))
    }
    fn prepare(&mut self, slot: Slot, data: &[Range]) -> Result<(), PrepareError> {
        each!(self, queue => queue.prepare(slot, data))
    }
    fn prepare_metadata(&mut self, slot: Slot, metadata: Range) -> Result<(), PrepareError> {
        each!(self, queue => queue.prepare_metadata(slot, metadata))
    }
    fn submit(&mut self, ops: &[Op]) -> usize {
        each!(self, queue => queue.submit(ops))
    }
    fn submit_raw(&mut self, slot: Slot, command: &Command) -> bool {
        each!(self, queue => queue.submit_raw(slot, command))
    }
    fn commit(&mut self) -> Result<Progress, Down> {
        each!(self, queue => queue.commit())
    }
    fn commits_cheaply(&self) -> bool {
        each!(self, queue => queue.commits_cheaply())
    }
    fn reap(&mut self, done: &mut [Done]) -> Result<usize, Down> {
        each!(self, queue => queue.reap(done))
    }
    fn stop(&mut self) {
        each!(self, queue => queue.stop());
    }
    fn drained(&self) -> Drain {
        each!(self, queue => queue.drained())
    }
    fn arm(&mut self) -> Result<Wait, Down> {
        each!(self, queue => queue.arm())
    }
    fn counters(&self) -> Counters {
        each!(self, queue => queue.counters())
    }
    fn named(&self, slot: Slot) -> Option<(u16, u16)> {
        each!(self, queue => queue.named(slot))
    }
    fn cancel(&mut self, slot: Slot) -> Option<bool> {
        each!(self, queue => queue.cancel(slot))
    }
    fn device(&self) -> Option<&str> {
        each!(self, queue => queue.device())
    }
}
