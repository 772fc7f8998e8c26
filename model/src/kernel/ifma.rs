//! The inner product of the fast convolution: a panel of 8 pixels times a block of 16 filters, by AVX-512 IFMA.
//!
//! `vpmadd52luq` adds the low 52 bits of the product of two 52-bit words to a 64-bit sum. The instruction ignores the
//! upper 12 bits of its factors, so sign-extended weights and unreduced shares serve as they are, and sums are right modulo
//! 2^52. 16 sums stay in registers; each step takes two vectors of weights and eight broadcast inputs.

#![allow(unsafe_code)]

use super::{FILTERS, PIXELS};

/// Whether this processor has the instructions.
pub(super) fn available() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        is_x86_feature_detected!("avx512ifma") && is_x86_feature_detected!("avx512f")
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Sums over k of `panel[k][pixel] * block[k][filter]` in (pixel, filter) order, right modulo 2^52.
pub(super) fn multiply(panel: &[u64], block: &[i32]) -> [u64; PIXELS * FILTERS] {
    #[cfg(target_arch = "x86_64")]
    if available() {
        // SAFETY: the processor has the instructions that the function is compiled for.
        return unsafe { multiply_ifma(panel, block) };
    }
    super::multiply_portable(panel, block)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512ifma")]
fn multiply_ifma(panel: &[u64], block: &[i32]) -> [u64; PIXELS * FILTERS] {
    use std::arch::x86_64::{
        _mm256_loadu_si256, _mm512_cvtepi32_epi64, _mm512_madd52lo_epu64, _mm512_set1_epi64,
        _mm512_setzero_si512, _mm512_storeu_si512,
    };

    let mut sums = [[_mm512_setzero_si512(); 2]; PIXELS];
    for (inputs, weights) in panel
        .as_chunks::<PIXELS>()
        .0
        .iter()
        .zip(block.as_chunks::<FILTERS>().0)
    {
        // SAFETY: `weights` holds 16 words of 32 bits; each load reads 8 of them, and needs no alignment.
        let (low, high) = unsafe {
            let start = weights.as_ptr();
            let low = _mm256_loadu_si256(start.cast());
            let high = _mm256_loadu_si256(start.add(8).cast());
            (_mm512_cvtepi32_epi64(low), _mm512_cvtepi32_epi64(high))
        };
        for (sum, &x) in sums.iter_mut().zip(inputs) {
            let x = _mm512_set1_epi64(x as i64);
            sum[0] = _mm512_madd52lo_epu64(sum[0], x, low);
            sum[1] = _mm512_madd52lo_epu64(sum[1], x, high);
        }
    }
    let mut out = [0; PIXELS * FILTERS];
    for (chunk, sum) in out.as_chunks_mut::<FILTERS>().0.iter_mut().zip(sums) {
        // SAFETY: `chunk` holds 16 words of 64 bits; each store writes 8 of them, and needs no alignment.
        unsafe {
            let start = chunk.as_mut_ptr();
            _mm512_storeu_si512(start.cast(), sum[0]);
            _mm512_storeu_si512(start.add(8).cast(), sum[1]);
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
    fn both_twins_agree_modulo_two_to_the_52() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        for depth in [0, 1, 2, 27, 200] {
            let panel: Vec<u64> = (0..depth * PIXELS).map(|_| rng.random()).collect();
            let block: Vec<i32> = (0..depth * FILTERS).map(|_| rng.random()).collect();
            let expected = super::super::multiply_portable(&panel, &block);
            let (a, b) = (multiply(&panel, &block), expected);
            assert!(
                a.iter().zip(b).all(|(a, b)| (a ^ b) << 12 == 0),
                "depth {depth}"
            );
        }
    }
}
