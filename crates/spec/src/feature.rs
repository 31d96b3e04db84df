//! Features (Base 5.1.25): identifiers, the values they carry in dword 11 and dword 0, and
//! the asynchronous events that one of them turns on.

use crate::log::{Lid, critical_warning};
use core::fmt;
use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

open_code! {
    /// Feature identifier (Base 5.1.25.1, NVM 4.1.3).
    Fid(u8) {
        ARBITRATION = 0x01, "Arbitration";
        POWER_MANAGEMENT = 0x02, "Power Management";
        LBA_RANGE_TYPE = 0x03, "LBA Range Type";
        TEMPERATURE_THRESHOLD = 0x04, "Temperature Threshold";
        ERROR_RECOVERY = 0x05, "Error Recovery";
        VOLATILE_WRITE_CACHE = 0x06, "Volatile Write Cache";
        NUMBER_OF_QUEUES = 0x07, "Number of Queues";
        INTERRUPT_COALESCING = 0x08, "Interrupt Coalescing";
        INTERRUPT_VECTOR_CONFIGURATION = 0x09, "Interrupt Vector Configuration";
        WRITE_ATOMICITY_NORMAL = 0x0a, "Write Atomicity Normal";
        ASYNC_EVENT_CONFIGURATION = 0x0b, "Asynchronous Event Configuration";
        AUTONOMOUS_POWER_STATE_TRANSITION = 0x0c, "Autonomous Power State Transition";
        HOST_MEMORY_BUFFER = 0x0d, "Host Memory Buffer";
        TIMESTAMP = 0x0e, "Timestamp";
        KEEP_ALIVE_TIMER = 0x0f, "Keep Alive Timer";
        HOST_CONTROLLED_THERMAL_MANAGEMENT = 0x10, "Host Controlled Thermal Management";
        NON_OPERATIONAL_POWER_STATE = 0x11, "Non-Operational Power State Config";
        READ_RECOVERY_LEVEL = 0x12, "Read Recovery Level Config";
        PREDICTABLE_LATENCY_MODE = 0x13, "Predictable Latency Mode Config";
        PREDICTABLE_LATENCY_WINDOW = 0x14, "Predictable Latency Mode Window";
        LBA_STATUS_INTERVAL = 0x15, "LBA Status Information Report Interval";
        HOST_BEHAVIOR_SUPPORT = 0x16, "Host Behavior Support";
        SANITIZE_CONFIG = 0x17, "Sanitize Config";
        ENDURANCE_GROUP_EVENT_CONFIGURATION = 0x18, "Endurance Group Event Configuration";
        IO_COMMAND_SET_PROFILE = 0x19, "I/O Command Set Profile";
        SPINUP_CONTROL = 0x1a, "Spinup Control";
        POWER_LOSS_SIGNALING = 0x1b, "Power Loss Signaling Config";
        PERFORMANCE_CHARACTERISTICS = 0x1c, "Performance Characteristics";
        FLEXIBLE_DATA_PLACEMENT = 0x1d, "Flexible Data Placement";
        FDP_EVENTS = 0x1e, "Flexible Data Placement Events";
        NAMESPACE_ADMIN_LABEL = 0x1f, "Namespace Admin Label";
        KEY_VALUE_CONFIGURATION = 0x20, "Key Value Configuration";
        CONTROLLER_DATA_QUEUE = 0x21, "Controller Data Queue";
        EMBEDDED_MANAGEMENT_CONTROLLER_ADDRESS = 0x78, "Embedded Management Controller Address";
        HOST_MANAGEMENT_AGENT_ADDRESS = 0x79, "Host Management Agent Address";
        ENHANCED_CONTROLLER_METADATA = 0x7d, "Enhanced Controller Metadata";
        CONTROLLER_METADATA = 0x7e, "Controller Metadata";
        NAMESPACE_METADATA = 0x7f, "Namespace Metadata";
        SOFTWARE_PROGRESS_MARKER = 0x80, "Software Progress Marker";
        HOST_IDENTIFIER = 0x81, "Host Identifier";
        RESERVATION_NOTIFICATION_MASK = 0x82, "Reservation Notification Mask";
        RESERVATION_PERSISTENCE = 0x83, "Reservation Persistence";
        NAMESPACE_WRITE_PROTECTION = 0x84, "Namespace Write Protection Config";
        BOOT_PARTITION_WRITE_PROTECTION = 0x85, "Boot Partition Write Protection Config";
    }
}

open_code! {
    /// Which value Get Features returns (Base 5.1.11).
    Select(u8) {
        CURRENT = 0, "Current";
        DEFAULT = 1, "Default";
        SAVED = 2, "Saved";
        SUPPORTED_CAPABILITIES = 3, "Supported Capabilities";
    }
}

