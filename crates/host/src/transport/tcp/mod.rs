//! NVMe/TCP: connecting a socket, agreeing on the link's parameters (ICReq, ICResp), and the queue over it.

mod queue;

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs},
    os::fd::{AsFd, BorrowedFd},
    sync::mpsc,
    time::{Duration, Instant},
};

use doorbell_platform::Range;
use doorbell_spec::{
    nqn::DISCOVERY_NQN,
    tcp::{DISCOVERY_PORT, Fes, IO_PORT, IcReq, IcResp, MAXH2CDATA_MIN, PDA_MAX, PFV},
};
use doorbell_tcp::{Digests, Link, Lost, Pdu, Role, Sink, Violation, is_local};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Protocol, Socket, Type};

pub use queue::{TcpQueue, Unplugged};

use super::QueueRequest;
use crate::{
    cancel::Cancel,
    transport_id::{AddressFamily, TransportId},
};

/// How long the controller may take to answer ICReq.
const INITIALIZE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a wait looks whether it was cancelled.
const CANCEL_INTERVAL: Duration = Duration::from_millis(50);
/// R2Ts a controller may have outstanding for one command, 0-based.
const MAXR2T: u32 = 15;
/// Bound on the data of one C2HData PDU: more than any command may ask for.
const MOST_DATA: u32 = 1 << 30;

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address is none, or not of the family asked for.
    #[error("{0}")]
    Address(String),
    /// The name could not be resolved.
    #[error("looking up {name}: {why}")]
    Resolve {
        /// Host name and port.
        name: String,
        /// What the system answered.
        why: io::Error,
    },
    /// The socket could not be connected.
    #[error("connecting to {address}: {why}{}", hint(why))]
    Connect {
        /// The address tried (the last, for a name with several).
        address: SocketAddr,
        /// What the system answered.
        why: io::Error,
    },
    /// The socket is connected, but the other end did not agree on an NVMe/TCP connection.
    #[error("initializing the NVMe/TCP connection with {address} (ICReq sent): {why}")]
    Initialize {
        /// The address.
        address: SocketAddr,
        /// What came back, or did not.
        why: String,
    },
}

fn hint(why: &io::Error) -> &'static str {
    match why.kind() {
        io::ErrorKind::ConnectionRefused => "; nothing listens there: is the target running, is trsvcid its port?",
        io::ErrorKind::TimedOut => "; nothing answers there: check traddr, routes and firewalls",
        io::ErrorKind::AddrNotAvailable => "; is hostaddr an address of this machine?",
        _ => "",
    }
}

/// Connects and initializes one queue's connection, by the request's deadline.
///
/// # Errors
/// The step that failed, on which address, and what came back.
pub fn connect(id: &TransportId, request: &QueueRequest) -> Result<TcpQueue, ConnectError> {
    let mut last = ConnectError::Address(format!("{} has no address of the family asked for", id.traddr));
    for address in addresses(id, request)? {
        match socket(address, id, request) {
            Ok(socket) => return initialize(socket, address, request),
            Err(why) => last = ConnectError::Connect { address, why },
        }
    }
    Err(last)
}

/// The socket addresses of a transport ID, a name's in the resolver's order.
fn addresses(id: &TransportId, request: &QueueRequest) -> Result<Vec<SocketAddr>, ConnectError> {
    let port = match id.trsvcid.as_str() {
        "" if id.subnqn == DISCOVERY_NQN => DISCOVERY_PORT,
        "" => IO_PORT,
        text => match text.parse() {
            Ok(port) if port != 0 => port,
            _ => return Err(ConnectError::Address(format!("trsvcid:{text} is no TCP port (1 to 65535)"))),
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
            false => Err(ConnectError::Address(format!("traddr:{host} is not of adrfam:{}", id.adrfam))),
        };
    }
    // The resolver blocks for as long as it likes, so it gets a thread that may outlive our patience.
    let (sender, answer) = mpsc::channel();
    let name = format!("{host}:{port}");
    let fail = |why| Err(ConnectError::Resolve { name: name.clone(), why });
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

fn check(deadline: Instant, cancel: &Cancel) -> io::Result<()> {
    if cancel.is_cancelled() {
        return Err(io::Error::new(io::ErrorKind::Interrupted, "cancelled"));
    }
    if Instant::now() >= deadline {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer by the deadline"));
    }
    Ok(())
}

/// Waits until the descriptor is ready for `flags`.
fn wait(fd: BorrowedFd<'_>, flags: PollFlags, deadline: Instant, cancel: &Cancel) -> io::Result<()> {
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

fn socket(address: SocketAddr, id: &TransportId, request: &QueueRequest) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    if let Some(priority) = id.priority {
        socket.set_priority(priority)?;
    }
    if let Some(source) = &id.hostaddr {
        let ip: IpAddr = source
            .parse()
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, format!("hostaddr:{source} is no IP address")))?;
        socket.bind(&SocketAddr::new(ip, 0).into())?;
    }
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => return Err(error),
        _ => wait(socket.as_fd(), PollFlags::OUT, request.deadline, &request.cancel)?,
    }
    socket.take_error()?.map_or(Ok(socket.into()), Err)
}

