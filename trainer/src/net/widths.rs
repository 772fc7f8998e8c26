//! Narrower forms of one network that share its weights: channel prefixes with BatchNorms of their own.
//!
//! Ordered dropout (Horvath et al., NeurIPS 2021) as SENet++ uses it (Kundu et al., ICLR 2023, section
//! 3.4): a form of width factor f reads the first f share of every layer's channels. The classifier
//! keeps all classes. Statistics differ between widths, hence the separate BatchNorms.

use super::{Graph, Layer, Mask, Net, Norm};
use crate::error::{Error, Result};

/// A narrower form: its graph, and the BatchNorm of each operation that has one.
pub(super) struct Narrow {
    graph: Graph,
    norms: Vec<Option<Norm>>,
}

impl Net {
    /// Adds narrower forms; each factor lies between 0 and 1.
    pub fn with_widths(mut self, factors: &[f64]) -> Result<Net> {
        let device = self.device();
        for (i, &factor) in factors.iter().enumerate() {
            if !(factor > 0.0 && factor < 1.0) {
                return Err(Error::Usage(format!(
                    "width factor {factor}: the narrower widths lie between 0 and 1"
                )));
            }
            if factors[..i].contains(&factor) {
                return Err(Error::Usage(format!("width factor {factor}: given twice")));
            }
            let Some(arch) = &self.graph.arch else {
                return Err(Error::Usage(format!(
                    "--widths: {} is a model folder, and only the architectures with names here have narrower forms; leave --widths out",
                    self.graph.name
                )));
            };
            let graph = arch.scaled(factor).graph();
            let mut norms = Vec::new();
            for (k, op) in graph.ops.iter().enumerate() {
                let trained = graph.trained(op).filter(|t| t.norm);
                let name = trained.map(|t| format!("{}.width{}", t.name, i + 1));
                let n_out = graph.shape(k + 1).channels as i64;
                norms.push(name.map(|name| Norm::new(&mut self.params, &name, n_out, device)));
            }
            self.narrow.push(Narrow { graph, norms });
        }
        Ok(self)
    }

    /// Number of forms, the full one included.
    pub fn n_widths(&self) -> usize {
        1 + self.narrow.len()
    }

    /// Form `i`; 0 is the network itself. Its tensors are views: gradients reach this network.
    pub fn at_width(&self, i: usize) -> Net {
        let narrow = i.checked_sub(1).and_then(|i| self.narrow.get(i));
        let graph = narrow.map_or(&self.graph, |n| &n.graph).clone();
        let one = |(k, layer): (usize, &Option<Layer>)| {
            let layer = layer.as_ref()?;
            let norm = match narrow {
                Some(n) => n.norms[k].as_ref(),
                None => layer.norm.as_ref(),
            };
            let n_out = graph.shape(k + 1).channels as i64;
            Some(layer.prefix(graph.weight_shape(k).as_deref(), n_out, norm))
        };
        Net {
            layers: self.layers.iter().enumerate().map(one).collect(),
            params: vec![],
            narrow: vec![],
            graph,
        }
    }

    /// Form `i` as a network of its own with copied parameters, as a checkpoint would hold it.
    pub fn detached_width(&self, i: usize) -> Net {
        let view = self.at_width(i);
        let own = Net::on(&view.graph, 0, self.device());
        let tensors = |layer: &Layer| -> Vec<tch::Tensor> {
            let norm = layer.norm.iter();
            let norm = norm.flat_map(|n| [&n.gamma, &n.beta, &n.mean, &n.var]);
            let all = layer.weight.iter().chain(&layer.bias).chain(norm);
            all.map(tch::Tensor::shallow_clone).collect()
        };
        for ((_, to), (_, from)) in own.trained().zip(view.trained()) {
            for (mut to, from) in tensors(to).into_iter().zip(tensors(from)) {
                tch::no_grad(|| to.copy_(&from));
            }
        }
        own
    }
}

/// The masks of a narrower form: the first channels of the full masks.
pub fn prefix_masks(masks: &[Mask], graph: &Graph) -> Vec<Mask> {
    let one = |(m, shape): (&Mask, [i64; 3])| {
        let n = shape.iter().product::<i64>() as usize;
        Mask {
            shape,
            keep: m.keep.iter().copied().take(n).collect(),
        }
    };
    masks.iter().zip(graph.relu_shapes()).map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{Arch, MaskSet, Mode};
    use tch::{Kind, Tensor};

    #[test]
    fn a_narrow_form_is_a_prefix_and_trains_the_shared_weights() {
        for name in ["resnet8", "wrn22-8", "vgg16", "lean"] {
            let mut arch = Arch::parse(name, [3, 16, 16], 4).unwrap();
            arch.widths.iter_mut().for_each(|w| *w = (*w / 16).max(2));
            let net = Net::new(&arch, 1).with_widths(&[0.5]).unwrap();
            let narrow = net.at_width(1);
            let scaled = narrow.graph.arch.as_ref().unwrap();
            assert_eq!(scaled.widths[0], (arch.widths[0] + 1) / 2);
            let x = Tensor::randn([2, 3, 16, 16], (Kind::Float, tch::Device::Cpu));
            let masks: Vec<Mask> = net
                .graph
                .relu_shapes()
                .iter()
                .enumerate()
                .map(|(i, s)| Mask::random(*s, s.iter().product::<i64>() as usize / 2, i as u64))
                .collect();
            let small = MaskSet::new(prefix_masks(&masks, &narrow.graph));
            let logits = narrow.forward(&x, &small, Mode::EVAL).logits;
            assert_eq!(logits.size(), [2, 4]);
            logits.sum(Kind::Float).backward();
            let grad = net.params[0].tensor.grad();
            assert!(
                grad.narrow(0, 0, 1)
                    .abs()
                    .sum(Kind::Float)
                    .double_value(&[])
                    > 0.0,
                "{name}"
            );
            let n_out = grad.size()[0];
            let rest = grad.narrow(0, n_out - 1, 1).abs().sum(Kind::Float);
            assert_eq!(rest.double_value(&[]), 0.0, "{name}");
            let own = net.detached_width(1).forward(&x, &small, Mode::EVAL).logits;
            assert_eq!(
                own,
                net.at_width(1).forward(&x, &small, Mode::EVAL).logits,
                "{name}"
            );
            let full = net
                .at_width(0)
                .forward(&x, &MaskSet::all_relu(&net.graph), Mode::EVAL)
                .logits;
            assert_eq!(
                full,
                net.forward(&x, &MaskSet::all_relu(&net.graph), Mode::EVAL)
                    .logits
            );
        }
        assert!(
            Net::new(&Arch::custom(&[4], 1, [3, 4, 4], 2), 1)
                .with_widths(&[1.5])
                .is_err()
        );
    }
}
