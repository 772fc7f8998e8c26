//! Where the outputs of one convolution stand in its response polynomials, and the polynomials of its weights.
//!
//! A response has G * J polynomials: polynomial `g * J + j` holds filters `j * O_w ..` of the images of group g. It is the
//! sum over the I inputs of the group of input times weight polynomial (j, i). Weight polynomials are integers; products
//! that pass N come back negated, which the outputs account for.

use super::{Block, PackingChoice, SourceSpec, Tap};
use crate::bits::packed_bytes;

/// The packing of one consumer of a source.
#[derive(Clone, Debug)]
pub struct ResponsePacking {
    degree: usize,
    batch: usize,
    in_channels: usize,
    stride: usize,
    b_w: usize,
    c_w: usize,
    o_w: usize,
    pub(super) area: usize,
    pub(super) columns: usize,
    out_channels: usize,
    kernel: (usize, usize),
    n_out: (usize, usize),
    rows_taps: Vec<Tap>,
    columns_taps: Vec<Tap>,
    /// Exponent of tap offset (0, 0) of channel 0 in filter 0.
    exponent: usize,
    /// Index of output (0, 0) of image 0 of filter 0.
    origin: usize,
}

impl ResponsePacking {
    pub(super) fn new(
        spec: &SourceSpec,
        choice: &PackingChoice,
        consumer: usize,
        degree: usize,
        block: &Block,
    ) -> Self {
        let conv = spec.consumers[consumer];
        let (rows, columns) = &block.axes[consumer];
        // Padding is smaller than the kernel, so the tap at offset 0 exists and both maxima are at least 0.
        let spatial = rows.max as usize * block.columns + columns.max as usize;
        let exponent = (choice.channels - 1) * block.area + spatial;
        Self {
            degree,
            batch: spec.batch,
            in_channels: spec.channels,
            stride: spec.stride,
            b_w: choice.images,
            c_w: choice.channels,
            o_w: choice.filters[consumer],
            area: block.area,
            columns: block.columns,
            out_channels: conv.out_channels,
            kernel: (conv.kernel_h, conv.kernel_w),
            n_out: (rows.n_out, columns.n_out),
            rows_taps: rows.taps.clone(),
            columns_taps: columns.taps.clone(),
            exponent,
            origin: exponent + block.lead.0 * block.columns + block.lead.1,
        }
    }

    /// Degree N of the polynomials.
    pub fn degree(&self) -> usize {
        self.degree
    }

    /// Images B.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Filters O.
    pub fn out_channels(&self) -> usize {
        self.out_channels
    }

    /// Rows of the output.
    pub fn out_height(&self) -> usize {
        self.n_out.0
    }

    /// Columns of the output.
    pub fn out_width(&self) -> usize {
        self.n_out.1
    }

    /// Filters in a polynomial, O_w.
    pub fn filters_per_poly(&self) -> usize {
        self.o_w
    }

    /// Groups of images, G.
    pub fn n_groups(&self) -> usize {
        self.batch.div_ceil(self.b_w)
    }

    /// Input polynomials of one group, I.
    pub fn n_inputs(&self) -> usize {
        (self.stride * self.stride * self.in_channels).div_ceil(self.c_w)
    }

    /// Response polynomials of one group, J.
    pub fn n_filter_polys(&self) -> usize {
        self.out_channels.div_ceil(self.o_w)
    }

    /// Response polynomials in all, G * J.
    pub fn n_polys(&self) -> usize {
        self.n_groups() * self.n_filter_polys()
    }

    /// Values of the output: B * O * Ho * Wo.
    pub fn n_outputs(&self) -> usize {
        self.batch * self.out_channels * self.n_out.0 * self.n_out.1
    }

    /// Weights: O * C * kh * kw.
    pub fn n_weights(&self) -> usize {
        self.out_channels * self.n_weights_per_filter()
    }

    /// Products of polynomials that the whole response takes.
    pub fn n_products(&self) -> usize {
        let used = (0..self.n_inputs()).filter(|&i| self.reads(i)).count();
        self.n_polys() * used
    }

    /// Bytes of the response, `down_bits` for each coefficient.
    pub fn response_bytes(&self, down_bits: u32) -> usize {
        packed_bytes(self.n_polys() * self.degree, down_bits)
    }

    /// Polynomial and coefficient of output (i, j) of filter `o`, image `b`, and whether it is read negated.
    pub fn output(&self, b: usize, o: usize, i: usize, j: usize) -> (usize, usize, bool) {
        let poly = (b / self.b_w) * self.n_filter_polys() + o / self.o_w;
        let index = self.unwrapped(b % self.b_w, o % self.o_w, i, j);
        if index >= self.degree {
            (poly, index - self.degree, true)
        } else {
            (poly, index, false)
        }
    }

