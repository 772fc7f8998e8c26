//! ONNX files, made here, become float models that compute the same.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail that way")]

mod errors;
mod net;
mod operators;
mod reference;
mod rewrites;
