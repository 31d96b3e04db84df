//! NVMe/TCP protocol data units (TCP 3.6): the fixed headers that the codec of both ends
//! frames. Lengths and offsets are bytes. HPDA, CPDA and MAXR2T are 0-based.

use crate::command::Command;
use crate::completion::Completion;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length of a header or data digest, CRC-32C (TCP 3.3.1).
pub const DIGEST_LEN: usize = 4;
/// The PDU format version this crate speaks.
pub const PFV: u16 = 0;
/// The largest HPDA and CPDA: alignment to 128 bytes.
pub const PDA_MAX: u8 = 31;
/// The largest header of any PDU: ICReq and ICResp.
pub const HEADER_MAX: usize = 128;
/// The most bytes of the offending header that a termination request carries (TCP 3.6.2.4).
pub const TERM_DATA_MAX: usize = 128;
/// The least MAXH2CDATA a controller may grant (TCP 3.6.2.3).
pub const MAXH2CDATA_MIN: u32 = 4096;
/// Port that the discovery service listens on by default (TCP 3.1).
pub const DISCOVERY_PORT: u16 = 8009;
/// Port that NVM subsystems listen on by default (TCP 3.1).
pub const IO_PORT: u16 = 4420;

open_code! {
    /// PDU type (TCP 3.6.1).
    #[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
    PduType(u8) {
        ICREQ = 0x00, "ICReq";
        ICRESP = 0x01, "ICResp";
        H2C_TERM_REQ = 0x02, "H2CTermReq";
        C2H_TERM_REQ = 0x03, "C2HTermReq";
        CAPSULE_CMD = 0x04, "CapsuleCmd";
        CAPSULE_RESP = 0x05, "CapsuleResp";
        H2C_DATA = 0x06, "H2CData";
        C2H_DATA = 0x07, "C2HData";
        R2T = 0x09, "R2T";
    }
}

impl PduType {
    /// The HLEN this type must have; none for an unknown type.
    pub const fn hlen(self) -> Option<u8> {
        match self {
            Self::ICREQ | Self::ICRESP => Some(128),
            Self::CAPSULE_CMD => Some(72),
            Self::CAPSULE_RESP
            | Self::H2C_TERM_REQ
            | Self::C2H_TERM_REQ
            | Self::H2C_DATA
            | Self::C2H_DATA
            | Self::R2T => Some(24),
            _ => None,
        }
    }

    /// The flags this type defines (TCP 3.6.2).
    pub const fn flags(self) -> u8 {
        match self {
            Self::CAPSULE_CMD => flags::HDGST | flags::DDGST,
            Self::CAPSULE_RESP | Self::R2T => flags::HDGST,
            Self::H2C_DATA => flags::HDGST | flags::DDGST | flags::LAST,
            Self::C2H_DATA => flags::HDGST | flags::DDGST | flags::LAST | flags::SUCCESS,
            _ => 0,
        }
    }

    /// Whether the PDU may carry data after its header.
    pub const fn carries_data(self) -> bool {
        matches!(self, Self::CAPSULE_CMD | Self::H2C_DATA | Self::C2H_DATA | Self::H2C_TERM_REQ | Self::C2H_TERM_REQ)
    }

    /// Whether a host sends it; else a controller does. None for an unknown type.
    pub const fn from_host(self) -> Option<bool> {
        match self {
            Self::ICREQ | Self::H2C_TERM_REQ | Self::CAPSULE_CMD | Self::H2C_DATA => Some(true),
            Self::ICRESP | Self::C2H_TERM_REQ | Self::CAPSULE_RESP | Self::C2H_DATA | Self::R2T => Some(false),
            _ => None,
        }
    }
}

/// Bits of the FLAGS byte of the common header (TCP 3.6.1).
pub mod flags {
    /// A header digest follows the header.
    pub const HDGST: u8 = 0x01;
    /// A data digest follows the data.
    pub const DDGST: u8 = 0x02;
    /// H2CData, C2HData: the last PDU of the transfer.
    pub const LAST: u8 = 0x04;
    /// C2HData: the command succeeded and no response capsule follows.
    pub const SUCCESS: u8 = 0x08;
}

