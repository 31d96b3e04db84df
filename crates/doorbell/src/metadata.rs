//! `metadata=…` of a target's namespace: what its blocks have beside their data.

use doorbell_spec::protection::{Format, Guard};
use doorbell_subsystem::Metadata;

/// What was said of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Words {
    size: Option<u16>,
    kind: Option<u8>,
    guard: Option<Guard>,
    storage_bits: Option<u8>,
    first: bool,
    separate: bool,
}

impl Words {
    /// Takes a word that is about metadata; false for any other.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn take(&mut self, word: &str) -> Result<bool, String> {
        let number = |value: &str, most: u16| {
            let number = value.parse().ok().filter(|&number: &u16| (1..=most).contains(&number));
            number.ok_or_else(|| format!("\"{word}\" is not 1 to {most}"))
        };
        match word.split_once('=').unwrap_or((word, "")) {
            ("metadata", value) => self.size = Some(number(value, 4096)?),
            ("pi", value) => self.kind = Some(number(value, 3)? as u8),
            ("guard", "16") => self.guard = Some(Guard::Crc16),
            ("guard", "32") => self.guard = Some(Guard::Crc32c),
            ("guard", "64") => self.guard = Some(Guard::Crc64),
            ("guard", _) => return Err(format!("\"{word}\": guards have 16, 32 or 64 bits")),
            ("storage", value) => self.storage_bits = Some(number(value, 64)? as u8),
            ("first", "") => self.first = true,
            ("separate", "") => self.separate = true,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// What they say together; none where nothing was said.
    ///
    /// # Errors
    /// What does not go together.
    pub fn metadata(self) -> Result<Option<Metadata>, String> {
        let Some(size) = self.size else {
            let alone = self.kind.is_some() || self.guard.is_some() || self.storage_bits.is_some();
            return match alone || self.first || self.separate {
                true => Err("pi, guard, storage, first and separate need metadata=BYTES".into()),
                false => Ok(None),
            };
        };
        let Some(kind) = self.kind else {
            return match self.guard.is_some() || self.storage_bits.is_some() || self.first {
                true => Err("guard, storage and first need pi=1, 2 or 3".into()),
                false => Ok(Some(Metadata { size, extended: !self.separate, protection: None })),
            };
        };
        let guard = self.guard.unwrap_or(Guard::Crc16);
        // The least that there is.
        let storage_bits = self.storage_bits.unwrap_or(if guard == Guard::Crc32c { 16 } else { 0 });
        let format = Format::new(kind, guard, storage_bits, size, self.first).map_err(|why| why.to_string())?;
        Ok(Some(Metadata { size, extended: !self.separate, protection: Some(format) }))
    }
}
