//! Two-party private inference: a client with an input, a server with a network, and nothing else revealed.
//!
//! Linear layers run on additive shares; their masks are prepared by homomorphic encryption. ReLUs that training kept are garbled
//! sign tests and a one-round multiplexer; labels come by oblivious transfer. Security and its limits: SECURITY.md.
//!
//! Programs use [`client::ClientSession`] and [`server::ServerSession`] over a [`channel::Channel`] of their own, and what
//! describes a session: its [`session`] options, its predicted [`cost`], its [`ledger`], [`kept`] inferences.
//!
//! Inside, every sub-protocol has a room with both parties in it: `linear` (masks and convolutions), `transfers` (the OTs of a
//! batch), `relu` (one folder for each way to compute a kept ReLU), `argmax`, `kept`. The drivers put their steps in order, and
//! nothing but the steps touches the wire. Below are the primitives: `he`, `gc`, `ot`, `hash`, `prg`, `ring`, `block`.

mod argmax;
mod block;
pub mod client;
mod error;
mod gc;
mod hash;
mod he;
pub mod kept;
mod layout;
mod linear;
mod ot;
mod prg;
#[doc(hidden)]
pub mod primitives;
mod relu;
mod ring;
pub mod server;
pub mod session;
mod transfers;
pub mod wire;

pub use error::{At, Error, Result};
pub use layout::cost;
pub use wire::{channel, ledger, record};

#[cfg(test)]
mod tests;
