//! What a target serves and where, as the command line or an embedding program says it; [`crate::Target`] takes it.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use doorbell_spec::{nqn, protection::Format};

use crate::{Error, Script};

/// A target: subsystems, addresses, cores.
#[derive(Clone, Debug)]
pub struct TargetConfig {
    /// The NVM subsystems; the discovery subsystem comes by itself.
    pub subsystems: Vec<SubsystemConfig>,
    /// Where to listen over TCP; port 0 takes a free one, see [`crate::Target::addresses`].
    pub listen: Vec<SocketAddr>,
    /// Where to listen for hosts over RDMA.
    pub rdma: Vec<SocketAddr>,
    /// Receives that the connections of a reactor share on an RDMA device, 16 to 65535; `None` gives each its own, as many as its queue
    /// has entries.
    pub rdma_shared_receives: Option<u32>,
    /// Directories in which to offer the first subsystem as a PCI function over vfio-user, to one host at a time each: their socket
    /// is called `cntrl`.
    pub vfio_user: Vec<PathBuf>,
    /// Cores to run a reactor on each; `None` is one reactor that the system places.
    pub cores: Option<Vec<usize>>,
    /// Never sleep, even when no host has anything to do.
    pub poll: bool,
    /// Bytes of memory for data on its way between sockets and namespaces, all connections together. What does not fit waits.
    pub transfer_memory: usize,
    /// Fewest bytes of data of a PDU that are sent without a copy to a host on another machine; `None` copies all.
    pub zero_copy: Option<u32>,
    /// How long hosts are waited for.
    pub deadlines: Deadlines,
    /// What goes wrong with I/O commands, and when.
    pub fault: Option<Script>,
    /// A file for what became of each of them, where there is such a script.
    pub fault_log: Option<PathBuf>,
}

/// How long a target waits for a host before it closes the connection. They are looked at four times a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// From the connection of the socket to a successful Connect.
    pub connect: Duration,
    /// For more of a PDU that has begun, for more of the data that an R2T has asked for, and for the socket to take more of what
    /// waits to be sent.
    pub stall: Duration,
    /// For the host to close, after the end of the protocol.
    pub linger: Duration,
}

impl Default for Deadlines {
    /// 10 s to connect, 30 s for a stall, 1 s to linger.
    fn default() -> Self {
        Self { connect: Duration::from_secs(10), stall: Duration::from_secs(30), linger: Duration::from_secs(1) }
    }
}

impl TargetConfig {
    /// A target of one subsystem on one address, with one reactor that sleeps when idle and 64 MiB for transfers.
    pub fn new(subsystem: SubsystemConfig, listen: SocketAddr) -> Self {
        Self { listen: vec![listen], ..Self::of(subsystem) }
    }

    /// The same without an address so far.
    pub fn of(subsystem: SubsystemConfig) -> Self {
        Self {
            subsystems: vec![subsystem],
            listen: Vec::new(),
            rdma: Vec::new(),
            rdma_shared_receives: None,
            vfio_user: Vec::new(),
            cores: None,
            poll: false,
            transfer_memory: 64 << 20,
            zero_copy: None,
            deadlines: Deadlines::default(),
            fault: None,
            fault_log: None,
        }
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        let fail = |what: String| Err(Error::Config(what));
        if let Some(count) = self.rdma_shared_receives
            && !(16..=65535).contains(&count)
        {
            return fail(format!("{count} shared receives are not 16 to 65535"));
        }
        if self.rdma_shared_receives.is_some() && self.rdma.is_empty() {
            return fail("there are no connections to share receives: listen at an rdma: address".into());
        }
        if self.listen.is_empty() && self.rdma.is_empty() && self.vfio_user.is_empty() {
            return fail("a target needs an address to listen on".into());
        }
        let apart = |namespace: &NamespaceConfig| {
            matches!(namespace.backend, Backend::Formatted { metadata: Metadata { extended: false, .. }, .. })
        };
        if !(self.listen.is_empty() && self.rdma.is_empty())
            && self.subsystems.iter().flat_map(|each| &each.namespaces).any(apart)
        {
            return fail(
                "metadata apart from the data does not go over TCP or RDMA: listen over vfio-user only, or let metadata stand \
                 behind the data of each block (without \"separate\")"
                    .into(),
            );
        }
        let with_metadata = |namespace: &NamespaceConfig| matches!(namespace.backend, Backend::Formatted { .. });
        for subsystem in &self.subsystems {
            let numbered = (1..).zip(&subsystem.namespaces);
            let mut formatted = numbered.filter(|(_, namespace)| with_metadata(namespace)).map(|(nsid, _)| nsid);
            if let Some(script) = &self.fault
                && let Some(nsid) = formatted.find(|&nsid| script.rewrites(nsid))
            {
                return fail(format!(
                    "the fault script: torn-write, stale-read and flipped-bit know no metadata yet, which namespace {nsid} has: say \
                     \"nsid N\" of one without, or corrupt by dropped-write or wrong-lba"
                ));
            }
        }
        if let Some(first) = self.vfio_user.first() {
            let Some(subsystem) = self.subsystems.first() else {
                return fail(format!("there is no subsystem to offer over vfio-user in {}", first.display()));
            };
            if !subsystem.allowed_hosts.is_empty() {
                let nqn = &subsystem.nqn;
                return fail(format!(
                    "the hosts that may connect to {nqn} are known by their names, which a host over vfio-user has not: there, \
                     let the permissions of {} decide",
                    first.display()
                ));
            }
        }
        if self.cores.as_ref().is_some_and(Vec::is_empty) {
            return fail("the set of cores is empty".into());
        }
        for (at, subsystem) in self.subsystems.iter().enumerate() {
            subsystem.check()?;
            if self.subsystems[..at].iter().any(|other| other.nqn == subsystem.nqn) {
                return fail(format!("two subsystems are called {}", subsystem.nqn));
            }
        }
        Ok(())
    }
}

