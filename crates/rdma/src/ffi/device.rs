//! A verbs context, held open, and its protection domain.

use std::{
    ffi::CStr,
    fmt,
    fs::File,
    io, mem,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::PathBuf,
    ptr,
    ptr::NonNull,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    thread,
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    io::{Errno, write},
};

use super::{
    library::Library,
    socket_address::{self, Storage},
    types::*,
};
use crate::Error;

/// What a device can do. Counts are what it says, at most.
#[derive(Clone, Debug)]
pub struct Attributes {
    /// The vendor's number.
    pub vendor: u32,
    /// Work requests of a queue.
    pub max_qp_wr: u32,
    /// Pieces of memory of a work request.
    pub max_sge: u32,
    /// Pieces that an RDMA READ may bring its data to.
    pub max_sge_rd: u32,
    /// Completions of a completion queue.
    pub max_cqe: u32,
    /// Receives of a shared receive queue; 0 for a device that has none.
    pub max_srq_wr: u32,
    /// RDMA READs of a peer that a queue pair serves at once.
    pub max_qp_rd_atom: u8,
    /// RDMA READs that a queue pair has in flight at once.
    pub max_qp_init_rd_atom: u8,
    /// Completion vectors: interrupts to choose from.
    pub completion_vectors: u32,
    /// Bytes of a registration.
    pub max_mr_size: u64,
    /// Whether it speaks iWARP, where the memory that an RDMA READ fills must be open to the peer's writes.
    pub is_iwarp: bool,
}

/// An RDMA device: one a verbs context, with one protection domain for all that this process does with it.
pub struct Device {
    library: &'static Library,
    context: NonNull<ibv_context>,
    domain: NonNull<ibv_pd>,
    name: String,
    attributes: Attributes,
    removal: Arc<OwnedFd>,
}

// SAFETY: verbs may be called from any thread, at once.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

/// The contexts that this process has open, and the devices in use on them.
static OPEN: Mutex<Vec<Open>> = Mutex::new(Vec::new());

