//! The loop that every training stage shares: minibatches, steps, progress, checkpoints, resume.
//!
//! A checkpoint is written every minute and after every epoch, and holds all that the next step
//! depends on; a resumed run repeats exactly what the stopped one would have done.

use crate::checkpoint::{self, State};
use crate::data::{Augment, Batches, Images, Normaliser};
use crate::error::{Error, Result};
use crate::net::{Compute, Mode, Net};
use crate::optim::{OneCycle, Sgd};
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tch::{Kind, Tensor};

/// What a stage is trained with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// Stage name: `teacher`, `search` or `finetune`.
    pub stage: String,
    /// Image set.
    pub dataset: String,
    /// Architecture.
    pub arch: String,
    /// Passes over the training images.
    pub epochs: usize,
    /// Images a minibatch.
    pub batch: usize,
    /// Learning rate over time.
    pub lr: OneCycle,
    /// Momentum.
    pub momentum: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// Label smoothing of the cross-entropy.
    pub label_smoothing: f64,
    /// Random crop and flip.
    pub augment: Augment,
    /// Number type of the convolutions.
    pub compute: Compute,
    /// Seed of initial weights, order, crops and flips.
    pub seed: u64,
    /// Training images held out from the end of the set.
    pub holdout: usize,
    /// ReLUs to keep; none for the all-ReLU teacher.
    pub relu_budget: Option<usize>,
    /// Choices of the stage beyond these, as `name=value`.
    #[serde(default)]
    pub choices: Vec<String>,
}

/// Where a run stands; the record of a checkpoint.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Progress {
    /// What it is trained with.
    pub recipe: Recipe,
    /// Next epoch.
    pub epoch: usize,
    /// Next minibatch of that epoch.
    pub step: usize,
    /// Seconds of training so far.
    pub seconds: f64,
    /// Seconds of the stages before.
    #[serde(default)]
    pub earlier_seconds: f64,
    /// Pixel normalisation.
    pub normaliser: Normaliser,
    /// SHA-256 of the training files.
    pub data_checksum: String,
    /// Settings of the earlier stages, oldest first.
    pub history: Vec<Recipe>,
    /// Commands that led here, oldest first.
    pub commands: Vec<String>,
    /// Accuracy on the held-out training images after the last epoch, if any were held out.
    pub holdout_accuracy: Option<f64>,
    /// Sums since the epoch began: loss and correct training predictions.
    pub sums: [f64; 2],
}

impl Progress {
    /// True when every epoch is done.
    pub fn finished(&self) -> bool {
        self.epoch >= self.recipe.epochs
    }
}

/// What differs between stages.
pub trait Stage {
    /// Loss and class scores for one minibatch.
    fn loss(&mut self, net: &Net, x: &Tensor, labels: &Tensor, mode: Mode) -> (Tensor, Tensor);
    /// Called after every update of the weights.
    fn after_step(&mut self, _net: &Net) {}
    /// Called after every epoch; returns a note for the log and whether to stop early.
    fn end_epoch(&mut self, _net: &Net, _sgd: &Sgd) -> Result<(String, bool)> {
        Ok((String::new(), false))
    }
    /// Tensors to keep in the checkpoint besides the network's.
    fn state(&self) -> State {
        Vec::new()
    }
    /// Takes them back.
    fn load_state(&mut self, _state: &State, _path: &Path) -> Result<()> {
        Ok(())
    }
    /// Accuracy on images, for the held-out part.
    fn accuracy(&self, net: &Net, batches: &Batches) -> f64;
}

/// A training run of one stage.
pub struct Run<'a> {
    /// The network being trained.
    pub net: &'a Net,
    /// Training images, the held-out part already removed.
    pub train: &'a Images,
    /// Held-out training images.
    pub holdout: Option<&'a Images>,
    /// The checkpoint file, which becomes the result.
    pub path: PathBuf,
    /// Start from the checkpoint if there is one.
    pub resume: bool,
    /// Stop after this many steps in this process (tests).
    pub max_steps: Option<usize>,
}

const CHECKPOINT_EVERY: Duration = Duration::from_secs(60);

