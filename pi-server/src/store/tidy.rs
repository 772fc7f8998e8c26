//! What keeps the store in order beside the service: expired items go, and so does what was made for weights that were replaced; the
//! metrics show what is held and whether the store works.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tracing::{error, info};

use super::contract::StoreError;
use super::vault::Vault;
use crate::calls::shared::Shared;

/// How often the store is tidied up.
const TIDY_INTERVAL: Duration = Duration::from_secs(30);

/// Removes what has expired, and what was made for weights that were replaced; shows what is held.
pub(crate) async fn run(vault: Arc<Vault>, shared: Arc<Shared>) {
    let mut changes = shared.repository.changes();
    let mut weights: HashMap<String, [u8; 32]> = HashMap::new();
    // What went wrong is tried again each time, and told once.
    let mut told = String::new();
    loop {
        let (vault, tidied) = (Arc::clone(&vault), Arc::clone(&shared));
        let before = std::mem::take(&mut weights);
        let done = tokio::task::spawn_blocking(move || tidy_once(&vault, &tidied, before));
        match done.await {
            Ok((now, outcome)) => {
                weights = now;
                let text = outcome.err().map_or(String::new(), |e| e.to_string());
                if !text.is_empty() && text != told {
                    error!(error = text, "kept inferences");
                }
                told = text;
            }
            Err(error) => error!(%error, "tidying up the store failed"),
        }
        tokio::select! {
            () = tokio::time::sleep(TIDY_INTERVAL) => {}
            _ = changes.changed() => {}
        }
    }
}

/// The weights that serve now, by model.
type Weights = HashMap<String, [u8; 32]>;

fn tidy_once(vault: &Vault, shared: &Shared, before: Weights) -> (Weights, Result<(), StoreError>) {
    let mut now = before.clone();
    for name in shared.repository.names() {
        if let Some(served) = shared.repository.find(&name) {
            now.insert(name, served.model().weights_digest());
        }
    }
    let tidy = || {
        let n = vault.expire()?;
        if n > 0 {
            info!(n, "kept inferences have expired");
        }
        // Other replicas may still serve the old weights: there, what is of no use expires.
        let replaced = before
            .iter()
            .filter(|(name, old)| now.get(*name) != Some(old));
        for (name, old) in replaced.filter(|_| !vault.store().is_shared()) {
            let n = vault.purge(old)?;
            info!(
                model = name,
                n, "kept inferences for replaced weights are gone"
            );
        }
        shared.metrics.kept(&vault.held(None)?);
        Ok(())
    };
    let outcome = tidy();
    shared.metrics.kept_works(vault.bounds(), outcome.is_ok());
    (now, outcome)
}
