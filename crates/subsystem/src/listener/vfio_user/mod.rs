//! NVMe over vfio-user: a PCI function that a host reaches over a UNIX socket and through memory that it shares. An [`Endpoint`] is
//! where hosts come, one at a time; a [`Connection`] is the host that is there, with a function that is its own and ends with it.
//!
//! What the host says over the socket is rare: registers, the memory it has, interrupts. The rest it writes to memory, which nobody
//! tells us of, so a connection whose controller runs is looked at again and again. `rings` are the queues in that memory,
//! `transfer` finds the data of commands in it, `job` carries them out. What a host maps and does not share is reached by messages: `far`.

mod config_space;
mod far;
mod function;
mod interrupts;
mod job;
mod memory;
mod queues;
mod registers;
mod rings;
mod transfer;

use std::{io, os::unix::net::UnixStream, path::Path, sync::Arc, time::Instant};

use doorbell_platform::Range;
use doorbell_spec::register::DOORBELLS;
use doorbell_vfio_user::{
    Action, Connection as Link, Description, Errno, Event, IrqData, IrqSet, Listener, Lost as LinkLost,
    RegionDescription,
    wire::{irq, region},
};
use rustix::{
    event::epoll::EventFlags,
    fd::{AsFd, BorrowedFd},
};

use super::{Context, Served};
use crate::subsystem::Subsystem;
use function::Function;
use job::Lost;
use memory::Memory;

/// Events of the socket that are dealt with in a pass.
const EVENTS: usize = 64;

/// A directory with a socket where hosts come.
#[derive(Debug)]
pub(crate) struct Endpoint {
    listener: Listener,
    name: Arc<str>,
    subsystem: Arc<Subsystem>,
    /// The host that is there has a share of it.
    seat: Arc<()>,
}

impl Endpoint {
    /// Offers a subsystem to the hosts that come to the socket in a directory.
    pub(crate) fn new(listener: Listener, directory: &Path, subsystem: &Arc<Subsystem>) -> Self {
        let name = format!("vfio-user:{}", directory.display()).into();
        Self { listener, name, subsystem: subsystem.clone(), seat: Arc::new(()) }
    }

    /// Takes the next host that waits.
    ///
    /// # Errors
    /// What the system answered: `WouldBlock` when there is none, `ConnectionAborted` for one that came while another is there and is
    /// turned away. That is one of those the reactor accepts at a time, as there may always be a next.
    pub(crate) fn accept(&self, context: &Context) -> io::Result<Connection> {
        let stream = self.listener.accept()?.ok_or(io::ErrorKind::WouldBlock)?;
        if Arc::strong_count(&self.seat) > 1 {
            tracing::warn!("{}: a host is turned away, as another has the function", self.name);
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Connection::new(stream, self, context)
    }
}

impl AsFd for Endpoint {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

/// A host and its function.
#[derive(Debug)]
pub(crate) struct Connection {
    link: Link,
    function: Function,
    /// There may be something in the socket.
    ready: bool,
    opened: Instant,
    /// Since when the host has not taken what was sent.
    stuck: Option<Instant>,
    _seat: Arc<()>,
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.link.as_fd()
    }
}

/// Why a host is served no more.
#[derive(Debug)]
enum End {
    Link(LinkLost),
    Memory,
}

impl From<LinkLost> for End {
    fn from(lost: LinkLost) -> Self {
        Self::Link(lost)
    }
}

impl From<Lost> for End {
    fn from(Lost: Lost) -> Self {
        Self::Memory
    }
}

impl Connection {
    fn new(stream: UnixStream, endpoint: &Endpoint, context: &Context) -> io::Result<Self> {
        let function = Function::new(&endpoint.name, &endpoint.subsystem, context)?;
        let link = match Link::new(stream, Arc::new(describe(&function))) {
            Ok(link) => link,
            Err(error) => {
                function.admin.end();
                return Err(error);
            }
        };
        let seat = endpoint.seat.clone();
        Ok(Self { link, function, ready: true, opened: context.now, stuck: None, _seat: seat })
    }

    /// Something has come over the socket, or there is room in it.
    pub(crate) fn notify(&mut self) {
        self.ready = true;
    }

    /// Looks at the rings, and at the socket where there may be something.
    #[inline]
    pub(crate) fn serve(&mut self, context: &mut Context) -> Served {
        match self.work(context) {
            Ok(true) => Served::Busy,
            Ok(false) => Served::Idle,
            Err(end) => self.lose(&end, context),
        }
    }

    /// Whether there may be something to do though nothing happens on the socket.
    pub(crate) fn wants_pass(&self) -> bool {
        self.ready || self.function.is_running()
    }

    /// When a fault script has something to do next.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.function.due()
    }

    /// What to wait for on the socket.
    pub(crate) fn interest(&self) -> EventFlags {
        if self.link.wants_to_write() { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN }
    }

    /// Looks at the deadlines, and adds what was counted to the totals.
    pub(crate) fn check(&mut self, context: &mut Context) -> Served {
        self.function.check(context);
        let (now, deadlines) = (context.now, context.shared.deadlines);
        if !self.link.wants_to_write() {
            self.stuck = None;
        } else if now >= *self.stuck.get_or_insert(now) + deadlines.stall {
            tracing::warn!("{}: the host does not take what is sent", self.function.name());
            return self.gone(context);
        }
        if self.function.far.is_overdue(now, deadlines.stall) {
            tracing::warn!(
                "{}: the host left a request for its memory without an answer for {:?}",
                self.function.name(),
                deadlines.stall
            );
            return self.gone(context);
        }
        if !self.link.is_negotiated() && now >= self.opened + deadlines.connect {
            tracing::warn!("{}: the host does not begin", self.function.name());
            return self.gone(context);
        }
        Served::Idle
    }

