//! The target's frames, as RDMA devices know them: registered once a device, whole, so that data moves between a host's memory and where
//! it lies without a copy.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use doorbell_platform::Region;
use doorbell_rdma::{Access, Device, Error, Registration};

/// The registrations there are. A device keeps its own as long as somebody uses it.
#[derive(Debug)]
pub(crate) struct FrameMemory {
    region: Arc<Region>,
    known: Mutex<Vec<Weak<Registration>>>,
}

impl FrameMemory {
    /// The memory of a target.
    pub(crate) fn new(region: Arc<Region>) -> Self {
        Self { region, known: Mutex::default() }
    }

    /// The frames on a device, registered by the first who asks, which takes a while where they are many.
    ///
    /// # Errors
    /// The device does not take them, or so much memory must not be pinned.
    pub(super) fn on(&self, device: &Arc<Device>) -> Result<Arc<Registration>, Error> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|registration| registration.strong_count() > 0);
        let theirs = known.iter().filter_map(Weak::upgrade).find(|known| Arc::ptr_eq(known.device(), device));
        if let Some(registration) = theirs {
            return Ok(registration);
        }
        let registration = Registration::new(device, self.region.clone(), Access::Local)?;
        known.push(Arc::downgrade(&registration));
        Ok(registration)
    }
}
