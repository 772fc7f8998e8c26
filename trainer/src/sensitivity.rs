//! Stage 1's sensitivities, from a sparse proxy (Dettmers, Zettlemoyer, "Sparse Networks from Scratch:
//! Faster Training without Losing Performance", 2019, as used by Kundu et al., ICLR 2023, section 3.1).
//!
//! The network trains with a tenth of its convolution weights. After each epoch every layer drops its
//! smallest weights; as many come back in all, shared out by mean momentum, where momentum is largest.
//! A layer that ends dense matters in its weights; its ReLUs matter less: eta = 1 - density.

use crate::checkpoint::State;
use crate::data::Batches;
use crate::error::{Error, Result};
use crate::evaluate;
use crate::loss;
use crate::net::{MaskSet, Mode, Net};
use crate::optim::Sgd;
use crate::run::Stage;
use rand::SeedableRng;
use rand::seq::index;
use rand_chacha::ChaCha8Rng;
use std::path::Path;
use tch::Tensor;

/// Share of the convolution weights that survive.
pub const DENSITY: f64 = 0.1;
/// Share of a layer's surviving weights that the first epoch replaces; falls linearly to zero.
const PRUNE_RATE: f64 = 0.5;

/// The share after `epoch` others of `epochs`.
fn prune_rate(epoch: usize, epochs: usize) -> f64 {
    let done = epoch as f64 / epochs.saturating_sub(1).max(1) as f64;
    PRUNE_RATE * (1.0 - done).max(0.0)
}

/// The sparse proxy.
pub struct Sensitivity {
    relu: MaskSet,
    /// Index in the parameter list and alive positions of each convolution.
    layers: Vec<(usize, Vec<bool>)>,
    /// The same as zeros and ones, on the network's device.
    alive: Vec<Tensor>,
    epochs: usize,
    epoch: usize,
}

fn values(t: &Tensor) -> Result<Vec<f32>> {
    Ok(Vec::try_from(t.detach().contiguous().flatten(0, -1))?)
}

/// The `n` indices among `candidates` of the largest key; ties go to the lower index.
fn largest(mut candidates: Vec<usize>, n: usize, key: impl Fn(usize) -> f32) -> Vec<usize> {
    let order = |&a: &usize, &b: &usize| key(b).total_cmp(&key(a)).then(a.cmp(&b));
    if n < candidates.len() {
        candidates.select_nth_unstable_by(n, order);
        candidates.truncate(n);
    }
    candidates
}

impl Sensitivity {
    /// A random tenth of every convolution of `net` survives at first, and of a fully connected layer that a ReLU follows.
    pub fn new(net: &Net, epochs: usize, seed: u64) -> Sensitivity {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let producers = net.graph.producers();
        let produces = |name: &str| {
            let own = name.strip_suffix(".weight");
            own.is_some_and(|own| producers.iter().any(|p| p == own))
        };
        let convs = net
            .params
            .iter()
            .enumerate()
            .filter(|(_, p)| p.tensor.dim() == 4 || produces(&p.name));
        let layers = convs.map(|(i, p)| {
            let n = p.tensor.numel();
            let mut alive = vec![false; n];
            let kept = ((n as f64 * DENSITY).round() as usize).max(1);
            index::sample(&mut rng, n, kept)
                .iter()
                .for_each(|k| alive[k] = true);
            (i, alive)
        });
        let layers = layers.collect();
        let mut stage = Sensitivity {
            relu: MaskSet::all_relu(&net.graph),
            layers,
            alive: vec![],
            epochs,
            epoch: 0,
        };
        stage.renew(net);
        stage
    }

    /// Surviving share of the convolution before each ReLU layer, stem first.
    pub fn densities(&self, net: &Net) -> Vec<f64> {
        let share = |alive: &[bool]| {
            alive.iter().filter(|&&a| a).count() as f64 / alive.len().max(1) as f64
        };
        let density = |name: String| {
            let name = format!("{name}.weight");
            let of_layer = |(i, _): &&(usize, Vec<bool>)| net.params[*i].name == name;
            self.layers
                .iter()
                .find(of_layer)
                .map_or(1.0, |(_, a)| share(a))
        };
        net.graph.producers().into_iter().map(density).collect()
    }

    /// Sets the dead weights to zero.
    fn apply(&self, net: &Net) {
        tch::no_grad(|| {
            for ((i, _), alive) in self.layers.iter().zip(&self.alive) {
                let _ = net.params[*i].tensor.shallow_clone().multiply_(alive);
            }
        });
    }

