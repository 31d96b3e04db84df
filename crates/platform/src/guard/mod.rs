//! The checksums that guard the blocks of protected namespaces (NVM 5.3.1). Blocks are short, so what a checksum costs to begin and to
//! end counts as much as what it costs a byte: CRC-16 and CRC-64 are folded here where the processor multiplies without carries.

#[cfg(target_arch = "x86_64")]
mod crc16;
#[cfg(target_arch = "x86_64")]
mod crc64;
#[cfg(target_arch = "x86_64")]
mod fold;

use crc_fast::{
    CrcAlgorithm::{Crc16T10Dif, Crc64Nvme},
    Digest, checksum,
};

use crate::Crc32c;

/// A checksum, with initial values and final inversions as the specification has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// CRC-16/T10-DIF.
    Crc16,
    /// CRC-32C.
    Crc32c,
    /// CRC-64/NVME.
    Crc64,
}

impl Guard {
    /// The checksum of these bytes, and of those behind them.
    #[inline]
    pub fn of(self, bytes: &[u8], more: &[u8]) -> u64 {
        let algorithm = match self {
            Self::Crc32c => {
                let mut crc = Crc32c::new();
                crc.update(bytes);
                crc.update(more);
                return crc.finish().into();
            }
            #[cfg(target_arch = "x86_64")]
            Self::Crc16 if multiplies() => {
                let register = match is_wide() {
                    // SAFETY: the processor has the instructions.
                    true => unsafe { crc16::update_wide(0, bytes) },
                    // SAFETY: as above.
                    false => unsafe { crc16::update(0, bytes) },
                };
                // SAFETY: as above.
                return unsafe { crc16::update(register, more) }.into();
            }
            #[cfg(target_arch = "x86_64")]
            Self::Crc64 if multiplies() => {
                let register = match is_wide() {
                    // SAFETY: as above.
                    true => unsafe { crc64::update_wide(u64::MAX, bytes) },
                    // SAFETY: as above.
                    false => unsafe { crc64::update(u64::MAX, bytes) },
                };
                // SAFETY: as above.
                return !unsafe { crc64::update(register, more) };
            }
            Self::Crc16 => Crc16T10Dif,
            Self::Crc64 => Crc64Nvme,
        };
        if more.is_empty() {
            return checksum(algorithm, bytes);
        }
        let mut digest = Digest::new(algorithm);
        digest.update(bytes);
        digest.update(more);
        digest.finalize()
    }
}

/// Whether the processor has what is used here.
#[cfg(target_arch = "x86_64")]
#[inline]
fn multiplies() -> bool {
    is_x86_feature_detected!("pclmulqdq") && is_x86_feature_detected!("sse4.1") && is_x86_feature_detected!("ssse3")
}

/// Whether it does so in registers of 256 bits.
#[cfg(target_arch = "x86_64")]
#[inline]
fn is_wide() -> bool {
    is_x86_feature_detected!("vpclmulqdq") && is_x86_feature_detected!("avx2")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bit by bit, from the polynomial.
    fn slowly(guard: Guard, bytes: &[u8]) -> u64 {
        let (bits, polynomial, reflected) = match guard {
            Guard::Crc16 => (16, 0x8bb7, false),
            Guard::Crc32c => (32, 0x1edc_6f41, true),
            Guard::Crc64 => (64, 0xad93_d235_94c9_3659, true),
        };
        let all = u64::MAX >> (64 - bits);
        let mut register = if reflected { all } else { 0 };
        for byte in bytes {
            let byte = if reflected { byte.reverse_bits() } else { *byte };
            register ^= u64::from(byte) << (bits - 8);
            for _ in 0..8 {
                let top = register >> (bits - 1) & 1;
                register = (register << 1 ^ if top == 1 { polynomial } else { 0 }) & all;
            }
        }
        if reflected { !(register.reverse_bits() >> (64 - bits)) & all } else { register }
    }

    #[test]
    fn known_checksums_come_out() {
        let digits = b"123456789";
        assert_eq!(Guard::Crc16.of(digits, &[]), 0xd0db);
        assert_eq!(Guard::Crc32c.of(digits, &[]), 0xe306_9283);
        assert_eq!(Guard::Crc64.of(digits, &[]), 0xae8b_1486_0a79_9888);
        // NVM 5.3.1.3, the test cases of the 64-bit guard.
        assert_eq!(Guard::Crc64.of(&[0; 4096], &[]), 0x6482_d367_eb22_b64e);
        assert_eq!(Guard::Crc64.of(&[0xff; 4096], &[]), 0xc0dd_ba73_02ec_a3ac);
    }

    #[test]
    fn every_short_length_is_summed_as_elsewhere() {
        let bytes: Vec<u8> = (0..700u64).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
        for len in 0..bytes.len() {
            let bytes = &bytes[..len];
            for (guard, elsewhere) in [(Guard::Crc16, Crc16T10Dif), (Guard::Crc64, Crc64Nvme)] {
                let expected = checksum(elsewhere, bytes);
                assert_eq!(guard.of(bytes, &[]), expected, "{guard:?} of {len} bytes at once");
                assert_eq!(guard.of(&[], bytes), expected, "{guard:?} of {len} bytes behind others");
            }
        }
    }

    proptest! {
        #[test]
        fn two_pieces_have_the_sum_of_both(len in 0usize..5000, cut: u16, seed: u64) {
            let bytes: Vec<u8> = (0..len as u64).map(|at| (seed.wrapping_mul(at | 1) >> 32) as u8).collect();
            let (first, rest) = bytes.split_at(usize::from(cut) % (len + 1));
            for guard in [Guard::Crc16, Guard::Crc32c, Guard::Crc64] {
                prop_assert_eq!(guard.of(first, rest), slowly(guard, &bytes), "{:?}", guard);
            }
        }
    }
}
