//! The plan: how a model is run for batches of a given size. Both parties compute it from the same public model.
//!
//! [`PublicPlan`] is all that the client may see; [`Plan`] adds the weights. Their agreement is checked by
//! [`PublicPlan::hash`], which each side computes for itself.
//!
//! Two rings: every tensor lives in Z_2^52, except those that the last layer reads. The last layer's output is opened, so
//! its homomorphic error would be a noisy linear form in the weights; there the ring has only the bits that the logits
//! need, 24 to 32, and leaves h = 48 to 40 below. The error is 0 except with probability about 2^(16-h) a logit.

mod bands;
mod digest;
mod explain;
mod sources;

use std::borrow::Cow;
use std::sync::Arc;

use serde::Serialize;

use crate::artifact::Model;
use crate::error::{ModelError, Result};
use crate::graph::Graph;
use crate::packing::{
    CoefficientBits, GuestSpec, PackingChoice, PackingGoal, ResponsePacking, SourcePacking,
};
use crate::public::PublicModel;

pub use bands::Region;
pub use explain::Explanation;

/// Degree N of the RLWE ring.
pub const DEGREE: usize = 4096;
/// Bits of the RLWE modulus Q = 2^72.
pub const MODULUS_BITS: u32 = 72;
/// Largest expected number of spoiled values in one inference that a plan accepts.
pub const MAX_FAILURES: f64 = 1e-3;
/// Most bits of the last accumulator.
pub const MAX_OUTPUT_BITS: u32 = 32;
/// Largest batch that can be prepared at once.
pub const MAX_BATCH: usize = 64;

/// Rings of one source and of the accumulators that it feeds: Q = 2^(k + h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RingPlan {
    /// Bits k of the shares.
    pub share_bits: u32,
    /// Bits h below them in a ciphertext.
    pub scale_bits: u32,
    /// Low bits of the noise that are not sent (lambda).
    pub noise_dropped_bits: u32,
    /// Low bits of a response that are not sent (d).
    pub response_dropped_bits: u32,
}

impl RingPlan {
    /// For every tensor but those that the last layer reads: 14 bits up and 56 down for each coefficient.
    pub const INNER: Self = Self {
        share_bits: 52,
        scale_bits: 20,
        noise_dropped_bits: 6,
        response_dropped_bits: 16,
    };
    /// For what the last layer reads, whose output has `output_bits`: h - 6 bits up and 60 down for each coefficient.
    #[must_use]
    pub const fn opened(output_bits: u32) -> Self {
        let share_bits = if output_bits < 24 { 24 } else { output_bits };
        Self {
            share_bits,
            scale_bits: MODULUS_BITS - share_bits,
            noise_dropped_bits: 6,
            response_dropped_bits: 12,
        }
    }

    /// Bits of everything that travels for a source and its responses.
    #[must_use]
    pub const fn bits(&self) -> CoefficientBits {
        CoefficientBits {
            share: self.share_bits,
            up: self.up_bits(),
            down: self.down_bits(),
        }
    }

    /// Bits for each coefficient of a noise message.
    #[must_use]
    pub const fn up_bits(&self) -> u32 {
        self.scale_bits - self.noise_dropped_bits
    }

    /// Bits for each coefficient of a response.
    #[must_use]
    pub const fn down_bits(&self) -> u32 {
        MODULUS_BITS - self.response_dropped_bits
    }
}

/// One source, or one band of it: its ring, and its place in polynomials.
#[derive(Clone, Debug)]
pub struct SourcePlan {
    /// Index of the source in the graph.
    pub source: usize,
    /// The part of the source's map.
    pub band: Region,
    /// Its ring and that of the accumulators it feeds.
    pub ring: RingPlan,
    /// Where its values lie.
    pub packing: SourcePacking,
    /// The source of which each guest is a second encryption; all of them come before this one.
    pub guests: Vec<usize>,
}

/// One response: what it answers, and where its outputs belong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ResponsePlan {
    /// Index among the sources of the plan.
    pub source: usize,
    /// Index among [`SourcePacking::responses`].
    pub response: usize,
    /// The layer to whose accumulator it belongs.
    pub layer: usize,
    /// The convolutions of that layer which it sums: the one that reads the source, then its guests.
    pub convs: Vec<usize>,
    /// The outputs to which it adds: all, unless its source is a band.
    pub out: Region,
}

/// Everything about a run that both parties know.
#[derive(Clone, Debug)]
pub struct PublicPlan {
    model: PublicModel,
    batch: usize,
    goal: PackingGoal,
    sources: Vec<SourcePlan>,
    responses: Vec<ResponsePlan>,
    output_bits: u32,
    tensor_bits: Vec<u32>,
    expected_failures: f64,
    hash: [u8; 32],
}

#[derive(Serialize)]
struct Hashed<'a> {
    planner_version: u32,
    batch: usize,
    goal: PackingGoal,
    rings: Vec<RingPlan>,
    packing: Vec<&'a PackingChoice>,
    guests: Vec<&'a [GuestSpec]>,
    bands: Vec<(usize, Region)>,
    responses: &'a [ResponsePlan],
}

