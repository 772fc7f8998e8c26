//! The server's driver: set-up, offline batches, online inferences. The only server code that touches a channel.
//!
//! The server is the garbler, but for ReLUs in sessions where the client is (module `digits`). What it learns: nothing about
//! the input. What it keeps for one prepared inference: s, d, the zero-labels of its inputs, Delta, m, u_s, h_0 and h_1.

mod check;
mod digits;
mod garbling;
pub(crate) mod kept;
mod observer;
mod offline;
mod online;
mod setup;

pub use check::{check_plan, prepared_bytes};
pub use kept::kept_bytes;
pub use observer::Observer;

use std::collections::HashMap;
use std::sync::Arc;

use pi_model::plan::Plan;
use zeroize::Zeroizing;

use crate::block::{Delta, ZeroLabel};
use crate::channel::Channel;
use crate::error::{Error, Result};
use crate::he;
use crate::kept::Keeper;
use crate::layout::Layout;
use crate::ledger::{Ledger, Phase};
use crate::mux;
use crate::ot::softspoken::ReceiverSetup;
use crate::prg::Seed;
use crate::session::{Nonce, Request, SessionOptions};
use crate::share::{Server, Share};
use crate::wire::{Step, Wire};

/// Prepared inferences that one session may keep in memory unless told otherwise.
pub const DEFAULT_MAX_PREPARED: usize = 128;

/// A server's session with one client, after set-up.
pub struct ServerSession<C: Channel> {
    pub(crate) wire: Wire<C>,
    plan: Arc<Plan>,
    layout: Arc<Layout>,
    seed: Seed,
    client_nonce: Nonce,
    server_nonce: Nonce,
    /// The client's public keys, one for each source.
    keys: Vec<he::PublicKey>,
    /// The extension in which the server is the receiver; none if nothing is multiplexed.
    mux: Option<mux::ServerMux>,
    /// If the client garbles: the base OTs of the next batch, begun.
    digit_setup: Option<ReceiverSetup>,
    /// How OTs are made and circuits garbled.
    options: SessionOptions,
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

/// One-time material for one inference. It leaves the session's store before the first online byte, and never returns.
struct Prepared {
    batch: u32,
    index: usize,
    /// It comes from the keeper, and the client waits to hear that it is there.
    kept: bool,
    delta: Arc<Delta>,
    /// s of each layer's accumulator, skip connections left out (they are in the tensors).
    masks: Vec<Share<Server>>,
    layers: Vec<LayerMaterial>,
    /// Material of the ReLUs, if the client garbled them.
    digits: Option<digits::Digits>,
    argmax: Option<ArgmaxMaterial>,
}

/// Material for the garbled argmax.
struct ArgmaxMaterial {
    /// Zero-labels of the server's inputs.
    labels: Zeroizing<Vec<ZeroLabel>>,
    /// Colours of the outputs' zero-labels: what turns colours into the class.
    decode: Vec<u8>,
}

/// Material for one layer that ends in a masked ReLU.
struct LayerMaterial {
    /// y'_c - r_next at the positions without a ReLU.
    identity: Share<Server>,
    /// m.
    choices: Zeroizing<Vec<u8>>,
    /// u_s.
    products: Share<Server>,
    /// Zero-labels of the server's inputs.
    input_labels: Zeroizing<Vec<ZeroLabel>>,
    /// h_0 and h_1.
    hashes: [Zeroizing<Vec<u64>>; 2],
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
                    match self.take_kept(&id, batch, index) {
                        Err(why) => self.miss(why, batch, index)?,
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

    /// What the client chose for this session.
    #[must_use]
    pub const fn options(&self) -> SessionOptions {
        self.options
    }

    /// Prepared inferences that wait for their query.
    #[must_use]
    pub fn n_prepared(&self) -> usize {
        self.prepared.len()
    }
}
