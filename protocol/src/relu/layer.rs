//! The surviving ReLUs of one layer: where they are, how many bits their signs have, and in which rings their shares lie.

use std::sync::Arc;

use pi_model::bits::packed_bytes;
use pi_model::relu_set::ReluSet;

use crate::gc::Circuit;
use crate::ring::Ring;

/// One layer that ends in a truncation and a masked ReLU.
pub struct ReluLayer {
    /// Index of the layer in the plan.
    pub layer: usize,
    /// Surviving positions and the others.
    pub positions: ReluSet,
    /// Bits of the sign test, l.
    pub sign_bits: u32,
    /// Bits that the truncation and the sign test drop.
    pub truncated_bits: u32,
    /// Ring of the accumulator.
    pub ring: Ring,
    /// Ring of the tensor that it makes.
    pub ring_out: Ring,
    /// The sign test.
    pub circuit: Arc<Circuit>,
}

impl ReluLayer {
    /// Surviving ReLUs.
    #[must_use]
    pub fn n_relus(&self) -> usize {
        self.positions.kept().len()
    }

    /// Bits of either party that the sign tests read, all ReLUs together.
    #[must_use]
    pub fn n_sign_bits(&self) -> usize {
        self.n_relus() * self.sign_bits as usize
    }

    /// Bytes of one ring element of the result for each surviving ReLU.
    #[must_use]
    pub fn result_bytes(&self) -> usize {
        packed_bytes(self.n_relus(), self.ring_out.bits())
    }

    /// Bytes of one ring element of the result for each position without a ReLU.
    #[must_use]
    pub fn identity_bytes(&self) -> usize {
        packed_bytes(self.positions.removed().len(), self.ring_out.bits())
    }

    /// What the sign test adds of `accumulators`, one value for each ReLU: its low [`Self::sign_bits`] bits count.
    #[must_use]
    pub fn sign_values(&self, accumulators: &[u64]) -> Vec<u64> {
        let kept = self.positions.kept().iter();
        kept.map(|&i| accumulators[i as usize] >> self.truncated_bits)
            .collect()
    }
}

/// The low `n_bits` of each value, value after value, least significant first: inputs of a circuit.
pub fn bits_of(values: impl Iterator<Item = u64>, n_bits: u32) -> Vec<u8> {
    values
        .flat_map(|v| (0..n_bits).map(move |bit| (v >> bit & 1) as u8))
        .collect()
}
