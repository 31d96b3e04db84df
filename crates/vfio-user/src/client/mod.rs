//! The host's end: asks, and waits for the answer within a deadline. What the server wants meanwhile, bytes of memory that it cannot
//! map, is given from the regions that were mapped for it.

mod device;

use std::{
    fmt,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use doorbell_platform::{Region, poll};
use rustix::io::Errno;
use zerocopy::IntoBytes;

use crate::{
    DmaMap, Limits, Lost, MOST_DATA, Message, PAGE, SOCKET_NAME, Violation,
    socket::{self, Socket},
    wire::{self, Command, DmaAccess, DmaMapRequest, DmaUnmapRequest, Header, RegionAccess, VERSION_MINOR, dma, flags},
};
pub use device::{Area, DeviceInfo, DeviceRegion};

/// How often a wait looks whether it is cancelled.
const LOOK: Duration = Duration::from_millis(50);
/// Most commands whose answers are not waited for any more.
const MOST_ABANDONED: usize = 64;

/// What went wrong with a device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nobody could be reached.
    #[error("cannot connect to {}: {why}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What came back, and what to do.
        why: String,
    },
    /// The device's process ended, or closed the connection; there is no way back.
    #[error("the device's process closed the connection")]
    Closed,
    /// The connection is over for another reason; there is no way back.
    #[error(transparent)]
    Lost(Lost),
    /// No answer came in time.
    #[error("the device's process did not answer {command} within {} s", patience.as_secs_f32())]
    Late {
        /// What was sent.
        command: Command,
        /// How long was waited.
        patience: Duration,
    },
    /// The caller cancelled the wait.
    #[error("cancelled while waiting for the answer to {0}")]
    Cancelled(Command),
    /// The device's process refused.
    #[error("the device's process refused {what}: {errno}")]
    Refused {
        /// What was sent.
        what: String,
        /// Its answer.
        errno: Errno,
    },
    /// The device cannot do what is needed, or this process ran out of something.
    #[error("{0}")]
    Unable(String),
}

impl Error {
    /// Whether the connection is over.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Closed | Self::Lost(_))
    }
}

impl From<Lost> for Error {
    fn from(lost: Lost) -> Self {
        match lost {
            Lost::Closed { .. } => Self::Closed,
            other => Self::Lost(other),
        }
    }
}

impl From<Violation> for Error {
    fn from(violation: Violation) -> Self {
        Self::Lost(violation.into())
    }
}

/// A device that another process plays.
pub struct Client {
    socket: Socket,
    limits: Limits,
    map: DmaMap,
    patience: Duration,
    cancelled: Box<dyn Fn() -> bool + Send>,
    next_id: u16,
    /// Commands whose wait ended before the answer came.
    abandoned: Vec<u16>,
    /// Why the connection is over.
    down: Option<Error>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { limits, map, down, .. } = self;
        f.debug_struct("Client").field("limits", limits).field("map", map).field("down", down).finish_non_exhaustive()
    }
}

impl Client {
    /// Connects to a device by its directory or its socket, and agrees on a version. Every answer, now and later, must come within
    /// `patience`; `cancelled`, looked at while one is late, ends the wait.
    ///
    /// # Errors
    /// [`Error::Connect`] where nobody listens, else as for any command.
    pub fn connect(path: &Path, patience: Duration, cancelled: Box<dyn Fn() -> bool + Send>) -> Result<Self, Error> {
        let path = if path.is_dir() { path.join(SOCKET_NAME) } else { path.to_path_buf() };
        let until = Instant::now() + patience;
        let stream = loop {
            let why = match socket::connect(&path) {
                Ok(stream) => break stream,
                Err(Errno::AGAIN) if cancelled() => return Err(Error::Cancelled(Command::VERSION)),
                Err(Errno::AGAIN) if Instant::now() < until => {
                    std::thread::sleep(LOOK / 5);
                    continue;
                }
                Err(Errno::AGAIN) => format!("the process that listens there took nobody for {patience:?}"),
                Err(error @ Errno::NOENT) => format!("{error}; is the device's process running?"),
                Err(error @ Errno::CONNREFUSED) => format!("{error}: the device's process has ended; start it again"),
                Err(error) => error.to_string(),
            };
            return Err(Error::Connect { path, why });
        };
        Self::over(stream, patience, cancelled).map_err(|error| match error {
            Error::Closed => {
                let why = "it was closed at once; is the device used by another process?".into();
                Error::Connect { path, why }
            }
            other => other,
        })
    }

