//! The compiler: walks the operations once, in order, and closes a layer at each masked ReLU, at the end, and where a sum has to become
//! a tensor because more than one operation reads it.

use std::collections::{BTreeMap, HashMap};

use super::value::Value;
use super::{Bias, Graph, Layer, Shape, View, pool_remainders, shapes};
use crate::error::{ModelError, Result};
use crate::relu_set::ReluSet;
use crate::spec::{FixedPoint, ModelSpec, Op, Window};

/// Most bits of an accumulator; what one has whose range is not known.
pub(super) const WIDEST: u32 = 40;

/// Most values of all layers together.
const MAX_VALUES: usize = 1 << 28;
/// Most layers: messages name them by 16 bits.
const MAX_LAYERS: usize = 60_000;

/// Compiles `spec` with the masks named after their ReLUs.
pub(super) fn run(spec: &ModelSpec, masks: &BTreeMap<String, ReluSet>) -> Result<Graph> {
    let Some(numbers) = &spec.fixed_point else {
        return Err(ModelError::Plan(
            "it is a float model; make integers of it first: pi-convert quantise".into(),
        ));
    };
    let shapes = shapes(spec)?;
    let mut n_readers = HashMap::new();
    for input in spec.ops.iter().flat_map(Op::inputs) {
        *n_readers.entry(input.as_str()).or_insert(0) += 1;
    }
    let compiler = Compiler {
        spec,
        numbers,
        masks,
        shapes,
        n_readers,
        remainders: pool_remainders(spec),
        graph: Graph {
            tensors: vec![],
            sources: vec![],
            layers: vec![],
        },
        bounds: vec![],
        n_values: 0,
        values: HashMap::new(),
        copies: HashMap::new(),
    };
    compiler.run()
}

pub(super) struct Compiler<'a> {
    spec: &'a ModelSpec,
    pub(super) numbers: &'a FixedPoint,
    masks: &'a BTreeMap<String, ReluSet>,
    pub(super) shapes: BTreeMap<String, Shape>,
    n_readers: HashMap<&'a str, usize>,
    pub(super) remainders: BTreeMap<String, f64>,
    pub(super) graph: Graph,
    /// Largest absolute value of each tensor.
    bounds: Vec<u64>,
    n_values: usize,
    pub(super) values: HashMap<&'a str, Value>,
    /// Copies of views for convolutions of other strides.
    pub(super) copies: HashMap<(View, [usize; 2], Shape), View>,
}

impl<'a> Compiler<'a> {
    fn run(mut self) -> Result<Graph> {
        let shape = self.shapes["input"];
        let f_a = self.numbers.activation_fraction_bits;
        self.graph.tensors.push(shape);
        let largest = self.spec.input.largest() * (1u64 << f_a) as f64;
        self.bounds.push(largest.ceil().min(1e15) as u64);
        self.values
            .insert("input", Value::of(View::whole(0, shape), shape, f_a));
        let Some(last) = self.spec.ops.last() else {
            return Err(ModelError::Plan("it has no operations".into()));
        };
        for op in &self.spec.ops {
            let name = op.name();
            let is_last = name == last.name();
            let n_readers = self.n_readers.get(name).copied().unwrap_or(0);
            if !is_last && n_readers == 0 {
                return Err(ModelError::op(name, "nothing reads its result; remove it"));
            }
            let mut value = self.op(op)?;
            let many = n_readers > 1 && !value.is_local();
            if many || value.is_scattered() {
                value = self.tensor(name.to_owned(), value)?;
            }
            self.values.insert(name, value);
        }
        if !self.n_readers.contains_key("input") {
            return Err(ModelError::op("input", "nothing reads it"));
        }
        self.finish(last.name())?;
        self.check_names()?;
        self.check_sources()?;
        Ok(self.graph)
    }

