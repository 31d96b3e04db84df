//! Honest inputs to begin with: what a well-behaved peer says, and some of what a hostile one might.

use std::sync::Arc;

use doorbell_platform::Arena;
use doorbell_spec::{
    command::{self, AdminOpcode, Command, DsmRange, LogRequest, SglDescriptor, dsm},
    completion::Completion,
    fabrics::{self, CNTLID_DYNAMIC, ConnectData},
    feature::{Fid, Select},
    identify::{self, Cns, Csi, Descriptor, DescriptorList, NamespaceList, Nidt},
    log::{
        AnaGroupDescriptor, AnaHeader, AnaState, ChangedNamespaces, CommandEffects, DiscoveryEntry, FirmwareSlots, Lid,
        Subtype, SupportedLogPages, Trtype,
    },
    register,
    status::{Status, generic},
    tcp::{Fes, IcReq, IcResp},
};
use doorbell_tcp::{DataPdu, Digests, Role, Sender, Violation};
use zerocopy::{FromZeros, IntoBytes};

use crate::{
    controller, host_queue,
    pdu::{DATA_DIGESTS, HEADER_DIGESTS, Input, MEND},
    vfio_user, vfio_user_messages,
};

/// A seed: the body it is for, a name, and its bytes.
pub type Seed = (&'static str, String, Vec<u8>);

/// All seeds.
pub fn all() -> Vec<Seed> {
    let mut seeds = Vec::new();
    for (name, bits) in [("plain", 0), ("header", HEADER_DIGESTS), ("data", DATA_DIGESTS), ("both", 0x30)] {
        let digests = Digests { header: bits & HEADER_DIGESTS != 0, data: bits & DATA_DIGESTS != 0 };
        // Where there are digests, mutations stay behind them.
        let mode = bits | if bits == 0 { 0 } else { MEND };
        let mut add = |body, what: &str, mode: u8, stream: Vec<u8>| {
            seeds.push((body, format!("{what}-{name}"), [vec![mode, stream.len() as u8], stream].concat()));
        };
        add("stream_to_controller", "host", mode, from_host(digests));
        add("stream_to_host", "controller", mode, from_controller(digests));
        for (what, kind, stream) in sessions(digests) {
            add("controller", what, mode | kind, stream);
        }
        for (what, stream) in answers(digests) {
            add("host_queue", what, mode, stream.clone());
            add("host_queue", &format!("{what}-again"), mode | host_queue::AGAIN, stream);
        }
    }
    seeds.extend(connects().into_iter().map(|(name, bytes)| ("connect", name.into(), bytes)));
    seeds.extend(structures());
    seeds.extend(texts());
    seeds.extend(ends());
    seeds.extend(vfio_user::seeds());
    seeds.extend(vfio_user_messages::seeds());
    seeds
}

/// The bytes that `build` queues.
fn stream(role: Role, digests: Digests, build: impl FnOnce(&mut Sender)) -> Vec<u8> {
    let mut sender = Sender::new(role);
    sender.use_agreement(digests, 0);
    build(&mut sender);
    let mut bytes = Vec::new();
    sender.unload(Some(MEMORY.get_or_init(|| Arena::new(64 << 10).expect("memory")).region()), &mut bytes);
    bytes
}

static MEMORY: std::sync::OnceLock<Arena> = std::sync::OnceLock::new();

fn range(len: u32) -> doorbell_platform::Range {
    doorbell_platform::Range { offset: 0, len }
}

fn data(cccid: u16, ttag: u16, datao: u32, last: bool, success: bool) -> DataPdu {
    DataPdu { cccid, ttag, datao, last, success }
}

/// A command that sends `sent` bytes in its capsule, or takes or is asked for `asked`.
fn with(mut command: Command, cid: u16, sent: u32, asked: u32) -> Command {
    command.cid = cid.into();
    command.set_sgl(if sent > 0 { SglDescriptor::in_capsule(0, sent) } else { SglDescriptor::transport(asked) });
    command
}

fn from_host(digests: Digests) -> Vec<u8> {
    stream(Role::Host, digests, |sender| {
        sender.initialize(&IcReq::new(0, digests.bits(), 0));
        sender.command(&with(command::read(1, 0, 1, 0), 1, 0, 512), &[]);
        sender.command_with_bytes(&with(command::write(1, 0, 1, 0), 2, 301, 0), &[7; 301]);
        sender.use_agreement(digests, 31);
        sender.command_with_bytes(&with(command::write(1, 0, 1, 0), 3, 64, 0), &[8; 64]);
        sender.data(data(4, 1, 0, false, false), &[range(100)]);
        sender.data(data(4, 1, 100, true, false), &[range(33)]);
        sender.terminate(&Violation { header: vec![4, 1, 72], ..Violation::new(Fes::HEADER_DIGEST_ERROR, 7, "") });
    })
}

fn from_controller(digests: Digests) -> Vec<u8> {
    stream(Role::Controller, digests, |sender| {
        sender.initialize(&IcResp::new(0, digests.bits(), 8192));
        sender.data(data(1, 0, 0, true, true), &[range(512)]);
        sender.r2t(2, 0, 0, 4096);
        sender.response(&Completion::new(2, 1, Status::SUCCESS, 0));
        sender.use_agreement(digests, 31);
        sender.data(data(3, 0, 0, true, false), &[range(55)]);
        sender.response(&Completion::new(3, 1, generic::INVALID_FIELD, 9));
        sender.terminate(&Violation::field(12, ""));
    })
}

/// Streams to a target, and what they begin on.
fn sessions(digests: Digests) -> Vec<(&'static str, u8, Vec<u8>)> {
    let initialize = IcReq::new(0, digests.bits(), 0);
    // Its digests hold from the next piece on, so what follows is read as an end of the protocol.
    let new = stream(Role::Host, digests, |sender| {
        sender.initialize(&initialize);
        sender.command_with_bytes(&with(fabrics::connect(0, 31, 0, 0), 0, 1024, 0), honest().as_bytes());
    });
    let admin = stream(Role::Host, digests, |sender| {
        let page = |lid, bytes| command::get_log_page(&LogRequest { bytes, ..LogRequest::new(lid) });
        for (cid, (command, asked)) in (0..).zip([
            (fabrics::property_get(register::CAP, true), 0),
            (command::identify(Cns::CONTROLLER, 0, Csi::NVM, 0), 4096),
            (command::identify(Cns::ACTIVE_NAMESPACES, 0, Csi::NVM, 0), 4096),
            (command::identify(Cns::NAMESPACE_DESCRIPTORS, 1, Csi::NVM, 0), 4096),
            (command::get_features(Fid::KEEP_ALIVE_TIMER, Select::CURRENT, 0, 0), 0),
            (command::set_features(Fid::NUMBER_OF_QUEUES, false, 0, 0x0003_0003), 0),
            (command::async_event_request(), 0),
            (command::abort(0, 6), 0),
            (page(Lid::SMART, 512), 512),
            (page(Lid::ANA, 56), 56),
            (page(Lid::SUPPORTED_LOG_PAGES, 1024), 1024),
            (command::keep_alive(), 0),
            (Command::new(AdminOpcode::FORMAT_NVM.0, 1), 0),
        ]) {
            sender.command(&with(command, cid, 0, asked), &[]);
        }
    });
    let io = stream(Role::Host, digests, |sender| {
        sender.command_with_bytes(&with(command::write(1, 3, 2, 0), 0, 1024, 0), &[0x5a; 1024]);
        sender.command(&with(command::read(1, 2, 4, 0), 1, 0, 2048), &[]);
        sender.command(&with(command::read(2, 2, 4, 0), 2, 0, 16384), &[]);
        sender.command_with_bytes(&with(command::compare(1, 3, 2, 0), 3, 1024, 0), &[0x5a; 1024]);
        sender.command(&with(command::write_zeroes(1, 1, 12, 0), 4, 0, 0), &[]);
        let ranges = [DsmRange::new(0, 8), DsmRange::new(16, 16)];
        sender.command_with_bytes(&with(command::dataset_management(1, 2, dsm::AD), 5, 32, 0), ranges.as_bytes());
        sender.command(&with(command::flush(1), 6, 0, 0), &[]);
        sender.command(&with(fabrics::disconnect(), 7, 0, 0), &[]);
    });
    let requested = stream(Role::Host, digests, |sender| {
        // The transfer tag is the slot, and slots come back in the order they are left.
        sender.command(&with(command::write(1, 7, 2, 0), 9, 0, 1024), &[]);
        sender.data(data(9, 0, 0, false, false), &[range(600)]);
        sender.data(data(9, 0, 600, true, false), &[range(424)]);
        sender.command(&with(command::read(1, 7, 2, 0), 10, 0, 1024), &[]);
    });
    // What a host must not do.
    let asked = |build: &dyn Fn(&mut Sender)| {
        stream(Role::Host, digests, |sender| {
            sender.command(&with(command::write(1, 7, 2, 0), 9, 0, 1024), &[]);
            build(sender);
        })
    };
    let send = |sender: &mut Sender, at: u32, len: u32, last| {
        sender.data(data(9, 0, at, last, false), &[range(len)]);
    };
    let late = asked(&|sender| {
        send(sender, 424, 600, false);
        send(sender, 0, 424, true);
    });
    let beyond = asked(&|sender| send(sender, 0, 9000, false));
    let crowd = stream(Role::Host, digests, |sender| {
        for cid in 0..36 {
            sender.command(&with(command::write(1, cid, 1, 0), cid as u16, 0, 512), &[]);
        }
    });
    vec![
        ("new", controller::NEW, new),
        ("hostile-late", controller::IO, late),
        ("hostile-beyond", controller::IO, beyond),
        ("hostile-crowd", controller::IO, crowd),
        ("admin", controller::ADMIN, admin),
        ("io", controller::IO, io.clone()),
        ("io-free", controller::IO_FREE, io),
        ("requested", controller::IO, requested),
    ]
}

/// Streams to a host's queue.
fn answers(digests: Digests) -> Vec<(&'static str, Vec<u8>)> {
    let reads = stream(Role::Controller, digests, |sender| {
        sender.data(data(0, 0, 0, true, true), &[range(512)]);
        sender.data(data(1, 0, 0, false, false), &[range(96)]);
        sender.data(data(6, 0, 0, true, false), &[range(1)]);
        sender.data(data(1, 0, 96, true, false), &[range(4000)]);
        sender.response(&Completion::new(6, 1, Status::SUCCESS, 0));
        sender.response(&Completion::new(1, 1, Status::SUCCESS, 0));
    });
    let writes = stream(Role::Controller, digests, |sender| {
        sender.r2t(3, 100, 0, 8192);
        sender.r2t(4, 7, 0, 100);
        sender.response(&Completion::new(2, 1, Status::SUCCESS, 0));
        sender.r2t(4, 8, 100, 4900);
        sender.response(&Completion::new(4, 1, Status::SUCCESS, 0));
        sender.response(&Completion::new(5, 1, Status::SUCCESS, 0));
        sender.response(&Completion::new(3, 1, generic::INTERNAL_ERROR, 0));
    });
    let short = stream(Role::Controller, digests, |sender| {
        sender.data(data(0, 0, 0, true, true), &[range(511)]);
        sender.response(&Completion::new(2, 1, generic::NAMESPACE_NOT_READY, 0));
        // A second use of slot 2, which only a queue that issues again has.
        sender.response(&Completion::new(10, 1, Status::SUCCESS, 0));
    });
    // What a controller must not do.
    let late = stream(Role::Controller, digests, |sender| {
        sender.data(data(1, 0, 96, false, false), &[range(4000)]);
        sender.data(data(1, 0, 0, true, true), &[range(96)]);
    });
    let beyond = stream(Role::Controller, digests, |sender| {
        sender.data(data(0, 0, 0, true, true), &[range(513)]);
    });
    let all =
        [("reads", reads), ("writes", writes), ("short", short), ("hostile-late", late), ("hostile-beyond", beyond)];
    all.into()
}

fn honest() -> ConnectData {
    ConnectData::new([7; 16], CNTLID_DYNAMIC, controller::NQN, controller::HOST).expect("names that fit")
}

fn connects() -> Vec<(&'static str, Vec<u8>)> {
    let of = |command: Command, data: &[u8]| [command.as_bytes(), data].concat();
    let admin = || fabrics::connect(0, 31, 0, 0);
    let mut io = honest();
    io.cntlid = 1.into();
    let discovery = ConnectData::new([7; 16], CNTLID_DYNAMIC, doorbell_spec::nqn::DISCOVERY_NQN, controller::HOST);
    let mut nobody = honest();
    nobody.hostid = [0; 16];
    let mut endless = honest();
    endless.hostnqn = [b'x'; 256];
    vec![
        ("admin", of(admin(), honest().as_bytes())),
        ("keep-alive", of(fabrics::connect(0, 127, 0, 15_000), honest().as_bytes())),
        ("io", of(fabrics::connect(1, 31, 0, 0), io.as_bytes())),
        ("io-free", of(fabrics::connect(2, 63, fabrics::cattr::DISABLE_SQ_FLOW_CONTROL, 0), io.as_bytes())),
        ("discovery", of(admin(), discovery.expect("names that fit").as_bytes())),
        ("short", of(admin(), &honest().as_bytes()[..600])),
        ("no-data", of(admin(), &[])),
        ("no-host", of(admin(), nobody.as_bytes())),
        ("endless-name", of(admin(), endless.as_bytes())),
        ("one-entry", of(fabrics::connect(0, 0, 0, 0), honest().as_bytes())),
        ("another-command", of(command::read(1, 0, 1, 0), honest().as_bytes())),
    ]
}

/// Structures without the zeroes they end with.
fn structures() -> Vec<Seed> {
    let trimmed = |which: Option<u8>, bytes: &[u8]| {
        let end = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        which.into_iter().chain(bytes[..end].iter().copied()).collect::<Vec<u8>>()
    };
    let mut seeds: Vec<Seed> = Vec::new();
    let mut add = |body, name: &str, bytes| seeds.push((body, name.into(), bytes));

    let mut controller = identify::Controller::new_zeroed();
    (controller.mdts, controller.ver, controller.nn) = (5, 0x0002_0100.into(), 2.into());
    controller.set_sn("DOORBELL00000001");
    controller.set_mn("Doorbell");
    controller.set_fr("0.1");
    add("identify", "controller", trimmed(Some(0), controller.as_bytes()));
    let mut namespace = identify::Namespace::new_zeroed();
    (namespace.nsze, namespace.ncap, namespace.noiob) = (2048.into(), 2048.into(), 8.into());
    namespace.lbaf[0].lbads = 9;
    add("identify", "namespace", trimmed(Some(1), namespace.as_bytes()));
    (namespace.flbas, namespace.nlbaf) = (0x31, 17);
    (namespace.lbaf[17].lbads, namespace.lbaf[17].ms) = (12, 64.into());
    add("identify", "namespace-extended", trimmed(Some(1), namespace.as_bytes()));
    let list = NamespaceList::collect(0, [1, 2, 3, 1000, 0xffff_fffe]);
    add("identify", "list", trimmed(Some(2), list.as_bytes()));
    let full = NamespaceList::collect(0, 1..=1024);
    add("identify", "list-full", trimmed(Some(2), full.as_bytes()));
    let descriptors = DescriptorList::collect([
        Descriptor { nidt: Nidt::EUI64, nid: &[1; 8] },
        Descriptor { nidt: Nidt::NGUID, nid: &[2; 16] },
        Descriptor { nidt: Nidt::UUID, nid: &[3; 16] },
        Descriptor { nidt: Nidt::CSI, nid: &[0] },
    ]);
    add("identify", "descriptors", [trimmed(Some(3), &descriptors.bytes), vec![0]].concat());
    add("identify", "nvm-namespace", vec![4, 0xff, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0x81, 1, 0, 0]);

    let mut ana = AnaHeader { ngrps: 2.into(), ..AnaHeader::default() }.as_bytes().to_vec();
    for (group, state, nsids) in [(1, AnaState::OPTIMIZED, &[1u32, 2][..]), (2, AnaState::INACCESSIBLE, &[])] {
        let descriptor = AnaGroupDescriptor {
            agid: group.into(),
            nnsids: (nsids.len() as u32).into(),
            anas: state.0,
            ..AnaGroupDescriptor::default()
        };
        ana.extend(descriptor.as_bytes());
        ana.extend(nsids.iter().flat_map(|nsid| nsid.to_le_bytes()));
    }
    add("log_pages", "ana", [vec![0], ana].concat());
    add("log_pages", "changed", trimmed(Some(2), ChangedNamespaces::collect([1, 7]).as_bytes()));
    add("log_pages", "changed-all", trimmed(Some(2), ChangedNamespaces::collect(1..2000).as_bytes()));
    let mut effects = CommandEffects::new_zeroed();
    effects.set_admin(AdminOpcode::IDENTIFY, 1);
    add("log_pages", "effects", trimmed(Some(3), effects.as_bytes()));
    add("log_pages", "firmware", trimmed(Some(4), FirmwareSlots::single("0.1").as_bytes()));
    add("log_pages", "smart", vec![5, 0, 0x39, 1, 100, 10, 3]);
    let pages = SupportedLogPages::new(&[Lid::SUPPORTED_LOG_PAGES, Lid::SMART, Lid::ANA]);
    add("log_pages", "supported", trimmed(Some(6), pages.as_bytes()));

    let mut entry = DiscoveryEntry::new_zeroed();
    (entry.trtype, entry.subtype, entry.adrfam) = (Trtype::TCP.0, Subtype::NVM.0, 1);
    entry.set_traddr("192.168.1.20");
    entry.set_trsvcid("4420");
    entry.set_subnqn(controller::NQN).expect("a name that fits");
    for (name, subtype) in [("subsystem", Subtype::NVM), ("referral", Subtype::REFERRAL), ("another", Subtype(9))] {
        entry.subtype = subtype.0;
        add("discovery_log", name, trimmed(None, entry.as_bytes()));
    }
    (entry.trtype, entry.subtype) = (Trtype::RDMA.0, Subtype::NVM.0);
    add("discovery_log", "rdma", trimmed(None, entry.as_bytes()));
    entry.subnqn = [b'n'; 256];
    add("discovery_log", "endless-name", trimmed(None, entry.as_bytes()));
    seeds
}

fn ends() -> Vec<Seed> {
    let patch = |at: u32, bytes: &[u8]| [&at.to_le_bytes()[..3], &[bytes.len() as u8], bytes].concat();
    let last = |before: u32| 0x80_0000 | ((320 << 10) - before);
    let table: [(&str, Vec<Vec<u8>>); 6] = [
        ("gpt", vec![patch(512, b"EFI PART\0\0\x01\0"), patch(last(512), b"EFI PART\0\0\x01\0")]),
        ("mbr", vec![patch(446, b"\x80aaa\x83bbbccccdddd"), patch(510, b"\x55\xaa")]),
        ("ext4", vec![patch(1028, b"\x01"), patch(1080, b"\x53\xef"), patch(1024 + 0x60, b"\xc0\x02")]),
        ("fat", vec![patch(0, b"\xeb\x3c\x90mkfs.fat\0\x02\x04\x04\0\x02\0\x02\0\0\xf8"), patch(510, b"\x55\xaa")]),
        ("lvm", vec![patch(512, b"LABELONE"), patch(536, b"LVM2 001"), patch(4086, b"SWAPSPACE2")]),
        ("md", vec![patch(last(8192), b"\xfc\x4e\x2b\xa9\x01\0\0\0"), patch(last(1024), b"Intel Raid ISM Cfg Sig. ")]),
    ];
    let bytes = |patches: &[Vec<u8>]| [&[0], &patches.concat()[..]].concat();
    table.iter().map(|(name, patches)| ("signatures", (*name).to_owned(), bytes(patches))).collect()
}

fn texts() -> Vec<Seed> {
    let ids = [
        ("tcp", "trtype:tcp adrfam:IPv4 traddr:192.168.159.142 trsvcid:4420"),
        (
            "equals",
            " TRTYPE=TCP\ttraddr=fe80::1 subnqn:nqn.2016-06.io.x:ns:3 ns=7 priority:3 hostnqn:nqn.2014-08.org.x:y\n",
        ),
        ("pcie", "trtype:PCIe traddr:0000:5e:00.0"),
        ("custom", "trtype:memory traddr:x hostaddr:10.0.0.2"),
        ("twice", "trtype:tcp traddr:a traddr:b"),
        ("fault", "trtype:tcp traddr:a color:red"),
    ];
    let lines = [
        ("usual", "-q\n256\n-o\n4096\n-w\nrandread\n-t\n10\n-LL\n-c\n0x1\n-r\ntrtype:tcp traddr:127.0.0.1"),
        ("joined", "-q32\n-o128k\n-wrandrw\n-M70\n-t1\n-P4\n--embedded"),
        ("long", "--io-depth=8\n--io-size=4k\n--io-pattern=write\n--time=3\n-c\n[0,2-4]\n--embedded\n-a\n2"),
        ("number", "-q\n1\n-o\n512\n-w\nread\n-t\n1\n-d\n50%\n-O\n64\n-F\n0.9\n--embedded"),
        ("metadata", "-q\n1\n-o\n512\n-w\nread\n-t\n1\n-e\nPRACT=0,PRCHK=GUARD|REFTAG\n-r\ntrtype:tcp traddr:a"),
        ("help", "--help"),
        ("later", "-q\n1\n-o\n512\n-w\nread\n-t\n1\n--zerocopy-threshold\n8192\n-S\nuring\nfile"),
        ("rest", "-q\n1\n--\n-o"),
    ];
    let texts = |body: &'static str, list: &[(&str, &str)]| {
        list.iter().map(|(name, text)| (body, name.to_string(), text.as_bytes().to_vec())).collect::<Vec<Seed>>()
    };
    [texts("transport_id", &ids), texts("options", &lines)].concat()
}

/// Whether an honest stream to a host's queue is taken to its end.
pub fn is_taken_by_host(seed: &[u8]) -> bool {
    let Some(input) = Input::new(seed) else { return false };
    let arena = Arc::new(Arena::new(64 << 10).expect("memory"));
    host_queue::started(&input, &arena).receive(&input.stream, &mut Vec::new()).is_ok()
}

/// How many commands of a stream the target carries out with success.
pub fn successes(seed: &[u8]) -> usize {
    let Some(input) = Input::new(seed) else { return 0 };
    let mut said = Vec::new();
    controller::with_bench(|bench| {
        let mut line = controller::opened(bench, input.mode & 3, input.digests);
        let received = line.receive(&mut bench.target, &input.stream, &mut said);
        line.close(&mut bench.target);
        received.expect("an honest stream");
    });
    let answers = controller::Answers::read(&said, input.digests);
    answers
        .said
        .iter()
        .filter(|said| matches!(said, controller::Said::Answer(_, status) if status.is_success()))
        .count()
}
