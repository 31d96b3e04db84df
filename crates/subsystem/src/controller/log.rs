//! Get Log Page (Base 5.1.12).

use std::{net::SocketAddr, sync::atomic::Ordering};

use doorbell_spec::{
    command::{Command, LogRequest, NSID_ALL, NvmOpcode},
    fabrics::CNTLID_DYNAMIC,
    identify::Csi,
    log::{
        Adrfam, AnaGroupDescriptor, AnaHeader, AnaState, ChangedNamespaces, CommandEffects, DiscoveryEntry,
        DiscoveryHeader, ErrorEntry, FirmwareSlots, Lid, Smart, Subtype, SupportedLogPages, Trtype, effect, rdma_tsas,
        treq,
    },
    status::{command_specific, generic},
};
use zerocopy::{FromZeros, IntoBytes};

use super::{
    Admin, Answer, Transport,
    identify::{ANA_GROUP, REVISION},
};

const OF_NVM: [Lid; 7] = [
    Lid::SUPPORTED_LOG_PAGES,
    Lid::ERROR_INFORMATION,
    Lid::SMART,
    Lid::FIRMWARE_SLOT,
    Lid::CHANGED_NAMESPACES,
    Lid::COMMANDS_SUPPORTED_AND_EFFECTS,
    Lid::ANA,
];
const OF_DISCOVERY: [Lid; 3] = [Lid::SUPPORTED_LOG_PAGES, Lid::ERROR_INFORMATION, Lid::DISCOVERY];

/// Without a sensor: a room's temperature, in kelvins.
const TEMPERATURE: u16 = 298;
/// Most entries of an admin queue that the discovery log recommends.
pub(crate) const ADMIN_ENTRIES: u16 = 128;

impl Admin {
    pub(super) fn log_page(&self, command: &Command) -> Answer {
        let request = LogRequest::parse(command);
        let subsystem = &self.association.subsystem;
        let supported: &[Lid] = if subsystem.is_discovery { &OF_DISCOVERY } else { &OF_NVM };
        if !supported.contains(&request.lid) {
            return Answer::status(command_specific::INVALID_LOG_PAGE.with_dnr());
        }
        if request.bytes > subsystem.config.max_transfer.into() || request.ot || !request.offset.is_multiple_of(4) {
            return Answer::status(generic::INVALID_FIELD.with_dnr());
        }
        if ![0, NSID_ALL].contains(&request.nsid) && subsystem.namespace(request.nsid).is_none() {
            return Answer::status(generic::INVALID_NAMESPACE.with_dnr());
        }
        let page = match request.lid {
            Lid::SUPPORTED_LOG_PAGES => SupportedLogPages::new(supported).as_bytes().to_vec(),
            // No status ever says that there is more to read here, so the one entry is not in use.
            Lid::ERROR_INFORMATION => ErrorEntry::default().as_bytes().to_vec(),
            Lid::SMART => self.smart().as_bytes().to_vec(),
            Lid::FIRMWARE_SLOT => FirmwareSlots::single(REVISION).as_bytes().to_vec(),
            Lid::CHANGED_NAMESPACES => ChangedNamespaces::collect([]).as_bytes().to_vec(),
            Lid::COMMANDS_SUPPORTED_AND_EFFECTS => self.effects(request.csi).as_bytes().to_vec(),
            Lid::ANA => self.ana(request.lsp & 1 != 0),
            _ => self.discovery(),
        };
        if request.offset > page.len() as u64 {
            return Answer::status(generic::INVALID_FIELD.with_dnr());
        }
        let mut data = page[request.offset as usize..].to_vec();
        data.resize(request.bytes as usize, 0);
        Answer::data(data)
    }

    fn smart(&self) -> Smart {
        let totals = &self.association.subsystem.totals;
        let count = |counter: &std::sync::atomic::AtomicU64| u128::from(counter.load(Ordering::Relaxed));
        let mut log = Smart::new_zeroed();
        log.ctemp = TEMPERATURE.into();
        log.avsp = 100;
        log.dur = count(&totals.read_bytes).div_ceil(512_000).into();
        log.duw = count(&totals.written_bytes).div_ceil(512_000).into();
        log.hrc = count(&totals.reads).into();
        log.hwc = count(&totals.writes).into();
        log.pwrc = 1.into();
        log.poh = u128::from(self.shared.started.elapsed().as_secs() / 3600).into();
        log
    }

    /// All namespaces are in one group that is always optimized.
    fn ana(&self, groups_only: bool) -> Vec<u8> {
        let ids = self.association.subsystem.namespaces.iter().map(|namespace| namespace.nsid);
        let ids: Vec<u32> = ids.take(if groups_only { 0 } else { usize::MAX }).collect();
        let header = AnaHeader { ngrps: 1.into(), ..AnaHeader::default() };
        let group = AnaGroupDescriptor {
            agid: ANA_GROUP.into(),
            nnsids: (ids.len() as u32).into(),
            anas: AnaState::OPTIMIZED.0,
            ..AnaGroupDescriptor::default()
        };
        let mut page = [header.as_bytes(), group.as_bytes()].concat();
        page.extend(ids.iter().flat_map(|id| id.to_le_bytes()));
        page
    }

