//! What drives say of their own health, before and after a run.

use serde::{Deserialize, Serialize};

/// A controller, and what it said. What it did not say is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drive {
    /// Its name, as [`crate::document::Path::path`] has it but for the namespace.
    pub controller: String,
    /// Before the run.
    pub before: Option<Health>,
    /// After it.
    pub after: Option<Health>,
    /// Why something is absent.
    pub unavailable: Option<String>,
}

/// The SMART / Health Information log page, and beside it what an OCP drive has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Critical warnings.
    pub critical_warnings: Vec<String>,
    /// Composite temperature.
    pub temperature_c: Option<i32>,
    /// Temperatures of the sensors that there are.
    pub sensors_c: Vec<i32>,
    /// Spare that is left.
    pub spare_percent: u8,
    /// Spare below which the drive warns.
    pub spare_threshold_percent: u8,
    /// Life that is used.
    pub used_percent: u8,
    /// Thousands of 512 bytes that hosts read.
    pub data_units_read: u64,
    /// Thousands of 512 bytes that hosts wrote.
    pub data_units_written: u64,
    /// Commands that read.
    pub host_reads: u64,
    /// Commands that wrote.
    pub host_writes: u64,
    /// Media and data integrity errors.
    pub media_errors: u64,
    /// Entries of the error log over the drive's life.
    pub error_log_entries: u64,
    /// Minutes above the warning temperature.
    pub warning_temperature_min: u32,
    /// Minutes above the critical temperature.
    pub critical_temperature_min: u32,
    /// Times that the drive slowed down a little to stay cool, and seconds in that state.
    pub light_throttles: u32,
    /// Seconds in that state.
    pub light_throttled_s: u32,
    /// Times that it slowed down a lot.
    pub heavy_throttles: u32,
    /// Seconds in that state.
    pub heavy_throttled_s: u32,
    /// The extended page of drives that follow the Open Compute Project.
    pub ocp: Option<Ocp>,
}

/// Of the SMART / Health Information Extended log page, what can change in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ocp {
    /// Bytes written to the media, the drive's own included.
    pub physical_written_bytes: u64,
    /// Bytes read from the media, the drive's own included.
    pub physical_read_bytes: u64,
    /// Bad user blocks.
    pub bad_user_blocks: u64,
    /// Bad system blocks.
    pub bad_system_blocks: u64,
    /// Reads that could not be corrected.
    pub uncorrectable_reads: u64,
    /// Errors that the first level of correction could not correct.
    pub soft_ecc_errors: u64,
    /// Errors that end-to-end protection found inside the drive.
    pub end_to_end_detected: u32,
    /// Those of them that it corrected.
    pub end_to_end_corrected: u32,
    /// Times that the drive slowed down to stay cool; 255 is 255 or more.
    pub throttle_events: u8,
    /// How much it does now: 0 not, 1 to 3 by levels.
    pub throttle_status: u8,
    /// PCIe errors that were corrected.
    pub pcie_correctable_errors: u64,
    /// Times that the PCIe link was trained again.
    pub link_retrainings: u64,
    /// Blocks that are free.
    pub free_blocks_percent: u8,
    /// I/Os that were not aligned to the drive's pages.
    pub unaligned_ios: u64,
}
