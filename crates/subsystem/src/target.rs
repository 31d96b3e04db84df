//! The target: puts subsystems, frames, listeners and reactors together, and takes them apart again.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use doorbell_platform::cpu;
use doorbell_spec::log::Trtype;
use doorbell_vfio_user as vfio_user;

use crate::{
    config::TargetConfig,
    fault::Engine,
    frames::{FRAME, FrameStore, MOST_LOCAL, ZERO_FRAMES},
    listener::{Context, Endpoint, FrameMemory, Listener, RdmaEndpoint},
    namespace::{Namespace, RESERVE},
    reactor::Reactor,
    subsystem::{Desk, Shared, Subsystem},
};

/// How long [`Target::stop`] waits for a reactor.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// Why a target does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration asks for what cannot be.
    #[error("{0}")]
    Config(String),
    /// The memory of the namespaces and transfers is not to be had.
    #[error("{bytes} bytes of memory for namespaces and transfers are not to be had: {source}")]
    Memory {
        /// How much.
        bytes: u64,
        /// The system's answer.
        source: io::Error,
    },
    /// The file of a namespace.
    #[error("cannot {what} {}: {source}", path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// An address.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's answer.
        source: io::Error,
    },
    /// An address for hosts over RDMA.
    #[error("cannot listen on rdma:{address}: {source}")]
    Rdma {
        /// The address.
        address: SocketAddr,
        /// What is missing, or what was refused.
        source: doorbell_rdma::Error,
    },
    /// A directory for hosts over vfio-user.
    #[error(transparent)]
    Endpoint(#[from] vfio_user::BindError),
    /// A core.
    #[error("cannot run on core {core}: {source}")]
    Core {
        /// The core.
        core: usize,
        /// The system's answer.
        source: io::Error,
    },
    /// Anything else that the system refused.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

/// What the hosts of a target take up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Connections, those included that have not sent Connect.
    pub connections: usize,
    /// I/O queues.
    pub io_queues: usize,
    /// Controllers, discovery controllers included.
    pub controllers: usize,
    /// Bytes of memory that hold the blocks of RAM namespaces or data on its way.
    pub memory: u64,
}

/// A target that runs on threads of its own. It stops when it is dropped.
#[derive(Debug)]
pub struct Target {
    shared: Arc<Shared>,
    store: Arc<FrameStore>,
    addresses: Vec<SocketAddr>,
    rdma_addresses: Vec<SocketAddr>,
    directories: Vec<PathBuf>,
    threads: Vec<JoinHandle<()>>,
}

impl Target {
    /// Starts a target; it listens when this returns.
    ///
    /// # Errors
    /// What is wrong with the configuration, or what the system refused.
    pub fn start(config: TargetConfig) -> Result<Self, Error> {
        let cores: Vec<Option<usize>> = match &config.cores {
            Some(cores) => cores.iter().copied().map(Some).collect(),
            None => vec![None],
        };
        let poll = config.poll;
        let directories = config.vfio_user.clone();
        let (shared, store, reactors) = build(config, cores.len())?;
        let [addresses, rdma_addresses] = [Trtype::TCP, Trtype::RDMA].map(|trtype| addresses(&shared, trtype));
        let mut target = Self { shared, store, addresses, rdma_addresses, directories, threads: Vec::new() };
        for (reactor, core) in reactors.into_iter().zip(cores) {
            let (report, reported) = mpsc::channel();
            let run = move || {
                let pinned = core.map_or(Ok(()), cpu::pin);
                let failed = pinned.is_err();
                let _ = report.send(pinned);
                if !failed {
                    reactor.run(poll);
                }
            };
            let thread = std::thread::Builder::new().name(format!("reactor {}", target.threads.len())).spawn(run);
            target.threads.push(thread.map_err(|source| Error::System { what: "start a thread", source })?);
            if let Ok(Err(source)) = reported.recv() {
                return Err(Error::Core { core: core.unwrap_or(0), source });
            }
        }
        Ok(target)
    }

