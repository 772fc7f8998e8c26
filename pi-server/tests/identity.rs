//! Who may use the server, and how much: tokens, client certificates, limits; and that changed files count without a restart.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::{TestServer, image};
use pi_client::blocking::Client;
use pi_client::{ClientError, ConnectOptions, Token};
use pi_model::spec::OutputMode;
use pi_server::{Quota, ServeOptions, identity};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tonic::Code;

fn with_tokens(
    lines: &str,
    change: impl FnOnce(&mut ServeOptions),
) -> (TestServer, PathBuf, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokens");
    std::fs::write(&path, lines).unwrap();
    let server = TestServer::with(OutputMode::Logits, |o| {
        o.tokens = Some(path.clone());
        o.reload_interval = Duration::from_millis(20);
        change(o);
    });
    (server, path, dir)
}

fn connect(server: &TestServer, token: Option<&str>) -> Client {
    Client::connect(ConnectOptions {
        token: token.map(|t| Token::new(t).unwrap()),
        ..ConnectOptions::new(&server.url)
    })
    .unwrap()
}

fn refused<T>(outcome: Result<T, ClientError>) -> (Code, String) {
    match outcome.err().unwrap() {
        ClientError::Refused { code, message, .. } => (code, message),
        other => panic!("{other}"),
    }
}

/// Tries until it works, for what another thread does soon.
fn soon<T, E: std::fmt::Display>(mut what: impl FnMut() -> Result<T, E>) -> T {
    let patience = Instant::now() + Duration::from_secs(20);
    loop {
        match what() {
            Ok(value) => return value,
            Err(error) => assert!(Instant::now() < patience, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn without_a_known_token_nothing_is_told_and_a_new_one_counts_without_a_restart() {
    let (alice, line) = identity::new_token("alice").unwrap();
    let (bob, bobs_line) = identity::new_token("bob").unwrap();
    let (server, path, _dir) = with_tokens(&line, |_| {});
    for token in [None, Some(bob.as_str()), Some("pi-wrong")] {
        let client = connect(&server, token);
        for (code, message) in [refused(client.models()), refused(client.describe(None))] {
            assert_eq!(code, Code::Unauthenticated);
            assert!(message.contains("--token-file") && !message.contains(&bob));
        }
    }
    let client = connect(&server, Some(&alice));
    let description = client.describe(None).unwrap();
    let (code, _) = refused(connect(&server, None).session(&description, 1));
    assert_eq!(code, Code::Unauthenticated);
    let mut session = client.session(&description, 1).unwrap();
    session.infer(&image(&server.model, 1)).unwrap();
    session.close().unwrap();

    std::fs::write(&path, format!("{line}\n{bobs_line}\n")).unwrap();
    soon(|| connect(&server, Some(&bob)).models());
    std::fs::write(&path, "a line that is wrong").unwrap();
    std::thread::sleep(Duration::from_millis(100));
    connect(&server, Some(&bob)).models().unwrap();
    std::fs::write(&path, bobs_line).unwrap();
    soon(|| match connect(&server, Some(&alice)).models() {
        Err(_) => Ok(()),
        Ok(_) => Err("the token that was taken back still counts"),
    });
}

#[test]
fn each_identity_has_its_own_sessions_inferences_and_calls() {
    let (alice, line) = identity::new_token("alice").unwrap();
    let (bob, bobs_line) = identity::new_token("bob").unwrap();
    let lines = format!("{line}\n{bobs_line} sessions=2 inferences-per-day=100\n");
    let (server, _path, _dir) = with_tokens(&lines, |o| {
        o.quota = Quota {
            sessions: Some(1),
            inferences_per_day: Some(2),
            ..Quota::default()
        };
    });
    let (alice, bob) = (connect(&server, Some(&alice)), connect(&server, Some(&bob)));
    let description = alice.describe(None).unwrap();
    let mut one = alice.session(&description, 4).unwrap();
    let (code, message) = refused(alice.session(&description, 1));
    assert_eq!(code, Code::ResourceExhausted);
    assert!(
        message.contains("sessions of 'alice'") && message.contains("try again in"),
        "{message}"
    );
    let mut others = [
        bob.session(&description, 1).unwrap(),
        bob.session(&description, 1).unwrap(),
    ];
    refused(bob.session(&description, 1));

    let input = image(&server.model, 1);
    one.infer(&input).unwrap();
    one.infer(&input).unwrap();
    // Prepared, but the day's inferences are used up.
    let (code, said) = refused(one.infer(&input));
    assert!(
        code == Code::ResourceExhausted && said.contains("2 inferences"),
        "{said}"
    );
    let (code, message) = soon(|| match refused(alice.session(&description, 1)) {
        (code, message) if message.contains("inferences") => Ok((code, message)),
        (_, message) => Err(message),
    });
    assert!(
        code == Code::ResourceExhausted && message.contains("inferences"),
        "{message}"
    );
    others[0].infer(&input).unwrap();
}

#[test]
fn bytes_and_calls_are_limited_and_the_refusal_says_when_to_come_back() {
    let server = TestServer::with(OutputMode::Logits, |o| {
        o.quota.bytes_per_day = Some(1000);
    });
    let client = server.connect();
    let description = client.describe(None).unwrap();
    // Set-up alone takes more; it is finished, and nothing follows it.
    let mut session = client.session(&description, 1).unwrap();
    let said = session.prepare().unwrap_err().to_string();
    assert!(said.contains("1000 bytes"), "{said}");

    let server = TestServer::with(OutputMode::Logits, |o| {
        o.quota.calls_per_minute = NonZeroU32::new(5);
    });
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let status = runtime.block_on(async {
        use pi_proto::v1::ListModelsRequest;
        use pi_proto::v1::private_inference_client::PrivateInferenceClient;
        let mut stub = PrivateInferenceClient::connect(server.url.clone())
            .await
            .unwrap();
        for _ in 0..5 {
            stub.list_models(ListModelsRequest {}).await.unwrap();
        }
        stub.list_models(ListModelsRequest {}).await.unwrap_err()
    });
    assert_eq!(status.code(), Code::ResourceExhausted);
    let wait = status
        .metadata()
        .get("retry-after")
        .unwrap()
        .to_str()
        .unwrap();
    assert!((1..=12).contains(&wait.parse::<u64>().unwrap()), "{wait}");
    assert_eq!(status.metadata().get("refused-by").unwrap(), "rate");
}

#[test]
fn waiting_for_a_request_is_no_step_that_takes_too_long() {
    let server = TestServer::with(OutputMode::Logits, |o| {
        o.limits.phase_timeout = Duration::from_secs(2);
        o.limits.idle_timeout = Duration::from_secs(600);
    });
    let client = server.connect();
    let mut session = client.session(&client.describe(None).unwrap(), 1).unwrap();
    session.prepare().unwrap();
    std::thread::sleep(Duration::from_millis(2500));
    session.infer(&image(&server.model, 1)).unwrap();
}

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        Self { pem, issuer }
    }

    fn client(&self, name: &str, dir: &Path) -> (PathBuf, PathBuf) {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        let (certificate, key_file) = (
            dir.join(format!("{name}.pem")),
            dir.join(format!("{name}.key")),
        );
        std::fs::write(&certificate, pem).unwrap();
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        (certificate, key_file)
    }
}

#[test]
fn with_mutual_tls_the_certificate_is_the_identity() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, others) = (Authority::new(), Authority::new());
    let ca = dir.path().join("clients.pem");
    std::fs::write(&ca, &ours.pem).unwrap();
    let mut files = common::certificate(&dir.path().join("server"));
    files.client_ca = Some(ca);
    let server = TestServer::with(OutputMode::Logits, |o| {
        o.tls = Some(files.clone());
        o.quota.sessions = Some(1);
    });
    let connect = |identity| {
        let options = ConnectOptions::new(&server.url).with_ca(&files.certificate);
        let client = Client::connect(ConnectOptions {
            identity,
            ..options
        })?;
        client
            .describe(None)
            .map(|description| (client, description))
    };
    let alice = ours.client("alice", dir.path());
    let (client, description) = connect(Some(alice)).unwrap();
    let _session = client.session(&description, 1).unwrap();
    let (_, message) = refused(client.session(&description, 1));
    assert!(message.contains("'alice'"), "{message}");
    let (client, _) = connect(Some(ours.client("bob", dir.path()))).unwrap();
    client.session(&description, 1).unwrap();

    let stranger = others.client("eve", dir.path());
    for identity in [None, Some(stranger)] {
        let error = connect(identity).err().unwrap();
        assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
    }
}

