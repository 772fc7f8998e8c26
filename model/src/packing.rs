//! Where the values of a convolution lie in the coefficients of polynomials of Z\[X\]/(X^N + 1).
//!
//! Coefficient packing after Huang, Lu, Hong, Ding, "Cheetah" (USENIX Security 2022, section 3), with two additions: the
//! batch is a third axis beside channels and filters, and a convolution of stride s reads s * s phases of its input, so
//! that one polynomial product computes it without waste. No slots, no rotations.
//!
//! A *source* is a tensor (B, C, H, W) that one or more convolutions of equal stride consume. Along each axis, row
//! `s * i + a` is position i of phase a; phase channel `(s * a + b) * C + c` holds phase (a, b) of channel c. A tap u with
//! padding p reads phase (u - p) mod s at offset floor((u - p) / s). Each phase channel of an image is a block of
//! A = H' * W' coefficients, H' = ceil(H / s) + lead: the rows and columns in front serve as padding on both sides.
//! Image b, phase channel c, position (i, j) lies at `(b * C_w + c) * A + (i + lead) * W' + (j + lead)`; filter o has tap
//! (du, dv) of channel c at `o * B_w * C_w * A + O - c * A - du * W' - dv`, with O the least offset that keeps exponents
//! non-negative; the output (i, j) of image b then stands at `(o * B_w + b) * C_w * A + O + (i + lead) * W' + (j + lead)`,
//! negated if that wraps around N. Required: B_w * C_w * O_w * A <= N.
//!
//! Every position that a used output reads and that holds no data must hold zero: see [`SourcePacking::corrections`].

mod plan;
mod response;
mod zeros;

pub use plan::{PackingCost, choose};
pub use response::ResponsePacking;

use crate::bits::packed_bytes;
use serde::{Deserialize, Serialize};

/// A convolution as seen from its source, which fixes its stride. A linear layer is a 1x1 kernel over a 1x1 map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ConvGeometry {
    /// Filters.
    pub out_channels: usize,
    /// Kernel rows.
    pub kernel_h: usize,
    /// Kernel columns.
    pub kernel_w: usize,
    /// Zeros on each side, both axes; smaller than the kernel.
    pub padding: usize,
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
    /// Stride of all consumers, 1 or 2.
    pub stride: usize,
    /// The convolutions that read it.
    pub consumers: Vec<ConvGeometry>,
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
        "a convolution over {height}x{width} with kernel {kernel_h}x{kernel_w}, stride {stride}, padding {padding} is not supported: sizes must be positive, the stride 1 or 2, the padding smaller than the kernel, and the kernel no larger than the padded map"
    )]
    Geometry {
        /// Rows of the map.
        height: usize,
        /// Columns of the map.
        width: usize,
        /// Kernel rows.
        kernel_h: usize,
        /// Kernel columns.
        kernel_w: usize,
        /// Stride.
        stride: usize,
        /// Padding.
        padding: usize,
    },
    /// One map does not fit a polynomial.
    #[error(
        "a map takes {area} coefficients with its padding, a polynomial has {degree}: use a smaller input or a larger stride in the first layer"
    )]
    MapTooLarge {
        /// Coefficients that one phase of the map takes.
        area: usize,
        /// Degree N.
        degree: usize,
    },
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

/// One kernel row or column: the phase that it reads, and at what offset from the output's position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tap {
    tap: usize,
    phase: usize,
    offset: isize,
}

/// One axis of a convolution: its output size, and the taps that ever meet data.
#[derive(Clone, Debug)]
struct Axis {
    n_out: usize,
    taps: Vec<Tap>,
    min: isize,
    max: isize,
}

