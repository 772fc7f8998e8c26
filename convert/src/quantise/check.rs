//! A float model against its integers, image by image.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use pi_model::executor::{self, Execution};
use pi_model::spec::{ModelSpec, Op};
use pi_model::{FloatModel, Model};
use rayon::prelude::*;

use super::error::{Error, Result};
use super::image_set::ImageSet;
use super::ranges::activation_bits;
use crate::float;

/// What a float model and an integer model say to the same images.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Comparison {
    /// Images.
    pub n_images: usize,
    /// Images on which the largest logit is the same.
    pub n_agree: usize,
    /// Images whose class is known.
    pub n_labelled: usize,
    /// Of these, images that the float model classifies so.
    pub n_float_correct: usize,
    /// Of these, images that the integer model classifies so.
    pub n_fixed_correct: usize,
    /// Accumulators outside their range.
    pub n_range_violations: u64,
    /// The logits.
    pub logits: Difference,
    /// Largest difference of a logit, and the image.
    pub worst: Option<(f64, String)>,
    /// Results of operations that both models compute, in the order in which they run.
    pub layers: Vec<(String, Difference)>,
}

/// Two results that should be the same.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Difference {
    /// Largest absolute difference of two values.
    pub largest: f64,
    /// Sum of the squares of all differences.
    pub squares: f64,
    /// Sum of the squares of the values in floating point.
    pub of_squares: f64,
}

impl Difference {
    fn of(floats: &[f32], integers: &[i64], fraction_bits: u32) -> Self {
        let scale = (-f64::from(fraction_bits)).exp2();
        let mut of = Self::default();
        for (&float, &integer) in floats.iter().zip(integers) {
            let float = f64::from(float);
            let difference = float - integer as f64 * scale;
            of.largest = of.largest.max(difference.abs());
            of.squares += difference * difference;
            of.of_squares += float * float;
        }
        of
    }

    /// Root of the mean square of the differences, in parts of that of the values.
    #[must_use]
    pub fn relative(&self) -> f64 {
        if self.squares == 0.0 {
            return 0.0;
        }
        (self.squares / self.of_squares).sqrt()
    }

    fn join(&mut self, other: &Self) {
        self.largest = self.largest.max(other.largest);
        self.squares += other.squares;
        self.of_squares += other.of_squares;
    }
}

impl Comparison {
    fn join(mut self, other: Self) -> Self {
        if self.n_images == 0 {
            return other;
        }
        self.n_images += other.n_images;
        self.n_agree += other.n_agree;
        self.n_labelled += other.n_labelled;
        self.n_float_correct += other.n_float_correct;
        self.n_fixed_correct += other.n_fixed_correct;
        self.n_range_violations += other.n_range_violations;
        self.logits.join(&other.logits);
        for ((_, own), (_, other)) in self.layers.iter_mut().zip(&other.layers) {
            own.join(other);
        }
        let error = |worst: &Option<(f64, String)>| worst.as_ref().map_or(0.0, |w| w.0);
        if error(&other.worst) > error(&self.worst) {
            self.worst = other.worst;
        }
        self
    }
}

/// Runs both models over all `images`, several at a time. `progress` is told after each image how many are done, and of how many.
///
/// # Errors
/// [`Error::Usage`] when the two models do not belong together, [`Error::Images`] naming an image that cannot be read or run.
pub fn compare(
    float: &FloatModel,
    fixed: &Model,
    images: &ImageSet,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Comparison> {
    belong_together(float, fixed)?;
    let n_done = AtomicUsize::new(0);
    let one = |i: usize| {
        let of_image = compare_one(float, fixed, images, i)?;
        progress(n_done.fetch_add(1, Ordering::Relaxed) + 1, images.len());
        Ok(of_image)
    };
    (0..images.len())
        .into_par_iter()
        .map(one)
        .try_reduce(Comparison::default, |a, b| Ok(a.join(b)))
}

fn belong_together(float: &FloatModel, fixed: &Model) -> Result<()> {
    let (ours, theirs) = (&float.spec, fixed.public().spec());
    let name = |spec: &ModelSpec| {
        let last = spec.ops.last().map(|op| op.name().to_owned());
        let mut input = spec.input.clone();
        // Calibrated, where the float model leaves it open.
        input.range = input.range.or(theirs.input.range);
        (input, last)
    };
    if name(ours) == name(theirs) {
        return Ok(());
    }
    Err(Error::Usage(format!(
        "'{}' and '{}' are not the same network: their inputs or outputs differ; compare a float model with the integers that were made of it",
        ours.name, theirs.name
    )))
}

fn compare_one(
    float: &FloatModel,
    fixed: &Model,
    images: &ImageSet,
    i: usize,
) -> Result<Comparison> {
    let failed = |e: pi_model::ModelError| Error::named(images.name(i), e.to_string());
    let fraction_bits = activation_bits(fixed);
    let image = images.image(i, fraction_bits)?;
    let run = executor::run(fixed, &image.integers).map_err(failed)?;
    let layers = &fixed.public().graph().layers;
    let tensors: BTreeMap<&str, &[i64]> = tensors(layers, &run);
    let mut differences = Vec::new();
    let logits = float::visit(float, &image.floats, |op, values| {
        // The layers of these two are not what they make in the end.
        let is_made_of_more = matches!(op, Op::Clip { .. } | Op::LeakyRelu { .. });
        let tensor = tensors.get(op.name()).filter(|_| !is_made_of_more);
        if let Some(tensor) = tensor.filter(|t| t.len() == values.len()) {
            let difference = Difference::of(values, tensor, fraction_bits);
            differences.push((op.name().to_owned(), difference));
        }
    })
    .map_err(failed)?;
    let label = images.label(i);
    let class = float_class(&logits);
    let output_bits = layers.last().map_or(0, |l| l.fraction_bits);
    let of_logits = Difference::of(&logits, &run.logits, output_bits);
    Ok(Comparison {
        n_images: 1,
        n_agree: usize::from(class == run.class()),
        n_labelled: usize::from(label.is_some()),
        n_float_correct: usize::from(label == Some(class)),
        n_fixed_correct: usize::from(label == Some(run.class())),
        n_range_violations: run.n_range_violations,
        worst: Some((of_logits.largest, images.name(i).to_owned())),
        logits: of_logits,
        layers: differences,
    })
}

/// The activations of an execution by the operations that they are results of.
fn tensors<'a>(
    layers: &'a [pi_model::graph::Layer],
    run: &'a Execution,
) -> BTreeMap<&'a str, &'a [i64]> {
    let names = layers.iter().map(|l| l.name.as_str());
    names
        .zip(run.tensors.iter().skip(1).map(Vec::as_slice))
        .collect()
}

/// Index of the largest logit, the lowest if there are several, as [`executor::argmax`].
fn float_class(logits: &[f32]) -> usize {
    let best = (0..logits.len())
        .rev()
        .max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
    best.unwrap_or(0)
}
