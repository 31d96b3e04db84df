//! Identify data structures (Base 5.1.13, NVM 4.1.5): what a controller says of itself and
//! of its namespaces. Hosts read them, targets fill them. All but the descriptor list are
//! 4096-byte structures that any bytes are valid for; a target starts from
//! [`new_zeroed`](zerocopy::FromZeros::new_zeroed).

mod command_set;
mod controller;
mod list;
mod namespace;

pub use command_set::{IndependentNamespace, IoCommandSets, NvmController, NvmNamespace};
pub use controller::{Cntrltype, Controller, PowerState, cmic, ctratt, fna, lpa, oacs, oncs, sgls, vwc};
pub use list::{Descriptor, DescriptorList, Descriptors, NamespaceList, Nidt, descriptors};
pub use namespace::{LbaFormat, Namespace, dpc, dps, flbas, mc, nmic, nsfeat};

/// Bytes that Identify returns, whatever the structure.
pub const SIZE: usize = 4096;

open_code! {
    /// Controller or Namespace Structure: which data Identify returns (Base 5.1.13.1).
    Cns(u8) {
        NAMESPACE = 0x00, "Identify Namespace";
        CONTROLLER = 0x01, "Identify Controller";
        ACTIVE_NAMESPACES = 0x02, "Active Namespace ID List";
        NAMESPACE_DESCRIPTORS = 0x03, "Namespace Identification Descriptor List";
        NVM_SET_LIST = 0x04, "NVM Set List";
        CSI_NAMESPACE = 0x05, "I/O Command Set Specific Identify Namespace";
        CSI_CONTROLLER = 0x06, "I/O Command Set Specific Identify Controller";
        CSI_ACTIVE_NAMESPACES = 0x07, "I/O Command Set Specific Active Namespace ID List";
        CSI_INDEPENDENT_NAMESPACE = 0x08, "I/O Command Set Independent Identify Namespace";
        USER_DATA_FORMAT = 0x09, "Identify Namespace for a User Data Format";
        CSI_USER_DATA_FORMAT = 0x0a, "I/O Command Set Specific Identify Namespace for a User Data Format";
        ALLOCATED_NAMESPACES = 0x10, "Allocated Namespace ID List";
        ALLOCATED_NAMESPACE = 0x11, "Identify Namespace of an Allocated Namespace ID";
        ATTACHED_CONTROLLERS = 0x12, "Controller List of a Namespace";
        CONTROLLERS = 0x13, "Controller List";
        PRIMARY_CONTROLLER_CAPABILITIES = 0x14, "Primary Controller Capabilities";
        SECONDARY_CONTROLLERS = 0x15, "Secondary Controller List";
        NAMESPACE_GRANULARITY = 0x16, "Namespace Granularity List";
        UUID_LIST = 0x17, "UUID List";
        DOMAIN_LIST = 0x18, "Domain List";
        ENDURANCE_GROUPS = 0x19, "Endurance Group List";
        CSI_ALLOCATED_NAMESPACES = 0x1a, "I/O Command Set Specific Allocated Namespace ID List";
        CSI_ALLOCATED_NAMESPACE = 0x1b, "I/O Command Set Specific Identify Namespace of an Allocated Namespace ID";
        IO_COMMAND_SETS = 0x1c, "Identify I/O Command Set";
        UNDERLYING_NAMESPACES = 0x1d, "Underlying Namespace List";
        PORTS = 0x1e, "Ports List";
        INDEPENDENT_ALLOCATED_NAMESPACE = 0x1f, "I/O Command Set Independent Identify Namespace of an Allocated Namespace ID";
        SUPPORTED_CONTROLLER_STATE_FORMATS = 0x20, "Supported Controller State Formats";
    }
}

open_code! {
    /// I/O command set identifier (Base 5.1.13.1).
    Csi(u8) {
        NVM = 0x00, "NVM Command Set";
        KEY_VALUE = 0x01, "Key Value Command Set";
        ZONED = 0x02, "Zoned Namespace Command Set";
        SUBSYSTEM_LOCAL_MEMORY = 0x03, "Subsystem Local Memory Command Set";
        COMPUTATIONAL_PROGRAMS = 0x04, "Computational Programs Command Set";
    }
}

#[cfg(test)]
mod tests;
