//! Memory that the device of a controller reaches: what is mapped for how many, and what its queues leave behind.

use std::{
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use doorbell_platform::{Arena, Backing, Pages, Region};

use crate::transport::ring::{BusMap, Keeper, Place, device::Device};

/// What the queues of one incarnation share with its admin thread.
pub(super) struct Shared {
    mapped: Mutex<Mapped>,
    /// Why the incarnation is lost.
    lost: OnceLock<String>,
    /// Queues whose owners are through with them.
    ended: Mutex<Vec<Ended>>,
    wake: Arc<OwnedFd>,
}

struct Mapped {
    /// Until it has let go of everything.
    device: Option<Arc<dyn Device>>,
    /// Memory that it reaches, where, and for how many.
    regions: Vec<(Arc<Region>, BusMap, usize)>,
}

/// A queue that is to be deleted at the controller.
pub(super) struct Ended {
    pub qid: u16,
    /// What it used beside its rings, mapped once for it each.
    pub memory: Vec<Arc<Region>>,
    /// Said to be safe when the device has let go.
    pub safe: Arc<AtomicBool>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What to do when there is no memory of this kind.
fn remedy(backing: Backing) -> &'static str {
    match backing {
        Backing::Shared(Pages::Huge) => {
            "; without an IOMMU only huge pages can be used, and none is free: as root, `echo 64 > /proc/sys/vm/nr_hugepages`, and \
             see `doorbell setup status`"
        }
        _ => "",
    }
}

impl Shared {
    pub fn new(device: Arc<dyn Device>, wake: Arc<OwnedFd>) -> Self {
        let mapped = Mapped { device: Some(device), regions: Vec::new() };
        Self { mapped: Mutex::new(mapped), lost: OnceLock::new(), ended: Mutex::default(), wake }
    }

    /// New memory for `bytes` bytes from a whole page of `page` bytes on, which lie together for the device.
    pub fn allocate(&self, backing: Backing, bytes: u64, page: u64) -> Result<Place, String> {
        let fail = |why: String| format!("memory of {bytes} bytes for the device: {why}");
        let room = bytes + page.saturating_sub(4096);
        let region =
            Arena::backed(backing, room as usize).map_err(|why| fail(format!("{why}{}", remedy(backing))))?.share();
        let map = self.map(&region)?;
        let place = (0..=room - bytes).step_by(4096).find_map(|offset| {
            let (bus, together) = map.locate(offset)?;
            (bus % page == 0 && together >= bytes).then(|| Place { region: region.clone(), offset, bus })
        });
        place.ok_or_else(|| {
            self.unmap(&region);
            fail("it does not lie together on the bus".into())
        })
    }

    /// Maps memory for one more user.
    pub fn map(&self, region: &Arc<Region>) -> Result<BusMap, String> {
        if let Some(why) = self.lost.get() {
            return Err(why.clone());
        }
        let mut mapped = lock(&self.mapped);
        if let Some((_, map, users)) = mapped.regions.iter_mut().find(|(known, ..)| Arc::ptr_eq(known, region)) {
            *users += 1;
            return Ok(map.clone());
        }
        let map = mapped.device.as_ref().ok_or("the device has let go of everything")?.map(region)?;
        mapped.regions.push((region.clone(), map.clone(), 1));
        Ok(map)
    }

    /// One user less.
    pub fn unmap(&self, region: &Arc<Region>) {
        let mut mapped = lock(&self.mapped);
        let Mapped { device, regions } = &mut *mapped;
        let Some(at) = regions.iter().position(|(known, ..)| Arc::ptr_eq(known, region)) else { return };
        regions[at].2 -= 1;
        if regions[at].2 == 0 {
            regions.swap_remove(at);
            device.iter().for_each(|device| device.unmap(region));
        }
    }

    /// The device has let go of all memory, and is let go of: its driver may wait for that.
    pub fn unmap_all(&self) {
        let mut mapped = lock(&self.mapped);
        let device = mapped.device.take();
        for (region, ..) in mapped.regions.drain(..) {
            device.iter().for_each(|device| device.unmap(&region));
        }
    }

    /// Says that the incarnation is lost; the first reason stays.
    pub fn lose(&self, why: &str) {
        let _ = self.lost.set(why.into());
    }

    /// Queues that were ended since the last call.
    pub fn ended(&self) -> Vec<Ended> {
        std::mem::take(&mut *lock(&self.ended))
    }
}

/// The controller's side of one I/O queue, or of the admin queue, whose end is of no interest.
pub(super) struct Warden {
    shared: Arc<Shared>,
    qid: u16,
    mapped: Mutex<Vec<Arc<Region>>>,
    safe: Arc<AtomicBool>,
}

impl Warden {
    pub fn new(shared: Arc<Shared>, qid: u16, safe: Arc<AtomicBool>) -> Self {
        Self { shared, qid, mapped: Mutex::default(), safe }
    }
}

impl Keeper for Warden {
    fn map(&self, region: &Arc<Region>) -> Result<BusMap, String> {
        let mut mapped = lock(&self.mapped);
        let map = self.shared.map(region)?;
        match mapped.iter().any(|known| Arc::ptr_eq(known, region)) {
            true => self.shared.unmap(region),
            false => mapped.push(region.clone()),
        }
        Ok(map)
    }

    fn gone(&self) -> Option<String> {
        self.shared.lost.get().cloned()
    }

    fn end(&self, _: Vec<Arc<Region>>) {
        // The rings are kept by the admin thread, all else was mapped through this.
        let memory = std::mem::take(&mut *lock(&self.mapped));
        lock(&self.shared.ended).push(Ended { qid: self.qid, memory, safe: self.safe.clone() });
        let _ = rustix::io::write(&self.shared.wake, &1u64.to_ne_bytes());
    }

    fn has_ended(&self) -> bool {
        self.safe.load(Ordering::Acquire)
    }
}
