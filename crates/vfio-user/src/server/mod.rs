//! The device's end: a [`Listener`] takes connections, a [`Connection`] answers what the protocol alone decides (version, descriptions,
//! the list of memory) and hands the rest to the target as [`Event`]s. Nothing here waits; who owns a connection polls it.

mod commands;
mod description;
mod events;
mod listener;

use std::{
    os::{
        fd::{AsFd, BorrowedFd, RawFd},
        unix::net::UnixStream,
    },
    sync::Arc,
};

use rustix::io::Errno;
use zerocopy::{FromBytes, IntoBytes};

use crate::{
    DmaMap, Limits, Lost, MOST_DATA, Message, Violation,
    socket::Socket,
    wire::{self, Command, DmaAccess, Header, RegionAccess, flags},
};
use commands::Outcome;
pub use description::{Description, RegionDescription};
pub use events::{Action, Event, IrqData, IrqSet, Ticket};
pub use listener::{BindError, Listener};

/// Messages that one call takes when none of them is for the target.
const MESSAGES_A_CALL: usize = 16;
/// Most events that may wait for the target's answer; more are refused.
const MOST_OPEN: usize = 64;
/// Most accesses to the client's memory that may be under way.
const MOST_MOVES: usize = 64;
/// Most bytes of them: less than a client may leave unsent, so that neither end waits for the other.
const MOST_MOVING: u64 = 2 << 20;

/// A connection to a client.
#[derive(Debug)]
pub struct Connection {
    socket: Socket,
    device: Arc<Description>,
    map: DmaMap,
    /// What the client can take; none before it said so.
    limits: Option<Limits>,
    /// Tickets that are out.
    open: usize,
    moves: Vec<Move>,
    next_id: u16,
}

/// An access to the client's memory by message.
#[derive(Debug)]
struct Move {
    id: u16,
    command: Command,
    access: DmaAccess,
}

impl Connection {
    /// Serves a device to the client at the other end of a socket.
    ///
    /// # Errors
    /// When the socket cannot be made non-blocking.
    pub fn new(stream: UnixStream, device: Arc<Description>) -> std::io::Result<Self> {
        let socket = Socket::new(stream)?;
        Ok(Self { socket, device, map: DmaMap::default(), limits: None, open: 0, moves: Vec::new(), next_id: 0 })
    }

    /// The descriptor to wait on.
    pub fn fd(&self) -> RawFd {
        self.socket.fd()
    }

    /// Whether the client has said which version it speaks.
    pub fn is_negotiated(&self) -> bool {
        self.limits.is_some()
    }

    /// Whether something waits for room in the socket.
    pub fn wants_to_write(&self) -> bool {
        self.socket.wants_to_write()
    }

    /// The memory that the device may reach.
    pub fn map(&self) -> &DmaMap {
        &self.map
    }

    /// Sends what waits; returns whether all of it left.
    ///
    /// # Errors
    /// Why the connection is over.
    pub fn flush(&mut self) -> Result<bool, Lost> {
        self.socket.flush()
    }

    /// Sends what waits, takes what has come, and returns what the target has to do. None when nothing more is here, when enough was
    /// done for one pass, or when the client leaves too much of what it was sent where it is. A client may always have more to say: a
    /// pass takes so many events and no more.
    ///
    /// # Errors
    /// Why the connection is over.
    pub fn receive(&mut self) -> Result<Option<Event>, Lost> {
        for _ in 0..MESSAGES_A_CALL {
            self.socket.flush()?;
            if self.socket.is_full() {
                break;
            }
            let Some(message) = self.socket.receive()? else { break };
            let event = if message.is_reply() { Some(self.moved(message)?) } else { self.take(message)? };
            if event.is_some() {
                return Ok(event);
            }
        }
        Ok(None)
    }

    fn take(&mut self, mut message: Message) -> Result<Option<Event>, Lost> {
        let command = message.command();
        if self.limits.is_none() && command != Command::VERSION {
            return Err(Violation(format!("{command} before VERSION")).into());
        }
        let silent = message.header.flags.get() & flags::NO_REPLY != 0;
        let ticket = Ticket { id: message.header.msg_id.get(), command, silent, echo: Vec::new() };
        match self.carry_out(&mut message) {
            Ok(Outcome::Answer(body, fds)) => {
                self.reply(&ticket, &[&body], fds);
                Ok(None)
            }
            Ok(Outcome::Work(echo, work)) => {
                self.open += 1;
                Ok(Some(work.event(Ticket { echo, ..ticket })))
            }
            Err(refusal) => {
                self.error(&ticket, refusal.errno);
                Ok(Some(Event::Refused(format!("{command} was refused: {} ({})", refusal.why, refusal.errno))))
            }
        }
    }

