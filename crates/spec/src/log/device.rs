//! What a device tells of its own course: self-tests, telemetry, endurance groups, persistent events, sanitizing (Base 5.1.12.1.7 to
//! 5.1.12.1.14 and 5.1.12.1.33).

use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Device Self-test log page (LID 06h), 564 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct SelfTests {
    /// What goes on in bits 3:0: 0 nothing, 1 a short test, 2 an extended one.
    pub current: u8,
    /// How much of it is done, in percent.
    pub completion: u8,
    /// Reserved.
    pub reserved2: [u8; 2],
    /// Results, newest first.
    pub results: [SelfTest; 20],
}

/// Result of a self-test, 28 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct SelfTest {
    /// Result in bits 3:0 (0 passed, Fh no entry), the kind of test in bits 7:4.
    pub status: u8,
    /// Segment that failed.
    pub segment: u8,
    /// Which of the fields below are valid.
    pub valid: u8,
    /// Reserved.
    pub reserved3: u8,
    /// Power on hours when it ended.
    pub poh: U64,
    /// Namespace in error.
    pub nsid: U32,
    /// First LBA in error.
    pub lba: U64,
    /// Status code type and status code of the error.
    pub code: [u8; 2],
    /// Vendor specific.
    pub vendor: [u8; 2],
}

layout!(SelfTests, 564, current @ 0, completion @ 1, results @ 4);
layout!(SelfTest, 28, status @ 0, segment @ 1, poh @ 4, nsid @ 12, lba @ 16, code @ 24);

/// Header of the Telemetry log pages (LID 07h and 08h), 512 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct TelemetryHeader {
    /// The log page's identifier.
    pub lid: u8,
    /// Reserved.
    pub reserved1: [u8; 4],
    /// IEEE OUI of the organisation that can read it.
    pub ieee: [u8; 3],
    /// Last blocks of 512 bytes of data areas 1 to 3; 0 for an area that is not there.
    pub last_blocks: [U16; 3],
    /// Reserved.
    pub reserved14: [u8; 2],
    /// Last block of data area 4.
    pub last_block4: U32,
    /// Reserved.
    pub reserved20: [u8; 362],
    /// Whether there is data that the controller gathered of its own.
    pub controller_data: u8,
    /// Counts up with each time that it did.
    pub generation: u8,
    /// Why it did, for its vendor.
    pub reason: [u8; 128],
}

layout!(TelemetryHeader, 512, ieee @ 5, last_blocks @ 8, last_block4 @ 16, controller_data @ 382, generation @ 383,
    reason @ 384);

/// Endurance Group Information log page (LID 09h), 512 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct EnduranceGroup {
    /// Critical warnings.
    pub cw: u8,
    /// Features, then reserved.
    pub features: [u8; 2],
    /// Available spare, in percent.
    pub avsp: u8,
    /// Its threshold.
    pub avspt: u8,
    /// Percentage used of the group's life; 255 is 255 or more.
    pub pused: u8,
    /// Domain.
    pub did: U16,
    /// Reserved.
    pub reserved8: [u8; 24],
    /// Endurance estimate, in billions of bytes.
    pub estimate: U128,
    /// Data units read, in billions of bytes.
    pub dur: U128,
    /// Data units written, in billions of bytes.
    pub duw: U128,
    /// Media units written, in billions of bytes.
    pub muw: U128,
    /// Host read commands.
    pub hrc: U128,
    /// Host write commands.
    pub hwc: U128,
    /// Media and data integrity errors.
    pub mdie: U128,
    /// Error information log entries.
    pub neile: U128,
    /// Capacity in bytes.
    pub capacity: U128,
    /// Capacity that is not allocated.
    pub unallocated: U128,
    /// Reserved.
    pub reserved192: [u8; 320],
}

layout!(EnduranceGroup, 512, cw @ 0, avsp @ 3, pused @ 5, estimate @ 32, dur @ 48, muw @ 80, hrc @ 96, mdie @ 128,
    neile @ 144, capacity @ 160, unallocated @ 176);

/// Header of the Persistent Event log (LID 0Dh), 512 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct PersistentEventHeader {
    /// The log page's identifier.
    pub lid: u8,
    /// Reserved.
    pub reserved1: [u8; 3],
    /// Events in the log.
    pub events: U32,
    /// Bytes of the log.
    pub bytes: U64,
    /// Revision of the log.
    pub revision: u8,
    /// Reserved.
    pub reserved17: u8,
    /// Bytes of the header that are in use, less 2.
    pub header: U16,
    /// When the header was made, in milliseconds.
    pub timestamp: U64,
    /// Power on hours.
    pub poh: U128,
    /// Power cycles.
    pub power_cycles: U64,
    /// PCI vendor and subsystem vendor identifiers, serial number, model, NQN, and what came with later revisions.
    pub rest: [u8; 428],
    /// Kinds of events that are kept, a bit each.
    pub kinds: [u8; 32],
}

layout!(PersistentEventHeader, 512, events @ 4, bytes @ 8, revision @ 16, timestamp @ 20, poh @ 28, power_cycles @ 44,
    rest @ 52, kinds @ 480);

/// Sanitize Status log page (LID 81h), 512 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct SanitizeStatus {
    /// Progress, in 65536ths.
    pub progress: U16,
    /// State in bits 2:0: 0 never, 1 done, 2 under way, 3 failed, 4 done with forced deallocation. Bit 8: nothing was written since.
    pub status: U16,
    /// Dword 10 of the command that began it.
    pub cdw10: U32,
    /// Seconds that overwriting, block erasing and crypto erasing are estimated to take; FFFFFFFFh where that is not known.
    pub estimates: [U32; 3],
    /// Further estimates and reserved bytes.
    pub rest: [u8; 492],
}

layout!(SanitizeStatus, 512, progress @ 0, status @ 2, cdw10 @ 4, estimates @ 8, rest @ 20);
