//! A network as a list of layers, the form that the forward pass and the exporter share.
//!
//! A layer is what the private protocol evaluates at once: a sum of convolutions and a skip connection,
//! then one masked ReLU (or none, where a value is only carried on), then perhaps an average pool.
//! Value 0 is the input; value i + 1 is the result of layer i.

use super::arch::{Arch, Family};

/// One convolution, BatchNorm, or both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    /// Prefix of its parameters.
    pub name: String,
    /// Name of the operation in an exported model.
    pub op: String,
    /// The value that it reads.
    pub from: usize,
    /// Input and output channels.
    pub channels: [i64; 2],
    /// Kernel size.
    pub kernel: i64,
    /// Stride.
    pub stride: i64,
    /// It has convolution weights; otherwise it acts on each channel alone.
    pub weight: bool,
    /// It ends with BatchNorm.
    pub norm: bool,
}

/// One layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerPlan {
    /// Name of its result in an exported model.
    pub name: String,
    /// Convolutions that are summed.
    pub terms: Vec<Term>,
    /// Value that is added.
    pub skip: Option<usize>,
    /// It ends with a masked ReLU.
    pub relu: bool,
    /// Side of the average pool behind it; 1 for none.
    pub pool: i64,
    /// Channels, height, width before the pool.
    pub shape: [i64; 3],
    /// Its result is that of a stage.
    pub ends_stage: bool,
}

struct Builder {
    layers: Vec<LayerPlan>,
    shape: [i64; 3],
}

/// A convolution to be added to the list.
struct Conv<'a> {
    name: String,
    op: &'a str,
    from: usize,
    n_out: i64,
    kernel: i64,
    stride: i64,
    norm: bool,
}

impl Builder {
    /// Number of the value that the last layer made.
    fn last(&self) -> usize {
        self.layers.len()
    }

    /// Shape of a value, pooled.
    fn value_shape(&self, value: usize) -> [i64; 3] {
        match value.checked_sub(1).map(|l| &self.layers[l]) {
            Some(l) => [l.shape[0], l.shape[1] / l.pool, l.shape[2] / l.pool],
            None => self.shape,
        }
    }

    fn push(&mut self, name: &str, terms: Vec<Term>, skip: Option<usize>, relu: bool) -> usize {
        let first = &terms[0];
        let [_, h, w] = self.value_shape(first.from);
        let halve = |n: i64| (n + first.stride - 1) / first.stride;
        self.layers.push(LayerPlan {
            name: name.into(),
            shape: [first.channels[1], halve(h), halve(w)],
            terms,
            skip,
            relu,
            pool: 1,
            ends_stage: false,
        });
        self.last()
    }

    fn term(&self, c: Conv) -> Term {
        Term {
            op: c.op.into(),
            channels: [self.value_shape(c.from)[0], c.n_out],
            name: c.name,
            from: c.from,
            kernel: c.kernel,
            stride: c.stride,
            weight: true,
            norm: c.norm,
        }
    }

    /// A BatchNorm (or nothing) on each channel of a value.
    fn channelwise(&self, name: String, op: &str, from: usize, norm: bool) -> Term {
        let channels = [self.value_shape(from)[0]; 2];
        Term {
            name,
            op: op.into(),
            from,
            channels,
            kernel: 1,
            stride: 1,
            weight: false,
            norm,
        }
    }

    fn end_stage(&mut self) {
        if let Some(layer) = self.layers.last_mut() {
            layer.ends_stage = true;
        }
    }

    fn pool(&mut self, side: i64) {
        if let Some(layer) = self.layers.last_mut() {
            layer.pool = side;
        }
    }
}

/// The layers of `arch`.
pub(super) fn layers(arch: &Arch) -> Vec<LayerPlan> {
    let [c, h, w] = arch.input.map(|n| n as i64);
    let mut b = Builder {
        layers: vec![],
        shape: [c, h, w],
    };
    match arch.family {
        Family::Residual => residual(&mut b, arch),
        Family::PreActivation => pre_activation(&mut b, arch),
        Family::Plain => plain(&mut b, arch),
        Family::Lean => lean(&mut b, arch),
    }
    b.layers
}

fn stem(b: &mut Builder, arch: &Arch) {
    let s = arch.stem;
    let conv = b.term(Conv {
        name: "stem".into(),
        op: "stem",
        from: 0,
        n_out: s.width,
        kernel: s.kernel,
        stride: s.stride,
        norm: true,
    });
    b.push("stem.relu", vec![conv], None, true);
    if s.pool > 1 {
        b.pool(s.pool);
        // A skip connection cannot read a pooled value, so the pooled value becomes one of its own.
        let copy = b.channelwise("stem.pool".into(), "stem.pooled", b.last(), false);
        b.push("stem.carry", vec![copy], None, false);
    }
}

fn stride(stage: usize, block: usize) -> i64 {
    if stage > 0 && block == 0 { 2 } else { 1 }
}

