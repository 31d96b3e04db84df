//! What a path is, and what is in the way of testing it.

use std::{
    fs::{self, File as Opened},
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{FileTypeExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use doorbell_platform::block;
use doorbell_spec::identify::Namespace;
use rustix::{
    fs::{AtFlags, FileType, OFlags, SeekFrom, StatxFlags, fstatfs, ioctl_blksszget, major, minor, seek, statx},
    io::Errno,
    system::uname,
};
use zerocopy::FromBytes;

use crate::queue::{KernelQueue, Queue};

/// Blocks of a file whose file system names no other: those of most disks.
const BLOCK: u32 = 512;
/// Most bytes of one system call (MAX_RW_COUNT), in whole blocks of any size.
const MOST_BYTES: u32 = 0x7ff0_0000;
/// What a device takes at once where the kernel does not say.
const LEAST_TRANSFER: u32 = 128 << 10;
/// Most I/Os of a queue: io_uring has 32768 places, of which one is kept for cancelling.
const MOST_ENTRIES: u32 = 32_768;
/// What else there is for what a file or block device does not carry.
pub const COMMANDS: &str = "name the NVMe device that takes commands (/dev/ng*)";
/// The first Linux whose block devices take discards by io_uring.
const DISCARDS: (u32, u32) = (6, 12);
const TMPFS: u32 = 0x0102_1994;
const RAMFS: u32 = 0x8584_58f6;

/// How I/O is done through the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Linux AIO.
    Libaio,
    /// io_uring.
    Uring,
    /// NVMe commands through io_uring.
    UringCmd,
}

impl Engine {
    /// Its name on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Libaio => "libaio",
            Self::Uring => "io_uring",
            Self::UringCmd => "io_uring_cmd",
        }
    }
}

/// How paths are opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `None`: io_uring_cmd for what takes NVMe commands, libaio for all else.
    pub engine: Option<Engine>,
    /// Devices are polled for completions.
    pub iopoll: bool,
    /// Threads of the kernel's look for submissions.
    pub sqpoll: bool,
    /// Through the page cache.
    pub buffered: bool,
    /// io_uring knows file and memory beforehand.
    pub registered: bool,
    /// Queues are slept on.
    pub sleeps: bool,
    /// I/Os read.
    pub reads: bool,
    /// I/Os write.
    pub writes: bool,
    /// What they write is to be on the medium when they are over.
    pub durable: bool,
}

/// A file, a block device, or a namespace behind NVMe's generic character device, opened. Clones are the same.
#[derive(Clone, Debug)]
pub struct File(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    name: String,
    file: Opened,
    engine: Engine,
    options: Options,
    device: bool,
    form: Form,
}

/// What there is to know of it.
#[derive(Clone, Copy, Debug)]
struct Form {
    nsid: u32,
    bytes: u64,
    block_size: u32,
    /// Of memory.
    alignment: u32,
    max_transfer: u32,
    metadata_size: u16,
}

impl File {
    /// Opens a path and finds out what it is.
    ///
    /// # Errors
    /// What is in the way, and what to do.
    pub fn open(path: &Path, options: Options) -> Result<Self, String> {
        let name = path.display().to_string();
        let wrong = |why: String| format!("{name}: {why}");
        let kind = fs::metadata(path).map_err(|error| wrong(cannot("be looked at", &error)))?.file_type();
        let generic = kind.is_char_device() && is_generic(path);
        if kind.is_dir() {
            return Err(wrong(
                "it is a directory; name a file in it, a block device, or an NVMe device like /dev/ng0n1".into(),
            ));
        }
        if !kind.is_file() && !kind.is_block_device() && !generic {
            return Err(wrong(
                "it is neither a regular file nor a block device, nor an NVMe device for commands (/dev/ng*); nothing else can be tested".into(),
            ));
        }
        let engine = engine(generic, &options).map_err(wrong)?;
        let direct = !options.buffered && !generic;
        let file = open(path, &options, direct).map_err(wrong)?;
        let device = kind.is_block_device();
        let form = match (generic, device) {
            (true, _) => of_namespace(&file, path),
            (_, true) => of_device(&file, options.writes),
            _ => of_file(&file, direct),
        };
        let form = form.map_err(wrong)?;
        if options.iopoll
            && let Some(setting) = queue_setting(path, "io_poll").filter(|polls| polls == "0")
        {
            return Err(wrong(format!(
                "its driver has no queues to be polled (io_poll is {setting}), which --iopoll needs; for NVMe drives give the kernel \
                 nvme.poll_queues=2 (or load nvme with poll_queues=2), else leave --iopoll out"
            )));
        }
        Ok(Self(Arc::new(Inner { path: path.into(), name, file, engine, options, device, form })))
    }

