//! Identify (Base 5.1.13): what the controller says of itself and its namespaces.

use doorbell_spec::{
    command::{Command, IdentifyRequest, NSID_ALL},
    identify::{
        Cns, Cntrltype, Controller, Csi, Descriptor, DescriptorList, IndependentNamespace, IoCommandSets,
        Namespace as NamespaceData, NamespaceList, Nidt, NvmController, NvmNamespace, SIZE, cmic, ctratt, lpa, nmic,
        nsfeat, oacs, oncs, sgls, vwc,
    },
    nqn,
    status::{Status, command_specific, generic},
    zns::{ZonedController, ZonedNamespace},
};
use zerocopy::{FromZeros, IntoBytes};

use super::{Admin, Answer, Transport, admin::MOST_EVENTS, features::WARNING_TEMPERATURE, property::VERSION};
use crate::{
    namespace::{Namespace, ZonedBlocks},
    subsystem::Subsystem,
};

/// PCI vendor identifier of controllers in memory: assigned to nobody, as they are no product but a model of one.
pub(crate) const VENDOR: u16 = 0xd0be;
/// Firmware revision, at most 8 characters.
pub(super) const REVISION: &str = env!("CARGO_PKG_VERSION");
/// Bit of the independent namespace structure's NSFEAT: no volatile write cache.
const NO_VOLATILE_CACHE: u8 = 1 << 5;
/// The one ANA group that all namespaces are in.
pub(super) const ANA_GROUP: u32 = 1;
/// DLFEAT: deallocated blocks read as zeroes, Write Zeroes can deallocate.
const DEALLOCATED_ZEROES: u8 = 0x01 | 0x08;

impl Admin {
    pub(super) fn identify(&self, command: &Command) -> Answer {
        let request = IdentifyRequest::parse(command);
        let subsystem = &*self.association.subsystem;
        let ids = subsystem.namespaces.iter().map(|namespace| namespace.nsid);
        let (nvm, zoned) = (request.csi == Csi::NVM, request.csi == Csi::ZONED && subsystem.is_zoned());
        let of_set = subsystem.namespaces.iter().filter(|found| csi(found) == request.csi).map(|found| found.nsid);
        let data = match request.cns {
            Cns::CONTROLLER => Ok(self.identify_controller().as_bytes().to_vec()),
            _ if subsystem.is_discovery => Err(INVALID),
            Cns::NAMESPACE | Cns::ALLOCATED_NAMESPACE => {
                namespace(subsystem, request.nsid, |found| identify_namespace(found).as_bytes().to_vec())
            }
            Cns::ACTIVE_NAMESPACES | Cns::ALLOCATED_NAMESPACES if request.nsid < NSID_ALL - 1 => {
                Ok(NamespaceList::collect(request.nsid, ids).as_bytes().to_vec())
            }
            Cns::CSI_ACTIVE_NAMESPACES | Cns::CSI_ALLOCATED_NAMESPACES
                if (nvm || zoned) && request.nsid < NSID_ALL - 1 =>
            {
                Ok(NamespaceList::collect(request.nsid, of_set).as_bytes().to_vec())
            }
            Cns::NAMESPACE_DESCRIPTORS => namespace(subsystem, request.nsid, |found| {
                let list = [
                    Descriptor { nidt: Nidt::UUID, nid: &found.uuid },
                    Descriptor { nidt: Nidt::NGUID, nid: &found.uuid },
                    Descriptor { nidt: Nidt::CSI, nid: &[csi(found).0] },
                ];
                DescriptorList::collect(list).as_bytes().to_vec()
            }),
            Cns::CSI_NAMESPACE if nvm => {
                namespace(subsystem, request.nsid, |_| NvmNamespace::new_zeroed().as_bytes().to_vec())
            }
            Cns::CSI_NAMESPACE if zoned => match subsystem.namespace(request.nsid).map(Namespace::zones) {
                Some(Some(zones)) => Ok(identify_zones(zones).as_bytes().to_vec()),
                Some(None) => Err(command_specific::INVALID_IO_COMMAND_SET.with_dnr()),
                None => Err(generic::INVALID_NAMESPACE.with_dnr()),
            },
            // ZASL is 0: an append may be as long as a write.
            Cns::CSI_CONTROLLER if zoned => Ok(ZonedController::new_zeroed().as_bytes().to_vec()),
            Cns::CSI_CONTROLLER if nvm => {
                let mut limits = NvmController::new_zeroed();
                limits.ver = VERSION.into_bits().into();
                Ok(limits.as_bytes().to_vec())
            }
            Cns::CSI_INDEPENDENT_NAMESPACE | Cns::INDEPENDENT_ALLOCATED_NAMESPACE => {
                namespace(subsystem, request.nsid, |found| independent(found).as_bytes().to_vec())
            }
            Cns::CONTROLLERS => Ok(self.controllers(request.cntid)),
            Cns::ATTACHED_CONTROLLERS => namespace(subsystem, request.nsid, |_| self.controllers(request.cntid)),
            Cns::IO_COMMAND_SETS => {
                let mut sets = IoCommandSets::new_zeroed();
                sets.vectors[0] = (1 << Csi::NVM.0 | u64::from(subsystem.is_zoned()) << Csi::ZONED.0).into();
                Ok(sets.as_bytes().to_vec())
            }
            Cns::ACTIVE_NAMESPACES | Cns::ALLOCATED_NAMESPACES => Err(generic::INVALID_NAMESPACE.with_dnr()),
            _ => Err(INVALID),
        };
        match data {
            Ok(data) => Answer::data(data),
            Err(status) => Answer::status(status),
        }
    }

