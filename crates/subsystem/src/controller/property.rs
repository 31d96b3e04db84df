//! Controller properties (Base 3.1.4) by Property Get and Property Set: enabling, resetting and shutting down.

use doorbell_spec::{
    command::Command,
    fabrics::PropertyRequest,
    register::{self, Cap, Cc, Crto, Csts, Vs},
    status::{Status, generic},
};

use super::{Admin, Answer};

/// The version of the Base specification that the controllers follow.
pub(super) const VERSION: Vs = Vs::version(2, 1, 0);

/// How long becoming ready may take, in 500 ms: it is done at once, but a busy reactor has other things to do.
const READY_TIMEOUT: u8 = 20;

impl Admin {
    pub(super) fn cap(&self) -> Cap {
        let subsystem = &self.association.subsystem;
        let css = if subsystem.is_discovery { Cap::CSS_NVM } else { Cap::CSS_NVM | Cap::CSS_IO };
        Cap::new()
            .with_mqes((subsystem.config.max_queue_entries - 1) as u16)
            .with_cqr(true)
            .with_to(READY_TIMEOUT)
            .with_css(css)
            .with_crms(1)
    }

    pub(super) fn property_get(&self, command: &Command) -> Answer {
        let request = PropertyRequest::parse(command);
        let value = match (request.offset, request.size) {
            (register::CAP, Some(8)) => self.cap().into_bits(),
            (register::VS, Some(4)) => VERSION.into_bits().into(),
            (register::CC, Some(4)) => self.cc.into_bits().into(),
            (register::CSTS, Some(4)) => self.csts.into_bits().into(),
            (register::CRTO, Some(4)) => Crto::new().with_crwmt(READY_TIMEOUT.into()).into_bits().into(),
            _ => return Answer::status(generic::INVALID_FIELD.with_dnr()),
        };
        Answer::result(value)
    }

    /// Sets a property; `aborted` takes the event requests that end with a reset or a shutdown.
    pub(super) fn property_set(&mut self, command: &Command, aborted: &mut Vec<(u16, Status)>) -> Answer {
        let request = PropertyRequest::parse(command);
        if (request.offset, request.size) != (register::CC, Some(4)) {
            return Answer::status(generic::INVALID_FIELD.with_dnr());
        }
        let (old, new) = (self.cc, Cc::from_bits(request.value as u32));
        self.cc = new;
        if new.en() && !old.en() {
            if self.can_run(new) {
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
        Answer::result(0)
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
