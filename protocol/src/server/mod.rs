//! The server's driver: set-up, offline batches, online inferences, each a list of steps in their order.
//!
//! What the server learns: nothing about the input. The steps themselves are in the rooms of the sub-protocols
//! (`linear`, `transfers`, `relu`, `argmax`).

mod kept;
mod observer;
mod offline;
mod online;
pub(crate) mod prepared;
mod setup;

pub use crate::linear::check::check_plan;
pub use observer::Observer;
pub use prepared::SessionMemory;

use std::collections::HashMap;
use std::sync::Arc;

use pi_model::plan::Plan;
use prepared::Prepared;

use crate::error::{Error, Result};
use crate::he;
use crate::kept::Keeper;
use crate::layout::Layout;
use crate::prg::Seed;
use crate::session::{Request, SessionOptions};
use crate::transfers::server::Receiving;
use crate::wire::channel::Channel;
use crate::wire::ledger::Ledger;
use crate::wire::{Item, Nonces, Phase, Step, Wire};

/// Prepared inferences that one session may keep in memory unless told otherwise.
pub const DEFAULT_MAX_PREPARED: usize = 128;

/// A server's session with one client, after set-up.
pub struct ServerSession<C: Channel> {
    pub(crate) wire: Wire<C>,
    plan: Arc<Plan>,
    layout: Layout,
    seed: Seed,
    nonces: Nonces,
    /// The client's public keys, one for each source.
    keys: Vec<he::PublicKey>,
    /// The OTs in which it receives, from batch to batch.
    receiving: Receiving,
    /// The session was opened for kept inferences alone.
    kept_only: bool,
    /// Where inferences outlive the session; none if they do not.
    keeper: Option<Box<dyn Keeper>>,
    /// Batches prepared so far.
    n_batches: u32,
    /// Set by the first error of the peer or the channel.
    over: bool,
    prepared: HashMap<(u32, u16), Prepared>,
    /// Seconds that set-up took, by the ledger's clock.
    setup_s: f64,
    /// Told of every finished step; costs nothing when there is none.
    observer: Option<Observer>,
    /// Prepared inferences that this session may keep.
    pub max_prepared: usize,
    #[cfg(test)]
    pub(crate) trace: Vec<Trace>,
}

/// What a test needs to open a server's shares of one inference.
#[cfg(test)]
#[derive(Clone)]
pub(crate) struct Trace {
    pub(crate) index: usize,
    pub(crate) tensors: Vec<Vec<u64>>,
    pub(crate) accumulators: Vec<Vec<u64>>,
}

impl<C: Channel> ServerSession<C> {
    /// Serves the client's requests until it ends the session.
    ///
    /// # Errors
    /// [`Error::Peer`] when the client breaks the protocol, [`Error::Channel`] when it goes away. All prepared material of
    /// the session goes with it.
    pub fn serve(&mut self) -> Result<()> {
        if self.over {
            return Err(Error::Misuse(
                "this session is over; accept a new one".into(),
            ));
        }
        let result = self.serve_requests();
        self.over = true;
        self.prepared.clear();
        result
    }

    fn serve_requests(&mut self) -> Result<()> {
        loop {
            let frame = self.wire.recv_frame()?;
            let request = Request::decode(&frame)?;
            self.wire
                .ledger
                .message(Step::Request, 0, frame.payload.len());
            match request {
                Request::End => return Ok(()),
                Request::Prepare { batch } => {
                    self.begin_batch(batch)?;
                    self.observed(Phase::Offline, batch, None, Self::prepare)?;
                }
                Request::PrepareKept { batch, handle } => {
                    self.begin_batch(batch)?;
                    self.admit_kept()?;
                    self.observed(Phase::Offline, batch, None, |session| {
                        session.prepare_kept(&handle)
                    })?;
                }
                Request::InferKept { id, batch, index } => {
                    let item = Item {
                        batch,
                        index: index.into(),
                    };
                    match self.take_kept(&id, item) {
                        Err(why) => self.miss(why, item)?,
                        Ok(prepared) => {
                            self.observed(Phase::Online, batch, Some(index), |session| {
                                session.infer(prepared)
                            })?;
                        }
                    }
                }
                Request::Infer { batch, index } => {
                    let prepared = self.prepared.remove(&(batch, index)).ok_or_else(|| {
                        Error::peer(
                            Step::Request.name(),
                            0,
                            "an inference that is prepared and not used",
                            format!("inference {index} of batch {batch}"),
                        )
                    })?;
                    self.observed(Phase::Online, batch, Some(index), |session| {
                        session.infer(prepared)
                    })?;
                }
            }
        }
    }

    /// Whether batch number `batch` may begin.
    fn begin_batch(&mut self, batch: u32) -> Result<()> {
        let refuse = |expected: String, got: String| {
            Err(Error::peer(Step::Request.name(), 0, expected, got))
        };
        if self.kept_only {
            return refuse(
                "a request for a kept inference, which is all that this session was opened for"
                    .into(),
                "a request to prepare".into(),
            );
        }
        if Some(batch) != self.n_batches.checked_add(1) {
            return refuse(
                format!("the batch after {}", self.n_batches),
                format!("batch {batch}"),
            );
        }
        let n = self.plan.public().batch();
        if self.prepared.len() + n > self.max_prepared {
            return refuse(
                format!(
                    "at most {} prepared inferences in a session",
                    self.max_prepared
                ),
                format!("a request for {n} more than {}", self.prepared.len()),
            );
        }
        self.n_batches = batch;
        Ok(())
    }

    /// What this side has measured so far.
    #[must_use]
    pub const fn ledger(&self) -> &Ledger {
        &self.wire.ledger
    }

    /// Whether the client opened it for kept inferences alone, and chose nothing.
    #[must_use]
    pub const fn is_for_kept(&self) -> bool {
        self.kept_only
    }

    /// What the client chose for this session.
    #[must_use]
    pub const fn options(&self) -> SessionOptions {
        self.layout.options()
    }

    /// Prepared inferences that wait for their query.
    #[must_use]
    pub fn n_prepared(&self) -> usize {
        self.prepared.len()
    }
}
