//! Lists that Identify returns: namespace identifiers (Base 5.1.13.2.2, CNS 02h, 07h, 10h) and
//! the descriptors of one namespace (Base 5.1.13.2.3, CNS 03h).

use super::{Csi, SIZE};
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A list of at most 1024 namespace identifiers in ascending order, 0 after the last.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct NamespaceList {
    /// The identifiers.
    pub ids: [U32; Self::CAPACITY],
}

layout!(NamespaceList, 4096);

impl NamespaceList {
    /// Identifiers in one list.
    pub const CAPACITY: usize = 1024;

    /// A list of the first 1024 identifiers greater than `nsid` of ascending ones.
    pub fn collect(nsid: u32, ids: impl IntoIterator<Item = u32>) -> Self {
        let mut list = Self::new_zeroed();
        let greater = ids.into_iter().filter(|&id| id > nsid);
        for (slot, id) in list.ids.iter_mut().zip(greater) {
            *slot = U32::new(id);
        }
        list
    }

    /// The identifiers of the list that was asked for with `nsid`. It ends at the first 0 and
    /// at the first that is not greater than the one before (and than `nsid`), so that a host
    /// that asks on from the last one always comes to an end.
    pub fn after(&self, nsid: u32) -> impl Iterator<Item = u32> + '_ {
        self.ids.iter().map(|id| id.get()).scan(nsid, |last, id| {
            let ascends = id > *last;
            *last = id;
            ascends.then_some(id)
        })
    }
}

open_code! {
    /// Namespace identifier type of a descriptor (Base 5.1.13.2.3).
    Nidt(u8) {
        EUI64 = 1, "IEEE Extended Unique Identifier";
        NGUID = 2, "Namespace Globally Unique Identifier";
        UUID = 3, "Namespace UUID";
        CSI = 4, "Command Set Identifier";
    }
}

/// One namespace identification descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor<'a> {
    /// Which identifier.
    pub nidt: Nidt,
    /// The identifier: 8 bytes of EUI64, 16 of NGUID or UUID, 1 of CSI, if the peer does not
    /// lie.
    pub nid: &'a [u8],
}

impl Descriptor<'_> {
    /// The I/O command set, if this descriptor says it.
    pub fn csi(&self) -> Option<Csi> {
        match (self.nidt, self.nid) {
            (Nidt::CSI, &[csi]) => Some(Csi(csi)),
            _ => None,
        }
    }
}

/// Walks the bytes of a descriptor list; ends at the first descriptor without length or that
/// does not fit.
pub fn descriptors(bytes: &[u8]) -> Descriptors<'_> {
    Descriptors { rest: bytes }
}

/// The descriptors of a list. Made by [`descriptors`].
#[derive(Clone, Debug)]
pub struct Descriptors<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Descriptors<'a> {
    type Item = Descriptor<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let (&[nidt, nidl, _, _], rest) = self.rest.split_first_chunk()?;
        if nidl == 0 {
            return None;
        }
        let (nid, rest) = rest.split_at_checked(usize::from(nidl))?;
        self.rest = rest;
        Some(Descriptor { nidt: Nidt(nidt), nid })
    }
}

/// A descriptor list as a target returns it, 4096 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct DescriptorList {
    /// The descriptors one after another, then zeroes.
    pub bytes: [u8; SIZE],
}

layout!(DescriptorList, 4096);

impl DescriptorList {
    /// A list of descriptors; ends before the first that does not fit or has no or more than
    /// 255 bytes.
    pub fn collect<'a>(items: impl IntoIterator<Item = Descriptor<'a>>) -> Self {
        let mut list = Self::new_zeroed();
        let mut rest = &mut list.bytes[..];
        for Descriptor { nidt, nid } in items {
            let Some((header, after)) = rest.split_first_chunk_mut::<4>() else {
                break;
            };
            let (Ok(nidl @ 1..), Some((field, after))) =
                (u8::try_from(nid.len()), after.split_at_mut_checked(nid.len()))
            else {
                break;
            };
            *header = [nidt.0, nidl, 0, 0];
            field.copy_from_slice(nid);
            rest = after;
        }
        list
    }

    /// The descriptors.
    pub fn iter(&self) -> Descriptors<'_> {
        descriptors(&self.bytes)
    }
}
