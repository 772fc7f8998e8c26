//! What an operator may set, in three places: a TOML file, variables `PI_SERVER_...`, and flags. A flag is preferred to a
//! variable, a variable to the file, the file to the default. One struct describes all of them, so that a flag, its
//! variable and its key have the same name: `--max-sessions`, `PI_SERVER_MAX_SESSIONS`, `max-sessions`.
//!
//! Security: an unknown key is refused, because a limit that is misspelt is a limit that is not there. No setting is a
//! secret itself; those that need one name a file.

mod options;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::models::root::Mode;
use crate::options::AdminListen;
use crate::serve::ServeOptions;
use crate::store::StoreOptions;
use crate::units::{Span, Speed};

/// What every variable of the environment starts with.
pub const PREFIX: &str = "PI_SERVER_";
/// Variables that are no settings.
const OTHER_VARIABLES: [&str; 1] = ["PI_SERVER_CONFIG"];

/// How often a repository is read where nothing else is said.
const POLL: Span = Span(Duration::from_secs(15));

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}. `pi-server config default` prints one to start from", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The file is not a configuration.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Where and what, with the name of the key.
        reason: String,
    },
    /// A setting has a value that it cannot have, or misses another one.
    #[error("{key}: {reason}")]
    Value {
        /// Its key.
        key: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A variable has our prefix and names no setting.
    #[error(
        "the environment has {name}, which is no setting of this server: unset it or mend its name (`pi-server config default` lists all keys; max-sessions is PI_SERVER_MAX_SESSIONS)"
    )]
    Variable {
        /// Its name.
        name: String,
    },
}

