//! What the transports over a network have in common: finding the peer's addresses, and waits that end in time.

use std::{
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    os::fd::BorrowedFd,
    sync::mpsc,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::QueueRequest;
use crate::{
    cancel::Cancel,
    transport_id::{AddressFamily, TransportId},
};

/// How often a wait looks whether it was cancelled.
const CANCEL_INTERVAL: Duration = Duration::from_millis(50);

/// Why there is no address to connect to.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// The address is none, or not of the family asked for.
    #[error("{0}")]
    Unusable(String),
    /// The name could not be resolved.
    #[error("looking up {name}: {why}")]
    Resolve {
        /// Host name and port.
        name: String,
        /// What the system answered.
        why: io::Error,
    },
}

impl AddressError {
    /// A name has addresses, but none that is wanted.
    pub(super) fn none(id: &TransportId) -> Self {
        Self::Unusable(format!("{} has no address of the family asked for", id.traddr))
    }
}

/// The socket addresses of a transport ID, a name's in the resolver's order; `default_port` is for one without.
pub(super) fn addresses(
    id: &TransportId,
    default_port: u16,
    request: &QueueRequest,
) -> Result<Vec<SocketAddr>, AddressError> {
    let port = match id.trsvcid.as_str() {
        "" => default_port,
        text => match text.parse() {
            Ok(port) if port != 0 => port,
            _ => return Err(AddressError::Unusable(format!("trsvcid:{text} is no port (1 to 65535)"))),
        },
    };
    let fits = |address: &SocketAddr| match id.adrfam {
        AddressFamily::Ipv4 => address.is_ipv4(),
        AddressFamily::Ipv6 => address.is_ipv6(),
        _ => true,
    };
    let host = id.traddr.trim_start_matches('[').trim_end_matches(']').to_string();
    if let Ok(ip) = host.parse::<IpAddr>() {
        let address = SocketAddr::new(ip, port);
        return match fits(&address) {
            true => Ok(vec![address]),
            false => Err(AddressError::Unusable(format!("traddr:{host} is not of adrfam:{}", id.adrfam))),
        };
    }
    // The resolver blocks for as long as it likes, so it gets a thread that may outlive our patience.
    let (sender, answer) = mpsc::channel();
    let name = format!("{host}:{port}");
    let fail = |why| Err(AddressError::Resolve { name: name.clone(), why });
    let asked = name.clone();
    std::thread::spawn(move || sender.send(asked.to_socket_addrs().map(|found| found.collect::<Vec<_>>())));
    loop {
        match answer.recv_timeout(CANCEL_INTERVAL) {
            Ok(Ok(found)) => return Ok(found.into_iter().filter(fits).collect()),
            Ok(Err(why)) => return fail(why),
            Err(_) => {
                if let Err(why) = check(request.deadline, &request.cancel) {
                    return fail(why);
                }
            }
        }
    }
}

/// The address to connect from, where one is asked for.
pub(super) fn source(id: &TransportId) -> io::Result<Option<SocketAddr>> {
    let Some(source) = &id.hostaddr else { return Ok(None) };
    let ip: IpAddr = source
        .parse()
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, format!("hostaddr:{source} is no IP address")))?;
    Ok(Some(SocketAddr::new(ip, 0)))
}

/// Whether a wait may go on.
pub(super) fn check(deadline: Instant, cancel: &Cancel) -> io::Result<()> {
    if cancel.is_cancelled() {
        return Err(io::Error::new(io::ErrorKind::Interrupted, "cancelled"));
    }
    if Instant::now() >= deadline {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer by the deadline"));
    }
    Ok(())
}

/// Waits until the descriptor is ready for `flags`.
pub(super) fn wait(fd: BorrowedFd<'_>, flags: PollFlags, deadline: Instant, cancel: &Cancel) -> io::Result<()> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now()).min(CANCEL_INTERVAL);
        let left = Timespec { tv_sec: 0, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::from_borrowed_fd(fd, flags)], Some(&left)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => check(deadline, cancel)?,
            Ok(_) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}