/// Bits of the DGST byte of ICReq and ICResp (TCP 3.6.2.2).
pub mod digest {
    /// Header digest enabled.
    pub const HDGST: u8 = 0x01;
    /// Data digest enabled.
    pub const DDGST: u8 = 0x02;
}

open_code! {
    /// Fatal error status of a termination request (TCP 3.6.2.4, 3.6.2.5).
    Fes(u16) {
        INVALID_PDU_HEADER_FIELD = 1, "Invalid PDU Header Field";
        PDU_SEQUENCE_ERROR = 2, "PDU Sequence Error";
        HEADER_DIGEST_ERROR = 3, "Header Digest Error";
        DATA_TRANSFER_OUT_OF_RANGE = 4, "Data Transfer Out of Range";
        DATA_TRANSFER_LIMIT_EXCEEDED = 5, "Data Transfer Limit Exceeded";
        UNSUPPORTED_PARAMETER = 6, "Unsupported Parameter";
    }
}

impl Fes {
    /// Code 5 sent by a host (TCP 3.6.2.4); sent by a controller it is "Data Transfer Limit
    /// Exceeded".
    pub const R2T_LIMIT_EXCEEDED: Self = Self(5);

    /// The name of the code in an H2CTermReq, where code 5 has a meaning of its own.
    pub const fn host_name(self) -> &'static str {
        match self {
            Self::R2T_LIMIT_EXCEEDED => "R2T Limit Exceeded",
            _ => self.name(),
        }
    }
}

/// The first 8 bytes of every PDU (TCP 3.6.1).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct CommonHeader {
    /// PDU type.
    pub pdu_type: PduType,
    /// Bits of [`flags`].
    pub flags: u8,
    /// Length of the header, this one included, without digest.
    pub hlen: u8,
    /// Offset of the data from the start of the PDU; 0 without data.
    pub pdo: u8,
    /// Length of the PDU: header, digests, padding and data.
    pub plen: U32,
}

layout!(CommonHeader, 8, pdu_type @ 0, flags @ 1, hlen @ 2, pdo @ 3, plen @ 4);

impl CommonHeader {
    /// A header of the type's own HLEN; `plen` is the whole length of the PDU.
    #[inline]
    pub fn new(pdu_type: PduType, flags: u8, pdo: u8, plen: u32) -> Self {
        Self { pdu_type, flags, hlen: pdu_type.hlen().unwrap_or(0), pdo, plen: U32::new(plen) }
    }
}

/// Initialize Connection Request (TCP 3.6.2.2), 128 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct IcReq {
    /// Common header.
    pub common: CommonHeader,
    /// PDU format version.
    pub pfv: U16,
    /// Host PDU data alignment: data the controller sends starts at a multiple of
    /// `(hpda + 1) * 4` bytes; 0 to 31.
    pub hpda: u8,
    /// Bits of [`digest`] that the host asks for.
    pub digest: u8,
    /// Most R2T PDUs outstanding for a command, 0-based.
    pub maxr2t: U32,
    /// Reserved.
    pub reserved: [u8; 112],
}

layout!(IcReq, 128, common @ 0, pfv @ 8, hpda @ 10, digest @ 11, maxr2t @ 12);

impl IcReq {
    /// A request of format version 0. `maxr2t` is 0-based.
    pub fn new(hpda: u8, digest: u8, maxr2t: u32) -> Self {
        Self {
            common: CommonHeader::new(PduType::ICREQ, 0, 0, 128),
            hpda,
            digest,
            maxr2t: U32::new(maxr2t),
            ..Self::new_zeroed()
        }
    }
}

