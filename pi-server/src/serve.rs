//! Listening, what runs beside the service, and the graceful stop.
//!
//! The stop: not ready and nothing new from the first moment, what runs may finish within the drain timeout, then it is cut and
//! the server returns whatever it does.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pi_proto::inference::grpc_inference_service_server::GrpcInferenceServiceServer;
use pi_proto::limits::{
    CONNECTION_WINDOW_BYTES, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, STREAM_WINDOW_BYTES,
};
use tokio::net::TcpListener;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::transport::server::Router;
use tracing::{error, info, warn};

use crate::access::connection::Incoming;
use crate::access::door::within_descriptors;
use crate::access::identity::{Identities, Tokens};
use crate::access::limits::Quota;
use crate::access::tls::Tls;
use crate::calls::drain::{Drain, GRACE};
use crate::calls::entrance::{BRIEF_MESSAGE_BYTES, BySize, Entrance};
use crate::calls::kserve::Kserve;
use crate::calls::service::Service;
use crate::calls::shared::Shared;
use crate::error::ServeError;
use crate::models::repository::{Repository, Terms};
use crate::models::root::{Mode, Root, RootOptions};
use crate::ops::admin::{self, Admin};
use crate::ops::beside;
use crate::ops::health::Health;
use crate::ops::ledger_file::LedgerFile;
use crate::ops::telemetry::Telemetry;
use crate::options::{AdminListen, ConnectionLimits, Limits, TlsFiles};
use crate::store::tidy;
use crate::store::{StoreError, StoreOptions, Vault};

/// How to serve.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Folders of models that are mounted one by one.
    pub models: Vec<PathBuf>,
    /// A repository of models.
    pub repository: Option<RootOptions>,
    /// Where to listen; port 0 takes any free one.
    pub listen: SocketAddr,
    /// Where the admin port listens.
    pub admin: AdminListen,
    /// Names by which the admin port may be called, besides addresses and names of the local network.
    pub admin_hosts: Vec<String>,
    /// Largest batch that a client may ask for.
    pub max_batch: usize,
    /// Bits a second of the network for which ciphertexts are packed.
    pub packing_bandwidth: u64,
    /// What one server grants to its clients.
    pub limits: Limits,
    /// What it grants to each identity.
    pub quota: Quota,
    /// The file of tokens; without it none is asked for.
    pub tokens: Option<PathBuf>,
    /// Without it, connections are not protected by TLS.
    pub tls: Option<TlsFiles>,
    /// How often certificates and tokens are looked at for changes.
    pub reload_interval: Duration,
    /// How connections are bounded.
    pub connections: ConnectionLimits,
    /// Whether the services describe themselves to whoever asks.
    pub reflection: bool,
    /// How long running sessions may go on after a stop.
    pub drain_timeout: Duration,
    /// Where prepared inferences outlive their session; without it they do not.
    pub store: Option<StoreOptions>,
    /// Where to append a line for each finished step of a session.
    pub ledger: Option<PathBuf>,
    /// The OpenTelemetry collector that gets spans; none without it.
    pub otlp_endpoint: Option<String>,
}

impl Default for ServeOptions {
    /// No model yet; loopback, without TLS, tokens and admin port.
    fn default() -> Self {
        Self {
            models: vec![],
            repository: None,
            listen: SocketAddr::from(([127, 0, 0, 1], 50051)),
            admin: AdminListen::Off,
            admin_hosts: vec![],
            max_batch: 16,
            packing_bandwidth: 100_000_000,
            limits: Limits::default(),
            quota: Quota::default(),
            tokens: None,
            tls: None,
            reload_interval: Duration::from_secs(5),
            connections: ConnectionLimits::default(),
            reflection: false,
            drain_timeout: Duration::from_secs(25),
            store: None,
            ledger: None,
            otlp_endpoint: None,
        }
    }
}

/// A server that listens and has its models loaded.
pub struct Server {
    listener: TcpListener,
    admin: Option<TcpListener>,
    address: SocketAddr,
    shared: Arc<Shared>,
    root: Option<Arc<Root>>,
    tls: Option<Arc<Tls>>,
    options: ServeOptions,
}