fn open() -> MutexGuard<'static, Vec<Open>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Device {
    /// The device that an identifier belongs to.
    ///
    /// # Safety
    /// `id` must be a valid identifier that nobody else touches during the call.
    pub(super) unsafe fn of(library: &'static Library, id: NonNull<rdma_cm_id>) -> Result<Arc<Self>, Error> {
        // SAFETY: the identifier is valid.
        let (context, source) = unsafe { ((*id.as_ptr()).verbs, &(*id.as_ptr()).route.addr.src_storage) };
        let context = NonNull::new(context).ok_or(Error::NoDevice)?;
        let mut open = open();
        let at = match open.iter().position(|known| known.context == context) {
            Some(at) => at,
            None => {
                open.push(Open::new(library, context, socket_address::read(source).ok_or(Error::NoDevice)?)?);
                open.len() - 1
            }
        };
        let known = &mut open[at];
        if let Some(device) = known.device.upgrade() {
            return Ok(device);
        }
        let device = Arc::new(Self::new(library, context, known.removal.clone())?);
        known.users += 1;
        known.device = Arc::downgrade(&device);
        Ok(device)
    }

    fn new(library: &'static Library, context: NonNull<ibv_context>, removal: Arc<OwnedFd>) -> Result<Self, Error> {
        // SAFETY: all zeros are valid numbers.
        let mut known: ibv_device_attr = unsafe { mem::zeroed() };
        // SAFETY: the keeper holds the context open; the place is as long as the structure (see `layout_tests`).
        let code = unsafe { (library.ibv_query_device)(context.as_ptr(), &raw mut known) };
        if code != 0 {
            return Err(Error::code("ibv_query_device", code));
        }
        // SAFETY: an open context has its device for as long as it is open, whose name ends with a NUL.
        let (name, is_iwarp, vectors) = unsafe {
            let device = (*context.as_ptr()).device;
            let name = CStr::from_ptr((*device).name.as_ptr()).to_string_lossy().into_owned();
            (name, (*device).transport_type == IBV_TRANSPORT_IWARP, (*context.as_ptr()).num_comp_vectors)
        };
        // SAFETY: as above.
        let domain = NonNull::new(unsafe { (library.ibv_alloc_pd)(context.as_ptr()) });
        let domain = domain.ok_or_else(|| Error::last("ibv_alloc_pd"))?;
        let count = |number: i32| number.max(0) as u32;
        let few = |number: i32| number.clamp(0, 255) as u8;
        let attributes = Attributes {
            vendor: known.vendor_id,
            max_qp_wr: count(known.max_qp_wr),
            max_sge: count(known.max_sge),
            max_sge_rd: if known.max_sge_rd > 0 { count(known.max_sge_rd) } else { 1 },
            max_cqe: count(known.max_cqe),
            max_srq_wr: count(known.max_srq_wr),
            max_qp_rd_atom: few(known.max_qp_rd_atom),
            max_qp_init_rd_atom: few(known.max_qp_init_rd_atom),
            completion_vectors: count(vectors),
            max_mr_size: known.max_mr_size,
            is_iwarp,
        };
        Ok(Self { library, context, domain, name, attributes, removal })
    }

    /// Readable from when the device is being removed: the kernel may wait with that until everything that belongs to the device has
    /// been dropped. [`crate::EventKind::DeviceRemoval`] says so too, to each identifier, but may come after that only.
    pub fn removal(&self) -> BorrowedFd<'_> {
        self.removal.as_fd()
    }

    /// Whether the device is being removed.
    pub fn is_removed(&self) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(&self.removal, PollFlags::IN)], Some(&now)) == Ok(1)
    }

    /// What it can do.
    pub fn attributes(&self) -> &Attributes {
        &self.attributes
    }

    /// Its name in the kernel, as `rdma link` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn library(&self) -> &'static Library {
        self.library
    }

    pub(super) fn context(&self) -> *mut ibv_context {
        self.context.as_ptr()
    }

    pub(super) fn domain(&self) -> *mut ibv_pd {
        self.domain.as_ptr()
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: everything made on the domain holds the device, so that nothing of it is left; the context is open as long as the
        // device is among its users.
        unsafe { (self.library.ibv_dealloc_pd)(self.domain.as_ptr()) };
        settle(self.context, |open| open.users -= 1);
    }
}

/// A context. The library keeps it open after its last identifier, as long as it finds the device; yet the kernel, which removes a
/// device, waits until every process has closed it. So a thread waits for that.
struct Open {
    context: NonNull<ibv_context>,
    /// Devices whose drop is not over.
    users: usize,
    device: Weak<Device>,
    /// Bound to the device, so that it is told of the removal, and holds the context.
    _keeper: Keeper,
    removal: Arc<OwnedFd>,
    is_removed: bool,
}

// SAFETY: the context is used from any thread, the keeper by its thread until the removal and under the lock after that.
unsafe impl Send for Open {}

impl Open {
    /// `at` is an address of the device.
    fn new(library: &'static Library, context: NonNull<ibv_context>, mut at: SocketAddr) -> Result<Self, Error> {
        at.set_port(0);
        let mut keeper = ptr::null_mut();
        // SAFETY: without a channel the library makes one for the identifier itself.
        if unsafe { (library.rdma_create_id)(ptr::null_mut(), &raw mut keeper, ptr::null_mut(), RDMA_PS_TCP) } != 0 {
            return Err(Error::last("rdma_create_id"));
        }
        let keeper = Keeper { library, id: NonNull::new(keeper).ok_or(Error::NoDevice)? };
        // SAFETY: identifier and address are valid; the identifier is nobody else's.
        if unsafe { (library.rdma_bind_addr)(keeper.id.as_ptr(), Storage::new(at).as_mut_ptr()) } != 0 {
            return Err(Error::last("rdma_bind_addr"));
        }
        // SAFETY: as above.
        let (verbs, channel) = unsafe { ((*keeper.id.as_ptr()).verbs, (*keeper.id.as_ptr()).channel) };
        if verbs != context.as_ptr() {
            return Err(Error::OtherDevice("the local address of the connection"));
        }
        let system = |call| move |source: io::Error| Error::Call { call, source, hint: None };
        let removal = eventfd(0, EventfdFlags::CLOEXEC).map_err(io::Error::from).map_err(system("eventfd"))?;
        // SAFETY: an open context has its device for as long as it is open, whose names end with a NUL.
        let node = unsafe { CStr::from_ptr((*(*context.as_ptr()).device).dev_name.as_ptr()) };
        let node = PathBuf::from(format!("/sys/class/infiniband_verbs/{}", node.to_string_lossy()));
        let watch = Watch { library, context, channel, node: Some(node).filter(|node| node.exists()) };
        let thread = thread::Builder::new().name("rdma device".into()).spawn(move || watch.wait());
        thread.map_err(system("clone"))?;
        let removal = Arc::new(removal);
        Ok(Self { context, users: 0, device: Weak::new(), _keeper: keeper, removal, is_removed: false })
    }

