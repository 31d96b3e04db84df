//! One command at a time over any queue, with a deadline: how Connect, properties and admin commands are sent.

use std::{
    os::fd::RawFd,
    sync::Arc,
    time::{Duration, Instant},
};

use doorbell_platform::{Arena, Range, poll};
use doorbell_queue::{Done, Down, IoQueue, REAP_BATCH, Slot, Wait};
use doorbell_spec::{
    command::{AdminOpcode, Command, NvmOpcode},
    completion::Completion,
    fabrics::{self, ConnectData, ConnectRequest, ConnectResponse, Fctype, InvalidParameter, PropertyRequest},
    status::Status,
};
use doorbell_tcp::Digests;
use zerocopy::IntoBytes;

use crate::{
    cancel::Cancel,
    error::Cause,
    transport::{
        AnyQueue,
        ring::device::{self, Device},
    },
};

/// Most bytes one command of a port transfers.
pub(crate) const BUFFER: u32 = 64 << 10;
/// The slot of commands that are waited for; the others are free for commands that are not.
const SLOT: Slot = 0;
/// How often a wait looks whether it was cancelled.
const CANCEL_INTERVAL: Duration = Duration::from_millis(50);
/// How often a queue is looked at that must be polled, while a command is waited for.
const POLL_INTERVAL: Duration = Duration::from_millis(1);
/// How often otherwise.
const IDLE_POLL_INTERVAL: Duration = Duration::from_millis(50);
/// How often a device within reach is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Data of a command.
#[derive(Clone, Debug)]
pub enum AdminData {
    /// None.
    None,
    /// That many bytes from the controller.
    In(u32),
    /// These bytes to the controller.
    Out(Vec<u8>),
}

/// The commands of a queue, whose opcodes mean one thing or another.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Admin,
    Io,
}

/// A queue with a buffer for the data of one command.
pub(crate) struct Port {
    queue: AnyQueue,
    kind: Kind,
    polled: bool,
    arena: Arc<Arena>,
    buffer: Range,
    /// Where the metadata of the next command goes, when it is apart from the data.
    metadata: Option<Range>,
    cancel: Cancel,
    /// What a command may still take when the flag is set.
    grace: Duration,
    grant: Option<Grant>,
    watched: Option<Watched>,
    /// What came back of commands that nobody waits for.
    pub others: Vec<Done>,
}

/// The device behind the queue, which may be unable to answer any more.
struct Watched {
    device: Arc<dyn Device>,
    next_look: Instant,
}

/// The time that several commands have together, so that a peer which answers each in time does not keep us for ever.
#[derive(Clone, Copy, Debug)]
struct Grant {
    what: &'static str,
    span: Duration,
    end: Instant,
}

impl Port {
    /// `polled`: nothing tells that the queue has something.
    pub fn new(mut queue: AnyQueue, kind: Kind, polled: bool, cancel: &Cancel) -> Result<Self, Cause> {
        let fail = |why: String| Cause::Transport(format!("preparing memory for single commands: {why}"));
        let arena =
            Arc::new(Arena::backed(queue.needs().backing, BUFFER as usize).map_err(|why| fail(why.to_string()))?);
        let buffer = arena.alloc(BUFFER, 4096).map_err(|why| fail(why.to_string()))?;
        queue.attach(&arena).map_err(|why| fail(why.to_string()))?;
        Ok(Self {
            queue,
            kind,
            polled,
            arena,
            buffer,
            metadata: None,
            cancel: cancel.clone(),
            grace: Duration::ZERO,
            grant: None,
            watched: None,
            others: Vec::new(),
        })
    }

    /// Most bytes one command may transfer as far as the transport goes.
    pub fn most_bytes(&self) -> u32 {
        self.queue.needs().bytes
    }

    /// The digests that the controller agreed to; none where the transport knows none.
    pub fn digests(&self) -> Digests {
        match &self.queue {
            AnyQueue::Tcp(queue) => queue.digests(),
            _ => Digests::default(),
        }
    }

    pub fn into_queue(self) -> AnyQueue {
        self.queue
    }

