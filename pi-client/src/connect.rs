//! The connection to a server, and what the server says about its models.
//!
//! Security: the description is the server's word. The plan is computed here from it, and its hash goes back in Open, so
//! both sides run the same plan or none.

mod address;
mod descriptors;
mod files;
mod probe;
mod token;
mod way;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use pi_model::PublicModel;
use pi_model::packing::PackingGoal;
use pi_proto::limits::{
    CONNECTION_WINDOW_BYTES, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, MAX_DESCRIPTION_BYTES,
    MAX_MESSAGE_BYTES, STREAM_WINDOW_BYTES,
};
use pi_proto::v1::private_inference_client::PrivateInferenceClient;
use pi_proto::v1::{DescribeRequest, ListModelsRequest};
use pi_protocol::session::GarblingMode;
use pi_protocol::session::SessionOptions;
use pi_protocol::wire::PROTOCOL_VERSION;
use tokio::runtime::{Handle, Runtime};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Response, Status};

use crate::error::{ClientError, Failed, is_broken};

pub use address::{check_address, leaves_this_machine_unprotected};
pub use descriptors::check_descriptors;
pub use token::Token;
pub use way::{Proxy, Way};

use token::Bearer;

/// Longest wait for a connection when the user does not say.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest silence of a server when the user does not say.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);

/// How to reach a server.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// `http://HOST:PORT`, or `https://HOST:PORT` for TLS.
    pub url: String,
    /// Certificate to trust, in PEM; without it the system's own authorities are trusted.
    pub ca: Option<PathBuf>,
    /// What the server knows this client by, where it asks for a token.
    pub token: Option<Token>,
    /// Certificate and private key of this client, in PEM, where the server asks for them.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// How long to wait for the connection, TLS included.
    pub connect_timeout: Duration,
    /// How long the server may be silent when it is asked, and within a session. It computes for seconds in the offline phase.
    pub idle_timeout: Duration,
}

impl ConnectOptions {
    /// The server at `url` with default times.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            ca: None,
            token: None,
            identity: None,
            connect_timeout: CONNECT_TIMEOUT,
            idle_timeout: IDLE_TIMEOUT,
        }
    }

    /// The same server, given up when it is silent for `timeout`: in a call, in a session, and when connecting, unless that has
    /// less time already.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout;
        self.connect_timeout = self.connect_timeout.min(timeout);
        self
    }

    /// The same server, trusting the certificate in `path`.
    #[must_use]
    pub fn with_ca(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca = Some(path.into());
        self
    }

    /// A failure of a connection with these options.
    fn failed(&self, is_fresh: bool) -> Failed<'_> {
        Failed {
            url: &self.url,
            has_identity: self.identity.is_some(),
            is_fresh,
            connect_timeout: self.connect_timeout,
        }
    }
}

/// The service's client with this client's token.
pub(crate) type Stub = PrivateInferenceClient<InterceptedService<Channel, Bearer>>;

/// What a server says about one of its models.
#[derive(Clone, Debug)]
pub struct Description {
    /// The public model, checked.
    pub model: PublicModel,
    /// Version of the server program.
    pub server_version: String,
    /// Largest batch that the server grants, if its memory allows: see [`Self::largest_batch`].
    pub max_batch: usize,
    /// Inferences that a session may have prepared where the server garbles.
    pub max_prepared: usize,
    /// The same where the client garbles, which takes more of the server's memory; zero if there is too little for one.
    pub max_prepared_client_garbles: usize,
    /// How long the server lets a session be silent.
    pub idle_timeout: Duration,
    /// How long the server keeps prepared inferences beyond their session; zero if it does not.
    pub kept_for: Duration,
    /// The network for which the server packs ciphertexts.
    pub packing: PackingGoal,
}

impl Description {
    /// Inferences that a session with these options may have prepared at a time.
    #[must_use]
    pub const fn most_prepared(&self, options: SessionOptions) -> usize {
        match options.garbling {
            GarblingMode::HalfGates | GarblingMode::ThreeHalves => self.max_prepared,
            GarblingMode::ClientDigits => self.max_prepared_client_garbles,
        }
    }

    /// Largest batch that the server grants to sessions with these options.
    #[must_use]
    pub fn largest_batch(&self, options: SessionOptions) -> usize {
        self.max_batch.min(self.most_prepared(options))
    }
}

/// The threads that move bytes. They end in the background, so that a client may be dropped anywhere.
pub(crate) struct Network {
    pub(crate) handle: Handle,
    runtime: Option<Runtime>,
}

