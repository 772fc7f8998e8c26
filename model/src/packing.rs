//! Where the values of a convolution lie in the coefficients of polynomials of Z\[X\]/(X^N + 1).
//!
//! Coefficient packing after Huang, Lu, Hong, Ding, "Cheetah" (USENIX Security 2022, section 3), with two additions: the
//! batch is a third axis beside channels and filters, and a convolution of stride s reads s * s phases of its input, so
//! that one polynomial product computes it without waste. No slots, no rotations.
//!
//! A *source* is a tensor (B, C, H, W) that one or more convolutions of equal stride consume. Along each axis, row
//! `s * i + a` is position i of phase a; phase channel `(s * a + b) * C + c` holds phase (a, b) of channel c (s may differ between
//! the axes). A tap u with padding p and dilation d reads phase (u d - p) mod s at offset floor((u d - p) / s). Each phase channel of an image is a block of
//! A = H' * W' coefficients, H' = ceil(H / s) + lead: the rows and columns in front serve as padding on both sides.
//! Image b, phase channel c, position (i, j) lies at `(b * C_w + c) * A + (i + lead) * W' + (j + lead)`; filter o has tap
//! (du, dv) of channel c at `o * B_w * C_w * A + O - c * A - du * W' - dv`, with O the least offset that keeps exponents
//! non-negative; the output (i, j) of image b then stands at `(o * B_w + b) * C_w * A + O + (i + lead) * W' + (j + lead)`,
//! negated if that wraps around N. Required: B_w * C_w * O_w * A <= N.
//!
//! A filter of a grouped convolution meets only the input polynomials that hold a channel of its group; no product is made with
//! the others. A map that is larger than a polynomial is cut into bands, each of which is packed as a source (`plan/bands.rs`).
//!
//! Every position that a used output reads and that holds no data must hold zero: see [`SourcePacking::corrections`].
//!
//! A *guest* is a second tensor whose convolution adds into one of the source's, with its own kernel and stride. The phases
//! that it reads follow the source's as further phase channels, in blocks of the same shape: position (i, j) of a phase is
//! where output (i, j) stands, whatever the stride, so both products meet at the same coefficients and one response carries
//! their sum. Blocks then have the most rows, columns and lead that any of the tensors needs. Guests hold values that have a
//! mask already, so their positions are corrected too, to that mask instead of zero.

mod block;
mod goal;
mod plan;
mod response;
mod zeros;

pub use goal::PackingGoal;
pub use plan::{CoefficientBits, PackingCost, RankedPacking, choose, fits, rank};
pub use response::{ResponsePacking, Stride};

use crate::bits::packed_bytes;
use crate::graph::{Shape, slide};
use crate::spec::Window;
pub use block::MAX_STRIDE;
use block::{Block, Part};
use serde::{Deserialize, Serialize};

/// A convolution as seen from its source, which fixes its stride. A linear layer is a 1x1 kernel over a 1x1 map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ConvGeometry {
    /// Filters.
    pub out_channels: usize,
    /// Groups of channels and filters; each filter reads the channels of its own group.
    pub groups: usize,
    /// Kernel rows and columns.
    pub kernel: [usize; 2],
    /// Rows and columns from one tap to the next.
    pub dilation: [usize; 2],
    /// Zeros above and to the left; fewer than a kernel reaches.
    pub before: [usize; 2],
    /// Rows and columns of the output. Where they need more than the map has, zeros are below and to the right.
    pub out: [usize; 2],
}

impl ConvGeometry {
    /// `window` over a map of `size`; without an output where it does not fit.
    #[must_use]
    pub fn new(out_channels: usize, groups: usize, window: &Window, size: [usize; 2]) -> Self {
        Self {
            out_channels,
            groups,
            kernel: window.kernel,
            dilation: window.dilation,
            before: [window.padding.top, window.padding.left],
            out: slide(Shape::new(1, size[0], size[1]), window).unwrap_or_default(),
        }
    }

    /// A square kernel with the same padding all around, of a stride, over a square map.
    #[must_use]
    pub fn square(
        out_channels: usize,
        kernel: usize,
        padding: usize,
        stride: usize,
        size: usize,
    ) -> Self {
        Self::new(
            out_channels,
            1,
            &Window::square(kernel, stride, padding),
            [size; 2],
        )
    }
}

/// A tensor that linear layers consume under encryption.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SourceSpec {
    /// Channels C.
    pub channels: usize,
    /// Rows H.
    pub height: usize,
    /// Columns W.
    pub width: usize,
    /// Images B that are prepared together.
    pub batch: usize,
    /// Rows and columns from one output to the next, of all consumers.
    pub stride: [usize; 2],
    /// The convolutions that read it.
    pub consumers: Vec<ConvGeometry>,
    /// Tensors that are encrypted beside it, for convolutions that add into those of its consumers.
    pub guests: Vec<GuestSpec>,
}

