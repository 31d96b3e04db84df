//! Memory that a device may reach.

use std::{ffi::c_int, fmt, mem, ptr, ptr::NonNull, sync::Arc};

use doorbell_platform::{Range, Region};

use super::{device::Device, types::*};
use crate::Error;

/// Who may reach registered memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// This end's own work requests. On iWARP the peer too, if it learns the key: there an RDMA READ of ours is a write of the peer's.
    Local,
    /// The peer as well, by RDMA READ and WRITE with the remote key.
    Peer,
}

/// A region that a device may reach, whole, until this is dropped: registered once, with relaxed ordering where that is offered.
pub struct Registration {
    device: Arc<Device>,
    region: Arc<Region>,
    handle: NonNull<ibv_mr>,
    start: u64,
    local_key: u32,
    remote_key: u32,
}

// SAFETY: verbs may be called from any thread, at once; the handle is used by the drop alone.
unsafe impl Send for Registration {}
// SAFETY: as above.
unsafe impl Sync for Registration {}

impl Registration {
    /// Pins a region and tells the device where it is.
    ///
    /// # Errors
    /// `ibv_reg_mr` refused: no memory may be pinned any more, or the region is larger than [`super::Attributes::max_mr_size`].
    pub fn new(device: &Arc<Device>, region: Arc<Region>, access: Access) -> Result<Arc<Self>, Error> {
        let (library, domain, len) = (device.library(), device.domain(), region.len());
        let peer = IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE;
        let flags = match access {
            Access::Peer => IBV_ACCESS_LOCAL_WRITE | peer,
            Access::Local if device.attributes().is_iwarp => IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE,
            Access::Local => IBV_ACCESS_LOCAL_WRITE,
        };
        let start = region.address();
        let address = ptr::with_exposed_provenance_mut(start as usize);
        // SAFETY: the range is the region's mapping, which is held until the device has let go of it, and which nobody has a
        // reference into; what the device or a peer writes there is bytes.
        let handle = unsafe {
            match library.ibv_reg_mr_iova2 {
                Some(register) => register(domain, address, len, start, flags | IBV_ACCESS_RELAXED_ORDERING),
                None => (library.ibv_reg_mr)(domain, address, len, flags as c_int),
            }
        };
        let handle = NonNull::new(handle).ok_or_else(|| Error::last("ibv_reg_mr"))?;
        // SAFETY: a fresh registration, whose keys do not change.
        let (local_key, remote_key) = unsafe { ((*handle.as_ptr()).lkey, (*handle.as_ptr()).rkey) };
        Ok(Arc::new(Self { device: device.clone(), region, handle, start, local_key, remote_key }))
    }

    /// The device that may reach it.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// The memory.
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// The key that a peer names it by.
    pub fn remote_key(&self) -> u32 {
        self.remote_key
    }

    /// The address that a peer names a range by.
    ///
    /// # Panics
    /// When the range leaves the region.
    #[inline]
    pub fn address(&self, range: Range) -> u64 {
        self.extent().piece(range).addr
    }

    pub(super) fn extent(&self) -> Extent {
        Extent { start: self.start, len: self.region.len() as u64, key: self.local_key }
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration")
            .field("device", &self.device.name())
            .field("bytes", &self.region.len())
            .finish_non_exhaustive()
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: the handle is ours and is not used again.
        let code = unsafe { (self.device.library().ibv_dereg_mr)(self.handle.as_ptr()) };
        if code != 0 {
            // The device may still reach the memory, which therefore stays.
            mem::forget(self.region.clone());
        }
    }
}

/// Where registered memory is.
#[derive(Clone, Copy)]
pub(super) struct Extent {
    start: u64,
    len: u64,
    key: u32,
}

impl Extent {
    #[cfg(test)]
    pub fn of(start: u64, len: u64, key: u32) -> Self {
        Self { start, len, key }
    }

    /// A range of it, as a work request has it.
    ///
    /// # Panics
    /// When the range leaves it.
    #[inline]
    pub fn piece(&self, range: Range) -> ibv_sge {
        let end = range.offset.checked_add(u64::from(range.len));
        assert!(end.is_some_and(|end| end <= self.len), "{range:?} leaves registered memory of {} bytes", self.len);
        ibv_sge { addr: self.start + range.offset, length: range.len, lkey: self.key }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXTENT: Extent = Extent { start: 1 << 40, len: 4096, key: 7 };

    #[test]
    fn a_range_of_registered_memory_becomes_an_address() {
        let piece = EXTENT.piece(Range { offset: 4000, len: 96 });
        assert_eq!((piece.addr, piece.length, piece.lkey), ((1 << 40) + 4000, 96, 7));
    }

    #[test]
    #[should_panic(expected = "leaves registered memory")]
    fn a_range_over_its_end_does_not() {
        EXTENT.piece(Range { offset: 4000, len: 97 });
    }

    #[test]
    #[should_panic(expected = "leaves registered memory")]
    fn nor_one_that_wraps_around() {
        EXTENT.piece(Range { offset: u64::MAX - 3, len: 4 });
    }
}
