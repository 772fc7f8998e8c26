//! Polynomials of Z_Q\[X\]/(X^4096 + 1), Q = 2^72, and exact products by two number-theoretic transforms.
//!
//! Products are computed over the integers, modulo two 50-bit primes, put together by the Chinese remainder theorem and only
//! then reduced modulo Q; [`super::check_products`] makes sure that they fit. The form of a polynomial is part of its type.
//! Contents are wiped on drop, and all arithmetic runs in constant time.
//!
//! Coefficient `512 a + b` passes through lane a of vector b, and values modulo a prime p are kept below 4 p.

use super::field::{FIELDS, VECTORS};
use super::kernel;
use super::lanes::Lanes;
use super::params::{DEGREE, MODULUS_MASK};
use zeroize::Zeroize;

/// log2 of the product of both primes, rounded down.
pub(super) const PRODUCT_BITS: f64 = 99.999_999;
/// A form in which a polynomial is kept.
pub(super) trait Form {
    /// What it is kept in.
    type Data: Zeroize;
}

/// Coefficients modulo Q, constant term first.
pub(super) enum Coefficient {}

/// Coefficients modulo Q in the order of transforms: their low 52 bits, then their upper 20.
pub(super) enum Words {}

/// Transforms modulo both primes, one after the other.
pub(super) enum Ntt {}

impl Form for Coefficient {
    type Data = Vec<u128>;
}

impl Form for Words {
    type Data = Vec<Lanes>;
}

impl Form for Ntt {
    type Data = Vec<Lanes>;
}

/// A polynomial of 4096 coefficients.
pub(super) struct Poly<F: Form> {
    data: F::Data,
}

impl<F: Form> Drop for Poly<F> {
    fn drop(&mut self) {
        self.data.zeroize();
    }
}

impl Poly<Coefficient> {
    /// The polynomial with the given coefficients modulo Q.
    pub(super) fn from_coefficients(data: Vec<u128>) -> Self {
        debug_assert!(data.len() == DEGREE && data.iter().all(|&c| c <= MODULUS_MASK));
        Self { data }
    }

    /// Coefficients modulo Q.
    pub(super) fn coefficients(&self) -> &[u128] {
        &self.data
    }

    /// Transforms the representatives between 0 and Q.
    pub(super) fn to_ntt(&self) -> Poly<Ntt> {
        Poly::transformed(|p, index| {
            // 2^50 = (2^50 - p) modulo p, which has at most 18 bits; the upper part has 22.
            let (c, fold) = (self.data[index], (1 << 50) - p);
            (c as u64 & ((1 << 50) - 1)) + (c >> 50) as u64 * fold
        })
    }
}

impl Poly<Ntt> {
    /// The zero polynomial.
    pub(super) fn zero() -> Self {
        Self {
            data: vec![Lanes::ZERO; 2 * VECTORS],
        }
    }

    /// Transforms a polynomial of small signed coefficients.
    pub(super) fn from_small(coefficients: &[i32]) -> Self {
        debug_assert_eq!(coefficients.len(), DEGREE);
        Self::transformed(|p, index| {
            let c = i64::from(coefficients[index]);
            (c + ((c >> 63) & p as i64)) as u64
        })
    }

    /// Transforms the polynomial of the residues that `residue` gives for each prime and index, below 2^52.
    #[inline(always)]
    fn transformed(residue: impl Fn(u64, usize) -> u64) -> Self {
        let mut data = Vec::with_capacity(2 * VECTORS);
        for field in FIELDS.iter() {
            data.extend(
                (0..VECTORS)
                    .map(|b| Lanes(std::array::from_fn(|a| residue(field.p, VECTORS * a + b)))),
            );
        }
        for (data, field) in data.chunks_exact_mut(VECTORS).zip(FIELDS.iter()) {
            kernel::matrix(field, &field.to_lanes, data);
            kernel::forward(field, 0, 0, data);
        }
        Self { data }
    }

    /// The polynomial with these transforms.
    pub(super) fn from_transforms(data: Vec<Lanes>) -> Self {
        debug_assert_eq!(data.len(), 2 * VECTORS);
        Self { data }
    }

    /// Transforms modulo both primes, one after the other.
    pub(super) fn transforms(&self) -> &[Lanes] {
        &self.data
    }

    /// Adds the product of `a` and `b`.
    pub(super) fn add_product(&mut self, a: &Self, b: &Self) {
        let factors = a
            .data
            .chunks_exact(VECTORS)
            .zip(b.data.chunks_exact(VECTORS));
        let sums = self.data.chunks_exact_mut(VECTORS);
        for ((sum, (a, b)), field) in sums.zip(factors).zip(FIELDS.iter()) {
            kernel::multiply_add(field, sum, a, b);
        }
    }

