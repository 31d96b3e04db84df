//! A controller within reach, over PCIe or vfio-user: its device, the admin queue in shared memory, and what of bring-up, reset and
//! shutdown is done through registers (Base 3.5, 3.6).

mod buffer;
mod memory;
mod queues;
mod quirks;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    os::fd::{OwnedFd, RawFd},
    sync::{Arc, Mutex, PoisonError, atomic::AtomicBool},
    time::{Duration, Instant},
};

use doorbell_platform::Backing;
use doorbell_spec::{
    command,
    feature::{Fid, HOST_IDENTIFIER_EXHID},
    identify::{ctratt, oacs, sgls},
    register::{self, Aqa, Cap, Crto},
};

use super::{
    ControllerOptions,
    bring_up::{BringUp, Ready, Step, Up},
    registers::{self, Mapped, Registers},
};
use crate::{
    cancel::Cancel,
    error::Cause,
    init_state::InitState,
    namespace::Namespace,
    transport::{
        AnyQueue,
        port::{AdminData, Kind, Port},
        ring::{
            Doorbells, Place, RingParts, RingQueue,
            device::{self, Device, Open},
        },
    },
};
use buffer::Buffer;
use memory::{Shared, Warden};
use queues::Queue;
pub(super) use queues::all_in_use;
use quirks::Quirks;

/// Entries of the admin queue.
const ADMIN_ENTRIES: u16 = 64;
/// A pause between disabling a controller and enabling it again.
const BREATH: Duration = Duration::from_micros(100);
/// Most bytes of one command: what fits the data pointer's list in one page, whatever the offset in the first one.
const MOST_BYTES: u32 = 1 << 20;

/// How the device of a controller is had: opened when it is first needed, kept while the controller is reset, opened anew when it
/// is gone.
pub(super) struct Reach {
    open: Arc<Open>,
    device: Mutex<Option<Arc<dyn Device>>>,
    /// Wakes the controller's thread.
    wake: Arc<OwnedFd>,
}

impl Reach {
    pub fn new(open: Arc<Open>, wake: Arc<OwnedFd>) -> Self {
        Self { open, device: Mutex::default(), wake }
    }

    fn device(&self, bring_up: &BringUp<'_>) -> Result<Arc<dyn Device>, Cause> {
        let mut device = self.device.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(present) = device.as_ref().filter(|present| present.gone().is_none()) {
            return Ok(present.clone());
        }
        // The old one first: many a thing can be open once only.
        *device = None;
        let deadline = Instant::now() + bring_up.options.connect_timeout;
        let opened = (self.open)(bring_up.id, bring_up.options, deadline, bring_up.cancel)?;
        Ok(device.insert(opened).clone())
    }
}

/// The device and the queues of one incarnation.
pub(super) struct Direct {
    device: Arc<dyn Device>,
    cap: Cap,
    quirks: Quirks,
    options: ControllerOptions,
    /// What becoming ready, or not ready, may take.
    limit: Duration,
    /// What rings are made of.
    backing: Backing,
    shared: Arc<Shared>,
    /// The shadow doorbells.
    shadow: Option<Place>,
    /// The controller memory buffer, as far as it takes submission queues.
    buffer: Option<Buffer>,
    queues: BTreeMap<u16, Queue>,
    sgl: bool,
}

impl BringUp<'_> {
    /// From a device to a controller that is ready.
    pub(super) fn run_directly(&self, reach: &Reach) -> Step<Up> {
        let device = reach.device(self).map_err(|why| why.at(InitState::ConnectAdminq))?;
        let quirks = Quirks::of(device.ids());
        let mut registers = Mapped::new(&*device, self.cancel, "bring-up", self.options.bring_up_timeout);
        registers.pause(quirks.rest_before_start).map_err(|why| why.at(InitState::InitDelay))?;
        let (vs, cap) = registers::capabilities(&mut registers)?;
        let crto = match cap.crms() {
            0 => None,
            _ => Some(registers.read(register::CRTO, false).map_err(|why| why.at(InitState::ReadCap))?),
        };
        let limit = registers::ready_limit(cap, crto.map(|crto| Crto::from_bits(crto as u32)));
        registers::disable(&mut registers, limit, quirks.rest_after_disable)?;
        registers::wait_disabled(&mut registers, limit)?;
        let pause = registers.pause(BREATH);
        pause.map_err(|why| why.at(InitState::DisableWaitForReady0))?;
        let mut direct = Direct::new(device.clone(), reach.wake.clone(), cap, quirks, limit, self.options);
        let outcome = direct.admin_queue(&mut registers, self.cancel).map_err(|why| why.at(InitState::Enable));
        let outcome = outcome.and_then(|mut port| {
            registers::enable(&mut registers, cap, limit)?;
            port.grant("bring-up", registers.left());
            let mut ready = self.learn(&mut port, vs, cap)?;
            direct.complete(self, &mut port, &mut ready)?;
            port.end_grant();
            Ok((port, ready))
        });
        match outcome {
            Ok((port, ready)) => Ok(Up { port, direct: Some(direct), ready }),
            Err(why) => {
                if let Err(second) = direct.quiesce(&why.to_string(), limit) {
                    tracing::warn!("{}: {second}", self.name);
                }
                Err(why)
            }
        }
    }
}

