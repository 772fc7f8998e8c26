//! The inner product of the convolution on processors with AVX2 but without AVX-512 IFMA: a panel of 8 pixels times a
//! block of 16 filters, right modulo 2^64.
//!
//! `vpmuldq` multiplies the signed low halves of 64-bit lanes. A word is `x = l + 2^32 h` with `l` its low half read as a
//! signed number, so `x w = l w + 2^32 (h w)`: two products for each, summed apart and joined once at the end. A load
//! of 8 weights serves twice, for the even filters as it is and for the odd ones shifted down.

#![allow(unsafe_code)]

use super::{FILTERS, PIXELS};

/// Whether this processor has the instructions.
pub(super) fn available() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        is_x86_feature_detected!("avx2")
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Sums over k of `panel[k][pixel] * block[k][filter]` in (pixel, filter) order, modulo 2^64.
pub(super) fn multiply(panel: &[u64], block: &[i32]) -> [u64; PIXELS * FILTERS] {
    #[cfg(target_arch = "x86_64")]
    if available() {
        // SAFETY: the processor has the instructions that the function is compiled for.
        return unsafe { multiply_avx2(panel, block) };
    }
    super::multiply_portable(panel, block)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn multiply_avx2(panel: &[u64], block: &[i32]) -> [u64; PIXELS * FILTERS] {
    use std::arch::x86_64::{
        __m256i, _mm256_add_epi64, _mm256_loadu_si256, _mm256_mul_epi32, _mm256_set1_epi64x,
        _mm256_setzero_si256, _mm256_slli_epi64, _mm256_srli_epi64, _mm256_storeu_si256,
    };

    /// Pixels and filters whose sums stay in registers.
    const AT_ONCE: (usize, usize) = (2, 8);

    let (panel, block) = (
        panel.as_chunks::<PIXELS>().0,
        block.as_chunks::<FILTERS>().0,
    );
    let half = _mm256_set1_epi64x(1 << 31);
    let mut out = [0; PIXELS * FILTERS];
    for pixel in (0..PIXELS).step_by(AT_ONCE.0) {
        for filter in (0..FILTERS).step_by(AT_ONCE.1) {
            let mut low = [[_mm256_setzero_si256(); 2]; AT_ONCE.0];
            let mut high = low;
            for (inputs, weights) in panel.iter().zip(block) {
                let weights = &weights[filter..filter + AT_ONCE.1];
                // SAFETY: `weights` holds the 8 words of 32 bits that the load reads; it needs no alignment.
                let even: __m256i = unsafe { _mm256_loadu_si256(weights.as_ptr().cast()) };
                let weights = [even, _mm256_srli_epi64::<32>(even)];
                for i in 0..AT_ONCE.0 {
                    let x = _mm256_set1_epi64x(inputs[pixel + i] as i64);
                    // Where the low half counts as negative the upper one is one more.
                    let upper = _mm256_srli_epi64::<32>(_mm256_add_epi64(x, half));
                    for (parity, &w) in weights.iter().enumerate() {
                        low[i][parity] = _mm256_add_epi64(low[i][parity], _mm256_mul_epi32(x, w));
                        high[i][parity] =
                            _mm256_add_epi64(high[i][parity], _mm256_mul_epi32(upper, w));
                    }
                }
            }
            for i in 0..AT_ONCE.0 {
                for parity in 0..2 {
                    let upper = _mm256_slli_epi64::<32>(high[i][parity]);
                    let sum = _mm256_add_epi64(low[i][parity], upper);
                    let mut words = [0u64; 4];
                    // SAFETY: `words` holds the 32 bytes that the store writes; it needs no alignment.
                    unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), sum) };
                    let first = (pixel + i) * FILTERS + filter + parity;
                    for (lane, word) in words.into_iter().enumerate() {
                        out[first + 2 * lane] = word;
                    }
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha20Rng;

    #[test]
    fn both_twins_agree_on_any_words() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        for depth in [0, 1, 2, 27, 200] {
            let panel: Vec<u64> = (0..depth * PIXELS).map(|_| rng.random()).collect();
            let block: Vec<i32> = (0..depth * FILTERS).map(|_| rng.random()).collect();
            let expected = super::super::multiply_portable(&panel, &block);
            assert_eq!(multiply(&panel, &block), expected, "depth {depth}");
        }
        let extremes = [
            0,
            1,
            u64::MAX,
            1 << 31,
            (1 << 31) - 1,
            1 << 63,
            u64::MAX >> 1,
            1 << 32,
        ];
        let block: [i32; FILTERS] =
            std::array::from_fn(|i| [i32::MIN, i32::MAX, -1, 0, 1, 127, -127, -128][i % 8]);
        let expected = super::super::multiply_portable(&extremes, &block);
        assert_eq!(multiply(&extremes, &block), expected);
    }
}
