//! Convolution and BatchNorm, the only operations that the networks need besides pools and the classifier.

use super::plan::Term;
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

    pub(super) fn share(&self) -> Norm {
        Norm {
            gamma: self.gamma.shallow_clone(),
            beta: self.beta.shallow_clone(),
            mean: self.mean.shallow_clone(),
            var: self.var.shallow_clone(),
        }
    }
}

/// A convolution without bias, BatchNorm, or the first and then the second.
pub struct Conv {
    /// Weight [out, in, k, k]; none where each channel is taken alone.
    pub weight: Option<Tensor>,
    /// BatchNorm behind it.
    pub norm: Option<Norm>,
    /// Output channels.
    pub n_out: i64,
    /// Stride in both directions.
    pub stride: i64,
    /// Kernel size.
    pub kernel: i64,
}

impl Conv {
    /// Weights are drawn on the processor, so that a seed means the same on every device.
    pub(super) fn new(params: &mut Vec<Param>, term: &Term, device: Device) -> Conv {
        let ([n_in, n_out], kernel) = (term.channels, term.kernel);
        let weight = term.weight.then(|| {
            let std = (2.0 / (kernel * kernel * n_out) as f64).sqrt();
            let size = [n_out, n_in, kernel, kernel];
            let weight = Tensor::randn(size, (Kind::Float, Device::Cpu)) * std;
            let weight = weight.to_device(device).set_requires_grad(true);
            params.push(Param {
                name: format!("{}.weight", term.name),
                tensor: weight.shallow_clone(),
                decay: true,
                trainable: true,
            });
            weight
        });
        let norm = term
            .norm
            .then(|| Norm::new(params, &format!("{}.bn", term.name), n_out, device));
        Conv {
            weight,
            norm,
            n_out,
            stride: term.stride,
            kernel,
        }
    }

    /// The first output channels begin as copies of the input's (Zagoruyko, Komodakis, "DiracNets", 2017):
    /// the middle of the kernel alone, or the average of the middle 2x2 where the kernel is even.
    pub(super) fn start_as_identity(&self) {
        let Some(weight) = &self.weight else { return };
        let size = weight.size();
        let n = size[0].min(size[1]);
        let side = 2 - self.kernel % 2;
        let identity = Tensor::eye(n, (Kind::Float, weight.device())) / (side * side) as f64;
        tch::no_grad(|| {
            let head = weight.detach().narrow(0, 0, n);
            let _ = head.shallow_clone().zero_();
            for y in 0..side {
                for x in 0..side {
                    let from = (self.kernel - side) / 2;
                    let tap = head.narrow(1, 0, n).select(3, from + x).select(2, from + y);
                    tap.shallow_clone().copy_(&identity);
                }
            }
        });
    }

    /// The first channels of the same convolution (views, so that gradients reach it), with a
    /// BatchNorm of their own.
    pub(super) fn prefix(&self, term: &Term, norm: Option<&Norm>) -> Conv {
        let [n_in, n_out] = term.channels;
        let weight = self.weight.as_ref();
        Conv {
            weight: weight.map(|w| w.narrow(0, 0, n_out).narrow(1, 0, n_in)),
            norm: norm.map(Norm::share),
            n_out,
            stride: self.stride,
            kernel: self.kernel,
        }
    }

    pub(super) fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        let y = match &self.weight {
            Some(weight) => {
                let (s, p) = ([self.stride; 2], [(self.kernel - 1) / 2; 2]);
                let weight = weight.to_kind(mode.compute.kind());
                x.conv2d(&weight, None::<&Tensor>, s, p, [1, 1], 1)
            }
            None => x.shallow_clone(),
        };
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

    /// The convolution that does the same in eval mode: weight [out, in, k, k] and bias `[out]`,
    /// in 64-bit floats (BatchNorm folded in; a diagonal 1x1 kernel where there are no weights).
    pub fn folded(&self) -> (Tensor, Tensor) {
        tch::no_grad(|| {
            let double = |t: &Tensor| t.to_device(Device::Cpu).to_kind(Kind::Double);
            let options = (Kind::Double, Device::Cpu);
            let weight = match &self.weight {
                Some(weight) => double(weight),
                None => Tensor::eye(self.n_out, options).view([self.n_out, self.n_out, 1, 1]),
            };
            let Some(norm) = &self.norm else {
                return (weight, Tensor::zeros([self.n_out], options));
            };
            let scale = double(&norm.gamma) / (double(&norm.var) + BN_EPSILON).sqrt();
            let weight = weight * scale.view([-1, 1, 1, 1]);
            let bias = double(&norm.beta) - double(&norm.mean) * scale;
            (weight, bias)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folding_changes_nothing() {
        for (weight, norm) in [(true, true), (false, true), (true, false)] {
            let n_out = if weight { 5 } else { 3 };
            let (kernel, stride) = if weight { (3, 2) } else { (1, 1) };
            let term = Term {
                name: "c".into(),
                op: "c".into(),
                from: 0,
                channels: [3, n_out],
                kernel,
                stride,
                weight,
                norm,
            };
            let conv = Conv::new(&mut Vec::new(), &term, Device::Cpu);
            if let Some(n) = &conv.norm {
                tch::no_grad(|| {
                    for t in [&n.gamma, &n.beta, &n.mean, &n.var] {
                        let _ = t.shallow_clone().uniform_(0.5, 1.5);
                    }
                });
            }
            let x = Tensor::randn([2, 3, 8, 8], (Kind::Float, Device::Cpu));
            let want = conv.forward(&x, Mode::EVAL);
            let (w, b) = conv.folded();
            let x = x.to_kind(Kind::Double);
            let got = x.conv2d(&w, Some(&b), [stride; 2], [(kernel - 1) / 2; 2], [1, 1], 1);
            let error = (got - want).abs().max().double_value(&[]);
            assert!(error < 1e-5, "{error}");
        }
    }
}
