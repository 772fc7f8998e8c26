//! The models that are served, each with its public description and its plans by batch size; and what is wrong with those
//! that are not.
//!
//! A model is replaced or taken away as a whole. Sessions hold their plan, and with it the version that they began with,
//! until they end.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bytes::Bytes;
use pi_model::packing::PackingGoal;
use pi_model::{Model, ModelError, Plan};
use pi_proto::limits::SESSION_QUEUE_BYTES;
use pi_protocol::server::{SessionMemory, check_plan};
use pi_protocol::session::GarblingMode;
use pi_protocol::session::OtMode;
use pi_protocol::session::SessionOptions;
use serde::Serialize;
use tokio::sync::watch;

use crate::error::ServeError;
use crate::options::Limits;

/// One model, in one version.
pub struct Served {
    model: Arc<Model>,
    version: Option<u64>,
    plans: Mutex<BTreeMap<usize, Arc<Plan>>>,
    goal: PackingGoal,
    description: Bytes,
    card: Bytes,
    /// Of its sessions: with checked and with silent OTs, each where the server and where the client garbles.
    memory: [[SessionMemory; 2]; 2],
}

/// What a model needs to be served here.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Largest batch that a client may ask for.
    pub max_batch: usize,
    /// Bits a second of the network for which ciphertexts are packed.
    pub packing_bandwidth: u64,
    /// What one prepared inference must fit into.
    pub limits: Limits,
}

/// How one model is, for probes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ModelStatus {
    /// Its name.
    pub name: String,
    /// The version that serves; none for a model that is mounted without one, or that does not serve.
    pub version: Option<u64>,
    /// Whether clients can use it.
    pub ready: bool,
    /// What is wrong: with it, or with versions that should serve in its place.
    pub problems: Vec<String>,
}

/// All models: those mounted one by one first, in the order in which they were named, then the others by name.
pub struct Repository {
    terms: Terms,
    n_mounted: usize,
    models: RwLock<Vec<Arc<Served>>>,
    problems: RwLock<BTreeMap<String, Vec<String>>>,
    changes: watch::Sender<u64>,
}

impl Repository {
    /// Loads the models in `dirs` and plans each, so that a model that cannot be run is refused here and not in a session.
    ///
    /// # Errors
    /// [`ServeError::Model`], [`ServeError::Memory`] or [`ServeError::SameName`].
    pub fn load(dirs: &[PathBuf], terms: Terms) -> Result<Self, ServeError> {
        let mut models: Vec<Arc<Served>> = Vec::with_capacity(dirs.len());
        for dir in dirs {
            let served = Served::load(dir, None, &terms)?;
            if models.iter().any(|m| m.name() == served.name()) {
                return Err(ServeError::SameName {
                    name: served.name().to_owned(),
                    dir: dir.clone(),
                });
            }
            models.push(Arc::new(served));
        }
        Ok(Self {
            terms,
            n_mounted: models.len(),
            models: RwLock::new(models),
            problems: RwLock::default(),
            changes: watch::Sender::new(0),
        })
    }

    /// What a model needs to be served here.
    #[must_use]
    pub const fn terms(&self) -> &Terms {
        &self.terms
    }

