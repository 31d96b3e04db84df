//! The sending half of a link: a queue of PDUs as pieces of a header buffer and ranges of a region, sent as one gathered call.

use std::{collections::VecDeque, io, os::fd::BorrowedFd};

use doorbell_platform::{
    Range, Region,
    socket::{self, Segment, Sending},
};
use doorbell_spec::{
    command::Command,
    completion::Completion,
    tcp::{
        CapsuleCmd, CapsuleResp, CommonHeader, DIGEST_LEN, DataHeader, HEADER_MAX, PduType, R2t, TERM_DATA_MAX,
        TermReq, flags, pda_alignment,
    },
};
use zerocopy::{FromZeros, Immutable, IntoBytes};

use crate::{Digests, Role, Violation, ZeroCopy, ZeroCopyCounts, digest, digest::DataDigest};

/// Most bytes one call offers to the socket: more only pushes what was just made out of the cache.
const CALL_BYTES: u32 = 512 << 10;

/// Bytes whose digest is made in one go, and that are asked for of the data behind before: about what the processor can have on its
/// way at once.
const DIGEST_PIECE: u32 = 2048;
/// Pieces that are asked for before they are needed.
const DIGEST_LEAD: usize = 4;

/// A data PDU to be sent.
#[derive(Clone, Copy, Debug)]
pub struct DataPdu {
    /// The command's identifier.
    pub cccid: u16,
    /// The transfer tag of the R2T that asked for it; 0 for data to the host.
    pub ttag: u16,
    /// Where the data lies in the command's data, in bytes.
    pub datao: u32,
    /// Whether it is the last of the transfer.
    pub last: bool,
    /// Whether it stands for a successful response capsule too (data to the host only).
    pub success: bool,
}

/// The sending half of a link.
#[derive(Debug)]
pub struct Sender {
    role: Role,
    digests: Digests,
    alignment: usize,
    headers: Vec<u8>,
    segments: VecDeque<Segment>,
    queued: u64,
    sent: u64,
    /// How many of the first segments have gone into data digests, and the digest of the data that is the last of them.
    digested: usize,
    digest: DataDigest,
    zero_copy: Option<ZeroCopy>,
}

impl Sender {
    /// For one end of a connection; no digests and no padding until [`Sender::use_agreement`].
    pub fn new(role: Role) -> Self {
        Self {
            role,
            digests: Digests::default(),
            alignment: 4,
            headers: Vec::with_capacity(16 << 10),
            segments: VecDeque::with_capacity(256),
            queued: 0,
            sent: 0,
            digested: 0,
            digest: DataDigest::new(),
            zero_copy: None,
        }
    }

    /// Has the kernel send data from where it lies, where a PDU carries `threshold` bytes or more.
    ///
    /// # Errors
    /// The system's answer; nothing has changed.
    pub fn use_zero_copy(&mut self, socket: BorrowedFd<'_>, threshold: u32) -> io::Result<()> {
        socket::allow_zero_copy(socket)?;
        self.zero_copy = Some(ZeroCopy::new(threshold));
        Ok(())
    }

    /// What ICReq and ICResp agreed on, `pda` being the peer's CPDA or HPDA; holds from the next PDU on.
    pub fn use_agreement(&mut self, digests: Digests, pda: u8) {
        if !self.digests.data {
            // What is queued has none.
            self.digested = self.segments.len();
        }
        self.digests = digests;
        self.alignment = pda_alignment(pda);
    }

    /// The digests that are agreed on.
    pub fn digests(&self) -> Digests {
        self.digests
    }

    /// Position in the stream behind the last PDU queued.
    pub fn queued(&self) -> u64 {
        self.queued
    }

    /// Position in the stream up to which the socket has taken everything.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Position in the stream before which the memory of all data is its owner's again: where [`Sender::sent`] is, unless the kernel
    /// still sends from there.
    #[inline]
    pub fn released(&self) -> u64 {
        self.zero_copy.as_ref().and_then(ZeroCopy::oldest).unwrap_or(self.sent)
    }

    /// Whether nothing waits to be sent and all memory is back.
    #[inline]
    pub fn is_idle(&self) -> bool {
        self.is_empty() && self.released() == self.sent
    }

    /// Looks whether memory is back that the kernel sent from.
    ///
    /// # Errors
    /// What the system answered.
    #[inline]
    pub fn collect(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.zero_copy.as_mut().map_or(Ok(()), |zero_copy| zero_copy.collect(socket))
    }

