//! NVMe over RDMA: an [`Endpoint`] is where hosts ask for queues, a [`Connection`] is a queue. `admission` says whom the target takes,
//! `exchange` what becomes of commands, `pointer` and `cut` where their data is and how it is moved, `link` what is posted for that.

mod admission;
mod connection;
mod cut;
mod exchange;
mod link;
mod memory;
mod pointer;
mod receives;

use std::{io, net::SocketAddr, sync::Arc};

use doorbell_rdma::{Device, Error, EventChannel, EventKind, Identifier, Registration};
use doorbell_spec::rdma::{Reject, RejectCode};
use rustix::{
    event::epoll::{self, CreateFlags, EventData, EventFlags},
    fd::{AsFd, BorrowedFd, OwnedFd},
    io::Errno,
};
use zerocopy::IntoBytes;

use super::Context;
use crate::subsystem::Shared;
use admission::{Offer, Unconnected};
pub(crate) use connection::{Connection, Newcomer};
pub(crate) use memory::FrameMemory;
pub(crate) use receives::Pools;

/// Most bytes of data in a command capsule (IOCCSZ, ICDOFF is 0): what a host writes most often, and less than TCP takes, as a buffer
/// for as much is pinned for each command that may come.
const IN_CAPSULE: u32 = 4096;
/// Hosts that may wait to be answered.
const BACKLOG: u16 = 1024;

/// An address where hosts ask for queues.
#[derive(Debug)]
pub(crate) struct Endpoint {
    address: SocketAddr,
    events: EventChannel,
    /// Waits for events and the removal of the device.
    epoll: OwnedFd,
    /// None while there is no device at the address.
    identifier: Option<Identifier>,
    memory: Option<Memory>,
    unconnected: Unconnected,
}

/// What an endpoint knows when the target's memory has been made.
#[derive(Debug)]
struct Memory {
    frames: Arc<FrameMemory>,
    /// Keeps the frames registered at the device of the address between one host and the next.
    held: Option<Arc<Registration>>,
}

impl Endpoint {
    /// Listens at an address; port 0 takes a free one.
    ///
    /// # Errors
    /// The libraries are missing, or the address belongs to no RDMA device of this machine, or is taken.
    pub(crate) fn bind(address: SocketAddr) -> Result<Self, Error> {
        let events = EventChannel::new()?;
        let identifier = listen(&events, address)?;
        let address = identifier.local_address().unwrap_or(address);
        let system = |source: Errno| Error::Call { call: "epoll", source: source.into(), hint: None };
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(system)?;
        epoll::add(&epoll, &events, EventData::new_u64(0), EventFlags::IN).map_err(system)?;
        Ok(Self {
            address,
            events,
            epoll,
            identifier: Some(identifier),
            memory: None,
            unconnected: Unconnected::default(),
        })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes the memory of the target, registered at once where the device is known.
    ///
    /// # Errors
    /// The device does not take it.
    pub(crate) fn equip(&mut self, frames: Arc<FrameMemory>) -> Result<(), Error> {
        let device = self.identifier.as_ref().and_then(|identifier| identifier.device().ok());
        let held = device.map(|device| frames.on(&device)).transpose()?;
        if let Some(held) = &held {
            let _ = epoll::add(&self.epoll, held.device().removal(), EventData::new_u64(0), EventFlags::IN);
        }
        self.memory = Some(Memory { frames, held });
        Ok(())
    }

    /// Takes the next host that waits and may come in; none when there is none. Others are refused.
    ///
    /// # Errors
    /// What the connection manager answered.
    pub(crate) fn accept(&mut self, context: &Context) -> io::Result<Option<Newcomer>> {
        self.let_go(|device| device.is_removed());
        while let Some(event) = self.events.next_event().map_err(io::Error::other)? {
            let ours = self.identifier.as_ref().is_some_and(|identifier| identifier.token() == event.token);
            match (event.kind, event.request) {
                (EventKind::ConnectRequest, Some(identifier)) => {
                    let depth = event.initiator_depth;
                    if let Some(newcomer) = self.admit(identifier, &event.private_data, depth, &context.shared) {
                        return Ok(Some(newcomer));
                    }
                }
                (EventKind::DeviceRemoval, _) if ours => {
                    self.identifier = None;
                    self.let_go(|_| true);
                }
                // Hosts that gave up before they were taken.
                _ => {}
            }
        }
        Ok(None)
    }

    /// Releases the memory at the device, if it `is_gone`.
    fn let_go(&mut self, is_gone: impl Fn(&Device) -> bool) {
        if let Some(memory) = &mut self.memory
            && let Some(held) = memory.held.take_if(|held| is_gone(held.device()))
        {
            tracing::error!("rdma:{}: the device goes away; waiting for one at this address", self.address);
            // Others may hold it for longer.
            let _ = epoll::delete(&self.epoll, held.device().removal());
        }
    }

    /// Listens again, if there was no device at the address; returns whether it listens.
    pub(crate) fn restore(&mut self) -> bool {
        if self.identifier.is_none()
            && let Ok(identifier) = listen(&self.events, self.address)
        {
            self.identifier = Some(identifier);
            if let Some(memory) = self.memory.take()
                && let Err(error) = self.equip(memory.frames)
            {
                tracing::error!("rdma:{}: {error}", self.address);
            }
            tracing::info!("rdma:{}: there is a device again", self.address);
        }
        self.identifier.is_some()
    }

    fn admit(&self, identifier: Identifier, private_data: &[u8], depth: u8, shared: &Shared) -> Option<Newcomer> {
        let frames = self.memory.as_ref()?.frames.clone();
        let device = identifier.device();
        let device = device.inspect_err(|error| tracing::error!("rdma:{}: {error}", self.address)).ok()?;
        let configs = || shared.subsystems.iter().map(|subsystem| &subsystem.config);
        let offer = Offer {
            local: identifier.local_address().unwrap_or(self.address),
            device: device.attributes(),
            entries: configs().map(|config| config.max_queue_entries).max().unwrap_or(0),
            queues: configs().map(|config| config.max_io_queues).max().unwrap_or(0),
        };
        let has_controller = |cntlid| shared.subsystems.iter().any(|each| each.association(cntlid).is_some());
        let terms = offer.terms(private_data, depth, has_controller);
        match terms.and_then(|terms| Ok((terms, self.unconnected.add(terms.entries)?))) {
            Ok((terms, stranger)) => Some(Newcomer { identifier, terms, frames, stranger }),
            Err(code) => {
                let peer = identifier.peer_address();
                tracing::warn!("rdma:{}: a host at {peer:?} is refused: {code}", self.address);
                refuse(&identifier, code);
                None
            }
        }
    }
}

impl AsFd for Endpoint {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

fn listen(events: &EventChannel, address: SocketAddr) -> Result<Identifier, Error> {
    let identifier = events.identifier()?;
    identifier.listen(address, BACKLOG)?;
    Ok(identifier)
}

/// Refuses a request to connect. A host that cannot be told has gone.
fn refuse(identifier: &Identifier, code: RejectCode) {
    let _ = identifier.reject(Reject::new(code).as_bytes());
}
