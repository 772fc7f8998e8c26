//! What both parties share and no cryptography: the model format, the public plan with its packing, the integer
//! kernels, and the plaintext executor that runs the same integers as the protocol.

pub mod artifact;
pub mod bits;
pub mod error;
pub mod executor;
pub mod graph;
mod input;
pub mod kernel;
pub mod linear;
pub mod packing;
pub mod plan;
pub mod public;
pub mod random;
pub mod relu_set;
pub mod spec;
pub mod text;

pub use artifact::{ConvWeights, FloatModel, FloatWeights, Model};
pub use error::{ModelError, Result};
pub use plan::{Plan, PublicPlan};
pub use public::PublicModel;
