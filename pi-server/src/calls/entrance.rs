//! What stands before every gRPC service: a call is known by its path and its metadata before a byte of its message is decoded.
//!
//! Security: whoever must be known is, or is refused, before memory is spent on what it sends. A call that is no session has
//! [`ConnectionLimits::call`](crate::options::ConnectionLimits) and a message of at most [`BRIEF_MESSAGE_BYTES`], so that a message which is announced and never comes
//! costs little and not for long. A plaintext tensor is refused without being read.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use pi_proto::limits::MAX_MESSAGE_BYTES;
use pi_proto::v1::private_inference_server::{PrivateInferenceServer, SERVICE_NAME};
use tokio::time::timeout;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::metadata::MetadataMap;
use tonic::server::NamedService;

use crate::access::connection::Peer;
use crate::calls::service::Service as Ours;
use crate::calls::shared::Shared;

/// Largest message of a call that is no session: a name, and room for what a later client may say.
pub const BRIEF_MESSAGE_BYTES: usize = 4096;

/// Methods that refusals are counted by.
const METHODS: [&str; 5] = [
    "ListModels",
    "Describe",
    "Session",
    "ModelMetadata",
    "ModelInfer",
];

type Request = http::Request<Body>;
type Response = http::Response<Body>;

/// What is done with a call before its message is read.
enum Rule {
    /// Anybody may.
    Open,
    /// Who calls must be known.
    Known,
    /// Nobody may.
    Plaintext,
}

fn rule(service: &str, method: &str) -> Rule {
    match (service, method) {
        (SERVICE_NAME, _) | (_, "ModelMetadata") => Rule::Known,
        (_, "ModelInfer") => Rule::Plaintext,
        _ => Rule::Open,
    }
}

/// The answer to a tensor in the clear.
#[must_use]
pub fn plaintext() -> Status {
    Status::failed_precondition(
        "this server takes no plaintext tensors: it is there so that nobody but you sees your input. Use `pi-client infer --server URL IMAGE.png`, or the library pi-client, which speak pi.v1.PrivateInference on this port",
    )
}

/// A service behind its entrance.
#[derive(Clone)]
pub struct Entrance<S> {
    inner: S,
    shared: Arc<Shared>,
    patience: Duration,
}

impl<S> Entrance<S> {
    /// Puts `inner` behind one, whose calls may take `patience` unless they are sessions.
    #[must_use]
    pub const fn new(inner: S, shared: Arc<Shared>, patience: Duration) -> Self {
        Self {
            inner,
            shared,
            patience,
        }
    }
}

impl<S: NamedService> NamedService for Entrance<S> {
    const NAME: &'static str = S::NAME;
}

/// Lets the caller in with its account, or says why not.
fn admit(shared: &Shared, rule: &Rule, request: &mut Request) -> Result<(), Status> {
    match rule {
        Rule::Open => {}
        Rule::Known => {
            let metadata = MetadataMap::from_headers(request.headers().clone());
            let account = shared
                .identities
                .identify(&metadata, request.extensions())?;
            request.extensions_mut().insert(account);
        }
        Rule::Plaintext => {
            return Err(plaintext());
        }
    }
    Ok(())
}

impl<S> Service<Request> for Entrance<S>
where
    S: Service<Request, Response = Response, Error = Infallible> + NamedService + Clone + Send,
    S: 'static,
    S::Future: Send,
{
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<Response, Infallible>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        if let Some(peer) = request.extensions().get::<Peer>() {
            peer.life.called();
        }
        let method = method_of(&request);
        let shared = Arc::clone(&self.shared);
        let refuse = move |status| -> Response {
            let refused: Result<(), Status> = shared.counted(method, Err(status));
            refused.map_or_else(Status::into_http, |()| Response::default())
        };
        let rule = rule(S::NAME, method);
        if let Err(status) = admit(&self.shared, &rule, &mut request) {
            return Box::pin(async move { Ok(refuse(status)) });
        }
        let (is_session, patience) = (is_session(&request), self.patience);
        let answer = self.inner.call(request);
        Box::pin(async move {
            if is_session {
                return answer.await;
            }
            timeout(patience, answer).await.unwrap_or_else(|_| {
                let text =
                    "this call took longer than this server grants; send its message at once";
                Ok(refuse(Status::deadline_exceeded(text)))
            })
        })
    }
}

/// The method that is called, by a name that we know: others would fill the metrics.
fn method_of(request: &Request) -> &'static str {
    let asked = request.uri().path().rsplit('/').next();
    let known = METHODS.iter().find(|known| asked == Some(known));
    known.unwrap_or(&"other")
}

fn is_session(request: &Request) -> bool {
    method_of(request) == "Session"
}

/// Our service, with room for large messages in sessions alone.
#[derive(Clone)]
pub struct BySize {
    brief: PrivateInferenceServer<Ours>,
    session: PrivateInferenceServer<Ours>,
}

impl BySize {
    /// Serves `service`.
    #[must_use]
    pub fn new(service: Ours) -> Self {
        let service = Arc::new(service);
        let of = |bytes| {
            PrivateInferenceServer::from_arc(Arc::clone(&service)).max_decoding_message_size(bytes)
        };
        Self {
            brief: of(BRIEF_MESSAGE_BYTES),
            session: of(MAX_MESSAGE_BYTES),
        }
    }
}

impl NamedService for BySize {
    const NAME: &'static str = SERVICE_NAME;
}

impl Service<Request> for BySize {
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        match is_session(&request) {
            true => self.session.call(request),
            false => self.brief.call(request),
        }
    }
}
