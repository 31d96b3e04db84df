//! What a host may send to a target, on a connection that is new, on an admin queue or on an I/O queue. Answers are held against
//! the commands: well-formed, none for what was not asked, the same however the stream is cut; and all memory comes back.

use std::{
    cell::RefCell,
    net::{Ipv4Addr, SocketAddr},
};

use doorbell_platform::Range;
use doorbell_spec::{
    command::{self, Command, DsmRange, SglDescriptor, dsm},
    completion::Completion,
    fabrics::{self, CNTLID_DYNAMIC, ConnectData, cattr},
    register::{self, Cc},
    status::Status,
    tcp::{CapsuleCmd, DataHeader, IcReq, PduType, flags},
    zns::{self, SendAction},
};
use doorbell_subsystem::{
    Backend, Cooperative, NamespaceConfig, SubsystemConfig, Target, TargetConfig, Unplugged, Zoning,
};
use doorbell_tcp::{Digests, Fault, Pdu, Receiver, Role, Sender, Sink, Violation};
use zerocopy::{FromBytes, IntoBytes};

use crate::pdu::{Input, covers, places};

/// The subsystem: namespace 1 is 64 KiB of memory, namespace 2 claims 1 TiB and keeps nothing, namespace 3 is 1 MiB in zones.
pub const NQN: &str = "nqn.2014-08.org.example:storage";
/// The host.
pub const HOST: &str = "nqn.2014-08.org.example:host";
/// Blocks of namespace 1.
const BLOCKS: u32 = 128;
/// Bytes, and bytes of a block, of namespace 3.
const ZONED: u32 = 1 << 20;
const ZONED_BLOCK: u32 = 4096;
/// Most bytes one command transfers.
const MOST: u32 = 16 << 10;
/// The first controller of a target.
const CNTLID: u16 = 1;
/// Entries of the queues, 0-based.
const SQSIZE: u16 = 31;
/// Bytes of ICReq, which goes alone.
const ICREQ: usize = size_of::<IcReq>();

/// Mode bits 1:0: what the connection is when the stream begins.
pub const NEW: u8 = 0;
/// An admin queue whose controller is ready.
pub const ADMIN: u8 = 1;
/// An I/O queue.
pub const IO: u8 = 2;
/// An I/O queue without flow control, whose reads are answered by their data alone.
pub const IO_FREE: u8 = 3;

/// A target, and the admin queue that its I/O queues belong to.
pub struct Bench {
    pub target: Cooperative,
    _admin: Unplugged,
    /// What opens a queue, by kind and digests.
    prologues: Vec<Vec<u8>>,
    /// Free frames when nothing is under way and the namespaces are empty.
    free: Option<usize>,
}

thread_local! {
    static BENCH: RefCell<Bench> = RefCell::new(Bench::new());
}

/// Lends this thread's target.
pub fn with_bench(body: impl FnOnce(&mut Bench)) {
    BENCH.with_borrow_mut(body);
}

/// The body.
pub fn run(data: &[u8]) {
    let Some(input) = Input::new(data) else { return };
    // A host waits for ICResp before it goes on; whether one that does not is found out is a matter of chance.
    let initialize = if input.mode & 3 == NEW { ICREQ.min(input.stream.len()) } else { 0 };
    let (first, second) = input.stream.split_at(initialize);
    with_bench(|bench| {
        let whole = bench.exchange(&input, [first, second].into_iter());
        let cut = bench.exchange(&input, input.pieces(first).chain(input.pieces(second)));
        assert_eq!(whole, cut, "it makes a difference how the stream is cut");
    });
}

/// A connection as an input asks for it.
pub fn opened(bench: &mut Bench, kind: u8, digests: Digests) -> Unplugged {
    let mut line = Unplugged::new();
    if kind == NEW {
        // It may come to I/O all the same.
        opened(bench, IO, Digests::default()).close(&mut bench.target);
    } else {
        let prologue = &bench.prologues[usize::from(kind) * 4 + usize::from(digests.bits())];
        let mut said = Vec::new();
        for piece in [&prologue[..ICREQ], &prologue[ICREQ..]] {
            line.receive(&mut bench.target, piece, &mut said).expect("an honest beginning");
        }
        let answers = Answers::read(&said, digests).completions;
        let count = if kind == ADMIN { 2 } else { 4 };
        assert!(answers.len() == count && answers.iter().all(|answer| answer.status().is_success()), "{answers:?}");
        if kind != ADMIN {
            let free = bench.target.free_frames();
            assert_eq!(*bench.free.get_or_insert(free), free, "frames were lost");
        }
    }
    line
}

