//! Calibration and the choice of integers: from a float model and some images to an integer model.
//!
//! Weights get as many fraction bits as fit ([`Options::weight_bits`]); then the plaintext executor, which computes the protocol's
//! integers, runs on the images with wide ranges. Ranges: l_b = bit length of the largest |accumulator| seen, plus 2 (sign and one guard
//! bit). Where so many large values would be truncated that one might wrap, activations give up fraction bits: they are large, so that
//! they can spare them. Where that does not suffice, layers give up fraction bits of their weights. Where an accumulator is wider than the
//! format takes, or the last one wider than can be opened, both do. Then the images are run again.

mod check;
mod error;
mod image_set;
mod ranges;
#[cfg(test)]
mod tests;
mod weights;

use std::collections::BTreeMap;

use pi_model::graph::Layer;
use pi_model::plan::{MAX_FAILURES, MAX_OUTPUT_BITS, RingPlan};
use pi_model::spec::{Accumulator, FixedPoint, InputSpec, ModelSpec};
use pi_model::{FloatModel, Model, PublicModel};

pub use check::{Comparison, Difference, compare};
pub use error::{Error, Result};
pub use image_set::{Image, ImageSet};
pub use ranges::{Seen, survey};

use weights::Weights;

/// Fraction bits of activations, where none are given: most and fewest.
const ACTIVATION_BITS: [u32; 2] = [8, 4];
/// Most bits of an accumulator in the format.
const MAX_ACCUMULATOR_BITS: u32 = 40;

/// Numbers of the fixed-point network.
#[derive(Clone, Debug)]
pub struct Options {
    /// Fraction bits of every activation; if none are given, as many of 8 as leave the weights all of theirs, but 4 at least.
    pub activation_bits: Option<u32>,
    /// Bits of a weight with its sign, 2 to 16; where a filter reads a single channel, at least 12.
    pub weight_bits: u32,
    /// Most bits of the last accumulator, which is opened: [`MAX_OUTPUT_BITS`] or fewer.
    pub output_bits: u32,
    /// The command, for the model's card.
    pub command: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            activation_bits: None,
            weight_bits: 8,
            output_bits: MAX_OUTPUT_BITS,
            command: String::new(),
        }
    }
}

/// An integer model and how it came about.
#[derive(Debug)]
pub struct Quantised {
    /// The model, with calibrated ranges.
    pub model: Model,
    /// What was measured and given up.
    pub report: Report,
}

/// What was measured, and what was given up.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Images that were calibrated on.
    pub n_images: usize,
    /// Range of the accumulator of each layer, in the order in which they run.
    pub ranges: Vec<(String, Accumulator)>,
    /// Fraction bits that weights have, by operation.
    pub fraction_bits: BTreeMap<String, u32>,
    /// Fraction bits that weights gave up for ranges to fit, of those that did.
    pub dropped: BTreeMap<String, u32>,
    /// Truncated values that are expected to wrap in one inference.
    pub expected_failures: f64,
}

