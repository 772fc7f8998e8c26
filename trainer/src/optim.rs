//! Stochastic gradient descent with momentum, Nesterov's or plain, and learning rates over time.

use crate::net::Net;
use crate::whiten::Whitening;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// How the learning rate moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// Linear warm-up, then linear to zero.
    #[default]
    OneCycle,
    /// Linear warm-up, then half a cosine to zero.
    Cosine,
    /// Times 0.1 after 5/8, 6/8 and 7/8 of the steps (150, 180 and 210 of 240 epochs, as published).
    Steps,
    /// The same throughout.
    Constant,
}

/// Learning rate over a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// How it moves.
    #[serde(default)]
    pub shape: Shape,
    /// Highest learning rate.
    pub peak: f64,
    /// Share of all steps spent warming up (one-cycle and cosine).
    pub warmup: f64,
}

impl Schedule {
    /// Learning rate of `step` out of `n_steps`.
    pub fn at(&self, step: usize, n_steps: usize) -> f64 {
        let t = (step as f64 + 0.5) / n_steps.max(1) as f64;
        let rises = matches!(self.shape, Shape::OneCycle | Shape::Cosine);
        if rises && t < self.warmup {
            return self.peak * t / self.warmup;
        }
        let rest = (1.0 - t) / (1.0 - self.warmup);
        match self.shape {
            Shape::OneCycle => self.peak * rest,
            Shape::Cosine => self.peak * 0.5 * (1.0 - (std::f64::consts::PI * rest).cos()),
            Shape::Steps => {
                let passed = [0.625, 0.75, 0.875].iter().filter(|&&m| t >= m).count();
                self.peak * 0.1f64.powi(passed as i32)
            }
            Shape::Constant => self.peak,
        }
    }
}

/// SGD with momentum; weight decay on convolution and linear weights only.
pub struct Sgd {
    momentum: f64,
    nesterov: bool,
    weight_decay: f64,
    buffers: Vec<Tensor>,
    /// Factor of BatchNorm's shifts' learning rate.
    shift_rate: f64,
    whitening: Option<Whitening>,
}

impl Sgd {
    /// Momentum buffers for the trainable parameters of `net`, all zero.
    pub fn new(net: &Net, momentum: f64, nesterov: bool, weight_decay: f64) -> Sgd {
        let zeros = |p: &crate::net::Param| p.tensor.zeros_like().detach();
        Sgd {
            momentum,
            nesterov,
            weight_decay,
            buffers: net.params.iter().map(zeros).collect(),
            shift_rate: 1.0,
            whitening: None,
        }
    }

    /// BatchNorm's shifts learn `factor` times as fast as the rest.
    pub fn with_shift_rate(self, factor: f64) -> Sgd {
        Sgd {
            shift_rate: factor,
            ..self
        }
    }

    /// The first convolution learns as if its patches were white.
    pub fn with_whitening(self, whitening: Option<Whitening>) -> Sgd {
        Sgd { whitening, ..self }
    }

    /// One update from `gradients`, one for each trainable parameter in order.
    pub fn step(&mut self, net: &Net, gradients: &[Tensor], lr: f64) {
        tch::no_grad(|| {
            let trained = net.params.iter().zip(&mut self.buffers).enumerate();
            let trained = trained.filter(|(_, (p, _))| p.trainable);
            for ((i, (p, buffer)), gradient) in trained.zip(gradients) {
                if !gradient.defined() {
                    continue;
                }
                let whitened = match &self.whitening {
                    Some(w) if w.param() == i => Some(w.apply(gradient)),
                    _ => None,
                };
                let gradient = whitened.as_ref().unwrap_or(gradient);
                let lr = match p.name.ends_with(".beta") {
                    true => lr * self.shift_rate,
                    false => lr,
                };
                let mut tensor = p.tensor.shallow_clone();
                // Never in place: another value may share the gradient.
                let grad = match p.decay {
                    true => gradient + &tensor * self.weight_decay,
                    false => gradient.shallow_clone(),
                };
                *buffer *= self.momentum;
                *buffer += &grad;
                tensor -= match self.nesterov {
                    true => (grad + &*buffer * self.momentum) * lr,
                    false => &*buffer * lr,
                };
            }
        });
    }

