//! Fixed-width text fields (Base 1.4.2): shown without padding and safe to print, whatever a
//! device put in them. Identify and log accessors return these.

use core::fmt;

/// A fixed-width text field that displays trimmed. Made by [`ascii`].
#[derive(Clone, Copy)]
pub struct Ascii<'a>(&'a [u8]);

/// Shows a space- or NUL-padded text field: ends at the first NUL, loses surrounding spaces,
/// and shows bytes outside printable ASCII as `?`.
pub fn ascii(field: &[u8]) -> Ascii<'_> {
    Ascii(nul_terminated(field).trim_ascii())
}

impl<'a> Ascii<'a> {
    /// The trimmed bytes, as the device sent them.
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }
}

impl fmt::Display for Ascii<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        for &byte in self.0 {
            f.write_char(printable(byte))?;
        }
        let width = f.width().unwrap_or(0);
        for _ in self.0.len()..width {
            f.write_char(f.fill())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Ascii<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// Copies text into a field of `N` bytes padded with spaces; what does not fit is cut.
pub(crate) fn space_padded<const N: usize>(text: &str) -> [u8; N] {
    padded(text, b' ')
}

/// Copies text into a field of `N` bytes padded with NULs; what does not fit is cut.
pub(crate) fn nul_padded<const N: usize>(text: &str) -> [u8; N] {
    padded(text, 0)
}

/// The bytes before the first NUL, or all of them.
pub(crate) fn nul_terminated(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or(field)
}

fn padded<const N: usize>(text: &str, pad: u8) -> [u8; N] {
    let mut field = [pad; N];
    for (to, from) in field.iter_mut().zip(text.bytes()) {
        *to = from;
    }
    field
}

fn printable(byte: u8) -> char {
    if byte.is_ascii_graphic() || byte == b' ' { char::from(byte) } else { '?' }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::format;

    #[test]
    fn trims_padding_and_hides_control_bytes() {
        assert_eq!(format!("{}", ascii(b"  QEMU NVMe Ctrl  ")), "QEMU NVMe Ctrl");
        assert_eq!(format!("{}", ascii(b"1.0\0garbage")), "1.0");
        assert_eq!(format!("{}", ascii(b"a\x1b[2Jb\xff")), "a?[2Jb?");
        assert_eq!(format!("{}", ascii(b"        ")), "");
        assert_eq!(format!("{:6}|", ascii(b"abc ")), "abc   |");
    }

    #[test]
    fn pads_and_cuts() {
        assert_eq!(&space_padded::<4>("ab"), b"ab  ");
        assert_eq!(&space_padded::<4>("abcdef"), b"abcd");
        assert_eq!(&nul_padded::<4>("ab"), b"ab\0\0");
    }
}
