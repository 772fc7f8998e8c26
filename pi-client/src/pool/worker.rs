//! One thread of the pool: what it does with each task. Its session and what is prepared in it: see `stock`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pi_protocol::client::Prepared;

use super::stock::{Failure, Stock};
use super::{Answered, Job, LONGEST_PAUSE, Query, Shared, Task};
use crate::error::{ClientError, PREPARING};
use crate::observer::Note;
use crate::retry::Retries;
use crate::stats::Stats;

pub(super) struct Worker {
    shared: Arc<Shared>,
    me: usize,
    stock: Stock,
}

/// An inference to answer with.
struct Ready {
    /// From the disk; otherwise the next in store.
    kept: Option<Prepared>,
    prepared_ahead: bool,
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, me: usize) -> Self {
        let desks = Arc::clone(&shared);
        // The client's end breaks the new session off.
        let admit = move |abort| {
            let mut state = desks.lock();
            if state.is_closing && state.on_close.is_empty() {
                return Err(ClientError::Closed);
            }
            state.desks[me].abort = abort;
            Ok(())
        };
        let stock = Stock::new(Arc::clone(&shared.terms), Box::new(admit));
        Self { shared, me, stock }
    }

    pub(super) fn run(mut self) {
        loop {
            match self.shared.next(self.me) {
                Task::Stop => break,
                Task::Look => self.stock.forget_if_dead(),
                Task::Refill => self.refill(),
                Task::Do(job) => self.work(job),
            }
            self.publish();
        }
        self.stock.retire();
        let mut state = self.shared.lock();
        if let Some(report) = self.stock.into_report() {
            crate::Report::add(&mut state.report, report);
        }
        let done = state.on_close.pop();
        drop(state);
        if let Some(done) = done {
            let _ = done.send(());
        }
    }

    fn work(&mut self, job: Job) {
        match job {
            Job::Prepare { n, reply } => {
                let outcome = self.prepare(n, || reply.is_closed());
                self.publish();
                // The caller may be gone; what was prepared stays.
                let _ = reply.send(outcome);
            }
            Job::Save { n, reply } => {
                let outcome = self.save(n, || reply.is_closed());
                self.publish();
                let _ = reply.send(outcome);
            }
            Job::Infer { query, reply } => {
                let answer = self.infer(&query, || reply.is_closed());
                if let Ok(answered) = &answer {
                    self.shared.lock().last_stats = Some(answered.stats);
                }
                // Before the answer: who has it may ask how many are left.
                self.publish();
                let _ = reply.send(answer);
            }
        }
    }

    /// Tells the others what this thread has in store, and that it is free.
    fn publish(&self) {
        let n = self.stock.n_prepared();
        let has_session = self.stock.batch().is_some();
        self.shared.update(self.me, |desk| {
            desk.n_prepared = n;
            desk.is_preparing = false;
            if !has_session {
                desk.abort = None;
            }
        });
    }

    /// Prepares `n` more, in whole batches, until `is_cancelled`.
    fn prepare(&mut self, n: usize, is_cancelled: impl Fn() -> bool) -> Result<(), ClientError> {
        let retries = self.shared.terms.retries;
        if n > 0 {
            self.stock.open(n, retries)?;
            self.stock.check_room(n)?;
        }
        let mut n_done = 0;
        while n_done < n && !is_cancelled() {
            let n_before = self.stock.n_prepared();
            let n_new = self.prepare_batch(n, n - n_done, retries)?;
            // A session that broke meanwhile took with it what was prepared in it.
            let is_same = self.stock.n_prepared() == n_before + n_new;
            n_done = if is_same { n_done + n_new } else { n_new };
        }
        Ok(())
    }

    /// Prepares one batch in a session that suits `n`, of which `n_left` are still wanted.
    fn prepare_batch(
        &mut self,
        n: usize,
        n_left: usize,
        retries: Retries,
    ) -> Result<usize, ClientError> {
        // A server may go away between opening and preparing. No input was sent, so another one is asked.
        let observer = Arc::clone(&self.shared.terms.observer);
        let n_new = retries.run(
            || {
                self.stock.open(n, Retries::NONE)?;
                self.stock.prepare(n_left)
            },
            |error, wait| observer.tries_again(error, wait),
        )?;
        let n_prepared = self.stock.n_prepared();
        self.shared
            .update(self.me, |desk| desk.n_prepared = n_prepared);
        Ok(n_new)
    }

    /// Prepares `n` more and writes them down, in whole batches, until `is_cancelled`.
    fn save(&mut self, n: usize, is_cancelled: impl Fn() -> bool) -> Result<(), ClientError> {
        let terms = Arc::clone(&self.shared.terms);
        let (store, kept_for) = terms.kept.to_write()?;
        let largest = terms.description.largest_batch(terms.options);
        // Those that wait can be used in one session with the new ones only if their batches are of one size.
        let waiting = store.waiting(|batch| batch <= largest && terms.fits(batch))?;
        let batch = waiting.map_or_else(|| terms.batch_for(n), |waiting| waiting.batch);
        let mut n_done = 0;
        while n_done < n && !is_cancelled() {
            let prepared = terms.retries.run(
                || {
                    self.stock.open_for_batch(batch, Retries::NONE)?;
                    match self.stock.prepare_kept(n - n_done) {
                        // The server may have stored the batch, and another would lie there as well.
                        Err(error @ ClientError::Lost { during, .. }) if during == PREPARING => {
                            Ok(Err(error))
                        }
                        other => other.map(Ok),
                    }
                },
                |error, wait| terms.observer.tries_again(error, wait),
            )??;
            n_done += prepared.len().max(1);
            for prepared in prepared {
                store.put(prepared, self.stock.plan()?, kept_for)?;
            }
        }
        Ok(())
    }

    fn infer(
        &mut self,
        query: &Query,
        is_cancelled: impl Fn() -> bool,
    ) -> Result<Answered, ClientError> {
        let terms = Arc::clone(&self.shared.terms);
        let mut notes = Vec::new();
        let mut tell = |note: Note| {
            terms.observer.notes(&note);
            notes.push(note.to_string());
        };
        let mut n_not_begun = 0;
        loop {
            let ready = self.ready(query.n_left, &mut tell)?;
            if is_cancelled() {
                // What was taken off the disk stays unused.
                return Err(ClientError::Closed);
            }
            let is_kept = ready.kept.is_some();
            let (offline_seconds, offline_bytes) = match is_kept {
                true => (0.0, 0),
                false => self.stock.next_paid(),
            };
            let waited = query.called.elapsed();
            match self.stock.infer(ready.kept, &query.values) {
                Ok((answer, online_bytes)) => {
                    if is_kept {
                        terms.kept.works();
                    }
                    let stats = Stats {
                        online_seconds: answer.time.as_secs_f64(),
                        offline_seconds,
                        waited_seconds: waited.as_secs_f64(),
                        online_bytes,
                        offline_bytes,
                        prepared_ahead: ready.prepared_ahead,
                    };
                    return Ok(Answered {
                        plan: Arc::clone(self.stock.plan()?),
                        output: answer.output,
                        stats,
                        notes,
                    });
                }
                // The image gets another mask: the one that was tried is used up, whatever became of it.
                Err(Failure { error, .. })
                    if is_kept && terms.kept.settle(&error, &mut tell)? => {}
                // As above, where a server goes away between preparing and asking: the next one is asked under another mask.
                Err(Failure {
                    error: ClientError::Lost { .. } | ClientError::Refused { .. },
                    not_begun: true,
                }) if n_not_begun < terms.retries.n => n_not_begun += 1,
                Err(Failure { error, .. }) => return Err(error),
            }
        }
    }

    /// An inference for the next of `n` queries: one in store, one from the disk, or the first of a new batch.
    fn ready(&mut self, n: usize, tell: &mut dyn FnMut(Note)) -> Result<Ready, ClientError> {
        self.stock.forget_if_dead();
        let has_stock = self.stock.n_prepared() > 0;
        let kept = match has_stock {
            true => None,
            false => self.restore(n, tell)?,
        };
        let prepared_ahead = has_stock || kept.is_some();
        if !prepared_ahead {
            self.prepare_batch(n, n, self.shared.terms.retries)?;
        }
        Ok(Ready {
            kept,
            prepared_ahead,
        })
    }

    /// An inference from the disk for the next of `n` queries, and a session to run it in.
    fn restore(
        &mut self,
        n: usize,
        tell: &mut dyn FnMut(Note),
    ) -> Result<Option<Prepared>, ClientError> {
        let terms = Arc::clone(&self.shared.terms);
        let Some(waiting) = terms.kept.usable(|batch| terms.fits(batch), tell)? else {
            return Ok(None);
        };
        if self.stock.batch() != Some(waiting.batch) {
            let n_missing = n.saturating_sub(waiting.n);
            // One session for both, if those that will be missing can be prepared in it just as well.
            if n_missing > 0 && terms.batch_for(n_missing) <= waiting.batch {
                self.stock.retire();
                self.stock.open_for_batch(waiting.batch, terms.retries)?;
            } else {
                self.stock.open_for_kept(waiting.batch)?;
            }
            // The server may have said meanwhile that it keeps nothing.
            if terms
                .kept
                .usable(|batch| terms.fits(batch), tell)?
                .is_none()
            {
                return Ok(None);
            }
        }
        terms.kept.take(self.stock.plan()?, tell)
    }

    /// Prepares one batch in the background. A failure is kept for who asks, and tried again later.
    fn refill(&mut self) {
        let keep = self.shared.terms.keep_prepared;
        // Two threads share the store, so that one can answer while the other prepares.
        let n = keep.div_ceil(2);
        // Nobody waits for it: it is not tried again at once, so that the other thread may.
        let outcome = self.prepare_batch(n, n, Retries::NONE);
        let mut state = self.shared.lock();
        match outcome {
            Ok(_) => {
                state.trouble = None;
                let desk = &mut state.desks[self.me];
                (desk.not_before, desk.n_failures) = (None, 0);
            }
            Err(error) => {
                let desk = &mut state.desks[self.me];
                desk.n_failures = (desk.n_failures + 1).min(16);
                let pause = Duration::from_secs(1) * (1 << desk.n_failures.min(6));
                let pause = error.retry_after().unwrap_or(pause).max(pause);
                desk.not_before = Some(Instant::now() + pause.min(LONGEST_PAUSE));
                // A second session that is not granted is no trouble as long as the first one works.
                if self.me == 0 || state.n_prepared() == 0 {
                    state.trouble = Some(error.to_string());
                }
            }
        }
    }
}
