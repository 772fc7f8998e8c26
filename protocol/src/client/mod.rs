//! The client's driver: set-up, offline batches, online inferences. The only client code that touches a channel.
//!
//! What the client learns: its own predictions, and the public plan. What it keeps for one
//! prepared inference: tables, its active labels, its truncated shares, u_c and the masks of its answers.

mod kept;
mod masks;
mod offline;
mod online;
mod setup;

pub use kept::kept_bytes;

use std::sync::Arc;

use pi_model::plan::PublicPlan;
use zeroize::Zeroizing;

use crate::block::{ActiveLabel, Block};
use crate::channel::Channel;
use crate::error::{Error, Result};
use crate::he;
use crate::kept::ItemId;
use crate::layout::Layout;
use crate::ledger::Ledger;
use crate::mux;
use crate::prg::Seed;
use crate::ring::Ring;
use crate::session::{Nonce, Request, SessionOptions};
use crate::share::{Client, Share};
use crate::wire::Wire;

/// A client's session with a server, after set-up.
pub struct ClientSession<C: Channel> {
    pub(crate) wire: Wire<C>,
    plan: Arc<PublicPlan>,
    layout: Arc<Layout>,
    input_ring: Ring,
    seed: Seed,
    client_nonce: Nonce,
    server_nonce: Nonce,
    /// One secret key for each source.
    keys: Vec<he::SecretKey>,
    /// The extension in which the client is the sender; none if nothing is multiplexed.
    mux: Option<mux::ClientMux>,
    /// How OTs are made and circuits garbled.
    options: SessionOptions,
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

/// One-time material for one inference: consumed by [`ClientSession::infer`], never copied.
pub struct Prepared {
    origin: Origin,
    /// Of the session that prepared it.
    options: SessionOptions,
    batch: u32,
    index: usize,
    start_key: Block,
    input_mask: Share<Client>,
    layers: Vec<LayerMaterial>,
    output: Share<Client>,
    argmax: Option<ArgmaxMaterial>,
}

/// Where the server has its half.
enum Origin {
    /// In the session with this nonce of ours.
    Session(Nonce),
    /// In its store, under this name, for any session with this plan.
    Kept { id: ItemId, plan_hash: [u8; 32] },
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Prepared(batch {}, inference {})",
            self.batch, self.index
        )
    }
}

/// Material for the surviving ReLUs of one layer.
struct LayerMaterial {
    tables: Vec<u8>,
    labels: Zeroizing<Vec<ActiveLabel>>,
    /// y'_c at the surviving positions.
    truncated: Share<Client>,
    /// u_c.
    products: Share<Client>,
    /// r of the next tensor at the surviving positions.
    next_mask: Share<Client>,
}

struct ArgmaxMaterial {
    tables: Vec<u8>,
    labels: Zeroizing<Vec<ActiveLabel>>,
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
        self.options
    }

    fn unless_over(&self) -> Result<()> {
        if self.over {
            return Err(Error::Misuse(
                "this session ended with an error; start a new one".into(),
            ));
        }
        Ok(())
    }

    /// Ends the session for good if `result` is an error of the peer or the channel.
    fn note<T>(&mut self, result: Result<T>) -> Result<T> {
        self.over |= matches!(result, Err(Error::Peer { .. } | Error::Channel(_)));
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
