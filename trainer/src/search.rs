//! Stage 2: where the ReLUs go (Kundu et al., ICLR 2023, section 3.2).
//!
//! The partial-ReLU network trains by distillation while a score is summed at every position; after
//! each epoch but the last a layer keeps exactly its r(l) highest scores; the last epoch, also that of a search
//! which stops because its masks have settled, trains under the masks that are the result, so that its
//! accuracies are theirs. [`Selection`] says which score, and whether
//! r(l) comes down from all positions. Options beyond the paper: budgets that follow the scores across
//! layers, and layers emptied altogether, each of which saves the private inference a round trip.

use crate::budget;
use crate::checkpoint::{self, State};
use crate::data::Batches;
use crate::error::{Error, Result};
use crate::evaluate;
use crate::loss::Targets;
use crate::net::{Graph, Mask, MaskSet, Mode, Net, prefix_masks};
use crate::optim::Sgd;
use crate::run::Stage;
use crate::selection::{self, Selection};
use std::path::Path;
use tch::{Kind, Tensor};

/// How the search goes about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// What positions are scored by.
    pub selection: Selection,
    /// Keep whole channels instead of pixels.
    pub per_channel: bool,
    /// Stop when no layer's mask changes by more than this.
    pub stop_distance: Option<f64>,
    /// Budgets of the layers follow the scores after each epoch; only their sum is given.
    pub budgets_from_scores: bool,
    /// Empty this many layers, chosen by their scores half way through.
    pub empty_layers: usize,
    /// What the loss is made of.
    pub targets: Targets,
}

impl Options {
    /// The rule alone.
    pub fn new(selection: Selection) -> Options {
        Options {
            selection,
            per_channel: false,
            stop_distance: None,
            budgets_from_scores: false,
            empty_layers: 0,
            targets: Targets::SEARCH,
        }
    }

    /// Refuses what could not be kept up to the end of a search with `budget[l]` ReLUs in layer l.
    pub fn check(&self, graph: &Graph, budget: &[usize]) -> Result<()> {
        let across = self.budgets_from_scores || self.empty_layers > 0;
        if across && !self.selection.needs_gradients() {
            return Err(Error::Usage(format!(
                "--budgets-from-scores and --empty-layers compare scores of different layers, which those of {} do not allow: a layer's grow with its activations. Take a selection by gradients, such as anneal-kink",
                self.selection.name()
            )));
        }
        if self
            .stop_distance
            .is_some_and(|d| !(0.0..=1.0).contains(&d))
        {
            let what = "--stop-distance: a share from 0 to 1, such as 0.05";
            return Err(Error::Usage(what.into()));
        }
        let sizes = graph.relu_counts();
        selection::check_closing(&sizes, budget.iter().sum(), self.empty_layers)
    }
}

/// A layer's activation and the factor of its score that waits for the gradient.
struct Pending {
    activation: Tensor,
    mismatch: Tensor,
}

/// State of the mask search.
pub struct Search {
    graph: Graph,
    teacher: Net,
    all_relu: MaskSet,
    /// The student's masks.
    pub masks: MaskSet,
    narrow: Vec<MaskSet>,
    n_widths: usize,
    shapes: Vec<[i64; 3]>,
    budget: Vec<usize>,
    /// ReLUs in all, however the layers share them.
    total: usize,
    closed: Vec<bool>,
    scores: Vec<Tensor>,
    pending: Vec<Pending>,
    epoch: usize,
    epochs: usize,
    /// The masks move no more; one epoch follows under them.
    settled: bool,
    options: Options,
}

