//! What all reactors share: the subsystems, the associations hosts have with them, and a bell for each reactor.
//!
//! The I/O path reads one atomic of its association a command; the mutexes here are for Connect, Disconnect and the end.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

use doorbell_spec::{log::Trtype, nqn::DISCOVERY_NQN};
use rustix::{
    event::{EventfdFlags, eventfd},
    fd::OwnedFd,
};

use crate::{
    config::{Deadlines, SubsystemConfig},
    fault::Engine,
    namespace::Namespace,
};

/// Controllers of a subsystem at a time; more hosts are told that it is busy.
const MOST_CONTROLLERS: usize = 0xff00;

/// Everything that reactors and connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) subsystems: Vec<Arc<Subsystem>>,
    pub(crate) discovery: Arc<Subsystem>,
    /// Where the target listens, and over what.
    pub(crate) addresses: Vec<(Trtype, SocketAddr)>,
    pub(crate) deadlines: Deadlines,
    /// What goes wrong, if so.
    pub(crate) fault: Option<Arc<Engine>>,
    /// Fewest bytes of data of a PDU that are sent without a copy.
    pub(crate) zero_copy: Option<u32>,
    /// Grows when an association ends or is reset, so that reactors look for queues that went with it.
    pub(crate) changes: AtomicU64,
    pub(crate) stop: AtomicBool,
    pub(crate) desks: Vec<Desk>,
    pub(crate) started: Instant,
}

/// What others know of a reactor.
#[derive(Debug)]
pub(crate) struct Desk {
    bell: OwnedFd,
    /// I/O queues it serves.
    pub(crate) queues: AtomicUsize,
    /// Connections it has.
    pub(crate) connections: AtomicUsize,
}

impl Desk {
    pub(crate) fn new() -> std::io::Result<Self> {
        let bell = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self { bell, queues: AtomicUsize::new(0), connections: AtomicUsize::new(0) })
    }

    /// Wakes the reactor, or keeps it from going to sleep.
    pub(crate) fn ring(&self) {
        // The counter can only be full when it has been rung and not yet heard.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }

    /// Makes the bell silent again.
    pub(crate) fn hear(&self) {
        let _ = rustix::io::read(&self.bell, &mut [0; 8]);
    }

    pub(crate) fn bell(&self) -> &OwnedFd {
        &self.bell
    }
}

impl Shared {
    /// The subsystem of that name.
    pub(crate) fn find(&self, nqn: &str) -> Option<&Arc<Subsystem>> {
        let all = self.subsystems.iter().chain(std::iter::once(&self.discovery));
        all.into_iter().find(|subsystem| subsystem.config.nqn == nqn)
    }

    /// Tells all reactors that some queues may be over.
    pub(crate) fn announce(&self) {
        self.changes.fetch_add(1, Ordering::Release);
        self.desks.iter().for_each(Desk::ring);
    }
}

/// An NVM subsystem, or the discovery subsystem.
#[derive(Debug)]
pub(crate) struct Subsystem {
    pub(crate) config: SubsystemConfig,
    /// NSID 1 first.
    pub(crate) namespaces: Vec<Namespace>,
    pub(crate) is_discovery: bool,
    pub(crate) totals: Totals,
    registry: Mutex<Registry>,
}

/// What hosts did, for the SMART log.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) reads: AtomicU64,
    pub(crate) writes: AtomicU64,
    pub(crate) read_bytes: AtomicU64,
    pub(crate) written_bytes: AtomicU64,
}

#[derive(Debug, Default)]
struct Registry {
    last: u16,
    associations: BTreeMap<u16, Arc<Association>>,
}

impl Subsystem {
    pub(crate) fn new(config: SubsystemConfig, namespaces: Vec<Namespace>) -> Self {
        Self { config, namespaces, is_discovery: false, totals: Totals::default(), registry: Mutex::default() }
    }

    pub(crate) fn discovery() -> Self {
        Self { is_discovery: true, ..Self::new(SubsystemConfig::new(DISCOVERY_NQN), Vec::new()) }
    }

    /// The namespace with that identifier.
    #[inline]
    pub(crate) fn namespace(&self, nsid: u32) -> Option<&Namespace> {
        self.namespaces.get((nsid as usize).wrapping_sub(1))
    }

    /// Whether it has a zoned namespace.
    pub(crate) fn is_zoned(&self) -> bool {
        self.namespaces.iter().any(|namespace| namespace.zones().is_some())
    }

    /// Whether the host may connect.
    pub(crate) fn admits(&self, hostnqn: &str) -> bool {
        let allowed = &self.config.allowed_hosts;
        allowed.is_empty() || allowed.iter().any(|host| host == hostnqn)
    }

