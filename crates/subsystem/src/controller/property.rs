//! Controller properties (Base 3.1.4): enabling, resetting and shutting down. Fabrics has them by Property Get and Property Set, a
//! controller in memory as registers, with some more that its listener keeps.

use doorbell_spec::{
    command::Command,
    fabrics::PropertyRequest,
    register::{self, Cap, Cc, Crto, Csts, Vs},
    status::{Status, generic},
};

use super::{Admin, Answer};

/// The version of the Base specification that the controllers follow.
pub(super) const VERSION: Vs = Vs::version(2, 1, 0);

/// Doorbell stride of a controller in memory: each doorbell has a cache line to itself, so that the host's writes to one do not
/// take the others away from who polls them.
pub(crate) const DSTRD: u8 = 4;

/// How long becoming ready may take, in 500 ms: it is done at once, but a busy reactor has other things to do.
const READY_TIMEOUT: u8 = 20;

impl Admin {
    pub(super) fn cap(&self) -> Cap {
        let subsystem = &self.association.subsystem;
        let css = if subsystem.is_discovery { Cap::CSS_NVM } else { Cap::CSS_NVM | Cap::CSS_IO };
        Cap::new()
            .with_mqes((self.max_queue_entries() - 1) as u16)
            .with_cqr(true)
            .with_to(READY_TIMEOUT)
            .with_css(css)
            .with_crms(1)
            .with_dstrd(if self.is_in_memory() { DSTRD } else { 0 })
    }

    /// The bytes of the property at an offset, and its value; none where there is none that both transports have.
    pub(crate) fn property(&self, offset: u32) -> Option<(u8, u64)> {
        Some(match offset {
            register::CAP => (8, self.cap().into_bits()),
            register::VS => (4, VERSION.into_bits().into()),
            register::CC => (4, self.cc.into_bits().into()),
            register::CSTS => (4, self.status().into_bits().into()),
            register::CRTO => (4, Crto::new().with_crwmt(READY_TIMEOUT.into()).into_bits().into()),
            _ => return None,
        })
    }

    pub(super) fn property_get(&self, command: &Command) -> Answer {
        let request = PropertyRequest::parse(command);
        match self.property(request.offset) {
            Some((size, value)) if request.size == Some(size) => Answer::result(value),
            _ => Answer::status(generic::INVALID_FIELD.with_dnr()),
        }
    }

    /// Sets a property; `aborted` takes the event requests that end with a reset or a shutdown.
    pub(super) fn property_set(&mut self, command: &Command, aborted: &mut Vec<(u16, Status)>) -> Answer {
        let request = PropertyRequest::parse(command);
        if (request.offset, request.size) != (register::CC, Some(4)) {
            return Answer::status(generic::INVALID_FIELD.with_dnr());
        }
        self.configure(Cc::from_bits(request.value as u32), true, aborted);
        Answer::result(0)
    }

    /// CSTS: a controller whose queues were taken from it has failed.
    fn status(&self) -> Csts {
        let failed = self.csts.rdy() && self.association.period().is_multiple_of(2);
        self.csts.with_cfs(self.csts.cfs() || failed)
    }

    /// Whether the controller is enabled and able to carry out commands.
    #[inline]
    pub(crate) fn is_ready(&self) -> bool {
        self.csts.rdy() && !self.csts.cfs()
    }

    /// Whether the host has enabled the controller.
    pub(crate) fn is_enabled(&self) -> bool {
        self.cc.en()
    }

    /// Most entries of an I/O queue.
    pub(crate) fn max_queue_entries(&self) -> u32 {
        self.transport.max_entries(self.association.subsystem.config.max_queue_entries)
    }

    /// Nothing can be done any more but a reset (CSTS.CFS).
    pub(crate) fn fail(&mut self) {
        self.csts.set_cfs(true);
    }

    /// Sets CC. `has_queue` says whether there is an admin queue that the controller could be enabled with; `aborted` takes the
    /// event requests that end with a reset or a shutdown.
    pub(crate) fn configure(&mut self, new: Cc, has_queue: bool, aborted: &mut Vec<(u16, Status)>) {
        let old = std::mem::replace(&mut self.cc, new);
        if new.en() && !old.en() {
            if has_queue && self.can_run(new) {
                self.csts = Csts::new().with_rdy(true);
                self.association.enable();
            } else {
                tracing::warn!("controller {}: cannot run with {new:?}", self.association.cntlid);
                self.csts = Csts::new().with_cfs(true);
            }
        }
        if new.shn() != 0 && old.shn() == 0 {
            self.csts.set_shst(Csts::SHST_COMPLETE);
            self.abort_events(aborted);
        }
        if old.en() && !new.en() {
            self.csts = Csts::new();
            self.abort_events(aborted);
            self.reset_features();
            self.association.reset(&self.shared);
        }
    }

    /// Whether CC asks for what there is.
    fn can_run(&self, cc: Cc) -> bool {
        if self.association.subsystem.is_discovery {
            return cc.mps() == 0 && cc.ams() == 0;
        }
        let command_set = matches!(cc.css(), Cc::CSS_NVM | Cc::CSS_ALL);
        command_set && cc.mps() == 0 && cc.ams() == 0 && cc.iosqes() == 6 && cc.iocqes() == 4
    }
}
