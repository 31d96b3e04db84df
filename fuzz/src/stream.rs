//! A stream of PDUs at either end, held against a reading of its own: what the receiver tells its owner is what the stream says, no
//! more and no less, and it makes no difference how the stream is cut.

use std::cell::OnceCell;

use doorbell_platform::{Range, Region};
use doorbell_spec::tcp::DIGEST_LEN;
use doorbell_tcp::{Fault, Pdu, Receiver, Role, Sink, Violation};
use zerocopy::IntoBytes;

use crate::pdu::{Input, Place, digest, place};

/// Most bytes of data of a PDU.
const MOST: u32 = 8192;
/// Data is placed in pieces of this many bytes, each at the start of a [`STRIDE`].
const PIECE: u32 = 100;
const STRIDE: u32 = 128;

/// What comes to a host.
pub fn to_host(data: &[u8]) {
    run(Role::Host, data);
}

/// What comes to a controller.
pub fn to_controller(data: &[u8]) {
    run(Role::Controller, data);
}

thread_local! {
    static REGION: OnceCell<Region> = const { OnceCell::new() };
}

fn run(role: Role, data: &[u8]) {
    let Some(input) = Input::new(data) else { return };
    REGION.with(|region| {
        let region = region.get_or_init(|| Region::new((MOST / PIECE + 1) as usize * STRIDE as usize).expect("memory"));
        let whole = receive(role, &input, region, |receiver, sink| {
            receiver.received(input.stream.len(), &input.stream, Some(region), sink)
        });
        let cut = receive(role, &input, region, |receiver, sink| {
            input.pieces(&input.stream).try_for_each(|piece| receiver.deliver(piece, Some(region), sink))
        });
        assert_eq!(whole, cut, "it makes a difference how the stream is cut");
    });
}

/// What came of a stream: why it ended, PDUs, and pieces of data finished.
type Outcome = (Option<Fault>, usize, usize);

fn receive(
    role: Role,
    input: &Input,
    region: &Region,
    feed: impl FnOnce(&mut Receiver, &mut Model<'_>) -> Result<(), Fault>,
) -> Outcome {
    let mut receiver = Receiver::new(role, MOST);
    receiver.use_digests(input.digests);
    let mut model = Model { input, region, at: 0, current: None, pdus: 0, finished: 0 };
    let fault = feed(&mut receiver, &mut model).err();
    let end = input.stream.len();
    if fault.is_none() {
        let rest = place(&input.stream, model.at, input.digests);
        assert!(rest.is_none_or(|pdu| pdu.at + pdu.header > end), "a whole header at {} was not told of", model.at);
        assert_eq!(receiver.is_within_pdu(), model.at != end, "the next PDU begins at {}", model.at);
        let due = model.current.is_some_and(|pdu| pdu.at + pdu.len <= end);
        assert!(!due, "the data of a PDU that is whole was not finished");
    }
    if let Some(Fault::Violation(violation)) = &fault {
        let blamed = input.stream[model.at.min(end)..].starts_with(&violation.header);
        assert!(blamed, "{violation} is said of bytes that are not the next header, which is at {}", model.at);
    }
    (fault, model.pdus, model.finished)
}

/// Knows what must come.
struct Model<'a> {
    input: &'a Input,
    region: &'a Region,
    /// Where the next PDU begins.
    at: usize,
    /// The PDU whose data is arriving.
    current: Option<Place>,
    pdus: usize,
    finished: usize,
}

impl Sink for Model<'_> {
    fn pdu(&mut self, pdu: Pdu<'_>, data_len: u32) -> Result<u32, Violation> {
        assert!(self.current.is_none(), "a PDU before the data of the last was finished");
        let header = match &pdu {
            Pdu::IcReq(pdu) => pdu.as_bytes(),
            Pdu::IcResp(pdu) => pdu.as_bytes(),
            Pdu::CapsuleCmd(pdu) => pdu.as_bytes(),
            Pdu::CapsuleResp(pdu) => pdu.as_bytes(),
            Pdu::H2cData(pdu) | Pdu::C2hData(pdu) => pdu.as_bytes(),
            Pdu::R2t(pdu) => pdu.as_bytes(),
        };
        assert!(self.input.stream[self.at..].starts_with(header), "not the header at {}", self.at);
        let place = place(&self.input.stream, self.at, self.input.digests).expect("the receiver takes its lengths");
        assert_eq!(data_len as usize, place.data.1, "data of the PDU at {}", self.at);
        assert!(data_len <= MOST, "more data than was agreed on");
        (self.at, self.pdus) = (self.at + place.len, self.pdus + 1);
        self.current = (data_len > 0).then_some(place);
        Ok(self.pdus as u32)
    }

    fn place(&mut self, token: u32, at: u32, len: u32, ranges: &mut Vec<Range>) {
        let pdu = self.current.expect("a PDU with data");
        assert_eq!(token, self.pdus as u32);
        assert!(len > 0 && (at + len) as usize <= pdu.data.1, "{len} bytes at {at} of {}", pdu.data.1);
        ranges.extend(scattered(at, len));
    }

    fn finished(&mut self, token: u32, intact: bool) -> Result<(), Violation> {
        let pdu = self.current.take().expect("a PDU with data");
        assert_eq!(token, self.pdus as u32);
        let start = pdu.at + pdu.data.0;
        let sent = &self.input.stream[start..start + pdu.data.1];
        for range in scattered(0, sent.len() as u32) {
            let at = (range.offset / u64::from(STRIDE)) as usize * PIECE as usize;
            assert!(self.region.equals(range.offset, &sent[at..at + range.len as usize]), "wrong bytes at {at}");
        }
        let right = !self.input.digests.data || {
            let behind = &self.input.stream[start + sent.len()..];
            behind[..DIGEST_LEN] == digest(sent)
        };
        assert_eq!(intact, right, "the data digest of the PDU at {}", pdu.at);
        self.finished += 1;
        Ok(())
    }
}

/// Where `len` bytes from `at` on of a PDU's data go.
fn scattered(at: u32, len: u32) -> impl Iterator<Item = Range> {
    (at / PIECE..(at + len).div_ceil(PIECE)).map(move |piece| {
        let (start, end) = ((piece * PIECE).max(at), ((piece + 1) * PIECE).min(at + len));
        Range { offset: u64::from(piece * STRIDE + start % PIECE), len: end - start }
    })
}
