//! Shapes: how many noisy positions and leaves serve `n` correlated OTs, and the bytes that follow.
//!
//! Dual LPN of rate 1/2 with regular noise: a chunk of `n <= 2^20` OTs is the product of an `n x N` code matrix with `N >= 2 n`
//! positions, `N = t L`, one error in each of `t` blocks of `L = 2^depth`. `L` is the largest power of two that leaves `t >= 256`.
//!
//! What the choices are to withstand, at any of these shapes:
//! - Linear tests (Boyle, Couteau, Gilboa, Ishai, Kohl, Resch, Scholl, CRYPTO 2022; they cover statistical decoding, Gauss, BKW and
//!   low-weight parity checks): bias `(1 - 2 d/N)^t` for the lightest codeword that can be found. `t = 256` gives 128 bits while
//!   `d/N >= 0.147`. Raghuraman, Rindal, Tanguy (CRYPTO 2023) measure their expand-convolute codes; their implementation takes 0.15
//!   for expander weight 7 and 24 bits of state, run twice with a regular expander as here, and 0.2 for weight 21. A distance
//!   that is measured and not proved: this is the weakest link, and why `t` is rounded up to at least 256, never down.
//! - Information-set decoding: a set of half the positions misses all errors with probability 2^-t = 2^-256; for so few errors
//!   the exponent is the same for all known variants (Canto Torres, Sendrier, PQCrypto 2016). The estimates of Liu, Wang,
//!   Yang, Yu (Eurocrypt 2024) for dual LPN use this model. Regular noise adds `t` parity equations, and saves up to about
//!   30 bits where blocks are short (Esser, Santini, CRYPTO 2024); here more than 100 bits are to spare.
//! - Algebraic attacks on regular noise (Briaud, Oygarden, Eurocrypt 2023, and later refinements) gain where the rate is low, as in
//!   primal LPN with few secret bits (Ferret's sets lost several bits to them); at rate 1/2 with long blocks they guess error-free
//!   positions as well and do not beat 2^-t by more than the cost of one linear system.
//!
//! So the assumption is the code, not the noise. Estimate: 128 bits, given a findable relative distance of 0.147.

use crate::block::Block;
use crate::ot::softspoken;

/// Fewer OTs than this come from the base extension directly, which then costs fewer bytes.
pub const MIN_SILENT: usize = 1 << 14;
/// Most OTs of one chunk; its vector has 32 MiB.
pub(super) const MAX_CHUNK: usize = 1 << 20;
/// Least errors in a chunk.
const MIN_TREES: usize = 256;
/// Bytes of the check of each tree and of each chunk.
pub(super) const CHECK_BYTES: usize = 32;

/// How `n` OTs are made: some chunks of one shape, the last of which may be used in part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// Chunks.
    pub n_chunks: usize,
    /// OTs of each chunk.
    pub n_of_chunk: usize,
    /// Trees of each chunk: the weight of the noise.
    pub n_trees: usize,
    /// Levels of a tree.
    pub depth: usize,
}

impl Shape {
    /// The shape for `n` OTs; none where the base extension serves them.
    pub fn of(n: usize) -> Option<Self> {
        if n < MIN_SILENT {
            return None;
        }
        let n_chunks = n.div_ceil(MAX_CHUNK);
        let n_of_chunk = n.div_ceil(n_chunks);
        let depth = (2 * n_of_chunk)
            .div_ceil(MIN_TREES)
            .next_power_of_two()
            .ilog2() as usize;
        // The largest power of two that leaves enough trees.
        let depth = if (2 * n_of_chunk).div_ceil(1 << depth) < MIN_TREES {
            depth - 1
        } else {
            depth
        };
        Some(Self {
            n_chunks,
            n_of_chunk,
            n_trees: (2 * n_of_chunk).div_ceil(1 << depth),
            depth,
        })
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

/// Bytes from receiver to sender for `n` OTs.
pub fn message_bytes(n: usize) -> usize {
    softspoken::message_bytes(Shape::of(n).map_or(n, |s| s.n_chunks * s.n_base_of_chunk()))
}

/// Bytes from sender to receiver for `n` OTs.
pub fn reply_bytes(n: usize) -> usize {
    Shape::of(n).map_or(0, |s| s.n_chunks * s.chunk_bytes())
}
