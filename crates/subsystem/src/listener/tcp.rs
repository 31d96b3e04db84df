//! A connection of NVMe/TCP: the socket, its deadlines and its end. A reactor owns and serves it.

use std::{
    io,
    net::{SocketAddr, TcpStream},
    os::fd::AsFd,
    sync::Arc,
    time::{Duration, Instant},
};

use doorbell_platform::socket;
use doorbell_tcp::{Fault, Lost, Receiver, Role, is_local};
use rustix::{event::epoll::EventFlags, net::sockopt};

use super::{
    Context, Served,
    exchange::{Exchange, MOST_H2C_DATA, Port},
};
use crate::{controller::Session, frames::FrameStore, namespace::RESERVE};

/// Bytes received at once, beside those that go where they belong.
const STAGING: usize = 256 << 10;

/// Bytes of answers from which on they leave though the rest of a PDU is on its way: 8 responses.
const GATHERED: u64 = 8 * 24;

/// How long a connection may be silent before the system asks whether the other end is still there, how often, and how many times.
const PROBE_AFTER: Duration = Duration::from_secs(60);
const PROBE_EVERY: Duration = Duration::from_secs(10);
const PROBES: u32 = 6;

/// Where bytes come in, the same for all connections of a reactor.
#[derive(Debug)]
pub(crate) struct Staging {
    buffer: Box<[u8]>,
    store: Arc<FrameStore>,
}

impl Staging {
    pub(crate) fn new(store: Arc<FrameStore>) -> Self {
        Self { buffer: vec![0; STAGING].into(), store }
    }
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: TcpStream,
    peer: SocketAddr,
    receiver: Receiver,
    exchange: Exchange,
    opened: Instant,
    /// When bytes last came, or could not because we took none.
    came: Instant,
    /// When bytes last left, or none waited to.
    left: Instant,
    /// There was no memory to receive with.
    starved: bool,
    /// The protocol is over; what is left of the connection ends then.
    closing: Option<Instant>,
    /// The connection has been reset; what the system sent from memory of ours is waited for.
    reset: bool,
}