    fn identify_controller(&self) -> Controller {
        let subsystem = &*self.association.subsystem;
        let config = &subsystem.config;
        let mut data = Controller::new_zeroed();
        data.set_sn(&config.serial);
        data.set_mn(&config.model);
        data.set_fr(REVISION);
        data.cmic = cmic::MULTI_PORT | cmic::MULTI_CONTROLLER;
        data.mdts = (config.max_transfer / 4096).ilog2() as u8;
        data.cntlid = self.association.cntlid.into();
        data.ver = VERSION.into_bits().into();
        data.ctratt = ctratt::HIDS.into();
        data.acl = 3;
        data.aerl = MOST_EVENTS as u8 - 1;
        data.lpa = lpa::EXTENDED_DATA;
        data.kas = 1.into();
        data.subnqn = nqn::to_field(&config.nqn).unwrap_or([0; nqn::FIELD_LEN]);
        let (kinds, in_capsule_data, descriptors) = match self.transport {
            Transport::Tcp(_) => (sgls::OFFSET | sgls::TRANSPORT, config.in_capsule_data, 1),
            Transport::Rdma { limits, .. } => (sgls::OFFSET | sgls::KEYED, limits.in_capsule_data, limits.descriptors),
            Transport::Memory { .. } => (0, 0, 0),
        };
        data.sgls = (sgls::SUPPORTED | kinds).into();
        data.msdbd = descriptors;
        if self.is_in_memory() {
            data.vid = VENDOR.into();
            data.ssvid = VENDOR.into();
            data.oacs = oacs::DOORBELL_BUFFER.into();
        } else {
            data.maxcmd = (self.max_queue_entries() as u16).into();
            data.ioccsz = ((64 + in_capsule_data) / 16).into();
            data.iorcsz = 1.into();
            data.ofcs = u16::from(!subsystem.is_discovery).into();
        }
        if subsystem.is_discovery {
            data.cntrltype = Cntrltype::DISCOVERY.0;
            data.dctype = 1;
            return data;
        }
        let capacity =
            subsystem.namespaces.iter().map(|each| u128::from(each.capacity()) << each.block_shift).sum::<u128>();
        data.cntrltype = Cntrltype::IO.0;
        data.cmic |= cmic::ANA;
        data.rab = 6;
        data.lpa |= lpa::EFFECTS;
        // One slot, read only.
        data.frmw = 0x03;
        data.wctemp = WARNING_TEMPERATURE.into();
        data.cctemp = (WARNING_TEMPERATURE + 10).into();
        data.tnvmcap = capacity.into();
        data.anatt = 10;
        data.anacap = 0x01;
        data.anagrpmax = ANA_GROUP.into();
        data.nanagrpid = 1.into();
        data.sqes = 0x66;
        data.cqes = 0x44;
        data.nn = (subsystem.namespaces.len().max(1) as u32).into();
        data.mnan = data.nn;
        data.oncs =
            (oncs::COMPARE | oncs::DATASET_MANAGEMENT | oncs::WRITE_ZEROES | oncs::VERIFY | oncs::SAVE_SELECT).into();
        let cached = subsystem.namespaces.iter().any(Namespace::is_cached);
        data.vwc = vwc::FLUSH_ALL | if cached { vwc::PRESENT } else { 0 };
        data
    }

