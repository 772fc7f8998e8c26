//! Eight lanes in two registers of AVX2, for processors without AVX-512 IFMA.
//!
//! There is no multiplication of 52-bit words, but a fused multiply-add of doubles rounds once: with `a, b < 2^52`,
//! `fma(a, b, 2^104)` holds the upper half of the product, rounded to the nearest multiple of 2^52, and a second one what is
//! left, between -2^51 and 2^51. Where that is negative the upper half was rounded up by one.

#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m256i, _mm_cvtsi32_si128, _mm256_add_epi64, _mm256_and_si256, _mm256_blendv_epi8,
    _mm256_castpd_si256, _mm256_castsi256_pd, _mm256_cmpgt_epi64, _mm256_fmadd_pd,
    _mm256_load_si256, _mm256_mul_epu32, _mm256_or_si256, _mm256_set1_epi64x, _mm256_set1_pd,
    _mm256_setzero_si256, _mm256_sll_epi64, _mm256_slli_epi64, _mm256_srl_epi64, _mm256_srli_epi64,
    _mm256_store_si256, _mm256_sub_epi64, _mm256_sub_pd, _mm256_xor_si256,
};

use super::{Lanes, MASK_52, Vector};

/// Lanes in two 256-bit registers. Its operations may run only where [`available`] says so, inside functions that are compiled
/// for these instructions.
#[derive(Clone, Copy)]
pub(in super::super) struct Avx2([__m256i; 2]);

/// Whether this processor has the instructions of [`Avx2`].
pub(in super::super) fn available() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

const TWO_52: f64 = (1u64 << 52) as f64;
const TWO_104: f64 = TWO_52 * TWO_52;

/// Both registers of one or two operands through one expression. A macro, because a closure is compiled without the
/// instructions and would call each one as a function.
macro_rules! each {
    ($($name:ident = $lanes:expr),+ => $of:expr) => {{
        $(let $name = $lanes.0;)+
        Self([
            { $(let $name = $name[0];)+ $of },
            { $(let $name = $name[1];)+ $of },
        ])
    }};
}

/// All ones where `a > b`, both unsigned.
#[inline(always)]
fn greater(a: __m256i, b: __m256i) -> __m256i {
    // SAFETY: see `impl Vector for Avx2`.
    unsafe {
        let top = _mm256_set1_epi64x(i64::MIN);
        _mm256_cmpgt_epi64(_mm256_xor_si256(a, top), _mm256_xor_si256(b, top))
    }
}

/// The upper half of the product of the low 52 bits.
#[inline(always)]
fn upper(a: __m256i, b: __m256i) -> __m256i {
    // SAFETY: see `impl Vector for Avx2`.
    unsafe {
        let mask = _mm256_set1_epi64x(MASK_52 as i64);
        let two_52 = _mm256_set1_pd(TWO_52);
        // The bits of 2^52 + a for a below 2^52 are those of 2^52 with a in the fraction.
        let bits = _mm256_castpd_si256(two_52);
        let a = _mm256_castsi256_pd(_mm256_or_si256(_mm256_and_si256(a, mask), bits));
        let b = _mm256_castsi256_pd(_mm256_or_si256(_mm256_and_si256(b, mask), bits));
        let (a, b) = (_mm256_sub_pd(a, two_52), _mm256_sub_pd(b, two_52));
        let base = _mm256_set1_pd(TWO_104);
        // What is left is seen beside 2^52: below it, where it is negative.
        let rest_base = _mm256_set1_pd(TWO_104 + TWO_52);
        let rounded = _mm256_fmadd_pd(a, b, base);
        let upper = _mm256_sub_epi64(_mm256_castpd_si256(rounded), _mm256_castpd_si256(base));
        let rest = _mm256_fmadd_pd(a, b, _mm256_sub_pd(rest_base, rounded));
        let rest = _mm256_castpd_si256(rest);
        // All ones, which is -1, where the rest is negative.
        _mm256_add_epi64(upper, _mm256_cmpgt_epi64(bits, rest))
    }
}

/// Low 64 bits of the product.
#[inline(always)]
fn product(a: __m256i, b: __m256i) -> __m256i {
    // SAFETY: see `impl Vector for Avx2`.
    unsafe {
        let crossed = _mm256_add_epi64(
            _mm256_mul_epu32(_mm256_srli_epi64::<32>(a), b),
            _mm256_mul_epu32(a, _mm256_srli_epi64::<32>(b)),
        );
        _mm256_add_epi64(_mm256_mul_epu32(a, b), _mm256_slli_epi64::<32>(crossed))
    }
}

