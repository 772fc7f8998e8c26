//! Why a file could not be imported.

use std::path::Path;

use pi_model::ModelError;

/// Result of an import.
pub type Result<T> = std::result::Result<T, ImportError>;

/// Why a file could not be imported, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// A file could not be read.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: String,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The file is something else, or damaged.
    #[error("{path} is not an ONNX file: {reason}")]
    NotOnnx {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The file is larger than is read.
    #[error("{path} has {bytes} bytes; files of at most {limit} bytes are read")]
    TooLarge {
        /// The file.
        path: String,
        /// Its size.
        bytes: u64,
        /// Most that is read.
        limit: u64,
    },
    /// The operators are of a version that is not known.
    #[error(
        "{path} uses version {version} of the ONNX operators; versions {oldest} to {newest} are known. Export it with one of these (for example `opset_version=17`)"
    )]
    Opset {
        /// The file.
        path: String,
        /// Its version.
        version: i64,
        /// First version that is read.
        oldest: i64,
        /// Last version that is read.
        newest: i64,
    },
    /// Weights that lie in another file are not there, or not inside the folder of the model.
    #[error("the weights of '{tensor}' should be in {location}: {reason}")]
    External {
        /// The constant.
        tensor: String,
        /// The file.
        location: String,
        /// What is wrong.
        reason: String,
    },
    /// A constant cannot be read.
    #[error("the constant '{tensor}' cannot be read: {reason}")]
    Tensor {
        /// The constant.
        tensor: String,
        /// What is wrong.
        reason: String,
    },
    /// The graph is not one image in, one result out.
    #[error("{0}")]
    Graph(String),
    /// The input has no fixed shape.
    #[error(
        "the input '{input}' has the shape {shape}, of which only the first, the batch, may be open. Say --input-shape C,H,W (for example 3,224,224)"
    )]
    DynamicInput {
        /// The input.
        input: String,
        /// Its shape, as the file has it.
        shape: String,
    },
    /// Operators that cannot be run privately.
    #[error("{}", list(.0))]
    Unsupported(Vec<Refusal>),
    /// An option does not fit the network.
    #[error("{0}")]
    Option(String),
    /// The operations do not fit together.
    #[error(transparent)]
    Model(#[from] ModelError),
}

impl ImportError {
    pub(crate) fn file(path: &Path, source: std::io::Error) -> Self {
        Self::File {
            path: path.display().to_string(),
            source,
        }
    }
}

/// One operator that cannot be run privately.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Name of the node, or of its result if it has none.
    pub node: String,
    /// Its operator.
    pub op_type: String,
    /// Why not, and the way out.
    pub reason: String,
}

/// The refused nodes, those with the same operator and reason together.
fn list(refusals: &[Refusal]) -> String {
    let mut groups: Vec<(&Refusal, Vec<&str>)> = vec![];
    for refusal in refusals {
        let same = |(r, _): &&mut (&Refusal, Vec<&str>)| {
            (&r.op_type, &r.reason) == (&refusal.op_type, &refusal.reason)
        };
        match groups.iter_mut().find(same) {
            Some((_, nodes)) => nodes.push(&refusal.node),
            None => groups.push((refusal, vec![&refusal.node])),
        }
    }
    let mut text = match refusals.len() {
        1 => "1 operator cannot be run privately:".to_owned(),
        n => format!("{n} operators cannot be run privately:"),
    };
    for (r, nodes) in groups {
        text += &format!("\n  {}: {}\n    {}", r.op_type, r.reason, nodes.join(", "));
    }
    text
}
