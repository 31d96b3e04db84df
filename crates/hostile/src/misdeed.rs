//! Ways to misbehave on a wire, for either end.

use std::time::{Duration, Instant};

use doorbell_spec::{
    command::{Command, Direction, SglDescriptor},
    completion::Completion,
    status::generic,
    tcp::{CommonHeader, DIGEST_LEN, Fes, IcReq, IcResp, MAXH2CDATA_MIN, PDA_MAX, PFV, PduType, flags},
};
use zerocopy::IntoBytes;

use crate::{End, Framing, Part, Wire, pdu::crc};

/// Which end of the connection misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The one that sends commands.
    Host,
    /// The one that answers them.
    Controller,
}

/// The honest step in whose place a misdeed is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// ICReq of a host, ICResp of a controller.
    Initialize,
    /// A host's command, or a controller's answer to it.
    Command {
        /// The command; as a controller received it, or as a host would send it (its SGL is set to fit the data).
        command: Box<Command>,
        /// The data a host sends in the capsule, or a controller in one C2HData before its response.
        data: Vec<u8>,
    },
}

impl Step {
    /// A command of a host, or a controller's answer to it.
    pub fn command(command: Command, data: Vec<u8>) -> Self {
        Self::Command { command: Box::new(command), data }
    }

    /// The PDU that an honest end begins this step with.
    pub fn honest(&self, framing: Framing, role: Role) -> Vec<u8> {
        match (self, role) {
            (Self::Initialize, Role::Host) => IcReq::new(0, framing.bits(), 0).as_bytes().to_vec(),
            (Self::Initialize, Role::Controller) => IcResp::new(0, framing.bits(), MAXH2CDATA_MIN).as_bytes().to_vec(),
            (Self::Command { command, data }, Role::Host) => {
                let mut command = **command;
                let len = data.len() as u32;
                if len > 0 {
                    command.set_sgl(SglDescriptor::in_capsule(0, len));
                } else if command.direction() != Direction::ControllerToHost {
                    command.set_sgl(SglDescriptor::transport(0));
                }
                framing.command(&command, data)
            }
            (Self::Command { command, data }, Role::Controller) if data.is_empty() => {
                framing.response(&Completion::new(command.cid.get(), 0, generic::SUCCESS, 0))
            }
            (Self::Command { command, data }, Role::Controller) => {
                framing.c2h_data(Part { cccid: command.cid.get(), last: true, ..Part::default() }, data)
            }
        }
    }
}

/// What the specification has the other end do about a misdeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It ends the connection with a termination request of this status.
    Told(Fes),
    /// It closes the connection; there is nobody to tell.
    Closes,
    /// It waits as long as its own deadline for a stalled peer, then closes the connection; sooner, if a flood breaks another rule.
    Waits,
    /// It goes on; what a wrong data digest belongs to fails alone.
    Endures,
}

/// A way to misbehave. Which ones make sense in place of a step is what [`Misdeed::applies`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misdeed {
    /// 64 KiB that are no PDU.
    Garbage,
    /// Half a PDU, and nothing more.
    HalfThenSilence,
    /// Half a PDU, and the end of the stream.
    HalfThenClose,
    /// A header that says it is shorter than its type's is.
    HlenShort,
    /// A header that says it is longer than its type's is.
    HlenLong,
    /// A PDU that says it is shorter than its header.
    PlenShort,
    /// A PDU that says it is 4 GiB long.
    PlenHuge,
    /// Data that begins inside the header.
    PdoInHeader,
    /// Data that begins behind the end of the PDU.
    PdoBeyond,
    /// A header digest with one bit wrong.
    HeaderDigest,
    /// A data digest with one bit wrong.
    DataDigest,
    /// Digest flags that are the opposite of what was agreed on.
    DigestFlags,
    /// Flags that the type does not define.
    UndefinedFlags,
    /// A PDU type that nobody has defined.
    UnknownType,
    /// A PDU that only the other end sends.
    OtherDirection,
    /// ICReq or ICResp after they have been.
    InitializeAgain,
    /// ICReq or ICResp of a format version to come.
    InitializeVersion,
    /// ICReq or ICResp with an alignment that cannot be.
    InitializeAlignment,
    /// A termination request without a reason.
    Terminate,
    /// The honest PDU, a byte at a time.
    ByteAtATime,
    /// The honest PDU over and over, without ever reading, until the other end takes no more of it for half a second.
    Flood,
    /// Nothing at all.
    Stall,
}

impl Misdeed {
    /// All of them.
    pub const ALL: [Self; 22] = [
        Self::Garbage,
        Self::HalfThenSilence,
        Self::HalfThenClose,
        Self::HlenShort,
        Self::HlenLong,
        Self::PlenShort,
        Self::PlenHuge,
        Self::PdoInHeader,
        Self::PdoBeyond,
        Self::HeaderDigest,
        Self::DataDigest,
        Self::DigestFlags,
        Self::UndefinedFlags,
        Self::UnknownType,
        Self::OtherDirection,
        Self::InitializeAgain,
        Self::InitializeVersion,
        Self::InitializeAlignment,
        Self::Terminate,
        Self::ByteAtATime,
        Self::Flood,
        Self::Stall,
    ];