/// What a host sends to open a queue: ICReq, Connect, and what makes every input begin with the same state: the controller ready, or
/// all of namespaces 1 and 3 deallocated and the zones empty.
fn prologue(kind: u8, digests: Digests) -> Vec<u8> {
    let free = if kind == IO_FREE { cattr::DISABLE_SQ_FLOW_CONTROL } else { 0 };
    let (qid, cntlid) = if kind == ADMIN { (0, CNTLID_DYNAMIC) } else { (1, CNTLID) };
    let data = ConnectData::new([7; 16], cntlid, NQN, HOST).expect("names that fit");
    let mut connect = fabrics::connect(qid, SQSIZE, free, 0);
    connect.set_sgl(SglDescriptor::in_capsule(0, size_of::<ConnectData>() as u32));
    let then = match kind {
        ADMIN => vec![enable()],
        _ => vec![command::write_zeroes(1, 0, BLOCKS, 0), zns::management_send(3, 0, SendAction::RESET, true)],
    };
    let mut sender = Sender::new(Role::Host);
    sender.initialize(&IcReq::new(0, digests.bits(), 0));
    sender.use_agreement(digests, 0);
    sender.command_with_bytes(&connect, data.as_bytes());
    for mut command in then {
        command.set_sgl(SglDescriptor::transport(0));
        sender.command(&command, &[]);
    }
    if kind != ADMIN {
        let mut deallocate = command::dataset_management(3, 1, dsm::AD);
        deallocate.set_sgl(SglDescriptor::in_capsule(0, size_of::<DsmRange>() as u32));
        sender.command_with_bytes(&deallocate, DsmRange::new(0, ZONED / ZONED_BLOCK).as_bytes());
    }
    let mut bytes = Vec::new();
    sender.unload(None, &mut bytes);
    bytes
}

fn enable() -> Command {
    let cc = Cc::new().with_en(true).with_iosqes(6).with_iocqes(4);
    fabrics::property_set(register::CC, false, cc.into_bits().into())
}

const ZONING: Zoning =
    Zoning { zone_size: 1 << 16, zone_capacity: 3 << 14, max_open: Some(3), max_active: Some(4), read_only: 1 };

impl Bench {
    fn new() -> Self {
        let mut subsystem = SubsystemConfig::new(NQN);
        subsystem.namespaces = vec![
            NamespaceConfig { backend: Backend::Ram { size: u64::from(BLOCKS) * 512 }, block_size: 512 },
            NamespaceConfig { backend: Backend::Null { size: 1 << 40 }, block_size: 4096 },
            NamespaceConfig { backend: Backend::Zoned { size: ZONED.into(), zoning: ZONING }, block_size: ZONED_BLOCK },
        ];
        (subsystem.max_queue_entries, subsystem.max_io_queues) = (64, 4);
        (subsystem.max_transfer, subsystem.in_capsule_data) = (MOST, 4096);
        let config = TargetConfig::new(subsystem, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let (_, target) = Target::cooperative(config).expect("a small target");
        let kinds = (NEW..=IO_FREE).flat_map(|kind| (0..4).map(move |bits| (kind, Digests::from_bits(bits))));
        let prologues = kinds.map(|(kind, digests)| prologue(kind, digests)).collect();
        let mut bench = Self { target, _admin: Unplugged::new(), prologues, free: None };
        bench._admin = opened(&mut bench, ADMIN, Digests::default());
        bench
    }

    /// What the target makes of a stream.
    fn exchange<'a>(&mut self, input: &Input, pieces: impl Iterator<Item = &'a [u8]>) -> (Option<Fault>, Vec<Said>) {
        let mut line = opened(self, input.mode & 3, input.digests);
        let mut bytes = Vec::new();
        let fault = pieces.map(|piece| line.receive(&mut self.target, piece, &mut bytes)).find_map(Result::err);
        // What comes behind a Disconnect is read or thrown away, as it happens to arrive.
        let line_is_over = line.is_over();
        let fault = fault.filter(|_| !line_is_over);
        line.close(&mut self.target);
        // A new connection agrees on its digests only now, in the stream.
        let digests = if input.mode & 3 == NEW { agreed(&bytes) } else { input.digests };
        let answers = Answers::read(&bytes, digests);
        let waiting = answers.check(input, digests);
        let counts = fault.is_none() && input.mode & 3 != NEW;
        assert!(!counts || line_is_over || waiting <= usize::from(SQSIZE) + 1, "{waiting} commands in a queue of 32");
        (fault, answers.said)
    }
}

