//! TLS with a development certificate, and every mistake that a user can make with it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use common::TestServer;
use pi_client::blocking::Client;
use pi_client::{ClientError, ConnectOptions};
use pi_model::spec::OutputMode;

fn said(options: ConnectOptions) -> String {
    let error = Client::connect(options)
        .and_then(|client| client.models())
        .unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
    error.to_string()
}

#[test]
fn a_development_certificate_serves_who_trusts_it() {
    let dir = tempfile::tempdir().unwrap();
    let files = common::certificate(dir.path());
    let server = TestServer::with(OutputMode::Logits, |o| o.tls = Some(files.clone()));

    let trusting = ConnectOptions::new(&server.url).with_ca(&files.certificate);
    let client = Client::connect(trusting.clone()).unwrap();
    let mut session = client.session(&client.describe(None).unwrap(), 1).unwrap();
    let input = common::image(&server.model, 3);
    let answer = session.infer(&input).unwrap();
    common::assert_close(&server.model, &input, &answer.output);
    session.close().unwrap();

    let text = said(ConnectOptions::new(&server.url));
    assert!(text.contains("--ca"), "{text}");
    let other_name = ConnectOptions {
        url: server.url.replace("localhost", "127.0.0.1"),
        ..trusting
    };
    let text = said(other_name);
    assert!(text.contains("another host name"), "{text}");
    let text = said(ConnectOptions::new(server.url.replace("https", "http")));
    assert!(text.contains("https://"), "{text}");
}

#[test]
fn tls_to_a_server_without_it_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let files = common::certificate(dir.path());
    let server = TestServer::start();
    let url = server.url.replace("http", "https");
    let text = said(ConnectOptions::new(url).with_ca(&files.certificate));
    assert!(text.contains("http://"), "{text}");
}

/// Our own server refuses such a certificate at its start; others may not.
#[test]
fn an_expired_certificate_is_named_as_such() {
    use std::time::{Duration, SystemTime};
    let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_before = (SystemTime::now() - Duration::from_secs(7200)).into();
    params.not_after = (SystemTime::now() - Duration::from_secs(3600)).into();
    let key = rcgen::KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, &pem).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let identity = tonic::transport::Identity::from_pem(&pem, key.serialize_pem());
    let tls = tonic::transport::ServerTlsConfig::new().identity(identity);
    let incoming = runtime.block_on(async {
        tonic::transport::server::TcpIncoming::bind(([127, 0, 0, 1], 0).into()).unwrap()
    });
    let port = incoming.local_addr().unwrap().port();
    let (_, health) = tonic_health::server::health_reporter();
    let mut server = tonic::transport::Server::builder().tls_config(tls).unwrap();
    runtime.spawn(server.add_service(health).serve_with_incoming(incoming));
    let text = said(ConnectOptions::new(format!("https://localhost:{port}")).with_ca(ca));
    assert!(text.contains("has expired"), "{text}");
    runtime.shutdown_background();
}

/// More silent connections than one address may have.
#[test]
fn connections_that_say_nothing_keep_nobody_out() {
    let dir = tempfile::tempdir().unwrap();
    let files = common::certificate(dir.path());
    let server = TestServer::with(OutputMode::Logits, |o| o.tls = Some(files.clone()));
    let silent = |_| std::net::TcpStream::connect(server.address).unwrap();
    let n = pi_server::ConnectionLimits::default().per_address + 20;
    let connections: Vec<_> = (0..n).map(silent).collect();
    let started = std::time::Instant::now();
    let trusting = ConnectOptions::new(&server.url).with_ca(&files.certificate);
    Client::connect(trusting).unwrap().models().unwrap();
    let waited = started.elapsed();
    assert!(
        waited < pi_server::connection::HANDSHAKE_TIMEOUT / 2,
        "{waited:?}"
    );
    drop(connections);
}
