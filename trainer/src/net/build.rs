//! The families of [`Arch`] as graphs. Names of operations are those of exported models, names of parameters those of checkpoints.

use super::arch::{Arch, Family};
use super::graph::{Graph, Parts, Trained};
use crate::error::{Error, Result};
use pi_model::graph::Shape;
use pi_model::spec::{Op, Window};
use std::collections::BTreeMap;

impl Arch {
    /// Pools must divide what they pool, as the private protocol sums windows that do not overlap.
    pub(super) fn check_pools(&self) -> Result<()> {
        let [_, h, w] = self.input;
        if self.family == Family::Lean && (h % 8 != 0 || w % 8 != 0) {
            return Err(Error::Usage(format!(
                "{} halves images three times, and {h}x{w} is no multiple of 8; choose another image size",
                self.name
            )));
        }
        let graph = self.graph();
        for (i, op) in graph.ops.iter().enumerate() {
            let Op::AvgPool { input, window, .. } = op else {
                continue;
            };
            let read = graph.shape(graph.reads(i)[0]);
            let [h, w] = [read.height, read.width];
            let [side, _] = window.kernel;
            if h % side != 0 || w % side != 0 {
                return Err(Error::Usage(format!(
                    "{} pools {side}x{side} windows, which do not divide the {h}x{w} map of {input}; choose another image size",
                    self.name
                )));
            }
        }
        Ok(())
    }

    /// The network.
    pub fn graph(&self) -> Graph {
        let [channels, height, width] = self.input;
        let image = Shape::new(channels, height, width);
        let mut b = Builder {
            ops: vec![],
            trained: BTreeMap::new(),
            stages: vec![],
            shapes: BTreeMap::from([("input".to_owned(), image)]),
        };
        let last = match self.family {
            Family::Residual => residual(&mut b, self),
            Family::PreActivation => pre_activation(&mut b, self),
            Family::Plain => plain(&mut b, self),
            Family::Lean => lean(&mut b, self),
        };
        b.classifier(last, self.n_classes);
        let parts = Parts {
            name: self.name.clone(),
            input: self.input,
            ops: b.ops,
            trained: b.trained,
            stages: b.stages,
            arch: Some(self.clone()),
        };
        Graph::new(parts, &b.shapes)
    }
}

struct Builder {
    ops: Vec<Op>,
    trained: BTreeMap<String, Trained>,
    stages: Vec<String>,
    shapes: BTreeMap<String, Shape>,
}

/// A convolution to be added to the list.
struct Conv<'a> {
    /// Prefix of its parameters.
    name: String,
    /// Name of the operation.
    op: String,
    from: &'a str,
    n_out: i64,
    kernel: i64,
    stride: i64,
    norm: bool,
}

impl Builder {
    fn shape(&self, value: &str) -> Shape {
        self.shapes[value]
    }

    fn push(&mut self, op: Op, shape: Shape) -> String {
        let name = op.name().to_owned();
        self.shapes.insert(name.clone(), shape);
        self.ops.push(op);
        name
    }

    fn conv(&mut self, c: Conv) -> String {
        let Shape { height, width, .. } = self.shape(c.from);
        let [n_out, kernel, stride] = [c.n_out, c.kernel, c.stride].map(|n| n as usize);
        let trained = Trained {
            name: c.name,
            weight: true,
            bias: false,
            norm: c.norm,
        };
        self.trained.insert(c.op.clone(), trained);
        let op = Op::Conv2d {
            name: c.op,
            input: c.from.into(),
            out_channels: n_out,
            window: Window::square(kernel, stride, (kernel - 1) / 2),
            groups: 1,
        };
        let [height, width] = [height, width].map(|n| n.div_ceil(stride));
        self.push(op, Shape::new(n_out, height, width))
    }

