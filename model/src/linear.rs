//! The linear part of a layer, the same on plain integers, on a server's shares and on a client's masks.
//!
//! Everything wraps modulo 2^64, so it is exact in Z_2^k for every k <= 52 after a reduction, and exact over the
//! integers as long as the result has fewer than 52 bits.

use crate::artifact::Model;
use crate::graph::{Conv, Graph, Layer};
use crate::kernel;
use zeroize::Zeroizing;

/// The kernel's description of a convolution.
#[must_use]
pub fn geometry(graph: &Graph, conv: &Conv) -> kernel::Shape {
    let input = graph.sources[conv.source].shape;
    kernel::Shape {
        in_channels: input.channels,
        height: input.height,
        width: input.width,
        out_channels: conv.out_channels,
        groups: conv.groups,
        window: conv.window,
    }
}

/// Sum of the convolutions of `layer`, of its constants (both at the accumulator's scale) and of its terms.
///
/// `tensors` holds every tensor so far, each in (C, H, W) order. The low 52 bits of the result are right.
#[must_use]
pub fn accumulate(model: &Model, layer: &Layer, tensors: &[Vec<u64>]) -> Vec<u64> {
    let graph = model.public().graph();
    let mut sum = vec![layer.constant as u64; layer.shape.n_values()];
    for conv in &layer.convs {
        let input = graph.sources[conv.source].view.apply(tensors);
        let product = model.kernel(conv).apply(&input).unwrap_or_default();
        for (s, p) in sum.iter_mut().zip(&product) {
            *s = s.wrapping_add(p << conv.shift);
        }
        let plane = conv.out_size[0] * conv.out_size[1];
        add_constants(&mut sum, plane, &model.weights(conv).bias, conv.shift);
    }
    for bias in &layer.biases {
        add_constants(&mut sum, bias.plane, model.biases(bias), bias.shift);
    }
    add_terms(layer, tensors, &mut sum);
    sum
}

fn add_constants(sum: &mut [u64], plane: usize, constants: &[i64], shift: u32) {
    for (plane, &constant) in sum.chunks_mut(plane).zip(constants) {
        for s in plane {
            *s = s.wrapping_add((constant as u64) << shift);
        }
    }
}

/// Adds the terms of `layer` to `sum`: the same on values, on shares and on masks.
pub fn add_terms<T: AsRef<[u64]>>(layer: &Layer, tensors: &[T], sum: &mut [u64]) {
    for term in &layer.terms {
        // Of shares and masks this is a secret.
        let values = Zeroizing::new(term.view.apply(tensors));
        for (index, (s, x)) in sum.iter_mut().zip(values.iter()).enumerate() {
            *s = s.wrapping_add(x.wrapping_mul(term.factor(index) as u64));
        }
    }
}
