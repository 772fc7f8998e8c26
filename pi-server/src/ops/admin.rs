//! The admin port, plain HTTP: `/livez`, `/readyz` with what is broken and why, `/metrics`; and Triton's paths to list, load
//! and unload models, `POST /v2/repository/index` and `/v2/repository/models/NAME/{load,unload}`; and the filter of the log,
//! `GET /log` and `PUT /log`.
//!
//! Security: it knows no identities, so it listens on loopback unless the operator says otherwise; whoever reaches it reads
//! names of models, reasons of failures, counts and times, and may load models that are in the repository. The log's filter
//! is changed from this machine alone. Nothing is changed for a browser: a page that somebody here looks at could send a
//! request to loopback, and browsers mark those. Nothing is answered under a name that a stranger could have had resolved to us.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, Request, State};
use axum::http::header::{CONTENT_TYPE, HOST, ORIGIN};
use axum::http::{Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Serialize;
use tokio::net::TcpListener;
use tracing::info;

use crate::calls::drain::Stage;
use crate::calls::shared::Shared;
use crate::models::repository::ModelStatus;
use crate::models::root::Root;
use crate::ops::log;
use crate::ops::metrics;

/// Longest body of a request: a filter of the log.
const MAX_BODY_BYTES: usize = 4096;

/// What the admin port shows.
pub struct Admin {
    /// Models, counters and the stop.
    pub shared: Arc<Shared>,
    /// The repository on disk, if there is one.
    pub root: Option<Arc<Root>>,
    /// Names by which it may be called, besides those that no stranger can have.
    pub hosts: Vec<String>,
}

/// The answer of `/readyz`.
#[derive(Serialize)]
struct Ready {
    ready: bool,
    stage: Stage,
    sessions: usize,
    models: Vec<ModelStatus>,
}

impl Admin {
    fn ready(&self) -> Ready {
        let (stage, models) = (self.shared.drain.stage(), self.shared.repository.status());
        Ready {
            ready: stage == Stage::Serving && models.iter().any(|m| m.ready),
            stage,
            sessions: self.shared.drain.n_active(),
            models,
        }
    }

    fn metrics(&self) -> String {
        let (drain, models) = (&self.shared.drain, self.shared.repository.status());
        let n_ready = models.iter().filter(|m| m.ready).count();
        let n_broken = models.iter().filter(|m| !m.problems.is_empty()).count();
        let draining = drain.stage() != Stage::Serving;
        let metrics = &self.shared.metrics;
        metrics.text(drain.n_active(), n_ready, n_broken, draining)
    }
}

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, admin: Admin) -> std::io::Result<()> {
    let admin = Arc::new(admin);
    let routes = Router::new()
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_text))
        .route("/v2/repository/index", post(index))
        .route("/v2/repository/models/{model}/load", post(load))
        .route("/v2/repository/models/{model}/unload", post(unload))
        .route("/log", get(log_filter).put(set_log_filter))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        // Last, so that it stands around everything, unknown paths too.
        .layer(middleware::from_fn_with_state(Arc::clone(&admin), guard))
        .with_state(admin);
    let routes = routes.into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, routes).await
}

/// Whether `host`, with a port or without, is an address, or a name that only this machine or the operator's network gives.
/// Any other may be that of a web page, which had its own name resolved to our address.
fn is_ours(host: &str, hosts: &[String]) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let inside = [".localhost", ".local", ".internal", ".svc"];
    address.parse::<IpAddr>().is_ok()
        || !name.contains('.')
        || inside.iter().any(|end| name.ends_with(end))
        || hosts.iter().any(|host| host.eq_ignore_ascii_case(&name))
}

/// Refuses who calls us by a stranger's name, and what would change something for a browser.
async fn guard(State(admin): State<Arc<Admin>>, request: Request, next: Next) -> Response {
    let named = request.headers().get_all(HOST).iter();
    let named = named.map(|host| host.to_str().unwrap_or("unreadable.invalid"));
    let mut named = named.chain(request.uri().authority().map(|a| a.as_str()));
    if !named.all(|host| is_ours(host, &admin.hosts)) {
        return refuse(
            "the admin port is not called that; use its address, or start with --admin-host NAME",
        );
    }
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD);
    let headers = request.headers();
    if changes && (headers.contains_key(ORIGIN) || headers.contains_key("sec-fetch-site")) {
        return refuse("the admin port changes nothing for a browser; use a program like curl");
    }
    next.run(request).await
}

async fn log_filter() -> impl IntoResponse {
    match log::filter() {
        Some(filter) => (StatusCode::OK, filter + "\n"),
        None => (StatusCode::NOT_FOUND, log::LogError::NotOurs.to_string()),
    }
}

async fn set_log_filter(ConnectInfo(peer): ConnectInfo<SocketAddr>, filter: String) -> Response {
    if !peer.ip().to_canonical().is_loopback() {
        return refuse("the log's filter is changed from this machine alone");
    }
    match log::set(&filter) {
        Ok(()) => {
            info!(filter = filter.trim(), "the log's filter has changed");
            json(StatusCode::OK, &serde_json::json!({}))
        }
        Err(error) => failed(StatusCode::BAD_REQUEST, &error.to_string()),
    }
}

async fn readyz(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    let ready = admin.ready();
    let code = match ready.ready {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    json(code, &ready)
}

async fn metrics_text(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], admin.metrics())
}

async fn index(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    json(StatusCode::OK, &admin.shared.repository.status())
}

async fn load(State(admin): State<Arc<Admin>>, Path(model): Path<String>) -> impl IntoResponse {
    change(admin, move |root| root.load(&model)).await
}

async fn unload(State(admin): State<Arc<Admin>>, Path(model): Path<String>) -> impl IntoResponse {
    change(admin, move |root| root.unload(&model)).await
}

/// Changes what is loaded, on a thread that may compute.
async fn change(
    admin: Arc<Admin>,
    change: impl FnOnce(&Root) -> Result<(), String> + Send + 'static,
) -> impl IntoResponse {
    let done = tokio::task::spawn_blocking(move || match &admin.root {
        Some(root) => change(root),
        None => Err("this server has no repository; start it with --repository DIR".into()),
    });
    match done.await.unwrap_or_else(|e| Err(e.to_string())) {
        Ok(()) => json(StatusCode::OK, &serde_json::json!({})),
        Err(error) => failed(StatusCode::BAD_REQUEST, &error),
    }
}

fn refuse(why: &str) -> Response {
    failed(StatusCode::FORBIDDEN, why)
}

fn failed(code: StatusCode, error: &str) -> Response {
    json(code, &serde_json::json!({ "error": error }))
}

fn json(code: StatusCode, value: &impl Serialize) -> Response {
    let text = serde_json::to_string(value).unwrap_or_default();
    (code, [(CONTENT_TYPE, "application/json")], text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_a_stranger_could_have_is_not_ours() {
        let hosts = ["metrics.example.com".to_owned()];
        for host in [
            "127.0.0.1:9090",
            "[::1]:9090",
            "10.1.2.3",
            "localhost:9090",
            "pi-server:9090",
            "pi-server.private-inference.svc:9090",
            "Metrics.Example.com:9090",
        ] {
            assert!(is_ours(host, &hosts), "{host}");
        }
        for host in [
            "evil.example:9090",
            "evil.example",
            "localhost.evil.example",
            "unreadable.invalid",
        ] {
            assert!(!is_ours(host, &hosts), "{host}");
        }
    }
}
