//! How a queue's connection comes about: address, route, queue pair, and the private data of NVMe/RDMA (RDMA 3.3), each step with a
//! deadline and an eye on cancellation.

use std::{
    io,
    net::SocketAddr,
    os::fd::AsFd,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use doorbell_rdma::{
    Access, Attributes, Channel, CompletionQueue, Device, Error, Event, EventChannel, EventKind, Identifier,
    Parameters, Piece, QueuePair, QueueSize, Registration, reject_reason,
};
use doorbell_spec::rdma::{Accept, CONSUMER_REJECT, IO_PORT, Reject, RejectCode, Request, STALE_CONNECTION};
use rustix::event::PollFlags;
use zerocopy::IntoBytes;

use super::{
    RdmaQueue,
    capsule::{COMMAND, Rules},
    queue::{Layout, NUDGES, Parts, Queue},
    verbs::{Answers, Promise, SharedAnswers, Verbs, number, region},
};
use crate::{
    transport::{
        Capsule, QueueRequest,
        network::{self, AddressError, addresses, check},
    },
    transport_id::TransportId,
};

/// How long resolving an address, or a route, may take.
const RESOLVE: Duration = Duration::from_secs(2);
/// What the word that it took too long may take.
const SLACK: Duration = Duration::from_secs(1);
/// How often a peer is asked again that takes us for an earlier connection of ours, and how long after.
const STALE_RETRIES: u32 = 5;
const STALE_PAUSE: Duration = Duration::from_millis(10);
/// Times that a packet is sent again; for a peer without a receive, that number means for ever.
const RETRIES: u8 = 7;

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// There is no address to connect to.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// A step failed.
    #[error("connecting to {address} over RDMA: {step}: {why}")]
    Step {
        /// The address tried (the last, for a name with several).
        address: SocketAddr,
        /// What was being done.
        step: &'static str,
        /// What came back, and what it means.
        why: String,
    },
}

/// Connects one queue, by the request's deadline.
///
/// # Errors
/// The step that failed, on which address, and what came back.
pub fn connect(id: &TransportId, request: &QueueRequest) -> Result<RdmaQueue, ConnectError> {
    let mut last = AddressError::none(id).into();
    for address in addresses(id, IO_PORT, request)? {
        match connect_to(address, id, request) {
            Ok(queue) => return Ok(queue),
            Err(Failure { step, why, .. }) => last = ConnectError::Step { address, step, why },
        }
    }
    Err(last)
}

/// Why an attempt failed.
struct Failure {
    step: &'static str,
    why: String,
    /// The peer still holds an earlier connection.
    stale: bool,
}

fn connect_to(address: SocketAddr, id: &TransportId, request: &QueueRequest) -> Result<RdmaQueue, Failure> {
    let source = network::source(id).map_err(|why| failure("choosing the source address", why))?;
    let attempt = || Attempt::new(request)?.carry_out(source, address);
    insist(attempt, || check(request.deadline, &request.cancel).is_ok())
}

/// Tries again a few times, as long as it `may`, when the peer holds an earlier connection of ours.
fn insist<T>(mut attempt: impl FnMut() -> Result<T, Failure>, may: impl Fn() -> bool) -> Result<T, Failure> {
    let mut retries = 0;
    loop {
        let failure = match attempt() {
            Err(failure) if failure.stale => failure,
            outcome => return outcome,
        };
        if retries == STALE_RETRIES || !may() {
            let why = format!("{}; so it was at {retries} more attempts", failure.why);
            return Err(Failure { why, ..failure });
        }
        retries += 1;
        thread::sleep(STALE_PAUSE);
    }
}

fn failure(step: &'static str, why: impl ToString) -> Failure {
    Failure { step, why: why.to_string(), stale: false }
}

/// One try to connect.
struct Attempt<'a> {
    request: &'a QueueRequest,
    events: EventChannel,
}

