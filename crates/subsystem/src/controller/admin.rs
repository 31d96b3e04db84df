//! The admin queue, which is the controller: Fabrics and Admin commands, events, the keep alive timer. What only a controller in
//! memory has, queues that commands create, is its listener's.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use doorbell_spec::{
    command::{AbortRequest, AdminOpcode, Command},
    fabrics::{Fctype, fctype},
    register::{Cc, Csts},
    status::{Status, command_specific, fabrics, generic},
};

use super::{IoQueue, features::Features};
use crate::subsystem::{Association, NoQueue, Shared, Subsystem};

/// Asynchronous Event Requests a host may have outstanding (AERL + 1).
pub(super) const MOST_EVENTS: usize = 4;
/// The Admin commands that every controller has.
const COMMANDS: [AdminOpcode; 7] = [
    AdminOpcode::GET_LOG_PAGE,
    AdminOpcode::IDENTIFY,
    AdminOpcode::ABORT,
    AdminOpcode::SET_FEATURES,
    AdminOpcode::GET_FEATURES,
    AdminOpcode::ASYNC_EVENT_REQUEST,
    AdminOpcode::KEEP_ALIVE,
];
/// Those that only a controller in memory has; its listener carries them out.
const MEMORY_COMMANDS: [AdminOpcode; 5] = [
    AdminOpcode::DELETE_IO_SQ,
    AdminOpcode::CREATE_IO_SQ,
    AdminOpcode::DELETE_IO_CQ,
    AdminOpcode::CREATE_IO_CQ,
    AdminOpcode::DOORBELL_BUFFER_CONFIG,
];
/// Granularity of the keep alive timer (KAS is 1).
const KEEP_ALIVE_UNIT: u64 = 100;

/// How a controller and its host reach each other (Base 2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// By messages over TCP, on a connection to this address.
    Tcp(SocketAddr),
    /// By messages over RDMA, on a connection to this address.
    Rdma {
        /// The address.
        local: SocketAddr,
        /// What its queues can be.
        limits: Limits,
    },
    /// Through memory (PCIe), with this many interrupt vectors.
    Memory {
        /// Vectors.
        vectors: u16,
    },
}

/// What the queues of a transport can be, beside what its subsystem grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Most entries of a queue (MQES + 1).
    pub(crate) entries: u32,
    /// Bytes of data in a command capsule.
    pub(crate) in_capsule_data: u32,
    /// Most data block descriptors of a command (MSDBD).
    pub(crate) descriptors: u8,
}

impl Transport {
    /// The address that the host connected to.
    pub(super) fn local(&self) -> Option<SocketAddr> {
        match *self {
            Self::Tcp(local) | Self::Rdma { local, .. } => Some(local),
            Self::Memory { .. } => None,
        }
    }

    /// Most entries of an I/O queue, of those that the subsystem grants.
    pub(super) fn max_entries(&self, granted: u32) -> u32 {
        match self {
            Self::Rdma { limits, .. } => granted.min(limits.entries),
            Self::Tcp(_) | Self::Memory { .. } => granted,
        }
    }
}

/// A controller on its admin queue.
#[derive(Debug)]
pub(crate) struct Admin {
    pub(super) shared: Arc<Shared>,
    pub(super) association: Arc<Association>,
    pub(super) transport: Transport,
    pub(super) cc: Cc,
    pub(super) csts: Csts,
    pub(super) features: Features,
    /// Identifiers of the Asynchronous Event Requests outstanding.
    events: Vec<u16>,
    /// Keep alive timeout in milliseconds, 0 for none.
    pub(super) kato: u32,
    pub(super) alive: Instant,
}

/// The answer to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: Status,
    /// Dwords 0 and 1.
    pub(crate) result: u64,
    /// Data for the host, as long as the command asked for.
    pub(crate) data: Vec<u8>,
}

impl Answer {
    pub(crate) fn status(status: Status) -> Self {
        Self { status, result: 0, data: Vec::new() }
    }

    pub(super) fn result(result: u64) -> Self {
        Self { result, ..Self::status(generic::SUCCESS) }
    }

    pub(super) fn data(data: Vec<u8>) -> Self {
        Self { data, ..Self::result(0) }
    }
}

impl Admin {
    pub(super) fn new(
        shared: Arc<Shared>,
        association: Arc<Association>,
        transport: Transport,
        kato: u32,
        now: Instant,
    ) -> Self {
        let mut admin = Self {
            shared,
            association,
            transport,
            cc: Cc::new(),
            csts: Csts::new(),
            features: Features::default(),
            events: Vec::new(),
            kato: 0,
            alive: now,
        };
        admin.set_keep_alive(kato, now);
        admin
    }

    /// A controller of a subsystem for a host that reaches it through memory, and has no name but where it comes from; none when
    /// there are too many.
    pub(crate) fn in_memory(
        shared: Arc<Shared>,
        subsystem: &Arc<Subsystem>,
        host: &str,
        vectors: u16,
        now: Instant,
    ) -> Option<Self> {
        let association = subsystem.associate([0; 16], host)?;
        Some(Self::new(shared, association, Transport::Memory { vectors }, 0, now))
    }

    /// The Admin commands it has.
    pub(super) fn commands(&self) -> impl Iterator<Item = AdminOpcode> {
        let more: &[_] = if self.is_in_memory() { &MEMORY_COMMANDS } else { &[] };
        COMMANDS.iter().chain(more).copied()
    }

