//! CRC-64/NVME. A register is a polynomial of degree 63 with bit 0 for its highest power, and 128 bits likewise, whose lower half has
//! the higher powers. A product without carries of two registers comes out one place too low, which exponents and shifts below make up
//! for.

use std::arch::x86_64::*;

use super::fold::{self, Checksum, by};

/// The polynomial without its highest power, x^64.
const POLYNOMIAL: u64 = 0x9a6c_9329_ac4b_c9b5;

/// What each byte adds to a register that it leaves.
static TABLE: [u64; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = times_x(byte as u64, 8);
        byte += 1;
    }
    table
};

const fn times_x(mut value: u64, times: u32) -> u64 {
    let mut at = 0;
    while at < times {
        value = (value >> 1) ^ if value & 1 == 1 { POLYNOMIAL } else { 0 };
        at += 1;
    }
    value
}

/// x to the power of `exponent` modulo the polynomial.
const fn power(exponent: u32) -> i64 {
    times_x(1 << 63, exponent) as i64
}

/// The quotient of x^128 and the polynomial without its highest power, x^64.
const QUOTIENT: u64 = {
    // The highest power is divided already, and has left this.
    let (mut quotient, mut rest, mut at) = (0, POLYNOMIAL, 0);
    while at < 64 {
        quotient |= (rest & 1) << at;
        rest = times_x(rest, 1);
        at += 1;
    }
    quotient
};

struct Crc64;

impl Checksum for Crc64 {
    const REVERSED: bool = false;
    const KEYS: [[i64; 2]; 4] = [key(128), key(256), key(512), key(1024)];
}

const fn key(bits: u32) -> [i64; 2] {
    [power(bits + 64 - 1), power(bits - 1)]
}

/// The register behind `bytes`.
#[target_feature(enable = "pclmulqdq,sse4.1,ssse3")]
#[inline]
pub(super) fn update(register: u64, bytes: &[u8]) -> u64 {
    let (chunks, rest) = bytes.as_chunks();
    let register = fold::narrow::<Crc64>(first(register), chunks).map_or(register, |folded| end(folded));
    let (words, rest) = rest.as_chunks();
    let register = words.iter().fold(register, |register, word| divide(register ^ u64::from_le_bytes(*word), 0));
    rest.iter().fold(register, |register, byte| (register >> 8) ^ TABLE[usize::from(register as u8 ^ byte)])
}

/// As [`update`], in registers of 256 bits.
#[target_feature(enable = "pclmulqdq,sse4.1,ssse3,avx2,vpclmulqdq")]
#[inline]
pub(super) fn update_wide(register: u64, bytes: &[u8]) -> u64 {
    match fold::wide::<Crc64>(first(register), bytes) {
        Some((folded, rest)) => update(end(folded), rest),
        None => update(register, bytes),
    }
}

/// The register where the powers of the next 128 bits have it.
#[target_feature(enable = "sse2")]
#[inline]
fn first(register: u64) -> __m128i {
    by([register as i64, 0])
}

/// The register that 128 bits are.
#[target_feature(enable = "pclmulqdq,sse4.1")]
#[inline]
fn end(folded: __m128i) -> u64 {
    // Times x^64, as 128 bits again.
    let key = by(const { key(128) });
    let moved = _mm_xor_si128(_mm_clmulepi64_si128::<0x10>(folded, key), _mm_srli_si128::<8>(folded));
    divide(_mm_cvtsi128_si64(moved) as u64, _mm_extract_epi64::<1>(moved) as u64)
}

/// The rest of 128 bits when they are divided by the polynomial.
#[target_feature(enable = "pclmulqdq,sse4.1")]
#[inline]
fn divide(low: u64, high: u64) -> u64 {
    let product = |first: u64, second: u64| {
        _mm_clmulepi64_si128::<0x00>(_mm_cvtsi64_si128(first as i64), _mm_cvtsi64_si128(second as i64))
    };
    let quotient = low ^ (_mm_cvtsi128_si64(product(low, QUOTIENT)) << 1) as u64;
    let multiple = product(quotient, POLYNOMIAL);
    high ^ (_mm_extract_epi64::<1>(multiple) << 1) as u64 ^ (_mm_cvtsi128_si64(multiple) as u64 >> 63)
}
