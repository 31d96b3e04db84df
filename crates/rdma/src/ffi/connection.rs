//! The connection manager: event channels and identifiers.

use std::{
    ffi::{c_int, c_void},
    fmt, io,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd},
    ptr::{self, NonNull},
    slice,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{
    completion::set_non_blocking,
    device::Device,
    library::Library,
    socket_address::{self, Storage},
    types::*,
};
use crate::{Error, Event, EventKind, Parameters, Token};

/// Where the events of connections come: a descriptor to wait for, and a queue.
#[derive(Clone)]
pub struct EventChannel(Arc<Inner>);

struct Inner {
    library: &'static Library,
    handle: NonNull<rdma_event_channel>,
    /// Taking an event touches the identifier that it is about, so all that is done with identifiers of a channel is done under this.
    lock: Mutex<()>,
}

// SAFETY: the handle is used under the lock, but for its descriptor, which does not change.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, ()> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: identifiers hold their channel, so none is left, and every event was acknowledged as it was taken.
        unsafe { (self.library.rdma_destroy_event_channel)(self.handle.as_ptr()) };
    }
}

impl EventChannel {
    /// A channel, with the libraries loaded if they are not yet.
    ///
    /// # Errors
    /// No library, or no RDMA device on this machine.
    pub fn new() -> Result<Self, Error> {
        let library = Library::load()?;
        // SAFETY: a call without preconditions.
        let handle = NonNull::new(unsafe { (library.rdma_create_event_channel)() });
        let handle = handle.ok_or_else(|| Error::last("rdma_create_event_channel"))?;
        let channel = Self(Arc::new(Inner { library, handle, lock: Mutex::default() }));
        set_non_blocking(channel.as_fd())?;
        Ok(channel)
    }

    /// A new identifier, of the port space of connected services.
    ///
    /// # Errors
    /// `rdma_create_id` refused: no descriptors or no memory are left.
    pub fn identifier(&self) -> Result<Identifier, Error> {
        let token = fresh_token();
        let mut id = ptr::null_mut();
        let context = ptr::without_provenance_mut(token.0 as usize);
        // SAFETY: the channel is open, and held by the identifier.
        let code =
            unsafe { (self.0.library.rdma_create_id)(self.0.handle.as_ptr(), &raw mut id, context, RDMA_PS_TCP) };
        match NonNull::new(id) {
            Some(id) if code == 0 => Ok(Identifier { id, token, channel: self.0.clone() }),
            _ => Err(Error::last("rdma_create_id")),
        }
    }

    /// Takes an event, if there is one, and acknowledges it.
    ///
    /// # Errors
    /// `rdma_get_cm_event` failed other than for want of an event.
    pub fn next_event(&self) -> Result<Option<Event>, Error> {
        let inner = &*self.0;
        let _guard = inner.lock();
        let mut taken = ptr::null_mut();
        // SAFETY: the channel is open and non-blocking.
        if unsafe { (inner.library.rdma_get_cm_event)(inner.handle.as_ptr(), &raw mut taken) } != 0 {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
                _ => Err(Error::last("rdma_get_cm_event")),
            };
        }
        // SAFETY: the event stays as it is until it is acknowledged, below, and so does what it points at; identifiers are not
        // destroyed meanwhile, as that takes the lock.
        let event = unsafe {
            let raw = &*taken;
            let is_request = raw.event == RDMA_CM_EVENT_CONNECT_REQUEST;
            let about = if is_request { raw.listen_id } else { raw.id };
            let bytes = match raw.conn.private_data.cast::<u8>() {
                data if data.is_null() => Box::default(),
                data => slice::from_raw_parts(data, usize::from(raw.conn.private_data_len)).into(),
            };
            Event {
                token: Token((*about).context.addr() as u64),
                kind: EventKind::from_code(raw.event),
                status: raw.status,
                private_data: bytes,
                initiator_depth: raw.conn.initiator_depth,
                responder_resources: raw.conn.responder_resources,
                request: NonNull::new(raw.id).filter(|_| is_request).map(|id| self.adopt(id)),
            }
        };
        // SAFETY: the event was taken above and is not used again.
        unsafe { (inner.library.rdma_ack_cm_event)(taken) };
        Ok(Some(event))
    }

    /// The identifier that came with a request to connect.
    fn adopt(&self, id: NonNull<rdma_cm_id>) -> Identifier {
        let token = fresh_token();
        // SAFETY: the identifier is new and nobody else's yet.
        unsafe { (*id.as_ptr()).context = ptr::without_provenance_mut(token.0 as usize) };
        Identifier { id, token, channel: self.0.clone() }
    }
}

/// One that no identifier of this process had.
fn fresh_token() -> Token {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    Token(NEXT.fetch_add(1, Ordering::Relaxed))
}

