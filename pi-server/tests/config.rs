//! The program's configuration as its operator meets it: printing, checking, and what is preferred to what.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Output, Stdio};

use pi_model::spec::OutputMode;

fn program(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pi-server"));
    command.args(args).stdin(Stdio::null());
    command
}

fn outcome(output: Output) -> (bool, String) {
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

#[test]
fn the_printed_default_is_good_and_a_misspelt_key_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pi-server.toml");
    let path = file.to_str().unwrap();
    let printed = program(&["config", "default"]).output().unwrap().stdout;
    std::fs::write(&file, &printed).unwrap();
    let (good, said) = outcome(program(&["config", "check", path]).output().unwrap());
    assert!(good && said.contains("good"), "{said}");

    let text = String::from_utf8(printed).unwrap();
    std::fs::write(&file, text.replace("max-sessions", "max-session")).unwrap();
    for args in [&["config", "check", path][..], &["serve", "--config", path]] {
        let (good, said) = outcome(program(args).output().unwrap());
        assert!(
            !good && said.contains("`max-session`") && said.contains(path),
            "{said}"
        );
    }
    std::fs::write(&file, "max-batch = 1000").unwrap();
    let (good, said) = outcome(program(&["config", "check", path]).output().unwrap());
    assert!(!good && said.contains("max-batch"), "{said}");
    let (good, said) = outcome(program(&["config", "check", "no.toml"]).output().unwrap());
    assert!(!good && said.contains("config default"), "{said}");
}

#[test]
fn flags_are_preferred_to_variables_and_variables_to_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    common::model("small", OutputMode::Logits)
        .save(&model)
        .unwrap();
    let file = dir.path().join("pi-server.toml");
    let text = format!(
        "model = [{:?}]\nlisten = \"127.0.0.2:0\"\n",
        model.to_str().unwrap()
    );
    std::fs::write(&file, text).unwrap();
    let args = ["serve", "--stop-at-eof", "--config", file.to_str().unwrap()];
    let flag = [&args[..], &["--listen", "127.0.0.4:0"]].concat();
    for (args, variable, expected) in [
        (&args[..], None, "127.0.0.2"),
        (&args, Some("127.0.0.3:0"), "127.0.0.3"),
        (&flag, Some("127.0.0.3:0"), "127.0.0.4"),
    ] {
        let mut command = program(args);
        command.envs(variable.map(|v| ("PI_SERVER_LISTEN", v)));
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
        assert!(
            line.contains(&format!("listening on {expected}:")),
            "{line}"
        );
    }
    let mut command = program(&args);
    let (good, said) = outcome(command.env("PI_SERVER_MAX_SESSION", "1").output().unwrap());
    assert!(!good && said.contains("PI_SERVER_MAX_SESSION,"), "{said}");
}
