//! What every message and every one-time value is bound to: the session's nonces, the batch, and the inference in it.
//!
//! Security: a mask, a label or a hash start that served two batches or two inferences would give away what it hides. So a step
//! of a batch takes its random streams from a [`Batch`], which puts the batch's number, and with public values the nonces of both
//! parties, into every name. What belongs to one source, response or inference adds its index (`ids`). Only what belongs to the
//! whole session is named without: nonces, keys, and the extension behind the multiplexer.

use rand_chacha::ChaCha20Rng;

use super::frame::Tag;
use super::step::Step;
use crate::block::Block;
use crate::error::Result;
use crate::hash::TweakBase;
use crate::prg::{self, Seed};

/// 32 bytes that are used once.
pub type Nonce = [u8; 32];

/// The nonces of a session, one of each party: what makes its public values differ from those of any other session.
#[derive(Clone, Copy)]
pub struct Nonces {
    /// Drawn by the client.
    pub client: Nonce,
    /// Drawn by the server.
    pub server: Nonce,
}

impl Nonces {
    /// A public value of this session that neither party chose alone.
    pub fn public_seed(&self, what: &str, ids: &[u64]) -> [u8; 32] {
        prg::public_seed(what, &self.client, &self.server, ids)
    }

    /// Where the hash of `what` starts: public, fixed by both nonces.
    pub fn hash_start(&self, what: &str, ids: &[u64]) -> Block {
        let seed = self.public_seed(what, ids);
        Block::from_le_bytes(*seed.first_chunk().unwrap_or(&[0; 16]))
    }
}

/// One batch of a session, as one party sees it: batch 0 is the set-up.
#[derive(Clone, Copy)]
pub struct Batch<'a> {
    /// Counted from 1; 0 for the set-up.
    pub number: u32,
    /// Of the session.
    pub nonces: Nonces,
    /// This party's secret seed of the session.
    pub seed: &'a Seed,
}

impl Batch<'_> {
    /// A message that belongs to the whole batch.
    pub const fn tag(&self, step: Step, layer: usize) -> Tag {
        self.item(0).tag(step, layer)
    }

    /// An inference of this batch.
    pub const fn item(&self, index: usize) -> Item {
        Item {
            batch: self.number,
            index,
        }
    }

    /// A public value of this batch that neither party chose alone; `ids` tell apart what has the same name.
    pub fn public_seed(&self, what: &str, ids: &[u64]) -> [u8; 32] {
        self.nonces.public_seed(what, &self.ids(ids))
    }

    /// Where the hash of `what` starts in this batch: public, fixed by both nonces.
    pub fn hash_start(&self, what: &str) -> Block {
        self.nonces.hash_start(what, &[self.number.into()])
    }

    /// The identity of one OT set-up, unique under the session's nonces.
    pub fn ot_session(&self, what: &str) -> [u8; 32] {
        self.public_seed(&format!("OT session of {what}"), &[])
    }

    /// This party's secret stream of this batch for one purpose.
    pub fn stream(&self, what: &str, ids: &[u64]) -> ChaCha20Rng {
        self.seed.stream(what, &self.ids(ids))
    }

    /// This party's secret seed of this batch for one purpose.
    pub fn derive(&self, what: &str) -> Seed {
        self.seed.derive(what, &[self.number.into()])
    }

    fn ids(&self, ids: &[u64]) -> Vec<u64> {
        let mut all = vec![self.number.into()];
        all.extend(ids);
        all
    }
}

/// One inference of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its batch.
    pub batch: u32,
    /// Its place in the batch.
    pub index: usize,
}

impl Item {
    /// A message of one layer of this inference.
    pub const fn tag(self, step: Step, layer: usize) -> Tag {
        Tag {
            step,
            layer: layer as u16,
            batch: self.batch,
            index: self.index as u16,
        }
    }

    /// What keeps the hashes of one layer of this inference apart from those of all others of its batch.
    ///
    /// # Errors
    /// [`crate::Error::Misuse`] for indices past any plan.
    pub fn tweak(self, layer: usize) -> Result<TweakBase> {
        TweakBase::new(self.index, layer)
    }
}
