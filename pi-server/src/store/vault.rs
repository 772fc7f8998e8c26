//! Items sealed, bounded and counted, on their way to and from a store.
//!
//! Each item is encrypted by XChaCha20-Poly1305 under a key derived from the store's, with a random nonce of 192 bits and, as
//! associated data, everything that it is bound to: identity, model, weights, id and time of expiry. So a store can lose a row or
//! give out an old one, but neither change one nor pass one off as another. Rows are found by keyed hashes of the same.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use pi_protocol::kept::{ItemId, KeepError};
use rand::TryRngCore as _;
use zeroize::Zeroizing;

use super::contract::{
    Bounds, Fate, Held, PreparedStore, Pseudonym, Row, RowKey, StoreError, now_s,
};
use super::key::Key;

const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;

/// A store and its key.
pub struct Vault {
    store: Box<dyn PreparedStore>,
    cipher: XChaCha20Poly1305,
    /// Of keyed hashes.
    naming: Key,
    /// Tells this key from others, and nothing else of it.
    check: Key,
    has_begun: AtomicBool,
    keep_for: Duration,
    bounds: Bounds,
}

/// Whose items, of which model.
#[derive(Clone)]
pub struct Deposit {
    /// The client's identity.
    pub owner: String,
    /// The model's name.
    pub model: String,
    /// The digest of its weights.
    pub weights: [u8; 32],
}

impl Vault {
    /// Puts items into `store`, sealed under `key`.
    #[must_use]
    pub fn new(
        store: Box<dyn PreparedStore>,
        key: &Key,
        keep_for: Duration,
        bounds: Bounds,
    ) -> Self {
        let derive = |what| Zeroizing::new(blake3::derive_key(what, &key[..]));
        let sealing = derive("private inference: sealing of kept items");
        Self {
            store,
            cipher: XChaCha20Poly1305::new((&*sealing).into()),
            naming: derive("private inference: names of kept items"),
            check: derive("private inference: check of the store's key"),
            has_begun: AtomicBool::new(false),
            keep_for,
            bounds,
        }
    }

    /// How long an item is kept.
    #[must_use]
    pub const fn keep_for(&self) -> Duration {
        self.keep_for
    }

    /// How much it may hold.
    #[must_use]
    pub const fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// The store behind it.
    #[must_use]
    pub fn store(&self) -> &dyn PreparedStore {
        &*self.store
    }

    /// The store, once it has shown that it was begun with our key. A database that was down at the start is asked again.
    ///
    /// # Errors
    /// As [`PreparedStore::begin`].
    pub fn begun(&self) -> Result<&dyn PreparedStore, StoreError> {
        if !self.has_begun.load(Ordering::Acquire) {
            self.store.begin(&self.check)?;
            self.has_begun.store(true, Ordering::Release);
        }
        Ok(&*self.store)
    }

