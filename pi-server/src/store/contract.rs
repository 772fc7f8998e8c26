//! What a store of prepared inferences must do, and the words for what it holds.

use std::time::SystemTime;

/// What a row is found by: a keyed hash of identity and id.
pub type RowKey = [u8; 32];
/// Keyed hash of an identity, or of a model's weights.
pub type Pseudonym = [u8; 16];

/// One sealed item.
#[derive(Clone, PartialEq, Eq)]
pub struct Row {
    /// What it is found by.
    pub key: RowKey,
    /// Whose it is.
    pub owner: Pseudonym,
    /// The weights that it is for.
    pub weights: Pseudonym,
    /// Seconds from 1970 after which it is of no use.
    pub expires_s: u64,
    /// Nonce and ciphertext.
    pub sealed: Vec<u8>,
}

/// What is held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Rows.
    pub n_items: u64,
    /// Bytes of their contents.
    pub n_bytes: u64,
    /// When the first of them expires; zero if there is none.
    pub next_expiry_s: u64,
}

/// What became of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It waits.
    Held,
    /// It was given out.
    Taken,
    /// Nobody came for it.
    Expired,
    /// Its weights are not served any more.
    Purged,
    /// Nothing is known: never kept, or expired long ago.
    Unknown,
}

impl Fate {
    pub(super) const fn code(self) -> u8 {
        match self {
            Self::Held => 0,
            Self::Taken => 1,
            Self::Expired => 2,
            Self::Purged => 3,
            Self::Unknown => 4,
        }
    }

    pub(super) const fn from_code(code: u8) -> Self {
        match code {
            0 => Self::Held,
            1 => Self::Taken,
            2 => Self::Expired,
            3 => Self::Purged,
            _ => Self::Unknown,
        }
    }
}

/// How much may be held, in bytes of contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// By all identities together.
    pub total_bytes: u64,
    /// By each identity.
    pub owner_bytes: u64,
}

impl Bounds {
    /// Whether `n_bytes` more may be held.
    ///
    /// # Errors
    /// [`StoreError::Full`].
    pub fn check(&self, of_all: u64, of_owner: u64, n_bytes: u64) -> Result<(), StoreError> {
        if of_owner.saturating_add(n_bytes) > self.owner_bytes {
            return Err(StoreError::Full { of_owner: true });
        }
        if of_all.saturating_add(n_bytes) > self.total_bytes {
            return Err(StoreError::Full { of_owner: false });
        }
        Ok(())
    }
}

/// Why a store does not do what it should.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// No room for this identity, or for anybody.
    #[error("the store of prepared inferences is full{}", if *.of_owner { " for this identity" } else { "" })]
    Full {
        /// Its owner holds as much as one identity may.
        of_owner: bool,
    },
    /// Another process has it open.
    #[error(
        "another process uses the store {0}: stop it, give this server a file of its own with --store, or let both share a PostgreSQL database"
    )]
    Locked(String),
    /// It cannot be read or written.
    #[error("the store {at} does not work: {reason}. {advice}")]
    Failed {
        /// Where it is.
        at: String,
        /// What was said.
        reason: String,
        /// What to do about it.
        advice: &'static str,
    },
    /// It was begun with another key.
    #[error(
        "the store {0} was begun with another key: what is in it could not be opened, and clients would lose what they hold. Give this server the key of the others, or an empty store (RUNBOOK.md, Rotation)"
    )]
    OtherKey(String),
    /// Its settings cannot be used.
    #[error("{0}")]
    Settings(String),
}

/// Sealed rows, each of which is given out once. Every method returns when what it did would survive a crash.
pub trait PreparedStore: Send + Sync {
    /// Makes what is missing, and compares `check`, which is made from the key, with that of whoever began first.
    ///
    /// # Errors
    /// [`StoreError::OtherKey`], [`StoreError::Settings`] or [`StoreError::Failed`].
    fn begin(&self, check: &[u8; 32]) -> Result<(), StoreError>;

    /// Adds all `rows`, which have one owner, or none of them.
    ///
    /// # Errors
    /// [`StoreError::Full`] when a bound would be passed.
    fn put(&self, rows: &[Row], bounds: &Bounds) -> Result<(), StoreError>;

    /// Takes the row with this key out, unless it has expired: to one caller, once.
    ///
    /// # Errors
    /// [`StoreError::Failed`]; the row may be gone then.
    fn take(&self, key: &RowKey, now_s: u64) -> Result<Option<Row>, StoreError>;

    /// What `owner`, or everybody, holds.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    fn held(&self, owner: Option<&Pseudonym>) -> Result<Held, StoreError>;

    /// Removes what has expired, and traces of what would have. Returns how many rows went.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    fn expire(&self, now_s: u64) -> Result<u64, StoreError>;

    /// Removes all rows for these weights. Returns how many.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    fn purge(&self, weights: &Pseudonym) -> Result<u64, StoreError>;

    /// What became of the row with this key.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    fn fate(&self, key: &RowKey) -> Result<Fate, StoreError>;

    /// Whether other processes may use the store at the same time.
    fn is_shared(&self) -> bool;
}

/// Seconds from 1970.
pub(crate) fn now_s() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
