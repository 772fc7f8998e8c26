//! Files of prepared inferences: names, use, and what becomes of the others.

use super::*;

#[test]
fn the_key_is_private_made_once_and_refused_when_others_can_read_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    let key = load_key(&path).unwrap();
    assert_eq!(*load_key(&path).unwrap(), *key);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let said = load_key(&path).unwrap_err().to_string();
        assert!(said.contains("chmod 600"), "{said}");
    }
}

#[test]
fn a_file_is_claimed_once_and_what_has_expired_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), "http://a", "m").unwrap();
    let name = format!("{}-4-aa.{WAITING}", now_s() + 1000);
    let old = format!("{}-4-bb.{WAITING}", now_s() - 1);
    for name in [&name, &old] {
        fs::write(store.folder.join(name), "sealed").unwrap();
    }
    let waiting = Some(Waiting { n: 1, batch: 4 });
    assert_eq!(store.waiting(|_| true).unwrap(), waiting);
    assert_eq!(store.waiting(|batch| batch < 4).unwrap(), None);
    assert!(!store.folder.join(&old).exists());
    assert_eq!(store.read(&name).unwrap(), Some(b"sealed".to_vec()));
    assert!(store.claim(&name).unwrap());
    assert!(!store.claim(&name).unwrap());
    assert_eq!(store.read(&name).unwrap(), None);
    assert_eq!(store.n_waiting().unwrap(), 0);
    assert!(Item::parse("key").is_none());
}

#[test]
fn the_others_are_removed_only_if_the_server_lacks_its_half() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), "http://a", "m").unwrap();
    for label in ["aa", "bb"] {
        let name = format!("{}-4-{label}.{WAITING}", now_s() + 1000);
        fs::write(store.folder.join(name), "sealed").unwrap();
    }
    let settle = |error: pi_protocol::Error| {
        let note = store.settle(&error.into()).unwrap();
        (note, store.n_waiting().unwrap())
    };
    let kept = pi_protocol::Error::Kept;
    for (why, note) in [
        (KeepError::OtherModel, Note::KeptRefused),
        (KeepError::Damaged, Note::KeptRefused),
        (KeepError::Unavailable, Note::KeptNotLookedFor),
        (KeepError::Full, Note::KeptNotLookedFor),
    ] {
        assert_eq!(settle(kept(why)), (Some(note), 2));
    }
    let broken = pi_protocol::Error::Channel("cut".into());
    assert_eq!(settle(broken), (None, 2));
    let gone = Note::KeptGone { n: 3 };
    assert_eq!(settle(kept(KeepError::NotThere)), (Some(gone), 0));
}

#[test]
fn what_waits_under_another_address_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let there = Store::open(dir.path(), "http://localhost:5", "m").unwrap();
    for (model, url) in [("m", "http://a"), ("other", "http://localhost:5")] {
        Store::open(dir.path(), url, model).unwrap();
    }
    let name = format!("{}-4-aa.{WAITING}", now_s() + 1000);
    fs::write(there.folder.join(name), "sealed").unwrap();
    let found = |url| Store::elsewhere(dir.path(), url, "m");
    assert_eq!(
        found("http://127.0.0.1:5"),
        [("http://localhost:5".into(), 1)]
    );
    assert_eq!(found("http://LOCALHOST:5/"), []);
    assert_eq!(
        Store::elsewhere(dir.path(), "http://127.0.0.1:5", "other"),
        []
    );
    let same = Store::open(dir.path(), "http://LocalHost:5/", "m").unwrap();
    assert_eq!(same.n_waiting().unwrap(), 1);
}
