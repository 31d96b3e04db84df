//! A controller whose registers, memory and interrupts this process reaches: a PCI function through VFIO, or another process over
//! vfio-user. Bring-up and the rings know devices by this trait only.

use std::{
    os::fd::{OwnedFd, RawFd},
    sync::Arc,
    time::Instant,
};

use doorbell_platform::{Backing, Pages, Region};
use doorbell_spec::register::{self, Csts};

use super::BusMap;
use crate::{cancel::Cancel, controller::ControllerOptions, error::Cause, transport_id::TransportId};

/// Opens the device that a transport ID names, by the deadline.
pub(crate) type Open =
    dyn Fn(&TransportId, &ControllerOptions, Instant, &Cancel) -> Result<Arc<dyn Device>, Cause> + Send + Sync;

/// An NVMe controller within reach. Everything mapped for it is kept until it is unmapped, or the device goes.
pub(crate) trait Device: Send + Sync {
    /// PCI vendor and device identifier.
    fn ids(&self) -> (u16, u16);

    /// Reads a register (Base 3.1.4) of 4 or 8 bytes. A device that is gone may answer with ones only.
    ///
    /// # Errors
    /// When it cannot be asked any more.
    fn read(&self, offset: u32, eight: bool) -> Result<u64, Cause>;

    /// Writes a register of 4 or 8 bytes.
    ///
    /// # Errors
    /// As for reading.
    fn write(&self, offset: u32, eight: bool, value: u64) -> Result<(), Cause>;

    /// The doorbells: a mapping, and where [`DOORBELLS`](doorbell_spec::register::DOORBELLS) (1000h) is in it.
    fn doorbells(&self) -> (Arc<Region>, u64);

    /// Makes memory reachable for the device and returns where it finds it. Not asked again for what is mapped.
    ///
    /// # Errors
    /// What the system or the peer said.
    fn map(&self, region: &Arc<Region>) -> Result<BusMap, String>;

    /// Takes memory back that the device does not use any more.
    fn unmap(&self, region: &Arc<Region>);

    /// What becomes readable with an interrupt of a vector; `None` where the device has no such vector.
    ///
    /// # Errors
    /// What the system or the peer said.
    fn interrupt(&self, vector: u16) -> Result<Option<Arc<OwnedFd>>, String>;

    /// Resets the device as a whole: afterwards it touches no memory until it is enabled again.
    ///
    /// # Errors
    /// What the system or the peer said.
    fn reset(&self) -> Result<(), String>;

    /// Ends the reach to memory of a device that is gone, as far as it is there.
    fn silence(&self) {}

    /// Why it cannot be used any more, once that is known: it was removed, its process has ended.
    fn gone(&self) -> Option<String>;

    /// What becomes readable when it goes, after which [`Device::gone`] is to be asked.
    fn farewell(&self) -> Option<RawFd>;

    /// Whether a doorbell costs so much more than memory that shadow doorbells are worth their while.
    fn doorbells_are_dear(&self) -> bool;

    /// Whether memory must be on huge pages: the device sees physical addresses.
    fn needs_huge_pages(&self) -> bool;

    /// Memory of the device behind a PCI base address register, and its bus address; `None` where it cannot be mapped.
    ///
    /// # Errors
    /// What the system said.
    fn memory(&self, bar: u8) -> Result<Option<(Arc<Region>, u64)>, String>;
}

/// Why the controller cannot be used any more, as far as one look at the device tells.
pub(crate) fn look(device: &dyn Device) -> Result<(), Cause> {
    if let Some(why) = device.gone() {
        return Err(Cause::Down(why));
    }
    let csts = match device.read(register::CSTS, false) {
        Ok(csts) => Csts::from_bits(csts as u32),
        // Whoever gave up wants an orderly end.
        Err(Cause::Cancelled) => return Ok(()),
        Err(why) => return Err(why),
    };
    match csts.cfs() {
        true => Err(Cause::Down(format!(
            "it reports a fatal status (CSTS {:x}h): reset it, and look at its error log",
            csts.into_bits()
        ))),
        false => Ok(()),
    }
}

/// What rings must be made of for a device.
pub(crate) fn backing(device: &dyn Device, options: &ControllerOptions) -> Backing {
    Backing::Shared(match (device.needs_huge_pages(), options.huge_pages) {
        (true, _) => Pages::Huge,
        (false, true) => Pages::HugeIfFree,
        (false, false) => Pages::Ordinary,
    })
}
