//! The convolution `y_i = x_i + sum_{j=1}^{24} c_{i,j} y_{i-j} + y_{i-25}` over blocks and over bits, in place.
//!
//! Taps are public, hence addresses and table look-ups may depend on them. Written as a scatter: each finished `y_i` is added to
//! the positions ahead that `taps[i]` names. With AVX-512 the 28 blocks ahead stay in seven registers of four blocks.

use crate::block::Block;
use crate::prg::Expander;

/// Elements whose taps are drawn together.
const DRAW: usize = 64;
/// Random taps of an element; one more is always set.
const STATE: u32 = 24;

/// Taps of `DRAW` elements from number `first`: bit `j - 1` adds the element to the one `j` further on.
#[inline]
fn draw(taps: &Expander, first: usize, out: &mut [u32; DRAW]) {
    let mut random = [Block::ZERO; DRAW / 4];
    taps.fill((first / 4) as u64, &mut random);
    for (out, random) in out.as_chunks_mut::<4>().0.iter_mut().zip(random) {
        *out = std::array::from_fn(|i| {
            (random.0 >> (32 * i)) as u32 & ((1 << STATE) - 1) | 1 << STATE
        });
    }
}

/// Over bits, 64 in a word. No branch depends on them.
pub(super) fn bits(taps: &Expander, vector: &mut [u64]) {
    let mut state = 0u32;
    let mut drawn = [0; DRAW];
    for (i, word) in vector.iter_mut().enumerate() {
        draw(taps, i * DRAW, &mut drawn);
        let (x, mut y) = (*word, 0u64);
        for (i, taps) in drawn.iter().enumerate() {
            let bit = (x >> i) as u32 & 1 ^ state & 1;
            y |= u64::from(bit) << i;
            state = state >> 1 ^ taps & bit.wrapping_neg();
        }
        *word = y;
    }
}

/// Over blocks.
pub(super) fn blocks(taps: &Expander, vector: &mut [Block]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") && vector.len().is_multiple_of(DRAW) {
        x86::blocks(taps, vector);
        return;
    }
    portable(taps, vector);
}