impl Axis {
    /// `None` if the sizes make no sense. Taps that only ever meet padding are left out: they would widen the block.
    fn new(size: usize, kernel: usize, padding: usize, stride: usize) -> Option<Self> {
        let bounded = (1..1 << 20).contains(&size) && kernel < 1 << 20;
        if padding >= kernel || !(1..=2).contains(&stride) || !bounded {
            return None;
        }
        let n_out = ((size + 2 * padding).checked_sub(kernel)?) / stride + 1;
        let taps: Vec<Tap> = (0..kernel)
            .map(|tap| {
                let shifted = tap as isize - padding as isize;
                let phase = shifted.rem_euclid(stride as isize) as usize;
                let offset = shifted.div_euclid(stride as isize);
                Tap { tap, phase, offset }
            })
            .filter(|t| {
                let n_positions = size.saturating_sub(t.phase).div_ceil(stride) as isize;
                t.offset < n_positions && n_out as isize - 1 + t.offset >= 0 && n_positions > 0
            })
            .collect();
        let min = taps.iter().map(|t| t.offset).min()?;
        let max = taps.iter().map(|t| t.offset).max()?;
        let axis = Self {
            n_out,
            taps,
            min,
            max,
        };
        Some(axis)
    }

    /// Zeros needed in front of `n_positions`, which also serve behind the block before.
    fn lead(&self, n_positions: usize) -> usize {
        let behind = self.n_out as isize + self.max - n_positions as isize;
        (-self.min).max(behind).max(0) as usize
    }
}

/// A packed source: the position of each value, and the packing of each consumer's response.
#[derive(Clone, Debug)]
pub struct SourcePacking {
    spec: SourceSpec,
    choice: PackingChoice,
    degree: usize,
    lead: (usize, usize),
    columns: usize,
    area: usize,
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
        let responses = (0..spec.consumers.len())
            .map(|index| ResponsePacking::new(spec, choice, index, degree, &block))
            .collect();
        Ok(Self {
            spec: spec.clone(),
            choice: choice.clone(),
            degree,
            lead: block.lead,
            columns: block.columns,
            area: block.area,
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
        let (stride, c_w, b_w) = (self.spec.stride, self.choice.channels, self.choice.images);
        let channel = (stride * (h % stride) + w % stride) * self.spec.channels + c;
        let poly = (b / b_w) * self.n_inputs() + channel / c_w;
        let block = (b % b_w) * c_w + channel % c_w;
        let (row, column) = (h / stride + self.lead.0, w / stride + self.lead.1);
        (poly, block * self.area + row * self.columns + column)
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
        self.spec.stride * self.spec.stride * self.spec.channels
    }

    /// Images that group `group` holds.
    fn images_in(&self, group: usize) -> usize {
        (self.spec.batch - group * self.choice.images).min(self.choice.images)
    }
}

/// The block of one phase channel: shared by all consumers of a source.
#[derive(Clone, Debug)]
struct Block {
    lead: (usize, usize),
    columns: usize,
    area: usize,
    axes: Vec<(Axis, Axis)>,
}

impl Block {
    fn new(spec: &SourceSpec, degree: usize) -> Result<Self, PackingError> {
        let SourceSpec {
            height,
            width,
            stride,
            ..
        } = *spec;
        let mut axes = Vec::with_capacity(spec.consumers.len());
        let mut lead = (0, 0);
        for conv in &spec.consumers {
            let refused = || PackingError::Geometry {
                height,
                width,
                kernel_h: conv.kernel_h,
                kernel_w: conv.kernel_w,
                stride,
                padding: conv.padding,
            };
            if conv.out_channels == 0 || spec.channels == 0 || spec.batch == 0 {
                return Err(refused());
            }
            let rows =
                Axis::new(height, conv.kernel_h, conv.padding, stride).ok_or_else(refused)?;
            let columns =
                Axis::new(width, conv.kernel_w, conv.padding, stride).ok_or_else(refused)?;
            lead.0 = rows.lead(height.div_ceil(stride)).max(lead.0);
            lead.1 = columns.lead(width.div_ceil(stride)).max(lead.1);
            axes.push((rows, columns));
        }
        let columns = width.div_ceil(stride.max(1)) + lead.1;
        let area = (height.div_ceil(stride.max(1)) + lead.0) * columns;
        if area > degree || axes.is_empty() {
            return Err(PackingError::MapTooLarge { area, degree });
        }
        Ok(Self {
            lead,
            columns,
            area,
            axes,
        })
    }
}

#[cfg(test)]
mod tests;
