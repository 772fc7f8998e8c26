//! What can go wrong in training and export. Every message says what to do next.

use std::path::PathBuf;

/// Result of the trainer's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of the trainer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A data file is missing, short, long or holds a value out of range.
    #[error("data file {path}, byte {offset}: {what}")]
    Data {
        /// The file.
        path: PathBuf,
        /// Byte offset (of the unpacked contents, if the file is gzipped).
        offset: u64,
        /// What is wrong, and what was expected.
        what: String,
    },
    /// An image file that holds no whole picture.
    #[error("{path}: {reason}")]
    Image {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file could not be read or written.
    #[error("{path}: {why}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        why: std::io::Error,
    },
    /// A checkpoint does not fit this run.
    #[error("checkpoint {path}: {what}")]
    Checkpoint {
        /// The checkpoint.
        path: PathBuf,
        /// What does not fit, and the way out.
        what: String,
    },
    /// An interrupt; the checkpoint holds everything.
    #[error("interrupted; saved to {0}: run the same command with --resume to go on")]
    Interrupted(PathBuf),
    /// The loss, or a weight, is no number.
    #[error(
        "the loss or a weight became {value} in epoch {epoch}: stopped. Start again with a lower --lr (or --compute f32) in another --out; the last checkpoint, if one was written, is intact in {path}"
    )]
    Diverged {
        /// The loss, or the sum of the weights.
        value: f64,
        /// Epoch, counted from 1.
        epoch: usize,
        /// The checkpoint.
        path: PathBuf,
    },
    /// A ReLU budget that cannot be met.
    #[error("ReLU budget: {0}")]
    Budget(String),
    /// Arguments that do not go together.
    #[error("{0}")]
    Usage(String),
    /// The network has no integers of the bits that were asked for.
    #[error("export: {0}")]
    Quantise(#[from] pi_convert::quantise::Error),
    /// The exported model does not fit the protocol's numbers.
    #[error("export: {0}")]
    Export(String),
    /// libtorch refused an operation.
    #[error("libtorch: {0}")]
    Torch(#[from] tch::TchError),
    /// A JSON value could not be read or written.
    #[error("json: {0}")]
    Json(#[from] serde_json::Error),
}

/// Attaches the path to an I/O error.
pub(crate) fn io_error(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.into();
    move |why| Error::Io { path, why }
}
