//! What a controller says of itself: identify structures, log pages, the discovery log. Nothing in them may be believed.

use std::fmt::Write;

use doorbell_host::{Found, Namespace, TransportId, found, split::Split};
use doorbell_inspect::Ends;
use doorbell_spec::{
    identify::{self, DescriptorList, NamespaceList, NvmNamespace, descriptors},
    log::{
        ChangedNamespaces, CommandEffects, DiscoveryEntry, DiscoveryHeader, ErrorEntry, FirmwareSlots, Lid, Smart,
        SupportedLogPages, ana_groups,
    },
};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// A structure that begins with these bytes and goes on with zeroes.
fn padded<T: FromZeros + IntoBytes + FromBytes>(data: &[u8]) -> T {
    let mut value = T::new_zeroed();
    let bytes = value.as_mut_bytes();
    let given = data.len().min(bytes.len());
    bytes[..given].copy_from_slice(&data[..given]);
    value
}

/// A text of the device as it is shown: nothing that a terminal would act on.
fn shown(text: impl std::fmt::Display) {
    let text = text.to_string();
    assert!(text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()), "{text:?}");
}

/// An identify structure: which one, and its bytes.
pub fn identify(data: &[u8]) {
    let Some((&which, data)) = data.split_first() else { return };
    match which % 5 {
        0 => controller(&padded(data)),
        1 => namespace(&padded(data)),
        2 => namespace_list(&padded(data)),
        3 => descriptor_list(data),
        _ => {
            let nvm: NvmNamespace = padded(data);
            for format in 0..=64 {
                assert_eq!(nvm.storage_tag_size(format).is_some(), format < 64);
                assert!(nvm.protection_format(format).is_none_or(|format| format < 4));
            }
        }
    }
}

fn controller(data: &identify::Controller) {
    [data.sn(), data.mn(), data.fr()].into_iter().for_each(shown);
    if let Ok(name) = data.subnqn() {
        assert!(!name.is_empty() && !name.chars().any(char::is_control), "{name:?}");
    }
    shown(data.ver());
    shown(data.cntrltype().name());
    for mpsmin in 0..16 {
        assert!(data.max_transfer(mpsmin).is_none_or(|most| most >= 4096 << mpsmin));
    }
    let _ = data.in_capsule_data_size();
}

/// A namespace is refused, or can be read and written: a block fits a command, its size fits 64 bits, and an I/O on it can be cut.
fn namespace(data: &identify::Namespace) {
    assert!(data.format_index() < 64);
    let _ = (data.block_size(), data.size_bytes(), data.protection_type());
    for max_transfer in [4096, 128 << 10, 1 << 30] {
        let Ok(namespace) = Namespace::new(1, "a controller", data, max_transfer) else { continue };
        let block = namespace.stored_block_size();
        assert!(namespace.block_size.is_power_of_two() && (namespace.block_size..=max_transfer).contains(&block));
        assert!(namespace.size() <= i64::MAX as u64);
        let blocks = (block * 3 / block).max(1);
        let split = Split::new(block, max_transfer, namespace.stripe_blocks, blocks * block);
        let pieces: Vec<_> = split.pieces(7, blocks).collect();
        assert!(pieces.len() <= split.most_pieces());
        assert_eq!(pieces.iter().map(|piece| piece.blocks).sum::<u32>(), blocks);
        assert!(pieces.iter().all(|piece| piece.blocks > 0 && piece.blocks * block <= max_transfer));
    }
}

/// However a list lies, a host that asks on from its last identifier comes to an end.
fn namespace_list(list: &NamespaceList) {
    for after in [0, 1, u32::MAX - 1, u32::MAX] {
        let mut last = after;
        for nsid in list.after(after) {
            assert!(nsid > last);
            last = nsid;
        }
    }
    let ids: Vec<u32> = list.after(0).collect();
    assert!(NamespaceList::collect(0, ids.iter().copied()).after(0).eq(ids.iter().copied()));
}

/// What is read of a list can be listed again.
fn descriptor_list(data: &[u8]) {
    let data = &data[..data.len().min(identify::SIZE)];
    let found: Vec<_> = descriptors(data).collect();
    let bytes: usize = found.iter().map(|each| 4 + each.nid.len()).sum();
    assert!(bytes <= data.len() && found.iter().all(|each| !each.nid.is_empty()));
    let _ = found.iter().filter_map(identify::Descriptor::csi).count();
    assert!(DescriptorList::collect(found.iter().copied()).iter().eq(found));
}

