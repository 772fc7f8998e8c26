//! Serves private inference: models on disk, sessions over gRPC, limits, TLS, and a stop that ends.
//!
//! Each session has one blocking thread, which runs the server's side of the protocol; the heavy kernels of all sessions
//! share one pool of threads. Network and timers are asynchronous and never compute.

mod access;
mod calls;
pub mod config;
pub mod error;
mod models;
mod ops;
pub mod options;
pub mod serve;
pub mod store;
pub mod units;

pub use access::limits::Quota;
pub use access::{certificate, connection, identity, tls};
pub use calls::drain;
pub use config::{ConfigError, Settings};
pub use error::ServeError;
pub use models::root::{Mode, RootOptions};
pub use ops::{log, probe};
pub use options::{AdminListen, ConnectionLimits, GarblingModes, Limits, TlsFiles};
pub use serve::{ServeOptions, Server};
