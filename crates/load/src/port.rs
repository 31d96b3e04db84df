//! What a run needs of a namespace and its controller; the host driver gives it, and tests give their own.

use std::time::Duration;

use doorbell_host::{self as host, Controller, Namespace, PollGroup, TransportType};
use doorbell_kernel_io::KernelQueue;
use doorbell_platform::{Sysfs, pci::Address};
use doorbell_queue::IoQueue;
use doorbell_result::IoKind;
use doorbell_spec::identify::{Cns, Csi, NvmController, oncs};
use zerocopy::FromBytes;

use crate::{
    metadata::Protect,
    plan::{Access, RunOptions, Shape, refusal},
    survey::Survey,
    zones::Share,
};

/// Entries of a queue that is there to look at zones.
const SURVEY_ENTRIES: u32 = 8;

/// A namespace to test.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its controller, which hands out the queues.
    pub controller: Controller,
    /// The namespace.
    pub namespace: Namespace,
}

/// A queue of any kind that a run drives.
pub(crate) enum AnyQueue {
    /// Of the driver's.
    Driver(host::AnyQueue),
    /// Of the kernel's.
    Kernel(KernelQueue),
}

/// A namespace of a live controller, or what the kernel has for one.
pub(crate) trait Port: Send + Sync {
    /// The namespace.
    fn shape(&self) -> Shape;
    /// The transport's name in statistics, where it has some.
    fn transport(&self) -> Option<String>;
    /// Connects one I/O queue of at most `entries` entries, to be polled with the others of `group`; takes as long as the driver's
    /// deadlines allow.
    fn connect(&self, entries: u32, group: &PollGroup) -> Result<AnyQueue, String>;
    /// Why the controller is lost, when it is.
    fn failure(&self) -> Option<String>;
    /// What the controller has told since the last call.
    fn events(&self) -> Vec<String>;
    /// How often the controller was brought back; `None` while it is lost.
    fn incarnation(&self) -> Option<u64>;
    /// Attempts so far to bring it back.
    fn attempts(&self) -> u32;
    /// Says that a queue of an incarnation is lost. Does not block.
    fn queue_lost(&self, incarnation: u64, why: String);
    /// Has a command of a queue of an incarnation aborted. Does not block.
    fn abort(&self, incarnation: u64, sqid: u16, cid: u16);
    /// Most bytes that a command may be about which moves no data of that length; `None` for as many as it can name.
    ///
    /// # Errors
    /// Why the controller cannot be asked for this.
    fn most_bytes(&self, kind: IoKind) -> Result<Option<u32>, String> {
        Err(format!("this path takes no {kind}"))
    }

    /// What to know before its numbers are believed.
    fn advice(&self) -> Option<String> {
        None
    }

    /// Whether the user named it, so that a run without it is not the one asked for.
    fn is_named(&self) -> bool {
        false
    }

    /// Whether what was written may lie before the medium, in a cache of this machine.
    fn is_cached(&self) -> bool {
        false
    }

    /// Brings it to the medium, however long that takes. Call when nothing is in flight.
    ///
    /// # Errors
    /// That it did not get there.
    fn settle(&self) -> Result<(), String> {
        Ok(())
    }

    /// While the path changes its ANA state: how long that takes at most.
    fn changing(&self) -> Option<Duration> {
        None
    }

    /// Looks at the zones of the namespace over a queue of its own, and shares them out.
    ///
    /// # Errors
    /// What was asked, and why there is no answer.
    fn survey(&self, _: &Survey) -> Result<Vec<Share>, String> {
        Err("this path has no zones".into())
    }
    /// Blocks from an LBA on as they are stored, unchecked: data, with metadata that stands behind it, and metadata that is apart.
    ///
    /// # Errors
    /// Why they cannot be read.
    fn stored(&self, _slba: u64, _blocks: u32) -> Result<(Vec<u8>, Vec<u8>), String> {
        Err("this path has no metadata".into())
    }
    /// Whether the namespace is what it was, after the controller was brought back, and takes I/O.
    fn check(&self) -> Result<(), String>;
}

impl Target {
    /// What is said of the controller, or of a namespace of it, begins with this: the name, which has not got the port.
    pub fn path(&self, name: &str) -> String {
        match self.controller.id().trsvcid.as_str() {
            "" => name.into(),
            port => format!("{name}, port {port}"),
        }
    }

    /// Whether a run takes it, rather than skip it with a warning.
    pub fn is_tested(&self, options: &RunOptions) -> bool {
        self.shape().admit(options).is_ok()
    }

    /// The NUMA node of a local device, where the machine says so.
    fn node(&self) -> Option<u32> {
        let id = self.controller.id();
        let address = Some(&id.traddr).filter(|_| id.trtype == TransportType::Pcie)?.parse::<Address>().ok()?;
        Sysfs::default().function(address).ok()?.numa_node
    }
}