impl Drop for Network {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A connection to one server, whose calls block. Not to be used on a thread of an asynchronous runtime.
pub struct Client {
    channel: Mutex<Channel>,
    /// The next call takes a connection of its own: the server of this one goes away.
    is_stale: AtomicBool,
    endpoint: Endpoint,
    way: Way,
    pub(crate) network: Arc<Network>,
    pub(crate) options: ConnectOptions,
    /// Whether the server has ever answered.
    has_answered: AtomicBool,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// [`ClientError::Address`], [`ClientError::Usage`], [`ClientError::Unreachable`], or [`ClientError::File`] for a certificate or
    /// its key.
    pub fn connect(options: ConnectOptions) -> Result<Self, ClientError> {
        let address = || ClientError::Address {
            url: options.url.clone(),
        };
        check_address(&options.url)?;
        if options.connect_timeout.is_zero() || options.idle_timeout.is_zero() {
            return Err(ClientError::Usage(
                "a timeout of nothing leaves no time for any answer; give some seconds".into(),
            ));
        }
        let tls = options.url.starts_with("https://");
        if options.token.is_some() && leaves_this_machine_unprotected(&options.url) {
            return Err(ClientError::Usage(format!(
                "the token would travel to {} in the clear; use https://",
                options.url
            )));
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
                Some(path) => ClientTlsConfig::new().ca_certificate(files::authorities(path)?),
                None => ClientTlsConfig::new().with_enabled_roots(),
            };
            let config = match &options.identity {
                Some((certificate, key)) => config.identity(files::identity(certificate, key)?),
                None => config,
            };
            // Of later connections, too: the transport makes a new one by itself when one breaks.
            let config = config.timeout(options.connect_timeout);
            endpoint = endpoint
                .tls_config(config)
                .map_err(|e| ClientError::unreachable(&options.url, &e))?;
        } else if options.ca.is_some() || options.identity.is_some() {
            return Err(ClientError::Usage(format!(
                "a certificate was given, but {} does not use TLS; write https://",
                options.url
            )));
        }
        let way = Way::to(&options.url)?;
        check_descriptors()?;
        let network = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("network")
            .enable_all()
            .build()
            .map_err(|e| ClientError::unreachable(&options.url, &e))?;
        let network = Network {
            handle: network.handle().clone(),
            runtime: Some(network),
        };
        let connecting = way.connect(&endpoint);
        let limit = options.connect_timeout;
        let channel = network
            .handle
            .block_on(async { tokio::time::timeout(limit, connecting).await })
            .map_err(|_| way.told(ClientError::silent(&options.url, limit)))?
            .map_err(|e| way.explain(&options.url, &e, options.failed(true).because(&e)))?;
        Ok(Self {
            channel: Mutex::new(channel),
            is_stale: AtomicBool::new(false),
            endpoint,
            way,
            network: Arc::new(network),
            options,
            has_answered: AtomicBool::new(false),
        })
    }

