//! One-time material for one inference, as the server holds it, and how much memory that takes.

use std::sync::Arc;

use pi_model::plan::Plan;

use crate::argmax::{self, Argmax};
use crate::block::{Block, Delta};
use crate::error::Result;
use crate::layout::Layout;
use crate::ot::mode::OtMode;
use crate::relu;
use crate::ring::ServerShare;
use crate::session::options::SessionOptions;
use crate::wire::Item;

/// One-time material for one inference. It leaves the session's store before the first online byte, and never returns.
pub(crate) struct Prepared {
    pub(crate) item: Item,
    /// It comes from the keeper, and the client waits to hear that it is there.
    pub(crate) from_keeper: bool,
    /// The correlation of the batch's labels.
    pub(crate) delta: Arc<Delta>,
    /// s of each layer's accumulator, terms left out (they are in the tensors).
    pub(crate) masks: Vec<ServerShare>,
    pub(crate) relus: relu::server::Material,
    pub(crate) argmax: Option<argmax::server::Material>,
}

/// What a session takes of the server's memory, in bytes, to budget it by. What the channel queues comes on top.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionMemory {
    /// Of each prepared inference that waits.
    pub prepared: usize,
    /// And of each inference of a batch while that is prepared, beyond what stays of it.
    pub in_work: usize,
}

/// Bytes of each OT of a batch in work, fitted to the resident memory of a few servers: 16 of its block, which is held until the batch is done; 1 of a choice or of a derandomisation bit, 4 of
/// the message that extends it, and 7 for what lies beside the blocks while columns are made rows of, and for holes between them.
const BYTES_OF_OT_IN_WORK: usize = 28;
/// The same for silent OTs, by counting and not yet measured: 16 of its block, 32 of the vector that is compressed to it, and 16 for the trees and taps on the way.
const BYTES_OF_SILENT_OT_IN_WORK: usize = 64;

impl SessionMemory {
    /// Of sessions of `plan` with these `options`.
    ///
    /// # Errors
    /// [`crate::Error::Plan`] when the plan cannot be laid out.
    pub fn of(plan: &Plan, options: SessionOptions) -> Result<Self> {
        let layout = Layout::new(plan.public(), options)?;
        let layers = plan.public().graph().layers.iter();
        let values: usize = layers.map(|l| l.shape.n_values()).sum();
        // For each position a word of s, and one of y'_c - r_next where there is no ReLU.
        let shares = 8 * (2 * values).saturating_sub(layout.n_relus());
        let argmax = layout.argmax.as_ref().map_or(0, Argmax::n_labels);
        let relus = relu::server::Material::memory_bytes(&layout);
        let n_ots = layout.ots().n_to_client() + layout.ots().n_to_server();
        Ok(Self {
            prepared: relus + Block::BYTES * argmax + shares,
            in_work: n_ots
                * match options.ot {
                    OtMode::SoftSpoken => BYTES_OF_OT_IN_WORK,
                    OtMode::Silent => BYTES_OF_SILENT_OT_IN_WORK,
                },
        })
    }
}