impl Port for Target {
    fn shape(&self) -> Shape {
        let namespace = &self.namespace;
        Shape {
            name: namespace.name.clone(),
            path: self.path(&namespace.name),
            access: match self.controller.id().trtype {
                TransportType::Pcie => Access::Pinned,
                TransportType::Rdma => Access::Registered,
                TransportType::VfioUser => Access::Shared,
                _ => Access::Own,
            },
            node: self.node(),
            nsid: namespace.nsid,
            csi: namespace.csi,
            zoned: namespace.zoned,
            blocks: namespace.blocks,
            block_size: namespace.block_size,
            metadata_size: namespace.metadata_size,
            extended: namespace.extended,
            protection: namespace.format,
            protect: Protect::default(),
            max_transfer: namespace.max_transfer,
            stripe_blocks: namespace.stripe_blocks,
            queue_entries: self.controller.io_queue_entries(),
            ana_state: namespace.ana_state,
        }
    }

    fn transport(&self) -> Option<String> {
        Some(self.controller.id().trtype.word().into())
    }

    fn connect(&self, entries: u32, group: &PollGroup) -> Result<AnyQueue, String> {
        let entries = entries.min(self.controller.io_queue_entries());
        self.controller.connect_io_queue_in(group, entries).map(AnyQueue::Driver).map_err(|error| error.to_string())
    }

    fn failure(&self) -> Option<String> {
        self.controller.failure().map(|why| format!("{}: {why}", self.path(self.controller.name())))
    }

    fn events(&self) -> Vec<String> {
        let path = self.path(self.controller.name());
        self.controller.events().into_iter().map(|event| format!("{path}: {event}")).collect()
    }

    fn incarnation(&self) -> Option<u64> {
        self.controller.incarnation()
    }

    fn attempts(&self) -> u32 {
        self.controller.attempts()
    }

    fn queue_lost(&self, incarnation: u64, why: String) {
        self.controller.queue_lost(incarnation, why);
    }

    fn abort(&self, incarnation: u64, sqid: u16, cid: u16) {
        self.controller.abort(incarnation, sqid, cid);
    }

    fn most_bytes(&self, kind: IoKind) -> Result<Option<u32>, String> {
        let (bit, name) = match kind {
            IoKind::Read | IoKind::Write | IoKind::Flush | IoKind::Append => return Ok(None),
            IoKind::Compare => (oncs::COMPARE, "Compare"),
            IoKind::Trim => (oncs::DATASET_MANAGEMENT, "Dataset Management"),
            IoKind::WriteZeroes => (oncs::WRITE_ZEROES, "Write Zeroes"),
            IoKind::Verify => (oncs::VERIFY, "Verify"),
        };
        let supported = self.controller.identify().oncs.get();
        if supported & bit == 0 {
            return Err(format!("the controller does not support {name} (ONCS {supported:04x}h)"));
        }
        // Older controllers have no such page, and say nothing of limits.
        let page = self.controller.identify_page(Cns::CSI_CONTROLLER, 0, Csi::NVM).unwrap_or_default();
        let limits = NvmController::ref_from_bytes(&page).ok();
        let power = |exponent: u8| match exponent {
            // What is not limited for itself keeps to what a command transfers, as controllers may expect that ignore the rest.
            0 => self.namespace.max_transfer,
            some => u32::try_from(4096u64 << (u32::from(self.controller.cap().mpsmin()) + u32::from(some)).min(32))
                .unwrap_or(u32::MAX),
        };
        Ok(match kind {
            IoKind::Trim => {
                let [range, all] = limits.map_or([0; 2], |limits| [limits.dmrsl.get().into(), limits.dmsl.get()]);
                let least = [range, all].into_iter().filter(|&blocks| blocks > 0).min();
                least.map(|blocks| u32::try_from(blocks * u64::from(self.namespace.block_size)).unwrap_or(u32::MAX))
            }
            IoKind::WriteZeroes => Some(power(limits.map_or(0, |limits| limits.wzsl))),
            IoKind::Verify => Some(power(limits.map_or(0, |limits| limits.vsl))),
            IoKind::Read | IoKind::Write | IoKind::Compare | IoKind::Flush | IoKind::Append => None,
        })
    }

    fn changing(&self) -> Option<Duration> {
        self.controller.changing(Some(self.namespace.nsid))
    }

    fn survey(&self, survey: &Survey) -> Result<Vec<Share>, String> {
        let queue = self.controller.connect_io_queue_in(&PollGroup::default(), SURVEY_ENTRIES);
        let mut queue = queue.map_err(|error| error.to_string())?;
        let shares = survey.take(&mut queue);
        queue.stop();
        shares
    }

    fn stored(&self, slba: u64, blocks: u32) -> Result<(Vec<u8>, Vec<u8>), String> {
        let stored = self.controller.reader().and_then(|mut reader| reader.stored(&self.namespace, slba, blocks));
        stored.map_err(|error| error.to_string())
    }

    fn check(&self) -> Result<(), String> {
        let namespaces = self.controller.namespaces();
        let now = namespaces.iter().find(|now| now.nsid == self.namespace.nsid).ok_or("the namespace is gone")?;
        let refused = || now.ana_state.and_then(refusal);
        self.namespace.difference(now).or_else(refused).map_or(Ok(()), Err)
    }
}