impl<'a> Attempt<'a> {
    fn new(request: &'a QueueRequest) -> Result<Self, Failure> {
        let events = EventChannel::new().map_err(|why| failure("asking for the connection manager", why))?;
        Ok(Self { request, events })
    }

    fn carry_out(self, source: Option<SocketAddr>, address: SocketAddr) -> Result<RdmaQueue, Failure> {
        let step = "resolving the address";
        let identifier = self.events.identifier().map_err(|why| failure(step, why))?;
        identifier.resolve_address(source, address, RESOLVE).map_err(|why| failure(step, unresolved(why)))?;
        self.wait(EventKind::AddressResolved, step, RESOLVE + SLACK)?;
        if self.request.type_of_service != 0 {
            let set = identifier.set_type_of_service(self.request.type_of_service);
            set.map_err(|why| failure("setting the type of service", why))?;
        }
        let step = "resolving the route";
        identifier.resolve_route(RESOLVE).map_err(|why| failure(step, unresolved(why)))?;
        self.wait(EventKind::RouteResolved, step, RESOLVE + SLACK)?;
        let step = "making the queue pair";
        let device = identifier.device().map_err(|why| failure(step, why))?;
        let entries = entries(self.request.entries, device.attributes());
        let shared = self.share(&device).map_err(|why| failure(step, why))?;
        let promise = shared.as_ref().map(|shared| shared.promise(entries - 1)).transpose();
        let promise = promise.map_err(|why| failure("sharing receives", why))?;
        let made = self.make(identifier, device, entries, shared.zip(promise)).map_err(|why| failure(step, why))?;
        self.agree(made)
    }

    /// Everything that the queue needs at this end, with receives posted.
    fn make(
        &self,
        identifier: Identifier,
        device: Arc<Device>,
        entries: u32,
        shared: Option<(SharedAnswers, Promise)>,
    ) -> Result<Made, Error> {
        let request = self.request;
        // The capsules of the admin queue hold commands only.
        let none = Capsule { data_bytes: 0, data_offset: 0, descriptors: 1 };
        let rules = Rules::new(if request.qid == 0 { none } else { request.capsule });
        let slots = (entries - 1) as u16;
        let receives = shared.as_ref().map_or(entries, |(shared, _)| shared.queue().depth());
        let layout = Layout::new(slots, if shared.is_some() { 0 } else { entries }, &rules);
        let registration = Registration::new(&device, region(layout.bytes)?, Access::Local)?;
        let channel = Channel::new(&device)?;
        // Each of the shared receives may come to this queue.
        let places = (u32::from(slots) + receives).min(device.attributes().max_cqe);
        let completions = CompletionQueue::new(&device, places, Some(&channel))?;
        let nudges = if device.attributes().is_iwarp { u32::from(NUDGES) } else { 0 };
        let size = QueueSize {
            sends: u32::from(slots) + nudges,
            receives: entries,
            send_pieces: 2,
            receive_pieces: 1,
            inline: COMMAND,
        };
        let queue = shared.as_ref().map(|(shared, _)| shared.queue());
        let mut pair = QueuePair::new(identifier, size, &completions, queue).map_err(|(_, why)| why)?;
        let capsules = pair.attach(&registration)?;
        let (answers, table) = match shared {
            Some((shared, promise)) => shared.split(promise),
            None => {
                for index in 0..entries {
                    pair.push_receive(number(index), &[Piece { memory: capsules, range: layout.answer(index) }]);
                }
                pair.post_receives()?;
                (
                    Answers { shared: None, _promise: None, memory: capsules, layout },
                    layout.table(registration.region()),
                )
            }
        };
        let events = self.events.clone();
        let link = Verbs { pair, completions, channel, events, capsules, data: None, answers };
        let memory = registration.region().clone();
        Ok(Made { link, entries, rules, layout, memory, table })
    }