impl Server {
    /// Loads models, certificate and tokens and starts to listen. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// Any [`ServeError`]; nothing is left listening then.
    pub fn bind(options: ServeOptions) -> Result<Self, ServeError> {
        if options.models.is_empty() && options.repository.is_none() {
            return Err(ServeError::NoModel);
        }
        let listener = listen(options.listen)?;
        let address = listener.local_addr().map_err(|source| ServeError::Bind {
            address: options.listen,
            source,
        })?;
        let admin = match options.admin {
            AdminListen::Off => None,
            AdminListen::At(address) => Some(listen(address)?),
            AdminListen::IfFree(address) => listen(address)
                .inspect_err(|error| warn!("no admin port: {error}"))
                .ok(),
        };
        let tls = options
            .tls
            .as_ref()
            .map(Tls::load)
            .transpose()?
            .map(Arc::new);
        let tokens = options.tokens.as_deref().map(Tokens::load).transpose()?;
        let ledger = options.ledger.as_deref().map(LedgerFile::open);
        let vault = options.store.as_ref().map(open_store).transpose()?;
        let telemetry = options.otlp_endpoint.as_deref().map(Telemetry::start);
        let terms = Terms {
            max_batch: options.max_batch,
            packing_bandwidth: options.packing_bandwidth,
            limits: options.limits,
        };
        let shared = Arc::new(Shared {
            repository: Arc::new(Repository::load(&options.models, terms)?),
            identities: Identities::new(tokens.map(Arc::new), options.quota),
            drain: Arc::default(),
            metrics: Arc::default(),
            vault: vault.map(Arc::new),
            ledger: ledger.transpose()?.map(Arc::new),
            telemetry: telemetry.transpose()?.map(Arc::new),
            look: Arc::default(),
        });
        shared.metrics.sessions_limit(options.limits.max_sessions);
        beside::show_certificates(&shared, tls.as_ref());
        let root = options.repository.clone().map(|options| {
            let repository = Arc::clone(&shared.repository);
            Root::open(options, repository, Arc::clone(&shared.metrics))
        });
        if tls.is_none() && !address.ip().is_loopback() {
            warn!(
                "listening on {address} without TLS: whoever is on the path can alter the traffic, read tokens and pose as this server; give --tls-cert and --tls-key"
            );
        }
        Ok(Self {
            root: root.transpose()?.map(Arc::new),
            listener,
            admin,
            address,
            shared,
            tls,
            options,
        })
    }

    /// The address with its real port.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The address of the admin port, if there is one.
    #[must_use]
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin.as_ref().and_then(|a| a.local_addr().ok())
    }

    /// Notify it to have certificates, tokens and a polled repository read now.
    #[must_use]
    pub fn look(&self) -> Arc<Notify> {
        Arc::clone(&self.shared.look)
    }

    /// The models.
    #[must_use]
    pub fn repository(&self) -> &Repository {
        &self.shared.repository
    }

    /// Serves until `stop` completes, then for at most the drain timeout and [`GRACE`].
    ///
    /// # Errors
    /// [`ServeError::Transport`] when the listener fails.
    pub async fn run(self, stop: impl Future<Output = ()> + Send) -> Result<(), ServeError> {
        let shared = self.shared;
        let health = Health::default();
        let (tell, told) = oneshot::channel::<()>();
        let limits = within_descriptors(self.options.connections);
        let services = services(&self.options, &shared, &health).await?;
        let incoming = Incoming::new(self.listener, self.tls.clone(), limits);
        let serving = services.serve_with_incoming_shutdown(incoming, async {
            // An error means that the sender is gone, and then there is nothing to serve either.
            let _ = told.await;
        });
        beside::show(&health, &shared).await;
        // Tasks beside the service; they end with this function.
        let mut tasks = JoinSet::new();
        tasks.spawn(beside::follow(health, Arc::clone(&shared)));
        tasks.spawn(beside::reload(
            Arc::clone(&shared),
            self.tls,
            self.options.reload_interval,
        ));
        if let Some(root) = self.root.clone().filter(|r| r.options().mode == Mode::Poll) {
            tasks.spawn(beside::poll(root, shared.look.clone()));
        }
        if let Some(vault) = shared.vault.clone() {
            tasks.spawn(tidy::run(vault, Arc::clone(&shared)));
        }
        if let Some(listener) = self.admin {
            let admin = Admin {
                shared: Arc::clone(&shared),
                root: self.root,
                hosts: self.options.admin_hosts.clone(),
            };
            tasks.spawn(async move {
                if let Err(error) = admin::serve(listener, admin).await {
                    error!(%error, "the admin port failed");
                }
            });
        }
        let ended = until_stopped(
            serving,
            stop,
            &shared.drain,
            self.options.drain_timeout,
            tell,
        );
        let ended = ended.await;
        tasks.shutdown().await;
        if let Some(telemetry) = shared.telemetry.clone() {
            // A thread of its own, because it blocks; what went wrong is in the log.
            let _ = tokio::task::spawn_blocking(move || telemetry.stop()).await;
        }
        Ok(ended?)
    }
}

