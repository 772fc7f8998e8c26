//! The suite `smoke`, by the program itself: two processes, a report that its schema accepts, and what happens when
//! something goes wrong on the way.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests, which may stop as tests do"
)]

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;

fn bench(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pi-bench"))
        .args(args)
        .output()
        .unwrap()
}

fn report(dir: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(dir.join("report.json")).unwrap()).unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

/// The few words of JSON Schema that the schema uses; any other is a fault of the schema.
fn check(root: &Value, schema: &Value, value: &Value, path: &str) -> Result<(), String> {
    for (word, rule) in schema.as_object().unwrap() {
        let fine = match word.as_str() {
            "$schema" | "title" | "description" | "$defs" => true,
            "$ref" => {
                let name = rule.as_str().unwrap().trim_start_matches("#/$defs/");
                return check(root, &root["$defs"][name], value, path);
            }
            "type" => {
                let one = |t: &Value| match t.as_str().unwrap() {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "number" => value.is_number(),
                    "integer" => value.is_u64() || value.is_i64(),
                    "boolean" => value.is_boolean(),
                    "null" => value.is_null(),
                    other => panic!("type {other}"),
                };
                rule.as_array()
                    .map_or_else(|| one(rule), |any| any.iter().any(one))
            }
            "enum" => rule.as_array().unwrap().contains(value),
            "minimum" => value.as_f64().is_none_or(|v| v >= rule.as_f64().unwrap()),
            "anyOf" => rule
                .as_array()
                .unwrap()
                .iter()
                .any(|s| check(root, s, value, path).is_ok()),
            "required" => rule
                .as_array()
                .unwrap()
                .iter()
                .all(|key| value.get(key.as_str().unwrap()).is_some()),
            "properties" => {
                for (key, inner) in value.as_object().unwrap() {
                    if let Some(schema) = rule.get(key) {
                        check(root, schema, inner, &format!("{path}.{key}"))?;
                    }
                }
                true
            }
            "additionalProperties" if rule == false => value
                .as_object()
                .unwrap()
                .keys()
                .all(|k| schema["properties"].get(k).is_some()),
            "additionalProperties" => {
                for (key, inner) in value.as_object().unwrap() {
                    check(root, rule, inner, &format!("{path}.{key}"))?;
                }
                true
            }
            "items" => {
                for (i, inner) in value.as_array().unwrap().iter().enumerate() {
                    check(root, rule, inner, &format!("{path}[{i}]"))?;
                }
                true
            }
            other => panic!("the schema uses '{other}', which this test does not know"),
        };
        if !fine {
            return Err(format!("{path}: {word} {rule} refuses {value:.60}"));
        }
    }
    Ok(())
}

fn check_schema(report: &Value) {
    let schema: Value =
        serde_json::from_str(include_str!("../../proto/schema/report.schema.json")).unwrap();
    check(&schema, &schema, report, "report").unwrap();
}

