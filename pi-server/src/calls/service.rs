//! The gRPC service: descriptions, and sessions with their limits.
//!
//! Security: the client's plan hash, batch and version are compared with our own before any work is done; nothing the
//! client sends is ever taken over. The log holds names, counts and times, and no payload.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use pi_model::Plan;
use pi_proto::channel::{Item, outbound};
use pi_proto::v1::private_inference_server::PrivateInference;
use pi_proto::v1::{
    DescribeRequest, DescribeResponse, Frame, ListModelsRequest, ListModelsResponse, Open,
};
use pi_proto::{GrpcChannel, status};
use pi_protocol::session::{GarblingMode, OtMode, SessionOptions};
use pi_protocol::wire::PROTOCOL_VERSION;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::access::connection::Peer;
use crate::access::limits::{SOON, exhausted, no_session_left};
use crate::calls::drain::{Stage, stopping};
use crate::calls::gate::Gate;
use crate::calls::session::Session;
use crate::calls::shared::{Shared, caller};
use crate::models::repository::Served;
use crate::options::Limits;

/// How long a stream may take to carry Open; it occupies a session from its start.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// The service `pi.v1.PrivateInference`.
pub struct Service {
    shared: Arc<Shared>,
    permits: Arc<Semaphore>,
    n_opened: AtomicU64,
}

impl Service {
    /// Serves what is in `shared`.
    #[must_use]
    pub fn new(shared: Arc<Shared>) -> Self {
        let permits = Arc::new(Semaphore::new(
            shared.repository.terms().limits.max_sessions,
        ));
        Self {
            shared,
            permits,
            n_opened: AtomicU64::new(0),
        }
    }

    fn limits(&self) -> &Limits {
        &self.shared.repository.terms().limits
    }

    /// A place among the sessions that may run at the same time, first come first served. No more wait than may run.
    async fn permit(&self) -> Result<OwnedSemaphorePermit, Status> {
        let limits = self.limits();
        let none_left = || no_session_left(limits.max_sessions);
        let patience = match self.shared.metrics.n_waiting() < limits.max_sessions {
            true => limits.queue_timeout,
            false => Duration::ZERO,
        };
        let _waiting = self.shared.metrics.wait();
        let place = Arc::clone(&self.permits).acquire_owned();
        tokio::select! {
            biased;
            place = timeout(patience, place) => {
                place.map_err(|_| none_left())?.map_err(|_| none_left())
            }
            () = self.shared.drain.reached(Stage::Draining) => Err(stopping()),
        }
    }

    /// Compares what the client opens with our own plan.
    async fn agree(&self, open: Open) -> Result<(Arc<Served>, Arc<Plan>), Status> {
        if open.protocol_version != PROTOCOL_VERSION {
            return Err(Status::failed_precondition(format!(
                "this server speaks version {PROTOCOL_VERSION} of the protocol and the client version {}; install the same release on both sides",
                open.protocol_version
            )));
        }
        let batch = open.batch as usize;
        let max_batch = self.shared.repository.terms().max_batch;
        if !(1..=max_batch).contains(&batch) {
            return Err(Status::invalid_argument(format!(
                "a batch of {batch}; this server prepares 1 to {max_batch} inferences at once"
            )));
        }
        let found = self.shared.repository.find(&open.model);
        let served = found.ok_or_else(|| self.shared.unknown_model(&open.model))?;
        let planned = Arc::clone(&served);
        let plan = tokio::task::spawn_blocking(move || planned.plan(batch))
            .await
            .map_err(|_| Status::internal("the plan could not be made"))?
            .map_err(|e| status::from_model(&e))?;
        let ours = plan.public().hash();
        if open.plan_hash.as_ref() != ours.as_slice() {
            return Err(Status::failed_precondition(format!(
                "the plans differ: the server's hash is {}, the client's {}; describe the model again, and install the same release on both sides",
                hex(&ours),
                hex(open.plan_hash.get(..32).unwrap_or(&open.plan_hash)),
            )));
        }
        Ok((served, plan))
    }

