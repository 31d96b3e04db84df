//! NVMe over PCIe: a PCI function in the hands of this process, by VFIO.

use std::{
    os::fd::{AsRawFd, OwnedFd, RawFd},
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use doorbell_platform::{
    Region, Sysfs,
    pci::{self, Function},
    vfio,
};
use doorbell_spec::register;

use super::ring::{BusMap, device::Device};
use crate::{cancel::Cancel, controller::ControllerOptions, error::Cause, transport_id::TransportId};

/// The driver that hands functions to processes.
const DRIVER: &str = "vfio-pci";

/// An NVMe controller that is a PCI function.
struct PciDevice {
    device: vfio::Device,
    function: Function,
    /// BAR 0 from its start, as far as that may be mapped.
    registers: Arc<Region>,
}

/// Opens the function that a transport ID names.
pub(super) fn open(
    id: &TransportId,
    options: &ControllerOptions,
    _: Instant,
    _: &Cancel,
) -> Result<Arc<dyn Device>, Cause> {
    device(id, options).map(|device| Arc::new(device) as Arc<dyn Device>).map_err(Cause::Transport)
}

fn device(id: &TransportId, options: &ControllerOptions) -> Result<PciDevice, String> {
    let address: pci::Address = id.traddr.parse()?;
    let sysfs = Sysfs::default();
    let function = sysfs.function(address)?;
    if function.class != pci::NVME {
        return Err(format!("{address} is of class {:06x}h, which is no NVMe controller", function.class));
    }
    let token = options.vf_token.map(|token| uuid::Uuid::from_bytes(token).to_string());
    let device = vfio::Device::open(&sysfs, address, token.as_deref())?;
    if let Some(warning) = device.warning() {
        // Memory is at risk: it is said at the level that is shown without being asked for.
        tracing::error!("{address}: {warning}");
    }
    device.enable()?;
    let queues = if options.interrupts { options.num_io_queues } else { 0 };
    device.enable_interrupts(queues.saturating_add(1))?;
    let registers = map(&device, 0)?.filter(|region| region.len() as u64 > u64::from(register::DOORBELLS));
    let registers = registers.ok_or_else(|| format!("{address}: its registers (BAR 0) cannot be mapped"))?;
    Ok(PciDevice { device, function, registers: Arc::new(registers) })
}

/// A BAR from its start, as far as it may be mapped.
fn map(device: &vfio::Device, bar: u8) -> Result<Option<Region>, String> {
    let first = device.bar(bar)?.mappable.into_iter().find(|range| range.start == 0);
    first.map(|range| device.map_bar(bar, range)).transpose()
}

/// The addresses of all local devices that can be used.
///
/// # Errors
/// When there is none, with what is in the way of those there are.
pub(crate) fn all() -> Result<Vec<pci::Address>, String> {
    let functions = Sysfs::default().functions(pci::NVME)?;
    let (ours, others): (Vec<_>, Vec<_>) =
        functions.into_iter().partition(|function| function.driver.as_deref() == Some(DRIVER));
    if !ours.is_empty() {
        return Ok(ours.into_iter().map(|function| function.address).collect());
    }
    let driver = |function: &Function| function.driver.clone().unwrap_or_else(|| "no driver".into());
    let list: Vec<_> = others.iter().map(|other| format!("{} ({})", other.address, driver(other))).collect();
    Err(match list.is_empty() {
        true => format!("this machine has no NVMe device (PCI class {:06x}h)", pci::NVME),
        false => format!("no NVMe device is bound to {DRIVER}: {}; see `doorbell setup status`", list.join(", ")),
    })
}

/// The name of a function in tables: its address and identifiers, where it is there.
pub(crate) fn name(traddr: &str) -> String {
    let function = traddr.parse().and_then(|address| Sysfs::default().function(address));
    match (function, traddr.parse::<pci::Address>()) {
        (Ok(Function { address, vendor, device, .. }), _) => format!("PCIE ({address}) [{vendor:04x}:{device:04x}]"),
        (Err(_), Ok(address)) => format!("PCIE ({address})"),
        (Err(_), Err(_)) => format!("PCIE ({traddr})"),
    }
}

impl Device for PciDevice {
    fn ids(&self) -> (u16, u16) {
        (self.function.vendor, self.function.device)
    }

    /// In halves where it has 8 bytes: every controller takes those (Base 3.1).
    fn read(&self, offset: u32, eight: bool) -> Result<u64, Cause> {
        let half = |offset| u64::from(self.registers.load_u32(u64::from(offset), Ordering::Acquire));
        Ok(half(offset) | if eight { half(offset + 4) << 32 } else { 0 })
    }

    /// The upper half first: what is written to the lower one of CMBMSC takes effect at once.
    fn write(&self, offset: u32, eight: bool, value: u64) -> Result<(), Cause> {
        if eight {
            self.registers.store_u32(u64::from(offset) + 4, (value >> 32) as u32, Ordering::Release);
        }
        self.registers.store_u32(offset.into(), value as u32, Ordering::Release);
        Ok(())
    }

    fn doorbells(&self) -> (Arc<Region>, u64) {
        (self.registers.clone(), register::DOORBELLS.into())
    }

    fn map(&self, region: &Arc<Region>) -> Result<BusMap, String> {
        let addresses = self.device.map(region)?;
        Ok(match addresses.linear_start() {
            Some(start) => BusMap::contiguous(start),
            None => {
                let starts = (0..region.len() as u64).step_by(addresses.page() as usize);
                BusMap::pieces(addresses.page(), starts.map(|offset| addresses.at(offset)).collect())
            }
        })
    }

    fn unmap(&self, region: &Arc<Region>) {
        self.device.unmap(region);
    }

    fn interrupt(&self, vector: u16) -> Result<Option<Arc<OwnedFd>>, String> {
        self.device.interrupt(vector)
    }

    fn reset(&self) -> Result<(), String> {
        match self.device.reset()? {
            true => self.device.enable(),
            false => Err(format!("{} has no reset of its own", self.function.address)),
        }
    }

    fn silence(&self) {
        // What does not answer any more transfers nothing.
        let _ = self.device.disable();
    }

    fn gone(&self) -> Option<String> {
        if let Some(why) = self.device.trouble() {
            return Some(why.into());
        }
        let ones = self.registers.load_u32(register::VS.into(), Ordering::Acquire) == u32::MAX;
        let what = "its registers are gone: it was removed, or its memory space was disabled";
        (self.registers.is_lost() || ones).then(|| what.into())
    }

    fn farewell(&self) -> Option<RawFd> {
        self.device.removal_event().map(|fd| fd.as_raw_fd())
    }

    fn doorbells_are_dear(&self) -> bool {
        true
    }

    fn needs_huge_pages(&self) -> bool {
        self.device.warning().is_some()
    }

    fn memory(&self, bar: u8) -> Result<Option<(Arc<Region>, u64)>, String> {
        let Some(place) = self.function.bars.get(usize::from(bar)).filter(|place| place.memory) else {
            return Ok(None);
        };
        Ok(map(&self.device, bar)?.map(|region| (Arc::new(region), place.start)))
    }
}
