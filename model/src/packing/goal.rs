//! What a packing should be good at: seconds on a stated network, at stated rates of the machine.
//!
//! Bytes fall when ciphertexts are full both ways, which takes many images in one; transforms of weights fall when a
//! polynomial holds many channels and filters of few images. A goal gives both a price in the same unit. All numbers are
//! integers, because both parties must come to the same plan.

use super::PackingCost;
use serde::{Deserialize, Serialize};

/// The network and the machine for which packings are chosen. Part of the plan: both parties must have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackingGoal {
    /// Bits that the network carries in a second, one direction at a time.
    pub bandwidth: u64,
    /// Nanoseconds for the product of a ciphertext with a transformed weight polynomial.
    pub product_ns: u32,
    /// Nanoseconds to make and transform a weight polynomial.
    pub transform_ns: u32,
    /// Nanoseconds of both parties for a polynomial of a source: noise, masks, transforms.
    pub input_ns: u32,
    /// Nanoseconds of both parties for a polynomial of a response: fresh encryption of zero, transforms, decryption.
    pub response_ns: u32,
}

impl PackingGoal {
    /// 100 Mbit/s.
    pub const DEFAULT: Self = Self::for_bandwidth(100_000_000);
    /// As few bytes as possible, and the least work among equals.
    pub const FEWEST_BYTES: Self = Self::for_bandwidth(1);

    /// For a network of `bandwidth` bits a second, and the rates of two cores that both parties share.
    #[must_use]
    pub const fn for_bandwidth(bandwidth: u64) -> Self {
        Self {
            bandwidth,
            product_ns: 3_000,
            transform_ns: 9_000,
            input_ns: 250_000,
            response_ns: 400_000,
        }
    }

    /// Nanoseconds for `cost` on this network; work and wire do not overlap.
    #[must_use]
    pub fn nanoseconds(&self, cost: &PackingCost) -> u128 {
        let wire = cost.bytes as u128 * 8_000_000_000 / u128::from(self.bandwidth.max(1));
        let work = [
            (cost.products, self.product_ns),
            (cost.weight_transforms, self.transform_ns),
            (cost.inputs, self.input_ns),
            (cost.responses, self.response_ns),
        ];
        let work = work.map(|(count, ns)| count as u128 * u128::from(ns));
        wire + work.iter().sum::<u128>()
    }
}

impl Default for PackingGoal {
    fn default() -> Self {
        Self::DEFAULT
    }
}
