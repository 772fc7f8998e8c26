//! A model repository on disk, `<root>/<model>/<version>/{model.json,model.safetensors}`: which versions there are, which
//! one serves, and what happens when files change.
//!
//! The highest version that can be loaded serves, of those that the operator names if any are named (a pin, a rollback, or a canary on
//! one of several replicas, for which nothing has to be deleted); one that has been loaded serves on while its files are broken. A version
//! that cannot be loaded is reported once, with its reason, and tried again when its files change; the version below it and all
//! other models serve meanwhile. A folder's name is the model's name.
//!
//! Modes: `none` loads all models at the start and never looks again; `poll` looks every so often; `explicit` loads what the
//! command line names and what is asked for on the admin port.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracing::{error, info};

use crate::access::watch::{Stamp, stamp};
use crate::error::ServeError;
use crate::models::repository::{Repository, Served};
use crate::ops::metrics::Metrics;

/// When the repository is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// At the start.
    None,
    /// Again and again.
    #[default]
    Poll,
    /// When told.
    Explicit,
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "poll" => Ok(Self::Poll),
            "explicit" => Ok(Self::Explicit),
            _ => Err(format!("'{text}' is none of none, poll and explicit")),
        }
    }
}

/// Where a repository is and when it is read.
#[derive(Clone, Debug)]
pub struct RootOptions {
    /// Its folder.
    pub path: PathBuf,
    /// When it is read.
    pub mode: Mode,
    /// How often, where it is polled.
    pub interval: Duration,
    /// What is loaded at the start, where models are loaded when told.
    pub load: Vec<String>,
    /// For some models, the versions that may serve; the others stay in the folder unused.
    pub versions: BTreeMap<String, Vec<u64>>,
}

/// Stamps of `model.json` and `model.safetensors`.
type Stamps = [Stamp; 2];

/// What is known of one model.
#[derive(Default)]
struct Known {
    served: Option<(u64, Stamps)>,
    broken: BTreeMap<u64, (Stamps, String)>,
}

/// A repository that is served.
pub struct Root {
    options: RootOptions,
    repository: Arc<Repository>,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    wanted: BTreeSet<String>,
    known: BTreeMap<String, Known>,
}

