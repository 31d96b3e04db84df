//! The receiving half of a link: turns a byte stream into PDUs, checks their framing and digests, and places their data.
//!
//! Bytes arrive in two places: in the ranges that [`Receiver::want`] named (the rest of the data of the PDU being received)
//! and behind them in a staging buffer of the owner's, from which headers are parsed and data is copied to where the owner says.

use doorbell_platform::{Range, Region};
use doorbell_spec::tcp::{
    CapsuleCmd, CapsuleResp, CommonHeader, DIGEST_LEN, DataHeader, Fes, HEADER_MAX, IcReq, IcResp, PduType, R2t,
    TermReq, flags,
};
use zerocopy::FromBytes;

use crate::{Digests, Role, digest, digest::DataDigest};

/// A PDU whose header has arrived whole and is well formed.
#[derive(Clone, Copy, Debug)]
pub enum Pdu<'a> {
    /// Initialize Connection Request.
    IcReq(&'a IcReq),
    /// Initialize Connection Response.
    IcResp(&'a IcResp),
    /// Command capsule.
    CapsuleCmd(&'a CapsuleCmd),
    /// Response capsule.
    CapsuleResp(&'a CapsuleResp),
    /// Data for the controller.
    H2cData(&'a DataHeader),
    /// Data for the host.
    C2hData(&'a DataHeader),
    /// Ready to transfer.
    R2t(&'a R2t),
}

/// What the owner of a link does with the PDUs that arrive.
pub trait Sink {
    /// A PDU's header is here, `data_len` bytes of data follow. The token returned names the PDU in the calls about its data.
    ///
    /// # Errors
    /// A violation ends the connection.
    fn pdu(&mut self, pdu: Pdu<'_>, data_len: u32) -> Result<u32, Violation>;

    /// All of a PDU's data came at once, and lies in `data`: puts it where it belongs from there and takes note that it is here, if that
    /// can be done and the data is `intact`, which takes a look at all of it; else does nothing, and the data is placed.
    fn take(&mut self, token: u32, data: &[u8], intact: impl FnOnce() -> bool) -> bool {
        let _ = (token, data, intact);
        false
    }

    /// Whether nobody looks soon at where a PDU's data is placed, so that it need not pass through the cache.
    fn is_left_alone(&self, token: u32) -> bool {
        let _ = token;
        false
    }

    /// Appends the ranges of the region that take `len` bytes from `at` on of the PDU's data, in order.
    fn place(&mut self, token: u32, at: u32, len: u32, ranges: &mut Vec<Range>);

    /// All data of a PDU that has any is placed; `intact` is false if its digest was wrong.
    ///
    /// # Errors
    /// A violation ends the connection.
    fn finished(&mut self, token: u32, intact: bool) -> Result<(), Violation>;
}

/// A breach of the protocol by the peer, as a termination request reports it (TCP 3.6.2.4, 3.6.2.5).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Violation {
    /// Fatal error status.
    pub fes: Fes,
    /// Fatal error information: the offset of the field in error, or the digest received.
    pub fei: u32,
    /// What was wrong, for people.
    pub what: String,
    /// The header in error.
    pub header: Vec<u8>,
}

impl Violation {
    /// A breach found in a PDU; the receiver adds its header.
    pub fn new(fes: Fes, fei: u32, what: impl Into<String>) -> Self {
        Self { fes, fei, what: what.into(), header: Vec::new() }
    }

    /// A header field with a value it must not have, by its offset.
    pub fn field(offset: u32, what: impl Into<String>) -> Self {
        Self::new(Fes::INVALID_PDU_HEADER_FIELD, offset, what)
    }
}

/// Why nothing more can be received.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The peer broke the protocol.
    #[error("the peer broke the protocol: {0}")]
    Violation(#[from] Violation),
    /// The peer says that we did.
    #[error("the peer ended the connection: {reason} (FES {fes:02x}h, FEI {fei:08x}h)", fes = fes.0)]
    Terminated {
        /// Fatal error status.
        fes: Fes,
        /// Fatal error information.
        fei: u32,
        /// Name of the status.
        reason: &'static str,
    },
}

#[derive(Debug)]
enum State {
    /// Collecting a header in `partial`.
    Header,
    /// Passing over what lies between header and data.
    Padding { left: u32 },
    /// Placing data.
    Data,
    /// Collecting the data digest in `partial`.
    DataDigest,
}

/// The receiving half of a link.
#[derive(Debug)]
pub struct Receiver {
    role: Role,
    digests: Digests,
    most_data: u32,
    state: State,
    partial: [u8; HEADER_MAX + DIGEST_LEN],
    have: usize,
    token: u32,
    data_len: u32,
    data_done: u32,
    digest: Option<DataDigest>,
    wanted: u32,
    ranges: Vec<Range>,
}

impl Receiver {
    /// For one end of a connection whose PDUs carry at most `most_data` bytes of data; no digests until [`Receiver::use_digests`].
    pub fn new(role: Role, most_data: u32) -> Self {
        Self {
            role,
            digests: Digests::default(),
            most_data,
            state: State::Header,
            partial: [0; HEADER_MAX + DIGEST_LEN],
            have: 0,
            token: 0,
            data_len: 0,
            data_done: 0,
            digest: None,
            wanted: 0,
            ranges: Vec::with_capacity(16),
        }
    }

    /// What ICReq and ICResp agreed on; holds from the next PDU on.
    pub fn use_digests(&mut self, digests: Digests) {
        self.digests = digests;
    }

    /// What was agreed on.
    pub fn digests(&self) -> Digests {
        self.digests
    }

    /// Whether a PDU has begun and not ended, so that more must come.
    pub fn is_within_pdu(&self) -> bool {
        self.have > 0 || !matches!(self.state, State::Header)
    }

    /// The ranges that take the next bytes of the stream, before the staging buffer: the rest of the present PDU's data.
    pub fn want(&mut self, sink: &mut impl Sink) -> &[Range] {
        self.ranges.clear();
        self.wanted = 0;
        if let State::Data = self.state {
            sink.place(self.token, self.data_done, self.data_len - self.data_done, &mut self.ranges);
            let direct = self.ranges.iter().take(doorbell_platform::socket::MOST_PIECES - 1);
            self.wanted = direct.map(|range| range.len).sum();
        }
        &self.ranges
    }

    /// Takes note of `count` bytes that came: into the ranges of the last `want` first, the rest at the start of `staging`.
    ///
    /// # Errors
    /// The peer's breach of the protocol, with the header in error.
    pub fn received(
        &mut self,
        count: usize,
        staging: &[u8],
        region: Option<&Region>,
        sink: &mut impl Sink,
    ) -> Result<(), Fault> {
        let direct = count.min(self.wanted as usize) as u32;
        if direct > 0 {
            self.placed_directly(direct, region);
            self.wanted = 0;
            if self.data_done == self.data_len {
                self.data_complete(sink)?;
            }
        }
        let mut input = &staging[..count - direct as usize];
        while !input.is_empty() {
            match self.state {
                State::Header => self.header(&mut input, sink)?,
                State::Padding { left } => {
                    let skipped = left.min(input.len() as u32);
                    input = &input[skipped as usize..];
                    self.state = State::Padding { left: left - skipped };
                    if left == skipped {
                        self.state = State::Data;
                    }
                }
                State::Data => self.data(&mut input, region, sink)?,
                State::DataDigest => {
                    if self.collect(&mut input, DIGEST_LEN) {
                        self.have = 0;
                        self.state = State::Header;
                        let expected = self.digest.take().expect("a digest is being checked").finish();
                        sink.finished(self.token, self.partial[..DIGEST_LEN] == expected)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Moves bytes from `input` to `partial` until that holds `need`.
    fn collect(&mut self, input: &mut &[u8], need: usize) -> bool {
        let moved = (need - self.have).min(input.len());
        self.partial[self.have..self.have + moved].copy_from_slice(&input[..moved]);
        self.have += moved;
        *input = &input[moved..];
        self.have == need
    }

    fn header(&mut self, input: &mut &[u8], sink: &mut impl Sink) -> Result<(), Fault> {
        const COMMON: usize = size_of::<CommonHeader>();
        if self.have == 0 && input.len() >= COMMON {
            let size = self.size(input)?;
            if input.len() >= size {
                let (bytes, rest) = input.split_at(size);
                *input = rest;
                return self.whole(bytes, sink);
            }
        }
        if self.have < COMMON && !self.collect(input, COMMON) {
            return Ok(());
        }
        let size = self.size(&self.partial[..COMMON])?;
        if self.collect(input, size) {
            self.have = 0;
            let bytes = self.partial;
            self.whole(&bytes[..size], sink)?;
        }
        Ok(())
    }

    /// Checks the common header and says how long header and header digest are together.
    fn size(&self, bytes: &[u8]) -> Result<usize, Violation> {
        let (common, _) = CommonHeader::read_from_prefix(bytes).expect("at least 8 bytes");
        let fail = |offset, what: String| {
            let header = bytes[..size_of::<CommonHeader>()].to_vec();
            Err(Violation { header, ..Violation::field(offset, what) })
        };
        let kind = common.pdu_type;
        let (Some(hlen), Some(from_host)) = (kind.hlen(), kind.from_host()) else {
            return fail(0, format!("unknown PDU type {:02x}h", kind.0));
        };
        if from_host != (self.role == Role::Controller) {
            return fail(0, format!("{} must not come from this end", kind.name()));
        }
        if common.hlen != hlen {
            return fail(2, format!("{} with a header of {} bytes instead of {hlen}", kind.name(), common.hlen));
        }
        if common.flags & !kind.flags() != 0 {
            return fail(1, format!("{} with flags {:02x}h", kind.name(), common.flags));
        }
        let digest = kind.flags() & flags::HDGST != 0 && self.digests.header;
        if digest != (common.flags & flags::HDGST != 0) {
            return fail(1, format!("{} {} header digest against the agreement", kind.name(), with(!digest)));
        }
        Ok(usize::from(hlen) + if digest { DIGEST_LEN } else { 0 })
    }

    /// A header with its digest is here.
    fn whole(&mut self, bytes: &[u8], sink: &mut impl Sink) -> Result<(), Fault> {
        self.check(bytes, sink).map_err(|fault| match fault {
            Fault::Violation(violation) => Violation { header: bytes.to_vec(), ..violation }.into(),
            terminated => terminated,
        })
    }

    fn check(&mut self, bytes: &[u8], sink: &mut impl Sink) -> Result<(), Fault> {
        let (common, _) = CommonHeader::read_from_prefix(bytes).expect("a whole header");
        let (header, digest) = bytes.split_at(common.hlen.into());
        if !digest.is_empty() && digest != digest::of_header(header) {
            let got = u32::from_le_bytes(digest.try_into().expect("4 bytes"));
            let what = format!("{} with a wrong header digest", common.pdu_type.name());
            return Err(Violation::new(Fes::HEADER_DIGEST_ERROR, got, what).into());
        }
        let kind = common.pdu_type;
        let plen = common.plen.get();
        let no_data = bytes.len() as u32;
        let is_termination = matches!(kind, PduType::H2C_TERM_REQ | PduType::C2H_TERM_REQ);
        let (data_at, data_len, checked) = if !kind.carries_data() || plen == no_data || is_termination {
            (no_data, plen.checked_sub(no_data), false)
        } else {
            let checked = self.digests.data;
            let tail = if checked { DIGEST_LEN as u32 } else { 0 };
            if u32::from(common.pdo) < no_data {
                let what = format!("{}: data offset {} inside the header", kind.name(), common.pdo);
                return Err(Violation::field(3, what).into());
            }
            (common.pdo.into(), plen.checked_sub(u32::from(common.pdo) + tail), checked)
        };
        let most = if is_termination { HEADER_MAX as u32 } else { self.most_data };
        // Without data a PDU ends with its header: nothing would pass over a padding or a digest.
        let fits = |len: u32| if len == 0 { plen == no_data } else { len <= most && kind.carries_data() };
        let Some(data_len) = data_len.filter(|&len| fits(len)) else {
            let is_data = matches!(kind, PduType::H2C_DATA | PduType::C2H_DATA);
            if is_data && data_len.is_some_and(|len| len > most && len == view::<DataHeader>(header).datal.get()) {
                let what = format!("{} of more than {most} bytes", kind.name());
                return Err(Violation::new(Fes::DATA_TRANSFER_LIMIT_EXCEEDED, 0, what).into());
            }
            return Err(Violation::field(4, format!("{} with an impossible length of {plen}", kind.name())).into());
        };
        if checked != (common.flags & flags::DDGST != 0) {
            let what = format!("{} {} data digest against the agreement", kind.name(), with(!checked));
            return Err(Violation::field(1, what).into());
        }
        let pdu = match kind {
            PduType::ICREQ => Pdu::IcReq(view(header)),
            PduType::ICRESP => Pdu::IcResp(view(header)),
            PduType::CAPSULE_CMD => Pdu::CapsuleCmd(view(header)),
            PduType::CAPSULE_RESP => Pdu::CapsuleResp(view(header)),
            PduType::R2T => Pdu::R2t(view(header)),
            PduType::H2C_DATA | PduType::C2H_DATA => {
                let data: &DataHeader = view(header);
                if data.datal.get() != data_len {
                    let what = format!("{} of {} bytes carries {data_len}", kind.name(), data.datal.get());
                    return Err(Violation::field(16, what).into());
                }
                if kind == PduType::H2C_DATA { Pdu::H2cData(data) } else { Pdu::C2hData(data) }
            }
            _ => {
                let request: &TermReq = view(header);
                let reason = match self.role {
                    Role::Host => request.fes().name(),
                    Role::Controller => request.fes().host_name(),
                };
                return Err(Fault::Terminated { fes: request.fes(), fei: request.fei.get(), reason });
            }
        };
        self.token = sink.pdu(pdu, data_len)?;
        self.data_len = data_len;
        self.data_done = 0;
        self.digest = checked.then(DataDigest::new);
        self.state = match data_len {
            0 => State::Header,
            _ if data_at == no_data => State::Data,
            _ => State::Padding { left: data_at - no_data },
        };
        Ok(())
    }

    /// Offers data that came at once, its digest too, to be taken from where it lies.
    fn offer(&mut self, input: &mut &[u8], sink: &mut impl Sink) -> bool {
        let tail = if self.digest.is_some() { DIGEST_LEN } else { 0 };
        let Some((whole, rest)) = input.split_at_checked(self.data_len as usize + tail) else { return false };
        let (data, digest) = whole.split_at(self.data_len as usize);
        let taken = sink.take(self.token, data, || digest.is_empty() || digest == digest::of_data(data));
        if taken {
            *input = rest;
            self.digest = None;
            self.state = State::Header;
        }
        taken
    }

    fn data(&mut self, input: &mut &[u8], region: Option<&Region>, sink: &mut impl Sink) -> Result<(), Violation> {
        if self.data_done == 0 && self.offer(input, sink) {
            return Ok(());
        }
        let len = (self.data_len - self.data_done).min(input.len() as u32);
        let (bytes, rest) = input.split_at(len as usize);
        *input = rest;
        self.ranges.clear();
        sink.place(self.token, self.data_done, len, &mut self.ranges);
        let past_cache = sink.is_left_alone(self.token);
        let mut left = bytes;
        for range in &self.ranges {
            let (piece, rest) = left.split_at(left.len().min(range.len as usize));
            let region = region.expect("data needs memory");
            if past_cache {
                self.digest.iter_mut().for_each(|digest| digest.bytes(piece));
                region.write_past_cache(range.offset, piece);
            } else if let Some(digest) = &mut self.digest {
                digest.copied(piece, region, range.offset);
            } else {
                region.write(range.offset, piece);
            }
            left = rest;
        }
        if let Some(digest) = &mut self.digest {
            // What has no place passes by.
            digest.bytes(left);
        }
        self.data_done += len;
        if self.data_done == self.data_len { self.data_complete(sink) } else { Ok(()) }
    }

    fn placed_directly(&mut self, count: u32, region: Option<&Region>) {
        self.data_done += count;
        if let Some(digest) = &mut self.digest {
            let mut left = count;
            for range in &self.ranges {
                let part = range.part(0, left);
                digest.range(region.expect("data needs memory"), part);
                left -= part.len;
            }
        }
    }

    fn data_complete(&mut self, sink: &mut impl Sink) -> Result<(), Violation> {
        if self.digest.is_some() {
            self.state = State::DataDigest;
            return Ok(());
        }
        self.state = State::Header;
        sink.finished(self.token, true)
    }
}

fn with(yes: bool) -> &'static str {
    if yes { "with a" } else { "without a" }
}

fn view<T: FromBytes + zerocopy::KnownLayout + zerocopy::Immutable + zerocopy::Unaligned>(header: &[u8]) -> &T {
    T::ref_from_bytes(header).expect("HLEN was checked to be the type's size")
}
