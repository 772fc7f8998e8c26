//! What a server counts, as text for Prometheus (the OpenMetrics form, which it reads).
//!
//! Security: counts, sizes and times by model, phase and outcome. No client, no address, no value. Labels take names of our
//! own models and fixed words only, so that no client can make their number grow.

use std::time::Instant;

use pi_protocol::ledger::Phase;
use pi_protocol::wire::PROTOCOL_VERSION;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry};
use tonic::Code;

use crate::ops::process::Process;
use crate::store::contract::{Bounds, Held};

/// What [`Metrics::text`] is, in a header `content-type`.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Names and values of a line's labels.
type Labels<const N: usize> = [(&'static str, String); N];
type Counters<const N: usize> = Family<Labels<N>, Counter>;

/// From 1 ms to a little over two minutes by powers of two; a phase of a large model takes tens of seconds.
#[derive(Clone, Debug)]
struct Seconds;

impl MetricConstructor<Histogram> for Seconds {
    fn new_metric(&self) -> Histogram {
        Histogram::new(exponential_buckets(0.001, 2.0, 18))
    }
}

/// All counters of one server.
pub struct Metrics {
    registry: Registry,
    requests: Counters<2>,
    refused: Counters<1>,
    sessions: Counters<1>,
    active: Gauge,
    inferences: Counters<1>,
    phases: Family<Labels<2>, Histogram, Seconds>,
    bytes: Counters<1>,
    relus: Counter,
    kept: Counters<1>,
    kept_items: Gauge,
    kept_bytes: Gauge,
    kept_limit: Gauge,
    kept_failing: Gauge,
    load_failures: Counters<1>,
    queue: Histogram,
    waiting: Gauge,
    most: Gauge,
    prepared: Family<Labels<1>, Gauge>,
    certificate: Family<Labels<1>, Gauge>,
    reload_failing: Family<Labels<1>, Gauge>,
    process: Process,
    process_registry: Registry,
    models: Family<Labels<1>, Gauge>,
    draining: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut all = Adding(Registry::with_prefix("pi"));
        let build = Info::new([
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("protocol", PROTOCOL_VERSION.to_string()),
        ]);
        all.0
            .register("build", "The program and its protocol", build);
        let mut process_registry = Registry::default();
        let metrics = Self {
            requests: all.add(
                "requests",
                "Calls that ended or opened a session, by method and gRPC code",
            ),
            refused: all.add("refused", "Sessions, calls and steps refused, by reason"),
            sessions: all.add("sessions", "Sessions ended, by outcome"),
            active: all.add("sessions_active", "Sessions open now"),
            inferences: all.add("inferences", "Inferences finished, by model"),
            phases: all.put(
                "phase_seconds",
                "Set-up, offline batches and online inferences, from begin to end",
                Family::new_with_constructor(Seconds),
            ),
            bytes: all.add("bytes", "Bytes of sessions with gRPC framing, by direction"),
            relus: all.add("relus_evaluated", "ReLUs evaluated under garbling"),
            kept: all.add(
                "kept",
                "Prepared inferences put into the store (put), given out (take), asked for in vain (miss)",
            ),
            kept_items: all.add("kept_items", "Prepared inferences in the store"),
            kept_bytes: all.add("kept_bytes", "Their bytes"),
            kept_limit: all.add("kept_limit_bytes", "Most bytes that the store may hold; 0 without a store"),
            kept_failing: all.add("kept_failing", "1 while the store does not work"),
            load_failures: all.add(
                "model_load_failures",
                "Models that could not be loaded, by model",
            ),
            queue: all.put(
                "queue_seconds",
                "Waiting for a place before a session began or was refused for want of one",
                Seconds.new_metric(),
            ),
            waiting: all.add("sessions_waiting", "Sessions that wait for a place now"),
            most: all.add("sessions_limit", "Most sessions at the same time"),
            prepared: all.add(
                "prepared",
                "Inferences that are prepared and not used, in the memory of open sessions, by model",
            ),
            certificate: all.add(
                "certificate_expiry_seconds",
                "When the first certificate of a file ends, in seconds from 1970, by file",
            ),
            reload_failing: all.add(
                "reload_failing",
                "1 while files have changed and cannot be used, so that the old ones stay, by kind",
            ),
            process: Process::new(&mut process_registry),
            process_registry,
            models: all.add("models", "Models, by state"),
            draining: all.add("draining", "1 once the server stops"),
            registry: all.0,
        };
        // A counter that appears with its first event has no rate of it.
        for outcome in ["ended", "failed", "refused", "panicked"] {
            let labels = [("outcome", outcome.to_owned())];
            drop(metrics.sessions.get_or_create(&labels));
        }
        for event in ["put", "take", "miss", "take_failure", "put_failure"] {
            drop(metrics.kept_event(event));
        }
        metrics.bytes(0, 0);
        metrics
    }
}

/// A session that waits for a place; dropped when it has one or gives up.
pub struct Waiting<'m> {
    metrics: &'m Metrics,
    since: Instant,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.metrics.waiting.dec();
        let seconds = self.since.elapsed().as_secs_f64();
        self.metrics.queue.observe(seconds);
    }
}

