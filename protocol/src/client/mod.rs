//! The client's driver: set-up, offline batches, online inferences, each a list of steps in their order.
//!
//! What the client learns: its own predictions, and the public plan. The steps themselves are in the rooms of the
//! sub-protocols (`linear`, `transfers`, `relu`, `argmax`).

mod offline;
mod online;
pub(crate) mod prepared;
mod setup;

use prepared::Origin;
pub use prepared::Prepared;

use std::sync::Arc;

use pi_model::plan::PublicPlan;

use crate::error::{Error, Result};
use crate::he;
use crate::layout::Layout;
use crate::prg::Seed;
use crate::session::{Request, SessionOptions};
use crate::transfers::client::Sending;
use crate::wire::channel::Channel;
use crate::wire::ledger::Ledger;
use crate::wire::{Nonces, Wire};

/// A client's session with a server, after set-up.
pub struct ClientSession<C: Channel> {
    pub(crate) wire: Wire<C>,
    plan: Arc<PublicPlan>,
    layout: Layout,
    seed: Seed,
    nonces: Nonces,
    /// One secret key for each source.
    keys: Vec<he::SecretKey>,
    /// The OTs in which the server receives, from batch to batch.
    sending: Sending,
    /// The session was opened for kept inferences alone.
    kept_only: bool,
    /// Batches prepared so far.
    n_batches: u32,
    /// Set by the first error of the peer or the channel.
    over: bool,
    #[cfg(test)]
    pub(crate) trace: Vec<Trace>,
}

/// What a test needs to open a client's shares of one inference.
#[cfg(test)]
#[derive(Clone)]
pub(crate) struct Trace {
    pub(crate) masks: Vec<Vec<u64>>,
    pub(crate) accumulators: Vec<Vec<u64>>,
}

/// What the client learns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// All logits, with the fraction bits of the last layer.
    Logits(Vec<i64>),
    /// The index of the largest logit.
    Class(usize),
}

impl Output {
    /// Index of the largest logit.
    #[must_use]
    pub fn class(&self) -> usize {
        match self {
            Self::Logits(logits) => pi_model::executor::argmax(logits),
            Self::Class(class) => *class,
        }
    }
}

impl<C: Channel> ClientSession<C> {
    /// What this side has measured so far.
    #[must_use]
    pub const fn ledger(&self) -> &Ledger {
        &self.wire.ledger
    }

    /// The plan that both sides follow.
    #[must_use]
    pub const fn plan(&self) -> &Arc<PublicPlan> {
        &self.plan
    }

    /// What the client chose for this session: what [`crate::cost::Cost::with_options`] needs to know.
    #[must_use]
    pub const fn options(&self) -> SessionOptions {
        self.layout.options()
    }

    fn unless_over(&self) -> Result<()> {
        if self.over {
            return Err(Error::Misuse(
                "this session ended with an error; start a new one".into(),
            ));
        }
        Ok(())
    }

    /// Ends the session for good after any error in the middle of a step: both parties' counters and streams have moved, and a
    /// step begun anew would not meet the other half. Only the server's word that it has no such kept inference, or keeps none,
    /// comes at a step's end.
    fn note<T>(&mut self, result: Result<T>) -> Result<T> {
        self.over |= matches!(&result, Err(why) if !matches!(why, Error::Kept(_)));
        result
    }

    /// Tells the server that this is the end.
    ///
    /// # Errors
    /// [`crate::Error::Channel`] when the server is gone already.
    pub fn close(mut self) -> Result<Ledger> {
        let (tag, payload) = Request::End.encode();
        self.wire.send(tag, &payload)?;
        Ok(self.wire.ledger)
    }
}
