//! Linear layers: masks prepared under encryption offline, plain integer convolutions on the server's shares online.
//!
//! Offline, for every *source* (a tensor, perhaps pooled, that linear layers read) the client sends noise bits and corrections;
//! from these and public seeds both know a ciphertext of the client's mask r. For every *response* (one or several convolutions
//! that go to one layer) the server answers with an encryption of W r - s, s its own fresh mask. Online the server computes
//! W (x - r) + s: the client's W r - s and this add up to W x. The encryption itself is in [`crate::he`].
//!
//! Security: SECURITY.md 4. A source's key serves the session; its noise and the seed of c1 serve one batch, whose number is in their names.

pub(crate) mod check;
pub(crate) mod client;
mod masks;
pub(crate) mod server;

use pi_model::bits::packed_bytes;
use pi_model::plan::{PublicPlan, ResponsePlan, RingPlan};

use crate::error::Result;
use crate::he::{self, RlweParams};
use crate::layout::Layout;
use crate::wire::ledger::Work;
use crate::wire::{Messages, Step};

/// The first layer that reads a source or a band of one: its messages are booked there.
pub(crate) fn layer_of_source(plan: &PublicPlan, source: usize) -> usize {
    let (layers, source) = (&plan.graph().layers, plan.sources()[source].source);
    layers
        .iter()
        .position(|l| l.convs.iter().any(|c| c.source == source))
        .unwrap_or(0)
}

/// The client's keys, in the set-up.
pub(crate) fn key_messages(plan: &PublicPlan) -> Messages {
    let n_bytes = plan.sources().len() * he::public_key_bytes();
    [(Step::PublicKeys, n_bytes)].into()
}

/// What is sent for a source, for the whole batch.
pub(crate) fn source_messages(plan: &PublicPlan, source: usize) -> Messages {
    let source = &plan.sources()[source];
    let (up_bits, share_bits) = (source.ring.up_bits(), source.ring.share_bits);
    [
        (Step::HeNoise, source.packing.noise_bytes(up_bits)),
        (
            Step::HeCorrections,
            source.packing.correction_bytes(share_bits),
        ),
    ]
    .into()
}

/// What is sent for a response, for the whole batch.
pub(crate) fn response_messages(plan: &PublicPlan, response: &ResponsePlan) -> Messages {
    let down_bits = plan.sources()[response.source].ring.down_bits();
    let n_bytes = plan.packing(response).response_bytes(down_bits);
    [(Step::HeResponse, n_bytes)].into()
}

/// What is sent of an inference's input, in layer 0.
pub(crate) fn input_messages(plan: &PublicPlan) -> Messages {
    let n_inputs = plan.graph().tensors[0].n_values();
    [(Step::Input, packed_bytes(n_inputs, plan.tensor_bits(0)))].into()
}

/// What is sent of logits that are opened, in the last layer.
pub(crate) fn output_messages(layout: &Layout) -> Messages {
    let n_bytes = packed_bytes(layout.n_outputs, layout.output_ring.bits());
    [(Step::Logits, n_bytes)].into()
}

/// Work of so many polynomials.
fn ciphertexts(n: usize) -> Work {
    Work {
        n_ciphertexts: n as u64,
        ..Work::default()
    }
}

/// Work for a source.
pub(crate) fn source_work(plan: &PublicPlan, source: usize) -> Work {
    ciphertexts(plan.sources()[source].packing.n_polys())
}

/// Work for a response.
pub(crate) fn response_work(plan: &PublicPlan, response: &ResponsePlan) -> Work {
    ciphertexts(plan.packing(response).n_polys())
}

/// The encryption parameters of a ring.
///
/// # Errors
/// [`crate::Error::Plan`] when they are not supported.
fn rlwe(ring: RingPlan) -> Result<RlweParams> {
    RlweParams::new(
        ring.share_bits,
        ring.scale_bits,
        ring.noise_dropped_bits,
        ring.response_dropped_bits,
    )
}
