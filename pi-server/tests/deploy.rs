//! The files in `deploy/` against the program: all of them parse, their command lines start a server that answers, their
//! settings and metrics exist, and each alert has its section in the runbook. Checkers that are installed (systemd-analyze,
//! kubectl, promtool, hadolint) are asked too; where one is missing, the test says so.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{TestServer, http, image};
use pi_client::blocking::Client;
use pi_client::{ConnectOptions, Token};
use pi_model::spec::OutputMode;
use pi_server::{AdminListen, Mode, RootOptions, Settings};
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_pi-server");

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(deploy().join(path)).unwrap()
}

/// All files under `deploy/`, by their paths there.
fn files() -> Vec<String> {
    let mut folders = vec![deploy()];
    let mut files = vec![];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let path = path.strip_prefix(deploy()).unwrap();
                files.push(path.to_str().unwrap().to_owned());
            }
        }
    }
    files.sort();
    files
}

fn documents(path: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(&read(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn yaml(path: &str) -> Value {
    let mut all = documents(path);
    assert_eq!(all.len(), 1, "{path}");
    all.remove(0)
}

/// Section, key and value of each line of a unit.
fn unit(path: &str) -> Vec<[String; 3]> {
    let mut section = String::new();
    let mut entries = vec![];
    for line in read(path).lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
        } else if let Some(name) = line.strip_prefix('[') {
            section = name.strip_suffix(']').unwrap().to_owned();
        } else {
            let (key, value) = line.split_once('=').unwrap_or_else(|| panic!("{line}"));
            entries.push([section.clone(), key.into(), value.into()]);
        }
    }
    entries
}

fn of_unit(key: &str) -> String {
    let found: Vec<_> = unit("systemd/pi-server.service")
        .into_iter()
        .filter(|[_, k, _]| k == key)
        .collect();
    assert_eq!(found.len(), 1, "{key}");
    found[0][2].clone()
}

/// The arguments of an instruction of the Containerfile in its JSON form; of the last one of that name.
fn of_containerfile(instruction: &str) -> Vec<String> {
    let text = read("container/Containerfile").replace("\\\n", " ");
    let line = text.lines().rfind(|l| l.starts_with(instruction)).unwrap();
    serde_json::from_str(&line[line.find('[').unwrap()..]).unwrap()
}

fn strings(value: &Value) -> Vec<String> {
    let texts = value.as_array().unwrap().iter();
    texts.map(|v| v.as_str().unwrap().to_owned()).collect()
}

#[test]
fn every_file_parses() {
    for path in files() {
        let name = path.rsplit('/').next().unwrap();
        let extension = Path::new(&path).extension().unwrap_or_default();
        match extension.to_str().unwrap() {
            "yaml" | "yml" => assert!(!documents(&path).is_empty(), "{path}"),
            "json" => {
                let value: Value = serde_json::from_str(&read(&path)).unwrap();
                assert!(value.is_object(), "{path}");
            }
            "toml" => {
                let file = deploy().join(&path);
                let said = Command::new(PROGRAM)
                    .args(["config", "check"])
                    .arg(file)
                    .output()
                    .unwrap();
                assert!(said.status.success(), "{path}: {said:?}");
            }
            "service" => {
                let sections: BTreeSet<_> = unit(&path).into_iter().map(|[s, ..]| s).collect();
                let due = ["Install", "Service", "Unit"].map(String::from);
                assert_eq!(sections, BTreeSet::from(due));
            }
            "sh" | "md" | "sysusers" | "tmpfiles" => assert!(!read(&path).is_empty()),
            _ => assert_eq!(name, "Containerfile", "{path}: teach this test to read it"),
        }
    }
}

#[test]
fn kustomizations_name_files_that_exist_and_times_fit() {
    for path in files().iter().filter(|p| p.ends_with("kustomization.yaml")) {
        let folder = deploy().join(path).parent().unwrap().to_owned();
        let content = yaml(path);
        for list in ["resources", "components"] {
            for entry in content[list].as_array().into_iter().flatten() {
                let named = folder.join(entry.as_str().unwrap());
                assert!(named.exists(), "{path}: {}", named.display());
            }
        }
    }
    let drain_of = |path: &str| {
        let options = Settings::read(&deploy().join(path)).unwrap().options();
        options.unwrap().drain_timeout + pi_server::drain::GRACE
    };
    let stop = of_unit("TimeoutStopSec").replace('s', "").parse().unwrap();
    assert!(drain_of("systemd/pi-server.toml") < Duration::from_secs(stop));
    let pod = &yaml("kubernetes/base/deployment.yaml")["spec"]["template"]["spec"];
    let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
    assert!(drain_of("kubernetes/base/pi-server.toml") < Duration::from_secs(grace));
}

#[test]
fn every_variable_is_a_setting() {
    for path in files() {
        let names = words(&read(&path), "PI_SERVER_");
        let names = names.into_iter().filter(|name| name != "PI_SERVER_");
        Settings::check_variables(names).unwrap_or_else(|e| panic!("{path}: {e}"));
    }
}

/// The words of `text` that start with `prefix`.
fn words(text: &str, prefix: &str) -> BTreeSet<String> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with(prefix))
        .map(str::to_owned)
        .collect()
}

