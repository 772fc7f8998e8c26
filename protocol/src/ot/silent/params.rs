//! Shapes: how many noisy positions and leaves serve `n` correlated OTs, and the bytes that follow.
//!
//! Dual LPN of rate 1/2 or a little less with regular noise: a chunk of `n <= 2^20` OTs is the product of an `n x N` code matrix with
//! `N >= 2 n` positions, `N = t L`, one error in each of `t` blocks of `L = 2^depth`. `L` is the largest power of two that leaves
//! `2 n / L >= 256`, and `t >= 272`.
//!
//! What the choices are to withstand, at any of these shapes:
//! - Linear tests (Boyle, Couteau, Gilboa, Ishai, Kohl, Resch, Scholl, CRYPTO 2022; they cover statistical decoding, Gauss, BKW and
//!   low-weight parity checks): a codeword with `w_i` ones in block i has bias `prod |1 - 2 w_i / L|`, for spread codewords about
//!   `(1 - 2 d/N)^t`. `t = 272` gives 128 bits while `d/N >= 0.14`. Raghuraman, Rindal, Tanguy (CRYPTO 2023) measure their
//!   expand-convolute codes; their implementation takes 0.15 for expander weight 7 and 24 bits of state, run twice with a
//!   regular expander as here, and 0.2 for weight 21. A distance that is measured and not proved: this is the weakest link.
//!   *Light codewords can be found*: about 150 rows whose seven places all lie in windows around four borders of the sevenths have a
//!   combination that closes both convolutions at the ends of the windows; its weight is about `(150 / n)^(1/7) / 2`, which is
//!   0.141 at n = 2^20 (computed: 0.170 at 2^18, 0.209 at 2^16). But its ones lie close together, in less than a third of the blocks
//!   and about half of each, so that its bias on regular noise is far below 2^-128 (2^-540 in those runs). The threshold of 0.14
//!   is there for words as light as this one and spread evenly; none is known.
//! - Information-set decoding: a set of half the positions misses all errors with probability 2^-t, at most 2^-272; for so few errors
//!   the exponent is the same for all known variants (Canto Torres, Sendrier, PQCrypto 2016). The estimates of Liu, Wang,
//!   Yang, Yu (Eurocrypt 2024) for dual LPN use this model. Regular noise adds `t` parity equations, and saves up to about
//!   30 bits where blocks are short (Esser, Santini, CRYPTO 2024); here more than 100 bits are to spare.
//! - Algebraic attacks on regular noise (Briaud, Oygarden, Eurocrypt 2023, and later refinements) gain where the rate is low, as in
//!   primal LPN with few secret bits (Ferret's sets lost several bits to them); at rate 1/2 with long blocks they guess error-free
//!   positions as well and do not beat 2^-t by more than the cost of one linear system.
//!
//! So the assumption is the code, not the noise. Estimate: 128 bits, if no codeword spread over the blocks and lighter than 0.14 can be found.

use crate::block::Block;
use crate::ot::softspoken;

/// Fewer OTs than this come from the base extension directly, which then costs fewer bytes.
pub const MIN_SILENT: usize = 1 << 14;
/// Most OTs of one chunk; its vector has 32 MiB.
pub(super) const MAX_CHUNK: usize = 1 << 20;
/// Blocks are as long as leaves so many of them in twice the OTs.
const MIN_BLOCKS: usize = 256;
/// Least errors in a chunk.
pub(super) const MIN_TREES: usize = 272;
/// Bytes of the check of each tree and of each chunk.
pub(super) const CHECK_BYTES: usize = 32;

/// How one chunk of OTs is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// OTs that are used.
    pub n: usize,
    /// Trees: the weight of the noise.
    pub n_trees: usize,
    /// Levels of a tree.
    pub depth: usize,
}

impl Shape {
    /// The shape of a chunk of `n` OTs; fewer than [`MIN_SILENT`] are the first ones of a chunk of so many.
    fn of(n: usize) -> Self {
        let n_positions = 2 * n.max(MIN_SILENT);
        // The largest power of two that leaves enough blocks.
        let mut depth = n_positions.div_ceil(MIN_BLOCKS).ilog2() as usize;
        while n_positions.div_ceil(2 << depth) >= MIN_BLOCKS {
            depth += 1;
        }
        Self {
            n,
            n_trees: n_positions.div_ceil(1 << depth).max(MIN_TREES),
            depth,
        }
    }

    /// The chunks for `n` OTs: full ones, and one for the rest; none where the base extension serves them.
    pub fn chunks(n: usize) -> Vec<Self> {
        if n < MIN_SILENT {
            return vec![];
        }
        let mut chunks = vec![Self::of(MAX_CHUNK); n / MAX_CHUNK];
        if !n.is_multiple_of(MAX_CHUNK) {
            chunks.push(Self::of(n % MAX_CHUNK));
        }
        chunks
    }

    /// Leaves of one tree.
    pub const fn n_leaves(&self) -> usize {
        1 << self.depth
    }

    /// Positions of one chunk's vector.
    pub const fn n_positions(&self) -> usize {
        self.n_trees * self.n_leaves()
    }

    /// Base OTs of one chunk.
    pub const fn n_base_of_chunk(&self) -> usize {
        self.n_trees * self.depth
    }

    /// Bytes of one tree in the reply.
    pub const fn tree_bytes(&self) -> usize {
        self.depth * Block::BYTES + CHECK_BYTES
    }

    /// Bytes of one chunk in the reply.
    pub const fn chunk_bytes(&self) -> usize {
        self.n_trees * self.tree_bytes() + CHECK_BYTES
    }
}

/// Base OTs of some chunks.
pub(super) fn n_base(chunks: &[Shape]) -> usize {
    chunks.iter().map(Shape::n_base_of_chunk).sum()
}

/// Bytes from receiver to sender for `n` OTs.
pub fn message_bytes(n: usize) -> usize {
    let chunks = Shape::chunks(n);
    let n_base = if chunks.is_empty() {
        n
    } else {
        n_base(&chunks)
    };
    softspoken::message_bytes(n_base)
}

/// Bytes from sender to receiver for `n` OTs.
pub fn reply_bytes(n: usize) -> usize {
    Shape::chunks(n).iter().map(Shape::chunk_bytes).sum()
}