/// The scalar twin.
fn portable(taps: &Expander, vector: &mut [Block]) {
    let mut drawn = [0; DRAW];
    for i in 0..vector.len() {
        if i % DRAW == 0 {
            draw(taps, i, &mut drawn);
        }
        let (y, mut ahead) = (vector[i], drawn[i % DRAW]);
        let mut at = i;
        while ahead != 0 {
            let step = ahead.trailing_zeros() + 1;
            at += step as usize;
            if let Some(x) = vector.get_mut(at) {
                *x ^= y;
            }
            ahead >>= step;
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod x86 {
    use std::arch::x86_64::*;

    use super::{DRAW, draw};
    use crate::block::Block;
    use crate::prg::Expander;

    /// For each four bits, a register with all ones in the blocks whose bit is set.
    #[repr(align(64))]
    struct Masks([[u128; 4]; 16]);
    static MASKS: Masks = Masks(masks());

    const fn masks() -> [[u128; 4]; 16] {
        let mut all = [[0; 4]; 16];
        let mut i = 0;
        while i < 64 {
            all[i / 4][i % 4] = if (i / 4) >> (i % 4) & 1 == 1 {
                u128::MAX
            } else {
                0
            };
            i += 1;
        }
        all
    }

    /// The caller has seen that the processor has AVX-512F and that the length is a multiple of [`DRAW`].
    pub(super) fn blocks(taps: &Expander, vector: &mut [Block]) {
        // SAFETY: the only caller has detected the feature.
        unsafe { convolve(taps, vector) }
    }

    /// `ahead[k] ^= y` in the lanes of `bits`, four bits to each register.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn scatter(current: &mut __m512i, ahead: &mut [__m512i; 7], y: __m512i, bits: u32) {
        let mask = |k: u32| {
            let masks: &[u128; 4] = &MASKS.0[(bits >> (4 * k) & 15) as usize];
            // SAFETY: 64 readable bytes, aligned to 64.
            unsafe { _mm512_load_si512(masks.as_ptr().cast()) }
        };
        // a ^ (b & c)
        *current = _mm512_ternarylogic_epi64::<0x78>(*current, y, mask(0));
        for (k, ahead) in ahead.iter_mut().enumerate() {
            *ahead = _mm512_ternarylogic_epi64::<0x78>(*ahead, y, mask(k as u32 + 1));
        }
    }

    #[target_feature(enable = "avx512f")]
    fn convolve(taps: &Expander, vector: &mut [Block]) {
        let zero = _mm512_setzero_si512();
        let mut drawn = [0; DRAW];
        let mut next = [zero; 7];
        for (i, part) in vector.as_chunks_mut::<DRAW>().0.iter_mut().enumerate() {
            draw(taps, i * DRAW, &mut drawn);
            let fours = part.as_chunks_mut::<4>().0.iter_mut();
            for (four, taps) in fours.zip(drawn.as_chunks::<4>().0) {
                // SAFETY: a Block is a u128, so `four` is 64 bytes to read and write; no alignment is asked for.
                let x = unsafe { _mm512_loadu_si512(four.as_ptr().cast()) };
                let mut current = _mm512_xor_si512(x, next[0]);
                let [_, a, b, c, d, e, f] = next;
                let mut ahead = [a, b, c, d, e, f, zero];
                let y = _mm512_shuffle_i64x2::<0x00>(current, current);
                scatter(&mut current, &mut ahead, y, taps[0] << 1);
                let y = _mm512_shuffle_i64x2::<0x55>(current, current);
                scatter(&mut current, &mut ahead, y, taps[1] << 2);
                let y = _mm512_shuffle_i64x2::<0xaa>(current, current);
                scatter(&mut current, &mut ahead, y, taps[2] << 3);
                let y = _mm512_shuffle_i64x2::<0xff>(current, current);
                scatter(&mut current, &mut ahead, y, taps[3] << 4);
                next = ahead;
                // SAFETY: as above.
                unsafe { _mm512_storeu_si512(four.as_mut_ptr().cast(), current) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha20Rng;

    #[test]
    fn kernels_agree_on_blocks_and_bits() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        for n in [64, 128, 640, 64 * 37] {
            let taps = Expander::new(Block::random(&mut rng));
            let vector: Vec<Block> = (0..n).map(|_| Block::random(&mut rng)).collect();
            let mut fast = vector.clone();
            blocks(&taps, &mut fast);
            let mut slow = vector.clone();
            portable(&taps, &mut slow);
            assert!(fast == slow, "{n} blocks");
            for bit in [0, 77] {
                let mut words: Vec<u64> = vector
                    .chunks(64)
                    .map(|c| (0..64).fold(0, |w, i| w | u64::from(c[i].bit(bit)) << i))
                    .collect();
                bits(&taps, &mut words);
                for i in 0..n {
                    assert_eq!((words[i / 64] >> (i % 64)) as u8 & 1, slow[i].bit(bit));
                }
            }
        }
    }

    #[test]
    #[allow(clippy::needless_range_loop)] // indices are the statement
    fn it_is_the_convolution_of_its_definition() {
        let taps = Expander::new(Block(5));
        let n = 256;
        let mut drawn = vec![[0; DRAW]; n / DRAW];
        for (i, drawn) in drawn.iter_mut().enumerate() {
            draw(&taps, i * DRAW, drawn);
        }
        let x: Vec<Block> = (0..n as u128).map(|i| Block(i * i + 3)).collect();
        let mut y = x.clone();
        for i in 0..n {
            for j in 1..=25.min(i) {
                let from = y[i - j];
                let tap = drawn[(i - j) / DRAW][(i - j) % DRAW] >> (j - 1) & 1;
                y[i] = y[i].xor_if(tap as u8, from);
                assert!(j < 25 || tap == 1);
            }
        }
        let mut fast = x;
        blocks(&taps, &mut fast);
        assert!(fast == y);
    }
}
