//! What the connection manager tells.

use crate::Identifier;

/// Which [`Identifier`] an event is about: never used twice in a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token(pub(crate) u64);

/// What happened (`rdma_cm_event_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// The address is resolved and the identifier has a device.
    AddressResolved,
    /// It is not; the status says why.
    AddressError,
    /// The route is resolved.
    RouteResolved,
    /// It is not.
    RouteError,
    /// Somebody wants to connect: the event brings an identifier.
    ConnectRequest,
    /// The peer has answered, for an identifier without queue pair.
    ConnectResponse,
    /// Connecting or accepting failed.
    ConnectError,
    /// The peer does not answer, or there is none.
    Unreachable,
    /// The peer refused: see [`reject_reason`].
    Rejected,
    /// The connection stands.
    Established,
    /// It has ended.
    Disconnected,
    /// The device goes away: everything that belongs to it is to be dropped.
    DeviceRemoval,
    /// The address of the device has changed.
    AddressChange,
    /// The queue pair's number may be used again.
    TimewaitExit,
    /// One that a connected service never gets.
    Other(u32),
}

impl EventKind {
    pub(crate) fn from_code(code: u32) -> Self {
        match code {
            0 => Self::AddressResolved,
            1 => Self::AddressError,
            2 => Self::RouteResolved,
            3 => Self::RouteError,
            4 => Self::ConnectRequest,
            5 => Self::ConnectResponse,
            6 => Self::ConnectError,
            7 => Self::Unreachable,
            8 => Self::Rejected,
            9 => Self::Established,
            10 => Self::Disconnected,
            11 => Self::DeviceRemoval,
            14 => Self::AddressChange,
            15 => Self::TimewaitExit,
            other => Self::Other(other),
        }
    }
}

/// An event, acknowledged already.
#[derive(Debug)]
pub struct Event {
    /// Whom it is about; for [`EventKind::ConnectRequest`] who listens.
    pub token: Token,
    /// What happened.
    pub kind: EventKind,
    /// 0, a negative `errno`, or for [`EventKind::Rejected`] over InfiniBand and RoCE the reason.
    pub status: i32,
    /// What the peer sent along, as it came: may be longer than what it wrote, as InfiniBand fills it up with zeros.
    pub private_data: Box<[u8]>,
    /// RDMA READs that the peer lets us have in flight (of a response) or wants us to serve (of a request): the larger of the two
    /// that this end may use as its depth.
    pub initiator_depth: u8,
    /// RDMA READs that the peer wants to have in flight with us.
    pub responder_resources: u8,
    /// The new connection of a [`EventKind::ConnectRequest`]; dropping it refuses.
    pub request: Option<Identifier>,
}

/// What goes along when a connection is asked for or accepted.
#[derive(Clone, Copy, Debug)]
pub struct Parameters<'a> {
    /// At most 56 bytes of a request and 196 of an answer get through everywhere.
    pub private_data: &'a [u8],
    /// RDMA READs of the peer that this end serves at once.
    pub responder_resources: u8,
    /// RDMA READs that this end has in flight at once.
    pub initiator_depth: u8,
    /// Times that a packet is sent again before the connection is given up, 0-7. Of no effect when accepting.
    pub retry_count: u8,
    /// Times that a peer without posted receives is tried again, 0-6; 7 for ever.
    pub rnr_retry_count: u8,
}

/// The meaning of the status of [`EventKind::Rejected`]: a reason of the InfiniBand connection manager (IBA 12.6.7.2), or for iWARP a
/// negative `errno`.
pub fn reject_reason(status: i32) -> String {
    let meaning = match status {
        1 => "no queue pair available",
        2 => "no end-to-end context available",
        3 => "no resources available",
        4 => "time-out",
        5 => "unsupported request",
        6 => "invalid communication ID",
        7 => "invalid communication instance",
        8 => "invalid service ID: nobody listens on that port",
        9 => "invalid transport service type",
        10 => "stale connection: the peer still holds an earlier one",
        11 => "the resolved address does not exist",
        12 => "primary GID rejected",
        13 => "primary LID rejected",
        14 => "invalid primary service level",
        15 => "invalid primary traffic class",
        16 => "invalid primary hop limit",
        17 => "primary packet rate rejected",
        18 => "alternate GID rejected",
        19 => "alternate LID rejected",
        24 => "port and CM redirected",
        25 => "port redirected",
        26 => "invalid path MTU",
        27 => "insufficient responder resources",
        28 => "refused by the application",
        29 => "RNR retry count rejected",
        30 => "duplicate local communication ID",
        31 => "invalid class version",
        32 => "invalid flow label",
        33 => "invalid alternate flow label",
        negative if negative < 0 => {
            return format!("{} ({status})", std::io::Error::from_raw_os_error(-negative));
        }
        _ => "reason unknown",
    };
    format!("{meaning} ({status})")
}