/// Bits of what Get Features returns for [`Select::SUPPORTED_CAPABILITIES`].
pub mod capability {
    /// The feature can be saved.
    pub const SAVEABLE: u32 = 1;
    /// The feature is specific to a namespace.
    pub const NAMESPACE_SPECIFIC: u32 = 2;
    /// The feature can be changed.
    pub const CHANGEABLE: u32 = 4;
}

/// Number of Queues (Base 5.1.25, FID 07h): what a host asks for in dword 11, and what it
/// may create by dword 0 of the answer. Counts start at 1; on the wire they are 0-based.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NumberOfQueues {
    /// I/O submission queues, 1 to 65536; 65536 is invalid in a request.
    pub submission: u32,
    /// I/O completion queues, 1 to 65536; 65536 is invalid in a request.
    pub completion: u32,
}

impl NumberOfQueues {
    /// Reads dword 11 of the command or dword 0 of its completion.
    pub const fn from_dword(dword: u32) -> Self {
        Self { submission: (dword & 0xffff) + 1, completion: (dword >> 16) + 1 }
    }

    /// The dword; counts out of range are brought into it.
    pub fn to_dword(self) -> u32 {
        let zero_based = |count: u32| count.clamp(1, 0x1_0000) - 1;
        zero_based(self.submission) | zero_based(self.completion) << 16
    }
}

/// Volatile Write Cache (Base 5.1.25.1.4, FID 06h): the cache is enabled.
pub const VOLATILE_WRITE_CACHE_WCE: u32 = 1;

/// Host Identifier (Base 5.1.25.1.28, FID 81h), dword 11: the identifier has 16 bytes, as it
/// must over Fabrics, else 8.
pub const HOST_IDENTIFIER_EXHID: u32 = 1;

/// Bits of Asynchronous Event Configuration (Base 5.1.25.1.5, FID 0Bh), and of OAES in
/// Identify Controller. The low 8 bits are those of the critical warnings of the SMART log.
pub mod async_event_config {
    /// SMART / health critical warnings.
    pub const SHCW: u32 = 0xff;
    /// Attached namespace attribute notices.
    pub const NAN: u32 = 1 << 8;
    /// Firmware activation notices.
    pub const FAN: u32 = 1 << 9;
    /// Telemetry log notices.
    pub const TLN: u32 = 1 << 10;
    /// Asymmetric namespace access change notices.
    pub const ANACN: u32 = 1 << 11;
    /// Predictable latency event aggregate log change notices.
    pub const PLEALCN: u32 = 1 << 12;
    /// LBA status information alert notices.
    pub const LSIAN: u32 = 1 << 13;
    /// Endurance group event aggregate log change notices.
    pub const EGEALCN: u32 = 1 << 14;
    /// Normal NVM subsystem shutdown.
    pub const NNSSHDN: u32 = 1 << 15;
    /// Temperature threshold hysteresis recovery.
    pub const TTHRY: u32 = 1 << 16;
    /// Reachability association.
    pub const RASSN: u32 = 1 << 17;
    /// Reachability group.
    pub const RGRP0: u32 = 1 << 18;
    /// Allocated namespace attribute notices.
    pub const ANSAN: u32 = 1 << 19;
    /// Zone descriptor changed notices.
    pub const ZDCN: u32 = 1 << 27;
    /// Pull model DDC request log page change notification.
    pub const PMDRLPCN: u32 = 1 << 28;
    /// AVE discovery log page change notification.
    pub const ADLPCN: u32 = 1 << 29;
    /// Host discovery log page change notification.
    pub const HDLPCN: u32 = 1 << 30;
    /// Discovery log page change notification.
    pub const DLPCN: u32 = 1 << 31;
}

open_code! {
    /// Type of an asynchronous event (Base 5.1.2).
    AsyncEventType(u8) {
        ERROR = 0, "Error Status";
        SMART = 1, "SMART / Health Status";
        NOTICE = 2, "Notice";
        IMMEDIATE = 3, "Immediate";
        ONE_SHOT = 4, "One Shot";
        IO_COMMAND_SPECIFIC = 6, "I/O Command Specific Status";
        VENDOR_SPECIFIC = 7, "Vendor Specific";
    }
}

/// An asynchronous event: dword 0 of the completion of Asynchronous Event Request (Base 5.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AsyncEvent {
    /// Event type, 3 bits.
    pub aet: AsyncEventType,
    /// Event information: which event of the type.
    pub aei: u8,
    /// Log page to read to know more and clear the event.
    pub lid: Lid,
}

