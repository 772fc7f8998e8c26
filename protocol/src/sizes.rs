//! Orders and sizes that both drivers and the cost prediction share.

use pi_model::plan::{PublicPlan, ResponsePlan, RingPlan};

use crate::block::Block;
use crate::error::Result;
use crate::he::RlweParams;
use crate::session::Nonce;

/// The first layer that reads a source: its messages are booked there.
#[must_use]
pub fn layer_of_source(plan: &PublicPlan, source: usize) -> usize {
    let layers = &plan.graph().layers;
    layers
        .iter()
        .position(|l| l.convs.iter().any(|c| c.source == source))
        .unwrap_or(0)
}

/// Bytes of one response.
#[must_use]
pub fn response_bytes(plan: &PublicPlan, response: &ResponsePlan) -> usize {
    let down_bits = plan.sources()[response.source].ring.down_bits();
    plan.packing(response).response_bytes(down_bits)
}

/// The identity of one OT set-up, unique under the session's nonces.
#[must_use]
pub fn ot_session(what: &str, client: &Nonce, server: &Nonce, batch: u32) -> [u8; 32] {
    crate::prg::public_seed(
        &format!("OT session of {what}"),
        client,
        server,
        &[batch.into()],
    )
}

/// Where the hash of `what` starts in a batch: public, fixed by both nonces.
#[must_use]
pub fn hash_start(what: &str, client: &Nonce, server: &Nonce, batch: u32) -> Block {
    let seed = crate::prg::public_seed(what, client, server, &[batch.into()]);
    Block::from_le_bytes(*seed.first_chunk().unwrap_or(&[0; 16]))
}

/// The encryption parameters of a ring.
///
/// # Errors
/// [`crate::Error::Plan`] when they are not supported.
pub fn rlwe(ring: RingPlan) -> Result<RlweParams> {
    RlweParams::new(
        ring.share_bits,
        ring.scale_bits,
        ring.noise_dropped_bits,
        ring.response_dropped_bits,
    )
}
