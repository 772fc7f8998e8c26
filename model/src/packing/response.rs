//! Where the outputs of one convolution stand in its response polynomials, and the polynomials of its weights.
//!
//! A response has G * J polynomials: polynomial `g * J + j` holds filters `j * O_w ..` of the images of group g. It is the
//! sum over the I inputs of the group of input times weight polynomial (j, i). Weight polynomials are integers; products
//! that pass N come back negated, which the outputs account for.

use super::block::{Axis, Tap};
use super::{Block, ConvGeometry, PackingChoice, Part, SourceSpec};
use crate::bits::packed_bytes;

/// The packing of one consumer of a source.
#[derive(Clone, Debug)]
pub struct ResponsePacking {
    degree: usize,
    batch: usize,
    n_channels: usize,
    b_w: usize,
    c_w: usize,
    o_w: usize,
    pub(super) area: usize,
    pub(super) columns: usize,
    out_channels: usize,
    n_out: (usize, usize),
    /// The consumer itself, then the guests that join it.
    feeds: Vec<Feed>,
    /// Exponent of tap offset (0, 0) of channel 0 in filter 0.
    exponent: usize,
    /// Index of output (0, 0) of image 0 of filter 0.
    origin: usize,
}

/// From a weight to the one at its place in the next filters' polynomial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stride {
    /// Weights from one to the next.
    pub step: usize,
    /// One past the last weight of the same convolution.
    pub end: usize,
}

/// One convolution that adds into the response.
#[derive(Clone, Debug)]
struct Feed {
    part: Part,
    groups: usize,
    /// Channels and filters of a group.
    channels_of_group: usize,
    filters_of_group: usize,
    kernel: (usize, usize),
    rows_taps: Vec<Tap>,
    columns_taps: Vec<Tap>,
}

impl Feed {
    fn new(part: &Part, conv: &ConvGeometry, (rows, columns): &(Axis, Axis)) -> Self {
        Self {
            part: part.clone(),
            groups: conv.groups,
            channels_of_group: part.channels / conv.groups,
            filters_of_group: conv.out_channels / conv.groups,
            kernel: (conv.kernel[0], conv.kernel[1]),
            rows_taps: rows.taps.clone(),
            columns_taps: columns.taps.clone(),
        }
    }

    fn n_weights_per_filter(&self) -> usize {
        self.channels_of_group * self.kernel.0 * self.kernel.1
    }

    /// (phase channel, phase, channel of the group) of each channel that filter `o` reads among those from `first` to `last`.
    fn channels_in(
        &self,
        o: usize,
        first: usize,
        last: usize,
    ) -> impl Iterator<Item = (usize, usize, usize)> + use<> {
        let (start, channels, each) = (self.part.first, self.part.channels, self.channels_of_group);
        let group = o / self.filters_of_group * each;
        (0..self.part.phases.len()).flat_map(move |phase| {
            let own = start + phase * channels + group;
            let read = first.max(own)..last.min(own + each).max(first.max(own));
            read.map(move |channel| (channel, phase, channel - own))
        })
    }

    /// The inputs, of `c_w` phase channels each, that filters from `first` to `last` (excluded) read, as ranges in order.
    fn inputs_of(&self, first: usize, last: usize, c_w: usize) -> Vec<(usize, usize)> {
        let each = self.channels_of_group;
        let low = first / self.filters_of_group * each;
        let high = ((last - 1) / self.filters_of_group + 1) * each;
        let phases = 0..self.part.phases.len();
        let read = phases.filter(|&phase| self.taps(phase, 1).next().is_some());
        let ranges = read.map(|phase| {
            let start = self.part.first + phase * self.part.channels;
            ((start + low) / c_w, (start + high - 1) / c_w + 1)
        });
        ranges.collect()
    }

