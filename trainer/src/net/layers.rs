//! Parameters of operations: weights, biases, and the BatchNorms behind them.

use super::graph::Trained;
use super::{Mode, Param};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

/// BatchNorm's epsilon; the exporter folds with the same value.
pub const BN_EPSILON: f64 = 1e-5;
const BN_MOMENTUM: f64 = 0.1;

/// Number type of convolutions and activations while training; weights and statistics stay 32-bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compute {
    /// 32-bit floats.
    F32,
    /// bfloat16: about twice as fast where the processor multiplies it (AVX512-BF16, AMX, any recent
    /// GPU). Its range is that of 32-bit floats, so that no gradient needs scaling.
    Bf16,
}

impl Compute {
    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::F32 => Kind::Float,
            Self::Bf16 => Kind::BFloat16,
        }
    }
}

/// BatchNorm of some channels.
pub struct Norm {
    /// Scale `[n]`.
    pub gamma: Tensor,
    /// Shift `[n]`.
    pub beta: Tensor,
    /// Running mean `[n]`.
    pub mean: Tensor,
    /// Running variance `[n]`.
    pub var: Tensor,
}

impl Norm {
    /// Registers its tensors as `<name>.gamma` and so on.
    pub(super) fn new(params: &mut Vec<Param>, name: &str, n: i64, device: Device) -> Norm {
        let options = (Kind::Float, device);
        let norm = Norm {
            gamma: Tensor::ones([n], options).set_requires_grad(true),
            beta: Tensor::zeros([n], options).set_requires_grad(true),
            mean: Tensor::zeros([n], options),
            var: Tensor::ones([n], options),
        };
        for (part, t, trainable) in [
            ("gamma", &norm.gamma, true),
            ("beta", &norm.beta, true),
            ("mean", &norm.mean, false),
            ("var", &norm.var, false),
        ] {
            params.push(Param {
                name: format!("{name}.{part}"),
                tensor: t.shallow_clone(),
                decay: false,
                trainable,
            });
        }
        norm
    }

    /// Sets it to statistics that it undoes: what comes out is what goes in, plus `shift`, within the rounding of a 32-bit float; in training
    /// too, where a batch has these statistics.
    pub(crate) fn undo(&self, mean: &Tensor, var: &Tensor, shift: &Tensor) {
        let parts = [
            (&self.mean, mean.shallow_clone()),
            (&self.var, var.shallow_clone()),
            (&self.gamma, (var + BN_EPSILON).sqrt()),
            (&self.beta, mean + shift),
        ];
        tch::no_grad(|| parts.map(|(to, from)| to.shallow_clone().copy_(&from)));
    }

    pub(super) fn share(&self) -> Norm {
        Norm {
            gamma: self.gamma.shallow_clone(),
            beta: self.beta.shallow_clone(),
            mean: self.mean.shallow_clone(),
            var: self.var.shallow_clone(),
        }
    }
}

/// Parameters of a convolution, a fully connected layer or a bias.
pub struct Layer {
    /// What their names begin with.
    pub name: String,
    /// Weight [out, in / groups, k, k] or [out, in]; none where each channel is taken alone.
    pub weight: Option<Tensor>,
    /// Bias `[out]`.
    pub bias: Option<Tensor>,
    /// BatchNorm behind it.
    pub norm: Option<Norm>,
}

impl Layer {
    /// Fresh parameters of `n_out` results; weights, of shape `size` where there are some, are drawn on the processor, so that a seed
    /// means the same on every device.
    pub(super) fn new(
        params: &mut Vec<Param>,
        of: &Trained,
        size: Option<&[i64]>,
        n_out: i64,
        device: Device,
    ) -> Layer {
        let fresh = |size: &[i64]| Tensor::empty(size, (Kind::Float, Device::Cpu));
        let uniform = |size: &[i64], n_in: i64| {
            let bound = 1.0 / (n_in as f64).sqrt();
            fresh(size).uniform_(-bound, bound)
        };
        let weight = size.map(|size| match *size {
            // He initialisation.
            [n_out, _, rows, columns] => {
                let std = (2.0 / (rows * columns * n_out) as f64).sqrt();
                Tensor::randn(size, (Kind::Float, Device::Cpu)) * std
            }
            _ => uniform(size, size.last().copied().unwrap_or(1)),
        });
        let n_in = size.map_or(1, |s| s[1..].iter().product());
        let bias = of.bias.then(|| match size.is_some_and(|s| s.len() == 2) {
            true => uniform(&[n_out], n_in),
            false => fresh(&[n_out]).zero_(),
        });
        let mut part = |part: &str, t: Option<Tensor>, decay: bool| {
            let tensor = t?.to_device(device).set_requires_grad(true);
            params.push(Param {
                name: format!("{}.{part}", of.name),
                tensor: tensor.shallow_clone(),
                decay,
                trainable: true,
            });
            Some(tensor)
        };
        let weight = part("weight", weight, true);
        let bias = part("bias", bias, false);
        let norm = of
            .norm
            .then(|| Norm::new(params, &format!("{}.bn", of.name), n_out, device));
        Layer {
            name: of.name.clone(),
            weight,
            bias,
            norm,
        }
    }

