//! Work in progress.
pub mod bits;
pub mod kernel;
pub mod packing;