    /// Closes the last layer.
    fn finish(&mut self, last: &str) -> Result<()> {
        let mut value = self.take(last, last)?;
        let n_labels = self.spec.labels.len();
        if n_labels > 0 && value.shape.n_values() != n_labels {
            return Err(ModelError::op(
                last,
                format!(
                    "it has {} outputs, but the model has {n_labels} labels",
                    value.shape.n_values()
                ),
            ));
        }
        if value.is_local() && value.fraction_bits > self.activation_bits() {
            // Fraction bits of constants would take room in the narrow ring of the output.
            value = self.tensor(format!("{last}.value"), value)?;
        }
        self.part_from_the_output(last, &mut value)?;
        let name = self.unused(last.to_owned());
        let accumulator_bits = self.range(&name, &value, 0)?.0;
        self.push(name, value, 0, accumulator_bits, None)
    }

    /// That no tensor is in two sources, and each source holds its tensors wholly: what SECURITY.md 4.3 builds on.
    fn check_sources(&self) -> Result<()> {
        let mut is_in_one = vec![false; self.graph.tensors.len()];
        for source in &self.graph.sources {
            let mut tensors: Vec<usize> = source.view.tensors().collect();
            tensors.sort_unstable();
            tensors.dedup();
            let again = tensors
                .iter()
                .any(|&t| std::mem::replace(&mut is_in_one[t], true));
            if again || !source.view.covers(&self.graph.tensors) {
                return Err(ModelError::Plan(
                    "a tensor would be in two sources; this is a fault of the compiler, please report the model".into(),
                ));
            }
        }
        Ok(())
    }

    fn check_names(&self) -> Result<()> {
        let mut seen = std::collections::HashSet::new();
        for layer in &self.graph.layers {
            if !seen.insert(layer.name.as_str()) {
                return Err(ModelError::op(
                    &layer.name,
                    "two layers would have this name; call the operation something else",
                ));
            }
        }
        let unknown = self.numbers.accumulators.keys();
        if let Some(name) = unknown.into_iter().find(|n| !seen.contains(n.as_str())) {
            return Err(ModelError::op(
                name,
                "fixed_point gives the range of an accumulator that there is not",
            ));
        }
        let convs = self.graph.layers.iter().flat_map(|l| &l.convs);
        let convs: std::collections::HashSet<&str> = convs.map(|c| c.op.as_str()).collect();
        let unknown = self.numbers.weight_fraction_bits.keys();
        match unknown.into_iter().find(|n| !convs.contains(n.as_str())) {
            Some(name) => Err(ModelError::op(
                name,
                "fixed_point gives the fraction bits of weights that there are not",
            )),
            None => Ok(()),
        }
    }

    fn op(&mut self, op: &'a Op) -> Result<Value> {
        let name = op.name();
        match op {
            Op::Conv2d {
                input,
                window,
                groups,
                ..
            } => self.conv(name, input, window, *groups),
            Op::Linear { input, .. } => self.conv(name, input, &Window::square(1, 1, 0), 1),
            Op::Bias { input, .. } => {
                let mut value = self.take(name, input)?;
                value.biases.push(Bias {
                    op: name.to_owned(),
                    fraction_bits: value.fraction_bits,
                    shift: 0,
                    plane: value.shape.height * value.shape.width,
                });
                Ok(value)
            }
            Op::Add { inputs, .. } => {
                let values = inputs.iter().map(|i| self.take(name, i));
                let values = values.collect::<Result<Vec<_>>>()?;
                let sum = values.into_iter().reduce(Value::plus);
                sum.ok_or_else(|| ModelError::op(name, "it needs summands"))
            }
            Op::Sub { inputs, .. } => {
                let first = self.take(name, &inputs[0])?;
                let second = self.local(name, &inputs[1])?;
                Ok(first.plus(second.times(&[-1])))
            }
            Op::Concat { inputs, .. } => {
                let values = inputs.iter().map(|i| self.map(name, i));
                let values = values.collect::<Result<Vec<_>>>()?;
                Value::concat(values).ok_or_else(|| ModelError::op(name, "it reads nothing"))
            }
            Op::Channels {
                input, channels, ..
            } => Ok(self.map(name, input)?.pick(channels)),
            Op::Pad { input, padding, .. } => self.pad(name, input, *padding),
            Op::AvgPool { .. } | Op::GlobalAvgPool { .. } => self.average(op),
            Op::MaxPool { input, window, .. } => self.max_pool(name, input, window),
            Op::Flatten { input, .. } => {
                let mut value = self.take(name, input)?;
                value.shape = self.shapes[name];
                Ok(value)
            }
            Op::MaskedRelu { input, .. } => self.relu(name, input),
            Op::Clip { input, max, .. } => self.clip(name, input, *max),
            Op::LeakyRelu { input, slope, .. } => self.leaky_relu(name, input, *slope),
        }
    }

