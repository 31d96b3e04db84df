//! A socket with deadlines: exact bytes out, PDUs in, and how the other end took it.

use std::{
    fmt, io,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use doorbell_spec::tcp::Fes;

use crate::{Framing, Pdu};

/// How long a wire waits for anything at all, generous enough for a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How a connection ended, or that it did not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The other end closed it.
    Closed {
        /// Whether a PDU was cut short.
        within_pdu: bool,
    },
    /// The other end sent a termination request.
    Terminated {
        /// Fatal error status.
        fes: Fes,
        /// Fatal error information.
        fei: u32,
    },
    /// The system reports an error; `ConnectionReset` and `BrokenPipe` are an other end that is gone.
    Failed(io::ErrorKind),
    /// The other end sent what is no PDU.
    Nonsense(String),
    /// It goes on: nothing came, or nothing was taken, in the time given.
    Silent,
}

impl End {
    /// Whether the connection is over.
    pub fn is_over(&self) -> bool {
        *self != Self::Silent
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed { within_pdu: false } => write!(f, "the other end closed the connection"),
            Self::Closed { within_pdu: true } => write!(f, "the other end closed the connection within a PDU"),
            Self::Terminated { fes, fei } => write!(f, "the other end ended the connection: {fes}, FEI {fei:08x}h"),
            Self::Failed(kind) => write!(f, "the connection failed: {kind}"),
            Self::Nonsense(what) => write!(f, "the other end sent {what}"),
            Self::Silent => write!(f, "nothing happens on the connection"),
        }
    }
}

impl std::error::Error for End {}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::Silent,
            kind => Self::Failed(kind),
        }
    }
}

/// A connected socket. Every call ends within the wire's patience. Dropping it closes the connection.
#[derive(Debug)]
pub struct Wire {
    socket: TcpStream,
    /// How honest PDUs are framed from now on.
    pub framing: Framing,
    /// How long a call waits; [`PATIENCE`] at first.
    pub patience: Duration,
    received: Vec<u8>,
}

impl Wire {
    /// Connects.
    ///
    /// # Errors
    /// What the system answered.
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        Self::new(TcpStream::connect_timeout(&address, PATIENCE)?)
    }

    /// Takes over a connected socket.
    ///
    /// # Errors
    /// What the system answered.
    pub fn new(socket: TcpStream) -> io::Result<Self> {
        socket.set_nonblocking(false)?;
        socket.set_nodelay(true)?;
        Ok(Self { socket, framing: Framing::default(), patience: PATIENCE, received: Vec::new() })
    }

    /// The socket.
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Sends exactly these bytes.
    ///
    /// # Errors
    /// [`End::Silent`] if the other end does not take them all in time, or how the connection ended.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), End> {
        if self.offer(bytes, self.patience)? == bytes.len() { Ok(()) } else { Err(End::Silent) }
    }

    /// Sends as many of these bytes as the other end takes before it has taken none for `span`; returns how many.
    ///
    /// # Errors
    /// How the connection ended.
    pub fn offer(&mut self, bytes: &[u8], span: Duration) -> Result<usize, End> {
        self.socket.set_write_timeout(Some(span.max(Duration::from_millis(1))))?;
        let mut sent = 0;
        while sent < bytes.len() {
            match self.socket.write(&bytes[sent..]) {
                Ok(0) => return Err(End::Closed { within_pdu: false }),
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => match End::from(error) {
                    End::Silent => break,
                    end => return Err(end),
                },
            }
        }
        Ok(sent)
    }

    /// The next PDU, termination requests excepted, which are an [`End`].
    ///
    /// # Errors
    /// Why none comes.
    pub fn receive(&mut self) -> Result<Pdu, End> {
        self.receive_within(self.patience)
    }

    /// The same with another patience. A PDU that has come in part stays for the next call.
    ///
    /// # Errors
    /// Why none comes.
    pub fn receive_within(&mut self, span: Duration) -> Result<Pdu, End> {
        let deadline = Instant::now() + span;
        loop {
            if let Some(pdu) = Pdu::take(&mut self.received).map_err(End::Nonsense)? {
                return match pdu.termination() {
                    Some(request) => Err(End::Terminated { fes: request.fes(), fei: request.fei.get() }),
                    None => Ok(pdu),
                };
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(End::Silent);
            }
            self.socket.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            let mut bytes = [0; 64 << 10];
            match self.socket.read(&mut bytes) {
                Ok(0) => return Err(End::Closed { within_pdu: !self.received.is_empty() }),
                Ok(count) => self.received.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Passes over PDUs until the connection ends, and says how; [`End::Silent`] if nothing has come for the wire's patience.
    pub fn end(&mut self) -> End {
        loop {
            if let Err(end) = self.receive() {
                return end;
            }
        }
    }

    /// Closes the sending half: the other end sees the end of the stream, and can still answer.
    pub fn close(&self) {
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    /// Ends the connection with a reset, as a peer does that is gone with data on the way.
    pub fn reset(self) {
        let _ = rustix::net::sockopt::set_socket_linger(&self.socket, Some(Duration::ZERO));
    }
}
