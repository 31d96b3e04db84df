//! Latencies as Intel's drives keep them, for hosts that ask: of a command from its arrival to its completion, which is what the
//! script makes of it.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use doorbell_spec::{
    command::NvmOpcode,
    log::{INTEL_READ_LATENCY, INTEL_WRITE_LATENCY, IntelLatency, Lid},
};

/// What is kept while a host has it switched on.
#[derive(Debug, Default)]
pub(crate) struct Tracking {
    on: AtomicBool,
    reads: Mutex<IntelLatency>,
    writes: Mutex<IntelLatency>,
}

impl Tracking {
    /// Whether it is on.
    pub(crate) fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// Switches it. Counts begin anew each time that it is switched on.
    pub(crate) fn switch(&self, on: bool) {
        if on && !self.is_on() {
            for page in [&self.reads, &self.writes] {
                *page.lock().unwrap_or_else(PoisonError::into_inner) = IntelLatency::new();
            }
        }
        self.on.store(on, Ordering::Relaxed);
    }

    pub(super) fn count(&self, opcode: u8, nanoseconds: u64) {
        let page = match NvmOpcode(opcode) {
            NvmOpcode::READ => &self.reads,
            NvmOpcode::WRITE => &self.writes,
            _ => return,
        };
        if self.is_on() {
            page.lock().unwrap_or_else(PoisonError::into_inner).count(nanoseconds / 1000);
        }
    }

    /// One of the two log pages.
    pub(crate) fn page(&self, lid: Lid) -> Option<IntelLatency> {
        let page = match lid {
            INTEL_READ_LATENCY => &self.reads,
            INTEL_WRITE_LATENCY => &self.writes,
            _ => return None,
        };
        Some(*page.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