    /// Momentum of parameter `i` of the network.
    pub fn momentum(&self, i: usize) -> &Tensor {
        &self.buffers[i]
    }

    /// Names and momentum buffers for a checkpoint.
    pub fn state(&self, net: &Net) -> Vec<(String, Tensor)> {
        let named = net.params.iter().zip(&self.buffers);
        let named = named.filter(|(p, _)| p.trainable);
        named
            .map(|(p, b)| (format!("momentum.{}", p.name), b.shallow_clone()))
            .collect()
    }

    /// Takes momentum buffers back from a checkpoint; missing ones stay zero.
    pub fn load_state(&mut self, net: &Net, state: &[(String, Tensor)]) {
        for (p, buffer) in net.params.iter().zip(&mut self.buffers) {
            let name = format!("momentum.{}", p.name);
            if let Some((_, t)) = state.iter().find(|(n, _)| *n == name) {
                buffer.copy_(t);
            }
        }
    }
}

/// Gradients of `loss` by the trainable parameters of `net`, and by `probes` (values within the network).
pub fn gradients(
    loss: &Tensor,
    net: &Net,
    probes: &[Tensor],
) -> crate::error::Result<(Vec<Tensor>, Vec<Tensor>)> {
    let trained = net.params.iter().filter(|p| p.trainable);
    let mut inputs: Vec<Tensor> = trained.map(|p| p.tensor.shallow_clone()).collect();
    let n = inputs.len();
    inputs.extend(probes.iter().map(Tensor::shallow_clone));
    let mut all = Tensor::f_run_backward(&[loss], &inputs, false, false)?;
    let by_probes = all.split_off(n);
    Ok((all, by_probes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_momenta_follow_their_definitions() {
        for (nesterov, want) in [(false, [-1.0, -2.5, -4.25]), (true, [-1.5, -3.25, -5.125])] {
            let net = Net::new(&crate::net::Arch::custom(&[2], 1, [3, 4, 4], 2), 1);
            let at = net.params.iter().position(|p| p.name == "fc.bias").unwrap();
            let bias = net.params[at].tensor.shallow_clone();
            let _ = tch::no_grad(|| bias.shallow_clone().zero_());
            let trained = net.params.iter().filter(|p| p.trainable);
            let ones: Vec<Tensor> = trained.map(|p| p.tensor.ones_like()).collect();
            let mut sgd = Sgd::new(&net, 0.5, nesterov, 0.0);
            for value in want {
                sgd.step(&net, &ones, 1.0);
                assert_eq!(bias.double_value(&[0]), value, "{nesterov}");
            }
        }
    }

    #[test]
    fn schedules_rise_peak_and_fall() {
        for shape in [Shape::OneCycle, Shape::Cosine] {
            let s = Schedule {
                shape,
                peak: 0.4,
                warmup: 0.25,
            };
            let rates: Vec<f64> = (0..100).map(|i| s.at(i, 100)).collect();
            assert!(rates[..25].is_sorted() && rates[25..].is_sorted_by(|a, b| a >= b));
            assert!(rates.iter().all(|&r| r > 0.0 && r <= 0.4) && rates[99] < 0.005);
        }
        let steps = Schedule {
            shape: Shape::Steps,
            peak: 1.0,
            warmup: 0.2,
        };
        let rates = [0, 149, 150, 180, 210].map(|e| steps.at(e, 240));
        for (rate, want) in rates.iter().zip([1.0, 1.0, 0.1, 0.01, 0.001]) {
            assert!((rate - want).abs() < 1e-12, "{rates:?}");
        }
    }
}
