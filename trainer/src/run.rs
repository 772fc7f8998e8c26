//! The loop that every training stage shares: minibatches, steps, progress, checkpoints, resume.
//!
//! A checkpoint is written every minute, after every epoch and on an interrupt, and holds all that the
//! next step depends on; on the same processor with the same number of threads a resumed run repeats
//! exactly what the stopped one would have done (on a GPU, up to the order in which its kernels add). No step waits for the device: loss and hits are summed there
//! and read about once a second, where the processor itself is not the device.

use crate::average::Copies;
use crate::checkpoint::{self, Size, State};
use crate::data::{Batches, Images};
use crate::device;
use crate::error::{Error, Result};
use crate::interrupt;
use crate::net::{Compute, Mode, Net};
use crate::optim::{Sgd, gradients};
pub use crate::recipe::{Epoch, Progress, Recipe};
use crate::whiten::Whitening;
use indicatif::{ProgressBar, ProgressStyle};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tch::{Device, Kind, Tensor};

/// What differs between stages.
pub trait Stage {
    /// Loss and class scores for one minibatch; `target` holds class indices, or probabilities where
    /// images are blended.
    fn loss(&mut self, net: &Net, x: &Tensor, target: &Tensor, mode: Mode) -> (Tensor, Tensor);
    /// Values within the network by which the last loss shall be differentiated too.
    fn probes(&self) -> Vec<Tensor> {
        Vec::new()
    }
    /// Takes the gradients by the probes.
    fn take_gradients(&mut self, _gradients: &[Tensor]) {}
    /// Called before every step with the share of the run's steps that are done.
    fn start_step(&mut self, _done: f64) {}
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
    fn load_state(&mut self, _net: &Net, _state: &State, _path: &Path) -> Result<()> {
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
    /// How checkpoints are written.
    pub size: Size,
}

/// What changes from step to step besides the network and the stage.
struct Changing {
    sgd: Sgd,
    average: Option<Copies>,
    best: Option<Copies>,
    /// Loss and correct predictions since the epoch began, on the device.
    sums: Tensor,
    read: Instant,
}

const CHECKPOINT_EVERY: Duration = Duration::from_secs(60);
const READ_EVERY: Duration = Duration::from_secs(1);
/// Images of a minibatch that is only evaluated.
const EVALUATED: usize = 250;

impl Run<'_> {
    /// Trains until the recipe's epochs are done; the result is the checkpoint file.
    pub fn train(&self, stage: &mut dyn Stage, mut progress: Progress) -> Result<Progress> {
        let recipe = progress.recipe.clone();
        recipe.check()?;
        let [_, h, w] = self.train.shape;
        if recipe.augment.crop_pad >= h.min(w) {
            return Err(Error::Usage(format!(
                "--crop-pad {}: less than the {h} x {w} pixels of an image",
                recipe.augment.crop_pad
            )));
        }
        let _alone = checkpoint::lock(&self.path)?;
        let _heeded = interrupt::heed();
        let mut changing = self.changing(&progress);
        if self.path.is_file() {
            if !self.resume {
                return Err(Error::Checkpoint {
                    path: self.path.clone(),
                    what: "exists; add --resume to go on with it, or choose another --out".into(),
                });
            }
            progress = self.load(stage, &mut changing, &progress)?;
        }
        let batches = self.batches(&progress)?;
        let n_batches = batches.n_batches();
        changing.sums = Tensor::from_slice(&progress.sums).to_device(self.net.device());
        let fresh = progress.epoch == 0 && progress.step == 0;
        if fresh && recipe.compute == Compute::Bf16 && !device::multiplies_bf16(self.net.device()) {
            eprintln!(
                "note: this processor does not multiply bf16 numbers itself; --compute f32 is faster here"
            );
        }
        let mut n_done = 0;
        let mut saved = Instant::now();
        while !progress.finished() {
            let epoch = batches.epoch(progress.epoch);
            let bar = bar(n_batches, progress.step, &recipe, progress.epoch);
            let mut clock = Instant::now();
            let (first, mut epoch_seconds) = (progress.step, 0.0);
            while progress.step < n_batches {
                if self.max_steps.is_some_and(|m| n_done >= m) {
                    self.save(stage, &mut changing, &mut progress)?;
                    return Ok(progress);
                }
                if interrupt::requested() {
                    self.save(stage, &mut changing, &mut progress)?;
                    return Err(Error::Interrupted(self.path.clone()));
                }
                let batch = batches.get(&epoch, progress.step);
                self.step(stage, &mut changing, &mut progress, batch, n_batches)?;
                n_done += 1;
                let seconds = clock.elapsed().as_secs_f64();
                clock = Instant::now();
                progress.seconds += seconds;
                epoch_seconds += seconds;
                bar.inc(1);
                let loss = progress.sums[0] / progress.step as f64;
                bar.set_message(format!("loss {loss:.3}"));
                if saved.elapsed() > CHECKPOINT_EVERY && progress.step < n_batches {
                    self.save(stage, &mut changing, &mut progress)?;
                    saved = Instant::now();
                }
            }
            // Waits for the device, so that the rate is an honest one.
            self.read(&mut changing, &mut progress)?;
            epoch_seconds += clock.elapsed().as_secs_f64();
            progress.seconds += clock.elapsed().as_secs_f64();
            bar.finish_and_clear();
            let rate = ((n_batches - first) * recipe.batch) as f64 / epoch_seconds.max(1e-9);
            clock = Instant::now();
            self.finish_epoch(stage, &mut changing, &mut progress, n_batches, rate)?;
            progress.seconds += clock.elapsed().as_secs_f64();
            self.save(stage, &mut changing, &mut progress)?;
            saved = Instant::now();
        }
        Ok(progress)
    }

