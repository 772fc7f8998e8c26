//! Serves private inference: models on disk, sessions over gRPC, limits, TLS, and a stop that ends.
//!
//! Each session has one blocking thread, which runs the server's side of the protocol; the heavy kernels of all sessions
//! share one pool of threads. Network and timers are asynchronous and never compute.

pub mod admin;
pub mod certificate;
pub mod config;
pub mod drain;
pub mod error;
pub mod gate;
pub mod health;
pub mod identity;
pub mod kserve;
pub mod ledger_file;
pub mod limits;
pub mod metrics;
pub mod repository;
pub mod serve;
pub mod service;
mod session;
pub mod store;
pub mod tls;
pub mod units;
pub mod watch;

pub use admin::AdminListen;
pub use config::{ConfigError, Settings};
pub use error::ServeError;
pub use limits::Quota;
pub use repository::root::{Mode, RootOptions};
pub use serve::{Limits, ServeOptions, Server, TlsFiles};
