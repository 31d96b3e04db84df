//! The status of a completed command (Base 4.2.3): a small value with a readable name for
//! every code of the Base and the NVM command set specifications. Every layer reports it.

mod codes;

pub use codes::{command_specific, fabrics, generic, media, path, system};

use core::fmt;

/// Status code type: generic command status.
pub const SCT_GENERIC: u8 = 0;
/// Status code type: command specific status.
pub const SCT_COMMAND_SPECIFIC: u8 = 1;
/// Status code type: media and data integrity errors.
pub const SCT_MEDIA: u8 = 2;
/// Status code type: path related status.
pub const SCT_PATH: u8 = 3;
/// Status code type: answers of an operating system, not of a device; reserved by the specification. See [`system`].
pub const SCT_SYSTEM: u8 = 6;
/// Status code type: vendor specific.
pub const SCT_VENDOR: u8 = 7;

/// The status field of a completion, without the phase tag.
///
/// Equality covers every field; to ask which code it is whatever the retry bits say, use
/// [`Status::is`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Status {
    /// Status code type, 3 bits.
    pub sct: u8,
    /// Status code.
    pub sc: u8,
    /// Command retry delay: 0, or which of the controller's CRDT1 to CRDT3 to wait; 2 bits.
    pub crd: u8,
    /// The error log page says more.
    pub more: bool,
    /// Do not retry: the same command would fail again.
    pub dnr: bool,
}

impl Status {
    /// Successful completion.
    pub const SUCCESS: Self = generic::SUCCESS;

    /// A status of a type and code, free to retry.
    #[inline]
    pub const fn new(sct: u8, sc: u8) -> Self {
        Self { sct, sc, crd: 0, more: false, dnr: false }
    }

    /// The same status with "do not retry" set.
    #[inline]
    pub const fn with_dnr(self) -> Self {
        Self { dnr: true, ..self }
    }

    /// Reads bytes 15:14 of a completion; bit 0, the phase tag, is ignored.
    #[inline]
    pub const fn from_field(field: u16) -> Self {
        Self {
            sct: (field >> 9) as u8 & 7,
            sc: (field >> 1) as u8,
            crd: (field >> 12) as u8 & 3,
            more: field & 0x4000 != 0,
            dnr: field & 0x8000 != 0,
        }
    }

    /// Bytes 15:14 of a completion with this status and the phase tag given.
    #[inline]
    pub const fn to_field(self, phase: bool) -> u16 {
        phase as u16
            | (self.sc as u16) << 1
            | (self.sct as u16 & 7) << 9
            | (self.crd as u16 & 3) << 12
            | (self.more as u16) << 14
            | (self.dnr as u16) << 15
    }

    /// Whether the command succeeded.
    #[inline]
    pub const fn is_success(self) -> bool {
        self.sct == SCT_GENERIC && self.sc == 0
    }

    /// Whether this is the same status code as another, whatever the retry bits say.
    #[inline]
    pub const fn is(self, code: Self) -> bool {
        self.sct == code.sct && self.sc == code.sc
    }

