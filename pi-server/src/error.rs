//! Why a server cannot start or go on, said so that its operator can mend it.

use std::net::SocketAddr;
use std::path::PathBuf;

use pi_model::ModelError;

/// Why a server cannot start or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}. {}", advice(source))]
    Bind {
        /// The address that was asked for.
        address: SocketAddr,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A model cannot be served.
    #[error("cannot serve the model in {}: {source}{}", dir.display(), missing(dir))]
    Model {
        /// Its folder.
        dir: PathBuf,
        /// What is wrong with it.
        source: ModelError,
    },
    /// One inference in preparation does not fit a session's part of the memory.
    #[error(
        "the model in {} needs {needed} bytes to prepare one inference, more than each of {sessions} sessions has of {bytes}: raise --prepared-memory or lower --max-sessions",
        dir.display()
    )]
    Memory {
        /// Its folder.
        dir: PathBuf,
        /// Bytes of one inference in preparation.
        needed: usize,
        /// Sessions at the same time.
        sessions: usize,
        /// Bytes of all sessions together.
        bytes: usize,
    },
    /// No model was named.
    #[error(
        "no model to serve: name a folder that holds model.json with --model DIR, or a folder of such models with --repository DIR"
    )]
    NoModel,
    /// Two models have the same name.
    #[error(
        "two models are called '{name}', the second one in {}: change \"name\" in one of their model.json files",
        dir.display()
    )]
    SameName {
        /// The name.
        name: String,
        /// Folder of the second one.
        dir: PathBuf,
    },
    /// The certificate or its key cannot be used.
    #[error(
        "{}: {reason}. `pi-server certificate --out DIR` makes a certificate for development",
        path.display()
    )]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The repository's folder cannot be used.
    #[error("the repository {}: {reason}. It holds MODEL/VERSION/model.json and model.safetensors, a version being a number", path.display())]
    Repository {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A token cannot be made.
    #[error("{0}")]
    Token(String),
    /// The file of tokens cannot be used.
    #[error("{}: {reason}", path.display())]
    Tokens {
        /// The file.
        path: PathBuf,
        /// The line and what is wrong with it.
        reason: String,
    },
    /// The file of `--ledger` cannot be written.
    #[error(
        "cannot write the ledger {}: {source}. Choose a file with --ledger that this user may write, on a disk with room, or leave the option out",
        path.display()
    )]
    Ledger {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// Prepared inferences cannot be kept.
    #[error(transparent)]
    Store(#[from] crate::store::contract::StoreError),
    /// Spans cannot be sent.
    #[error(
        "cannot send traces to {endpoint}: {reason}. Give --otlp-endpoint the address of a collector's gRPC port, for example http://localhost:4317"
    )]
    Telemetry {
        /// The collector.
        endpoint: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The descriptions of our services cannot be served.
    #[error("the description of the services is broken, which is a bug: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The network layer failed.
    #[error("the network layer failed: {0}")]
    Transport(#[from] tonic::transport::Error),
}

fn advice(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            "Another program listens there: stop it, or choose another port (port 0 takes any free one)"
        }
        std::io::ErrorKind::PermissionDenied => {
            "Ports below 1024 need special rights: choose a higher one"
        }
        std::io::ErrorKind::AddrNotAvailable => {
            "This machine has no such address: 127.0.0.1 serves this machine only, 0.0.0.0 all networks"
        }
        _ => "Choose another address with --listen",
    }
}

fn missing(dir: &std::path::Path) -> &'static str {
    if dir.join("model.json").exists() {
        ""
    } else {
        ". A model is a folder with model.json and model.safetensors"
    }
}
