//! Two-party private inference: a client with an input, a server with a network, and nothing else revealed.
pub mod block;
pub mod channel;
pub mod error;
pub mod gc;
pub mod hash;
pub mod ledger;
pub mod ot;
pub mod prg;
pub mod wire;

pub use error::{At, Error, Result};
