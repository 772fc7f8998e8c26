//! From a trained network in an ONNX file to a model that is served.
//!
//! `onnx` reads a file into a float model ([`pi_model::FloatModel`]); `float` runs it in floating point; `quantise` makes an integer
//! model of it with the help of some images; `randomise` gives it random weights, to measure what such a network costs.

pub mod float;
pub mod onnx;
pub mod quantise;
pub mod randomise;
#[cfg(test)]
mod testing;
