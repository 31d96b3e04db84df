//! Get Features and Set Features (Base 5.1.11, 5.1.25).

use std::{collections::BTreeSet, time::Instant};

use doorbell_spec::{
    command::{AdminOpcode, Command, NSID_ALL},
    feature::{Fid, HOST_IDENTIFIER_EXHID, NumberOfQueues, Select, VOLATILE_WRITE_CACHE_WCE, capability},
    status::{Status, command_specific, generic},
};

use super::{Admin, Answer, Transport};

/// Bytes of Host Behavior Support.
const BEHAVIOR_LEN: usize = 512;
/// Warning temperature threshold in kelvins, also WCTEMP.
pub(super) const WARNING_TEMPERATURE: u16 = 343;
/// CD of Interrupt Vector Configuration: no coalescing for the vector.
const COALESCING_DISABLE: u32 = 1 << 16;
/// Over and under threshold of the composite temperature: THSEL of Temperature Threshold.
const UNDER: u32 = 1 << 20;

/// The values that hosts can change. Those of the number of queues and of the keep alive timer are elsewhere.
#[derive(Clone, Debug)]
pub(super) struct Features {
    arbitration: u32,
    over: u32,
    under: u32,
    error_recovery: u32,
    atomicity: u32,
    events: u32,
    coalescing: u32,
    /// Vectors that Interrupt Vector Configuration has disabled coalescing for.
    uncoalesced: BTreeSet<u16>,
    behavior: [u8; BEHAVIOR_LEN],
}

impl Default for Features {
    fn default() -> Self {
        Self {
            arbitration: 0,
            over: WARNING_TEMPERATURE.into(),
            under: 0,
            error_recovery: 0,
            atomicity: 0,
            events: 0,
            coalescing: 0,
            uncoalesced: BTreeSet::new(),
            behavior: [0; BEHAVIOR_LEN],
        }
    }
}

impl Admin {
    pub(super) fn reset_features(&mut self) {
        self.features = Features::default();
    }

    pub(super) fn get_features(&self, command: &Command) -> Answer {
        let (fid, parameter) = (command.fid(), command.cdw11.get());
        if let Err(status) = self.check_feature(fid, command.nsid.get()) {
            return Answer::status(status);
        }
        let features = match command.select() {
            Select::CURRENT => self.features.clone(),
            Select::DEFAULT | Select::SAVED => Features::default(),
            Select::SUPPORTED_CAPABILITIES => return Answer::result(capabilities(fid).into()),
            _ => return Answer::status(INVALID),
        };
        let value = match fid {
            Fid::ARBITRATION => features.arbitration,
            Fid::TEMPERATURE_THRESHOLD => match parameter & 0x003f_0000 {
                0 => features.over,
                UNDER => features.under,
                _ => return Answer::status(INVALID),
            },
            Fid::ERROR_RECOVERY => features.error_recovery,
            Fid::VOLATILE_WRITE_CACHE => VOLATILE_WRITE_CACHE_WCE,
            Fid::NUMBER_OF_QUEUES => self.queues_dword(),
            Fid::WRITE_ATOMICITY_NORMAL => features.atomicity,
            Fid::ASYNC_EVENT_CONFIGURATION => features.events,
            Fid::KEEP_ALIVE_TIMER => self.kato,
            Fid::INTERRUPT_COALESCING => features.coalescing,
            Fid::INTERRUPT_VECTOR_CONFIGURATION => match self.vector(parameter) {
                Some(vector) if features.uncoalesced.contains(&vector) => u32::from(vector) | COALESCING_DISABLE,
                Some(vector) => vector.into(),
                None => return Answer::status(INVALID),
            },
            Fid::HOST_BEHAVIOR_SUPPORT => return Answer::data(features.behavior.to_vec()),
            Fid::HOST_IDENTIFIER if parameter & HOST_IDENTIFIER_EXHID != 0 => {
                return Answer::data(self.association.hostid.to_vec());
            }
            Fid::HOST_IDENTIFIER => return Answer::status(INVALID),
            _ => 0,
        };
        Answer::result(value.into())
    }