    /// The receives that the group's queues to a device share, made by the first of them; none where none are to be shared.
    fn share(&self, device: &Arc<Device>) -> Result<Option<SharedAnswers>, Error> {
        let Some(wanted) = self.request.shared_receives else { return Ok(None) };
        let mut group = self.request.group.shared();
        if let Some(known) = group.iter().find(|known| Arc::ptr_eq(known.device(), device)) {
            return Ok(Some(known.clone()));
        }
        let (name, count) = (device.name(), wanted.min(device.attributes().max_srq_wr));
        if count == 0 {
            tracing::warn!("{name} has no shared receive queues: each queue has receives of its own");
            return Ok(None);
        }
        if count < wanted {
            tracing::warn!("{name}: a shared receive queue of {count} entries, as it takes no {wanted}");
        }
        let made = SharedAnswers::new(device, count)?;
        group.push(made.clone());
        Ok(Some(made))
    }

    /// Connects, and cuts the queue down to what the controller takes.
    fn agree(self, made: Made) -> Result<RdmaQueue, Failure> {
        let step = "connecting the queue pair";
        let Made { link, entries, rules, layout, memory, table } = made;
        let cntlid = if self.request.qid == 0 { 0 } else { self.request.cntlid };
        let private_data = Request::new(self.request.qid, entries, cntlid);
        let parameters = Parameters {
            private_data: private_data.as_bytes(),
            responder_resources: link.pair.device().attributes().max_qp_rd_atom,
            // This end sends no RDMA READs.
            initiator_depth: 0,
            retry_count: RETRIES,
            rnr_retry_count: RETRIES,
        };
        link.pair.identifier().connect(&parameters).map_err(|why| failure(step, why))?;
        let left = self.request.deadline.saturating_duration_since(Instant::now());
        let event = self.wait(EventKind::Established, step, left)?;
        let entries = granted(entries, &event.private_data).map_err(|why| failure(step, why))?;
        let shares = link.answers.shared.is_some();
        let nudges = if link.pair.device().attributes().is_iwarp { NUDGES } else { 0 };
        let parts = table.map(|answers| Parts {
            qid: self.request.qid,
            slots: (entries - 1) as u16,
            rules,
            layout,
            memory,
            answers,
            shares,
            nudges,
        });
        let parts = parts.ok_or_else(|| failure(step, "the memory of the queue is too small for its answers"))?;
        Queue::new(link, parts).map_err(|why| failure(step, why))
    }

    /// Waits for an event of this kind.
    fn wait(&self, wanted: EventKind, step: &'static str, limit: Duration) -> Result<Event, Failure> {
        let deadline = self.request.deadline.min(Instant::now() + limit);
        loop {
            match self.events.next_event().map_err(|why| failure(step, why))? {
                Some(event) if event.kind == wanted => return Ok(event),
                Some(event) => {
                    if let Some(why) = refusal(event.kind, event.status, &event.private_data) {
                        let stale = event.kind == EventKind::Rejected && event.status == STALE_CONNECTION;
                        return Err(Failure { step, why, stale });
                    }
                }
                None => network::wait(self.events.as_fd(), PollFlags::IN, deadline, &self.request.cancel)
                    .map_err(|why| failure(step, why))?,
            }
        }
    }
}

/// A queue pair that is not connected yet, and what goes with it.
struct Made {
    link: Verbs,
    entries: u32,
    rules: Rules,
    layout: Layout,
    memory: Arc<doorbell_platform::Region>,
    table: Option<doorbell_platform::Table<2>>,
}

/// Entries of a queue, of which one stays free: no more than the device has work requests and completions for.
fn entries(wanted: u32, attributes: &Attributes) -> u32 {
    wanted.min(attributes.max_qp_wr).min(attributes.max_cqe / 2).clamp(2, 1 << 16)
}

/// Entries that the controller leaves of those that were asked for: no more than it has receives for (CRQSIZE).
fn granted(entries: u32, private_data: &[u8]) -> Result<u32, String> {
    let Some(accept) = Accept::read(private_data) else {
        let len = private_data.len();
        return Err(format!(
            "it accepted, but without the private data of NVMe/RDMA ({len} bytes): is it an NVMe/RDMA port?"
        ));
    };
    match u32::from(accept.crqsize.get()) {
        crqsize @ 2.. => Ok(entries.min(crqsize)),
        crqsize => Err(format!("it accepted with a receive queue of {crqsize} entries (CRQSIZE)")),
    }
}