    /// A queue for at most `slots` I/Os at once.
    pub fn queue(&self, slots: u16) -> KernelQueue {
        let slots = slots.min((MOST_ENTRIES - 1) as u16);
        match self.0.engine {
            Engine::Libaio => KernelQueue::Libaio(Box::new(Queue::new(self.clone(), slots))),
            Engine::Uring => KernelQueue::Uring(Box::new(Queue::new(self.clone(), slots))),
            Engine::UringCmd => KernelQueue::Passthrough(Box::new(Queue::new(self.clone(), slots))),
        }
    }

    /// The path as it was given.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// The same for people.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// How its I/O is done.
    pub fn engine(&self) -> Engine {
        self.0.engine
    }

    /// How it was opened.
    pub fn options(&self) -> &Options {
        &self.0.options
    }

    /// The namespace's identifier, 1 for a file.
    pub fn nsid(&self) -> u32 {
        self.0.form.nsid
    }

    /// Whole blocks.
    pub fn blocks(&self) -> u64 {
        self.0.form.bytes / u64::from(self.0.form.block_size)
    }

    /// Bytes of a block, of which offsets and lengths are multiples.
    pub fn block_size(&self) -> u32 {
        self.0.form.block_size
    }

    /// Metadata bytes of a block, which only commands could carry.
    pub fn metadata_size(&self) -> u16 {
        self.0.form.metadata_size
    }

    /// Alignment of memory in bytes.
    pub fn alignment(&self) -> u32 {
        self.0.form.alignment
    }

    /// Most bytes of an I/O.
    pub fn max_transfer(&self) -> u32 {
        self.0.form.max_transfer
    }

    /// Entries of a queue, of which one stays free.
    pub fn queue_entries(&self) -> u32 {
        MOST_ENTRIES
    }

    /// Whether it is a block device.
    pub(crate) fn is_device(&self) -> bool {
        self.0.device
    }

