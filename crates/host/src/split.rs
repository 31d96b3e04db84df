//! Cutting an I/O into the commands that carry it: none larger than the controller transfers at once, none across a stripe.

/// How the I/Os of one size on one namespace are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    block_size: u32,
    most_blocks: u32,
    /// Blocks of a stripe less one, for masking; only powers of two above one are honoured, 0 is none.
    stripe: u32,
    most_pieces: usize,
}

/// One command's part of an I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// First logical block.
    pub slba: u64,
    /// Logical blocks, 1-based.
    pub blocks: u32,
    /// Where its data starts in the I/O's buffer, in bytes.
    pub offset: u32,
}

impl Split {
    /// For I/Os of `io_size` bytes on blocks of `block_size` bytes, with `max_transfer` bytes a command and `stripe_blocks` blocks a
    /// stripe (0 for none).
    pub fn new(block_size: u32, max_transfer: u32, stripe_blocks: u32, io_size: u32) -> Self {
        let most_blocks = (max_transfer / block_size).clamp(1, 65536);
        let io_blocks = (io_size / block_size).max(1);
        // A boundary at every block is none that an I/O could keep.
        let stripe = if stripe_blocks.is_power_of_two() && stripe_blocks > 1 { stripe_blocks } else { 0 };
        let whole = io_blocks.div_ceil(most_blocks);
        // An I/O that starts inside a stripe touches one more than it fills, and each of its parts is cut on its own.
        let most_pieces = match stripe {
            0 => whole,
            stripe => {
                let parts = (io_blocks - 1).div_ceil(stripe) + 1;
                parts * stripe.min(io_blocks).div_ceil(most_blocks)
            }
        };
        Self { block_size, most_blocks, stripe: stripe.saturating_sub(1), most_pieces: most_pieces as usize }
    }

    /// The same cuts on blocks of another size.
    pub fn with_block_size(self, block_size: u32) -> Self {
        Self { block_size, ..self }
    }

    /// Most pieces an I/O of this size can have.
    pub fn most_pieces(&self) -> usize {
        self.most_pieces
    }

    /// Whether every I/O is cut at the same offsets, wherever it starts.
    pub fn is_uniform(&self) -> bool {
        self.stripe == 0 || self.most_pieces == 1
    }

    /// The pieces of the I/O on `blocks` blocks from `slba` on, in order.
    #[inline]
    pub fn pieces(&self, slba: u64, blocks: u32) -> Pieces {
        Pieces { split: *self, slba, left: blocks, offset: 0 }
    }
}

/// The pieces of one I/O.
#[derive(Clone, Debug)]
pub struct Pieces {
    split: Split,
    slba: u64,
    left: u32,
    offset: u32,
}

impl Iterator for Pieces {
    type Item = Piece;

    #[inline]
    fn next(&mut self) -> Option<Piece> {
        if self.left == 0 {
            return None;
        }
        let mut blocks = self.left.min(self.split.most_blocks);
        if self.split.stripe > 0 {
            blocks = blocks.min(self.split.stripe + 1 - (self.slba as u32 & self.split.stripe));
        }
        let piece = Piece { slba: self.slba, blocks, offset: self.offset };
        self.slba += u64::from(blocks);
        self.left -= blocks;
        self.offset += blocks * self.split.block_size;
        Some(piece)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pieces_cover_an_io_and_keep_every_limit(
            slba in 0u64..1 << 40, blocks in 1u32..3000, most in 1u32..600, stripe in prop::sample::select(vec![0u32, 1, 2, 3, 8, 256, 1 << 14, u32::MAX]),
            block_size in prop::sample::select(vec![512u32, 4096])
        ) {
            let split = Split::new(block_size, most * block_size, stripe, blocks * block_size);
            let pieces: Vec<Piece> = split.pieces(slba, blocks).collect();
            prop_assert!(pieces.len() <= split.most_pieces());
            prop_assert!(stripe != 1 || split.most_pieces() == blocks.div_ceil(most) as usize, "no stripe");
            let mut next = slba;
            for piece in &pieces {
                prop_assert_eq!((piece.slba, u64::from(piece.offset)), (next, (next - slba) * u64::from(block_size)));
                prop_assert!(piece.blocks >= 1 && piece.blocks <= most);
                if stripe > 1 && stripe.is_power_of_two() {
                    prop_assert_eq!(piece.slba / u64::from(stripe), (piece.slba + u64::from(piece.blocks) - 1) / u64::from(stripe));
                }
                next += u64::from(piece.blocks);
            }
            prop_assert_eq!(next, slba + u64::from(blocks));
            if split.is_uniform() {
                let elsewhere = split.pieces(slba + 1, blocks).map(|piece| piece.offset);
                prop_assert!(pieces.iter().map(|piece| piece.offset).eq(elsewhere));
            }
        }
    }
}
