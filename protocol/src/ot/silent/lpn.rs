//! The code: an expand-convolute code, as the product with `B C` of a vector of blocks or of bits.
//!
//! Raghuraman, Rindal, Tanguy (CRYPTO 2023). `C` is a convolution with 24 random taps and a fixed 25th, so that
//! the state never dies: `y_i = x_i + sum_j c_{i,j} y_{i-j}`, here run twice, each time with other taps, as their implementation does.
//! `B` adds up 7 positions for each output, one in each seventh of the vector, so that no output depends on its end alone.
//! Taps and positions are public: AES-128 in counter mode under a key made of the session's name, so that nobody
//! can search this code for light words ahead of time. All addresses are public; the vectors are not.
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
/// Outputs that are made together.
const BATCH: usize = 32;

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
        out.par_chunks_mut(BATCH)
            .enumerate()
            .with_min_len(64)
            .for_each(|(batch, out)| {
                let mut at = [0u32; BATCH * WEIGHT];
                self.positions(batch, &mut at);
                let rows: &[[u32; WEIGHT]] = at.as_chunks().0;
                for (out, row) in out.iter_mut().zip(rows) {
                    *out = row
                        .iter()
                        .fold(Block::ZERO, |sum, &at| sum ^ vector[at as usize]);
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
                let mut at = [0u32; BATCH * WEIGHT];
                self.positions(batch, &mut at);
                let rows: &[[u32; WEIGHT]] = at.as_chunks().0;
                for (byte, rows) in out.iter_mut().zip(rows.chunks(8)) {
                    for (i, row) in rows.iter().enumerate() {
                        let sum = row.iter().fold(0, |sum, &at| {
                            sum ^ (vector[at as usize / 64] >> (at % 64)) as u8
                        });
                        *byte |= (sum & 1) << i;
                    }
                }
            });
        if let (Some(last), 1..) = (out.last_mut(), n % 8) {
            *last &= (1 << (n % 8)) - 1;
        }
        out
    }

    /// The positions of the outputs of one batch, [`WEIGHT`] for each.
    #[inline]
    fn positions(&self, batch: usize, at: &mut [u32; BATCH * WEIGHT]) {
        const BLOCKS: usize = BATCH * WEIGHT / 4;
        let mut random = [Block::ZERO; BLOCKS];
        self.rows.fill((batch * BLOCKS) as u64, &mut random);
        for (at, random) in at.as_chunks_mut::<4>().0.iter_mut().zip(random) {
            *at = std::array::from_fn(|i| (random.0 >> (32 * i)) as u32);
        }
        let n = self.n_positions as u64;
        for row in at.as_chunks_mut::<WEIGHT>().0 {
            for (k, at) in row.iter_mut().enumerate() {
                // A uniform point of the k-th seventh, up to 2^-11 of a position.
                *at = ((k as u64 * n + ((u64::from(*at) * n) >> 32)) / WEIGHT as u64) as u32;
            }
        }
    }
}
