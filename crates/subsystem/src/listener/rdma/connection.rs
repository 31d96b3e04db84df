//! A connection of NVMe/RDMA: its events and completions, its deadlines and its end. A reactor owns and serves it.
//!
//! The end is a drain: the queue pair fails, everything that was posted comes back, and only when the queue pair is gone, so that no
//! device and no host can reach it any more, memory is released.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use doorbell_rdma::{
    Channel, Completion, CompletionQueue, EventChannel, EventKind, Identifier, Opcode, PostError, QueuePair,
    Registration, Status,
};
use doorbell_spec::rdma::RejectCode;
use rustix::{
    event::epoll::{self, CreateFlags, EventData, EventFlags},
    fd::{AsFd, BorrowedFd, OwnedFd},
};

use super::{
    admission::{EXTRA, Stranger, Terms},
    exchange::{Exchange, Violation},
    link::{Link, Trouble, Work, own_memory, queue_size},
    memory::FrameMemory,
    receives::Share,
    refuse,
};
use crate::{
    fault::Reset,
    listener::{Context, Served},
};

/// Completions taken at a time, and how many times in a pass.
const AT_ONCE: usize = 32;
const ROUNDS: usize = 4;
/// How long a connection may be silent before the host's device is asked whether it is still there.
const PROBE_AFTER: Duration = Duration::from_secs(60);