    /// Whether it can be cleared: that blocks become zeroes, or with `trim` that nobody needs them.
    ///
    /// # Errors
    /// Why it cannot, and what can.
    pub fn clears(&self, trim: bool) -> Result<(), String> {
        let what = if trim { "Deallocate" } else { "Write Zeroes" };
        match self.0.engine {
            Engine::UringCmd => return Ok(()),
            Engine::Libaio => return Err(format!("libaio carries no {what}; use io_uring (-R), or {COMMANDS}")),
            Engine::Uring => {}
        }
        if self.0.options.iopoll {
            return Err(format!("--iopoll carries no {what}; leave it out, or {COMMANDS}"));
        }
        if self.0.options.durable && !trim {
            return Err(format!("{what} is nothing that --fua reaches here; leave it out, or {COMMANDS}"));
        }
        if !(trim && self.is_device()) {
            return Ok(());
        }
        let uname = uname();
        let release = uname.release().to_string_lossy();
        let mut numbers = release.split(|one: char| !one.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
        if (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < DISCARDS {
            let (major, minor) = DISCARDS;
            return Err(format!(
                "Deallocate on a block device needs Linux {major}.{minor}, this is {release}; {COMMANDS}"
            ));
        }
        match queue_setting(&self.0.path, "discard_max_bytes").as_deref() {
            Some("0") => Err("it discards nothing (its discard_max_bytes is 0)".into()),
            _ => Ok(()),
        }
    }

    /// Whether it can be flushed.
    ///
    /// # Errors
    /// Why it cannot, and what can.
    pub fn flushes(&self) -> Result<(), String> {
        match self.0.engine == Engine::Uring && self.0.options.iopoll {
            true => Err(format!("--iopoll carries no Flush; leave it or --flush-every out, or {COMMANDS}")),
            false => Ok(()),
        }
    }

    /// What to know of a file before it is believed: that parts of it are nowhere, where it is read.
    pub fn advice(&self) -> Option<String> {
        let Inner { name, file, options, device, form, .. } = &*self.0;
        let regular = !device && self.0.engine != Engine::UringCmd;
        let hole = (options.reads && regular).then(|| seek(file, SeekFrom::Hole(0)).ok()).flatten()?;
        (hole < form.bytes).then(|| {
            format!(
                "{name}: parts of it were never written, and reading those asks no device: write all of it before (-w write -o 1m -d 100%)."
            )
        })
    }

    /// Whether what a run wrote may lie in the page cache alone.
    pub fn is_cached(&self) -> bool {
        self.0.options.buffered && self.0.options.writes
    }

    /// Brings that to the medium, which may take as long as the medium does.
    ///
    /// # Errors
    /// That it did not get there.
    pub fn settle(&self) -> Result<(), String> {
        self.0.file.sync_all().map_err(|error| {
            format!("{}: what was written to the page cache did not all reach the medium (fsync): {error}", self.name())
        })
    }

    /// Whether memory is pinned for it during the run.
    pub fn pins(&self) -> bool {
        self.0.options.registered && self.0.engine != Engine::Libaio
    }

    pub(crate) fn descriptor(&self) -> io::Result<OwnedFd> {
        Ok(self.0.file.try_clone()?.into())
    }
}

/// The engine for a path.
fn engine(generic: bool, options: &Options) -> Result<Engine, String> {
    let engine = match (options.engine, generic) {
        (None, false) => Engine::Libaio,
        (None | Some(Engine::UringCmd | Engine::Uring), true) => Engine::UringCmd,
        (Some(Engine::Libaio), true) => {
            return Err("it takes NVMe commands, which libaio cannot carry; leave --engine out, or name the block device (/dev/nvme*)".into());
        }
        (Some(Engine::UringCmd), false) => {
            return Err(
                "io_uring_cmd is for NVMe devices that take commands (/dev/ng*); use --engine io_uring for files and block devices".into(),
            );
        }
        (Some(engine), false) => engine,
    };
    for (asked, option) in [(options.iopoll, "--iopoll"), (options.sqpoll, "--sqpoll")] {
        if asked && engine == Engine::Libaio {
            return Err(format!("{option} is io_uring's, and this path is tested by libaio; add -R"));
        }
    }
    Ok(engine)
}

fn open(path: &Path, options: &Options, direct: bool) -> Result<Opened, String> {
    let purpose = match (options.reads, options.writes) {
        (_, false) => "reading",
        (false, true) => "writing",
        (true, true) => "reading and writing",
    };
    let flags = if direct { OFlags::DIRECT.bits() as i32 } else { 0 };
    let opened =
        Opened::options().read(options.reads || !options.writes).write(options.writes).custom_flags(flags).open(path);
    opened.map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::INVAL) if direct => lacks_direct("does not take O_DIRECT"),
        _ => cannot(&format!("be opened for {purpose}"), &error),
    })
}

fn lacks_direct(how: &str) -> String {
    format!("its file system {how}; take a file elsewhere, or --buffered to test through the page cache")
}

fn cannot(what: &str, error: &io::Error) -> String {
    let advice = match Errno::from_io_error(error) {
        Some(Errno::NOENT) => {
            "; create it with data of the size to be tested (head -c 1G /dev/urandom > FILE), or correct the name"
        }
        Some(Errno::ACCESS | Errno::PERM) => {
            "; run this as root, or get the permission (devices: often that of the group disk)"
        }
        Some(Errno::BUSY) => "; somebody has it for himself",
        Some(Errno::ROFS) => "; it can only be read",
        _ => "",
    };
    format!("it cannot {what}: {error}{advice}")
}

/// Whether a character device is one of the NVMe driver's for a namespace, by its place in the device tree.
fn is_generic(path: &Path) -> bool {
    let Ok(stat) = rustix::fs::stat(path) else { return false };
    let device = format!("/sys/dev/char/{}:{}", major(stat.st_rdev), minor(stat.st_rdev));
    fs::read_link(format!("{device}/subsystem")).is_ok_and(|link| link.ends_with("nvme-generic"))
}