    /// Has the kernel find the device closed. The library closes the context itself when it next looks for devices and finds some, so
    /// the descriptors keep their numbers until then.
    fn let_go(&self) {
        let Ok(nothing) = File::options().read(true).write(true).open("/dev/null") else { return };
        // SAFETY: the keeper holds the context, whose descriptors are its own and are used by nobody any more.
        unsafe {
            let context = &*self.context.as_ptr();
            for theirs in [context.cmd_fd, context.async_fd] {
                libc::dup3(nothing.as_raw_fd(), theirs, libc::O_CLOEXEC);
            }
        }
    }
}

/// Does something with an open context, and lets go of it if its device is removed and nobody uses it any more.
fn settle(context: NonNull<ibv_context>, act: impl FnOnce(&mut Open)) {
    let mut open = open();
    let Some(at) = open.iter().position(|known| known.context == context) else { return };
    act(&mut open[at]);
    if open[at].is_removed && open[at].users == 0 {
        open[at].let_go();
        open.swap_remove(at);
    }
}

/// What a thread needs that waits for the removal of a device. The connection manager tells of it, but only when verbs have let go,
/// where they were there after it (soft RoCE and soft iWARP); all that shows then is that the device's node goes.
struct Watch {
    library: &'static Library,
    context: NonNull<ibv_context>,
    channel: *mut rdma_event_channel,
    node: Option<PathBuf>,
}

/// How often the node is looked at.
const LOOK_EVERY: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

// SAFETY: the channel is the keeper's own, and the thread the only one that takes events from it.
unsafe impl Send for Watch {}

impl Watch {
    fn wait(&self) {
        // SAFETY: the keeper, and so its channel, stays until this thread has seen the removal.
        let channel = unsafe { BorrowedFd::borrow_raw((*self.channel).fd) };
        let limit = self.node.as_ref().map(|_| &LOOK_EVERY);
        loop {
            let is_removed = match poll(&mut [PollFd::new(&channel, PollFlags::IN)], limit) {
                Ok(0) => self.node.as_ref().is_some_and(|node| !node.exists()),
                Ok(_) => match self.next() {
                    Some(event) => event == RDMA_CM_EVENT_DEVICE_REMOVAL,
                    None => return,
                },
                Err(Errno::INTR) => false,
                Err(_) => return,
            };
            if is_removed {
                return settle(self.context, |open| {
                    // It has room for what is written once.
                    let _ = write(&open.removal, &1u64.to_ne_bytes());
                    open.is_removed = true;
                });
            }
        }
    }

    /// The next event; none when there can be none.
    fn next(&self) -> Option<u32> {
        let mut taken = ptr::null_mut();
        // SAFETY: as above; an event is read before it is acknowledged.
        unsafe {
            while (self.library.rdma_get_cm_event)(self.channel, &raw mut taken) != 0 {
                if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                    return None;
                }
            }
            let event = (*taken).event;
            (self.library.rdma_ack_cm_event)(taken);
            Some(event)
        }
    }
}

/// An identifier that holds a device open.
struct Keeper {
    library: &'static Library,
    id: NonNull<rdma_cm_id>,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // SAFETY: the identifier is valid and nobody else's, and has neither queue pair nor events.
        unsafe { (self.library.rdma_destroy_id)(self.id.as_ptr()) };
    }
}
