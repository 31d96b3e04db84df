//! CRC-32C as NVMe/TCP uses it: of headers in one go, of data piece by piece, zero-padded to whole dwords (TCP 3.4.1.4).

use doorbell_platform::{Crc32c, Range, Region};

/// The digest of a header.
pub(crate) fn of_header(header: &[u8]) -> [u8; 4] {
    Crc32c::of(header).to_le_bytes()
}

/// The digest of data in one piece.
pub(crate) fn of_data(data: &[u8]) -> [u8; 4] {
    let mut digest = DataDigest::new();
    digest.bytes(data);
    digest.finish()
}

/// A digest over the data of one PDU.
#[derive(Debug)]
pub(crate) struct DataDigest {
    crc: Crc32c,
    len: u32,
}

impl DataDigest {
    pub(crate) fn new() -> Self {
        Self { crc: Crc32c::new(), len: 0 }
    }

    /// Whether data has gone into it.
    pub(crate) fn is_begun(&self) -> bool {
        self.len > 0
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.crc.update(bytes);
        self.len = self.len.wrapping_add(bytes.len() as u32);
    }

    pub(crate) fn range(&mut self, region: &Region, range: Range) {
        region.checksum(range, &mut self.crc);
        self.len = self.len.wrapping_add(range.len);
    }

    /// Takes bytes in and copies them to `offset`.
    pub(crate) fn copied(&mut self, bytes: &[u8], region: &Region, offset: u64) {
        region.write_and_checksum(offset, bytes, &mut self.crc);
        self.len = self.len.wrapping_add(bytes.len() as u32);
    }

    pub(crate) fn finish(mut self) -> [u8; 4] {
        let padding = (4 - self.len % 4) % 4;
        self.crc.update(&[0; 3][..padding as usize]);
        self.crc.finish().to_le_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_and_padding_make_the_known_checksum() {
        // RFC 3720, B.4: 32 bytes of zeroes.
        assert_eq!(of_header(&[0; 32]), 0x8a91_36aa_u32.to_le_bytes());
        let region = Region::new(4096).unwrap();
        region.fill(8, 16, 0);
        let mut digest = DataDigest::new();
        digest.bytes(&[0; 13]);
        digest.range(&region, Range { offset: 8, len: 16 });
        assert_eq!(digest.finish(), of_header(&[0; 32]), "29 bytes and 3 of padding");
    }
}
