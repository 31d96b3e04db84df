//! Where a PCI function is: domain, bus, device, function.

use std::{fmt, str::FromStr};

/// The address of a PCI function. Shown, and found in sysfs, as `0000:00:03.0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// The domain, also called segment.
    pub domain: u32,
    /// The bus of the domain.
    pub bus: u8,
    /// The device of the bus, at most 1Fh.
    pub device: u8,
    /// The function of the device, at most 7.
    pub function: u8,
}

impl FromStr for Address {
    type Err = String;

    /// Takes `domain:bus:dev.func`, `domain.bus.dev.func`, `domain:bus:dev`, `bus:dev.func`, `bus.dev.func`, `bus:dev` and
    /// `bus.dev`: hexadecimal, missing parts 0.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("{text:?} is no PCI address: {why}; one looks like 0000:01:00.0");
        let separators: String = text.chars().filter(|c| matches!(c, ':' | '.')).collect();
        let hexadecimal = |part: &str| {
            let digits = !part.is_empty() && part.chars().all(|c| c.is_ascii_hexdigit());
            digits.then(|| u32::from_str_radix(part, 16).ok()).flatten()
        };
        let parts: Option<Vec<u32>> = text.split([':', '.']).map(hexadecimal).collect();
        let parts = parts.ok_or_else(|| wrong("a part is not a hexadecimal number"))?;
        let (domain, bus, device, function) = match (separators.as_str(), parts.as_slice()) {
            ("::." | "...", &[domain, bus, device, function]) => (domain, bus, device, function),
            ("::", &[domain, bus, device]) => (domain, bus, device, 0),
            (":." | "..", &[bus, device, function]) => (0, bus, device, function),
            (":" | ".", &[bus, device]) => (0, bus, device, 0),
            _ => return Err(wrong("its parts are domain, bus, device and function")),
        };
        if bus > 0xff || device > 0x1f || function > 7 {
            return Err(wrong("a bus is at most ff, a device 1f, a function 7"));
        }
        Ok(Self { domain, bus: bus as u8, device: device as u8, function: function as u8 })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{}", self.domain, self.bus, self.device, self.function)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_leave_out_domain_and_function() {
        for (text, shown) in [
            ("0000:00:03.0", "0000:00:03.0"),
            ("10000:E1:1f.7", "10000:e1:1f.7"),
            ("1.2.3.4", "0001:02:03.4"),
            ("1:2:3", "0001:02:03.0"),
            ("5e:03.1", "0000:5e:03.1"),
            ("5e.3.1", "0000:5e:03.1"),
            ("5e:3", "0000:5e:03.0"),
            ("5e.3", "0000:5e:03.0"),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), shown, "{text}");
            assert_eq!(shown.parse(), Ok(address), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_told_why() {
        for (text, why) in [
            ("", "not a hexadecimal"),
            ("0000:00:03.", "not a hexadecimal"),
            ("00:+3.0", "not a hexadecimal"),
            ("nvme0", "not a hexadecimal"),
            ("123456789:0:0.0", "not a hexadecimal"),
            ("3", "its parts are"),
            ("0.0:3", "its parts are"),
            ("0:0:0:0", "its parts are"),
            ("0:0:0.0.0", "its parts are"),
            ("100:0.0", "a bus is at most"),
            ("0:20.0", "a bus is at most"),
            ("0:0.8", "a bus is at most"),
        ] {
            let error = text.parse::<Address>().unwrap_err();
            assert!(error.contains(why) && error.contains("0000:01:00.0"), "{text}: {error}");
        }
    }
}
