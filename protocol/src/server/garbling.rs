//! Garbling one inference: from what the client sent to tables for it and material for the online phase.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::{ArgmaxMaterial, LayerMaterial, Prepared};
use crate::block::{Block, Delta, ZeroLabel};
use crate::error::Result;
use crate::gc::{Garbled, GarblingMode, Instances, garble, label_hash};
use crate::layout::{Layout, ReluLayer, instances};
use crate::ledger::{Ledger, Phase};
use crate::prg::Seed;
use crate::relu::server_products;
use crate::share::{Server, Share};

/// What the client sent for one inference in flight 3.
pub(super) struct Received {
    /// For each ReLU layer, then the argmax: derandomisation bits.
    pub(super) label_bits: Vec<Vec<u8>>,
    /// For each ReLU layer: multiplexer corrections.
    pub(super) corrections: Vec<Vec<u64>>,
    /// For each ReLU layer: y'_c - r_next at the positions without a ReLU.
    pub(super) identity: Vec<Share<Server>>,
}

/// What the server sends for one inference in flight 4, beside what it keeps.
pub(super) struct Garbling {
    pub(super) tables: Vec<Vec<u8>>,
    pub(super) prepared: Prepared,
}

/// The server's half of the correlated OTs of a batch, in the order of inferences, layers, ReLUs, bits.
pub(super) struct Transfers {
    pub(super) delta: Arc<Delta>,
    pub(super) labels: Zeroizing<Vec<Block>>,
    /// What the client still needs for its labels; empty unless OTs are silent.
    pub(super) reply: Vec<u8>,
    pub(super) choices: Zeroizing<Vec<u8>>,
    pub(super) products: Zeroizing<Vec<u64>>,
}

impl LayerMaterial {
    pub(super) fn without_relus(identity: Share<Server>) -> Self {
        Self {
            identity,
            choices: Zeroizing::default(),
            products: Share::new(vec![]),
            input_labels: Zeroizing::default(),
            hashes: Default::default(),
        }
    }
}

#[allow(
    clippy::too_many_arguments,
    reason = "the pieces of one inference, each used once"
)]
pub(super) fn garble_inference(
    ledger: &mut Ledger,
    layout: &Layout,
    transfers: &Transfers,
    received: Received,
    masks: Vec<Share<Server>>,
    start_key: Block,
    labels: &Seed,
    mode: GarblingMode,
    batch: u32,
    index: usize,
) -> Result<Garbling> {
    let zero_labels = |at: usize, bits: &[u8]| -> Zeroizing<Vec<ZeroLabel>> {
        let pairs = transfers.labels[at..at + bits.len()].iter().zip(bits);
        Zeroizing::new(
            pairs
                .map(|(&q, &d)| ZeroLabel::from_cot(q, d, &transfers.delta))
                .collect(),
        )
    };
    let mut at_label = index * layout.n_labels();
    let mut at_product = index * layout.n_relus();
    let mut garbling = Garbling {
        tables: vec![],
        prepared: Prepared {
            batch,
            index,
            kept: false,
            delta: transfers.delta.clone(),
            masks,
            layers: vec![],
            argmax: None,
        },
    };
    let inputs = layout
        .relu_layers
        .iter()
        .zip(received.corrections)
        .zip(received.identity)
        .zip(&received.label_bits);
    for (((relu, corrections), identity), bits) in inputs {
        let at_label_of_layer = at_label;
        at_label += bits.len();
        let range = at_product..at_product + relu.n_relus();
        at_product = range.end;
        if range.is_empty() {
            garbling.tables.push(vec![]);
            garbling
                .prepared
                .layers
                .push(LayerMaterial::without_relus(identity));
            continue;
        }
        let choices = Zeroizing::new(transfers.choices[range.clone()].to_vec());
        let products = ledger.time_of_layer(Phase::Offline, "multiplex", relu.layer, || {
            let received = Zeroizing::new(
                transfers.products[range]
                    .iter()
                    .map(|&v| relu.ring_out.reduce(v))
                    .collect::<Vec<_>>(),
            );
            Share::new(server_products(
                relu.ring_out,
                &choices,
                &received,
                &corrections,
            ))
        });
        let (garbled, hashes) =
            ledger.time_of_layer(Phase::Offline, "garble", relu.layer, || {
                let (circuit, n_relus) = (&relu.circuit, relu.n_relus());
                let signs = instances(circuit, n_relus, start_key, index, relu.layer, mode)?;
                let zeros = zero_labels(at_label_of_layer, bits);
                garble_signs(relu, &signs, transfers, labels, &zeros, &choices)
            })?;
        garbling.tables.push(garbled.tables);
        garbling.prepared.layers.push(LayerMaterial {
            identity,
            choices,
            products,
            input_labels: garbled.garbler_zero,
            hashes,
        });
    }
    if let (Some(argmax), Some(bits)) = (&layout.argmax, received.label_bits.last()) {
        let last = layout.last_layer();
        let garbled = ledger.time_of_layer(Phase::Offline, "garble", last, || {
            let circuit = instances(&argmax.circuit, 1, start_key, index, last, mode)?;
            garble(
                &circuit,
                &transfers.delta,
                labels,
                &zero_labels(at_label, bits),
                None,
            )
        })?;
        let decode = garbled
            .output_zero
            .iter()
            .map(|zero| zero.colour())
            .collect();
        garbling.tables.push(garbled.tables);
        garbling.prepared.argmax = Some(ArgmaxMaterial {
            labels: garbled.garbler_zero,
            decode,
        });
    }
    Ok(garbling)
}

type Hashes = [Zeroizing<Vec<u64>>; 2];

/// Garbles the sign tests of a layer so that the client sees the colour `[y >= 0]` xor m: the top bit is 1 for a negative y,
/// so the zero-label of the output has the colour 1 xor m.
fn garble_signs(
    relu: &ReluLayer,
    signs: &Instances<'_>,
    transfers: &Transfers,
    labels: &Seed,
    evaluator_zero: &[ZeroLabel],
    choices: &[u8],
) -> Result<(Garbled, Hashes)> {
    let colours = Zeroizing::new(choices.iter().map(|m| m ^ 1).collect::<Vec<u8>>());
    let garbled = garble(
        signs,
        &transfers.delta,
        labels,
        evaluator_zero,
        Some(&colours),
    )?;
    let hashes = label_hash(
        signs,
        &transfers.delta,
        &garbled.output_zero,
        relu.ring_out.bits(),
    )?;
    Ok((garbled, hashes))
}
