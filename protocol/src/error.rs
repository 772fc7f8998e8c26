//! Errors, sorted by whose fault they are. None of them carries a secret.

use std::fmt;

use crate::kept::error::KeepError;

/// Which message a step was handling: the kind, the layer and the batch it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// Name of the step, as in the ledger.
    pub step: &'static str,
    /// Index of the layer in the plan; zero where a step belongs to no layer.
    pub layer: usize,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "step '{}', layer {}", self.step, self.layer)
    }
}

/// Anything that can end a session.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The other side sent something that the protocol does not allow.
    #[error(
        "the peer broke the protocol at {at}: expected {expected}, got {got}. This session is over and its prepared material is discarded; start a new one"
    )]
    Peer {
        /// Where it happened.
        at: At,
        /// What was due.
        expected: String,
        /// What came.
        got: String,
    },
    /// The model or the plan cannot be run.
    #[error("this model cannot be run: {0}")]
    Plan(String),
    /// The network failed or the peer went away.
    #[error("the connection failed: {0}")]
    Channel(String),
    /// The peer asks for what this side is set not to do.
    #[error("refused: {0}")]
    Refused(String),
    /// A prepared inference is not kept, or not there any more. The session goes on.
    #[error("{0}")]
    Kept(#[from] KeepError),
    /// A caller in this program used the interface wrongly.
    #[error("misuse: {0}")]
    Misuse(String),
}

impl Error {
    /// A peer error at `step` of `layer`.
    pub fn peer(
        step: &'static str,
        layer: usize,
        expected: impl fmt::Display,
        got: impl fmt::Display,
    ) -> Self {
        Self::Peer {
            at: At { step, layer },
            expected: expected.to_string(),
            got: got.to_string(),
        }
    }
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;
