//! Servers that are silent, speak something else, or do not take this client's certificate: one line, one exit code, in time.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use common::{serve_with, server};
use pi_client::blocking::Client;
use pi_client::{ClientError, ConnectOptions, ErrorClass};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// A port where connections are taken and nothing is ever said.
fn deaf() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// The exit code and the errors of a program that tries once.
fn run(args: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_pi-client"))
        .args(args)
        .env_remove("PI_SERVER")
        .env_remove("PI_TOKEN")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!said.contains("panicked"), "{said}");
    (output.status.code().unwrap(), said)
}

#[test]
fn a_silent_server_is_given_up_after_the_timeout_and_not_tried_again() {
    let (_listener, port) = deaf();
    for (scheme, command) in [
        ("http", "models"),
        ("https", "models"),
        ("http", "describe"),
        ("http", "doctor"),
    ] {
        let url = format!("{scheme}://127.0.0.1:{port}");
        let started = Instant::now();
        let (code, said) = run(&[command, "--timeout", "1", &url]);
        assert!(started.elapsed() < Duration::from_secs(3), "{said}");
        assert!(said.contains("no answer within 1 s"), "{said}");
        assert_eq!(code, 3);
    }
    let (code, _) = run(&["models", "--timeout", "0", "http://127.0.0.1:1"]);
    assert_eq!(code, 2);
    let nothing = ConnectOptions::new("http://127.0.0.1:1").with_timeout(Duration::ZERO);
    let error = Client::connect(nothing).err().unwrap();
    assert_eq!(error.class(), ErrorClass::Usage);
}

#[test]
fn a_session_waits_in_a_queue_longer_than_the_timeout_and_not_at_a_server_that_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let url = serve_with(dir.path(), 1, 150, |o| {
        o.limits.queue_timeout = Duration::from_secs(20);
    });
    let timeout = Duration::from_secs(1);
    let connect = |url: &str| Client::connect(ConnectOptions::new(url).with_timeout(timeout));
    let first = connect(&url).unwrap();
    let description = first.describe(None).unwrap();
    let session = first.session(&description, 1).unwrap();
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| connect(&url)?.session(&description, 1).map(drop));
        std::thread::sleep(3 * timeout);
        assert!(!waits.is_finished());
        session.close().unwrap();
        waits.join().unwrap().unwrap();
    });

    let (listener, port) = deaf();
    let waiting = connect(&format!("http://127.0.0.1:{port}")).unwrap();
    let started = Instant::now();
    let error = waiting.session(&description, 1).err().unwrap();
    assert!(started.elapsed() < 2 * timeout, "{:?}", started.elapsed());
    assert!(
        error.to_string().contains("no answer within 1 s"),
        "{error}"
    );
    assert_eq!(error.class(), ErrorClass::Unreachable);
    drop(listener);
}

#[test]
fn a_port_that_speaks_tls_or_the_webs_language_is_no_server_without_tls() {
    let dir = tempfile::tempdir().unwrap();
    let files = pi_server::certificate::make(&dir.path().join("tls"), &["localhost".into()]);
    let tls = serve_with(dir.path(), 1, 150, |o| o.tls = Some(files.unwrap()));
    let (listener, port) = deaf();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n");
        }
    });
    for url in [tls, format!("http://127.0.0.1:{port}")] {
        // Often, because chance decides what the transport meets first.
        for _ in 0..10 {
            let (code, said) = run(&["models", &url]);
            assert!(said.contains("write https://, or check the port"), "{said}");
            assert_eq!(code, 4, "{said}");
        }
    }
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
        let paths = [format!("{name}.pem"), format!("{name}.key")].map(|file| dir.join(file));
        std::fs::write(&paths[0], pem).unwrap();
        std::fs::write(&paths[1], key.serialize_pem()).unwrap();
        let [certificate, key] = paths;
        (certificate, key)
    }
}