/// An error of a call that resolves, and what to do.
fn unresolved(why: Error) -> String {
    let hint = why.raw_os_error().and_then(no_way).unwrap_or_default();
    format!("{why}{hint}")
}

/// What an event that ends an attempt says; `None` for one that does not.
fn refusal(kind: EventKind, status: i32, private_data: &[u8]) -> Option<String> {
    let system = || match status {
        0 => "no reason given".to_string(),
        status => format!("{} (status {status})", io::Error::from_raw_os_error(status.wrapping_abs())),
    };
    let hint = no_way(status.wrapping_abs()).unwrap_or_default();
    Some(match kind {
        EventKind::AddressError => format!("address error: {}{hint}", system()),
        EventKind::RouteError => format!("route error: {}{hint}", system()),
        EventKind::Unreachable => format!("unreachable: {}; nothing answers there: is the target running?", system()),
        EventKind::ConnectError => format!("connect error: {}", system()),
        EventKind::Rejected => rejection(status, private_data),
        EventKind::Disconnected => "the peer ended the connection at once".into(),
        EventKind::DeviceRemoval => "the device was removed".into(),
        _ => return None,
    })
}

/// What to do about a system's error of resolving.
fn no_way(errno: i32) -> Option<&'static str> {
    use rustix::io::Errno;
    let is = |known: Errno| known.raw_os_error() == errno;
    if is(Errno::NODEV) || is(Errno::NETUNREACH) || is(Errno::HOSTUNREACH) {
        return Some(
            "; no RDMA device leads there: `rdma link` lists those there are, `ip route get` says which interface is used",
        );
    }
    if is(Errno::ADDRNOTAVAIL) {
        return Some("; is hostaddr an address of this machine?");
    }
    is(Errno::TIMEDOUT).then_some("; nothing answers there: check traddr, cables and routes")
}

