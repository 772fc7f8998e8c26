//! The models of a suite, on disk, with what a report says about them.

use std::path::{Path, PathBuf};

use pi_model::spec::OutputMode;
use pi_model::{Model, PublicPlan};
use pi_protocol::cost::Cost;
use pi_protocol::session::SessionOptions;

use crate::error::BenchError;
use crate::predict;
use crate::result::ModelInfo;
use crate::suite::{ModelEntry, Suite};

/// A model on disk with what a report says about it.
pub struct Subject {
    /// Folder.
    pub dir: PathBuf,
    /// For the report.
    pub info: ModelInfo,
    /// Its plan for the suite's batch.
    pub plan: PublicPlan,
    /// How its sessions make OTs and garble.
    pub options: SessionOptions,
    /// How long it took to make it.
    pub plan_s: f64,
}

/// The models of an entry, random ones written to `temporary`.
fn models(entry: &ModelEntry, temporary: &Path) -> Result<Vec<(PathBuf, Model)>, BenchError> {
    let Some(arch) = entry.arch else {
        let dir = entry.path.clone().unwrap_or_default();
        if !dir.join("model.json").exists() {
            return Err(BenchError::UnknownModel {
                name: dir.display().to_string(),
                known: "the shapes tiny, resnet8, resnet20, resnet32, resnet18, resnet18-64, resnet50, squeezenet (`arch`); --models names the folder that \
                        holds the trained models of a suite"
                    .into(),
            });
        }
        let model = Model::load(&dir)?;
        return Ok(vec![(dir, model)]);
    };
    let mode = if entry.argmax {
        OutputMode::Argmax
    } else {
        OutputMode::Logits
    };
    let budgets = match entry.budgets.as_slice() {
        [] => &[usize::MAX],
        budgets => budgets,
    };
    let mut made = Vec::new();
    for &budget in budgets {
        let text = if budget == usize::MAX {
            "all".to_owned()
        } else {
            budget.to_string()
        };
        let argmax = if entry.argmax { "-argmax" } else { "" };
        let name = format!("{}-relu{text}{argmax}", arch.name());
        let model = arch.build(&name, budget, mode)?;
        let dir = temporary.join(&name);
        model.save(&dir)?;
        made.push((dir, model));
    }
    Ok(made)
}

impl Subject {
    /// All models of a suite; random ones are written to `temporary`.
    ///
    /// # Errors
    /// [`BenchError::UnknownModel`], [`BenchError::Model`].
    pub fn of_suite(suite: &Suite, temporary: &Path) -> Result<Vec<Self>, BenchError> {
        let mut subjects = Vec::new();
        for entry in &suite.models {
            for (dir, model) in models(entry, temporary)? {
                subjects.push(Self::new(dir, &model, suite)?);
            }
        }
        Ok(subjects)
    }

    fn new(dir: PathBuf, model: &Model, suite: &Suite) -> Result<Self, BenchError> {
        let (batch, options) = (suite.batch, suite.options());
        let started = std::time::Instant::now();
        let plan = PublicPlan::new(model.public(), batch)?;
        let plan_s = started.elapsed().as_secs_f64();
        let cost = Cost::with_options(&plan, options)?;
        let work = cost.total_work();
        let (spec, graph) = (model.public().spec(), model.public().graph());
        let mut hash = blake3::Hasher::new();
        for file in ["model.json", "model.safetensors"] {
            let path = dir.join(file);
            hash.update(&std::fs::read(&path).map_err(BenchError::file(&path))?);
        }
        let layers = graph.layers.iter();
        let info = ModelInfo {
            name: spec.name.clone(),
            architecture: spec.card.architecture.clone(),
            dataset: spec.card.dataset.clone(),
            checksum: hash.finalize().to_hex().to_string(),
            relus_total: layers.map(|l| model.public().possible_relus(l)).sum(),
            relus_kept: graph.n_relus(),
            accuracy: spec.card.fixed_accuracy,
            and_gates: work.n_and_gates / batch as u64,
            ots: work.n_ots / batch as u64,
            ciphertexts: work.n_ciphertexts,
            multiply_adds: predict::multiply_adds(&plan),
        };
        Ok(Self {
            dir,
            info,
            plan,
            options,
            plan_s,
        })
    }
}
