//! SMART / Health Information (Base 5.1.12.1.3, LID 02h).

use zerocopy::little_endian::{U16, U32, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// SMART / Health Information log page, 512 bytes. Temperatures are in kelvins.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct Smart {
    /// Bits of [`critical_warning`].
    pub cw: u8,
    /// Composite temperature.
    pub ctemp: U16,
    /// Available spare, in percent.
    pub avsp: u8,
    /// Available spare threshold, in percent.
    pub avspt: u8,
    /// Percentage used of the device's life; may exceed 100, 255 is 255 or more.
    pub pused: u8,
    /// Endurance group critical warning summary.
    pub egcws: u8,
    /// Reserved.
    pub reserved7: [u8; 25],
    /// Data units read, in thousands of 512 bytes, rounded up.
    pub dur: U128,
    /// Data units written, in thousands of 512 bytes, rounded up.
    pub duw: U128,
    /// Host read commands.
    pub hrc: U128,
    /// Host write commands.
    pub hwc: U128,
    /// Controller busy time, in minutes.
    pub cbt: U128,
    /// Power cycles.
    pub pwrc: U128,
    /// Power on hours.
    pub poh: U128,
    /// Unexpected power losses (unsafe shutdowns).
    pub upl: U128,
    /// Media and data integrity errors.
    pub mdie: U128,
    /// Number of error information log entries over the controller's life.
    pub neile: U128,
    /// Warning composite temperature time, in minutes.
    pub wctt: U32,
    /// Critical composite temperature time, in minutes.
    pub cctt: U32,
    /// Temperature sensors 1 to 8; 0 for one that is not there.
    pub ts: [U16; 8],
    /// Thermal management temperature 1 transition count.
    pub tmttc1: U32,
    /// Thermal management temperature 2 transition count.
    pub tmttc2: U32,
    /// Total time for thermal management temperature 1, in seconds.
    pub ttmt1: U32,
    /// Total time for thermal management temperature 2, in seconds.
    pub ttmt2: U32,
    /// Reserved.
    pub reserved232: [u8; 280],
}

layout!(Smart, 512, cw @ 0, ctemp @ 1, avsp @ 3, avspt @ 4, pused @ 5, egcws @ 6, dur @ 32,
    duw @ 48, hrc @ 64, hwc @ 80, cbt @ 96, pwrc @ 112, poh @ 128, upl @ 144, mdie @ 160,
    neile @ 176, wctt @ 192, cctt @ 196, ts @ 200, tmttc1 @ 216, tmttc2 @ 220, ttmt1 @ 224,
    ttmt2 @ 228, reserved232 @ 232);

impl Smart {
    /// The composite temperature in degrees Celsius; none when it is not reported.
    pub fn celsius(&self) -> Option<i32> {
        let kelvins = i32::from(self.ctemp.get());
        (kelvins != 0).then(|| kelvins - 273)
    }
}

/// Bits of the critical warning field.
pub mod critical_warning {
    /// The names of the bits that are set.
    pub fn names(bits: u8) -> impl Iterator<Item = &'static str> {
        let names = [
            "available spare",
            "temperature",
            "reliability",
            "read only",
            "volatile memory backup",
            "persistent memory",
        ];
        names.into_iter().enumerate().filter(move |(bit, _)| bits & 1 << bit != 0).map(|(_, name)| name)
    }

    /// The available spare is below its threshold.
    pub const SPARE: u8 = 0x01;
    /// A temperature is beyond a threshold.
    pub const TEMPERATURE: u8 = 0x02;
    /// The NVM subsystem's reliability is degraded.
    pub const RELIABILITY: u8 = 0x04;
    /// All media are read only.
    pub const READ_ONLY: u8 = 0x08;
    /// The volatile memory backup has failed.
    pub const VOLATILE_BACKUP: u8 = 0x10;
    /// The persistent memory region is read only or unreliable.
    pub const PERSISTENT_MEMORY: u8 = 0x20;
}
