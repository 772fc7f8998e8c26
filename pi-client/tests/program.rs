//! The program as its user meets it: one answer for each image, and errors that say what to do.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use pi_model::random::residual_network;
use pi_model::spec::OutputMode;

use common::{png, serve, serve_with, server};

fn infer(url: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pi-client"));
    command.args(["infer", "--server", url]).args(args);
    command
}

fn fails(url: &str, args: &[&str]) -> String {
    let Output {
        status,
        stderr,
        stdout,
    } = infer(url, args).output().unwrap();
    let text = String::from_utf8(stderr).unwrap();
    assert!(!status.success() && stdout.is_empty(), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    text
}

#[test]
fn images_get_one_answer_each_and_agree_with_the_clear() {
    let dir = tempfile::tempdir().unwrap();
    let url = server(dir.path(), 2);
    let images: Vec<PathBuf> = (0..5)
        .map(|i| png(dir.path(), &format!("{i}.png"), 8))
        .collect();
    let model_dir = dir.path().to_str().unwrap();
    let output = infer(&url, &["--json", "--check", model_dir])
        .args(&images)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let run: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(run["results"].as_array().unwrap().len(), 5);
    assert_eq!(run["n_checked"], 5);
    // Five images at a batch of at most four: two batches of three.
    assert_eq!(run["report"]["n_prepared"], 6);
    assert_eq!(run["report"]["n_inferences"], 5);
    for result in run["results"].as_array().unwrap() {
        let error = result["check"]["max_logit_error"].as_f64().unwrap();
        assert!(error < 0.25, "{result}");
    }
    let output = infer(&url, &["--by-layer"])
        .args(&images[..1])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.starts_with("0.png") && text.contains("stem.relu"),
        "{text}"
    );
}

