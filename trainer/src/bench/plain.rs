//! The teacher's training step the way that libtorch's own modules do it: the mark for our step.

use crate::error::Result;
use crate::net::{Arch, LayerPlan, Term};
use tch::nn::{self, ModuleT, OptimizerConfig};
use tch::{Device, Tensor};

/// A network of `tch::nn` modules and its optimiser.
pub(super) struct Plain {
    plan: Vec<LayerPlan>,
    convs: Vec<Vec<(Option<nn::Conv2D>, Option<nn::BatchNorm>)>>,
    classifier: nn::Linear,
    optimiser: nn::Optimizer,
}

impl Plain {
    /// The network of `arch` with every ReLU.
    pub(super) fn new(arch: &Arch, device: Device) -> Result<Plain> {
        let store = nn::VarStore::new(device);
        let plan = arch.plan();
        let conv = |t: &Term| {
            let path = store.root() / t.name.replace('.', "_");
            let [n_in, n_out] = t.channels;
            let config = nn::ConvConfig {
                stride: t.stride,
                padding: (t.kernel - 1) / 2,
                bias: false,
                ..Default::default()
            };
            let conv = t
                .weight
                .then(|| nn::conv2d(&path / "conv", n_in, n_out, t.kernel, config));
            let norm = t
                .norm
                .then(|| nn::batch_norm2d(&path / "bn", n_out, Default::default()));
            (conv, norm)
        };
        let convs = plan
            .iter()
            .map(|l| l.terms.iter().map(conv).collect())
            .collect();
        let width = arch.widths.last().copied().unwrap_or(1);
        let classes = arch.n_classes as i64;
        let classifier = nn::linear(store.root() / "fc", width, classes, Default::default());
        let config = nn::Sgd {
            momentum: 0.9,
            wd: 5e-4,
            nesterov: true,
            ..Default::default()
        };
        Ok(Plain {
            plan,
            convs,
            classifier,
            optimiser: config.build(&store, 1e-4)?,
        })
    }

    /// Forward, backward, update.
    pub(super) fn step(&mut self, x: &Tensor, labels: &Tensor) {
        let mut values = vec![x.shallow_clone()];
        for (layer, convs) in self.plan.iter().zip(&self.convs) {
            let one = |(t, (conv, norm)): (&Term, &(Option<_>, Option<_>))| {
                let mut y = values[t.from].shallow_clone();
                if let Some(conv) = conv {
                    y = y.apply_t::<nn::Conv2D>(conv, true);
                }
                match norm {
                    Some(norm) => nn::BatchNorm::forward_t(norm, &y, true),
                    None => y,
                }
            };
            let sum = layer.terms.iter().zip(convs).map(one);
            let sum = sum.chain(layer.skip.map(|v| values[v].shallow_clone()));
            let mut y = sum.reduce(|a, b| a + b).unwrap_or_default();
            if layer.relu {
                y = y.relu();
            }
            if layer.pool > 1 {
                y = y.avg_pool2d_default(layer.pool);
            }
            values.push(y);
        }
        let last = values.pop().unwrap_or_default();
        let pooled = last.mean_dim([2i64, 3].as_slice(), false, last.kind());
        let loss = pooled
            .apply(&self.classifier)
            .cross_entropy_for_logits(labels);
        self.optimiser.backward_step(&loss);
    }
}
