//! Convolutional networks for small and ImageNet-sized images whose every ReLU is masked.
//!
//! ResNets (He, Zhang, Ren, Sun, CVPR 2016): those of CIFAR with 6n + 2 layers and widths 16, 32, 64; ResNet-18/34 with
//! 64 to 512 and a 3x3 stem without pooling, or ImageNet's 7x7 stem. Shortcuts that change shape are
//! 1x1 convolutions with BatchNorm (option B), since the protocol evaluates convolutions. Wide ones
//! (Zagoruyko, Komodakis, BMVC 2016) with pre-activation, VGG-16 with BatchNorm (Simonyan, Zisserman,
//! ICLR 2015); lean networks (K. Jordan 2024). Max pools are average pools here. Global average pooling, then one linear layer.
//! Each is a [`Graph`] of the model format's operations, as is any network that was imported.

mod arch;
mod build;
mod forward;
mod graph;
mod imported;
mod layers;
mod mask;
mod name;
mod widths;

pub use arch::{Arch, Family, Stem};
pub use graph::{Graph, Trained};
pub use imported::{model_masks, read_model};
pub use layers::{BN_EPSILON, Compute, Layer, Norm};
pub use mask::{Mask, MaskSet};
use widths::Narrow;
pub use widths::prefix_masks;

use crate::error::{Error, Result};
use pi_model::spec::Op;
use tch::{Device, Tensor};

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
    /// Its operations.
    pub graph: Graph,
    /// The parameters of each operation that has some.
    pub layers: Vec<Option<Layer>>,
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
        Net::on(&arch.graph(), seed, Device::Cpu)
    }

    /// The same of any graph, on a device.
    pub fn on(graph: &Graph, seed: u64, device: Device) -> Net {
        tch::manual_seed(seed as i64);
        let mut params = Vec::new();
        let layer = |(i, op): (usize, &Op)| {
            let (trained, n_out) = (graph.trained(op)?, graph.shape(i + 1).channels as i64);
            let size = graph.weight_shape(i);
            let size = size.as_deref();
            Some(Layer::new(&mut params, trained, size, n_out, device))
        };
        let layers: Vec<Option<Layer>> = graph.ops.iter().enumerate().map(layer).collect();
        let lean = |arch: &&Arch| arch.family == Family::Lean;
        if graph.arch.as_ref().filter(lean).is_some() {
            let convs = layers.iter().flatten().skip(1);
            convs.for_each(Layer::start_as_identity);
        }
        Net {
            graph: graph.clone(),
            layers,
            params,
            narrow: vec![],
        }
    }

    /// Operations with their parameters.
    pub fn trained(&self) -> impl Iterator<Item = (&Op, &Layer)> {
        let all = self.graph.ops.iter().zip(&self.layers);
        all.filter_map(|(op, layer)| Some((op, layer.as_ref()?)))
    }

    /// Where its tensors are.
    pub fn device(&self) -> Device {
        let own = |l: &Layer| {
            let norm = l.norm.as_ref().map(|n| n.gamma.device());
            norm.or_else(|| Some(l.weight.as_ref().or(l.bias.as_ref())?.device()))
        };
        let mut layers = self.layers.iter().flatten();
        layers.find_map(own).unwrap_or(Device::Cpu)
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
                    p.name, self.graph.name
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
                    self.graph.name
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
    use tch::Kind;

    #[test]
    fn every_masked_position_passes_through_and_shapes_match_the_arch() {
        let arch = Arch::custom(&[4, 8], 1, [3, 8, 8], 5);
        let net = Net::new(&arch, 1);
        let x = Tensor::randn([2, 3, 8, 8], (Kind::Float, Device::Cpu));
        let mode = Mode {
            collect: true,
            ..Mode::EVAL
        };
        let full = net.forward(&x, &MaskSet::all_relu(&arch.graph()), mode);
        assert_eq!(full.logits.size(), [2, 5]);
        assert_eq!(full.stages.len(), 2);
        let shapes: Vec<Vec<i64>> = full
            .activations
            .iter()
            .map(|a| a.size()[1..].to_vec())
            .collect();
        assert_eq!(
            shapes,
            arch.graph()
                .relu_shapes()
                .iter()
                .map(|s| s.to_vec())
                .collect::<Vec<_>>()
        );
        assert!(
            full.activations
                .iter()
                .all(|a| a.min().double_value(&[]) >= 0.0)
        );
        let none = arch
            .graph()
            .relu_shapes()
            .iter()
            .map(|s| Mask::zeros(*s))
            .collect();
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