    /// Whether it can be done in place of a step with PDUs framed so.
    pub fn applies(self, framing: Framing, step: &Step) -> bool {
        let (initialize, has_data) = match step {
            Step::Initialize => (true, false),
            Step::Command { data, .. } => (false, !data.is_empty()),
        };
        match self {
            Self::PdoInHeader | Self::PdoBeyond => has_data,
            Self::HeaderDigest => !initialize && framing.header_digest,
            Self::DataDigest => has_data && framing.data_digest,
            Self::DigestFlags | Self::InitializeAgain | Self::Flood => !initialize,
            Self::InitializeVersion | Self::InitializeAlignment => initialize,
            _ => true,
        }
    }

    /// What the other end is to do about it.
    pub fn fate(self) -> Fate {
        match self {
            Self::Garbage
            | Self::HlenShort
            | Self::HlenLong
            | Self::PlenShort
            | Self::PlenHuge
            | Self::PdoInHeader
            | Self::PdoBeyond
            | Self::DigestFlags
            | Self::UndefinedFlags
            | Self::UnknownType
            | Self::OtherDirection
            | Self::InitializeAlignment => Fate::Told(Fes::INVALID_PDU_HEADER_FIELD),
            Self::HeaderDigest => Fate::Told(Fes::HEADER_DIGEST_ERROR),
            Self::InitializeAgain => Fate::Told(Fes::PDU_SEQUENCE_ERROR),
            Self::InitializeVersion => Fate::Told(Fes::UNSUPPORTED_PARAMETER),
            Self::HalfThenClose | Self::Terminate => Fate::Closes,
            Self::HalfThenSilence | Self::Flood | Self::Stall => Fate::Waits,
            Self::DataDigest | Self::ByteAtATime => Fate::Endures,
        }
    }

    /// Does it on a wire, in place of an honest step; the wire stays open.
    ///
    /// # Errors
    /// How the connection ended before the misdeed was done; that is no surprise where the other end is quick to close.
    pub fn perform(self, wire: &mut Wire, role: Role, step: &Step) -> Result<(), End> {
        let mut pdu = step.honest(wire.framing, role);
        match self {
            Self::Garbage => wire.send(&garbage(64 << 10)),
            Self::HalfThenSilence => wire.send(&pdu[..pdu.len() / 2]),
            Self::HalfThenClose => {
                wire.send(&pdu[..pdu.len() / 2])?;
                wire.close();
                Ok(())
            }
            Self::Flood => flood(wire, &pdu),
            Self::Stall => Ok(()),
            Self::ByteAtATime => pdu.chunks(1).try_for_each(|byte| wire.send(byte)),
            Self::Terminate => {
                let kind = if role == Role::Host { PduType::H2C_TERM_REQ } else { PduType::C2H_TERM_REQ };
                wire.send(&wire.framing.terminate(kind, Fes(0), 0))
            }
            Self::InitializeAgain => wire.send(&Step::Initialize.honest(wire.framing, role)),
            Self::OtherDirection => {
                let other = if role == Role::Host { Role::Controller } else { Role::Host };
                wire.send(&step.honest(wire.framing, other))
            }
            _ => {
                self.spoil(&mut pdu);
                wire.send(&pdu)
            }
        }
    }

    /// Changes a field of an honest PDU. Its header digest, if it has one, is made to agree, so that the field is what is wrong.
    fn spoil(self, pdu: &mut [u8]) {
        let (hlen, has_digest) = (usize::from(pdu[2]), pdu[1] & flags::HDGST != 0);
        let last = pdu.len() - 1;
        match self {
            Self::HlenShort => pdu[2] -= 4,
            Self::HlenLong => pdu[2] = pdu[2].saturating_add(4),
            Self::PlenShort => pdu[4..8].copy_from_slice(&(size_of::<CommonHeader>() as u32).to_le_bytes()),
            Self::PlenHuge => pdu[4..8].copy_from_slice(&u32::MAX.to_le_bytes()),
            Self::PdoInHeader => pdu[3] = 8,
            Self::PdoBeyond => {
                let plen = hlen as u32 + 2 * DIGEST_LEN as u32 + 4;
                pdu[3] = u8::MAX;
                pdu[4..8].copy_from_slice(&plen.to_le_bytes());
            }
            Self::HeaderDigest => pdu[hlen] ^= 1,
            Self::DataDigest => pdu[last] ^= 1,
            Self::DigestFlags => pdu[1] ^= flags::HDGST,
            Self::UndefinedFlags => pdu[1] |= 0x80,
            Self::UnknownType => pdu[0] = 0x0a,
            Self::InitializeVersion => pdu[8..10].copy_from_slice(&(PFV + 1).to_le_bytes()),
            Self::InitializeAlignment => pdu[10] = PDA_MAX + 1,
            _ => unreachable!("{self:?} changes no field"),
        }
        if has_digest && self != Self::HeaderDigest {
            let digest = crc(&pdu[..hlen]);
            pdu[hlen..hlen + DIGEST_LEN].copy_from_slice(&digest);
        }
    }
}

/// Bytes that look random and are always the same; the first is no PDU type.
fn garbage(len: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut bytes: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(len)
    .collect();
    bytes[0] = 0xff;
    bytes
}

/// Sends a PDU over and over until the other end has taken nothing for half a second.
fn flood(wire: &mut Wire, pdu: &[u8]) -> Result<(), End> {
    let batch = pdu.repeat((64 << 10) / pdu.len() + 1);
    let deadline = Instant::now() + wire.patience;
    while Instant::now() < deadline {
        if wire.offer(&batch, Duration::from_millis(500))? < batch.len() {
            return Ok(());
        }
    }
    Ok(())
}