/// A file system for a server: what the files of `deploy/` name, under one folder.
struct Machine {
    dir: tempfile::TempDir,
    token: String,
    admin: u16,
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        let model = common::model("small", OutputMode::Logits);
        for folder in ["srv/pi-models/small/1", "models/small/1", "mnt/models"] {
            model.save(&at(folder)).unwrap();
        }
        let made = common::certificate(&at("etc/pi-server/tls"));
        let (token, line) = pi_server::identity::new_token("alice").unwrap();
        for folder in ["etc/pi-server-tls", "etc/pi-server-tokens"] {
            std::fs::create_dir_all(at(folder)).unwrap();
        }
        std::fs::copy(made.certificate, at("etc/pi-server-tls/tls.crt")).unwrap();
        std::fs::copy(made.key, at("etc/pi-server-tls/tls.key")).unwrap();
        for file in ["etc/pi-server/tokens", "etc/pi-server-tokens/tokens"] {
            std::fs::write(at(file), &line).unwrap();
        }
        // Freed at once, and taken by nobody who does not ask for it by number.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let admin = free.local_addr().unwrap().port();
        Self { dir, token, admin }
    }

    /// `text` with this machine's paths and free ports.
    fn here(&self, text: &str) -> String {
        let root = self.dir.path().to_str().unwrap();
        let mut text = text.to_owned();
        for path in ["/etc/pi-server", "/srv/pi-models", "/models", "/mnt/models"] {
            for (before, after) in [("\"", ""), (" ", ""), ("", "^")] {
                // A path begins a word or a string; where `text` is one argument, it begins that.
                let whole = after == "^";
                if whole && text.starts_with(path) {
                    text = format!("{root}{text}");
                } else if !whole {
                    let found = format!("{before}{path}");
                    text = text.replace(&found, &format!("{before}{root}{path}"));
                }
            }
        }
        let admin = format!("127.0.0.1:{}", self.admin);
        for (port, there) in [
            ("50051", "127.0.0.1:0"),
            ("8081", "127.0.0.1:0"),
            ("9090", &admin),
        ] {
            for host in ["0.0.0.0", "127.0.0.1"] {
                text = text.replace(&format!("{host}:{port}"), there);
            }
        }
        text
    }

    /// Puts the settings in `deploy/{file}` where the server looks for them.
    fn settings(&self, file: &str) {
        let path = self.dir.path().join("etc/pi-server/pi-server.toml");
        std::fs::write(path, self.here(&read(file))).unwrap();
    }

    fn program(&self, args: &[String]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(args.iter().map(|a| self.here(a)));
        command.env_remove("RUST_LOG").stdin(Stdio::null());
        command
    }

    fn succeeds(&self, args: &[String]) {
        let Output { status, stderr, .. } = self.program(args).output().unwrap();
        let said = String::from_utf8_lossy(&stderr);
        assert!(status.success(), "{args:?}: {said}");
    }

    /// Starts the server, asks for its health and for an inference, and stops it.
    fn serves(&self, args: &[String], health: &[String], tls: Option<&str>) {
        let mut child = self.program(args).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let stdout = child.stdout.as_mut().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let Some((_, port)) = line.trim().rsplit_once(':') else {
            panic!("{args:?}: {:?}", child.wait());
        };
        self.succeeds(health);
        let url = match tls {
            Some(_) => format!("https://localhost:{port}"),
            None => format!("http://localhost:{port}"),
        };
        let options = ConnectOptions {
            ca: tls.map(|path| self.dir.path().join(path)),
            token: tls.map(|_| Token::new(&self.token).unwrap()),
            ..ConnectOptions::new(url)
        };
        let client = Client::connect(options).unwrap();
        let mut session = client.session(&client.describe(None).unwrap(), 1).unwrap();
        let model = common::model("small", OutputMode::Logits);
        session.infer(&image(&model, 1)).unwrap();
        session.close().unwrap();
        let kill = Command::new("kill").arg(child.id().to_string()).status();
        assert!(kill.unwrap().success());
        ends_well(child);
        let refused = self.program(health).stderr(Stdio::null()).status().unwrap();
        assert!(!refused.success(), "a server that is gone has no health");
    }
}