/// A host that has asked for a queue, and is to be accepted.
#[derive(Debug)]
pub(crate) struct Newcomer {
    pub(super) identifier: Identifier,
    pub(super) terms: Terms,
    pub(super) frames: Arc<FrameMemory>,
    pub(super) stranger: Stranger,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Connection {
    /// None when it is gone.
    link: Option<Link>,
    exchange: Exchange,
    /// Until Connect has come.
    stranger: Option<Stranger>,
    completions: Arc<CompletionQueue>,
    channel: Arc<Channel>,
    events: EventChannel,
    /// Waits for both channels and the removal of the device.
    epoll: OwnedFd,
    name: String,
    opened: Instant,
    /// When something last came, and when something that was posted last was done, or nothing was posted.
    came: Instant,
    moved: Instant,
    probing: bool,
    /// Something has happened on a channel.
    ready: bool,
    /// Completions are announced from now on, and there were none when they were last looked for.
    armed: bool,
    draining: Option<Drain>,
}

/// The end of a connection.
#[derive(Clone, Copy, Debug)]
struct Drain {
    /// Markers that have not come back.
    markers: u8,
    until: Instant,
}

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the host has disconnected")]
    Disconnected,
    #[error("the RDMA device goes away")]
    Removed,
    #[error("the connection does not come about: {0:?}, status {1}")]
    NotEstablished(EventKind, i32),
    #[error("{0:?} has failed: {1}")]
    Failed(Work, Status),
    #[error("an RDMA WRITE with immediate data, which no host sends")]
    Immediate,
    #[error("the fault script ends the connection")]
    Script,
    #[error(transparent)]
    Violation(#[from] Violation),
    #[error(transparent)]
    Post(#[from] PostError),
    #[error(transparent)]
    Link(#[from] doorbell_rdma::Error),
}

impl Connection {
    /// Accepts a host. One for which there is not enough is refused.
    ///
    /// # Errors
    /// What the device or the system does not give.
    pub(crate) fn new(newcomer: Newcomer, context: &mut Context) -> io::Result<Self> {
        let peer = newcomer.identifier.peer_address();
        let name = peer.map_or_else(|| "rdma".into(), |peer| format!("rdma:{peer}"));
        let Newcomer { mut identifier, terms, frames, stranger } = newcomer;
        let told = |trouble: Trouble| io::Error::other(format!("{name}: {trouble}"));
        let parts = Parts::new(&mut identifier, &terms, &frames, context).map_err(|trouble| {
            refuse(&identifier, RejectCode::NO_RESOURCES);
            told(trouble)
        })?;
        let shared = parts.share.as_ref().and_then(|share| context.receives.queue(share));
        let queue = QueuePair::new(identifier, queue_size(&terms), &parts.completions, shared);
        let Parts { frames, own, share, completions, channel, events, epoll } = parts;
        let link = match queue {
            Ok(queue) => Link::new(queue, &terms, &frames, &own, share),
            Err((identifier, error)) => {
                refuse(&identifier, RejectCode::NO_RESOURCES);
                Err((share, error.into()))
            }
        };
        let accepted = link.and_then(|link| match link.accept(&terms) {
            Ok(()) => Ok(link),
            Err(error) => Err((link.close(), error.into())),
        });
        let link = accepted.map_err(|(share, trouble)| {
            share.into_iter().for_each(|share| context.receives.leave(share));
            told(trouble)
        })?;
        let now = context.now;
        Ok(Self {
            link: Some(link),
            exchange: Exchange::new(terms),
            stranger: Some(stranger),
            completions,
            channel,
            events,
            epoll,
            name,
            opened: now,
            came: now,
            moved: now,
            probing: false,
            ready: true,
            armed: false,
            draining: None,
        })
    }

    /// Takes completions, carries out what has come and posts what is ready.
    #[inline]
    pub(crate) fn serve(&mut self, context: &mut Context) -> Served {
        let busy = match self.work(context) {
            Ok(busy) => busy,
            Err(end) => {
                self.lose(&end, context);
                true
            }
        };
        match (&self.link, busy) {
            (None, _) => Served::Gone,
            (Some(_), true) => Served::Busy,
            (Some(_), false) => Served::Idle,
        }
    }

    /// Something has happened on a channel.
    pub(crate) fn notify(&mut self) {
        self.ready = true;
    }

    /// Whether the controller that its queue belongs to has been reset or is gone.
    pub(crate) fn is_over(&self) -> bool {
        self.exchange.is_over()
    }

    /// When a fault script has something to do next.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.exchange.due()
    }

    /// Gets ready to be left alone until something happens on a channel; false if it is to be served before.
    pub(crate) fn rest(&mut self) -> bool {
        if self.ready || self.exchange.wants_pass() {
            return false;
        }
        if !self.armed {
            // What came before is not announced, so completions are looked for once more.
            self.armed = self.completions.arm().is_ok();
            return false;
        }
        true
    }

    /// Looks at the deadlines, and adds what was counted to the totals.
    pub(crate) fn check(&mut self, context: &mut Context) -> Served {
        self.exchange.add_up();
        self.exchange.flush_log();
        if self.draining.is_some() || self.overdue(context).is_none() {
            self.probe(context);
            return self.serve(context);
        }
        // What lies in the completion queue may be what was waited for.
        let served = self.serve(context);
        let what = self.overdue(context).filter(|_| self.draining.is_none() && served != Served::Gone);
        let Some(what) = what else { return served };
        tracing::warn!("{}: {what}", self.name);
        self.start_draining(context);
        Served::Busy
    }

    /// Releases everything.
    pub(crate) fn close(&mut self, context: &mut Context) {
        self.exchange.end(context);
        if let Some(mut link) = self.link.take() {
            let _ = link.identifier().disconnect();
            // What came and was not looked at has buffers too.
            let mut taken = [Completion::default(); AT_ONCE];
            while let Ok(count @ 1..) = self.completions.poll(&mut taken) {
                taken[..count].iter().for_each(|completion| link.came_back(completion.id()));
            }
            if let Some(share) = link.close() {
                context.receives.leave(share);
            }
        }
        self.exchange.release(context);
    }

    #[inline]
    fn work(&mut self, context: &mut Context) -> Result<bool, End> {
        if self.ready {
            self.listen()?;
        }
        let Some(link) = &mut self.link else { return Ok(false) };
        if let Some(drain) = &mut self.draining {
            let over = drain.flush(&self.completions, link);
            if over || context.now >= drain.until {
                self.close(context);
            }
            return Ok(over);
        }
        let (reset, mut busy) = self.exchange.act_out(link, context);
        if reset == Some(Reset::Connection) {
            return Err(End::Script);
        }
        busy |= self.exchange.resume(link, context);
        let mut taken = [Completion::default(); AT_ONCE];
        for _ in 0..ROUNDS {
            let count = self.completions.poll(&mut taken)?;
            for completion in &taken[..count] {
                let work = Work::of(completion.id());
                link.came_back(completion.id());
                if completion.status() != Status::SUCCESS {
                    return Err(End::Failed(work, completion.status()));
                }
                match work {
                    Work::Capsule(_) if completion.opcode() != Opcode::RECV => return Err(End::Immediate),
                    Work::Capsule(capsule) => {
                        self.came = context.now;
                        self.exchange.arrived(capsule, completion.bytes(), link, context)?;
                        self.stranger.take_if(|_| self.exchange.is_connected());
                    }
                    Work::Command(what, slot) => {
                        self.moved = context.now;
                        self.exchange.done(what, slot, link, context);
                    }
                    Work::Probe => self.probing = false,
                    Work::Marker => {}
                }
            }
            busy |= count > 0;
            if count < taken.len() {
                break;
            }
        }
        link.post(&mut context.receives)?;
        self.exchange.posted();
        self.armed &= !busy;
        if self.exchange.is_over() || self.exchange.has_left() {
            tracing::debug!("{}: the queue is over", self.name);
            self.start_draining(context);
        }
        Ok(busy)
    }

    /// Takes what the channels tell.
    fn listen(&mut self) -> Result<(), End> {
        self.ready = false;
        if self.channel.drain() > 0 {
            self.armed = false;
        }
        if self.link.as_ref().is_some_and(|link| link.device().is_removed()) {
            return Err(End::Removed);
        }
        while let Some(event) = self.events.next_event()? {
            match event.kind {
                EventKind::Disconnected | EventKind::TimewaitExit | EventKind::AddressChange => {
                    return Err(End::Disconnected);
                }
                EventKind::ConnectError | EventKind::Unreachable | EventKind::Rejected => {
                    return Err(End::NotEstablished(event.kind, event.status));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// What the host should have done by now and has not.
    fn overdue(&self, context: &Context) -> Option<&'static str> {
        let (now, deadlines) = (context.now, &context.shared.deadlines);
        if !self.exchange.is_connected() {
            return (now >= self.opened + deadlines.connect).then_some("the host does not connect");
        }
        if self.exchange.admin().and_then(|admin| admin.expires()).is_some_and(|end| now >= end) {
            return Some("the keep alive timer has expired");
        }
        let stalls = self.exchange.is_sending() && now >= self.moved + deadlines.stall;
        stalls.then_some("the host takes neither data nor answers")
    }

    /// Asks the host's device for a sign of life when nothing has come for long. What does not come fails the connection.
    fn probe(&mut self, context: &Context) {
        if !self.exchange.is_sending() {
            self.moved = context.now;
        }
        if let Some(link) = &mut self.link
            && self.draining.is_none()
            && !self.probing
            && context.now >= self.came + PROBE_AFTER
        {
            link.probe();
            (self.probing, self.came) = (true, context.now);
        }
    }

    fn lose(&mut self, end: &End, context: &mut Context) {
        match end {
            End::Disconnected | End::Failed(_, Status::WR_FLUSH_ERR) => tracing::debug!("{}: {end}", self.name),
            _ => tracing::warn!("{}: {end}", self.name),
        }
        if matches!(end, End::Removed) {
            // Nothing comes back from a device that is gone, and it waits for us.
            self.close(context);
        } else if self.draining.is_none() {
            self.start_draining(context);
        }
    }

    /// Ends the protocol, and has everything that is posted come back.
    fn start_draining(&mut self, context: &mut Context) {
        self.exchange.end(context);
        if let Some(link) = &mut self.link {
            self.draining = Some(Drain { markers: link.fail(), until: context.now + context.shared.deadlines.linger });
        }
    }
}

impl Drain {
    /// Takes what has come back; returns whether nothing is left.
    fn flush(&mut self, completions: &CompletionQueue, link: &mut Link) -> bool {
        let mut taken = [Completion::default(); AT_ONCE];
        while let Ok(count @ 1..) = completions.poll(&mut taken) {
            taken[..count].iter().for_each(|completion| link.came_back(completion.id()));
            let markers = taken[..count].iter().filter(|one| Work::of(one.id()) == Work::Marker).count();
            self.markers = self.markers.saturating_sub(markers as u8);
        }
        self.markers == 0
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

/// What a connection is made of, before there is a queue pair.
struct Parts {
    frames: Arc<Registration>,
    own: Arc<Registration>,
    share: Option<Share>,
    completions: Arc<CompletionQueue>,
    channel: Arc<Channel>,
    events: EventChannel,
    epoll: OwnedFd,
}

impl Parts {
    fn new(
        identifier: &mut Identifier,
        terms: &Terms,
        frames: &FrameMemory,
        context: &mut Context,
    ) -> Result<Self, Trouble> {
        let device = identifier.device()?;
        let shared = context.shared.shared_receives;
        let (events, channel) = (EventChannel::new()?, Channel::new(&device)?);
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(io::Error::from)?;
        for fd in [events.as_fd(), channel.as_fd(), device.removal()] {
            epoll::add(&epoll, fd, EventData::new_u64(0), EventFlags::IN).map_err(io::Error::from)?;
        }
        // A host that sends more than it may has them all.
        let receives = shared.map_or(terms.entries, |count| count.max(terms.entries));
        let entries = terms.sends + receives + 2 * EXTRA;
        let (frames, own) = (frames.on(&device)?, own_memory(&device, terms, shared.is_some())?);
        let completions = CompletionQueue::new(&device, entries, Some(&channel))?;
        identifier.migrate(&events)?;
        // Last, as it is to be handed back.
        let share = shared.map(|count| context.receives.join(&device, terms.entries, count)).transpose()?;
        Ok(Self { frames, own, share, completions, channel, events, epoll })
    }
}