    /// The result of `input`, to be added to or closed.
    pub(super) fn take(&mut self, op: &str, input: &str) -> Result<Value> {
        let value = self.values.get(input).ok_or_else(|| {
            ModelError::op(
                op,
                format!("it reads '{input}', which no earlier operation makes"),
            )
        })?;
        Ok(value.clone())
    }

    /// The result of `input` as a sum of tensors.
    pub(super) fn local(&mut self, op: &str, input: &'a str) -> Result<Value> {
        let value = self.take(op, input)?;
        if value.is_local() {
            return Ok(value);
        }
        let value = self.tensor(input.to_owned(), value)?;
        self.values.insert(input, value.clone());
        Ok(value)
    }

    /// A tensor of the result of `input`, which is read instead of it from now on.
    pub(super) fn local_tensor(&mut self, input: &'a str, value: Value) -> Result<Value> {
        let value = self.tensor(format!("{input}.value"), value)?;
        self.values.insert(input, value.clone());
        Ok(value)
    }

    pub(super) const fn activation_bits(&self) -> u32 {
        self.numbers.activation_fraction_bits
    }

    /// As [`Self::local`], with rows and columns that are those of its views.
    pub(super) fn map(&mut self, op: &str, input: &'a str) -> Result<Value> {
        let value = self.local(op, input)?;
        if value.is_map() {
            return Ok(value);
        }
        let value = self.tensor(format!("{input}.map"), value)?;
        self.values.insert(input, value.clone());
        Ok(value)
    }

    /// `name`, or with a number behind where a layer has it already.
    fn unused(&self, name: String) -> String {
        let taken = |name: &str| self.graph.layers.iter().any(|l| l.name == name);
        let mut others = (2..).map(|n| format!("{name}.{n}"));
        match taken(&name) {
            true => others.find(|other| !taken(other)).unwrap_or(name),
            false => name,
        }
    }

    /// A layer without a ReLU that makes a tensor of `value`.
    pub(super) fn tensor(&mut self, name: String, value: Value) -> Result<Value> {
        let name = self.unused(name);
        let n = value.shape.n_values();
        let none = ReluSet::from_mask(&name, &vec![0; n])?;
        self.close(name, value, none)
    }

    /// A layer that truncates `value` and applies ReLU at `relu`.
    pub(super) fn close(&mut self, name: String, value: Value, relu: ReluSet) -> Result<Value> {
        let f_a = self.numbers.activation_fraction_bits;
        let truncated_bits = value.fraction_bits - f_a;
        let (bits, shape) = (self.range(&name, &value, truncated_bits)?, value.shape);
        let bound = (1u64 << (bits.0 - 1 - truncated_bits)) + 1;
        self.push(name, value, truncated_bits, bits.0, Some(relu))?;
        if let (Some(layer), Some(mean_bits)) = (self.graph.layers.last_mut(), bits.1) {
            layer.mean_bits = mean_bits;
        }
        self.graph.tensors.push(shape);
        self.bounds.push(bound);
        let tensor = self.graph.tensors.len() - 1;
        Ok(Value::of(View::whole(tensor, shape), shape, f_a))
    }

