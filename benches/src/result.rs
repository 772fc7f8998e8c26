//! The result: one JSON document, from which every table and picture derives. `proto/schema/report.schema.json` says
//! what is in it.
//!
//! Set-up is counted for one session, offline for one batch, online for one inference. Bytes are payloads of the protocol;
//! the one-byte requests that start a batch or an inference are left out, as in the predicted cost.

use std::collections::BTreeMap;
use std::path::Path;

use pi_protocol::record::{EventRecord, Party};
use pi_protocol::session::GarblingMode;
use pi_protocol::session::OtMode;
use serde::{Deserialize, Serialize};

use crate::calibrate::Rates;
use crate::error::BenchError;
use crate::host::Host;
use crate::network::NetworkInfo;
use crate::stats::Latency;

/// Version of the document. Version 1 had no times of the server; it is still read.
pub const SCHEMA_VERSION: u32 = 2;

/// Name of the file in the folder of a report.
pub const FILE: &str = "report.json";

/// Everything that one call of `pi-bench run` has found.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Name of the suite.
    pub suite: String,
    /// What the suite is for.
    pub description: String,
    /// When it was started, in seconds since 1970.
    pub started_unix_s: u64,
    /// Where.
    pub host: Host,
    /// What one core or all cores do in a second here.
    pub rates: Option<Rates>,
    /// One client at a time.
    pub runs: Vec<Run>,
    /// Many clients at once.
    pub scale: Vec<ScaleRun>,
    /// What was planned and is not here, and why.
    pub missing: Vec<Missing>,
    /// What a reader should know before believing a number.
    pub warnings: Vec<String>,
}

/// A planned measurement that was not made, or not to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Missing {
    /// Name of the model.
    pub model: String,
    /// Name of the network.
    pub network: String,
    /// Why.
    pub reason: String,
}

/// One model on one network.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// What ran.
    pub model: ModelInfo,
    /// Inferences prepared together.
    pub batch: usize,
    /// How OTs were made; older documents know one way only.
    #[serde(default)]
    pub ot: OtMode,
    /// How circuits were garbled; older documents know one way only.
    #[serde(default)]
    pub garbling: GarblingMode,
    /// Between the two processes.
    pub network: NetworkInfo,
    /// Times and counts.
    pub phases: Phases,
    /// Layer by layer.
    pub layers: Vec<LayerRun>,
    /// Traffic by (phase, layer, operation, direction).
    pub ledger: Vec<LedgerEntry>,
    /// Peak resident memory of each process.
    pub memory: Memory,
    /// Comparison with the same network in the clear.
    pub plaintext: Plaintext,
    /// Inferences a second of one client, preparation included: batch / (offline + batch * online), from medians.
    pub throughput_per_s: f64,
    /// From plan and calibration alone.
    pub predicted: Option<Predicted>,
    /// One inference, as both parties' ledgers saw it.
    pub timeline: Vec<TimelineEvent>,
    /// CPU time of all other processes during the samples, as a share of the machine's.
    pub foreign_cpu_share: f64,
    /// Load average over a minute when the run ended.
    pub load_average: f64,
}

/// What ran.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelInfo {
    /// Its name.
    pub name: String,
    /// For example `resnet18`.
    pub architecture: String,
    /// Data set that it was trained on, or "random weights".
    pub dataset: String,
    /// BLAKE3 of model.json and model.safetensors.
    pub checksum: String,
    /// Positions at which a ReLU could be.
    pub relus_total: usize,
    /// Surviving ReLUs.
    pub relus_kept: usize,
    /// Percent, of the fixed-point network on its whole test set; none for random weights.
    pub accuracy: Option<f64>,
    /// AND gates of one inference.
    pub and_gates: u64,
    /// Oblivious transfers of one inference.
    pub ots: u64,
    /// Ciphertext polynomials of one batch.
    pub ciphertexts: u64,
    /// Multiply-adds of one inference.
    pub multiply_adds: u64,
}

/// The three phases.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phases {
    /// One session.
    pub setup: PhaseRun,
    /// One batch.
    pub offline: PhaseRun,
    /// One inference.
    pub online: PhaseRun,
}