/// What the server measured of itself is there and adds up.
fn check_server_times(run: &Value, has_relus: bool) {
    for (phase, operations) in [
        ("setup", &["keys"][..]),
        (
            "offline",
            &["transform", "respond", "OT", "garble", "multiplex"],
        ),
        ("online", &["linear", "labels", "multiplex"]),
    ] {
        let times = &run["phases"][phase];
        let told = times["operations_s_server"].as_object().unwrap();
        for operation in operations {
            let is_linear = ["keys", "transform", "respond", "linear"].contains(operation);
            assert!(
                told.contains_key(*operation) || !has_relus && !is_linear,
                "{phase}: {told:?}"
            );
        }
        let computed: f64 = told.values().map(|s| s.as_f64().unwrap()).sum();
        let [wall, waited] =
            ["wall_s_server", "waited_s_server"].map(|k| times[k].as_f64().unwrap());
        assert!(
            computed > 0.0 && computed + waited <= wall + 1e-6,
            "{phase}: {times}"
        );
        if phase == "online" {
            // The server's part of an inference ends before the client has its answer, a hair's breadth of its own aside.
            let samples = times["latency"]["samples_s"].as_array().unwrap();
            let sum: f64 = samples.iter().map(|s| s.as_f64().unwrap()).sum();
            assert!(computed <= sum / samples.len() as f64, "{times}");
        }
    }
    let layers = run["layers"].as_array().unwrap();
    let sum = |key: &str| layers.iter().map(|l| l[key].as_f64().unwrap()).sum::<f64>();
    assert!(sum("online_server_linear_s") > 0.0 && sum("offline_server_linear_s") > 0.0);
    assert_eq!(sum("online_server_relu_s") > 0.0, has_relus);
    assert_eq!(sum("offline_server_relu_s") > 0.0, has_relus);

    let timeline = run["timeline"].as_array().unwrap();
    let of = |party: &str, kind: &str| {
        let events = timeline
            .iter()
            .filter(|e| e["party"] == party && e["kind"] == kind);
        events.cloned().collect::<Vec<Value>>()
    };
    let compute = of("server", "compute");
    assert!(
        compute
            .iter()
            .any(|e| e["what"] == "linear" && e["layer"].is_u64())
    );
    for (sender, other) in [("client", "server"), ("server", "client")] {
        let (sent, received) = (of(sender, "sent"), of(other, "received"));
        assert_eq!(sent.len(), received.len(), "{timeline:?}");
        for (sent, received) in sent.iter().zip(&received) {
            assert_eq!(sent["what"], received["what"]);
            let [left, arrived] = [sent, received].map(|e| e["start_s"].as_f64().unwrap());
            // One clock for both, as long as nobody sets it between the starts of the two processes.
            assert!(arrived > left - 1e-3, "{sent} {received}");
        }
    }
}