    /// (kernel row, kernel column, distance in coefficients) of each tap that reads the phase number `phase`.
    fn taps(&self, phase: usize, columns: usize) -> impl Iterator<Item = (usize, usize, isize)> {
        let (row_phase, column_phase) = self.part.phases[phase];
        self.rows_taps
            .iter()
            .filter(move |t| t.phase == row_phase)
            .flat_map(move |r| {
                self.columns_taps
                    .iter()
                    .filter(move |t| t.phase == column_phase)
                    .map(move |c| (r.tap, c.tap, r.offset * columns as isize + c.offset))
            })
    }
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
        let axes = &block.axes[consumer];
        let own = Feed::new(&block.parts[0], &conv, axes);
        let mut feeds = vec![own];
        let (mut most_rows, mut most_columns) = (axes.0.max.max(0), axes.1.max.max(0));
        for (index, guest) in spec.guests.iter().enumerate() {
            if guest.consumer == consumer {
                let axes = &block.guest_axes[index];
                feeds.push(Feed::new(&block.parts[index + 1], &guest.conv, axes));
                most_rows = most_rows.max(axes.0.max);
                most_columns = most_columns.max(axes.1.max);
            }
        }
        let spatial = most_rows as usize * block.columns + most_columns as usize;
        let exponent = (choice.channels - 1) * block.area + spatial;
        Self {
            degree,
            batch: spec.batch,
            n_channels: block.n_channels(),
            b_w: choice.images,
            c_w: choice.channels,
            o_w: choice.filters[consumer],
            area: block.area,
            columns: block.columns,
            out_channels: conv.out_channels,
            n_out: (axes.0.n_out, axes.1.n_out),
            feeds,
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
        self.n_channels.div_ceil(self.c_w)
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

    /// Whether any product would pass N twice: then it could not be read.
    pub(super) fn passes_twice(&self) -> bool {
        let last = self.unwrapped(
            self.b_w - 1,
            self.o_w - 1,
            self.n_out.0 - 1,
            self.n_out.1 - 1,
        );
        last >= 2 * self.degree
    }

    /// Whether all filter polynomials have their weights at the same places, as without groups.
    #[must_use]
    pub fn is_uniform(&self) -> bool {
        self.feeds.iter().all(|feed| feed.groups == 1)
    }

    /// The input polynomials of a group that meet a weight of filter polynomial `filters`, in order.
    #[must_use]
    pub fn inputs_of(&self, filters: usize) -> Vec<usize> {
        let first = filters * self.o_w;
        let last = (first + self.o_w).min(self.out_channels);
        let feeds = self.feeds.iter();
        let mut ranges: Vec<_> = feeds
            .flat_map(|f| f.inputs_of(first, last, self.c_w))
            .collect();
        ranges.sort_unstable();
        let mut inputs: Vec<usize> = Vec::new();
        for (start, end) in ranges {
            let next = inputs.last().map_or(0, |last| last + 1);
            inputs.extend(start.max(next)..end);
        }
        inputs
    }

    /// Pairs of a filter, counted within polynomial `filters`, and a slot of input polynomial `input` that it reads.
    pub(super) fn meet(&self, filters: usize, input: usize) -> Vec<(usize, usize)> {
        let (first, last) = self.channels_of(input);
        let start = filters * self.o_w;
        let of_poly = start..(start + self.o_w).min(self.out_channels);
        let mut pairs: Vec<(usize, usize)> = self
            .feeds
            .iter()
            .flat_map(|feed| {
                let of_poly = of_poly.clone();
                of_poly.flat_map(move |o| {
                    let read = feed.channels_in(o, first, last);
                    read.map(move |(channel, ..)| (o - start, channel - first))
                })
            })
            .collect();
        pairs.sort_unstable();
        pairs
    }

    /// Weights: O * C / groups * kh * kw, and as many for each guest.
    pub fn n_weights(&self) -> usize {
        let each = self.feeds.iter().map(Feed::n_weights_per_filter);
        self.out_channels * each.sum::<usize>()
    }

    /// Products of polynomials that the whole response takes.
    pub fn n_products(&self) -> usize {
        if self.is_uniform() {
            return self.n_polys() * self.inputs_of(0).len();
        }
        let filters = 0..self.n_filter_polys();
        self.n_groups() * filters.map(|j| self.inputs_of(j).len()).sum::<usize>()
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

    /// Writes weight polynomial (`filters`, `input`) into `out` (N coefficients), from `weights` in (O, C / groups, kh, kw) order;
    /// those of guests follow, guest by guest.
    pub fn kernel(&self, filters: usize, input: usize, weights: &[i32], out: &mut [i32]) {
        out.fill(0);
        let first = filters * self.o_w;
        let (first_channel, last_channel) = self.channels_of(input);
        let mut weights = weights;
        for feed in &self.feeds {
            let (of_feed, others) =
                weights.split_at(self.out_channels * feed.n_weights_per_filter());
            weights = others;
            let (kernel_h, kernel_w) = feed.kernel;
            for o in first..(first + self.o_w).min(self.out_channels) {
                for (channel, phase, real) in feed.channels_in(o, first_channel, last_channel) {
                    let row = (o * feed.channels_of_group + real) * kernel_h;
                    let slot = channel - first_channel;
                    for (u, v, back) in feed.taps(phase, self.columns) {
                        let forward = (o - first) * self.filter_step() + self.exponent;
                        let index = (forward - slot * self.area).wrapping_add_signed(-back);
                        let weight = of_feed[(row + u) * kernel_w + v];
                        if index >= self.degree {
                            out[index - self.degree] = weight.wrapping_neg();
                        } else {
                            out[index] = weight;
                        }
                    }
                }
            }
        }
    }

    /// Where weight `number` of weight polynomials (0, ..) has its counterparts in polynomials (j, ..): at `number + j * step`,
    /// as long as that is below `end`. The numbers are those of [`Self::kernel`]. For packings that are [uniform](Self::is_uniform).
    pub fn stride(&self, number: usize) -> Stride {
        let mut end = 0;
        let mut step = 0;
        for feed in &self.feeds {
            let each = feed.n_weights_per_filter();
            (step, end) = (self.o_w * each, end + self.out_channels * each);
            if number < end {
                break;
            }
        }
        Stride { step, end }
    }

    /// Sums of |w| and of w^2 over all filters of response polynomial `filters`, all inputs together.
    pub fn norms(&self, filters: usize, weights: &[i32]) -> (u64, u64) {
        let (mut one, mut two, mut weights) = (0u64, 0u64, weights);
        for feed in &self.feeds {
            let each = feed.n_weights_per_filter();
            let (of_feed, others) = weights.split_at((self.out_channels * each).min(weights.len()));
            weights = others;
            let first = (filters * self.o_w * each).min(of_feed.len());
            let last = (first + self.o_w * each).min(of_feed.len());
            for &w in &of_feed[first..last] {
                let w = u64::from(w.unsigned_abs());
                one = one.saturating_add(w);
                two = two.saturating_add(w * w);
            }
        }
        (one, two)
    }

    /// The largest of the sums of signed weights over all filters and inputs that a coefficient of response polynomial `filters` is made
    /// of: at each, the weights that have wrapped around N count negatively. It is what a constant in every input would become.
    #[must_use]
    pub fn largest_sum(&self, filters: usize, weights: &[i32]) -> u64 {
        let mut sums = vec![0i64; self.degree()];
        let mut coefficients = vec![0; self.degree()];
        for input in self.inputs_of(filters) {
            coefficients.fill(0);
            self.kernel(filters, input, weights, &mut coefficients);
            let total: i64 = coefficients.iter().map(|&w| i64::from(w)).sum();
            let mut so_far = 0;
            for (sum, &w) in sums.iter_mut().zip(&coefficients) {
                so_far += i64::from(w);
                *sum += 2 * so_far - total;
            }
        }
        let largest = sums.iter().map(|s| s.unsigned_abs()).max();
        largest.unwrap_or(0)
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

    /// Exponents in filter 0 of the taps of the phase channel in `slot`, which holds the phase of number `class` among those
    /// of all parts, as if every filter read every channel.
    pub(super) fn exponents(&self, slot: usize, class: usize) -> impl Iterator<Item = usize> {
        let base = self.exponent - slot * self.area;
        let feeds = self.feeds.iter();
        feeds
            .filter_map(move |feed| {
                let phase = class.checked_sub(feed.part.first_class)?;
                (phase < feed.part.phases.len()).then_some((feed, phase))
            })
            .flat_map(|(feed, phase)| feed.taps(phase, self.columns))
            .map(move |(_, _, back)| base.wrapping_add_signed(-back))
    }

    /// First and last (excluded) phase channel in input polynomial `input`.
    fn channels_of(&self, input: usize) -> (usize, usize) {
        let first = input * self.c_w;
        (first, (first + self.c_w).min(self.n_channels))
    }
}
