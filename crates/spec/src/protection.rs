//! End-to-end data protection (NVM 5.3): what the 8 or 16 bytes of protection information of a block hold, what they must hold, and
//! where they stand in its metadata. The checksums themselves are their caller's.

use crate::{command::control, identify};

/// Most bytes of protection information.
pub const MOST_BYTES: usize = 16;
/// The application tag that says, in types 1 and 2, that its block is not to be checked.
pub const UNCHECKED: u16 = 0xffff;

/// The end-to-end protection type of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// The reference tag is the LBA's lower bits.
    One,
    /// The reference tag begins where the command says.
    Two,
    /// The reference tag is the application's.
    Three,
}

/// The protection information format: which checksum guards a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// CRC-16/T10-DIF, with 32 bits for storage and reference tag.
    Crc16,
    /// CRC-32C, with 80 bits.
    Crc32c,
    /// CRC-64/NVME, with 48 bits.
    Crc64,
}

impl Guard {
    /// Its value in the extended LBA format (PIF); none for those that are reserved or qualified.
    pub fn from_format(pif: u8) -> Option<Self> {
        [Self::Crc16, Self::Crc32c, Self::Crc64].into_iter().find(|guard| guard.format() == pif)
    }

    /// The inverse of [`Guard::from_format`].
    pub const fn format(self) -> u8 {
        match self {
            Self::Crc16 => 0,
            Self::Crc32c => 1,
            Self::Crc64 => 2,
        }
    }

    /// Bits of the checksum.
    pub const fn bits(self) -> u32 {
        16 << self.format()
    }

    /// Bytes of protection information.
    pub const fn size(self) -> u16 {
        if matches!(self, Self::Crc16) { 8 } else { 16 }
    }

    /// Bits of storage and reference tag together.
    const fn tag_bits(self) -> u32 {
        self.size() as u32 * 8 - self.bits() - 16
    }
}

/// How the blocks of a namespace are protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// The protection type.
    pub kind: Type,
    /// The checksum.
    pub guard: Guard,
    /// Bits of the storage tag (STS).
    pub storage_bits: u8,
    /// Metadata bytes before the protection information.
    pub offset: u16,
    /// Of these, the bytes that the guard covers after the data: all where the information is last, none where it is first.
    pub covered: u16,
}

/// Why a format cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Impossible {
    /// A protection type above 3.
    Type(u8),
    /// A protection information format that is reserved or qualified.
    Format(u8),
    /// So many bytes of metadata have no room for it.
    Metadata(u16),
    /// So many bits of storage tag are not offered with this guard.
    StorageTag(u8),
}

impl core::fmt::Display for Impossible {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Type(kind) => write!(f, "protection type {kind} is none of 1, 2 and 3"),
            Self::Format(pif) => write!(f, "protection information format {pif} is none of 0, 1 and 2"),
            Self::Metadata(bytes) => write!(f, "{bytes} bytes of metadata have no room for the protection information"),
            Self::StorageTag(bits) => write!(f, "a storage tag of {bits} bits does not go with this guard"),
        }
    }
}

/// The contents of protection information.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Information {
    /// The checksum.
    pub guard: u64,
    /// Application tag.
    pub application: u16,
    /// Storage tag, and behind it the reference tag in the lower bits.
    pub tags: u128,
}

/// A field of protection information.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// The checksum.
    Guard,
    /// Application tag.
    Application,
    /// Storage tag.
    Storage,
    /// Reference tag.
    Reference,
}

impl Field {
    /// Its name in the specification, in lower case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Guard => "guard",
            Self::Application => "application tag",
            Self::Storage => "storage tag",
            Self::Reference => "reference tag",
        }
    }
}

/// A field that is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// Which.
    pub field: Field,
    /// What it should be, where a part of it counts only that part.
    pub expected: u64,
    /// What it is.
    pub actual: u64,
}

