//! Log pages outside the specification that many drives have: the SMART / Health Information Extended page of the Open Compute
//! Project (Datacenter NVMe SSD Specification 2.5, SMART-1 to SMART-29), and the latency statistics of Intel's drives.

use super::Lid;
use crate::feature::Fid;
use crate::text::{Ascii, ascii};
use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// SMART / Health Information Extended, of drives that follow the Open Compute Project.
pub const OCP_SMART: Lid = Lid(0xc0);
/// Latencies of reads inside Intel's drives, where [`INTEL_LATENCY_TRACKING`] is on.
pub const INTEL_READ_LATENCY: Lid = Lid(0xc1);
/// The same of writes.
pub const INTEL_WRITE_LATENCY: Lid = Lid(0xc2);
/// Whether Intel's drives keep latencies: 1 in dword 11 of Set Features.
pub const INTEL_LATENCY_TRACKING: Fid = Fid(0xe2);
/// The PCI vendor identifier of Intel, by which it is known that the above mean this.
pub const INTEL: u16 = 0x8086;

/// SMART / Health Information Extended log page, 512 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct OcpSmart {
    /// Bytes written to the media, the drive's own included.
    pub physical_written: U128,
    /// Bytes read from the media, the drive's own included.
    pub physical_read: U128,
    /// Bad user blocks: a count in 48 bits.
    pub bad_user_blocks: [u8; 6],
    /// The same as a share that is still good, 100 at first.
    pub bad_user_blocks_normalized: U16,
    /// Bad system blocks: a count in 48 bits.
    pub bad_system_blocks: [u8; 6],
    /// The same as a share that is still good, 100 at first.
    pub bad_system_blocks_normalized: U16,
    /// Times that data was recovered from others (XOR).
    pub xor_recoveries: U64,
    /// Reads that could not be corrected.
    pub uncorrectable_reads: U64,
    /// Errors that the first level of correction could not correct.
    pub soft_ecc_errors: U64,
    /// Errors that end-to-end protection found inside the drive.
    pub end_to_end_detected: U32,
    /// Those of them that it corrected.
    pub end_to_end_corrected: U32,
    /// Life of the system area that is used, in percent.
    pub system_data_used: u8,
    /// Blocks that were rewritten to keep their data: a count in 56 bits.
    pub refreshes: [u8; 7],
    /// Erasures of the user block that had the most.
    pub most_erasures: U32,
    /// Erasures of the user block that had the fewest.
    pub fewest_erasures: U32,
    /// Times that the drive slowed down to stay cool; 255 is 255 or more.
    pub throttle_events: u8,
    /// How much it does now: 0 not, 1 to 3 by levels.
    pub throttle_status: u8,
    /// Version of the page's specification: errata, point, minor, major.
    pub specification: [u8; 6],
    /// PCIe errors that were corrected.
    pub pcie_correctable_errors: U64,
    /// Shutdowns that were not complete.
    pub incomplete_shutdowns: U32,
    /// Reserved.
    pub reserved116: [u8; 4],
    /// Blocks that are free, in percent.
    pub free_blocks: u8,
    /// Reserved.
    pub reserved121: [u8; 7],
    /// Health of the capacitor in percent of what is needed; FFFFh for none.
    pub capacitor_health: U16,
    /// Errata of the NVMe specifications that are met, and reserved bytes.
    pub errata: [u8; 6],
    /// I/Os that were not aligned to the drive's pages.
    pub unaligned_ios: U64,
    /// Security version of the firmware.
    pub security_version: U64,
    /// Logical blocks in use in all namespaces.
    pub used_blocks: U64,
    /// Times that power loss protection was charged.
    pub power_loss_protections: U128,
    /// Bytes that may be written over the drive's life.
    pub endurance_estimate: U128,
    /// Times that the PCIe link was trained again.
    pub link_retrainings: U64,
    /// Changes of the power state.
    pub power_state_changes: U64,
    /// Oldest firmware that may be loaded.
    pub lowest_firmware: [u8; 8],
    /// Reserved.
    pub reserved216: [u8; 278],
    /// Version of the page.
    pub version: U16,
    /// [`OcpSmart::GUID`].
    pub guid: [u8; 16],
}