impl Root {
    /// Reads the repository for the first time. Models that cannot be loaded are reported and do not fail it.
    ///
    /// # Errors
    /// [`ServeError::Repository`] when the folder itself cannot be read, or misses a model that must be loaded.
    pub fn open(
        options: RootOptions,
        repository: Arc<Repository>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, ServeError> {
        let fail = |reason| ServeError::Repository {
            path: options.path.clone(),
            reason,
        };
        models_in(&options.path).map_err(|e| fail(e.to_string()))?;
        for name in &options.load {
            check_name(&options.path, name).map_err(fail)?;
        }
        let state = State {
            wanted: options.load.iter().cloned().collect(),
            ..State::default()
        };
        let root = Self {
            options,
            repository,
            metrics,
            state: Mutex::new(state),
        };
        root.refresh();
        Ok(root)
    }

    /// When it is read.
    #[must_use]
    pub const fn options(&self) -> &RootOptions {
        &self.options
    }

    /// Loads what is new or changed and forgets what is gone. Blocks for as long as loading and planning take.
    pub fn refresh(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let present = match self.options.mode {
            Mode::Explicit => state.wanted.clone(),
            // A folder that cannot be read for a moment, on a network disk, is no reason to stop serving.
            Mode::None | Mode::Poll => match models_in(&self.options.path) {
                Ok(present) => present,
                Err(error) => {
                    error!(root = %self.options.path.display(), %error, "the repository cannot be read");
                    return;
                }
            },
        };
        let gone: Vec<String> = state
            .known
            .keys()
            .filter(|k| !present.contains(*k))
            .cloned()
            .collect();
        for name in gone {
            state.known.remove(&name);
            self.repository.remove(&name);
            self.repository.note(&name, vec![]);
            info!(model = name, "no longer served");
        }
        for name in present {
            let known = state.known.entry(name.clone()).or_default();
            self.refresh_model(&name, known);
        }
    }

    /// Loads a model, or its newest version, where models are loaded when told.
    ///
    /// # Errors
    /// Why not, for whoever asked.
    pub fn load(&self, name: &str) -> Result<(), String> {
        self.must_be_explicit()?;
        check_name(&self.options.path, name)?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.wanted.insert(name.to_owned());
        let known = state.known.entry(name.to_owned()).or_default();
        // Asked for by hand, a broken version is tried even if nothing changed.
        known.broken.clear();
        self.refresh_model(name, known);
        match known.broken.values().next_back() {
            Some((_, reason)) => Err(reason.clone()),
            None if known.served.is_none() => Err(format!("'{name}' has no version")),
            None => Ok(()),
        }
    }

    /// Stops serving a model. Sessions that use it go on.
    ///
    /// # Errors
    /// Why not, for whoever asked.
    pub fn unload(&self, name: &str) -> Result<(), String> {
        self.must_be_explicit()?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.wanted.remove(name) {
            return Err(format!("'{name}' is not loaded"));
        }
        state.known.remove(name);
        self.repository.remove(name);
        self.repository.note(name, vec![]);
        Ok(())
    }

    fn must_be_explicit(&self) -> Result<(), String> {
        match self.options.mode {
            Mode::Explicit => Ok(()),
            _ => Err("models are loaded by hand only with --repository-mode explicit".into()),
        }
    }

    fn refresh_model(&self, name: &str, known: &mut Known) {
        let dir = self.options.path.join(name);
        let mut versions = match versions_in(&dir) {
            Ok(versions) => versions,
            // A folder that cannot be read for a moment is no reason to stop serving what was read from it.
            Err(error) => {
                error!(model = name, folder = %dir.display(), %error, "a model's folder cannot be read");
                return;
            }
        };
        if let Some(named) = self.options.versions.get(name) {
            versions.retain(|version| named.contains(version));
        }
        versions.sort_unstable_by(|a, b| b.cmp(a));
        known.broken.retain(|version, _| versions.contains(version));
        let mut serves = None;
        for version in versions {
            let folder = dir.join(version.to_string());
            let stamps = ["model.json", "model.safetensors"].map(|file| stamp(&folder.join(file)));
            if known.served == Some((version, stamps)) {
                known.broken.remove(&version);
                serves = known.served;
                break;
            }
            // Files that were overwritten by something broken, or are being overwritten: what was read from them serves on.
            let in_memory = known.served.filter(|(served, _)| *served == version);
            if known
                .broken
                .get(&version)
                .is_some_and(|(seen, _)| *seen == stamps)
            {
                if in_memory.is_some() {
                    serves = in_memory;
                    break;
                }
                continue;
            }
            match self.try_version(name, version, &folder) {
                Ok(()) => {
                    info!(model = name, version, "serving");
                    known.broken.remove(&version);
                    serves = Some((version, stamps));
                    break;
                }
                Err(reason) => {
                    error!(model = name, version, reason, "a model cannot be loaded");
                    self.metrics.load_failed(name);
                    known
                        .broken
                        .insert(version, (stamps, format!("version {version}: {reason}")));
                    if in_memory.is_some() {
                        serves = in_memory;
                        break;
                    }
                }
            }
        }
        known.served = serves;
        if let Some((served, _)) = serves {
            // What is older is not looked at any more, and its faults matter to nobody.
            known.broken.retain(|version, _| *version >= served);
        }
        let mut problems: Vec<String> = known
            .broken
            .values()
            .map(|(_, reason)| reason.clone())
            .collect();
        if serves.is_none() {
            self.repository.remove(name);
            if problems.is_empty() {
                let why = match self.options.versions.contains_key(name) {
                    true => "it has none of the versions that --model-version names",
                    false => "it has no version: a version is a folder with a number for a name",
                };
                problems.push(why.into());
            }
        }
        self.repository.note(name, problems);
    }

    fn try_version(&self, name: &str, version: u64, folder: &Path) -> Result<(), String> {
        let served = Served::load(folder, Some(version), self.repository.terms());
        let served = served.map_err(|e| e.to_string())?;
        if served.name() != name {
            return Err(format!(
                "its model.json says \"name\": \"{}\" and its folder is called '{name}'; make them the same",
                served.name()
            ));
        }
        self.repository.put(served)
    }
}

fn check_name(root: &Path, name: &str) -> Result<(), String> {
    if !is_name(name) || !root.join(name).is_dir() {
        return Err(format!("{} has no model '{name}'", root.display()));
    }
    Ok(())
}

/// Whether a folder of this name is a model; others, as `.git` or `lost+found`, are not.
fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    !name.is_empty() && !name.starts_with('.') && name.chars().all(plain)
}

fn models_in(root: &Path) -> std::io::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(root)? {
        let entry = entry?;
        if let Ok(name) = entry.file_name().into_string()
            && is_name(&name)
            && entry.path().is_dir()
        {
            names.insert(name);
        }
    }
    Ok(names)
}

/// None where the folder is gone.
fn versions_in(model: &Path) -> std::io::Result<Vec<u64>> {
    let entries = match std::fs::read_dir(model) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        entries => entries?,
    };
    let mut versions = vec![];
    for entry in entries {
        let Ok(name) = entry?.file_name().into_string() else {
            continue;
        };
        // 007 is not 7's folder.
        let number: Option<u64> = name.parse().ok().filter(|n: &u64| n.to_string() == name);
        versions.extend(number.filter(|_| model.join(&name).is_dir()));
    }
    Ok(versions)
}

#[cfg(test)]
mod tests;
