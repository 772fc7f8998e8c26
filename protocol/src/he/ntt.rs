//! Polynomials of Z_Q\[X\]/(X^4096 + 1), Q = 2^72, and exact products by two number-theoretic transforms.
//!
//! Products are computed over the integers, modulo two 50-bit primes, put together by the Chinese remainder theorem and only
//! then reduced modulo Q; [`super::check_products`] makes sure that they fit. The form of a polynomial is part of its type.
//! Contents are wiped on drop, and all arithmetic runs in constant time.
//!
//! Coefficient `512 a + b` passes through lane a of vector b, and values modulo a prime p are kept below 4 p.

use super::field::{FIELDS, PRIMES, VECTORS, power};
use super::kernel;
use super::lanes::Lanes;
use super::params::{DEGREE, MODULUS_MASK};
use zeroize::Zeroize;

/// log2 of the product of both primes, rounded down.
pub(super) const PRODUCT_BITS: f64 = 99.999_999;
const PRODUCT: u128 = PRIMES[0] as u128 * PRIMES[1] as u128;
/// Inverse of the first prime modulo the second.
const INVERSE: u64 = power(PRIMES[0], PRIMES[1] - 2, PRIMES[1]);
const INVERSE_SHOUP: u64 = (((INVERSE as u128) << 64) / PRIMES[1] as u128) as u64;

/// A form in which a polynomial is kept.
pub(super) trait Form {
    /// What it is kept in.
    type Data: Zeroize;
}

/// Coefficients modulo Q, constant term first.
pub(super) enum Coefficient {}

/// Transforms modulo both primes, one after the other.
pub(super) enum Ntt {}

impl Form for Coefficient {
    type Data = Vec<u128>;
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
            data.extend((0..VECTORS).map(|b| {
                Lanes(std::array::from_fn(|a| residue(field.p, VECTORS * a + b)))
            }));
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
        let factors = a.data.chunks_exact(VECTORS).zip(b.data.chunks_exact(VECTORS));
        let sums = self.data.chunks_exact_mut(VECTORS);
        for ((sum, (a, b)), field) in sums.zip(factors).zip(FIELDS.iter()) {
            kernel::multiply_add(field, sum, a, b);
        }
    }

    /// Back to coefficients: the integer between -p1 p2 / 2 and p1 p2 / 2 that the residues stand for, modulo Q. The values
    /// must be below 2 p.
    pub(super) fn into_coefficients(mut self) -> Poly<Coefficient> {
        for (data, field) in self.data.chunks_exact_mut(VECTORS).zip(FIELDS.iter()) {
            kernel::backward(field, data);
            kernel::matrix(field, &field.from_lanes, data);
        }
        let (first, second) = self.data.split_at(VECTORS);
        let mut data = Vec::with_capacity(DEGREE);
        for a in 0..8 {
            let lane = first.iter().zip(second);
            data.extend(lane.map(|(x, y)| join(x.0[a], y.0[a])));
        }
        Poly { data }
    }
}

/// The integer that is `x` modulo the first prime and `y` modulo the second (both below twice their prime), centred and
/// reduced modulo Q.
fn join(x: u64, y: u64) -> u128 {
    let p = PRIMES[1];
    let x = x.min(x.wrapping_sub(PRIMES[0]));
    let y = y.min(y.wrapping_sub(p));
    // The primes differ by less than p, so x < 2 p.
    let x_mod_p = x.min(x.wrapping_sub(p));
    let difference = y.wrapping_sub(x_mod_p);
    let difference = difference.min(difference.wrapping_add(p));
    let quotient = ((u128::from(difference) * u128::from(INVERSE_SHOUP)) >> 64) as u64;
    let t = difference
        .wrapping_mul(INVERSE)
        .wrapping_sub(quotient.wrapping_mul(p));
    let t = t.min(t.wrapping_sub(p));
    let value = u128::from(x) + u128::from(t) * u128::from(PRIMES[0]);
    let is_negative = (PRODUCT / 2).wrapping_sub(value) >> 127;
    value.wrapping_sub(PRODUCT & is_negative.wrapping_neg()) & MODULUS_MASK
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha20Rng;

    #[test]
    fn the_product_is_as_large_as_stated() {
        assert!((PRODUCT as f64).log2() > PRODUCT_BITS);
        assert_eq!(
            u128::from(INVERSE) * u128::from(PRIMES[0]) % u128::from(PRIMES[1]),
            1
        );
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
            let residue = |p: u64| value.rem_euclid(p as i128) as u64;
            assert_eq!(
                join(residue(PRIMES[0]), residue(PRIMES[1])),
                value as u128 & MODULUS_MASK,
                "{value}"
            );
        }
    }
}
