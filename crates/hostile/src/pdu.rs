//! Honest PDUs: built as the two ends agreed to frame them, and taken apart.

use crc_fast::CrcAlgorithm::Crc32Iscsi;
use doorbell_spec::{
    command::Command,
    completion::Completion,
    tcp::{
        CapsuleCmd, CapsuleResp, CommonHeader, DIGEST_LEN, DataHeader, Fes, IcReq, IcResp, PduType, R2t, TermReq,
        digest, flags, pda_alignment,
    },
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// How PDUs are framed: what ICReq and ICResp agreed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Framing {
    /// A digest behind every header that may have one.
    pub header_digest: bool,
    /// A digest behind all data that may have one.
    pub data_digest: bool,
    /// The receiving end's HPDA or CPDA: data begins at a multiple of `(pda + 1) * 4` bytes.
    pub pda: u8,
}

/// Where the data of an H2CData or C2HData belongs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// The command's identifier.
    pub cccid: u16,
    /// The transfer tag of the R2T; 0 in C2HData.
    pub ttag: u16,
    /// Offset in the command's data, in bytes.
    pub datao: u32,
    /// Whether the flag of the last PDU is set.
    pub last: bool,
    /// Whether the flag that stands for a successful response is set (C2HData only).
    pub success: bool,
}

impl Framing {
    /// From the DGST byte of ICReq or ICResp, and the receiving end's HPDA or CPDA.
    pub fn new(dgst: u8, pda: u8) -> Self {
        Self { header_digest: dgst & digest::HDGST != 0, data_digest: dgst & digest::DDGST != 0, pda }
    }

    /// The DGST byte.
    pub fn bits(self) -> u8 {
        (u8::from(self.header_digest) * digest::HDGST) | (u8::from(self.data_digest) * digest::DDGST)
    }

    /// A command capsule with `data` in it.
    pub fn command(self, command: &Command, data: &[u8]) -> Vec<u8> {
        self.pdu(PduType::CAPSULE_CMD, 0, command.as_bytes(), data)
    }

    /// A response capsule.
    pub fn response(self, completion: &Completion) -> Vec<u8> {
        self.pdu(PduType::CAPSULE_RESP, 0, completion.as_bytes(), &[])
    }

    /// H2CData.
    pub fn h2c_data(self, part: Part, data: &[u8]) -> Vec<u8> {
        self.data(PduType::H2C_DATA, part, data)
    }

    /// C2HData.
    pub fn c2h_data(self, part: Part, data: &[u8]) -> Vec<u8> {
        self.data(PduType::C2H_DATA, part, data)
    }

    /// R2T for `len` bytes at `offset` of a command's data.
    pub fn r2t(self, cccid: u16, ttag: u16, offset: u32, len: u32) -> Vec<u8> {
        self.pdu(PduType::R2T, 0, &specific(cccid, ttag, offset, len), &[])
    }

    /// A termination request of a host or of a controller, without the header in error.
    pub fn terminate(self, kind: PduType, fes: Fes, fei: u32) -> Vec<u8> {
        TermReq::new(kind, fes, fei, 0).as_bytes().to_vec()
    }

    fn data(self, kind: PduType, part: Part, data: &[u8]) -> Vec<u8> {
        let last = if part.last { flags::LAST } else { 0 };
        let success = if part.success { flags::SUCCESS } else { 0 };
        self.pdu(kind, last | success, &specific(part.cccid, part.ttag, part.datao, data.len() as u32), data)
    }

    /// A PDU: `header` is what follows the common header.
    fn pdu(self, kind: PduType, mut bits: u8, header: &[u8], data: &[u8]) -> Vec<u8> {
        let mut head = size_of::<CommonHeader>() + header.len();
        if self.header_digest && kind.flags() & flags::HDGST != 0 {
            bits |= flags::HDGST;
            head += DIGEST_LEN;
        }
        let (mut pdo, mut plen) = (0, head);
        if !data.is_empty() {
            pdo = head.next_multiple_of(pda_alignment(self.pda));
            plen = pdo + data.len();
            if self.data_digest && kind.flags() & flags::DDGST != 0 {
                bits |= flags::DDGST;
                plen += DIGEST_LEN;
            }
        }
        let common = CommonHeader::new(kind, bits, pdo as u8, plen as u32);
        let mut bytes = [common.as_bytes(), header].concat();
        if bits & flags::HDGST != 0 {
            bytes.extend(crc(&bytes));
        }
        if !data.is_empty() {
            bytes.resize(pdo, 0);
            bytes.extend_from_slice(data);
            if bits & flags::DDGST != 0 {
                bytes.extend(data_crc(data));
            }
        }
        bytes
    }
}

fn specific(cccid: u16, ttag: u16, offset: u32, len: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..2].copy_from_slice(&cccid.to_le_bytes());
    bytes[2..4].copy_from_slice(&ttag.to_le_bytes());
    bytes[4..8].copy_from_slice(&offset.to_le_bytes());
    bytes[8..12].copy_from_slice(&len.to_le_bytes());
    bytes
}

/// The digest of a header.
pub(crate) fn crc(bytes: &[u8]) -> [u8; 4] {
    (crc_fast::checksum(Crc32Iscsi, bytes) as u32).to_le_bytes()
}

/// The digest of data counts it padded with zeroes to whole dwords (TCP 3.4.1.4).
fn data_crc(data: &[u8]) -> [u8; 4] {
    let mut padded = data.to_vec();
    padded.resize(data.len().next_multiple_of(4), 0);
    crc(&padded)
}

