//! Passes over a network that keep its function and make it cheaper to run privately.

mod affine;
mod input;
mod pools;
mod sink;
mod tidy;

use pi_model::ModelError;

use super::network::Network;

pub use pools::count as count_relus;

/// Options of the passes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Choice {
    /// Max pools become average pools.
    pub average: bool,
    /// The user said how pixels are normalised.
    pub normalised: bool,
}

/// Runs all passes and says what they did. `output` is the operation that is the result.
///
/// # Errors
/// [`ModelError::Op`] naming an operation that does not fit.
pub fn run(network: &mut Network, output: &str, choice: Choice) -> Result<Vec<String>, ModelError> {
    let mut notes = vec![];
    // The last operation must stay under its name, whatever is folded into it.
    let mut output = output.to_owned();
    network.prune(&output);
    input::fold(network, choice.normalised, &mut notes);
    tidy::pads(network, &mut notes)?;
    affine::fold(network, &mut notes)?;
    pools::run(network, choice.average, &mut notes)?;
    tidy::channels(network, &mut notes);
    if let Some(last) = network.spec.ops.last() {
        last.name().clone_into(&mut output);
    }
    network.prune(&output);
    Ok(notes)
}
