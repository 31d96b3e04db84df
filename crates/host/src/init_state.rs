//! The steps of bringing a controller up, by the names that users of NVMe tools know.

use std::fmt;

/// A step of bring-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitState {
    /// Connect the admin queue, or open the device.
    ConnectAdminq,
    /// Leave a device alone that wants to be for a while.
    InitDelay,
    /// Read the version.
    ReadVs,
    /// Read the capabilities.
    ReadCap,
    /// See whether it is enabled.
    CheckEn,
    /// Wait until a controller that is still being enabled can be disabled.
    DisableWaitForReady1,
    /// Disable it.
    SetEn0,
    /// Wait until it is disabled.
    DisableWaitForReady0,
    /// Enable it.
    Enable,
    /// Wait until it is enabled.
    EnableWaitForReady1,
    /// Identify the controller.
    Identify,
    /// Say which events to report, and ask for them.
    ConfigureAer,
    /// Learn the keep alive time granted.
    SetKeepAliveTimeout,
    /// Agree on the number of I/O queues.
    SetNumQueues,
    /// List the active namespaces.
    IdentifyActiveNs,
    /// Identify each.
    IdentifyNs,
    /// Learn the identifiers of each.
    IdentifyIdDescs,
    /// Identify what its command set adds.
    IdentifyNsIocsSpecific,
    /// Read the state of the ANA groups.
    SetSupportedLogPages,
    /// Say what this host can do.
    SetHostFeature,
    /// Give it shadow doorbells.
    SetDbBufCfg,
    /// Say who this host is.
    SetHostId,
}

impl fmt::Display for InitState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ConnectAdminq => "CONNECT_ADMINQ",
            Self::InitDelay => "INIT_DELAY",
            Self::ReadVs => "READ_VS",
            Self::ReadCap => "READ_CAP",
            Self::CheckEn => "CHECK_EN",
            Self::DisableWaitForReady1 => "DISABLE_WAIT_FOR_READY_1",
            Self::SetEn0 => "SET_EN_0",
            Self::DisableWaitForReady0 => "DISABLE_WAIT_FOR_READY_0",
            Self::Enable => "ENABLE",
            Self::EnableWaitForReady1 => "ENABLE_WAIT_FOR_READY_1",
            Self::Identify => "IDENTIFY",
            Self::ConfigureAer => "CONFIGURE_AER",
            Self::SetKeepAliveTimeout => "SET_KEEP_ALIVE_TIMEOUT",
            Self::SetNumQueues => "SET_NUM_QUEUES",
            Self::IdentifyActiveNs => "IDENTIFY_ACTIVE_NS",
            Self::IdentifyNs => "IDENTIFY_NS",
            Self::IdentifyIdDescs => "IDENTIFY_ID_DESCS",
            Self::IdentifyNsIocsSpecific => "IDENTIFY_NS_IOCS_SPECIFIC",
            Self::SetSupportedLogPages => "SET_SUPPORTED_LOG_PAGES",
            Self::SetHostFeature => "SET_HOST_FEATURE",
            Self::SetDbBufCfg => "SET_DB_BUF_CFG",
            Self::SetHostId => "SET_HOST_ID",
        })
    }
}
