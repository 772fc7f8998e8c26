//! What the server says about the model and what a query will cost, as plain data. Bytes are payloads, both directions.

use pi_client::session::DEFAULT_BATCH;
use pi_client::{ClientError, Description};
use pi_model::PublicPlan;
use pi_model::spec::OutputMode;
use pi_protocol::cost::Cost;
use pi_protocol::ledger::{Direction, Phase};
use pi_protocol::session::SessionOptions;
use pyo3::IntoPyObject;

/// Becomes a dictionary, and then the fields of `private_inference.Description`.
#[derive(IntoPyObject)]
pub(crate) struct Facts {
    model: String,
    architecture: String,
    dataset: String,
    input_shape: (usize, usize, usize),
    mean: Vec<f64>,
    std: Vec<f64>,
    range: Option<(f64, f64)>,
    labels: Vec<String>,
    output: &'static str,
    relus_kept: usize,
    relus_total: usize,
    accuracy: Option<f64>,
    server_version: String,
    max_batch: usize,
    max_prepared: usize,
    batch: usize,
    setup_bytes: u64,
    offline_bytes: u64,
    offline_bytes_in_batch: u64,
    online_bytes: u64,
    offline_round_trips: u64,
    online_round_trips: u64,
}

impl Facts {
    /// Plans the model for one image and for the usual batch; seconds for a large network.
    pub(crate) fn of(description: &Description) -> Result<Self, ClientError> {
        let cost = |batch| -> Result<Cost, ClientError> {
            let plan = PublicPlan::with_goal(&description.model, batch, description.packing)?;
            Ok(Cost::of(&plan)?)
        };
        let max_batch = description.largest_batch(SessionOptions::default());
        let batch = max_batch.min(DEFAULT_BATCH);
        let (one, many) = (cost(1)?, cost(batch)?);
        let bytes =
            |c: &Cost, phase| c.bytes(phase, Direction::Up) + c.bytes(phase, Direction::Down);
        let spec = description.model.spec();
        let (card, input) = (&spec.card, &spec.input);
        Ok(Self {
            model: spec.name.clone(),
            architecture: card.architecture.clone(),
            dataset: card.dataset.clone(),
            input_shape: (input.channels, input.height, input.width),
            mean: input.mean.clone(),
            std: input.std.clone(),
            range: input.range.map(|[low, high]| (low, high)),
            labels: spec.labels.clone(),
            output: match spec.output {
                OutputMode::Logits if !description.model.has_classes() => "values",
                OutputMode::Logits => "logits",
                OutputMode::Argmax => "class",
            },
            relus_kept: card.relus_kept,
            relus_total: card.relus_total,
            accuracy: card.fixed_accuracy.or(card.float_accuracy),
            server_version: description.server_version.clone(),
            max_batch,
            max_prepared: description.max_prepared,
            batch,
            setup_bytes: bytes(&one, Phase::Setup),
            offline_bytes: bytes(&one, Phase::Offline),
            offline_bytes_in_batch: bytes(&many, Phase::Offline) / batch as u64,
            online_bytes: bytes(&one, Phase::Online),
            offline_round_trips: one.round_trips(Phase::Offline),
            online_round_trips: one.round_trips(Phase::Online),
        })
    }
}
