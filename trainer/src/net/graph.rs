//! A network as a list of the model format's operations ([`pi_model::spec`]): the form that the forward pass interprets and the
//! exporter writes. Beside it what only training needs: where parameters are in checkpoints, and which operations have a BatchNorm
//! behind them, which the export folds into them.
//!
//! Value 0 is the input; value i + 1 is the result of operation i.

use super::Arch;
use pi_model::graph::Shape;
use pi_model::spec::Op;
use std::collections::BTreeMap;
use tch::Tensor;

/// The parameters of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trained {
    /// What their names begin with in checkpoints.
    pub name: String,
    /// It has weights; a convolution without acts on each channel alone, by its BatchNorm.
    pub weight: bool,
    /// It has a bias of its own; a BatchNorm has one anyway.
    pub bias: bool,
    /// A BatchNorm follows.
    pub norm: bool,
}

/// A network.
#[derive(Debug, Clone, PartialEq)]
pub struct Graph {
    /// Name, such as `resnet20`.
    pub name: String,
    /// Channels, height, width of the input.
    pub input: [usize; 3],
    /// Number of classes.
    pub n_classes: usize,
    /// The operations, each after those that it reads. The last one gives the class scores.
    pub ops: Vec<Op>,
    /// The family that it belongs to; none of a network that was imported.
    pub arch: Option<Arch>,
    /// Parameters by operation.
    trained: BTreeMap<String, Trained>,
    /// Results that end a stage.
    stages: Vec<String>,
    /// Shape of each value.
    shapes: Vec<Shape>,
    /// Values that each operation reads.
    reads: Vec<Vec<usize>>,
    /// The operation that reads each value last.
    last_reads: Vec<usize>,
}

/// What a [`Graph`] is made of.
pub(super) struct Parts {
    pub(super) name: String,
    pub(super) input: [usize; 3],
    pub(super) ops: Vec<Op>,
    pub(super) trained: BTreeMap<String, Trained>,
    pub(super) stages: Vec<String>,
    pub(super) arch: Option<Arch>,
}

impl Graph {
    /// From operations whose results have `shapes`.
    pub(super) fn new(parts: Parts, shapes: &BTreeMap<String, Shape>) -> Graph {
        let Parts {
            name,
            input,
            ops,
            trained,
            stages,
            arch,
        } = parts;
        let names = || std::iter::once("input").chain(ops.iter().map(Op::name));
        let numbers: BTreeMap<&str, usize> = names().enumerate().map(|(i, n)| (n, i)).collect();
        let mut reads: Vec<Vec<usize>> = Vec::new();
        for op in &ops {
            let inputs = op.inputs().iter();
            reads.push(
                inputs
                    .filter_map(|n| numbers.get(n.as_str()).copied())
                    .collect(),
            );
        }
        let mut last_reads = vec![usize::MAX; ops.len() + 1];
        for (i, values) in reads.iter().enumerate() {
            values.iter().for_each(|&v| last_reads[v] = i);
        }
        let none = Shape::new(0, 0, 0);
        let shape = |n: &str| shapes.get(n).copied().unwrap_or(none);
        let shapes: Vec<Shape> = names().map(shape).collect();
        Graph {
            n_classes: shapes.last().map_or(0, |s| s.n_values()),
            name,
            input,
            arch,
            trained,
            stages,
            shapes,
            reads,
            last_reads,
            ops,
        }
    }

    /// Shape of value `i`.
    pub fn shape(&self, value: usize) -> Shape {
        self.shapes[value]
    }

    /// Values that operation `i` reads.
    pub fn reads(&self, op: usize) -> &[usize] {
        &self.reads[op]
    }

    /// Empties those of `values` that no operation after `op` reads, so that their memory serves again.
    pub(crate) fn let_go(&self, op: usize, values: &mut [Tensor]) {
        for &value in &self.reads[op] {
            if self.last_reads[value] == op {
                values[value] = Tensor::new();
            }
        }
    }

    /// The parameters of an operation, if it has any.
    pub fn trained(&self, op: &Op) -> Option<&Trained> {
        self.trained.get(op.name())
    }

    /// True if the result of an operation ends a stage.
    pub(super) fn ends_stage(&self, op: &Op) -> bool {
        self.stages.iter().any(|s| s == op.name())
    }

    /// Number and operation of every ReLU layer in order.
    pub(crate) fn relus(&self) -> impl Iterator<Item = (usize, &Op)> {
        let ops = self.ops.iter().enumerate();
        ops.filter(|(_, op)| op.relus_kept().is_some())
    }

    /// [channels, height, width] of every ReLU layer in order.
    pub fn relu_shapes(&self) -> Vec<[i64; 3]> {
        let of = |(i, _): (usize, &Op)| {
            let s = self.shapes[i + 1];
            [s.channels, s.height, s.width].map(|n| n as i64)
        };
        self.relus().map(of).collect()
    }

    /// Positions of a channel in every ReLU layer in order.
    pub fn relu_planes(&self) -> Vec<usize> {
        let plane = |s: [i64; 3]| (s[1] * s[2]) as usize;
        self.relu_shapes().into_iter().map(plane).collect()
    }

    /// ReLUs of every layer.
    pub fn relu_counts(&self) -> Vec<usize> {
        let count = |s: &[i64; 3]| s.iter().product::<i64>() as usize;
        self.relu_shapes().iter().map(count).collect()
    }

    /// Names of the ReLU layers.
    pub fn relu_names(&self) -> Vec<String> {
        self.relus().map(|(_, op)| op.name().to_owned()).collect()
    }

    /// For each ReLU layer the convolution or fully connected layer that produces its pre-activation, by
    /// parameter prefix: along the first inputs, past what has no weights (a BatchNorm alone, a sum); empty where there is none.
    pub fn producers(&self) -> Vec<String> {
        let producer = |(mut at, _): (usize, &Op)| {
            while let Some(value) = self.reads[at].first().and_then(|v| v.checked_sub(1)) {
                at = value;
                let own = self.trained(&self.ops[at]).filter(|t| t.weight);
                if let Some(trained) = own {
                    return trained.name.clone();
                }
            }
            String::new()
        };
        self.relus().map(producer).collect()
    }

    /// Shape of the weights of operation `i`, if it has any.
    pub fn weight_shape(&self, i: usize) -> Option<Vec<i64>> {
        let op = &self.ops[i];
        self.trained(op).filter(|t| t.weight)?;
        let read = self.shapes[*self.reads[i].first()?];
        let shape = match op {
            Op::Conv2d {
                out_channels,
                window,
                groups,
                ..
            } => {
                let [rows, columns] = window.kernel;
                vec![*out_channels, read.channels / groups, rows, columns]
            }
            _ => vec![self.shapes[i + 1].channels, read.channels],
        };
        Some(shape.into_iter().map(|n| n as i64).collect())
    }

    /// Multiplications of one inference: those of the convolutions and of the fully connected layers.
    pub fn multiply_adds(&self) -> u64 {
        let one = |i: usize| {
            let s = self.shapes[i + 1];
            let weights = self.weight_shape(i)?.iter().product::<i64>() as usize;
            Some((weights * s.height * s.width) as u64)
        };
        (0..self.ops.len()).filter_map(one).sum()
    }
}