/// Initialize Connection Response (TCP 3.6.2.3), 128 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct IcResp {
    /// Common header.
    pub common: CommonHeader,
    /// PDU format version.
    pub pfv: U16,
    /// Controller PDU data alignment: data the host sends starts at a multiple of
    /// `(cpda + 1) * 4` bytes; 0 to 31.
    pub cpda: u8,
    /// Bits of [`digest`] that the connection uses.
    pub digest: u8,
    /// Most bytes of data in an H2CData PDU; a multiple of 4, at least 4096.
    pub maxh2cdata: U32,
    /// Reserved.
    pub reserved: [u8; 112],
}

layout!(IcResp, 128, common @ 0, pfv @ 8, cpda @ 10, digest @ 11, maxh2cdata @ 12);

impl IcResp {
    /// A response of format version 0.
    pub fn new(cpda: u8, digest: u8, maxh2cdata: u32) -> Self {
        Self {
            common: CommonHeader::new(PduType::ICRESP, 0, 0, 128),
            cpda,
            digest,
            maxh2cdata: U32::new(maxh2cdata),
            ..Self::new_zeroed()
        }
    }
}

/// Command capsule (TCP 3.6.2.6), 72 bytes, before digest, padding and in-capsule data.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct CapsuleCmd {
    /// Common header.
    pub common: CommonHeader,
    /// The submission queue entry.
    pub command: Command,
}

layout!(CapsuleCmd, 72, common @ 0, command @ 8);

/// Response capsule (TCP 3.6.2.7), 24 bytes, before digest.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct CapsuleResp {
    /// Common header.
    pub common: CommonHeader,
    /// The completion queue entry.
    pub completion: Completion,
}

layout!(CapsuleResp, 24, common @ 0, completion @ 8);

/// Header of H2CData (TCP 3.6.2.8) and C2HData (TCP 3.6.2.9), 24 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct DataHeader {
    /// Common header.
    pub common: CommonHeader,
    /// Command capsule CID: the command the data belongs to.
    pub cccid: U16,
    /// H2CData: transfer tag of the R2T this answers. C2HData: reserved.
    pub ttag: U16,
    /// Offset of the data from the start of the command's data, a multiple of 4.
    pub datao: U32,
    /// Length of the data.
    pub datal: U32,
    /// Reserved.
    pub reserved: [u8; 4],
}

layout!(DataHeader, 24, common @ 0, cccid @ 8, ttag @ 10, datao @ 12, datal @ 16, reserved @ 20);

/// Ready to Transfer (TCP 3.6.2.10), 24 bytes, before digest.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct R2t {
    /// Common header.
    pub common: CommonHeader,
    /// Command capsule CID: the command whose data is asked for.
    pub cccid: U16,
    /// Transfer tag that the H2CData PDUs repeat.
    pub ttag: U16,
    /// Offset of the data asked for from the start of the command's data, a multiple of 4.
    pub r2to: U32,
    /// Length of the data asked for.
    pub r2tl: U32,
    /// Reserved.
    pub reserved: [u8; 4],
}

layout!(R2t, 24, common @ 0, cccid @ 8, ttag @ 10, r2to @ 12, r2tl @ 16, reserved @ 20);

/// Termination request of either side (TCP 3.6.2.4, 3.6.2.5), 24 bytes, before the copy of
/// the PDU header in error (at most [`TERM_DATA_MAX`] bytes).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
pub struct TermReq {
    /// Common header.
    pub common: CommonHeader,
    /// Fatal error status, a [`Fes`].
    pub fes: U16,
    /// Fatal error information: for Invalid PDU Header Field the byte offset of the field in
    /// the header, for Unsupported Parameter that of the parameter, for Header Digest Error
    /// the digest that was received.
    pub fei: U32,
    /// Reserved.
    pub reserved: [u8; 10],
}

layout!(TermReq, 24, common @ 0, fes @ 8, fei @ 10, reserved @ 14);

impl TermReq {
    /// A termination request of type `H2C_TERM_REQ` or `C2H_TERM_REQ`, followed by `data_len`
    /// bytes of the PDU in error.
    pub fn new(pdu_type: PduType, fes: Fes, fei: u32, data_len: u8) -> Self {
        Self {
            common: CommonHeader::new(pdu_type, 0, 0, 24 + u32::from(data_len)),
            fes: U16::new(fes.0),
            fei: U32::new(fei),
            reserved: [0; 10],
        }
    }

