//! Residual networks for small images (He, Zhang, Ren, Sun, CVPR 2016) whose every ReLU is masked.
//!
//! ResNet-8/20/32: 6n + 2 layers, widths 16, 32, 64. ResNet-18: widths 64 to 512, two blocks a
//! stage, 3x3 stem without pooling. Shortcuts that change shape are 1x1 convolutions with BatchNorm
//! (option B), since the protocol evaluates convolutions. Global average pooling, then one linear layer.

mod arch;
mod layers;
mod mask;

pub use arch::Arch;
pub use layers::{Compute, ConvBn};
pub use mask::{Mask, MaskSet};

use crate::error::{Error, Result};
use tch::{Kind, Tensor};

/// A named tensor of a network.
pub struct Param {
    /// Name in checkpoints.
    pub name: String,
    /// The values (shared with the layer that uses them).
    pub tensor: Tensor,
    /// Weight decay applies (convolution and linear weights).
    pub decay: bool,
    /// False for BatchNorm's running statistics.
    pub trainable: bool,
}

/// One residual block: two convolutions, and a third in the shortcut where the shape changes.
pub struct Block {
    /// First 3x3 convolution, with the block's stride.
    pub conv1: ConvBn,
    /// Second 3x3 convolution.
    pub conv2: ConvBn,
    /// 1x1 convolution of the shortcut, if the shape changes.
    pub shortcut: Option<ConvBn>,
    /// True for the last block of its stage.
    pub ends_stage: bool,
}

/// A network and its parameters.
pub struct Net {
    /// The architecture.
    pub arch: Arch,
    /// Stem convolution.
    pub stem: ConvBn,
    /// Residual blocks in order.
    pub blocks: Vec<Block>,
    /// Classifier weight [classes, width].
    pub fc_weight: Tensor,
    /// Classifier bias `[classes]`.
    pub fc_bias: Tensor,
    /// Every parameter and running statistic.
    pub params: Vec<Param>,
}

/// What a forward pass returns.
pub struct Trace {
    /// Class scores [N, classes], 32-bit floats.
    pub logits: Tensor,
    /// Input of every masked activation, in order, if asked for.
    pub preactivations: Vec<Tensor>,
    /// Output of every masked activation, in order, if asked for.
    pub activations: Vec<Tensor>,
    /// Output of the last block of each stage.
    pub stages: Vec<Tensor>,
}

/// How to run a forward pass.
#[derive(Debug, Clone, Copy)]
pub struct Mode {
    /// BatchNorm uses (and updates) batch statistics.
    pub train: bool,
    /// Keep the input and output of every activation.
    pub collect: bool,
    /// Number type of the convolutions.
    pub compute: Compute,
}

impl Mode {
    /// Exact 32-bit inference.
    pub const EVAL: Mode = Mode {
        train: false,
        collect: false,
        compute: Compute::F32,
    };
}

impl Net {
    /// A freshly initialised network (He initialisation, from `seed`).
    pub fn new(arch: &Arch, seed: u64) -> Net {
        tch::manual_seed(seed as i64);
        let mut params = Vec::new();
        let stem = ConvBn::new(
            &mut params,
            "stem",
            arch.in_channels(),
            arch.widths[0],
            3,
            1,
        );
        let mut blocks = Vec::new();
        let mut width_in = arch.widths[0];
        for (s, &width) in arch.widths.iter().enumerate() {
            for b in 0..arch.n_blocks {
                let name = format!("stage{s}.block{b}");
                let stride = if s > 0 && b == 0 { 2 } else { 1 };
                let mut conv = |part: &str, i, k, stride| {
                    ConvBn::new(&mut params, &format!("{name}.{part}"), i, width, k, stride)
                };
                let conv1 = conv("conv1", width_in, 3, stride);
                let conv2 = conv("conv2", width, 3, 1);
                let reshapes = stride != 1 || width_in != width;
                let shortcut = reshapes.then(|| conv("shortcut", width_in, 1, stride));
                blocks.push(Block {
                    conv1,
                    conv2,
                    shortcut,
                    ends_stage: b + 1 == arch.n_blocks,
                });
                width_in = width;
            }
        }
        let bound = 1.0 / (width_in as f64).sqrt();
        let uniform = |size: &[i64]| {
            let t = Tensor::empty(size, (Kind::Float, tch::Device::Cpu)).uniform_(-bound, bound);
            t.set_requires_grad(true)
        };
        let fc_weight = uniform(&[arch.n_classes as i64, width_in]);
        let fc_bias = uniform(&[arch.n_classes as i64]);
        for (name, t, decay) in [
            ("fc.weight", &fc_weight, true),
            ("fc.bias", &fc_bias, false),
        ] {
            let tensor = t.shallow_clone();
            params.push(Param {
                name: name.into(),
                tensor,
                decay,
                trainable: true,
            });
        }
        Net {
            arch: arch.clone(),
            stem,
            blocks,
            fc_weight,
            fc_bias,
            params,
        }
    }