    /// Optimizer, averages and sums at the start.
    fn changing(&self, progress: &Progress) -> Changing {
        let recipe = &progress.recipe;
        let sgd = Sgd::new(
            self.net,
            recipe.momentum,
            recipe.nesterov,
            recipe.weight_decay,
        );
        let whitening = Whitening::of(self.net, self.train, &progress.normaliser);
        Changing {
            sgd: sgd
                .with_shift_rate(recipe.shift_rate)
                .with_whitening(whitening),
            average: recipe.ema.map(|_| Copies::of(self.net, "average")),
            best: recipe.select_best.then(|| Copies::of(self.net, "best")),
            sums: Tensor::new(),
            read: Instant::now(),
        }
    }

    /// The training images in minibatches, of which there must be one.
    fn batches(&self, progress: &Progress) -> Result<Batches<'_>> {
        let recipe = &progress.recipe;
        let batches = Batches::training(
            self.train,
            &progress.normaliser,
            recipe.batch,
            recipe.seed,
            recipe.augment,
        )
        .on(self.net.device());
        if batches.n_batches() == 0 {
            let n = self.train.len();
            return Err(Error::Usage(format!(
                "{n} images are less than one batch of {}",
                recipe.batch
            )));
        }
        Ok(batches)
    }

    fn step(
        &self,
        stage: &mut dyn Stage,
        changing: &mut Changing,
        progress: &mut Progress,
        (x, labels): (Tensor, Tensor),
        n_batches: usize,
    ) -> Result<()> {
        let recipe = &progress.recipe;
        let mode = Mode {
            train: true,
            collect: false,
            compute: recipe.compute,
        };
        let at = (recipe.seed, progress.epoch, progress.step);
        let (x, target) = recipe.mix.apply(x, &labels, self.train.n_classes, at);
        let step = progress.epoch * n_batches + progress.step;
        let n_steps = recipe.epochs * n_batches;
        stage.start_step(step as f64 / n_steps as f64);
        let (loss, logits) = stage.loss(self.net, &x, &target, mode);
        let hits = logits.argmax(1, false).eq_tensor(&labels);
        let sums = [loss.detach().to_kind(Kind::Double), hits.sum(Kind::Double)];
        changing.sums += Tensor::stack(&sums, 0);
        if self.net.device() == Device::Cpu || changing.read.elapsed() > READ_EVERY {
            self.read(changing, progress)?;
        }
        let recipe = &progress.recipe;
        let (by_params, by_probes) = gradients(&loss, self.net, &stage.probes())?;
        stage.take_gradients(&by_probes);
        let lr = recipe.lr.at(step, n_steps);
        changing.sgd.step(self.net, &by_params, lr);
        stage.after_step(self.net);
        if let (Some(average), Some(decay)) = (&mut changing.average, recipe.ema) {
            average.average(self.net, decay, step);
        }
        progress.step += 1;
        Ok(())
    }

    /// Takes the sums from the device. What is no number stays none, so that it is found even late, and
    /// always before a checkpoint is written.
    fn read(&self, changing: &mut Changing, progress: &mut Progress) -> Result<()> {
        let sums = Vec::<f64>::try_from(&changing.sums)?;
        changing.read = Instant::now();
        let [loss, hits] = sums[..] else {
            return Ok(());
        };
        if !loss.is_finite() {
            return Err(self.diverged(loss, progress));
        }
        progress.sums = [loss, hits];
        Ok(())
    }

    fn diverged(&self, value: f64, progress: &Progress) -> Error {
        Error::Diverged {
            value,
            epoch: progress.epoch + 1,
            path: self.path.clone(),
        }
    }

    fn finish_epoch(
        &self,
        stage: &mut dyn Stage,
        changing: &mut Changing,
        progress: &mut Progress,
        n_batches: usize,
        rate: f64,
    ) -> Result<()> {
        // Measured before the stage changes anything, such as the masks that the weights grew under.
        if let Some(average) = &mut changing.average {
            average.swap(self.net);
        }
        progress.holdout_accuracy = self.holdout.map(|images| {
            let batches = Batches::plain(images, &progress.normaliser, EVALUATED);
            stage.accuracy(self.net, &batches.on(self.net.device()))
        });
        if let (Some(best), Some(accuracy)) = (&mut changing.best, progress.holdout_accuracy)
            && progress.best.is_none_or(|(_, b)| accuracy > b)
        {
            progress.best = Some((progress.epoch + 1, accuracy));
            best.take(self.net);
        }
        let holdout = progress.holdout_accuracy.map(|a| 100.0 * a);
        if let Some(average) = &mut changing.average {
            average.swap(self.net);
        }
        let (note, stop) = stage.end_epoch(self.net, &changing.sgd)?;
        // At the end the result goes into the network; before, training goes on with the weights it had.
        if stop || progress.epoch + 1 == progress.recipe.epochs {
            match (&mut changing.best, &mut changing.average) {
                (Some(best), _) => {
                    best.swap(self.net);
                    progress.holdout_accuracy = progress.best.map(|(_, a)| a);
                }
                (None, Some(average)) => average.swap(self.net),
                (None, None) => {}
            }
        }
        let recipe = &progress.recipe;
        let epoch = Epoch {
            stage: recipe.stage.clone(),
            loss: progress.sums[0] / n_batches as f64,
            train: 100.0 * progress.sums[1] / (n_batches * recipe.batch) as f64,
            holdout,
            rate,
            note,
        };
        let held = epoch.holdout.map(|a| format!(", held-out {a:.2} %"));
        eprintln!(
            "{} epoch {}/{}: loss {:.4}, train {:.2} %{}, {rate:.0} images/s{}",
            recipe.stage,
            progress.epoch + 1,
            recipe.epochs,
            epoch.loss,
            epoch.train,
            held.unwrap_or_default(),
            epoch.note
        );
        progress.curve.push(epoch);
        progress.sums = [0.0; 2];
        let _ = changing.sums.zero_();
        progress.step = 0;
        progress.epoch += 1;
        if stop {
            progress.epoch = progress.recipe.epochs;
        }
        Ok(())
    }

    fn save(
        &self,
        stage: &dyn Stage,
        changing: &mut Changing,
        progress: &mut Progress,
    ) -> Result<()> {
        self.read(changing, progress)?;
        let mut state = self.net.state();
        // A gradient may overflow where the loss does not, and nothing may replace a good checkpoint then.
        let sums: Vec<Tensor> = state.iter().map(|(_, t)| t.sum(Kind::Double)).collect();
        let sum = Tensor::stack(&sums, 0).sum(Kind::Double).double_value(&[]);
        if !sum.is_finite() {
            return Err(self.diverged(sum, progress));
        }
        state.extend(stage.state());
        if !progress.finished() {
            state.extend(changing.sgd.state(self.net));
            for copies in [&changing.average, &changing.best].into_iter().flatten() {
                state.extend(copies.state(self.net));
            }
        }
        checkpoint::save(&self.path, &*progress, &state, self.size)
    }

    fn load(
        &self,
        stage: &mut dyn Stage,
        changing: &mut Changing,
        fresh: &Progress,
    ) -> Result<Progress> {
        let (old, state): (Progress, State) = checkpoint::load(&self.path)?;
        let mut differences = fresh.recipe.differences(&old.recipe)?;
        if old.data_checksum != fresh.data_checksum {
            differences.push("other training images".into());
        }
        if !differences.is_empty() {
            return Err(Error::Checkpoint {
                path: self.path.clone(),
                what: format!(
                    "was made with other settings or data; repeat those, or choose another --out:\n  {}",
                    differences.join("\n  ")
                ),
            });
        }
        self.net.load_state(&state)?;
        if !old.finished() {
            changing.sgd.load_state(self.net, &state);
            let copies = [&mut changing.average, &mut changing.best];
            for copies in copies.into_iter().flatten() {
                copies.load_state(self.net, &state, &self.path)?;
            }
        }
        stage.load_state(self.net, &state, &self.path)?;
        if !old.finished() && old.device != fresh.device {
            eprintln!(
                "note: begun on {}, goes on on {}: its numbers will differ in their last digits from those of a run on one",
                old.device, fresh.device
            );
        }
        Ok(Progress {
            device: fresh.device.clone(),
            ..old
        })
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
