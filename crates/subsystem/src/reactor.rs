//! The loop that serves connections: one a core, each connection on one reactor for its life.
//!
//! A pass serves every *hot* connection: it receives once, carries out what came, and sends everything that is ready in one call. A
//! connection that has had nothing to do for [`COLD`] passes turns cold and is left to epoll, which is looked at every
//! [`POLL_EVERY`] passes (and the clock with it) and when nothing is hot. When there has been nothing to do for [`SPIN`], the reactor sleeps in epoll until
//! something comes, or a deadline has to be looked at; one that polls never sleeps.
//!
//! Not everything that comes is seen by epoll: a host over vfio-user writes to memory, and frames that a connection waits for come
//! back on another reactor. Who waits for such a thing stays hot, and the reactor naps instead of sleeping: for a quarter of the time
//! that nothing has happened, and at most [`NAP`]. So a command that comes after a pause waits at most a quarter of that pause,
//! and a host that does nothing costs a look each millisecond.

use std::{
    io,
    mem::MaybeUninit,
    sync::{Arc, atomic::Ordering, mpsc},
    time::{Duration, Instant},
};

use rustix::{
    event::{
        self, PollFd, PollFlags, Timespec,
        epoll::{self, CreateFlags, Event, EventData, EventFlags},
    },
    fd::OwnedFd,
};

use crate::{
    frames::{FrameStore, LocalFrames},
    listener::{Arrival, Connection, Context, Listener, Newcomer, Served, Staging},
    namespace::{Pool, RESERVE},
    subsystem::Shared,
};

/// Passes without anything to do after which a connection turns cold.
const COLD: u8 = 64;
/// Passes between two looks at epoll while something is hot; and while that is nothing but memory, where a pass that finds nothing is
/// a few loads, and one that finds something counts as [`BUSY_PASS`] of them.
const POLL_EVERY: u32 = 16;
const POLL_EVERY_OF_MEMORY: u32 = 4096;
const BUSY_PASS: u32 = 32;
/// How long a reactor without anything to do spins before it sleeps: longer than a host on the same machine takes to answer.
const SPIN: Duration = Duration::from_micros(100);
/// How often deadlines are looked at.
const CHECK_EVERY: Duration = Duration::from_millis(250);
/// How long to sleep at most while there may be something to do that epoll does not tell of.
const NAP: Duration = Duration::from_millis(1);

/// How long before something is due a reactor does not sleep. Waking up takes the longer, the longer the processor expects to be idle: so
/// three quarters of the time left are slept at a time.
const AWAKE: Duration = Duration::from_micros(250);

/// Events taken from epoll at a time.
const EVENTS: usize = 64;
/// Connections accepted before those there are have their turn.
const ACCEPT_AT_ONCE: usize = 64;

const BELL: u64 = u64::MAX;
/// Listeners have the numbers from here on, connections those below.
const LISTENERS: u64 = 1 << 32;

/// A reactor.
#[derive(Debug)]
pub(crate) struct Reactor {
    pub(crate) context: Context,
    staging: Staging,
    epoll: OwnedFd,
    listeners: Vec<Listener>,
    inbox: mpsc::Receiver<Newcomer>,
    /// The inboxes of all reactors, for the one that accepts for all.
    inboxes: Vec<mpsc::Sender<Newcomer>>,
    connections: Vec<Option<Seat>>,
    free: Vec<u32>,
    hot: Vec<u32>,
    /// Passes until the next look at epoll.
    poll_in: u32,
    next_check: Instant,
    changes: u64,
    /// A listener is not watched until the next check, or has lost its place and is brought back then.
    looks_away: bool,
}

#[derive(Debug)]
struct Seat {
    connection: Connection,
    is_hot: bool,
    idle: u8,
    interest: EventFlags,
}

