//! Asking a discovery controller which subsystems there are (Base 5.1.12.3.1).

use std::time::{Duration, Instant};

use doorbell_spec::{
    command::{self, LogRequest},
    log::{Adrfam, DiscoveryEntry, DiscoveryHeader, Lid, Subtype, Trtype},
    nqn::DISCOVERY_NQN,
};
use zerocopy::FromBytes;

use crate::{
    cancel::Cancel,
    controller::{Controller, ControllerOptions, name_of},
    error::{Cause, Error},
    transport::port::AdminData,
    transport_id::{AddressFamily, TransportId, TransportType},
};

/// How often the log is read again because it changed meanwhile.
const ATTEMPTS: usize = 5;
/// More entries than this are a lie.
const MOST_ENTRIES: u64 = 8192;
const ENTRY: u64 = size_of::<DiscoveryEntry>() as u64;

/// A discovery log page.
#[derive(Clone, Debug)]
pub struct DiscoveryLog {
    /// Generation counter.
    pub genctr: u64,
    /// Its entries: subsystems, referrals, and the discovery service itself.
    pub entries: Vec<DiscoveryEntry>,
}

/// Reads the log of the discovery service at `id` (whose subsystem is ignored) and lets go of it.
///
/// # Errors
/// When the service cannot be reached, or its log makes no sense.
pub fn discover(id: &TransportId, options: &ControllerOptions, cancel: &Cancel) -> Result<DiscoveryLog, Error> {
    if id.trtype.is_local() {
        let what = "a device within reach has no discovery log; `doorbell identify` shows what it is";
        return Err(Cause::Transport(what.into()).of(&name_of(id)));
    }
    let id = TransportId { subnqn: DISCOVERY_NQN.into(), ..id.clone() };
    // A log takes a moment, so no keep alive is asked for.
    let controller = Controller::connect(&id, &ControllerOptions { keep_alive: None, ..options.clone() }, cancel)?;
    let log = read(&controller, options.bring_up_timeout);
    controller.detach();
    log
}

fn read(controller: &Controller, span: Duration) -> Result<DiscoveryLog, Error> {
    let end = Instant::now() + span;
    let piece = |offset: u64| {
        if Instant::now() >= end {
            let command = format!("Get Log Page (LID 70h, offset {offset})");
            return Err(Cause::TooLong { command, what: "reading the discovery log", span }.of(controller.name()));
        }
        let request = LogRequest { bytes: ENTRY, offset, ..LogRequest::new(Lid::DISCOVERY) };
        controller.admin(command::get_log_page(&request), AdminData::In(ENTRY as u32)).map(|(_, bytes)| bytes)
    };
    let header = || piece(0).map(|bytes| DiscoveryHeader::read_from_bytes(&bytes).expect("1024 bytes"));
    let nonsense = |why: String| Err(Cause::Nonsense(format!("its discovery log {why}")).of(controller.name()));
    for _ in 0..ATTEMPTS {
        let before = header()?;
        let count = before.numrec.get();
        if before.recfmt.get() != 0 {
            return nonsense(format!("has record format {}, known is 0", before.recfmt));
        }
        if count > MOST_ENTRIES {
            return nonsense(format!("claims {count} entries"));
        }
        let mut entries = Vec::new();
        for at in 0..count {
            entries.push(DiscoveryEntry::read_from_bytes(&piece((at + 1) * ENTRY)?).expect("1024 bytes"));
        }
        if header()?.genctr == before.genctr {
            return Ok(DiscoveryLog { genctr: before.genctr.get(), entries });
        }
    }
    nonsense(format!("changed {ATTEMPTS} times while it was read"))
}

/// What an entry is for a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A subsystem, and how to reach it.
    Subsystem(Box<TransportId>),
    /// The discovery service the log came from.
    Itself,
    /// Something else, in words.
    Other(String),
}

/// Reads an entry of the log found at `origin`, whose host, source address, priority and namespace choice are inherited.
pub fn found(entry: &DiscoveryEntry, origin: &TransportId) -> Found {
    let subnqn = match entry.subnqn() {
        Ok(subnqn) => subnqn.to_string(),
        Err(why) => return Found::Other(format!("an entry without a name: {why}")),
    };
    let (traddr, trsvcid) = (entry.traddr().to_string(), entry.trsvcid().to_string());
    let place = format!("{subnqn} at {traddr}:{trsvcid}");
    match entry.subtype() {
        Subtype::NVM => {}
        Subtype::REFERRAL => return Found::Other(format!("a referral to the discovery service {place}")),
        Subtype::CURRENT_DISCOVERY => return Found::Itself,
        other => return Found::Other(format!("an entry of subtype {} ({place})", other.0)),
    }
    let trtype = match entry.trtype() {
        Trtype::TCP => TransportType::Tcp,
        Trtype::RDMA => TransportType::Rdma,
        Trtype::FC => TransportType::Fc,
        other => return Found::Other(format!("a subsystem on a transport of type {} ({place})", other.0)),
    };
    let adrfam = match entry.adrfam() {
        Adrfam::IPV4 => AddressFamily::Ipv4,
        Adrfam::IPV6 => AddressFamily::Ipv6,
        Adrfam::IB => AddressFamily::Ib,
        Adrfam::FC => AddressFamily::Fc,
        _ => AddressFamily::None,
    };
    Found::Subsystem(Box::new(TransportId { trtype, adrfam, traddr, trsvcid, subnqn, ..origin.clone() }))
}

const _: () = assert!(size_of::<DiscoveryHeader>() as u64 == ENTRY);

#[cfg(test)]
mod tests {
    use zerocopy::{FromZeros, IntoBytes};

    use super::*;

    #[test]
    fn entries_are_told_apart() {
        let origin: TransportId = "trtype:tcp traddr:10.0.0.1 hostnqn:nqn.2014-08.org.x:me priority:2".parse().unwrap();
        let mut entry = DiscoveryEntry::new_zeroed();
        (entry.trtype, entry.adrfam, entry.subtype) = (Trtype::TCP.0, Adrfam::IPV6.0, Subtype::NVM.0);
        entry.set_traddr("fe80::1");
        entry.set_trsvcid("4420");
        entry.set_subnqn("nqn.2016-06.io.x:y").unwrap();
        let Found::Subsystem(id) = found(&entry, &origin) else { panic!("a subsystem") };
        let text = "trtype:TCP adrfam:IPv6 traddr:fe80::1 trsvcid:4420 subnqn:nqn.2016-06.io.x:y hostnqn:nqn.2014-08.org.x:me priority:2";
        assert_eq!(id.to_string(), text);
        entry.subtype = Subtype::CURRENT_DISCOVERY.0;
        assert_eq!(found(&entry, &origin), Found::Itself);
        for (subtype, said) in [(Subtype::REFERRAL, "referral"), (Subtype(9), "subtype 9")] {
            entry.subtype = subtype.0;
            assert!(matches!(found(&entry, &origin), Found::Other(text) if text.contains(said)));
        }
        entry.as_mut_bytes().fill(0xff);
        assert!(matches!(found(&entry, &origin), Found::Other(_)));
    }
}
