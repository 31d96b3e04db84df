//! Folding, which both checksums share. 16 bytes are a polynomial of degree 127. Bytes that follow multiply what was before them by a
//! power of x, which may be taken modulo the checksum's polynomial: so many bytes become 16 that leave the same rest.

use std::arch::x86_64::*;

/// Registers that are folded side by side, as a multiplication takes a few cycles.
const LANES: usize = 4;

pub(super) trait Checksum {
    /// Whether the highest power is the first bit of the first byte, not the last.
    const REVERSED: bool;
    /// What folds the lower and the upper half of 128 bits onto those 128, 256, 512 and 1024 bits behind them.
    const KEYS: [[i64; 2]; 4];
}

/// What `chunks` become behind `before`, of the same power as the first of them; none where there are none.
#[target_feature(enable = "pclmulqdq,ssse3")]
#[inline]
pub(super) fn narrow<C: Checksum>(before: __m128i, chunks: &[[u8; 16]]) -> Option<__m128i> {
    let (groups, rest) = chunks.as_chunks::<LANES>();
    let Some((first, groups)) = groups.split_first() else {
        let (first, rest) = rest.split_first()?;
        return Some(behind::<C>(_mm_xor_si128(load::<C>(first), before), rest));
    };
    let mut lanes = first.each_ref().map(|chunk| load::<C>(chunk));
    lanes[0] = _mm_xor_si128(lanes[0], before);
    for group in groups {
        for (lane, chunk) in lanes.iter_mut().zip(group) {
            *lane = onto(*lane, C::KEYS[2], load::<C>(chunk));
        }
    }
    let folded = lanes.into_iter().reduce(|folded, lane| onto(folded, C::KEYS[0], lane))?;
    Some(behind::<C>(folded, rest))
}

/// As [`narrow`] in registers of 256 bits, of all bytes but the last, which come back; none for less than a round of them.
#[target_feature(enable = "pclmulqdq,ssse3,avx2,vpclmulqdq")]
#[inline]
pub(super) fn wide<C: Checksum>(before: __m128i, bytes: &[u8]) -> Option<(__m128i, &[u8])> {
    let (pairs, _) = bytes.as_chunks::<32>();
    let (groups, _) = pairs.as_chunks::<LANES>();
    let (first, groups) = groups.split_first()?;
    let order = _mm256_broadcastsi128_si256(reversed());
    let load = |pair: &[u8; 32]| {
        // SAFETY: 32 bytes, of which no alignment is asked.
        let bytes = unsafe { _mm256_loadu_si256(pair.as_ptr().cast()) };
        if C::REVERSED { _mm256_shuffle_epi8(bytes, order) } else { bytes }
    };
    let onto = |folded, key, next| {
        let key = _mm256_broadcastsi128_si256(by(key));
        let low = _mm256_clmulepi64_epi128::<0x00>(folded, key);
        let high = _mm256_clmulepi64_epi128::<0x11>(folded, key);
        _mm256_xor_si256(_mm256_xor_si256(low, high), next)
    };
    let mut lanes = first.each_ref().map(load);
    lanes[0] = _mm256_xor_si256(lanes[0], _mm256_zextsi128_si256(before));
    for group in groups {
        for (lane, pair) in lanes.iter_mut().zip(group) {
            *lane = onto(*lane, C::KEYS[3], load(pair));
        }
    }
    let folded = lanes.into_iter().reduce(|folded, lane| onto(folded, C::KEYS[1], lane))?;
    let folded = self::onto(_mm256_castsi256_si128(folded), C::KEYS[0], _mm256_extracti128_si256::<1>(folded));
    let (chunks, rest) = bytes[(groups.len() + 1) * LANES * 32..].as_chunks();
    Some((behind::<C>(folded, chunks), rest))
}

/// What `folded` and the chunks behind it become.
#[target_feature(enable = "pclmulqdq,ssse3")]
#[inline]
fn behind<C: Checksum>(folded: __m128i, chunks: &[[u8; 16]]) -> __m128i {
    chunks.iter().fold(folded, |folded, chunk| onto(folded, C::KEYS[0], load::<C>(chunk)))
}

#[target_feature(enable = "ssse3")]
#[inline]
fn load<C: Checksum>(chunk: &[u8; 16]) -> __m128i {
    // SAFETY: 16 bytes, of which no alignment is asked.
    let bytes = unsafe { _mm_loadu_si128(chunk.as_ptr().cast()) };
    if C::REVERSED { _mm_shuffle_epi8(bytes, reversed()) } else { bytes }
}

/// What orders bytes as powers are.
#[target_feature(enable = "sse2")]
#[inline]
fn reversed() -> __m128i {
    _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
}

#[target_feature(enable = "sse2")]
#[inline]
pub(super) fn by([low, high]: [i64; 2]) -> __m128i {
    _mm_set_epi64x(high, low)
}

/// `next` with what is so far before it, as the key says, folded onto it.
#[target_feature(enable = "pclmulqdq")]
#[inline]
fn onto(folded: __m128i, key: [i64; 2], next: __m128i) -> __m128i {
    let key = by(key);
    let low = _mm_clmulepi64_si128::<0x00>(folded, key);
    let high = _mm_clmulepi64_si128::<0x11>(folded, key);
    _mm_xor_si128(_mm_xor_si128(low, high), next)
}
