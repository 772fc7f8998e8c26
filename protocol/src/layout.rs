//! Where the labels, the multiplexer's OTs and the garbled circuits of a plan lie: computed once, used by both drivers.

use std::sync::Arc;

use pi_model::bits::packed_bytes;
use pi_model::plan::PublicPlan;
use pi_model::relu_set::ReluSet;
use pi_model::spec::OutputMode;

use crate::block::Block;
use crate::error::{Error, Result};
use crate::gc::digits::{DigitTests, n_digits};
use crate::gc::{Circuit, GarblingMode, Instances, argmax_circuit, sign_circuit};
use crate::hash::TweakBase;
use crate::ledger::Work;
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

    /// Labels of either party.
    #[must_use]
    pub fn n_labels(&self) -> usize {
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

    /// The sign tests of this layer in one inference, garbled by the client.
    ///
    /// # Errors
    /// [`Error::Misuse`] for indices past any plan.
    pub fn digit_tests(&self, start_key: Block, inference: usize) -> Result<DigitTests> {
        Ok(DigitTests {
            sign_bits: self.sign_bits,
            n_instances: self.n_relus(),
            start_key,
            tweak: TweakBase::new(inference, self.layer)?,
        })
    }

    /// Bytes of the bits of the sign test, or of as many besides, for each surviving ReLU.
    #[must_use]
    pub fn bits_bytes(&self) -> usize {
        packed_bytes(self.n_relus(), self.sign_bits)
    }

    /// The top bit of each value of as many bits as the sign test has.
    #[must_use]
    pub fn tops(&self, values: &[u64]) -> Vec<u8> {
        let top = self.sign_bits - 1;
        values.iter().map(|v| (v >> top) as u8 & 1).collect()
    }

    /// Work of this layer in one inference if the client garbles it. A digit counts as one gate.
    #[must_use]
    pub fn digit_work(&self) -> Work {
        Work {
            n_and_gates: (self.n_relus() * n_digits(self.sign_bits)) as u64,
            n_ots: (self.n_labels() + self.n_relus()) as u64,
            ..Work::default()
        }
    }

    /// What the sign test adds of `accumulators`, one value for each ReLU: its low [`Self::sign_bits`] bits count.
    #[must_use]
    pub fn sign_values(&self, accumulators: &[u64]) -> Vec<u64> {
        let kept = self.positions.kept().iter();
        kept.map(|&i| accumulators[i as usize] >> self.truncated_bits)
            .collect()
    }

    /// The bits of `accumulators` that the sign test adds, ReLU after ReLU, least significant first.
    #[must_use]
    pub fn sign_inputs(&self, accumulators: &[u64]) -> Vec<u8> {
        bits_of(self.sign_values(accumulators).into_iter(), self.sign_bits)
    }
}

/// The garbled argmax of an output that opens the class alone.
pub struct Argmax {
    /// The circuit.
    pub circuit: Arc<Circuit>,
    /// Classes.
    pub n_classes: usize,
    /// Bits of the logits.
    pub bits: u32,
}

/// Everything that follows from the plan.
pub struct Layout {
    /// All layers but the last.
    pub relu_layers: Vec<ReluLayer>,
    /// Ring in which the logits are shared.
    pub output_ring: Ring,
    /// Logits.
    pub n_outputs: usize,
    /// The garbled argmax, if the class alone is opened.
    pub argmax: Option<Argmax>,
}

impl Layout {
    /// Lays out `plan`.
    ///
    /// # Errors
    /// [`Error::Plan`] when a circuit cannot be built.
    pub fn new(plan: &PublicPlan) -> Result<Self> {
        let graph = plan.graph();
        let mut relu_layers = Vec::new();
        for (layer, node) in graph.layers.iter().enumerate() {
            let Some(positions) = &node.relu else {
                continue;
            };
            relu_layers.push(ReluLayer {
                layer,
                positions: positions.clone(),
                sign_bits: node.sign_bits(),
                truncated_bits: node.truncated_bits,
                ring: Ring::new(plan.accumulator_bits(layer)),
                ring_out: Ring::new(plan.tensor_bits(layer + 1)),
                circuit: Arc::new(sign_circuit(node.sign_bits() as usize)?),
            });
        }
        let last = graph
            .layers
            .last()
            .ok_or_else(|| Error::Plan("it has no layers".into()))?;
        let n_outputs = last.shape.n_values();
        let argmax = match plan.model().spec().output.mode {
            OutputMode::Logits => None,
            OutputMode::Argmax => Some(Argmax {
                circuit: Arc::new(argmax_circuit(n_outputs, last.accumulator_bits as usize)?),
                n_classes: n_outputs,
                bits: last.accumulator_bits,
            }),
        };
        Ok(Self {
            relu_layers,
            output_ring: Ring::new(plan.accumulator_bits(graph.layers.len() - 1)),
            n_outputs,
            argmax,
        })
    }

