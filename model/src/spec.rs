//! `model.json`: everything about a model that both parties may know. The weights lie beside it in safetensors.
//!
//! One language serves two kinds of model. A *float* model has real weights and no [`FixedPoint`]: importers write it, training and
//! quantising read it. An *integer* model has the numbers of its fixed-point arithmetic too, and is what is served.
//!
//! Numbers: an activation is an integer with `activation_fraction_bits` fraction bits. A weight is an integer with fraction bits of
//! its layer's own. The accumulator of a layer has the sum of both, plus floor(log2) of the window where a pool precedes it whose division is a
//! change of scale ([`crate::graph::pool_remainders`]; other pools multiply by the reciprocal).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The version of the format that this code reads and writes.
pub const FORMAT_VERSION: u32 = 2;

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
    /// One label for each output class; none where outputs are not classes.
    pub labels: Vec<String>,
    /// What the client learns.
    pub output: OutputMode,
    /// The operations, each after those that it reads. The last one is the output.
    pub ops: Vec<Op>,
    /// The numbers of an integer model; absent from a float model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fixed_point: Option<FixedPoint>,
    /// How the model was made and how good it is.
    pub card: Card,
}

/// Fixed-point arithmetic of an integer model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FixedPoint {
    /// Fraction bits of every activation.
    pub activation_fraction_bits: u32,
    /// Fraction bits of the weights of each `conv2d` and `linear`, by its name.
    pub weight_fraction_bits: BTreeMap<String, u32>,
    /// Range of the accumulator of each layer, by the name of the layer: that of the operation that ends it.
    pub accumulators: BTreeMap<String, Accumulator>,
}

/// Calibrated range of a layer's accumulator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accumulator {
    /// Bits, sign and guard bit included.
    pub bits: u32,
    /// The mean of the absolute values is at most 2 to the power of this, from which the expected number of wraps follows;
    /// `bits` - 1 where it is not known. No finer: the client sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean_bits: Option<u32>,
}

/// Shape of the input, and what its values may be: pixels that are normalised, or any tensor within a range.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputSpec {
    /// Colour channels; the number of features, where there are no rows and columns.
    pub channels: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Mean of each channel, of pixels scaled to 0..1. None where the input is no image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mean: Vec<f64>,
    /// Standard deviation of each channel.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub std: Vec<f64>,
    /// Least and largest value of an input that is no image. A float model may leave it to be calibrated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<[f64; 2]>,
}

impl Accumulator {
    /// The range of an accumulator whose absolute values were seen to be `largest` at most and `mean` on average: bits of the largest
    /// and two more, for sign and guard, and more than are truncated.
    #[must_use]
    pub fn calibrated(truncated_bits: u32, largest: u64, mean: f64) -> Self {
        let bits = (u64::BITS - largest.leading_zeros() + 2).max(truncated_bits + 2);
        Self {
            bits,
            mean_bits: Some((mean.max(1.0).log2().ceil() as u32).min(bits - 1)),
        }
    }
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

/// Zeros around a map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "[usize; 4]", into = "[usize; 4]")]
pub struct Padding {
    /// Rows above.
    pub top: usize,
    /// Columns to the left.
    pub left: usize,
    /// Rows below.
    pub bottom: usize,
    /// Columns to the right.
    pub right: usize,
}

impl Padding {
    /// The same on every side.
    #[must_use]
    pub const fn all(n: usize) -> Self {
        Self {
            top: n,
            left: n,
            bottom: n,
            right: n,
        }
    }
}

impl From<[usize; 4]> for Padding {
    /// In the order of ONNX: top, left, bottom, right.
    fn from([top, left, bottom, right]: [usize; 4]) -> Self {
        Self {
            top,
            left,
            bottom,
            right,
        }
    }
}

impl From<Padding> for [usize; 4] {
    fn from(p: Padding) -> Self {
        [p.top, p.left, p.bottom, p.right]
    }
}

/// Windows that slide over a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// Rows and columns of a window.
    pub kernel: [usize; 2],
    /// Rows and columns from one window to the next.
    #[serde(default = "ones", skip_serializing_if = "are_ones")]
    pub stride: [usize; 2],
    /// Zeros around the map: top, left, bottom, right.
    #[serde(default, skip_serializing_if = "is_default")]
    pub padding: Padding,
    /// Rows and columns from one position of a window to the next.
    #[serde(default = "ones", skip_serializing_if = "are_ones")]
    pub dilation: [usize; 2],
}

impl Window {
    /// A square window, the same stride both ways, the same padding all around.
    #[must_use]
    pub const fn square(kernel: usize, stride: usize, padding: usize) -> Self {
        Self {
            kernel: [kernel; 2],
            stride: [stride; 2],
            padding: Padding::all(padding),
            dilation: [1; 2],
        }
    }
}

const fn ones() -> [usize; 2] {
    [1; 2]
}

