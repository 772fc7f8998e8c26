//! The linear part of a layer, the same on plain integers, on a server's shares and on a client's masks.
//!
//! Everything wraps modulo 2^64, so it is exact in Z_2^k for every k <= 52 after a reduction, and exact over the
//! integers as long as the result has fewer than 52 bits.

use crate::artifact::Model;
use crate::graph::{Conv, Graph, Layer, Shape, Source};
use crate::kernel;

/// The tensor as a source sees it: windows summed.
#[must_use]
pub fn view(source: &Source, tensor: Shape, values: &[u64]) -> Vec<u64> {
    let [rows, columns] = source.window;
    if [rows, columns] == [1, 1] {
        return values.to_vec();
    }
    let (height, width) = (tensor.height / rows, tensor.width / columns);
    let mut pooled = vec![0u64; tensor.channels * height * width];
    for (index, &value) in values.iter().enumerate() {
        let (channel, row, column) = (
            index / (tensor.height * tensor.width),
            index / tensor.width % tensor.height,
            index % tensor.width,
        );
        let sum = &mut pooled[(channel * height + row / rows) * width + column / columns];
        *sum = sum.wrapping_add(value);
    }
    pooled
}

/// The kernel's description of a convolution.
#[must_use]
pub fn geometry(graph: &Graph, conv: &Conv) -> kernel::Shape {
    let input = graph.sources[conv.source].shape;
    kernel::Shape {
        in_channels: input.channels,
        height: input.height,
        width: input.width,
        out_channels: conv.out_channels,
        kernel_h: conv.kernel[0],
        kernel_w: conv.kernel[1],
        stride: conv.stride,
        padding: conv.padding,
    }
}

/// Sum of the convolutions of `layer` (with biases, at the accumulator's scale) and of its skip connections.
///
/// `tensors` holds every tensor so far, each in (C, H, W) order. The low 52 bits of the result are right.
#[must_use]
pub fn accumulate(model: &Model, layer: &Layer, tensors: &[Vec<u64>]) -> Vec<u64> {
    let graph = model.public().graph();
    let mut sum = vec![0u64; layer.shape.n_values()];
    for conv in &layer.convs {
        let source = &graph.sources[conv.source];
        let input = view(
            source,
            graph.tensors[source.tensor],
            &tensors[source.tensor],
        );
        let weights = model.weights(conv);
        let product = model.kernel(conv).apply(&input).unwrap_or_default();
        let plane = layer.shape.height * layer.shape.width;
        for ((sum, product), bias) in sum
            .chunks_mut(plane)
            .zip(product.chunks(plane))
            .zip(&weights.bias)
        {
            for (s, p) in sum.iter_mut().zip(product) {
                *s = s.wrapping_add(p.wrapping_add(*bias as u64) << conv.shift);
            }
        }
    }
    add_skips(layer, tensors, &mut sum);
    sum
}

/// Adds the skip connections of `layer` to `sum`.
pub fn add_skips(layer: &Layer, tensors: &[Vec<u64>], sum: &mut [u64]) {
    for skip in &layer.skips {
        for (s, x) in sum.iter_mut().zip(&tensors[skip.tensor]) {
            *s = s.wrapping_add(x << skip.shift);
        }
    }
}
