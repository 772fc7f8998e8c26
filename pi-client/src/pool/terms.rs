//! What all threads of a client know.

use std::sync::Arc;

use pi_protocol::session::SessionOptions;

use crate::blocking;
use crate::connect::Description;
use crate::kept::Kept;
use crate::observer::Observer;
use crate::retry::Retries;
use crate::session::DEFAULT_BATCH;

pub(crate) struct Terms {
    pub(crate) client: Arc<blocking::Client>,
    pub(crate) description: Description,
    pub(crate) options: SessionOptions,
    pub(crate) batch: Option<usize>,
    pub(crate) keep_prepared: usize,
    pub(crate) retries: Retries,
    pub(crate) kept: Kept,
    pub(crate) observer: Arc<dyn Observer>,
}

impl Terms {
    /// How many are prepared together where `n` are wanted: what the user says, or batches of equal size, so that little is prepared
    /// in vain.
    pub(super) fn batch_for(&self, n: usize) -> usize {
        let largest = self.description.largest_batch(self.options);
        let most = largest.clamp(1, DEFAULT_BATCH);
        let n = n.max(1);
        self.batch.unwrap_or_else(|| n.div_ceil(n.div_ceil(most)))
    }

    /// Whether kept inferences that were prepared in batches of `batch` may be used.
    pub(super) fn fits(&self, batch: usize) -> bool {
        batch <= self.description.max_batch && self.batch.is_none_or(|asked| asked == batch)
    }
}
