//! CRC-32C (Castagnoli), the checksum of NVMe/TCP: piece by piece, as fast as this processor can.
//!
//! x86 processors that multiply without carries in registers of 256 or 512 bits (VPCLMULQDQ) do it here, see `x86`; elsewhere the work
//! is crc-fast's.

#[cfg(target_arch = "x86_64")]
mod x86;

use crc_fast::{CrcAlgorithm::Crc32Iscsi, Digest};

/// A running checksum.
#[derive(Clone, Copy, Debug)]
pub struct Crc32c(u32);

impl Crc32c {
    /// Of no bytes so far.
    pub fn new() -> Self {
        Self(u32::MAX)
    }

    /// The checksum of these bytes alone.
    #[inline]
    pub fn of(bytes: &[u8]) -> u32 {
        let mut crc = Self::new();
        crc.update(bytes);
        crc.finish()
    }

    /// Takes the next bytes in.
    #[inline]
    pub fn update(&mut self, bytes: &[u8]) {
        #[cfg(target_arch = "x86_64")]
        if let Some(crc) = x86::update(self.0, bytes) {
            self.0 = crc;
            return;
        }
        self.0 = elsewhere(self.0, bytes);
    }

    /// Takes the next bytes in while it copies them to `to`: where the processor has room beside the checksum the copy is free.
    ///
    /// # Safety
    /// As many bytes at `to` can be written and are nobody else's; they do not overlap `bytes`.
    #[inline]
    pub(crate) unsafe fn update_and_copy(&mut self, bytes: &[u8], to: *mut u8) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the caller's promise.
        if let Some(crc) = unsafe { x86::update_and_copy(self.0, bytes, to) } {
            self.0 = crc;
            return;
        }
        // SAFETY: the caller's promise.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        self.0 = elsewhere(self.0, bytes);
    }

    /// The checksum of all bytes so far.
    pub fn finish(self) -> u32 {
        !self.0
    }

    /// The checksum of pieces of 4096 bytes one after another, from the checksum of each.
    #[inline]
    pub fn of_pages(pages: impl IntoIterator<Item = u32>) -> u32 {
        // Before the first there is nothing, whose checksum is 0.
        pages.into_iter().fold(0, |sum, page| behind_a_page(sum) ^ page)
    }
}

/// What a checksum adds to that of the 4096 bytes behind its own: it is multiplied by x to the power of their bits.
#[inline]
fn behind_a_page(sum: u32) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if let Some(behind) = x86::behind_a_page(sum) {
        return behind;
    }
    product(sum, const { power(8 * 4096) })
}

fn product(value: u32, mut factor: u32) -> u32 {
    let mut product = 0;
    for at in (0..u32::BITS).rev() {
        product ^= if value >> at & 1 == 1 { factor } else { 0 };
        factor = times_x(factor, 1);
    }
    product
}

/// The polynomial without its highest power. Bit 0 stands for the highest one, here and below.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// x to the power of `exponent` modulo the polynomial.
const fn power(exponent: u32) -> u32 {
    times_x(1 << 31, exponent)
}

const fn times_x(mut value: u32, times: u32) -> u32 {
    let mut at = 0;
    while at < times {
        value = (value >> 1) ^ if value & 1 == 1 { POLYNOMIAL } else { 0 };
        at += 1;
    }
    value
}

impl Default for Crc32c {
    fn default() -> Self {
        Self::new()
    }
}

fn elsewhere(crc: u32, bytes: &[u8]) -> u32 {
    let mut digest = Digest::new_with_init_state(Crc32Iscsi, crc.into());
    digest.update(bytes);
    !(digest.finalize() as u32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(len: usize, seed: u64) -> Vec<u8> {
        let mut value = seed | 1;
        let mut next = || {
            (value, _) = value.overflowing_mul(6_364_136_223_846_793_005);
            (value >> 56) as u8
        };
        (0..len).map(|_| next()).collect()
    }

    #[test]
    fn known_checksums_come_out() {
        // RFC 3720, B.4.
        assert_eq!(Crc32c::of(&[0; 32]), 0x8a91_36aa);
        assert_eq!(Crc32c::of(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(Crc32c::of(&(0..32).collect::<Vec<u8>>()), 0x46dd_794e);
        assert_eq!(elsewhere(u32::MAX, &[0; 32]), !0x8a91_36aa);
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_powers_are_those_of_the_instruction() {
        if is_x86_feature_detected!("sse4.2") {
            // A register with x^0 alone, behind 8 bytes of zeroes, is x^64.
            // SAFETY: the processor has the instruction.
            let power = unsafe { std::arch::x86_64::_mm_crc32_u64(1 << 31, 0) };
            assert_eq!(super::power(64), power as u32);
        }
    }

    #[test]
    fn every_length_of_the_first_rounds_is_summed_as_elsewhere() {
        let data = bytes(9000, 7);
        for len in (0..1100).chain(4000..4400).chain(8100..8300) {
            let elsewhere = elsewhere(u32::MAX, &data[..len]);
            assert_eq!(Crc32c::of(&data[..len]), !elsewhere, "{len} bytes");
            #[cfg(target_arch = "x86_64")]
            x86::each_of_this_processor(u32::MAX, &data[..len], |way, crc| {
                assert_eq!(crc, elsewhere, "{way}, {len} bytes")
            });
        }
    }

    #[test]
    fn pages_make_the_sum_of_all_of_them() {
        let data = bytes(5 * 4096, 11);
        let pages = data.chunks(4096).map(Crc32c::of);
        assert_eq!(Crc32c::of_pages(pages), Crc32c::of(&data));
        let first = Crc32c::of(&data[..4096]);
        assert_eq!(Crc32c::of_pages([first]), first);
        assert_eq!(product(first, power(8 * 4096)), behind_a_page(first), "here and elsewhere");
    }

    proptest! {
        #[test]
        fn what_is_copied_is_what_is_summed(len in 0usize..10_000, skip in 0usize..64, seed: u64) {
            let data = bytes(skip + len, seed);
            let (mut crc, mut copy) = (Crc32c::new(), vec![0; len + 1]);
            // SAFETY: the copy has room for `len` bytes and is elsewhere.
            unsafe { crc.update_and_copy(&data[skip..], copy.as_mut_ptr()) };
            prop_assert_eq!(crc.finish(), Crc32c::of(&data[skip..]));
            prop_assert!(copy[..len] == data[skip..] && copy[len] == 0);
        }

        #[test]
        fn pieces_anywhere_make_the_same_sum(len in 0usize..40_000, skip in 0usize..64, cuts: [u16; 3], seed: u64) {
            let data = bytes(skip + len, seed);
            let data = &data[skip..];
            let mut cuts: Vec<usize> = cuts.iter().map(|&cut| usize::from(cut) % (len + 1)).collect();
            cuts.sort_unstable();
            let (mut crc, mut at) = (Crc32c::new(), 0);
            for end in cuts.into_iter().chain([len]) {
                crc.update(&data[at..end]);
                at = end;
            }
            prop_assert_eq!(crc.finish(), !elsewhere(u32::MAX, data));
        }
    }
}
