//! Two-party private inference: a client with an input, a server with a network, and nothing else revealed.
//!
//! Linear layers run on additive shares; their masks are prepared by homomorphic encryption ([`he`]). Surviving ReLUs are
//! garbled sign tests ([`gc`]) and a one-round multiplexer ([`relu`], [`mux`]); labels come by oblivious transfer ([`ot`]).
//! [`client`] and [`server`] put the steps in order over a [`channel`]; nothing else touches one. Semi-honest security; see
//! SECURITY.md for who learns what.

pub mod block;
pub mod channel;
pub mod client;
pub mod cost;
pub mod error;
pub mod gc;
pub mod hash;
pub mod he;
pub mod kept;
pub mod layout;
pub mod ledger;
pub mod mux;
pub mod ot;
pub mod prg;
pub mod record;
pub mod relu;
pub mod ring;
pub mod server;
pub mod session;
pub mod share;
pub mod sizes;
pub mod wire;

pub use error::{At, Error, Result};

#[cfg(test)]
mod tests;