/// One phase.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PhaseRun {
    /// Wall-clock time at the client.
    pub latency: Latency,
    /// CPU time of the client's process, mean.
    pub cpu_s_client: f64,
    /// CPU time of the server's process, mean.
    pub cpu_s_server: f64,
    /// Client to server.
    pub bytes_c2s: u64,
    /// Server to client.
    pub bytes_s2c: u64,
    /// In both directions.
    pub messages: u64,
    /// Changes of direction from client to server.
    pub rounds: u64,
    /// Time in which the client waited for the server or the wire, mean.
    pub waited_s_client: f64,
    /// Time of the client's own computations by operation, mean.
    pub operations_s_client: BTreeMap<String, f64>,
    /// From the first to the last moment of the server's part, mean: computing, waiting, handing messages over.
    #[serde(default)]
    pub wall_s_server: f64,
    /// Time in which the server waited for the client or the wire, mean.
    #[serde(default)]
    pub waited_s_server: f64,
    /// Time of the server's own computations by operation, mean; empty when the server could not tell.
    #[serde(default)]
    pub operations_s_server: BTreeMap<String, f64>,
}

/// One layer. Online times are those of the round trip that ends in this layer; layers without a ReLU have none of their
/// own, and are part of the next one's wait.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerRun {
    /// Name of the operation that ends it.
    pub name: String,
    /// Positions at which a ReLU could be.
    pub relus_total: usize,
    /// Surviving ReLUs.
    pub relus_kept: usize,
    /// AND gates of one inference.
    pub and_gates: u64,
    /// Oblivious transfers of one inference.
    pub ots: u64,
    /// Ciphertext polynomials of one batch.
    pub ciphertexts: u64,
    /// Offline, of one batch, for linear layers under encryption.
    pub offline_linear_bytes: u64,
    /// Offline, of one batch, for garbled circuits, OT corrections and identity positions.
    pub offline_relu_bytes: u64,
    /// Online, of one inference.
    pub online_bytes: u64,
    /// The client waits for the server's linear layers and labels, and for the wire; median.
    pub online_wait_s: f64,
    /// The client evaluates and opens; median.
    pub online_client_s: f64,
    /// The server's convolutions and truncation, of this very layer; median.
    #[serde(default)]
    pub online_server_linear_s: f64,
    /// The server selects labels and multiplexes, in this very layer; median.
    #[serde(default)]
    pub online_server_relu_s: f64,
    /// Of one batch: the server rebuilds ciphertexts and multiplies under encryption for this layer; median.
    #[serde(default)]
    pub offline_server_linear_s: f64,
    /// Of one batch: the server garbles this layer and prepares its multiplexers; median. OT extension is for all layers
    /// together and not in here.
    #[serde(default)]
    pub offline_server_relu_s: f64,
    /// From plan and calibration.
    pub online_predicted_s: f64,
}

/// Traffic of one kind, in the unit of its phase.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LedgerEntry {
    /// setup, offline or online.
    pub phase: String,
    /// Index of the layer; zero where there is none.
    pub layer: u16,
    /// Kind of message.
    pub operation: String,
    /// c2s or s2c.
    pub direction: String,
    /// Payload.
    pub bytes: u64,
    /// How many.
    pub messages: u64,
}

/// Peak resident memory.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// Of the client's process.
    pub client_peak_bytes: u64,
    /// Of the server's process.
    pub server_peak_bytes: u64,
}

/// Comparison with the same network in the clear.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plaintext {
    /// Inferences compared.
    pub n_compared: usize,
    /// Same class.
    pub n_agree: usize,
    /// Largest difference of a logit, in units of its scale; zero where only the class is opened.
    pub max_logit_error: f64,
    /// The integer executor in the clear, in the client's process.
    pub latency: Latency,
}

/// From plan and calibration alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Predicted {
    /// One session.
    pub setup_s: f64,
    /// One batch.
    pub offline_s: f64,
    /// One inference.
    pub online_s: f64,
    /// Part of online: the server's linear layers.
    pub online_linear_s: f64,
    /// Part of online: labels, evaluation and their bytes on the wire.
    pub online_relu_s: f64,
    /// Part of online: delays, input and output.
    pub online_other_s: f64,
}

/// One event of one inference; the clock starts when the masked input leaves the client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimelineEvent {
    /// Whose.
    #[serde(default)]
    pub party: Party,
    /// compute, wait, sent or received.
    pub kind: String,
    /// Operation or kind of message.
    pub what: String,
    /// Index of the layer, where there is one.
    pub layer: Option<u16>,
    /// Payload of a message.
    pub bytes: u64,
    /// When it began.
    pub start_s: f64,
    /// How long it took; zero for messages.
    pub seconds: f64,
}

