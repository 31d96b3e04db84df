//! The core mask of `-c` (reference 1.7): which cores get a worker. Called for `perf` and `target`.

/// Cores are numbered from 0 to one less than this.
const CORES: usize = 1024;

/// The cores of `text`, ascending and each once: a hexadecimal mask with optional `0x` and commas, or a
/// list in brackets. Never empty. Whether this machine has the cores is not looked at.
pub fn cores(text: &str) -> Result<Vec<usize>, String> {
    if text.starts_with('-') {
        return Err(format!(
            "-c (--core-mask): \"{text}\" is an argument for DPDK, and doorbell has no DPDK; \
             give the cores as a mask (0x5) or a list ([0,2-4])"
        ));
    }
    let selected = match text.strip_prefix('[') {
        Some(list) => list.strip_suffix(']').ok_or("the closing bracket is missing".into()).and_then(parse_list),
        None => parse_mask(text),
    };
    let cores: Vec<usize> = selected
        .map_err(|why| invalid(text, &why))?
        .iter()
        .enumerate()
        .filter_map(|(core, &on)| on.then_some(core))
        .collect();
    if cores.is_empty() {
        return Err(invalid(text, "no core is selected"));
    }
    Ok(cores)
}

type Selected = [bool; CORES];

fn parse_list(list: &str) -> Result<Selected, String> {
    let mut selected = [false; CORES];
    for item in list.split(',') {
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        let (first, last) = (core(first)?, core(last)?);
        if first > last {
            return Err(format!("the range {first}-{last} runs backwards"));
        }
        selected[first..=last].fill(true);
    }
    Ok(selected)
}

fn core(text: &str) -> Result<usize, String> {
    let text = text.trim();
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("\"{text}\" is not a core number"));
    }
    match text.parse() {
        Ok(core) if core < CORES => Ok(core),
        _ => Err(format!("core {text} is above {}", CORES - 1)),
    }
}

fn parse_mask(text: &str) -> Result<Selected, String> {
    let digits = text.strip_prefix("0x").or(text.strip_prefix("0X"));
    let digits = digits.unwrap_or(text);
    let mut selected = [false; CORES];
    for (nibble, digit) in digits.chars().rev().filter(|&c| c != ',').enumerate() {
        let Some(bits) = digit.to_digit(16) else {
            return Err(format!("'{digit}' is not a hexadecimal digit"));
        };
        for bit in (0..4).filter(|bit| bits >> bit & 1 == 1) {
            let core = nibble * 4 + bit;
            *selected.get_mut(core).ok_or_else(|| format!("core {core} is above {}", CORES - 1))? = true;
        }
    }
    Ok(selected)
}

fn invalid(text: &str, why: &str) -> String {
    format!("-c (--core-mask): \"{text}\" is not a core mask: {why}; examples: 0x5, [0,2-4]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks() {
        for (text, expected) in [
            ("0x1", vec![0]),
            ("1", vec![0]),
            ("0XfF", (0..8).collect()),
            ("a", vec![1, 3]),
            ("0x1,00000000", vec![32]),
            ("0x0000000000000000000000000000000000000001", vec![0]),
        ] {
            assert_eq!(cores(text), Ok(expected), "{text}");
        }
        assert_eq!(cores(&format!("8{}", "0".repeat(255))), Ok(vec![1023]));
    }

    #[test]
    fn lists() {
        assert_eq!(cores("[0]"), Ok(vec![0]));
        assert_eq!(cores("[0,2-4]"), Ok(vec![0, 2, 3, 4]));
        assert_eq!(cores("[8,0-3]"), Ok(vec![0, 1, 2, 3, 8]));
        assert_eq!(cores("[ 1 , 1-2 ]"), Ok(vec![1, 2]));
        assert_eq!(cores("[1023]"), Ok(vec![1023]));
    }

    #[test]
    fn refusals_name_the_text_and_the_reason() {
        for (text, why) in [
            ("", "no core is selected"),
            ("0x", "no core is selected"),
            ("0", "no core is selected"),
            ("0x1g", "'g' is not a hexadecimal digit"),
            ("0,x1", "'x' is not a hexadecimal digit"),
            ("[0", "the closing bracket is missing"),
            ("[]", "\"\" is not a core number"),
            ("[1,]", "\"\" is not a core number"),
            ("[4-2]", "the range 4-2 runs backwards"),
            ("[1-2-3]", "\"2-3\" is not a core number"),
            ("[+1]", "\"+1\" is not a core number"),
            ("[1024]", "core 1024 is above 1023"),
            ("[0-99999999999999999999]", "is above 1023"),
        ] {
            let error = cores(text).unwrap_err();
            assert!(error.contains(why) && error.contains(text), "{text}: {error}");
        }
        let error = cores(&format!("1{}", "0".repeat(256))).unwrap_err();
        assert!(error.contains("core 1024 is above 1023"), "{error}");
    }

    #[test]
    fn lcores_are_refused_for_good() {
        let error = cores("--lcores=0@1").unwrap_err();
        assert!(error.contains("--lcores=0@1") && error.contains("DPDK"), "{error}");
        assert!(error.contains("[0,2-4]"), "{error}");
    }
}
