//! Convolutional networks for small and ImageNet-sized images whose every ReLU is masked.
//!
//! ResNets (He, Zhang, Ren, Sun, CVPR 2016): those of CIFAR with 6n + 2 layers and widths 16, 32, 64; ResNet-18/34 with
//! 64 to 512 and a 3x3 stem without pooling, or ImageNet's 7x7 stem. Shortcuts that change shape are
//! 1x1 convolutions with BatchNorm (option B), since the protocol evaluates convolutions. Wide ones
//! (Zagoruyko, Komodakis, BMVC 2016) with pre-activation, VGG-16 with BatchNorm (Simonyan, Zisserman,
//! ICLR 2015); lean networks (K. Jordan 2024). Max pools are average pools here. Global average pooling, then one linear layer.

mod arch;
mod layers;
mod mask;
mod name;
mod plan;
mod widths;

pub use arch::{Arch, Family, Stem};
pub use layers::{BN_EPSILON, Compute, Conv, Norm};
pub use mask::{Mask, MaskSet};
pub use plan::{LayerPlan, Term};
use widths::Narrow;
pub use widths::prefix_masks;

use crate::error::{Error, Result};
use tch::{Device, Kind, Tensor};

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

/// A network and its parameters.
pub struct Net {
    /// The architecture.
    pub arch: Arch,
    /// Its layers.
    pub plan: Vec<LayerPlan>,
    /// The convolutions of each layer, in the plan's order.
    pub convs: Vec<Vec<Conv>>,
    /// Classifier weight [classes, width].
    pub fc_weight: Tensor,
    /// Classifier bias `[classes]`.
    pub fc_bias: Tensor,
    /// Every parameter and running statistic.
    pub params: Vec<Param>,
    /// Narrower forms that share the weights (see [`Net::with_widths`]).
    narrow: Vec<Narrow>,
}

/// What a forward pass returns.
pub struct Trace {
    /// Class scores [N, classes], 32-bit floats.
    pub logits: Tensor,
    /// Input of every masked activation, in order, if asked for.
    pub preactivations: Vec<Tensor>,
    /// Output of every masked activation, in order, if asked for.
    pub activations: Vec<Tensor>,
    /// Output of each stage, behind its ReLU.
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
    /// 32-bit inference. On an NVIDIA GPU from Ampere on, cuDNN rounds the factors of 32-bit convolutions
    /// to TF32 (10 bits of mantissa) unless NVIDIA_TF32_OVERRIDE=0 is in the environment.
    pub const EVAL: Mode = Mode {
        train: false,
        collect: false,
        compute: Compute::F32,
    };
}

impl Net {
    /// A freshly initialised network on the processor (He initialisation, from `seed`).
    pub fn new(arch: &Arch, seed: u64) -> Net {
        Net::on(arch, seed, Device::Cpu)
    }

    /// As [`Net::new`], on a device.
    pub fn on(arch: &Arch, seed: u64, device: Device) -> Net {
        tch::manual_seed(seed as i64);
        let mut params = Vec::new();
        let plan = arch.plan();
        let layer = |l: &LayerPlan| -> Vec<Conv> {
            let convs = l.terms.iter().map(|t| Conv::new(&mut params, t, device));
            convs.collect()
        };
        let convs: Vec<Vec<Conv>> = plan.iter().map(layer).collect();
        if arch.family == Family::Lean {
            convs
                .iter()
                .flatten()
                .skip(1)
                .for_each(Conv::start_as_identity);
        }
        let width_in = arch.widths.last().copied().unwrap_or(1);
        let bound = 1.0 / (width_in as f64).sqrt();
        let uniform = |size: &[i64]| {
            let t = Tensor::empty(size, (Kind::Float, Device::Cpu)).uniform_(-bound, bound);
            t.to_device(device).set_requires_grad(true)
        };
        let fc_weight = uniform(&[arch.n_classes as i64, width_in]);
        let fc_bias = uniform(&[arch.n_classes as i64]);
        for (name, t, decay) in [
            ("fc.weight", &fc_weight, true),
            ("fc.bias", &fc_bias, false),
        ] {
            params.push(Param {
                name: name.into(),
                tensor: t.shallow_clone(),
                decay,
                trainable: true,
            });
        }
        Net {
            arch: arch.clone(),
            plan,
            convs,
            fc_weight,
            fc_bias,
            params,
            narrow: vec![],
        }
    }

    /// Where its tensors are.
    pub fn device(&self) -> Device {
        self.fc_weight.device()
    }

