//! The file of `serve --ledger`: what is in it, what is not, and what happens when it cannot be written.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use common::{TestServer, image};
use pi_model::spec::OutputMode;
use pi_protocol::ledger::Phase;
use pi_protocol::record::StepRecord;
use pi_protocol::wire::Step;
use pi_server::{ServeError, Server};
use serde_json::Value;

/// The lines, once there are `n`: a client may have its answer before the server has written.
fn lines(path: &Path, n: usize) -> Vec<Value> {
    let patience = Instant::now() + Duration::from_secs(20);
    loop {
        let text = std::fs::read_to_string(path).unwrap();
        let lines: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        if lines.len() >= n || Instant::now() > patience {
            assert_eq!(lines.len(), n, "{text}");
            return lines;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Takes out every time, and notes every text.
fn without_times(value: &mut Value, texts: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map.iter_mut() {
                if key == "seconds" || key.ends_with("_s") && value.is_number() {
                    assert!(value.as_f64().unwrap() >= 0.0, "{key} {value}");
                    *value = Value::Null;
                } else if key == "operations_s" {
                    for (_, time) in value.as_object_mut().unwrap() {
                        *time = Value::Null;
                    }
                }
                without_times(value, texts);
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|v| without_times(v, texts)),
        Value::String(text) => _ = texts.insert(text.clone()),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[test]
fn every_finished_step_is_a_line_that_tells_nothing_of_the_input() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.jsonl");
    let server = TestServer::with(OutputMode::Logits, |o| o.ledger = Some(path.clone()));
    let client = server.connect();
    let description = client.describe(None).unwrap();
    let mut session = client.session(&description, 2).unwrap();
    session.prepare().unwrap();
    session.infer(&image(&server.model, 1)).unwrap();
    session
        .infer(&vec![0; image(&server.model, 1).len()])
        .unwrap();
    session.close().unwrap();

    let lines = lines(&path, 5);
    assert_eq!(lines[0]["record"], "start");
    assert_eq!(lines[0]["version"], 1);
    assert_eq!(lines[0]["pid"], std::process::id());
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.unwrap().as_secs_f64();
    let mut phases = vec![];
    for line in &lines[1..] {
        assert_eq!(
            (&line["record"], &line["model"]),
            (&"step".into(), &"small".into())
        );
        assert_eq!(line["session"], 1);
        let step: StepRecord = serde_json::from_value(line.clone()).unwrap();
        let computed: f64 = step.operations_s.values().sum();
        assert!(
            computed > 0.0 && computed + step.waited_s <= step.seconds,
            "{line}"
        );
        let start = step.epoch_unix_s + step.start_s;
        assert!((now - 600.0..=now).contains(&start), "{start} {now}");
        phases.push((step.phase, step.index));
    }
    let expected = [
        (Phase::Setup, None),
        (Phase::Offline, None),
        (Phase::Online, Some(0)),
        (Phase::Online, Some(1)),
    ];
    assert_eq!(phases, expected);

    // Two inferences of different inputs leave the same line, times and number apart.
    let [mut a, mut b] = [lines[3].clone(), lines[4].clone()];
    let mut texts = BTreeSet::new();
    for (index, line) in [&mut a, &mut b].into_iter().enumerate() {
        assert_eq!(line["index"].take(), index);
        without_times(line, &mut texts);
    }
    assert_eq!(a, b);
    let ours = [
        "",
        "step",
        "small",
        "server",
        "online",
        "c2s",
        "s2c",
        "compute",
        "wait",
        "sent",
        "received",
        "input",
        "labels",
        "linear",
        "multiplex",
        "output",
        "truncate",
    ];
    let known = |t: &str| ours.contains(&t) || Step::ALL.iter().any(|s| s.name() == t);
    assert!(texts.iter().all(|t| known(t)), "{texts:?}");
}

#[test]
fn a_ledger_that_cannot_be_written_is_refused_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    common::model("small", OutputMode::Logits)
        .save(dir.path())
        .unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _inside = runtime.enter();
    // No folder, a folder in place of a file, and a disk without room.
    for path in [
        &dir.path().join("no/ledger"),
        dir.path(),
        Path::new("/dev/full"),
    ] {
        let mut options = common::options(dir.path());
        options.ledger = Some(path.to_owned());
        let error = Server::bind(options).err().unwrap();
        assert!(matches!(error, ServeError::Ledger { .. }), "{error}");
        let said = error.to_string();
        assert!(
            said.contains(path.to_str().unwrap()) && said.contains("--ledger"),
            "{said}"
        );
    }
}
