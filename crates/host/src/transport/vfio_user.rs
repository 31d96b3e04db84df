//! NVMe over vfio-user: another process plays the PCI function, over a UNIX socket and shared memory.

use std::{
    collections::HashMap,
    os::fd::{AsFd, OwnedFd, RawFd},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError},
    time::Instant,
};

use doorbell_platform::{Region, pci};
use doorbell_spec::register;
use doorbell_vfio_user::{
    Client, Error,
    wire::{irq, region},
};
use rustix::event::{EventfdFlags, eventfd};

use super::ring::{BusMap, device::Device};
use crate::{cancel::Cancel, controller::ControllerOptions, error::Cause, transport_id::TransportId};

/// Offsets in configuration space (PCI 3.0, 6.1): the identifiers, the command register, the class code.
const IDS: u64 = 0;
const COMMAND: u64 = 4;
const CLASS: u64 = 9;
/// The command register: memory space and bus mastering on, interrupts by pin off.
const COMMAND_ON: u16 = 0x0406;
/// Bytes of doorbells that there must be: those of the admin queue and one I/O queue of a stride of 4.
const DOORBELL_BYTES: u64 = 16;

/// An NVMe controller that another process plays.
struct VfioUserDevice {
    client: Mutex<Client>,
    /// What the connection waits on.
    socket: RawFd,
    ids: (u16, u16),
    doorbells: (Arc<Region>, u64),
    /// Interrupt vectors it has.
    vectors: u32,
    interrupts: Mutex<HashMap<u16, Arc<OwnedFd>>>,
    /// Why the connection is over.
    gone: Mutex<Option<String>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Connects to the device whose directory, or socket, a transport ID names.
pub(super) fn open(
    id: &TransportId,
    _: &ControllerOptions,
    deadline: Instant,
    cancel: &Cancel,
) -> Result<Arc<dyn Device>, Cause> {
    let patience = deadline.saturating_duration_since(Instant::now());
    let cancel = cancel.clone();
    let client = Client::connect(Path::new(&id.traddr), patience, Box::new(move || cancel.is_cancelled()));
    let device = client.and_then(VfioUserDevice::new).map_err(|error| match error {
        Error::Cancelled(_) => Cause::Cancelled,
        other => Cause::Transport(other.to_string()),
    })?;
    Ok(Arc::new(device))
}

impl VfioUserDevice {
    fn new(mut client: Client) -> Result<Self, Error> {
        let mut head = [0; 12];
        client.read(region::CONFIG, IDS, &mut head)?;
        let class = u32::from_le_bytes([head[CLASS as usize], head[10], head[11], 0]);
        if class != pci::NVME {
            return Err(Error::Unable(format!("it is a device of class {class:06x}h, which is no NVMe controller")));
        }
        client.write(region::CONFIG, COMMAND, &COMMAND_ON.to_le_bytes())?;
        let doorbells = client.region(region::BAR0)?.mapped(register::DOORBELLS.into(), DOORBELL_BYTES);
        let doorbells = doorbells.ok_or_else(|| {
            Error::Unable(
                "its doorbells (BAR 0 from 1000h on) cannot be mapped, and by messages they would be of no use".into(),
            )
        })?;
        let (vectors, flags) = client.irqs(irq::MSIX)?;
        let id = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
        Ok(Self {
            socket: client.fd(),
            client: Mutex::new(client),
            ids: (id(0), id(2)),
            doorbells,
            vectors: if flags & irq::EVENTFD != 0 { vectors } else { 0 },
            interrupts: Mutex::default(),
            gone: Mutex::default(),
        })
    }

    /// Asks the device's process for something.
    fn ask<T>(&self, what: impl FnOnce(&mut Client) -> Result<T, Error>) -> Result<T, Error> {
        let outcome = what(&mut lock(&self.client));
        if let Err(error) = &outcome {
            self.note(error);
        }
        outcome
    }

    fn note(&self, error: &Error) {
        if error.is_final() {
            lock(&self.gone).get_or_insert_with(|| error.to_string());
        }
    }
}

fn cause(error: Error) -> Cause {
    match error {
        Error::Cancelled(_) => Cause::Cancelled,
        other => Cause::Down(other.to_string()),
    }
}

impl Device for VfioUserDevice {
    fn ids(&self) -> (u16, u16) {
        self.ids
    }

    fn read(&self, offset: u32, eight: bool) -> Result<u64, Cause> {
        let mut bytes = [0; 8];
        let len = if eight { 8 } else { 4 };
        self.ask(|client| client.read(region::BAR0, offset.into(), &mut bytes[..len])).map_err(cause)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn write(&self, offset: u32, eight: bool, value: u64) -> Result<(), Cause> {
        let bytes = value.to_le_bytes();
        let len = if eight { 8 } else { 4 };
        self.ask(|client| client.write(region::BAR0, offset.into(), &bytes[..len])).map_err(cause)
    }

    fn doorbells(&self) -> (Arc<Region>, u64) {
        self.doorbells.clone()
    }

    /// At the addresses of this process, which are unique in it.
    fn map(&self, region: &Arc<Region>) -> Result<BusMap, String> {
        let address = region.address();
        self.ask(|client| client.dma_map(region, address)).map_err(|error| error.to_string())?;
        Ok(BusMap::contiguous(address))
    }

    fn unmap(&self, region: &Arc<Region>) {
        // What is not taken back stays mapped, and kept, until the connection ends.
        if let Err(error) = self.ask(|client| client.dma_unmap(region, region.address())) {
            tracing::debug!("{error}");
        }
    }

    fn interrupt(&self, vector: u16) -> Result<Option<Arc<OwnedFd>>, String> {
        if u32::from(vector) >= self.vectors {
            return Ok(None);
        }
        let mut interrupts = lock(&self.interrupts);
        let fd = match interrupts.get(&vector) {
            Some(fd) => fd.clone(),
            None => {
                let made = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
                let fd = Arc::new(made.map_err(|why| format!("making an event descriptor: {why}"))?);
                interrupts.insert(vector, fd.clone());
                fd
            }
        };
        // Said again for one that is there: a reset of the device may have ended it.
        let set = self.ask(|client| client.set_irqs(irq::MSIX, vector.into(), &[fd.as_fd()]));
        set.map_err(|error| error.to_string())?;
        Ok(Some(fd))
    }

    fn reset(&self) -> Result<(), String> {
        self.ask(Client::reset).map_err(|error| error.to_string())
    }

    fn gone(&self) -> Option<String> {
        // Whoever talks to the device's process now learns it, too.
        match self.client.try_lock() {
            Ok(mut client) => {
                if let Err(error) = client.serve() {
                    self.note(&error);
                }
            }
            Err(TryLockError::Poisoned(_)) => {
                return Some("a thread ended while it talked to the device's process".into());
            }
            Err(TryLockError::WouldBlock) => {}
        }
        let lost = self.doorbells.0.is_lost().then(|| "the device's process took its doorbells away".to_string());
        lock(&self.gone).clone().or(lost)
    }

    fn farewell(&self) -> Option<RawFd> {
        Some(self.socket)
    }

    fn doorbells_are_dear(&self) -> bool {
        false
    }

    fn needs_huge_pages(&self) -> bool {
        false
    }

    fn memory(&self, _: u8) -> Result<Option<(Arc<Region>, u64)>, String> {
        Ok(None)
    }
}
