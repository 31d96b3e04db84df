//! The registers of a controller, however they are reached: by commands of its admin queue over Fabrics, or as memory of a device;
//! and what is done with them: disabling and enabling (Base 3.5).

use std::{
    thread,
    time::{Duration, Instant},
};

use doorbell_spec::register::{self, Cap, Cc, Crto, Csts, Vs};

use crate::{
    cancel::Cancel,
    error::Cause,
    init_state::InitState,
    transport::{port::Port, ring::device::Device},
};

/// How often a wait looks whether it was cancelled.
const CANCEL_INTERVAL: Duration = Duration::from_millis(50);
/// How often a register is read that something waits for.
const REGISTER_INTERVAL: Duration = Duration::from_millis(1);
/// What registers of ones mean.
const REMOVED: &str = "the device was removed, or its memory space is disabled";

/// Registers by their offsets (Base 3.1.4).
pub(super) trait Registers {
    /// Reads one of 4 or 8 bytes.
    fn read(&mut self, offset: u32, eight: bool) -> Result<u64, Cause>;
    /// Writes one of 4 bytes.
    fn write(&mut self, offset: u32, value: u32) -> Result<(), Cause>;
    /// Waits for `span`, unless the caller gave up.
    fn pause(&mut self, span: Duration) -> Result<(), Cause>;
}

/// Properties of a Fabrics controller; each command has `timeout`, and the port's grant.
pub(super) struct Properties<'a> {
    pub port: &'a mut Port,
    pub timeout: Duration,
}

impl Registers for Properties<'_> {
    fn read(&mut self, offset: u32, eight: bool) -> Result<u64, Cause> {
        self.port.property(offset, eight, self.timeout)
    }

    fn write(&mut self, offset: u32, value: u32) -> Result<(), Cause> {
        self.port.set_property(offset, value, self.timeout)
    }

    fn pause(&mut self, span: Duration) -> Result<(), Cause> {
        self.port.sleep(span, &[])
    }
}

/// Registers of a device, for the time that `what` may take.
pub(super) struct Mapped<'a> {
    pub device: &'a dyn Device,
    cancel: &'a Cancel,
    what: &'static str,
    span: Duration,
    end: Instant,
}

impl<'a> Mapped<'a> {
    pub fn new(device: &'a dyn Device, cancel: &'a Cancel, what: &'static str, span: Duration) -> Self {
        Self { device, cancel, what, span, end: Instant::now() + span }
    }

    /// What is left of the time.
    pub fn left(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// Writes a register of 8 bytes.
    pub fn write_eight(&mut self, offset: u32, value: u64) -> Result<(), Cause> {
        self.check(|| format!("writing register {offset:02x}h"))?;
        self.device.write(offset, true, value)
    }

    fn check(&self, at: impl Fn() -> String) -> Result<(), Cause> {
        if self.cancel.is_cancelled() {
            return Err(Cause::Cancelled);
        }
        match self.device.gone() {
            Some(why) => Err(Cause::Down(why)),
            None if self.left().is_zero() => Err(Cause::TooLong { command: at(), what: self.what, span: self.span }),
            None => Ok(()),
        }
    }
}

impl Registers for Mapped<'_> {
    fn read(&mut self, offset: u32, eight: bool) -> Result<u64, Cause> {
        self.check(|| format!("reading register {offset:02x}h"))?;
        let value = self.device.read(offset, eight)?;
        let ones = value == if eight { u64::MAX } else { u32::MAX.into() };
        // The status register may read so for a while after a reset, which its waits know.
        match ones && offset != register::CSTS {
            true => Err(Cause::Down(format!("register {offset:02x}h reads as ones: {REMOVED}"))),
            false => Ok(value),
        }
    }

    fn write(&mut self, offset: u32, value: u32) -> Result<(), Cause> {
        self.check(|| format!("writing register {offset:02x}h"))?;
        self.device.write(offset, false, value.into())
    }

    fn pause(&mut self, span: Duration) -> Result<(), Cause> {
        let until = Instant::now() + span;
        loop {
            self.check(|| "waiting for it".into())?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(CANCEL_INTERVAL));
        }
    }
}