/// Every setting, where it was set.
// The texts are the command line's help and the comments of the default file.
#[derive(Args, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Settings {
    /// Folder with model.json and model.safetensors; may be given more than once.
    #[arg(long, value_name = "DIR", env = "PI_SERVER_MODEL")]
    pub model: Option<Vec<PathBuf>>,
    /// Folder of models, each MODEL/VERSION/model.json and model.safetensors; the highest version that loads serves.
    #[arg(long, value_name = "DIR", env = "PI_SERVER_REPOSITORY")]
    pub repository: Option<PathBuf>,
    /// When the repository is read: none (at the start), poll (again and again), explicit (when told on the admin port).
    #[arg(long, value_name = "MODE", env = "PI_SERVER_REPOSITORY_MODE")]
    pub repository_mode: Option<Mode>,
    /// How often the repository is read in mode poll.
    #[arg(long, value_name = "TIME", env = "PI_SERVER_REPOSITORY_POLL")]
    pub repository_poll: Option<Span>,
    /// Model of the repository that is loaded at the start in mode explicit; may be given more than once.
    #[arg(long, value_name = "NAME", env = "PI_SERVER_LOAD_MODEL")]
    pub load_model: Option<Vec<String>>,
    /// Versions of a model of the repository that may serve, NAME=VERSION or NAME=VERSION,VERSION, the highest that loads first;
    /// may be given more than once. Other versions stay where they are.
    #[arg(long, value_name = "NAME=VERSION", env = "PI_SERVER_MODEL_VERSION")]
    pub model_version: Option<Vec<String>>,
    /// Address to listen on; port 0 takes any free one.
    #[arg(long, value_name = "ADDRESS", env = "PI_SERVER_LISTEN")]
    pub listen: Option<SocketAddr>,
    /// Address of the admin port for health, metrics and loading models, plain HTTP for the operator alone; or off. Unless set
    /// it is 127.0.0.1:9090 if that is free.
    #[arg(long, value_name = "ADDRESS", env = "PI_SERVER_ADMIN_LISTEN")]
    pub admin_listen: Option<AdminListen>,
    /// Name by which the admin port may be called, besides addresses, names without a dot, and those of the local network; may
    /// be given more than once.
    #[arg(long, value_name = "NAME", env = "PI_SERVER_ADMIN_HOST")]
    pub admin_host: Option<Vec<String>>,
    /// Most inferences that a client may prepare together, 1 to 64.
    #[arg(long, value_name = "N", env = "PI_SERVER_MAX_BATCH")]
    pub max_batch: Option<usize>,
    /// Pack ciphertexts for a network of this speed, for example 100Mbit or 1Gbit: fewer bytes on a slow one, less work on
    /// a fast one. Clients plan for the same.
    #[arg(long, value_name = "SPEED", env = "PI_SERVER_PACKING_BANDWIDTH")]
    pub packing_bandwidth: Option<Speed>,
    /// Most sessions at the same time.
    #[arg(long, value_name = "N", env = "PI_SERVER_MAX_SESSIONS")]
    pub max_sessions: Option<usize>,
    /// Let a session wait this long for a place when all are in use, and refuse it then; 0s refuses it at once.
    #[arg(long, value_name = "TIME", env = "PI_SERVER_QUEUE_TIMEOUT")]
    pub queue_timeout: Option<Span>,
    /// End a session that is silent for longer, for example 60s or 5m.
    #[arg(long, value_name = "TIME", env = "PI_SERVER_IDLE_TIMEOUT")]
    pub idle_timeout: Option<Span>,
    /// End a session of which one step, set-up, a batch or an inference, takes longer.
    #[arg(long, value_name = "TIME", env = "PI_SERVER_PHASE_TIMEOUT")]
    pub phase_timeout: Option<Span>,
    /// Memory for all sessions together, in MiB: prepared inferences, batches in work and queues; each session may use an equal part.
    #[arg(long, value_name = "MIB", env = "PI_SERVER_PREPARED_MEMORY")]
    pub prepared_memory: Option<u32>,
    /// Let clients choose silent oblivious transfers (`--ot silent`): fewer bytes offline and more computing.
    ///
    /// They rest on one more assumption, dual LPN for expand-convolute codes. Were it broken, such a client could learn signs
    /// of inner activations, and with many queries the weights. SECURITY.md, section 6.
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        env = "PI_SERVER_SILENT_OT"
    )]
    pub silent_ot: Option<bool>,
    /// How clients may have ReLUs garbled, of half-gates, three-halves and client-digits, with commas between; half-gates is what they
    /// choose by themselves. SECURITY.md, section 5, says what each rests on.
    #[arg(
        long,
        value_name = "MODES",
        value_delimiter = ',',
        env = "PI_SERVER_GARBLING"
    )]
    pub garbling: Option<Vec<String>>,
    /// How long work that runs may go on after SIGTERM or Ctrl-C; then it is cut off.
    #[arg(
        long,
        alias = "stop-timeout",
        value_name = "TIME",
        env = "PI_SERVER_DRAIN_TIMEOUT"
    )]
    pub drain_timeout: Option<Span>,
    /// Certificate chain in PEM.
    #[arg(long, value_name = "FILE", env = "PI_SERVER_TLS_CERT")]
    pub tls_cert: Option<PathBuf>,
    /// Its private key in PEM.
    #[arg(long, value_name = "FILE", env = "PI_SERVER_TLS_KEY")]
    pub tls_key: Option<PathBuf>,
    /// Authorities of clients in PEM. With it, clients must have a certificate from one of them (mutual TLS).
    #[arg(long, value_name = "FILE", env = "PI_SERVER_TLS_CLIENT_CA")]
    pub tls_client_ca: Option<PathBuf>,
    /// Most connections at the same time, and never more than half of the files that the process may open.
    #[arg(long, value_name = "N", env = "PI_SERVER_MAX_CONNECTIONS")]
    pub max_connections: Option<usize>,
    /// Most connections of one address (of an IPv6 network of 64 bits). Raise it behind a proxy that hides addresses.
    #[arg(long, value_name = "N", env = "PI_SERVER_CONNECTIONS_PER_ADDRESS")]
    pub connections_per_address: Option<usize>,
    /// Close a connection that has no session and had no call for so long.
    #[arg(long, value_name = "TIME", env = "PI_SERVER_CONNECTION_IDLE_TIMEOUT")]
    pub connection_idle_timeout: Option<Span>,
    /// Ask clients to connect anew after this time; sessions that run go on.
    #[arg(long, value_name = "TIME", env = "PI_SERVER_CONNECTION_AGE")]
    pub connection_age: Option<Span>,
    /// Let anybody ask what services there are (`grpc.reflection`).
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        env = "PI_SERVER_REFLECTION"
    )]
    pub reflection: Option<bool>,
    /// File with a line for each token, as `pi-server token new NAME` prints it. With it, clients must send a token.
    #[arg(long, value_name = "FILE", env = "PI_SERVER_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// How often certificates and tokens are looked at for changes.
    #[arg(long, value_name = "TIME", env = "PI_SERVER_RELOAD_INTERVAL")]
    pub reload_interval: Option<Span>,
    /// Most sessions at the same time for each identity. Clients without token and certificate are one identity together.
    #[arg(long, value_name = "N", env = "PI_SERVER_SESSIONS_PER_IDENTITY")]
    pub sessions_per_identity: Option<usize>,
    /// Most calls a minute for each identity; a new client makes two: it describes the model, and opens a session.
    #[arg(long, value_name = "N", env = "PI_SERVER_CALLS_PER_MINUTE")]
    pub calls_per_minute: Option<NonZeroU32>,
    /// Most inferences a day (UTC) for each identity.
    #[arg(long, value_name = "N", env = "PI_SERVER_INFERENCES_PER_DAY")]
    pub inferences_per_day: Option<u64>,
    /// Most bytes a day (UTC), both ways, for each identity.
    #[arg(long, value_name = "N", env = "PI_SERVER_BYTES_PER_DAY")]
    pub bytes_per_day: Option<u64>,
    /// Where prepared inferences may outlive their session: a file, made if it is not there, or a database that several
    /// servers share, postgres://USER@HOST/DATABASE with its password in PGPASSWORD. Without it nothing is kept.
    ///
    /// Never put an older copy of it back: what was used would be used again. SECURITY.md, section 11.
    #[arg(long, value_name = "STORE", env = "PI_SERVER_STORE")]
    pub store: Option<String>,
    /// File with the key that encrypts the store, 32 bytes in hex or base64, readable by this user alone; else it is in the
    /// variable PI_STORE_KEY.
    #[arg(long, value_name = "FILE", env = "PI_SERVER_STORE_KEY_FILE")]
    pub store_key_file: Option<PathBuf>,
    /// Authorities of the database's certificate in PEM; needed for a database on another machine.
    #[arg(long, value_name = "FILE", env = "PI_SERVER_STORE_CA")]
    pub store_ca: Option<PathBuf>,
    /// How long a prepared inference is kept.
    #[arg(long, value_name = "TIME", env = "PI_SERVER_STORE_TIME")]
    pub store_time: Option<Span>,
    /// Most that the store holds, in MiB.
    #[arg(long, value_name = "MIB", env = "PI_SERVER_STORE_SIZE")]
    pub store_size: Option<u32>,
    /// Most that the store holds of each identity, in MiB. Clients without token and certificate are one identity together.
    #[arg(long, value_name = "MIB", env = "PI_SERVER_STORE_SIZE_PER_IDENTITY")]
    pub store_size_per_identity: Option<u32>,
    /// Append where the time goes to FILE: one line of JSON for each finished step of a session.
    ///
    /// A step is set-up, one offline batch, or one inference. Its line has the seconds by operation and layer, the
    /// seconds spent waiting for the client, bytes and messages by kind and layer, round trips, and the events of the
    /// step with the time of day that their clock starts at. No values, no keys, nothing about inputs; but it does tell
    /// when somebody asked. Read it for example with
    /// `jq -c 'select(.record=="step" and .phase=="online").operations_s' FILE`. The file grows without limit. It must
    /// be writable at the start; a failure later is warned of once and serving goes on.
    #[arg(long, value_name = "FILE", env = "PI_SERVER_LEDGER")]
    pub ledger: Option<PathBuf>,
    /// Send a span for each session and each step to the OpenTelemetry collector at URL, by OTLP over gRPC, for example
    /// http://localhost:4317. No values, no keys, nothing about inputs; but it does tell who asked when.
    #[arg(long, value_name = "URL", env = "PI_SERVER_OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<String>,
}