    /// Back to coefficients in two words: the integer between -p1 p2 / 2 and p1 p2 / 2 that the residues stand for, modulo
    /// Q. The values must be below 2 p.
    pub(super) fn into_words(mut self) -> Poly<Words> {
        for (data, field) in self.data.chunks_exact_mut(VECTORS).zip(FIELDS.iter()) {
            kernel::backward(field, data);
            kernel::matrix(field, &field.from_lanes, data);
        }
        let (x, y) = self.data.split_at_mut(VECTORS);
        kernel::join(&FIELDS, x, y);
        Poly {
            data: std::mem::take(&mut self.data),
        }
    }

    /// Back to coefficients.
    pub(super) fn into_coefficients(self) -> Poly<Coefficient> {
        let words = self.into_words();
        let (low, high) = words.data.split_at(VECTORS);
        let mut data = Vec::with_capacity(DEGREE);
        for a in 0..8 {
            let lane = low.iter().zip(high);
            data.extend(lane.map(|(l, h)| u128::from(l.0[a]) | u128::from(h.0[a]) << 52));
        }
        Poly { data }
    }
}

impl Poly<Words> {
    /// The low 64 bits of `(coefficient + noise + offset mod Q) / 2^bits`, constant term first. The noise is overwritten.
    pub(super) fn shifted(&self, noise: &mut [Lanes], offset: u128, bits: u32) -> Vec<u64> {
        let (low, high) = self.data.split_at(VECTORS);
        kernel::shift(low, high, offset, bits, noise);
        let mut values = Vec::with_capacity(DEGREE);
        for a in 0..8 {
            values.extend(noise.iter().map(|v| v.0[a]));
        }
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::he::field::PRIMES;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha20Rng;

    const PRODUCT: u128 = PRIMES[0] as u128 * PRIMES[1] as u128;

    #[test]
    fn the_product_is_as_large_as_stated() {
        assert!((PRODUCT as f64).log2() > PRODUCT_BITS);
    }

    #[test]
    fn products_equal_the_schoolbook() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let big = |rng: &mut ChaCha20Rng| -> Vec<u128> {
            (0..DEGREE)
                .map(|i| {
                    if i % 5 == 0 {
                        MODULUS_MASK
                    } else {
                        rng.random::<u128>() & MODULUS_MASK
                    }
                })
                .collect()
        };
        let small = |rng: &mut ChaCha20Rng| -> Vec<i32> {
            (0..DEGREE).map(|_| rng.random_range(-127..128)).collect()
        };
        let (a, b, v, w) = (
            big(&mut rng),
            big(&mut rng),
            small(&mut rng),
            small(&mut rng),
        );
        let mut expected = vec![0i128; DEGREE];
        for (big, small) in [(&a, &v), (&b, &w)] {
            for (i, &x) in big.iter().enumerate() {
                for (j, &y) in small.iter().enumerate() {
                    let product = x as i128 * i128::from(y);
                    let t = i + j;
                    if t < DEGREE {
                        expected[t] += product
                    } else {
                        expected[t - DEGREE] -= product
                    }
                }
            }
        }
        let expected: Vec<u128> = expected.iter().map(|&c| c as u128 & MODULUS_MASK).collect();
        let mut sum = Poly::<Ntt>::zero();
        for (big, small) in [(a, v), (b, w)] {
            let (x, y) = (
                Poly::from_coefficients(big).to_ntt(),
                Poly::from_small(&small),
            );
            sum.add_product(&x, &y);
        }
        assert!(sum.into_coefficients().coefficients() == expected);
    }

    #[test]
    fn joining_is_exact_at_the_edges() {
        let half = (PRODUCT / 2) as i128;
        for value in [
            0,
            1,
            -1,
            half,
            -half,
            half - 1,
            1 << 90,
            -(1 << 90),
            PRIMES[0] as i128,
            -(PRIMES[1] as i128),
        ] {
            // Both representatives of a residue below 2 p are taken.
            for [two_x, two_y] in [[0, 0], [0, 1], [1, 0], [1, 1]] {
                let residue = |p: u64, twice: u64| value.rem_euclid(p as i128) as u64 + twice * p;
                let mut x = [Lanes([residue(PRIMES[0], two_x); 8])];
                let mut y = [Lanes([residue(PRIMES[1], two_y); 8])];
                kernel::join(&FIELDS, &mut x, &mut y);
                let got = u128::from(x[0].0[3]) | u128::from(y[0].0[3]) << 52;
                assert_eq!(got, value as u128 & MODULUS_MASK, "{value}");
            }
        }
    }
}
