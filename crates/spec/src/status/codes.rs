//! The tables of status codes: Base 4.2.3, "Status Code" of each type, and NVM 3.1.1.

/// A module of status codes of one type: a constant each, `ALL`, and `name(sc)`.
macro_rules! status_codes {
    ($(#[$meta:meta])* $module:ident($sct:ident) { $($konst:ident = $value:literal, $text:literal;)* }) => {
        $(#[$meta])*
        pub mod $module {
            use crate::status::{Status, $sct};

            $(
                #[doc = concat!($text, ".")]
                pub const $konst: Status = Status::new($sct, $value);
            )*

            /// Every code listed here, in ascending order.
            pub const ALL: &[Status] = &[$($konst),*];

            /// The specification's name of a status code of this type.
            pub const fn name(sc: u8) -> Option<&'static str> {
                match sc {
                    $($value => Some($text),)*
                    _ => None,
                }
            }
        }
    };
}

status_codes! {
    /// Generic command status (Base 4.2.3.1).
    generic(SCT_GENERIC) {
        SUCCESS = 0x00, "Successful Completion";
        INVALID_OPCODE = 0x01, "Invalid Command Opcode";
        INVALID_FIELD = 0x02, "Invalid Field in Command";
        COMMAND_ID_CONFLICT = 0x03, "Command ID Conflict";
        DATA_TRANSFER_ERROR = 0x04, "Data Transfer Error";
        ABORTED_POWER_LOSS = 0x05, "Commands Aborted due to Power Loss Notification";
        INTERNAL_ERROR = 0x06, "Internal Error";
        ABORT_REQUESTED = 0x07, "Command Abort Requested";
        ABORTED_SQ_DELETION = 0x08, "Command Aborted due to SQ Deletion";
        ABORTED_FAILED_FUSED = 0x09, "Command Aborted due to Failed Fused Command";
        ABORTED_MISSING_FUSED = 0x0a, "Command Aborted due to Missing Fused Command";
        INVALID_NAMESPACE = 0x0b, "Invalid Namespace or Format";
        COMMAND_SEQUENCE_ERROR = 0x0c, "Command Sequence Error";
        INVALID_SGL_SEGMENT = 0x0d, "Invalid SGL Segment Descriptor";
        INVALID_SGL_COUNT = 0x0e, "Invalid Number of SGL Descriptors";
        DATA_SGL_LENGTH_INVALID = 0x0f, "Data SGL Length Invalid";
        METADATA_SGL_LENGTH_INVALID = 0x10, "Metadata SGL Length Invalid";
        SGL_TYPE_INVALID = 0x11, "SGL Descriptor Type Invalid";
        INVALID_USE_OF_CMB = 0x12, "Invalid Use of Controller Memory Buffer";
        PRP_OFFSET_INVALID = 0x13, "PRP Offset Invalid";
        ATOMIC_WRITE_UNIT_EXCEEDED = 0x14, "Atomic Write Unit Exceeded";
        OPERATION_DENIED = 0x15, "Operation Denied";
        SGL_OFFSET_INVALID = 0x16, "SGL Offset Invalid";
        HOST_ID_INCONSISTENT_FORMAT = 0x18, "Host Identifier Inconsistent Format";
        KEEP_ALIVE_TIMER_EXPIRED = 0x19, "Keep Alive Timer Expired";
        KEEP_ALIVE_TIMEOUT_INVALID = 0x1a, "Keep Alive Timeout Invalid";
        ABORTED_PREEMPT_AND_ABORT = 0x1b, "Command Aborted due to Preempt and Abort";
        SANITIZE_FAILED = 0x1c, "Sanitize Failed";
        SANITIZE_IN_PROGRESS = 0x1d, "Sanitize In Progress";
        SGL_GRANULARITY_INVALID = 0x1e, "SGL Data Block Granularity Invalid";
        NOT_SUPPORTED_FOR_QUEUE_IN_CMB = 0x1f, "Command Not Supported for Queue in CMB";
        NAMESPACE_WRITE_PROTECTED = 0x20, "Namespace is Write Protected";
        COMMAND_INTERRUPTED = 0x21, "Command Interrupted";
        TRANSIENT_TRANSPORT_ERROR = 0x22, "Transient Transport Error";
        PROHIBITED_BY_LOCKDOWN = 0x23, "Command Prohibited by Command and Feature Lockdown";
        ADMIN_MEDIA_NOT_READY = 0x24, "Admin Command Media Not Ready";
        INVALID_KEY_TAG = 0x25, "Invalid Key Tag";
        HOST_DISPERSED_NS_NOT_ENABLED = 0x26, "Host Dispersed Namespace Support Not Enabled";
        HOST_ID_NOT_INITIALIZED = 0x27, "Host Identifier Not Initialized";
        INCORRECT_KEY = 0x28, "Incorrect Key";
        FDP_DISABLED = 0x29, "FDP Disabled";
        INVALID_PLACEMENT_HANDLE_LIST = 0x2a, "Invalid Placement Handle List";
        LBA_OUT_OF_RANGE = 0x80, "LBA Out of Range";
        CAPACITY_EXCEEDED = 0x81, "Capacity Exceeded";
        NAMESPACE_NOT_READY = 0x82, "Namespace Not Ready";
        RESERVATION_CONFLICT = 0x83, "Reservation Conflict";
        FORMAT_IN_PROGRESS = 0x84, "Format In Progress";
        INVALID_VALUE_SIZE = 0x85, "Invalid Value Size";
        INVALID_KEY_SIZE = 0x86, "Invalid Key Size";
        KEY_DOES_NOT_EXIST = 0x87, "KV Key Does Not Exist";
        UNRECOVERED_ERROR = 0x88, "Unrecovered Error";
        KEY_EXISTS = 0x89, "Key Exists";
    }
}

status_codes! {
    /// Command specific status (Base 4.2.3.2, NVM 3.1.1, and the zoned command set's), as
    /// Admin and I/O commands use it. For Fabrics commands see [`fabrics`](super::fabrics);
    /// codes 90h and 91h, which any command may get over Fabrics, are named by both meanings.
    command_specific(SCT_COMMAND_SPECIFIC) {
        COMPLETION_QUEUE_INVALID = 0x00, "Completion Queue Invalid";
        INVALID_QUEUE_IDENTIFIER = 0x01, "Invalid Queue Identifier";
        INVALID_QUEUE_SIZE = 0x02, "Invalid Queue Size";
        ABORT_LIMIT_EXCEEDED = 0x03, "Abort Command Limit Exceeded";
        AER_LIMIT_EXCEEDED = 0x05, "Asynchronous Event Request Limit Exceeded";
        INVALID_FIRMWARE_SLOT = 0x06, "Invalid Firmware Slot";
        INVALID_FIRMWARE_IMAGE = 0x07, "Invalid Firmware Image";
        INVALID_INTERRUPT_VECTOR = 0x08, "Invalid Interrupt Vector";
        INVALID_LOG_PAGE = 0x09, "Invalid Log Page";
        INVALID_FORMAT = 0x0a, "Invalid Format";
        FIRMWARE_NEEDS_CONVENTIONAL_RESET = 0x0b, "Firmware Activation Requires Conventional Reset";
        INVALID_QUEUE_DELETION = 0x0c, "Invalid Queue Deletion";
        FEATURE_NOT_SAVEABLE = 0x0d, "Feature Identifier Not Saveable";
        FEATURE_NOT_CHANGEABLE = 0x0e, "Feature Not Changeable";
        FEATURE_NOT_NAMESPACE_SPECIFIC = 0x0f, "Feature Not Namespace Specific";
        FIRMWARE_NEEDS_SUBSYSTEM_RESET = 0x10, "Firmware Activation Requires NVM Subsystem Reset";
        FIRMWARE_NEEDS_CONTROLLER_RESET = 0x11, "Firmware Activation Requires Controller Level Reset";
        FIRMWARE_NEEDS_MAX_TIME_VIOLATION = 0x12, "Firmware Activation Requires Maximum Time Violation";
        FIRMWARE_ACTIVATION_PROHIBITED = 0x13, "Firmware Activation Prohibited";
        OVERLAPPING_RANGE = 0x14, "Overlapping Range";
        NAMESPACE_INSUFFICIENT_CAPACITY = 0x15, "Namespace Insufficient Capacity";
        NAMESPACE_ID_UNAVAILABLE = 0x16, "Namespace Identifier Unavailable";
        NAMESPACE_ALREADY_ATTACHED = 0x18, "Namespace Already Attached";
        NAMESPACE_IS_PRIVATE = 0x19, "Namespace Is Private";
        NAMESPACE_NOT_ATTACHED = 0x1a, "Namespace Not Attached";
        THIN_PROVISIONING_NOT_SUPPORTED = 0x1b, "Thin Provisioning Not Supported";
        CONTROLLER_LIST_INVALID = 0x1c, "Controller List Invalid";
        SELF_TEST_IN_PROGRESS = 0x1d, "Device Self-test In Progress";
        BOOT_PARTITION_WRITE_PROHIBITED = 0x1e, "Boot Partition Write Prohibited";
        INVALID_CONTROLLER_IDENTIFIER = 0x1f, "Invalid Controller Identifier";
        INVALID_SECONDARY_CONTROLLER_STATE = 0x20, "Invalid Secondary Controller State";
        INVALID_CONTROLLER_RESOURCE_COUNT = 0x21, "Invalid Number of Controller Resources";
        INVALID_RESOURCE_IDENTIFIER = 0x22, "Invalid Resource Identifier";
        SANITIZE_PROHIBITED_PMR = 0x23, "Sanitize Prohibited While Persistent Memory Region is Enabled";
        ANA_GROUP_INVALID = 0x24, "ANA Group Identifier Invalid";
        ANA_ATTACH_FAILED = 0x25, "ANA Attach Failed";
        INSUFFICIENT_CAPACITY = 0x26, "Insufficient Capacity";
        NAMESPACE_ATTACHMENT_LIMIT_EXCEEDED = 0x27, "Namespace Attachment Limit Exceeded";
        PROHIBITION_NOT_SUPPORTED = 0x28, "Prohibition of Command Execution Not Supported";
        IO_COMMAND_SET_NOT_SUPPORTED = 0x29, "I/O Command Set Not Supported";
        IO_COMMAND_SET_NOT_ENABLED = 0x2a, "I/O Command Set Not Enabled";
        IO_COMMAND_SET_COMBINATION_REJECTED = 0x2b, "I/O Command Set Combination Rejected";
        INVALID_IO_COMMAND_SET = 0x2c, "Invalid I/O Command Set";
        IDENTIFIER_UNAVAILABLE = 0x2d, "Identifier Unavailable";
        NAMESPACE_IS_DISPERSED = 0x2e, "Namespace Is Dispersed";
        INVALID_DISCOVERY_INFORMATION = 0x2f, "Invalid Discovery Information";
        ZONING_DATA_STRUCTURE_LOCKED = 0x30, "Zoning Data Structure Locked";
        ZONING_DATA_STRUCTURE_NOT_FOUND = 0x31, "Zoning Data Structure Not Found";
        INSUFFICIENT_DISCOVERY_RESOURCES = 0x32, "Insufficient Discovery Resources";
        REQUESTED_FUNCTION_DISABLED = 0x33, "Requested Function Disabled";
        ZONEGROUP_ORIGINATOR_INVALID = 0x34, "ZoneGroup Originator Invalid";
        INVALID_HOST = 0x35, "Invalid Host";
        INVALID_NVM_SUBSYSTEM = 0x36, "Invalid NVM Subsystem";
        INVALID_CONTROLLER_DATA_QUEUE = 0x37, "Invalid Controller Data Queue";
        NOT_ENOUGH_RESOURCES = 0x38, "Not Enough Resources";
        CONTROLLER_SUSPENDED = 0x39, "Controller Suspended";
        CONTROLLER_NOT_SUSPENDED = 0x3a, "Controller Not Suspended";
        CONTROLLER_DATA_QUEUE_FULL = 0x3b, "Controller Data Queue Full";
        STREAM_RESOURCE_ALLOCATION_FAILED = 0x7f, "Stream Resource Allocation Failed";
        CONFLICTING_ATTRIBUTES = 0x80, "Conflicting Attributes";
        INVALID_PROTECTION_INFORMATION = 0x81, "Invalid Protection Information";
        WRITE_TO_READ_ONLY_RANGE = 0x82, "Attempted Write to Read Only Range";
        COMMAND_SIZE_LIMIT_EXCEEDED = 0x83, "Command Size Limit Exceeded";
        INVALID_COMMAND_ID = 0x84, "Invalid Command ID";
        INCOMPATIBLE_NAMESPACE = 0x85, "Incompatible Namespace or Format";
        FAST_COPY_NOT_POSSIBLE = 0x86, "Fast Copy Not Possible";
        OVERLAPPING_IO_RANGE = 0x87, "Overlapping I/O Range";
        NAMESPACE_NOT_REACHABLE = 0x88, "Namespace Not Reachable";
        INSUFFICIENT_RESOURCES = 0x89, "Insufficient Resources";
        INSUFFICIENT_PROGRAM_RESOURCES = 0x8a, "Insufficient Program Resources";
        INVALID_MEMORY_NAMESPACE = 0x8b, "Invalid Memory Namespace";
        INVALID_MEMORY_RANGE_SET = 0x8c, "Invalid Memory Range Set";
        INVALID_MEMORY_RANGE_SET_IDENTIFIER = 0x8d, "Invalid Memory Range Set Identifier";
        INVALID_PROGRAM_DATA = 0x8e, "Invalid Program Data";
        INVALID_PROGRAM_INDEX = 0x8f, "Invalid Program Index";
        INVALID_PROGRAM_TYPE = 0x90, "Invalid Program Type or Discover Restart";
        MAXIMUM_MEMORY_RANGES_EXCEEDED = 0x91, "Maximum Memory Ranges Exceeded or Authentication Required";
        MAXIMUM_MEMORY_RANGE_SETS_EXCEEDED = 0x92, "Maximum Memory Range Sets Exceeded";
        MAXIMUM_PROGRAMS_ACTIVATED = 0x93, "Maximum Programs Activated";
        MAXIMUM_PROGRAM_BYTES_EXCEEDED = 0x94, "Maximum Program Bytes Exceeded";
        MEMORY_RANGE_SET_IN_USE = 0x95, "Memory Range Set In Use";
        NO_PROGRAM = 0x96, "No Program";
        OVERLAPPING_MEMORY_RANGES = 0x97, "Overlapping Memory Ranges";
        PROGRAM_NOT_ACTIVATED = 0x98, "Program Not Activated";
        PROGRAM_IN_USE = 0x99, "Program In Use";
        PROGRAM_INDEX_NOT_DOWNLOADABLE = 0x9a, "Program Index Not Downloadable";
        PROGRAM_TOO_BIG = 0x9b, "Program Too Big";
        SUCCESSFUL_MEDIA_VERIFICATION_READ = 0x9c, "Successful Media Verification Read";
        ZONED_BOUNDARY_ERROR = 0xb8, "Zoned Boundary Error";
        ZONE_IS_FULL = 0xb9, "Zone Is Full";
        ZONE_IS_READ_ONLY = 0xba, "Zone Is Read Only";
        ZONE_IS_OFFLINE = 0xbb, "Zone Is Offline";
        ZONE_INVALID_WRITE = 0xbc, "Zone Invalid Write";
        TOO_MANY_ACTIVE_ZONES = 0xbd, "Too Many Active Zones";
        TOO_MANY_OPEN_ZONES = 0xbe, "Too Many Open Zones";
        INVALID_ZONE_STATE_TRANSITION = 0xbf, "Invalid Zone State Transition";
    }
}

status_codes! {
    /// Command specific status over Fabrics (Base 4.2.3.2, "Fabrics Commands"). The first six
    /// answer Connect and Disconnect, Discover Restart answers Get Log Page of a discovery
    /// controller, and any command may get Authentication Required.
    fabrics(SCT_COMMAND_SPECIFIC) {
        CONNECT_INCOMPATIBLE_FORMAT = 0x80, "Incompatible Format";
        CONNECT_CONTROLLER_BUSY = 0x81, "Controller Busy";
        CONNECT_INVALID_PARAMETERS = 0x82, "Connect Invalid Parameters";
        CONNECT_RESTART_DISCOVERY = 0x83, "Connect Restart Discovery";
        CONNECT_INVALID_HOST = 0x84, "Connect Invalid Host";
        INVALID_QUEUE_TYPE = 0x85, "Invalid Queue Type";
        DISCOVER_RESTART = 0x90, "Discover Restart";
        AUTHENTICATION_REQUIRED = 0x91, "Authentication Required";
    }
}

status_codes! {
    /// Media and data integrity errors (Base 4.2.3.3, NVM 3.1.1).
    media(SCT_MEDIA) {
        WRITE_FAULT = 0x80, "Write Fault";
        UNRECOVERED_READ_ERROR = 0x81, "Unrecovered Read Error";
        GUARD_CHECK_ERROR = 0x82, "End-to-end Guard Check Error";
        APPLICATION_TAG_CHECK_ERROR = 0x83, "End-to-end Application Tag Check Error";
        REFERENCE_TAG_CHECK_ERROR = 0x84, "End-to-end Reference Tag Check Error";
        COMPARE_FAILURE = 0x85, "Compare Failure";
        ACCESS_DENIED = 0x86, "Access Denied";
        DEALLOCATED_OR_UNWRITTEN = 0x87, "Deallocated or Unwritten Logical Block";
        STORAGE_TAG_CHECK_ERROR = 0x88, "End-to-End Storage Tag Check Error";
    }
}

status_codes! {
    /// Path related status (Base 4.2.3.4).
    path(SCT_PATH) {
        INTERNAL_PATH_ERROR = 0x00, "Internal Path Error";
        ANA_PERSISTENT_LOSS = 0x01, "Asymmetric Access Persistent Loss";
        ANA_INACCESSIBLE = 0x02, "Asymmetric Access Inaccessible";
        ANA_TRANSITION = 0x03, "Asymmetric Access Transition";
        CONTROLLER_PATHING_ERROR = 0x60, "Controller Pathing Error";
        HOST_PATHING_ERROR = 0x70, "Host Pathing Error";
        ABORTED_BY_HOST = 0x71, "Command Aborted By Host";
    }
}

status_codes! {
    /// What an operating system answered in the place of a device: a type that the specification leaves reserved, with Linux's error
    /// numbers as codes. None of it is ever on a wire.
    system(SCT_SYSTEM) {
        NOT_PERMITTED = 1, "Operation Not Permitted (EPERM)";
        IO_ERROR = 5, "Input/Output Error (EIO)";
        NO_SUCH_DEVICE_OR_ADDRESS = 6, "No Such Device or Address (ENXIO)";
        BAD_DESCRIPTOR = 9, "Bad File Descriptor (EBADF)";
        TRY_AGAIN = 11, "Resource Temporarily Unavailable (EAGAIN)";
        NO_MEMORY = 12, "Cannot Allocate Memory (ENOMEM)";
        BAD_ADDRESS = 14, "Bad Address (EFAULT)";
        BUSY = 16, "Device or Resource Busy (EBUSY)";
        NO_DEVICE = 19, "No Such Device (ENODEV)";
        INVALID_ARGUMENT = 22, "Invalid Argument (EINVAL)";
        FILE_TOO_LARGE = 27, "File Too Large (EFBIG)";
        NO_SPACE = 28, "No Space Left on Device (ENOSPC)";
        READ_ONLY = 30, "Read-only File System (EROFS)";
        NO_DATA = 61, "Unrecovered Medium Error (ENODATA)";
        NO_LINK = 67, "Link to the Device Lost (ENOLINK)";
        CHECK_FAILED = 84, "Protection Information Check Failed (EILSEQ)";
        NOT_SUPPORTED = 95, "Operation Not Supported (EOPNOTSUPP)";
        TIMED_OUT = 110, "Timed Out in the Kernel (ETIMEDOUT)";
        TARGET_ERROR = 121, "Error of the Target (EREMOTEIO)";
        QUOTA = 122, "Disk Quota Exceeded (EDQUOT)";
        SHORT_TRANSFER = 0xff, "Fewer Bytes Than Asked For (short read or write)";
    }
}
