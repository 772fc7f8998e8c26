//! What both parties share and no cryptography: the model format, the public plan with its packing, the integer
//! kernels, and the plaintext executor that runs the same integers as the protocol.

pub mod artifact;
pub mod error;
pub mod graph;
pub mod public;
pub mod relu_set;
pub mod spec;

pub use artifact::{ConvWeights, Model};
pub use error::{ModelError, Result};
pub use public::PublicModel;
