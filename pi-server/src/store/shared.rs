//! A store in a PostgreSQL database, for replicas behind one address.
//!
//! Why PostgreSQL: what counts is that a row which was given out stays gone when machines crash. A commit here is on the disk, and
//! on the replicas that the database waits for, before it is acknowledged. Redis has the simpler client, but acknowledges a
//! pop before it is durable unless it runs with `appendfsync always`, and a failover may bring popped items back; here that would
//! be a reused one-time pad. A row is taken by one statement (`DELETE ... RETURNING` and its trace), so two replicas cannot
//! both have it. A database that runs without fsync is refused, and a session that would commit asynchronously is set right.
//!
//! Bounds are compared before rows are added: replicas that add at the same moment may pass them by a batch each.
//!
//! Security: the database sees keyed hashes and ciphertexts. Beyond this machine the connection needs TLS with a certificate
//! of a named authority: who could alter it could give rows out twice. The password is never in the address, which a list of
//! processes shows, but in the variable `PGPASSWORD`.

use std::net::IpAddr;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use postgres::config::{Host, SslMode};
use postgres::{Client, Config, NoTls};

use super::contract::{
    Bounds, Fate, Held, PreparedStore, Pseudonym, Row, RowKey, StoreError, now_s,
};
use tls::Rustls;

#[cfg(test)]
pub(super) mod testing;
mod tls;

/// Holds for one second of a quick network and a slow disk, and is far below what clients wait.
const PATIENCE: Duration = Duration::from_secs(20);

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS pi_kept (
        key bytea PRIMARY KEY, owner bytea NOT NULL, weights bytea NOT NULL,
        expires_s bigint NOT NULL, n_bytes bigint NOT NULL, sealed bytea NOT NULL);
    ALTER TABLE pi_kept ALTER COLUMN sealed SET STORAGE EXTERNAL;
    CREATE INDEX IF NOT EXISTS pi_kept_owner ON pi_kept (owner);
    CREATE INDEX IF NOT EXISTS pi_kept_expires ON pi_kept (expires_s);
    CREATE TABLE IF NOT EXISTS pi_kept_traces (
        key bytea PRIMARY KEY, fate smallint NOT NULL, forget_s bigint NOT NULL);
    CREATE TABLE IF NOT EXISTS pi_kept_begun (what text PRIMARY KEY, value bytea NOT NULL);";

/// See the module.
pub struct Shared {
    config: Config,
    tls: Option<Rustls>,
    at: String,
    idle: Mutex<Vec<Client>>,
}

/// Whether `at` names a database and not a file.
#[must_use]
pub fn is_url(at: &str) -> bool {
    at.starts_with("postgres://") || at.starts_with("postgresql://")
}

impl Shared {
    /// Connects, and makes the tables where there are none.
    ///
    /// # Errors
    /// [`StoreError::Settings`] or [`StoreError::Failed`].
    pub fn open(url: &str, ca: Option<&Path>) -> Result<Self, StoreError> {
        let store = Self::new(url, ca)?;
        store.make_tables()?;
        Ok(store)
    }

    /// Reads the address, and connects to nothing yet: a database may be down when a server starts.
    ///
    /// # Errors
    /// [`StoreError::Settings`].
    pub fn new(url: &str, ca: Option<&Path>) -> Result<Self, StoreError> {
        let settings = |why: String| StoreError::Settings(format!("--store: {why}"));
        // The library's error may show the address with what is in it.
        let mut config: Config = url.parse().map_err(|_| {
            settings("it is not of the form postgres://USER@HOST:PORT/DATABASE".into())
        })?;
        if config.get_password().is_some() {
            return Err(settings(
                "a password in the address can be read in the list of processes; set the variable PGPASSWORD instead".into(),
            ));
        }
        let local = |host: &Host| match host {
            Host::Tcp(name) => matches!(name.as_str(), "localhost" | "127.0.0.1" | "::1"),
            #[cfg(unix)]
            Host::Unix(_) => true,
        };
        // An address is preferred to the name beside it.
        let here = config.get_hosts().iter().all(local)
            && config.get_hostaddrs().iter().all(IpAddr::is_loopback);
        let tls = ca.map(Rustls::load).transpose()?;
        if tls.is_none() && !here {
            return Err(settings(
                "the database is on another machine, and without TLS whoever is on the path could give an item out twice; name the authority of its certificate with --store-ca FILE".into(),
            ));
        }
        if let Ok(password) = std::env::var("PGPASSWORD") {
            config.password(password);
        }
        config
            .ssl_mode(if tls.is_some() {
                SslMode::Require
            } else {
                SslMode::Disable
            })
            .application_name("pi-server")
            .connect_timeout(Duration::from_secs(5))
            .tcp_user_timeout(PATIENCE);
        let at = format!(
            "in PostgreSQL database '{}'",
            config
                .get_dbname()
                .or(config.get_user())
                .unwrap_or_default()
        );
        Ok(Self {
            config,
            tls,
            at,
            idle: Mutex::default(),
        })
    }