/// All gRPC services, each behind its entrance.
async fn services(
    options: &ServeOptions,
    shared: &Arc<Shared>,
    health: &Health,
) -> Result<Router, ServeError> {
    // Sessions, and calls beside them.
    let n_streams = options.limits.max_sessions.saturating_add(16);
    let patience = options.connections.call;
    let kserve = GrpcInferenceServiceServer::new(Kserve::new(Arc::clone(shared)))
        .max_decoding_message_size(BRIEF_MESSAGE_BYTES);
    let ours = BySize::new(Service::new(Arc::clone(shared)));
    let reflection = || {
        let builder = tonic_reflection::server::Builder::configure();
        [
            pi_proto::FILE_DESCRIPTOR_SET,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
        ]
        .iter()
        .fold(builder, |b, set| {
            b.register_encoded_file_descriptor_set(set)
        })
    };
    let mut router = tonic::transport::Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(u32::try_from(n_streams).unwrap_or(u32::MAX))
        .max_connection_age(options.connections.age)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_service(Entrance::new(
            health.service().await,
            Arc::clone(shared),
            patience,
        ))
        .add_service(Entrance::new(kserve, Arc::clone(shared), patience))
        .add_service(Entrance::new(ours, Arc::clone(shared), patience));
    if options.reflection {
        let (v1, v1alpha) = (reflection().build_v1()?, reflection().build_v1alpha()?);
        let v1 = v1.max_decoding_message_size(BRIEF_MESSAGE_BYTES);
        let v1alpha = v1alpha.max_decoding_message_size(BRIEF_MESSAGE_BYTES);
        router = router
            .add_service(Entrance::new(v1, Arc::clone(shared), patience))
            .add_service(Entrance::new(v1alpha, Arc::clone(shared), patience));
    }
    Ok(router)
}

/// Serves until `stop` completes, then drains, then cuts; `tell` ends the listener.
async fn until_stopped<E>(
    serving: impl Future<Output = Result<(), E>>,
    stop: impl Future<Output = ()>,
    drain: &Drain,
    limit: Duration,
    tell: oneshot::Sender<()>,
) -> Result<(), E> {
    tokio::pin!(serving);
    tokio::select! {
        ended = &mut serving => return ended,
        () = stop => {}
    }
    drain.begin();
    info!(sessions = drain.n_active(), "stopping");
    // The listener stays open meanwhile: who comes now is told that the server stops, and probes that it is not ready.
    tokio::select! {
        ended = &mut serving => return ended,
        drained = timeout(limit, drain.finished()) => if drained.is_err() {
            warn!(sessions = drain.n_active(), "sessions still ran after {limit:?} and are cut off");
        }
    }
    drain.cut();
    let _ = tell.send(());
    // Else a connection that its client does not close; nothing of ours runs on it.
    timeout(GRACE, serving).await.unwrap_or(Ok(()))
}

fn listen(address: SocketAddr) -> Result<TcpListener, ServeError> {
    let bound = std::net::TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    });
    bound.map_err(|source| ServeError::Bind { address, source })
}

/// Opens the store on a thread of its own: a client of a database blocks, which threads of the runtime must not.
fn open_store(options: &StoreOptions) -> Result<Vault, StoreError> {
    let opened = std::thread::scope(|scope| scope.spawn(|| options.open()).join());
    opened.unwrap_or_else(|_| {
        Err(StoreError::Settings(
            "opening the store failed, which is a bug; see above".into(),
        ))
    })
}