impl Direct {
    fn new(
        device: Arc<dyn Device>,
        wake: Arc<OwnedFd>,
        cap: Cap,
        quirks: Quirks,
        limit: Duration,
        options: &ControllerOptions,
    ) -> Self {
        Self {
            backing: device::backing(&*device, options),
            shared: Arc::new(Shared::new(device.clone(), wake)),
            device,
            cap,
            quirks,
            limit,
            options: options.clone(),
            shadow: None,
            buffer: None,
            queues: BTreeMap::new(),
            sgl: false,
        }
    }

    /// Bytes of the controller's memory page, which is the smallest it has.
    fn page(&self) -> u64 {
        4096 << self.cap.mpsmin()
    }

    /// Makes the admin queue and tells the disabled controller where it is (AQA, ASQ, ACQ).
    fn admin_queue(&mut self, registers: &mut Mapped<'_>, cancel: &Cancel) -> Result<Port, Cause> {
        let (sq, cq) = self.rings(ADMIN_ENTRIES.into(), None).map_err(Cause::Transport)?;
        let size = ADMIN_ENTRIES - 1;
        registers.write(register::AQA, Aqa::new().with_asqs(size).with_acqs(size).into_bits())?;
        registers.write_eight(register::ASQ, sq.bus)?;
        registers.write_eight(register::ACQ, cq.bus)?;
        let interrupt = self.device.interrupt(0).map_err(Cause::Transport)?;
        let polled = interrupt.is_none();
        let parts =
            RingParts { most_bytes: MOST_BYTES, interrupt, ..self.parts(0, ADMIN_ENTRIES.into(), sq, cq, None) };
        let queue = RingQueue::new(parts).map_err(Cause::Transport)?;
        let mut port = Port::new(AnyQueue::Ring(Box::new(queue)), Kind::Admin, polled, cancel)?;
        port.watch(&self.device);
        Ok(port)
    }

    /// What all queues have in common.
    fn parts(&self, qid: u16, entries: u32, sq: Place, cq: Place, safe: Option<Arc<AtomicBool>>) -> RingParts {
        let (region, base) = self.device.doorbells();
        let at = |offset: u64| base + offset - u64::from(register::DOORBELLS);
        let dstrd = self.cap.dstrd();
        let keeper = Warden::new(self.shared.clone(), qid, safe.unwrap_or_default());
        RingParts {
            qid,
            entries,
            sq,
            cq,
            doorbells: Doorbells {
                region,
                sq_tail: at(register::sq_tail_doorbell(qid, dstrd)),
                cq_head: at(register::cq_head_doorbell(qid, dstrd)),
            },
            shadow: None,
            page_size: self.page() as u32,
            most_bytes: MOST_BYTES,
            sgl: false,
            backing: self.backing,
            interrupt: None,
            keeper: Box::new(keeper),
        }
    }

