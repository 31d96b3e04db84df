//! The log: a line an I/O command, written by a thread of its own, so that a reactor only fills a buffer.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
    sync::mpsc::{self, Receiver, Sender},
    thread::{self, JoinHandle},
};

use doorbell_spec::status::Status;

/// Entries of a buffer.
const BUFFER: usize = 1024;

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

/// A file that is being written. Dropping it waits until everything is there.
#[derive(Debug)]
pub(super) struct Log {
    sender: Option<Sender<Vec<Entry>>>,
    writer: Option<JoinHandle<()>>,
}

impl Log {
    /// Begins a file.
    ///
    /// # Errors
    /// What the system answered.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let file = File::create(path)?;
        let (sender, entries) = mpsc::channel();
        let work = move || {
            if let Err(error) = write(file, &entries) {
                tracing::error!("the log of the fault script ends here: {error}");
            }
        };
        let writer = thread::Builder::new().name("fault log".into()).spawn(work)?;
        Ok(Self { sender: Some(sender), writer: Some(writer) })
    }

    /// A buffer to write with.
    pub(super) fn buffer(&self) -> Option<Buffer> {
        let sender = self.sender.clone()?;
        Some(Buffer { entries: Vec::with_capacity(BUFFER), sender })
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.sender = None;
        if let Some(writer) = self.writer.take() {
            // It says itself when it fails.
            let _ = writer.join();
        }
    }
}

/// Entries on their way to the file.
#[derive(Debug)]
pub(super) struct Buffer {
    entries: Vec<Entry>,
    sender: Sender<Vec<Entry>>,
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
        if !self.entries.is_empty() {
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

fn write(file: File, batches: &Receiver<Vec<Entry>>) -> io::Result<()> {
    let mut file = BufWriter::new(file);
    file.write_all(HEADER.as_bytes())?;
    for batch in batches {
        for entry in batch {
            let Entry { arrived, posted, sent, qid, cid, opcode, slba, blocks, status, fate, .. } = entry;
            let planned = if entry.planned == u64::MAX { "never".into() } else { entry.planned.to_string() };
            let (sct, sc) = (status.sct, status.sc);
            writeln!(
                file,
                "{arrived} {planned} {posted} {sent} {qid} {cid} {opcode:#x} {slba} {blocks} {sct:x}/{sc:02x} {fate}"
            )?;
        }
        file.flush()?;
    }
    Ok(())
}
