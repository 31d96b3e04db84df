//! The number grammars of the compatible command line (reference 1.2): plain integers, capacities with a
//! suffix, percent. Called by [`super::draft`]. What the original drops in silence (text after the number,
//! the wrap of a negative one, the cut to 32 bits) is an error here that names the option and the value.

use super::NumberOfIos;

/// A plain decimal integer from 0 to 2^31 - 1 (group A). `label` names the option in the error.
pub fn plain(label: &str, text: &str) -> Result<u32, String> {
    let body = text.trim_start();
    let number = unsigned(label, text, body.strip_prefix('+').unwrap_or(body))?;
    fit(label, text, number, i32::MAX as u64)
}

/// An unsigned decimal integer of 64 bits.
pub fn wide(label: &str, text: &str) -> Result<u64, String> {
    unsigned(label, text, text)
}

/// Decimal digits and at most one of `k K m M g G`, from 0 to 2^64 - 1 (group B).
pub fn capacity(label: &str, text: &str) -> Result<u64, String> {
    let body = text.trim_start();
    let body = body.strip_prefix('+').unwrap_or(body);
    let shift = match body.as_bytes().last() {
        Some(b'k' | b'K') => 10,
        Some(b'm' | b'M') => 20,
        Some(b'g' | b'G') => 30,
        Some(b'0'..=b'9') | None => 0,
        Some(_) => {
            let why = "digits and then at most one of k, m, g are expected";
            return Err(format!("{label}: could not convert \"{text}\": {why}"));
        }
    };
    let digits = if shift == 0 { body } else { &body[..body.len() - 1] };
    let number = unsigned(label, text, digits)?;
    number.checked_mul(1 << shift).ok_or_else(|| too_large(label, text, u64::MAX))
}

/// A capacity of at most 2^32 - 1.
pub fn capacity32(label: &str, text: &str) -> Result<u32, String> {
    fit(label, text, capacity(label, text)?, u32::MAX.into())
}

/// The value of `-d`: a capacity, where 0 is no limit, or a percentage of 1 or more.
pub fn number_of_ios(label: &str, text: &str) -> Result<Option<NumberOfIos>, String> {
    let Some((number, after)) = text.split_once('%') else {
        let count = capacity(label, text)?;
        return Ok((count != 0).then_some(NumberOfIos::Count(count)));
    };
    if !after.is_empty() {
        let why = "nothing may follow the % sign";
        return Err(format!("{label}: could not convert \"{text}\": {why}"));
    }
    match unsigned(label, text, number)? {
        0 => Err(format!("{label}: \"{text}\" is too small: 1% at least")),
        number => {
            let percent = fit(label, text, number, u32::MAX.into())?;
            Ok(Some(NumberOfIos::Percent(percent)))
        }
    }
}

fn unsigned(label: &str, text: &str, digits: &str) -> Result<u64, String> {
    let refuse = |why: &str| Err(format!("{label}: could not convert \"{text}\": {why}"));
    if digits.is_empty() {
        return refuse("a number is expected");
    }
    if digits.starts_with('-') {
        return refuse("negative numbers are not allowed");
    }
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return refuse("only decimal digits are expected");
    }
    digits.parse().map_err(|_| too_large(label, text, u64::MAX))
}

fn fit(label: &str, text: &str, number: u64, most: u64) -> Result<u32, String> {
    match u32::try_from(number) {
        Ok(fits) if number <= most => Ok(fits),
        _ => Err(too_large(label, text, most)),
    }
}

fn too_large(label: &str, text: &str, most: u64) -> String {
    format!("{label}: could not convert \"{text}\": the largest value is {most}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_numbers() {
        assert_eq!(plain("-t", "10"), Ok(10));
        assert_eq!(plain("-t", " +7"), Ok(7));
        assert_eq!(plain("-t", "0"), Ok(0));
        assert_eq!(plain("-t", "2147483647"), Ok(2147483647));
        for bad in ["", "x", "1x", "1 ", "-1", "1k", "2147483648", "99999999999999999999"] {
            let error = plain("-t", bad).unwrap_err();
            assert!(error.starts_with(&format!("-t: could not convert \"{bad}\"")), "{error}");
        }
    }

    #[test]
    fn capacities() {
        for (text, value) in [
            ("0", 0),
            ("4096", 4096),
            ("4k", 4096),
            ("4K", 4096),
            ("1m", 1 << 20),
            ("1M", 1 << 20),
            ("2g", 2 << 30),
            ("2G", 2 << 30),
        ] {
            assert_eq!(capacity("-o", text), Ok(value), "{text}");
        }
        assert_eq!(capacity("-d", "18446744073709551615"), Ok(u64::MAX));
        assert_eq!(capacity32("-o", "4294967295"), Ok(u32::MAX));
    }

    #[test]
    fn what_the_original_drops_in_silence_is_refused() {
        for bad in ["4kb", "4k9", "4t", "-1", "-1k", "k", "", "4 k", "é", "4é", "17179869184g"] {
            let error = capacity("-o", bad).unwrap_err();
            assert!(error.contains(&format!("-o: could not convert \"{bad}\"")), "{error}");
        }
        for bad in ["4g", "4294967296"] {
            let error = capacity32("-o", bad).unwrap_err();
            assert!(error.ends_with("the largest value is 4294967295"), "{error}");
        }
    }

    #[test]
    fn numbers_of_ios() {
        assert_eq!(number_of_ios("-d", "0"), Ok(None));
        assert_eq!(number_of_ios("-d", "8g"), Ok(Some(NumberOfIos::Count(8 << 30))));
        assert_eq!(number_of_ios("-d", "150%"), Ok(Some(NumberOfIos::Percent(150))));
        for bad in ["0%", "%", "-1%", "1k%", "10%x", "1%%", "4294967296%"] {
            assert!(number_of_ios("-d", bad).unwrap_err().contains(bad), "{bad}");
        }
    }
}
