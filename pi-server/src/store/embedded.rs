//! A store in one file, by redb: one process at a time, no other program to run.
//!
//! Every change is one transaction that is on the disk before the method returns. After a crash the file opens as of its last
//! transaction, without a walk over all of it (`quick repair`). After an error of the disk the file is closed and opened anew at
//! the next call, so that a full disk is not for good.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use redb::{
    Database, DatabaseError, Durability, ReadableDatabase as _, ReadableTable as _, Table,
    TableDefinition, WriteTransaction,
};

use super::contract::{
    Bounds, Fate, Held, PreparedStore, Pseudonym, Row, RowKey, StoreError, now_s,
};

/// Sealed items.
const ITEMS: TableDefinition<'_, RowKey, &[u8]> = TableDefinition::new("items 1");
/// Owner, weights, expiry, bytes: what can be read without the item.
const LABELS: TableDefinition<'_, RowKey, Label> = TableDefinition::new("labels 1");
/// Traces: fate, and when to forget it.
const TRACES: TableDefinition<'_, RowKey, (u8, u64)> = TableDefinition::new("traces 1");

/// What the store was begun with: the check of its key.
const BEGUN: TableDefinition<'_, &str, [u8; 32]> = TableDefinition::new("begun 1");

type Label = (Pseudonym, Pseudonym, u64, u64);

/// See the module.
pub struct Embedded {
    path: PathBuf,
    open: Mutex<Option<Open>>,
}

struct Open {
    database: Database,
    /// Counted along with every change: the file has one user.
    held: HashMap<RowKey, Label>,
}

impl Embedded {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// [`StoreError::Locked`] or [`StoreError::Failed`].
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let store = Self {
            path: path.to_owned(),
            open: Mutex::default(),
        };
        let opened = store.opened()?;
        *store.lock() = Some(opened);
        Ok(store)
    }

    fn opened(&self) -> Result<Open, StoreError> {
        let mut builder = Database::builder();
        // Items are read once: nothing to remember.
        builder.set_cache_size(8 << 20);
        let database = builder.create(&self.path).map_err(|e| match e {
            DatabaseError::DatabaseAlreadyOpen => {
                StoreError::Locked(self.path.display().to_string())
            }
            e => self.failed(&e.into()),
        })?;
        private(&self.path);
        let load = || -> Result<HashMap<RowKey, Label>, redb::Error> {
            let change = begin(&database)?;
            change.open_table(ITEMS)?;
            change.open_table(TRACES)?;
            let labels = change.open_table(LABELS)?;
            let mut held = HashMap::new();
            for entry in labels.iter()? {
                let (key, label) = entry?;
                held.insert(key.value(), label.value());
            }
            drop(labels);
            change.commit()?;
            Ok(held)
        };
        let held = load().map_err(|e| self.failed(&e))?;
        Ok(Open { database, held })
    }

    fn lock(&self) -> MutexGuard<'_, Option<Open>> {
        // A thread that panicked changed the file or did not; what is counted is read anew.
        self.open.lock().unwrap_or_else(|poisoned| {
            self.open.clear_poison();
            let mut open = poisoned.into_inner();
            *open = None;
            open
        })
    }

    fn failed(&self, error: &redb::Error) -> StoreError {
        let advice = match error {
            redb::Error::Io(io) => match io.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                    "Make room on its disk; nothing has to be restarted"
                }
                ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                    "Let this user write there, or name another file with --store"
                }
                ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory => {
                    "Make its folder, or name another file with --store"
                }
                ErrorKind::InvalidData => {
                    "It is no store of this server's: name another file with --store"
                }
                _ => "Look at its disk in the system's log",
            },
            _ => {
                "If it is no store, name another file with --store; if it was one, remove it, and clients prepare again"
            }
        };
        StoreError::Failed {
            at: self.path.display().to_string(),
            reason: error.to_string(),
            advice,
        }
    }

    /// Runs `work` on the open file; opens it first where an error has closed it, and closes it at an error.
    fn with<T>(&self, work: impl FnOnce(&mut Open) -> Result<T, Failure>) -> Result<T, StoreError> {
        let mut guard = self.lock();
        let open = match &mut *guard {
            Some(open) => open,
            none => none.insert(self.opened()?),
        };
        work(open).map_err(|failure| match failure {
            Failure::Store(error) => error,
            Failure::Disk(error) => {
                *guard = None;
                self.failed(&error)
            }
        })
    }

    /// Removes the rows that `goes` says, leaving a trace.
    fn remove(
        &self,
        now_s: u64,
        fate: Fate,
        goes: impl Fn(&Label) -> bool,
    ) -> Result<u64, StoreError> {
        self.with(|open| {
            let keys = open.held.iter().filter(|(_, label)| goes(label));
            let keys: Vec<RowKey> = keys.map(|(key, _)| *key).collect();
            if keys.is_empty() && !forgets(&open.database, now_s)? {
                return Ok(0);
            }
            let change = begin(&open.database)?;
            {
                let (mut items, mut labels) =
                    (change.open_table(ITEMS)?, change.open_table(LABELS)?);
                let mut traces = change.open_table(TRACES)?;
                for key in &keys {
                    remove(&mut items, &mut labels, &mut traces, key, fate, now_s)?;
                }
                traces.retain(|_, (_, forget_s)| forget_s > now_s)?;
            }
            change.commit().map_err(redb::Error::from)?;
            for key in &keys {
                open.held.remove(key);
            }
            Ok(keys.len() as u64)
        })
    }
}