#[test]
fn a_server_that_shows_an_authority_as_its_own_certificate_is_told_what_to_make() {
    let dir = tempfile::tempdir().unwrap();
    // As `openssl req -x509` makes it.
    let mut params = CertificateParams::new(vec!["localhost".into()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let [certificate, key_file] = ["c.pem", "k.pem"].map(|file| dir.path().join(file));
    std::fs::write(&certificate, params.self_signed(&key).unwrap().pem()).unwrap();
    std::fs::write(&key_file, key.serialize_pem()).unwrap();
    let files = pi_server::TlsFiles {
        certificate: certificate.clone(),
        key: key_file,
        client_ca: None,
    };
    let url = serve_with(dir.path(), 2, 150, |o| o.tls = Some(files));
    let url = url.replace("http://127.0.0.1", "https://localhost");
    for command in ["models", "doctor"] {
        let (code, said) = run(&[command, "--ca", certificate.to_str().unwrap(), &url]);
        assert!(
            said.contains("CA:TRUE") && said.contains("pi-server certificate"),
            "{said}"
        );
        assert_eq!(code, 4, "{said}");
    }
}

#[test]
fn a_client_certificate_that_is_missing_or_strange_is_the_same_mistake_each_time() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, others) = (Authority::new(), Authority::new());
    let ca = dir.path().join("clients.pem");
    std::fs::write(&ca, &ours.pem).unwrap();
    let mut files =
        pi_server::certificate::make(&dir.path().join("tls"), &["localhost".into()]).unwrap();
    files.client_ca = Some(ca);
    let url = serve_with(dir.path(), 2, 150, |o| o.tls = Some(files.clone()));
    let url = url.replace("http://127.0.0.1", "https://localhost");
    let trusted = files.certificate.to_str().unwrap();
    let models = ["models", "--ca", trusted, &url];
    let (alice, eve) = (
        ours.client("alice", dir.path()),
        others.client("eve", dir.path()),
    );
    let text = |path: &PathBuf| path.to_str().unwrap().to_owned();
    let with = |command: &str, certificate: &PathBuf, key: &PathBuf| {
        let (certificate, key) = (text(certificate), text(key));
        let identity = ["--client-cert", &certificate, "--client-key", &key];
        let start = [command, "--ca", trusted, &url];
        run(&[start.as_slice(), identity.as_slice()].concat())
    };
    assert_eq!(with("models", &alice.0, &alice.1).0, 0);
    for _ in 0..6 {
        let (code, said) = run(&models);
        assert!(said.contains("--client-cert"), "{said}");
        assert_eq!(code, 4, "{said}");
        let (code, said) = with("models", &eve.0, &eve.1);
        assert!(said.contains("accept this client's certificate"), "{said}");
        assert_eq!(code, 4, "{said}");
    }
    let (code, said) = with("doctor", &eve.0, &eve.1);
    assert!(said.contains("accept this client's certificate"), "{said}");
    assert_eq!(code, 4, "{said}");

    // Files that do not belong together, or not here.
    for (certificate, key, file, words) in [
        (&alice.0, &eve.1, "eve.key", "is not the private key of"),
        (
            &alice.1,
            &alice.0,
            "alice.key",
            "private key and no certificate",
        ),
        (&alice.0, &alice.0, "alice.pem", "no private key"),
    ] {
        let (code, said) = with("models", certificate, key);
        assert!(said.contains(file) && said.contains(words), "{said}");
        assert_eq!(code, 2, "{said}");
    }
    let (code, said) = run(&["models", "--ca", &text(&alice.1), &url]);
    assert!(
        said.contains("alice.key") && said.contains("no certificate"),
        "{said}"
    );
    assert_eq!(code, 2);
}

#[test]
fn an_address_holds_no_path_and_no_password() {
    let (code, said) = run(&["models", "http://me:secret@10.0.0.1:1"]);
    assert!(
        code == 2 && said.contains("password") && !said.contains("secret"),
        "{said}"
    );
    let (code, said) = run(&["doctor", "http://127.0.0.1:1/foo"]);
    assert!(
        code == 2 && said.contains("write http://127.0.0.1:1"),
        "{said}"
    );
}

#[test]
fn an_option_that_the_server_does_not_allow_is_refused_once_and_is_no_other_release() {
    let dir = tempfile::tempdir().unwrap();
    let url = serve_with(dir.path(), 1, 150, |o| o.limits.silent_ot = false);
    let image = common::png(dir.path(), "a.png", 8);
    let image = image.to_str().unwrap();
    let (code, said) = run(&["infer", "--server", &url, "--ot", "silent", image]);
    assert!(
        said.contains("the server refused: this server makes no silent"),
        "{said}"
    );
    assert!(said.matches("refused").count() == 1, "{said}");
    assert_eq!(code, 5);
}

#[test]
fn a_stream_that_is_cut_while_it_is_held_is_told_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let url = server(dir.path(), 1);
    let target = url.strip_prefix("http://").unwrap().to_owned();
    let (listener, port) = deaf();
    std::thread::spawn(move || {
        for near in listener.incoming() {
            let (near, far) = (
                near.unwrap(),
                std::net::TcpStream::connect(&target).unwrap(),
            );
            for (mut from, mut to) in [(&near, &far), (&far, &near)]
                .map(|(a, b)| (a.try_clone().unwrap(), b.try_clone().unwrap()))
            {
                std::thread::spawn(move || std::io::copy(&mut from, &mut to));
            }
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_secs(4));
                let _ = near.shutdown(std::net::Shutdown::Both);
                let _ = far.shutdown(std::net::Shutdown::Both);
            });
        }
    });
    let started = Instant::now();
    let url = format!("http://127.0.0.1:{port}");
    let (code, said) = run(&["doctor", "--hold", "60", &url]);
    assert!(started.elapsed() < Duration::from_secs(15), "{said}");
    assert!(said.contains(": cut after "), "{said}");
    assert!(
        !said.contains("gone") && !said.contains("pi-client doctor"),
        "{said}"
    );
    assert_eq!(code, 3, "{said}");
}

/// The limit is set by a shell, and only where there is one.
#[cfg(unix)]
#[test]
fn a_limit_of_file_sizes_is_an_error_and_not_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let command = format!(
        "ulimit -f 1; exec {} completions bash > {}",
        env!("CARGO_BIN_EXE_pi-client"),
        out.display()
    );
    let output = Command::new("sh").args(["-c", &command]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("File too large"), "{said}");
}

#[cfg(unix)]
#[test]
fn too_few_descriptors_are_an_error_with_a_way_out() {
    let program = env!("CARGO_BIN_EXE_pi-client");
    for n in [5, 6, 8, 10] {
        let command = format!("ulimit -n {n}; exec {program} models http://127.0.0.1:1");
        let output = Command::new("sh").args(["-c", &command]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!said.contains("panicked"), "{n}: {said}");
        assert!(said.contains("ulimit -n"), "{n}: {said}");
        assert_eq!(output.status.code(), Some(2), "{n}: {said}");
    }
}

#[test]
fn what_breaks_before_anything_is_prepared_has_lost_nothing() {
    let error = ClientError::Lost {
        url: "http://a:1".into(),
        during: pi_client::error::SETTING_UP,
        reason: "the connection was cut".into(),
        cut: true,
    };
    assert!(!error.to_string().contains("gone"), "{error}");
}
