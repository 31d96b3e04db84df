//! The checksum by the instructions of x86: multiplication without carries and crc32.
//!
//! A register of the checksum is a polynomial of degree 31 with bit 0 for its highest power, and longer values likewise. Bytes
//! that follow multiply what was before them by a power of x, modulo the polynomial. A product without carries of two such
//! values comes out one place too low, and a constant of 32 bits stands in the upper half of its 64: together 33 places, which
//! every exponent here makes up for.

mod fused;
mod wide;

use std::arch::x86_64::*;

use super::{power, times_x};

/// The register behind `bytes`; none where this processor lacks the instructions.
#[inline]
pub(super) fn update(crc: u32, bytes: &[u8]) -> Option<u32> {
    // SAFETY: nothing is copied.
    unsafe { any::<false>(crc, bytes, std::ptr::null_mut()) }
}

/// The register behind `bytes`, which are copied to `to`; none, and nothing is copied, where this processor lacks the instructions.
///
/// # Safety
/// As many bytes at `to` can be written and are nobody else's; they do not overlap `bytes`.
#[inline]
pub(super) unsafe fn update_and_copy(crc: u32, bytes: &[u8], to: *mut u8) -> Option<u32> {
    // SAFETY: the caller's promise.
    unsafe { any::<true>(crc, bytes, to) }
}

/// # Safety
/// To copy, as many bytes at `to` as `bytes` has can be written and are nobody else's; they do not overlap `bytes`.
#[inline]
unsafe fn any<const COPY: bool>(crc: u32, bytes: &[u8], to: *mut u8) -> Option<u32> {
    if wide::is_here() {
        // SAFETY: the processor has the instructions, the rest is the caller's promise.
        Some(unsafe { wide::update::<COPY>(crc, bytes, to) })
    } else if fused::is_here() {
        // SAFETY: as above.
        Some(unsafe { fused::update::<COPY>(crc, bytes, to) })
    } else {
        None
    }
}

/// What a checksum adds to that of the 4096 bytes behind its own; none where this processor lacks the instructions.
#[inline]
pub(super) fn behind_a_page(sum: u32) -> Option<u32> {
    #[target_feature(enable = "sse4.2,pclmulqdq")]
    fn product(sum: u32) -> u32 {
        _mm_crc32_u64(0, moved(sum.into(), const { power(8 * 4096 - 33) })) as u32
    }
    let is_here = is_x86_feature_detected!("pclmulqdq") && is_x86_feature_detected!("sse4.2");
    // SAFETY: the processor has the instructions.
    is_here.then(|| unsafe { product(sum) })
}

/// A register times `factor`: 64 bits that are still to be brought back to 32.
#[target_feature(enable = "pclmulqdq")]
#[inline]
fn moved(register: u64, factor: u32) -> u64 {
    let factor = _mm_cvtsi64_si128(factor.into());
    _mm_cvtsi128_si64(_mm_clmulepi64_si128::<0x00>(_mm_cvtsi64_si128(register as i64), factor)) as u64
}

/// What folds 128 bits onto those so many bits behind them: for their first and their second half.
const fn fold_by(bits: u32) -> [i64; 2] {
    [power(bits + 64 - 33) as i64, power(bits - 33) as i64]
}

/// The register behind the bytes that were folded to these.
#[target_feature(enable = "sse4.2")]
#[inline]
fn of_folded(folded: __m128i) -> u64 {
    let crc = _mm_crc32_u64(0, _mm_cvtsi128_si64(folded) as u64);
    _mm_crc32_u64(crc, _mm_extract_epi64::<1>(folded) as u64)
}

/// The register behind `bytes`, by the crc32 instruction alone.
#[target_feature(enable = "sse4.2")]
#[inline]
fn in_order(crc: u32, bytes: &[u8]) -> u32 {
    let (words, bytes) = bytes.as_chunks();
    let crc = words.iter().fold(crc.into(), |crc, word| _mm_crc32_u64(crc, u64::from_le_bytes(*word)));
    bytes.iter().fold(crc as u32, |crc, byte| _mm_crc32_u8(crc, *byte))
}

/// Calls `told` with the name of each way that this processor has, and the register behind `bytes` that comes out.
#[cfg(test)]
pub(super) fn each_of_this_processor(crc: u32, bytes: &[u8], told: impl Fn(&str, u32)) {
    if wide::is_here() {
        // SAFETY: the processor has the instructions, nothing is copied.
        told("wide", unsafe { wide::update::<false>(crc, bytes, std::ptr::null_mut()) });
    }
    if fused::is_here() {
        // SAFETY: as above.
        told("fused", unsafe { fused::update::<false>(crc, bytes, std::ptr::null_mut()) });
    }
}
