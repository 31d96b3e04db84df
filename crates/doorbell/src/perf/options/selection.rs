//! What I/Os choose from: the values of `-o` with a mix, `--range`, `--fill` and the words of `-w`, and what of them goes together.

use doorbell_load::{Bound, Fill, IoKind, LbaRange, Selection};

use super::draft::Draft;
use super::numbers::{capacity, capacity32};
use super::{NumberOfIos, Pattern};

/// Most sizes of a mix.
const SIZES: usize = 16;
/// Longest pattern of `--fill`, which fits the smallest block.
const PATTERN: usize = 512;
/// The words of `-w`, for messages.
pub const WORDS: &str = "read, write, rw, trim, verify, write_zeroes, compare, or one of them with rand before it, or append (to zones); \
     flushes between writes are --flush-every";

/// The value of `-o`: a size, or sizes with their weights, ascending; and the largest.
pub fn sizes(label: &str, text: &str) -> Result<(u32, Vec<(u32, u32)>), String> {
    if !text.contains([':', ',']) {
        return Ok((capacity32(label, text)?, Vec::new()));
    }
    let wrong = |why: &str| format!("{label}: \"{text}\" is not valid: {why}");
    let mut sizes = Vec::new();
    for part in text.split(',') {
        let (size, weight) =
            part.split_once(':').ok_or_else(|| wrong("sizes with shares are expected, as 4k:70,64k:30"))?;
        let weight = weight.parse().ok().filter(|weight| (1..=1_000_000).contains(weight));
        let weight: u32 = weight.ok_or_else(|| wrong("a share is a whole number from 1 to 1000000"))?;
        sizes.push((capacity32(label, size)?, weight));
    }
    sizes.sort_unstable();
    if sizes.len() > SIZES {
        return Err(wrong("there are more than 16 sizes"));
    }
    if sizes.windows(2).any(|pair| pair[0].0 == pair[1].0) {
        return Err(wrong("a size comes twice"));
    }
    if sizes[0].0 == 0 {
        return Err(wrong("an I/O has a byte at least"));
    }
    let largest = sizes[sizes.len() - 1].0;
    Ok((largest, if sizes.len() > 1 { sizes } else { Vec::new() }))
}

/// The value of `--range`.
pub fn range(label: &str, text: &str) -> Result<LbaRange, String> {
    let (from, to) = text.split_once('-').ok_or("FROM-TO is expected, as 10%-50%, 1g-2g or 0lba-1000lba")?;
    let (from, to) = (bound(label, from)?, bound(label, to)?);
    let in_order = match (from, to) {
        (Bound::Percent(from), Bound::Percent(to)) => from < to,
        (Bound::Bytes(from), Bound::Bytes(to)) | (Bound::Blocks(from), Bound::Blocks(to)) => from < to,
        _ => true,
    };
    if in_order { Ok(LbaRange { from, to }) } else { Err("it ends before it begins".into()) }
}

fn bound(label: &str, text: &str) -> Result<Bound, String> {
    if let Some(number) = text.strip_suffix('%') {
        return match number.parse::<f64>() {
            Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(Bound::Percent(percent)),
            _ => Err(format!("{text} is no percentage from 0% to 100%")),
        };
    }
    match text.strip_suffix("lba") {
        Some(number) => Ok(Bound::Blocks(capacity(label, number)?)),
        None => Ok(Bound::Bytes(capacity(label, text)?)),
    }
}

/// The value of `--fill`.
pub fn fill(text: &str) -> Result<Fill, String> {
    let (word, value) = text.split_once(':').map_or((text, None), |(word, value)| (word, Some(value)));
    match (word, value) {
        ("zero", None) => Ok(Fill::Zero),
        ("random", None) => Ok(Fill::Random),
        ("pattern", Some(digits)) => {
            let digits = digits.strip_prefix("0x").unwrap_or(digits);
            let byte = |at: usize| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
            let whole = digits.len() % 2 == 0 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            let bytes: Option<Vec<u8>> = (0..digits.len()).step_by(2).map(byte).collect();
            let bytes = bytes.filter(|bytes| whole && bytes.len().is_power_of_two() && bytes.len() <= PATTERN);
            bytes.map(Fill::Pattern).ok_or_else(|| "a pattern is 1, 2, 4, ... or 512 bytes in hexadecimal".into())
        }
        ("compress", Some(percent)) => match percent.parse() {
            Ok(percent @ 0..=100) => Ok(Fill::Compress(percent)),
            _ => Err("compress:N has the percentage from 0 to 100 that compression leaves".into()),
        },
        _ => Err("zero, random, pattern:HEX and compress:N are known".into()),
    }
}

