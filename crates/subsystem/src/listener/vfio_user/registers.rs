//! Registers (Base 3.1.4, PCIe Transport 3.1): what a host reads and writes by messages. The doorbells behind them are memory, which
//! messages reach too.

use std::sync::atomic::Ordering;

use doorbell_spec::register::{self, Aqa, Cc};

use super::{function::Function, memory::Memory};
use crate::listener::Context;

/// The bits of ASQ and ACQ that are an address.
const PAGE_MASK: u64 = !0xfff;

impl Function {
    /// Copies what BAR 0 has at `offset`.
    pub(super) fn read_registers(&self, offset: u64, bytes: &mut [u8]) {
        for (byte, at) in bytes.iter_mut().zip(offset..) {
            *byte = self.dword(at & !3).to_le_bytes()[(at % 4) as usize];
        }
    }

    /// Writes to BAR 0. What is not whole dwords in their places changes nothing, as the specification leaves it open.
    pub(super) fn write_registers(&mut self, offset: u64, bytes: &[u8], memory: Memory<'_>, context: &mut Context) {
        if !offset.is_multiple_of(4) || !bytes.len().is_multiple_of(4) {
            tracing::debug!("{}: {} bytes are written to a register at {offset:#x}", self.name(), bytes.len());
            return;
        }
        for (&dword, at) in bytes.as_chunks().0.iter().zip((offset..).step_by(4)) {
            self.set_dword(at, u32::from_le_bytes(dword), memory, context);
        }
    }

    fn dword(&self, at: u64) -> u32 {
        if at >= u64::from(register::DOORBELLS) {
            // Doorbells give back nothing that means something (PCIe Transport 3.1.2).
            return 0;
        }
        match at as u32 {
            register::INTMS | register::INTMC => self.interrupts.mask,
            register::AQA => self.aqa.into_bits(),
            register::ASQ => self.asq as u32,
            ASQ_HIGH => (self.asq >> 32) as u32,
            register::ACQ => self.acq as u32,
            ACQ_HIGH => (self.acq >> 32) as u32,
            at => {
                let whole = |offset| self.admin.property(offset).map(|(_, value)| value);
                let high = || self.admin.property(at - 4).filter(|&(size, _)| size == 8).map(|(_, value)| value >> 32);
                whole(at).or_else(|| if at >= 4 { high() } else { None }).unwrap_or(0) as u32
            }
        }
    }

    fn set_dword(&mut self, at: u64, value: u32, memory: Memory<'_>, context: &mut Context) {
        if at >= u64::from(register::DOORBELLS) {
            if at < self.bar().len() as u64 {
                self.bar().store_u32(at, value, Ordering::Release);
            }
            return;
        }
        let low = |old: u64| (old & !0xffff_ffff | u64::from(value)) & PAGE_MASK;
        let high = |old: u64| old & 0xffff_ffff | u64::from(value) << 32;
        match at as u32 {
            register::INTMS => self.interrupts.mask |= value,
            register::INTMC => self.interrupts.mask &= !value,
            register::CC => self.configure(Cc::from_bits(value), memory, context),
            register::AQA => self.aqa = Aqa::from_bits(value & 0x0fff_0fff),
            register::ASQ => self.asq = low(self.asq),
            ASQ_HIGH => self.asq = high(self.asq),
            register::ACQ => self.acq = low(self.acq),
            ACQ_HIGH => self.acq = high(self.acq),
            _ => tracing::debug!("{}: {value:#x} is written to {at:#x}, which cannot be", self.name()),
        }
    }
}

const ASQ_HIGH: u32 = register::ASQ + 4;
const ACQ_HIGH: u32 = register::ACQ + 4;