/// What is expected of a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// Bits of [`control`]: PRCHK and STC say which fields are looked at.
    pub checks: u16,
    /// Application tag, and which of its bits are looked at.
    pub application: (u16, u16),
    /// Storage and reference tag.
    pub tags: u128,
}

impl Format {
    /// Protection of type `kind` in `metadata` bytes of metadata a block, at their beginning if `first`.
    ///
    /// # Errors
    /// What there is no such thing as.
    pub fn new(kind: u8, guard: Guard, storage_bits: u8, metadata: u16, first: bool) -> Result<Self, Impossible> {
        let kind = match kind {
            1 => Type::One,
            2 => Type::Two,
            3 => Type::Three,
            _ => return Err(Impossible::Type(kind)),
        };
        let offered = match guard {
            Guard::Crc16 => 0..=32,
            Guard::Crc32c => 16..=64,
            Guard::Crc64 => 0..=48,
        };
        if !offered.contains(&storage_bits) {
            return Err(Impossible::StorageTag(storage_bits));
        }
        let before = metadata.checked_sub(guard.size()).ok_or(Impossible::Metadata(metadata))?;
        let offset = if first { 0 } else { before };
        Ok(Self { kind, guard, storage_bits, offset, covered: offset })
    }

    /// The format in use of a namespace, of which `extended` says more where the controller has extended LBA formats; none where it
    /// is not protected.
    ///
    /// # Errors
    /// What it claims that cannot be.
    pub fn of(
        namespace: &identify::Namespace,
        extended: Option<&identify::NvmNamespace>,
    ) -> Result<Option<Self>, Impossible> {
        if namespace.protection_type() == 0 || namespace.metadata_size() == 0 {
            return Ok(None);
        }
        let index = namespace.format_index();
        let of = |read: fn(&identify::NvmNamespace, usize) -> Option<u8>| extended.and_then(|more| read(more, index));
        let pif = of(identify::NvmNamespace::protection_format).unwrap_or(0);
        let guard = Guard::from_format(pif).ok_or(Impossible::Format(pif))?;
        let storage_bits = of(identify::NvmNamespace::storage_tag_size).unwrap_or(0);
        let first = namespace.dps & identify::dps::FIRST != 0;
        Self::new(namespace.protection_type(), guard, storage_bits, namespace.metadata_size(), first).map(Some)
    }

    /// Which bits of the tags are the reference tag.
    pub const fn reference_mask(&self) -> u128 {
        (1 << (self.guard.tag_bits() - self.storage_bits as u32)) - 1
    }

    /// Which bits of a reference tag follow the LBA: none in type 3.
    pub const fn lba_mask(&self) -> u64 {
        if matches!(self.kind, Type::Three) { 0 } else { self.reference_mask() as u64 }
    }

    /// The tags of the block after one with these.
    pub const fn next(&self, tags: u128) -> u128 {
        match self.kind {
            Type::Three => tags,
            _ => tags & !self.reference_mask() | tags.wrapping_add(1) & self.reference_mask(),
        }
    }

    /// Reads protection information from its bytes, of which the first [`Guard::size`] count.
    #[inline]
    pub const fn decode(&self, bytes: &[u8; MOST_BYTES]) -> Information {
        let all = u128::from_be_bytes(*bytes);
        let all = if self.guard.size() == 8 { all >> 64 } else { all };
        let tags = self.guard.tag_bits();
        Information {
            guard: (all >> (tags + 16)) as u64,
            application: (all >> tags) as u16,
            tags: all & ((1 << tags) - 1),
        }
    }

    /// The bytes of protection information, of which the first [`Guard::size`] count.
    #[inline]
    pub const fn encode(&self, information: Information) -> [u8; MOST_BYTES] {
        let Information { guard, application, tags } = information;
        let bits = self.guard.tag_bits();
        let all = (guard as u128) << (bits + 16) | (application as u128) << bits | tags & ((1 << bits) - 1);
        (if self.guard.size() == 8 { all << 64 } else { all }).to_be_bytes()
    }

