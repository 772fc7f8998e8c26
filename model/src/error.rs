//! What can be wrong with a model, a plan or an input, said so that its owner can mend it.

/// Result of this crate.
pub type Result<T> = std::result::Result<T, ModelError>;

/// What can be wrong with a model, a plan or an input.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: String,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{path} is not a valid model file: {reason}. Export the model again")]
    Format {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The operations do not form a network that can be run privately.
    #[error("operation '{op}': {reason}")]
    Op {
        /// Name of the operation.
        op: String,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// The network cannot be planned within the stated bounds.
    #[error("this model cannot be planned: {0}")]
    Plan(String),
    /// An input does not fit the model.
    #[error("wrong input: {0}")]
    Input(String),
}

impl ModelError {
    pub(crate) fn op(op: &str, reason: impl Into<String>) -> Self {
        Self::Op {
            op: op.to_owned(),
            reason: reason.into(),
        }
    }

    pub(crate) fn format(path: &std::path::Path, reason: impl std::fmt::Display) -> Self {
        Self::Format {
            path: path.display().to_string(),
            reason: reason.to_string(),
        }
    }

    pub(crate) fn file(path: &std::path::Path, source: std::io::Error) -> Self {
        Self::File {
            path: path.display().to_string(),
            source,
        }
    }
}
