//! CRC-32C (Castagnoli), the checksum of NVMe/TCP: piece by piece, as fast as this processor can.
//!
//! Where the processor multiplies without carries in 256-bit registers (AVX2, VPCLMULQDQ) two units that do not wait for each other
//! work side by side: half of the bytes is folded by multiplication, the other half goes through the crc32 instruction in four
//! streams, each of which hides the others' latency. Elsewhere, and where AVX-512 makes multiplication alone faster, the work is
//! crc-fast's.

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
        if fused::is_best_here() {
            // SAFETY: the processor has the instructions.
            self.0 = unsafe { fused::update(self.0, bytes) };
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
        if fused::is_best_here() {
            // SAFETY: the processor has the instructions; the rest is the caller's promise.
            self.0 = unsafe { fused::update_and_copy(self.0, bytes, to) };
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
    if fused::is_best_here() {
        // SAFETY: the processor has the instructions.
        return unsafe { fused::behind_a_page(sum) };
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

#[cfg(target_arch = "x86_64")]
mod fused {
    //! A register of the checksum is a polynomial of degree 31 with bit 0 for its highest power, and longer values likewise. Bytes
    //! that follow multiply what was before them by a power of x, modulo the polynomial. A product without carries of two such
    //! values comes out one place too low, and a constant of 32 bits stands in the upper half of its 64: together 33 places, which
    //! every exponent below makes up for.

    use std::arch::x86_64::*;

    use super::{power, times_x};

    /// Streams of the crc32 instruction, which takes three cycles and can begin every one.
    const STREAMS: usize = 4;
    /// Bytes that a stream takes a round.
    const STEP: usize = 32;
    /// Registers that are folded, and bytes that they take a round: as many as the streams.
    const LANES: usize = 4;
    const ROUND: usize = LANES * 32 + STREAMS * STEP;
    /// Most rounds before everything is put together: pieces of 4 KiB, whose streams keep to one page.
    const MOST_ROUNDS: usize = 16;

    /// What moves a register behind as many steps as the index says.
    static MOVES: [u32; MOST_ROUNDS * 2 * STREAMS + 1] = {
        let mut moves = [0; MOST_ROUNDS * 2 * STREAMS + 1];
        let (mut steps, mut power) = (1, power(8 * STEP as u32 - 33));
        while steps < moves.len() {
            moves[steps] = power;
            power = times_x(power, 8 * STEP as u32);
            steps += 1;
        }
        moves
    };

    /// What folds 128 bits onto those so many bits behind them: for their first and their second half.
    const fn fold_by(bits: u32) -> [i64; 2] {
        [power(bits + 64 - 33) as i64, power(bits - 33) as i64]
    }

    #[inline]
    pub(super) fn is_best_here() -> bool {
        is_x86_feature_detected!("vpclmulqdq")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("pclmulqdq")
            && is_x86_feature_detected!("sse4.2")
            && !is_x86_feature_detected!("avx512vl")
    }

    /// The register behind `bytes`.
    #[target_feature(enable = "sse4.2,pclmulqdq,avx2,vpclmulqdq")]
    pub(super) fn update(crc: u32, bytes: &[u8]) -> u32 {
        // SAFETY: nothing is copied.
        unsafe { pieces::<false>(crc, bytes, std::ptr::null_mut()) }
    }

    /// The register behind `bytes`, which are copied to `to`.
    ///
    /// # Safety
    /// As many bytes at `to` can be written and are nobody else's; they do not overlap `bytes`.
    #[target_feature(enable = "sse4.2,pclmulqdq,avx2,vpclmulqdq")]
    pub(super) unsafe fn update_and_copy(crc: u32, bytes: &[u8], to: *mut u8) -> u32 {
        // SAFETY: the caller's promise.
        unsafe { pieces::<true>(crc, bytes, to) }
    }

    #[target_feature(enable = "sse4.2,pclmulqdq")]
    pub(super) fn behind_a_page(sum: u32) -> u32 {
        _mm_crc32_u64(0, moved(sum.into(), 4096 / STEP)) as u32
    }

    /// # Safety
    /// To copy, as many bytes at `to` as `bytes` has can be written and are nobody else's; they do not overlap `bytes`.
    #[target_feature(enable = "sse4.2,pclmulqdq,avx2,vpclmulqdq")]
    #[inline]
    unsafe fn pieces<const COPY: bool>(mut crc: u32, mut bytes: &[u8], mut to: *mut u8) -> u32 {
        while bytes.len() >= ROUND {
            let (piece, rest) = bytes.split_at((bytes.len() / ROUND).min(MOST_ROUNDS) * ROUND);
            // SAFETY: the caller's promise, of which `piece` is the next part.
            crc = unsafe { rounds::<COPY>(crc, piece, to) };
            to = to.wrapping_add(piece.len());
            bytes = rest;
        }
        if COPY {
            // SAFETY: the caller's promise, of which `bytes` is the last part.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        }
        let (words, bytes) = bytes.as_chunks();
        let crc = words.iter().fold(crc.into(), |crc, word| _mm_crc32_u64(crc, u64::from_le_bytes(*word)));
        bytes.iter().fold(crc as u32, |crc, byte| _mm_crc32_u8(crc, *byte))
    }

    /// The register behind a piece of 1 to [`MOST_ROUNDS`] rounds: {what is folded, stream, stream, stream, stream}.
    ///
    /// # Safety
    /// To copy, as many bytes at `to` as `piece` has can be written and are nobody else's; they do not overlap `piece`.
    #[target_feature(enable = "sse4.2,pclmulqdq,avx2,vpclmulqdq")]
    #[inline]
    unsafe fn rounds<const COPY: bool>(crc: u32, piece: &[u8], to: *mut u8) -> u32 {
        let count = piece.len() / ROUND;
        let vectors = piece.as_ptr().cast::<__m256i>();
        let words = piece[count * LANES * 32..].as_ptr().cast::<u64>();
        // SAFETY: called for rounds below `count` and for lanes below LANES, which are in `piece`; no alignment is asked for.
        let vector = |round: usize, lane: usize| unsafe { _mm256_loadu_si256(vectors.add(round * LANES + lane)) };
        // SAFETY: called for streams below STREAMS, rounds below `count` and words below STEP / 8, which are in `piece`.
        let word = |stream: usize, round: usize, at: usize| unsafe {
            words.add((stream * count + round) * (STEP / 8) + at).read_unaligned()
        };
        // SAFETY: called for 32 bytes of `piece` each, which have their place at `to`.
        let copy = |at: usize| unsafe {
            _mm256_storeu_si256(to.cast::<__m256i>().add(at), _mm256_loadu_si256(vectors.add(at)));
        };
        let mut lanes: [_; LANES] = std::array::from_fn(|lane| vector(0, lane));
        lanes[0] = _mm256_xor_si256(lanes[0], _mm256_set_epi64x(0, 0, 0, crc.into()));
        let mut registers = [0; STREAMS];
        let key = both(const { fold_by(LANES as u32 * 256) });
        for round in 0..count {
            if COPY {
                (0..LANES).for_each(|lane| copy(round * LANES + lane));
                (0..STREAMS).for_each(|stream| copy(count * LANES + stream * count + round));
            }
            if round > 0 {
                for (at, lane) in lanes.iter_mut().enumerate() {
                    *lane = fold(*lane, key, vector(round, at));
                }
            }
            for at in 0..STEP / 8 {
                for (stream, register) in registers.iter_mut().enumerate() {
                    *register = _mm_crc32_u64(*register, word(stream, round, at));
                }
            }
        }
        let mut moved = moved(fold_lanes(lanes), count * STREAMS);
        for (stream, register) in registers[..STREAMS - 1].iter().enumerate() {
            moved ^= self::moved(*register, count * (STREAMS - 1 - stream));
        }
        // The instruction brings a product of 64 bits back to 32.
        (_mm_crc32_u64(0, moved) ^ registers[STREAMS - 1]) as u32
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn both(key: [i64; 2]) -> __m256i {
        _mm256_set_epi64x(key[1], key[0], key[1], key[0])
    }

    #[target_feature(enable = "avx2,vpclmulqdq")]
    #[inline]
    fn fold(lane: __m256i, key: __m256i, next: __m256i) -> __m256i {
        let first = _mm256_clmulepi64_epi128::<0x00>(lane, key);
        let second = _mm256_clmulepi64_epi128::<0x11>(lane, key);
        _mm256_xor_si256(_mm256_xor_si256(first, second), next)
    }

    /// The register behind the bytes that were folded.
    #[target_feature(enable = "sse4.2,pclmulqdq,avx2,vpclmulqdq")]
    #[inline]
    fn fold_lanes(lanes: [__m256i; LANES]) -> u64 {
        let (key, mut folded) = (both(const { fold_by(256) }), lanes[0]);
        for lane in &lanes[1..] {
            folded = fold(folded, key, *lane);
        }
        let key = both(const { fold_by(128) });
        // The first half onto the second, which is all that is looked at.
        let folded = fold(_mm256_permute2x128_si256::<0x08>(folded, folded), key, folded);
        let folded = _mm256_extracti128_si256::<1>(folded);
        let crc = _mm_crc32_u64(0, _mm_cvtsi128_si64(folded) as u64);
        _mm_crc32_u64(crc, _mm_extract_epi64::<1>(folded) as u64)
    }

    /// A register moved behind so many steps, 64 bits that are still to be brought back to 32.
    #[target_feature(enable = "sse4.2,pclmulqdq")]
    #[inline]
    fn moved(register: u64, steps: usize) -> u64 {
        let factor = _mm_cvtsi64_si128(MOVES[steps].into());
        _mm_cvtsi128_si64(_mm_clmulepi64_si128::<0x00>(_mm_cvtsi64_si128(register as i64), factor)) as u64
    }
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
            assert_eq!(Crc32c::of(&data[..len]), !elsewhere(u32::MAX, &data[..len]), "{len} bytes");
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
