//! Kept inferences across processes: a restart, full and missing stores, limits, replaced weights, and a server that is
//! killed again and again.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;
#[path = "common/kept.rs"]
mod kept;
#[path = "../src/store/shared/testing.rs"]
mod testing;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kept::{Caller, Process, key_file};
use pi_model::Model;
use pi_model::spec::OutputMode;
use pi_proto::GrpcChannel;
use pi_protocol::Error;
use pi_protocol::client::{ClientSession, Prepared};
use pi_protocol::kept::{ItemId, KeepError};
use pi_protocol::wire::Step;
use pi_server::store::shared::Shared;
use pi_server::store::{Fate, StoreOptions};
use pi_server::{Mode, RootOptions};

type Session = ClientSession<GrpcChannel>;

struct Place {
    _dir: tempfile::TempDir,
    model: Model,
    folder: PathBuf,
    store: PathBuf,
    key: PathBuf,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let model = common::model("small", OutputMode::Logits);
        let folder = dir.path().join("model");
        model.save(&folder).unwrap();
        Self {
            model,
            folder,
            store: dir.path().join("kept"),
            key: key_file(dir.path()),
            _dir: dir,
        }
    }

    fn serve(&self, more: &[&str]) -> Process {
        self.limited(more, None)
    }

    fn limited(&self, more: &[&str], limit: Option<u64>) -> Process {
        let store = self.store.to_str().unwrap();
        Process::start(&self.folder, store, &self.key, more, limit)
    }

    fn options(&self) -> StoreOptions {
        StoreOptions {
            at: self.store.to_str().unwrap().into(),
            key_file: Some(self.key.clone()),
            ..StoreOptions::default()
        }
    }

    /// What becomes of a server that cannot start.
    fn fails(&self, store: &Path, key: &Path) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pi-server"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "off"]);
        command.arg("--model").arg(&self.folder);
        command
            .arg("--store")
            .arg(store)
            .arg("--store-key-file")
            .arg(key);
        let output = command.stdin(Stdio::null()).output().unwrap();
        assert!(!output.status.success());
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!said.contains("panicked"), "{said}");
        said
    }
}

fn bytes(prepared: Vec<Prepared>, caller: &Caller) -> Vec<Vec<u8>> {
    let halves = prepared.into_iter();
    let bytes = halves.map(|p| p.into_secret_bytes(&caller.plan).unwrap().to_vec());
    bytes.collect()
}

fn load(bytes: &[u8], caller: &Caller) -> Prepared {
    Prepared::from_secret_bytes(bytes, &caller.plan).unwrap()
}

#[test]
fn a_restart_keeps_what_was_prepared_for_one_use() {
    let place = Place::new();
    let caller = Caller::new(&place.model, 2);
    let image = common::image(&place.model, 3);
    let server = place.serve(&[]);
    let mut session = caller.session(&server.url).unwrap();
    let halves = bytes(session.prepare_kept().unwrap(), &caller);
    // A session that is open when the server stops.
    server.stop();
    drop(session);

    let server = place.serve(&[]);
    let said = place.fails(&place.store, &place.key);
    assert!(said.contains("another process uses the store"), "{said}");
    let mut session = caller.online(&server.url).unwrap();
    for half in &halves {
        let output = session.infer(load(half, &caller), &image).unwrap();
        common::assert_close(&place.model, &image, &output);
        let again = session.infer(load(half, &caller), &image);
        assert!(
            matches!(again, Err(Error::Kept(KeepError::NotThere))),
            "{again:?}"
        );
    }
    session.close().unwrap();
    server.stop();
}

#[test]
fn a_store_that_cannot_be_used_is_refused_with_advice() {
    let place = Place::new();
    let said = place.fails(&place.folder, &place.key);
    assert!(said.contains("does not work"), "{said}");
    let said = place.fails(&place.store.join("no/such"), &place.key);
    assert!(said.contains("no/such"), "{said}");
    let said = place.fails(&place.store, &place.store.join("key"));
    assert!(said.contains("openssl rand"), "{said}");
    std::fs::write(&place.store, "notes of mine").unwrap();
    let said = place.fails(&place.store, &place.key);
    assert!(said.contains("does not work"), "{said}");
    let output = Command::new(env!("CARGO_BIN_EXE_pi-server"))
        .args(["serve", "--store-key-file", "x", "--model", "y"])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("store must be given"), "{said}");
}

#[test]
fn an_identity_that_holds_enough_is_told_when_to_try_again() {
    let place = Place::new();
    let caller = Caller::new(&place.model, 2);
    let image = common::image(&place.model, 4);
    let limits = ["--store-size-per-identity", "1", "--store-time", "10m"];
    let server = place.serve(&limits);
    let mut session = caller.session(&server.url).unwrap();
    let mut n_kept = 0;
    let refused = loop {
        match session.prepare_kept() {
            Ok(batch) => n_kept += batch.len(),
            Err(error) => break error.to_string(),
        }
        assert!(n_kept < 1000);
    };
    assert!(n_kept > 0);
    assert!(
        refused.contains("ResourceExhausted") && refused.contains("try again in"),
        "{refused}"
    );
    // Who keeps nothing is not concerned.
    let mut session = caller.session(&server.url).unwrap();
    let own = session.prepare().unwrap().remove(0);
    session.infer(own, &image).unwrap();
    session.close().unwrap();
    server.stop();
}

