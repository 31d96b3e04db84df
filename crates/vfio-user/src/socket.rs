//! The socket around an [`Assembler`]: reads messages with their descriptors, and sends those that wait. No call waits.

use std::{
    collections::VecDeque,
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    path::Path,
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, recvmsg, sendmsg, socket_with,
    },
};

use crate::{
    Assembler, MOST_DATA, MOST_FDS, Message, Violation,
    wire::{self, Command, Header, RegionAccess, flags},
};

/// Most bytes of a message that comes to us.
pub(crate) const MOST_BYTES: usize = size_of::<Header>() + size_of::<RegionAccess>() + MOST_DATA as usize;
/// Most bytes that wait to be sent, up to a message more.
const MOST_WAITING: usize = 4 << 20;
/// Most messages that do: each may hold descriptors.
const MOST_PACKETS: usize = 128;

/// Why a connection is over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// The peer closed it, or ended.
    #[error("the peer closed the connection{}", if *within_message { " in the middle of a message" } else { "" })]
    Closed {
        /// Whether a message was cut short.
        within_message: bool,
    },
    /// The system reported an error.
    #[error("the connection failed: {0}")]
    Io(Errno),
    /// The peer did what the protocol does not allow.
    #[error(transparent)]
    Violation(#[from] Violation),
}

/// A connected socket, what is arriving, and what waits to be sent.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: UnixStream,
    assembler: Assembler,
    queue: VecDeque<Packet>,
    /// Bytes in `queue`.
    waiting: usize,
}

#[derive(Debug)]
struct Packet {
    bytes: Vec<u8>,
    sent: usize,
    /// They leave with the first byte.
    fds: Vec<OwnedFd>,
}

impl Socket {
    /// Wraps a connected socket.
    ///
    /// # Errors
    /// When it cannot be made non-blocking.
    pub fn new(stream: UnixStream) -> std::io::Result<Self> {
        stream.set_nonblocking(true)?;
        let assembler = Assembler::new(MOST_BYTES, MOST_FDS);
        Ok(Self { stream, assembler, queue: VecDeque::new(), waiting: 0 })
    }

    /// The descriptor to wait on.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// The same as a number.
    pub fn fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }

    /// Whether something waits to be sent.
    pub fn wants_to_write(&self) -> bool {
        self.waiting > 0
    }

    /// Whether so much waits to be sent that nothing more should be received.
    pub fn is_full(&self) -> bool {
        self.waiting > MOST_WAITING || self.queue.len() > MOST_PACKETS
    }

    /// Messages that wait to be sent.
    #[cfg(test)]
    pub fn waits_for(&self) -> usize {
        self.queue.len()
    }

    /// Queues a message.
    pub fn push(&mut self, bytes: Vec<u8>, fds: Vec<OwnedFd>) {
        self.waiting += bytes.len();
        self.queue.push_back(Packet { bytes, sent: 0, fds });
    }

    /// Sends what is queued, as far as the socket takes it; returns whether all of it left.
    ///
    /// # Errors
    /// Why the connection is over.
    pub fn flush(&mut self) -> Result<bool, Lost> {
        while let Some(packet) = self.queue.front_mut() {
            let sent = match send(self.stream.as_fd(), &packet.bytes[packet.sent..], &packet.fds) {
                Ok(sent) => sent,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(self.closed()),
                Err(error) => return Err(Lost::Io(error)),
            };
            packet.sent += sent;
            packet.fds.clear();
            self.waiting -= sent;
            if packet.sent == packet.bytes.len() {
                self.queue.pop_front();
            }
        }
        Ok(true)
    }

    /// The next message, if it is here.
    ///
    /// # Errors
    /// Why the connection is over.
    pub fn receive(&mut self) -> Result<Option<Message>, Lost> {
        loop {
            let room = self.assembler.want();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
            let got = match recvmsg(&self.stream, &mut [IoSliceMut::new(room)], &mut control, flags) {
                Ok(got) => got,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::CONNRESET) => return Err(self.closed()),
                Err(error) => return Err(Lost::Io(error)),
            };
            let fds: Vec<OwnedFd> = control
                .drain()
                .filter_map(|message| match message {
                    RecvAncillaryMessage::ScmRights(fds) => Some(fds),
                    _ => None,
                })
                .flatten()
                .collect();
            if got.flags.contains(ReturnFlags::CTRUNC) {
                let why =
                    format!("more than {MOST_FDS} descriptors with a message, or more than this process may open");
                return Err(Violation(why).into());
            }
            if got.bytes == 0 {
                return Err(self.closed());
            }
            if let Some(message) = self.assembler.received(got.bytes, fds)? {
                return Ok(Some(message));
            }
        }
    }

    fn closed(&self) -> Lost {
        Lost::Closed { within_message: self.assembler.is_within_message() }
    }
}

