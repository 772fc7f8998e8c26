//! The portable convolution, modulo 2^64. Reference for the fast one.

use super::Shape;
use rayon::prelude::*;

/// Output (O, Ho, Wo) of the convolution of `x` (C, H, W) with `weights` (O, C, kh, kw), modulo 2^64. The sizes must
/// match `shape`.
pub fn convolve(shape: &Shape, x: &[u64], weights: &[i32]) -> Vec<u64> {
    let mut outputs = vec![0; shape.n_outputs()];
    let filters = weights.chunks_exact(shape.depth());
    for (output, filter) in outputs.chunks_exact_mut(shape.n_pixels()).zip(filters) {
        convolve_filter(shape, x, filter, output);
    }
    outputs
}

pub(super) fn convolve_parallel(shape: &Shape, x: &[u64], weights: &[i32]) -> Vec<u64> {
    let mut outputs = vec![0; shape.n_outputs()];
    outputs
        .par_chunks_exact_mut(shape.n_pixels())
        .zip(weights.par_chunks_exact(shape.depth()))
        .for_each(|(output, filter)| convolve_filter(shape, x, filter, output));
    outputs
}

fn convolve_filter(shape: &Shape, x: &[u64], filter: &[i32], output: &mut [u64]) {
    let (stride, padding) = (shape.stride, shape.padding);
    let kernel_size = shape.kernel_h * shape.kernel_w;
    // Output columns whose input column `j * stride + v - padding` exists.
    let columns = |v: usize| {
        let first = padding.saturating_sub(v).div_ceil(stride);
        let last = (shape.width + padding)
            .saturating_sub(v)
            .div_ceil(stride)
            .min(shape.out_width());
        (first.min(last), last)
    };
    for (map, taps) in x
        .chunks_exact(shape.height * shape.width)
        .zip(filter.chunks_exact(kernel_size))
    {
        for (tap, &weight) in taps.iter().enumerate() {
            let (u, v) = (tap / shape.kernel_w, tap % shape.kernel_w);
            let (first, last) = columns(v);
            for (i, line) in output.chunks_exact_mut(shape.out_width()).enumerate() {
                let Some(row) = (i * stride + u)
                    .checked_sub(padding)
                    .filter(|&row| row < shape.height)
                else {
                    continue;
                };
                if first == last {
                    continue;
                }
                let inputs = &map[row * shape.width + first * stride + v - padding..];
                let inputs = inputs.iter().step_by(stride);
                for (y, &x) in line[first..last].iter_mut().zip(inputs) {
                    *y = y.wrapping_add(x.wrapping_mul(i64::from(weight) as u64));
                }
            }
        }
    }
}