impl SourceSpec {
    /// A square map with convolutions of one stride and of square kernels: (filters, kernel, padding) of each.
    #[must_use]
    pub fn square(
        channels: usize,
        size: usize,
        batch: usize,
        stride: usize,
        convs: &[(usize, usize, usize)],
    ) -> Self {
        let conv = |&(filters, kernel, padding): &(usize, usize, usize)| {
            ConvGeometry::square(filters, kernel, padding, stride, size)
        };
        Self {
            channels,
            height: size,
            width: size,
            batch,
            stride: [stride; 2],
            consumers: convs.iter().map(conv).collect(),
            guests: vec![],
        }
    }
}

/// A tensor that is encrypted once more, under the key and in the blocks of another source, so that a convolution of it adds
/// into a response of that source: a shortcut into the last convolution of its residual block, for instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GuestSpec {
    /// Channels.
    pub channels: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Rows and columns from one output of its convolution to the next.
    pub stride: [usize; 2],
    /// Its convolution, whose output has the shape of the consumer's.
    pub conv: ConvGeometry,
    /// Index of the consumer whose response it joins.
    pub consumer: usize,
}

/// How many images, phase channels and (for each consumer) filters share a polynomial.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PackingChoice {
    /// Images in a polynomial, B_w.
    pub images: usize,
    /// Phase channels of one image in a polynomial, C_w.
    pub channels: usize,
    /// Filters in a response polynomial, O_w, for each consumer.
    pub filters: Vec<usize>,
}

/// Why a layer cannot be packed. All of these are faults of the model or its plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackingError {
    /// A size is zero or out of proportion.
    #[error(
        "a convolution over {height}x{width} with kernel {kernel:?}, stride {stride:?}, padding {before:?} and output {out:?} is not supported: sizes must be positive, strides at most {MAX_STRIDE}, the padding smaller than the kernel, and the kernel no larger than the padded map"
    )]
    Geometry {
        /// Rows of the map.
        height: usize,
        /// Columns of the map.
        width: usize,
        /// Kernel rows and columns.
        kernel: [usize; 2],
        /// Stride of rows and columns.
        stride: [usize; 2],
        /// Zeros above and to the left.
        before: [usize; 2],
        /// Rows and columns of the output.
        out: [usize; 2],
    },
    /// One map does not fit a polynomial.
    #[error("a map takes {area} coefficients with its padding, a polynomial has {degree}")]
    MapTooLarge {
        /// Coefficients that one phase of the map takes.
        area: usize,
        /// Degree N.
        degree: usize,
    },
    /// A guest's output differs from that of the consumer that it joins.
    #[error(
        "a convolution can join only the response of another with the same output, and 16 of them at most"
    )]
    Guest,
    /// The choice does not fit its polynomial, or does not belong to its source.
    #[error(
        "{images} images x {channels} channels x {filters} filters x {area} coefficients do not fit a polynomial of {degree}, or a count is zero or missing"
    )]
    Choice {
        /// B_w.
        images: usize,
        /// C_w.
        channels: usize,
        /// O_w, zero if the list has the wrong length.
        filters: usize,
        /// Coefficients of one block.
        area: usize,
        /// Degree N.
        degree: usize,
    },
}

/// A packed source: the position of each value, and the packing of each consumer's response.
#[derive(Clone, Debug)]
pub struct SourcePacking {
    spec: SourceSpec,
    choice: PackingChoice,
    degree: usize,
    block: Block,
    responses: Vec<ResponsePacking>,
}

impl SourcePacking {
    /// Packs `spec` into polynomials of degree `degree` (a power of two, at least 64) by `choice`.
    ///
    /// # Errors
    /// If the geometry is not supported, a map is larger than a polynomial, or the choice does not fit.
    pub fn new(
        spec: &SourceSpec,
        degree: usize,
        choice: &PackingChoice,
    ) -> Result<Self, PackingError> {
        let block = Block::new(spec, degree)?;
        let refused = |filters| PackingError::Choice {
            images: choice.images,
            channels: choice.channels,
            filters,
            area: block.area,
            degree,
        };
        let counts = [choice.images, choice.channels, choice.filters.len()];
        let sound = degree.is_power_of_two() && degree >= 64 && !counts.contains(&0);
        if !sound || choice.filters.len() != spec.consumers.len() {
            return Err(refused(0));
        }
        let inputs = choice
            .images
            .checked_mul(choice.channels)
            .and_then(|n| n.checked_mul(block.area))
            .filter(|&n| n <= degree)
            .ok_or_else(|| refused(1))?;
        for &filters in &choice.filters {
            if filters == 0 || filters > degree / inputs {
                return Err(refused(filters));
            }
        }
        let responses: Vec<_> = (0..spec.consumers.len())
            .map(|index| ResponsePacking::new(spec, choice, index, degree, &block))
            .collect();
        if let Some(response) = responses.iter().find(|r| r.passes_twice()) {
            return Err(refused(response.filters_per_poly()));
        }
        Ok(Self {
            spec: spec.clone(),
            choice: choice.clone(),
            degree,
            block,
            responses,
        })
    }

