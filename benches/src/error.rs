//! Why a benchmark cannot be run or trusted, said so that its user can act.

use std::path::{Path, PathBuf};

/// Why a benchmark cannot be run or trusted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// No suite of this name.
    #[error("there is no suite '{name}'; known are {known}, or give the path of a .toml file")]
    UnknownSuite {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// A suite that cannot be read.
    #[error("suite {name}: {reason}")]
    Suite {
        /// Its name or path.
        name: String,
        /// What is wrong and where.
        reason: String,
    },
    /// No network of this name.
    #[error("there is no network '{name}'; known are {known}")]
    UnknownNetwork {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// No model of this name.
    #[error("there is no model '{name}': give a folder with model.json, or one of {known}")]
    UnknownModel {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// A report or calibration that cannot be understood.
    #[error("{}: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A process that was started did not do its part.
    #[error("the {who} failed: {reason}")]
    Process {
        /// Server or client.
        who: &'static str,
        /// What it said.
        reason: String,
    },
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
    /// Some of the suite was not measured.
    #[error("{n_missing} measurements are missing; {} says which and why", report.display())]
    Incomplete {
        /// How many.
        n_missing: usize,
        /// The report that holds the others.
        report: PathBuf,
    },
    /// Deterministic counts of two reports differ.
    #[error(
        "{n_changed} deterministic counts differ: the protocol or the networks are not the same"
    )]
    CountsChanged {
        /// How many.
        n_changed: usize,
    },
    /// The model is at fault.
    #[error(transparent)]
    Model(#[from] pi_model::ModelError),
    /// The protocol is at fault.
    #[error(transparent)]
    Protocol(#[from] pi_protocol::Error),
    /// A picture could not be drawn.
    #[error("cannot draw: {0}")]
    Drawing(String),
}

impl BenchError {
    /// A file system error at `path`.
    pub fn file(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Self::File {
            path: path.to_owned(),
            source,
        }
    }
}

/// A process, or a step of this one, that did not do its part.
pub fn failed(who: &'static str, reason: impl std::fmt::Display) -> BenchError {
    BenchError::Process {
        who,
        reason: reason.to_string(),
    }
}
