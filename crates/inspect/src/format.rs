//! Files of kinds that are known by their bytes. A file of random or constant bytes is what a benchmark leaves, and nobody's; one that
//! is a text, an archive, a picture or a database is somebody's.

use crate::content::Ends;

const KNOWN: &[(u64, &[u8], &str)] = &[
    (0, b"\x7fELF", "a program (ELF)"),
    (0, b"SQLite format 3\0", "a database (SQLite)"),
    (0, b"QFI\xfb", "the image of a disk (QCOW)"),
    (0, b"KDMV", "the image of a disk (VMDK)"),
    (0, b"vhdxfile", "the image of a disk (VHDX)"),
    (0, b"conectix", "the image of a disk (VHD)"),
    (64, b"\x7f\x10\xda\xbe", "the image of a disk (VDI)"),
    (0, b"%PDF-", "a document (PDF)"),
    (0, b"PK\x03\x04", "an archive or document (ZIP)"),
    (0, b"\x1f\x8b\x08", "an archive (gzip)"),
    (0, b"\xfd7zXZ\0", "an archive (xz)"),
    (0, b"\x28\xb5\x2f\xfd", "an archive (zstd)"),
    (0, b"7z\xbc\xaf\x27\x1c", "an archive (7-Zip)"),
    (0, b"Rar!\x1a\x07", "an archive (RAR)"),
    (4, b"1AY&SY", "an archive (bzip2)"),
    (257, b"ustar", "an archive (tar)"),
    (0, b"\x89PNG\r\n\x1a\n", "a picture (PNG)"),
    (0, b"\xff\xd8\xff\xe0", "a picture (JPEG)"),
    (0, b"\xff\xd8\xff\xe1", "a picture (JPEG)"),
    (4, b"ftyp", "a film or picture (MP4 and its kin)"),
    (0, b"\x1a\x45\xdf\xa3", "a film (Matroska)"),
    (0, b"RIFF", "a film or sound (RIFF)"),
    (0, b"OggS", "a film or sound (Ogg)"),
    (0, b"fLaC", "a sound (FLAC)"),
    (0, b"\x89HDF\r\n\x1a\n", "a data set (HDF5)"),
    (0, b"PAR1", "a data set (Parquet)"),
];

/// Bytes at the start that a text is known by.
const TEXT: usize = 512;

/// The kind of a file, where it is one of those known here.
pub fn format(ends: &Ends) -> Option<&'static str> {
    let known = KNOWN.iter().find(|(offset, magic, _)| ends.has(*offset, magic)).map(|(.., name)| *name);
    known.or_else(|| is_text(&ends.head[..ends.head.len().min(TEXT)]).then_some("a text"))
}

/// Whether bytes are words of a language or a program: UTF-8 without control characters, and more than one byte over and over.
fn is_text(bytes: &[u8]) -> bool {
    let whole = match str::from_utf8(bytes) {
        Ok(text) => text,
        // The last character may be cut.
        Err(error) if bytes.len() - error.valid_up_to() < 4 => {
            str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or("")
        }
        Err(_) => "",
    };
    let printable = |letter: char| !letter.is_control() || matches!(letter, '\n' | '\r' | '\t' | '\x0c');
    let varied = bytes.iter().any(|byte| *byte != bytes[0]);
    whole.len() >= 4 && varied && whole.chars().all(printable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_told_from_what_benchmarks_write() {
        for (bytes, text) in [
            (&b"hello, world\n"[..], true),
            ("Grüße aus Köln".as_bytes(), true),
            (&"ä".repeat(300).as_bytes()[..511], true),
            (&[b'a'; 512], false),
            (&[0; 512], false),
            (&[1, 2, 3, 4, 5, 6], false),
            (b"\xff\xfehello there", false),
            (b"", false),
            (b"abc", false),
        ] {
            assert_eq!(is_text(bytes), text, "{bytes:?}");
        }
    }
}
