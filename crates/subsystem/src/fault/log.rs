//! The log: a line an I/O command, written by a thread of its own, so that a reactor only fills a buffer. A file that takes nothing
//! (a pipe nobody reads, a disk that hangs) holds up neither the reactors nor the end of the target: what it is behind by is bounded,
//! and lines beyond that are left out, counted and told.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use doorbell_spec::status::Status;

/// Entries of a buffer.
const BUFFER: usize = 1024;
/// Entries that wait for the file at most, about 80 MiB.
const BACKLOG: usize = 1 << 20;
/// How long the end of a target waits for its log.
const PATIENCE: Duration = Duration::from_secs(5);

const HEADER: &str =
    "# arrived planned posted sent (ns since the first command), then: queue cid opcode slba blocks status fate\n";

/// An I/O command and what came of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) arrived: u64,
    /// When its completion was to go; `u64::MAX` for never.
    pub(super) planned: u64,
    /// When it began to go, and when that was over; 0 when it did not.
    pub(super) posted: u64,
    pub(super) sent: u64,
    pub(super) qid: u16,
    pub(super) cid: u16,
    pub(super) opcode: u8,
    pub(super) slba: u64,
    pub(super) blocks: u32,
    pub(super) status: Status,
    pub(super) fate: &'static str,
}

/// What the file is behind by.
#[derive(Debug, Default)]
struct Backlog {
    waiting: AtomicUsize,
    lost: AtomicU64,
}

/// The thread that writes, and what it gets its entries from.
type Writer = (Sender<Vec<Entry>>, JoinHandle<io::Result<()>>);

/// A file that is being written.
#[derive(Debug)]
pub(super) struct Log {
    backlog: Arc<Backlog>,
    /// Nothing when the file is ended.
    writer: Mutex<Option<Writer>>,
}

