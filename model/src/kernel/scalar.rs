//! The portable convolution, modulo 2^64. Reference for the fast one.

use super::Shape;
use rayon::prelude::*;

/// Output (O, Ho, Wo) of the convolution of `x` (C, H, W) with `weights` (O, C / groups, kh, kw), modulo 2^64. The sizes must
/// match `shape`.
pub fn convolve(shape: &Shape, x: &[u64], weights: &[i32]) -> Vec<u64> {
    let mut outputs = vec![0; shape.n_outputs()];
    let filters = weights.chunks_exact(shape.depth()).enumerate();
    for (output, (o, filter)) in outputs.chunks_exact_mut(shape.n_pixels()).zip(filters) {
        convolve_filter(shape, read_by(shape, x, o), filter, output);
    }
    outputs
}

pub(super) fn convolve_parallel(shape: &Shape, x: &[u64], weights: &[i32]) -> Vec<u64> {
    let mut outputs = vec![0; shape.n_outputs()];
    outputs
        .par_chunks_exact_mut(shape.n_pixels())
        .zip(weights.par_chunks_exact(shape.depth()))
        .enumerate()
        .for_each(|(o, (output, filter))| {
            convolve_filter(shape, read_by(shape, x, o), filter, output);
        });
    outputs
}

/// The maps of the group of filter `o`.
fn read_by<'a>(shape: &Shape, x: &'a [u64], o: usize) -> &'a [u64] {
    let n = shape.n_inputs() / shape.groups;
    &x[o / (shape.out_channels / shape.groups) * n..][..n]
}

fn convolve_filter(shape: &Shape, x: &[u64], filter: &[i32], output: &mut [u64]) {
    let window = &shape.window;
    let [kernel_h, kernel_w] = window.kernel;
    let (stride, left) = (window.stride[1], window.padding.left);
    let width = shape.out_width();
    // Output columns whose input column `j * stride + v - left` exists.
    let columns = |v: usize| {
        let first = left.saturating_sub(v).div_ceil(stride);
        let last = (shape.width + left)
            .saturating_sub(v)
            .div_ceil(stride)
            .min(width);
        (first.min(last), last)
    };
    for (map, taps) in x
        .chunks_exact(shape.height * shape.width)
        .zip(filter.chunks_exact(kernel_h * kernel_w))
    {
        for (tap, &weight) in taps.iter().enumerate() {
            let u = tap / kernel_w * window.dilation[0];
            let v = tap % kernel_w * window.dilation[1];
            let (first, last) = columns(v);
            for (i, line) in output.chunks_exact_mut(width).enumerate() {
                let Some(row) = (i * window.stride[0] + u)
                    .checked_sub(window.padding.top)
                    .filter(|&row| row < shape.height)
                else {
                    continue;
                };
                if first == last {
                    continue;
                }
                let inputs = &map[row * shape.width + first * stride + v - left..];
                let inputs = inputs.iter().step_by(stride);
                for (y, &x) in line[first..last].iter_mut().zip(inputs) {
                    *y = y.wrapping_add(x.wrapping_mul(i64::from(weight) as u64));
                }
            }
        }
    }
}