impl AsyncEvent {
    /// The namespaces attached to the controller, or their attributes, changed.
    pub const NAMESPACE_ATTRIBUTE_CHANGED: Self = Self::new(AsyncEventType::NOTICE, 0x00, Lid::CHANGED_NAMESPACES);
    /// New firmware is about to run: commands pause.
    pub const FIRMWARE_ACTIVATION_STARTING: Self = Self::new(AsyncEventType::NOTICE, 0x01, Lid::FIRMWARE_SLOT);
    /// The ANA log page changed.
    pub const ANA_CHANGE: Self = Self::new(AsyncEventType::NOTICE, 0x03, Lid::ANA);
    /// The Discovery log page changed.
    pub const DISCOVERY_CHANGE: Self = Self::new(AsyncEventType::NOTICE, 0xf0, Lid::DISCOVERY);

    /// An event from its three parts.
    pub const fn new(aet: AsyncEventType, aei: u8, lid: Lid) -> Self {
        Self { aet, aei, lid }
    }

    /// Reads dword 0.
    pub const fn from_dword(dword: u32) -> Self {
        Self { aet: AsyncEventType(dword as u8 & 7), aei: (dword >> 8) as u8, lid: Lid((dword >> 16) as u8) }
    }

    /// Dword 0.
    pub const fn to_dword(self) -> u32 {
        self.aet.0 as u32 & 7 | (self.aei as u32) << 8 | (self.lid.0 as u32) << 16
    }

    /// The specification's name of the event, or `"Unknown"`.
    pub const fn name(self) -> &'static str {
        match (self.aet, self.aei) {
            (AsyncEventType::ERROR, 0x00) => "Write to Invalid Doorbell Register",
            (AsyncEventType::ERROR, 0x01) => "Invalid Doorbell Write Value",
            (AsyncEventType::ERROR, 0x02) => "Diagnostic Failure",
            (AsyncEventType::ERROR, 0x03) => "Persistent Internal Error",
            (AsyncEventType::ERROR, 0x04) => "Transient Internal Error",
            (AsyncEventType::ERROR, 0x05) => "Firmware Image Load Error",
            (AsyncEventType::SMART, 0x00) => "NVM Subsystem Reliability",
            (AsyncEventType::SMART, 0x01) => "Temperature Threshold",
            (AsyncEventType::SMART, 0x02) => "Spare Below Threshold",
            (AsyncEventType::NOTICE, 0x00) => "Attached Namespace Attribute Changed",
            (AsyncEventType::NOTICE, 0x01) => "Firmware Activation Starting",
            (AsyncEventType::NOTICE, 0x02) => "Telemetry Log Changed",
            (AsyncEventType::NOTICE, 0x03) => "Asymmetric Namespace Access Change",
            (AsyncEventType::NOTICE, 0x04) => "Predictable Latency Event Aggregate Log Change",
            (AsyncEventType::NOTICE, 0x05) => "LBA Status Information Alert",
            (AsyncEventType::NOTICE, 0x06) => "Endurance Group Event Aggregate Log Page Change",
            (AsyncEventType::NOTICE, 0x07) => "Reachability Group Change",
            (AsyncEventType::NOTICE, 0x08) => "Reachability Association Change",
            (AsyncEventType::NOTICE, 0x09) => "Allocated Namespace Attribute Changed",
            (AsyncEventType::NOTICE, 0xef) => "Zone Descriptor Changed",
            (AsyncEventType::NOTICE, 0xf0) => "Discovery Log Page Change",
            (AsyncEventType::NOTICE, 0xf1) => "Host Discovery Log Page Change",
            (AsyncEventType::NOTICE, 0xf2) => "AVE Discovery Log Page Change",
            (AsyncEventType::NOTICE, 0xf3) => "Pull Model DDC Request",
            (AsyncEventType::IMMEDIATE, 0x00) => "Normal NVM Subsystem Shutdown",
            (AsyncEventType::IMMEDIATE, 0x01) => "Temperature Threshold Hysteresis Recovery",
            (AsyncEventType::ONE_SHOT, 0x00) => "Controller Data Queue Tail Pointer",
            (AsyncEventType::ONE_SHOT, 0x01) => "Controller Data Queue Full Error",
            (AsyncEventType::IO_COMMAND_SPECIFIC, 0x00) => "Reservation Log Page Available",
            (AsyncEventType::IO_COMMAND_SPECIFIC, 0x01) => "Sanitize Operation Completed",
            (AsyncEventType::IO_COMMAND_SPECIFIC, 0x02) => "Sanitize Operation Completed With Unexpected Deallocation",
            (AsyncEventType::IO_COMMAND_SPECIFIC, 0x03) => "Sanitize Operation Entered Media Verification State",
            _ => "Unknown",
        }
    }

    /// The bits of [`async_event_config`], any of which turns the event on; none for events
    /// that are always on.
    pub const fn config_bits(self) -> Option<u32> {
        match (self.aet, self.aei) {
            (AsyncEventType::SMART, 0x00) => Some(
                critical_warning::RELIABILITY as u32
                    | critical_warning::READ_ONLY as u32
                    | critical_warning::VOLATILE_BACKUP as u32
                    | critical_warning::PERSISTENT_MEMORY as u32,
            ),
            (AsyncEventType::SMART, 0x01) => Some(critical_warning::TEMPERATURE as u32),
            (AsyncEventType::SMART, 0x02) => Some(critical_warning::SPARE as u32),
            (AsyncEventType::NOTICE, aei @ 0x00..=0x06) => Some(async_event_config::NAN << aei),
            (AsyncEventType::NOTICE, 0x07) => Some(async_event_config::RGRP0),
            (AsyncEventType::NOTICE, 0x08) => Some(async_event_config::RASSN),
            (AsyncEventType::NOTICE, 0x09) => Some(async_event_config::ANSAN),
            (AsyncEventType::NOTICE, 0xef) => Some(async_event_config::ZDCN),
            (AsyncEventType::NOTICE, 0xf0) => Some(async_event_config::DLPCN),
            (AsyncEventType::NOTICE, 0xf1) => Some(async_event_config::HDLPCN),
            (AsyncEventType::NOTICE, 0xf2) => Some(async_event_config::ADLPCN),
            (AsyncEventType::NOTICE, 0xf3) => Some(async_event_config::PMDRLPCN),
            (AsyncEventType::IMMEDIATE, 0x00) => Some(async_event_config::NNSSHDN),
            (AsyncEventType::IMMEDIATE, 0x01) => Some(async_event_config::TTHRY),
            _ => None,
        }
    }
}

