//! A thousand inferences: the memory of a server that has warmed up stays as it is.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use common::image;
use pi_client::ConnectOptions;
use pi_client::blocking::Client;
use pi_model::random::residual_network;
use pi_model::spec::OutputMode;

const INFERENCES: usize = 1000;
const BATCH: usize = 10;
/// Inferences of one session, and after how many memory is taken for warm.
const SESSION: usize = 50;
const WARM: usize = 300;
/// What allocators may keep more.
const SLACK_KIB: usize = 24 << 10;

fn resident_kib(child: &Child) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    line.unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn a_thousand_inferences_leave_memory_flat() {
    let dir = tempfile::tempdir().unwrap();
    let model = residual_network("tiny", [3, 4, 4], &[4], 1, 3, 20, OutputMode::Logits).unwrap();
    model.save(dir.path()).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_pi-server"))
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--admin-listen",
            "off",
            "--stop-at-eof",
            "--model",
        ])
        .arg(dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let stdout = child.stdout.take().unwrap();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    let port = line.trim().rsplit_once(':').unwrap().1;
    let client = Client::connect(ConnectOptions::new(format!("http://localhost:{port}"))).unwrap();
    let description = client.describe(None).unwrap();
    let (mut warm, mut n) = (0, 0);
    while n < INFERENCES {
        let mut session = client.session(&description, BATCH).unwrap();
        for _ in 0..SESSION {
            session.infer(&image(&model, n)).unwrap();
            n += 1;
        }
        session.close().unwrap();
        if n == WARM {
            warm = resident_kib(&child);
        }
    }
    let last = resident_kib(&child);
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    assert!(
        last <= warm + SLACK_KIB,
        "{warm} KiB after {WARM} inferences and {last} KiB after {n}"
    );
}