/// ICReq and ICResp (TCP 3.6.2.2).
fn initialize(socket: TcpStream, address: SocketAddr, request: &QueueRequest) -> Result<TcpQueue, ConnectError> {
    let fail = |why: String| ConnectError::Initialize { address, why };
    let wanted = Digests { header: request.header_digest, data: request.data_digest };
    let mut link = Link::new(socket, Role::Host, MOST_DATA).map_err(|error| fail(error.to_string()))?;
    link.sender.initialize(&IcReq::new(0, wanted.bits(), MAXR2T));
    let deadline = request.deadline.min(Instant::now() + INITIALIZE_TIMEOUT);
    let (mut answer, mut staging) = (Answer(None), [0; 256]);
    let answer = loop {
        let step = link.flush(None).and_then(|_| link.receive(None, &mut staging, &mut answer));
        match (step, answer.0) {
            (_, Some(answer)) => break answer,
            (Err(Lost::Closed { .. }), _) => {
                return Err(fail("the peer closed the connection: is it an NVMe/TCP port?".into()));
            }
            (Err(lost), _) => return Err(fail(lost.to_string())),
            (Ok(_), None) => wait(link.socket().as_fd(), PollFlags::IN, deadline, &request.cancel)
                .map_err(|why| fail(format!("no ICResp: {why}")))?,
        }
    };
    let agreed = Digests::from_bits(answer.digest);
    if (agreed.header && !wanted.header) || (agreed.data && !wanted.data) {
        return Err(fail(format!("it insists on digests that were not offered (DGST {:02x}h)", answer.digest)));
    }
    link.receiver().use_digests(agreed);
    link.sender.use_agreement(agreed, answer.cpda);
    if let Some(threshold) = request.zero_copy.filter(|_| request.qid != 0)
        && !is_local(link.socket()).map_err(|error| fail(error.to_string()))?
    {
        link.use_zero_copy(threshold).map_err(|error| fail(format!("zero-copy send (SO_ZEROCOPY): {error}")))?;
    }
    let agreement = queue::Agreement {
        qid: request.qid,
        slots: request.entries.saturating_sub(1).clamp(1, u16::MAX.into()) as u16,
        in_capsule_bytes: request.in_capsule_bytes,
        max_h2c_data: answer.maxh2cdata.get(),
        whole_reads: request.qid != 0,
    };
    Ok(TcpQueue::new(link, agreement))
}

/// The controller's ICResp, once it is here.
struct Answer(Option<IcResp>);

impl Sink for Answer {
    fn pdu(&mut self, pdu: Pdu<'_>, _: u32) -> Result<u32, Violation> {
        let Pdu::IcResp(answer) = pdu else {
            return Err(Violation::new(Fes::PDU_SEQUENCE_ERROR, 0, "another PDU came before ICResp"));
        };
        if answer.pfv.get() != PFV {
            let what = format!("ICResp of PDU format version {}", answer.pfv);
            return Err(Violation::new(Fes::UNSUPPORTED_PARAMETER, 8, what));
        }
        if answer.cpda > PDA_MAX {
            return Err(Violation::field(10, format!("ICResp with CPDA {}", answer.cpda)));
        }
        if answer.maxh2cdata.get() < MAXH2CDATA_MIN {
            return Err(Violation::field(12, format!("ICResp with MAXH2CDATA {}", answer.maxh2cdata)));
        }
        self.0 = Some(*answer);
        Ok(0)
    }

    fn place(&mut self, _: u32, _: u32, _: u32, _: &mut Vec<Range>) {}

    fn finished(&mut self, _: u32, _: bool) -> Result<(), Violation> {
        Ok(())
    }
}
