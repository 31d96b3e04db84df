//! What the bodies about PDU streams share: their input, how a stream is cut, and digests made right.

use crc_fast::CrcAlgorithm::Crc32Iscsi;
use doorbell_spec::tcp::{DIGEST_LEN, DataHeader, PduType, flags};
use doorbell_tcp::Digests;
use rand_xoshiro::{
    SplitMix64,
    rand_core::{Rng, SeedableRng},
};
use zerocopy::FromBytes;

/// The mode bit that agrees on header digests.
pub const HEADER_DIGESTS: u8 = 0x10;
/// The mode bit that agrees on data digests.
pub const DATA_DIGESTS: u8 = 0x20;
/// The mode bit that makes every digest right, so that what lies behind them is reached.
pub const MEND: u8 = 0x40;

/// An input: the mode, how the stream is cut, and the stream.
pub struct Input {
    /// Bits 3:0 are the body's.
    pub mode: u8,
    pub digests: Digests,
    pub stream: Vec<u8>,
    cut: u8,
}

impl Input {
    /// None for less than the two bytes before the stream.
    pub fn new(data: &[u8]) -> Option<Self> {
        let (&[mode, cut], stream) = data.split_first_chunk()?;
        let digests = Digests { header: mode & HEADER_DIGESTS != 0, data: mode & DATA_DIGESTS != 0 };
        let mut stream = stream.to_vec();
        if mode & MEND != 0 {
            mend(&mut stream, digests);
        }
        Some(Self { mode, digests, stream, cut })
    }

    /// The pieces a part of the stream comes in: of random sizes up to one of several, and some dozens at most.
    pub fn pieces<'a>(&self, part: &'a [u8]) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut random = SplitMix64::seed_from_u64(self.cut.into());
        let most = [1, 7, 40, 300][usize::from(self.cut % 4)].max(part.len() as u64 / 32);
        let mut rest = part;
        std::iter::from_fn(move || {
            let len = (1 + random.next_u64() % most).min(rest.len() as u64);
            let (piece, after) = rest.split_at(len as usize);
            rest = after;
            (!piece.is_empty()).then_some(piece)
        })
    }
}

/// The place of a PDU in a stream, by its common header.
#[derive(Clone, Copy)]
pub struct Place {
    pub kind: PduType,
    /// First byte.
    pub at: usize,
    /// PLEN.
    pub len: usize,
    /// Bytes of the header and its digest.
    pub header: usize,
    /// Data, as it should lie in the PDU.
    pub data: (usize, usize),
}

/// The PDU that begins at `at`; none when its common header does not fit the stream or its lengths make no sense.
pub fn place(stream: &[u8], at: usize, digests: Digests) -> Option<Place> {
    let &[kind, _, _, pdo, a, b, c, d] = stream.get(at..)?.first_chunk()?;
    let kind = PduType(kind);
    let len = u32::from_le_bytes([a, b, c, d]) as usize;
    let has_digest = kind.flags() & flags::HDGST != 0 && digests.header;
    let header = usize::from(kind.hlen()?) + if has_digest { DIGEST_LEN } else { 0 };
    let tail = if kind.flags() & flags::DDGST != 0 && digests.data { DIGEST_LEN } else { 0 };
    let data = match len == header || !kind.carries_data() {
        true => (header, 0),
        false if kind.flags() & flags::DDGST == 0 => (header, len.checked_sub(header)?),
        false => (pdo.into(), len.checked_sub(usize::from(pdo) + tail)?),
    };
    (len >= header).then_some(Place { kind, at, len, header, data })
}

/// The PDUs of a stream as far as their lengths make sense.
pub fn places(stream: &[u8], digests: Digests) -> impl Iterator<Item = Place> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let place = place(stream, at, digests)?;
        at += place.len;
        Some(place)
    })
}

/// Whether the first of the data PDUs that `stream` has of a kind for a command and a transfer tag follow each other and are `len`
/// bytes, so that the command had all its data and no other.
pub fn covers(stream: &[u8], digests: Digests, kind: PduType, of: impl Fn(&DataHeader) -> bool, len: u32) -> bool {
    let pdus = places(stream, digests).filter(|pdu| pdu.kind == kind);
    let headers = pdus.filter_map(|pdu| Some(DataHeader::ref_from_prefix(stream.get(pdu.at..)?).ok()?.0));
    let mut end = 0;
    for header in headers.filter(|header| of(header)) {
        if header.datao.get() != end || header.datal.get() > len - end {
            return false;
        }
        end += header.datal.get();
        if end == len {
            return true;
        }
    }
    false
}

/// The digest of some bytes, padded with zeroes to whole dwords.
pub fn digest(bytes: &[u8]) -> [u8; DIGEST_LEN] {
    let mut digest = crc_fast::Digest::new(Crc32Iscsi);
    digest.update(bytes);
    digest.update(&[0; 3][..bytes.len().next_multiple_of(4) - bytes.len()]);
    (digest.finalize() as u32).to_le_bytes()
}

/// Sets the digest flags of each PDU to what was agreed, and its digests to what its bytes make.
pub fn mend(stream: &mut [u8], digests: Digests) {
    let mut at = 0;
    while let Some(Place { kind, len, header, data, .. }) = place(stream, at, digests) {
        let pdu = &mut stream[at..];
        let agreed = [(digests.header, flags::HDGST), (digests.data && data.1 > 0, flags::DDGST)];
        for (on, flag) in agreed.into_iter().filter(|(_, flag)| kind.flags() & flag != 0) {
            pdu[1] = pdu[1] & !flag | if on { flag } else { 0 };
        }
        let plain = usize::from(kind.hlen().unwrap_or(0));
        if let Some((head, found)) = pdu.get_mut(..header).and_then(|whole| whole.split_at_mut_checked(plain))
            && !found.is_empty()
        {
            found.copy_from_slice(&digest(head));
        }
        let tail = data.0 + data.1;
        if tail + DIGEST_LEN == len
            && let Some((bytes, found)) = pdu.get_mut(data.0..len).and_then(|all| all.split_at_mut_checked(data.1))
        {
            found.copy_from_slice(&digest(bytes));
        }
        at += len;
    }
}
