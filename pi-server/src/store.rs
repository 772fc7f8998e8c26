//! Prepared inferences beyond a session: what a store of them must do, and the two that there are.
//!
//! A [`Vault`] seals items, bounds them and counts them; a [`PreparedStore`] holds sealed rows and gives each out once. One
//! process uses a file ([`embedded`]), replicas behind one address share a PostgreSQL database ([`shared`]), so that any of them
//! answers with what another prepared. A row that is taken leaves a trace, without its contents, until it would have expired.
//!
//! Security: a store sees keyed hashes in the place of ids, identities and models, and ciphertexts. Its one duty is that a row is
//! given out once, also across a crash; a store that is put back to an earlier state breaks it (SECURITY.md, section 11).

pub mod contract;
pub mod embedded;
pub mod key;
pub mod shared;
pub(crate) mod teller;
pub(crate) mod tidy;
pub mod vault;

use std::path::PathBuf;
use std::time::Duration;

use tracing::error;

pub use contract::{Bounds, Fate, Held, PreparedStore, Pseudonym, Row, RowKey, StoreError};
pub use vault::{Deposit, Vault};

#[cfg(test)]
mod tests;

/// Where to keep prepared inferences, for how long, and how many.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// A file, or `postgres://USER@HOST/DATABASE`.
    pub at: String,
    /// The file with the key; else it is in the environment.
    pub key_file: Option<PathBuf>,
    /// Authorities of the database's certificate in PEM.
    pub ca: Option<PathBuf>,
    /// After this time an item is of no use.
    pub keep_for: Duration,
    /// How much may be held.
    pub bounds: Bounds,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            at: String::new(),
            key_file: None,
            ca: None,
            keep_for: Duration::from_secs(24 * 3600),
            bounds: Bounds {
                total_bytes: 10 << 30,
                owner_bytes: 2 << 30,
            },
        }
    }
}

impl StoreOptions {
    /// Opens the store with its key. Must not be called on a thread of an async runtime.
    ///
    /// # Errors
    /// Any [`StoreError`] but a full one.
    pub fn open(&self) -> Result<Vault, StoreError> {
        let key = key::load(self.key_file.as_deref())?;
        let store: Box<dyn PreparedStore> = if shared::is_url(&self.at) {
            Box::new(shared::Shared::new(&self.at, self.ca.as_deref())?)
        } else {
            Box::new(embedded::Embedded::open(self.at.as_ref())?)
        };
        let vault = Vault::new(store, &key, self.keep_for, self.bounds);
        match vault.begun() {
            // Clients that keep nothing need no database; it is asked again by all who do, and twice a minute.
            Err(error @ StoreError::Failed { .. }) if vault.store().is_shared() => {
                error!(%error, "nothing can be kept and nothing that was kept given out yet");
            }
            begun => {
                begun?;
            }
        }
        Ok(vault)
    }
}