    fn describe_now(&self, name: &str) -> Result<DescribeResponse, Status> {
        let found = self.shared.repository.find(name);
        let model = found.ok_or_else(|| self.shared.unknown_model(name))?;
        let terms = self.shared.repository.terms();
        // A client may choose silent OTs where they are allowed, and they take more.
        let ot = match terms.limits.silent_ot {
            true => OtMode::Silent,
            false => OtMode::default(),
        };
        let max_prepared = |garbling| {
            let memory = model.memory(SessionOptions { ot, garbling });
            let most = terms.limits.max_prepared(memory, terms.max_batch);
            u32::try_from(most).unwrap_or(u32::MAX)
        };
        let vault = self.shared.vault.as_ref();
        Ok(DescribeResponse {
            model: model.name().to_owned(),
            public_model: model.description(),
            card: model.card(),
            protocol_version: PROTOCOL_VERSION,
            server_version: env!("CARGO_PKG_VERSION").to_owned(),
            max_batch: terms.max_batch as u32,
            max_prepared: max_prepared(GarblingMode::HalfGates),
            max_prepared_client_garbles: max_prepared(GarblingMode::ClientDigits),
            idle_timeout_seconds: terms.limits.idle_timeout.as_secs().max(1) as u32,
            packing_bandwidth: terms.packing_bandwidth,
            kept_seconds: vault.map_or(0, |vault| vault.keep_for().as_secs()),
        })
    }

    async fn open(
        &self,
        request: Request<Streaming<Frame>>,
    ) -> Result<ReceiverStream<Item>, Status> {
        let since = SystemTime::now();
        let busy = request.extensions().get::<Peer>();
        let busy = busy.map(|peer| peer.life.session());
        let account = caller(&request)?;
        let drain = &self.shared.drain;
        let place = drain.enter()?;
        let slot = account.open()?;
        let limits = *self.limits();
        let permit = self.permit().await?;
        let (metadata, _, mut inbound) = request.into_parts();
        let patience = OPEN_TIMEOUT.min(limits.idle_timeout);
        let open = tokio::select! {
            first = timeout(patience, inbound.message()) => {
                first.map_err(|_| Status::deadline_exceeded("no frame came to open the session"))??
            }
            () = drain.reached(Stage::Draining) => return Err(stopping()),
        };
        let open = open
            .and_then(|frame| frame.open)
            .ok_or_else(|| Status::invalid_argument("the first frame must carry Open"))?;
        let (served, plan) = self.agree(open).await?;
        let (to_client, stream) = outbound();
        let gate = Gate::new(
            Arc::clone(drain),
            Arc::clone(&account),
            limits.phase_timeout,
        );
        let channel = GrpcChannel::new(
            Handle::current(),
            to_client.clone(),
            gate.inbound(inbound),
            limits.idle_timeout,
        );
        let id = self.n_opened.fetch_add(1, Ordering::Relaxed) + 1;
        let trace = self.shared.telemetry.as_ref().map(|telemetry| {
            let attributes = [
                ("pi.session", id.to_string()),
                ("pi.model", served.name().to_owned()),
                ("pi.client", account.name().to_owned()),
            ];
            Arc::new(telemetry.session(&metadata, since, attributes))
        });
        let session = Session {
            limits,
            id,
            trace,
            model: served.name().to_owned(),
            plan,
            to_client,
            ledger: self.shared.ledger.clone(),
            vault: self.shared.vault.clone(),
            gate,
            metrics: Arc::clone(&self.shared.metrics),
            account,
            _busy: busy,
            _slot: slot,
            _permit: permit,
            _place: place,
        };
        std::thread::Builder::new()
            .name(format!("session-{}", session.id))
            .spawn(move || session.run(channel))
            .map_err(|_| exhausted("threads", "no thread for another session", SOON))?;
        Ok(stream)
    }
}

#[tonic::async_trait]
impl PrivateInference for Service {
    async fn list_models(
        &self,
        request: Request<ListModelsRequest>,
    ) -> Result<Response<ListModelsResponse>, Status> {
        let models = self.shared.repository.names();
        let models = caller(&request).map(|_| ListModelsResponse { models });
        self.shared.counted("ListModels", models.map(Response::new))
    }

    async fn describe(
        &self,
        request: Request<DescribeRequest>,
    ) -> Result<Response<DescribeResponse>, Status> {
        let described = caller(&request);
        let described = described.and_then(|_| self.describe_now(&request.get_ref().model));
        self.shared
            .counted("Describe", described.map(Response::new))
    }

    type SessionStream = ReceiverStream<Item>;

    async fn session(
        &self,
        request: Request<Streaming<Frame>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let opened = self.open(request).await;
        self.shared.counted("Session", opened.map(Response::new))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