    /// The first output channels of a convolution begin as copies of the input's (Zagoruyko, Komodakis, "DiracNets", 2017):
    /// the middle of the kernel alone, or the average of the middle 2x2 where the kernel is even.
    pub(super) fn start_as_identity(&self) {
        let Some(weight) = self.weight.as_ref().filter(|w| w.dim() == 4) else {
            return;
        };
        let size = weight.size();
        let n = size[0].min(size[1]);
        let side = 2 - size[2] % 2;
        let identity = Tensor::eye(n, (Kind::Float, weight.device())) / (side * side) as f64;
        tch::no_grad(|| {
            let head = weight.detach().narrow(0, 0, n);
            let _ = head.shallow_clone().zero_();
            for y in 0..side {
                for x in 0..side {
                    let from = (size[2] - side) / 2;
                    let tap = head.narrow(1, 0, n).select(3, from + x).select(2, from + y);
                    tap.shallow_clone().copy_(&identity);
                }
            }
        });
    }

    /// The first channels of the same layer, weights of shape `size` (views, so that gradients reach it), with a
    /// BatchNorm of their own.
    pub(super) fn prefix(&self, size: Option<&[i64]>, n_out: i64, norm: Option<&Norm>) -> Layer {
        let first = |w: &Tensor| match size {
            Some([n_out, n_in, ..]) => w.narrow(0, 0, *n_out).narrow(1, 0, *n_in),
            _ => w.shallow_clone(),
        };
        Layer {
            name: self.name.clone(),
            weight: self.weight.as_ref().map(first),
            bias: self.bias.as_ref().map(|b| b.narrow(0, 0, n_out)),
            norm: norm.map(Norm::share),
        }
    }

    /// BatchNorm, where there is one.
    pub(super) fn normalise(&self, y: Tensor, mode: Mode) -> Tensor {
        let Some(norm) = &self.norm else { return y };
        y.batch_norm(
            Some(&norm.gamma),
            Some(&norm.beta),
            Some(&norm.mean),
            Some(&norm.var),
            mode.train,
            BN_MOMENTUM,
            BN_EPSILON,
            false,
        )
    }

    /// Weight and bias of what does the same in eval mode without BatchNorm, in 64-bit floats; the weight of a BatchNorm that stands
    /// alone is that of a convolution of each channel by itself, and there is none of a bias alone.
    pub fn folded(&self) -> (Option<Tensor>, Tensor) {
        tch::no_grad(|| {
            let double = |t: &Tensor| t.to_device(Device::Cpu).to_kind(Kind::Double);
            let weight = self.weight.as_ref().map(double);
            let bias = self.bias.as_ref().map(double);
            let Some(norm) = &self.norm else {
                let n_out = weight.as_ref().map_or(0, |w| w.size()[0]);
                let zeros = || Tensor::zeros([n_out], (Kind::Double, Device::Cpu));
                return (weight, bias.unwrap_or_else(zeros));
            };
            let scale = double(&norm.gamma) / (double(&norm.var) + BN_EPSILON).sqrt();
            let own = scale.view([-1, 1, 1, 1]);
            let shift = bias.map_or_else(|| double(&norm.mean).neg(), |b| b - double(&norm.mean));
            let bias = double(&norm.beta) + shift * &scale;
            (Some(weight.map_or_else(|| own.copy(), |w| w * &own)), bias)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folding_changes_nothing() {
        for (weight, bias, norm) in [
            (true, false, true),
            (true, true, true),
            (false, false, true),
            (true, false, false),
            (true, true, false),
        ] {
            let (n_out, groups) = if weight { (5, 1) } else { (3, 3) };
            let trained = Trained {
                name: "c".into(),
                weight,
                bias,
                norm,
            };
            let size = weight.then_some(&[5i64, 3, 3, 3][..]);
            let layer = Layer::new(&mut Vec::new(), &trained, size, n_out, Device::Cpu);
            tch::no_grad(|| {
                let norms = layer.norm.iter();
                let norms = norms.flat_map(|n| [&n.gamma, &n.beta, &n.mean, &n.var]);
                for t in norms.chain(&layer.bias) {
                    let _ = t.shallow_clone().uniform_(0.5, 1.5);
                }
            });
            let x = Tensor::randn([2, 3, 8, 8], (Kind::Float, Device::Cpu));
            let conv = |w: &Tensor| x.conv2d(w, layer.bias.as_ref(), [1, 1], [1, 1], [1, 1], 1);
            let y = layer
                .weight
                .as_ref()
                .map_or_else(|| x.shallow_clone(), conv);
            let want = layer.normalise(y, Mode::EVAL);
            let (w, b) = layer.folded();
            let pad = if weight { [1, 1] } else { [0, 0] };
            let x = x.to_kind(Kind::Double);
            let got = x.conv2d(&w.unwrap(), Some(&b), [1, 1], pad, [1, 1], groups);
            let error = (got - want).abs().max().double_value(&[]);
            assert!(error < 1e-5, "{error}");
        }
    }
}