    fn make_tables(&self) -> Result<(), StoreError> {
        self.with(|client| {
            let exists = "SELECT to_regclass('pi_kept_begun') IS NOT NULL";
            if client.query_one(exists, &[])?.get(0) {
                return Ok(());
            }
            let mut change = client.transaction()?;
            // Replicas start together.
            change.execute("SELECT pg_advisory_xact_lock(5072911)", &[])?;
            change.batch_execute(TABLES)?;
            change.commit()
        })
    }

    fn connect(&self) -> Result<Client, StoreError> {
        let connected = match &self.tls {
            Some(tls) => self.config.connect(tls.clone()),
            None => self.config.connect(NoTls),
        };
        let mut client = connected.map_err(|e| self.failed(&e))?;
        let mut show = |what: &str| -> Result<String, StoreError> {
            let row = client.query_one(&format!("SHOW {what}"), &[]);
            Ok(row.map_err(|e| self.failed(&e))?.get(0))
        };
        if show("fsync")? == "off" {
            return Err(StoreError::Settings(
                "the database runs with fsync = off: after a crash it could give an item out twice; turn fsync on".into(),
            ));
        }
        let lasting = show("synchronous_commit")? != "off";
        let commit = if lasting {
            ""
        } else {
            "SET synchronous_commit = on;"
        };
        let limit = PATIENCE.as_millis();
        client
            .batch_execute(&format!("{commit} SET statement_timeout = {limit}"))
            .map_err(|e| self.failed(&e))?;
        Ok(client)
    }

    fn failed(&self, error: &postgres::Error) -> StoreError {
        // The library's text leaves the cause out.
        let cause = std::error::Error::source(error).map_or(String::new(), |e| format!(": {e}"));
        StoreError::Failed {
            at: self.at.clone(),
            reason: format!("{error}{cause}"),
            advice: advice(error),
        }
    }

    /// Runs `work` on a connection, an idle one if there is one that lives. A connection that failed is not used again.
    fn with<T>(
        &self,
        work: impl FnOnce(&mut Client) -> Result<T, postgres::Error>,
    ) -> Result<T, StoreError> {
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let live = || loop {
            let mut client = idle().pop()?;
            // A database that was restarted has closed it; to ask is cheaper than to fail.
            if client.is_valid(Duration::from_secs(1)).is_ok() {
                return Some(client);
            }
        };
        let mut client = match live() {
            Some(client) => client,
            None => self.connect()?,
        };
        let done = work(&mut client).map_err(|e| self.failed(&e))?;
        idle().push(client);
        Ok(done)
    }
}

/// What to do about `error`, by PostgreSQL's classes.
fn advice(error: &postgres::Error) -> &'static str {
    let Some(state) = error.code() else {
        return "Look whether the database runs and can be reached from here; nothing here has to be restarted";
    };
    match state.code().get(..2) {
        Some("28") => "Check the user in --store, its password in PGPASSWORD, and pg_hba.conf",
        Some("3D") => "Make this database, or name another one in --store",
        Some("42") => "Give this user the right to make and change tables in this database",
        Some("53") => "Give the database more room, memory or connections: it has run out of one",
        Some("25") => "The database takes no changes: name the primary server in --store",
        Some("57") => "The database stops, starts, or takes too long; look at its own log",
        _ => "Look at the database's own log",
    }
}

/// Closing a connection blocks, which a thread of the runtime must not.
impl Drop for Shared {
    fn drop(&mut self) {
        let idle = std::mem::take(self.idle.get_mut().unwrap_or_else(PoisonError::into_inner));
        let closing = std::thread::Builder::new().spawn(move || drop(idle));
        if let Ok(closing) = closing {
            // A connection that does not close well is closed by the end of the process.
            let _ = closing.join();
        }
    }
}

impl PreparedStore for Shared {
    fn begin(&self, check: &[u8; 32]) -> Result<(), StoreError> {
        self.make_tables()?;
        // Two statements: the second sees what another replica has committed meanwhile.
        let before: Vec<u8> = self.with(|client| {
            client.execute(
                "INSERT INTO pi_kept_begun VALUES ('key', $1) ON CONFLICT DO NOTHING",
                &[&check.as_slice()],
            )?;
            let row =
                client.query_one("SELECT value FROM pi_kept_begun WHERE what = 'key'", &[])?;
            Ok(row.get(0))
        })?;
        if before == check {
            return Ok(());
        }
        Err(StoreError::OtherKey(self.at.clone()))
    }

