//! A float model run in floating point: the oracle for what its integers compute.
//!
//! Results are (C, H, W) in 32-bit floats. A result is freed after its last reader, so that a large network needs the memory of its
//! widest part, not of all parts. Convolutions are matrix products over tiles of output positions (im2col); a filter that reads a
//! single channel is applied directly.

mod conv;
mod local;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};

use pi_model::graph::Shape;
use pi_model::spec::Op;
use pi_model::{FloatModel, ModelError, Result};

/// What one run computed.
#[derive(Clone, Debug, PartialEq)]
pub struct FloatExecution {
    /// Result of the last operation, in (C, H, W) order.
    pub output: Vec<f32>,
    /// How large the result of each operation is, by name.
    pub sizes: BTreeMap<String, Size>,
}

/// How large the values of a result are.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Size {
    /// Largest absolute value.
    pub largest: f32,
    /// Mean absolute value.
    pub mean: f64,
}

impl Size {
    fn of(values: &[f32]) -> Self {
        let sum: f64 = values.iter().map(|v| f64::from(v.abs())).sum();
        Self {
            largest: values.iter().fold(0.0, |m, v| m.max(v.abs())),
            mean: sum / values.len().max(1) as f64,
        }
    }
}

/// Runs `model` on a normalised `input` in (C, H, W) order.
///
/// # Errors
/// As [`visit`].
pub fn run(model: &FloatModel, input: &[f32]) -> Result<FloatExecution> {
    let mut sizes = BTreeMap::new();
    let output = visit(model, input, |op, values| {
        sizes.insert(op.name().to_owned(), Size::of(values));
    })?;
    Ok(FloatExecution { output, sizes })
}

/// Runs `model` and shows the result of each operation to `seen`; returns the last one.
///
/// # Errors
/// [`ModelError::Input`] when the input has another size or is not finite, [`ModelError::Op`] when the model does not fit together or a
/// result is not finite.
pub fn visit(
    model: &FloatModel,
    input: &[f32],
    mut seen: impl FnMut(&Op, &[f32]),
) -> Result<Vec<f32>> {
    alter(model, input, |op, values| seen(op, values))
}

/// As [`visit`]; `change` may change each result before others read it.
///
/// # Errors
/// As [`visit`].
pub(crate) fn alter(
    model: &FloatModel,
    input: &[f32],
    mut change: impl FnMut(&Op, &mut [f32]),
) -> Result<Vec<f32>> {
    let shapes = model.check()?;
    check_input(input, shapes["input"])?;
    let mut last_reader = HashMap::new();
    for (i, op) in model.spec.ops.iter().enumerate() {
        last_reader.extend(op.inputs().iter().map(|name| (name.as_str(), i)));
    }
    let mut results = Results {
        values: HashMap::from([("input", input.to_vec())]),
        last_reader,
        now: 0,
    };
    let mut output = "input";
    for (i, op) in model.spec.ops.iter().enumerate() {
        results.now = i;
        let mut values = apply(model, op, &shapes, &mut results);
        if !values.iter().all(|v| v.is_finite()) {
            return Err(ModelError::Op {
                op: op.name().to_owned(),
                reason: "its result is infinite or not a number; the weights are too large for this input, or the input is not normalised as the model's card says".to_owned(),
            });
        }
        change(op, &mut values);
        results.free();
        results.values.insert(op.name(), values);
        output = op.name();
    }
    Ok(results.values.remove(output).unwrap_or_default())
}

fn check_input(input: &[f32], shape: Shape) -> Result<()> {
    if input.len() != shape.n_values() {
        return Err(ModelError::Input(format!(
            "the model takes the shape {shape}, {} values; this input has {}",
            shape.n_values(),
            input.len()
        )));
    }
    match input.iter().position(|v| !v.is_finite()) {
        Some(at) => Err(ModelError::Input(format!(
            "value number {at} is infinite or not a number; make the input anew"
        ))),
        None => Ok(()),
    }
}

/// Results that are still to be read.
struct Results<'a> {
    values: HashMap<&'a str, Vec<f32>>,
    last_reader: HashMap<&'a str, usize>,
    /// Index of the operation that runs.
    now: usize,
}

impl Results<'_> {
    /// A result to be read; that every one is there was checked with the shapes.
    fn read(&self, name: &str) -> &[f32] {
        self.values.get(name).map_or(&[], Vec::as_slice)
    }

    /// A result to be changed: the result itself if nobody reads it later.
    fn take(&mut self, name: &str) -> Vec<f32> {
        match self.last_reader.get(name) {
            Some(&last) if last > self.now => self.read(name).to_vec(),
            _ => self.values.remove(name).unwrap_or_default(),
        }
    }

    fn free(&mut self) {
        let (now, last_reader) = (self.now, &self.last_reader);
        self.values
            .retain(|name, _| last_reader.get(name).is_none_or(|&last| last > now));
    }
}

fn apply(
    model: &FloatModel,
    op: &Op,
    shapes: &BTreeMap<String, Shape>,
    results: &mut Results<'_>,
) -> Vec<f32> {
    let shape = shapes[op.name()];
    let first = op.inputs().first().map_or("input", String::as_str);
    let read = shapes[first];
    let kept = || model.masks[op.name()].kept();
    match op {
        Op::Conv2d { window, groups, .. } => {
            let conv = conv::Conv {
                window: *window,
                groups: *groups,
                read,
                shape,
            };
            conv.apply(results.read(first), &model.weights[op.name()])
        }
        Op::Linear { .. } => {
            conv::Conv::linear(read, shape).apply(results.read(first), &model.weights[op.name()])
        }
        Op::Bias { name, .. } => {
            let mut values = results.take(first);
            let planes = values.chunks_mut(shape.height * shape.width);
            for (plane, bias) in planes.zip(&model.weights[name].bias) {
                plane.iter_mut().for_each(|v| *v += bias);
            }
            values
        }
        Op::Add { inputs, .. } => local::sum(inputs.iter().map(|name| results.read(name)), 1.0),
        Op::Sub { inputs, .. } => local::sum(inputs.iter().map(|name| results.read(name)), -1.0),
        Op::Concat { inputs, .. } => inputs
            .iter()
            .flat_map(|name| results.read(name))
            .copied()
            .collect(),
        Op::Channels { channels, .. } => {
            let values = results.read(first);
            let plane = read.height * read.width;
            let planes = channels.iter().map(|&c| &values[c * plane..][..plane]);
            planes.flatten().copied().collect()
        }
        Op::Pad { padding, .. } => local::pad(results.read(first), read, shape, *padding),
        Op::AvgPool {
            window,
            count_padding,
            ..
        } => local::average(results.read(first), [read, shape], window, *count_padding),
        Op::GlobalAvgPool { .. } => results
            .read(first)
            .chunks(read.height * read.width)
            .map(|plane| plane.iter().sum::<f32>() / plane.len() as f32)
            .collect(),
        Op::MaxPool { window, .. } => local::largest(results.read(first), [read, shape], window),
        Op::Flatten { .. } => results.take(first),
        Op::MaskedRelu { .. } => local::map(results.take(first), kept(), |v| v.max(0.0)),
        Op::Clip { max, .. } => {
            let max = *max as f32;
            local::map(results.take(first), kept(), |v| v.max(0.0).min(max))
        }
        Op::LeakyRelu { slope, .. } => {
            let slope = *slope as f32;
            local::map(results.take(first), kept(), |v| v.max(slope * v))
        }
    }
}
