//! Parameters of the encryption, and rounding.
//!
//! Q = 2^(k + h) is 2^72 always, N = 4096, keys are ternary, noise has standard deviation 3.2; what blinds responses is wider, and as
//! hard as secrets of deviation 3.2 (SECURITY.md, 4.5). The standard of
//! homomorphicencryption.org (Albrecht et al., 2018, table 1) allows log Q up to 109 at N = 4096 for 128 bits of classical
//! security with ternary secrets; 72 bits leave about 170.

use crate::{Error, Result};

/// Degree N of the ring.
pub const DEGREE: usize = 4096;
/// log2 of the ciphertext modulus Q.
pub const MODULUS_BITS: u32 = 72;
/// Standard deviation of the noise.
pub(super) const NOISE_DEVIATION: f64 = 3.2;
/// Standard deviation of u and e1, which blind a response.
pub(super) const BLINDING_DEVIATION: f64 = 4.9;
/// Largest coefficient of u and e1.
pub(super) const LARGEST_BLINDING: u32 = 45;
/// Standard deviation of e0, which hides what the rest of a response's noise tells of u and e1.
pub(super) const HIDING_DEVIATION: f64 = 16_472.7;
/// Q - 1.
pub(super) const MODULUS_MASK: u128 = (1 << MODULUS_BITS) - 1;

/// How the 72 bits of a coefficient are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RlweParams {
    k: u32,
    h: u32,
    lambda: u32,
    drop: u32,
}

impl RlweParams {
    /// For layers whose output is masked again: k = 52, 14 bits up and 56 down for each coefficient. The error has an rms
    /// of 1 to 2 units.
    pub const HIDDEN: Self = Self {
        k: 52,
        h: 20,
        lambda: 6,
        drop: 16,
    };

    /// For the layer whose output is opened: k = 24, 42 bits up and 60 down. There is no error, so none can speak about
    /// the weights.
    pub const OPENED: Self = Self {
        k: 24,
        h: 48,
        lambda: 6,
        drop: 12,
    };

    /// Shares of `k` bits, `h` bits of room for noise, of which the lowest `lambda` do not travel up; the lowest `drop`
    /// bits of a response do not travel down.
    ///
    /// # Errors
    /// If k + h is not 72, or the bits that travel are none or more than 64.
    pub fn new(k: u32, h: u32, lambda: u32, drop: u32) -> Result<Self> {
        let fits = (1..=62).contains(&k) && k.checked_add(h) == Some(MODULUS_BITS);
        let travels = (1..h).contains(&lambda) && (8..h).contains(&drop);
        if fits && travels && h - lambda <= 64 {
            Ok(Self { k, h, lambda, drop })
        } else {
            Err(Error::Plan(format!(
                "k = {k}, h = {h}, lambda = {lambda}, drop = {drop} are no parameters: k + h must be {MODULUS_BITS} with k \
                 from 1 to 62, lambda from 1 and drop from 8, both below h"
            )))
        }
    }

    /// Bits of a share, k.
    pub fn k_bits(&self) -> u32 {
        self.k
    }

    /// Bits of room for noise below a share, h.
    pub fn noise_bits(&self) -> u32 {
        self.h
    }

    /// Bits that the client sends for each coefficient of an input polynomial.
    pub fn up_bits(&self) -> u32 {
        self.h - self.lambda
    }

    /// Bits that the server sends for each coefficient of a response polynomial.
    pub fn down_bits(&self) -> u32 {
        MODULUS_BITS - self.drop
    }

    /// Lowest bits of z that stay with the client, lambda.
    pub fn lambda(&self) -> u32 {
        self.lambda
    }

    /// Lowest bits of acc1 that stay with the server.
    pub fn drop(&self) -> u32 {
        self.drop
    }

    /// The share that `value` modulo Q stands for: round(value / 2^h) mod 2^k.
    pub(super) fn round(&self, value: u128) -> u64 {
        let rounded = value.wrapping_add(1 << (self.h - 1)) >> self.h;
        rounded as u64 & self.share_mask()
    }

    /// 2^k - 1.
    pub(super) fn share_mask(&self) -> u64 {
        u64::MAX >> (64 - self.k)
    }

    /// The same as a sum and a shift: round(value / 2^h) is `(value + offset mod Q) / 2^bits`.
    pub(super) fn rounding(&self) -> (u128, u32) {
        (1 << (self.h - 1), self.h)
    }

    /// The low half c0 that both sides rebuild from its bits that travelled.
    pub(super) fn low_half(&self, bits: u64) -> u128 {
        (u128::from(bits) << self.lambda) + (1 << (self.lambda - 1))
    }

    /// The bits of z that travel.
    pub(super) fn travelling(&self, z: u128) -> u64 {
        (z >> self.lambda) as u64 & (u64::MAX >> (64 - self.up_bits()))
    }

    /// acc1 as the client sees it: in the middle of the range that was dropped.
    pub(super) fn undropped(&self, top: u64) -> u128 {
        (u128::from(top) << self.drop) + (1 << (self.drop - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Largest log Q for N = 4096, ternary secrets and 128 bits (homomorphicencryption.org standard, table 1).
    const STANDARD_LOG_Q: u32 = 109;

    #[test]
    fn the_modulus_is_far_below_the_standard() {
        assert_eq!(DEGREE, 4096);
        const { assert!(MODULUS_BITS + 30 < STANDARD_LOG_Q) };
        assert!((3.19..3.21).contains(&NOISE_DEVIATION));
    }

    #[test]
    fn presets_are_sound() {
        let hidden = RlweParams::new(52, 20, 6, 16).unwrap();
        assert_eq!(
            (hidden, hidden.up_bits(), hidden.down_bits()),
            (RlweParams::HIDDEN, 14, 56)
        );
        let opened = RlweParams::new(24, 48, 6, 12).unwrap();
        assert_eq!(
            (opened, opened.up_bits(), opened.down_bits()),
            (RlweParams::OPENED, 42, 60)
        );
        for (k, h, lambda, drop) in [
            (52, 21, 6, 16),
            (63, 9, 6, 8),
            (52, 20, 20, 16),
            (52, 20, 6, 20),
            (52, 20, 6, 7),
            (2, 70, 5, 9),
        ] {
            assert!(RlweParams::new(k, h, lambda, drop).is_err());
        }
    }

    #[test]
    fn rounding_is_to_nearest_and_wraps() {
        let p = RlweParams::HIDDEN;
        assert_eq!(p.round((5 << 20) + (1 << 19) - 1), 5);
        assert_eq!(p.round((5 << 20) + (1 << 19)), 6);
        assert_eq!(p.round(MODULUS_MASK), 0);
    }
}