    /// The subsystems that this host may use, at each address.
    fn discovery(&self) -> Vec<u8> {
        let local = self.transport.local();
        let over_rdma = matches!(self.transport, Transport::Rdma { .. });
        let subsystems = self.shared.subsystems.iter();
        let mut entries = Vec::new();
        for subsystem in subsystems.filter(|subsystem| subsystem.admits(&self.association.hostnqn)) {
            for (port, &(trtype, address)) in self.shared.addresses.iter().enumerate() {
                // Not every address that a host reaches by TCP belongs to an RDMA device.
                if trtype == Trtype::RDMA && address.ip().is_unspecified() && !over_rdma {
                    continue;
                }
                if let Some(address) = local.and_then(|local| as_seen_from(address, local)) {
                    entries.push(entry(&subsystem.config.nqn, port, trtype, address));
                }
            }
        }
        let mut page = DiscoveryHeader::new(1, entries.len() as u64).as_bytes().to_vec();
        entries.iter().for_each(|entry| page.extend_from_slice(entry.as_bytes()));
        page
    }

    fn effects(&self, csi: Csi) -> CommandEffects {
        let mut log = CommandEffects::new_zeroed();
        for opcode in self.commands() {
            log.set_admin(opcode, effect::CSUPP);
        }
        for opcode in [NvmOpcode::FLUSH, NvmOpcode::READ, NvmOpcode::COMPARE, NvmOpcode::VERIFY] {
            log.set_io(opcode, effect::CSUPP);
        }
        for opcode in [NvmOpcode::WRITE, NvmOpcode::WRITE_ZEROES, NvmOpcode::DATASET_MANAGEMENT] {
            log.set_io(opcode, effect::CSUPP | effect::LBCC);
        }
        if csi == Csi::ZONED && self.association.subsystem.is_zoned() {
            log.set_io(NvmOpcode::ZONE_MANAGEMENT_RECEIVE, effect::CSUPP);
            for opcode in [NvmOpcode::ZONE_APPEND, NvmOpcode::ZONE_MANAGEMENT_SEND] {
                log.set_io(opcode, effect::CSUPP | effect::LBCC);
            }
        }
        log
    }
}

/// What a host that has reached us at `local` is told of an address we listen on: instead of a wildcard, where it has reached
/// us. None for a wildcard of another address family.
fn as_seen_from(listen: SocketAddr, local: SocketAddr) -> Option<SocketAddr> {
    let (listening, seen) = (listen.ip().to_canonical(), local.ip().to_canonical());
    if !listening.is_unspecified() {
        return Some(SocketAddr::new(listening, listen.port()));
    }
    // A wildcard of IPv6 takes IPv4 too.
    (listening.is_ipv6() || seen.is_ipv4()).then(|| SocketAddr::new(seen, listen.port()))
}

fn entry(nqn: &str, port: usize, trtype: Trtype, address: SocketAddr) -> DiscoveryEntry {
    let mut entry = DiscoveryEntry::new_zeroed();
    entry.trtype = trtype.0;
    if trtype == Trtype::RDMA {
        let tsas = [rdma_tsas::QPTYPE_RELIABLE_CONNECTED, rdma_tsas::PRTYPE_NONE, rdma_tsas::CMS_RDMA_CM];
        entry.tsas[..tsas.len()].copy_from_slice(&tsas);
    }
    entry.adrfam = if address.is_ipv4() { Adrfam::IPV4.0 } else { Adrfam::IPV6.0 };
    entry.subtype = Subtype::NVM.0;
    entry.treq = treq::SECURE_CHANNEL_NOT_REQUIRED | treq::SQ_FLOW_CONTROL_DISABLE;
    entry.portid = (port as u16 + 1).into();
    entry.cntlid = CNTLID_DYNAMIC.into();
    entry.asqsz = ADMIN_ENTRIES.into();
    entry.set_trsvcid(&address.port().to_string());
    entry.set_traddr(&address.ip().to_string());
    // A name that was checked when the target was configured fits.
    let _ = entry.set_subnqn(nqn);
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_is_told_as_the_address_the_host_reached() {
        let table = [
            ("10.0.0.1:4420", "10.0.0.9:8009", Some("10.0.0.1:4420")),
            ("0.0.0.0:4420", "10.0.0.9:8009", Some("10.0.0.9:4420")),
            ("0.0.0.0:4420", "[::1]:8009", None),
            ("[::]:4420", "[::1]:8009", Some("[::1]:4420")),
            ("[::]:4420", "[::ffff:10.0.0.9]:4420", Some("10.0.0.9:4420")),
        ];
        for (listen, local, told) in table {
            let seen = as_seen_from(listen.parse().unwrap(), local.parse().unwrap());
            assert_eq!(seen, told.map(|text| text.parse().unwrap()), "{listen} from {local}");
        }
    }
}
