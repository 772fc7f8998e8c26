//! The compiler: walks the operations once, in order, and closes a layer at each masked ReLU and at the end.

use std::collections::HashMap;

use super::{Conv, Graph, Layer, Shape, Skip, Source, pool_shift};
use crate::error::{ModelError, Result};
use crate::relu_set::ReluSet;
use crate::spec::{ModelSpec, Op};

/// Compiles `spec` with the masks named after their ReLUs.
pub(super) fn run(spec: &ModelSpec, masks: &HashMap<String, ReluSet>) -> Result<Graph> {
    let graph = Graph {
        tensors: vec![],
        sources: vec![],
        layers: vec![],
    };
    Compiler {
        spec,
        masks,
        graph,
        values: HashMap::new(),
    }
    .run()
}

#[derive(Clone)]
enum Value {
    Activation {
        tensor: usize,
        window: [usize; 2],
        shape: Shape,
        flat: bool,
        fraction_bits: u32,
    },
    Accumulator {
        convs: Vec<Conv>,
        skips: Vec<Skip>,
        shape: Shape,
        fraction_bits: u32,
    },
}

struct Compiler<'a> {
    spec: &'a ModelSpec,
    masks: &'a HashMap<String, ReluSet>,
    graph: Graph,
    values: HashMap<&'a str, Value>,
}

impl<'a> Compiler<'a> {
    fn run(mut self) -> Result<Graph> {
        let input = &self.spec.input;
        let shape = Shape::new(input.channels, input.height, input.width).check("input")?;
        let f_a = self.spec.activation_fraction_bits;
        self.graph.tensors.push(shape);
        self.values.insert(
            "input",
            Value::Activation {
                tensor: 0,
                window: [1, 1],
                shape,
                flat: false,
                fraction_bits: f_a,
            },
        );
        for op in &self.spec.ops {
            let value = self.op(op)?;
            if self.values.insert(op.name(), value).is_some() {
                return Err(ModelError::op(
                    op.name(),
                    "another operation has the same name",
                ));
            }
        }
        let last = self
            .spec
            .ops
            .last()
            .ok_or_else(|| ModelError::Plan("it has no operations".into()))?
            .name();
        let Some(Value::Accumulator {
            convs,
            skips,
            shape,
            fraction_bits,
        }) = self.values.remove(last)
        else {
            return Err(ModelError::op(
                last,
                "the last operation must be a conv2d, linear or add, whose result is the output",
            ));
        };
        if shape.n_values() != self.spec.labels.len() {
            return Err(ModelError::op(
                last,
                format!(
                    "it has {} outputs, but the model has {} labels",
                    shape.n_values(),
                    self.spec.labels.len()
                ),
            ));
        }
        if let Some(name) = self
            .spec
            .ops
            .iter()
            .map(Op::name)
            .find(|n| matches!(self.values.get(n), Some(Value::Accumulator { .. })))
        {
            return Err(ModelError::op(name, "nothing reads its result; remove it"));
        }
        self.graph.layers.push(Layer {
            name: last.to_owned(),
            convs,
            skips,
            shape,
            fraction_bits,
            truncated_bits: 0,
            accumulator_bits: self.spec.output.accumulator_bits,
            relu: None,
        });
        self.check_reads()?;
        Ok(self.graph)
    }

    fn check_reads(&self) -> Result<()> {
        for tensor in 0..self.graph.tensors.len() {
            let name = if tensor == 0 {
                "input"
            } else {
                &self.graph.layers[tensor - 1].name
            };
            let skipped = self
                .graph
                .layers
                .iter()
                .any(|l| l.skips.iter().any(|s| s.tensor == tensor));
            match self
                .graph
                .sources
                .iter()
                .filter(|s| s.tensor == tensor)
                .count()
            {
                0 if !skipped => return Err(ModelError::op(name, "nothing reads it; remove it")),
                0 | 1 => {}
                _ => {
                    return Err(ModelError::op(
                        name,
                        "it is read by convolutions of different strides, or both pooled and not; its mask can serve only one of them. Put a masked_relu with an empty mask between",
                    ));
                }
            }
        }
        Ok(())
    }