impl Search {
    /// Starts from random masks with `budget[l]` ReLUs in layer l, or from all ReLUs if annealed.
    /// `n_widths` forms of the student train together. Refuses options that could fail on the way.
    pub fn new(
        teacher: Net,
        budget: &[usize],
        seed: u64,
        epochs: usize,
        n_widths: usize,
        options: Options,
    ) -> Result<Search> {
        let graph = teacher.graph.clone();
        let shapes = graph.relu_shapes();
        options.check(&graph, budget)?;
        let masks = shapes.iter().zip(budget).enumerate();
        let first = |(i, (s, &n)): (usize, (&[i64; 3], &usize))| {
            let seed = seed.wrapping_add(i as u64);
            match (options.selection.anneals(), options.per_channel) {
                (true, _) => Mask::ones(*s),
                (false, false) => Mask::random(*s, n, seed),
                (false, true) => Mask::random_channels(*s, n, seed),
            }
        };
        let device = teacher.device();
        let masks = MaskSet::new(masks.map(first).collect()).on(device);
        let zeros = |s: &[i64; 3]| Tensor::zeros(s, (Kind::Float, device));
        Ok(Search {
            all_relu: MaskSet::all_relu(&graph),
            graph,
            teacher,
            masks,
            narrow: vec![],
            n_widths,
            scores: shapes.iter().map(zeros).collect(),
            closed: vec![false; shapes.len()],
            shapes,
            budget: budget.to_vec(),
            total: budget.iter().sum(),
            pending: vec![],
            epoch: 0,
            epochs,
            settled: false,
            options,
        })
    }

    /// Epochs after which layers are emptied.
    fn half(&self) -> usize {
        self.epochs.div_ceil(2)
    }

    /// The next masks from the scores of the epoch that has ended.
    fn select(&mut self) -> Result<Vec<Mask>> {
        let scores = selection::values(&self.scores)?;
        let (total, per_channel) = (self.total, self.options.per_channel);
        let n = self.options.empty_layers;
        if n > 0 && self.epoch == self.half() {
            (self.closed, self.budget) = selection::close_layers(&scores, &self.budget, n)?;
        }
        if self.options.budgets_from_scores {
            self.budget = selection::revisit(&scores, &self.closed, total);
        }
        if per_channel {
            let open = |l: usize| if self.closed[l] { 0 } else { scores[l].len() };
            let sizes: Vec<usize> = (0..scores.len()).map(open).collect();
            let planes = self.graph.relu_planes();
            self.budget = budget::whole_channels(&sizes, &planes, &self.budget);
        }
        let kept = |l: usize| {
            if self.closed[l] {
                return 0;
            }
            let (size, budget) = (scores[l].len(), self.budget[l]);
            let selection = self.options.selection;
            selection.n_kept(size, budget, self.epoch, self.epochs)
        };
        let kept: Vec<usize> = (0..scores.len()).map(kept).collect();
        Ok(selection::masks(&self.shapes, &scores, &kept, per_channel))
    }
}

impl Stage for Search {
    fn loss(&mut self, net: &Net, x: &Tensor, target: &Tensor, mode: Mode) -> (Tensor, Tensor) {
        let collect = Mode {
            collect: true,
            ..mode
        };
        let eval = Mode {
            train: false,
            ..collect
        };
        let student = net.forward(x, &self.masks, collect);
        let teacher = tch::no_grad(|| self.teacher.forward(x, &self.all_relu, eval));
        self.pending.clear();
        tch::no_grad(|| {
            let own = student.preactivations.iter().zip(&student.activations);
            let ops = self
                .graph
                .relus()
                .map(|(_, op)| op)
                .zip(&teacher.activations);
            let layers = ops.zip(own).zip(&mut self.scores);
            for (((op, t), (before, after)), score) in layers {
                let mismatch = self.options.selection.mismatch(t, before, after, op);
                if self.options.selection.needs_gradients() {
                    self.pending.push(Pending {
                        activation: after.shallow_clone(),
                        mismatch,
                    });
                } else {
                    selection::accumulate(score, &mismatch);
                }
            }
        });
        let targets = self.options.targets;
        let one = |logits: &Tensor| targets.loss(logits, &teacher.logits, target);
        let mut sum = one(&student.logits);
        for i in 1..self.n_widths {
            let form = net.at_width(i);
            if self.narrow.len() < i {
                let masks = prefix_masks(self.masks.masks(), &form.graph);
                self.narrow.push(MaskSet::new(masks).on(x.device()));
            }
            sum += one(&form.forward(x, &self.narrow[i - 1], mode).logits);
        }
        (sum, student.logits.detach())
    }