impl PublicPlan {
    /// Plans `model` for batches of `batch` inferences and the default goal.
    ///
    /// # Errors
    /// As [`Self::with_goal`].
    pub fn new(model: &PublicModel, batch: usize) -> Result<Self> {
        Self::with_goal(model, batch, PackingGoal::DEFAULT)
    }

    /// Plans `model` for batches of `batch` inferences, packed by `goal`.
    ///
    /// # Errors
    /// [`ModelError::Plan`] when a bound is not kept, saying which and what to change.
    pub fn with_goal(model: &PublicModel, batch: usize, goal: PackingGoal) -> Result<Self> {
        if !(1..=MAX_BATCH).contains(&batch) {
            return Err(ModelError::Plan(format!(
                "a batch of {batch}; 1 to {MAX_BATCH} inferences can be prepared at once"
            )));
        }
        let graph = model.graph();
        let opened = opened_tensors(graph)?;
        let output_ring = RingPlan::opened(graph.output_bits());
        let ring_of = |tensor: usize| {
            if opened.contains(&tensor) {
                output_ring
            } else {
                RingPlan::INNER
            }
        };
        check_input(model)?;
        let (sources, responses) = sources::plan(graph, batch, &goal, ring_of)?;
        let tensor_bits = (0..graph.tensors.len())
            .map(|t| ring_of(t).share_bits)
            .collect();
        let expected_failures = expected_failures(graph);
        if expected_failures > MAX_FAILURES {
            return Err(ModelError::Plan(format!(
                "{expected_failures:.1e} spoiled values are expected in one inference, more than {MAX_FAILURES:.0e}: use fewer weight or activation bits, or a smaller network"
            )));
        }
        let mut plan = Self {
            model: model.clone(),
            batch,
            goal,
            sources,
            responses,
            output_bits: output_ring.share_bits,
            tensor_bits,
            expected_failures,
            hash: [0; 32],
        };
        plan.hash = plan.compute_hash()?;
        Ok(plan)
    }

    fn compute_hash(&self) -> Result<[u8; 32]> {
        let hashed = Hashed {
            planner_version: 3,
            batch: self.batch,
            goal: self.goal,
            rings: self.sources.iter().map(|s| s.ring).collect(),
            bands: self.sources.iter().map(|s| (s.source, s.band)).collect(),
            packing: self.sources.iter().map(|s| s.packing.choice()).collect(),
            guests: self
                .sources
                .iter()
                .map(|s| s.packing.spec().guests.as_slice())
                .collect(),
            responses: &self.responses,
        };
        let mut hasher = blake3::Hasher::new_derive_key("private inference 2026 public plan v1");
        for part in [
            self.model.to_json(),
            serde_json::to_vec(&hashed).map_err(|e| ModelError::Plan(e.to_string()))?,
        ] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(&part);
        }
        digest::graph(self.graph(), &mut hasher);
        Ok(*hasher.finalize().as_bytes())
    }

    /// The model without its weights.
    #[must_use]
    pub const fn model(&self) -> &PublicModel {
        &self.model
    }

    /// The layers.
    #[must_use]
    pub const fn graph(&self) -> &Graph {
        self.model.graph()
    }

    /// Inferences prepared at once.
    #[must_use]
    pub const fn batch(&self) -> usize {
        self.batch
    }

    /// The sources in the order of the graph, each in its bands.
    #[must_use]
    pub fn sources(&self) -> &[SourcePlan] {
        &self.sources
    }

    /// What the packings were chosen for.
    #[must_use]
    pub const fn goal(&self) -> PackingGoal {
        self.goal
    }

    /// Every response, in the order in which they are sent: source by source.
    #[must_use]
    pub fn responses(&self) -> &[ResponsePlan] {
        &self.responses
    }

    /// Packing of `response`.
    #[must_use]
    pub fn packing(&self, response: &ResponsePlan) -> &ResponsePacking {
        &self.sources[response.source].packing.responses()[response.response]
    }

    /// What the outputs of `response` are shifted left by, to the scale of the accumulator.
    #[must_use]
    fn shift(&self, response: &ResponsePlan) -> u32 {
        let convs = &self.graph().layers[response.layer].convs;
        let shifts = response.convs.iter().map(|&conv| convs[conv].shift);
        shifts.min().unwrap_or(0)
    }

    /// Adds `values`, the outputs of `response` in (B, O, rows, columns) order, to `sums`, those of its layer for the whole batch.
    pub fn add(&self, response: &ResponsePlan, sums: &mut [u64], values: &[u64]) {
        let conv = &self.graph().layers[response.layer].convs[response.convs[0]];
        let shift = self.shift(response);
        let width = response.out.size[1];
        let starts = response.out.lines(conv.out_size);
        for (start, line) in starts.zip(values.chunks_exact(width)) {
            for (sum, value) in sums[start..start + width].iter_mut().zip(line) {
                *sum = sum.wrapping_add(value << shift);
            }
        }
    }

    /// Bits of the ring in which tensor `tensor` is shared.
    #[must_use]
    pub fn tensor_bits(&self, tensor: usize) -> u32 {
        self.tensor_bits[tensor]
    }

    /// Bits of the ring in which the accumulator of `layer` is shared.
    #[must_use]
    pub fn accumulator_bits(&self, layer: usize) -> u32 {
        if layer + 1 == self.graph().layers.len() {
            self.output_bits
        } else {
            RingPlan::INNER.share_bits
        }
    }

    /// Expected number of values that a wrap of the truncation spoils, in one inference, by the calibrated ranges.
    #[must_use]
    pub const fn expected_failures(&self) -> f64 {
        self.expected_failures
    }

    /// BLAKE3 of the canonical encoding of the public model and of everything planned.
    #[must_use]
    pub const fn hash(&self) -> [u8; 32] {
        self.hash
    }

    /// Fraction bits of the logits.
    #[must_use]
    pub fn logit_fraction_bits(&self) -> u32 {
        self.graph().layers.last().map_or(0, |l| l.fraction_bits)
    }
}

