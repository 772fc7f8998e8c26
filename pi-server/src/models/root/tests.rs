use super::*;
use crate::models::repository::{ModelStatus, Terms};
use crate::options::Limits;
use pi_model::random::residual_network;
use pi_model::spec::OutputMode;

fn model(name: &str, n_relus: usize) -> pi_model::Model {
    residual_network(name, [3, 8, 8], &[4, 8], 1, 5, n_relus, OutputMode::Logits).unwrap()
}

struct Fixture {
    dir: tempfile::TempDir,
    repository: Arc<Repository>,
    metrics: Arc<Metrics>,
}

impl Fixture {
    fn new() -> Self {
        let terms = Terms {
            max_batch: 1,
            packing_bandwidth: 100_000_000,
            limits: Limits::default(),
        };
        Self {
            dir: tempfile::tempdir().unwrap(),
            repository: Arc::new(Repository::load(&[], terms).unwrap()),
            metrics: Arc::default(),
        }
    }

    fn save(&self, folder: &str, name: &str, n_relus: usize) {
        model(name, n_relus)
            .save(&self.dir.path().join(folder))
            .unwrap();
    }

    fn open(&self, mode: Mode, load: &[&str]) -> Root {
        self.pinned(mode, load, BTreeMap::new())
    }

    fn pinned(&self, mode: Mode, load: &[&str], versions: BTreeMap<String, Vec<u64>>) -> Root {
        let options = RootOptions {
            path: self.dir.path().to_owned(),
            mode,
            interval: Duration::from_secs(1),
            load: load.iter().map(ToString::to_string).collect(),
            versions,
        };
        Root::open(
            options,
            Arc::clone(&self.repository),
            Arc::clone(&self.metrics),
        )
        .unwrap()
    }

    fn one(&self, name: &str) -> ModelStatus {
        let status = self.repository.status();
        status.into_iter().find(|m| m.name == name).unwrap()
    }

    fn versions(&self) -> Vec<(String, Option<u64>)> {
        let status = self.repository.status();
        status
            .into_iter()
            .filter(|m| m.ready)
            .map(|m| (m.name, m.version))
            .collect()
    }
}

fn served(all: &[(&str, u64)]) -> Vec<(String, Option<u64>)> {
    all.iter()
        .map(|(name, v)| ((*name).to_owned(), Some(*v)))
        .collect()
}

#[test]
fn the_highest_version_serves_and_a_broken_one_is_reported_once() {
    let all = Fixture::new();
    all.save("b/1", "b", 50);
    all.save("a/1", "a", 50);
    all.save("a/2", "a", 60);
    all.save("a/10", "a", 70);
    std::fs::write(all.dir.path().join("a/10/model.safetensors"), "broken").unwrap();
    for folder in ["a/007", "a/next", "c", ".git/1"] {
        std::fs::create_dir_all(all.dir.path().join(folder)).unwrap();
    }
    let root = all.open(Mode::Poll, &[]);
    assert_eq!(all.versions(), served(&[("a", 2), ("b", 1)]));
    let a = all.one("a");
    assert!(
        a.problems[0].starts_with("version 10: ") && a.problems[0].contains("model.safetensors"),
        "{a:?}"
    );
    let c = all.one("c");
    assert!(!c.ready && c.problems[0].contains("no version"), "{c:?}");
    root.refresh();
    let text = all.metrics.text(0, 0, 0, false);
    assert!(
        text.contains("pi_model_load_failures_total{model=\"a\"} 1\n"),
        "{text}"
    );

    // Mended, it takes over; who holds the old version keeps it.
    let before = all.repository.find("a").unwrap();
    all.save("a/10", "a", 70);
    root.refresh();
    assert_eq!(all.versions(), served(&[("a", 10), ("b", 1)]));
    assert!(all.one("a").problems.is_empty());
    let n_relus = |s: &Served| s.plan(1).unwrap().public().graph().n_relus();
    assert_ne!(
        n_relus(&before),
        n_relus(&all.repository.find("a").unwrap())
    );
    assert_eq!(before.version(), Some(2));

    // Taken away, the one below serves again; with its folder the model goes.
    std::fs::remove_dir_all(all.dir.path().join("a/10")).unwrap();
    std::fs::remove_dir_all(all.dir.path().join("b")).unwrap();
    root.refresh();
    assert_eq!(all.versions(), served(&[("a", 2)]));
    // The whole root away for a moment takes nothing away.
    let (path, aside) = (
        all.dir.path().to_owned(),
        all.dir.path().with_extension("aside"),
    );
    std::fs::rename(&path, &aside).unwrap();
    root.refresh();
    std::fs::rename(&aside, &path).unwrap();
    assert_eq!(all.versions(), served(&[("a", 2)]));
}