#[test]
fn a_full_disk_stops_keeping_and_nothing_else() {
    let place = Place::new();
    let caller = Caller::new(&place.model, 2);
    let image = common::image(&place.model, 5);
    place.serve(&[]).stop();
    let blocks = std::fs::metadata(&place.store).unwrap().len() / 512;
    let server = place.limited(&[], Some(blocks + 100));
    let mut session = caller.session(&server.url).unwrap();
    let mut halves = vec![];
    let refused = loop {
        match session.prepare_kept() {
            Ok(batch) => halves.extend(bytes(batch, &caller)),
            Err(error) => break error,
        }
        assert!(halves.len() < 1000);
    };
    assert!(
        matches!(refused, Error::Kept(KeepError::Unavailable)),
        "{refused}"
    );
    let own = session.prepare().unwrap().remove(0);
    let output = session.infer(own, &image).unwrap();
    common::assert_close(&place.model, &image, &output);
    session.close().unwrap();
    server.stop();
    // With room again, what was kept before is there.
    let server = place.serve(&[]);
    let mut session = caller.session(&server.url).unwrap();
    for half in &halves {
        session.infer(load(half, &caller), &image).unwrap();
    }
    session.prepare_kept().unwrap();
    session.close().unwrap();
    server.stop();
}

#[test]
fn replicas_answer_with_what_the_other_prepared() {
    let Some(database) = testing::Database::start() else {
        return;
    };
    let place = Place::new();
    let caller = Caller::new(&place.model, 2);
    let image = common::image(&place.model, 8);
    let serve = || Process::start(&place.folder, &database.url(), &place.key, &[], None);
    let (one, other) = (serve(), serve());
    let mut session = caller.session(&one.url).unwrap();
    let halves = bytes(session.prepare_kept().unwrap(), &caller);
    let mut elsewhere = caller.online(&other.url).unwrap();
    for half in &halves {
        let output = elsewhere.infer(load(half, &caller), &image).unwrap();
        common::assert_close(&place.model, &image, &output);
        let again = session.infer(load(half, &caller), &image);
        assert!(
            matches!(again, Err(Error::Kept(KeepError::NotThere))),
            "{again:?}"
        );
    }
    session.close().unwrap();
    elsewhere.close().unwrap();
    // The replica that prepared is gone, and what it prepared is not.
    let mut session = caller.session(&one.url).unwrap();
    let halves = bytes(session.prepare_kept().unwrap(), &caller);
    let mut one = one;
    one.kill();
    let mut session = caller.online(&other.url).unwrap();
    session.infer(load(&halves[1], &caller), &image).unwrap();
    session.close().unwrap();
    other.stop();
}

/// The same public model with other weights.
fn retrained(model: &Model) -> Model {
    let graph = model.public().graph();
    let convs = graph.layers.iter().flat_map(|l| &l.convs);
    let weights = convs.map(|conv| {
        let mut weights = model.weights(conv).clone();
        weights.weight[0] ^= 1;
        (conv.op.clone(), weights)
    });
    let layers = graph.layers.iter();
    let masks = layers.filter_map(|l| Some((l.name.clone(), l.relu.clone()?)));
    let spec = model.public().spec().clone();
    Model::new(spec, masks.collect(), weights.collect()).unwrap()
}