    /// The model called `name`; the first one if `name` is empty.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Arc<Served>> {
        let models = self.models();
        let mut models = models.iter();
        let found = if name.is_empty() {
            models.next()
        } else {
            models.find(|m| m.name() == name)
        };
        found.cloned()
    }

    /// The names of all models that serve.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.models().iter().map(|m| m.name().to_owned()).collect()
    }

    /// All models, those that do not serve too.
    #[must_use]
    pub fn status(&self) -> Vec<ModelStatus> {
        let problems = self.problems.read().unwrap_or_else(PoisonError::into_inner);
        let models = self.models();
        let serving = models.iter().map(|m| ModelStatus {
            name: m.name().to_owned(),
            version: m.version,
            ready: true,
            problems: problems.get(m.name()).cloned().unwrap_or_default(),
        });
        let broken = problems
            .iter()
            .filter(|(name, _)| models.iter().all(|m| m.name() != *name))
            .map(|(name, problems)| ModelStatus {
                name: name.clone(),
                version: None,
                ready: false,
                problems: problems.clone(),
            });
        serving.chain(broken).collect()
    }

    /// Counts how often models came, changed or went.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Serves `model` from now on, in place of the one of its name.
    ///
    /// # Errors
    /// Its name, when a model that was mounted by itself has it.
    pub(super) fn put(&self, model: Served) -> Result<(), String> {
        let mut models = self.models.write().unwrap_or_else(PoisonError::into_inner);
        let position = models.iter().position(|m| m.name() == model.name());
        match position {
            Some(i) if i < self.n_mounted => {
                return Err(format!("another model is mounted as '{}'", model.name()));
            }
            Some(i) => models[i] = Arc::new(model),
            None => {
                models.push(Arc::new(model));
                models[self.n_mounted..].sort_by(|a, b| a.name().cmp(b.name()));
            }
        }
        drop(models);
        self.changes.send_modify(|n| *n += 1);
        Ok(())
    }

    /// Serves no model called `name` any more, unless it is mounted by itself.
    pub(super) fn remove(&self, name: &str) {
        let mut models = self.models.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(i) = models.iter().position(|m| m.name() == name)
            && i >= self.n_mounted
        {
            models.remove(i);
            drop(models);
            self.changes.send_modify(|n| *n += 1);
        }
    }

    /// Notes what is wrong with the model called `name`.
    pub(super) fn note(&self, name: &str, problems: Vec<String>) {
        let mut all = self
            .problems
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if problems.is_empty() {
            all.remove(name);
        } else {
            all.insert(name.to_owned(), problems);
        }
        drop(all);
        self.changes.send_modify(|n| *n += 1);
    }

    fn models(&self) -> std::sync::RwLockReadGuard<'_, Vec<Arc<Served>>> {
        self.models.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Served {
    /// Loads the model in `dir` and makes it ready to be served.
    ///
    /// # Errors
    /// [`ServeError::Model`] or [`ServeError::Memory`].
    pub fn load(dir: &Path, version: Option<u64>, terms: &Terms) -> Result<Self, ServeError> {
        let fail = |source| ServeError::Model {
            dir: dir.to_owned(),
            source,
        };
        let goal = PackingGoal::for_bandwidth(terms.packing_bandwidth);
        let mut served = Self::new(Model::load(dir).map_err(fail)?, goal).map_err(fail)?;
        served.version = version;
        for batch in [1, terms.max_batch] {
            served.plan(batch).map_err(fail)?;
        }
        let memory = served.memory(SessionOptions::default());
        if terms.limits.max_prepared(memory, 1) == 0 {
            return Err(ServeError::Memory {
                dir: dir.to_owned(),
                needed: memory.prepared + memory.in_work + SESSION_QUEUE_BYTES,
                sessions: terms.limits.max_sessions,
                bytes: terms.limits.session_bytes,
            });
        }
        Ok(served)
    }

    /// Makes `model` ready to be served, with plans for `goal`.
    ///
    /// # Errors
    /// [`ModelError::Plan`] when the model cannot be planned.
    pub fn new(model: Model, goal: PackingGoal) -> Result<Self, ModelError> {
        let description = model.public().to_json().into();
        let card = serde_json::to_vec(&model.public().spec().card).unwrap_or_default();
        let model = Arc::new(model);
        let plan = Arc::new(Plan::with_goal(Arc::clone(&model), 1, goal)?);
        check_plan(&plan).map_err(unplannable)?;
        let memory = |ot, garbling| {
            SessionMemory::of(&plan, SessionOptions { ot, garbling }).map_err(unplannable)
        };
        let of = |ot| -> Result<_, ModelError> {
            let server = memory(ot, GarblingMode::HalfGates)?;
            Ok([server, memory(ot, GarblingMode::ClientDigits)?])
        };
        let memory = [of(OtMode::SoftSpoken)?, of(OtMode::Silent)?];
        Ok(Self {
            memory,
            model,
            version: None,
            plans: Mutex::new(BTreeMap::from([(1, plan)])),
            goal,
            description,
            card: card.into(),
        })
    }

    /// What a session with these options takes.
    #[must_use]
    pub fn memory(&self, options: SessionOptions) -> SessionMemory {
        let silent = options.ot == OtMode::Silent;
        let client = options.garbling == GarblingMode::ClientDigits;
        self.memory[usize::from(silent)][usize::from(client)]
    }

    /// Its version, where it has one.
    #[must_use]
    pub const fn version(&self) -> Option<u64> {
        self.version
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
