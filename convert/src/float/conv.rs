//! Convolutions and fully connected layers in 32-bit floats.

#![allow(unsafe_code)]

use pi_model::FloatWeights;
use pi_model::graph::Shape;
use pi_model::spec::{Padding, Window};
use rayon::prelude::*;

use super::local::taps;

/// Output positions of one matrix product: its columns fit the cache.
const TILE: usize = 128;

/// Shape of a convolution.
pub(super) struct Conv {
    pub(super) window: Window,
    pub(super) groups: usize,
    /// Of what it reads.
    pub(super) read: Shape,
    /// Of its result.
    pub(super) shape: Shape,
}

impl Conv {
    /// A fully connected layer: a kernel of one pixel on a map of one pixel.
    pub(super) const fn linear(read: Shape, shape: Shape) -> Self {
        Self {
            window: Window {
                kernel: [1; 2],
                stride: [1; 2],
                padding: Padding::all(0),
                dilation: [1; 2],
            },
            groups: 1,
            read,
            shape,
        }
    }

    pub(super) fn apply(&self, values: &[f32], weights: &FloatWeights) -> Vec<f32> {
        if self.read.channels == self.groups {
            self.direct(values, weights)
        } else {
            self.products(values, weights)
        }
    }

    /// Each filter reads one channel.
    fn direct(&self, values: &[f32], weights: &FloatWeights) -> Vec<f32> {
        let [rows, columns] = self.window.kernel;
        let (plane, read) = (self.plane(), self.read.height * self.read.width);
        let filters = self.shape.channels / self.groups;
        let mut out = vec![0.0; self.shape.n_values()];
        out.par_chunks_mut(plane).enumerate().for_each(|(o, out)| {
            let channel = &values[o / filters * read..][..read];
            let kernel = &weights.weight[o * rows * columns..][..rows * columns];
            for (i, out) in out.iter_mut().enumerate() {
                let (y, x) = (i / self.shape.width, i % self.shape.width);
                let mut sum = weights.bias[o];
                for (ky, y) in taps(&self.window, 0, y, self.read.height) {
                    for (kx, x) in taps(&self.window, 1, x, self.read.width) {
                        sum += kernel[ky * columns + kx] * channel[y * self.read.width + x];
                    }
                }
                *out = sum;
            }
        });
        out
    }

    /// For each group and tile, the matrix of its filters times that of the values under its windows.
    fn products(&self, values: &[f32], weights: &FloatWeights) -> Vec<f32> {
        let plane = self.plane();
        let filters = self.shape.channels / self.groups;
        let fan_in = weights.weight.len() / self.shape.channels;
        let n_tiles = plane.div_ceil(TILE);
        let tiles: Vec<Vec<f32>> = (0..self.groups * n_tiles)
            .into_par_iter()
            .map(|i| {
                let (group, from) = (i / n_tiles, i % n_tiles * TILE);
                let n = TILE.min(plane - from);
                let columns = self.columns(values, group, from..from + n);
                let filters = group * filters..(group + 1) * filters;
                let rows = &weights.weight[filters.start * fan_in..filters.end * fan_in];
                let bias = &weights.bias[filters];
                let mut out: Vec<f32> = bias
                    .iter()
                    .flat_map(|&b| std::iter::repeat_n(b, n))
                    .collect();
                multiply(rows, &columns, [bias.len(), fan_in, n], &mut out);
                out
            })
            .collect();
        let mut out = vec![0.0; self.shape.n_values()];
        for (i, tile) in tiles.iter().enumerate() {
            let (group, from) = (i / n_tiles, i % n_tiles * TILE);
            let n = TILE.min(plane - from);
            for (filter, row) in tile.chunks(n).enumerate() {
                let at = (group * filters + filter) * plane + from;
                out[at..at + n].copy_from_slice(row);
            }
        }
        out
    }

    /// What lies under the windows at the output positions `at`: one row for each channel of the group and each tap.
    fn columns(&self, values: &[f32], group: usize, at: std::ops::Range<usize>) -> Vec<f32> {
        let [rows, columns] = self.window.kernel;
        let channels = self.read.channels / self.groups;
        let (read, n) = (self.read.height * self.read.width, at.len());
        // Where each value goes and where it comes from; the same for every channel.
        let mut moves = Vec::with_capacity(rows * columns * n);
        for (column, position) in at.enumerate() {
            let (y, x) = (position / self.shape.width, position % self.shape.width);
            for (ky, y) in taps(&self.window, 0, y, self.read.height) {
                for (kx, x) in taps(&self.window, 1, x, self.read.width) {
                    let to = (ky * columns + kx) * n + column;
                    moves.push((to, y * self.read.width + x));
                }
            }
        }
        moves.sort_unstable();
        let mut matrix = vec![0.0; channels * rows * columns * n];
        let planes = values.chunks(read).skip(group * channels);
        for (part, plane) in matrix.chunks_mut(rows * columns * n).zip(planes) {
            for &(to, from) in &moves {
                part[to] = plane[from];
            }
        }
        matrix
    }

    const fn plane(&self) -> usize {
        self.shape.height * self.shape.width
    }
}

/// Adds the product of `a` (m, k) and `b` (k, n) to `out` (m, n), all row by row.
fn multiply(a: &[f32], b: &[f32], [m, k, n]: [usize; 3], out: &mut [f32]) {
    assert_eq!([a.len(), b.len(), out.len()], [m * k, k * n, m * n]);
    // SAFETY: the lengths were just compared, and the strides are those of rows in a row.
    unsafe {
        matrixmultiply::sgemm(
            m,
            k,
            n,
            1.0,
            a.as_ptr(),
            k as isize,
            1,
            b.as_ptr(),
            n as isize,
            1,
            1.0,
            out.as_mut_ptr(),
            n as isize,
            1,
        );
    }
}
