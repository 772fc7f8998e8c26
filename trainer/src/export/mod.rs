//! From a checkpoint to `model.json` and `model.safetensors`: quantise, calibrate, measure, write the card.
//!
//! Ranges: l_b = bit length of the largest |accumulator| over training images, plus 2 (sign and one
//! guard bit). Everything is measured with the plaintext executor, which runs the protocol's integers.

mod quantise;

use quantise::CLASSIFIER;
pub use quantise::{Precision, Quantised, quantise};

use crate::data::{Images, Normaliser};
use crate::error::{Error, Result};
use crate::net::{Mask, Net};
use pi_model::graph::Layer;
use pi_model::plan::{MAX_FAILURES, MAX_OUTPUT_BITS, RingPlan};
use pi_model::relu_set::ReluSet;
use pi_model::spec::{
    Accumulator, Card, FORMAT_VERSION, FixedPoint, InputSpec, ModelSpec, OutputMode,
};
use pi_model::{ConvWeights, Model, executor};
use rayon::prelude::*;
use std::collections::HashMap;

/// Widest accumulator that the model format takes; used until the ranges are known.
const WIDE_BITS: u32 = 40;

/// What the plaintext executor saw over a set of images.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Survey {
    /// Largest |accumulator| of each layer.
    pub max_accumulators: Vec<u64>,
    /// Accumulators out of range.
    pub n_range_violations: u64,
    /// Images classified as labelled.
    pub n_correct: usize,
    /// Images seen.
    pub n_images: usize,
}

impl Survey {
    /// Share of the images classified as labelled, percent.
    pub fn accuracy(&self) -> f64 {
        100.0 * self.n_correct as f64 / self.n_images.max(1) as f64
    }

    fn join(mut self, other: Survey) -> Survey {
        self.max_accumulators.resize(
            other
                .max_accumulators
                .len()
                .max(self.max_accumulators.len()),
            0,
        );
        for (a, b) in self
            .max_accumulators
            .iter_mut()
            .zip(&other.max_accumulators)
        {
            *a = (*a).max(*b);
        }
        self.n_range_violations += other.n_range_violations;
        self.n_correct += other.n_correct;
        self.n_images += other.n_images;
        self
    }
}

/// One image as rows of pixels with interleaved channels.
pub fn interleave(images: &Images, i: usize) -> Vec<u8> {
    let [c, h, w] = images.shape;
    let planes = images.image(i);
    (0..h * w)
        .flat_map(|p| (0..c).map(move |k| planes[k * h * w + p]))
        .collect()
}

/// Runs the plaintext executor over all images.
pub fn survey(model: &Model, images: &Images) -> Result<Survey> {
    let (spec, bits) = (
        model.public().spec(),
        model.public().activation_fraction_bits(),
    );
    let one = |i: usize| -> Result<Survey> {
        let failed = |e: pi_model::ModelError| Error::Export(e.to_string());
        let [_, h, w] = images.shape;
        let input = spec.input.quantise(&interleave(images, i), w, h, bits);
        let run = executor::run(model, &input.map_err(failed)?).map_err(failed)?;
        Ok(Survey {
            n_range_violations: run.n_range_violations,
            n_correct: usize::from(run.class() == usize::from(images.labels[i])),
            n_images: 1,
            max_accumulators: run.max_accumulators,
        })
    };
    (0..images.len())
        .into_par_iter()
        .map(one)
        .try_reduce(Survey::default, |a, b| Ok(a.join(b)))
}

/// All that a model is made of.
#[derive(Clone)]
pub struct Parts {
    /// The content of `model.json`.
    pub spec: ModelSpec,
    /// Mask of each masked ReLU.
    pub masks: HashMap<String, ReluSet>,
    /// Integer weights and biases.
    pub weights: HashMap<String, ConvWeights>,
}

impl Parts {
    /// The model, checked and ready to run.
    pub fn model(&self) -> Result<Model> {
        let Parts {
            spec,
            masks,
            weights,
        } = self.clone();
        Model::new(spec, masks, weights).map_err(|e| Error::Export(e.to_string()))
    }
}

/// A fixed-point model and what was measured on the way.
pub struct Exported {
    /// The model's parts, ranges calibrated; the card is still empty.
    pub parts: Parts,
    /// Over the calibration images, with the calibrated ranges.
    pub calibration: Survey,
    /// The precision that was used.
    pub precision: Precision,
    /// Fraction bits that the weights of each layer give up.
    pub drops: Vec<u32>,
}

/// What goes into `model.json` besides the operations.
pub struct Frame {
    /// Name under which the model is served.
    pub name: String,
    /// Pixel normalisation.
    pub normaliser: Normaliser,
    /// Class names.
    pub labels: Vec<String>,
}

