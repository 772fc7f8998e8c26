//! Stage 2: where the ReLUs go (Kundu et al., ICLR 2023, section 3.2).
//!
//! The partial-ReLU network trains by distillation while the mismatch of its activations with the
//! teacher's is summed at every position; after each epoch a layer keeps exactly its r(l) highest scores.
//!
//! The paper's mismatch is that of the student's output, which is small wherever the student has its
//! ReLU at the moment: the next mask is then drawn from the other positions, and successive masks of
//! a short search avoid each other (measured: no overlap in most layers). By default the student's
//! pre-activation is compared instead: the same number where the ReLU is missing, and the mismatch
//! that its removal would cause where it is kept.

use crate::checkpoint::{self, State};
use crate::data::Batches;
use crate::error::{Error, Result};
use crate::evaluate;
use crate::loss;
use crate::net::{Arch, Mask, MaskSet, Mode, Net};
use crate::optim::Sgd;
use crate::run::Stage;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// Share of each of the two loss terms.
const SHARE: f64 = 0.5;

/// What the mismatch with the teacher's post-activation is measured from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Score {
    /// The student's pre-activation: what is lost without the ReLU.
    Removal,
    /// The student's post-activation, as in the paper.
    Output,
}

/// State of the mask search.
pub struct Search {
    arch: Arch,
    teacher: Net,
    all_relu: MaskSet,
    /// The student's masks.
    pub masks: MaskSet,
    budget: Vec<usize>,
    scores: Vec<Tensor>,
    /// What positions are scored by.
    pub score: Score,
    /// Keep whole channels instead of pixels.
    pub per_channel: bool,
    /// Stop when no layer's mask changes by more than this.
    pub stop_distance: Option<f64>,
}

impl Search {
    /// Starts from random masks with `budget[l]` ReLUs in layer l.
    pub fn new(teacher: Net, budget: &[usize], seed: u64) -> Search {
        let arch = teacher.arch.clone();
        let shapes = arch.relu_shapes();
        let masks = shapes.iter().zip(budget).enumerate();
        let masks = masks.map(|(i, (s, &n))| Mask::random(*s, n, seed.wrapping_add(i as u64)));
        let masks = MaskSet::new(masks.collect());
        let scores = shapes
            .iter()
            .map(|s| Tensor::zeros(s, (Kind::Float, Device::Cpu)))
            .collect();
        let all_relu = MaskSet::all_relu(&arch);
        let budget = budget.to_vec();
        Search {
            arch,
            teacher,
            all_relu,
            masks,
            budget,
            scores,
            score: Score::Removal,
            per_channel: false,
            stop_distance: None,
        }
    }
}

impl Stage for Search {
    fn loss(&mut self, net: &Net, x: &Tensor, labels: &Tensor, mode: Mode) -> (Tensor, Tensor) {
        let mode = Mode {
            collect: true,
            ..mode
        };
        let student = net.forward(x, &self.masks, mode);
        let teacher = tch::no_grad(|| {
            let teacher = self.teacher.forward(
                x,
                &self.all_relu,
                Mode {
                    train: false,
                    ..mode
                },
            );
            let own = match self.score {
                Score::Removal => &student.preactivations,
                Score::Output => &student.activations,
            };
            let pairs = teacher.activations.iter().zip(own);
            for ((t, s), score) in pairs.zip(&mut self.scores) {
                *score += (t - s)
                    .abs()
                    .sum_dim_intlist([0i64].as_slice(), false, Kind::Float);
            }
            teacher.logits
        });
        let ce = loss::cross_entropy(&student.logits, labels, 0.0);
        let kl = loss::distillation(&student.logits, &teacher);
        ((ce + kl) * SHARE, student.logits.detach())
    }

    fn end_epoch(&mut self, _net: &Net, _sgd: &Sgd) -> Result<(String, bool)> {
        let mut masks = Vec::new();
        for ((score, old), &n) in self.scores.iter().zip(self.masks.masks()).zip(&self.budget) {
            let values = Vec::<f32>::try_from(score.contiguous().flatten(0, -1))?;
            let select = if self.per_channel {
                Mask::top_channels
            } else {
                Mask::top
            };
            masks.push(select(old.shape, &values, n));
        }
        let moved = masks
            .iter()
            .zip(self.masks.masks())
            .map(|(a, b)| a.distance(b));
        let moved = moved.fold(0.0, f64::max);
        self.masks = MaskSet::new(masks);
        for score in &mut self.scores {
            let _ = score.zero_();
        }
        let stop = self.stop_distance.is_some_and(|limit| moved <= limit);
        Ok((format!(", masks moved by at most {moved:.3}"), stop))
    }

    fn state(&self) -> State {
        let mut state = checkpoint::mask_state(self.masks.masks());
        for (i, s) in self.scores.iter().enumerate() {
            state.push((format!("score.{i}"), s.shallow_clone()));
        }
        state
    }

    fn load_state(&mut self, state: &State, path: &Path) -> Result<()> {
        self.masks = MaskSet::new(checkpoint::load_masks(&self.arch, state, path)?);
        for (i, score) in self.scores.iter_mut().enumerate() {
            let name = format!("score.{i}");
            let Some((_, t)) = state
                .iter()
                .find(|(n, t)| *n == name && t.size() == score.size())
            else {
                let what = format!("lacks {name}");
                return Err(Error::Checkpoint {
                    path: path.to_owned(),
                    what,
                });
            };
            score.copy_(t);
        }
        Ok(())
    }

    fn accuracy(&self, net: &Net, batches: &Batches) -> f64 {
        evaluate::accuracy(net, &self.masks, batches)
    }
}