    fn op(&mut self, op: &'a Op) -> Result<Value> {
        let name = op.name();
        match op {
            Op::Conv2d {
                input,
                out_channels,
                kernel,
                stride,
                padding,
                weight_fraction_bits,
                ..
            } => self.conv(
                name,
                input,
                *out_channels,
                *kernel,
                *stride,
                *padding,
                *weight_fraction_bits,
            ),
            Op::Linear {
                input,
                out_features,
                weight_fraction_bits,
                ..
            } => {
                let (.., shape, _, _) = self.activation(name, input)?;
                if shape.height != 1 || shape.width != 1 {
                    return Err(ModelError::op(
                        name,
                        format!("it reads the shape {shape}; put a flatten before it"),
                    ));
                }
                self.conv(
                    name,
                    input,
                    *out_features,
                    [1, 1],
                    1,
                    0,
                    *weight_fraction_bits,
                )
            }
            Op::Add { inputs, .. } => self.add(name, inputs),
            Op::AvgPool { input, window, .. } => self.pool(name, input, Some(*window)),
            Op::GlobalAvgPool { input, .. } => self.pool(name, input, None),
            Op::Flatten { input, .. } => {
                let (tensor, window, shape, _, fraction_bits) = self.activation(name, input)?;
                Ok(Value::Activation {
                    tensor,
                    window,
                    shape: Shape::new(shape.n_values(), 1, 1),
                    flat: true,
                    fraction_bits,
                })
            }
            Op::MaskedRelu {
                input,
                accumulator_bits,
                relus_kept,
                ..
            } => self.masked_relu(name, input, *accumulator_bits, *relus_kept),
        }
    }

    fn value(&self, op: &str, input: &str) -> Result<&Value> {
        self.values.get(input).ok_or_else(|| {
            ModelError::op(op, format!("it reads '{input}', which no earlier operation makes (an accumulator can be read only once)"))
        })
    }

