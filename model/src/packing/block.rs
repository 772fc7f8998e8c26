//! The shape of a block, in which one phase channel of one image lies, and what the tensors of a source put into blocks.

use super::{ConvGeometry, PackingError, SourceSpec};

/// One kernel row or column: the phase that it reads, and at what offset from the output's position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tap {
    pub tap: usize,
    pub phase: usize,
    pub offset: isize,
}

/// One axis of a convolution: its output size, and the taps that ever meet data.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    pub n_out: usize,
    pub taps: Vec<Tap>,
    min: isize,
    pub max: isize,
}

/// Largest stride of an axis.
pub const MAX_STRIDE: usize = 8;

impl Axis {
    /// One axis of `conv` over `size` positions. `None` if the sizes make no sense. Taps that only ever meet padding are left out:
    /// they would widen the block.
    fn new(conv: &ConvGeometry, axis: usize, size: usize, stride: usize) -> Option<Self> {
        let (kernel, dilation) = (conv.kernel[axis], conv.dilation[axis]);
        let (before, n_out) = (conv.before[axis], conv.out[axis]);
        let bounded = |n: usize| (1..1 << 20).contains(&n);
        let sound = [size, kernel, dilation, n_out].into_iter().all(bounded);
        if !sound || before > (kernel - 1) * dilation || !(1..=MAX_STRIDE).contains(&stride) {
            return None;
        }
        let taps: Vec<Tap> = (0..kernel)
            .map(|tap| {
                let shifted = (tap * dilation) as isize - before as isize;
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

    /// The phases that are read, in order.
    pub fn phases(&self) -> Vec<usize> {
        (0..MAX_STRIDE)
            .filter(|&p| self.taps.iter().any(|t| t.phase == p))
            .collect()
    }

    /// Zeros needed in front of `n_positions`, which also serve behind the block before.
    fn lead(&self, n_positions: usize) -> usize {
        let behind = self.n_out as isize + self.max - n_positions as isize;
        (-self.min).max(behind).max(0) as usize
    }
}

/// Most guests of a source: far more than networks have.
const MAX_GUESTS: usize = 16;

/// One tensor of a source: the source itself, or a guest.
#[derive(Clone, Debug)]
pub(super) struct Part {
    /// Its first phase channel among those of all parts.
    pub first: usize,
    /// Number of its first phase among those of all parts.
    pub first_class: usize,
    pub channels: usize,
    pub height: usize,
    pub width: usize,
    pub stride: [usize; 2],
    /// The phases that are encrypted, rows first: all of the source's, those that are read of a guest's.
    pub phases: Vec<(usize, usize)>,
}

impl Part {
    /// Phase channels.
    pub fn n_channels(&self) -> usize {
        self.phases.len() * self.channels
    }

    /// Number among all phase channels of channel `c` in the phase number `phase` of this part.
    pub fn channel(&self, phase: usize, c: usize) -> usize {
        self.first + phase * self.channels + c
    }

    /// Rows and columns of a phase.
    pub fn n_positions(&self, phase: usize) -> (usize, usize) {
        let (a, b) = self.phases[phase];
        let count = |size: usize, first: usize, axis: usize| {
            size.saturating_sub(first).div_ceil(self.stride[axis])
        };
        (count(self.height, a, 0), count(self.width, b, 1))
    }
}

/// The block of one phase channel: shared by all parts and all consumers of a source.
#[derive(Clone, Debug)]
pub(super) struct Block {
    pub lead: (usize, usize),
    pub columns: usize,
    pub area: usize,
    /// The source, then its guests.
    pub parts: Vec<Part>,
    /// Axes of each consumer.
    pub axes: Vec<(Axis, Axis)>,
    /// Axes of each guest's convolution.
    pub guest_axes: Vec<(Axis, Axis)>,
}

impl Block {
    pub fn new(spec: &SourceSpec, degree: usize) -> Result<Self, PackingError> {
        let (size, stride) = ((spec.height, spec.width), spec.stride);
        let axes = spec
            .consumers
            .iter()
            .map(|conv| axes(conv, size, stride, spec.channels, spec.batch))
            .collect::<Result<Vec<_>, _>>()?;
        if axes.is_empty() {
            return Err(PackingError::MapTooLarge { area: 0, degree });
        }
        let all = (0..stride[0]).flat_map(|a| (0..stride[1]).map(move |b| (a, b)));
        let mut parts = vec![Part {
            first: 0,
            first_class: 0,
            channels: spec.channels,
            height: spec.height,
            width: spec.width,
            stride,
            phases: all.collect(),
        }];
        if spec.guests.len() > MAX_GUESTS {
            return Err(PackingError::Guest);
        }
        let mut guest_axes = Vec::with_capacity(spec.guests.len());
        for guest in &spec.guests {
            let size = (guest.height, guest.width);
            let (rows, columns) =
                self::axes(&guest.conv, size, guest.stride, guest.channels, spec.batch)?;
            let host = axes
                .get(guest.consumer)
                .zip(spec.consumers.get(guest.consumer));
            let fits = host.is_some_and(|(host, conv)| {
                (host.0.n_out, host.1.n_out, conv.out_channels)
                    == (rows.n_out, columns.n_out, guest.conv.out_channels)
            });
            if !fits {
                return Err(PackingError::Guest);
            }
            let (first, first_class) = parts.last().map_or((0, 0), |p| {
                (p.first + p.n_channels(), p.first_class + p.phases.len())
            });
            let column_phases = columns.phases();
            let read = rows.phases().into_iter();
            parts.push(Part {
                first,
                first_class,
                channels: guest.channels,
                height: guest.height,
                width: guest.width,
                stride: guest.stride,
                phases: read
                    .flat_map(|a| column_phases.iter().map(move |&b| (a, b)))
                    .collect(),
            });
            guest_axes.push((rows, columns));
        }
        let rows = parts.iter().map(|p| p.height.div_ceil(p.stride[0]));
        let columns = parts.iter().map(|p| p.width.div_ceil(p.stride[1]));
        let (n_rows, n_columns) = (rows.max().unwrap_or(0), columns.max().unwrap_or(0));
        let of_all = || axes.iter().chain(&guest_axes);
        let lead = (
            of_all().map(|a| a.0.lead(n_rows)).max().unwrap_or(0),
            of_all().map(|a| a.1.lead(n_columns)).max().unwrap_or(0),
        );
        let columns = n_columns + lead.1;
        let area = (n_rows + lead.0) * columns;
        if area > degree {
            return Err(PackingError::MapTooLarge { area, degree });
        }
        Ok(Self {
            lead,
            columns,
            area,
            parts,
            axes,
            guest_axes,
        })
    }

    /// Phase channels of all parts.
    pub fn n_channels(&self) -> usize {
        self.parts.iter().map(Part::n_channels).sum()
    }
}

/// Both axes of `conv` over a map of `size` with `channels`, in a batch of so many images.
fn axes(
    conv: &ConvGeometry,
    size: (usize, usize),
    stride: [usize; 2],
    channels: usize,
    batch: usize,
) -> Result<(Axis, Axis), PackingError> {
    let rows = Axis::new(conv, 0, size.0, stride[0]);
    let columns = Axis::new(conv, 1, size.1, stride[1]);
    let divides = |n: usize| n > 0 && conv.groups > 0 && n.is_multiple_of(conv.groups);
    rows.zip(columns)
        .filter(|_| divides(conv.out_channels) && divides(channels) && batch > 0)
        .ok_or(PackingError::Geometry {
            height: size.0,
            width: size.1,
            kernel: conv.kernel,
            stride,
            before: conv.before,
            out: conv.out,
        })
}
