//! The guard around the whole proxy, REST and gRPC, known paths and unknown ones: it is for programs, not for web pages.
//!
//! A page in a browser on this machine can send requests to loopback, and under a host name of its own (DNS rebinding) even read the
//! answers. What gives it away is the Origin that a browser adds, the Host that it was opened under, or, on the paths of gRPC, a
//! content type that a browser sends without asking first. On the paths of REST a missing or strange content type is taken: `curl -d`
//! sends that of a form, and a browser that does so adds the Origin.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::Response;
use pi_proto::inference::grpc_inference_service_server::SERVICE_NAME;
use tonic::Status;

use super::rest::failure;
use super::service::Proxy;

/// Content type of gRPC; `+proto` and the like may follow.
const GRPC: &str = "application/grpc";

/// Passes on what may come from a program.
pub(super) async fn no_browsers(
    State(proxy): State<Arc<Proxy>>,
    request: Request,
    next: Next,
) -> Response {
    let (headers, uri) = (request.headers(), request.uri());
    let is_foreign = proxy.is_local && !is_for_loopback(headers, uri);
    if headers.contains_key(header::ORIGIN) || is_foreign {
        return forbidden(is_grpc_path(uri.path()));
    }
    if is_grpc_path(uri.path()) && !is_grpc(headers) {
        return failure(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "this path takes gRPC alone (content type application/grpc); for REST see /v2",
        );
    }
    next.run(request).await
}

/// The refusal, which a client of gRPC can read, too.
fn forbidden(is_grpc: bool) -> Response {
    let why = "this proxy is for programs on this machine, not for web pages";
    if !is_grpc {
        return failure(StatusCode::FORBIDDEN, why);
    }
    let mut response = Status::permission_denied(why).into_http::<Body>();
    *response.status_mut() = StatusCode::FORBIDDEN;
    response
}

/// Whether all names by which this server was called are loopback's. HTTP/1.1 has them in Host, HTTP/2 in the address.
fn is_for_loopback(headers: &HeaderMap, uri: &Uri) -> bool {
    let is_ours = |host: &HeaderValue| host.to_str().is_ok_and(is_loopback);
    headers.get_all(header::HOST).iter().all(is_ours) && uri.host().is_none_or(is_loopback)
}

fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost")
        || name
            .parse()
            .is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

fn is_grpc_path(path: &str) -> bool {
    let path = path.strip_prefix('/').unwrap_or(path);
    path.strip_prefix(SERVICE_NAME)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let is_grpc = |kind: &HeaderValue| {
        let kind = kind.to_str().unwrap_or_default().to_ascii_lowercase();
        kind.strip_prefix(GRPC)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['+', ';']))
    };
    let mut kinds = headers.get_all(header::CONTENT_TYPE).iter().peekable();
    kinds.peek().is_some() && kinds.all(is_grpc)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_that_are_this_machine() {
        for host in ["localhost:8080", "127.0.0.1", "[::1]:80", "LOCALHOST"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["example.com", "127.0.0.1.example.com", "10.0.0.1:80", ""] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn every_name_of_the_server_counts() {
        let uri = |text: &str| text.parse::<Uri>().unwrap();
        let mut headers = HeaderMap::new();
        assert!(is_for_loopback(&headers, &uri("/v2")));
        assert!(!is_for_loopback(&headers, &uri("http://example.com/v2")));
        headers.append(header::HOST, HeaderValue::from_static("localhost:1"));
        assert!(is_for_loopback(&headers, &uri("http://127.0.0.1:1/v2")));
        assert!(!is_for_loopback(&headers, &uri("http://example.com/v2")));
        headers.append(header::HOST, HeaderValue::from_static("example.com"));
        assert!(!is_for_loopback(&headers, &uri("/v2")));
        let strange = HeaderValue::from_bytes(b"\xff").unwrap();
        let headers = HeaderMap::from_iter([(header::HOST, strange)]);
        assert!(!is_for_loopback(&headers, &uri("/v2")));
    }

    #[test]
    fn what_is_grpc() {
        assert!(is_grpc_path("/inference.GRPCInferenceService/ModelInfer"));
        assert!(!is_grpc_path("/inference.GRPCInferenceServices/x") && !is_grpc_path("/v2"));
        for (kind, good) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc-web", false),
            ("text/plain", false),
        ] {
            let kind_of = HeaderValue::from_static(kind);
            let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, kind_of)]);
            assert_eq!(is_grpc(&headers), good, "{kind}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }
}
