//! Narrower forms of one network that share its weights: channel prefixes with BatchNorms of their own.
//!
//! Ordered dropout (Horvath et al., NeurIPS 2021) as SENet++ uses it (Kundu et al., ICLR 2023, section
//! 3.4): a form of width factor f reads the first f share of every layer's channels. The classifier
//! keeps all classes. Statistics differ between widths, hence the separate BatchNorms.

use super::{Conv, Mask, Net, Norm, Param};
use crate::error::{Error, Result};

/// The BatchNorms of a narrower form, in the plan's order.
pub(super) struct Narrow {
    factor: f64,
    norms: Vec<Vec<Option<Norm>>>,
}

impl Net {
    /// Adds narrower forms; each factor lies between 0 and 1.
    pub fn with_widths(mut self, factors: &[f64]) -> Result<Net> {
        for (i, &factor) in factors.iter().enumerate() {
            if !(factor > 0.0 && factor < 1.0) {
                return Err(Error::Usage(format!(
                    "width factor {factor}: the narrower widths lie between 0 and 1"
                )));
            }
            if factors[..i].contains(&factor) {
                return Err(Error::Usage(format!("width factor {factor}: given twice")));
            }
            let device = self.device();
            let params: &mut Vec<Param> = &mut self.params;
            let plan = self.arch.scaled(factor).plan();
            let mut norms = Vec::new();
            for layer in &plan {
                let norm = |t: &super::Term| {
                    let name = format!("{}.width{}", t.name, i + 1);
                    t.norm
                        .then(|| Norm::new(params, &name, t.channels[1], device))
                };
                norms.push(layer.terms.iter().map(norm).collect());
            }
            self.narrow.push(Narrow { factor, norms });
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
        let arch = match narrow {
            Some(n) => self.arch.scaled(n.factor),
            None => self.arch.clone(),
        };
        let plan = arch.plan();
        let mut convs: Vec<Vec<Conv>> = Vec::new();
        for (l, (layer, own)) in plan.iter().zip(&self.convs).enumerate() {
            let one = |(k, (t, conv)): (usize, (&super::Term, &Conv))| {
                let norm = match narrow {
                    Some(n) => n.norms[l][k].as_ref(),
                    None => conv.norm.as_ref(),
                };
                conv.prefix(t, norm)
            };
            convs.push(layer.terms.iter().zip(own).enumerate().map(one).collect());
        }
        let width = arch.widths.last().copied().unwrap_or(1);
        Net {
            plan,
            convs,
            fc_weight: self.fc_weight.narrow(1, 0, width),
            fc_bias: self.fc_bias.shallow_clone(),
            params: vec![],
            narrow: vec![],
            arch,
        }
    }

    /// Form `i` as a network of its own with copied parameters, as a checkpoint would hold it.
    pub fn detached_width(&self, i: usize) -> Net {
        let view = self.at_width(i);
        let own = Net::on(&view.arch, 0, self.device());
        let copy = |to: &tch::Tensor, from: &tch::Tensor| {
            tch::no_grad(|| to.shallow_clone().copy_(from));
        };
        for (to, from) in own.convs.iter().flatten().zip(view.convs.iter().flatten()) {
            if let (Some(a), Some(b)) = (&to.weight, &from.weight) {
                copy(a, b);
            }
            if let (Some(a), Some(b)) = (&to.norm, &from.norm) {
                copy(&a.gamma, &b.gamma);
                copy(&a.beta, &b.beta);
                copy(&a.mean, &b.mean);
                copy(&a.var, &b.var);
            }
        }
        copy(&own.fc_weight, &view.fc_weight);
        copy(&own.fc_bias, &view.fc_bias);
        own
    }
}

/// The masks of a narrower form: the first channels of the full masks.
pub fn prefix_masks(masks: &[Mask], arch: &super::Arch) -> Vec<Mask> {
    let one = |(m, shape): (&Mask, [i64; 3])| {
        let n = shape.iter().product::<i64>() as usize;
        Mask {
            shape,
            keep: m.keep.iter().copied().take(n).collect(),
        }
    };
    masks.iter().zip(arch.relu_shapes()).map(one).collect()
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
            assert_eq!(narrow.arch.widths[0], (arch.widths[0] + 1) / 2);
            let x = Tensor::randn([2, 3, 16, 16], (Kind::Float, tch::Device::Cpu));
            let masks: Vec<Mask> = arch
                .relu_shapes()
                .iter()
                .enumerate()
                .map(|(i, s)| Mask::random(*s, s.iter().product::<i64>() as usize / 2, i as u64))
                .collect();
            let small = MaskSet::new(prefix_masks(&masks, &narrow.arch));
            let logits = narrow.forward(&x, &small, Mode::EVAL).logits;
            assert_eq!(logits.size(), [2, 4]);
            logits.sum(Kind::Float).backward();
            let grad = net.convs[0][0].weight.as_ref().unwrap().grad();
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
                .forward(&x, &MaskSet::all_relu(&arch), Mode::EVAL)
                .logits;
            assert_eq!(
                full,
                net.forward(&x, &MaskSet::all_relu(&arch), Mode::EVAL)
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