fn of_namespace(file: &Opened, path: &Path) -> Result<Form, String> {
    let failed = |what: &str, error: io::Error| cannot(what, &error);
    let nsid = block::namespace(file).map_err(|error| failed("be asked for its namespace", error))?;
    let page =
        block::identify(file, nsid).map_err(|error| failed("be asked what it is (Identify Namespace)", error))?;
    let namespace =
        Namespace::ref_from_bytes(&page[..]).map_err(|_| "Identify Namespace is of another size".to_owned())?;
    let block_size = namespace.lba_size().ok_or("Identify Namespace names no block size that there can be")?;
    let blocks = namespace.nsze.get();
    let number = |name| queue_setting(path, name).and_then(|text| text.parse::<u32>().ok());
    // The kernel hands on what one request of its own can hold, with a page in each segment at worst.
    let limits = [
        number("max_hw_sectors_kb").map(|kib| kib.saturating_mul(1024)),
        number("max_segments").map(|count| (count - 1).max(1).saturating_mul(4096)),
    ];
    let most = limits.into_iter().flatten().min().unwrap_or(LEAST_TRANSFER);
    Ok(Form {
        nsid,
        bytes: blocks.saturating_mul(block_size.into()),
        block_size,
        alignment: 4096,
        max_transfer: (most / block_size * block_size).max(block_size),
        metadata_size: namespace.metadata_size(),
    })
}

fn of_device(file: &Opened, writes: bool) -> Result<Form, String> {
    if writes && block::is_read_only(file).map_err(|error| cannot("be asked whether it can be written", &error))? {
        return Err("it can only be read, and this run writes".into());
    }
    let bytes = block::size(file).map_err(|error| cannot("be asked for its size", &error))?;
    if bytes == 0 {
        return Err("it has no medium: its size is 0".into());
    }
    let block_size = ioctl_blksszget(file).map_err(|error| cannot("be asked for its block size", &error.into()))?;
    let (_, alignment) = direct_alignment(file).unwrap_or((block_size, block_size));
    Ok(Form {
        nsid: 1,
        bytes,
        block_size,
        alignment: alignment.max(block_size),
        max_transfer: MOST_BYTES,
        metadata_size: 0,
    })
}

fn of_file(file: &Opened, direct: bool) -> Result<Form, String> {
    let bytes = file.metadata().map_err(|error| cannot("be asked for its size", &error))?.len();
    if bytes == 0 {
        return Err("it is empty; give it data of the size to be tested (head -c 1G /dev/urandom > FILE)".into());
    }
    let (block_size, alignment) = match direct.then(|| direct_alignment(file)) {
        None => (BLOCK, 1),
        Some(Some((0, _))) => return Err(lacks_direct("has no direct I/O for it")),
        Some(Some(both)) => both,
        Some(None) => {
            // Newer kernels take O_DIRECT there, and use the page cache, which is all that these have.
            if fstatfs(file).is_ok_and(|system| [TMPFS, RAMFS].contains(&(system.f_type as u32))) {
                return Err(lacks_direct("lies in memory and has no direct I/O"));
            }
            (BLOCK, BLOCK)
        }
    };
    let block_size = block_size.max(BLOCK);
    Ok(Form {
        nsid: 1,
        bytes,
        block_size,
        alignment: alignment.max(block_size),
        max_transfer: MOST_BYTES,
        metadata_size: 0,
    })
}

/// The alignment of offsets and of memory for direct I/O, where the kernel says so (Linux 6.1).
fn direct_alignment(file: &Opened) -> Option<(u32, u32)> {
    let wanted = StatxFlags::DIOALIGN;
    let said = statx(file, "", AtFlags::EMPTY_PATH, wanted).ok()?;
    let known = said.stx_mask & wanted.bits() != 0;
    known.then_some((said.stx_dio_offset_align, said.stx_dio_mem_align))
}

/// A setting of the request queue of the device behind a path, or under its file, of the whole disk where that is a partition.
fn queue_setting(path: &Path, name: &str) -> Option<String> {
    let stat = rustix::fs::stat(path).ok()?;
    let file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    let device = if file { stat.st_dev } else { stat.st_rdev };
    let numbers = format!("{}:{}", major(device), minor(device));
    let block = PathBuf::from(format!("/sys/dev/block/{numbers}"));
    let char = fs::read_link(format!("/sys/dev/char/{numbers}")).ok().and_then(|link| {
        let generic = link.file_name()?.to_str()?.to_owned();
        Some(PathBuf::from(format!("/sys/class/block/{}", generic.replacen("ng", "nvme", 1))))
    });
    let places = [Some(block.join("queue")), Some(block.join("../queue")), char.map(|block| block.join("queue"))];
    let text = places.into_iter().flatten().find_map(|place| fs::read_to_string(place.join(name)).ok())?;
    Some(text.trim().to_owned())
}
