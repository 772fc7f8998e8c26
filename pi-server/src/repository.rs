//! The models that are served, each with its public description and its plans by batch size.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use pi_model::packing::PackingGoal;
use pi_model::{Model, ModelError, Plan};

use pi_protocol::server::{check_plan, prepared_bytes};

use crate::error::ServeError;
use crate::serve::Limits;

/// One model.
pub struct Served {
    model: Arc<Model>,
    plans: Mutex<BTreeMap<usize, Arc<Plan>>>,
    goal: PackingGoal,
    description: Bytes,
    card: Bytes,
    prepared_bytes: usize,
}

/// All models, in the order in which they were named.
pub struct Repository {
    models: Vec<Served>,
    max_batch: usize,
    packing_bandwidth: u64,
}

impl Repository {
    /// Loads the models in `dirs` and plans each, so that a model that cannot be run is refused here and not in a
    /// session. Ciphertexts are packed for a network of `packing_bandwidth` bits a second.
    ///
    /// # Errors
    /// [`ServeError::Model`], [`ServeError::SameName`] or [`ServeError::NoModel`].
    pub fn load(
        dirs: &[PathBuf],
        max_batch: usize,
        packing_bandwidth: u64,
        limits: &Limits,
    ) -> Result<Self, ServeError> {
        let goal = PackingGoal::for_bandwidth(packing_bandwidth);
        let mut models: Vec<Served> = Vec::with_capacity(dirs.len());
        for dir in dirs {
            let fail = |source| ServeError::Model {
                dir: dir.clone(),
                source,
            };
            let served = Served::new(Model::load(dir).map_err(fail)?, goal).map_err(fail)?;
            for batch in [1, max_batch] {
                served.plan(batch).map_err(fail)?;
            }
            if limits.max_prepared(served.prepared_bytes) == 0 {
                return Err(ServeError::Memory {
                    dir: dir.clone(),
                    needed: served.prepared_bytes,
                    sessions: limits.max_sessions,
                    bytes: limits.prepared_bytes,
                });
            }
            if models.iter().any(|m| m.name() == served.name()) {
                return Err(ServeError::SameName {
                    name: served.name().to_owned(),
                    dir: dir.clone(),
                });
            }
            models.push(served);
        }
        if models.is_empty() {
            return Err(ServeError::NoModel);
        }
        Ok(Self {
            models,
            max_batch,
            packing_bandwidth,
        })
    }

    /// All models.
    #[must_use]
    pub fn models(&self) -> &[Served] {
        &self.models
    }

    /// Largest batch that a client may ask for.
    #[must_use]
    pub const fn max_batch(&self) -> usize {
        self.max_batch
    }

    /// Bits a second of the network for which ciphertexts are packed.
    #[must_use]
    pub const fn packing_bandwidth(&self) -> u64 {
        self.packing_bandwidth
    }

    /// The model called `name`; the first one if `name` is empty.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Served> {
        if name.is_empty() {
            return self.models.first();
        }
        self.models.iter().find(|m| m.name() == name)
    }

    /// The names of all models, for messages.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        self.models.iter().map(Served::name).collect()
    }
}

impl Served {
    /// Makes `model` ready to be served, with plans for `goal`.
    ///
    /// # Errors
    /// [`ModelError::Plan`] when the model cannot be planned.
    pub fn new(model: Model, goal: PackingGoal) -> Result<Self, ModelError> {
        let description = model.public().to_json().into();
        let card = serde_json::to_vec(&model.public().spec().card).unwrap_or_default();
        let mut served = Self {
            model: Arc::new(model),
            plans: Mutex::default(),
            goal,
            description,
            card: card.into(),
            prepared_bytes: 0,
        };
        let plan = served.plan(1)?;
        served.prepared_bytes = prepared_bytes(&plan).map_err(unplannable)?;
        Ok(served)
    }

    /// Bytes that one prepared inference takes in memory.
    #[must_use]
    pub const fn prepared_bytes(&self) -> usize {
        self.prepared_bytes
    }

    /// The name under which clients ask for it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.model.public().spec().name
    }

    /// The model itself.
    #[must_use]
    pub const fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The public model as JSON.
    #[must_use]
    pub fn description(&self) -> Bytes {
        self.description.clone()
    }

    /// The card as JSON.
    #[must_use]
    pub fn card(&self) -> Bytes {
        self.card.clone()
    }

    /// The plan for `batch` inferences, made at its first use. The caller bounds `batch`, and with it the number of
    /// plans that are kept.
    ///
    /// # Errors
    /// [`ModelError::Plan`] when the model cannot be planned.
    pub fn plan(&self, batch: usize) -> Result<Arc<Plan>, ModelError> {
        // A thread that panicked while it held the lock left a map that is still whole.
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(plan) = plans.get(&batch) {
            return Ok(Arc::clone(plan));
        }
        let plan = Arc::new(Plan::with_goal(Arc::clone(&self.model), batch, self.goal)?);
        check_plan(&plan).map_err(unplannable)?;
        plans.insert(batch, Arc::clone(&plan));
        Ok(plan)
    }
}

fn unplannable(error: pi_protocol::Error) -> ModelError {
    match error {
        pi_protocol::Error::Plan(reason) => ModelError::Plan(reason),
        other => ModelError::Plan(other.to_string()),
    }
}