fn residual(b: &mut Builder, arch: &Arch) {
    stem(b, arch);
    let mut number = 0;
    for (s, (&n_out, &n_blocks)) in arch.widths.iter().zip(&arch.blocks).enumerate() {
        for k in 0..n_blocks {
            let (name, op) = (format!("stage{s}.block{k}"), format!("block{number}"));
            let (x, stride) = (b.last(), stride(s, k));
            let conv = |b: &Builder, part: &str, from, kernel, stride| {
                b.term(Conv {
                    name: format!("{name}.{part}"),
                    op: &format!("{op}.{part}"),
                    from,
                    n_out,
                    kernel,
                    stride,
                    norm: true,
                })
            };
            let first = conv(b, "conv1", x, 3, stride);
            let inner = b.push(&format!("{op}.relu1"), vec![first], None, true);
            let mut terms = vec![conv(b, "conv2", inner, 3, 1)];
            let reshapes = stride != 1 || b.value_shape(x)[0] != n_out;
            if reshapes {
                terms.push(conv(b, "shortcut", x, 1, stride));
            }
            let skip = (!reshapes).then_some(x);
            b.push(&format!("{op}.relu2"), terms, skip, true);
            number += 1;
        }
        b.end_stage();
    }
}

/// Each block: BatchNorm, ReLU, conv1, BatchNorm, ReLU, conv2, and the sum with the block's input. A
/// BatchNorm behind a single convolution belongs to that convolution; the one behind a sum stands alone
/// where the sum is carried on too, and needs the sum as a value of its own.
fn pre_activation(b: &mut Builder, arch: &Arch) {
    stem(b, arch);
    let mut number = 0;
    for (s, (&n_out, &n_blocks)) in arch.widths.iter().zip(&arch.blocks).enumerate() {
        for k in 0..n_blocks {
            let (name, op) = (format!("stage{s}.block{k}"), format!("block{number}"));
            let (x, stride) = (b.last(), stride(s, k));
            let conv = |b: &Builder, part: &str, from, kernel, stride, norm| {
                b.term(Conv {
                    name: format!("{name}.{part}"),
                    op: &format!("{op}.{part}"),
                    from,
                    n_out,
                    kernel,
                    stride,
                    norm,
                })
            };
            // Block 0 has its first BatchNorm and ReLU in the stem.
            let active = if number == 0 {
                x
            } else {
                let norm = b.channelwise(format!("{name}.norm1"), &format!("{op}.norm1"), x, true);
                let active = b.push(&format!("{op}.relu1"), vec![norm], None, true);
                if k == 0 {
                    b.end_stage();
                }
                active
            };
            let first = conv(b, "conv1", active, 3, stride, true);
            let inner = b.push(&format!("{op}.relu2"), vec![first], None, true);
            let mut terms = vec![conv(b, "conv2", inner, 3, 1, false)];
            let reshapes = stride != 1 || b.value_shape(x)[0] != n_out;
            if reshapes {
                terms.push(conv(b, "shortcut", active, 1, stride, false));
            }
            let skip = (!reshapes).then_some(x);
            b.push(&format!("{op}.carry"), terms, skip, false);
            number += 1;
        }
    }
    let norm = b.channelwise("norm".into(), "norm", b.last(), true);
    b.push("norm.relu", vec![norm], None, true);
    b.end_stage();
}

/// VGG as the ReLU counts of the field have it: the maps of the last two stages are equally large, so
/// the last pool is the global one. Average pools, since the protocol sums windows.
fn plain(b: &mut Builder, arch: &Arch) {
    for (s, (&n_out, &n_convs)) in arch.widths.iter().zip(&arch.blocks).enumerate() {
        for k in 0..n_convs {
            let conv = b.term(Conv {
                name: format!("stage{s}.conv{k}"),
                op: &format!("stage{s}.conv{k}"),
                from: b.last(),
                n_out,
                kernel: 3,
                stride: 1,
                norm: true,
            });
            b.push(&format!("stage{s}.relu{k}"), vec![conv], None, true);
        }
        b.end_stage();
        if s + 2 < arch.widths.len() {
            b.pool(2);
        }
    }
}

/// Every stage halves the map with its first convolution. A 3x3 convolution and an average over 2x2 windows
/// are one convolution of 4x4 and stride 2, which is what runs here, at four ninths of the
/// multiplications; a linear stem before that makes it 6x6. So no layer is without ReLUs, and each
/// stage costs the private protocol two round trips.
fn lean(b: &mut Builder, arch: &Arch) {
    for (s, (&n_out, &n_convs)) in arch.widths.iter().zip(&arch.blocks).enumerate() {
        for k in 0..n_convs {
            let (kernel, stride) = match (s, k) {
                (0, 0) => (6, 2),
                (_, 0) => (4, 2),
                _ => (3, 1),
            };
            let conv = b.term(Conv {
                name: format!("stage{s}.conv{k}"),
                op: &format!("stage{s}.conv{k}"),
                from: b.last(),
                n_out,
                kernel,
                stride,
                norm: true,
            });
            b.push(&format!("stage{s}.relu{k}"), vec![conv], None, true);
        }
        b.end_stage();
    }
}