    /// What of bring-up is left when the controller is known.
    fn complete(&mut self, bring_up: &BringUp<'_>, port: &mut Port, ready: &mut Ready) -> Step<()> {
        let data = ready.data.clone();
        self.sgl = data.sgls.get() & (sgls::SUPPORTED | sgls::SUPPORTED_DWORD) != 0 && !self.quirks.no_sgl;
        if self.quirks.stripe && data.vs[3] > 0 {
            ready.namespaces.iter_mut().for_each(|namespace| self.stripe(namespace, data.vs[3]));
        }
        if self.options.interrupts && self.quirks.spare_vector {
            ready.io_queues = ready.io_queues.saturating_sub(1);
        }
        let (doorbells, base) = self.device.doorbells();
        let pairs = (doorbells.len() as u64).saturating_sub(base) >> (3 + self.cap.dstrd());
        ready.io_queues = ready.io_queues.min(u16::try_from(pairs.saturating_sub(1)).unwrap_or(u16::MAX));
        let timeout = bring_up.timeout();
        if data.oacs.get() & oacs::DOORBELL_BUFFER != 0 && self.device.doorbells_are_dear() {
            let outcome = self.shadow_doorbells(port, ready, timeout);
            outcome.map_err(|why| why.at(InitState::SetDbBufCfg))?;
        }
        let wide = data.ctratt.get() & ctratt::HIDS != 0;
        let id = bring_up.options.host.id;
        let command = command::set_features(Fid::HOST_IDENTIFIER, false, 0, u32::from(wide) * HOST_IDENTIFIER_EXHID);
        let id = if wide { id.to_vec() } else { id[8..].to_vec() };
        match port.execute(&command, &AdminData::Out(id), timeout) {
            // There are many that need not know who we are.
            Ok(_) => {}
            Err(why) => return Err(why.at(InitState::SetHostId)),
        }
        if self.options.sq_cmb {
            match Buffer::find(&*self.device, ready.vs, self.cap) {
                Ok(buffer) => self.buffer = buffer,
                Err(why) => ready.warnings.push(format!("no submission queue is put into its memory buffer: {why}")),
            }
        }
        Ok(())
    }

    /// The stripe of a device that says it in a place of its own.
    fn stripe(&self, namespace: &mut Namespace, power: u8) {
        let bytes = self.page().checked_shl(power.into()).unwrap_or(0);
        if namespace.stripe_blocks == 0 {
            namespace.stripe_blocks = u32::try_from(bytes / u64::from(namespace.block_size)).unwrap_or(0);
        }
    }

    /// Whether the device is known to be gone.
    pub fn gone(&self) -> Result<(), Cause> {
        self.device.gone().map_or(Ok(()), |why| Err(Cause::Down(why)))
    }

    /// What becomes readable when the device goes.
    pub fn farewell(&self) -> Option<RawFd> {
        self.device.farewell()
    }

    /// Ends the incarnation: its queues learn why, and the controller is disabled, so that the device touches no memory of ours any
    /// more. Where that cannot be had, what was outstanding stays in danger, and mapped.
    ///
    /// # Errors
    /// What the controller, and then the device, said when they were told.
    pub fn quiesce(&mut self, why: &str, limit: Duration) -> Result<(), Cause> {
        self.shared.lose(why);
        self.queues.values().for_each(Queue::wake);
        // Whoever gave up wants this done all the same.
        let cancel = Cancel::new();
        let mut registers = Mapped::new(&*self.device, &cancel, "disabling it", limit);
        let disabled = registers::disable(&mut registers, self.limit.min(limit), Duration::ZERO);
        if let Err(refused) = disabled {
            if self.device.gone().is_some() {
                // One that the system asks for back is still there, and at work.
                self.device.silence();
            } else if let Err(why) = self.device.reset() {
                return Err(Cause::Down(format!("it is neither disabled ({refused}) nor reset ({why})")));
            }
        }
        self.let_go();
        Ok(())
    }

    /// The device has let go of everything.
    fn let_go(&mut self) {
        self.queues.values().for_each(Queue::is_safe);
        self.queues.clear();
        self.shared.unmap_all();
    }

    /// Shuts the controller down: CC.SHN, then CSTS.SHST until it is complete (Base 3.6.1), or without notice by CC.EN.
    pub fn shut_down(&mut self, limit: Duration) -> Result<(), Cause> {
        let cancel = Cancel::new();
        let device = self.device.clone();
        let mut registers = Mapped::new(&*device, &cancel, "the shutdown", limit);
        // Until it is through with either it may still reach our memory.
        match self.options.no_shutdown_notification {
            true => registers::disable(&mut registers, self.limit.min(limit), Duration::ZERO)?,
            false => registers::shut_down(&mut registers)?,
        }
        self.let_go();
        Ok(())
    }
}
