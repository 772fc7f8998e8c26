//! What the plaintext executor sees over a set of images.

use std::sync::atomic::{AtomicUsize, Ordering};

use pi_model::{Model, executor};
use rayon::prelude::*;

use super::error::{Error, Result};
use super::image_set::ImageSet;

/// Accumulators over a set of images.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// Largest |accumulator| of each layer.
    pub largest: Vec<u64>,
    /// Mean |accumulator| of each layer.
    pub means: Vec<f64>,
    /// Accumulators outside the range of their layer.
    pub n_range_violations: u64,
}

/// Runs `model` over all `images`, several at a time.
///
/// # Errors
/// [`Error::Images`] with the name of the image that cannot be read or run.
pub fn survey(
    model: &Model,
    images: &ImageSet,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Seen> {
    let fraction_bits = activation_bits(model);
    let layers = &model.public().graph().layers;
    let n_done = AtomicUsize::new(0);
    let one = |i: usize| -> Result<Seen> {
        let image = images.image(i, fraction_bits)?;
        let run = executor::run(model, &image.integers)
            .map_err(|e| Error::named(images.name(i), e.to_string()))?;
        let n_values = layers.iter().map(|l| l.shape.n_values() as f64);
        let means = run.sum_accumulators.iter().zip(n_values);
        progress(n_done.fetch_add(1, Ordering::Relaxed) + 1, images.len());
        Ok(Seen {
            means: means.map(|(&sum, n)| sum as f64 / n).collect(),
            largest: run.max_accumulators,
            n_range_violations: run.n_range_violations,
        })
    };
    let none = || Seen {
        largest: vec![0; layers.len()],
        means: vec![0.0; layers.len()],
        n_range_violations: 0,
    };
    let mut seen = (0..images.len())
        .into_par_iter()
        .map(one)
        .try_reduce(none, |a, b| Ok(a.join(&b)))?;
    let n_images = images.len().max(1) as f64;
    seen.means.iter_mut().for_each(|mean| *mean /= n_images);
    Ok(seen)
}

impl Seen {
    /// Of two sets; means are still sums.
    fn join(mut self, other: &Self) -> Self {
        for (a, &b) in self.largest.iter_mut().zip(&other.largest) {
            *a = (*a).max(b);
        }
        for (a, b) in self.means.iter_mut().zip(&other.means) {
            *a += b;
        }
        self.n_range_violations += other.n_range_violations;
        self
    }
}

/// Fraction bits of the activations of an integer model.
pub(super) fn activation_bits(model: &Model) -> u32 {
    let numbers = model.public().spec().fixed_point.as_ref();
    numbers.map_or(0, |n| n.activation_fraction_bits)
}
