//! Processors with VAES and AVX-512: four AES blocks in a register, two registers for a group.
//!
//! An AES round has a latency of about four cycles and one a cycle can start: eight registers in flight keep the unit busy.
//! The scalar twin is [`super::portable`]. No table look-ups and no branches on data.

#![cfg(target_arch = "x86_64")]
#![allow(
    unsafe_code,
    reason = "vector instructions, behind a value that only detection makes"
)]
#![allow(
    clippy::needless_range_loop,
    reason = "a group's number indexes blocks and keys alike"
)]

use std::arch::x86_64::*;

use zeroize::Zeroize;

use super::simd::{KEYS, Kernel, LANES, ROUND_CONSTANTS, ROUNDS, Row, Simd};

/// Blocks in a register.
const WIDTH: usize = 4;
/// Bytes of a pair of blocks.
const PAIR: usize = 32;

/// Proof that the processor has AES, VAES and the AVX-512 subsets F and BW.
#[derive(Clone, Copy)]
pub(crate) struct Vaes(());

/// Round keys of four keys, round after round.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Keys([[u128; KEYS]; ROUNDS + 1]);

impl Vaes {
    /// A value, if the processor has what it stands for.
    pub fn detect() -> Option<Self> {
        let has = is_x86_feature_detected!("aes")
            && is_x86_feature_detected!("vaes")
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw");
        has.then_some(Self(()))
    }

    /// Runs `kernel`, compiled for this processor.
    pub fn run<K: Kernel>(self, kernel: K) {
        #[target_feature(enable = "aes,vaes,avx512f,avx512bw")]
        fn compiled<K: Kernel>(kernel: K, simd: Vaes) {
            kernel.run(simd);
        }
        // SAFETY: `self` exists only where the features were detected.
        unsafe { compiled(kernel, self) }
    }
}

// SAFETY of every block below: `self` exists only where the processor has the instructions; where memory is read or written,
// the line above the block says why it is in bounds. No load or store asks for alignment.
impl Simd for Vaes {
    type Lanes = [__m512i; 2];
    type Keys = Keys;

    #[inline(always)]
    fn load(self, row: &Row) -> Self::Lanes {
        let from: *const i32 = (&raw const row.0).cast();
        // SAFETY: a row is 128 bytes, two registers.
        unsafe { [_mm512_loadu_epi32(from), _mm512_loadu_epi32(from.add(16))] }
    }

    #[inline(always)]
    fn store(self, x: Self::Lanes, row: &mut Row) {
        let to: *mut i32 = (&raw mut row.0).cast();
        // SAFETY: a row is 128 bytes, two registers.
        unsafe {
            _mm512_storeu_epi32(to, x[0]);
            _mm512_storeu_epi32(to.add(16), x[1]);
        }
    }

    #[inline(always)]
    fn splat(self, x: u128) -> Self::Lanes {
        // SAFETY: `x` is 16 readable bytes.
        let register = unsafe { _mm512_broadcast_i32x4(_mm_loadu_si128((&raw const x).cast())) };
        [register; 2]
    }

    #[inline(always)]
    fn xor(self, x: Self::Lanes, y: Self::Lanes) -> Self::Lanes {
        // SAFETY: see above.
        unsafe { [_mm512_xor_si512(x[0], y[0]), _mm512_xor_si512(x[1], y[1])] }
    }

    #[inline(always)]
    fn and(self, x: Self::Lanes, y: Self::Lanes) -> Self::Lanes {
        // SAFETY: see above.
        unsafe { [_mm512_and_si512(x[0], y[0]), _mm512_and_si512(x[1], y[1])] }
    }

    #[inline(always)]
    fn spread_lsb(self, x: Self::Lanes) -> Self::Lanes {
        let mut spread = x;
        for x in &mut spread {
            // The lowest word of each block to all four, then its lowest bit to the whole word.
            // SAFETY: see above.
            *x = unsafe {
                let words = _mm512_shuffle_epi32::<0>(*x);
                _mm512_srai_epi32::<31>(_mm512_slli_epi32::<31>(words))
            };
        }
        spread
    }

    #[inline(always)]
    fn low_halves(self, x: Self::Lanes, y: Self::Lanes) -> Self::Lanes {
        // SAFETY: see above.
        unsafe {
            [
                _mm512_unpacklo_epi64(x[0], y[0]),
                _mm512_unpacklo_epi64(x[1], y[1]),
            ]
        }
    }

    #[inline(always)]
    fn high_halves(self, x: Self::Lanes, y: Self::Lanes) -> Self::Lanes {
        // SAFETY: see above.
        unsafe {
            [
                _mm512_unpackhi_epi64(x[0], y[0]),
                _mm512_unpackhi_epi64(x[1], y[1]),
            ]
        }
    }

    #[inline(always)]
    fn swap_halves(self, x: Self::Lanes) -> Self::Lanes {
        // SAFETY: see above.
        unsafe {
            [
                _mm512_shuffle_epi32::<0b01_00_11_10>(x[0]),
                _mm512_shuffle_epi32::<0b01_00_11_10>(x[1]),
            ]
        }
    }

    #[inline(always)]
    fn spread_half_lsb(self, x: Self::Lanes) -> Self::Lanes {
        // SAFETY: see above.
        unsafe {
            [
                _mm512_srai_epi64::<63>(_mm512_slli_epi64::<63>(x[0])),
                _mm512_srai_epi64::<63>(_mm512_slli_epi64::<63>(x[1])),
            ]
        }
    }

