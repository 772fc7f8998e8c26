//! A session in use: opened when it is needed, given up when it is of no use, with what was prepared in it and what that cost.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use pi_model::PublicPlan;
use pi_proto::WireMeter;
use pi_protocol::client::Prepared;
use pi_protocol::cost::Cost;
use pi_protocol::ledger::{Direction, Phase};
use tokio::task::AbortHandle;
use tonic::Code;

use super::terms::Terms;
use crate::error::ClientError;
use crate::observer::{Activity, Work};
use crate::report::Report;
use crate::retry::Retries;
use crate::session::{Answer, Session};

/// Lets a new session be broken off from elsewhere, or says that it is not wanted any more.
pub(super) type Admit = Box<dyn Fn(Option<AbortHandle>) -> Result<(), ClientError> + Send>;

pub(super) struct Stock {
    terms: Arc<Terms>,
    admit: Admit,
    session: Option<Session>,
    /// The session was opened for inferences from the disk, and cannot prepare.
    is_for_kept: bool,
    /// Seconds and bytes of preparing each inference in store, in the order of their use.
    paid: VecDeque<(f64, u64)>,
    /// Payload of a batch offline and of an inference online in this session.
    n_bytes: (u64, u64),
    /// What the sessions before this one have cost.
    past: Option<Report>,
}

impl Stock {
    pub(super) fn new(terms: Arc<Terms>, admit: Admit) -> Self {
        Self {
            terms,
            admit,
            session: None,
            is_for_kept: false,
            paid: VecDeque::new(),
            n_bytes: (0, 0),
            past: None,
        }
    }

    /// Inferences that are ready.
    pub(super) fn n_prepared(&self) -> usize {
        self.session.as_ref().map_or(0, Session::n_prepared)
    }

    /// The size of its session's batches, if there is a session.
    pub(super) fn batch(&self) -> Option<usize> {
        self.session.as_ref().map(|session| session.plan().batch())
    }

    pub(super) fn plan(&self) -> Result<&Arc<PublicPlan>, ClientError> {
        let session = self.session.as_ref().ok_or(ClientError::Closed)?;
        Ok(session.plan())
    }

    pub(super) fn forget_if_dead(&mut self) {
        if self.session.as_ref().is_some_and(|s| !s.is_alive()) {
            self.broke();
        }
    }

    /// Gives up a session that ended by itself. Its server may be going away, so the next one looks for a server anew.
    fn broke(&mut self) {
        self.forget();
        self.terms.client.reconnect();
    }

    /// Gives up a session that is over, and all that was prepared in it.
    pub(super) fn forget(&mut self) {
        if let Some(session) = self.session.take() {
            Report::add(&mut self.past, session.report());
        }
        self.paid.clear();
    }

    /// Ends the session in good order. How it ends changes nothing: all its answers are out.
    pub(super) fn retire(&mut self) {
        if let Some(session) = self.session.take() {
            let so_far = session.report();
            Report::add(&mut self.past, session.close().unwrap_or(so_far));
        }
        self.paid.clear();
    }

    /// What all sessions have cost that are over.
    pub(super) fn into_report(self) -> Option<Report> {
        self.past
    }

    /// A session that can prepare, opened if there is none, for batches that suit `n` inferences.
    pub(super) fn open(&mut self, n: usize, retries: Retries) -> Result<(), ClientError> {
        self.open_for_batch(self.terms.batch_for(n), retries)
    }

    /// The same for batches of `batch`.
    pub(super) fn open_for_batch(
        &mut self,
        batch: usize,
        retries: Retries,
    ) -> Result<(), ClientError> {
        self.forget_if_dead();
        // With nothing in store, one more set-up costs less than a flight of its own for each of many inferences.
        let is_too_small =
            |session: &Session| session.n_prepared() == 0 && session.plan().batch() < batch;
        if self.is_for_kept || self.session.as_ref().is_some_and(is_too_small) {
            self.retire();
        }
        if self.session.is_none() {
            self.is_for_kept = false;
            let (terms, options) = (Arc::clone(&self.terms), self.terms.options);
            self.connect(retries, || {
                terms
                    .client
                    .session_with(&terms.description, batch, options)
            })?;
        }
        Ok(())
    }

    /// A session for kept inferences that were prepared in batches of `batch`, without keys: it cannot prepare.
    pub(super) fn open_for_kept(&mut self, batch: usize) -> Result<(), ClientError> {
        self.retire();
        self.is_for_kept = true;
        let terms = Arc::clone(&self.terms);
        self.connect(terms.retries, || {
            terms.client.session_for_kept(&terms.description, batch)
        })
    }

