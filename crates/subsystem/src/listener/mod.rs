//! Listeners: how commands come to the subsystem, over NVMe/TCP, NVMe/RDMA and vfio-user. The reactor knows a [`Listener`] and the
//! [`Connection`]s that come of it, and not what they speak.

mod context;
mod exchange;
mod rdma;
mod tcp;
mod unplugged;
mod vfio_user;

use std::{
    io,
    net::{TcpListener, TcpStream},
    time::Instant,
};

use rustix::{
    event::epoll::EventFlags,
    fd::{AsFd, BorrowedFd},
};

pub(crate) use context::{Context, Served};
pub(crate) use rdma::{Connection as RdmaConnection, Endpoint as RdmaEndpoint, FrameMemory};
pub(crate) use tcp::{Connection as TcpConnection, Staging};
pub use unplugged::Unplugged;
pub(crate) use vfio_user::{Connection as VfioUserConnection, Endpoint};

/// Where hosts come.
#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(TcpListener),
    Rdma(RdmaEndpoint),
    VfioUser(Endpoint),
}

/// A host that has come.
#[derive(Debug)]
pub(crate) enum Arrival {
    /// One that any reactor can serve.
    Any(Newcomer),
    /// One that is served where it came.
    VfioUser(Box<VfioUserConnection>),
}

/// A host that no reactor has yet.
#[derive(Debug)]
pub(crate) enum Newcomer {
    Tcp(TcpStream),
    Rdma(Box<rdma::Newcomer>),
}

impl Newcomer {
    /// Makes a connection of it.
    ///
    /// # Errors
    /// What the system or the device refused.
    pub(crate) fn seat(self, now: Instant, zero_copy: Option<u32>) -> io::Result<Connection> {
        Ok(match self {
            Self::Tcp(socket) => Connection::Tcp(Box::new(TcpConnection::new(socket, now, zero_copy)?)),
            Self::Rdma(newcomer) => Connection::Rdma(Box::new(RdmaConnection::new(*newcomer, now)?)),
        })
    }
}

impl Listener {
    /// Takes the next host that waits.
    ///
    /// # Errors
    /// What the system answered, `WouldBlock` when there is none.
    pub(crate) fn accept(&mut self, context: &Context) -> io::Result<Arrival> {
        match self {
            Self::Tcp(listener) => {
                let (socket, peer) = listener.accept()?;
                tracing::debug!("{peer} connects");
                Ok(Arrival::Any(Newcomer::Tcp(socket)))
            }
            Self::Rdma(endpoint) => match endpoint.accept(context)? {
                Some(newcomer) => Ok(Arrival::Any(Newcomer::Rdma(Box::new(newcomer)))),
                None => Err(io::ErrorKind::WouldBlock.into()),
            },
            Self::VfioUser(endpoint) => Ok(Arrival::VfioUser(Box::new(endpoint.accept(context)?))),
        }
    }

    /// Brings one back that has lost its place; returns whether hosts can come.
    pub(crate) fn restore(&mut self) -> bool {
        match self {
            Self::Rdma(endpoint) => endpoint.restore(),
            Self::Tcp(_) | Self::VfioUser(_) => true,
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Rdma(endpoint) => endpoint.as_fd(),
            Self::VfioUser(endpoint) => endpoint.as_fd(),
        }
    }
}

/// A connection with a host. A reactor owns and serves it.
#[derive(Debug)]
pub(crate) enum Connection {
    Tcp(Box<TcpConnection>),
    Rdma(Box<RdmaConnection>),
    VfioUser(Box<VfioUserConnection>),
}

impl Connection {
    /// Does all that can be done without waiting.
    #[inline]
    pub(crate) fn serve(&mut self, staging: &mut Staging, context: &mut Context) -> Served {
        match self {
            Self::Tcp(connection) => connection.serve(staging, context),
            Self::Rdma(connection) => connection.serve(context),
            Self::VfioUser(connection) => connection.serve(context),
        }
    }

    /// Whether commands come over its socket.
    pub(crate) fn is_socket(&self) -> bool {
        matches!(self, Self::Tcp(_))
    }

    /// Something has happened on its socket.
    pub(crate) fn notify(&mut self) {
        match self {
            Self::Tcp(_) => {}
            Self::Rdma(connection) => connection.notify(),
            Self::VfioUser(connection) => connection.notify(),
        }
    }

    /// Whether the controller that its queue belongs to has been reset or is gone.
    pub(crate) fn is_over(&self) -> bool {
        match self {
            Self::Tcp(connection) => connection.is_over(),
            Self::Rdma(connection) => connection.is_over(),
            Self::VfioUser(_) => false,
        }
    }

    /// Gets ready to be left to epoll; false where a pass may bring something forward though nothing happens on the socket.
    pub(crate) fn rest(&mut self) -> bool {
        match self {
            Self::Tcp(connection) => !connection.wants_pass(),
            Self::Rdma(connection) => connection.rest(),
            Self::VfioUser(connection) => !connection.wants_pass(),
        }
    }

    /// When a fault script has something to do next.
    pub(crate) fn due(&self) -> Option<Instant> {
        match self {
            Self::Tcp(connection) => connection.due(),
            Self::Rdma(connection) => connection.due(),
            Self::VfioUser(connection) => connection.due(),
        }
    }

    /// What to wait for on the socket.
    pub(crate) fn interest(&self) -> EventFlags {
        match self {
            Self::Tcp(connection) => connection.interest(),
            Self::Rdma(_) => EventFlags::IN,
            Self::VfioUser(connection) => connection.interest(),
        }
    }

    /// Looks at the deadlines, and adds what was counted to the totals.
    pub(crate) fn check(&mut self, staging: &mut Staging, context: &mut Context) -> Served {
        match self {
            Self::Tcp(connection) => connection.check(staging, context),
            Self::Rdma(connection) => connection.check(context),
            Self::VfioUser(connection) => connection.check(context),
        }
    }

    /// Releases everything.
    pub(crate) fn close(&mut self, context: &mut Context) {
        match self {
            Self::Tcp(connection) => connection.close(context),
            Self::Rdma(connection) => connection.close(context),
            Self::VfioUser(connection) => connection.close(context),
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(connection) => connection.socket().as_fd(),
            Self::Rdma(connection) => connection.as_fd(),
            Self::VfioUser(connection) => connection.as_fd(),
        }
    }
}