    fn put(&self, rows: &[Row], bounds: &Bounds) -> Result<(), StoreError> {
        let Some(owner) = rows.first().map(|row| row.owner) else {
            return Ok(());
        };
        let n_bytes: usize = rows.iter().map(|row| row.sealed.len()).sum();
        let of = |owner| self.held(owner).map(|held| held.n_bytes);
        bounds.check(of(None)?, of(Some(&owner))?, n_bytes as u64)?;
        let fresh = self.with(|client| {
            let mut change = client.transaction()?;
            for row in rows {
                let n = change.execute(
                    "INSERT INTO pi_kept (key, owner, weights, expires_s, n_bytes, sealed)
                     SELECT $1, $2, $3, $4, $5, $6
                     WHERE NOT EXISTS (SELECT 1 FROM pi_kept_traces WHERE key = $1)
                     ON CONFLICT DO NOTHING",
                    &[
                        &row.key.as_slice(),
                        &row.owner.as_slice(),
                        &row.weights.as_slice(),
                        &(row.expires_s as i64),
                        &(row.sealed.len() as i64),
                        &row.sealed,
                    ],
                )?;
                if n != 1 {
                    change.rollback()?;
                    return Ok(false);
                }
            }
            change.commit()?;
            Ok(true)
        })?;
        if fresh {
            return Ok(());
        }
        Err(StoreError::Failed {
            at: self.at.clone(),
            reason: "an item of this name was there before".into(),
            advice: "The client prepares others",
        })
    }

    fn take(&self, key: &RowKey, now_s: u64) -> Result<Option<Row>, StoreError> {
        let now_s = now_s as i64;
        let row = self.with(|client| {
            client.query_opt(
                "WITH taken AS (
                     DELETE FROM pi_kept WHERE key = $1 AND expires_s > $2::bigint
                     RETURNING key, owner, weights, expires_s, sealed),
                 traced AS (
                     INSERT INTO pi_kept_traces
                     SELECT key, 1, greatest(expires_s, $2::bigint + 86400) FROM taken)
                 SELECT owner, weights, expires_s, sealed FROM taken",
                &[&key.as_slice(), &now_s],
            )
        })?;
        Ok(row.map(|row| {
            let name = |i: usize| -> Pseudonym {
                // Another length is another program's: it matches no name of ours.
                row.get::<_, &[u8]>(i).try_into().unwrap_or_default()
            };
            Row {
                key: *key,
                owner: name(0),
                weights: name(1),
                expires_s: row.get::<_, i64>(2) as u64,
                sealed: row.get(3),
            }
        }))
    }

    fn held(&self, owner: Option<&Pseudonym>) -> Result<Held, StoreError> {
        let owner = owner.map(Pseudonym::as_slice);
        let row = self.with(|client| {
            client.query_one(
                "SELECT count(*), coalesce(sum(n_bytes), 0)::bigint, coalesce(min(expires_s), 0)
                 FROM pi_kept WHERE $1::bytea IS NULL OR owner = $1",
                &[&owner],
            )
        })?;
        let n = |i: usize| row.get::<_, i64>(i) as u64;
        Ok(Held {
            n_items: n(0),
            n_bytes: n(1),
            next_expiry_s: n(2),
        })
    }

    fn expire(&self, now_s: u64) -> Result<u64, StoreError> {
        let now_s = now_s as i64;
        self.with(|client| {
            let n = client.execute(
                "WITH gone AS (DELETE FROM pi_kept WHERE expires_s <= $1::bigint RETURNING key)
                 INSERT INTO pi_kept_traces SELECT key, 2, $1::bigint + 86400 FROM gone",
                &[&now_s],
            )?;
            client.execute("DELETE FROM pi_kept_traces WHERE forget_s <= $1", &[&now_s])?;
            Ok(n)
        })
    }

    fn purge(&self, weights: &Pseudonym) -> Result<u64, StoreError> {
        let now_s = now_s() as i64;
        self.with(|client| {
            client.execute(
                "WITH gone AS (DELETE FROM pi_kept WHERE weights = $1 RETURNING key, expires_s)
                 INSERT INTO pi_kept_traces
                 SELECT key, 3, greatest(expires_s, $2::bigint + 86400) FROM gone",
                &[&weights.as_slice(), &now_s],
            )
        })
    }

    fn fate(&self, key: &RowKey) -> Result<Fate, StoreError> {
        let row = self.with(|client| {
            client.query_opt(
                "SELECT 0::smallint FROM pi_kept WHERE key = $1
                 UNION ALL SELECT fate FROM pi_kept_traces WHERE key = $1",
                &[&key.as_slice()],
            )
        })?;
        let code = |row: postgres::Row| row.get::<_, i16>(0) as u8;
        Ok(row.map_or(Fate::Unknown, |row| Fate::from_code(code(row))))
    }

    fn is_shared(&self) -> bool {
        true
    }
}