    /// Opening spends nothing that can be used once, so it is tried again.
    fn connect(
        &mut self,
        retries: Retries,
        open: impl Fn() -> Result<Session, ClientError>,
    ) -> Result<(), ClientError> {
        let terms = &self.terms;
        let _work = terms.observer.begins(&Work::new(Activity::SettingUp));
        let opened = retries.run(
            || {
                terms.kept.refresh(|| {
                    let name = &terms.description.model.spec().name;
                    Ok(terms.client.describe(Some(name))?.kept_for)
                })?;
                open()
            },
            |error, wait| terms.observer.tries_again(error, wait),
        );
        let session = opened?;
        (self.admit)(session.abort_handle())?;
        let cost = Cost::with_options(session.plan(), session.options())?;
        let n_bytes = |phase| cost.bytes(phase, Direction::Up) + cost.bytes(phase, Direction::Down);
        self.n_bytes = (n_bytes(Phase::Offline), n_bytes(Phase::Online));
        self.session = Some(session);
        Ok(())
    }

    /// Whether `n` more may be prepared in the session.
    pub(super) fn check_room(&self, n: usize) -> Result<(), ClientError> {
        self.session
            .as_ref()
            .map_or(Ok(()), |session| session.check_room(n))
    }

    /// Prepares one batch in the open session, of `n_left` inferences that are wanted.
    pub(super) fn prepare(&mut self, n_left: usize) -> Result<usize, ClientError> {
        let session = self.session.as_mut().ok_or(ClientError::Closed)?;
        let n = session.plan().batch();
        session.check_room(n)?;
        let doing = Activity::Preparing { n, n_left };
        let work = Work::metered(doing, self.n_bytes.0, session.meter());
        let (started, n_before) = (Instant::now(), session.n_prepared());
        let watched = self.terms.observer.begins(&work);
        let done = session.prepare();
        drop(watched);
        if let Err(error) = done {
            self.broke();
            return Err(error);
        }
        let n_new = session.n_prepared() - n_before;
        let each = n_new.max(1);
        let seconds = started.elapsed().as_secs_f64() / each as f64;
        let bytes = work.n_bytes_done() / each as u64;
        self.paid
            .extend(std::iter::repeat_n((seconds, bytes), n_new));
        Ok(n_new)
    }

    /// Prepares one batch in the open session that both sides keep.
    pub(super) fn prepare_kept(&mut self, n_left: usize) -> Result<Vec<Prepared>, ClientError> {
        let session = self.session.as_mut().ok_or(ClientError::Closed)?;
        let n = session.plan().batch();
        let doing = Activity::Keeping { n, n_left };
        let work = Work::metered(doing, self.n_bytes.0, session.meter());
        let _watched = self.terms.observer.begins(&work);
        let done = session.prepare_kept();
        done.inspect_err(|_| self.broke())
    }

    /// Seconds and bytes for which the next inference in store was prepared.
    pub(super) fn next_paid(&mut self) -> (f64, u64) {
        self.paid.pop_front().unwrap_or_default()
    }

    /// Runs one inference: `kept`, or else the next in store. Returns the answer and the bytes on the wire. After an error the
    /// session is over, unless the server did not have its half of `kept`.
    pub(super) fn infer(
        &mut self,
        kept: Option<Prepared>,
        values: &[i64],
    ) -> Result<(Answer, u64), Failure> {
        let session = self.session.as_mut().ok_or(ClientError::Closed)?;
        let work = Work::metered(Activity::Inferring, self.n_bytes.1, session.meter());
        let _watched = self.terms.observer.begins(&work);
        let counts = |meter: &WireMeter| (meter.n_bytes_sent(), meter.n_bytes_received());
        let before = counts(session.meter());
        let answer = match kept {
            Some(kept) => session.infer_with(kept, values),
            None => session.infer(values),
        };
        match answer {
            Ok(answer) => Ok((answer, work.n_bytes_done())),
            Err(error) => {
                let (sent, received) = counts(session.meter());
                let says_stopping = matches!(&error, ClientError::Refused { code, .. } if *code == Code::Unavailable);
                let not_begun = sent == before.0 || says_stopping && received == before.1;
                let goes_on = matches!(&error, ClientError::Protocol(pi_protocol::Error::Kept(_)));
                if !goes_on {
                    self.broke();
                }
                Err(Failure { error, not_begun })
            }
        }
    }
}

/// Why a query was not answered.
pub(super) struct Failure {
    pub(super) error: ClientError,
    /// No byte of the query left; or the server, or a balancer before it, says that it is not available and nothing was answered. What was to answer it is used up
    /// in any case, and the image may be asked for with another.
    pub(super) not_begun: bool,
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self {
            error,
            not_begun: true,
        }
    }
}
