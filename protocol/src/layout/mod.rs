//! What both drivers compute once from a plan and the options of a session: the ReLU layers, the argmax, who owns which OTs.

pub mod cost;

use std::sync::Arc;

use pi_model::plan::PublicPlan;
use pi_model::spec::OutputMode;

use crate::argmax::Argmax;
use crate::block::Block;
use crate::error::{Error, Result};
use crate::gc::{argmax_circuit, sign_circuit};
use crate::relu::Method;
use crate::relu::layer::ReluLayer;
use crate::ring::Ring;
use crate::session::options::SessionOptions;
use crate::transfers::ranges::{Counts, Purpose, Ranges};
use crate::wire::{Messages, Step};

/// Everything that follows from the plan and the options.
pub struct Layout {
    /// All layers but the last.
    pub relu_layers: Arc<[ReluLayer]>,
    /// Ring in which the logits are shared.
    pub output_ring: Ring,
    /// Logits.
    pub n_outputs: usize,
    /// The garbled argmax, if the class alone is opened.
    pub argmax: Option<Argmax>,
    options: SessionOptions,
    method: Method,
    ots: Ranges,
}

impl Layout {
    /// Lays out `plan` for sessions with these `options`.
    ///
    /// # Errors
    /// [`Error::Plan`] when a circuit cannot be built.
    pub fn new(plan: &PublicPlan, options: SessionOptions) -> Result<Self> {
        let graph = plan.graph();
        let mut relu_layers = Vec::new();
        for (layer, node) in graph.layers.iter().enumerate() {
            // Every table of layers here is indexed by the layer's number: all but the last must end in a ReLU layer.
            let is_last = layer + 1 == graph.layers.len();
            let Some(positions) = node.relu.as_ref().filter(|_| !is_last) else {
                if is_last && node.relu.is_none() {
                    break;
                }
                return Err(Error::Plan(format!(
                    "layer {layer} ('{}'): every layer but the last ends in a masked ReLU",
                    node.name
                )));
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
        let argmax = match plan.model().spec().output {
            OutputMode::Logits => None,
            OutputMode::Argmax => Some(Argmax {
                circuit: Arc::new(argmax_circuit(n_outputs, last.accumulator_bits as usize)?),
                layer: relu_layers.len(),
                n_classes: n_outputs,
                bits: last.accumulator_bits,
            }),
        };
        let output_ring = Ring::new(plan.accumulator_bits(graph.layers.len() - 1));
        Ok(Self::assemble(
            relu_layers.into(),
            (output_ring, n_outputs),
            argmax,
            options,
        ))
    }

    /// The same plan in sessions with other options; nothing large is computed or copied.
    #[must_use]
    pub fn with_options(&self, options: SessionOptions) -> Self {
        let output = (self.output_ring, self.n_outputs);
        Self::assemble(
            self.relu_layers.clone(),
            output,
            self.argmax.clone(),
            options,
        )
    }

    fn assemble(
        relu_layers: Arc<[ReluLayer]>,
        (output_ring, n_outputs): (Ring, usize),
        argmax: Option<Argmax>,
        options: SessionOptions,
    ) -> Self {
        let n_relus: usize = relu_layers.iter().map(ReluLayer::n_relus).sum();
        let method = Method::new(options.garbling, n_relus);
        let of_argmax = argmax.as_ref().map_or(Counts::default(), Argmax::n_ots);
        let counts = relu_layers.iter().map(|relu| method.n_ots(relu));
        let ots = Ranges::new(counts.chain([of_argmax]));
        Self {
            relu_layers,
            output_ring,
            n_outputs,
            argmax,
            options,
            method,
            ots,
        }
    }

    /// The options that it was laid out for.
    pub const fn options(&self) -> SessionOptions {
        self.options
    }

    /// How ReLUs are computed.
    pub const fn method(&self) -> Method {
        self.method
    }

    /// Which OTs of a batch belong to whom; the layer behind the ReLU layers is the argmax.
    pub const fn ots(&self) -> &Ranges {
        &self.ots
    }

    /// What the OTs in which the server receives are for; none if there are none.
    pub fn server_receives(&self) -> Option<Purpose> {
        (self.ots.n_to_server() > 0).then(|| self.method.purpose())
    }

    /// Surviving ReLUs of one inference.
    #[must_use]
    pub fn n_relus(&self) -> usize {
        self.relu_layers.iter().map(ReluLayer::n_relus).sum()
    }

    /// Whether the server garbles circuits.
    #[must_use]
    pub fn has_circuits(&self) -> bool {
        self.argmax.is_some() || self.n_relus() > 0 && self.method.has_circuits()
    }

    /// What is sent for all circuits of a batch, in no layer.
    pub(crate) fn circuit_messages(&self) -> Messages {
        let n_bytes = if self.has_circuits() { Block::BYTES } else { 0 };
        [(Step::HashKey, n_bytes)].into()
    }

    /// Index of the last layer, which keeps no ReLU.
    #[must_use]
    pub fn last_layer(&self) -> usize {
        self.relu_layers.len()
    }
}