const fn one() -> usize {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn are_ones(n: &[usize; 2]) -> bool {
    *n == [1; 2]
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
const fn is_one(n: &usize) -> bool {
    *n == 1
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// One operation. The closed list: anything else is refused.
///
/// Every operation has a name, which is also that of its result; results have the shape (C, H, W). `input` and `inputs` name earlier
/// results, or the image, which is called `input`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Op {
    /// Convolution with bias. Weights `<name>.weight` (O, C / groups, kh, kw), bias `<name>.bias` (O) at the accumulator's scale.
    Conv2d {
        /// Its name.
        name: String,
        /// What it reads.
        input: String,
        /// Output channels O.
        out_channels: usize,
        /// Kernel, stride, padding, dilation.
        window: Window,
        /// Filters are divided into so many groups, and so are the channels; each reads those of its own group.
        #[serde(default = "one", skip_serializing_if = "is_one")]
        groups: usize,
    },
    /// Fully connected layer with bias. Weights `<name>.weight` (O, features), bias `<name>.bias` (O).
    Linear {
        /// Its name.
        name: String,
        /// What it reads, of shape (features, 1, 1).
        input: String,
        /// Output features O.
        out_features: usize,
    },
    /// A constant for each channel is added: `<name>.bias` (C) at the accumulator's scale.
    Bias {
        /// Its name.
        name: String,
        /// What it reads.
        input: String,
    },
    /// Sum of two or more results of the same shape.
    Add {
        /// Its name.
        name: String,
        /// The summands.
        inputs: Vec<String>,
    },
    /// The first result less the second.
    Sub {
        /// Its name.
        name: String,
        /// Minuend and subtrahend.
        inputs: [String; 2],
    },
    /// The channels of several results, one after another.
    Concat {
        /// Its name.
        name: String,
        /// What is put together.
        inputs: Vec<String>,
    },
    /// Channels of a result, in the order of the list: a slice, a part of a split, a shuffle.
    Channels {
        /// Its name.
        name: String,
        /// What it reads.
        input: String,
        /// Number of the channel that becomes channel 0, 1, ...
        channels: Vec<usize>,
    },
    /// Zeros are put around the map.
    Pad {
        /// Its name.
        name: String,
        /// What it reads.
        input: String,
        /// Zeros: top, left, bottom, right.
        padding: Padding,
    },
    /// Average over windows.
    AvgPool {
        /// Its name.
        name: String,
        /// What it reads.
        input: String,
        /// The windows, which are not dilated.
        window: Window,
        /// Whether zeros of the padding count as values.
        #[serde(default, skip_serializing_if = "is_default")]
        count_padding: bool,
    },
    /// Average over the whole map.
    GlobalAvgPool {
        /// Its name.
        name: String,
        /// What it reads.
        input: String,
    },
    /// Largest value of each window; the padding never is.
    MaxPool {
        /// Its name.
        name: String,
        /// What it reads.
        input: String,
        /// The windows.
        window: Window,
    },
    /// (C, H, W) to (C H W, 1, 1), in this order.
    Flatten {
        /// Its name.
        name: String,
        /// What it reads.
        input: String,
    },
    /// Rescales to an activation and applies ReLU where `<name>.mask` (C, H, W) is 1.
    MaskedRelu {
        /// Its name.
        name: String,
        /// What it reads.
        input: String,
        /// How many positions keep their ReLU; must agree with the mask.
        relus_kept: usize,
    },
    /// min(max(x, 0), max): ReLU(x) - ReLU(x - max).
    Clip {
        /// Its name.
        name: String,
        /// What it reads.
        input: String,
        /// Largest value, above 0.
        max: f64,
        /// How many positions are not linear, by `<name>.mask` (C, H, W).
        relus_kept: usize,
    },
    /// x where it is positive, `slope` x elsewhere.
    LeakyRelu {
        /// Its name.
        name: String,
        /// What it reads.
        input: String,
        /// Between 0 and 1.
        slope: f64,
        /// How many positions are not linear, by `<name>.mask` (C, H, W).
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
            | Self::Bias { name, .. }
            | Self::Add { name, .. }
            | Self::Sub { name, .. }
            | Self::Concat { name, .. }
            | Self::Channels { name, .. }
            | Self::Pad { name, .. }
            | Self::AvgPool { name, .. }
            | Self::GlobalAvgPool { name, .. }
            | Self::MaxPool { name, .. }
            | Self::Flatten { name, .. }
            | Self::MaskedRelu { name, .. }
            | Self::Clip { name, .. }
            | Self::LeakyRelu { name, .. } => name,
        }
    }

    /// Positions that keep their ReLU, of an operation that has a mask.
    #[must_use]
    pub const fn relus_kept(&self) -> Option<usize> {
        match self {
            Self::MaskedRelu { relus_kept, .. }
            | Self::Clip { relus_kept, .. }
            | Self::LeakyRelu { relus_kept, .. } => Some(*relus_kept),
            _ => None,
        }
    }

    /// Names of the results that it reads.
    #[must_use]
    pub fn inputs(&self) -> &[String] {
        match self {
            Self::Conv2d { input, .. }
            | Self::Linear { input, .. }
            | Self::Bias { input, .. }
            | Self::Channels { input, .. }
            | Self::Pad { input, .. }
            | Self::AvgPool { input, .. }
            | Self::GlobalAvgPool { input, .. }
            | Self::MaxPool { input, .. }
            | Self::Flatten { input, .. }
            | Self::MaskedRelu { input, .. }
            | Self::Clip { input, .. }
            | Self::LeakyRelu { input, .. } => std::slice::from_ref(input),
            Self::Add { inputs, .. } | Self::Concat { inputs, .. } => inputs,
            Self::Sub { inputs, .. } => inputs,
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
