//! The program's log of a whole run, at its most talkative: no token, no pixel, no key and no share in it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Command, Stdio};

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

#[test]
fn a_full_run_leaves_nothing_secret_in_the_log() {
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
    assert!(
        log.contains("session ended") && log.contains("TRACE"),
        "{log}"
    );
    let hash = line.rsplit(':').next().unwrap();
    for secret in [&token[3..], hash] {
        assert!(!log.contains(secret), "the log has {secret}");
    }
    for line in log.lines() {
        let (n_digits, n_numbers) = longest(line);
        assert!(n_digits < 32 && n_numbers < 16, "{line}");
    }
}