    /// The specification's name of the code; `"Vendor Specific"` in the ranges vendors own,
    /// `"Unknown"` for the rest. Codes that Fabrics commands use otherwise have the meaning
    /// of the NVM command set here; see [`Status::fabrics`].
    pub const fn name(self) -> &'static str {
        match (self.sct, self.sc) {
            (SCT_GENERIC, sc) => named(generic::name(sc), sc),
            (SCT_COMMAND_SPECIFIC, sc) => named(command_specific::name(sc), sc),
            (SCT_MEDIA, sc) => named(media::name(sc), sc),
            (SCT_PATH, sc) => named(path::name(sc), sc),
            (SCT_SYSTEM, sc) => match system::name(sc) {
                Some(name) => name,
                None => "Error of the Operating System",
            },
            (SCT_VENDOR, _) => "Vendor Specific",
            _ => "Unknown",
        }
    }

    /// The name when the command was a Fabrics command (opcode 7Fh), which gives codes 80h
    /// to BFh of the command specific type its own meanings (Base 4.2.3.2).
    pub const fn fabrics_name(self) -> &'static str {
        if self.sct == SCT_COMMAND_SPECIFIC
            && let Some(name) = fabrics::name(self.sc)
        {
            return name;
        }
        self.name()
    }

    /// Displays like the status itself, with the name it has for a Fabrics command.
    pub const fn fabrics(self) -> FabricsStatus {
        FabricsStatus(self)
    }

    fn write(self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{name} (sct {:X}h, sc {:02X}h", self.sct, self.sc)?;
        if self.crd != 0 {
            write!(f, ", crd {}", self.crd)?;
        }
        if self.more {
            f.write_str(", more")?;
        }
        if self.dnr {
            f.write_str(", dnr")?;
        }
        f.write_str(")")
    }
}

/// Writes name, type, code and set bits: `Invalid Field in Command (sct 0h, sc 02h, dnr)`.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(self.name(), f)
    }
}

/// The status of a Fabrics command, for display. Made by [`Status::fabrics`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FabricsStatus(Status);

impl fmt::Display for FabricsStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.write(self.0.fabrics_name(), f)
    }
}

const fn named(name: Option<&'static str>, sc: u8) -> &'static str {
    match name {
        Some(name) => name,
        None if sc >= 0xc0 => "Vendor Specific",
        None => "Unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;
    use std::format;
    use std::string::ToString;

    #[test]
    fn every_listed_code_has_a_name_of_its_own() {
        let mut names = HashSet::new();
        for group in [generic::ALL, command_specific::ALL, media::ALL, path::ALL, system::ALL] {
            for code in group {
                assert_ne!(code.name(), "Unknown", "{code:?}");
                assert_ne!(code.name(), "Vendor Specific", "{code:?}");
                assert!(names.insert(code.name()), "{} twice", code.name());
            }
        }
        assert!(names.len() > 130);
        for code in fabrics::ALL {
            assert_ne!(code.fabrics_name(), code.name(), "{code:?}");
            assert!(names.insert(code.fabrics_name()));
        }
    }

    #[test]
    fn displays_name_codes_and_bits() {
        let status = generic::INVALID_FIELD.with_dnr();
        assert_eq!(status.to_string(), "Invalid Field in Command (sct 0h, sc 02h, dnr)");
        let busy = Status { crd: 2, more: true, ..generic::NAMESPACE_NOT_READY };
        assert_eq!(busy.to_string(), "Namespace Not Ready (sct 0h, sc 82h, crd 2, more)");
        assert_eq!(Status::new(4, 9).to_string(), "Unknown (sct 4h, sc 09h)");
        assert_eq!(Status::new(0, 0xc1).name(), "Vendor Specific");
        assert_eq!(Status::new(7, 1).name(), "Vendor Specific");
    }

    #[test]
    fn one_code_means_two_things() {
        let status = fabrics::CONNECT_INVALID_PARAMETERS;
        assert_eq!(format!("{}", status.fabrics()), "Connect Invalid Parameters (sct 1h, sc 82h)");
        assert_eq!(status.name(), "Attempted Write to Read Only Range");
        assert_eq!(generic::INVALID_FIELD.fabrics_name(), "Invalid Field in Command");
    }

    #[test]
    fn is_ignores_the_retry_bits() {
        assert!(generic::INVALID_FIELD.with_dnr().is(generic::INVALID_FIELD));
        assert!(!generic::INVALID_FIELD.is(generic::INVALID_OPCODE));
        assert!(Status::SUCCESS.with_dnr().is_success());
    }

    proptest! {
        #[test]
        fn field_round_trip(field: u16) {
            let status = Status::from_field(field);
            prop_assert_eq!(status.to_field(field & 1 != 0), field);
            prop_assert!(!status.to_string().is_empty());
        }
    }
}
