//! Random polynomials: uniform modulo Q from a public seed, ternary, and discrete Gaussian noise.
//!
//! Noise comes from a cumulative distribution table with 63 bits of precision (Peikert, CRYPTO 2010, section 5.2): every
//! sample is compared with every entry, so time does not depend on it. The statistical distance from the discrete Gaussian
//! of deviation 3.2 is below 2^-60 for each coefficient, tail and rounding of the table included. Uniform and ternary
//! coefficients are exact.

use super::field::VECTORS;
use super::kernel;
use super::lanes::Lanes;
use super::ntt::{Coefficient, Poly};
use super::params::{DEGREE, MODULUS_BITS};
use rand::{CryptoRng, Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha20Rng;
use zeroize::Zeroizing;

/// 2^63 times the probability that |x| <= i, rounded, for i = 0 ..= 28.
const CUMULATIVE: [u64; 29] = [
    0x0ff5_2b40_64a1_f258,
    0x2e5a_25d4_026f_ff6e,
    0x489a_e268_2e3d_b9bb,
    0x5d2b_c20d_e6f9_5106,
    0x6bc8_694a_862f_cdcf,
    0x7532_d898_e9d1_95da,
    0x7ab3_96c9_80f5_facb,
    0x7d9e_4e8f_6717_ea70,
    0x7f05_4956_150a_592b,
    0x7fa1_ce99_f8db_f691,
    0x7fdf_b3f0_0a8f_3398,
    0x7ff5_e6f7_c97d_68d9,
    0x7ffd_1f95_b372_bd36,
    0x7fff_40f7_f7ae_dc64,
    0x7fff_d2e6_2d05_7ef0,
    0x7fff_f650_3aaa_2875,
    0x7fff_fe1b_ab99_a744,
    0x7fff_ffaa_0140_ce53,
    0x7fff_fff2_1f8a_3a77,
    0x7fff_fffd_f723_01f4,
    0x7fff_ffff_ba9f_d472,
    0x7fff_ffff_f79b_78ce,
    0x7fff_ffff_ff13_f6f9,
    0x7fff_ffff_ffe8_748a,
    0x7fff_ffff_fffd_de24,
    0x7fff_ffff_ffff_d320,
    0x7fff_ffff_ffff_fca7,
    0x7fff_ffff_ffff_ffc6,
    0x7fff_ffff_ffff_fffc,
];

/// Independent ChaCha20 streams under one key, so that polynomials may be drawn in parallel and in any order.
pub(super) struct Streams(Zeroizing<[u8; 32]>);

impl Streams {
    /// Streams under a fresh key.
    pub(super) fn fresh(rng: &mut impl CryptoRng) -> Self {
        let mut key = Zeroizing::new([0; 32]);
        rng.fill_bytes(key.as_mut());
        Self(key)
    }

    /// Stream number `index`.
    pub(super) fn stream(&self, index: usize) -> ChaCha20Rng {
        stream(&self.0, index)
    }
}

fn stream(key: &[u8; 32], index: usize) -> ChaCha20Rng {
    let mut rng = ChaCha20Rng::from_seed(*key);
    rng.set_stream(index as u64);
    rng
}

/// Polynomial `index` of a public seed: uniform modulo Q, 9 bytes for each coefficient.
pub(super) fn uniform(seed: &[u8; 32], index: usize) -> Poly<Coefficient> {
    const BYTES: usize = MODULUS_BITS as usize / 8;
    let mut bytes = vec![0; DEGREE * BYTES];
    stream(seed, index).fill_bytes(&mut bytes);
    let (chunks, _) = bytes.as_chunks::<BYTES>();
    let coefficient = |chunk: &[u8; BYTES]| {
        let mut wide = [0; 16];
        wide[..BYTES].copy_from_slice(chunk);
        u128::from_le_bytes(wide)
    };
    Poly::from_coefficients(chunks.iter().map(coefficient).collect())
}

/// Coefficients uniform in -1, 0, 1. A byte of 255 is drawn again, which says nothing about those that are kept.
pub(super) fn ternary(rng: &mut impl CryptoRng) -> Zeroizing<Vec<i32>> {
    let mut coefficients = Zeroizing::new(Vec::with_capacity(DEGREE));
    let mut bytes = Zeroizing::new([0; 256]);
    while coefficients.len() < DEGREE {
        rng.fill_bytes(bytes.as_mut());
        let kept = bytes.iter().filter(|&&byte| byte != 255);
        let room = DEGREE - coefficients.len();
        coefficients.extend(kept.take(room).map(|&byte| i32::from(byte % 3) - 1));
    }
    coefficients
}

/// Coefficients from the discrete Gaussian of deviation 3.2, as differences to add modulo 2^128.
pub(super) fn gaussian(rng: &mut impl CryptoRng) -> Zeroizing<Vec<u128>> {
    let noise = gaussian_lanes(rng);
    let words = noise.iter().flat_map(|lanes| lanes.0);
    Zeroizing::new(words.map(|e| i128::from(e as i64) as u128).collect())
}

/// The same, as differences to add modulo 2^64.
pub(super) fn gaussian_lanes(rng: &mut impl CryptoRng) -> Zeroizing<Vec<Lanes>> {
    let mut noise = Zeroizing::new(Vec::with_capacity(VECTORS));
    let mut words = Zeroizing::new([0u64; 256]);
    while noise.len() < VECTORS {
        rng.fill(words.as_mut());
        noise.extend(words.as_chunks().0.iter().map(|&lanes| Lanes(lanes)));
    }
    kernel::sample(&CUMULATIVE, &mut noise);
    noise
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(values: &[f64]) -> (f64, f64) {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        (
            mean,
            (values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n).sqrt(),
        )
    }

    #[test]
    fn noise_has_the_stated_distribution() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let noise: Vec<f64> = (0..256)
            .flat_map(|_| {
                gaussian(&mut rng)
                    .iter()
                    .map(|&e| e as i128 as f64)
                    .collect::<Vec<_>>()
            })
            .collect();
        let (mean, deviation) = moments(&noise);
        assert!(
            mean.abs() < 0.02 && (deviation - 3.2).abs() < 0.02,
            "mean {mean}, deviation {deviation}"
        );
        let share = |x: f64| noise.iter().filter(|&&e| e == x).count() as f64 / noise.len() as f64;
        for x in [-7.0f64, -3.0, 0.0, 3.0, 7.0] {
            let expected =
                (-x * x / (2.0 * 3.2 * 3.2)).exp() / (3.2 * (2.0 * std::f64::consts::PI).sqrt());
            assert!(
                (share(x) - expected).abs() < 2e-3,
                "{x}: {} instead of {expected}",
                share(x)
            );
        }
    }

    #[test]
    fn secrets_are_ternary_and_balanced() {
        let mut rng = ChaCha20Rng::seed_from_u64(2);
        for value in [-1, 0, 1] {
            let n = ternary(&mut rng).iter().filter(|&&c| c == value).count();
            assert!(n.abs_diff(DEGREE / 3) < 180, "{n} times {value}");
        }
    }

    #[test]
    fn seeds_and_indices_give_different_polynomials() {
        let draw = |seed, index| uniform(&[seed; 32], index).coefficients().to_vec();
        assert_eq!(draw(1, 7), draw(1, 7));
        assert_ne!(draw(1, 7), draw(1, 8));
        assert_ne!(draw(1, 7), draw(2, 7));
        let (mean, _) = moments(
            &draw(3, 0)
                .iter()
                .map(|&c| c as f64 / 2f64.powi(72))
                .collect::<Vec<_>>(),
        );
        assert!((mean - 0.5).abs() < 0.02);
    }
}