#[test]
fn smoke_makes_a_whole_report_that_compares_with_itself() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().to_str().unwrap();
    let started = Instant::now();
    let output = bench(&["run", "smoke", "--out", out]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(
        started.elapsed() < Duration::from_secs(60),
        "smoke takes under a minute"
    );
    let report = report(dir.path());
    check_schema(&report);
    assert_eq!(report["missing"], Value::Array(vec![]));
    let runs = report["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 6);
    for run in runs {
        let phases = &run["phases"];
        assert_eq!(
            phases["online"]["latency"]["samples_s"]
                .as_array()
                .unwrap()
                .len(),
            10
        );
        assert_eq!(
            phases["setup"]["latency"]["samples_s"]
                .as_array()
                .unwrap()
                .len(),
            3
        );
        // Random weights: a wrap of the truncation may spoil a class, hardly ever more.
        assert!(
            run["plaintext"]["n_agree"].as_u64().unwrap() >= 8,
            "{}",
            run["plaintext"]
        );
        assert_eq!(
            run["network"]["shaping"] == "proxy",
            run["network"]["name"] == "lan"
        );
        let relus = run["model"]["relus_kept"].as_u64().unwrap();
        let of = |operation: &str| -> u64 {
            let ledger = run["ledger"].as_array().unwrap().iter();
            ledger
                .filter(|e| e["operation"] == operation)
                .map(|e| e["bytes"].as_u64().unwrap())
                .sum()
        };
        assert_eq!(
            of("garbled tables"),
            run["batch"].as_u64().unwrap() * run["model"]["and_gates"].as_u64().unwrap() * 32
        );
        assert_eq!(of("labels") > 0, relus > 0);
        assert_eq!(
            phases["online"]["rounds"].as_u64().unwrap(),
            if relus > 0 { 6 } else { 1 }
        );
        assert!(phases["online"]["cpu_s_server"].as_f64().unwrap() > 0.0);
        assert!(run["memory"]["server_peak_bytes"].as_u64().unwrap() > 1 << 20);
        check_server_times(run, relus > 0);
    }
    // Bytes and rounds do not depend on the network.
    for i in 0..3 {
        for key in ["bytes_c2s", "bytes_s2c", "messages", "rounds"] {
            for phase in ["setup", "offline", "online"] {
                let [a, b] = [i, i + 3].map(|run: usize| &runs[run]["phases"][phase][key]);
                assert_eq!(a, b, "{phase} {key}");
            }
        }
    }
    let html = std::fs::read_to_string(dir.path().join("report.html")).unwrap();
    assert!(
        html.matches("<svg").count() >= 5 && !html.contains("src="),
        "pictures, and none from elsewhere"
    );
    assert!(html.contains("simulated"));

    let output = bench(&["compare", out, out]);
    assert!(output.status.success(), "{}", text(&output));
    let other = dir.path().join("other.json");
    let mut changed = report.clone();
    changed["runs"][1]["phases"]["online"]["bytes_s2c"] = 7.into();
    changed["runs"][1]["phases"]["online"]["latency"]["median_s"] = 99.into();
    std::fs::write(&other, changed.to_string()).unwrap();
    let output = bench(&["compare", out, other.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output);
    assert!(
        said.contains("-> 7  COUNT CHANGED") && said.contains("1 deterministic"),
        "{said}"
    );
    assert_eq!(bench(&["report", out]).status.code(), Some(0));
}

#[test]
fn silent_ots_are_measured_as_the_suite_or_the_flag_says() {
    let dir = tempfile::tempdir().unwrap();
    let suite = dir.path().join("s.toml");
    let text_of = "name='s'\ndescription=''\nnetworks=['loopback']\nbatch=4\not='silent'\nrepetitions=1\n[[models]]\narch='tiny'\nbudgets=[1000]\n";
    std::fs::write(&suite, text_of).unwrap();
    let extension = [("silent", &[][..]), ("softspoken", &["--ot", "softspoken"])].map(
        |(mode, flags)| -> u64 {
            let out = dir.path().join(mode);
            let mut args = vec!["run", suite.to_str().unwrap()];
            args.extend(["--out", out.to_str().unwrap()].iter().chain(flags));
            let output = bench(&args);
            assert!(output.status.success(), "{}", text(&output));
            let report = report(&out);
            check_schema(&report);
            let run = &report["runs"][0];
            assert_eq!(run["ot"], mode);
            let bytes = |e: &Value| e["bytes"].as_u64().unwrap();
            let ledger = run["ledger"].as_array().unwrap().iter();
            let steps = ["label OT extension", "label silent OT"];
            let of = |e: &&Value| steps.iter().any(|step| e["operation"] == *step);
            ledger.filter(of).map(bytes).sum()
        },
    );
    assert!(2 * extension[0] < extension[1], "{extension:?}");
}

#[test]
fn garbling_is_measured_as_the_suite_or_the_flag_says() {
    let dir = tempfile::tempdir().unwrap();
    let suite = dir.path().join("s.toml");
    let text_of = "name='s'\ndescription=''\nnetworks=['loopback']\nbatch=1\ngarbling='three-halves'\nrepetitions=1\n[[models]]\narch='tiny'\nbudgets=[500]\n";
    std::fs::write(&suite, text_of).unwrap();
    let modes = [
        ("three-halves", &[][..]),
        ("half-gates", &["--garbling", "half-gates"]),
    ];
    let tables = modes.map(|(mode, flags)| -> u64 {
        let out = dir.path().join(mode);
        let mut args = vec!["run", suite.to_str().unwrap()];
        args.extend(["--out", out.to_str().unwrap()].iter().chain(flags));
        let output = bench(&args);
        assert!(output.status.success(), "{}", text(&output));
        let report = report(&out);
        check_schema(&report);
        let run = &report["runs"][0];
        assert_eq!(run["garbling"], mode);
        let ledger = run["ledger"].as_array().unwrap().iter();
        let tables = ledger.filter(|e| e["operation"] == "garbled tables");
        tables.map(|e| e["bytes"].as_u64().unwrap()).sum()
    });
    assert!(tables[0] * 5 < tables[1] * 4, "{tables:?}");
}

#[test]
fn mistakes_are_named_and_refused() {
    for (args, word) in [
        (&["run", "smok"][..], "relu-sweep"),
        (&["run", "smoke", "--networks", "moon"], "'moon'"),
        (&["run", "missing.toml"], "missing.toml"),
        (&["predict", "no/such/model"], "no/such/model"),
        (&["compare", "no.json", "no.json"], "no.json"),
        (&["run", "smoke", "--out", "/proc/no"], "/proc/no"),
    ] {
        let output = bench(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(text(&output).contains(word), "{args:?}: {}", text(&output));
    }
    let dir = tempfile::tempdir().unwrap();
    let suite = dir.path().join("s.toml");
    let text_of = "name='s'\ndescription=''\nnetworks=['loopback']\nbatch=1\nrepetitions=1\n[[models]]\npath='nowhere'\n";
    std::fs::write(&suite, text_of).unwrap();
    let output = bench(&[
        "run",
        suite.to_str().unwrap(),
        "--out",
        dir.path().to_str().unwrap(),
    ]);
    assert!(
        !output.status.success() && text(&output).contains("nowhere"),
        "{}",
        text(&output)
    );
}

#[test]
fn predict_answers_from_a_stored_calibration() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.json");
    let file = file.to_str().unwrap();
    assert!(bench(&["calibrate", "--out", file]).status.success());
    let args = [
        "predict",
        "--arch",
        "resnet20",
        "--relus",
        "15000",
        "--network",
        "wan",
        "--calibration",
        file,
    ];
    let output = bench(&args);
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("online") && said.contains("40 ms round trip") && !said.contains("measuring"),
        "{said}"
    );
}

/// Children of the process `pid` whose command line contains `word`.
fn children(pid: u32, word: &str) -> Vec<u32> {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|p| {
        let stat = std::fs::read_to_string(format!("/proc/{p}/stat")).unwrap_or_default();
        let parent = stat
            .rsplit(')')
            .next()
            .and_then(|s| s.split_whitespace().nth(1)?.parse().ok());
        let line = std::fs::read(format!("/proc/{p}/cmdline")).unwrap_or_default();
        parent == Some(pid) && String::from_utf8_lossy(&line).contains(word)
    })
    .collect()
}