    /// The tensor that is packed.
    pub fn spec(&self) -> &SourceSpec {
        &self.spec
    }

    /// The choice it was packed by.
    pub fn choice(&self) -> &PackingChoice {
        &self.choice
    }

    /// Degree N of the polynomials.
    pub fn degree(&self) -> usize {
        self.degree
    }

    /// Values of the tensor: B * C * H * W.
    pub fn n_values(&self) -> usize {
        self.spec.batch * self.spec.channels * self.spec.height * self.spec.width
    }

    /// Groups of images, G.
    pub fn n_groups(&self) -> usize {
        self.spec.batch.div_ceil(self.choice.images)
    }

    /// Polynomials of one group, I.
    pub fn n_inputs(&self) -> usize {
        self.n_phase_channels().div_ceil(self.choice.channels)
    }

    /// Polynomials in all, G * I; polynomial `g * I + i` is input i of group g.
    pub fn n_polys(&self) -> usize {
        self.n_groups() * self.n_inputs()
    }

    /// The packing of each consumer's response, in the order of the consumers.
    pub fn responses(&self) -> &[ResponsePacking] {
        &self.responses
    }

    /// Polynomial and coefficient that hold channel `c`, row `h`, column `w` of image `b`.
    pub fn position(&self, b: usize, c: usize, h: usize, w: usize) -> (usize, usize) {
        let source = &self.block.parts[0];
        let [rows, columns] = source.stride;
        let phase = columns * (h % rows) + w % columns;
        self.place(b, source.channel(phase, c), h / rows, w / columns)
    }

    /// Polynomial, coefficient and index in (B, C, H, W) order of each value of guest `guest` that its convolution reads.
    pub fn guest_positions(
        &self,
        guest: usize,
    ) -> impl Iterator<Item = (usize, usize, usize)> + '_ {
        let part = &self.block.parts[guest + 1];
        let phases = (0..self.spec.batch).flat_map(|b| (0..part.phases.len()).map(move |p| (b, p)));
        phases.flat_map(move |(b, phase)| {
            let (rows, columns) = part.n_positions(phase);
            let (first_row, first_column) = part.phases[phase];
            (0..part.channels * rows * columns).map(move |at| {
                let (c, i, j) = (at / (rows * columns), at / columns % rows, at % columns);
                let (poly, index) = self.place(b, part.channel(phase, c), i, j);
                let h = part.stride[0] * i + first_row;
                let w = part.stride[1] * j + first_column;
                let value = ((b * part.channels + c) * part.height + h) * part.width + w;
                (poly, index, value)
            })
        })
    }

    /// Polynomial and coefficient of position (i, j) of phase channel `channel` of image `b`.
    fn place(&self, b: usize, channel: usize, i: usize, j: usize) -> (usize, usize) {
        let (c_w, b_w) = (self.choice.channels, self.choice.images);
        let poly = (b / b_w) * self.n_inputs() + channel / c_w;
        let block = (b % b_w) * c_w + channel % c_w;
        let (row, column) = (i + self.block.lead.0, j + self.block.lead.1);
        (
            poly,
            block * self.block.area + row * self.block.columns + column,
        )
    }

    /// Bytes of the message of noise bits, `up_bits` for each coefficient.
    pub fn noise_bytes(&self, up_bits: u32) -> usize {
        packed_bytes(self.n_polys() * self.degree, up_bits)
    }

    /// Bytes of the message of corrections, `k_bits` for each.
    pub fn correction_bytes(&self, k_bits: u32) -> usize {
        packed_bytes(self.n_corrections(), k_bits)
    }

    fn n_phase_channels(&self) -> usize {
        self.block.n_channels()
    }

    /// Images that group `group` holds.
    fn images_in(&self, group: usize) -> usize {
        (self.spec.batch - group * self.choice.images).min(self.choice.images)
    }
}

#[cfg(test)]
mod tests;
