//! A socket with both halves of a link: one system call a batch each way.

use std::{
    io,
    net::TcpStream,
    os::fd::{AsFd, AsRawFd, RawFd},
};

use doorbell_platform::{Region, socket};

use crate::{Digests, Fault, Receiver, Role, Sender, Sink};

/// Why a connection is over.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// The peer closed it.
    #[error("the peer closed the connection{}", if *within_pdu { " in the middle of a PDU" } else { "" })]
    Closed {
        /// Whether a PDU was cut short.
        within_pdu: bool,
    },
    /// The system reported an error.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// One end broke the protocol; if it was the peer, it has been told so with a termination request.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// A connected socket, its receiver and its sender.
#[derive(Debug)]
pub struct Link {
    socket: TcpStream,
    receiver: Receiver,
    /// The sending half: PDUs are queued here and leave with [`Link::flush`].
    pub sender: Sender,
}

impl Link {
    /// Wraps a connected socket; `most_data` bounds the data of one PDU from the peer.
    ///
    /// # Errors
    /// When the socket cannot be made non-blocking.
    pub fn new(socket: TcpStream, role: Role, most_data: u32) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        Ok(Self { socket, receiver: Receiver::new(role, most_data), sender: Sender::new(role) })
    }

    /// The receiving half.
    pub fn receiver(&mut self) -> &mut Receiver {
        &mut self.receiver
    }

    /// The digests that were agreed on.
    pub fn digests(&self) -> Digests {
        self.receiver.digests()
    }

    /// The socket.
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// The descriptor to wait on.
    pub fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Looks whether memory is back that the kernel sent from.
    ///
    /// # Errors
    /// [`Lost::Io`].
    pub fn collect(&mut self) -> Result<(), Lost> {
        Ok(self.sender.collect(self.socket.as_fd())?)
    }

    /// Has the kernel send data of `threshold` bytes or more from where it lies.
    ///
    /// # Errors
    /// The system's answer; nothing has changed.
    pub fn use_zero_copy(&mut self, threshold: u32) -> io::Result<()> {
        self.sender.use_zero_copy(self.socket.as_fd(), threshold)
    }

    /// Sends what is queued; returns whether all of it left.
    ///
    /// # Errors
    /// [`Lost::Io`].
    pub fn flush(&mut self, region: Option<&Region>) -> Result<bool, Lost> {
        Ok(self.sender.send(self.socket.as_fd(), region)?)
    }

    /// Receives once and hands what came to `sink`; returns the bytes that came, 0 when none are there. A breach of the protocol
    /// is answered with a termination request before it is returned.
    ///
    /// # Errors
    /// Why the connection is over; all that came before has been handed over.
    pub fn receive(
        &mut self,
        region: Option<&Region>,
        staging: &mut [u8],
        sink: &mut impl Sink,
    ) -> Result<usize, Lost> {
        let ranges = self.receiver.want(sink);
        let count = match socket::receive(self.socket.as_fd(), ranges, region, staging) {
            Ok(count) => count,
            Err(error) => {
                return match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(0),
                    io::ErrorKind::UnexpectedEof => Err(Lost::Closed { within_pdu: self.receiver.is_within_pdu() }),
                    _ => Err(error.into()),
                };
            }
        };
        self.receiver.received(count, staging, region, sink).map(|()| count).map_err(|fault| {
            if let Fault::Violation(violation) = &fault {
                self.sender.terminate(violation);
                let _ = self.flush(region);
            }
            fault.into()
        })
    }
}