impl Reactor {
    /// The reactor of a desk, with the inbox that others put connections into.
    pub(crate) fn new(
        shared: Arc<Shared>,
        desk: usize,
        store: Arc<FrameStore>,
        inbox: mpsc::Receiver<Newcomer>,
    ) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, shared.desks[desk].bell(), EventData::new_u64(BELL), EventFlags::IN)?;
        let pool = Pool::new(LocalFrames::new(store.clone()));
        Ok(Self {
            context: Context::new(shared, pool, desk),
            staging: Staging::new(store),
            epoll,
            listeners: Vec::new(),
            inbox,
            inboxes: Vec::new(),
            connections: Vec::new(),
            free: Vec::new(),
            hot: Vec::new(),
            poll_in: 0,
            next_check: Instant::now(),
            changes: 0,
            looks_away: false,
        })
    }

    /// Accepts from these listeners, and hands to all reactors what any can serve.
    pub(crate) fn listen(&mut self, listeners: Vec<Listener>, inboxes: Vec<mpsc::Sender<Newcomer>>) -> io::Result<()> {
        for (listener, number) in listeners.iter().zip(LISTENERS..) {
            epoll::add(&self.epoll, listener, EventData::new_u64(number), EventFlags::IN)?;
        }
        (self.listeners, self.inboxes) = (listeners, inboxes);
        Ok(())
    }

    /// Serves until the target stops.
    pub(crate) fn run(mut self, poll: bool) {
        let mut last = Instant::now();
        while !self.context.shared.stop.load(Ordering::Acquire) {
            if self.pass() {
                last = self.context.now;
            } else if !poll && self.context.now - last >= SPIN {
                self.sleep(self.context.now - last);
            }
        }
        self.close();
    }

    /// Serves everything that is ready once; returns whether there was something to do.
    pub(crate) fn pass(&mut self) -> bool {
        let mut busy = false;
        let changes = self.context.shared.changes.load(Ordering::Acquire);
        if changes != self.changes {
            self.changes = changes;
            let over = |seat: &Option<Seat>| seat.as_ref().is_some_and(|seat| seat.connection.is_over());
            (0..self.connections.len()).for_each(|index| {
                if over(&self.connections[index]) {
                    self.warm(index as u32);
                }
            });
        }
        if self.hot.is_empty() || self.poll_in == 0 {
            busy |= self.poll();
            let has_socket =
                |&index: &u32| matches!(&self.connections[index as usize], Some(seat) if seat.connection.is_socket());
            self.poll_in = if self.hot.iter().any(has_socket) { POLL_EVERY } else { POLL_EVERY_OF_MEMORY };
        }
        self.poll_in -= 1;
        let mut at = 0;
        while at < self.hot.len() {
            let index = self.hot[at];
            let Some(seat) = &mut self.connections[index as usize] else {
                self.hot.swap_remove(at);
                continue;
            };
            match seat.connection.serve(&mut self.staging, &mut self.context) {
                Served::Busy => {
                    seat.idle = 0;
                    busy = true;
                    at += 1;
                }
                Served::Idle => {
                    seat.idle = seat.idle.saturating_add(1);
                    if seat.idle < COLD || !self.cool(at) {
                        at += 1;
                    }
                }
                Served::Gone => {
                    self.hot.swap_remove(at);
                    self.remove(index);
                    busy = true;
                }
            }
        }
        if self.context.now >= self.next_check {
            self.check();
        }
        if busy && self.poll_in > POLL_EVERY {
            self.poll_in = self.poll_in.saturating_sub(BUSY_PASS - 1);
        }
        busy
    }

    /// Closes all connections.
    pub(crate) fn close(&mut self) {
        for index in 0..self.connections.len() as u32 {
            if let Some(seat) = &mut self.connections[index as usize] {
                seat.connection.close(&mut self.context);
                self.remove(index);
            }
        }
        self.hot.clear();
    }

    /// Waits until there is something to do or a deadline to look at, when there has been nothing for so long.
    fn sleep(&mut self, idle: Duration) {
        let mut at = 0;
        while at < self.hot.len() {
            if !self.cool(at) {
                at += 1;
            }
        }
        let has_connections = self.free.len() < self.connections.len();
        let wait = match (self.hot.is_empty(), has_connections || self.looks_away) {
            (false, _) => Some((idle / 4).min(NAP)),
            (true, true) => Some(self.next_check.saturating_duration_since(Instant::now()) + NAP),
            (true, false) => None,
        };
        let wait = if self.context.shared.fault.is_some() {
            match self.until_due() {
                Some(left) if left <= AWAKE => return,
                left => wait.into_iter().chain(left.map(|left| left * 3 / 4)).min(),
            }
        } else {
            wait
        };
        // Frames kept here may be what another reactor waits for.
        self.context.pool.frames.spill(RESERVE);
        let wait = wait.map(|wait| Timespec { tv_sec: wait.as_secs() as _, tv_nsec: wait.subsec_nanos().into() });
        // Unlike epoll, which counts in milliseconds, it takes naps as short as they are meant.
        let _ = event::poll(&mut [PollFd::new(&self.epoll, PollFlags::IN)], wait.as_ref());
        self.poll();
    }

    /// How long until a fault script has something to do.
    fn until_due(&self) -> Option<Duration> {
        let seats = self.hot.iter().filter_map(|&index| self.connections[index as usize].as_ref());
        let due = seats.filter_map(|seat| seat.connection.due()).min()?;
        Some(due.saturating_duration_since(Instant::now()))
    }

    /// Asks epoll what is ready; returns whether anything was.
    fn poll(&mut self) -> bool {
        let mut space = [const { MaybeUninit::<Event>::uninit() }; EVENTS];
        let waited = epoll::wait(&self.epoll, &mut space[..], Some(&Timespec::default()));
        // There may have been a long sleep, and new connections count their deadlines from now on.
        self.context.now = Instant::now();
        // Interrupted is nothing ready.
        let Ok((events, _)) = waited else { return false };
        for event in &*events {
            match event.data.u64() {
                BELL => {
                    self.context.shared.desks[self.context.desk].hear();
                    while let Ok(newcomer) = self.inbox.try_recv() {
                        self.seat_newcomer(newcomer);
                    }
                }
                number if number >= LISTENERS => self.accept((number - LISTENERS) as usize),
                index => {
                    if let Some(Some(seat)) = self.connections.get_mut(index as usize) {
                        seat.connection.notify();
                    }
                    self.warm(index as u32);
                }
            }
        }
        !events.is_empty()
    }

    /// Accepts some of what waits at a listener.
    fn accept(&mut self, at: usize) {
        for _ in 0..ACCEPT_AT_ONCE {
            match self.listeners[at].accept(&self.context) {
                Ok(Arrival::Any(newcomer)) => self.hand_on(newcomer),
                Ok(Arrival::VfioUser(connection)) => {
                    self.context.shared.desks[self.context.desk].connections.fetch_add(1, Ordering::Relaxed);
                    self.seat(Connection::VfioUser(connection));
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => {
                        self.looks_away |= !self.listeners[at].restore();
                        return;
                    }
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {}
                    _ => {
                        // Out of descriptors or memory: look away until the next check.
                        tracing::error!("a connection cannot be accepted: {error}");
                        self.watch(at, EventFlags::empty());
                        self.looks_away = true;
                        return;
                    }
                },
            }
        }
    }

    /// Hands a host to the reactor with the least to do.
    fn hand_on(&mut self, newcomer: Newcomer) {
        let desks = &self.context.shared.desks;
        let load = |desk: usize| {
            let desk = &desks[desk];
            (desk.queues.load(Ordering::Relaxed), desk.connections.load(Ordering::Relaxed))
        };
        let desk = (0..desks.len()).min_by_key(|&desk| load(desk)).unwrap_or(0);
        desks[desk].connections.fetch_add(1, Ordering::Relaxed);
        if desk == self.context.desk {
            self.seat_newcomer(newcomer);
        } else if self.inboxes[desk].send(newcomer).is_ok() {
            desks[desk].ring();
        }
    }

    fn watch(&self, listener: usize, interest: EventFlags) {
        let number = EventData::new_u64(LISTENERS + listener as u64);
        if let Err(error) = epoll::modify(&self.epoll, &self.listeners[listener], number, interest) {
            tracing::error!("a listener cannot be watched: {error}");
        }
    }

    fn seat_newcomer(&mut self, newcomer: Newcomer) {
        match newcomer.seat(&mut self.context) {
            Ok(connection) => self.seat(connection),
            Err(error) => self.unseated(&error),
        }
    }

    /// Takes a connection in.
    fn seat(&mut self, mut connection: Connection) {
        let index = self.free.pop().unwrap_or_else(|| {
            self.connections.push(None);
            (self.connections.len() - 1) as u32
        });
        let interest = EventFlags::IN;
        match epoll::add(&self.epoll, &connection, EventData::new_u64(index.into()), interest) {
            Ok(()) => {
                self.connections[index as usize] = Some(Seat { connection, is_hot: true, idle: 0, interest });
                self.hot.push(index);
            }
            Err(error) => {
                self.free.push(index);
                connection.close(&mut self.context);
                self.unseated(&error.into());
            }
        }
    }

    fn unseated(&self, error: &io::Error) {
        tracing::warn!("a connection is lost before it begins: {error}");
        self.context.shared.desks[self.context.desk].connections.fetch_sub(1, Ordering::Relaxed);
    }

    fn remove(&mut self, index: u32) {
        if let Some(seat) = self.connections[index as usize].take() {
            let _ = epoll::delete(&self.epoll, &seat.connection);
            self.free.push(index);
            self.context.shared.desks[self.context.desk].connections.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn warm(&mut self, index: u32) {
        if let Some(Some(seat)) = self.connections.get_mut(index as usize) {
            seat.idle = 0;
            if !std::mem::replace(&mut seat.is_hot, true) {
                self.hot.push(index);
            }
        }
    }

    /// Leaves the hot connection at `at` to epoll, unless it may go on without anything happening on its socket.
    fn cool(&mut self, at: usize) -> bool {
        let index = self.hot[at];
        if let Some(seat) = &mut self.connections[index as usize] {
            if !seat.connection.rest() {
                return false;
            }
            let interest = seat.connection.interest();
            if interest != seat.interest {
                let number = EventData::new_u64(index.into());
                if epoll::modify(&self.epoll, &seat.connection, number, interest).is_err() {
                    return false;
                }
                seat.interest = interest;
            }
            seat.is_hot = false;
        }
        self.hot.swap_remove(at);
        true
    }

    /// Looks at the deadlines of all connections.
    fn check(&mut self) {
        for index in 0..self.connections.len() as u32 {
            let Some(seat) = &mut self.connections[index as usize] else { continue };
            match seat.connection.check(&mut self.staging, &mut self.context) {
                Served::Gone => {
                    self.hot.retain(|&hot| hot != index);
                    self.remove(index);
                }
                Served::Busy => self.warm(index),
                Served::Idle => {}
            }
        }
        if std::mem::take(&mut self.looks_away) {
            (0..self.listeners.len()).for_each(|at| self.watch(at, EventFlags::IN));
        }
        for listener in &mut self.listeners {
            self.looks_away |= !listener.restore();
        }
        self.next_check = self.context.now + CHECK_EVERY;
    }
}