enum Failure {
    Store(StoreError),
    Disk(redb::Error),
}

impl<E: Into<redb::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Disk(error.into())
    }
}

fn begin(database: &Database) -> Result<WriteTransaction, redb::Error> {
    let mut change = database.begin_write()?;
    change.set_durability(Durability::Immediate)?;
    change.set_quick_repair(true);
    Ok(change)
}

/// Whether there is a trace to forget. Only then is it worth a write.
fn forgets(database: &Database, now_s: u64) -> Result<bool, redb::Error> {
    let reading = database.begin_read()?;
    for trace in reading.open_table(TRACES)?.iter()? {
        if trace?.1.value().1 <= now_s {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A trace stays as long as the row would have, and for a day at least.
fn forget_s(label: &Label, now_s: u64) -> u64 {
    label.2.max(now_s.saturating_add(86_400))
}

fn remove(
    items: &mut Table<'_, RowKey, &'static [u8]>,
    labels: &mut Table<'_, RowKey, Label>,
    traces: &mut Table<'_, RowKey, (u8, u64)>,
    key: &RowKey,
    fate: Fate,
    now_s: u64,
) -> Result<Option<(Label, Vec<u8>)>, redb::Error> {
    let Some(label) = labels.remove(key)?.map(|label| label.value()) else {
        return Ok(None);
    };
    let sealed = items.remove(key)?.map(|item| item.value().to_vec());
    traces.insert(key, (fate.code(), forget_s(&label, now_s)))?;
    Ok(sealed.map(|sealed| (label, sealed)))
}

/// Readable by this user alone, where the system knows of such things. What is inside is sealed in any case.
fn private(path: &Path) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let _ = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600));
    }
}

impl PreparedStore for Embedded {
    fn begin(&self, check: &[u8; 32]) -> Result<(), StoreError> {
        let is_ours = self.with(|open| {
            let change = begin(&open.database)?;
            let is_ours = {
                let mut begun = change.open_table(BEGUN)?;
                let before = begun.get("key")?.map(|before| before.value());
                if before.is_none() {
                    begun.insert("key", check)?;
                }
                before.is_none_or(|before| before == *check)
            };
            change.commit().map_err(redb::Error::from)?;
            Ok(is_ours)
        })?;
        if is_ours {
            return Ok(());
        }
        Err(StoreError::OtherKey(self.path.display().to_string()))
    }