/// Quantises and calibrates. Where so many values would be truncated that one might wrap, the layers
/// that matter most to that give up fraction bits of their weights; the classifier gives up some until
/// its accumulator fits.
pub fn export(
    net: &Net,
    masks: &[Mask],
    frame: &Frame,
    mut precision: Precision,
    calibration: &Images,
) -> Result<Exported> {
    let mut drops = vec![0; net.plan.len()];
    let ranges = loop {
        let bits = vec![WIDE_BITS; net.plan.len()];
        let wide = build(net, masks, frame, precision, (&bits, &drops), WIDE_BITS)?.model()?;
        let seen = survey(&wide, calibration)?;
        let layers = &wide.public().graph().layers;
        // A layer may be so quiet that all its bits would be truncated.
        let range = |(&m, l): (&u64, &Layer)| bit_range(m).max(l.truncated_bits + 2);
        let ranges: Vec<u32> = seen
            .max_accumulators
            .iter()
            .zip(layers)
            .map(range)
            .collect();
        if !drop_bits(layers, &ranges, &mut drops) {
            break ranges;
        }
    };
    let Some((&last, inner)) = ranges.split_last() else {
        return Err(Error::Export("the network has no layers".into()));
    };
    let most = precision.output_bits.min(MAX_OUTPUT_BITS);
    precision.classifier_drop += last.saturating_sub(most);
    // Rounding the classifier anew moves its largest output a little, perhaps over a power of two.
    loop {
        let mut parts = build(net, masks, frame, precision, (inner, &drops), most)?;
        let seen = survey(&parts.model()?, calibration)?;
        let range = seen.max_accumulators.last().map_or(0, |&m| bit_range(m));
        if range <= most {
            let numbers = parts.spec.fixed_point.take().unwrap_or_default();
            parts.spec.fixed_point = Some(with_output(numbers, range));
            return Ok(Exported {
                parts,
                calibration: seen,
                precision,
                drops,
            });
        }
        precision.classifier_drop += range - most;
    }
}

/// The numbers of a network whose last accumulator, the classifier's, has `bits`.
fn with_output(mut numbers: FixedPoint, bits: u32) -> FixedPoint {
    let range = Accumulator {
        bits,
        mean_bits: None,
    };
    numbers.accumulators.insert(CLASSIFIER.into(), range);
    numbers
}

/// Bits of an accumulator: its largest value's, the sign's and one to guard.
fn bit_range(max: u64) -> u32 {
    u64::BITS - max.leading_zeros() + 2
}

/// Raises the bits to be dropped until the expected number of wrapped truncations is half of what a plan
/// takes; false where nothing had to be dropped. A bit less of a layer's weights halves its part.
fn drop_bits(layers: &[Layer], ranges: &[u32], drops: &mut [u32]) -> bool {
    let truncated = layers.iter().zip(ranges).take(drops.len());
    let ring = f64::from(RingPlan::INNER.share_bits);
    let part = |(l, &bits): (&Layer, &u32)| match l.truncated_bits {
        0 => 0.0,
        _ => l.shape.n_values() as f64 * (f64::from(bits) - 1.0 - ring).exp2(),
    };
    let mut parts: Vec<f64> = truncated.map(part).collect();
    let mut dropped = false;
    while parts.iter().sum::<f64>() > MAX_FAILURES / 2.0 {
        let largest = (0..parts.len()).max_by(|&a, &b| parts[a].total_cmp(&parts[b]));
        let Some(l) = largest else { break };
        parts[l] /= 2.0;
        drops[l] += 1;
        dropped = true;
    }
    dropped
}

fn build(
    net: &Net,
    masks: &[Mask],
    frame: &Frame,
    precision: Precision,
    (bits, drops): (&[u32], &[u32]),
    last_bits: u32,
) -> Result<Parts> {
    let quantised = quantise(net, masks, precision, bits, drops)?;
    let [channels, height, width] = net.arch.input;
    let spec = ModelSpec {
        format_version: FORMAT_VERSION,
        name: frame.name.clone(),
        input: InputSpec {
            channels,
            height,
            width,
            mean: frame.normaliser.mean.clone(),
            std: frame.normaliser.std.clone(),
            range: None,
        },
        labels: frame.labels.clone(),
        output: OutputMode::Logits,
        ops: quantised.ops,
        fixed_point: Some(with_output(quantised.numbers, last_bits)),
        card: Card::default(),
    };
    Ok(Parts {
        spec,
        masks: quantised.masks,
        weights: quantised.weights,
    })
}