/// The prepared inferences of one session; those that are left when it is dropped are gone.
pub struct Pool {
    n: i64,
    all: Gauge,
}

impl Pool {
    /// `n` more, or fewer.
    pub fn add(&mut self, n: i64) {
        // Never below nothing, whatever the order of the steps.
        let n = n.max(-self.n);
        self.n += n;
        self.all.inc_by(n);
    }

    /// How many there are.
    #[must_use]
    pub fn n(&self) -> usize {
        usize::try_from(self.n).unwrap_or_default()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.add(-self.n);
    }
}

struct Adding(Registry);

impl Adding {
    fn add<M: Metric + Clone + Default>(&mut self, name: &str, help: &str) -> M {
        self.put(name, help, M::default())
    }

    fn put<M: Metric + Clone>(&mut self, name: &str, help: &str, metric: M) -> M {
        self.0.register(name, help, metric.clone());
        metric
    }
}

impl Metrics {
    /// A call of `method` that ended with `code`; a session counts when it is opened or refused.
    pub fn request(&self, method: &str, code: Code) {
        let labels = [("method", method.to_owned()), ("code", format!("{code:?}"))];
        self.requests.get_or_create(&labels).inc();
    }

    /// Something was refused.
    pub fn refused(&self, reason: &str) {
        self.refused
            .get_or_create(&[("reason", reason.to_owned())])
            .inc();
    }

    /// A session is over: `ended`, `failed`, `refused` or `panicked`.
    pub fn session_over(&self, outcome: &'static str) {
        self.sessions
            .get_or_create(&[("outcome", outcome.to_owned())])
            .inc();
    }

    /// A step of a session is finished; `n_relus` is what one inference of the model evaluates.
    pub fn step(&self, model: &str, phase: Phase, seconds: f64, n_relus: usize) {
        let model = ("model", model.to_owned());
        let name = match phase {
            Phase::Setup => "setup",
            Phase::Offline => "offline",
            Phase::Online => "online",
        };
        let labels = [model.clone(), ("phase", name.to_owned())];
        self.phases.get_or_create(&labels).observe(seconds);
        if phase == Phase::Online {
            self.inferences.get_or_create(&[model]).inc();
            self.relus.inc_by(n_relus as u64);
        }
    }