/// Writes type, name, information and log page: `Notice: Discovery Log Page Change (info F0h,
/// log 70h)`.
impl fmt::Display for AsyncEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (aet, name) = (self.aet.name(), self.name());
        write!(f, "{aet}: {name} (info {:02X}h, log {:02X}h)", self.aei, self.lid.0)
    }
}

/// Host Behavior Support (Base 5.1.25.1.14, FID 16h), 512 bytes of data.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct HostBehavior {
    /// Advanced command retry enable: 1 lets the controller answer with retry delays.
    pub acre: u8,
    /// Extended telemetry data area 4 supported.
    pub etdas: u8,
    /// LBA format extension enable.
    pub lbafee: u8,
    /// Host dispersed namespace support.
    pub hdisns: u8,
    /// Copy descriptor formats enable.
    pub cdfe: U16,
    /// Reserved.
    pub reserved6: [u8; 506],
}

layout!(HostBehavior, 512, acre @ 0, etdas @ 1, lbafee @ 2, hdisns @ 3, cdfe @ 4);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;
    use std::string::ToString;

    #[test]
    fn number_of_queues_is_zero_based_on_the_wire() {
        let queues = NumberOfQueues { submission: 4, completion: 128 };
        assert_eq!(queues.to_dword(), 0x007f_0003);
        let clamped = NumberOfQueues { submission: 0, completion: 70_000 };
        assert_eq!(clamped.to_dword(), 0xffff_0000);
    }

    #[test]
    fn events_have_names_of_their_own() {
        let mut names = HashSet::new();
        for dword in 0..=0xffffu32 {
            let event = AsyncEvent::from_dword(dword & 0xff07);
            if dword & 0xf8 == 0 && event.name() != "Unknown" {
                assert!(names.insert(event.name()), "{event}");
            }
        }
        assert_eq!(names.len(), 32);
        assert_eq!(AsyncEvent::DISCOVERY_CHANGE.to_string(), "Notice: Discovery Log Page Change (info F0h, log 70h)");
        assert_eq!(AsyncEvent::DISCOVERY_CHANGE.to_dword(), 0x0070_f002);
    }

    #[test]
    fn events_and_the_bits_that_enable_them() {
        let table = [
            (AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED, Some(async_event_config::NAN)),
            (AsyncEvent::FIRMWARE_ACTIVATION_STARTING, Some(async_event_config::FAN)),
            (AsyncEvent::ANA_CHANGE, Some(async_event_config::ANACN)),
            (AsyncEvent::DISCOVERY_CHANGE, Some(async_event_config::DLPCN)),
            (AsyncEvent::from_dword(0x0602), Some(async_event_config::EGEALCN)),
            (AsyncEvent::from_dword(0x0003), Some(async_event_config::NNSSHDN)),
            (AsyncEvent::from_dword(0x0000), None),
        ];
        for (event, bit) in table {
            assert_eq!(event.config_bits(), bit, "{event}");
        }
    }

    proptest! {
        #[test]
        fn dwords_round_trip(dword: u32) {
            prop_assert_eq!(NumberOfQueues::from_dword(dword).to_dword(), dword);
            let event = AsyncEvent::from_dword(dword);
            prop_assert_eq!(event.to_dword(), dword & 0x00ff_ff07);
            prop_assert!(!event.to_string().is_empty());
        }
    }
}