/// An NVM subsystem.
#[derive(Clone, Debug)]
pub struct SubsystemConfig {
    /// Its name.
    pub nqn: String,
    /// Serial number, at most 20 ASCII characters.
    pub serial: String,
    /// Model number, at most 40 ASCII characters.
    pub model: String,
    /// Its namespaces; the first has NSID 1.
    pub namespaces: Vec<NamespaceConfig>,
    /// NQNs of the hosts that may connect; empty lets any host in.
    pub allowed_hosts: Vec<String>,
    /// Most I/O queues a controller grants, 1 to 65535.
    pub max_io_queues: u16,
    /// Most entries of a queue (MQES + 1), 2 to 4096.
    pub max_queue_entries: u32,
    /// Most bytes one command transfers (MDTS): a power of two from 8192 to 4 MiB.
    pub max_transfer: u32,
    /// Most bytes of data inside an I/O command capsule (IOCCSZ): a multiple of 16, at most 65536.
    pub in_capsule_data: u32,
}

impl SubsystemConfig {
    /// A subsystem without namespaces that any host may use: 128 I/O queues of 4096 entries, 1 MiB a command, 8 KiB in a capsule.
    pub fn new(nqn: impl Into<String>) -> Self {
        Self {
            nqn: nqn.into(),
            serial: "DOORBELL00000001".into(),
            model: "Doorbell".into(),
            namespaces: Vec::new(),
            allowed_hosts: Vec::new(),
            max_io_queues: 128,
            max_queue_entries: 4096,
            max_transfer: 1 << 20,
            in_capsule_data: 8192,
        }
    }

    fn check(&self) -> Result<(), Error> {
        let fail = |what: String| Err(Error::Config(format!("subsystem {}: {what}", self.nqn)));
        if let Err(error) = nqn::validate(&self.nqn) {
            return fail(format!("this is not an NVMe Qualified Name: {error}"));
        }
        if self.nqn == nqn::DISCOVERY_NQN {
            return fail("this is the name of the discovery subsystem, which every target has".into());
        }
        for host in &self.allowed_hosts {
            if let Err(error) = nqn::validate(host) {
                return fail(format!("the host {host:?} has no NVMe Qualified Name: {error}"));
            }
        }
        for (what, text, most) in [("serial", &self.serial, 20), ("model", &self.model, 40)] {
            if text.len() > most || !text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
                return fail(format!("the {what} number {text:?} is not {most} or fewer ASCII characters"));
            }
        }
        if self.max_io_queues == 0 || self.max_io_queues == u16::MAX {
            return fail(format!("{} I/O queues are not 1 to 65534", self.max_io_queues));
        }
        if !(2..=4096).contains(&self.max_queue_entries) {
            return fail(format!("{} queue entries are not 2 to 4096", self.max_queue_entries));
        }
        if !self.max_transfer.is_power_of_two() || !(8192..=4 << 20).contains(&self.max_transfer) {
            return fail(format!("{} bytes a command are not a power of two from 8192 to 4 MiB", self.max_transfer));
        }
        if !self.in_capsule_data.is_multiple_of(16) || self.in_capsule_data > 65536 {
            return fail(format!("{} bytes in a capsule are not a multiple of 16 up to 65536", self.in_capsule_data));
        }
        for (at, namespace) in self.namespaces.iter().enumerate() {
            let nsid = at + 1;
            if ![512, 4096].contains(&namespace.block_size) {
                return fail(format!("namespace {nsid}: a block of {} bytes is not 512 or 4096", namespace.block_size));
            }
            if let Backend::Formatted { metadata, .. } = &namespace.backend {
                let needed = metadata.protection.map_or(1, |format| format.offset + format.guard.size());
                if !(needed..=4096).contains(&metadata.size) {
                    return fail(format!(
                        "namespace {nsid}: {} bytes of metadata a block are not {needed} to 4096",
                        metadata.size
                    ));
                }
            }
            if let Backend::Ram { size } | Backend::Formatted { size, .. } | Backend::Null { size } = namespace.backend
                && size < u64::from(namespace.block_size)
            {
                return fail(format!("namespace {nsid}: {size} bytes do not hold a block"));
            }
            if let Backend::Zoned { size, zoning } = &namespace.backend
                && let Some(why) = zoning.fault(*size, namespace.block_size)
            {
                return fail(format!("namespace {nsid}: {why}"));
            }
        }
        Ok(())
    }
}

