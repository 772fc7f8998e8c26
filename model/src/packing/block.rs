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

    /// The phases that are read, in order.
    pub fn phases(&self) -> Vec<usize> {
        (0..2)
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
    pub stride: usize,
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
        let count = |size: usize, first: usize| size.saturating_sub(first).div_ceil(self.stride);
        (count(self.height, a), count(self.width, b))
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
            .map(|conv| axes(conv, size, stride, spec.channels.min(spec.batch)))
            .collect::<Result<Vec<_>, _>>()?;
        if axes.is_empty() {
            return Err(PackingError::MapTooLarge { area: 0, degree });
        }
        let all = (0..stride).flat_map(|a| (0..stride).map(move |b| (a, b)));
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
            let (rows, columns) = self::axes(&guest.conv, size, guest.stride, guest.channels)?;
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
        let most = |of: fn(&Part) -> usize| {
            let positions = parts.iter().map(|p| of(p).div_ceil(p.stride));
            positions.max().unwrap_or(0)
        };
        let (n_rows, n_columns) = (most(|p| p.height), most(|p| p.width));
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

/// Both axes of `conv` over a map of `size`; `count`, of channels or images, must not be zero.
fn axes(
    conv: &ConvGeometry,
    size: (usize, usize),
    stride: usize,
    count: usize,
) -> Result<(Axis, Axis), PackingError> {
    let rows = Axis::new(size.0, conv.kernel_h, conv.padding, stride);
    let columns = Axis::new(size.1, conv.kernel_w, conv.padding, stride);
    rows.zip(columns)
        .filter(|_| conv.out_channels > 0 && count > 0)
        .ok_or(PackingError::Geometry {
            height: size.0,
            width: size.1,
            kernel_h: conv.kernel_h,
            kernel_w: conv.kernel_w,
            stride,
            padding: conv.padding,
        })
}