/// Makes an integer model of `model`, calibrated on `images`. `progress` is told after each image how many are done, and of how many;
/// it begins anew where the images have to be run again.
///
/// # Errors
/// [`Error::Layer`] naming the layer whose numbers do not fit, [`Error::Images`] naming an image, [`Error::Model`] where the network cannot
/// be run privately.
pub fn quantise(
    model: &FloatModel,
    images: &ImageSet,
    options: &Options,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Quantised> {
    weights::check_bits(options.weight_bits)?;
    if images.is_empty() {
        return Err(Error::named(
            "calibration",
            "there are no images to calibrate on; give some that look like those to come",
        ));
    }
    let mut input = model.spec.input.clone();
    if !input.takes_images() && input.range.is_none() {
        input.range = images.range();
    }
    let mut draft = Draft {
        model,
        input,
        activation_bits: options.activation_bits.unwrap_or(ACTIVATION_BITS[0]),
        fewest_bits: options.activation_bits.unwrap_or(ACTIVATION_BITS[1]),
        output_bits: options.output_bits.min(MAX_OUTPUT_BITS),
        weights: Weights::new(model, options.weight_bits)?,
        scales: BTreeMap::new(),
    };
    loop {
        let spec = draft.spec(BTreeMap::new());
        let public = PublicModel::new(spec.clone(), model.masks.clone())?;
        if draft.fit_constants(&public.graph().layers)? {
            continue;
        }
        let weights = draft.weights.round(public.graph());
        let wide = Model::new(spec, model.masks.clone(), weights.clone())?;
        let seen = survey(&wide, images, progress)?;
        let layers = &public.graph().layers;
        let ranges = ranges(layers, &seen);
        let parts = failures(layers, &ranges);
        if draft.fit_ranges(layers, &ranges, parts.clone())? {
            continue;
        }
        let named = layers.iter().map(|l| l.name.clone()).zip(ranges);
        let ranges: Vec<(String, Accumulator)> = named.collect();
        let mut spec = draft.spec(ranges.iter().cloned().collect());
        finish_card(&mut spec, model, images.len(), options);
        return Ok(Quantised {
            model: Model::new(spec, model.masks.clone(), weights)?,
            report: Report {
                n_images: images.len(),
                ranges,
                fraction_bits: draft.weights.bits().clone(),
                dropped: draft.weights.dropped().clone(),
                expected_failures: parts.iter().sum(),
            },
        });
    }
}

/// The card of what was made of a float model: nothing of its training is claimed.
fn finish_card(spec: &mut ModelSpec, model: &FloatModel, n_images: usize, options: &Options) {
    let card = &mut spec.card;
    if !options.command.is_empty() {
        card.recipe.push(options.command.clone());
    }
    let masks = || model.masks.values();
    card.relus_total = masks().map(|m| m.n_positions()).sum();
    card.relus_kept = masks().map(|m| m.kept().len()).sum();
    // They are of other integers, if there were any.
    (card.fixed_accuracy, card.range_violations) = (None, None);
    let note = format!("Ranges were calibrated on {n_images} images.");
    card.notes = match card.notes.trim_end() {
        "" => note,
        notes => format!("{notes} {note}"),
    };
}

/// A model whose fraction bits are still being lowered.
struct Draft<'a> {
    model: &'a FloatModel,
    /// Its input, with a range if it takes no images.
    input: InputSpec,
    activation_bits: u32,
    fewest_bits: u32,
    output_bits: u32,
    weights: Weights<'a>,
    /// Fraction bits of accumulators before they were lowered last.
    scales: BTreeMap<String, u32>,
}

