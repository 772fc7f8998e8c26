//! TMMO on processors with VAES and AVX-512: four AES blocks in a register, eight registers in flight.
//!
//! The scalar twin is [`super::Hasher`]'s portable path; a test compares them. No table look-ups and no branches on data.

#![allow(unsafe_code)]

/// Round keys in the form that the kernel takes.
#[cfg(target_arch = "x86_64")]
pub(super) use x86::Keys;

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use crate::block::Block;

    const ROUNDS: usize = 10;
    /// Blocks in a register.
    const WIDTH: usize = 4;

    /// The round keys of AES-128. Hash keys are public.
    #[derive(Clone, Copy)]
    pub struct Keys([u128; ROUNDS + 1]);

    impl Keys {
        /// Expands `key`, if this processor has what [`Self::hash`] needs.
        pub fn new(key: u128) -> Option<Self> {
            if is_x86_feature_detected!("aes")
                && is_x86_feature_detected!("vaes")
                && is_x86_feature_detected!("avx512f")
            {
                // SAFETY: the features that `expand` is compiled for were detected above.
                Some(Self(unsafe { expand(key) }))
            } else {
                None
            }
        }

        /// `x[i] = H(x[i], tweaks[i])`.
        pub fn hash<const N: usize>(&self, x: &mut [Block; N], tweaks: &[u128; N]) {
            // SAFETY: a value of this type exists only where the features were detected.
            unsafe {
                match N {
                    0..=8 => tmmo::<N, 2>(&self.0, x, tweaks),
                    9..=16 => tmmo::<N, 4>(&self.0, x, tweaks),
                    _ => tmmo::<N, 8>(&self.0, x, tweaks),
                }
            }
        }
    }

    #[target_feature(enable = "aes,sse2")]
    fn expand(key: u128) -> [u128; ROUNDS + 1] {
        let mut keys = [key; ROUNDS + 1];
        let mut previous = key;
        let mut constant: u8 = 1;
        for round in keys.iter_mut().skip(1) {
            // The last word, rotated, through the S-box, with the round constant added by hand.
            let word = _mm_cvtsi32_si128((previous >> 96) as u32 as i32);
            let assisted = _mm_aeskeygenassist_si128::<0>(_mm_slli_si128::<4>(word));
            let substituted =
                _mm_cvtsi128_si32(_mm_srli_si128::<4>(assisted)) as u32 ^ u32::from(constant);
            let mut next = 0u128;
            let mut carry = substituted;
            for i in 0..4 {
                carry ^= (previous >> (32 * i)) as u32;
                next |= u128::from(carry) << (32 * i);
            }
            *round = next;
            previous = next;
            constant = constant << 1 ^ if constant & 0x80 == 0 { 0 } else { 0x1b };
        }
        keys
    }

    /// `DEPTH` registers in flight.
    #[target_feature(enable = "vaes,avx512f")]
    fn tmmo<const N: usize, const DEPTH: usize>(
        keys: &[u128; ROUNDS + 1],
        x: &mut [Block; N],
        tweaks: &[u128; N],
    ) {
        let mut round_keys = [_mm512_setzero_si512(); ROUNDS + 1];
        for (register, &key) in round_keys.iter_mut().zip(keys) {
            // SAFETY: `key` is 16 readable bytes; the load asks for no alignment.
            *register = _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128((&raw const key).cast()) });
        }
        let mut blocks = x.chunks_mut(WIDTH * DEPTH);
        let mut tweaks = tweaks.chunks(WIDTH * DEPTH);
        while let (Some(blocks), Some(tweaks)) = (blocks.next(), tweaks.next()) {
            // Lanes past the end are loaded as zero and not stored.
            let lanes = |register: usize| -> __mmask8 {
                let n = blocks.len().saturating_sub(register * WIDTH).min(WIDTH);
                ((1u16 << (2 * n)) - 1) as __mmask8
            };
            let masks: [__mmask8; DEPTH] = std::array::from_fn(lanes);
            let mut state = [_mm512_setzero_si512(); DEPTH];
            for (i, state) in state.iter_mut().enumerate() {
                if masks[i] != 0 {
                    // SAFETY: the mask keeps the load within `blocks`; a Block is a u128, 16 bytes.
                    *state = unsafe {
                        _mm512_maskz_loadu_epi64(masks[i], blocks.as_ptr().add(i * WIDTH).cast())
                    };
                }
            }
            encrypt(&round_keys, &mut state);
            let once = state;
            for (i, state) in state.iter_mut().enumerate() {
                if masks[i] != 0 {
                    // SAFETY: as above, for `tweaks`, which is as long as `blocks`.
                    let tweak = unsafe {
                        _mm512_maskz_loadu_epi64(masks[i], tweaks.as_ptr().add(i * WIDTH).cast())
                    };
                    *state = _mm512_xor_si512(*state, tweak);
                }
            }
            encrypt(&round_keys, &mut state);
            for (i, (twice, once)) in state.iter().zip(once).enumerate() {
                if masks[i] != 0 {
                    let hash = _mm512_xor_si512(*twice, once);
                    // SAFETY: the mask keeps the store within `blocks`.
                    unsafe {
                        _mm512_mask_storeu_epi64(
                            blocks.as_mut_ptr().add(i * WIDTH).cast(),
                            masks[i],
                            hash,
                        )
                    };
                }
            }
        }
    }

    #[inline]
    #[target_feature(enable = "vaes,avx512f")]
    fn encrypt<const DEPTH: usize>(keys: &[__m512i; ROUNDS + 1], state: &mut [__m512i; DEPTH]) {
        for block in state.iter_mut() {
            *block = _mm512_xor_si512(*block, keys[0]);
        }
        for key in &keys[1..ROUNDS] {
            for block in state.iter_mut() {
                *block = _mm512_aesenc_epi128(*block, *key);
            }
        }
        for block in state.iter_mut() {
            *block = _mm512_aesenclast_epi128(*block, keys[ROUNDS]);
        }
    }
}

/// Stands in where the kernel does not exist.
#[cfg(not(target_arch = "x86_64"))]
#[derive(Clone, Copy)]
pub(super) enum Keys {}

#[cfg(not(target_arch = "x86_64"))]
impl Keys {
    pub fn new(_key: u128) -> Option<Self> {
        None
    }

    pub fn hash<const N: usize>(&self, _x: &mut [crate::block::Block; N], _tweaks: &[u128; N]) {
        match *self {}
    }
}