/// The operation that a word of `-w` names, when it is neither reading nor writing.
///
/// # Errors
/// Why it cannot be had.
pub fn operation(word: &str) -> Result<Option<IoKind>, String> {
    match word.strip_prefix("rand").unwrap_or(word) {
        "trim" => Ok(Some(IoKind::Trim)),
        "write_zeroes" => Ok(Some(IoKind::WriteZeroes)),
        "verify" => Ok(Some(IoKind::Verify)),
        "compare" => Ok(Some(IoKind::Compare)),
        "append" if word == "append" => Ok(Some(IoKind::Append)),
        _ => Ok(None),
    }
}

/// What goes together.
pub fn resolve(draft: &Draft, pattern: Pattern, word: &str, notes: &mut Vec<String>) -> Result<Selection, String> {
    let mut selection = Selection { operation: operation(word)?, ..draft.selection.clone() };
    let (mixed, zipf) = (!selection.sizes.is_empty(), draft.zipf.is_some() && pattern.random);
    let writes = selection.operation.is_none() && pattern.read_percent < 100;
    if selection.full_coverage && !pattern.random {
        notes.push(format!("--coverage full has no effect: -w {word} is sequential and leaves nothing out"));
        selection.full_coverage = false;
    }
    let refused = if selection.full_coverage && zipf {
        "--coverage full takes every position equally often, which -F (--zipf) is not to do"
    } else if selection.full_coverage && mixed {
        "--coverage full needs positions of one size, and -o (--io-size) mixes several"
    } else if zipf && mixed {
        "-F (--zipf) needs positions of one size, and -o (--io-size) mixes several"
    } else if mixed && matches!(draft.number_ios, Some(NumberOfIos::Percent(_))) {
        "-d (--number-ios) in percent counts I/Os of one size, and -o (--io-size) mixes several; give a number"
    } else if selection.flush_every.is_some() && !writes {
        "--flush-every counts writes, and -w has none"
    } else if selection.verify.is_some() && selection.operation.is_some() {
        "--verify is for reads and writes, and -w has none"
    } else if selection.operation == Some(IoKind::Compare) && !matches!(selection.fill, Fill::Zero | Fill::Pattern(_)) {
        "-w compare needs to know what is there: --fill zero, or --fill pattern:HEX as it was written"
    } else {
        let sends = writes || matches!(selection.operation, Some(IoKind::Compare | IoKind::Append));
        if selection.fill != Fill::Numbered && !sends {
            notes.push(format!("--fill has no effect: -w {word} sends no data"));
            selection.fill = Fill::Numbered;
        }
        if selection.verify.is_some() && pattern.read_percent == 0 {
            notes.push(format!("--verify checks nothing: -w {word} reads nothing; -w randrw -M 50 writes and reads"));
        }
        return Ok(selection);
    };
    Err(refused.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixes_of_sizes() {
        assert_eq!(sizes("-o", "4k"), Ok((4096, vec![])));
        assert_eq!(sizes("-o", "4k:100"), Ok((4096, vec![])));
        let mix = vec![(4096, 70), (65_536, 20), (1 << 20, 10)];
        assert_eq!(sizes("-o", "64k:20,4k:70,1m:10"), Ok((1 << 20, mix)));
        for (bad, why) in [
            ("4k:70,64k", "sizes with shares"),
            ("4k:0,8k:1", "a share is"),
            ("4k:-1,8k:1", "a share is"),
            ("4k:1,4096:2", "a size comes twice"),
            ("0:1,4k:2", "a byte at least"),
            ("4k:1,", "sizes with shares"),
            ("x:1,4k:1", "could not convert"),
        ] {
            let error = sizes("-o", bad).unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    #[test]
    fn ranges() {
        let good = |text| range("--range", text).map(|range| (range.from, range.to));
        assert_eq!(good("10%-50.5%"), Ok((Bound::Percent(10.0), Bound::Percent(50.5))));
        assert_eq!(good("1g-2g"), Ok((Bound::Bytes(1 << 30), Bound::Bytes(2 << 30))));
        assert_eq!(good("8lba-1klba"), Ok((Bound::Blocks(8), Bound::Blocks(1024))));
        assert_eq!(good("4k-100%"), Ok((Bound::Bytes(4096), Bound::Percent(100.0))));
        for bad in ["", "10%", "50%-10%", "0%-101%", "nan%-1%", "-1-5", "2g-1g", "5lba-5lba", "1t-2t", "1-2-3"] {
            assert!(good(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn fills() {
        assert_eq!(fill("pattern:0xDEADbeef"), Ok(Fill::Pattern(vec![0xde, 0xad, 0xbe, 0xef])));
        assert_eq!(
            (fill("zero"), fill("random"), fill("compress:60")),
            (Ok(Fill::Zero), Ok(Fill::Random), Ok(Fill::Compress(60)))
        );
        for bad in [
            "",
            "zero:1",
            "pattern",
            "pattern:",
            "pattern:abc",
            "pattern:010203",
            "pattern:+1",
            "pattern:é0",
            "compress:101",
        ] {
            assert!(fill(bad).is_err(), "{bad}");
        }
    }
}
