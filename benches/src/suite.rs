//! Suites: what to measure, as TOML. The built-in ones are compiled in; any other is given by its path.

use std::path::{Path, PathBuf};

use pi_protocol::session::GarblingMode;
use pi_protocol::session::OtMode;
use pi_protocol::session::SessionOptions;
use serde::Deserialize;

use crate::arch::Arch;
use crate::error::BenchError;
use crate::network::NetworkInfo;

const BUILT_IN: [(&str, &str); 6] = [
    ("smoke", include_str!("../suites/smoke.toml")),
    ("relu-sweep", include_str!("../suites/relu-sweep.toml")),
    ("scale", include_str!("../suites/scale.toml")),
    ("accuracy", include_str!("../suites/accuracy.toml")),
    ("argmax", include_str!("../suites/argmax.toml")),
    ("large", include_str!("../suites/large.toml")),
];

/// One suite. Unknown keys are refused.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Suite {
    /// Name in reports.
    pub name: String,
    /// What it is for, in a sentence.
    pub description: String,
    /// Names of networks.
    pub networks: Vec<String>,
    /// Inferences prepared together.
    pub batch: usize,
    /// How oblivious transfers are made: softspoken if left out, or silent.
    #[serde(default)]
    pub ot: OtMode,
    /// How circuits are garbled: half-gates if left out, or three-halves.
    #[serde(default)]
    pub garbling: GarblingMode,
    /// Online samples of each configuration, warm-up left out.
    pub repetitions: usize,
    /// Set-ups of each configuration, each of a new session.
    #[serde(default = "one")]
    pub sessions: usize,
    /// Keep the processes of all configurations of a network alive and take their samples in turn.
    #[serde(default)]
    pub interleave: bool,
    /// The same for all networks at once; one of them may use network namespaces.
    #[serde(default)]
    pub interleave_networks: bool,
    /// What to run.
    pub models: Vec<ModelEntry>,
    /// Many clients at once, in place of one after another.
    pub scale: Option<Scale>,
}

/// One network, at one or several budgets.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelEntry {
    /// A shape with random weights.
    pub arch: Option<Arch>,
    /// ReLUs to keep of a shape; all if the list is empty.
    #[serde(default)]
    pub budgets: Vec<usize>,
    /// A folder with a model, relative to the suite's file or, for built-in suites, to the current folder.
    pub path: Option<PathBuf>,
    /// Open the class alone.
    #[serde(default)]
    pub argmax: bool,
}

/// Many clients at once.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    /// Numbers of clients.
    pub clients: Vec<usize>,
    /// Requests of each client.
    pub requests: usize,
    /// Whether inferences are prepared before the clock starts; one measurement for each entry.
    pub prepared: Vec<bool>,
}

const fn one() -> usize {
    1
}

impl Suite {
    /// What its sessions choose.
    pub const fn options(&self) -> SessionOptions {
        SessionOptions {
            ot: self.ot,
            garbling: self.garbling,
        }
    }

    /// The built-in suite called `name`, or the one in the file `name`.
    ///
    /// # Errors
    /// [`BenchError::UnknownSuite`], [`BenchError::Suite`], [`BenchError::UnknownNetwork`].
    pub fn find(name: &str) -> Result<Self, BenchError> {
        if let Some((_, text)) = BUILT_IN.iter().find(|(known, _)| *known == name) {
            return Self::parse(name, text, Path::new(""));
        }
        if !name.ends_with(".toml") {
            return Err(BenchError::UnknownSuite {
                name: name.to_owned(),
                known: BUILT_IN.map(|(name, _)| name).join(", "),
            });
        }
        let path = Path::new(name);
        let text = std::fs::read_to_string(path).map_err(BenchError::file(path))?;
        Self::parse(name, &text, path.parent().unwrap_or(Path::new("")))
    }

    fn parse(name: &str, text: &str, base: &Path) -> Result<Self, BenchError> {
        let fail = |reason: String| BenchError::Suite {
            name: name.to_owned(),
            reason,
        };
        let mut suite: Self = toml::from_str(text).map_err(|e| fail(e.to_string()))?;
        for network in &suite.networks {
            NetworkInfo::find(network)?;
        }
        if suite.models.is_empty() || suite.networks.is_empty() {
            return Err(fail("it names no model or no network".into()));
        }
        if suite.batch == 0 || suite.repetitions == 0 || suite.sessions == 0 {
            return Err(fail(
                "batch, repetitions and sessions must be at least 1".into(),
            ));
        }
        if let Some(scale) = &suite.scale
            && (scale.clients.iter().any(|n| !(1..=64).contains(n)) || scale.requests == 0)
        {
            return Err(fail(
                "scale takes 1 to 64 clients and at least 1 request".into(),
            ));
        }
        let spaces = |n: &&String| n.ends_with("-netns");
        if suite.interleave_networks && suite.networks.iter().filter(spaces).count() > 1 {
            return Err(fail(
                "interleave_networks takes one network with -netns at most: there is one pair of namespaces".into(),
            ));
        }
        for model in &mut suite.models {
            match (&model.arch, &mut model.path) {
                (Some(_), None) => {}
                (None, Some(path)) if model.budgets.is_empty() && !model.argmax => {
                    *path = base.join(&*path);
                }
                _ => {
                    return Err(fail(
                        "a model has either arch (with budgets, argmax) or path".into(),
                    ));
                }
            }
        }
        Ok(suite)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_suites_are_valid() {
        for (name, _) in BUILT_IN {
            assert_eq!(Suite::find(name).unwrap().name, name);
        }
    }

    #[test]
    fn mistakes_are_named() {
        let good = "name='x'\ndescription='x'\nnetworks=['lan']\nbatch=1\nrepetitions=1\n[[models]]\narch='tiny'\n";
        let suite = Suite::parse("x", good, Path::new("")).unwrap();
        assert_eq!(suite.options(), SessionOptions::default());
        let silent = good.replace("batch=1", "batch=1\not='silent'");
        let suite = Suite::parse("x", &silent, Path::new("")).unwrap();
        assert_eq!(suite.ot, OtMode::Silent);
        let sliced = good.replace("batch=1", "batch=1\ngarbling='three-halves'");
        let suite = Suite::parse("x", &sliced, Path::new("")).unwrap();
        assert_eq!(suite.garbling, GarblingMode::ThreeHalves);
        for (bad, word) in [
            (good.replace("batch", "batsch"), "batsch"),
            (good.replace("'lan'", "'moon'"), "moon"),
            (good.replace("tiny", "resnet19"), "resnet19"),
            (good.replace("batch=1", "batch=0"), "at least 1"),
            (good.replace("batch=1", "batch=1\not='noisy'"), "noisy"),
            (good.replace("batch=1", "batch=1\ngarbling='none'"), "none"),
            (format!("{good}path='m'\n"), "either"),
        ] {
            let error = Suite::parse("x", &bad, Path::new(""))
                .unwrap_err()
                .to_string();
            assert!(error.contains(word), "{word}: {error}");
        }
        assert!(
            Suite::find("smok")
                .unwrap_err()
                .to_string()
                .contains("relu-sweep")
        );
        assert!(Suite::find("nothing/there.toml").is_err());
    }
}
