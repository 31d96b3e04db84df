use super::*;
use proptest::prelude::*;
use std::string::ToString;
use std::vec::Vec;
use zerocopy::{FromBytes, FromZeros};

#[test]
fn controller_fields_from_bytes() {
    let mut bytes = [0u8; SIZE];
    bytes[4..24].copy_from_slice(b"SN1                 ");
    bytes[24..64].copy_from_slice(b"A model                                 ");
    bytes[77] = 5;
    bytes[80..84].copy_from_slice(&0x0002_0100u32.to_le_bytes());
    bytes[1792..1796].copy_from_slice(&516u32.to_le_bytes());
    let controller = Controller::read_from_bytes(&bytes).unwrap();
    assert_eq!(controller.sn().to_string(), "SN1");
    assert_eq!(controller.mn().to_string(), "A model");
    assert_eq!(controller.ver().to_string(), "2.1");
    assert_eq!(controller.max_transfer(0), Some(128 * 1024));
    assert_eq!(controller.in_capsule_data_size(), 8192);
    assert_eq!(controller.cntrltype(), Cntrltype::NOT_REPORTED);
    assert!(controller.subnqn().is_err());
}

#[test]
fn controller_limits_that_lie() {
    let mut controller = Controller::new_zeroed();
    assert_eq!(controller.max_transfer(15), None);
    controller.mdts = 255;
    assert_eq!(controller.max_transfer(15), None);
    assert_eq!(controller.in_capsule_data_size(), 0);
}

#[test]
fn controller_text_round_trip() {
    let mut controller = Controller::new_zeroed();
    controller.set_sn("1234");
    controller.set_mn("model");
    controller.set_fr("123456789");
    assert_eq!(&controller.sn[..5], b"1234 ");
    assert_eq!(controller.mn().to_string(), "model");
    assert_eq!(controller.fr().to_string(), "12345678");
}

#[test]
fn namespace_formats() {
    let mut namespace = Namespace::new_zeroed();
    assert_eq!(namespace.lba_size(), None);
    assert_eq!(namespace.size_bytes(), None);
    namespace.nsze = 1000.into();
    namespace.lbaf[3].lbads = 12;
    namespace.lbaf[3].ms = 8.into();
    namespace.lbaf[35].lbads = 9;
    // FLBAS, NLBAF, format, block with metadata
    let table = [
        (0x03, 3, 3, Some(4096)),
        (0x13, 3, 3, Some(4104)),
        (0x43, 15, 3, Some(4096)),
        (0x43, 63, 35, Some(512)),
        (0x6f, 63, 63, None),
    ];
    for (flbas, nlbaf, index, block) in table {
        namespace.flbas = flbas;
        namespace.nlbaf = nlbaf;
        assert_eq!(namespace.format_index(), index, "{flbas:x}");
        assert_eq!(namespace.block_size(), block, "{flbas:x}");
    }
    namespace.flbas = 0x13;
    assert!(namespace.is_extended());
    assert_eq!(namespace.size_bytes(), Some(4_096_000));
}

#[test]
fn namespace_lists_ascend_or_end() {
    let list = NamespaceList::collect(2, [1, 2, 3, 7, 9]);
    assert_eq!(list.after(2).collect::<Vec<_>>(), [3, 7, 9]);
    assert_eq!(list.after(3).count(), 0);
    let full = NamespaceList::collect(0, 1..=2000);
    assert_eq!(full.after(0).last(), Some(1024));
    let mut lie = list;
    lie.ids[2] = 7.into();
    assert_eq!(lie.after(0).collect::<Vec<_>>(), [3, 7]);
}

#[test]
fn descriptors_that_lie() {
    assert_eq!(descriptors(&[]).count(), 0);
    assert_eq!(descriptors(&[3, 16, 0]).count(), 0);
    assert_eq!(descriptors(&[3, 16, 0, 0, 1, 2]).count(), 0);
    assert_eq!(descriptors(&[3, 0, 0, 0, 4, 1, 0, 0, 0]).count(), 0);
    let csi = descriptors(&[9, 1, 0, 0, 5, 4, 1, 0, 0, 2]).nth(1).unwrap();
    assert_eq!(csi.csi(), Some(Csi::ZONED));
    assert!(DescriptorList::collect([Descriptor { nidt: Nidt::UUID, nid: &[] }]).iter().next().is_none());
}

#[test]
fn extended_formats() {
    let mut namespace = NvmNamespace::new_zeroed();
    namespace.elbaf[63] = (0x7f | 2 << 7).into();
    assert_eq!(namespace.storage_tag_size(63), Some(0x7f));
    assert_eq!(namespace.protection_format(63), Some(2));
    assert_eq!(namespace.protection_format(64), None);
}

proptest! {
    #[test]
    fn any_bytes_are_structures(head in proptest::collection::vec(any::<u8>(), 512), rest: u8) {
        let mut bytes = [rest; SIZE];
        bytes[..512].copy_from_slice(&head);
        let namespace = Namespace::read_from_bytes(&bytes).unwrap();
        prop_assert!(namespace.format_index() < 64);
        namespace.size_bytes();
        namespace.block_size();
        let controller = Controller::read_from_bytes(&bytes).unwrap();
        let _ = (controller.sn().to_string(), controller.subnqn(), controller.max_transfer(15));
        let list = NamespaceList::read_from_bytes(&bytes).unwrap();
        prop_assert!(list.after(0).is_sorted());
        prop_assert!(descriptors(&bytes).all(|d| !d.nid.is_empty()));
    }

    #[test]
    fn descriptor_round_trip(
        items in proptest::collection::vec((any::<u8>(), proptest::collection::vec(any::<u8>(), 1..=255)), 0..40),
    ) {
        let wanted: Vec<_> = items.iter().map(|(nidt, nid)| Descriptor { nidt: Nidt(*nidt), nid }).collect();
        let list = DescriptorList::collect(wanted.iter().copied());
        let read: Vec<_> = list.iter().collect();
        prop_assert_eq!(&read[..], &wanted[..read.len()]);
        let bytes: usize = wanted.iter().map(|d| 4 + d.nid.len()).sum();
        prop_assert_eq!(read.len() == wanted.len(), bytes <= SIZE);
    }
}
