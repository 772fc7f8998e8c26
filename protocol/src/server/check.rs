//! What can be wrong with a plan and its weights together, found when the model is loaded and not at a client's query.

use pi_model::plan::Plan;

use crate::error::{Error, Result};
use crate::gc::digits::{n_digits, n_rows};
use crate::he::{ErrorBound, check_products};
use crate::layout::{Argmax, Layout, ReluLayer};
use crate::session::SessionOptions;
use crate::sizes;

/// log2 of the largest probability, for each logit, that the opened layer has an error at all: such an error would depend
/// on the weights.
const MAX_OPENED_FAILURE_LOG2: f64 = -24.0;

/// Checks that every product under encryption is exact and that the opened layer has no error.
///
/// # Errors
/// [`Error::Plan`] naming the operation.
pub fn check_plan(plan: &Plan) -> Result<()> {
    let public = plan.public();
    Layout::new(public)?;
    let last = public.graph().layers.len() - 1;
    for response in public.responses() {
        let layer = response.layer;
        let node = &public.graph().layers[layer].convs[response.convs[0]];
        let params = sizes::rlwe(public.sources()[response.source].ring)?;
        let packing = public.packing(response);
        let weights = plan.weights(response);
        for part in 0..packing.n_filter_polys() {
            let (sum, squares) = packing.norms(part, &weights);
            check_products(sum)
                .map_err(|e| Error::Plan(format!("operation '{}': {e}", node.op)))?;
            let failure = ErrorBound::new(&params, squares).nonzero_log2();
            if layer == last && failure > MAX_OPENED_FAILURE_LOG2 {
                return Err(Error::Plan(format!(
                    "operation '{}': its output has an error with probability 2^{failure:.0}, more than 2^{MAX_OPENED_FAILURE_LOG2}, which could tell of the weights: use 8-bit weights or fewer accumulator bits",
                    node.op
                )));
            }
        }
    }
    Ok(())
}

/// Bytes that the server keeps for one prepared inference of `plan` in a session with these `options`, to budget its memory by.
///
/// # Errors
/// [`Error::Plan`] when the plan cannot be laid out.
pub fn prepared_bytes(plan: &Plan, options: SessionOptions) -> Result<usize> {
    let layout = Layout::new(plan.public())?;
    let values: usize = plan
        .public()
        .graph()
        .layers
        .iter()
        .map(|l| l.shape.n_values())
        .sum();
    let shares = 8 * (2 * values).saturating_sub(layout.n_relus());
    if layout.client_garbles(options.garbling) {
        // Tables, labels of digits and of the top bit, five words for each ReLU, one label for each bit of an argmax.
        let of = |relu: &ReluLayer| {
            let l = relu.sign_bits;
            relu.n_relus() * (16 * (n_rows(l) + n_digits(l) + 1) + 5 * 8)
        };
        let digits: usize = layout.relu_layers.iter().map(of).sum();
        let argmax = layout.argmax.as_ref().map_or(0, Argmax::n_labels);
        return Ok(digits + 16 * argmax + shares);
    }
    // Labels of 16 bytes; for each ReLU m, u_s, h_0, h_1; for each position s, and d where there is no ReLU.
    Ok(16 * layout.n_labels() + layout.n_relus() * (1 + 3 * 8) + shares)
}