impl Log {
    /// Begins a file, which says where on the monotonic clock times begin.
    ///
    /// # Errors
    /// What the system answered, for a pipe that nobody reads too.
    pub(super) fn create(path: &Path, epoch: &Arc<OnceLock<u64>>) -> io::Result<Self> {
        let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
        let file = File::options().write(true).create(true).truncate(true).custom_flags(nonblocking).open(path)?;
        // Only opening was not to wait.
        fcntl_setfl(&file, fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
        let backlog = Arc::new(Backlog::default());
        let also = backlog.clone();
        let (sender, entries) = mpsc::channel();
        let epoch = epoch.clone();
        let work = move || {
            write(file, &epoch, &entries, &also)
                .inspect_err(|error| tracing::error!("the log of the fault script ends here: {error}"))
        };
        let writer = thread::Builder::new().name("fault log".into()).spawn(work)?;
        Ok(Self { backlog, writer: Mutex::new(Some((sender, writer))) })
    }

    fn writer(&self) -> MutexGuard<'_, Option<Writer>> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A buffer to write with.
    pub(super) fn buffer(&self) -> Option<Buffer> {
        let sender = self.writer().as_ref()?.0.clone();
        Some(Buffer { entries: Vec::with_capacity(BUFFER), sender, backlog: self.backlog.clone() })
    }

    /// Ends the file when everything is there, for which it waits for [`PATIENCE`] at most.
    ///
    /// # Errors
    /// What it lacks, and why; said once.
    pub(super) fn finish(&self) -> Result<(), String> {
        let Some((sender, writer)) = self.writer().take() else { return Ok(()) };
        drop(sender);
        let deadline = Instant::now() + PATIENCE;
        while !writer.is_finished() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        if !writer.is_finished() {
            let waiting = self.backlog.waiting.load(Ordering::Relaxed);
            return Err(format!("lacks its last {waiting} lines: its file took nothing for {} s", PATIENCE.as_secs()));
        }
        match (writer.join(), self.backlog.lost.load(Ordering::Relaxed)) {
            (Ok(Ok(())), 0) => Ok(()),
            (Ok(Ok(())), lost) => Err(format!("lacks {lost} lines: its file did not take them as fast as they came")),
            (Ok(Err(error)), _) => Err(format!("is not whole: {error}")),
            (Err(_), _) => Err("is not whole: its thread has panicked".into()),
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if let Err(why) = self.finish() {
            tracing::error!("the log of the fault script {why}");
        }
    }
}

/// Entries on their way to the file.
#[derive(Debug)]
pub(super) struct Buffer {
    entries: Vec<Entry>,
    sender: Sender<Vec<Entry>>,
    backlog: Arc<Backlog>,
}

impl Buffer {
    pub(super) fn push(&mut self, entry: Entry) {
        self.entries.push(entry);
        if self.entries.len() == BUFFER {
            self.flush();
        }
    }

    /// Hands over what there is.
    pub(super) fn flush(&mut self) {
        let count = self.entries.len();
        if count == 0 {
            return;
        }
        if self.backlog.waiting.fetch_add(count, Ordering::Relaxed) + count > BACKLOG {
            self.backlog.waiting.fetch_sub(count, Ordering::Relaxed);
            self.backlog.lost.fetch_add(count as u64, Ordering::Relaxed);
            self.entries.clear();
        } else {
            // A writer that has failed has said so.
            let _ = self.sender.send(std::mem::replace(&mut self.entries, Vec::with_capacity(BUFFER)));
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.flush();
    }
}

fn write(file: File, epoch: &OnceLock<u64>, batches: &Receiver<Vec<Entry>>, backlog: &Backlog) -> io::Result<()> {
    let mut file = BufWriter::new(file);
    file.write_all(HEADER.as_bytes())?;
    let mut told = 0;
    for (number, batch) in batches.iter().enumerate() {
        if let Some(epoch) = epoch.get().filter(|_| number == 0) {
            writeln!(file, "# time begins at {epoch} ns of the monotonic clock")?;
        }
        for entry in &batch {
            let Entry { arrived, posted, sent, qid, cid, opcode, slba, blocks, status, fate, .. } = entry;
            let planned = if entry.planned == u64::MAX { "never".into() } else { entry.planned.to_string() };
            let (sct, sc) = (status.sct, status.sc);
            writeln!(
                file,
                "{arrived} {planned} {posted} {sent} {qid} {cid} {opcode:#x} {slba} {blocks} {sct:x}/{sc:02x} {fate}"
            )?;
        }
        file.flush()?;
        backlog.waiting.fetch_sub(batch.len(), Ordering::Relaxed);
        let lost = backlog.lost.load(Ordering::Relaxed);
        if lost > told {
            writeln!(file, "# {} lines are missing here or near", lost - told)?;
            told = lost;
        }
    }
    file.flush()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    const ENTRY: Entry = Entry {
        arrived: 1,
        planned: 2,
        posted: 3,
        sent: 4,
        qid: 1,
        cid: 7,
        opcode: 2,
        slba: 0,
        blocks: 8,
        status: Status::SUCCESS,
        fate: "sent",
    };

    /// A named pipe, which goes with it.
    struct Pipe(std::path::PathBuf);

    impl Pipe {
        fn new() -> Self {
            let path = std::env::temp_dir().join(format!("doorbell-log-{}", std::process::id()));
            rustix::fs::mkfifoat(rustix::fs::CWD, &path, 0o600.into()).unwrap();
            Self(path)
        }
    }

    impl Drop for Pipe {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    #[test]
    fn a_pipe_that_takes_nothing_holds_nobody_up() {
        let pipe = Pipe::new();
        let epoch = Arc::new(OnceLock::new());
        let refused = Log::create(&pipe.0, &epoch).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(rustix::io::Errno::NXIO.raw_os_error()), "{refused}");

        let mut reader =
            File::options().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(&pipe.0).unwrap();
        let log = Log::create(&pipe.0, &epoch).unwrap();
        let (mut buffer, backlog) = (log.buffer().unwrap(), log.backlog.clone());
        let lines = BACKLOG + 10 * BUFFER;
        (0..lines).for_each(|_| buffer.push(ENTRY));
        drop(buffer);
        let lost = backlog.lost.load(Ordering::Relaxed) as usize;
        // What the pipe itself holds may have made room for a batch or two.
        assert!((8 * BUFFER..=10 * BUFFER).contains(&lost), "{lost}");
        assert!(backlog.waiting.load(Ordering::Relaxed) <= BACKLOG);
        // Its end is not that of the writer, which hangs.
        drop(log);
        // Who reads on finds what was kept, and how much was not.
        fcntl_setfl(&reader, OFlags::empty()).unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        let missing =
            text.lines().find_map(|line| line.strip_prefix("# ")?.strip_suffix(" lines are missing here or near"));
        assert_eq!(missing.unwrap().parse(), Ok(lost));
        assert_eq!(text.lines().filter(|line| !line.starts_with('#')).count(), lines - lost);
    }
}
