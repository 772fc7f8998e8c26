//! What can be wrong with a plan and its weights together, found when the model is loaded and not at a client's query.

use pi_model::plan::Plan;

use super::rlwe;
use crate::error::{Error, Result};
use crate::he::{ErrorBound, check_products};
use crate::layout::Layout;
use crate::session::options::SessionOptions;

/// log2 of the largest probability, for each logit, that the opened layer has an error at all: such an error would depend
/// on the weights.
const MAX_OPENED_FAILURE_LOG2: f64 = -24.0;

/// Checks that every product under encryption is exact and that the opened layer has no error.
///
/// # Errors
/// [`Error::Plan`] naming the operation.
pub fn check_plan(plan: &Plan) -> Result<()> {
    let public = plan.public();
    Layout::new(public, SessionOptions::default())?;
    let last = public.graph().layers.len() - 1;
    // A logit may be the sum of several responses, of bands for instance.
    let of_output = public.responses().iter().filter(|r| r.layer == last);
    let n_summed = (of_output.count() as f64).max(1.0).log2();
    for response in public.responses() {
        let layer = response.layer;
        let node = &public.graph().layers[layer].convs[response.convs[0]];
        let params = rlwe(public.sources()[response.source].ring)?;
        let packing = public.packing(response);
        let weights = plan.weights(response);
        for part in 0..packing.n_filter_polys() {
            let (sum, squares) = packing.norms(part, &weights);
            check_products(sum)
                .map_err(|e| Error::Plan(format!("operation '{}': {e}", node.op)))?;
            if layer != last {
                continue;
            }
            let largest_sum = packing.largest_sum(part, &weights);
            let failure = ErrorBound::new(&params, squares, largest_sum).nonzero_log2() + n_summed;
            if failure > MAX_OPENED_FAILURE_LOG2 {
                return Err(Error::Plan(format!(
                    "operation '{}': its output has an error with probability 2^{failure:.0}, more than 2^{MAX_OPENED_FAILURE_LOG2}, which could tell of the weights: use 8-bit weights or fewer accumulator bits",
                    node.op
                )));
            }
        }
    }
    Ok(())
}