/// Starts a suite that would take hours, waits for its first run, and does `harm` in the second.
fn harmed(dir: &Path, harm: impl Fn(u32)) -> (Option<i32>, Value) {
    let suite = dir.join("long.toml");
    let text = "name='long'\ndescription=''\nnetworks=['loopback', 'lan']\nbatch=1\nrepetitions=1\n[[models]]\narch='tiny'\nbudgets=[0, 100]\n";
    std::fs::write(&suite, text).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_pi-bench"))
        .args([
            "run",
            suite.to_str().unwrap(),
            "--out",
            dir.to_str().unwrap(),
            "--repetitions",
            "200",
        ])
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(120);
    let n_runs = || {
        let json = std::fs::read(dir.join("report.json")).unwrap_or_default();
        let report: Value = serde_json::from_slice(&json).unwrap_or_default();
        report["runs"].as_array().map_or(0, Vec::len)
    };
    while n_runs() == 0 {
        assert!(Instant::now() < deadline, "the first run did not end");
        std::thread::sleep(Duration::from_millis(5));
    }
    harm(child.id());
    let status = child.wait().unwrap();
    (status.code(), report(dir))
}

#[test]
fn ctrl_c_keeps_what_there_is_and_says_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let (code, report) = harmed(dir.path(), |pid| {
        let interrupt = Command::new("kill")
            .args(["-INT", &pid.to_string()])
            .status()
            .unwrap();
        assert!(interrupt.success());
    });
    check_schema(&report);
    assert_eq!(code, Some(130));
    let missing = report["missing"].as_array().unwrap();
    assert!(
        !missing.is_empty() && missing.iter().all(|m| m["reason"] == "interrupted"),
        "{missing:?}"
    );
    assert_eq!(missing.len() + report["runs"].as_array().unwrap().len(), 4);
    assert!(dir.path().join("report.html").exists());
}

#[test]
fn a_server_that_dies_is_written_down_and_the_rest_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (code, report) = harmed(dir.path(), |pid| {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let servers = children(pid, "pi-server");
            if let [server, ..] = servers[..] {
                // In the middle of its work, most likely; every moment must do. One that is gone by then was the first run's.
                std::thread::sleep(Duration::from_millis(100));
                let kill = Command::new("kill")
                    .args(["-KILL", &server.to_string()])
                    .status();
                if kill.unwrap().success() {
                    return;
                }
            }
            assert!(Instant::now() < deadline, "no server to kill");
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    check_schema(&report);
    assert_eq!(code, Some(1));
    let missing = report["missing"].as_array().unwrap();
    assert_eq!(missing.len(), 1, "{missing:?}");
    assert!(
        missing[0]["reason"].as_str().unwrap().contains("failed"),
        "{missing:?}"
    );
    assert!(report["runs"].as_array().unwrap().len() >= 3);
}
