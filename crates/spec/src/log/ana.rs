//! Asymmetric Namespace Access (Base 5.1.12.1.13, LID 0Ch): the groups, their states and their
//! namespaces.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

open_code! {
    /// State of an ANA group (Base 8.1.1).
    AnaState(u8) {
        OPTIMIZED = 0x1, "ANA Optimized";
        NON_OPTIMIZED = 0x2, "ANA Non-Optimized";
        INACCESSIBLE = 0x3, "ANA Inaccessible";
        PERSISTENT_LOSS = 0x4, "ANA Persistent Loss";
        CHANGE = 0xf, "ANA Change";
    }
}

impl AnaState {
    /// Whether the specification lets a controller refuse every I/O in this state.
    pub fn refuses_io(self) -> bool {
        matches!(self, Self::INACCESSIBLE | Self::PERSISTENT_LOSS | Self::CHANGE)
    }
}

/// Header of the ANA log page, 16 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct AnaHeader {
    /// Change count; differs when the log page changed between two reads.
    pub chgcnt: U64,
    /// Number of group descriptors that follow.
    pub ngrps: U16,
    /// Reserved.
    pub reserved10: [u8; 6],
}

layout!(AnaHeader, 16, chgcnt @ 0, ngrps @ 8);

/// Descriptor of an ANA group, 32 bytes, before its namespace identifiers.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct AnaGroupDescriptor {
    /// ANA group identifier.
    pub agid: U32,
    /// Number of namespace identifiers that follow.
    pub nnsids: U32,
    /// Change count of the group.
    pub chgcnt: U64,
    /// State in bits 3:0; see [`AnaGroupDescriptor::state`].
    pub anas: u8,
    /// Reserved.
    pub reserved17: [u8; 15],
}

layout!(AnaGroupDescriptor, 32, agid @ 0, nnsids @ 4, chgcnt @ 8, anas @ 16);

impl AnaGroupDescriptor {
    /// The state of the group.
    pub fn state(&self) -> AnaState {
        AnaState(self.anas & 0x0f)
    }
}

/// An ANA group with its namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnaGroup<'a> {
    /// The descriptor.
    pub descriptor: &'a AnaGroupDescriptor,
    /// The namespace identifiers, as many as the descriptor says.
    pub nsids: &'a [U32],
}

/// Walks an ANA log page, header first: none when the header does not fit, else its groups, at
/// most as many as the header says, ending at the first that does not fit.
pub fn ana_groups(bytes: &[u8]) -> Option<(&AnaHeader, AnaGroups<'_>)> {
    let (header, rest) = AnaHeader::ref_from_prefix(bytes).ok()?;
    let groups = AnaGroups { left: header.ngrps.get(), rest };
    Some((header, groups))
}

/// The groups of an ANA log page. Made by [`ana_groups`].
#[derive(Clone, Debug)]
pub struct AnaGroups<'a> {
    left: u16,
    rest: &'a [u8],
}

impl<'a> Iterator for AnaGroups<'a> {
    type Item = AnaGroup<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let (descriptor, rest) = AnaGroupDescriptor::ref_from_prefix(self.rest).ok()?;
        let count = usize::try_from(descriptor.nnsids.get()).ok()?;
        let (nsids, rest) = <[U32]>::ref_from_prefix_with_elems(rest, count).ok()?;
        self.rest = rest;
        Some(AnaGroup { descriptor, nsids })
    }
}
