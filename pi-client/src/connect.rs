//! The connection to a server, and what the server says about its models.
//!
//! Security: the description is the server's word. The plan is computed here from it, and its hash goes back in Open, so
//! both sides run the same plan or none.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pi_model::PublicModel;
use pi_model::packing::PackingGoal;
use pi_proto::limits::{
    CONNECTION_WINDOW_BYTES, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, MAX_DESCRIPTION_BYTES,
    MAX_MESSAGE_BYTES, STREAM_WINDOW_BYTES,
};
use pi_proto::v1::private_inference_client::PrivateInferenceClient;
use pi_proto::v1::{DescribeRequest, ListModelsRequest};
use pi_protocol::wire::PROTOCOL_VERSION;
use tokio::runtime::Runtime;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use crate::error::ClientError;

/// How to reach a server.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// `http://HOST:PORT`, or `https://HOST:PORT` for TLS.
    pub url: String,
    /// Certificate to trust, in PEM; without it the system's own authorities are trusted.
    pub ca: Option<PathBuf>,
    /// How long to wait for the connection.
    pub connect_timeout: Duration,
    /// How long the server may be silent within a session. It computes for seconds in the offline phase.
    pub idle_timeout: Duration,
}

impl ConnectOptions {
    /// The server at `url` with default times.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            ca: None,
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(300),
        }
    }

    /// The same server, trusting the certificate in `path`.
    #[must_use]
    pub fn with_ca(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca = Some(path.into());
        self
    }
}

/// What a server says about one of its models.
#[derive(Clone, Debug)]
pub struct Description {
    /// The public model, checked.
    pub model: PublicModel,
    /// Version of the server program.
    pub server_version: String,
    /// Largest batch that the server grants.
    pub max_batch: usize,
    /// How long the server lets a session be silent.
    pub idle_timeout: Duration,
    /// The network for which the server packs ciphertexts.
    pub packing: PackingGoal,
}

/// A connection to one server.
pub struct Client {
    pub(crate) channel: Channel,
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) options: ConnectOptions,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// [`ClientError::Address`], [`ClientError::Unreachable`], or [`ClientError::File`] for the certificate.
    pub fn connect(options: ConnectOptions) -> Result<Self, ClientError> {
        let address = || ClientError::Address {
            url: options.url.clone(),
        };
        let tls = options.url.starts_with("https://");
        if !tls && !options.url.starts_with("http://") {
            return Err(address());
        }
        let mut endpoint = Endpoint::from_shared(options.url.clone())
            .map_err(|_| address())?
            .connect_timeout(options.connect_timeout)
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT);
        if tls {
            let config = match &options.ca {
                Some(path) => {
                    let file = |reason| ClientError::File {
                        path: path.clone(),
                        reason,
                    };
                    let pem = std::fs::read(path)
                        .map_err(|e| file(format!("cannot read the certificate: {e}")))?;
                    if !pem.windows(11).any(|w| w == b"-----BEGIN ") {
                        return Err(file("it holds no certificate in PEM form".into()));
                    }
                    ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem))
                }
                None => ClientTlsConfig::new().with_enabled_roots(),
            };
            endpoint = endpoint
                .tls_config(config)
                .map_err(|e| ClientError::unreachable(&options.url, &e))?;
        } else if options.ca.is_some() {
            return Err(ClientError::Mismatch(format!(
                "a certificate was given, but {} does not use TLS; write https://",
                options.url
            )));
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("network")
            .enable_all()
            .build()
            .map_err(|e| ClientError::unreachable(&options.url, &e))?;
        let channel = runtime
            .block_on(endpoint.connect())
            .map_err(|e| ClientError::unreachable(&options.url, &e))?;
        Ok(Self {
            channel,
            runtime: Arc::new(runtime),
            options,
        })
    }

    pub(crate) fn stub(&self, max_message_bytes: usize) -> PrivateInferenceClient<Channel> {
        PrivateInferenceClient::new(self.channel.clone())
            .max_decoding_message_size(max_message_bytes)
    }

    pub(crate) fn refused(&self, status: &tonic::Status) -> ClientError {
        ClientError::from_status(&self.options.url, status)
    }

    /// Names of the models that the server has.
    ///
    /// # Errors
    /// [`ClientError::Refused`] or [`ClientError::Unreachable`].
    pub fn models(&self) -> Result<Vec<String>, ClientError> {
        let mut stub = self.stub(MAX_MESSAGE_BYTES);
        let answer = self
            .runtime
            .block_on(stub.list_models(ListModelsRequest {}))
            .map_err(|s| self.refused(&s))?;
        Ok(answer.into_inner().models)
    }

    /// Everything public about model `name`, or about the server's first model.
    ///
    /// # Errors
    /// [`ClientError::Refused`] for an unknown name, [`ClientError::Mismatch`] for a server of another release,
    /// [`ClientError::Model`] for a description that is not a valid model.
    pub fn describe(&self, name: Option<&str>) -> Result<Description, ClientError> {
        let mut stub = self.stub(MAX_DESCRIPTION_BYTES);
        let request = DescribeRequest {
            model: name.unwrap_or_default().to_owned(),
        };
        let answer = self
            .runtime
            .block_on(stub.describe(request))
            .map_err(|s| self.refused(&s))?
            .into_inner();
        if answer.protocol_version != PROTOCOL_VERSION {
            return Err(ClientError::Mismatch(format!(
                "the server ({}) speaks version {} of the protocol, this client version {PROTOCOL_VERSION}: install the same release on both sides",
                answer.server_version, answer.protocol_version
            )));
        }
        let model = PublicModel::from_json(&answer.public_model)?;
        if name.is_some_and(|name| name != model.spec().name) {
            return Err(ClientError::Mismatch(format!(
                "the server describes model '{}' under another name",
                model.spec().name
            )));
        }
        Ok(Description {
            model,
            server_version: answer.server_version,
            max_batch: (answer.max_batch as usize).max(1),
            idle_timeout: Duration::from_secs(answer.idle_timeout_seconds.into()),
            packing: PackingGoal::for_bandwidth(answer.packing_bandwidth),
        })
    }
}
