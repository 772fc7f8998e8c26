//! One session's thread: the server's driver behind its gate, the log of how it went, and the last word to the client.
//!
//! Security: the log holds names, counts and times, and no payload.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pi_model::Plan;
use pi_proto::channel::Item;
use pi_proto::{GrpcChannel, WireMeter, status};
use pi_protocol::Error;
use pi_protocol::ledger::Phase;
use pi_protocol::server::{Observer, ServerSession, SessionMemory};
use pi_protocol::session::OtMode;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::Sender;
use tonic::Status;
use tracing::{info, warn};

use crate::access::door::Busy;
use crate::access::limits::{Account, Slot, refused_by};
use crate::calls::drain::Place;
use crate::calls::gate::Gate;
use crate::ops::ledger_file::LedgerFile;
use crate::ops::metrics::Metrics;
use crate::ops::telemetry::SessionTrace;
use crate::options::Limits;
use crate::store::teller::Teller;
use crate::store::vault::{Deposit, Vault};

/// What one session's thread needs.
pub(crate) struct Session {
    pub(crate) id: u64,
    pub(crate) model: String,
    pub(crate) plan: Arc<Plan>,
    pub(crate) limits: Limits,
    pub(crate) to_client: Sender<Item>,
    pub(crate) ledger: Option<Arc<LedgerFile>>,
    pub(crate) vault: Option<Arc<Vault>>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) account: Arc<Account>,
    pub(crate) trace: Option<Arc<SessionTrace>>,
    pub(crate) _busy: Option<Busy>,
    pub(crate) _slot: Slot,
    pub(crate) _permit: OwnedSemaphorePermit,
    pub(crate) _place: Place,
}

/// Passes on how many bytes have moved since it last did.
struct Traffic {
    meter: Arc<WireMeter>,
    passed_on: Mutex<[u64; 2]>,
    metrics: Arc<Metrics>,
    account: Arc<Account>,
}

impl Traffic {
    fn pass_on(&self) {
        let now = [self.meter.n_bytes_received(), self.meter.n_bytes_sent()];
        let mut before = self
            .passed_on
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let [received, sent] = [now[0] - before[0], now[1] - before[1]];
        *before = now;
        self.metrics.bytes(received, sent);
        self.account.add_bytes(received + sent);
    }
}

impl Session {
    /// Runs the session to its end, and tells the client why if that came early.
    pub(crate) fn run(self, channel: GrpcChannel) {
        let (id, model, batch) = (self.id, &self.model, self.plan.public().batch());
        info!(
            id,
            model,
            batch,
            client = self.account.name(),
            "session opened"
        );
        let started = Instant::now();
        let meter = channel.meter();
        let traffic = Arc::new(Traffic {
            meter: Arc::clone(&meter),
            passed_on: Mutex::default(),
            metrics: Arc::clone(&self.metrics),
            account: Arc::clone(&self.account),
        });
        // A bug in one session must not take the others down; its state goes with its thread.
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let channel = self.gate.guard(channel);
            let mut session = ServerSession::accept(channel, Arc::clone(&self.plan))?;
            if session.options().ot == OtMode::Silent && !self.limits.silent_ot {
                return Err(Error::Refused(
                    "this server makes no silent OTs; leave out --ot silent, or ask its operator for serve --silent-ot".into(),
                ));
            }
            let garbling = session.options().garbling;
            // Kept inferences were made as this was set then.
            if !session.is_for_kept() && !self.limits.garbling.contains(garbling) {
                return Err(Error::Refused(format!(
                    "this server garbles by {} alone: choose one of these with --garbling in place of {garbling}, or ask its operator for another serve --garbling",
                    self.limits.garbling.names().join(" or ")
                )));
            }
            // How much an inference takes depends on who garbles it.
            let memory = SessionMemory::of(&self.plan, session.options())?;
            let batch = self.plan.public().batch();
            session.max_prepared = self.limits.max_prepared(memory, batch);
            if let Some(vault) = &self.vault {
                session.keep_with(Box::new(self.teller(vault)));
            }
            session.observe(self.observer(Arc::clone(&traffic)));
            session.serve()
        }));
        traffic.pass_on();
        let seconds = started.elapsed().as_secs_f64();
        let (sent, received) = (meter.n_bytes_sent(), meter.n_bytes_received());
        let farewell = match outcome {
            Ok(Ok(())) => {
                info!(id, seconds, sent, received, "session ended");
                self.over("ended");
                return;
            }
            Ok(Err(error)) => match self.gate.refusal() {
                Some(refusal) => {
                    info!(id, seconds, sent, received, reason = %error, "session refused");
                    self.over("refused");
                    self.metrics
                        .refused(refused_by(&refusal).unwrap_or("other"));
                    refusal
                }
                None => {
                    warn!(id, seconds, sent, received, %error, "session failed");
                    let refused = matches!(error, Error::Refused(_));
                    if refused {
                        self.metrics.refused("mismatch");
                    }
                    let outcome = if refused { "refused" } else { "failed" };
                    self.over(outcome);
                    status::from_protocol(&error)
                }
            },
            Err(_) => {
                tracing::error!(id, seconds, "session panicked");
                self.over("panicked");
                Status::internal("the server failed; its log says why. Start a new session")
            }
        };
        self.say(farewell);
    }

    /// Tells the client why the session ended early.
    fn say(&self, farewell: Status) {
        // The queue may be full of frames that nobody reads; the stream then ends without a status.
        let patience = Instant::now() + Duration::from_secs(1);
        let mut farewell = Err(farewell);
        while let Err(tokio::sync::mpsc::error::TrySendError::Full(back)) =
            self.to_client.try_send(farewell)
        {
            if Instant::now() > patience {
                return;
            }
            farewell = back;
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn teller(&self, vault: &Arc<Vault>) -> Teller {
        Teller {
            vault: Arc::clone(vault),
            deposit: Deposit {
                owner: self.account.name().to_owned(),
                model: self.model.clone(),
                weights: self.plan.model().weights_digest(),
            },
            gate: Arc::clone(&self.gate),
            metrics: Arc::clone(&self.metrics),
        }
    }

    fn over(&self, outcome: &'static str) {
        self.metrics.session_over(outcome);
        if let Some(trace) = &self.trace {
            trace.outcome(outcome);
        }
    }

    /// What is told of every finished step.
    fn observer(&self, traffic: Arc<Traffic>) -> Observer {
        let (id, model) = (self.id, self.model.clone());
        let (gate, ledger) = (Arc::clone(&self.gate), self.ledger.clone());
        let n_relus = self.plan.public().graph().n_relus();
        let batch = self.plan.public().batch() as i64;
        let trace = self.trace.clone();
        let mut pool = self.metrics.pool(&model);
        Box::new(move |step| {
            pool.add(match step.phase {
                Phase::Setup => 0,
                Phase::Offline => batch,
                Phase::Online => -1,
            });
            gate.has_prepared(pool.n());
            gate.step_done();
            traffic.pass_on();
            traffic
                .metrics
                .step(&model, step.phase, step.seconds, n_relus);
            if let Some(trace) = &trace {
                trace.step(&step);
            }
            if let Some(ledger) = &ledger {
                ledger.append(id, &model, &step);
            }
        })
    }
}
