//! Sends private queries: connect, describe, prepare, infer, report.
//!
//! Everything here blocks; the network runs on two threads of its own. Do not call it from inside an asynchronous
//! runtime.

pub mod connect;
pub mod error;
pub mod input;
pub mod report;
pub mod session;
mod trace;

pub use connect::{Client, ConnectOptions, Description, Token};
pub use error::ClientError;
pub use report::Report;
pub use session::Session;