    fn probes(&self) -> Vec<Tensor> {
        let activations = self.pending.iter().map(|p| p.activation.shallow_clone());
        activations.collect()
    }

    fn take_gradients(&mut self, gradients: &[Tensor]) {
        let pending = self.pending.drain(..).zip(gradients);
        for ((p, gradient), score) in pending.zip(&mut self.scores) {
            selection::accumulate(score, &(p.mismatch * gradient));
        }
    }

    fn end_epoch(&mut self, _net: &Net, _sgd: &Sgd) -> Result<(String, bool)> {
        self.epoch += 1;
        if self.settled || (self.epoch == self.epochs && self.epochs > 1) {
            let n = self.masks.n_kept();
            let note = format!(", {n} ReLUs kept, masks as they were");
            return Ok((note, self.settled));
        }
        let masks = self.select()?;
        let old = self.masks.masks();
        let moved = masks.iter().zip(old).map(|(a, b)| a.distance(b));
        let moved: Vec<f64> = moved.collect();
        let most = moved.iter().copied().fold(0.0, f64::max);
        let mean = moved.iter().sum::<f64>() / moved.len().max(1) as f64;
        self.masks = MaskSet::new(masks).on(self.teacher.device());
        self.narrow.clear();
        for score in &mut self.scores {
            let _ = score.zero_();
        }
        let n = self.masks.n_kept();
        let emptied = self.options.empty_layers == 0 || self.epoch >= self.half();
        let arrived = n <= self.budget.iter().sum() && emptied;
        let limit = self.options.stop_distance;
        self.settled = arrived && limit.is_some_and(|limit| most <= limit);
        let note =
            format!(", {n} ReLUs kept, masks moved by {mean:.3} on average and at most {most:.3}");
        Ok((note, false))
    }

    fn state(&self) -> State {
        let mut state = checkpoint::mask_state(self.masks.masks());
        let numbers: Vec<i64> = self.budget.iter().map(|&b| b as i64).collect();
        let closed: Vec<u8> = self.closed.iter().map(|&c| c.into()).collect();
        state.push(("search.epoch".into(), Tensor::from(self.epoch as i64)));
        state.push(("search.budget".into(), Tensor::from_slice(&numbers)));
        let settled = Tensor::from_slice(&[u8::from(self.settled)]);
        state.push(("search.settled".into(), settled));
        state.push(("search.closed".into(), Tensor::from_slice(&closed)));
        for (i, s) in self.scores.iter().enumerate() {
            state.push((format!("score.{i}"), s.shallow_clone()));
        }
        state
    }

    fn load_state(&mut self, _net: &Net, state: &State, path: &Path) -> Result<()> {
        let find = |name: &str, size: &[i64]| {
            let fits = |(n, t): &&(String, Tensor)| n == name && t.size() == size;
            state.iter().find(fits).map(|(_, t)| t).ok_or_else(|| {
                let what = format!("lacks {name} of shape {size:?}");
                Error::Checkpoint {
                    path: path.to_owned(),
                    what,
                }
            })
        };
        let n = self.budget.len() as i64;
        let masks = checkpoint::load_masks(&self.graph, state, path)?;
        self.masks = MaskSet::new(masks).on(self.teacher.device());
        self.epoch = i64::try_from(find("search.epoch", &[])?)? as usize;
        let budget = Vec::<i64>::try_from(find("search.budget", &[n])?)?;
        self.budget = budget.iter().map(|&b| b.max(0) as usize).collect();
        // Checkpoints of earlier versions stopped where this one settles.
        self.settled = match find("search.settled", &[1]) {
            Ok(t) => Vec::<u8>::try_from(t)? == [1],
            Err(_) => false,
        };
        let closed = Vec::<u8>::try_from(find("search.closed", &[n])?)?;
        self.closed = closed.iter().map(|&c| c != 0).collect();
        for (i, score) in self.scores.iter_mut().enumerate() {
            score.copy_(find(&format!("score.{i}"), &score.size())?);
        }
        Ok(())
    }

    fn accuracy(&self, net: &Net, batches: &Batches) -> f64 {
        evaluate::accuracy(net, &self.masks, batches)
    }
}