/// The digests in an ICResp that answers begin with.
pub fn agreed(answers: &[u8]) -> Digests {
    let response = answers.first().is_some_and(|&kind| kind == PduType::ICRESP.0);
    Digests::from_bits(answers.get(11).filter(|_| response).copied().unwrap_or(0))
}

/// What an answer says that does not change from run to run.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    Initialized,
    Answer(u16, Status),
    Data { cid: u16, at: u32, len: u32, flags: u8 },
    Request { cid: u16, tag: u16, at: u32, len: u32 },
}

/// A host that reads what a target says.
#[derive(Default)]
pub struct Answers {
    pub said: Vec<Said>,
    pub completions: Vec<Completion>,
    success: Option<u16>,
}

impl Answers {
    /// Reads a target's answers, which must be well-formed and whole.
    pub fn read(bytes: &[u8], digests: Digests) -> Self {
        let mut answers = Self::default();
        let mut receiver = Receiver::new(Role::Host, MOST);
        // ICResp has no digest, and goes by itself.
        receiver.use_digests(digests);
        let read = receiver.received(bytes.len(), bytes, None, &mut answers);
        read.expect("a target keeps to the protocol");
        assert!(!receiver.is_within_pdu(), "half a PDU");
        answers
    }

    /// Every answer is to a command of the stream, there is at most one to each, and who succeeds with data that was asked for
    /// had it. Returns how many commands have no answer.
    fn check(&self, input: &Input, digests: Digests) -> usize {
        let commands: Vec<Command> = places(&input.stream, digests)
            .filter(|pdu| pdu.kind == PduType::CAPSULE_CMD && pdu.at + pdu.header <= input.stream.len())
            .filter_map(|pdu| CapsuleCmd::read_from_prefix(input.stream.get(pdu.at..)?).ok())
            .map(|(capsule, _)| capsule.command)
            .collect();
        let mut asked = commands.clone();
        for said in &self.said {
            match *said {
                Said::Initialized => {}
                Said::Data { cid, .. } | Said::Request { cid, .. } => {
                    assert!(
                        asked.iter().any(|command| command.cid == cid),
                        "data about {cid:04x}h, which does not exist"
                    );
                }
                Said::Answer(cid, status) => {
                    let Some(at) = asked.iter().position(|command| command.cid == cid) else {
                        panic!("{cid:04x}h is answered ({status:?}) and was not asked, or not so often");
                    };
                    asked.remove(at);
                }
            }
        }
        // With an identifier that is used again nothing is certain.
        let once = |cid| commands.iter().filter(|command| command.cid == cid).count() == 1;
        for said in &self.said {
            if let Said::Request { cid, tag, at: 0, len } = *said
                && once(cid)
                && self.said.contains(&Said::Answer(cid, Status::SUCCESS))
            {
                let of = |header: &DataHeader| header.cccid == cid && header.ttag == tag;
                let all = covers(&input.stream, digests, PduType::H2C_DATA, of, len);
                assert!(all, "{cid:04x}h did not have its data, all of it and once, and succeeded");
            }
        }
        asked.len()
    }
}

impl Sink for Answers {
    fn pdu(&mut self, pdu: Pdu<'_>, data_len: u32) -> Result<u32, Violation> {
        self.success = None;
        let said = match pdu {
            Pdu::IcResp(_) => Said::Initialized,
            Pdu::CapsuleResp(capsule) => {
                self.completions.push(capsule.completion);
                Said::Answer(capsule.completion.cid.get(), capsule.completion.status())
            }
            Pdu::C2hData(header) => {
                let bits = header.common.flags & (flags::LAST | flags::SUCCESS);
                self.success = (bits & flags::SUCCESS != 0).then_some(header.cccid.get());
                Said::Data { cid: header.cccid.get(), at: header.datao.get(), len: data_len, flags: bits }
            }
            Pdu::R2t(r2t) => {
                Said::Request { cid: r2t.cccid.get(), tag: r2t.ttag.get(), at: r2t.r2to.get(), len: r2t.r2tl.get() }
            }
            other => panic!("a target sent {other:?}"),
        };
        self.said.push(said);
        Ok(0)
    }

    fn place(&mut self, _: u32, _: u32, _: u32, _: &mut Vec<Range>) {}

    fn finished(&mut self, _: u32, intact: bool) -> Result<(), Violation> {
        assert!(intact, "a target's data digest is wrong");
        self.said.extend(self.success.map(|cid| Said::Answer(cid, Status::SUCCESS)));
        Ok(())
    }
}
