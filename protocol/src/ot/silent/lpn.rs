//! The code: an expand-convolute code, as the product with `B C` of a vector of blocks or of bits.
//!
//! Raghuraman, Rindal, Tanguy (CRYPTO 2023). `C` is a convolution with 24 random taps and a fixed 25th, so that
//! the state never dies: `y_i = x_i + sum_j c_{i,j} y_{i-j}`, here run twice, each time with other taps, as their implementation does.
//! `B` adds up 7 positions for each output, one in each seventh of the vector, so that no output depends on its end alone.
//! Taps and positions are public: AES-128 in counter mode under a key made of the session's name, so that nobody
//! can search this code for light words ahead of time (who names its nonce last may choose among codes that it tries). All addresses are public; the vectors are not.
//!
//! Cost for each output: 2 positions x 2 passes of 25 taps, and 7 loads from anywhere in the vector.

use rayon::prelude::*;
use zeroize::Zeroizing;

use super::convolve;
use crate::block::Block;
use crate::prg::Expander;

/// Positions that an output adds up.
pub(super) const WEIGHT: usize = 7;
/// Convolutions in sequence.
const N_PASSES: u64 = 2;
/// Outputs whose positions are drawn together.
const BATCH: usize = 32;
/// Outputs that stay in a core's own cache while the sevenths pass.
const GROUP: usize = 1 << 14;

/// One code, for vectors of `n_positions`.
pub(super) struct Code {
    taps: [Expander; N_PASSES as usize],
    rows: Expander,
    n_positions: usize,
}

impl Code {
    /// The code that `seed`, public and fresh, names.
    pub fn new(seed: &[u8; 32], n_positions: usize) -> Self {
        let key = |number: u64| {
            let mut hasher = blake3::Hasher::new_derive_key("pi-protocol v1 silent OT code");
            hasher.update(seed).update(&number.to_le_bytes());
            let mut key = [0; 16];
            hasher.finalize_xof().fill(&mut key);
            Expander::new(Block::from_le_bytes(key))
        };
        Self {
            taps: [key(0), key(1)],
            rows: key(N_PASSES),
            n_positions,
        }
    }

    /// The first `out.len()` outputs for a vector of blocks, which is overwritten.
    pub fn encode(&self, vector: &mut [Block], out: &mut [Block]) {
        for taps in &self.taps {
            convolve::blocks(taps, vector);
        }
        let vector = &vector[..self.n_positions];
        out.par_chunks_mut(GROUP)
            .enumerate()
            .for_each(|(group, out)| {
                out.fill(Block::ZERO);
                let mut at = [0; BATCH];
                // One seventh of the vector at a time: fewer pages are in use at once.
                for seventh in 0..WEIGHT {
                    for (batch, out) in out.chunks_mut(BATCH).enumerate() {
                        self.positions(group * GROUP / BATCH + batch, seventh, &mut at);
                        for (out, &at) in out.iter_mut().zip(&at) {
                            *out ^= vector[at as usize];
                        }
                    }
                }
            });
    }

    /// As [`Self::encode`] for a vector of bits, 64 in a word, lowest first; `n` output bits, 8 in a byte.
    pub fn encode_bits(&self, vector: &mut [u64], n: usize) -> Zeroizing<Vec<u8>> {
        for taps in &self.taps {
            convolve::bits(taps, vector);
        }
        let mut out = Zeroizing::new(vec![0u8; n.div_ceil(8)]);
        let vector = &*vector;
        out.par_chunks_mut(BATCH / 8)
            .enumerate()
            .with_min_len(64)
            .for_each(|(batch, out)| {
                let mut at = [0; BATCH];
                let mut sums = 0u32;
                for seventh in 0..WEIGHT {
                    self.positions(batch, seventh, &mut at);
                    for (i, &at) in at.iter().enumerate() {
                        sums ^= ((vector[at as usize / 64] >> (at % 64)) as u32 & 1) << i;
                    }
                }
                out.copy_from_slice(&sums.to_le_bytes()[..out.len()]);
            });
        if let (Some(last), 1..) = (out.last_mut(), n % 8) {
            *last &= (1 << (n % 8)) - 1;
        }
        out
    }

    /// The positions in one seventh of the vector for the outputs of one batch.
    #[inline]
    fn positions(&self, batch: usize, seventh: usize, at: &mut [u32; BATCH]) {
        let mut random = [Block::ZERO; BATCH / 4];
        let first = (batch * WEIGHT + seventh) * random.len();
        self.rows.fill(first as u64, &mut random);
        let start = (seventh * self.n_positions / WEIGHT) as u32;
        let length = ((seventh + 1) * self.n_positions / WEIGHT) as u64 - u64::from(start);
        for (at, random) in at.as_chunks_mut::<4>().0.iter_mut().zip(random) {
            *at = std::array::from_fn(|i| {
                // Uniform up to 2^-13 of a position.
                start + ((u64::from((random.0 >> (32 * i)) as u32) * length) >> 32) as u32
            });
        }
    }
}
