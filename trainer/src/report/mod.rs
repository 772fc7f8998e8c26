//! What came out of a run, and the report over several: one JSON file and one page of HTML.

mod labels;
mod page;
mod published;

pub use labels::{Labels, labels};
pub use page::{Entry, page};
pub use published::{Line, lines};

use crate::checkpoint::write_atomic;
use crate::device;
use crate::error::{Error, Result, io_error};
use crate::net::{Graph, Mask};
use crate::recipe::{Epoch, Progress, Recipe};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// One ReLU layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Layer {
    /// Name.
    pub name: String,
    /// Positions.
    pub relus_total: usize,
    /// Positions that keep their ReLU.
    pub relus_kept: usize,
}

/// A finished stage and how good it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Outcome {
    /// Settings of the stage.
    pub recipe: Recipe,
    /// Settings of the stages before it, oldest first.
    pub history: Vec<Recipe>,
    /// Positions; the stem's count, the classifier has none.
    pub relus_total: usize,
    /// Positions that keep their ReLU.
    pub relus_kept: usize,
    /// Layer by layer.
    pub layers: Vec<Layer>,
    /// Layers without a ReLU; each saves the private inference a round trip.
    pub n_empty_layers: usize,
    /// Float accuracy on the test set, percent.
    pub test_accuracy: f64,
    /// Accuracy of the exported integers on the test set by the plaintext executor, percent, once exported.
    #[serde(default)]
    pub fixed_accuracy: Option<f64>,
    /// Images of the test set.
    pub n_test: usize,
    /// Which weights these are.
    pub selection: String,
    /// Accuracy on the held-out training images, percent.
    pub holdout_accuracy: Option<f64>,
    /// Hours of training, earlier stages included.
    pub hours: f64,
    /// Where it was trained.
    pub device: String,
    /// SHA-256 of the training files.
    pub data_checksum: String,
    /// The learning curve, earlier stages included.
    pub curve: Vec<Epoch>,
    /// Width factor of this form of the network.
    pub width: f64,
}

impl Outcome {
    /// Of a network whose accuracy was measured.
    pub fn new(
        graph: &Graph,
        masks: &[Mask],
        progress: &Progress,
        test_accuracy: f64,
        n_test: usize,
    ) -> Outcome {
        let layer = |(name, m): (String, &Mask)| Layer {
            name,
            relus_total: m.keep.len(),
            relus_kept: m.n_kept(),
        };
        let layers: Vec<Layer> = graph
            .relu_names()
            .into_iter()
            .zip(masks)
            .map(layer)
            .collect();
        Outcome {
            recipe: progress.recipe.clone(),
            history: progress.history.clone(),
            relus_total: layers.iter().map(|l| l.relus_total).sum(),
            relus_kept: layers.iter().map(|l| l.relus_kept).sum(),
            n_empty_layers: layers.iter().filter(|l| l.relus_kept == 0).count(),
            layers,
            test_accuracy,
            fixed_accuracy: None,
            n_test,
            selection: progress.selection(),
            holdout_accuracy: progress.holdout_accuracy.map(|a| 100.0 * a),
            hours: (progress.earlier_seconds + progress.seconds) / 3600.0,
            device: if progress.device.is_empty() {
                device::describe(tch::Device::Cpu)
            } else {
                progress.device.clone()
            },
            data_checksum: progress.data_checksum.clone(),
            curve: progress.curve.clone(),
            width: 1.0,
        }
    }

    /// The file that [`Outcome::save`] writes for a checkpoint.
    pub fn path(checkpoint: &Path, width: usize) -> PathBuf {
        match width {
            0 => checkpoint.with_extension("result.json"),
            i => checkpoint.with_extension(format!("width{i}.result.json")),
        }
    }

    /// Takes over what an export measured of the same network before, from an earlier record of it.
    pub fn keep_fixed(&mut self, earlier: &Path) {
        if let Ok(old) = Outcome::load(earlier)
            && old.recipe == self.recipe
            && old.test_accuracy == self.test_accuracy
        {
            self.fixed_accuracy = old.fixed_accuracy;
        }
    }

    /// Writes it beside the checkpoint.
    pub fn save(mut self, checkpoint: &Path, width: usize) -> Result<()> {
        if let Some(&factor) = width.checked_sub(1).and_then(|i| self.recipe.widths.get(i)) {
            self.width = factor;
        }
        let json = serde_json::to_vec_pretty(&self)?;
        write_atomic(&Outcome::path(checkpoint, width), &json)
    }

    /// Adds what an export measured to the file beside the checkpoint, if there is one.
    pub fn add_fixed(checkpoint: &Path, width: usize, accuracy: f64) -> Result<()> {
        if !Outcome::path(checkpoint, width).is_file() {
            return Ok(());
        }
        let mut outcome = Outcome::load(&Outcome::path(checkpoint, width))?;
        outcome.fixed_accuracy = Some(accuracy);
        outcome.save(checkpoint, width)
    }

    /// Reads one file.
    pub fn load(path: &Path) -> Result<Outcome> {
        let bytes = std::fs::read(path).map_err(io_error(path))?;
        serde_json::from_slice(&bytes).map_err(|e| Error::Data {
            path: path.to_owned(),
            offset: 0,
            what: format!("line {}, column {}: {e}", e.line(), e.column()),
        })
    }

    /// A short name for charts: selection (where the stage before was a search), budget and seed.
    pub fn label(&self) -> String {
        let stages = self.history.iter().chain([&self.recipe]);
        let choices: Vec<&String> = stages.flat_map(|r| &r.choices).collect();
        let of = |key: &str| {
            let found = choices
                .iter()
                .find_map(|c| c.strip_prefix(key)?.strip_prefix('='));
            found.map(str::to_owned)
        };
        let mut label = match of("selection").or_else(|| of("score")) {
            // What earlier versions called the published score.
            Some(name) if name == "output" => "senet".into(),
            Some(name) => name,
            None => self.recipe.stage.clone(),
        };
        if of("budgets_from_scores").as_deref() == Some("true") {
            label.push_str(", budgets from scores");
        }
        match of("empty_layers").as_deref() {
            None | Some("0") => {}
            Some(n) => label.push_str(&format!(", {n} layers emptied")),
        }
        if self.width < 1.0 {
            label.push_str(&format!(", width {}", self.width));
        }
        label
    }
}