/// A namespace.
#[derive(Clone, Debug)]
pub struct NamespaceConfig {
    /// Where its blocks are.
    pub backend: Backend,
    /// Bytes of a logical block: 512 or 4096.
    pub block_size: u32,
}

/// The metadata of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// Bytes, 1 to 4096.
    pub size: u16,
    /// It is transferred behind the data of its block, else apart from all data, which only hosts over vfio-user can do.
    pub extended: bool,
    /// The protection information in it, which must have room.
    pub protection: Option<Format>,
}

/// What the zones of a namespace are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zoning {
    /// Bytes of a zone: a power of two, which Linux demands, of whole blocks.
    pub zone_size: u64,
    /// Bytes of it that can be written, whole blocks.
    pub zone_capacity: u64,
    /// Most zones that are open at a time, 1 or more; `None` is no limit.
    pub max_open: Option<u32>,
    /// Most zones that are open or closed at a time, no fewer than those; `None` is no limit.
    pub max_active: Option<u32>,
    /// How many of the zones, the last ones, can only be read.
    pub read_only: u32,
}

impl Zoning {
    /// Why there can be no such zones in `size` bytes of blocks of `block_size`.
    fn fault(&self, size: u64, block_size: u32) -> Option<String> {
        let Self { zone_size, zone_capacity, max_open, max_active, read_only } = *self;
        if block_size != 4096 {
            return Some(format!("zones are of blocks of 4096 bytes, not {block_size}"));
        }
        if !zone_size.is_power_of_two() || zone_size < 4096 {
            return Some(format!("a zone of {zone_size} bytes is not a power of two from 4096 on"));
        }
        if size < zone_size {
            return Some(format!("{size} bytes do not hold a zone of {zone_size}"));
        }
        if zone_capacity == 0 || zone_capacity > zone_size || !zone_capacity.is_multiple_of(4096) {
            return Some(format!("a capacity of {zone_capacity} bytes is not a multiple of 4096 up to {zone_size}"));
        }
        if max_open == Some(0) || max_active == Some(0) {
            return Some("at least one zone must be open".into());
        }
        if let (Some(open), Some(active)) = (max_open, max_active)
            && open > active
        {
            return Some(format!("{open} open zones are more than {active} active ones"));
        }
        if u64::from(read_only) > size / zone_size {
            return Some(format!("{read_only} read-only zones are more than the {} there are", size / zone_size));
        }
        None
    }
}

/// Where a namespace keeps its blocks. Sizes are in bytes and are rounded down to whole blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// In memory.
    Ram {
        /// Bytes.
        size: u64,
    },
    /// In memory, with metadata.
    Formatted {
        /// Bytes of data.
        size: u64,
        /// What each block has beside its data.
        metadata: Metadata,
    },
    /// In memory, in zones that are written in order: whole zones of the size. The zones are empty at the start.
    Zoned {
        /// Bytes.
        size: u64,
        /// What the zones are.
        zoning: Zoning,
    },
    /// Nowhere: reads return zeroes, writes are received and forgotten.
    Null {
        /// Bytes it claims to have.
        size: u64,
    },
    /// In an existing file or block device, as long as that is.
    File {
        /// Its path.
        path: PathBuf,
    },
}
