//! One thread of the pool: its session, and what it does with each task.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pi_protocol::client::Prepared;

use super::{Answered, Job, LONGEST_PAUSE, Shared, Task};
use crate::error::ClientError;
use crate::retry::Retries;
use crate::session::{DEFAULT_BATCH, Session};
use crate::stats::Stats;

pub(super) struct Worker {
    shared: Arc<Shared>,
    me: usize,
    session: Option<Session>,
    /// The session was opened for inferences from the disk, and cannot prepare.
    is_for_kept: bool,
    /// Nobody waits for what is being done: it is not tried again at once, so that the other thread may.
    in_background: bool,
    /// Seconds and bytes of preparing each inference in store, in the order of their use.
    paid: VecDeque<(f64, u64)>,
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, me: usize) -> Self {
        Self {
            shared,
            me,
            session: None,
            is_for_kept: false,
            in_background: false,
            paid: VecDeque::new(),
        }
    }

    pub(super) fn run(mut self) {
        loop {
            match self.shared.next(self.me) {
                Task::Stop => break,
                Task::Look => self.forget_if_dead(),
                Task::Refill => self.refill(),
                Task::Do(Job::Prepare { n, save, reply }) => {
                    let outcome = match save {
                        true => self.save(n, || reply.is_closed()),
                        false => self.prepare(n, || reply.is_closed()),
                    };
                    self.publish();
                    // The caller may be gone; what was prepared stays.
                    let _ = reply.send(outcome);
                }
                Task::Do(Job::Infer {
                    values,
                    called,
                    reply,
                }) => {
                    let answer = self.infer(&values, called, || reply.is_closed());
                    if let Ok((_, _, stats)) = &answer {
                        self.shared.lock().last_stats = Some(*stats);
                    }
                    // Before the answer: who has it may ask how many are left.
                    self.publish();
                    let _ = reply.send(answer);
                }
            }
            self.publish();
        }
        if let Some(session) = self.session.take() {
            // The server may be gone; all results are out already.
            let _ = session.close();
        }
        let done = self.shared.lock().on_close.pop();
        if let Some(done) = done {
            let _ = done.send(());
        }
    }

    /// Tells the others what this thread has in store, and that it is free.
    fn publish(&self) {
        let n = self.session.as_ref().map_or(0, Session::n_prepared);
        self.shared.update(self.me, |desk| {
            desk.n_prepared = n;
            desk.is_preparing = false;
        });
    }

    /// The session, opened if there is none that can prepare. `n` is how many inferences are wanted.
    fn open(&mut self, n: usize) -> Result<&mut Session, ClientError> {
        self.forget_if_dead();
        let terms = &self.shared.terms;
        let largest = terms.description.largest_batch(terms.options);
        let most = largest.clamp(1, DEFAULT_BATCH);
        let n = n.max(1);
        // Batches of equal size, so that little is prepared in vain.
        let batch = terms.batch.unwrap_or_else(|| n.div_ceil(n.div_ceil(most)));
        // With nothing in store, one more set-up costs less than a flight of its own for each of many inferences.
        let is_too_small =
            |session: &Session| session.n_prepared() == 0 && session.plan().batch() < batch;
        let is_replaced = self.is_for_kept || self.session.as_ref().is_some_and(is_too_small);
        if is_replaced && let Some(session) = self.session.take() {
            // It has answered all that it was opened for, so how it ends changes nothing.
            let _ = session.close();
        }
        let session = match self.session.take() {
            Some(session) => session,
            None => {
                self.is_for_kept = false;
                // Opening spends nothing that can be used once.
                let retries = match self.in_background {
                    true => Retries::NONE,
                    false => terms.retries,
                };
                let session = retries.run(
                    || {
                        terms
                            .client
                            .session_with(&terms.description, batch, terms.options)
                    },
                    |_, _| {},
                )?;
                self.admit(&session)?;
                session
            }
        };
        Ok(self.session.insert(session))
    }

    /// Makes a new session one that the client's end breaks off.
    fn admit(&self, session: &Session) -> Result<(), ClientError> {
        let abort = session.abort_handle();
        let mut state = self.shared.lock();
        if state.is_closing && state.on_close.is_empty() {
            return Err(ClientError::Closed);
        }
        state.desks[self.me].abort = abort;
        Ok(())
    }

    /// Prepares `n` more and writes them down, in whole batches, until `is_cancelled`.
    fn save(&mut self, n: usize, is_cancelled: impl Fn() -> bool) -> Result<(), ClientError> {
        let shared = Arc::clone(&self.shared);
        let kept_for = shared.terms.description.kept_for;
        let store = shared.terms.store.as_ref().filter(|_| !kept_for.is_zero());
        let store = store.ok_or_else(|| {
            ClientError::Usage("saving needs a store in the client's configuration, and a server that keeps its half (`pi-server serve --store`)".into())
        })?;
        let mut n_done = 0;
        while n_done < n && !is_cancelled() {
            let session = self.open(n)?;
            let prepared = session.prepare_kept();
            let plan = Arc::clone(session.plan());
            let prepared = prepared.inspect_err(|_| self.forget())?;
            n_done += prepared.len().max(1);
            for prepared in prepared {
                store.put(prepared, &plan, kept_for)?;
            }
        }
        Ok(())
    }

    /// An inference from the disk, and the session to run it in, if there is one that fits.
    fn restore(&mut self) -> Result<Option<Prepared>, ClientError> {
        let shared = Arc::clone(&self.shared);
        let terms = &shared.terms;
        let Some(store) = &terms.store else {
            return Ok(None);
        };
        let (_, Some(batch)) = store.waiting()? else {
            return Ok(None);
        };
        self.forget_if_dead();
        if self.session.is_none() && batch <= terms.description.max_batch {
            let session = terms.retries.run(
                || terms.client.session_for_kept(&terms.description, batch),
                |_, _| {},
            )?;
            self.admit(&session)?;
            self.is_for_kept = true;
            self.session = Some(session);
        }
        match &self.session {
            Some(session) => Ok(store.take(session.plan())?.prepared),
            None => Ok(None),
        }
    }

    fn forget_if_dead(&mut self) {
        if self.session.as_ref().is_some_and(|s| !s.is_alive()) {
            self.forget();
        }
    }

    fn forget(&mut self) {
        self.session = None;
        self.paid.clear();
        self.shared.update(self.me, |desk| {
            desk.n_prepared = 0;
            desk.abort = None;
        });
    }

    /// Prepares `n` more, in whole batches, until `is_cancelled`.
    fn prepare(&mut self, n: usize, is_cancelled: impl Fn() -> bool) -> Result<(), ClientError> {
        if n > 0 {
            self.open(n)?.check_room(n)?;
        }
        let mut n_done = 0;
        while n_done < n && !is_cancelled() {
            n_done += self.prepare_batch(n)?;
        }
        Ok(())
    }

    fn prepare_batch(&mut self, n: usize) -> Result<usize, ClientError> {
        let session = self.open(n)?;
        session.check_room(session.plan().batch())?;
        let (started, before) = (Instant::now(), wire_bytes(session));
        let n_before = session.n_prepared();
        if let Err(error) = session.prepare() {
            self.forget();
            return Err(error);
        }
        let n_new = session.n_prepared() - n_before;
        let each = n_new.max(1);
        let seconds = started.elapsed().as_secs_f64() / each as f64;
        let bytes = (wire_bytes(session) - before) / each as u64;
        let n_prepared = session.n_prepared();
        self.paid
            .extend(std::iter::repeat_n((seconds, bytes), n_new));
        self.shared
            .update(self.me, |desk| desk.n_prepared = n_prepared);
        Ok(n_new)
    }

    fn infer(
        &mut self,
        values: &[i64],
        called: Instant,
        is_cancelled: impl Fn() -> bool,
    ) -> Answered {
        loop {
            match self.infer_once(values, called, &is_cancelled) {
                // One that is prepared now answers.
                Err(error) if error.is_kept_gone() => {
                    if let Some(store) = &self.shared.terms.store {
                        store.discard()?;
                    }
                }
                outcome => return outcome,
            }
        }
    }

    fn infer_once(
        &mut self,
        values: &[i64],
        called: Instant,
        is_cancelled: impl Fn() -> bool,
    ) -> Answered {
        self.forget_if_dead();
        let has_stock = self.session.as_ref().is_some_and(|s| s.n_prepared() > 0);
        let restored = match has_stock {
            true => None,
            false => self.restore()?,
        };
        let prepared_ahead = has_stock || restored.is_some();
        if !prepared_ahead {
            self.prepare_batch(1)?;
        }
        if is_cancelled() {
            // What was restored is off the disk and stays unused.
            return Err(ClientError::Closed);
        }
        let (offline_seconds, offline_bytes) = match &restored {
            Some(_) => (0.0, 0),
            None => self.paid.pop_front().unwrap_or_default(),
        };
        let Some(session) = &mut self.session else {
            return Err(ClientError::Closed);
        };
        let (waited, before) = (called.elapsed(), wire_bytes(session));
        let answer = match restored {
            Some(prepared) => session.infer_with(prepared, values),
            None => session.infer(values),
        };
        match answer {
            Ok(answer) => {
                let stats = Stats {
                    online_seconds: answer.time.as_secs_f64(),
                    offline_seconds,
                    waited_seconds: waited.as_secs_f64(),
                    online_bytes: wire_bytes(session) - before,
                    offline_bytes,
                    prepared_ahead,
                };
                Ok((Arc::clone(session.plan()), answer.output, stats))
            }
            // The session goes on.
            Err(error) if error.is_kept_gone() => Err(error),
            Err(error) => {
                self.forget();
                Err(error)
            }
        }
    }

    /// Prepares one batch in the background. A failure is kept for who asks, and tried again later.
    fn refill(&mut self) {
        let keep = self.shared.terms.keep_prepared;
        // Two threads share the store, so that one can answer while the other prepares.
        self.in_background = true;
        let outcome = self.prepare_batch(keep.div_ceil(2));
        self.in_background = false;
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

fn wire_bytes(session: &Session) -> u64 {
    session.meter().n_bytes_sent() + session.meter().n_bytes_received()
}
