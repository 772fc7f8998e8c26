//! Eight 64-bit lanes: the one vector type of the kernels, by AVX-512 IFMA, by AVX2 or by portable words.
//!
//! The kernels are written once over [`Vector`]. `lo` and `hi` are the two halves of a product of 52-bit words, each added
//! to a 64-bit sum, as `vpmadd52luq` and `vpmadd52huq` compute them; bits above 52 of the factors are ignored. All
//! operations take constant time.

#![allow(unsafe_code)]

use zeroize::Zeroize;

/// Eight words of 64 bits, aligned to a cache line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(64))]
pub(super) struct Lanes(pub(super) [u64; 8]);

impl Lanes {
    pub(super) const ZERO: Self = Self([0; 8]);
}

impl Zeroize for Lanes {
    fn zeroize(&mut self) {
        self.0.zeroize();
    }
}

/// 2^52 - 1.
pub(super) const MASK_52: u64 = (1 << 52) - 1;

/// Operations on eight lanes.
pub(super) trait Vector: Copy {
    fn load(from: &Lanes) -> Self;
    fn store(self, to: &mut Lanes);
    fn splat(word: u64) -> Self;
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn min(self, other: Self) -> Self;
    fn and(self, other: Self) -> Self;
    /// Logical shift; `bits` below 64.
    fn shr(self, bits: u32) -> Self;
    /// Shift to the left; `bits` below 64.
    fn shl(self, bits: u32) -> Self;
    /// Arithmetic shift; `bits` below 64.
    fn sar(self, bits: u32) -> Self;
    /// Low 64 bits of the product.
    fn mul(self, other: Self) -> Self;
    /// Adds the low 52 bits of the product of the low 52 bits of `a` and `b`.
    fn lo(self, a: Self, b: Self) -> Self;
    /// Adds the upper 52 bits of the product of the low 52 bits of `a` and `b`.
    fn hi(self, a: Self, b: Self) -> Self;
}

/// Lanes as an array of words.
#[derive(Clone, Copy)]
pub(super) struct Portable([u64; 8]);

impl Portable {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(u64, u64) -> u64) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

impl Vector for Portable {
    #[inline(always)]
    fn load(from: &Lanes) -> Self {
        Self(from.0)
    }

    #[inline(always)]
    fn store(self, to: &mut Lanes) {
        to.0 = self.0;
    }

    #[inline(always)]
    fn splat(word: u64) -> Self {
        Self([word; 8])
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.zip(other, u64::wrapping_add)
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.zip(other, u64::wrapping_sub)
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        self.zip(other, u64::min)
    }

    #[inline(always)]
    fn and(self, other: Self) -> Self {
        self.zip(other, |a, b| a & b)
    }

    #[inline(always)]
    fn shr(self, bits: u32) -> Self {
        Self(self.0.map(|a| a >> bits))
    }

    #[inline(always)]
    fn shl(self, bits: u32) -> Self {
        Self(self.0.map(|a| a << bits))
    }

    #[inline(always)]
    fn sar(self, bits: u32) -> Self {
        Self(self.0.map(|a| (a as i64 >> bits) as u64))
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.zip(other, u64::wrapping_mul)
    }

    #[inline(always)]
    fn lo(self, a: Self, b: Self) -> Self {
        self.add(a.zip(b, |a, b| a.wrapping_mul(b) & MASK_52))
    }

    #[inline(always)]
    fn hi(self, a: Self, b: Self) -> Self {
        let upper = |a: u64, b: u64| {
            ((u128::from(a & MASK_52) * u128::from(b & MASK_52)) >> 52) as u64 & MASK_52
        };
        self.add(a.zip(b, upper))
    }
}

/// Whether this processor has the instructions of `Ifma`.
pub(super) fn available() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        is_x86_feature_detected!("avx512ifma")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512f")
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) use x86::Ifma;

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Lanes, Vector};
    use std::arch::x86_64::{
        __m512i, _mm512_add_epi64, _mm512_and_si512, _mm512_load_si512, _mm512_madd52hi_epu64,
        _mm512_madd52lo_epu64, _mm512_min_epu64, _mm512_mullo_epi64, _mm512_set1_epi64,
        _mm512_sllv_epi64, _mm512_srav_epi64, _mm512_srlv_epi64, _mm512_store_si512,
        _mm512_sub_epi64,
    };

    /// Lanes in a 512-bit register. Its operations may run only where [`super::available`] says so, inside functions that are
    /// compiled for these instructions.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Ifma(__m512i);

    // SAFETY of every block below: the kernels name this type only in functions compiled with AVX-512 F, DQ and IFMA, which
    // they call only where the processor has them. `Lanes` are 64 bytes, aligned to 64.
    impl Vector for Ifma {
        #[inline(always)]
        fn load(from: &Lanes) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_load_si512(std::ptr::from_ref(from).cast()) })
        }

        #[inline(always)]
        fn store(self, to: &mut Lanes) {
            // SAFETY: see above.
            unsafe { _mm512_store_si512(std::ptr::from_mut(to).cast(), self.0) }
        }

        #[inline(always)]
        fn splat(word: u64) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_set1_epi64(word as i64) })
        }

        #[inline(always)]
        fn add(self, other: Self) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_add_epi64(self.0, other.0) })
        }

        #[inline(always)]
        fn sub(self, other: Self) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_sub_epi64(self.0, other.0) })
        }

        #[inline(always)]
        fn min(self, other: Self) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_min_epu64(self.0, other.0) })
        }

        #[inline(always)]
        fn and(self, other: Self) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_and_si512(self.0, other.0) })
        }

        #[inline(always)]
        fn shr(self, bits: u32) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_srlv_epi64(self.0, _mm512_set1_epi64(bits.into())) })
        }

        #[inline(always)]
        fn shl(self, bits: u32) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_sllv_epi64(self.0, _mm512_set1_epi64(bits.into())) })
        }

        #[inline(always)]
        fn sar(self, bits: u32) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_srav_epi64(self.0, _mm512_set1_epi64(bits.into())) })
        }

        #[inline(always)]
        fn mul(self, other: Self) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_mullo_epi64(self.0, other.0) })
        }

        #[inline(always)]
        fn lo(self, a: Self, b: Self) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_madd52lo_epu64(self.0, a.0, b.0) })
        }

        #[inline(always)]
        fn hi(self, a: Self, b: Self) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_madd52hi_epu64(self.0, a.0, b.0) })
        }
    }
}
