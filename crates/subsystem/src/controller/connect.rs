//! Connect (Base 6.3): every field of the command and of its data checked, and the queue that it makes.

use std::{sync::Arc, time::Instant};

use doorbell_spec::{
    command::{Command, Direction},
    fabrics::{CNTLID_DYNAMIC, ConnectData, ConnectRequest, ConnectResponse, Fctype, cattr, connect_invalid, fctype},
    status::{Status, fabrics, generic},
};
use zerocopy::FromBytes;

use super::{Admin, IoQueue, Need, Transport};
use crate::subsystem::{NoQueue, Shared};

/// Most entries of an admin queue, as the Base specification bounds it (Base 3.1.4.8).
const MOST_ADMIN_ENTRIES: u32 = 4096;

/// The queue that a Connect made.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) session: Session,
    /// Entries of the submission queue.
    pub(crate) entries: u32,
    /// Whether responses tell the head of the submission queue.
    pub(crate) flow_control: bool,
    /// Dword 0 of the answer.
    pub(crate) dw0: u32,
}

/// What a connection carries.
#[derive(Debug)]
pub(crate) enum Session {
    /// Nothing yet: Connect must come.
    None,
    /// An admin queue.
    Admin(Box<Admin>),
    /// An I/O queue.
    Io(IoQueue),
}

impl Session {
    /// Checks a command that is to come with `len` bytes of data, or to take them.
    ///
    /// # Errors
    /// The status to answer with.
    #[inline]
    pub(crate) fn check(&self, command: &Command, len: u32) -> Result<Need, Status> {
        let most = match self {
            Self::Io(queue) => return queue.check(command, len),
            Self::None => {
                if !command.is_fabrics() || fctype(command) != Fctype::CONNECT {
                    return Err(generic::COMMAND_SEQUENCE_ERROR.with_dnr());
                }
                if len as usize != size_of::<ConnectData>() {
                    return Err(generic::DATA_SGL_LENGTH_INVALID.with_dnr());
                }
                len
            }
            Self::Admin(admin) => {
                admin.check(command)?;
                admin.max_transfer()
            }
        };
        if command.fuse() != 0 || !command.uses_sgl() || len > most {
            return Err(generic::INVALID_FIELD.with_dnr());
        }
        let sends = command.direction() == Direction::HostToController && len > 0;
        Ok(if sends { Need::Data { skew: 0 } } else { Need::Nothing })
    }
}

/// Carries out a Connect that came over `transport`, with its data.
///
/// # Errors
/// The status of the answer and its dword 0.
pub(crate) fn connect(
    shared: &Arc<Shared>,
    command: &Command,
    data: &[u8],
    transport: Transport,
    now: Instant,
) -> Result<Accepted, (Status, u32)> {
    let request = ConnectRequest::parse(command);
    let data = ConnectData::ref_from_bytes(data).map_err(|_| (generic::DATA_SGL_LENGTH_INVALID.with_dnr(), 0))?;
    if request.recfmt != 0 {
        return Err((fabrics::CONNECT_INCOMPATIBLE_FORMAT.with_dnr(), 0));
    }
    let in_command = |offset| Err(connect_invalid(offset, false));
    let in_data = |offset| Err(connect_invalid(offset, true));

    let Ok(hostnqn) = data.hostnqn() else {
        return in_data(ConnectData::HOSTNQN_OFFSET);
    };
    let Some(subsystem) = data.subnqn().ok().and_then(|nqn| shared.find(nqn)) else {
        return in_data(ConnectData::SUBNQN_OFFSET);
    };
    let most = if request.qid == 0 { MOST_ADMIN_ENTRIES } else { subsystem.config.max_queue_entries };
    let most = transport.max_entries(most);
    let entries = u32::from(request.sqsize) + 1;
    if entries < 2 || entries > most {
        return in_command(ConnectRequest::SQSIZE_OFFSET);
    }
    if request.cattr & !(cattr::PRIORITY | cattr::DISABLE_SQ_FLOW_CONTROL | cattr::QUEUE_DELETION) != 0 {
        return in_command(ConnectRequest::CATTR_OFFSET);
    }
    if data.hostid == [0; 16] {
        return in_data(ConnectData::HOSTID_OFFSET);
    }
    if !subsystem.admits(hostnqn) {
        tracing::warn!("{hostnqn} is not allowed to connect to {}", subsystem.config.nqn);
        return Err((fabrics::CONNECT_INVALID_HOST.with_dnr(), 0));
    }

    let (session, cntlid) = if request.qid == 0 {
        if data.cntlid.get() != CNTLID_DYNAMIC {
            return in_data(ConnectData::CNTLID_OFFSET);
        }
        let Some(association) = subsystem.associate(data.hostid, hostnqn) else {
            return Err((fabrics::CONNECT_CONTROLLER_BUSY, 0));
        };
        let cntlid = association.cntlid;
        tracing::info!("{hostnqn} has controller {cntlid} of {}", subsystem.config.nqn);
        (Session::Admin(Box::new(Admin::new(shared.clone(), association, transport, request.kato, now))), cntlid)
    } else {
        if subsystem.is_discovery {
            return in_command(ConnectRequest::QID_OFFSET);
        }
        let Some(association) = subsystem.association(data.cntlid.get()) else {
            return in_data(ConnectData::CNTLID_OFFSET);
        };
        if association.hostnqn != hostnqn {
            return in_data(ConnectData::HOSTNQN_OFFSET);
        }
        if association.hostid != data.hostid {
            return in_data(ConnectData::HOSTID_OFFSET);
        }
        let period = match association.open(request.qid) {
            Ok(period) => period,
            Err(NoQueue::NotReady) => return Err((generic::COMMAND_SEQUENCE_ERROR.with_dnr(), 0)),
            Err(NoQueue::BadId) => return in_command(ConnectRequest::QID_OFFSET),
        };
        let cntlid = association.cntlid;
        (Session::Io(IoQueue::new(association, request.qid, period)), cntlid)
    };
    Ok(Accepted {
        session,
        entries,
        flow_control: request.cattr & cattr::DISABLE_SQ_FLOW_CONTROL == 0,
        dw0: ConnectResponse { cntlid, authreq: 0 }.dw0(),
    })
}
