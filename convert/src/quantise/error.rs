//! Why a network is not quantised or compared.

use std::path::Path;

use pi_model::ModelError;

/// Result of this module.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a network is not quantised or compared, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model itself, before or after.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Images, or one of them.
    #[error("{name}: {reason}")]
    Images {
        /// File or folder.
        name: String,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// A layer whose numbers do not fit.
    #[error("layer '{layer}': {reason}")]
    Layer {
        /// Its name.
        layer: String,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// A weight that has no fraction bits, nor room for all of its integer.
    #[error(
        "layer '{layer}': a weight is {largest}, too large for {bits} bits: use up to 16 --weight-bits, or scale the layer down and the next one up"
    )]
    Weight {
        /// The layer's name.
        layer: String,
        /// The largest weight.
        largest: f64,
        /// Bits of a weight with its sign.
        bits: u32,
    },
    /// Numbers that no model can have, or models that do not belong together.
    #[error("{0}")]
    Usage(String),
}

impl Error {
    pub(crate) fn images(path: &Path, reason: impl Into<String>) -> Self {
        Self::named(&path.display().to_string(), reason)
    }

    pub(crate) fn named(name: &str, reason: impl Into<String>) -> Self {
        Self::Images {
            name: name.to_owned(),
            reason: reason.into(),
        }
    }

    pub(crate) fn layer(layer: &str, reason: impl Into<String>) -> Self {
        Self::Layer {
            layer: layer.to_owned(),
            reason: reason.into(),
        }
    }
}
