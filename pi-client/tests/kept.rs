//! Inferences that `prepare` leaves on the disk: used once, by later runs, and by nobody who lacks the key.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use common::{Switch, png, serve_with};
use pi_client::observer::{Note, Observer};
use pi_client::{Client, Config, Image};
use pi_server::store::StoreOptions;
use serde_json::Value;

fn keeping_server(dir: &Path) -> String {
    let at = dir.join("server.store").display().to_string();
    server_that_keeps(dir, at)
}

fn server_that_keeps(dir: &Path, at: String) -> String {
    let key = dir.join("server.key");
    std::fs::write(&key, "5a".repeat(32)).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    serve_with(dir, 4, 150, |o| {
        o.store = Some(StoreOptions {
            at,
            key_file: Some(key),
            ..StoreOptions::default()
        });
    })
}

fn call(args: &[&str], store: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pi-client"))
        .args(args)
        .arg("--store")
        .arg(store)
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn kept(store: &Path) -> Vec<PathBuf> {
    let folders = std::fs::read_dir(store).unwrap().map(|e| e.unwrap().path());
    let files = folders.filter(|p| p.is_dir()).flat_map(|dir| {
        let files = std::fs::read_dir(dir).unwrap();
        files.map(|e| e.unwrap().path()).collect::<Vec<_>>()
    });
    files
        .filter(|path| path.extension().is_some_and(|end| end == "kept"))
        .collect()
}

#[test]
fn what_is_prepared_serves_later_runs_once() {
    let dir = tempfile::tempdir().unwrap();
    let url = keeping_server(dir.path());
    let store = dir.path().join("client");
    let text = said(&call(&["prepare", &url, "-n", "3", "--batch", "2"], &store));
    assert!(
        text.contains("prepared 4") && text.contains("4 inferences"),
        "{text}"
    );
    assert_eq!(kept(&store).len(), 4);
    #[cfg(unix)]
    for path in kept(&store).iter().chain([&store.join("key")]) {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", path.display());
    }
    let images: Vec<String> = (0..3)
        .map(|i| {
            png(dir.path(), &format!("{i}.png"), 8)
                .display()
                .to_string()
        })
        .collect();
    let model = dir.path().display().to_string();
    let infer = |n: usize, more: &[&str]| -> Value {
        let start = ["infer", "--server", &url, "--json", "--check", &model];
        let images = images.iter().map(String::as_str).take(n);
        let args: Vec<&str> = start
            .into_iter()
            .chain(more.iter().copied())
            .chain(images)
            .collect();
        serde_json::from_str(&said(&call(&args, &store))).unwrap()
    };
    // Two from the store alone: no keys, no base OTs, nothing offline.
    let run = infer(2, &[]);
    assert_eq!(run["n_agree"], 2, "{run}");
    assert_eq!(run["report"]["n_prepared"], 0);
    assert!(run["report"]["setup"]["bytes_up"].as_u64() < Some(200));
    assert_eq!(kept(&store).len(), 2);
    // It leaves them alone if told to.
    assert_eq!(infer(1, &["--fresh"])["report"]["n_prepared"], 1);
    assert_eq!(kept(&store).len(), 2);
    // Three, of which two are there.
    let run = infer(3, &[]);
    assert_eq!(run["n_agree"], 3, "{run}");
    assert_eq!(run["report"]["n_prepared"], 2);
    assert!(kept(&store).is_empty());
    assert_eq!(infer(1, &[])["report"]["n_prepared"], 1);
    assert!(said(&call(&["prepare", &url, "-n", "0"], &store)).starts_with("0 inferences"));
}

#[test]
fn damaged_files_and_another_key_are_passed_over_and_no_plaintext_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let url = keeping_server(dir.path());
    let store = dir.path().join("client");
    said(&call(&["prepare", &url, "-n", "2", "--batch", "2"], &store));
    let files = kept(&store);
    // What is encrypted does not compress: nearly all byte values occur about equally often.
    let bytes = std::fs::read(&files[0]).unwrap();
    let zeros = bytes.iter().filter(|&&b| b == 0).count();
    assert!(zeros < bytes.len() / 128, "{zeros} of {}", bytes.len());
    for path in &files {
        let mut bytes = std::fs::read(path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(path, bytes).unwrap();
    }
    let image = png(dir.path(), "a.png", 8).display().to_string();
    let args = ["infer", "--server", &url, "--json", &image];
    let run: Value = serde_json::from_str(&said(&call(&args, &store))).unwrap();
    assert_eq!(run["report"]["n_prepared"], 1);
    assert!(kept(&store).is_empty());
}

#[test]
fn what_the_server_does_not_have_any_more_is_dropped_with_a_word() {
    let dir = tempfile::tempdir().unwrap();
    let url = keeping_server(dir.path());
    let (store, copy) = (dir.path().join("client"), dir.path().join("copy"));
    said(&call(&["prepare", &url, "-n", "2", "--batch", "2"], &store));
    let folder = kept(&store)[0].parent().unwrap().to_owned();
    let copied = copy.join(folder.file_name().unwrap());
    std::fs::create_dir_all(&copied).unwrap();
    std::fs::copy(store.join("key"), copy.join("key")).unwrap();
    for path in kept(&store) {
        std::fs::copy(&path, copied.join(path.file_name().unwrap())).unwrap();
    }
    let image = png(dir.path(), "a.png", 8).display().to_string();
    let args = ["infer", "--server", &url, "--json", &image, &image];
    said(&call(&args, &store));
    let output = call(&args, &copy);
    let run: Value = serde_json::from_str(&said(&output)).unwrap();
    assert_eq!(run["results"].as_array().unwrap().len(), 2);
    assert_eq!(run["report"]["n_prepared"], 2);
    let notes = String::from_utf8_lossy(&output.stderr);
    assert!(notes.contains("2 kept inferences were dropped"), "{notes}");
    assert!(kept(&copy).is_empty());
}

#[test]
fn a_server_that_keeps_nothing_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let url = common::server(dir.path(), 2);
    let output = call(&["prepare", &url], &dir.path().join("client"));
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(5), "{text}");
    assert!(text.contains("serve --store"), "{text}");
    assert!(!dir.path().join("client").exists());
}