    /// Agrees on a version over a connected socket; else as [`Client::connect`].
    ///
    /// # Errors
    /// As for any command.
    pub fn over(
        stream: UnixStream,
        patience: Duration,
        cancelled: Box<dyn Fn() -> bool + Send>,
    ) -> Result<Self, Error> {
        let socket = Socket::new(stream).map_err(|error| Error::Unable(format!("a socket cannot be used: {error}")))?;
        let mut client = Self {
            socket,
            limits: Limits::OURS,
            map: DmaMap::default(),
            patience,
            cancelled,
            next_id: 0,
            abandoned: Vec::new(),
            down: None,
        };
        let reply =
            client.ask(Command::VERSION, &[&Limits::announce(VERSION_MINOR)], Vec::new(), || "VERSION".into())?;
        let (_, limits) = Limits::read(&reply)?;
        if limits.pgsizes & PAGE == 0 {
            let sizes = limits.pgsizes;
            return Err(Error::Unable(format!("the device maps no pages of {PAGE} bytes (pgsizes is {sizes:#x})")));
        }
        client.limits = limits;
        Ok(client)
    }

    /// The descriptor to wait on for [`Client::serve`].
    pub fn fd(&self) -> RawFd {
        self.socket.fd()
    }

    /// What the server can take.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Reads registers.
    ///
    /// # Errors
    /// [`Error`].
    pub fn read(&mut self, region: u32, offset: u64, bytes: &mut [u8]) -> Result<(), Error> {
        let access = self.access(region, offset, bytes.len())?;
        let what = || format!("to read {} bytes at {offset:#x} of region {region}", access.count);
        let reply = self.ask(Command::REGION_READ, &[access.as_bytes()], Vec::new(), what)?;
        let data = reply.after::<RegionAccess>();
        if data.len() != bytes.len() {
            let why = format!("{} bytes answer a read of {}", data.len(), bytes.len());
            return Err(self.lost(Violation(why).into()));
        }
        bytes.copy_from_slice(data);
        Ok(())
    }

    /// Writes registers; they are written when this returns.
    ///
    /// # Errors
    /// [`Error`].
    pub fn write(&mut self, region: u32, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let access = self.access(region, offset, bytes.len())?;
        let what = || format!("to write {} bytes at {offset:#x} of region {region}", access.count);
        self.ask(Command::REGION_WRITE, &[access.as_bytes(), bytes], Vec::new(), what).map(drop)
    }

    fn access(&self, region: u32, offset: u64, len: usize) -> Result<RegionAccess, Error> {
        let most = self.limits.max_data_xfer_size.min(MOST_DATA.into());
        if len as u64 > most {
            return Err(Error::Unable(format!("{len} bytes of a region at once, {most} can be reached")));
        }
        Ok(RegionAccess { offset: offset.into(), region: region.into(), count: (len as u32).into() })
    }

