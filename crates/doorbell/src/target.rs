//! `doorbell target`: an NVMe subsystem over NVMe/TCP, NVMe/RDMA and vfio-user, until ctrl-C.

use std::{net::SocketAddr, path::PathBuf, sync::mpsc, time::Duration};

use clap::{ArgAction, ArgMatches, Args, FromArgMatches};
use doorbell_platform::open_files;
use doorbell_subsystem::{Backend, NamespaceConfig, Script, SubsystemConfig, Target, TargetConfig, Zoning};
use tracing::Level;

use crate::{
    core_mask, metadata,
    output::{log, show},
    signals, size,
};

/// The subsystem's name when none is given.
pub const DEFAULT_NQN: &str = "nqn.2026-11.io.doorbell:target";

/// Bytes of a zone when the command line does not say.
const ZONE_SIZE: u64 = 64 << 20;

/// Options of `doorbell target`.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    namespaces: Namespaces,
    /// Where to listen, again for another: an address, of which port 0 takes a free one, or a directory for the socket of one host
    #[arg(long, value_name = "[tcp:|rdma:]ADDRESS:PORT|vfio-user:DIRECTORY", default_value = "127.0.0.1:4420", value_parser = listen)]
    listen: Vec<Listen>,
    /// NVMe Qualified Name of the subsystem
    #[arg(long, default_value = DEFAULT_NQN)]
    nqn: String,
    /// Hosts that may connect, by their NQN [default: any]
    #[arg(long, value_name = "NQN,…", value_delimiter = ',')]
    hosts: Vec<String>,
    /// Cores with a reactor each, as for `perf -c` [default: one reactor, placed by the system]
    #[arg(short = 'c', long, value_name = "MASK", value_parser = cores)]
    core_mask: Option<Cores>,
    /// Never sleep, even when no host has anything to do
    #[arg(long)]
    poll: bool,
    /// Most bytes one command transfers: a power of two from 8K to 4M
    #[arg(long, value_name = "SIZE", default_value = "1M", value_parser = size::parse)]
    max_transfer: u64,
    /// Send data of so many bytes or more without a copy to hosts on other machines [default: copy all]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    zerocopy_threshold: Option<u64>,
    /// Most I/O queues a controller grants
    #[arg(long, default_value_t = 128)]
    max_queues: u16,
    /// Most entries of a queue, 2 to 4096
    #[arg(long, default_value_t = 4096)]
    queue_entries: u32,
    /// Receives that the RDMA connections of a reactor share, 16 to 65535 [default: each has its own, one a queue entry]
    #[arg(long, value_name = "SIZE")]
    rdma_srq_size: Option<u32>,
    /// What goes wrong with I/O commands, and when: a script, or a file with one (docs/fault-scripts.md); for tests of hosts
    #[arg(long, value_name = "SCRIPT|FILE", value_parser = Script::load)]
    fault: Option<Script>,
    /// Write what became of each I/O command to this file, a line each
    #[arg(long, value_name = "FILE", requires = "fault")]
    fault_log: Option<PathBuf>,
}

/// Cores, ascending. (A name of its own, so that clap takes the list for one value.)
pub type Cores = std::sync::Arc<[usize]>;

fn cores(text: &str) -> Result<Cores, String> {
    core_mask::cores(text).map(Into::into)
}

/// Where hosts come.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Listen {
    Tcp(SocketAddr),
    Rdma(SocketAddr),
    VfioUser(PathBuf),
}

fn listen(text: &str) -> Result<Listen, String> {
    let (kind, address): (fn(SocketAddr) -> Listen, &str) = match text.split_once(':') {
        Some(("vfio-user", "")) => return Err("\"vfio-user:\" needs a directory, like vfio-user:/tmp/drive".into()),
        Some(("vfio-user", directory)) => return Ok(Listen::VfioUser(directory.into())),
        Some(("rdma", address)) => (Listen::Rdma, address),
        Some(("tcp", address)) => (Listen::Tcp, address),
        _ => (Listen::Tcp, text),
    };
    let no_address = |_| format!("\"{address}\" is no ADDRESS:PORT, like 127.0.0.1:4420 or [::1]:4420");
    address.parse().map(kind).map_err(no_address)
}

/// The namespaces in the order they were given, which is the order of their identifiers.
#[derive(Debug)]
struct Namespaces(Vec<NamespaceConfig>);

