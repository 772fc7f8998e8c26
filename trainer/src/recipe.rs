//! What a stage is trained with, and where a run of it stands; the record of a checkpoint.

use crate::data::{Augment, Mix, Normaliser};
use crate::error::{Error, Result};
use crate::net::Compute;
use crate::optim::Schedule;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

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
    pub lr: Schedule,
    /// Momentum.
    pub momentum: f64,
    /// Nesterov's form of it.
    #[serde(default = "yes")]
    pub nesterov: bool,
    /// Weight decay.
    pub weight_decay: f64,
    /// Factor of the learning rate of BatchNorm's shifts.
    #[serde(default = "one")]
    pub shift_rate: f64,
    /// Label smoothing of the cross-entropy.
    pub label_smoothing: f64,
    /// Random crop and flip.
    pub augment: Augment,
    /// Blends of two images.
    #[serde(default)]
    pub mix: Mix,
    /// Decay of the running average of the weights, which then is the result; none for the weights.
    #[serde(default)]
    pub ema: Option<f64>,
    /// Number type of the convolutions.
    pub compute: Compute,
    /// Seed of initial weights, order, crops and flips.
    pub seed: u64,
    /// Training images held out from the end of the set.
    pub holdout: usize,
    /// Only the first images of the set are used, of which some are then held out.
    #[serde(default)]
    pub limit: Option<usize>,
    /// The result is the epoch that does best on the held-out images, not the last one.
    #[serde(default)]
    pub select_best: bool,
    /// Width factors of the narrower forms that train along.
    #[serde(default)]
    pub widths: Vec<f64>,
    /// ReLUs to keep; none for the all-ReLU teacher.
    pub relu_budget: Option<usize>,
    /// Choices of the stage beyond these, as `name=value`.
    #[serde(default)]
    pub choices: Vec<String>,
}

/// What earlier versions did without saying so.
fn yes() -> bool {
    true
}

fn one() -> f64 {
    1.0
}

/// The choice that marks a teacher which another program trained.
pub const IMPORTED: &str = "imported=true";

/// The choice that says that its shortcuts had no parameters.
pub const OPTION_A: &str = "shortcuts=option-a";

/// Choices that records of earlier versions lack, because there was nothing to choose.
const LATER: [&str; 1] = ["densities"];

impl Recipe {
    /// Refuses numbers that no training can use.
    pub fn check(&self) -> Result<()> {
        let share = |v: f64| (0.0..1.0).contains(&v);
        let amount = |v: f64| v.is_finite() && v >= 0.0;
        let rules = [
            (self.epochs > 0, "--epochs: at least 1"),
            (self.batch > 0, "--batch: at least 1"),
            (
                self.lr.peak.is_finite() && self.lr.peak > 0.0,
                "--lr: above 0",
            ),
            (share(self.lr.warmup), "--warmup: a share from 0 to below 1"),
            (amount(self.weight_decay), "--weight-decay: 0 or more"),
            (amount(self.shift_rate), "--shift-rate: 0 or more"),
            (
                share(self.label_smoothing),
                "--label-smoothing: a share from 0 to below 1",
            ),
            (
                self.ema.is_none_or(|d| d > 0.0 && d < 1.0),
                "--ema: between 0 and 1, such as 0.999",
            ),
            (amount(self.mix.mixup), "--mixup: 0 or more"),
            (amount(self.mix.cutmix), "--cutmix: 0 or more"),
        ];
        match rules.into_iter().find(|(kept, _)| !kept) {
            Some((_, rule)) => Err(Error::Usage(rule.into())),
            None => Ok(()),
        }
    }

    /// A teacher that another program trained: of these settings only the images are known.
    pub fn imported(&self) -> bool {
        self.choices.iter().any(|c| c == IMPORTED)
    }

    /// Images from the start of a set of `n_all` that training saw; the held-out ones follow.
    pub fn n_seen(&self, n_all: usize) -> usize {
        let n = self.limit.map_or(n_all, |limit| limit.min(n_all));
        n.saturating_sub(self.holdout)
    }