// SAFETY of every block below: the kernels name this type only in functions compiled with AVX2 and FMA, which they call
// only where the processor has them. `Lanes` are 64 bytes, aligned to 64, and each register has half of them.
impl Vector for Avx2 {
    #[inline(always)]
    fn load(from: &Lanes) -> Self {
        let start = std::ptr::from_ref(from).cast::<__m256i>();
        // SAFETY: see above.
        Self(unsafe { [_mm256_load_si256(start), _mm256_load_si256(start.add(1))] })
    }

    #[inline(always)]
    fn store(self, to: &mut Lanes) {
        let start = std::ptr::from_mut(to).cast::<__m256i>();
        // SAFETY: see above.
        unsafe {
            _mm256_store_si256(start, self.0[0]);
            _mm256_store_si256(start.add(1), self.0[1]);
        }
    }

    #[inline(always)]
    fn splat(word: u64) -> Self {
        // SAFETY: see above.
        Self([unsafe { _mm256_set1_epi64x(word as i64) }; 2])
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        // SAFETY: see above.
        each!(a = self, b = other => unsafe { _mm256_add_epi64(a, b) })
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        // SAFETY: see above.
        each!(a = self, b = other => unsafe { _mm256_sub_epi64(a, b) })
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        // SAFETY: see above.
        each!(a = self, b = other => unsafe {
            _mm256_blendv_epi8(a, b, greater(a, b))
        })
    }

    #[inline(always)]
    fn and(self, other: Self) -> Self {
        // SAFETY: see above.
        each!(a = self, b = other => unsafe { _mm256_and_si256(a, b) })
    }

    #[inline(always)]
    fn shr(self, bits: u32) -> Self {
        // SAFETY: see above.
        each!(a = self => unsafe { _mm256_srl_epi64(a, _mm_cvtsi32_si128(bits as i32)) })
    }

    #[inline(always)]
    fn shl(self, bits: u32) -> Self {
        // SAFETY: see above.
        each!(a = self => unsafe { _mm256_sll_epi64(a, _mm_cvtsi32_si128(bits as i32)) })
    }

    #[inline(always)]
    fn sar(self, bits: u32) -> Self {
        // SAFETY: see above. Complemented where negative, zeros come in from above; complemented again, ones.
        each!(a = self => unsafe {
            let sign = _mm256_cmpgt_epi64(_mm256_setzero_si256(), a);
            let shifted =
                _mm256_srl_epi64(_mm256_xor_si256(a, sign), _mm_cvtsi32_si128(bits as i32));
            _mm256_xor_si256(shifted, sign)
        })
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        each!(a = self, b = other => product(a, b))
    }

    #[inline(always)]
    fn lo(self, a: Self, b: Self) -> Self {
        self.add(a.mul(b).and(Self::splat(MASK_52)))
    }

    #[inline(always)]
    fn hi(self, a: Self, b: Self) -> Self {
        self.add(each!(a = a, b = b => upper(a, b)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Portable;
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha20Rng;

    /// Every operation on the three operands.
    #[inline(always)]
    fn operations<V: Vector>([a, b, c]: &[Lanes; 3], bits: u32) -> [Lanes; 10] {
        let [a, b, c] = [a, b, c].map(V::load);
        let results = [
            a.add(b),
            a.sub(b),
            a.min(b),
            a.and(b),
            a.shr(bits),
            a.shl(bits),
            a.sar(bits),
            a.mul(b),
            c.lo(a, b),
            c.hi(a, b),
        ];
        results.map(|result| {
            let mut lanes = Lanes::ZERO;
            result.store(&mut lanes);
            lanes
        })
    }

    #[target_feature(enable = "avx2,fma")]
    fn compiled(operands: &[Lanes; 3], bits: u32) -> [Lanes; 10] {
        operations::<Avx2>(operands, bits)
    }

    #[test]
    fn every_operation_agrees_with_its_portable_twin() {
        if !available() {
            return;
        }
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let edges = [
            0,
            1,
            2,
            1 << 26,
            (1 << 26) - 1,
            1 << 51,
            (1 << 51) + 1,
            MASK_52,
            MASK_52 - 1,
        ]
        .into_iter()
        .chain([1 << 52, 1 << 63, u64::MAX, i64::MAX as u64]);
        let edges: Vec<u64> = edges.collect();
        for round in 0..20_000u32 {
            let operands: [Lanes; 3] = std::array::from_fn(|_| {
                Lanes(std::array::from_fn(|_| match rng.random_range(0..3) {
                    0 => edges[rng.random_range(0..edges.len())],
                    1 => rng.random::<u64>() >> rng.random_range(0..64),
                    _ => rng.random(),
                }))
            });
            let bits = round % 64;
            // SAFETY: the processor has the instructions.
            let fast = unsafe { compiled(&operands, bits) };
            let slow = operations::<Portable>(&operands, bits);
            assert_eq!(fast, slow, "{operands:?} {bits}");
        }
    }
}
