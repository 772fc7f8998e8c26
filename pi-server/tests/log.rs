//! The log of a whole run at its most talkative, the server's and the client's: no token, no pixel, no key, no label and no share
//! in it, in any of the forms in which Rust prints bytes and numbers.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use pi_client::blocking::Client;
use pi_client::{ConnectOptions, Token};
use pi_model::spec::OutputMode;

/// Digits of the longest run of hexadecimal digits, and numbers of the longest list, in `line`.
fn longest(line: &str) -> (usize, usize) {
    let hex = line.split(|c: char| !c.is_ascii_hexdigit()).map(str::len);
    let lists = line.split(|c: char| !(c.is_ascii_digit() || ", ".contains(c)));
    let lists = lists.map(|l| l.split(',').filter(|n| !n.trim().is_empty()).count());
    (hex.max().unwrap_or(0), lists.max().unwrap_or(0))
}

/// The longest run of escaped bytes, as `b"..."` has them, and of what could be base64, in `line`.
fn encoded(line: &str) -> (usize, usize) {
    let escapes = line.split("\\x").skip(1);
    let (mut run, mut longest) = (0, 0);
    for piece in escapes {
        // What follows an escape directly is its two digits and, in a run, little else.
        run = if piece.len() <= 6 { run + 1 } else { 1 };
        longest = longest.max(run);
    }
    let word = |c: char| c.is_ascii_alphanumeric() || "+=_-".contains(c);
    let mixed = |w: &&str| {
        let has = |test: fn(&char) -> bool| w.chars().any(|c| test(&c));
        has(char::is_ascii_digit) && has(char::is_ascii_uppercase) && has(char::is_ascii_lowercase)
    };
    let words = line.split(|c| !word(c)).filter(mixed).map(str::len);
    (longest, words.max().unwrap_or(0))
}

/// What a log is written to.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_scan_finds_what_it_is_for() {
    let secret: Vec<u8> = (0..32).map(|i: u8| 131 + 3 * i).collect();
    let hex: String = secret.iter().map(|b| format!("{b:02x}")).collect();
    assert!(longest(&hex).0 >= 32);
    assert!(longest(&format!("pixels={:?}", &secret[..16])).1 >= 16);
    assert!(encoded(&format!("{:?}", bytes::Bytes::from(secret))).0 >= 8);
    assert!(encoded("key=Zm9vYmFyYmF6cXV4MDEyMzQ1Njc4OWFiY2RlZmdoaWo=").1 >= 43);
}

#[test]
fn a_full_run_leaves_nothing_secret_in_the_log() {
    let ours = Kept::default();
    let writer = ours.clone();
    tracing_subscriber::fmt()
        .with_env_filter("trace,rustls=debug")
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();
    let dir = tempfile::tempdir().unwrap();
    let model = common::model("small", OutputMode::Logits);
    model.save(dir.path()).unwrap();
    let (token, line) = pi_server::identity::new_token("alice").unwrap();
    let tokens = dir.path().join("tokens");
    std::fs::write(&tokens, &line).unwrap();
    let files = common::certificate(&dir.path().join("tls"));
    let mut child = Command::new(env!("CARGO_BIN_EXE_pi-server"))
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--stop-at-eof",
            "--admin-listen",
            "off",
        ])
        .arg("--model")
        .arg(dir.path())
        .arg("--token-file")
        .arg(&tokens)
        .arg("--tls-cert")
        .arg(&files.certificate)
        .arg("--tls-key")
        .arg(&files.key)
        // The trace of rustls prints the handshake, which everybody on the path can read.
        .env("RUST_LOG", "trace,rustls=debug")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let log = std::thread::spawn(move || {
        let mut log = vec![];
        stderr.read_to_end(&mut log).unwrap();
        String::from_utf8_lossy(&log).into_owned()
    });
    let mut listening = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut listening).unwrap();
    let (_, port) = listening.trim().rsplit_once(':').unwrap();
    let client = Client::connect(ConnectOptions {
        token: Some(Token::new(&token).unwrap()),
        ..ConnectOptions::new(format!("https://localhost:{port}")).with_ca(&files.certificate)
    })
    .unwrap();
    let mut session = client.session(&client.describe(None).unwrap(), 2).unwrap();
    let input = common::image(&model, 1);
    let answer = session.infer(&input).unwrap();
    common::assert_close(&model, &input, &answer.output);
    session.close().unwrap();
    // One that fails, and one that is refused.
    drop(client.session(&client.describe(None).unwrap(), 1).unwrap());
    let stranger = ConnectOptions::new(format!("https://localhost:{port}"));
    let stranger = Client::connect(stranger.with_ca(&files.certificate)).unwrap();
    stranger.models().unwrap_err();
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());

    let log = log.join().unwrap();
    let client_log = String::from_utf8_lossy(&ours.0.lock().unwrap()).into_owned();
    assert!(client_log.contains("TRACE"), "{client_log}");
    assert!(
        log.contains("session ended") && log.contains("TRACE"),
        "{log}"
    );
    let hash = line.rsplit(':').next().unwrap();
    for secret in [&token[3..], hash] {
        assert!(!log.contains(secret), "the log has {secret}");
        assert!(
            !client_log.contains(secret),
            "the client's log has {secret}"
        );
    }
    let image = format!("{:?}", &input[..4]);
    let image = image.trim_matches(['[', ']']);
    for line in log.lines().chain(client_log.lines()) {
        let ((n_digits, n_numbers), (n_escapes, n_letters)) = (longest(line), encoded(line));
        assert!(n_digits < 32 && n_numbers < 16, "{line}");
        assert!(n_escapes < 8 && n_letters < 43, "{line}");
        assert!(!line.contains(image), "{line}");
    }
}
