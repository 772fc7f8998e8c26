//! Convolution with BatchNorm, the only layer that the residual networks need besides the classifier.

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
    /// bfloat16: about twice as fast where the processor multiplies it (AVX512-BF16, AMX).
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

/// A convolution without bias, then BatchNorm.
pub struct ConvBn {
    /// Weight [out, in, k, k].
    pub weight: Tensor,
    /// BatchNorm scale `[out]`.
    pub gamma: Tensor,
    /// BatchNorm shift `[out]`.
    pub beta: Tensor,
    /// Running mean `[out]`.
    pub mean: Tensor,
    /// Running variance `[out]`.
    pub var: Tensor,
    /// Stride in both directions.
    pub stride: i64,
    /// Kernel size.
    pub kernel: i64,
}

impl ConvBn {
    pub(super) fn new(
        params: &mut Vec<Param>,
        name: &str,
        n_in: i64,
        n_out: i64,
        kernel: i64,
        stride: i64,
    ) -> ConvBn {
        let options = (Kind::Float, Device::Cpu);
        let std = (2.0 / (kernel * kernel * n_out) as f64).sqrt();
        let weight =
            (Tensor::randn([n_out, n_in, kernel, kernel], options) * std).set_requires_grad(true);
        let gamma = Tensor::ones([n_out], options).set_requires_grad(true);
        let beta = Tensor::zeros([n_out], options).set_requires_grad(true);
        let (mean, var) = (
            Tensor::zeros([n_out], options),
            Tensor::ones([n_out], options),
        );
        let parts = [
            ("weight", &weight, true, true),
            ("bn.gamma", &gamma, false, true),
            ("bn.beta", &beta, false, true),
            ("bn.mean", &mean, false, false),
            ("bn.var", &var, false, false),
        ];
        for (part, t, decay, trainable) in parts {
            let (name, tensor) = (format!("{name}.{part}"), t.shallow_clone());
            params.push(Param {
                name,
                tensor,
                decay,
                trainable,
            });
        }
        ConvBn {
            weight,
            gamma,
            beta,
            mean,
            var,
            stride,
            kernel,
        }
    }

    pub(super) fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        let pad = (self.kernel - 1) / 2;
        let (s, p) = ([self.stride; 2], [pad; 2]);
        let weight = self.weight.to_kind(mode.compute.kind());
        let y = x.conv2d(&weight, None::<&Tensor>, s, p, [1, 1], 1);
        y.batch_norm(
            Some(&self.gamma),
            Some(&self.beta),
            Some(&self.mean),
            Some(&self.var),
            mode.train,
            BN_MOMENTUM,
            BN_EPSILON,
            false,
        )
    }

    /// The convolution that does the same in eval mode: weight [out, in, k, k] and bias `[out]`,
    /// in 64-bit floats (BatchNorm folded in).
    pub fn folded(&self) -> (Tensor, Tensor) {
        tch::no_grad(|| {
            let double = |t: &Tensor| t.to_kind(Kind::Double);
            let scale = double(&self.gamma) / (double(&self.var) + BN_EPSILON).sqrt();
            let weight = double(&self.weight) * scale.view([-1, 1, 1, 1]);
            let bias = double(&self.beta) - double(&self.mean) * scale;
            (weight, bias)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folding_changes_nothing() {
        let mut params = Vec::new();
        let conv = ConvBn::new(&mut params, "c", 3, 5, 3, 2);
        tch::no_grad(|| {
            for t in [&conv.gamma, &conv.beta, &conv.mean, &conv.var] {
                let _ = t.shallow_clone().uniform_(0.5, 1.5);
            }
        });
        let x = Tensor::randn([2, 3, 8, 8], (Kind::Float, Device::Cpu));
        let want = conv.forward(&x, Mode::EVAL);
        let (w, b) = conv.folded();
        let got = x
            .to_kind(Kind::Double)
            .conv2d(&w, Some(&b), [2, 2], [1, 1], [1, 1], 1);
        let error = (got - want).abs().max().double_value(&[]);
        assert!(error < 1e-5, "{error}");
    }
}