    fn activation(&self, op: &str, input: &str) -> Result<(usize, [usize; 2], Shape, bool, u32)> {
        match self.value(op, input)? {
            Value::Activation {
                tensor,
                window,
                shape,
                flat,
                fraction_bits,
            } => Ok((*tensor, *window, *shape, *flat, *fraction_bits)),
            Value::Accumulator { .. } => Err(ModelError::op(
                op,
                format!(
                    "'{input}' is an accumulator; put a masked_relu between (its mask may be empty)"
                ),
            )),
        }
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of one operation")]
    fn conv(
        &mut self,
        name: &str,
        input: &str,
        out_channels: usize,
        kernel: [usize; 2],
        stride: usize,
        padding: usize,
        weight_bits: u32,
    ) -> Result<Value> {
        let (tensor, window, shape, _, fraction_bits) = self.activation(name, input)?;
        if !(1..=2).contains(&stride) {
            return Err(ModelError::op(
                name,
                format!("stride {stride}; only 1 and 2 are supported"),
            ));
        }
        let out = |size: usize, kernel: usize| {
            let padded = padding.checked_mul(2).and_then(|p| p.checked_add(size));
            padded
                .and_then(|p| p.checked_sub(kernel))
                .filter(|_| kernel > 0 && padding < kernel)
                .map(|p| p / stride + 1)
        };
        let (Some(height), Some(width)) =
            (out(shape.height, kernel[0]), out(shape.width, kernel[1]))
        else {
            return Err(ModelError::op(
                name,
                format!(
                    "a kernel of {kernel:?} with padding {padding} does not fit the shape {shape}; the kernel must fit the padded input and the padding be smaller than the kernel"
                ),
            ));
        };
        if weight_bits > 20 {
            return Err(ModelError::op(
                name,
                format!("{weight_bits} fraction bits of the weights; at most 20 are supported"),
            ));
        }
        let source = Source {
            tensor,
            window,
            shape,
            stride,
        };
        let source = self
            .graph
            .sources
            .iter()
            .position(|s| *s == source)
            .unwrap_or_else(|| {
                self.graph.sources.push(source);
                self.graph.sources.len() - 1
            });
        let conv = Conv {
            op: name.to_owned(),
            source,
            out_channels,
            kernel,
            stride,
            padding,
            shift: 0,
        };
        Ok(Value::Accumulator {
            convs: vec![conv],
            skips: vec![],
            shape: Shape::new(out_channels, height, width).check(name)?,
            fraction_bits: fraction_bits + weight_bits,
        })
    }

    fn take_summand(
        &mut self,
        op: &str,
        input: &str,
    ) -> Result<(Vec<Conv>, Vec<Skip>, Shape, u32)> {
        match self.value(op, input)?.clone() {
            Value::Accumulator {
                convs,
                skips,
                shape,
                fraction_bits,
            } => {
                self.values.remove(input);
                Ok((convs, skips, shape, fraction_bits))
            }
            Value::Activation {
                tensor,
                window: [1, 1],
                shape,
                flat: false,
                fraction_bits,
            } => Ok((
                vec![],
                vec![Skip { tensor, shift: 0 }],
                shape,
                fraction_bits,
            )),
            Value::Activation { .. } => Err(ModelError::op(
                op,
                format!("'{input}' is pooled or flattened and cannot be added"),
            )),
        }
    }

    fn add(&mut self, name: &str, inputs: &[String; 2]) -> Result<Value> {
        let (mut convs, mut skips, shape, bits) = self.take_summand(name, &inputs[0])?;
        let (mut more_convs, mut more_skips, other_shape, other_bits) =
            self.take_summand(name, &inputs[1])?;
        if shape != other_shape {
            return Err(ModelError::op(
                name,
                format!("its summands have the shapes {shape} and {other_shape}"),
            ));
        }
        let fraction_bits = bits.max(other_bits);
        convs
            .iter_mut()
            .for_each(|c| c.shift += fraction_bits - bits);
        skips
            .iter_mut()
            .for_each(|s| s.shift += fraction_bits - bits);
        more_convs
            .iter_mut()
            .for_each(|c| c.shift += fraction_bits - other_bits);
        more_skips
            .iter_mut()
            .for_each(|s| s.shift += fraction_bits - other_bits);
        convs.append(&mut more_convs);
        skips.append(&mut more_skips);
        Ok(Value::Accumulator {
            convs,
            skips,
            shape,
            fraction_bits,
        })
    }

    fn pool(&self, name: &str, input: &str, window: Option<usize>) -> Result<Value> {
        let (tensor, before, shape, flat, fraction_bits) = self.activation(name, input)?;
        if flat || before != [1, 1] {
            return Err(ModelError::op(
                name,
                "it pools what is pooled or flattened already; use one pool with a larger window",
            ));
        }
        let window = window.map_or([shape.height, shape.width], |w| [w, w]);
        if window.contains(&0) || shape.height % window[0] != 0 || shape.width % window[1] != 0 {
            return Err(ModelError::op(
                name,
                format!("a window of {window:?} does not divide the shape {shape}"),
            ));
        }
        let shape = Shape::new(
            shape.channels,
            shape.height / window[0],
            shape.width / window[1],
        );
        Ok(Value::Activation {
            tensor,
            window,
            shape,
            flat: false,
            fraction_bits: fraction_bits + pool_shift(window),
        })
    }

    fn masked_relu(
        &mut self,
        name: &str,
        input: &str,
        accumulator_bits: u32,
        relus_kept: usize,
    ) -> Result<Value> {
        let (convs, skips, shape, fraction_bits) = self.take_summand(name, input)?;
        let f_a = self.spec.activation_fraction_bits;
        let truncated_bits = fraction_bits - f_a;
        if accumulator_bits <= truncated_bits || accumulator_bits > 40 {
            return Err(ModelError::op(
                name,
                format!(
                    "{accumulator_bits} accumulator bits; they must be more than the {truncated_bits} that are truncated, and at most 40"
                ),
            ));
        }
        let relu = self
            .masks
            .get(name)
            .ok_or_else(|| ModelError::op(name, format!("there is no tensor '{name}.mask'")))?
            .clone();
        if relu.n_positions() != shape.n_values() || relu.kept().len() != relus_kept {
            return Err(ModelError::op(
                name,
                format!(
                    "its mask keeps {} of {} positions; the model says {relus_kept} of {}",
                    relu.kept().len(),
                    relu.n_positions(),
                    shape.n_values()
                ),
            ));
        }
        self.graph.layers.push(Layer {
            name: name.to_owned(),
            convs,
            skips,
            shape,
            fraction_bits,
            truncated_bits,
            accumulator_bits,
            relu: Some(relu),
        });
        self.graph.tensors.push(shape);
        let tensor = self.graph.tensors.len() - 1;
        Ok(Value::Activation {
            tensor,
            window: [1, 1],
            shape,
            flat: false,
            fraction_bits: f_a,
        })
    }
}
