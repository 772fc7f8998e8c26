//! The padded input, and the panels that the vector kernels read of it.

use super::{PIXELS, Shape};

/// The padded input, from which panels (8 pixels of K inputs each, (K, 8) order) are packed.
pub(super) struct Panels {
    shape: Shape,
    padded: Vec<u64>,
    columns: usize,
    /// Offset of each of the K inputs from a pixel's first.
    offsets: Vec<usize>,
}

impl Panels {
    pub(super) fn new(shape: &Shape, x: &[u64]) -> Self {
        let (p, dilation) = (shape.window.padding, shape.window.dilation);
        let columns = shape.width + p.left + p.right;
        let rows = shape.height + p.top + p.bottom;
        let mut padded = vec![0; shape.in_channels * rows * columns];
        for (line, values) in x.chunks_exact(shape.width).enumerate() {
            let (channel, row) = (line / shape.height, line % shape.height);
            let start = (channel * rows + row + p.top) * columns + p.left;
            padded[start..start + shape.width].copy_from_slice(values);
        }
        let mut offsets = Vec::with_capacity(shape.depth());
        for c in 0..shape.in_channels {
            for u in 0..shape.window.kernel[0] {
                let row = (c * rows + u * dilation[0]) * columns;
                offsets.extend((0..shape.window.kernel[1]).map(|v| row + v * dilation[1]));
            }
        }
        Self {
            shape: *shape,
            padded,
            columns,
            offsets,
        }
    }

    /// Panels of pixels `first..last`; the last panel repeats its last pixel.
    pub(super) fn pack(&self, first: usize, last: usize) -> Vec<u64> {
        let (width, stride) = (self.shape.out_width(), self.shape.window.stride);
        let start = |pixel: usize| {
            let pixel = pixel.min(last - 1);
            pixel / width * stride[0] * self.columns + pixel % width * stride[1]
        };
        let mut packed =
            Vec::with_capacity((last - first).next_multiple_of(PIXELS) * self.offsets.len());
        for panel in (first..last).step_by(PIXELS) {
            let starts: [usize; PIXELS] = std::array::from_fn(|i| start(panel + i));
            let in_a_row = (starts[0]..).zip(&starts).all(|(due, &start)| start == due);
            for &offset in &self.offsets {
                if in_a_row {
                    let from = starts[0] + offset;
                    packed.extend_from_slice(&self.padded[from..from + PIXELS]);
                } else {
                    packed.extend_from_slice(&starts.map(|s| self.padded[s + offset]));
                }
            }
        }
        packed
    }
}