    /// What became of an item of `owner`.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub fn fate(&self, owner: &str, id: &ItemId) -> Result<Fate, StoreError> {
        self.begun()?.fate(&self.row_key(owner, id))
    }

    /// Stores all items of a batch, or none.
    ///
    /// # Errors
    /// [`StoreError::Full`] or [`StoreError::Failed`].
    pub fn put(
        &self,
        deposit: &Deposit,
        items: Vec<(ItemId, Zeroizing<Vec<u8>>)>,
    ) -> Result<(), StoreError> {
        let expires_s = now_s().saturating_add(self.keep_for.as_secs());
        let rows = items.into_iter().map(|(id, item)| {
            let mut nonce = [0; NONCE_BYTES];
            let random = rand::rngs::OsRng.try_fill_bytes(&mut nonce);
            random.map_err(|e| failed(format!("this system gives no randomness: {e}")))?;
            let payload = Payload {
                msg: &item,
                aad: &associated(deposit, &id, expires_s),
            };
            let sealed = self.cipher.encrypt(XNonce::from_slice(&nonce), payload);
            let sealed = sealed.map_err(|_| failed("an item is too long to be sealed".into()))?;
            Ok(Row {
                key: self.row_key(&deposit.owner, &id),
                owner: self.pseudonym(b"owner", deposit.owner.as_bytes()),
                weights: self.weights_of(&deposit.weights),
                expires_s,
                sealed: [&nonce[..], &sealed].concat(),
            })
        });
        let rows = rows.collect::<Result<Vec<_>, StoreError>>()?;
        self.begun()?.put(&rows, &self.bounds)
    }

    /// Takes an item out; it is gone when this returns. None if it is not there, or is of another identity.
    ///
    /// # Errors
    /// [`KeepError`]: not there, for other weights, or not to be had.
    pub fn take(&self, deposit: &Deposit, id: &ItemId) -> Result<Zeroizing<Vec<u8>>, TakeError> {
        let key = self.row_key(&deposit.owner, id);
        let row = self.begun()?.take(&key, now_s())?;
        let Some(row) = row else {
            // Told apart for the client's sake: what was removed with its weights says nothing of the client's other halves.
            return Err(match self.begun()?.fate(&key)? {
                Fate::Purged => KeepError::OtherModel.into(),
                _ => KeepError::NotThere.into(),
            });
        };
        if row.weights != self.weights_of(&deposit.weights) {
            return Err(KeepError::OtherModel.into());
        }
        let (nonce, sealed) = row
            .sealed
            .split_at_checked(NONCE_BYTES)
            .ok_or(KeepError::Damaged)?;
        let payload = Payload {
            msg: sealed,
            aad: &associated(deposit, id, row.expires_s),
        };
        let item = self.cipher.decrypt(XNonce::from_slice(nonce), payload);
        Ok(Zeroizing::new(item.map_err(|_| KeepError::Damaged)?))
    }

    /// What `owner`, or everybody, holds.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub fn held(&self, owner: Option<&str>) -> Result<Held, StoreError> {
        let owner = owner.map(|name| self.pseudonym(b"owner", name.as_bytes()));
        self.begun()?.held(owner.as_ref())
    }

    /// Whether `n_items` of `item_bytes` bytes would fit.
    ///
    /// # Errors
    /// [`StoreError::Full`] or [`StoreError::Failed`].
    pub fn room(&self, owner: &str, n_items: usize, item_bytes: usize) -> Result<(), StoreError> {
        let n_bytes = (n_items * (item_bytes + NONCE_BYTES + TAG_BYTES)) as u64;
        let of_all = self.held(None)?.n_bytes;
        let of_owner = self.held(Some(owner))?.n_bytes;
        self.bounds.check(of_all, of_owner, n_bytes)
    }

    /// Removes what has expired.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub fn expire(&self) -> Result<u64, StoreError> {
        self.begun()?.expire(now_s())
    }

    /// Removes what was made for these weights.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub fn purge(&self, weights: &[u8; 32]) -> Result<u64, StoreError> {
        self.begun()?.purge(&self.weights_of(weights))
    }

    fn weights_of(&self, digest: &[u8; 32]) -> Pseudonym {
        self.pseudonym(b"weights", digest)
    }

    fn pseudonym(&self, what: &[u8], of: &[u8]) -> Pseudonym {
        let mut name = [0; 16];
        name.copy_from_slice(&self.keyed(&[what, of])[..16]);
        name
    }

    fn row_key(&self, owner: &str, id: &ItemId) -> RowKey {
        self.keyed(&[b"row", owner.as_bytes(), id.as_bytes()])
    }

    fn keyed(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(&self.naming);
        hasher.update(&joined(parts));
        *hasher.finalize().as_bytes()
    }
}

/// Why an item cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// The client is told.
    #[error(transparent)]
    Keep(#[from] KeepError),
    /// The operator is told.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn failed(reason: String) -> StoreError {
    StoreError::Failed {
        at: "of prepared inferences".into(),
        reason,
        advice: "This is no fault of the store's; start the server anew",
    }
}

/// Parts with their lengths, so that none can run into the next.
fn joined(parts: &[&[u8]]) -> Vec<u8> {
    let parts = parts.iter();
    parts
        .flat_map(|part| {
            (part.len() as u64)
                .to_le_bytes()
                .into_iter()
                .chain(part.iter().copied())
        })
        .collect()
}

fn associated(deposit: &Deposit, id: &ItemId, expires_s: u64) -> Vec<u8> {
    joined(&[
        b"kept 1",
        deposit.owner.as_bytes(),
        deposit.model.as_bytes(),
        &deposit.weights,
        id.as_bytes(),
        &expires_s.to_le_bytes(),
    ])
}