#[test]
fn a_renewed_certificate_counts_without_a_restart_and_a_broken_one_not() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (
        common::certificate(&dir.path().join("old")),
        common::certificate(&dir.path().join("new")),
    );
    let used = common::certificate(&dir.path().join("used"));
    let copy = |from: &pi_server::TlsFiles| {
        std::fs::copy(&from.key, &used.key).unwrap();
        std::fs::copy(&from.certificate, &used.certificate).unwrap();
    };
    copy(&old);
    let server = TestServer::with(OutputMode::Logits, |o| {
        o.tls = Some(used.clone());
        o.reload_interval = Duration::from_millis(20);
    });
    let trusting = |files: &pi_server::TlsFiles| {
        Client::connect(ConnectOptions::new(&server.url).with_ca(&files.certificate))
    };
    let before = trusting(&old).unwrap();
    before.models().unwrap();
    copy(&new);
    let after = soon(|| trusting(&new));
    std::fs::write(&used.key, "broken").unwrap();
    std::thread::sleep(Duration::from_millis(100));
    trusting(&new).unwrap().models().unwrap();
    // Connections that are open keep what they were opened with.
    before.models().unwrap();
    after.models().unwrap();
}

#[test]
fn a_connection_that_says_nothing_keeps_no_other_out() {
    let dir = tempfile::tempdir().unwrap();
    let files = common::certificate(dir.path());
    let server = TestServer::with(OutputMode::Logits, |o| o.tls = Some(files.clone()));
    let _silent: Vec<_> = (0..20)
        .map(|_| std::net::TcpStream::connect(server.address).unwrap())
        .collect();
    let options = ConnectOptions::new(&server.url).with_ca(&files.certificate);
    Client::connect(options).unwrap().models().unwrap();
}
