//! Two-party private inference: a client with an input, a server with a network, and nothing else revealed.
pub mod block;
pub mod error;
pub mod gc;
pub mod hash;
pub mod he;
pub mod ot;
pub mod prg;

pub use error::{At, Error, Result};