    /// Runs the network on normalised images [N, C, H, W], which are on its device.
    pub fn forward(&self, x: &Tensor, masks: &MaskSet, mode: Mode) -> Trace {
        let mut trace = Trace {
            logits: Tensor::new(),
            preactivations: vec![],
            activations: vec![],
            stages: vec![],
        };
        let mut next_mask = 0;
        let mut values = vec![x.to_kind(mode.compute.kind())];
        let last_reads = self.last_reads();
        for (l, (layer, convs)) in self.plan.iter().zip(&self.convs).enumerate() {
            let summands = layer.terms.iter().zip(convs);
            let sum = summands
                .map(|(t, conv)| conv.forward(&values[t.from], mode))
                .chain(layer.skip.map(|v| values[v].shallow_clone()))
                .reduce(|a, b| a + b)
                .unwrap_or_default();
            let mut y = if layer.relu {
                let y = masks.activate(next_mask, &sum);
                next_mask += 1;
                if mode.collect {
                    trace.activations.push(y.shallow_clone());
                    trace.preactivations.push(sum);
                }
                y
            } else {
                sum
            };
            if layer.ends_stage {
                trace.stages.push(y.shallow_clone());
            }
            if layer.pool > 1 {
                let side = [layer.pool; 2];
                y = y.avg_pool2d(side, side, [0, 0], false, true, None);
            }
            values.push(y);
            for (value, _) in last_reads.iter().enumerate().filter(|(_, r)| **r == l) {
                values[value] = Tensor::new();
            }
        }
        let last = values.pop().unwrap_or_default().to_kind(Kind::Float);
        let pooled = last.mean_dim([2i64, 3].as_slice(), false, Kind::Float);
        trace.logits = pooled.linear(&self.fc_weight, Some(&self.fc_bias));
        trace
    }

    /// The last layer that reads each value, so that inference can let it go.
    fn last_reads(&self) -> Vec<usize> {
        let mut last = vec![usize::MAX; self.plan.len() + 1];
        for (l, layer) in self.plan.iter().enumerate() {
            for value in layer.terms.iter().map(|t| t.from).chain(layer.skip) {
                last[value] = l;
            }
        }
        last
    }

    /// Names and tensors, detached, as a checkpoint holds them.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        self.params
            .iter()
            .map(|p| (p.name.clone(), p.tensor.detach()))
            .collect()
    }

    /// As [`Net::load_state`], from a network without the narrower forms: their BatchNorms start from
    /// the first channels of the full form's.
    pub fn load_shared(&self, state: &[(String, Tensor)]) -> Result<()> {
        let mut all: Vec<(String, Tensor)> = Vec::new();
        for p in &self.params {
            let full = p
                .name
                .split('.')
                .map(|part| match part.strip_prefix("width") {
                    Some(_) => "bn",
                    None => part,
                });
            let full = full.collect::<Vec<_>>().join(".");
            let fits = |t: &Tensor| full == p.name || t.size() >= p.tensor.size();
            if let Some((_, t)) = state.iter().find(|(n, t)| *n == full && fits(t)) {
                let t = if full == p.name {
                    t.shallow_clone()
                } else {
                    t.narrow(0, 0, p.tensor.size()[0])
                };
                all.push((p.name.clone(), t));
            }
        }
        self.load_state(&all)
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
                let why = match p.name.starts_with("fc.")
                    && t.size().get(1..) == p.tensor.size().get(1..)
                {
                    true => "it was trained for another number of classes",
                    false => "it was saved for another architecture",
                };
                return Err(Error::Usage(format!(
                    "{} has shape {:?} in the network file, {:?} in {}: {why}",
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
        let x = Tensor::randn([2, 3, 8, 8], (Kind::Float, Device::Cpu));
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
    fn a_state_for_other_classes_is_refused() {
        let ten = Net::new(&Arch::custom(&[4], 1, [3, 8, 8], 10), 1);
        let five = Net::new(&Arch::custom(&[4], 1, [3, 8, 8], 5), 1);
        let e = five.load_state(&ten.state()).unwrap_err().to_string();
        assert!(e.contains("number of classes"), "{e}");
    }

    #[test]
    fn a_state_of_another_arch_is_refused_by_name() {
        let small = Net::new(&Arch::custom(&[4], 1, [3, 8, 8], 5), 1);
        let other = Net::new(&Arch::custom(&[4, 8], 1, [3, 8, 8], 5), 1);
        let e = other.load_state(&small.state()).unwrap_err().to_string();
        assert!(e.contains("stage1.block0.conv1"), "{e}");
    }
}
