//! NVMe Qualified Names (Base 4.7): checking them and their fixed 256-byte fields. Transport
//! identifiers, Connect and the discovery log use it.

use crate::text::nul_terminated;
use core::fmt;

/// The name of the discovery subsystem that every discovery service answers to.
pub const DISCOVERY_NQN: &str = "nqn.2014-08.org.nvmexpress.discovery";
/// What a name made of a UUID begins with (Base 4.7, "second format").
pub const UUID_PREFIX: &str = "nqn.2014-08.org.nvmexpress:uuid:";
/// The longest name, in bytes, without the terminating NUL.
pub const MAX_LEN: usize = 223;
/// Bytes of a name's fixed field.
pub const FIELD_LEN: usize = 256;

/// Why a name is not an NVMe Qualified Name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NqnError {
    /// No bytes.
    Empty,
    /// More than 223 bytes; how many.
    TooLong(usize),
    /// Not UTF-8, or with a control character in it.
    NotText,
    /// Does not begin with `nqn.`.
    NoPrefix,
    /// What follows `nqn.` is not `yyyy-mm.` with a month from 01 to 12.
    BadDate,
    /// The reverse domain is empty or has an empty label, or one with other characters than
    /// letters, digits and hyphens.
    BadDomain,
    /// Nothing after the colon.
    EmptyName,
    /// The UUID form without a UUID of 32 hexadecimal digits in groups of 8-4-4-4-12.
    BadUuid,
    /// A 256-byte field without a terminating NUL.
    NotTerminated,
}

impl fmt::Display for NqnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Empty => "it is empty",
            Self::TooLong(len) => {
                return write!(f, "it has {len} bytes, and a name has at most {MAX_LEN}");
            }
            Self::NotText => "it is not UTF-8 text, or has control characters",
            Self::NoPrefix => "it does not begin with \"nqn.\"",
            Self::BadDate => "after \"nqn.\" comes a year and a month, as in \"nqn.2014-08.\"",
            Self::BadDomain => {
                "after the date comes a reversed domain name of letters, digits and hyphens, as in \"org.nvmexpress\""
            }
            Self::EmptyName => "nothing follows the colon",
            Self::BadUuid => "\"uuid:\" wants a UUID such as 00112233-4455-6677-8899-aabbccddeeff",
            Self::NotTerminated => "its 256-byte field has no terminating NUL",
        };
        f.write_str(text)
    }
}

impl core::error::Error for NqnError {}

/// Checks a name against the two formats (Base 4.7): `nqn.yyyy-mm.reverse.domain[:name]`, and
/// `nqn.2014-08.org.nvmexpress:uuid:UUID`.
pub fn validate(nqn: &str) -> Result<(), NqnError> {
    check_text(nqn)?;
    if let Some(uuid) = nqn.strip_prefix(UUID_PREFIX) {
        return if is_uuid(uuid.as_bytes()) { Ok(()) } else { Err(NqnError::BadUuid) };
    }
    let rest = nqn.strip_prefix("nqn.").ok_or(NqnError::NoPrefix)?;
    let domain_and_name = after_date(rest).ok_or(NqnError::BadDate)?;
    let (domain, name) = match domain_and_name.split_once(':') {
        Some((domain, name)) => (domain, Some(name)),
        None => (domain_and_name, None),
    };
    if !domain.split('.').all(is_label) {
        return Err(NqnError::BadDomain);
    }
    if name == Some("") {
        return Err(NqnError::EmptyName);
    }
    Ok(())
}

/// A name's fixed field, padded with NULs. Fails on an empty or overlong name, on one with
/// control characters; the formats are not checked, for peers use names of their own.
pub fn to_field(nqn: &str) -> Result<[u8; FIELD_LEN], NqnError> {
    check_text(nqn)?;
    Ok(crate::text::nul_padded(nqn))
}

/// The name in a fixed field: what stands before the first NUL, at most 223 bytes of UTF-8
/// without control characters. The formats are not checked.
pub fn from_field(field: &[u8; FIELD_LEN]) -> Result<&str, NqnError> {
    let bytes = nul_terminated(field);
    if bytes.len() == FIELD_LEN {
        return Err(NqnError::NotTerminated);
    }
    let nqn = core::str::from_utf8(bytes).map_err(|_| NqnError::NotText)?;
    check_text(nqn)?;
    Ok(nqn)
}

fn check_text(nqn: &str) -> Result<(), NqnError> {
    if nqn.is_empty() {
        return Err(NqnError::Empty);
    }
    if nqn.len() > MAX_LEN {
        return Err(NqnError::TooLong(nqn.len()));
    }
    if nqn.chars().any(char::is_control) {
        return Err(NqnError::NotText);
    }
    Ok(())
}

