//! Stochastic gradient descent with Nesterov momentum, and a one-cycle learning rate.

use crate::net::Net;
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// Learning rate: linear warm-up to `peak`, then linear to zero.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct OneCycle {
    /// Highest learning rate.
    pub peak: f64,
    /// Share of all steps spent warming up.
    pub warmup: f64,
}

impl OneCycle {
    /// Learning rate of `step` out of `n_steps`.
    pub fn at(&self, step: usize, n_steps: usize) -> f64 {
        let t = (step as f64 + 0.5) / n_steps.max(1) as f64;
        if t < self.warmup {
            self.peak * t / self.warmup
        } else {
            self.peak * (1.0 - t) / (1.0 - self.warmup)
        }
    }
}

/// SGD with Nesterov momentum; weight decay on convolution and linear weights only.
pub struct Sgd {
    momentum: f64,
    weight_decay: f64,
    buffers: Vec<Tensor>,
}

impl Sgd {
    /// Momentum buffers for the trainable parameters of `net`, all zero.
    pub fn new(net: &Net, momentum: f64, weight_decay: f64) -> Sgd {
        let buffers = net
            .params
            .iter()
            .map(|p| p.tensor.zeros_like().detach())
            .collect();
        Sgd {
            momentum,
            weight_decay,
            buffers,
        }
    }

    /// One update from the gradients, which are then cleared.
    pub fn step(&mut self, net: &Net, lr: f64) {
        tch::no_grad(|| {
            for (p, buffer) in net.params.iter().zip(&mut self.buffers) {
                if !p.trainable {
                    continue;
                }
                let mut grad = p.tensor.grad();
                if !grad.defined() {
                    continue;
                }
                let mut tensor = p.tensor.shallow_clone();
                if p.decay {
                    grad += &tensor * self.weight_decay;
                }
                *buffer *= self.momentum;
                *buffer += &grad;
                let update = grad + &*buffer * self.momentum;
                tensor -= update * lr;
                p.tensor.shallow_clone().zero_grad();
            }
        });
    }

    /// Momentum of parameter `i` of the network.
    pub fn momentum(&self, i: usize) -> &Tensor {
        &self.buffers[i]
    }

    /// Names and momentum buffers for a checkpoint.
    pub fn state(&self, net: &Net) -> Vec<(String, Tensor)> {
        let named = net
            .params
            .iter()
            .zip(&self.buffers)
            .filter(|(p, _)| p.trainable);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_cycle_rises_peaks_and_falls_to_zero() {
        let s = OneCycle {
            peak: 0.4,
            warmup: 0.25,
        };
        let rates: Vec<f64> = (0..100).map(|i| s.at(i, 100)).collect();
        assert!(rates[..25].is_sorted() && rates[25..].is_sorted_by(|a, b| a >= b));
        assert!(rates.iter().all(|&r| r > 0.0 && r <= 0.4) && rates[99] < 0.005);
    }
}
