//! The grammars of option values that are words: the metadata list (reference 1.9), key files,
//! tokens, kinds of sockets. Called by [`super::draft`]; an error says what is wrong with the
//! text, not which option it was given to.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use doorbell_load::Protect;
use doorbell_spec::command::control;

/// The kinds of sockets that `-S`, `-Z` and `-z` know.
pub const SOCK_IMPLS: [&str; 3] = ["posix", "ssl", "uring"];

/// `KEY=VALUE` pairs separated by comma, blank, tab or newline: what they ask for, and the keys that mean nothing.
pub fn metadata(text: &str) -> Result<(Protect, Vec<String>), String> {
    let separator = [',', ' ', '\t', '\n'];
    if text.is_empty() || text.ends_with(separator) {
        return Err("a KEY=VALUE pair is expected at the end".into());
    }
    let (mut protect, mut unknown, mut known) = (Protect::default(), Vec::new(), Vec::new());
    for pair in text.split(separator).filter(|pair| !pair.is_empty()) {
        let (key, value) = match pair.split_once('=') {
            Some((key, value)) if !value.is_empty() => (key, value),
            _ => return Err(format!("\"{pair}\" is not KEY=VALUE")),
        };
        if key.len() > 31 || value.len() > 1023 {
            return Err("a key has at most 31 characters, a value 1023".into());
        }
        if known.contains(&key) {
            return Err(format!("{key} is said twice"));
        }
        known.push(key);
        let wrong = || format!("{key} cannot be \"{value}\"");
        match key {
            "PRACT" if matches!(value, "0" | "1") => protect.by_controller = value == "1",
            "PRACT" => return Err(wrong()),
            "PRCHK" => {
                protect.checks = 0;
                for field in value.split('|') {
                    protect.checks |= match field {
                        "GUARD" => control::PRCHK_GUARD,
                        "REFTAG" => control::PRCHK_REF,
                        "APPTAG" => control::PRCHK_APP,
                        _ => return Err(wrong()),
                    };
                }
            }
            _ => unknown.push(key.to_string()),
        }
    }
    Ok((protect, unknown))
}

/// A file that holds a secret: absolute path, owned by the caller, closed to group and others.
pub fn key_file(path: &Path) -> Result<(), String> {
    if !path.is_absolute() {
        return Err("the path must be absolute".into());
    }
    let file = std::fs::metadata(path).map_err(|e| e.to_string())?;
    if file.mode() & 0o077 != 0 {
        let mode = file.mode() & 0o777;
        return Err(format!("mode {mode:o} opens it to others; chmod 600 closes it"));
    }
    // The owner of /proc/self is the effective user of this process.
    let caller = std::fs::metadata("/proc/self").map_err(|e| e.to_string())?;
    if file.uid() != caller.uid() {
        let (owner, caller) = (file.uid(), caller.uid());
        return Err(format!("it belongs to user {owner}, not to the caller {caller}"));
    }
    Ok(())
}

/// A UUID in its 8-4-4-4-12 form, as bytes in that order.
pub fn uuid(text: &str) -> Result<[u8; 16], String> {
    let groups: Vec<&str> = text.split('-').collect();
    let digits = groups.concat();
    let number = u128::from_str_radix(&digits, 16).ok().filter(|_| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    match number.filter(|_| groups.iter().map(|g| g.len()).eq([8, 4, 4, 4, 12])) {
        Some(number) => Ok(number.to_be_bytes()),
        None => Err("a UUID looks like 00112233-4455-6677-8899-aabbccddeeff".into()),
    }
}

/// One of [`SOCK_IMPLS`].
pub fn sock_impl(text: &str) -> Result<(), String> {
    match SOCK_IMPLS.contains(&text) {
        true => Ok(()),
        false => Err(format!("sockets are {}", SOCK_IMPLS.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn metadata_lists() {
        for good in ["PRACT=1", "PRACT=0,PRCHK=GUARD|REFTAG", " PRACT=1 \tPRCHK=APPTAG"] {
            assert_eq!(metadata(good).unwrap().1, [""; 0], "{good}");
        }
        assert_eq!(metadata("pract=1"), Ok((Protect::default(), vec!["pract".to_string()])));
        let (protect, _) = metadata("PRACT=1,PRCHK=GUARD|APPTAG").unwrap();
        let checks = control::PRCHK_GUARD | control::PRCHK_APP;
        assert_eq!(protect, Protect { by_controller: true, checks });
        let long = format!("{}=1", "k".repeat(32));
        for bad in
            ["", "PRACT", "PRACT=", "PRACT=1,", "PRACT=yes", "PRCHK=GARD", "PRCHK=GUARD|", "PRACT=1,PRACT=0", &long]
        {
            assert!(metadata(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn key_files() {
        let path = std::env::temp_dir().join(format!("doorbell-key-{}", std::process::id()));
        std::fs::write(&path, "secret").unwrap();
        let mode = |m| std::fs::set_permissions(&path, PermissionsExt::from_mode(m)).unwrap();
        mode(0o600);
        assert_eq!(key_file(&path), Ok(()));
        mode(0o640);
        assert!(key_file(&path).unwrap_err().contains("mode 640"));
        std::fs::remove_file(&path).unwrap();
        assert!(key_file(&path).unwrap_err().contains("No such file"));
        assert!(key_file(Path::new("key")).unwrap_err().contains("absolute"));
    }

    #[test]
    fn uuids() {
        let bytes = std::array::from_fn(|at| at as u8 * 0x11);
        assert_eq!(uuid("00112233-4455-6677-8899-aabbccddeeFF"), Ok(bytes));
        for bad in [
            "",
            "00112233445566778899aabbccddeeff",
            "0011223g-4455-6677-8899-aabbccddeeff",
            "+0112233-4455-6677-8899-aabbccddeeff",
        ] {
            assert!(uuid(bad).is_err(), "{bad}");
        }
    }
}