#[tokio::test]
async fn the_library_saves_inferences_for_a_later_client() {
    let dir = tempfile::tempdir().unwrap();
    let url = keeping_server(dir.path());
    let config = Config {
        store: Some(dir.path().join("client")),
        batch: Some(2),
        ..Config::new(&url)
    };
    let image = Image::from_pixels(8, 8, 3, vec![70; 192]).unwrap();
    let first = Client::connect(config.clone()).await.unwrap();
    first.save(2).await.unwrap();
    first.close().await;
    assert_eq!(kept(&dir.path().join("client")).len(), 2);
    let second = Client::connect(config.clone()).await.unwrap();
    let mut classes = Vec::new();
    for n_left in [1, 0, 0] {
        let answer = second.infer(&image).await.unwrap();
        classes.push(answer.class);
        // The first two cost no preparation, the third finds nothing.
        assert_eq!(answer.stats.offline_bytes == 0, classes.len() < 3);
        assert_eq!(answer.stats.prepared_ahead, classes.len() < 3);
        assert_eq!(kept(&dir.path().join("client")).len(), n_left);
    }
    assert_eq!(classes[0], classes[2]);
    let without = Client::connect(Config::new(&url)).await.unwrap();
    let error = without.save(1).await.unwrap_err();
    assert!(error.to_string().contains("store"), "{error}");
}

/// Every way from an image to an answer on which kept inferences are used.
#[derive(Clone, Copy, Debug)]
enum Road {
    Program,
    Client,
    Series,
    /// A client that was there before the server was started again.
    OldClient,
}

const ROADS: [Road; 4] = [Road::Program, Road::Client, Road::Series, Road::OldClient];

/// What an observer was told.
#[derive(Clone, Debug, Default)]
struct Told(Arc<Mutex<Vec<String>>>);

impl Observer for Told {
    fn notes(&self, note: &Note) {
        self.0.lock().unwrap().push(note.to_string());
    }
}

/// Keeps four inferences at a server, starts it again as `then`, and answers two images. Returns how many are still kept, and what
/// was told.
async fn answer_after_restart(road: Road, then: &str) -> (usize, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let switch = Switch::to(&keeping_server(dir.path()));
    let (url, store) = (switch.url.clone(), dir.path().join("client"));
    said(&call(&["prepare", &url, "-n", "4", "--batch", "4"], &store));
    let told = Told::default();
    let config = || Config {
        store: Some(store.clone()),
        ..Config::new(&url).observer(told.clone())
    };
    let old = match road {
        Road::OldClient => Some(Client::connect(config()).await.unwrap()),
        _ => None,
    };
    // Longer than what a server said about itself is taken to hold.
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    switch.restart_as(then);
    let image = png(dir.path(), "a.png", 8);
    if matches!(road, Road::Program) {
        let path = image.to_str().unwrap();
        let output = call(&["infer", "--server", &url, path, path], &store);
        assert_eq!(said(&output).lines().count(), 2);
        let notes = String::from_utf8(output.stderr).unwrap();
        let notes = notes.lines().map(|l| l.strip_prefix("note: ").unwrap());
        return (kept(&store).len(), notes.map(str::to_owned).collect());
    }
    let client = match old {
        Some(client) => client,
        None => Client::connect(config()).await.unwrap(),
    };
    let image = Image::open(&image).unwrap();
    let mut series = client.series(2);
    let mut in_answers = Vec::new();
    for _ in 0..2 {
        let answer = match road {
            Road::Series => series.infer(&image).await,
            _ => client.infer(&image).await,
        };
        in_answers.extend(answer.unwrap().notes);
    }
    let told = told.0.lock().unwrap().clone();
    // Who does not listen is told as well.
    assert_eq!(told, in_answers);
    assert_eq!(client.n_kept().unwrap(), kept(&store).len());
    (kept(&store).len(), told)
}

