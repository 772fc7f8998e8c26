//! Processors with AES-NI and no wider AES: one block in a register, eight registers for a group.
//!
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

/// Bytes of a pair of blocks.
const PAIR: usize = 32;

/// Proof that the processor has AES-NI and SSSE3.
#[derive(Clone, Copy)]
pub(crate) struct AesNi(());

/// Round keys of four keys, key after key.
pub(crate) type Keys = [[__m128i; ROUNDS + 1]; KEYS];

impl AesNi {
    /// A value, if the processor has what it stands for.
    pub fn detect() -> Option<Self> {
        let has = is_x86_feature_detected!("aes") && is_x86_feature_detected!("ssse3");
        has.then_some(Self(()))
    }

    /// Runs `kernel`, compiled for this processor.
    pub fn run<K: Kernel>(self, kernel: K) {
        #[target_feature(enable = "aes,ssse3")]
        fn compiled<K: Kernel>(kernel: K, simd: AesNi) {
            kernel.run(simd);
        }
        // SAFETY: `self` exists only where the features were detected.
        unsafe { compiled(kernel, self) }
    }
}

// SAFETY of every block below: `self` exists only where the processor has the instructions; where memory is read or written,
// the line above the block says why it is in bounds. No load or store asks for alignment.
impl Simd for AesNi {
    type Lanes = [__m128i; LANES];
    type Keys = Keys;

    #[inline(always)]
    fn load(self, row: &Row) -> Self::Lanes {
        let mut x = self.splat(0);
        for (x, block) in x.iter_mut().zip(&row.0) {
            // SAFETY: a block is 16 bytes.
            *x = unsafe { _mm_loadu_si128((&raw const block.0).cast()) };
        }
        x
    }

    #[inline(always)]
    fn store(self, x: Self::Lanes, row: &mut Row) {
        for (x, block) in x.iter().zip(&mut row.0) {
            // SAFETY: a block is 16 bytes.
            unsafe { _mm_storeu_si128((&raw mut block.0).cast(), *x) };
        }
    }

    #[inline(always)]
    fn splat(self, x: u128) -> Self::Lanes {
        // SAFETY: `x` is 16 readable bytes.
        [unsafe { _mm_loadu_si128((&raw const x).cast()) }; LANES]
    }

    #[inline(always)]
    fn xor(self, mut x: Self::Lanes, y: Self::Lanes) -> Self::Lanes {
        for (x, y) in x.iter_mut().zip(y) {
            // SAFETY: see above.
            *x = unsafe { _mm_xor_si128(*x, y) };
        }
        x
    }

    #[inline(always)]
    fn and(self, mut x: Self::Lanes, y: Self::Lanes) -> Self::Lanes {
        for (x, y) in x.iter_mut().zip(y) {
            // SAFETY: see above.
            *x = unsafe { _mm_and_si128(*x, y) };
        }
        x
    }

    #[inline(always)]
    fn spread_lsb(self, mut x: Self::Lanes) -> Self::Lanes {
        for x in &mut x {
            // The lowest word to all four, then its lowest bit to the whole word.
            // SAFETY: see above.
            *x = unsafe {
                let words = _mm_shuffle_epi32::<0>(*x);
                _mm_srai_epi32::<31>(_mm_slli_epi32::<31>(words))
            };
        }
        x
    }

    #[inline(always)]
    fn low_halves(self, mut x: Self::Lanes, y: Self::Lanes) -> Self::Lanes {
        for (x, y) in x.iter_mut().zip(y) {
            // SAFETY: see above.
            *x = unsafe { _mm_unpacklo_epi64(*x, y) };
        }
        x
    }

    #[inline(always)]
    fn high_halves(self, mut x: Self::Lanes, y: Self::Lanes) -> Self::Lanes {
        for (x, y) in x.iter_mut().zip(y) {
            // SAFETY: see above.
            *x = unsafe { _mm_unpackhi_epi64(*x, y) };
        }
        x
    }

    #[inline(always)]
    fn swap_halves(self, mut x: Self::Lanes) -> Self::Lanes {
        for x in &mut x {
            // SAFETY: see above.
            *x = unsafe { _mm_shuffle_epi32::<0b01_00_11_10>(*x) };
        }
        x
    }

