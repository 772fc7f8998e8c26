//! The threads behind the asynchronous client: each holds a session with a store of prepared inferences, and takes jobs.
//!
//! Without preparation in the background there is one thread. With it there are two, each with a session of its own, so that one
//! answers from its store while the other prepares: a session does one thing at a time. The second takes no job that it
//! has nothing prepared for, and never prepares unless the first has something in store or the store is to be filled.
//!
//! Cancelling: a job whose caller is gone is dropped when it would begin. One that has begun is finished, because a session
//! cannot be left in the middle of a step; its answer is thrown away, and what it used is used.
//!
//! Failing: a session that ends takes its store with it; the next job opens another.

mod stock;
mod terms;
mod worker;

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pi_model::PublicPlan;
use pi_protocol::client::Output;
use tokio::sync::oneshot::Sender;
use tokio::task::AbortHandle;
use zeroize::Zeroizing;

use crate::error::ClientError;
use crate::report::Report;
use crate::stats::Stats;
use worker::Worker;

pub(crate) use terms::Terms;

/// How often an idle thread looks whether its session is still there.
const TICK: Duration = Duration::from_secs(1);
/// Longest wait between tries to prepare in the background.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What the caller gets.
pub(crate) struct Answered {
    /// To read the output by.
    pub(crate) plan: Arc<PublicPlan>,
    pub(crate) output: Output,
    pub(crate) stats: Stats,
    /// What became of kept inferences.
    pub(crate) notes: Vec<String>,
}

/// What is to be classified.
pub(crate) struct Query {
    pub(crate) values: Zeroizing<Vec<i64>>,
    pub(crate) called: Instant,
    /// Queries that are to come one after the other, this one included.
    pub(crate) n_left: usize,
}

pub(crate) enum Job {
    Prepare {
        n: usize,
        reply: Sender<Result<(), ClientError>>,
    },
    /// Prepare for a later start instead of this one.
    Save {
        n: usize,
        reply: Sender<Result<(), ClientError>>,
    },
    Infer {
        query: Query,
        reply: Sender<Result<Answered, ClientError>>,
    },
}

impl Job {
    fn is_cancelled(&self) -> bool {
        match self {
            Self::Prepare { reply, .. } | Self::Save { reply, .. } => reply.is_closed(),
            Self::Infer { reply, .. } => reply.is_closed(),
        }
    }
}

#[derive(Default)]
struct Desk {
    n_prepared: usize,
    is_preparing: bool,
    abort: Option<AbortHandle>,
    /// When it may prepare in the background again, after a failure.
    not_before: Option<Instant>,
    n_failures: u32,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    desks: Vec<Desk>,
    is_closing: bool,
    /// A thread ended in a panic, perhaps of the user's observer.
    is_broken: bool,
    /// Why preparing in the background fails at present.
    trouble: Option<String>,
    last_stats: Option<Stats>,
    on_close: Vec<Sender<()>>,
    /// What the sessions have cost of the threads that are done.
    report: Option<Report>,
}

struct Shared {
    terms: Arc<Terms>,
    state: Mutex<State>,
    wake: Condvar,
}

pub(crate) struct Pool(Arc<Shared>);

enum Task {
    Do(Job),
    Refill,
    Look,
    Stop,
}

impl Pool {
    pub(crate) fn start(terms: Terms) -> std::io::Result<Self> {
        let n_threads = if terms.keep_prepared > 0 { 2 } else { 1 };
        let mut state = State::default();
        state.desks.resize_with(n_threads, Desk::default);
        let shared = Arc::new(Shared {
            terms: Arc::new(terms),
            state: Mutex::new(state),
            wake: Condvar::new(),
        });
        // Dropped, it ends the threads that were started before one could not be.
        let pool = Self(shared);
        for me in 0..n_threads {
            let shared = Arc::clone(&pool.0);
            std::thread::Builder::new()
                .name(format!("inference {me}"))
                .spawn(move || {
                    let _guard = IfPanics(Arc::clone(&shared));
                    Worker::new(shared, me).run();
                })?;
        }
        Ok(pool)
    }

    pub(crate) fn terms(&self) -> &Terms {
        &self.0.terms
    }

    /// A job that nobody will do is dropped: whoever waits for it hears that the client is closed.
    pub(crate) fn submit(&self, job: Job) {
        let mut state = self.0.lock();
        if !state.is_broken {
            state.jobs.push_back(job);
        }
        drop(state);
        self.0.wake.notify_all();
    }

