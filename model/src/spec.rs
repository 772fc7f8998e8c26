//! `model.json`: everything about a model that both parties may know. The weights lie beside it in safetensors.
//!
//! Numbers: an activation is an integer with `activation_fraction_bits` fraction bits. A weight is an integer with
//! `weight_fraction_bits` fraction bits, one value for each layer. The accumulator of a layer has the sum of both, plus
//! log2 of the pooling window where a pool precedes it (pools are sums; the division is this change of scale).

use serde::{Deserialize, Serialize};

use crate::error::{ModelError, Result};

/// The version of the format that this code reads and writes.
pub const FORMAT_VERSION: u32 = 1;

/// The whole of `model.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// Must be [`FORMAT_VERSION`].
    pub format_version: u32,
    /// Name under which the model is served.
    pub name: String,
    /// The input image.
    pub input: InputSpec,
    /// Fraction bits of every activation.
    pub activation_fraction_bits: u32,
    /// One label for each output class.
    pub labels: Vec<String>,
    /// What the client learns.
    pub output: OutputSpec,
    /// The operations, each after those that it reads. The last one is the output.
    pub ops: Vec<Op>,
    /// How the model was made and how good it is.
    pub card: Card,
}

/// Shape and normalisation of the input image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputSpec {
    /// Colour channels.
    pub channels: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Mean of each channel, of pixels scaled to 0..1.
    pub mean: Vec<f64>,
    /// Standard deviation of each channel.
    pub std: Vec<f64>,
}

/// What the client learns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputMode {
    /// All logits.
    Logits,
    /// The index of the largest logit and nothing else, through a garbled argmax.
    Argmax,
}

/// The output and the range of its accumulator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputSpec {
    /// What the client learns.
    pub mode: OutputMode,
    /// Calibrated bits of the last accumulator, sign and guard bit included.
    pub accumulator_bits: u32,
}

/// One operation. The closed list: anything else is refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Op {
    /// Convolution with bias. Weights `<name>.weight` (O, C, kh, kw), bias `<name>.bias` (O) at the accumulator's scale.
    Conv2d {
        /// Name of the operation and of its result.
        name: String,
        /// Name of the activation it reads.
        input: String,
        /// Output channels.
        out_channels: usize,
        /// Kernel height and width.
        kernel: [usize; 2],
        /// Stride, 1 or 2, the same along both axes.
        stride: usize,
        /// Zero padding on every side.
        padding: usize,
        /// Fraction bits of the weights.
        weight_fraction_bits: u32,
    },
    /// Fully connected layer with bias. Weights `<name>.weight` (O, features), bias `<name>.bias` (O).
    Linear {
        /// Name of the operation and of its result.
        name: String,
        /// Name of the activation it reads, of shape (features, 1, 1).
        input: String,
        /// Output features.
        out_features: usize,
        /// Fraction bits of the weights.
        weight_fraction_bits: u32,
    },
    /// Sum of two accumulators, or of an accumulator and an activation (a skip connection).
    Add {
        /// Name of the operation and of its result.
        name: String,
        /// The two summands.
        inputs: [String; 2],
    },
    /// Average over square windows that do not overlap.
    AvgPool {
        /// Name of the operation and of its result.
        name: String,
        /// Name of the activation it reads.
        input: String,
        /// Side of the window, which must divide both sides of the input.
        window: usize,
    },
    /// Average over the whole map.
    GlobalAvgPool {
        /// Name of the operation and of its result.
        name: String,
        /// Name of the activation it reads.
        input: String,
    },
    /// (C, H, W) to (C H W, 1, 1), in this order.
    Flatten {
        /// Name of the operation and of its result.
        name: String,
        /// Name of the activation it reads.
        input: String,
    },
    /// Rescales an accumulator to an activation and applies ReLU where `<name>.mask` (C, H, W) is 1.
    MaskedRelu {
        /// Name of the operation and of its result.
        name: String,
        /// Name of the accumulator it reads.
        input: String,
        /// Calibrated bits of the accumulator, sign and guard bit included.
        accumulator_bits: u32,
        /// How many positions keep their ReLU; must agree with the mask.
        relus_kept: usize,
    },
}

impl Op {
    /// Name of the operation and of its result.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Conv2d { name, .. }
            | Self::Linear { name, .. }
            | Self::Add { name, .. }
            | Self::AvgPool { name, .. }
            | Self::GlobalAvgPool { name, .. }
            | Self::Flatten { name, .. }
            | Self::MaskedRelu { name, .. } => name,
        }
    }
}

/// How the model was made and how good it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Card {
    /// Architecture, for example `resnet20`.
    pub architecture: String,
    /// Data set, for example `cifar10`.
    pub dataset: String,
    /// BLAKE3 or SHA-256 of the data that it was trained on.
    pub data_checksum: String,
    /// The commands that made it.
    pub recipe: Vec<String>,
    /// Seed of the training.
    pub seed: u64,
    /// Device and hours of the training.
    pub trained_on: String,
    /// ReLU positions of the network with all of them kept.
    pub relus_total: usize,
    /// ReLU positions kept.
    pub relus_kept: usize,
    /// Accuracy in floating point on the whole test set, percent.
    pub float_accuracy: Option<f64>,
    /// Accuracy of the plaintext executor on the whole test set, percent.
    pub fixed_accuracy: Option<f64>,
    /// Accuracy of its teacher in floating point, percent.
    pub teacher_accuracy: Option<f64>,
    /// Accumulators outside their range over the calibration and test sets.
    pub range_violations: Option<u64>,
    /// Anything else worth knowing.
    pub notes: String,
}

impl InputSpec {
    /// Pixels of one image.
    #[must_use]
    pub const fn n_values(&self) -> usize {
        self.channels * self.height * self.width
    }

    /// Normalises an image of bytes, row by row with interleaved channels, and rounds it to `fraction_bits`.
    ///
    /// Returns the values in (C, H, W) order.
    ///
    /// # Errors
    /// [`ModelError::Input`] when the image has another size than the model's input.
    pub fn quantise(
        &self,
        pixels: &[u8],
        width: usize,
        height: usize,
        fraction_bits: u32,
    ) -> Result<Vec<i64>> {
        if (width, height) != (self.width, self.height) || pixels.len() != self.n_values() {
            return Err(ModelError::Input(format!(
                "the model takes images of {} x {} pixels with {} channels, this one has {width} x {height} pixels with {} channels; resize it first",
                self.width,
                self.height,
                self.channels,
                pixels.len().checked_div(width * height).unwrap_or(0),
            )));
        }
        let scale = f64::from(1u32 << fraction_bits);
        let mut values = Vec::with_capacity(pixels.len());
        for ((channel, mean), std) in (0..self.channels).zip(&self.mean).zip(&self.std) {
            values.extend(
                pixels
                    .iter()
                    .skip(channel)
                    .step_by(self.channels)
                    .map(|&p| ((f64::from(p) / 255.0 - mean) / std * scale).round() as i64),
            );
        }
        Ok(values)
    }
}
