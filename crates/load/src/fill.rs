//! What buffers hold before the first I/O (`--fill`).

use doorbell_platform::{Range, Region};
use rand_xoshiro::rand_core::Rng;

use crate::{
    plan::Fill,
    workload::{fill_byte, generator},
};

/// Random bytes and zeroes take turns in pieces of this size, so that any block is compressed alike.
const PIECE: usize = 512;

/// What the buffers of a context hold at the start.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filling {
    pub fill: Fill,
    /// Random bytes follow from this, and from the core and number of the context.
    pub seed: (u64, usize, usize),
}

impl Filling {
    /// Fills the buffer of an I/O.
    pub fn apply(&self, region: &Region, buffer: Range, index: u32) {
        match &self.fill {
            Fill::Numbered => region.fill(buffer.offset, buffer.len as usize, fill_byte(index)),
            fill => region.write(buffer.offset, &self.bytes(fill, buffer.len as usize, index)),
        }
    }

    fn bytes(&self, fill: &Fill, len: usize, index: u32) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let (seed, core, context) = self.seed;
        let mut random = generator(seed ^ !u64::from(index), core, context);
        match fill {
            Fill::Zero => {}
            Fill::Numbered => bytes.fill(fill_byte(index)),
            Fill::Random => random.fill_bytes(&mut bytes),
            Fill::Pattern(pattern) => bytes.iter_mut().zip(pattern.iter().cycle()).for_each(|(to, from)| *to = *from),
            Fill::Compress(percent) => {
                for piece in bytes.chunks_mut(PIECE) {
                    let kept = piece.len() * usize::from(*percent) / 100;
                    random.fill_bytes(&mut piece[..kept]);
                }
            }
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(fill: Fill, index: u32) -> Vec<u8> {
        Filling { seed: (7, 1, 2), ..Filling::default() }.bytes(&fill, 64 << 10, index)
    }

    fn deflated(bytes: &[u8]) -> f64 {
        miniz_oxide::deflate::compress_to_vec(bytes, 6).len() as f64 / bytes.len() as f64 * 100.0
    }

    #[test]
    fn what_is_compressed_leaves_what_was_asked_for() {
        for percent in [0, 10, 25, 50, 60, 75, 90, 100] {
            let bytes = of(Fill::Compress(percent), 3);
            // All of it, and the blocks of a device that compresses 4 KiB by 4 KiB.
            for left in [deflated(&bytes), deflated(&bytes[8192..][..4096])] {
                assert!((left - f64::from(percent)).abs() <= 3.0, "{left:.1} of {percent}");
            }
        }
        assert!(deflated(&of(Fill::Random, 0)) > 99.0);
    }

    #[test]
    fn patterns_and_zeroes_are_what_they_say_and_buffers_differ_where_they_are_random() {
        assert!(of(Fill::Zero, 9).iter().all(|&byte| byte == 0));
        assert!(of(Fill::Numbered, 9).iter().all(|&byte| byte == 2));
        let pattern = of(Fill::Pattern(vec![0xde, 0xad, 0xbe, 0xef]), 1);
        assert!(pattern.chunks(4).all(|piece| piece == [0xde, 0xad, 0xbe, 0xef]));
        assert_eq!(of(Fill::Random, 1), of(Fill::Random, 1));
        assert_ne!(of(Fill::Random, 1), of(Fill::Random, 2));
        assert_ne!(of(Fill::Compress(50), 1)[..256], of(Fill::Compress(50), 2)[..256]);
    }
}
