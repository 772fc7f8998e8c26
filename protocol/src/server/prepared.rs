//! One-time material for one inference, as the server holds it, and how much memory that takes.

use std::sync::Arc;

use pi_model::plan::Plan;

use crate::argmax::{self, Argmax};
use crate::block::{Block, Delta};
use crate::error::Result;
use crate::layout::Layout;
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
    /// s of each layer's accumulator, skip connections left out (they are in the tensors).
    pub(crate) masks: Vec<ServerShare>,
    pub(crate) relus: relu::server::Material,
    pub(crate) argmax: Option<argmax::server::Material>,
}

/// Bytes that the server keeps for one prepared inference of `plan` in a session with these `options`, to budget its memory by.
///
/// # Errors
/// [`crate::Error::Plan`] when the plan cannot be laid out.
pub fn prepared_bytes(plan: &Plan, options: SessionOptions) -> Result<usize> {
    let layout = Layout::new(plan.public(), options)?;
    let layers = plan.public().graph().layers.iter();
    let values: usize = layers.map(|l| l.shape.n_values()).sum();
    // For each position a word of s, and one of y'_c - r_next where there is no ReLU.
    let shares = 8 * (2 * values).saturating_sub(layout.n_relus());
    let argmax = layout.argmax.as_ref().map_or(0, Argmax::n_labels);
    Ok(relu::server::Material::memory_bytes(&layout) + Block::BYTES * argmax + shares)
}
