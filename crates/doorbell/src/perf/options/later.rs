//! Options and targets whose part is not built yet, or that have nothing to work on in this run. Called by
//! [`super::resolve`] once everything else is in order. Nothing is dropped in silence: a use that would
//! change the run is an error, one that would not is a note.

use std::net::IpAddr;

use doorbell_load::kernel::Engine;

use super::Link;
use super::draft::Draft;
use super::table::{Entry, Id};

/// What becomes of an option.
enum Fate {
    Honoured,
    NoEffect(&'static str),
    NotBuilt { what: &'static str, needs: &'static str, instead: &'static str },
}

/// The notes of the options without effect, or the first use of something that is not built.
pub fn check(draft: &Draft) -> Result<Vec<String>, String> {
    let mut notes = Vec::new();
    for entry in &draft.given {
        match fate(entry, draft) {
            Fate::Honoured => (),
            Fate::NoEffect(why) => {
                let note = format!("{} has no effect: {why}", entry.label());
                if !notes.contains(&note) {
                    notes.push(note);
                }
            }
            Fate::NotBuilt { what, needs, instead } => {
                let label = entry.label();
                return Err(format!("{label}: {what} is not built yet: it needs {needs}; {instead}"));
            }
        }
    }
    Ok(notes)
}

/// Whether local PCIe devices are tested.
fn tests_pcie(draft: &Draft) -> bool {
    let all = draft.transport_ids.is_empty() && draft.embedded.is_none() && draft.files.is_empty();
    all || draft.transport_ids.iter().any(|text| trtype(text) == "PCIE")
}

/// Whether anything is tested over RDMA.
pub fn tests_rdma(draft: &Draft) -> bool {
    draft.transport_ids.iter().any(|text| trtype(text) == "RDMA")
}

/// Whether anything is tested that reads and writes this process's memory: a local device, or a process that plays one.
pub fn tests_within_reach(draft: &Draft) -> bool {
    let vfio_user = draft.transport_ids.iter().any(|text| trtype(text) == "VFIOUSER");
    tests_pcie(draft) || vfio_user || draft.embedded == Some(Link::VfioUser)
}

/// Whether no controller of Doorbell's own is tested.
fn only_files(draft: &Draft) -> bool {
    !draft.files.is_empty() && draft.transport_ids.is_empty() && draft.embedded.is_none()
}

/// The transport type of a transport ID in capital letters; what is wrong with the text is found later.
fn trtype(text: &str) -> String {
    value(text, "trtype").map_or("PCIE".into(), str::to_ascii_uppercase)
}

fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let mut pairs = text.split_ascii_whitespace().rev().filter_map(|pair| pair.split_once([':', '=']));
    pairs.find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| value)
}

/// Whether a target over TCP may be on another machine, by the addresses given.
fn sends_elsewhere(draft: &Draft) -> bool {
    let address = |text: &String| value(text, "traddr").and_then(|text| text.parse::<IpAddr>().ok());
    let mut over_tcp = draft.transport_ids.iter().filter(|text| trtype(text) == "TCP");
    over_tcp.any(|text| !address(text).is_some_and(|ip| ip.is_loopback()))
}

fn fate(entry: &Entry, draft: &Draft) -> Fate {
    let tls = |what| Fate::NotBuilt { what, needs: "the TLS layer", instead: "leave it out to test without TLS" };
    match entry.id {
        Id::AllowedPciAddr | Id::VfioVfToken if tests_pcie(draft) => Fate::Honoured,
        Id::HugememSize | Id::DisableSqCmb | Id::NoShstNotification | Id::NoHuge if tests_within_reach(draft) => {
            Fate::Honoured
        }
        Id::NoHuge => Fate::NoEffect("ordinary memory is used anyway"),
        Id::MemSingleSeg if tests_within_reach(draft) => {
            Fate::NoEffect("each piece of memory that others reach is one file in any case")
        }
        Id::IovaMode if tests_pcie(draft) => {
            Fate::NoEffect("devices use virtual addresses behind an IOMMU and physical ones without")
        }
        Id::ShmemGroup if tests_pcie(draft) => Fate::NoEffect(
            "sharing a controller between processes is not supported; a device belongs to one, and the next is told which",
        ),
        Id::ShmemGroup => Fate::NoEffect("only local PCIe devices can be shared with other processes"),
        Id::AllowedPciAddr
        | Id::VfioVfToken
        | Id::HugememSize
        | Id::DisableSqCmb
        | Id::NoShstNotification
        | Id::MemSingleSeg
        | Id::IovaMode => Fate::NoEffect("no local PCIe device is tested"),
        Id::EnableUring | Id::Engine | Id::IoPoll | Id::SqPoll | Id::Unregistered | Id::Buffered
            if draft.files.is_empty() =>
        {
            Fate::NoEffect("no file or device of the kernel is tested")
        }
        Id::Unregistered if draft.engine == Some(Engine::Libaio) => Fate::NoEffect("libaio registers nothing"),
        Id::Hdgst
        | Id::Ddgst
        | Id::KeepAlive
        | Id::Reconnect
        | Id::IoQueueSize
        | Id::DisableSqFlowControl
        | Id::SsdLatency
            if only_files(draft) =>
        {
            Fate::NoEffect("only files and devices of the kernel are tested")
        }
        Id::SockImpl if draft.sock_impl == "ssl" => tls("ssl"),
        Id::SockImpl if draft.sock_impl == "uring" => {
            Fate::NotBuilt { what: "uring", needs: "sockets on io_uring", instead: "use -S posix" }
        }
        Id::EnableZcopy if draft.zero_copy.contains(&draft.sock_impl) && !sends_elsewhere(draft) => Fate::NoEffect(
            "no target over TCP on another machine is tested, and data for this one is copied in any case",
        ),
        Id::EnableZcopy if !draft.zero_copy.is_empty() && !draft.zero_copy.contains(&draft.sock_impl) => {
            Fate::NoEffect("sockets are of another kind (-S)")
        }
        Id::ZerocopyThreshold | Id::ZerocopyThresholdSockImpl if draft.zero_copy.is_empty() => {
            Fate::NoEffect("zero-copy send is off")
        }
        Id::ZerocopyThreshold | Id::ZerocopyThresholdSockImpl
            if draft.zero_copy_threshold_for.as_ref() != Some(&draft.sock_impl) =>
        {
            Fate::NoEffect("sockets are of another kind (-S)")
        }
        Id::DisableKtls | Id::EnableKtls | Id::TlsVersion | Id::PskPath => tls("TLS"),
        Id::PskIdentity => Fate::NoEffect("the identity is derived from the key and the NQNs"),
        Id::DhchapKey | Id::DhchapCtrlrKey => Fate::NotBuilt {
            what: "authentication",
            needs: "DH-HMAC-CHAP",
            instead: "leave it out and test a subsystem that asks for none",
        },
        Id::Overwrite if draft.embedded.is_some() && draft.files.is_empty() => {
            Fate::NoEffect("nothing of value is in the embedded target")
        }
        Id::TransportTos | Id::RdmaSrqSize if tests_rdma(draft) => Fate::Honoured,
        Id::TransportTos | Id::RdmaSrqSize => Fate::NoEffect("no RDMA target is tested"),
        _ => Fate::Honoured,
    }
}