    fn put(&self, rows: &[Row], bounds: &Bounds) -> Result<(), StoreError> {
        let Some(owner) = rows.first().map(|row| row.owner) else {
            return Ok(());
        };
        self.with(|open| {
            let n_bytes: usize = rows.iter().map(|row| row.sealed.len()).sum();
            let of = |labels: &mut dyn Iterator<Item = &Label>| labels.map(|l| l.3).sum::<u64>();
            let of_all = of(&mut open.held.values());
            let of_owner = of(&mut open.held.values().filter(|l| l.0 == owner));
            bounds
                .check(of_all, of_owner, n_bytes as u64)
                .map_err(Failure::Store)?;
            let change = begin(&open.database)?;
            let label = |row: &Row| -> Label {
                (
                    row.owner,
                    row.weights,
                    row.expires_s,
                    row.sealed.len() as u64,
                )
            };
            {
                let (mut items, mut labels) =
                    (change.open_table(ITEMS)?, change.open_table(LABELS)?);
                let traces = change.open_table(TRACES)?;
                for row in rows {
                    // A handle that a client uses twice would bring a name back that was used up.
                    if labels.get(&row.key)?.is_some() || traces.get(&row.key)?.is_some() {
                        let reason = "an item of this name was there before".into();
                        let at = "of prepared inferences".into();
                        return Err(Failure::Store(StoreError::Failed {
                            at,
                            reason,
                            advice: "The client prepares others",
                        }));
                    }
                    items.insert(&row.key, row.sealed.as_slice())?;
                    labels.insert(&row.key, label(row))?;
                }
            }
            change.commit().map_err(redb::Error::from)?;
            open.held
                .extend(rows.iter().map(|row| (row.key, label(row))));
            Ok(())
        })
    }

    fn take(&self, key: &RowKey, now_s: u64) -> Result<Option<Row>, StoreError> {
        self.with(|open| {
            let Some(label) = open.held.get(key) else {
                return Ok(None);
            };
            let expired = label.2 <= now_s;
            let fate = if expired { Fate::Expired } else { Fate::Taken };
            let change = begin(&open.database)?;
            let removed = {
                let (mut items, mut labels) =
                    (change.open_table(ITEMS)?, change.open_table(LABELS)?);
                let mut traces = change.open_table(TRACES)?;
                remove(&mut items, &mut labels, &mut traces, key, fate, now_s)?
            };
            change.commit().map_err(redb::Error::from)?;
            open.held.remove(key);
            Ok(removed.filter(|_| !expired).map(|(label, sealed)| Row {
                key: *key,
                owner: label.0,
                weights: label.1,
                expires_s: label.2,
                sealed,
            }))
        })
    }

    fn held(&self, owner: Option<&Pseudonym>) -> Result<Held, StoreError> {
        self.with(|open| {
            let labels = open.held.values();
            let labels = labels.filter(|l| owner.is_none_or(|owner| l.0 == *owner));
            Ok(labels.fold(Held::default(), |sum, l| Held {
                n_items: sum.n_items + 1,
                n_bytes: sum.n_bytes + l.3,
                next_expiry_s: match sum.next_expiry_s {
                    0 => l.2,
                    first => first.min(l.2),
                },
            }))
        })
    }

    fn expire(&self, now_s: u64) -> Result<u64, StoreError> {
        self.remove(now_s, Fate::Expired, |label| label.2 <= now_s)
    }

    fn purge(&self, weights: &Pseudonym) -> Result<u64, StoreError> {
        self.remove(now_s(), Fate::Purged, |l| l.1 == *weights)
    }

    fn fate(&self, key: &RowKey) -> Result<Fate, StoreError> {
        self.with(|open| {
            if open.held.contains_key(key) {
                return Ok(Fate::Held);
            }
            let reading = open.database.begin_read()?;
            let traces = reading.open_table(TRACES)?;
            let fate = traces
                .get(key)?
                .map(|trace| Fate::from_code(trace.value().0));
            Ok(fate.unwrap_or(Fate::Unknown))
        })
    }

    fn is_shared(&self) -> bool {
        false
    }
}
