//! How large the error of a layer can be, and whether its products fit.
//!
//! y_c + s differs from W r by the rounded noise of the inputs (lambda dropped bits and e, spread by the weights), of the
//! response (dropped bits and e1, spread by the client's key, and e0), and of the public key (e, spread by u). As sub-Gaussian
//! variables their sum has, in units of a share, variance
//! [(4^lambda / 12 + s^2) |w|^2 + (4^drop / 12 + s1^2) |z|^2 + s^2 |u|^2 + s0^2] / 4^h, s = 3.2 the deviation of e, s1 = 4.9 that of u and
//! e1, s0 = 16,473 that of e0; the two roundings add 1/6.
//! Dropped bits are replaced by their half, which is 1/2 above their mean. So the sum has a mean, too: half of what a constant 1 in
//! every input and in z would become, at most [S + |z|^2] / 2 / 2^h, where S is the largest sum of signed weights (`largest_sum`).

use super::ntt::PRODUCT_BITS;
use super::params::{
    BLINDING_DEVIATION, DEGREE, HIDING_DEVIATION, LARGEST_BLINDING, MODULUS_BITS, NOISE_DEVIATION,
    RlweParams,
};
use crate::{Error, Result};

/// Bound on the error of the coefficients of a response polynomial.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ErrorBound {
    /// Largest size of the mean.
    mean: f64,
    variance: f64,
}

impl ErrorBound {
    /// For weights whose squares add up to `weights_squared` over all filters and inputs of the polynomial and whose signed sums are
    /// at most `largest_sum`, for a ternary z and a u that are longer with a probability below 2^-90.
    pub fn new(params: &RlweParams, weights_squared: u64, largest_sum: u64) -> Self {
        // On average two thirds of the coefficients of z are not 0.
        let (largest_z, largest_u) = (0.75 * DEGREE as f64, 1.3 * average_u());
        let bound = Self::for_norms(params, weights_squared as f64, largest_z, largest_u);
        let unit = f64::from(params.noise_bits()).exp2();
        let mean = (largest_sum as f64 + largest_z) / 2.0 / unit;
        Self { mean, ..bound }
    }

    fn for_norms(params: &RlweParams, weights: f64, key: f64, u: f64) -> Self {
        let power = |bits: u32| 4f64.powi(bits as i32);
        let noise = NOISE_DEVIATION * NOISE_DEVIATION;
        let sum = (power(params.lambda()) / 12.0 + noise) * weights
            + (power(params.drop()) / 12.0 + BLINDING_DEVIATION * BLINDING_DEVIATION) * key
            + noise * u
            + HIDING_DEVIATION * HIDING_DEVIATION;
        let variance = sum / power(params.noise_bits());
        Self {
            mean: 0.0,
            variance,
        }
    }

    /// Root mean square of the error in units of a share, with the average z and u.
    #[cfg(test)]
    pub fn typical_rms(params: &RlweParams, weights_squared: u64) -> f64 {
        let average = DEGREE as f64 * 2.0 / 3.0;
        let bound = Self::for_norms(params, weights_squared as f64, average, average_u());
        (bound.variance + 1.0 / 6.0).sqrt()
    }

    /// log2 of a bound on the probability that one error exceeds `tau` units: 2 exp(-(tau - mean - 1)^2 / (2 variance)).
    #[cfg(test)]
    pub fn failure_log2(&self, tau: f64) -> f64 {
        let margin = (tau - self.mean - 1.0).max(0.0);
        (1.0 - margin * margin / (2.0 * self.variance) / std::f64::consts::LN_2).min(0.0)
    }

    /// log2 of a bound on the probability that the error of one coefficient is not 0, for parameters whose error is far
    /// below half a unit: the two roundings differ only where a uniform fraction lies within the error of one half, so it is
    /// the mean of the error's size: at most that of its mean and sqrt(2 / pi) times its deviation.
    pub fn nonzero_log2(&self) -> f64 {
        let spread = (2.0 * self.variance / std::f64::consts::PI).sqrt();
        (self.mean + spread).log2().min(0.0)
    }

    /// The error that is exceeded with probability at most `2^-bits`.
    #[cfg(test)]
    pub fn max_error(&self, bits: f64) -> f64 {
        1.0 + self.mean + (2.0 * self.variance * std::f64::consts::LN_2 * (bits + 1.0)).sqrt()
    }
}

/// The mean of |u|^2.
fn average_u() -> f64 {
    DEGREE as f64 * BLINDING_DEVIATION * BLINDING_DEVIATION
}

/// Whether a response polynomial is exact: its weights' absolute values add up to `weights_sum` over all filters and inputs;
/// the largest u is added here.
///
/// # Errors
/// If the sum of products could leave the range of the two primes.
pub fn check_products(weights_sum: u64) -> Result<()> {
    let norm = weights_sum as f64 + DEGREE as f64 * f64::from(LARGEST_BLINDING);
    if f64::from(MODULUS_BITS) + norm.log2() + 1.0 <= PRODUCT_BITS {
        Ok(())
    } else {
        Err(Error::Plan(format!(
            "the weights of one response polynomial add up to {weights_sum} in absolute value, too much for exact products: \
             put fewer filters in a polynomial"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_consistent() {
        // 512 channels of 3x3 with every weight 127 in 3 filters.
        let bound = ErrorBound::new(&RlweParams::HIDDEN, 3 * 4608 * 127 * 127, 3 * 4608 * 127);
        let tau = bound.max_error(56.0);
        assert!((bound.failure_log2(tau) + 56.0).abs() < 1e-6);
        assert!(tau < 31.0, "{tau}");
        assert_eq!(bound.failure_log2(0.5), 0.0);
        assert!(ErrorBound::new(&RlweParams::OPENED, 1 << 30, 1 << 15).max_error(200.0) < 1.01);
        // A classifier of 10 classes on 64 features: the figure that the plan states.
        let opened = ErrorBound::new(&RlweParams::OPENED, 640 * 40 * 40, 640 * 4).nonzero_log2();
        assert!((-33.0..-31.0).contains(&opened), "{opened}");
        // Weights of one sign: the mean is what counts.
        let alike = ErrorBound::new(&RlweParams::OPENED, 51_200 * 127 * 127, 51_200 * 127);
        assert!((-26.5..-26.0).contains(&alike.nonzero_log2()));
        let rms = ErrorBound::typical_rms(&RlweParams::HIDDEN, 576 * 40 * 40);
        assert!((1.0..2.0).contains(&rms), "{rms}");
    }

    #[test]
    fn products_that_cannot_be_exact_are_refused() {
        assert!(check_products(27 * 4608 * 127).is_ok());
        assert!(matches!(check_products(1 << 27), Err(Error::Plan(_))));
    }
}
