//! CRC-16/T10-DIF. 16 bytes are a polynomial of degree 127, the first bit for its highest power. Bytes that follow multiply what
//! was before them by a power of x, which may be taken modulo the polynomial: its 16 bits make each half of 128 bits one of 80.

use std::arch::x86_64::*;

/// The polynomial without its highest power, x^16.
const POLYNOMIAL: u16 = 0x8bb7;
/// Registers that are folded side by side, as a multiplication takes a few cycles.
const LANES: usize = 4;

/// What each byte adds to a register that it leaves.
static TABLE: [u16; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = times_x((byte as u16) << 8, 8);
        byte += 1;
    }
    table
};

const fn times_x(mut value: u16, times: u32) -> u16 {
    let mut at = 0;
    while at < times {
        value = (value << 1) ^ if value >> 15 == 1 { POLYNOMIAL } else { 0 };
        at += 1;
    }
    value
}

/// x to the power of `exponent` modulo the polynomial.
const fn power(exponent: u32) -> i64 {
    times_x(1, exponent) as i64
}

/// The quotient of x^80 and the polynomial without its highest power, x^64.
const QUOTIENT: i64 = {
    // The highest power is divided already, and has left this.
    let (mut quotient, mut rest, mut at) = (0u64, POLYNOMIAL, 0);
    while at < 64 {
        quotient = quotient << 1 | (rest >> 15) as u64;
        rest = times_x(rest, 1);
        at += 1;
    }
    quotient as i64
};

/// The register behind `bytes`.
#[target_feature(enable = "pclmulqdq,sse4.1,ssse3")]
#[inline]
pub(super) fn update(register: u16, bytes: &[u8]) -> u16 {
    let (chunks, rest) = bytes.as_chunks::<16>();
    let register = if chunks.is_empty() { register } else { fold(register, chunks) };
    let (words, rest) = rest.as_chunks();
    let register = words.iter().fold(register, |register, word| {
        let word = u64::from_be_bytes(*word) ^ (u64::from(register) << 48);
        divide(_mm_cvtsi64_si128(word as i64))
    });
    rest.iter().fold(register, |register, byte| (register << 8) ^ TABLE[usize::from((register >> 8) as u8 ^ byte)])
}

/// The register behind the first bytes of all, in registers of 256 bits.
#[target_feature(enable = "pclmulqdq,sse4.1,ssse3,avx2,vpclmulqdq")]
#[inline]
pub(super) fn begin_wide(bytes: &[u8]) -> u16 {
    let (groups, rest) = bytes.as_chunks::<{ LANES * 32 }>();
    let Some((first, groups)) = groups.split_first() else { return update(0, bytes) };
    let reversed = _mm256_broadcastsi128_si256(reversed());
    let load = |group: &[u8; LANES * 32], lane: usize| {
        // SAFETY: called for lanes below LANES: 32 bytes of the group, of which no alignment is asked.
        let bytes = unsafe { _mm256_loadu_si256(group.as_ptr().cast::<__m256i>().add(lane)) };
        _mm256_shuffle_epi8(bytes, reversed)
    };
    let behind = |folded, key, next| {
        let (low, high) =
            (_mm256_clmulepi64_epi128::<0x00>(folded, key), _mm256_clmulepi64_epi128::<0x11>(folded, key));
        _mm256_xor_si256(_mm256_xor_si256(low, high), next)
    };
    let far = _mm256_broadcastsi128_si256(by(const { [power(LANES as u32 * 256), power(LANES as u32 * 256 + 64)] }));
    let mut lanes: [_; LANES] = std::array::from_fn(|lane| load(first, lane));
    for group in groups {
        for (at, lane) in lanes.iter_mut().enumerate() {
            *lane = behind(*lane, far, load(group, at));
        }
    }
    let near = _mm256_broadcastsi128_si256(by(const { [power(256), power(256 + 64)] }));
    let [first, lanes @ ..] = lanes;
    let folded = lanes.into_iter().fold(first, |folded, lane| behind(folded, near, lane));
    let near = by(const { [power(128), power(128 + 64)] });
    let folded = self::behind(_mm256_castsi256_si128(folded), near, _mm256_extracti128_si256::<1>(folded));
    let (chunks, rest) = rest.as_chunks();
    let folded = chunks.iter().fold(folded, |folded, chunk| self::behind(folded, near, load_one(chunk)));
    update(end(folded), rest)
}

