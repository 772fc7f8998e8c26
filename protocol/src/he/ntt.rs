//! Polynomials of Z_Q\[X\]/(X^4096 + 1), Q = 2^72, and exact products by two number-theoretic transforms.
//!
//! Products are computed over the integers, modulo two 50-bit primes, put together by the Chinese remainder theorem and only
//! then reduced modulo Q; [`super::check_products`] makes sure that they fit. The transforms are tfhe-ntt's. The form of a
//! polynomial is part of its type. Contents are wiped on drop, and all arithmetic runs in constant time.

use super::params::{DEGREE, MODULUS_MASK};
use std::sync::LazyLock;
use tfhe_ntt::prime64::Plan;
use zeroize::Zeroize;

/// The two largest primes below 2^50 that are 1 modulo 2 N.
const PRIMES: [u64; 2] = [(1 << 50) - 16_383, (1 << 50) - 212_991];
/// log2 of their product, rounded down.
pub(super) const PRODUCT_BITS: f64 = 99.999_999;
const PRODUCT: u128 = PRIMES[0] as u128 * PRIMES[1] as u128;
/// Inverse of the first prime modulo the second.
const INVERSE: u64 = inverse(PRIMES[0], PRIMES[1]);
const INVERSE_SHOUP: u64 = (((INVERSE as u128) << 64) / PRIMES[1] as u128) as u64;

static PLANS: LazyLock<[Plan; 2]> = LazyLock::new(|| {
    #[expect(
        clippy::expect_used,
        reason = "both primes are 1 modulo 2 N, which a test checks"
    )]
    PRIMES.map(|p| Plan::try_new(DEGREE, p).expect("the primes have roots of unity of order 2 N"))
});

/// `a^(p - 2)` modulo the prime `p`.
const fn inverse(a: u64, p: u64) -> u64 {
    let (mut power, mut result, mut exponent) = (a as u128 % p as u128, 1u128, p - 2);
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = result * power % p as u128;
        }
        power = power * power % p as u128;
        exponent >>= 1;
    }
    result as u64
}

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
    type Data = Vec<u64>;
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
        let mut data = vec![0; 2 * DEGREE];
        for (residues, p) in data.chunks_exact_mut(DEGREE).zip(PRIMES) {
            // 2^50 = (2^50 - p) modulo p, which has at most 18 bits; the upper part has 22.
            let fold = (1 << 50) - p;
            for (residue, &c) in residues.iter_mut().zip(&self.data) {
                let sum = (c as u64 & ((1 << 50) - 1)) + (c >> 50) as u64 * fold;
                *residue = sum.min(sum.wrapping_sub(p));
            }
        }
        Poly::transformed(data)
    }
}

impl Poly<Ntt> {
    /// The zero polynomial.
    pub(super) fn zero() -> Self {
        Self {
            data: vec![0; 2 * DEGREE],
        }
    }

    /// Transforms a polynomial of small signed coefficients.
    pub(super) fn from_small(coefficients: &[i32]) -> Self {
        debug_assert_eq!(coefficients.len(), DEGREE);
        let mut data = vec![0; 2 * DEGREE];
        for (residues, p) in data.chunks_exact_mut(DEGREE).zip(PRIMES) {
            for (residue, &c) in residues.iter_mut().zip(coefficients) {
                let c = i64::from(c);
                *residue = (c + ((c >> 63) & p as i64)) as u64;
            }
        }
        Self::transformed(data)
    }

    fn transformed(mut data: Vec<u64>) -> Self {
        for (residues, plan) in data.chunks_exact_mut(DEGREE).zip(PLANS.iter()) {
            plan.fwd(residues);
        }
        Self { data }
    }

    /// Adds the product of `a` and `b`.
    pub(super) fn add_product(&mut self, a: &Self, b: &Self) {
        let factors = a.data.chunks_exact(DEGREE).zip(b.data.chunks_exact(DEGREE));
        let sums = self.data.chunks_exact_mut(DEGREE);
        for ((sum, (a, b)), plan) in sums.zip(factors).zip(PLANS.iter()) {
            plan.mul_accumulate(sum, a, b);
        }
    }

    /// Back to coefficients: the integer between -p1 p2 / 2 and p1 p2 / 2 that the residues stand for, modulo Q.
    pub(super) fn into_coefficients(mut self) -> Poly<Coefficient> {
        for (residues, plan) in self.data.chunks_exact_mut(DEGREE).zip(PLANS.iter()) {
            plan.inv(residues);
            plan.normalize(residues);
        }
        let (first, second) = self.data.split_at(DEGREE);
        let data = first
            .iter()
            .zip(second)
            .map(|(&x, &y)| join(x, y))
            .collect();
        Poly { data }
    }
}

/// The integer that is `x` modulo the first prime and `y` modulo the second, centred and reduced modulo Q.
fn join(x: u64, y: u64) -> u128 {
    let p = PRIMES[1];
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
    fn the_primes_suit_the_degree() {
        for p in PRIMES {
            assert!(p % (2 * DEGREE as u64) == 1 && p < 1 << 50);
            assert!(tfhe_ntt::prime::is_prime64(p));
        }
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
            assert!(
                x.data
                    .chunks(DEGREE)
                    .zip(PRIMES)
                    .all(|(r, p)| r.iter().all(|&r| r < p)),
                "transforms are reduced"
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
