//! Random polynomials: uniform modulo Q from a public seed, ternary, and discrete Gaussians of three deviations.
//!
//! Those of deviation 3.2 and 4.9 come from cumulative distribution tables with 63 bits of precision (Peikert, CRYPTO 2010, section
//! 5.2): every sample is compared with every entry, so time does not depend on it. The statistical distance from the discrete
//! Gaussian is at most 2^-60 for each coefficient, tail and rounding of the table included. The widest is a sum of multiples of
//! eight samples of deviation 4.9 ([`wide_lanes`]), 2^-56.9 away. Uniform and ternary coefficients are exact.

use super::field::VECTORS;
use super::kernel;
use super::lanes::Lanes;
use super::ntt::{Coefficient, Poly};
use super::params::{DEGREE, LARGEST_BLINDING, MODULUS_BITS};
use crate::block::Block;
use crate::prg::Expander;
use rand::{CryptoRng, RngCore, SeedableRng};
use rand_chacha::ChaCha20Rng;
use zeroize::Zeroizing;

/// For deviation 3.2: 2^63 times the probability that |x| <= i, rounded, for i = 0 ..= 28.
const NOISE: [u64; 29] = [
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

/// The same for deviation 4.9 and i = 0 ..= 44.
const BLINDING: [u64; LARGEST_BLINDING as usize] = [
    0x0a6b_dd8d_5164_895e,
    0x1ed5_a16a_0f02_e456,
    0x3202_e909_8342_491e,
    0x434a_bb65_7d08_b432,
    0x523a_7b27_8ff4_6718,
    0x5e9c_ba5a_6f28_e24d,
    0x6875_efa8_c0bb_f3be,
    0x6ff9_3045_adfb_9599,
    0x7578_7406_68fc_8ee4,
    0x7954_287b_a25d_3b86,
    0x7bed_1c4e_64f1_292c,
    0x7d9a_83ad_9bdb_ef78,
    0x7ea4_7f34_b24a_25a7,
    0x7f42_8812_8f56_129c,
    0x7f9c_9919_f356_e76f,
    0x7fcd_d59f_8c38_2125,
    0x7fe7_a703_3e22_eeb2,
    0x7ff4_a35f_c7db_764c,
    0x7ffa_e73c_862b_7fa7,
    0x7ffd_cd77_1cfa_5b3e,
    0x7fff_16f0_56b1_6191,
    0x7fff_a339_9fbb_174d,
    0x7fff_dc85_502f_9d7f,
    0x7fff_f2f7_8190_8d14,
    0x7fff_fb66_cb5e_ca5a,
    0x7fff_fe71_1ae8_6bfc,
    0x7fff_ff7e_337e_130b,
    0x7fff_ffd7_71aa_ccb1,
    0x7fff_fff3_d547_2703,
    0x7fff_fffc_7ede_d985,
    0x7fff_ffff_07ed_ce39,
    0x7fff_ffff_be26_4f38,
    0x7fff_ffff_ef38_72fa,
    0x7fff_ffff_fbe5_59a1,
    0x7fff_ffff_ff09_5756,
    0x7fff_ffff_ffc8_6b8e,
    0x7fff_ffff_fff3_fae2,
    0x7fff_ffff_fffd_8152,
    0x7fff_ffff_ffff_80c8,
    0x7fff_ffff_ffff_e7ae,
    0x7fff_ffff_ffff_fb8a,
    0x7fff_ffff_ffff_ff37,
    0x7fff_ffff_ffff_ffde,
    0x7fff_ffff_ffff_fffa,
    0x7fff_ffff_ffff_ffff,
];

/// Factors of the samples of deviation 4.9 that [`wide_lanes`] adds up.
///
/// If x and y are independent discrete Gaussians over the integers of deviations s and t, x + k y is one of deviation
/// sqrt(s^2 + k^2 t^2) up to a relative error of about 2^-62 of each probability, provided that 1 / s^2 + 1 / (k t)^2 <= 1 / (k e)^2, with
/// e = 1.511 the smoothing parameter of the integers for 2^-64, divided by sqrt(2 pi) (Peikert, CRYPTO 2010, theorem 3.1). Each factor
/// is the largest that this allows after those before it.
const WIDE: [u64; 8] = [1, 3, 9, 29, 94, 304, 986, 3198];

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

/// A polynomial from the discrete Gaussian of deviation 4.9, no coefficient above [`LARGEST_BLINDING`] in absolute value.
pub(super) fn blinding(rng: &mut impl CryptoRng) -> Zeroizing<Vec<i32>> {
    let lanes = blinding_lanes(rng);
    let words = lanes.iter().flat_map(|lanes| lanes.0);
    Zeroizing::new(words.map(|e| e as i64 as i32).collect())
}

/// The same, as differences to add modulo 2^64.
pub(super) fn blinding_lanes(rng: &mut impl CryptoRng) -> Zeroizing<Vec<Lanes>> {
    let mut values = words(rng);
    kernel::sample(&BLINDING, &mut values);
    values
}

/// Coefficients from the discrete Gaussian of deviation 16,472, as differences to add modulo 2^64.
pub(super) fn wide_lanes(rng: &mut impl CryptoRng) -> Zeroizing<Vec<Lanes>> {
    let mut sum = Zeroizing::new(vec![Lanes([0; 8]); VECTORS]);
    for factor in WIDE {
        let part = blinding_lanes(rng);
        for (sum, part) in sum.iter_mut().zip(part.iter()) {
            for (s, p) in sum.0.iter_mut().zip(part.0) {
                *s = s.wrapping_add(factor.wrapping_mul(p));
            }
        }
    }
    sum
}

/// Coefficients from the discrete Gaussian of deviation 3.2, as differences to add modulo 2^128.
pub(super) fn gaussian(rng: &mut impl CryptoRng) -> Zeroizing<Vec<u128>> {
    let noise = gaussian_lanes(rng);
    let words = noise.iter().flat_map(|lanes| lanes.0);
    Zeroizing::new(words.map(|e| i128::from(e as i64) as u128).collect())
}

/// The same, as differences to add modulo 2^64.
fn gaussian_lanes(rng: &mut impl CryptoRng) -> Zeroizing<Vec<Lanes>> {
    let mut noise = words(rng);
    kernel::sample(&NOISE, &mut noise);
    noise
}

/// A uniform word for each coefficient: AES in counter mode under a key from `rng`, as so many words are drawn that ChaCha20 would take as
/// long as the products.
fn words(rng: &mut impl CryptoRng) -> Zeroizing<Vec<Lanes>> {
    let mut key = Zeroizing::new([0; Block::BYTES]);
    rng.fill_bytes(key.as_mut());
    let stream = Expander::new(Block::from_le_bytes(*key));
    let mut blocks = Zeroizing::new([Block::ZERO; 256]);
    let mut lanes = Zeroizing::new(Vec::with_capacity(VECTORS));
    for first in (0..DEGREE as u64 / 2).step_by(blocks.len()) {
        stream.fill(first, blocks.as_mut());
        let words = |four: &[Block; 4]| {
            Lanes(std::array::from_fn(|i| {
                (four[i / 2].0 >> (64 * (i % 2))) as u64
            }))
        };
        lanes.extend(blocks.as_chunks().0.iter().map(words));
    }
    lanes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::he::params::{BLINDING_DEVIATION, HIDING_DEVIATION, NOISE_DEVIATION};

    fn moments(values: &[f64]) -> (f64, f64) {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        (
            mean,
            (values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n).sqrt(),
        )
    }

    fn drawn(draw: impl Fn(&mut ChaCha20Rng) -> Zeroizing<Vec<Lanes>>) -> Vec<f64> {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let polys: Vec<_> = (0..256).map(|_| draw(&mut rng)).collect();
        let words = polys.iter().flat_map(|p| p.iter().flat_map(|v| v.0));
        words.map(|e| e as i64 as f64).collect()
    }

    /// Compares moments, and the share of five values (or of ranges of values) with the density of a Gaussian.
    fn check_distribution(values: &[f64], deviation: f64) {
        let (mean, got) = moments(values);
        let n = values.len() as f64;
        // Five deviations of either estimate.
        assert!(mean.abs() < 5.0 * deviation / n.sqrt(), "mean {mean}");
        let slack = 5.0 * deviation / (2.0 * n).sqrt();
        assert!((got - deviation).abs() < slack, "deviation {got}");
        let kurtosis = values.iter().map(|v| (v / deviation).powi(4)).sum::<f64>() / n;
        assert!((kurtosis - 3.0).abs() < 0.05, "kurtosis {kurtosis}");
        let width = (deviation / 5.0).floor().max(1.0);
        for bin in [-10.0, -5.0, -1.0, 0.0, 3.0, 6.0] {
            let x = bin * width;
            let inside = |e: &&f64| (**e - x).abs() <= (width - 1.0) / 2.0;
            let share = values.iter().filter(inside).count() as f64 / n;
            let cells = if width > 1.0 {
                width - 1.0 + f64::from(width as u32 % 2)
            } else {
                1.0
            };
            let density = (-x * x / (2.0 * deviation * deviation)).exp()
                / (deviation * (2.0 * std::f64::consts::PI).sqrt());
            let expected = density * cells;
            assert!(
                (share - expected).abs() < 2e-3,
                "{x}: {share} instead of {expected}"
            );
        }
    }

    #[test]
    fn gaussians_have_the_stated_distributions() {
        check_distribution(&drawn(gaussian_lanes), NOISE_DEVIATION);
        let narrow = drawn(blinding_lanes);
        check_distribution(&narrow, BLINDING_DEVIATION);
        let largest = narrow.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        assert!(largest <= f64::from(LARGEST_BLINDING));
        check_distribution(&drawn(wide_lanes), HIDING_DEVIATION);
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let of_lanes: Vec<f64> = blinding_lanes(&mut rng.clone())
            .iter()
            .flat_map(|v| v.0)
            .map(|e| e as i64 as f64)
            .collect();
        let of_u: Vec<f64> = blinding(&mut rng).iter().map(|&e| f64::from(e)).collect();
        assert_eq!(of_lanes, of_u);
    }

    #[test]
    fn tables_are_those_of_their_deviations() {
        for (table, deviation) in [
            (&NOISE[..], NOISE_DEVIATION),
            (&BLINDING, BLINDING_DEVIATION),
        ] {
            let weight = |x: usize| (-((x * x) as f64) / (2.0 * deviation * deviation)).exp();
            let total = 1.0 + 2.0 * (1..200).map(weight).sum::<f64>();
            let mut sum = 0.0;
            for (i, &entry) in table.iter().enumerate() {
                sum += if i == 0 { 1.0 } else { 2.0 * weight(i) };
                let got = entry as f64 / 2f64.powi(63);
                assert!((got - sum / total).abs() < 1e-14, "{i}: {got}");
            }
            assert!(table.is_sorted() && table.last() >= Some(&((1 << 63) - 8)));
        }
    }

    /// Factors and deviations satisfy the condition that is stated at [`WIDE`], and the sum has the stated deviation.
    #[test]
    fn sums_of_gaussians_are_smooth() {
        let smooth =
            ((2.0 * (1.0 + 2f64.powi(64))).ln() / (2.0 * std::f64::consts::PI.powi(2))).sqrt();
        assert!((smooth - 1.511).abs() < 1e-3, "{smooth}");
        let base = BLINDING_DEVIATION.powi(2);
        let mut variance = base;
        for &factor in &WIDE[1..] {
            let k = (factor as f64).powi(2);
            assert!(
                1.0 / variance + 1.0 / (k * base) <= 1.0 / (k * smooth * smooth),
                "{factor}"
            );
            variance += k * base;
        }
        assert!(
            (variance.sqrt() - HIDING_DEVIATION).abs() < 0.1,
            "{}",
            variance.sqrt()
        );
    }

    /// The numbers of SECURITY.md, 4.5: with probability 1 - 2^-40 over a key no embedding of (e, z) has a square above `LARGEST`; then
    /// what a client learns leaves (u, e1) as wide as two samples of deviation 3.2.
    #[test]
    fn hints_leave_enough_of_the_blinding() {
        const LARGEST: f64 = 1.7e6;
        let n = DEGREE as f64;
        let [of_e, of_z] = [n * NOISE_DEVIATION.powi(2), n * 2.0 / 3.0];
        // The tail of a sum of squares of sub-Gaussian variables, by its moment generating function, over N / 2 pairs of embeddings.
        let delta = of_e / LARGEST;
        let tail = -(1.0 - delta) * LARGEST / of_e
            - (delta * (1.0 - (1.0 - delta) * of_z / of_e)).ln()
            + (n / 2.0).ln();
        assert!(tail / std::f64::consts::LN_2 < -40.0, "{tail}");
        let precision = BLINDING_DEVIATION.powi(-2) + LARGEST * HIDING_DEVIATION.powi(-2);
        let left = (2.0 * precision).powf(-0.5);
        assert!(left > NOISE_DEVIATION, "{left}");
        // log2 of 1 / epsilon for which deviation 3.2 / sqrt(2) smooths Z^(2N).
        let smooth = NOISE_DEVIATION.powi(2) * std::f64::consts::PI.powi(2) - (4.0 * n).ln();
        assert!(smooth / std::f64::consts::LN_2 > 131.0, "{smooth}");

        let mut rng = ChaCha20Rng::seed_from_u64(5);
        let roots: Vec<[f64; 2]> = (0..2 * DEGREE)
            .map(|i| (std::f64::consts::PI * i as f64 / n).sin_cos())
            .map(|(sin, cos)| [cos, sin])
            .collect();
        for _ in 0..2 {
            let z: Vec<f64> = ternary(&mut rng).iter().map(|&c| f64::from(c)).collect();
            let e: Vec<f64> = gaussian(&mut rng)
                .iter()
                .map(|&c| c as i128 as f64)
                .collect();
            let square = |root: usize| {
                let mut sums = [0.0; 4];
                for (j, (z, e)) in z.iter().zip(&e).enumerate() {
                    let [cos, sin] = roots[root * j % (2 * DEGREE)];
                    for (sum, term) in sums.iter_mut().zip([z * cos, z * sin, e * cos, e * sin]) {
                        *sum += term;
                    }
                }
                sums.iter().map(|s| s * s).sum::<f64>()
            };
            // Every eighth embedding: all take seconds.
            let largest = (1..DEGREE).step_by(16).map(square).fold(0.0, f64::max);
            assert!(largest < LARGEST, "{largest}");
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
