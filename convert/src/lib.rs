//! From a trained network in an ONNX file to a model that is served.
//!
//! `onnx` reads a file into a float model ([`pi_model::FloatModel`]); `float` runs it in floating point; `quantise` makes an integer
//! model of it with the help of some images.

pub mod float;
pub mod onnx;
pub mod quantise;
#[cfg(test)]
mod testing;
