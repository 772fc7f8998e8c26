//! One session's way to the vault: what the client is told, what the operator is told, and what is counted.

use std::sync::Arc;
use std::time::Duration;

use pi_protocol::kept::{ItemId, KeepError, Keeper, Kept};
use tonic::Status;
use tracing::{error, info, warn};
use zeroize::Zeroizing;

use super::contract::{StoreError, now_s};
use super::vault::{Deposit, TakeError, Vault};
use crate::access::limits::{SOON, exhausted};
use crate::calls::gate::Gate;
use crate::ops::metrics::Metrics;

/// One session's way to the vault.
pub(crate) struct Teller {
    pub(crate) vault: Arc<Vault>,
    pub(crate) deposit: Deposit,
    pub(crate) gate: Arc<Gate>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Teller {
    /// What the client is told, once the operator was.
    fn told(&self, error: &StoreError) -> KeepError {
        match error {
            StoreError::Full { .. } => KeepError::Full,
            _ => {
                error!(%error, "kept inferences");
                KeepError::Unavailable
            }
        }
    }

    fn refuse(&self, error: &StoreError) -> Status {
        let StoreError::Full { of_owner } = error else {
            return exhausted("store", &KeepError::Unavailable.to_string(), SOON);
        };
        let owner = of_owner.then_some(&*self.deposit.owner);
        let next = self.vault.held(owner).map_or(0, |held| held.next_expiry_s);
        let wait = Duration::from_secs(next.saturating_sub(now_s())).max(SOON);
        exhausted("kept", &error.to_string(), wait)
    }

    /// Shows whether the store works, as the last who needed it saw.
    fn works(&self, works: bool) {
        self.metrics.kept_works(self.vault.bounds(), works);
    }

    fn show(&self) {
        if let Ok(held) = self.vault.held(None) {
            self.metrics.kept(&held);
        }
    }
}

impl Keeper for Teller {
    fn admit(&mut self, n_items: usize, item_bytes: usize) -> Kept<()> {
        let room = self.vault.room(&self.deposit.owner, n_items, item_bytes);
        room.map_err(|error| {
            self.gate.close(self.refuse(&error));
            self.told(&error)
        })
    }

    fn put(&mut self, items: Vec<(ItemId, Zeroizing<Vec<u8>>)>) -> Kept<()> {
        let n = items.len();
        let stored = self.vault.put(&self.deposit, items);
        self.show();
        match stored {
            Ok(()) => {
                self.metrics.kept_put(n as u64);
                self.works(true);
                Ok(())
            }
            Err(error) => {
                warn!(%error, n, "a batch is not kept");
                if !matches!(error, StoreError::Full { .. }) {
                    self.metrics.kept_put_failed();
                    self.works(false);
                }
                Err(self.told(&error))
            }
        }
    }

    fn take(&mut self, id: &ItemId) -> Kept<Zeroizing<Vec<u8>>> {
        let taken = self.vault.take(&self.deposit, id);
        self.show();
        self.metrics.kept_take(match &taken {
            Ok(_) => "take",
            Err(TakeError::Keep(_)) => "miss",
            Err(TakeError::Store(_)) => "take_failure",
        });
        self.works(!matches!(&taken, Err(TakeError::Store(_))));
        taken.map_err(|error| {
            info!(%error, "a kept inference cannot be given out");
            match error {
                TakeError::Keep(why) => why,
                TakeError::Store(error) => self.told(&error),
            }
        })
    }
}
