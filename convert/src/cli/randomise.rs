//! `pi-convert randomise`: an integer model with random weights, to measure what such a network costs.

use std::path::PathBuf;

use clap::Args;
use pi_convert::quantise::ImageSet;
use pi_convert::randomise::{inputs, randomise};
use pi_model::FloatModel;

use super::quantise::{Numbers, calibrated};

/// Inputs that the ranges are calibrated on.
const N_INPUTS: usize = 2;

/// Arguments of the command.
#[derive(Args)]
pub struct Randomise {
    /// Folder of the float model, whose operations are taken and whose weights are not.
    #[arg(value_name = "DIR")]
    model: PathBuf,
    /// Folder of the integer model, which is made.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// ReLUs to keep, spread evenly over the layers; all of them by default.
    #[arg(long, value_name = "N")]
    relus: Option<usize>,
    /// Seed of all that is random.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl Randomise {
    /// Runs the command.
    ///
    /// # Errors
    /// A float model that cannot be read, and why it cannot be served.
    pub fn run(self) -> anyhow::Result<()> {
        let model = FloatModel::load(&self.model)?;
        let made = randomise(&model, self.relus.unwrap_or(usize::MAX), self.seed)?;
        let inputs = inputs(&made.spec.input, N_INPUTS, self.seed);
        let inputs = ImageSet::of_tensors(inputs, &made.spec.input)?;
        calibrated(&made, inputs, &self.out, &Numbers::default())
    }
}
