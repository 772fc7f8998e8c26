//! The compiled half of the Python package `private_inference`: the asynchronous client of `pi-client` behind calls that block.
//!
//! Arrays cross as bytes with a shape, so that nothing here needs NumPy; what users see (arrays, types, exceptions) is the Python
//! code in `python/private_inference`. Every call that waits lets other Python threads run and answers to Ctrl-C (see `wait`).
//!
//! Security: images and logits are the client's secret. They lie in Python's memory too, which cannot be wiped.

mod client;
mod error;
mod facts;
mod wait;

/// The module `private_inference._native`.
#[pyo3::pymodule]
mod _native {
    #[pymodule_export]
    use super::client::NativeClient;
}