    /// The server's address.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.options.url
    }

    pub(crate) fn stub(&self, max_message_bytes: usize) -> Stub {
        let bearer = Bearer(self.options.token.clone());
        PrivateInferenceClient::with_interceptor(self.channel(), bearer)
            .max_decoding_message_size(max_message_bytes)
    }

    fn channel(&self) -> Channel {
        let mut channel = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_stale.swap(false, Ordering::Relaxed) {
            let _runtime = self.network.handle.enter();
            *channel = self.way.connect_lazily(&self.endpoint);
        }
        channel.clone()
    }

    /// Has the next call made on a new connection, which may reach another server of the same service. To be called when this one
    /// stops or a session broke: a stopping server answers on old connections that it begins nothing new. Sessions that are open
    /// keep theirs.
    pub(crate) fn reconnect(&self) {
        self.is_stale.store(true, Ordering::Relaxed);
    }

    /// What became of a call that failed with `status`.
    pub(crate) fn refused(&self, status: &Status) -> ClientError {
        if !is_broken(status) {
            if status.code() == Code::Unavailable {
                self.reconnect();
            }
            self.has_answered.store(true, Ordering::Relaxed);
            return ClientError::from_status(&self.options.url, status);
        }
        let is_fresh = !self.has_answered.load(Ordering::Relaxed);
        let url = &self.options.url;
        if is_fresh
            && url.starts_with("http:")
            && probe::speaks_something_else(url, self.options.connect_timeout)
        {
            return ClientError::no_http2(url);
        }
        let cause = std::error::Error::source(status).unwrap_or(status);
        let plain = self.options.failed(is_fresh).because(cause);
        self.way.explain(url, cause, plain)
    }

    /// Waits for the answer to `call`, as long as the server may be silent.
    fn ask<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<Response<T>, ClientError> {
        let limit = self.options.idle_timeout;
        let answer = self
            .network
            .handle
            .block_on(async { tokio::time::timeout(limit, call).await })
            .map_err(|_| ClientError::silent(&self.options.url, limit))?
            .map_err(|s| self.refused(&s))?;
        self.has_answered.store(true, Ordering::Relaxed);
        Ok(answer)
    }

    /// Waits for `call`, which the server may hold back in a queue for as long as it likes. When half of the time is over in which
    /// it may be silent, it is asked for something small, and has the other half for that.
    pub(crate) fn ask_patiently<T>(
        &self,
        call: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, ClientError> {
        let half = self.options.idle_timeout / 2;
        let mut probe = self.stub(MAX_MESSAGE_BYTES);
        let outcome = self.network.handle.block_on(async {
            let mut call = std::pin::pin!(call);
            loop {
                if let Ok(answer) = tokio::time::timeout(half, &mut call).await {
                    return Some(answer);
                }
                let is_there = async {
                    let sign = probe.list_models(ListModelsRequest {});
                    // Whatever it says, it is there; a connection that broke ends the call, too.
                    tokio::time::timeout(half, sign).await.is_ok()
                };
                tokio::select! {
                    biased;
                    answer = &mut call => return Some(answer),
                    is_there = is_there => if !is_there { return None },
                }
            }
        });
        outcome
            .ok_or_else(|| ClientError::silent(&self.options.url, 2 * half))?
            .inspect(|_| self.has_answered.store(true, Ordering::Relaxed))
            .map_err(|s| self.refused(&s))
    }

    /// Names of the models that the server has.
    ///
    /// # Errors
    /// [`ClientError::Refused`] or [`ClientError::Unreachable`].
    pub fn models(&self) -> Result<Vec<String>, ClientError> {
        let mut stub = self.stub(MAX_MESSAGE_BYTES);
        let answer = self.ask(stub.list_models(ListModelsRequest {}))?;
        Ok(answer.into_inner().models)
    }

    /// What time it is at the server, to the second, if it tells.
    ///
    /// # Errors
    /// As [`Self::models`].
    pub fn server_time(&self) -> Result<Option<SystemTime>, ClientError> {
        let mut stub = self.stub(MAX_MESSAGE_BYTES);
        let answer = self.ask(stub.list_models(ListModelsRequest {}))?;
        let date = answer.metadata().get("date");
        let date = date.and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
        Ok(date)
    }

    /// Everything public about model `name`, or about the server's first model.
    ///
    /// # Errors
    /// [`ClientError::Refused`] for an unknown name, [`ClientError::Version`] for a server of another release,
    /// [`ClientError::Model`] for a description that is not a valid model.
    pub fn describe(&self, name: Option<&str>) -> Result<Description, ClientError> {
        let mut stub = self.stub(MAX_DESCRIPTION_BYTES);
        let request = DescribeRequest {
            model: name.unwrap_or_default().to_owned(),
        };
        let answer = self.ask(stub.describe(request))?.into_inner();
        if answer.protocol_version != PROTOCOL_VERSION {
            return Err(ClientError::Version(format!(
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
        // A server of before these were told says nothing of either.
        let (max_prepared, max_prepared_client_garbles) = match answer.max_prepared {
            0 => (usize::MAX, usize::MAX),
            n => (n as usize, answer.max_prepared_client_garbles as usize),
        };
        Ok(Description {
            model,
            server_version: answer.server_version,
            max_batch: (answer.max_batch as usize).max(1),
            max_prepared,
            max_prepared_client_garbles,
            idle_timeout: Duration::from_secs(answer.idle_timeout_seconds.into()),
            kept_for: Duration::from_secs(answer.kept_seconds),
            packing: PackingGoal::for_bandwidth(answer.packing_bandwidth),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_to_another_machine_is_noticed() {
        for url in [
            "http://10.0.0.1:50051",
            "http://models.example.com",
            "http://[2001:db8::1]:1/",
        ] {
            assert!(leaves_this_machine_unprotected(url), "{url}");
            let disguised = url.replacen("http://", "http://localhost:1@", 1);
            assert!(leaves_this_machine_unprotected(&disguised), "{disguised}");
            let options = ConnectOptions {
                token: Some(Token::new("secret").unwrap()),
                ..ConnectOptions::new(url)
            };
            let said = Client::connect(options).err().unwrap().to_string();
            assert!(
                said.contains("in the clear") && !said.contains("secret"),
                "{said}"
            );
        }
        for url in [
            "https://10.0.0.1",
            "http://localhost:50051",
            "http://127.0.0.1:1",
            "http://[::1]:50051",
        ] {
            assert!(!leaves_this_machine_unprotected(url), "{url}");
        }
    }
}
