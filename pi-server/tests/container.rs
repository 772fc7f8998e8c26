//! The last stage of the image, built and run by buildah where that is installed and the base image is on this machine: nothing is
//! ever fetched. The program of this build takes the place of the build stage.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::image;
use pi_client::ConnectOptions;
use pi_client::blocking::Client;
use pi_model::spec::OutputMode;

const TAG: &str = "localhost/pi-server-test:stage";

fn containerfile() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/container/Containerfile");
    std::fs::read_to_string(path).unwrap()
}

/// What buildah says; its error where it fails.
fn buildah(args: &[&str]) -> Result<String, String> {
    let output = Command::new("buildah")
        .args(args)
        .stdin(Stdio::null())
        .output();
    let output = output.map_err(|e| e.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(text(&output.stderr)),
    }
}

/// A container, and the image that it is of; both go with this value.
struct Container(String);

impl Drop for Container {
    fn drop(&mut self) {
        let _ = buildah(&["rm", &self.0]);
        let _ = buildah(&["rmi", TAG]);
    }
}

/// The real user of a process, and its children.
fn user_and_children(pid: u32) -> Option<(u32, Vec<u32>)> {
    let proc = Path::new("/proc").join(pid.to_string());
    let status = std::fs::read_to_string(proc.join("status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("Uid:"))?;
    let user = line.split_whitespace().next()?.parse().ok()?;
    let mut children = vec![];
    // Each thread lists those that it has started.
    for task in std::fs::read_dir(proc.join("task")).ok()?.flatten() {
        let listed = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        children.extend(
            listed
                .split_whitespace()
                .filter_map(|c| c.parse::<u32>().ok()),
        );
    }
    Some((user, children))
}

/// The process of the server below `pid`: the one whose first argument is its program.
fn server_below(pid: u32) -> Option<u32> {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    if line.starts_with(b"/usr/local/bin/pi-server\0") {
        return Some(pid);
    }
    let (_, children) = user_and_children(pid)?;
    children.into_iter().find_map(server_below)
}

#[test]
fn the_last_stage_is_built_serves_and_stops_as_its_user() {
    let text = containerfile();
    let (_, stage) = text.rsplit_once("\nFROM ").unwrap();
    let base = stage.lines().next().unwrap();
    if let Err(why) = buildah(&["--version"]) {
        return println!("skipped: buildah is not installed ({why})");
    }
    let Ok(container) = buildah(&["from", "--pull-never", base]) else {
        return println!(
            "skipped: the image {base} is not on this machine, and nothing is fetched"
        );
    };
    let _ = buildah(&["rm", &container]);

    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let put = |from: &str, to: &str| {
        let to = out.join(to);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(from, to).unwrap();
    };
    put(env!("CARGO_BIN_EXE_pi-server"), "usr/local/bin/pi-server");
    let settings = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../deploy/container/pi-server.toml"
    );
    put(settings, "etc/pi-server/pi-server.toml");
    let model = common::model("small", OutputMode::Logits);
    model.save(&out.join("models/small/1")).unwrap();
    // Weights are for their owner's eyes: in an image that is its user.
    let stage = stage.replace("--from=build /out", "--chown=65532:65532 out");
    let file = dir.path().join("Containerfile");
    std::fs::write(&file, format!("FROM {stage}")).unwrap();
    let context = dir.path().to_str().unwrap();
    let built = buildah(&[
        "build",
        "--pull-never",
        "--isolation",
        "chroot",
        "--format",
        "docker",
        "-f",
        file.to_str().unwrap(),
        "-t",
        TAG,
        context,
    ]);
    built.unwrap();
    let container = Container(buildah(&["from", "--pull-never", TAG]).unwrap());

    let mut command = vec!["/usr/local/bin/pi-server".to_owned()];
    let line = text.lines().rfind(|l| l.starts_with("CMD [")).unwrap();
    let cmd: Vec<String> = serde_json::from_str(&line["CMD ".len()..]).unwrap();
    command.extend(cmd);
    let mut child = Command::new("buildah")
        .args(["run", "--isolation", "chroot"])
        // The network is the machine's own here, and its ports may be taken.
        .args(["--env", "PI_SERVER_LISTEN=127.0.0.1:0"])
        .args(["--env", "PI_SERVER_ADMIN_LISTEN=off"])
        .args([&container.0, "--"])
        .args(command)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut said = BufReader::new(child.stdout.take().unwrap());
    said.read_line(&mut line).unwrap();
    let Some(address) = line.trim().strip_prefix("listening on ") else {
        let ended = child.wait_with_output().unwrap();
        let why = String::from_utf8_lossy(&ended.stderr);
        if why.contains("GLIBC_") {
            return println!("skipped: {base} has an older C library than this build: {why}");
        }
        panic!("{why}");
    };
    let server = server_below(child.id()).unwrap();
    assert_eq!(user_and_children(server).unwrap().0, 65_532);
    let client = Client::connect(ConnectOptions::new(format!("http://{address}"))).unwrap();
    let mut session = client.session(&client.describe(None).unwrap(), 1).unwrap();
    let input = image(&model, 1);
    let answer = session.infer(&input).unwrap();
    common::assert_close(&model, &input, &answer.output);
    session.close().unwrap();

    let signal = text.lines().find_map(|l| l.strip_prefix("STOPSIGNAL SIG"));
    let signal = format!("-{}", signal.unwrap());
    let killed = Command::new("kill")
        .args([signal, server.to_string()])
        .status();
    assert!(killed.unwrap().success());
    let patience = Instant::now() + Duration::from_secs(20);
    while child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < patience, "the server did not stop");
        std::thread::sleep(Duration::from_millis(20));
    }
    let ended = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{}: {said}", ended.status);
}