#[test]
fn a_folder_of_another_name_and_one_that_is_mounted_already_are_broken() {
    let all = Fixture::new();
    all.save("a/1", "other", 50);
    let mounted = all.dir.path().join(".mounted");
    model("m", 50).save(&mounted).unwrap();
    all.save("m/1", "m", 60);
    let terms = *all.repository.terms();
    let all = Fixture {
        repository: Arc::new(Repository::load(&[mounted], terms).unwrap()),
        ..all
    };
    let _root = all.open(Mode::None, &[]);
    assert!(all.one("a").problems[0].contains("make them the same"));
    let m = all.one("m");
    assert!(
        m.ready && m.version.is_none() && m.problems[0].contains("mounted"),
        "{m:?}"
    );
    assert_eq!(all.repository.names(), ["m"]);
}

#[test]
fn explicit_loads_what_is_told_and_no_path_outside() {
    let all = Fixture::new();
    all.save("a/1", "a", 50);
    all.save("b/1", "b", 50);
    let root = all.open(Mode::Explicit, &["b"]);
    assert_eq!(all.versions(), served(&[("b", 1)]));
    root.load("a").unwrap();
    assert_eq!(all.versions(), served(&[("a", 1), ("b", 1)]));
    all.save("a/2", "a", 60);
    root.load("a").unwrap();
    root.unload("b").unwrap();
    assert_eq!(all.versions(), served(&[("a", 2)]));
    std::fs::write(all.dir.path().join("a/2/model.json"), "{}").unwrap();
    assert!(root.load("a").unwrap_err().contains("version 2"));
    root.refresh();
    assert_eq!(all.versions(), served(&[("a", 2)]));
    std::fs::remove_dir_all(all.dir.path().join("a/2")).unwrap();
    root.refresh();
    assert_eq!(all.versions(), served(&[("a", 1)]));
    for name in ["..", "../a", "", "no", "a/1", "."] {
        assert!(root.load(name).is_err(), "{name}");
    }
    assert!(root.unload("b").is_err());
    assert!(
        all.open(Mode::Poll, &[])
            .load("a")
            .unwrap_err()
            .contains("explicit")
    );
}

#[test]
fn versions_that_are_named_serve_and_no_others() {
    let all = Fixture::new();
    for version in [1, 2, 3] {
        all.save(&format!("a/{version}"), "a", 50);
        all.save(&format!("b/{version}"), "b", 50);
    }
    let pin = |versions: &[u64]| BTreeMap::from([("a".to_owned(), versions.to_vec())]);
    let root = all.pinned(Mode::Poll, &[], pin(&[1, 2]));
    assert_eq!(all.versions(), served(&[("a", 2), ("b", 3)]));
    std::fs::remove_dir_all(all.dir.path().join("a/2")).unwrap();
    root.refresh();
    assert_eq!(all.versions(), served(&[("a", 1), ("b", 3)]));
    drop(all.pinned(Mode::Poll, &[], pin(&[9])));
    assert!(all.one("a").problems[0].contains("--model-version"));
}