    /// A BatchNorm that stands alone: a convolution of each channel by itself, whose weights it is.
    fn norm(&mut self, name: String, op: String, from: &str) -> String {
        let shape = self.shape(from);
        let trained = Trained {
            name,
            weight: false,
            bias: false,
            norm: true,
        };
        self.trained.insert(op.clone(), trained);
        let op = Op::Conv2d {
            name: op,
            input: from.into(),
            out_channels: shape.channels,
            window: Window::square(1, 1, 0),
            groups: shape.channels,
        };
        self.push(op, shape)
    }

    fn add(&mut self, name: String, inputs: [String; 2]) -> String {
        let shape = self.shape(&inputs[0]);
        let inputs = inputs.to_vec();
        self.push(Op::Add { name, inputs }, shape)
    }

    fn relu(&mut self, name: String, from: &str) -> String {
        let shape = self.shape(from);
        let op = Op::MaskedRelu {
            name,
            input: from.into(),
            relus_kept: shape.n_values(),
        };
        self.push(op, shape)
    }

    /// Average over windows that do not overlap.
    fn pool(&mut self, from: String, side: i64) -> String {
        let (s, side) = (self.shape(&from), side as usize);
        let op = Op::AvgPool {
            name: format!("{from}.pool"),
            input: from,
            window: Window::square(side, side, 0),
            count_padding: false,
        };
        self.push(op, Shape::new(s.channels, s.height / side, s.width / side))
    }

    fn end_stage(&mut self, result: &str) {
        self.stages.push(result.into());
    }

    fn classifier(&mut self, from: String, n_classes: usize) {
        let n_in = self.shape(&from).channels;
        let name = "pool".to_owned();
        let pool = Op::GlobalAvgPool { name, input: from };
        let pool = self.push(pool, Shape::new(n_in, 1, 1));
        let trained = Trained {
            name: "fc".into(),
            weight: true,
            bias: true,
            norm: false,
        };
        self.trained.insert("fc".into(), trained);
        let linear = Op::Linear {
            name: "fc".into(),
            input: pool,
            out_features: n_classes,
        };
        self.push(linear, Shape::new(n_classes, 1, 1));
    }
}

fn stem(b: &mut Builder, arch: &Arch) -> String {
    let s = arch.stem;
    let conv = b.conv(Conv {
        name: "stem".into(),
        op: "stem".into(),
        from: "input",
        n_out: s.width,
        kernel: s.kernel,
        stride: s.stride,
        norm: true,
    });
    let x = b.relu("stem.relu".into(), &conv);
    match s.pool {
        1 => x,
        side => b.pool(x, side),
    }
}

fn stride(stage: usize, block: usize) -> i64 {
    if stage > 0 && block == 0 { 2 } else { 1 }
}

/// A convolution of a block: of the stage's width and with the block's names.
struct Block {
    name: String,
    op: String,
    n_out: i64,
    norm: bool,
}

impl Block {
    fn conv(&self, b: &mut Builder, part: &str, from: &str, [kernel, stride]: [i64; 2]) -> String {
        b.conv(Conv {
            name: format!("{}.{part}", self.name),
            op: format!("{}.{part}", self.op),
            from,
            n_out: self.n_out,
            kernel,
            stride,
            norm: self.norm,
        })
    }

    /// Second convolution of `inner`, and its sum with `x`, by way of a convolution of `shortcut` where the shape changes.
    fn close(
        &self,
        b: &mut Builder,
        inner: &str,
        x: String,
        shortcut: &str,
        stride: i64,
    ) -> String {
        let second = self.conv(b, "conv2", inner, [3, 1]);
        let skip = match stride != 1 || b.shape(&x).channels != self.n_out as usize {
            true => self.conv(b, "shortcut", shortcut, [1, stride]),
            false => x,
        };
        b.add(format!("{}.add", self.op), [second, skip])
    }
}