impl Draft<'_> {
    fn spec(&self, accumulators: BTreeMap<String, Accumulator>) -> ModelSpec {
        ModelSpec {
            fixed_point: Some(FixedPoint {
                activation_fraction_bits: self.activation_bits,
                weight_fraction_bits: self.weights.bits().clone(),
                accumulators,
            }),
            input: self.input.clone(),
            ..self.model.spec.clone()
        }
    }

    /// Lowers accumulators whose constants would not fit; whether there were any.
    fn fit_constants(&mut self, layers: &[Layer]) -> Result<bool> {
        let mut lowered = false;
        for layer in layers {
            let excess = self.weights.excess(layer);
            if excess > 0 {
                self.lower(layer, excess, "it adds constants that are too large")?;
                lowered = true;
            }
        }
        Ok(lowered)
    }

    /// Lowers accumulators that are too wide; then activations, and then the accumulators that matter most to wraps of the truncation, until
    /// half as many are expected as a plan takes. Whether anything was lowered. `parts` are the expected wraps by layer.
    fn fit_ranges(
        &mut self,
        layers: &[Layer],
        ranges: &[Accumulator],
        mut parts: Vec<f64>,
    ) -> Result<bool> {
        let (last, output_bits) = (layers.len() - 1, self.output_bits);
        let most = |i: usize| match i == last {
            true => output_bits,
            false => MAX_ACCUMULATOR_BITS,
        };
        let excess = |i: usize| ranges[i].bits.saturating_sub(most(i));
        let less = self.spare(&parts, (0..layers.len()).map(excess).max().unwrap_or(0));
        self.activation_bits -= less;
        let mut drops: Vec<u32> = (0..layers.len())
            .map(|i| excess(i).saturating_sub(less))
            .collect();
        for (part, &drop) in parts.iter_mut().zip(&drops) {
            *part /= f64::from(less + drop).exp2();
        }
        while parts.iter().sum::<f64>() > MAX_FAILURES / 2.0 {
            let order = |a: &usize, b: &usize| parts[*a].total_cmp(&parts[*b]);
            let lowerable = |i: &usize| drops[*i] < self.weights.room(&layers[*i]);
            let Some(largest) = (0..parts.len()).filter(lowerable).max_by(order) else {
                let worst = (0..parts.len()).max_by(order).unwrap_or(0);
                let mean_bits = ranges[worst].mean_bits.unwrap_or(0);
                let mean = (f64::from(mean_bits) - f64::from(layers[worst].fraction_bits)).exp2();
                return Err(Error::layer(
                    &layers[worst].name,
                    format!(
                        "it truncates {} values that are about {mean:.0e} in the mean, so that one might wrap; use fewer --activation-bits than {}, or scale the network's values down",
                        layers[worst].shape.n_values(),
                        self.activation_bits
                    ),
                ));
            };
            parts[largest] /= 2.0;
            drops[largest] += 1;
        }
        for (i, (layer, &drop)) in layers.iter().zip(&drops).enumerate() {
            if drop > 0 {
                let why = if ranges[i].bits > most(i) {
                    format!(
                        "its values need {} bits, more than {}",
                        ranges[i].bits,
                        most(i)
                    )
                } else {
                    "it truncates so many large values that one might wrap".to_owned()
                };
                self.lower(layer, drop, &why)?;
            }
        }
        Ok(less > 0 || drops.iter().any(|&drop| drop > 0))
    }

    /// Fraction bits that activations should give up where `parts` wraps are expected and an accumulator is `excess` bits too wide: as many as
    /// the wraps need, and of an accumulator half of its bits, so that weights and activations become coarser together.
    fn spare(&self, parts: &[f64], excess: u32) -> u32 {
        let wraps = (parts.iter().sum::<f64>() / (MAX_FAILURES / 2.0)).log2();
        let wanted = (wraps.ceil().max(0.0) as u32).max(excess.div_ceil(2));
        wanted.min(self.activation_bits - self.fewest_bits)
    }

    /// Gives up `n` fraction bits of the accumulator of `layer`; `why` is the reason if it has not so many, or did so in vain before.
    fn lower(&mut self, layer: &Layer, n: u32, why: &str) -> Result<()> {
        let before = self.scales.insert(layer.name.clone(), layer.fraction_bits);
        let in_vain = before.is_some_and(|bits| bits <= layer.fraction_bits);
        if in_vain || self.weights.room(layer) < n {
            return Err(Error::layer(
                &layer.name,
                format!(
                    "{why}, and {n} fraction bits less of its weights are not possible; use fewer --activation-bits, or scale the network's values down"
                ),
            ));
        }
        self.weights.lower(layer, n);
        Ok(())
    }
}

/// Range of each accumulator, by what was seen.
fn ranges(layers: &[Layer], seen: &Seen) -> Vec<Accumulator> {
    let ranges = layers.iter().zip(seen.largest.iter().zip(&seen.means));
    let range = |(layer, (&largest, &mean)): (&Layer, (&u64, &f64))| {
        Accumulator::calibrated(layer.truncated_bits, largest, mean)
    };
    ranges.map(range).collect()
}

/// The expected number of truncated values of each layer that wrap: |y| / 2^k for each.
fn failures(layers: &[Layer], ranges: &[Accumulator]) -> Vec<f64> {
    let ring = f64::from(RingPlan::INNER.share_bits);
    let part = |(layer, range): (&Layer, &Accumulator)| match layer.truncated_bits {
        0 => 0.0,
        _ => {
            let mean_bits = range.mean_bits.unwrap_or(range.bits - 1);
            layer.shape.n_values() as f64 * (f64::from(mean_bits) - ring).exp2()
        }
    };
    layers.iter().zip(ranges).map(part).collect()
}