/// Each field of the first that is set, else the second's.
macro_rules! merged {
    ($over:expr, $under:expr; $($field:ident),* $(,)?) => {
        Settings { $($field: $over.$field.or($under.$field)),* }
    };
}

impl Settings {
    /// What holds where nothing is set.
    #[must_use]
    pub fn defaults() -> Self {
        let of = ServeOptions::default();
        let store = StoreOptions::default();
        Self {
            listen: Some(of.listen),
            max_batch: Some(of.max_batch),
            packing_bandwidth: Some(Speed(of.packing_bandwidth)),
            max_sessions: Some(of.limits.max_sessions),
            queue_timeout: Some(Span(of.limits.queue_timeout)),
            idle_timeout: Some(Span(of.limits.idle_timeout)),
            phase_timeout: Some(Span(of.limits.phase_timeout)),
            repository_mode: Some(Mode::default()),
            repository_poll: Some(POLL),
            reload_interval: Some(Span(of.reload_interval)),
            prepared_memory: Some((of.limits.session_bytes >> 20) as u32),
            silent_ot: Some(of.limits.silent_ot),
            garbling: Some(of.limits.garbling.names()),
            drain_timeout: Some(Span(of.drain_timeout)),
            max_connections: Some(of.connections.total),
            connections_per_address: Some(of.connections.per_address),
            connection_idle_timeout: Some(Span(of.connections.idle)),
            connection_age: Some(Span(of.connections.age)),
            reflection: Some(of.reflection),
            store_time: Some(Span(store.keep_for)),
            store_size: Some((store.bounds.total_bytes >> 20) as u32),
            store_size_per_identity: Some((store.bounds.owner_bytes >> 20) as u32),
            ..Self::default()
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`ConfigError::Read`], or [`ConfigError::File`] naming the key.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text).map_err(|reason| ConfigError::File {
            path: path.to_owned(),
            reason,
        })
    }

    fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|e| e.to_string().trim().to_owned())
    }

    /// These settings, and for each that is missing the one of `under`.
    #[must_use]
    pub fn over(self, under: Self) -> Self {
        merged!(self, under;
            model, repository, repository_mode, repository_poll, load_model, model_version, listen, admin_listen, admin_host, max_batch,
            packing_bandwidth, max_sessions, queue_timeout, idle_timeout, phase_timeout, prepared_memory, silent_ot, garbling, drain_timeout, tls_cert,
            tls_key, tls_client_ca, max_connections, connections_per_address, connection_idle_timeout, connection_age,
            reflection, token_file, reload_interval, sessions_per_identity, calls_per_minute,
            inferences_per_day, bytes_per_day, store, store_key_file, store_ca, store_time, store_size,
            store_size_per_identity,
            ledger, otlp_endpoint,
        )
    }

    /// A file with every key, its meaning, and its default; keys without one are commented out.
    #[must_use]
    pub fn default_file() -> String {
        let defaults = serde_json::to_value(Self::defaults()).unwrap_or_default();
        let mut text = String::from(
            "# Settings of `pi-server serve --config FILE`. Each is also a flag (--max-sessions) and a variable of the\n# environment (PI_SERVER_MAX_SESSIONS): flags are preferred to variables, variables to this file. Paths are relative to\n# the working directory. Keys that are commented out are not set.\n",
        );
        for arg in command().get_arguments() {
            let Some(key) = arg.get_long() else { continue };
            text.push('\n');
            let help = arg.get_long_help().or(arg.get_help());
            for line in help.map(ToString::to_string).unwrap_or_default().lines() {
                text.push_str(format!("# {line}").trim_end());
                text.push('\n');
            }
            let kind = arg.get_value_names().and_then(<[_]>::first);
            // What JSON and TOML write alike: texts, numbers, true and false, lists of them. Writing to a String cannot fail.
            let _ = match defaults.get(key).filter(|v| !v.is_null()) {
                Some(value) => writeln!(text, "{key} = {value}"),
                None if matches!(key, "model" | "load-model" | "model-version" | "admin-host") => {
                    writeln!(text, "# {key} = [\"NAME\"]")
                }
                None if kind.is_some_and(|k| k.as_str() == "N") => writeln!(text, "# {key} = 1000"),
                None => writeln!(text, "# {key} = \"{}\"", kind.map_or("", |k| k.as_str())),
            };
        }
        text
    }

    /// The same command, whose help shows the defaults. They are not clap's, which would prefer them to a file.
    #[must_use]
    pub fn show_defaults(command: clap::Command) -> clap::Command {
        let defaults = serde_json::to_value(Self::defaults()).unwrap_or_default();
        command.mut_args(|arg| {
            let default = arg.get_long().and_then(|key| defaults.get(key));
            let Some(default) = default.filter(|value| !value.is_null()) else {
                return arg;
            };
            let default = default.as_str().map_or(default.to_string(), str::to_owned);
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            arg.help(format!("{help} [default: {default}]"))
        })
    }

    /// Refuses a variable that has our prefix and is no setting. Those that Kubernetes makes for a service called pi-server
    /// are not ours to refuse.
    ///
    /// # Errors
    /// [`ConfigError::Variable`].
    pub fn check_variables(names: impl Iterator<Item = String>) -> Result<(), ConfigError> {
        let command = command();
        for name in names.filter(|name| name.starts_with(PREFIX)) {
            let mut arguments = command.get_arguments();
            let ours = arguments.any(|a| a.get_env().is_some_and(|env| env == name.as_str()));
            let of_a_service = ["_SERVICE_HOST", "_SERVICE_PORT", "_PORT_"]
                .iter()
                .any(|part| name.contains(part))
                || name.ends_with("_PORT");
            if !ours && !of_a_service && !OTHER_VARIABLES.contains(&name.as_str()) {
                return Err(ConfigError::Variable { name });
            }
        }
        Ok(())
    }
}

fn command() -> clap::Command {
    Settings::augment_args(clap::Command::new("serve"))
}

#[cfg(test)]
mod tests;