fn residual(b: &mut Builder, arch: &Arch) -> String {
    let mut x = stem(b, arch);
    let mut number = 0;
    for (s, (&n_out, &n_blocks)) in arch.widths.iter().zip(&arch.blocks).enumerate() {
        for k in 0..n_blocks {
            let block = Block {
                name: format!("stage{s}.block{k}"),
                op: format!("block{number}"),
                n_out,
                norm: true,
            };
            let stride = stride(s, k);
            let first = block.conv(b, "conv1", &x, [3, stride]);
            let inner = b.relu(format!("{}.relu1", block.op), &first);
            let shortcut = x.clone();
            let sum = block.close(b, &inner, x, &shortcut, stride);
            x = b.relu(format!("{}.relu2", block.op), &sum);
            number += 1;
        }
        b.end_stage(&x);
    }
    x
}

/// Each block: BatchNorm, ReLU, conv1, BatchNorm, ReLU, conv2, and the sum with the block's input. A
/// BatchNorm behind a single convolution belongs to that convolution; the one behind a sum stands alone,
/// where the sum is carried on too.
fn pre_activation(b: &mut Builder, arch: &Arch) -> String {
    let mut x = stem(b, arch);
    let mut number = 0;
    for (s, (&n_out, &n_blocks)) in arch.widths.iter().zip(&arch.blocks).enumerate() {
        for k in 0..n_blocks {
            let mut block = Block {
                name: format!("stage{s}.block{k}"),
                op: format!("block{number}"),
                n_out,
                norm: true,
            };
            let stride = stride(s, k);
            // Block 0 has its first BatchNorm and ReLU in the stem.
            let active = if number == 0 {
                x.clone()
            } else {
                let (name, op) = (&block.name, &block.op);
                let norm = b.norm(format!("{name}.norm1"), format!("{op}.norm1"), &x);
                let active = b.relu(format!("{op}.relu1"), &norm);
                if k == 0 {
                    b.end_stage(&active);
                }
                active
            };
            let first = block.conv(b, "conv1", &active, [3, stride]);
            let inner = b.relu(format!("{}.relu2", block.op), &first);
            block.norm = false;
            x = block.close(b, &inner, x, &active, stride);
            number += 1;
        }
    }
    let norm = b.norm("norm".into(), "norm".into(), &x);
    let last = b.relu("norm.relu".into(), &norm);
    b.end_stage(&last);
    last
}

/// VGG as the ReLU counts of the field have it: the maps of the last two stages are equally large, so
/// the last pool is the global one. Average pools, since the protocol sums windows.
fn plain(b: &mut Builder, arch: &Arch) -> String {
    let mut x = "input".to_owned();
    for (s, (&n_out, &n_convs)) in arch.widths.iter().zip(&arch.blocks).enumerate() {
        for k in 0..n_convs {
            x = chained(b, (s, k), &x, n_out, [3, 1]);
        }
        b.end_stage(&x);
        if s + 2 < arch.widths.len() {
            x = b.pool(x, 2);
        }
    }
    x
}

/// Every stage halves the map with its first convolution. A 3x3 convolution and an average over 2x2 windows
/// are one convolution of 4x4 and stride 2, which is what runs here, at four ninths of the
/// multiplications; a linear stem before that makes it 6x6. So no layer is without ReLUs, and each
/// stage costs the private protocol two round trips.
fn lean(b: &mut Builder, arch: &Arch) -> String {
    let mut x = "input".to_owned();
    for (s, (&n_out, &n_convs)) in arch.widths.iter().zip(&arch.blocks).enumerate() {
        for k in 0..n_convs {
            let form = match (s, k) {
                (0, 0) => [6, 2],
                (_, 0) => [4, 2],
                _ => [3, 1],
            };
            x = chained(b, (s, k), &x, n_out, form);
        }
        b.end_stage(&x);
    }
    x
}

/// Convolution `k` of stage `s` in a chain, and its ReLU.
fn chained(
    b: &mut Builder,
    (s, k): (usize, usize),
    from: &str,
    n_out: i64,
    [kernel, stride]: [i64; 2],
) -> String {
    let conv = b.conv(Conv {
        name: format!("stage{s}.conv{k}"),
        op: format!("stage{s}.conv{k}"),
        from,
        n_out,
        kernel,
        stride,
        norm: true,
    });
    b.relu(format!("stage{s}.relu{k}"), &conv)
}
