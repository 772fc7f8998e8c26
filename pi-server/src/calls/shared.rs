//! What all services of one server, its admin port and the tasks beside them share.

use std::sync::Arc;

use tokio::sync::Notify;
use tonic::{Code, Request, Status};

use crate::access::identity::Identities;
use crate::access::limits::{Account, refused_by};
use crate::calls::drain::Drain;
use crate::models::repository::Repository;
use crate::ops::ledger_file::LedgerFile;
use crate::ops::metrics::Metrics;
use crate::ops::telemetry::Telemetry;
use crate::store::Vault;

/// What all services of one server share.
pub struct Shared {
    /// The models.
    pub repository: Arc<Repository>,
    /// Who may call, and how much.
    pub identities: Identities,
    /// The stop.
    pub drain: Arc<Drain>,
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// Where prepared inferences outlive their session.
    pub vault: Option<Arc<Vault>>,
    /// Where finished steps are written down.
    pub ledger: Option<Arc<LedgerFile>>,
    /// Where spans go.
    pub telemetry: Option<Arc<Telemetry>>,
    /// Tells those who look at files every so often to look now.
    pub look: Arc<Notify>,
}

impl Shared {
    /// Counts a call of `method`, and why it was refused if it was.
    pub fn counted<T>(&self, method: &str, outcome: Result<T, Status>) -> Result<T, Status> {
        let code = outcome.as_ref().err().map_or(Code::Ok, Status::code);
        self.metrics.request(method, code);
        if let Some(reason) = outcome.as_ref().err().and_then(refused_by) {
            self.metrics.refused(reason);
        }
        outcome
    }

    /// The status for a model that is not here.
    #[must_use]
    pub fn unknown_model(&self, name: &str) -> Status {
        Status::not_found(format!(
            "there is no model '{name}' here; this server has: {}",
            self.repository.names().join(", ")
        ))
    }
}

/// The account of who called, whom the entrance has let in.
///
/// # Errors
/// UNAUTHENTICATED, if the call came another way.
pub fn caller<T>(request: &Request<T>) -> Result<Arc<Account>, Status> {
    let account = request.extensions().get::<Arc<Account>>().cloned();
    account.ok_or_else(|| Status::unauthenticated("nobody has said who calls"))
}