    /// From now on waits end with this flag; returns the one before.
    pub fn use_cancel(&mut self, cancel: &Cancel) -> Cancel {
        std::mem::replace(&mut self.cancel, cancel.clone())
    }

    /// From now on a command whose caller gives up may still take this long.
    pub fn grace(&mut self, grace: Duration) {
        self.grace = grace;
    }

    /// From now on waits end when the device cannot answer any more.
    pub fn watch(&mut self, device: &Arc<dyn Device>) {
        self.watched = Some(Watched { device: device.clone(), next_look: Instant::now() + LOOK_INTERVAL });
    }

    /// Looks at the device when it is time to, where there is one.
    pub fn look(&mut self) -> Result<(), Cause> {
        let now = Instant::now();
        match self.watched.as_mut().filter(|watched| now >= watched.next_look) {
            Some(watched) => {
                watched.next_look = now + LOOK_INTERVAL;
                device::look(&*watched.device)
            }
            None => Ok(()),
        }
    }

    /// From now on all commands together get `span`, for what is named by `what`.
    pub fn grant(&mut self, what: &'static str, span: Duration) {
        self.grant = Some(Grant { what, span, end: Instant::now() + span });
    }

    /// Commands have their own deadlines only.
    pub fn end_grant(&mut self) {
        self.grant = None;
    }

    /// The next command has metadata apart from its data, which together fit the buffer.
    pub fn expect_metadata(&mut self, bytes: u32) {
        let room = bytes.next_multiple_of(4);
        self.metadata = Some(self.buffer.part(BUFFER - room, bytes));
    }

    /// So many bytes of metadata that a command brought which was to bring them.
    pub fn metadata(&self, bytes: u32) -> Vec<u8> {
        let mut metadata = vec![0; bytes as usize];
        let room = bytes.next_multiple_of(4);
        self.arena.region().read(self.buffer.part(BUFFER - room, bytes).offset, &mut metadata);
        metadata
    }

    /// Sends a command and waits for its answer, whatever its status.
    pub fn execute(
        &mut self,
        command: &Command,
        data: &AdminData,
        timeout: Duration,
    ) -> Result<(Done, Vec<u8>), Cause> {
        let deadline = Instant::now() + timeout;
        let grant = self.grant.filter(|grant| grant.end < deadline);
        let kind = self.kind;
        let late = || match grant {
            Some(Grant { what, span, .. }) => Cause::TooLong { command: describe(kind, command), what, span },
            None => Cause::Timeout { command: describe(kind, command), after: timeout },
        };
        let deadline = grant.map_or(deadline, |grant| grant.end);
        if Instant::now() >= deadline {
            return Err(late());
        }
        let region = self.arena.region();
        let range = match data {
            AdminData::None => self.buffer.part(0, 0),
            AdminData::In(len) => {
                // An answer without its data must not show what an earlier one left.
                let range = self.buffer.part(0, *len);
                region.fill(range.offset, range.len as usize, 0);
                range
            }
            AdminData::Out(bytes) => {
                let range = self.buffer.part(0, bytes.len() as u32);
                region.write(range.offset, &bytes[..range.len as usize]);
                range
            }
        };
        self.queue.prepare(SLOT, &[range]).map_err(|why| Cause::Down(why.to_string()))?;
        if let Some(metadata) = self.metadata.take() {
            self.queue.prepare_metadata(SLOT, metadata).map_err(|why| Cause::Transport(why.to_string()))?;
        }
        if !self.queue.submit_raw(SLOT, command) {
            return Err(self.refused());
        }
        let mut given_up = None;
        let done = loop {
            self.poll()?;
            if let Some(at) = self.others.iter().position(|done| done.slot == SLOT) {
                break self.others.swap_remove(at);
            }
            if self.cancel.is_cancelled() && given_up.get_or_insert_with(Instant::now).elapsed() >= self.grace {
                return Err(Cause::Cancelled);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(late());
            }
            self.look().map_err(|why| Cause::Down(format!("sent {}, no answer: {why}", describe(kind, command))))?;
            self.sleep(left.min(CANCEL_INTERVAL), &[])?;
        };
        let mut bytes = Vec::new();
        if let AdminData::In(_) = data {
            bytes.resize(range.len as usize, 0);
            self.arena.region().read(range.offset, &mut bytes);
        }
        Ok((done, bytes))
    }