/// VS and CAP.
pub(super) fn capabilities(registers: &mut dyn Registers) -> Result<(Vs, Cap), Cause> {
    let vs = Vs::from_bits(read(registers, InitState::ReadVs, register::VS, false)? as u32);
    let cap = Cap::from_bits(read(registers, InitState::ReadCap, register::CAP, true)?);
    Ok((vs, cap))
}

/// How long becoming ready, or not ready, may take: CAP.TO, or CRTO where the controller has it (Base 3.1.4.21).
pub(super) fn ready_limit(cap: Cap, crto: Option<Crto>) -> Duration {
    let units = u32::from(cap.to().max(1)).max(crto.map_or(0, |crto| crto.crwmt().into()));
    Duration::from_millis(500) * units
}

/// Disables a controller that is enabled; `rest` is how long it must then be left alone.
pub(super) fn disable(registers: &mut dyn Registers, limit: Duration, rest: Duration) -> Result<(), Cause> {
    let cc = Cc::from_bits(read(registers, InitState::CheckEn, register::CC, false)? as u32);
    if !cc.en() {
        return Ok(());
    }
    wait_status(registers, limit, InitState::DisableWaitForReady1, |csts| csts.rdy() || csts.cfs())?;
    let off = cc.with_en(false).into_bits();
    let done = registers.write(register::CC, off).and_then(|()| registers.pause(rest));
    done.map_err(|why| why.at(InitState::SetEn0))?;
    wait_disabled(registers, limit)
}

/// Waits until a disabled controller is through with it.
pub(super) fn wait_disabled(registers: &mut dyn Registers, limit: Duration) -> Result<(), Cause> {
    wait_status(registers, limit, InitState::DisableWaitForReady0, |csts| !csts.rdy()).map(|_| ())
}

/// Enables the controller, whose admin queue is there.
pub(super) fn enable(registers: &mut dyn Registers, cap: Cap, limit: Duration) -> Result<(), Cause> {
    let css = if cap.css() & Cap::CSS_IO != 0 { Cc::CSS_ALL } else { Cc::CSS_NVM };
    let cc = Cc::new().with_en(true).with_css(css).with_mps(cap.mpsmin()).with_iosqes(6).with_iocqes(4);
    registers.write(register::CC, cc.into_bits()).map_err(|why| why.at(InitState::Enable))?;
    let step = InitState::EnableWaitForReady1;
    match wait_status(registers, limit, step, |csts| csts.rdy() || csts.cfs())?.cfs() {
        true => Err(Cause::Nonsense("it reports a fatal status (CSTS.CFS): reset it".into()).at(step)),
        false => Ok(()),
    }
}

/// CC.SHN, then CSTS.SHST until it is complete (Base 3.6).
pub(super) fn shut_down(registers: &mut dyn Registers) -> Result<(), Cause> {
    let cc = Cc::from_bits(registers.read(register::CC, false)? as u32);
    registers.write(register::CC, cc.with_shn(Cc::SHN_NORMAL).into_bits())?;
    while Csts::from_bits(registers.read(register::CSTS, false)? as u32).shst() != Csts::SHST_COMPLETE {
        registers.pause(REGISTER_INTERVAL)?;
    }
    Ok(())
}

fn read(registers: &mut dyn Registers, step: InitState, offset: u32, eight: bool) -> Result<u64, Cause> {
    registers.read(offset, eight).map_err(|why| why.at(step))
}

/// Waits until CSTS is as it should be. For a while after a reset it may read as ones.
fn wait_status(
    registers: &mut dyn Registers,
    limit: Duration,
    step: InitState,
    reached: fn(Csts) -> bool,
) -> Result<Csts, Cause> {
    let deadline = Instant::now() + limit;
    loop {
        let csts = Csts::from_bits(read(registers, step, register::CSTS, false)? as u32);
        let ones = csts.into_bits() == u32::MAX;
        if reached(csts) && !ones {
            return Ok(csts);
        }
        if Instant::now() >= deadline {
            let ones = if ones { format!(": {REMOVED}") } else { String::new() };
            let csts = csts.into_bits();
            let late = format!("it did not get there within {limit:?} (CAP.TO), CSTS {csts:x}h{ones}");
            return Err(Cause::Nonsense(late).at(step));
        }
        registers.pause(REGISTER_INTERVAL).map_err(|why| why.at(step))?;
    }
}
