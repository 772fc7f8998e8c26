//! Traces for OpenTelemetry, by OTLP over gRPC: a span for each session, and below it one for each finished step. Off unless
//! `--otlp-endpoint` names a collector.
//!
//! A client's W3C trace context (metadata `traceparent`, `tracestate`) is the parent, so that its queries and our steps are
//! one trace; whether that trace is recorded is the client's word then. Spans that a collector does not take in time are
//! dropped; a session never waits for it.
//!
//! Security: spans hold what the log holds, names, counts and times. They have the model's name and the identity's, and the
//! trace's number links them to whoever chose it: the collector learns who asked when, as the log's reader does.

use std::time::{Duration, SystemTime};

use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
use opentelemetry::trace::{
    Span as _, SpanKind, Status, TraceContextExt as _, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use pi_protocol::ledger::Phase;
use pi_protocol::record::StepRecord;
use tonic::metadata::MetadataMap;
use tracing::warn;

use crate::error::ServeError;

/// How long the collector may take for one message.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a stop waits for the last spans.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// The way to one collector.
pub struct Telemetry {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

/// One session's span. It ends when this is dropped.
pub struct SessionTrace {
    tracer: SdkTracer,
    context: Context,
}

struct Metadata<'m>(&'m MetadataMap);

impl Extractor for Metadata<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate"]
    }
}

impl Telemetry {
    /// Sends to the collector at `endpoint` from now on. Must be called inside a tokio runtime; the collector need not be
    /// there yet.
    ///
    /// # Errors
    /// [`ServeError::Telemetry`] for an endpoint that is no address.
    pub fn start(endpoint: &str) -> Result<Self, ServeError> {
        let refused = |reason: String| ServeError::Telemetry {
            endpoint: endpoint.to_owned(),
            reason,
        };
        if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
            return Err(refused(
                "it begins neither with http:// nor https://".into(),
            ));
        }
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .with_timeout(EXPORT_TIMEOUT)
            .build()
            .map_err(|e| refused(e.to_string()))?;
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        let resource = Resource::builder()
            .with_service_name("pi-server")
            .with_attribute(version);
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource.build());
        Ok(Self::with(provider.build()))
    }

    fn with(provider: SdkTracerProvider) -> Self {
        let tracer = provider.tracer("pi-server");
        Self { provider, tracer }
    }

    /// The span of a session that was asked for at `since` with `metadata`.
    #[must_use]
    pub fn session(
        &self,
        metadata: &MetadataMap,
        since: SystemTime,
        attributes: [(&'static str, String); 3],
    ) -> SessionTrace {
        let parent = TraceContextPropagator::new()
            .extract_with_context(&Context::new(), &Metadata(metadata));
        let builder = self
            .tracer
            .span_builder("session")
            .with_kind(SpanKind::Server)
            .with_start_time(since)
            .with_attributes(attributes.map(|(key, value)| KeyValue::new(key, value)));
        let span = builder.start_with_context(&self.tracer, &parent);
        SessionTrace {
            tracer: self.tracer.clone(),
            context: parent.with_span(span),
        }
    }

    /// Sends what is left, for at most [`STOP_TIMEOUT`]. Blocks.
    pub fn stop(&self) {
        if let Err(error) = self.provider.shutdown_with_timeout(STOP_TIMEOUT) {
            warn!(%error, "the last spans were not sent");
        }
    }
}

impl SessionTrace {
    /// A step that has just finished.
    pub fn step(&self, step: &StepRecord) {
        let end = SystemTime::now();
        let took = Duration::try_from_secs_f64(step.seconds).unwrap_or_default();
        let name = match step.phase {
            Phase::Setup => "setup",
            Phase::Offline => "offline",
            Phase::Online => "online",
        };
        let attributes = [
            KeyValue::new("pi.batch", i64::from(step.batch)),
            KeyValue::new("pi.waited_s", step.waited_s),
            KeyValue::new("pi.round_trips", step.round_trips as i64),
        ];
        let builder = self
            .tracer
            .span_builder(name)
            .with_start_time(end.checked_sub(took).unwrap_or(end))
            .with_attributes(attributes);
        let mut span = builder.start_with_context(&self.tracer, &self.context);
        span.end_with_timestamp(end);
    }

    /// How the session ended: `ended`, `failed`, `refused` or `panicked`.
    pub fn outcome(&self, outcome: &'static str) {
        let span = self.context.span();
        span.set_attribute(KeyValue::new("pi.outcome", outcome));
        if outcome != "ended" {
            span.set_status(Status::error(outcome));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry_sdk::error::OTelSdkResult;
    use opentelemetry_sdk::trace::SpanData;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Debug, Default)]
    struct Kept(Arc<Mutex<Vec<SpanData>>>);

    impl opentelemetry_sdk::trace::SpanExporter for Kept {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            self.0.lock().unwrap().extend(batch);
            Ok(())
        }
    }

    fn spans_with(traceparent: &str) -> Vec<SpanData> {
        let kept = Kept::default();
        let provider = SdkTracerProvider::builder().with_simple_exporter(kept.clone());
        let telemetry = Telemetry::with(provider.build());
        let mut metadata = MetadataMap::new();
        metadata.insert("traceparent", traceparent.parse().unwrap());
        let attributes = ["pi.model", "pi.session", "pi.client"].map(|key| (key, "x".to_owned()));
        let session = telemetry.session(&metadata, SystemTime::now(), attributes);
        session.outcome("failed");
        drop(session);
        telemetry.stop();
        let spans = kept.0.lock().unwrap();
        spans.clone()
    }

    #[test]
    fn a_clients_context_is_the_parent_and_nonsense_is_none() {
        let trace = "0af7651916cd43dd8448eb211c80319c";
        let spans = spans_with(&format!("00-{trace}-b7ad6b7169203331-01"));
        assert_eq!(spans.len(), 1);
        assert_eq!(spans[0].span_context.trace_id().to_string(), trace);
        assert_eq!(spans[0].parent_span_id.to_string(), "b7ad6b7169203331");
        assert_eq!(spans[0].status, Status::error("failed"));
        for nonsense in ["", "00-0-0-01", "x".repeat(5000).as_str()] {
            let spans = spans_with(nonsense);
            assert_ne!(spans[0].span_context.trace_id().to_string(), trace);
            assert!(!spans[0].parent_span_is_remote);
        }
        let unsampled = spans_with(&format!("00-{trace}-b7ad6b7169203331-00"));
        assert!(unsampled.is_empty());
    }

    #[tokio::test]
    async fn an_endpoint_must_be_an_address() {
        assert!(Telemetry::start("collector:4317").is_err());
        Telemetry::start("http://127.0.0.1:9").unwrap();
    }
}
