use super::*;
use crate::command::{AdminOpcode, NvmOpcode};
use crate::nqn::{DISCOVERY_NQN, NqnError};
use crate::status::generic;
use proptest::prelude::*;
use std::string::ToString;
use std::vec::Vec;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

fn ana_page(groups: &[(u32, u8, &[u32])]) -> Vec<u8> {
    let mut header = AnaHeader::default();
    header.ngrps.set(groups.len() as u16);
    let mut bytes = header.as_bytes().to_vec();
    for (agid, anas, nsids) in groups {
        let mut descriptor = AnaGroupDescriptor { anas: *anas, ..Default::default() };
        descriptor.agid.set(*agid);
        descriptor.nnsids.set(nsids.len() as u32);
        bytes.extend_from_slice(descriptor.as_bytes());
        for nsid in *nsids {
            bytes.extend_from_slice(&nsid.to_le_bytes());
        }
    }
    bytes
}

#[test]
fn ana_groups_of_a_page() {
    let page = ana_page(&[(1, 0x01, &[1, 3]), (2, 0xff, &[]), (9, 0x03, &[2])]);
    let (header, groups) = ana_groups(&page).unwrap();
    assert_eq!(header.ngrps.get(), 3);
    let groups: Vec<_> = groups.collect();
    assert_eq!(groups.len(), 3);
    assert_eq!(groups[0].descriptor.state(), AnaState::OPTIMIZED);
    assert_eq!(groups[0].nsids.iter().map(|id| id.get()).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(groups[1].descriptor.state(), AnaState::CHANGE);
    assert_eq!(groups[2].descriptor.state().name(), "ANA Inaccessible");
}

#[test]
fn ana_pages_that_lie() {
    assert!(ana_groups(&[0; 15]).is_none());
    let page = ana_page(&[(1, 1, &[1, 2]), (2, 1, &[3])]);
    assert_eq!(ana_groups(&page[..page.len() - 1]).unwrap().1.count(), 1);
    assert_eq!(ana_groups(&page[..20]).unwrap().1.count(), 0);
    let mut many = page.clone();
    many[16 + 4..16 + 8].copy_from_slice(&[0xff; 4]);
    assert_eq!(ana_groups(&many).unwrap().1.count(), 0);
    let mut few = page;
    few[8] = 1;
    assert_eq!(ana_groups(&few).unwrap().1.count(), 1);
}

#[test]
fn discovery_entry_round_trip() {
    let mut entry = DiscoveryEntry::new_zeroed();
    entry.trtype = Trtype::TCP.0;
    entry.adrfam = Adrfam::IPV4.0;
    entry.subtype = Subtype::CURRENT_DISCOVERY.0;
    entry.set_traddr("127.0.0.1");
    entry.set_trsvcid("8009");
    entry.set_subnqn(DISCOVERY_NQN).unwrap();
    let read = DiscoveryEntry::read_from_bytes(entry.as_bytes()).unwrap();
    assert_eq!(read.trtype().to_string(), "TCP (03h)");
    assert_eq!(read.adrfam().name(), "IPv4");
    assert_eq!(read.subtype().name(), "Current Discovery Subsystem");
    assert_eq!(read.traddr().to_string(), "127.0.0.1");
    assert_eq!(read.trsvcid().to_string(), "8009");
    assert_eq!(read.subnqn(), Ok(DISCOVERY_NQN));
    assert_eq!(entry.set_subnqn(""), Err(NqnError::Empty));
    assert_eq!(DiscoveryHeader::new(7, 1).as_bytes()[..9], [7, 0, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(treq::secure_channel_name(0xfe), "not required");
}

#[test]
fn changed_namespaces_overflow() {
    let page = ChangedNamespaces::collect([3, 5]);
    assert_eq!(page.iter().collect::<Vec<_>>(), [3, 5]);
    assert!(!page.overflowed());
    let full = ChangedNamespaces::collect(1..=1024);
    assert_eq!(full.iter().count(), 1024);
    let over = ChangedNamespaces::collect(1..=1025);
    assert!(over.overflowed());
    assert_eq!(over.iter().count(), 0);
}

#[test]
fn supported_pages_and_effects() {
    let page = SupportedLogPages::new(&[Lid::SMART, Lid(0xff)]);
    assert!(page.supports(Lid::SMART) && page.supports(Lid(0xff)));
    assert!(!page.supports(Lid::ANA));
    let mut effects = CommandEffects::new_zeroed();
    effects.set_io(NvmOpcode::WRITE, effect::CSUPP | effect::LBCC);
    effects.set_admin(AdminOpcode(0xff), effect::CSUPP);
    assert_eq!(effects.io(NvmOpcode::WRITE), 3);
    assert_eq!(effects.admin(AdminOpcode(0xff)), 1);
    assert_eq!(effects.as_bytes()[1024 + 4], 3);
}

#[test]
fn error_smart_and_firmware() {
    let mut entry = ErrorEntry::default();
    entry.sts.set(generic::LBA_OUT_OF_RANGE.to_field(true));
    assert_eq!(entry.status(), generic::LBA_OUT_OF_RANGE);
    let mut smart = Smart::new_zeroed();
    assert_eq!(smart.celsius(), None);
    smart.ctemp.set(300);
    assert_eq!(smart.celsius(), Some(27));
    let slots = FirmwareSlots::single("0.1.0");
    assert_eq!(slots.active(), 1);
    assert_eq!(slots.revision(1).unwrap().to_string(), "0.1.0");
    assert!(slots.revision(0).is_none() && slots.revision(2).is_none() && slots.revision(8).is_none());
}

#[test]
fn latencies_of_intels_drives_are_in_their_buckets() {
    let mut page = IntelLatency::new();
    for us in [0, 31, 32, 999, 1000, 1999, 31_999, 32_000, 63_999, 64_000, 991_999, 992_000, u64::MAX] {
        page.count(us);
    }
    let found: Vec<_> = page.buckets().collect();
    assert_eq!(
        found,
        [
            (0, 32, "us", 2),
            (32, 64, "us", 1),
            (992, 1024, "us", 1),
            (1, 2, "ms", 2),
            (31, 32, "ms", 1),
            (32, 64, "ms", 2),
            (64, 96, "ms", 1),
            (960, 992, "ms", 1),
            (992, 1024, "ms", 2),
        ]
    );
    assert_eq!(page.as_bytes()[..8], [1, 0, 0, 0, 2, 0, 0, 0]);
}

#[test]
fn an_ocp_page_is_known_by_its_guid() {
    let mut page = OcpSmart::new_zeroed();
    assert!(OcpSmart::parse(page.as_bytes()).is_none());
    page.guid = OcpSmart::GUID;
    assert_eq!(page.guid[..4], [0xc5, 0xaf, 0x10, 0x28]);
    page.bad_user_blocks[1] = 2;
    let read = OcpSmart::parse(page.as_bytes()).unwrap();
    assert_eq!(OcpSmart::count(&read.bad_user_blocks), 512);
    assert!(OcpSmart::parse(&page.as_bytes()[..511]).is_none());
}

proptest! {
    #[test]
    fn any_bytes_are_pages(bytes in proptest::collection::vec(any::<u8>(), 1024), text in "[!-~]{1,32}") {
        if let Some((header, groups)) = ana_groups(&bytes) {
            prop_assert!(groups.count() <= usize::from(header.ngrps.get()));
        }
        let mut entry = DiscoveryEntry::read_from_bytes(&bytes).unwrap();
        let _ = (entry.subnqn(), entry.traddr().to_string(), entry.trtype().to_string());
        entry.set_trsvcid(&text);
        prop_assert_eq!(entry.trsvcid().to_string(), text);
        let slots = FirmwareSlots::read_from_bytes(&bytes[..512]).unwrap();
        prop_assert!((0..=u8::MAX).filter_map(|slot| slots.revision(slot)).count() <= 7);
        let _ = Smart::read_from_bytes(&bytes[..512]).unwrap().celsius();
        let _ = OcpSmart::read_from_bytes(&bytes[..512]).unwrap().lowest_firmware().to_string();
        prop_assert!(IntelLatency::read_from_bytes(&bytes[..380]).unwrap().buckets().count() <= 94);
    }

    #[test]
    fn ana_round_trip(
        groups in proptest::collection::vec(
            (any::<u32>(), any::<u8>(), proptest::collection::vec(any::<u32>(), 0..20)), 0..20,
        ),
    ) {
        let page = ana_page(&groups.iter().map(|(id, state, nsids)| (*id, *state, &nsids[..])).collect::<Vec<_>>());
        let read: Vec<_> = ana_groups(&page).unwrap().1
            .map(|AnaGroup { descriptor, nsids }| (descriptor.agid.get(), descriptor.anas, nsids.iter().map(|id| id.get()).collect::<Vec<_>>()))
            .collect();
        prop_assert_eq!(read, groups);
        prop_assert_eq!(ana_groups(&[0; 16]).unwrap().1.count(), 0);
    }
}