layout!(OcpSmart, 512, physical_written @ 0, bad_user_blocks @ 32, bad_system_blocks @ 40, xor_recoveries @ 48,
    uncorrectable_reads @ 56, soft_ecc_errors @ 64, end_to_end_detected @ 72, system_data_used @ 80, refreshes @ 81,
    most_erasures @ 88, throttle_events @ 96, throttle_status @ 97, specification @ 98, pcie_correctable_errors @ 104,
    incomplete_shutdowns @ 112, free_blocks @ 120, capacitor_health @ 128, unaligned_ios @ 136, security_version @ 144,
    used_blocks @ 152, power_loss_protections @ 160, endurance_estimate @ 176, link_retrainings @ 192,
    power_state_changes @ 200, lowest_firmware @ 208, version @ 494, guid @ 496);

impl OcpSmart {
    /// AFD514C9-7C6F-4F9C-A4F2-BFEA2810AFC5, least significant byte first.
    pub const GUID: [u8; 16] = 0xafd5_14c9_7c6f_4f9c_a4f2_bfea_2810_afc5_u128.to_le_bytes();

    /// The page, where these bytes are it: other vendors have other things in this place.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        Self::read_from_bytes(bytes).ok().filter(|page| page.guid == Self::GUID)
    }

    /// A count in 48 or 56 bits.
    pub fn count(bytes: &[u8]) -> u64 {
        bytes.iter().rev().fold(0, |count, &byte| count << 8 | u64::from(byte))
    }

    /// The oldest firmware that may be loaded.
    pub fn lowest_firmware(&self) -> Ascii<'_> {
        ascii(&self.lowest_firmware)
    }
}

/// Latency statistics of Intel's drives, 380 bytes: how many commands took how long.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct IntelLatency {
    /// Revision of the page: major, then minor.
    pub revision: [U16; 2],
    /// Up to 1024 us, in steps of 32 us.
    pub fast: [U32; 32],
    /// From 1 ms, in steps of 1 ms.
    pub slow: [U32; 31],
    /// From 32 ms, in steps of 32 ms.
    pub slowest: [U32; 31],
}

layout!(IntelLatency, 380, fast @ 4, slow @ 132, slowest @ 256);

impl IntelLatency {
    /// An empty page of revision 1.0.
    pub fn new() -> Self {
        Self { revision: [U16::new(1), U16::new(0)], ..Self::new_zeroed() }
    }

    /// Counts a command that took so many microseconds.
    pub fn count(&mut self, us: u64) {
        let (ms, last) = (us / 1000, self.slowest.len() as u64 - 1);
        let bucket = match us {
            0..1000 => &mut self.fast[(us / 32) as usize],
            1000..32_000 => &mut self.slow[ms as usize - 1],
            _ => &mut self.slowest[(ms / 32 - 1).min(last) as usize],
        };
        bucket.set(bucket.get().saturating_add(1));
    }

    /// The buckets in use: from, to, unit, commands.
    pub fn buckets(&self) -> impl Iterator<Item = (u32, u32, &'static str, u32)> + '_ {
        let parts = [(&self.fast[..], 0, 32, "us"), (&self.slow[..], 1, 1, "ms"), (&self.slowest[..], 32, 32, "ms")];
        let buckets = parts.into_iter().flat_map(|(counts, first, step, unit)| {
            let from = (first..).step_by(step as usize);
            from.zip(counts).map(move |(from, count)| (from, from + step, unit, count.get()))
        });
        buckets.filter(|&(.., count)| count > 0)
    }
}

impl Default for IntelLatency {
    fn default() -> Self {
        Self::new()
    }
}