impl TimelineEvent {
    /// An event of `party`, on a clock that is `shift_s` ahead of the record's.
    #[must_use]
    pub fn new(party: Party, event: &EventRecord, shift_s: f64) -> Self {
        Self {
            party,
            kind: event.kind.clone(),
            what: event.what.clone(),
            layer: event.layer,
            bytes: event.bytes,
            start_s: event.start_s + shift_s,
            seconds: event.seconds,
        }
    }
}

/// Many clients at once, each a process of its own.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScaleRun {
    /// What ran.
    pub model: ModelInfo,
    /// Between the processes.
    pub network: NetworkInfo,
    /// Inferences prepared together.
    pub batch: usize,
    /// How OTs were made.
    #[serde(default)]
    pub ot: OtMode,
    /// How circuits were garbled.
    #[serde(default)]
    pub garbling: GarblingMode,
    /// How many.
    pub clients: usize,
    /// Whether inferences were prepared before the clock started.
    pub prepared: bool,
    /// Requests answered by all clients together.
    pub requests: usize,
    /// From the first request to the last answer.
    pub seconds: f64,
    /// Their quotient.
    pub requests_per_s: f64,
    /// Median latency of a request.
    pub p50_s: f64,
    /// 90th percentile.
    pub p90_s: f64,
    /// 99th percentile.
    pub p99_s: f64,
    /// CPU time of the server's process.
    pub cpu_s_server: f64,
    /// Its peak resident memory.
    pub server_peak_bytes: u64,
    /// CPU time of all other processes during the measurement, warm-up included, as a share of the machine's.
    #[serde(default)]
    pub foreign_cpu_share: f64,
}

impl Report {
    /// Writes the document to `dir` under a temporary name, then renames it: a crash leaves the last whole one.
    ///
    /// # Errors
    /// [`BenchError::File`], for example when the disk is full; the last whole document stays.
    pub fn save(&self, dir: &Path) -> Result<(), BenchError> {
        let path = dir.join(FILE);
        let json = serde_json::to_vec_pretty(self).map_err(|e| BenchError::Content {
            path: path.clone(),
            reason: e.to_string(),
        })?;
        write_whole(&path, &json)
    }

    /// Reads a document: `path` is the file or its folder.
    ///
    /// # Errors
    /// [`BenchError::File`] or [`BenchError::Content`].
    pub fn load(path: &Path) -> Result<Self, BenchError> {
        let path = if path.is_dir() {
            path.join(FILE)
        } else {
            path.to_owned()
        };
        let json = std::fs::read(&path).map_err(BenchError::file(&path))?;
        let report: Self = serde_json::from_slice(&json).map_err(|e| BenchError::Content {
            path: path.clone(),
            reason: format!("not a report of this release: {e}"),
        })?;
        if !(1..=SCHEMA_VERSION).contains(&report.schema_version) {
            return Err(BenchError::Content {
                path,
                reason: format!(
                    "version {} of the document; this release reads 1 to {SCHEMA_VERSION}",
                    report.schema_version
                ),
            });
        }
        Ok(report)
    }
}

/// Writes `bytes` to a temporary name beside `path`, syncs and renames.
///
/// # Errors
/// [`BenchError::File`]; what was at `path` stays.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), BenchError> {
    use std::io::Write as _;
    let temporary = path.with_extension("tmp");
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write().map_err(|source| {
        // Nothing depends on the leftover; it may not even exist.
        let _ = std::fs::remove_file(&temporary);
        BenchError::File {
            path: path.to_owned(),
            source,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_written_leaves_the_last_whole_document() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        write_whole(&path, b"first").unwrap();
        // A folder where the temporary file would be stands for every reason not to write it.
        std::fs::create_dir(path.with_extension("tmp")).unwrap();
        let error = write_whole(&path, b"second").unwrap_err();
        assert!(error.to_string().contains(FILE), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"first");
        assert!(matches!(
            Report::load(dir.path()),
            Err(BenchError::Content { .. })
        ));
        assert!(matches!(
            Report::load(&dir.path().join("no")),
            Err(BenchError::File { .. })
        ));
    }
}
