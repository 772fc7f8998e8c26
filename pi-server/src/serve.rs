//! Listening, TLS, health, and the graceful stop.
//!
//! The stop: not ready and nothing new from the first moment, what runs may finish within the drain timeout, then it is cut and
//! the server returns whatever it does.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pi_proto::limits::{
    CONNECTION_WINDOW_BYTES, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, MAX_MESSAGE_BYTES,
    STREAM_WINDOW_BYTES,
};
use pi_proto::v1::private_inference_server::PrivateInferenceServer;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Identity, ServerTlsConfig};
use tracing::{info, warn};

use crate::certificate;
use crate::drain::{Drain, GRACE};
use crate::error::ServeError;
use crate::ledger_file::LedgerFile;
use crate::repository::Repository;
use crate::service::Service;

/// What one server grants to its clients.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Sessions at the same time. Each has a thread, and holds its prepared material in memory.
    pub max_sessions: usize,
    /// A session that is silent for longer is ended.
    pub idle_timeout: Duration,
    /// Bytes of prepared material that all sessions together may keep in memory; each session has an equal part.
    pub prepared_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_sessions: 8,
            idle_timeout: Duration::from_secs(60),
            prepared_bytes: 8 << 30,
        }
    }
}

impl Limits {
    /// Inferences that one session may keep prepared, if each takes `bytes`.
    #[must_use]
    pub const fn max_prepared(&self, bytes: usize) -> usize {
        let sessions = if self.max_sessions == 0 {
            1
        } else {
            self.max_sessions
        };
        self.prepared_bytes / sessions / (if bytes == 0 { 1 } else { bytes })
    }
}

/// Certificate chain and private key, in PEM.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The certificate chain, the server's own first.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// How to serve.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Folders of the models.
    pub models: Vec<PathBuf>,
    /// Where to listen; port 0 takes any free one.
    pub listen: SocketAddr,
    /// Largest batch that a client may ask for.
    pub max_batch: usize,
    /// Bits a second of the network for which ciphertexts are packed.
    pub packing_bandwidth: u64,
    /// What one server grants to its clients.
    pub limits: Limits,
    /// Without it, connections are not protected by TLS.
    pub tls: Option<TlsFiles>,
    /// How long running sessions may go on after a stop.
    pub drain_timeout: Duration,
    /// Where to append a line for each finished step of a session.
    pub ledger: Option<PathBuf>,
}

impl Default for ServeOptions {
    /// No model yet; loopback, without TLS.
    fn default() -> Self {
        Self {
            models: vec![],
            listen: SocketAddr::from(([127, 0, 0, 1], 50051)),
            max_batch: 16,
            packing_bandwidth: 100_000_000,
            limits: Limits::default(),
            tls: None,
            drain_timeout: Duration::from_secs(25),
            ledger: None,
        }
    }
}

/// A server that listens and has its models loaded.
pub struct Server {
    incoming: TcpIncoming,
    address: SocketAddr,
    repository: Arc<Repository>,
    identity: Option<Identity>,
    ledger: Option<Arc<LedgerFile>>,
    options: ServeOptions,
}

impl Server {
    /// Loads the models and the certificate and starts to listen. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// Any [`ServeError`]; nothing is left listening then.
    pub fn bind(options: ServeOptions) -> Result<Self, ServeError> {
        let bind = |source| ServeError::Bind {
            address: options.listen,
            source,
        };
        let incoming = TcpIncoming::bind(options.listen)
            .map_err(bind)?
            .with_nodelay(Some(true));
        let address = incoming.local_addr().map_err(bind)?;
        let identity = options.tls.as_ref().map(certificate::load).transpose()?;
        let ledger = options.ledger.as_deref().map(LedgerFile::open);
        let ledger = ledger.transpose()?.map(Arc::new);
        let repository = Arc::new(Repository::load(
            &options.models,
            options.max_batch,
            options.packing_bandwidth,
            &options.limits,
        )?);
        if identity.is_none() && !address.ip().is_loopback() {
            warn!(
                "listening on {address} without TLS: whoever is on the path can alter the traffic and pose as this server; give --tls-cert and --tls-key"
            );
        }
        Ok(Self {
            incoming,
            address,
            repository,
            identity,
            ledger,
            options,
        })
    }

    /// The address with its real port.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The models.
    #[must_use]
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// Serves until `stop` completes, then for at most the drain timeout and [`GRACE`].
    ///
    /// # Errors
    /// [`ServeError::Transport`] when the listener fails.
    pub async fn run(self, stop: impl Future<Output = ()> + Send) -> Result<(), ServeError> {
        let (health, health_service) = tonic_health::server::health_reporter();
        health
            .set_serving::<PrivateInferenceServer<Service>>()
            .await;
        let drain = Arc::new(Drain::default());
        let limits = self.options.limits;
        let service = Service::new(Arc::clone(&self.repository), limits, Arc::clone(&drain))
            .with_ledger(self.ledger);
        let mut server = tonic::transport::Server::builder()
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_concurrent_streams(128)
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT));
        if let Some(identity) = self.identity {
            server = server.tls_config(ServerTlsConfig::new().identity(identity))?;
        }
        let service =
            PrivateInferenceServer::new(service).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let (tell, told) = oneshot::channel::<()>();
        let serving = server
            .add_service(health_service)
            .add_service(service)
            .serve_with_incoming_shutdown(self.incoming, async {
                // An error means that the sender is gone, and then there is nothing to serve either.
                let _ = told.await;
            });
        tokio::pin!(serving);
        tokio::select! {
            ended = &mut serving => return Ok(ended?),
            () = stop => {}
        }
        drain.begin();
        info!(sessions = drain.n_active(), "stopping");
        health
            .set_not_serving::<PrivateInferenceServer<Service>>()
            .await;
        let limit = self.options.drain_timeout;
        // The listener stays open meanwhile: who comes now is told that the server stops, and probes that it is not ready.
        tokio::select! {
            ended = &mut serving => return Ok(ended?),
            drained = timeout(limit, drain.finished()) => if drained.is_err() {
                warn!(sessions = drain.n_active(), "sessions still ran after {limit:?} and are cut off");
            }
        }
        drain.cut();
        let _ = tell.send(());
        match timeout(GRACE, serving).await {
            Ok(ended) => Ok(ended?),
            // A connection that its client does not close; nothing of ours runs on it.
            Err(_) => Ok(()),
        }
    }
}
