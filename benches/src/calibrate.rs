//! What this machine does in a second: the few rates from which [`crate::predict`] computes times.
//!
//! Each is the middle of a few short runs of the same public functions that the protocol calls, on all cores where the
//! protocol uses all cores; the transport is measured between two processes. The whole takes about two seconds.

mod circuits;
mod encryption;
mod fit;
mod layers;
pub mod peer;
mod transport;

use std::path::{Path, PathBuf};
use std::time::Instant;

use pi_protocol::session::GarblingMode;
use serde::{Deserialize, Serialize};

use crate::error::BenchError;
use crate::host::Host;

/// Version of the set of rates; stored rates of another are measured again.
const VERSION: u32 = 6;

macro_rules! rates {
    ($($(#[$doc:meta])* $name:ident, $text:literal, $unit:literal, $of:expr;)*) => {
        /// Seconds of each kind of work. Where nothing else is said both parties' work is in it.
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct Rates {
            /// CPU that they belong to.
            pub cpu: String,
            /// Version of this set.
            pub version: u32,
            $($(#[$doc])* pub $name: f64,)*
        }

        impl std::fmt::Display for Rates {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{}", self.cpu)?;
                $({
                    let of: fn(f64) -> f64 = $of;
                    write!(f, "\n{:<44} {:>10.2} {}", $text, of(self.$name), $unit)?;
                })*
                Ok(())
            }
        }
    };
}

rates! {
    /// Garbling one AND gate.
    garble_and_s, "garble one AND gate", "ns", |s| s * 1e9;
    /// Evaluating one AND gate.
    evaluate_and_s, "evaluate one AND gate", "ns", |s| s * 1e9;
    /// Garbling one AND gate by three halves.
    garble_sliced_and_s, "garble one AND gate, three halves", "ns", |s| s * 1e9;
    /// Evaluating one AND gate by three halves.
    evaluate_sliced_and_s, "evaluate one AND gate, three halves", "ns", |s| s * 1e9;
    /// Garbling one radix-16 digit.
    garble_digit_s, "garble one radix-16 digit", "ns", |s| s * 1e9;
    /// Evaluating one radix-16 digit.
    evaluate_digit_s, "evaluate one radix-16 digit", "ns", |s| s * 1e9;
    /// Everything of one OT by extension.
    ot_s, "one extended OT, both parties", "ns", |s| s * 1e9;
    /// Everything of one silent OT.
    silent_ot_s, "one silent OT, both parties", "ns", |s| s * 1e9;
    /// One set of base OTs.
    base_ot_s, "one set of base OTs, both parties", "ms", |s| s * 1e3;
    /// Offline, for each label: derandomisation and both parties' labels.
    prepare_label_s, "label offline, both parties", "ns", |s| s * 1e9;
    /// Offline, for each ReLU: hashes of output labels, pads and shares of the multiplexer.
    prepare_relu_s, "ReLU offline without gates and OTs", "ns", |s| s * 1e9;
    /// Online, for each label: the server chooses and writes it, the client reads it.
    label_s, "label online, both parties", "ns", |s| s * 1e9;
    /// Online, for each ReLU: both parties' multiplexer, hash, packing and unpacking.
    relu_s, "ReLU online without gates and labels", "ns", |s| s * 1e9;
    /// Online, for each byte of the inference's tables and labels: the client wipes and frees them.
    forget_byte_s, "bytes of used-up material forgotten", "GB/s", |s| 1e-9 / s;
    /// Online, for each position of a layer: the server masks, truncates and places the value.
    position_s, "position of a layer online", "ns", |s| s * 1e9;
    /// One multiply-add of the integer convolution.
    multiply_add_s, "integer multiply-adds", "G/s", |s| 1e-9 / s;
    /// Fetching one weight of the integer convolution for the first pixel.
    weight_s, "weight of an integer layer", "ns", |s| s * 1e9;
    /// Gathering one input or writing one output of an integer layer.
    value_s, "input or output of an integer layer", "ns", |s| s * 1e9;
    /// One key of a source.
    key_s, "key of a source, both parties", "us", |s| s * 1e6;
    /// Encrypting one polynomial, at the client.
    encrypt_s, "encrypt a polynomial", "us", |s| s * 1e6;
    /// Rebuilding and transforming one ciphertext, at the server.
    rebuild_s, "rebuild a ciphertext", "us", |s| s * 1e6;
    /// Transforming one polynomial of weights.
    weight_transform_s, "transform weights", "us", |s| s * 1e6;
    /// Multiplying one ciphertext and adding it.
    product_s, "ciphertext product", "us", |s| s * 1e6;
    /// Blinding and rounding one response, at the server.
    finish_s, "finish a response", "us", |s| s * 1e6;
    /// Decrypting one response, at the client.
    decrypt_s, "decrypt a response", "us", |s| s * 1e6;
    /// One round trip of a small message, over gRPC between two processes on this machine.
    round_trip_s, "round trip over local gRPC", "us", |s| s * 1e6;
    /// One more byte of a message that the other party waits for.
    message_byte_s, "bytes of an awaited message", "GB/s", |s| 1e-9 / s;
    /// One byte of a stream of large messages.
    stream_byte_s, "bytes of a stream of messages", "GB/s", |s| 1e-9 / s;
}

/// Middle of `n` runs of `body` after one that warms up, in seconds.
fn typical<T>(n: usize, mut body: impl FnMut() -> T) -> f64 {
    std::hint::black_box(body());
    let run = |_| {
        let started = Instant::now();
        std::hint::black_box(body());
        started.elapsed().as_secs_f64()
    };
    crate::stats::median(&(0..n).map(run).collect::<Vec<_>>())
}

/// As [`typical`], but each run finds the caches full of other things: what was prepared long before its use, or is used
/// once, comes from memory.
fn cold<T>(n: usize, mut body: impl FnMut() -> T) -> f64 {
    let mut other = vec![0u64; 8 << 20];
    std::hint::black_box(body());
    let run = |i| {
        for line in other.iter_mut().step_by(8) {
            *line += i;
        }
        std::hint::black_box(&mut other);
        let started = Instant::now();
        std::hint::black_box(body());
        started.elapsed().as_secs_f64()
    };
    crate::stats::median(&(0..n as u64).map(run).collect::<Vec<_>>())
}

impl Rates {
    /// Garbling one AND gate, or one digit.
    #[must_use]
    pub const fn garble_s(&self, mode: GarblingMode) -> f64 {
        match mode {
            GarblingMode::HalfGates => self.garble_and_s,
            GarblingMode::ThreeHalves => self.garble_sliced_and_s,
            GarblingMode::ClientDigits => self.garble_digit_s,
        }
    }

    /// Evaluating one AND gate, or one digit.
    #[must_use]
    pub const fn evaluate_s(&self, mode: GarblingMode) -> f64 {
        match mode {
            GarblingMode::HalfGates => self.evaluate_and_s,
            GarblingMode::ThreeHalves => self.evaluate_sliced_and_s,
            GarblingMode::ClientDigits => self.evaluate_digit_s,
        }
    }

    /// Measures this machine.
    ///
    /// # Errors
    /// [`BenchError::Protocol`] or [`BenchError::Process`], which would be bugs.
    pub fn measure() -> Result<Self, BenchError> {
        let mut rates = Self {
            cpu: Host::here().cpu,
            version: VERSION,
            ..Self::default()
        };
        rates.circuits()?;
        rates.forgetting();
        rates.transfers()?;
        rates.layers()?;
        rates.encryption()?;
        rates.transport()?;
        Ok(rates)
    }

    /// The file that is used when none is named.
    #[must_use]
    pub fn default_path() -> PathBuf {
        let cache = std::env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
        cache
            .unwrap_or_else(std::env::temp_dir)
            .join("pi-bench")
            .join("calibration.json")
    }

    /// Stores the rates.
    ///
    /// # Errors
    /// [`BenchError::File`].
    pub fn save(&self, path: &Path) -> Result<(), BenchError> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(BenchError::file(dir))?;
        }
        let json = serde_json::to_vec_pretty(self).unwrap_or_default();
        crate::result::write_whole(path, &json)
    }

    /// Reads stored rates of this machine; none if there are none, or if they are of another CPU or release.
    #[must_use]
    pub fn load(path: &Path) -> Option<Self> {
        let rates: Self = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        (rates.cpu == Host::here().cpu && rates.version == VERSION).then_some(rates)
    }
}