    /// Bits of the accumulator of layer `name`, and its mean: as calibrated, or by what its summands can be at most.
    fn range(&self, name: &str, value: &Value, truncated: u32) -> Result<(u32, Option<u32>)> {
        let known = self.numbers.accumulators.get(name);
        let bits = match known {
            Some(range) => range.bits,
            None if value.convs.is_empty() && value.biases.is_empty() => {
                // In integers, since both parties must come to the same bits.
                let of_terms = value.terms.iter().map(|term| {
                    let factor = term.factors.iter().map(|f| f.unsigned_abs()).max();
                    let [rows, columns] = term.view.window();
                    let largest = term.view.tensors().map(|t| self.bounds[t]).max();
                    let product = u128::from(factor.unwrap_or(0)) * (rows * columns) as u128;
                    product.saturating_mul(largest.unwrap_or(0).into())
                });
                let bound =
                    of_terms.fold(value.constant.unsigned_abs().into(), u128::saturating_add);
                let bits = (u128::BITS - bound.leading_zeros()).min(WIDEST) + 2;
                bits.max(truncated + 2).min(WIDEST)
            }
            None => WIDEST,
        };
        if bits <= truncated || bits > WIDEST {
            return Err(ModelError::op(
                name,
                format!(
                    "{bits} accumulator bits; they must be more than the {truncated} that are truncated, and at most {WIDEST}"
                ),
            ));
        }
        let mean_bits = known.and_then(|range| range.mean_bits);
        if mean_bits.is_some_and(|mean| mean >= bits) {
            return Err(ModelError::op(
                name,
                "the mean of its accumulator is not within its range",
            ));
        }
        Ok((bits, mean_bits))
    }

    fn push(
        &mut self,
        name: String,
        value: Value,
        truncated_bits: u32,
        accumulator_bits: u32,
        relu: Option<ReluSet>,
    ) -> Result<()> {
        let n = value.shape.n_values();
        if relu.as_ref().is_some_and(|r| r.n_positions() != n) {
            return Err(ModelError::op(&name, "its mask has another size"));
        }
        self.n_values += n;
        if self.n_values > MAX_VALUES || self.graph.layers.len() >= MAX_LAYERS {
            return Err(ModelError::op(
                &name,
                format!(
                    "with it the network has more than {MAX_VALUES} values or {MAX_LAYERS} layers; use a smaller image or network"
                ),
            ));
        }
        self.graph.layers.push(Layer {
            name,
            convs: value.convs,
            terms: value.terms,
            biases: value.biases,
            constant: value.constant,
            shape: value.shape,
            fraction_bits: value.fraction_bits,
            truncated_bits,
            accumulator_bits,
            mean_bits: accumulator_bits - 1,
            relu,
        });
        Ok(())
    }

    /// The mask of operation `name`.
    pub(super) fn mask(&self, name: &str) -> Result<ReluSet> {
        let mask = self.masks.get(name);
        let mask =
            mask.ok_or_else(|| ModelError::op(name, format!("there is no tensor '{name}.mask'")))?;
        let mut ops = self.spec.ops.iter();
        let kept = ops.find(|op| op.name() == name).and_then(Op::relus_kept);
        let n = self.shapes[name].n_values();
        if mask.n_positions() != n || Some(mask.kept().len()) != kept {
            return Err(ModelError::op(
                name,
                format!(
                    "its mask keeps {} of {} positions; the model says {} of {n}",
                    mask.kept().len(),
                    mask.n_positions(),
                    kept.unwrap_or(0)
                ),
            ));
        }
        Ok(mask.clone())
    }

    fn relu(&mut self, name: &str, input: &str) -> Result<Value> {
        let value = self.take(name, input)?;
        let mask = self.mask(name)?;
        self.close(name.to_owned(), value, mask)
    }
}