impl Run<'_> {
    /// Trains until the recipe's epochs are done; the result is the checkpoint file.
    pub fn train(&self, stage: &mut dyn Stage, mut progress: Progress) -> Result<Progress> {
        let recipe = progress.recipe.clone();
        let mut sgd = Sgd::new(self.net, recipe.momentum, recipe.weight_decay);
        if self.path.is_file() {
            if !self.resume {
                return Err(Error::Checkpoint {
                    path: self.path.clone(),
                    what: "exists; add --resume to go on with it, or choose another --out".into(),
                });
            }
            progress = self.load(stage, &mut sgd, &progress)?;
        }
        let batches = Batches::training(
            self.train,
            &progress.normaliser,
            recipe.batch,
            recipe.seed,
            recipe.augment,
        );
        let n_batches = batches.n_batches();
        if n_batches == 0 {
            let n = self.train.len();
            return Err(Error::Usage(format!(
                "{n} images are less than one batch of {}",
                recipe.batch
            )));
        }
        let mode = Mode {
            train: true,
            collect: false,
            compute: recipe.compute,
        };
        let mut n_done = 0;
        let mut saved = Instant::now();
        while !progress.finished() {
            let order = batches.order(progress.epoch);
            let bar = bar(n_batches, progress.step, &recipe, progress.epoch);
            let mut epoch_clock = Instant::now();
            let (first, mut epoch_seconds) = (progress.step, 0.0);
            while progress.step < n_batches {
                if self.max_steps.is_some_and(|m| n_done >= m) {
                    self.save(stage, &sgd, &progress)?;
                    return Ok(progress);
                }
                let (x, labels) = batches.get(&order, progress.epoch, progress.step);
                let (loss, logits) = stage.loss(self.net, &x, &labels, mode);
                loss.backward();
                let lr = recipe.lr.at(
                    progress.epoch * n_batches + progress.step,
                    recipe.epochs * n_batches,
                );
                sgd.step(self.net, lr);
                stage.after_step(self.net);
                let value = loss.double_value(&[]);
                if !value.is_finite() {
                    return Err(Error::Usage(format!(
                        "the loss became {value} in epoch {}; lower --lr",
                        progress.epoch + 1
                    )));
                }
                let hits = logits
                    .argmax(1, false)
                    .eq_tensor(&labels)
                    .sum(Kind::Int64)
                    .int64_value(&[]);
                progress.sums[0] += value;
                progress.sums[1] += hits as f64;
                progress.step += 1;
                n_done += 1;
                let seconds = epoch_clock.elapsed().as_secs_f64();
                epoch_clock = Instant::now();
                progress.seconds += seconds;
                epoch_seconds += seconds;
                bar.inc(1);
                bar.set_message(format!(
                    "loss {:.3}",
                    progress.sums[0] / progress.step as f64
                ));
                if saved.elapsed() > CHECKPOINT_EVERY && progress.step < n_batches {
                    self.save(stage, &sgd, &progress)?;
                    saved = Instant::now();
                }
            }
            bar.finish_and_clear();
            let rate = ((n_batches - first) * recipe.batch) as f64 / epoch_seconds.max(1e-9);
            let stop = self.finish_epoch(stage, &sgd, &mut progress, n_batches, rate)?;
            self.save(stage, &sgd, &progress)?;
            saved = Instant::now();
            if stop {
                break;
            }
        }
        Ok(progress)
    }

    fn finish_epoch(
        &self,
        stage: &mut dyn Stage,
        sgd: &Sgd,
        progress: &mut Progress,
        n_batches: usize,
        rate: f64,
    ) -> Result<bool> {
        let recipe = &progress.recipe;
        let (note, stop) = stage.end_epoch(self.net, sgd)?;
        progress.holdout_accuracy = self.holdout.map(|images| {
            stage.accuracy(self.net, &Batches::plain(images, &progress.normaliser, 250))
        });
        let held = progress
            .holdout_accuracy
            .map(|a| format!(", held-out {:.2} %", 100.0 * a));
        println!(
            "{} epoch {}/{}: loss {:.4}, train {:.2} %{}, {rate:.0} images/s{note}",
            recipe.stage,
            progress.epoch + 1,
            recipe.epochs,
            progress.sums[0] / n_batches as f64,
            100.0 * progress.sums[1] / (n_batches * recipe.batch) as f64,
            held.unwrap_or_default(),
        );
        progress.sums = [0.0; 2];
        progress.step = 0;
        progress.epoch += 1;
        if stop {
            progress.epoch = progress.recipe.epochs;
        }
        Ok(stop)
    }

    fn save(&self, stage: &dyn Stage, sgd: &Sgd, progress: &Progress) -> Result<()> {
        let mut state = self.net.state();
        state.extend(stage.state());
        if !progress.finished() {
            state.extend(sgd.state(self.net));
        }
        checkpoint::save(&self.path, progress, &state)
    }

    fn load(&self, stage: &mut dyn Stage, sgd: &mut Sgd, fresh: &Progress) -> Result<Progress> {
        let (old, state): (Progress, State) = checkpoint::load(&self.path)?;
        if old.recipe != fresh.recipe || old.data_checksum != fresh.data_checksum {
            return Err(Error::Checkpoint {
                path: self.path.clone(),
                what: format!(
                    "was made with other settings or data; repeat those or choose another --out\n  there: {:?}\n  here:  {:?}",
                    old.recipe, fresh.recipe
                ),
            });
        }
        self.net.load_state(&state)?;
        sgd.load_state(self.net, &state);
        stage.load_state(&state, &self.path)?;
        Ok(old)
    }
}

fn bar(n_batches: usize, step: usize, recipe: &Recipe, epoch: usize) -> ProgressBar {
    let bar = ProgressBar::new(n_batches as u64).with_position(step as u64);
    let template = "{prefix} {bar:30} {pos}/{len} {per_sec} {eta} {msg}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_prefix(format!("{} {}/{}", recipe.stage, epoch + 1, recipe.epochs));
    bar
}