    /// What differs between two recipes, as `name: value here, value there`.
    pub fn differences(&self, other: &Recipe) -> Result<Vec<String>> {
        let fields = |r: &Recipe| match serde_json::to_value(r)? {
            serde_json::Value::Object(map) => Ok::<_, Error>(map),
            _ => Ok(serde_json::Map::new()),
        };
        let (mine, theirs) = (fields(self)?, fields(other)?);
        let differ = |(key, a): (&String, &serde_json::Value)| {
            let b = theirs.get(key)?;
            (key != "choices" && a != b).then(|| format!("{key}: {a} here, {b} there"))
        };
        let mut all: Vec<String> = mine.iter().filter_map(differ).collect();
        // One by one.
        let split = |r: &'_ Recipe| -> Vec<(String, String)> {
            let pairs = r.choices.iter().filter_map(|c| c.split_once('='));
            pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
        };
        let theirs: HashMap<String, String> = split(other).into_iter().collect();
        let mine = split(self);
        for (key, a) in &mine {
            match theirs.get(key) {
                Some(b) if b != a => all.push(format!("{key}={a} here, {key}={b} there")),
                None if !LATER.contains(&key.as_str()) => {
                    all.push(format!("{key}={a} here, no {key} there"));
                }
                _ => {}
            }
        }
        let gone = |(key, _): &&(String, String)| !mine.iter().any(|(k, _)| k == key);
        for (key, b) in split(other).iter().filter(gone) {
            all.push(format!("no {key} here, {key}={b} there"));
        }
        Ok(all)
    }
}

/// One epoch of the learning curve.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// Stage name.
    pub stage: String,
    /// Mean training loss.
    pub loss: f64,
    /// Training accuracy, percent, over the epoch and its augmentation.
    pub train: f64,
    /// Accuracy on the held-out images, percent.
    pub holdout: Option<f64>,
    /// Images a second.
    pub rate: f64,
    /// What the stage noted, such as how far the masks moved.
    pub note: String,
}

/// Where a run stands.
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
    /// Where it is trained.
    #[serde(default)]
    pub device: String,
    /// Settings of the earlier stages, oldest first.
    pub history: Vec<Recipe>,
    /// Commands that led here, oldest first.
    pub commands: Vec<String>,
    /// Accuracy on the held-out training images, if any were held out: after the last epoch, and in the
    /// end of the weights that are the result.
    pub holdout_accuracy: Option<f64>,
    /// Sums since the epoch began: loss and correct training predictions.
    pub sums: [f64; 2],
    /// The epoch (counted from 1) that did best on the held-out images, and its accuracy.
    #[serde(default)]
    pub best: Option<(usize, f64)>,
    /// The learning curve, earlier stages included.
    #[serde(default)]
    pub curve: Vec<Epoch>,
}

impl Progress {
    /// Before the first step.
    pub fn new(recipe: Recipe, normaliser: Normaliser, data_checksum: String) -> Progress {
        Progress {
            recipe,
            epoch: 0,
            step: 0,
            seconds: 0.0,
            earlier_seconds: 0.0,
            normaliser,
            data_checksum,
            device: String::new(),
            history: vec![],
            commands: vec![],
            holdout_accuracy: None,
            sums: [0.0; 2],
            best: None,
            curve: vec![],
        }
    }

    /// True when every epoch is done.
    pub fn finished(&self) -> bool {
        self.epoch >= self.recipe.epochs
    }

    /// Images from the start of a set of `n_all` that any stage saw.
    pub fn n_seen(&self, n_all: usize) -> usize {
        let stages = self.history.iter().chain([&self.recipe]);
        stages.map(|r| r.n_seen(n_all)).max().unwrap_or(n_all)
    }

    /// Which images choices between epochs, and between runs such as this one, can rest on.
    pub fn chosen_on(&self) -> String {
        let stages = || self.history.iter().chain([&self.recipe]);
        let imported = match stages().any(|r| r.imported()) {
            true => ". What the training of the imported teacher chose by is not known here",
            false => "",
        };
        match stages().map(|r| r.holdout).min() {
            Some(n) if n > 0 => format!(
                "{n} training images were held out in every stage to choose by; the test images were read only to report{imported}"
            ),
            _ if self.recipe.imported() => format!("No image was held out{imported}"),
            _ => format!(
                "No image was held out in every stage: no epoch was chosen by test images, but runs like this one can be compared by their test accuracy alone{imported}"
            ),
        }
    }

    /// Which weights are the result, for cards and reports.
    pub fn selection(&self) -> String {
        if self.recipe.imported() {
            let option_a = self.recipe.choices.iter().any(|c| c == OPTION_A);
            return match option_a {
                true => "Weights as they were imported, with 1x1 convolutions that select for shortcuts without parameters (option A)".into(),
                false => "Weights as they were imported".into(),
            };
        }
        let weights = match self.recipe.ema {
            Some(decay) => format!("Averaged weights (decay {decay})"),
            None => "Weights".into(),
        };
        match self.best.filter(|_| self.recipe.select_best) {
            Some((epoch, accuracy)) => format!(
                "{weights} after epoch {epoch} of {}, the best on {} held-out training images ({:.2} %)",
                self.recipe.epochs,
                self.recipe.holdout,
                100.0 * accuracy
            ),
            None => format!("{weights} after the last epoch"),
        }
    }
}
