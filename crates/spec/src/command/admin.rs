//! Admin commands (Base 5): builders for the host, readers for the target.

use super::{AdminOpcode, Command, Dptr, halves, high, low};
use crate::feature::{Fid, Select};
use crate::identify::{Cns, Csi};
use crate::log::Lid;
use zerocopy::little_endian::U32;

/// Identify (Base 5.1.13): `cntid` and `csi` matter to some CNS values, zero else. The data
/// is 4096 bytes.
pub fn identify(cns: Cns, nsid: u32, csi: Csi, cntid: u16) -> Command {
    let mut command = Command::new(AdminOpcode::IDENTIFY.0, nsid);
    command.cdw10 = U32::new(u32::from(cns.0) | u32::from(cntid) << 16);
    command.cdw11 = U32::new(u32::from(csi.0) << 24);
    command
}

/// The fields of an Identify command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdentifyRequest {
    /// Which data structure.
    pub cns: Cns,
    /// Namespace identifier, or where to start in a list.
    pub nsid: u32,
    /// I/O command set.
    pub csi: Csi,
    /// Controller identifier.
    pub cntid: u16,
    /// CNS specific identifier: an NVM set, a domain, an endurance group.
    pub cnssid: u16,
}

impl IdentifyRequest {
    /// Reads an Identify command.
    pub fn parse(command: &Command) -> Self {
        Self {
            cns: Cns(command.cdw10.get() as u8),
            nsid: command.nsid.get(),
            csi: Csi((command.cdw11.get() >> 24) as u8),
            cntid: high(command.cdw10),
            cnssid: low(command.cdw11),
        }
    }
}

/// The fields of a Get Log Page command (Base 5.1.12).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogRequest {
    /// Which log page.
    pub lid: Lid,
    /// Namespace identifier; [`NSID_ALL`](super::NSID_ALL) or 0 for the controller's own.
    pub nsid: u32,
    /// Bytes to read: a multiple of 4, at least 4; what a caller asks beside that is rounded
    /// down, to 4 at least.
    pub bytes: u64,
    /// Where to start, in bytes, a multiple of 4; an index when `ot` is set.
    pub offset: u64,
    /// Log specific parameter, 7 bits.
    pub lsp: u8,
    /// Log specific identifier.
    pub lsi: u16,
    /// Retain asynchronous event: reading does not clear the event.
    pub rae: bool,
    /// Offset type: `offset` is an index into a list of data structures.
    pub ot: bool,
    /// I/O command set.
    pub csi: Csi,
    /// UUID index, 7 bits.
    pub uuid_index: u8,
}

/// Get Log Page (Base 5.1.12).
pub fn get_log_page(request: &LogRequest) -> Command {
    let numd = (request.bytes / 4).saturating_sub(1).min(u64::from(u32::MAX)) as u32;
    let mut command = Command::new(AdminOpcode::GET_LOG_PAGE.0, request.nsid);
    let specific = u16::from(request.lid.0) | u16::from(request.lsp & 0x7f) << 8 | u16::from(request.rae) << 15;
    command.cdw10 = halves(specific, numd as u16);
    command.cdw11 = halves((numd >> 16) as u16, request.lsi);
    command.cdw12 = U32::new(request.offset as u32);
    command.cdw13 = U32::new((request.offset >> 32) as u32);
    command.cdw14 =
        U32::new(u32::from(request.uuid_index & 0x7f) | u32::from(request.ot) << 23 | u32::from(request.csi.0) << 24);
    command
}

impl LogRequest {
    /// The first 4096 bytes of a log page of the controller.
    pub fn new(lid: Lid) -> Self {
        Self {
            lid,
            nsid: 0,
            bytes: 4096,
            offset: 0,
            lsp: 0,
            lsi: 0,
            rae: false,
            ot: false,
            csi: Csi::NVM,
            uuid_index: 0,
        }
    }

    /// Reads a Get Log Page command. `bytes` is at most 16 GiB.
    pub fn parse(command: &Command) -> Self {
        let cdw10 = command.cdw10.get();
        let cdw14 = command.cdw14.get();
        let numd = u64::from(high(command.cdw10)) | u64::from(low(command.cdw11)) << 16;
        Self {
            lid: Lid(cdw10 as u8),
            nsid: command.nsid.get(),
            bytes: (numd + 1) * 4,
            offset: u64::from(command.cdw12.get()) | u64::from(command.cdw13.get()) << 32,
            lsp: (cdw10 >> 8) as u8 & 0x7f,
            lsi: high(command.cdw11),
            rae: cdw10 & 0x8000 != 0,
            ot: cdw14 & 0x0080_0000 != 0,
            csi: Csi((cdw14 >> 24) as u8),
            uuid_index: cdw14 as u8 & 0x7f,
        }
    }
}

/// Get Features (Base 5.1.11). `cdw11` is the feature's own parameter, mostly zero.
pub fn get_features(fid: Fid, select: Select, nsid: u32, cdw11: u32) -> Command {
    let mut command = Command::new(AdminOpcode::GET_FEATURES.0, nsid);
    command.cdw10 = U32::new(u32::from(fid.0) | u32::from(select.0 & 7) << 8);
    command.cdw11 = U32::new(cdw11);
    command
}

