//! CRC-16/T10-DIF. The first bit of the first byte has the highest power.

use std::arch::x86_64::*;

use super::fold::{self, Checksum, by};

/// The polynomial without its highest power, x^16.
const POLYNOMIAL: u16 = 0x8bb7;

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

struct Crc16;

impl Checksum for Crc16 {
    const REVERSED: bool = true;
    const KEYS: [[i64; 2]; 4] = [key(128), key(256), key(512), key(1024)];
}

const fn key(bits: u32) -> [i64; 2] {
    [power(bits), power(bits + 64)]
}

/// The register behind `bytes`.
#[target_feature(enable = "pclmulqdq,sse4.1,ssse3")]
#[inline]
pub(super) fn update(register: u16, bytes: &[u8]) -> u16 {
    let (chunks, rest) = bytes.as_chunks();
    let register = fold::narrow::<Crc16>(first(register), chunks).map_or(register, |folded| end(folded));
    let (words, rest) = rest.as_chunks();
    let register = words.iter().fold(register, |register, word| {
        let word = u64::from_be_bytes(*word) ^ (u64::from(register) << 48);
        divide(_mm_cvtsi64_si128(word as i64))
    });
    rest.iter().fold(register, |register, byte| (register << 8) ^ TABLE[usize::from((register >> 8) as u8 ^ byte)])
}

/// As [`update`], in registers of 256 bits.
#[target_feature(enable = "pclmulqdq,sse4.1,ssse3,avx2,vpclmulqdq")]
#[inline]
pub(super) fn update_wide(register: u16, bytes: &[u8]) -> u16 {
    match fold::wide::<Crc16>(first(register), bytes) {
        Some((folded, rest)) => update(end(folded), rest),
        None => update(register, bytes),
    }
}

/// The register where the powers of the next 128 bits have it.
#[target_feature(enable = "sse2")]
#[inline]
fn first(register: u16) -> __m128i {
    by([0, (register as i64) << 48])
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