    pub(super) fn set_features(&mut self, command: &Command, data: &[u8], now: Instant) -> Answer {
        let (fid, value) = (command.fid(), command.cdw11.get());
        if let Err(status) = self.check_feature(fid, command.nsid.get()) {
            return Answer::status(status);
        }
        if ![0, NSID_ALL].contains(&command.nsid.get()) && fid != Fid::ERROR_RECOVERY {
            return Answer::status(command_specific::FEATURE_NOT_NAMESPACE_SPECIFIC.with_dnr());
        }
        if command.save() {
            return Answer::status(command_specific::FEATURE_NOT_SAVEABLE.with_dnr());
        }
        let wanted = if fid == Fid::HOST_BEHAVIOR_SUPPORT { BEHAVIOR_LEN } else { 0 };
        if fid != Fid::HOST_IDENTIFIER && data.len() != wanted {
            return Answer::status(generic::DATA_SGL_LENGTH_INVALID.with_dnr());
        }
        match fid {
            Fid::ARBITRATION => self.features.arbitration = value,
            // There is one power state.
            Fid::POWER_MANAGEMENT if value & 0x1f == 0 => {}
            Fid::TEMPERATURE_THRESHOLD => match value & 0x003f_0000 {
                // Of the composite temperature, or of every sensor there is.
                0 | 0x000f_0000 => self.features.over = value & 0xffff,
                UNDER | 0x001f_0000 => self.features.under = value & 0xffff,
                _ => return Answer::status(INVALID),
            },
            // Bit 16 (DULBE) asks for errors of deallocated blocks, which read as zeroes here.
            Fid::ERROR_RECOVERY if value & 0x1_0000 == 0 => self.features.error_recovery = value,
            Fid::VOLATILE_WRITE_CACHE if value & VOLATILE_WRITE_CACHE_WCE == 0 => {
                return Answer::status(command_specific::FEATURE_NOT_CHANGEABLE.with_dnr());
            }
            Fid::VOLATILE_WRITE_CACHE => {}
            Fid::NUMBER_OF_QUEUES => {
                let wanted = NumberOfQueues::from_dword(value);
                if wanted.submission > 0xffff || wanted.completion > 0xffff {
                    return Answer::status(INVALID);
                }
                return match self.association.grant(wanted.submission.min(wanted.completion)) {
                    Some(_) => Answer::result(self.queues_dword().into()),
                    None => Answer::status(generic::COMMAND_SEQUENCE_ERROR.with_dnr()),
                };
            }
            Fid::WRITE_ATOMICITY_NORMAL => self.features.atomicity = value & 1,
            Fid::ASYNC_EVENT_CONFIGURATION => self.features.events = value,
            // Interrupts are raised once for all that a pass has done, which is as early as waiting for more is late.
            Fid::INTERRUPT_COALESCING => self.features.coalescing = value & 0xffff,
            Fid::INTERRUPT_VECTOR_CONFIGURATION => {
                let Some(vector) = self.vector(value) else { return Answer::status(INVALID) };
                if value & COALESCING_DISABLE != 0 {
                    self.features.uncoalesced.insert(vector);
                } else {
                    self.features.uncoalesced.remove(&vector);
                }
            }
            Fid::KEEP_ALIVE_TIMER => return Answer::result(self.set_keep_alive(value, now).into()),
            Fid::HOST_BEHAVIOR_SUPPORT => self.features.behavior.copy_from_slice(data),
            // There is one combination, and all controllers have it.
            Fid::IO_COMMAND_SET_PROFILE if value & 0x1ff == 0 => {}
            Fid::IO_COMMAND_SET_PROFILE => {
                return Answer::status(command_specific::IO_COMMAND_SET_COMBINATION_REJECTED.with_dnr());
            }
            // Connect has told it (Base 5.1.25.1.28).
            Fid::HOST_IDENTIFIER => return Answer::status(generic::COMMAND_SEQUENCE_ERROR.with_dnr()),
            _ => return Answer::status(INVALID),
        }
        Answer::result(0)
    }

    /// Whether the controller has the feature, and the namespace is one it can be asked of.
    fn check_feature(&self, fid: Fid, nsid: u32) -> Result<(), Status> {
        let subsystem = &self.association.subsystem;
        let everywhere = match fid {
            Fid::ASYNC_EVENT_CONFIGURATION | Fid::KEEP_ALIVE_TIMER => true,
            // Connect tells it; without one there is none.
            Fid::HOST_IDENTIFIER => !self.is_in_memory(),
            _ => false,
        };
        let of_nvm = match fid {
            Fid::INTERRUPT_COALESCING | Fid::INTERRUPT_VECTOR_CONFIGURATION => self.is_in_memory(),
            Fid::ARBITRATION
            | Fid::POWER_MANAGEMENT
            | Fid::TEMPERATURE_THRESHOLD
            | Fid::ERROR_RECOVERY
            | Fid::NUMBER_OF_QUEUES
            | Fid::WRITE_ATOMICITY_NORMAL
            | Fid::IO_COMMAND_SET_PROFILE
            | Fid::HOST_BEHAVIOR_SUPPORT => true,
            Fid::VOLATILE_WRITE_CACHE => subsystem.namespaces.iter().any(|namespace| namespace.is_cached()),
            _ => false,
        };
        if !everywhere && (subsystem.is_discovery || !of_nvm) {
            return Err(INVALID);
        }
        if nsid == 0 || nsid == NSID_ALL {
            return Ok(());
        }
        if subsystem.namespace(nsid).is_none() {
            return Err(generic::INVALID_NAMESPACE.with_dnr());
        }
        Ok(())
    }

    /// Bytes of data that come with a command that does not say how many.
    pub(crate) fn input(&self, command: &Command) -> u32 {
        let sets = command.opc == AdminOpcode::SET_FEATURES.0;
        if sets && command.fid() == Fid::HOST_BEHAVIOR_SUPPORT { BEHAVIOR_LEN as u32 } else { 0 }
    }

    /// The interrupt vector in a dword of Interrupt Vector Configuration, if there is such.
    fn vector(&self, dword: u32) -> Option<u16> {
        let Transport::Memory { vectors } = self.transport else { return None };
        Some(dword as u16).filter(|&vector| vector < vectors)
    }

    fn queues_dword(&self) -> u32 {
        let granted = u32::from(self.association.granted());
        NumberOfQueues { submission: granted, completion: granted }.to_dword()
    }
}

const INVALID: Status = generic::INVALID_FIELD.with_dnr();

fn capabilities(fid: Fid) -> u32 {
    match fid {
        Fid::HOST_IDENTIFIER | Fid::VOLATILE_WRITE_CACHE => 0,
        Fid::ERROR_RECOVERY => capability::CHANGEABLE | capability::NAMESPACE_SPECIFIC,
        _ => capability::CHANGEABLE,
    }
}
