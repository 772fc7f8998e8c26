//! The admin port, health by model and reflection, as probes and Prometheus meet them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use common::{TestServer, image};
use pi_model::spec::OutputMode;
use pi_server::AdminListen;
use serde_json::Value;
use tokio::runtime::Runtime;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

fn get(address: SocketAddr, path: &str) -> (u16, String) {
    common::http(address, "GET", path)
}

fn with_admin() -> TestServer {
    TestServer::with(OutputMode::Logits, |o| {
        o.admin = AdminListen::At(([127, 0, 0, 1], 0).into());
        o.drain_timeout = Duration::from_millis(1000);
    })
}

#[test]
fn probes_and_prometheus_see_what_the_server_does() {
    let mut server = with_admin();
    let admin = server.admin.unwrap();
    assert_eq!(get(admin, "/livez"), (200, "alive\n".into()));
    assert_eq!(get(admin, "/else").0, 404);
    let (code, body) = get(admin, "/readyz");
    let ready: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(code, 200, "{body}");
    assert_eq!(ready["models"][0]["name"], "small");

    let client = server.connect();
    let description = client.describe(None).unwrap();
    client.describe(Some("other")).unwrap_err();
    let mut session = client.session(&description, 2).unwrap();
    session.infer(&image(&server.model, 1)).unwrap();
    let (sent, received) = (
        session.meter().n_bytes_sent(),
        session.meter().n_bytes_received(),
    );
    let n_relus = session.plan().graph().n_relus();
    let lines = [
        "pi_sessions_active 1".to_owned(),
        "pi_requests_total{method=\"Describe\",code=\"Ok\"} 1".into(),
        "pi_requests_total{method=\"Describe\",code=\"NotFound\"} 1".into(),
        "pi_requests_total{method=\"Session\",code=\"Ok\"} 1".into(),
        "pi_phase_seconds_count{model=\"small\",phase=\"setup\"} 1".into(),
        "pi_phase_seconds_count{model=\"small\",phase=\"offline\"} 1".into(),
        "pi_phase_seconds_count{model=\"small\",phase=\"online\"} 1".into(),
        "pi_models{state=\"ready\"} 1".into(),
        format!("pi_relus_evaluated_total {n_relus}"),
        format!("pi_bytes_total{{direction=\"received\"}} {sent}"),
        format!("pi_bytes_total{{direction=\"sent\"}} {received}"),
    ];
    // The client may have its answer before the server has counted.
    let patience = Instant::now() + Duration::from_secs(20);
    loop {
        let (code, text) = get(admin, "/metrics");
        assert_eq!(code, 200);
        let missing = lines.iter().find(|line| !text.lines().any(|l| l == *line));
        let Some(missing) = missing else { break };
        assert!(Instant::now() < patience, "{missing} is not in\n{text}");
        std::thread::sleep(Duration::from_millis(20));
    }
    server.stop();
    assert!(
        TcpStream::connect(admin).is_err(),
        "the admin port outlived the server"
    );
}

#[test]
fn a_taken_admin_port_is_refused_with_advice() {
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let dir = tempfile::tempdir().unwrap();
    common::model("small", OutputMode::Logits)
        .save(dir.path())
        .unwrap();
    let mut options = common::options(dir.path());
    options.admin = AdminListen::At(held.local_addr().unwrap());
    let runtime = Runtime::new().unwrap();
    let _inside = runtime.enter();
    let said = pi_server::Server::bind(options).err().unwrap().to_string();
    assert!(said.contains("choose another port"), "{said}");
}

#[test]
fn models_have_a_health_of_their_own_and_services_can_be_listed() {
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    let server = TestServer::with(OutputMode::Logits, |o| o.reflection = true);
    let listed = Runtime::new().unwrap().block_on(async {
        let endpoint = tonic::transport::Endpoint::from_shared(server.url.clone()).unwrap();
        let channel = endpoint.connect().await.unwrap();
        let mut health = HealthClient::new(channel.clone());
        for (service, expected) in [
            ("", Some(1)),
            ("pi.v1.PrivateInference", Some(1)),
            ("pi.v1.PrivateInference/small", Some(1)),
            ("pi.v1.PrivateInference/other", None),
        ] {
            let service = service.to_owned();
            let answer = health.check(HealthCheckRequest { service }).await;
            assert_eq!(answer.ok().map(|a| a.into_inner().status), expected);
        }
        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let mut client = ServerReflectionClient::new(channel);
        let answers = client
            .server_reflection_info(tokio_stream::once(request))
            .await;
        format!(
            "{:?}",
            answers.unwrap().into_inner().message().await.unwrap()
        )
    });
    for service in [
        "pi.v1.PrivateInference",
        "grpc.health.v1.Health",
        "inference.GRPCInferenceService",
    ] {
        assert!(listed.contains(service), "{listed}");
    }
}

/// One request with a body and more headers: the code.
fn request(address: SocketAddr, method: &str, path: &str, headers: &str, body: &str) -> u16 {
    use std::io::{Read as _, Write as _};
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: admin\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text.split(' ').nth(1).unwrap().parse().unwrap()
}

#[test]
fn the_log_changes_while_the_server_runs_and_nothing_changes_for_a_browser() {
    pi_server::log::init();
    let server = with_admin();
    let admin = server.admin.unwrap();
    let put = |headers: &str, filter: &str| request(admin, "PUT", "/log", headers, filter);
    assert_eq!(put("", "info,pi_server=debug"), 200);
    let (code, filter) = get(admin, "/log");
    assert_eq!(code, 200);
    assert!(filter.contains("pi_server=debug"), "{filter}");
    assert_eq!(put("", "pi_server=loud"), 400);
    assert_eq!(put("", &"a".repeat(5000)), 413);
    let load = "/v2/repository/models/small/load";
    for marked in [
        "origin: http://evil.example\r\n",
        "sec-fetch-site: cross-site\r\n",
    ] {
        assert_eq!(put(marked, "trace"), 403);
        assert_eq!(request(admin, "POST", load, marked, ""), 403);
        assert_eq!(request(admin, "GET", "/livez", marked, ""), 200);
    }
    assert_eq!(get(admin, "/log").1, filter);
}

#[test]
fn the_admin_port_answers_under_no_strangers_name() {
    use std::io::{Read as _, Write as _};
    let server = with_admin();
    for (host, code) in [
        ("127.0.0.1:9090", "200"),
        ("localhost", "200"),
        ("evil.example", "403"),
    ] {
        for path in ["/livez", "/metrics", "/readyz", "/log", "/else"] {
            let mut stream = TcpStream::connect(server.admin.unwrap()).unwrap();
            let head = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            let said = text.split(' ').nth(1).unwrap();
            let due = if code == "200" && path == "/else" {
                "404"
            } else {
                code
            };
            // Without a subscriber the log has no filter to show.
            assert!(
                said == due || (path == "/log" && said == "404" && due == "200"),
                "{host} {path}: {text}"
            );
        }
    }
}