    /// Releases everything.
    pub(crate) fn close(&mut self, context: &mut Context) {
        self.function.close(context);
    }

    #[inline]
    fn work(&mut self, context: &mut Context) -> Result<bool, End> {
        let mut busy = false;
        if self.ready || self.link.wants_to_write() {
            busy = self.listen(context)?;
        }
        busy |= self.function.pass(Memory(self.link.map()), context)?;
        if self.function.far.is_awake() {
            busy |= self.function.pass_far(&mut self.link, context)?;
            // Its answers come over the socket, and so may its doorbells.
            self.ready |= self.function.far.is_awake();
        }
        Ok(busy)
    }

    /// Deals with what has come over the socket; returns whether there was anything for the function.
    fn listen(&mut self, context: &mut Context) -> Result<bool, End> {
        self.ready = false;
        for done in 0..EVENTS {
            let Some(event) = self.link.receive()? else {
                return Ok(done > 0);
            };
            self.deal_with(event, context);
        }
        self.ready = true;
        self.link.flush()?;
        Ok(true)
    }

    fn deal_with(&mut self, event: Event, context: &mut Context) {
        let Self { link, function, .. } = self;
        match event {
            Event::Read { ticket, region, offset, count } => {
                let mut data = vec![0; count as usize];
                match region {
                    region::BAR0 => function.read_registers(offset, &mut data),
                    region::CONFIG => function.config_space.read(offset, &mut data),
                    _ => function.table.read(offset, &mut data),
                }
                link.answer(ticket, &data);
            }
            Event::Write { ticket, region, offset, data } => {
                match region {
                    region::BAR0 => function.write_registers(offset, &data, Memory(link.map()), context),
                    region::CONFIG => function.config_space.write(offset, &data),
                    _ => function.table.write(offset, &data),
                }
                link.done(ticket);
            }
            Event::SetIrqs { ticket, irqs } => match set_irqs(function, irqs) {
                Ok(()) => link.done(ticket),
                Err(error) => {
                    tracing::warn!("{}: an interrupt cannot be as the host wants it: {error}", function.name());
                    link.refuse(ticket, Errno::INVAL);
                }
            },
            Event::Unmapped { ticket, range } => {
                let (address, len) = range.unwrap_or((0, u64::MAX));
                function.unmapped(address, len, context);
                link.done(ticket);
            }
            Event::Reset { ticket } => {
                function.reset(Memory(link.map()), context);
                link.done(ticket);
            }
            Event::Moved { id, result } => function.far.moved(id, result),
            Event::Refused(what) => tracing::info!("{}: {what}", function.name()),
        }
    }

    fn lose(&mut self, end: &End, context: &mut Context) -> Served {
        let name = self.function.name();
        match end {
            End::Memory if self.function.has_hung_up() => {
                tracing::info!("{name}: the fault script ends the connection");
            }
            End::Link(lost) => tracing::info!("{name}: the host is gone: {lost}"),
            End::Memory => tracing::error!(
                "{name}: the host has taken away memory that it had mapped for us; it is served no more"
            ),
        }
        self.gone(context)
    }

    fn gone(&mut self, context: &mut Context) -> Served {
        self.function.close(context);
        Served::Gone
    }
}

/// The function as the protocol describes it.
fn describe(function: &Function) -> Description {
    let bar = function.bar();
    let mut regions = vec![RegionDescription::default(); region::COUNT as usize];
    let doorbells = Range { offset: DOORBELLS.into(), len: (bar.len() - DOORBELLS as usize) as u32 };
    let plain = |size| RegionDescription { size, readable: true, writable: true, ..RegionDescription::default() };
    regions[region::BAR0 as usize] =
        RegionDescription { memory: Some(bar.clone()), areas: vec![doorbells], ..plain(bar.len() as u64) };
    regions[usize::from(config_space::TABLE_BAR)] = plain(function.table.len());
    regions[region::CONFIG as usize] = plain(config_space::SIZE as u64);
    let mut irqs = vec![0; irq::COUNT as usize];
    irqs[irq::MSIX as usize] = function.interrupts.count().into();
    Description { regions, irqs }
}

fn set_irqs(function: &mut Function, set: IrqSet) -> io::Result<()> {
    let interrupts = &mut function.interrupts;
    let all = set.start as usize..(set.start + set.count) as usize;
    if set.index != irq::MSIX {
        // There is none of the other kinds, so that nothing can be wanted of them but to be off.
        return Ok(());
    }
    match (set.action, set.data) {
        (Action::Trigger, IrqData::None) if set.count == 0 => interrupts.clear(),
        (Action::Trigger, IrqData::None) => all.for_each(|vector| interrupts.raise(vector as u16)),
        (Action::Trigger, IrqData::Bool(which)) => {
            all.zip(which).filter(|&(_, meant)| meant).for_each(|(vector, _)| interrupts.raise(vector as u16));
        }
        (Action::Trigger, IrqData::Eventfds(eventfds)) => {
            for (vector, eventfd) in all.zip(eventfds) {
                interrupts.set(vector, eventfd)?;
            }
        }
        _ => return Err(io::Error::other("vectors are masked by INTMS or not at all")),
    }
    Ok(())
}