    /// Whether its host reaches it through memory.
    pub(super) fn is_in_memory(&self) -> bool {
        matches!(self.transport, Transport::Memory { .. })
    }

    /// Checks that there is such a command now, before its data is asked for.
    ///
    /// # Errors
    /// The status to answer with.
    pub(crate) fn check(&self, command: &Command) -> Result<(), Status> {
        if command.is_fabrics() && !self.is_in_memory() {
            return Ok(());
        }
        if !self.csts.rdy() {
            return Err(generic::COMMAND_SEQUENCE_ERROR.with_dnr());
        }
        let exists = self.commands().any(|opcode| opcode.0 == command.opc);
        if exists { Ok(()) } else { Err(generic::INVALID_OPCODE.with_dnr()) }
    }

    /// Carries out a command with the data that came with it; `len` is the length of the data that the host takes, where the
    /// command comes with one. None for an event request, which stays. `aborted` takes other commands that end with this one.
    pub(crate) fn execute(
        &mut self,
        command: &Command,
        data: &[u8],
        len: Option<u32>,
        now: Instant,
        aborted: &mut Vec<(u16, Status)>,
    ) -> Option<Answer> {
        if command.is_fabrics() && !self.is_in_memory() {
            return Some(match fctype(command) {
                Fctype::PROPERTY_GET => self.property_get(command),
                Fctype::PROPERTY_SET => self.property_set(command, aborted),
                Fctype::CONNECT => Answer::status(generic::COMMAND_SEQUENCE_ERROR.with_dnr()),
                Fctype::DISCONNECT => Answer::status(fabrics::INVALID_QUEUE_TYPE.with_dnr()),
                _ => Answer::status(generic::INVALID_OPCODE.with_dnr()),
            });
        }
        if let Err(status) = self.check(command) {
            return Some(Answer::status(status));
        }
        let answer = match AdminOpcode(command.opc) {
            AdminOpcode::IDENTIFY => self.identify(command),
            AdminOpcode::GET_LOG_PAGE => self.log_page(command),
            AdminOpcode::GET_FEATURES => self.get_features(command),
            AdminOpcode::SET_FEATURES => self.set_features(command, data, now),
            AdminOpcode::KEEP_ALIVE => {
                self.alive = now;
                Answer::result(0)
            }
            AdminOpcode::ABORT => self.abort(command, aborted),
            AdminOpcode::ASYNC_EVENT_REQUEST => {
                if self.events.len() < MOST_EVENTS {
                    self.events.push(command.cid.get());
                    return None;
                }
                Answer::status(command_specific::AER_LIMIT_EXCEEDED.with_dnr())
            }
            _ => Answer::status(generic::INVALID_OPCODE.with_dnr()),
        };
        if !answer.data.is_empty() && len.is_some_and(|len| answer.data.len() != len as usize) {
            return Some(Answer::status(generic::DATA_SGL_LENGTH_INVALID.with_dnr()));
        }
        Some(answer)
    }

    /// Most bytes of data of a command.
    pub(crate) fn max_transfer(&self) -> u32 {
        self.association.subsystem.config.max_transfer
    }

    /// When the host must have been heard of again.
    pub(crate) fn expires(&self) -> Option<Instant> {
        (self.kato != 0).then(|| self.alive + Duration::from_millis(self.kato.into()))
    }

    /// The association's queue of that identifier.
    ///
    /// # Errors
    /// As [`Association::open`].
    pub(crate) fn open_queue(&self, qid: u16) -> Result<IoQueue, NoQueue> {
        let period = self.association.open(qid)?;
        Ok(IoQueue::new(self.association.clone(), qid, period))
    }

    /// How many I/O queues the host may have.
    pub(crate) fn granted_queues(&self) -> u16 {
        self.association.granted()
    }

    /// Tells the host of an event, if it has asked for one; returns the identifier of the request that this answers.
    pub(crate) fn take_event_request(&mut self) -> Option<u16> {
        self.events.pop()
    }

    /// Ends the association and its queues.
    pub(crate) fn end(&self) {
        tracing::info!(
            "{} has controller {} of {} no more",
            self.association.hostnqn,
            self.association.cntlid,
            self.association.subsystem.config.nqn
        );
        self.association.end(&self.shared);
    }

    /// Sets the keep alive timeout, rounded up to the unit of the timer; returns what it is.
    pub(super) fn set_keep_alive(&mut self, kato: u32, now: Instant) -> u32 {
        let rounded = u64::from(kato).next_multiple_of(KEEP_ALIVE_UNIT);
        self.kato = u32::try_from(rounded).unwrap_or(u32::MAX);
        self.alive = now;
        self.kato
    }

    pub(super) fn abort_events(&mut self, aborted: &mut Vec<(u16, Status)>) {
        aborted.extend(self.events.drain(..).map(|cid| (cid, generic::ABORTED_SQ_DELETION)));
    }

    /// Abort (Base 5.1.1): event requests can be aborted, everything else is done too soon.
    fn abort(&mut self, command: &Command, aborted: &mut Vec<(u16, Status)>) -> Answer {
        let request = AbortRequest::parse(command);
        let event = self.events.iter().position(|&cid| request.sqid == 0 && cid == request.cid);
        Answer::result(match event {
            Some(at) => {
                aborted.push((self.events.remove(at), generic::ABORT_REQUESTED));
                0
            }
            None => 1,
        })
    }
}