/// Bits of the ring in which the input is shared.
#[must_use]
pub fn input_bits(graph: &Graph) -> u32 {
    let last = graph.layers.last();
    if last.is_some_and(|last| last.reads(graph).any(|tensor| tensor == 0)) {
        RingPlan::opened(graph.output_bits()).share_bits
    } else {
        RingPlan::INNER.share_bits
    }
}

/// Whether every input within the model's range has a place in its ring.
fn check_input(model: &PublicModel) -> Result<()> {
    let bits = input_bits(model.graph());
    let scale = f64::from(model.activation_fraction_bits()).exp2();
    let largest = model.spec().input.largest() * scale;
    if largest < f64::from(bits - 1).exp2() {
        return Ok(());
    }
    Err(ModelError::op(
        "input",
        format!(
            "its largest values need {:.0} bits, more than {bits}: scale inputs down, and the first weights up",
            largest.log2().floor() + 2.0
        ),
    ))
}

/// Tensors that the last layer reads, which nothing else may read.
fn opened_tensors(graph: &Graph) -> Result<Vec<usize>> {
    let Some((last, others)) = graph.layers.split_last() else {
        return Err(ModelError::Plan("it has no layers".into()));
    };
    let opened: Vec<usize> = last.reads(graph).collect();
    if last.accumulator_bits > MAX_OUTPUT_BITS {
        return Err(ModelError::Plan(format!(
            "the output needs {} bits, more than {}: use fewer fraction bits in the last layer's weights",
            last.accumulator_bits, MAX_OUTPUT_BITS
        )));
    }
    if others
        .iter()
        .any(|l| l.reads(graph).any(|t| opened.contains(&t)))
    {
        return Err(ModelError::Plan("a tensor that the last layer reads is also read by another layer: put a masked_relu with an empty mask in front of the last layer".into()));
    }
    Ok(opened)
}

/// Sum over all truncated values of the probability |y| / 2^k that the truncation wraps, by the calibrated means.
fn expected_failures(graph: &Graph) -> f64 {
    let ring = f64::from(RingPlan::INNER.share_bits);
    let truncated = graph.layers.iter().filter(|l| l.truncated_bits > 0);
    truncated
        .map(|l| l.shape.n_values() as f64 * (f64::from(l.mean_bits) - ring).exp2())
        .fold(0.0, |sum, part| sum + part)
}

/// A public plan and the weights: what the server has.
#[derive(Clone)]
pub struct Plan {
    public: Arc<PublicPlan>,
    model: Arc<Model>,
}

impl Plan {
    /// Plans `model` for batches of `batch` inferences and the default goal.
    ///
    /// # Errors
    /// As [`PublicPlan::with_goal`].
    pub fn new(model: Arc<Model>, batch: usize) -> Result<Self> {
        Self::with_goal(model, batch, PackingGoal::DEFAULT)
    }

    /// Plans `model` for batches of `batch` inferences, packed by `goal`.
    ///
    /// # Errors
    /// As [`PublicPlan::with_goal`].
    pub fn with_goal(model: Arc<Model>, batch: usize, goal: PackingGoal) -> Result<Self> {
        Ok(Self {
            public: Arc::new(PublicPlan::with_goal(model.public(), batch, goal)?),
            model,
        })
    }

    /// The weights of `response` in the order that its packing takes, at a common scale.
    #[must_use]
    pub fn weights(&self, response: &ResponsePlan) -> Cow<'_, [i32]> {
        let convs = &self.public.graph().layers[response.layer].convs;
        if let [conv] = response.convs[..] {
            return Cow::Borrowed(&self.model.weights(&convs[conv]).weight);
        }
        let least = self.public.shift(response);
        let mut weights = Vec::new();
        for &conv in &response.convs {
            let shift = convs[conv].shift - least;
            let own = &self.model.weights(&convs[conv]).weight;
            weights.extend(own.iter().map(|&w| w << shift));
        }
        Cow::Owned(weights)
    }

    /// What the client has too.
    #[must_use]
    pub const fn public(&self) -> &Arc<PublicPlan> {
        &self.public
    }

    /// The model.
    #[must_use]
    pub const fn model(&self) -> &Arc<Model> {
        &self.model
    }
}