    #[inline(always)]
    fn shift_left(self, x: Self::Lanes, n: u32) -> Self::Lanes {
        // SAFETY: see above.
        unsafe {
            let n = _mm_cvtsi32_si128(n as i32);
            [_mm512_sll_epi64(x[0], n), _mm512_sll_epi64(x[1], n)]
        }
    }

    #[inline(always)]
    fn shift_right(self, x: Self::Lanes, n: u32) -> Self::Lanes {
        // SAFETY: see above.
        unsafe {
            let n = _mm_cvtsi32_si128(n as i32);
            [_mm512_srl_epi64(x[0], n), _mm512_srl_epi64(x[1], n)]
        }
    }

    #[inline(always)]
    fn store_pairs(self, first: Self::Lanes, second: Self::Lanes, bytes: &mut [u8], stride: usize) {
        assert!(bytes.len() >= (LANES - 1) * stride + PAIR);
        for half in 0..2 {
            // SAFETY: pair `lane` ends at `lane * stride + PAIR`, within `bytes` for the last lane, hence for all.
            unsafe {
                let low = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
                let high = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
                let low = _mm512_permutex2var_epi64(first[half], low, second[half]);
                let high = _mm512_permutex2var_epi64(first[half], high, second[half]);
                let to = bytes.as_mut_ptr().add(half * WIDTH * stride);
                _mm256_storeu_si256(to.cast(), _mm512_castsi512_si256(low));
                let pair = _mm512_extracti64x4_epi64::<1>(low);
                _mm256_storeu_si256(to.add(stride).cast(), pair);
                let to = to.add(2 * stride);
                _mm256_storeu_si256(to.cast(), _mm512_castsi512_si256(high));
                let pair = _mm512_extracti64x4_epi64::<1>(high);
                _mm256_storeu_si256(to.add(stride).cast(), pair);
            }
        }
    }

    #[inline(always)]
    fn load_pairs(self, bytes: &[u8], stride: usize) -> (Self::Lanes, Self::Lanes) {
        assert!(bytes.len() >= (LANES - 1) * stride + PAIR);
        // SAFETY: see above.
        let zero = unsafe { _mm512_setzero_si512() };
        let (mut first, mut second) = ([zero; 2], [zero; 2]);
        for half in 0..2 {
            // SAFETY: pair `lane` ends at `lane * stride + PAIR`, within `bytes` for the last lane, hence for all.
            unsafe {
                let from = bytes.as_ptr().add(half * WIDTH * stride);
                let low = _mm512_castsi256_si512(_mm256_loadu_si256(from.cast()));
                let pair = _mm256_loadu_si256(from.add(stride).cast());
                let low = _mm512_inserti64x4::<1>(low, pair);
                let from = from.add(2 * stride);
                let high = _mm512_castsi256_si512(_mm256_loadu_si256(from.cast()));
                let pair = _mm256_loadu_si256(from.add(stride).cast());
                let high = _mm512_inserti64x4::<1>(high, pair);
                let firsts = _mm512_setr_epi64(0, 1, 4, 5, 8, 9, 12, 13);
                let seconds = _mm512_setr_epi64(2, 3, 6, 7, 10, 11, 14, 15);
                first[half] = _mm512_permutex2var_epi64(low, firsts, high);
                second[half] = _mm512_permutex2var_epi64(low, seconds, high);
            }
        }
        (first, second)
    }

    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        // SAFETY: a hint; it reads nothing, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }

    #[inline(always)]
    fn expand(self, keys: &[u128; KEYS]) -> Keys {
        let mut expanded = Keys([*keys; ROUNDS + 1]);
        // SAFETY: four keys are 64 bytes, one register, as is each row of `expanded`.
        unsafe {
            let mut key = _mm512_loadu_epi32(keys.as_ptr().cast());
            // The last word, rotated by a byte, in every column: ShiftRows then changes nothing.
            let rotate = _mm512_set1_epi32(0x0c0f_0e0d);
            for (round, constant) in expanded.0[1..].iter_mut().zip(ROUND_CONSTANTS) {
                let word = _mm512_shuffle_epi8(key, rotate);
                let word = _mm512_aesenclast_epi128(word, _mm512_set1_epi32(constant));
                key = _mm512_xor_si512(key, _mm512_bslli_epi128::<4>(key));
                key = _mm512_xor_si512(key, _mm512_bslli_epi128::<8>(key));
                key = _mm512_xor_si512(key, word);
                _mm512_storeu_epi32(round.as_mut_ptr().cast(), key);
            }
        }
        expanded
    }

    fn wipe(self, keys: &mut Keys) {
        keys.0.zeroize();
    }

    #[inline(always)]
    fn permute<const N: usize, const G: usize>(
        self,
        keys: &Keys,
        first: usize,
        x: &mut [[Self::Lanes; N]; G],
    ) {
        assert!(first + G <= KEYS);
        let mut state = *x;
        // SAFETY: see above.
        unsafe {
            for g in 0..G {
                let key = self.splat(keys.0[0][first + g])[0];
                for x in state[g].as_flattened_mut() {
                    *x = _mm512_xor_si512(*x, key);
                }
            }
            for round in 1..ROUNDS {
                for g in 0..G {
                    let key = self.splat(keys.0[round][first + g])[0];
                    for x in state[g].as_flattened_mut() {
                        *x = _mm512_aesenc_epi128(*x, key);
                    }
                }
            }
            for g in 0..G {
                let key = self.splat(keys.0[ROUNDS][first + g])[0];
                for x in state[g].as_flattened_mut() {
                    *x = _mm512_aesenclast_epi128(*x, key);
                }
            }
        }
        *x = state;
    }
}