/// Why a peer refused: the connection manager's reason, or what the controller says.
fn rejection(status: i32, private_data: &[u8]) -> String {
    let reason = reject_reason(status);
    // What is not the application's refusal may be filled up with zeros. Over iWARP a refusal has an error of the system instead.
    let code = Reject::read(private_data).filter(|code| code.0 != 0 && (status == CONSUMER_REJECT || status < 0));
    let Some(code) = code else { return format!("rejected: {reason}") };
    let hint = match code {
        RejectCode::INVALID_HSQSIZE | RejectCode::INVALID_HRQSIZE => {
            "; the queue is too large for it: lower --io-queue-size"
        }
        RejectCode::NO_RESOURCES => "; all its queues are in use, or it has no memory for one of this size",
        RejectCode::INVALID_CNTLID => "; it does not know the controller (any more)",
        _ => "",
    };
    format!("rejected by the controller: {} (STS {}){hint}; {reason}", code.name(), code.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    // No device here gives most of these answers, so the events are made up.

    fn event(kind: EventKind, status: i32, private_data: &[u8]) -> Option<String> {
        refusal(kind, status, private_data)
    }

    #[test]
    fn every_refusal_says_what_it_means() {
        let reject = |code: RejectCode| {
            let mut bytes = [0; 148];
            bytes[..4].copy_from_slice(Reject::new(code).as_bytes());
            event(EventKind::Rejected, CONSUMER_REJECT, &bytes).unwrap()
        };
        for &code in RejectCode::ALL {
            let text = reject(code);
            assert!(text.contains(code.name()) && text.contains(&format!("(STS {})", code.0)), "{text}");
        }
        assert!(reject(RejectCode::INVALID_HSQSIZE).contains("lower --io-queue-size"));
        let iwarp = event(EventKind::Rejected, -111, Reject::new(RejectCode::NO_RESOURCES).as_bytes()).unwrap();
        assert!(iwarp.contains("No Resources (STS 6)") && iwarp.contains("Connection refused"), "{iwarp}");
        for (kind, status, data, said) in [
            (EventKind::Rejected, 8, &[0; 148][..], "rejected: invalid service ID: nobody listens on that port (8)"),
            (EventKind::Rejected, 28, &[], "rejected: refused by the application (28)"),
            (EventKind::Rejected, 28, &[1, 0, 6, 0], "rejected: refused by the application (28)"),
            (EventKind::Rejected, 99, &[0, 0, 6, 0], "rejected: reason unknown (99)"),
            (EventKind::AddressError, -110, &[], "address error: Connection timed out"),
            (EventKind::AddressError, -19, &[], "no RDMA device leads there"),
            (EventKind::RouteError, -113, &[], "route error: No route to host"),
            (EventKind::Unreachable, -110, &[], "nothing answers there: is the target running?"),
            (EventKind::ConnectError, i32::MIN, &[], "connect error: "),
            (EventKind::ConnectError, 0, &[], "connect error: no reason given"),
            (EventKind::Disconnected, 0, &[], "ended the connection at once"),
            (EventKind::DeviceRemoval, 0, &[], "the device was removed"),
        ] {
            let text = event(kind, status, data).unwrap();
            assert!(text.contains(said), "{text}, not {said}");
        }
        for harmless in [EventKind::AddressChange, EventKind::TimewaitExit, EventKind::Other(12)] {
            assert_eq!(event(harmless, -1, &[]), None);
        }
    }

    #[test]
    fn a_queue_is_cut_down_to_what_the_controller_has_receives_for() {
        let granted = |crqsize| granted(128, Accept::new(crqsize).as_bytes());
        assert_eq!([1024, 128, 127, 2].map(granted), [Ok(128), Ok(128), Ok(127), Ok(2)]);
        for crqsize in [0, 1] {
            assert!(granted(crqsize).unwrap_err().ends_with(&format!("of {crqsize} entries (CRQSIZE)")));
        }
        assert!(
            super::granted(128, &[1, 2, 3]).unwrap_err().contains("without the private data of NVMe/RDMA (3 bytes)")
        );
    }

    #[test]
    fn a_stale_connection_is_tried_again_and_nothing_else_is() {
        let stale = || Failure { step: "s", why: "stale".into(), stale: true };
        let tries = |limit: u32, stale_until: u32, last: fn() -> Failure| {
            let mut tried = 0;
            let outcome = insist(
                || {
                    tried += 1;
                    if tried > stale_until { Err(last()) } else { Err::<(), _>(stale()) }
                },
                || limit > 0,
            );
            (outcome.unwrap_err().why, tried)
        };
        let refused = || failure("s", "refused");
        assert_eq!(tries(1, 100, refused), ("stale; so it was at 5 more attempts".into(), 6));
        assert_eq!(tries(1, 3, refused), ("refused".into(), 4));
        assert_eq!(tries(0, 100, refused), ("stale; so it was at 0 more attempts".into(), 1), "no time is left");
    }

    #[test]
    fn a_queue_is_as_deep_as_the_device_has_work_requests() {
        let device = |max_qp_wr, max_cqe| Attributes {
            vendor: 0,
            max_qp_wr,
            max_sge: 2,
            max_sge_rd: 1,
            max_cqe,
            max_srq_wr: 0,
            max_qp_rd_atom: 1,
            max_qp_init_rd_atom: 1,
            completion_vectors: 1,
            max_mr_size: u64::MAX,
            is_iwarp: false,
        };
        for (wanted, max_qp_wr, max_cqe, got) in
            [(128, 1 << 20, 32767, 128), (32768, 1 << 20, 32767, 16383), (128, 64, 32767, 64), (128, 0, 0, 2)]
        {
            assert_eq!(entries(wanted, &device(max_qp_wr, max_cqe)), got);
        }
    }
}