impl AsFd for EventChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the channel has its descriptor open for as long as it lives.
        unsafe { BorrowedFd::borrow_raw((*self.0.handle.as_ptr()).fd) }
    }
}

impl fmt::Debug for EventChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("EventChannel").field(&self.as_fd()).finish()
    }
}

/// A connection, or what listens for some: `rdma_cm_id`. What is begun here ends with an event. Dropping it ends the connection.
pub struct Identifier {
    id: NonNull<rdma_cm_id>,
    token: Token,
    channel: Arc<Inner>,
}

// SAFETY: the identifier is used under the channel's lock.
unsafe impl Send for Identifier {}
// SAFETY: as above.
unsafe impl Sync for Identifier {}

impl Identifier {
    /// By which events name it.
    pub fn token(&self) -> Token {
        self.token
    }

    /// Does something with the identifier while nobody else does.
    pub(super) fn with<T>(&self, act: impl FnOnce(&'static Library, *mut rdma_cm_id) -> T) -> T {
        let _guard = self.channel.lock();
        act(self.channel.library, self.id.as_ptr())
    }

    /// As [`Self::with`], for a call that answers -1 and `errno`; `bound` for one that must not come before there is a device.
    fn call(
        &self,
        name: &'static str,
        bound: bool,
        act: impl FnOnce(&Library, *mut rdma_cm_id) -> c_int,
    ) -> Result<(), Error> {
        self.with(|library, id| {
            // SAFETY: the identifier is valid and locked.
            if bound && unsafe { (*id).verbs.is_null() } {
                return Err(Error::NoDevice);
            }
            if act(library, id) == 0 { Ok(()) } else { Err(Error::last(name)) }
        })
    }

    /// The type of service of what this sends (RFC 2474: the upper six bits), before a route is resolved.
    ///
    /// # Errors
    /// This and the functions below: what the connection manager's function of that name answers.
    pub fn set_type_of_service(&self, value: u8) -> Result<(), Error> {
        self.set_option(RDMA_OPTION_ID_TOS, value)
    }

    /// How long the device waits for an acknowledgement, as 4.096 µs times two to this power, before it connects or accepts.
    pub fn set_ack_timeout(&self, exponent: u8) -> Result<(), Error> {
        self.set_option(RDMA_OPTION_ID_ACK_TIMEOUT, exponent)
    }

    fn set_option<T>(&self, option: c_int, mut value: T) -> Result<(), Error> {
        let value = (&raw mut value).cast::<c_void>();
        self.call("rdma_set_option", false, |library, id| {
            // SAFETY: the identifier is valid and locked; the value is as long as is said.
            unsafe { (library.rdma_set_option)(id, RDMA_OPTION_ID, option, value, size_of::<T>()) }
        })
    }

    /// Resolves a destination, from a source address if one is given: ends with [`EventKind::AddressResolved`] or
    /// [`EventKind::AddressError`], within `limit` give or take.
    pub fn resolve_address(&self, source: Option<SocketAddr>, to: SocketAddr, limit: Duration) -> Result<(), Error> {
        if source.is_some() {
            self.set_option::<c_int>(RDMA_OPTION_ID_REUSEADDR, 1)?;
        }
        let (mut source, mut to) = (source.map(Storage::new), Storage::new(to));
        self.call("rdma_resolve_addr", false, |library, id| {
            let source = source.as_mut().map_or(ptr::null_mut(), Storage::as_mut_ptr);
            // SAFETY: the identifier is valid and locked, the addresses live through the call.
            unsafe { (library.rdma_resolve_addr)(id, source, to.as_mut_ptr(), milliseconds(limit)) }
        })
    }

    /// Resolves the route: ends with [`EventKind::RouteResolved`] or [`EventKind::RouteError`].
    pub fn resolve_route(&self, limit: Duration) -> Result<(), Error> {
        self.call("rdma_resolve_route", true, |library, id| {
            // SAFETY: the identifier is valid and locked.
            unsafe { (library.rdma_resolve_route)(id, milliseconds(limit)) }
        })
    }

    /// Listens at an address; an IPv6 one takes IPv6 only.
    pub fn listen(&self, at: SocketAddr, backlog: u16) -> Result<(), Error> {
        if at.is_ipv6() {
            self.set_option::<c_int>(RDMA_OPTION_ID_AFONLY, 1)?;
        }
        let mut at = Storage::new(at);
        self.call("rdma_bind_addr", false, |library, id| {
            // SAFETY: the identifier is valid and locked, the address lives through the call.
            unsafe { (library.rdma_bind_addr)(id, at.as_mut_ptr()) }
        })?;
        self.call("rdma_listen", false, |library, id| {
            // SAFETY: the identifier is valid and locked.
            unsafe { (library.rdma_listen)(id, c_int::from(backlog)) }
        })
    }

    /// Asks the peer to connect, once there is a route: ends with [`EventKind::Established`], [`EventKind::Rejected`],
    /// [`EventKind::Unreachable`] or [`EventKind::ConnectError`]. How long that takes is the connection manager's to say; who waits
    /// for less drops the identifier.
    pub fn connect(&self, parameters: &Parameters<'_>) -> Result<(), Error> {
        let mut parameters = raw(parameters)?;
        self.call("rdma_connect", true, |library, id| {
            // SAFETY: the identifier is valid, locked and has a device; the private data lives through the call.
            unsafe { (library.rdma_connect)(id, &raw mut parameters) }
        })
    }

    /// Accepts a request to connect.
    pub fn accept(&self, parameters: &Parameters<'_>) -> Result<(), Error> {
        let mut parameters = raw(parameters)?;
        self.call("rdma_accept", true, |library, id| {
            // SAFETY: as above.
            unsafe { (library.rdma_accept)(id, &raw mut parameters) }
        })
    }

    /// Refuses a request to connect, with at most 148 bytes of private data.
    pub fn reject(&self, private_data: &[u8]) -> Result<(), Error> {
        let len = length(private_data, "rdma_reject")?;
        self.call("rdma_reject", true, |library, id| {
            // SAFETY: as above.
            unsafe { (library.rdma_reject)(id, private_data.as_ptr().cast(), len) }
        })
    }

    /// Ends the connection, in both directions; what is posted comes back flushed. An error is no news: the connection was over.
    pub fn disconnect(&self) -> Result<(), Error> {
        self.call("rdma_disconnect", true, |library, id| {
            // SAFETY: the identifier is valid, locked and has a device.
            unsafe { (library.rdma_disconnect)(id) }
        })
    }

    /// The device, once there is one: [`EventKind::AddressResolved`] has come, or this came with a request to connect.
    pub fn device(&self) -> Result<Arc<Device>, Error> {
        self.with(|library, _| {
            // SAFETY: the identifier is valid and locked.
            unsafe { Device::of(library, self.id) }
        })
    }

    /// This end's address.
    pub fn local_address(&self) -> Option<SocketAddr> {
        // SAFETY: the identifier is valid and locked.
        self.with(|_, id| socket_address::read(unsafe { &(*id).route.addr.src_storage }))
    }

    /// The peer's address.
    pub fn peer_address(&self) -> Option<SocketAddr> {
        // SAFETY: the identifier is valid and locked.
        self.with(|_, id| socket_address::read(unsafe { &(*id).route.addr.dst_storage }))
    }

    /// Has its events come by another channel from now on.
    pub fn migrate(&mut self, channel: &EventChannel) -> Result<(), Error> {
        if Arc::ptr_eq(&self.channel, &channel.0) {
            return Ok(());
        }
        let (old, new) = (self.channel.clone(), &channel.0);
        // Whoever takes two locks takes them in this order.
        let (first, second) = if Arc::as_ptr(&old) < Arc::as_ptr(new) { (&old, new) } else { (new, &old) };
        let _guards = (first.lock(), second.lock());
        // SAFETY: the identifier is valid and both channels are locked; no event of it waits to be acknowledged.
        if unsafe { (old.library.rdma_migrate_id)(self.id.as_ptr(), new.handle.as_ptr()) } != 0 {
            return Err(Error::last("rdma_migrate_id"));
        }
        self.channel = new.clone();
        Ok(())
    }
}

impl fmt::Debug for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identifier").field(&self.token.0).finish()
    }
}

impl Drop for Identifier {
    fn drop(&mut self) {
        // SAFETY: the identifier is valid, locked and not used again. Its queue pair, which owns it, is destroyed by now, and every
        // event of it that was taken is acknowledged; the library forgets the others.
        self.with(|library, id| unsafe { (library.rdma_destroy_id)(id) });
    }
}

fn milliseconds(limit: Duration) -> c_int {
    c_int::try_from(limit.as_millis()).unwrap_or(c_int::MAX)
}

fn length(private_data: &[u8], call: &'static str) -> Result<u8, Error> {
    u8::try_from(private_data.len()).map_err(|_| Error::code(call, libc::EINVAL))
}

fn raw(parameters: &Parameters<'_>) -> Result<rdma_conn_param, Error> {
    Ok(rdma_conn_param {
        private_data: parameters.private_data.as_ptr().cast(),
        private_data_len: length(parameters.private_data, "rdma_connect")?,
        responder_resources: parameters.responder_resources,
        initiator_depth: parameters.initiator_depth,
        flow_control: 1,
        retry_count: parameters.retry_count.min(7),
        rnr_retry_count: parameters.rnr_retry_count.min(7),
        srq: 0,
        qp_num: 0,
    })
}
