//! A float model in the making: operations and weights that passes rewrite.

use std::collections::{BTreeMap, HashMap};

use pi_model::graph::{Shape, shapes};
use pi_model::relu_set::ReluSet;
use pi_model::spec::{ModelSpec, Op, Window};
use pi_model::{FloatModel, FloatWeights, ModelError};

/// Name of the image in a list of operations.
pub const IMAGE: &str = "input";

/// Operations and weights. Masks come last, when all shapes are known.
#[derive(Clone, Debug)]
pub struct Network {
    /// Everything but weights.
    pub spec: ModelSpec,
    /// Weights by operation.
    pub weights: BTreeMap<String, FloatWeights>,
    /// What the normalisations of the training knew of their inputs, by operation: mean and standard deviation of each channel.
    pub statistics: BTreeMap<String, Vec<[f64; 2]>>,
}

/// A multiplication and an addition for each channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Affine {
    /// What a channel is multiplied by.
    pub scale: Vec<f64>,
    /// What is added then.
    pub shift: Vec<f64>,
}

impl Affine {
    /// Changes nothing.
    #[must_use]
    pub fn identity(channels: usize) -> Self {
        Self {
            scale: vec![1.0; channels],
            shift: vec![0.0; channels],
        }
    }

    /// Whether it adds nothing.
    #[must_use]
    pub fn only_scales(&self) -> bool {
        self.shift.iter().all(|&v| v == 0.0)
    }

    /// Whether it multiplies by one.
    #[must_use]
    pub fn only_shifts(&self) -> bool {
        self.scale.iter().all(|&v| v == 1.0)
    }

    /// The operation called `name` that does this to `input`: `bias`, or a convolution with a filter for each channel.
    #[must_use]
    pub fn to_op(&self, name: String, input: String) -> (Op, FloatWeights) {
        let weights = |scale: &[f64]| FloatWeights {
            weight: scale.iter().map(|&v| v as f32).collect(),
            bias: self.shift.iter().map(|&v| v as f32).collect(),
        };
        if self.only_shifts() {
            return (Op::Bias { name, input }, weights(&[]));
        }
        let channels = self.scale.len();
        let op = Op::Conv2d {
            name,
            input,
            out_channels: channels,
            window: Window::square(1, 1, 0),
            groups: channels,
        };
        (op, weights(&self.scale))
    }
}

impl Network {
    /// Shape of the image and of every result.
    ///
    /// # Errors
    /// [`ModelError::Op`] naming the operation that does not fit.
    pub fn shapes(&self) -> Result<BTreeMap<String, Shape>, ModelError> {
        shapes(&self.spec)
    }

    /// Numbers of the operations that read each result.
    #[must_use]
    pub fn readers(&self) -> HashMap<String, Vec<usize>> {
        let mut readers: HashMap<String, Vec<usize>> = HashMap::new();
        for (i, op) in self.spec.ops.iter().enumerate() {
            for input in op.inputs() {
                let list = readers.entry(input.clone()).or_default();
                if list.last() != Some(&i) {
                    list.push(i);
                }
            }
        }
        readers
    }

    /// Number of the operation called `name`.
    #[must_use]
    pub fn position(&self, name: &str) -> Option<usize> {
        self.spec.ops.iter().position(|op| op.name() == name)
    }

    /// Lets all that read `from` read `to`, beginning with operation `start`.
    pub fn redirect(&mut self, from: &str, to: &str, start: usize) {
        for op in &mut self.spec.ops[start..] {
            for input in inputs_mut(op) {
                if input == from {
                    to.clone_into(input);
                }
            }
        }
    }

    /// Takes operation `i`, which reads one result, out; its readers read that result instead.
    pub fn remove(&mut self, i: usize) {
        let op = self.spec.ops.remove(i);
        self.weights.remove(op.name());
        if let [input] = op.inputs() {
            self.redirect(op.name(), &input.clone(), i);
        }
    }

    /// What operation `i` does if it is a multiplication and an addition for each channel.
    #[must_use]
    pub fn affine(&self, i: usize) -> Option<Affine> {
        let op = &self.spec.ops[i];
        let doubles = |values: &[f32]| values.iter().map(|&v| f64::from(v)).collect();
        match op {
            Op::Bias { name, .. } => {
                let shift: Vec<f64> = doubles(&self.weights.get(name)?.bias);
                let scale = vec![1.0; shift.len()];
                Some(Affine { scale, shift })
            }
            Op::Conv2d {
                name,
                out_channels,
                window,
                groups,
                ..
            } if groups == out_channels && *window == Window::square(1, 1, 0) => {
                let w = self.weights.get(name)?;
                (w.weight.len() == *groups).then(|| Affine {
                    scale: doubles(&w.weight),
                    shift: doubles(&w.bias),
                })
            }
            _ => None,
        }
    }

    /// Puts `affine` in the place of operation `i`, under its name and with its input.
    pub fn set_affine(&mut self, i: usize, affine: &Affine) {
        let op = &self.spec.ops[i];
        let input = op.inputs().first().cloned().unwrap_or_default();
        let (op, weights) = affine.to_op(op.name().to_owned(), input);
        self.weights.insert(op.name().to_owned(), weights);
        self.spec.ops[i] = op;
    }

    /// Takes out what the result does not depend on. The result is that called `output`, and comes last.
    pub fn prune(&mut self, output: &str) {
        let mut needed = std::collections::HashSet::from([output.to_owned()]);
        for op in self.spec.ops.iter().rev() {
            if needed.contains(op.name()) {
                needed.extend(op.inputs().iter().cloned());
            }
        }
        self.spec.ops.retain(|op| needed.contains(op.name()));
        self.weights.retain(|name, _| needed.contains(name));
    }

    /// The float model, with every ReLU kept.
    ///
    /// # Errors
    /// [`ModelError::Op`] naming the operation that does not fit.
    pub fn finish(mut self) -> Result<FloatModel, ModelError> {
        let shapes = self.shapes()?;
        let mut masks = HashMap::new();
        for op in &mut self.spec.ops {
            let n = shapes[op.name()].n_values();
            if let Op::MaskedRelu { relus_kept, .. }
            | Op::Clip { relus_kept, .. }
            | Op::LeakyRelu { relus_kept, .. } = op
            {
                *relus_kept = n;
                let mask = ReluSet::from_mask(op.name(), &vec![1; n])?;
                masks.insert(op.name().to_owned(), mask);
            }
        }
        let relus = masks.values().map(ReluSet::n_positions).sum();
        self.spec.card.relus_total = relus;
        self.spec.card.relus_kept = relus;
        let model = FloatModel {
            spec: self.spec,
            masks,
            weights: self.weights,
        };
        model.check()?;
        Ok(model)
    }
}

/// Names of the results that `op` reads.
pub fn inputs_mut(op: &mut Op) -> &mut [String] {
    match op {
        Op::Conv2d { input, .. }
        | Op::Linear { input, .. }
        | Op::Bias { input, .. }
        | Op::Channels { input, .. }
        | Op::Pad { input, .. }
        | Op::AvgPool { input, .. }
        | Op::GlobalAvgPool { input, .. }
        | Op::MaxPool { input, .. }
        | Op::Flatten { input, .. }
        | Op::MaskedRelu { input, .. }
        | Op::Clip { input, .. }
        | Op::LeakyRelu { input, .. } => std::slice::from_mut(input),
        Op::Add { inputs, .. } | Op::Concat { inputs, .. } => inputs,
        Op::Sub { inputs, .. } => inputs,
    }
}
