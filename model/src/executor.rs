//! The plaintext executor: the same integers as the protocol, by one party who knows everything.
//!
//! Truncation rounds to nearest, because the protocol's rounds stochastically with mean y / 2^f; each layer of the
//! private inference then differs from this one by -1, 0 or 1 given the same input.

use crate::artifact::Model;
use crate::error::{ModelError, Result};
use crate::graph::Layer;
use crate::linear;

/// Bits in which accumulators are computed; they have at most 40.
const WORK_BITS: u32 = 52;

/// What a plaintext inference computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Execution {
    /// Every tensor, the input first, in (C, H, W) order.
    pub tensors: Vec<Vec<i64>>,
    /// Largest |accumulator| of each layer.
    pub max_accumulators: Vec<u64>,
    /// Sum of the |accumulators| of each layer.
    pub sum_accumulators: Vec<u128>,
    /// Accumulators outside the range in which the protocol is correct.
    pub n_range_violations: u64,
    /// The output, with [`Layer::fraction_bits`] fraction bits of the last layer.
    pub logits: Vec<i64>,
}

impl Execution {
    /// Index of the largest logit, the lowest if there are several.
    #[must_use]
    pub fn class(&self) -> usize {
        argmax(&self.logits)
    }
}

/// Index of the largest value, the lowest if there are several.
#[must_use]
pub fn argmax(values: &[i64]) -> usize {
    let best = (0..values.len()).rev().max_by_key(|&i| values[i]);
    best.unwrap_or(0)
}

/// Runs `model` on `input`, in (C, H, W) order with the model's activation fraction bits.
///
/// # Errors
/// [`ModelError::Input`] when the input has another size.
pub fn run(model: &Model, input: &[i64]) -> Result<Execution> {
    let graph = model.public().graph();
    let due = graph.tensors[0].n_values();
    if input.len() != due {
        return Err(ModelError::Input(format!(
            "the model takes {due} values, got {}",
            input.len()
        )));
    }
    let mut tensors: Vec<Vec<u64>> = vec![input.iter().map(|&v| v as u64).collect()];
    let mut execution = Execution {
        tensors: vec![input.to_vec()],
        max_accumulators: vec![],
        sum_accumulators: vec![],
        n_range_violations: 0,
        logits: vec![],
    };
    for layer in &graph.layers {
        let accumulators = accumulators(model, layer, &tensors);
        let sizes = || accumulators.iter().map(|y| y.unsigned_abs());
        execution.max_accumulators.push(sizes().max().unwrap_or(0));
        execution
            .sum_accumulators
            .push(sizes().map(u128::from).sum());
        execution.n_range_violations += accumulators
            .iter()
            .filter(|&&y| !in_range(layer, y))
            .count() as u64;
        if layer.relu.is_some() {
            let output = activate(layer, &accumulators);
            tensors.push(output.iter().map(|&v| v as u64).collect());
            execution.tensors.push(output);
        } else {
            execution.logits = accumulators;
        }
    }
    Ok(execution)
}

/// The accumulators of `layer`, signed, from every tensor so far.
#[must_use]
pub fn accumulators(model: &Model, layer: &Layer, tensors: &[Vec<u64>]) -> Vec<i64> {
    let unused = 64 - WORK_BITS;
    let sums = linear::accumulate(model, layer, tensors);
    sums.iter()
        .map(|&v| ((v << unused) as i64) >> unused)
        .collect()
}

/// Truncates to nearest and applies the masked ReLU.
#[must_use]
pub fn activate(layer: &Layer, accumulators: &[i64]) -> Vec<i64> {
    let f = layer.truncated_bits;
    let mut output: Vec<i64> = accumulators
        .iter()
        .map(|y| (y + ((1i64 << f) >> 1)) >> f)
        .collect();
    if let Some(relu) = &layer.relu {
        for &i in relu.kept() {
            output[i as usize] = output[i as usize].max(0);
        }
    }
    output
}

/// Whether the protocol is correct for accumulator `y`: -2^(l_b - 1) + 2^t <= y < 2^(l_b - 1).
#[must_use]
pub const fn in_range(layer: &Layer, y: i64) -> bool {
    let bound = 1i64 << (layer.accumulator_bits - 1);
    -bound + (1 << layer.truncated_bits) <= y && y < bound
}