    /// Lets the device reach a region, which is kept until it is unmapped, at `iova` (whole pages): directly where it is shared
    /// memory, else by messages that this process answers.
    ///
    /// # Errors
    /// [`Error`].
    pub fn dma_map(&mut self, region: &Arc<Region>, iova: u64) -> Result<(), Error> {
        let size = region.len() as u64;
        let what = || format!("to map {size:#x} bytes at {iova:#x}");
        self.map
            .check(iova, size, dma::READ | dma::WRITE)
            .map_err(|why| Error::Unable(format!("cannot ask the device {}: {why}", what())))?;
        if self.map.len() as u64 >= self.limits.max_dma_maps {
            let most = self.limits.max_dma_maps;
            return Err(Error::Unable(format!(
                "the device maps {most} pieces of memory at most, and this is one more"
            )));
        }
        let fds = match region.file().filter(|_| self.limits.max_msg_fds > 0) {
            None => Vec::new(),
            Some(file) => vec![duplicate(file)?],
        };
        let request = DmaMapRequest {
            argsz: (size_of::<DmaMapRequest>() as u32).into(),
            flags: (dma::READ | dma::WRITE).into(),
            offset: 0.into(),
            addr: iova.into(),
            size: size.into(),
        };
        // The device may reach it before the answer is here.
        self.map.insert(iova, size, dma::READ | dma::WRITE, Some(region.clone()));
        let asked = self.ask(Command::DMA_MAP, &[request.as_bytes()], fds, what);
        if let Err(Error::Refused { .. }) = asked {
            self.map.remove(iova, None);
        }
        asked.map(drop)
    }

    /// Takes a region away from the device, which does not touch it any more when this returns.
    ///
    /// # Errors
    /// [`Error`]; the region is kept.
    pub fn dma_unmap(&mut self, region: &Region, iova: u64) -> Result<(), Error> {
        let size = region.len() as u64;
        let request = DmaUnmapRequest {
            argsz: (size_of::<DmaUnmapRequest>() as u32).into(),
            flags: 0.into(),
            addr: iova.into(),
            size: size.into(),
        };
        let what = || format!("to unmap {size:#x} bytes at {iova:#x}");
        self.ask(Command::DMA_UNMAP, &[request.as_bytes()], Vec::new(), what)?;
        self.map.remove(iova, Some(size));
        Ok(())
    }

    /// Resets the device.
    ///
    /// # Errors
    /// [`Error`].
    pub fn reset(&mut self) -> Result<(), Error> {
        self.ask(Command::DEVICE_RESET, &[], Vec::new(), || "to be reset".into()).map(drop)
    }

    /// Answers what the server has asked for, without waiting; to be called when the descriptor is readable and nobody waits for an
    /// answer.
    ///
    /// # Errors
    /// Why the connection is over.
    pub fn serve(&mut self) -> Result<(), Error> {
        self.up()?;
        let until = Instant::now() + LOOK;
        loop {
            self.flush()?;
            let message = if self.socket.is_full() { None } else { self.receive()? };
            match message {
                Some(message) => self.take(message)?,
                None => return Ok(()),
            }
            // A server that never stops must not keep the caller here.
            if Instant::now() >= until {
                return Ok(());
            }
        }
    }

    /// Sends a command and waits for the answer; `what` says for people what was asked for.
    fn ask(
        &mut self,
        command: Command,
        body: &[&[u8]],
        fds: Vec<OwnedFd>,
        what: impl Fn() -> String,
    ) -> Result<Message, Error> {
        self.up()?;
        if self.abandoned.len() >= MOST_ABANDONED {
            return Err(self.lost(Lost::Violation(Violation(format!("{MOST_ABANDONED} commands were not answered")))));
        }
        // One whose wait ended long ago may have no answer yet while all other numbers have come round.
        while self.abandoned.contains(&self.next_id) {
            self.next_id = self.next_id.wrapping_add(1);
        }
        let id = self.next_id;
        self.next_id = id.wrapping_add(1);
        let header = Header { msg_id: id.into(), cmd: command.0.into(), ..Header::default() };
        self.socket.push(wire::message(header, body), fds);
        let start = Instant::now();
        loop {
            self.flush()?;
            let message = if self.socket.is_full() { None } else { self.receive()? };
            let idle = message.is_none();
            match message {
                Some(reply) if reply.is_reply() && reply.header.msg_id.get() == id => {
                    if reply.command() != command {
                        let why = format!("a reply to {} where {command} was sent", reply.command());
                        return Err(self.lost(Violation(why).into()));
                    }
                    return match socket::error_of(&reply.header) {
                        None => Ok(reply),
                        Some(errno) => Err(Error::Refused { what: what(), errno }),
                    };
                }
                Some(other) => self.take(other)?,
                None => {}
            }
            let waited = start.elapsed();
            let over = match waited {
                _ if waited >= self.patience => Error::Late { command, patience: self.patience },
                _ if waited >= LOOK && (self.cancelled)() => Error::Cancelled(command),
                _ if idle => {
                    poll::wait(&[(self.fd(), self.socket.wants_to_write())], LOOK.min(self.patience - waited));
                    continue;
                }
                _ => continue,
            };
            self.abandoned.push(id);
            return Err(over);
        }
    }