    /// Sends a command and waits for a successful answer.
    pub fn succeed(&mut self, command: &Command, data: &AdminData, timeout: Duration) -> Result<(u64, Vec<u8>), Cause> {
        let (done, bytes) = self.execute(command, data, timeout)?;
        match done.status.is_success() {
            true => Ok((done.result, bytes)),
            false => Err(refused(self.kind, command, done.status, String::new())),
        }
    }

    /// Sends a command on a slot of its own, with no data, and does not wait: its answer comes out of `others`.
    pub fn send(&mut self, slot: Slot, command: &Command) -> Result<(), Cause> {
        self.queue.prepare(slot, &[]).map_err(|why| Cause::Down(why.to_string()))?;
        if !self.queue.submit_raw(slot, command) {
            return Err(self.refused());
        }
        self.poll()
    }

    /// Sends what waits and collects what came back.
    pub fn poll(&mut self) -> Result<(), Cause> {
        self.queue.commit().map_err(|down| self.lost(down))?;
        let mut done = [Done { slot: 0, status: Status::SUCCESS, result: 0 }; REAP_BATCH];
        loop {
            let count = self.queue.reap(&mut done).map_err(|down| self.lost(down))?;
            self.others.extend_from_slice(&done[..count]);
            if count < done.len() {
                return Ok(());
            }
        }
    }

    /// Sleeps until the queue, or one of `others`, has something, at most for `span`. A queue that must be polled is looked at every
    /// millisecond, or less often where `others` wake us for what is urgent.
    pub fn sleep(&mut self, span: Duration, others: &[RawFd]) -> Result<(), Cause> {
        let mut fds: Vec<_> = others.iter().map(|&other| (other, false)).collect();
        if self.polled {
            let interval = if fds.is_empty() { POLL_INTERVAL } else { IDLE_POLL_INTERVAL };
            poll::wait(&fds, span.min(interval));
        } else if let Wait::Fd { fd, writable } = self.queue.arm().map_err(|down| self.lost(down))? {
            fds.push((fd, writable));
            poll::wait(&fds, span);
        }
        Ok(())
    }

    /// Why the queue takes no command: it is lost, or the slot is not back.
    fn refused(&mut self) -> Cause {
        let down = self.queue.commit().err();
        self.lost(down.unwrap_or_else(|| Down("it takes no command".into())))
    }

    fn lost(&self, down: Down) -> Cause {
        Cause::Down(format!("the queue is lost: {down}"))
    }

    /// Fabrics Connect (Base 6.3): makes the queue part of an association.
    pub fn connect(
        &mut self,
        command: &Command,
        data: &ConnectData,
        timeout: Duration,
    ) -> Result<ConnectResponse, Cause> {
        let (done, _) = self.execute(command, &AdminData::Out(data.as_bytes().to_vec()), timeout)?;
        let completion = Completion::new(0, 0, done.status, done.result);
        if done.status.is_success() {
            return Ok(ConnectResponse::parse(&completion));
        }
        Err(refused(self.kind, command, done.status, connect_hint(done.status, &completion, data)))
    }

    /// Reads a register (Base 6.6, Property Get).
    pub fn property(&mut self, offset: u32, eight: bool, timeout: Duration) -> Result<u64, Cause> {
        self.succeed(&fabrics::property_get(offset, eight), &AdminData::None, timeout).map(|(value, _)| value)
    }

    /// Writes a register of 4 bytes (Base 6.7, Property Set).
    pub fn set_property(&mut self, offset: u32, value: u32, timeout: Duration) -> Result<(), Cause> {
        self.succeed(&fabrics::property_set(offset, false, value.into()), &AdminData::None, timeout).map(|_| ())
    }
}

/// A command answered with an error.
pub(crate) fn refused(kind: Kind, command: &Command, status: Status, hint: String) -> Cause {
    Cause::Status { command: describe(kind, command), status, hint, fabrics: command.is_fabrics() }
}