/// A PDU that has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pdu {
    /// The header, without digest.
    pub header: Vec<u8>,
    /// The data.
    pub data: Vec<u8>,
    /// Whether the digests that are there are right.
    pub intact: bool,
}

impl Pdu {
    /// Takes the first PDU off `stream`; none while it has not come whole.
    ///
    /// # Errors
    /// What about the lengths in the header makes it impossible to tell where the PDU ends.
    pub(crate) fn take(stream: &mut Vec<u8>) -> Result<Option<Self>, String> {
        let Ok((common, _)) = CommonHeader::read_from_prefix(stream) else { return Ok(None) };
        let (hlen, plen) = (usize::from(common.hlen), common.plen.get() as usize);
        let head = hlen + if common.flags & flags::HDGST != 0 { DIGEST_LEN } else { 0 };
        let tail = if common.flags & flags::DDGST != 0 { DIGEST_LEN } else { 0 };
        let at = if common.pdo == 0 { head } else { usize::from(common.pdo) };
        let impossible = || Err(format!("a PDU with an impossible header: {common:?}"));
        if hlen < size_of::<CommonHeader>() || plen < head {
            return impossible();
        }
        if stream.len() < plen {
            return Ok(None);
        }
        let bytes: Vec<u8> = stream.drain(..plen).collect();
        let mut intact = head == hlen || bytes[hlen..head] == crc(&bytes[..hlen]);
        let data = match plen {
            _ if plen == head => Vec::new(),
            _ if at < head || at + tail > plen => return impossible(),
            _ => bytes[at..plen - tail].to_vec(),
        };
        intact &= tail == 0 || bytes[plen - tail..] == data_crc(&data);
        Ok(Some(Self { header: bytes[..hlen].to_vec(), data, intact }))
    }

    /// Its type.
    pub fn kind(&self) -> PduType {
        PduType(self.header[0])
    }

    /// Its flags.
    pub fn flags(&self) -> u8 {
        self.header[1]
    }

    /// The header of an ICReq.
    pub fn icreq(&self) -> Option<IcReq> {
        self.view(PduType::ICREQ)
    }

    /// The header of an ICResp.
    pub fn icresp(&self) -> Option<IcResp> {
        self.view(PduType::ICRESP)
    }

    /// The command of a command capsule.
    pub fn command(&self) -> Option<Command> {
        self.view::<CapsuleCmd>(PduType::CAPSULE_CMD).map(|capsule| capsule.command)
    }

    /// The completion of a response capsule.
    pub fn completion(&self) -> Option<Completion> {
        self.view::<CapsuleResp>(PduType::CAPSULE_RESP).map(|capsule| capsule.completion)
    }

    /// The header of an H2CData.
    pub fn h2c_data(&self) -> Option<DataHeader> {
        self.view(PduType::H2C_DATA)
    }

    /// The header of a C2HData.
    pub fn c2h_data(&self) -> Option<DataHeader> {
        self.view(PduType::C2H_DATA)
    }

    /// The header of an R2T.
    pub fn r2t(&self) -> Option<R2t> {
        self.view(PduType::R2T)
    }

    /// The header of a termination request of either end.
    pub fn termination(&self) -> Option<TermReq> {
        self.view(PduType::C2H_TERM_REQ).or_else(|| self.view(PduType::H2C_TERM_REQ))
    }

    fn view<T: FromBytes + KnownLayout + Immutable>(&self, kind: PduType) -> Option<T> {
        (self.kind() == kind).then(|| T::read_from_bytes(&self.header).ok()).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pdu_survives_the_wire_however_it_is_framed() {
        for pda in [0, 3, 31] {
            for bits in 0..4 {
                let framing = Framing::new(bits, pda);
                assert_eq!(framing.bits(), bits);
                let part = Part { cccid: 1, ttag: 2, datao: 512, last: true, success: false };
                let mut stream = [framing.h2c_data(part, &[7; 510]), framing.r2t(3, 4, 5, 6)].concat();
                let data = Pdu::take(&mut stream).unwrap().unwrap();
                assert_eq!((data.data.len(), data.intact, data.flags() & flags::LAST), (510, true, flags::LAST));
                assert_eq!(data.h2c_data().unwrap().datal.get(), 510);
                let whole = stream.clone();
                for cut in 0..whole.len() {
                    assert_eq!(Pdu::take(&mut whole[..cut].to_vec()), Ok(None));
                }
                assert_eq!(Pdu::take(&mut stream).unwrap().unwrap().r2t().unwrap().r2to.get(), 5);
            }
        }
    }

    #[test]
    fn wrong_digests_and_impossible_lengths_are_noticed() {
        let framing = Framing::new(3, 0);
        let good = framing.command(&Command::new(1, 1), &[1; 64]);
        for (at, intact) in [(72, false), (80, false), (good.len() - 1, false), (0, true)] {
            let mut bytes = good.clone();
            bytes[at] ^= u8::from(!intact);
            assert_eq!(Pdu::take(&mut bytes).unwrap().unwrap().intact, intact, "byte {at}");
        }
        for (at, value) in [(2, 4), (3, 10), (4, 8)] {
            let mut bytes = good.clone();
            bytes[at] = value;
            assert!(Pdu::take(&mut bytes).is_err(), "byte {at}");
        }
    }
}
