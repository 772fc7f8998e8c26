//! A session as a collector sees it: a span for it and one for each step, with names, counts and times and nothing else; and
//! a collector that is not there, which stops nothing.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{TestServer, image};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::Span;
use pi_model::spec::OutputMode;
use tokio::runtime::Runtime;
use tonic::{Request, Response, Status};

#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let resources = request.into_inner().resource_spans;
        let scopes = resources.into_iter().flat_map(|r| r.scope_spans);
        let spans = scopes.flat_map(|s| s.spans);
        self.0.lock().unwrap().extend(spans);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[test]
fn a_collector_gets_a_span_for_the_session_and_one_for_each_step() {
    let collector = Collector::default();
    let runtime = Runtime::new().unwrap();
    let endpoint = runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let service = TraceServiceServer::new(collector.clone());
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(incoming));
        endpoint
    });
    let mut server = TestServer::with(OutputMode::Logits, |o| o.otlp_endpoint = Some(endpoint));
    let client = server.connect();
    let mut session = client.session(&client.describe(None).unwrap(), 2).unwrap();
    session.infer(&image(&server.model, 1)).unwrap();
    session.close().unwrap();
    // The session's thread ends its span after the client has gone.
    std::thread::sleep(Duration::from_millis(200));
    server.stop();
    let spans = collector.0.lock().unwrap().clone();
    let of = |name: &str| spans.iter().filter(|s| s.name == name).collect::<Vec<_>>();
    let session = of("session")[0];
    for step in ["setup", "offline", "online"] {
        assert_eq!(of(step).len(), 1, "{step}");
        assert_eq!(of(step)[0].parent_span_id, session.span_id);
        assert!(of(step)[0].end_time_unix_nano >= of(step)[0].start_time_unix_nano);
    }
    let keys: BTreeSet<_> = spans
        .iter()
        .flat_map(|s| &s.attributes)
        .map(|a| a.key.as_str())
        .collect();
    let known = [
        "batch",
        "client",
        "model",
        "outcome",
        "round_trips",
        "session",
        "waited_s",
    ];
    let known: BTreeSet<_> = known.map(|key| format!("pi.{key}")).into();
    let keys: BTreeSet<_> = keys.into_iter().map(str::to_owned).collect();
    assert_eq!(keys, known);
}

#[test]
fn a_collector_that_is_not_there_stops_nothing() {
    // Nobody listens on a port that was just free.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let mut server = TestServer::with(OutputMode::Logits, |o| o.otlp_endpoint = Some(endpoint));
    server.assert_serves();
    let stopping = Instant::now();
    server.stop();
    assert!(stopping.elapsed() < Duration::from_secs(10));
}
