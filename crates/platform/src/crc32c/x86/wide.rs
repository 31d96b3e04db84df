//! Everything folded in 512-bit registers, which together take more bytes a cycle than the crc32 instruction could add to.

use std::arch::x86_64::*;

use super::{fold_by, in_order, of_folded};

/// Registers that are folded, as many as hide each other's latency, and bytes that they take a round.
const LANES: usize = 4;
const ROUND: usize = LANES * 64;

pub(super) fn is_here() -> bool {
    is_x86_feature_detected!("vpclmulqdq")
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("pclmulqdq")
        && is_x86_feature_detected!("sse4.2")
}

/// The register behind `bytes`, which may be copied to `to`.
///
/// # Safety
/// To copy, as many bytes at `to` as `bytes` has can be written and are nobody else's; they do not overlap `bytes`.
#[target_feature(enable = "sse4.2,pclmulqdq,avx512f,vpclmulqdq")]
pub(super) unsafe fn update<const COPY: bool>(crc: u32, bytes: &[u8], to: *mut u8) -> u32 {
    let (rounds, rest) = bytes.split_at(bytes.len() / ROUND * ROUND);
    if COPY {
        // SAFETY: the caller's promise, of which `rest` is the last part.
        unsafe { std::ptr::copy_nonoverlapping(rest.as_ptr(), to.add(rounds.len()), rest.len()) };
    }
    // SAFETY: the caller's promise, of which `rounds` is the first part.
    let crc = if rounds.is_empty() { crc } else { unsafe { fold_all::<COPY>(crc, rounds, to) } };
    in_order(crc, rest)
}

/// The register behind one round or more.
///
/// # Safety
/// To copy, as many bytes at `to` as `rounds` has can be written and are nobody else's; they do not overlap `rounds`.
#[target_feature(enable = "sse4.2,pclmulqdq,avx512f,vpclmulqdq")]
#[inline]
unsafe fn fold_all<const COPY: bool>(crc: u32, rounds: &[u8], to: *mut u8) -> u32 {
    let next = |at: usize| {
        // SAFETY: called for 64 bytes of `rounds` each; no alignment is asked for.
        let next = unsafe { _mm512_loadu_si512(rounds.as_ptr().cast::<__m512i>().add(at)) };
        if COPY {
            // SAFETY: they have their place at `to`.
            unsafe { _mm512_storeu_si512(to.cast::<__m512i>().add(at), next) };
        }
        next
    };
    let mut lanes: [_; LANES] = std::array::from_fn(next);
    lanes[0] = _mm512_xor_si512(lanes[0], _mm512_zextsi128_si512(_mm_cvtsi32_si128(crc as i32)));
    let key = four_times(const { fold_by(LANES as u32 * 512) });
    for round in 1..rounds.len() / ROUND {
        for (at, lane) in lanes.iter_mut().enumerate() {
            *lane = fold(*lane, key, next(round * LANES + at));
        }
    }
    let (key, mut folded) = (four_times(const { fold_by(512) }), lanes[0]);
    for lane in &lanes[1..] {
        folded = fold(folded, key, *lane);
    }
    // The first half onto the second, then the first quarter of what that left onto the second, which is all that is looked at.
    let key = four_times(const { fold_by(256) });
    let folded = fold(folded, key, _mm512_shuffle_i64x2::<0b11_10_11_10>(folded, folded));
    let key = four_times(const { fold_by(128) });
    let folded = fold(folded, key, _mm512_shuffle_i64x2::<0b01_01_01_01>(folded, folded));
    of_folded(_mm512_castsi512_si128(folded)) as u32
}

#[target_feature(enable = "avx512f")]
#[inline]
fn four_times(key: [i64; 2]) -> __m512i {
    _mm512_set_epi64(key[1], key[0], key[1], key[0], key[1], key[0], key[1], key[0])
}

#[target_feature(enable = "avx512f,vpclmulqdq")]
#[inline]
fn fold(lane: __m512i, key: __m512i, next: __m512i) -> __m512i {
    let first = _mm512_clmulepi64_epi128::<0x00>(lane, key);
    let second = _mm512_clmulepi64_epi128::<0x11>(lane, key);
    _mm512_ternarylogic_epi64::<0x96>(first, second, next)
}
