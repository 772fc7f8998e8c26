//! What every store must do, tried on both; and what the vault does with one.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use pi_protocol::kept::{Handle, ItemId, KeepError};
use zeroize::Zeroizing;

use super::contract::now_s;
use super::embedded::Embedded;
use super::shared::Shared;
use super::shared::testing::Database;
use super::vault::TakeError;
use super::*;

const WIDE: Bounds = Bounds {
    total_bytes: 1 << 20,
    owner_bytes: 1 << 20,
};

fn row(key: u8, owner: u8, expires_s: u64) -> Row {
    Row {
        key: [key; 32],
        owner: [owner; 16],
        weights: [owner ^ 0xf0; 16],
        expires_s,
        sealed: vec![key; 100],
    }
}

fn full(outcome: Result<(), StoreError>) -> bool {
    match outcome {
        Err(StoreError::Full { of_owner }) => of_owner,
        other => panic!("{other:?}"),
    }
}

fn contract(store: &dyn PreparedStore) {
    let now = now_s();
    let (soon, later) = (now + 100, now + 1000);
    store
        .put(&[row(1, 1, later), row(2, 1, soon)], &WIDE)
        .unwrap();
    store.put(&[row(3, 2, later)], &WIDE).unwrap();
    let held = store.held(Some(&[1; 16])).unwrap();
    assert_eq!((held.n_items, held.n_bytes), (2, 200));
    assert_eq!(held.next_expiry_s, soon);
    assert_eq!(store.held(None).unwrap().n_bytes, 300);
    assert_eq!(store.held(Some(&[9; 16])).unwrap(), Held::default());

    // Once, whole, and with a trace.
    assert!(store.take(&[1; 32], now).unwrap() == Some(row(1, 1, later)));
    assert!(store.take(&[1; 32], now).unwrap().is_none());
    assert_eq!(store.fate(&[1; 32]).unwrap(), Fate::Taken);
    assert_eq!(store.fate(&[2; 32]).unwrap(), Fate::Held);
    assert_eq!(store.fate(&[7; 32]).unwrap(), Fate::Unknown);
    assert!(store.take(&[7; 32], now).unwrap().is_none());

    // A name that is there, or was, is refused with all that came with it.
    for old in [1, 2] {
        assert!(
            store
                .put(&[row(8, 1, later), row(old, 1, later)], &WIDE)
                .is_err()
        );
        assert_eq!(store.fate(&[8; 32]).unwrap(), Fate::Unknown);
    }

    // Bounds of one and of all.
    let narrow = Bounds {
        total_bytes: 350,
        owner_bytes: 200,
    };
    assert!(full(
        store.put(&[row(4, 1, later), row(5, 1, later)], &narrow)
    ));
    assert!(!full(
        store.put(&[row(4, 3, later), row(5, 3, later)], &narrow)
    ));
    assert_eq!(store.held(None).unwrap().n_items, 2);

    // What has expired is not given out, whether or not anybody tidied up.
    assert!(store.take(&[2; 32], soon).unwrap().is_none());
    store.put(&[row(6, 1, soon)], &WIDE).unwrap();
    let n = store.expire(soon).unwrap();
    assert!((1..=2).contains(&n), "{n}");
    for key in [2, 6] {
        assert_eq!(store.fate(&[key; 32]).unwrap(), Fate::Expired);
    }

    // Weights that were replaced.
    assert_eq!(store.purge(&[2 ^ 0xf0; 16]).unwrap(), 1);
    assert_eq!(store.fate(&[3; 32]).unwrap(), Fate::Purged);
    assert_eq!(store.held(None).unwrap(), Held::default());

    // Traces are forgotten in the end.
    assert_eq!(store.expire(later + 200_000).unwrap(), 0);
    assert_eq!(store.fate(&[1; 32]).unwrap(), Fate::Unknown);
    assert_eq!(store.expire(later + 200_000).unwrap(), 0);
}