#[test]
fn replaced_weights_take_what_was_kept_for_them_along() {
    let place = Place::new();
    let root = tempfile::tempdir().unwrap();
    let version = |n: u32| root.path().join(format!("small/{n}"));
    place.model.save(&version(1)).unwrap();
    let mut server = common::TestServer::with(OutputMode::Logits, |options| {
        options.models.clear();
        options.repository = Some(RootOptions {
            path: root.path().to_owned(),
            mode: Mode::Poll,
            interval: Duration::from_millis(100),
            load: vec![],
            versions: Default::default(),
        });
        options.admin = pi_server::AdminListen::At(([127, 0, 0, 1], 0).into());
        options.store = Some(place.options());
    });
    let admin = server.admin.unwrap();
    let shows = |line: &str| {
        let patience = Instant::now() + Duration::from_secs(20);
        loop {
            let text = common::http(admin, "GET", "/metrics").1;
            if text.lines().any(|l| l == line) {
                return;
            }
            assert!(Instant::now() < patience, "{line} is not in\n{text}");
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    let caller = Caller::new(&place.model, 2);
    let image = common::image(&place.model, 6);
    let mut session = caller.session(&server.url).unwrap();
    let mut halves = session.prepare_kept().unwrap();
    shows("pi_kept_items 2");
    shows("pi_kept_total{event=\"put\"} 2");
    session.infer(halves.remove(0), &image).unwrap();
    shows("pi_kept_total{event=\"take\"} 1");
    shows("pi_kept_items 1");
    retrained(&place.model).save(&version(2)).unwrap();
    shows("pi_kept_items 0");
    // It went with its weights: that says nothing of the client's other halves.
    let late = session.infer(halves.remove(0), &image);
    assert!(
        matches!(late, Err(Error::Kept(KeepError::OtherModel))),
        "{late:?}"
    );
    shows("pi_kept_total{event=\"miss\"} 1");
    session.close().unwrap();
    server.stop();
}

/// One kept inference, as a client that wrongly has a copy of its half sees it.
struct Item {
    half: Vec<u8>,
    id: ItemId,
    /// Times that the server let it be used.
    n_given: usize,
    /// The server said that it is not there.
    missed: bool,
}

fn n_found(session: &Session) -> u64 {
    let found = session.ledger().traffic().find(|(s, ..)| *s == Step::Found);
    found.map_or(0, |(.., t)| t.n_messages)
}

/// Tries `item`; an error is that of the session.
fn attempt(
    session: &mut Session,
    item: &mut Item,
    caller: &Caller,
    (model, image): (&Model, &[i64]),
) -> Result<(), Error> {
    let before = n_found(session);
    match session.infer(load(&item.half, caller), image) {
        Ok(output) => {
            item.n_given += 1;
            common::assert_close(model, image, &output);
            Ok(())
        }
        Err(Error::Kept(KeepError::NotThere)) => {
            item.missed = true;
            Ok(())
        }
        Err(error) => {
            item.n_given += (n_found(session) - before) as usize;
            Err(error)
        }
    }
}

#[test]
fn a_server_that_is_killed_again_and_again_gives_nothing_out_twice() {
    const TIME: Duration = Duration::from_secs(20);
    let place = Place::new();
    let caller = Caller::new(&place.model, 2);
    let image = common::image(&place.model, 7);
    let against = (&place.model, &image[..]);
    let items: Mutex<Vec<Item>> = Mutex::default();
    let (started, mut n_rounds) = (Instant::now(), 0);
    while started.elapsed() < TIME {
        n_rounds += 1;
        let mut server = place.serve(&["--admin-listen", "off"]);
        let url = server.url.clone();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let work = || -> Result<(), Error> {
                    // All that went wrong before, tried with the copies.
                    let mut session = caller.online(&url)?;
                    for item in items.lock().unwrap().iter_mut().rev().take(8) {
                        attempt(&mut session, item, &caller, against)?;
                    }
                    let mut session = caller.session(&url)?;
                    while !over.load(Ordering::Relaxed) {
                        let fresh = session.prepare_kept()?;
                        let mut items = items.lock().unwrap();
                        let n = items.len();
                        for prepared in fresh {
                            let id = *prepared.kept_id().unwrap();
                            let half = prepared.into_secret_bytes(&caller.plan)?.to_vec();
                            items.push(Item {
                                half,
                                id,
                                n_given: 0,
                                missed: false,
                            });
                        }
                        // One of the two now; the other is left for later, or for ever.
                        attempt(&mut session, &mut items[n], &caller, against)?;
                    }
                    Ok(())
                };
                if let Err(error) = work() {
                    assert!(matches!(error, Error::Channel(_)), "{error}");
                }
            });
            std::thread::sleep(Duration::from_millis(rand::random_range(20..700)));
            server.kill();
            over.store(true, Ordering::Relaxed);
        });
    }
    let mut items = items.into_inner().unwrap();
    let server = place.serve(&["--admin-listen", "off"]);
    let mut session = caller.online(&server.url).unwrap();
    for item in items.iter_mut().step_by(2) {
        attempt(&mut session, item, &caller, against).unwrap();
    }
    session.close().unwrap();
    server.stop();
    let vault = place.options().open().unwrap();
    let mut n = [0; 3];
    for item in &items {
        assert!(item.n_given <= 1, "given out {} times", item.n_given);
        let fate = vault.fate("anonymous", &item.id).unwrap();
        let (kind, due) = match (item.n_given, item.missed) {
            (1, _) => (0, fate == Fate::Taken),
            // Nobody had it, and it is gone: the crash came between the store and the wire.
            (_, true) => (1, fate == Fate::Taken),
            _ => (2, matches!(fate, Fate::Held | Fate::Taken)),
        };
        n[kind] += 1;
        assert!(
            due,
            "given {} times, missed {}: {fate:?}",
            item.n_given, item.missed
        );
    }
    eprintln!(
        "{n_rounds} crashes; {} used once, {} used up in vain, {} left",
        n[0], n[1], n[2]
    );
    assert!(
        n_rounds > 5 && n[0] > 5 && n[2] > 0,
        "{n_rounds} rounds, {n:?}"
    );
}
