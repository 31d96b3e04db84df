//! Two units that do not wait for each other side by side: half of the bytes is folded in 256-bit registers, the other half goes through
//! the crc32 instruction in four streams, each of which hides the others' latency.

use std::arch::x86_64::*;

use super::{fold_by, in_order, moved, of_folded, power, times_x};

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

pub(super) fn is_here() -> bool {
    is_x86_feature_detected!("vpclmulqdq")
        && is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("pclmulqdq")
        && is_x86_feature_detected!("sse4.2")
}

/// The register behind `bytes`, which may be copied to `to`.
///
/// # Safety
/// To copy, as many bytes at `to` as `bytes` has can be written and are nobody else's; they do not overlap `bytes`.
#[target_feature(enable = "sse4.2,pclmulqdq,avx2,vpclmulqdq")]
pub(super) unsafe fn update<const COPY: bool>(mut crc: u32, mut bytes: &[u8], mut to: *mut u8) -> u32 {
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
    in_order(crc, bytes)
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
    let mut moved = moved(fold_lanes(lanes), MOVES[count * STREAMS]);
    for (stream, register) in registers[..STREAMS - 1].iter().enumerate() {
        moved ^= self::moved(*register, MOVES[count * (STREAMS - 1 - stream)]);
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
    of_folded(folded)
}