/// Connects without waiting: `AGAIN` when more wait to be taken than the listener has room for.
pub(crate) fn connect(path: &Path) -> Result<UnixStream, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}

/// What an error reply says; none for a reply to what was done.
pub(crate) fn error_of(header: &Header) -> Option<Errno> {
    let said = i32::try_from(header.error_no.get()).ok().filter(|number| (1..4096).contains(number));
    (header.flags.get() & flags::ERROR != 0).then(|| said.map_or(Errno::IO, Errno::from_raw_os_error))
}

/// The reply to a command that failed.
pub(crate) fn error_reply(id: u16, command: Command, errno: Errno) -> Vec<u8> {
    let header = Header {
        msg_id: id.into(),
        cmd: command.0.into(),
        flags: (flags::REPLY | flags::ERROR).into(),
        error_no: (errno.raw_os_error() as u32).into(),
        ..Header::default()
    };
    wire::message(header, &[])
}

fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[OwnedFd]) -> Result<usize, Errno> {
    let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(Errno::TOOMANYREFS);
    }
    sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Write};

    use rustix::net::socketpair;
    use zerocopy::IntoBytes;

    use super::*;

    fn null() -> OwnedFd {
        File::open("/dev/null").unwrap().into()
    }

    fn pair() -> (Socket, UnixStream) {
        let (left, right) = UnixStream::pair().unwrap();
        (Socket::new(left).unwrap(), right)
    }

    fn bare(command: Command, body: &[u8]) -> Vec<u8> {
        wire::message(Header { cmd: command.0.into(), ..Header::default() }, &[body])
    }

    #[test]
    fn descriptors_stay_with_their_message_when_several_are_sent_at_once() {
        let (mut near, far) = pair();
        let mut far = Socket::new(far).unwrap();
        far.push(bare(Command::REGION_READ, b"first"), vec![]);
        far.push(bare(Command::DMA_MAP, b"second"), vec![null(), null()]);
        far.push(bare(Command::DMA_MAP, b""), vec![null()]);
        assert!(far.flush().unwrap());
        let mut counts = Vec::new();
        while let Some(message) = near.receive().unwrap() {
            counts.push((message.body, message.fds.len()));
        }
        assert_eq!(counts, [(b"first".to_vec(), 0), (b"second".to_vec(), 2), (Vec::new(), 1)]);
    }

    #[test]
    fn a_message_that_does_not_fit_the_socket_goes_on_later() {
        let (mut near, far) = pair();
        let mut far = Socket::new(far).unwrap();
        let data: Vec<u8> = (0..MOST_DATA).map(|at| at as u8).collect();
        far.push(bare(Command::DMA_WRITE, &data), vec![null()]);
        assert!(!far.flush().unwrap() && far.wants_to_write());
        let message = loop {
            if let Some(message) = near.receive().unwrap() {
                break message;
            }
            far.flush().unwrap();
        };
        assert!(message.body == data && message.fds.len() == 1 && !far.wants_to_write());
    }

    #[test]
    fn more_descriptors_than_there_is_room_for_end_the_connection() {
        let (mut near, far) = pair();
        let fds: Vec<OwnedFd> = (0..=MOST_FDS).map(|_| null()).collect();
        let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS + 1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&borrowed)));
        let bytes = bare(Command::DMA_MAP, b"");
        sendmsg(&far, &[IoSlice::new(&bytes)], &mut control, SendFlags::empty()).unwrap();
        assert!(matches!(near.receive(), Err(Lost::Violation(_))));
    }

    #[test]
    fn the_end_of_the_peer_is_told_after_what_it_said() {
        let (mut near, mut far) = pair();
        far.write_all(&bare(Command::DEVICE_RESET, b"")).unwrap();
        far.write_all(Header::default().as_bytes().first_chunk::<5>().unwrap()).unwrap();
        drop(far);
        assert!(near.receive().unwrap().is_some());
        assert_eq!(near.receive().unwrap_err(), Lost::Closed { within_message: true });
        near.push(bare(Command::DEVICE_RESET, b""), vec![]);
        assert!(matches!(near.flush(), Err(Lost::Closed { .. })));
    }

    #[test]
    fn a_peer_that_ends_with_our_words_unread_has_closed() {
        let (near, far) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        let mut near = Socket::new(near.into()).unwrap();
        near.push(bare(Command::DEVICE_RESET, b""), vec![]);
        assert!(near.flush().unwrap());
        drop(far);
        assert!(matches!(near.receive(), Err(Lost::Closed { .. })));
    }
}