    /// Answers [`Event::Read`] with what was read.
    ///
    /// # Panics
    /// When `data` is not as long as was asked for.
    pub fn answer(&mut self, ticket: Ticket, data: &[u8]) {
        self.open -= 1;
        let asked = RegionAccess::read_from_bytes(&ticket.echo).map(|access| access.count.get() as usize);
        assert!(
            ticket.command == Command::REGION_READ && asked == Ok(data.len()),
            "{} bytes answer {ticket:?}",
            data.len()
        );
        self.reply(&ticket, &[&ticket.echo, data], Vec::new());
    }

    /// Says that what was asked for is done.
    pub fn done(&mut self, ticket: Ticket) {
        self.open -= 1;
        self.reply(&ticket, &[&ticket.echo], Vec::new());
    }

    /// Says that what was asked for cannot be done.
    pub fn refuse(&mut self, ticket: Ticket, errno: Errno) {
        self.open -= 1;
        self.error(&ticket, errno);
    }

    /// Most bytes of the client's memory that one message reads or writes: what both ends take. 0 before the client said what it
    /// takes, or where it takes nothing.
    pub fn most_moved(&self) -> u32 {
        self.limits.map_or(0, |limits| limits.max_data_xfer_size.min(MOST_DATA.into()) as u32)
    }

    /// Asks for `count` bytes of the client's memory at `addr`, which come as [`Event::Moved`] with the number returned.
    ///
    /// # Errors
    /// `AGAIN` when too many are under way, `INVAL` for no bytes or more than the client sends at once, `NOTCONN` before it said how
    /// many these are.
    pub fn dma_read(&mut self, addr: u64, count: u32) -> Result<u16, Errno> {
        self.start_move(Command::DMA_READ, addr, count as usize, &[])
    }

    /// Sends bytes for the client's memory at `addr`; [`Event::Moved`] with the number returned says that they are there.
    ///
    /// # Errors
    /// As [`Connection::dma_read`].
    pub fn dma_write(&mut self, addr: u64, data: &[u8]) -> Result<u16, Errno> {
        self.start_move(Command::DMA_WRITE, addr, data.len(), data)
    }

    fn start_move(&mut self, command: Command, addr: u64, count: usize, data: &[u8]) -> Result<u16, Errno> {
        if self.limits.is_none() {
            return Err(Errno::NOTCONN);
        }
        let count = count as u64;
        if count == 0 || count > self.most_moved().into() {
            return Err(Errno::INVAL);
        }
        let moving: u64 = self.moves.iter().map(|each| each.access.count.get()).sum();
        if self.moves.len() >= MOST_MOVES || moving + count > MOST_MOVING {
            return Err(Errno::AGAIN);
        }
        // One that was asked long ago may have no answer yet while all other numbers have come round.
        while self.moves.iter().any(|each| each.id == self.next_id) {
            self.next_id = self.next_id.wrapping_add(1);
        }
        let id = self.next_id;
        self.next_id = id.wrapping_add(1);
        let access = DmaAccess { addr: addr.into(), count: count.into() };
        let header = Header { msg_id: id.into(), cmd: command.0.into(), ..Header::default() };
        self.socket.push(wire::message(header, &[access.as_bytes(), data]), Vec::new());
        self.moves.push(Move { id, command, access });
        Ok(id)
    }

    fn moved(&mut self, message: Message) -> Result<Event, Violation> {
        let (id, command) = (message.header.msg_id.get(), message.command());
        let place = self.moves.iter().position(|each| each.id == id && each.command == command);
        let place = place.ok_or_else(|| Violation(format!("a reply {id} to {command} that nobody asked for")))?;
        let asked = self.moves.swap_remove(place);
        let result = match (crate::socket::error_of(&message.header), command) {
            (Some(errno), _) => Err(errno),
            (None, Command::DMA_READ) => {
                let (access, data) = (message.read::<DmaAccess>(), message.after::<DmaAccess>());
                if access != Some(asked.access) || data.len() as u64 != asked.access.count.get() {
                    return Err(Violation(format!("{} bytes answer {command} of {}", data.len(), asked.access.count)));
                }
                Ok(data.to_vec())
            }
            // Some clients answer a write by the header alone.
            (None, _) if message.body.is_empty() || message.read() == Some(asked.access) => Ok(Vec::new()),
            _ => return Err(Violation(format!("{} bytes answer {command}, of another write", message.body.len()))),
        };
        Ok(Event::Moved { id, result })
    }

    fn reply(&mut self, ticket: &Ticket, body: &[&[u8]], fds: Vec<std::os::fd::OwnedFd>) {
        let header = Header {
            msg_id: ticket.id.into(),
            cmd: ticket.command.0.into(),
            flags: flags::REPLY.into(),
            ..Header::default()
        };
        if !ticket.silent {
            self.socket.push(wire::message(header, body), fds);
        }
    }

    fn error(&mut self, ticket: &Ticket, errno: Errno) {
        if !ticket.silent {
            self.socket.push(crate::socket::error_reply(ticket.id, ticket.command, errno), Vec::new());
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests;