const KINDS: [(&str, &str, &str); 3] = [
    (
        "ram",
        "SIZE[,block=512|4096][,…]",
        "A namespace in memory; again for another [one of these three is needed]. Of zones with zoned[,zone=SIZE][,capacity=SIZE]\
         [,open=N][,active=N][,read-only=N] (docs/zoned.md); or of blocks with metadata=BYTES[,separate]\
         [,pi=1|2|3[,guard=16|32|64][,storage=BITS][,first]] (docs/protection.md)",
    ),
    (
        "null",
        "SIZE[,block=512|4096]",
        "A namespace that keeps nothing: reads give zeroes over tcp, and whatever was there over vfio-user; again for another",
    ),
    ("file", "PATH[,block=512|4096]", "A namespace in an existing file or block device; again for another"),
];

impl Args for Namespaces {
    fn augment_args(command: clap::Command) -> clap::Command {
        KINDS.iter().fold(command, |command, (kind, value, help)| {
            command.arg(clap::Arg::new(*kind).long(*kind).value_name(*value).help(*help).action(ArgAction::Append))
        })
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Namespaces {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut given = Vec::new();
        for (kind, ..) in KINDS {
            let values = matches.get_many::<String>(kind).into_iter().flatten();
            given.extend(matches.indices_of(kind).into_iter().flatten().zip(values).map(|(at, text)| (at, kind, text)));
        }
        given.sort_unstable();
        let parsed: Result<Vec<_>, String> = given.into_iter().map(|(_, kind, text)| namespace(kind, text)).collect();
        parsed.map(Self).map_err(|why| clap::Error::raw(clap::error::ErrorKind::ValueValidation, format!("{why}\n")))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn namespace(kind: &str, text: &str) -> Result<NamespaceConfig, String> {
    let told = |why: String| format!("--{kind} \"{text}\": {why}");
    let fail = |why| Err(told(why));
    let mut parts = text.split(',');
    let first = parts.next().unwrap_or_default();
    let (mut block_size, mut zones, mut metadata) = (None, Zones::default(), metadata::Words::default());
    let mut said = Vec::new();
    for part in parts {
        let word = part.split('=').next().unwrap_or(part);
        if said.contains(&word) {
            return fail(format!("\"{word}\" is said twice"));
        }
        said.push(word);
        if metadata.take(part).map_err(told)? {
            continue;
        }
        block_size = match part.split_once('=') {
            _ if kind == "ram" && zones.take(part)? => continue,
            Some(("block", "512")) => Some(512),
            Some(("block", "4096" | "4k" | "4K")) => Some(4096),
            Some(("block", other)) => return fail(format!("blocks are 512 or 4096 bytes, not \"{other}\"")),
            _ if part == "zoned" => return fail("only a namespace in memory (--ram) can be zoned".into()),
            _ => return fail(format!("\"{part}\" is not block=512 or block=4096")),
        };
    }
    let metadata = metadata.metadata().map_err(told)?;
    if metadata.is_some() && kind != "ram" {
        return fail("only a namespace in memory (--ram) can have metadata".into());
    }
    let backend = match kind {
        "file" if first.is_empty() => return fail("a path is missing".into()),
        "file" => Backend::File { path: PathBuf::from(first) },
        _ => {
            let size = size::parse(first).map_err(|why| format!("--{kind}: {why}"))?;
            match (metadata, zones.zoning().map_err(told)?) {
                (Some(_), Some(_)) => return fail("zones have no metadata here: leave one out".into()),
                (Some(metadata), None) => Backend::Formatted { size, metadata },
                (None, Some(zoning)) => Backend::Zoned { size, zoning },
                (None, None) if kind == "ram" => Backend::Ram { size },
                (None, None) => Backend::Null { size },
            }
        }
    };
    let usual = if matches!(backend, Backend::Zoned { .. }) { 4096 } else { 512 };
    let block_size = block_size.unwrap_or(usual);
    match backend {
        Backend::Ram { size } | Backend::Null { size } | Backend::Formatted { size, .. }
            if !size.is_multiple_of(block_size.into()) =>
        {
            fail(format!("{size} bytes are no whole number of blocks of {block_size}"))
        }
        _ => Ok(NamespaceConfig { backend, block_size }),
    }
}

/// What the command line says of zones.
#[derive(Debug, Default)]
struct Zones {
    zoned: bool,
    size: Option<u64>,
    capacity: Option<u64>,
    open: Option<u32>,
    active: Option<u32>,
    read_only: Option<u32>,
}

impl Zones {
    /// Takes a part of a namespace's text, if it is about zones.
    fn take(&mut self, part: &str) -> Result<bool, String> {
        let count = |text: &str| text.parse().map(Some).map_err(|_| format!("\"{part}\" is no number of zones"));
        match part.split_once('=') {
            None if part == "zoned" => self.zoned = true,
            Some(("zone", text)) => self.size = Some(size::parse(text)?),
            Some(("capacity", text)) => self.capacity = Some(size::parse(text)?),
            Some(("open", text)) => self.open = count(text)?,
            Some(("active", text)) => self.active = count(text)?,
            Some(("read-only", text)) => self.read_only = count(text)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn zoning(&self) -> Result<Option<Zoning>, String> {
        if !self.zoned {
            let any = self.size.or(self.capacity).is_some() || self.open.or(self.active).or(self.read_only).is_some();
            return if any { Err("what zones are is said without \"zoned\"".into()) } else { Ok(None) };
        }
        let zone_size = self.size.unwrap_or(ZONE_SIZE);
        Ok(Some(Zoning {
            zone_size,
            zone_capacity: self.capacity.unwrap_or(zone_size),
            max_open: self.open,
            max_active: self.active,
            read_only: self.read_only.unwrap_or(0),
        }))
    }
}

/// Serves until a signal comes.
///
/// # Errors
/// What could not be started, and why; what the log of a fault script lacks.
pub fn run(arguments: &Arguments) -> Result<(), String> {
    if arguments.namespaces.0.is_empty() {
        return Err("a target needs a namespace: --ram SIZE, --null SIZE or --file PATH".into());
    }
    let subsystem = SubsystemConfig {
        namespaces: arguments.namespaces.0.clone(),
        allowed_hosts: arguments.hosts.clone(),
        max_io_queues: arguments.max_queues,
        max_queue_entries: arguments.queue_entries,
        max_transfer: u32::try_from(arguments.max_transfer).unwrap_or(u32::MAX),
        ..SubsystemConfig::new(arguments.nqn.as_str())
    };
    let mut config = TargetConfig::of(subsystem);
    for listen in &arguments.listen {
        match listen {
            Listen::Tcp(address) => config.listen.push(*address),
            Listen::Rdma(address) => config.rdma.push(*address),
            Listen::VfioUser(directory) => config.vfio_user.push(directory.clone()),
        }
    }
    config.cores = arguments.core_mask.as_deref().map(<[usize]>::to_vec);
    config.poll = arguments.poll;
    config.rdma_shared_receives = arguments.rdma_srq_size;
    (config.fault, config.fault_log) = (arguments.fault.clone(), arguments.fault_log.clone());
    config.zero_copy = arguments.zerocopy_threshold.map(|bytes| u32::try_from(bytes).unwrap_or(u32::MAX));
    let (sender, ended) = mpsc::channel();
    signals::on_signal(move || {
        let _ = sender.send(());
    })
    .map_err(|why| format!("handling signals: {why}"))?;
    // A descriptor a connection: the usual soft limit is for programs that use select().
    open_files::raise_limit();
    // What it cannot do for its hosts is nowhere else to be seen, nor what became of zero-copy.
    log(if config.zero_copy.is_some() { Level::WARN } else { Level::ERROR });
    let target = Target::start(config).map_err(|why| why.to_string())?;
    show(&format!("Serving {}\n", arguments.nqn));
    for address in target.addresses() {
        show(&format!("Listening on tcp:{address}\n"));
    }
    for address in target.rdma_addresses() {
        show(&format!("Listening on rdma:{address}\n"));
    }
    for directory in target.directories() {
        show(&format!("Listening on vfio-user:{}\n", directory.display()));
    }
    while ended.recv_timeout(Duration::from_secs(3600)) == Err(mpsc::RecvTimeoutError::Timeout) {}
    target.stop()
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use doorbell_spec::protection::{Format, Guard};

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn parse(text: &str) -> Result<Arguments, String> {
        let words = std::iter::once("target").chain(text.split_whitespace());
        Cli::try_parse_from(words).map(|cli| cli.arguments).map_err(|why| why.to_string())
    }

    #[test]
    fn namespaces_keep_the_order_of_the_command_line() {
        let arguments = parse("--null 1T --ram 64M,block=4096 --file /tmp/x --null 2G -c 0x5").unwrap();
        let kinds: Vec<_> = arguments.namespaces.0.iter().map(|one| (one.backend.clone(), one.block_size)).collect();
        assert_eq!(
            kinds,
            [
                (Backend::Null { size: 1 << 40 }, 512),
                (Backend::Ram { size: 64 << 20 }, 4096),
                (Backend::File { path: "/tmp/x".into() }, 512),
                (Backend::Null { size: 2 << 30 }, 512),
            ]
        );
        assert_eq!(arguments.core_mask.as_deref(), Some(&[0, 2][..]));
        assert_eq!(arguments.listen, [Listen::Tcp("127.0.0.1:4420".parse().unwrap())]);
    }

    #[test]
    fn metadata_is_what_its_words_say() {
        let metadata =
            |words: &str| match &parse(&format!("--ram 1G,block=4096,{words}")).unwrap().namespaces.0[0].backend {
                Backend::Formatted { size: 0x4000_0000, metadata } => *metadata,
                other => panic!("{other:?}"),
            };
        let plain = metadata("metadata=64,separate");
        assert_eq!((plain.size, plain.extended, plain.protection), (64, false, None));
        let format = |words| metadata(words).protection.unwrap();
        assert_eq!(format("metadata=64,pi=3"), Format::new(3, Guard::Crc16, 0, 64, false).unwrap());
        assert_eq!(format("metadata=16,pi=1,guard=32"), Format::new(1, Guard::Crc32c, 16, 16, false).unwrap());
        let first = format("metadata=64,pi=2,guard=64,storage=8,first");
        assert_eq!(first, Format::new(2, Guard::Crc64, 8, 64, true).unwrap());
    }

    #[test]
    fn zones_are_described_with_their_namespace() {
        let arguments =
            parse("--ram 1G,zoned --ram 1G,block=512,zoned,zone=4m,capacity=3m,open=8,active=12,read-only=1").unwrap();
        let zoning = |zone_size, zone_capacity, max_open, max_active, read_only| Backend::Zoned {
            size: 1 << 30,
            zoning: Zoning { zone_size, zone_capacity, max_open, max_active, read_only },
        };
        let found: Vec<_> = arguments.namespaces.0.iter().map(|one| (one.backend.clone(), one.block_size)).collect();
        let wanted = [
            (zoning(64 << 20, 64 << 20, None, None, 0), 4096),
            // Refused when the target is started.
            (zoning(4 << 20, 3 << 20, Some(8), Some(12), 1), 512),
        ];
        assert_eq!(found, wanted);
    }

    #[test]
    fn addresses_and_directories_may_be_mixed() {
        let arguments = parse(
            "--ram 1G --listen vfio-user:/tmp/a:b --listen [::1]:0 --listen tcp:10.0.0.1:1 --listen rdma:[::1]:2",
        )
        .unwrap();
        let wanted = [
            Listen::VfioUser("/tmp/a:b".into()),
            Listen::Tcp("[::1]:0".parse().unwrap()),
            Listen::Tcp("10.0.0.1:1".parse().unwrap()),
            Listen::Rdma("[::1]:2".parse().unwrap()),
        ];
        assert_eq!(arguments.listen, wanted);
    }

    #[test]
    fn what_cannot_be_served_is_named() {
        for (text, said) in [
            ("--ram 1X", "1X"),
            ("--ram 1G,block=520", "520"),
            ("--ram 1000", "no whole number of blocks of 512"),
            ("--ram 1G,block=512,block=4096", "\"block\" is said twice"),
            ("--ram 1G,zoned,zone=4m,zoned", "\"zoned\" is said twice"),
            ("--ram 1G,metadata=0", "1 to 4096"),
            ("--ram 1G,metadata=8,pi=4", "1 to 3"),
            ("--ram 1G,pi=1", "need metadata"),
            ("--ram 1G,metadata=8,first", "need pi"),
            ("--ram 1G,metadata=8,pi=1,guard=64", "8 bytes of metadata have no room"),
            ("--ram 1G,metadata=16,pi=1,guard=48", "16, 32 or 64"),
            ("--ram 1G,metadata=16,pi=1,guard=32,storage=8", "storage tag of 8 bits"),
            ("--ram 1G,metadata=8,zoned", "zones have no metadata"),
            ("--null 1G,metadata=8", "only a namespace in memory"),
            ("--file ,block=512", "path"),
            ("--null 1G,zoned", "--ram"),
            ("--ram 1G,zone=64M", "without \"zoned\""),
            ("--ram 1G,zoned,open=few", "open=few"),
            ("--ram 1G,zoned,zone=1X", "1X"),
            ("--ram 1G --listen 127.0.0.1", "ADDRESS:PORT"),
            ("--ram 1G --listen rdma:10.0.0.1", "ADDRESS:PORT"),
            ("--ram 1G --listen vfio-user:", "directory"),
            ("--ram 1G -c zz", "zz"),
        ] {
            let why = parse(text).unwrap_err();
            assert!(why.contains(said), "{text}: {why}");
        }
    }
}
