//! Fabrics commands (Base 6): Connect, Property Get and Set, Disconnect. Hosts build them,
//! targets read them.

use crate::command::{Command, FLAGS_SGL};
use crate::completion::Completion;
use crate::nqn::{self, FIELD_LEN, NqnError};
use crate::status::{Status, fabrics::CONNECT_INVALID_PARAMETERS};
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Opcode of every Fabrics command.
pub const OPCODE: u8 = 0x7f;
/// Controller identifier that asks the dynamic controller model for any controller.
pub const CNTLID_DYNAMIC: u16 = 0xffff;
/// Controller identifier that asks the static controller model for any controller.
pub const CNTLID_STATIC_ANY: u16 = 0xfffe;

open_code! {
    /// Fabrics command type (Base 6). Its two low bits give the direction of the data.
    Fctype(u8) {
        PROPERTY_SET = 0x00, "Property Set";
        CONNECT = 0x01, "Connect";
        PROPERTY_GET = 0x04, "Property Get";
        AUTH_SEND = 0x05, "Authentication Send";
        AUTH_RECV = 0x06, "Authentication Receive";
        DISCONNECT = 0x08, "Disconnect";
    }
}

/// The Fabrics command type: byte 4 of a command with opcode 7Fh.
#[inline]
pub fn fctype(command: &Command) -> Fctype {
    Fctype(command.nsid.get() as u8)
}

/// Bits of the CATTR field of Connect (Base 6.3).
pub mod cattr {
    /// Priority class of the queue, bits 1:0.
    pub const PRIORITY: u8 = 0x03;
    /// Disable submission queue flow control.
    pub const DISABLE_SQ_FLOW_CONTROL: u8 = 0x04;
    /// The host supports deleting single I/O queues with Disconnect.
    pub const QUEUE_DELETION: u8 = 0x08;
}

/// Connect (Base 6.3). `sqsize` is in entries, 0-based; `cattr` is bits of [`cattr`];
/// `kato` is the keep alive timeout in milliseconds, 0 for none, and counts on the admin
/// queue only. The data is [`ConnectData`].
pub fn connect(qid: u16, sqsize: u16, cattr: u8, kato: u32) -> Command {
    let mut command = new(Fctype::CONNECT);
    command.cdw10 = U32::new(u32::from(qid) << 16);
    command.cdw11 = U32::new(u32::from(sqsize) | u32::from(cattr) << 16);
    command.cdw12 = U32::new(kato);
    command
}

/// The fields of a Connect command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectRequest {
    /// Record format; 0 is the only one.
    pub recfmt: u16,
    /// Queue identifier; 0 for the admin queue.
    pub qid: u16,
    /// Submission queue size in entries, 0-based.
    pub sqsize: u16,
    /// Bits of [`cattr`].
    pub cattr: u8,
    /// Keep alive timeout in milliseconds, 0 for none.
    pub kato: u32,
}

impl ConnectRequest {
    /// Where RECFMT stands in the command, for [`connect_invalid`].
    pub const RECFMT_OFFSET: u16 = 40;
    /// Where QID stands in the command, for [`connect_invalid`].
    pub const QID_OFFSET: u16 = 42;
    /// Where SQSIZE stands in the command, for [`connect_invalid`].
    pub const SQSIZE_OFFSET: u16 = 44;
    /// Where CATTR stands in the command, for [`connect_invalid`].
    pub const CATTR_OFFSET: u16 = 46;
    /// Where KATO stands in the command, for [`connect_invalid`].
    pub const KATO_OFFSET: u16 = 48;

    /// Reads a Connect command.
    pub fn parse(command: &Command) -> Self {
        let cdw10 = command.cdw10.get();
        let cdw11 = command.cdw11.get();
        Self {
            recfmt: cdw10 as u16,
            qid: (cdw10 >> 16) as u16,
            sqsize: cdw11 as u16,
            cattr: (cdw11 >> 16) as u8,
            kato: command.cdw12.get(),
        }
    }
}

/// The data of Connect (Base 6.3), 1024 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct ConnectData {
    /// Host identifier: a UUID, not all zero.
    pub hostid: [u8; 16],
    /// Controller identifier: [`CNTLID_DYNAMIC`], or that of the association.
    pub cntlid: U16,
    /// Reserved.
    pub reserved18: [u8; 238],
    /// NQN of the NVM subsystem, NUL terminated.
    pub subnqn: [u8; FIELD_LEN],
    /// NQN of the host, NUL terminated.
    pub hostnqn: [u8; FIELD_LEN],
    /// Reserved.
    pub reserved768: [u8; 256],
}

layout!(ConnectData, 1024, hostid @ 0, cntlid @ 16, subnqn @ 256, hostnqn @ 512);