    /// Takes over which weights live.
    fn renew(&mut self, net: &Net) {
        let tensor = |(i, alive): &(usize, Vec<bool>)| {
            let mask: Vec<f32> = alive.iter().map(|&a| f32::from(u8::from(a))).collect();
            let size = net.params[*i].tensor.size();
            let mask = Tensor::from_slice(&mask).view(size.as_slice());
            mask.to_device(net.device())
        };
        self.alive = self.layers.iter().map(tensor).collect();
        self.apply(net);
    }

    /// Drops the smallest weights and regrows as many where momentum is largest.
    fn prune_and_regrow(&mut self, net: &Net, sgd: &Sgd, rate: f64) -> Result<usize> {
        let (mut dropped, mut shares, mut momenta) = (0, Vec::new(), Vec::new());
        for (i, alive) in &mut self.layers {
            let weight = values(&net.params[*i].tensor)?;
            let momentum = values(sgd.momentum(*i))?;
            let living: Vec<usize> = (0..alive.len()).filter(|&k| alive[k]).collect();
            let mean =
                living.iter().map(|&k| momentum[k].abs()).sum::<f32>() / living.len().max(1) as f32;
            let n = (living.len() as f64 * rate) as usize;
            for k in largest(living, n, |k| -weight[k].abs()) {
                alive[k] = false;
            }
            dropped += n;
            shares.push(f64::from(mean));
            momenta.push(momentum);
        }
        // Shares that a full layer cannot take go round again among the others.
        let mut rest = dropped;
        while rest > 0 {
            let room = |alive: &[bool]| alive.iter().filter(|&&a| !a).count();
            let open: Vec<bool> = self.layers.iter().map(|(_, a)| room(a) > 0).collect();
            let sum: f64 = shares
                .iter()
                .zip(&open)
                .filter(|(_, o)| **o)
                .map(|(s, _)| s.max(1e-12))
                .sum();
            if sum == 0.0 {
                break;
            }
            let round = rest;
            for (l, (_, alive)) in self.layers.iter_mut().enumerate().filter(|(l, _)| open[*l]) {
                let wanted = (round as f64 * shares[l].max(1e-12) / sum).ceil() as usize;
                let dead: Vec<usize> = (0..alive.len()).filter(|&k| !alive[k]).collect();
                for k in largest(dead, wanted.min(rest), |k| momenta[l][k].abs()) {
                    alive[k] = true;
                    rest -= 1;
                }
            }
        }
        Ok(dropped)
    }
}

impl Stage for Sensitivity {
    fn loss(&mut self, net: &Net, x: &Tensor, labels: &Tensor, mode: Mode) -> (Tensor, Tensor) {
        let logits = net.forward(x, &self.relu, mode).logits;
        (loss::cross_entropy(&logits, labels, 0.0), logits.detach())
    }

    fn after_step(&mut self, net: &Net) {
        self.apply(net);
    }

    fn end_epoch(&mut self, net: &Net, sgd: &Sgd) -> Result<(String, bool)> {
        let rate = prune_rate(self.epoch, self.epochs);
        self.epoch += 1;
        let n = self.prune_and_regrow(net, sgd, rate)?;
        self.renew(net);
        Ok((format!(", {n} weights moved"), false))
    }

    fn state(&self) -> State {
        let mut state = vec![("proxy.epoch".into(), Tensor::from(self.epoch as i64))];
        for (i, alive) in &self.layers {
            let bytes: Vec<u8> = alive.iter().map(|&a| a.into()).collect();
            state.push((format!("alive.{i}"), Tensor::from_slice(&bytes)));
        }
        state
    }

    fn load_state(&mut self, net: &Net, state: &State, path: &Path) -> Result<()> {
        let find = |name: String| match state.iter().find(|(n, _)| *n == name) {
            Some((_, t)) => Ok(t),
            None => {
                let what = format!("lacks {name}");
                Err(Error::Checkpoint {
                    path: path.to_owned(),
                    what,
                })
            }
        };
        self.epoch = i64::try_from(find("proxy.epoch".into())?)? as usize;
        for (i, alive) in &mut self.layers {
            let bytes = Vec::<u8>::try_from(find(format!("alive.{i}"))?)?;
            if bytes.len() != alive.len() {
                let what = format!("alive.{i} has another size");
                return Err(Error::Checkpoint {
                    path: path.to_owned(),
                    what,
                });
            }
            *alive = bytes.iter().map(|&b| b != 0).collect();
        }
        self.renew(net);
        Ok(())
    }