    /// The fatal error status.
    pub fn fes(&self) -> Fes {
        Fes(self.fes.get())
    }
}

/// The alignment in bytes that an HPDA or CPDA value asks for, 4 to 128; larger values than
/// [`PDA_MAX`] count as that.
#[inline]
pub const fn pda_alignment(pda: u8) -> usize {
    let pda = if pda > PDA_MAX { PDA_MAX } else { pda };
    (pda as usize + 1) * 4
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn headers_are_laid_out_by_bytes() {
        let icreq = IcReq::new(3, digest::HDGST | digest::DDGST, 15);
        assert_eq!(icreq.as_bytes()[..16], [0, 0, 128, 0, 128, 0, 0, 0, 0, 0, 3, 3, 15, 0, 0, 0]);
        let icresp = IcResp::new(0, digest::HDGST, 0x2_0000);
        assert_eq!(icresp.as_bytes()[..16], [1, 0, 128, 0, 128, 0, 0, 0, 0, 0, 0, 1, 0, 0, 2, 0]);
        let term = TermReq::new(PduType::C2H_TERM_REQ, Fes::INVALID_PDU_HEADER_FIELD, 0x0102, 72);
        assert_eq!(term.as_bytes()[..14], [3, 0, 24, 0, 96, 0, 0, 0, 1, 0, 2, 1, 0, 0]);
    }

    #[test]
    fn types_know_their_headers() {
        for &pdu_type in PduType::ALL {
            let hlen = pdu_type.hlen().unwrap();
            assert!(usize::from(hlen) <= HEADER_MAX, "{pdu_type}");
            assert!(pdu_type.from_host().is_some(), "{pdu_type}");
            assert_eq!(CommonHeader::new(pdu_type, 0, 0, 0).hlen, hlen);
        }
        assert_eq!(PduType(8).hlen(), None);
        assert_eq!(PduType(8).from_host(), None);
        assert_eq!(PduType::R2T.flags(), flags::HDGST);
        assert!(!PduType::R2T.carries_data());
    }

    #[test]
    fn code_five_depends_on_the_sender() {
        assert_eq!(Fes(5).name(), "Data Transfer Limit Exceeded");
        assert_eq!(Fes(5).host_name(), "R2T Limit Exceeded");
        assert_eq!(Fes(2).host_name(), "PDU Sequence Error");
        assert_eq!(Fes(7).host_name(), "Unknown");
    }

    #[test]
    fn alignment_is_bounded() {
        assert_eq!(pda_alignment(0), 4);
        assert_eq!(pda_alignment(31), 128);
        assert_eq!(pda_alignment(255), 128);
    }

    proptest! {
        #[test]
        fn any_bytes_are_headers(bytes: [[u8; 32]; 4]) {
            let bytes = bytes.as_bytes();
            let (icreq, _) = IcReq::read_from_prefix(bytes).unwrap();
            prop_assert_eq!(icreq.as_bytes(), bytes);
            let (data, _) = DataHeader::read_from_prefix(bytes).unwrap();
            prop_assert_eq!(&data.datao.get().to_le_bytes()[..], &bytes[12..16]);
            let (r2t, _) = R2t::read_from_prefix(bytes).unwrap();
            prop_assert_eq!((r2t.r2to.get(), r2t.r2tl.get()), (data.datao.get(), data.datal.get()));
            let (capsule, _) = CapsuleCmd::read_from_prefix(bytes).unwrap();
            prop_assert_eq!(capsule.command.as_bytes(), &bytes[8..72]);
            let (term, _) = TermReq::read_from_prefix(bytes).unwrap();
            prop_assert_eq!(&term.fes().0.to_le_bytes()[..], &bytes[8..10]);
            let header = data.common;
            let _ = (header.pdu_type.hlen(), header.pdu_type.flags(), header.pdu_type.name());
        }
    }
}
