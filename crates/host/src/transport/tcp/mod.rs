//! NVMe/TCP: connecting a socket, agreeing on the link's parameters (ICReq, ICResp), and the queue over it.

mod queue;

use std::{
    io,
    net::{SocketAddr, TcpStream},
    os::fd::AsFd,
    time::{Duration, Instant},
};

use doorbell_platform::Range;
use doorbell_spec::{
    nqn::DISCOVERY_NQN,
    tcp::{DISCOVERY_PORT, Fes, IO_PORT, IcReq, IcResp, MAXH2CDATA_MIN, PDA_MAX, PFV},
};
use doorbell_tcp::{Digests, Link, Lost, Pdu, Role, Sink, Violation};
use rustix::event::PollFlags;
use socket2::{Domain, Protocol, Socket, Type};

pub use queue::{TcpQueue, Unplugged};

use super::{
    QueueRequest,
    network::{self, AddressError, addresses, wait},
};
use crate::transport_id::TransportId;

/// How long the controller may take to answer ICReq.
const INITIALIZE_TIMEOUT: Duration = Duration::from_secs(10);
/// R2Ts a controller may have outstanding for one command, 0-based.
const MAXR2T: u32 = 15;
/// Bound on the data of one C2HData PDU: more than any command may ask for.
const MOST_DATA: u32 = 1 << 30;

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// There is no address to connect to.
    #[error(transparent)]
    Address(#[from] AddressError),
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
    let port = if id.subnqn == DISCOVERY_NQN { DISCOVERY_PORT } else { IO_PORT };
    let mut last = AddressError::none(id).into();
    for address in addresses(id, port, request)? {
        match socket(address, id, request) {
            Ok(socket) => return initialize(socket, address, request),
            Err(why) => last = ConnectError::Connect { address, why },
        }
    }
    Err(last)
}

fn socket(address: SocketAddr, id: &TransportId, request: &QueueRequest) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    if let Some(priority) = id.priority {
        socket.set_priority(priority)?;
    }
    if let Some(source) = network::source(id)? {
        socket.bind(&source.into())?;
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
    let agreement = queue::Agreement {
        qid: request.qid,
        slots: request.entries.saturating_sub(1).clamp(1, u16::MAX.into()) as u16,
        in_capsule_bytes: request.capsule.data_bytes,
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
