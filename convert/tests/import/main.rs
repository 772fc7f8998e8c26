//! ONNX files, made here, become float models that compute the same.

mod errors;
mod net;
mod operators;
mod reference;
mod rewrites;