    /// A controller list (Base 4.6.1) of the subsystem's controllers from `first` on.
    fn controllers(&self, first: u16) -> Vec<u8> {
        let mut ids = self.association.subsystem.controllers();
        ids.retain(|&id| id >= first);
        ids.truncate(SIZE / 2 - 1);
        let words = std::iter::once(ids.len() as u16).chain(ids.iter().copied());
        let mut data: Vec<u8> = words.flat_map(u16::to_le_bytes).collect();
        data.resize(SIZE, 0);
        data
    }
}

const INVALID: Status = generic::INVALID_FIELD.with_dnr();

/// A structure about a namespace that there is.
fn namespace(subsystem: &Subsystem, nsid: u32, data: impl FnOnce(&Namespace) -> Vec<u8>) -> Result<Vec<u8>, Status> {
    match subsystem.namespace(nsid) {
        Some(namespace) => Ok(data(namespace)),
        // Valid, as NN is at least 1, but not active.
        None if nsid == 1 => Ok(vec![0; SIZE]),
        None => Err(generic::INVALID_NAMESPACE.with_dnr()),
    }
}

/// Atomicity as the namespaces have it: a write within a group of 4096 bytes is done or not, one across a boundary is atomic
/// in each group. AWUN of the controller knows no boundaries, so it is one block.
fn identify_namespace(namespace: &Namespace) -> NamespaceData {
    let mut data = NamespaceData::new_zeroed();
    let group = namespace.group_blocks() - 1;
    data.nsze = namespace.blocks.into();
    let capacity = namespace.capacity();
    data.ncap = capacity.into();
    data.nuse = capacity.into();
    data.nsfeat = nsfeat::NSABP | nsfeat::OPTPERF;
    data.nmic = nmic::SHARED;
    data.dlfeat = DEALLOCATED_ZEROES;
    data.nawun = group.into();
    data.nacwu = 0.into();
    data.nabsn = group.into();
    data.nvmcap = (u128::from(capacity) << namespace.block_shift).into();
    (data.npwg, data.npwa) = (group.into(), group.into());
    (data.npdg, data.npda) = (group.into(), group.into());
    data.anagrpid = ANA_GROUP.into();
    data.nguid = namespace.uuid;
    data.lbaf[0].lbads = namespace.block_shift as u8;
    data
}

/// The command set that a namespace is used by.
fn csi(namespace: &Namespace) -> Csi {
    if namespace.zones().is_some() { Csi::ZONED } else { Csi::NVM }
}

fn identify_zones(zones: &ZonedBlocks) -> ZonedNamespace {
    let mut data = ZonedNamespace::new_zeroed();
    let (active, open) = zones.limits();
    (data.mar, data.mor) = (ZonedNamespace::limit(active), ZonedNamespace::limit(open));
    data.lbafe[0].zsze = zones.zone().0.into();
    data
}

fn independent(namespace: &Namespace) -> IndependentNamespace {
    let mut data = IndependentNamespace::new_zeroed();
    data.nsfeat = if namespace.is_cached() { 0 } else { NO_VOLATILE_CACHE };
    data.nmic = nmic::SHARED;
    data.anagrpid = ANA_GROUP.into();
    data.nstat = IndependentNamespace::NSTAT_NRDY;
    data
}
