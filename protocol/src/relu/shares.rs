//! The client's shares of one layer of one inference, from which any method prepares its kept ReLUs.

use pi_model::relu_set::gather;
use zeroize::Zeroizing;

use super::layer::ReluLayer;
use crate::ring::{ClientShare, Share};

/// See the module.
pub struct Shares<'a> {
    /// y_c, at all positions.
    pub accumulators: &'a [u64],
    /// y'_c at the kept positions.
    pub truncated: ClientShare,
    /// r_next at the kept positions.
    pub next_mask: ClientShare,
}

impl<'a> Shares<'a> {
    /// The shares, and y'_c - r_next at the removed positions: what the server needs there, and all that it needs.
    pub fn new(relu: &ReluLayer, accumulators: &'a [u64], next_mask: &[u64]) -> (Self, Vec<u64>) {
        let ring = relu.ring_out;
        let truncated = accumulators
            .iter()
            .map(|&y| ring.reduce(relu.ring.truncate_client(y, relu.truncated_bits)));
        let truncated = Zeroizing::new(truncated.collect::<Vec<u64>>());
        let removed = relu.positions.removed().iter();
        let identity = removed.map(|&i| ring.sub(truncated[i as usize], next_mask[i as usize]));
        let shares = Self {
            accumulators,
            truncated: Share::new(gather(&truncated, relu.positions.kept())),
            next_mask: Share::new(gather(next_mask, relu.positions.kept())),
        };
        (shares, identity.collect())
    }
}