    /// A target without threads: somebody else's loop calls [`Cooperative::pass`]. Cores and polling of the configuration play no
    /// part.
    ///
    /// # Errors
    /// As [`Target::start`].
    pub fn cooperative(config: TargetConfig) -> Result<(Vec<SocketAddr>, Cooperative), Error> {
        let (shared, _, mut reactors) = build(config, 1)?;
        let reactor = reactors.pop().ok_or_else(|| Error::Config("no reactor".into()))?;
        Ok((addresses(&shared, Trtype::TCP), Cooperative { reactor }))
    }

    /// Where it listens over TCP, in the order of the configuration, with the ports that the system chose.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where it listens over RDMA, in the order of the configuration, with the ports that the system chose.
    pub fn rdma_addresses(&self) -> &[SocketAddr] {
        &self.rdma_addresses
    }

    /// The directories in which it offers a PCI function over vfio-user, in the order of the configuration.
    pub fn directories(&self) -> &[PathBuf] {
        &self.directories
    }

    /// What hosts take up at the moment. It counts all memory, so it is not for every second.
    pub fn usage(&self) -> Usage {
        let sum = |count: fn(&Desk) -> &AtomicUsize| {
            self.shared.desks.iter().map(|desk| count(desk).load(Ordering::Relaxed)).sum()
        };
        let subsystems = self.shared.subsystems.iter().chain([&self.shared.discovery]);
        Usage {
            connections: sum(|desk| &desk.connections),
            io_queues: sum(|desk| &desk.queues),
            controllers: subsystems.map(|subsystem| subsystem.controllers().len()).sum(),
            memory: self.store.held() as u64 * u64::from(FRAME),
        }
    }

    /// Closes all connections and ends the threads. One that hangs in a file for more than 5 s is left behind.
    ///
    /// # Errors
    /// What the log of a fault script lacks, and why.
    pub fn stop(mut self) -> Result<(), String> {
        self.end();
        self.shared.fault.as_ref().map_or(Ok(()), |engine| engine.finish())
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.desks.iter().for_each(Desk::ring);
        let deadline = Instant::now() + STOP_DEADLINE;
        for thread in self.threads.drain(..) {
            while !thread.is_finished() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
            if !thread.is_finished() {
                tracing::error!("a reactor does not stop; it is left behind");
            } else if thread.join().is_err() {
                tracing::error!("a reactor has panicked");
            }
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.end();
    }
}

/// A target that runs whenever it is asked to. It stops when it is dropped.
#[derive(Debug)]
pub struct Cooperative {
    reactor: Reactor,
}

impl Cooperative {
    /// Serves everything that is ready once, without waiting; returns whether there was something to do.
    pub fn pass(&mut self) -> bool {
        self.reactor.pass()
    }

    /// Pieces of memory for data that nothing holds.
    pub fn free_frames(&self) -> usize {
        self.reactor.context.pool.frames.idle()
    }