    /// Collects the outputs, in (B, O, Ho, Wo) order and modulo `2^k_bits`, from the response's polynomials.
    pub fn gather<P: AsRef<[u64]>>(&self, polys: &[P], k_bits: u32) -> Vec<u64> {
        let mask = u64::MAX >> (64 - k_bits);
        let mut values = Vec::with_capacity(self.n_outputs());
        for b in 0..self.batch {
            for o in 0..self.out_channels {
                for i in 0..self.n_out.0 {
                    for j in 0..self.n_out.1 {
                        let (poly, index, negated) = self.output(b, o, i, j);
                        let value = polys[poly].as_ref()[index];
                        let value = if negated { value.wrapping_neg() } else { value };
                        values.push(value & mask);
                    }
                }
            }
        }
        values
    }

    /// Whether any weight meets input polynomial `input` of a group. Strided 1x1 kernels leave most of them out.
    pub fn reads(&self, input: usize) -> bool {
        self.channels_of(input)
            .any(|(_, channel)| self.taps(channel / self.in_channels).next().is_some())
    }

    /// Writes weight polynomial (`filters`, `input`) into `out` (N coefficients), from `weights` in (O, C, kh, kw) order.
    pub fn kernel(&self, filters: usize, input: usize, weights: &[i32], out: &mut [i32]) {
        out.fill(0);
        let (kernel_h, kernel_w) = self.kernel;
        let first = filters * self.o_w;
        for o in first..(first + self.o_w).min(self.out_channels) {
            for (slot, channel) in self.channels_of(input) {
                let real = channel % self.in_channels;
                let row = (o * self.in_channels + real) * kernel_h;
                for (u, v, back) in self.taps(channel / self.in_channels) {
                    let forward = (o - first) * self.filter_step() + self.exponent;
                    let index = (forward - slot * self.area).wrapping_add_signed(-back);
                    let weight = weights[(row + u) * kernel_w + v];
                    if index >= self.degree {
                        out[index - self.degree] = weight.wrapping_neg();
                    } else {
                        out[index] = weight;
                    }
                }
            }
        }
    }

    /// Sums of |w| and of w^2 over all filters of response polynomial `filters`, all inputs together.
    pub fn norms(&self, filters: usize, weights: &[i32]) -> (u64, u64) {
        let first = filters * self.o_w * self.n_weights_per_filter();
        let last = (first + self.o_w * self.n_weights_per_filter()).min(weights.len());
        let of_poly = &weights[first.min(last)..last];
        of_poly.iter().fold((0, 0), |(one, two), &w| {
            let w = u64::from(w.unsigned_abs());
            (one.saturating_add(w), two.saturating_add(w * w))
        })
    }

    fn n_weights_per_filter(&self) -> usize {
        self.in_channels * self.kernel.0 * self.kernel.1
    }

    /// Coefficients from one filter to the next.
    pub(super) fn filter_step(&self) -> usize {
        self.b_w * self.c_w * self.area
    }

    /// Index of an output before it wraps around N; `b` and `o` count within the polynomial.
    fn unwrapped(&self, b: usize, o: usize, i: usize, j: usize) -> usize {
        (o * self.b_w + b) * self.c_w * self.area + self.origin + i * self.columns + j
    }

    /// Indices before wrapping of all outputs of a polynomial with `images` images and as many filters as there are.
    pub(super) fn used(&self, images: usize) -> impl Iterator<Item = usize> {
        let (n_filters, (rows, columns)) = (self.o_w.min(self.out_channels), self.n_out);
        (0..n_filters).flat_map(move |o| {
            (0..images).flat_map(move |b| {
                (0..rows).flat_map(move |i| (0..columns).map(move |j| self.unwrapped(b, o, i, j)))
            })
        })
    }

    /// Exponents in filter 0 of the taps of the phase channel in `slot`, which holds `phase`.
    pub(super) fn exponents(&self, slot: usize, phase: usize) -> impl Iterator<Item = usize> {
        let base = self.exponent - slot * self.area;
        self.taps(phase)
            .map(move |(_, _, back)| base.wrapping_add_signed(-back))
    }

    /// (slot, phase channel) of each channel in input polynomial `input`.
    fn channels_of(&self, input: usize) -> impl Iterator<Item = (usize, usize)> {
        let first = input * self.c_w;
        let last = (first + self.c_w).min(self.stride * self.stride * self.in_channels);
        (first..last).map(move |channel| (channel - first, channel))
    }

    /// (kernel row, kernel column, distance in coefficients) of each tap that reads `phase`.
    fn taps(&self, phase: usize) -> impl Iterator<Item = (usize, usize, isize)> {
        let (row_phase, column_phase) = (phase / self.stride, phase % self.stride);
        self.rows_taps
            .iter()
            .filter(move |t| t.phase == row_phase)
            .flat_map(move |r| {
                self.columns_taps
                    .iter()
                    .filter(move |t| t.phase == column_phase)
                    .map(move |c| (r.tap, c.tap, r.offset * self.columns as isize + c.offset))
            })
    }
}
