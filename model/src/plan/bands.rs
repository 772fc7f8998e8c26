//! Maps that are larger than a polynomial are cut into bands: rectangles of rows and columns, each packed as a source of its own.
//!
//! A band is encrypted once, under a key of its own and without the rows around it. Its product is what its rows add to every output
//! that reads any of them, so an output at an edge is the sum of several responses; both parties add their shares locally. Nothing is
//! encrypted twice, and the rule of one mask and one key for each source holds band by band.

use serde::Serialize;

use crate::graph::{Conv, Source};
use crate::packing::ConvGeometry;

/// A rectangle of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Region {
    /// First row and column.
    pub first: [usize; 2],
    /// Rows and columns.
    pub size: [usize; 2],
}

impl Region {
    /// A map of `size`.
    #[must_use]
    pub const fn whole(size: [usize; 2]) -> Self {
        Self {
            first: [0; 2],
            size,
        }
    }

    /// Values of one channel.
    #[must_use]
    pub const fn area(&self) -> usize {
        self.size[0] * self.size[1]
    }

    /// Where each of its lines begins in maps of `size`, channel after channel without end.
    pub fn lines(&self, size: [usize; 2]) -> impl Iterator<Item = usize> + use<> {
        let Self {
            first,
            size: [rows, _],
        } = *self;
        (0..).flat_map(move |plane| {
            let row = plane * size[0] + first[0];
            (row..row + rows).map(move |row| row * size[1] + first[1])
        })
    }
}

/// Bands of `height` rows and `width` columns, and what remains at the ends.
pub(super) fn cut(source: &Source, height: usize, width: usize) -> Vec<Region> {
    let starts = |extent: usize, size: usize| (0..extent).step_by(size);
    let shape = source.shape;
    let rows = starts(shape.height, height);
    let bands = rows.flat_map(|row| {
        starts(shape.width, width).map(move |column| Region {
            first: [row, column],
            size: [
                height.min(shape.height - row),
                width.min(shape.width - column),
            ],
        })
    });
    bands.collect()
}

/// What `conv` makes of a band, which begins at a multiple of the stride: its geometry over the band, and the outputs to which
/// its products belong; none if it reads nothing of it.
pub(super) fn conv_over(
    conv: &Conv,
    stride: [usize; 2],
    band: &Region,
) -> Option<(ConvGeometry, Region)> {
    let padding = [conv.window.padding.top, conv.window.padding.left];
    let mut out = Region::whole(conv.out_size);
    let mut before = [0; 2];
    for axis in 0..2 {
        let (s, first, p) = (stride[axis], band.first[axis], padding[axis]);
        let last = first + band.size[axis] - 1;
        // The outputs that each tap takes to within the band, if there are any.
        let taps = (0..conv.window.kernel[axis]).filter_map(|tap| {
            let at = tap * conv.window.dilation[axis];
            let from = (first + p).saturating_sub(at).div_ceil(s);
            let to = ((last + p).checked_sub(at)? / s).min(conv.out_size[axis] - 1);
            (from <= to).then_some((from, to))
        });
        let (from, to) = taps.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))?;
        let from = from.min((first + p) / s);
        before[axis] = (p + first).checked_sub(s * from)?;
        out.first[axis] = from;
        out.size[axis] = to - from + 1;
    }
    let geometry = ConvGeometry {
        out_channels: conv.out_channels,
        groups: conv.groups,
        kernel: conv.window.kernel,
        dilation: conv.window.dilation,
        before,
        out: out.size,
    };
    Some((geometry, out))
}

/// Sizes of bands worth trying, for a map of which `fits` says whether a band is small enough: few columns of bands, and rows in
/// equal parts or as many as fit.
pub(super) fn candidates(
    source: &Source,
    fits: impl Fn(usize, usize) -> bool,
) -> Vec<(usize, usize)> {
    const FEW: usize = 3;
    let shape = source.shape;
    let parts = |extent: usize, n: usize, step: usize| {
        extent
            .div_ceil(n)
            .next_multiple_of(step)
            .min(extent.next_multiple_of(step))
    };
    let mut sizes = Vec::new();
    let mut n_widths = 0;
    for n in 1..=shape.width {
        let width = parts(shape.width, n, source.stride[1]);
        let step = source.stride[0];
        let most = (1..=shape.height.div_ceil(step)).rev();
        let Some(most) = most.map(|m| m * step).find(|&height| fits(height, width)) else {
            continue;
        };
        let least = shape.height.div_ceil(most);
        sizes.push((most, width));
        sizes.extend((least..least + FEW).map(|n| (parts(shape.height, n, step), width)));
        n_widths += 1;
        if n_widths == FEW {
            break;
        }
    }
    sizes.retain(|&(height, width)| fits(height, width));
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}