    /// What connections are served with.
    pub(crate) fn context(&mut self) -> &mut Context {
        &mut self.reactor.context
    }
}

impl Drop for Cooperative {
    fn drop(&mut self) {
        self.reactor.close();
    }
}

/// Where a target listens over a transport.
fn addresses(shared: &Shared, trtype: Trtype) -> Vec<SocketAddr> {
    shared.addresses.iter().filter(|(each, _)| *each == trtype).map(|&(_, address)| address).collect()
}

/// What a target is made of.
type Parts = (Arc<Shared>, Arc<FrameStore>, Vec<Reactor>);

/// A target's parts, its listeners bound, for as many reactors.
fn build(config: TargetConfig, reactors: usize) -> Result<Parts, Error> {
    config.check()?;
    let system = |what| move |source| Error::System { what, source };
    // Bound first: hosts that come while memory is being made wait instead of being refused.
    let mut listeners = Vec::new();
    for address in config.listen {
        let listener = TcpListener::bind(address).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok((listener.local_addr()?, listener))
        });
        listeners.push(listener.map_err(|source| Error::Listen { address, source })?);
    }
    let mut endpoints = Vec::new();
    for address in config.rdma {
        endpoints.push(RdmaEndpoint::bind(address).map_err(|source| Error::Rdma { address, source })?);
    }
    let mut sockets = Vec::new();
    for directory in config.vfio_user {
        sockets.push((vfio_user::Listener::bind(&directory)?, directory));
    }
    let published = config.subsystems.iter().flat_map(|each| &each.namespaces).map(Namespace::frames).sum::<usize>();
    let largest = config.subsystems.iter().map(|each| each.max_transfer).max().unwrap_or(0);
    // Enough for what reactors keep at hand, and for a few of the largest transfers beside.
    let least = reactors * (MOST_LOCAL + RESERVE) + 4 * ((largest / FRAME) as usize + 1);
    let spare = (config.transfer_memory / FRAME as usize).max(least);
    let store = FrameStore::new(published, spare).map_err(|source| {
        let bytes = (published as u64).saturating_add(spare as u64).saturating_mul(FRAME.into());
        Error::Memory { bytes, source }
    })?;
    let store = Arc::new(store);
    let frames = Arc::new(FrameMemory::new(store.share()));
    for endpoint in &mut endpoints {
        let address = endpoint.address();
        endpoint.equip(frames.clone()).map_err(|source| Error::Rdma { address, source })?;
    }

    let (mut subsystems, mut first) = (Vec::new(), ZERO_FRAMES);
    for config in config.subsystems {
        let mut namespaces = Vec::new();
        for (each, nsid) in config.namespaces.iter().zip(1..) {
            namespaces.push(Namespace::open(each, &config.nqn, nsid, first)?);
            first += Namespace::frames(each) as u32;
        }
        subsystems.push(Arc::new(Subsystem::new(config, namespaces)));
    }

    let engine = |script| Engine::new(script, config.fault_log.as_deref());
    let fault = config.fault.map(engine).transpose().map_err(|source| Error::File {
        path: config.fault_log.clone().unwrap_or_default(),
        what: "write the log of the fault script to",
        source,
    })?;
    let over_tcp = listeners.iter().map(|&(address, _)| (Trtype::TCP, address));
    let over_rdma = endpoints.iter().map(|endpoint| (Trtype::RDMA, endpoint.address()));
    let desks = (0..reactors).map(|_| Desk::new()).collect::<io::Result<_>>();
    let shared = Arc::new(Shared {
        subsystems,
        discovery: Arc::new(Subsystem::discovery()),
        addresses: over_tcp.chain(over_rdma).collect(),
        deadlines: config.deadlines,
        fault,
        shared_receives: config.rdma_shared_receives,
        zero_copy: config.zero_copy,
        changes: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        desks: desks.map_err(system("make an eventfd"))?,
        started: Instant::now(),
    });
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..reactors).map(|_| mpsc::channel()).unzip();
    // Hosts are accepted by the first and served by any; the function in a directory belongs to one reactor.
    let mut shares: Vec<Vec<Listener>> = (0..reactors).map(|_| Vec::new()).collect();
    shares[0].extend(listeners.into_iter().map(|(_, listener)| Listener::Tcp(listener)));
    shares[0].extend(endpoints.into_iter().map(Listener::Rdma));
    for (at, (socket, directory)) in sockets.into_iter().enumerate() {
        let endpoint = Endpoint::new(socket, &directory, &shared.subsystems[0]);
        shares[at % reactors].push(Listener::VfioUser(endpoint));
    }
    let mut all = Vec::new();
    for ((desk, inbox), share) in receivers.into_iter().enumerate().zip(shares) {
        let reactor = Reactor::new(shared.clone(), desk, store.clone(), inbox);
        let mut reactor = reactor.map_err(system("set up epoll"))?;
        reactor.listen(share, senders.clone()).map_err(system("watch a listener"))?;
        all.push(reactor);
    }
    Ok((shared, store, all))
}
