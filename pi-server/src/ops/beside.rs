//! Tasks beside the service: they follow models, certificates, tokens and the stop, and never end by themselves.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tracing::{error, info};

use crate::access::tls::Tls;
use crate::calls::drain::Stage;
use crate::calls::shared::Shared;
use crate::models::repository::ModelStatus;
use crate::models::root::Root;
use crate::ops::health::Health;

/// Shows the health of all models as it is now.
pub(crate) async fn show(health: &Health, shared: &Shared) {
    let models = shared.repository.status();
    let (ready, broken): (Vec<_>, Vec<_>) = models.into_iter().partition(|m| m.ready);
    let names = |models: Vec<ModelStatus>| models.into_iter().map(|m| m.name).collect::<Vec<_>>();
    let draining = shared.drain.stage() != Stage::Serving;
    health.show(&names(ready), &names(broken), draining).await;
}

/// Shows when certificates end.
pub(crate) fn show_certificates(shared: &Shared, tls: Option<&Arc<Tls>>) {
    for (file, unix_s) in tls.into_iter().flat_map(|tls| tls.expiries()) {
        shared.metrics.certificate_expires(file, unix_s);
    }
}

/// Shows every change of the models, and the stop.
pub(crate) async fn follow(health: Health, shared: Arc<Shared>) {
    let mut changes = shared.repository.changes();
    loop {
        tokio::select! {
            _ = changes.changed() => {}
            () = shared.drain.reached(Stage::Draining) => break,
        }
        show(&health, &shared).await;
    }
    show(&health, &shared).await;
}

/// Reads certificates and tokens again when their files change. The old ones stay when the new ones cannot be used.
pub(crate) async fn reload(shared: Arc<Shared>, tls: Option<Arc<Tls>>, interval: Duration) {
    // What was refused is tried again each time, and told once.
    let mut told: HashMap<&str, String> = HashMap::new();
    loop {
        wait(interval, &shared.look).await;
        let certificate = tls.as_ref().map(|tls| ("certificates", tls.refresh()));
        let tokens = ("tokens", shared.identities.refresh());
        for (what, outcome) in certificate.into_iter().chain([tokens]) {
            shared.metrics.reload_failing(what, outcome.is_err());
            match outcome {
                Ok(changed) => {
                    told.remove(what);
                    if changed {
                        show_certificates(&shared, tls.as_ref());
                        info!("{what} have changed and are in use");
                    }
                }
                Err(error) => {
                    let text = error.to_string();
                    if told.get(what) != Some(&text) {
                        error!(%error, "changed {what} cannot be used; the old ones stay");
                        told.insert(what, text);
                    }
                }
            }
        }
    }
}

/// Until it is time to look at files again, or somebody asks for it.
async fn wait(interval: Duration, look: &Notify) {
    // Either is a reason to look.
    let _ = tokio::time::timeout(interval, look.notified()).await;
}

/// Reads the repository again and again.
pub(crate) async fn poll(root: Arc<Root>, look: Arc<Notify>) {
    loop {
        wait(root.options().interval, &look).await;
        let root = Arc::clone(&root);
        // Loading and planning compute for long. A panic there must not end the polling.
        if let Err(error) = tokio::task::spawn_blocking(move || root.refresh()).await {
            error!(%error, "reading the repository failed");
        }
    }
}
