//! From the list of operations to what the protocol runs: layers, the tensors between them, and their sources.
//!
//! A *layer* is one accumulator: a sum of convolutions, of earlier tensors and of constants, then one truncation and one masked ReLU
//! (the last layer has neither). A *tensor* is an activation: number 0 is the input, number i + 1 the result of layer i.
//! A *view* is what local operations make of tensors: channels put together or picked, windows summed, maps shifted and flattened.
//! A *source* is a view that convolutions read; it is what is encrypted offline. Each tensor is in one source at most, and wholly.
//!
//! What does not fit so gets a layer of its own without a ReLU, which costs 52 bits a value offline and no round trip: a result that
//! both a convolution and something else need before its ReLU, a tensor that is read with different strides, or both pooled and not.

mod compile;
mod linear;
mod lower;
mod remainders;
mod shapes;
mod value;
mod view;

pub use remainders::pool_remainders;
pub use shapes::{shapes, slide};
pub use view::{Run, Span, View};

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{ModelError, Result};
use crate::relu_set::ReluSet;
use crate::spec::{ModelSpec, Window};

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

/// A tensor, or several, as linear layers read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// What it is made of: every value of its tensors once, so that its mask and theirs determine each other.
    pub view: View,
    /// Shape of the view.
    pub shape: Shape,
    /// Rows and columns from one output to the next of every convolution that reads it.
    pub stride: [usize; 2],
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
    /// Kernel, stride, padding, dilation.
    pub window: Window,
    /// Groups of channels and filters.
    pub groups: usize,
    /// Rows and columns of its result.
    pub out_size: [usize; 2],
    /// Fraction bits of its result and of its biases.
    pub fraction_bits: u32,
    /// The result is shifted left by this to the scale of the accumulator.
    pub shift: u32,
}

impl Conv {
    /// Channels that each filter reads, of a source with `channels`.
    #[must_use]
    pub const fn channels_read(&self, channels: usize) -> usize {
        channels / self.groups
    }
}

/// Earlier tensors as a layer adds them: a skip connection, an average, a difference of shifted maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    /// What is added, in the shape of the accumulator.
    pub view: View,
    /// It is multiplied by this: one number for all values, or one for each. The shift to the scale of the accumulator is included.
    pub factors: Vec<i64>,
}

impl Term {
    /// The factor of value number `index`.
    #[must_use]
    pub fn factor(&self, index: usize) -> i64 {
        match self.factors[..] {
            [factor] => factor,
            _ => self.factors[index],
        }
    }
}

/// Constants of the owner that a layer adds to each channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bias {
    /// Name of the operation, which is the prefix of its tensor.
    pub op: String,
    /// Fraction bits of the constants.
    pub fraction_bits: u32,
    /// They are shifted left by this to the scale of the accumulator.
    pub shift: u32,
    /// Values of each channel.
    pub plane: usize,
}

/// One accumulator and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Name of the operation that ends it; of one that takes several layers, with a suffix.
    pub name: String,
    /// Convolutions that are summed.
    pub convs: Vec<Conv>,
    /// Earlier tensors that are summed.
    pub terms: Vec<Term>,
    /// Secret constants that are summed.
    pub biases: Vec<Bias>,
    /// A public constant that is added to every value.
    pub constant: i64,
    /// Shape of the accumulator.
    pub shape: Shape,
    /// Fraction bits of the accumulator.
    pub fraction_bits: u32,
    /// Bits that the truncation drops; zero in the last layer.
    pub truncated_bits: u32,
    /// Bits of the accumulator, sign and guard bit included (l_b).
    pub accumulator_bits: u32,
    /// The mean of its absolute values is at most 2 to the power of this.
    pub mean_bits: u32,
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

    /// The tensors that it reads, once or more often.
    pub fn reads<'a>(&'a self, graph: &'a Graph) -> impl Iterator<Item = usize> + 'a {
        let convs = self.convs.iter().map(|c| &graph.sources[c.source].view);
        let views = convs.chain(self.terms.iter().map(|t| &t.view));
        views.flat_map(View::tensors)
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
    pub fn compile(spec: &ModelSpec, masks: &BTreeMap<String, ReluSet>) -> Result<Self> {
        compile::run(spec, masks)
    }

    /// Surviving ReLUs of the whole network.
    #[must_use]
    pub fn n_relus(&self) -> usize {
        self.layers.iter().map(Layer::n_relus).sum()
    }

    /// Bits of the last accumulator, which is opened.
    #[must_use]
    pub fn output_bits(&self) -> u32 {
        self.layers.last().map_or(0, |l| l.accumulator_bits)
    }

    /// Source of the tensor, if linear layers read it.
    #[must_use]
    pub fn source_of(&self, tensor: usize) -> Option<usize> {
        let mut sources = self.sources.iter();
        sources.position(|s| s.view.tensors().any(|t| t == tensor))
    }
}

/// Fraction bits that a sum over `window` adds: floor(log2(rows * columns)). What remains of the division is in the weights.
#[must_use]
pub const fn pool_shift(window: [usize; 2]) -> u32 {
    (window[0] * window[1]).ilog2()
}
