//! Garbled circuits: half-gates, or three-halves garbling, over groups of eight instances in lockstep.
//!
//! The garbler is a role: nothing here knows which party plays it. Nothing here moves bytes either; labels of the evaluator's
//! inputs come from correlated OT, by the caller. Semi-honest garbler; the evaluator may deviate.
//! Cost: 32 bytes for each AND gate, or 24 and 5 bits ([`Scheme`]); 16 for each input label.

mod argmax;
mod circuit;
pub mod digits;
mod evaluate;
mod garble;
mod half_gates;
mod instances;
mod labels;
mod lanes;
mod scheme;
mod sign;
#[cfg(test)]
mod tests;
mod three_halves;

pub use argmax::argmax_circuit;
#[cfg(test)]
pub use circuit::Builder;
pub use circuit::Circuit;
pub use evaluate::{active_label_hash, evaluate};
pub use garble::{Garbled, garble, label_hash};
pub use instances::{CircuitParams, Instances};
pub use labels::active_label_bytes;
pub use scheme::Scheme;
pub use sign::sign_circuit;
