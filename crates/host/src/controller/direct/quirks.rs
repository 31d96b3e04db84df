//! What some devices need beside the specification, by PCI vendor and device identifier. What the host does not use (vendor log
//! pages, metadata in MDTS) is not listed; queues of 64 entries for the admin commands suit the device that wants multiples of 64.

use std::time::Duration;

/// What a device needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Quirks {
    /// To be left alone before its registers are touched for the first time.
    pub rest_before_start: Duration,
    /// To be left alone after it was disabled.
    pub rest_after_disable: Duration,
    /// To be left alone after a queue was created.
    pub rest_after_create: Duration,
    /// Its stripe is in the vendor's part of Identify Controller (byte 3, a power of two of memory pages).
    pub stripe: bool,
    /// Its SGLs are not to be used.
    pub no_sgl: bool,
    /// One of its interrupt vectors serves no I/O queue.
    pub spare_vector: bool,
}

const NONE: Quirks = Quirks {
    rest_before_start: Duration::ZERO,
    rest_after_disable: Duration::ZERO,
    rest_after_create: Duration::ZERO,
    stripe: false,
    no_sgl: false,
    spare_vector: false,
};
/// Intel DC P3x00.
const P3X00: Quirks = Quirks { rest_before_start: Duration::from_secs(2), stripe: true, ..NONE };
const STRIPED: Quirks = Quirks { stripe: true, ..NONE };
const SLOW_TO_DISABLE: Quirks = Quirks { rest_after_disable: Duration::from_millis(2500), ..NONE };

/// The first row that fits counts; without a device all of the vendor's are meant.
const TABLE: &[(u16, Option<u16>, Quirks)] = &[
    (0x8086, Some(0x0953), P3X00),
    (0x8086, Some(0x0a53), P3X00),
    (0x8086, Some(0x0a54), P3X00),
    (0x8086, Some(0x0a55), STRIPED),
    (0x8086, Some(0x0b60), STRIPED),
    // Memblaze Pblaze4, Samsung PM1725.
    (0x1c5f, Some(0x0540), SLOW_TO_DISABLE),
    (0x144d, Some(0xa821), SLOW_TO_DISABLE),
    (0x144d, Some(0xa822), SLOW_TO_DISABLE),
    (0x144d, Some(0xa826), SLOW_TO_DISABLE),
    // VirtualBox.
    (0x80ee, Some(0x4e56), Quirks { rest_after_create: Duration::from_micros(100), ..NONE }),
    // Huawei, Micron.
    (0x19e5, None, Quirks { no_sgl: true, ..NONE }),
    (0x1344, None, Quirks { spare_vector: true, ..NONE }),
];

impl Quirks {
    /// Those of the device with these identifiers.
    pub fn of((vendor, device): (u16, u16)) -> Self {
        let fits = |row: &&(u16, Option<u16>, Self)| row.0 == vendor && row.1.is_none_or(|only| only == device);
        TABLE.iter().find(fits).map_or(NONE, |row| row.2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_known_by_both_numbers_or_by_its_vendor() {
        assert_eq!(Quirks::of((0x8086, 0x0953)), P3X00);
        assert_eq!(Quirks::of((0x8086, 0x5845)), NONE);
        assert_eq!(Quirks::of((0x144d, 0xa822)).rest_after_disable, Duration::from_millis(2500));
        assert!(Quirks::of((0x19e5, 0x1234)).no_sgl && Quirks::of((0x1344, 1)).spare_vector);
    }
}
