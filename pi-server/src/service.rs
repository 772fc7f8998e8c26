//! The gRPC service: descriptions, and sessions with their limits.
//!
//! Security: the client's plan hash, batch and version are compared with our own before any work is done; nothing the
//! client sends is ever taken over. The log holds names, counts and times, and no payload.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pi_model::Plan;
use pi_proto::channel::{Item, outbound};
use pi_proto::v1::private_inference_server::PrivateInference;
use pi_proto::v1::{
    DescribeRequest, DescribeResponse, Frame, ListModelsRequest, ListModelsResponse, Open,
};
use pi_proto::{GrpcChannel, status};
use pi_protocol::wire::PROTOCOL_VERSION;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::drain::{Drain, Stage, stopping};
use crate::gate::Gate;
use crate::ledger_file::LedgerFile;
use crate::repository::{Repository, Served};
use crate::serve::Limits;
use crate::session::Session;

/// How long a stream may take to carry Open; it occupies a session from its start.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// The service `pi.v1.PrivateInference`.
pub struct Service {
    repository: Arc<Repository>,
    limits: Limits,
    permits: Arc<Semaphore>,
    n_opened: AtomicU64,
    ledger: Option<Arc<LedgerFile>>,
    drain: Arc<Drain>,
}

impl Service {
    /// Serves `repository` within `limits` until `drain` begins.
    #[must_use]
    pub fn new(repository: Arc<Repository>, limits: Limits, drain: Arc<Drain>) -> Self {
        let permits = Arc::new(Semaphore::new(limits.max_sessions));
        Self {
            repository,
            limits,
            permits,
            n_opened: AtomicU64::new(0),
            ledger: None,
            drain,
        }
    }

    /// Appends every finished step of every session to `ledger`, if there is one.
    #[must_use]
    pub fn with_ledger(mut self, ledger: Option<Arc<LedgerFile>>) -> Self {
        self.ledger = ledger;
        self
    }

    fn unknown_model(&self, name: &str) -> Status {
        Status::not_found(format!(
            "there is no model '{name}' here; this server has: {}",
            self.repository.names().join(", ")
        ))
    }

    /// Compares what the client opens with our own plan.
    async fn agree(&self, open: Open) -> Result<Arc<Plan>, Status> {
        if open.protocol_version != PROTOCOL_VERSION {
            return Err(Status::failed_precondition(format!(
                "this server speaks version {PROTOCOL_VERSION} of the protocol and the client version {}; install the same release on both sides",
                open.protocol_version
            )));
        }
        let batch = open.batch as usize;
        if !(1..=self.repository.max_batch()).contains(&batch) {
            return Err(Status::invalid_argument(format!(
                "a batch of {batch}; this server prepares 1 to {} inferences at once",
                self.repository.max_batch()
            )));
        }
        let repository = Arc::clone(&self.repository);
        let name = open.model.clone();
        let plan =
            tokio::task::spawn_blocking(move || repository.find(&name).map(|m| m.plan(batch)))
                .await
                .map_err(|_| Status::internal("the plan could not be made"))?;
        let plan = plan
            .ok_or_else(|| self.unknown_model(&open.model))?
            .map_err(|e| status::from_model(&e))?;
        let ours = plan.public().hash();
        if open.plan_hash.as_ref() != ours.as_slice() {
            return Err(Status::failed_precondition(format!(
                "the plans differ: the server's hash is {}, the client's {}; describe the model again, and install the same release on both sides",
                hex(&ours),
                hex(open.plan_hash.get(..32).unwrap_or(&open.plan_hash)),
            )));
        }
        Ok(plan)
    }
}

#[tonic::async_trait]
impl PrivateInference for Service {
    async fn list_models(
        &self,
        _: Request<ListModelsRequest>,
    ) -> Result<Response<ListModelsResponse>, Status> {
        let names = self.repository.names();
        Ok(Response::new(ListModelsResponse {
            models: names.into_iter().map(str::to_owned).collect(),
        }))
    }

    async fn describe(
        &self,
        request: Request<DescribeRequest>,
    ) -> Result<Response<DescribeResponse>, Status> {
        let name = &request.get_ref().model;
        let model = self
            .repository
            .find(name)
            .ok_or_else(|| self.unknown_model(name))?;
        Ok(Response::new(DescribeResponse {
            model: model.name().to_owned(),
            public_model: model.description(),
            card: model.card(),
            protocol_version: PROTOCOL_VERSION,
            server_version: env!("CARGO_PKG_VERSION").to_owned(),
            max_batch: self
                .repository
                .max_batch()
                .min(self.limits.max_prepared(model.prepared_bytes()))
                as u32,
            idle_timeout_seconds: self.limits.idle_timeout.as_secs() as u32,
            packing_bandwidth: self.repository.packing_bandwidth(),
        }))
    }

    type SessionStream = ReceiverStream<Item>;

    async fn session(
        &self,
        request: Request<Streaming<Frame>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let place = self.drain.enter()?;
        let permit = Arc::clone(&self.permits).try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!(
                "all {} sessions of this server are in use; try again later",
                self.limits.max_sessions
            ))
        })?;
        let mut inbound = request.into_inner();
        let patience = OPEN_TIMEOUT.min(self.limits.idle_timeout);
        let open = tokio::select! {
            first = timeout(patience, inbound.message()) => {
                first.map_err(|_| Status::deadline_exceeded("no frame came to open the session"))??
            }
            () = self.drain.reached(Stage::Draining) => return Err(stopping()),
        };
        let open = open
            .and_then(|frame| frame.open)
            .ok_or_else(|| Status::invalid_argument("the first frame must carry Open"))?;
        let name = open.model.clone();
        let plan = self.agree(open).await?;
        let (to_client, stream) = outbound();
        let gate = Gate::new(Arc::clone(&self.drain));
        let channel = GrpcChannel::new(
            Handle::current(),
            to_client.clone(),
            gate.inbound(inbound),
            self.limits.idle_timeout,
        );
        let bytes = self
            .repository
            .find(&name)
            .map_or(0, Served::prepared_bytes);
        let session = Session {
            max_prepared: self.limits.max_prepared(bytes),
            id: self.n_opened.fetch_add(1, Ordering::Relaxed) + 1,
            model: name,
            plan,
            to_client,
            ledger: self.ledger.clone(),
            gate,
            _permit: permit,
            _place: place,
        };
        std::thread::Builder::new()
            .name(format!("session-{}", session.id))
            .spawn(move || session.run(channel))
            .map_err(|_| Status::resource_exhausted("no thread for another session"))?;
        Ok(Response::new(stream))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