#[test]
fn silent_ots_save_bytes_and_change_no_answer() {
    let dir = tempfile::tempdir().unwrap();
    let url = serve(dir.path(), 2, 800);
    let image = png(dir.path(), "a.png", 8);
    let model_dir = dir.path().to_str().unwrap();
    let run = |mode: &[&str]| -> serde_json::Value {
        // Four at once make enough OTs for the silent mode to gain.
        let output = infer(&url, &["--json", "--batch", "4", "--check", model_dir])
            .args(mode)
            .arg(&image)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let (plain, silent) = (run(&[]), run(&["--ot", "silent"]));
    assert_eq!(plain["report"]["ot"], "softspoken");
    assert_eq!(silent["report"]["ot"], "silent");
    let up = |run: &serde_json::Value| run["report"]["offline"]["bytes_up"].as_u64().unwrap();
    assert!(up(&silent) < up(&plain), "{silent}");
    assert!(plain["report"]["steps"]["label silent OT"].is_null());
    assert!(silent["report"]["steps"]["label silent OT"].as_u64() > Some(0));
    let error = silent["results"][0]["check"]["max_logit_error"].as_f64();
    assert!(error.unwrap() < 0.25, "{silent}");
    let sliced = run(&["--garbling", "three-halves"]);
    assert_eq!(plain["report"]["garbling"], "half-gates");
    assert_eq!(sliced["report"]["garbling"], "three-halves");
    let tables =
        |run: &serde_json::Value| run["report"]["steps"]["garbled tables"].as_u64().unwrap();
    assert!(tables(&sliced) * 5 < tables(&plain) * 4, "{sliced}");
    let error = sliced["results"][0]["check"]["max_logit_error"].as_f64();
    assert!(error.unwrap() < 0.25, "{sliced}");
    let own = run(&["--garbling", "client-digits"]);
    assert_eq!(own["report"]["garbling"], "client-digits");
    let online = |run: &serde_json::Value| {
        let bytes = &run["report"]["online"];
        bytes["bytes_up"].as_u64().unwrap() + bytes["bytes_down"].as_u64().unwrap()
    };
    assert!(online(&own) < online(&plain), "{own}");
    let error = own["results"][0]["check"]["max_logit_error"].as_f64();
    assert!(error.unwrap() < 0.25, "{own}");
    let text = fails(&url, &["--garbling", "yao", image.to_str().unwrap()]);
    assert!(
        text.contains("half-gates, three-halves, client-digits"),
        "{text}"
    );
    let text = fails(&url, &["--ot", "loud", image.to_str().unwrap()]);
    assert!(text.contains("softspoken, silent"), "{text}");
}

#[test]
fn mistakes_are_answered_with_advice() {
    let dir = tempfile::tempdir().unwrap();
    let url = server(dir.path(), 2);
    let (good, large) = (
        png(dir.path(), "good.png", 8),
        png(dir.path(), "large.png", 32),
    );
    let [good, large] = [&good, &large].map(|path| path.to_str().unwrap());
    let text = fails(&url, &["--exact-size", good, large]);
    assert!(
        text.contains("large.png") && text.contains("8 x 8"),
        "{text}"
    );
    let text = fails(&url, &["--model", "other", good]);
    assert!(text.contains("small"), "{text}");
    let text = fails(&url, &["--batch", "9", good]);
    assert!(text.contains("1 to 4"), "{text}");
    let text = fails("http://127.0.0.1:1", &[good]);
    assert!(text.contains("start pi-server"), "{text}");
    let text = fails("127.0.0.1:1", &[good]);
    assert!(text.contains("http://HOST:PORT"), "{text}");
    let text = fails("http://no-such-host.invalid:1", &[good]);
    assert!(text.contains("host name is not known"), "{text}");
    let other = tempfile::tempdir().unwrap();
    let net = residual_network("small", [3, 8, 8], &[4], 1, 5, 9, OutputMode::Logits);
    net.unwrap().save(other.path()).unwrap();
    let text = fails(&url, &["--check", other.path().to_str().unwrap(), good]);
    assert!(text.contains("not the one"), "{text}");
}

#[test]
fn a_killed_client_leaves_the_server_serving_others() {
    let dir = tempfile::tempdir().unwrap();
    let url = server(dir.path(), 1);
    let image = png(dir.path(), "a.png", 8);
    for delay_ms in [5, 20, 60] {
        let mut victim = infer(&url, &[])
            .args(std::iter::repeat_n(&image, 200))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(delay_ms));
        victim.kill().unwrap();
        victim.wait().unwrap();
    }
    // The server has one place: it must be free again soon.
    let patience = std::time::Instant::now() + Duration::from_secs(10);
    loop {
        let output = infer(&url, &[]).arg(&image).output().unwrap();
        if output.status.success() {
            return;
        }
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains("in use"), "{text}");
        assert!(std::time::Instant::now() < patience, "{text}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_token_comes_from_a_file_or_the_environment_and_is_not_shown() {
    let dir = tempfile::tempdir().unwrap();
    let (token, line) = pi_server::identity::new_token("alice").unwrap();
    let tokens = dir.path().join("tokens");
    std::fs::write(&tokens, line).unwrap();
    let url = serve_with(dir.path(), 2, 150, |o| o.tokens = Some(tokens));
    let image = png(dir.path(), "image.png", 8);
    let image = image.to_str().unwrap();
    let said = fails(&url, &[image]);
    assert!(
        said.contains("asks for a token") && said.contains("PI_TOKEN"),
        "{said}"
    );
    let file = dir.path().join("token");
    std::fs::write(&file, format!("{token}\n")).unwrap();
    let file = file.to_str().unwrap();
    for mut command in [
        infer(&url, &[image, "--token-file", file]),
        infer(&url, &[image]),
    ] {
        let output = command.env("PI_TOKEN", &token).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    let mut wrong = infer(&url, &[image]);
    let output = wrong.env("PI_TOKEN", "two words").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("one word"), "{said}");
    let said = fails(&url, &[image, "--token-file", "no/such/file"]);
    assert!(said.contains("no/such/file"), "{said}");
    let said = fails("http://192.0.2.1:1", &[image, "--token-file", file]);
    assert!(
        said.contains("in the clear") && !said.contains(&token),
        "{said}"
    );
}
