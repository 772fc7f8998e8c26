//! The program as its operator meets it: what it prints, how it fails, how it stops.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use pi_model::spec::OutputMode;

fn program(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pi-server"));
    command.args(args).stdin(Stdio::null());
    command
}

fn fails(args: &[&str]) -> String {
    let Output { status, stderr, .. } = program(args).output().unwrap();
    let text = String::from_utf8(stderr).unwrap();
    assert!(!status.success(), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    text
}

fn model_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    common::model("small", OutputMode::Logits)
        .save(dir.path())
        .unwrap();
    dir
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn what_cannot_be_served_is_refused_with_advice() {
    let dir = model_dir();
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap().to_string();
    let said = fails(&["serve", "--model", text(dir.path()), "--listen", &address]);
    assert!(said.contains("choose another port"), "{said}");

    let free = ["--listen", "127.0.0.1:0"];
    let said = fails(&[&["serve", "--model", "no/such/folder"], &free[..]].concat());
    assert!(
        said.contains("no/such/folder") && said.contains("model.json"),
        "{said}"
    );

    std::fs::write(dir.path().join("model.safetensors"), b"broken").unwrap();
    let said = fails(&[&["serve", "--model", text(dir.path())], &free[..]].concat());
    assert!(said.contains("model.safetensors"), "{said}");
    let said = fails(&["plan", text(dir.path())]);
    assert!(said.contains("model.safetensors"), "{said}");

    let twice = model_dir();
    let path = text(twice.path());
    let said = fails(&[&["serve", "--model", path, "--model", path], &free[..]].concat());
    assert!(said.contains("two models"), "{said}");
    let missing = ["--tls-cert", "no.pem", "--tls-key", "no.pem"];
    let said = fails(&[&["serve", "--model", path], &free[..], &missing[..]].concat());
    assert!(
        said.contains("no.pem") && said.contains("certificate --out"),
        "{said}"
    );
}

#[test]
fn a_plan_is_printed_before_anything_runs() {
    let dir = model_dir();
    let output = program(&["plan", text(dir.path()), "--batch", "4"])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success() && said.contains("AND gates"),
        "{said}"
    );
}

#[test]
fn a_certificate_is_made_once() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["certificate", "--out", text(dir.path())];
    let output = program(&args).output().unwrap();
    assert!(output.status.success());
    assert!(
        String::from_utf8(output.stdout)
            .unwrap()
            .contains("--tls-cert")
    );
    assert!(fails(&args).contains("remove it first"));
}

fn serve(dir: &Path, stdin: Stdio) -> Child {
    let args = [
        "serve",
        "--model",
        text(dir),
        "--listen",
        "127.0.0.1:0",
        "--stop-at-eof",
    ];
    let mut child = program(&args)
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let stdout = child.stdout.as_mut().unwrap();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    let port = line.trim().strip_prefix("listening on 127.0.0.1:").unwrap();
    assert_ne!(port.parse::<u16>().unwrap(), 0);
    child
}

fn ends_well(mut child: Child) {
    let patience = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "{status}");
            return;
        }
        if Instant::now() > patience {
            child.kill().unwrap();
            panic!("the server did not stop");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_server_stops_at_a_signal_and_at_the_end_of_its_input() {
    let dir = model_dir();
    let child = serve(dir.path(), Stdio::piped());
    let kill = Command::new("kill").arg(child.id().to_string()).status();
    assert!(kill.unwrap().success());
    ends_well(child);

    let mut child = serve(dir.path(), Stdio::piped());
    drop(child.stdin.take());
    ends_well(child);
}

/// Files that are read for ever stand for a model that takes long to load.
#[test]
fn a_server_that_still_loads_stops_at_a_signal() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.json");
    let made = Command::new("mkfifo").arg(path).status();
    assert!(made.unwrap().success());
    let mut serve = program(&[
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--model",
        text(dir.path()),
    ]);
    let child = serve.stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let kill = Command::new("kill").arg(child.id().to_string()).status();
    assert!(kill.unwrap().success());
    ends_well(child);
}

#[test]
fn a_token_is_printed_apart_from_its_line_which_serves() {
    let Output { stdout, stderr, .. } = program(&["token", "new", "alice"]).output().unwrap();
    let (line, shown) = (
        String::from_utf8(stdout).unwrap(),
        String::from_utf8(stderr).unwrap(),
    );
    let token = shown.lines().find(|l| l.starts_with("pi-")).unwrap();
    assert!(line.starts_with("alice blake3:") && !line.contains(&token[3..]));
    assert!(fails(&["token", "new", "two words"]).contains("two words"));

    let dir = model_dir();
    let tokens = dir.path().join("tokens");
    std::fs::write(&tokens, format!("{line}alice {token}\n")).unwrap();
    let args = [
        "serve",
        "--model",
        text(dir.path()),
        "--listen",
        "127.0.0.1:0",
    ];
    let said = fails(&[&args[..], &["--token-file", text(&tokens)]].concat());
    assert!(
        said.contains("line 2") && !said.contains(&token[3..]),
        "{said}"
    );
}

#[test]
fn a_hangup_has_files_read_and_does_not_end_the_program() {
    let dir = model_dir();
    let model = text(dir.path());
    let tokens = dir.path().join("tokens");
    std::fs::write(&tokens, "").unwrap();
    let mut child = program(&["serve", "--model", model, "--listen", "127.0.0.1:0"])
        .args(["--admin-listen", "off", "--reload-interval", "1h"])
        .args(["--token-file", text(&tokens)])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let stdout = child.stdout.as_mut().unwrap();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("listening on ").unwrap();
    let (token, entry) = pi_server::identity::new_token("alice").unwrap();
    std::fs::write(&tokens, entry).unwrap();
    let options = pi_client::ConnectOptions {
        token: Some(pi_client::Token::new(&token).unwrap()),
        ..pi_client::ConnectOptions::new(format!("http://{address}"))
    };
    let client = pi_client::blocking::Client::connect(options).unwrap();
    client.models().unwrap_err();
    let signal = |name| {
        let pid = child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(sent.unwrap().success());
    };
    let patience = Instant::now() + Duration::from_secs(20);
    loop {
        signal("HUP");
        match client.models() {
            Ok(_) => break,
            Err(error) => assert!(Instant::now() < patience, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    signal("TERM");
    assert!(child.wait().unwrap().success());
}
