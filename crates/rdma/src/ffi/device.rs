//! A verbs context, held open, and its protection domain.

use std::{
    ffi::CStr,
    fmt, mem, ptr,
    ptr::NonNull,
    sync::{Arc, Mutex, PoisonError, Weak},
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
    /// Bound to the device: the library closes the context of a removed device with its last identifier.
    keeper: NonNull<rdma_cm_id>,
    name: String,
    attributes: Attributes,
}

// SAFETY: verbs may be called from any thread, at once; the keeper is touched by the drop alone.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

/// The devices in use, by context.
static DEVICES: Mutex<Vec<(usize, Weak<Device>)>> = Mutex::new(Vec::new());

impl Device {
    /// The device that an identifier belongs to.
    ///
    /// # Safety
    /// `id` must be a valid identifier that nobody else touches during the call.
    pub(super) unsafe fn of(library: &'static Library, id: NonNull<rdma_cm_id>) -> Result<Arc<Self>, Error> {
        // SAFETY: the identifier is valid.
        let (context, source) = unsafe { ((*id.as_ptr()).verbs, &(*id.as_ptr()).route.addr.src_storage) };
        let context = NonNull::new(context).ok_or(Error::NoDevice)?;
        let mut devices = DEVICES.lock().unwrap_or_else(PoisonError::into_inner);
        devices.retain(|(_, device)| device.strong_count() > 0);
        let known = devices.iter().find(|(address, _)| *address == context.addr().get());
        if let Some(device) = known.and_then(|(_, device)| device.upgrade()) {
            return Ok(device);
        }
        let mut source = socket_address::read(source).ok_or(Error::NoDevice)?;
        source.set_port(0);
        let mut keeper = ptr::null_mut();
        // SAFETY: without a channel the library makes one for the identifier itself.
        if unsafe { (library.rdma_create_id)(ptr::null_mut(), &raw mut keeper, ptr::null_mut(), RDMA_PS_TCP) } != 0 {
            return Err(Error::last("rdma_create_id"));
        }
        let keeper = Keeper { library, id: NonNull::new(keeper).ok_or(Error::NoDevice)? };
        // SAFETY: identifier and address are valid; the identifier is nobody else's.
        if unsafe { (library.rdma_bind_addr)(keeper.id.as_ptr(), Storage::new(source).as_mut_ptr()) } != 0 {
            return Err(Error::last("rdma_bind_addr"));
        }
        // SAFETY: as above.
        if unsafe { (*keeper.id.as_ptr()).verbs } != context.as_ptr() {
            return Err(Error::OtherDevice("the local address of the connection"));
        }
        let device = Arc::new(Self::new(library, context, keeper)?);
        devices.push((context.addr().get(), Arc::downgrade(&device)));
        Ok(device)
    }

    fn new(library: &'static Library, context: NonNull<ibv_context>, keeper: Keeper) -> Result<Self, Error> {
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
        Ok(Self { library, context, domain, keeper: keeper.keep(), name, attributes })
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
        // SAFETY: everything made on the domain holds the device, so that nothing of it is left; the keeper holds the context until
        // it is dropped itself, as the last of all.
        unsafe { (self.library.ibv_dealloc_pd)(self.domain.as_ptr()) };
        drop(Keeper { library: self.library, id: self.keeper });
    }
}

/// An identifier that holds a device open.
struct Keeper {
    library: &'static Library,
    id: NonNull<rdma_cm_id>,
}

impl Keeper {
    fn keep(self) -> NonNull<rdma_cm_id> {
        let id = self.id;
        mem::forget(self);
        id
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // SAFETY: the identifier is valid and nobody else's, and has neither queue pair nor events.
        unsafe { (self.library.rdma_destroy_id)(self.id.as_ptr()) };
    }
}