    /// Labels of either party in one inference.
    #[must_use]
    pub fn n_labels(&self) -> usize {
        let relus: usize = self.relu_layers.iter().map(ReluLayer::n_labels).sum();
        relus + self.argmax.as_ref().map_or(0, Argmax::n_labels)
    }

    /// Surviving ReLUs of one inference.
    #[must_use]
    pub fn n_relus(&self) -> usize {
        self.relu_layers.iter().map(ReluLayer::n_relus).sum()
    }

    /// Correlated OTs of one inference in which the client is the receiver: a label each, or if it garbles ReLUs a product each.
    #[must_use]
    pub fn n_label_ots(&self, mode: GarblingMode) -> usize {
        match mode {
            GarblingMode::HalfGates | GarblingMode::ThreeHalves => self.n_labels(),
            GarblingMode::ClientDigits => {
                self.n_relus() + self.argmax.as_ref().map_or(0, Argmax::n_labels)
            }
        }
    }

    /// Correlated OTs of one inference in which the server is the receiver: a product each, or if the client garbles ReLUs a bit each.
    #[must_use]
    pub fn n_mux_ots(&self, mode: GarblingMode) -> usize {
        match mode {
            GarblingMode::HalfGates | GarblingMode::ThreeHalves => self.n_relus(),
            GarblingMode::ClientDigits => self.relu_layers.iter().map(ReluLayer::n_labels).sum(),
        }
    }

    /// Whether there are ReLUs that the client garbles.
    #[must_use]
    pub fn client_garbles(&self, mode: GarblingMode) -> bool {
        mode == GarblingMode::ClientDigits && self.n_relus() > 0
    }

    /// Whether the server garbles circuits.
    #[must_use]
    pub fn has_circuits(&self, mode: GarblingMode) -> bool {
        self.argmax.is_some() || self.n_relus() > 0 && !self.client_garbles(mode)
    }

    /// AND gates of one inference in `layer`.
    #[must_use]
    pub fn n_and(&self, layer: usize) -> usize {
        let argmax = self.argmax.as_ref();
        match self.relu_layers.get(layer) {
            Some(relu) => relu.n_relus() * relu.circuit.n_and(),
            None => argmax.map_or(0, |argmax| argmax.circuit.n_and()),
        }
    }

    /// The layer's number of the last layer.
    #[must_use]
    pub fn last_layer(&self) -> usize {
        self.relu_layers.len()
    }
}

impl Argmax {
    /// Labels of either party.
    #[must_use]
    pub fn n_labels(&self) -> usize {
        self.n_classes * self.bits as usize
    }

    /// The low bits of shares of the logits, logit after logit, least significant first.
    #[must_use]
    pub fn inputs(&self, shares: &[u64]) -> Vec<u8> {
        bits_of(shares.iter().copied(), self.bits)
    }
}

/// The instances of `circuit` in one layer of one inference, garbled as `mode` says.
///
/// # Errors
/// [`Error::Misuse`] for indices past any plan.
pub fn instances(
    circuit: &Circuit,
    n_instances: usize,
    start_key: Block,
    inference: usize,
    layer: usize,
    mode: GarblingMode,
) -> Result<Instances<'_>> {
    Ok(Instances {
        circuit,
        n_instances,
        start_key,
        tweak: TweakBase::new(inference, layer)?,
        mode,
    })
}

fn bits_of(values: impl Iterator<Item = u64>, n_bits: u32) -> Vec<u8> {
    values
        .flat_map(|v| (0..n_bits).map(move |bit| (v >> bit & 1) as u8))
        .collect()
}