#[tokio::test]
async fn a_server_without_its_store_leaves_what_is_kept_alone_on_every_road() {
    let dir = tempfile::tempdir().unwrap();
    let forgetful = common::server(dir.path(), 8);
    for road in ROADS {
        let (n_kept, told) = answer_after_restart(road, &forgetful).await;
        assert_eq!((n_kept, told.len()), (4, 1), "{road:?}: {told:?}");
        assert!(
            told[0].starts_with("4 kept inferences stay unused"),
            "{told:?}"
        );
    }
}

#[tokio::test]
async fn a_server_with_another_store_makes_every_road_drop_them_with_a_word() {
    for road in ROADS {
        let dir = tempfile::tempdir().unwrap();
        let other = keeping_server(dir.path());
        let (n_kept, told) = answer_after_restart(road, &other).await;
        assert_eq!((n_kept, told.len()), (0, 1), "{road:?}: {told:?}");
        // The first was tried; the others may have been used before, if this was an older copy.
        assert!(
            told[0].starts_with("4 kept inferences were dropped"),
            "{told:?}"
        );
    }
}

#[test]
fn a_store_that_is_down_costs_one_kept_inference_and_not_one_for_each_run() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let works = keeping_server(dir.path());
    // The same model; its database is not there.
    let down = server_that_keeps(other.path(), "postgres://nobody@127.0.0.1:1/none".into());
    let switch = Switch::to(&works);
    let store = dir.path().join("client");
    said(&call(
        &["prepare", &switch.url, "-n", "4", "--batch", "4"],
        &store,
    ));
    switch.restart_as(&down);
    let image = png(dir.path(), "a.png", 8).display().to_string();
    let infer = || {
        let output = call(
            &["infer", "--server", &switch.url, "--json", &image],
            &store,
        );
        let run: Value = serde_json::from_str(&said(&output)).unwrap();
        let notes = String::from_utf8(output.stderr).unwrap();
        (run["report"]["n_prepared"].as_u64().unwrap(), notes)
    };
    for i in 0..3 {
        let (n_prepared, notes) = infer();
        assert_eq!(n_prepared, 1);
        assert_eq!(
            notes.contains("1 kept inference was dropped"),
            i == 0,
            "{notes}"
        );
        assert_eq!(kept(&store).len(), 3);
    }
    // It works again, and some time has passed.
    switch.restart_as(&works);
    let folder = kept(&store)[0].parent().unwrap().to_owned();
    std::fs::write(folder.join("paused"), "1 60").unwrap();
    assert_eq!(infer(), (0, String::new()));
    assert_eq!(kept(&store).len(), 2);
    assert!(!folder.join("paused").exists());
}

#[tokio::test]
async fn what_is_on_the_disk_is_a_success_if_only_the_goodbye_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let switch = Switch::to(&keeping_server(dir.path()));
    let config = Config {
        store: Some(dir.path().join("client")),
        ..Config::new(&switch.url)
    };
    let client = Client::connect(config).await.unwrap();
    client.save(6).await.unwrap();
    // From here on nobody answers.
    switch.restart_as("http://127.0.0.1:1");
    assert_eq!(client.n_kept().unwrap(), 6);
    assert_eq!(client.close().await.unwrap().n_prepared, 6);
}

#[test]
fn all_that_wait_are_counted_and_what_waits_under_another_address_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let url = keeping_server(dir.path());
    let store = dir.path().join("client");
    said(&call(&["prepare", &url, "-n", "2", "--batch", "2"], &store));
    said(&call(&["prepare", &url, "-n", "3", "--batch", "3"], &store));
    let text = said(&call(&["prepare", &url, "-n", "0"], &store));
    assert!(text.starts_with("5 inferences"), "{text}");
    // Another spelling is the same address, another name is not, and costs nothing.
    let text = said(&call(&["prepare", &format!("{url}/"), "-n", "0"], &store));
    assert!(text.starts_with("5 inferences"), "{text}");
    let named = url.replace("127.0.0.1", "localhost");
    let image = png(dir.path(), "a.png", 8).display().to_string();
    for args in [
        ["prepare", &named, "-n", "0"],
        ["infer", "--server", &named, &image],
    ] {
        let output = call(&args, &store);
        said(&output);
        let notes = String::from_utf8(output.stderr).unwrap();
        let words = format!("5 kept inferences of this model wait under {url}");
        assert_eq!(notes.matches(&words).count(), 1, "{notes}");
    }
    assert_eq!(kept(&store).len(), 5);
}
