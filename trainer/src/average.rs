//! Copies of a network's tensors beside those being trained: the running average of the weights
//! (Tarvainen, Valpola, NeurIPS 2017) and the best epoch so far.

use crate::checkpoint::State;
use crate::error::{Error, Result};
use crate::net::Net;
use std::path::Path;
use tch::Tensor;

/// One tensor for each parameter and running statistic of a network.
pub struct Copies {
    prefix: &'static str,
    tensors: Vec<Tensor>,
}

impl Copies {
    /// Copies the network as it is; `prefix` names the tensors in checkpoints.
    pub fn of(net: &Net, prefix: &'static str) -> Copies {
        let copy = |p: &crate::net::Param| p.tensor.detach().copy();
        Copies {
            prefix,
            tensors: net.params.iter().map(copy).collect(),
        }
    }

    /// Moves towards the network by 1 - `decay`, faster in the first steps.
    pub fn average(&mut self, net: &Net, decay: f64, step: usize) {
        let decay = decay.min((1.0 + step as f64) / (10.0 + step as f64));
        tch::no_grad(|| {
            for (t, p) in self.tensors.iter_mut().zip(&net.params) {
                let _ = t.lerp_(&p.tensor.detach(), 1.0 - decay);
            }
        });
    }

    /// Exchanges the copies with the network's tensors.
    pub fn swap(&mut self, net: &Net) {
        tch::no_grad(|| {
            for (t, p) in self.tensors.iter_mut().zip(&net.params) {
                let old = p.tensor.detach().copy();
                p.tensor.shallow_clone().copy_(t);
                t.copy_(&old);
            }
        });
    }

    /// Takes the network as it is.
    pub fn take(&mut self, net: &Net) {
        tch::no_grad(|| {
            for (t, p) in self.tensors.iter_mut().zip(&net.params) {
                t.copy_(&p.tensor);
            }
        });
    }

    /// Names and tensors for a checkpoint.
    pub fn state(&self, net: &Net) -> State {
        let named = net.params.iter().zip(&self.tensors);
        named
            .map(|(p, t)| (format!("{}.{}", self.prefix, p.name), t.shallow_clone()))
            .collect()
    }

    /// Takes the tensors back.
    pub fn load_state(&mut self, net: &Net, state: &State, path: &Path) -> Result<()> {
        for (p, t) in net.params.iter().zip(&mut self.tensors) {
            let name = format!("{}.{}", self.prefix, p.name);
            let found = state
                .iter()
                .find(|(n, s)| *n == name && s.size() == t.size());
            let Some((_, s)) = found else {
                return Err(Error::Checkpoint {
                    path: path.to_owned(),
                    what: format!("lacks {name}"),
                });
            };
            t.copy_(s);
        }
        Ok(())
    }
}