/// Set Features (Base 5.1.25). `save` keeps the value over resets and power cycles.
pub fn set_features(fid: Fid, save: bool, nsid: u32, cdw11: u32) -> Command {
    let mut command = Command::new(AdminOpcode::SET_FEATURES.0, nsid);
    command.cdw10 = U32::new(u32::from(fid.0) | u32::from(save) << 31);
    command.cdw11 = U32::new(cdw11);
    command
}

impl Command {
    /// The feature identifier of Get Features and Set Features.
    pub fn fid(&self) -> Fid {
        Fid(self.cdw10.get() as u8)
    }

    /// Which value Get Features asks for.
    pub fn select(&self) -> Select {
        Select((self.cdw10.get() >> 8) as u8 & 7)
    }

    /// Whether Set Features asks to save the value.
    pub fn save(&self) -> bool {
        self.cdw10.get() >> 31 != 0
    }
}

/// Asynchronous Event Request (Base 5.1.2).
pub fn async_event_request() -> Command {
    Command::new(AdminOpcode::ASYNC_EVENT_REQUEST.0, 0)
}

/// Keep Alive (Base 5.1.14).
pub fn keep_alive() -> Command {
    Command::new(AdminOpcode::KEEP_ALIVE.0, 0)
}

/// Abort (Base 5.1.1): command `cid` of submission queue `sqid`. Bit 0 of the completion's
/// dword 0 is clear when the command was aborted.
pub fn abort(sqid: u16, cid: u16) -> Command {
    let mut command = Command::new(AdminOpcode::ABORT.0, 0);
    command.cdw10 = halves(sqid, cid);
    command
}

/// The fields of an Abort command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortRequest {
    /// Submission queue of the command to abort.
    pub sqid: u16,
    /// Command identifier of the command to abort.
    pub cid: u16,
}

impl AbortRequest {
    /// Reads an Abort command.
    pub fn parse(command: &Command) -> Self {
        Self { sqid: low(command.cdw10), cid: high(command.cdw10) }
    }
}

/// Create I/O Completion Queue (Base 5.2.1): physically contiguous at bus address `prp1`.
/// `qsize` is 0-based; `vector` enables interrupts on that vector.
pub fn create_io_cq(qid: u16, qsize: u16, prp1: u64, vector: Option<u16>) -> Command {
    let mut command = Command::new(AdminOpcode::CREATE_IO_CQ.0, 0);
    command.dptr = Dptr::prp(prp1, 0);
    command.cdw10 = halves(qid, qsize);
    let enable = u16::from(vector.is_some()) << 1;
    command.cdw11 = halves(QueueRequest::CONTIGUOUS | enable, vector.unwrap_or(0));
    command
}

/// Create I/O Submission Queue (Base 5.2.2): physically contiguous at bus address `prp1`,
/// completing to `cqid`. `qsize` is 0-based; `qprio` is 0 (urgent) to 3 (low), used with
/// weighted round robin only.
pub fn create_io_sq(qid: u16, qsize: u16, prp1: u64, cqid: u16, qprio: u8) -> Command {
    let mut command = Command::new(AdminOpcode::CREATE_IO_SQ.0, 0);
    command.dptr = Dptr::prp(prp1, 0);
    command.cdw10 = halves(qid, qsize);
    command.cdw11 = halves(QueueRequest::CONTIGUOUS | u16::from(qprio & 3) << 1, cqid);
    command
}

/// Delete I/O Submission Queue (Base 5.2.4).
pub fn delete_io_sq(qid: u16) -> Command {
    delete(AdminOpcode::DELETE_IO_SQ, qid)
}

/// Delete I/O Completion Queue (Base 5.2.3), once its submission queues are gone.
pub fn delete_io_cq(qid: u16) -> Command {
    delete(AdminOpcode::DELETE_IO_CQ, qid)
}

/// Doorbell Buffer Config (Base 5.2.5): shadow doorbells at bus address `shadow`, event indexes at `events`, a memory page each.
pub fn doorbell_buffer_config(shadow: u64, events: u64) -> Command {
    let mut command = Command::new(AdminOpcode::DOORBELL_BUFFER_CONFIG.0, 0);
    command.dptr = Dptr::prp(shadow, events);
    command
}

/// The fields that the commands to create and delete I/O queues share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueRequest {
    /// Queue identifier.
    pub qid: u16,
    /// Entries, 0-based.
    pub qsize: u16,
    /// The queue is physically contiguous.
    pub pc: bool,
    /// Completion queue: interrupts are enabled.
    pub ien: bool,
    /// Submission queue: priority class.
    pub qprio: u8,
    /// The completion queue of a submission queue, the interrupt vector of a completion queue.
    pub cqid_or_vector: u16,
    /// Bus address of the queue, or of its PRP list.
    pub prp1: u64,
}

impl QueueRequest {
    const CONTIGUOUS: u16 = 1;

    /// Reads a Create or Delete I/O Submission or Completion Queue command.
    pub fn parse(command: &Command) -> Self {
        let flags = low(command.cdw11);
        Self {
            qid: low(command.cdw10),
            qsize: high(command.cdw10),
            pc: flags & Self::CONTIGUOUS != 0,
            ien: flags & 2 != 0,
            qprio: (flags >> 1) as u8 & 3,
            cqid_or_vector: high(command.cdw11),
            prp1: command.dptr.prp1(),
        }
    }
}

fn delete(opcode: AdminOpcode, qid: u16) -> Command {
    let mut command = Command::new(opcode.0, 0);
    command.cdw10 = halves(qid, 0);
    command
}