    /// A new controller for a host; none when there are too many.
    pub(crate) fn associate(self: &Arc<Self>, hostid: [u8; 16], hostnqn: &str) -> Option<Arc<Association>> {
        let mut registry = lock(&self.registry);
        if registry.associations.len() >= MOST_CONTROLLERS {
            return None;
        }
        let mut cntlid = registry.last;
        loop {
            cntlid = if cntlid >= 0xffef { 1 } else { cntlid + 1 };
            if !registry.associations.contains_key(&cntlid) {
                break;
            }
        }
        registry.last = cntlid;
        let association = Arc::new(Association {
            subsystem: self.clone(),
            cntlid,
            hostid,
            hostnqn: hostnqn.into(),
            state: AtomicU64::new(0),
            queues: Mutex::new(Queues { granted: self.config.max_io_queues, used: BTreeSet::new() }),
        });
        registry.associations.insert(cntlid, association.clone());
        Some(association)
    }

    /// The association with that controller.
    pub(crate) fn association(&self, cntlid: u16) -> Option<Arc<Association>> {
        lock(&self.registry).associations.get(&cntlid).cloned()
    }

    /// The controllers there are, ascending.
    pub(crate) fn controllers(&self) -> Vec<u16> {
        lock(&self.registry).associations.keys().copied().collect()
    }
}

/// A host's association with a controller that lives as long as the admin queue's connection.
#[derive(Debug)]
pub(crate) struct Association {
    pub(crate) subsystem: Arc<Subsystem>,
    pub(crate) cntlid: u16,
    pub(crate) hostid: [u8; 16],
    pub(crate) hostnqn: String,
    /// Twice the number of resets, plus one while the controller is ready; [`ENDED`] at the end.
    state: AtomicU64,
    queues: Mutex<Queues>,
}

const ENDED: u64 = u64::MAX;

#[derive(Debug)]
struct Queues {
    granted: u16,
    used: BTreeSet<u16>,
}

/// Why an I/O queue cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoQueue {
    /// The controller is not ready.
    NotReady,
    /// The identifier is taken or too large.
    BadId,
}

impl Association {
    /// The controller has been enabled.
    pub(crate) fn enable(&self) {
        let _ = self
            .state
            .fetch_update(Ordering::Release, Ordering::Relaxed, |state| (state != ENDED).then_some(state | 1));
    }

    /// The controller has been reset: its I/O queues are over.
    pub(crate) fn reset(&self, shared: &Shared) {
        // One step for who opens or closes a queue meanwhile.
        let mut queues = lock(&self.queues);
        queues.used.clear();
        let _ = self
            .state
            .fetch_update(Ordering::Release, Ordering::Relaxed, |state| (state != ENDED).then_some((state | 1) + 1));
        drop(queues);
        shared.announce();
    }

    /// The association is over with all its queues.
    pub(crate) fn end(&self, shared: &Shared) {
        lock(&self.subsystem.registry).associations.remove(&self.cntlid);
        self.state.store(ENDED, Ordering::Release);
        shared.announce();
    }

    /// The period of the controller's life, odd while it is ready.
    #[inline]
    pub(crate) fn period(&self) -> u64 {
        self.state.load(Ordering::Acquire)
    }

    /// How many I/O queues the host may have from now on; none while it has some.
    pub(crate) fn grant(&self, wanted: u32) -> Option<u16> {
        let mut queues = lock(&self.queues);
        if !queues.used.is_empty() {
            return None;
        }
        queues.granted = wanted.min(self.subsystem.config.max_io_queues.into()) as u16;
        Some(queues.granted)
    }

    /// How many I/O queues the host may have.
    pub(crate) fn granted(&self) -> u16 {
        lock(&self.queues).granted
    }

    /// Takes a queue identifier; returns the period it is good for.
    pub(crate) fn open(&self, qid: u16) -> Result<u64, NoQueue> {
        let mut queues = lock(&self.queues);
        let period = self.period();
        if period == ENDED || period.is_multiple_of(2) {
            return Err(NoQueue::NotReady);
        }
        if qid > queues.granted || !queues.used.insert(qid) {
            return Err(NoQueue::BadId);
        }
        Ok(period)
    }

    /// Gives a queue identifier back.
    pub(crate) fn close(&self, qid: u16, period: u64) {
        let mut queues = lock(&self.queues);
        if self.period() == period {
            queues.used.remove(&qid);
        }
    }
}

/// A mutex's content; nothing that happens under one of these locks leaves it half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