impl ConnectData {
    /// Where HOSTID stands in the data, for [`connect_invalid`].
    pub const HOSTID_OFFSET: u16 = 0;
    /// Where CNTLID stands in the data, for [`connect_invalid`].
    pub const CNTLID_OFFSET: u16 = 16;
    /// Where SUBNQN stands in the data, for [`connect_invalid`].
    pub const SUBNQN_OFFSET: u16 = 256;
    /// Where HOSTNQN stands in the data, for [`connect_invalid`].
    pub const HOSTNQN_OFFSET: u16 = 512;

    /// The data of a Connect. Fails on names that do not fit their fields.
    pub fn new(hostid: [u8; 16], cntlid: u16, subnqn: &str, hostnqn: &str) -> Result<Self, NqnError> {
        Ok(Self {
            hostid,
            cntlid: U16::new(cntlid),
            subnqn: nqn::to_field(subnqn)?,
            hostnqn: nqn::to_field(hostnqn)?,
            ..Self::new_zeroed()
        })
    }

    /// The NQN of the NVM subsystem.
    pub fn subnqn(&self) -> Result<&str, NqnError> {
        nqn::from_field(&self.subnqn)
    }

    /// The NQN of the host.
    pub fn hostnqn(&self) -> Result<&str, NqnError> {
        nqn::from_field(&self.hostnqn)
    }
}

/// What a successful Connect returns in dword 0 (Base 6.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectResponse {
    /// Identifier of the controller that the queue belongs to.
    pub cntlid: u16,
    /// Authentication requirements: bit 1 (ATR) in-band authentication, bit 2 (ASCR)
    /// authentication and secure channel concatenation.
    pub authreq: u16,
}

impl ConnectResponse {
    /// Bit of `authreq`: in-band authentication is required.
    pub const AUTHREQ_ATR: u16 = 0x0002;
    /// Bit of `authreq`: authentication and secure channel are required.
    pub const AUTHREQ_ASCR: u16 = 0x0004;

    /// Reads the completion of a successful Connect.
    pub fn parse(completion: &Completion) -> Self {
        let dw0 = completion.dw0.get();
        Self { cntlid: dw0 as u16, authreq: (dw0 >> 16) as u16 }
    }

    /// Dword 0 of the completion.
    pub fn dw0(self) -> u32 {
        u32::from(self.cntlid) | u32::from(self.authreq) << 16
    }
}

/// What a Connect that failed with Connect Invalid Parameters says of the culprit (Base 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidParameter {
    /// Invalid parameter offset: bytes from the start of the command, or of its data.
    pub ipo: u16,
    /// IATTR bit 0: the offset is into the data, not the command.
    pub in_data: bool,
}

impl InvalidParameter {
    /// Reads the completion of a Connect with that status.
    pub fn parse(completion: &Completion) -> Self {
        let dw0 = completion.dw0.get();
        Self { ipo: dw0 as u16, in_data: dw0 & 0x0001_0000 != 0 }
    }

    /// Dword 0 of the completion.
    pub fn dw0(self) -> u32 {
        u32::from(self.ipo) | u32::from(self.in_data) << 16
    }
}

/// The status and dword 0 with which a target refuses a Connect parameter at byte `ipo` of
/// the command, or of its data.
pub fn connect_invalid(ipo: u16, in_data: bool) -> (Status, u32) {
    let status = CONNECT_INVALID_PARAMETERS.with_dnr();
    (status, InvalidParameter { ipo, in_data }.dw0())
}

/// Property Get (Base 6.5) of the property at `offset`, of 8 bytes or of 4.
pub fn property_get(offset: u32, eight: bool) -> Command {
    let mut command = new(Fctype::PROPERTY_GET);
    command.cdw10 = U32::new(u32::from(eight));
    command.cdw11 = U32::new(offset);
    command
}

/// Property Set (Base 6.6) of the property at `offset`, of 8 bytes or of 4.
pub fn property_set(offset: u32, eight: bool, value: u64) -> Command {
    let mut command = new(Fctype::PROPERTY_SET);
    command.cdw10 = U32::new(u32::from(eight));
    command.cdw11 = U32::new(offset);
    command.cdw12 = U32::new(value as u32);
    if eight {
        command.cdw13 = U32::new((value >> 32) as u32);
    }
    command
}

/// The fields of Property Get and Property Set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PropertyRequest {
    /// Offset of the property, see [`register`](crate::register).
    pub offset: u32,
    /// 4 or 8 bytes; none for a size code that is reserved.
    pub size: Option<u8>,
    /// Property Set: the value; the high half is cleared for a property of 4 bytes.
    pub value: u64,
}

