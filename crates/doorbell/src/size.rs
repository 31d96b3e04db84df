//! Sizes on the command lines of our own subcommands: bytes, or with one of the suffixes K, M, G, T (powers of 1024).

/// Parses a size of at least one byte.
///
/// # Errors
/// What is wrong with the text.
pub fn parse(text: &str) -> Result<u64, String> {
    let wrong = || format!("\"{text}\" is no size: digits with at most one suffix K, M, G or T, like 512M");
    let (digits, shift) = match text.char_indices().last() {
        Some((at, suffix)) if suffix.is_ascii_alphabetic() => {
            let power = "kmgt".find(suffix.to_ascii_lowercase()).ok_or_else(wrong)?;
            (&text[..at], 10 * (power as u32 + 1))
        }
        _ => (text, 0),
    };
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    match digits.parse::<u64>().ok().and_then(|count| count.checked_mul(1 << shift)) {
        Some(size) if size > 0 => Ok(size),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn sizes_have_at_most_one_suffix() {
        assert_eq!(parse("512"), Ok(512));
        assert_eq!(parse("4k"), Ok(4096));
        assert_eq!(parse("1G"), Ok(1 << 30));
        assert_eq!(parse("2T"), Ok(2 << 40));
        for wrong in ["", "0", "G", "-1", "1GB", "1.5G", "1x", "99999999999T", "+1", "1é"] {
            assert!(parse(wrong).is_err_and(|why| why.contains(wrong)), "{wrong}");
        }
    }
}