    fn accuracy(&self, net: &Net, batches: &Batches) -> f64 {
        evaluate::accuracy(net, &self.relu, batches)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Arch;
    use tch::Kind;

    #[test]
    fn the_share_that_moves_falls_from_a_half_to_nothing() {
        let rates: Vec<f64> = (0..5).map(|e| prune_rate(e, 5)).collect();
        assert_eq!(rates, [0.5, 0.375, 0.25, 0.125, 0.0]);
        assert_eq!(prune_rate(0, 1), 0.5);
    }

    #[test]
    fn the_smallest_go_and_come_back_by_mean_momentum_where_momentum_is_largest() {
        let net = Net::new(&Arch::custom(&[4], 1, [3, 4, 4], 3), 1);
        let mut stage = Sensitivity::new(&net, 2, 1);
        stage.layers.truncate(2);
        let (first, second) = (stage.layers[0].0, stage.layers[1].0);
        let n = |i: usize| net.params[i].tensor.numel();
        let alive = |n: usize, ones: &[usize]| (0..n).map(|k| ones.contains(&k)).collect();
        stage.layers[0].1 = alive(n(first), &[0, 1, 2, 3]);
        stage.layers[1].1 = alive(n(second), &[0, 1, 2, 3]);
        let set = |t: &Tensor, values: Vec<f32>| {
            let values = Tensor::from_slice(&values).view(t.size().as_slice());
            tch::no_grad(|| t.shallow_clone().copy_(&values));
        };
        // Of each, the two smallest weights go: 1 and 3.
        let small = |n: usize| (0..n).map(|k| [4.0f32, -0.1, 3.0, 0.2][k % 4]).collect();
        set(&net.params[first].tensor, small(n(first)));
        set(&net.params[second].tensor, small(n(second)));
        // Mean momenta of the living 1 and 3: one of the four comes back in the first layer, three in the second.
        let sgd = Sgd::new(&net, 0.9, true, 0.0);
        let momenta = |n: usize, mean: f32, large: &[usize]| {
            let one = |k: usize| match (k < 4, large.contains(&k)) {
                (true, _) => mean,
                (false, true) => -9.0 - k as f32,
                (false, false) => 0.5,
            };
            (0..n).map(one).collect()
        };
        set(sgd.momentum(first), momenta(n(first), 1.0, &[7]));
        set(sgd.momentum(second), momenta(n(second), 3.0, &[9, 20, 30]));
        assert_eq!(stage.prune_and_regrow(&net, &sgd, PRUNE_RATE).unwrap(), 4);
        let living = |l: usize| -> Vec<usize> {
            let alive = stage.layers[l].1.iter().enumerate();
            alive.filter(|(_, a)| **a).map(|(k, _)| k).collect()
        };
        assert_eq!(
            (living(0), living(1)),
            (vec![0, 2, 7], vec![0, 2, 9, 20, 30])
        );
    }

    #[test]
    fn the_number_of_living_weights_stays_and_dead_weights_are_zero() {
        let net = Net::new(&Arch::custom(&[4, 8], 1, [3, 8, 8], 3), 1);
        let mut stage = Sensitivity::new(&net, 4, 2);
        let count = |s: &Sensitivity| -> usize {
            s.layers
                .iter()
                .map(|(_, a)| a.iter().filter(|&&x| x).count())
                .sum()
        };
        let before = count(&stage);
        let x = Tensor::randn([4, 3, 8, 8], (Kind::Float, tch::Device::Cpu));
        let labels = Tensor::from_slice(&[0i64, 1, 2, 0]);
        let mut sgd = Sgd::new(&net, 0.9, true, 0.0);
        let mode = Mode {
            train: true,
            ..Mode::EVAL
        };
        for _ in 0..3 {
            let loss = stage.loss(&net, &x, &labels, mode).0;
            let by_params = crate::optim::gradients(&loss, &net, &[]).unwrap().0;
            sgd.step(&net, &by_params, 0.1);
            stage.after_step(&net);
            stage.end_epoch(&net, &sgd).unwrap();
        }
        assert_eq!(count(&stage), before);
        assert_eq!(stage.densities(&net).len(), net.graph.relu_counts().len());
        for (i, alive) in &stage.layers {
            let weights = values(&net.params[*i].tensor).unwrap();
            assert!(alive.iter().zip(&weights).all(|(a, w)| *a || *w == 0.0));
        }
    }
}