/// A log page: which one, and its bytes.
pub fn log_pages(data: &[u8]) {
    let Some((&which, data)) = data.split_first() else { return };
    match which % 7 {
        0 | 1 => ana(data),
        2 => {
            let list: ChangedNamespaces = padded(data);
            assert!(list.iter().all(|nsid| nsid != 0) && (!list.overflowed() || list.iter().next().is_none()));
        }
        3 => {
            let effects: CommandEffects = padded(data);
            for opcode in 0..=255 {
                let _ = (effects.admin(doorbell_spec::command::AdminOpcode(opcode)), effects.acs[usize::from(opcode)]);
            }
        }
        4 => {
            let slots: FirmwareSlots = padded(data);
            (0..=8).filter_map(|slot| slots.revision(slot)).for_each(shown);
            assert!(slots.active() < 8);
        }
        5 => {
            let entry: ErrorEntry = padded(data);
            shown(entry.status());
            let smart: Smart = padded(data);
            assert!(smart.celsius().is_none_or(|degrees| (-273..=0xffff).contains(&degrees)));
        }
        _ => {
            let pages: SupportedLogPages = padded(data);
            assert_eq!((0..=255).filter(|&lid| pages.supports(Lid(lid))).count(), listed(&pages));
        }
    }
}

fn listed(pages: &SupportedLogPages) -> usize {
    pages.lids.iter().filter(|lid| lid.get() & 1 != 0).count()
}

/// Groups and their namespaces lie in the page, and there are no more than it says.
fn ana(data: &[u8]) {
    let Some((header, groups)) = ana_groups(data) else {
        assert!(data.len() < 16);
        return;
    };
    let (mut count, mut bytes) = (0, 16);
    for group in groups {
        count += 1;
        bytes += 32 + 4 * group.nsids.len();
        assert_eq!(group.nsids.len(), group.descriptor.nnsids.get() as usize);
        assert!(group.descriptor.state().0 < 16);
    }
    assert!(count <= header.ngrps.get() && bytes <= data.len());
}

/// A discovery log: its header, and an entry whose subsystem, if it is one, can be asked for.
pub fn discovery_log(data: &[u8]) {
    let origin = TransportId { traddr: "10.0.0.1".into(), ..TransportId::default() };
    let header: DiscoveryHeader = padded(data);
    let _ = (header.numrec.get(), header.recfmt.get());
    let entry: DiscoveryEntry = padded(data);
    [entry.trsvcid(), entry.traddr()].into_iter().for_each(shown);
    match found(&entry, &origin) {
        Found::Subsystem(id) => {
            let mut text = String::new();
            write!(text, "{id}").expect("a text");
            assert!(!text.chars().any(char::is_control), "{text:?}");
            assert!(!id.subnqn.is_empty());
        }
        Found::Itself => {}
        Found::Other(why) => assert!(!why.is_empty() && !why.chars().any(char::is_control), "{why:?}"),
    }
}

/// Bytes of each end that patches can reach.
const EDGE: usize = 320 << 10;

/// The ends of a device: a byte that says how its size relates to them, then patches, each a place (three bytes, the highest bit for
/// the second end), a length and so many bytes.
pub fn signatures(data: &[u8]) {
    let Some((&claim, mut rest)) = data.split_first() else { return };
    let mut ends = Ends { head: vec![0; EDGE], tail: vec![0; EDGE], size: 2 * EDGE as u64 };
    while let [low, middle, high, len, after @ ..] = rest {
        let (patch, after) = after.split_at(usize::from(*len).min(after.len()));
        let at = u32::from_le_bytes([*low, *middle, high & 0x7f, 0]) as usize;
        let side = if high & 0x80 == 0 { &mut ends.head } else { &mut ends.tail };
        if let Some(place) = side.get_mut(at..at + patch.len()) {
            place.copy_from_slice(patch);
        }
        rest = after;
    }
    match claim % 4 {
        0 => {}
        1 => ends.size = u64::from(claim),
        2 => ends.size = u64::MAX - u64::from(claim),
        _ => ends.tail.truncate(usize::from(claim)),
    }
    let _ = doorbell_inspect::format(&ends);
    let found = doorbell_inspect::signatures(&ends);
    assert!(found.iter().enumerate().all(|(at, what)| !found[..at].contains(what)), "{found:?}");
}