fn ends_well(mut child: Child) {
    let patience = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return assert!(status.success(), "{status}");
        }
        if Instant::now() > patience {
            child.kill().unwrap();
            panic!("the server did not stop");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The arguments of a command line whose program is ours.
fn ours(line: &str) -> Vec<String> {
    let mut words = line.split_whitespace().map(str::to_owned);
    assert_eq!(words.next().unwrap(), "/usr/local/bin/pi-server");
    words.collect()
}

fn health(more: &[&str]) -> Vec<String> {
    let args = [&["health"], more].concat();
    args.into_iter().map(str::to_owned).collect()
}

#[test]
fn the_units_command_lines_serve() {
    let machine = Machine::new();
    machine.settings("systemd/pi-server.toml");
    machine.succeeds(&ours(&of_unit("ExecStartPre")));
    let health = health(&["--config", "/etc/pi-server/pi-server.toml"]);
    let tls = Some("etc/pi-server/tls/certificate.pem");
    machine.serves(&ours(&of_unit("ExecStart")), &health, tls);
}

#[test]
fn the_images_command_lines_serve() {
    let machine = Machine::new();
    machine.settings("container/pi-server.toml");
    let entry = of_containerfile("ENTRYPOINT");
    assert_eq!(entry, ["/usr/local/bin/pi-server"]);
    let check = of_containerfile("HEALTHCHECK").split_off(1);
    machine.serves(&of_containerfile("CMD"), &check, None);
    let user = read("container/Containerfile");
    assert!(user.lines().any(|l| l == "USER 65532:65532"));
    let compose = yaml("compose/compose.yaml");
    let test = strings(&compose["services"]["pi-server"]["healthcheck"]["test"]);
    assert_eq!(test, ["CMD", "/usr/local/bin/pi-server", "health"]);
}

#[test]
fn the_pods_command_lines_serve() {
    let machine = Machine::new();
    machine.settings("kubernetes/base/pi-server.toml");
    let pod = &yaml("kubernetes/base/deployment.yaml")["spec"]["template"]["spec"];
    let args = strings(&pod["containers"][0]["args"]);
    let config = health(&["--config", "/etc/pi-server/pi-server.toml"]);
    machine.serves(&args, &config, Some("etc/pi-server-tls/tls.crt"));
    let runtime = yaml("kserve/servingruntime.yaml");
    let args = strings(&runtime["spec"]["containers"][0]["args"]);
    let address = format!("127.0.0.1:{}", machine.admin);
    machine.serves(
        &args,
        &health(&["--live", "--admin-listen", &address]),
        None,
    );
}

/// The names in `/metrics`, as queries write them.
fn exposed(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for line in text.lines().filter_map(|l| l.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        let suffixes: &[&str] = match kind {
            "counter" => &["_total"],
            "histogram" => &["_bucket", "_count", "_sum"],
            "info" => &["_info"],
            _ => &[""],
        };
        names.extend(suffixes.iter().map(|suffix| format!("{name}{suffix}")));
    }
    names
}

#[test]
fn every_metric_that_is_watched_is_exposed() {
    let root = tempfile::tempdir().unwrap();
    let model = common::model("small", OutputMode::Logits);
    model.save(&root.path().join("small/1")).unwrap();
    model.save(&root.path().join("small/2")).unwrap();
    std::fs::write(root.path().join("small/2/model.safetensors"), "broken").unwrap();
    let tls = common::certificate(&root.path().join("tls"));
    let server = TestServer::with(OutputMode::Logits, |o| {
        o.models.clear();
        o.repository = Some(RootOptions {
            path: root.path().to_owned(),
            mode: Mode::None,
            interval: Duration::from_secs(1),
            load: vec![],
            versions: Default::default(),
        });
        o.limits.max_sessions = 1;
        o.admin = AdminListen::At(([127, 0, 0, 1], 0).into());
        o.reload_interval = Duration::from_millis(20);
        o.tls = Some(tls.clone());
    });
    let options = ConnectOptions::new(&server.url).with_ca(&tls.certificate);
    let client = Client::connect(options).unwrap();
    let description = client.describe(None).unwrap();
    let mut session = client.session(&description, 1).unwrap();
    session.infer(&image(&model, 1)).unwrap();
    client.session(&description, 1).map(drop).unwrap_err();
    session.close().unwrap();
    let watched = [
        "monitoring/alerts.yml",
        "monitoring/dashboard.json",
        "kubernetes/components/autoscale/adapter-rules.yaml",
        "kubernetes/components/autoscale/horizontalpodautoscaler.yaml",
        "README.md",
        "RUNBOOK.md",
    ];
    let mut due: BTreeSet<String> = watched
        .iter()
        .flat_map(|path| ["pi_", "process_"].map(|prefix| words(&read(path), prefix)))
        .flatten()
        .collect();
    assert!(due.len() > 15, "{due:?}");
    // What the adapter makes, and what the texts call by its stem.
    assert!(due.remove("pi_queue_seconds_p90"));
    due.retain(|name| !["pi_phase_seconds", "pi_queue_seconds", "pi_server"].contains(&&**name));
    let patience = Instant::now() + Duration::from_secs(20);
    loop {
        let (code, text) = http(server.admin.unwrap(), "GET", "/metrics");
        assert_eq!(code, 200);
        let missing: Vec<_> = due.difference(&exposed(&text)).cloned().collect();
        if missing.is_empty() {
            break;
        }
        assert!(Instant::now() < patience, "{missing:?} are not in\n{text}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn each_alert_has_its_section_in_the_runbook_and_each_section_its_alert() {
    let rules = yaml("monitoring/alerts.yml");
    let rules = rules["groups"][0]["rules"].as_array().unwrap().clone();
    let runbook = read("RUNBOOK.md");
    let headings: BTreeSet<_> = runbook
        .lines()
        .filter_map(|l| l.strip_prefix("### Pi"))
        .collect();
    let mut alerts = BTreeSet::new();
    for rule in &rules {
        let name = rule["alert"].as_str().unwrap();
        let anchor = rule["annotations"]["runbook"].as_str().unwrap();
        assert_eq!(anchor, format!("deploy/RUNBOOK.md#{}", name.to_lowercase()));
        alerts.insert(name.strip_prefix("Pi").unwrap());
    }
    assert_eq!(headings, alerts);
}

/// Runs a checker, if there is one here.
fn checked(program: &str, args: &[&str]) {
    match Command::new(program)
        .args(args)
        .current_dir(deploy())
        .output()
    {
        Err(_) => eprintln!("skipped: {program} is not installed"),
        Ok(Output {
            status,
            stdout,
            stderr,
        }) => {
            let said = String::from_utf8([stdout, stderr].concat()).unwrap();
            assert!(status.success(), "{program} {args:?}: {said}");
        }
    }
}

#[test]
fn the_checkers_that_are_installed_agree() {
    checked("promtool", &["check", "rules", "monitoring/alerts.yml"]);
    checked("promtool", &["test", "rules", "monitoring/alerts.test.yml"]);
    checked(
        "promtool",
        &["check", "config", "monitoring/prometheus.yml"],
    );
    for folder in ["kubernetes/base", "kubernetes/full"] {
        checked("kubectl", &["kustomize", folder]);
    }
    checked("hadolint", &["container/Containerfile"]);
    // It looks for the program, too.
    let dir = tempfile::tempdir().unwrap();
    let there = dir.path().join("pi-server.service");
    let text = read("systemd/pi-server.service").replace("/usr/local/bin/pi-server", PROGRAM);
    std::fs::write(&there, text).unwrap();
    checked("systemd-analyze", &["verify", there.to_str().unwrap()]);
}