    /// A session that waits for a place from now on, until the result is dropped.
    pub fn wait(&self) -> Waiting<'_> {
        self.waiting.inc();
        let since = Instant::now();
        Waiting {
            metrics: self,
            since,
        }
    }

    /// Sessions that wait now.
    #[must_use]
    pub fn n_waiting(&self) -> usize {
        usize::try_from(self.waiting.get()).unwrap_or_default()
    }

    /// The prepared inferences of a session of `model`, none yet.
    #[must_use]
    pub fn pool(&self, model: &str) -> Pool {
        let all = self.prepared.get_or_create(&[("model", model.to_owned())]);
        let all = all.clone();
        Pool { n: 0, all }
    }

    /// Most sessions at the same time.
    pub fn sessions_limit(&self, n: usize) {
        self.most.set(n as i64);
    }

    /// The first certificate of `file` ends at `unix_s`.
    pub fn certificate_expires(&self, file: &'static str, unix_s: i64) {
        let labels = [("file", file.to_owned())];
        self.certificate.get_or_create(&labels).set(unix_s);
    }

    /// Whether changed files of this kind cannot be used.
    pub fn reload_failing(&self, kind: &str, failing: bool) {
        let labels = [("kind", kind.to_owned())];
        self.reload_failing
            .get_or_create(&labels)
            .set(failing.into());
    }

    /// Bytes went over the wire.
    pub fn bytes(&self, received: u64, sent: u64) {
        for (direction, n) in [("received", received), ("sent", sent)] {
            self.bytes
                .get_or_create(&[("direction", direction.to_owned())])
                .inc_by(n);
        }
    }

    /// Items were put into the store.
    pub fn kept_put(&self, n: u64) {
        self.kept_event("put").inc_by(n);
    }

    /// A kept inference was asked for: `take` or `miss`; or `take_failure`, if the store could not say.
    pub fn kept_take(&self, event: &'static str) {
        self.kept_event(event).inc();
    }

    /// The store could not take in what it was given.
    pub fn kept_put_failed(&self) {
        self.kept_event("put_failure").inc();
    }

    /// The store holds this.
    pub fn kept(&self, held: &Held) {
        self.kept_items.set(held.n_items as i64);
        self.kept_bytes.set(held.n_bytes as i64);
    }

    /// The store may hold this much, and works or does not.
    pub fn kept_works(&self, bounds: &Bounds, works: bool) {
        self.kept_limit.set(bounds.total_bytes as i64);
        self.kept_failing.set(i64::from(!works));
    }

    fn kept_event(&self, event: &str) -> Counter {
        let labels = [("event", event.to_owned())];
        self.kept.get_or_create(&labels).clone()
    }

    /// A model could not be loaded.
    pub fn load_failed(&self, model: &str) {
        self.load_failures
            .get_or_create(&[("model", model.to_owned())])
            .inc();
    }

    /// Everything as text, with `n_active` sessions, models that serve or are broken, and whether the server stops.
    #[must_use]
    pub fn text(&self, n_active: usize, n_ready: usize, n_broken: usize, draining: bool) -> String {
        self.active
            .set(n_active.saturating_sub(self.n_waiting()) as i64);
        self.process.refresh();
        self.draining.set(draining.into());
        for (state, n) in [("ready", n_ready), ("broken", n_broken)] {
            self.models
                .get_or_create(&[("state", state.to_owned())])
                .set(n as i64);
        }
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode_registry(&mut text, &self.registry);
        let _ = encode_registry(&mut text, &self.process_registry);
        let _ = encode_eof(&mut text);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_in_the_text() {
        let metrics = Metrics::default();
        metrics.request("Describe", Code::NotFound);
        metrics.refused("sessions");
        metrics.session_over("ended");
        metrics.step("small", Phase::Offline, 0.5, 150);
        metrics.step("small", Phase::Online, 0.01, 150);
        metrics.bytes(7, 9);
        metrics.load_failed("large");
        metrics.kept_put(4);
        metrics.kept_take("miss");
        metrics.kept(&Held {
            n_items: 4,
            n_bytes: 99,
            next_expiry_s: 0,
        });
        let bounds = Bounds {
            total_bytes: 1000,
            owner_bytes: 500,
        };
        metrics.kept_works(&bounds, false);
        metrics.sessions_limit(8);
        metrics.certificate_expires("tls-cert", 1_800_000_000);
        metrics.reload_failing("tokens", true);
        let mut pool = metrics.pool("small");
        pool.add(4);
        pool.add(-1);
        let mut other = metrics.pool("small");
        other.add(2);
        other.add(-5);
        drop(metrics.wait());
        let _waits = metrics.wait();
        let text = metrics.text(3, 1, 2, true);
        for line in [
            "pi_requests_total{method=\"Describe\",code=\"NotFound\"} 1",
            "pi_refused_total{reason=\"sessions\"} 1",
            "pi_sessions_total{outcome=\"ended\"} 1",
            "pi_sessions_active 2",
            "pi_sessions_waiting 1",
            "pi_sessions_limit 8",
            "pi_queue_seconds_count 1",
            "pi_prepared{model=\"small\"} 3",
            "pi_certificate_expiry_seconds{file=\"tls-cert\"} 1800000000",
            "pi_reload_failing{kind=\"tokens\"} 1",
            "pi_sessions_total{outcome=\"panicked\"} 0",
            "pi_inferences_total{model=\"small\"} 1",
            "pi_phase_seconds_count{model=\"small\",phase=\"offline\"} 1",
            "pi_phase_seconds_bucket{le=\"0.512\",model=\"small\",phase=\"offline\"} 1",
            "pi_bytes_total{direction=\"received\"} 7",
            "pi_relus_evaluated_total 150",
            "pi_model_load_failures_total{model=\"large\"} 1",
            "pi_models{state=\"broken\"} 2",
            "pi_draining 1",
            "pi_kept_total{event=\"put\"} 4",
            "pi_kept_total{event=\"miss\"} 1",
            "pi_kept_items 4",
            "pi_kept_bytes 99",
            "pi_kept_limit_bytes 1000",
            "pi_kept_failing 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        assert!(
            text.contains("pi_build_info{version=\"")
                && text.contains("process_threads")
                && text.ends_with("# EOF\n"),
            "{text}"
        );
    }
}