fn connect_hint(status: Status, completion: &Completion, data: &ConnectData) -> String {
    use doorbell_spec::status::fabrics as code;
    if status.is(code::CONNECT_INVALID_PARAMETERS) {
        let wrong = InvalidParameter::parse(completion);
        let (subsystem, host) = (data.subnqn().unwrap_or_default(), data.hostnqn().unwrap_or_default());
        return match (wrong.in_data, wrong.ipo) {
            (true, ConnectData::SUBNQN_OFFSET) => {
                format!("; there is no subsystem {subsystem} here: `doorbell discover` lists those there are")
            }
            (true, ConnectData::HOSTNQN_OFFSET) => format!("; it does not take the host NQN {host}"),
            (true, ipo) => format!("; byte {ipo} of the Connect data is at fault"),
            (false, ConnectRequest::SQSIZE_OFFSET) => "; the queue is too large for it: lower --io-queue-size".into(),
            (false, ipo) => format!("; byte {ipo} of the command is at fault"),
        };
    }
    match status {
        _ if status.is(code::CONNECT_INVALID_HOST) => {
            format!(
                "; the host {} is not allowed there: allow it, or give another hostnqn",
                data.hostnqn().unwrap_or_default()
            )
        }
        _ if status.is(code::CONNECT_CONTROLLER_BUSY) => "; all its controllers or queues are in use".into(),
        _ => String::new(),
    }
}

/// A command by its name and what tells it from others of the name.
fn describe(kind: Kind, command: &Command) -> String {
    if command.is_fabrics() {
        let fctype = fabrics::fctype(command);
        return match fctype {
            Fctype::CONNECT => format!("Fabrics Connect (queue {})", ConnectRequest::parse(command).qid),
            Fctype::PROPERTY_GET | Fctype::PROPERTY_SET => {
                format!("{} (offset {:02x}h)", fctype.name(), PropertyRequest::parse(command).offset)
            }
            _ => fctype.name().to_string(),
        };
    }
    match kind {
        Kind::Admin => describe_admin(command),
        Kind::Io => describe_io(command),
    }
}

fn describe_admin(command: &Command) -> String {
    let opcode = AdminOpcode(command.opc);
    let detail = match opcode {
        AdminOpcode::IDENTIFY => format!(" (CNS {:02x}h, NSID {})", command.cdw10.get() & 0xff, command.nsid),
        AdminOpcode::GET_LOG_PAGE => format!(" (LID {:02x}h)", command.cdw10.get() & 0xff),
        AdminOpcode::GET_FEATURES | AdminOpcode::SET_FEATURES => format!(" (FID {:02x}h)", command.fid().0),
        _ => String::new(),
    };
    format!("{}{detail}", opcode.name())
}

fn describe_io(command: &Command) -> String {
    let opcode = NvmOpcode(command.opc);
    let block = match opcode {
        NvmOpcode::READ => format!(", LBA {}", command.slba()),
        _ => String::new(),
    };
    format!("{} (NSID {}{block})", opcode.name(), command.nsid)
}

#[cfg(test)]
mod tests {
    use doorbell_spec::{
        command::{self, LogRequest},
        feature::Fid,
    };

    use super::*;

    #[test]
    fn commands_are_named_by_what_their_queue_takes() {
        let log = command::get_log_page(&LogRequest::default());
        let feature = command::set_features(Fid::NUMBER_OF_QUEUES, false, 0, 0);
        for (kind, command, told) in [
            (Kind::Admin, log, "Get Log Page (LID 00h)"),
            (Kind::Admin, feature, "Set Features (FID 07h)"),
            (Kind::Io, command::read(1, 5, 1, 0), "Read (NSID 1, LBA 5)"),
            (Kind::Io, command::read(3, 1 << 33, 8, 0), "Read (NSID 3, LBA 8589934592)"),
            (Kind::Io, command::flush(2), "Flush (NSID 2)"),
            (Kind::Io, fabrics::connect(4, 31, 0, 0), "Fabrics Connect (queue 4)"),
        ] {
            assert_eq!(describe(kind, &command), told);
        }
    }
}
