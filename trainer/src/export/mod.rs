//! From a checkpoint to a float model, and by pi-convert's quantiser to integers: calibrate, measure, write the card.
//!
//! Everything is measured with the plaintext executor, which runs the protocol's integers.

mod float;

pub use float::{Frame, float_model};

use crate::data::Images;
use crate::error::{Error, Result};
use crate::net::{Mask, Net};
use pi_convert::quantise::{ImageSet, Options, Report, quantise};
use pi_model::{Model, executor};
use rayon::prelude::*;

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

/// Numbers of the fixed-point network.
#[derive(Debug, Clone, Copy)]
pub struct Precision {
    /// Fraction bits of every activation.
    pub activation_bits: u32,
    /// Bits of a weight with its sign, 2 to 16.
    pub weight_bits: u32,
    /// Most bits of the last layer's accumulator, 24 to 32.
    pub output_bits: u32,
}

impl Precision {
    /// What an export begins with unless told otherwise.
    pub const DEFAULT: Precision = Precision {
        activation_bits: 8,
        weight_bits: 8,
        output_bits: 32,
    };
}

/// A fixed-point model and what was measured on the way.
pub struct Exported {
    /// The model, ranges calibrated; the card is still that of the float model.
    pub model: Model,
    /// Over the calibration images, with the calibrated ranges.
    pub calibration: Survey,
    /// What was given up for ranges to fit.
    pub report: Report,
    /// The precision that was used.
    pub precision: Precision,
}

/// Quantises, and calibrates on images.
///
/// # Errors
/// [`Error::Quantise`] naming the layer whose numbers do not fit.
pub fn export(
    net: &Net,
    masks: &[Mask],
    frame: &Frame,
    precision: Precision,
    calibration: &Images,
) -> Result<Exported> {
    let float = float_model(net, masks, frame)?;
    let images = (0..calibration.len()).map(|i| {
        let label = usize::from(calibration.labels[i]);
        (interleave(calibration, i), label)
    });
    let images = ImageSet::of_pixels(images, &float.spec.input)?;
    let options = Options {
        activation_bits: Some(precision.activation_bits),
        weight_bits: precision.weight_bits,
        output_bits: precision.output_bits,
        command: String::new(),
    };
    let done = quantise(&float, &images, &options, &|_, _| {})?;
    Ok(Exported {
        calibration: survey(&done.model, calibration)?,
        model: done.model,
        report: done.report,
        precision,
    })
}