    pub(crate) fn n_prepared(&self) -> usize {
        self.0.lock().n_prepared()
    }

    pub(crate) fn trouble(&self) -> Option<String> {
        self.0.lock().trouble.clone()
    }

    pub(crate) fn last_stats(&self) -> Option<Stats> {
        self.0.lock().last_stats
    }

    /// What all sessions have cost of the threads that are done.
    pub(crate) fn take_report(&self) -> Option<Report> {
        self.0.lock().report.take()
    }

    /// Ends all sessions once their jobs are done; `done` hears of it, one word from each thread.
    pub(crate) fn close(&self, mut done: impl FnMut() -> Sender<()>) {
        let mut state = self.0.lock();
        state.is_closing = true;
        for _ in 0..state.desks.len() {
            let done = done();
            // Threads of a broken pool end by themselves, and this one is dropped: there is nothing to wait for.
            if !state.is_broken {
                state.on_close.push(done);
            }
        }
        drop(state);
        self.0.wake.notify_all();
    }

    pub(crate) fn n_threads(&self) -> usize {
        self.0.lock().desks.len()
    }
}

/// Ends the whole pool if its thread ends in a panic, so that nobody waits for it for ever.
struct IfPanics(Arc<Shared>);

impl Drop for IfPanics {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let mut state = self.0.lock();
        (state.is_closing, state.is_broken) = (true, true);
        state.trouble = Some("a thread of this client ended in a panic; connect anew".into());
        state.jobs.clear();
        state.on_close.clear();
        drop(state);
        self.0.wake.notify_all();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        let was_closing = std::mem::replace(&mut state.is_closing, true);
        state.jobs.clear();
        if !was_closing {
            // Nobody waits for what the threads are doing.
            for desk in &state.desks {
                if let Some(abort) = &desk.abort {
                    abort.abort();
                }
            }
        }
        drop(state);
        self.0.wake.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for something that thread `me` should do.
    fn next(&self, me: usize) -> Task {
        let mut state = self.lock();
        loop {
            state.jobs.retain(|job| !job.is_cancelled());
            if let Some(job) = state.take_job(me) {
                if !matches!(job, Job::Infer { .. }) {
                    state.desks[me].is_preparing = true;
                }
                return Task::Do(job);
            }
            if state.is_closing && (me > 0 || state.jobs.is_empty()) {
                return Task::Stop;
            }
            if state.should_refill(me, self.terms.keep_prepared) {
                state.desks[me].is_preparing = true;
                return Task::Refill;
            }
            let (back, timeout) = self
                .wake
                .wait_timeout(state, TICK)
                .unwrap_or_else(PoisonError::into_inner);
            state = back;
            if timeout.timed_out() && state.desks[me].n_prepared > 0 {
                return Task::Look;
            }
        }
    }

    /// Changes thread `me`'s desk and tells the others.
    fn update(&self, me: usize, change: impl FnOnce(&mut Desk)) {
        change(&mut self.lock().desks[me]);
        self.wake.notify_all();
    }
}

impl State {
    fn n_prepared(&self) -> usize {
        self.desks.iter().map(|desk| desk.n_prepared).sum()
    }

    fn take_job(&mut self, me: usize) -> Option<Job> {
        let others = || self.desks.iter().enumerate().filter(|(i, _)| *i != me);
        let has_stock = self.desks[me].n_prepared > 0;
        // Without anything prepared, only the first thread answers, and only if nobody else soon can.
        let answers =
            has_stock || me == 0 && others().all(|(_, d)| d.n_prepared == 0 && !d.is_preparing);
        let position = self.jobs.iter().position(|job| match job {
            Job::Infer { .. } => answers,
            Job::Prepare { .. } | Job::Save { .. } => me == 0,
        })?;
        self.jobs.remove(position)
    }

    fn should_refill(&self, me: usize, keep_prepared: usize) -> bool {
        let desk = &self.desks[me];
        let may = desk.not_before.is_none_or(|t| t <= Instant::now());
        let mut others = self.desks.iter().enumerate().filter(|(i, _)| *i != me);
        let (nobody, mine) = (self.desks.iter().all(|d| !d.is_preparing), desk.n_prepared);
        // Whoever has less fills up, the first thread first; unless the other one cannot.
        let turn = others
            .all(|(i, other)| other.not_before.is_some() || (mine, me) < (other.n_prepared, i));
        may && nobody && turn && !self.is_closing && self.n_prepared() < keep_prepared
    }
}