    /// What became of calls that were to send without a copy.
    pub fn zero_copy_counts(&self) -> ZeroCopyCounts {
        self.zero_copy.as_ref().map_or_else(ZeroCopyCounts::default, ZeroCopy::counts)
    }

    /// Gives out what is known of memory that the kernel sends from; nothing more is sent so.
    pub fn take_zero_copy(&mut self) -> Option<ZeroCopy> {
        self.zero_copy.take()
    }

    /// Bytes of the buffer of headers, and of small data, that wait to be sent.
    pub fn header_bytes(&self) -> usize {
        self.headers.len()
    }

    /// Whether nothing waits to be sent.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Queues ICReq or ICResp, which carry no digest.
    pub fn initialize(&mut self, pdu: &(impl IntoBytes + Immutable)) {
        self.bytes(pdu.as_bytes());
    }

    /// Queues a command with the in-capsule data in `data`, if any.
    pub fn command(&mut self, command: &Command, data: &[Range]) {
        let pdu = CapsuleCmd { common: self.common(PduType::CAPSULE_CMD, 0, data), command: *command };
        self.pdu(pdu.as_bytes(), data, None);
    }

    /// Queues a command whose in-capsule data is small and not in a region.
    pub fn command_with_bytes(&mut self, command: &Command, data: &[u8]) {
        let whole = Range { offset: 0, len: data.len() as u32 };
        let pdu = CapsuleCmd { common: self.common(PduType::CAPSULE_CMD, 0, &[whole]), command: *command };
        self.header(pdu.as_bytes());
        self.pad(size_of::<CapsuleCmd>(), pdu.common.pdo);
        self.bytes(data);
        if self.digests.data {
            self.bytes(&digest::of_data(data));
        }
    }

    /// Queues a response capsule.
    pub fn response(&mut self, completion: &Completion) {
        let pdu = CapsuleResp { common: self.common(PduType::CAPSULE_RESP, 0, &[]), completion: *completion };
        self.header(pdu.as_bytes());
    }

    /// Queues a request for data (controllers).
    pub fn r2t(&mut self, cccid: u16, ttag: u16, offset: u32, len: u32) {
        let mut pdu = R2t::new_zeroed();
        pdu.common = self.common(PduType::R2T, 0, &[]);
        (pdu.cccid, pdu.ttag) = (cccid.into(), ttag.into());
        (pdu.r2to, pdu.r2tl) = (offset.into(), len.into());
        self.header(pdu.as_bytes());
    }

    /// Whether data is followed by its digest.
    pub fn digests_data(&self) -> bool {
        self.digests.data
    }

    /// Queues H2CData (hosts) or C2HData (controllers) with the data in `data`, at least one byte.
    pub fn data(&mut self, pdu: DataPdu, data: &[Range]) {
        self.data_with_checksum(pdu, data, None);
    }

    /// Queues such a PDU; `checksum` is the CRC-32C of the data, where that is known and the data comes in whole dwords.
    pub fn data_with_checksum(&mut self, pdu: DataPdu, data: &[Range], checksum: Option<u32>) {
        let kind = if self.role == Role::Host { PduType::H2C_DATA } else { PduType::C2H_DATA };
        let last = if pdu.last { flags::LAST } else { 0 };
        let success = if pdu.success { flags::SUCCESS } else { 0 };
        let mut header = DataHeader::new_zeroed();
        header.common = self.common(kind, last | success, data);
        (header.cccid, header.ttag, header.datao) = (pdu.cccid.into(), pdu.ttag.into(), pdu.datao.into());
        header.datal = total(data).into();
        self.pdu(header.as_bytes(), data, checksum);
    }

    /// Queues a termination request for the peer's breach of the protocol; nothing may follow it.
    pub fn terminate(&mut self, violation: &Violation) {
        let kind = if self.role == Role::Host { PduType::H2C_TERM_REQ } else { PduType::C2H_TERM_REQ };
        let header = &violation.header[..violation.header.len().min(TERM_DATA_MAX)];
        let pdu = TermReq::new(kind, violation.fes, violation.fei, header.len() as u8);
        self.bytes(pdu.as_bytes());
        self.bytes(header);
    }