    /// Whether tags say that their block is not to be checked.
    #[inline]
    pub const fn is_unchecked(&self, found: &Information) -> bool {
        let all = self.reference_mask();
        found.application == UNCHECKED && (!matches!(self.kind, Type::Three) || found.tags & all == all)
    }

    /// Holds what was found against what is expected; `guard` makes the checksum, if it is needed.
    ///
    /// # Errors
    /// The first field that is wrong.
    #[inline]
    pub fn check(&self, found: &Information, expected: &Expected, guard: impl FnOnce() -> u64) -> Result<(), Mismatch> {
        if self.is_unchecked(found) {
            return Ok(());
        }
        let same = |field, expected: u64, actual: u64| {
            if expected == actual { Ok(()) } else { Err(Mismatch { field, expected, actual }) }
        };
        if expected.checks & control::PRCHK_GUARD != 0 {
            same(Field::Guard, guard(), found.guard)?;
        }
        if expected.checks & control::PRCHK_APP != 0 {
            let (tag, mask) = expected.application;
            same(Field::Application, (tag & mask).into(), (found.application & mask).into())?;
        }
        let mask = self.reference_mask();
        if expected.checks & control::STC != 0 && self.storage_bits > 0 {
            let storage = |tags: u128| (tags >> mask.count_ones()) as u64;
            same(Field::Storage, storage(expected.tags), storage(found.tags))?;
        }
        if expected.checks & control::PRCHK_REF != 0 && self.kind != Type::Three {
            same(Field::Reference, (expected.tags & mask) as u64, (found.tags & mask) as u64)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zerocopy::FromZeros;

    use super::*;

    fn format(kind: u8, guard: Guard, storage_bits: u8) -> Format {
        Format::new(kind, guard, storage_bits, 64, false).unwrap()
    }

    #[test]
    fn fields_stand_where_the_specification_has_them() {
        let bytes = |format: Format, guard, tags| format.encode(Information { guard, application: 0x0a0b, tags });
        let is = bytes(format(1, Guard::Crc16, 0), 0x1122, 0x3344_5566);
        assert_eq!(is[..8], [0x11, 0x22, 0x0a, 0x0b, 0x33, 0x44, 0x55, 0x66]);
        let is = bytes(format(1, Guard::Crc32c, 16), 0x1122_3344, 0x99aa_0000_0000_1234_5678);
        assert_eq!(is, [0x11, 0x22, 0x33, 0x44, 0x0a, 0x0b, 0x99, 0xaa, 0, 0, 0, 0, 0x12, 0x34, 0x56, 0x78]);
        let is = bytes(format(1, Guard::Crc64, 0), 0x1122_3344_5566_7788, 0x9a00_0000_0001);
        assert_eq!(is, [0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x0a, 0x0b, 0x9a, 0, 0, 0, 0, 1]);
    }

    #[test]
    fn what_a_namespace_says_makes_its_format_or_is_refused() {
        let mut namespace = identify::Namespace::new_zeroed();
        namespace.lbaf[0] = identify::LbaFormat { ms: 64.into(), lbads: 12, rp: 0 };
        assert_eq!(Format::of(&namespace, None), Ok(None));
        namespace.dps = 2;
        let last = Format::of(&namespace, None).unwrap().unwrap();
        assert_eq!((last.kind, last.guard, last.offset, last.covered), (Type::Two, Guard::Crc16, 56, 56));
        namespace.dps = 3 | identify::dps::FIRST;
        let mut more = identify::NvmNamespace::new_zeroed();
        more.elbaf[0] = (2 << 7 | 12).into();
        let first = Format::of(&namespace, Some(&more)).unwrap().unwrap();
        assert_eq!((first.kind, first.guard, first.storage_bits), (Type::Three, Guard::Crc64, 12));
        assert_eq!((first.offset, first.covered, first.reference_mask()), (0, 0, (1 << 36) - 1));
        more.elbaf[0] = (3 << 7).into();
        assert_eq!(Format::of(&namespace, Some(&more)), Err(Impossible::Format(3)));
        for (kind, guard, bits, metadata, why) in [
            (4, Guard::Crc16, 0, 8, Impossible::Type(4)),
            (1, Guard::Crc16, 0, 7, Impossible::Metadata(7)),
            (1, Guard::Crc64, 0, 8, Impossible::Metadata(8)),
            (1, Guard::Crc16, 33, 8, Impossible::StorageTag(33)),
            (1, Guard::Crc32c, 0, 16, Impossible::StorageTag(0)),
        ] {
            assert_eq!(Format::new(kind, guard, bits, metadata, false), Err(why), "{why}");
        }
    }

    #[test]
    fn each_field_is_looked_at_only_when_that_is_asked_for() {
        let format = format(1, Guard::Crc64, 8);
        let right = Information { guard: 5, application: 0x1234, tags: 0xab << 40 | 7 };
        let expected = |checks| Expected { checks, application: (0xff34, 0x00ff), tags: 0xab << 40 | 7 };
        let all = control::PRCHK_GUARD | control::PRCHK_APP | control::PRCHK_REF | control::STC;
        assert_eq!(format.check(&right, &expected(all), || 5), Ok(()));
        for (bit, field, wrong, values) in [
            (control::PRCHK_GUARD, Field::Guard, Information { guard: 6, ..right }, (5, 6)),
            (control::PRCHK_APP, Field::Application, Information { application: 0x1235, ..right }, (0x34, 0x35)),
            (control::PRCHK_REF, Field::Reference, Information { tags: right.tags + 1, ..right }, (7, 8)),
            // 40 bits of reference tag: the storage tag begins above them.
            (control::STC, Field::Storage, Information { tags: right.tags ^ 1 << 40, ..right }, (0xab, 0xaa)),
        ] {
            let without = format.check(&wrong, &expected(all & !bit), || 5);
            let with = format.check(&wrong, &expected(bit), || 5);
            assert_eq!(without, Ok(()), "{field:?}");
            assert_eq!(with, Err(Mismatch { field, expected: values.0, actual: values.1 }));
        }
    }

    #[test]
    fn an_application_tag_of_ones_ends_all_checks() {
        let expected = Expected { checks: control::PRCHK_GUARD, ..Expected::default() };
        let found = Information { guard: 1, application: UNCHECKED, tags: 0 };
        for kind in [1, 2] {
            assert_eq!(format(kind, Guard::Crc16, 0).check(&found, &expected, || panic!("no need")), Ok(()));
        }
        let three = format(3, Guard::Crc16, 16);
        assert!(three.check(&found, &expected, || 2).is_err(), "type 3 wants the reference tag to be ones as well");
        assert_eq!(three.check(&Information { tags: 0xffff, ..found }, &expected, || 2), Ok(()));
    }

    fn any_format() -> impl Strategy<Value = Format> {
        let guards = prop::sample::select(std::vec![Guard::Crc16, Guard::Crc32c, Guard::Crc64]);
        (1u8..4, guards, 16u8..33).prop_map(|(kind, guard, bits)| format(kind, guard, bits))
    }

    proptest! {
        #[test]
        fn information_is_what_its_bytes_say(format in any_format(), bytes: [u8; MOST_BYTES]) {
            let again = format.encode(format.decode(&bytes));
            let size = usize::from(format.guard.size());
            prop_assert_eq!(&again[..size], &bytes[..size]);
            prop_assert!(again[size..].iter().all(|&byte| byte == 0));
        }

        #[test]
        fn reference_tags_count_and_leave_the_storage_tag_alone(format in any_format(), tags: u128, steps in 0u32..70_000) {
            let tags = tags & ((1 << format.guard.tag_bits()) - 1);
            let mask = format.reference_mask();
            let last = (0..steps).fold(tags, |tags, _| format.next(tags));
            prop_assert_eq!(last & !mask, tags & !mask);
            let counted = if format.kind == Type::Three { tags } else { tags + u128::from(steps) };
            prop_assert_eq!(last & mask, counted & mask);
        }
    }
}