/// Many takers of each row, one of whom gets it.
fn contended(stores: &[&dyn PreparedStore]) {
    let later = now_s() + 1000;
    let rows: Vec<Row> = (100..140).map(|key| row(key, 4, later)).collect();
    stores[0].put(&rows, &WIDE).unwrap();
    let n_taken = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for i in 0..4 {
            let (store, rows, n_taken) = (stores[i % stores.len()], &rows, &n_taken);
            scope.spawn(move || {
                for row in rows {
                    if store.take(&row.key, 0).unwrap().is_some() {
                        n_taken.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert_eq!(n_taken.into_inner(), rows.len());
}

#[test]
fn a_file_keeps_the_contract_and_what_it_holds() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kept");
    let store = Embedded::open(&path).unwrap();
    contract(&store);
    contended(&[&store]);
    let later = now_s() + 1000;
    store
        .put(&[row(1, 1, later), row(2, 1, later)], &WIDE)
        .unwrap();
    store.take(&[2; 32], 0).unwrap().unwrap();
    let said = Embedded::open(&path).err().unwrap();
    assert!(matches!(said, StoreError::Locked(_)), "{said}");
    drop(store);
    let store = Embedded::open(&path).unwrap();
    assert_eq!(store.held(None).unwrap().n_items, 1);
    assert!(store.take(&[2; 32], 0).unwrap().is_none());
    assert_eq!(store.fate(&[2; 32]).unwrap(), Fate::Taken);
    assert!(store.take(&[1; 32], 0).unwrap().is_some());
    assert!(!store.is_shared());
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[test]
fn what_is_no_store_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("notes");
    std::fs::write(&file, "no store").unwrap();
    for path in [dir.path(), &file, &dir.path().join("no/such")] {
        let said = Embedded::open(path).err().unwrap().to_string();
        assert!(said.contains(path.to_str().unwrap()), "{said}");
    }
    assert_eq!(std::fs::read(&file).unwrap(), b"no store");
    for (url, hint) in [
        ("postgres://user:word@localhost/kept", "PGPASSWORD"),
        ("postgres://user@db.example.com/kept", "--store-ca"),
        (
            "postgres://user@localhost/kept?hostaddr=192.0.2.1",
            "--store-ca",
        ),
        ("postgres:///kept?user=u&hostaddr=192.0.2.1", "--store-ca"),
        (
            "postgres://user@localhost,db.example.com/kept",
            "--store-ca",
        ),
        ("postgres://user@[/kept", "postgres://USER"),
    ] {
        let said = Shared::open(url, None).err().unwrap().to_string();
        assert!(said.contains(hint) && !said.contains("word@"), "{said}");
    }
    let ca = Shared::open("postgres://user@db.example.com/kept", Some(&file));
    let said = ca.err().unwrap().to_string();
    assert!(said.contains("no certificate"), "{said}");
}

#[test]
fn a_database_keeps_the_contract_between_replicas_and_comes_back() {
    let Some(mut database) = Database::start() else {
        return;
    };
    let open = || Shared::open(&database.url(), None).unwrap();
    let (one, other) = (open(), open());
    contract(&one);
    contended(&[&one, &other]);
    let later = now_s() + 1000;
    one.put(&[row(1, 1, later), row(2, 1, later)], &WIDE)
        .unwrap();
    other.take(&[1; 32], 0).unwrap().unwrap();
    database.down("KILL");
    let said = one.take(&[2; 32], 0).err().unwrap();
    assert!(matches!(said, StoreError::Failed { .. }), "{said}");
    database.up();
    assert!(one.take(&[1; 32], 0).unwrap().is_none());
    assert_eq!(one.fate(&[1; 32]).unwrap(), Fate::Taken);
    assert!(other.take(&[2; 32], 0).unwrap().is_some());
    assert!(one.is_shared());
}

/// A store that lies: it gives out any row for any key.
#[derive(Default)]
struct Liar(Mutex<Vec<Row>>);

impl PreparedStore for Arc<Liar> {
    fn begin(&self, _check: &[u8; 32]) -> Result<(), StoreError> {
        Ok(())
    }
    fn put(&self, rows: &[Row], _bounds: &Bounds) -> Result<(), StoreError> {
        self.0.lock().unwrap().extend_from_slice(rows);
        Ok(())
    }
    fn take(&self, _key: &RowKey, _now_s: u64) -> Result<Option<Row>, StoreError> {
        Ok(self.0.lock().unwrap().first().cloned())
    }
    fn held(&self, _owner: Option<&Pseudonym>) -> Result<Held, StoreError> {
        Ok(Held::default())
    }
    fn expire(&self, _now_s: u64) -> Result<u64, StoreError> {
        Ok(0)
    }
    fn purge(&self, _weights: &Pseudonym) -> Result<u64, StoreError> {
        Ok(0)
    }
    fn fate(&self, _key: &RowKey) -> Result<Fate, StoreError> {
        Ok(Fate::Unknown)
    }
    fn is_shared(&self) -> bool {
        false
    }
}

fn vault(store: impl PreparedStore + 'static, key: u8, keep_for: u64) -> Vault {
    let keep_for = Duration::from_secs(keep_for);
    Vault::new(Box::new(store), &Zeroizing::new([key; 32]), keep_for, WIDE)
}

fn deposit(owner: &str, weights: u8) -> Deposit {
    Deposit {
        owner: owner.into(),
        model: "small".into(),
        weights: [weights; 32],
    }
}

fn item(index: usize) -> (ItemId, Zeroizing<Vec<u8>>) {
    let id = Handle::from_bytes([3; 32]).item(index);
    (id, Zeroizing::new(vec![0x5a; 64]))
}

fn why(taken: Result<Zeroizing<Vec<u8>>, TakeError>) -> KeepError {
    match taken {
        Err(TakeError::Keep(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_item_is_for_one_identity_one_model_and_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let open = |name: &str| Embedded::open(&dir.path().join(name)).unwrap();
    let safe = vault(open("a"), 1, 100);
    let alice = deposit("alice", 1);
    safe.put(&alice, vec![item(0), item(1)]).unwrap();
    // Another identity does not find it, and does not use it up.
    assert_eq!(
        why(safe.take(&deposit("bob", 1), &item(0).0)),
        KeepError::NotThere
    );
    assert_eq!(safe.fate("alice", &item(0).0).unwrap(), Fate::Held);
    assert_eq!(safe.held(Some("alice")).unwrap().n_items, 2);
    assert_eq!(safe.held(Some("bob")).unwrap().n_items, 0);
    assert_eq!(*safe.take(&alice, &item(0).0).unwrap(), *item(0).1);
    assert_eq!(why(safe.take(&alice, &item(0).0)), KeepError::NotThere);
    // Other weights use it up in vain.
    assert_eq!(
        why(safe.take(&deposit("alice", 2), &item(1).0)),
        KeepError::OtherModel
    );
    assert_eq!(safe.fate("alice", &item(1).0).unwrap(), Fate::Taken);
    safe.put(&alice, vec![item(2)]).unwrap();
    assert_eq!(safe.purge(&[1; 32]).unwrap(), 1);
    // Removed with its weights, never used: the client need not give up its other halves.
    assert_eq!(why(safe.take(&alice, &item(2).0)), KeepError::OtherModel);
    safe.room("alice", 10, 1000).unwrap();
    assert!(safe.room("alice", 1100, 1000).is_err());

    let short = vault(open("b"), 1, 0);
    short.put(&alice, vec![item(3)]).unwrap();
    assert_eq!(why(short.take(&alice, &item(3).0)), KeepError::NotThere);
    assert_eq!(short.fate("alice", &item(3).0).unwrap(), Fate::Expired);
}

#[test]
fn a_row_shows_nothing_and_cannot_pass_for_another() {
    let liar = Arc::new(Liar::default());
    let safe = vault(Arc::clone(&liar), 1, 100);
    let alice = deposit("alice", 1);
    safe.put(&alice, vec![item(0)]).unwrap();
    let honest = liar.0.lock().unwrap()[0].clone();
    assert!(!honest.sealed.windows(8).any(|w| w == [0x5a; 8]));
    assert!(safe.take(&alice, &item(0).0).is_ok());
    // Another id, identity, model name, key, or a changed row.
    let other_model = Deposit {
        model: "large".into(),
        ..alice.clone()
    };
    let taken = [
        safe.take(&alice, &item(1).0),
        safe.take(&deposit("bob", 1), &item(0).0),
        safe.take(&other_model, &item(0).0),
    ];
    for taken in taken {
        assert_eq!(why(taken), KeepError::Damaged);
    }
    let stranger = vault(Arc::clone(&liar), 2, 100);
    assert!(stranger.take(&alice, &item(0).0).is_err());
    for at in [0, 23, 24, 60, honest.sealed.len() - 1] {
        let mut changed = honest.clone();
        changed.sealed[at] ^= 1;
        *liar.0.lock().unwrap() = vec![changed];
        assert_eq!(why(safe.take(&alice, &item(0).0)), KeepError::Damaged);
    }
    for sealed in [vec![], vec![0; 10]] {
        *liar.0.lock().unwrap() = vec![Row {
            sealed,
            expires_s: honest.expires_s + 1,
            ..honest.clone()
        }];
        assert_eq!(why(safe.take(&alice, &item(0).0)), KeepError::Damaged);
    }
}

#[test]
fn another_key_is_refused_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kept");
    let begin = |key| {
        vault(Embedded::open(&path).unwrap(), key, 100)
            .begun()
            .map(drop)
    };
    begin(1).unwrap();
    begin(1).unwrap();
    let said = begin(2).unwrap_err().to_string();
    assert!(said.contains("another key"), "{said}");
    let Some(database) = Database::start() else {
        return;
    };
    let begin = |key| {
        let store = Shared::new(&database.url(), None).unwrap();
        vault(store, key, 100).begun().map(drop)
    };
    begin(1).unwrap();
    begin(1).unwrap();
    assert!(matches!(begin(2), Err(StoreError::OtherKey(_))));
}

#[test]
fn a_server_starts_without_its_database_and_finds_it_later() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    std::fs::write(&key, "5a".repeat(32)).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    let open = |at: String| {
        let options = StoreOptions {
            at,
            key_file: Some(key.clone()),
            ..StoreOptions::default()
        };
        options.open()
    };
    // Nothing listens there.
    let safe = open("postgres://user@127.0.0.1:1/kept".into()).unwrap();
    let kept = safe.put(&deposit("alice", 1), vec![item(0)]);
    assert!(matches!(kept, Err(StoreError::Failed { .. })));
    let Some(mut database) = Database::start() else {
        return;
    };
    let url = database.url();
    database.down("INT");
    let safe = open(url).unwrap();
    assert!(safe.held(None).is_err());
    database.up();
    safe.put(&deposit("alice", 1), vec![item(0)]).unwrap();
    safe.take(&deposit("alice", 1), &item(0).0).unwrap();
}