    /// Offers what is queued to the socket until that takes no more; returns whether all has been taken.
    ///
    /// # Errors
    /// What the system answered, a full socket excepted.
    pub fn send(&mut self, socket: BorrowedFd<'_>, region: Option<&Region>) -> io::Result<bool> {
        let mut refused = false;
        while !self.segments.is_empty() {
            let ready = self.ready(region);
            let (count, sending) = self.next_call(ready, refused);
            refused = false;
            let batch = self.segments.iter().copied().take(count);
            match socket::send(socket, batch, &self.headers, region, sending) {
                Ok(taken) => {
                    if let (Sending::ZeroCopy, Some(zero_copy)) = (sending, &mut self.zero_copy) {
                        zero_copy.called(self.sent);
                    }
                    self.taken(taken);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => match &mut self.zero_copy {
                    Some(zero_copy) if sending == Sending::ZeroCopy && socket::is_out_of_notes(&error) => {
                        zero_copy.refused();
                        refused = true;
                    }
                    _ => return Err(error),
                },
            }
        }
        Ok(true)
    }

    /// How many of the first `ready` segments the next call is to offer, and how: with zero-copy, the data of a PDU that is long enough
    /// alone, unless that has just been refused, and what lies before such data by itself.
    #[inline]
    fn next_call(&self, ready: usize, refused: bool) -> (usize, Sending) {
        let Some(zero_copy) = &self.zero_copy else { return (ready, Sending::Copied) };
        let mut at = 0;
        while at < ready {
            // Between the data of two PDUs there is a header.
            let data = self.segments.range(at..ready).take_while(|segment| matches!(segment, Segment::Payload(_)));
            let (count, bytes) =
                data.fold((0, 0), |(count, bytes), segment| (count + 1, bytes + u64::from(segment.len())));
            let long = count > 0 && bytes >= u64::from(zero_copy.threshold);
            match at {
                0 if long && refused => return (count, Sending::Copied),
                0 if long => return (count, Sending::ZeroCopy),
                _ if long => return (at, Sending::CopiedBeforeMore),
                _ => at += count.max(1),
            }
        }
        (ready, Sending::Copied)
    }

    /// Moves everything that is queued to the end of `out` in place of a socket.
    pub fn unload(&mut self, region: Option<&Region>, out: &mut Vec<u8>) {
        if self.digests.data {
            self.make_digests(self.segments.len(), region);
        }
        let start = out.len();
        for segment in &self.segments {
            match *segment {
                Segment::Header { at, len } => out.extend_from_slice(&self.headers[at as usize..(at + len) as usize]),
                Segment::Payload(range) => {
                    let end = out.len();
                    out.resize(end + range.len as usize, 0);
                    region.expect("data needs memory").read(range.offset, &mut out[end..]);
                }
            }
        }
        self.taken(out.len() - start);
    }

    fn taken(&mut self, bytes: usize) {
        self.sent += bytes as u64;
        let mut left = bytes as u32;
        while let Some(segment) = self.segments.front_mut() {
            if segment.len() > left {
                match segment {
                    Segment::Header { at, len } => (*at, *len) = (*at + left, *len - left),
                    Segment::Payload(range) => *range = range.part(left, u32::MAX),
                }
                break;
            }
            left -= segment.len();
            self.segments.pop_front();
            self.digested = self.digested.saturating_sub(1);
        }
        self.forget_headers();
    }

    /// Drops header bytes that have been sent: all of them when nothing waits, the used half of the buffer when it has grown.
    fn forget_headers(&mut self) {
        if self.segments.is_empty() {
            self.headers.clear();
            return;
        }
        if self.headers.len() < 64 << 10 {
            return;
        }
        let first = self.segments.iter().find_map(|segment| match segment {
            Segment::Header { at, .. } => Some(*at),
            Segment::Payload(_) => None,
        });
        let used = first.unwrap_or(self.headers.len() as u32);
        if used as usize * 2 >= self.headers.len() {
            self.headers.drain(..used as usize);
            for segment in &mut self.segments {
                if let Segment::Header { at, .. } = segment {
                    *at -= used;
                }
            }
        }
    }

    /// The common header of a PDU with `data`, digests and padding as agreed.
    fn common(&self, kind: PduType, special: u8, data: &[Range]) -> CommonHeader {
        let mut end = usize::from(kind.hlen().expect("a type of ours"));
        let mut bits = special;
        if self.digests.header {
            bits |= flags::HDGST;
            end += DIGEST_LEN;
        }
        let mut pdo = 0;
        let mut plen = end as u32;
        if !data.is_empty() {
            pdo = end.next_multiple_of(self.alignment) as u8;
            plen = u32::from(pdo) + total(data);
            if self.digests.data {
                bits |= flags::DDGST;
                plen += DIGEST_LEN as u32;
            }
        }
        CommonHeader::new(kind, bits, pdo, plen)
    }

    fn pdu(&mut self, header: &[u8], data: &[Range], checksum: Option<u32>) {
        self.header(header);
        if data.is_empty() {
            return;
        }
        self.pad(header.len(), header[3]);
        let made = checksum.is_some() && self.has_all_digests();
        for &range in data {
            self.queued += u64::from(range.len);
            self.segments.push_back(Segment::Payload(range));
        }
        if self.digests.data {
            // If it is not known it is made when it is sent: a header that follows data begins with the digest.
            self.bytes(&checksum.unwrap_or(0).to_le_bytes());
            if made {
                self.digested = self.segments.len();
            }
        }
    }

    /// Whether no data digest of what is queued is still to be made.
    fn has_all_digests(&self) -> bool {
        let mut rest = self.segments.iter().skip(self.digested);
        !self.digest.is_begun() && !rest.any(|segment| matches!(segment, Segment::Payload(_)))
    }

    /// How many of the first segments one call is to offer; the data digests among them are made.
    fn ready(&mut self, region: Option<&Region>) -> usize {
        let mut offered = 0;
        let fits = |segment: &&Segment| {
            let fits = offered < CALL_BYTES;
            offered = offered.saturating_add(segment.len());
            fits
        };
        let count = self.segments.iter().take_while(fits).count();
        if self.digests.data {
            self.make_digests(count, region);
        }
        count
    }

    /// Makes the data digests of the first `count` segments that are not made. Memory is asked for some pieces ahead, as fetching cold
    /// data takes longer than its digest.
    fn make_digests(&mut self, count: usize, region: Option<&Region>) {
        let mut ahead = self.segments.range(self.digested..).flat_map(pieces);
        let mut ask = || {
            if let Some(piece) = ahead.next() {
                region.expect("data needs memory").prefetch(piece);
            }
        };
        (0..DIGEST_LEAD).for_each(|_| ask());
        let count = count.max(self.digested);
        let mut follows_data = self.digest.is_begun();
        for segment in self.segments.range(self.digested..count) {
            for piece in pieces(segment) {
                ask();
                self.digest.range(region.expect("data needs memory"), piece);
            }
            if let Segment::Header { at, .. } = *segment
                && follows_data
            {
                let digest = std::mem::replace(&mut self.digest, DataDigest::new()).finish();
                self.headers[at as usize..][..DIGEST_LEN].copy_from_slice(&digest);
            }
            follows_data = matches!(segment, Segment::Payload(_));
        }
        self.digested = count;
    }

    fn header(&mut self, header: &[u8]) {
        self.bytes(header);
        if self.digests.header {
            self.bytes(&digest::of_header(header));
        }
    }

    /// Fills up to the data offset behind a header of `header` bytes just queued.
    fn pad(&mut self, header: usize, pdo: u8) {
        let digest = if self.digests.header { DIGEST_LEN } else { 0 };
        self.bytes(&[0; 128 + HEADER_MAX][..usize::from(pdo) - header - digest]);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let (start, added) = (self.headers.len() as u32, bytes.len() as u32);
        self.headers.extend_from_slice(bytes);
        self.queued += u64::from(added);
        match self.segments.back_mut() {
            Some(Segment::Header { at, len }) if *at + *len == start => *len += added,
            _ => self.segments.push_back(Segment::Header { at: start, len: added }),
        }
    }
}

/// The data of a segment as digests take it in.
fn pieces(segment: &Segment) -> impl Iterator<Item = Range> + use<> {
    let range = match *segment {
        Segment::Payload(range) => range,
        Segment::Header { .. } => Range::default(),
    };
    (0..range.len).step_by(DIGEST_PIECE as usize).map(move |at| range.part(at, DIGEST_PIECE))
}

fn total(data: &[Range]) -> u32 {
    data.iter().map(|range| range.len).sum()
}