#[target_feature(enable = "pclmulqdq,sse4.1,ssse3")]
#[inline]
fn fold(register: u16, chunks: &[[u8; 16]]) -> u16 {
    let before = _mm_set_epi64x((register as i64) << 48, 0);
    let (groups, rest) = chunks.as_chunks::<LANES>();
    let near = by(const { [power(128), power(128 + 64)] });
    let (mut folded, rest) = match groups.split_first() {
        Some((first, groups)) => {
            let far = by(const { [power(LANES as u32 * 128), power(LANES as u32 * 128 + 64)] });
            let mut lanes: [_; LANES] = std::array::from_fn(|lane| load_one(&first[lane]));
            lanes[0] = _mm_xor_si128(lanes[0], before);
            for group in groups {
                for (lane, chunk) in lanes.iter_mut().zip(group) {
                    *lane = behind(*lane, far, load_one(chunk));
                }
            }
            let [first, lanes @ ..] = lanes;
            (lanes.into_iter().fold(first, |folded, lane| behind(folded, near, lane)), rest)
        }
        None => (_mm_xor_si128(load_one(&rest[0]), before), &rest[1..]),
    };
    for chunk in rest {
        folded = behind(folded, near, load_one(chunk));
    }
    end(folded)
}

/// What orders bytes as powers are.
#[target_feature(enable = "sse2")]
#[inline]
fn reversed() -> __m128i {
    _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
}

#[target_feature(enable = "ssse3")]
#[inline]
fn load_one(chunk: &[u8; 16]) -> __m128i {
    // SAFETY: 16 bytes, of which no alignment is asked.
    let bytes = unsafe { _mm_loadu_si128(chunk.as_ptr().cast()) };
    _mm_shuffle_epi8(bytes, reversed())
}

/// The register that 128 bits are.
#[target_feature(enable = "pclmulqdq,sse4.1")]
#[inline]
fn end(folded: __m128i) -> u16 {
    // 128 bits to 80, to 64, to 16.
    let key = by([power(64), 0]);
    let eighty = _mm_xor_si128(_mm_clmulepi64_si128::<0x01>(folded, key), _mm_move_epi64(folded));
    divide(_mm_xor_si128(_mm_clmulepi64_si128::<0x01>(eighty, key), eighty))
}

/// The rest of the lower 64 bits times x^16 when they are divided by the polynomial.
#[target_feature(enable = "pclmulqdq,sse4.1")]
#[inline]
fn divide(bits: __m128i) -> u16 {
    let key = by([QUOTIENT, POLYNOMIAL as i64]);
    let quotient = _mm_xor_si128(_mm_srli_si128::<8>(_mm_clmulepi64_si128::<0x00>(bits, key)), bits);
    _mm_cvtsi128_si64(_mm_clmulepi64_si128::<0x10>(quotient, key)) as u16
}

#[target_feature(enable = "sse2")]
#[inline]
fn by([low, high]: [i64; 2]) -> __m128i {
    _mm_set_epi64x(high, low)
}

/// What is behind 128 bits, with these folded onto it.
#[target_feature(enable = "pclmulqdq,sse4.1")]
#[inline]
fn behind(folded: __m128i, key: __m128i, next: __m128i) -> __m128i {
    let low = _mm_clmulepi64_si128::<0x00>(folded, key);
    let high = _mm_clmulepi64_si128::<0x11>(folded, key);
    _mm_xor_si128(_mm_xor_si128(low, high), next)
}