    /// Takes a message that is not the answer somebody waits for.
    fn take(&mut self, message: Message) -> Result<(), Error> {
        let (id, command) = (message.header.msg_id.get(), message.command());
        if message.is_reply() {
            let place = self.abandoned.iter().position(|&each| each == id);
            let Some(place) = place else {
                return Err(self.lost(Violation(format!("a reply {id} to {command} that nobody asked for")).into()));
            };
            self.abandoned.swap_remove(place);
            return Ok(());
        }
        let answer = match self.give(&message) {
            Ok(body) => {
                let flags = flags::REPLY.into();
                wire::message(Header { msg_id: id.into(), cmd: command.0.into(), flags, ..Header::default() }, &[&body])
            }
            Err(errno) => socket::error_reply(id, command, errno),
        };
        if message.header.flags.get() & flags::NO_REPLY == 0 {
            self.socket.push(answer, Vec::new());
            self.flush()?;
        }
        Ok(())
    }

    /// Carries out a command of the server's: the body of the answer.
    fn give(&self, message: &Message) -> Result<Vec<u8>, Errno> {
        let command = message.command();
        if !matches!(command, Command::DMA_READ | Command::DMA_WRITE) {
            return Err(Errno::NOTSUP);
        }
        let access: DmaAccess = message.read().ok_or(Errno::INVAL)?;
        let (addr, count, data) = (access.addr.get(), access.count.get(), message.after::<DmaAccess>());
        let mut body = access.as_bytes().to_vec();
        if command == Command::DMA_WRITE {
            if count != data.len() as u64 {
                return Err(Errno::INVAL);
            }
            self.map.write(addr, data).map_err(|_| Errno::FAULT)?;
        } else {
            if count > MOST_DATA.into() || !data.is_empty() {
                return Err(Errno::INVAL);
            }
            let from = body.len();
            body.resize(from + count as usize, 0);
            self.map.read(addr, &mut body[from..]).map_err(|_| Errno::FAULT)?;
        }
        Ok(body)
    }

    fn up(&self) -> Result<(), Error> {
        self.down.clone().map_or(Ok(()), Err)
    }

    fn flush(&mut self) -> Result<(), Error> {
        match self.socket.flush() {
            Ok(_) => Ok(()),
            Err(lost) => Err(self.lost(lost)),
        }
    }

    fn receive(&mut self) -> Result<Option<Message>, Error> {
        self.socket.receive().map_err(|lost| self.lost(lost))
    }

    /// The connection is over.
    fn lost(&mut self, lost: Lost) -> Error {
        self.down.insert(lost.into()).clone()
    }
}

fn duplicate(fd: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
    fd.try_clone_to_owned().map_err(|error| Error::Unable(format!("no descriptor to give to the device: {error}")))
}

/// The descriptors that go along, each for the peer to keep.
fn duplicates(fds: &[BorrowedFd<'_>]) -> Result<Vec<OwnedFd>, Error> {
    fds.iter().map(|fd| duplicate(fd.as_fd())).collect()
}

#[cfg(test)]
mod tests;
