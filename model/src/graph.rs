//! From the list of operations to what the protocol runs: layers, the tensors between them, and their sources.
//!
//! A *layer* is one accumulator: a sum of convolutions and skip connections, then one truncation and one masked ReLU
//! (the last layer has neither). A *tensor* is an activation: number 0 is the input, number i + 1 the result of layer i.
//! A *source* is a tensor as the linear layers read it, after pooling and flattening; it is what is encrypted offline.

mod compile;
mod shapes;

pub use shapes::{shapes, slide};

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::error::{ModelError, Result};
use crate::relu_set::ReluSet;
use crate::spec::ModelSpec;

/// Most values in one tensor. Keeps every product of sizes far from overflow.
pub const MAX_TENSOR_VALUES: usize = 1 << 24;

/// Channels, rows, columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Shape {
    /// Channels.
    pub channels: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl Shape {
    /// Channels, rows, columns.
    #[must_use]
    pub const fn new(channels: usize, height: usize, width: usize) -> Self {
        Self {
            channels,
            height,
            width,
        }
    }

    /// Number of values.
    #[must_use]
    pub const fn n_values(&self) -> usize {
        self.channels * self.height * self.width
    }

    fn check(self, op: &str) -> Result<Self> {
        let n = self
            .channels
            .checked_mul(self.height)
            .and_then(|n| n.checked_mul(self.width));
        match n {
            Some(1..=MAX_TENSOR_VALUES) => Ok(self),
            _ => Err(ModelError::op(
                op,
                format!(
                    "its result has the shape {self}, which must hold 1 to {MAX_TENSOR_VALUES} values"
                ),
            )),
        }
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}x{}", self.channels, self.height, self.width)
    }
}

/// A tensor as linear layers read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The tensor.
    pub tensor: usize,
    /// Rows and columns of the windows that are summed first; 1 by 1 where there is no pool.
    pub window: [usize; 2],
    /// Shape after pooling and flattening.
    pub shape: Shape,
    /// Stride of every convolution that reads it.
    pub stride: usize,
}

/// One convolution or fully connected layer of an accumulator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conv {
    /// Name of the operation, which is the prefix of its weights.
    pub op: String,
    /// Index of the source it reads.
    pub source: usize,
    /// Output channels.
    pub out_channels: usize,
    /// Kernel height and width.
    pub kernel: [usize; 2],
    /// Stride along both axes.
    pub stride: usize,
    /// Zero padding on every side.
    pub padding: usize,
    /// The result is shifted left by this to the scale of the accumulator.
    pub shift: u32,
}

/// One skip connection of an accumulator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skip {
    /// The tensor.
    pub tensor: usize,
    /// It is shifted left by this to the scale of the accumulator.
    pub shift: u32,
}

/// One accumulator and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Name of the operation that ends it.
    pub name: String,
    /// Convolutions that are summed.
    pub convs: Vec<Conv>,
    /// Skip connections that are summed.
    pub skips: Vec<Skip>,
    /// Shape of the accumulator.
    pub shape: Shape,
    /// Fraction bits of the accumulator.
    pub fraction_bits: u32,
    /// Bits that the truncation drops; zero in the last layer.
    pub truncated_bits: u32,
    /// Bits of the accumulator, sign and guard bit included (l_b).
    pub accumulator_bits: u32,
    /// Where the ReLU survives; none in the last layer.
    pub relu: Option<ReluSet>,
}

impl Layer {
    /// Surviving ReLUs.
    #[must_use]
    pub fn n_relus(&self) -> usize {
        self.relu.as_ref().map_or(0, |r| r.kept().len())
    }

    /// Bits that the garbled sign test adds: l = l_b - t.
    #[must_use]
    pub fn sign_bits(&self) -> u32 {
        self.accumulator_bits - self.truncated_bits
    }
}

/// The network as layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Graph {
    /// Shape of each tensor.
    pub tensors: Vec<Shape>,
    /// Every tensor view that linear layers read.
    pub sources: Vec<Source>,
    /// The layers in the order in which they run.
    pub layers: Vec<Layer>,
}

impl Graph {
    /// Compiles the operations of `spec` with the masks named after their ReLUs.
    ///
    /// # Errors
    /// [`ModelError::Op`] naming the operation that cannot be run privately, and why.
    pub fn compile(spec: &ModelSpec, masks: &HashMap<String, ReluSet>) -> Result<Self> {
        compile::run(spec, masks)
    }

    /// Surviving ReLUs of the whole network.
    #[must_use]
    pub fn n_relus(&self) -> usize {
        self.layers.iter().map(Layer::n_relus).sum()
    }

    /// Source of the tensor, if linear layers read it.
    #[must_use]
    pub fn source_of(&self, tensor: usize) -> Option<usize> {
        self.sources.iter().position(|s| s.tensor == tensor)
    }
}

/// Fraction bits that a sum over `window` adds: floor(log2(rows * columns)). What remains of the division is in the weights.
#[must_use]
pub const fn pool_shift(window: [usize; 2]) -> u32 {
    (window[0] * window[1]).ilog2()
}