    #[inline(always)]
    fn spread_half_lsb(self, mut x: Self::Lanes) -> Self::Lanes {
        for x in &mut x {
            // The lower word of each half to both, then its lowest bit to the whole word.
            // SAFETY: see above.
            *x = unsafe {
                let words = _mm_shuffle_epi32::<0b10_10_00_00>(*x);
                _mm_srai_epi32::<31>(_mm_slli_epi32::<31>(words))
            };
        }
        x
    }

    #[inline(always)]
    fn shift_left(self, mut x: Self::Lanes, n: u32) -> Self::Lanes {
        for x in &mut x {
            // SAFETY: see above.
            *x = unsafe { _mm_sll_epi64(*x, _mm_cvtsi32_si128(n as i32)) };
        }
        x
    }

    #[inline(always)]
    fn shift_right(self, mut x: Self::Lanes, n: u32) -> Self::Lanes {
        for x in &mut x {
            // SAFETY: see above.
            *x = unsafe { _mm_srl_epi64(*x, _mm_cvtsi32_si128(n as i32)) };
        }
        x
    }

    #[inline(always)]
    fn store_pairs(self, first: Self::Lanes, second: Self::Lanes, bytes: &mut [u8], stride: usize) {
        assert!(bytes.len() >= (LANES - 1) * stride + PAIR);
        for lane in 0..LANES {
            // SAFETY: pair `lane` ends at `lane * stride + PAIR`, within `bytes` for the last lane, hence for all.
            unsafe {
                let to: *mut __m128i = bytes.as_mut_ptr().add(lane * stride).cast();
                _mm_storeu_si128(to, first[lane]);
                _mm_storeu_si128(to.add(1), second[lane]);
            }
        }
    }

    #[inline(always)]
    fn load_pairs(self, bytes: &[u8], stride: usize) -> (Self::Lanes, Self::Lanes) {
        assert!(bytes.len() >= (LANES - 1) * stride + PAIR);
        let (mut first, mut second) = (self.splat(0), self.splat(0));
        for lane in 0..LANES {
            // SAFETY: pair `lane` ends at `lane * stride + PAIR`, within `bytes` for the last lane, hence for all.
            unsafe {
                let from: *const __m128i = bytes.as_ptr().add(lane * stride).cast();
                first[lane] = _mm_loadu_si128(from);
                second[lane] = _mm_loadu_si128(from.add(1));
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
        let mut expanded = [[self.splat(0)[0]; ROUNDS + 1]; KEYS];
        // SAFETY: a key is 16 readable bytes.
        unsafe {
            for (expanded, key) in expanded.iter_mut().zip(keys) {
                expanded[0] = _mm_loadu_si128((&raw const *key).cast());
            }
            // The last word, rotated by a byte, in every column: ShiftRows then changes nothing.
            let rotate = _mm_set1_epi32(0x0c0f_0e0d);
            for (round, constant) in ROUND_CONSTANTS.into_iter().enumerate() {
                for expanded in &mut expanded {
                    let mut key = expanded[round];
                    let word = _mm_shuffle_epi8(key, rotate);
                    let word = _mm_aesenclast_si128(word, _mm_set1_epi32(constant));
                    key = _mm_xor_si128(key, _mm_slli_si128::<4>(key));
                    key = _mm_xor_si128(key, _mm_slli_si128::<8>(key));
                    expanded[round + 1] = _mm_xor_si128(key, word);
                }
            }
        }
        expanded
    }

    fn wipe(self, keys: &mut Keys) {
        keys.zeroize();
    }

    #[inline(always)]
    fn permute<const N: usize, const G: usize>(
        self,
        keys: &Keys,
        first: usize,
        x: &mut [[Self::Lanes; N]; G],
    ) {
        assert!(first + G <= KEYS);
        for (g, group) in x.iter_mut().enumerate() {
            let keys = &keys[first + g];
            for lanes in group {
                // Eight registers in flight, of sixteen.
                let mut state = *lanes;
                // SAFETY: see above.
                unsafe {
                    for x in &mut state {
                        *x = _mm_xor_si128(*x, keys[0]);
                    }
                    for key in &keys[1..ROUNDS] {
                        for x in &mut state {
                            *x = _mm_aesenc_si128(*x, *key);
                        }
                    }
                    for x in &mut state {
                        *x = _mm_aesenclast_si128(*x, keys[ROUNDS]);
                    }
                }
                *lanes = state;
            }
        }
    }
}