    /// Runs the network on normalised images [N, C, H, W].
    pub fn forward(&self, x: &Tensor, masks: &MaskSet, mode: Mode) -> Trace {
        let (mut preactivations, mut activations) = (Vec::new(), Vec::new());
        let mut stages = Vec::new();
        let mut next = 0;
        let mut act = |t: Tensor| {
            let y = masks.activate(next, &t);
            next += 1;
            if mode.collect {
                activations.push(y.shallow_clone());
                preactivations.push(t);
            }
            y
        };
        let mut y = act(self.stem.forward(&x.to_kind(mode.compute.kind()), mode));
        for block in &self.blocks {
            let inner = act(block.conv1.forward(&y, mode));
            let skip = match &block.shortcut {
                Some(conv) => conv.forward(&y, mode),
                None => y,
            };
            y = act(block.conv2.forward(&inner, mode) + skip);
            if block.ends_stage {
                stages.push(y.shallow_clone());
            }
        }
        let pooled = y
            .to_kind(Kind::Float)
            .mean_dim([2i64, 3].as_slice(), false, Kind::Float);
        let logits = pooled.linear(&self.fc_weight, Some(&self.fc_bias));
        Trace {
            logits,
            preactivations,
            activations,
            stages,
        }
    }

    /// Names and tensors, detached, as a checkpoint holds them.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        self.params
            .iter()
            .map(|p| (p.name.clone(), p.tensor.detach()))
            .collect()
    }

    /// Copies the tensors of `state` into the network; every parameter must be there.
    pub fn load_state(&self, state: &[(String, Tensor)]) -> Result<()> {
        for p in &self.params {
            let Some((_, t)) = state.iter().find(|(n, _)| *n == p.name) else {
                return Err(Error::Usage(format!(
                    "the network file lacks {}: it was saved for another architecture than {}",
                    p.name, self.arch.name
                )));
            };
            if t.size() != p.tensor.size() {
                return Err(Error::Usage(format!(
                    "{} has shape {:?} in the network file, {:?} in {}",
                    p.name,
                    t.size(),
                    p.tensor.size(),
                    self.arch.name
                )));
            }
            tch::no_grad(|| p.tensor.shallow_clone().copy_(t));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_masked_position_passes_through_and_shapes_match_the_arch() {
        let arch = Arch::custom(&[4, 8], 1, [3, 8, 8], 5);
        let net = Net::new(&arch, 1);
        let x = Tensor::randn([2, 3, 8, 8], (Kind::Float, tch::Device::Cpu));
        let mode = Mode {
            collect: true,
            ..Mode::EVAL
        };
        let full = net.forward(&x, &MaskSet::all_relu(&arch), mode);
        assert_eq!(full.logits.size(), [2, 5]);
        assert_eq!(full.stages.len(), 2);
        let shapes: Vec<Vec<i64>> = full
            .activations
            .iter()
            .map(|a| a.size()[1..].to_vec())
            .collect();
        assert_eq!(
            shapes,
            arch.relu_shapes()
                .iter()
                .map(|s| s.to_vec())
                .collect::<Vec<_>>()
        );
        assert!(
            full.activations
                .iter()
                .all(|a| a.min().double_value(&[]) >= 0.0)
        );
        let none = arch.relu_shapes().iter().map(|s| Mask::zeros(*s)).collect();
        let linear = net.forward(&x, &MaskSet::new(none), mode);
        assert!(
            linear
                .activations
                .iter()
                .any(|a| a.min().double_value(&[]) < 0.0)
        );
    }

    #[test]
    fn a_state_of_another_arch_is_refused_by_name() {
        let small = Net::new(&Arch::custom(&[4], 1, [3, 8, 8], 5), 1);
        let other = Net::new(&Arch::custom(&[4, 8], 1, [3, 8, 8], 5), 1);
        let e = other.load_state(&small.state()).unwrap_err().to_string();
        assert!(e.contains("stage1.block0.conv1"), "{e}");
    }
}