/// What follows `yyyy-mm.`.
fn after_date(text: &str) -> Option<&str> {
    let (date, rest) = text.split_once('.')?;
    let (year, month) = date.split_once('-')?;
    let digits = |text: &str, len| text.len() == len && text.bytes().all(|b| b.is_ascii_digit());
    let month_exists = month.parse::<u8>().is_ok_and(|month| (1..=12).contains(&month));
    (digits(year, 4) && digits(month, 2) && month_exists).then_some(rest)
}

fn is_label(label: &str) -> bool {
    !label.is_empty()
        && label.len() <= 63
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn is_uuid(text: &[u8]) -> bool {
    text.len() == 36
        && text.iter().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::format;
    use std::string::{String, ToString};

    #[test]
    fn the_formats_and_their_errors() {
        let uuid = "00112233-4455-6677-8899-aabbccddeeff";
        let long = format!("nqn.2014-08.org.example:{}", "x".repeat(200));
        let table: &[(&str, Result<(), NqnError>)] = &[
            (DISCOVERY_NQN, Ok(())),
            ("nqn.2016-06.io.spdk:cnode1", Ok(())),
            ("nqn.2014-08.com.example:nvme:nvm.subsystem/sn d78432", Ok(())),
            (&format!("{UUID_PREFIX}{uuid}"), Ok(())),
            ("nqn.2024-12.io.doorbell:für", Ok(())),
            ("", Err(NqnError::Empty)),
            (&long, Err(NqnError::TooLong(224))),
            ("nqn.2014-08.org.example:a\nb", Err(NqnError::NotText)),
            ("iqn.2014-08.org.example:a", Err(NqnError::NoPrefix)),
            ("nqn.2014-13.org.example:a", Err(NqnError::BadDate)),
            ("nqn.2014-8.org.example:a", Err(NqnError::BadDate)),
            ("nqn.2014.08.org.example:a", Err(NqnError::BadDate)),
            ("nqn.+014-08.org.example:a", Err(NqnError::BadDate)),
            ("nqn.2014-08", Err(NqnError::BadDate)),
            ("nqn.2014-08.", Err(NqnError::BadDomain)),
            ("nqn.2014-08.org..example:a", Err(NqnError::BadDomain)),
            ("nqn.2014-08.-org.example:a", Err(NqnError::BadDomain)),
            ("nqn.2014-08.org.exa_mple:a", Err(NqnError::BadDomain)),
            ("nqn.2014-08.org.example:", Err(NqnError::EmptyName)),
            (&format!("{UUID_PREFIX}{}", &uuid[1..]), Err(NqnError::BadUuid)),
            (&format!("{UUID_PREFIX}{}", uuid.replace('-', "0")), Err(NqnError::BadUuid)),
        ];
        for (nqn, wanted) in table {
            assert_eq!(validate(nqn), *wanted, "{nqn}");
        }
        assert_eq!(long.len(), 224);
        assert_eq!(validate(&long[..223]), Ok(()));
    }

    #[test]
    fn fields_that_lie() {
        assert_eq!(from_field(&[b'a'; 256]), Err(NqnError::NotTerminated));
        assert_eq!(from_field(&[0; 256]), Err(NqnError::Empty));
        let mut field = [b'a'; 256];
        field[255] = 0;
        assert_eq!(from_field(&field), Err(NqnError::TooLong(255)));
        field[1] = 0;
        assert_eq!(from_field(&field), Ok("a"));
        field[0] = 0xff;
        assert_eq!(from_field(&field), Err(NqnError::NotText));
    }

    #[test]
    fn errors_say_what_is_wanted() {
        assert_eq!(NqnError::TooLong(300).to_string(), "it has 300 bytes, and a name has at most 223");
    }

    proptest! {
        #[test]
        fn any_text_and_any_field_are_judged(text: String, bytes: [u8; 32]) {
            let verdict = validate(&text);
            if let Ok(field) = to_field(&text) {
                prop_assert_eq!(from_field(&field), Ok(text.as_str()));
            } else {
                prop_assert!(verdict.is_err());
            }
            let mut field = [0; 256];
            field[..32].copy_from_slice(&bytes);
            if let Ok(nqn) = from_field(&field) {
                prop_assert_eq!(to_field(nqn).map(|f| from_field(&f).map(str::len)), Ok(Ok(nqn.len())));
            }
        }
    }
}
