//! Transposing a 128 x 128 bit matrix in place: columns of the extension into blocks.
//!
//! Eklundh's exchange of ever smaller squares: first the 64-bit halves of rows, then within 64-bit words, on which
//! the compiler uses whatever vector registers the target has.

use zeroize::Zeroize;

use crate::block::Block;

/// Transposes: afterwards bit `j` of block `i` is what bit `i` of block `j` was.
pub(super) fn transpose(tile: &mut [Block; 128]) {
    let mut low = [0u64; 128];
    let mut high = [0u64; 128];
    for i in 0..64 {
        // The exchange of the off-diagonal 64 x 64 squares happens as the words are read.
        (low[i], high[i]) = (tile[i].0 as u64, tile[i + 64].0 as u64);
        (low[i + 64], high[i + 64]) = ((tile[i].0 >> 64) as u64, (tile[i + 64].0 >> 64) as u64);
    }
    for words in [&mut low, &mut high] {
        exchange::<32>(words, 0x0000_0000_ffff_ffff);
        exchange::<16>(words, 0x0000_ffff_0000_ffff);
        exchange::<8>(words, 0x00ff_00ff_00ff_00ff);
        exchange::<4>(words, 0x0f0f_0f0f_0f0f_0f0f);
        exchange::<2>(words, 0x3333_3333_3333_3333);
        exchange::<1>(words, 0x5555_5555_5555_5555);
    }
    for (block, (low, high)) in tile.iter_mut().zip(low.iter().zip(&high)) {
        *block = Block(u128::from(*low) | u128::from(*high) << 64);
    }
    low.zeroize();
    high.zeroize();
}

/// Exchanges the off-diagonal squares of side `S` in every square of side `2 S`.
#[inline(always)]
fn exchange<const S: usize>(words: &mut [u64; 128], mask: u64) {
    for square in words.chunks_exact_mut(2 * S) {
        let (upper, lower) = square.split_at_mut(S);
        for (upper, lower) in upper.iter_mut().zip(lower) {
            let differ = ((*upper >> S) ^ *lower) & mask;
            *lower ^= differ;
            *upper ^= differ << S;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha20Rng;

    #[test]
    #[allow(clippy::needless_range_loop)] // indices are the statement
    fn every_bit_moves_to_its_mirror() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let before: [Block; 128] = std::array::from_fn(|_| Block::random(&mut rng));
        let mut after = before;
        transpose(&mut after);
        for i in 0..128 {
            for j in 0..128 {
                assert_eq!(after[i].bit(j), before[j].bit(i), "({i}, {j})");
            }
        }
    }
}
