//! The teacher's training step the way that libtorch's own modules do it: the mark for our step.

use crate::error::{Error, Result};
use crate::net::Graph;
use pi_model::spec::{Op, Window};
use tch::nn::{self, ModuleT, OptimizerConfig};
use tch::{Device, Tensor};

/// A network of `tch::nn` modules and its optimiser.
pub(super) struct Plain {
    graph: Graph,
    modules: Vec<Modules>,
    optimiser: nn::Optimizer,
}

/// The modules of one operation.
#[derive(Default)]
struct Modules {
    conv: Option<nn::Conv2D>,
    norm: Option<nn::BatchNorm>,
    linear: Option<nn::Linear>,
}

impl Plain {
    /// The network with every ReLU. Only operations of the architectures with names are there.
    pub(super) fn new(graph: &Graph, device: Device) -> Result<Plain> {
        let store = nn::VarStore::new(device);
        let modules = (0..graph.ops.len()).map(|i| modules(graph, i, &store.root()));
        let modules = modules.collect::<Result<_>>()?;
        let config = nn::Sgd {
            momentum: 0.9,
            wd: 5e-4,
            nesterov: true,
            ..Default::default()
        };
        Ok(Plain {
            graph: graph.clone(),
            modules,
            optimiser: config.build(&store, 1e-4)?,
        })
    }

    /// Forward, backward, update.
    pub(super) fn step(&mut self, x: &Tensor, labels: &Tensor) {
        let mut values = vec![x.shallow_clone()];
        for (i, (op, own)) in self.graph.ops.iter().zip(&self.modules).enumerate() {
            let read = |k: usize| &values[self.graph.reads(i)[k]];
            let x = read(0);
            let y = match op {
                Op::Conv2d { .. } => {
                    let conv = own.conv.as_ref();
                    let y = conv.map_or_else(|| x.shallow_clone(), |c| x.apply_t(c, true));
                    match &own.norm {
                        Some(norm) => nn::BatchNorm::forward_t(norm, &y, true),
                        None => y,
                    }
                }
                Op::Add { .. } => x + read(1),
                Op::AvgPool { window, .. } => x.avg_pool2d_default(window.kernel[0] as i64),
                Op::GlobalAvgPool { .. } => x.mean_dim([2i64, 3].as_slice(), false, x.kind()),
                Op::Linear { .. } => match &own.linear {
                    Some(linear) => x.apply(linear),
                    None => x.shallow_clone(),
                },
                _ => x.relu(),
            };
            values.push(y);
            self.graph.let_go(i, &mut values);
        }
        let loss = values
            .pop()
            .unwrap_or_default()
            .cross_entropy_for_logits(labels);
        self.optimiser.backward_step(&loss);
    }
}

fn modules(graph: &Graph, i: usize, root: &nn::Path) -> Result<Modules> {
    let op = &graph.ops[i];
    let path = root / op.name().replace('.', "_");
    let n_out = graph.shape(i + 1).channels as i64;
    let weight = graph.weight_shape(i);
    let mut own = Modules::default();
    match op {
        Op::Conv2d { window, groups, .. } => {
            let square = Window::square(window.kernel[0], window.stride[0], window.padding.top);
            if *window != square {
                return Err(other(op));
            }
            let config = nn::ConvConfig {
                stride: window.stride[0] as i64,
                padding: window.padding.top as i64,
                groups: *groups as i64,
                bias: false,
                ..Default::default()
            };
            let n_in = graph.shape(graph.reads(i)[0]).channels as i64;
            let kernel = window.kernel[0] as i64;
            own.conv = weight.map(|_| nn::conv2d(&path / "conv", n_in, n_out, kernel, config));
            let norm = graph.trained(op).filter(|t| t.norm);
            own.norm = norm.map(|_| nn::batch_norm2d(&path / "bn", n_out, Default::default()));
        }
        Op::Linear { .. } => {
            let n_in = weight.and_then(|w| w.last().copied()).unwrap_or(1);
            own.linear = Some(nn::linear(
                &path / "linear",
                n_in,
                n_out,
                Default::default(),
            ));
        }
        Op::Add { inputs, .. } if inputs.len() == 2 => {}
        Op::AvgPool { .. } | Op::GlobalAvgPool { .. } | Op::MaskedRelu { .. } => {}
        _ => return Err(other(op)),
    }
    Ok(own)
}

fn other(op: &Op) -> Error {
    Error::Usage(format!(
        "bench compares with the networks that have names here, and {} is no operation of theirs: give another --arch",
        op.name()
    ))
}