impl Connection {
    /// Takes over an accepted socket; data of `zero_copy` bytes or more goes to another machine without a copy.
    pub(crate) fn new(socket: TcpStream, now: Instant, zero_copy: Option<u32>) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        // A host that is gone without a word would stay for ever if it wanted no keep alive timer.
        sockopt::set_socket_keepalive(&socket, true)?;
        sockopt::set_tcp_keepidle(&socket, PROBE_AFTER)?;
        sockopt::set_tcp_keepintvl(&socket, PROBE_EVERY)?;
        sockopt::set_tcp_keepcnt(&socket, PROBES)?;
        let (local, peer) = (socket.local_addr()?, socket.peer_addr()?);
        let mut exchange = Exchange::new(local);
        if let Some(threshold) = zero_copy
            && !is_local(&socket)?
        {
            exchange.sender.use_zero_copy(socket.as_fd(), threshold)?;
        }
        Ok(Self {
            socket,
            peer,
            receiver: Receiver::new(Role::Controller, MOST_H2C_DATA),
            exchange,
            opened: now,
            came: now,
            left: now,
            starved: false,
            closing: None,
            reset: false,
        })
    }

    /// The socket.
    pub(crate) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Goes on with what is parked, receives once, and sends what is ready.
    #[inline]
    pub(crate) fn serve(&mut self, staging: &mut Staging, context: &mut Context) -> Served {
        if self.closing.is_some() {
            return self.linger(staging, context);
        }
        match self.work(staging, context) {
            Ok(true) => Served::Busy,
            Ok(false) => Served::Idle,
            Err(lost) => self.lose(&lost, context),
        }
    }

    /// Whether the controller that its queue belongs to has been reset or is gone.
    pub(crate) fn is_over(&self) -> bool {
        self.exchange.is_over()
    }

    /// Whether a pass may bring something forward though nothing happens on the socket.
    pub(crate) fn wants_pass(&self) -> bool {
        self.closing.is_none() && (self.starved || self.exchange.wants_pass())
    }

    /// When a fault script has something to do next.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.exchange.due()
    }

    /// What to wait for on the socket.
    pub(crate) fn interest(&self) -> EventFlags {
        let mut interest = EventFlags::empty();
        interest.set(EventFlags::IN, self.closing.is_some() || self.exchange.takes_more());
        interest.set(EventFlags::OUT, !self.exchange.sender.is_empty());
        interest
    }

    /// Looks at the deadlines, and adds what was counted to the totals.
    pub(crate) fn check(&mut self, staging: &mut Staging, context: &mut Context) -> Served {
        if let Session::Io(queue) = &mut self.exchange.session {
            queue.add_up();
        }
        self.exchange.flush_log();
        let now = context.now;
        if let Some(end) = self.closing {
            return if now < end { Served::Idle } else { self.gone(context) };
        }
        if self.overdue(context).is_none() {
            return Served::Idle;
        }
        // What lies in the socket may be what was waited for.
        let served = self.serve(staging, context);
        let Some(what) = self.overdue(context).filter(|_| self.closing.is_none() && served != Served::Gone) else {
            return served;
        };
        tracing::warn!("{}: {what}", self.peer);
        self.start_closing(context);
        Served::Busy
    }

    /// Releases everything, at once.
    pub(crate) fn close(&mut self, context: &mut Context) {
        if !self.has_memory_back() {
            let _ = socket::reset(self.socket.as_fd());
            let _ = self.exchange.sender.collect(self.socket.as_fd());
        }
        let counts = self.exchange.sender.zero_copy_counts();
        if counts.copied + counts.refused > 0 {
            tracing::warn!("{}: {counts}", self.peer);
        }
        let lost = self.exchange.close(context);
        if lost > 0 {
            tracing::error!(
                "{}: the system does not say that it is done with {lost} frames; they are not used again",
                self.peer
            );
        }
    }

    #[inline]
    fn work(&mut self, staging: &mut Staging, context: &mut Context) -> Result<bool, Lost> {
        if self.exchange.is_over() {
            tracing::debug!("{}: the queue's controller is gone", self.peer);
            self.start_closing(context);
            return Ok(true);
        }
        if self.exchange.sender.is_idle() {
            self.left = context.now;
        }
        let mut busy = self.exchange.resume(context);
        let mut received = false;
        self.starved = !context.pool.frames.fill(RESERVE);
        if !self.starved && self.exchange.takes_more() {
            received = self.receive(staging, context)?;
            busy |= received;
        } else {
            self.came = context.now;
        }
        if self.exchange.has_faults() {
            // Gone at once, as after a fault of the network: a reset instead of an orderly end.
            let hang_up = |_: &io::Error| {
                let _ = sockopt::set_socket_linger(&self.socket, Some(Duration::ZERO));
            };
            busy |= self.exchange.act_out(context).inspect_err(hang_up)?;
        }
        // Answers that leave together cost both ends less, and the rest of a PDU is on its way. They leave with the next pass that
        // receives nothing, or when they are enough.
        if received && self.receiver.is_within_pdu() && self.exchange.backlog() < GATHERED {
            return Ok(true);
        }
        busy |= self.flush(context)?;
        if self.exchange.is_leaving() && self.exchange.sender.is_empty() {
            self.start_closing(context);
        }
        Ok(busy)
    }

    #[inline]
    fn receive(&mut self, staging: &mut Staging, context: &mut Context) -> Result<bool, Lost> {
        let ranges = self.receiver.want(&mut Port { exchange: &mut self.exchange, context });
        let region = Some(staging.store.region());
        let count = match socket::receive(self.socket.as_fd(), ranges, region, &mut staging.buffer) {
            Ok(count) => count,
            Err(error) => {
                return match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(false),
                    io::ErrorKind::UnexpectedEof => Err(Lost::Closed { within_pdu: self.receiver.is_within_pdu() }),
                    _ => Err(error.into()),
                };
            }
        };
        self.came = context.now;
        let mut port = Port { exchange: &mut self.exchange, context };
        let received = self.receiver.received(count, &staging.buffer, region, &mut port);
        self.exchange.read(context);
        received?;
        if let Some(digests) = self.exchange.agreement() {
            self.receiver.use_digests(digests);
        }
        Ok(true)
    }

    #[inline]
    fn flush(&mut self, context: &mut Context) -> io::Result<bool> {
        let sender = &mut self.exchange.sender;
        if sender.is_idle() {
            return Ok(false);
        }
        let before = (sender.sent(), sender.released());
        sender.collect(self.socket.as_fd())?;
        sender.send(self.socket.as_fd(), Some(context.pool.frames.store.region()))?;
        if (sender.sent(), sender.released()) == before {
            return Ok(false);
        }
        self.left = context.now;
        self.exchange.sent(&mut context.pool);
        Ok(true)
    }

    /// What the host should have done by now and has not.
    fn overdue(&self, context: &Context) -> Option<&'static str> {
        let (exchange, now, deadlines) = (&self.exchange, context.now, &context.shared.deadlines);
        if !exchange.is_connected() {
            return (now >= self.opened + deadlines.connect).then_some("the host does not connect");
        }
        if let Session::Admin(admin) = &exchange.session
            && admin.expires().is_some_and(|end| now >= end)
        {
            return Some("the keep alive timer has expired");
        }
        // Each by itself: a host that is busy with one thing may never come to the other.
        let since = |then: Instant| now >= then + deadlines.stall;
        if !exchange.sender.is_idle() && since(self.left) {
            return Some("the host does not take what is sent");
        }
        if self.receiver.is_within_pdu() && since(self.came) {
            return Some("the host does not go on with a PDU");
        }
        let takes = !self.starved && exchange.takes_more();
        (takes && exchange.awaited().is_some_and(since)).then_some("the host does not send the data it was asked for")
    }

    fn lose(&mut self, lost: &Lost, context: &mut Context) -> Served {
        match lost {
            Lost::Closed { within_pdu: false } => tracing::debug!("{}: {lost}", self.peer),
            _ => tracing::warn!("{}: {lost}", self.peer),
        }
        let Lost::Fault(Fault::Violation(violation)) = lost else {
            return self.gone(context);
        };
        self.exchange.sender.terminate(violation);
        self.start_closing(context);
        Served::Busy
    }

    /// Ends the protocol: sends what is queued and no more, and waits a while for the host to close.
    fn start_closing(&mut self, context: &mut Context) {
        self.exchange.end(context);
        self.closing = Some(context.now + context.shared.deadlines.linger);
        // A host that is gone is found out about by reading.
        let _ = self.flush(context);
        if self.exchange.sender.is_empty() {
            let _ = self.socket.shutdown(std::net::Shutdown::Write);
        }
    }

    /// Sends the rest and reads until the host closes, as closing a socket with unread data would take back what was sent.
    fn linger(&mut self, staging: &mut Staging, context: &mut Context) -> Served {
        if self.reset {
            return self.gone(context);
        }
        if !self.exchange.sender.is_empty() {
            if self.flush(context).is_err() {
                return self.gone(context);
            }
            if self.exchange.sender.is_empty() {
                let _ = self.socket.shutdown(std::net::Shutdown::Write);
            }
        }
        match socket::receive(self.socket.as_fd(), &[], None, &mut staging.buffer) {
            Ok(_) => Served::Busy,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Served::Idle,
            Err(_) => self.gone(context),
        }
    }

    /// Ends all, when the system does not send from our frames any more: it would send what comes into them later.
    fn gone(&mut self, context: &mut Context) -> Served {
        if !self.has_memory_back() {
            if !self.reset {
                let _ = socket::reset(self.socket.as_fd());
                self.exchange.end(context);
                (self.reset, self.closing) = (true, Some(context.now + context.shared.deadlines.linger));
            }
            let _ = self.exchange.sender.collect(self.socket.as_fd());
            if !self.has_memory_back() && self.closing.is_some_and(|end| context.now < end) {
                return Served::Idle;
            }
        }
        self.close(context);
        Served::Gone
    }

    fn has_memory_back(&self) -> bool {
        self.exchange.sender.released() == self.exchange.sender.sent()
    }
}