impl PropertyRequest {
    /// Reads a Property Get or Property Set command.
    pub fn parse(command: &Command) -> Self {
        let size = match command.cdw10.get() & 7 {
            0 => Some(4),
            1 => Some(8),
            _ => None,
        };
        let high = match size {
            Some(8) => command.cdw13.get(),
            _ => 0,
        };
        Self { offset: command.cdw11.get(), size, value: u64::from(command.cdw12.get()) | u64::from(high) << 32 }
    }
}

/// Disconnect (Base 6.4) of the I/O queue it is sent on.
pub fn disconnect() -> Command {
    new(Fctype::DISCONNECT)
}

/// The record format of Disconnect; 0 is the only one.
pub fn disconnect_recfmt(command: &Command) -> u16 {
    command.cdw10.get() as u16
}

fn new(fctype: Fctype) -> Command {
    let mut command = Command::new(OPCODE, u32::from(fctype.0));
    command.flags = FLAGS_SGL;
    command
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::string::String;

    #[test]
    fn commands_are_laid_out_by_bytes() {
        let command = connect(0x0102, 0x0304, 0x05, 0x0607_0809);
        let bytes = command.as_bytes();
        assert_eq!(bytes[..8], [0x7f, 0x40, 0, 0, 1, 0, 0, 0]);
        assert_eq!(bytes[40..52], [0, 0, 2, 1, 4, 3, 5, 0, 9, 8, 7, 6]);
        let command = property_set(0x14, true, 0x0807_0605_0403_0201);
        let bytes = command.as_bytes();
        assert_eq!(bytes[4], 0);
        assert_eq!(bytes[40..56], [1, 0, 0, 0, 0x14, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(property_get(0, true).as_bytes()[4], 4);
        assert_eq!(disconnect().as_bytes()[4], 8);
    }

    #[test]
    fn invalid_parameter_says_where() {
        let (status, dw0) = connect_invalid(ConnectData::HOSTNQN_OFFSET, true);
        assert_eq!(dw0, 0x0001_0200);
        assert!(status.dnr && status.is(CONNECT_INVALID_PARAMETERS));
        let completion = Completion::new(1, 0, status, dw0.into());
        let parsed = InvalidParameter::parse(&completion);
        assert_eq!(parsed, InvalidParameter { ipo: 512, in_data: true });
    }

    #[test]
    fn names_that_do_not_fit() {
        let long = "x".repeat(224);
        assert!(matches!(ConnectData::new([0; 16], 0, &long, "a"), Err(NqnError::TooLong(224))));
        assert!(matches!(ConnectData::new([0; 16], 0, "a", ""), Err(NqnError::Empty)));
    }

    proptest! {
        #[test]
        fn connect_round_trip(
            qid: u16, sqsize: u16, cattr: u8, kato: u32, cntlid: u16, authreq: u16, sub: String, host: String,
        ) {
            let request = ConnectRequest { recfmt: 0, qid, sqsize, cattr, kato };
            prop_assert_eq!(ConnectRequest::parse(&connect(qid, sqsize, cattr, kato)), request);
            let response = ConnectResponse { cntlid, authreq };
            let completion = Completion::new(0, 0, Status::SUCCESS, response.dw0().into());
            prop_assert_eq!(ConnectResponse::parse(&completion), response);
            if let Ok(data) = ConnectData::new([7; 16], cntlid, &sub, &host) {
                let data = ConnectData::read_from_bytes(data.as_bytes()).unwrap();
                prop_assert_eq!(data.subnqn(), Ok(&sub[..]));
                prop_assert_eq!(data.hostnqn(), Ok(&host[..]));
                prop_assert_eq!(data.cntlid.get(), cntlid);
            }
        }

        #[test]
        fn property_round_trip(offset: u32, eight: bool, value: u64) {
            let request = PropertyRequest::parse(&property_set(offset, eight, value));
            let value = if eight { value } else { value & 0xffff_ffff };
            prop_assert_eq!(request, PropertyRequest { offset, size: Some(if eight { 8 } else { 4 }), value });
            prop_assert_eq!(PropertyRequest::parse(&property_get(offset, eight)).offset, offset);
        }

        #[test]
        fn any_bytes_parse(bytes: [[u8; 32]; 2]) {
            let command: Command = zerocopy::transmute!(bytes);
            let request = PropertyRequest::parse(&command);
            prop_assert_eq!(request.size.is_some(), command.cdw10.get() & 7 < 2);
            prop_assert_eq!(u32::from(ConnectRequest::parse(&command).recfmt), command.cdw10.get() & 0xffff);
            prop_assert_eq!(disconnect_recfmt(&command), command.cdw10.get() as u16);
            prop_assert_eq!(fctype(&command).0, bytes[0][4]);
        }
    }
}
